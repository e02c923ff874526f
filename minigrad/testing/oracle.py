"""What a directional derivative must be, as the forward says: the oracles, best first.

A linear operation maps tangents as it maps values, a bilinear one by the product rule: exact, whatever the step. An
analytic function has the complex step. All others have extrapolated differences with an error bar. Where somebody
disagrees with these, there is a second look: other samples, and the slopes on either side, between which a kink leaves
the choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minigrad.testing.complex_step import STEP, derivative
from minigrad.testing.numeric import COARSE, FIRST, Line, noise
from minigrad.testing.probes import MOST, Point, directions
from minigrad.testing.subject import Subject

Array = np.ndarray[Any, Any]

BARS = 4.0  # how many error bars two values may be apart
ROUNDINGS = 32.0  # and how many roundings of the terms that are summed
AGAIN = 0.1875  # the first step of the second look: other samples than those at 1/4, 1/8, ...
SHORTEST = 2.0**-800  # of directions that the complex step can take without underflow
EXACT = "exact adjoints"
COMPLEX = "the complex step"
DIFFERENCES = "extrapolated differences"


class Truth(NamedTuple):
    """What a directional derivative must be, for each output: between `low` and `high`, give or take `error`.

    They differ only at a kink. The error is inf where no derivative was found. `size` is the largest value that the
    function has nearby. All (columns,), and for several directions (probes, columns).
    """

    low: Array
    high: Array
    error: Array
    size: Array
    oracle: str

    def along(self, p: int) -> Truth:
        """That of direction p alone, (columns,)."""
        return Truth(self.low[p], self.high[p], self.error[p], self.size[p], self.oracle)

    @property
    def alone(self) -> Truth:
        """That of one direction as that of a list of one, (1, columns)."""
        return Truth(self.low[None], self.high[None], self.error[None], self.size[None], self.oracle)


def measured(point: Point, vs: Array) -> tuple[Truth, Array]:
    """The derivatives along each of the directions, by the best oracle that there is; and the measured noise."""
    count, m = len(vs), len(point.y)
    fs = [point.along(v) for v in vs]

    def all_of_them(t: float) -> Array:
        return np.concatenate([_or_nan(f, t, m) for f in fs])

    line = Line(all_of_them, point.eps, point.grain, np.tile(point.noise, count))
    rough = line.noise.reshape(count, m)
    exact = [point.subject.along(point.unstrung(v, point.inputs)) for v in vs]
    if all(d is not None for d in exact):
        value = np.array([point.folded(d) for d in exact if d is not None]).reshape(count, m)
        error, oracle = rough + point.eps * np.abs(value), EXACT
    else:
        value, error = (a.reshape(count, m) for a in line.slopes())
        steps = _complex_steps(point, vs, value, error)
        value, error, oracle = (*steps, COMPLEX) if steps is not None else (value, error, DIFFERENCES)
    return Truth(value, value, error, np.maximum(line.size.reshape(count, m), point.flat), oracle), rough


def _or_nan(f: Callable[[float], Array], t: float, m: int) -> Array:
    try:
        return f(t)
    except (ValueError, ArithmeticError):
        return np.full(m, np.nan)


def _complex_steps(point: Point, vs: Array, value: Array, error: Array) -> tuple[Array, Array] | None:
    """The derivatives by the complex step, if the function is analytic as it is written. Differences must not
    contradict it; where they know nothing, another step must give the same."""
    if point.grain > COARSE:
        return None
    found = []
    for v, d, e in zip(vs, value, error, strict=True):
        here, again = (_complex_step(point, v, point.x, step) for step in (STEP, STEP * 2.0**-20))
        if here is None or again is None:
            return None
        far = np.abs(here - d) > 8 * BARS * e + 2.0**-30 * np.abs(d)
        if np.any(np.where(np.isfinite(e), far, ~(np.abs(here - again) <= 2.0**-40 * np.abs(here)))):
            return None
        found.append(here)
    return np.array(found), 4 * point.eps * np.abs(found)


def _complex_step(point: Point, v: Array, x: Array, step: float = STEP) -> Array | None:
    if np.any((v != 0) & (np.abs(v) < SHORTEST)):
        return None
    xs, vs = point.unstrung(x, point.inputs), point.unstrung(v, point.inputs)
    dots = derivative(point.subject.complex_forward, xs, vs, step)
    return None if dots is None else point.folded(dots)


def look_again(point: Point, v: Array, truth: Truth) -> Truth:
    """The second look at what somebody disagrees with. Where the oracle was exact, it stays, with its own noise added;
    of the differences, only that there is a kink counts."""
    other = second_look(point, v)
    if truth.oracle == DIFFERENCES:
        return other
    rough = np.zeros(len(truth.low))
    if truth.oracle == COMPLEX:
        nearby = lambda t: _complex_step(point, v, point.x + t * point.anywhere)
        rough = noise(nearby, point.eps)  # type: ignore[arg-type]
    kink = other.low < other.high
    low, high = np.where(kink, other.low, truth.low), np.where(kink, other.high, truth.high)
    return Truth(low, high, np.where(kink, other.error, truth.error + rough), truth.size, truth.oracle)


def second_look(point: Point, v: Array) -> Truth:
    """The derivative along v from other samples, and at a kink the slopes on either side.

    Where outputs are summed, each that has a kink is looked at alone: any slope between its two is right, whatever the
    others have.
    """
    kinked, each = point.kinked(v), point.each(v)
    line = point.line(v, AGAIN)
    if len(kinked):
        smooth = np.ones(sum(y.size for y in point.outputs), bool)
        smooth[kinked] = False
        others = lambda t: point.summed(np.where(smooth, each(t), 0.0))
        line = Line(others, point.eps, point.grain, point.noise, AGAIN)
    truth = _sides(point, line)
    truth = truth._replace(size=np.maximum(truth.size, point.flat))
    for start in range(0, len(kinked), MOST):
        some = kinked[start : start + MOST]
        taken = lambda t: each(t)[some]  # noqa: B023
        alone = _sides(point, Line(taken, point.eps, point.grain, None, AGAIN))
        weights = point.weights[some]  # type: ignore[index]
        a, b = weights * alone.low, weights * alone.high
        for total, part in (
            (truth.low, np.minimum(a, b)),
            (truth.high, np.maximum(a, b)),
            (truth.error, np.abs(weights) * alone.error),
        ):
            np.add.at(total, some // point.block, part)
    return truth


def _sides(point: Point, line: Line) -> Truth:
    """What a line of outputs tells: the derivative, or where there is a kink the slopes on either side."""
    middle = line.slopes()
    left, right = line.sides()
    value, error = middle.value.copy(), middle.error.copy()
    either, both = np.isfinite(left.error) | np.isfinite(right.error), np.isfinite(left.error + right.error)
    bars = BARS * (left.error + right.error) + 2.0**10 * point.eps * np.abs(left.value)
    kink = both & (np.abs(left.value - right.value) > bars)
    # the sides agree: they may be known better, as of x·|x|; or they belie what is between them, as at a pole
    alike = both & ~kink & (left.error + right.error < error)
    astray = both & ~kink & ~alike & (np.abs(left.value - value) > bars + BARS * error)
    # a border of the domain, beyond which the function is not a number, has one slope; a jump has none
    beyond = np.isnan(np.array(line.ups[-4:])).all(axis=0) | np.isnan(np.array(line.downs[-4:])).all(axis=0)
    border = either & ~both & beyond & np.isinf(error)
    one = np.where(np.isfinite(left.error), left.value, right.value)
    value = np.where(border | alike, one, value)
    error = np.where(border, np.fmin(left.error, right.error), np.where(kink | alike, left.error + right.error, error))
    # one side settles, the other one does not, and what is between them agrees with neither: all steps are too long
    settled = np.fmin(left.error, right.error)
    astray |= (
        either & ~both & ~border & (np.abs(one - value) > BARS * (error + settled) + 2.0**10 * point.eps * np.abs(one))
    )
    error[astray] = np.inf
    low = np.where(kink, np.minimum(left.value, right.value), value)
    high = np.where(kink, np.maximum(left.value, right.value), value)
    return Truth(low, high, error, line.size, DIFFERENCES)


def longer_steps(point: Point, v: Array, *known: Truth, first: float = FIRST) -> Truth:
    """The best that is known along v: steps up to 2²⁰ times longer help where rounding hides what the function does."""
    value, error = point.line(v, first * 2.0**20).slopes((44,))
    found = [*known, Truth(value, value, error, known[0].size, DIFFERENCES)]
    best = np.argmin([t.error for t in found], axis=0)
    for k, truth in enumerate(known):
        best[truth.low < truth.high] = k  # a kink
    columns = np.arange(len(best))
    low, high, error = (np.array([t[k] for t in found])[best, columns] for k in range(3))
    return Truth(low, high, error, known[0].size, DIFFERENCES)


@np.errstate(all="ignore")
def at_kink(subject: Subject) -> bool:
    """Whether some output has another slope on one side of the point than on the other."""
    point = Point(subject)
    vs = directions(point, np.ones(len(point.x)), np.random.default_rng(0))
    looks = (second_look(point, v) for v in vs)
    return any(np.any((t.low < t.high) & np.isfinite(t.error)) for t in looks)
