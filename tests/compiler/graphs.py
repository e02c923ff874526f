"""Random programs as graphs, and how far a program that computes them may be from `evaluate`.

`programs()` draws a `Case`: a graph, what is returned, what states become. `check(case)` compiles it, runs it with one
and with several threads, and compares. What rounding may change is not guessed but followed through the graph, value by
value (`errors`): so what is exact must have the same bits, and what hangs on a digit that nobody knows (floor of a sum
that is 3 to rounding) is not compared at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from minigrad.compiler.graph import ELEMENTWISE, Call, Graph, evaluate, strided
from minigrad.compiler.runtime import Program, assembled
from minigrad.core.op import registry
from minigrad.kernels.threads import num_threads, set_num_threads

F4, F8, I8 = (np.dtype(t) for t in (np.float32, np.float64, np.int64))
MOST = 1 << 17  # elements of a value
UNITS = 12  # in the last place: what a function, or several roundings, may be off by

# Operations of floats that have the same bits everywhere: IEEE 754, and choices
EXACT = {
    "add", "subtract", "multiply", "negative", "absolute", "maximum", "minimum", "sqrt", "floor", "ceil", "rint",
    "sign", "where", "cast", "copy",
}  # fmt: skip
MOVING = {"view", "copy", "negative", "absolute", "maximum", "minimum", "where"}  # compute no new numbers
UNARY = (
    "negative", "absolute", "sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "sinh", "cosh", "tanh", "erf", "erfc",
    "floor", "ceil", "rint", "sign",
)  # fmt: skip
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "add", "multiply", "tanh_vjp")
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
NUMBERS = (0.0, 1.0, -1.0, 0.3, -2.5, 1e-3, 2.0, 0.5, -0.0, math.inf, 1e30)


# How far off a value may be


def errors(
    graph: Graph, wanted: Sequence[int], leaves: Sequence[Sequence[np.ndarray]]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What nodes are by `evaluate`, and by how much another order of sums, and other functions, may change them.

    An infinite error: anything may be there.
    """
    live = graph.live(wanted)
    values = dict(zip(live, evaluate(graph, live, *leaves), strict=True))
    off: dict[int, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for i in live:
            node = graph.nodes[i]
            xs, es = [values[j] for j in node.inputs], [off[j] for j in node.inputs]
            y = np.asarray(values[i])
            error = _error(graph, i, y, xs, es)
            if y.dtype.kind == "f" and es and node.op not in MOVING:  # compiled steps let denormal results be 0
                tiny = float(np.finfo(y.dtype).tiny)
                error = np.where((y != 0) & (np.abs(y) - error < tiny), error + tiny, error)
            off[i] = np.where(np.isnan(error), np.inf, error)
    return [values[i] for i in wanted], [off[i] for i in wanted]


def _error(graph: Graph, i: int, y: np.ndarray, xs: list[Any], es: list[Any]) -> np.ndarray:
    node = graph.nodes[i]
    if not es:
        return np.zeros(y.shape)
    match node.op:
        case "view":
            return strided(np.ascontiguousarray(es[0]), node.shape, *node.params)
        case "copy":
            return es[0]
        case "call" | "output":
            exact = not any(e.any() for e in es)
            return np.zeros(y.shape) if exact else np.full(y.shape, np.inf)
        case "reduce":
            return _error_of_reduction(*node.params, y, *xs, *es)
        case "matmul":
            return _error_of_product(y, *xs, *es)
        case "where":
            c, a, b = xs
            chosen = np.where(c, es[1], es[2])
            return np.where(es[0] > 0, np.abs(np.asarray(a, F8) - np.asarray(b, F8)) + es[1] + es[2], chosen)
        case "sin" | "cos":
            return es[0] + _rounding(y)
    return _error_by_corners(node.op, node.dtype, y, xs, es)


def _rounding(y: np.ndarray) -> np.ndarray:
    """Some units in the last place."""
    if y.dtype.kind != "f":
        return np.zeros(y.shape)
    info = np.finfo(y.dtype)
    return np.where(np.isfinite(y), UNITS * (info.eps * np.abs(y, dtype=F8) + float(info.smallest_subnormal)), 0.0)


def _error_by_corners(op: str, dtype: np.dtype[Any], y: np.ndarray, xs: list[Any], es: list[Any]) -> np.ndarray:
    """Of an operation that grows or falls with each input: from what it is at the largest and the smallest of them."""
    wide = [x.astype(F8) if x.dtype.kind == "f" else x for x in xs]
    compute = ELEMENTWISE["cast" if op == "cast" else op]
    at = lambda *values: np.asarray(compute(*values, dtype) if op == "cast" else compute(*values))
    centre = at(*wide).astype(F8)
    error = np.zeros(np.broadcast_shapes(y.shape, centre.shape))
    exactly = ~np.any(np.broadcast_arrays(error > 0, *(e > 0 for e in es)), axis=0)
    for signs in product((-1, 1), repeat=len(xs)):
        moved = [x + s * e if x.dtype.kind == "f" else x for x, s, e in zip(wide, signs, es, strict=True)]
        corner = at(*moved).astype(F8)
        same = (corner == centre) | (np.isnan(corner) & np.isnan(centre))
        error = np.maximum(error, np.where(same, 0.0, np.abs(corner - centre)))
    unknown = np.any(np.broadcast_arrays(error > np.inf, *(np.isinf(e) for e in es)), axis=0)
    if any(x.dtype.kind != "f" for x in xs):  # a truth value that is not known
        unknown |= np.any(np.broadcast_arrays(error > np.inf, *(e > 0 for e in es if e.ndim)), axis=0)
    if op in COMPARISONS:  # equal at all corners is not equal in between
        a, b = (np.asarray(x, F8) for x in wide)
        unknown |= ~exactly & ~(np.abs(a - b) > es[0] + es[1]) & ~(np.isnan(a) | np.isnan(b)) & (a != b)
        unknown |= ~exactly & (a == b)
    if op == "divide" or (op == "power" and not exactly.all()):
        unknown |= ~exactly & (np.abs(wide[op == "divide"]) <= es[op == "divide"])
    if op == "power":  # NumPy takes the square root for it, which is NaN at -∞, where pow is ∞
        unknown |= ~(wide[0] > 0) & (np.abs(wide[1]) == 0.5)
    if op in ("maximum", "minimum"):  # of zeros either one
        error = np.where((y == 0) & (np.signbit(xs[0]) != np.signbit(xs[1])), np.maximum(error, 1e-300), error)
    if y.dtype.kind == "f":
        if op not in EXACT:
            error = error + _rounding(y)
            exactly = np.zeros_like(exactly)
        info = np.finfo(y.dtype)
        error = np.where(exactly, error, error + _rounding(y))
        size = np.abs(centre)
        edge = ~exactly & np.isfinite(centre) & (size + error > float(info.max) / 2)
        unknown |= edge & ~(np.isinf(y) & (size - error > 2 * float(info.max)))
        if op == "divide":  # by way of 1/b, which may overflow, or lose digits
            b = np.abs(wide[1])
            unknown |= np.isfinite(b) & (b > 0) & ((b > float(info.max) / 8) | (b < float(info.tiny) * 8))
    return np.where(unknown, np.inf, error)


def _sums(y: np.ndarray, n: int, size: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Of sums of n terms, of the sum of whose sizes, and errors, we know."""
    info = np.finfo(y.dtype)
    error = moved + info.eps * (4 + math.sqrt(n)) * (size + moved) + n * float(info.smallest_subnormal)
    error = np.where(np.isfinite(y), error, np.where(moved > 0, np.inf, 0.0))
    return np.where(size + moved > float(info.max) / 2, np.inf, error)


def _error_of_reduction(op: str, axes: tuple[int, ...], y: np.ndarray, x: np.ndarray, e: np.ndarray) -> np.ndarray:
    size = np.where(np.isfinite(x), np.abs(x, dtype=F8), 0.0)
    n = x.size // max(1, y.size)
    if op == "add":
        return _sums(y, n, size.sum(axes, keepdims=True), e.sum(axes, keepdims=True))
    if op == "multiply":
        bits = np.abs(np.log2(np.where(np.isfinite(x), np.abs(x, dtype=F8) + e, 1.0))).sum(axes, keepdims=True)
        whole = (size + e).prod(axes, keepdims=True)
        error = whole - size.prod(axes, keepdims=True) + whole * n * np.finfo(y.dtype).eps
        error = np.where(np.isfinite(y), error, np.where(e.any(axes, keepdims=True), np.inf, 0.0))
        return np.where(bits > float(np.finfo(y.dtype).maxexp) - 4, np.inf, error)
    zeros = np.where((y == 0) & (x == 0).any(axes, keepdims=True), 1e-300, 0.0)
    known = np.where(np.isfinite(y), 0.0, np.where(e.any(axes, keepdims=True), np.inf, 0.0))
    return np.maximum(e.max(axes, keepdims=True), zeros) + known


def _error_of_product(y: np.ndarray, a: np.ndarray, b: np.ndarray, ea: np.ndarray, eb: np.ndarray) -> np.ndarray:
    sizes = [np.where(np.isfinite(x), np.abs(x, dtype=F8), 0.0) for x in (a, b)]
    moved = sizes[0] @ eb + ea @ sizes[1] + ea @ eb if ea.any() or eb.any() else np.zeros(y.shape)
    zeros = [((np.abs(x) <= e) & (e > 0)).astype(F8) for x, e in ((a, ea), (b, eb))]  # what may be 0: times ∞ it is NaN
    unknown = zeros[0] @ np.isinf(b).astype(F8) + np.isinf(a).astype(F8) @ zeros[1] > 0
    return _sums(y, a.shape[-1], sizes[0] @ sizes[1], np.where(np.isnan(moved) | unknown, np.inf, moved))


# Drawing


@dataclass
class Case:
    """A program: the nodes that it returns, the new values of states, and where values of leaves come from."""

    graph: Graph = field(default_factory=Graph)
    outputs: list[int] = field(default_factory=list)
    updates: dict[int, int] = field(default_factory=dict)
    leaves: dict[str, list[int]] = field(default_factory=lambda: {"input": [], "state": [], "array": []})
    values: str = "normal"
    seed: int = 0

    def leaf(self, kind: str, shape: tuple[int, ...], dtype: Any = F4) -> int:
        """A new input, state or array."""
        self.leaves[kind].append(self.graph.leaf(kind, len(self.leaves[kind]), shape, dtype))
        return self.leaves[kind][-1]

    def shape(self, x: int) -> tuple[int, ...]:
        return self.graph.nodes[x].shape

    def dtype(self, x: int) -> np.dtype[Any]:
        return self.graph.nodes[x].dtype

    def do(self, op: str, *inputs: int | float, dtype: Any = None) -> int:
        """An elementwise operation; inputs broadcast, floats are literals."""
        nodes = [i for i in inputs if type(i) is int]
        like = dtype or self.dtype(nodes[-1])
        shape = np.broadcast_shapes(*map(self.shape, nodes))
        of = self.dtype(nodes[-1])
        given = [
            self.graph.broadcast(i, shape) if type(i) is int else self.graph.literal(i, of)
            for i in inputs
        ]  # fmt: skip
        return self.graph.elementwise(op, given, like, shape)

    def compared(self, op: str, a: int | float, b: int | float) -> int:
        return self.do(op, a, b, dtype=np.dtype(bool))

    def reduced(self, op: str, x: int, *axes: int) -> int:
        """A reduction, its axes kept."""
        return self.graph.reduce(op, x, [a % len(self.shape(x)) for a in axes])

    def array(self, rng: np.random.Generator, x: int) -> np.ndarray:
        """Values for a leaf."""
        node = self.graph.nodes[x]
        if node.dtype.kind in "bui":
            return rng.integers(0, 2 if node.dtype == bool else 9, node.shape).astype(node.dtype)
        y = rng.standard_normal(node.shape)
        if self.values == "ties":
            y = np.round(y)
        y = np.asarray(y, node.dtype)
        if self.values == "special" and y.size:
            places = rng.integers(0, y.size, 1 + y.size // 7)
            y.reshape(-1)[places] = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 1e10, -1e5], places.size)
        return y

    def drawn(self, seed: int) -> list[list[np.ndarray]]:
        """Values for inputs, states, arrays. Arrays are those of the case: constants as far as a program knows."""
        arrays = np.random.default_rng(self.seed)
        others = np.random.default_rng([self.seed, seed])
        return [[self.array(arrays if kind == "array" else others, x) for x in of] for kind, of in self.leaves.items()]


@contextmanager
def threads(n: int) -> Iterator[None]:
    """So many threads within the block."""
    before = num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def compiled(case: Case) -> Program:
    return assembled(case.graph, case.outputs, case.updates, case.drawn(0)[2], len(case.leaves["input"]))


def run(case: Case, program: Program, inputs: list[np.ndarray], states: list[np.ndarray]) -> list[np.ndarray]:
    """Call it, on states of its own; the results and the new states. Nothing else may change."""
    before = [x.tobytes() for x in inputs]
    homes = [s.copy() for s in states]
    results = program(inputs, homes)
    assert [x.tobytes() for x in inputs] == before, "an input was changed"
    for k, (home, state) in enumerate(zip(homes, states, strict=True)):
        assert k in case.updates or home.tobytes() == state.tobytes(), f"state {k} was changed"
    for k, result in enumerate(results):
        assert not result.flags.writeable
        assert not any(np.may_share_memory(result, x) for x in (*inputs, *homes, *results[:k]))
    return [*results, *(homes[k] for k in case.updates)]


def same_bits(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    """Not by `==` of bytes in an assertion, of which pytest would print the difference."""
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


def agree(case: Case, got: Sequence[np.ndarray], leaves: Sequence[Sequence[np.ndarray]]) -> float:
    """AssertionError unless all is as `evaluate` says, to rounding; the share of elements that could be compared."""
    wanted = [*case.outputs, *case.updates.values()]
    known = [1.0]
    for i, y, want, error in zip(wanted, got, *errors(case.graph, wanted, leaves), strict=True):
        assert (y.shape, y.dtype) == (want.shape, want.dtype), f"%{i}"
        with np.errstate(all="ignore"):
            apart = np.abs(y.astype(F8) - want.astype(F8))
        same = (y == want) | (np.isnan(y) & np.isnan(want)) if y.dtype.kind == "f" else y == want
        wrong = ~(same | (apart <= error) | np.isinf(error))
        if y.size:
            known.append(1 - float(np.isinf(error).mean()))
        assert not wrong.any(), (
            f"%{i}: {y[wrong][:5]} where {want[wrong][:5]} was expected, errors {error[wrong][:5]}, "
            f"at {np.argwhere(wrong)[:5].tolist()}, in\n{case.graph.dump(wanted)}\n{case.outputs} {case.updates}"
        )
    return min(known)


def check(case: Case) -> Program:
    """Compile a case and compare: with other values, on other arrays, with one thread and with several."""
    program = compiled(case)
    assert program.updated == sorted(case.updates)
    inputs, states, arrays = case.drawn(1)
    got = run(case, program, inputs, states)
    agree(case, got, (inputs, states, arrays))
    for n in (2, 3):
        with threads(n):
            again = run(case, program, inputs, states)
        assert same_bits(again, got), f"{n} threads have other bits"
    inputs, states, arrays = case.drawn(2)
    agree(case, run(case, program, inputs, states), (inputs, states, arrays))
    return program


# One thing more in a graph: each takes the case, the values that there are, and `draw`, and gives new ones, if it can


def _one(case: Case, pool: list[int], draw: Any, suits: Callable[[int], bool] = lambda x: True) -> int | None:
    """One of the values that suit, rather a late one."""
    suitable = [x for x in pool if suits(x)]
    if not suitable:
        return None
    return draw(st.sampled_from(suitable[: -4 if draw(st.booleans()) else None : -1]))


def _floats(case: Case) -> Callable[[int], bool]:
    return lambda x: case.dtype(x).kind == "f"


def _partner(case: Case, pool: list[int], draw: Any, x: int) -> int | None:
    """A value of the same dtype that broadcasts with x."""

    def suits(y: int) -> bool:
        if case.dtype(y) != case.dtype(x):
            return False
        try:
            return math.prod(np.broadcast_shapes(case.shape(x), case.shape(y))) <= MOST
        except ValueError:
            return False

    return _one(case, pool, draw, suits)


def _unary(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, _floats(case))
    return [] if x is None else [case.do(draw(st.sampled_from(UNARY)), x)]


def _binary(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, _floats(case))
    y = None if x is None else _partner(case, pool, draw, x)
    return [] if y is None else [case.do(draw(st.sampled_from(BINARY)), x, y)]


def _with_number(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, _floats(case))
    if x is None:
        return []
    operands = [x, draw(st.sampled_from(NUMBERS))]
    return [case.do(draw(st.sampled_from((*BINARY[:6], "power"))), *operands[:: draw(st.sampled_from((1, -1)))])]


def _comparison(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw)
    y = None if x is None or case.dtype(x).kind == "b" else _partner(case, pool, draw, x)
    if y is None:
        return []
    if case.dtype(x).kind == "f" and draw(st.integers(0, 3)) == 0:
        return [case.do(draw(st.sampled_from(("isfinite", "isnan"))), y, dtype=np.dtype(bool))]
    return [case.compared(draw(st.sampled_from(COMPARISONS)), x, y if draw(st.booleans()) else 1.0)]


def _logic(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, lambda x: case.dtype(x).kind == "b")
    y = None if x is None else _partner(case, pool, draw, x)
    if y is None:
        return []
    op = draw(st.sampled_from(("logical_and", "logical_or", "logical_not")))
    return [case.do(op, x, y) if op != "logical_not" else case.do(op, x)]


def _where(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, lambda x: case.dtype(x).kind != "b")
    y = None if x is None else _partner(case, pool, draw, x)
    if x is None or y is None:
        return []
    shape = np.broadcast_shapes(case.shape(x), case.shape(y))
    fits = lambda c: case.dtype(c).kind == "b" and _broadcasts(case.shape(c), shape)
    if (c := _one(case, pool, draw, fits)) is None:
        c = case.graph.broadcast(case.compared("greater", x, 0.0), shape)
    z = y if draw(st.booleans()) else draw(st.sampled_from(NUMBERS[:6])) if case.dtype(x).kind == "f" else 1.0
    return [case.do("where", c, *([z, x] if draw(st.booleans()) else [x, z]), dtype=case.dtype(x))]


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, to) == to
    except ValueError:
        return False


def _cast(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw)
    if x is None:
        return []
    to = draw(st.sampled_from((F4, F8, F4, F8, np.dtype(bool), I8)))
    if case.dtype(x).kind == "f" and to == I8:
        x = case.do("where", case.compared("less", case.do("absolute", x), 1e6), x, 3.0)  # others are undefined
    return [case.graph.cast(x, to)]


def _reduction(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, lambda x: _floats(case)(x) and len(case.shape(x)) > 0)
    if x is None:
        return []
    axes = draw(st.sets(st.integers(0, len(case.shape(x)) - 1), min_size=1))
    op = draw(st.sampled_from(("add", "add", "add", "maximum", "minimum", "multiply")))
    if 0 in case.shape(x) and op in ("maximum", "minimum"):
        return []
    y = case.graph.reduce(op, x, axes)
    if draw(st.booleans()):  # and everywhere again
        return [y, case.do(draw(st.sampled_from(BINARY)), x, y)]
    return [y]


def _some_view(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw)
    if x is None:
        return []
    shape = case.shape(x)
    axis = draw(st.integers(0, max(0, len(shape) - 1)))
    at = (slice(None),) * axis
    n = draw(st.sampled_from((1, 2, 3)))
    ways: list[Callable[[np.ndarray], Any]] = [
        lambda a: a.reshape(-1),
        lambda a: a[None],
        lambda a: np.broadcast_to(a, (n, *shape)),
        lambda a: np.flip(a),
        lambda a: a.T,
    ]
    if shape:
        order = draw(st.permutations(range(len(shape))))
        ways += [
            lambda a: a.transpose(order),
            lambda a: a.transpose(order),
            lambda a: a[(*at, slice(n, None))],
            lambda a: a[(*at, slice(None, None, 2))],
            lambda a: a[(*at, slice(None, None, -1))],
            lambda a: np.expand_dims(a, axis),
        ]
        if shape[axis]:
            ways += [lambda a: a[(*at, -1, ...)], lambda a: a[(*at, slice(0, 1))]]
        if len(shape) > 1:
            ways.append(lambda a: a.reshape(-1, *shape[2:]) if a.size else a)
    y = case.graph.viewed(x, draw(st.sampled_from(ways)))
    return [y] if len(case.shape(y)) <= 4 and math.prod(case.shape(y)) <= MOST else []


def _matrix(case: Case, pool: list[int], draw: Any, suits: Callable[[int], bool] = lambda x: True) -> int | None:
    return _one(case, pool, draw, lambda x: _floats(case)(x) and 1 <= len(case.shape(x)) <= 4 and suits(x))


def _product(case: Case, pool: list[int], draw: Any) -> list[int]:
    """A product of what fits, transposed if need be, in all matrices of a stack."""
    a = _matrix(case, pool, draw)
    if a is None:
        return []
    g = case.graph
    if len(case.shape(a)) == 1:
        a = g.viewed(a, lambda v: v[None])
    if draw(st.booleans()):
        a = g.viewed(a, lambda m: m.swapaxes(-1, -2))
    *leading, m, k = case.shape(a)
    b = _matrix(case, pool, draw, lambda b: case.dtype(b) == case.dtype(a) and k in case.shape(b)[-2:])
    if b is None:
        return []
    if len(case.shape(b)) == 1:
        b = g.viewed(b, lambda v: v[:, None])
    if case.shape(b)[-2] != k or (case.shape(b)[-1] == k and draw(st.booleans())):
        b = g.viewed(b, lambda m: m.swapaxes(-1, -2))
    try:
        all_of = np.broadcast_shapes(tuple(leading), case.shape(b)[:-2])
    except ValueError:
        return []
    n = case.shape(b)[-1]
    if math.prod(all_of) * max(m, 1) * max(n, 1) > MOST or math.prod(all_of) * m * n * k > 2e7:
        return []
    y = g.matmul(g.broadcast(a, (*all_of, m, k)), g.broadcast(b, (*all_of, k, n)))
    for _ in range(draw(st.integers(0, 3))):
        y = draw(st.sampled_from(AFTER_PRODUCT))(case, pool, draw, y)
    return [y]


def _biased(case: Case, pool: list[int], draw: Any, y: int) -> int:
    bias = _one(case, pool, draw, lambda b: case.dtype(b) == case.dtype(y) and case.shape(b) == case.shape(y)[-1:])
    return y if bias is None else case.do("add", y, bias)


def _mixed(case: Case, pool: list[int], draw: Any, y: int) -> int:
    other = _partner(case, pool, draw, y)
    fits = other is not None and _broadcasts(case.shape(other), case.shape(y))
    return case.do(draw(st.sampled_from(BINARY)), y, other) if fits else y


def _softmax(case: Case, pool: list[int], draw: Any, x: int) -> int:
    if 0 in case.shape(x) or not case.shape(x):
        return x
    e = case.do("exp", case.do("subtract", x, case.reduced("maximum", x, -1)))
    return case.do("divide", e, case.reduced("add", e, -1))


def _relu(case: Case, pool: list[int], draw: Any, x: int) -> int:
    return case.do("maximum", x, 0.0)


def _summed(case: Case, pool: list[int], draw: Any, x: int) -> int:
    return case.reduced("add", x, 0) if case.shape(x) and 0 not in case.shape(x) else x


AFTER_PRODUCT = (_biased, _biased, _mixed, _softmax, _relu, _summed)


def _layer_norm(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, lambda x: _floats(case)(x) and len(case.shape(x)) > 1 and 0 not in case.shape(x))
    if x is None:
        return []
    n = case.shape(x)[-1]
    apart = case.do("subtract", x, case.do("multiply", case.reduced("add", x, -1), 1 / n))
    variance = case.do("multiply", case.reduced("add", case.do("multiply", apart, apart), -1), 1 / n)
    return [variance, case.do("divide", apart, case.do("sqrt", case.do("add", variance, 1e-3)))]


def _cross_entropy(case: Case, pool: list[int], draw: Any) -> list[int]:
    """softmax(x) - one-hot labels."""
    x = _one(case, pool, draw, lambda x: _floats(case)(x) and len(case.shape(x)) == 2 and 0 not in case.shape(x))
    if x is None:
        return []
    rows, columns = case.shape(x)
    labels = _one(case, pool, draw, lambda i: case.dtype(i).kind in "iu" and case.shape(i) == (rows,))
    if labels is None:
        labels = case.leaf("input", (rows,), draw(st.sampled_from((np.int64, np.int32, np.uint8))))
        pool.append(labels)
    wide = case.graph.cast(case.graph.viewed(labels, lambda a: a[:, None]), I8)
    iota = case.graph.constant(np.arange(columns))
    hot = case.compared("equal", *((wide, iota) if draw(st.booleans()) else (iota, wide)))
    if draw(st.booleans()):
        return [
            case.do("where", hot, x, 0.0),
            case.do("subtract", _softmax(case, pool, draw, x), case.graph.cast(hot, case.dtype(x))),
        ]
    return [case.do("subtract", _softmax(case, pool, draw, x), case.graph.cast(hot, case.dtype(x)))]


def _gradient_of_relu(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, _floats(case))
    g = None if x is None else _partner(case, pool, draw, x)
    if x is None or g is None or 0 in case.shape(x):
        return []
    above = case.compared("greater", x, 0.0)
    leaky = case.do("where", above, x, case.do("multiply", x, draw(st.sampled_from((0.0, 0.2, -0.2)))))
    shape = np.broadcast_shapes(case.shape(x), case.shape(g))
    first = leaky if draw(st.booleans()) else _relu(case, pool, draw, x)
    return [first, case.do("where", case.graph.broadcast(above, shape), g, 0.0)]


def _shared_division(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, _floats(case))
    y = None if x is None else _partner(case, pool, draw, x)
    return [] if y is None else [case.do("divide", x, y), case.do("divide", case.do("exp", x), y)]


def _step(case: Case, pool: list[int], draw: Any) -> list[int]:
    """A state less a part of something of its shape, as optimisers have it."""
    s = _one(case, case.leaves["state"], draw, _floats(case))
    if s is None:
        return []
    d = _one(case, pool, draw, lambda d: (case.shape(d), case.dtype(d)) == (case.shape(s), case.dtype(s)))
    return [] if d is None else [case.do("subtract", s, case.do("multiply", d, 0.1))]


def _call(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, lambda x: _floats(case)(x) and len(case.shape(x)) > 0)
    if x is None:
        return []
    if draw(st.booleans()):
        call = Call(registry["cumulative_sum"], {}, {"axis": -1})
        return case.graph.call(call, [x], [(case.shape(x), case.dtype(x))])
    return case.graph.call(Call(Sorted(), {}, {}), [x], [(case.shape(x), case.dtype(x)), (case.shape(x), I8)])


class Sorted:
    """Stands for an Op of two outputs: sorted along the last axis, and from where."""

    name = "sorted"

    def run(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.sort(x, -1), np.argsort(x, -1, kind="stable")


def _constant(case: Case, pool: list[int], draw: Any) -> list[int]:
    x = _one(case, pool, draw, _floats(case))
    if x is None:
        return []
    kind = draw(st.sampled_from(("array", "iota", "number", "full")))
    shape, dtype, g = case.shape(x), case.dtype(x), case.graph
    if kind == "array":
        return [g.constant(np.random.default_rng(case.seed).standard_normal(shape).astype(dtype))]
    if kind == "iota":
        return [g.constant(np.arange(math.prod(shape)).reshape(shape))]
    number = draw(st.sampled_from(NUMBERS))
    return [g.literal(number, dtype) if kind == "number" else g.constant(np.full(shape, number, dtype))]


GROWN = (
    _unary, _binary, _binary, _binary, _with_number, _with_number, _comparison, _logic, _where, _cast,
    _reduction, _reduction, _some_view, _some_view, _some_view, _product, _product, _product, _layer_norm,
    _cross_entropy, _gradient_of_relu,
    _shared_division, _step, _step, _call, _constant,
)  # fmt: skip

SMALL = (1, 2, 3, 5, 7, 8, 16, 17, 33, 64, 70)
LARGE = (200, 257, 300)  # two of them are several chunks


@st.composite
def programs(draw: Any) -> Case:
    """A random program."""
    case = Case(values=draw(st.sampled_from(("normal", "normal", "ties", "special"))), seed=draw(st.integers(0, 999)))
    dtype = draw(st.sampled_from((F4, F4, F8)))
    a, b, c = (
        draw(st.sampled_from(of))
        for of in draw(st.sampled_from(((SMALL, SMALL, SMALL), (SMALL, SMALL, SMALL), (LARGE, LARGE, SMALL))))
    )
    if draw(st.integers(0, 15)) == 7:
        a = 0
    shapes = [
        (a, b),
        (a, b),
        (a, b),
        (b,),
        (b,),
        (a,),
        (a, 1),
        (b, c),
        (a, c),
        (c, a),
        (),
        (c, 1, b),
        (c, a, b),
        (c, b, a),
    ]
    shapes = [s for s in shapes if math.prod(s) <= MOST // 2]
    pool: list[int] = []
    for kind in ("state", "input", "input", "state", "state", "array"):
        if not pool or draw(st.integers(0, 3)):
            of = draw(
                st.sampled_from((dtype, dtype, dtype, dtype, dtype, F8 if dtype == F4 else F4, np.dtype(bool), I8))
            )
            same = [(case.shape(x), case.dtype(x)) for x in case.leaves["state"]]  # so that they can be swapped
            twin = same and draw(st.booleans())
            shape, of = draw(st.sampled_from(same)) if twin else (draw(st.sampled_from(shapes)), of)
            pool.append(case.leaf(kind, shape, of))
    for grown in draw(st.lists(st.sampled_from(GROWN), min_size=draw(st.sampled_from((12, 6, 0))), max_size=18)):
        pool += [x for x in grown(case, pool, draw) if math.prod(case.shape(x)) <= MOST]
    others = st.lists(st.sampled_from(pool), max_size=2)
    case.outputs = [*draw(others), pool[-1], pool[-2 % len(pool)]][: draw(st.sampled_from((None, None, None, 1, 0)))]
    for k, s in enumerate(case.leaves["state"]):
        fits = [x for x in pool if (case.shape(x), case.dtype(x)) == (case.shape(s), case.dtype(s))]
        flipped = case.graph.viewed(s, np.flip)
        if draw(st.integers(0, 4)):
            case.updates[k] = draw(st.sampled_from([*fits[:-4:-1], *fits, flipped]))
    return case
