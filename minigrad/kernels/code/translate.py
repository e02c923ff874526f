"""From the text of a kernel to machine code.

The text is a function in a small part of Python: assignments, `for ... in range(...)`, expressions of numbers and
names, and calls of `words`. Each expression is a value of `V`, which writes LLVM's instructions when it is computed.
So that is all that is left to do: walk over the syntax tree, keep variables in memory of their own (LLVM puts them into
registers), and build loops. A kernel takes 10 to 45 ms; Numba, which would infer types first, took 160 to 300.

    for i in range(i0, i1):                 i ← i0;  while i < i1:
        v0 = a0[i] * 2.0                        v0 ← fmul (load (gep a0 i)) 2.0
        put(a1, i, v0)                          store v0 (gep a1 i);  i ← i + 1
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from minigrad.kernels.code.words import WORDS, as_type, offset
from minigrad.kernels.simd import I64, V, bits_of, is_float, select

BYTE = ir.IntType(8)
TYPES = {
    "float32": ir.FloatType(), "float64": ir.DoubleType(), "int": I64, "bool": BYTE,
    **{f"{u}int{bits}": ir.IntType(bits) for bits in (8, 16, 32, 64) for u in ("", "u")},
}  # fmt: skip

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.truediv, ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.And: operator.and_,
    ast.Or: operator.or_, ast.USub: operator.neg, ast.Invert: operator.invert, ast.Not: operator.invert,
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.Pow: WORDS["power"],
}  # fmt: skip


def object_code(symbol: str, text: str, kinds: Sequence[str]) -> bytes:
    """The machine code of `void symbol(int64 *slots, int64 chunk, int64 thread)`.

    Args:
        text: of one function, whose last two arguments are the numbers of chunk and thread.
        kinds: of its other arguments, which lie in the slots: 'float32*', 'int', 'float64', ...
    """
    module = ir.Module(symbol)
    module.triple = llvm.get_process_triple()
    _Translation(module, symbol, text, kinds)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = target_machine()
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    tuning = llvm.create_pipeline_tuning_options(speed_level=3)
    tuning.loop_vectorization = tuning.slp_vectorization = False  # what is to be vectors already is
    builder = llvm.create_pass_builder(machine, tuning)
    builder.getModulePassManager().run(parsed, builder)
    return bytes(machine.emit_object(parsed))


def target_machine() -> Any:
    """For this processor, or the one that Numba's environment variables name."""
    import os

    name = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES")
    features = llvm.get_host_cpu_features().flatten() if features is None else features
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=name, features=features, opt=3, reloc="default", codemodel="jitdefault", jit=True
    )


