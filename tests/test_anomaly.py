"""detect_anomaly: the first NaN or Inf, forward or backward, with its operation, shapes, source line and cause."""

import re

import numpy as np
import pytest

import minigrad as mg
from minigrad import Op, Tensor

INF = float("inf")


@pytest.fixture(autouse=True)
def numpy_is_silent():
    with np.errstate(all="ignore"):
        yield


def error(f):
    with pytest.raises(FloatingPointError) as caught, mg.detect_anomaly():
        f()
    return str(caught.value)


# Forward


def test_where_it_first_appears():
    x = Tensor([[1.0, 0.0], [2.0, 3.0]], requires_grad=True)
    message = error(lambda: mg.exp(mg.log(x) * 2.0))  # this line
    assert message.startswith(
        "forward of log gave -inf at (0, 1), shape (2, 2), which first appears here, from x = [[1. 0.]\n [2. 3.]]"
    )
    assert re.search(rf"\n  {__file__}:\d+: .*# this line$", message)


def test_which_input_brought_it():
    message = error(lambda: mg.add(Tensor([1.0, 2.0]), Tensor([[1.0, 2.0], [np.nan, 4.0]])))
    assert message.startswith(
        "forward of add gave nan at (1, 0), shape (2, 2), brought by b (nan at (1, 0), shape (2, 2))\n"
    )
    assert "a (" not in message.splitlines()[0].split("brought")[1]


def test_both_inputs():
    message = error(lambda: Tensor([INF]) - Tensor([INF]))
    assert "gave nan at (0,)" in message
    assert "brought by a (inf at (0,), shape (1,)), b (inf at (0,), shape (1,))" in message


def test_a_starred_input():
    message = error(lambda: mg.concat([Tensor([1.0]), Tensor([np.nan])]))
    assert "forward of concat gave nan at (1,), shape (2,), brought by xs[1] (nan at (0,), shape (1,))" in message


def test_a_scalar():
    assert "brought by b (inf at (), shape ())" in error(lambda: Tensor([1.0]) * INF)
    assert "which first appears here, from a = [1.], b = 0.0" in error(lambda: Tensor([1.0]) / 0.0)


def test_several_outputs():
    op = Op("parts", lambda x: (x + 1.0, 1.0 / x))
    message = error(lambda: op(Tensor([0.0, 1.0])))
    del mg.core.op.registry["parts"]
    assert "forward of parts gave inf at (0,), shape (2,), which first appears here, from x = [0. 1.]" in message


def test_large_arrays_are_shown_in_part():
    x = np.ones((100, 100))
    x[3, 4] = 0.0
    message = error(lambda: mg.log(Tensor(x)))
    assert "gave -inf at (3, 4), shape (100, 100)" in message
    assert len(message) < 1000


def test_under_no_grad_too():
    def f():
        with mg.no_grad():
            mg.log(Tensor([0.0]))

    assert "forward of log" in error(f)


def test_finite_values_integers_and_booleans_pass():
    with mg.detect_anomaly():
        x = Tensor([1.0, 2.0], requires_grad=True)
        mg.where(x > 1.0, mg.exp(x), 0.0).sum().backward()
        mg.argmax(x)
        Tensor([1, 2]) + 1
    assert x.grad.tolist() == [0, np.exp(2.0)]


# Backward


@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_names_the_rule_and_the_line_of_the_forward(create_graph):
    """Not the operations inside of the rule, neither where those are recorded."""
    x = Tensor([4.0, 0.0], requires_grad=True)

    def f():
        y = mg.sqrt(x)  # this line
        y.sum().backward(create_graph=create_graph)

    message = error(f)
    assert message.startswith(
        "backward of sqrt, cotangent of x, gave inf at (1,), shape (2,), which first appears here"
    )
    assert "the cotangent of its output = [1. 1.]" in message
    assert "saved y = [2. 0.]" in message
    assert re.search(rf"\n  {__file__}:\d+: y = mg.sqrt\(x\)  # this line$", message)
    assert x.grad is None


