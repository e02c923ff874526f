"""mg.compile against the eager function, with programs that replay the recording: what the face does, and refuses."""

import gc
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import minigrad as mg
from compiler.replaying import Replaying, use
from compiler.steps import KINDS
from minigrad import nn, optim
from minigrad.compiler import compile as face
from minigrad.compiler.homes import is_home


@pytest.fixture(autouse=True)
def builds(monkeypatch):
    monkeypatch.setattr(face, "dispatch", SimpleNamespace(mode=lambda: "auto"))  # or nothing would be compiled
    with mg.kernels.use("numpy"):  # one kind of arithmetic in backward on values and on arrays
        yield use(monkeypatch)


def bits(*tensors):
    return [t if t is None else (t.dtype, t.shape, t.data.tobytes()) for t in tensors]


def network(seed=0, dropout=0.0):
    g = mg.random.Generator(seed)
    layers = [nn.Linear(6, 5, generator=g), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 6, generator=g)]
    return nn.Sequential(*layers)


def batch(seed=0, rows=4):
    return np.random.default_rng(seed).uniform(size=(rows, 6)).astype("float32")


class Training:
    """A network with its optimiser, and a step that can be called compiled or not."""

    def __init__(self, make=lambda net: optim.Adam(net, 0.01), dropout=0.0):
        self.net, self.generator = network(dropout=dropout), mg.random.Generator(3)
        self.optimizer = make(self.net)

    def step(self, x):
        with mg.random.use(self.generator):
            loss = mg.mse(self.net(x), x)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss

    def state(self):
        tensors = {"net": self.net, "optimizer": self.optimizer.state, "random": self.generator}
        return bits(*(t for _, t in mg.trees.named_leaves(tensors)))


def pair(**options):
    eager, compiled = Training(**options), Training(**options)
    return eager, compiled, mg.compile(compiled.step)


