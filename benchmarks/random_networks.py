"""Random networks and expressions, all of them right, and then with one rule of one operation slightly wrong.

Each is drawn from (seed, index) alone: layers with residuals, gates, attention and normalisation, or a random graph of
expressions, at inputs of sizes from 1e-3 to 1e3, with a loss or without. `check` has to pass them. Then a tape of the
computation is run as a program in which a single instruction is changed: the rule for one input of one operation is off
by a relative 1e-9. `blame` has to name that operation and no other, wherever the error is larger than what a numerical
derivative of that operation can resolve; the others are counted and listed. (`check` alone may pass it where the error
hardly reaches the result.)

    python -m benchmarks.random_networks --count 5000 --seed 0             5000 of them, and 1000 planted errors
    python -m benchmarks.random_networks --count 5000 --planted 0          without planted errors
    python -m benchmarks.random_networks --show 17 --seed 0                number 17: its steps, and what is said of it

How to read it: `Program` is a list of steps; `network` and `expression` draw one; `plant` changes an instruction;
`resolvable` and `felt` say whether that could be seen; `examine` does all of that for one index.
"""

from __future__ import annotations

import os

os.environ.update({f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")})

import argparse
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from time import perf_counter
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.testing import Call, blame, check
from minigrad.testing.numeric import Line

Array = np.ndarray[Any, Any]

PLANTED = 1e-9
EPS = float(np.finfo(np.float64).eps)


@dataclass
class Program:
    """A function of Tensors as a list of steps, each on values that came before; built together with its values.

    Attributes:
        inputs: the arrays that it is differentiated by.
        steps: (what it is, function, indices of its arguments); the inputs have the first indices.
        values: of the inputs and of each step.
        results: the indices of what it returns.
    """

    inputs: list[Array] = field(default_factory=list)
    steps: list[tuple[str, Callable[..., Any], tuple[int, ...]]] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    results: tuple[int, ...] = ()

    def input(self, x: Array) -> int:
        """One more input; all of them come before the first step."""
        self.inputs.append(x)
        self.values.append(x)
        return len(self.values) - 1

    def step(self, name: str, f: Callable[..., Any], *arguments: int) -> int:
        """One more step, and the index of its value."""
        with mg.no_grad():
            self.values.append(f(*(mg.Tensor(self.values[i]) for i in arguments)).data)
        self.steps.append((name, f, arguments))
        return len(self.values) - 1

    def __call__(self, *xs: Any) -> Any:
        values = list(xs)
        for _, f, arguments in self.steps:
            values.append(f(*(values[i] for i in arguments)))
        found = tuple(values[i] for i in self.results)
        return found if len(found) > 1 else found[0]

    def __str__(self) -> str:
        lines = [f"{i}: input {x.shape}, up to {np.max(np.abs(x)):.3g}" for i, x in enumerate(self.inputs)]
        for i, (name, _, arguments) in enumerate(self.steps, len(self.inputs)):
            y = self.values[i]
            lines.append(f"{i}: {name}({', '.join(map(str, arguments))}) {y.shape}, up to {np.max(np.abs(y)):.3g}")
        return "\n".join([*lines, f"returns {', '.join(map(str, self.results))}"])


# name: the largest |x| that it is used for, and the function, of the shape of x
SHAPE_KEEPING: dict[str, tuple[float, Callable[[Any], Any]]] = {
    "relu": (1e9, mg.relu),
    "leaky_relu": (1e9, mg.leaky_relu),
    "elu": (1e9, mg.elu),
    "abs": (1e9, mg.abs),
    "tanh": (30.0, mg.tanh),
    "sigmoid": (30.0, mg.sigmoid),
    "gelu": (30.0, mg.gelu),
    "silu": (30.0, mg.silu),
    "softplus": (1e3, mg.softplus),
    "erf": (5.0, mg.erf),
    "sin": (1e2, mg.sin),
    "cos": (1e2, mg.cos),
    "exp": (20.0, mg.exp),
    "expm1": (20.0, mg.expm1),
    "sinh": (10.0, mg.sinh),
    "cosh": (10.0, mg.cosh),
    "square": (1e4, mg.square),
    "cube": (1e3, lambda x: x**3),
    "log1p(x²)": (1e6, lambda x: mg.log1p(mg.square(x))),
    "√(1+x²)": (1e6, lambda x: mg.sqrt(1.0 + mg.square(x))),
    "1/√(1+x²)": (1e3, lambda x: mg.rsqrt(1.0 + mg.square(x))),
    "x/(1+|x|)": (1e4, lambda x: x / (1.0 + mg.abs(x))),
    "log(1+|x|)": (1e6, lambda x: mg.log(1.0 + mg.abs(x))),
    "power": (1e3, lambda x: mg.pow(1.0 + mg.abs(x), 0.7)),
    "clip": (1e9, lambda x: mg.clip(x, -0.7, 1.3)),
    "where": (1e9, lambda x: mg.where(x > 0.3, x, 0.1 * x)),
    "negative": (1e9, mg.negative),
    "affine": (1e9, lambda x: 0.3 * x - 1.7),
}
WITH_AXIS: dict[str, Callable[[Any], Any]] = {
    "softmax": lambda x: mg.softmax(x, -1),
    "log_softmax": lambda x: mg.log_softmax(x, -1),
    "layer norm": lambda x: (x - mg.mean(x, -1, True)) / mg.sqrt(mg.var(x, -1, keepdims=True) + 1e-5),
    "batch norm": lambda x: (x - mg.mean(x, 0, True)) / (mg.std(x, 0, keepdims=True) + 0.1),
    "unit rows": lambda x: x / (mg.norm(x, -1, True) + 0.1),
    "running sum": lambda x: mg.cumulative_sum(x, -1),
    "flip": lambda x: mg.flip(x, -1),
    "roll": lambda x: mg.roll(x, 1, -1),
    "centred": lambda x: x - mg.mean(x, -1, True),
    "times its sum": lambda x: x * mg.tanh(mg.sum(x, 0, keepdims=True)),
    "over its largest": lambda x: x / (1.0 + mg.max(mg.abs(x), -1, True)),
    "sorted": lambda x: mg.sort(x, -1),
    "attention": lambda x: mg.matmul(mg.softmax(mg.matmul(x, mg.matrix_transpose(x)) / (1.0 + mg.norm(x)), -1), x),
}
REDUCING: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: mg.sum(x, -1),
    "mean": lambda x: mg.mean(x, -1),
    "max": lambda x: mg.max(x, -1),
    "min": lambda x: mg.min(x, 0),
    "logsumexp": lambda x: mg.logsumexp(x, -1),
    "norm": lambda x: mg.norm(x, -1),
    "var": lambda x: mg.var(x, -1),
    "sum of squares": lambda x: mg.einsum("...i,...i->...", x, x),
}
JOINING: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / (1.0 + mg.square(b)),
    "maximum": mg.maximum,
    "minimum": mg.minimum,
    "gate": lambda a, b: a * mg.sigmoid(b),
    "hypotenuse": lambda a, b: mg.sqrt(mg.square(a) + mg.square(b) + 1.0),
}


