"""Object code linked by `linking`, called, and what it leaves to LLVM."""

import ctypes
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from minigrad.kernels import linking, native

IR = """
declare double @sin(double)
@weights = internal constant [2 x double] [double 10.0, double 20.0]
@kept = global double 0.0
define internal double @scaled(double %x) noinline {
  %y = fmul double %x, 3.5
  ret double %y
}
define double @f(double %x) {
  %s = call double @sin(double %x)
  %y = call double @scaled(double %s)
  ret double %y
}
define double @weight(i64 %i) {
  %at = getelementptr [2 x double], [2 x double]* @weights, i64 0, i64 %i
  %w = load double, double* %at
  ret double %w
}
"""
ONLY_LINUX = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="elsewhere LLVM links"
)


def compiled(text: str, **options: str) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(**{"codemodel": "large", **options})
    return machine.emit_object(llvm.parse_assembly(text))


def without_variables(text: str = IR) -> str:
    return text.replace("@kept = global double 0.0\n", "")


def function(address: int, of: object = ctypes.c_double) -> Callable[[float], float]:
    return ctypes.CFUNCTYPE(ctypes.c_double, of)(address)


@ONLY_LINUX
@pytest.mark.parametrize("reloc", ["static", "pic"])
def test_constants_other_functions_and_those_of_the_process(reloc: str) -> None:
    found = linking.link(compiled(without_variables(), reloc=reloc))
    assert found is not None
    assert found.keys() == {"f", "weight"}
    assert function(found["f"])(1.25) == math.sin(1.25) * 3.5
    assert [function(found["weight"], ctypes.c_int64)(i) for i in (0, 1)] == [10.0, 20.0]


@ONLY_LINUX
@pytest.mark.parametrize(
    "code",
    [
        lambda: compiled(IR),  # a variable
        lambda: compiled(without_variables(), codemodel="small"),  # addresses of 32 bits
        lambda: compiled(without_variables().replace("@sin", "@no_such_function")),
        lambda: b"",
        lambda: b"\xcf\xfa\xed\xfe" + bytes(100),  # for macOS
        lambda: compiled(without_variables()).replace(linking.X86_64, b"\xb7\x00", 1),  # for another processor
    ],
)
def test_what_is_left_to_llvm(code: Callable[[], bytes]) -> None:
    assert linking.link(code()) is None


@ONLY_LINUX
def test_where_no_memory_may_become_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbids:
        mprotect = staticmethod(lambda *_: -1)
        sin = ctypes.PyDLL(None).sin

    monkeypatch.setattr(linking, "_process", Forbids)
    assert linking.link(compiled(without_variables())) is None


def test_llvm_links_what_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "link", lambda code: None)
    address = native.function_address(
        "test_linking.weight", lambda: compiled(IR.replace("@weight", "@test_linking.weight"))
    )
    assert function(address, ctypes.c_int64)(1) == 20.0


@ONLY_LINUX
def test_a_second_process_needs_neither_llvm_nor_numba(tmp_path: Path) -> None:
    script = (
        "import minigrad as mg, numpy as np, sys\n"
        "f = mg.compile(lambda x: mg.softmax(mg.tanh(x) @ x.T).sum(0))\n"
        "y = f(mg.Tensor(np.arange(32.0).reshape(8, 4) / 32))\n"
        "print(y.data.tobytes().hex(), {'llvmlite', 'numba'} & {name.partition('.')[0] for name in sys.modules})"
    )
    env = {**os.environ, "MINIGRAD_CACHE_DIR": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=300, check=True)
        for _ in range(2)
    )
    bits, _, loaded = second.stdout.partition(" ")
    assert (bits, loaded.strip()) == (first.stdout.partition(" ")[0], "set()")
