"""The complex step: f′(x)·v = Im f(x + i·h·v) / h for an analytic f, without any difference and so without rounding.

(Squire and Trapp, "Using complex variables to estimate derivatives of real functions", 1998.) With h = 2⁻¹⁰⁰ nothing is
left of the truncation either. It is wrong for a function that is not analytic, such as |x| computed from a complex x.
So the arrays that go through the function are `Analytic`: they refuse every NumPy function that is not known to be.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

STEP = 2.0**-100
UFUNCS = frozenset(
    [
        *(np.add, np.subtract, np.multiply, np.divide, np.negative, np.positive, np.reciprocal, np.square, np.sqrt),
        *(np.power, np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p, np.matmul, np.vecdot),
        *(np.sin, np.cos, np.tan, np.sinh, np.cosh, np.tanh),
        *(np.arcsin, np.arccos, np.arctan, np.arcsinh, np.arccosh, np.arctanh),
    ]
)
CHOICES = frozenset(
    [np.greater, np.greater_equal, np.less, np.less_equal, np.equal, np.not_equal, np.isfinite, np.isnan, np.isinf]
)
FUNCTIONS = frozenset(
    [
        *(np.where, np.sum, np.mean, np.prod, np.cumsum, np.trace, np.dot, np.vdot, np.inner, np.outer, np.tensordot),
        *(np.einsum, np.cross, np.reshape, np.ravel, np.transpose, np.swapaxes, np.moveaxis, np.expand_dims),
        *(np.squeeze, np.broadcast_to, np.broadcast_arrays, np.concatenate, np.stack, np.split, np.flip, np.roll),
        *(np.repeat, np.tile, np.take, np.take_along_axis, np.pad, np.tril, np.triu, np.diagonal, np.diag, np.copy),
        *(np.zeros_like, np.ones_like, np.full_like, np.empty_like, np.shape, np.ndim, np.size),
    ]
)


class NotAnalytic(TypeError):
    """A function was applied that is not known to be analytic."""


class Analytic(np.ndarray[Any, Any]):
    """A complex array that refuses what is not analytic; comparisons see its real part, as they choose a branch."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if ufunc not in UFUNCS and ufunc not in CHOICES:
            raise NotAnalytic(ufunc.__name__)
        plain = [x.view(np.ndarray) if isinstance(x, Analytic) else x for x in inputs]
        if ufunc in CHOICES:
            return getattr(ufunc, method)(*map(np.real, plain), **kwargs)
        if out is not None:
            kwargs["out"] = tuple(x.view(np.ndarray) if isinstance(x, Analytic) else x for x in out)
        return tracked(getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func not in FUNCTIONS:
            raise NotAnalytic(func.__name__)
        return tracked(super().__array_function__(func, types, args, kwargs))

    def astype(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: the imaginary part would be lost, or its digits."""
        raise NotAnalytic("astype")

    def _refused(self) -> Any:
        raise NotAnalytic("a real or imaginary part")

    real = property(_refused)
    imag = property(_refused)


def tracked(x: Any) -> Any:
    """Complex arrays as Analytic ones; everything else as it is."""
    if isinstance(x, (list, tuple)):
        return type(x)(map(tracked, x))
    if isinstance(x, np.complexfloating):
        x = np.asarray(x)
    return x.view(Analytic) if type(x) is np.ndarray and x.dtype.kind == "c" else x


def derivative(
    f: Callable[[Sequence[Any]], Sequence[Any]], xs: Sequence[Array], vs: Sequence[Array], step: float = STEP
) -> list[Array] | None:
    """The derivative of f at xs along vs, for each of its outputs; None if f is not analytic as it is written.

    At a branch point, such as 0 for the square root, what is returned depends on the step.

    Example:
        >>> derivative(lambda xs: [np.sin(xs[0])], [np.array([0.0, np.pi])], [np.ones(2)])
        [array([ 1., -1.])]
        >>> derivative(lambda xs: [np.abs(xs[0])], [np.array([1.0])], [np.ones(1)]) is None
        True
    """
    moved = [tracked(np.asarray(x + 1j * step * v)) for x, v in zip(xs, vs, strict=True)]
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")  # that an imaginary part was discarded
            ys = f(moved)
    except Exception:  # whatever refuses complex numbers
        return None
    if not all(isinstance(y, Analytic) for y in ys):
        return None
    return [np.imag(y.view(np.ndarray)) / step for y in ys]