class _Translation:
    """Writes a function into a module."""

    def __init__(self, module: ir.Module, symbol: str, text: str, kinds: Sequence[str]):
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.PointerType(I64), I64, I64]), symbol)
        slots, *numbers = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        (definition,) = ast.parse(text).body
        assert isinstance(definition, ast.FunctionDef)
        self.unsigned: set[str] = set()  # pointers to numbers without sign
        names = [a.arg for a in definition.args.args]
        self.given = {name: V(self.builder, value) for name, value in zip(names[-2:], numbers, strict=True)}
        for i, (name, kind) in enumerate(zip(names[:-2], kinds, strict=True)):
            if kind.startswith(("u", "bool")):
                self.unsigned.add(name)
            self.given[name] = self.argument(self.builder.load(self.builder.gep(slots, [I64(i)])), kind)
        self.variables: dict[str, Any] = {}
        for statement in definition.body:
            self.do(statement)
        self.builder.ret_void()

    def argument(self, slot: Any, kind: str) -> V:
        """What lies in a slot: an address, a whole number, or the bits of a float64."""
        to = TYPES[kind.rstrip("*")]
        if kind.endswith("*"):
            return V(self.builder, self.builder.inttoptr(slot, ir.PointerType(to)))
        if is_float(to):
            return as_type(V(self.builder, self.builder.bitcast(slot, ir.DoubleType())), to)
        return V(self.builder, slot)

    # Statements

    def do(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self.assign(name, self.value(value))
            case ast.Expr(value=ast.Constant()):
                pass  # a docstring
            case ast.Expr(value=call):
                self.value(call)
            case ast.For(target=ast.Name(id=name), iter=ast.Call(args=bounds), body=body):
                self.loop(name, [self.whole(self.value(b)) for b in bounds], body)
            case _:
                raise SyntaxError(f"a kernel can't say {ast.unparse(statement)!r}")

    def assign(self, name: str, value: Any) -> None:
        if not isinstance(value, V):
            value = V(self.builder, I64(value) if isinstance(value, int) else ir.Constant(ir.DoubleType(), value))
        if name not in self.variables:
            with self.builder.goto_entry_block():
                self.variables[name] = self.builder.alloca(value.type, name=name)
        to = self.variables[name].type.pointee
        self.builder.store(
            (value if value.lanes else as_type(value, to) if value.type != to else value).value, self.variables[name]
        )

    def loop(self, name: str, bounds: Sequence[V], body: Sequence[ast.stmt]) -> None:
        start, stop, step = (
            bounds
            if len(bounds) == 3
            else (*([V(self.builder, I64(0))] * (2 - len(bounds))), *bounds, V(self.builder, I64(1)))
        )
        self.assign(name, start)
        head, inside, after = (self.builder.append_basic_block(label) for label in ("head", "body", "after"))
        self.builder.branch(head)
        self.builder.position_at_end(head)
        self.builder.cbranch((self.variable(name) < stop).value, inside, after)
        self.builder.position_at_end(inside)
        for statement in body:
            self.do(statement)
        self.assign(name, self.variable(name) + step)
        self.builder.branch(head)
        self.builder.position_at_end(after)

    def variable(self, name: str) -> V:
        return V(self.builder, self.builder.load(self.variables[name]))

    def whole(self, x: Any) -> V:
        return x if isinstance(x, V) else V(self.builder, I64(x))

    # Expressions

    def value(self, e: ast.expr) -> Any:
        """A value of `V`; a Python number for a number that stands in the text."""
        match e:
            case ast.Constant(value=number):
                return int(number) if isinstance(number, bool) else number
            case ast.Name(id=name):
                return self.variable(name) if name in self.variables else self.given.get(name, WORDS.get(name))
            case ast.Subscript(value=pointer, slice=index):
                return self.loaded(offset(self.value(pointer), self.value(index)), ast.unparse(pointer))
            case ast.BinOp(left=left, op=ast.Mod(), right=right):
                a, b = self.value(left), self.whole(self.value(right))
                return V(self.builder, self.builder.srem(a.value, b.value))
            case ast.BinOp(left=left, op=op, right=right):
                return OPERATORS[type(op)](*self.alike(self.value(left), self.value(right)))
            case ast.UnaryOp(op=op, operand=operand):
                return OPERATORS[type(op)](self.value(operand))
            case ast.BoolOp(op=op, values=[left, right]):
                return OPERATORS[type(op)](self.value(left), self.value(right))
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return OPERATORS[type(op)](*self.alike(self.value(left), self.value(right)))
            case ast.IfExp(test=test, body=body, orelse=other):
                return select(self.value(test), *self.alike(self.value(body), self.value(other)))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.called(name, [self.value(a) for a in args])
        raise SyntaxError(f"a kernel can't say {ast.unparse(e)!r}")

    def loaded(self, address: V, name: str) -> V:
        """What lies at an address; whole numbers of any size as 64 bits."""
        x = V(self.builder, self.builder.load(address.value))
        if is_float(x.type) or x.type == I64:
            return x
        return V(self.builder, (self.builder.zext if name in self.unsigned else self.builder.sext)(x.value, I64))

    def called(self, name: str, args: list[Any]) -> Any:
        if name == "min":
            a, b = map(self.whole, args)
            return select(a < b, a, b)
        if name in TYPES:  # a number in another dtype
            to = TYPES[name]
            return as_type(args[0], to) if isinstance(args[0], V) else V(self.builder, ir.Constant(to, args[0]))
        if name in ("maximum", "minimum"):
            args = list(self.alike(*args))
        return WORDS[name](*args)

    def alike(self, a: Any, b: Any) -> tuple[Any, Any]:
        """Two numbers of different types in the wider one, as NumPy has it; a Python number comes second, or last."""
        if not isinstance(a, V) and isinstance(b, V):
            return b.constant(a), b
        if not (isinstance(a, V) and isinstance(b, V)) or a.lanes or b.lanes or a.type == b.type:
            return a, b
        wider = max(a.type, b.type, key=lambda t: (is_float(t), bits_of(t)))
        return as_type(a, wider), as_type(b, wider)
