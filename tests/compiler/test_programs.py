"""Compiled programs against the graph's evaluator: random ones, and those that are easily wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from kernels.arrays import CPUS

import minigrad as mg
from minigrad.compiler.graph import Call
from minigrad.compiler.runtime import assembled
from minigrad.core.op import registry
from minigrad.kernels.threads import num_threads

from .graphs import F4, F8, I8, Case, Sorted, agree, check, compiled, programs, run, same_bits, threads

ROOT = Path(__file__).parents[2]


@given(programs())
def test_random_programs(case: Case) -> None:
    check(case)


# States


def pair(shape: tuple[int, ...] = (300, 130), dtype: Any = F4, n: int = 2) -> tuple[Case, list[int]]:
    """A case of some states of one shape."""
    case = Case()
    return case, [case.leaf("state", shape, dtype) for _ in range(n)]


STATES: dict[str, Callable[[Case, list[int]], None]] = {
    "one of the other": lambda c, s: c.updates.update({0: s[1]}),
    "swapped": lambda c, s: c.updates.update({0: s[1], 1: s[0]}),
    "rotated": lambda c, s: c.updates.update({0: s[1], 1: s[2], 2: s[0]}),
    "itself": lambda c, s: c.updates.update({0: s[0]}),
    "shifted": lambda c, s: c.updates.update({0: c.graph.viewed(s[0], lambda a: a[::-1])}),
    "both reversed and swapped": lambda c, s: c.updates.update(
        {0: c.graph.viewed(s[1], np.flip), 1: c.graph.viewed(s[0], np.flip)}
    ),
    "the same value": lambda c, s: c.updates.update(dict.fromkeys(range(3), c.do("add", s[0], s[1]))),
    "a number": lambda c, s: c.updates.update({0: c.graph.broadcast(c.graph.literal(0.5, F4), c.shape(s[0]))}),
    "the old values are returned": lambda c, s: (
        c.updates.update({0: c.do("multiply", s[0], s[1])}),
        c.outputs.extend([s[0], c.graph.viewed(s[0], np.transpose), s[1]]),
    ),
    "the new values are returned": lambda c, s: (
        c.updates.update({0: c.do("multiply", s[0], s[1]), 1: c.do("exp", s[1])}),
        c.outputs.extend([*c.updates.values(), c.do("add", *c.updates.values())]),
    ),
    "one after the other": lambda c, s: c.updates.update(
        {0: (first := c.do("subtract", s[0], s[1])), 1: c.do("add", s[1], first), 2: c.do("exp", first)}
    ),
    "each of the other's old value": lambda c, s: c.updates.update(
        {0: c.do("add", s[0], s[1]), 1: c.do("subtract", s[1], s[0])}
    ),
    "less its mean": lambda c, s: c.updates.update({0: c.do("subtract", s[0], c.reduced("add", s[0], 0, 1))}),
    "less its rows' largest": lambda c, s: c.updates.update({0: c.do("subtract", s[0], c.reduced("maximum", s[0], 1))}),
    "less its columns' sums": lambda c, s: c.updates.update({0: c.do("subtract", s[0], c.reduced("add", s[0], 0))}),
    "divided by its rows' sums, row by row": lambda c, s: c.updates.update(
        {0: c.do("divide", c.do("exp", s[0]), c.reduced("add", c.do("exp", s[0]), 1))}
    ),
    "its row added": lambda c, s: c.updates.update({0: c.do("add", s[0], c.graph.viewed(s[0], lambda a: a[:1]))}),
    "its product": lambda c, s: c.updates.update(
        {0: c.graph.matmul(s[0], c.graph.matmul(c.graph.viewed(s[0], np.transpose), s[0]))}
    ),
    "read by a call": lambda c, s: (
        c.updates.update({0: c.do("add", s[0], s[1])}),
        c.outputs.extend(
            c.graph.call(Call(registry["cumulative_sum"], {}, {"axis": 0}), [s[0]], [(c.shape(s[0]), F4)])
        ),
    ),
    "what a call returns": lambda c, s: c.updates.update(
        {0: c.graph.call(Call(registry["cumulative_sum"], {}, {"axis": 0}), [s[0]], [(c.shape(s[0]), F4)])[0], 1: s[0]}
    ),
}


@pytest.mark.parametrize("shape", [(300, 130), (7, 3), (1, 1)])
@pytest.mark.parametrize("name", STATES)
def test_states(name: str, shape: tuple[int, ...]) -> None:
    case, states = pair(shape, n=3)
    STATES[name](case, states)
    check(case)


def test_states_of_other_calls() -> None:
    """A program finds the memory of its states anew where it has changed, also that of some of them alone."""
    case, (a, b) = pair((20, 30))
    case.updates = {0: case.do("add", a, b)}
    case.outputs = [case.do("multiply", a, 2.0)]
    program = compiled(case)
    _, (x, y), _ = case.drawn(1)
    mine, other, moved = x.copy(), y.copy(), y * 3
    np.testing.assert_array_equal(program([], [mine, other])[0], x * 2)
    np.testing.assert_array_equal(mine, x + y)
    np.testing.assert_array_equal(program([], [mine, moved])[0], (x + y) * 2)
    np.testing.assert_array_equal(mine, x + y + moved)
    for _ in range(50):  # where a new array lies where one was that is no more
        here = x.copy()
        program([], [here, y])
        np.testing.assert_array_equal(here, x + y)
        del here


def test_results_of_earlier_calls_stay() -> None:
    case = Case()
    x = case.leaf("input", (40, 50), F8)
    case.outputs = [case.do("exp", x), case.reduced("add", case.do("exp", x), 0), x]
    program = compiled(case)
    kept = []
    for seed in range(5):
        (given,), _, _ = case.drawn(seed)
        kept.append((given, program([given], [])))
    for given, (e, total, same) in kept:
        np.testing.assert_allclose(e, np.exp(given), rtol=1e-14)
        np.testing.assert_allclose(total, np.exp(given).sum(0, keepdims=True), rtol=1e-13)
        np.testing.assert_array_equal(same, given)
        assert same is not given


def test_the_number_of_threads_changes_between_calls() -> None:
    case = Case()
    x, w = case.leaf("input", (300, 257)), case.leaf("input", (257, 200))
    h = case.graph.matmul(x, w)
    case.outputs = [case.reduced("add", case.do("exp", case.do("multiply", h, 0.01)), 0, 1), case.do("maximum", h, 0.0)]
    program = compiled(case)
    inputs, _, _ = case.drawn(1)
    before = num_threads()
    bits = set()
    for n in (1, 3, 2, 4, 1, 2):
        with threads(n):
            bits |= {tuple(y.tobytes() for y in program(inputs, [])) for _ in range(5)}
    assert len(bits) == 1
    assert num_threads() == before


@pytest.mark.parametrize(("rows", "used"), [(4, 1), (2000, 3)])
def test_threads_are_used_where_there_is_something_to_share(rows: int, used: int) -> None:
    case = Case()
    case.outputs = [case.do("exp", case.leaf("input", (rows, 50)))]
    program = compiled(case)
    with threads(3):
        program(case.drawn(0)[0], [])
    assert program.threads == used


@pytest.mark.parametrize("sizes", [((90, 64), (20, 30), (40, 7), (6, 90)), ((1000, 64), (1300, 30))])
def test_threads_at_work_on_different_products_have_memory_of_their_own(sizes: tuple[tuple[int, int], ...]) -> None:
    """States less products, which are computed in the thread's own memory; none waits for another."""
    case = Case()
    for m, n in sizes:
        w = case.leaf("state", (m, n))
        product = case.graph.matmul(case.leaf("input", (m, 150)), case.leaf("input", (150, n)))
        case.updates[len(case.updates)] = case.do("subtract", w, case.do("multiply", product, 0.1))
    program = compiled(case)
    inputs, states, _ = case.drawn(1)
    want = run(case, program, inputs, states)
    for n in (2, 3):
        with threads(n):
            for _ in range(100):
                assert same_bits(run(case, program, inputs, states), want)


