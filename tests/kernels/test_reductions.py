"""Reductions against NumPy in float64 and exact sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from minigrad import kernels
from minigrad.kernels import reductions as R
from minigrad.ops.reduction import _balanced_array

from .arrays import CPUS, LAYOUTS, between_nans, guarded, run_elsewhere

DTYPES = ["float32", "float64"]
REDUCTIONS = {"sum": R.sum, "max": R.amax, "min": R.amin}
SHAPES = st.lists(st.integers(1, 7), max_size=4) | st.tuples(st.integers(1, 5), st.integers(1, 300))
ROWS = [(1,), (3, 1), (4, 5), (3, 16), (3, 17), (2, 33), (2, 500), (2, 3, 4), (4, 5, 1)]


def eps(dtype: str) -> float:
    return float(np.finfo(dtype).eps)


def numbers(shape: Any, dtype: str, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 3, dtype)


@given(st.data(), SHAPES, st.sampled_from(DTYPES), st.booleans(), st.sampled_from(sorted(LAYOUTS)))
def test_any_axes_of_any_layout(data: Any, shape: Any, dtype: str, keepdims: bool, layout: str) -> None:
    axis = tuple(data.draw(st.permutations([i for i in range(len(shape)) if data.draw(st.booleans())])))
    x = numbers(shape, dtype)
    wide = x.astype(np.float64)
    for name, reduction in REDUCTIONS.items():
        y = reduction(LAYOUTS[layout](x), axis=axis, keepdims=keepdims)
        want = getattr(np, name)(wide, axis=axis, keepdims=keepdims)
        assert (y.shape, y.dtype) == (want.shape, dtype)
        assert not np.shares_memory(y, x)
        bound = 4 * eps(dtype) * np.sum(np.abs(wide), axis=axis, keepdims=keepdims) if name == "sum" else 0
        assert (np.abs(y - want) <= bound).all(), name


BIG = [(100_000,), (3, 40_000), (40_000, 3), (70, 2500), (2, 50, 2100), (20, 30, 100)]


@pytest.mark.parametrize("shape", BIG, ids=str)
def test_several_blocks_and_any_number_of_threads(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x = between_nans(numbers(shape, "float32"))
    before = kernels.num_threads()
    for axis in [(0,), (len(shape) - 1,), tuple(range(len(shape))), (0, len(shape) - 1)[: len(shape)]]:
        axis = tuple(sorted(set(axis)))
        for name, reduction in REDUCTIONS.items():
            results = []
            for threads in (1, 3):
                kernels.set_num_threads(threads)
                with guarded(R, monkeypatch):
                    results.append(reduction(x, axis=axis, keepdims=False))
            kernels.set_num_threads(before)
            assert results[0].tobytes() == results[1].tobytes()
            want = getattr(np, name)(x.astype(np.float64), axis=axis)
            bound = 4 * eps("float32") * np.sum(np.abs(x), axis=axis) if name == "sum" else 0
            assert (np.abs(results[0] - want) <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 100, 1000, 5000, 40_000, 200_000])
def test_sums_are_as_exact_as_numpys(n: int, dtype: str) -> None:
    """The worst of many sums, in units of eps·Σ|x|; and that worst does not grow with the length."""
    ours, numpys = [], []
    for seed in range(20):
        x = (np.random.default_rng(seed).lognormal(0, 3, n)).astype(dtype)
        x[::2] *= -1
        exact = math.fsum(x.tolist())
        for y, errors in ((R.sum(x, axis=(0,), keepdims=False), ours), (np.sum(x), numpys)):
            errors.append(abs(float(y) - exact) / (eps(dtype) * float(np.sum(np.abs(x), dtype=np.float64))))
    assert max(ours) <= max(numpys) + 0.5
    assert max(ours) <= 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_down_columns_do_not_lose_digits_with_length(dtype: str) -> None:
    x = np.full((50_000, 3), 0.1, dtype)
    want = 50_000 * float(x[0, 0])
    assert np.abs(R.sum(x, axis=(0,), keepdims=False) - want).max() <= 2 * eps(dtype) * want


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40,), (5, 40), (40, 5), (200, 3)])
@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.inf, np.nan]], ids=str)
def test_what_is_not_finite(bad: list[float], shape: tuple[int, ...], dtype: str) -> None:
    for seed in range(5):
        x = numbers(shape, dtype)
        where = np.random.default_rng(seed).choice(x.size, len(bad), replace=False)
        x.reshape(-1)[where] = bad
        for axis in range(len(shape)):
            with np.errstate(invalid="ignore"):
                for name, reduction in REDUCTIONS.items():
                    got, want = reduction(x, axis=(axis,), keepdims=False), getattr(np, name)(x, axis=axis)
                    np.testing.assert_allclose(got, want, rtol=20 * eps(dtype), atol=1000 * eps(dtype))
                got = R.logsumexp(x, axis=(axis,), keepdims=False)
                want = np.logaddexp.reduce(x.astype(np.float64), axis=axis)
                np.testing.assert_allclose(got, want, rtol=4 * eps(dtype), atol=20 * eps(dtype))


def test_a_sum_that_overflows() -> None:
    x = np.full(1000, 3e38, np.float32)
    assert R.sum(x, axis=(0,), keepdims=False) == np.inf
    assert R.sum(np.stack([x, -x], 1), axis=(0,), keepdims=False).tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing(dtype: str) -> None:
    x = np.zeros((3, 0, 2), dtype)
    assert R.sum(x, axis=(1,), keepdims=True).tolist() == [[[0, 0]]] * 3
    assert R.sum(x, axis=(0,), keepdims=False).shape == (0, 2)
    assert R.amax(x, axis=(1,), keepdims=False) is NotImplemented  # NumPy has the error
    assert R.softmax(x, axis=0) is NotImplemented
    assert R.logsumexp(x, axis=(1,), keepdims=False) is NotImplemented
    assert math.copysign(1, R.sum(np.array([-0.0, -0.0], dtype), axis=(0,), keepdims=False)) == -1


@pytest.mark.parametrize("x", [3.0, np.ones(3, int), np.ones(3, np.float16), np.ones(3, ">f4")], ids=repr)
def test_what_kernels_do_not_know(x: Any) -> None:
    assert R.sum(x, axis=(0,), keepdims=False) is NotImplemented
    assert R.softmax(x, axis=0) is NotImplemented
    assert R.logsumexp(x, axis=(0,), keepdims=False) is NotImplemented
    assert R.moments(x, (0,)) is NotImplemented
    assert R.softmax_vjp(np.ones(3), x, 0) is NotImplemented


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_softmax_and_its_kin(layout: str, shape: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = numbers(shape, dtype) * 4
    wide = x.astype(np.float64)
    given = LAYOUTS[layout](x)
    for axis in range(len(shape)):
        with guarded(R, monkeypatch):
            p, logs = R.softmax(given, axis=axis), R.log_softmax(given, axis=axis)
            size = R.logsumexp(given, axis=(axis,), keepdims=True)
        bound = 3 * eps(dtype) * (1 + np.abs(x).max())
        np.testing.assert_allclose(p, special.softmax(wide, axis), rtol=bound + 2 * eps(dtype))
        np.testing.assert_allclose(logs, special.log_softmax(wide, axis), rtol=2 * eps(dtype), atol=bound)
        np.testing.assert_allclose(size, special.logsumexp(wide, axis, keepdims=True), rtol=2 * eps(dtype), atol=bound)
    everywhere = R.logsumexp(given, axis=tuple(range(len(shape))), keepdims=False)
    np.testing.assert_allclose(everywhere, special.logsumexp(wide), rtol=2 * eps(dtype), atol=bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", ROWS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_rules_of_softmax(layout: str, shape: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, g = numbers(shape, dtype), numbers(shape, dtype, 1)
    for axis in range(len(shape)):
        y = R.softmax(x, axis=axis)
        pulls: list[tuple[Callable[..., Any], np.ndarray, np.ndarray]] = [
            (R.softmax_vjp, y, y * (g - np.sum(np.float64(g) * y, axis, keepdims=True))),
            (R.log_softmax_vjp, np.log(y), g - np.float64(y) * np.sum(np.float64(g), axis, keepdims=True)),
        ]
        for pull, output, plain in pulls:
            with guarded(R, monkeypatch):
                got = pull(LAYOUTS[layout](g), LAYOUTS[layout](output), axis)
            assert got.shape == shape
            want = _balanced_array(plain.copy(), output, axis)
            scale = np.abs(g).sum(axis, keepdims=True)
            assert (np.abs(got - want) <= 20 * eps(dtype) * scale).all()


@pytest.mark.parametrize("n", [10, 100])
@pytest.mark.parametrize("pull", [R.softmax_vjp, R.log_softmax_vjp])
def test_the_leading_entry_does_not_cancel(pull: Callable[..., Any], n: int) -> None:
    """Of a probability near 1, ȳ - Σ would be all rounding."""
    for lead in range(n):
        x = np.zeros((1, n), np.float32)
        x[0, lead] = 25
        y = R.softmax(x, axis=1) if pull is R.softmax_vjp else R.log_softmax(x, axis=1)
        g = np.zeros_like(x)
        g[0, lead] = 1
        x_bar = pull(g, y, 1)
        others = np.delete(x_bar, lead, 1)
        assert (others < 0).all()
        assert x_bar[0, lead] == pytest.approx(-others.sum(dtype=np.float64), rel=1e-6)


def test_of_two_that_lead_the_first_is_balanced() -> None:
    y = np.array([[0.25, 0.5, 0.5]], np.float32)  # no softmax: so that balancing is no matter of rounding
    g = np.array([[1.0, 2.0, 4.0]], np.float32)
    assert R.softmax_vjp(g, y, 1).tolist() == [[-0.5625, 0.1875, 0.375]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics(layout: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape, axis in (
        ((4, 5), (1,)),
        ((4, 5), (0,)),
        ((3, 4, 5, 2), (0, 2, 3)),
        ((3, 40), (1,)),
        ((2, 700), (0, 1)),
        ((40, 131), (0,)),
        ((5, 7, 17), (0, 1)),
        ((5, 7, 17), (1, 0)),
    ):
        x = numbers(shape, dtype) + 100
        x = x.astype(dtype)
        wide, g = x.astype(np.longdouble), numbers(shape, dtype, 1)
        mean, variance = wide.mean(axis, keepdims=True), wide.var(axis, keepdims=True)
        given = LAYOUTS[layout](x)
        with guarded(R, monkeypatch):
            got = R.moments(given, axis, True)
            y = R.standardise(given, axis=axis, eps=0.5)
            x_bar = R.standardise_vjp(LAYOUTS[layout](g), given, y, axis, 0.5)
        np.testing.assert_allclose(got[0], mean, rtol=2 * eps(dtype))
        np.testing.assert_allclose(got[1], variance, rtol=50 * eps(dtype))  # Σx²/n - mean² would lose 1e4 of these
        np.testing.assert_allclose(y, (wide - mean) / np.sqrt(variance + 0.5), atol=200 * eps(dtype))
        along = g - np.mean(g, axis, keepdims=True) - y * np.mean(g * np.float64(y), axis, keepdims=True)
        np.testing.assert_allclose(x_bar, along / np.sqrt(variance + 0.5), atol=50 * eps(dtype))
        assert R.moments(x, axis)[0].shape == np.mean(x, axis).shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_moments_of_what_is_special(axis: int, dtype: str) -> None:
    """In a row or a column of its own; the others don't see it."""
    x = np.moveaxis(numbers((100, 7), dtype), 0, axis)
    first = np.moveaxis(x, axis, 0)
    want = R.moments(x, (axis,))
    for value, mean, variance in (
        (np.nan, np.nan, np.nan),
        (np.inf, np.inf, np.nan),
        (-np.inf, -np.inf, np.nan),
        (0.5 * np.finfo(dtype).max, np.nan, np.inf),
    ):
        first[3, 2] = value
        got = R.moments(x.copy(), (axis,))
        if not np.isnan(mean) or np.isnan(value):
            np.testing.assert_array_equal(got[0][2], mean)
        np.testing.assert_array_equal(got[1][2], variance)
        for g, w in zip(got, want, strict=True):
            np.testing.assert_array_equal(np.delete(g, 2), np.delete(w, 2))
    of_zeros = R.moments(np.full((20, 5), -0.0, dtype), (0,))
    assert (np.signbit(of_zeros[0]) & (of_zeros[1] == 0)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3000, 200), (50_000, 3)], ids=str)
