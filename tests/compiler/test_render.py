"""The text of a compiled step: it runs, to the same bits; its kernels are those that are compiled; people can read it.

And what explain() counts, for the cases of the benchmark and for other networks.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from weakref import ref

import numpy as np
import pytest

import minigrad as mg
from benchmarks import cases, steps
from minigrad import nn
from minigrad.compiler import runtime
from minigrad.compiler.arguments import Arguments, named
from minigrad.compiler.explain import Explanation, explain
from minigrad.compiler.fuse import fuse
from minigrad.compiler.guards import look
from minigrad.compiler.lower import lower
from minigrad.compiler.recording import Recording, record
from minigrad.compiler.render import WIDTH, Rendering, canonical, kernel, source
from minigrad.compiler.schedule import Place, own_copies, schedule
from minigrad.compiler.story import Story
from minigrad.core.op import registry

Step = Callable[..., Any]


# Steps


def recorded(step: Step, *args: Any) -> Recording:
    """What a call of a step does."""
    given = Arguments(args, {})
    _, names = named(step, args, {})
    return record(step, args, {}, given, look(step, dict(zip(names, given.objects, strict=True))))


def trained(optimizer: Any, loss: Any) -> Any:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


class Autoencoder(nn.Module):
    """24 numbers through 6, with names that a text should have."""

    def __init__(self) -> None:
        self.encoder = nn.Linear(24, 6)
        self.decoder = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 24))

    def loss(self, x: Any) -> Any:
        code = mg.relu(self.encoder(x))
        logits = self.decoder(code)
        return mg.bce_with_logits(logits, x)


def autoencoder(dtype: str = "float32") -> tuple[Step, list[Any]]:
    model = Autoencoder().astype(dtype)
    optimizer = mg.optim.Adam(model, 1e-2)

    def step(x: Any) -> Any:
        loss = model.loss(x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step, [mg.Tensor(np.random.default_rng(0).random((9, 24)).astype(dtype))]


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def benchmark(name: str, **smaller: Any) -> tuple[Step, list[Any]]:
    """A case of the benchmark, with weights and batches of its shapes."""
    fields = {k: getattr(cases.CASES[name], k) for k in ("kind", "batch", "shapes", "rate", "beta", "linear")}
    case = cases.Case(**{**fields, **smaller})
    biases = [shape[-1] if len(shape) == 2 else shape[0] for shape in case.shapes]
    weights = [(0.1 * normal(*shape), 0.1 * normal(n)) for shape, n in zip(case.shapes, biases, strict=True)]
    n = case.batch
    if case.kind == "chain":
        return steps.of_minigrad(case, weights), [mg.Tensor(normal(n)), mg.Tensor(normal(n))]
    first = case.shapes[3 if case.kind == "gan" else 0]
    x = np.abs(normal(n, 1, 28, 28) if len(first) == 4 else normal(n, first[0])) % 1
    second = {
        "vae": normal(n, case.shapes[1][1]) if case.kind == "vae" else None,
        "gan": normal(n, case.shapes[0][0]) if case.kind == "gan" else None,
        "classifier": np.arange(n) % 10,
    }
    return steps.of_minigrad(case, weights), [mg.Tensor(a) for a in (x, second.get(case.kind)) if a is not None]


def transformer() -> tuple[Step, list[Any]]:
    """Layer norm, attention of one head, GELU, residual connections; its gradients are left in .grad."""
    wide, narrow, norm = nn.Linear(8, 16), nn.Linear(16, 8), nn.LayerNorm(8)

    def step(x: Any) -> Any:
        h = norm(x)
        weights = mg.softmax(h @ mg.matrix_transpose(h) / 8**0.5)
        h = x + weights @ h
        loss = mg.mean(mg.square(h + narrow(mg.gelu(wide(norm(h))))))
        loss.backward()
        return loss

    return step, [mg.Tensor(normal(5, 8))]


def noisy() -> tuple[Step, list[Any]]:
    """Dropout, and noise."""
    model = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Dropout(0.5), nn.Linear(9, 3))
    optimizer = mg.optim.SGD(model, 0.1, momentum=0.9)

    def step(x: Any) -> Any:
        return trained(optimizer, mg.mean(mg.square(model(x + mg.random.normal(x.shape, dtype="float32")))))

    return step, [mg.Tensor(normal(4, 7))]


def picking() -> tuple[Step, list[Any]]:
    """A table and an operation of the user's own that no graph can say, of two outputs."""
    table = np.arange(12.0).reshape(3, 4)[::-1].copy()
    table.setflags(write=False)
    halves = mg.Op("render_halves", lambda x, *, at: (np.asarray(list(x)[:at]), np.asarray(list(x)[at:])))

    def step(x: Any, k: Any) -> Any:
        low, high = halves(x, at=2)
        return low @ mg.Tensor(table[:2]), high, mg.Tensor(table)[k].T, x[::-1].T

    return step, [mg.Tensor(np.arange(8.0).reshape(4, 2)), mg.Tensor(np.array([2, 0]))]


