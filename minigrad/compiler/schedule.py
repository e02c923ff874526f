"""The schedule: in which order kernels run, what waits for what, where results lie, and into which chunks work is cut.

A new value of a tensor goes straight into the tensor's memory, once everybody who needs the old one has run; where
that can't be, it is computed elsewhere and copied at the end. All other results share one block of memory, the arena,
in which the place of a result that nobody needs any more is used again.

    kernel 1 stores h    kernel 2 reads h, stores d    kernel 3 reads d, writes b    kernel 4 reads d, writes w
    arena:  h: bytes 0 to 65536, d: bytes 65536 to 131072;  3 and 4 wait for 2, 2 waits for 1, 4 also for who reads w

Chunks depend on shapes alone, never on the number of threads: so do sums over chunks, and all bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minigrad.compiler.emit import Source, emit
from minigrad.compiler.fuse import Fused, Kernel, kind_of
from minigrad.compiler.graph import ELEMENTWISE, Graph
from minigrad.kernels import matmul

LINE = 64  # bytes of a cache line, to which everything is aligned
PER_CHUNK = 1 << 14  # elements of an elementwise kernel: some 2 to 30 µs of work
MOST_CHUNKS = 16
SCRATCH = 1 << 17  # bytes of a product's chunk that is not stored: it has to stay in the second-level cache
SEVERAL, MANY = 3e5, 4e6  # floating-point operations from which on a product has 2, and 4, chunks


class Place(NamedTuple):
    """Where a value lies: 'arena' at an offset in bytes; 'input', 'state', 'array', 'constant', 'result' number k; or,
    returned by an operation that is called as a whole, in an array of its own: 'returned', by node."""

    kind: str
    k: int


@dataclass
class Phase:
    """A kernel in the order in which it runs."""

    kernel: int
    source: Source | None  # None: it is called from Python
    row_step: int = 1
    column_step: int = 1
    chunks: int = 1
    waits: list[int] = field(default_factory=list)
    plan: np.ndarray | None = None  # of its product
    scratch: int = 0  # bytes for each thread


@dataclass
class Schedule:
    """All phases of a step, and where every stored value lies."""

    fused: Fused
    phases: list[Phase]
    places: dict[int, Place]
    arena: int  # bytes
    partials: dict[int, int]  # of a full reduction: how many chunks


def own_copies(graph: Graph, wanted: Sequence[int]) -> list[int]:
    """The wanted nodes, each once and each one that a kernel can store: copies of what is a view, a leaf, or a sum."""
    seen: set[int] = set()
    own: list[int] = []
    for i in wanted:
        node = graph.nodes[i]
        stored = (
            node.op in (*ELEMENTWISE, "copy", "call", "output")
            or (node.op == "matmul" and len(node.shape) == 2)  # a stack of products may become a view of one
            or (node.op == "reduce" and kind_of(graph, i) in ("row", "column"))
        )
        if not stored or i in seen:
            i = graph.own_copy(i, len(own))
        seen.add(i)
        own.append(i)
    return own


def schedule(fused: Fused, results: int, updates: Sequence[int]) -> Schedule:
    """Order and place everything.

    Args:
        fused: whose `wanted` begin with so many results, and go on with the new values of the states `updates`.
    """
    graph = fused.graph
    new_values = dict(zip(fused.wanted[results:], updates, strict=True))
    in_place = {i: k for i, k in new_values.items() if _can_be_in_place(fused, i, k)}
    order = _ordered(fused, in_place)
    for i, k in new_values.items():
        if i not in in_place:
            copy = graph.own_copy(i, -1 - k)
            fused.kernels.append(Kernel(graph.nodes[i].shape, nodes=[copy], loads=[i]))
            fused.home[copy] = len(fused.kernels) - 1
            fused.stored |= {i, copy}
            in_place[copy] = k
            order.append(fused.home[copy])
    places = {i: Place("result", k) for k, i in enumerate(fused.wanted[:results])}
    places |= {i: Place("state", k) for i, k in in_place.items()}
    called = [i for i in fused.stored if i not in places and fused.kernels[fused.home[i]].call is not None]
    places |= {i: Place("returned", i) for i in called}
    phases = [_phase(fused, k, places) for k in order]
    partials = {
        r: phases[order.index(fused.home[r])].chunks
        for r in fused.stored
        if graph.nodes[r].op == "reduce" and kind_of(graph, r) == "full"
    }
    arena = _allocate(fused, order, places, partials)
    _find_waits(fused, order, phases, places, partials)
    return Schedule(fused, phases, places, arena, partials)


def _leaf(graph: Graph, j: int) -> int | None:
    """The state that a load reads the old value of."""
    base = graph.nodes[graph.base(j)]
    return base.params[0] if base.op == "state" else None


def _can_be_in_place(fused: Fused, i: int, k: int) -> bool:
    """Whether the kernel of a new value reads the old one, if at all, only where it puts the new one, and before."""
    graph, kernel = fused.graph, fused.kernels[fused.home[i]]
    if i not in kernel.nodes or graph.nodes[i].op == "reduce":
        return False
    old = [j for j in kernel.loads if _leaf(graph, j) == k]
    for_product = [] if kernel.product is None else graph.nodes[kernel.product].inputs
    alike = all(graph.nodes[j].op == "state" and j not in for_product for j in old)
    return alike and graph.nodes[i].shape == kernel.grid and (kernel.reduces != "row" or not old)


def _ordered(fused: Fused, in_place: dict[int, int]) -> list[int]:
    """The kernels so that each comes after those it needs, and after those who need a value that it overwrites.

    If that is a circle, a new value that takes part in it is taken out of `in_place`.
    """
    graph = fused.graph
    while True:
        before: list[set[int]] = []
        for k, kernel in enumerate(fused.kernels):
            bases = {graph.base(j) for j in kernel.loads}
            before.append({fused.home[b] for b in bases if b in fused.home} - {k})
        for i, state in in_place.items():
            writer = fused.home[i]
            readers = {k for k, kernel in enumerate(fused.kernels) for j in kernel.loads if _leaf(graph, j) == state}
            before[writer] |= readers - {writer}
        order: list[int] = []
        left = set(range(len(before)))
        while ready := sorted(k for k in left if not before[k] & left):
            order += ready
            left -= set(ready)
        if not left:
            return order
        del in_place[next(i for i in in_place if fused.home[i] in left)]


def _phase(fused: Fused, k: int, places: dict[int, Place]) -> Phase:
    """The source of a kernel, and its chunks."""
    kernel = fused.kernels[k]
    if kernel.call is not None:
        return Phase(k, None)
    if kernel.product is None:
        source = emit(fused, k)
        return Phase(k, source, *_divided(source.rows, source.columns, kernel.reduces))
    product = kernel.product
    target, bias = _target(fused, kernel, product, places), _bias(fused, kernel, product)
    return _product_phase(fused, k, product, emit(fused, k, bias, target), target is None)


def _bias(fused: Fused, kernel: Kernel, product: int) -> int | None:
    """The sum of the product with a row that lies in memory, if nobody needs the product itself."""
    nodes = fused.graph.nodes
    users = [i for i in kernel.nodes if product in nodes[i].inputs]
    if len(users) != 1 or product in fused.stored or nodes[users[0]].op != "add":
        return None
    other = next((j for j in nodes[users[0]].inputs if j != product), product)
    if other not in kernel.loads or nodes[other].op != "view":
        return None
    along = [s for s, n in zip(nodes[other].params[0], nodes[other].shape, strict=True) if n > 1]
    is_row = not any(along[:-1]) and along[-1:] == [1] and nodes[other].shape[-1] > 1
    return users[0] if is_row else None


def _target(fused: Fused, kernel: Kernel, product: int, places: dict[int, Place]) -> int | None:
    """The node in whose memory the product can be computed, if there is one."""
    nodes = fused.graph.nodes
    for i in (product, *kernel.nodes):
        alike = (nodes[i].shape, nodes[i].dtype) == (kernel.grid, nodes[product].dtype)
        once = i == product or kernel.reduces != "row"  # in several passes over a row it is read several times
        old = places.get(i) is not None and places[i].kind == "state"  # whose old value is still to be read
        if i in fused.stored and alike and once and not old:
            return i
    return None


def up(n: int, to: int) -> int:
    """The next multiple."""
    return -(-n // to) * to


def _divided(rows: int, columns: int, reduces: str) -> tuple[int, int, int]:
    """The rows and the columns of a chunk of an elementwise kernel, and how many chunks there are."""
    pieces, columns = max(1, min(MOST_CHUNKS, rows * columns // PER_CHUNK)), max(1, columns)
    if reduces == "column" or (reduces != "row" and rows < pieces):
        step = min(columns, up(-(-columns // pieces), LINE))
        return rows, step, -(-columns // step)
    step = -(-rows // pieces)
    return step, columns, -(-rows // step)


def _product_phase(fused: Fused, k: int, product: int, source: Source, scratch: bool) -> Phase:
    """The chunks of a product: so many that threads have work, and so small that a chunk stays near."""
    graph = fused.graph
    a, b = graph.nodes[product].inputs
    size = graph.nodes[a].dtype.itemsize
    m, n, inner = source.rows, source.columns, graph.nodes[a].shape[-1]
    work = 2 * m * n * inner
    pieces = 4 if work > MANY else 2 if work > SEVERAL else 1
    if scratch:
        pieces = max(pieces, -(-m * n * size // SCRATCH))
    a_strides, b_strides = (_matrix_strides(graph, j, size) for j in (a, b))
    rows, columns = matmul.divided(m, n, inner, pieces, size, b_strides, fused.kernels[k].reduces)
    c_row = (columns if scratch else n) * size
    plan = matmul.plan(m, n, inner, a_strides, b_strides, size, rows, columns, c_row)
    phase = Phase(k, source, rows, columns, -(-m // rows) * -(-n // columns), plan=plan)
    phase.scratch = rows * columns * size if scratch else 0
    return phase


def _matrix_strides(graph: Graph, j: int, size: int) -> tuple[int, int]:
    """The distances between rows and columns of an operand, in bytes."""
    _, strides, _ = graph.layout(j)
    return strides[-2] * size, strides[-1] * size


def _bytes(graph: Graph, i: int, partials: dict[int, int]) -> int:
    node = graph.nodes[i]
    count = partials[i] if i in partials else math.prod(node.shape)
    return up(max(1, count * node.dtype.itemsize), 2 * LINE)


def _lives(fused: Fused, order: list[int], places: dict[int, Place]) -> dict[int, tuple[int, int]]:
    """Of everything in the arena: the first and the last phase that touches it."""
    graph, when = fused.graph, {k: p for p, k in enumerate(order)}
    lives = {}
    for i in fused.stored:
        if i not in places:
            lives[i] = (when[fused.home[i]], when[fused.home[i]])
    for k, kernel in enumerate(fused.kernels):
        for j in kernel.loads:
            base = graph.base(j)
            if base in lives:
                lives[base] = lives[base][0], max(lives[base][1], when[k])
    return lives


def _allocate(fused: Fused, order: list[int], places: dict[int, Place], partials: dict[int, int]) -> int:
    """Give everything that has no place yet one in the arena, the largest first, each as low as possible."""
    lives = _lives(fused, order, places)
    taken: list[tuple[int, int, tuple[int, int]]] = []
    end = 0
    for i in sorted(lives, key=lambda i: (-_bytes(fused.graph, i, partials), i)):
        size, life, at = _bytes(fused.graph, i, partials), lives[i], 0
        for start, stop, other in sorted(taken):
            if start < at + size and at < stop and not (life[1] < other[0] or other[1] < life[0]):
                at = stop
        taken.append((at, at + size, life))
        places[i] = Place("arena", at)
        end = max(end, at + size)
    return end


def _find_waits(
    fused: Fused, order: list[int], phases: list[Phase], places: dict[int, Place], partials: dict[int, int]
) -> None:
    """Each phase waits for those whose memory it reads, and for those who use what it overwrites."""
    graph = fused.graph

    def region(i: int) -> tuple[str, int, int]:
        node = graph.nodes[i]
        place = places.get(i) or Place(node.op, node.params[0])
        if place.kind == "arena":
            return "arena", place.k, place.k + _bytes(graph, i, partials)
        return f"{place.kind} {place.k}", 0, 1

    reads = [{region(graph.base(j)) for j in fused.kernels[k].loads} for k in order]
    writes: list[set[tuple[str, int, int]]] = [set() for _ in order]
    where = {k: p for p, k in enumerate(order)}
    for i in fused.stored:
        writes[where[fused.home[i]]].add(region(i))

    def meet(a: set[tuple[str, int, int]], b: set[tuple[str, int, int]]) -> bool:
        return any(x[0] == y[0] and x[1] < y[2] and y[1] < x[2] for x in a for y in b)

    implied: list[set[int]] = []
    for p, phase in enumerate(phases):
        known: set[int] = set()
        for q in reversed(range(p)):
            if q not in known and (meet(reads[p] | writes[p], writes[q]) or meet(writes[p], reads[q])):
                phase.waits.append(q)
                known |= implied[q] | {q}
        implied.append(known)
