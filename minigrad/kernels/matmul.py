"""Matrix products, and layers: act(x·W + bias) in one pass.

`code/gemm.py` says how products are computed; here is planned what: whether B is packed, and how C is divided into
chunks. That follows from shapes and strides alone, so that results are the same, bit by bit, for any number of threads;
and it is kept, since products of the same shapes come again and again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from minigrad.kernels.control import control
from minigrad.kernels.native import Kernel, plain_function
from minigrad.kernels.threads import num_threads

ACTIVATIONS = {None: 0, "relu": 1, "sigmoid": 2, "tanh": 3}

# A plan is a row of integers: these, then where each matrix begins, in bytes: all of A's, all of B's, all of C's.
# ITEMS 0 stands for a product of two small matrices, of which there is no plan.
ITEMS, GROUP, M, N, K, A_ROW, A_COLUMN, B_ROW, B_COLUMN, C_ROW = range(10)
ROWS, COLUMNS, BLOCK, PANELS, SLAB, ACTIVATION, OFFSETS = range(10, 17)

LINE = 64  # bytes that a cache line has, and the longest vector
STRIP = 6  # rows of a tile
PANEL_ROW = 4 * LINE  # bytes of a row of the widest panel
SMALL = 64  # rows and columns up to which a product needs no plan
HUGE = 1 << 22  # bytes from which on NumPy asks for huge pages for an array, which is worth more than an even address

# Measured on a processor with AVX-512, a first-level cache of 48 KiB and a second-level cache of 2 MiB.
ONE_CHUNK = 1 << 18  # products m·n·k up to which C is one chunk: some 5 µs
LARGE_CHUNK = 1 << 22  # products of which there may be several chunks a thread: some 50 µs
NEAR = 1 << 19  # bytes of A's columns in a slab up to which all of it stays in the second-level cache
NEAR_SLAB = 144  # of the inner axis: a panel has 36 KiB
FAR_SLAB, FAR_PANELS = 512, 6  # a block has 768 KiB
PACKED_ROWS = 17  # of a chunk, from which on B is packed: it pays from some 36 on, and costs little before
PACKING, TRANSPOSING = 4, 8  # rows of C that are computed in the time that it takes to pack a chunk's part of B,
FETCHING = 14  # and how many more if that comes from far away
READING = 48  # bytes of a row of C that are computed in the time that it takes to read A once more

_gemm = Kernel("gemm", "gemm")
_ndarray, _empty = np.ndarray, np.empty
_single, _double = np.dtype(np.float32), np.dtype(np.float64)

# What `code/product.py` needs: addresses of NumPy, of Python and of ours, by place,
NDARRAY, REFUSAL, NONE, PYARRAY_NEW, SET_HANDLER, CONTROL, PLANS, NO_PLAN = range(8)
SINGLE, SINGLE_GEMM, DOUBLE, DOUBLE_GEMM = range(8, 12)
_table = np.zeros(12, np.int64)
# and plans for products of two matrices, each in the row that follows from what it is for. A row has these words (m, n,
# k, four strides, and the addresses of the dtype and of the activation, and the number of threads); then the addresses
# of the kernel, of the plan and of what is in it; the bytes of panels; and how to get memory for C.
PLAN_BITS, KEY_WORDS, PLAN_WORDS = 10, 10, 16
MIXER = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, as in Knuth's multiplicative hashing (TAOCP 3, section 6.4)
_plans = np.zeros((1 << PLAN_BITS, PLAN_WORDS), np.int64)
_kept: dict[int, tuple[Any, ...]] = {}  # by row: what its addresses are of
_no_plan = np.zeros(1, np.int64)


def _none_yet(*arguments: Any) -> Any:
    """What `_product` is until there is machine code."""
    return NotImplemented


_product: Callable[..., Any] = _none_yet  # of x, w, bias, activation; NotImplemented where there is no plan


@cache
def _kernel(dtype: np.dtype[Any]) -> Callable[..., None]:
    """The kernel for this dtype, compiled or loaded; from then on `_product` can do such products."""
    global _product
    gemm = _gemm[dtype]
    numpy = _numpy_functions()
    _table[PYARRAY_NEW], _table[SET_HANDLER] = numpy[93], numpy[304]  # their places in NumPy's C interface
    _table[NDARRAY], _table[REFUSAL], _table[NONE] = id(_ndarray), id(NotImplemented), id(None)
    _table[CONTROL], _table[PLANS], _table[NO_PLAN] = (x.ctypes.data for x in (control, _plans, _no_plan))
    _table[SINGLE], _table[DOUBLE] = id(_single), id(_double)
    _table[SINGLE_GEMM if dtype == _single else DOUBLE_GEMM] = _gemm.chunk_function(dtype)
    _product = plain_function("product", _table)
    return gemm


def _numpy_functions() -> Any:
    """The addresses of NumPy's C interface."""
    capsule = np._core._multiarray_umath._ARRAY_API  # type: ignore[attr-defined]
    return (ctypes.c_void_p * 307).from_address(_inside(capsule, None))