def test_moments_by_any_number_of_threads(shape: tuple[int, ...], dtype: str) -> None:
    """Bit for bit; and no digits are lost with the length."""
    x = np.asarray(numbers(shape, dtype) + 100, dtype)
    before, results = kernels.num_threads(), []
    for threads in (1, 3):
        kernels.set_num_threads(threads)
        results.append([R.moments(x, (0,)), R.moments(x.T, (1,))])
    kernels.set_num_threads(before)
    np.testing.assert_array_equal(results[0], results[1])
    deviations = x - np.mean(x, 0, np.longdouble)
    for mean, variance in results[0]:
        np.testing.assert_allclose(mean, np.mean(x, 0, np.longdouble).astype(float), rtol=2 * eps(dtype))
        np.testing.assert_allclose(variance, np.mean(deviations**2, 0).astype(float), rtol=8 * eps(dtype))


SCRIPT = """
import numpy as np
from scipy import special
from minigrad.kernels import reductions as R
for n in (1, 3, 4, 7, 8, 9, 16, 33, 1000):
    x = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32)
    for axis in (0, 1):
        np.testing.assert_allclose(R.sum(x, axis=(axis,), keepdims=False), x.sum(axis, dtype=float), atol=4e-4 / 8)
        assert (R.amax(x, axis=(axis,), keepdims=False) == x.max(axis)).all()
        mean, variance = R.moments(x, (axis,))
        np.testing.assert_allclose(mean, x.mean(axis, dtype=float), atol=1e-6)
        np.testing.assert_allclose(variance, x.var(axis, dtype=float), rtol=3e-6, atol=1e-12)
    np.testing.assert_allclose(R.softmax(x, axis=1), special.softmax(x.astype(float), 1), rtol=3e-6)
    p, g = R.softmax(x, axis=1), x[::-1]
    want = p * (g - (p * g).sum(1, keepdims=True))
    np.testing.assert_allclose(R.softmax_vjp(g, p, 1), want, atol=1e-6)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_other_processors(cpu: str, tmp_path: Any) -> None:
    run_elsewhere(cpu, SCRIPT, tmp_path)
