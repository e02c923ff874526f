"""The innermost part of a matrix product: a tile of C that stays in registers while k runs along the inner axis.

A tile has up to ROWS rows and VECTORS vectors of columns. For each k, one row of B is read, VECTORS vectors, and each
of the ROWS numbers in the column of A is copied into all lanes of a vector: ROWS·VECTORS multiplications and additions
for ROWS + VECTORS reads. Larger tiles don't fit: the sums, a row of B and a number of A fill the registers.

There is one such function for every number of rows and vectors, written in LLVM's intermediate representation with the
`V` of `simd`, since a loop in Numba would keep the sums in memory. They are functions of their own behind one switch,
`tile`: inlined, they would be optimised again and again, and compiling would take ten times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minigrad.kernels.simd import I32, I64, REGISTERS, WIDTH, V, bits_of, call, first, fma, read, write

ROWS, VECTORS = (8, 3) if REGISTERS == 32 else (6, 2)

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
)
TILE = ir.FunctionType(ir.VoidType(), [I64] * len(ARGUMENTS))


def _prefetch(address: V) -> None:
    """Ask for the cache line at an address, which need not exist."""
    builder = address.builder
    pointer = builder.inttoptr(address.value, ir.PointerType(ir.IntType(8)))
    reading, soon, data = I32(0), I32(3), I32(1)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [V(builder, x) for x in (pointer, reading, soon, data)])


def _tile_function(module: ir.Module, element: Any, rows: int, vectors: int, masked: bool) -> Any:
    """Write the function for one shape of tile; if `masked`, lanes of the last vector count up to `columns` only."""
    size = bits_of(element) // 8
    vector = ir.VectorType(element, WIDTH // size)
    function = ir.Function(module, TILE, f"tile_{rows}x{vectors}{'_masked' * masked}_{size}")
    function.linkage = "internal"
    function.attributes.add("noinline")
    function.attributes.add("nounwind")
    names = ("entry", "ask", "ready", "step", "done", "add", "put")
    entry, ask, ready, step, done, add, put = (function.append_basic_block(name) for name in names)
    builder = ir.IRBuilder(entry)
    a, a_row, a_column, b, b_row, c, c_row, columns, inner, start, start_row = (V(builder, x) for x in function.args)
    masks: list[V | None] = [None] * vectors
    if masked:
        masks[-1] = first(columns - (vectors - 1) * vector.count, vector.count)
    places = [(i, j) for i in range(rows) for j in range(vectors)]

    # What C starts from is added at the end. It is asked for now, for it may come from far away.
    builder.cbranch((start == 0).value, ready, ask)
    builder.position_at_end(ask)
    for i in range(rows):
        for offset in (*range(0, WIDTH * vectors, WIDTH), WIDTH * vectors - 1):
            _prefetch(start + start_row * i + offset)
    builder.branch(ready)
    builder.position_at_end(ready)

    # The loop. What changes from step to step is a phi: a value from before the loop, and one from the last step.
    a_rows = [a + a_row * i for i in range(rows)]
    zero = V(builder, ir.Constant(vector, None))
    before = [inner, V(builder, I64(0)), b] + [zero] * len(places)
    builder.cbranch((inner > 0).value, step, done)
    builder.position_at_end(step)
    now = [V(builder, builder.phi(x.type)) for x in before]
    left, a_offset, b_address, *sums = now
    b_vectors = [read(b_address + WIDTH * j, vector, masks[j]) for j in range(vectors)]
    after = [left - 1, a_offset + a_column, b_address + b_row]
    for i in range(rows):
        number = b_vectors[0].like(read(a_rows[i] + a_offset, element))
        after += [fma(number, b_vectors[j], sums[i * vectors + j]) for j in range(vectors)]
    for phi, x, y in zip(now, before, after, strict=True):
        phi.value.add_incoming(x.value, ready)
        phi.value.add_incoming(y.value, step)
    builder.cbranch((left > 1).value, step, done)

    builder.position_at_end(done)
    results = [V(builder, builder.phi(vector)) for _ in places]
    for phi, y in zip(results, after[-len(places) :], strict=True):
        phi.value.add_incoming(zero.value, ready)
        phi.value.add_incoming(y.value, step)
    builder.cbranch((start == 0).value, put, add)
    for block in (add, put):
        builder.position_at_end(block)
        for (i, j), y in zip(places, results, strict=True):
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
    columns = arguments[ARGUMENTS.index("columns")]
    vectors = (columns + (lanes - 1)) / lanes
    widest = builder.select((columns == VECTORS * lanes).value, I64(0), vectors.value)  # where nothing is masked
    nothing = function.append_basic_block("nothing")
    switch = builder.switch((rows * (VECTORS + 1) + V(builder, widest)).value, nothing)
    for i in range(1, ROWS + 1):
        for j in range(VECTORS + 1):
            block = function.append_basic_block(f"{i}x{j}")
            switch.add_case(I64(i * (VECTORS + 1) + j), block)
            builder.position_at_end(block)
            one = _tile_function(module, element, i, j or VECTORS, masked=j > 0)
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
) -> Any:
    """C = A·B + start, for at most ROWS rows and VECTORS vectors of columns, of the kind that `like` points to.

    The rows of B, C and start are contiguous. The rest is as ARGUMENTS says.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        builder.call(_switch_function(builder.module, _element(context, like)), args[1:])
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * (1 + len(ARGUMENTS))), lower
