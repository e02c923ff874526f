"""Vectors: numbers in the registers of the processor, for formulas in plain Python.

`V` wraps a value of LLVM's intermediate representation, a scalar or a vector of any width, so that a formula in plain
Python (`x / (1.0 + exp(-x))`) writes the instructions for it, once for float32 and float64, scalars and vectors of
every processor. Python numbers in a formula are constants.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _features() -> set[str]:
    """What the processor that code is made for can do; Numba's environment variable can pretend another one."""
    given = os.environ.get("NUMBA_CPU_FEATURES")
    if given is not None:
        return {f[1:] for f in given.split(",") if f.startswith("+")}
    return {name for name, there in llvm.get_host_cpu_features().items() if there}


FEATURES = _features()
ARM = platform.machine().lower() in ("arm64", "aarch64")
WIDTH = 64 if {"avx512f", "avx512dq"} <= FEATURES else 32 if {"avx2", "fma"} <= FEATURES else 16  # bytes in a vector
REGISTERS = 32 if WIDTH == 64 or ARM else 16  # how many vectors the processor holds
FUSED = ARM or "fma" in FEATURES  # whether x·y + z is one instruction


def is_float(t: Any) -> bool:
    return isinstance(t, (ir.FloatType, ir.DoubleType))


def bits_of(t: Any) -> int:
    """The size of a scalar type in bits."""
    return 32 if isinstance(t, ir.FloatType) else 64 if isinstance(t, ir.DoubleType) else t.width


class V:
    """A scalar or a vector in a register, with the operators that make instructions of it.

    Args:
        builder: where instructions go.
        value: LLVM's value, of floats, integers or truth values (i1).
    """

    __slots__ = ("builder", "value")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, builder: ir.IRBuilder, value: Any):
        self.builder, self.value = builder, value

    @property
    def type(self) -> Any:
        return self.value.type

    @property
    def lanes(self) -> int:
        """How many lanes a vector has; 0 for a scalar."""
        return self.type.count if isinstance(self.type, ir.VectorType) else 0

    @property
    def element(self) -> Any:
        """The type of a lane."""
        return self.type.element if self.lanes else self.type

    def shaped(self, element: Any) -> Any:
        """The type with as many lanes as this one, of another element."""
        return ir.VectorType(element, self.lanes) if self.lanes else element

    def constant(self, x: Any) -> V:
        """A number in the type of this value, in every lane."""
        x = float(np.float32(x) if isinstance(self.element, ir.FloatType) else x) if is_float(self.element) else int(x)
        return V(self.builder, ir.Constant(self.type, [x] * self.lanes if self.lanes else x))

    def like(self, x: Any) -> V:
        """x with as many lanes as this value: numbers become constants, scalars are copied into every lane."""
        if not isinstance(x, V):
            return self.constant(x)
        return splat(x, self.lanes) if self.lanes and not x.lanes else x

    def _pair(self, other: Any) -> tuple[V, V]:
        left = self if not isinstance(other, V) or self.lanes else other.like(self)
        return left, left.like(other)

    def _arithmetic(self, other: Any, floats: str, integers: str, swapped: bool = False) -> V:
        a, b = self._pair(other)
        a, b = (b, a) if swapped else (a, b)
        name = floats if is_float(a.element) else integers
        return V(self.builder, getattr(self.builder, name)(a.value, b.value))

    def __add__(self, other: Any) -> V:
        return self._arithmetic(other, "fadd", "add")

    def __sub__(self, other: Any) -> V:
        return self._arithmetic(other, "fsub", "sub")

    def __mul__(self, other: Any) -> V:
        return self._arithmetic(other, "fmul", "mul")

    def __truediv__(self, other: Any) -> V:
        return self._arithmetic(other, "fdiv", "sdiv")

    def __radd__(self, other: Any) -> V:
        return self + other

    def __rmul__(self, other: Any) -> V:
        return self * other

    def __rsub__(self, other: Any) -> V:
        return self._arithmetic(other, "fsub", "sub", swapped=True)

    def __rtruediv__(self, other: Any) -> V:
        return self._arithmetic(other, "fdiv", "sdiv", swapped=True)

    def __neg__(self) -> V:
        return V(self.builder, (self.builder.fneg if is_float(self.element) else self.builder.neg)(self.value))

    def _compared(self, sign: str, other: Any) -> V:
        a, b = self._pair(other)
        name = "icmp_signed" if not is_float(a.element) else "fcmp_unordered" if sign == "!=" else "fcmp_ordered"
        return V(self.builder, getattr(self.builder, name)(sign, a.value, b.value))

    def __lt__(self, other: Any) -> V:
        return self._compared("<", other)

    def __le__(self, other: Any) -> V:
        return self._compared("<=", other)

    def __gt__(self, other: Any) -> V:
        return self._compared(">", other)

    def __ge__(self, other: Any) -> V:
        return self._compared(">=", other)

    def __eq__(self, other: Any) -> V:  # type: ignore[override]
        return self._compared("==", other)

    def __ne__(self, other: Any) -> V:  # type: ignore[override]
        return self._compared("!=", other)

    def _bitwise(self, other: Any, name: str) -> V:
        a, b = self._pair(other)
        return V(self.builder, getattr(self.builder, name)(a.value, b.value))

    def __and__(self, other: Any) -> V:
        return self._bitwise(other, "and_")

    def __or__(self, other: Any) -> V:
        return self._bitwise(other, "or_")

    def __xor__(self, other: Any) -> V:
        return self._bitwise(other, "xor")

    def __invert__(self) -> V:
        return V(self.builder, self.builder.not_(self.value))

    def __lshift__(self, other: Any) -> V:
        return self._bitwise(other, "shl")

    def __rshift__(self, other: Any) -> V:
        """Bits shifted to the right, zeros from the left."""
        return self._bitwise(other, "lshr")

    def call(self, name: str, *others: Any) -> V:
        """An intrinsic function of LLVM that takes values of this type and returns one."""
        args = [self, *map(self.like, others)]
        suffix = f"v{self.lanes}" * bool(self.lanes) + ("f" if is_float(self.element) else "i")
        return V(self.builder, call(self.builder, f"llvm.{name}.{suffix}{bits_of(self.element)}", self.type, args))


