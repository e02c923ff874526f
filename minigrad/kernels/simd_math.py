"""Elementary functions as formulas on `V`: one formula serves float32 and float64, numbers and vectors of any width.

All are within 3 units in the last place over the whole range, with the right values at ±0, ±∞ and NaN, and among the
denormal numbers (tests/kernels/test_simd_math.py measures it). What only some lanes need is computed for all and
selected; gelu alone branches, around what hardly ever any lane needs. No lane's result depends on the others. None
relies on fused multiply-adds for more than speed: constants that are multiplied by a whole number have so many zeros at
their end that the product is exact.

AVX-512 looks numbers up in tables that lie in registers, as fast as it multiplies. There exp takes a part of its result
from a table, and functions without divisions or exponentials are made of pieces, their coefficients looked up.

The polynomials, but those of the pieces, are Chebyshev fits, the highest coefficient first, made with mpmath's
`chebyfit` in 60 digits; beside each stand the function, the interval and the error of the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from minigrad.kernels.simd import (
    FUSED,
    V,
    absolute,
    after,
    any_below,
    avx512,
    bits,
    choice,
    converted,
    copysign,
    fills_avx512,
    fma,
    fma_down,
    from_bits,
    larger,
    looked_up,
    select,
    smaller,
)

INF, NAN = math.inf, math.nan
SMALLER_SIZE = 0b0010  # for "range": of x and y what is smaller in size, with the sign of x; y where x is NaN
POSITIVE = 0b1000  # for "range", with the other: without the sign


class Format(NamedTuple):
    """A floating-point format, and the coefficients that suit it."""

    mantissa: int  # bits
    bias: int  # of the exponent
    magic: float  # added, it rounds to a whole number, which then stands in the lowest bits
    ln2: tuple[float, float]  # two parts; the first times a whole number that is an exponent is exact
    most: float  # exp overflows from here on
    least: float  # exp is 0 from here down
    tiny: float  # the smallest normal number
    exp: Sequence[float]  # (exp(r) - 1 - r)/r², |r| ≤ ln(2)/2
    exp_near: Sequence[float]  # the same, |r| ≤ ln(2)/32, by Remez's algorithm: the error times r²
    log: Sequence[float]  # (2·artanh(s)/s - 2)/s², s² ≤ 0.0401, in s²
    erf: Sequence[float]  # erf(x)/x - 1, |x| ≤ the first of `span`, in x²
    span: tuple[float, float]  # from the first of them on erf is 1 - exp(a polynomial), from the second on it is 1
    log_erfc: Sequence[float]  # log(erfc(t))/t, t in the span; the error times t·erfc(t)
    erfc: Tail  # exp(t²)·erfc(t)
    normal: Tail  # exp(t²/2)·Φ(-t), Φ the normal distribution function


class Tail(NamedTuple):
    """A function of t ≥ 0 that falls like 1/t, as (½ + P(u))/(t + near), u = (t - far)/(t + far).

    The quotient is flat around t = 0, so that errors of u don't matter there.
    """

    near: float
    far: float
    most: float  # from here on its product with the exponential is 0
    polynomial: Sequence[float]


SINGLE = Format(
    23,
    127,
    1.5 * 2.0**23,
    (0.693145751953125, 1.4286068203094173e-06),
    89.0,
    -104.0,
    2.0**-126,
    (0.0013926926614021907, 0.008363773874405574, 0.04166655011030512, 0.16666573381900845, 0.5),  # 8e-9
    (0.16666718471552905, 0.5000161606549939),  # 2e-9
    (0.23751341765880343, 0.28532545003481563, 0.4000031364468307, 0.6666666627321278),  # 4e-9
    (-0.0005979258060044365, 0.004991231233690149, -0.026765560651571162, 0.11281796525968253, -0.37612492987340634,
     0.12837914969330616),  # 2e-8
    (0.92, 4.1),
    (0.00021324480121031721, -0.0032092375596074873, 0.02287282333940558, -0.1052368375009459,
     -0.6357361091679671, -1.1285094112986793),  # 3e-9
    Tail(0.875, 3.0, 10.1,
    (-0.00011847668996294285, -0.00038989869764012976, 0.0007740312511270738, 0.0015591839901222147,
     -0.010293905684507478, 0.024998655852627463, -0.032761720136562755, 0.008529896827998826,
     0.06832029016312738, -0.19014815901463542, 0.1936294605806297)),  # 2e-9
    Tail(1.25, 4.0, 15.0,
    (-7.24730482617952e-05, -8.049230937587541e-05, 0.0006475290019018268, -0.0001378239230468069,
     -0.004876072221789161, 0.015815723002691375, -0.024481536317413073, 0.010673256611902875,
     0.04509444754328187, -0.13930290057324865, -0.004344133249020579)),  # 1e-9
)  # fmt: skip
DOUBLE = Format(
    52,
    1023,
    1.5 * 2.0**52,
    (0.6931471804855391, 7.440617110012397e-11),
    710.0,
    -745.5,
    2.0**-1022,
    (2.0915442297780116e-09, 2.5106274733573296e-08, 2.75572718102198e-07, 2.755725283351691e-06,
     2.4801587327007187e-05, 0.00019841269876864356, 0.0013888888888883327, 0.008333333333325544, 0.04166666666666667,
     0.1666666666666667, 0.5),  # 2e-19
    (0.0013888594031708508, 0.008333471948790592, 0.04166666669325713, 0.16666666664417057,
     0.49999999999999606),  # 1e-17
    (0.1511848710872457, 0.15283703752403147, 0.18184610246294064, 0.22222182776674482, 0.2857142883604555,
     0.39999999999335556, 0.6666666666666694),  # 3e-15, which s³ makes 2e-17
    (5.957176147748911e-11, -1.1372848856791674e-09, 1.4659775274047436e-08, -1.6350312701054695e-07,
     1.6461000484121368e-06, -1.4925595266831182e-05, 0.0001205533111164271, -0.000854832698083379,
     0.0052239776248180145, -0.026866170645076792, 0.11283791670954879, -0.3761263890318375,
     0.1283791670955126),  # 1e-19
    (1.0, 6.0),
    (-8.449283032326125e-12, 3.39828381583579e-10, -6.34632029793029e-09, 7.289583856860111e-08,
     -5.736791571628122e-07, 3.2456714998760355e-06, -1.3327092728578698e-05, 3.796655602067177e-05,
     -5.883951038148782e-05, -5.760342230484892e-05, 0.0006480541897025926, -0.0017638182646964866,
     0.0002644225495638358, 0.019096740978117702, -0.10276033130609483, -0.6366226586707262,
     -1.1283788548129605),  # 2e-17
    Tail(0.875, 4.0, 27.3,
    (-7.570911758788243e-10, -6.3063578305101245e-09, -5.112296047494038e-09, 5.215886420732557e-08,
     4.154212362516384e-08, -3.8155873152444176e-07, 4.3501251854580776e-08, 2.7055934739714133e-06,
     -4.507834305881639e-06, -1.291521202446881e-05, 6.685248518973395e-05, -7.000909380806067e-05,
     -0.0003870472892150852, 0.0022163123308009797, -0.006576268174190025, 0.013767278018402525,
     -0.021428036710980612, 0.02320098663357379, -0.009658341493597475, -0.02754815413412475,
     0.08970970564565987, -0.1669610767053458, 0.1678723559221743)),  # 7e-18
    Tail(1.25, 5.0, 39.0,
    (7.137762074438305e-10, 3.894858475240368e-09, 8.097067334605887e-10, -3.066249284741659e-08,
     -2.4707121716163746e-08, 1.891693708268791e-07, 1.4399087816084996e-07, -1.249171869902783e-06,
     -2.3772622585489798e-07, 8.743686818051555e-06, -8.235363731386127e-06, -5.336771165286394e-05,
     0.00016722733185748712, 4.136090204845539e-05, -0.001621184664451613, 0.005927289567072759,
     -0.012922572764837924, 0.018683488122536642, -0.014437204895252478, -0.010218616930826771,
     0.060047571397464056, -0.1274166706500118, -0.019254343906210652)),  # 6e-18
)  # fmt: skip


class Pieces(NamedTuple):
    """A function of t ≥ 0 by one polynomial for each piece, all of the same degree, for `_piecewise`.

    A polynomial is about that end of its piece where the function is smaller, so that its terms don't cancel one
    another; there it is exact.
    """

    step: float  # how long a piece is, a short number; they begin at 0
    most: float  # where the last piece ends, or a little before
    rising: bool
    ends: Sequence[float]
    polynomials: Sequence[Sequence[float]]  # for each power, the highest first, the coefficients of all pieces


@cache
def _chebyshev(n: int) -> np.ndarray:
    """The coefficients of Tₙ(2u - 1), which is small for 0 ≤ u ≤ 1, the constant first."""
    if n < 2:
        return np.array([[1.0], [-1.0, 2.0]][n])
    t, before = _chebyshev(n - 1), _chebyshev(n - 2)
    return np.append(0.0, 4 * t) - np.append(2 * t, 0.0) - np.append(before, [0.0, 0.0])


def pieces(series: Callable[[float, int], Sequence[float]], count: int, step: float, degree: int) -> Pieces:
    """Pieces from Taylor series about r = 0, economised: Chebyshev polynomials, times r, for the high powers of r.

    (Lanczos, Applied Analysis, 1956.) If the function rises, r is taken off the polynomials in r: around 0 that saves
    digits of a function that is about r.

    Args:
        series: gives the first terms of the series about a point, so many.
    """
    ends, rows = [], []
    for j in range(count):
        low, high = j * step, (j + 1) * step
        end, length = (low, step) if series(low, 1)[0] < series(high, 1)[0] else (high, -step)
        first, *rest = series(end, degree + 16)
        powers = length ** np.arange(len(rest))
        scaled = powers * rest
        for n in range(len(rest) - 1, degree - 1, -1):
            scaled[: n + 1] -= _chebyshev(n) * (scaled[n] / _chebyshev(n)[n])
        ends.append(end)
        rows.append([first, *(scaled / powers)[:degree]])
    rising = ends[-1] < count * step
    polynomials = np.transpose(rows)
    polynomials[1] -= rising
    return Pieces(step, (count - 1 / 64) * step, rising, ends, polynomials[::-1].tolist())


def _tanh_series(c: float, terms: int) -> list[float]:
    """About c, by tanh' = 1 - tanh²."""
    a = [math.tanh(c)]
    for n in range(terms - 1):
        a.append(((n == 0) - sum(a[i] * a[n - i] for i in range(n + 1))) / (n + 1))
    return a


