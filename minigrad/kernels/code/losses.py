"""Losses: elementwise ones, and cross-entropy along rows; for the loss, its gradient, or both in one pass.

The slope of a loss is never the difference of a probability and a target that may nearly equal it: in binary
cross-entropy both classes have their own term, in cross-entropy the label's entry is minus the sum of all others.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from minigrad.kernels.code.elementwise import mapped
from minigrad.kernels.code.reductions import CHAIN, added, corrected, exp_of_some, exp_run, loaded, max_of, put, sum_of
from minigrad.kernels.native import Source
from minigrad.kernels.simd import (
    V,
    absolute,
    compiled,
    filled,
    keep_some,
    lanes_of,
    larger,
    load_some,
    numbered,
    select,
    store_some,
    total,
    where,
)
from minigrad.kernels.simd_math import SINGLE, exp, expm1, format_of, log1p, polynomial

NAN = float("nan")

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


exp_of, log1p_of = compiled(exp), compiled(log1p)


@njit(error_model="numpy", forceinline=True)  # constants and masks then stay in registers from row to row
def loss_of_row(z: Any, i: int, n: int, label: int, slope: Any, scale: float) -> Any:
    """Of a row z[i ...]: by how much the sum of exp(z - largest) exceeds 1, and z[label] - largest.

    scale·(softmax - one at the label) goes to slope[i ...]. A label out of range gives NaN everywhere.
    """
    if not 0 <= label < n:
        for j in range(i, i + n):
            slope[j] = NAN
        return z[i] * NAN, z[i] * NAN
    if n <= lanes_of(z):  # all in one vector
        shift, e = exp_of_some(load_some(z, i, n), n)
        at_label = numbered(z) == label
        rest = where(at_label, 0.0, e)
        others, size = total(rest), total(e)
        store_some(slope, i, where(at_label, -others, rest) * (scale / size), n)
        picked = z[i + label] - shift
        return others if picked == 0.0 else size - 1.0, picked
    shift = max_of(z, i, n)
    exp_run(z, slope, i, n, shift)
    of_label = slope[i + label]
    slope[i + label] = 0.0
    others = sum_of(slope, i, n)
    factor = scale / (others + of_label)
    for j in range(i, i + n, lanes_of(slope)):
        put(slope, j, loaded(slope, j, i + n - j) * factor, i + n - j)
    slope[i + label] = -others * factor
    return others + (of_label - 1.0), z[i + label] - shift


def cross_entropy(
    z: Any,
    labels: Any,
    losses: Any,
    slope: Any,
    scratch: Any,
    scale: float,
    outer: int,
    n: int,
    per_chunk: int,
    chunk: int,
) -> None:
    """The loss of each row; slope = scale·(its derivative); scratch[outer + chunk] = the sum of the chunk's losses."""
    first, last = chunk * per_chunk, min((chunk + 1) * per_chunk, outer)
    for row in range(first, last):
        losses[row], scratch[row] = loss_of_row(z, row * n, n, labels[row], slope, scale)
    for row in range(first, last, lanes_of(losses)):  # logarithms of many rows at once
        count = last - row
        put(losses, row, log1p_of(loaded(losses, row, count)) - loaded(scratch, row, count), count)
    scratch[outer + chunk] = sum_of(losses, first, last - first)


def cross_entropy_vjp(g: Any, z: Any, labels: Any, z_bar: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    """z̄ = ȳ·(softmax - one at the label), row by row."""
    for row in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer)):
        loss_of_row(z, row * n, n, labels[row], z_bar, g[row])


SOURCES = {
    "bce_with_logits": mapped(bce_with_logits, arrays=2),
    "bce_with_logits_vjp": mapped(bce_with_logits_vjp, arrays=3),
    "gaussian_kl": mapped(gaussian_kl, arrays=2),
    "bce_and_slope": Source(bce_and_slope, "real* real* real* real* real int int"),
    "cross_entropy": Source(cross_entropy, "real* int64* real* real* real* real int int int"),
    "cross_entropy_vjp": Source(cross_entropy_vjp, "real* real* int64* real* int int int"),
}
