"""Hooks read or replace a gradient as it passes; retain_grad leaves one on a result."""

import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor


@pytest.fixture
def x():
    return Tensor([1.0, 2.0], requires_grad=True)


BOTH = pytest.mark.parametrize("create_graph", [False, True], ids=["arrays", "values"])


@BOTH
def test_a_hook_reads(x, create_graph):
    seen = []
    y = x * 3.0
    y.register_hook(seen.append)
    x.register_hook(seen.append)
    (y * y).sum().backward(create_graph=create_graph)
    assert [type(g) for g in seen] == [Tensor, Tensor]
    assert [g.tolist() for g in seen] == [[6, 12], [18, 36]]
    assert x.grad.tolist() == [18, 36]


@BOTH
@pytest.mark.parametrize("new", [lambda g: g * 10.0, lambda g: g.data * 10.0, lambda g: [10.0 * v for v in g.tolist()]])
def test_what_a_hook_returns_is_used_further(x, create_graph, new):
    y = x * 3.0
    y.register_hook(new)
    (y * y).sum().backward(create_graph=create_graph)
    assert x.grad.tolist() == [180, 360]


@BOTH
def test_a_hook_on_a_leaf_changes_what_accumulates(x, create_graph):
    x.register_hook(lambda g: g * 10.0)
    for _ in range(2):
        (x * x).sum().backward(create_graph=create_graph)
    assert x.grad.tolist() == [40, 80]  # the gradient of each pass was replaced, not the sum


@BOTH
def test_hooks_see_the_whole_gradient_once(x, create_graph):
    seen = []
    y = x * 1.0
    y.register_hook(seen.append)
    z = y * 2.0 + y * 3.0 + y[0] + y[0:1]
    z.sum().backward(create_graph=create_graph)
    assert [g.tolist() for g in seen] == [[5 + 4, 5]]


def test_hooks_run_in_the_order_in_which_they_were_registered(x):
    """Handles that nobody keeps do not take their hooks with them."""
    y, order = x * 1.0, []
    y.register_hook(lambda g: order.append("first") or g + 1.0)
    y.register_hook(lambda g: order.append("second") or g * 10.0)
    y.register_hook(lambda g: order.append("third"))
    y.sum().backward()
    assert order == ["first", "second", "third"]
    assert x.grad.tolist() == [20, 20]


def test_the_same_function_twice_is_two_hooks(x):
    def double(g):
        return g * 2.0

    handles = [x.register_hook(double), x.register_hook(double)]
    x.sum().backward()
    assert x.grad.tolist() == [4, 4]
    handles[0].remove()
    x.zero_grad()
    x.sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_remove(x):
    seen = []
    handle, kept = x.register_hook(lambda g: seen.append("gone")), x.register_hook(lambda g: seen.append("kept"))
    handle.remove()
    handle.remove()
    x.sum().backward()
    assert seen == ["kept"]
    kept.remove()
    x.sum().backward()
    assert seen == ["kept"]


def test_a_hook_may_remove_itself(x):
    seen = []
    handle = x.register_hook(lambda g: seen.append(g.tolist()) or handle.remove())
    x.register_hook(lambda g: seen.append("other"))
    for _ in range(2):
        x.sum().backward()
    assert seen == [[1, 1], "other", "other"]


def test_hooks_stay_through_an_assignment(x):
    x.register_hook(lambda g: g * 2.0)
    x.assign([5.0, 6.0])
    (x * x).sum().backward()
    assert x.grad.tolist() == [20, 24]


def test_a_hook_that_closes_over_a_tensor_is_differentiated():
    """With create_graph what a hook does is part of the derivative: ȳ·w, w = 2x."""
    x, w = Tensor(3.0, requires_grad=True), Tensor(2.0, requires_grad=True)
    y = x * x
    y.register_hook(lambda g: g * w)
    (y * 1.0).backward(create_graph=True)
    gradient, x.grad, w.grad = x.grad, None, None
    assert gradient.item() == 12
    gradient.backward()
    assert x.grad.item() == 4
    assert w.grad.item() == 6


def test_without_create_graph_a_hook_leaves_no_history(x):
    w = Tensor([2.0, 2.0], requires_grad=True)
    x.register_hook(lambda g: g * w)
    x.sum().backward()
    assert not x.grad.requires_grad


def test_what_a_hook_sees_is_read_only(x):
    seen = []
    x.register_hook(seen.append)
    x.sum().backward([1.0][0])
    with pytest.raises(ValueError, match="read-only"):
        seen[0].data[0] = 5.0


def test_backward_inside_of_a_hook(x):
    z = Tensor(3.0, requires_grad=True)
    x.register_hook(lambda g: (z * z).backward())
    x.sum().backward()
    assert z.grad.item() == 6
    assert x.grad.tolist() == [1, 1]


