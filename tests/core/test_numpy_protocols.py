"""NumPy's functions and conversions on tensors: what has a rule is differentiable, what has none says so."""

import operator

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor
from minigrad.ops.by_numpy import OURS

A = np.array([[1.25, 2.375], [3.25, 4.75]])  # away from kinks, and exact in float32


@pytest.fixture
def x():
    return Tensor(A, requires_grad=True)


# Conversion

CONVERSIONS = {
    "asarray": np.asarray,
    "array": np.array,
    "asanyarray": np.asanyarray,
    "of a list": lambda t: np.array([t, t]),
    "with a dtype": lambda t: np.asarray(t, dtype="float32"),
    "stacked lists": lambda t: np.array([[t[0, 0], t[0, 1]]]),
    "ascontiguousarray": np.ascontiguousarray,
    "Tensor": Tensor,
    "Tensor of a list": lambda t: Tensor([t, t]),
    "fill": lambda t: np.ones((2, 2)).__setitem__(slice(None), t),
}


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
def test_no_gradient_is_lost_silently(convert, x):
    for t in (x, x * 2.0):
        with pytest.raises(TypeError, match=r"gradient would be lost: take .data, or .detach\(\) it first"):
            convert(t)
        convert(t.detach())
        convert(t.data)
        with mg.no_grad():
            convert(t)
    convert(x > 1.0)
    with pytest.raises(TypeError), mg.no_grad(), mg.enable_grad():
        convert(x)


def test_asarray_is_a_view_and_array_a_copy():
    t = Tensor(A)
    assert np.shares_memory(np.asarray(t), t.data)
    assert not np.asarray(t).flags.writeable
    copied = np.array(t)
    copied[0, 0] = 9.0
    assert t[0, 0].item() == 1.25
    converted = np.asarray(t, dtype="float32")
    assert converted.dtype == np.float32
    assert converted.flags.writeable


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.0.0", reason="copy=False means this since NumPy 2")
def test_without_a_copy():
    t = Tensor(A)
    assert np.shares_memory(np.asarray(t, copy=False), t.data)
    with pytest.raises(ValueError, match="by copying only"):
        np.asarray(t, dtype="float32", copy=False)


def test_a_tensor_of_integers_indexes_an_array():
    assert A[Tensor([1, 0])].tolist() == A[::-1].tolist()
    assert A[Tensor(1)].tolist() == A[1].tolist()
    assert [10, 20, 30][Tensor(2)] == 30
    assert list(range(Tensor(3))) == [0, 1, 2]


# Functions

UNARY = [np.exp, np.log, np.sqrt, np.sin, np.cos, np.tanh, np.square, np.abs, np.absolute, np.fabs, np.negative,
         np.expm1, np.log1p, np.sinh, np.cosh, np.sign, np.floor, np.ceil, np.rint, np.round]  # fmt: skip
BINARY = [np.add, np.subtract, np.multiply, np.divide, np.true_divide, np.power, np.maximum, np.minimum, np.matmul,
          np.outer, np.equal, np.less, np.greater_equal, np.logical_and]  # fmt: skip
