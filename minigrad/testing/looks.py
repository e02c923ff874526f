"""How a wrong gradient looks beside the right one: a sign, a factor, a transposition, an entry, a region of x.

The right one is known to its error bars only, so every claim is a prediction that is held against them: a hypothesis
maps the right gradient to what the rule would have given, had it that fault, and is believed where all that is known
agrees with it. Hypotheses with nothing to fit are tried first, then those with one number to fit, then what is wrong in
a part only. Read `looks`, then the lists of hypotheses from `_relations` on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import permutations, product
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

EPS = float(np.finfo(np.float64).eps)
ROUNDINGS = 32.0  # of the values themselves, that are no disagreement
NARROW = 0.05  # how well a fitted number must be known, relative, to be told

FACTORS = {
    **{float(n): str(n) for n in range(1, 11)},
    **{1.0 / n: f"1/{n}" for n in range(2, 11)},
    math.pi: "π",
    1 / math.pi: "1/π",
    2 * math.pi: "2π",
    math.sqrt(2): "√2",
    math.sqrt(0.5): "1/√2",
    math.sqrt(math.pi): "√π",
    math.sqrt(2 * math.pi): "√(2π)",
    1 / math.sqrt(2 * math.pi): "1/√(2π)",
    2 / math.sqrt(math.pi): "2/√π",
    math.log(2): "log 2",
    1 / math.log(2): "1/log 2",
    math.log(10): "log 10",
    1 / math.log(10): "1/log 10",
}


def looks(
    got: Array, want: Array, bar: Array, x: Array, others: Mapping[str, Array] = {}, whole: bool = True
) -> list[str]:
    """How a gradient looks beside the right one, in short sentences, the best first; none if nothing fits.

    Args:
        got: what a rule gave, of any shape.
        want, bar: the right gradient, of x's shape, and how far it may be off, inf where it is not known.
        x: the input that it is the gradient for.
        others: the right gradients for the other inputs, by name.
        whole: False for a sample of the entries, of which neither order nor number mean anything.

    Example:
        >>> want, x = np.array([1.0, -2.0, 0.5]), np.array([0.1, 3.0, -0.7])
        >>> looks(-want, want, 1e-9 * np.ones(3), x)
        ['the sign is flipped']
        >>> looks(np.where(x < 0, 1.1, 1.0) * want, want, 1e-9 * np.ones(3), x)
        ['wrong only where x < 0: there it is 1.1 times the right one', 'wrong only in the last entry']
    """
    got, want, bar, x = (np.asarray(a, np.float64) for a in (got, want, bar, x))
    with np.errstate(all="ignore"):
        got = np.where(np.isfinite(got), got, np.nan)
        bar = np.where(np.isfinite(want), bar, np.inf)
        if got.shape != want.shape:
            return _in_another_shape(got, want, bar, x, others)
        pair = _Pair(got, want, bar, x)
        if not np.any(pair.wrong):
            return []
        return _first(_everywhere(pair, others if whole else {}, whole)) or [*_parts(pair, whole)]


class _Pair(NamedTuple):
    """A gradient beside the right one."""

    got: Array
    want: Array
    bar: Array
    x: Array

    @property
    def known(self) -> Array:
        return np.isfinite(self.bar)

    @property
    def slack(self) -> Array:
        """How far both may be apart."""
        return self.bar + ROUNDINGS * EPS * (np.abs(self.got) + np.abs(self.want))

    @property
    def wrong(self) -> Array:
        return self.known & ~(np.abs(self.got - self.want) <= self.slack)

    def where(self, mask: Array) -> _Pair:
        """Some of the entries, as one axis."""
        return _Pair(*(a[mask] for a in (self.got, self.want, self.bar, self.x)))

    def fits(self, f: Callable[[Array], Array]) -> bool:
        """Whether the gradient is f of the right one, as far as that is known."""
        p = f(self.want)
        bars = np.fmax(np.abs(f(self.want + self.bar) - p), np.abs(f(self.want - self.bar) - p))
        bars = np.where(np.isfinite(p) & np.isfinite(bars), bars, np.inf)
        slack = bars + ROUNDINGS * EPS * (np.abs(self.got) + np.abs(p))
        apart = np.isfinite(bars) & ~(np.abs(self.got - p) <= slack)
        # a prediction that is no better known than this tells nothing
        vague = ~(bars <= NARROW * np.abs(self.got - self.want))[self.wrong]
        return not np.any(apart) and not np.any(vague)


def _first(claims: Iterator[str]) -> list[str]:
    return [claim] if (claim := next(claims, "")) else []


def _everywhere(pair: _Pair, others: Mapping[str, Array], whole: bool) -> Iterator[str]:
    """What holds for all entries: zero, a nice factor, another relation, any factor, a constant."""
    if np.all(np.isnan(pair.got)):
        yield "not finite"
    if not np.any(pair.got):
        yield "all zero, no gradient flows"
    factor = _factor(pair)
    each = "every entry is" if pair.got.size > 1 else "it is"
    if factor is not None and (name := _name_of(factor, pair.got.shape if whole else ())):
        yield "the sign is flipped" if name == "-1" else f"{each} {name} times the right one"
    for relation, f in _relations(pair, others, whole):
        for sign, more in ((1.0, ""), (-1.0, ", with the sign flipped")):
            if pair.fits(lambda want, f=f, sign=sign: sign * f(want)):  # type: ignore[misc]
                yield relation + more
    if factor is not None and _told(*factor):
        yield f"{each} {_shown(*factor)} times the right one"
    if (offset := _offset(pair)) is not None and _told(*offset):
        yield f"off by a constant {_simplest(*offset)}"
    if whole and np.unique(pair.want).size > 2 and pair.fits(lambda want: _sorted_as(pair.got, want)):
        yield "the right numbers in the wrong places"


# One number to fit


def _factor(pair: _Pair) -> tuple[float, float] | None:
    """The smallest and the largest factor that the entries allow; None if there is none."""
    slack = pair.slack
    told = pair.known & (np.abs(pair.want) > 2 * slack)
    if not np.any(told):
        return None
    got, want, slack = pair.got[told], pair.want[told], slack[told]
    ends = np.array([got / (want - slack), got / (want + slack)])
    low, high = float(np.max(np.min(ends, axis=0))), float(np.min(np.max(ends, axis=0)))
    middle = (low + high) / 2
    if low > high or middle == 0 or not pair.fits(lambda want: middle * want):
        return None
    return low, high


def _name_of(factor: tuple[float, float], shape: tuple[int, ...]) -> str:
    """A nice factor in an interval that is narrow enough to tell: '-1', '2', 'π', '12, the size,'; or ''."""
    low, high = factor
    lengths = {math.prod(shape): "the size", **{n: f"the length of axis {k}" for k, n in enumerate(shape)}}
    names = dict(FACTORS)
    for n, what in lengths.items():
        if n > 10:
            names |= {float(n): f"{n}, {what},", 1.0 / n: f"1/{n}, one over {what},"}
    signed = {sign * value: f"{'-' if sign < 0 else ''}{name}" for value, name in names.items() for sign in (1, -1)}
    return next((name for value, name in signed.items() if low <= value <= high and _told(low, high)), "")


def _offset(pair: _Pair) -> tuple[float, float] | None:
    """The range of the constant by which all entries are off; None if there is none, or it may as well be a factor."""
    known = pair.where(pair.known)
    off, slack = known.got - known.want, known.slack
    low, high = float(np.max(off - slack)), float(np.min(off + slack))
    return (low, high) if low <= high and np.ptp(known.want) > 4 * np.max(slack) else None


def _told(low: float, high: float) -> bool:
    """Whether a fitted number is known well enough to be told."""
    return high - low < NARROW * abs(low + high) / 2


def _simplest(low: float, high: float) -> str:
    """The number with the fewest digits in an interval."""
    middle = (low + high) / 2
    return next((text for n in range(1, 17) if low <= float(text := f"{middle:.{n}g}") <= high), f"{middle:.17g}")


def _shown(low: float, high: float) -> str:
    """A factor: '0.9', or '1 + 1e-09'."""
    if abs(low + high - 2) > 2e-3:
        return _simplest(low, high)
    return f"1 + {_simplest(low - 1, high - 1)}".replace("+ -", "- ")


# Nothing to fit


def _relations(pair: _Pair, others: Mapping[str, Array], whole: bool) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Hypotheses: a sentence, and what the gradient would be, from the right one."""
    for name, other in others.items():
        if other.shape == pair.got.shape:
            # it is not known better than the right one
            yield f"the cotangent of {name!r}", lambda want, other=other: other + (want - pair.want)  # type: ignore[misc]
    if whole:
        yield from _arrangements(pair.got.shape)
    x = pair.x
    yield "the absolute value of the right one", np.abs
    yield "the square of the right one", np.square
    yield "the right one times x", lambda want: want * x
    yield "the right one divided by x", lambda want: want / x
    yield "one over the right one", lambda want: 1.0 / want
    yield "x itself", lambda want: x + 0.0 * want


