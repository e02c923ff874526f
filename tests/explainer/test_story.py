"""The story: its calls and steps against the gradients of the engine, names and lines as people know them."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn

A = mg.Tensor([[0.5, -1.0], [2.0, 0.25]], requires_grad=True)


def test_a_chain_by_hand():
    """y = Σ tanh(a·x): ȳ = 1, then 1 - tanh², then times a and times x."""
    x = np.array([0.5, -1.0])
    story = mg.explain(lambda x, a: mg.sum(mg.tanh(a * x)), mg.Tensor(x), 2.0)
    slope = 1 - np.tanh(2 * x) ** 2
    assert [(s.number, s.op.name, s.call.number) for s in story.steps] == [
        (1, "sum", 3),
        (2, "tanh", 2),
        (3, "multiply", 1),
    ]
    for step, came in zip(story.steps, ([1.0], [1.0, 1.0], slope), strict=True):
        np.testing.assert_allclose(np.ravel(step.came), came)
        np.testing.assert_allclose(np.ravel(step.call.made.cotangent), came)
    (_, a, into_a), (_, _, into_x) = story.steps[2].left
    assert (a.name, into_a.shape) == ("a", ())
    np.testing.assert_allclose(into_a, np.sum(slope * x))
    np.testing.assert_allclose(into_x, slope * 2)
    assert [(q.name, q.call) for q in story.inputs] == [("a", None), ("x", None)]


NETS = {
    "dense": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)),
    "norm": lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.GELU(), nn.Dropout(0.5)),
    "tied": lambda: (lambda layer: nn.Sequential(layer, nn.Tanh(), layer))(nn.Linear(3, 3)),
}


@pytest.mark.parametrize("make", NETS.values(), ids=NETS)
def test_gradients_are_those_of_backward(make):
    """Of every parameter; what reaches a value is the sum of what leaves for it; and nobody's `.grad` is changed."""
    net, x = make(), mg.random.normal((5, 3), dtype="float32")
    generator = mg.random.Generator(7)
    loss_of = lambda x: mg.mean(mg.square(net(x)))
    with mg.random.use(generator):
        story = mg.explain(loss_of, x)
    assert all(p.grad is None for p in net.parameters().values())
    with mg.random.use(mg.random.Generator(7)):
        loss_of(x).backward()
    by_array = {id(q.array): q for q in story.inputs}
    for p in net.parameters().values():
        np.testing.assert_allclose(by_array[id(p.array)].cotangent, p.grad.data, rtol=1e-4, atol=1e-6)
    left: dict = {}
    for step in story.steps:
        for _, quantity, cotangent in step.left:
            left.setdefault(id(quantity), (quantity, []))[1].append(cotangent)
    for quantity, parts in left.values():
        np.testing.assert_allclose(quantity.cotangent, sum(parts), rtol=1e-5, atol=1e-7)


@given(st.data())
def test_random_chains(data):
    """Each operation once, in order, backward in the other order; each input of a call is one that came before."""
    ops = data.draw(
        st.lists(st.sampled_from([mg.tanh, mg.exp, mg.sin, lambda x: x * x, lambda x: x + A[0]]), max_size=12)
    )

    def f(x):
        for op in ops:
            x = op(mg.tanh(x))
        return mg.sum(x)

    story = mg.explain(f, mg.Tensor([0.1, 0.2]))
    seen = {id(q) for q in story.inputs}
    for number, call in enumerate(story.calls, 1):
        assert call.number == number == call.made.call
        assert all(id(q) in seen or q.is_constant for q in call.given)
        seen.add(id(call.made))
    numbers = [step.call.number for step in story.steps]
    assert numbers == sorted(numbers, reverse=True)
    expected = mg.grad(f)(mg.Tensor([0.1, 0.2])).data
    (x,) = [q for q in story.inputs if q.name == "x"]
    np.testing.assert_allclose(x.cotangent, expected)


def test_names():
    """Arguments, modules and tensors that the function reaches, variables, and else the operation with a number."""
    net = nn.Sequential(nn.Linear(2, 2))

    def f(batch, pair, scale):
        h = net(batch)
        return mg.sum(mg.exp(h) * pair["a"] * A * scale + 1.5)

    story = mg.explain(f, np.ones((2, 2), "float32"), {"a": mg.Tensor([[1.0]])}, 3.0)
    assert [q.name for q in story.inputs] == [
        "batch",
        "net.layers.0.weight",
        "net.layers.0.bias",
        "pair.a",
        "A",
        "scale",
    ]
    assert [call.made.name for call in story.calls][:3] == ["h", "exp_1", "multiply_1"]
    constants = [q for call in story.calls for q in call.given if q.is_constant]
    assert [q.array.item() for q in constants] == [1.5]


def test_a_module_as_an_argument():
    """It is used as it is: its parameters get gradients, its statistics are updated and get none."""
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm(2))
    layer, norm = net.layers
    before = norm.running_mean.data
    story = mg.explain(lambda net, x: mg.sum(mg.square(net(x))), net, mg.random.normal((4, 3), dtype="float32"))
    reached = {q.name for q in story.inputs if q.cotangent is not None}
    assert reached == {"x", *(f"net.layers.{path}" for path in ("0.weight", "0.bias", "1.weight", "1.bias"))}
    assert not np.array_equal(norm.running_mean.data, before)
    assert layer.weight.grad is None


