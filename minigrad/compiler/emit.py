"""Emission: the source of a kernel, a Numba function that does one chunk of its grid.

The grid is seen as rows and columns: axes that every array runs through in step are one axis, the columns are the last
of them. A kernel is two loops, over the rows and over vectors of columns, and what stands in them is the chain of
operations. The graph

    %3 = add(%1, %2)   %4 = multiply(%3, %3)   %5 = reduce add over all of %4      (%4 is stored)

becomes

    def kernel(a0, a1, a2, a3, rows, columns, row_step, column_step, down, chunk, thread):
        i0 = chunk % down * row_step; i1 = min(i0 + row_step, rows)
        j0 = chunk // down * column_step; j1 = min(j0 + column_step, columns)
        LANES = lanes_of(a0)
        all0 = filled(a0, 0.0)
        for i in range(i0, i1):
            row0 = filled(a0, 0.0)
            for j in range(j0, j1, LANES):
                n = j1 - j
                v0 = load_some(a0, i * columns + j, n)
                v1 = load_some(a1, j, n)
                v2 = v0 + v1
                v3 = v2 * v2
                store_some(a2, i * columns + j, v3, n)
                row0 = row0 + keep_some(v3, n, 0.0)
            all0 = all0 + row0
        put(a3, chunk, total(all0))

Sizes, strides and numbers are arguments, and names are counted, so that kernels of one structure are one function. What
a row computes from its own reductions takes several passes over it: `level` says in which of them a value is there. A
row that fits one vector stays in it: there is no loop over columns, and nothing is computed again.
Where arrays have several dtypes, or integers, or columns are single numbers, elements are computed one by one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minigrad.compiler.fuse import Fused, kind_of
from minigrad.compiler.graph import Node
from minigrad.kernels.native import vector_bytes

# How an operation is written, on vectors as on numbers. What is not here is a function of its name.
INFIX = {
    "add": "{} + {}", "subtract": "{} - {}", "multiply": "{} * {}", "divide": "{} / {}", "negative": "-{}",
    "equal": "{} == {}", "not_equal": "{} != {}", "less": "{} < {}", "less_equal": "{} <= {}",
    "greater": "{} > {}", "greater_equal": "{} >= {}", "isfinite": "absolute({}) < INF", "isnan": "{0} != {0}",
    "copy": "{}",
}  # fmt: skip
ON_VECTORS = {**INFIX, "logical_and": "{} & {}", "logical_or": "{} | {}", "logical_not": "~{}"}
ON_NUMBERS = {
    **INFIX, "logical_and": "({} and {})", "logical_or": "({} or {})", "logical_not": "(not {})",
    "where": "({1} if {0} else {2})", "power": "{} ** {}",
}  # fmt: skip
ONLY_ON_NUMBERS = ("power",)


class Reducer(NamedTuple):
    """How numbers are reduced: from what on, two of them, and the lanes of a vector."""

    identity: str
    together: str
    lanes: str


REDUCERS = {
    "add": Reducer("0.0", "{} + {}", "total"),
    "multiply": Reducer("1.0", "{} * {}", "product_of"),
    "maximum": Reducer("-INF", "maximum({}, {})", "largest"),
    "minimum": Reducer("INF", "minimum({}, {})", "smallest"),
}
PLAIN = (0.0, 1.0, -1.0, 2.0, 0.5)  # numbers that stand in the text; others are arguments
SIZES = ("rows", "columns", "row_step", "column_step", "down")  # the last arguments of every kernel


@dataclass
class Argument:
    """One argument of a kernel: kind is 'memory' (of a node, with an offset in elements), 'int', 'float32', ...

    `what` is the node of a memory argument, the number of the others, or a name that the plan knows.
    """

    name: str
    kind: str
    what: Any
    offset: int = 0


@dataclass
class Source:
    """A kernel's text, in which only names of arguments are its own, and what it is given."""

    text: str
    arguments: list[Argument]
    rows: int
    columns: int