OPTIMIZERS = {
    "sgd": lambda net: optim.SGD(net, 0.1),
    "nesterov": lambda net: optim.SGD(net, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda net: optim.Adam(net, 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_fifty_steps_are_those_of_the_eager_function(make, dropout, builds):
    eager, compiled, step = pair(make=make, dropout=dropout)
    for i in range(50):
        a, b = eager.step(mg.Tensor(batch(i))), step(mg.Tensor(batch(i)))
        assert bits(a) == bits(b)
        assert eager.state() == compiled.state()
    assert builds.calls == [50]
    assert not b.requires_grad


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_steps_of_many_kinds(make, builds):
    (eager, first), (step, second) = make(), make()
    compiled = mg.compile(step)
    for i in range(5):
        results = eager(mg.Tensor(batch(i))), compiled(mg.Tensor(batch(i)))
        a, b = ([t for _, t in mg.trees.named_leaves([r])] for r in results)
        assert bits(*a) == bits(*b)
        a, b = ([t for _, t in mg.trees.named_leaves(state)] for state in (first, second))
        assert bits(*a) == bits(*b)
        assert bits(*(t.grad for t in a)) == bits(*(t.grad for t in b))
    assert sum(builds.calls) >= 2


# What it accepts


def test_a_schedule_of_the_learning_rate(builds):
    eager, compiled, step = pair()
    schedule = optim.schedules.cosine(0.1, 20)
    for i in range(20):
        eager.optimizer.learning_rate = schedule(i)
        compiled.optimizer.learning_rate = schedule(i)
        assert bits(eager.step(mg.Tensor(batch(i)))) == bits(step(mg.Tensor(batch(i))))
    assert eager.state() == compiled.state()
    assert builds.calls == [20]


def test_train_and_eval_are_two_versions_that_stay(builds):
    eager, compiled, step = pair(dropout=0.5)
    for i in range(12):
        for training in (eager, compiled):
            training.net.train(i % 2 == 0)
        assert bits(eager.step(mg.Tensor(batch(i)))) == bits(step(mg.Tensor(batch(i))))
    assert eager.state() == compiled.state()
    assert builds.calls == [6, 6]


def test_another_dropout_rate_is_another_version(builds):
    eager, compiled, step = pair(dropout=0.5)
    for i in range(9):
        for training in (eager, compiled):
            training.net.layers[2].rate = (0.5, 0.25, 0.1 + 0.4)[i // 3]  # the last is equal to the first
        assert bits(eager.step(mg.Tensor(batch(i)))) == bits(step(mg.Tensor(batch(i))))
    assert eager.state() == compiled.state()
    assert builds.calls == [6, 3]


def test_arrays_lists_and_numbers_among_the_arguments(builds):
    @dataclass
    class Batch:
        x: np.ndarray
        rows: list

    class Pair(NamedTuple):
        a: object
        b: object

    def f(batch, pair, scale=1.0, *, more):
        return {"y": mg.mse(batch.x, batch.rows[0]) * scale, "more": [pair.a * pair.b, more["z"] - 1.0], "name": "f"}

    compiled = mg.compile(f)
    for i in range(4):
        given = (Batch(batch(i), [mg.Tensor(batch(i + 1)), 3]), Pair(mg.Tensor(batch(i)), batch(i + 2)))
        more = {"z": mg.Tensor(batch(i + 3))}
        a, b = f(*given, 0.5, more=more), compiled(*given, 0.5, more=more)
        assert a.keys() == b.keys()
        assert b["name"] == "f"
        assert bits(a["y"], *a["more"]) == bits(b["y"], *b["more"])
    assert builds.calls == [4]
    compiled(*given, 0.25, more=more)
    assert len(builds) == 2


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: x[::-1],
        lambda x: x.astype(">f4"),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape),
        mg.Tensor,
        lambda x: mg.Tensor(x.T.copy()).T,
    ],
)
def test_inputs_in_any_layout(change, builds):
    weight = mg.Tensor(batch(9).T)
    f = lambda x: mg.matmul(x, weight)
    compiled = mg.compile(f)
    for i in range(4):
        x = change(batch(i))
        assert bits(compiled(x)) == bits(f(mg.Tensor(np.asarray(x.data if isinstance(x, mg.Tensor) else x, "float32"))))
    assert builds.calls == [4]


def test_an_array_that_is_written_to_after_the_call(builds):
    f = mg.compile(lambda x: mg.exp(mg.Tensor(x)))
    x = batch()
    for i in range(4):
        x[...] = i
        y = f(x)
        x[...] = -1.0
        assert y.data[0, 0] == pytest.approx(np.exp(i), rel=1e-6)


def test_another_shape_or_dtype_is_another_version(builds):
    f = mg.compile(lambda x: mg.sum(x * 2.0))
    for _ in range(3):
        for rows in (4, 3):  # the last batch of an epoch has what is left
            assert f(mg.ones((rows, 2))).item() == 4 * rows
        assert f(mg.ones((4, 2), "float32")).dtype == np.float32
    assert builds.calls == [3, 3, 3]


def test_a_tensor_argument_that_needs_a_gradient(builds):
    def f(p, x):
        loss = mg.sum(p * x)
        loss.backward()
        return loss

    compiled = mg.compile(f)
    for i in range(4):
        p, q = (mg.Tensor(batch(i), requires_grad=True) for _ in range(2))
        x = mg.Tensor(batch(i + 1))
        assert bits(f(p, x), p.grad) == bits(compiled(q, x), q.grad)
    for _ in range(4):  # adds up, now that it has a gradient: another version
        assert bits(f(p, x), p.grad) == bits(compiled(q, x), q.grad)
    assert builds.calls == [4, 4]


def test_a_tensor_argument_that_is_assigned(builds):
    @mg.compile
    def f(average, x):
        average.assign(average * 0.5 + x)

    a, b = mg.Tensor([0.0]), mg.Tensor([8.0])
    for _ in range(4):
        f(a, mg.Tensor([1.0]))
        assert f(b, mg.Tensor([1.0])) is None
    assert a.data == [1.875]
    assert b.data == [2.375]
    assert builds.calls == [8]


def test_a_tensor_that_is_an_argument_and_is_used_anyway(builds):
    p, q, x = mg.Tensor([2.0]), mg.Tensor([2.0]), mg.Tensor([5.0])

    def make(p):
        def f(x):
            p.assign(p + 1.0)
            return x * 1.0

        return f

    eager, compiled = make(p), mg.compile(make(q))
    for _ in range(4):
        assert bits(eager(p)) == bits(compiled(q))
        assert bits(eager(x)) == bits(compiled(x))
    assert builds.calls == [4, 4]


def test_twice_the_same_argument(builds):
    f = mg.compile(lambda a, b: a - b)
    x, y = mg.Tensor([3.0]), mg.Tensor([1.0])
    for _ in range(4):
        assert f(x, x).data == [0.0]
        assert f(x, y).data == [2.0]
    assert builds.calls == [4, 4]


def test_tied_weights(builds):
    def make():
        weight = mg.Tensor(batch(rows=3).T, requires_grad=True)
        optimizer = optim.Adam({"there": weight, "back": weight}, 0.1)

        def step(x):
            loss = mg.mse(mg.tanh(x @ weight) @ weight.T, x)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return weight, step

    (v, eager), (w, step) = make(), make()
    compiled = mg.compile(step)
    for i in range(6):
        assert bits(eager(mg.Tensor(batch(i)))) == bits(compiled(mg.Tensor(batch(i))))
    assert bits(v) == bits(w)


def test_gradients_are_left_and_accumulated_as_in_eager(builds):
    def make():
        training = Training()

        def micro(x):
            loss = mg.mse(training.net(x), x)
            loss.backward()
            return loss

        return training, micro

    (a, eager), (b, micro) = make(), make()
    compiled = mg.compile(micro)
    for i in range(24):
        assert bits(eager(mg.Tensor(batch(i)))) == bits(compiled(mg.Tensor(batch(i))))
        gradients = [[p.grad for p in t.net.parameters().values()] for t in (a, b)]
        assert bits(*gradients[0]) == bits(*gradients[1])
        assert not any(g.requires_grad for g in gradients[1])
        if i % 4 == 3:
            for training in (a, b):
                training.optimizer.step()
                training.optimizer.zero_grad()
    assert a.state() == b.state()
    assert builds.calls == [6, 18]


def test_zeroing_gradients_first_needs_one_version(builds):
    eager, compiled, _ = pair()

    def make(t):
        def step(x):
            t.optimizer.zero_grad()
            loss = mg.mse(t.net(x), x)
            loss.backward()
            t.optimizer.step()
            return loss

        return step

    first, second = make(eager), mg.compile(make(compiled))
    for i in range(6):
        assert bits(first(mg.Tensor(batch(i)))) == bits(second(mg.Tensor(batch(i))))
        assert bits(*(p.grad for p in eager.net.parameters().values())) == bits(
            *(p.grad for p in compiled.net.parameters().values())
        )
    compiled.optimizer.zero_grad()
    second(mg.Tensor(batch()))
    assert builds.calls == [7]


def test_an_update_alone(builds):
    eager, compiled, _ = pair()
    update = mg.compile(lambda: [compiled.optimizer.step(), compiled.optimizer.zero_grad()])
    for i in range(5):
        for t in (eager, compiled):
            mg.mse(t.net(mg.Tensor(batch(i))), batch(i)).backward()
        eager.optimizer.step()
        eager.optimizer.zero_grad()
        update()
    assert eager.state() == compiled.state()
    assert builds.calls == [5]


def test_two_networks_against_each_other(builds):
    """The two steps of a GAN share tensors; their homes are shared as well."""

    def make():
        generator, critic = network(1), network(2)
        of_generator, of_critic = optim.Adam(generator, 0.01), optim.SGD(critic, 0.01)

        def critic_step(x, z):
            with mg.no_grad():
                fake = generator(z)
            loss = mg.mean(critic(fake)) - mg.mean(critic(x))
            loss.backward()
            of_critic.step()
            of_critic.zero_grad()
            return loss

        def generator_step(z):
            loss = mg.mse(critic(generator(z)), z)
            loss.backward()
            of_generator.step()
            of_generator.zero_grad()
            critic.zero_grad()
            return loss

        return critic_step, generator_step, {"generator": generator, "critic": critic}

    d, g, a = make()
    d2, g2, b = make()
    d2, g2 = mg.compile(d2), mg.compile(g2)
    homes = []
    for i in range(6):
        x, z = mg.Tensor(batch(i)), mg.Tensor(batch(i + 100))
        assert bits(d(x, z), g(z)) == bits(d2(x, z), g2(z))
        homes.append([id(t.array) for _, t in mg.trees.named_leaves(b)])
    assert bits(*(t for _, t in mg.trees.named_leaves(a))) == bits(*(t for _, t in mg.trees.named_leaves(b)))
    assert homes[3] == homes[4] == homes[5]
    assert builds.calls == [6, 6]


@pytest.mark.parametrize("where", ["argument", "captured"])
def test_values_and_gradients(where, builds):
    net, loss = network(), lambda net, x: mg.mse(net(x), x)
    transformed = mg.value_and_grad(loss) if where == "argument" else mg.value_and_grad(lambda x: loss(net, x))
    compiled = mg.compile(transformed)
    for i in range(4):
        given = (net, mg.Tensor(batch(i))) if where == "argument" else (mg.Tensor(batch(i)),)
        with mg.no_grad():
            value, gradient = transformed(*given)
        value2, gradient2 = compiled(*given)
        assert bits(value) == bits(value2)
        assert type(gradient) is type(gradient2)
        leaves = [[t for _, t in mg.trees.named_leaves(g)] for g in (gradient, gradient2)]
        assert bits(*leaves[0]) == bits(*leaves[1])
    assert builds.calls == [4]


def test_inference(builds):
    net = network(dropout=0.3).eval()
    compiled = mg.compile(net)
    with mg.no_grad():
        for i in range(4):
            assert bits(net(mg.Tensor(batch(i)))) == bits(compiled(mg.Tensor(batch(i))))
    assert builds.calls == [4]


def test_random_draws_come_from_the_generator_of_the_context(builds):
    f = mg.compile(lambda: mg.random.normal((3,)))
    for seed in (1, 1, 2, 1, 2):
        mg.random.seed(seed)
        a = [mg.random.normal((3,)) for _ in range(3)]
        mg.random.seed(seed)
        assert bits(*a) == bits(*(f() for _ in range(3)))
    assert len(builds) == 1


def test_draws_of_the_context_cost_no_copies(builds):
    training = Training(dropout=0.5)

    @mg.compile
    def step(x):
        loss = mg.mse(training.net(x), x)
        loss.backward()
        training.optimizer.step()
        training.optimizer.zero_grad()

    homes = []
    for _ in range(6):
        step(mg.Tensor(batch()))
        homes.append([id(t.array) for t in (*training.net.parameters().values(), mg.random.current().state)])
    assert homes[3] == homes[4] == homes[5]
    assert step.last in step.direct


def test_checkpoint(builds):
    def make():
        net, generator = network(dropout=0.5), mg.random.Generator(0)

        def step(x):
            with mg.random.use(generator):
                mg.mse(mg.checkpoint(net)(x), x).backward()
            gradients = [p.grad for p in net.parameters().values()]
            net.zero_grad()
            return gradients

        return step

    eager, compiled = make(), mg.compile(make())
    for i in range(4):
        assert bits(*eager(mg.Tensor(batch(i)))) == bits(*compiled(mg.Tensor(batch(i))))


def test_batch_norm(builds):
    def make():
        norm = nn.BatchNorm(6)
        return norm, lambda x: mg.sum(norm(x).detach())

    (a, eager), (b, f) = make(), make()
    compiled = mg.compile(f)
    for i in range(5):
        assert bits(eager(mg.Tensor(batch(i)))) == bits(compiled(mg.Tensor(batch(i))))
    assert bits(a.running_mean, a.running_variance) == bits(b.running_mean, b.running_variance)


def test_a_second_derivative(builds):
    w = mg.Tensor(batch(), requires_grad=True)

    def f(x):
        g = mg.grad(lambda x: mg.sum(mg.tanh(x * w)))(x)
        penalty = mg.sum(g * g)
        penalty.backward()
        g = w.grad
        w.zero_grad()
        return penalty, g

    compiled = mg.compile(f)
    for i in range(4):
        assert bits(*f(mg.Tensor(batch(i)))) == bits(*compiled(mg.Tensor(batch(i))))
    assert builds.calls == [4]


def test_gradient_clipping(builds):
    eager, compiled, _ = pair()

    def make(t):
        def step(x):
            mg.mse(t.net(x), x).backward()
            norm = optim.clip_grad_norm(t.net, 0.01)
            t.optimizer.step()
            t.optimizer.zero_grad()
            return norm

        return step

    first, second = make(eager), mg.compile(make(compiled))
    for i in range(5):
        assert bits(first(mg.Tensor(batch(i)))) == bits(second(mg.Tensor(batch(i))))
    assert eager.state() == compiled.state()


def test_labels_of_classes(builds):
    net = network()
    f = lambda x, labels: mg.cross_entropy(net(x), labels).detach()
    compiled = mg.compile(f)
    for i in range(4):
        x, labels = mg.Tensor(batch(i)), np.arange(4) + i % 2
        assert bits(f(x, labels)) == bits(compiled(x, labels))
    embedding = nn.Embedding(6, 2)
    g = mg.compile(lambda i: embedding(i).detach() * 1.0)
    for i in range(4):
        assert bits(g(np.arange(3) + i)) == bits(embedding(np.arange(3) + i).detach())
    assert builds.calls == [4, 4]


def test_what_is_returned(builds):
    p, constant = mg.Tensor([1.0]), np.ones(2)
    constant.setflags(write=False)

    def f(x, a):
        p.assign(p + 1.0)
        return x, a, p, p.detach(), constant, None, ("s", 1)

    compiled = mg.compile(f)
    for i in range(4):
        x, a = mg.Tensor(batch()), batch()
        y = compiled(x, a)
        assert y[0] is x
        assert y[1] is a
        assert y[2] is p
        assert y[3] is not p
        assert y[3].data == [2.0 + i]
        assert y[4].tolist() == [1, 1]
        assert y[5:] == (None, ("s", 1))


def test_methods(builds):
    class Model:
        def __init__(self, scale):
            self.scale = mg.Tensor(scale)

        @mg.compile
        def predict(self, x):
            """Scale x."""
            return x * self.scale

    a, b = Model(2.0), Model(3.0)
    for i in range(4):
        assert a.predict(mg.Tensor(float(i))).item() == 2.0 * i
        assert b.predict(mg.Tensor(float(i))).item() == 3.0 * i
    assert builds.calls == [4, 4]
    assert Model.predict.__doc__ == "Scale x."
    assert Model.predict.__name__ == "predict"
    a.scale = mg.Tensor(5.0)
    assert a.predict(mg.Tensor(1.0)).item() == 5.0


def test_many_instances(builds):
    class Model:
        def __init__(self, scale):
            self.scale = mg.Tensor(scale)

        @mg.compile
        def predict(self, x):
            return x * self.scale

    models = [Model(float(i)) for i in range(20)]
    for _ in range(3):
        assert [m.predict(mg.Tensor(2.0)).item() for m in models] == [2.0 * i for i in range(20)]
    assert len(Model.predict.versions) == face.MOST


def test_source_and_explain():
    f = mg.compile(lambda x: x * 2.0)
    for look in (lambda: f.source, f.explain):
        with pytest.raises(RuntimeError, match="compiled when it is first called"):
            look()
    f(mg.ones(2))
    assert f.source == "replayed"
    assert f.explain() == "1 operations"
    assert repr(f) == "<compiled <lambda>, 1 versions>"


def test_not_a_function():
    with pytest.raises(TypeError, match="expected a function, got 3"):
        mg.compile(3)


def test_importing_minigrad_does_not_load_the_compiler():
    code = (
        "import sys, minigrad; assert not any('minigrad.compiler' in name or 'numba' in name for name in sys.modules)"
    )
    code += "; minigrad.compile; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(mg.__file__).parent.parent)


# Value semantics


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


# What is noticed


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


# What is refused


def here(pattern, call):
    """The call raises RuntimeError, which names a line of this file."""
    with pytest.raises(RuntimeError, match=pattern) as caught:
        call()
    assert re.search(r"test_compile\.py:\d+", str(caught.value)), caught.value


LOOKS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "index": lambda x: [1, 2, 3][mg.argmax(x)],
    "branch": lambda x: 1 if x.sum() > 0 else 2,
    "data": lambda x: (x * 2).data,
    "tolist": lambda x: x.tolist(),
    "asarray": lambda x: np.asarray(x),
    "print": lambda x: print(x),
    "format": lambda x: f"{x.sum():.3f}",
    "str": lambda x: str(x),
    "nest": lambda x: mg.Tensor([x.sum(), 1.0]),
    "module": lambda x: holding(x).astype("float64"),
    "learning rate": lambda x: setattr(optim.SGD(mg.Tensor(1.0, requires_grad=True), 1.0), "learning_rate", mg.sum(x)),
    "repr": lambda x: repr([x]),
}


