"""Losses: elementwise ones, and cross-entropy along rows; for the loss, its gradient, or both in one pass.

The slope of a loss is never the difference of a probability and a target that may nearly equal it: in binary
cross-entropy both classes have their own term, in cross-entropy the label's entry is minus the sum of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit
from numba.extending import intrinsic

from minigrad.kernels.code.elementwise import mapped
from minigrad.kernels.code.reductions import CHAIN, added, corrected, exp_run, loaded, max_of, put, sum_of
from minigrad.kernels.native import Source
from minigrad.kernels.simd import WIDTH, V, absolute, larger, select
from minigrad.kernels.simd_math import SINGLE, exp, expm1, format_of, log1p, polynomial
from minigrad.kernels.vectors import (
    compiled,
    filled,
    keep_some,
    lanes_of,
    load,
    load_apart,
    store,
    store_apart,
    total,
    where,
)

INF, NAN = float("inf"), float("nan")
FEW = 32  # columns, up to which rows are done side by side: from some 40 on vectors along the row are faster

# log(1 + e)/e for 0 ≤ e ≤ 1, in float32 and float64: Chebyshev fits like those of `simd_math`, errors 5e-9 and 1e-17.
# They need no division, which takes as long as ten multiplications.
LOG1P_SINGLE = (
    -0.00317605701843196, 0.019542527261014103, -0.05637361283010733, 0.10543623795419527, -0.15269667074363288,
    0.19663274257204805, -0.24951616262872076, 0.3332971049891775, -0.49999892648063277, 0.999999994656292
)  # fmt: skip
LOG1P_DOUBLE = (
    2.4437973948580947e-05, -0.0002827421139374107, 0.0015535244034334333, -0.0054217339910016095,
    0.013598778090617254, -0.026398779480743217, 0.041925709853904154, -0.05718978534193906, 0.07015296236526472,
    -0.08070954578430206, 0.09009095815198633, -0.09979768096586568, 0.11107211585299538, -0.12499427063514382,
    0.14285651975275926, -0.16666661848248537, 0.19999999749856523, -0.24999999992009522, 0.33333333333197523,
    -0.4999999999999908, 1.0
)  # fmt: skip


def log1p_of_at_most_one(e: V) -> V:
    """log(1 + e) for 0 ≤ e ≤ 1."""
    return e * polynomial(LOG1P_SINGLE if format_of(e) is SINGLE else LOG1P_DOUBLE, e)


def bce_with_logits(z: V, t: V) -> V:
    """softplus(z) - z·t; the difference comes first, since softplus(z) alone would lose the digits of log1p."""
    return larger(z, 0.0) - z * t + log1p_of_at_most_one(exp(-absolute(z)))


def bce_slope(z: V, t: V) -> V:
    """(1 - t)·σ(z) - t·σ(-z)."""
    e = exp(-absolute(z))
    positive = z > 0.0
    return ((1.0 - t) * select(positive, 1.0, e) - t * select(positive, e, 1.0)) / (e + 1.0)


def bce_with_logits_vjp(g: V, z: V, t: V) -> V:
    return g * bce_slope(z, t)


def gaussian_kl(m: V, v: V) -> V:
    """(m² + eᵛ - 1 - v)/2, where eᵛ - 1 - v does not cancel."""
    near = v * v * polynomial(format_of(v).exp, v)
    return (m * m + select(absolute(v) < 0.34, near, expm1(v) - v)) * 0.5


loss_of, slope_of = compiled(bce_with_logits), compiled(bce_slope)


def bce_and_slope(z: Any, t: Any, slope: Any, sums: Any, scale: float, n: int, per_chunk: int, chunk: int) -> None:
    """sums[chunk] = the sum of the chunk's losses, slope = scale·(its derivative)."""
    width = lanes_of(z)
    s, c = filled(z, 0.0), filled(z, 0.0)
    end = min((chunk + 1) * per_chunk, n)
    for start in range(chunk * per_chunk, end, CHAIN * width):
        part = filled(z, 0.0)
        for i in range(start, min(start + CHAIN * width, end), width):
            count = end - i
            x, y = loaded(z, i, count), loaded(t, i, count)
            part = part + keep_some(loss_of(x, y), count, 0.0)
            put(slope, i, slope_of(x, y) * scale, count)
        s, c = added(s, c, part)
    sums[chunk] = total(corrected(s, c))


exp_of, log1p_of, larger_of = compiled(exp), compiled(log1p), compiled(larger)


