"""Losses: forward and backward as the operations in `minigrad.ops.losses` have them, and both at once in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Any

import numpy as np

from minigrad.kernels.elementwise import CHUNK, IN_ORDER, flat
from minigrad.kernels.native import REALS, Kernel
from minigrad.kernels.reductions import in_order

_bce, _bce_vjp, _bce_and_slope, _gaussian_kl = (
    Kernel("losses", name) for name in ("bce_with_logits", "bce_with_logits_vjp", "bce_and_slope", "gaussian_kl")
)
_cross_entropy, _cross_entropy_vjp = Kernel("losses", "cross_entropy"), Kernel("losses", "cross_entropy_vjp")

WORK = 1 << 13  # numbers of which a chunk takes exponentials and logarithms: some 5 to 20 µs
_INT = np.dtype(np.int64)


def _fits(*xs: Any) -> bool:
    """Whether these are arrays of one dtype that kernels know, and of one shape."""
    first = xs[0]
    return (
        type(first) is np.ndarray
        and first.dtype in REALS
        and all(type(x) is np.ndarray and x.dtype is first.dtype and x.shape == first.shape for x in xs)
    )


def _total(sums: Sequence[float], scale: float, dtype: np.dtype[Any]) -> np.ndarray:
    """scale·Σ sums, of the chunks, as an array."""
    try:
        total = fsum(sums)
    except (OverflowError, ValueError):  # with ∞ or beyond it, which fsum refuses
        total = sum(sums)
    return np.asarray(total * scale, dtype)


def _elementwise(kernel: Kernel, *xs: Any) -> Any:
    if not _fits(*xs):
        return NotImplemented
    y = np.empty_like(xs[0])
    kernel[y.dtype](*(flat(x, y) for x in xs), y, y.size, -(-y.size // CHUNK))
    return y


def bce_with_logits(z: np.ndarray, t: np.ndarray) -> Any:
    """softplus(z) - z·t: binary cross-entropy of logits z with targets t.

    Example:
        >>> import numpy as np
        >>> bce_with_logits(np.array([0.0, 1000.0]), np.array([1.0, 1.0]))
        array([0.69314718, 0.        ])
    """
    return _elementwise(_bce, z, t)


def bce_with_logits_vjp(g: np.ndarray, z: np.ndarray, t: np.ndarray) -> Any:
    """g·((1 - t)·σ(z) - t·σ(-z))."""
    return _elementwise(_bce_vjp, g, z, t)


def gaussian_kl(mean: np.ndarray, log_variance: np.ndarray) -> Any:
    """(mean² + exp(log_variance) - 1 - log_variance)/2, right to rounding near 0, too.

    Example:
        >>> import numpy as np
        >>> gaussian_kl(np.array([0.0]), np.array([2e-8]))
        array([1.e-16])
    """
    return _elementwise(_gaussian_kl, mean, log_variance)


def bce_with_logits_and_slope(z: np.ndarray, t: np.ndarray, scale: float = 1.0) -> Any:
    """scale·Σ bce_with_logits(z, t) and its derivative by z, in one pass; for the mean, scale = 1/z.size.

    Example:
        >>> import numpy as np
        >>> bce_with_logits_and_slope(np.array([0.0]), np.array([1.0]))
        (array(0.69314718), array([-0.5]))
    """
    if not _fits(z, t):
        return NotImplemented
    slope = np.empty_like(z)
    chunks = -(-z.size // WORK)
    sums = np.empty(chunks, z.dtype)
    _bce_and_slope[z.dtype](flat(z, slope), flat(t, slope), slope, sums, scale, z.size, WORK, chunks)
    return _total(sums.tolist(), scale, z.dtype), slope


def _classes(z: Any, labels: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Logits (..., classes) and labels (...), int64, in C order; None if they are no such arrays, or empty."""
    if type(z) is not np.ndarray or type(labels) is not np.ndarray or z.dtype not in REALS or z.size == 0:
        return None
    if labels.shape != z.shape[:-1]:
        return None
    if labels.dtype is not _INT:
        if labels.dtype.kind not in "iu":
            return None
        labels = labels.astype(_INT)
    if z.flags.num & labels.flags.num & IN_ORDER != IN_ORDER:
        return in_order(z), in_order(labels)
    return z, labels


def _rows(z: np.ndarray) -> tuple[int, int, int, int]:
    """How many rows and columns, rows in a chunk, and chunks."""
    n = z.shape[-1]
    outer, per_chunk = z.size // n, -(-WORK // n)
    return outer, n, per_chunk, -(-outer // per_chunk)


def cross_entropy(z: np.ndarray, labels: np.ndarray) -> Any:
    """-log softmax(z)[label] of each row of z (..., classes), with integer labels (...); NaN for labels out of range.

    Example:
        >>> import numpy as np
        >>> cross_entropy(np.zeros((1, 2)), np.array([1]))
        array([0.69314718])
    """
    given = _classes(z, labels)
    if given is None:
        return NotImplemented
    z, labels = given
    outer, n, per_chunk, chunks = _rows(z)
    losses, slope, sums = np.empty(labels.shape, z.dtype), np.empty(z.shape, z.dtype), np.empty(outer + chunks, z.dtype)
    _cross_entropy[z.dtype](z, labels, losses, sums, slope, 1.0, outer, n, per_chunk, chunks)
    return losses


def cross_entropy_vjp(g: np.ndarray, z: np.ndarray, labels: np.ndarray) -> Any:
    """g·(softmax(z) - one at the label), of each row of z; the label's entry is minus the sum of the others."""
    given = _classes(z, labels)
    if given is None or type(g) is not np.ndarray or g.dtype is not z.dtype or g.shape != labels.shape:
        return NotImplemented
    if z.shape[-1] == 1:  # then the slope is 0 also where z is not finite
        return NotImplemented
    z, labels = given
    z_bar = np.empty(z.shape, z.dtype)
    _cross_entropy_vjp[z.dtype](in_order(g), z, labels, z_bar, *_rows(z))
    return z_bar


def cross_entropy_and_slope(z: np.ndarray, labels: np.ndarray, scale: float = 1.0) -> Any:
    """scale·Σ cross_entropy(z, labels) and its derivative by z, in one pass.

    Example:
        >>> import numpy as np
        >>> cross_entropy_and_slope(np.zeros((1, 2)), np.array([1]))
        (array(0.69314718), array([[ 0.5, -0.5]]))
    """
    given = _classes(z, labels)
    if given is None or z.shape[-1] == 1:  # then the slope is 0 also where z is not finite
        return NotImplemented
    z, labels = given
    outer, n, per_chunk, chunks = _rows(z)
    slope, losses = np.empty(z.shape, z.dtype), np.empty(outer + chunks, z.dtype)  # at the end the sums of chunks
    _cross_entropy[z.dtype](z, labels, losses, losses, slope, scale, outer, n, per_chunk, chunks)
    return _total([losses.item(i) for i in range(outer, outer + chunks)], scale, z.dtype), slope
