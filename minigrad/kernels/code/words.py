"""The words in which the kernels of compiled steps are written: what `minigrad.compiler.emit` may call.

They are formulas on `V`: pointers, whole numbers, numbers, and vectors of as many numbers as the processor takes at
once. `translate` turns a text of these words into machine code. Indices and counts are in elements.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from minigrad.kernels import matmul as plans
from minigrad.kernels import simd
from minigrad.kernels import simd_math as m
from minigrad.kernels.simd import I1, I32, I64, WIDTH, V, bits_of, call, converted, first, folded, select, splat

INF = math.inf
HEAD = object.__basicsize__ // 8  # words of NumPy's array struct before the pointer to its data


def vector(like: V) -> Any:
    """The type of a vector of what a pointer points to."""
    element = like.type.pointee
    return ir.VectorType(element, WIDTH * 8 // bits_of(element))


def lanes_of(like: V) -> int:
    """How many numbers of the kind that a pointer points to a vector has."""
    return int(vector(like).count)


def offset(pointer: V, index: Any) -> V:
    """The pointer so many elements further on."""
    return V(
        pointer.builder, pointer.builder.gep(pointer.value, [I64(index) if isinstance(index, int) else index.value])
    )


def filled(like: V, x: Any) -> V:
    """A vector with a number in every lane."""
    to = vector(like)
    x = x if isinstance(x, V) else V(like.builder, ir.Constant(to.element, float(x)))
    return splat(converted(x, to.element), to.count)


def load_some(pointer: V, index: V, count: V) -> V:
    """The first `count` lanes of the vector that begins at an index, 0 in the others, whose memory is not touched."""
    to = vector(pointer)
    return simd.read(offset(pointer, index), to, first(count, to.count))


def store_some(pointer: V, index: V, x: V, count: V) -> None:
    """Put the first `count` lanes of a vector to where an index is."""
    simd.write(x, offset(pointer, index), first(count, vector(pointer).count))


def numbered(like: V) -> V:
    """0, 1, 2, ..., one in each lane, as 64-bit integers."""
    lanes = lanes_of(like)
    return V(like.builder, ir.Constant(ir.VectorType(I64, lanes), list(range(lanes))))


def _gathered(pointer: V, index: V, step: Any, count: V, like: V) -> V:
    """What lies at an index, so many elements further on, and so on."""
    builder, element, lanes = pointer.builder, pointer.type.pointee, lanes_of(like)
    start = V(builder, builder.ptrtoint(offset(pointer, index).value, I64))
    steps = (step if isinstance(step, V) else V(builder, I64(step))) * (bits_of(element) // 8)
    each = builder.inttoptr((numbered(like) * steps + start).value, ir.VectorType(ir.PointerType(element), lanes))
    zeros = V(builder, ir.Constant(ir.VectorType(element, lanes), None))
    name = f"{'f' if simd.is_float(element) else 'i'}{bits_of(element)}"
    given = [V(builder, each), V(builder, I32(bits_of(element) // 8)), first(count, lanes), zeros]
    return V(builder, call(builder, f"llvm.masked.gather.v{lanes}{name}.v{lanes}p0", zeros.type, given))


def load_apart(pointer: V, index: V, step: Any, count: V) -> V:
    """The vector of what lies at an index, `step` further on, and so on: so many lanes, 0 in the others."""
    return _gathered(pointer, index, step, count, pointer)


def load_truths(pointer: V, index: V, step: Any, like: V, count: V) -> V:
    """The same for bytes as truth values, one for each lane of a vector of what `like` points to."""
    return _gathered(pointer, index, step, count, like) != 0


def truth(like: V, byte: V) -> V:
    """A truth value that lies in memory as a byte, in every lane."""
    return splat(byte != 0, lanes_of(like))


def lane_is(like: V, index: V, number: V) -> V:
    """In which lane the count that begins with `index` is this number."""
    return numbered(like) == number - index


def keep_some(x: V, count: V, other: float) -> V:
    """The first `count` lanes of x, and `other` in the rest."""
    return select(first(count, x.lanes), x, x.constant(other))


def lane0(x: V) -> V:
    """The first lane."""
    return V(x.builder, x.builder.extract_element(x.value, I32(0)))


def put(pointer: V, index: Any, x: Any) -> None:
    """Put a number to where an index is."""
    element = pointer.type.pointee
    x = x if isinstance(x, V) else V(pointer.builder, ir.Constant(element, x))
    pointer.builder.store(as_type(x, element).value, offset(pointer, index).value)


def as_type(x: V, element: Any) -> V:
    """A number as another type: truth values are 0 and 1, floats become whole numbers towards zero."""
    builder, value = x.builder, x.value
    if x.type == element:
        return x
    if x.type == I1:
        return V(builder, builder.uitofp(value, element) if simd.is_float(element) else builder.zext(value, element))
    if simd.is_float(element):
        return converted(x, element)
    if simd.is_float(x.type):
        return V(builder, builder.fptosi(value, element))
    return V(builder, (builder.trunc if bits_of(element) < bits_of(x.type) else builder.sext)(value, element))


def product(gemm: V, a: V, b: V, c: V, bias: V, panels: V, plan: V, chunk: V, thread: V) -> None:
    """Do a chunk of a matrix product, by the chunk function at this address, in memory of this thread for panels.

    Without a bias, c stands in its place. `kernels/matmul.py` says what a plan is.
    """
    builder = gemm.builder
    with builder.goto_entry_block():
        slots = builder.alloca(I64, 6)
        heads = [builder.alloca(I64, HEAD + 1) for _ in range(2)]  # as of NumPy's arrays: it reads where data begin
    for head, data in zip(heads, (a, b), strict=True):
        builder.store(builder.ptrtoint(data.value, I64), builder.gep(head, [I64(HEAD)]))
    one = V(builder, builder.load(offset(plan, plans.PANELS).value))
    mine = panels + (thread - chunk) * one  # where those of chunk 0 would be
    addresses = [*heads, c.value, bias.value]
    words = [*(builder.ptrtoint(x, I64) for x in addresses), mine.value, builder.ptrtoint(plan.value, I64)]
    for k, word in enumerate(words):
        builder.store(word, builder.gep(slots, [I64(k)]))
    function = ir.PointerType(ir.FunctionType(ir.VoidType(), [ir.PointerType(I64), I64]))
    builder.call(builder.inttoptr(gemm.value, function), [slots, chunk.value])


def maximum(x: V, y: Any) -> V:
    """The larger; NaN if either is NaN, as in NumPy."""
    x, y = x._pair(y)
    return select(x > y, x, select(x != x, x, y))


def minimum(x: V, y: Any) -> V:
    """The smaller; NaN if either is NaN, as in NumPy."""
    x, y = x._pair(y)
    return select(x < y, x, select(x != x, x, y))


def ceil(x: V) -> V:
    return x.call("ceil")


def rint(x: V) -> V:
    return x.call("rint")


def sign(x: V) -> V:
    return select(x > 0.0, x.constant(1.0), select(x < 0.0, x.constant(-1.0), x + 0.0))  # of -0.0 it is 0.0


def sin(x: V) -> V:
    return _or_far_out(x, m.sin(x), "sin")


def cos(x: V) -> V:
    return _or_far_out(x, m.cos(x), "cos")


def _or_far_out(x: V, y: V, name: str) -> V:
    """y, but lane by lane from the C library where x is so large that simd_math gives NaN."""
    far = simd.absolute(x) > m.SIN_MOST
    builder, some = x.builder, far.value
    if x.lanes:
        some = builder.icmp_unsigned("!=", builder.bitcast(some, ir.IntType(x.lanes)), ir.IntType(x.lanes)(0))
    return simd.choice(V(builder, some), lambda: select(far, x.call(name), y), lambda: y)


def cosh(x: V) -> V:
    """(eˣ + e⁻ˣ)/2, of half of the exponent and squared, since eˣ may overflow where the result does not."""
    half = m.exp(simd.absolute(x) * 0.5)
    return half * 0.5 * half + 0.5 / half / half


def sinh(x: V) -> V:
    """(t + t/(t + 1))/2 with t = e^|x| - 1, which keeps the digits of a small x; e^|x|/2 of a large one."""
    size = simd.absolute(x)
    t = m.expm1(simd.smaller(size, 30.0))
    half = m.exp(size * 0.5)
    return simd.copysign(select(size < 20.0, (t + t / (t + 1.0)) * 0.5, half * 0.5 * half), x)


def power(x: V, y: V) -> V:
    return x.call("pow", y)


def total(x: V) -> V:
    """The sum of all lanes, by halves."""
    return folded(x, operator.add)


def product_of(x: V) -> V:
    return folded(x, operator.mul)


def largest(x: V) -> V:
    return folded(x, maximum)


def smallest(x: V) -> V:
    return folded(x, minimum)


def _together(op: Callable[[V, V], V]) -> Callable[[V, V], V]:
    """What chunks have found, in their order, put together: numbers at a pointer, so many."""

    def together(partials: V, count: V) -> V:
        builder = partials.builder
        begin = builder.block
        loop, end = builder.append_basic_block("together"), builder.append_basic_block("end")
        start = builder.load(partials.value)
        builder.cbranch(builder.icmp_signed(">", count.value, I64(1)), loop, end)
        builder.position_at_end(loop)
        k, so_far = builder.phi(I64), builder.phi(partials.type.pointee)
        now = op(V(builder, so_far), V(builder, builder.load(offset(partials, V(builder, k)).value))).value
        following = builder.add(k, I64(1))
        for phi, before, again in ((k, I64(1), following), (so_far, start, now)):
            phi.add_incoming(before, begin)
            phi.add_incoming(again, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, count.value), loop, end)
        last = builder.block
        builder.position_at_end(end)
        y = builder.phi(partials.type.pointee)
        y.add_incoming(start, begin)
        y.add_incoming(now, last)
        return V(builder, y)

    return together


WORDS: dict[str, Any] = {
    **{
        f.__name__: f
        for f in (
            lanes_of, offset, filled, load_some, store_some, load_apart, load_truths, truth, lane_is, keep_some, lane0,
            put, product, maximum, minimum, ceil, rint, sign, sin, cos, cosh, sinh, power, total, product_of,
            largest, smallest,
            m.exp, m.expm1, m.log, m.log1p, m.tanh, m.erf, m.erfc, m.tanh_vjp, m.gelu_vjp, m.silu_vjp,
            simd.absolute, simd.sqrt, simd.floor,
        )
    },
    "where": select,
    "together_add": _together(operator.add),
    "together_multiply": _together(operator.mul),
    "together_maximum": _together(maximum),
    "together_minimum": _together(minimum),
    "INF": INF,
}  # fmt: skip
