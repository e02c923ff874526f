"""What a graph keeps alive, and what it costs: counted in objects, calls and elements, never in seconds."""

import gc
import weakref

import numpy as np
import pytest

import minigrad as mg
import minigrad.core.backward as engine
from minigrad import Op, Tensor
from minigrad.core.op import registry

BOTH = pytest.mark.parametrize("create_graph", [False, True], ids=["arrays", "values"])


def garbage(f):
    """How many objects f left that reference counts alone did not free."""
    f()  # plans and caches are made once
    gc.collect()
    gc.disable()
    try:
        f()
        return gc.collect()
    finally:
        gc.enable()


def network():
    """A graph with all that may point around: products, slices, several outputs, branches, constants."""
    x = Tensor(np.linspace(0.1, 1.0, 6).reshape(2, 3), requires_grad=True)
    w = Tensor(np.ones((3, 3)), requires_grad=True)
    h = mg.tanh(x @ w + x)
    a, b = mg.split(h, 2)
    return x, w, h, (mg.softmax(a, -1) * mg.exp(b) * h[0] * h[[0, 1]]).sum() + mg.mean(h**3) * 2.0


def test_the_measure_sees_a_cycle():
    def cycle():
        x = Tensor(1.0, requires_grad=True)
        x.register_hook(lambda g: x)  # its own tensor: nothing can be done about that

    assert garbage(cycle) > 0


def test_a_graph_leaves_nothing_for_the_collector():
    assert garbage(network) == 0


@BOTH
def test_backward_leaves_nothing(create_graph):
    assert garbage(lambda: network()[-1].backward(create_graph=create_graph)) == 0


def test_a_second_derivative_leaves_nothing():
    def f():
        x, w, _, loss = network()
        loss.backward(create_graph=True)
        (mg.square(x.grad).sum() + (w.grad * w).sum()).backward()

    assert garbage(f) == 0


@BOTH
def test_hooks_that_close_over_tensors_leave_nothing(create_graph):
    def f():
        x, w, h, loss = network()
        x.register_hook(lambda g: g * w[0, 0])
        h.register_hook(lambda g: g + 0.0 * x.sum() * loss)
        h.retain_grad()
        loss.register_hook(lambda g: g * w.sum())
        loss.backward(create_graph=create_graph)

    assert garbage(f) == 0


def test_transforms_leave_nothing():
    f = lambda x: mg.sum(mg.sin(x) * x)
    x = Tensor([1.0, 2.0])
    assert garbage(lambda: mg.grad(lambda x: mg.grad(f)(x).sum())(x)) == 0


@pytest.mark.parametrize("mode", [mg.record, mg.debug, mg.detect_anomaly, mg.no_grad])
def test_modes_leave_nothing(mode):
    """Source lines are code objects, not frames, which would hold the tensors of the caller."""

    def f():
        with mode() as tape:
            x, _, _, loss = network()
            if mg.grad_enabled():
                loss.backward()
                assert x.grad is not None
        str(tape)

    assert garbage(f) == 0


def test_errors_leave_nothing():
    def f():
        x, _, _, loss = network()
        loss.backward()
        for wrong in (loss.backward, lambda: x @ x, lambda: mg.exp(x, x), lambda: x + "a", lambda: np.copyto(x, x)):
            with pytest.raises((RuntimeError, ValueError, TypeError)):
                wrong()
        x.assign(0.0)

    f()
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(5):
        f()
    gc.collect()
    assert len(gc.get_objects()) - before < 50


# Long chains


def test_a_million_operations():
    """No recursion in backward, nor when the chain is freed."""
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(1_000_000):
        y = y * 1.0
    y.backward()
    assert x.grad.item() == 1
    last = weakref.ref(y.array)
    del y
    assert last() is None


def test_a_long_chain_is_freed_without_backward_and_with_its_history():
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(30_000):
        y = mg.sin(y)
    y.backward(create_graph=True)
    gradient = x.grad
    x.zero_grad()
    gradient.backward()
    del y, gradient
    assert x.grad is not None


def test_a_chain_of_slices_and_outputs():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x
    for _ in range(10_000):
        y = mg.split(y[::-1], 1)[0]
    y.sum().backward()
    assert x.grad.tolist() == [1, 1]


