"""Vectors for Numba functions: so kernels are written, and nothing is left to the mercy of an automatic vectoriser.

`Vector` is the Numba type of the widest vector that the processor has. `compiled(formula)` makes a formula on `V` (see
`simd`) callable from Numba functions, on vectors as on floats. Operators, `load` and `store` (whose last argument says
how many lanes count), `where`, `total` and `largest` are here too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from minigrad.kernels.simd import (
    I1,
    I32,
    I64,
    WIDTH,
    V,
    bits_of,
    call,
    converted,
    first,
    folded,
    larger,
    read,
    select,
    splat,
    write,
)


class Vector(types.Type):
    """The Numba type of as many numbers of a type as the processor takes at once; `lanes(of)` says how many."""

    def __init__(self, of: types.Float):
        self.of = of
        super().__init__(f"Vector({of})")


class Mask(types.Type):
    """The Numba type of a truth value for each lane of a Vector."""

    def __init__(self, of: types.Float):
        self.of = of
        super().__init__(f"Mask({of})")


def _element(of: types.Float) -> Any:
    return ir.FloatType() if of == types.float32 else ir.DoubleType()


def _llvm_type(t: Vector) -> Any:
    return ir.VectorType(_element(t.of), WIDTH // (t.of.bitwidth // 8))


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, t: Vector):
        super().__init__(manager, t, _llvm_type(t))


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, t: Mask):
        super().__init__(manager, t, ir.VectorType(I1, _llvm_type(Vector(t.of)).count))


def _joint(args: Sequence[types.Type]) -> types.Type | None:
    """The type that a formula works in: the vector among its arguments, else the float."""
    for kind in (Vector, types.Float):
        for t in args:
            if isinstance(t, kind):
                return t
    return None


def _lifted(builder: ir.IRBuilder, joint: types.Type, args: Sequence[Any], given: Sequence[types.Type]) -> list[V]:
    """Numba's values as V: numbers of any type are converted to the joint type's elements."""
    element = _element(joint.of if isinstance(joint, Vector) else joint)
    return [
        V(builder, x) if isinstance(t, (Vector, Mask, types.Boolean)) else converted(V(builder, x), element)
        for x, t in zip(args, given, strict=True)
    ]


def compiled(formula: Callable[..., V]) -> Any:
    """A formula on V as a function for Numba code, on vectors and floats; its first argument counts for the type.

    Args:
        formula: takes one to five arguments, returns one result of the type of the first vector among them.
    """

    def generate(_: Any, args: tuple[types.Type, ...]) -> Any:
        joint = _joint(args)

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, values: Sequence[Any]) -> Any:
            operands = _lifted(builder, joint, values, sig.args)
            y = formula(*operands)
            return splat(y, _llvm_type(joint).count).value if isinstance(joint, Vector) and not y.lanes else y.value

        return signature(joint, *args), lower

    return _of_arity(formula.__code__.co_argcount, generate)


def _of_arity(count: int, generate: Callable[..., Any]) -> Any:
    """An intrinsic of so many arguments, made by generate(context, types): Numba does not allow *args in one."""
    names = ", ".join("abcdefg"[:count])
    namespace: dict[str, Any] = {"generate": generate}
    exec(f"def f(context, {names}): return generate(context, ({names},))", namespace)
    return intrinsic(namespace["f"])


def blockwise(formula: Callable[..., V], vectors: int) -> Any:
    """A formula as a statement for Numba code, f(i, y, a, ...): y[i] = formula(a[i], ...), and on for several vectors.

    One instruction after the other is done to all of the vectors. A processor sees only some hundred instructions
    ahead, and in one long chain, each of which waits for the one before, that keeps few of its units busy.

    Args:
        formula: its arguments are given to f as pointers, or as numbers.
        vectors: how many are done at once, a power of two.
    """

    def generate(_: Any, args: tuple[types.Type, ...]) -> Any:
        one = _llvm_type(Vector(args[1].dtype))
        block = ir.VectorType(one.element, vectors * one.count)

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, values: Sequence[Any]) -> Any:
            i, y, *given = values
            operands = [
                read(_at(builder, x, i), block)
                if isinstance(t, types.CPointer)
                else converted(V(builder, x), block.element)
                for x, t in zip(given, sig.args[2:], strict=True)
            ]
            write(formula(*operands), _at(builder, y, i))
            return context.get_dummy_value()

        return types.void(*args), lower

    return _of_arity(2 + formula.__code__.co_argcount, generate)


def _operator(op: Any, result: Callable[[types.Type], types.Type]) -> None:
    """Teach Numba an operator between vectors, and between vectors and numbers."""

    @infer_global(op)
    class Typing(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            joint = _joint(args)
            allowed = (Vector, types.Float, types.Integer)
            if isinstance(joint, Vector) and all(isinstance(t, allowed) for t in args):
                return signature(result(joint), *args)
            return None

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, values: Sequence[Any]) -> Any:
        return op(*_lifted(builder, _joint(sig.args), values, sig.args)).value

    if op is operator.neg:
        lower_builtin(op, Vector)(lower)
        return
    for pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, *pair)(lower)


for _op in (operator.add, operator.sub, operator.mul, operator.truediv, operator.neg):
    _operator(_op, lambda joint: joint)
for _op in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
    _operator(_op, lambda joint: Mask(joint.of))


@infer_global(operator.and_)
class _MaskAnd(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(args[0], *args) if all(isinstance(t, Mask) for t in args) else None


@lower_builtin(operator.and_, Mask, Mask)
def _mask_and(context: Any, builder: ir.IRBuilder, sig: Any, values: Sequence[Any]) -> Any:
    return builder.and_(*values)


def lanes(dtype: Any) -> int:
    """How many numbers of a NumPy dtype a vector holds."""
    return WIDTH // np.dtype(dtype).itemsize


def _mask(builder: ir.IRBuilder, count: Any, vector: Any) -> V:
    return first(V(builder, count), vector.count)


def _at(builder: ir.IRBuilder, pointer: Any, index: Any) -> V:
    return V(builder, builder.gep(pointer, [index]))


@intrinsic
def lanes_of(context: Any, pointer: Any) -> Any:
    """How many numbers a vector holds of the kind behind the pointer; known when it is compiled."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return I64(_llvm_type(Vector(pointer.dtype)).count)

    return types.int64(pointer), lower


