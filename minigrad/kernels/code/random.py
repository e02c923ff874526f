"""Random bits by Philox, and what is made of them. Draw number i depends on the state and i alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from minigrad.kernels.native import Source
from minigrad.kernels.random import TILE
from minigrad.kernels.simd import V, bits, select, sqrt
from minigrad.kernels.simd_math import COS, SIN, SINGLE, format_of, log, polynomial
from minigrad.kernels.vectors import compiled, lanes_of, load, store

# The constants of Philox4x64-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 3.3 and
# the authors' Random123 (philox.h).
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
ROUNDS = 10
ONE, LOWER = np.uint64(1), np.uint64(0xFFFFFFFF)


@intrinsic
def high_half(context: Any, a: Any, b: Any) -> Any:
    """The upper 64 bits of the product of two uint64."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(x, wide) for x in args))
        return builder.trunc(builder.lshr(product, wide(64)), ir.IntType(64))

    return types.uint64(types.uint64, types.uint64), lower


@intrinsic
def as_float(context: Any, word: Any, real: Any) -> Any:
    """A uint64 as the nearest number of the type of `real`."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return builder.uitofp(args[0], args[1].type)

    return real(types.uint64, real), lower


@intrinsic
def is_double(context: Any, pointer: Any) -> Any:
    """Whether float64 lies behind the pointer; known when it is compiled."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return ir.IntType(1)(pointer.dtype == types.float64)

    return types.boolean(pointer), lower


@intrinsic
def real_one(context: Any, pointer: Any) -> Any:
    """1 in the type that lies behind the pointer."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Sequence[Any]) -> Any:
        return context.get_constant(pointer.dtype, 1.0)

    return pointer.dtype(pointer), lower


@njit(error_model="numpy")
def philox(key: Any, draw: Any, block: Any) -> Any:
    """Four words of 64 bits: block number `block` of a draw, as NumPy's Philox(key=[key, 0], counter=[0, 0, 0, draw]).

    NumPy steps its counter before it makes a block: hence block + 1.
    """
    a, b, c, d = block + ONE, np.uint64(0), np.uint64(0), draw
    k0, k1 = key, np.uint64(0)
    for _ in range(ROUNDS):
        high0, low0 = high_half(MULTIPLIER_0, a), MULTIPLIER_0 * a
        high1, low1 = high_half(MULTIPLIER_1, c), MULTIPLIER_1 * c
        a, b, c, d = high1 ^ b ^ k0, low1, high0 ^ d ^ k1, low0
        k0 += WEYL_0
        k1 += WEYL_1
    return a, b, c, d


@njit(error_model="numpy")
def of_upper_bits(word: Any, one: Any, bits: int) -> Any:
    """The upper 53 bits of 64, or 24 of 32, as a number in [0, 1)."""
    kept = 53 if bits == 64 else 24
    return as_float(word >> np.uint64(bits - kept), one) * (one / (1 << kept))


def uniform(state: Any, y: Any, n: int, per_chunk: int, chunk: int) -> None:
    """The numbers of NumPy's Generator.random: one a word for float64, one a half for float32, the lower half first."""
    key, draw, one = np.uint64(state[0]), np.uint64(state[1]), real_one(y)
    each = 4 if is_double(y) else 8
    first, last = chunk * per_chunk, min((chunk + 1) * per_chunk, (n + each - 1) // each)
    for block in range(first, last):
        words = philox(key, draw, np.uint64(block))
        i = block * each
        for k in range(4):
            if is_double(y):
                if i + k < n:
                    y[i + k] = of_upper_bits(words[k], one, 64)
            else:
                if i + 2 * k < n:
                    y[i + 2 * k] = of_upper_bits(words[k] & LOWER, one, 32)
                if i + 2 * k + 1 < n:
                    y[i + 2 * k + 1] = of_upper_bits(words[k] >> np.uint64(32), one, 32)


def _radius(u: V) -> V:
    return sqrt(log(u) * -2.0)


def _turned(turns: V, quarters: int) -> V:
    """cos(2π·(turns - quarters/4)), 0 ≤ turns < 1: the rest from the nearest quarter is exact."""
    single = format_of(turns) is SINGLE
    shifted = turns * 4.0 + format_of(turns).magic
    r = (turns * 4.0 - (shifted - format_of(turns).magic)) * (math.pi / 2)
    s = r * r
    sine = r + r * s * polynomial(SIN[-4:] if single else SIN, s)
    cosine = (1.0 - s * 0.5) + s * s * polynomial(COS[-4:] if single else COS, s)
    quadrant = bits(shifted) - quarters
    y = select((quadrant & 1) == 0, cosine, sine)
    return select(((quadrant + 1) & 2) == 0, y, -y)  # cos, -sin, -cos, sin


radius = compiled(_radius)
cosine = compiled(lambda turns: _turned(turns, 0))
sine = compiled(lambda turns: _turned(turns, 1))


def normal(state: Any, y: Any, spare: Any, n: int, per_chunk: int, chunk: int) -> None:
    """Normal numbers by Box and Muller (1958), in tiles of 2·TILE; the last tile may be a part of one.

    Numbers i and TILE + i of a tile are r·cos φ and r·sin φ. In float64 r is of word i of the tile and φ of word
    TILE + i; in float32 r is of the lower half of word i, φ of the upper.
    """
    key, draw, one = np.uint64(state[0]), np.uint64(state[1]), real_one(y)
    blocks = TILE // 2 if is_double(y) else TILE // 4  # of four words, in a tile
    for tile in range(chunk * per_chunk, min((chunk + 1) * per_chunk, (n + 2 * TILE - 1) // (2 * TILE))):
        start = tile * 2 * TILE
        whole = start + 2 * TILE <= n
        to, place = (y, start) if whole else (spare, 0)
        for block in range(blocks):
            words = philox(key, draw, np.uint64(tile * blocks + block))
            for k in range(4):
                i = 4 * block + k
                if is_double(y):
                    u = of_upper_bits(words[k], one, 64)
                    to[place + i] = u + one / 2**53 if i < TILE else u  # never 0, the logarithm of which is infinite
                else:
                    to[place + i] = as_float((words[k] & LOWER) + ONE, one) * (one / 2**32)
                    to[place + TILE + i] = of_upper_bits(words[k] >> np.uint64(32), one, 32)
        for i in range(place, place + TILE, lanes_of(y)):
            r, turns = radius(load(to, i)), load(to, i + TILE)
            store(to, i, r * cosine(turns))
            store(to, i + TILE, r * sine(turns))
        if not whole:
            for i in range(n - start):
                y[start + i] = spare[i]


SOURCES = {
    "uniform": Source(uniform, "int64* real* int int"),
    "normal": Source(normal, "int64* real* real* int int"),
}
