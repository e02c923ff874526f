"""Copies of parts of a matrix in the order in which tiles read them: in panels, one after the other, with no gaps.

A panel has some columns and all rows (for an operand A: some rows and all columns, which is the same of its transpose).
Where the columns are what is contiguous, squares of as many rows as a vector has lanes are transposed in registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minigrad.kernels.simd import I32, I64, WIDTH, V, bits_of, first, prefetch, read, write


def transposed(rows: list[V]) -> list[V]:
    """The columns of a square of as many vectors as they have lanes, a power of two.

    First the off-diagonal quarters change places, lane by lane between pairs of rows; then those of each quarter.
    """
    rows = list(rows)
    lanes, builder = rows[0].lanes, rows[0].builder
    half = lanes // 2
    while half:
        for i in range(lanes):
            if i & half:
                continue
            upper, lower = rows[i], rows[i + half]
            for to, own in ((i, 0), (i + half, half)):  # a lane of `lower` has a number from `lanes` on
                picks = [l + own if not l & half else lanes + l - half + own for l in range(lanes)]
                mask = ir.Constant(ir.VectorType(I32, lanes), picks)
                rows[to] = V(builder, builder.shuffle_vector(upper.value, lower.value, mask))
        half //= 2
    return rows


def _square_function(module: ir.Module, element: Any, masked: bool) -> Any:
    """Write the function that transposes a square; if `masked`, one of which only some rows and columns exist."""
    size = bits_of(element) // 8
    name = f"transpose{'_masked' * masked}_{size}"
    if name in module.globals:
        return module.globals[name]
    vector = ir.VectorType(element, WIDTH // size)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 6), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    x, x_row, y, y_row, rows, columns = (V(builder, v) for v in function.args)
    square = []
    for i in range(vector.count):
        there = V(builder, builder.select((rows > i).value, columns.value, I64(0))) if masked else None
        square.append(read(x + x_row * i, vector, None if there is None else first(there, vector.count)))
    for i, row in enumerate(transposed(square)):
        write(row, y + y_row * i)
        prefetch(y + y_row * (i + vector.count))  # where the next square goes: the nearest cache may have dropped it
    builder.ret_void()
    return function


@intrinsic
def transpose(context: Any, like: Any, x: Any, x_row: Any, y: Any, y_row: Any, rows: Any, columns: Any) -> Any:
    """Write the transpose of a square at address x, of which so many rows and columns exist, to y, zeros in the rest.

    Addresses and distances between rows are in bytes; the square has as many rows as a vector of what `like` points to
    has lanes.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        element = context.get_value_type(like.dtype)
        lanes = WIDTH * 8 // bits_of(element)
        rows, columns = (V(builder, n) for n in args[5:])
        whole = builder.and_((rows >= lanes).value, (columns >= lanes).value)
        with builder.if_else(whole) as branches:
            for branch, masked in zip(branches, (False, True), strict=True):
                with branch:
                    builder.call(_square_function(builder.module, element, masked), args[1:])
        return context.get_dummy_value()

    return types.void(like, *[types.int64] * 6), lower


@intrinsic
def address(context: Any, pointer: Any) -> Any:
    """Where a pointer points to, as an integer."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.ptrtoint(args[0], I64)

    return types.int64(pointer), lower


@intrinsic
def at(context: Any, like: Any, address: Any) -> Any:
    """An address as a pointer of the kind of `like`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.inttoptr(args[1], args[0].type)

    return like(like, types.int64), lower
