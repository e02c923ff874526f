"""How fast are elementwise functions and losses beside NumPy, PyTorch, and the processor's limit?

Elementary functions and activations of 1e5 elements; binary and softmax cross-entropy, the loss and its gradient. Every
time is that of a whole call in Python, with the arrays that it returns. Where NumPy has no such function, it computes
the usual formula, with SciPy's erf; PyTorch's gradients are those of torch.autograd.grad.

    python -m benchmarks.activations            the tables: one thread, and as many as there are processors
    python -m benchmarks.activations --quick    ... in less than a minute
    python -m benchmarks.activations --json --plot    ... also written to benchmarks/results

`benchmarks.interleaved` tells how it is measured; its numbers of rounds, threads and dtypes can be chosen (`--help`).
"Of peak" is the part of the bytes, read and written, that the processor could have copied in the time
(`benchmarks.peak`).
Peers come with `pip install -e '.[bench]'`; one that is missing is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.interleaved import LIBRARIES, Case, run
from benchmarks.report import Row

ELEMENTS = 100_000
COPIES = "copies(dtype)"

# By name: the kind of argument, the aim if there is one, and NumPy's formula where it has no such function.
FUNCTIONS: dict[str, tuple[str, float | None, str]] = {
    "exp": ("normal", 1.2, ""),
    "tanh": ("normal", 1.2, ""),
    "sigmoid": ("normal", 1.2, "1 / (1 + exp(-x))"),
    "softplus": ("normal", 1.2, "log1p(exp(-abs(x))) + maximum(x, 0)"),
    "erf": ("normal", 1.2, ""),
    "gelu": ("normal", 1.2, "0.5 * x * (1 + erf(x * 0.7071067811865476))"),
    "log": ("positive", 0.9, ""),
    "log1p": ("positive", None, ""),
    "expm1": ("normal", None, ""),
    "sin": ("normal", None, ""),
    "cos": ("normal", None, ""),
    "silu": ("normal", None, "x / (1 + exp(-x))"),
}
TORCH_ONLY = ("PyTorch",)


def function(name: str, dtype: str) -> Case:
    """An elementwise function of 1e5 elements."""
    kind, aim, formula = FUNCTIONS[name]
    ours = f"{name}(x)"
    statements = {"minigrad": ours, "NumPy": formula or ours, "PyTorch": ours, "peak": COPIES}
    return Case(name, {"x": (kind, (ELEMENTS,))}, statements, 2.0 * ELEMENTS * np.dtype(dtype).itemsize, aim)


def binary_cross_entropy(dtype: str) -> Case:
    """The mean over 128×784 logits x and targets t, and its gradient by x."""
    statements = {
        "minigrad": "bce_with_logits_and_slope(x, t, 1 / 100352)",
        "NumPy": "(mean(maximum(x, 0) - x * t + log1p(exp(-abs(x)))), (1 / (1 + exp(-x)) - t) / x.size)",
        "PyTorch": "(y := functional.binary_cross_entropy_with_logits(x, t), *grad(y, x))",
        "peak": COPIES,
    }
    shape = (128, 784)
    arrays = {"x": ("normal", shape), "t": ("uniform", shape)}
    work = 3.0 * 128 * 784 * np.dtype(dtype).itemsize
    return Case("bce with logits, and gradient", arrays, statements, work, 4.0, TORCH_ONLY, ("x",))


def cross_entropy(dtype: str) -> Case:
    """The mean over 128 samples of 10 classes, logits x and labels t, and its gradient by x."""
    statements = {
        "minigrad": "cross_entropy_and_slope(x, t, 1 / 128)",
        "NumPy": (
            "(mean(log(total := sum(e := exp(z := x - max(x, 1, keepdims=True)), 1)) - z[i := arange(128), t]), "
            "subtract(e / total[:, None], t[:, None] == arange(10), dtype=dtype) / 128)"
        ),
        "PyTorch": "(y := functional.cross_entropy(x, t), *grad(y, x))",
        "peak": COPIES,
    }
    arrays = {"x": ("normal", (128, 10)), "t": ("labels", (128, 10))}
    work = 128.0 * (2 * 10 * np.dtype(dtype).itemsize + 8)
    return Case("softmax cross-entropy, and gradient", arrays, statements, work, 10.0, TORCH_ONLY, ("x",))


def cases(dtype: str) -> Iterator[Case]:
    """The rows of the table of a dtype."""
    for name in FUNCTIONS:
        yield function(name, dtype)
    yield binary_cross_entropy(dtype)
    yield cross_entropy(dtype)


def speeds(axes: Any, rows: list[Row]) -> None:
    """Draw the speed of each function in elements per nanosecond."""
    rows = [row for row in rows if row["case"] in FUNCTIONS]
    for i, library in enumerate(LIBRARIES):
        bars = {j: ELEMENTS / row["us"][library] / 1e3 for j, row in enumerate(rows) if library in row["us"]}
        axes.bar([j + 0.27 * (i - 1) for j in bars], bars.values(), width=0.27, label=library)
    axes.set_xticks(range(len(rows)), [row["case"] for row in rows], rotation=60)
    axes.set_ylabel("elements / ns")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    run("activations", __doc__, cases, "G/s", speeds, argv)


if __name__ == "__main__":
    main()