def _arrangements(shape: tuple[int, ...]) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """The same numbers in other places."""
    ndim = len(shape)
    for order in permutations(range(ndim)) if ndim <= 4 else ():
        if order != tuple(range(ndim)) and tuple(shape[i] for i in order) == shape:
            last_two = order == (*range(ndim - 2), ndim - 1, ndim - 2)
            words = "transposed" if last_two else f"with its axes in the order {order}"
            yield words, lambda want, order=order: want.transpose(order)  # type: ignore[misc]
    for axis, n in enumerate(shape):
        if n > 1:
            yield f"reversed along axis {axis}", lambda want, axis=axis: np.flip(want, axis)  # type: ignore[misc]
    for (axis, n), step in product(enumerate(shape), (1, -1)):
        if n > 2:
            words = f"shifted by {step} along axis {axis}"
            yield words, lambda want, axis=axis, step=step: np.roll(want, step, axis)  # type: ignore[misc]
    if ndim > 1:
        yield "filled in Fortran order", lambda want: want.ravel().reshape(shape, order="F")
        yield "read in Fortran order", lambda want: want.ravel(order="F").reshape(shape)


def _sorted_as(got: Array, want: Array) -> Array:
    """The numbers of one array in the order of another."""
    p = np.empty(got.size)
    p[np.argsort(got, axis=None, kind="stable")] = np.sort(want, axis=None)
    return p.reshape(got.shape)


