"""Results are arrays; scalars are weak, arrays promote as in NumPy 2; what is not computed with is refused."""

import operator
from fractions import Fraction

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor

F32 = ["float32", "float64"]
OPERATORS = [operator.add, operator.sub, operator.mul, operator.truediv]
REFUSED = ["float16", "complex64", "complex128", "longdouble", "U1", "S1", "object", "datetime64[s]", "timedelta64[s]"]


def test_creation():
    assert Tensor([1.0, 2.0]).dtype == np.float64
    assert Tensor([1, 2]).dtype == np.int64
    assert Tensor([True]).dtype == np.bool_
    assert Tensor(1.0).dtype == np.float64
    assert Tensor([1, 2.0]).dtype == np.float64
    assert Tensor(np.ones(2, "float32")).dtype == np.float32
    assert Tensor([1, 2], dtype="float32").dtype == np.float32
    assert Tensor(np.float32(1.0)).dtype == np.float32
    assert Tensor(Tensor([1.0], "float32"), dtype="float64").dtype == np.float64


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"])
def test_integers_and_booleans_are_carried(dtype):
    t = Tensor([1, 0, 1], dtype)
    assert t.dtype == dtype
    assert (t + t).dtype == dtype
    assert t[1:].dtype == dtype


def test_byte_order_is_made_native():
    t = Tensor(np.array([1.0, 2.0], ">f8"))
    assert t.dtype.isnative
    assert t.tolist() == [1, 2]
    assert (Tensor([1.0]) * np.array([3.0], ">f4")).dtype.isnative
    assert mg.from_numpy(np.array([1.0], ">f4")).dtype.isnative


@pytest.mark.parametrize("dtype", REFUSED)
def test_what_is_not_computed_with_is_refused_at_every_door(dtype):
    a = np.zeros(2, dtype)
    message = "minigrad computes with float32, float64, integers and booleans, not .*: convert with astype"
    t = Tensor([1.0, 2.0])
    doors = [
        lambda: Tensor(a),
        lambda: mg.from_numpy(a),
        lambda: t + a,
        lambda: a + t,
        lambda: mg.multiply(t, a),
        lambda: mg.multiply(a, t),
        lambda: mg.where(t > 0.0, t, a),
        lambda: mg.concat([t, a]),
        lambda: t.assign(a),
        lambda: mg.full_like(t, 0, dtype=dtype),
    ]
    if dtype not in ("U1", "S1"):
        doors += [lambda: t.astype(dtype), lambda: mg.zeros(2, dtype=dtype)]
    for door in doors:
        with pytest.raises(TypeError, match=message):
            door()
    assert a.flags.writeable


@pytest.mark.parametrize(
    "scalar", [1j, np.complex64(1j), np.complex128(1j), np.longdouble(1), None, "a", Fraction(1, 2)]
)
def test_scalars_that_are_not_computed_with(scalar):
    t = Tensor([1.0, 2.0])
    for f in (operator.add, operator.mul, mg.maximum):
        for a, b in ((t, scalar), (scalar, t)):
            with pytest.raises(TypeError):
                f(a, b)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "bool"])
@pytest.mark.parametrize("op", [mg.exp, mg.sqrt, mg.sin, mg.log1p])
def test_no_float16_comes_out_of_small_integers(op, dtype):
    """NumPy computes them in float16."""
    with pytest.raises(TypeError, match="not float16: convert with astype first"):
        op(Tensor([1, 0], dtype))


# Results


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x.sum(),
        lambda x: x[0],
        lambda x: x.max(),
        lambda x: x @ x,
        lambda x: mg.mean(x) * 2.0,
        lambda x: mg.exp(x[0]),
        lambda x: mg.argmax(x),
        lambda x: mg.all(x > 0.0),
        lambda x: mg.norm(x),
        lambda x: x[0] > 1.0,
        lambda x: x.sum().reshape(()),
        lambda x: x.sum().astype("float32"),
        lambda x: mg.where(True, x[0], 0.0),
        lambda x: mg.mse(x, x * 0.5),
    ],
)
@pytest.mark.parametrize("dtype", F32)
def test_a_result_of_no_dimensions_is_an_array(f, dtype):
    x = Tensor([1.0, 2.0], dtype, requires_grad=True)
    y = f(x)
    assert type(y) is Tensor
    assert type(y.data) is np.ndarray
    assert y.shape == ()
    if y.requires_grad:
        y.backward()
        assert type(x.grad.data) is np.ndarray
        assert x.grad.dtype == dtype


