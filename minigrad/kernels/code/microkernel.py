"""The innermost part of a matrix product: a tile of C that stays in registers while k runs along the inner axis.

A tile has up to ROWS rows and VECTORS vectors of columns. For each k, one row of B is read, VECTORS vectors, and each
of the ROWS numbers in the column of A is copied into all lanes of a vector: ROWS·VECTORS multiplications and additions
for ROWS + VECTORS reads. Larger tiles don't fit: the sums, a row of B and a number of A fill the registers.

There is one such function for every number of rows and vectors, written in LLVM's intermediate representation with the
`V` of `simd`, since a loop in Numba would keep the sums in memory. They are functions of their own behind one switch,
`tile`: inlined, they would be optimised again and again, and compiling would take ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minigrad.kernels.simd import I32, I64, REGISTERS, WIDTH, V, bits_of, call, first, fma, opaque, read, write

ROWS, VECTORS = 6, 4 if REGISTERS == 32 else 2
UNROLLED = 4  # steps of the inner loop between two looks whether it ends, a power of two
AHEAD = 32  # rows of B that are asked for before they are copied, as they may come from far away

ARGUMENTS = (
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
)
TILE = ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS))


def _prefetch(address: V) -> None:
    """Ask for the cache line at an address, which need not exist."""
    builder = address.builder
    pointer = builder.inttoptr(address.value, ir.PointerType(ir.IntType(8)))
    reading, soon, data = I32(0), I32(3), I32(1)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [V(builder, x) for x in (pointer, reading, soon, data)])


def _repeated(builder: ir.IRBuilder, times: V, before: list[V], step: Callable[[list[V]], list[V]]) -> list[V]:
    """Write a loop: what the values `before` it have become after so many times `step`."""
    start, body, done = builder.block, builder.append_basic_block("body"), builder.append_basic_block("done")
    builder.cbranch((times > 0).value, body, done)
    builder.position_at_end(body)
    before = [times, *before]
    now = [V(builder, builder.phi(x.type)) for x in before]
    after = [now[0] - 1, *step(now[1:])]
    builder.cbranch((now[0] > 1).value, body, done)
    builder.position_at_end(done)
    end = [V(builder, builder.phi(x.type)) for x in before]
    for phis in (now, end):
        for phi, x, y in zip(phis, before, after, strict=True):
            phi.value.add_incoming(x.value, start)
            phi.value.add_incoming(y.value, body)
    return end[1:]


def _tile_function(module: ir.Module, element: Any, rows: int, vectors: int, masked: bool, packs: bool) -> Any:
    """Write the function for one shape of tile; if `masked`, lanes of the last vector count up to `columns` only.

    If it `packs`, it copies the rows of B to `panel` on the way.
    """
    size = bits_of(element) // 8
    vector = ir.VectorType(element, WIDTH // size)
    name = f"tile_{rows}x{vectors}{'_masked' * masked}{'_packing' * packs}_{size}"
    function = ir.Function(module, TILE, name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    names = ("entry", "ask", "ready", "add", "put")
    entry, ask, ready, add, put = (function.append_basic_block(name) for name in names)
    builder = ir.IRBuilder(entry)
    given = dict(zip(ARGUMENTS, (V(builder, x) for x in function.args), strict=True))
    a, a_row, a_column, b, b_row = (given[name] for name in ("a", "a_row", "a_column", "b", "b_row"))
    c, c_row, start, start_row = (given[name] for name in ("c", "c_row", "start", "start_row"))
    masks: list[V | None] = [None] * vectors
    if masked:
        masks[-1] = first(given["columns"] - (vectors - 1) * vector.count, vector.count)
    places = [(i, j) for i in range(rows) for j in range(vectors)]

    # What C starts from is added at the end. It is asked for now, for it may come from far away.
    builder.cbranch((start == 0).value, ready, ask)
    builder.position_at_end(ask)
    for i in range(rows):
        for offset in (*range(0, WIDTH * vectors, WIDTH), WIDTH * vectors - 1):
            _prefetch(start + start_row * i + offset)
    builder.branch(ready)
    builder.position_at_end(ready)

    a_rows = [a + a_row * i for i in range(rows)]

    def step(now: list[V]) -> list[V]:
        a_offset, b_address, panel, *sums = now
        b_vectors = [read(b_address + WIDTH * j, vector, masks[j]) for j in range(vectors)]
        if packs:
            for j, numbers in enumerate(b_vectors):
                write(numbers, panel + WIDTH * j)
                _prefetch(b_address + b_row * AHEAD + WIDTH * j)
            panel = panel + WIDTH * vectors
        for i in range(rows):
            number = b_vectors[0].like(read(a_rows[i] + a_offset, element))
            for j in range(vectors):
                sums[i * vectors + j] = fma(number, b_vectors[j], sums[i * vectors + j])
        # LLVM would keep an address for each row of each of the steps in a row, most of them in memory.
        return [opaque(a_offset + a_column), opaque(b_address + b_row), panel, *sums]

    def steps(now: list[V]) -> list[V]:
        for _ in range(UNROLLED):
            now = step(now)
        return now

    zeros = [V(builder, ir.Constant(vector, None))] * len(places)
    now, inner = [V(builder, I64(0)), b, given["panel"], *zeros], given["inner"]
    if rows == ROWS and not packs:  # the others are not worth the time that it takes to compile more
        now, inner = _repeated(builder, inner / UNROLLED, now, steps), inner & (UNROLLED - 1)
    _, _, _, *sums = _repeated(builder, inner, now, step)
    builder.cbranch((start == 0).value, put, add)
    for block in (add, put):
        builder.position_at_end(block)
        for (i, j), y in zip(places, sums, strict=True):
            if block is add:
                y = y + read(start + start_row * i + WIDTH * j, vector, masks[j])
            write(y, c + c_row * i + WIDTH * j, masks[j])
        builder.ret_void()
    return function


def _switch_function(module: ir.Module, element: Any) -> Any:
    """Write the function that calls the right one of all tile functions, and them."""
    name = f"tile_{bits_of(element)}"
    if name in module.globals:
        return module.globals[name]
    lanes = WIDTH * 8 // bits_of(element)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, *TILE.args]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    rows, *arguments = (V(builder, x) for x in function.args)
    columns, panel = (arguments[ARGUMENTS.index(name)] for name in ("columns", "panel"))
    vectors = (columns + (lanes - 1)) / lanes
    widest = builder.select((columns == VECTORS * lanes).value, I64(0), vectors.value)  # where nothing is masked
    height = V(builder, builder.select((panel == 0).value, rows.value, I64(ROWS + 1)))  # ROWS rows that pack
    nothing = function.append_basic_block("nothing")
    switch = builder.switch((height * (VECTORS + 1) + V(builder, widest)).value, nothing)
    for i in range(1, ROWS + 2):
        for j in range(VECTORS + 1):
            block = function.append_basic_block(f"{i}x{j}")
            switch.add_case(I64(i * (VECTORS + 1) + j), block)
            builder.position_at_end(block)
            one = _tile_function(module, element, min(i, ROWS), j or VECTORS, masked=j > 0, packs=i > ROWS)
            builder.call(one, [x.value for x in arguments], tail=True)
            builder.ret_void()
    builder.position_at_end(nothing)
    builder.ret_void()
    return function


def _element(context: Any, pointer: Any) -> Any:
    """LLVM's type of what a Numba pointer points to."""
    return context.get_value_type(pointer.dtype)


@intrinsic
def tile(
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
) -> Any:
    """C = A·B + start, for at most ROWS rows and VECTORS vectors of columns, of the kind that `like` points to.

    The rows of B, C and start are contiguous. If `panel` is not 0, there are ROWS rows, and on the way the rows of B
    are copied there: whole vectors, one row after the other. The rest is as ARGUMENTS says.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        builder.call(_switch_function(builder.module, _element(context, like)), args[1:])
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * (1 + len(ARGUMENTS))), lower
