"""What a function does beside its operations is done once in each call, also in the two that are recorded."""

import time

import numpy as np
import pytest

import minigrad as mg
from compiler.face.training import Training, batch, bits, pair

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
