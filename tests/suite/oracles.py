"""What NumPy and SciPy say that an operation computes: functions of its inputs and parameters, on arrays.

Where an operation is a NumPy function, that is its oracle; the others are computed another way than the operation does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import special

from minigrad.testing.suite import cancelling

from .engine_calls import key


def _positions(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(math.prod(shape)).reshape(shape)


def _sum_to(x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    y = np.zeros(math.prod(shape), x.dtype)
    np.add.at(y, np.broadcast_to(_positions(shape), x.shape), x)
    return y.reshape(shape)


def _unreduce(x: np.ndarray, *, shape: tuple[int, ...], axis: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(x if x.ndim == len(shape) else np.expand_dims(x, axis), shape)


def _getitem(x: np.ndarray, *arrays: np.ndarray, template: Any) -> np.ndarray:
    return x[key(template, arrays)]


def _setitem(x: np.ndarray, value: np.ndarray, *arrays: np.ndarray, template: Any) -> np.ndarray:
    y = x.copy()
    y[key(template, arrays)] = value
    return y


def _scatter(*xs: np.ndarray, shape: tuple[int, ...], dtype: Any, templates: Sequence[Any]) -> np.ndarray:
    y = np.zeros(shape, dtype)
    rest = list(xs[len(templates) :])
    for x, template in zip(xs, templates, strict=False):
        count = sum(isinstance(item, str) for item in template)
        np.add.at(y, key(template, rest[:count]), x)
        del rest[:count]
    return y


def _overwritten(*arrays: np.ndarray, shape: tuple[int, ...], template: Any) -> np.ndarray:
    spots = _positions(shape)[key(template, arrays)]
    hits = spots.reshape(-1).tolist()
    return np.array([spot in hits[i + 1 :] for i, spot in enumerate(hits)], bool).reshape(spots.shape)


def _logsumexp(x: np.ndarray, *, axis: tuple[int, ...], keepdims: bool) -> np.ndarray:
    return np.logaddexp.reduce(x, axis=axis, keepdims=keepdims)


def _log_softmax(x: np.ndarray, *, axis: int) -> np.ndarray:
    return x - np.logaddexp.reduce(x, axis=axis, keepdims=True)


def _argsort(x: np.ndarray, *, axis: int, descending: bool) -> np.ndarray:
    return np.argsort(-x if descending else x, axis=axis, kind="stable")


@cancelling(lambda z, t: np.abs(z) + np.abs(t) + np.abs(z * t))
def _bce_with_logits(z: np.ndarray, t: np.ndarray) -> np.ndarray:
    return -(t * special.log_expit(z) + (1 - t) * special.log_expit(-z))


def _reduction(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, *, axis, keepdims: f(x, axis=axis, keepdims=keepdims)


ORACLES: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(np, name)
        for name in [
            "add",
            "subtract",
            "multiply",
            "divide",
            "negative",
            "power",
            "square",
            "sqrt",
            "abs",
            "exp",
            "expm1",
            "log",
            "log1p",
            "sin",
            "cos",
            "sinh",
            "cosh",
            "tanh",
            "maximum",
            "minimum",
            "where",
            "sign",
            "floor",
            "ceil",
            "equal",
            "not_equal",
            "less",
            "less_equal",
            "greater",
            "greater_equal",
            "logical_and",
            "logical_or",
            "logical_not",
            "isfinite",
            "isnan",
            "matmul",
        ]
    },
    "round": np.rint,
    "constant_power": lambda x, *, exponent: np.power(x, exponent),
    "rsqrt": lambda x: np.reciprocal(np.sqrt(x)),
    "erf": special.erf,
    "erfc": special.erfc,
    "over_square": lambda a, b: (a / b) / b,
    "tanh_slope": lambda g, x: g / np.cosh(x) ** 2,
    "sigmoid": special.expit,
    "softplus": lambda x: np.logaddexp(x, 0),
    "relu": lambda x: np.clip(x, 0, None),
    "leaky_relu": lambda x, *, slope: np.where(x < 0, slope * x, x),
    "elu": lambda x, *, alpha: np.where(x < 0, alpha * np.expm1(np.clip(x, None, 0)), x),
    "gelu": lambda x: x * special.ndtr(x),
    "silu": lambda x: x * special.expit(x),
    "bce_with_logits": _bce_with_logits,
    **{name: _reduction(getattr(np, name)) for name in ("sum", "max", "min", "all", "any", "argmax", "argmin")},
    "logsumexp": _logsumexp,
    "log_softmax": _log_softmax,
    "softmax": lambda x, *, axis: np.exp(_log_softmax(x, axis=axis)),
    "cumulative_sum": lambda x, *, axis: np.cumsum(x, axis),
    "einsum": lambda a, b, *, a_axes, b_axes, axes: np.einsum(f"{a_axes},{b_axes}->{axes}", a, b, optimize=False),
    "sum_to": _sum_to,
    "broadcast_to": lambda x, *, shape: np.broadcast_to(x, shape),
    "unreduce": _unreduce,
    "cast": lambda x, *, dtype: np.asarray(x, dtype),
    "astype": lambda x, *, dtype: np.asarray(x).astype(dtype),
    "copy": np.copy,
    "alias": np.copy,
    "assign": lambda old, new: np.copy(new),
    "full_like": lambda x, *, fill_value, dtype: np.full_like(x, fill_value, dtype),
    "reshape": lambda x, *, shape: np.reshape(x, shape),
    "permute_dims": lambda x, *, axes: np.transpose(x, axes),
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
    "split": lambda x, *, axis, at: tuple(np.split(x, at, axis)),
    "flip": lambda x, *, axis: np.flip(x, axis),
    "roll": lambda x, *, shift, axis: np.roll(x, shift, axis),
    "tril": lambda x, *, k: np.tril(x, k),
    "triu": lambda x, *, k: np.triu(x, k),
    "getitem": _getitem,
    "setitem": _setitem,
    "scatter": _scatter,
    "overwritten": _overwritten,
    "argsort": _argsort,
    "random_next": lambda state: np.array([state[0], state[1] + np.uint64(1)]),
}
