"""The tape: what it shows of a step, and running it again on other inputs. Whole training steps are in test_replay."""

import re

import numpy as np
import pytest

import minigrad as mg
from minigrad import Op, Tensor


def names(tape):
    return [e.op.name for e in tape.entries]


def bits(a):
    a = np.asarray(a.data if isinstance(a, Tensor) else a)
    return a.shape, a.dtype, a.tobytes()


@pytest.fixture
def x():
    return Tensor([1.0, 2.0], requires_grad=True)


# What it shows


def test_every_operation_with_its_inputs_and_output(x):
    with mg.record() as tape:
        y = x * 3.0
        z = mg.sum(y, axis=0)
    assert names(tape) == ["multiply", "sum"]
    first, second = tape.entries
    assert first.inputs[0] is x.array
    assert first.inputs[1] == 3.0
    assert first.output is y.array
    assert second.inputs == (y.array,)
    assert second.output is z.array
    assert set(second.params) == {"axis", "keepdims"}
    assert len(tape) == 2


def test_only_what_happens_inside(x):
    before = x * 2.0
    with mg.record() as tape:
        pass
    after = before * 2.0
    assert after.tolist() == [4, 8]
    assert len(tape) == 0
    assert str(tape) == ""


def test_backward_is_on_the_tape_too(x):
    with mg.record() as tape:
        mg.exp(x).sum().backward()
    assert names(tape)[:2] == ["exp", "sum"]
    assert "multiply" in names(tape)  # ȳ·y
    assert names(tape)[-1] == "copy"  # the gradient is shared with nothing
    assert tape.entries[-1].output is x.grad.array
    assert not x.grad.requires_grad


def test_what_the_engine_does_itself_is_on_the_tape():
    """The sum over broadcast axes, the cast, the addition of cotangents and of gradients, the assignment."""
    a, b = Tensor([1.0, 2.0], "float32", requires_grad=True), Tensor([[3.0], [4.0]], requires_grad=True)
    b.grad = Tensor([[1.0], [1.0]])
    with mg.record() as tape:
        (a * b + b).sum().backward()
        with mg.no_grad():
            b -= b.grad
    assert {"sum_to", "cast", "add", "copy", "assign"} <= set(names(tape))
    assert tape.entries[-1].op.name == "assign"
    run = tape.replay({a: np.array([5.0, 6.0], "float32")})
    assert run(a.grad).dtype == np.float32
    assert run(a.grad).tolist() == [7, 7]
    assert run(b.grad).tolist() == [[14], [14]]
    assert run(b).tolist() == [[3 - 14], [4 - 14]]


def test_no_grad_is_recorded_too(x):
    with mg.record() as tape, mg.no_grad():
        y = x * x
    assert names(tape) == ["multiply"]
    assert y.is_leaf


def test_operations_on_arrays_alone_are_not():
    with mg.record() as tape:
        mg.exp(np.ones(2))
    assert len(tape) == 0


def test_entries_survive_backward_and_the_tensors(x):
    with mg.record() as tape:
        y = mg.exp(x * 2.0)
        loss = mg.log(y).sum()
    loss.backward()
    expected = loss.item()
    del y, loss
    assert names(tape) == ["multiply", "exp", "log", "sum"]
    assert tape.entries[-1].output == expected
    assert tape.replay({x: [0.0, 0.5]})(tape.entries[-1].output) == 1.0


def test_it_can_be_read(x):
    with mg.record() as tape:
        y = mg.sum(x * 3.0, axis=0)  # this line
        y.backward()
    lines = str(tape).splitlines()
    assert len(lines) == len(tape)
    assert lines[0].startswith("multiply(float64 (2,), 3.0) -> float64 (2,)")
    assert re.match(r"sum\(float64 \(2,\), axis=.*keepdims=False\) -> float64 \(\)", lines[1])
    assert all(f"{__file__}:" in line for line in lines)
    assert "y = mg.sum(x * 3.0, axis=0)  # this line" in lines[0]
    assert "y.backward()" in lines[-1]


