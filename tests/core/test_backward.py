"""Reverse mode: order, sums, derivatives of derivatives against closed forms, and errors that change nothing."""

import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import Op, Tensor
from minigrad.core.backward import backward


def scalar(x):
    return Tensor(x, requires_grad=True)


def counted(name, calls):
    """x·k whose rule notes that it was called."""

    def rule(g, k):
        calls.append(name)
        return g * k

    return Op(name, lambda x, *, k: x * k, vjp={"x": rule}, kind="linear")


# First derivatives


def test_closed_form():
    a, b = scalar(0.7), scalar(-1.3)
    y = mg.sin(a * b) + mg.exp(a) / b
    y.backward()
    np.testing.assert_allclose(a.grad.item(), -1.3 * math.cos(0.7 * -1.3) + math.exp(0.7) / -1.3, rtol=1e-15)
    np.testing.assert_allclose(b.grad.item(), 0.7 * math.cos(0.7 * -1.3) - math.exp(0.7) / 1.69, rtol=1e-15)


def test_a_value_used_many_times_receives_all_its_cotangents():
    x = Tensor([1.0, 2.0], requires_grad=True)
    total = x * 0.0
    for k in range(1, 11):
        total = total + x * float(k)
    total.backward([1.0, 10.0])
    assert x.grad.tolist() == [55, 550]


def test_each_rule_runs_once_youngest_first():
    """A skip over many nodes: the older node waits for all of its cotangents."""
    calls = []
    a, b, c, d = (counted(name, calls) for name in "abcd")
    x = Tensor([1.0], requires_grad=True)
    first = a(x, k=2.0)
    second = b(first, k=3.0)
    third = c(second + first, k=5.0)
    (d(third, k=7.0) + first).sum().backward()
    assert calls == ["d", "c", "b", "a"]
    assert x.grad.tolist() == [2 * (1 + 7 * 5 * (1 + 3))]


@pytest.mark.parametrize("create_graph", [False, True])
def test_the_same_value_as_both_operands(create_graph):
    x = Tensor([2.0, 3.0], requires_grad=True)
    (x * x + x / x - (x - x)).sum().backward(create_graph=create_graph)
    assert x.grad.tolist() == [4, 6]


def test_broadcast_operands_get_gradients_of_their_own_shape():
    a = Tensor(np.ones((3, 1)), requires_grad=True)
    b = Tensor(np.full((2,), 2.0), requires_grad=True)
    c = Tensor(5.0, requires_grad=True)
    (a * b + c).sum().backward()
    assert a.grad.tolist() == [[4], [4], [4]]
    assert b.grad.tolist() == [3, 3]
    assert c.grad.shape == ()
    assert c.grad.item() == 6


def test_empty_arrays():
    a, b = Tensor(np.ones((0, 3)), requires_grad=True), Tensor(np.ones((1, 3)), requires_grad=True)
    (a * b).sum().backward()
    assert a.grad.shape == (0, 3)
    assert b.grad.tolist() == [[0, 0, 0]]


