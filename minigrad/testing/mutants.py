"""Rules broken in the ways that people break them: does a test suite notice?

A mutation is a function of a `Pull`, one call of a right rule, and returns what the broken rule returns instead. It is
written with operations, so that the broken rule runs on arrays and on Tensors as the right one does. Read the list
MUTATIONS from top to bottom; `_exchanges` adds those that follow from what a rule asks for.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial, wraps
from typing import Any, NamedTuple

import numpy as np

from minigrad.core.op import Op, Part, Rule, registry
from minigrad.core.value import Value, raw
from minigrad.ops.elementwise import abs as absolute
from minigrad.ops.elementwise import equal, greater, less, where
from minigrad.ops.indexing import getitem
from minigrad.ops.manipulation import astype, matrix_transpose, roll
from minigrad.ops.reduction import any as any_of

LITTLE = 1e-9


@dataclasses.dataclass(frozen=True)
class Mutant:
    """An operation of which one rule is broken.

    Attributes:
        input: the input whose rule it is.
        mutation: how it is broken.
        op: the operation, which is not in the registry: everybody else goes on with the right one.
    """

    input: str
    mutation: str
    op: Op

    @property
    def name(self) -> str:
        """What tests call it: "multiply, vjp of 'a': sign flipped"."""
        return f"{self.op.name}, vjp of {self.input!r}: {self.mutation}"


def mutants(op: Op) -> Iterator[Mutant]:
    """The operation with its rules broken, one at a time, in ways that people do.

    Left out are mutations that can't make a difference: a factor in a rule that is zero anyway, what happens at x < 0
    where that is outside the domain. A few mutants that are left behave like the right rule all the same (relu with y
    in place of x, say); whoever asserts that tests kill all the others has to name these.

    Example:
        >>> import numpy as np
        >>> cube = Op("cube", lambda x: x * x * x, vjp={"x": lambda g, x: g * 3 * x * x}, kind="elementwise")
        >>> broken = {mutant.mutation: mutant for mutant in mutants(cube)}
        >>> print(broken["sign flipped"].name)
        cube, vjp of 'x': sign flipped
        >>> from minigrad.testing import Call, check_call
        >>> check_call(Call(broken["y for x"].op, (np.array([0.5, 2.0]),))).verdict
        'fail'
    """
    for name, rule in op.vjp.items():
        for kind, mutation in (*MUTATIONS.items(), *_exchanges(op, name)):
            if (more := mutation.asks(op, name)) is not None:
                yield Mutant(name, kind, _with_rule(op, name, _broken(op, name, rule, mutation.breaks, more)))


def _with_rule(op: Op, name: str, rule: Rule) -> Op:
    """The operation with another rule for one input, on arrays too; the registry stays as it is."""
    before = registry.get(op.name)
    fused = {n: faster for n, faster in op.fused.items() if n != name}
    kernels = {n: kernel for n, kernel in op.kernels.items() if n != name}
    mutant = dataclasses.replace(op, vjp={**op.vjp, name: rule}, fused=fused, kernels=kernels)
    if before is None:
        del registry[op.name]
    else:
        registry[op.name] = before
    return mutant


def _broken(op: Op, name: str, rule: Rule, breaks: Callable[[Pull], Any], more: tuple[str, ...]) -> Rule:
    """A rule that does what a mutation does; it asks for `more` than the right one."""
    asked = op.uses[name]
    names = dict.fromkeys([*asked, *more])

    @wraps(rule)
    def broken(cotangent: Any, *given: Any) -> Any:
        at_hand = dict(zip(names, given, strict=True))
        return breaks(Pull(rule, asked, name, cotangent, at_hand))

    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in ("cotangent", *names)]
    broken.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return broken


@dataclasses.dataclass
class Pull:
    """One call of a right rule.

    Attributes:
        rule, asked: the rule, and what it asks for.
        name: of the input.
        g: the cotangent of the output (of several outputs, a tuple).
        at_hand: arrays, or Tensors, and parameters by name.
    """

    rule: Rule
    asked: tuple[str, ...]
    name: str
    g: Any
    at_hand: Mapping[str, Any]

    def by(self, rule: Rule | None = None, g: Any = None, **instead: Any) -> Any:
        """What the rule, or another one, gives with another cotangent, or with something else in place of its names."""
        asked = self.asked if rule is None else tuple(inspect.signature(rule).parameters)[1:]
        given = {**self.at_hand, **instead}
        return (rule or self.rule)(self.g if g is None else g, *(given[n] for n in asked))

    @cached_property
    def right(self) -> Any:
        """What the rule gives."""
        return self.by()

    @property
    def x(self) -> Any:
        """The input that the rule is for."""
        return self.at_hand[self.name]

    def each(self, f: Callable[..., Any], *others: Any) -> Any:
        """f of every array in what the rule gives: of a starred input it is a list, of an indexed one a `Part`."""
        return _each(f, self.right, *others)

    def inside(self, region: Callable[[Any], Any], f: Callable[[Any], Any]) -> Any:
        """f of what the rule gives where x lies in a region (for shapes that have nothing to do with x: if some of it
        does)."""

        def here(c: Any, x: Any) -> Any:
            if isinstance(x, tuple):  # several outputs
                return here(c, x[0])
            mask = region(x)
            return where(mask if _fit(raw(c).shape, raw(mask).shape) else any_of(mask), f(c), c)

        return self.each(here, self.x)


def _each(f: Callable[..., Any], c: Any, *others: Any) -> Any:
    if isinstance(c, Part):
        return c._replace(g=f(c.g, *others))
    if isinstance(c, (tuple, list)):
        return [None if item is None else f(item, *rest) for item, *rest in zip(c, *others, strict=True)]
    return f(c, *others)


def _fit(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether something of the second shape broadcasts to the first."""
    return len(other) <= len(shape) and all(n in (1, m) for m, n in zip(shape[::-1], other[::-1], strict=False))