def test_which_cotangent_or_saved_value_brought_it():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert "cotangent of x, gave nan at (1,), shape (2,), brought by the cotangent of its output (nan at (1,)" in error(
        lambda: mg.exp(x).backward([1.0, np.nan])
    )
    with mg.debug():
        y = x * Tensor([1.0, INF])
    message = error(lambda: y.backward([1.0, 1.0]))
    assert (
        "backward of multiply, cotangent of a, gave inf at (1,), shape (2,), brought by saved b (inf at (1,)" in message
    )
    assert "y = x * Tensor([1.0, INF])" in message


def test_a_graph_recorded_elsewhere_says_how_to_get_the_line():
    x = Tensor([0.0], requires_grad=True)
    y = mg.sqrt(x)
    assert "run the forward pass under minigrad.debug()" in error(lambda: y.backward())


def test_a_sum_of_cotangents():
    """No rule gives an Inf: two cotangents that are finite do, together."""
    x = Tensor([0.0, 0.0], "float32", requires_grad=True)
    message = error(lambda: (x * 3e38 + x * 3e38).sum().backward())
    assert "backward, the sum of the cotangents of <leaf (2,) float32>, gave inf at (0,), shape (2,)" in message
    assert x.grad is None


def test_a_sum_of_cotangents_on_the_way():
    x = Tensor([0.0], "float32", requires_grad=True)
    y = x * 1.0
    message = error(lambda: (y * 3e38 + y * 3e38).sum().backward())
    assert "backward of multiply" in message
    assert "brought by the cotangent of its output (inf" in message


def test_the_cotangents_of_slices():
    x = Tensor([0.0, 0.0], "float32", requires_grad=True)
    message = error(lambda: (x[0] * 3e38 + x[:1] * 3e38).sum().backward())
    assert "the sum of the cotangents of <leaf (2,) float32>, gave inf at (0,)" in message
    y = Tensor([4.0, 0.0], requires_grad=True)
    assert "backward of sqrt" in error(lambda: mg.sqrt(y[1]).backward())


def test_with_create_graph_the_second_derivative_is_watched_too():
    x = Tensor([0.0], requires_grad=True)

    def f():
        mg.sum(x**1.5).backward(create_graph=True)  # 1.5·√x is fine, its derivative is not
        gradient, x.grad = x.grad, None
        gradient.backward()

    message = error(f)
    assert "inf" in message or "nan" in message
    assert f"{__file__}:" in message


@pytest.mark.parametrize("transform", [mg.grad, mg.value_and_grad, mg.jacobian])
def test_in_transforms(transform):
    assert "backward of sqrt" in error(lambda: transform(lambda x: mg.sqrt(x).sum())(Tensor([0.0])))


def test_in_functional_gradients_the_sum_too():
    message = error(lambda: mg.grad(lambda x: (x * 3e38 + x * 3e38).sum())(Tensor([0.0], "float32")))
    assert "the sum of the cotangents" in message


# The mode


def test_it_ends_with_the_block():
    with pytest.raises(FloatingPointError), mg.detect_anomaly():
        mg.log(Tensor([0.0]))
    assert mg.log(Tensor([0.0])).item() == -INF


def test_as_a_decorator_it_watches_each_call():
    @mg.detect_anomaly()
    def f(x):
        return mg.log(x)

    for _ in range(2):
        with pytest.raises(FloatingPointError, match="forward of log"):
            f(Tensor([0.0]))
    assert f(Tensor([1.0])).item() == 0


def test_it_changes_no_bits():
    results = []
    for mode in (mg.enable_grad, mg.detect_anomaly):
        x = Tensor(np.linspace(-2, 2, 12).reshape(3, 4), requires_grad=True)
        with mode():
            y = mg.softmax(mg.tanh(x) @ x.T, -1)[0].sum() + mg.split(x, 2, 1)[0].sum()
            y.backward()
        results.append((y.data.tobytes(), x.grad.data.tobytes()))
    assert results[0] == results[1]
