"""Convolutions over the tiles of matrix products, without ever making the whole matrix of windows; and pooling.

For one image and one group, windows are the columns of a matrix, whose rows (K of them) are a channel and a place in
the window each, and filters are the rows of another: outputs = filters · windows. The columns are dealt with in panels
as wide as a tile. `_pack` copies a panel of windows out of the image, right before it is multiplied, into memory small
enough to stay in the cache; `_unpack` adds such rows back into an image. Images have their padding already.

- output: for each panel of windows, tiles of filters · panel.
- input: tiles of filtersᵀ · outputs, each added into the image at once.
- weight: windows · outputsᵀ, summed over a chunk's images in a table of its own, whose transpose is the gradient.

Addresses and distances are in bytes where tiles are concerned, else in numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from minigrad.kernels import convolution as plans
from minigrad.kernels.code.microkernel import ROWS, VECTORS, tile
from minigrad.kernels.code.packing import address, at, transpose
from minigrad.kernels.native import Source
from minigrad.kernels.simd import I64, WIDTH, filled, lanes_of, load, load_some, store, store_some, total

SLAB = 128  # rows of a panel of windows
PITCH = WIDTH * (
    VECTORS + 1
)  # bytes from one to the next: whole vectors are written, also where fewer numbers are left


def _memory(count: int) -> Any:
    """An intrinsic that gives memory for so many bytes, which lasts as long as the call of the kernel."""

    @intrinsic
    def memory(context: Any, like: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
            with builder.goto_entry_block():  # not Numba's alloca_once, which writes zeros, byte by byte
                block = builder.alloca(ir.ArrayType(ir.IntType(8), count))
            block.align = 64
            return builder.ptrtoint(block, I64)

        return types.int64(like), lower

    return memory


_panel_memory = _memory(SLAB * PITCH)
_tile_memory = _memory(ROWS * PITCH)
_square_memory = _memory((WIDTH * VECTORS) ** 2 // 4)


@njit(error_model="numpy")
def _pack(like: Any, x: Any, image: int, plan: Any, first_k: int, last_k: int, p: int, last: int, panel: Any) -> None:
    """Copy rows first_k to last_k - 1 of the windows p to last - 1 of the group's image, which is at x[image]."""
    width, rows, columns = plan[plans.WIDTH], plan[plans.ROWS], plan[plans.COLUMNS]
    across, step, lanes = plan[plans.ACROSS], plan[plans.STRIDE_X], lanes_of(like)
    next_row = plan[plans.DILATION_Y] * width - columns * plan[plans.DILATION_X]
    next_channel = plan[plans.HEIGHT] * width - rows * plan[plans.DILATION_Y] * width
    first_channel, first_i, first_j = first_k // (rows * columns), first_k // columns % rows, first_k % columns
    image += (first_channel * plan[plans.HEIGHT] + first_i * plan[plans.DILATION_Y]) * width
    image += first_j * plan[plans.DILATION_X]
    down, right, q = p // across, p % across, 0
    while q < last - p:  # what is side by side in the image, at most a vector of it
        run = min(across - right, min(last - p - q, lanes))
        source, to = image + down * plan[plans.STRIDE_Y] * width + right * step, q
        i, j = first_i, first_j
        for _ in range(last_k - first_k):
            if step == 1:
                store(panel, to, load_some(x, source, run))
            else:
                for v in range(run):
                    panel[to + v] = x[source + v * step]
            to += (VECTORS + 1) * lanes
            source += plan[plans.DILATION_X]
            j += 1
            if j == columns:
                j = 0
                source += next_row
                i += 1
                if i == rows:
                    i = 0
                    source += next_channel
        q += run
        right += run
        if right == across:
            right = 0
            down += 1


@njit(error_model="numpy")
def _unpack(like: Any, block: Any, x: Any, plan: Any, corner: int, channels: int, p: int, last: int) -> None:
    """Add rows of a tile, which belong to so many channels, into the image, as windows p to last - 1 at x[corner]."""
    width, across, step, lanes = plan[plans.WIDTH], plan[plans.ACROSS], plan[plans.STRIDE_X], lanes_of(like)
    area = plan[plans.HEIGHT] * width
    down, right, q = p // across, p % across, 0
    while q < last - p:
        run = min(across - right, min(last - p - q, lanes))
        to, source = corner + down * plan[plans.STRIDE_Y] * width + right * step, q
        for _ in range(channels):
            if step == 1:
                store_some(x, to, load_some(x, to, run) + load(block, source), run)
            else:
                for v in range(run):
                    x[to + v * step] += block[source + v]
            source += (VECTORS + 1) * lanes
            to += area
        q += run
        right += run
        if right == across:
            right = 0
            down += 1