FUNCTIONS = {
    "sum": lambda x: np.sum(x),
    "sum of an axis": lambda x: np.sum(x, 0),
    "sum by names": lambda x: np.sum(x, axis=1, keepdims=True),
    "mean": lambda x: np.mean(x, axis=0),
    "max": lambda x: np.max(x, axis=0),
    "amin": lambda x: np.amin(x, 1),
    "var": lambda x: np.var(x, axis=0),
    "var with ddof": lambda x: np.var(x, axis=0, ddof=1),
    "std with ddof": lambda x: np.std(x, ddof=1),
    "prod": lambda x: np.prod(x),
    "concatenate": lambda x: np.concatenate([x, x], axis=1),
    "concatenate a mixture": lambda x: np.concatenate([A, x, A]),
    "stack": lambda x: np.stack([x, x], axis=1),
    "where": lambda x: np.where(A > 2.0, x, 0.0),
    "where of tensors": lambda x: np.where(x > 2.0, x, -x),
    "clip": lambda x: np.clip(x, 1.5, 3.5),
    "clip by names": lambda x: np.clip(x, a_min=1.5, a_max=3.5),
    "reshape": lambda x: np.reshape(x, (4,)),
    "transpose": lambda x: np.transpose(x),
    "transpose by axes": lambda x: np.transpose(x, (1, 0)),
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "moveaxis": lambda x: np.moveaxis(x, 0, 1),
    "expand_dims": lambda x: np.expand_dims(x, 0),
    "squeeze": lambda x: np.squeeze(x[None]),
    "broadcast_to": lambda x: np.broadcast_to(x, (3, 2, 2)),
    "flip": lambda x: np.flip(x, 0),
    "roll": lambda x: np.roll(x, 1, axis=0),
    "tile": lambda x: np.tile(x, (2, 1)),
    "tile by name": lambda x: np.tile(x, reps=(2, 1)),
    "repeat": lambda x: np.repeat(x, 2, axis=0),
    "pad": lambda x: np.pad(x, 1),
    "take": lambda x: np.take(x, [0, 1], axis=0),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[0], [1]]), axis=1),
    "sort": lambda x: np.sort(x, axis=0),
    "cumsum": lambda x: np.cumsum(x, axis=0),
    "diagonal": lambda x: np.diagonal(x),
    "tril": lambda x: np.tril(x),
    "triu": lambda x: np.triu(x, 1),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, x),
    "tensordot": lambda x: np.tensordot(x, x, axes=1),
    "norm": lambda x: np.linalg.norm(x),
    "norm of an axis": lambda x: np.linalg.norm(x, axis=0),
    "split": lambda x: np.split(x, 2)[0],
    "argmax": lambda x: np.argmax(x, axis=0),
    "all": lambda x: np.all(x > 0.0),
    "zeros_like": lambda x: np.zeros_like(x),
    "isfinite": lambda x: np.isfinite(x),
    **{f.__name__: f for f in UNARY},
    **{f"{f.__name__} of two": (lambda x, f=f: f(x, x)) for f in BINARY},
    **{f"{f.__name__} after an array": (lambda x, f=f: f(A, x)) for f in BINARY},
    **{f"{f.__name__} before an array": (lambda x, f=f: f(x, A)) for f in BINARY},
}


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions_of_numpy(f, x):
    y = f(x)
    assert type(y) is Tensor
    np.testing.assert_allclose(y.data, f(A), rtol=1e-15, strict=True)
    if y.requires_grad:
        y.sum().backward()
        step = 1e-6 * np.array([[0.3, -0.7], [0.5, 0.2]])
        slope = (np.sum(f(A + step)) - np.sum(f(A - step))) / 2
        np.testing.assert_allclose((x.grad.data * step).sum(), slope, rtol=1e-6, atol=1e-14)


WITHOUT_RULE = {
    "kron": lambda t: np.kron(t, t),
    "fft": lambda t: np.fft.fft(t),
    "inv": lambda t: np.linalg.inv(t),
    "median": lambda t: np.median(t),
    "arctan2": lambda t: np.arctan2(t, t),
    "floor_divide": lambda t: np.floor_divide(t, 2.0),
    "add.reduce": lambda t: np.add.reduce(t),
    "multiply.outer": lambda t: np.multiply.outer(t, t),
    "add.accumulate": lambda t: np.add.accumulate(t),
    "nonzero": lambda t: np.nonzero(t),
    "allclose": lambda t: np.allclose(t, t),
    "array_equal": lambda t: np.array_equal(t, t),
    "divmod": lambda t: np.divmod(t, 2.0),
}


