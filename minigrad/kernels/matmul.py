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

ACTIVATIONS = {None: 0, "relu": 1, "sigmoid": 2, "tanh": 3}

# A plan is a row of integers: these, then where each matrix begins, in bytes: all of A's, all of B's, all of C's.
WORK, ITEMS, GROUP, M, N, K, A_ROW, A_COLUMN, B_ROW, B_COLUMN, C_ROW = range(11)
A_DEEP, ROWS, COLUMNS, SLAB, START, BIAS_OFFSET, ACTIVATION, OFFSETS = range(11, 19)
FIELDS = {name.lower(): place for name, place in globals().items() if type(place) is int}
MULTIPLY_SMALL, PACK, MULTIPLY = range(3)
FROM_ZERO, FROM_BIAS, FROM_C = range(3)

LINE = 64  # bytes that a cache line has, and the longest vector
SMALL = 64  # rows and columns up to which a product needs no plan

# Measured on a processor with AVX-512 and 2 MiB of second-level cache.
ONE_CHUNK = 1 << 18  # products m·n·k up to which C is one chunk: some 5 µs
CHUNK_ROWS, MANY_ROWS = 32, 512  # twice as many rows for C of many
PANELS = 8  # of a chunk, of 192 bytes in a row each
DEEPEST = 384  # slabs of the inner axis: 8 panels of that depth are 576 KiB of B
PACKED_ROWS = 200  # of C, from which on it pays to pack B
FEW_ROWS, PACKED_BYTES = 16, 1 << 20  # for C of more rows than that, it does from so many bytes of B on
FAR_BYTES = 1 << 19  # of A, from which on it pays to pack it, if its rows are not contiguous
SCRATCH = 16 << 20  # bytes for panels

_gemm = Kernel("gemm", "gemm")
_ndarray, _empty = np.ndarray, np.empty
_single, _double = np.dtype(np.float32), np.dtype(np.float64)
_spare: list[np.ndarray] = []  # memory for panels; to take one and to put it back is atomic, and survives a fork

# What `code/small.py` needs, by place: addresses of NumPy, of Python and of ours.
NDARRAY, REFUSAL, INCREF, PYARRAY_NEW, PLAN, SINGLE, SINGLE_GEMM, DOUBLE, DOUBLE_GEMM = range(9)
_small_plan = np.array([MULTIPLY_SMALL], np.int64)
_table = np.zeros(9, np.int64)


def _none_yet(a: Any, b: Any) -> Any:
    """What `_small` is until there is machine code."""
    return NotImplemented


_small: Callable[[Any, Any], Any] = _none_yet  # the product of small matrices, or NotImplemented


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
    if not (type(x) is type(w) is _ndarray and x.dtype == w.dtype and x.dtype in (_single, _double)):
        return NotImplemented
    if not (x.ndim >= 2 <= w.ndim and x.shape[-1] == w.shape[-2] and activation in ACTIVATIONS):
        return NotImplemented
    if bias is not None:
        if type(bias) is not _ndarray or bias.dtype != x.dtype or bias.shape != w.shape[-1:]:
            return NotImplemented
        if not bias.flags.c_contiguous or not bias.flags.aligned:
            bias = bias.copy()
    program = _program(x.shape, x.strides, w.shape, w.strides, x.itemsize, bias is not None, ACTIVATIONS[activation])
    if program is None:
        return NotImplemented
    shape, packs_a, packs_b, steps = program
    y = _empty(shape, x.dtype)
    if bias is None:
        bias = y  # something to pass
    gemm = _kernel(x.dtype)
    a, b = x, w
    if packs_a:
        a = _borrowed()
    if packs_b:
        b = _borrowed()
    for work, plan, chunks in steps:
        if work == "A":
            gemm(x, x, a, bias, plan, chunks)
        elif work == "B":
            gemm(x, w, b, bias, plan, chunks)
        else:
            gemm(a, b, y, bias, plan, chunks)
    if packs_a:
        _spare.append(a)
    if packs_b:
        _spare.append(b)
    return y


def _borrowed() -> np.ndarray:
    """Memory for panels, which begins on a cache line."""
    try:
        return _spare.pop()
    except IndexError:
        block = _empty(SCRATCH + LINE, np.uint8)
        return block[-block.ctypes.data % LINE :]


class _Program(NamedTuple):
    """What has to be done for a product."""

    shape: tuple[int, ...]
    packs_a: bool
    packs_b: bool
    steps: list[tuple[str, np.ndarray, int]]  # pack "A", pack "B" or "multiply"; the plan; the number of chunks