@intrinsic
def to_boundary(context: Any, pointer: Any, index: Any) -> Any:
    """How many numbers from pointer[index] to where the next vector begins that is aligned: 1 to a vector's lanes."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        address = builder.ptrtoint(builder.gep(args[0], [args[1]]), I64)
        beyond = builder.and_(address, I64(WIDTH - 1))
        numbers = builder.udiv(builder.sub(I64(WIDTH), beyond), I64(pointer.dtype.bitwidth // 8))
        return builder.select(builder.icmp_signed("==", numbers, I64(0)), I64(1), numbers)

    return types.int64(pointer, types.intp), lower


@intrinsic
def load(context: Any, pointer: Any, index: Any) -> Any:
    """The vector that starts at pointer[index]; it need not be aligned."""
    t = Vector(pointer.dtype)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return read(_at(builder, *args), _llvm_type(t)).value

    return t(pointer, types.intp), lower


@intrinsic
def load_some(context: Any, pointer: Any, index: Any, count: Any) -> Any:
    """The first `count` lanes of the vector at pointer[index], 0 in the others, whose memory is not touched."""
    t = Vector(pointer.dtype)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        vector = _llvm_type(t)
        return read(_at(builder, *args[:2]), vector, _mask(builder, args[2], vector)).value

    return t(pointer, types.intp, types.intp), lower


@intrinsic
def store(context: Any, pointer: Any, index: Any, x: Any) -> Any:
    """Put a vector at pointer[index]; it need not be aligned."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        write(V(builder, args[2]), _at(builder, *args[:2]))
        return context.get_dummy_value()

    return types.void(pointer, types.intp, x), lower