def test_a_cotangent_is_cast_to_the_dtype_of_the_input():
    x, y = Tensor([1.0, 2.0], "float32", requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    z = x * y
    assert z.dtype == np.float64
    z.sum().backward()
    assert x.grad.dtype == np.float32
    assert y.grad.dtype == np.float64
    assert x.grad.tolist() == [3, 4]


def test_the_gradient_of_a_leaf_is_its_cotangent():
    x = Tensor([1.0, 2.0], requires_grad=True)
    x.backward([3.0, 4.0])
    assert x.grad.tolist() == [3, 4]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element_needs_no_cotangent(shape):
    x = Tensor(np.full(shape, 3.0), requires_grad=True)
    (x * x).backward()
    assert x.grad.shape == shape
    assert x.grad.item() == 6


def test_cotangents_of_all_kinds():
    for given in ([1.0, 2.0], (1, 2), np.array([1.0, 2.0]), Tensor([1.0, 2.0]), [True, 2]):
        x = Tensor([3.0, 4.0], requires_grad=True)
        (x * x).backward(given)
        assert x.grad.tolist() == [6, 16]


def test_infinite_slopes_make_no_warnings():
    """The forward warns where it should; the rules, whose divisions nobody wrote, are silent."""
    for create_graph in (False, True):
        x = Tensor([0.0, 4.0], requires_grad=True)
        mg.sqrt(x).sum().backward(create_graph=create_graph)
        assert x.grad.tolist() == [np.inf, 0.25]


# Several passes


def test_gradients_of_two_losses_accumulate():
    x = Tensor([1.0, 2.0], requires_grad=True)
    h = mg.exp(x)
    first, second = (h * 2.0).sum(), (h * h).sum()
    first.backward(retain_graph=True)
    second.backward()
    np.testing.assert_allclose(x.grad.data, 2 * np.exp([1, 2]) + 2 * np.exp([2, 4]), rtol=1e-15)
    x.zero_grad()
    assert x.grad is None


def test_retain_graph_gives_the_same_again():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = mg.sin(mg.exp(x)).sum()
    y.backward(retain_graph=True)
    once = x.grad.data
    y.backward()
    np.testing.assert_array_equal(x.grad.data, 2 * once)


def test_create_graph_retains_unless_told_otherwise():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = mg.sin(x).sum()
    y.backward(create_graph=True)
    y.backward(create_graph=True, retain_graph=False)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_several_roots_are_one_pass():
    """Shared nodes run once, with the sum of what comes from the roots."""
    calls = []
    a = counted("a", calls)
    x = Tensor([1.0, 2.0], requires_grad=True)
    h = a(x, k=3.0)
    y, z = h * 2.0, h.sum()
    reached = backward([(y.node, np.array([1.0, 10.0])), (z.node, np.array(100.0)), (y.node, np.ones(2))], Tensor)
    assert calls == ["a"]
    assert reached[x.node].tolist() == [3 * (4 + 100), 3 * (22 + 100)]


def test_targets_stop_the_pass():
    calls = []
    a, b = counted("a", calls), counted("b", calls)
    x = Tensor([1.0], requires_grad=True)
    h = a(x, k=2.0)
    y = b(h, k=3.0)
    reached = backward([(y.node, np.ones(1))], Tensor, targets=[h.node])
    assert calls == ["b"]
    assert reached[h.node].tolist() == [3]


def test_only_wanted_nodes_run():
    calls = []
    a, b, c = (counted(name, calls) for name in "abc")
    x, z = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True)
    h = a(x, k=2.0)
    y = b(h, k=3.0) * c(z, k=5.0)
    wanted = {h.node, y.node, y.node.parents[0]}
    reached = backward([(y.node, np.ones(1))], Tensor, targets=[h.node], wanted=wanted)
    assert calls == ["b"]
    assert reached[h.node].tolist() == [15]


def test_a_branch_that_nobody_uses_costs_nothing():
    calls = []
    a, b = counted("used", calls), counted("unused", calls)
    x = Tensor(np.ones(3), requires_grad=True)
    h = a(x, k=2.0)
    unused = b(h, k=3.0)
    for _ in range(10):
        unused = b(unused, k=3.0)
    h.sum().backward()
    assert calls == ["used"]
    assert unused.node.saved is not None


def test_of_starred_inputs_too_only_wanted_ones():
    x, z, c = Tensor([1.0], requires_grad=True), Tensor([1.0], requires_grad=True), Tensor([1.0])
    y = mg.concat([c, x, z, [1.0]])
    assert set(backward([(y.node, np.ones(4))], Tensor)) == {x.node, z.node}
    y = mg.concat([c, x, z, [1.0]])
    assert set(backward([(y.node, np.ones(4))], Tensor, wanted={y.node, z.node})) == {z.node}


