"""Matrix products C = act(A·B + bias), the loops around the tiles of `microkernel`.

    for each chunk of C: some rows, some columns                    (any thread)
        for each slab of the inner axis                             (B's part stays in the second-level cache)
            for each strip of C: ROWS rows                          (A's part stays in the first-level cache)
                for each panel of C: VECTORS vectors of columns
                    one tile, in registers
        activation

That is the order of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication", 2008) with A and B
exchanged: it is a part of B that stays, while the strips of A pass by. So A is read where it is, whatever its strides,
and only B is copied, into panels, where that is worth it or where its rows are not contiguous. Every element of C is
summed up in the same order, whatever the chunks are.

`gemm` does one of three things, as the plan says that `minigrad.kernels.matmul` made: a small product as a whole, the
packing of B for a large one, or the product. Addresses are integers, strides are in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from minigrad.kernels import matmul as plans
from minigrad.kernels.code.microkernel import ROWS, VECTORS, tile
from minigrad.kernels.code.packing import address, at, transpose
from minigrad.kernels.native import Source
from minigrad.kernels.simd import I64, WIDTH, compiled, lanes_of, load, load_some, store, store_some
from minigrad.kernels.simd_math import relu, sigmoid, tanh

# Where NumPy's array struct has what, in words of 8 bytes: after the head that all objects have, the data pointer, the
# number of dimensions, and pointers to their lengths and strides.
DATA = object.__basicsize__ // 8
LENGTHS, STRIDES = DATA + 2, DATA + 3
LINE = plans.LINE  # bytes: what panels are rounded up to, the longest vector that there is

_relu, _sigmoid, _tanh = compiled(relu), compiled(sigmoid), compiled(tanh)


@njit(error_model="numpy", inline="always")
def _panel(left: int, lanes: int) -> int:
    """How many of the columns that are left the next panel has: two panels of two vectors beat one of three and one."""
    if VECTORS * lanes < left <= (VECTORS + 1) * lanes:
        return (VECTORS + 1) // 2 * lanes
    return min(left, VECTORS * lanes)


@njit(error_model="numpy", inline="always")
def _up(n: int, to: int) -> int:
    """The next multiple."""
    return (n + to - 1) // to * to


@njit(error_model="numpy", inline="always")
def _pack(like: Any, b: int, row: int, column: int, k: int, first: int, last: int, one: bool, panels: int) -> None:
    """Copy the columns of B from `first` to `last` into panels (or `one`), whose rows are contiguous and whole vectors.

    The panel that begins with column j lies at j·(k, rounded up to whole cache lines).
    """
    lanes = lanes_of(like)
    size = WIDTH // lanes
    deep = _up(k, LINE // size)
    j = first
    while j < last:
        width = last - j if one else _panel(last - j, lanes)
        panel_row = _up(width, lanes) * size
        panel = panels + j * deep * size
        if column == size:
            for p in range(k):
                numbers, to = at(like, b + p * row + j * size), at(like, panel + p * panel_row)
                v = 0
                while v + lanes <= width:
                    store(to, v, load(numbers, v))
                    v += lanes
                if v < width:
                    store(to, v, load_some(numbers, v, width - v))
        elif row == size:
            for v in range(0, width, lanes):
                for p in range(0, k, lanes):
                    corner, to_corner = b + (j + v) * column + p * size, panel + p * panel_row + v * size
                    transpose(like, corner, column, to_corner, panel_row, width - v, k - p)
        else:
            for p in range(k):
                for v in range(width):
                    number = load_some(at(like, b + p * row + (j + v) * column), 0, 1)
                    store_some(at(like, panel + p * panel_row), v, number, 1)
        j += width


@njit(error_model="numpy", inline="always")
def _activated(x: Any, activation: int) -> Any:
    if activation == 1:
        return _relu(x)
    if activation == 2:
        return _sigmoid(x)
    return _tanh(x)


@intrinsic
def _words(context: Any, address: Any) -> Any:
    """What lies at an address as words of 8 bytes."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.inttoptr(args[0], ir.PointerType(I64))

    return types.CPointer(types.int64)(address), lower