def call(builder: ir.IRBuilder, name: str, returns: Any, args: Sequence[V]) -> Any:
    """Call a function by name, declared where the module does not know it yet."""
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(returns, [a.type for a in args]), name)
    return builder.call(function, [a.value for a in args])


def fills_avx512(x: V) -> bool:
    """Whether x is one or several whole registers of AVX-512, so that `avx512` takes it."""
    return WIDTH == 64 and x.lanes > 0 and x.lanes * bits_of(x.element) % 512 == 0


def avx512(name: str, x: V, *operands: V | int) -> V:
    """An instruction of AVX-512 on whole registers of floats: "scalef" (x·2ᵏ), "getexp", "getmant", "range".

    Args:
        operands: the others, registers, and last a number in the instruction, where it has one.
    """
    if x.lanes * bits_of(x.element) > 512:
        others = [_halves(o) if isinstance(o, V) else (o, o) for o in operands]
        return _joined(*(avx512(name, *half) for half in zip(_halves(x), *others, strict=True)))
    given = [o if isinstance(o, V) else V(x.builder, I32(o)) for o in operands]
    all_lanes, usual_rounding = V(x.builder, ir.IntType(x.lanes)(-1)), V(x.builder, I32(4))
    kind = "ps" if isinstance(x.element, ir.FloatType) else "pd"
    args = [x, *given, x, all_lanes, usual_rounding]  # the second x stands in lanes that a mask leaves out: none
    return V(x.builder, call(x.builder, f"llvm.x86.avx512.mask.{name}.{kind}.512", x.type, args))


def fma_down(x: V, y: float, z: float) -> V:
    """x·y + z rounded down, on whole registers of AVX-512."""
    if x.lanes * bits_of(x.element) > 512:
        return _joined(*(fma_down(half, y, z) for half in _halves(x)))
    name = "vfmadd.ps.512" if isinstance(x.element, ir.FloatType) else "vfmadd.pd.512"
    args = [x, x.constant(y), x.constant(z), V(x.builder, I32(0b1001))]  # towards -∞, without exceptions
    return V(x.builder, call(x.builder, f"llvm.x86.avx512.{name}", x.type, args))


