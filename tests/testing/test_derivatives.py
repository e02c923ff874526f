"""The table of right and wrong derivatives: its labels are true, and the checker gets every one of them right.

The labels are verified without any of the package: the functions run on numbers of 90 digits, so that difference
quotients with a step of 1e-20 are exact to float64, and on either side of a kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest

from benchmarks.derivatives import CASES, Case

STEP = mpmath.mpf(10) ** -20
CONTEXT = mpmath.mp.clone()
CONTEXT.dps = 90


def binary(name: str) -> Callable[[Any, Any], Any]:
    """An operator of floats and Exact numbers."""

    def operate(self: Any, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            return NotImplemented
        result = getattr(self.value, name)(CONTEXT.mpf(other.value if isinstance(other, Exact) else float(other)))
        return Exact(result) if isinstance(result, CONTEXT.mpf) else result

    return operate


def unary(name: str) -> Callable[[Any], Any]:
    """A function of Exact numbers."""
    return lambda self: Exact(getattr(CONTEXT, name)(self.value))


class Exact:
    """A number of 90 digits with the methods that NumPy calls on the elements of an object array."""

    def __init__(self, value: Any):
        self.value = CONTEXT.mpf(value)

    def __neg__(self) -> Exact:
        return Exact(-self.value)

    def __abs__(self) -> Exact:
        return Exact(abs(self.value))

    def __floor__(self) -> Exact:
        return Exact(CONTEXT.floor(self.value))

    def __pow__(self, n: Any) -> Exact:
        return Exact(self.value**n)

    def __float__(self) -> float:
        return float(self.value)

    def __hash__(self) -> int:
        return hash(self.value)


OPERATORS = ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "lt", "le", "gt", "ge", "eq", "ne")
for operator in OPERATORS:
    setattr(Exact, f"__{operator}__", binary(f"__{operator}__"))
for function in ("exp", "log", "sin", "cos", "tanh", "cosh", "sqrt", "log1p", "expm1"):
    setattr(Exact, function, unary(function))

exactly = np.vectorize(Exact, otypes=[object])
rounded = np.vectorize(lambda x: float(x.value if isinstance(x, Exact) else x), otypes=[float])


def strung(ys: Any) -> np.ndarray:
    """One array, or a tuple of them, as one vector."""
    return np.concatenate([np.reshape(y, -1) for y in (ys if isinstance(ys, tuple) else (ys,))])


def moved(xs: tuple[np.ndarray, ...], v: np.ndarray, step: Any) -> list[np.ndarray]:
    """The arrays, a step along v."""
    parts = np.split(v, np.cumsum([x.size for x in xs])[:-1])
    return [x + np.reshape(part, x.shape) * step for x, part in zip(xs, parts, strict=True)]


def directions(xs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Each entry alone if they are few, and three in all of them: (directions, entries), in units of |x|."""
    x = strung(xs).astype(float)
    units = np.where(x == 0, np.max(np.abs(x)) or 1.0, np.abs(x))
    rng = np.random.default_rng(0)
    dense = rng.choice([-1.0, 1.0], (3, len(x))) * units
    return np.vstack([np.diag(units), np.abs(dense[:1]), dense]) if len(x) <= 40 else dense


def by_digits(f: Callable[..., Any], xs: tuple[np.ndarray, ...], v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slopes on the left and on the right along v, from numbers of 90 digits: the quotients of second order."""
    here = tuple(map(exactly, xs))
    at = lambda t: strung(f(*moved(here, exactly(v), Exact(t))))
    left, right = ((4 * at(h / 2) - at(h) - 3 * at(0)) / Exact(h) for h in (-STEP, STEP))
    return rounded(left), rounded(right)


def by_floats(f: Callable[..., Any], xs: tuple[np.ndarray, ...], v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same where a function takes floats alone (linear algebra): the quotient of fourth order."""
    at = lambda t: strung(f(*moved(xs, v, t)))
    h = 2.0**-10
    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    return slope, slope


LAPACK = ("inverse", "determinant", "solve", "eigenvalues", "singular values", "Cholesky factor")  # takes floats alone


@cache
def slopes(key: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Directions, slopes on the left and right in each, (directions, outputs), and to what they are known."""
    f, xs = key.f, key.xs
    vs = directions(xs)
    measure, known = (by_floats, 1e-9) if key.name.startswith(LAPACK) else (by_digits, 1e-12)
    pairs = [measure(f, xs, v) for v in vs]
    return vs, np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]), known


class Key:
    """A function and a point, shared by several cases: the same objects, the same slopes."""

    def __init__(self, case: Case):
        self.f, self.xs, self.name = case.f, case.xs, case.name

    def __hash__(self) -> int:
        return hash((id(self.f), *(x.tobytes() for x in self.xs)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hash(self) == hash(other)


def off(case: Case) -> float:
    """By how much a VJP is off, in units of what it adds up and of what is known; inf if it is no number."""
    vs, left, right, known = slopes(Key(case))
    known = 1e-6 if any(x.dtype == np.float32 for x in case.xs) else known
    y = case.f(*case.xs)
    shapes = [np.shape(z) for z in y] if isinstance(y, tuple) else [np.shape(y)]
    rng = np.random.default_rng(1)
    worst = 0.0
    for size in (1.0, 3.0, 1e-9):
        gs = [np.asarray(size * rng.normal(size=s), np.result_type(*case.xs)) for s in shapes]
        bars = case.pull(tuple(gs) if isinstance(y, tuple) else gs[0], *case.xs)
        if [b.shape for b in map(np.asarray, bars)] != [x.shape for x in case.xs]:
            return math.inf
        g, x_bar = strung(tuple(gs)).astype(float), strung(bars).astype(float)
        if np.any(np.isnan(x_bar)):
            return math.inf
        low, high = (np.sum(choose(g * left, g * right), axis=1) for choose in (np.minimum, np.maximum))
        terms = np.maximum(np.abs(left), np.abs(right)) @ np.abs(g) + np.abs(vs) @ np.abs(x_bar)
        got = vs @ x_bar
        beyond = np.maximum(np.maximum(low - got, got - high), 0)
        worst = max(worst, float(np.max(np.divide(beyond, terms, out=np.zeros_like(beyond), where=beyond != 0))))
    return worst / known


PLAIN = [case for case in CASES if case.vjp is not None]
names = {"ids": lambda case: case.name.replace(" ", "_")}


@pytest.mark.parametrize("case", PLAIN, **names)
def test_a_label_is_true(case: Case) -> None:
    with np.errstate(all="ignore"):
        how_far = off(case)
    assert how_far <= 1 if case.right else how_far > 2


@pytest.mark.parametrize("case", CASES, **names)
def test_the_checker_is_right(case: Case) -> None:
    report = case.judged()
    assert report.verdict == ("pass" if case.right else "fail"), report


def test_the_table_is_large_and_has_both_kinds() -> None:
    assert len(CASES) >= 60
    assert len({case.name for case in CASES}) == len(CASES)
    assert min(sum(case.right for case in CASES), sum(not case.right for case in CASES)) >= 30
