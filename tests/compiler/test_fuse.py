"""Fusion: how many kernels known networks take, what of them lies in memory, and that nothing is read too early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from minigrad.compiler.fuse import LEAVES, Fused, fuse, reduction_of
from minigrad.compiler.graph import ELEMENTWISE, Call
from minigrad.compiler.schedule import own_copies
from minigrad.core.op import registry

from .graphs import F4, F8, Case, programs


def fused(case: Case) -> Fused:
    return fuse(case.graph, own_copies(case.graph, [*case.outputs, *case.updates.values()]))


def stored_shapes(case: Case) -> list[tuple[int, ...]]:
    """Of what kernels put into memory, the results and new values of states apart."""
    found = fused(case)
    wanted = {found.graph.base(i) for i in found.wanted}
    return sorted(found.graph.nodes[i].shape for i in found.stored - wanted)


def dense(case: Case, x: int, n: int, activation: str = "") -> tuple[int, int, int]:
    """act(x·w + b), and the states w and b."""
    _, k = case.shape(x)
    w, b = case.leaf("state", (k, n)), case.leaf("state", (n,))
    y = case.do("add", case.graph.matmul(x, w), b)
    return (case.do("maximum", y, 0.0) if activation == "relu" else case.do("tanh", y) if activation else y), w, b


def softmax(case: Case, x: int) -> int:
    e = case.do("exp", case.do("subtract", x, case.reduced("maximum", x, -1)))
    return case.do("divide", e, case.reduced("add", e, -1))


def layer_norm(case: Case, x: int) -> int:
    n = case.shape(x)[-1]
    apart = case.do("subtract", x, case.do("multiply", case.reduced("add", x, -1), 1 / n))
    variance = case.do("multiply", case.reduced("add", case.do("multiply", apart, apart), -1), 1 / n)
    y = case.do("divide", apart, case.do("sqrt", case.do("add", variance, 1e-5)))
    scale, shift = case.leaf("state", (n,)), case.leaf("state", (n,))
    return case.do("add", case.do("multiply", y, scale), shift)


def attention(case: Case, q: int, k: int) -> int:
    """softmax(q·kᵀ/8)."""
    return softmax(case, case.do("multiply", case.graph.matmul(q, case.graph.viewed(k, np.transpose)), 0.125))


# What it computes of an input x of shape (64, 32): how many kernels that takes
KERNELS: dict[str, tuple[Callable[[Case, int], Any], int]] = {
    "a dense layer": (lambda c, x: dense(c, x, 20)[0], 1),
    "a dense layer with relu": (lambda c, x: dense(c, x, 20, "relu")[0], 1),
    "a dense layer with tanh": (lambda c, x: dense(c, x, 20, "tanh")[0], 1),
    "a dense layer with softmax": (lambda c, x: softmax(c, dense(c, x, 20)[0]), 1),
    "two dense layers": (lambda c, x: dense(c, dense(c, x, 20, "relu")[0], 10)[0], 2),
    "softmax": (softmax, 1),
    "layer norm": (layer_norm, 1),
    "layer norm after a dense layer": (lambda c, x: layer_norm(c, dense(c, x, 20)[0]), 1),
    "attention": (lambda c, x: attention(c, x, c.leaf("input", (50, 32))), 1),
    "a chain of elementwise operations": (
        lambda c, x: c.do("tanh", c.do("multiply", c.do("exp", c.do("add", x, 1.0)), c.leaf("state", (32,)))),
        1,
    ),
    "a sum of squares": (lambda c, x: c.reduced("add", c.do("multiply", x, x), 0, 1), 2),  # chunks, and all of them
    "sums of columns": (lambda c, x: c.reduced("add", c.do("exp", x), 0), 1),
    "sums of rows": (lambda c, x: c.do("log", c.reduced("add", c.do("exp", x), 1)), 1),
    "a transposed chain": (lambda c, x: c.graph.viewed(c.do("exp", c.do("add", x, 1.0)), np.transpose), 1),
    "something of the sums of columns": (lambda c, x: c.do("subtract", x, c.reduced("add", x, 0)), 2),
}


@pytest.mark.parametrize("name", KERNELS)
def test_how_many_kernels(name: str) -> None:
    made, n = KERNELS[name]
    case = Case()
    case.outputs = [made(case, case.leaf("input", (64, 32)))]
    found = fused(case)
    assert len(found.kernels) == n, "\n".join(map(str, found.kernels))


def training_step(case: Case, rate: float = 0.1) -> None:
    """The example of fuse.py: a layer with relu, its gradients from a cotangent g of h·v, and SGD."""
    x, g, v = case.leaf("input", (64, 32)), case.leaf("input", (64, 10)), case.leaf("state", (20, 10))
    h, w, b = dense(case, x, 20, "relu")
    back = case.graph.matmul(g, case.graph.viewed(v, np.transpose))
    d = case.do("where", case.compared("greater", h, 0.0), back, 0.0)
    into_w = case.graph.matmul(case.graph.viewed(x, np.transpose), d)
    into_b = case.graph.viewed(case.reduced("add", d, 0), lambda a: a[0])
    into_v = case.graph.matmul(case.graph.viewed(h, np.transpose), g)
    case.updates = {
        k: case.do("subtract", s, case.do("multiply", into, rate))
        for k, (s, into) in enumerate([(v, into_v), (w, into_w), (b, into_b)])
    }


def test_a_training_step() -> None:
    """Two kernels for the layers, one for each parameter, and no gradient of a weight is stored: SGD happens where the
    product is computed."""
    case = Case()
    training_step(case)
    found = fused(case)
    assert len(found.kernels) == 5
    assert sum(k.product is not None for k in found.kernels) == 4
    assert stored_shapes(case) == [(1, 20), (64, 20), (64, 20)]  # Σ d, h, d


def test_adam_stores_no_gradient() -> None:
    """Moments and weight are updated by one kernel, that of the product, with the size of the steps from another."""
    case = Case()
    x, g = case.leaf("input", (64, 32)), case.leaf("input", (64, 20))
    w, m, v = (case.leaf("state", (32, 20)) for _ in range(3))
    count = case.leaf("state", ())
    gradient = case.graph.matmul(case.graph.viewed(x, np.transpose), g)
    new_count = case.do("add", count, 1.0)
    mean = case.do("add", case.do("multiply", m, 0.9), case.do("multiply", gradient, 0.1))
    square = case.do(
        "add", case.do("multiply", v, 0.99), case.do("multiply", case.do("multiply", gradient, gradient), 0.01)
    )
    size = case.do("divide", 0.001, case.do("subtract", 1.0, case.do("power", 0.9, new_count)))
    step = case.do("divide", case.do("multiply", mean, size), case.do("add", case.do("sqrt", square), 1e-8))
    case.updates = {0: case.do("subtract", w, step), 1: mean, 2: square, 3: new_count}
    found = fused(case)
    assert len(found.kernels) == 2
    assert all(case.shape(i) == () for i in found.stored - {found.graph.base(j) for j in found.wanted})


def test_what_is_cheap_is_computed_again() -> None:
    """h > 0 is not stored for a kernel that comes later: it is computed from h."""
    case = Case()
    x = case.leaf("input", (64, 32))
    h, *_ = dense(case, x, 20, "relu")
    above = case.compared("greater", h, 0.0)
    case.outputs = [
        h,
        case.graph.matmul(case.do("where", above, case.leaf("input", (64, 20)), 0.0), case.leaf("input", (20, 3))),
    ]
    assert all(case.graph.nodes[i].dtype != bool for i in fused(case).stored)


def test_shared_divisors_are_inverted_once() -> None:
    case = Case()
    x, y, z = (case.leaf("input", (8, 9)) for _ in range(3))
    case.outputs = [case.do("divide", x, z), case.do("divide", y, z)]
    found = fused(case)
    of_kernels = [found.graph.nodes[i].op for k in found.kernels for i in found.graph.live(k.nodes)]
    assert of_kernels.count("divide") == 1
    case.outputs = [case.do("divide", x, z)]
    found = fused(case)
    assert [found.graph.nodes[i].op for k in found.kernels for i in k.nodes] == ["divide"]


def test_operations_that_read_the_same_share_a_kernel() -> None:
    case = Case()
    x, y = case.leaf("input", (40, 30)), case.leaf("input", (40, 30))
    case.outputs = [case.do("exp", x), case.do("multiply", x, y), case.do("add", x, 1.0)]
    assert len(fused(case).kernels) == 1


def test_calls_are_kernels_of_their_own() -> None:
    case = Case()
    x = case.leaf("input", (4, 5))
    call = Call(registry["cumulative_sum"], {}, {"axis": 0})
    (y,) = case.graph.call(call, [case.do("exp", x)], [((4, 5), F4)])
    case.outputs = [case.do("tanh", y)]
    found = fused(case)
    assert [k.call is not None for k in found.kernels] == [False, True, False]


def test_the_given_graph_means_the_same_afterwards() -> None:
    case = Case()
    training_step(case)
    before = case.graph.dump([*case.updates.values()])
    fused(case)
    assert case.graph.dump([*case.updates.values()]) == before


@given(programs())
def test_kernels_need_only_what_is_there(case: Case) -> None:
    """Each node is computed once, after its inputs, from leaves and from what earlier kernels have stored."""
    found = fused(case)
    graph = found.graph
    assert all(i in found.home or graph.nodes[i].op in LEAVES for i in map(graph.base, found.wanted))
    all_nodes = [i for k in found.kernels for i in k.nodes]
    assert len(all_nodes) == len(set(all_nodes))
    for k, kernel in enumerate(found.kernels):
        assert kernel.product is None or kernel.call is None
        assert not (kernel.call is not None and kernel.nodes)
        there: set[int] = {x for x in (kernel.product, kernel.call) if x is not None} | set(kernel.loads)
        for j in kernel.loads:
            base = graph.base(j)
            assert graph.nodes[base].op in LEAVES or (found.home[base] < k and base in found.stored)
        for i in kernel.nodes:
            assert found.home[i] == k
            pending = list(graph.nodes[i].inputs)
            while pending:  # down to what is loaded, or was reduced by the kernel before; the rest it computes itself
                j = pending.pop()
                if j not in there and graph.nodes[j].op not in ("literal", "iota"):
                    assert graph.nodes[j].op in (*ELEMENTWISE, "copy", "view"), f"kernel {k} needs %{j} too early"
                    pending += graph.nodes[j].inputs
            there.add(i)


@pytest.mark.parametrize(
    ("grid", "axes", "wanted"),
    [
        ((8, 3, 4), (2,), ("row", 2)), ((8, 3, 4), (1, 2), ("row", 1)), ((8, 3, 4), (0,), ("column", 1)),
        ((8, 3, 4), (0, 1), ("column", 2)), ((8, 3, 4), (1,), ("other", None)), ((8, 3, 4), (0, 2), ("other", None)),
        ((8, 3, 4), (0, 1, 2), ("full", None)), ((8, 1, 4), (2,), ("row", 2)), ((8, 1), (0,), ("full", None)),
        ((1, 8), (1,), ("full", None)), ((8, 1, 4), (0, 1), ("column", 1)),
    ],
)  # fmt: skip
def test_reduction_of(grid: tuple[int, ...], axes: tuple[int, ...], wanted: tuple[str, int | None]) -> None:
    assert reduction_of(grid, axes) == wanted


def test_other_dtypes_change_nothing() -> None:
    counts = set()
    for dtype in (F4, F8):
        case = Case()
        case.outputs = [softmax(case, case.leaf("input", (64, 32), dtype))]
        counts.add(len(fused(case).kernels))
    assert counts == {1}
