"""Convolution and pooling against NumPy in float64: windows of all sorts, layouts, guard cells, threads, processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import kernels
from minigrad.kernels import convolution as C
from minigrad.ops import convolution as ops

from .arrays import CPUS, LAYOUTS, between_nans, guarded, run_elsewhere

DTYPES = ["float32", "float64"]
BY_NUMPY = {
    "conv2d": ops._conv2d_forward,
    "conv2d_input": ops._conv2d_input_forward,
    "conv2d_weight": ops._conv2d_weight_forward,
    "max_pool": ops._max_pool.forward,
    "stochastic_pool": ops._stochastic_pool.forward,
    "avg_pool": ops._avg_pool.forward,
    "avg_unpool": ops._avg_unpool.forward,
}


def numbers(shape: Any, dtype: str, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def convolutions(
    n: int, groups: int, channels: int, out: int, size: Any, stride: Any, padding: Any, dilation: Any, spare: Any
) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """The three, as the name, the shapes and the parameters; images are as small as they can be, and `spare` more."""
    image = [
        max(1, d * (k - 1) + 1 - 2 * p) + more for k, p, d, more in zip(size, padding, dilation, spare, strict=True)
    ]
    windows = [
        (h + 2 * p - d * (k - 1) - 1) // s + 1
        for h, k, s, p, d in zip(image, size, stride, padding, dilation, strict=True)
    ]
    x, w, z = (n, groups * channels, *image), (groups * out, channels, *size), (n, groups * out, *windows)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return [
        ("conv2d", (x, w), options),
        ("conv2d_input", (z, w), {"shape": tuple(image), **options}),
        ("conv2d_weight", (x, z), {"size": size, **options}),
    ]


def agrees(name: str, arrays: list[np.ndarray], params: dict[str, Any], layout: str = "between NaNs") -> None:
    """The kernel gives what NumPy gives in float64, but for eps times the sum of what is multiplied."""
    y = getattr(C, name)(*map(LAYOUTS[layout], arrays), **params)
    wide = [a.astype(np.float64) for a in arrays]
    want, size = BY_NUMPY[name](*wide, **params), BY_NUMPY[name](*map(np.abs, wide), **params)
    assert (y.shape, y.dtype) == (want.shape, arrays[0].dtype)
    bound = 0 if name == "max_pool" else 16 * np.finfo(y.dtype).eps * size
    assert (np.abs(y - want) <= bound).all(), (name, params)


few, pairs = st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(
    shape=st.tuples(few, few, st.integers(1, 5), st.integers(1, 10), pairs, pairs),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=pairs,
    spare=st.tuples(st.integers(0, 5), st.integers(0, 20)),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_convolutions(shape: Any, padding: Any, dilation: Any, spare: Any, dtype: str, layout: str) -> None:
    for name, shapes, params in convolutions(*shape, padding, dilation, spare):
        agrees(name, [numbers(s, dtype, i) for i, s in enumerate(shapes)], params, layout)


# more rows than a slab has, more filters and windows than a tile, several chunks
LARGE = {
    "many channels": (2, 1, 70, 9, (2, 2), (1, 1), (1, 0), (1, 1), (3, 4)),
    "many filters": (2, 1, 3, 110, (2, 2), (1, 1), (0, 1), (1, 1), (3, 4)),
    "wide windows": (1, 2, 1, 2, (17, 18), (1, 2), (8, 8), (1, 1), (5, 9)),
    "large images": (1, 1, 30, 40, (3, 3), (1, 1), (1, 1), (1, 1), (22, 22)),
    "many images": (70, 1, 8, 16, (3, 3), (1, 1), (0, 0), (1, 1), (9, 10)),
    "strided": (9, 2, 8, 9, (3, 3), (2, 3), (1, 1), (1, 1), (20, 30)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LARGE)
def test_large_ones_on_any_number_of_threads(case: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernels.num_threads()
    for name, shapes, params in convolutions(*LARGE[case]):
        arrays = [between_nans(numbers(s, dtype, i)) for i, s in enumerate(shapes)]
        agrees(name, arrays, params)
        results = []
        for threads in (1, 3):
            kernels.set_num_threads(threads)
            try:
                with guarded(C, monkeypatch):
                    results.append(getattr(C, name)(*arrays, **params))
            finally:
                kernels.set_num_threads(before)
        np.testing.assert_array_equal(*results)


@given(
    leading=st.sampled_from([(), (2,), (2, 3)]),
    size=pairs,
    stride=pairs,
    spare=st.tuples(st.integers(0, 5), st.integers(0, 20)),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(sorted(LAYOUTS)),
    data=st.data(),
)
def test_pooling(leading: Any, size: Any, stride: Any, spare: Any, dtype: str, layout: str, data: Any) -> None:
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in size)
    x = numbers((*leading, *(k + more for k, more in zip(size, spare, strict=True))), dtype).round(1)
    params: dict[str, Any] = {"size": size, "stride": stride, "padding": padding}
    windows = BY_NUMPY["avg_pool"](x, **params)
    u, g = np.random.default_rng(1).uniform(size=windows.shape).astype(dtype), numbers(windows.shape, dtype, 2)
    agrees("max_pool", [x], params, layout)
    agrees("avg_pool", [x], params, layout)
    agrees("avg_unpool", [g], {**params, "shape": x.shape[-2:]}, layout)
    there = LAYOUTS[layout]
    drawn = C.stochastic_pool(there(x), there(u), **params)
    np.testing.assert_array_equal(drawn, BY_NUMPY["stochastic_pool"](x, u, **params))
    for got, at in (
        (C.max_pool_input(there(g), there(x), **params), ops._pool_argmax(x, **params)),
        (C.stochastic_pool_input(there(g), there(x), there(u), **params), ops._pool_draw(x, u, **params)),
    ):
        want = np.zeros(x.size)
        np.add.at(want, at.reshape(-1), g.reshape(-1))
        np.testing.assert_allclose(got, want.reshape(x.shape), rtol=1e-5 if dtype == "float32" else 1e-13, atol=1e-6)


def test_pooling_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = between_nans(numbers((3, 70, 12, 13), "float32"))
    params: dict[str, Any] = {"size": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    g = numbers((3, 70, 6, 7), "float32", 1)
    with guarded(C, monkeypatch):
        agrees("max_pool", [x], params)
        agrees("avg_pool", [x], params)
        agrees("avg_unpool", [g], {**params, "shape": (12, 13)})
        C.max_pool_input(g, x, **params)


def test_the_first_nan_of_a_window_is_its_largest() -> None:
    x = np.array([[1.0, np.nan, 5.0, np.nan]])
    params: dict[str, Any] = {"size": (1, 4), "stride": (1, 1), "padding": (0, 0)}
    assert np.isnan(C.max_pool(x, **params)).all()
    assert C.max_pool_input(np.array([[2.0]]), x, **params).tolist() == [[0.0, 2.0, 0.0, 0.0]]


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_pixels(dtype: str, stride: int) -> None:
    """Ties, NaN, infinities and windows of -∞ alone: the same pixel as NumPy's argmax, in every lane."""
    x = np.random.default_rng(0).choice([0.0, -0.0, 1.0, np.nan, np.inf, -np.inf], (5, 7, 70)).astype(dtype)
    x[0] = -np.inf
    params: dict[str, Any] = {"size": (2, 3), "stride": (1, stride), "padding": (1, 1)}
    at = ops._pool_argmax(x, **params)
    y = C.max_pool(between_nans(x), **params)
    assert y.tobytes() == x.reshape(-1)[at].tobytes()
    g = np.arange(1.0, 1 + at.size).reshape(at.shape).astype(dtype)  # whole numbers: sums are exact in any order
    want = np.zeros(x.size)
    np.add.at(want, at.reshape(-1), g.reshape(-1))
    np.testing.assert_array_equal(C.max_pool_input(between_nans(g), between_nans(x), **params), want.reshape(x.shape))


