"""Op: one record that tells the whole story of one operation, and what a call of it records.

A rule (vector-Jacobian product) names what it needs, and only that is kept: `g` is the cotangent of the output, `y` the
output, an input goes by its name, `like_x` is the shape and dtype of input x, parameters go by theirs. Rules are
written with operations, so they run on arrays as well as on values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import KW_ONLY, dataclass, field
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from minigrad.arrays import check_dtype, constant, describe
from minigrad.core.mode import current
from minigrad.core.node import Node, birth
from minigrad.core.value import Like, Value
from minigrad.kernels.dispatch import dispatched

Rule = Callable[..., Any]

KINDS = ("elementwise", "linear", "bilinear", "other")
registry: dict[str, Op] = {}

_new = object.__new__
_ndarray = np.ndarray


def _signature(forward: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any], int | None]:
    """The inputs of a forward function, its parameters with their defaults, and where its starred input stands."""
    if isinstance(forward, np.ufunc):
        return ("a", "b") if forward.nin == 2 else ("x",), {}, None
    given = inspect.signature(forward).parameters.values()
    inputs = [p for p in given if p.kind is not p.KEYWORD_ONLY]
    star = len(inputs) - 1 if inputs and inputs[-1].kind is inspect.Parameter.VAR_POSITIONAL else None
    return tuple(p.name for p in inputs), {p.name: p.default for p in given if p.kind is p.KEYWORD_ONLY}, star


class Plan:
    """What a call keeps, and whom backward asks, when a certain set of inputs needs a gradient.

    `pulls` has (input, rule, which of the saved items are the rule's arguments), `fused_pulls` the same for arrays.
    `keep` takes what is saved out of what a call has at hand; `origins` says for each saved item which input it is (-1:
    the output, None: no array of either), so that it gets its history back. All nodes of a kind share one plan; the few
    with a source line, or with a tensor that waits for their cotangent, have a copy that notes it: `where`, `owner`.
    Cotangents are `guarded` against rules that are not minigrad's own, which its tests could not see write into them.
    """

    __slots__ = ("fused_pulls", "guarded", "keep", "names", "op", "origins", "owner", "pulls", "where")

    def __init__(self, op: Op, needed: list[str]):
        self.op = op
        self.owner = self.where = None
        self.guarded = not all(str(op.vjp[name].__module__).startswith("minigrad.") for name in needed)
        self.names = [name for i in needed for name in op.uses[i]]
        output, at_hand = len(op.inputs), [*op.inputs, "y", *op.params, *op.likes]
        places = [at_hand.index(name) for name in self.names]
        self.origins = [None if place > output else -1 if place == output else place for place in places]
        self.keep = _keeper(op, places, output)
        ends = accumulate(len(op.uses[name]) for name in needed)
        spans = [slice(end - len(op.uses[name]), end) for name, end in zip(needed, ends, strict=True)]
        uses = spans if len(needed) > 1 else [None]
        self.pulls = [(op.inputs.index(n), op.vjp[n], used) for n, used in zip(needed, uses, strict=bool(needed))]
        self.fused_pulls = [(i, op.fastest(op.inputs[i], rule), used) for i, rule, used in self.pulls]

    def noting(self, **notes: Any) -> Plan:
        """A copy of this plan with `where` or `owner` noted."""
        plan = copy(self)
        for name, value in notes.items():
            setattr(plan, name, value)
        return plan


def _keeper(op: Op, places: list[int], output: int) -> Callable[[Any, Any, Any], tuple[Any, ...]]:
    """The function that takes what is saved out of what a call has at hand: inputs, output, parameters, likes."""
    if len(places) == 1 and (only := places[0]) <= output:  # the usual case is worth lines of its own
        return (lambda arrays, y, _: (arrays[only],)) if only < output else lambda arrays, y, _: (y,)
    if not places:
        return lambda *at_hand: ()
    take = itemgetter(*places) if len(places) > 1 else itemgetter(slice(places[0], places[0] + 1))
    if max(places) <= output:
        return lambda arrays, y, _: take((*arrays, y))
    likes = max(0, max(places) - output - len(op.params))  # as many as it takes to have those that are asked for
    return lambda arrays, y, params: take((*arrays, y, *map(params.get, op.params), *map(like, arrays[:likes])))


@dataclass(eq=False, repr=False)
class Op:
    """One operation: its forward function on arrays, its rules, and what documents and tests it.

    Args:
        name: what errors, graphs and `registry` call it.
        forward: a NumPy ufunc, or a function whose positional parameters are the input arrays (a `*xs` may come last)
            and whose keyword-only parameters are the rest. It returns a new array, or a tuple of several.
        vjp: for each differentiable input, the function from the cotangent `g` and whatever else it names to the
            cotangent of that input (for `*xs`: a sequence of them). Of several outputs, `g` is a tuple of cotangents,
            None for an output that nobody used. The engine sums what a rule returns over broadcast axes, casts it to
            the input's dtype and adds it up. An input without a rule is a constant.
        fused: for some inputs a faster form of the rule, of the same parameters, for arrays alone; with the same bits.
        kernels: machine code for the forward ('y') or the rule of an input: a function of the same parameters with the
            same numbers to rounding, or NotImplemented for what it can't do; and how many elements the first array must
            have for it to be faster, in float32 and, if that is another number, in float64.
        kind: 'elementwise' (broadcasts; the Jacobian is diagonal), 'linear', 'bilinear', or 'other'.
        formula: forward and rules as documents print them.
        signature: core dimensions in the manner of NumPy's generalised ufuncs, where leading ones broadcast.
        domain: for each input the open interval where the operation is defined and differentiable; default: all.
        undifferentiable: where it has no derivative, and which subgradient the rule takes there.
        doc: the docstring.

    Example:
        >>> import numpy as np, minigrad as mg
        >>> cube = mg.Op("cube", lambda x: x * x * x, vjp={"x": lambda g, x: g * 3 * x * x}, kind="elementwise")
        >>> x = mg.Tensor([1.0, 2.0], requires_grad=True)
        >>> cube(x).sum().backward()
        >>> x.grad.data
        array([ 3., 12.])
    """

    name: str
    forward: Callable[..., Any]
    vjp: Mapping[str, Rule] = field(default_factory=dict)
    _: KW_ONLY
    fused: Mapping[str, Rule] = field(default_factory=dict)
    kernels: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    kind: str = "other"
    formula: str = ""
    signature: str = ""
    domain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    undifferentiable: str = ""
    doc: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Op {self.name!r}: kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        self.__doc__ = self.doc or self.formula or self.name
        self.__name__ = self.__qualname__ = self.name
        self.inputs, self.params, self.star = _signature(self.forward)
        self.likes = [f"like_{i}" for i in self.inputs]
        if unknown := {*self.vjp, *self.fused, *self.kernels, *self.domain} - {"y", *self.inputs}:
            raise ValueError(f"Op {self.name!r} has no inputs {sorted(unknown)}; its inputs are {list(self.inputs)}")
        self.uses = {i: self._asked(i, rule) for i, rule in self.vjp.items()}
        faster = [*self.fused.items(), *((i, kernel) for i, (kernel, *_) in self.kernels.items() if i != "y")]
        if any(self._asked(i, rule) != self.uses.get(i) for i, rule in faster):
            raise ValueError(f"Op {self.name!r}: a faster rule asks for what the rule asks for, in the same order")
        self.run = self.fastest("y", self.forward)
        self._plans: dict[int, Plan] = {}
        registry[self.name] = self

    def __repr__(self) -> str:
        return f"<Op {self.name}: {self.formula or self.kind}>"

    def fastest(self, name: str, function: Rule) -> Rule:
        """The function for arrays, the forward ("y") or the rule of an input, by the kernel where it is worth it."""
        return dispatched(self.fused.get(name, function), *self.kernels.get(name, ()))

    def _asked(self, name: str, rule: Rule) -> tuple[str, ...]:
        """What the rule of an input asks for beyond the cotangent."""
        asked = tuple(inspect.signature(rule).parameters)[1:]
        known = ["y", *self.inputs, *self.likes, *self.params]
        if unknown := [a for a in asked if a not in known]:
            raise ValueError(f"Op {self.name!r}: the rule for {name!r} asks for {unknown}, which is none of {known}")
        return asked

    def names(self, count: int) -> list[str]:
        """The names of `count` inputs, the starred one numbered."""
        fixed = self.inputs[: self.star]
        return [*fixed, *(f"{self.inputs[-1]}[{k}]" for k in range(count - len(fixed)))]

    def plan(self, mask: int) -> Plan:
        """The plan for the inputs whose bits are set in `mask`."""
        needed = [name for i, name in enumerate(self.inputs) if mask >> i & 1 and name in self.vjp]
        return self._plans.setdefault(mask, Plan(self, needed))

    def __call__(self, *args: Any, **params: Any) -> Any:
        """Compute; if a value is among the inputs, return one, with a node if a gradient can flow through it."""
        if len(params) != len(self.params):
            params = self._complete(params)
        if len(args) == 2:  # one and two inputs are taken apart without a loop: it would take a fifth of a call's time
            a, b = args
            mask, cls, p, q = 0, None, None, None
            if isinstance(a, Value):
                cls, p, a = type(a), a.node, a.array
                if p is not None and p.requires_grad:
                    mask = 1
            elif isinstance(b, Value):
                a = constant(a)
            if isinstance(b, Value):
                cls, q, b = cls or type(b), b.node, b.array
                if q is not None and q.requires_grad:
                    mask |= 2
            elif cls is not None:
                b = constant(b)
            arrays, parents = (a, b), (p, q)
        elif len(args) == 1 and isinstance(a := args[0], Value):
            cls, p = type(a), a.node
            mask = 1 if p is not None and p.requires_grad else 0
            arrays, parents = (a.array,), (p,)  # type: ignore[assignment]
        else:
            cls, mask, arrays, parents = _taken_apart(args)
        mode, where = current(), None
        if cls is None:
            y = self.run(*args, **params)
            y = y if type(y) is _ndarray else _as_arrays(y)
            if mode is not None:
                mode.watch(self, args, args, params, y)
            return y
        try:
            y = self.run(*arrays, **params) if params else self.run(*arrays)
        except Exception as error:
            raise self._explained(error, arrays) from error
        if type(y) is not _ndarray:
            y = _as_arrays(y)
        y.setflags(0)
        if mode is not None:
            where = mode.watch(self, args, arrays, params, y)
            mask *= mode.grad
        value = _new(cls)
        value.array, value.node = y, None
        if mask:
            if self.star is not None:
                mask, arrays = self._gather_star(mask, arrays)
            plan = self._plans.get(mask) or self.plan(mask)
            if plan.pulls:
                value.node = node = Node()
                node.birth, node.parents = birth(), parents
                node.plan = plan if where is None else plan.noting(where=where)
                node.saved = plan.keep(arrays, y, params)
                node.shape, node.dtype = y.shape, y.dtype
        elif type(y) is _ndarray and y.dtype.char == "e":  # NumPy gives float16 for exp of int8, say
            check_dtype(y.dtype)
        if type(y) is _ndarray:
            return value
        if value.node is None and not (mode and mode.watchers):  # nobody asks where each output came from
            return tuple(map(cls.wrap, y))
        return tuple(pick(value, i=i) for i in range(len(y)))

    def _complete(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with the defaults of those that were left out."""
        complete = {**self.params, **params}
        if len(complete) > len(self.params) or inspect.Parameter.empty in complete.values():
            raise TypeError(f"{self.name} takes the parameters {list(self.params)}, got {list(params)}")
        return complete

    def _gather_star(self, mask: int, arrays: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]]:
        """Fold the starred inputs into one, a tuple, which needs a gradient if any of them does."""
        star = self.star
        folded = (mask & (1 << star) - 1) | (mask >> star != 0) << star  # type: ignore[operator]
        return folded, (*arrays[:star], tuple(arrays[star:]))

    def _explained(self, error: Exception, arrays: tuple[Any, ...]) -> Exception:
        """The error of a forward function, with the operation and what it was given."""
        given = ", ".join(f"{n} {describe(a)}" for n, a in zip(self.names(len(arrays)), arrays, strict=False))
        text = f"{self.name}({given}): {error}"
        return type(error)(text) if type(error) in (ValueError, TypeError, IndexError) else ValueError(text)