def _chosen(rng: np.random.Generator, of: dict[str, Any]) -> tuple[str, Any]:
    name = sorted(of)[rng.integers(len(of))]
    return name, of[name]


def _activated(program: Program, i: int, rng: np.random.Generator) -> int:
    """A random function that keeps the shape of value i, and is not driven far beyond its range."""
    size = float(np.max(np.abs(program.values[i]), initial=0.0))
    name, (largest, f) = _chosen(rng, SHAPE_KEEPING)
    if size > largest:
        factor = float(largest / size / 2)
        i = program.step(f"scaled by {factor:.2g}", lambda x: x * factor, i)
    return program.step(name, f, i)


def _rearranged(program: Program, i: int, rng: np.random.Generator) -> int:
    """A random part of value i, or its elements in another order; of at least one axis."""
    shape = program.values[i].shape
    n, m = shape[-1], shape[0]
    index = rng.integers(0, m, int(rng.integers(1, m + 3)))
    ways: list[tuple[str, Callable[[Any], Any]]] = [
        ("gather", lambda x: x[index]),
        ("slice", lambda x: x[..., : max(1, n - 1)]),
        ("every other", lambda x: x[..., ::2]),
        ("flat", lambda x: mg.reshape(x, (-1,))),
        ("transpose", lambda x: mg.permute_dims(x, tuple(reversed(range(x.ndim))))),
        ("twice", lambda x: mg.concat([x, 2.0 * x], -1)),
        ("expand", lambda x: mg.expand_dims(x, 0) * mg.ones((2, *(1,) * x.ndim), dtype=np.float64)),
    ]
    name, f = ways[rng.integers(len(ways))]
    return program.step(name, f, i)