def holding(x):
    norm = nn.LayerNorm(3)
    norm.weight = x
    return norm


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_at_values(look, builds):
    here("shows Python the values", lambda: mg.compile(look)(mg.Tensor(batch(rows=1))))
    p = mg.Tensor(batch(rows=1))
    here("shows Python the values", lambda: mg.compile(lambda: look(p))())
    assert builds == []


def test_a_refusal_that_the_function_catches():
    def f(x):
        try:
            return x * float(x)
        except RuntimeError:
            return x

    here("float", lambda: mg.compile(f)(mg.Tensor(2.0)))


def test_iterating_and_constants_are_no_looks(builds):
    def f(x):
        widths = mg.arange(2).tolist()
        return sum(row * w for row, w in zip(x, widths, strict=True)) * len(x) * x.shape[0] * x.ndim

    compiled = mg.compile(f)
    for i in range(4):
        x = mg.Tensor(batch(i, rows=2))
        assert bits(f(x)) == bits(compiled(x))


ON_ARRAYS = {
    "ufunc": lambda x: mg.Tensor([1.0]) * np.exp(x),
    "operator": lambda x: mg.mean(mg.Tensor([1.0]) * (x / 255.0)),
    "function": lambda x: np.concatenate([x, x]),
    "method": lambda x: x.mean(),
    "attribute": lambda x: x.T,
    "index": lambda x: x[0],
    "branch": lambda x: 1 if x else 2,
    "iterate": lambda x: list(x),
    "contains": lambda x: 1.0 in x,
    "print": lambda x: print(x),
    "list": lambda x: mg.Tensor([x, x]),
}