def _erf_series(c: float, terms: int) -> list[float]:
    """About c; the slope y = 2/√π·exp(-t²) is such that y' = -2t·y."""
    slope = [0.0, 2 / math.sqrt(math.pi) * math.exp(-c * c)]
    for n in range(1, terms - 1):
        slope.append(-2 / n * (c * slope[n] + slope[n - 1]))
    return [math.erf(c), *(slope[n] / n for n in range(1, terms))]


def _gelu_series(c: float, terms: int) -> list[float]:
    """Of t·Φ(-t) about c; the density y = Φ' is such that y' = -t·y."""
    density = [0.0, math.exp(-c * c / 2) / math.sqrt(2 * math.pi)]
    for n in range(1, terms):
        density.append(-(c * density[n] + density[n - 1]) / n)
    below = [math.erfc(c / math.sqrt(2)) / 2, *(-density[n] / n for n in range(1, terms))]
    return [c * below[n] + (below[n - 1] if n else 0.0) for n in range(terms)]


TANH_SINGLE = pieces(_tanh_series, 32, 0.2890625, 6)  # beyond the last piece it is 1
ERF_SINGLE = pieces(_erf_series, 16, 0.25, 6)
ERF_DOUBLE = pieces(_erf_series, 16, 0.375, 13)
GELU_SINGLE = pieces(_gelu_series, 32, 0.234375, 7)


