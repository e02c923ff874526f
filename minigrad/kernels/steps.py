"""The plan of a compiled step, in words of 8 bytes: what the compiler writes and `code/step.py` runs.

A plan is a row of phases, then the numbers of the phases that each of them waits for. A phase has PHASE words: the
addresses of a chunk function and of its arguments, how many chunks there are, how many earlier phases it waits for, and
where in the plan their numbers begin. While a step runs, each phase has two counters.
"""

from __future__ import annotations

from minigrad.kernels.native import Kernel

FUNCTION, SLOTS, CHUNKS, WAITING, WAITS, PHASE = range(6)
NEXT, DONE, COUNTERS = 0, 8, 16  # the next chunk, and how many are done: each on a cache line of its own

alone, walk, bind = Kernel("step", "alone"), Kernel("step", "walk"), Kernel("step", "bind")
