"""What the processor can do at best, measured: fused multiply-adds in registers, and copying from array to array.

Both are loops in Numba over `minigrad.kernels.vectors`, and do nothing but that. `multiply_adds` keeps so
many sums in registers that no instruction waits for the one before it: no matrix product is faster. `copies` reads an
array and writes another, 1e5 elements in all threads together, over and over, so in whatever cache holds that much: no
elementwise function of so many elements is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import CFUNCTYPE, c_int64, c_void_p
from functools import cache
from typing import Any

import numpy as np
from numba import cfunc, types

from minigrad.kernels import num_threads
from minigrad.kernels.simd import REGISTERS, fma
from minigrad.kernels.vectors import compiled, lanes, lanes_of, load, store

SUMS = REGISTERS - 4  # the other registers hold the factors
ELEMENTS = 100_000
TIMES = {"multiply_adds": 1_000_000, "copies": 400}  # some milliseconds each

# One variable a sum: Numba would keep an array of vectors in memory.
MULTIPLY_ADDS = "\n    ".join(
    [
        "def multiply_adds(x, y, size, times):",
        "half = load(x, 0)",
        *(f"s{i} = half" for i in range(SUMS)),
        "for _ in range(times):",
        *(f"    s{i} = fma(s{i}, half, half)" for i in range(SUMS)),
        *(f"store(y, {i} * lanes_of(y), s{i})" for i in range(SUMS)),
    ]
)
LOOPS: dict[str, Any] = {"fma": compiled(fma), "lanes_of": lanes_of, "load": load, "store": store}
exec(MULTIPLY_ADDS, LOOPS)


def _copies(x: Any, y: Any, size: int, times: int) -> None:
    lanes = lanes_of(x)
    for _ in range(times):
        i = 0
        while i < size:
            store(y, i, load(x, i))
            i += lanes


LOOPS["copies"] = _copies


@cache
def _in_all_threads(name: str, dtype: str, size: int, times: int) -> Callable[[], None]:
    """A function that runs a loop at once in as many threads as kernels use, each on arrays of its own."""
    pointer = types.CPointer(getattr(types, dtype))
    code = cfunc(types.void(pointer, pointer, types.int64, types.int64))(LOOPS[name])
    call = CFUNCTYPE(None, c_void_p, c_void_p, c_int64, c_int64)(code.address)  # lets other Python threads run
    arrays = [(np.full(size, 0.5, dtype), np.empty(size, dtype)) for _ in range(num_threads())]
    pool = ThreadPoolExecutor(len(arrays))

    def run(_: Any = code) -> None:  # the code lives as long as this function
        list(pool.map(lambda xy: call(xy[0].ctypes.data, xy[1].ctypes.data, size, times), arrays))

    return run


def multiply_adds(dtype: str) -> float:
    """Multiply and add for some milliseconds; how many operations that were, an fma being two."""
    size, times = SUMS * lanes(dtype), TIMES["multiply_adds"]
    _in_all_threads("multiply_adds", dtype, size, times)()
    return 2.0 * size * times * num_threads()


def copies(dtype: str) -> float:
    """Copy arrays for some milliseconds; how many bytes were read and written."""
    size, times = ELEMENTS // num_threads() // lanes(dtype) * lanes(dtype), TIMES["copies"]
    _in_all_threads("copies", dtype, size, times)()
    return 2.0 * size * np.dtype(dtype).itemsize * times * num_threads()
