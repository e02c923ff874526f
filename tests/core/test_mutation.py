"""Nothing that a graph needs changes unnoticed: arrays are copied or frozen, leaves change by assign only."""

import operator

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor


def parameter(*values, dtype=None):
    return Tensor(list(values), dtype, requires_grad=True)


# Arrays from outside


def test_tensor_copies_an_array():
    a = np.array([1.0, 2.0])
    x = Tensor(a, requires_grad=True)
    y = (x * x).sum()
    a[:] = 100.0
    y.backward()
    assert a.flags.writeable
    assert x.tolist() == [1, 2]
    assert x.grad.tolist() == [2, 4]


def test_tensor_copies_a_frozen_array_too():
    a = np.array([1.0, 2.0])
    a.setflags(write=False)
    t = Tensor(a)
    assert not np.shares_memory(t.data, a)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda a: a, id="itself"),
        pytest.param(lambda a: a[::-1], id="reversed"),
        pytest.param(lambda a: a[:1], id="slice"),
        pytest.param(lambda a: np.broadcast_to(a, (3, 2)), id="broadcast"),
        pytest.param(lambda a: memoryview(a), id="buffer"),
        pytest.param(lambda a: np.frombuffer(memoryview(a).toreadonly()), id="read-only buffer"),
        pytest.param(lambda a: a.view(np.recarray).view(np.ndarray), id="view of a subclass"),
    ],
)
@pytest.mark.parametrize("op", [operator.mul, lambda x, a: a * x if isinstance(a, np.ndarray) else mg.multiply(a, x)])
def test_an_array_given_to_an_operation_may_change_afterwards(op, view):
    a = np.array([3.0, 3.0])
    x = parameter(1.0, 2.0)
    given = view(a)
    y = op(x, given)
    a[:] = 100.0
    y.sum().backward()
    copies = y.size // x.size
    assert x.grad.tolist() == [3 * copies] * 2
    assert y.data.max() == 6


def test_an_index_array_may_change_afterwards():
    index = np.array([0, 0])
    mask = np.array([True, False])
    x = parameter(1.0, 2.0)
    y = x[index].sum() + x[mask].sum()
    index[:] = 1
    mask[:] = True
    y.backward()
    assert x.grad.tolist() == [3, 0]


def test_a_cotangent_may_change_afterwards():
    x = parameter(1.0, 2.0)
    c = np.ones(2)
    (x + 0.0).backward(c)
    c[:] = 7.0
    assert x.grad.tolist() == [1, 1]


def test_from_numpy_shares_and_freezes():
    a = np.ones(3)
    t = mg.from_numpy(a, requires_grad=True)
    assert np.shares_memory(a, t.data)
    with pytest.raises(ValueError, match="read-only"):
        a[0] = 2.0
    assert t.requires_grad


def test_from_numpy_takes_a_view_of_a_frozen_array():
    a = np.arange(4.0)
    a.setflags(write=False)
    assert np.shares_memory(mg.from_numpy(a[1:]).data, a)


@pytest.mark.parametrize("view", [lambda a: a[1:], lambda a: a.T, lambda a: np.broadcast_to(a, (2, 3)), lambda a: a[:]])
def test_from_numpy_refuses_a_view_of_a_writeable_array(view):
    a = np.ones(3)
    v = view(a)
    writeable = v.flags.writeable
    with pytest.raises(ValueError, match="can be written to: use Tensor"):
        mg.from_numpy(v)
    assert v.flags.writeable == writeable  # nothing was changed by the refusal
    assert a.flags.writeable


def test_from_numpy_shares_bytes_but_no_other_buffer():
    assert mg.from_numpy(np.frombuffer(np.ones(2).tobytes())).tolist() == [1, 1]
    with pytest.raises(ValueError, match="buffer"):
        mg.from_numpy(np.frombuffer(bytearray(16)))


def test_from_numpy_refuses_what_is_no_array():
    with pytest.raises(TypeError, match="expected an ndarray, got list"):
        mg.from_numpy([1.0])


# Arrays inside

