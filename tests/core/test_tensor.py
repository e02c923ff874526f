"""The face of a tensor: what it says of itself, operators, indexing, iteration, conversion to Python, copies."""

import copy
import math
import operator
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor


def test_attributes():
    x = Tensor(np.ones((2, 3), "float32"), requires_grad=True)
    assert (x.shape, x.ndim, x.size, x.dtype) == ((2, 3), 2, 6, np.dtype("float32"))
    assert x.requires_grad
    assert x.is_leaf
    assert x.grad is None
    y = x * 2.0
    assert y.requires_grad
    assert not y.is_leaf
    assert (x.T.shape, x.mT.shape) == ((3, 2), (3, 2))


@pytest.mark.parametrize(
    ("data", "shape"),
    [(1.0, ()), ([], (0,)), ([[]], (1, 0)), ([[1, 2]], (1, 2)), (range(3), (3,)), (np.eye(2), (2, 2))],
)
def test_creation(data, shape):
    t = Tensor(data)
    assert t.shape == shape
    assert not t.requires_grad
    np.testing.assert_array_equal(t.data, np.array(data))


def test_creation_from_tensors():
    t = Tensor([1.0, 2.0])
    assert Tensor(t).tolist() == [1, 2]
    assert Tensor(t) is not t
    assert Tensor([t, t]).tolist() == [[1, 2], [1, 2]]
    assert Tensor([t[0], t[1]], requires_grad=True).tolist() == [1, 2]


@pytest.mark.parametrize("data", [[[1.0], [1.0, 2.0]], "abc", None, object(), {"a": 1}])
def test_what_is_no_array(data):
    with pytest.raises((TypeError, ValueError)):
        Tensor(data)


def test_no_other_attributes():
    with pytest.raises(AttributeError):
        Tensor(1.0).requires_gard = True
    with pytest.raises(AttributeError):
        Tensor(1.0).shape = (1,)


def test_requires_grad_is_set_on_leaves():
    x = Tensor([1.0, 2.0])
    assert not (x * x).requires_grad
    x.requires_grad = True
    (x * x).sum().backward()
    assert x.grad.tolist() == [2, 4]
    x.requires_grad = False
    assert not (x * x).requires_grad
    y = Tensor(1.0, requires_grad=True) * 2.0
    with pytest.raises(RuntimeError, match=r"leaves only; <multiply \(\) float64> is a result: use detach"):
        y.requires_grad = False
    with mg.no_grad():
        c = y * 1.0
    c.requires_grad = True
    (c * 3.0).backward()
    assert c.grad.item() == 3


def test_detach():
    x = Tensor([1.0, 2.0], requires_grad=True)
    d = (x * 3.0).detach()
    assert d.is_leaf
    assert not d.requires_grad
    (x * d).sum().backward()
    assert x.grad.tolist() == [3, 6]


# Python


def test_repr():
    x = Tensor([1.0, 2.5], requires_grad=True)
    assert repr(x) == "Tensor([1. , 2.5], requires_grad=True)"
    assert repr(x * 2.0) == "Tensor([2., 5.], by=multiply)"
    assert repr(Tensor([1.0], "float32")) == "Tensor([1.], dtype=float32)"
    assert repr(Tensor([1], "int8")) == "Tensor([1], dtype=int8)"
    assert repr(Tensor([1, 2])) == "Tensor([1, 2])"
    assert repr(Tensor(True)) == "Tensor(True)"
    assert repr(Tensor([[1.0], [2.0]])) == "Tensor([[1.],\n        [2.]])"
    assert len(repr(mg.zeros((1000, 1000)))) < 1000
    assert str(x) == repr(x)


def test_formats():
    x = Tensor(3.14159, requires_grad=True)
    assert f"{x * 2.0:.2f}" == "6.28"
    assert f"{Tensor(7):>4d}" == "   7"
    assert f"{x}" == repr(x)
    assert f"{Tensor([1.0, 2.0])}" == "Tensor([1., 2.])"
    with pytest.raises(ValueError, match="format"):
        f"{Tensor([1.0, 2.0]):.2f}"


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element_as_a_number(shape):
    t = Tensor(np.full(shape, 2.5), requires_grad=True)
    assert t.item() == 2.5
    assert type(t.item()) is float
    assert float(t) == 2.5
    assert int(t) == 2
    assert bool(t)
    assert math.sqrt(t * t) == 2.5
    assert type(Tensor(np.full(shape, 3)).item()) is int
    assert type(Tensor(np.full(shape, True)).item()) is bool
    with pytest.raises(TypeError, match="integer"):
        operator.index(t)


