"""Checks of operations that only move, copy or add elements: their derivatives are exact, there is no tolerance.

Arrays hold small whole numbers, whose sums and products are exact in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import Tensor

_rng = np.random.default_rng(7)


def integers(shape: tuple[int, ...], rng: np.random.Generator = _rng) -> np.ndarray:
    """Small whole numbers, others in every call."""
    return np.array(rng.integers(-9, 10, shape), np.float64)


def _tuple(y: Any) -> tuple[Any, ...]:
    return y if isinstance(y, tuple) else (y,)


def _inner(xs: Any, ys: Any) -> float:
    return sum(float((x * y).sum()) for x, y in zip(xs, ys, strict=True))


def check_linear(f: Callable[..., Any], *shapes: tuple[int, ...], reference: Callable[..., Any] | None = None) -> None:
    """Check a function of Tensors that is linear in all of them together.

    Forward against NumPy (`reference`, or f on arrays), the VJP as the exact adjoint of the forward, the VJP of the VJP
    as the forward again, all of it on inputs that are contiguous and on ones that are not.
    """
    for layout in (np.array, _fortran, _strided):
        xs = [layout(integers(shape)) for shape in shapes]
        tensors = [mg.Tensor.wrap(x) for x in map(_readonly, xs)]
        for t in tensors:
            t.requires_grad = True
        before = [x.copy() for x in xs]
        ys = _tuple(f(*tensors))
        expected = _tuple((reference or f)(*xs))
        assert len(ys) == len(expected)
        for y, e in zip(ys, expected, strict=True):
            assert isinstance(y, Tensor)
            assert y.dtype == np.float64
            np.testing.assert_array_equal(y.data, e, strict=True)
        us = [Tensor(integers(y.shape), requires_grad=True) for y in ys]
        total = sum(((y * u).sum() for y, u in zip(ys, us, strict=True)), start=Tensor(0.0))
        total.backward(create_graph=True)
        x_bars = [t.grad for t in tensors]
        assert all(g is not None and g.shape == t.shape for g, t in zip(x_bars, tensors, strict=True))
        vs = [integers(shape) for shape in shapes]
        f_vs = [np.asarray(w) for w in _tuple((reference or f)(*vs))]
        assert _inner(f_vs, [u.data for u in us]) == _inner(vs, [g.data for g in x_bars])
        again = sum(((g * v).sum() for g, v in zip(x_bars, vs, strict=True)), start=Tensor(0.0))
        for u in us:
            u.zero_grad()
        again.backward()
        for u, f_v in zip(us, f_vs, strict=True):
            np.testing.assert_array_equal(u.grad.data, f_v)
        for x, b in zip(xs, before, strict=True):
            np.testing.assert_array_equal(x, b)


def _fortran(x: np.ndarray) -> np.ndarray:
    return np.array(x, order="F")


def _strided(x: np.ndarray) -> np.ndarray:
    return np.repeat(x, 2, -1)[..., ::2] if x.ndim else x


def _readonly(x: np.ndarray) -> np.ndarray:
    x = x.view()
    x.setflags(write=False)
    return x


def central_differences(f: Callable[[np.ndarray], float], x: np.ndarray, h: float = 1e-5) -> np.ndarray:
    """The gradient of a scalar function of an array, by differences; right to about 1e-9 for f of order 1."""
    gradient = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        gradient[i] = (f(up) - f(down)) / (2 * h)
    return gradient


def check_cubic(f: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    """Gradient and Hessian-vector product of Σ f(x)³ against central differences."""
    x0 = _rng.uniform(0.5, 1.5, shape)
    v = _rng.uniform(-1, 1, shape)

    def loss(x: Any) -> Any:
        y = f(x)
        return (y * y * y).sum()

    def gradient(x: np.ndarray) -> Any:
        t = Tensor(x, requires_grad=True)
        loss(t).backward(create_graph=True)
        return t, t.grad

    t, g = gradient(x0)
    np.testing.assert_allclose(g.data, central_differences(lambda x: float(loss(x)), x0), rtol=1e-7, atol=1e-7)
    t.zero_grad()
    (g * v).sum().backward()
    slope = central_differences(lambda x: float((gradient(x)[1].data * v).sum()), x0)
    np.testing.assert_allclose(t.grad.data, slope, rtol=1e-7, atol=1e-7)