@dataclass
class Access:
    """How an array is run through: its strides along the axes that rows are made of, and along those of columns."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    inner = property(lambda self: self.columns[-1])


def collapse(
    shape: Sequence[int], split: int | None, strides: Sequence[Sequence[int]]
) -> tuple[list[int], list[int], list[Access]]:
    """The axes of rows and of columns of a grid, and how arrays with these strides are run through.

    Neighbouring axes become one where all arrays run through both in one step. Rows and columns are divided at `split`,
    or, without one, before the last axis that is left.

    Example:
        >>> collapse((2, 3, 4), None, [(12, 4, 1), (0, 0, 1)])
        ([6], [4], [Access(rows=(4,), columns=(1,)), Access(rows=(0,), columns=(1,))])
    """
    sides: list[list[tuple[int, list[int]]]] = [[], []]  # of rows and of columns: length and strides, outermost first
    for d, n in enumerate(shape):
        axes, here = sides[split is not None and d >= split], [s[d] for s in strides]
        if n == 1:
            continue
        if axes and all(outer == inner * n for outer, inner in zip(axes[-1][1], here, strict=True)):
            axes[-1] = axes[-1][0] * n, here
        else:
            axes.append((n, here))
    rows, columns = sides
    if split is None:
        rows, columns = rows[:-1], rows[-1:]
    columns = columns or [(1, [0] * len(strides))]
    accesses = [Access(*(tuple(s[k] for _, s in axes) for axes in (rows, columns))) for k in range(len(strides))]
    return [n for n, _ in rows], [n for n, _ in columns], accesses


def emit(fused: Fused, k: int, bias: int | None = None, target: int | None = None) -> Source:
    """The source of kernel k.

    Args:
        bias: an `add` whose result the product delivers, since it starts from the other operand.
        target: the node in whose memory the product is computed; None: in memory of the thread's own.
    """
    return _Emission(fused, k, bias, target).source()


class _Emission:
    """The making of one kernel's text.

    Attributes:
        access: how each load and store, and each iota, is run through.
        stores: the elementwise nodes that are stored.
        delivered: the node that the product computes, if there is one.
        vectors: whether the text is on vectors, or on numbers.
        short: whether a row is one vector.
        flat: whether rows of a product that are no longer than a vector are run through as one long row: to load what
            is next to masked lanes that were just stored takes as long as to store them.
        real: the dtype of the vectors, or of the numbers that sums collect.
        of_column: what column reductions collect in, if that is a vector.
    """

    def __init__(self, fused: Fused, k: int, bias: int | None, target: int | None):
        self.graph, self.stored, self.kernel = fused.graph, fused.stored, fused.kernels[k]
        self.bias, self.target = bias, target
        self.delivered = self.kernel.product if bias is None else bias
        nodes = self.kernel.nodes
        self.kinds = {i: kind_of(self.graph, i) for i in nodes if self.node(i).op == "reduce"}
        self.stores = [i for i in nodes if i in self.stored and i not in self.kinds]
        self.arguments: dict[Any, Argument] = {}
        self.lines: list[str] = []
        self.indent = 1
        self.counts: Counter[str] = Counter()
        self.levels: dict[int, int] = {}
        self.of_column: dict[int, str] = {}
        self.reached = self._reached()
        self.loads = [j for j in self.kernel.loads if j in self.reached]

    def node(self, i: int) -> Node:
        return self.graph.nodes[i]

    def of_kind(self, kind: str) -> list[int]:
        """The reductions of a kind."""
        return [r for r, other in self.kinds.items() if other == kind]

    def _reached(self) -> set[int]:
        """All that is computed or loaded in the loops; operands of the product are loaded by itself."""
        reached: set[int] = set()
        pending = list(self.kernel.nodes)
        while pending:
            i = pending.pop()
            if i not in reached and i != self.kernel.product:
                reached.add(i)
                inside = i not in self.kernel.loads and i != self.delivered and not self.is_iota(i)
                pending += self.node(i).inputs if inside else ()
        return reached

    def is_iota(self, i: int) -> bool:
        return self.node(self.graph.base(i)).op == "iota"

    def is_number(self, i: int) -> bool:
        """Whether a value is a number that stands in the text, or is an argument."""
        return self.node(self.graph.base(i)).op == "literal" and i not in self.kernel.loads

    def is_full(self, j: int) -> bool:
        """Whether a load is a full reduction by another kernel, which lies in memory as one number a chunk."""
        base = self.graph.base(j)
        return self.node(base).op == "reduce" and kind_of(self.graph, base) == "full"

    def source(self) -> Source:
        kernel = self.kernel
        split = kernel.split if kernel.product is None else len(kernel.grid) - 1
        runs = [j for j in self.loads if not self.is_full(j)] + self.stores + self.of_kind("column")
        runs += [i for i in sorted(self.reached) if self.is_iota(i)]
        strides = [self.graph.layout(j)[1] for j in runs]
        self.row_axes, self.column_axes, accesses = collapse(kernel.grid, split, strides)
        self.access = dict(zip(runs, accesses, strict=True))
        self.choose_dialect()
        if kernel.product is not None:
            self.emit_product()
        self.stores = [i for i in self.stores if i != self.delivered or i != self.target]
        if self.stores or self.kinds:
            self.emit_loops()
        prologue = [
            "i0 = chunk % down * row_step",
            "i1 = min(i0 + row_step, rows)",
            "j0 = chunk // down * column_step",
            "j1 = min(j0 + column_step, columns)",
        ]
        names = ", ".join([*(a.name for a in self.arguments.values()), *SIZES, "chunk", "thread"])
        text = "\n".join([f"def kernel({names}):", *(f"    {line}" for line in prologue), *self.lines]) + "\n"
        return Source(text, list(self.arguments.values()), math.prod(self.row_axes), self.column_axes[-1])

    # The dialect: vectors of one dtype, or numbers one by one

    def choose_dialect(self) -> None:
        """Vectors, if all that is computed is of one floating-point dtype, or truth values."""
        floats: set[np.dtype[Any]] = set()
        vectors = self.column_axes[-1] > 1 and not any(self.node(i).dtype == bool for i in self.stores)
        for i in self.reached:
            node = self.node(i)
            if node.dtype.kind == "f" and node.op != "literal":
                floats.add(node.dtype)
            elif node.dtype.kind in "iu":
                vectors &= self.is_for_lanes(i)
            computed = i not in self.kernel.loads
            vectors &= not (computed and node.op in ONLY_ON_NUMBERS)
            vectors &= not (computed and node.op == "cast" and self.node(node.inputs[0]).dtype != bool)
        self.vectors = vectors and len(floats) == 1
        self.real = max(floats, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float64))
        one_vector = len(self.column_axes) == 1 and self.column_axes[0] * self.real.itemsize <= vector_bytes()
        self.short = self.vectors and one_vector  # then a chunk has all columns
        dense = Access((self.column_axes[0],), (1,))
        one_by_one = all(a == dense or not any((*a.rows, *a.columns)) for a in self.access.values())
        self.flat = self.short and one_by_one and self.kernel.product is not None and not self.kinds

    def is_for_lanes(self, i: int) -> bool:
        """Whether an integer is compared for equality with the number of the lane, and nothing else."""
        users = [u for u in self.reached if i in self.node(u).inputs and u not in self.kernel.loads]
        return bool(users) and all(self.lane_test(u) for u in users)

    def lane_test(self, i: int) -> tuple[int, int] | None:
        """For equal(iota, label): the iota, if it is the number of the column, and the label, if there is one a row."""
        node = self.node(i)
        if node.op == "equal" and i not in self.kernel.loads:
            for iota, label in (node.inputs, node.inputs[::-1]):
                if self.is_iota(iota) and label in self.loads and not self.is_full(label):
                    along, across = self.access[iota], self.access[label]
                    if along.columns == (1,) and not any((*along.rows, *across.columns)):
                        return iota, label
        return None

    @property
    def like(self) -> str:
        """A pointer to numbers of the vectors' dtype, from which functions know that dtype."""
        if self.kernel.product is not None:
            return "c"
        of_real = [j for j in (*self.loads, *self.stores, *self.kinds) if self.node(j).dtype == self.real]
        return self.memory(next(j for j in of_real if j not in self.kinds or j in self.stored))

    def fill(self, number: str) -> str:
        """A number in all lanes."""
        return f"filled({self.like}, {number})" if self.vectors else number

    # Lines, names and arguments

    def put(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)

    def name(self, prefix: str) -> str:
        """A name that no other value has: the prefix, counted."""
        self.counts[prefix] += 1
        return f"{prefix}{self.counts[prefix] - 1}"

    def assign(self, text: str) -> str:
        name = self.name("v")
        self.put(f"{name} = {text}")
        return name

    def argument(self, kind: str, what: Any, offset: int = 0) -> str:
        """The name of an argument, which is one of the kernel's from now on."""
        key = kind, repr(what), offset
        if key not in self.arguments:
            prefix = {"memory": "a", "int": "n"}.get(kind, "c")
            name = what if isinstance(what, str) else self.name(prefix)
            self.arguments[key] = Argument(name, kind, what, offset)
        return self.arguments[key].name

    def memory(self, j: int) -> str:
        """The pointer to where a load, or store, begins."""
        return self.argument("memory", self.graph.base(j), self.graph.layout(j)[2])

    # Where things lie

    def terms(self, index: str, strides: Sequence[int]) -> list[str]:
        """What an index adds to a place in memory, along the axes that it runs over."""
        terms = []
        for d, stride in enumerate(strides):
            name = index if len(strides) == 1 else f"{index}_{d}"
            if stride == 1:
                terms.append(name)
            elif stride == self.column_axes[-1] and index == "i":
                terms.append(f"{name} * columns")
            elif stride:
                terms.append(f"{name} * {self.argument('int', stride)}")
        return terms

    def place(self, j: int) -> str:
        """The index of a load, or store, at row i, further column axes q and column j."""
        access = self.access[j]
        *further, last = access.columns
        if self.flat:
            return "j" if last else "0"
        return " + ".join(self.terms("i", access.rows) + self.terms("q", further) + self.terms("j", [last])) or "0"

    def emit_indices(self, index: str, axes: Sequence[int]) -> None:
        """Where an index runs over several axes, the index along each."""
        if len(axes) > 1:
            self.put(f"{index}_0 = {index}")
            for d in reversed(range(1, len(axes))):
                n = self.argument("int", axes[d])
                self.put(f"{index}_{d} = {index}_0 % {n}")
                self.put(f"{index}_0 = {index}_0 // {n}")

    # The parts of the text

    def emit_product(self) -> None:
        """The product, in the memory of a node that is stored, or in that of the thread."""
        assert self.kernel.product is not None
        product = self.node(self.kernel.product)
        a, b = (self.memory(j) for j in product.inputs)
        bias = "c"
        if self.bias is not None:
            bias = self.memory(*(j for j in self.node(self.bias).inputs if j != self.kernel.product))
        gemm, panels = self.argument("int", "gemm"), self.argument("int", "panels")
        plan = self.argument("int64*", "plan")
        if self.target is None:
            scratch = self.argument(f"{product.dtype}*", "scratch")
            self.put("c_row = column_step")
            size = self.argument("int", "scratch_size")  # of what each thread has, the same for all products
            self.put(f"c = offset({scratch}, thread * {size} - i0 * c_row - j0)")
        else:
            self.put("c_row = columns")
            self.put(f"c = {self.memory(self.target)}")
        self.put(f"product({gemm}, {a}, {b}, c, {bias}, {panels}, {plan}, chunk, thread)")

    def emit_loops(self) -> None:
        """The loop over rows, in it as many passes over columns as it takes; before and after it what is collected."""
        full, columns, once = self.of_kind("full"), self.of_kind("column"), dict[int, str]()
        if self.vectors:
            self.put(f"LANES = lanes_of({self.like})")
        for j in self.loads:
            if self.is_full(j):
                base = self.graph.base(j)
                partials, count = self.memory(base), self.argument("int", ("partials", base))
                once[j] = self.assign(self.fill(f"together_{self.node(base).params[0]}({partials}, {count})"))
            elif not any((*self.access[j].rows, *self.access[j].columns)):
                once[j] = self.assign(self.same_in_row(j))
        if self.flat:
            self.emit_pass(once, self.stores, {}, [])
            return
        if self.short:
            self.put("j = j0")
            self.put("n = j1 - j")
        of_all = {r: self.begin_sum(r, "all") for r in full}
        for r in columns:
            if self.short:
                self.of_column[r] = self.begin_sum(r, "column")
            else:
                self.emit_column_identities(r)
        self.put("for i in range(i0, i1):")
        self.indent += 1
        self.emit_indices("i", self.row_axes)
        for j in self.loads:
            if j not in once and not any(self.access[j].columns) and not self.only_in_lane_test(j):
                once[j] = self.assign(self.same_in_row(j))
        of_row = {r: self.begin_sum(r, "row") for r in full}
        self.emit_passes(once, of_row)
        for r in full:
            self.put(f"{of_all[r]} = {self.reducer(r).together.format(of_all[r], of_row[r])}")
        self.indent -= 1
        for r in full:
            self.put(f"put({self.memory(r)}, chunk, {self.all_lanes(r, of_all[r])})")
        for r, name in self.of_column.items():
            self.store(r, name)

    def emit_passes(self, once: dict[int, str], sums: dict[int, str]) -> None:
        """All passes over a row. `once` are the values that there is one of in a row; sums go on from row to row."""
        rows, columns = self.of_kind("row"), self.of_kind("column")
        in_cells = [i for i in self.stores if self.node(i).shape == self.kernel.grid]
        in_rows = [i for i in self.kernel.nodes if i not in self.kinds and self.node(i).shape != self.kernel.grid]
        last = max(map(self.level, self.kernel.nodes))
        for i in in_rows:
            if self.level(i) == 0:  # it needs no reduction of the row
                self.value(i, once)
        for level in range(last + 1):
            here = lambda i, level=level: self.level(i) == level
            stores = [i for i in in_cells if here(i)]
            ending = [r for r in rows if here(self.node(r).inputs[0])]
            of_row = {} if self.short else {r: self.begin_sum(r, "row") for r in ending}
            collected = {r: s for r, s in sums.items() if here(self.node(r).inputs[0])} | of_row
            in_columns = [r for r in columns if here(self.node(r).inputs[0])]
            if stores or collected or in_columns:
                self.emit_pass(once if self.short else dict(once), stores, collected, in_columns)
            for r in ending:
                once[r] = self.assign(self.fill(self.all_lanes(r, of_row.get(r) or self.reduced(r, once))))
            for i in in_rows:
                if self.level(i) == level + 1:
                    self.value(i, once)
        for i in [*rows, *in_rows]:
            if i in self.stored:
                self.put(f"put({self.memory(i)}, i, {f'lane0({once[i]})' if self.vectors else once[i]})")

    def emit_pass(self, env: dict[int, str], stores: list[int], sums: dict[int, str], columns: list[int]) -> None:
        """One pass over a row: compute, store, collect. `env` are the values that are there already."""
        before = self.indent
        self.begin_columns()
        targets = [*stores, *(self.node(r).inputs[0] for r in (*sums, *columns))]
        for i in self.needed(targets, env):  # all, before a store takes the place of what is loaded
            self.value(i, env)
        for i in stores:
            self.store(i, self.value(i, env))
        for r, name in sums.items():
            self.put(f"{name} = {self.reducer(r).together.format(name, self.reduced(r, env))}")
        for r in columns:
            value, column = self.value(self.node(r).inputs[0], env), self.of_column.get(r)
            together = self.reducer(r).together.format(column or self.load(r), value)
            if column:
                self.put(f"{column} = {together}")
            else:
                self.store(r, together)
        self.indent = before

    def begin_columns(self) -> None:
        """The loop over columns, or vectors of them, around it one over further axes of columns, if there are any."""
        if self.flat:
            self.put("for j in range(i0 * columns, i1 * columns, LANES):")
            self.indent += 1
            self.put("n = i1 * columns - j")
        if self.short:
            return
        *further, _ = self.column_axes
        if further:
            self.put(f"for q in range({self.argument('int', math.prod(further))}):")
            self.indent += 1
            self.emit_indices("q", further)
        self.put(f"for j in range(j0, j1{', LANES' * self.vectors}):")
        self.indent += 1
        if self.vectors:
            self.put("n = j1 - j")

    # Reductions

    def reducer(self, r: int) -> Reducer:
        return REDUCERS[self.node(r).params[0]]

    def begin_sum(self, r: int, prefix: str) -> str:
        """The name of a value that a reduction collects in, from now on."""
        name = self.name(prefix)
        self.put(f"{name} = {self.fill(self.reducer(r).identity)}")
        return name

    def reduced(self, r: int, env: dict[int, str]) -> str:
        """What a reduction reduces, here; lanes beyond the last column change nothing."""
        (x,) = self.node(r).inputs
        value = self.value(x, env)
        if not self.vectors:
            return value
        return f"keep_some({self.fill(value) if self.is_number(x) else value}, n, {self.reducer(r).identity})"

    def all_lanes(self, r: int, name: str) -> str:
        return f"{self.reducer(r).lanes}({name})" if self.vectors else name

    def emit_column_identities(self, r: int) -> None:
        """Columns are collected in memory, unless they are the lanes of one vector: there they begin."""
        before = self.indent
        self.begin_columns()
        self.store(r, self.fill(self.reducer(r).identity))
        self.indent = before

    def level(self, i: int) -> int:
        """In which pass over a row a value is there: the first, or after the reductions of the row that it needs."""
        if not self.levels:
            for x in sorted(self.reached | {*self.kernel.nodes}):  # inputs come before what is made of them
                outside = x in self.kernel.loads or x == self.delivered or self.is_iota(x)
                below = 0 if outside else max((self.levels.get(y, 0) for y in self.node(x).inputs), default=0)
                self.levels[x] = below + (self.kinds.get(x) == "row")
        return self.levels.get(i, 0)  # the product is there from the beginning

    # Values

    def needed(self, targets: Sequence[int], env: dict[int, str]) -> list[int]:
        """All values that it takes to compute some, each after its operands, in an order of the structure."""
        ready: dict[int, None] = {}
        pending = [*reversed(targets)]
        while pending:
            i = pending[-1]
            outside = i in self.kernel.loads or i == self.delivered or self.is_iota(i) or self.lane_test(i)
            operands = () if outside or i in env or i in ready else self.node(i).inputs
            if missing := [j for j in operands if j not in ready and j not in env]:
                pending += reversed(missing)
            else:
                ready[pending.pop()] = None
        return [i for i in ready if i not in env]

    def value(self, i: int, env: dict[int, str]) -> str:
        """The name of a node's value, computed here if it is not there yet."""
        if i not in env:
            node = self.node(i)
            if node.op == "literal":
                env[i] = self.literal(node)
            elif i == self.delivered:
                place = "j" if self.flat else "i * c_row + j"
                env[i] = self.assign(f"load_some(c, {place}, n)" if self.vectors else f"c[{place}]")
            elif self.is_iota(i):
                env[i] = self.assign(self.place(i))
            elif i in self.kernel.loads:
                env[i] = self.assign(self.load(i))
            elif node.op == "view":  # of what this row has reduced, or of a number
                env[i] = self.value(node.inputs[0], env)
            else:
                env[i] = self.assign(self.computed(i, env))
        return env[i]

    def load(self, j: int) -> str:
        memory, place, step = self.memory(j), self.place(j), self.access[j].columns[-1]
        is_truth = self.node(j).dtype == bool
        if not self.vectors:
            return f"{memory}[{place}] != 0" if is_truth else f"{memory}[{place}]"
        steps = str(step) if step in (0, 1) else self.argument("int", step)
        if is_truth:
            return f"load_truths({memory}, {place}, {steps}, {self.like}, n)"
        return (
            f"load_some({memory}, {place}, n)"
            if step == 1
            else f"load_apart({memory}, {place}, {steps}, min(n, LANES))"
        )

    def store(self, i: int, value: str) -> None:
        if self.vectors and self.node(i).op == "copy" and self.is_number(self.node(i).inputs[0]):
            value = self.fill(value)
        place = f"{self.memory(i)}, {self.place(i)}, {value}"
        self.put(f"store_some({place}, n)" if self.vectors else f"put({place})")

    def same_in_row(self, j: int) -> str:
        """A load that is the same in all columns."""
        number = f"{self.memory(j)}[{' + '.join(self.terms('i', self.access[j].rows)) or 0}]"
        if self.node(j).dtype != bool:
            return self.fill(number)
        return f"truth({self.like}, {number})" if self.vectors else f"{number} != 0"

    def only_in_lane_test(self, j: int) -> bool:
        return self.vectors and self.node(j).dtype.kind in "iu"

    def computed(self, i: int, env: dict[int, str]) -> str:
        """The text of an elementwise operation."""
        node = self.node(i)
        if self.vectors and (test := self.lane_test(i)):
            label = " + ".join(self.terms("i", self.access[test[1]].rows)) or "0"
            return f"lane_is({self.like}, j, {self.memory(test[1])}[{label}])"
        values = [self.value(j, env) for j in node.inputs]
        if node.op == "cast":
            if self.vectors:  # of truth values alone
                return f"where({values[0]}, {self.fill('1.0')}, 0.0)"
            return f"{values[0]} != 0" if node.dtype == bool else f"{node.dtype}({values[0]})"
        if self.vectors and node.op == "where" and all(self.node(j).op == "literal" for j in node.inputs[1:]):
            values[1] = self.fill(values[1])
        pattern = (ON_VECTORS if self.vectors else ON_NUMBERS).get(node.op)
        text = pattern.format(*values) if pattern else f"{node.op}({', '.join(values)})"
        return f"{node.dtype}({text})" if not self.vectors and node.dtype.kind == "f" else text

    def literal(self, node: Node) -> str:
        (number,) = node.params
        if node.dtype == bool:
            return repr(number)
        if node.dtype.kind != "f":
            return self.argument("int", number)
        is_plain = number in PLAIN and (number != 0 or math.copysign(1, number) > 0)
        text = repr(number) if is_plain else self.argument(str(node.dtype), number)
        return text if self.vectors else f"{node.dtype}({text})"