@intrinsic
def few_vectors(context: Any, like: Any) -> Any:
    """Memory for FEW + 1 vectors, which lasts as long as the call of the kernel."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.IntType(8), (FEW + 1) * WIDTH))
        memory.align = WIDTH
        return builder.bitcast(memory, args[0].type)

    return like(like), lower


# The next two functions do `count` rows: the slope is scale·(softmax - one at the label). They return by how much the
# sum of exp(z - largest) exceeds 1, and z[label] - largest. A label out of range gives NaN everywhere.


@njit(error_model="numpy", forceinline=True)
def side_by_side(z: Any, row: int, count: int, n: int, labels: Any, slope: Any, scale: Any, memory: Any) -> Any:
    """All rows at once, one in each lane: nothing is added up across lanes, and nothing waits for the row before."""
    width = lanes_of(z)
    for r in range(count):
        memory[n * width + r] = labels[row + r]
    label, shift = load(memory, n * width), filled(z, -INF)
    for k in range(n):
        x = load_apart(z, row * n + k, n, count)
        store(memory, k * width, x)
        shift = larger_of(shift, x)  # a NaN that this misses comes out of exp
    others, of_label, picked = filled(z, 0.0), filled(z, NAN), filled(z, NAN)
    for k in range(n):
        x = load(memory, k * width) - shift
        e = exp_of(x)
        store(memory, k * width, e)
        others = others + where(label == k, 0.0, e)
        of_label, picked = where(label == k, e, of_label), where(label == k, x, picked)
    factor = scale / (others + of_label)
    for k in range(n):
        y = where(label == k, -others, load(memory, k * width)) * factor
        store_apart(slope, row * n + k, n, y, count)
    return others + (of_label - 1.0), picked


@njit(error_model="numpy", forceinline=True)
def one_by_one(z: Any, row: int, count: int, n: int, labels: Any, slope: Any, scale: Any, memory: Any) -> Any:
    """One row after the other, by vectors along it."""
    width = lanes_of(z)
    store(memory, 2 * width, scale)
    for r in range(count):
        i, label = (row + r) * n, labels[row + r]
        if 0 <= label < n:
            shift = max_of(z, i, n)
            exp_run(z, slope, i, n, shift)
            of_label = slope[i + label]
            slope[i + label] = 0.0
            others = sum_of(slope, i, n)
            factor = memory[2 * width + r] / (others + of_label)
            for j in range(i, i + n, width):
                put(slope, j, loaded(slope, j, i + n - j) * factor, i + n - j)
            slope[i + label] = -others * factor
            memory[r], memory[width + r] = others + (of_label - 1.0), z[i + label] - shift
        else:
            for j in range(i, i + n):
                slope[j] = NAN
            memory[r] = memory[width + r] = NAN
    return load(memory, 0), load(memory, width)


def cross_entropy(
    z: Any,
    labels: Any,
    losses: Any,
    sums: Any,
    slope: Any,
    scale: float,
    outer: int,
    n: int,
    per_chunk: int,
    chunk: int,
) -> None:
    """The loss of each row; slope = scale·(its derivative); sums[outer + chunk] = the sum of the chunk's losses."""
    memory, scales = few_vectors(z), filled(z, scale)
    begin, end = chunk * per_chunk, min((chunk + 1) * per_chunk, outer)
    for row in range(begin, end, lanes_of(z)):
        count = min(end - row, lanes_of(z))
        if n <= FEW:
            excess, picked = side_by_side(z, row, count, n, labels, slope, scales, memory)
        else:
            excess, picked = one_by_one(z, row, count, n, labels, slope, scales, memory)
        put(losses, row, log1p_of(excess) - picked, count)
    sums[outer + chunk] = sum_of(losses, begin, end - begin)


def cross_entropy_vjp(g: Any, z: Any, labels: Any, z_bar: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    """z̄ = ȳ·(softmax - one at the label)."""
    memory = few_vectors(z)
    begin, end = chunk * per_chunk, min((chunk + 1) * per_chunk, outer)
    for row in range(begin, end, lanes_of(z)):
        count = min(end - row, lanes_of(z))
        if n <= FEW:
            side_by_side(z, row, count, n, labels, z_bar, loaded(g, row, count), memory)
        else:
            one_by_one(z, row, count, n, labels, z_bar, loaded(g, row, count), memory)


SOURCES = {
    "bce_with_logits": mapped(bce_with_logits, arrays=2),
    "bce_with_logits_vjp": mapped(bce_with_logits_vjp, arrays=3),
    "gaussian_kl": mapped(gaussian_kl, arrays=2),
    "bce_and_slope": Source(bce_and_slope, "real* real* real* real* real int int"),
    "cross_entropy": Source(cross_entropy, "real* int64* real* real* real* real int int int"),
    "cross_entropy_vjp": Source(cross_entropy_vjp, "real* real* int64* real* int int int"),
}