# What is easily wrong


def dense(case: Case, m: int, k: int, n: int, dtype: Any = F4, bias: bool = True) -> int:
    """x·w + b of new leaves."""
    y = case.graph.matmul(case.leaf("input", (m, k), dtype), case.leaf("state", (k, n), dtype))
    return case.do("add", y, case.leaf("state", (n,), dtype)) if bias else y


def softmax(case: Case, x: int) -> int:
    e = case.do("exp", case.do("subtract", x, case.reduced("maximum", x, -1)))
    return case.do("divide", e, case.reduced("add", e, -1))


def several(case: Case, y: int) -> None:
    case.outputs = [y, case.do("tanh", y), case.reduced("add", case.do("tanh", y), 0)]


AFTER: dict[str, Callable[[Case, int], Any]] = {
    "alone": lambda c, y: [y],
    "relu": lambda c, y: [c.do("maximum", y, 0.0)],
    "relu and where it is above 0": lambda c, y: [c.do("maximum", y, 0.0), c.compared("greater", y, 0.0)],
    "softmax": lambda c, y: [softmax(c, y)],
    "several operations": lambda c, y: [c.do("tanh", c.do("multiply", c.do("exp", c.do("negative", y)), y))],
    "sum over rows": lambda c, y: [c.reduced("add", y, -1)],
    "sum over columns": lambda c, y: [c.reduced("add", y, -2)],
    "sum over all": lambda c, y: [c.reduced("add", y, *range(len(c.shape(y))))],
    "largest of rows, and itself": lambda c, y: [c.reduced("maximum", y, -1), y],
    "columns of what is stored": lambda c, y: [
        (t := c.do("tanh", y)),
        c.reduced("add", t, -2),
        c.reduced("minimum", t, -2),
    ],
    "all and itself": lambda c, y: [(t := c.do("tanh", y)), c.reduced("add", t, *range(len(c.shape(y)))), y],
    "transposed": lambda c, y: [c.do("exp", c.graph.viewed(y, lambda a: a.swapaxes(-1, -2)))],
    "squared": lambda c, y: [c.do("multiply", y, y)],
    "twice the bias": lambda c, y: [c.do("add", y, c.graph.nodes[y].inputs[1])],
    "a column added": lambda c, y: [c.do("add", y, c.leaf("input", (c.shape(y)[0], 1)))],
    "a row added backwards": lambda c, y: [c.do("add", y, c.graph.viewed(c.leaf("input", c.shape(y)[1:]), np.flip))],
    "of another dtype": lambda c, y: [c.reduced("add", c.graph.cast(y, F8), -1)],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(300, 64, 257), (257, 300, 33), (1, 64, 7), (5, 1, 3), (64, 784, 10), (700, 20, 1)])