def test_a_starred_rule_may_return_one_array():
    """Also if the first of the inputs is a constant, which has no node."""
    rule = lambda g, xs: np.stack([k * np.asarray(g) for k in range(len(xs))])
    op = Op("weighted", lambda *xs: sum(k * x for k, x in enumerate(xs)), {"xs": rule}, kind="linear")
    x, z = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 4.0], requires_grad=True)
    op(1.0, x, z).sum().backward()
    assert (x.grad.data.tolist(), z.grad.data.tolist()) == ([1.0, 1.0], [2.0, 2.0])
    op(x, z).sum().backward()
    assert (x.grad.data.tolist(), z.grad.data.tolist()) == ([1.0, 1.0], [3.0, 3.0])


def test_constants_get_no_cotangent():
    calls = []

    def note(name, c):
        calls.append(name)
        return c

    op = Op(
        "product",
        np.multiply,
        {"a": lambda g, b: note("a", g * b), "b": lambda g, a: note("b", g * a)},
        kind="elementwise",
    )
    x, c = Tensor([1.0], requires_grad=True), Tensor([2.0])
    op(x, c).backward()
    op(c, x).backward()
    op(3.0, x).backward()
    op(x, np.ones(1)).backward()
    assert calls == ["a", "b", "b", "a"]


# Derivatives of derivatives


def derivatives(f, x, order):
    """f and its derivatives by calling backward again and again."""
    x = scalar(x)
    y = f(x)
    values = [y.item()]
    for _ in range(order):
        x.zero_grad()
        y.backward(create_graph=True)
        y = x.grad
        values.append(y.item())
    return values


X = 0.6
CLOSED = {
    "power": (lambda x: x**5, [X**5, 5 * X**4, 20 * X**3, 60 * X**2, 120 * X]),
    "exp·sin": (
        lambda x: mg.exp(x) * mg.sin(x),
        [
            math.exp(X) * math.sin(X),
            math.exp(X) * (math.sin(X) + math.cos(X)),
            2 * math.exp(X) * math.cos(X),
            2 * math.exp(X) * (math.cos(X) - math.sin(X)),
            -4 * math.exp(X) * math.sin(X),
        ],
    ),
    "1/x": (lambda x: 1.0 / x, [1 / X, -1 / X**2, 2 / X**3, -6 / X**4, 24 / X**5]),
    "log": (mg.log, [math.log(X), 1 / X, -1 / X**2, 2 / X**3]),
    "tanh": (
        mg.tanh,
        [math.tanh(X), 1 - math.tanh(X) ** 2, -2 * math.tanh(X) * (1 - math.tanh(X) ** 2)],
    ),
    "composed": (
        lambda x: mg.sin(x * x),
        [
            math.sin(X * X),
            2 * X * math.cos(X * X),
            2 * math.cos(X * X) - 4 * X * X * math.sin(X * X),
            -12 * X * math.sin(X * X) - 8 * X**3 * math.cos(X * X),
        ],
    ),
    "branches": (lambda x: (x * x) * (x + 1.0) - x, [X**3 + X**2 - X, 3 * X**2 + 2 * X - 1, 6 * X + 2, 6]),
}


@pytest.mark.parametrize(("f", "expected"), CLOSED.values(), ids=CLOSED)
def test_derivatives_of_any_order(f, expected):
    np.testing.assert_allclose(derivatives(f, X, len(expected) - 1), expected, rtol=1e-12, atol=1e-12)


def test_the_hessian_of_a_function_of_matrices():
    """f = Σ (AB)², H·V in A is 2·(VB)Bᵀ."""
    rng = np.random.default_rng(0)
    a, b, v = rng.normal(size=(2, 3)), rng.normal(size=(3, 4)), rng.normal(size=(2, 3))
    x = Tensor(a, requires_grad=True)
    mg.square(mg.matmul(x, b)).sum().backward(create_graph=True)
    np.testing.assert_allclose(x.grad.data, 2 * (a @ b) @ b.T, rtol=1e-12)
    gradient, x.grad = x.grad, None
    (gradient * v).sum().backward()
    np.testing.assert_allclose(x.grad.data, 2 * (v @ b) @ b.T, rtol=1e-12)