@pytest.mark.parametrize("compute", ON_ARRAYS.values(), ids=ON_ARRAYS)
def test_computing_with_numpy_on_an_argument(compute, builds):
    here("make it a tensor first", lambda: mg.compile(compute)(batch(rows=40)))
    assert builds == []


NO_TENSORS = [
    "tanh", "argsort", "diagonal", "erf", "expand_dims", "flip", "matrix_transpose", "permute_dims", "prod", "sort",
    "max", "squeeze", "tril", "unstack", "mean", "softmax", "norm", "relu", "var", "exp", "reshape", "getitem", "roll",
    "tile", "concat", "stack", "split", "pad", "outer", "conv2d", "cumulative_sum",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_TENSORS)
def test_operations_on_arrays_alone(name, builds):
    """They are those of NumPy: nothing of them would be on the tape."""
    more = {
        "getitem": [0],
        "roll": [1],
        "tile": [(2, 2)],
        "split": [2],
        "reshape": [-1],
        "pad": [1],
        "cumulative_sum": [0],
    }

    def f(x):
        given = [[x, x]] if name in ("concat", "stack") else [x, x] if name in ("outer", "conv2d") else [x]
        return getattr(mg, name)(*given, *more.get(name, []))

    here("make it a tensor first", lambda: mg.compile(f)(np.ones((2, 2, 2, 2) if name == "conv2d" else (2, 2))))
    assert builds == []