@pytest.mark.parametrize("name", AFTER)
def test_products(name: str, sizes: tuple[int, int, int], bias: bool) -> None:
    """A product, in one chunk and in several, and what follows it."""
    if name == "twice the bias" and not bias:
        return
    case = Case()
    case.outputs = AFTER[name](case, dense(case, *sizes, bias=bias))
    check(case)


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("name", ["alone", "softmax", "sum over columns", "transposed", "sum over all"])
@pytest.mark.parametrize("leading", [(3,), (2, 1, 5)])
def test_stacks_of_products(leading: tuple[int, ...], name: str, dtype: Any) -> None:
    """Both operands with leading axes; one of them copied along these; transposed ones."""
    for a_leading, b_leading in ((leading, leading), (leading, ()), ((), leading)):
        case = Case()
        a, b = case.leaf("input", (*a_leading, 33, 20), dtype), case.leaf("input", (*b_leading, 40, 20), dtype)
        b = case.graph.viewed(b, lambda x: x.swapaxes(-1, -2))
        y = case.graph.matmul(case.graph.broadcast(a, (*leading, 33, 20)), case.graph.broadcast(b, (*leading, 20, 40)))
        case.outputs = AFTER[name](case, y)
        check(case)


VIEWS: dict[str, Callable[[np.ndarray], Any]] = {
    "reversed": np.flip, "every second": lambda a: a[:, ::2], "transposed": lambda a: a.transpose(2, 0, 1),
    "inner": lambda a: a[1:, 2:-1, 1:-2], "one": lambda a: a[:, 1], "diagonals": lambda a: a.reshape(-1)[::31],
    "new axes": lambda a: a[:, None, :, None], "last first": lambda a: a.transpose(2, 1, 0)[::-1],
    "copied": lambda a: np.broadcast_to(a[:, :1], (6, 9, 30)),
}  # fmt: skip


