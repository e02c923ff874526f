"""Lowering: every Op, whole training steps, and what a tracer refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite.engine_calls import every_op, few, plan_of

import minigrad as mg
from minigrad.compiler.graph import Graph, evaluate
from minigrad.compiler.lower import Lowered, lower
from minigrad.core.op import Op, Outputs, registry
from minigrad.tape import Entry
from minigrad.testing.strategies import FLOATS, Sizes, calls
from minigrad.testing.subject import Call
from minigrad.testing.suite import LINE

# Operations that no graph can say: they are called as they are
CALLED = {
    "argsort", "avg_pool", "avg_unpool", "concat", "conv2d", "conv2d_input", "conv2d_weight", "cumulative_sum",
    "einsum", "max_pool", "max_pool_input", "overwritten", "pool_argmax", "pool_draw", "random_integers",
    "random_next", "random_normal", "random_permutation", "random_split", "random_uniform", "roll", "scatter",
    "setitem", "stochastic_pool", "stochastic_pool_input",
}  # fmt: skip
# and those that are called now and then: indices with arrays; integers
SOMETIMES = {"getitem", "argmax", "argmin"}

OPS = every_op()
APART = {"pick", "checkpoint"}  # take no arrays alone


def recorded(entries: Sequence[Entry], **fields: Any) -> Any:
    """A Recording of these entries."""
    empty = {"inputs": [], "captured": [], "before": [], "arrays": [], "results": [], "updates": [], "gradients": []}
    return SimpleNamespace(entries=entries, **{**empty, **fields})


def lowered(call: Call) -> tuple[Lowered, tuple[np.ndarray, ...]]:
    """The graph of one call, and what the call returns."""
    y = call.op.run(*call.arrays, **call.params)
    outputs = tuple(map(np.asarray, y)) if isinstance(y, (tuple, list)) else (np.asarray(y),)
    entry = Entry(
        call.op, call.arrays, call.params, Outputs(outputs) if isinstance(y, (tuple, list)) else outputs[0], None
    )
    return lower(
        recorded([entry], inputs=[x for x in call.arrays if isinstance(x, np.ndarray)], results=[*outputs])
    ), outputs


def agree(got: np.ndarray, want: np.ndarray, ulps: float = 64, size: float = 0.0) -> None:
    """AssertionError unless two arrays have one dtype and shape and are the same to some units in the last place."""
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    info = np.finfo(want.dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(
            got, want, rtol=ulps * info.eps, atol=ulps * info.eps * size + 8 * info.smallest_subnormal
        )


def ops_called(graph: Graph) -> set[str]:
    return {node.params[0] for node in graph.nodes if node.op == "call"}


def drawn(op: Op) -> st.SearchStrategy[Call]:
    sizes = (Sizes(), Sizes(empty=True), LINE)
    return calls(op, values=("ordinary", "ties", "moderate"), sizes=sizes, dtype=FLOATS, plan=plan_of(op))


@pytest.fixture(autouse=True)
def by_numpy() -> Iterator[None]:
    """The graph says what the forward does; that kernels do the same is for other tests."""
    with mg.kernels.use("numpy"):
        yield


@pytest.mark.parametrize("name", [name for name in OPS if name not in APART])
def test_every_op(name: str) -> None:
    """The graph of a call computes what the call does; only those Ops stay calls that are known to."""
    seen: set[str] = set()

    @few
    @given(drawn(OPS[name]))
    def each(call: Call) -> None:
        low, want = lowered(call)
        got = evaluate(low.graph, low.results, [np.asarray(x) for x in call.arrays])
        size = max((float(np.max(np.abs(x), initial=0)) for x in call.arrays if x.dtype.kind == "f"), default=0.0)
        for a, b in zip(got, want, strict=True):
            agree(a, b, 256, max(size, size * size))
        seen.update(ops_called(low.graph) or {""})

    each()
    assert seen <= {name, ""}
    assert (name in seen) == (name in CALLED) or name in SOMETIMES


# Whole steps


class Step:
    """A step of training, recorded and lowered; `captured` are the tensors from outside that it may use."""

    def __init__(self, function: Callable[..., Any], captured: Sequence[mg.Tensor], *inputs: mg.Tensor):
        self.before = [tensor.array for tensor in captured]
        with mg.record() as tape:
            result = function(*inputs)
        self.recording = recorded(
            tape.entries,
            inputs=[x.array for x in inputs],
            captured=captured,
            before=self.before,
            results=[result.array],
            updates=[(k, t.array) for k, t in enumerate(captured) if t.array is not self.before[k]],
            gradients=[(k, t.grad.array) for k, t in enumerate(captured) if t.grad is not None],
        )
        self.lowered = lower(self.recording)

    def check(self, nodes: int, called: set[str] = frozenset()) -> None:
        """The graph computes what the tape says, of so many nodes at most, with these operations called."""
        low, recording = self.lowered, self.recording
        got = evaluate(low.graph, low.wanted, recording.inputs, self.before)
        want = [*recording.results, *(a for _, a in recording.gradients), *(a for _, a in recording.updates)]
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            agree(a, b, 256, 1.0)
        assert ops_called(low.graph) == called
        assert len(low.graph.nodes) <= nodes
        assert low.graph.live(low.wanted) == [*range(len(low.graph.nodes))]
        leaves = ("state", "input", "literal", "iota", "constant")
        for i, node in enumerate(low.graph.nodes):
            assert low.origin[i] or node.op in leaves
            assert all(recording.entries[k] for k in low.origin[i])


def training(
    loss_of: Callable[..., Any], modules: Sequence[Any], optimiser: Callable[..., Any], *inputs: mg.Tensor
) -> Step:
    """The step of an optimiser on a loss, after two eager ones."""
    params = [p for module in modules for p in module.parameters().values()]
    optimizer = optimiser(params)

    def step(*inputs: mg.Tensor) -> mg.Tensor:
        loss = loss_of(*inputs)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(2):
        step(*inputs)
        optimizer.zero_grad()
    state = [tensor for _, tensor in mg.trees.named_leaves(optimizer.state)]
    return Step(step, [*params, *state, mg.random.current().state], *inputs)


def numbers(*shape: int, seed: int = 0) -> mg.Tensor:
    return mg.Tensor(np.random.default_rng(seed).random(shape, np.float32))


@pytest.fixture(autouse=True)
def stream() -> Iterator[None]:
    with mg.random.use(mg.random.Generator(0)):
        yield


def test_autoencoder() -> None:
    encoder, decoder = mg.nn.Linear(12, 5), mg.nn.Linear(5, 12)
    x = numbers(8, 12)
    step = training(lambda x: mg.bce_with_logits(decoder(mg.relu(encoder(x))), x), [encoder, decoder], mg.optim.Adam, x)
    step.check(nodes=150)
    ops = [node.op for node in step.lowered.graph.nodes]
    assert ops.count("exp") == 1  # the loss and its slope share it
    assert ops.count("log1p") == 1
    assert ops.count("matmul") == 5
    assert ops.count("copy") == 0


def test_classifier() -> None:
    first, second = mg.nn.Linear(6, 7), mg.nn.Linear(7, 4)
    labels = mg.Tensor(np.array([0, 3, 1, 2, 2]))
    step = training(
        lambda x, t: mg.cross_entropy(second(mg.tanh(first(x))), t),
        [first, second],
        lambda params: mg.optim.SGD(params, 0.1, momentum=0.9, weight_decay=0.01),
        numbers(5, 6),
        labels,
    )
    step.check(nodes=110)
    ops = [node.op for node in step.lowered.graph.nodes]
    assert ops.count("exp") == 1
    assert ops.count("iota") == 1


def test_variational_autoencoder() -> None:
    encoder, decoder = mg.nn.Linear(9, 8), mg.nn.Linear(4, 9)

    def loss(x: mg.Tensor) -> mg.Tensor:
        mean, log_variance = mg.split(encoder(x), 2, axis=-1)
        z = mean + mg.exp(0.5 * log_variance) * mg.random.normal(mean.shape, dtype="float32")
        kl = mg.gaussian_kl(mean, log_variance).sum()
        return mg.bce_with_logits(decoder(z), x, "sum") + kl

    step = training(loss, [encoder, decoder], mg.optim.Adam, numbers(6, 9))
    step.check(nodes=230, called={"random_normal", "random_next", "concat"})


def test_dropout_and_layer_norm() -> None:
    modules = [mg.nn.Linear(6, 8), mg.nn.LayerNorm(8), mg.nn.Linear(8, 3)]
    dropout = mg.nn.Dropout(0.25)

    def loss(x: mg.Tensor) -> mg.Tensor:
        a, norm, b = modules
        return mg.mse(b(dropout(mg.gelu(norm(a(x))))), mg.zeros((4, 3), dtype="float32"))

    step = training(loss, modules, lambda params: mg.optim.Adam(params, weight_decay=0.1), numbers(4, 6))
    step.check(nodes=230, called={"random_uniform", "random_next"})


def test_tied_weights() -> None:
    layer = mg.nn.Linear(7, 3)
    step = training(
        lambda x: mg.mse(mg.matmul(mg.sigmoid(layer(x)), layer.weight.T), x),
        [layer],
        lambda params: mg.optim.SGD(params, 0.1),
        numbers(5, 7),
    )
    step.check(nodes=70)


def test_attention() -> None:
    layers = [mg.nn.Linear(4, 4) for _ in range(3)]

    def loss(x: mg.Tensor) -> mg.Tensor:
        q, k, v = (layer(x) for layer in layers)
        weights = mg.softmax(mg.matmul(q, mg.matrix_transpose(k)) * 0.5)
        return mg.matmul(weights, v).max(axis=1).mean()

    step = training(loss, layers, mg.optim.Adam, numbers(2, 3, 4))
    step.check(nodes=250)


def test_convolution() -> None:
    layer = mg.nn.Conv2d(1, 2, 3)
    step = training(lambda x: mg.square(mg.relu(layer(x))).mean(), [layer], mg.optim.Adam, numbers(2, 1, 6, 6))
    step.check(nodes=100, called={"conv2d", "conv2d_weight"})


# Users' own operations


def traced(forward: Callable[..., Any], *arrays: np.ndarray, **params: Any) -> Graph:
    """The graph of one call of an Op with this forward; it computes what the forward does."""
    call = Call(Op("users_own", forward), arrays, params)
    low, want = lowered(call)
    for a, b in zip(evaluate(low.graph, low.results, arrays), want, strict=True):
        agree(a, b)
    return low.graph


X = np.linspace(-2, 3, 24, dtype=np.float32).reshape(2, 3, 4)


def swish(x: np.ndarray, *, beta: float) -> np.ndarray:
    y = 1 / (1 + np.exp(-beta * x))
    y *= x
    return y


def normalised(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = x - x.mean(-1, keepdims=True)
    size = np.sqrt(np.square(centred).sum(axis=-1, keepdims=True))
    return np.clip(centred / size, -0.5, 0.5), np.squeeze(size, -1)


@pytest.mark.parametrize(
    "forward",
    [
        normalised,
        lambda x: np.moveaxis(x, 0, -1)[::-1, None, 1:].T.reshape(-1),
        lambda x: np.maximum.reduce(x, axis=(0, 2), keepdims=True, initial=-np.inf) + np.sum(x > 0, axis=1)[:, None],
        lambda x: np.where(x, x.astype(np.float64), 1) * np.float32(2),
        lambda x: np.reciprocal(np.positive(x, dtype=np.float64)),
        lambda x: x.swapaxes(0, 1) @ np.ones((4, 2), np.float32) + np.arange(2),
        lambda x: np.zeros_like(x) - np.ones_like(x, dtype=np.float64) + np.full_like(x, 2.5) ** 2,
        lambda x: (np.tril(x), np.triu(x, 1), *np.split(x, 2, -1), np.diagonal(x, axis1=1, axis2=2)),
        lambda x: np.log1p(np.abs(x)).min(axis=1) + np.prod(x, axis=1) + np.mean(x > 0, axis=1),
        lambda x: (np.argmax(x, axis=1), np.argmin(x, axis=None, keepdims=True), np.any(x > 2, axis=(0, 2)), np.all(x)),
    ],
)
def test_numpy_that_is_traced(forward: Callable[..., Any]) -> None:
    assert ops_called(traced(forward, X)) == set()


PIECES: list[Callable[[Any], Any]] = [
    lambda x: x.T,
    lambda x: x[..., ::-1],
    lambda x: x[1:],
    lambda x: x.reshape(-1),
    lambda x: np.broadcast_to(x[..., None], (*x.shape, 2)),
    lambda x: x + 1,
    lambda x: 1 - x * x,
    lambda x: np.float64(0.5) * x,
    lambda x: np.exp(-np.abs(x)),
    lambda x: x / np.sqrt(1 + np.square(x)),
    lambda x: np.where(x > 0, x, -0.5),
    lambda x: np.maximum(x, x.mean(-1, keepdims=True)),
    lambda x: x - x.max(axis=0),
    lambda x: x.sum(0),
    lambda x: np.prod(x, axis=-1, keepdims=True),
    lambda x: x > 0.25,
    lambda x: x.astype(np.float32),
    lambda x: x.astype(np.int64),
    lambda x: np.tril(x) @ x.swapaxes(-1, -2),
    lambda x: np.argmax(x, axis=-1),
    lambda x: np.logical_and(x, np.any(x, axis=0)),
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=6), st.sampled_from([np.float32, np.float64]))
def test_random_forwards(pieces: list[Callable[[Any], Any]], dtype: Any) -> None:
    """What NumPy says, in shapes, dtypes and numbers, whether it is traced or called."""
    x: Any = X.astype(dtype)
    fits = []
    with np.errstate(all="ignore"):
        for piece in pieces:
            try:
                x = np.asarray(piece(x))
            except (TypeError, ValueError, IndexError):
                continue
            fits.append(piece)
        traced(lambda x: reduce(lambda y, piece: piece(y), fits, np.multiply(x, 1)), X.astype(dtype))


def test_in_place_and_parameters() -> None:
    assert ops_called(traced(swish, X, beta=1.5)) == set()


def changes_a_view(x: np.ndarray) -> np.ndarray:
    y = x * 2
    first = y[0]
    y += 1  # this changes `first`, too
    return first


def branches(x: np.ndarray) -> np.ndarray:
    return x * 2 if x.sum() > 0 else x


def counts(x: np.ndarray) -> np.ndarray:
    return x + np.arange(24).reshape(x.shape)[x > 0].sum()


@pytest.mark.parametrize(
    "forward",
    [
        changes_a_view,
        branches,
        counts,
        lambda x: np.sort(x),
        lambda x: x[..., [0, 1]],
        lambda x: np.asarray(x) + 1,
        lambda x: x * float(x[0, 0, 0]),
        lambda x: x * len([row for row in x if row.any()]),
        lambda x: np.add.reduce(x, 0, where=x > 0),
        lambda x: np.cumsum(x, 0),
        lambda x: np.hypot(x, x),
        lambda x: np.modf(x)[0],
        lambda x: np.add.outer(x, x),
        lambda x: x.astype(np.float16).astype(np.float32),
        lambda x: np.floor_divide(x, 2),
    ],
)
def test_numpy_that_is_called(forward: Callable[..., Any]) -> None:
    assert ops_called(traced(forward, X)) == {"users_own"}


def test_integers_are_called() -> None:
    assert ops_called(traced(lambda x: x + 1, np.arange(3))) == {"users_own"}
    assert ops_called(traced(lambda x: np.reciprocal(x), np.arange(1, 4))) == {"users_own"}
    assert ops_called(traced(lambda x: np.equal(x, 1), np.arange(3))) == set()


def test_random_numbers_of_its_own_are_no_constants() -> None:
    """What a forward draws anew at each call is drawn anew by the graph, too."""
    rng = np.random.default_rng(0)
    noisy = Op("noisy", lambda x: x + rng.random(x.shape))
    low, _ = lowered(Call(noisy, (X,)))
    assert ops_called(low.graph) == {"noisy"}


def test_numbers_stay_weak_in_calls() -> None:
    """A Python number is no array of float64, or a call would return another dtype."""
    call = Call(registry["setitem"], (X, 0.5), {"template": (0,)})
    low, _ = lowered(call)
    (y,) = evaluate(low.graph, low.results, [X])
    agree(y, call.op.run(X, 0.5, template=(0,)))


def test_equal_calls_are_one_and_others_are_not() -> None:
    state = np.array([1, 0], np.uint64)
    draw = registry["random_uniform"]
    ways = [{"shape": (3,), "dtype": np.dtype(t)} for t in (np.float64, np.float64, np.float32)]
    entries = [Entry(draw, (state,), way, draw.run(state, **way), None) for way in ways]
    low = lower(recorded(entries, before=[state], results=[e.output for e in entries]))
    assert low.results[0] == low.results[1] != low.results[2]


def test_what_a_refused_trace_asked_for_has_its_origin_elsewhere() -> None:
    x = np.array([1.0, 2.0])
    exp, half = registry["exp"], Op("half_of_a_trace", lambda x: np.sort(np.exp(x)))
    entries = [Entry(op, (x,), {}, op.run(x), None) for op in (exp, half)]
    low = lower(recorded(entries, inputs=[x], results=[e.output for e in entries]))
    assert [low.origin[i] for i in low.results] == [[0], [1]]


def test_updates_and_gradients() -> None:
    """What a captured tensor becomes may be another's old value, or an argument; a gradient may be deleted."""
    x, p, q = (np.full(3, v) for v in (1.0, 2.0, 3.0))
    new, other = p.view(), x.view()
    assign = registry["assign"]
    entries = [Entry(assign, (q, p), {}, new, None), Entry(assign, (p, x), {}, other, None)]
    updates = [(1, new), (0, other)]
    low = lower(recorded(entries, inputs=[x], before=[p, q], updates=updates, gradients=[(0, None), (1, new)]))
    assert low.gradients[0] is None
    assert low.wanted == [low.gradients[1], low.updates[1], low.updates[0]]
    assert [low.graph.nodes[i].op for i in low.wanted] == ["state", "state", "input"]


def test_a_ghost_is_never_read() -> None:
    """Shapes far larger than memory can be lowered."""
    huge = np.broadcast_to(np.float32(1), (1 << 20, 1 << 20))
    graph = Graph()
    x = graph.leaf("input", 0, (1 << 20, 1), np.float32)
    y = graph.viewed(graph.broadcast(x, huge.shape), np.transpose)
    assert graph.nodes[y].shape == huge.shape
    assert graph.nodes[y].params == ((0, 1), 0)
