"""minigrad: an autograd engine to read, to trust and to use.

The names here are the public ones. `Tensor` computes and remembers, `Tensor.backward` and `grad` differentiate, `Op`
declares operations; `nn`, `optim`, `random`, `data`, `io`, `testing`, `compile`, `explain` and `profile` are loaded
when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from minigrad import kernels, ops
from minigrad.anomaly import detect_anomaly
from minigrad.checkpoint import checkpoint
from minigrad.core.mode import debug, enable_grad, grad_enabled, no_grad
from minigrad.core.op import Op
from minigrad.creation import arange, eye, full, linspace, ones, zeros
from minigrad.ops import *  # noqa: F403
from minigrad.tape import Tape, record
from minigrad.tensor import Tensor, from_numpy
from minigrad.transforms import (
    grad,
    hessian,
    hvp,
    jacobian,
    jvp,
    stop_gradient,
    value_and_grad,
    vjp,
)

if TYPE_CHECKING:
    from minigrad import data, io, nn, optim, random, testing, trees
    from minigrad.compiler.compile import compile
    from minigrad.explainer.profile import profile
    from minigrad.explainer.story import explain

_LAZY = ("data", "io", "nn", "optim", "random", "testing", "trees")

__version__ = "0.1.0"
__all__ = [
    "Op",
    "Tape",
    "Tensor",
    "arange",
    "checkpoint",
    "compile",
    "data",
    "debug",
    "detect_anomaly",
    "enable_grad",
    "explain",
    "eye",
    "from_numpy",
    "full",
    "grad",
    "grad_enabled",
    "hessian",
    "hvp",
    "io",
    "jacobian",
    "jvp",
    "kernels",
    "linspace",
    "nn",
    "no_grad",
    "ones",
    "optim",
    "profile",
    "random",
    "record",
    "stop_gradient",
    "testing",
    "trees",
    "value_and_grad",
    "vjp",
    "zeros",
    *ops.__all__,
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"minigrad.{name}")
    if name == "compile":
        return importlib.import_module("minigrad.compiler.compile").compile
    if name == "explain":
        return importlib.import_module("minigrad.explainer.story").explain
    if name == "profile":
        return importlib.import_module("minigrad.explainer.profile").profile
    raise AttributeError(f"module 'minigrad' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
