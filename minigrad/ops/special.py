"""Special functions: erf and erfc.

Their forward goes through the C library's double-precision functions, element by element: exact to rounding in
float32, and as accurate as the platform's in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.core.op import Op
from minigrad.kernels import elementwise as kernels
from minigrad.ops.elementwise import exp, square

TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)


def _by_element(f: Callable[[float], float]) -> Callable[[Any], np.ndarray]:
    """A function of floats as one of arrays."""
    elements = np.frompyfunc(f, 1, 1)

    def forward(x: Any) -> np.ndarray:
        if not isinstance(x, (np.ndarray, np.generic, float, int)):  # a tracer of the compiler, which knows it by name
            return elements(x)
        x = np.asarray(x)
        dtype = x.dtype if x.dtype.kind == "f" else np.float64
        return np.asarray(elements(x)).astype(dtype)

    return forward


def _gauss(g: Any, x: Any) -> Any:
    """ȳ·2/√π·exp(-x²), its exponential in two halves: the whole one would round twice among the denormals."""
    half = exp(-0.5 * square(x))
    return g * (TWO_OVER_SQRT_PI * half * half)


erf = Op(
    "erf",
    _by_element(math.erf),
    vjp={"x": _gauss},
    kernels={"y": (kernels.erf, 1), "x": (kernels.erf_vjp, 1)},
    kind="elementwise",
    formula="y = 2/√π ∫₀ˣ exp(-t²) dt,  x̄ = ȳ·2/√π·exp(-x²)",
    doc="The error function, elementwise.",
)

erfc = Op(
    "erfc",
    _by_element(math.erfc),
    vjp={"x": lambda g, x: -_gauss(g, x)},
    kernels={"y": (kernels.erfc, 1)},
    kind="elementwise",
    formula="y = 1 - erf x,  x̄ = -ȳ·2/√π·exp(-x²)",
    doc="One minus the error function, elementwise, without cancellation for large x.",
)

__all__ = ["erf", "erfc"]
