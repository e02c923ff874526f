"""Elementwise kernels as functions of arrays: layouts, sizes, what they decline; and rules against mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import mpmath
import numpy as np
import pytest

from minigrad.kernels import elementwise, num_threads, set_num_threads
from minigrad.kernels.elementwise import CHUNK
from minigrad.kernels.native import Kernel

DTYPES = [np.float32, np.float64]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


# name: its slope in mpmath
SLOPES: dict[str, Callable[[Any], Any]] = {
    "tanh": lambda x: mpmath.sech(x) ** 2,
    "softplus": sigmoid,
    "relu": lambda x: 1 if x > 0 else 0,
    "gelu": lambda x: mpmath.erfc(-x / mpmath.sqrt(2)) / 2 + x * mpmath.npdf(x),
    "silu": lambda x: sigmoid(x) * (1 + x * sigmoid(-x)),
    "erf": lambda x: 2 / mpmath.sqrt(mpmath.pi) * mpmath.exp(-x * x),
}


def numbers(dtype: type, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(dtype)


def layouts(x: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The same numbers, of two axes, laid out differently in memory."""
    yield "C", x.copy()
    yield "Fortran", np.asfortranarray(x)
    yield "reversed", x[::-1, ::-1].copy()[::-1, ::-1]
    spread = np.full((2 * x.shape[0], 3 * x.shape[1]), np.nan, x.dtype)
    spread[::2, ::3] = x
    yield "with gaps", spread[::2, ::3]
    raw = np.zeros(x.nbytes + 1, np.uint8)
    misaligned = raw[1:].view(x.dtype).reshape(x.shape)
    misaligned[...] = x
    yield "misaligned", misaligned
    read_only = x.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(dtype: type) -> None:
    """Any layout gives the same bits in a new array, and nothing is written to the input."""
    x = numbers(dtype, 7, 11)
    want = elementwise.tanh(x)
    np.testing.assert_allclose(want, np.tanh(x), rtol=1e-6)
    for name, laid in layouts(x):
        got = elementwise.tanh(laid)
        assert got.dtype == dtype, name
        assert not np.shares_memory(got, laid), name
        np.testing.assert_array_equal(got, want, err_msg=name)
        np.testing.assert_array_equal(laid, x, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_of_several_arrays(dtype: type) -> None:
    """Each may have its own."""
    g, x = numbers(dtype, 7, 11, seed=1), numbers(dtype, 7, 11)
    want = elementwise.silu_vjp(g, x)
    for _, laid_g in layouts(g):
        for _, laid_x in layouts(x):
            np.testing.assert_array_equal(elementwise.silu_vjp(laid_g, laid_x), want)


def test_the_layout_of_the_result() -> None:
    """Where the input has no gaps, the result has its layout: later operations need no copies."""
    x = numbers(np.float32, 3, 4, 5)
    for laid in (x, np.asfortranarray(x), x.transpose(1, 2, 0)):
        assert elementwise.exp(laid).strides == laid.strides
        assert elementwise.relu_vjp(laid, laid).strides == laid.strides


@pytest.mark.parametrize("dtype", DTYPES)
def test_broadcast_inputs(dtype: type) -> None:
    """Strides of 0, as cotangents of sums have them."""
    x = numbers(dtype, 5, 9)
    ones = np.broadcast_to(dtype(2), x.shape)
    np.testing.assert_array_equal(elementwise.softplus_vjp(ones, x), elementwise.softplus_vjp(ones.copy(), x))
    np.testing.assert_array_equal(elementwise.exp(np.broadcast_to(x[:, :1], x.shape)), elementwise.exp(x[:, [0] * 9]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_size(dtype: type) -> None:
    """Whole vectors and the rest, no elements, no axes, several chunks; nothing beyond the end is touched."""
    for n in (*range(70), CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 17):
        x = numbers(dtype, n)
        np.testing.assert_allclose(elementwise.exp(x), np.exp(x), rtol=1e-6)
        np.testing.assert_array_equal(elementwise.relu_vjp(x, -x), np.where(x < 0, x, 0))
    assert elementwise.exp(np.array(0.0, dtype)).shape == ()
    assert elementwise.exp(np.empty((3, 0, 2), dtype)).shape == (3, 0, 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_beyond_the_end_is_written(dtype: type) -> None:
    """With the kernel called as the functions here call it, on a part of an array."""
    kernel = Kernel("elementwise", "exp")[np.dtype(dtype)]
    for n in range(70):
        y = np.full(200, 7, dtype)
        kernel(np.zeros(n, dtype), y[64:], n, 1)
        np.testing.assert_array_equal(y, [7] * 64 + [1] * n + [7] * (136 - n))


def test_the_number_of_threads_changes_no_bit() -> None:
    x = numbers(np.float32, 5 * CHUNK + 3)
    before = num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            set_num_threads(n)
            results.append(elementwise.gelu(x).tobytes())
    finally:
        set_num_threads(before)
    assert len(set(results)) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "gelu"])
def test_no_element_depends_on_its_neighbours(name: str, dtype: type) -> None:
    """Nor on its place: not even where a formula branches because of some elements, or beside NaN."""
    x = numbers(dtype, 1000)
    x[7::100], x[23::100], x[[500, 501]] = -9, np.nan, [-np.inf, np.inf]
    function = getattr(elementwise, name)
    whole = function(x)
    np.testing.assert_array_equal(whole, np.concatenate([function(x[i : i + 1]) for i in range(x.size)]))
    np.testing.assert_array_equal(whole[::-1], function(x[::-1].copy()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_pieces_meet(dtype: type) -> None:
    """Multiples of 1/128 and their neighbours: formulas that look up coefficients change them at some of these."""
    middle = np.arange(-1280, 1281).astype(dtype) / 128
    x = np.concatenate([np.nextafter(middle, dtype(-20)), middle, np.nextafter(middle, dtype(20))])
    bound = {"rtol": 3 * np.finfo(dtype).eps, "atol": np.finfo(dtype).smallest_subnormal}
    for name, function in (
        ("tanh", math.tanh),
        ("erf", math.erf),
        ("gelu", lambda v: float(v * mpmath.erfc(-v / mpmath.sqrt(2)) / 2)),
    ):
        with mpmath.workdps(40):
            want = [function(v) for v in x.tolist()]
        np.testing.assert_allclose(getattr(elementwise, name)(x), want, err_msg=name, **bound)


@pytest.mark.parametrize(
    "x",
    [np.arange(3), np.ones(3, np.float16), np.ones(3, ">f4"), 1.0, np.float64(1.0), [1.0], np.ma.ones(3)],
    ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}",
)
def test_declined(x: Any) -> None:
    assert elementwise.exp(x) is NotImplemented
    assert elementwise.relu_vjp(x, x) is NotImplemented
    assert elementwise.leaky_relu(x, slope=0.1) is NotImplemented
    assert elementwise.sin(x) is NotImplemented


def test_declined_mixtures() -> None:
    x = np.ones(3)
    assert elementwise.tanh_vjp(x, np.ones(3, np.float32)) is NotImplemented
    assert elementwise.tanh_vjp(x, np.ones((2, 3))) is NotImplemented
    assert elementwise.sigmoid_vjp(x, x, np.ones(1)) is NotImplemented


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SLOPES)
def test_rules(name: str, dtype: type) -> None:
    """|error| ≤ 4 eps·(|f′| + |x·f″|)·|ȳ| plus a few subnormals: what an error of the input would do anyway."""
    far = 100 if dtype is np.float32 else 740
    x = np.concatenate([numbers(dtype, 300), np.linspace(-far, far, 201), np.linspace(-16, 16, 101)]).astype(dtype)
    g = numbers(dtype, x.size, seed=1)
    got = getattr(elementwise, f"{name}_vjp")(g, x)
    with mpmath.workdps(40):
        for y, v, u in zip(got.tolist(), x.tolist(), g.tolist(), strict=True):
            slope = SLOPES[name]
            bend = abs(v * mpmath.diff(slope, v)) if name != "relu" else 0
            bound = 4 * np.finfo(dtype).eps * (abs(slope(v)) + bend) * abs(u)
            bound += float(np.finfo(dtype).smallest_subnormal) * (1 + abs(u))
            assert abs(y - u * slope(mpmath.mpf(v))) <= bound, f"at {v}, cotangent {u}: {y}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_rule_of_sigmoid(dtype: type) -> None:
    far = 100 if dtype is np.float32 else 740
    x = np.concatenate([numbers(dtype, 300), np.linspace(-far, far, 101)]).astype(dtype)
    g = numbers(dtype, x.size, seed=1)
    got = elementwise.sigmoid_vjp(g, elementwise.sigmoid(x), x)
    with mpmath.workdps(40):
        pairs = [(mpmath.mpf(u), mpmath.mpf(v)) for u, v in zip(g.tolist(), x.tolist(), strict=True)]
        want = [float(u * sigmoid(v) * sigmoid(-v)) for u, v in pairs]
    tiny = float(np.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(got, want, rtol=8 * np.finfo(dtype).eps, atol=4 * tiny)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SLOPES)
def test_rules_of_the_largest_cotangents(name: str, dtype: type) -> None:
    """What they are multiplied with on the way may not overflow where the result does not; denormal slopes are 0."""
    largest, least = float(np.finfo(dtype).max), float(np.finfo(dtype).tiny)
    for x in np.linspace(-40, 6, 185).astype(dtype):
        slope = float(SLOPES[name](mpmath.mpf(float(x))))
        if abs(slope) <= 1:
            (got,) = getattr(elementwise, f"{name}_vjp")(np.array([largest], dtype), np.array([x]))
            tolerance = 1e-4 if dtype == np.float32 else 1e-12
            assert got == pytest.approx(largest * slope, rel=tolerance, abs=largest * least), x


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_a_kink(dtype: type) -> None:
    x, g = numbers(dtype, 100), numbers(dtype, 100, seed=1)
    x[:4] = -0.0, 0.0, np.nan, -np.inf
    exact = {"rtol": 4 * np.finfo(dtype).eps}
    np.testing.assert_array_equal(elementwise.relu(x), np.maximum(x, 0))
    slope = dtype(0.1)
    np.testing.assert_array_equal(elementwise.leaky_relu(x, slope=0.1), np.where(x > 0, x, slope * x))
    np.testing.assert_array_equal(elementwise.leaky_relu_vjp(g, x, slope=0.1), np.where(x > 0, g, slope * g))
    below = np.minimum(x, 0)
    np.testing.assert_allclose(elementwise.elu(x, alpha=1.5), np.where(x > 0, x, 1.5 * np.expm1(below)), **exact)
    np.testing.assert_allclose(
        elementwise.elu_vjp(g, x, alpha=1.5), np.where(x > 0, g, 1.5 * g * np.exp(below)), **exact
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SLOPES)
def test_rules_at_infinity_and_nan(name: str, dtype: type) -> None:
    x = np.array([np.inf, -np.inf, np.nan], dtype)
    up = 0.0 if name in ("tanh", "erf") else 1.0
    got = getattr(elementwise, f"{name}_vjp")(np.array([2, 2, 2], dtype), x)
    want = [2 * up, 0.0, 0.0 if name == "relu" else np.nan]
    np.testing.assert_array_equal(got, want)
