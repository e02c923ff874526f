"""The graph: equal nodes are one, what is simpler has the same bits, views are exact; and random programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.compiler.elementwise import ELEMENTWISE
from minigrad.compiler.graph import Call, Graph, evaluate, frozen
from minigrad.compiler.strides import composed, contiguous_strides, strided
from minigrad.core.op import Op

F4, F8, I8 = (np.dtype(t) for t in (np.float32, np.float64, np.int64))

SPECIAL = [0.0, -0.0, 1.0, -1.0, 1.5, 3e38, -3e38, 1e-45, -1e-45, 1e-38, np.inf, -np.inf, np.nan, 7.25]
PAIRS = np.array([(a, b) for a in SPECIAL for b in SPECIAL], F4)


class Two:
    """A graph of two inputs x and y that hold all pairs of special numbers."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.x, self.y = (self.graph.leaf("input", k, (len(PAIRS),), F4) for k in range(2))

    def __call__(self, op: str, *inputs: Any, dtype: Any = F4) -> int:
        numbers = [i if type(i) is int else self.graph.literal(i, F4) for i in inputs]
        return self.graph.elementwise(op, numbers, dtype, (len(PAIRS),))

    def value(self, number: int) -> np.ndarray:
        return evaluate(self.graph, [number], [np.ascontiguousarray(PAIRS[:, 0]), np.ascontiguousarray(PAIRS[:, 1])])[0]