def format_of(x: V) -> Format:
    return SINGLE if isinstance(x.element, ir.FloatType) else DOUBLE


def polynomial(coefficients: Sequence[float], x: V) -> V:
    """By Horner's rule; the coefficient of the highest power comes first."""
    y = x.constant(coefficients[0])
    for c in coefficients[1:]:
        y = fma(y, x, c)
    return y


def _power_of_two(k: V) -> V:
    """2ᵏ for a whole k that is the exponent of a normal number: the shift drops all bits but those of k + bias."""
    f = format_of(k)
    return from_bits(bits(k + (f.magic + f.bias)) << f.mantissa)


def _scaled(y: V, k: V) -> V:
    """y·2ᵏ for a whole number k; it may be denormal, rounded once if 1/4 < |y|, or overflow."""
    if fills_avx512(y):
        return avx512("scalef", y, k)
    magic = format_of(k).magic
    half = (k * 0.5 + magic) - magic
    return y * _power_of_two(half) * _power_of_two(k - half)


def _whole(x: V) -> V:
    """x/ln 2, rounded to a whole number."""
    magic = format_of(x).magic
    return fma(x, 1 / math.log(2), magic) - magic


def _reduced(x: V) -> tuple[V, V]:
    """x = k·ln 2 + r with |r| ≤ ln(2)/2: r, and the whole number k. For |x| < 900, float32 |x| < 150."""
    f = format_of(x)
    k = _whole(x)
    return fma(k, -f.ln2[1], fma(k, -f.ln2[0], x)), k


