"""Explaining: what a compiled step costs, phase by phase, and what fusion has saved.

y = relu(x * scale + shift)     3 recorded operations → 3 → 1 kernel: reads x, scale and shift, writes y once;
                                x * scale and x * scale + shift are never stored
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from minigrad.compiler.render import WIDTH, Rendering, count_of
from minigrad.compiler.story import Story


@dataclass(frozen=True)
class Cost:
    """One phase of a step: a kernel, or an operation that is called from Python as a whole.

    Attributes:
        name: what `render.source` calls it.
        formulas, lines: what it computes, and which of the user's lines it comes from.
        reads, writes: bytes of memory, each counted once.
        operations: of floating point: 2·m·n·k for a product, and one for each element of every elementwise operation
            and reduction; 0 for a call.
        chunks: into which it is cut; 0 for a call.
    """

    name: str
    formulas: tuple[str, ...]
    lines: tuple[str, ...]
    reads: int
    writes: int
    operations: int
    chunks: int


@dataclass(frozen=True)
class Explanation:
    """What a step was compiled into. Printed, it is a table.

    Attributes:
        recorded: operations on the tape.
        nodes: elementary operations that are left.
        kernels, distinct: phases of machine code, and how many functions these are.
        calls: the operations that are called from Python, in order.
        allocations: arrays that are made in each call: the results, and what operations return that are called.
        arena: bytes of the memory that intermediate values share.
        saved: bytes of intermediate values that are never stored.
        phases: all kernels and calls, in order.
    """

    recorded: int
    nodes: int
    kernels: int
    distinct: int
    calls: tuple[str, ...]
    allocations: int
    arena: int
    saved: int
    phases: tuple[Cost, ...]

    def __str__(self) -> str:
        called = ", ".join(f"{op} ×{n}" if n > 1 else op for op, n in Counter(self.calls).items()) or "none"
        rows = [
            f"{self.recorded} recorded operations → {self.nodes} elementary ones → {self.kernels} kernels "
            f"({self.distinct} different)",
            f"called from Python: {called}",
            f"intermediate values: {in_bytes(self.arena)} of memory, {in_bytes(self.saved)} never stored; "
            f"arrays made in each call: {self.allocations}",
            "",
            f"     {'kernel':56} {'reads':>10} {'writes':>10} {'operations':>12} {'chunks':>7}",
        ]
        for k, cost in enumerate(self.phases):
            numbers = f"{in_bytes(cost.reads):>10} {in_bytes(cost.writes):>10} {in_thousands(cost.operations):>12}"
            rows.append(f"{k:3}  {shortened(cost.name, 56):56} {numbers} {cost.chunks or 'call':>7}")
            rows += [shortened(f"       {text}", WIDTH) for text in (*cost.formulas, *(f"← {x}" for x in cost.lines))]
        return "\n".join(rows)


def in_bytes(n: int) -> str:
    """'3.4 MB'."""
    return f"{n} B" if n < 1000 else f"{n / 1e3:.1f} kB" if n < 1e6 else f"{n / 1e6:.1f} MB"


def in_thousands(n: int) -> str:
    """'3.4 M'."""
    return f"{n}" if n < 1000 else f"{n / 1e3:.1f} k" if n < 1e6 else f"{n / 1e6:.1f} M"


def shortened(text: str, width: int) -> str:
    """A text, with dots in place of what is beyond a width."""
    return text if len(text) <= width else f"{text[: width - 3]}..."


def explain(story: Story) -> Explanation:
    """What a plan is, and what its phases cost, with the names and lines of its story."""
    rendering, plan, graph = Rendering(story), story.plan, story.graph

    def size(i: int) -> int:
        count = plan.partials[i] if i in plan.partials else math.prod(graph.nodes[i].shape)
        return count * graph.nodes[i].dtype.itemsize

    def read(j: int) -> int:
        shape, strides, _ = graph.layout(j)
        touched = math.prod(n for n, s in zip(shape, strides, strict=True) if s) * graph.nodes[j].dtype.itemsize
        base = graph.base(j)
        return size(base) if base in plan.partials else min(size(base), touched)

    def operations(i: int) -> int:
        node = graph.nodes[i]
        if node.op == "matmul":
            return 2 * math.prod(node.shape) * graph.nodes[node.inputs[0]].shape[-1]
        whole = graph.nodes[node.inputs[0]] if node.op == "reduce" else node
        return 0 if node.op in ("cast", "copy", "call", "output") else math.prod(whole.shape)

    costs, passing = [], set[int]()
    for phase in plan.phases:
        loads: Counter[int] = Counter()
        for j in story.kernel(phase).loads:
            loads[graph.base(j)] = max(loads[graph.base(j)], read(j))
        computed = story.computes(phase)
        passing |= {i for i in computed if i not in plan.fused.stored and graph.nodes[i].op not in ("call", "copy")}
        cost = Cost(
            name=rendering.title(phase),
            formulas=tuple(story.formulas(phase)),
            lines=tuple(story.lines(phase)),
            reads=loads.total(),
            writes=sum(map(size, story.stores(phase))),
            operations=sum(map(operations, computed)),
            chunks=0 if phase.source is None else phase.chunks,
        )
        costs.append(cost)
    calls = tuple(cost.name for cost in costs if not cost.chunks)
    return Explanation(
        recorded=story.recorded,
        nodes=count_of(rendering),
        kernels=len(costs) - len(calls),
        distinct=len(rendering.groups),
        calls=calls,
        allocations=sum(place.kind in ("result", "returned") for place in plan.places.values()),
        arena=plan.arena,
        saved=sum(map(size, passing)),
        phases=tuple(costs),
    )