def like(x: Any) -> Any:
    """The shape and dtype of an input."""
    x = x if isinstance(x, (_ndarray, tuple)) else np.asarray(x)
    return Like(x.shape, x.dtype) if type(x) is not tuple else tuple(map(like, x))


def _taken_apart(args: tuple[Any, ...]) -> tuple[Any, int, tuple[Any, ...], tuple[Any, ...]]:
    """The class of the first value among the inputs; which need a gradient, as bits; their arrays; their nodes."""
    for first in args:
        if isinstance(first, Value):
            break
    else:
        return None, 0, args, ()
    parents = tuple(a.node if isinstance(a, Value) else None for a in args)
    mask = sum(1 << i for i, p in enumerate(parents) if p is not None and p.requires_grad)
    return type(first), mask, tuple(a.array if isinstance(a, Value) else constant(a) for a in args), parents


class Outputs(tuple):
    """The arrays that an operation of several outputs made, or their cotangents, of which some may be missing (None);
    a hidden value holds them, and `pick` takes one out."""

    dtype = None
    shape = property(lambda self: tuple(map(like, self)))

    def setflags(self, write: bool) -> None:
        for array in self:
            if array is not None:
                array.setflags(write)


def _as_arrays(y: Any) -> Any:
    """What a forward function returned as an array (NumPy makes scalars of 0-d results), or as several."""
    return Outputs(map(np.asarray, y)) if isinstance(y, (tuple, list)) else np.asarray(y)


class Part(NamedTuple):
    """The cotangent of one part of a value, zero elsewhere: what the rules of indexing return.

    The engine collects the parts of a value and calls `merge(parts, node)` once, so that a loop over n slices costs n
    slices and not n whole arrays. Operations of several outputs use it too: `key` is then the number of the output.
    """

    g: Any
    key: Any
    merge: Callable[[list[Part], Any], Any]


def _merge_outputs(parts: list[Any], node: Any) -> tuple[Any, ...]:
    """The cotangents of several outputs, None for those that nobody used."""
    gs: list[Any] = [None] * len(node.shape)
    for part in parts:  # an output has two where a recorded rule asked for it, too
        gs[part.key] = part.g if gs[part.key] is None else gs[part.key] + part.g
    return Outputs(gs)


_pull_output = {"outputs": lambda g, i: Part(g, i, _merge_outputs)}
pick = Op(
    "pick", lambda outputs, *, i: outputs[i].view(), _pull_output, formula="y = output i of an operation of several"
)