def _at_most(bound: float, x: V) -> V:
    """x, or the bound where that is smaller; NaN stays."""
    return smaller(x.constant(bound), x)


def _at_least(bound: float, x: V) -> V:
    """x, or the bound where that is larger; NaN stays."""
    return larger(x.constant(bound), x)


def _expm1_core(r: V) -> V:
    """exp(r) - 1 for |r| ≤ ln(2)/2."""
    return fma(r * r, polynomial(format_of(r).exp, r), r)


def _exp_in_two(x: V) -> tuple[V, V]:
    """exp(x) as y·2ᵏ, for x that `_reduced` takes: y near 1, and the whole number k."""
    r, k = _reduced(x)
    return _expm1_core(r) + 1.0, k


def _piecewise(t: V, function: Pieces) -> V:
    """The function at 0 ≤ t ≤ its `most`."""
    magic = format_of(t).magic
    shifted = fma_down(t, 1 / function.step, magic)
    piece = bits(shifted)  # its number, in the lowest bits
    r = fma(shifted - magic, -function.step, t) if function.rising else t - looked_up(function.ends, piece)
    highest, *others, first = function.polynomials
    y = looked_up(highest, piece)
    for coefficients in others:
        piece = after(piece, y)
        y = fma(y, r, looked_up(coefficients, piece))
    start = looked_up(first, piece)
    return fma(y, r, r) + start if function.rising else fma(y, r, start)


SIXTEENTHS = [2.0 ** (j / 16) for j in range(16)]


def _exp_by_table(x: V) -> V:
    """exp(x) = 2ⁿ·2^(j/16)·exp(r), |r| ≤ ln(2)/32, j from the lowest bits of the rounded x·16/ln 2.

    For |x| beyond what `_reduced` takes r is anything, but bounded, and 2ⁿ makes 0 or ∞ of it, or NaN.
    """
    f = format_of(x)
    shifted = fma(x, 1 / math.log(2), f.magic / 16)
    k = shifted - f.magic / 16  # n + j/16; scalef rounds it down
    r = fma(k, -f.ln2[1], fma(k, -f.ln2[0], x))
    r = avx512("range", r, r.constant(1.0), SMALLER_SIZE)
    power = looked_up(SIXTEENTHS, bits(shifted))
    return avx512("scalef", fma(power, fma(r * r, polynomial(f.exp_near, r), r), power), k)


def exp(x: V) -> V:
    if fills_avx512(x):
        return _exp_by_table(x)
    f = format_of(x)
    return _scaled(*_exp_in_two(_at_least(f.least, _at_most(f.most, x))))


def _exp_of_minus(size: V) -> V:
    """exp(-size) for size ≥ 0."""
    return _scaled(*_exp_in_two(_at_least(format_of(size).least, -size)))


def expm1(x: V) -> V:
    f = format_of(x)
    r, k = _reduced(_at_least(-2.0 * f.mantissa, _at_most(f.most, x)))  # from there down it is -1
    half = _power_of_two(k - 1.0)  # for 2ᵏ itself may overflow
    y = fma(half, _expm1_core(r), half - 0.5) * 2.0
    return select(absolute(x) < 1e-30, x, y)  # that tiny, halves would lose a bit


def _log_of(fraction: V, k: V) -> V:
    """k·ln 2 + log(1 + fraction), for 1 + fraction in [√½, 1.5] and k a whole number.

    log(1 + f) = 2·artanh(s), s = f/(2 + f), arranged as in the C library of FreeBSD (e_log.c): 2s = f - s·f.
    """
    f = format_of(fraction)
    s = fraction / (fraction + 2.0)
    z = s * s
    h = fraction * fraction * 0.5
    return fma(k, f.ln2[0], fraction - (h - fma(s, fma(z, polynomial(f.log, z), h), k * f.ln2[1])))