# What is saved


def alive(make):
    """Which of the arrays that `make` names are still there when only its result is."""
    kept, arrays = make()
    references = {name: weakref.ref(t.array) for name, t in arrays.items()}
    del arrays
    return {name for name, r in references.items() if r() is not None}, kept


def saved_by(f, *shapes, constant=False):
    """Which of input (a result, so that nothing else holds it) and output the graph of f keeps."""

    def make():
        x = Tensor(np.full((2, 2), 0.5), requires_grad=True) * (np.ones((2, 2)))
        y = f(x)
        return y.node, {"x": x, "y": y}

    return alive(make)[0]


SAVED = {
    "add": (lambda x: x + x, set()),
    "subtract": (lambda x: x - 1.0, set()),
    "negative": (lambda x: -x, set()),
    "scale": (lambda x: x * 2.0, set()),
    "by an array": (lambda x: x * np.ones((2, 2)), set()),
    "multiply": (lambda x: x * x, {"x"}),
    "square": (mg.square, {"x"}),
    "exp": (mg.exp, {"y"}),
    "sqrt": (mg.sqrt, {"y"}),
    "sigmoid of nothing needed": (lambda x: mg.floor(x), set()),
    "log": (mg.log, {"x"}),
    "sin": (mg.sin, {"x"}),
    "sum": (lambda x: x.sum(0), set()),
    "mean": (lambda x: x.mean(), set()),
    "matmul by a constant": (lambda x: x @ np.ones((2, 2)), set()),
    "matmul": (lambda x: x @ x, {"x"}),
    "concat": (lambda x: mg.concat([x, x]), set()),
    "cast": (lambda x: x.astype("float32"), set()),
    "gather": (lambda x: x[[0, 1]], set()),
    "where": (lambda x: mg.where(np.eye(2) > 0, x, 0.0), set()),
    "softmax": (lambda x: mg.softmax(x, -1), {"y"}),
    "split": (lambda x: mg.split(x, 2)[0] + 1.0, set()),
}


@pytest.mark.parametrize(("f", "kept"), SAVED.values(), ids=SAVED)
def test_only_what_the_rules_need_is_kept(f, kept):
    assert saved_by(f) == kept


def test_rules_of_constants_keep_nothing():
    """The rule for x needs w alone, that of w would need x."""

    def make():
        x, w = Tensor(np.ones((2, 2))) * 1.0, Tensor(np.ones((2, 2)), requires_grad=True) * 1.0
        return (x @ w.detach().astype("float64") + w).node, {"x": x}

    assert alive(make)[0] == set()


@BOTH
def test_backward_frees_what_was_saved(create_graph):
    x = Tensor(np.ones((2, 2)), requires_grad=True)
    y = mg.exp(x * 2.0)
    z = mg.log(y * y).sum()
    saved = weakref.ref(y.array)
    del y
    assert saved() is not None
    z.backward(create_graph=create_graph, retain_graph=False)
    x.zero_grad()
    assert saved() is None
    assert z.node is not None


def test_it_is_freed_while_backward_is_still_on_its_way():
    arrays, alive_then = [], []
    x = Tensor(np.ones(2), requires_grad=True)
    x.register_hook(lambda g: alive_then.append([r() is not None for r in arrays]))
    y = x
    for _ in range(3):
        y = mg.exp(y * 0.1)
        arrays.append(weakref.ref(y.array))
    y = y.sum()
    y.backward()
    assert alive_then == [[False] * 3]


def test_no_grad_keeps_nothing():
    def make():
        x = Tensor(np.ones(2), requires_grad=True)
        with mg.no_grad():
            y = mg.exp(x)
            z = y * y
        return z, {"y": y}

    kept, z = alive(make)
    assert kept == set()
    assert z.node is None


def test_a_hook_and_the_gradient_die_with_the_tensor():
    x = Tensor(np.ones(2), requires_grad=True)
    y = x * 2.0
    y.retain_grad()
    y.register_hook(lambda g: None)
    loss = y.sum()
    loss.backward(retain_graph=True)
    gradient, tensor = weakref.ref(y.grad), weakref.ref(y)
    del y
    assert tensor() is None
    assert gradient() is None
    assert loss.node is not None