def _ending(program: Program, last: list[int], rng: np.random.Generator) -> None:
    """A loss, or the values as they are."""
    i = last[-1]
    y = program.values[i]
    target = rng.normal(size=y.shape)
    labels = rng.integers(0, y.shape[-1], y.shape[:-1]) if y.ndim == 2 else None
    match rng.integers(6):
        case 0:
            i = program.step("mean squared error", lambda x: mg.mean(mg.square(x - target)), i)
        case 1:
            i = program.step("sum", mg.sum, i)
        case 2 if labels is not None:
            rows = np.arange(len(labels))
            i = program.step("cross-entropy", lambda x: -mg.mean(mg.log_softmax(x, -1)[rows, labels]), i)
        case 3:
            weights = rng.uniform(size=y.shape)
            i = program.step("binary cross-entropy", lambda x: mg.mean(mg.bce_with_logits(x, weights)), i)
        case 4:
            i = program.step("Huber", lambda x: mg.sum(mg.where(mg.abs(x) < 1, 0.5 * x * x, mg.abs(x) - 0.5)), i)
        case _ if len(last) > 1:
            program.results = tuple(dict.fromkeys(last[-2:]))
            return
        case _:
            pass
    program.results = (i,)


def network(rng: np.random.Generator) -> Program:
    """Dense layers of random widths: activations, residuals, gates, normalisation, attention; weights are inputs."""
    program = Program()
    batch, width, depth = (int(rng.integers(1, n)) for n in (7, 13, 6))
    size = 10.0 ** rng.uniform(-3, 3)
    x = program.input(size * rng.normal(size=(batch, width)))
    layers = []
    for _ in range(depth):
        new = int(rng.integers(1, 13))
        gain = 10.0 ** rng.uniform(-1.5, 1)
        layers.append(
            (program.input(gain * rng.normal(size=(width, new)) / np.sqrt(width)), program.input(rng.normal(size=new)))
        )
        width = new
    before = []
    for w, b in layers:
        y = program.step("matmul", mg.matmul, x, w)
        y = program.step("bias", lambda y, b: y + b, y, b)
        y = _activated(program, y, rng)
        if rng.random() < 0.35 and program.values[y].shape[-1] > 1:
            y = program.step(*_chosen(rng, WITH_AXIS), y)
        if rng.random() < 0.4 and program.values[x].shape == program.values[y].shape:
            y = program.step(*_chosen(rng, JOINING), y, x)
        before.append(y)
        x = y
    _ending(program, before, rng)
    return program


