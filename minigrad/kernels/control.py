"""The control block: the words of memory through which the threads of the pool, and all machine code, agree.

`threads` says what the pool is, `code/pool.py` how the words are used.
"""

from __future__ import annotations

import numpy as np

# Where things lie, in words of 8 bytes. What is written often has a cache line (8 words) of its own.
TICKET, DONE, BUSY = 0, 8, 16
FUNCTION, SLOTS, CHUNKS, NUMBER = 24, 25, 26, 27  # of the job, and how many jobs there were
HELPERS, STOPPED, COLD, START, RUN, THREADS = 32, 33, 34, 35, 36, 37
FIRST_HELPER, HELPER_WORDS = 40, 8  # of each helper: whether it sleeps, and the lock that it sleeps on
ASLEEP, LOCK = 0, 1
MOST = 256  # threads


def _control_block() -> np.ndarray:
    """Zeros that begin on a cache line."""
    words = FIRST_HELPER + MOST * HELPER_WORDS
    block = np.zeros(words + 8, np.int64)
    start = -block.ctypes.data % 64 // 8
    return block[start : start + words]


control = _control_block()
