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
from typing import Any, NamedTuple

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from minigrad.kernels import convolution as plans
from minigrad.kernels.code.microkernel import ROWS, VECTORS, tiles
from minigrad.kernels.code.packing import address, at, transpose
from minigrad.kernels.code.reductions import loaded, put
from minigrad.kernels.native import Source
from minigrad.kernels.simd import I64, WIDTH, V, select
from minigrad.kernels.vectors import (
    compiled,
    filled,
    lanes_of,
    load,
    load_apart,
    load_some,
    store,
    store_apart,
    store_some,
    total,
    where,
)

INF = float("inf")
SLAB = 128  # rows of a panel of windows
# Bytes from one to the next: whole vectors are written, also where fewer numbers are left.
PITCH = WIDTH * (VECTORS + 1)


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
                c_at = address(z) + (part * out * windows + p) * size
                tiles(
                    z,
                    out,
                    address(w) + (part % groups * out * k_all + k) * size,
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
                    0,
                    0,
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
                tiles(
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
                    c_at = table + (k * out + o) * size
                    tiles(
                        x,
                        deep,
                        panel,
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
                        0,
                        0,
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


# Pooling: a plane, one channel of an image, is one thread's work. What is done with a window is a function, which gets
# several windows at once, one in each lane, where it can use vectors.


class Window(NamedTuple):
    """What the edges of its plane leave of a window; or several whole ones side by side, by the first of them."""

    number: int  # among all windows
    first: int  # where its first pixel is
    width: int  # from a row of pixels to the next
    rows: int
    columns: int
    area: int  # of a whole window
    step: int  # from a window to the next
    windows: int  # how many there are


@njit(error_model="numpy", inline="always")
def _span(number: int, stride: int, padding: int, size: int, length: int) -> tuple[int, int]:
    """The rows (columns) of the image that a window has: the first, and the one after the last."""
    place = number * stride - padding
    return max(place, 0), min(place + size, length)


@njit(error_model="numpy")
def _planes(plan: Any, chunk: int) -> tuple[int, int]:
    """The first of a chunk's planes, and the one after the last."""
    return chunk * plan[plans.PLANES_EACH], min((chunk + 1) * plan[plans.PLANES_EACH], plan[plans.PLANES])


@njit(error_model="numpy", forceinline=True)
def _each_window(act: Any, arrays: Any, most: int, plan: Any, chunk: int) -> None:
    """act(arrays, window) for all windows of the chunk, up to `most` side by side at once."""
    h, width, down, across = plan[plans.H], plan[plans.W], plan[plans.TALL], plan[plans.WIDE]
    step, padding, size = plan[plans.STEP_X], plan[plans.PAD_X], plan[plans.SIZE_X]
    area = plan[plans.SIZE_Y] * size
    first, last = _planes(plan, chunk)
    first_whole, after_whole = (padding + step - 1) // step, (width + padding - size) // step + 1
    for plane in range(first, last):
        for i in range(down):
            top, below = _span(i, plan[plans.STEP_Y], plan[plans.PAD_Y], plan[plans.SIZE_Y], h)
            j = 0
            while j < across:
                left, right = _span(j, step, padding, size, width)
                count = max(1, min(most, after_whole - j)) if j >= first_whole else 1
                number, pixel = (plane * down + i) * across + j, (plane * h + top) * width + left
                act(arrays, Window(number, pixel, width, below - top, right - left, area, step, count))
                j += count


@njit(error_model="numpy", inline="always")
def _row(window: Window, row: int) -> Any:
    """Where the pixels of a row of the window are."""
    start = window.first + row * window.width
    return range(start, start + window.columns)


@njit(error_model="numpy")
def _clear(images: Any, plan: Any, chunk: int) -> None:
    """Zeros in the chunk's planes."""
    first, last = _planes(plan, chunk)
    for i in range(first * plan[plans.H] * plan[plans.W], last * plan[plans.H] * plan[plans.W]):
        images[i] = 0.0


@njit(error_model="numpy", inline="always")
def _pixels(x: Any, i: int, window: Window) -> Any:
    """The pixel at x[i] and those in the same place of the other windows."""
    return load_some(x, i, window.windows) if window.step == 1 else load_apart(x, i, window.step, window.windows)


@njit(error_model="numpy", inline="always")
def _add(y: Any, i: int, x: Any, window: Window) -> None:
    """Add to the pixel at y[i] and those in the same place of the other windows."""
    if window.step == 1:
        store_some(y, i, load_some(y, i, window.windows) + x, window.windows)
    else:
        store_apart(y, i, window.step, load_apart(y, i, window.step, window.windows) + x, window.windows)


def _first_largest(best: V, x: V) -> V:
    """The larger of two, the first if they are equal; NaN where either is."""
    return select(x > best, x, select(x == x, best, x))


def _first_place(best: V, x: V, place: V, new: V) -> V:
    """The place of what `_first_largest` gives, the first NaN if there are two."""
    return select(x > best, new, select(x == x, place, select(best == best, new, place)))


first_largest, first_place = compiled(_first_largest), compiled(_first_place)


@njit(error_model="numpy")
def _largest(arrays: Any, window: Window) -> None:
    """y[window] = the largest of its pixels."""
    x, y = arrays
    best = filled(x, -INF)
    for row in range(window.rows):
        for i in _row(window, row):
            best = first_largest(best, _pixels(x, i, window))
    put(y, window.number, best, window.windows)


def max_pool(x: Any, y: Any, plan: Any, chunk: int) -> None:
    """y = the largest number of each window."""
    _each_window(_largest, (x, y), lanes_of(x), plan, chunk)


@njit(error_model="numpy")
def _to_largest(arrays: Any, window: Window) -> None:
    """x̄ += ȳ[window] at the first of its largest pixels: it is looked for first, then all are gone through again."""
    g, x, x_bar = arrays
    best, place = filled(x, -INF), filled(x, 0.0)
    cotangent, number = loaded(g, window.number, window.windows), 0.0
    for row in range(window.rows):
        for i in _row(window, row):
            pixels = _pixels(x, i, window)
            place, best = first_place(best, pixels, place, number), first_largest(best, pixels)
            number += 1.0
    number = 0.0
    for row in range(window.rows):
        for i in _row(window, row):
            _add(x_bar, i, where(place == number, cotangent, 0.0), window)
            number += 1.0


def max_pool_vjp(g: Any, x: Any, x_bar: Any, plan: Any, chunk: int) -> None:
    """x̄ = zeros, with each ȳ added where the largest number of its window is."""
    _clear(x_bar, plan, chunk)
    _each_window(_to_largest, (g, x, x_bar), lanes_of(x), plan, chunk)


@njit(error_model="numpy")
def _mean(arrays: Any, window: Window) -> None:
    """y[window] = the mean of its pixels."""
    x, y = arrays
    whole = filled(x, 0.0)
    for row in range(window.rows):
        for i in _row(window, row):
            whole = whole + _pixels(x, i, window)
    put(y, window.number, whole / window.area, window.windows)


def avg_pool(x: Any, y: Any, plan: Any, chunk: int) -> None:
    """y = the mean of each window; padding counts as zeros."""
    _each_window(_mean, (x, y), lanes_of(x), plan, chunk)


@njit(error_model="numpy")
def _shared_out(arrays: Any, window: Window) -> None:
    """y += x[window]/area at each of its pixels."""
    x, y = arrays
    share = loaded(x, window.number, window.windows) / window.area
    for row in range(window.rows):
        for i in _row(window, row):
            _add(y, i, share, window)


def avg_unpool(x: Any, y: Any, plan: Any, chunk: int) -> None:
    """y = zeros, with each x shared out to its window."""
    _clear(y, plan, chunk)
    _each_window(_shared_out, (x, y), lanes_of(x), plan, chunk)


@njit(error_model="numpy")
def _drawn(x: Any, u: Any, window: Window) -> int:
    """Where the number is that u draws; sums are added up in the same order as NumPy's, so that it is the same one."""
    zero = total(filled(x, 0.0))  # of the type of x
    whole = zero
    for row in range(window.rows):
        for i in _row(window, row):
            whole += zero if x[i] < 0 else x[i]
    goal, so_far = u[window.number] * whole, zero
    for row in range(window.rows):
        for i in _row(window, row):
            so_far += zero if x[i] < 0 else x[i]
            if so_far > goal or so_far == whole or so_far != so_far:
                return i
    return window.first


@njit(error_model="numpy")
def _draw(arrays: Any, window: Window) -> None:
    """y[window] = the pixel that u draws."""
    x, u, y = arrays
    y[window.number] = x[_drawn(x, u, window)]


def stochastic_pool(x: Any, u: Any, y: Any, plan: Any, chunk: int) -> None:
    """y = the number of each window that u draws."""
    _each_window(_draw, (x, u, y), 1, plan, chunk)


@njit(error_model="numpy")
def _to_drawn(arrays: Any, window: Window) -> None:
    """x̄ += ȳ[window] at the pixel that u draws."""
    g, x, u, x_bar = arrays
    x_bar[_drawn(x, u, window)] += g[window.number]


def stochastic_pool_vjp(g: Any, x: Any, u: Any, x_bar: Any, plan: Any, chunk: int) -> None:
    """x̄ = zeros, with each ȳ added where the number is that u drew."""
    _clear(x_bar, plan, chunk)
    _each_window(_to_drawn, (g, x, u, x_bar), 1, plan, chunk)


SOURCES = {
    "convolve": Source(convolve, "real* real* real* int64*"),
    "max_pool": Source(max_pool, "real* real* int64*"),
    "max_pool_vjp": Source(max_pool_vjp, "real* real* real* int64*"),
    "stochastic_pool": Source(stochastic_pool, "real* real* real* int64*"),
    "stochastic_pool_vjp": Source(stochastic_pool_vjp, "real* real* real* real* int64*"),
    "avg_pool": Source(avg_pool, "real* real* int64*"),
    "avg_unpool": Source(avg_unpool, "real* real* int64*"),
}
