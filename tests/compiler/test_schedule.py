"""The schedule: waits cover everything that phases share, memory is used again, states are updated in place."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.compiler import schedule as module
from minigrad.compiler.emit import collapse
from minigrad.compiler.fuse import fuse
from minigrad.compiler.graph import Call
from minigrad.compiler.schedule import LINE, Place, Schedule, own_copies, schedule
from minigrad.core.op import registry
from minigrad.kernels import matmul

from .graphs import F4, F8, Case, check, compiled, programs
from .test_fuse import training_step


def planned(case: Case) -> Schedule:
    wanted = own_copies(case.graph, [*case.outputs, *case.updates.values()])
    return schedule(fuse(case.graph, wanted), len(case.outputs), list(case.updates))


def region(plan: Schedule, i: int) -> tuple[Any, int, int]:
    """The memory of a value: what memory, and from which byte to which."""
    node = plan.fused.graph.nodes[i]
    place = plan.places.get(i) or Place(node.op, node.params[0])
    count = plan.partials.get(i) or math.prod(node.shape)
    if place.kind == "arena":
        return "arena", place.k, place.k + max(1, count * node.dtype.itemsize)
    return tuple(place), 0, 1


def overlap(a: tuple[Any, int, int], b: tuple[Any, int, int]) -> bool:
    return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]


@given(programs())
def test_phases_wait_for_all_whose_memory_they_share(case: Case) -> None:
    """Whoever reads what another writes, or writes where another reads or writes, waits for it, or is waited for; each
    reads what was meant; a kernel does not write where it reads at another place."""
    plan = planned(case)
    graph = plan.fused.graph
    assert sorted(p.kernel for p in plan.phases) == list(range(len(plan.fused.kernels)))
    reads = [[graph.base(j) for j in plan.fused.kernels[p.kernel].loads] for p in plan.phases]
    at = {p.kernel: n for n, p in enumerate(plan.phases)}
    writes: list[list[int]] = [[] for _ in plan.phases]
    for i in plan.fused.stored:
        writes[at[plan.fused.home[i]]].append(i)
        assert region(plan, i)[2] <= plan.arena or plan.places[i].kind != "arena"
        assert plan.places[i].kind != "arena" or plan.places[i].k % LINE == 0
    after: list[set[int]] = []  # of each phase: those that are over when it begins
    for p, phase in enumerate(plan.phases):
        assert all(q < p for q in phase.waits)
        after.append(set().union(*({q} | after[q] for q in phase.waits)))
    for p in range(len(plan.phases)):
        for q in range(p):
            shared = [
                (i, j)
                for mine, others in ((reads[p], writes[q]), (writes[p], reads[q]), (writes[p], writes[q]))
                for i in mine
                for j in others
                if overlap(region(plan, i), region(plan, j))
            ]
            assert not shared or q in after[p], f"phase {p} does not wait for {q}, with which it shares {shared}"
        for i in reads[p]:  # nobody has written there since it was computed
            if i not in plan.fused.home:
                since = -1
            else:
                since = at[plan.fused.home[i]]
                assert since in after[p]
            for q in range(since + 1, p):
                spoilt = [j for j in writes[q] if j != i and overlap(region(plan, i), region(plan, j))]
                assert not spoilt, f"phase {p} reads %{i}, which phase {q} has overwritten with {spoilt}"


@given(programs())
def test_chunks_cover_the_grid(case: Case) -> None:
    for phase in planned(case).phases:
        if phase.source is not None:
            rows, columns = phase.source.rows, phase.source.columns
            assert 1 <= phase.row_step <= max(1, rows)
            assert 1 <= phase.column_step <= max(1, columns)
            assert phase.chunks == -(-rows // phase.row_step) * -(-max(1, columns) // phase.column_step)


def test_memory_is_used_again() -> None:
    """A chain of products takes the memory of two, however long it is."""
    sizes = []
    for n in (4, 8, 16):
        case = Case()
        x, w = case.leaf("input", (64, 64)), case.leaf("input", (64, 64))
        for _ in range(n):
            x = case.do("tanh", case.graph.matmul(x, w))
        case.outputs = [x]
        sizes.append(planned(case).arena)
    assert sizes == [2 * 64 * 64 * 4] * 3


def test_what_is_needed_later_keeps_its_memory() -> None:
    case = Case()
    x, w = case.leaf("input", (64, 64)), case.leaf("input", (64, 64))
    first = y = case.graph.matmul(x, w)
    for _ in range(5):
        y = case.graph.matmul(y, w)
    case.outputs = [case.graph.matmul(first, y)]
    assert planned(case).arena == 3 * 64 * 64 * 4
    check(case)


def test_results_lie_in_their_own_memory() -> None:
    case = Case()
    x = case.leaf("input", (64, 64))
    case.outputs = [case.do("exp", x), case.do("tanh", x)]
    plan = planned(case)
    assert plan.arena == 0
    assert sorted(plan.places.values()) == [("result", 0), ("result", 1)]


def in_place(plan: Schedule) -> set[int]:
    """The states that no copy at the end is made for."""
    nodes = plan.fused.graph.nodes
    return {place.k for i, place in plan.places.items() if place.kind == "state" and nodes[i].op != "copy"}


def test_states_are_updated_in_place() -> None:
    case = Case()
    training_step(case)
    plan = planned(case)
    assert in_place(plan) == {0, 1, 2}
    assert len(plan.phases) == 5
    check(case)


STATES = {
    "elementwise": (lambda c, a, b: {0: c.do("add", a, b)}, {0}),
    "one after the other": (lambda c, a, b: {0: (t := c.do("exp", a)), 1: c.do("multiply", b, t)}, {0, 1}),
    "reversed": (lambda c, a, b: {0: c.do("exp", c.graph.viewed(a, np.flip))}, set()),
    "its own product": (lambda c, a, b: {0: c.graph.matmul(a, b)}, set()),
    "less the product of others": (lambda c, a, b: {0: c.do("subtract", a, c.graph.matmul(b, b))}, {0}),
    "less its rows' sums": (lambda c, a, b: {0: c.do("subtract", a, c.reduced("add", a, 1))}, set()),
    "less the other's rows' sums": (lambda c, a, b: {0: c.do("subtract", a, c.reduced("add", b, 1))}, {0}),
}


@pytest.mark.parametrize("name", STATES)
def test_which_states_are_updated_in_place(name: str) -> None:
    updates, wanted = STATES[name]
    case = Case()
    case.updates = updates(case, case.leaf("state", (40, 40)), case.leaf("state", (40, 40)))
    found = in_place(planned(case))
    assert found <= wanted if name == "less the other's rows' sums" else found == wanted
    check(case)


def test_chunks_follow_from_shapes() -> None:
    """Of elementwise kernels one for some 16 thousand elements, up to 16; of products 2 and 4 for more work."""

    def chunks(case: Case) -> list[int]:
        return [p.chunks for p in planned(case).phases]

    for n, wanted in ((100, 1), (1 << 14, 1), (1 << 16, 4), (1 << 18, 16), (1 << 20, 16)):
        case = Case()
        case.outputs = [case.do("exp", case.leaf("input", (n // 10, 10)))]
        assert abs(chunks(case)[0] - wanted) <= 1, n
    for (m, k, n), least in (((10, 10, 10), 1), ((100, 100, 100), 2), ((200, 200, 200), 4)):
        case = Case()
        case.outputs = [case.graph.matmul(case.leaf("input", (m, k)), case.leaf("input", (k, n)))]
        assert (chunks(case)[0] > 1) == (least > 1)
        assert chunks(case)[0] >= least


def test_rows_and_columns_that_are_reduced_are_not_cut() -> None:
    for axis in (0, 1):
        case = Case()
        y = case.graph.matmul(case.leaf("input", (300, 200)), case.leaf("input", (200, 300)))
        case.outputs = [case.do("exp", y), case.reduced("maximum", case.do("exp", y), axis)]
        (phase,) = planned(case).phases
        assert (phase.row_step, phase.column_step)[axis] == 300
        assert phase.chunks > 1


@pytest.mark.parametrize("by", ["", "row", "column"])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (300, 5), (5, 300), (257, 263), (6, 16), (1, 1000)])
@pytest.mark.parametrize("pieces", [1, 2, 4, 9])
def test_divided(m: int, n: int, pieces: int, by: str) -> None:
    for size, k in product((4, 8), (1, 10_000)):
        rows, columns = matmul.divided(m, n, k, pieces, size, (n * size, size), by)
        assert 1 <= rows <= m
        assert 1 <= columns <= n
        assert rows == m or by != "column"
        assert columns == n or by != "row"
        assert columns == n or columns * size % 64 == 0  # two chunks never write to one line


def test_called_operations() -> None:
    """What a call returns is its own memory; its results are copied to where results and states are."""
    case = Case()
    s = case.leaf("state", (4, 5))
    call = Call(registry["cumulative_sum"], {}, {"axis": 0})
    (y,) = case.graph.call(call, [s], [((4, 5), F4)])
    case.outputs, case.updates = [case.do("exp", y)], {0: y}
    plan = planned(case)
    assert [p.source is None for p in plan.phases].count(True) == 1
    check(case)


def test_all_bits_are_the_same_for_any_number_of_phases_at_once() -> None:
    """Phases that need nothing of each other, of which helpers do some while others wait."""
    case = Case()
    xs = [case.leaf("input", (200, 210)) for _ in range(4)]
    ys = [case.graph.matmul(x, case.graph.viewed(x, np.transpose)) for x in xs]
    sums = [case.reduced("add", case.do("tanh", y), 0, 1) for y in ys]
    case.outputs = [*sums, case.do("add", case.do("multiply", ys[0], sums[1]), case.do("multiply", ys[2], sums[3]))]
    for _ in range(5):
        check(case)


# Rows and columns


@st.composite
def grids(draw: Any) -> tuple[tuple[int, ...], int | None, list[tuple[int, ...]]]:
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=0, max_size=4)))
    split = draw(st.one_of(st.none(), st.integers(0, len(shape))))
    strides = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):  # one in C order, some axes of which are copied
            of = [0 if draw(st.integers(0, 3)) == 0 else n for n in shape]
            strides.append(tuple(math.prod(m for m in of[d + 1 :] if m) * (n > 0) for d, n in enumerate(of)))
        else:
            strides.append(tuple(draw(st.integers(-5, 5)) for _ in shape))
    return shape, split, strides


@given(grids())
def test_collapse_runs_through_the_same_places(grid: tuple[tuple[int, ...], int | None, list[tuple[int, ...]]]) -> None:
    shape, split, strides = grid
    rows, columns, accesses = collapse(shape, split, strides)
    for given_strides, access in zip(strides, accesses, strict=True):
        along = enumerate(zip(shape, given_strides, strict=True))
        want = sum(
            (np.arange(n).reshape(-1, *[1] * (len(shape) - d - 1)) * s for d, (n, s) in along), np.zeros(shape, int)
        )
        axes = [*zip(rows, access.rows, strict=True), *zip(columns, access.columns, strict=True)]
        places = sum((np.arange(n).reshape(-1, *[1] * (len(axes) - d - 1)) * s
                      for d, (n, s) in enumerate(axes)), np.zeros([n for n, _ in axes], int))  # fmt: skip
        np.testing.assert_array_equal(places.reshape(-1), want.reshape(-1))
    if split is not None and 1 not in shape:
        assert math.prod(rows) == math.prod(shape[:split])


def test_constants_of_the_module_are_what_tests_count_on() -> None:
    assert (module.PER_CHUNK, module.MOST_CHUNKS) == (1 << 14, 16)


def test_double_precision_takes_twice_the_memory() -> None:
    arenas = []
    for dtype in (F4, F8):
        case = Case()
        x = case.leaf("input", (64, 64), dtype)
        case.outputs = [case.graph.matmul(case.graph.matmul(x, x), x)]
        arenas.append(planned(case).arena)
        compiled(case)
    assert arenas[1] == 2 * arenas[0]