def _split(x: V) -> tuple[V, V]:
    """x = 2ᵏ·(1 + f) with 1 + f in [√½, √2): f, and k as a float; for normal positive numbers."""
    f = format_of(x)
    root = int(math.sqrt(0.5) * 2 ** (f.mantissa + 1)) - 2**f.mantissa + ((f.bias - 1) << f.mantissa)  # bits of √½
    one = f.bias << f.mantissa
    i = bits(x) + (one - root)
    whole = from_bits((i >> f.mantissa) | bits(x.constant(2.0**f.mantissa)))  # 2²³ + k + bias, exactly
    k = whole - (2.0**f.mantissa + f.bias)
    fraction = from_bits((i & (2**f.mantissa - 1)) + root) - 1.0
    return fraction, k


def log(x: V) -> V:
    f = format_of(x)
    if fills_avx512(x):
        one = avx512("getmant", x, 0b1011)  # x/2ᵏ in [¾, 1½); NaN for negative numbers
        return _log_of(one - 1.0, avx512("getexp", x) - avx512("getexp", one))  # of 0 and ∞ the exponent is infinite
    small = x < f.tiny
    fraction, k = _split(select(small, x * 2.0 ** (f.mantissa + 2), x))
    y = _log_of(fraction, k - select(small, x.constant(f.mantissa + 2), 0.0))
    y = select(x < INF, y, x)
    return select(x > 0.0, y, select(x == 0.0, x.constant(-INF), select(x == x, x.constant(NAN), x)))


def log1p(x: V) -> V:
    u = x + 1.0
    fraction, k = _split(u)
    near = absolute(x) < 0.29  # then 1 + x is in [√½, √2], and what rounding takes from it would be missed
    fraction, k = select(near, x, fraction), select(near, 0.0, k)
    lost = select(x < 1.0, x - (u - 1.0), 1.0 - (u - x)) / u  # what rounding took from 1 + x, relative to it
    y = _log_of(fraction, k) + select(near, 0.0, lost)
    y = select(x < INF, select(absolute(x) < 1e-30, x, y), x)
    return select(x > -1.0, y, select(x == -1.0, x.constant(-INF), select(x == x, x.constant(NAN), x)))


def _log1p_of_at_most_one(z: V) -> V:
    """log(1 + z) for 0 ≤ z ≤ 1: 1 + z is halved where it exceeds √2."""
    big = z > 0.41421356
    return _log_of(select(big, (z - 1.0) * 0.5, z), select(big, z.constant(1.0), 0.0))


def tanh(x: V) -> V:
    """(e²ˣ - 1)/(e²ˣ + 1) of |x|; e²ˣ - 1 without cancellation. float32 in pieces, where tables can be looked up."""
    if fills_avx512(x) and format_of(x) is SINGLE:
        return copysign(_piecewise(_at_most(TANH_SINGLE.most, absolute(x)), TANH_SINGLE), x)
    size = _at_most(10.0 if format_of(x) is SINGLE else 20.0, absolute(x))  # from there on it is 1
    r, k = _reduced(size + size)
    scale = _power_of_two(k)
    e = fma(scale, _expm1_core(r), scale - 1.0)
    return copysign(e / (e + 2.0), x)


def sigmoid(x: V) -> V:
    e = _exp_of_minus(absolute(x))
    return select(x >= 0.0, x.constant(1.0), e) / (e + 1.0)


def softplus(x: V) -> V:
    return _at_least(0.0, x) + _log1p_of_at_most_one(_exp_of_minus(absolute(x)))


def silu(x: V) -> V:
    """x·σ(x), its power of two multiplied last: the parts may be denormal where the product is not."""
    f = format_of(x)
    x = _at_least(1.1 * f.least, x)  # from there down it is -0, and ∞ times 0 would be NaN
    r, k = _reduced(_at_least(1.1 * f.least, -absolute(x)))
    e = _expm1_core(r)
    positive = x >= 0.0
    quotient = select(positive, x, fma(x, e, x)) / (_scaled(e + 1.0, k) + 1.0)
    return _scaled(quotient, select(positive, x.constant(0.0), k))


