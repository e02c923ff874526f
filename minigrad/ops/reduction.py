"""Reductions over any axes, and what is normalised by them: sums, extrema, moments, softmax and its kin.

The public functions turn `axis` into a tuple of non-negative axes; the primitives see nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from minigrad.core.adjoint import add, cast
from minigrad.core.op import Op
from minigrad.core.value import Value, raw
from minigrad.kernels import reductions as kernels
from minigrad.ops.creation import ones_like
from minigrad.ops.elementwise import abs as absolute
from minigrad.ops.elementwise import (
    divide,
    equal,
    exp,
    greater,
    isfinite,
    logical_and,
    multiply,
    sqrt,
    square,
    subtract,
    where,
)
from minigrad.ops.indexing import getitem
from minigrad.ops.manipulation import concat, flip, permute_dims, reshape

Axis = int | tuple[int, ...] | None


def _axes(x: Any, axis: Axis) -> tuple[int, ...]:
    ndim = raw(x).ndim
    return tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim)


def _restored(g: Any, shape: tuple[int, ...], axis: tuple[int, ...]) -> Any:
    """A reduced array with its reduced axes back, of length 1."""
    return reshape(g, tuple(1 if i in axis else n for i, n in enumerate(shape)))


def _unreduce_forward(x: np.ndarray, *, shape: tuple[int, ...], axis: tuple[int, ...]) -> np.ndarray:
    y = np.empty(shape, x.dtype)
    y[...] = x.reshape([1 if i in axis else n for i, n in enumerate(shape)])
    return y


_unreduce = Op(
    "unreduce",
    _unreduce_forward,
    vjp={"x": lambda g, like_x, axis: reshape(_sum(g, axis=axis, keepdims=False), like_x.shape)},
    kind="linear",
    formula="y = x copied along axis,  x̄ = Σ ȳ over axis",
)

_sum = Op(
    "sum",
    lambda x, *, axis, keepdims: np.add.reduce(x, axis, keepdims=keepdims),
    vjp={"x": lambda g, like_x, axis: _unreduce(g, shape=like_x.shape, axis=axis)},
    kernels={"y": (kernels.sum, 16384)},
    kind="linear",
    formula="y = Σ x over axis,  x̄ = ȳ copied along axis",
)


def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Sum over axes (None: all of them). Integers and booleans add up as integers.

    Example:
        >>> import minigrad as mg
        >>> mg.sum(mg.Tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0).data
        array([4., 6.])
    """
    return _sum(x, axis=_axes(x, axis), keepdims=keepdims)