def same_bits(a: np.ndarray, b: np.ndarray) -> None:
    """Equal, NaN in the same places, zeros of the same sign."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_array_equal(a, b)
    number = ~np.isnan(a) if a.dtype.kind == "f" else np.ones(a.shape, bool)
    if a.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(a[number]), np.signbit(b[number]))


x, y = PAIRS.T

SIMPLER: dict[str, tuple[Callable[[Two], int], Callable[[Two], int], Callable[[], np.ndarray]]] = {
    "x*1": (lambda g: g("multiply", g.x, 1.0), lambda g: g.x, lambda: x * F4.type(1)),
    "1*x": (lambda g: g("multiply", 1.0, g.x), lambda g: g.x, lambda: F4.type(1) * x),
    "x*-1": (lambda g: g("multiply", g.x, -1.0), lambda g: g("negative", g.x), lambda: x * F4.type(-1)),
    "x/1": (lambda g: g("divide", g.x, 1.0), lambda g: g.x, lambda: x / F4.type(1)),
    "x/8": (lambda g: g("divide", g.x, 8.0), lambda g: g("multiply", g.x, 0.125), lambda: x / F4.type(8)),
    "x-0": (lambda g: g("subtract", g.x, 0.0), lambda g: g.x, lambda: x - F4.type(0)),
    "x+-0": (lambda g: g("add", g.x, -0.0), lambda g: g.x, lambda: x + F4.type(-0.0)),
    "--x": (lambda g: g("negative", g("negative", g.x)), lambda g: g.x, lambda: np.negative(-x)),
    "|-x|": (lambda g: g("absolute", g("negative", g.x)), lambda g: g("absolute", g.x), lambda: np.abs(-x)),
    "||x||": (lambda g: g("absolute", g("absolute", g.x)), lambda g: g("absolute", g.x), lambda: np.abs(np.abs(x))),
    "x+-y": (lambda g: g("add", g.x, g("negative", g.y)), lambda g: g("subtract", g.x, g.y), lambda: x + (-y)),
    "-x+y": (lambda g: g("add", g("negative", g.x), g.y), lambda g: g("subtract", g.y, g.x), lambda: (-x) + y),
    "x--y": (lambda g: g("subtract", g.x, g("negative", g.y)), lambda g: g("add", g.x, g.y), lambda: x - (-y)),
    "y+x": (lambda g: g("add", g.y, g.x), lambda g: g("add", g.x, g.y), lambda: y + x),
    "x**1": (lambda g: g("power", g.x, 1.0), lambda g: g.x, lambda: np.power(x, F4.type(1))),
    "x**0.5": (lambda g: g("power", g.x, 0.5), lambda g: g("sqrt", g.x), lambda: np.power(x, F4.type(0.5))),
    "x**2": (lambda g: g("power", g.x, 2.0), lambda g: g("multiply", g.x, g.x), lambda: np.power(x, F4.type(2))),
    "-x<1": (
        lambda g: g("less", g("negative", g.x), 1.0, dtype=bool),
        lambda g: g("greater", g.x, -1.0, dtype=bool),
        lambda: -x < 1,
    ),
    "-x>=0": (
        lambda g: g("greater_equal", g("negative", g.x), 0.0, dtype=bool),
        lambda g: g("less_equal", g.x, 0.0, dtype=bool),
        lambda: -x >= 0,
    ),
    "where(c,x,x)": (
        lambda g: g("where", g("isnan", g.y, dtype=bool), g.x, g.x),
        lambda g: g.x,
        lambda: np.where(np.isnan(y), x, x),
    ),
    "where(1<2,x,y)": (
        lambda g: g("where", g("less", 1.0, 2.0, dtype=bool), g.x, g.y),
        lambda g: g.x,
        lambda: np.where(1 < 2, x, y),
    ),
    "x as itself": (lambda g: g("cast", g.x), lambda g: g.x, lambda: x.astype(F4)),
    "x there and back": (
        lambda g: g.graph.cast(g.graph.cast(g.x, F8), F4),
        lambda g: g.x,
        lambda: x.astype(F8).astype(F4),
    ),
    "exp(2)+1": (
        lambda g: g("add", g("exp", 2.0), 1.0),
        lambda g: g.graph.broadcast(g.graph.literal(np.exp(F4.type(2)) + F4.type(1), F4), x.shape),
        lambda: np.full(x.shape, np.exp(F4.type(2)) + F4.type(1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SIMPLER)
def test_what_is_simpler_has_the_same_bits(name: str) -> None:
    made, simpler, numpy = SIMPLER[name]
    two = Two()
    number = made(two)
    assert number == simpler(two)
    with np.errstate(all="ignore"):
        same_bits(two.value(number), numpy())


@pytest.mark.parametrize(
    ("op", "number"),
    [("add", 0.0), ("subtract", -0.0), ("multiply", 0.0), ("divide", 3.0), ("power", 1.5), ("power", 0.0),
     ("multiply", 2.0), ("maximum", 0.0), ("divide", 0.0), ("divide", np.inf), ("divide", 1e-45)],
)  # fmt: skip
def test_what_would_have_other_bits_stays(op: str, number: float) -> None:
    two = Two()
    node = two.graph.nodes[two(op, two.x, number)]
    assert (node.op, node.inputs[0]) == (op, two.x)


def test_other_orders_of_an_extremum_stay() -> None:
    """Which of 0.0 and -0.0 is taken depends on it."""
    two = Two()
    assert two("maximum", two.x, two.y) != two("maximum", two.y, two.x)


def test_literals_are_told_apart() -> None:
    g = Graph()
    numbers = [g.literal(v, t) for v, t in [(0.0, F4), (-0.0, F4), (0, I8), (False, bool), (0.0, F8), (np.nan, F4)]]
    assert len(set(numbers)) == 6
    assert g.literal(np.nan, F4) == numbers[-1]
    assert g.literal(0.1, F4) == g.literal(np.float32(0.1), F4)


def test_constants() -> None:
    g = Graph()
    full = g.constant(np.full((2, 3), 0.5))
    assert g.nodes[g.base(full)].op == "literal"
    positions = g.constant(np.arange(3).reshape(3, 1))
    assert g.nodes[g.base(positions)].op == "iota"
    other = np.array([[1.0, 2.0]])
    first = g.constant(other)
    assert g.constant(other.copy()) == first != g.constant(other.T)
    other[...] = 0
    assert [c.tolist() for c in g.constants] == [[[1.0, 2.0]], [[1.0], [2.0]]]
    assert g.nodes[g.base(g.constant(np.zeros((2, 0))))].op == "literal"
    with pytest.raises(ValueError, match="no maximum of no numbers"):
        g.reduce("maximum", g.leaf("input", 0, (2, 0), F8), [1])


def test_casts_that_lose_stay() -> None:
    g = Graph()
    for a, b, c in [(I8, F8, F4), (F8, F4, F8), (F4, I8, F4)]:
        x = g.leaf("input", 0, (2,), a)
        assert g.nodes[g.cast(g.cast(x, b), c)].inputs == (g.cast(x, b),)


def test_reductions() -> None:
    g = Graph()
    x = g.leaf("input", 0, (2, 1, 3), F8)
    assert g.reduce("add", x, [1]) == x
    assert g.nodes[g.reduce("add", x, [2, 1])].params == ("add", (2,))
    nothing = g.leaf("input", 1, (2, 0), F8)
    (y,) = evaluate(g, [g.reduce("multiply", nothing, [1])])
    same_bits(y, np.ones((2, 1)))


def test_products_of_nothing_and_errors() -> None:
    g = Graph()
    a, b = g.leaf("input", 0, (2, 0), F8), g.leaf("input", 1, (0, 3), F8)
    x = g.leaf("input", 2, (3,), F8)
    same_bits(evaluate(g, [g.matmul(a, b)])[0], np.zeros((2, 3)))
    with pytest.raises(ValueError, match="expected"):
        g.matmul(a, a)
    with pytest.raises(ValueError, match="does not return a view"):
        g.viewed(x, lambda x: x + 1)
    with pytest.raises(ValueError, match="does not return a view"):
        g.viewed(x, lambda x: x[[0, 1]])


# Views

VIEWS: list[Callable[[np.ndarray], np.ndarray]] = [
    lambda x: x.T,
    lambda x: x[::-1],
    lambda x: x[..., 1:],
    lambda x: x[..., ::2],
    lambda x: x[None],
    lambda x: np.moveaxis(x, 0, -1),
    lambda x: np.broadcast_to(x, (2, *x.shape)),
    lambda x: np.broadcast_to(x[..., None], (*x.shape, 2)),
    lambda x: x.reshape(-1),
    lambda x: x.reshape(x.shape[::-1]),
    lambda x: x.reshape(-1, x.shape[-1]),
    lambda x: np.flip(x, -1),
    lambda x: x[0, ...],
    lambda x: x[..., -1],
    np.squeeze,
    lambda x: np.diagonal(x) if x.ndim > 1 else x[:],
    lambda x: x.reshape(*x.shape[:-1], 2, -1) if x.shape[-1] % 2 == 0 else x,
]  # fmt: skip

SHAPES = [(2, 3, 4), (6,), (4, 1), (3, 0, 2), (1, 1), ()]
chains = st.lists(st.sampled_from(VIEWS), max_size=5)


def fitting(x: np.ndarray, chain: list[Callable[[np.ndarray], np.ndarray]]) -> list[Callable[[np.ndarray], np.ndarray]]:
    """The functions of a chain that can be applied one after the other."""
    fits = []
    for f in chain:
        try:
            x = np.asarray(f(x))
        except (IndexError, ValueError, ZeroDivisionError):
            continue
        if x.size < 500:
            fits.append(f)
        else:
            break
    return fits


@given(st.sampled_from(SHAPES), chains)
def test_a_chain_of_views_is_one_view(shape: tuple[int, ...], chain: list[Any]) -> None:
    x = np.arange(np.prod(shape, dtype=int), dtype=F8).reshape(shape) + 0.5
    g = Graph()
    number, want = g.leaf("input", 0, shape, F8), x
    for f in fitting(x, chain):
        number, want = g.viewed(number, f), np.asarray(f(want))
    same_bits(evaluate(g, [number], [x])[0], want)
    base = g.nodes[g.base(number)]
    assert base.op in ("input", "copy", "literal")
    if not any(node.op == "copy" for node in g.nodes):
        assert all(node.op != "view" or g.nodes[node.inputs[0]].op != "view" for node in g.nodes)


@given(st.sampled_from(SHAPES), chains, chains)
def test_a_view_of_a_view_by_strides(shape: tuple[int, ...], chain: list[Any], outer: list[Any]) -> None:
    """Where strides can say it there is no copy; else it is one, and right all the same."""
    x = np.arange(np.prod(shape, dtype=int), dtype=F8).reshape(shape)
    g = Graph()
    number, want = g.leaf("input", 0, shape, F8), x
    for f in fitting(x, chain):
        number, want = g.viewed(number, f), np.asarray(f(want))
    h = Graph()  # the outer view, of something that lies in C order
    whole = h.leaf("input", 0, want.shape, F8)
    for f in fitting(want, outer):
        viewed = h.viewed(whole, f)
        if h.nodes[h.base(viewed)].op != "input":
            break
        whole, want = viewed, np.asarray(f(want))
    if h.nodes[h.base(whole)].op == "input":
        same_bits(evaluate(g, [g.view(number, *h.layout(whole))], [x])[0], want)


def test_undone_views_are_the_thing_itself() -> None:
    g = Graph()
    x = g.leaf("input", 0, (2, 3, 4), F4)
    turned = g.permuted(x, (2, 0, 1))
    assert g.permuted(turned, (1, 2, 0)) == x
    assert g.reshaped(g.reshaped(x, (6, 4)), (2, 3, 4)) == x
    assert g.viewed(g.viewed(x, np.flip), np.flip) == x
    assert g.permuted(turned, (2, 1, 0)) == g.permuted(x, (1, 0, 2))


def test_a_reshape_that_no_strides_can_say_copies() -> None:
    g = Graph()
    x = g.leaf("input", 0, (2, 3), F4)
    flat = g.reshaped(g.permuted(x, (1, 0)), (6,))
    assert g.nodes[g.base(flat)].op == "copy"
    same_bits(evaluate(g, [flat], [np.arange(6, dtype=F4).reshape(2, 3)])[0], np.array([0, 3, 1, 4, 2, 5], F4))


def test_composed_knows_where_an_axis_ends() -> None:
    rows = ((2, 3), (0, 1), 0)  # of one vector, twice
    assert composed(((6,), (1,), 0), rows) is None  # 0, 1, 2, 0, 1, 2
    assert composed(((3,), (1,), 3), rows) == ((1,), 0)
    assert composed(((2, 3), (3, 1), 0), ((2, 3), (3, 1), 5)) == ((3, 1), 5)
    assert composed(((3, 2), (2, 1), 0), ((2, 3), (3, 1), 5)) == ((2, 1), 5)  # both are one axis of 6


def test_is_broadcast() -> None:
    g = Graph()
    row = g.leaf("input", 0, (1, 3), F4)
    assert g.is_broadcast(g.broadcast(row, (2, 3)), (2, 3))
    assert g.is_broadcast(row, (1, 3))
    assert not g.is_broadcast(g.viewed(g.broadcast(row, (2, 3)), lambda x: x[:, ::-1]), (2, 3))
    assert not g.is_broadcast(g.permuted(g.leaf("input", 1, (3, 3), F4), (1, 0)), (3, 3))


def test_strides() -> None:
    assert contiguous_strides((2, 3, 4)) == (12, 4, 1)
    same_bits(strided(np.arange(6.0), (2, 2), (-2, 1), 3), np.array([[3.0, 4.0], [1.0, 2.0]]))


# Programs

UNARY = ("negative", "absolute", "exp", "tanh", "sqrt", "floor", "sign", "isnan", "log1p")
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum", "less", "equal", "where")
Made = tuple[int, np.ndarray]


def grown(g: Graph, made: list[Made], draw: Callable[[Any], Any]) -> Made:
    """One more node, of those that there are, and its value."""
    number, value = draw(st.sampled_from(made))
    kind = draw(st.sampled_from(["unary", "binary", "view", "reduce", "literal"]))
    bool_or = lambda op: np.dtype(bool) if op in ("isnan", "less", "equal") else F8
    if kind == "view":
        for f in fitting(value, [draw(st.sampled_from(VIEWS))]):
            return g.viewed(number, f), np.asarray(f(value))
    if kind == "reduce" and value.ndim and value.size:
        axes = tuple(draw(st.sets(st.integers(0, value.ndim - 1))))
        op = draw(st.sampled_from(["add", "multiply", "maximum"]))
        return g.reduce(op, number, axes), getattr(np, op).reduce(value, axes, keepdims=True)
    shape = value.shape
    if kind == "binary":
        op = draw(st.sampled_from(BINARY))
        others = [(n, v) for n, v in made if v.shape == shape]
        other, b = draw(st.sampled_from(others))
        if op == "where":
            condition = g.elementwise("less", [number, other], bool, shape)
            return g.elementwise(op, [condition, number, other], F8, shape), np.where(value < b, value, b)
        y = g.elementwise(op, [number, other], bool_or(op), shape)
        return g.cast(y, F8), np.asarray(getattr(np, op)(value, b), F8)
    if kind == "literal":
        op, c = draw(st.sampled_from(["add", "multiply", "divide", "subtract"])), draw(st.sampled_from(SPECIAL))
        return g.elementwise(op, [number, g.literal(c, F8)], F8, shape), np.asarray(getattr(np, op)(value, c))
    op = draw(st.sampled_from(UNARY))
    y = g.elementwise(op, [number], bool_or(op), shape)
    return g.cast(y, F8), np.asarray(getattr(np, op)(value), F8)


@given(st.data())
def test_random_programs(data: st.DataObject) -> None:
    """Views, elementwise operations and reductions, in any order: the graph is what NumPy computes at once."""
    g = Graph()
    arrays = [np.array(data.draw(st.lists(st.sampled_from(SPECIAL), min_size=6, max_size=6))) for _ in range(2)]
    made: list[Made] = [(g.leaf("input", k, (6,), F8), a) for k, a in enumerate(arrays)]
    made.append((g.reshaped(made[0][0], (2, 3)), arrays[0].reshape(2, 3)))
    with np.errstate(all="ignore"):
        for _ in range(data.draw(st.integers(1, 12))):
            made.append(grown(g, made, data.draw))
        numbers = [number for number, _ in made]
        for value, (_, want) in zip(evaluate(g, numbers, arrays), made, strict=True):
            np.testing.assert_allclose(value, want, rtol=1e-15)
        # the same without what is not needed, and made anew from its parts
        only, new = g.only(numbers[-2:])
        for value, want in zip(evaluate(only, [new[i] for i in numbers[-2:]], arrays), made[-2:], strict=True):
            np.testing.assert_allclose(value, want[1], rtol=1e-15)
    for i, node in enumerate(only.nodes):
        assert all(j < i for j in node.inputs)
        assert node.op not in ELEMENTWISE or all(only.nodes[j].shape in ((), node.shape) for j in node.inputs)


@given(st.data())
def test_elementwise_of_views(data: st.DataObject) -> None:
    """A view of an elementwise node is the node of views, wherever there is an answer."""
    g = Graph()
    x = np.linspace(-1, 1, 24).reshape(2, 3, 4)
    a, row = g.leaf("input", 0, x.shape, F8), g.leaf("input", 1, (4,), F8)
    y = g.elementwise("multiply", [a, g.broadcast(row, x.shape)], F8, x.shape)
    root = g.elementwise("sqrt", [g.elementwise("absolute", [a], F8, x.shape)], F8, x.shape)  # the same in any strides
    y = g.elementwise("subtract", [y, root], F8, x.shape)
    y = g.elementwise("add", [y, g.literal(2.0, F8)], F8, x.shape)
    value = evaluate(g, [y], [x, x[0, 0]])[0]
    for f in fitting(value, data.draw(chains)):
        y, value = g.viewed(y, f), np.asarray(f(value))
    if g.nodes[y].op == "view" and g.nodes[g.base(y)].op == "add":
        moved = g.elementwise_of_views(y, lambda i: g.nodes[i].op in ELEMENTWISE)
        if moved is not None:
            same_bits(evaluate(g, [moved], [x, x[0, 0]])[0], value)
            below = {j for i in g.live([moved]) if g.nodes[i].op == "view" for j in g.nodes[i].inputs}
            assert {g.nodes[j].op for j in below} <= {"input", "literal"}


def test_rebuilt() -> None:
    """Every kind of node with other inputs; with the same ones it is itself."""
    g = Graph()
    x, z = (g.leaf("input", k, (2, 2), F8) for k in range(2))
    twice = Op("twice", lambda x: (2 * x, 3 * x))
    _, thrice = g.call(Call(twice, {}, {}), [x], [((2, 2), F8)] * 2)
    nodes = [g.elementwise("exp", [x], F8, (2, 2)), g.viewed(x, np.transpose), g.reduce("add", x, [0]), g.matmul(x, x),
             g.nodes[thrice].inputs[0]]  # fmt: skip
    values = [np.arange(4.0).reshape(2, 2), np.ones((2, 2))]
    for i in nodes:
        assert g.rebuilt(i, g.nodes[i].inputs) == i
        other = g.rebuilt(i, [z] * len(g.nodes[i].inputs))
        same_bits(evaluate(g, [other], values)[0], evaluate(g, [i], values[::-1])[0])
    output = g.rebuilt(thrice, [g.rebuilt(nodes[-1], [z])])
    same_bits(evaluate(g, [output], values)[0], np.full((2, 2), 3.0))
    copied = g.copy(nodes[1])
    assert g.rebuilt(copied, [x]) == x


def test_calls_are_equal_if_all_is() -> None:
    g = Graph()
    x = g.leaf("input", 0, (2,), F8)
    op = Op("scaled", lambda x, y, *, by: x * y * by)
    make = lambda y, by: g.call(Call(op, {1: y}, {"by": by}), [x], [((2,), F8)])[0]
    assert make(2.0, 1) == make(2.0, 1)
    assert len({make(2.0, 1), make(2, 1), make(2.0, 1.0), make(2.0, True), make(0.0, 1), make(-0.0, 1)}) == 6


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, 1.0), (1, True), (0.0, -0.0), ((1,), [1]), (np.ones(2), np.ones((2, 1))), ({"a": 1}, {"a": 2}), ("1", 1),
     (slice(1), slice(2)), (np.dtype(F4), np.dtype(F8)), (np.float32(1), 1.0)],
)  # fmt: skip
def test_frozen_tells_parameters_apart(a: Any, b: Any) -> None:
    assert frozen(a) == frozen(a)
    assert frozen(a) != frozen(b)
    hash((frozen(a), frozen(b)))


def test_origins() -> None:
    g = Graph()
    x = g.leaf("input", 0, (2,), F8)
    made = []
    for g.entry in (3, 5, 5):
        made.append(g.elementwise("exp", [x], F8, (2,)))
    assert g.origins[made[0]] == [3, 5]
    assert g.origins[x] == []


def test_dump() -> None:
    g = Graph()
    x = g.leaf("input", 0, (2, 3), F4)
    y = g.elementwise("add", [x, g.literal(2.0, F4)], F4, (2, 3))
    z = g.reduce("add", g.permuted(y, (1, 0)), [0])
    g.call(Call(Op("own", lambda x, *, k: x), {}, {"k": 1}), [x], [((2, 3), F4)])
    assert g.dump([z]).splitlines() == [
        "%0 = input(0)  float32 (2, 3)",
        "%1 = 2.0  float32",
        "%2 = add(%0, %1)  float32 (2, 3)",
        "%3 = view(%2, strides (1, 3), offset 0)  float32 (3, 2)",
        "%4 = reduce(%3, add, axes (0,))  float32 (1, 2)",
    ]
    assert g.dump().splitlines()[-1] == "%5 = call own(%0, k=1)  float32 (2, 3)"
