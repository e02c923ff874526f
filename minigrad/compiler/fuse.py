"""Fusion: which operations are computed together, in one pass over memory.

A kernel is a loop over a grid, the shape of what it computes. At every point of the grid it computes a chain of
elementwise operations, of which only what somebody else needs is stored; reductions collect along the way; and the
values may come from a matrix product, chunk by chunk, while they are still in a near cache.

    h = relu(x @ w + b)                  kernel 1: product x·w; + b; max(·, 0); store h
    d = where(h > 0, g @ vᵀ, 0)          kernel 2: product g·vᵀ; where(h > 0, ·, 0); store d; sum over rows
    b ← b - 0.1·Σ d over rows            kernel 3: b - 0.1·that sum, into b's own memory
    w ← w - 0.1·(xᵀ @ d)                 kernel 4: product xᵀ·d; w - 0.1·that, into w's own memory; no xᵀ·d is stored

Operations are visited in order, and each joins the latest kernel that it needs something of, if it can read it there
point by point. So a kernel never needs a later one, and no circle can arise. What needs no kernel (x², of an argument,
say), and what costs next to nothing (h > 0), belongs to no kernel: whoever needs it computes it, as long as it is a few
operations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from minigrad.compiler.graph import ELEMENTWISE, Call, Graph
from minigrad.core.op import registry

LEAVES = ("input", "state", "array", "constant")  # lie in memory when the step begins
CHEAP = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "negative", "absolute",
         "logical_and", "logical_or", "logical_not", "cast")  # fmt: skip
FEW = 16  # operations that whoever needs a value may compute again


@dataclass
class Kernel:
    """What is computed in one pass.

    Attributes:
        grid: the shape that it loops over.
        product: the matmul whose result is its first value, or None.
        call: an operation that is called as a whole, in place of all the rest, or None.
        nodes: elementwise operations and reductions, in order.
        split: how many leading axes of the grid are its rows, if it reduces rows or columns.
        loads: what it reads from memory: leaves, nodes of other kernels, views of either.
    """

    grid: tuple[int, ...]
    product: int | None = None
    call: int | None = None
    nodes: list[int] = field(default_factory=list)
    split: int | None = None
    reduces: str = ""  # "row" or "column", what split is for
    loads: list[int] = field(default_factory=list)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of what there is one of for each row."""
        assert self.split is not None
        return self.grid[: self.split] + (1,) * (len(self.grid) - self.split)


@dataclass
class Fused:
    """The kernels of a step in an order in which they can run, and what is stored where.

    Attributes:
        graph: the graph; `wanted` are its results.
        home: the kernel that computes a node.
        stored: the nodes that somebody outside of their kernel reads.
    """

    graph: Graph
    kernels: list[Kernel]
    home: dict[int, int]
    stored: set[int]
    wanted: list[int]


def reduction_of(grid: tuple[int, ...], axes: Sequence[int]) -> tuple[str, int | None]:
    """What a reduction of these axes is to a loop over the grid: "full", "row", "column" or "other"; and the split.

    Example:
        >>> reduction_of((8, 3, 4), (1, 2)), reduction_of((8, 3, 4), (0,)), reduction_of((8, 1), (0,))
        (('row', 1), ('column', 1), ('full', None))
    """
    long = [d for d, n in enumerate(grid) if n > 1]
    reduced = [d for d in long if d in axes]
    if reduced == long:
        return "full", None
    if reduced == long[-len(reduced) :]:
        return "row", reduced[0]
    if reduced == long[: len(reduced)]:
        return "column", reduced[-1] + 1
    return "other", None


def kind_of(graph: Graph, r: int) -> str:
    """Whether a reduction is a "full", a "row" or a "column" one of the grid that it reduces."""
    node = graph.nodes[r]
    return reduction_of(graph.nodes[node.inputs[0]].shape, node.params[1])[0]


def fuse(graph: Graph, wanted: Sequence[int]) -> Fused:
    """Group what is wanted, and all that it takes, into kernels."""
    live = graph.live(wanted)
    fusion = _Fusion(graph, live)
    for i in [*numbers(graph, live), *live]:  # numbers first, so that no kernel that uses one comes before it
        if i not in fusion.now:
            fusion.visit(i)
    graph.entry = None
    results = [fusion.now[i] for i in wanted]
    for i in results:
        fusion.materialise(i)
    return fusion.finished(results)


