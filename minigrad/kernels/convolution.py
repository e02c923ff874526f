"""Convolution and pooling: forwards and rules as the operations in `minigrad.ops.convolution` have them.

A plan is a row of integers that says what the kernel needs to know of the shapes, and how the work is divided into
chunks. It follows from the shapes alone.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from minigrad.kernels.native import REALS, Kernel

Pair = tuple[int, int]

_convolve = Kernel("convolution", "convolve")
_max_pool, _max_pool_vjp = Kernel("convolution", "max_pool"), Kernel("convolution", "max_pool_vjp")
_stochastic_pool, _stochastic_pool_vjp, _avg_pool, _avg_unpool = (
    Kernel("convolution", name) for name in ("stochastic_pool", "stochastic_pool_vjp", "avg_pool", "avg_unpool")
)

# What is where in a plan. CHANNELS, OUT and K = CHANNELS·ROWS·COLUMNS are those of one group; images are padded.
WORK, IMAGES, GROUPS, CHANNELS, OUT, K, HEIGHT, WIDTH, ROWS, COLUMNS, DOWN, ACROSS = range(12)
STRIDE_Y, STRIDE_X, DILATION_Y, DILATION_X, PER_CHUNK = range(12, 17)
OUTPUT, INPUT, WEIGHT = range(3)

# The same for a pooling; a plane is one channel of one image.
PLANES, H, W, TALL, WIDE, SIZE_Y, SIZE_X, STEP_Y, STEP_X, PAD_Y, PAD_X, PLANES_EACH = range(12)

BLOCK = 64  # windows: a multiple of what a panel has, on every processor
STRIP = 24  # channels: a multiple of the rows that a tile has, on every processor
ENOUGH = 1 << 21  # multiplications in a chunk: some 30 µs
PIXELS = 1 << 14  # that a chunk of a pooling reads: some 5 to 30 µs
TABLES = 1 << 23  # bytes for the tables of the gradient of the weights


@lru_cache(maxsize=512)
def _plan(
    work: int,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    windows: Pair,
    stride: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[np.ndarray, int]:
    """The plan, and the number of chunks."""
    n, _, *image = x_shape
    out, c, *window = w_shape
    out //= groups
    k, count = c * window[0] * window[1], windows[0] * windows[1]
    if work == OUTPUT:  # blocks of windows
        per_chunk = max(1, ENOUGH // (k * out * BLOCK))
        chunks = -(-n * groups * -(-count // BLOCK) // per_chunk)
    elif work == INPUT:  # channels of one image's group
        per_chunk = max(1, ENOUGH // (k // c * out * count * STRIP)) * STRIP
        chunks = n * groups * -(-c // per_chunk)
    else:  # images
        per_chunk = max(1, ENOUGH // (k * out * groups * count), -(-n * groups * k * out * 8 // TABLES))
        chunks = -(-n // per_chunk)
    plan = (work, n, groups, c, out, k, *image, *window, *windows, *stride, *dilation, per_chunk)
    return np.array(plan, np.int64), chunks


def _usable(*xs: Any) -> bool:
    first = xs[0]
    return (
        type(first) is np.ndarray
        and first.dtype in REALS
        and all(type(x) is np.ndarray and x.dtype == first.dtype and x.size for x in xs)
    )


def _in_order(x: np.ndarray) -> np.ndarray:
    return np.require(x, requirements=("C", "A"))


def _padded(x: np.ndarray, padding: Pair) -> np.ndarray:
    """Images with their padding, in C order."""
    (down, across), (h, w) = padding, x.shape[-2:]
    if not (down or across):
        return _in_order(x)
    y = np.zeros((*x.shape[:-2], h + 2 * down, w + 2 * across), x.dtype)
    y[..., down : down + h, across : across + w] = x
    return y


def conv2d(x: Any, w: Any, *, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Any:
    """Images x (n, c, h, w) through filters w (out, c/groups, rows, columns).

    Example:
        >>> import numpy as np
        >>> x, w = np.array([[[[1.0, 2.0, 4.0]]]]), np.array([[[[-1.0, 1.0]]]])
        >>> conv2d(x, w, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        array([[[[1., 2.]]]])
    """
    if not _usable(x, w):
        return NotImplemented
    x = _padded(x, padding)
    down, across = (
        (n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[2:], w.shape[2:], stride, dilation, strict=True)
    )
    plan, chunks = _plan(OUTPUT, x.shape, w.shape, (down, across), stride, dilation, groups)
    y = np.empty((len(x), len(w), down, across), x.dtype)
    _convolve[x.dtype](x, _in_order(w), y, plan, chunks)
    return y


def conv2d_input(z: Any, w: Any, *, shape: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Any:
    """The adjoint of conv2d in the images, which are (h, w) = shape: z (n, out, down, across) gives (n, c, h, w).

    Example:
        >>> import numpy as np
        >>> z, w = np.array([[[[1.0, 2.0]]]]), np.array([[[[-1.0, 1.0]]]])
        >>> conv2d_input(z, w, shape=(1, 3), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        array([[[[-1., -1.,  2.]]]])
    """
    if not _usable(z, w):
        return NotImplemented
    (down, across), (h, width) = padding, shape
    x = np.empty((len(z), w.shape[1] * groups, h + 2 * down, width + 2 * across), z.dtype)
    plan, chunks = _plan(INPUT, x.shape, w.shape, z.shape[2:], stride, dilation, groups)
    out, c, *window = w.shape
    w = w.reshape(groups, out // groups, c, prod(window)).transpose(0, 3, 2, 1)  # as it is read
    _convolve[z.dtype](_in_order(z), _in_order(w), x, plan, chunks)
    return _in_order(x[..., down : down + h, across : across + width])


def conv2d_weight(x: Any, z: Any, *, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Any:
    """The adjoint of conv2d in the filters, which have so many rows and columns: (out, c/groups, rows, columns).

    Example:
        >>> import numpy as np
        >>> x, z = np.array([[[[1.0, 2.0, 4.0]]]]), np.array([[[[1.0, 10.0]]]])
        >>> conv2d_weight(x, z, size=(1, 2), stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        array([[[[21., 42.]]]])
    """
    if not _usable(x, z):
        return NotImplemented
    w_shape = (z.shape[1], x.shape[1] // groups, *size)
    x = _padded(x, padding)
    plan, chunks = _plan(WEIGHT, x.shape, w_shape, z.shape[2:], stride, dilation, groups)
    tables = np.empty((chunks, groups, plan[K], plan[OUT]), x.dtype)
    _convolve[x.dtype](x, _in_order(z), tables, plan, chunks)
    w = tables.sum(0) if chunks > 1 else tables[0]
    return np.ascontiguousarray(w.swapaxes(1, 2)).reshape(w_shape)


@lru_cache(maxsize=512)
def _pooling(
    shape: tuple[int, ...], size: Pair, stride: Pair, padding: Pair
) -> tuple[tuple[int, ...], np.ndarray, int]:
    """The shape of what is pooled, the plan, and the number of chunks."""
    *leading, h, w = shape
    down, across = ((n + 2 * p - k) // s + 1 for n, k, s, p in zip((h, w), size, stride, padding, strict=True))
    planes = prod(leading)
    each = max(1, PIXELS // (down * across * size[0] * size[1]))
    plan = (planes, h, w, down, across, *size, *stride, *padding, each)
    return (*leading, down, across), np.array(plan, np.int64), -(-planes // each)


def max_pool(x: Any, *, size: Pair, stride: Pair, padding: Pair) -> Any:
    """The largest number of each window of x (..., h, w).

    Example:
        >>> import numpy as np
        >>> max_pool(np.array([[1.0, 3.0, 2.0, 0.0]]), size=(1, 2), stride=(1, 2), padding=(0, 0))
        array([[3., 2.]])
    """
    if not _usable(x):
        return NotImplemented
    shape, plan, chunks = _pooling(x.shape, size, stride, padding)
    y = np.empty(shape, x.dtype)
    _max_pool[x.dtype](_in_order(x), y, plan, chunks)
    return y


def max_pool_input(z: Any, x: Any, *, size: Pair, stride: Pair, padding: Pair) -> Any:
    """Zeros, with z, of the shape of what is pooled, added where the largest number of each window of x (..., h, w) is.

    Example:
        >>> import numpy as np
        >>> window = {"size": (1, 2), "stride": (1, 2), "padding": (0, 0)}
        >>> max_pool_input(np.array([[5.0, 7.0]]), np.array([[1.0, 3.0, 2.0, 0.0]]), **window)
        array([[0., 5., 7., 0.]])
    """
    if not _usable(z, x):
        return NotImplemented
    shape, plan, chunks = _pooling(x.shape, size, stride, padding)
    if z.shape != shape:
        return NotImplemented
    y = np.empty(x.shape, x.dtype)
    _max_pool_vjp[x.dtype](_in_order(z), _in_order(x), y, plan, chunks)
    return y


def stochastic_pool(x: Any, u: Any, *, size: Pair, stride: Pair, padding: Pair) -> Any:
    """The number of each window of x (..., h, w) that u draws, with probability proportional to what is positive.

    Example:
        >>> import numpy as np
        >>> window = {"size": (1, 2), "stride": (1, 2), "padding": (0, 0)}
        >>> stochastic_pool(np.array([[1.0, 3.0]]), np.array([[0.3]]), **window)
        array([[3.]])
    """
    if not _usable(x, u):
        return NotImplemented
    shape, plan, chunks = _pooling(x.shape, size, stride, padding)
    if u.shape != shape:
        return NotImplemented
    y = np.empty(shape, x.dtype)
    _stochastic_pool[x.dtype](_in_order(x), _in_order(u), y, plan, chunks)
    return y


def stochastic_pool_input(z: Any, x: Any, u: Any, *, size: Pair, stride: Pair, padding: Pair) -> Any:
    """Zeros, with z, of the shape of what is pooled, added where the number is that u draws from each window of x.

    Example:
        >>> import numpy as np
        >>> window = {"size": (1, 2), "stride": (1, 2), "padding": (0, 0)}
        >>> stochastic_pool_input(np.array([[5.0]]), np.array([[1.0, 3.0]]), np.array([[0.3]]), **window)
        array([[0., 5.]])
    """
    if not _usable(z, x, u):
        return NotImplemented
    shape, plan, chunks = _pooling(x.shape, size, stride, padding)
    if not z.shape == u.shape == shape:
        return NotImplemented
    y = np.empty(x.shape, x.dtype)
    _stochastic_pool_vjp[x.dtype](_in_order(z), _in_order(x), _in_order(u), y, plan, chunks)
    return y


def avg_pool(x: Any, *, size: Pair, stride: Pair, padding: Pair) -> Any:
    """The mean of each window of x (..., h, w), whose padding counts as zeros.

    Example:
        >>> import numpy as np
        >>> avg_pool(np.array([[1.0, 3.0, 2.0, 0.0]]), size=(1, 2), stride=(1, 2), padding=(0, 0))
        array([[2., 1.]])
    """
    if not _usable(x):
        return NotImplemented
    shape, plan, chunks = _pooling(x.shape, size, stride, padding)
    y = np.empty(shape, x.dtype)
    _avg_pool[x.dtype](_in_order(x), y, plan, chunks)
    return y


def avg_unpool(x: Any, *, shape: Pair, size: Pair, stride: Pair, padding: Pair) -> Any:
    """The adjoint of avg_pool, of images (h, w) = shape: each x (..., down, across) shared out evenly to its window.

    Example:
        >>> import numpy as np
        >>> avg_unpool(np.array([[2.0, 1.0]]), shape=(1, 4), size=(1, 2), stride=(1, 2), padding=(0, 0))
        array([[1. , 1. , 0.5, 0.5]])
    """
    if not _usable(x):
        return NotImplemented
    y = np.empty((*x.shape[:-2], *shape), x.dtype)
    _, plan, chunks = _pooling(y.shape, size, stride, padding)
    _avg_unpool[x.dtype](_in_order(x), y, plan, chunks)
    return y
