"""Elementwise operations: arithmetic, powers, exponentials, trigonometry, comparisons, choices, rounding.

They broadcast as NumPy does; the engine sums each cotangent over the axes that broadcasting copied. Where there is a
kink the rule takes a valid subgradient, which the record states. The forms of the rules are chosen so that no digit is
lost in float32, in the tails neither.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from minigrad.core.adjoint import add, cast
from minigrad.core.op import Op
from minigrad.core.value import Value
from minigrad.kernels import elementwise as kernels
from minigrad.kernels.dispatch import NEVER

POSITIVE = (0.0, inf)

subtract = Op(
    "subtract",
    np.subtract,
    vjp={"a": lambda g: g, "b": lambda g: -g},
    kind="elementwise",
    formula="y = a - b,  ā = ȳ,  b̄ = -ȳ",
    doc="Subtract, elementwise, with broadcasting.",
)

multiply = Op(
    "multiply",
    np.multiply,
    vjp={"a": lambda g, b: g * b, "b": lambda g, a: g * a},
    kind="elementwise",
    formula="y = a·b,  ā = ȳ·b,  b̄ = ȳ·a",
    doc="Multiply, elementwise, with broadcasting.",
)

divide = Op(
    "divide",
    np.true_divide,
    vjp={"a": lambda g, b: g / b, "b": lambda g, a, b: -(g * over_square(a, b))},
    kind="elementwise",
    formula="y = a/b,  ā = ȳ/b,  b̄ = -ȳ·a/b²",
    domain={"b": POSITIVE},
    doc="Divide, elementwise, with broadcasting; integers give float64.",
)


def _over_square(a: Any, b: Any) -> np.ndarray:
    """a/b² as (a/b)/b, since b² may overflow; in float64 where a/b may have lost its digits among the denormals."""
    y = np.asarray(np.divide(np.divide(a, b), b))
    if y.dtype == np.float32 and np.any(lost := np.abs(a) < np.finfo(np.float32).tiny):
        with np.errstate(over="ignore"):  # as in float32
            y = np.where(lost, np.divide(a, np.square(b, dtype=np.float64)).astype(np.float32), y)
    return y


over_square = Op(
    "over_square",
    _over_square,
    vjp={"a": lambda g, b: over_square(g, b), "b": lambda g, y, b: g * (-2.0 * y / b)},
    kind="elementwise",
    formula="y = a/b²,  ā = ȳ/b²,  b̄ = -2ȳ·y/b",
    domain={"b": POSITIVE},
)

negative = Op(
    "negative",
    np.negative,
    vjp={"x": lambda g: -g},
    kind="linear",
    formula="y = -x,  x̄ = -ȳ",
    doc="Negate, elementwise.",
)


def _wide(x: Any) -> Any:
    """An array in float64, where powers of float32 neither overflow nor lose digits; a scalar as it is."""
    return x if isinstance(x, (int, float)) else cast(x, dtype=np.dtype(np.float64))


def _base_vjp(g: Any, a: Any, b: Any) -> Any:
    a, b = _wide(a), _wide(b)
    return g * where(equal(b, 0.0), 0.0, b * _power(a, b - 1.0))


def _exponent_vjp(g: Any, a: Any, b: Any) -> Any:
    a = _wide(a)
    return g * (_power(a, _wide(b)) * log(where(equal(a, 0.0), 1.0, a)))


_power = Op(
    "power",
    np.power,
    vjp={"a": _base_vjp, "b": _exponent_vjp},
    kind="elementwise",
    formula="y = aᵇ,  ā = ȳ·b·aᵇ⁻¹,  b̄ = ȳ·y·log a",
    domain={"a": POSITIVE},
    undifferentiable="in b at a = 0: 0 is taken",
)


def _constant_power_vjp(g: Any, x: Any, y: Any, exponent: float) -> Any:
    """ȳ·n·xⁿ⁻¹, written so that no factor is rounded among the denormals and then magnified."""
    if exponent in (0, 1):
        return g * float(exponent)
    if exponent < 0:
        return g * (exponent * y / x)
    return g * (exponent * x * pow(x, exponent - 2) if exponent >= 2 else exponent * pow(x, exponent - 1))


_constant_power = Op(
    "constant_power",
    lambda x, *, exponent: np.power(x, exponent),
    vjp={"x": _constant_power_vjp},
    kind="elementwise",
    formula="y = xⁿ,  x̄ = ȳ·n·xⁿ⁻¹",
    domain={"x": POSITIVE},
)


def pow(a: Any, b: Any) -> Any:
    """Raise a to the power b, elementwise, with broadcasting.

    The gradient with respect to b is defined for a > 0, taken as 0 at a = 0, and nan for negative a.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([1.0, 2.0], requires_grad=True)
        >>> (x**3).sum().backward()
        >>> x.grad.data
        array([ 3., 12.])
    """
    if isinstance(b, np.generic):
        b = b.item()
    if isinstance(b, (int, float)) and isinstance(a, (Value, np.ndarray)):
        return square(a) if b == 2 else _constant_power(a, exponent=b)
    return _power(a, b)


square = Op(
    "square",
    np.square,
    vjp={"x": lambda g, x: g * (x + x)},
    kind="elementwise",
    formula="y = x²,  x̄ = ȳ·2x",
    doc="Square, elementwise.",
)

sqrt = Op(
    "sqrt",
    np.sqrt,
    vjp={"x": lambda g, y: g / (y + y)},
    kind="elementwise",
    formula="y = √x,  x̄ = ȳ/(2y)",
    domain={"x": POSITIVE},
    doc="Square root, elementwise; its slope at 0 is infinite.",
)

rsqrt = Op(
    "rsqrt",
    lambda x: 1.0 / np.sqrt(x),
    vjp={"x": lambda g, y, x: g * (-0.5 * y / x)},
    kind="elementwise",
    formula="y = 1/√x,  x̄ = -ȳ·y/(2x)",
    domain={"x": POSITIVE},
    doc="One over the square root, elementwise.",
)

abs = Op(
    "abs",
    np.abs,
    vjp={"x": lambda g, x: g * sign(x)},
    kind="elementwise",
    formula="y = |x|,  x̄ = ȳ·sign x",
    undifferentiable="x = 0: the subgradient 0 is taken",
    doc="Absolute value, elementwise; its gradient at 0 is taken as 0.",
)

exp = Op(
    "exp",
    np.exp,
    vjp={"x": lambda g, y: g * y},
    kernels={"y": (kernels.exp, 2048, 4096)},
    kind="elementwise",
    formula="y = exp x,  x̄ = ȳ·y",
    doc="Exponential, elementwise.",
)

expm1 = Op(
    "expm1",
    np.expm1,
    vjp={"x": lambda g, x: g * exp(x)},  # not y + 1, which loses every digit for x << 0
    kernels={"y": (kernels.expm1, 4096, 1024)},
    kind="elementwise",
    formula="y = exp(x) - 1,  x̄ = ȳ·exp x",
    doc="exp(x) - 1 without cancellation near 0, elementwise.",
)

log = Op(
    "log",
    np.log,
    vjp={"x": lambda g, x: g / x},
    kernels={"y": (kernels.log, 4096)},
    kind="elementwise",
    formula="y = log x,  x̄ = ȳ/x",
    domain={"x": POSITIVE},
    doc="Natural logarithm, elementwise.",
)

log1p = Op(
    "log1p",
    np.log1p,
    vjp={"x": lambda g, x: g / (1.0 + x)},
    kernels={"y": (kernels.log1p, NEVER)},
    kind="elementwise",
    formula="y = log(1 + x),  x̄ = ȳ/(1 + x)",
    domain={"x": (-1.0, inf)},
    doc="log(1 + x) without cancellation near 0, elementwise.",
)

sin = Op(
    "sin",
    np.sin,
    vjp={"x": lambda g, x: g * cos(x)},
    kernels={"y": (kernels.sin, NEVER, 512)},
    kind="elementwise",
    formula="y = sin x,  x̄ = ȳ·cos x",
    doc="Sine, elementwise; x in radians.",
)

cos = Op(
    "cos",
    np.cos,
    vjp={"x": lambda g, x: -(g * sin(x))},
    kernels={"y": (kernels.cos, NEVER, 512)},
    kind="elementwise",
    formula="y = cos x,  x̄ = -ȳ·sin x",
    doc="Cosine, elementwise; x in radians.",
)

sinh = Op(
    "sinh",
    np.sinh,
    vjp={"x": lambda g, x: g * cosh(x)},
    kind="elementwise",
    formula="y = sinh x,  x̄ = ȳ·cosh x",
    doc="Hyperbolic sine, elementwise.",
)

cosh = Op(
    "cosh",
    np.cosh,
    vjp={"x": lambda g, x: g * sinh(x)},
    kind="elementwise",
    formula="y = cosh x,  x̄ = ȳ·sinh x",
    doc="Hyperbolic cosine, elementwise.",
)

equal = Op("equal", np.equal, formula="y = (a = b)", doc="Whether a = b, elementwise.")
not_equal = Op("not_equal", np.not_equal, formula="y = (a ≠ b)", doc="Whether a ≠ b, elementwise.")
less = Op("less", np.less, formula="y = (a < b)", doc="Whether a < b, elementwise.")
less_equal = Op("less_equal", np.less_equal, formula="y = (a ≤ b)", doc="Whether a ≤ b, elementwise.")
greater = Op("greater", np.greater, formula="y = (a > b)", doc="Whether a > b, elementwise.")
greater_equal = Op("greater_equal", np.greater_equal, formula="y = (a ≥ b)", doc="Whether a ≥ b, elementwise.")
logical_and = Op("logical_and", np.logical_and, formula="y = a ∧ b", doc="Whether a and b are true, elementwise.")
logical_or = Op("logical_or", np.logical_or, formula="y = a ∨ b", doc="Whether a or b is true, elementwise.")
logical_not = Op("logical_not", np.logical_not, formula="y = ¬x", doc="Whether x is false, elementwise.")
isfinite = Op("isfinite", np.isfinite, formula="y = (x is finite)", doc="Whether x is finite, elementwise.")
isnan = Op("isnan", np.isnan, formula="y = (x is nan)", doc="Whether x is nan, elementwise.")

maximum = Op(
    "maximum",
    np.maximum,
    vjp={
        "a": lambda g, a, b: where(greater(a, b), g, where(equal(a, b), 0.5 * g, 0.0)),
        "b": lambda g, a, b: where(greater(b, a), g, where(equal(a, b), 0.5 * g, 0.0)),
    },
    kind="elementwise",
    formula="y = max(a, b),  ȳ goes to the larger",
    undifferentiable="a = b: each gets half",
    doc="The larger of a and b, elementwise; in a tie each gets half of the cotangent.",
)

minimum = Op(
    "minimum",
    np.minimum,
    vjp={
        "a": lambda g, a, b: where(less(a, b), g, where(equal(a, b), 0.5 * g, 0.0)),
        "b": lambda g, a, b: where(less(b, a), g, where(equal(a, b), 0.5 * g, 0.0)),
    },
    kind="elementwise",
    formula="y = min(a, b),  ȳ goes to the smaller",
    undifferentiable="a = b: each gets half",
    doc="The smaller of a and b, elementwise; in a tie each gets half of the cotangent.",
)


def clip(x: Any, min: Any = None, max: Any = None) -> Any:
    """x limited to [min, max], elementwise; None leaves a side open. At a bound each of x and the bound gets half.

    Example:
        >>> import minigrad as mg
        >>> mg.clip(mg.Tensor([-2.0, 0.5, 3.0]), 0.0, 1.0).data
        array([0. , 0.5, 1. ])
    """
    if min is None and max is None:
        raise ValueError("clip: expected min or max, got neither")
    low = x if min is None else maximum(x, min)
    return low if max is None else minimum(low, max)


where = Op(
    "where",
    lambda condition, a, b: np.where(condition, a, b),
    vjp={
        "a": lambda g, condition: where(condition, g, 0.0),
        "b": lambda g, condition: where(condition, 0.0, g),
    },
    kind="elementwise",
    formula="y = a where the condition holds, else b;  ȳ goes to the one taken",
    doc="a where the condition holds, else b, elementwise, with broadcasting.",
)


def _piecewise_constant(name: str, forward: Any, formula: str, doc: str) -> Op:
    """An operation whose derivative is 0 wherever there is one."""
    return Op(
        name,
        forward,
        vjp={"x": lambda g: g * 0.0},
        kind="elementwise",
        formula=f"y = {formula},  x̄ = 0",
        undifferentiable="where it jumps: 0 is taken",
        doc=doc,
    )


sign = _piecewise_constant("sign", np.sign, "sign x", "-1, 0 or 1, elementwise; its gradient is 0.")
floor = _piecewise_constant("floor", np.floor, "⌊x⌋", "The next integer below, elementwise; its gradient is 0.")
ceil = _piecewise_constant("ceil", np.ceil, "⌈x⌉", "The next integer above, elementwise; its gradient is 0.")
round = _piecewise_constant(
    "round", np.rint, "x rounded to even", "The nearest integer, halves to even, elementwise; its gradient is 0."
)

__all__ = [
    "abs",
    "add",
    "ceil",
    "clip",
    "cos",
    "cosh",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "greater",
    "greater_equal",
    "isfinite",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "logical_and",
    "logical_not",
    "logical_or",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "pow",
    "round",
    "rsqrt",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "where",
]
