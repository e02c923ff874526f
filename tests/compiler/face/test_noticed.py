"""What changes between two calls is noticed, and makes another version."""

import numpy as np

import minigrad as mg
from compiler.face.training import batch, bits, pair
from minigrad import optim


def test_a_replaced_tensor(builds):
    class State:
        scale = mg.Tensor(2.0)

    state = State()
    f = mg.compile(lambda x: x * state.scale)
    for _ in range(3):
        assert f(mg.Tensor(1.0)).item() == 2.0
    state.scale = mg.Tensor(3.0)
    assert f(mg.Tensor(1.0)).item() == 3.0
    state.scale.assign(4.0)
    assert f(mg.Tensor(1.0)).item() == 4.0
    state.scale = mg.Tensor([5.0, 6.0])
    assert f(mg.Tensor(1.0)).tolist() == [5, 6]
    assert len(builds) == 3


def test_a_replaced_array(builds):
    scale = np.array([2.0])
    scale.setflags(write=False)
    f = mg.compile(lambda x: x * scale)
    for _ in range(3):
        assert f(mg.Tensor(1.0)).item() == 2.0
    scale = np.array([3.0])
    scale.setflags(write=False)
    assert f(mg.Tensor(1.0)).item() == 3.0
    assert [program.recording.arrays[0].item() for program in builds] == [2.0, 3.0]


def test_a_parameter_that_is_frozen_later(builds):
    _, training, step = pair()
    x = mg.Tensor(batch())
    for _ in range(3):
        step(x)
    bias = training.net.layers[0].bias
    before = bits(bias)
    bias.requires_grad = False
    for _ in range(3):
        step(x)
        assert bits(bias) == before
    assert len(builds) == 2


def test_a_gradient_that_comes_from_elsewhere(builds):
    """A parameter that the step does not use is updated as soon as it has a gradient."""
    used, other = (mg.Tensor([1.0], requires_grad=True) for _ in range(2))
    optimizer = optim.SGD([used, other], 0.5)

    @mg.compile
    def step():
        mg.sum(used * used).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    assert other.data == [1.0]
    other.grad = mg.Tensor([1.0])
    step()
    assert other.data == [0.5]
    assert other.grad is None


SCALE = 2.0


def helper(x):
    return x * SCALE


def test_a_global_of_a_function_that_is_called(monkeypatch, builds):
    f = mg.compile(lambda x: helper(x))
    for _ in range(3):
        assert f(mg.Tensor(1.0)).item() == 2.0
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert f(mg.Tensor(1.0)).item() == 3.0
    monkeypatch.setitem(globals(), "helper", lambda x: x * 4.0)
    assert f(mg.Tensor(1.0)).item() == 4.0
    assert len(builds) == 3


def test_grad_mode(builds):
    f = mg.compile(lambda x: x * 2.0 if mg.grad_enabled() else x * 3.0)
    for _ in range(3):
        assert f(mg.Tensor(1.0)).item() == 2.0
        with mg.no_grad():
            assert f(mg.Tensor(1.0)).item() == 3.0