@pytest.mark.parametrize("axes", [(0,), (1,), (-1,), (0, 1), (0, -1), (1, -1), (0, 1, -1)])
@pytest.mark.parametrize("name", VIEWS)
def test_views_and_reductions(name: str, axes: tuple[int, ...]) -> None:
    """Of a leaf and of what is computed, over any axes, with the leaf itself in between."""
    case = Case()
    x, z = case.leaf("input", (6, 9, 30), F8), case.leaf("state", (6, 9, 30), F8)
    for of in (x, case.do("exp", x), case.do("multiply", x, z)):
        y = case.graph.viewed(of, VIEWS[name])
        along = {a % len(case.shape(y)) for a in axes if -len(case.shape(y)) <= a < len(case.shape(y))}
        case.outputs.append(case.do("tanh", y))
        case.outputs.append(case.graph.reduce("add", case.do("tanh", y), along))
        case.outputs.append(case.do("subtract", y, case.graph.reduce("maximum", y, along)))
    check(case)


@pytest.mark.parametrize("dtype", ["bool", "int64", "int32", "uint8"])
def test_whole_numbers_and_truths(dtype: str) -> None:
    """Read, compared, chosen, cast, returned, kept as states."""
    case = Case()
    i, k = case.leaf("input", (40, 17), dtype), case.leaf("state", (17,), dtype)
    x, s = case.leaf("input", (40, 17)), case.leaf("state", (40, 17), dtype)
    equal = case.compared("equal", i, k)
    case.outputs = [
        equal,
        case.do("where", equal, x, -1.0),
        case.graph.cast(i, F8),
        case.graph.cast(equal, I8),
        case.do("multiply", case.graph.cast(i, F4), x),
        case.compared("logical_and", equal, case.compared("greater", x, 0.0)),
        case.reduced("add", case.graph.cast(equal, F4), 0),
        case.graph.viewed(i, np.transpose),
        k,
    ]
    case.updates = {1: case.do("where", case.compared("less", x, 0.0), i, s, dtype=np.dtype(dtype)), 0: k}
    check(case)


@pytest.mark.parametrize("labels", ["int64", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(64, 10), (3, 1), (5, 300), (1, 7)])
def test_losses_by_labels(shape: tuple[int, int], labels: str) -> None:
    """What the right class has, picked by comparing labels with the number of the column; and the slope of it."""
    case = Case()
    x, y = case.leaf("input", shape), case.leaf("input", shape[:1], labels)
    hot = case.compared(
        "equal",
        case.graph.constant(np.arange(shape[1])),
        case.graph.cast(case.graph.viewed(y, lambda a: a[:, None]), I8),
    )
    top = case.reduced("maximum", x, 1)
    spread = case.do("log", case.reduced("add", case.do("exp", case.do("subtract", x, top)), 1))
    picked = case.reduced("add", case.do("where", hot, x, 0.0), 1)
    case.outputs = [
        case.reduced("add", case.do("subtract", case.do("add", spread, top), picked), 0),
        case.do("subtract", softmax(case, x), case.graph.cast(hot, F4)),
        hot,
    ]
    check(case)


@pytest.mark.parametrize("shape", [(5, 40), (5, 1)])
def test_other_counts_than_that_of_columns(shape: tuple[int, int]) -> None:
    """Only a count of columns can be compared with a label lane by lane; others are numbers as any."""
    case = Case()
    x, y = case.leaf("input", (5, 40)), case.leaf("input", (5, 1), np.int64)
    counts = case.graph.broadcast(case.graph.constant(np.arange(shape[0] * shape[1]).reshape(shape)), (5, 40))
    case.outputs = [case.do("where", case.compared("equal", counts, y), x, 0.0)]
    check(case)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (1, 1, 1), (100_000,), (2, 50_000), (20_000, 2)])
