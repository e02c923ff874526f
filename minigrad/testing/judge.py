"""The judge: compares the VJP (and the JVP) of a subject with what its forward says.

For cotangents u of the outputs and directions v in the inputs (`probes`),

    ⟨VJP(u), v⟩ = ⟨u, F′(x)·v⟩,

where the right side comes from an oracle that knows its own error (`oracle`). The tolerance follows from that error:
there is nothing to tune. A disagreement is not believed at once: the derivative is taken again from other samples, the
rounding noise of the rule itself is measured, and at a kink any value between the slopes on either side is right. Nor
is an agreement believed where too little is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad.testing import witness
from minigrad.testing.numeric import COARSE
from minigrad.testing.oracle import AGAIN, BARS, ROUNDINGS, Truth, longer_steps, look_again, measured, second_look
from minigrad.testing.probes import Point, Wrong, cotangents, directions, signs
from minigrad.testing.report import Finding, Report
from minigrad.testing.subject import Subject

Array = np.ndarray[Any, Any]

TINY = float(np.finfo(np.float64).tiny)  # below it, numbers have fewer digits
LONELY = 1e-3  # how well the derivative of a single entry must be known, relative; dense probes: √eps
SHARP = 2.0**20  # an output whose slopes are not as many error bars large has less weight, lest it drown the others
ALIKE = 2.0**20  # eps between two ways to compute the same, relative to the largest entry of an array
NOISY = 64.0  # and how much of the measured noise
FAR = 2.0**16  # a step so many times longer than an entry's own size must be confirmed by a shorter one
ZERO = 2.0**16  # a derivative below so many times the noise counts as zero
SLIGHT = 2.0**10  # so many eps of the function itself are all that is asked of its derivative, along a unit step


@np.errstate(all="ignore")
def judge(subject: Subject) -> Report:
    """Whether the VJP and the JVP of a subject are the derivative of its forward.

    Raises:
        whatever the function itself raises at the point.
    """
    point = Point(subject)
    title = subject.title
    if not np.all(np.isfinite(point.x)):
        return Report(title, (Finding("unsure", "an input is not finite: no derivative exists there"),))
    if not np.all(np.isfinite(point.y)):
        return Report(title, (Finding("unsure", "the function is not finite at this point"),))
    if _writes(point):
        return Report(title, (Finding("fail", "an input was changed: forward and VJP must not write into them"),))
    if not np.array_equal(point.folded(subject.forward(subject.inputs)), point.y):
        return Report(title, (Finding("unsure", "the function gives another result in each call: fix its seed"),))
    try:
        if not len(point.x) or not len(point.y):
            return _empty(point)
        report = _Trial(point).report()
        kinked = point.kinked(point.anywhere)
        if report and len(kinked):  # in a sum with them, an error of the others may pass as a choice at a kink
            report = report.joined(_Trial(Point(subject, kinked)).report())
        return report
    except Wrong as fault:
        looks = witness.shapeless(point)
        return Report(title, (Finding("fail", str(fault), looks=looks, formula=subject.formula),))


@np.errstate(all="ignore")
def unsymmetric(gradient: Subject, count: int) -> Finding | None:
    """What is wrong if the derivative of a gradient, a Hessian, is not symmetric: ⟨w, H·v⟩ = ⟨v, H·w⟩, exactly.

    Args:
        gradient: a function of xs (`count` arrays) and cotangents u that returns J(x)ᵀu, the gradient of ⟨u, f(x)⟩.
    """
    point = Point(gradient)
    n = sum(x.size for x in gradient.inputs[:count])
    rng = np.random.default_rng(6)
    v, w = (signs(rng, n) * np.exp2(-rng.integers(0, 8, n)) for _ in range(2))
    a, b = point.pull(w)[:n], point.pull(v)[:n]
    off, bound = abs(a @ v - b @ w), 2.0**12 * point.eps * (np.abs(a) @ np.abs(v) + np.abs(b) @ np.abs(w)) + TINY
    if off > bound:
        rough = point.pull_noise(np.array([w, v]), lambda bars: np.sum(bars[:, :n] * [v, w], axis=1))
        bound += NOISY * np.sum(rough)
    if not off > bound:
        return None
    return Finding("fail", "the Hessian is not symmetric", "", f"⟨v, H·w⟩ = {a @ v:.12g}, but ⟨w, H·v⟩ = {b @ w:.12g}")


def _writes(point: Point) -> bool:
    """Whether forward or VJP write into what they are given."""
    xs, us = ([a.copy() for a in arrays] for arrays in (point.inputs, point.unfolded(np.full(len(point.y), 1.7))))
    before = [a.tobytes() for a in (*xs, *us)]
    try:
        there = point.subject.at(xs)
        there.forward(xs)
        there.pull(us)
    except Exception:  # the trial will say so
        return False
    return before != [a.tobytes() for a in (*xs, *us)]


def _empty(point: Point) -> Report:
    """Nothing to compare, but the rules must run, and give what has the right shape: zeros, if anything."""
    x_bar = point.pull(np.ones(len(point.y)))
    point.push(np.ones(len(point.x)))
    wrong = Finding("fail", "there is no output, but the VJP is not zero", formula=point.subject.formula)
    return Report(point.subject.title, (wrong,) if np.any(x_bar != 0) else ())


# The comparison


@dataclass
class Comparison:
    """⟨VJP(u), v⟩ (`got`) beside ⟨u, F′(x)·v⟩ (between `low` and `high`), for all cotangents and directions:
    (cotangents, probes)."""

    got: Array
    low: Array
    high: Array
    tolerance: Array  # nan where there is nothing to compare with
    terms: Array  # the sizes of what is summed on both sides
    slight: Array  # the rounding of the function's values, times a factor
    noise: Array  # the noise that was measured, times another

    @property
    def excess(self) -> Array:
        """How far the rule's value is off, in tolerances; nan where there is nothing to compare with."""
        off = np.maximum(np.maximum(self.low - self.got, self.got - self.high), 0.0)
        return np.where(off == 0, 0.0, off / self.tolerance) + 0.0 * self.tolerance

    def known(self, share: Array) -> Array:
        """Where the tolerance is at most this share of the terms, or as narrow as the rounding of the function allows
        (where tanh is 1 - 1e-12, no differences know its slope better); or where all is zero beside its noise."""
        largest = np.maximum(np.abs(self.got), np.maximum(np.abs(self.low), np.abs(self.high)))
        zero = (largest <= self.tolerance) & (self.tolerance <= self.noise + TINY)
        return (self.tolerance <= share * self.terms) | (self.tolerance <= self.slight) | zero


