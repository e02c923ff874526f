"""Elementwise operations of a graph: what they compute, and what is simpler and has the same bits.

    --x = x      x*1 = x      x/8 = x*0.125      |-x| = |x|      x + (-y) = x - y      -x < 1  is  x > -1

These hold for all numbers, NaN, infinities and zeros of either sign. What does not is left alone: x + 0.0 is 0.0 for
x = -0.0, x*0.0 is NaN for x = ∞, and (x + y) + z is another number than x + (y + z).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.compiler.strides import Shape
from minigrad.ops.activation import tanh_slope
from minigrad.ops.special import erf, erfc

if TYPE_CHECKING:
    from minigrad.compiler.graph import Graph

UFUNCS = (
    np.add, np.subtract, np.multiply, np.divide, np.negative, np.absolute, np.maximum, np.minimum, np.power, np.sqrt,
    np.sign, np.floor, np.ceil, np.rint, np.exp, np.expm1, np.log, np.log1p, np.sin, np.cos, np.sinh, np.cosh, np.tanh,
    np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal, np.logical_and, np.logical_or,
    np.logical_not, np.isfinite, np.isnan,
)  # fmt: skip
ELEMENTWISE: dict[str, Callable[..., Any]] = {
    **{ufunc.__name__: ufunc for ufunc in UFUNCS},
    "erf": erf.forward,
    "erfc": erfc.forward,
    "tanh_vjp": tanh_slope.forward,
    "where": np.where,
    "cast": lambda x, dtype: x.astype(dtype),
}
COMMUTATIVE = ("add", "multiply", "equal", "not_equal", "logical_and", "logical_or")
MIRRORED = {"less": "greater", "less_equal": "greater_equal", "greater": "less", "greater_equal": "less_equal",
            "equal": "equal", "not_equal": "not_equal"}  # fmt: skip


def simpler(graph: Graph, op: str, inputs: Sequence[int], dtype: np.dtype[Any], shape: Shape) -> int | None:
    """A node with the same bits, whatever the inputs are, that takes less to compute; None if there is none.

    Of commutative operations a literal is the last input. What is returned may be a literal, of no shape.
    """
    again = lambda op, *inputs: graph.elementwise(op, inputs, dtype, shape)
    within = lambda op, i: graph.nodes[i].inputs[0] if graph.nodes[i].op == op else None
    numbers = [graph.number(i) for i in inputs]
    x, last, number = inputs[0], inputs[-1], numbers[-1]
    minus_x, minus_last = within("negative", x), within("negative", last)
    if None not in numbers:  # all is known
        arrays = [np.asarray(n, graph.nodes[i].dtype) for n, i in zip(numbers, inputs, strict=True)]
        with np.errstate(all="ignore"):
            return graph.literal(apply(op, arrays, dtype), dtype)
    match op:
        case "multiply" | "divide" | "power" if number == 1:
            return x
        case "multiply" if number == -1:
            return again("negative", x)
        case "divide" if number is not None and _has_exact_inverse(number, dtype):
            return again("multiply", x, graph.literal(1 / number, dtype))
        case "power" if number == 2:
            return again("multiply", x, x)
        case "power" if number == 0.5:
            return again("sqrt", x)  # as NumPy does, which shows at -∞
        case "add" | "subtract" if number == 0 and (math.copysign(1, number) < 0) == (op == "add"):
            return x  # but -0.0 + 0.0 is 0.0
        case "add" if minus_last is not None:
            return again("subtract", x, minus_last)
        case "add" if minus_x is not None:
            return again("subtract", last, minus_x)
        case "subtract" if minus_last is not None:
            return again("add", x, minus_last)
        case "negative" if minus_x is not None:
            return minus_x
        case "absolute" if minus_x is not None:
            return again("absolute", minus_x)
        case "absolute" if graph.nodes[x].op == "absolute":
            return x
        case "where" if numbers[0] is not None:
            return inputs[1] if numbers[0] else last
        case "where" if inputs[1] == last:
            return last
        case "cast" if graph.nodes[x].dtype == dtype:
            return x
        case "cast" if (y := within("cast", x)) is not None and _is_exact(graph.nodes[y].dtype, graph.nodes[x].dtype):
            return again("cast", y)
    if op in MIRRORED and number is not None and minus_x is not None:
        return again(MIRRORED[op], minus_x, graph.literal(0.0 - number, graph.nodes[last].dtype))
    return None


def _has_exact_inverse(number: float, dtype: np.dtype[Any]) -> bool:
    """Whether dividing by a number is multiplying with another one, to the bit: powers of two."""
    fraction, exponent = math.frexp(number)
    return dtype.kind == "f" and abs(fraction) == 0.5 and abs(exponent) < np.finfo(dtype).maxexp - 2


def _is_exact(a: np.dtype[Any], b: np.dtype[Any]) -> bool:
    """Whether every number of dtype a is one of dtype b."""
    return np.can_cast(a, b) and not (a.kind in "iu" and a.itemsize == 8 and b.kind == "f")


def apply(op: str, arrays: Sequence[np.ndarray], dtype: np.dtype[Any]) -> np.ndarray:
    """An elementwise operation on arrays."""
    y = ELEMENTWISE[op](*arrays, dtype) if op == "cast" else ELEMENTWISE[op](*arrays)
    return np.asarray(y, dtype)