@njit(error_model="numpy", inline="always")
def _output(x: Any, w: Any, z: Any, plan: Any, chunk: int, panel: int) -> None:
    """A chunk's blocks of the outputs z, each of one image and one group."""
    groups, c, out, k_all = plan[plans.GROUPS], plan[plans.CHANNELS], plan[plans.OUT], plan[plans.K]
    windows, area = plan[plans.DOWN] * plan[plans.ACROSS], plan[plans.HEIGHT] * plan[plans.WIDTH]
    size = WIDTH // lanes_of(z)
    wide = VECTORS * lanes_of(z)
    blocks = (windows + plans.BLOCK - 1) // plans.BLOCK
    tasks = plan[plans.IMAGES] * groups * blocks
    for task in range(chunk * plan[plans.PER_CHUNK], min((chunk + 1) * plan[plans.PER_CHUNK], tasks)):
        part, block = task // blocks, task % blocks * plans.BLOCK  # the number of the image's group; the first window
        for p in range(block, min(block + plans.BLOCK, windows), wide):
            last = min(p + wide, windows)
            for k in range(0, k_all, SLAB):
                deep = min(SLAB, k_all - k)
                _pack(z, x, part * c * area, plan, k, k + deep, p, last, at(z, panel))
                for o in range(0, out, ROWS):
                    c_at = address(z) + ((part * out + o) * windows + p) * size
                    tile(
                        z,
                        min(ROWS, out - o),
                        address(w) + ((part % groups * out + o) * k_all + k) * size,
                        k_all * size,
                        size,
                        panel,
                        PITCH,
                        c_at,
                        windows * size,
                        last - p,
                        deep,
                        c_at if k else 0,
                        windows * size,
                    )


@njit(error_model="numpy", inline="always")
def _input(z: Any, w: Any, x: Any, plan: Any, chunk: int, block: int) -> None:
    """A chunk's channels of images x, each of one image and one group; w is (groups, rows·columns, channels, out)."""
    groups, c, out, k_all = plan[plans.GROUPS], plan[plans.CHANNELS], plan[plans.OUT], plan[plans.K]
    windows, area = plan[plans.DOWN] * plan[plans.ACROSS], plan[plans.HEIGHT] * plan[plans.WIDTH]
    size = WIDTH // lanes_of(x)
    wide = VECTORS * lanes_of(x)
    per_part = plan[plans.PER_CHUNK]  # channels
    blocks = (c + per_part - 1) // per_part
    part, first_channel = chunk // blocks, chunk % blocks * per_part
    last_channel = min(first_channel + per_part, c)
    image = part * c * area
    for i in range(image + first_channel * area, image + last_channel * area):
        x[i] = 0.0
    pixels = k_all // c
    for p in range(0, windows, wide):
        last = min(p + wide, windows)
        for channel in range(first_channel, last_channel, ROWS):
            count = min(ROWS, last_channel - channel)
            for k in range(pixels):  # a row of a tile is a channel: what is added one after the other lies apart
                i, j = k // plan[plans.COLUMNS], k % plan[plans.COLUMNS]
                corner = i * plan[plans.DILATION_Y] * plan[plans.WIDTH] + j * plan[plans.DILATION_X]
                tile(
                    x,
                    count,
                    address(w) + ((part % groups * pixels + k) * c + channel) * out * size,
                    out * size,
                    size,
                    address(z) + (part * out * windows + p) * size,
                    windows * size,
                    block,
                    PITCH,
                    last - p,
                    out,
                    0,
                    0,
                )
                _unpack(x, at(x, block), x, plan, image + channel * area + corner, count, p, last)