@BOTH
@pytest.mark.parametrize(
    ("new", "got"),
    [
        (lambda g: g.sum(), r"float64 \(\)"),
        (lambda g: 1.0, r"float64 \(\)"),
        (lambda g: g.astype("float32"), r"float32 \(2,\)"),
        (lambda g: g.data.astype("float32"), r"float32 \(2,\)"),
        (lambda g: np.ones((2, 2)), r"float64 \(2, 2\)"),
    ],
)
def test_a_gradient_of_another_shape_or_dtype_is_refused(x, create_graph, new, got):
    y = x * 2.0
    y.register_hook(new)
    message = rf"a hook replaced a gradient, float64 \(2,\), by {got}: return one of the same shape and dtype"
    with pytest.raises(ValueError, match=message):
        y.sum().backward(create_graph=create_graph)
    assert x.grad is None


def test_an_error_in_a_hook_leaves_the_gradient_alone(x):
    def fail(g):
        raise ArithmeticError("in a hook")

    y = x * 2.0
    y.register_hook(fail)
    with pytest.raises(ArithmeticError, match="in a hook"):
        y.sum().backward()
    assert x.grad is None


@pytest.mark.parametrize("leaf", [False, True])
def test_a_tensor_with_hooks_that_is_gone_is_an_error(leaf):
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x if leaf else x * 2.0
    y.register_hook(lambda g: None)
    loss = (y * y).sum()
    name = "leaf" if leaf else "multiply"
    if leaf:
        del x
    del y
    with pytest.raises(RuntimeError, match=rf"<{name} \(2,\) float64> had hooks.*keep a reference to it"):
        loss.backward()


def test_a_tensor_whose_hooks_were_removed_may_go(x):
    y = x * 2.0
    handles = [y.register_hook(lambda g: g * 100.0) for _ in range(2)]
    for handle in handles:
        handle.remove()
        handle.remove()
    loss = y.sum()
    del y
    loss.backward()
    assert x.grad.tolist() == [2, 2]


def test_one_hook_that_is_left_is_enough(x):
    y = x * 2.0
    for gone in (0, 1):
        handles = [y.register_hook(lambda g: None) for _ in range(2)]
        handles[gone].remove()
        loss = y.sum()
    del y
    with pytest.raises(RuntimeError, match="had hooks"):
        loss.backward()


def test_a_handle_keeps_no_graph_alive(x):
    y = mg.exp(x)
    handle = y.register_hook(lambda g: None)
    array = weakref.ref(y.array)
    del y
    assert array() is None
    handle.remove()


def test_where_hooks_may_be(x):
    for t in (Tensor([1.0]), x.detach(), x > 1.0):
        with pytest.raises(RuntimeError, match="no gradient flows through this tensor: it needs requires_grad=True"):
            t.register_hook(print)
        with pytest.raises(RuntimeError, match="no gradient flows"):
            t.retain_grad()
    with pytest.raises(TypeError, match="expected a function of the gradient, got 3"):
        x.register_hook(3)


# retain_grad


@BOTH
def test_retain_grad(x, create_graph):
    y = x * 3.0
    z = y * y
    y.retain_grad()
    z.sum().backward(create_graph=create_graph)
    assert y.grad.tolist() == [6, 12]
    assert z.grad is None
    assert x.grad.tolist() == [18, 36]
    assert y.grad.requires_grad == create_graph


def test_it_is_what_the_hooks_made_of_it_in_either_order(x):
    for first, second in (("retain_grad", "register_hook"), ("register_hook", "retain_grad")):
        y = x * 3.0
        for name in (first, second):
            getattr(y, name)(*[lambda g: g * 10.0] * (name == "register_hook"))
        y.sum().backward()
        assert y.grad.tolist() == [10, 10]


def test_it_accumulates_on_the_root_too(x):
    y = x * 3.0
    y.retain_grad()
    y.backward([1.0, 2.0], retain_graph=True)
    y.backward([1.0, 2.0])
    assert y.grad.tolist() == [2, 4]


def test_on_a_leaf_it_changes_nothing(x):
    x.retain_grad()
    x.sum().backward()
    assert x.grad.tolist() == [1, 1]


def test_a_tensor_that_is_gone_retains_nothing(x):
    y = x * 3.0
    y.retain_grad()
    z = y.sum()
    del y
    z.backward()
    assert x.grad.tolist() == [3, 3]


def test_functional_gradients_see_hooks():
    seen = []

    def f(x):
        y = x * x
        y.register_hook(lambda g: seen.append(g.item()) or g * 10.0)
        f.kept = y
        return y * 3.0

    assert mg.grad(f)(Tensor(2.0)).item() == 120
    assert seen == [3]
