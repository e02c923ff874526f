"""The float32 rules keep their digits: every elementwise VJP of one input, over its whole domain.

The bound is |error| ≤ 4 eps·(|f′| + |x·f″|) plus one smallest subnormal: what an error of a few units in the last place
of the input would do anyway. The reference is the closed form of the slope in float64, or in mpmath where float64 does
not keep enough digits. The usual forms of tanh, sigmoid and expm1 fail here by a factor of a million.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import numpy as np
import pytest
from scipy import special

import minigrad as mg
from minigrad.core.op import registry

EPS = float(np.finfo(np.float32).eps)
SUBNORMAL = float(np.finfo(np.float32).smallest_subnormal)
Function = Callable[[np.ndarray], np.ndarray]
ROOT_TWO_PI = np.sqrt(2 * np.pi)


def phi(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x * x) / ROOT_TWO_PI


def sech2(x: np.ndarray) -> np.ndarray:
    e = np.exp(-2 * np.abs(x))
    return 4 * e / (1 + e) ** 2


def silu_slope(x: np.ndarray) -> np.ndarray:
    return special.expit(x) * (1 + x * special.expit(-x))


def sigmoid_slope(x: np.ndarray) -> np.ndarray:
    return special.expit(x) * special.expit(-x)


# name: (first, second derivative) in float64
SLOPES: dict[str, tuple[Function, Function]] = {
    "negative": (lambda x: -np.ones_like(x), np.zeros_like),
    "square": (lambda x: 2 * x, lambda x: np.full_like(x, 2.0)),
    "sqrt": (lambda x: 0.5 * x**-0.5, lambda x: -0.25 * x**-1.5),
    "rsqrt": (lambda x: -0.5 * x**-1.5, lambda x: 0.75 * x**-2.5),
    "abs": (np.sign, np.zeros_like),
    "exp": (np.exp, np.exp),
    "expm1": (np.exp, np.exp),
    "log": (lambda x: 1 / x, lambda x: -1 / x**2),
    "log1p": (lambda x: 1 / (1 + x), lambda x: -1 / (1 + x) ** 2),
    "sin": (np.cos, lambda x: -np.sin(x)),
    "cos": (lambda x: -np.sin(x), lambda x: -np.cos(x)),
    "sinh": (np.cosh, np.sinh),
    "cosh": (np.sinh, np.cosh),
    "tanh": (sech2, lambda x: -2 * np.tanh(x) * sech2(x)),
    "sigmoid": (sigmoid_slope, lambda x: sigmoid_slope(x) * -np.tanh(x / 2)),
    "softplus": (special.expit, sigmoid_slope),
    "erf": (lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x), lambda x: -4 * x / np.sqrt(np.pi) * np.exp(-x * x)),
    "erfc": (lambda x: -2 / np.sqrt(np.pi) * np.exp(-x * x), lambda x: 4 * x / np.sqrt(np.pi) * np.exp(-x * x)),
    "gelu": (lambda x: special.ndtr(x) + x * phi(x), lambda x: (2 - x * x) * phi(x)),
    "silu": (silu_slope, lambda x: sigmoid_slope(x) * (2 - x * np.tanh(x / 2))),
    "relu": (lambda x: (x > 0) * 1.0, np.zeros_like),
    "leaky_relu": (lambda x: np.where(x > 0, 1.0, 0.01), np.zeros_like),
    "elu": (lambda x: np.exp(np.minimum(x, 0)), lambda x: np.where(x > 0, 0.0, np.exp(np.minimum(x, 0)))),
}
PIECEWISE_CONSTANT = {"sign", "floor", "ceil", "round"}
EXPONENTS = (-3.0, -1.0, -0.5, 0.5, 1.5, 2.5, 3.0, 4.0)


def samples(low: float, high: float) -> np.ndarray:
    """float32 numbers of every exponent and sign, subnormal ones too, and many of ordinary size, in (low, high)."""
    bits = np.linspace(0, 0x7F7FFFFF, 40_001).astype(np.uint32).view(np.float32)
    ordinary = np.linspace(-120, 120, 40_001, dtype=np.float32)
    small = np.array([0.0, -0.0, SUBNORMAL, -SUBNORMAL], np.float32)
    x = np.concatenate([bits, -bits, ordinary, small])
    return x[(x > low) & (x < high)]


def rule(f: Callable[[mg.Tensor], mg.Tensor], x: np.ndarray) -> np.ndarray:
    t = mg.Tensor(x, requires_grad=True)
    with np.errstate(all="ignore"):  # the forward overflows for some of these inputs, as it should
        y = f(t)
    y.backward(np.ones_like(x))
    return t.grad.data.astype(np.float64)


def worst(got: np.ndarray, x: np.ndarray, first: Function, second: Function) -> tuple[float, float]:
    """The largest error in units of the bound, and where."""
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        want, curvature = first(wide), second(wide)
        bound = 4 * EPS * (np.abs(want) + np.abs(wide * curvature)) + SUBNORMAL
        overflow = np.abs(want) > np.finfo(np.float32).max * (1 - 1e-6)  # float32 can't say it
        ratio = np.where(overflow | ~np.isfinite(bound), 0.0, np.abs(got - want) / bound)
    k = int(np.argmax(np.nan_to_num(ratio, nan=np.inf)))
    return float(ratio[k]), float(x[k])


def test_the_table_covers_every_elementwise_operation_of_one_input() -> None:
    unary = {n for n, op in registry.items() if op.kind == "elementwise" and len(op.inputs) == 1 and hasattr(mg, n)}
    assert unary - PIECEWISE_CONSTANT <= set(SLOPES)


@pytest.mark.parametrize("name", SLOPES)
def test_slope_in_float32(name: str) -> None:
    low, high = registry[name].domain.get("x", (-np.inf, np.inf))
    x = samples(low, high)
    if name in ("sin", "cos"):
        x = x[np.abs(x) < 1e5]  # beyond, float64's own argument is exact, but the reference needs no stress here
    ratio, where = worst(rule(getattr(mg, name), x), x, *SLOPES[name])
    assert ratio <= 1, f"{name}: {ratio:.3g} times the bound at x = {where!r}"


@pytest.mark.parametrize("exponent", EXPONENTS)
def test_slope_of_a_constant_power_in_float32(exponent: float) -> None:
    x = samples(0.0, np.inf)
    n = exponent
    ratio, where = worst(rule(lambda t: t**n, x), x, lambda x: n * x ** (n - 1), lambda x: n * (n - 1) * x ** (n - 2))
    assert ratio <= 1, f"x**{n}: {ratio:.3g} times the bound at x = {where!r}"


# name: (the input, its slope in it, what |a·∂slope/∂a| + |b·∂slope/∂b| is, where a and b are drawn)
Pair = Callable[[np.ndarray, np.ndarray], np.ndarray]
BINARY: dict[str, tuple[str, int, Pair, Pair]] = {
    "a·b in a": ("multiply", 0, lambda a, b: b, lambda a, b: np.abs(b)),
    "a/b in a": ("divide", 0, lambda a, b: 1 / b, lambda a, b: 1 / b),
    "a/b in b": ("divide", 1, lambda a, b: -a / b**2, lambda a, b: 3 * np.abs(a / b**2)),
    "a**b in a": (
        "power",
        0,
        lambda a, b: b * a ** (b - 1),
        lambda a, b: np.abs(b * a ** (b - 1)) * (np.abs(b - 1) + np.abs(1 + b * np.log(a))),
    ),
    "a**b in b": (
        "power",
        1,
        lambda a, b: a**b * np.log(a),
        lambda a, b: a**b * (np.abs(1 + b * np.log(a)) + np.abs(b * np.log(a) ** 2)),
    ),
    "bce in z": (
        "bce_with_logits",
        0,
        lambda z, t: (1 - t) * special.expit(z) - t * special.expit(-z),
        lambda z, t: np.abs(z) * sigmoid_slope(z) + t,
    ),
}


@pytest.mark.parametrize("case", BINARY)
def test_slope_in_float32_of_two_inputs(case: str) -> None:
    """The same bound with the curvature in both inputs: a slope that is a difference of the inputs can't be exact."""
    name, k, first, curvature = BINARY[case]
    rng = np.random.default_rng(0)
    op = registry[name]
    a, b = (rng.choice(samples(0.0, np.inf) if i in op.domain else samples(-np.inf, np.inf), 50_000) for i in op.inputs)
    if name == "power":
        b = rng.uniform(-4, 4, 50_000).astype(np.float32)
    elif name == "bce_with_logits":
        b = rng.choice(np.array([0, 1, 0.5, 0.25, 1e-6], np.float32), 50_000)
    inputs = [mg.Tensor(a, requires_grad=True), mg.Tensor(b, requires_grad=True)]
    with np.errstate(all="ignore"):
        y = op(*inputs)
    y.backward(np.ones_like(a))
    got = inputs[k].grad.data.astype(np.float64)
    with np.errstate(all="ignore"):
        wide = a.astype(np.float64), b.astype(np.float64)
        want, bend = first(*wide), curvature(*wide)
        bound = 4 * EPS * (np.abs(want) + np.abs(bend)) + SUBNORMAL
        sayable = np.isfinite(bound) & (np.abs(want) < np.finfo(np.float32).max) & np.isfinite(y.data)
        ratio = np.where(sayable, np.abs(got - want) / bound, 0.0)
    worst_at = int(np.argmax(np.nan_to_num(ratio, nan=np.inf)))
    assert ratio[worst_at] <= 1, f"{case}: {ratio[worst_at]:.3g} times the bound at {a[worst_at]!r}, {b[worst_at]!r}"


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu", "silu", "erf"])
def test_the_reference_itself(name: str) -> None:
    """The closed forms above against mpmath's derivative at a few points, tails included."""
    functions = {
        "tanh": mpmath.tanh,
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "gelu": lambda x: x * mpmath.ncdf(x),
        "silu": lambda x: x / (1 + mpmath.exp(-x)),
        "erf": mpmath.erf,
    }
    with mpmath.workdps(200):
        for x in (-12.0, -8.5, -1.3, -0.1, 0.3, 2.0, 9.0):
            want = float(mpmath.diff(functions[name], x))
            assert SLOPES[name][0](np.array(x)) == pytest.approx(want, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("rows", [[[7.6, 20.0, 1.4], [0.1, 0.2, 0.3]], [[-9.0, 8.0, 8.5]], [[30.0, 0.0, 1.0, -2.0]]])
def test_rows_of_which_one_entry_leads(name: str, rows: list[list[float]]) -> None:
    """The cotangent of the leading entry keeps its digits, though y·(ȳ - Σ ȳ·y) cancels there."""
    x = np.array(rows, np.float32)
    g = np.random.default_rng(0).standard_normal(x.shape).astype(np.float32)
    _, pullback = mg.vjp(getattr(mg, name), mg.Tensor(x))
    (got,) = pullback(mg.Tensor(g))
    with mpmath.workdps(50):
        for i, (row, u) in enumerate(zip(x.tolist(), g.tolist(), strict=True)):
            p = [mpmath.exp(v) for v in row]
            p = [v / mpmath.fsum(p) for v in p]
            total = mpmath.fsum(u) if name == "log_softmax" else mpmath.fsum(a * b for a, b in zip(p, u, strict=True))
            for k, have in enumerate(got.data[i].tolist()):
                want = u[k] - p[k] * total if name == "log_softmax" else p[k] * (u[k] - total)
                assert abs(have - want) <= 2.0**-19 * abs(want)  # 16 eps: exp of a difference of 30 costs some of them
