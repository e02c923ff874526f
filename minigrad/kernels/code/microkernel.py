"""The innermost part of a matrix product: a tile of C that stays in registers while k runs along the inner axis.

A tile has up to ROWS rows and VECTORS vectors of columns. For each k, one row of B is read, VECTORS vectors, and each
of the ROWS numbers in the column of A is copied into all lanes of a vector: ROWS·VECTORS multiplications and additions
for ROWS + VECTORS reads. Larger tiles don't fit: the sums, a row of B and a number of A fill the registers.

There is one such function for every number of rows and vectors, written in LLVM's intermediate representation with the
`V` of `simd`, since a loop in Numba would keep the sums in memory. They are functions of their own, and so is `tiles`,
which calls the right ones: inlined, they would be optimised again and again, and compiling take ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minigrad.kernels import matmul as plans
from minigrad.kernels.simd import I64, REGISTERS, WIDTH, V, bits_of, first, fma, opaque, prefetch, read, write
from minigrad.kernels.simd_math import relu, sigmoid, tanh

ROWS, VECTORS = 6, 4 if REGISTERS == 32 else 2
UNROLLED = 4  # steps of the inner loop between two looks whether it ends, a power of two
AHEAD = 8  # rows of B that are asked for before they are copied, as they may come from far away
PANEL_AHEAD = 4  # rows of a panel that are asked for before they are written: the nearest cache may have dropped them
FAR = 4096  # bytes between rows of C from which on it is asked for ahead: each row is then on a page of its own

ARGUMENTS = (
    "rows",
    "a",  # addresses are integers, in bytes; so are the distances
    "a_row",  # from one row of A to the next
    "a_column",  # from one column of A to the next
    "b",
    "b_row",
    "c",
    "c_row",
    "columns",  # of C
    "inner",  # columns of A, and rows of B
    "start",  # what C starts from; 0: from zero
    "start_row",
    "panel",  # where the rows of B are copied to; 0: nowhere
    "activation",  # the number of what is applied to C; 0: nothing
)
TILES = ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS))

FORMULAS = {plans.ACTIVATIONS[formula.__name__]: formula for formula in (relu, sigmoid, tanh)}


def _repeated(builder: ir.IRBuilder, times: V, before: list[V], step: Callable[[list[V]], list[V]]) -> list[V]:
    """Write a loop: what the values `before` it have become after so many times `step`."""
    start, body, done = builder.block, builder.append_basic_block("body"), builder.append_basic_block("done")
    builder.cbranch((times > 0).value, body, done)
    builder.position_at_end(body)
    before = [times, *before]
    now = [V(builder, builder.phi(x.type)) for x in before]
    after = [now[0] - 1, *step(now[1:])]
    last = builder.block
    builder.cbranch((now[0] > 1).value, body, done)
    builder.position_at_end(done)
    end = [V(builder, builder.phi(x.type)) for x in before]
    for phis in (now, end):
        for phi, x, y in zip(phis, before, after, strict=True):
            phi.value.add_incoming(x.value, start)
            phi.value.add_incoming(y.value, last)
    return end[1:]


def _activation_function(module: ir.Module, element: Any) -> Any:
    """Write the function that applies an activation to a tile of C, which the nearest cache still has."""
    name = f"activate_{bits_of(element)}"
    if name in module.globals:
        return module.globals[name]
    vector = ir.VectorType(element, WIDTH * 8 // bits_of(element))
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 5), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    activation, c, c_row, rows, columns = (V(builder, x) for x in function.args)
    places = [(WIDTH * j, first(columns - j * vector.count, vector.count)) for j in range(VECTORS)]
    done = function.append_basic_block("done")
    switch = builder.switch(activation.value, done)
    for number, formula in FORMULAS.items():

        def row(now: list[V], formula: Callable[[V], V] = formula) -> list[V]:
            (at,) = now
            for x, offset, mask in [(read(at + offset, vector, mask), offset, mask) for offset, mask in places]:
                write(formula(x), at + offset, mask)
            return [at + c_row]

        block = function.append_basic_block(formula.__name__)
        switch.add_case(I64(number), block)
        builder.position_at_end(block)
        _repeated(builder, rows, [c], row)
        builder.branch(done)
    builder.position_at_end(done)
    builder.ret_void()
    return function


def _sums(
    given: dict[str, V], a: V, vector: Any, rows: int, masks: list[V | None], packs: bool, unroll: int, dense: bool
) -> list[V]:
    """Write the loop along the inner axis: the sums of a tile, row by row, whose rows of A begin at `a`.

    If `dense`, the numbers in a row of A are side by side, and so are the rows of B: their addresses in steps after the
    first of `unroll` are known. Else each step takes two additions, for which a multiplication may have to wait.
    """
    a_rows = [a + given["a_row"] * i for i in range(rows)]
    vectors, size = len(masks), bits_of(vector.element) // 8
    a_column, b_row = (size, WIDTH * vectors) if dense else (given["a_column"], given["b_row"])

    def steps(now: list[V], times: int) -> list[V]:
        a_offset, b, panel, *sums = now
        for step in range(times):
            b_vectors = [read(b + b_row * step + WIDTH * j, vector, masks[j]) for j in range(vectors)]
            if packs:
                for j, numbers in enumerate(b_vectors):
                    write(numbers, panel + WIDTH * j)
                    prefetch(panel + WIDTH * (PANEL_AHEAD * vectors + j))
                    prefetch(b + b_row * AHEAD + WIDTH * j)
                panel = panel + WIDTH * vectors
            for i in range(rows):
                number = b_vectors[0].like(read(a_rows[i] + a_offset + a_column * step, vector.element))
                for j in range(vectors):
                    sums[i * vectors + j] = fma(number, b_vectors[j], sums[i * vectors + j])
        # LLVM would keep an address for each row of each of the steps in a row, most of them in memory.
        return [opaque(a_offset + a_column * times), opaque(b + b_row * times), panel, *sums]

    def several(now: list[V]) -> list[V]:
        together = unroll if dense else 1
        for _ in range(unroll // together):
            now = steps(now, together)
        return now

    builder, times = a.builder, given["inner"]
    zero = V(builder, ir.Constant(vector, None))
    now = [V(builder, I64(0)), given["b"], given["panel"], *[zero] * (rows * vectors)]
    if unroll > 1:
        now, times = _repeated(builder, times / unroll, now, several), times & (unroll - 1)
    return _repeated(builder, times, now, lambda now: steps(now, 1))[3:]


def _tile_function(module: ir.Module, element: Any, rows: int, vectors: int, masked: bool, packs: bool) -> Any:
    """Write the function for one shape of tile; if `masked`, lanes of the last vector count up to `columns` only.

    If it `packs`, it copies the rows of B to `panel` on the way. Of whole tiles that do not, it does as many as there
    are rows for, one below the other: a call for each would take some hundredths of their time.
    """
    size = bits_of(element) // 8
    vector = ir.VectorType(element, WIDTH // size)
    name = f"tile_{rows}x{vectors}{'_masked' * masked}{'_packing' * packs}_{size}"
    function = ir.Function(module, TILES, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    given = dict(zip(ARGUMENTS, (V(builder, x) for x in function.args), strict=True))
    masks: list[V | None] = [None] * vectors
    if masked:
        masks[-1] = first(given["columns"] - (vectors - 1) * vector.count, vector.count)
    places = [(i, j) for i in range(rows) for j in range(vectors)]
    usual = rows == ROWS and not packs  # the others are not worth the time that it takes to compile more
    from_zero = given["start"] == 0

    def one_tile(now: list[V], dense: bool = False) -> list[V]:
        a, c, start = now
        names = ("ask", "ready", "add", "put", "stored", "activate", "done")
        ask, ready, add, put, stored, activate, done = (function.append_basic_block(name) for name in names)
        # What C starts from is added at the end. It is asked for now if it may come from far away.
        builder.cbranch((given["start_row"] >= FAR).value, ask, ready)
        builder.position_at_end(ask)
        for i, j in places:
            prefetch(start + given["start_row"] * i + WIDTH * j)
        builder.branch(ready)
        builder.position_at_end(ready)
        sums = _sums(given, a, vector, rows, masks, packs, UNROLLED if usual else 1, dense)
        builder.cbranch(from_zero.value, put, add)
        for block in (add, put):
            builder.position_at_end(block)
            for (i, j), y in zip(places, sums, strict=True):
                if block is add:
                    y = y + read(start + given["start_row"] * i + WIDTH * j, vector, masks[j])
                write(y, c + given["c_row"] * i + WIDTH * j, masks[j])
            builder.branch(stored)
        builder.position_at_end(stored)
        builder.cbranch((given["activation"] == 0).value, done, activate)
        builder.position_at_end(activate)
        tile = (given["activation"], c, given["c_row"], V(builder, I64(rows)), given["columns"])
        builder.call(_activation_function(module, element), [x.value for x in tile])
        builder.branch(done)
        builder.position_at_end(done)
        return [x + given[f"{name}_row"] * rows for name, x in (("a", a), ("c", c), ("start", start))]

    before = [given["a"], given["c"], given["start"]]
    if not usual:
        one_tile(before)
    elif masked:
        _repeated(builder, given["rows"] / ROWS, before, one_tile)
    else:
        dense = (given["a_column"] == size) & (given["b_row"] == WIDTH * vectors)
        with builder.if_else(dense.value) as branches:
            for branch, which in zip(branches, (True, False), strict=True):
                with branch:
                    _repeated(builder, given["rows"] / ROWS, before, partial(one_tile, dense=which))
    builder.ret_void()
    return function


def _tiles_function(module: ir.Module, element: Any) -> Any:
    """Write the function behind `tiles`, and all tile functions, of which it calls the right ones."""
    name = f"tiles_{bits_of(element)}"
    if name in module.globals:
        return module.globals[name]
    lanes = WIDTH * 8 // bits_of(element)
    function = ir.Function(module, TILES, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    now = {}  # the arguments, of which some change from call to call, in memory: LLVM puts them back into registers
    for name, x in zip(ARGUMENTS, function.args, strict=True):
        now[name] = builder.alloca(I64)
        builder.store(x, now[name])

    def value(name: str) -> V:
        return V(builder, builder.load(now[name]))

    def call_one(heights: Sequence[int], packs: bool) -> None:
        """Call the function for this many vectors and, of these heights, for the one that there are rows for."""
        height = V(builder, I64(heights[0])) if len(heights) == 1 else value("rows")
        done = function.append_basic_block("done")
        switch = builder.switch((height * (VECTORS + 1) + widest).value, done)
        for i in heights:
            for j in range(VECTORS + 1):
                block = function.append_basic_block(f"{i}x{j}")
                switch.add_case(I64(i * (VECTORS + 1) + j), block)
                builder.position_at_end(block)
                one = _tile_function(module, element, i, j or VECTORS, masked=j > 0, packs=packs)
                builder.call(one, [value(name).value for name in ARGUMENTS])
                builder.branch(done)
        builder.position_at_end(done)

    def go_on(rows: V) -> None:
        """Be done with so many rows."""
        for name in ("a", "c"):
            builder.store((value(name) + value(f"{name}_row") * rows).value, now[name])
        further = value("start") + value("start_row") * rows
        builder.store(builder.select((value("start") == 0).value, I64(0), further.value), now["start"])
        builder.store((value("rows") - rows).value, now["rows"])

    vectors = (value("columns") + (lanes - 1)) / lanes
    widest = V(builder, builder.select((value("columns") == VECTORS * lanes).value, I64(0), vectors.value))
    with builder.if_then((value("panel") > 0).value):
        call_one([ROWS], packs=True)
        go_on(V(builder, I64(ROWS)))
        builder.store(value("panel").value, now["b"])
        builder.store((vectors * WIDTH).value, now["b_row"])
    whole = value("rows") / ROWS * ROWS
    with builder.if_then((whole > 0).value):
        call_one([ROWS], packs=False)
        go_on(whole)
    call_one(range(1, ROWS), packs=False)
    builder.ret_void()
    return function


def _element(context: Any, pointer: Any) -> Any:
    """LLVM's type of what a Numba pointer points to."""
    return context.get_value_type(pointer.dtype)


@intrinsic
def tiles(
    context: Any,
    like: Any,
    rows: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
    b: Any,
    b_row: Any,
    c: Any,
    c_row: Any,
    columns: Any,
    inner: Any,
    start: Any,
    start_row: Any,
    panel: Any,
    activation: Any,
) -> Any:
    """C = act(A·B + start), for any number of rows and VECTORS vectors of columns or fewer, of what `like` points to.

    The rows of B, C and start are contiguous. If `panel` is not 0, there are at least ROWS rows, and the first tile
    copies the rows of B there, from where the others read them: whole vectors, with no gaps. The rest is as ARGUMENTS
    says.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        builder.call(_tiles_function(builder.module, _element(context, like)), args[1:])
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * len(ARGUMENTS)), lower