@lru_cache(maxsize=256)
def _program(
    a_shape: tuple[int, ...],
    a_strides: tuple[int, ...],
    b_shape: tuple[int, ...],
    b_strides: tuple[int, ...],
    size: int,
    biased: bool,
    activation: int,
) -> _Program | None:
    """The program for arrays of these shapes and strides, of numbers of `size` bytes; None if they don't broadcast."""
    (*_, m, k), n = a_shape, b_shape[-1]
    try:
        leading = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    except ValueError:
        return None
    shape = (*leading, m, n)
    a_at, b_at = _begins(a_shape, a_strides, leading), _begins(b_shape, b_strides, leading)
    if not (a_at and m and n):
        return _Program(shape, False, False, [])
    (a_row, a_column), (b_row, b_column), c_row = a_strides[-2:], b_strides[-2:], n * size
    if len(b_shape) == 2 and a_at == [i * m * a_row for i in range(len(a_at))]:
        m, a_at, b_at = m * len(a_at), a_at[:1], b_at[:1]  # the rows of all matrices are one matrix
    c_at = [i * m * c_row for i in range(len(a_at))]

    line = LINE // size
    packs_a = a_column != size and m * k * size >= FAR_BYTES
    deepest = DEEPEST // 2 if packs_a else DEEPEST
    slab = max(line, _up(-(-k // max(1, -(-k // deepest))), line))  # as few as possible, all about the same
    packs_b = b_column != size or m >= PACKED_ROWS or (m > FEW_ROWS and n * k * size >= PACKED_BYTES)
    rows, columns = CHUNK_ROWS * (1 + (m >= MANY_ROWS)), PANELS * 3 * LINE // size
    together, tallest, widest, group = 1, m, n, 1  # how many products at once, of how many rows and columns
    if m * n * k <= ONE_CHUNK and k <= slab:
        rows, columns, group, packs_a = m, n, max(1, ONE_CHUNK // max(1, m * n * k)), False
        together = max(1, SCRATCH // (_up(n, line) * slab * size)) if packs_b else len(a_at)
    elif packs_b:
        widest = SCRATCH // (slab * columns * size) * columns
    if packs_a:
        rows = 2 * line  # so that a strip of it stays in the first-level cache
        tallest = SCRATCH // (slab * rows * size) * rows

    steps: list[tuple[str, np.ndarray, int]] = []
    for i, j in product(range(0, len(a_at), together), range(0, n, widest)):
        items, width = len(a_at[i : i + together]), min(widest, n - j)
        across = -(-width // columns)
        for p in range(0, max(1, k), slab) if packs_b or packs_a else (0,):
            deep = min(slab, k - p) if packs_b or packs_a else k
            deep_bytes = _up(deep, line) * size
            b_from = [at + p * b_row + j * b_column for at in b_at[i : i + together]]
            b_strides = b_row, b_column
            if packs_b:
                steps.append(("B", _pack(b_from, width, deep, b_row, b_column, columns), items * across))
                b_from = [item * _up(width, line) * deep_bytes for item in range(items)]
                b_strides = 0, deep_bytes
            for r in range(0, m, tallest):
                height = min(tallest, m - r)
                down = -(-height // rows)
                a_from = [at + p * a_column + r * a_row for at in a_at[i : i + together]]
                if packs_a:
                    steps.append(("A", _pack(a_from, height, deep, a_column, a_row, rows, a_deep=1), down))
                    a_from = [0]
                multiply = _plan(
                    [*a_from, *b_from, *(at + r * c_row + j * size for at in c_at[i : i + together])],
                    work=MULTIPLY,
                    items=items,
                    group=group,
                    m=height,
                    n=width,
                    k=deep,
                    a_row=a_row,
                    a_column=a_column,
                    b_row=b_strides[0],
                    b_column=b_strides[1],
                    c_row=c_row,
                    a_deep=deep_bytes if packs_a else 0,
                    rows=rows,
                    columns=columns,
                    slab=slab,
                    start=FROM_C if p else FROM_BIAS if biased else FROM_ZERO,
                    bias_offset=j * size,
                    activation=activation if p + deep == k else 0,
                )
                steps.append(("multiply", multiply, -(-items // group) * down * across))
    return _Program(shape, packs_a, packs_b, steps)


def _begins(shape: tuple[int, ...], strides: tuple[int, ...], leading: tuple[int, ...]) -> list[int]:
    """Where each of the matrices begins, in bytes, when the leading axes are broadcast."""
    distances = [0] * (len(leading) + 2 - len(shape))
    distances += [s if n > 1 else 0 for n, s in zip(shape[:-2], strides, strict=False)]
    return [sum(i * d for i, d in zip(place, distances, strict=True)) for place in product(*map(range, leading))]


def _pack(offsets: list[int], n: int, k: int, row: int, column: int, columns: int, a_deep: int = 0) -> np.ndarray:
    """The plan to pack matrices that begin there, k rows of n columns, so many columns a chunk (for A: one panel)."""
    fields = {"b_row": row, "b_column": column, "columns": columns, "a_deep": a_deep}
    return _plan(offsets, work=PACK, items=len(offsets), group=1, m=1, n=n, k=k, rows=1, **fields)


def _up(n: int, to: int) -> int:
    """The next multiple."""
    return -(-n // to) * to


def _plan(offsets: list[int], **fields: int) -> np.ndarray:
    """The plan with these fields, the others 0."""
    plan = np.zeros(OFFSETS + len(offsets), np.int64)
    for name, value in fields.items():
        plan[FIELDS[name]] = value
    plan[OFFSETS:] = offsets
    return plan
