"""Numerical derivatives: their error bars hold, and nothing that has no derivative gets one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.testing.complex_step import derivative
from minigrad.testing.numeric import STRETCHES, Line, grain, noise

EPS, EPS32 = 2.0**-52, 2.0**-23
Array = np.ndarray[Any, Any]

SMOOTH: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "sin": (np.sin, np.cos),
    "exp": (np.exp, np.exp),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "reciprocal": (lambda x: 1 / x, lambda x: -1 / x**2),
    "log": (lambda x: np.log(np.abs(x)), lambda x: 1 / x),
    "polynomial": (lambda x: x**7 - 3 * x, lambda x: 7 * x**6 - 3),
    "tiny": (lambda x: 1e-6 * np.sin(x), lambda x: 1e-6 * np.cos(x)),
    "offset": (lambda x: 1e6 + np.sin(x), np.cos),
    "bump": (lambda x: np.exp(-x * x), lambda x: -2 * x * np.exp(-x * x)),
}


@pytest.mark.parametrize("name", SMOOTH)
@given(st.integers(0, 2**32), st.floats(-6, 1.3))
def test_the_error_bars_hold(name: str, seed: int, magnitude: float) -> None:
    f, slope = SMOOTH[name]
    rng = np.random.default_rng(seed)
    x = rng.uniform(1, 2, 50) * 10.0**magnitude * rng.choice([-1, 1], 50)
    value, error = Line(lambda t: f(x * (1 + t)), EPS).slopes()
    want = slope(x) * x
    wrong = np.abs(value - want) > 4 * error + 32 * EPS * np.abs(want)
    assert np.count_nonzero(wrong) <= 1  # one in 100,000 is wrong by chance: the judge looks twice


@pytest.mark.parametrize("name", ["sin", "exp", "tanh", "polynomial"])
def test_the_error_bars_are_narrow(name: str) -> None:
    f, slope = SMOOTH[name]
    x = np.linspace(0.3, 3, 100)
    error = Line(lambda t: f(x * (1 + t)), EPS).slopes().error
    assert np.median(error / np.abs(slope(x) * x)) < 1e-11


@given(st.floats(1e-6, 0.2), st.floats(0.3, 3), st.sampled_from([-1, 1]))
def test_a_kink_among_the_steps_is_not_mistaken_for_a_slope(where: float, jump: float, side: int) -> None:
    line = Line(lambda t: np.array([np.sin(1 + t) + jump * max(0.0, side * t - where)]), EPS)
    value, error = line.slopes()
    assert abs(value[0] - np.cos(1)) <= 4 * error[0]
    assert error[0] < 1e-8


@given(st.floats(-2, 2), st.floats(-2, 2))
def test_both_sides_of_a_kink(left: float, right: float) -> None:
    line = Line(lambda t: np.array([np.sin(t) + (right if t > 0 else left) * t]), EPS)
    for found, want in zip(line.sides(), (1 + left, 1 + right), strict=True):
        assert abs(found.value[0] - want) <= 4 * found.error[0] + 32 * EPS
        assert found.error[0] < 1e-8


@pytest.mark.parametrize(
    "f",
    [
        lambda t: float(t > 0),
        lambda t: np.sign(t),
        lambda t: np.cbrt(t),
        lambda t: np.sin(1e14 * (1 + t)),
        lambda t: 0.0 if abs(t) > 0.1 else -np.inf if t else 1.0,
    ],
    ids=["step", "sign", "vertical tangent", "chaos", "infinite nearby"],
)
def test_without_a_slope(f: Callable[[float], float]) -> None:
    assert Line(lambda t: np.array([f(t)]), EPS, least=1e-16).slopes().error[0] == np.inf


def test_a_function_that_can_be_computed_nearby_alone() -> None:
    """Errors and infinities at long steps are no slopes, nor do they stop the search."""

    def f(t: float) -> Array:
        if t > 0.01:
            raise ValueError("outside of the domain")
        return np.array([np.log(1 + 60 * t), np.exp(3e4 * t)])

    value, error = Line(f, EPS).slopes()
    assert np.all(np.abs(value - [60, 3e4]) <= 4 * error)
    assert np.all(error < 1e-3)


@given(st.floats(-12, -6), st.integers(0, 2**32))
def test_noise_is_measured(exponent: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = 10.0**exponent
    found = noise(lambda t: np.sin(1 + t) + size * rng.standard_normal(200), EPS)
    assert 0.8 * size < np.sqrt(np.mean(found**2)) < 1.3 * size


def test_rounding_coarser_than_the_spaces_of_the_noise_table() -> None:
    """A small number is added to 1: from near, the function is flat, and its slope not 0. Of a table of rounded values
    that are a whole number of roundings apart, no noise is seen: now and then, an error bar is too small."""
    x = np.logspace(-7, -2, 1001)

    def f(t: float) -> Any:
        return np.log(1 + x * (1 + t))

    least = np.maximum(*(noise(f, EPS, stretch) for stretch in STRETCHES))
    value, error = Line(f, EPS, least=least).slopes()
    slope = x / (1 + x)
    held = (np.abs(value - slope) <= 4 * error) & (error < 0.02 * slope)
    assert np.mean(held) > 0.98


@given(st.floats(0.1, 1.2))
def test_a_grain_coarser_than_the_dtype_is_noticed(x: float) -> None:
    directions = np.array([1.0, 0.7, 1.3])
    assert grain(lambda t: np.sin(np.float32(x * (1 + directions * t))).astype(float), EPS) == EPS32
    assert grain(lambda t: np.sin(x * (1 + directions * t)), EPS) == EPS


@given(st.floats(-2, 3), st.sampled_from(["exp", "tanh", "sin", "log1p", "expm1", "sqrt"]))
def test_the_complex_step_against_mpmath(exponent: float, name: str) -> None:
    x = min(10.0**exponent, 300.0)
    with mpmath.workdps(400):
        f = {"log1p": lambda z: mpmath.log(1 + z), "expm1": lambda z: mpmath.exp(z) - 1}.get(name) or getattr(
            mpmath, name
        )
        want = float(mpmath.diff(f, mpmath.mpf(x)))
    found = derivative(lambda zs: [getattr(np, name)(zs[0])], [np.array([x])], [np.ones(1)])
    assert found is not None
    assert abs(found[0][0] - want) <= 8 * EPS * (1 + x) * abs(want) + 1e-300


@pytest.mark.parametrize(
    "f",
    [
        np.abs,
        np.sign,
        np.conj,
        lambda z: z.real,
        lambda z: z.astype(float),
        lambda z: np.maximum(z, 0),
        lambda z: np.asarray(z) * 2,
        lambda z: np.linalg.norm(z),
        lambda z: z.max(),
        lambda z: float(z[0]),
    ],
)
def test_the_complex_step_refuses_what_is_not_analytic(f: Callable[[Any], Any]) -> None:
    assert derivative(lambda zs: [f(zs[0])], [np.array([1.5])], [np.ones(1)]) is None


def test_the_complex_step_sees_branches() -> None:
    found = derivative(lambda zs: [np.where(zs[0] > 1, zs[0] ** 2, zs[0])], [np.array([0.5, 3.0])], [np.ones(2)])
    np.testing.assert_allclose(found, [[1.0, 6.0]], rtol=1e-15)