@pytest.mark.parametrize("dtype", [F4, F8])
def test_sizes(shape: tuple[int, ...], dtype: Any) -> None:
    case = Case()
    x, s = case.leaf("input", shape, dtype), case.leaf("state", shape, dtype)
    y = case.do("multiply", x, s)
    case.outputs = [y, case.graph.reduce("add", y, range(len(shape))), case.do("isnan", s, dtype=np.dtype(bool))]
    if 0 not in shape:
        case.outputs += [case.graph.reduce(op, y, range(len(shape))) for op in ("maximum", "minimum", "multiply")]
    if len(shape) == 2:
        case.outputs += [case.reduced("add", y, 0), case.reduced("maximum", y, 1)]
    case.updates = {0: case.do("subtract", s, case.do("multiply", y, 0.1))}
    check(case)


def test_leaves_literals_and_duplicates_as_results() -> None:
    case = Case()
    x, s, a = case.leaf("input", (3, 4)), case.leaf("state", (4,)), case.leaf("array", (2,), F8)
    g = case.graph
    constant = g.constant(np.array([3.0, 1.0, 2.0]))
    full = g.broadcast(g.literal(2.5, F4), (3, 4))
    case.outputs = [
        x, x, s, a, constant, constant, full, full, g.literal(7, np.int64), g.literal(True, bool),
        g.literal(np.nan, F8),
        g.viewed(x, np.transpose), g.constant(np.arange(5)), g.constant(np.arange(6).reshape(2, 3)),
        g.viewed(constant, np.flip),
        g.broadcast(s, (2, 4)), g.constant(np.zeros((0, 3))), g.constant(np.full((33, 5), -0.0)),
    ]  # fmt: skip
    check(case)


def test_nothing_to_do() -> None:
    check(Case())
    case = Case()
    case.leaf("input", (3,)), case.leaf("state", (2,))
    check(case)


def test_calls() -> None:
    """Of several outputs, of which not all are needed; of views, of what is computed, of literals; in a row."""
    case = Case()
    x, s = case.leaf("input", (20, 30)), case.leaf("state", (30, 20))
    g = case.graph
    both = lambda i: g.call(Call(Sorted(), {}, {}), [i], [(case.shape(i), F4), (case.shape(i), I8)])
    running = lambda i: g.call(Call(registry["cumulative_sum"], {}, {"axis": -1}), [i], [(case.shape(i), F4)])[0]
    values, where = both(case.do("exp", x))
    _, only = both(g.viewed(s, np.transpose))
    chain = running(running(g.viewed(values, np.flip)))
    case.outputs = [values, where, only, chain, case.do("add", chain, x), running(g.constant(np.ones((3, 2), F4)))]
    case.updates = {0: g.viewed(values, np.transpose)}
    check(case)


def test_sums_of_several_chunks_as_operands() -> None:
    """Of a product, and of a call: they lie in memory chunk by chunk, and have to be put together first."""
    case = Case()
    x = case.leaf("input", (300, 200))
    total, largest = case.reduced("add", x, 0, 1), case.reduced("maximum", x, 0, 1)
    running = Call(registry["cumulative_sum"], {}, {"axis": 1})
    stack = case.graph.broadcast(total, (3, 1, 1))
    case.outputs = [
        case.graph.matmul(total, case.graph.viewed(largest, lambda a: a[0, :, None])),
        *case.graph.call(running, [case.graph.broadcast(total, (1, 7))], [((1, 7), F4)]),
        case.graph.matmul(stack, stack),
        total,
    ]
    check(case)


def test_sums_of_a_product_of_many_chunks() -> None:
    """Which is not stored: each chunk has a place of its own for its sum."""
    case = Case()
    y = case.graph.matmul(case.leaf("input", (1300, 8)), case.leaf("input", (8, 1300)))
    other = case.graph.matmul(case.leaf("input", (1300, 8)), case.leaf("input", (8, 1300)))
    case.outputs = [case.do("multiply", case.reduced("add", y, 0, 1), case.reduced("maximum", other, 0, 1))]
    program = check(case)
    assert max(phase.chunks for phase in program.plan.phases) > 32


