"""Elementwise kernels: any formula of a few arrays and numbers, in one loop over vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad.kernels import simd_math as m
from minigrad.kernels.elementwise import CHUNK
from minigrad.kernels.native import Source
from minigrad.kernels.simd import V
from minigrad.kernels.vectors import blockwise, compiled, lanes_of, load_some, store_some, to_boundary

VECTORS = 4  # done at once: of 1, 2, 4 and 8 the fastest, or nearly so, for all formulas
# Blocks begin where a vector of y fills a cache line: what crosses lines is slower to store, by up to a sixth.
LOOP = """
def kernel({arguments}, n, chunk):
    width = lanes_of(y)
    i, stop = chunk * CHUNK, min(n, (chunk + 1) * CHUNK)
    while i < stop:
        count = to_boundary(y, i)
        if count == width and i + VECTORS * width <= stop:
            block(i, {statement})
            i += VECTORS * width
        else:
            count = min(count, stop - i)
            store_some(y, i, formula({part}), count)
            i += count
"""


def mapped(formula: Callable[..., V], arrays: int = 1, numbers: int = 0) -> Source:
    """The kernel y = formula(arrays..., numbers...), one element like the other.

    Numba functions have a fixed number of arguments, so the text of the loop is made for this formula.
    """
    xs, ps = [f"x{i}" for i in range(arrays)], [f"p{i}" for i in range(numbers)]
    text = LOOP.format(
        arguments=", ".join([*xs, *ps, "y"]),
        statement=", ".join(["y", *xs, *ps]),
        part=", ".join([*(f"load_some({x}, i, count)" for x in xs), *ps]),
    )
    namespace: dict[str, Any] = {
        "CHUNK": CHUNK, "VECTORS": VECTORS, "block": blockwise(formula, VECTORS), "formula": compiled(formula),
        "lanes_of": lanes_of, "load_some": load_some, "store_some": store_some, "to_boundary": to_boundary,
    }  # fmt: skip
    exec(text, namespace)
    return Source(namespace["kernel"], "real* " * arrays + "real " * numbers + "real* int")


SOURCES = {
    **{
        f.__name__: mapped(f)
        for f in (
            m.exp, m.expm1, m.log, m.log1p, m.sin, m.cos, m.erf, m.erfc, m.tanh, m.sigmoid, m.softplus, m.gelu, m.silu,
            m.relu,
        )
    },
    **{
        f.__name__: mapped(f, arrays=2)
        for f in (m.tanh_vjp, m.softplus_vjp, m.relu_vjp, m.gelu_vjp, m.silu_vjp, m.erf_vjp)
    },
    "sigmoid_vjp": mapped(m.sigmoid_vjp, arrays=3),
    "leaky_relu": mapped(m.leaky_relu, numbers=1),
    "elu": mapped(m.elu, numbers=1),
    "leaky_relu_vjp": mapped(m.leaky_relu_vjp, arrays=2, numbers=1),
    "elu_vjp": mapped(m.elu_vjp, arrays=2, numbers=1),
}  # fmt: skip
