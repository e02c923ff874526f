"""Updates of parameters, each one pass over all arrays that it reads and writes.

They do the operations of the NumPy formulas in minigrad/optim in the same order, none fused, so that they give the
same bits. Whole vectors are read as the last one is, by a mask: with AVX-512 that is as fast.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from minigrad.kernels.native import Source
from minigrad.kernels.simd import sqrt
from minigrad.kernels.vectors import compiled, lanes_of, load_some, store_some

root = compiled(sqrt)


def sgd(p: Any, g: Any, new_p: Any, rate: float, decay: float, n: int, per_chunk: int, chunk: int) -> None:
    start, end, lanes = chunk * per_chunk, min((chunk + 1) * per_chunk, n), lanes_of(p)
    for i in range(start, end, lanes):
        count = min(lanes, end - i)
        x = load_some(p, i, count)
        store_some(new_p, i, x - rate * decayed(load_some(g, i, count), x, decay), count)


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
    start, end, lanes = chunk * per_chunk, min((chunk + 1) * per_chunk, n), lanes_of(p)
    for i in range(start, end, lanes):
        count = min(lanes, end - i)
        a, b, c = load_some(p, i, count), load_some(g, i, count), load_some(v, i, count)
        x, speed = moved(a, b, c, rate, kept, nesterov, decay)
        store_some(new_p, i, x, count)
        store_some(new_v, i, speed, count)


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
    start, end, lanes = chunk * per_chunk, min((chunk + 1) * per_chunk, n), lanes_of(p)
    for i in range(start, end, lanes):
        count = min(lanes, end - i)
        a, b, c = load_some(g, i, count), load_some(m, i, count), load_some(v, i, count)
        first, second = moments(a, b, c, beta1, rest1, beta2, rest2)
        x = shrink * load_some(p, i, count) - size * first / (root(second) + floor)
        store_some(new_p, i, x, count)
        store_some(new_m, i, first, count)
        store_some(new_v, i, second, count)


@njit(error_model="numpy")
def moments(g: Any, m: Any, v: Any, beta1: float, rest1: float, beta2: float, rest2: float) -> Any:
    """The running means of g and of g²."""
    return beta1 * m + rest1 * g, beta2 * v + rest2 * (g * g)


SOURCES = {
    "sgd": Source(sgd, "real* real* real* real real int int"),
    "momentum": Source(momentum, "real* real* real* real* real* real real int real int int"),
    "adam": Source(adam, "real* real* real* real* real* real* real* real real real real real real real int int"),
}