# When a mutation makes a difference, and what it asks for then


def asking(*names: str) -> Callable[[Op, str], tuple[str, ...] | None]:
    """Always, with these at hand."""
    return lambda op, name: names


def scaled(op: Op, name: str) -> tuple[str, ...] | None:
    """A rule that is not zero anyway."""
    zero = not op.uses[name] and op.kind == "elementwise" and not np.any(raw(op.vjp[name](np.ones(()))))
    return None if zero else ()


def computed(op: Op, name: str) -> tuple[str, ...] | None:
    """A rule that does not return its cotangent as it is."""
    return None if _same(op.vjp[name], lambda g: g) else ()


def broadcasts(op: Op, name: str) -> tuple[str, ...] | None:
    """An input that may have been copied."""
    several = len(op.inputs) > 1 and (op.kind == "elementwise" or op.signature)
    return (f"like_{name}",) if several and scaled(op, name) is not None else None


def contains(*points: float) -> Callable[[Op, str], tuple[str, ...] | None]:
    """Points of which one is inside the domain."""

    def asks(op: Op, name: str) -> tuple[str, ...] | None:
        low, high = op.domain.get(name, (-np.inf, np.inf))
        return (name,) if any(low < x < high for x in points) and scaled(op, name) is not None else None

    return asks


def _arrays(op: Op, name: str) -> list[str]:
    """The names of inputs, and of the output, that a rule asks for."""
    return [n for n in op.uses[name] if n == "y" or n in op.inputs]


def remembers(op: Op, name: str) -> tuple[str, ...] | None:
    """A rule that asks for arrays on which it may depend smoothly."""
    return () if _arrays(op, name) and op.kind != "linear" else None


# The mutations


class Mutation(NamedTuple):
    """How a rule is broken: what it returns instead, and what it asks for (None: it would make no difference)."""

    breaks: Callable[[Pull], Any]
    asks: Callable[[Op, str], tuple[str, ...] | None] = scaled


def _last(c: Any) -> Any:
    factors = np.ones(raw(c).shape, raw(c).dtype)
    factors.reshape(-1)[-1:] = 1.5
    return c * factors


def _one_copy(c: Any, like: Any) -> Any:
    """One copy in place of the sum over the axes that broadcasting copied."""
    extra = raw(c).ndim - len(like.shape)
    kept = (slice(0, 1) if n == 1 else slice(None) for n in like.shape)
    return getitem(c, (*(0,) * extra, *kept))


def _mean_of_copies(c: Any, like: Any) -> Any:
    return c * (np.prod(like.shape) / max(raw(c).size, 1))


def _transposed(c: Any) -> Any:
    shape = raw(c).shape
    return matrix_transpose(c) if shape[-1:] == shape[-2:-1] else c


def _through_float32(c: Any) -> Any:
    return astype(astype(c, np.float32), raw(c).dtype)


def _detached(x: Any) -> Any:
    """A value, or each of a tuple of them, without its history; parameters and shapes as they are."""
    if type(x) is tuple:
        return tuple(map(_detached, x))
    return x.detach() if isinstance(x, Value) else x  # type: ignore[attr-defined]


def _of_g(f: Callable[[Any], Any]) -> Callable[[Pull], Any]:
    """A mutation: another cotangent goes in."""
    return lambda pull: pull.by(g=_each(f, pull.g))


def _of_result(f: Callable[[Any], Any], where_: Callable[[Any], bool] = lambda c: True) -> Callable[[Pull], Any]:
    """A mutation: something else comes out (for some arrays)."""
    return lambda pull: pull.each(lambda c: f(c) if where_(c) else c)


def _inside(region: Callable[[Any], Any], f: Callable[[Any], Any]) -> Callable[[Pull], Any]:
    """A mutation: something else comes out where x lies in a region."""
    return lambda pull: pull.inside(region, f)


def _a_little_more(c: Any) -> Any:
    return 1.1 * c


