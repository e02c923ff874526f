"""How fast are convolutions and pooling beside PyTorch, and the processor's limit?

Layers of 64 images: a first one of a single channel, those of a small classifier, larger and padded ones, one with a
stride; forward alone, and forward with the gradients of both operands. Then pooling. Every time is that of a whole call
in Python, with the arrays that it returns; PyTorch's gradients are those of torch.autograd.grad. NumPy has neither.

    python -m benchmarks.convolution            the tables: one thread, and as many as there are processors
    python -m benchmarks.convolution --quick    ... in less than a minute, without what is large
    python -m benchmarks.convolution --json --plot    ... also written to benchmarks/results

`benchmarks.interleaved` tells how it is measured; its numbers of rounds, threads and dtypes can be chosen (`--help`).
"Of peak" is the part of the multiply-adds that the processor could have done in the time, for pooling of the bytes that
it could have copied (`benchmarks.peak`); a convolution by way of fewer multiplications (Winograd's) could be above 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.interleaved import Case, run
from benchmarks.report import Row

IMAGES = 64
COPIES, MULTIPLY_ADDS = "copies(dtype)", "multiply_adds(dtype)"
TORCH_ONLY = ("PyTorch",)


@dataclass(frozen=True)
class Layer:
    """A convolution of square images of so many pixels, by a square window."""

    window: int
    channels: int
    filters: int
    pixels: int
    stride: int = 1
    padding: int = 0
    aim: float | None = None

    @property
    def name(self) -> str:
        more = f", stride {self.stride}" * (self.stride > 1) + ", padded" * (self.padding > 0)
        sizes = f"{self.channels} to {self.filters} channels, {self.pixels}×{self.pixels}"
        return f"{self.window}×{self.window}, {sizes}{more}"


LAYERS = (
    Layer(3, 1, 16, 28),
    Layer(3, 16, 32, 13, aim=1.0),
    Layer(5, 16, 32, 12),
    Layer(3, 32, 64, 28, stride=2, padding=1),
    Layer(3, 64, 64, 14, padding=1),
    Layer(1, 64, 64, 14),
)
LARGE = 3e8  # multiply-adds from which on --quick leaves a layer out


def convolution(layer: Layer, backward: bool) -> Case:
    """A layer forward, or also the gradients of both operands."""
    s, p, k = layer.stride, layer.padding, layer.window
    plain = f"stride=({s}, {s}), padding=({p}, {p}), dilation=(1, 1), groups=1"
    ours, torch = f"conv2d(x, w, {plain})", f"conv2d(x, w, stride={s}, padding={p})"
    if backward:
        size, shape = f"size=({k}, {k})", f"shape=({layer.pixels}, {layer.pixels})"
        ours = f"({ours}, conv2d_input(g, w, {shape}, {plain}), conv2d_weight(x, g, {size}, {plain}))"
        torch = f"(y := {torch}, *grad(y, (x, w), g))"
    left = (layer.pixels + 2 * p - k) // s + 1
    arrays = {
        "x": ("normal", (IMAGES, layer.channels, layer.pixels, layer.pixels)),
        "w": ("weights", (layer.filters, layer.channels, k, k)),
        "g": ("normal", (IMAGES, layer.filters, left, left)),
    }
    work = 2.0 * IMAGES * layer.filters * left**2 * layer.channels * k**2 * (3 if backward else 1)
    name = f"{layer.name}, {'forward and backward' if backward else 'forward'}"
    statements = {"minigrad": ours, "PyTorch": torch, "peak": MULTIPLY_ADDS}
    differentiated = ("x", "w") if backward else ()
    return Case(name, arrays, statements, work, layer.aim, TORCH_ONLY, differentiated, large=work > 2 * LARGE)


def pooling(kind: str, dtype: str) -> Case:
    """The largest or the mean of 2×2 pixels, of 32 channels of 26×26, forward and backward."""
    window = "size=(2, 2), stride=(2, 2), padding=(0, 0)"
    ours = {
        "max": f"(max_pool(x, {window}), max_pool_input(g, x, {window}))",
        "avg": f"(avg_pool(x, {window}), avg_unpool(g, shape=(26, 26), {window}))",
    }[kind]
    statements = {"minigrad": ours, "PyTorch": f"(y := {kind}_pool2d(x, 2), *grad(y, x, g))", "peak": COPIES}
    arrays = {"x": ("normal", (IMAGES, 32, 26, 26)), "g": ("normal", (IMAGES, 32, 13, 13))}
    read_and_written = {"max": 3.5, "avg": 2.5}[kind] * IMAGES * 32 * 26**2  # x, y, g and the gradient; x once more
    work = read_and_written * np.dtype(dtype).itemsize
    return Case(f"{kind} pooling 2×2, forward and backward", arrays, statements, work, None, TORCH_ONLY, ("x",))


def cases(dtype: str) -> Iterator[Case]:
    """The rows of the table of a dtype."""
    for layer in LAYERS:
        yield convolution(layer, backward=False)
        yield convolution(layer, backward=True)
    for kind in ("max", "avg"):
        yield pooling(kind, dtype)


def speeds(axes: Any, rows: list[Row]) -> None:
    """Draw how much of the processor's limit minigrad reaches."""
    there = {i: row["of_peak"] for i, row in enumerate(rows) if "of_peak" in row}
    axes.barh(list(there), there.values(), color="tab:blue", label="minigrad")
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="gray", linestyle="--", label="measured peak")
    axes.set_xlabel("part of the processor's limit")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    run("convolution", __doc__, cases, "G/s", speeds, argv)


if __name__ == "__main__":
    main()