def test_python_changes():
    class Counter:
        count = 0

    counter, history, seen = Counter(), [], {}

    def count(x):
        counter.count += 1
        return x

    def append(x):
        history.append(1)
        return x

    def store(x):
        seen["x"] = 1
        return x

    def new(x):
        counter.last = x * 2
        return x

    def of_global(x):
        global made_by_a_step
        made_by_a_step = 1
        return x

    variable = None
    del variable

    def of_cell(x):
        nonlocal variable
        variable = 1
        return x

    for f, what in (
        (count, "counter.count"), (append, "history"), (store, "seen"), (new, r"counter.last \(nothing before"),
        (of_global, r"made_by_a_step \(nothing before, 1 after"), (of_cell, "variable"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"the function changed {what}.*keep it in a Tensor"):
            mg.compile(f)(mg.Tensor(1.0))


@pytest.mark.parametrize(
    "unseen",
    [time.perf_counter, lambda: np.random.uniform(), lambda: np.random.default_rng().uniform(size=3)],  # noqa: NPY002
)
def test_what_changes_unseen_is_found_at_the_second_call(unseen):
    def f(x):
        return x * unseen()

    def g(x):
        return x + mg.Tensor(unseen())

    for function in (f, g):
        compiled = mg.compile(function)
        compiled(mg.Tensor(1.0))
        here("did not do the same", lambda c=compiled: c(mg.Tensor(1.0)))


def test_changes_of_arguments():
    with pytest.raises(RuntimeError, match="changed a container among its arguments"):
        mg.compile(lambda x, history: history.append(x * 2.0))(mg.Tensor(1.0), [])


def test_returning_objects_of_a_call():
    f = lambda x: mg.vjp(mg.sin, x)
    with pytest.raises(RuntimeError, match="returns function, made in the call: return tensors"):
        mg.compile(f)(mg.Tensor(1.0))
    state = Path("a")
    g = mg.compile(lambda x, mode: (x * 2.0, state, mode, nn.Linear))
    for i in range(4):
        assert g(mg.Tensor(float(i)), pytest)[1:] == (state, pytest, nn.Linear)


def test_numpy_arrays_that_can_change():
    array = np.ones(3)
    with pytest.raises(RuntimeError, match=r"array is a NumPy array that could be changed in place"):
        mg.compile(lambda x: x * array)(mg.Tensor(1.0))
    view = array[1:]
    view.setflags(write=False)
    with pytest.raises(RuntimeError, match=r"view is a NumPy array"):
        mg.compile(lambda x: x * view)(mg.Tensor(1.0))


def test_seeding_the_random_numbers():
    def f():
        mg.random.seed(0)
        return mg.random.normal((2,))

    generator = mg.random.current()
    with pytest.raises(RuntimeError, match=r"seeded the random numbers.*a generator of its own"):
        mg.compile(f)()
    assert mg.random.current() is generator


def test_a_gradient_that_is_also_another_tensor():
    p, q = (mg.Tensor([1.0], requires_grad=True) for _ in range(2))
    p.grad = q.grad = mg.Tensor([2.0])
    here("q.grad and p.grad are one tensor", lambda: mg.compile(lambda: (p * 1.0).detach() + p.grad + q.grad)())
    mg.compile(lambda: [p.zero_grad(), q.zero_grad()])()  # it is not used
    assert p.grad is q.grad is None


def test_a_result_that_needs_a_gradient():
    net = network()
    x = mg.Tensor(batch())
    here(r"call backward\(\) inside", lambda: mg.compile(lambda x: mg.mse(net(x), x))(x))
    with mg.no_grad():
        mg.compile(lambda x: mg.mse(net(x), x))(x)
    with pytest.raises(RuntimeError, match="call backward"):
        mg.compile(lambda x: mg.Tensor([1.0], requires_grad=True))(x)


def test_a_captured_tensor_with_a_history():
    w = mg.Tensor([1.0], requires_grad=True)
    y = w * 2.0
    here("y.*was computed outside", lambda: mg.compile(lambda: mg.sum(y * 3.0).backward())())
    f = mg.compile(lambda: y.detach() * 3.0)
    with mg.no_grad():
        assert [f().data for _ in range(4)] == [[6.0]] * 4


def test_other_changes_of_a_tensor():
    p = mg.Tensor([1.0], requires_grad=True)

    def freeze():
        p.requires_grad = False

    with pytest.raises(RuntimeError, match=r"changed p.requires_grad"):
        mg.compile(freeze)()
    p.requires_grad = True
    with pytest.raises(RuntimeError, match="changed the hooks of p"):
        mg.compile(lambda: p.register_hook(lambda g: g) and None)()


def test_too_many_shapes(builds):
    f = mg.compile(lambda x: x * 2.0)
    for n in range(1, face.MOST + 1):
        f(mg.ones(n))
    with pytest.raises(
        RuntimeError, match=r"float64 \(1,\); float64 \(2,\).*another, float64 \(99,\).*ragged last batch"
    ):
        f(mg.ones(99))
    f(mg.ones(1))
    assert len(builds) == face.MOST


def test_too_many_numbers():
    f = mg.compile(lambda x, n: x * n)
    for n in range(face.MOST):
        f(mg.ones(1), n)
    with pytest.raises(RuntimeError, match="pass numbers that change from call to call as tensors"):
        f(mg.ones(1), 99)


def test_too_many_states():
    class Settings:
        rate = 0.0

    settings = Settings()
    f = mg.compile(lambda x: x * settings.rate)
    for i in range(face.MOST):
        settings.rate = float(i)
        f(mg.ones(1))
    settings.rate = 99.0
    with pytest.raises(RuntimeError, match=r"settings.rate \(7.0 the last time, 99.0 now\): keep what changes"):
        f(mg.ones(1))


def test_an_exception_passes_and_nothing_is_compiled(builds):
    fails = True

    def f(x):
        if fails:
            raise KeyError("mine")
        return x * 1.0

    compiled = mg.compile(f)
    with pytest.raises(KeyError, match="mine"):
        compiled(mg.Tensor(1.0))
    assert builds == []
    fails = False
    for _ in range(3):
        assert compiled(mg.Tensor(1.0)).item() == 1.0
    assert builds.calls == [3]


# What two recordings and a program do is done once


RUNS = []  # eval("RUNS") is seen by no guard


def everything(training):
    """The state of a training, with what `state` leaves out."""
    p = training.net.layers[0].weight
    leaves = [t for _, t in mg.trees.named_leaves({"net": training.net, "state": training.optimizer.state})]
    return (
        training.state(), bits(*(t.grad for t in leaves)), [(id(t.array), id(t.node), id(t.grad)) for t in leaves],
        [t.node.stale for t in leaves], p.requires_grad, list(getattr(p, "_hooks", {})),
        bits(mg.random.current().state),
    )  # fmt: skip


def does_everything(training, x):
    p = training.net.layers[0].weight
    mg.random.normal((3,))
    training.step(x)
    mg.mse(training.net(x), x).backward()
    p.register_hook(lambda g: g * 2.0)
    training.net.layers[0].bias.requires_grad = False


FAILURES = {
    "an exception": lambda x: {}["key"],
    "an interruption": lambda x: (_ for _ in ()).throw(KeyboardInterrupt),
    "a refusal": lambda x: x.item(),
    "a check of values": lambda x: mg.cross_entropy(x, np.array([99])),
    "its hooks": lambda x: None,
    "seeding": lambda x: mg.random.seed(0),
}


@pytest.mark.parametrize("fail", FAILURES.values(), ids=FAILURES)
def test_after_an_error_no_tensor_is_changed(fail, builds):
    training, x = Training(dropout=0.5), mg.Tensor(batch(rows=1))
    training.step(x)
    mg.mse(training.net(x), x).backward()
    loss = mg.mse(training.net(x), x)  # its graph stays in order as well
    before = everything(training)

    @mg.compile
    def step():
        does_everything(training, x)
        return fail(x)

    for _ in range(2):
        with pytest.raises((KeyError, KeyboardInterrupt, RuntimeError, ValueError, IndexError)):
            step()
        assert everything(training) == before
    assert builds == []
    loss.backward()


def test_an_error_in_the_second_call(builds):
    eager, compiled, _ = pair(dropout=0.5)
    RUNS.clear()

    @mg.compile
    def step(x):
        loss = compiled.step(x)
        eval("RUNS").append(1)
        if len(eval("RUNS")) == 2:
            raise KeyError
        return loss

    x = mg.Tensor(batch())
    for i in range(4):
        if i == 1:
            with pytest.raises(KeyError):
                step(x)
        assert bits(eager.step(x)) == bits(step(x))
        assert eager.state() == compiled.state()
    assert builds.calls == [4]


def test_when_two_calls_differ_no_tensor_is_changed(builds):
    training, x = Training(), mg.Tensor(batch())

    @mg.compile
    def step():
        return training.step(x * float(time.perf_counter()))

    step()
    before = everything(training)
    with pytest.raises(RuntimeError, match="did not do the same"):
        step()
    assert everything(training) == before


def test_the_function_itself_runs_twice(builds):
    RUNS.clear()
    f = mg.compile(lambda x: (eval("RUNS").append(1), x * 2.0)[1])
    for i in range(5):
        assert f(mg.Tensor(float(i))).item() == 2.0 * i
    assert builds.calls == [5]
    assert len(RUNS) == 2


def test_an_old_gradient_that_is_returned(builds):
    """Also where there is another one when the call is over."""

    def make():
        p = mg.Tensor([1.0, 2.0], requires_grad=True)

        def f(x):
            old = p.grad
            p.grad = None
            mg.sum(p * x).backward()
            return old, x * 1.0

        return p, f

    (p, eager), (q, f) = make(), make()
    compiled = mg.compile(f)
    for i in range(5):
        x = mg.Tensor([float(i), 1.0])
        (a, _), (b, _) = eager(x), compiled(x)
        assert bits(a, p.grad) == bits(b, q.grad)
        assert b is not q.grad


def test_a_gradient_that_needs_a_gradient(builds):
    p = mg.Tensor([2.0], requires_grad=True)

    @mg.compile
    def f(x):
        p.zero_grad()
        mg.sum(p * x).backward()

    for i in range(4):
        mg.sum(p**3).backward(create_graph=True)
        assert p.grad.requires_grad
        f(mg.Tensor([float(i)]))
        assert p.grad.tolist() == [float(i)]
    p.zero_grad()
    f(mg.Tensor([5.0]))
    assert p.grad.tolist() == [5.0]


def test_gradients_from_before(builds):
    """Replaced, added to, scaled, and assigned; of leaves inside and of an argument."""

    def make():
        ps = [mg.Tensor(batch(i), requires_grad=True) for i in range(4)]
        for p in ps:
            p.grad = mg.Tensor(batch(9))

        def f(x):
            ps[0].zero_grad()
            mg.sum(sum(p * x for p in ps[:2])).backward()
            ps[2].grad = ps[2].grad * 0.5
            ps[3].grad.assign(ps[3].grad + x)

        return ps, f

    (ps, eager), (qs, f) = make(), make()
    compiled = mg.compile(f)
    for i in range(5):
        kept = [q.grad for q in qs[:3]]
        values = bits(*kept)
        eager(mg.Tensor(batch(i)))
        compiled(mg.Tensor(batch(i)))
        assert bits(*(p.grad for p in ps)) == bits(*(q.grad for q in qs))
        assert bits(*kept) == values
    assert builds.calls == [5]


def test_parameters_that_are_assigned_in_another_order_between_the_calls(builds):
    """Backward visits leaves by their age, which a recording must not see."""
    _, training, step = pair()
    x = mg.Tensor(batch())
    for i in range(4):
        step(x)
        parameters = list(training.net.parameters().values())
        for p in parameters if i % 2 else reversed(parameters):
            p.assign(p.detach() * 1.0)
    assert builds.calls == [4]


def test_a_generator_that_is_that_of_the_context_now_and_then(builds):
    def make():
        own, other = mg.random.Generator(1), mg.random.Generator(2)
        return own, other, lambda: (mg.random.normal((2,)), mg.random.normal((2,), generator=own))

    (*generators, eager), (*others, f) = make(), make()
    compiled = mg.compile(f)
    for i in (0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0):
        with mg.random.use(generators[i]):
            want = eager()
        with mg.random.use(others[i]):
            assert bits(*compiled()) == bits(*want)
    assert len(builds) == 2


def test_hooks_of_a_parameter(builds):
    def make():
        p = mg.Tensor([1.0, 2.0], requires_grad=True)
        handle = p.register_hook(lambda g: g * 10.0)

        def f(x):
            mg.sum(p * x).backward()
            with mg.no_grad():
                p.assign(p - p.grad)
            p.zero_grad()

        return p, handle, f

    (p, a, eager), (q, b, f) = make(), make()
    compiled = mg.compile(f)
    for _ in range(4):
        eager(mg.Tensor([1.0, 3.0]))
        compiled(mg.Tensor([1.0, 3.0]))
        assert bits(p) == bits(q)
        assert len(q._hooks) == 1
    scale = 2.0
    for change in (
        lambda p, hook: hook.remove(), lambda p, hook: p.register_hook(lambda g: g * 3.0),
        lambda p, hook: p.register_hook(lambda g: g * scale), lambda p, hook: None,  # noqa: B023
    ):  # fmt: skip
        change(p, a)
        change(q, b)
        for _ in range(3):
            eager(mg.Tensor([1.0, 3.0]))
            compiled(mg.Tensor([1.0, 3.0]))
            assert bits(p) == bits(q)
        scale += 1.0


def test_hooks_of_an_argument(builds):
    def f(p):
        mg.sum(p * p).backward()

    compiled = mg.compile(f)
    for hooked in (False, False, False, True, True, False):
        p = mg.Tensor([1.0, 2.0], requires_grad=True)
        if hooked:
            p.register_hook(lambda g: g * 10.0)
        compiled(p)
        assert p.grad.tolist() == ([20.0, 40.0] if hooked else [2.0, 4.0])


def test_training_that_is_stopped_and_resumed(monkeypatch):
    """By real programs: the first calls of the second function have the bits of later calls of the first one."""
    monkeypatch.undo()
    with mg.kernels.use("auto"):
        _, training, step = pair(dropout=0.3)
        for i in range(7):
            if i == 4:
                kept = Training(dropout=0.3)
                trees = [[t.net, t.optimizer.state, t.generator] for t in (training, kept)]
                mg.trees.map(lambda old, new: new.assign(old.detach()), *trees)
            step(mg.Tensor(batch(i)))
        resumed = mg.compile(kept.step)
        for i in range(4, 7):
            resumed(mg.Tensor(batch(i)))
        assert kept.state() == training.state()


# Calls that are usual, and others


def test_by_numpy_alone_it_runs_as_it_is(monkeypatch, builds):
    monkeypatch.undo()
    f = mg.compile(lambda x: x * 2.0 if x.sum() > 0 else x)
    with mg.kernels.use("numpy"):
        assert [f(mg.Tensor(x)).item() for x in (1.0, -1.0)] == [2.0, -1.0]
        x = mg.Tensor(1.0, requires_grad=True)
        assert f(x).requires_grad
    assert f.versions == {}


def test_usual_calls_and_others_are_the_same(builds):
    """Arguments that need a closer look, one after the other, with one function."""
    w = mg.Tensor(batch(8), requires_grad=True)
    other = mg.Tensor(batch(7))

    def f(x, y=None, scale=2.0):
        return x * w.detach() * scale + (x if y is None else y)

    x, y = mg.Tensor(batch(1)), mg.Tensor(batch(2))
    across = mg.Tensor(np.ascontiguousarray(batch(1).T)).T
    calls = [
        ((x,), {}), ((x, y), {}), ((x, x), {}), ((x, y, 3.0), {}), ((y, x), {}), ((x,), {"scale": 3.0}),
        ((w.detach(), y), {}), ((batch(1), y), {}), ((across, y), {}), ((mg.Tensor(batch(1, rows=1)), y), {}),
        ((other, other), {}), ((x, batch(2)), {}), ((x, np.asfortranarray(batch(2))), {}),
    ]  # fmt: skip
    compiled = mg.compile(f)
    for _ in range(4):
        for args, kwargs in calls:
            with mg.no_grad():
                assert bits(f(*(mg.Tensor(a) if isinstance(a, np.ndarray) else a for a in args), **kwargs)) == bits(
                    compiled(*args, **kwargs)
                )
    with mg.no_grad():
        compiled(x, y)
    assert compiled.last.run(*compiled.last.direct((x, y)), [], compiled.last.checks) is not None
    assert compiled.last in compiled.direct


def test_arguments_that_the_function_reaches_by_itself_after_usual_calls(builds):
    p = mg.Tensor([2.0])

    def f(x):
        p.assign(p + 1.0)
        return x * 1.0

    compiled = mg.compile(f)
    for _ in range(3):
        assert compiled(mg.Tensor([5.0])).item() == 5.0
    assert compiled(p).item() == 6.0
    assert len(builds) == 2
    q = mg.Tensor([1.0])
    g = mg.compile(lambda x: x * 2.0 if x is q else x * 3.0)
    for x in (mg.Tensor([1.0]), mg.Tensor([1.0]), mg.Tensor([1.0]), q):
        assert g(x).item() == (2.0 if x is q else 3.0)


def test_arguments_that_need_a_gradient_after_usual_calls(builds):
    w = mg.Tensor([2.0], requires_grad=True)
    f = mg.compile(lambda x: mg.sum(x * w).backward() or w.zero_grad())
    for needs in (False, False, False, True):
        x = mg.Tensor([5.0], requires_grad=needs)
        f(x)
        assert (x.grad is not None) == needs


def test_usual_calls_after_an_error(builds):
    p = mg.Tensor(batch(1), requires_grad=True)
    RUNS.clear()

    @mg.compile
    def f(x):
        mg.sum(p * mg.Tensor(x)).backward()
        return [][0] if eval("RUNS") else None

    for _ in range(3):
        f(batch())
        p.zero_grad()
    RUNS.append("fail")
    p.grad = mg.Tensor(batch())  # recorded for that, which fails, with an argument that needs a closer look
    with pytest.raises(IndexError):
        f(np.asfortranarray(batch()))
    p.zero_grad()
    f(batch())
    assert bits(p.grad) == bits(mg.Tensor(batch()))


def test_tensors_stay_where_they_are(builds):
    """Whichever version runs, by whichever way."""
    _, compiled, step = pair()
    small, large = mg.Tensor(batch(rows=3)), mg.Tensor(batch(rows=4))
    calls = [lambda: step(large), lambda: step(small), lambda: step(x=large), lambda: step(batch())]
    for call in 2 * calls:
        call()
    before = [id(p.array) for p in compiled.net.parameters().values()]
    for call in 2 * calls:
        call()
        assert [id(p.array) for p in compiled.net.parameters().values()] == before
    assert len(builds) == 4


def test_what_a_usual_call_takes(builds):
    """A handful of Python functions, however many arguments, parameters and attributes there are to look at."""
    _, _, step = pair(make=lambda net: optim.Adam(net, 0.1))
    x = mg.Tensor(batch())
    for _ in range(3):
        step(x)
    results = [np.ones((), "float32")]
    step.last.program = lambda inputs, states, checks: results
    called = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    step(x)
    sys.setprofile(None)
    assert called == ["__call__", "<lambda>", "function", "run", "<lambda>", "finish", "wrap"]


# Threads, processes, nesting


def test_threads():
    eager, compiled, step = pair()
    x = mg.Tensor(batch())
    for _ in range(40):
        eager.step(x)
    errors = []

    def run():
        try:
            for _ in range(10):
                step(x)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert eager.state() == compiled.state()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork():
    eager, compiled, step = pair()
    x = mg.Tensor(batch())
    for _ in range(3):
        eager.step(x)
        step(x)
    release = threading.Event()

    def hold():
        with face._LOCK:
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    child = os.fork()
    if child == 0:
        eager.step(x)
        step(x)
        os._exit(0 if eager.state() == compiled.state() else 1)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_inside_of_another_compiled_function(builds):
    inner = mg.compile(lambda x: x * 2.0)
    outer = mg.compile(lambda x: inner(x) + 1.0)
    for i in range(4):
        assert outer(mg.Tensor(float(i))).item() == 2.0 * i + 1.0
    assert builds.calls == [4]
    assert [e.op.name for e in builds[0].recording.entries] == ["multiply", "add"]


def test_inside_of_a_derivative_and_under_a_tape(builds):
    f = mg.compile(lambda x: mg.sum(x * x))
    for _ in range(3):
        assert mg.grad(f)(mg.Tensor([3.0])).data == [6.0]
        assert mg.jvp(f, (mg.Tensor([3.0]),), (mg.Tensor([1.0]),))[1].item() == 6.0
        with mg.record() as tape:
            f(mg.Tensor([1.0]))
        assert len(tape) == 2
    assert builds == []


def test_the_progress_of_a_long_compilation(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(face, "PATIENCE", 0.01)
    monkeypatch.setattr(face, "build", lambda recording: (time.sleep(0.2), Replaying(recording))[1])
    assert mg.compile(helper)(mg.Tensor(1.0)).item() == 2.0
    assert "compiling helper" in capsys.readouterr().err


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