SMALL = {
    "autoencoder": autoencoder,
    "float64": lambda: autoencoder("float64"),
    "classifier": lambda: benchmark("digits", batch=11, shapes=cases.dense(64, 9, 10)),
    "vae": lambda: benchmark("vae", batch=5, shapes=((30, 12), (12, 3), (12, 3), (3, 12), (12, 30))),
    "gan": lambda: benchmark("gan", batch=6, shapes=cases.dense(4, 10, 12, 14) + cases.dense(14, 12, 10, 1)),
    "conv": lambda: benchmark("conv", batch=3, shapes=((2, 1, 3, 3), (4, 2, 3, 3), (100, 10))),
    "chain": lambda: benchmark("chain"),
    "transformer": transformer,
    "noisy": noisy,
    "picking": picking,
}


class Case:
    """A small step, recorded, built and rendered."""

    def __init__(self, name: str):
        mg.random.seed(3)
        step, args = SMALL[name]()
        self.recording = recorded(step, *args)
        self.program = runtime.build(self.recording)
        self.story = Story(self.program.plan, self.recording)
        self.rendering = Rendering(self.story)
        self.space: dict[str, Any] = {}
        exec(self.rendering.text, self.space)

    def run(self, states: list[np.ndarray]) -> list[np.ndarray]:
        """What the text's step returns."""
        graph = self.program.plan.fused.graph
        memory = {"input": self.recording.inputs, "state": states, "array": self.recording.arrays}
        memory["constant"] = graph.constants
        given = {k: memory[x.kind][x.k] if isinstance(x, Place) else x for k, x in self.rendering.given.items()}
        return self.space["step"](**given)


@pytest.fixture(scope="module", params=SMALL)
def case(request: Any) -> Iterator[Case]:
    before = dict(registry)
    yield Case(request.param)
    registry.clear()
    registry.update(before)


@pytest.fixture(scope="module")
def ae() -> Case:
    return Case("autoencoder")


# The text


