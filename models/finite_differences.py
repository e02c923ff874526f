"""Checks every scalar of a network's gradient against differences of its loss that carry error bars.

A central difference (f(θ + h) - f(θ - h)) / 2h has two errors. Truncation shrinks with h: it is a series in h², of
which Richardson's extrapolation over h, h/2, h/4, ... removes the first terms, and how far the last extrapolations
still disagree says what is left. Rounding grows as 1/h: its size is measured, from a difference table of the loss at
points so close together that only noise is left of it (Moré and Wild, "Estimating Computational Noise", 2011). The two
make the error bar. An entry whose bar is too wide gets other steps: longer ones rise above the rounding, shorter ones
fit between the kinks of ReLU.

One observation makes that cheap enough for 200,000 entries. In a layer Z = A W + b, moving W[i, j] by h moves column j
of Z by h·A[:, i], and moving b[j] moves it by h. So hundreds of networks, each with one entry moved, are one batch
through the layers above. (A Linear layer that computes something else would fail.) Read `slopes` first, then `check`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg

Array = np.ndarray[Any, Any]
Change = Callable[[Array, float], Array]  # (entries (k,), h) -> f(θ + h·e) - f(θ - h·e) for each of the entries, (k,)
Terms = Callable[[Any, Any], Any]  # (output of the last layer, images) -> terms of the loss, pixel by pixel, same shape

TOLERANCE = 9e-7  # the largest error and error bar together, relative to the entry, so that one of 1e-6 is always found
RESOLUTION = 2.5e-7  # an error bar, relative to the entry, that needs no other steps
SMALL = 1e-4  # what rounding hides in an entry below this part of the largest one is measured against this part of it
STEPS = tuple(2.0**-k for k in (4, 3, 5, 2, 6, 7, 8, 9, 10, 11, 12))  # the first of h, h/2, ..., h/16; tried in turn
CELLS = 2**17  # of one batch of moved networks' outputs: enough to hide the cost of a call, few enough for the cache


class Verdict(NamedTuple):
    """How a gradient g compares with the slopes of its loss.

    The error of an entry is |g - slope| / |g|, wherever the slope is known to 2.5e-7 of |g|. Rounding can hide an entry
    smaller than that, if it is below 1e-4 of the largest one; then the error is taken relative to this 1e-4.

    Attributes:
        entries: how many scalars were compared: all there are.
        zeros: how many of them have a gradient of exactly zero (a pixel is dark, a ReLU is off, in all the images).
        small: how many others are relative to the 1e-4.
        failures: how many have an error that is, or with its error bar may be, larger than 9e-7.
        worst: the entry with the largest error.
        error, bar: that error, and its error bar.
    """

    entries: int
    zeros: int
    small: int
    failures: int
    worst: str
    error: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether no entry can be off by a millionth of itself."""
        return self.failures == 0

    def summary(self) -> dict[str, Any]:
        """The verdict for a JSON file, which knows no infinity: an error that is not finite becomes null."""
        numbers = {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in self._asdict().items()}
        return {**numbers, "passed": self.passed}

    def __str__(self) -> str:
        result = "passed" if self.passed else f"FAILED: {self.failures:,} may be off by 1e-6 or more"
        return (
            f"{self.entries:,} gradients against finite differences, in float64: {result}\n"
            f"worst relative error {self.error:.1e} ± {self.bar:.1e}, at {self.worst}\n"
            f"({self.zeros:,} are exactly zero; {self.small:,} too small for the rounding of the loss were compared "
            f"relative to {SMALL:g} of the largest)"
        )


def noise(change: Change, entries: Array) -> Array:
    """The rounding noise (standard deviation) of `change` for each of the entries, to a third or so.

    Third differences of its values at steps of 2⁻³⁰ have nothing left of the function, and 20 times the variance of the
    noise, 1² + 3² + 3² + 1².
    """
    table = np.stack([change(entries, k * 2.0**-30) for k in range(1, 28)])
    return np.sqrt(np.mean(np.diff(table, n=3, axis=0) ** 2, axis=0) / 20)


