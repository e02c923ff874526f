"""Emission: one text for kernels of one structure, sizes and numbers as arguments, vectors where there can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from minigrad.compiler.emit import Source, emit
from minigrad.compiler.fuse import fuse
from minigrad.compiler.schedule import own_copies, schedule

from .graphs import F4, F8, I8, Case, programs
from .test_fuse import dense, layer_norm, softmax


def sources(case: Case) -> list[Source]:
    """Of all kernels, as they are compiled."""
    wanted = own_copies(case.graph, [*case.outputs, *case.updates.values()])
    plan = schedule(fuse(case.graph, wanted), len(case.outputs), list(case.updates))
    return [p.source for p in plan.phases if p.source is not None]


Made = Callable[[Case, int, int], Any]
STRUCTURES: dict[str, Made] = {
    "elementwise": lambda c, m, n: c.do("tanh", c.do("add", c.leaf("input", (m, n)), c.leaf("state", (n,)))),
    "softmax": lambda c, m, n: softmax(c, c.leaf("input", (m, n))),
    "layer norm": lambda c, m, n: layer_norm(c, c.leaf("input", (m, n))),
    "a dense layer": lambda c, m, n: dense(c, c.leaf("input", (m, n)), n + 3, "relu")[0],
    "a dense layer with softmax": lambda c, m, n: softmax(c, dense(c, c.leaf("input", (m, n)), n + 3)[0]),
    "transposed": lambda c, m, n: c.do("exp", c.graph.viewed(c.leaf("input", (m, n)), np.transpose)),
    "reversed": lambda c, m, n: c.do("exp", c.graph.viewed(c.leaf("input", (m, n)), np.flip)),
    "all": lambda c, m, n: c.reduced("add", c.do("exp", c.leaf("input", (m, n))), 0, 1),
    "columns": lambda c, m, n: c.reduced("add", c.do("exp", c.leaf("input", (m, n))), 0),
    "where a label is": lambda c, m, n: c.do(
        "where",
        c.compared(
            "equal", c.graph.constant(np.arange(n)), c.graph.viewed(c.leaf("input", (m,), I8), lambda a: a[:, None])
        ),
        c.leaf("input", (m, n)),
        0.0,
    ),
    "truths": lambda c, m, n: c.compared("less", c.leaf("input", (m, n)), c.leaf("input", (m, n))),
    "two dtypes": lambda c, m, n: c.do("add", c.graph.cast(c.leaf("input", (m, n)), F8), c.leaf("state", (n,), F8)),
    "three axes": lambda c, m, n: c.do(
        "add", c.leaf("input", (m, n, 9)), c.graph.viewed(c.leaf("input", (n, m, 9)), lambda a: a.swapaxes(0, 1))
    ),
}


def texts(made: Made, m: int, n: int) -> list[str]:
    case = Case()
    case.outputs = [made(case, m, n)]
    return [s.text for s in sources(case)]


@pytest.mark.parametrize("name", STRUCTURES)
def test_kernels_of_one_structure_have_one_text(name: str) -> None:
    """Whatever sizes they have, as long as nothing has length 1; and structures differ."""
    made = STRUCTURES[name]
    assert texts(made, 30, 20) == texts(made, 70, 33) == texts(made, 300, 257)
    others = [texts(other, 30, 20) for n, other in STRUCTURES.items() if n != name]
    assert texts(made, 30, 20) not in others


def test_numbers_are_arguments() -> None:
    """So that another learning rate is the same kernel; but 0, 1 and the like stand in the text."""

    def made(number: float) -> Source:
        case = Case()
        s, g = case.leaf("state", (30, 20)), case.leaf("input", (30, 20))
        case.updates = {0: case.do("subtract", s, case.do("multiply", g, number))}
        (source,) = sources(case)
        return source

    a, b, c = made(0.1), made(0.037), made(2.0)
    assert a.text == b.text != c.text
    numbers = lambda s: [x.what for x in s.arguments if x.kind == "float32"]
    assert numbers(a) == [np.float32(0.1)]
    assert numbers(b) == [np.float32(0.037)]
    assert numbers(c) == []


@pytest.mark.parametrize("number", [-0.0, np.nan, np.inf, -np.inf])
def test_odd_numbers_are_arguments(number: float) -> None:
    case = Case()
    x = case.leaf("input", (30, 20))
    case.outputs = [case.do("where", case.compared("greater", x, 0.0), x, number)]
    (source,) = sources(case)
    (found,) = [a.what for a in source.arguments if a.kind == "float32"]
    np.testing.assert_array_equal(np.signbit(found), np.signbit(number))
    np.testing.assert_array_equal(found, number)


def test_the_names_of_arguments() -> None:
    """All arguments are in the text, once each, then the sizes, the chunk and the thread."""
    for made in STRUCTURES.values():
        case = Case()
        case.outputs = [made(case, 30, 20)]
        for source in sources(case):
            head = source.text.splitlines()[0]
            names = [a.name for a in source.arguments]
            tail = ["rows", "columns", "row_step", "column_step", "down", "chunk", "thread"]
            assert head == f"def kernel({', '.join([*names, *tail])}):"
            assert len(set(names)) == len(names)


def test_dialects() -> None:
    """Vectors of one floating-point dtype; numbers where there are several, or where columns are single numbers."""
    of = {name: "".join(texts(made, 30, 20)) for name, made in STRUCTURES.items()}
    for name in ("elementwise", "softmax", "layer norm", "a dense layer", "where a label is", "transposed", "columns"):
        assert "load_some" in of[name] or "load_apart" in of[name], name
    for name in ("truths", "two dtypes"):
        assert "LANES" not in of[name], name
    assert "lane_is" in of["where a label is"]
    assert "[" not in of["elementwise"].replace("lanes_of", "")  # nothing is read number by number


def test_the_example() -> None:
    """The text of the file's first paragraph, x + y squared and summed."""
    case = Case()
    x, y = case.leaf("input", (30, 20)), case.leaf("input", (20,))
    z = case.do("add", x, y)
    case.outputs = [z, case.reduced("add", case.do("multiply", z, z), 0, 1)]
    first, last = sources(case)
    lines = [line.strip() for line in first.text.splitlines()]
    for line in ("for i in range(i0, i1):", "for j in range(j0, j1, LANES):", "n = j1 - j"):
        assert line in lines
    assert sum(line.startswith("store_some") for line in lines) == 1
    assert sum("keep_some" in line for line in lines) == 1
    assert lines[-1].startswith("put(")
    assert "together_add" in last.text


@given(programs())
def test_emitting_twice_gives_one_text(case: Case) -> None:
    wanted = own_copies(case.graph, [*case.outputs, *case.updates.values()])
    fused = fuse(case.graph, wanted)
    for k, kernel in enumerate(fused.kernels):
        if kernel.call is None:
            a, b = emit(fused, k), emit(fused, k)
            assert (a.text, a.arguments, a.rows, a.columns) == (b.text, b.arguments, b.rows, b.columns)
            assert all(
                a.dtype in (F4, F8) or a.dtype.kind in "biu" for a in map(fused.graph.nodes.__getitem__, kernel.nodes)
            )