@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("dtype", F32)
@pytest.mark.parametrize(
    "scalar",
    [2, 2.0, True, np.float64(2), np.float32(2), np.float16(2), np.int64(2), np.uint8(2), np.bool_(True)],
    ids=lambda s: type(s).__name__,
)
def test_scalars_are_weak(op, dtype, scalar):
    x = Tensor([1.0, 4.0], dtype, requires_grad=True)
    for y in (op(x, scalar), op(scalar, x)):
        assert y.dtype == dtype
        y.sum().backward()
        assert x.grad.dtype == dtype
    np.testing.assert_array_equal(op(x, scalar).data, op(np.array([1.0, 4.0], dtype), float(scalar)))


@pytest.mark.parametrize(
    "f", [lambda x, s: x**s, lambda x, s: mg.where(x > s, x, s), mg.clip, lambda x, s: mg.full_like(x, s)]
)
def test_scalars_are_weak_elsewhere_too(f):
    x = Tensor([1.0, 4.0], "float32")
    for scalar in (2.0, np.float64(2.0), 2):
        assert f(x, scalar).dtype == np.float32


def test_scalars_and_integers():
    assert (Tensor([1, 2]) * 2).dtype == np.int64
    assert (Tensor([1, 2], "int8") + np.int64(2)).dtype == np.int8
    assert (Tensor([1, 2]) * 2.0).dtype == np.float64
    assert (Tensor([1, 2]) / 2).dtype == np.float64
    assert (Tensor([True, False]) + 1).dtype == np.int64
    with pytest.raises(ValueError, match="out of bounds"):
        Tensor([1], "int8") + 300


@pytest.mark.parametrize("left", ["float32", "float64", "int32", "int64", "bool", "uint8"])
@pytest.mark.parametrize("right", ["float32", "float64", "int32", "int64", "bool", "uint8"])
@pytest.mark.parametrize("shape", [(), (2,)])
def test_arrays_promote_as_in_numpy(left, right, shape):
    a, b = np.ones(2, left), np.ones(shape, right)
    expected = (a + b).dtype if shape else np.result_type(left, right)
    for x, y in ((Tensor(a), Tensor(b)), (Tensor(a), b), (a, Tensor(b))):
        assert (x + y).dtype == expected
        assert mg.add(y, x).dtype == expected


# Cotangents


@pytest.mark.parametrize("create_graph", [False, True])
def test_each_cotangent_has_the_dtype_of_its_input(create_graph):
    x32, x64 = Tensor([1.0, 2.0], "float32", requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    y = x32 * x64 + x32
    y.retain_grad()
    mg.exp(y.astype("float32")).sum().backward(create_graph=create_graph)
    assert (x32.grad.dtype, x64.grad.dtype, y.grad.dtype) == (np.float32, np.float64, np.float64)


def test_the_rule_of_a_float32_operation_stays_in_float32():
    seen = []
    x = Tensor([0.5, 0.25], "float32", requires_grad=True)
    y = x
    for op in (mg.tanh, mg.sigmoid, mg.exp, mg.log, mg.sqrt, mg.softplus, lambda v: mg.softmax(v, -1), lambda v: v**3):
        y = op(y)
        y.register_hook(seen.append)
        seen.append(y)
    y.sum().backward()
    assert {t.dtype for t in seen} == {np.dtype("float32")}


def test_astype():
    x = Tensor([1.5, 2.5], requires_grad=True)
    y = x.astype("float32")
    y.sum().backward()
    assert x.grad.dtype == np.float64
    assert x.astype("int64").tolist() == [1, 2]
    assert not x.astype("int64").requires_grad
    assert x.astype("float64") is not x
