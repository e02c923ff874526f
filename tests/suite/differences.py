"""Derivatives of a function of one number by differences, each with an error bar: what rules are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

EPS = float(np.finfo(np.float64).eps)
LEVELS = 5


def slope(f: Callable[[float], float], step: float = 2.0**-7) -> tuple[float, float]:
    """f′(0), and how far off it may be: central differences at step, step/2, ..., extrapolated to step 0.

    The error of a central difference is a series in even powers of the step (Richardson 1911): each column of the
    triangle removes one of them.
    """
    steps = [step / 2**k for k in range(LEVELS)]
    ups, downs = [f(h) for h in steps], [f(-h) for h in steps]
    quotients = [(up - down) / (2 * h) for up, down, h in zip(ups, downs, steps, strict=True)]
    return _extrapolated(quotients, 4.0, _rounding(ups + downs, steps))


def side_slope(f: Callable[[float], float], side: int, step: float = 2.0**-7) -> float:
    """The slope of f at 0 from the right (side = 1) or from the left (-1), as f may have a kink there."""
    steps = [side * step / 2**k for k in range(LEVELS)]
    values = [f(h) for h in steps]
    return _extrapolated([(v - f(0.0)) / h for v, h in zip(values, steps, strict=True)], 2.0, 0.0)[0]


def _rounding(values: Sequence[float], steps: Sequence[float]) -> float:
    """What the rounding of the values may do to a difference of the smallest step; extrapolation doubles it at most."""
    return 8 * EPS * max(map(abs, values)) / min(map(abs, steps))


def _extrapolated(column: list[float], ratio: float, rounding: float) -> tuple[float, float]:
    """The limit of a sequence whose errors fall by powers of `ratio`, and the last change on the way there."""
    factor, change = ratio, np.inf
    while len(column) > 1:
        finer = [(factor * b - a) / (factor - 1) for a, b in pairwise(column)]
        change = abs(finer[-1] - column[-1])
        column, factor = finer, factor * ratio
    return column[0], change + rounding
