"""What NumPy and SciPy say that an operation computes: functions of its inputs and parameters, on arrays.

Where an operation is a NumPy function, that is its oracle; the others are computed another way than the operation does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
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


def _cross_entropy(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    others = z * 1.0 - np.take_along_axis(z, labels[..., None], -1)
    np.put_along_axis(others, labels[..., None], -np.inf, -1)
    return np.logaddexp(np.logaddexp.reduce(others, -1), 0)


def _bce_with_logits_and_slope(z: np.ndarray, t: np.ndarray, *, scale: float) -> tuple[Any, Any]:
    return scale * np.sum(_bce_with_logits(z, t)), scale * (special.expit(z) - t)


def _cross_entropy_and_slope(z: np.ndarray, labels: np.ndarray, *, scale: float) -> tuple[Any, Any]:
    at = np.arange(z.shape[-1]) == labels[..., None]
    others = np.where(at, 0.0, special.softmax(z, -1))
    slope = np.where(at, -np.sum(others, -1, keepdims=True), others)
    return scale * np.sum(_cross_entropy(z, labels)), np.asarray(scale * slope, np.result_type(z, 0.0))


@cancelling(lambda m, v: 1 + m * m + np.exp(v))
def _gaussian_kl(m: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 * (m * m + np.exp(v) - 1 - v)


def _updates(update: Callable[..., Any], kinds: int, xs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """update(p, g, ...) for each parameter, as Ops of optimisers take and return it: all p, all g, ..."""
    count = len(xs) // kinds
    new = [update(*xs[i::count]) for i in range(count)]
    return tuple(of_one[k] for k in range(len(new[0])) for of_one in new)


@cancelling(lambda rate, *xs, **_: np.nansum(np.abs(xs), 0))
def _sgd(rate: np.ndarray, *xs: np.ndarray, weight_decay: float) -> Any:
    return _updates(lambda p, g: (p - float(rate) * (g + weight_decay * p if weight_decay else g),), 2, xs)


@cancelling(lambda rate, *xs, **_: 3 * np.nansum(np.abs(xs), 0))
def _momentum(rate: Any, *xs: Any, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    def update(p: Any, g: Any, v: Any) -> Any:
        g = g + weight_decay * p if weight_decay else g
        v = g + momentum * v
        return p - float(rate) * (g + momentum * v) if nesterov else p - float(rate) * v, v

    return _updates(update, 3, xs)


def _size_in_adam(rate: Any, step: Any, *xs: Any, **_: Any) -> Any:
    p, g, m, v = np.abs(xs).reshape(4, len(xs) // 4, *xs[0].shape)
    return np.nansum([p, (g + m) * 1e3, g * g, v], (0, 1))


@cancelling(_size_in_adam)
def _adam(rate: Any, step: Any, *xs: Any, betas: Any, eps: float, weight_decay: float) -> Any:
    """As in algorithm 1 of Kingma and Ba (2015), with the moments' bias corrected one by one."""
    b1, b2, rate, step = *betas, float(rate), float(step)

    def update(p: Any, g: Any, m: Any, v: Any) -> Any:
        m, v = m * b1 + g * (1 - b1), v * b2 + g * g * (1 - b2)
        return p * (1 - rate * weight_decay) - rate * (m / (1 - b1**step)) / (np.sqrt(v / (1 - b2**step)) + eps), m, v

    return _updates(update, 4, xs)