RESULTS = {
    "leaf": lambda x: x,
    "add": lambda x: x + 1.0,
    "sum": lambda x: x.sum(0),
    "total": lambda x: x.sum(),
    "mean": lambda x: mg.mean(x, 0),
    "var": lambda x: mg.var(x, 0),
    "reshape": lambda x: x.reshape(-1),
    "transpose": lambda x: x.T,
    "getitem": lambda x: x[0],
    "element": lambda x: x[0, 0],
    "gather": lambda x: x[[0, 0]],
    "matmul": lambda x: x @ x,
    "matvec": lambda x: x @ x[0],
    "concat": lambda x: mg.concat([x, x]),
    "split": lambda x: mg.split(x, 2)[1],
    "where": lambda x: mg.where(x > 2.0, x, 0.0),
    "einsum": lambda x: mg.einsum("ij,jk->ki", x, x),
    "softmax": lambda x: mg.softmax(x, -1),
    "setitem": lambda x: mg.setitem(x, 0, 0.0),
    "broadcast_to": lambda x: mg.broadcast_to(x, (3, 2, 2)),
    "cast": lambda x: x.astype("float32"),
    "comparison": lambda x: x > 1.0,
    "detach": lambda x: x.detach(),
    "sum_to": lambda x: mg.core.adjoint.sum_to(x, shape=(2,)),
}


