"""Matrix products, and layers: act(x·W + bias) in one pass.

`code/gemm.py` says how products are computed; here is planned what: whether B is packed, and how C is divided into
chunks. That follows from shapes and strides alone, so that results are the same, bit by bit, for any number of threads;
and it is kept, since products of the same shapes come again and again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from minigrad.kernels.native import Kernel, plain_function
from minigrad.kernels.threads import num_threads

ACTIVATIONS = {None: 0, "relu": 1, "sigmoid": 2, "tanh": 3}

# A plan is a row of integers: these, then where each matrix begins, in bytes: all of A's, all of B's, all of C's.
# ITEMS 0 stands for a product of two small matrices, of which there is no plan.
ITEMS, GROUP, M, N, K, A_ROW, A_COLUMN, B_ROW, B_COLUMN, C_ROW = range(10)
ROWS, COLUMNS, BLOCK, PANELS, SLAB, ACTIVATION, OFFSETS = range(10, 17)
FIELDS = {name.lower(): place for name, place in globals().items() if type(place) is int}

LINE = 64  # bytes that a cache line has, and the longest vector
STRIP = 6  # rows of a tile
PANEL_ROW = 4 * LINE  # bytes of a row of the widest panel
SMALL = 64  # rows and columns up to which a product needs no plan

# Measured on a processor with AVX-512, a first-level cache of 48 KiB and a second-level cache of 2 MiB.
ONE_CHUNK = 1 << 18  # products m·n·k up to which C is one chunk: some 5 µs
LARGE_CHUNK = 1 << 22  # products of which there may be several chunks a thread: some 50 µs
NEAR = 1 << 19  # bytes of A's columns in a slab up to which all of it stays in the second-level cache
NEAR_SLAB = 144  # of the inner axis: a panel has 36 KiB
FAR_SLAB, FAR_PANELS = 512, 4  # a block has 512 KiB
PACKED_ROWS = 17  # of a chunk, from which on B is packed: it pays from some 36 on, and costs little before
PACKING, TRANSPOSING = 2, 12  # rows of C that are computed in the time that it takes to pack a chunk's part of B

_gemm = Kernel("gemm", "gemm")
_ndarray, _empty = np.ndarray, np.empty
_single, _double = np.dtype(np.float32), np.dtype(np.float64)
_spare: list[np.ndarray] = []  # memory for panels; to take one and to put it back is atomic, and survives a fork

# What `code/small.py` needs, by place: addresses of NumPy, of Python and of ours.
NDARRAY, REFUSAL, INCREF, PYARRAY_NEW, PLAN, SINGLE, SINGLE_GEMM, DOUBLE, DOUBLE_GEMM = range(9)
_small_plan = np.zeros(1, np.int64)
_table = np.zeros(9, np.int64)


def _none_yet(*arguments: Any) -> Any:
    """What `_small` is until there is machine code."""
    return NotImplemented


_small: Callable[..., Any] = _none_yet  # x·w, or x·w + bias, of small matrices; or NotImplemented


@cache
def _kernel(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for this dtype, compiled or loaded; from then on it does small products, too."""
    global _small
    gemm = _gemm[dtype]
    capsule = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
    api = ctypes.pythonapi
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    api.PyCapsule_GetPointer.argtypes = (ctypes.py_object, ctypes.c_char_p)
    functions = (ctypes.c_void_p * 94).from_address(api.PyCapsule_GetPointer(capsule, None))
    _table[PYARRAY_NEW] = functions[93] or 0  # its place in NumPy's C interface
    _table[INCREF] = ctypes.cast(api.Py_IncRef, ctypes.c_void_p).value or 0
    _table[NDARRAY], _table[REFUSAL] = id(_ndarray), id(NotImplemented)
    _table[SINGLE], _table[DOUBLE], _table[PLAN] = id(_single), id(_double), _small_plan.ctypes.data
    _table[SINGLE_GEMM if dtype == _single else DOUBLE_GEMM] = _gemm.chunk_function(dtype)
    _small = plain_function("small", _table)
    return gemm


def matmul(a: Any, b: Any) -> Any:
    """The matrix products of the last two axes, of shapes (..., m, k) and (..., k, n); leading axes broadcast.

    float32 or float64, at least two dimensions, any strides; the rest is not implemented.

    Example:
        >>> import numpy as np
        >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
        array([[11.]])
    """
    c = _small(a, b)
    if c is not NotImplemented:
        return c
    return linear(a, b)


def linear(x: Any, w: Any, bias: Any = None, activation: str | None = None) -> Any:
    """act(x·w + bias): x (..., m, k), w (..., k, n), bias (n,), and "relu", "sigmoid", "tanh" or nothing.

    float32 or float64, at least two dimensions, any strides; the rest is not implemented.

    Example:
        >>> import numpy as np
        >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([-20.0]), "relu")
        array([[0.]])
    """
    if activation is None and bias is not None and (y := _small(x, w, bias)) is not NotImplemented:
        return y
    if not type(x) is type(w) is _ndarray or (dtype := x.dtype) != w.dtype or dtype not in (_single, _double):
        return NotImplemented
    if bias is not None:
        if type(bias) is not _ndarray or bias.dtype != dtype or bias.shape != w.shape[-1:]:
            return NotImplemented
        if not bias.flags.c_contiguous or not bias.flags.aligned:
            bias = bias.copy()
    plan = _planned(x.shape, x.strides, w.shape, w.strides, dtype.itemsize, activation, num_threads())
    if plan is None:
        return NotImplemented
    shape, numbers, chunks, panel_bytes = plan
    y = _empty(shape, dtype)
    panels = _borrowed(panel_bytes) if panel_bytes else y
    if chunks:
        _kernel(dtype)(x, w, y, y if bias is None else bias, panels, numbers, chunks)
    if panel_bytes:
        _spare.append(panels)
    return y


