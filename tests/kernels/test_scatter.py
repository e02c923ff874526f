"""Scatter against NumPy's add.at: repeated and negative rows, layouts, threads, and what it declines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import kernels
from minigrad.kernels.scatter import scatter

from .arrays import LAYOUTS, between_nans

ONE = (("array",),)


def scattered(shape: Any, *parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    y = np.zeros(shape)
    for x, rows in parts:
        np.add.at(y, rows, x.astype(np.float64))
    return y


@given(
    n=st.integers(1, 5),
    rest=st.sampled_from([(), (1,), (3,), (17,), (2, 20)]),
    count=st.sampled_from([(), (1,), (7,), (2, 3), (0,)]),
    dtype=st.sampled_from(["float32", "float64"]),
    integers=st.sampled_from(["int64", "int32", "int8"]),
    layout=st.sampled_from(sorted(LAYOUTS)),
)
def test_rows_add_up(n: int, rest: Any, count: Any, dtype: str, integers: str, layout: str) -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(-n, n, count).astype(integers) for _ in range(2)]
    xs = [rng.normal(size=(*count, *rest)).astype(dtype) for _ in rows]
    there = LAYOUTS[layout]
    shape = (n, *rest)
    y = scatter(*map(there, xs), *map(there, rows), shape=shape, dtype=np.dtype(dtype), templates=ONE * 2)
    assert (y.shape, y.dtype) == (shape, dtype)
    np.testing.assert_allclose(
        y, scattered(shape, *zip(xs, rows, strict=True)), atol=1e-5 if dtype == "float32" else 1e-13
    )


def test_many_columns_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    x, rows = between_nans(rng.normal(size=(300, 1000)).astype("float32")), rng.integers(-40, 40, 300)
    before, results = kernels.num_threads(), []
    for threads in (1, 3):
        kernels.set_num_threads(threads)
        try:
            results.append(scatter(x, rows, shape=(40, 1000), dtype=x.dtype, templates=ONE))
        finally:
            kernels.set_num_threads(before)
    np.testing.assert_array_equal(*results)
    np.testing.assert_allclose(results[0], scattered((40, 1000), (x, rows)), atol=1e-4)


def test_declined() -> None:
    x, rows, double = np.ones((2, 3)), np.array([0, 1]), np.dtype("float64")
    for integers in ("int64", "uint8"):
        assert scatter(x, rows.astype(integers), shape=(2, 3), dtype=double, templates=ONE) is not NotImplemented
    assert scatter(x, rows + 1, shape=(2, 3), dtype=double, templates=ONE) is NotImplemented
    assert scatter(x, rows - 3, shape=(2, 3), dtype=double, templates=ONE) is NotImplemented
    assert scatter(x, rows.astype("uint64"), shape=(2, 3), dtype=double, templates=ONE) is NotImplemented
    assert scatter(x, rows == 0, shape=(2, 3), dtype=double, templates=ONE) is NotImplemented
    assert scatter(x.astype("float32"), rows, shape=(2, 3), dtype=double, templates=ONE) is NotImplemented
    assert scatter(x[:, :0], rows, shape=(2, 0), dtype=double, templates=ONE) is NotImplemented
    assert scatter(x[0], rows, shape=(2, 3), dtype=double, templates=ONE) is NotImplemented
    assert scatter(x, shape=(2, 3), dtype=double, templates=((0,),)) is NotImplemented


def test_an_index_out_of_range_is_still_an_error() -> None:
    with kernels.use("numba"), pytest.raises(IndexError, match="out of bounds"):
        mg.scatter_add(mg.zeros((3, 16)), [0, 3], mg.ones((2, 16)))