@njit(error_model="numpy", inline="always")
def _weight(x: Any, z: Any, tables: Any, plan: Any, chunk: int, panel: int, square: int) -> None:
    """The chunk's table (groups, K, out): the sum over its images of windows · outputsᵀ."""
    groups, c, out, k_all = plan[plans.GROUPS], plan[plans.CHANNELS], plan[plans.OUT], plan[plans.K]
    windows, area = plan[plans.DOWN] * plan[plans.ACROSS], plan[plans.HEIGHT] * plan[plans.WIDTH]
    lanes = lanes_of(x)
    size = WIDTH // lanes
    wide = VECTORS * lanes
    images = plan[plans.PER_CHUNK]
    first_part, last_part = chunk * images * groups, min((chunk + 1) * images, plan[plans.IMAGES]) * groups
    for part in range(first_part, last_part):
        table = address(tables) + (chunk * groups + part % groups) * k_all * out * size
        for p in range(0, windows, wide):
            last = min(p + wide, windows)
            for k in range(0, k_all, SLAB):
                deep = min(SLAB, k_all - k)
                _pack(x, x, part * c * area, plan, k, k + deep, p, last, at(x, panel))
                for o in range(0, out, wide):
                    across = min(wide, out - o)
                    z_at = address(z) + ((part * out + o) * windows + p) * size
                    for v in range(0, across, lanes):
                        for q in range(0, last - p, lanes):
                            corner = z_at + (v * windows + q) * size
                            to = square + q * WIDTH * VECTORS + v * size
                            transpose(x, corner, windows * size, to, WIDTH * VECTORS, across - v, last - p - q)
                    for r in range(0, deep, ROWS):
                        c_at = table + ((k + r) * out + o) * size
                        tile(
                            x,
                            min(ROWS, deep - r),
                            panel + r * PITCH,
                            PITCH,
                            size,
                            square,
                            WIDTH * VECTORS,
                            c_at,
                            out * size,
                            across,
                            last - p,
                            c_at if part >= first_part + groups or p else 0,
                            out * size,
                        )


def convolve(a: Any, b: Any, c: Any, plan: Any, chunk: int) -> None:
    """One of the three: `plan` says which. One function, since they share the tiles, which take long to compile."""
    panel = _panel_memory(c)
    if plan[plans.WORK] == plans.OUTPUT:
        _output(a, b, c, plan, chunk, panel)
    elif plan[plans.WORK] == plans.INPUT:
        _input(a, b, c, plan, chunk, _tile_memory(c))
    else:
        _weight(a, b, c, plan, chunk, panel, _square_memory(c))


# Pooling: window by window; those of one plane, an image's channel, are one thread's work.


@njit(error_model="numpy", inline="always")
def _span(number: int, stride: int, padding: int, size: int, length: int) -> tuple[int, int]:
    """The rows (columns) of the image that a window has: the first, and the one after the last."""
    place = number * stride - padding
    return max(place, 0), min(place + size, length)


@njit(error_model="numpy")
def _largest(x: Any, u: Any, window: int, plane: int, width: int, top: int, below: int, left: int, right: int) -> int:
    """Where the largest number of a window is, the first of several; the first NaN if there is one."""
    found = plane + top * width + left
    best = x[found]
    for i in range(top, below):
        for at_pixel in range(plane + i * width + left, plane + i * width + right):
            if not x[at_pixel] <= best and best == best:
                best, found = x[at_pixel], at_pixel
    return found


@njit(error_model="numpy")
def _drawn(x: Any, u: Any, window: int, plane: int, width: int, top: int, below: int, left: int, right: int) -> int:
    """Where the number is that u draws; sums are added up in the same order as NumPy's, so that it is the same one."""
    zero = total(filled(x, 0.0))  # of the type of x
    whole = zero
    for i in range(top, below):
        for at_pixel in range(plane + i * width + left, plane + i * width + right):
            whole += zero if x[at_pixel] < 0 else x[at_pixel]
    goal, so_far = u[window] * whole, zero
    for i in range(top, below):
        for at_pixel in range(plane + i * width + left, plane + i * width + right):
            so_far += zero if x[at_pixel] < 0 else x[at_pixel]
            if so_far > goal or so_far == whole or so_far != so_far:
                return at_pixel
    return plane + top * width + left