def _product(x: V, y: V) -> tuple[V, V]:
    """x·y as a rounded number and what rounding took from it."""
    high = x * y
    if FUSED:
        return high, fma(x, y, -high)
    splitter = 2.0 ** ((format_of(x).mantissa + 2) // 2) + 1  # Veltkamp's splitting, Dekker's product (1971)
    a, c = x * splitter, y * splitter
    a, c = a - (a - x), c - (c - y)
    b, d = x - a, y - c
    return high, (((a * c - high) + a * d) + b * c) + b * d


def _tail(size: V, tail: Tail) -> tuple[V, V, V]:
    """The function at size ≥ 0 as y + low + y·lost, low and lost being what y has lost to rounding.

    One division serves both quotients.
    """
    near, far = size + tail.near, size + tail.far
    both = 1.0 / (near * far)
    v = far * both
    high, low = _product(near, v)
    lost = ((1.0 - high) - low) - (size - (near - tail.near)) * v
    p, half = polynomial(tail.polynomial, (size - tail.far) * (near * both)), v * 0.5
    y = fma(v, p, half)
    return y, fma(v, p, half - y), lost


def _exp_of_minus_square(size: V, factor: float) -> tuple[V, V]:
    """exp(-factor·size²) as (1 + e)·2ᵏ: e and k; with what rounding took from the square."""
    high, low = _product(size, size)
    k = _whole(high * -factor)
    ln2 = format_of(size).ln2
    return _expm1_core(fma(k, -ln2[0], high * -factor) - fma(k, ln2[1], low * factor)), k


def erf(x: V) -> V:
    f = format_of(x)
    size = absolute(x)
    if fills_avx512(x):
        function = ERF_SINGLE if f is SINGLE else ERF_DOUBLE
        return copysign(_piecewise(_at_most(function.most, size), function), x)
    t = _at_most(f.span[1], size)
    r, k = _reduced(t * polynomial(f.log_erfc, t))
    far = fma(_expm1_core(r) + 1.0, -_power_of_two(k), x.constant(1.0))
    return select(size < f.span[0], fma(polynomial(f.erf, x * x), x, x), copysign(far, x))


def erfc(x: V) -> V:
    f = format_of(x)
    size = _at_most(f.erfc.most, absolute(x))
    e, k = _exp_of_minus_square(size, 1.0)
    y, low, lost = _tail(size, f.erfc)
    y = _scaled(y + fma(y, e + lost, low), k)
    return select(x < 0.0, 2.0 - y, y)


def gelu(x: V) -> V:
    """x·Φ(x) as 0 or x less |x|·Φ(-|x|), of which nothing cancels. float32 in pieces, where tables can be looked up."""
    if fills_avx512(x) and format_of(x) is SINGLE:
        size = avx512("range", x, x.constant(GELU_SINGLE.most), SMALLER_SIZE | POSITIVE)
        y = larger(x.constant(-0.0), x) - _piecewise(size, GELU_SINGLE)
        least = -GELU_SINGLE.most
        return choice(any_below(x, least), lambda: select(x < least, _gelu_by_tail(x), y), lambda: y)
    return _gelu_by_tail(x)


def _gelu_by_tail(x: V) -> V:
    f = format_of(x)
    size = _at_most(f.normal.most, absolute(x))
    e, k = _exp_of_minus_square(size, 0.5)
    y, low, lost = _tail(size, f.normal)
    y, more = _product(size, y)
    y = _scaled(y + fma(y, e + lost, fma(size, low, more)), k)
    return select(x >= 0.0, x, x.constant(-0.0)) - y


SIN_MOST = 1e6  # up to here sin and cos are exact to rounding; beyond, NaN, and the caller asks NumPy
# (sin(r)/r - 1)/r² and (cos(r) - 1 + r²/2)/r⁴, |r| ≤ π/4, in r²; errors 1e-17 and 5e-19
SIN = (1.5917848524808262e-10, -2.5051127944014188e-08, 2.755731608381636e-06, -0.00019841269836722418,
       0.008333333333330925, -0.16666666666666666)  # fmt: skip
COS = (-1.1382456778061306e-11, 2.0876143827993133e-09, -2.7557317260008837e-07, 2.480158729874307e-05,
       -0.0013888888888887382, 0.041666666666666664)  # fmt: skip
HALF_PI = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)  # 33 bits, 33 bits, the rest