def test_numbers_as_operands() -> None:
    """Of products, reductions and sums; some that are in memory for a product are numbers elsewhere."""
    case = Case()
    x = case.leaf("input", (40, 30))
    two = lambda *shape: case.graph.broadcast(case.graph.literal(2.0, F4), shape)
    y = case.graph.matmul(x, two(30, 5))
    case.outputs = [
        case.do("add", y, 2.0),
        case.graph.matmul(two(3, 40), two(40, 20)),
        case.reduced("add", two(40, 30), 0),
        case.reduced("multiply", two(5, 7), 1),
        case.reduced("add", two(300, 200), 0, 1),
        case.reduced("maximum", case.do("where", case.compared("greater", x, 0.0), two(40, 30), 1.0), 1),
        case.do("add", x, case.reduced("add", two(40, 30), 1)),
    ]
    check(case)


def test_values_of_rows_that_no_reduction_is_needed_for() -> None:
    """They are computed by a kernel that reduces rows, and stored there."""
    case = Case()
    x, s = case.leaf("input", (40, 30)), case.leaf("state", (40, 1))
    new = case.do("multiply", s, 0.9)
    case.outputs = [case.do("add", case.do("subtract", x, case.reduced("maximum", x, 1)), new), softmax(case, x)]
    case.updates = {0: new}
    check(case)


def test_convolutions() -> None:
    """A layer of a convolutional network: called, and what comes after it is fused."""
    case = Case()
    x, w, b = case.leaf("input", (4, 3, 10, 10)), case.leaf("state", (8, 3, 3, 3)), case.leaf("state", (8,))
    options = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    (y,) = case.graph.call(Call(registry["conv2d"], {}, options), [x, w], [((4, 8, 10, 10), F4)])
    h = case.do("maximum", case.do("add", y, case.graph.viewed(b, lambda a: a[:, None, None])), 0.0)
    slope = case.do("where", case.compared("greater", h, 0.0), 1.0, 0.0, dtype=F4)
    case.outputs = [h, case.reduced("add", h, 2, 3), case.reduced("add", slope, 0, 2, 3)]
    program = compiled(case)
    inputs, states, arrays = case.drawn(1)
    got = run(case, program, inputs, states)
    with mg.kernels.use("numpy"):
        want = mg.relu(mg.conv2d(inputs[0], states[0], padding=1) + states[1][:, None, None])
    np.testing.assert_allclose(got[0], want, atol=1e-4)
    np.testing.assert_allclose(got[1], np.asarray(want).sum((2, 3), keepdims=True), atol=1e-3)
    agree(case, got, (inputs, states, arrays))
    for n in (2, 3):
        with threads(n):
            assert same_bits(run(case, program, inputs, states), got)


@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize("shape", [(24,), (4, 6)])
def test_functions_of_what_is_special(shape: tuple[int, ...], dtype: Any) -> None:
    """All functions at the edges of their domains, far out, and at NaN."""
    x = np.array([0, -0.0, 1, -1, 0.5, -0.5, 2, 30, -30, 88, -88, 710, -745, np.inf, -np.inf, np.nan, 1e-40, -1e-40,
                  1e5, -1e5, 1e7, -3e9, 1e30, 3e38], dtype)  # fmt: skip
    case = Case()
    i = case.leaf("input", shape, dtype)
    for op in ("exp", "expm1", "log", "log1p", "sin", "cos", "sinh", "cosh", "tanh", "erf", "erfc", "sqrt", "floor",
               "ceil", "rint", "sign", "absolute", "negative"):  # fmt: skip
        case.outputs.append(case.do(op, i))
    case.outputs += [case.do(op, i, dtype=np.dtype(bool)) for op in ("isfinite", "isnan")]
    case.outputs += [case.do("where", case.outputs[k], i, 1.0) for k in (-2, -1)]
    case.outputs += [case.do("power", i, p) for p in (1.5, 3.0, -1.0, 0.0)]
    case.outputs += [case.do("tanh_vjp", 1.0, i), case.do("divide", 1.0, i), case.do("divide", i, i)]
    inputs = [x.reshape(shape)]
    agree(case, run(case, compiled(case), inputs, []), (inputs, [], []))


