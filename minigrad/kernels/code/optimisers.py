"""Updates of parameters, each one pass over all arrays that it reads and writes.

    for each chunk of all numbers, as if the parameters were one long one     (any thread)
        for each parameter, or part of one, in the chunk
            for each vector of it

So a large parameter is many chunks, and many small ones are one. `arrays` has the parameters, their gradients and what
the optimiser remembers of them, `count` of each; `new` the same without gradients; `begins` says where each parameter
begins in the long one, and where the last one ends.

They do the operations of the NumPy formulas in minigrad/optim in the same order, none fused, so that they give the
same bits. Whole vectors are read as the last one is, by a mask: with AVX-512 that is as fast.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from minigrad.kernels.code.entry import data_of
from minigrad.kernels.native import Source
from minigrad.kernels.simd import sqrt
from minigrad.kernels.vectors import compiled, lanes_of, load_some, store_some

root = compiled(sqrt)


@njit(error_model="numpy")
def parameter_at(place: int, begins: Any) -> int:
    """The number of the parameter to which a place in the long one belongs."""
    k = 0
    while begins[k + 1] <= place:
        k += 1
    return k


def sgd(arrays: Any, new: Any, begins: Any, count: int, rate: float, decay: float, per_chunk: int, chunk: int) -> None:
    place, end = chunk * per_chunk, min((chunk + 1) * per_chunk, begins[count])
    k = parameter_at(place, begins)
    while place < end:
        p, g, new_p = data_of(arrays, k), data_of(arrays, count + k), data_of(new, k)
        stop, lanes = min(end, begins[k + 1]) - begins[k], lanes_of(p)
        for i in range(place - begins[k], stop, lanes):
            some = min(lanes, stop - i)
            x = load_some(p, i, some)
            store_some(new_p, i, x - rate * decayed(load_some(g, i, some), x, decay), some)
        k += 1
        place = begins[k]


@njit(error_model="numpy")
def decayed(g: Any, p: Any, decay: float) -> Any:
    """The gradient with weight decay. Without, a parameter that is not finite does not matter."""
    return g + decay * p if decay != 0.0 else g


def momentum(
    arrays: Any,
    new: Any,
    begins: Any,
    count: int,
    rate: float,
    kept: float,
    nesterov: int,
    decay: float,
    per_chunk: int,
    chunk: int,
) -> None:
    place, end = chunk * per_chunk, min((chunk + 1) * per_chunk, begins[count])
    k = parameter_at(place, begins)
    while place < end:
        p, g, v = data_of(arrays, k), data_of(arrays, count + k), data_of(arrays, 2 * count + k)
        new_p, new_v = data_of(new, k), data_of(new, count + k)
        stop, lanes = min(end, begins[k + 1]) - begins[k], lanes_of(p)
        for i in range(place - begins[k], stop, lanes):
            some = min(lanes, stop - i)
            a, b, c = load_some(p, i, some), load_some(g, i, some), load_some(v, i, some)
            x, speed = moved(a, b, c, rate, kept, nesterov, decay)
            store_some(new_p, i, x, some)
            store_some(new_v, i, speed, some)
        k += 1
        place = begins[k]


@njit(error_model="numpy")
def moved(p: Any, g: Any, v: Any, rate: float, kept: float, nesterov: int, decay: float) -> Any:
    """The parameters and their velocity after a step with momentum."""
    g = decayed(g, p, decay)
    v = kept * v + g
    way = g + kept * v if nesterov else v
    return p - rate * way, v


def adam(
    arrays: Any,
    new: Any,
    begins: Any,
    count: int,
    beta1: float,
    rest1: float,
    beta2: float,
    rest2: float,
    size: float,
    floor: float,
    shrink: float,
    per_chunk: int,
    chunk: int,
) -> None:
    place, end = chunk * per_chunk, min((chunk + 1) * per_chunk, begins[count])
    k = parameter_at(place, begins)
    while place < end:
        p, g, m, v = (
            data_of(arrays, k),
            data_of(arrays, count + k),
            data_of(arrays, 2 * count + k),
            data_of(arrays, 3 * count + k),
        )
        new_p, new_m, new_v = data_of(new, k), data_of(new, count + k), data_of(new, 2 * count + k)
        stop, lanes = min(end, begins[k + 1]) - begins[k], lanes_of(p)
        for i in range(place - begins[k], stop, lanes):
            some = min(lanes, stop - i)
            a, b, c = load_some(g, i, some), load_some(m, i, some), load_some(v, i, some)
            first, second = moments(a, b, c, beta1, rest1, beta2, rest2)
            x = shrink * load_some(p, i, some) - size * first / (root(second) + floor)
            store_some(new_p, i, x, some)
            store_some(new_m, i, first, some)
            store_some(new_v, i, second, some)
        k += 1
        place = begins[k]


@njit(error_model="numpy")
def moments(g: Any, m: Any, v: Any, beta1: float, rest1: float, beta2: float, rest2: float) -> Any:
    """The running means of g and of g²."""
    return beta1 * m + rest1 * g, beta2 * v + rest2 * (g * g)


ALL = "real** real** int64* int"  # what the three have in common
SOURCES = {
    "sgd": Source(sgd, f"{ALL} real real int"),
    "momentum": Source(momentum, f"{ALL} real real int real int"),
    "adam": Source(adam, f"{ALL} real real real real real real real int"),
}