def expression(rng: np.random.Generator) -> Program:
    """A random graph of operations on one to three arrays that broadcast."""
    program = Program()
    shape = tuple(int(n) for n in rng.integers(1, 6, rng.integers(1, 4)))
    pool = []
    for _ in range(rng.integers(1, 4)):
        cut = int(rng.integers(0, len(shape)))
        own = tuple(1 if rng.random() < 0.2 else n for n in shape[cut:])
        pool.append(program.input(10.0 ** rng.uniform(-3, 3) * rng.normal(size=own)))
    for _ in range(rng.integers(3, 13)):
        i = pool[int(rng.integers(max(0, len(pool) - 3), len(pool)))]
        value = program.values[i]
        kind = rng.random()
        if kind < 0.45 or value.ndim == 0:
            new = _activated(program, i, rng)
        elif kind < 0.6:
            j = pool[int(rng.integers(len(pool)))]
            try:
                small = np.prod(np.broadcast_shapes(value.shape, program.values[j].shape)) <= 400
            except ValueError:
                continue
            if not small or max(np.max(np.abs(value)), np.max(np.abs(program.values[j]))) > 1e6:
                continue
            new = program.step(*_chosen(rng, JOINING), i, j)
        elif kind < 0.75 and value.ndim > 1 and np.max(np.abs(value)) < 1e5:
            new = program.step(*_chosen(rng, WITH_AXIS), i)
        elif kind < 0.85 and value.size < 200:
            new = _rearranged(program, i, rng)
        elif np.max(np.abs(value)) < 1e4:
            new = program.step(*_chosen(rng, REDUCING), i)
        else:
            continue
        pool.append(new)
    _ending(program, [i for i in pool if i >= len(program.inputs)] or pool, rng)
    return program


def drawn(seed: int, index: int) -> Program:
    """Program number `index`."""
    rng = np.random.default_rng([seed, index])
    with np.errstate(all="ignore"):
        return (network if index % 2 else expression)(rng)


# A rule that is slightly wrong


@dataclass
class Plant:
    """One call whose rule for one input is off by PLANTED.

    Attributes:
        f: the function with that rule.
        op: the operation with it; call: the call as it is without it.
        name: of the input whose rule is wrong.
    """

    f: Callable[..., Any]
    op: mg.Op
    call: Call
    name: str


def spoilt(op: mg.Op, name: str) -> mg.Op:
    """A copy of an operation whose rule for one input is off by a relative PLANTED; the registry doesn't know it."""
    other = copy(op)
    rule = op.vjp[name]
    # a rule is linear in g, whatever it returns; of several outputs g is a tuple, None for those that nobody used
    more = lambda g: g if g is None else tuple(map(more, g)) if isinstance(g, tuple) else g * (1 + PLANTED)
    other.vjp = {**op.vjp, name: lambda g, *saved: rule(more(g), *saved)}
    other.fused, other._plans, other.name = {}, {}, f"planted {op.name}"
    return other


def plant(program: Program, rng: np.random.Generator) -> Plant:
    """Change one random instruction of a program, among those on the way from an input to a result."""
    xs = [mg.Tensor(x) for x in program.inputs]
    with mg.record() as tape:
        found = program(*xs)
    results = [y.array for y in outputs(found)]
    reached = {id(x.array) for x in xs}
    for entry in tape.entries:
        if any(id(a) in reached for a in entry.inputs):
            reached.add(id(entry.output))
    needed = {id(y) for y in results}
    for entry in reversed(tape.entries):
        if id(entry.output) in needed:
            needed.update(map(id, entry.inputs))
    places = []
    for k, entry in enumerate(tape.entries):
        names = Call(entry.op, entry.inputs).names
        wanted = {n for n, a in zip(names, entry.inputs, strict=True) if n in entry.op.vjp and id(a) in reached}
        wanted = set() if entry.op.name == "pick" else wanted
        if id(entry.output) in needed and all(y.dtype.kind == "f" for y in outputs(entry.output)):
            places += [(k, name) for name in sorted(wanted)]
    k, name = places[rng.integers(len(places))]
    entry = tape.entries[k]
    op = spoilt(entry.op, name)

    def f(*xs_: Any) -> Any:
        now: dict[int, Any] = {id(x.array): new for x, new in zip(xs, xs_, strict=True)}
        for j, e in enumerate(tape.entries):
            given = [now.get(id(a), a) for a in e.inputs]
            if e.op.name == "pick":  # a call has returned its outputs already apart
                now[id(e.output)] = given[0][e.params["i"]]
            else:
                now[id(e.output)] = (op if j == k else e.op)(*given, **e.params)
        return tuple(now[id(y)] for y in results)

    return Plant(f, op, Call(entry.op, entry.inputs, entry.params), name)


