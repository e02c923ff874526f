"""Gradients checked, with no tolerance to tune: is a derivative right, everywhere, and if not, which line is guilty?

`check` compares the derivatives of a function of Tensors with an oracle that knows its own error, `check_vjp` does so
for a hand-written gradient on plain NumPy arrays, `blame` finds the guilty operation of a computation. These need NumPy
alone. `strategies`, `op_suite`, `gradcheck` and `mutants` are for tests with Hypothesis and pytest, and are loaded when
they are first used.

Read `numeric` (derivatives with error bars), `subject` (what is checked), `probes`, `oracle`, `judge`, `check`,
`blame`; then `strategies`, `suite`, `mutants`, `plugin`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minigrad.testing.blame import Blame, blame
from minigrad.testing.check import GradientError, assert_gradients, check, check_call, check_vjp
from minigrad.testing.mutants import mutants
from minigrad.testing.report import Finding, Report
from minigrad.testing.subject import Call

if TYPE_CHECKING:
    from minigrad.testing import strategies
    from minigrad.testing.suite import gradcheck, op_suite

_LAZY = {"gradcheck": "suite", "op_suite": "suite", "strategies": ""}

__all__ = [
    "Blame",
    "Call",
    "Finding",
    "GradientError",
    "Report",
    "assert_gradients",
    "blame",
    "check",
    "check_call",
    "check_vjp",
    "gradcheck",
    "mutants",
    "op_suite",
    "strategies",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'minigrad.testing' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"minigrad.testing.{_LAZY[name] or name}")
    except ModuleNotFoundError as error:
        if error.name not in ("hypothesis", "pytest"):
            raise
        needed = f"minigrad.testing.{name} needs {error.name}: pip install 'minigrad[testing]'"
        raise ModuleNotFoundError(needed, name=error.name) from None
    return getattr(module, name) if _LAZY[name] else module


def __dir__() -> list[str]:
    return __all__
