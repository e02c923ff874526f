"""Reductions of arrays: sum and extrema over any axes, and softmax and its kin along one.

An array is seen as (outer, n, inner) and reduced over n, as often as there are axes apart from each other. Its axes
are taken in the order in which they lie in memory; an array with gaps is copied.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from minigrad.kernels.native import REALS, Kernel

_softmax, _softmax_vjp = Kernel("reductions", "softmax"), Kernel("reductions", "softmax_vjp")
_log_softmax, _log_softmax_vjp = Kernel("reductions", "log_softmax"), Kernel("reductions", "log_softmax_vjp")
_standardise, _standardise_vjp = Kernel("reductions", "standardise"), Kernel("reductions", "standardise_vjp")
_moments, _moments_columns = Kernel("reductions", "moments"), Kernel("reductions", "moments_columns")
_logsumexp = Kernel("reductions", "logsumexp")

BLOCK = 1 << 15  # numbers in a task: some 2 to 10 µs of sums, which partial results don't outweigh
WORK = 1 << 13  # numbers of which the exponentials are a chunk: some 5 to 20 µs
PIECE = 1 << 11  # columns in a task: their running sums stay in the nearest cache
IN_ORDER = 0x101  # NPY_ARRAY_C_CONTIGUOUS and NPY_ARRAY_ALIGNED, among the bits of flags.num


def in_order(x: np.ndarray) -> np.ndarray:
    """x, or a copy of it, in C order and aligned."""
    return x if x.flags.num & IN_ORDER == IN_ORDER else np.require(x, None, ("C", "A"))


class _Reduction:
    """A reduction over any axes: its two kernels, and its value for no numbers, or None."""

    def __init__(self, name: str, of_nothing: float | None):
        self.rows, self.columns = Kernel("reductions", f"{name}_rows"), Kernel("reductions", f"{name}_columns")
        self.of_nothing = of_nothing

    def __call__(self, x: Any, *, axis: tuple[int, ...], keepdims: bool) -> Any:
        if type(x) is not np.ndarray or x.dtype not in REALS:
            return NotImplemented
        if x.flags.num & IN_ORDER != IN_ORDER:
            return self._disordered(x, axis, keepdims)
        if len(axis) == x.ndim and 0 < x.size <= BLOCK:  # all of a small array, the usual case, at once
            y = np.empty((1,) * x.ndim if keepdims else (), x.dtype)
            self.rows[x.dtype](x, y, 1, x.size, x.size, 1, 1)
            return y
        shape = x.shape
        kept = tuple([1 if i in axis else n for i, n in enumerate(shape)] if keepdims else
                     [n for i, n in enumerate(shape) if i not in axis])  # fmt: skip
        if x.size == 0:
            if self.of_nothing is None:
                return NotImplemented
            return np.full(kept, self.of_nothing, x.dtype)
        y, inner = x, 1
        end = len(shape)
        while end:  # runs of axes, from the last: kept ones are passed, and reduced ones gone after each round
            start = end - 1
            reduced = start in axis
            while start and (start - 1 in axis) == reduced:
                start -= 1
            n = prod(shape[start:end])
            if not reduced:
                inner *= n
            elif n > 1:
                y = self._over(y, prod(shape[:start]), n, inner)
            end = start
        return x.reshape(kept).copy() if y is x else y.reshape(kept)

    def _over(self, x: np.ndarray, outer: int, n: int, inner: int) -> np.ndarray:
        """The reduction over n of an array (outer, n, inner) in order, flat."""
        while n > 1:
            if inner == 1:
                block = min(n, BLOCK)
                blocks = -(-n // block)
                y = np.empty(outer * blocks, x.dtype)
                per_chunk = max(1, BLOCK // block)
                self.rows[x.dtype](x, y, outer, n, block, per_chunk, -(-outer * blocks // per_chunk))
            else:
                piece = min(inner, PIECE)
                block = min(n, BLOCK // piece)
                blocks = -(-n // block)
                y = np.empty(outer * blocks * inner, x.dtype)
                errors = np.empty_like(y) if block > 16 else y
                self.columns[x.dtype](x, y, errors, outer, n, inner, block, piece, outer * blocks * -(-inner // piece))
            x, n = y, blocks
        return x

    def _disordered(self, x: np.ndarray, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
        """The same for an array whose axes do not lie in memory one in the other, from the last to the first."""
        order = sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
        places = tuple(order.index(i) for i in axis)
        y = self(in_order(x.transpose(order)), axis=places, keepdims=True)
        if y is NotImplemented:
            return y
        y = y.transpose(np.argsort(order))
        return y if keepdims else np.squeeze(y, axis)


sum = _Reduction("sum", 0.0)
amax = _Reduction("max", None)
amin = _Reduction("min", None)


def _last(axes: tuple[int, ...], x: np.ndarray) -> np.ndarray:
    """x with these axes last, in order."""
    ndim = x.ndim
    if axes != tuple(range(ndim - len(axes), ndim)):
        x = x.transpose([i for i in range(ndim) if i not in axes] + list(axes))
    return in_order(x)


def _rows(axes: tuple[int, ...], *xs: Any) -> tuple[Any, ...] | None:
    """Arrays of one shape with these axes last, in order; or None if they are no such arrays, or empty."""
    first = xs[0]
    for x in xs:
        if type(x) is not np.ndarray or x.dtype is not first.dtype or x.shape != first.shape:
            return None
    if first.dtype not in REALS or first.size == 0:
        return None
    return tuple(_last(axes, x) for x in xs)


def _along(kernel: Kernel, axes: tuple[int, ...], *xs: Any, scratch: int = 0, numbers: tuple[float, ...] = ()) -> Any:
    """What the kernel makes of the rows along axes, in an array of the same shape."""
    rows = _rows(axes, *xs)
    if rows is None:
        return NotImplemented
    x = rows[0]
    y = np.empty(x.shape, x.dtype)
    n = prod(x.shape[x.ndim - len(axes) :])
    outer = x.size // n
    per_chunk = -(-WORK // n)
    spare = np.empty((scratch, outer), x.dtype) if scratch else ()
    kernel[x.dtype](*rows, y, *spare, *numbers, outer, n, per_chunk, -(-outer // per_chunk))
    return y if rows[0] is xs[0] else np.moveaxis(y, range(y.ndim - len(axes), y.ndim), axes)


def softmax(x: np.ndarray, *, axis: int) -> Any:
    """exp(x) over its sum along an axis.

    Example:
        >>> import numpy as np
        >>> softmax(np.array([1000.0, 1000.0]), axis=0)
        array([0.5, 0.5])
    """
    return _along(_softmax, (axis,), x)


def log_softmax(x: np.ndarray, *, axis: int) -> Any:
    """The logarithm of softmax along an axis."""
    return _along(_log_softmax, (axis,), x, scratch=2)


def softmax_vjp(g: np.ndarray, y: np.ndarray, axis: int) -> Any:
    """y·(g - Σ g·y) along an axis, where y is softmax's output; the entry of the largest y is minus the others' sum."""
    return _along(_softmax_vjp, (axis,), g, y)


def log_softmax_vjp(g: np.ndarray, y: np.ndarray, axis: int) -> Any:
    """g - exp(y)·Σ g along an axis, where y is log_softmax's output; the entry of the largest y is minus the others'
    sum."""
    return _along(_log_softmax_vjp, (axis,), g, y)


def logsumexp(x: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> Any:
    """The logarithm of the sum of exponentials over axes.

    Example:
        >>> import numpy as np
        >>> float(logsumexp(np.zeros((2, 4)), axis=(0, 1), keepdims=False))  # log 8
        2.0794415416798357
    """
    axes = normalize_axis_tuple(axis, x.ndim) if type(x) is np.ndarray else ()
    rows = _rows(axes, x)
    if rows is None:
        return NotImplemented
    (rows,) = rows
    shape = [1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes]
    n = prod(x.shape[i] for i in axes)
    outer = x.size // n
    y, logs = np.empty(shape, x.dtype), np.empty(outer, x.dtype)
    per_chunk = -(-WORK // n)
    _logsumexp[x.dtype](rows, y, logs, outer, n, per_chunk, -(-outer // per_chunk))
    return y


def moments(x: np.ndarray, axis: tuple[int, ...], keepdims: bool = False) -> Any:
    """Mean and variance over axes, the variance from the deviations themselves; x is read from memory once.

    Example:
        >>> import numpy as np
        >>> moments(np.array([[1.0, 3.0], [10.0, 10.0]]), (1,))
        (array([ 2., 10.]), array([1., 0.]))
    """
    if type(x) is not np.ndarray or x.dtype not in REALS or x.size == 0:
        return NotImplemented
    shape = [1 if i in axis else n for i, n in enumerate(x.shape) if keepdims or i not in axis]
    mean, variance = np.empty(shape, x.dtype), np.empty(shape, x.dtype)
    n = prod([x.shape[i] for i in axis])
    others = x.size // n
    if others > 1 and axis == tuple(range(len(axis))) and x.flags.num & IN_ORDER == IN_ORDER:
        piece = max(64, -(-WORK // n))
        _moments_columns[x.dtype](x, mean, variance, n, others, piece, -(-others // piece))
        return mean, variance
    per_chunk = -(-WORK // n)
    _moments[x.dtype](_last(axis, x), mean, variance, others, n, per_chunk, -(-others // per_chunk))
    return mean, variance


def standardise(x: np.ndarray, *, axis: tuple[int, ...], eps: float) -> Any:
    """(x - mean)/√(variance + eps), mean and variance over axes.

    Example:
        >>> import numpy as np
        >>> standardise(np.array([[1.0, 3.0]]), axis=(1,), eps=3.0)
        array([[-0.5,  0.5]])
    """
    return _along(_standardise, axis, x, numbers=(eps,))


def standardise_vjp(g: np.ndarray, x: np.ndarray, y: np.ndarray, axis: tuple[int, ...], eps: float) -> Any:
    """(g - mean of g - y·(mean of g·y))/√(variance of x + eps), where y is the output of `standardise`."""
    return _along(_standardise_vjp, axis, g, x, y, numbers=(eps,))