def looked_up(table: Sequence[float], i: V) -> V:
    """table[i], lane by lane: the table lies in one register of AVX-512, or in two.

    Args:
        table: as many numbers as one or two registers have lanes.
        i: whole registers of integers, of which only the lowest bits count.
    """
    if i.lanes * i.element.width > 512:
        return _joined(*(looked_up(table, half) for half in _halves(i)))
    single = i.element.width == 32
    like = from_bits(i)
    halves = [
        V(i.builder, ir.Constant(like.type, [float(np.float32(c) if single else c) for c in table[j : j + i.lanes]]))
        for j in range(0, len(table), i.lanes)
    ]
    if len(halves) == 1:
        name, args = "permvar.sf.512" if single else "permvar.df.512", [halves[0], i]
    else:
        name, args = "vpermi2var.ps.512" if single else "vpermi2var.pd.512", [halves[0], i, halves[1]]
    return V(i.builder, call(i.builder, f"llvm.x86.avx512.{name}", like.type, args))


def after(x: V, y: V) -> V:
    """x, whole registers of AVX-512, from which LLVM computes nothing before it has y, whole registers too.

    No instruction comes of it. But where many numbers are looked up, each for the next step, LLVM would look all of
    them up first, find no registers for them, and put them into memory.
    """
    if y.lanes * bits_of(y.element) > 512:
        return _joined(*(after(*halves) for halves in zip(_halves(x), _halves(y), strict=True)))
    kind = ir.FunctionType(x.type, [x.type, y.type])
    return V(x.builder, x.builder.asm(kind, "", "=v,0,v", [x.value, y.value], side_effect=False))


def opaque(x: V) -> V:
    """x, an integer, as if LLVM did not know where it comes from: so it can't replace sums of it by sums of its own."""
    return V(x.builder, x.builder.asm(ir.FunctionType(x.type, [x.type]), "", "=r,0", [x.value], side_effect=False))


def _shuffled(x: V, y: V, numbers: Sequence[int]) -> V:
    """The lanes of x and y, counted through, that have these numbers."""
    mask = ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))
    return V(x.builder, x.builder.shuffle_vector(x.value, y.value, mask))


def _halves(x: V) -> tuple[V, V]:
    """The first and the second half of a vector's lanes."""
    half = x.lanes // 2
    return _shuffled(x, x, range(half)), _shuffled(x, x, range(half, 2 * half))


def _registers(x: V) -> list[V]:
    """x in pieces that each fill a register of AVX-512."""
    return [x] if x.lanes * bits_of(x.element) == 512 else [r for half in _halves(x) for r in _registers(half)]


def _joined(x: V, y: V) -> V:
    """The lanes of x, then those of y."""
    return _shuffled(x, y, range(2 * x.lanes))


def splat(x: V, lanes: int) -> V:
    """A scalar in every lane of a vector."""
    vector = ir.VectorType(x.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = x.builder.insert_element(undefined, x.value, ir.Constant(I32, 0))
    return V(x.builder, x.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)))


def fma(x: V, y: Any, z: Any) -> V:
    """x·y + z, rounded once where the processor can."""
    return x.call("fma", y, z) if FUSED else x * y + z


def select(condition: V, x: Any, y: Any) -> V:
    """x where the condition holds, else y; no branch."""
    like = x if isinstance(x, V) else y
    like = like if like.lanes or not condition.lanes else splat(like, condition.lanes)
    return V(condition.builder, condition.builder.select(condition.value, like.like(x).value, like.like(y).value))


def choice(condition: V, then: Callable[[], V], otherwise: Callable[[], V]) -> V:
    """then() if the condition, one truth value, holds, else otherwise(): a branch, and only one of them is computed."""
    builder = condition.builder
    with builder.if_else(condition.value) as (yes, no):
        with yes:
            x, after_yes = then(), builder.block
        with no:
            y, after_no = otherwise(), builder.block
    phi = builder.phi(x.type)
    phi.add_incoming(x.value, after_yes)
    phi.add_incoming(y.value, after_no)
    return V(builder, phi)


def any_below(x: V, bound: float) -> V:
    """Whether any lane of x, whole registers of AVX-512, is below the bound, itself below 0; NaN is not."""
    registers = _registers(x)
    least = registers[0].constant(0.0)
    for register in registers:
        least = smaller(register, least)
    mask = least < bound
    number = V(x.builder, x.builder.bitcast(mask.value, ir.IntType(mask.lanes)))
    return V(x.builder, x.builder.icmp_signed("!=", number.value, number.type(0)))


def absolute(x: V) -> V:
    return x.call("fabs")


def copysign(x: V, sign: V) -> V:
    """x with the sign of `sign`."""
    return x.call("copysign", sign)


def sqrt(x: V) -> V:
    return x.call("sqrt")


