"""Indexing against NumPy: indices of every sort, exact adjoints, repeated indices, linear cost, tapes, errors."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import Tensor

from .linear import check_cubic, check_linear, integers

S = (3, 4, 5)
MASK = np.arange(12).reshape(3, 4) % 3 == 0

INDICES: dict[str, Any] = {
    "integer": 1,
    "negative": -1,
    "all integers": (0, -1, 2),
    "slice": slice(1, None),
    "negative step": slice(None, None, -2),
    "empty slice": slice(2, 1),
    "slices": (slice(1, 3), slice(None), slice(None, -1)),
    "ellipsis": (..., 0),
    "only ellipsis": ...,
    "nothing": (),
    "newaxis": (None, 1, ..., None),
    "list": [0, 2],
    "repeated": [0, 0, 2, 0],
    "negative in a list": [-1, 2, -3],
    "empty list": [],
    "matrix": np.array([[0, 1], [2, 2]]),
    "two arrays": ([0, 1, 1], [3, 2, 2]),
    "broadcast arrays": ([[0], [1]], [1, 1, 3]),
    "array and slice": ([0, 1, 0], slice(1, 3)),
    "separated arrays": ([0, 1, 0], slice(None), [1, 1, 1]),
    "array and integer": (1, slice(None), [0, 4, 4]),
    "array between": (slice(None), [[1, 1], [0, 2]]),
    "array and newaxis": ([1, 1], None, ..., [2, 2]),
    "small dtype": np.array([1, 1], np.uint8),
    "0-d array": np.array(1),
    "mask": MASK,
    "mask of all": np.ones(S, bool),
    "mask of none": np.zeros(3, bool),
    "mask in front": (MASK, slice(None, None, 2)),
    "mask behind": (slice(None), MASK.T[:, :1].repeat(5, 1)),
    "mask and array": (np.array([True, False, True]), [3, 3]),
    "true": True,
    "false": False,
    "numpy integer": np.int64(1),
    "numpy slice": slice(np.int64(1), np.int64(3)),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_getitem_as_in_numpy_with_its_exact_adjoint(index: Any) -> None:
    check_linear(lambda x: mg.getitem(x, index), S, reference=lambda x: x[index])


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_setitem_as_in_numpy_with_its_exact_adjoint(index: Any) -> None:
    def reference(x: np.ndarray, value: np.ndarray) -> np.ndarray:
        y = x.copy()
        y[index] = value
        return y

    selected = np.empty(S)[index].shape
    check_linear(lambda x, v: mg.setitem(x, index, v), S, selected, reference=reference)
    check_linear(lambda x, v: mg.setitem(x, index, v), S, (), reference=reference)
    if selected:
        check_linear(lambda x, v: mg.setitem(x, index, v), S, (1, *selected[1:]), reference=reference)
        check_linear(lambda x, v: mg.setitem(x, index, v), S, selected[1:], reference=reference)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES.keys())
def test_scatter_add_as_in_numpy_with_its_exact_adjoint(index: Any) -> None:
    def reference(x: np.ndarray, value: np.ndarray) -> np.ndarray:
        y = x.copy()
        np.add.at(y, index, value)
        return y

    selected = np.empty(S)[index].shape
    check_linear(lambda x, v: mg.scatter_add(x, index, v), S, selected, reference=reference)
    check_linear(lambda x, v: mg.scatter_add(x, index, v), S, (), reference=reference)


@st.composite
def indices(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    """Any index of an array of this shape: basic and advanced ones, masks, in any mixture that NumPy accepts."""
    batch = draw(hnp.array_shapes(min_dims=1, max_dims=2, max_side=3))
    index: list[Any] = []
    axis = 0
    while axis < len(shape) and draw(st.integers(0, 5)):
        n = shape[axis]
        sort = draw(st.sampled_from(["slice", "slice", "integer", "array", "mask", "newaxis", "ellipsis"]))
        if sort == "slice" or (n == 0 and sort in ("integer", "array")):
            index.append(draw(st.slices(n)))
        elif sort == "integer":
            index.append(draw(st.integers(-n, n - 1)))
        elif sort == "array":
            shapes = hnp.broadcastable_shapes(batch, min_dims=0, max_dims=len(batch), max_side=1)
            index.append(draw(hnp.arrays(np.int64, draw(shapes | st.just(batch)), elements=st.integers(-n, n - 1))))
        elif sort == "mask" and not any(isinstance(i, np.ndarray) for i in index):
            index.append(draw(hnp.arrays(bool, n)))
        elif sort == "newaxis":
            index.append(None)
            continue
        elif sort == "ellipsis" and not any(i is Ellipsis for i in index):
            index.append(...)
            break
        else:
            continue
        axis += 1
    return tuple(index)


@given(st.data())
def test_random_indices(data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    index = data.draw(indices(shape))
    rng = np.random.default_rng(0)
    x, u = integers(shape, rng), integers(shape, rng)
    t = Tensor(x, requires_grad=True)
    try:
        expected = x[index]
    except IndexError:  # arrays that do not broadcast against a mask
        with pytest.raises(IndexError):
            t[index]
        return
    y = t[index]
    np.testing.assert_array_equal(y.data, expected)
    assert y.shape == np.shape(expected)
    g = integers(y.shape, rng)
    y.backward(g)
    x_bar = np.zeros(shape)
    np.add.at(x_bar, index, g)
    np.testing.assert_array_equal(t.grad.data, x_bar)

    value = integers(y.shape, rng)
    changed, kept = x.copy(), np.ones(shape)
    changed[index], kept[index] = value, 0.0
    v = Tensor(value, requires_grad=True)
    t.zero_grad()
    z = mg.setitem(t, index, v)
    np.testing.assert_array_equal(z.data, changed)
    z.backward(u)
    np.testing.assert_array_equal(t.grad.data, u * kept)
    assert (u * changed).sum() == (u * kept * x).sum() + (v.grad.data * value).sum()


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x[1] * x[:, 0, None],
        lambda x: mg.concat([x[[0, 0, 1]], x[np.array([True, False])]]) * x[-1],
        lambda x: mg.setitem(x, ([0, 0, 1], [1, 1, 0]), x[0] * x[1]),
        lambda x: mg.setitem(x * x, x.data > 1.0 if isinstance(x, Tensor) else x > 1.0, 2.0),
        lambda x: mg.scatter_add(x, ([0, 0], [1, 1]), x[:, 2]),
        lambda x: mg.take(x, [[0, 2], [2, 2]], 1) * mg.take(x, 0, 1)[:, None, None],
        lambda x: mg.take_along_axis(x * x, np.array([[0, 0], [2, 1]]), 1),
        lambda x: mg.sort(x, 1) * mg.sort(x, 0, descending=True),
    ],
)
def test_first_and_second_derivative_by_differences(f: Any) -> None:
    check_cubic(f, (2, 3))


def test_index_tensors() -> None:
    x = Tensor(integers(S), requires_grad=True)
    i, mask = Tensor([0, 2, 2]), Tensor([True, False, True])
    np.testing.assert_array_equal(x[i].data, x.data[[0, 2, 2]])
    np.testing.assert_array_equal(x[mask].data, x.data[[True, False, True]])
    np.testing.assert_array_equal(x[i, ..., Tensor(1)].data, x.data[[0, 2, 2], ..., 1])
    np.testing.assert_array_equal(x[Tensor(1) : Tensor(3)].data, x.data[1:3])
    np.testing.assert_array_equal(mg.getitem(x.data, i).data, x.data[[0, 2, 2]])
    x[i].backward(np.ones(S))
    np.testing.assert_array_equal(x.grad.data[:, 0, 0], [1.0, 0.0, 2.0])


def test_the_value_of_a_repeated_assignment_gets_the_gradient_of_the_last_one_only() -> None:
    v = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = mg.setitem(Tensor([0.0, 0.0]), [1, 1, 0], v)
    np.testing.assert_array_equal(y.data, [3.0, 2.0])
    y.backward(np.array([5.0, 7.0]))
    np.testing.assert_array_equal(v.grad.data, [0.0, 7.0, 5.0])


def test_slices_of_one_array_meet_in_one_scatter_also_when_recorded() -> None:
    n = 50
    x = Tensor(integers((n,)), requires_grad=True)

    def loss() -> Any:
        total = Tensor(0.0)
        for i in range(n):
            total = total + x[i] * x[i : i + 1].sum() * x[[i, i]].sum()
        return total

    with mg.record() as tape:
        loss().backward(create_graph=True)
    names = [e.op.name for e in tape.entries]
    assert names.count("getitem") == 3 * n
    assert names.count("scatter") == 1
    np.testing.assert_array_equal(x.grad.data, 6.0 * x.data**2)
    g = x.grad
    x.zero_grad()
    with mg.record() as tape:
        g.sum().backward()
    names = [e.op.name for e in tape.entries]
    assert names.count("getitem") == 3 * n
    assert names.count("scatter") == 1
    np.testing.assert_array_equal(x.grad.data, 12.0 * x.data)


def test_the_cotangents_of_slices_join_those_of_the_whole() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    ((x * x).sum() + x[0] * 10.0 + x.sum() + x[[1, 1]].sum()).backward()
    np.testing.assert_array_equal(x.grad.data, [13.0, 7.0])


def test_a_tape_replays_with_other_indices() -> None:
    table = Tensor(integers((5, 3)), requires_grad=True)
    i = Tensor([0, 1, 1])
    order = np.array([2.0, 0.0, 1.0])
    x = Tensor(order)
    with mg.record() as tape:
        rows = mg.setitem(table[i] * table[i], (i, Tensor([0, 0, 2])), table[4])
        y = (rows * mg.sort(x)).sum()
        y.backward()
    new = Tensor([2, 2, 0])
    t = Tensor(table.data, requires_grad=True)
    z = (mg.setitem(t[new] * t[new], (new, Tensor([0, 0, 2])), t[4]) * mg.sort(Tensor(-order))).sum()
    z.backward()
    run = tape.replay({i: new, x: -order})
    np.testing.assert_array_equal(run(y), z.data)
    np.testing.assert_array_equal(run(table.grad), t.grad.data)


def test_changing_an_index_tensor_before_backward_is_found() -> None:
    x, i = Tensor([1.0, 2.0], requires_grad=True), Tensor([0, 0])
    y = x[i].sum()
    i.assign([1, 1])
    with pytest.raises(RuntimeError, match="arrays"):
        y.backward()


def test_changing_an_index_array_does_not_matter() -> None:
    x, i = Tensor([1.0, 2.0], requires_grad=True), np.array([0, 0])
    y = x[i].sum()
    i[:] = 1
    y.backward()
    np.testing.assert_array_equal(x.grad.data, [2.0, 0.0])


def test_results_share_no_memory_that_can_be_written() -> None:
    a = np.arange(3.0)
    for y in (mg.setitem(Tensor(a), 0, 1.0), Tensor(a)[1:], Tensor(a)[[0, 1]], mg.take(Tensor(a), [1])):
        assert not y.data.flags.writeable
        assert not np.shares_memory(y.data, a)
    b = mg.setitem(a, [0], 5.0)
    assert isinstance(b, np.ndarray)
    assert not np.shares_memory(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes_stay(dtype: str) -> None:
    x = Tensor(integers((4,)), dtype, requires_grad=True)
    v = Tensor([1.0, 2.0], requires_grad=True)
    y = mg.setitem(mg.sort(x)[[0, 0, 1]], slice(0, 2), v)
    assert y.dtype == dtype
    assert mg.setitem(x, 0, 1).dtype == mg.setitem(x, 0, True).dtype == mg.scatter_add(x, 0, 1.5).dtype == dtype
    y.sum().backward()
    assert (x.grad.dtype, v.grad.dtype) == (np.dtype(dtype), np.float64)


def test_take() -> None:
    x = integers(S)
    for axis in (0, 1, -1):
        for i in (0, -1, [0, 2], [[1, 1], [0, -2]], np.array([2], np.uint8), []):
            j = np.asarray(i, int)
            check_linear(partial(mg.take, indices=i, axis=axis), S, reference=partial(np.take, indices=j, axis=axis))
    np.testing.assert_array_equal(mg.take(x[0, 0], [3, 3]), x[0, 0][[3, 3]])
    with pytest.raises(ValueError, match=r"take: an array of shape \(3, 4, 5\) needs an axis"):
        mg.take(x, 0)
    with pytest.raises(IndexError, match="take: expected integers, got booleans"):
        mg.take(x, [True, False, True], 0)


def test_take_along_axis() -> None:
    x = integers(S)
    for axis in (0, 1, -1):
        i = np.argsort(x, axis)
        check_linear(partial(mg.take_along_axis, indices=i, axis=axis), S)
        np.testing.assert_array_equal(mg.take_along_axis(x, i, axis), np.sort(x, axis))
    i = np.array([[[0], [3], [-1], [0]]])  # the other axes broadcast
    check_linear(lambda x: mg.take_along_axis(x, i), S, reference=lambda x: np.take_along_axis(x, i, -1))
    i = np.array([[[0, 0], [1, 1]]])
    check_linear(lambda x: mg.take_along_axis(x, i, 2), (3, 1, 2), reference=lambda x: np.take_along_axis(x, i, 2))
    with pytest.raises(ValueError, match=r"take_along_axis: expected indices of 3 dimensions .* got \(2,\)"):
        mg.take_along_axis(x, [0, 1])


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(max_dims=3, min_side=0, max_side=4),
        elements=st.sampled_from([0.0, -0.0, 1.0, 2.0, np.inf, -np.inf]),
    ),
    st.booleans(),
    st.data(),
)
def test_sort(x: np.ndarray, descending: bool, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    order = np.argsort(-x if descending else x, axis, kind="stable")
    t = Tensor(x, requires_grad=True)
    i = mg.argsort(t, axis, descending=descending)
    assert not i.requires_grad
    np.testing.assert_array_equal(i.data, order, strict=True)
    y = mg.sort(t, axis, descending=descending)
    assert y.data.tobytes() == np.take_along_axis(x, order, axis).tobytes()
    g = np.arange(x.size, dtype=x.dtype).reshape(x.shape)
    y.backward(g)
    expected = np.empty_like(g)
    np.put_along_axis(expected, order, g, axis)
    np.testing.assert_array_equal(t.grad.data, expected)


def test_jvp_through_indexing() -> None:
    x, v = Tensor(integers((3, 2))), Tensor(integers((3, 2)))

    def f(x: Any) -> Any:
        y = mg.setitem(x, ([0, 0], [1, 1]), x[1])
        return mg.concat([y[[2, 2]], *mg.split(y, [1]), mg.pad(x, ((1, 0), (0, 0)), constant_values=5.0)])

    value, dot = mg.jvp(f, (x,), (v,))
    np.testing.assert_array_equal(value.data, f(x).data)
    np.testing.assert_array_equal(dot.data, f(x + v).data - f(x).data)
    square = lambda x: (f(x) * f(x)).sum()
    np.testing.assert_array_equal(mg.hvp(square, x, v).data, mg.vjp(f, x)[1](2.0 * dot)[0].data)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x[3], IndexError, r"getitem\(x float64 \(3, 4, 5\)\): index 3 is out of bounds"),
        (lambda x: x[[0, 3]], IndexError, r"getitem\(x float64 \(3, 4, 5\), arrays\[0\] int64 \(2,\)\): index 3"),
        (lambda x: x[0, 0, 0, 0], IndexError, "getitem.*too many indices"),
        (lambda x: x[1.0], IndexError, "getitem: expected an index of integers.*got float64"),
        (lambda x: x[Tensor([0.0])], IndexError, "getitem: expected an index of integers.*got float64"),
        (lambda x: x["a"], IndexError, "getitem: expected an index of integers"),
        (lambda x: x[np.array([True])], IndexError, "getitem.*boolean index did not match"),
        (lambda x: mg.setitem(x, 0, np.ones(4)), ValueError, r"selects shape \(4, 5\); the value, \(4,\), does not"),
        (lambda x: mg.setitem(x, [0, 0], np.ones(4)), ValueError, r"selects shape \(2, 4, 5\); the value, \(4,\)"),
        (lambda x: mg.setitem(x, (0, 0), np.ones((1, 5))), ValueError, r"selects shape \(5,\); the value, \(1, 5\)"),
        (lambda x: mg.setitem(Tensor([1]), 0, 1.5), TypeError, "setitem: a value of dtype float64 would be truncated"),
        (lambda x: mg.scatter_add(x, 0, np.ones(4)), ValueError, r"scatter_add: .*selects shape \(4, 5\)"),
        (lambda x: mg.scatter_add(Tensor([True]), 0, 1), TypeError, "scatter_add: .*truncated"),
        (lambda x: mg.sort(x, 3), ValueError, "sort: axis 3 is out of bounds"),
        (lambda x: mg.argsort(x, -4), ValueError, "argsort: axis -4 is out of bounds"),
        (lambda x: mg.take(x, 0, 3), ValueError, "take: axis 3 is out of bounds"),
    ],
)
def test_errors_name_the_operation_and_the_shapes(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Tensor(integers(S)))