def slopes(
    change: Change, size: int, block: int = 256, advance: Callable[[int], None] = lambda count: None
) -> tuple[Array, Array]:
    """The derivative of a function with respect to each of `size` entries, and its error bar.

    Args:
        change: what moving an entry by ±h does to the function.
        size: how many entries there are.
        block: how many entries `change` gets at once.
        advance: is told how many entries were finished, as it goes.

    Example: the derivatives of x³ and |x| at 2 and 0.01; most steps lead across the kink, the last ones don't.
        >>> x = np.array([2.0, 0.01])
        >>> def f(k, x): return np.where(k == 0, x**3, abs(x))
        >>> values, bars = slopes(lambda k, h: f(k, x[k] + h) - f(k, x[k] - h), size=2)
        >>> np.all(abs(values - [12, 1]) <= bars), np.all(bars < 1e-6)
        (np.True_, np.True_)
    """
    values, bars = np.full(size, np.nan), np.full(size, np.inf)
    some = noise(change, np.random.default_rng(0).choice(size, min(size, 64), replace=False))
    floors = np.full(size, 3 * np.sqrt(np.mean(some[some > 0] ** 2)) if np.any(some) else 0.0)
    todo = np.arange(size)
    for tried, first in enumerate(STEPS):
        for entries in np.split(todo, range(block, len(todo), block)):
            if tried == 1:  # the typical noise was too much for these: measure their own
                floors[entries] = 4 * noise(change, entries)
            value, bar = _extrapolated(change, entries, first, floors[entries])
            better = bar < bars[entries]
            values[entries[better]], bars[entries[better]] = value[better], bar[better]
            advance(int(np.count_nonzero(_resolved(values[entries], bars[entries]))))
        todo = todo[~_resolved(values[todo], bars[todo])]
        if not len(todo):
            break
    advance(len(todo))
    return values, bars


def _resolved(values: Array, bars: Array) -> Array:
    return bars <= RESOLUTION * np.abs(values)


def _extrapolated(change: Change, entries: Array, first: float, floor: Array) -> tuple[Array, Array]:
    """Slopes from five central differences, each of half the step of the one before, and their error bars.

    d has the error O(h²), r = (4d' - d)/3 has O(h⁴), s = (16r' - r)/15 has O(h⁶). The last s is the result, and how far
    it is from the one before, its error (64 times too much for a smooth function). With a kink among the steps those
    two may agree by chance, but then the first s is far off. The noise of s is 0.72 of that of a change, divided by the
    last step; so with a `floor` of 3 standard deviations of a change, the bar has four of s.
    """
    steps = first / np.array([1, 2, 4, 8, 16])
    changes = np.zeros((len(steps), len(entries)))
    felt = np.ones(len(entries), bool)
    for k, h in enumerate(steps):
        if np.any(felt):
            changes[k, felt] = change(entries[felt], h)
        if k == 1:  # what the two longest moves don't change in the last bit has slope 0, without noise
            felt = np.any(changes, axis=0)
    d = changes / (2 * steps[:, None])
    r = d[1:] + (d[1:] - d[:-1]) / 3
    s = r[1:] + (r[1:] - r[:-1]) / 15
    truncation = np.maximum(np.abs(s[2] - s[1]), np.abs(s[1] - s[0]) / 16)
    rounding = felt * floor / steps[-1] + 4 * np.finfo(float).eps * np.abs(s[2])
    return s[2], truncation + rounding


def far_from_kinks(layers: Sequence[Callable[[Any], Any]], images: Array, count: int) -> Array:
    """Those `count` of the images, in their order, for which the input of every ReLU is farthest from 0.

    There the loss is smooth around the parameters, as far as steps reach. On a kink a gradient is a convention, and no
    difference can confirm it. A network without ReLU takes the first images.
    """
    room = np.full(len(images), np.inf)
    with mg.no_grad():
        x: Any = mg.Tensor(images)
        for layer in layers:
            if isinstance(layer, mg.nn.ReLU):
                room = np.minimum(room, np.abs(x.data).min(axis=1))
            x = layer(x)
    return images[np.sort(np.argsort(-room, kind="stable")[:count])]