@pytest.mark.parametrize("shape", [(0,), (2,), (1, 2)])
def test_not_one_element(shape):
    t = Tensor(np.ones(shape))
    message = rf"item\(\) takes a tensor of one element, got shape {'[(]' + str(shape)[1:-1] + '[)]'}"
    for f in (t.item, lambda: float(t), lambda: int(t), lambda: bool(t)):
        with pytest.raises(ValueError, match=message):
            f()


def test_truth():
    assert not Tensor(0.0)
    assert Tensor([1.0]) > 0.0
    with pytest.raises(ValueError, match="one element"):
        not (Tensor([1.0, 2.0]) > 0.0)


def test_length_and_iteration():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert len(x) == 2
    a, b = x
    (a * 2.0 + b * 3.0).sum().backward()
    assert x.grad.tolist() == [[2, 2], [3, 3]]
    assert [t.tolist() for t in x] == [[1, 2], [3, 4]]
    assert list(Tensor(np.ones((0, 2)))) == []
    assert 3.0 in Tensor([1.0, 3.0])
    assert 2.0 not in Tensor([1.0, 3.0])
    for f in (len, iter, list):
        with pytest.raises(TypeError, match="no dimensions"):
            f(Tensor(1.0))


def test_sum_of_tensors():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert sum([x, x * 2.0]).tolist() == [3, 6]
    assert max(Tensor([1.0, 3.0, 2.0])).item() == 3


def test_a_tensor_is_a_key():
    x, y = Tensor([1.0]), Tensor([1.0])
    assert {x: 1, y: 2}[x] == 1
    assert len({x, y, x}) == 2
    assert hash(x) != hash(y)


def test_copies():
    x = Tensor([1.0, 2.0], "float32", requires_grad=True)
    x.sum().backward()
    for f in (copy.copy, copy.deepcopy):
        c = f(x)
        assert type(c) is Tensor
        assert (c.tolist(), c.dtype, c.requires_grad, c.grad) == ([1, 2], np.float32, True, None)
        c.assign([5.0, 6.0])
        assert x.tolist() == [1, 2]
    a, b = copy.deepcopy([x, x])
    assert a is b
    assert copy.deepcopy({"w": x})["w"] is not x
    for f in (copy.copy, copy.deepcopy):
        with pytest.raises(
            RuntimeError, match=r"only leaves can be copied.*<multiply \(2,\) float32>.*detach\(\) it first"
        ):
            f(x * 2.0)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_refused(protocol):
    with pytest.raises(TypeError, match="not pickled: save them with minigrad.io.save"):
        pickle.dumps(Tensor([1.0]), protocol)


# Operators

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow]


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize(
    "other", [2, 0.5, np.float64(3.0), np.array([2.0, 3.0]), [2.0, 3.0], Tensor([2.0, 3.0])], ids=repr
)
def test_operators_and_their_reflections(op, other):
    a, h = np.array([1.5, 2.5]), 1e-6
    plain = np.asarray(other)
    for f, reference in (
        (lambda x: op(x, other), lambda a: op(a, plain)),
        (lambda x: op(other, x), lambda a: op(plain, a)),
    ):
        x = Tensor(a, requires_grad=True)
        y = f(x)
        assert type(y) is Tensor
        np.testing.assert_allclose(y.data, reference(a), rtol=1e-15, strict=True)
        y.sum().backward()
        np.testing.assert_allclose(x.grad.data, (reference(a + h) - reference(a - h)) / (2 * h), rtol=1e-6)


def test_unary_operators():
    x = Tensor([-1.0, 2.0], requires_grad=True)
    assert (-x).tolist() == [1, -2]
    assert (+x) is x
    assert abs(x).tolist() == [1, 2]
    (-abs(x)).sum().backward()
    assert x.grad.tolist() == [1, -1]


def test_matmul_and_its_reflection():
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    for y in (Tensor(a) @ Tensor(b), Tensor(a) @ b, a @ Tensor(b), a.tolist() @ Tensor(b)):
        assert type(y) is Tensor
        np.testing.assert_array_equal(y.data, a @ b)


@pytest.mark.parametrize("op", [operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge])
@pytest.mark.parametrize("other", [2.0, np.float64(2.0), np.array([3.0, 2.0, 1.0]), Tensor([3.0, 2.0, 1.0])], ids=repr)
def test_comparisons(op, other):
    a = np.array([1.0, 2.0, 3.0])
    plain = np.asarray(other)
    for y, expected in ((op(Tensor(a), other), op(a, plain)), (op(other, Tensor(a)), op(plain, a))):
        assert type(y) is Tensor
        assert y.dtype == np.bool_
        np.testing.assert_array_equal(y.data, expected)


@pytest.mark.parametrize("op", [operator.floordiv, operator.mod, operator.and_, operator.or_, operator.lshift])
def test_operators_that_there_are_not(op):
    with pytest.raises(TypeError, match="unsupported operand"):
        op(Tensor([1.0]), 2)


