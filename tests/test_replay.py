"""A tape of a whole training step, run again on other inputs, gives the bits that the step itself gives on them.

The step has all that a step may have: random draws, dropout, forward, backward, gradient clipping, weight decay and the
optimiser. What the tape takes from outside is the batch, the parameters, the state of the optimiser and the random
state; all of them are changed, one at a time and together.
"""

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.random import Generator


class Step:
    """A small denoising autoencoder with everything that one training step of it touches."""

    def __init__(self, make_optimizer, dtype="float32"):
        g = Generator(1)
        self.dtype = dtype
        self.net = nn.Sequential(
            nn.Linear(6, 5, dtype=dtype, generator=g),
            nn.Tanh(),
            nn.Dropout(0.3),
            nn.Linear(5, 3, dtype=dtype, generator=g),
            nn.ReLU(),
            nn.Linear(3, 6, dtype=dtype, generator=g),
            nn.Sigmoid(),
        )
        self.optimizer = make_optimizer(self.net)
        self.generator = Generator(2)

    def __call__(self, x):
        with mg.random.use(self.generator):
            self.optimizer.zero_grad()
            noise = mg.random.normal(x.shape, 0.0, 0.1, dtype=self.dtype)
            kept = mg.random.bernoulli(0.9, x.shape)
            order = mg.random.permutation(x.shape[0])
            rows = x[order]
            loss = mg.mse(self.net(mg.where(kept, rows + noise, 0.0)), rows)
            loss.backward()
            optim.clip_grad_norm(self.net, 0.05)
            self.optimizer.step()
            return loss

    def outside(self):
        """All tensors that a step reads and changes, by name."""
        state = {"net": self.net, "optimizer": self.optimizer.state, "random": self.generator}
        return dict(mg.trees.named_leaves(state))


def _adam(net):
    return optim.Adam(net, 0.01, weight_decay=0.1)


def _nesterov(net):
    return optim.SGD(net, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01)


def _batch(seed, dtype="float32"):
    return mg.Tensor(np.random.default_rng(seed).uniform(size=(8, 6)).astype(dtype))


def _bits(x):
    array = x.data if isinstance(x, mg.Tensor) else x
    return array.dtype, array.shape, array.tobytes()


def _snapshot(tensors):
    return {name: _bits(t) for name, t in tensors.items()}


def _recorded(make_optimizer, dtype="float32"):
    """A step, its tape, the batch and the loss of the recorded run."""
    step = Step(make_optimizer, dtype)
    x = _batch(0, dtype)
    with mg.record() as tape:
        loss = step(x)
    return step, tape, x, loss


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make_optimizer", [_adam, _nesterov])
def test_recording_changes_no_bits(make_optimizer, dtype):
    plain = Step(make_optimizer, dtype)
    expected = plain(_batch(0, dtype))
    step, _, _, loss = _recorded(make_optimizer, dtype)
    assert _bits(loss) == _bits(expected)
    assert _snapshot(step.outside()) == _snapshot(plain.outside())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("make_optimizer", [_adam, _nesterov])
def test_steps_replayed_one_after_the_other_are_steps_run_one_after_the_other(make_optimizer, dtype):
    step, tape, x, loss = _recorded(make_optimizer, dtype)
    recorded = step.outside()

    plain = Step(make_optimizer, dtype)
    now = {name: t.data for name, t in plain.outside().items()}
    for i in range(1, 6):
        batch = _batch(i, dtype)
        run = tape.replay({x: batch, **{recorded[name]: array for name, array in now.items()}})
        expected = plain(batch)

        now = {name: run(t) for name, t in recorded.items()}
        assert _bits(run(loss)) == _bits(expected)
        assert _snapshot(now) == _snapshot(plain.outside())
        gradients = {name: p.grad for name, p in plain.net.parameters().items()}
        for name, p in step.net.parameters().items():
            assert _bits(run(p.grad)) == _bits(gradients[name])


INPUTS = ["x", "net.layers.0.weight", "optimizer.learning_rate", "random.state"]
BY_OPTIMIZER = {_adam: ["optimizer.step", "optimizer.second_moment.layers.0.bias"], _nesterov: []}


@pytest.mark.parametrize(
    ("make_optimizer", "changed"), [(make, name) for make, more in BY_OPTIMIZER.items() for name in [*INPUTS, *more]]
)
def test_each_input_of_the_step_is_an_input_of_the_tape(make_optimizer, changed):
    """Alone, too: nothing of the recorded run is frozen into the tape."""
    step, tape, x, loss = _recorded(make_optimizer)
    plain = Step(make_optimizer)
    batch = x
    if changed == "x":
        batch = _batch(9)
        new = {x: batch}
    else:
        target = plain.outside()[changed]
        target.assign(Generator(33).state if changed == "random.state" else target.detach() * 0.5 + 3.0)
        new = {step.outside()[changed]: target.data}
    run = tape.replay(new)
    expected = plain(batch)
    assert _bits(run(loss)) == _bits(expected)
    after = {name: run(t) for name, t in step.outside().items()}
    assert _snapshot(after) == _snapshot(plain.outside())
    assert _snapshot(after) != _snapshot(step.outside())


def test_replaying_without_new_inputs_gives_the_recorded_run():
    step, tape, _, loss = _recorded(_adam)
    run = tape.replay({})
    assert _bits(run(loss)) == _bits(loss)
    assert {n: _bits(run(t)) for n, t in step.outside().items()} == _snapshot(step.outside())


def test_a_later_step_can_be_recorded_and_two_at_once():
    """Moments that are no zeros, gradients that were there before, and a tensor that is assigned twice on one tape."""
    step, plain = Step(_adam), Step(_adam)
    for i in range(3):
        step(_batch(i))
        plain(_batch(i))
    x, y = _batch(3), _batch(4)
    with mg.record() as tape:
        first, second = step(x), step(y)
    before = {name: t.data for name, t in plain.outside().items()}
    new = [_batch(5), _batch(6)]
    recorded = step.outside()
    run = tape.replay({x: new[0], y: new[1], **{recorded[name]: array for name, array in before.items()}})
    assert [_bits(run(first)), _bits(run(second))] == [_bits(plain(batch)) for batch in new]
    assert {name: _bits(run(t)) for name, t in recorded.items()} == _snapshot(plain.outside())


def test_gradients_accumulated_before_are_inputs_too():
    p = mg.Tensor([1.0, 2.0], requires_grad=True)
    (p * p).sum().backward()
    before = p.grad
    x = mg.Tensor([3.0, 4.0])
    with mg.record() as tape:
        (p * x).sum().backward()
        optim.SGD([p], 0.5).step()
    run = tape.replay({x: [5.0, 6.0], before: [10.0, 20.0]})
    assert run(p.grad).tolist() == [15, 26]
    assert run(p).tolist() == [1 - 7.5, 2 - 13.0]
