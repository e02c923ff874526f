"""What tensors and gradients are after a compiled step: what they are after an eager one."""

import gc

import numpy as np
import pytest

import minigrad as mg
from compiler.face.training import batch, bits, pair
from minigrad.compiler.homes import is_home


def test_who_holds_an_old_value_keeps_it(builds):
    _, training, step = pair()
    p = training.net.layers[0].weight
    kept = []
    for i in range(8):
        views = [p.data, p.detach(), p.data[1:], p.T, np.asarray(p.detach())]
        for view in views:
            kept.append((view, bits(mg.Tensor(view.data if isinstance(view, mg.Tensor) else view))))
        del view, views
        step(mg.Tensor(batch(i)))
        assert all(bits(mg.Tensor(v.data if isinstance(v, mg.Tensor) else v)) == old for v, old in kept)
    assert builds.calls == [8]


def test_an_update_in_place_needs_no_copy(builds):
    _, training, step = pair()
    x = mg.Tensor(batch())
    for _ in range(3):
        step(x)
    arrays = [t.array for _, t in mg.trees.named_leaves(training.net)]
    assert all(map(is_home, arrays))
    ids = list(map(id, arrays))
    del arrays
    for _ in range(3):
        step(x)
        assert training.net.layers[0].weight.data.shape == (6, 5)  # looked at, and let go
    gc.collect()
    assert [id(t.array) for _, t in mg.trees.named_leaves(training.net)] == ids


@pytest.mark.parametrize("calls_before", [0, 5])
def test_a_graph_from_before_a_step_is_stale(calls_before):
    _, training, step = pair()
    x = mg.Tensor(batch())
    for _ in range(calls_before):
        step(x)
    loss = mg.mse(training.net(x), x)
    for _ in range(3):
        step(x)
    with pytest.raises(RuntimeError, match="changed by assign"):
        loss.backward()


def test_eager_and_compiled_steps_in_turn():
    eager, compiled, step = pair()
    for i in range(10):
        x = mg.Tensor(batch(i))
        eager.step(x)
        compiled.step(x) if i % 3 == 2 else step(x)
        assert eager.state() == compiled.state()


def test_tensors_on_one_array():
    p = mg.Tensor([1.0])
    q = p.detach()

    @mg.compile
    def f():
        p.assign(p + 1.0)
        q.assign(q * 3.0)
        return p * q

    for i in range(5):
        assert f().item() == (2.0 + i) * 3.0 ** (i + 1)


def test_what_is_made_of_losses_after_their_backward_may_be_returned():
    p, q = (mg.Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))

    def losses(x):
        first, second = mg.sum(p * x), mg.sum(q * x * x)
        first.backward()
        second.backward()
        p.zero_grad()
        q.zero_grad()
        return first + second

    def one_left(x):
        first, second = mg.sum(p * x), mg.sum(q * x * x)
        first.backward()
        p.zero_grad()
        return first + second

    x = mg.Tensor([3.0, 4.0])
    compiled = mg.compile(losses)
    assert [compiled(x).item() for _ in range(3)] == [11.0 + 41.0] * 3
    with pytest.raises(RuntimeError, match="a gradient would flow through what the function returns"):
        mg.compile(one_left)(x)
