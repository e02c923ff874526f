"""Activation functions. Their rules keep their digits in the tails, where the usual forms lose them all in float32."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.core.op import Op
from minigrad.kernels import elementwise as kernels
from minigrad.ops.elementwise import exp, greater, maximum, minimum, square, where
from minigrad.ops.special import erfc


def _sech2(g: Any, x: Any) -> Any:
    c = np.cosh(x)
    y = g / c
    y /= c  # one by one: c² would overflow where g/c² is still a number
    return y


tanh = Op(
    "tanh",
    np.tanh,
    vjp={"x": lambda g, x: tanh_slope(g, x)},  # not 1 - y², which is 100 % wrong at x = 8.5 in float32
    fused={"x": _sech2},
    kernels={"y": (kernels.tanh, 65536, 512), "x": (kernels.tanh_vjp, 4096, 1024)},
    kind="elementwise",
    formula="y = tanh x,  x̄ = ȳ/cosh² x",
    doc="Hyperbolic tangent, elementwise.",
)

tanh_slope = Op(
    "tanh_slope",
    _sech2,
    vjp={"g": lambda g, x: tanh_slope(g, x), "x": lambda g, y, x: g * (-2.0 * y * tanh(x))},
    kind="elementwise",
    formula="y = g/cosh² x,  ḡ = ȳ/cosh² x,  x̄ = -2ȳ·y·tanh x",
    kernels={"y": (kernels.tanh_vjp, 4096, 1024)},
    domain={"x": (-300.0, 300.0)},
    doc="g times the slope of tanh at x, elementwise.",
)


def _sigmoid(x: Any) -> np.ndarray:
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(np.greater_equal(x, 0), 1.0, e) / (1.0 + e)


sigmoid = Op(
    "sigmoid",
    _sigmoid,
    vjp={"x": lambda g, y, x: g * (y * sigmoid(-x))},  # not y(1 - y), which is 100 % wrong at x = 17 in float32
    kernels={"y": (kernels.sigmoid, 1), "x": (kernels.sigmoid_vjp, 1)},
    kind="elementwise",
    formula="y = σ(x) = 1/(1 + exp(-x)),  x̄ = ȳ·σ(x)·σ(-x)",
    doc="Logistic sigmoid, elementwise.",
)

softplus = Op(
    "softplus",
    lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    vjp={"x": lambda g, x: g * sigmoid(x)},
    kernels={"y": (kernels.softplus, 1), "x": (kernels.softplus_vjp, 1)},
    kind="elementwise",
    formula="y = log(1 + exp x),  x̄ = ȳ·σ(x)",
    doc="log(1 + exp(x)), elementwise, without overflow.",
)

relu = Op(
    "relu",
    lambda x: np.maximum(x, 0),
    vjp={"x": lambda g, y: where(greater(y, 0.0), g, 0.0)},  # y is there anyway: the next product keeps it
    kernels={"y": (kernels.relu, 1), "x": (kernels.relu_vjp, 64, 1024)},
    kind="elementwise",
    formula="y = max(x, 0),  x̄ = ȳ where x > 0",
    undifferentiable="x = 0: the subgradient 0 is taken",
    doc="max(x, 0), elementwise; its gradient at 0 is taken as 0.",
)

_leaky_relu = Op(
    "leaky_relu",
    lambda x, *, slope: np.where(np.greater(x, 0), x, slope * x),
    vjp={"x": lambda g, x, slope: where(greater(x, 0.0), g, slope * g)},
    kernels={"y": (kernels.leaky_relu, 1), "x": (kernels.leaky_relu_vjp, 1)},
    kind="elementwise",
    formula="y = x where x > 0, else slope·x",
    undifferentiable="x = 0: the subgradient `slope` is taken",
)


def leaky_relu(x: Any, slope: float = 0.01) -> Any:
    """x where x > 0, else slope·x, elementwise; at 0 the gradient is taken as `slope` (Maas et al. 2013).

    Example:
        >>> import minigrad as mg
        >>> mg.leaky_relu(mg.Tensor([-1.0, 2.0]), slope=0.1).data
        array([-0.1,  2. ])
    """
    return _leaky_relu(x, slope=slope)


_elu = Op(
    "elu",
    lambda x, *, alpha: np.where(np.greater(x, 0), x, alpha * np.expm1(np.minimum(x, 0))),
    vjp={"x": lambda g, x, alpha: where(greater(x, 0.0), g, g * (alpha * exp(minimum(x, 0.0))))},
    kernels={"y": (kernels.elu, 1), "x": (kernels.elu_vjp, 1)},
    kind="elementwise",
    formula="y = x where x > 0, else α(exp x - 1);  x̄ = ȳ, or ȳ·α·exp x",
    undifferentiable="x = 0 unless α = 1: the subgradient α is taken",
)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """x where x > 0, else alpha·(exp(x) - 1), elementwise (Clevert et al. 2016).

    Example:
        >>> import minigrad as mg
        >>> mg.elu(mg.Tensor([-1.0, 2.0])).data.round(3)
        array([-0.632,  2.   ])
    """
    return _elu(x, alpha=alpha)


def _exp_in_two(t: Any) -> tuple[Any, Any]:
    """Two factors of exp(-t), t ≥ 0: multiplied with one, then with the other, a number underflows in one rounding."""
    most = minimum(t, 80.0)
    return exp(-most), exp(most - t)


FAR = 1e18  # from here to ∞ gelu and silu are x, and 0 on the other side, where ∞ times 0 would be NaN


def _not_far(x: Any) -> Any:
    """As in the rules, so that a compiled step computes what both need once."""
    return np.minimum(np.maximum(x, -FAR), FAR)


def _gelu_vjp(g: Any, x: Any) -> Any:
    x = minimum(maximum(x, -FAR), FAR)
    first, second = _exp_in_two(0.5 * square(x))
    density = 1.0 / math.sqrt(2.0 * math.pi) * x * first * second  # x·φ(x)
    return g * (0.5 * erfc(-math.sqrt(0.5) * x) + density)


gelu = Op(
    "gelu",
    lambda x: 0.5 * np.maximum(x, -FAR) * erfc.forward(np.multiply(_not_far(x), -math.sqrt(0.5))),
    vjp={"x": _gelu_vjp},
    kernels={"y": (kernels.gelu, 1), "x": (kernels.gelu_vjp, 1)},
    kind="elementwise",
    formula="y = x·Φ(x),  x̄ = ȳ·(Φ(x) + x·φ(x))",
    doc="x·Φ(x), Φ the normal distribution function, elementwise (Hendrycks and Gimpel 2016); not the tanh form.",
)


def _silu_vjp(g: Any, x: Any) -> Any:
    x = minimum(maximum(x, -FAR), FAR)
    first, second = _exp_in_two(softplus(-x))  # of σ(x)
    return g * (first * (1.0 + x * sigmoid(-x)) * second)


silu = Op(
    "silu",
    lambda x: np.multiply(np.maximum(x, -FAR), _sigmoid(_not_far(x))),
    vjp={"x": _silu_vjp},
    kernels={"y": (kernels.silu, 1), "x": (kernels.silu_vjp, 1)},
    kind="elementwise",
    formula="y = x·σ(x),  x̄ = ȳ·σ(x)·(1 + x·σ(-x))",
    doc="x·σ(x), elementwise, also called swish (Elfwing et al. 2018).",
)

__all__ = ["elu", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softplus", "tanh"]