def test_mixed_derivatives_share_a_graph():
    """∂²/∂a∂b of exp(ab) is (1 + ab)·exp(ab), either way round."""
    for first, second in ((0, 1), (1, 0)):
        xs = [scalar(0.3), scalar(0.8)]
        mg.exp(xs[0] * xs[1]).backward(create_graph=True)
        gradient = xs[first].grad
        xs[0].zero_grad()
        xs[1].zero_grad()
        gradient.backward()
        np.testing.assert_allclose(xs[second].grad.item(), (1 + 0.24) * math.exp(0.24), rtol=1e-14)


def test_a_gradient_penalty():
    """The gradient is part of the loss, together with what it was computed from: d/dw (w²x + (2wx)²) = 2wx + 8wx²."""
    w, x = scalar(1.5), 0.7
    y = w * w * x
    y.backward(create_graph=True)
    gradient, w.grad = w.grad, None
    (y + gradient * gradient).backward()
    np.testing.assert_allclose(w.grad.item(), 2 * 1.5 * x + 8 * 1.5 * x**2, rtol=1e-14)


def test_the_derivative_in_the_cotangent():
    """backward is linear in its cotangent, and may be differentiated in it."""
    x, u = Tensor([1.0, 2.0], requires_grad=True), Tensor([3.0, 5.0], requires_grad=True)
    mg.exp(x).backward(u, create_graph=True)
    gradient, x.grad = x.grad, None
    gradient.backward([1.0, 1.0])
    np.testing.assert_allclose(u.grad.data, np.exp([1, 2]))
    np.testing.assert_allclose(x.grad.data, [3, 5] * np.exp([1, 2]))


def test_a_gradient_has_history_with_create_graph_alone():
    x = scalar(2.0)
    (x * x * x).backward(create_graph=True)
    assert x.grad.requires_grad
    (x * x * x).backward()
    assert not x.grad.requires_grad
    assert x.grad.item() == 24


def test_nor_on_a_tape_that_goes_on_from_such_a_gradient():
    x = scalar(2.0)
    (x * x * x).backward(create_graph=True)
    with mg.record():
        (x * x * x).backward()
    assert not x.grad.requires_grad
    assert x.grad.item() == 24


def test_create_graph_under_no_grad():
    x = scalar(2.0)
    y = x * x * x
    with mg.no_grad():
        y.backward(create_graph=True)
    gradient, x.grad = x.grad, None
    gradient.backward()
    assert x.grad.item() == 12


def test_a_constant_gradient_has_no_history():
    x = scalar(2.0)
    (x + x).backward(create_graph=True)
    assert x.grad.item() == 2
    with pytest.raises(RuntimeError, match="no gradient flows"):
        x.grad.backward()


def test_second_derivatives_through_the_outputs_of_one_operation():
    """The rule uses the outputs, whose history must not be lost: d²/dx² of sin·cos is -2·sin(2x)."""
    op = Op("sincos", lambda x: (np.sin(x), np.cos(x)), vjp={"x": lambda g, y: g[0] * y[1] - g[1] * y[0]}, kind="other")
    f = lambda x: (lambda s, c: s * c)(*op(x))
    expected = [math.sin(X) * math.cos(X), math.cos(2 * X), -2 * math.sin(2 * X), -4 * math.cos(2 * X)]
    np.testing.assert_allclose(derivatives(f, X, 3), expected, rtol=1e-13)


# Errors


@pytest.fixture
def x():
    """A leaf that has a gradient already."""
    x = Tensor([1.0, 2.0], requires_grad=True)
    x.grad = Tensor([7.0, 7.0])
    return x


def refused(x, error, match, f):
    grad = x.grad
    with pytest.raises(error, match=match):
        f()
    assert x.grad is grad