def _inside(capsule: Any, name: bytes | None) -> int:
    """The address that a capsule holds."""
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return int(get(capsule, name))


class _Handler(ctypes.Structure):
    """NumPy's PyDataMem_Handler."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        *((name, ctypes.c_void_p) for name in ("context", "malloc", "calloc", "realloc", "free")),
    )


@cache
def _handlers() -> tuple[Any, ...]:
    """NumPy's way to get memory for an array; one whose memory begins on a cache line; and what that consists of.

    NumPy's begins 16 bytes after a multiple of 16: of the vectors of 64 bytes that are stored there each touches two
    lines. It lets whoever makes an array say how to get its memory (NEP 49), and frees it as that says: like its own.
    """
    usual = ctypes.cast(_numpy_functions()[306], ctypes.POINTER(ctypes.py_object)).contents.value
    try:
        memalign = ctypes.cast(ctypes.CDLL(None).memalign, ctypes.c_void_p).value
    except (AttributeError, TypeError):  # a system whose C library has none
        return usual, usual
    handler = _Handler.from_buffer_copy(_Handler.from_address(_inside(usual, b"mem_handler")))
    handler.name, handler.context, handler.malloc = b"minigrad", LINE, memalign  # it calls malloc(context, bytes)
    make, name = ctypes.pythonapi.PyCapsule_New, ctypes.c_char_p(b"mem_handler")
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return usual, make(ctypes.addressof(handler), name, None), handler, name


def _row(key: tuple[int, ...]) -> int:
    """Where in the table the plan for what these words say stands."""
    mixed = 0
    for word in key:
        mixed = (mixed ^ word) * MIXER & (1 << 64) - 1
    return mixed >> 64 - PLAN_BITS


def _key(x: np.ndarray, w: np.ndarray, activation: str | None) -> tuple[int, ...]:
    """What a plan for two matrices is for, in words."""
    activation = next(name for name in ACTIVATIONS if name == activation)  # as callers have it: the same object
    return (len(x), w.shape[1], len(w), *x.strides, *w.strides, id(x.dtype), id(activation), num_threads())


def _remember(key: tuple[int, ...], plan: _Plan, gemm: Any, size: int) -> None:
    """Put a plan for two matrices, of numbers of so many bytes, where `_product` finds it."""
    row = _row(key)
    handler = _handlers()[1 if plan.shape[0] * plan.shape[1] * size < HUGE else 0]
    _plans[row, :KEY_WORDS] = 0  # is for nothing, while it changes
    _kept[row] = (plan, handler)
    _plans[row, KEY_WORDS:] = id(gemm), id(plan), id(plan.numbers), id(plan.chunks), plan.panels, id(handler)
    _plans[row, :KEY_WORDS] = key


def matmul(a: Any, b: Any) -> Any:
    """The matrix products of the last two axes, of shapes (..., m, k) and (..., k, n); leading axes broadcast.

    float32 or float64, at least two dimensions, any strides; the rest is not implemented.

    Example:
        >>> import numpy as np
        >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
        array([[11.]])
    """
    c = _product(a, b, None, None)
    return _planned_product(a, b, None, None) if c is NotImplemented else c


def linear(x: Any, w: Any, bias: Any = None, activation: str | None = None) -> Any:
    """act(x·w + bias): x (..., m, k), w (..., k, n), bias (n,), and "relu", "sigmoid", "tanh" or nothing.

    float32 or float64, at least two dimensions, any strides; the rest is not implemented.

    Example:
        >>> import numpy as np
        >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([-20.0]), "relu")
        array([[0.]])
    """
    y = _product(x, w, bias, activation)
    return _planned_product(x, w, bias, activation) if y is NotImplemented else y


def _planned_product(x: Any, w: Any, bias: Any, activation: str | None) -> Any:
    """`linear`, for what `_product` can't do, or not yet."""
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
    y = _empty(plan.shape, dtype)
    if plan.chunks:
        gemm = _kernel(dtype)
        gemm(x, w, y, y if bias is None else bias, _empty(plan.panels, np.uint8), plan.numbers, plan.chunks)
        if x.ndim == w.ndim == 2:
            _remember(_key(x, w, activation), plan, gemm, dtype.itemsize)
    return y


