"""The plan of a compiled step, in words of 8 bytes: what the compiler writes and `code/step.py` runs.

A plan is a row of phases, then the numbers of the phases that each of them waits for. A phase has PHASE words: the
addresses of a chunk function and of its arguments, how many chunks there are, how many earlier phases it waits for, and
where in the plan their numbers begin. While a step runs, each phase has two counters.

Before the phases run, the addresses of a call's arrays are put into the slots of the kernels' arguments; but only if
the arrays are what the plan was made for. `checks` writes down what that is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

import numpy as np

from minigrad.kernels.native import Kernel

FUNCTION, SLOTS, CHUNKS, WAITING, WAITS, PHASE = range(6)
NEXT, DONE, COUNTERS = 0, 8, 16  # the next chunk, and how many are done: each on a cache line of its own

PASSED, COUNT, FIRST = range(3)  # the words of a table of checks: whether the last ones passed, how many there are
ARRAY, CLASS, DTYPE, HOLDERS, BASE, BYTES, NDIM, SHAPE = range(8)  # of each check; a number for each axis follows

# Where CPython's and NumPy's structs have what is checked, in bytes. Every object begins with a head.
HEAD = object.__basicsize__
CLASS_AT = HEAD - 8
NDIM_AT, SHAPE_AT, BASE_AT, DTYPE_AT, FLAGS_AT = HEAD + 8, HEAD + 16, HEAD + 32, HEAD + 40, HEAD + 48
KIND_AT = HEAD + 8  # of a dtype: its kind, character, byte order and number, in eight bytes
FIT = 0x0101  # of the flags: C_CONTIGUOUS and ALIGNED

alone, walk, begin = Kernel("step", "alone"), Kernel("step", "walk"), Kernel("step", "begin")


def checks(wanted: Iterable[tuple[int, np.ndarray, int]]) -> np.ndarray:
    """A table of what arrays have to be so that `begin` goes on: what these are now, in C order and aligned.

    Args:
        wanted: for each array its number among those of a call; an array like it; and how many references there may be
            to it, with a single one to the memory below it, which has to be of that class and size. If that is 0 it
            does not matter where it lies and who holds it.

    Example:
        >>> table = checks([(0, np.ones((2, 3)), 0)])
        >>> table[FIRST + NDIM :].tolist()
        [2, 2, 3]
    """
    words = [1, 0]
    for number, array, holders in wanted:
        kind = ctypes.c_int64.from_address(id(array.dtype) + KIND_AT).value
        base = array.base if holders else None
        below = (0, 0, 0) if base is None else (holders, id(type(base)), base.nbytes)
        words += [number, id(type(array)), kind, *below, array.ndim, *array.shape]
        words[COUNT] += 1
    return np.array(words, np.int64)
