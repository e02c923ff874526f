"""Updates of parameters, each one pass over all arrays that it reads and writes.

They do the operations of the NumPy formulas in minigrad/optim in the same order, none fused, so that they give the
same bits.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from minigrad.kernels.native import Source
from minigrad.kernels.simd import compiled, lanes_of, load, load_some, sqrt, store, store_some

root = compiled(sqrt)


def sgd(p: Any, g: Any, new_p: Any, rate: float, decay: float, n: int, per_chunk: int, chunk: int) -> None:
    start, end = chunk * per_chunk, min((chunk + 1) * per_chunk, n)
    lanes = lanes_of(p)
    while start + lanes <= end:
        x = load(p, start)
        store(new_p, start, x - rate * decayed(load(g, start), x, decay))
        start += lanes
    if start < end:
        rest = end - start
        x = load_some(p, start, rest)
        store_some(new_p, start, x - rate * decayed(load_some(g, start, rest), x, decay), rest)


@njit(error_model="numpy")
def decayed(g: Any, p: Any, decay: float) -> Any:
    """The gradient with weight decay. Without, a parameter that is not finite does not matter."""
    return g + decay * p if decay != 0.0 else g


def momentum(
    p: Any,
    g: Any,
    v: Any,
    new_p: Any,
    new_v: Any,
    rate: float,
    kept: float,
    nesterov: int,
    decay: float,
    n: int,
    per_chunk: int,
    chunk: int,
) -> None:
    start, end = chunk * per_chunk, min((chunk + 1) * per_chunk, n)
    lanes = lanes_of(p)
    while start + lanes <= end:
        x, speed = moved(load(p, start), load(g, start), load(v, start), rate, kept, nesterov, decay)
        store(new_p, start, x)
        store(new_v, start, speed)
        start += lanes
    if start < end:
        rest = end - start
        a, b, c = load_some(p, start, rest), load_some(g, start, rest), load_some(v, start, rest)
        x, speed = moved(a, b, c, rate, kept, nesterov, decay)
        store_some(new_p, start, x, rest)
        store_some(new_v, start, speed, rest)


@njit(error_model="numpy")
def moved(p: Any, g: Any, v: Any, rate: float, kept: float, nesterov: int, decay: float) -> Any:
    """The parameters and their velocity after a step with momentum."""
    g = decayed(g, p, decay)
    v = kept * v + g
    way = g + kept * v if nesterov else v
    return p - rate * way, v


def adam(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    new_p: Any,
    new_m: Any,
    new_v: Any,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    size: float,
    floor: float,
    shrink: float,
    n: int,
    per_chunk: int,
    chunk: int,
) -> None:
    start, end = chunk * per_chunk, min((chunk + 1) * per_chunk, n)
    lanes = lanes_of(p)
    while start + lanes <= end:
        first, second = moments(load(g, start), load(m, start), load(v, start), beta1, rest1, beta2, rest2)
        store(new_p, start, shrink * load(p, start) - size * first / (root(second) + floor))
        store(new_m, start, first)
        store(new_v, start, second)
        start += lanes
    if start < end:
        rest = end - start
        a, b, c = load_some(g, start, rest), load_some(m, start, rest), load_some(v, start, rest)
        first, second = moments(a, b, c, beta1, rest1, beta2, rest2)
        x = shrink * load_some(p, start, rest) - size * first / (root(second) + floor)
        store_some(new_p, start, x, rest)
        store_some(new_m, start, first, rest)
        store_some(new_v, start, second, rest)


@njit(error_model="numpy")
def moments(g: Any, m: Any, v: Any, beta1: float, rest1: float, beta2: float, rest2: float) -> Any:
    """The running means of g and of g²."""
    return beta1 * m + rest1 * g, beta2 * v + rest2 * (g * g)


SOURCES = {
    "sgd": Source(sgd, "real* real* real* real real int int"),
    "momentum": Source(momentum, "real* real* real* real* real* real real int real int int"),
    "adam": Source(adam, "real* real* real* real* real* real* real* real real real real real real real int int"),
}