@pytest.mark.parametrize("f", RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("look", [lambda t: t.data, np.asarray], ids=["data", "asarray"])
def test_data_is_a_view_that_can_not_be_made_writeable(f, look):
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = f(x)
    before = y.tolist()
    with mg.no_grad():
        a = look(y)
    assert isinstance(a, np.ndarray)
    assert not a.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        a.flags.writeable = True
    assert np.shares_memory(a, y.data)
    with pytest.raises(ValueError, match="read-only"):
        a[...] = 0
    assert y.tolist() == before


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("f", [lambda x: x, lambda x: x[::-1], lambda x: x.reshape(2), lambda x: x.reshape(2, 1)[:, 0]])
def test_the_gradient_is_read_only_and_shared_with_nothing(f, create_graph):
    x, z = parameter(1.0, 2.0), parameter(3.0, 4.0)
    seen, cotangent = [], Tensor([1.0, 1.0])
    y = f(x + z)
    y.register_hook(seen.append)
    x.register_hook(seen.append)
    y.backward(cotangent, create_graph=create_graph)
    arrays = [x.grad.data, z.grad.data, cotangent.data, *(t.data for t in seen)]
    assert not any(np.shares_memory(arrays[i], a) for i in (0, 1) for j, a in enumerate(arrays) if i != j)
    with pytest.raises(ValueError, match="WRITEABLE"):
        x.grad.data.flags.writeable = True
    assert x.grad.is_leaf
    assert not x.grad.requires_grad


def test_a_gradient_that_passed_as_a_view_has_memory_of_its_own():
    x, c = parameter(1.0, 2.0), Tensor([[3.0], [4.0]])
    x.reshape(2, 1).backward(c)
    assert not np.shares_memory(x.grad.data, c.data)
    x.zero_grad()
    x.sum().backward()  # one number, seen twice
    assert x.grad.data.strides == (8,)


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_gradient_accumulates_out_of_place(create_graph):
    x = parameter(1.0, 2.0)
    (x * x).sum().backward(create_graph=create_graph)
    first = x.grad
    (x * x).sum().backward(create_graph=create_graph)
    assert first.tolist() == [2, 4]
    assert x.grad.tolist() == [4, 8]
    assert x.grad is not first


# assign

WAYS = {
    "assign": lambda t, v: t.assign(v),
    "data": lambda t, v: setattr(t, "data", v),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("value", [[5.0, 6.0], np.array([5.0, 6.0]), Tensor([5.0, 6.0]), (5, 6)], ids=repr)
def test_a_leaf_is_assigned(way, value):
    x = parameter(1.0, 2.0)
    before = x.data
    way(x, value)
    assert x.tolist() == [5, 6]
    assert before.tolist() == [1, 2]  # views that were taken before keep what they showed
    assert x.requires_grad
    (x * x).sum().backward()
    assert x.grad.tolist() == [10, 12]


def test_assign_copies_an_array():
    a = np.array([5.0, 6.0])
    x = Tensor([1.0, 2.0]).assign(a)
    a[:] = 0.0
    assert x.tolist() == [5, 6]


def test_a_number_fills():
    assert Tensor([1.0, 2.0]).assign(3).tolist() == [3, 3]
    assert Tensor([1.0, 2.0], "float32").assign(np.float64(0.5)).dtype == np.float32
    assert Tensor([1, 2]).assign(True).tolist() == [1, 1]


BAD_VALUES = [
    ([1.0, 2.0, 3.0], ValueError, r"expected shape \(2,\), got \(3,\)"),
    ([[1.0, 2.0]], ValueError, r"expected shape \(2,\), got \(1, 2\)"),
    (np.array([1.0, 2.0], "float32"), TypeError, "expected dtype float64, got float32: convert with astype"),
    (np.array([1, 2]), TypeError, "expected dtype float64, got int64"),
    (Tensor([1, 2]), TypeError, "expected dtype float64, got int64"),
    (np.array([1j, 2]), TypeError, "complex128"),
    (1j, TypeError, "complex"),
    ("ab", ValueError, "could not convert string to float"),
]


@pytest.mark.parametrize(("value", "error", "message"), BAD_VALUES)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_wrong_value_changes_nothing(way, value, error, message):
    x = parameter(1.0, 2.0)
    y = (x * x).sum()
    with pytest.raises(error, match=message):
        way(x, value)
    assert x.tolist() == [1, 2]
    y.backward()  # not stale
    assert x.grad.tolist() == [2, 4]


@pytest.mark.parametrize("value", [1.5, [1.5, 2.5], np.float64(1.5), float("nan")])
def test_assign_does_not_truncate(value):
    t = Tensor([1, 2])
    with pytest.raises(TypeError, match="would be truncated to int64"):
        t.assign(value)
    assert t.tolist() == [1, 2]


def test_a_result_is_not_assigned():
    x = parameter(1.0, 2.0)
    y = x * 2.0
    for way in WAYS.values():
        with pytest.raises(RuntimeError, match=r"only leaves can be assigned; <multiply \(2,\) float64> is the result"):
            way(y, [1.0, 1.0])


def test_a_value_with_history_is_not_assigned_while_gradients_are_on():
    x = parameter(1.0, 2.0)
    with pytest.raises(RuntimeError, match="history, which would be lost: use detach"):
        x.assign(x * 2.0)
    x.assign((x * 2.0).detach())
    with mg.no_grad():
        x.assign(x * 2.0)
    assert x.tolist() == [4, 8]
    assert x.is_leaf


# Staleness


def square(x):
    return x * x


STALE = {
    "multiply": (square, "multiply"),
    "multiply by a constant": (lambda x: Tensor([1.0, 2.0]) * x * x, "multiply"),
    "sin": (mg.sin, "sin"),
    "power": (lambda x: x**3, "constant_power"),
    "getitem is not needed, log is": (lambda x: mg.log(x)[0], "log"),
    "star": (lambda x: product(Tensor([1.0, 2.0]), 3.0, x), "product"),
}


def product(*xs):
    """The product of three as an operation with a starred input."""
    op = mg.Op(
        "product",
        lambda *xs: xs[0] * xs[1] * xs[2],
        vjp={"xs": lambda g, xs: [g * xs[1] * xs[2], g * xs[0] * xs[2], g * xs[0] * xs[1]]},
    )
    return op(*xs)


@pytest.mark.parametrize(("f", "op"), STALE.values(), ids=STALE)
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_graph_that_needs_an_assigned_leaf_refuses(f, op, create_graph):
    x = parameter(1.0, 2.0)
    y = f(x).sum()
    x.assign([5.0, 5.0])
    with pytest.raises(RuntimeError, match=r"changed by assign\(\)") as caught:
        y.backward(create_graph=create_graph)
    assert f"<{op} (2,) float64>" in str(caught.value)
    assert "minigrad.debug()" in str(caught.value)  # how to get the line
    assert x.grad is None


@pytest.mark.parametrize("mode", [mg.debug, mg.record, mg.detect_anomaly])
def test_the_error_names_the_line_where_it_was_remembered(mode):
    x = parameter(1.0, 2.0)
    with mode():
        y = mg.sin(x)  # this line
    x.assign([5.0, 5.0])
    with pytest.raises(RuntimeError, match=rf"{__file__}:\d+: y = mg.sin\(x\)  # this line"):
        y.sum().backward()


def test_the_error_names_both_for_a_product_of_matrices():
    w = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = mg.matmul(w, w)
    w.assign(0.0)
    with pytest.raises(
        RuntimeError, match=r"<matmul \(2, 2\) float64> needs its input 'b', which was changed by assign"
    ):
        y.sum().backward()


def test_what_was_computed_from_the_old_value_stays_true():
    """The product needs the transpose, which is not a leaf and still what it was: the gradient is that of the graph."""
    w = Tensor([[1.0, 2.0]], requires_grad=True)
    y = mg.matmul(w, w.T)
    copy = Tensor(w.data, requires_grad=True)
    z = (w.T * 1.0).sum() + mg.square(w.T).sum()
    w.assign(0.0)
    z.backward()
    assert w.grad.tolist() == [[3, 5]]
    assert copy.tolist() == [[1, 2]]
    with pytest.raises(RuntimeError, match="assign"):
        y.backward()


def test_a_constant_that_was_assigned_is_noticed_too():
    x, c = parameter(1.0, 2.0), Tensor([3.0, 4.0])
    y = (x * c).sum()
    c.assign([5.0, 6.0])
    with pytest.raises(RuntimeError, match="input 'b', which was changed by assign"):
        y.backward()


@pytest.mark.parametrize(
    "f",
    [lambda x: x + 1.0, lambda x: -x, mg.exp, lambda x: x.reshape(2, 1), lambda x: x * 3.0, lambda x: x[0], mg.tanh],
)
def test_an_assigned_leaf_that_the_graph_does_not_need_is_fine(f):
    """exp and tanh need their output, a product with a number the number."""
    x = parameter(1.0, 2.0)
    fresh = Tensor(x.data, requires_grad=True)
    f(fresh).sum().backward()
    y = f(x).sum()
    x.assign([5.0, 5.0])
    if f is mg.tanh:  # its accurate rule needs x after all
        with pytest.raises(RuntimeError, match="assign"):
            y.backward()
        return
    y.backward()
    assert x.grad.tolist() == fresh.grad.tolist()


def test_only_what_is_needed_is_asked_for():
    """The product's rule for x needs c alone."""
    x, c = parameter(1.0, 2.0), Tensor([3.0, 4.0])
    y = (x * c).sum()
    x.assign([5.0, 6.0])
    y.backward()
    assert x.grad.tolist() == [3, 4]


def test_a_detached_value_is_another_leaf():
    x = parameter(1.0, 2.0)
    d = x.detach()
    y = (x * d).sum()
    x.assign([5.0, 6.0])
    assert d.tolist() == [1, 2]
    y.backward()
    assert x.grad.tolist() == [1, 2]


def test_a_graph_recorded_after_the_assignment_is_fine():
    x = parameter(1.0, 2.0)
    stale = square(x).sum()
    x.assign([5.0, 6.0])
    square(x).sum().backward()
    assert x.grad.tolist() == [10, 12]
    with pytest.raises(RuntimeError, match="assign"):
        stale.backward()
    assert x.grad.tolist() == [10, 12]


def test_a_recorded_gradient_needs_its_leaves_too():
    x = parameter(1.0, 2.0)
    (x * x * x).sum().backward(create_graph=True)
    gradient, x.grad = x.grad, None
    x.assign([5.0, 6.0])
    with pytest.raises(RuntimeError, match="changed by assign"):
        gradient.sum().backward()
    assert x.grad is None


def test_data_does_not_change_in_place_but_it_can_be_set():
    x = parameter(1.0, 2.0)
    with pytest.raises(ValueError, match="read-only"):
        x.data += 1.0
    with pytest.raises(ValueError, match="read-only"):
        np.add(x.data, 1.0, out=x.data)
    assert x.tolist() == [1, 2]
    x.data = x.data + 1.0
    assert x.tolist() == [2, 3]


def test_assigning_the_same_value_is_an_assignment():
    x = parameter(1.0, 2.0)
    y = square(x).sum()
    x.assign(x.detach())
    with pytest.raises(RuntimeError, match="assign"):
        y.backward()


def test_requires_grad_set_to_what_it_is_makes_nothing_stale():
    x = parameter(1.0, 2.0)
    y = square(x).sum()
    x.requires_grad = True
    y.backward()
    assert x.grad.tolist() == [2, 4]


def test_staleness_survives_a_change_of_requires_grad():
    x = parameter(1.0, 2.0)
    y = square(x).sum()
    x.requires_grad = False
    x.requires_grad = True
    x.assign([5.0, 6.0])
    with pytest.raises(RuntimeError, match="assign"):
        y.backward()


# In-place operators

IN_PLACE = {
    "+": operator.iadd,
    "-": operator.isub,
    "*": operator.imul,
    "/": operator.itruediv,
    "**": operator.ipow,
}


@pytest.mark.parametrize(("symbol", "op"), IN_PLACE.items())
def test_an_in_place_operator_updates_a_leaf_under_no_grad(symbol, op):
    x = parameter(1.0, 2.0)
    y = square(x).sum()
    with mg.no_grad():
        same = op(x, 3.0)
    assert same is x
    assert x.tolist() == [eval(f"v {symbol} 3") for v in (1.0, 2.0)]
    assert x.is_leaf
    assert x.requires_grad
    with pytest.raises(RuntimeError, match="assign"):
        y.backward()


def test_matmul_in_place():
    x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    with mg.no_grad():
        x @= x
    assert x.tolist() == [[7, 10], [15, 22]]


@pytest.mark.parametrize(("symbol", "op"), IN_PLACE.items())
@pytest.mark.parametrize("requires_grad", [False, True])
def test_elsewhere_it_names_the_functional_form(symbol, op, requires_grad):
    x = Tensor([1.0, 2.0], requires_grad=requires_grad)
    for t in (x, x * 2.0):
        with pytest.raises(TypeError) as caught:
            op(t, 3.0)
        assert f"write t = t {symbol} other" in str(caught.value)
        assert "no_grad()" in str(caught.value)
    assert x.tolist() == [1, 2]


def test_a_recorded_result_is_not_updated_under_no_grad_either():
    y = parameter(1.0, 2.0) * 2.0
    with pytest.raises(TypeError, match="write t = t - other"), mg.no_grad():
        y -= 1.0


def test_an_update_in_place_keeps_shape_and_dtype():
    x = parameter(1.0, 2.0, dtype="float32")
    with mg.no_grad():
        with pytest.raises(TypeError, match="expected dtype float32, got float64"):
            x += np.array([1.0, 2.0])
        with pytest.raises(ValueError, match="expected shape"):
            x += np.ones((3, 2), "float32")
    assert x.tolist() == [1, 2]


def test_setting_an_item_names_setitem():
    x = Tensor([1.0, 2.0])
    with pytest.raises(TypeError, match=r"write t = minigrad.setitem\(t, index, value\)"):
        x[0] = 1.0
    with pytest.raises(TypeError, match="setitem"), mg.no_grad():
        x[0] += 1.0


@pytest.mark.parametrize("requires_grad", [False, True])
def test_an_array_does_not_take_a_tensor_in_place(requires_grad):
    a, t = np.ones(2), Tensor([1.0, 2.0], requires_grad=requires_grad)
    for op in (operator.iadd, operator.isub, operator.imul, operator.itruediv):
        with pytest.raises(TypeError, match=r"in place.*write a = a \+ t"):
            op(a, t)
    with pytest.raises(TypeError, match="in place"):
        np.add(a, t, out=a)
    with pytest.raises(TypeError, match="in place"):
        np.add(a, a, out=t)
    with pytest.raises(TypeError, match="in place"):
        np.add.at(a, [0], t[0])
    with pytest.raises(TypeError, match="copyto"):
        np.copyto(a, t)
    assert a.tolist() == [1, 1]
    assert t.tolist() == [1, 2]


def test_an_array_is_not_filled_with_a_tensor_whose_gradient_would_be_lost():
    a, t = np.ones(2), parameter(1.0, 2.0)
    with pytest.raises(TypeError, match="would be lost: take .data, or .detach"):
        a[:] = t
    assert a.tolist() == [1, 1]


def test_a_plain_loop_trains():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    true = np.array([1.0, -2.0, 0.5])
    p = Tensor(np.zeros(3), requires_grad=True)
    for _ in range(200):
        loss = mg.mean(mg.square(mg.matmul(x, p) - x @ true))
        p.zero_grad()
        loss.backward()
        with mg.no_grad():
            p -= 0.3 * p.grad
    np.testing.assert_allclose(p.data, true, atol=1e-8)


def test_leaves_with_equal_arrays_are_separate():
    """Assigning one of two tensors over the same memory leaves the other, and its graphs, alone."""
    a = np.array([1.0, 2.0])
    x, y = mg.from_numpy(a, requires_grad=True), mg.from_numpy(a, requires_grad=True)
    z = square(x).sum()
    y.assign([5.0, 6.0])
    z.backward()
    assert x.grad.tolist() == [2, 4]
