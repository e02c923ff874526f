"""Numba functions as machine code: compiled once, kept on disk, and called from Python without Numba.

What runs is a plain function of addresses and numbers. Around it goes an entry that Python calls directly
(METH_FASTCALL): it takes the arrays' data pointers out of the arguments, lets other Python threads run, and calls the
function once for each chunk of the work, here or on the threads of the pool. That costs a tenth of a microsecond.
With a warm cache neither Numba nor LLVM nor the kernels' sources are imported: `linking` takes the object code that was
kept to memory.

The entry trusts its caller: the functions in the modules of `minigrad.kernels` check shapes, dtypes and strides.
"""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import RLock
from typing import Any

import numpy as np

from minigrad.kernels import linking, store
from minigrad.kernels.control import control

# Held by who compiles or links, and by who forks: so a child never inherits half of it.
_building = RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_building.acquire, after_in_parent=_building.release, after_in_child=_building.release)

REALS = {np.dtype(np.float32): "float32", np.dtype(np.float64): "float64"}


@dataclass(frozen=True)
class Source:
    """A Numba function, and its arguments: 'real*', 'int64*', 'uint8*' (arrays), 'real', 'int' (numbers), in a row.

    Of an 'array' it gets not the data but the whole struct of NumPy, as words of 8 bytes. 'real**' is a tuple of
    arrays, of which `code.entry.data_of` gives one.

    After these the function gets the number of the chunk that it is to do, from 0.
    """

    function: Callable[..., None]
    arguments: str


class Kernel(dict[Any, Callable[..., None]]):
    """One kernel for each dtype: `kernel[x.dtype](x, y, n, chunks)`, compiled or loaded when it is first asked for.

    Args:
        module: of `minigrad.kernels.code`, where `SOURCES[name]` is its Source.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def _symbol(self, dtype: np.dtype[Any]) -> str:
        return f"{self.module}_{self.name}_{REALS[dtype]}"

    def __missing__(self, dtype: np.dtype[Any]) -> Callable[..., None]:
        with _building:
            if dtype not in self:
                symbol = self._symbol(dtype)
                code = store.fetch(symbol, lambda: self._compiled(symbol, REALS[dtype]))
                self[dtype] = _callable(symbol, code)
            return self[dtype]

    def _compiled(self, symbol: str, real: str) -> bytes:
        source = importlib.import_module(f"minigrad.kernels.code.{self.module}").SOURCES[self.name]
        return object_code(symbol, source, real)

    def chunk_function(self, dtype: np.dtype[Any]) -> int:
        """The address of `void (int64 *slots, int64 chunk)`, for other machine code to call."""
        self[dtype]  # is linked, if it was not
        return _address(self._symbol(dtype) + "_chunk")


def plain_function(module: str, this: Any) -> Callable[..., Any]:
    """A function that has no Numba in it, and no entry around it: its module's `object_code(name)` makes all of it.

    It is `PyObject *name(PyObject *this, PyObject **arguments, Py_ssize_t count)`, its name that of the module.
    """
    with _building:
        if module not in _plain:
            source = f"minigrad.kernels.code.{module}"
            code = store.fetch(module, lambda: importlib.import_module(source).object_code(module))
            _plain[module] = _callable(module, code, this)
        return _plain[module]


_plain: dict[str, Callable[..., Any]] = {}


def function_address(name: str, code: Callable[[], bytes]) -> int:
    """The address of a function that other machine code is to call, compiled or loaded when it is first asked for.

    Args:
        name: of the function, which says all about it: where it is kept, or linked, `code` is not called.
        code: makes the machine code.
    """
    with _building:
        if name not in _functions:
            _functions[name] = _linked(name, store.fetch(name, code))
        return _functions[name]


_functions: dict[str, int] = {}


@cache
def vector_bytes() -> int:
    """How many bytes a vector of this processor has. It is kept like code, since LLVM has to be asked."""

    def asked() -> bytes:
        from minigrad.kernels.simd import WIDTH

        return str(WIDTH).encode()

    return int(store.fetch("vector_bytes", asked))


def object_code(symbol: str, source: Source, real: str) -> bytes:
    """Machine code of a kernel, with its entry under this name."""
    from numba import types
    from numba.core import compiler, compiler_lock
    from numba.core.registry import cpu_target

    from minigrad.kernels.code.entry import add_entry

    kinds = source.arguments.split()
    scalars = {"real": getattr(types, real), "int": types.int64, "int64": types.int64, "uint8": types.uint8}
    scalars["array"] = types.CPointer(types.int64)
    typed = [scalars[k.rstrip("*")] for k in kinds]
    for star in ("*", "**"):
        typed = [types.CPointer(t) if k.endswith(star) else t for k, t in zip(kinds, typed, strict=True)]
    flags = compiler.Flags()
    cpu_target.options.parse_as_flags(flags, {"error_model": "numpy"})
    flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    flags.no_compile = True  # not before the entry is in the same library: LLVM would do everything twice
    context, given = cpu_target.target_context, (*typed, types.int64)
    with compiler_lock.global_compiler_lock:
        result = compiler.compile_extra(
            cpu_target.typing_context, context, source.function, given, types.void, flags, {}
        )
        library = result.library
        module = library.create_ir_module(symbol)
        add_entry(module, symbol, context, result, kinds)
        library.add_ir_module(module)
        library.get_function(result.fndesc.mangled_name).linkage = "internal"
        library.finalize()
        return bytes(library._get_compiled_object())


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("method", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


_FASTCALL = 0x80
_definitions: list[_MethodDef] = []  # CPython keeps a pointer to each


def _linked(symbol: str, code: bytes) -> int:
    """The address of a function of object code, once its references are resolved."""
    found = linking.link(code)
    if found is None:
        import llvmlite.binding as llvm

        _llvm().add_object_file(llvm.ObjectFileRef.from_data(code))
        _llvm().finalize_object()
    _addresses.update(found or {})
    return _address(symbol)


_addresses: dict[str, int] = {}  # of what was linked without LLVM


def _address(symbol: str) -> int:
    return _addresses.get(symbol) or int(_llvm().get_function_address(symbol))


@cache
def _llvm() -> Any:
    """LLVM's linker, which lives as long as the process."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    for name in FROM_PYTHON:
        llvm.add_symbol(name, ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value)
    machine = llvm.Target.from_default_triple().create_target_machine()
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


FROM_PYTHON = (
    "PyEval_SaveThread",
    "PyEval_RestoreThread",
    "PyLong_AsSsize_t",
    "PyFloat_AsDouble",
    "Py_IncRef",
    "Py_DecRef",
    "PyObject_Vectorcall",
    "PyErr_Occurred",
    "PyObject_CallNoArgs",
    "PyThread_acquire_lock",
    "PyThread_release_lock",
    "_Py_NoneStruct",
)


def _callable(symbol: str, code: bytes, this: Any = control) -> Callable[..., Any]:
    """Object code as a Python function; `this` is passed to it first."""
    definition = _MethodDef(symbol.encode(), _linked(symbol, code), _FASTCALL, None)
    _definitions.append(definition)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.py_object)
    function: Callable[..., Any] = make(ctypes.addressof(definition), this, None)
    return function