def _taps(x: Any, z: Any, w: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Iterator[tuple[Any, ...]]:
    """Where every product of a convolution is in the padded x, in z and in w, given their shapes, one by one."""
    for at in itertools.product(*map(range, (*z, *w[1:]))):
        n, o, down, across, c, i, j = at
        row, column = down * stride[0] + i * dilation[0], across * stride[1] + j * dilation[1]
        yield (n, o // (w[0] // groups) * w[1] + c, row, column), (n, o, down, across), (o, c, i, j)


def _padded(x: np.ndarray, padding: Any, value: Any = 0) -> np.ndarray:
    y = np.full((*x.shape[:-2], x.shape[-2] + 2 * padding[0], x.shape[-1] + 2 * padding[1]), value, x.dtype)
    y[..., padding[0] : padding[0] + x.shape[-2], padding[1] : padding[1] + x.shape[-1]] = x
    return y


def _conv2d(x: np.ndarray, w: np.ndarray, *, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    x = _padded(x, padding)
    down, across = (
        len(range(0, n - d * (k - 1), s)) for n, k, s, d in zip(x.shape[2:], w.shape[2:], stride, dilation, strict=True)
    )
    y = np.zeros((len(x), len(w), down, across), np.result_type(x, w))
    for i, k, j in _taps(x.shape, y.shape, w.shape, stride, padding, dilation, groups):
        y[k] += x[i] * w[j]
    return y


def _conv2d_input(z: Any, w: Any, *, shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    y = _padded(np.zeros((len(z), w.shape[1] * groups, *shape), np.result_type(z, w)), padding)
    for i, k, j in _taps(y.shape, z.shape, w.shape, stride, padding, dilation, groups):
        y[i] += z[k] * w[j]
    return y[:, :, padding[0] : padding[0] + shape[0], padding[1] : padding[1] + shape[1]]


def _conv2d_weight(x: Any, z: Any, *, size: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> np.ndarray:
    x = _padded(x, padding)
    y = np.zeros((z.shape[1], x.shape[1] // groups, *size), np.result_type(x, z))
    for i, k, j in _taps(x.shape, z.shape, y.shape, stride, padding, dilation, groups):
        y[j] += x[i] * z[k]
    return y


def _pooled(x: np.ndarray, size: Any, stride: Any, padding: Any, choose: Callable[..., Any]) -> np.ndarray:
    """For each window what `choose` makes of the positions of its pixels in the flattened x, -1 for padding."""
    spots = _padded(_positions(x.shape), padding, -1)
    *leading, h, w = spots.shape
    tops, lefts = range(0, h - size[0] + 1, stride[0]), range(0, w - size[1] + 1, stride[1])
    found = [
        choose(k, spots[(*at, slice(top, top + size[0]), slice(left, left + size[1]))].reshape(-1))
        for k, (at, top, left) in enumerate(itertools.product(np.ndindex(*leading), tops, lefts))
    ]
    return np.array(found).reshape(*leading, len(tops), len(lefts))


def _pool_argmax(x: np.ndarray, *, size: Any, stride: Any, padding: Any) -> np.ndarray:
    def choose(_: int, spots: np.ndarray) -> Any:
        inside = spots[spots >= 0]
        return inside[np.argmax(x.reshape(-1)[inside])]

    return _pooled(x, size, stride, padding, choose).astype(np.intp)


def _pool_draw(x: np.ndarray, u: np.ndarray, *, size: Any, stride: Any, padding: Any) -> np.ndarray:
    def choose(k: int, spots: np.ndarray) -> Any:
        inside = spots[spots >= 0]
        weights = [0 if n < 0 else n for n in x.reshape(-1)[inside]]
        sums = [*itertools.accumulate(weights)]
        goal = u.reshape(-1)[k] * sums[-1]
        past = [n != n or n > goal or n == sums[-1] for n in sums]
        return inside[past.index(True)]

    return _pooled(x, size, stride, padding, choose).astype(np.intp)


def _put_back(z: np.ndarray, at: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    y = np.zeros(shape, z.dtype)
    for number, spot in zip(z.reshape(-1), at.reshape(-1), strict=True):
        y.reshape(-1)[spot] += number
    return y


def _avg_pool(x: np.ndarray, *, size: Any, stride: Any, padding: Any) -> np.ndarray:
    def choose(_: int, spots: np.ndarray) -> Any:
        return np.sum(x.reshape(-1)[spots[spots >= 0]], dtype=y_type) / y_type(spots.size)

    y_type = x.dtype.type if x.dtype.kind == "f" else np.float64
    return _pooled(x, size, stride, padding, choose).astype(y_type)


def _avg_unpool(x: np.ndarray, *, shape: Any, size: Any, stride: Any, padding: Any) -> np.ndarray:
    share = x / math.prod(size)
    y = _padded(np.zeros((*x.shape[:-2], *shape), share.dtype), padding)
    for at in np.ndindex(*x.shape):
        top, left = at[-2] * stride[0], at[-1] * stride[1]
        y[(*at[:-2], slice(top, top + size[0]), slice(left, left + size[1]))] += share[at]
    return y[..., padding[0] : padding[0] + shape[0], padding[1] : padding[1] + shape[1]]


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
    "linear": lambda x, w, b: np.einsum("...ij,...jk->...ik", x, w) + np.expand_dims(b, -2),
    "round": np.rint,
    "sgd": _sgd,
    "momentum": _momentum,
    "adam": _adam,
    "standardise": lambda x, *, axis, eps: (
        (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)
    ),
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
    "gelu": lambda x: np.maximum(x, -1e30) * special.ndtr(x),  # -0 at -∞, not 0·∞
    "silu": lambda x: np.maximum(x, -1e30) * special.expit(x),
    "bce_with_logits": _bce_with_logits,
    "cross_entropy": _cross_entropy,
    "bce_with_logits_and_slope": _bce_with_logits_and_slope,
    "cross_entropy_and_slope": _cross_entropy_and_slope,
    "gaussian_kl": _gaussian_kl,
    **{name: _reduction(getattr(np, name)) for name in ("sum", "max", "min", "all", "any", "argmax", "argmin")},
    "moments": lambda x, **along: (np.mean(x, **along), np.var(x, **along)),
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
    "conv2d": _conv2d,
    "conv2d_input": _conv2d_input,
    "conv2d_weight": _conv2d_weight,
    "pool_argmax": _pool_argmax,
    "pool_draw": _pool_draw,
    "max_pool": lambda x, **window: x.reshape(-1)[_pool_argmax(x, **window)],
    "max_pool_input": lambda z, x, **window: _put_back(z, _pool_argmax(x, **window), x.shape),
    "stochastic_pool": lambda x, u, **window: x.reshape(-1)[_pool_draw(x, u, **window)],
    "stochastic_pool_input": lambda z, x, u, **window: _put_back(z, _pool_draw(x, u, **window), x.shape),
    "avg_pool": _avg_pool,
    "avg_unpool": _avg_unpool,
    "random_next": lambda state: np.array([state[0], state[1] + np.uint64(1)]),
}