# What slices cost


class Elements:
    """Counts the elements that all operations together take in and give out, and the calls of each."""

    def __init__(self, monkeypatch):
        self.total = 0
        self.calls = {}
        for op in list(registry.values()):
            monkeypatch.setattr(op, "run", self.counting(op.name, op.run))

    def counting(self, name, run):
        def counted(*arrays, **params):
            y = run(*arrays, **params)
            self.calls[name] = self.calls.get(name, 0) + 1
            for a in (*arrays, *(y if isinstance(y, tuple) else (y,))):
                # a slice's input costs nothing
                self.total += np.size(a) if name != "getitem" or a is y else 0
            return y

        return counted


SLICES = {
    "items": lambda x, n: [x[i] for i in range(n)],
    "slices": lambda x, n: [x[i : i + 1] for i in range(n)],
    "gathers": lambda x, n: [x[[i]] for i in range(n)],
    "iteration": lambda x, n: list(x),
    "unstack": lambda x, n: mg.unstack(x),
    "split": lambda x, n: mg.split(x, n),
    "take": lambda x, n: [mg.take(x, [i]) for i in range(n)],
}


@pytest.mark.parametrize("slices", SLICES.values(), ids=SLICES)
@pytest.mark.parametrize("mode", ["arrays", "values", "again", "tape"])
def test_the_slices_of_one_array_cost_linear_time(slices, mode, monkeypatch):
    def cost(n):
        with monkeypatch.context() as patch:
            x = Tensor(np.arange(1.0, n + 1), requires_grad=True)
            loss = sum((s.sum() * s.sum() for s in slices(x, n)), Tensor(0.0))
            elements = Elements(patch)
            with mg.record() if mode == "tape" else mg.enable_grad():
                loss.backward(create_graph=mode in ("values", "again"))
            assert x.grad.tolist() == [2 * v for v in x.tolist()]
            if mode == "again":
                gradient, x.grad = x.grad, None
                mg.square(gradient).sum().backward()
                assert x.grad.tolist() == [8 * v for v in x.tolist()]
            return elements.total

    small, large = cost(50), cost(200)
    assert large <= 4.4 * small


def test_the_cotangents_of_all_slices_meet_in_one_buffer(monkeypatch):
    x = Tensor(np.ones(100), requires_grad=True)
    loss = sum((x[i] * float(i) for i in range(100)), Tensor(0.0))
    elements = Elements(monkeypatch)
    loss.backward()
    assert elements.calls["scatter"] == 1
    assert x.grad.tolist() == list(range(100))


def test_a_value_used_many_times_is_summed_in_one_buffer(monkeypatch):
    """n cotangents of n elements take one buffer, not n."""
    made = []

    class Counting:
        """NumPy, but for an add that notes which buffers it makes."""

        def __getattr__(self, name):
            return getattr(np, name)

        def add(self, a, b, out=None):
            if out is None:
                made.append(1)
            return np.add(a, b, out=out)

    monkeypatch.setattr(engine, "np", Counting())
    x = Tensor(np.ones(3), requires_grad=True)
    loss = sum((x * 2.0 for _ in range(50)), Tensor(0.0)).sum()
    loss.backward()
    assert x.grad.tolist() == [100] * 3
    assert len(made) == 1


@pytest.mark.parametrize("create_graph", [False, True])
def test_outputs_that_nobody_used_have_no_cotangent(create_graph):
    calls = []

    def rule(g):
        calls.append([h is None for h in g])
        return mg.concat([np.zeros(2) if h is None else h for h in g])

    op = Op("halves", lambda x: (x[:2], x[2:]), vjp={"x": rule}, kind="linear")
    x = Tensor(np.ones(4), requires_grad=True)
    first, second = op(x)
    (first * 3.0).sum().backward(create_graph=create_graph, retain_graph=True)
    assert x.grad.tolist() == [3, 3, 0, 0]
    x.grad = None
    (first * first * 0.5 + second * second * 0.0).sum().backward(create_graph=create_graph)
    assert x.grad.tolist() == [1, 1, 0, 0]
    assert calls == [[False, True], [False, False]]
