"""Random numbers by Philox, the same for any number of threads: number i depends on the state and on i alone.

A state is [key, draws], uint64: the stream is that of NumPy's `Philox(key=[key, 0], counter=[0, 0, 0, draws])`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.kernels.native import REALS, Kernel
from minigrad.kernels.reductions import in_order

_uniform, _normal = Kernel("random", "uniform"), Kernel("random", "normal")

TILE = 32  # pairs of normal numbers that are made together: as many as any vector has lanes, or more
PER_CHUNK = 1 << 12  # numbers: some 10 to 20 µs


def _known(state: Any, dtype: np.dtype[Any]) -> bool:
    return type(state) is np.ndarray and state.dtype == np.uint64 and state.shape == (2,) and dtype in REALS


def uniform(state: np.ndarray, *, shape: tuple[int, ...], dtype: Any) -> Any:
    """Numbers from [0, 1), the bits of NumPy's `Generator.random` on that stream.

    Example:
        >>> import numpy as np
        >>> x = uniform(np.array([7, 0], np.uint64), shape=(3,), dtype="float64")
        >>> philox = np.random.Philox(key=np.array([7, 0], np.uint64))
        >>> bool((np.random.Generator(philox).random(3) == x).all())
        True
    """
    dtype = np.dtype(dtype)
    if not _known(state, dtype):
        return NotImplemented
    y = np.empty(shape, dtype)
    per_block = 32 // dtype.itemsize
    _uniform[dtype](in_order(state), y, y.size, PER_CHUNK // per_block, -(-y.size // PER_CHUNK))
    return y


def normal(state: np.ndarray, *, shape: tuple[int, ...], dtype: Any) -> Any:
    """Normal numbers, of mean 0 and variance 1: those of the operation's forward in `minigrad.random`, to rounding.

    Example:
        >>> import numpy as np
        >>> normal(np.array([7, 0], np.uint64), shape=(2, 3), dtype="float32").shape
        (2, 3)
    """
    dtype = np.dtype(dtype)
    if not _known(state, dtype):
        return NotImplemented
    y, spare = np.empty(shape, dtype), np.empty(2 * TILE, dtype)
    _normal[dtype](in_order(state), y, spare, y.size, PER_CHUNK // (2 * TILE), -(-y.size // PER_CHUNK))
    return y
