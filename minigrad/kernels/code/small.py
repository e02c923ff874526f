"""The product of two small matrices as one function that Python calls: what Python checks would take longer than that.

`PyObject *small(PyObject *table, PyObject **arguments, Py_ssize_t count)` returns a new array; or NotImplemented if the
arguments are not two matrices of one of the dtypes, at most SMALL rows and columns, that fit, and perhaps a bias, a
contiguous vector. The table is an array of addresses, as `minigrad.kernels.matmul` puts them there. This keeps Python's
lock: to release it takes longer, too.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from minigrad.kernels import matmul as plans

I32, I64 = ir.IntType(32), ir.IntType(64)
WORDS = ir.PointerType(I64)
HEAD = object.__basicsize__ // 8  # words of 8 bytes; the first is the count of references, the second the type
DATA, DIMENSIONS, LENGTHS, STRIDES, DTYPE = HEAD, HEAD + 1, HEAD + 2, HEAD + 3, HEAD + 5  # of NumPy's array struct
NEW = ir.FunctionType(I64, [I64, I32, WORDS, I32, I64, I64, I32, I32, I64])  # PyArray_New
CHUNK = ir.FunctionType(ir.VoidType(), [WORDS, I64])


def object_code(symbol: str) -> bytes:
    """Its machine code."""
    module = ir.Module(symbol)
    module.triple = llvm.get_process_triple()
    function = ir.Function(module, ir.FunctionType(I64, [WORDS, WORDS, I64]), symbol)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    this, arguments, count = function.args

    def word(words: Any, i: int) -> Any:
        return builder.load(builder.gep(words, [I64(i)]))

    def pointed(address: Any) -> Any:
        return builder.inttoptr(address, WORDS)

    table = pointed(word(this, DATA))
    refuse = function.append_basic_block("refuse")

    def demand(condition: Any) -> None:
        passed = function.append_basic_block("passed")
        builder.cbranch(condition, passed, refuse)
        builder.position_at_end(passed)

    biased = builder.icmp_signed("==", count, I64(3))
    demand(builder.or_(biased, builder.icmp_signed("==", count, I64(2))))
    a, b = pointed(word(arguments, 0)), pointed(word(arguments, 1))
    for x in (a, b):
        demand(builder.icmp_signed("==", word(x, 1), word(table, plans.NDARRAY)))
        demand(builder.icmp_signed("==", builder.trunc(word(x, DIMENSIONS), I32), I32(2)))
    demand(builder.icmp_signed("==", word(a, DTYPE), word(b, DTYPE)))
    a_lengths, b_lengths = pointed(word(a, LENGTHS)), pointed(word(b, LENGTHS))
    m, k, inner, n = (word(lengths, i) for lengths in (a_lengths, b_lengths) for i in (0, 1))
    demand(builder.icmp_signed("==", k, inner))
    for length in (m, k, n):
        demand(builder.icmp_signed("<=", length, I64(plans.SMALL)))
    single = builder.icmp_signed("==", word(a, DTYPE), word(table, plans.SINGLE))
    double = builder.icmp_signed("==", word(a, DTYPE), word(table, plans.DOUBLE))
    demand(builder.or_(single, double))
    gemm = builder.select(single, word(table, plans.SINGLE_GEMM), word(table, plans.DOUBLE_GEMM))
    demand(builder.icmp_signed("!=", gemm, I64(0)))  # is compiled

    size = builder.select(single, I64(4), I64(8))
    checks = function.append_basic_block("checks")
    ready = function.append_basic_block("ready")
    start = builder.block
    builder.cbranch(biased, checks, ready)
    builder.position_at_end(checks)
    bias = pointed(word(arguments, 2))
    demand(builder.icmp_signed("==", word(bias, 1), word(table, plans.NDARRAY)))
    demand(builder.icmp_signed("==", builder.trunc(word(bias, DIMENSIONS), I32), I32(1)))
    demand(builder.icmp_signed("==", word(bias, DTYPE), word(a, DTYPE)))
    demand(builder.icmp_signed("==", word(pointed(word(bias, LENGTHS)), 0), n))
    demand(builder.icmp_signed("==", word(pointed(word(bias, STRIDES)), 0), size))
    bias_data = word(bias, DATA)
    checked = builder.block
    builder.branch(ready)
    builder.position_at_end(ready)
    added = builder.phi(I64)
    added.add_incoming(I64(0), start)
    added.add_incoming(bias_data, checked)

    lengths = builder.alloca(I64, 2)
    builder.store(m, lengths)
    builder.store(n, builder.gep(lengths, [I64(1)]))
    new = builder.inttoptr(word(table, plans.PYARRAY_NEW), ir.PointerType(NEW))
    number = builder.select(single, I32(11), I32(12))  # NPY_FLOAT, NPY_DOUBLE
    given = [word(table, plans.NDARRAY), I32(2), lengths, number, I64(0), I64(0), I32(0), I32(0), I64(0)]
    result = builder.call(new, given)
    with builder.if_then(builder.icmp_signed("==", result, I64(0)), likely=False):
        builder.ret(result)
    c = word(pointed(result), DATA)
    slots = builder.alloca(I64, 6)
    plan, added = word(table, plans.PLAN), builder.select(biased, added, c)
    for i, value in enumerate((builder.ptrtoint(a, I64), builder.ptrtoint(b, I64), c, added, c, plan)):
        builder.store(value, builder.gep(slots, [I64(i)]))
    builder.call(builder.inttoptr(gemm, ir.PointerType(CHUNK)), [slots, I64(0)])
    builder.ret(result)

    builder.position_at_end(refuse)
    count_up = builder.inttoptr(word(table, plans.INCREF), ir.PointerType(ir.FunctionType(ir.VoidType(), [I64])))
    builder.call(count_up, [word(table, plans.REFUSAL)])
    builder.ret(word(table, plans.REFUSAL))

    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    return bytes(machine.emit_object(llvm.parse_assembly(str(module))))