def _borrowed(count: int) -> np.ndarray:
    """Memory for at least so many bytes of panels, which begins on a cache line."""
    try:
        if (block := _spare.pop()).nbytes >= count:
            return block
    except IndexError:
        pass
    block = _empty(count + LINE, np.uint8)
    return block[-block.ctypes.data % LINE :]


class _Plan(NamedTuple):
    """How a product is computed."""

    shape: tuple[int, ...]
    numbers: np.ndarray  # for `code/gemm.py`
    chunks: int
    panels: int  # bytes of memory for blocks of panels, where the stack has too little


@lru_cache(maxsize=256)
def _planned(
    a_shape: tuple[int, ...],
    a_strides: tuple[int, ...],
    b_shape: tuple[int, ...],
    b_strides: tuple[int, ...],
    size: int,
    activation: str | None,
    threads: int,
) -> _Plan | None:
    """The plan for arrays of these shapes and strides, of numbers of `size` bytes; None if they don't fit."""
    if len(a_shape) < 2 or len(b_shape) < 2 or a_shape[-1] != b_shape[-2] or activation not in ACTIVATIONS:
        return None
    (*_, m, k), n = a_shape, b_shape[-1]
    try:
        leading = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    except ValueError:
        return None
    shape = (*leading, m, n)
    a_at, b_at = _begins(a_shape, a_strides, leading), _begins(b_shape, b_strides, leading)
    if not (a_at and m and n):
        return _Plan(shape, _small_plan, 0, 0)
    (a_row, a_column), (b_row, b_column), c_row = a_strides[-2:], b_strides[-2:], n * size
    if len(b_shape) == 2 and a_at == [i * m * a_row for i in range(len(a_at))]:
        m, a_at, b_at = m * len(a_at), a_at[:1], b_at[:1]  # the rows of all matrices are one matrix
    items, work = len(a_at), m * n * k

    line = LINE // size
    far = m * min(k, NEAR_SLAB) * size > NEAR
    slab = _up(max(1, _share(k, FAR_SLAB if far else NEAR_SLAB)), line)
    rows, columns, group = m, n, max(1, ONE_CHUNK // max(1, work))
    if work > ONE_CHUNK:
        pieces = threads * min(4, 1 + work * items // (threads * LARGE_CHUNK)) if threads > 1 else 1
        rows, columns = _divided(m, n, -(-pieces // items), line, PACKING if b_column == size else TRANSPOSING)
    chunks = -(-items // group) * -(-m // rows) * -(-n // columns)
    block = _share(-(-columns * size // PANEL_ROW), FAR_PANELS) if far else 1
    panels = block * slab * PANEL_ROW if far else 0  # bytes
    numbers = _numbers(
        [*a_at, *b_at, *(i * m * c_row for i in range(items))],
        items=items,
        group=group,
        m=m,
        n=n,
        k=k,
        a_row=a_row,
        a_column=a_column,
        b_row=b_row,
        b_column=b_column,
        c_row=c_row,
        rows=rows,
        columns=columns,
        block=block,
        panels=panels,
        slab=slab,
        activation=ACTIVATIONS[activation],
    )
    return _Plan(shape, numbers, chunks, chunks * panels)


def _numbers(offsets: list[int], **fields: int) -> np.ndarray:
    """A plan's row of integers: these fields, the others 0, and the offsets."""
    numbers = np.zeros(OFFSETS + len(offsets), np.int64)
    for name, value in fields.items():
        numbers[FIELDS[name]] = value
    numbers[OFFSETS:] = offsets
    return numbers


def _divided(m: int, n: int, pieces: int, line: int, packing: int) -> tuple[int, int]:
    """How many rows and columns a chunk of C has: at least so many pieces if it can be, in the least time for all."""
    best = None
    for down in range(1, pieces + 1):
        rows, columns = min(m, _up(-(-m // down), STRIP)), min(n, _up(-(-n // -(-pieces // down)), line))
        chunks = -(-m // rows) * -(-n // columns)
        time = -(-chunks // pieces) * (rows + packing) * (columns + line)
        if best is None or time < best[0]:
            best = time, rows, columns
    assert best
    return best[1:]


def _share(n: int, most: int) -> int:
    """The length of parts of n that are at most so long: as few as possible, all about the same."""
    return -(-n // max(1, -(-n // most)))


def _begins(shape: tuple[int, ...], strides: tuple[int, ...], leading: tuple[int, ...]) -> list[int]:
    """Where each of the matrices begins, in bytes, when the leading axes are broadcast."""
    distances = [0] * (len(leading) + 2 - len(shape))
    distances += [s if n > 1 else 0 for n, s in zip(shape[:-2], strides, strict=False)]
    return [sum(i * d for i, d in zip(place, distances, strict=True)) for place in product(*map(range, leading))]


def _up(n: int, to: int) -> int:
    """The next multiple."""
    return -(-n // to) * to