def floor(x: V) -> V:
    return x.call("floor")


def larger(x: V, y: Any) -> V:
    """The larger of two numbers; y where either is NaN."""
    x, y = x._pair(y)
    return select(x > y, x, y)


def smaller(x: V, y: Any) -> V:
    """The smaller of two numbers; y where either is NaN."""
    x, y = x._pair(y)
    return select(x < y, x, y)


def bits(x: V) -> V:
    """The bits of floats as integers of the same size."""
    return V(x.builder, x.builder.bitcast(x.value, x.shaped(ir.IntType(bits_of(x.element)))))


def from_bits(i: V) -> V:
    """The floats that have these bits."""
    to = ir.FloatType() if i.element.width == 32 else ir.DoubleType()
    return V(i.builder, i.builder.bitcast(i.value, i.shaped(to)))


def to_integers(x: V) -> V:
    """Floats towards zero as integers of the same size; what does not fit gives anything."""
    return V(x.builder, x.builder.fptosi(x.value, x.shaped(ir.IntType(bits_of(x.element)))))


def to_floats(i: V) -> V:
    """Signed integers as floats of the same size."""
    to = ir.FloatType() if i.element.width == 32 else ir.DoubleType()
    return V(i.builder, i.builder.sitofp(i.value, i.shaped(to)))


def converted(x: V, element: Any) -> V:
    """Floats, or signed integers, as floats of another size."""
    if x.element == element:
        return x
    name = "sitofp" if not is_float(x.element) else "fptrunc" if isinstance(element, ir.FloatType) else "fpext"
    return V(x.builder, getattr(x.builder, name)(x.value, x.shaped(element)))


def first(n: V, lanes: int) -> V:
    """A mask of the first n lanes, n an i64."""
    count = splat(V(n.builder, n.builder.trunc(n.value, I32)), lanes)
    numbers = V(n.builder, ir.Constant(ir.VectorType(I32, lanes), list(range(lanes))))
    return numbers < count


def _pointer(address: V, to: Any) -> Any:
    """The address, an i64 or a pointer, as a pointer to such a type."""
    pointer = ir.PointerType(to)
    builder = address.builder
    if isinstance(address.type, ir.PointerType):
        return builder.bitcast(address.value, pointer)
    return builder.inttoptr(address.value, pointer)


def read(address: V, of: Any, mask: V | None = None) -> V:
    """What lies at an address, aligned or not; lanes that the mask leaves out are 0 and not touched."""
    builder, pointer = address.builder, _pointer(address, of)
    if mask is None:
        loaded = builder.load(pointer)
        loaded.align = 1
        return V(builder, loaded)
    name = f"llvm.masked.load.v{of.count}f{bits_of(of.element)}.p0"
    args = [V(builder, pointer), V(builder, I32(1)), mask, V(builder, ir.Constant(of, None))]
    return V(builder, call(builder, name, of, args))


def write(x: V, address: V, mask: V | None = None) -> None:
    """Put x at an address; lanes that the mask leaves out are not touched."""
    builder, pointer = address.builder, _pointer(address, x.type)
    align = bits_of(x.element) // 8
    if mask is None:
        builder.store(x.value, pointer).align = align
        return
    name = f"llvm.masked.store.v{x.lanes}f{bits_of(x.element)}.p0"
    call(builder, name, ir.VoidType(), [x, V(builder, pointer), V(builder, ir.Constant(I32, align)), mask])


def prefetch(address: V) -> None:
    """Ask for the cache line at an address, an i64, which need not exist."""
    reading, soon, data = I32(0), I32(3), I32(1)
    args = [_pointer(address, ir.IntType(8)), reading, soon, data]
    call(address.builder, "llvm.prefetch.p0", ir.VoidType(), [V(address.builder, x) for x in args])


def folded(x: V, together: Callable[[V, V], V]) -> V:
    """All lanes of a vector put together, by halves: the order is always the same."""
    lanes, builder = x.lanes, x.builder
    while lanes > 1:
        lanes //= 2
        undefined = ir.Constant(x.type, ir.Undefined)
        halves = [
            V(builder, builder.shuffle_vector(x.value, undefined, ir.Constant(ir.VectorType(I32, lanes), list(part))))
            for part in (range(lanes), range(lanes, 2 * lanes))
        ]
        x = together(*halves)
    return V(builder, builder.extract_element(x.value, ir.Constant(I32, 0)))