MUTATIONS: dict[str, Mutation] = {
    "sign flipped": Mutation(_of_result(lambda c: -c)),
    "twice": Mutation(_of_result(lambda c: 2.0 * c)),
    "half": Mutation(_of_result(lambda c: 0.5 * c)),
    "zero": Mutation(_of_result(lambda c: 0.0 * c)),
    "the cotangent as it is": Mutation(lambda pull: pull.g, computed),
    "a relative 1e-9 more": Mutation(_of_result(lambda c: (1.0 + LITTLE) * c)),
    "1e-9 more": Mutation(_of_result(lambda c: c + LITTLE), asking()),
    "one copy for the sum over copies": Mutation(
        lambda pull: _one_copy(pull.right, pull.at_hand[f"like_{pull.name}"]), broadcasts
    ),
    "the mean for the sum over copies": Mutation(
        lambda pull: _mean_of_copies(pull.right, pull.at_hand[f"like_{pull.name}"]), broadcasts
    ),
    "transposed": Mutation(_of_result(_transposed, lambda c: raw(c).ndim > 1)),
    "shifted by one place": Mutation(_of_result(lambda c: roll(c, 1))),
    "last entry × 1.5": Mutation(_of_result(_last)),
    "small cotangents dropped": Mutation(_of_g(lambda g: where(less(absolute(g), 1e-6), 0.0 * g, g))),
    "g² for g": Mutation(_of_g(lambda g: g * g)),
    "|g| for g": Mutation(_of_g(absolute)),
    "× 1.1 where |x| > 3": Mutation(_inside(lambda x: greater(absolute(x), 3.0), _a_little_more), contains(4.0, -4.0)),
    "× 1.1 where |x| < 1e-3": Mutation(_inside(lambda x: less(absolute(x), 1e-3), _a_little_more), contains(0.0, 1e-4)),
    "× 1.1 where x < 0": Mutation(_inside(lambda x: less(x, 0.0), _a_little_more), contains(-0.5)),
    "× 1.1 where x > 0": Mutation(_inside(lambda x: greater(x, 0.0), _a_little_more), contains(0.5)),
    "2ȳ more at x = 0": Mutation(
        lambda pull: pull.inside(lambda x: equal(x, 0.0), lambda c: c + 2.0 * pull.g),
        lambda op, name: contains(0.0)(op, name) if op.kind == "elementwise" else None,
    ),
    "nan at x = 0": Mutation(_inside(lambda x: equal(x, 0.0), lambda c: np.nan * c), contains(0.0)),
    "history of what was saved lost": Mutation(
        lambda pull: pull.by(**{n: _detached(pull.at_hand[n]) for n in pull.asked}), remembers
    ),
    "history of the cotangent lost": Mutation(_of_g(_detached)),
    "rounded to float32": Mutation(_of_result(_through_float32)),
    "× 1.1 in float32": Mutation(_of_result(_a_little_more, lambda c: raw(c).dtype == np.float32)),
    "× 1.1 on Tensors": Mutation(_of_result(_a_little_more, lambda c: isinstance(c, Value))),
    "× 1.1 on arrays": Mutation(_of_result(_a_little_more, lambda c: not isinstance(c, Value))),
}


def _exchanges(op: Op, name: str) -> Iterator[tuple[str, Mutation]]:
    """Mutations that take one thing for another: the rules of two inputs, what is saved, the axis."""
    for other, rule in op.vjp.items():
        if other != name and not _same(rule, op.vjp[name]):
            yield f"the rule of {other!r}", Mutation(partial(Pull.by, rule=rule), asking(*op.uses[other]))
    arrays = [*(n for i, n in enumerate(op.inputs) if i != op.star), "y"]
    for right in _arrays(op, name):
        for wrong in arrays if right in arrays else ():
            if wrong != right:
                swap = lambda pull, right=right, wrong=wrong: pull.by(**{right: pull.at_hand[wrong]})
                yield f"{wrong} for {right}", Mutation(swap, asking(wrong))
    if len(pair := [n for n in _arrays(op, name) if n in arrays]) == 2:
        a, b = pair
        both = lambda pull: pull.by(**{a: pull.at_hand[b], b: pull.at_hand[a]})
        yield f"{a} and {b} exchanged", Mutation(both, asking())
    if "axis" in op.uses[name]:
        first = lambda axis: tuple(range(len(axis))) if isinstance(axis, tuple) else 0
        yield "the first axis for axis", Mutation(lambda pull: pull.by(axis=first(pull.at_hand["axis"])), asking())
    if name in op.inputs and len(op.inputs) > 1 and op.kind == "elementwise" and op.star is None:
        yield from _at_ties(op, name)


def _at_ties(op: Op, name: str) -> Iterator[tuple[str, Mutation]]:
    """Mutations where two inputs are equal."""
    for other in op.vjp:
        if other != name:

            def tie(pull: Pull, other: str = other) -> Any:
                return pull.inside(partial(equal, pull.at_hand[other]), lambda c: 1.5 * c)

            yield f"× 1.5 where {other} is equal", Mutation(tie, asking(name, other))


def _same(f: Rule, g: Rule) -> bool:
    """Whether two rules are the same code, whatever its variables are called."""
    a, b = getattr(f, "__code__", None), getattr(g, "__code__", None)
    if a is None or b is None or f.__closure__ or g.__closure__:
        return f is g
    return (a.co_code, a.co_consts, a.co_names) == (b.co_code, b.co_consts, b.co_names)
