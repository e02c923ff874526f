"""Where exactly a gradient disagrees, how that looks, and why something could not be decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.testing.looks import looks
from minigrad.testing.numeric import Line
from minigrad.testing.oracle import BARS, Truth, second_look
from minigrad.testing.probes import Point
from minigrad.testing.report import Finding

Array = np.ndarray[Any, Any]
Excess = Callable[[Array, Array, Truth], float]  # how far the VJP of u is off along v, in tolerances

MANY = 64  # how many entries are looked at to say how a wrong gradient looks


def evidence(point: Point, u: Array, v: Array, truth: Truth, excess: Excess) -> tuple[str, str, str, tuple[str, ...]]:
    """What is wrong, where, the two values, and how it looks; for a cotangent u and a direction v that disagree.

    Both are halved for as long as a half still disagrees: in the end there is one entry of one input and one output,
    unless only several together are wrong beyond the noise.
    """
    u, _ = _halved(u, lambda half: (excess(half, v, truth), truth))
    v, truth = _halved(v, lambda half: (excess(u, half, there := second_look(point, half)), there), truth)
    inputs, outputs = np.flatnonzero(v), np.flatnonzero(u)
    x_bar = point.pull(u)
    i, j = int(inputs[0]), int(outputs[0])
    where = point.entry(i) if len(inputs) == 1 else f"{len(inputs)} entries of {point.names(v)} together"
    to = point.entry(j, "output") if len(outputs) == 1 else f"{len(outputs)} outputs together"
    if len(inputs) == len(outputs) == 1:
        numbers = f"the VJP gives {x_bar[i] / u[j] + 0.0:.12g}, {shown(truth, j, v[i])}"
    else:
        numbers = f"along a direction the VJP gives {x_bar @ v:.12g}, it is {truth.low @ u:.12g} by {truth.oracle}"
    kink = np.any(truth.low[outputs] < truth.high[outputs])
    return f"the VJP for {point.names(v)} is wrong", f"{where}, {to}", numbers, () if kink else _looks(point, i)


def _halved(vector: Array, tried: Callable[[Array], tuple[float, Any]], truth: Any = None) -> tuple[Array, Any]:
    """The smallest part of a vector that is found by halving and still disagrees, and the truth there."""
    while np.count_nonzero(vector) > 1:
        entries = np.flatnonzero(vector)
        found = []
        for part in (entries[: len(entries) // 2], entries[len(entries) // 2 :]):
            half = np.zeros_like(vector)
            half[part] = vector[part]
            found.append((*tried(half), half))
        off, there, half = max(found, key=lambda f: f[0])
        if off <= 1:
            break
        vector, truth = half, there
    return vector, truth


def shown(truth: Truth, j: int, step: float) -> str:
    """The truth for output j, for a unit of the input."""
    low, high = sorted((truth.low[j] / step + 0.0, truth.high[j] / step + 0.0))
    bar = truth.error[j] / abs(step)
    if low == high:
        return f"it is {low:.12g} ± {bar:.0e} by {truth.oracle}"
    return f"but at this kink the slopes on either side are {low:.12g} and {high:.12g}, ± {bar:.0e}"


def _looks(point: Point, i: int) -> tuple[str, ...]:
    """How the cotangent of the input with entry i looks beside the right one."""
    u = np.where(np.arange(len(point.y)) % 2, -1.0, 1.0)
    got = point.pull(u)
    here = point.array_of(i)
    found = {}
    for k, (name, x, (a, b)) in enumerate(zip(point.subject.input_names, point.inputs, point.spans, strict=True)):
        whole = b - a <= MANY
        if whole or k == here:
            entries = np.arange(a, b) if whole else np.unique([*range(a, a + MANY - 1), i])
            shape = x.shape if whole else (len(entries),)
            found[name] = [
                part.reshape(shape) for part in (got[entries], *_gradient(point, u, entries), point.x[entries])
            ]
    mine = found.pop(point.subject.input_names[here])
    got, want, bar, x = mine
    others = {name: want for name, (_, want, _, _) in found.items()}
    return tuple(looks(got, want, bar, x, others, whole=x.shape == point.inputs[here].shape))


def _gradient(point: Point, u: Array, entries: Array) -> tuple[Array, Array]:
    """The gradient of ⟨u, f⟩ with respect to some entries, and its error bars."""
    vs = np.zeros((len(entries), len(point.x)))
    vs[np.arange(len(entries)), entries] = point.own[entries]
    fs = [point.along(v) for v in vs]
    line = Line(lambda t: np.array([f(t) @ u for f in fs]), point.eps, point.grain, np.abs(u) @ point.noise)
    value, error = line.slopes()
    return value / point.own[entries], BARS * error / point.own[entries]


def shapeless(point: Point) -> tuple[str, ...]:
    """How a cotangent of a wrong shape looks."""
    u = np.ones(len(point.y))
    try:
        bars = point.subject.pull(point.unfolded(u))
    except Exception:  # it raised, and that was reported
        return ()
    for (a, b), x, bar in zip(point.spans, point.inputs, bars, strict=True):
        if bar.shape != x.shape and x.size <= MANY:
            want, error = (part.reshape(x.shape) for part in _gradient(point, u, np.arange(a, b)))
            return tuple(looks(np.asarray(bar, np.float64), want, error, np.asarray(x, np.float64), {}))
    return ()


def undecided(point: Point, v: Array, truth: Truth) -> Finding:
    """Why no derivative along v is known well enough."""
    k = int(np.argmax(truth.error))
    line = point.line(v)
    line.sample(10)
    near = np.array(line.ups + line.downs)[:, k]
    if np.isfinite(truth.error[k]):
        size = f"{abs(truth.low[k]):.2e} ± {truth.error[k]:.0e}"
        why = f"the derivative is {size}: the rounding noise of the function hides it"
    elif not np.all(np.isfinite(near)):
        why = "the function is not finite nearby (overflow, or the edge of its domain), and no slope settles"
    else:
        why = "no difference quotient settles: the function jumps here, or has kinks too near each other"
    entries = np.flatnonzero(v)
    along = point.entry(int(entries[0])) if len(entries) == 1 else f"a direction in {point.names(v)}"
    return Finding("unsure", f"can't tell: {why}", f"{point.entry(k, 'output')} along {along}")
