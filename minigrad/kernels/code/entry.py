"""The function that Python calls, written in LLVM's intermediate representation around a compiled Numba function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minigrad.kernels.control import COLD, HELPERS, RUN, START

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
OBJECT = ir.PointerType(I8)
NULL = ir.Constant(OBJECT, None)
CHUNK = ir.FunctionType(ir.VoidType(), [ir.PointerType(I64), I64])  # of the slots and the number of the chunk
DATA = object.__basicsize__  # where NumPy's array struct has its data pointer: after the head that all objects have
ITEMS = tuple.__basicsize__  # where a tuple has its items


@intrinsic
def data_of(context: Any, arrays: Any, k: Any) -> Any:
    """Item k of an argument of kind 'real**': a pointer to the data of the array."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        array = builder.bitcast(builder.load(builder.gep(args[0], [args[1]])), OBJECT)
        return builder.load(builder.bitcast(builder.gep(array, [I64(DATA)]), args[0].type))

    return arrays.dtype(arrays, types.intp), lower


def add_entry(module: ir.Module, symbol: str, context: Any, compiled: Any, kinds: Sequence[str]) -> None:
    """Add `PyObject *symbol(PyObject *control, PyObject **arguments, Py_ssize_t count)` to a module.

    The arguments are those of the Numba function but for the last, the chunk; in its place comes the number of chunks.
    """
    external = {
        name: ir.Function(module, ir.FunctionType(returns, takes), name)
        for name, returns, takes in (
            ("PyLong_AsSsize_t", I64, [OBJECT]),
            ("PyFloat_AsDouble", ir.DoubleType(), [OBJECT]),
            ("PyEval_SaveThread", OBJECT, []),
            ("PyEval_RestoreThread", ir.VoidType(), [OBJECT]),
            ("Py_IncRef", ir.VoidType(), [OBJECT]),
            ("PyErr_Occurred", OBJECT, []),
            ("PyObject_CallNoArgs", OBJECT, [OBJECT]),
        )
    }
    none = ir.GlobalVariable(module, I8, "_Py_NoneStruct")
    chunk = _chunk_function(module, symbol + "_chunk", context, compiled, kinds)

    entry = ir.Function(module, ir.FunctionType(OBJECT, [OBJECT, ir.PointerType(OBJECT), I64]), symbol)
    control, arguments, _ = entry.args
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    slots = builder.alloca(I64, len(kinds) + 1)

    def argument(i: int) -> Any:
        return builder.load(builder.gep(arguments, [I64(i)]))

    for i, kind in enumerate(kinds):
        if kind.endswith("**"):
            value = builder.ptrtoint(builder.gep(argument(i), [I64(ITEMS)]), I64)
        elif kind.endswith("*"):
            value = builder.load(builder.bitcast(builder.gep(argument(i), [I64(DATA)]), ir.PointerType(I64)))
        elif kind == "array":
            value = builder.ptrtoint(argument(i), I64)
        elif kind == "int":
            value = builder.call(external["PyLong_AsSsize_t"], [argument(i)])
        else:
            value = builder.bitcast(builder.call(external["PyFloat_AsDouble"], [argument(i)]), I64)
        builder.store(value, builder.gep(slots, [I64(i)]))
    chunks = builder.call(external["PyLong_AsSsize_t"], [argument(len(kinds))])
    failed = builder.icmp_unsigned("!=", builder.call(external["PyErr_Occurred"], []), NULL)
    with builder.if_then(failed, likely=False):  # an argument that is no number of the kind
        builder.ret(NULL)

    words = builder.load(builder.bitcast(builder.gep(control, [I64(DATA)]), ir.PointerType(ir.PointerType(I64))))

    def word(i: int) -> Any:
        return builder.load(builder.gep(words, [I64(i)]))

    several = builder.icmp_signed(">", chunks, I64(1))
    with builder.if_then(several, likely=False), builder.if_then(builder.icmp_signed("!=", word(COLD), I64(0))):
        result = builder.call(external["PyObject_CallNoArgs"], [builder.inttoptr(word(START), OBJECT)])
        with builder.if_then(builder.icmp_unsigned("==", result, NULL), likely=False):
            builder.ret(NULL)
    state = builder.call(external["PyEval_SaveThread"], [])
    with builder.if_else(builder.and_(several, builder.icmp_signed(">", word(HELPERS), I64(0)))) as (shared, alone):
        with shared:
            job = builder.alloca(I64, 4)
            for i, x in enumerate((words, chunk, slots, chunks)):
                x = x if i == 3 else builder.ptrtoint(x, I64)
                builder.store(x, builder.gep(job, [I64(i)]))
            builder.call(builder.inttoptr(word(RUN), ir.PointerType(CHUNK)), [job, I64(0)])
        with alone, cgutils.for_range(builder, chunks) as loop:
            builder.call(chunk, [slots, loop.index])
    builder.call(external["PyEval_RestoreThread"], [state])
    builder.call(external["Py_IncRef"], [none])
    builder.ret(none)


def _chunk_function(module: ir.Module, name: str, context: Any, compiled: Any, kinds: Sequence[str]) -> Any:
    """`void name(int64 *slots, int64 chunk)`: the Numba function with its arguments taken out of the slots."""
    function = ir.Function(module, CHUNK, name)
    slots, chunk = function.args
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    values = []
    for i, (kind, t) in enumerate(zip(kinds, compiled.signature.args, strict=False)):
        slot = builder.load(builder.gep(slots, [I64(i)]))
        if kind.endswith("*") or kind == "array":
            slot = builder.inttoptr(slot, context.get_value_type(t))
        elif kind == "real":
            slot = builder.bitcast(slot, ir.DoubleType())
            slot = builder.fptrunc(slot, ir.FloatType()) if t.bitwidth == 32 else slot
        values.append(slot)
    callee = context.declare_function(module, compiled.fndesc)
    context.call_conv.call_function(
        builder, callee, compiled.signature.return_type, compiled.signature.args, [*values, chunk]
    )
    builder.ret_void()
    return function