def _in_another_shape(got: Array, want: Array, bar: Array, x: Array, others: Mapping[str, Array]) -> list[str]:
    """What another shape comes from, and what else is wrong with all entries then."""
    pairs = {words: _Pair(g, want, bar, x) for words, g in _in_the_shape_of(want, got)}
    right = [words for words, pair in pairs.items() if np.any(pair.known) and not np.any(pair.wrong)]
    wrong = {words: pair for words, pair in pairs.items() if np.any(pair.wrong)}
    both = (f"{words}, and {more}" for words, pair in wrong.items() for more in _everywhere(pair, others, True))
    return right[:1] or _first(both)


def _in_the_shape_of(want: Array, got: Array) -> Iterator[tuple[str, Array]]:
    """Ways to bring a gradient into the right shape: each says what was forgotten."""
    copied = tuple(
        i for i, n in enumerate(got.shape) if (k := i - got.ndim + want.ndim) < 0 or (want.shape[k] == 1 and n > 1)
    )
    summed = np.sum(got, copied)
    if copied and summed.size == want.size:
        yield "not summed over the axes that broadcasting copied", summed.reshape(want.shape)
    if got.ndim > 1 and got.T.shape == want.shape:
        yield "transposed", got.T
    if got.size == want.size:
        yield "in another shape", got.reshape(want.shape)
    elif got.ndim <= want.ndim and all(n in (1, m) for n, m in zip(got.shape[::-1], want.shape[::-1], strict=False)):
        yield "not copied along the axes that were summed", np.broadcast_to(got, want.shape)


# Wrong in a part


def _parts(pair: _Pair, whole: bool) -> Iterator[str]:
    """Where it is wrong, by the sign of x, by place, or else by size; and how it looks there."""
    wrong = pair.wrong
    if np.all(wrong[pair.known]):
        return
    regions = [*_first(_by_sign(pair)), *_first(_by_place(wrong) if whole else iter(()))] or _first(_by_size(pair))
    there = _first(_everywhere(pair.where(wrong), {}, False))
    for region, claims in zip(regions, (there, []), strict=False):
        yield ": there ".join([f"wrong only {region}", *claims])


def _right(pair: _Pair) -> Array:
    """The entries that show that all is well there: where the gradient is 0 a factor does not show."""
    return pair.known & ~pair.wrong & ((np.abs(pair.want) > pair.slack) | (pair.x == 0))


def _by_sign(pair: _Pair) -> Iterator[str]:
    """Regions of x with all wrong entries inside and all right ones outside."""
    x, wrong, right = pair.x, pair.wrong, _right(pair)
    regions = {"x = 0": x == 0, "x < 0": x < 0, "x > 0": x > 0, "x ≤ 0": x <= 0, "x ≥ 0": x >= 0}
    for name, region in regions.items():
        if np.any(right) and np.all(region[wrong]) and not np.any(region[right]):
            yield f"where {name}"


def _by_size(pair: _Pair) -> Iterator[str]:
    """The same for large or small x, or gradients."""
    wrong, right = pair.wrong, _right(pair)
    if np.count_nonzero(wrong) < 2 or np.count_nonzero(right) < 2:
        return  # one number is the largest of few by chance
    for name, size in {"x": pair.x, "|x|": np.abs(pair.x), "|x̄|": np.abs(pair.want)}.items():
        if np.min(size[wrong]) > (bound := np.max(size[right])):
            yield f"where {name} > {bound:.4g}"
        if np.max(size[wrong]) < (bound := np.min(size[right])):
            yield f"where {name} < {bound:.4g}"


def _by_place(wrong: Array) -> Iterator[str]:
    """The entry, row, column, ... that is wrong."""
    places = np.argwhere(wrong)
    if len(places) == 1:
        last = wrong.ndim and np.all(places[0] == np.array(wrong.shape) - 1)
        yield "in the last entry" if last else f"in entry {tuple(map(int, places[0]))}"
    for axis, n in enumerate(wrong.shape):
        at = np.unique(places[:, axis])
        if len(at) == 1 and n > 1:
            k = int(at[0])
            kind = ("row", "column")[axis] if wrong.ndim == 2 else f"slice along axis {axis}"
            yield f"in the {'first' if k == 0 else 'last'} {kind}" if k in (0, n - 1) else f"in {kind} {k}"
