"""Every way a gradient can look is recognised, and nothing is said of a right one, or of what the bars leave open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.testing.looks import looks
from minigrad.testing.strategies import Sizes, arrays, shapes

Array = np.ndarray[Any, Any]

SHAPES = [(6,), (2, 3), (3, 3), (2, 12, 2)]
RELATIVE = 1e-11  # how well the right gradients are known


def example(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A gradient, and the x that it belongs to: numbers of both signs, none twice."""
    rng = np.random.default_rng(len(shape))
    return rng.uniform(0.5, 2.0, shape) * rng.choice([-1, 1], shape), rng.uniform(-4, 4, shape)


def told(got: Any, want: Array, x: Array, **rest: Any) -> list[str]:
    """What is said where `want` is known up to RELATIVE."""
    rough = want * (1 + RELATIVE * np.random.default_rng(0).uniform(-1, 1, want.shape))
    return looks(np.asarray(got), rough, RELATIVE * np.abs(want), x, **rest)


EVERYWHERE: dict[str, Callable[[Array, Array], Any]] = {
    "the sign is flipped": lambda want, x: -want,
    "every entry is 2 times the right one": lambda want, x: 2 * want,
    "every entry is 1/2 times the right one": lambda want, x: want / 2,
    "every entry is -π times the right one": lambda want, x: -np.pi * want,
    "every entry is √2 times the right one": lambda want, x: np.sqrt(2) * want,
    "every entry is 0.9 times the right one": lambda want, x: 0.9 * want,
    "every entry is 1 + 1e-09 times the right one": lambda want, x: want * (1 + 1e-9),
    "every entry is 1 - 0.00025 times the right one": lambda want, x: want * (1 - 2.5e-4),
    "off by a constant 0.5": lambda want, x: want + 0.5,
    "off by a constant -1e-09": lambda want, x: want - 1e-9,
    "all zero, no gradient flows": lambda want, x: 0 * want,
    "not finite": lambda want, x: np.full(want.shape, np.nan),
    "the absolute value of the right one": lambda want, x: np.abs(want),
    "the square of the right one": lambda want, x: want**2,
    "the right one times x": lambda want, x: want * x,
    "the right one divided by x": lambda want, x: want / x,
    "the right one divided by x, with the sign flipped": lambda want, x: -want / x,
    "one over the right one": lambda want, x: 1 / want,
    "x itself": lambda want, x: x,
    "wrong only where x < 0: there the sign is flipped": lambda want, x: np.where(x < 0, -want, want),
    "wrong only where x > 0: there it is 1.5 times the right one": lambda want, x: np.where(x > 0, 1.5 * want, want),
    "wrong only where x < 0: there not finite": lambda want, x: np.where(x < 0, np.inf, want),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("look", EVERYWHERE)
def test_everywhere(look: str, shape: tuple[int, ...]) -> None:
    want, x = example(shape)
    found = told(EVERYWHERE[look](want, x), want, x)[0]
    assert found.replace("every entry is", "it is") == look.replace("every entry is", "it is")


IN_PLACES: dict[str, tuple[tuple[int, ...], Callable[[Array], Any]]] = {
    "every entry is 12, the length of axis 0, times the right one": ((12, 2), lambda want: 12 * want),
    "every entry is -1/15, one over the size, times the right one": ((3, 5), lambda want: -want / 15),
    "transposed": ((3, 3), lambda want: want.T),
    "transposed, with the sign flipped": ((3, 3), lambda want: -want.T),
    "with its axes in the order (2, 1, 0)": ((2, 3, 2), lambda want: want.T),
    "reversed along axis 0": ((4, 2), lambda want: want[::-1]),
    "reversed along axis 1": ((2, 4), lambda want: want[:, ::-1]),
    "shifted by 1 along axis 0": ((4,), lambda want: np.roll(want, 1)),
    "shifted by -1 along axis 1": ((2, 4), lambda want: np.roll(want, -1, 1)),
    "filled in Fortran order": ((2, 3), lambda want: want.ravel().reshape((2, 3), order="F")),
    "read in Fortran order": ((2, 3), lambda want: want.ravel(order="F").reshape(2, 3)),
    "the right numbers in the wrong places": ((5,), lambda want: want[[0, 2, 1, 4, 3]]),
    "not summed over the axes that broadcasting copied": ((3, 1), lambda want: np.ones((2, 3, 4)) * want / 8),
    "not summed over the axes that broadcasting copied, and the sign is flipped": (
        (2,),
        lambda want: -np.ones((3, 2)) * want / 3,
    ),
    "in another shape": ((2, 3), lambda want: want.reshape(6)),
    "wrong only in the last entry: there it is 1.5 times the right one": (
        (2, 3),
        lambda want: want * [[1, 1, 1], [1, 1, 1.5]],
    ),
    "wrong only in entry (0, 2): there the sign is flipped": ((2, 3), lambda want: want * [[1, 1, -1], [1, 1, 1]]),
    "wrong only in the last column: there all zero, no gradient flows": ((2, 3), lambda want: want * [1, 1, 0]),
    "wrong only in the first row: there the sign is flipped": ((3, 2), lambda want: want * [[-1], [1], [1]]),
}


@pytest.mark.parametrize("look", IN_PLACES)
def test_in_places(look: str) -> None:
    shape, wrong = IN_PLACES[look]
    want, _ = example(shape)
    assert told(wrong(want), want, np.ones(shape))[0] == look


def test_not_copied() -> None:
    want = np.full((2, 3), 7.0)
    assert told(np.float64(7), want, np.ones((2, 3))) == ["not copied along the axes that were summed"]


@pytest.mark.parametrize(
    ("region", "wrong"),
    [
        ("x = 0", [2]),
        ("x ≤ 0", [0, 1, 2, 5]),
        ("x ≥ 0", [2, 3, 4, 6, 7]),
        ("x > 1", [4, 6]),
        ("x < -1", [0, 5]),
        ("|x| > 2", [0, 4, 5]),
        ("|x| < 1", [2, 7]),
        ("|x̄| > 1e-07", [0, 2, 4]),
        ("|x̄| < 1", [1, 3, 5, 6, 7]),
    ],
)
def test_regions(region: str, wrong: list[int]) -> None:
    x = np.array([-3.0, -1.0, 0.0, 1.0, 2.5, -4.0, 2.0, 0.5])
    want = np.array([2.0, 1e-7, -3.0, 4e-8, 1.0, -2e-8, 3e-8, 1e-9])
    got = np.where(np.isin(np.arange(8), wrong), 0.0, want)
    assert told(got, want, x)[0] == f"wrong only where {region}: there all zero, no gradient flows"


def test_by_number_and_by_place() -> None:
    want, x = example((2, 3))
    x = np.abs(x) * [[1, 1, -1], [1, 1, 1]]
    found = told(np.where(x < 0, 0.3 * want, want), want, x)
    assert found == ["wrong only where x < 0: there it is 0.3 times the right one", "wrong only in entry (0, 2)"]


def test_another_input() -> None:
    want, other = example((3,))
    assert told(other, want, np.ones(3), others={"a": np.ones(2), "b": other}) == ["the cotangent of 'b'"]
    assert told(-other, want, np.ones(3), others={"b": other}) == ["the cotangent of 'b', with the sign flipped"]


def test_a_sample_has_no_places() -> None:
    want, x = example((4,))
    assert told(want * [1, 1, 1, 1.5], want, x, whole=False) == []
    assert told(np.roll(want, 1), want, x, whole=False) == []
    assert told(-want, want, x, whole=False) == ["the sign is flipped"]


def test_unknown_entries_are_passed_over() -> None:
    want, x = np.array([1.0, np.nan, 3.0, 4.0]), np.arange(4.0)
    bar = np.array([1e-9, 1e-9, np.inf, 1e-9])
    assert looks(np.array([-1.0, 9.0, 9.0, -4.0]), want, bar, x) == ["the sign is flipped"]
    assert looks(np.array([1.0, 9.0, 9.0, 4.0]), want, bar, x) == []
    assert looks(want + 1, want, np.full(4, np.inf), x) == []
    assert looks(np.ones((2, 4)), want, np.full(4, np.inf), x, {"other": want}) == []


def test_a_factor_that_the_bars_hide_is_not_told() -> None:
    want, x = np.array([1.0, 1.0]), np.array([0.5, 0.25])
    assert looks(2 * want, want, np.array([0.3, 0.3]), x) == []
    assert looks(2 * want, want, np.array([0.01, 0.01]), x) == ["every entry is 2 times the right one"]


@given(st.data())
def test_nothing_is_said_of_a_right_one(data: st.DataObject) -> None:
    """Whatever the bars allow is right; and so it is with some entries unknown."""
    shape = data.draw(shapes(Sizes(longest=4)))
    want, x, shift = (data.draw(arrays(shape)) for _ in range(3))
    bar = np.abs(data.draw(arrays(shape))) * data.draw(st.sampled_from([1e-12, 1e-3]))
    got = np.where(bar < 1e-2, want + bar * np.tanh(shift), shift)
    assert looks(got, want, np.where(bar < 1e-2, bar, np.inf), x, {"other": shift}) == []


@given(st.data())
def test_the_entry_that_is_wrong_is_the_one_that_is_named(data: st.DataObject) -> None:
    shape = data.draw(shapes(Sizes(longest=4, axes=1, shortest=2)))
    want, x = (data.draw(arrays(shape, values="ordinary")) for _ in range(2))
    spot = np.unravel_index(data.draw(st.integers(0, want.size - 1)), shape)
    got = want.copy()
    got[spot] += 100.0
    found = told(got, want, x)
    assert any(f"in entry {tuple(map(int, spot))}" in look or "in the last entry" in look for look in found)
    assert not any(name in look for name in ("every entry", "transposed", "zero", "sign is") for look in found)
