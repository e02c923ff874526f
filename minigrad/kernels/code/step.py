"""What a call of a compiled step does in machine code: `begin` looks at its arrays, and who runs its phases.

`alone` is for one thread, `walk` is what each of several does.

Each thread goes through the phases in their order, waits until those are done that a phase depends on, and does chunks
of it that nobody has. Meanwhile denormal results are 0. `minigrad.kernels.steps` says what a plan is.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from minigrad.kernels.code.entry import data_of
from minigrad.kernels.code.packing import address
from minigrad.kernels.code.pool import CAN_LET_OTHERS, INSIST, PAUSES, add, let_others, pause, read
from minigrad.kernels.native import Source
from minigrad.kernels.simd import I32, I64
from minigrad.kernels.steps import (
    ARRAY,
    BASE,
    BASE_AT,
    BYTES,
    CHUNKS,
    CLASS,
    CLASS_AT,
    COUNT,
    COUNTERS,
    DONE,
    DTYPE,
    DTYPE_AT,
    FIRST,
    FIT,
    FLAGS_AT,
    FUNCTION,
    HOLDERS,
    KIND_AT,
    NDIM,
    NDIM_AT,
    NEXT,
    PASSED,
    PHASE,
    SHAPE,
    SHAPE_AT,
    SLOTS,
    WAITING,
    WAITS,
)


@intrinsic
def do_chunk(context: Any, function: Any, slots: Any, chunk: Any, thread: Any) -> Any:
    """Call the function at this address, `void (int64 *slots, int64 chunk, int64 thread)`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        pointer = ir.PointerType(I64)
        function = ir.PointerType(ir.FunctionType(ir.VoidType(), [pointer, I64, I64]))
        builder.call(builder.inttoptr(args[0], function), [builder.inttoptr(args[1], pointer), args[2], args[3]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), lower


FLUSH = 0x8000  # of MXCSR: results that would be denormal become 0


@intrinsic
def flushing(context: Any, before: Any) -> Any:
    """Let denormal results be 0 from now on if `before` is negative, and return what was; else let that be again.

    A processor takes over a hundred cycles for a denormal number. Moments of Adam that fade away are such numbers: they
    made steps three times as slow.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        if platform.machine().lower() not in PAUSES:  # no x86
            return I64(0)
        word = cgutils.alloca_once(builder, I32)
        pointer = builder.bitcast(word, ir.PointerType(ir.IntType(8)))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type])
        read, write = (
            cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}mxcsr") for name in ("st", "ld")
        )
        builder.call(read, [pointer])
        now = builder.load(word)
        wanted = builder.select(
            builder.icmp_signed("<", args[0], I64(0)), builder.or_(now, I32(FLUSH)), builder.trunc(args[0], I32)
        )
        builder.store(wanted, word)
        builder.call(write, [pointer])
        return builder.zext(now, I64)

    return types.int64(types.int64), lower


@njit(error_model="numpy")
def do_alone(plan: Any, first: int, last: int) -> None:
    """Do the phases from the first up to the last, one after the other."""
    before = flushing(-1)
    for p in range(first, last):
        phase = p * PHASE
        for chunk in range(plan[phase + CHUNKS]):
            do_chunk(plan[phase + FUNCTION], plan[phase + SLOTS], chunk, 0)
    flushing(before)


def alone(plan: Any, first: int, last: int, _: int) -> None:
    """Do the phases from the first up to the last, one after the other."""
    do_alone(plan, first, last)


def walk(plan: Any, counters: Any, first: int, last: int, thread: int) -> None:
    """Go through the phases from the first up to the last together with other threads that do the same.

    `counters` are zeros at first. A thread that finds all chunks of a phase taken goes on to the next phase, and waits
    there only for phases whose results it needs: whoever has a chunk is at work on it, so that waiting ends.
    """
    before = flushing(-1)
    for p in range(first, last):
        phase, counter = p * PHASE, p * COUNTERS
        chunks = plan[phase + CHUNKS]
        if read(counters, counter + NEXT) >= chunks:
            continue
        for k in range(plan[phase + WAITING]):
            earlier = plan[plan[phase + WAITS] + k]
            looks = 0
            while read(counters, earlier * COUNTERS + DONE) < plan[earlier * PHASE + CHUNKS]:
                pause()
                looks += 1
                if CAN_LET_OTHERS and looks > INSIST:
                    let_others()
        while True:
            chunk = add(counters, counter + NEXT, 1)
            if chunk >= chunks:
                break
            do_chunk(plan[phase + FUNCTION], plan[phase + SLOTS], chunk, thread)
            add(counters, counter + DONE, 1)
    flushing(before)


@intrinsic
def word(context: Any, at: Any) -> Any:
    """The eight bytes at an address, as a number."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.PointerType(I64)), align=1)

    return types.int64(types.int64), lower


LOW = 0xFFFFFFFF  # half of a word: what counts of the number of references since Python 3.12, and NumPy's ints


@njit(error_model="numpy")
def is_fit(array: int, checks: Any, check: int) -> bool:
    """Whether the array at this address is what a check asks for. The first that differs decides; a dtype is the same
    if it says so, since there may be several objects for one."""
    ndim, holders = checks[check + NDIM], checks[check + HOLDERS]
    if (
        word(array + CLASS_AT) != checks[check + CLASS]
        or word(word(array + DTYPE_AT) + KIND_AT) != checks[check + DTYPE]
        or word(array + FLAGS_AT) & FIT != FIT
        or word(array + NDIM_AT) & LOW != ndim
    ):
        return False
    lengths = word(array + SHAPE_AT)
    for axis in range(ndim):
        if word(lengths + 8 * axis) != checks[check + SHAPE + axis]:
            return False
    if holders == 0:
        return True
    base = word(array + BASE_AT)
    return (
        word(array) & LOW == holders
        and base != 0
        and word(base) & LOW == 1
        and word(base + CLASS_AT) == checks[check + BASE]
        and word(word(base + SHAPE_AT)) == checks[check + BYTES]
    )


def begin(arrays: Any, checks: Any, places: Any, count: int, slots: Any, plan: Any, last: int, _: int) -> None:
    """If the arrays pass the checks: put their addresses where the arguments of kernels lie, and do the phases up to
    the last, alone. `places` has for each address the array, bytes to add, and the slot."""
    checks[PASSED] = 0
    check = FIRST
    for _ in range(checks[COUNT]):
        if not is_fit(address(arrays[checks[check + ARRAY]]), checks, check):
            return
        check += SHAPE + checks[check + NDIM]
    checks[PASSED] = 1
    for k in range(0, 3 * count, 3):
        slots[places[k + 2]] = address(data_of(arrays, places[k])) + places[k + 1]
    do_alone(plan, 0, last)


SOURCES = {
    "alone": Source(alone, "int64* int int"),
    "walk": Source(walk, "int64* int64* int int"),
    "begin": Source(begin, "uint8** int64* int64* int int64* int64* int"),
}
