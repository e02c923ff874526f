"""Numerical derivatives that know their own error.

A difference quotient has two errors. Truncation falls with the step h: for a central difference it is a series in h²,
for a one-sided one in h, of which Richardson's extrapolation over h, h/2, h/4, ... removes the first terms (Richardson
1911; Ridders, "Accurate computation of F'(x) and F'(x)F''(x)", 1982). Rounding grows as 1/h; its size is measured, from
a difference table of values so close together that nothing but noise is left of it (Moré and Wild, "Estimating
computational noise", 2011). An extrapolated value counts only if every smaller step agrees with it, within what
truncation and rounding allow there: so neither a kink among the steps nor a chance agreement passes for a derivative.

Read `Line`: a function of one number near 0, or many of them side by side in the columns of an array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Function = Callable[[float], Array]  # t -> (columns,) float64

FIRST = 0.25  # the largest step
COLUMNS = 7  # of Richardson's triangle
CONVERGED = 2.0**-6  # an extrapolation that changes by more, relative to the quotients, has not begun to converge
SPACING = 512  # of the points of a noise table, in units of eps: beyond rounding, far below what the function feels
STRETCHES = (1.37, 1.118)  # of the spacing: multiples of a power of two would all be rounded alike
POINTS = 9  # of a noise table
WIDER, WIDEST = (2.0**6, 2.0**12, 2.0**18), 2.0**-24  # times as wide are the spaces of further ones; their limit
LEAST = 2.0**-1070  # of the rounding: the least numbers have no more digits
COARSE = 2.0**-30  # between the unit roundoffs of float64 and float32


class Slopes(NamedTuple):
    """Derivatives, and how far off each may be: inf where none was found. Both (columns,) float64."""

    value: Array
    error: Array


def _table(f: Function, eps: float, stretch: float = STRETCHES[0]) -> Array:
    """Values at equal spaces on one side of 0, where there may be a kink."""
    with np.errstate(all="ignore"):
        return np.stack([f(k * stretch * SPACING * eps) for k in range(1, POINTS + 1)])


def _flat(table: Array) -> Array:
    """Columns of which many neighbours are equal: they were rounded more coarsely than the table is spaced."""
    return np.mean(np.diff(table, axis=0) == 0, axis=0) > 0.3


def noise(f: Function, eps: float, stretch: float = STRETCHES[0], wider: Sequence[float] = WIDER) -> Array:
    """The rounding noise of each column of f near 0: the standard deviation of one value, to a factor of two or so.

    The k-th differences of noise of variance σ² have the variance σ²·(2k)!/(k!)² (Moré and Wild, equation 2.3), those
    of the function itself are next to nothing at so small a spacing for k ≥ 3. Where a small number was added to a
    large one the table may be flat, and hide the noise: others, `wider` ones, show it.

    Example: of cos, of cos in float32, and of 1 + x for a tiny x.
        >>> noise(lambda t: np.array([np.cos(1 + t)]), eps=2.0**-52) < 1e-16
        array([ True])
        >>> 1e-9 < noise(lambda t: np.array([np.cos(np.float32(1 + t))], float), eps=2.0**-23)[0] < 1e-7
        np.True_
        >>> 1e-17 < noise(lambda t: np.array([1 + 1e-4 * (1 + t)]), eps=2.0**-52)[0] < 1e-15
        np.True_
    """
    table = _table(f, eps, stretch)
    found, flat = _roughness(table), _flat(table)
    for factor in wider:
        if not np.any(flat) or factor * SPACING * eps > WIDEST:
            break
        table = _table(f, eps, factor * stretch)
        stairs = flat & ~_flat(table)  # and no single jump
        found, flat = np.where(stairs, np.maximum(found, _roughness(table)), found), flat & ~stairs
    return np.where(np.isfinite(found), found, np.inf)


def _roughness(table: Array) -> Array:
    """The standard deviation of one value of a table."""
    with np.errstate(all="ignore"):
        scale = np.max(np.abs(table), axis=0)
        scale = np.where((scale > 0) & np.isfinite(scale), scale, 1.0)
        table, gamma, levels = table / scale, 1.0, []
        for k in range(1, POINTS - 1):
            table = np.diff(table, axis=0)
            gamma *= k / (2 * (2 * k - 1.0))  # (k!)² / (2k)!
            levels.append(np.sqrt(gamma * np.mean(table**2, axis=0)))
        return scale * np.median(levels[2:], axis=0)


def grain(f: Function, eps: float) -> float:
    """In which unit roundoff a function computes: eps, or 2⁻²³ if some column has the roughness of float32.

    From near, that looks flat. Stairs do, too: but of the third differences of their values few are large, of those of
    rounded values most, so the median tells; and wide stairs are rougher than rounding.

    Example: a function of float64 that computes in float32, and stairs.
        >>> grain(lambda t: np.sin(np.array([1.0, 2.0 + t], np.float32)).astype(float), 2.0**-52) == 2.0**-23
        True
        >>> grain(lambda t: np.floor(1000.5 * np.array([1 + t])), 2.0**-52) == 2.0**-52
        True
    """
    flat = _flat(_table(f, eps))
    if eps > COARSE or not np.any(flat):
        return eps
    with np.errstate(all="ignore"):
        for spacing in (4 * STRETCHES[0], 32 * STRETCHES[1]):
            far = np.stack([f(spacing * k * 2.0**-23) for k in range(1, 3 * POINTS)])
            rough = np.median(np.abs(np.diff(far, n=3, axis=0)), axis=0) / np.max(np.abs(far), axis=0)
            if np.any(flat & (rough > 2.0**-27) & (rough < 2.0**-20)):
                return 2.0**-23
    return eps


def extrapolated(quotients: Array, floors: Array, ratio: float) -> Slopes:
    """The limits of difference quotients of steps h, h/2, h/4, ..., and their errors.

    Args:
        quotients: (steps, columns), nan where the function was not finite.
        floors: what rounding does to each of them, of the same shape.
        ratio: by what the first term of truncation falls from one step to the next: 4 for central differences, 2 for
            one-sided ones.
    """
    steps, columns = quotients.shape
    values, errors, rows = [], [], []
    largest = np.fmax.accumulate(np.abs(quotients)[::-1], axis=0)[::-1]  # of this step and all smaller ones
    old, factor = quotients, 1.0
    for k in range(1, min(steps - 2, COLUMNS)):
        factor *= ratio
        new = np.full_like(quotients, np.nan)
        new[k:] = old[k:] + (old[k:] - old[k - 1 : -1]) / (factor - 1)
        error = np.maximum(np.abs(new[k:] - old[k:]), np.abs(new[k:] - old[k - 1 : -1]))
        error[error > np.maximum(4 * floors[k:], CONVERGED * largest[k:])] = np.inf
        error += 2 * floors[k:]
        value, error = new[k:-2], error[:-2]
        for later in (1, 2):  # two smaller steps have a say at least, extrapolated as well
            there = slice(k + later, steps - 2 + later)
            error[np.abs(new[there] - value) > 2 * error + 6 * floors[there]] = np.inf
        values.append(value)
        errors.append(error)
        rows.append(np.arange(k, steps - 2))
        old = new
    value, error, row = np.concatenate(values), np.concatenate(errors), np.concatenate(rows)
    error[~np.isfinite(error)] = np.inf
    best = np.argsort(error, axis=0, kind="stable")
    result = Slopes(np.full(columns, np.nan), np.full(columns, np.inf))
    todo = np.arange(columns)
    powers = ratio ** -np.arange(steps, dtype=float)
    for candidate in best:
        pick = (candidate[todo], todo)
        v, e, i = value[pick], error[pick], row[candidate[todo]]
        off = np.abs(quotients[:, todo] - v)
        truncation = off[i, np.arange(len(todo))] * powers[:, None] / powers[i]
        agree = off <= 3 * truncation + 6 * floors[:, todo] + 3 * e
        good = np.all(agree | (np.arange(steps)[:, None] < i), axis=0) & np.isfinite(e)
        result.value[todo[good]], result.error[todo[good]] = v[good], e[good]
        todo = todo[~good & np.isfinite(e)]
        if not len(todo):
            break
    return result


class Line:
    """A function of one number t, sampled at steps of ±1/4, ±1/8, ... around 0: as many as its derivative takes.

    Args:
        f: t -> (columns,) float64; a ValueError or ArithmeticError counts as nan.
        eps: the unit roundoff of its values, 2⁻⁵² or 2⁻²³.
        grain: that in which it computes, which may be coarser.
        least: the noise that each column has at least, (columns,), if it is known from elsewhere: it saves many values.
        first: the largest step.

    Example: the derivative of exp at 0, the slopes of |t| on either side, and a function that jumps.
        >>> line = Line(lambda t: np.array([np.exp(t), abs(t), float(t > 0)]), eps=2.0**-52)
        >>> value, error = line.slopes()
        >>> abs(value[0] - 1) <= error[0] < 1e-13, error[2]
        (np.True_, np.float64(inf))
        >>> left, right = line.sides()
        >>> left.value[1].round(6), right.value[1].round(6)
        (np.float64(-1.0), np.float64(1.0))
    """

    def __init__(self, f: Function, eps: float, grain: float = 0.0, least: Array | None = None, first: float = FIRST):
        self.f = f
        self.eps = eps
        self.grain = grain or eps
        self.least = least
        self.first = first
        self.middle = self.at(0.0)
        self.ups: list[Array] = []
        self.downs: list[Array] = []
        self._noise: Array | None = None

    def at(self, t: float) -> Array:
        """The function, nan where it can't be computed."""
        try:
            with np.errstate(all="ignore"):
                return self.f(t)
        except (ValueError, ArithmeticError):
            if t == 0.0:
                raise
            return np.full(len(self.middle), np.nan)

    def sample(self, count: int) -> None:
        """Have so many steps at least."""
        for k in range(len(self.ups), count):
            h = self.first / 2**k
            self.ups.append(self.at(h))
            self.downs.append(self.at(-h))

    @property
    def noise(self) -> Array:
        """The rounding noise of each column, measured once."""
        if self._noise is None:
            wider = WIDER if self.least is None else ()
            self._noise = noise(self.at, self.grain, wider=wider)
            self._noise = self._noise if self.least is None else np.maximum(self._noise, self.least)
        return self._noise

    def _quotients(self, ups: Array, downs: Array, spans: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):
            rounding = self.noise + self.eps / 2 * np.maximum(np.abs(ups), np.abs(downs)) + LEAST
            quotients = (ups - downs) / spans[:, None]
            return np.where(np.isfinite(quotients), quotients, np.nan), 2 * rounding / np.abs(spans[:, None])

    def slopes(self, counts: Sequence[int] = ()) -> Slopes:
        """The derivatives at 0, by central differences: of so many steps, or of more if that was too few."""
        for count in counts or ((10, 20, 32) if self.grain < COARSE else (8, 12, 16)):
            self.sample(count)
            steps = self.first / 2.0 ** np.arange(count)
            quotients = self._quotients(np.array(self.ups), np.array(self.downs), 2 * steps)
            with np.errstate(all="ignore"):
                result = extrapolated(*quotients, ratio=4.0)
                small = 2.0**22 * self.eps * np.abs(result.value) + 64 * self.eps * np.abs(self.middle)
            if np.all(result.error <= small):
                break
        result.error[self.chaotic] = np.inf
        return result

    @property
    def size(self) -> Array:
        """The largest finite value of each column that was seen."""
        values = np.abs([self.middle, *self.ups, *self.downs])
        return np.max(np.where(np.isfinite(values), values, 0.0), axis=0)

    @property
    def chaotic(self) -> Array:
        """Columns that vary as much from near as from far, in a way that is not their rounding: the steps, the smallest
        ones too, are far too long for them."""
        return (self.noise > 2.0**-12 * self.size) & (
            self.noise > 2.0**10 * (0.0 if self.least is None else self.least)
        )

    def sides(self) -> tuple[Slopes, Slopes]:
        """The derivatives at 0 from the left and from the right."""
        count = 32 if self.grain < COARSE else 16
        self.sample(count)
        steps = self.first / 2.0 ** np.arange(count)
        middle = np.broadcast_to(self.middle, (count, len(self.middle)))
        with np.errstate(all="ignore"):
            left, right = (
                extrapolated(*self._quotients(np.array(there), middle, sign * steps), ratio=2.0)
                for there, sign in ((self.downs, -1), (self.ups, 1))
            )
        for side in (left, right):
            side.error[self.chaotic] = np.inf
        return left, right
