"""Elementwise kernels: elementary functions, activations, and what the rules of both do to cotangents.

Every function here takes the arrays (and numbers) that the Op of its name takes, or its rule, and returns a new array;
or NotImplemented for what it can't do: other things than arrays, other dtypes than float32 and float64, arrays of
several dtypes or shapes. Strides don't matter. The formulas are in `simd_math`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.kernels.native import REALS, Kernel

CHUNK = 1 << 14  # elements: some 2 to 30 µs of work

IN_ORDER = 0x101  # NPY_ARRAY_C_CONTIGUOUS and NPY_ARRAY_ALIGNED, among the bits of flags.num

_ndarray = np.ndarray
_single, _double = np.dtype(np.float32), np.dtype(np.float64)
_empty_like = np.empty_like


def flat(x: np.ndarray, like: np.ndarray) -> np.ndarray:
    """x, or a copy of it, with its elements in the same order in memory as `like`, which has no gaps."""
    if x.strides == like.strides and x.flags.aligned:
        return x
    copy = np.empty_like(like)
    copy[...] = x
    return copy


def _unary(name: str) -> Callable[[np.ndarray], Any]:
    """The kernel of this name as a function of one array."""
    kernel = Kernel("elementwise", name)

    def function(x: np.ndarray) -> Any:
        if type(x) is not _ndarray or ((dtype := x.dtype) is not _single and dtype is not _double):
            return NotImplemented
        y = _empty_like(x)
        if x.flags.num & IN_ORDER != IN_ORDER:
            x = flat(x, y)
        n = x.size
        kernel[dtype](x, y, n, 1 if n <= CHUNK else -(-n // CHUNK))
        return y

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"The elementwise kernel `{name}`."
    return function


def _several(name: str, *xs: np.ndarray, numbers: tuple[float, ...] = ()) -> Any:
    """The kernel of this name applied to arrays of one dtype and shape, and to numbers."""
    first = xs[0]
    for x in xs:
        if type(x) is not _ndarray or x.dtype is not first.dtype or x.shape != first.shape:
            return NotImplemented
    if first.dtype not in REALS:
        return NotImplemented
    y = _empty_like(first)
    n = first.size
    _KERNELS[name][first.dtype](*(flat(x, y) for x in xs), *numbers, y, n, -(-n // CHUNK))
    return y


class _Kernels(dict[str, Kernel]):
    def __missing__(self, name: str) -> Kernel:
        self[name] = Kernel("elementwise", name)
        return self[name]


_KERNELS = _Kernels()

exp, expm1, log, log1p = _unary("exp"), _unary("expm1"), _unary("log"), _unary("log1p")
erf, erfc = _unary("erf"), _unary("erfc")
tanh, sigmoid, softplus = _unary("tanh"), _unary("sigmoid"), _unary("softplus")
gelu, silu, relu = _unary("gelu"), _unary("silu"), _unary("relu")
_near_sin, _near_cos = _unary("sin"), _unary("cos")


def _circular(near: Callable[..., Any], far: np.ufunc, x: np.ndarray) -> Any:
    """A kernel that gives NaN beyond a bound (SIN_MOST in simd_math), with NumPy's function there."""
    y = near(x)
    if y is NotImplemented:
        return y
    flat_y = y.ravel("K")
    if np.isnan(np.dot(flat_y, flat_y)):  # NaN anywhere shows in the sum of squares, which is quickly made
        beyond = np.isnan(y)
        with np.errstate(invalid="ignore"):
            y[beyond] = far(x[beyond])
    return y


def sin(x: np.ndarray) -> Any:
    """The elementwise kernel `sin`."""
    return _circular(_near_sin, np.sin, x)


def cos(x: np.ndarray) -> Any:
    """The elementwise kernel `cos`."""
    return _circular(_near_cos, np.cos, x)


def tanh_vjp(g: np.ndarray, x: np.ndarray) -> Any:
    """g/cosh²x."""
    return _several("tanh_vjp", g, x)


def sigmoid_vjp(g: np.ndarray, y: np.ndarray, x: np.ndarray) -> Any:
    """g·y·σ(-x), y = σ(x)."""
    return _several("sigmoid_vjp", g, y, x)


def softplus_vjp(g: np.ndarray, x: np.ndarray) -> Any:
    """g·σ(x)."""
    return _several("softplus_vjp", g, x)


def relu_vjp(g: np.ndarray, y: np.ndarray) -> Any:
    """g where y > 0, else 0, with y = relu(x)."""
    return _several("relu_vjp", g, y)


def leaky_relu(x: np.ndarray, *, slope: float) -> Any:
    """x where x > 0, else slope·x."""
    return _several("leaky_relu", x, numbers=(slope,))


def leaky_relu_vjp(g: np.ndarray, x: np.ndarray, slope: float) -> Any:
    """g where x > 0, else slope·g."""
    return _several("leaky_relu_vjp", g, x, numbers=(slope,))


def elu(x: np.ndarray, *, alpha: float) -> Any:
    """x where x > 0, else alpha·(exp(x) - 1)."""
    return _several("elu", x, numbers=(alpha,))


def elu_vjp(g: np.ndarray, x: np.ndarray, alpha: float) -> Any:
    """g where x > 0, else g·alpha·exp(x)."""
    return _several("elu_vjp", g, x, numbers=(alpha,))


def gelu_vjp(g: np.ndarray, x: np.ndarray) -> Any:
    """g·(Φ(x) + x·φ(x))."""
    return _several("gelu_vjp", g, x)


def silu_vjp(g: np.ndarray, x: np.ndarray) -> Any:
    """g·σ(x)·(1 + x·σ(-x))."""
    return _several("silu_vjp", g, x)


def erf_vjp(g: np.ndarray, x: np.ndarray) -> Any:
    """g·2/√π·exp(-x²)."""
    return _several("erf_vjp", g, x)