class _Plan(NamedTuple):
    """How a product is computed."""

    shape: tuple[int, ...]
    numbers: np.ndarray  # for `code/gemm.py`
    chunks: int
    panels: int  # bytes of memory for panels, where the stack has too little


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
        return _Plan(shape, _no_plan, 0, 0)
    (a_row, a_column), (b_row, b_column), c_row = a_strides[-2:], b_strides[-2:], n * size
    if len(b_shape) == 2 and a_at == [i * m * a_row for i in range(len(a_at))]:
        m, a_at, b_at = m * len(a_at), a_at[:1], b_at[:1]  # the rows of all matrices are one matrix
    items, work = len(a_at), m * n * k

    rows, columns, group = m, n, max(1, ONE_CHUNK // max(1, work))
    if work > ONE_CHUNK:
        pieces = threads * min(4, 1 + work * items // (threads * LARGE_CHUNK)) if threads > 1 else 1
        rows, columns = divided(m, n, k, -(-pieces // items), size, (b_row, b_column))
    chunks = -(-items // group) * -(-m // rows) * -(-n // columns)
    offsets = [*a_at, *b_at, *(i * m * c_row for i in range(items))]
    numbers = plan(
        m,
        n,
        k,
        (a_row, a_column),
        (b_row, b_column),
        size,
        rows,
        columns,
        c_row,
        offsets,
        group,
        ACTIVATIONS[activation],
    )
    panels = int(numbers[PANELS])
    return _Plan(shape, numbers, chunks, chunks * panels + LINE if panels else 0)


def divided(
    m: int, n: int, k: int, pieces: int, size: int, b_strides: tuple[int, int], by: str = ""
) -> tuple[int, int]:
    """How many rows and columns a chunk of a product (m, k)·(k, n) has, in at least so many pieces if it can be.

    Args:
        size: bytes of a number.
        b_strides: distances between the rows, and between the columns, of the second matrix, in bytes.
        by: "row" or "column" if only rows, or only columns, may be divided.
    """
    line = LINE // size
    packing = (PACKING if b_strides[1] == size else TRANSPOSING) + FETCHING * _is_far(m, k, size)
    best = None
    for down in [pieces] if by == "row" else [1] if by == "column" else range(1, pieces + 1):
        rows, columns = min(m, _up(-(-m // down), STRIP)), min(n, _up(-(-n // -(-pieces // down)), line))
        chunks = -(-m // rows) * -(-n // columns)
        time = -(-chunks // pieces) * (rows + packing) * (columns + READING // size)
        if best is None or time < best[0]:
            best = time, rows, columns
    assert best
    return best[1:]


def plan(
    m: int,
    n: int,
    k: int,
    a_strides: tuple[int, int],
    b_strides: tuple[int, int],
    size: int,
    rows: int,
    columns: int,
    c_row: int,
    offsets: Sequence[int] = (0, 0, 0),
    group: int = 1,
    activation: int = 0,
) -> np.ndarray:
    """The plan of products (m, k)·(k, n) for `code/gemm.py`, in chunks of so many rows and columns.

    Args:
        a_strides, b_strides, c_row: distances between rows, and between columns, in bytes.
        size: bytes of a number.
        offsets: where each matrix begins, in bytes: all of A's, all of B's, all of C's.
        group: how many products are one chunk.
        activation: the number of what is applied at the end.
    """
    slab, block, panels = _slabs(m, k, columns, size)
    fields = {
        ITEMS: len(offsets) // 3, GROUP: group, M: m, N: n, K: k, A_ROW: a_strides[0], A_COLUMN: a_strides[1],
        B_ROW: b_strides[0], B_COLUMN: b_strides[1], C_ROW: c_row, ROWS: rows, COLUMNS: columns, BLOCK: block,
        PANELS: panels, SLAB: slab, ACTIVATION: activation,
    }  # fmt: skip
    return np.array([*(fields[place] for place in range(OFFSETS)), *offsets], np.int64)


def _is_far(m: int, k: int, size: int) -> bool:
    """Whether a slab of A is too large for the second-level cache, so that B is packed in blocks."""
    return m * min(k, NEAR_SLAB) * size > NEAR


def _slabs(m: int, k: int, columns: int, size: int) -> tuple[int, int, int]:
    """How much of the inner axis a slab has, how many panels a block, and the bytes of memory that these take."""
    far = _is_far(m, k, size)
    slab = _up(max(1, _share(k, FAR_SLAB if far else NEAR_SLAB)), LINE // size)
    block = _share(-(-columns * size // PANEL_ROW), FAR_PANELS) if far else 1
    return slab, block, block * slab * PANEL_ROW if far else 0


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


def gemm_function(dtype: np.dtype[Any]) -> int:
    """The address of the chunk function of products of this dtype, float32 or float64."""
    return _gemm.chunk_function(dtype)