def _extremum_vjp(g: Any, x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    """The cotangent shared equally by all elements that attain the extremum."""
    shape = raw(x).shape
    hit = equal(x, _restored(y, shape, axis))
    ties = cast(sum(hit, axis, keepdims=True), dtype=raw(g).dtype)
    return where(hit, _restored(g, shape, axis) / ties, 0.0)


_max = Op(
    "max",
    lambda x, *, axis, keepdims: np.max(x, axis=axis, keepdims=keepdims),
    vjp={"x": _extremum_vjp},
    kernels={"y": (kernels.amax, 256)},
    formula="y = max x over axis,  ȳ goes to the maximum",
    undifferentiable="ties: the cotangent is shared equally",
)

_min = Op(
    "min",
    lambda x, *, axis, keepdims: np.min(x, axis=axis, keepdims=keepdims),
    vjp={"x": _extremum_vjp},
    kernels={"y": (kernels.amin, 256)},
    formula="y = min x over axis,  ȳ goes to the minimum",
    undifferentiable="ties: the cotangent is shared equally",
)


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Largest element over axes (None: all of them); elements that tie share the cotangent equally.

    Raises:
        ValueError: nothing to choose from, an axis of length 0.
    """
    return _max(x, axis=_axes(x, axis), keepdims=keepdims)


def min(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Smallest element over axes (None: all of them); elements that tie share the cotangent equally.

    Raises:
        ValueError: nothing to choose from, an axis of length 0.
    """
    return _min(x, axis=_axes(x, axis), keepdims=keepdims)


def _count(x: Any, axes: tuple[int, ...]) -> int:
    shape = raw(x).shape
    return int(np.prod([shape[i] for i in axes], dtype=int))


def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Arithmetic mean over axes (None: all of them); integers give float64.

    Raises:
        ValueError: an axis of length 0 has no mean.
    """
    axes = _axes(x, axis)
    count = _count(x, axes)
    if count == 0:
        raise ValueError(f"mean: expected at least one element along axis {axis}, got shape {raw(x).shape}")
    return divide(sum(x, axes, keepdims), count)


def over_outputs(g: tuple[Any, ...], *pulls: Callable[[Any], Any]) -> Any:
    """What a rule of several outputs returns: the sum of what each pull makes of its output's cotangent, if there is
    one."""
    return reduce(add, [pull(c) for c, pull in zip(g, pulls, strict=True) if c is not None])


def _moments_forward(x: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> tuple[np.ndarray, np.ndarray]:
    """The variance from the deviations themselves, since the difference of Σx²/n and mean² may cancel."""
    mean = np.mean(x, axis=axis, keepdims=True)
    centred = x - mean
    variance = np.mean(centred * centred, axis=axis, keepdims=keepdims)
    return mean if keepdims else np.squeeze(mean, axis), variance


def _moments_vjp(g: Any, x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    shape, n = raw(x).shape, _count(x, axis)
    return over_outputs(
        g,
        lambda of_mean: _unreduce(of_mean / n, shape=shape, axis=axis),
        lambda of_variance: _restored(of_variance * (2 / n), shape, axis) * (x - _restored(y[0], shape, axis)),
    )


_moments = Op(
    "moments",
    _moments_forward,
    vjp={"x": _moments_vjp},
    kernels={"y": (kernels.moments, 1)},
    formula="μ = Σ x/n over axis,  σ² = Σ (x - μ)²/n,  x̄ = (ȳ of μ + 2·(ȳ of σ²)·(x - μ))/n",
)


def moments(x: Any, axis: Axis = None, keepdims: bool = False) -> tuple[Any, Any]:
    """Mean, and mean square of the deviations from it, over axes (None: all of them), in one pass.

    Raises:
        ValueError: an axis of length 0 has no mean.

    Example:
        >>> import minigrad as mg
        >>> mean, variance = mg.moments(mg.Tensor([[1.0, 3.0], [5.0, 5.0]]), axis=1)
        >>> mean.data, variance.data
        (array([2., 5.]), array([1., 0.]))
    """
    axes = _axes(x, axis)
    if _count(x, axes) == 0:
        raise ValueError(f"moments: expected at least one element along axis {axis}, got shape {raw(x).shape}")
    mean, variance = _moments(x, axis=axes, keepdims=keepdims)
    return mean, variance


def var(x: Any, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Any:
    """Variance over axes: the sum of squared deviations from the mean, divided by count - correction.

    Raises:
        ValueError: count - correction is not positive.
    """
    axes = _axes(x, axis)
    count = _count(x, axes)
    if count == 0 or count <= correction:
        raise ValueError(f"var: expected more than {correction} elements along axis {axis}, got shape {raw(x).shape}")
    _, variance = _moments(x, axis=axes, keepdims=keepdims)
    return multiply(variance, count / (count - correction)) if correction else variance


def _standardise_forward(x: np.ndarray, *, axis: tuple[int, ...], eps: float) -> np.ndarray:
    centred = x - np.mean(x, axis=axis, keepdims=True)
    return centred / np.sqrt(np.mean(centred * centred, axis=axis, keepdims=True) + eps)


def _standardise_vjp(g: Any, x: Any, y: Any, axis: tuple[int, ...], eps: float) -> Any:
    along = g - mean(g, axis, keepdims=True) - y * mean(g * y, axis, keepdims=True)
    return along / sqrt(var(x, axis, keepdims=True) + eps)


_standardise = Op(
    "standardise",
    _standardise_forward,
    vjp={"x": _standardise_vjp},
    kernels={"y": (kernels.standardise, 1), "x": (kernels.standardise_vjp, 1)},
    formula="y = (x - μ)/√(σ² + ε) over axis,  x̄ = (ȳ - mean ȳ - y·mean(ȳ·y))/√(σ² + ε)",
)


def standardise(x: Any, axis: Axis = -1, eps: float = 1e-5) -> Any:
    """x minus its mean over axes, divided by √(variance + eps): what layer and batch normalisation begin with.

    Raises:
        ValueError: an axis of length 0 has no mean; eps not positive.

    Example:
        >>> import minigrad as mg
        >>> mg.standardise(mg.Tensor([1.0, 2.0, 3.0]), eps=1e-12).data.round(3)
        array([-1.225,  0.   ,  1.225])
    """
    axes = _axes(x, axis)
    if _count(x, axes) == 0:
        raise ValueError(f"standardise: expected at least one element along axis {axis}, got shape {raw(x).shape}")
    if not eps > 0:
        raise ValueError(f"standardise: eps is a positive number, not {eps}")
    return _standardise(x, axis=axes, eps=eps)


def _safe_root(x: Any) -> Any:
    """√x with gradient 0, a valid subgradient of a norm, where x = 0."""
    zero = equal(x, 0.0)
    return where(zero, 0.0, sqrt(where(zero, 1.0, x)))


def std(x: Any, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Any:
    """Standard deviation over axes, the root of `var`; where it is 0 its gradient is taken as 0."""
    return _safe_root(var(x, axis, correction, keepdims))


def norm(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Euclidean norm over axes (None: all of them); where it is 0 its gradient is taken as 0.

    Large and small elements are scaled by the largest first, so that squares don't overflow.
    """
    axes = _axes(x, axis)
    if _count(x, axes) == 0:
        return _safe_root(sum(square(x), axes, keepdims))
    size = absolute(x.wrap(x.array) if isinstance(x, Value) else x)
    largest = max(size, axes, keepdims=True)
    scale = where(logical_and(greater(largest, 0.0), isfinite(largest)), largest, 1.0)
    root = _safe_root(sum(square(divide(x, scale)), axes, keepdims=True)) * scale
    return root if keepdims else _dropped(root, axes)


def _dropped(x: Any, axes: tuple[int, ...]) -> Any:
    """An array without axes of length 1."""
    return reshape(x, tuple(n for i, n in enumerate(raw(x).shape) if i not in axes))


def prod(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Product over axes (None: all of them), multiplied by halves: right derivatives of any order, at zeros too.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([0.0, 2.0, 3.0], requires_grad=True)
        >>> mg.prod(x).backward()
        >>> x.grad.data
        array([6., 0., 0.])
    """
    axes = _axes(x, axis)
    shape = raw(x).shape
    kept = [i for i in range(len(shape)) if i not in axes]
    y = reshape(permute_dims(x, (*axes, *kept)), (_count(x, axes), *(shape[i] for i in kept)))
    if len(raw(y)) == 0:
        y = ones_like(sum(y, 0, keepdims=True))
    while (n := len(raw(y))) > 1:
        half = n // 2
        pairs = multiply(getitem(y, slice(0, half)), getitem(y, slice(half, 2 * half)))
        y = concat([pairs, getitem(y, slice(2 * half, n))]) if n % 2 else pairs
    return reshape(y, tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes))


def _largest(x: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The largest element along axis, which stays with length 1; -inf where there is none."""
    return np.max(x.astype(np.result_type(x, 0.0), copy=False), axis=axis, keepdims=True, initial=-np.inf)


def _logsumexp_forward(x: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    largest = _largest(x, axis)
    shift = np.where(np.isfinite(largest), largest, 0)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is what it should be: -inf
        y = np.log(np.sum(np.exp(x - shift), axis=axis, keepdims=True)) + shift
    return y if keepdims else np.squeeze(y, axis)


def _logsumexp_vjp(g: Any, x: Any, y: Any, axis: tuple[int, ...]) -> Any:
    shape = raw(x).shape
    y = _restored(y, shape, axis)
    return _restored(g, shape, axis) * exp(subtract(x, where(isfinite(y), y, 0.0)))


_logsumexp = Op(
    "logsumexp",
    _logsumexp_forward,
    vjp={"x": _logsumexp_vjp},
    kernels={"y": (kernels.logsumexp, 1)},
    formula="y = log Σ exp x over axis,  x̄ = ȳ·exp(x - y)",
)


def logsumexp(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """log of the sum of exponentials over axes (None: all of them), without overflow."""
    return _logsumexp(x, axis=_axes(x, axis), keepdims=keepdims)


def _softmax_forward(x: np.ndarray, *, axis: int) -> np.ndarray:
    e = np.exp(x - _largest(x, axis))
    return e / np.sum(e, axis=axis, keepdims=True)


def _balanced(x_bar: Any, y: Any, axis: int) -> Any:
    """Cotangents whose sum is 0, since a number added to all of x changes nothing. Where one probability is nearly 1,
    its own cotangent is a difference of nearly equal numbers; minus the sum of the others has all digits."""
    if y.shape[axis] == 0:
        return x_bar
    positions = np.arange(y.shape[axis]).reshape([-1 if i == axis else 1 for i in range(y.ndim)])
    leading = equal(positions, argmax(y, axis, keepdims=True))
    others = where(leading, 0.0, x_bar)
    return where(leading, -sum(others, axis, keepdims=True), others)


def _balanced_array(x_bar: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """The same, in place, for a new array."""
    if y.shape[axis]:
        leading = np.argmax(y, axis=axis, keepdims=True)
        np.put_along_axis(x_bar, leading, 0.0, axis)
        np.put_along_axis(x_bar, leading, -np.sum(x_bar, axis=axis, keepdims=True), axis)
    return x_bar


def _softmax_pull(g: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return _balanced_array(y * (g - np.sum(g * y, axis=axis, keepdims=True)), y, axis)


def _log_softmax_pull(g: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    return _balanced_array(g - np.exp(y) * np.sum(g, axis=axis, keepdims=True), y, axis)


def softmax_vjp(g: Any, y: Any, axis: int) -> Any:
    """y·(g - Σ g·y) along an axis, y = softmax(x)."""
    return _balanced(y * (g - sum(g * y, axis, keepdims=True)), y, axis)


_softmax = Op(
    "softmax",
    _softmax_forward,
    vjp={"x": softmax_vjp},
    fused={"x": _softmax_pull},
    kernels={"y": (kernels.softmax, 1), "x": (kernels.softmax_vjp, 1)},
    formula="y = exp x / Σ exp x,  x̄ = y·(ȳ - Σ ȳ·y)",
)


def softmax(x: Any, axis: int = -1) -> Any:
    """exp(x) over its sum along an axis, without overflow.

    Example:
        >>> import minigrad as mg
        >>> mg.softmax(mg.Tensor([1000.0, 1000.0])).data
        array([0.5, 0.5])
    """
    return _softmax(x, axis=normalize_axis_index(axis, raw(x).ndim))


def _log_softmax_forward(x: np.ndarray, *, axis: int) -> np.ndarray:
    shifted = x - _largest(x, axis)
    with np.errstate(divide="ignore"):  # along an empty axis there is nothing to subtract from
        return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


_log_softmax = Op(
    "log_softmax",
    _log_softmax_forward,
    vjp={"x": lambda g, y, axis: _balanced(g - exp(y) * sum(g, axis, keepdims=True), y, axis)},
    fused={"x": _log_softmax_pull},
    kernels={"y": (kernels.log_softmax, 1), "x": (kernels.log_softmax_vjp, 1)},
    formula="y = x - log Σ exp x,  x̄ = ȳ - exp(y)·Σ ȳ",
)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """Logarithm of softmax along an axis, without overflow and without the logarithm of a rounded 0."""
    return _log_softmax(x, axis=normalize_axis_index(axis, raw(x).ndim))


_cumulative_sum = Op(
    "cumulative_sum",
    lambda x, *, axis: np.cumsum(x, axis=axis),
    vjp={"x": lambda g, axis: flip(_cumulative_sum(flip(g, axis), axis=axis), axis)},
    kind="linear",
    formula="y = running Σ x along axis,  x̄ = running Σ ȳ from the end",
)


def cumulative_sum(x: Any, axis: int | None = None) -> Any:
    """Running sum along an axis; None is allowed for one-dimensional arrays.

    Raises:
        ValueError: no axis for an array that is not one-dimensional.
    """
    ndim = raw(x).ndim
    if axis is None and ndim != 1:
        raise ValueError(f"cumulative_sum: an array of shape {raw(x).shape} needs an axis")
    return _cumulative_sum(x, axis=normalize_axis_index(0 if axis is None else axis, ndim))


def _undifferentiable(name: str, f: Any) -> Any:
    """The primitive of a reduction without a gradient."""
    return Op(name, lambda x, *, axis, keepdims: f(x, axis=axis, keepdims=keepdims), formula=f"y = {name} x over axis")


_all, _any = _undifferentiable("all", np.all), _undifferentiable("any", np.any)
_argmax, _argmin = _undifferentiable("argmax", np.argmax), _undifferentiable("argmin", np.argmin)


def all(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether all elements over axes (None: all axes) are true. No gradient."""
    return _all(x, axis=_axes(x, axis), keepdims=keepdims)


def any(x: Any, axis: Axis = None, keepdims: bool = False) -> Any:
    """Whether any element over axes (None: all axes) is true. No gradient."""
    return _any(x, axis=_axes(x, axis), keepdims=keepdims)


def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index of the first largest element along an axis (None: in the flattened array). No gradient."""
    return _argmax(x, axis=axis, keepdims=keepdims)


def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index of the first smallest element along an axis (None: in the flattened array). No gradient."""
    return _argmin(x, axis=axis, keepdims=keepdims)


__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "cumulative_sum",
    "log_softmax",
    "logsumexp",
    "max",
    "mean",
    "min",
    "moments",
    "norm",
    "prod",
    "softmax",
    "standardise",
    "std",
    "sum",
    "var",
]