@intrinsic
def store_some(context: Any, pointer: Any, index: Any, x: Any, count: Any) -> Any:
    """Put the first `count` lanes of a vector at pointer[index]."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        mask = _mask(builder, args[3], args[2].type)
        write(V(builder, args[2]), _at(builder, *args[:2]), mask)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, x, types.intp), lower


@intrinsic
def filled(context: Any, pointer: Any, x: Any) -> Any:
    """A vector for what lies behind the pointer, with x in every lane."""
    t = Vector(pointer.dtype)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        (number,) = _lifted(builder, t, args[1:], sig.args[1:])
        return splat(number, _llvm_type(t).count).value

    return t(pointer, x), lower


@intrinsic
def keep_some(context: Any, x: Any, count: Any, other: Any) -> Any:
    """The first `count` lanes of x, and `other` in the rest."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        (number,) = _lifted(builder, x, args[2:], sig.args[2:])
        return select(_mask(builder, args[1], args[0].type), V(builder, args[0]), number).value

    return x(x, types.intp, other), lower


@intrinsic
def where(context: Any, mask: Any, x: Any, y: Any) -> Any:
    """Lane by lane x where the mask holds, else y; either may be a number."""
    t = Vector(mask.of)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        lifted = [
            splat(v, args[0].type.count) if not v.lanes else v for v in _lifted(builder, t, args[1:], sig.args[1:])
        ]
        return select(V(builder, args[0]), *lifted).value

    return t(mask, x, y), lower


def folding(together: Callable[[V, V], V]) -> Any:
    """A formula of two vectors as a function, for Numba code, that puts the lanes of one vector together."""

    @intrinsic
    def reduce(context: Any, x: Any) -> Any:
        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
            return folded(V(builder, args[0]), together).value

        return x.of(x), lower

    return reduce


total = folding(operator.add)  # the sum of all lanes, by halves
largest = folding(larger)  # the largest lane


@intrinsic
def first_true(context: Any, mask: Any) -> Any:
    """The first lane in which the mask holds; the number of lanes if there is none."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        count = args[0].type.count
        lanes = builder.zext(builder.bitcast(args[0], ir.IntType(count)), I64)
        return V(builder, builder.or_(lanes, I64(1 << count))).call("cttz", V(builder, I1(False))).value

    return types.int64(mask), lower


def _each_lane(builder: ir.IRBuilder, args: Sequence[Any], vector: Any) -> list[V]:
    """The addresses pointer[index], pointer[index + step], ..., their alignment and a mask of the first `count`."""
    pointer, index, step, count = args
    start, size = V(builder, builder.ptrtoint(builder.gep(pointer, [index]), I64)), bits_of(vector.element) // 8
    numbers = V(builder, ir.Constant(ir.VectorType(I64, vector.count), list(range(vector.count))))
    pointers = ir.VectorType(ir.PointerType(vector.element), vector.count)
    addresses = builder.inttoptr((numbers * (V(builder, step) * size) + start).value, pointers)
    return [V(builder, addresses), V(builder, I32(size)), first(V(builder, count), vector.count)]


@intrinsic
def load_apart(context: Any, pointer: Any, index: Any, step: Any, count: Any) -> Any:
    """The vector of pointer[index], pointer[index + step], ...: so many lanes, 0 in the others."""
    t = Vector(pointer.dtype)

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        zeros = V(builder, ir.Constant(context.get_value_type(t), None))
        name = f"llvm.masked.gather.v{zeros.lanes}f{bits_of(zeros.element)}.v{zeros.lanes}p0"
        return call(builder, name, zeros.type, [*_each_lane(builder, args, zeros.type), zeros])

    return t(pointer, types.intp, types.intp, types.intp), lower


@intrinsic
def store_apart(context: Any, pointer: Any, index: Any, step: Any, x: Any, count: Any) -> Any:
    """Put so many lanes of a vector at pointer[index], pointer[index + step], ..."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        *place, value, count = args
        y = V(builder, value)
        name = f"llvm.masked.scatter.v{y.lanes}f{bits_of(y.element)}.v{y.lanes}p0"
        call(builder, name, ir.VoidType(), [y, *_each_lane(builder, [*place, count], y.type)])
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.intp, x, types.intp), lower