@pytest.mark.parametrize(("name", "f"), WITHOUT_RULE.items())
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_function_without_a_rule_names_itself(name, f, requires_grad):
    """There is no silent conversion, neither where no gradient would be lost."""
    t = Tensor(A, requires_grad=requires_grad)
    with pytest.raises(TypeError, match=rf"np\.{name} has no rule"):
        f(t)
    with pytest.raises(TypeError, match="has no rule"), mg.no_grad():
        f(t)
    f(t.data)


@pytest.mark.parametrize(
    "f",
    [
        lambda t: np.sum(t, dtype="float32"),
        lambda t: np.sum(t, where=A > 1.0),
        lambda t: np.sum(t, out=np.zeros(())),
        lambda t: np.add(t, t, where=A > 1.0),
        lambda t: np.exp(t, dtype="float32"),
        lambda t: np.mean(t, initial=1.0),
        lambda t: np.linalg.norm(t, ord=1),
        lambda t: np.sort(t, kind="stable"),
        lambda t: np.concatenate([t, t], casting="unsafe"),
        lambda t: np.add(t, t, out=np.zeros((2, 2))),
        lambda t: np.where(t),
        lambda t: np.round(t, 2),
    ],
)
def test_options_that_we_do_not_have_are_refused(f, x):
    with pytest.raises((TypeError, ValueError)):
        f(x)


@pytest.mark.parametrize(
    ("f", "count"),
    [
        (lambda t: np.linalg.norm(t, 1), 1),
        (lambda t: np.linalg.norm(t, 2, 0), 1),
        (lambda t: np.sum(t, 0, None), 2),
        (lambda t: np.sum(t, 0, np.float32), 2),
        (lambda t: np.sum(t, 0, True), 2),
        (lambda t: np.max(t, 0, None), 2),
        (lambda t: np.var(t, 0, None, None, 1), 2),
        (lambda t: np.reshape(t, (4,), "F"), 2),
    ],
)
def test_arguments_whose_place_means_something_else_here_are_refused(f, count, x):
    with pytest.raises(TypeError, match=f"name the arguments after the first {count}"):
        f(x)


def test_every_function_in_the_table_is_dispatched():
    assert all(callable(f) for f in OURS.values())
    assert {np.add, np.concatenate, np.einsum, np.linalg.norm, np.where} <= set(OURS)


# Operators between arrays and tensors


@pytest.mark.parametrize(
    "op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.matmul]
)
def test_an_array_on_the_left(op, x):
    y = op(A, x)
    assert type(y) is Tensor
    np.testing.assert_allclose(y.data, op(A, A), strict=True)
    y.sum().backward()
    z = Tensor(A, requires_grad=True)
    op(Tensor(A), z).sum().backward()
    np.testing.assert_array_equal(x.grad.data, z.grad.data)


@pytest.mark.parametrize("op", [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge])
def test_comparisons_with_an_array(op, x):
    for y in (op(A.T, x), op(x, A.T)):
        assert type(y) is Tensor
        assert y.dtype == np.bool_
        assert not y.requires_grad
    np.testing.assert_array_equal(op(A.T, x).data, op(A.T, A))


def test_numpy_scalars_on_the_left():
    x = Tensor([1.0, 2.0], "float32", requires_grad=True)
    for scalar in (np.float64(2.0), np.float32(2.0), np.int64(2)):
        y = scalar * x
        assert type(y) is Tensor
        assert y.dtype == np.float32
        assert (scalar - x).tolist() == [1, 0]
        assert (scalar > x).tolist() == [True, False]


def test_a_zero_dimensional_array_is_an_array():
    assert (np.array(2.0) * Tensor([1.0], "float32")).dtype == np.float64


def test_a_list_on_the_left():
    assert operator.add([1.0, 2.0], Tensor([1.0, 1.0])).tolist() == [2, 3]


def test_an_array_of_objects_is_refused():
    with pytest.raises(TypeError, match="minigrad computes with"):
        Tensor(A) + np.array([None, None])
