"""Matrix products C = act(A·B + bias), the loops around the tiles of `microkernel`.

    for each chunk of C: some rows, some columns                          (any thread)
        for each block of its columns, and each slab of the inner axis
            for each strip of the chunk: ROWS rows, or all if the block is one panel
                for each panel of the block: VECTORS vectors of columns
                    tiles, one below the other, each in registers

That is the order of Goto and van de Geijn ("Anatomy of high-performance matrix multiplication", 2008) with A and B
exchanged: it is a part of B, a block's columns in a slab's rows, that stays in a cache, while the strips of A pass by.
A is read where it is, whatever its strides. B is copied, into panels, in the order in which tiles read it: on the way,
by the tiles of the first strip, if its rows are contiguous; else before them. As long as A is near, in the second-level
cache, a block is a single panel, which stays in the first-level cache; otherwise it has several, so that A passes by
less often. Every element of C is summed up in the same order, whatever the chunks are.

`gemm` does a chunk of the plan that `minigrad.kernels.matmul` made, or a small product as a whole. Addresses are
integers, strides are in bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from minigrad.kernels import matmul as plans
from minigrad.kernels.code.microkernel import ROWS, VECTORS, tiles
from minigrad.kernels.code.packing import address, at, transpose
from minigrad.kernels.native import Source
from minigrad.kernels.simd import I64, WIDTH
from minigrad.kernels.vectors import lanes_of, load_some, store_some

# Where NumPy's array struct has what, in words of 8 bytes: after the head that all objects have, the data pointer, the
# number of dimensions, and pointers to their lengths and strides.
DATA = object.__basicsize__ // 8
LENGTHS, STRIDES = DATA + 2, DATA + 3
NARROW = plans.PANEL_ROW // (VECTORS * WIDTH)  # how many of this processor's panels are as wide as the widest


@njit(error_model="numpy", inline="always")
def _panel(left: int, lanes: int) -> int:
    """How many of the columns that are left the next panel has: as few panels as possible, all about as wide."""
    vectors = (left + lanes - 1) // lanes
    if vectors <= VECTORS:  # without a division, which a small product would notice
        return left
    panels = (vectors + VECTORS - 1) // VECTORS
    return min(left, (vectors + panels - 1) // panels * lanes)


@njit(error_model="numpy", inline="always")
def _up(n: int, to: int) -> int:
    """The next multiple."""
    return (n + to - 1) // to * to


@njit(error_model="numpy", inline="always")
def _pack(like: Any, b: int, row: int, column: int, k: int, width: int, panel: int) -> None:
    """Copy k rows of so many numbers, which are not side by side there, into a panel, where they are."""
    lanes = lanes_of(like)
    size = WIDTH // lanes
    panel_row = _up(width, lanes) * size
    if row == size:
        for v in range(0, width, lanes):
            for p in range(0, k, lanes):
                corner, to_corner = b + v * column + p * size, panel + p * panel_row + v * size
                transpose(like, corner, column, to_corner, panel_row, width - v, k - p)
    else:
        for p in range(k):
            for v in range(width):
                number = load_some(at(like, b + p * row + v * column), 0, 1)
                store_some(at(like, panel + p * panel_row), v, number, 1)


@intrinsic
def _words(context: Any, address: Any) -> Any:
    """What lies at an address as words of 8 bytes."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.inttoptr(args[0], ir.PointerType(I64))

    return types.CPointer(types.int64)(address), lower