def _circular(x: V, quarters: int) -> V:
    """sin(x + quarters·π/2), in float64 throughout.

    π/2 is taken off in three parts (Cody and Waite 1980), of which the first two are exact, for k below 2²⁰.
    """
    wide = converted(x, ir.DoubleType())
    shifted = wide * (2 / math.pi) + DOUBLE.magic
    k = shifted - DOUBLE.magic
    a, b = wide - k * HALF_PI[0], k * HALF_PI[1]
    r = a - b
    low = (a - r) - b - k * HALF_PI[2]
    high = r + low
    low = (r - high) + low
    s = high * high
    sine = high + (high * s * polynomial(SIN, s) + low * (1.0 - s * 0.5))
    w = 1.0 - s * 0.5
    cosine = w + (((1.0 - w) - s * 0.5) + (s * s * polynomial(COS, s) - high * low))
    quadrant = bits(shifted) + quarters
    y = select((quadrant & 1) == 0, sine, cosine)
    y = select((quadrant & 2) == 0, y, -y)
    return converted(select(absolute(wide) <= SIN_MOST, y, wide.constant(NAN)), x.element)


def sin(x: V) -> V:
    return select(absolute(x) < 1e-30, x, _circular(x, 0))  # keeps -0, and what is denormal


def cos(x: V) -> V:
    return _circular(x, 1)


# What activations do to cotangents. `g` is the cotangent of the output; the others are what the rules in
# minigrad/ops keep. They multiply in such an order that nothing underflows or loses digits before it must.


def tanh_vjp(g: V, x: V) -> V:
    """g/cosh²x; 1/cosh twice, since its square underflows where the product need not."""
    e = _exp_of_minus(absolute(x))
    sech = e * 2.0 / fma(e, e, e.constant(1.0))
    return g * sech * sech


def sigmoid_vjp(g: V, y: V, x: V) -> V:
    return g * (y * sigmoid(-x))


def softplus_vjp(g: V, x: V) -> V:
    return g * sigmoid(x)


def relu(x: V) -> V:
    return _at_least(0.0, x)


def relu_vjp(g: V, y: V) -> V:
    return select(y > 0.0, g, 0.0)


def leaky_relu(x: V, slope: V) -> V:
    return select(x > 0.0, x, x * slope)


def leaky_relu_vjp(g: V, x: V, slope: V) -> V:
    return select(x > 0.0, g, g * slope)


def elu(x: V, alpha: V) -> V:
    return select(x > 0.0, x, expm1(_at_most(0.0, x)) * alpha)


def elu_vjp(g: V, x: V, alpha: V) -> V:
    return select(x > 0.0, g, g * (exp(_at_most(0.0, x)) * alpha))


def _lowered(y: V, k: V) -> tuple[V, V]:
    """y·2ᵏ, k ≤ 0, with up to twelve of the twos in y, exactly: else what it is multiplied with next might overflow."""
    most = larger(k, k.constant(-12.0))
    return y * _power_of_two(most), k - most


def gelu_vjp(g: V, x: V) -> V:
    """g·(Φ(x) + x·φ(x)); the power of two that both have is multiplied last."""
    f = format_of(x)
    size = _at_most(f.normal.most, absolute(x))
    e, k = _exp_of_minus_square(size, 0.5)
    tail, _, _ = _tail(size, f.normal)
    y = fma(e + 1.0, size * (1 / math.sqrt(2 * math.pi)), -fma(tail, e, tail))
    positive = x > 0.0
    y, k = _lowered(y, k)
    y = _scaled(select(positive, y, g * -y), k)
    return select(positive, fma(g, y, g), select(x == -INF, g * -0.0, y))


def silu_vjp(g: V, x: V) -> V:
    """g·σ(x)·(1 + x·σ(-x)), the power of two of σ multiplied last."""
    f = format_of(x)
    size = _at_most(-1.1 * f.least, absolute(x))
    y, k = _exp_in_two(-size)
    e = _scaled(y, k)
    below = 1.0 / (e + 1.0)  # σ(|x|)
    positive = x > 0.0
    slope = below * fma(select(positive, size, -size), select(positive, e, x.constant(1.0)) * below, x.constant(1.0))
    y, k = _lowered(select(positive, slope, slope * y), select(positive, x.constant(0.0), k))
    return _scaled(g * y, k)


def erf_vjp(g: V, x: V) -> V:
    half = exp(x * x * -0.5)
    return g * (half * (2 / math.sqrt(math.pi)) * half)  # in this order, a denormal product is rounded once
