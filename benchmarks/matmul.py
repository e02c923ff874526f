"""How fast are matrix products beside OpenBLAS, PyTorch, and the processor's limit?

Square products, those of a layer of 784 to 128 neurons for 128 samples and of its backward pass, and whole layers:
product, bias and activation. NumPy's are OpenBLAS's. Every time is that of a whole call in Python, with the array that
it returns; NumPy and PyTorch add the bias and apply the activation in place, which is their fastest way.

    python -m benchmarks.matmul            the tables: one thread, and as many as there are processors
    python -m benchmarks.matmul --quick    ... in less than a minute, without what is large
    python -m benchmarks.matmul --json --plot    ... also written to benchmarks/results

`benchmarks.interleaved` tells how it is measured; its numbers of rounds, threads and dtypes can be chosen (`--help`).
"Of peak" is the part of the fused multiply-adds that the processor could have done in the time (`benchmarks.peak`).
Peers come with `pip install -e '.[bench]'`; one that is missing is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.interleaved import LIBRARIES, Case, run
from benchmarks.report import Row

SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
LARGE = 1024  # from here on --quick leaves them out
PEAK = "multiply_adds(dtype)"


def square(n: int, dtype: str) -> Case:
    """n×n by n×n."""
    aim = 1.6 if n <= 16 else {"float32": 1.4, "float64": 1.3}[dtype] if n == 32 else 1.05 if n <= 256 else 1.0
    return product(f"n = {n}", ("normal", (n, n)), ("normal", (n, n)), 2.0 * n**3, aim, large=n >= LARGE)


def product(name: str, a: Any, b: Any, work: float, aim: float, large: bool = False) -> Case:
    """a·b, each given as its kind and the shape that it has in memory."""
    statements = dict.fromkeys(("minigrad", "NumPy", "PyTorch"), "matmul(a, b)") | {"peak": PEAK}
    return Case(name, {"a": a, "b": b}, statements, work, aim, large=large)


def layer(m: int, k: int, n: int, activation: str) -> Case:
    """x·w + b and an activation, x of m×k and w of k×n."""
    numpy = "add(y := matmul(x, w), b, y)"
    statements = {
        "minigrad": f"linear(x, w, b, {activation!r})",
        "NumPy": {
            "tanh": f"tanh({numpy}, y)",
            "sigmoid": f"reciprocal(add(exp(negative({numpy}, y), y), 1, y), y)",
        }[activation],
        "PyTorch": f"{activation}_(addmm(b, x, w))",
        "peak": PEAK,
    }
    arrays = {"x": ("normal", (m, k)), "w": ("weights", (k, n)), "b": ("normal", (n,))}
    return Case(f"{activation}({m}×{k} · {k}×{n} + b)", arrays, statements, 2.0 * m * k * n, 1.15)


def cases(dtype: str) -> Iterator[Case]:
    """The rows of the table of a dtype."""
    for n in SIZES:
        yield square(n, dtype)
    flop = 2.0 * 128 * 784 * 128
    yield product("128×784 · 784×128", ("normal", (128, 784)), ("normal", (784, 128)), flop, 1.05)
    yield product("(128×784)ᵀ · 128×128", ("transposed", (128, 784)), ("normal", (128, 128)), flop, 1.05)
    yield product("128×128 · (784×128)ᵀ", ("normal", (128, 128)), ("transposed", (784, 128)), flop, 1.05)
    yield product("128×128 · 128×784", ("normal", (128, 128)), ("normal", (128, 784)), flop, 1.05)
    for activation in ("tanh", "sigmoid"):
        yield layer(128, 784, 128, activation)
        yield layer(128, 128, 784, activation)


def speeds(axes: Any, rows: list[Row]) -> None:
    """Draw the speed of square products by their size."""
    squares = {int(row["case"].removeprefix("n = ")): row for row in rows if row["case"].startswith("n = ")}
    for library in LIBRARIES:
        points = {n: 2e-3 * n**3 / row["us"][library] for n, row in squares.items() if library in row["us"]}
        axes.plot(points.keys(), points.values(), "o-", label=library)
    if limits := [row["giga_per_second"] / row["of_peak"] for row in rows if "of_peak" in row]:
        axes.axhline(limits[0], color="gray", linestyle="--", label="measured peak")
    axes.set(xscale="log", yscale="log", xlabel="n", ylabel="GFLOP/s")
    axes.set_xticks(list(squares), [str(n) for n in squares])
    axes.minorticks_off()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    run("matmul", __doc__, cases, "GFLOP/s", speeds, argv)


if __name__ == "__main__":
    main()
