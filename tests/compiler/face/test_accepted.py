"""mg.compile against the eager function: whole trainings, and all that arguments, models and results may be."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import minigrad as mg
from compiler.face.training import Training, batch, bits, network, pair
from compiler.steps import KINDS
from minigrad import nn, optim
from minigrad.compiler import compile as face

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
