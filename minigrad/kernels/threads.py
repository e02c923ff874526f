"""The pool: threads that share the chunks of a kernel's work, one pool for everything that is compiled.

A kernel's call is a job of numbered chunks, and every thread takes the next one that nobody has: the caller too, so
that a helper that is late or absent delays nothing. Which thread does a chunk changes no bit of the result, since
chunks depend on shapes alone. One job runs at a time; whoever comes second, from another Python thread, does its own
chunks. Helpers that have nothing to do look for work for a while, then sleep until they are woken.

Here is the side of Python: how many there are, starting and stopping. The protocol is in `code/pool.py`. The threads
start with the first job that has several chunks. A forked child begins without them and starts its own.
"""

from __future__ import annotations

import atexit
import ctypes
import os
from threading import Lock, Thread
from typing import SupportsIndex

import numpy as np

from minigrad.kernels.control import (
    ASLEEP,
    COLD,
    FIRST_HELPER,
    HELPER_WORDS,
    HELPERS,
    LOCK,
    MOST,
    RUN,
    START,
    STOPPED,
    THREADS,
    control,
)
from minigrad.kernels.native import Kernel

_DOUBLE = np.dtype(np.float64)  # these kernels compute nothing; a Kernel has a dtype
_run, _help_out, _stop_all = Kernel("pool", "run"), Kernel("pool", "help_out"), Kernel("pool", "stop")
_threads: list[Thread] = []
_lock = Lock()


def _usable() -> int:
    """How many processors this process may use, or what the environment asks for."""
    for name in ("MINIGRAD_NUM_THREADS", "OMP_NUM_THREADS"):
        if (given := os.environ.get(name, "")).isdigit() and int(given) > 0:
            return min(int(given), MOST)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(count, MOST)


def num_threads() -> int:
    """How many threads share the work of a kernel.

    Example:
        >>> num_threads() >= 1
        True
    """
    return _number


def set_num_threads(n: SupportsIndex) -> None:
    """Let n threads share the work of a kernel, the caller among them; the results stay the same, bit by bit.

    At first it is the environment variable MINIGRAD_NUM_THREADS, else OMP_NUM_THREADS, else as many as there are
    processors.

    Raises:
        ValueError: n < 1, or more than 256.

    Example:
        >>> before = num_threads()
        >>> set_num_threads(1)
        >>> num_threads()
        1
        >>> set_num_threads(before)
    """
    global _number
    n = n.__index__()
    if not 1 <= n <= MOST:
        raise ValueError(f"set_num_threads: expected 1 to {MOST} threads, got {n}")
    with _lock:
        _stop()
        _number = control[THREADS] = n
        control[COLD] = n > 1


def _start() -> None:
    """Start the helpers. The first job of several chunks calls this."""
    with _lock:
        control[COLD] = 0
        if control[HELPERS] or num_threads() == 1:
            return
        allocate = ctypes.pythonapi.PyThread_allocate_lock
        allocate.restype = ctypes.c_void_p
        acquire = ctypes.pythonapi.PyThread_acquire_lock
        acquire.argtypes = (ctypes.c_void_p, ctypes.c_int)
        control[RUN] = _run.chunk_function(_DOUBLE)
        control[STOPPED] = 0
        help_out = _help_out[_DOUBLE]
        for i in range(num_threads() - 1):
            place = FIRST_HELPER + i * HELPER_WORDS
            control[place + ASLEEP] = 0
            if not control[place + LOCK]:
                lock = allocate()
                acquire(lock, 1)  # a helper that sleeps waits for somebody to release it
                control[place + LOCK] = lock
            thread = Thread(target=help_out, args=(control, i, 1), name=f"minigrad-{i}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: those that there are will do
                break
            _threads.append(thread)
        control[HELPERS] = len(_threads)


def _stop() -> None:
    """Let the helpers finish, once the job that may be running is done."""
    if _threads:
        _stop_all[_DOUBLE](control, 1)
        for thread in _threads:
            thread.join()
        _threads.clear()


def _forget() -> None:
    """In a forked child: no helper came along, and a job of the parent's may have been under way."""
    global _lock
    _lock = Lock()
    _threads.clear()
    control[:START] = 0
    control[FIRST_HELPER:] = 0
    control[COLD] = num_threads() > 1


_number = control[THREADS] = _usable()
control[COLD] = num_threads() > 1
control[START] = id(_start)
atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