def test_twice_through_freed_buffers(x):
    y = mg.exp(x * 2.0).sum()
    y.backward()
    refused(x, RuntimeError, r"backward through <sum \(\) float64> a second time.*retain_graph=True", y.backward)


def test_twice_through_a_part(x):
    h = mg.exp(x)
    h.sum().backward()
    refused(x, RuntimeError, r"<exp \(2,\) float64> a second time", (h * 2.0).sum().backward)


def test_no_cotangent(x):
    message = r"a tensor of shape \(2,\) needs a cotangent of that shape; or reduce it, to sum\(\) say"
    refused(x, ValueError, message, (x * x).backward)
    refused(x, ValueError, "needs a cotangent", (x[:0] * 1.0).backward)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 2)])
def test_a_cotangent_of_another_shape(x, shape):
    message = rf"expected a cotangent of shape \(2,\), got {'[(]' + str(shape)[1:-1] + '[)]'}"
    refused(x, ValueError, message, lambda: (x * x).backward(np.ones(shape)))
    refused(x, ValueError, message, lambda: (x * x).backward(Tensor(np.ones(shape))))


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_a_cotangent_of_another_dtype(x, dtype):
    message = f"expected a cotangent of dtype float64, got {dtype}: convert with astype"
    refused(x, TypeError, message, lambda: (x * x).backward(np.ones(2, dtype)))
    refused(x, TypeError, message, lambda: (x * x).backward(Tensor(np.ones(2), dtype)))


@pytest.mark.parametrize("dtype", ["float16", "complex128", "U1", "object"])
def test_a_cotangent_of_no_dtype_of_ours(x, dtype):
    refused(x, TypeError, "minigrad computes with", lambda: (x * x).backward(np.ones(2).astype(dtype)))


def test_no_gradient_flows(x):
    message = "no gradient flows through this tensor; set requires_grad=True"
    with mg.no_grad():
        y = x.sum()
    for t in (y, Tensor(1.0), x.detach().sum(), (x > 1.0).sum(), mg.argmax(x), x.sum().astype("int64")):
        refused(x, RuntimeError, message, t.backward)


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "bool"])
def test_integers_do_not_require_a_gradient(dtype):
    message = f"only floating-point tensors can require a gradient, not {dtype}: convert with astype"
    with pytest.raises(TypeError, match=message):
        Tensor([1, 0], dtype, requires_grad=True)
    with pytest.raises(TypeError, match=message):
        mg.from_numpy(np.zeros(2, dtype), requires_grad=True)
    t = Tensor([1, 0], dtype)
    with pytest.raises(TypeError, match=message):
        t.requires_grad = True
    assert not t.requires_grad


def test_an_error_half_way_leaves_every_gradient_alone(x):
    """The rule that fails is reached last; another leaf was done by then."""

    def fail(g):
        raise ArithmeticError("in a rule")

    bad = Op("bad", lambda x: x * 1.0, vjp={"x": fail})
    z = Tensor([1.0, 2.0], requires_grad=True)
    y = (bad(x) + z * 2.0).sum()
    refused(x, ArithmeticError, "in a rule", y.backward)
    assert z.grad is None


def test_stale_and_freed_nodes_are_found_on_values_too(x):
    for backward_twice in (lambda y: y.backward(create_graph=True), lambda y: y.backward()):
        y = (x * x).sum()
        y.backward(retain_graph=False)
        refused(x, RuntimeError, "second time", lambda y=y, f=backward_twice: f(y))


def test_the_grad_setter_checks(x):
    for wrong in (np.ones(2), [1.0, 1.0], 3.0, Tensor([1.0]), Tensor([1.0, 1.0], "float32")):
        refused(
            x, TypeError, r"grad: expected None or a tensor float64 \(2,\), got", lambda w=wrong: setattr(x, "grad", w)
        )
    x.grad = None
    assert x.grad is None
    x.grad = Tensor([1.0, 2.0])
    x.sum().backward()
    assert x.grad.tolist() == [2, 3]