def test_lines():
    def f(x):
        y = mg.exp(x)
        return mg.sum(y)

    story = mg.explain(f, mg.Tensor([1.0]))
    assert [re.sub(r".*test_story\.py:\d+: ", "", call.line) for call in story.calls] == [
        "y = mg.exp(x)",
        "return mg.sum(y)",
    ]
    assert [step.line for step in story.steps] == [call.line for call in reversed(story.calls)]


def test_a_tape():
    """With the names of the caller's variables. Calls after backward (an update) are told; its own are steps."""
    weight = mg.Tensor([1.0, 2.0], requires_grad=True)
    weight.grad = mg.Tensor([0.0, 0.0])
    sgd = mg.optim.SGD([weight], 0.1)
    with mg.record() as tape:
        loss = mg.sum(weight * weight)
        loss.backward()
        sgd.step()
    story = mg.explain(tape)
    assert [call.op.name for call in story.calls][:2] == ["multiply", "sum"]
    assert story.calls[1].made.name == "loss"
    assert "sgd" in [call.op.name for call in story.calls[2:]]
    assert [step.op.name for step in story.steps] == ["sum", "multiply"]
    assert story.steps[1].came.tolist() == [1.0, 1.0]
    with mg.record() as tape:
        y = weight * 2.0
    assert mg.explain(tape).steps == []
    assert mg.explain(tape).inputs[0].name == "weight"
    assert y.shape == (2,)


def test_two_passes():
    p = mg.Tensor([3.0], requires_grad=True)
    with mg.record() as tape:
        (p * p).sum().backward()
        y = mg.exp(p)
        y.backward(retain_graph=True)
        y.backward()
    story = mg.explain(tape)
    passes = [(s.pass_number, s.op.name) for s in story.steps]
    assert passes == [(1, "sum"), (1, "multiply"), (2, "exp"), (3, "exp")]
    assert [call.op.name for call in story.calls] == ["multiply", "sum", "exp"]


def test_what_was_made_before_the_tape():
    p = mg.Tensor([3.0], requires_grad=True)
    y = mg.exp(p)
    with mg.record() as tape:
        (y * 2.0).sum().backward()
    story = mg.explain(tape)
    assert [(s.op.name, s.call is None) for s in story.steps] == [("sum", False), ("multiply", False), ("exp", True)]
    assert "what was made before the tape" in str(story)


def test_several_outputs_and_inputs():
    """One call for both outputs; parts of a concatenation each get their cotangent."""

    def f(a, b):
        low, high = mg.split(mg.concat([np.zeros(0), a, mg.ones(0), b, a]), 2)
        return mg.sum(low * 2.0) + mg.sum(high * 3.0)

    story = mg.explain(f, mg.Tensor([1.0]), mg.Tensor([2.0, 3.0]))
    assert "pick" not in [call.op.name for call in story.calls] + [step.op.name for step in story.steps]
    (concat,) = [step for step in story.steps if step.op.name == "concat"]
    assert [(q.name, c.tolist()) for _, q, c in concat.left] == [("a", [2.0]), ("b", [2.0, 3.0]), ("a", [3.0])]
    assert {q.name: q.cotangent.tolist() for q in story.inputs} == {"a": [5.0], "b": [2.0, 3.0]}


def test_a_long_chain_is_told_without_recursion():
    def f(x):
        for _ in range(3000):
            x = x * 1.0
        return x.sum()

    story = mg.explain(f, mg.Tensor([1.0]))
    assert (len(story.calls), len(story.steps)) == (3001, 3001)
    assert str(story).count("\n") > 6000


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mg.explain(mg.sum(A)), TypeError, "expected a function and its arguments, or a tape, got Tensor"),
        (lambda: mg.explain(mg.Tape(), 1.0), TypeError, "takes a tape alone"),
        (lambda: mg.explain(lambda x: 3.0, 1.0), TypeError, "expected the function to return a Tensor, got 3.0"),
        (lambda: mg.explain(lambda: mg.ones(3)), ValueError, "no gradient flows to the result"),
        (lambda: mg.explain(lambda n: n + 1, np.arange(3)), ValueError, "no gradient flows to the result"),
    ],
)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_parameters_are_named_before_a_step_changes_them():
    """The variables hold what they became; two steps on one tape change them twice."""
    layer, x = nn.Linear(2, 1), mg.ones((1, 2), dtype="float32")
    optimizer = mg.optim.SGD(layer, lr=0.1)
    with mg.record() as tape:
        for _ in range(2):
            mg.sum(layer(x)).backward()
            optimizer.step()
            optimizer.zero_grad()
    story = mg.explain(tape)
    assert {q.name for q in story.inputs} == {"x", "layer.weight", "layer.bias"}
    assigned = [call.made.name for call in story.calls if call.op.name == "assign"]
    assert set(assigned) == {"layer.weight", "layer.bias"}