def test_chains_of_operators():
    x = Tensor(2.0, requires_grad=True)
    y = 1.0 / (1.0 + 2.0 ** (-x)) - (3 - x) * 0.5
    y.backward()
    e = 2.0**-2.0
    np.testing.assert_allclose(x.grad.item(), math.log(2) * e / (1 + e) ** 2 + 0.5, rtol=1e-14)


# Indexing

INDICES = {
    "integer": 1,
    "negative": -1,
    "numpy integer": np.int64(1),
    "slice": slice(0, 1),
    "step": slice(None, None, -1),
    "ellipsis": (..., 0),
    "newaxis": (slice(None), None, 1),
    "pair": (1, 2),
    "list": [0, 0, 1],
    "array": np.array([[0, 1], [1, 1]]),
    "arrays": (np.array([0, 1]), np.array([2, 0])),
    "mask": np.array([[True, False, True], [False, False, True]]),
    "mask of rows": np.array([True, False]),
    "empty array": np.array([], int),
    "nothing": (),
    "mixed": (slice(None), [0, 2]),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_indexing(index):
    a = np.arange(6.0).reshape(2, 3)
    x = Tensor(a, requires_grad=True)
    y = x[index]
    np.testing.assert_array_equal(y.data, a[index])
    y.sum().backward()
    expected = np.zeros((2, 3))
    np.add.at(expected, index, 1.0)
    np.testing.assert_array_equal(x.grad.data, expected)


def test_an_empty_list_takes_nothing():
    assert Tensor(np.ones((2, 3)))[[]].shape == (0, 3)


def test_tensors_as_indices():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    assert x[Tensor([2, 0])].tolist() == [3, 1]
    assert x[Tensor(1)].tolist() == 2
    x[x > 1.5].sum().backward()
    assert x.grad.tolist() == [0, 1, 1]


@pytest.mark.parametrize("index", [3, (0, 0), [5], 1.0, "a", Tensor([0.5]), np.array([True, False])])
def test_wrong_indices(index):
    with pytest.raises(IndexError):
        Tensor([1.0, 2.0, 3.0])[index]


# Methods


def test_methods_are_the_functions():
    x = Tensor([[0.1, 0.2, 0.4], [0.8, 0.3, 0.5]])
    reductions = ["sum", "mean", "max", "min", "var", "std", "prod", "argmax", "argmin", "all", "any"]
    for name in (*reductions, "abs", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "squeeze"):
        np.testing.assert_array_equal(getattr(x, name)().data, getattr(mg, name)(x).data, strict=True)
    for name in reductions:
        for axis in (0, -1):
            y = getattr(x, name)(axis=axis, keepdims=True)
            np.testing.assert_array_equal(y.data, getattr(mg, name)(x, axis=axis, keepdims=True).data, strict=True)
    assert x.var(0, correction=1).tolist() == np.var(x.data, 0, ddof=1).tolist()


def test_shapes_by_method():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    for y in (x.reshape(3, 2), x.reshape((3, 2)), x.reshape([3, 2]), x.reshape(-1, 2)):
        assert y.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert x.reshape(-1).shape == (6,)
    assert Tensor(1.0).reshape(()).shape == ()
    for y in (x.transpose(), x.transpose(1, 0), x.transpose((1, 0)), x.T, x.mT):
        np.testing.assert_array_equal(y.data, x.data.T)
    assert Tensor(np.ones((2, 3, 4))).T.shape == (4, 3, 2)
    assert Tensor(np.ones((2, 3, 4))).mT.shape == (2, 4, 3)
    assert Tensor(1.0).T.shape == ()
    with pytest.raises(ValueError, match="two dimensions"):
        Tensor([1.0]).mT
    assert x.astype("float32").dtype == np.float32
    assert x.clip(1.0, 4.0).tolist() == [[1, 1, 2], [3, 4, 4]]
    assert x.clip(max=1.0).tolist() == [[0, 1, 1], [1, 1, 1]]
    assert x.tolist() == x.data.tolist()


def test_results_are_other_tensors():
    """No operation returns one of its inputs: a tape tells values apart by their arrays."""
    x = Tensor([[1.0, 2.0]])
    same = [x.reshape(1, 2), x.astype("float64"), x[...], x[()], x.squeeze(0)[None], mg.broadcast_to(x, (1, 2)), x.T.T,
            mg.concat([x]), mg.sum(x, ()), mg.clip(x, -9.0), mg.tile(x, 1), mg.pad(x, 0), mg.roll(x, 0)]  # fmt: skip
    for y in same:
        assert y.tolist() == x.tolist()
        assert y is not x
        assert y.array is not x.array