def numbers(graph: Graph, live: Sequence[int]) -> list[int]:
    """The nodes that follow from single numbers alone, as the size of Adam's steps follows from how many there were."""
    alone: set[int] = set()
    for i in live:
        node = graph.nodes[i]
        if max(node.shape, default=1) == 1 and alone.issuperset(node.inputs) and node.op not in ("call", "output"):
            alone.add(i)
    return sorted(alone)


def summed(graph: Graph, live: Sequence[int]) -> set[int]:
    """The nodes that only go, number by number, into sums of everything: a loss for each row, say, of which the mean is
    taken."""
    users: dict[int, list[int]] = {}
    for i in live:
        for j in graph.nodes[i].inputs:
            users.setdefault(j, []).append(i)
    found: set[int] = set()
    for j in reversed(live):
        size = math.prod(graph.nodes[j].shape)
        if j in users and all(
            math.prod(graph.nodes[i].shape) == size if i in found else is_full_reduction(graph, i) for i in users[j]
        ):
            found.add(j)
    return found


def is_full_reduction(graph: Graph, i: int) -> bool:
    """Whether a node is one number, of everything."""
    return graph.nodes[i].op == "reduce" and kind_of(graph, i) == "full"


class _Fusion:
    """The state of the pass: `now` is what stands in the fused graph for a node of the given one."""

    def __init__(self, graph: Graph, live: Sequence[int]):
        self.graph = graph
        self.summed = summed(graph, live)
        self.divisors = Counter(graph.nodes[i].inputs[1] for i in live if graph.nodes[i].op == "divide")
        self.kernels: list[Kernel] = []
        self.read: list[set[int]] = []  # by each kernel, of memory
        self.home: dict[int, int] = {}
        self.needs: dict[int, frozenset[int]] = {}
        self.operations: dict[int, int] = {}  # that it takes to compute a node that has no kernel
        self.now: dict[int, int] = {}

    def visit(self, i: int) -> None:
        graph, node = self.graph, self.graph.nodes[i]
        graph.entry = next(iter(graph.origins[i]), None)  # where new nodes come from, too
        inputs = [self.now[j] for j in node.inputs]
        if node.op in ("matmul", "call"):
            inputs = [self.gathered(j) for j in inputs]
        if node.op == "copy":
            new = graph.own_copy(self.settled(inputs[0]), *node.params)
        elif node.op in ELEMENTWISE:
            new = self.cheaper(i, [self.settled(j) for j in inputs])
        elif node.op == "reduce":
            new = self.reduction(node.params[0], self.settled(inputs[0]), node.params[1])
        elif node.op == "matmul" and len(node.shape) > 2:
            new = self.products(*inputs)
        else:
            new = graph.rebuilt(i, inputs)
        self.now[i] = new
        self.place(new, i in self.summed)

    def gathered(self, j: int) -> int:
        """A view of a full reduction, which lies in memory chunk by chunk, as one of the whole: for who is no loop."""
        base = self.graph.base(j)
        if not is_full_reduction(self.graph, base):
            return j
        whole = self.graph.own_copy(base)
        self.place(whole)
        return whole if j == base else self.graph.rebuilt(j, [whole])

    def cheaper(self, i: int, inputs: list[int]) -> int:
        """An elementwise node with other inputs; or, to rounding, what saves divisions."""
        graph, node = self.graph, self.graph.nodes[i]
        if node.op == "divide" and self.divisors[node.inputs[1]] > 1:  # one division for all, and multiplications
            one = graph.literal(1.0, node.dtype)
            inverse = graph.elementwise("divide", [one, inputs[1]], node.dtype, node.shape)
            self.place(inverse)
            return graph.elementwise("multiply", [inputs[0], inverse], node.dtype, node.shape)
        return graph.rebuilt(i, inputs)

    def settled(self, j: int) -> int:
        """A view of what no kernel computes as the same computation on views, so that it can be computed anywhere."""
        node = self.graph.nodes[j]
        if node.op != "view" or not self.floats(node.inputs[0]):
            return j
        moved = self.graph.elementwise_of_views(j, self.floats)
        if moved is None:
            self.materialise(node.inputs[0])
            return j
        self.note(moved)
        return moved

    def reduction(self, name: str, x: int, axes: tuple[int, ...]) -> int:
        """A reduction whose axes are the first or the last ones: axes between others are moved to the end."""
        graph, shape = self.graph, self.graph.nodes[x].shape
        if reduction_of(shape, axes)[0] != "other":
            return graph.reduce(name, x, axes)
        self.materialise(x)
        order = [d for d in range(len(shape)) if d not in axes] + list(axes)
        moved = graph.permuted(x, order)
        self.note(moved)
        last = tuple(range(len(shape) - len(axes), len(shape)))
        reduced = graph.reduce(name, moved, last)
        self.place(reduced)
        return graph.reshaped(reduced, tuple(1 if d in axes else n for d, n in enumerate(shape)))

    def products(self, a: int, b: int) -> int:
        """Matrix products with leading axes: one product, if the second matrix is always the same; else a call."""
        graph = self.graph
        shape = (*graph.nodes[a].shape[:-1], graph.nodes[b].shape[-1])
        matrix, strides, offset = graph.layout(b)
        if any(strides[:-2]):
            call = Call(registry["matmul"], {}, {})
            (new,) = graph.call(call, [a, b], [(shape, graph.nodes[a].dtype)])
            return new
        self.materialise(a)
        rows = graph.reshaped(a, (math.prod(shape[:-1]), matrix[-2]))
        new = graph.matmul(rows, graph.view(graph.base(b), matrix[-2:], strides[-2:], offset))
        for i in (rows, new):
            self.place(i)
        return graph.reshaped(new, shape)

    def floats(self, j: int) -> bool:
        """Whether a node belongs to no kernel, and whoever needs it computes it."""
        return j not in self.home and self.graph.nodes[j].op in (*ELEMENTWISE, "copy")

    def note(self, i: int) -> frozenset[int]:
        """The kernels that a node needs, directly; those of nodes that no kernel has are found on the way."""
        if i in self.home:
            return frozenset([self.home[i]])
        if i not in self.needs:
            self.needs[i] = frozenset().union(*map(self.note, self.graph.nodes[i].inputs))
        return self.needs[i]

    def place(self, i: int, is_summed: bool = False) -> None:
        """Give a node a kernel, unless it is to float.

        What there is one of for each row, and is only summed up, floats: where it is summed a vector has many rows.
        """
        node = self.graph.nodes[i]
        if i in self.home or node.op in (*LEAVES, "literal", "iota", "view"):
            return
        if node.op == "output":
            self.home[i] = self.home[node.inputs[0]]
        elif node.op in ("matmul", "call"):
            for j in node.inputs:
                self.materialise(j)
            of_matmul = node.op == "matmul"
            self.begin(Kernel(node.shape, product=i) if of_matmul else Kernel(node.shape, call=i), i)
        elif node.op == "reduce":
            self.place_reduction(i)
        elif node.op == "copy":
            self.compute(i)
        else:
            alone = all(n == 1 for n in node.shape)
            again = node.op in CHEAP or not any(map(self.note, node.inputs)) or (is_summed and self.is_of_rows(i))
            if alone or not again or self.count(i) > FEW:
                self.compute(i)

    def is_of_rows(self, i: int) -> bool:
        """Whether a node is computed from what the latest kernel that it needs has one of for each row."""
        node = self.graph.nodes[i]
        kernel = self.kernels[max(self.note(i))]
        return kernel.reduces == "row" and node.shape == kernel.row_shape != kernel.grid

    def count(self, i: int) -> int:
        """How many operations it takes to compute a node, without those of the kernels that it needs."""
        if i in self.home:
            return 0
        if i not in self.operations:
            node = self.graph.nodes[i]
            self.operations[i] = (node.op in ELEMENTWISE) + sum(map(self.count, node.inputs))
        return self.operations[i]

    def begin(self, kernel: Kernel, i: int) -> None:
        self.kernels.append(kernel)
        self.read.append(set())
        self.home[i] = len(self.kernels) - 1

    def compute(self, i: int) -> None:
        """Put an elementwise node into the latest kernel that it needs, if it can be, else into one of its own."""
        node = self.graph.nodes[i]
        k = self.latest(node.inputs, node.shape)
        memory = self.memory(i)
        later = [q for q in range(0 if k is None else k, len(self.kernels)) if memory & self.read[q]]
        for q in [*([] if k is None else [k]), *later]:  # one of the later ones if it reads the same memory anyway
            if self.fits(i, q):
                self.home[i] = q
                break
        else:
            self.begin(Kernel(node.shape), i)
        self.kernels[self.home[i]].nodes.append(i)
        self.read[self.home[i]] |= memory

    def memory(self, i: int) -> set[int]:
        """What lies in memory, or in a kernel, of all that a node is computed from."""
        found: set[int] = set()
        pending = list(self.graph.nodes[i].inputs)
        while pending:
            j = self.graph.base(pending.pop())
            if j in self.home or self.graph.nodes[j].op in LEAVES:
                found.add(j)
            else:
                pending += self.graph.nodes[j].inputs
        return found

    def latest(self, inputs: Iterable[int], shape: tuple[int, ...]) -> int | None:
        """The latest kernel that the inputs need; of numbers that need none, the kernel of such numbers."""
        needed = frozenset().union(*map(self.note, inputs))
        if needed:
            return max(needed)
        if all(n == 1 for n in shape):
            return next((k for k, kernel in enumerate(self.kernels) if self.only_numbers(kernel)), None)
        return None

    def only_numbers(self, kernel: Kernel) -> bool:
        alone = kernel.product is None and kernel.call is None and all(n == 1 for n in kernel.grid)
        return alone and not any(
            self.note(j) for i in kernel.nodes for j in self.graph.nodes[i].inputs if j not in self.home
        )

    def fits(self, i: int, k: int) -> bool:
        """Whether kernel k can compute node i, point by point or once a row."""
        kernel, node = self.kernels[k], self.graph.nodes[i]
        if kernel.call is not None:
            return False
        if node.shape == kernel.grid:
            return all(self.readable(j, k, "cell") for j in node.inputs)
        if kernel.reduces == "row" and node.shape == kernel.row_shape:
            return all(self.readable(j, k, "row") for j in node.inputs)
        return False

    def readable(self, j: int, k: int, level: str) -> bool:
        """Whether kernel k has all that node j needs of it at hand: at the same point, or of the same row."""
        kernel, node = self.kernels[k], self.graph.nodes[j]
        if k not in self.note(j):
            return True
        if j in self.home:
            if level == "row":
                return node.shape == kernel.row_shape and (node.op != "reduce" or kind_of(self.graph, j) == "row")
            return node.shape == kernel.grid and node.op != "reduce"
        if node.op == "view":
            (base,) = node.inputs
            along = kernel.reduces == "row" and level == "cell" and self.graph.nodes[base].shape == kernel.row_shape
            return along and self.graph.is_broadcast(j, kernel.grid) and self.readable(base, k, "row")
        return all(self.readable(x, k, level) for x in node.inputs)

    def place_reduction(self, i: int) -> None:
        """Let a reduction collect in the latest kernel that computes what it reduces, if it can be there."""
        node = self.graph.nodes[i]
        (x,) = node.inputs
        grid = self.graph.nodes[x].shape
        kind, split = reduction_of(grid, node.params[1])
        k = self.latest(node.inputs, grid)
        fits = k is not None and self.kernels[k].grid == grid and self.kernels[k].call is None
        if fits and kind != "full":
            kernel = self.kernels[k]  # type: ignore[index]
            wanted = (kind, split) if kernel.product is None else (kind, len(grid) - 1)
            fits = wanted == (kind, split) and (kernel.reduces, kernel.split) in (("", None), wanted)
        if not (fits and self.readable(x, k, "cell")):  # type: ignore[arg-type]
            self.begin(Kernel(grid), i)
            k = self.home[i]
        assert k is not None
        if kind != "full":
            self.kernels[k].reduces, self.kernels[k].split = kind, split
        self.kernels[k].nodes.append(i)
        self.home[i] = k
        self.read[k] |= self.memory(i)

    def materialise(self, j: int) -> None:
        """Let a node, or what it is a view of, lie in memory."""
        node = self.graph.nodes[j]
        if node.op == "view":
            self.materialise(node.inputs[0])
        elif j not in self.home and node.op not in LEAVES:
            self.compute(j)

    def finished(self, wanted: list[int]) -> Fused:
        """Collect what each kernel reads, and so what has to be stored."""
        graph = self.graph
        stored = {self.graph.base(j) for j in wanted} & self.home.keys()
        for k, kernel in enumerate(self.kernels):
            seen: set[int] = set()
            first = [x for x in (kernel.product, kernel.call) if x is not None]
            pending = [j for i in [*first, *kernel.nodes] for j in graph.nodes[i].inputs]
            while pending:
                j = pending.pop()
                if j in seen or graph.nodes[j].op == "literal":  # in memory for a product, perhaps, but not for others
                    continue
                seen.add(j)
                base = graph.base(j)
                if graph.nodes[base].op in LEAVES or self.home.get(base, k) < k:
                    kernel.loads.append(j)
                    stored |= {base} & self.home.keys()
                elif self.home.get(base) != k:  # it has no kernel, or a later one: then it had none yet for this one
                    pending += graph.nodes[j].inputs
            kernel.loads.sort()
        return Fused(graph, self.kernels, self.home, stored, wanted)