@intrinsic
def _stack(context: Any, like: Any) -> Any:
    """The address of memory for SMALL·SMALL numbers that lasts as long as this call."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(context.get_value_type(like.dtype), plans.SMALL**2))
        memory.align = 64
        return builder.ptrtoint(memory, I64)

    return types.int64(like), lower


def gemm(a: Any, b: Any, c: Any, bias: Any, plan: Any, chunk: int) -> None:
    """Do one chunk of what the plan says. If that is to pack, c is where to.

    This is one long function, and what it calls is inlined, since Numba optimises a function anew in every caller.
    """
    lanes = lanes_of(c)
    size = WIDTH // lanes
    work = plan[plans.WORK]
    a_data, b_data, packed = a[DATA], b[DATA], 0
    if work == plans.MULTIPLY_SMALL:  # shapes and strides are in NumPy's structs
        lengths, strides = _words(a[LENGTHS]), _words(a[STRIDES])
        m, k, a_row, a_column = lengths[0], lengths[1], strides[0], strides[1]
        lengths, strides = _words(b[LENGTHS]), _words(b[STRIDES])
        n, b_row, b_column = lengths[1], strides[0], strides[1]
        c_row, items, slab, begin, activation, a_deep = n * size, 1, plans.SMALL, plans.FROM_ZERO, 0, 0
        first_item, last_item, first_row, last_row, first_column, last_column = 0, 1, 0, m, 0, n
    else:
        m, n, k, a_row, a_column = plan[plans.M], plan[plans.N], plan[plans.K], plan[plans.A_ROW], plan[plans.A_COLUMN]
        b_row, b_column, c_row = plan[plans.B_ROW], plan[plans.B_COLUMN], plan[plans.C_ROW]
        items, group, slab = plan[plans.ITEMS], plan[plans.GROUP], plan[plans.SLAB]
        rows, columns, begin = plan[plans.ROWS], plan[plans.COLUMNS], plan[plans.START]
        activation = plan[plans.ACTIVATION]
        across, down = (n + columns - 1) // columns, (m + rows - 1) // rows
        first_item = chunk // (across * down) * group
        first_row, first_column = chunk % down * rows, chunk // down % across * columns
        last_item = min(first_item + group, items)
        last_row, last_column = min(first_row + rows, m), min(first_column + columns, n)
        a_deep = plan[plans.A_DEEP]
        if a_deep:  # A is packed, each chunk's rows as the columns of one panel
            a_row, a_column = size, _up(last_row - first_row, lanes) * size
            a_data += first_row * (a_deep - size)
    if work == plans.PACK:
        packed = address(c)
    elif work == plans.MULTIPLY_SMALL and (b_column != size or m >= 48):
        packed = _stack(c)
    if packed:
        for item in range(first_item, last_item):
            source, to = b_data, packed + item * _up(n, LINE // size) * _up(k, LINE // size) * size
            if work == plans.PACK:
                source += plan[plans.OFFSETS + item]
            _pack(c, source, b_row, b_column, k, first_column, last_column, a_deep != 0, to)
        if work == plans.PACK:
            return
        b_data, b_row, b_column = packed, 0, _up(k, LINE // size) * size
    for item in range(first_item, last_item):
        a_item, b_item, c_item, first = a_data, b_data, address(c), address(bias)
        if work == plans.MULTIPLY:
            a_item += plan[plans.OFFSETS + item]
            b_item += plan[plans.OFFSETS + items + item]
            c_item += plan[plans.OFFSETS + 2 * items + item]
            first += plan[plans.BIAS_OFFSET]
        p = 0
        while p < k or p == 0:
            start, start_row = 0, 0
            if p > 0 or begin == plans.FROM_C:
                start, start_row = c_item, c_row
            elif begin == plans.FROM_BIAS:
                start = first
            for i in range(first_row, last_row, ROWS):
                j = first_column
                while j < last_column:
                    width = _panel(last_column - j, lanes)
                    tile(
                        c,
                        min(ROWS, last_row - i),
                        a_item + i * a_row + p * a_column,
                        a_row,
                        a_column,
                        b_item + p * b_row + j * b_column,
                        b_row if b_column == size else _up(width, lanes) * size,
                        c_item + i * c_row + j * size,
                        c_row,
                        width,
                        min(slab, k - p),
                        start + i * start_row + j * size if start else 0,
                        start_row,
                    )
                    j += width
            p += slab
        if activation:
            for i in range(first_row, last_row):
                y = at(c, c_item + i * c_row)
                j = first_column
                while j + lanes <= last_column:
                    store(y, j, _activated(load(y, j), activation))
                    j += lanes
                if j < last_column:
                    rest = last_column - j
                    store_some(y, j, _activated(load_some(y, j, rest), activation), rest)


SOURCES = {"gemm": Source(gemm, "array array real* real* int64*")}
