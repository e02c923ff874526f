"""The product of two matrices as one function that Python calls: for small ones Python's checks would take longer.

`PyObject *product(PyObject *table, PyObject **arguments, Py_ssize_t count)` takes a, b, a bias or None, and the name of
an activation or None, and returns a new array. It returns NotImplemented if a and b are not two matrices of one of the
dtypes that fit, if the bias is no contiguous vector that does, or if there is no plan yet: for matrices of at most
SMALL rows and columns none is needed, for others `minigrad.kernels.matmul` keeps it in a row of its own table.

A small product keeps Python's lock: to release it takes longer, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from minigrad.kernels import matmul as plans
from minigrad.kernels.control import THREADS

I32, I64 = ir.IntType(32), ir.IntType(64)
WORDS = ir.PointerType(I64)
HEAD = object.__basicsize__ // 8  # words of 8 bytes; the first is the count of references, the second the type
DATA, DIMENSIONS, LENGTHS, STRIDES, DTYPE = HEAD, HEAD + 1, HEAD + 2, HEAD + 3, HEAD + 5  # of NumPy's array struct
BYTES, SINGLES, DOUBLES = I32(2), I32(11), I32(12)  # NPY_UBYTE, NPY_FLOAT, NPY_DOUBLE
NEW = ir.FunctionType(I64, [I64, I32, WORDS, I32, I64, I64, I32, I32, I64])  # PyArray_New
SET_HANDLER = ir.FunctionType(I64, [I64])  # PyDataMem_SetHandler
CHUNK = ir.FunctionType(ir.VoidType(), [WORDS, I64])


class _Writer:
    """A function that is written, which returns NotImplemented unless all that it demands is so."""

    def __init__(self, symbol: str):
        self.module = ir.Module(symbol)
        self.module.triple = llvm.get_process_triple()
        self.function = ir.Function(self.module, ir.FunctionType(I64, [WORDS, WORDS, I64]), symbol)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.refuse = self.function.append_basic_block("refuse")
        this, self.arguments, self.count = self.function.args
        self.table = self.pointed(self.word(this, DATA))

    def word(self, words: Any, i: int) -> Any:
        return self.builder.load(self.builder.gep(words, [I64(i)]))

    def pointed(self, address: Any, to: Any = I64) -> Any:
        return self.builder.inttoptr(address, ir.PointerType(to))

    def equal(self, a: Any, b: Any) -> Any:
        return self.builder.icmp_signed("==", a, b)

    def demand(self, condition: Any) -> None:
        passed = self.function.append_basic_block("passed")
        self.builder.cbranch(condition, passed, self.refuse)
        self.builder.position_at_end(passed)

    def listed(self, *values: Any) -> Any:
        """The address of these values in a row."""
        with self.builder.goto_entry_block():
            row = self.builder.alloca(I64, len(values))
        for i, value in enumerate(values):
            self.builder.store(value, self.builder.gep(row, [I64(i)]))
        return row

    def call(self, name: str, *values: Any) -> Any:
        """Call a function of Python that takes and returns words."""
        if name not in self.module.globals:
            ir.Function(self.module, ir.FunctionType(I64, [v.type for v in values]), name)
        return self.builder.call(self.module.get_global(name), values)

    def unless_null(self, result: Any, otherwise: Callable[[], Any] = lambda: None) -> Any:
        """The result; without one there is an exception, which is passed on."""
        with self.builder.if_then(self.equal(result, I64(0)), likely=False):
            otherwise()
            self.builder.ret(I64(0))
        return result

    def new_array(self, number: Any, *lengths: Any) -> Any:
        """A new array of these lengths, and of numbers that have this number."""
        new = self.pointed(self.word(self.table, plans.PYARRAY_NEW), NEW)
        kind, zero = self.word(self.table, plans.NDARRAY), I64(0)
        given = [kind, I32(len(lengths)), self.listed(*lengths), number, zero, zero, I32(0), I32(0), zero]
        return self.builder.call(new, given)


def object_code(symbol: str) -> bytes:
    """Its machine code."""
    w = _Writer(symbol)
    builder, table, word, pointed, equal, demand = w.builder, w.table, w.word, w.pointed, w.equal, w.demand
    demand(equal(w.count, I64(4)))
    a, b, bias, activation = (word(w.arguments, i) for i in range(4))
    a_words, b_words = pointed(a), pointed(b)
    none = word(table, plans.NONE)
    for x in (a_words, b_words):
        demand(equal(word(x, 1), word(table, plans.NDARRAY)))
        demand(equal(builder.trunc(word(x, DIMENSIONS), I32), I32(2)))
    dtype = word(a_words, DTYPE)
    demand(equal(dtype, word(b_words, DTYPE)))
    a_lengths, b_lengths = pointed(word(a_words, LENGTHS)), pointed(word(b_words, LENGTHS))
    m, k, inner, n = (word(lengths, i) for lengths in (a_lengths, b_lengths) for i in (0, 1))
    demand(equal(k, inner))
    single, double = equal(dtype, word(table, plans.SINGLE)), equal(dtype, word(table, plans.DOUBLE))
    demand(builder.or_(single, double))
    number = builder.select(single, SINGLES, DOUBLES)

    biased = builder.icmp_signed("!=", bias, none)
    with builder.if_then(biased):
        vector = pointed(bias)
        demand(equal(word(vector, 1), word(table, plans.NDARRAY)))
        demand(equal(builder.trunc(word(vector, DIMENSIONS), I32), I32(1)))
        demand(equal(word(vector, DTYPE), dtype))
        demand(equal(word(pointed(word(vector, LENGTHS)), 0), n))
        demand(equal(word(pointed(word(vector, STRIDES)), 0), builder.select(single, I64(4), I64(8))))

    small = equal(activation, none)
    for length in (m, k, n):
        small = builder.and_(small, builder.icmp_signed("<=", length, I64(plans.SMALL)))
    with builder.if_then(small):
        gemm = builder.select(single, word(table, plans.SINGLE_GEMM), word(table, plans.DOUBLE_GEMM))
        demand(builder.icmp_signed("!=", gemm, I64(0)))  # is compiled
        result = w.unless_null(w.new_array(number, m, n))
        c, added = word(pointed(result), DATA), word(pointed(builder.select(biased, bias, result)), DATA)
        slots = w.listed(a, b, c, added, c, word(table, plans.NO_PLAN))
        builder.call(pointed(gemm, CHUNK), [slots, I64(0)])
        builder.ret(result)

    strides = (word(pointed(word(x, STRIDES)), i) for x in (a_words, b_words) for i in (0, 1))
    key = [m, n, k, *strides, dtype, activation, word(pointed(word(table, plans.CONTROL)), THREADS)]
    mixed: Any = I64(0)
    for x in key:
        mixed = builder.mul(builder.xor(mixed, x), I64(plans.MIXER))
    place = builder.mul(builder.lshr(mixed, I64(64 - plans.PLAN_BITS)), I64(plans.PLAN_WORDS))
    row = builder.gep(pointed(word(table, plans.PLANS)), [place])
    for i, x in enumerate(key):
        demand(equal(word(row, i), x))
    function, plan, numbers, chunks, panel_bytes, handler = (word(row, i) for i in range(len(key), plans.PLAN_WORDS))
    w.call("Py_IncRef", plan)  # what runs until the end, by other threads or to free memory, may replace the row

    def forget(*references: Any) -> None:
        for reference in references:
            w.call("Py_DecRef", reference)

    set_handler = pointed(word(table, plans.SET_HANDLER), SET_HANDLER)
    before = w.unless_null(builder.call(set_handler, [handler]), lambda: forget(plan))
    result = w.new_array(number, m, n)
    forget(builder.call(set_handler, [before]), before)
    w.unless_null(result, lambda: forget(plan))
    panels = w.unless_null(w.new_array(BYTES, panel_bytes), lambda: forget(plan, result))
    given = w.listed(a, b, result, builder.select(biased, bias, result), panels, numbers, chunks)
    returned = w.call("PyObject_Vectorcall", function, builder.ptrtoint(given, I64), I64(7), I64(0))
    forget(plan, panels)
    w.unless_null(returned, lambda: forget(result))
    forget(returned)
    builder.ret(result)

    builder.position_at_end(w.refuse)
    w.call("Py_IncRef", word(table, plans.REFUSAL))
    builder.ret(word(table, plans.REFUSAL))

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=2)
    return bytes(machine.emit_object(llvm.parse_assembly(str(w.module))))