def test_same_bits(case: Case) -> None:
    """Results, gradients and everything that is updated."""
    runs = []
    for run in (lambda states: case.program(case.recording.inputs, states), case.run):
        states = [np.array(a) for a in case.recording.before]
        for _ in range(2):
            results = run(states)
        runs.append([*results, *states])
    for a, b in zip(*runs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


def test_kernels_are_the_compiled_ones(case: Case) -> None:
    """Up to names and nesting; each stands there once, and there is no other."""
    titles = set()
    for group in case.rendering.groups:
        for phase in group:
            title = case.rendering.title(phase)
            assert canonical(case.space[title].text) == canonical(phase.source.text)
            assert case.space[title].kinds == case.rendering.kinds(phase)
        titles.add(title)
    others = {k for k, x in case.space.items() if isinstance(x, type(kernel("", "def f(): pass")))} - titles
    assert not others
    assert len(titles) == len(case.rendering.groups) == case.rendering.text.count(" = kernel(")


def test_looks(case: Case) -> None:
    """No line is too long, and no value of a kernel has but a number."""
    text = case.rendering.text
    assert max(map(len, text.split("\n"))) <= WIDTH
    compile(text, "step", "exec")
    values = set(text.replace("(", " ").replace(",", " ").split())
    assert not [x for x in values if x[0] in "vac" and x[1:].isdigit()]
    assert source(case.story) == text


def test_names_and_lines(ae: Case) -> None:
    text = ae.rendering.text
    parameters = list(inspect.signature(ae.space["step"]).parameters)
    assert parameters[0] == "x"
    assert {"encoder_weight", "decoder_0_bias", "encoder_weight_first_moment", "learning_rate"} <= {*parameters}
    for line in (
        "# forward: test_render.py:",
        ": code = mg.relu(self.encoder(x))",
        "#     code = relu(x @ encoder_weight + encoder_bias)   (9, 24) @ (24, 6)",
        "# backward: test_render.py:",
        "# update: test_render.py:",
        "#     encoder_weight_grad = x.T @ linear_1_grad   (24, 9) @ (9, 6), not stored",
        "#     encoder_weight and its first_moment, second_moment = adam(encoder_weight_grad, ",
        "return [loss]",
    ):
        assert line in text, text


def test_roles() -> None:
    """Draws, and statistics that a layer keeps, are no part of the optimiser's update."""
    mg.random.seed(3)
    norm, model = nn.BatchNorm(3), nn.Linear(3, 2)
    optimizer = mg.optim.SGD(model, 0.1)

    def step(x: Any) -> Any:
        h = norm(x + mg.random.normal(x.shape, dtype="float32"))
        return trained(optimizer, mg.sum(model(h)))

    story = Story(runtime.build(recording := recorded(step, mg.Tensor(normal(4, 3)))).plan, recording)
    roles = {
        (op, role) for op, role in zip(story.ops, story.roles, strict=True) if op not in ("pick", "copy", "multiply")
    }
    assert {("random_normal", "forward"), ("linear", "forward"), ("assign", "update"), ("sgd", "update")} <= roles
    assert {("matmul", "backward"), ("random_next", "forward")} <= roles
    assert not {("linear", "update"), ("sgd", "backward"), ("matmul", "forward"), ("random_normal", "update")} & roles


def test_story_keeps_no_arrays() -> None:
    """A compiled step can be shown as long as it is there; what was computed while it was recorded is gone."""
    recording = recorded(*(lambda step, args: (step, *args))(*autoencoder()))
    story = Story(runtime.build(recording).plan, recording)
    kept = ref(next(e.output for e in recording.entries if e.op.name == "relu"))
    del recording
    gc.collect()
    assert kept() is None
    assert "relu" in source(story)


def test_of_a_compiled_function() -> None:
    step, args = autoencoder()
    compiled = mg.compile(step)
    for _ in range(3):
        compiled(*args)
    assert "def step(\n    x, *, encoder_weight," in compiled.source
    assert compiled.explain().calls == ()


# When two kernels are the same

ONE = """
def one(x, y, n, rows):
    v0 = x[0]
    all0 = 0.0
    for i in range(n):
        v1 = x[i] * v0
        v2 = v1 + v1
        all0 = all0 + v2
        put(y, i, v2)
    put(y, 0, all0)
"""
SAME = """
def other(given, made, count, rows):
    whole = 0.0
    first = given[0]
    for k in range(count):
        scaled = given[k] * first
        twice = scaled + scaled
        whole = whole + twice
        put(made, k, twice)
    put(made, 0, whole)
"""


def test_canonical() -> None:
    assert canonical(ONE) == canonical(SAME)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x[i] * v0", "v0 * x[i]"),
        ("v1 + v1", "v1 + v0"),
        ("all0 = 0.0", "all0 = -0.0"),
        ("put(y, i, v2)", "put(x, i, v2)"),
        ("range(n)", "range(rows)"),
        ("all0 + v2", "v2 + all0"),
        ("    put(y, 0, all0)", "        put(y, 0, all0)"),
        ("    put(y, 0, all0)", "    put(y, 0, x[0] + all0)"),
        ("        v1 = x[i] * v0", "        v0 = x[i] * v0\n        v1 = v0"),
    ],
)
def test_canonical_tells_apart(old: str, new: str) -> None:
    assert ONE.count(old) == 1
    assert canonical(ONE.replace(old, new)) != canonical(ONE)