def test_declined() -> None:
    x, w, options = (
        np.ones((1, 1, 3, 3)),
        np.ones((1, 1, 2, 2)),
        {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)},
    )
    window: dict[str, Any] = {"size": (2, 2), "stride": (1, 1), "padding": (0, 0)}
    assert C.conv2d(x, w.astype("float32"), **options, groups=1) is NotImplemented
    assert C.conv2d(x[:0], w, **options, groups=1) is NotImplemented
    assert C.conv2d(x.astype(int), w.astype(int), **options, groups=1) is NotImplemented
    assert C.max_pool(x.astype(int), **window) is NotImplemented
    assert C.stochastic_pool(x, np.ones((2, 2)), **window) is NotImplemented
    assert C.max_pool_input(x, x, **window) is NotImplemented
    assert C.stochastic_pool_input(x, x, x, **window) is NotImplemented


ELSEWHERE = """
import numpy as np
from minigrad.kernels import convolution as C
from minigrad.ops import convolution as ops

r = np.random.default_rng(0)
x, w = r.normal(size=(2, 6, 9, 11)), r.normal(size=(20, 3, 3, 2))
options = {"stride": (1, 2), "padding": (1, 0), "dilation": (2, 1), "groups": 2}
z = ops._conv2d_forward(x, w, **options)
for dtype, tolerance in (("f4", 1e-4), ("f8", 1e-12)):
    a, b, c = x.astype(dtype), w.astype(dtype), z.astype(dtype)
    for got, want in (
        (C.conv2d(a, b, **options), z),
        (C.conv2d_input(c, b, shape=(9, 11), **options), ops._conv2d_input_forward(z, w, shape=(9, 11), **options)),
        (C.conv2d_weight(a, c, size=(3, 2), **options), ops._conv2d_weight_forward(x, z, size=(3, 2), **options)),
    ):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * abs(want).max())
    for stride in ((2, 1), (1, 2), (2, 3)):
        window = {"size": (2, 3), "stride": stride, "padding": (1, 1)}
        at, y = ops._pool_argmax(a, **window), ops._avg_pool.forward(x, **window)
        np.testing.assert_array_equal(C.max_pool(a, **window), a.reshape(-1)[at])
        np.testing.assert_allclose(C.avg_pool(a, **window), y, rtol=tolerance, atol=tolerance)
        g, want = y.astype(dtype), np.zeros(x.size)
        np.add.at(want, at.reshape(-1), y.reshape(-1))
        np.testing.assert_allclose(C.max_pool_input(g, a, **window), want.reshape(x.shape), tolerance, tolerance)
        want = ops._avg_unpool_forward(y, shape=(9, 11), **window)
        np.testing.assert_allclose(C.avg_unpool(g, shape=(9, 11), **window), want, tolerance, tolerance)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_other_processors(cpu: str, tmp_path: Any) -> None:
    run_elsewhere(cpu, ELSEWHERE, tmp_path)