def check(
    layers: Sequence[Callable[[Any], Any]],
    parameters: dict[str, mg.Tensor],
    terms: Terms,
    images: Array,
    advance: Callable[[int], None] = lambda count: None,
) -> Verdict:
    """Compare the `.grad` of every parameter with the slopes of the loss Σ terms / number of images.

    Args:
        layers: the network, in float64: functions that are applied in turn, of which `nn.Linear` hold the parameters.
        parameters: all of them by name, each with its `.grad`, a gradient of that loss.
        terms: the terms of the loss, from the network's output and the images. They are subtracted one by one before
            they are summed, so that those that an entry does not touch add no rounding.
        images: (count, pixels) float64.
        advance: is told how many entries were finished, as it goes.

    Raises:
        ValueError: a parameter that is not one of a Linear layer, so that it would go unchecked; or no `.grad`.
    """
    gradients = {name: _gradient(name, p) for name, p in parameters.items()}
    every = np.concatenate([g.ravel() for g in gradients.values()])
    scale = SMALL * float(np.abs(every).max()) or 1.0
    worst, small, failures = [], 0, 0
    with mg.no_grad():
        changes = _changes(layers, parameters, terms, images)
        for name, gradient in gradients.items():
            slope, bar = slopes(changes[name], gradient.size, max(1, CELLS // images.size), advance)
            unit = np.abs(gradient.ravel())
            hidden = (bar > RESOLUTION * unit) & (unit < scale)
            small += int(np.count_nonzero(hidden & (unit > 0)))
            unit[hidden | (unit == 0)] = scale
            with np.errstate(invalid="ignore"):
                error, bar = np.abs(gradient.ravel() - slope) / unit, bar / unit
            error[np.isnan(error)] = np.inf  # the gradient or the loss is not finite
            failures += int(np.count_nonzero(~(error + bar <= TOLERANCE)))
            k = int(np.argmax(error))
            index = ", ".join(map(str, np.unravel_index(k, gradient.shape)))
            worst.append((float(error[k]), float(bar[k]), f"{name}[{index}]"))
    largest, its_bar, where = max(worst)
    zeros = int(np.count_nonzero(every == 0))
    return Verdict(every.size, zeros, small, failures, where, largest, its_bar)


def _gradient(name: str, parameter: mg.Tensor) -> Array:
    if parameter.grad is None:
        raise ValueError(f"check: {name} has no .grad: call backward on the loss of these images first")
    return parameter.grad.data


def _changes(
    layers: Sequence[Callable[[Any], Any]], parameters: dict[str, mg.Tensor], terms: Terms, images: Array
) -> dict[str, Change]:
    """For every parameter what moving its entries does to the loss."""
    names = {id(p): name for name, p in parameters.items()}
    found: dict[str, Change] = {}
    x = mg.Tensor(images)
    for index, layer in enumerate(layers):
        below, x = x.data, layer(x)
        if isinstance(layer, mg.nn.Linear):
            above = (x.data, layers[index + 1 :], terms, images)
            found[names[id(layer.weight)]] = _change(*above, below)
            if layer.bias is not None:
                found[names[id(layer.bias)]] = _change(*above, None)
    if missing := parameters.keys() - found.keys():
        raise ValueError(f"check: only parameters of Linear layers can be checked, not {', '.join(sorted(missing))}")
    return found


def _change(
    z: Array, above: Sequence[Callable[[Any], Any]], terms: Terms, images: Array, below: Array | None
) -> Change:
    """For the weight (or the bias, if `below` is None) of a layer that maps `below` to z, under the layers `above`."""
    count, units = z.shape

    def loss_terms(entries: Array, move: Any) -> Array:
        """The terms of the losses of networks in which one of the entries has moved: (networks, count, ...)."""
        unit = entries % units
        if not above:  # each entry moves one pixel, and the terms of the others would cancel
            return terms(mg.Tensor(z[:, unit].T + move), mg.Tensor(images[:, unit].T)).data
        moved = np.tile(z, (len(entries), 1))
        moved.reshape(-1, count, units)[np.arange(len(entries)), :, unit] += move
        x: Any = mg.Tensor(moved)
        for layer in above:
            x = layer(x)
        return terms(x, mg.Tensor(np.tile(images, (len(entries), 1)))).data

    def change(entries: Array, h: float) -> Array:
        move = h if below is None else h * below[:, entries // units].T
        difference = loss_terms(entries, move) - loss_terms(entries, -move)
        return difference.reshape(len(entries), -1).sum(1) / count

    return change