def test_a_load_that_goes_past_a_store_is_noticed() -> None:
    before = "def f(x, y): v = x[0]; put(y, 0, 1.0); put(y, 1, v)"
    after = "def f(x, y): put(y, 0, 1.0); v = x[0]; put(y, 1, v)"
    assert canonical(before) != canonical(after)


def test_canonical_of_long_chains() -> None:
    """Values that are used twice, time and again, are not written out."""
    chain = "; ".join(f"v{k + 1} = v{k} * v{k}" for k in range(2000))
    assert len(canonical(f"def f(x): v0 = x[0]; {chain}; put(x, 0, v2000)")) == 1


def test_no_statement_of_a_kernel() -> None:
    with pytest.raises(ValueError, match="no statement of a kernel: while"):
        canonical("def f(x):\n while x: pass")


# Explanations


def planned(name: str) -> Story:
    """The plan and the story of a case of the benchmark, of which nothing is compiled."""
    step, args = OTHERS[name]() if name in OTHERS else benchmark(name)
    recording = recorded(step, *args)
    low = lower(recording)
    outputs = [*low.results, *(g for g in low.gradients.values() if g is not None)]
    fused = fuse(low.graph, own_copies(low.graph, [*outputs, *low.updates.values()]))
    return Story(schedule(fused, len(outputs), list(low.updates)), recording)


OTHERS: dict[str, Any] = {"transformer": transformer, "noisy": noisy}
BACK = ["max_pool_input", "conv2d_input", "conv2d_weight", "max_pool_input", "conv2d_weight"]
# kernels, calls, arrays that are made in each call, bytes of the arena, bytes that are never stored
PINNED: dict[str, tuple[int, list[str], int, int, int]] = {
    "ae32": (17, [], 1, 157568, 10345728),
    "ae128": (17, [], 1, 618368, 16199424),
    "ae512": (17, [], 1, 2461568, 39614208),
    "deepae": (33, [], 1, 2728320, 126640424),
    "vae": (21, [], 1, 1061888, 35472548),
    "gan": (42, [], 1, 4641408, 52988520),
    "digits": (11, [], 1, 9984, 43752),
    "conv": (18, ["conv2d", "max_pool"] * 2 + BACK, 10, 5537920, 4806056),
    "chain": (2, [], 1, 128, 3200),
    "transformer": (21, [], 7, 3328, 11200),
    "noisy": (12, ["random_normal", "random_next", "random_uniform", "random_next"], 5, 1408, 2124),
}


@pytest.mark.parametrize("name", [*cases.CASES, *OTHERS])
def test_explain(name: str) -> None:
    """What a case consists of: a change that is meant is written down here."""
    found = explain(planned(name))
    assert (found.kernels, [*found.calls], found.allocations, found.arena, found.saved) == PINNED[name]


def explained(case: Case) -> Explanation:
    return explain(case.story)


def test_costs(ae: Case) -> None:
    """Bytes and operations of a kernel, counted by hand."""
    (cost,) = [c for c in explained(ae).phases if any(f.startswith("code = relu(x @") for f in c.formulas)]
    assert cost.reads == 4 * (9 * 24 + 24 * 6 + 6)
    assert cost.writes == 4 * 9 * 6
    assert cost.operations == 9 * 6 * (2 * 24 + 2)
    assert cost.chunks == 1
    assert [line.partition("test_render.py:")[0] for line in cost.lines] == ["forward: "]


def test_table(case: Case) -> None:
    """It has each kernel and call, and fits the page."""
    found = explained(case)
    text = str(found)
    assert max(map(len, text.split("\n"))) <= WIDTH
    assert all(cost.name[:50] in text for cost in found.phases)
    assert len(found.phases) == found.kernels + len(found.calls) == len(case.program.plan.phases)
    assert f"{found.kernels} kernels ({found.distinct} different)" in text
    assert found.recorded == len(case.recording.entries)