def outputs(y: Any) -> tuple[Any, ...]:
    """What a call returned as a tuple, of one too."""
    return y if isinstance(y, tuple) else (y,)


def weighed(u: Array, y: Array) -> float:
    """Σ u·y."""
    return float(np.sum(u * y))


def exceeds(effect: float, terms: float, f: Callable[[float], float]) -> bool:
    """Whether an effect on the derivative of f at 0 exceeds its error bar, with the rounding of terms of that size."""
    error = float(Line(lambda t: np.array([f(t)]), EPS).slopes().error[0])
    return effect > 4 * error + 32 * EPS * terms


def shifted(xs: list[Array], vs: list[Array], t: float) -> list[Array]:
    """Arrays, a step along others."""
    return [x + t * v for x, v in zip(xs, vs, strict=True)]


def added(xs: list[Array], ys: list[Array]) -> float:
    """Σ |x·y| over lists of arrays."""
    return sum(float(np.sum(np.abs(x * y))) for x, y in zip(xs, ys, strict=True))


def resolvable(call: Call, name: str, rng: np.random.Generator) -> bool:
    """Whether an error of PLANTED in the rule of one input exceeds the error bar of a derivative of a call.

    The direction moves that input alone, in units of |x| and with the signs of its cotangent: all that the error does
    adds up.
    """
    spots = [i for i, n in enumerate(call.names) if n == name]
    arrays = [np.asarray(a) for a in call.arrays]
    xs = [arrays[i] for i in spots]

    def f(moved: list[Any]) -> Any:
        given = dict(zip(spots, moved, strict=True))
        return call.op(*(given.get(i, a) for i, a in enumerate(arrays)), **call.params)

    us = [rng.choice([-1.0, 1.0], y.shape) for y in outputs(f(xs))]
    ys, pull = mg.vjp(f, list(map(mg.Tensor, xs)))
    bars = [bar.data for bar in pull(tuple(map(mg.Tensor, us)) if isinstance(ys, tuple) else mg.Tensor(us[0]))[0]]
    vs = [np.where(bar < 0, -1.0, 1.0) * np.abs(x) for x, bar in zip(xs, bars, strict=True)]
    size = added(bars, vs)
    return exceeds(PLANTED * size, size, lambda t: sum(map(weighed, us, outputs(f(shifted(xs, vs, t))))))


def felt(program: Program, wrong: Plant, rng: np.random.Generator) -> bool:
    """The same for the gradient of the whole: many an error is multiplied by 0 on its way, or drowns in rounding."""
    xs = [np.asarray(x) for x in program.inputs]
    us = [rng.choice([-1.0, 1.0], program.values[i].shape) for i in program.results]

    def total(f: Callable[..., Any], moved: list[Any]) -> Any:
        ys = f(*moved)
        return sum(mg.sum(u * y) for u, y in zip(us, outputs(ys), strict=True))

    right, bad = (
        [bar.data for bar in mg.grad(partial(total, f))(list(map(mg.Tensor, xs)))] for f in (program, wrong.f)
    )
    changes = [b - a for a, b in zip(right, bad, strict=True)]
    vs = [np.where(change < 0, -1.0, 1.0) * np.abs(x) for x, change in zip(xs, changes, strict=True)]
    at = lambda t: float(total(program, list(map(mg.Tensor, shifted(xs, vs, t)))).item())
    return exceeds(added(changes, vs), added(right, vs), at)


# One of them after another


