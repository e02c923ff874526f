"""How the threads of the pool share a job: atomic operations on words of one control block, and no lock but to sleep.

The ticket holds the number of the job and how many of its chunks nobody has taken. Who swaps it for one less has that
chunk. Only then are the job's other words read: they can't change before that chunk is done. A ticket of an earlier job
can't be swapped, since the number differs.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from minigrad.kernels.control import (
    ASLEEP,
    BUSY,
    CHUNKS,
    DONE,
    FIRST_HELPER,
    FUNCTION,
    HELPER_WORDS,
    HELPERS,
    LOCK,
    NUMBER,
    SLOTS,
    STOPPED,
    TICKET,
)
from minigrad.kernels.native import Source

I32, I64 = ir.IntType(32), ir.IntType(64)
WORDS = types.CPointer(types.int64)
PATIENCE = 20_000  # looks for work before a helper sleeps: some 200 µs
INSIST = 2_000  # looks whether a job is done before the caller lets others have its processor

acquire_lock = types.ExternalFunction("PyThread_acquire_lock", types.int32(types.int64, types.int32))
release_lock = types.ExternalFunction("PyThread_release_lock", types.void(types.int64))
let_others = types.ExternalFunction("sched_yield", types.int32())  # of POSIX
CAN_LET_OTHERS = os.name == "posix"


def _at(builder: ir.IRBuilder, args: Sequence[Any]) -> Any:
    return builder.gep(args[0], [args[1]])


@intrinsic
def read(context: Any, words: Any, i: Any) -> Any:
    """words[i], as the last writer left it."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.load_atomic(_at(builder, args), "seq_cst", 8)

    return types.int64(WORDS, types.int64), lower


@intrinsic
def write(context: Any, words: Any, i: Any, x: Any) -> Any:
    """words[i] = x, after all that was written before."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        builder.store_atomic(args[2], _at(builder, args), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(WORDS, types.int64, types.int64), lower


@intrinsic
def add(context: Any, words: Any, i: Any, x: Any) -> Any:
    """words[i] += x, indivisibly."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.atomic_rmw("add", _at(builder, args), args[2], "seq_cst")

    return types.int64(WORDS, types.int64, types.int64), lower


@intrinsic
def swap(context: Any, words: Any, i: Any, old: Any, new: Any) -> Any:
    """Whether words[i] was `old`, and is `new` now."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        result = builder.cmpxchg(_at(builder, args), args[2], args[3], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(WORDS, types.int64, types.int64, types.int64), lower


@intrinsic
def do_chunk(context: Any, function: Any, slots: Any, chunk: Any) -> Any:
    """Call the function at this address, `void (int64 *slots, int64 chunk)`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        pointer = ir.PointerType(I64)
        function = ir.PointerType(ir.FunctionType(ir.VoidType(), [pointer, I64]))
        builder.call(builder.inttoptr(args[0], function), [builder.inttoptr(args[1], pointer), args[2]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), lower


PAUSES = {"x86_64": "llvm.x86.sse2.pause", "amd64": "llvm.x86.sse2.pause"}


@intrinsic
def pause(context: Any) -> Any:
    """Tell the processor that this is a loop that waits, where it has an instruction for that."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        if name := PAUSES.get(platform.machine().lower()):
            known = builder.module.globals.get(name)
            builder.call(known or ir.Function(builder.module, ir.FunctionType(ir.VoidType(), []), name), [])
        return context.get_dummy_value()

    return types.void(), lower


@njit(error_model="numpy")
def take_part(words: Any) -> None:
    """Do chunks of the job until all are taken."""
    while True:
        ticket = read(words, TICKET)
        left = ticket & 0xFFFFFFFF
        if left == 0:
            return
        if swap(words, TICKET, ticket, ticket - 1):
            do_chunk(words[FUNCTION], words[SLOTS], words[CHUNKS] - left)
            add(words, DONE, 1)


@njit(error_model="numpy")
def wake(words: Any, i: int) -> None:
    """Wake a helper if it sleeps."""
    place = FIRST_HELPER + i * HELPER_WORDS
    if swap(words, place + ASLEEP, 1, 0):
        release_lock(words[place + LOCK])


def run(words: Any, function: int, slots: int, chunks: int, _: int) -> None:
    """Do a job with the helpers, or alone if they are at work for another thread."""
    if not swap(words, BUSY, 0, 1):
        for chunk in range(chunks):
            do_chunk(function, slots, chunk)
        return
    words[NUMBER] += 1
    words[FUNCTION], words[SLOTS], words[CHUNKS] = function, slots, chunks
    write(words, DONE, 0)
    write(words, TICKET, ((words[NUMBER] & 0x7FFFFFFF) << 32) | chunks)
    for i in range(min(words[HELPERS], chunks - 1)):
        wake(words, i)
    take_part(words)
    looks = 0
    while read(words, DONE) != chunks:
        pause()
        looks += 1
        if CAN_LET_OTHERS and looks > INSIST:  # a helper may have lost its processor in the middle of a chunk
            let_others()
    write(words, BUSY, 0)


def help_out(words: Any, i: int, _: int) -> None:
    """What a helper does all its life: look for work, do it, sleep if there was none for a while."""
    place = FIRST_HELPER + i * HELPER_WORDS
    idle = 0
    while read(words, STOPPED) == 0:
        if read(words, TICKET) & 0xFFFFFFFF:
            take_part(words)
            idle = 0
        elif idle < PATIENCE:
            pause()
            idle += 1
        else:
            write(words, place + ASLEEP, 1)
            # A job, or the end, may have come since the last look, before anybody could see that this helper sleeps.
            come = read(words, STOPPED) != 0 or (read(words, TICKET) & 0xFFFFFFFF) != 0
            if not come or not swap(words, place + ASLEEP, 1, 0):
                acquire_lock(words[place + LOCK], 1)
            idle = 0


def stop(words: Any, _: int) -> None:
    """Send all helpers home, after the job that may be running."""
    while not swap(words, BUSY, 0, 1):
        pause()
    write(words, STOPPED, 1)
    for i in range(words[HELPERS]):
        wake(words, i)
    words[HELPERS] = 0
    write(words, BUSY, 0)


SOURCES = {
    "run": Source(run, "int64* int int int"),
    "help_out": Source(help_out, "int64* int"),
    "stop": Source(stop, "int64*"),
}