# The disk cache, and other processors

SCRIPT = """
import sys
import numpy as np
from compiler.graphs import Case, F4, F8, check
for dtype in (F4, F8):
    case = Case(values="special")
    x, s = case.leaf("input", (37, 21), dtype), case.leaf("state", (37, 21), dtype)
    y = case.do("exp", case.do("subtract", x, case.reduced("maximum", x, 1)))
    case.outputs = [case.do("divide", y, case.reduced("add", y, 1)), case.reduced("add", case.do("tanh", s), 0, 1)]
    case.updates = {0: case.do("subtract", s, case.do("multiply", x, 0.1))}
    check(case)
print("compiled" if "minigrad.kernels.code.translate" in sys.modules else "loaded")
"""
PRODUCTS = """
for dtype in (F4, F8):
    case = Case()
    a, b, c = (case.leaf("input", shape, dtype) for shape in ((40, 33), (33, 50), (50,)))
    h = case.do("maximum", case.do("add", case.graph.matmul(a, b), c), 0.0)
    i = case.leaf("input", (40,), np.int64)
    hot = case.compared("equal", case.graph.constant(np.arange(50)), case.graph.viewed(i, lambda a: a[:, None]))
    turned = case.graph.viewed(h, np.transpose)
    case.outputs = [h, case.reduced("add", h, 0), case.do("where", hot, h, 0.0), case.do("erf", turned)]
    check(case)
"""


def start(folder: Path, script: str = SCRIPT, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "MINIGRAD_CACHE_DIR": str(folder), "PYTHONPATH": path, **environment}
    command = [sys.executable, "-c", script]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out.strip()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of kernels that two processes have filled at once."""
    folder = tmp_path_factory.mktemp("warm")
    processes = [start(folder) for _ in range(2)]
    assert {outcome(p) for p in processes} <= {"compiled", "loaded"}
    return folder


def test_kernels_of_steps_are_kept(warm: Path) -> None:
    assert outcome(start(warm)) == "loaded"
    assert {p.suffix for p in (warm / "kernels").iterdir()} == {".o"}


def test_corrupt_kernels_of_steps_are_compiled_again(warm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(warm, tmp_path / "copy"))
    steps = sorted(copy.rglob("step.[0-9a-f]*.o"))
    assert len(steps) >= 4
    for spoil, path in zip((lambda c: b"", lambda c: c[:99], lambda c: c[:-1] + b"?"), steps, strict=False):
        path.write_bytes(spoil(path.read_bytes()))
    assert outcome(start(copy)) == "compiled"
    assert outcome(start(copy)) == "loaded"


@pytest.mark.skipif(os.name != "posix", reason="modes of folders are POSIX")
def test_kernels_of_steps_in_a_read_only_folder(warm: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(warm, tmp_path / "copy"))
    for path in copy.rglob("step.[0-9a-f]*.o"):
        path.unlink()
    (copy / "kernels").chmod(0o500)
    assert outcome(start(copy)) == "compiled"
    (copy / "kernels").chmod(0o700)


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="pretends x86 processors")
@pytest.mark.parametrize("cpu", CPUS)
def test_other_processors(cpu: str, tmp_path: Path) -> None:
    assert outcome(start(tmp_path, SCRIPT + PRODUCTS, **CPUS[cpu])) == "compiled"


def test_kernels_are_shared_by_programs_of_other_sizes() -> None:
    """A program of other sizes compiles nothing."""
    from minigrad.kernels import native

    def build(m: int, n: int) -> None:
        case = Case()
        x = case.leaf("input", (m, n))
        case.outputs = [case.do("tanh", case.do("multiply", softmax(case, x), 0.37))]
        assembled(case.graph, case.outputs, {}, [], inputs=1)

    build(30, 20)
    before = len(native._functions)
    build(31, 57)
    assert len(native._functions) == before