def test_several_outputs_can_be_read(x):
    with mg.record() as tape:
        a, b = mg.split(x, 2)
        (a * b).sum().backward()
    assert "split(" in str(tape) or "getitem(" in str(tape)
    assert tape.replay({x: [5.0, 7.0]})(x.grad).tolist() == [7, 5]


def test_tapes_nest(x):
    with mg.record() as outer:
        y = x * 2.0
        with mg.record() as inner:
            y = mg.exp(y)
        y = mg.log(y)
    assert names(outer) == ["multiply", "exp", "log"]
    assert names(inner) == ["exp"]
    assert inner.entries[0].output is outer.entries[1].output
    assert inner.replay({})(inner.entries[0].output).tolist() == np.exp([2, 4]).tolist()


def test_with_other_watchers(x):
    with mg.record() as tape, mg.debug(), mg.detect_anomaly():
        mg.exp(x).sum().backward()
    with mg.record() as plain:
        mg.exp(x.detach()).sum()
    assert names(tape)[:2] == names(plain)
    assert "copy" in names(tape)


def test_an_error_ends_the_recording(x):
    with pytest.raises(ValueError, match="matmul"), mg.record() as tape:
        (x * 2.0) @ np.ones((3, 3))
    x * 2.0
    assert names(tape) == ["multiply"]


# Running it again


def step(x, w):
    """Forward and backward of all that has something of its own: broadcasting, slices, outputs, branches, casts."""
    h = mg.tanh(x @ w) + x[0]
    a, b = mg.split(h, 2, axis=1)
    loss = (mg.softmax(a * b, -1) * h[:, [0, 1]]).sum() + mg.logsumexp(h, 0).sum() * x.astype("float64").mean()
    loss.backward()
    return loss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_the_bits_are_those_of_running_it(dtype, create_graph):
    rng = np.random.default_rng(0)

    def inputs():
        return (
            Tensor(rng.normal(size=(3, 4)).astype(dtype), requires_grad=True),
            Tensor(rng.normal(size=(4, 4)).astype(dtype), requires_grad=True),
        )

    def run(x, w):
        loss = step(x, w)
        if create_graph:
            x.zero_grad()
            mg.sin(x @ w).sum().backward(create_graph=True)
            gradient, x.grad = x.grad, None
            mg.square(gradient).sum().backward()
        return loss

    x, w = inputs()
    with mg.record() as tape:
        loss = run(x, w)
    for new_x, new_w in (inputs(), inputs(), (x, w)):
        replayed = tape.replay({x: new_x, w: new_w})
        new_x.zero_grad()
        new_w.zero_grad()
        new_loss = run(new_x, new_w)
        assert bits(replayed(loss)) == bits(new_loss)
        if new_x is not x:
            assert bits(replayed(x.grad)) == bits(new_x.grad)
            assert bits(replayed(w.grad)) == bits(new_w.grad)


def test_recording_changes_no_bits():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 4)), rng.normal(size=(4, 4))
    results = []
    for mode in (mg.record, mg.no_grad, mg.debug, mg.enable_grad):
        a, b = Tensor(x, requires_grad=True), Tensor(w, requires_grad=True)
        with mode(), mg.enable_grad():
            results.append([bits(step(a, b)), bits(a.grad), bits(b.grad)])
    assert results[0] == results[1] == results[2] == results[3]


def test_a_replay_does_not_touch_the_recorded_run(x):
    with mg.record() as tape:
        y = x * x
        y.sum().backward()
    first, second = tape.replay({x: [3.0, 4.0]}), tape.replay({x: [5.0, 6.0]})
    assert (first(y).tolist(), second(y).tolist(), y.tolist()) == ([9, 16], [25, 36], [1, 4])
    assert (first(x.grad).tolist(), second(x.grad).tolist(), x.grad.tolist()) == ([6, 8], [10, 12], [2, 4])
    assert first(x).tolist() == [3, 4]


def test_what_was_given_may_change_afterwards(x):
    a = np.array([3.0, 4.0])
    with mg.record() as tape:
        y = x[:] + 0.0
    run = tape.replay({x: a})
    a[:] = 0.0
    assert run(x).tolist() == [3, 4]
    assert run(y).tolist() == [3, 4]


