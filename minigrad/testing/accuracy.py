"""float32 rules, judged by their backward error.

A rule that is right in exact arithmetic may still lose every digit in float32: `1 - y²` for the slope of tanh is 0 or
1.2e-7 where it should be 1.7e-7. The reference is the same rule in float64 at the same, rounded, numbers. What is
allowed follows from the rule itself: as if it had been computed exactly from inputs a few eps off (backward error), so

    |float32 - float64| ≤ units·eps·(|value| + how far it sways when its inputs change by a relative 1),

where the sway is measured: the float64 rule at inputs, and cotangents, that differ by a random relative 2⁻²⁰.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad.testing.report import Finding
from minigrad.testing.subject import NUDGE, Subject, nudged

Array = np.ndarray[Any, Any]

EPS = float(np.finfo(np.float32).eps)
SUBNORMAL = float(np.finfo(np.float32).smallest_subnormal)
DRAWS = 8


@np.errstate(all="ignore")
def lost_digits(low: Subject, high: Subject, units: float) -> Finding | None:
    """What is wrong with a VJP in float32 beside the same in float64 at the same inputs; None if nothing is.

    Args:
        low: the subject in float32.
        high: the same in float64, at the very same numbers.
        units: how many eps are allowed: few for one operation, more for a composition.
    """
    rng = np.random.default_rng(3)
    us = [_powers(y.shape, rng) for y in low.outputs]
    bars = low.pull([u.astype(y.dtype) for u, y in zip(us, low.outputs, strict=True)])
    wants = [np.asarray(want, np.float64) for want in high.pull(us)]
    sway = [np.zeros(want.shape) for want in wants]
    for _ in range(DRAWS):
        there = high.at([nudged(x, rng) for x in high.inputs]).pull([nudged(u, rng) for u in us])
        sway = [s + ((b - w) / NUDGE) ** 2 for s, b, w in zip(sway, there, wants, strict=True)]
    # rounded results may be among the subnormal ones, and a rule that uses them magnifies that
    floor = 4 * SUBNORMAL
    for name, bar, want, s in zip(low.input_names, bars, wants, sway, strict=True):
        bound = EPS * (np.abs(want) + 4 * np.sqrt(s / DRAWS)) + floor / units
        excess = np.abs(bar - want) / bound
        sound = np.isfinite(want) & (np.abs(want) < np.finfo(np.float32).max / 2**12) & np.isfinite(bound)
        wrong = sound & ~(excess <= units)
        if np.any(wrong):
            i = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(excess, nan=np.inf), -1.0)), want.shape)
            return Finding(
                "fail",
                f"the VJP for {name} loses its digits in float32",
                f"{name}[{', '.join(map(str, i))}]" if i else name,
                f"float32 gives {float(bar[i]):.9g}, float64 at the same numbers {want[i]:.9g}: "
                f"{excess[i]:.3g} units of eps, of which {units:g} are allowed",
                formula=low.formula,
            )
    return None


def _powers(shape: Sequence[int], rng: np.random.Generator) -> Array:
    return rng.choice([-1.0, 1.0], shape) * np.exp2(-rng.integers(0, 8, shape).astype(float))