@intrinsic
def _panel_memory(context: Any, like: Any) -> Any:
    """The address of memory for a wide panel, which lasts as long as this call."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.IntType(8), plans.PANEL_ROW * plans.NEAR_SLAB))
        memory.align = plans.LINE
        return builder.ptrtoint(memory, I64)

    return types.int64(like), lower


def gemm(a: Any, b: Any, c: Any, bias: Any, panels: Any, plan: Any, chunk: int) -> None:
    """Do one chunk of a product. If there is no bias, C stands in its place.

    This is one long function, and what it calls is inlined, since Numba optimises a function anew in every caller.
    """
    lanes = lanes_of(c)
    size = WIDTH // lanes
    a_data, b_data, packed = a[DATA], b[DATA], _panel_memory(c)
    items, first_item, last_item = plan[plans.ITEMS], 0, 1
    if items == 0:  # a small product: shapes and strides are in NumPy's structs
        lengths, strides = _words(a[LENGTHS]), _words(a[STRIDES])
        m, k, a_row, a_column = lengths[0], lengths[1], strides[0], strides[1]
        lengths, strides = _words(b[LENGTHS]), _words(b[STRIDES])
        n, b_row, b_column = lengths[1], strides[0], strides[1]
        c_row, slab, block_panels, activation = n * size, plans.SMALL, 1, 0
        first_row, last_row, first_column, last_column = 0, m, 0, n
    else:
        m, n, k, a_row, a_column = plan[plans.M], plan[plans.N], plan[plans.K], plan[plans.A_ROW], plan[plans.A_COLUMN]
        b_row, b_column, c_row = plan[plans.B_ROW], plan[plans.B_COLUMN], plan[plans.C_ROW]
        group, rows, columns, slab = plan[plans.GROUP], plan[plans.ROWS], plan[plans.COLUMNS], plan[plans.SLAB]
        block_panels, activation = 1, plan[plans.ACTIVATION]
        first_row, first_column = 0, 0
        if chunk:  # the first one needs no division, which a small product would notice
            across, down = (n + columns - 1) // columns, (m + rows - 1) // rows
            first_item = chunk // (across * down) * group
            first_row, first_column = chunk % down * rows, chunk // down % across * columns
        last_item = min(first_item + group, items)
        last_row, last_column = min(first_row + rows, m), min(first_column + columns, n)
        if plan[plans.PANELS]:
            block_panels = plan[plans.BLOCK] * NARROW
            packed = _up(address(panels), plans.LINE) + chunk * plan[plans.PANELS]
    packs = last_row - first_row >= plans.PACKED_ROWS
    strip = max(1, last_row - first_row) if block_panels == 1 else ROWS
    for item in range(first_item, last_item):
        a_item, b_item, c_item = a_data, b_data, address(c)
        if items:
            a_item += plan[plans.OFFSETS + item]
            b_item += plan[plans.OFFSETS + items + item]
            c_item += plan[plans.OFFSETS + 2 * items + item]
        block = first_column
        while block < last_column:
            block_end, left = block, block_panels
            while block_end < last_column and left:
                block_end += _panel(last_column - block_end, lanes)
                left -= 1
            p = 0
            while p < k or p == 0:
                deep = min(slab, k - p)
                start_item, start_row = 0, 0
                if p > 0:
                    start_item, start_row = c_item, c_row
                elif address(bias) != address(c):
                    start_item = address(bias)
                applied = activation if p + deep >= k else 0
                for i in range(first_row, last_row, strip):
                    height, panel, j = min(strip, last_row - i), packed, block
                    while j < block_end:
                        width = _panel(last_column - j, lanes)
                        panel_row = _up(width, lanes) * size
                        a_at, b_at, b_next = a_item + i * a_row + p * a_column, panel, panel_row
                        c_at, start = c_item + i * c_row + j * size, start_item
                        if start:
                            start += i * start_row + j * size
                        to = 0
                        if i == first_row or not (packs or b_column != size):
                            b_at, b_next = b_item + p * b_row + j * b_column, b_row
                        if i == first_row and b_column != size:
                            _pack(c, b_at, b_row, b_column, deep, width, panel)
                            b_at, b_next = panel, panel_row
                        elif i == first_row and packs:
                            to = panel
                        tiles(
                            c,
                            height,
                            a_at,
                            a_row,
                            a_column,
                            b_at,
                            b_next,
                            c_at,
                            c_row,
                            width,
                            deep,
                            start,
                            start_row,
                            to,
                            applied,
                        )
                        panel += slab * panel_row
                        j += width
                p += slab
            block = block_end


SOURCES = {"gemm": Source(gemm, "array array real* real* uint8* int64*")}