def test_values_may_be_lists_arrays_and_tensors(x):
    with mg.record() as tape:
        y = x * 2.0
    for new in ([3, 4], (3.0, 4.0), np.array([3.0, 4.0]), Tensor([3.0, 4.0]), Tensor([3.0, 4.0], requires_grad=True)):
        assert tape.replay({x: new})(y).tolist() == [6, 8]


def test_a_tensor_that_was_assigned_stands_for_its_value_before(x):
    with mg.record() as tape:
        x.assign(x.detach() + 1.0)
        x.assign(x.detach() * 2.0)
        y = x * 1.0
    assert x.tolist() == [4, 6]
    run = tape.replay({x: [10.0, 20.0]})
    assert run(y).tolist() == [22, 42]
    assert run(x).tolist() == [22, 42]


def test_constants_can_be_replaced_when_they_are_tensors(x):
    c = Tensor([3.0, 4.0])
    with mg.record() as tape:
        y = (x * c).sum()
        y.backward()
    run = tape.replay({c: [5.0, 6.0]})
    assert run(y).item() == 17
    assert run(x.grad).tolist() == [5, 6]


def test_infinities_on_the_way_make_no_warnings():
    """Division by zero in a rule is the business of backward, which is silent about it; so is its replay."""
    x = Tensor([1.0, 4.0], requires_grad=True)
    with mg.record() as tape:
        mg.sqrt(x).sum().backward()
    assert tape.replay({x: [0.0, 4.0]})(x.grad).tolist() == [np.inf, 0.25]


def test_indices_are_inputs(x):
    index = Tensor([0, 0])
    with mg.record() as tape:
        y = x[index]
        y.sum().backward()
    run = tape.replay({index: [1, 0]})
    assert run(y).tolist() == [2, 1]
    assert run(x.grad).tolist() == [1, 1]


def test_an_operation_of_ones_own_with_several_outputs(x):
    op = Op("sincos", lambda x: [np.sin(x), np.cos(x)], vjp={"x": lambda g, y: g[0] * y[1] - g[1] * y[0]})
    with mg.record() as tape:
        s, c = op(x)
        (s * c).sum().backward()
    run = tape.replay({x: [0.5, 0.25]})
    assert run(s).tolist() == np.sin([0.5, 0.25]).tolist()
    np.testing.assert_allclose(run(x.grad), np.cos([1.0, 0.5]), rtol=1e-14)


# Errors


def test_a_computed_tensor_is_no_input(x):
    with mg.record() as tape:
        y = x * 2.0
        z = y * 3.0
    for made in (y, z):
        with pytest.raises(ValueError, match=r"float64 \(2,\) was computed on the tape; give values to its inputs"):
            tape.replay({made: [1.0, 1.0]})


def test_a_tensor_that_was_not_used_is_no_input(x):
    """A copy would be silently ignored otherwise."""
    other = Tensor(x.data)
    with mg.record() as tape:
        x * 2.0
    with pytest.raises(ValueError, match=r"took no tensor float64 \(2,\) that is this one"):
        tape.replay({other: [1.0, 1.0]})


def test_shapes_that_follow_from_values():
    """The mean would divide by the recorded number of elements."""
    x = Tensor([1.0, -2.0, 3.0], requires_grad=True)
    with mg.record() as tape:
        y = x[x > 0.0].mean()
        y.backward()
    assert tape.replay({x: [1.0, -2.0, 5.0]})(y).item() == 3
    assert tape.replay({x: [-1.0, 2.0, 5.0]})(x.grad).tolist() == [0, 0.5, 0.5]
    with pytest.raises(ValueError, match=r"getitem gave float64 \(2,\) when it was recorded and float64 \(3,\) now"):
        tape.replay({x: [1.0, 2.0, 5.0]})


@pytest.mark.parametrize("new", [[1.0], [[1.0, 2.0]], 1.0, np.ones(2, "float32"), np.ones(2, int), Tensor([1, 2])])
def test_another_shape_or_dtype(new, x):
    with mg.record() as tape:
        x * 2.0
    with pytest.raises(ValueError, match=r"expected float64 \(2,\) as it was recorded, got"):
        tape.replay({x: new})
