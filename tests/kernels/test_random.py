"""Random kernels: uniform numbers have the bits of NumPy's, normal ones those of the forward to rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import minigrad as mg
from minigrad import kernels
from minigrad.kernels import random as K
from minigrad.random import Generator, _normal_forward

from .arrays import CPUS, guarded, run_elsewhere

DTYPES = ["float32", "float64"]
STATES = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)).map(lambda s: np.array(s, np.uint64))
N = 500_000
ALPHA = 1e-4  # seeds are fixed: a test that passes once passes always


def numpys(state: np.ndarray) -> np.random.Generator:
    key, draws = state.tolist()
    return np.random.Generator(np.random.Philox(key=key, counter=draws << 192))


@given(STATES, st.integers(0, 300), st.sampled_from(DTYPES))
def test_uniform_has_numpys_bits(state: np.ndarray, n: int, dtype: str) -> None:
    np.testing.assert_array_equal(K.uniform(state, shape=(n,), dtype=dtype), numpys(state).random(n, dtype))


@given(STATES, st.integers(0, 300), st.sampled_from(DTYPES))
def test_normal_is_the_forward_to_rounding(state: np.ndarray, n: int, dtype: str) -> None:
    x = K.normal(state, shape=(n,), dtype=dtype)
    assert x.dtype == dtype
    np.testing.assert_allclose(x, _normal_forward(state, shape=(n,), dtype=dtype), atol=30 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draw", [K.uniform, K.normal])
def test_shapes_threads_and_guards(draw: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state, before = np.array([3, 4], np.uint64), kernels.num_threads()
    whole = draw(state, shape=(30_011,), dtype=dtype)
    kernels.set_num_threads(3)
    np.testing.assert_array_equal(draw(state, shape=(30_011,), dtype=dtype), whole)
    kernels.set_num_threads(before)
    for shape in [(), (1,), (0, 3), (5, 13), (64,), (65,), (2, 3, 1001)]:
        with guarded(K, monkeypatch):
            x = draw(state, shape=shape, dtype=dtype)
        np.testing.assert_array_equal(x.reshape(-1), whole[: x.size])  # the shape does not matter


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_is_normal(dtype: str) -> None:
    """Its distribution, moments and tails; halves of tiles are independent though they share radii."""
    x = K.normal(np.array([5, 0], np.uint64), shape=(N,), dtype=dtype).astype(np.float64)
    assert stats.kstest(x, "norm").pvalue > ALPHA
    for k, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], 1):
        assert abs((x**k).mean() - moment) < 4 * np.sqrt(variance / N), k
    for tail in (2, 3, 4):
        for side in (x > tail, x < -tail):
            assert stats.binomtest(int(side.sum()), N, stats.norm.sf(tail)).pvalue > ALPHA
    cosines, sines = x[: N // 64 * 64].reshape(-1, 2, K.TILE).swapaxes(0, 1).reshape(2, -1)
    for a, b in ((cosines, sines), (cosines**2, sines**2), (x[:-1], x[1:]), (abs(x[:-1]), abs(x[1:]))):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_draws_with_and_without_kernels(dtype: str) -> None:
    for draw in (mg.random.uniform, mg.random.normal):
        results = []
        for mode in ("numpy", "numba"):
            with kernels.use(mode):
                results.append(draw((7, 11), dtype=dtype, generator=Generator(9)).data)
        np.testing.assert_allclose(*results, atol=0 if draw is mg.random.uniform else 30 * np.finfo(dtype).eps)


def test_the_largest_radius_is_finite() -> None:
    """The smallest u is 2⁻⁵³ or 2⁻³², never 0."""
    for dtype, most in (("float32", 6.7), ("float64", 8.6)):
        x = K.normal(np.array([1, 0], np.uint64), shape=(N,), dtype=dtype)
        assert np.abs(x).max() < most


def test_what_kernels_do_not_know() -> None:
    for state in (np.zeros(2, np.int64), np.zeros(3, np.uint64), [0, 0]):
        assert K.uniform(state, shape=(), dtype=float) is NotImplemented
        assert K.normal(state, shape=(), dtype=float) is NotImplemented
    assert K.uniform(np.zeros(2, np.uint64), shape=(), dtype=np.float16) is NotImplemented


SCRIPT = """
import numpy as np
from minigrad.kernels import random as K
from minigrad.random import _normal_forward
state = np.array([12345, 6], np.uint64)
u = np.random.Generator(np.random.Philox(key=12345, counter=6 << 192)).random(1001, np.float32)
np.testing.assert_array_equal(K.uniform(state, shape=(1001,), dtype="float32"), u)
for dtype in ("float32", "float64"):
    want = _normal_forward(state, shape=(1001,), dtype=dtype)
    np.testing.assert_allclose(K.normal(state, shape=(1001,), dtype=dtype), want, atol=30 * np.finfo(dtype).eps)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_other_processors(cpu: str, tmp_path: Any) -> None:
    run_elsewhere(cpu, SCRIPT, tmp_path)