def choosing(choose: Any) -> tuple[Any, Any]:
    """The kernels of a pooling that chooses one pixel of each window, forward and backward."""

    def pool(x: Any, u: Any, y: Any, plan: Any, chunk: int) -> None:
        h, width, down, across = plan[plans.H], plan[plans.W], plan[plans.TALL], plan[plans.WIDE]
        first, last = chunk * plan[plans.PLANES_EACH], min((chunk + 1) * plan[plans.PLANES_EACH], plan[plans.PLANES])
        for plane in range(first, last):
            for i in range(down):
                top, below = _span(i, plan[plans.STEP_Y], plan[plans.PAD_Y], plan[plans.SIZE_Y], h)
                for j in range(across):
                    left, right = _span(j, plan[plans.STEP_X], plan[plans.PAD_X], plan[plans.SIZE_X], width)
                    window = (plane * down + i) * across + j
                    y[window] = x[choose(x, u, window, plane * h * width, width, top, below, left, right)]

    def pool_vjp(g: Any, x: Any, u: Any, x_bar: Any, plan: Any, chunk: int) -> None:
        h, width, down, across = plan[plans.H], plan[plans.W], plan[plans.TALL], plan[plans.WIDE]
        first, last = chunk * plan[plans.PLANES_EACH], min((chunk + 1) * plan[plans.PLANES_EACH], plan[plans.PLANES])
        for i in range(first * h * width, last * h * width):
            x_bar[i] = 0.0
        for plane in range(first, last):
            for i in range(down):
                top, below = _span(i, plan[plans.STEP_Y], plan[plans.PAD_Y], plan[plans.SIZE_Y], h)
                for j in range(across):
                    left, right = _span(j, plan[plans.STEP_X], plan[plans.PAD_X], plan[plans.SIZE_X], width)
                    window = (plane * down + i) * across + j
                    x_bar[choose(x, u, window, plane * h * width, width, top, below, left, right)] += g[window]

    return pool, pool_vjp


max_pool, max_pool_vjp = choosing(_largest)
stochastic_pool, stochastic_pool_vjp = choosing(_drawn)


def avg_pool(x: Any, y: Any, plan: Any, chunk: int) -> None:
    """y = the mean of each window; padding counts as zeros."""
    h, width, down, across = plan[plans.H], plan[plans.W], plan[plans.TALL], plan[plans.WIDE]
    pixels = plan[plans.SIZE_Y] * plan[plans.SIZE_X]
    first, last = chunk * plan[plans.PLANES_EACH], min((chunk + 1) * plan[plans.PLANES_EACH], plan[plans.PLANES])
    for plane in range(first, last):
        for i in range(down):
            top, below = _span(i, plan[plans.STEP_Y], plan[plans.PAD_Y], plan[plans.SIZE_Y], h)
            for j in range(across):
                left, right = _span(j, plan[plans.STEP_X], plan[plans.PAD_X], plan[plans.SIZE_X], width)
                window = (plane * down + i) * across + j
                y[window] = 0.0
                for row in range(plane * h + top, plane * h + below):
                    for at_pixel in range(row * width + left, row * width + right):
                        y[window] += x[at_pixel]
                y[window] /= pixels


def avg_unpool(x: Any, y: Any, plan: Any, chunk: int) -> None:
    """y = zeros, with each x shared out to its window."""
    h, width, down, across = plan[plans.H], plan[plans.W], plan[plans.TALL], plan[plans.WIDE]
    pixels = plan[plans.SIZE_Y] * plan[plans.SIZE_X]
    first, last = chunk * plan[plans.PLANES_EACH], min((chunk + 1) * plan[plans.PLANES_EACH], plan[plans.PLANES])
    for i in range(first * h * width, last * h * width):
        y[i] = 0.0
    for plane in range(first, last):
        for i in range(down):
            top, below = _span(i, plan[plans.STEP_Y], plan[plans.PAD_Y], plan[plans.SIZE_Y], h)
            for j in range(across):
                left, right = _span(j, plan[plans.STEP_X], plan[plans.PAD_X], plan[plans.SIZE_X], width)
                share = x[(plane * down + i) * across + j] / pixels
                for row in range(plane * h + top, plane * h + below):
                    for at_pixel in range(row * width + left, row * width + right):
                        y[at_pixel] += share


SOURCES = {
    "convolve": Source(convolve, "real* real* real* int64*"),
    "max_pool": Source(max_pool, "real* real* real* int64*"),
    "max_pool_vjp": Source(max_pool_vjp, "real* real* real* real* int64*"),
    "stochastic_pool": Source(stochastic_pool, "real* real* real* int64*"),
    "stochastic_pool_vjp": Source(stochastic_pool_vjp, "real* real* real* real* int64*"),
    "avg_pool": Source(avg_pool, "real* real* int64*"),
    "avg_unpool": Source(avg_unpool, "real* real* int64*"),
}
