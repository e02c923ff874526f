"""A subject with everything strung into vectors, and the probes: directions in its inputs, cotangents of its outputs.

A VJP can't be looked at as a whole, so it is probed. In directions and cotangents all entries are powers of two with
random signs, so that hardly anything is rounded when a step is taken. Their sizes are chosen such that a single wrong
entry shows, among many thousands and beside much larger ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from minigrad.testing.numeric import FIRST, SPACING, STRETCHES, Line, grain, noise
from minigrad.testing.subject import NUDGE, Subject

Array = np.ndarray[Any, Any]

MOST = 4096  # outputs; sums over blocks of them stand for more
SHAKES = 6  # how often numbers are shaken to see how a VJP sways
TERMS = 2**14  # of inner products of all cotangents, up to which each is measured by itself
TINY_STEP = 2.0**-20  # in units of a direction, to see a kink
FEW = 12  # up to so many entries are probed one by one


class Wrong(Exception):
    """The derivative has a fault that shows without any comparison."""


def power_of_two(x: Array) -> Array:
    """The next lower power of two of positive numbers, kept within 2^±1000."""
    return np.exp2(np.clip(np.floor(np.log2(x)), -1000, 1000))


class Point:
    """A subject at its point, with all inputs strung into one vector, all outputs into another, in float64.

    Args:
        ignored: the numbers of outputs that are left out of the sums of very many.
    """

    def __init__(self, subject: Subject, ignored: Array | None = None):
        self.subject = subject
        self.inputs = subject.inputs
        self.outputs = subject.outputs
        self.eps = subject.eps
        self.x = self.strung(self.inputs)
        self.weights = None
        y = self.folded(self.outputs)
        self.block = -(-len(y) // MOST) or 1
        sizes = np.abs(np.where(np.isfinite(y) & (y != 0), y, 1.0))
        self.weights = signs(np.random.default_rng(2), len(y)) / power_of_two(sizes) if self.block > 1 else None
        if ignored is not None and self.weights is not None:
            self.weights[ignored] = 0.0
        self.y = self.folded(self.outputs)
        self.starts = np.cumsum([0, *(x.size for x in self.inputs)])
        units = []
        for x in self.inputs:
            size = np.abs(x.astype(np.float64).reshape(-1))
            size = np.where(size > 0, np.maximum(size, 2.0**10 * np.finfo(x.dtype).tiny), 0.0)  # steps are no less
            largest = float(np.max(size, initial=0.0)) or 1.0
            units.append((np.full(x.size, largest), np.where(size > 0, size, largest)))
        none = np.ones(0)
        self.spans = list(zip(self.starts[:-1], self.starts[1:], strict=True))
        self.common, self.own = (
            power_of_two(np.concatenate([none, *(u[k] for u in units)])) for k in (0, 1)
        )  # the unit of a step in each entry: its array's largest entry, or itself
        self.anywhere = signs(np.random.default_rng(4), len(self.x)) * self.own  # along it all noise is felt
        self.grain = grain(self.along(self.anywhere), self.eps)

    @staticmethod
    def strung(arrays: Sequence[Array]) -> Array:
        """Arrays as one vector."""
        return np.concatenate([np.zeros(0), *(np.asarray(a, np.float64).reshape(-1) for a in arrays)])

    def folded(self, ys: Sequence[Array]) -> Array:
        """Outputs as one vector; where there are very many, the weighted sums over blocks of them."""
        return self.summed(self.strung(ys))

    def summed(self, y: Array) -> Array:
        """The weighted sums over blocks of outputs that are one vector, where there are very many."""
        if self.weights is None:
            return y
        return np.add.reduceat(y * self.weights, np.arange(0, len(y), self.block))

    def unfolded(self, u: Array) -> list[Array]:
        """Cotangents of all outputs, from those of the sums."""
        if self.weights is not None:
            u = np.repeat(u, self.block)[: len(self.weights)] * self.weights
        return self.unstrung(u, self.outputs)

    @staticmethod
    def unstrung(vector: Array, like: Sequence[Array]) -> list[Array]:
        """A vector as arrays of these shapes and dtypes."""
        parts, start = [], 0
        for a in like:
            part = vector[start : start + a.size].reshape(a.shape)
            parts.append(part if part.dtype == a.dtype else part.astype(a.dtype))
            start += a.size
        return parts

    def along(self, v: Array) -> Callable[[float], Array]:
        """The outputs as a function of a step t along v."""
        f = self.each(v)
        return lambda t: self.summed(f(t))

    def each(self, v: Array) -> Callable[[float], Array]:
        """All outputs, also where they are too many, as a function of a step t along v."""

        def f(t: float) -> Array:
            ys = self.subject.forward(self.unstrung(self.x + t * v, self.inputs))
            if [y.shape for y in ys] != [y.shape for y in self.outputs]:
                raise ValueError("the function returns other shapes there")
            return self.strung(ys)

        return f

    def kinked(self, v: Array) -> Array:
        """Which of very many outputs have another slope on one side than on the other, along v, by their numbers. In a
        sum of several of them, kinks may cancel, and leave slopes between which no valid one is."""
        if self.weights is None:
            return np.zeros(0, np.intp)
        f = self.each(v)
        try:
            before, here, after = f(-TINY_STEP), f(0.0), f(TINY_STEP)
        except (ValueError, ArithmeticError):
            return np.zeros(0, np.intp)
        down, up = here - before, after - here
        noise = 2.0**6 * self.eps * np.abs(here)
        return np.flatnonzero(np.abs(up - down) > 2.0**-8 * (np.abs(up) + np.abs(down)) + noise)

    @cached_property
    def flat(self) -> Array:
        """For outputs that don't change at all near the point, what they may hide by rounding: the largest of the
        numbers they are made from, as far as is known. (log_softmax of a leading 73 is 0, not -5e-34.) Others: 0."""
        f = self.along(self.anywhere)
        still = [f(k * STRETCHES[0] * SPACING * self.eps) == self.y for k in range(-4, 5)]
        return np.all(still, axis=0) * max(float(np.max(np.abs(a))) for a in (self.x, self.y))

    @cached_property
    def noise(self) -> Array:
        """The rounding noise of each output. A direction in few entries, or in small steps, may not feel it all; nor
        may equal spaces, if a factor in the function makes them equal numbers of roundings: hence two of them."""
        found = [noise(self.along(self.anywhere), self.grain, stretch) for stretch in STRETCHES]
        return np.maximum(np.max(found, axis=0), self.eps * self.flat)

    def line(self, v: Array, first: float = FIRST) -> Line:
        """The outputs along v, to be sampled."""
        return Line(self.along(v), self.eps, self.grain, self.noise, first)

    def moved(self, step: Array) -> Subject:
        """The subject a step away."""
        return self.subject.at(self.unstrung(self.x + step, self.inputs))

    def pull(self, u: Array, there: Subject | None = None) -> Array:
        """The VJP, strung; of the same function at another point, if one is given.

        Raises:
            Wrong: it raised an error, or a cotangent has not the shape of its input.
        """
        try:
            bars = (there or self.subject).pull(self.unfolded(u))
        except Exception as error:
            raise Wrong(f"the VJP raised {type(error).__name__}: {error}") from error
        for name, x, bar in zip(self.subject.input_names, self.inputs, bars, strict=True):
            if bar.shape != x.shape:
                raise Wrong(f"the cotangent of {name} has the shape {bar.shape}, expected {x.shape}")
        return self.strung(bars)

    def push(self, v: Array, there: Subject | None = None) -> Array | None:
        """The JVP, strung; None if there is no forward mode.

        Raises:
            Wrong: it raised an error.
        """
        try:
            dots = (there or self.subject).push(self.unstrung(v, self.inputs))
        except Exception as error:
            raise Wrong(f"the JVP raised {type(error).__name__}: {error}") from error
        return None if dots is None else self.folded(dots)

    def pull_noise(self, us: Array, read: Callable[[Array], Array]) -> Array:
        """The rounding noise of what is read from the VJPs of some cotangents, (cotangents, n): measured like that of
        the function, and by its sway. All of them share the forward at each point."""
        shaken = [self.subject.shaken(SHAKES, us=self.unfolded(u)) for u in us]
        swayed = [read(np.array(list(map(self.strung, bars)))) for bars in zip(*shaken, strict=True)]

        def pulled(there: Subject | None = None) -> Array:
            return read(np.array([self.pull(u, there) for u in us]))

        return self._rough(swayed, pulled(), pulled)

    def dot_noise(self, us: Array, v: Array) -> Array:
        """The rounding noise of ⟨VJP(u), v⟩ for some cotangents, (cotangents,).

        A term that stands still nearby, as 1 - tanh² far out, hides its noise in a sum with others that move: where
        there are not too many, each is measured by itself, too.
        """
        alone = us.shape[0] * len(self.x) <= TERMS

        def read(bars: Array) -> Array:
            terms = bars * v
            total = np.sum(terms, axis=1, keepdims=True)
            return np.hstack([total, terms]) if alone else total

        rough = self.pull_noise(us, read)
        of_terms = np.where(np.isfinite(rough[:, 1:]), rough[:, 1:], 0.0)
        return np.maximum(rough[:, 0], np.sqrt(np.sum(of_terms**2, axis=1)))

    def push_noise(self, v: Array, read: Callable[[Array], Array]) -> Array:
        """The rounding noise of what is read from the JVP."""
        swayed = [read(self.folded(dots)) for dots in self.subject.shaken(SHAKES, vs=self.unstrung(v, self.inputs))]
        return self._rough(swayed, read(self.push(v)), lambda there: read(self.push(v, there)))  # type: ignore[arg-type]

    def _rough(self, swayed: list[Array], here: Array, there: Callable[[Subject], Array]) -> Array:
        sway = np.sqrt(np.mean((np.array(swayed) - here) ** 2, axis=0)) / NUDGE
        measured = noise(lambda t: there(self.moved(t * self.anywhere)), self.grain)
        return np.where(np.isfinite(sway), self.eps * sway, 0.0) + measured

    def array_of(self, i: int) -> int:
        """The input array that has entry i of the inputs."""
        return int(np.searchsorted(self.starts, i, side="right")) - 1

    def names(self, v: Array) -> str:
        """What the inputs are called that a direction moves."""
        names = self.subject.input_names
        moved = [name for name, (a, b) in zip(names, self.spans, strict=True) if np.any(v[a:b])]
        return ", ".join(moved) if len(moved) < 4 else f"{len(moved)} inputs"

    def largest(self, sizes: Array) -> Array:
        """For each entry of the inputs, the largest finite size in its array."""
        sizes = np.where(np.isfinite(sizes), sizes, 0.0)
        return np.repeat([np.max(sizes[a:b], initial=0.0) for a, b in self.spans], np.diff(self.starts))

    def entry(self, i: int, of: str = "input") -> str:
        """What entry i of the inputs (or outputs) is called: 'w[0, 2]'."""
        if of == "output" and self.weights is not None:
            return f"outputs {i * self.block} to {(i + 1) * self.block - 1}"
        arrays = self.inputs if of == "input" else self.outputs
        starts = np.cumsum([0, *(a.size for a in arrays)])
        k = int(np.searchsorted(starts, i, side="right")) - 1
        name = self.subject.input_names[k] if of == "input" else "output" if len(arrays) == 1 else f"output {k}"
        index = np.unravel_index(i - starts[k], arrays[k].shape)
        return f"{name}[{', '.join(map(str, index))}]" if index else name


def signs(rng: np.random.Generator, n: int) -> Array:
    """Random signs."""
    return rng.choice([-1.0, 1.0], n)


def directions(point: Point, x_bar: Array, rng: np.random.Generator) -> Array:
    """Directions in the inputs, (probes, n).

    Dense ones find what is wrong everywhere. Each input array alone: a small one is not drowned by a large one. Entries
    of very different magnitudes. And in many entries, steps chosen such that each of them contributes alike to the
    result (as far as the VJP is right), however small its slope: so one wrong entry among many thousands is seen.
    """
    n = len(point.x)
    found = [signs(rng, n) * point.common, signs(rng, n) * point.own]
    found.append(signs(rng, n) * point.common * np.exp2(-rng.integers(0, 24, n)))
    if len(point.spans) > 1:
        for low, high in point.spans[:16]:
            v = np.zeros(n)
            v[low:high] = found[0][low:high]
            found.append(v)
    if n <= FEW:
        found.append(np.diag(point.own))
    else:
        slopes = np.abs(x_bar) * point.common
        aligned = np.where(x_bar < 0, -1.0, 1.0)
        found.append(aligned * point.common)
        if len(slopes) and np.isfinite(largest := np.max(slopes)) and largest > 0:
            for depth in (10, 20, 30):
                least = max(float(np.min(slopes[slopes > 0])), largest * 2.0**-depth)
                v = point.common * np.exp2(-np.round(np.log2(np.maximum(slopes, least) / least)))
                found.append(signs(rng, n) * v if depth > 10 else aligned * v)
    return np.unique(np.vstack(found), axis=0) if n else np.zeros((0, 0))


def cotangents(sizes: Array, rng: np.random.Generator) -> Array:
    """Cotangents of the outputs, (cotangents, m): dense ones in which each output weighs alike, others of very
    different magnitudes, some sparse, each output alone if they are few."""
    m = len(sizes)
    alike = 1 / power_of_two(np.where(np.isfinite(sizes) & (sizes > 0), sizes, 1.0))
    alike = np.clip(alike, 2.0**-60, 2.0**60)
    found = [signs(rng, m) * alike]
    if m > 1:
        found.append(signs(rng, m) * alike * np.exp2(-rng.integers(0, 30, m)))
        if m <= FEW:
            found.append(np.diag(alike))
        else:
            found += [signs(rng, m) * alike * (rng.permutation(m) < 4) for _ in range(4)]
    return np.vstack(found)