def compared(point: Point, us: Array, x_bars: Array, vs: Array, truth: Truth, rule_noise: Any = 0.0) -> Comparison:
    """Compare the VJPs `x_bars` of cotangents with the truth along directions: (cotangents, ·) and (probes, ·)."""
    weights = us[:, None, :]
    a, b, used = weights * truth.low, weights * truth.high, weights != 0
    low, high = (np.sum(f(a, b), axis=2, where=used) for f in (np.minimum, np.maximum))
    bars = np.sum(np.abs(weights) * truth.error, axis=2, where=used)
    terms = np.sum(np.maximum(np.abs(a), np.abs(b)), axis=2, where=used) + np.abs(x_bars) @ np.abs(vs).T
    tolerance = BARS * bars + NOISY * rule_noise + ROUNDINGS * point.eps * terms + TINY
    tolerance = np.where(np.isfinite(tolerance), tolerance, np.nan)
    slight = SLIGHT * point.eps * np.abs(us) @ truth.size.T
    rough = ZERO * (np.abs(us) @ point.noise)[:, None]
    return Comparison(x_bars @ vs.T, low, high, tolerance, terms, slight, rough)


class _Trial:
    """One comparison in progress."""

    def __init__(self, point: Point):
        rng = np.random.default_rng(0)
        self.point = point
        sizes = np.abs(point.y)
        self.vs = directions(point, point.pull(cotangents(sizes, rng)[0]), rng)
        self.truth, self.noise = measured(point, self.vs)
        rough = SHARP * np.where(np.isfinite(self.truth.error), self.truth.error, np.inf)
        slopes = np.max(np.where(rough < np.inf, np.maximum(np.abs(self.truth.low), rough), 0.0), axis=0)
        self.us = cotangents(np.where(slopes > 0, slopes, sizes), rng)
        self.x_bars = np.array([point.pull(u) for u in self.us])
        self.findings: list[Finding] = []
        self.worst = 0.0
        self.looked: dict[int, Truth] = {}

    def report(self) -> Report:
        """Run everything; the first finding ends it."""
        for part in (self.laws, self.finite, self.compare, self.forward_mode):
            if not self.findings:
                part()
        bars = self.truth.error / np.abs(self.truth.low)
        bars = bars[np.isfinite(bars)]
        return Report(
            self.point.subject.title,
            tuple(self.findings),
            self.truth.oracle,
            entries=len(self.point.x),
            probes=len(self.vs) * len(self.us),
            worst=self.worst,
            bar=float(np.median(bars)) if bars.size else float("nan"),
        )

    def fail(self, what: str, entry: str = "", numbers: str = "", looks: tuple[str, ...] = ()) -> None:
        """Note a failure."""
        self.findings.append(Finding("fail", what, entry, numbers, looks, self.point.subject.formula))

    # Laws that hold without any oracle

    def laws(self) -> None:
        """The VJP is linear in the cotangent, and no layout of memory changes results."""
        point, u, x_bar = self.point, self.us[0], self.x_bars[0]
        w = 0.7390851332151607 * self.us[-1]  # a full mantissa: a rule that rounds its cotangent shows
        finest = float(np.finfo(np.float32 if point.eps > COARSE else np.float64).tiny)
        nonlinear = "the VJP is not linear in the cotangent"
        zero = point.pull(np.zeros_like(u))
        self.equal(zero, 0 * x_bar, 0 * x_bar, f"{nonlinear}: of 0 it is not 0")
        for power in (2.0**-40, 2.0**40):  # exact, but for the ends of the range
            scaled = point.pull(-power * u) / -power
            lost = power < 1 and np.any((scaled == 0) & (x_bar != 0))
            words = "small ones are lost" if lost else f"VJP(s·u)/s ≠ VJP(u), s = {-power:.0e}"
            self.equal(scaled, x_bar, 64 * point.eps * np.abs(x_bar) + 4 * finest / power, f"{nonlinear}: {words}")
        w_bar = point.pull(w)
        bound = ALIKE * point.eps * point.largest(2 * np.abs(x_bar) + np.abs(w_bar)) + 4 * finest
        words = f"{nonlinear}: VJP(2u + w) ≠ 2·VJP(u) + VJP(w)"
        self.equal(point.pull(2 * u + w), 2 * x_bar + w_bar, bound, words, 2 * u + w)
        if not self.findings:
            self.layouts(u, x_bar)

    def equal(self, got: Array, want: Array, bound: Array, what: str, u: Array | None = None) -> None:
        """Note a failure unless two VJPs agree, where both are finite; beyond the bound, up to the noise of u's VJP."""
        off = np.where(np.isfinite(got) & np.isfinite(want), np.abs(got - want), 0.0)
        if np.any(off > bound) and not self.findings:
            if u is not None:
                bound = bound + NOISY * self.point.largest(self.point.pull_noise(u[None], lambda bars: bars[0]))
            if np.any(off > bound):
                i = int(np.argmax(np.where(off > bound, off, -1.0)))
                self.fail(what, self.point.entry(i), f"{got[i]:.12g} on the left, {want[i]:.12g} on the right")

    def layouts(self, u: Array, x_bar: Array) -> None:
        """The same numbers in other layouts of memory give the same results."""
        point, subject = self.point, self.point.subject
        for name, layout in LAYOUTS.items():
            xs, us = ([layout(a) for a in arrays] for arrays in (point.inputs, point.unfolded(u)))
            try:
                y = point.folded(subject.forward(xs))
                bars = point.strung(subject.at(xs).pull(us))
            except Exception as error:
                self.fail(f"{name} inputs raise {type(error).__name__}: {error}")
                return
            bound = ALIKE * point.eps * np.max(np.abs(point.y)) + NOISY * point.noise
            if np.any(np.abs(y - point.y) > bound):
                self.fail(f"results of {name} and of contiguous inputs differ")
                return
            bound = ALIKE * point.eps * point.largest(np.abs(x_bar))
            words = f"VJPs of {name} and of contiguous inputs differ"
            self.equal(bars, x_bar, bound, words, u)

    # The comparison with the oracle

    def finite(self) -> None:
        """The VJP is finite wherever the function has a finite slope."""
        point = self.point
        bad = np.argwhere(~np.isfinite(self.x_bars))
        if len(bad):
            j, i = map(int, bad[0])
            v = np.zeros(len(point.x))
            v[i] = point.own[i]
            known = np.all(np.isfinite(second_look(point, v).error[self.us[j] != 0]))
            if known:
                self.fail(f"the VJP is {self.x_bars[j, i]}, but the function has a finite slope", point.entry(i))
            else:
                words = f"can't tell: the VJP is {self.x_bars[j, i]}, and no finite slope was found"
                self.findings.append(Finding("unsure", words, point.entry(i)))

    def compare(self) -> None:
        """⟨VJP(u), v⟩ against ⟨u, F′(x)·v⟩, for all of them."""
        first = compared(self.point, self.us, self.x_bars, self.vs, self.truth)
        for p in range(len(self.vs)):
            excess = first.excess[:, p]
            if not np.all(excess <= 1):
                again = self.generously(self.vs[p], self.again(p)).excess[:, 0]  # nan: it can't confirm the first
                excess = np.where(np.isnan(excess), again, np.minimum(excess, again))
                if np.any(excess > 1):
                    self.disagrees(int(np.nanargmax(excess)), self.vs[p], self.again(p))
            self.worst = max(self.worst, float(np.nanmax(np.nan_to_num(excess))))
            if self.findings:
                return
        self.resolution(first)

    def again(self, p: int) -> Truth:
        """The second look along direction p, taken once."""
        if p not in self.looked:
            self.looked[p] = look_again(self.point, self.vs[p], self.truth.along(p))
        return self.looked[p]

    def generously(self, v: Array, truth: Truth) -> Comparison:
        """The comparison along v where the rounding of the rule itself is allowed for."""
        point = self.point
        rough = point.dot_noise(self.us, v)
        return compared(point, self.us, self.x_bars, v[None], truth.alone, rough[:, None])

    def disagrees(self, j: int, v: Array, truth: Truth) -> None:
        """Note that cotangent j and direction v disagree, with the entry, and how it looks."""
        point = self.point
        if self.far(v):
            v = self.nearer(v)
            truth = second_look(point, v)
            excesses = self.generously(v, truth).excess[:, 0]
            if not np.any(excesses > 1):
                return
            j = int(np.nanargmax(excesses))

        def excess(u: Array, v: Array, truth: Truth) -> float:
            c = compared(point, u[None], point.pull(u)[None], v[None], truth.alone)
            return float(np.nan_to_num(c.excess[0, 0]))

        self.fail(*witness.evidence(point, self.us[j], v, truth, excess))

    def nearer(self, v: Array) -> Array:
        """The direction v with no step longer than an entry's own size, for a zero no longer than 1."""
        point = self.point
        return np.sign(v) * np.minimum(np.abs(v), np.where(point.x != 0, point.own, np.minimum(point.own, 1.0)))

    def far(self, v: Array) -> bool:
        """Whether some step of v is so long that what it finds says nothing of its entry, whose own scale is far below:
        a kink or a pole between the point and the smallest step looks like a slope."""
        return bool(np.any(np.abs(v) > FAR * np.abs(self.nearer(v))))

    def share(self, vs: Array, eps: float) -> Array:
        """How well the derivative along each direction must be known, relative to its terms."""
        lonely = (np.count_nonzero(vs, axis=1) == 1) & (len(self.point.x) > 1)
        return np.where(lonely, LONELY, np.sqrt(eps))

    def resolution(self, first: Comparison) -> None:
        """Whether enough is known to call the agreement a pass: for each cotangent, every entry of the inputs must be
        moved by some direction along which the derivative is known well."""
        point = self.point
        known = first.known(self.share(self.vs, point.eps)) & (first.excess <= 1)
        moved = (self.vs != 0).astype(float)
        for p, v in enumerate(self.vs):
            missing = known.astype(float) @ moved == 0
            if not np.any(missing):
                return
            if not np.any(missing[:, v != 0]):
                continue
            known[:, p] |= self.settled(v, longer_steps(point, v, self.truth.along(p), self.again(p)))
            own = v * point.own / point.common  # shorter steps, for what is smaller than its array
            if np.any(own != v) and not np.all(known[:, p]) and not self.findings:
                known[:, p] |= self.settled(own, second_look(point, own))
            if self.findings:
                return
        if np.any(known.astype(float) @ moved == 0):
            p = int(np.argmin(np.all(known, axis=0)))
            truth = longer_steps(point, self.vs[p], self.truth.along(p), self.again(p))
            self.findings.append(witness.undecided(point, self.vs[p], truth))

    def settled(self, v: Array, truth: Truth) -> Array:
        """For which cotangents a truth along v is known well enough, and agrees; a disagreement is noted."""
        c = compared(self.point, self.us, self.x_bars, v[None], truth.alone)
        if np.any(c.excess > 1) and np.any((c := self.generously(v, truth)).excess > 1):
            again = longer_steps(self.point, v, second_look(self.point, v), first=AGAIN)
            both = np.fmin(c.excess, compared(self.point, self.us, self.x_bars, v[None], again.alone).excess)
            if np.any(both > 1):
                self.disagrees(int(np.nanargmax(both[:, 0])), v, truth)
        return (c.known(self.share(v[None], self.point.grain)) & (c.excess <= 1))[:, 0]

    # Forward mode

    def forward_mode(self) -> None:
        """The JVP against the oracle, output by output, and as the transpose of the VJP."""
        point = self.point
        sizes = np.where(np.isfinite(self.truth.error), np.abs(self.truth.low), 0.0)
        largest = np.max(sizes, axis=0)  # of the terms that may cancel, about
        for p, v in enumerate(self.vs):
            dot = point.push(v)
            if dot is None:
                return
            truth, extra = self.truth.along(p), self.noise[p]
            if np.any(off := self.jvp_is_off(dot, truth, largest, extra) & (not self.far(v))):
                truth = self.again(p)
                quiet = point.push_noise(v, lambda dot: dot)
                off &= self.jvp_is_off(dot, truth, largest, extra + NOISY / BARS * quiet)
            if np.any(off):
                k = int(np.argmax(off))
                numbers = f"the JVP is {dot[k]:.12g}, {witness.shown(truth, k, 1.0)}"
                self.fail("the JVP is wrong", f"{point.entry(k, 'output')} along {point.names(v)}", numbers)
                return
            if np.any(off := self.not_transposed(v, dot)):
                k = int(np.argmax(off))
                numbers = f"⟨u, JVP(v)⟩ = {self.us[k] @ dot:.12g}, but ⟨VJP(u), v⟩ = {self.x_bars[k] @ v:.12g}"
                self.fail("the VJP and the JVP are not each other's transpose", numbers=numbers)
                return

    def not_transposed(self, v: Array, dot: Array) -> Array:
        """For which cotangents ⟨u, JVP(v)⟩ is not ⟨VJP(u), v⟩ to rounding: it is, whatever the function does nearby."""
        point, us = self.point, self.us
        a, b = us @ dot, self.x_bars @ v
        terms = np.abs(us) @ np.abs(dot) + np.abs(self.x_bars) @ np.abs(v)
        bound = 2.0**12 * point.eps * terms + NOISY * np.abs(us) @ np.max(self.noise, axis=0)
        off = (np.abs(a - b) > bound) & np.isfinite(a - b)
        if np.any(off):
            bound += NOISY * point.dot_noise(us, v)
            bound += NOISY * point.push_noise(v, lambda dot: us @ dot)
        return off & (np.abs(a - b) > bound)

    def jvp_is_off(self, dot: Array, truth: Truth, largest: Array, extra: Array) -> Array:
        """For which outputs a tangent is not the truth."""
        tolerance = BARS * (truth.error + extra) + ROUNDINGS * self.point.eps * largest + TINY
        off = np.maximum(truth.low - dot, dot - truth.high)
        return (off > tolerance) | (~np.isfinite(dot) & np.isfinite(truth.error))


def _strided(x: Array) -> Array:
    return np.repeat(x, 2, -1)[..., ::2] if x.ndim else np.array([x, x])[1:].reshape(())


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.setflags(write=False)
    return x


LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "Fortran-ordered": lambda x: np.array(x, order="F"),
    "strided": _strided,
    "reversed": lambda x: np.flip(np.flip(x).copy(order="C")),
    "read-only": _read_only,
}