@dataclass(frozen=True)
class Result:
    """What was found out about one program.

    Attributes:
        verdict: of `check` on the right one; why: its first finding, if it is no pass.
        planted: of `check` on the one with a planted error ('' if none was planted).
        blamed: 'right', 'none', or 'other' if any operation but the wrong one is named.
        seen: whether the planted error can be seen in its operation; felt: in the whole.
        op: the operation with the planted error, and the input whose rule is wrong.
        seconds: of `check` on the right one.
    """

    index: int
    verdict: str
    why: str
    seconds: float
    planted: str = ""
    blamed: str = ""
    seen: bool = False
    felt: bool = False
    op: str = ""


def examine(index: int, seed: int, planted: bool) -> Result:
    """Check program number `index`, and the same with a planted error."""
    program = drawn(seed, index)
    start = perf_counter()
    report = check(program, *program.inputs)
    seconds = perf_counter() - start
    why = "; ".join(f"{f.what} [{f.entry}] {f.numbers}" for f in report.findings[:1])
    if not planted:
        return Result(index, report.verdict, why, seconds)
    rng = np.random.default_rng([seed, index, 1])
    wrong = plant(program, rng)
    found = blame(wrong.f, *program.inputs)
    ops = [suspect.op for suspect in found.guilty]
    blamed = "right" if ops == [wrong.op] else "none" if not ops else "other"
    verdict = check(wrong.f, *program.inputs).verdict
    return Result(
        index,
        report.verdict,
        why,
        seconds,
        planted=verdict,
        blamed=blamed,
        seen=resolvable(wrong.call, wrong.name, rng),
        felt=felt(program, wrong, rng),
        op=f"{wrong.op.name}, {wrong.name}",
    )


def tell(results: list[Result]) -> None:
    """Print the counts, and each result that is not as it should be."""
    counts = Counter(r.verdict for r in results)
    print(f"{len(results)} right ones: {counts['pass']} pass, {counts['unsure']} unsure, {counts['fail']} fail")
    print(f"median seconds of a check: {np.median([r.seconds for r in results]):.3f}")
    for r in results:
        if r.verdict != "pass":
            print(f"  number {r.index}: {r.verdict}: {r.why}")
    planted = [r for r in results if r.planted]
    for seen, words in ((True, "above the error bar of its operation"), (False, "below it")):
        group = [r for r in planted if r.seen == seen]
        blames = Counter(r.blamed for r in group)
        print(
            f"{len(group)} planted errors of {PLANTED:g}, {words}: blame names just the operation {blames['right']} "
            f"times, none {blames['none']}, another {blames['other']}"
        )
        for r in group:
            if r.blamed != "right":
                print(f"  number {r.index}: {r.op}: {r.blamed}")
    for reaches, words in (
        (True, "above the error bar of the whole gradient"),
        (False, "below it, or not reaching it"),
    ):
        group = [r for r in planted if r.felt == reaches]
        verdicts = Counter(r.planted for r in group)
        print(
            f"{len(group)} of them {words}: check says fail {verdicts['fail']} times, unsure {verdicts['unsure']}, "
            f"pass {verdicts['pass']}"
        )
        for r in group:
            if reaches and r.planted != "fail":
                print(f"  number {r.index}: {r.op}: {r.planted}")


def main() -> None:
    """Parse the command line, and examine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_networks", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=5000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all of them (default: %(default)s)")
    parser.add_argument(
        "--planted", type=int, default=5, help="plant an error in each n-th; 0: in none (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--show", type=int, help="show this one instead")
    arguments = parser.parse_args()
    if arguments.show is not None:
        program = drawn(arguments.seed, arguments.show)
        print(program)
        print(check(program, *program.inputs))
        return
    every = arguments.planted
    with ProcessPoolExecutor(arguments.jobs, get_context("spawn")) as pool:
        job = partial(_examined, seed=arguments.seed, every=every)
        tell(list(pool.map(job, range(arguments.count), chunksize=10)))


def _examined(index: int, seed: int, every: int) -> Result:
    try:
        return examine(index, seed, planted=every > 0 and index // 2 % every == 0)  # networks and expressions alike
    except Exception as error:
        error.add_note(f"in program number {index} of seed {seed}")
        raise


if __name__ == "__main__":
    main()
