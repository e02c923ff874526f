"""What is checked: a function at a point, with its VJP and JVP, on lists of arrays.

A function of Tensors, a pair of NumPy functions and one call of an Op all become a `Subject`, and the judge in `check`
knows nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from minigrad import trees
from minigrad.core.mode import no_grad
from minigrad.core.op import Op
from minigrad.core.value import Value, raw
from minigrad.tape import Entry, record
from minigrad.tensor import Tensor
from minigrad.testing.complex_step import Analytic, tracked
from minigrad.transforms import alias, jvp, vjp

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Call:
    """One call of an operation: its inputs as arrays, and its parameters.

    Example:
        >>> import minigrad as mg
        >>> Call(mg.multiply, (np.array(2.0), np.array(3.0)))
        multiply(array(2.), array(3.))
    """

    op: Op
    arrays: tuple[Any, ...]
    params: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """The name in the record of each input; a starred one comes several times."""
        star = self.op.star
        last = len(self.op.inputs) - 1
        return [self.op.inputs[i if star is None else min(i, last)] for i in range(len(self.arrays))]

    @cached_property
    def spots(self) -> list[int]:
        """The positions of the inputs that have a gradient."""
        return [
            i
            for i, (name, x) in enumerate(zip(self.names, self.arrays, strict=True))
            if name in self.op.vjp and np.asarray(x).dtype.kind == "f"
        ]

    @property
    def xs(self) -> list[Array]:
        """The inputs that have a gradient."""
        return [self.arrays[i] for i in self.spots]

    def f(self, *xs: Any) -> Any:
        """The operation as a function of the inputs that have a gradient."""
        return self.op(*self.having(xs).arrays, **self.params)

    def having(self, xs: Sequence[Any]) -> Call:
        """The same call with other differentiable inputs."""
        arrays = list(self.arrays)
        for i, x in zip(self.spots, xs, strict=True):
            arrays[i] = x
        return Call(self.op, tuple(arrays), self.params)

    def in_float64(self) -> Call:
        """The same call at the same numbers in float64."""
        return Call(self.op, tuple(map(_widened, self.arrays)), self.params)

    def __repr__(self) -> str:
        given = [*map(repr, self.arrays), *(f"{name}={value!r}" for name, value in self.params.items())]
        return f"{self.op.name}({', '.join(given)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # how Hypothesis prints it


class Subject:
    """A function of arrays at a point, with its derivatives; all of them take and return lists of arrays.

    Attributes:
        title: what it is called.
        inputs: the point, floating-point arrays of one dtype or of several; input_names: what they are called.
        kind, formula: of an operation, as in its record.
    """

    title = ""
    inputs: list[Array]
    input_names: list[str]
    kind = "other"
    formula = ""

    def forward(self, xs: Sequence[Any]) -> list[Array]:
        """The outputs at another point."""
        raise NotImplementedError

    def pull(self, us: Sequence[Array]) -> list[Any]:
        """The cotangents of the inputs, from those of the outputs, at the point."""
        raise NotImplementedError

    def push(self, vs: Sequence[Array]) -> list[Array] | None:
        """The tangents of the outputs, from those of the inputs, at the point; None if there is no forward mode."""
        return None

    def at(self, xs: Sequence[Array]) -> Self:
        """The same function at another point."""
        other = self._bare()
        other.inputs = list(xs)
        return other

    def _bare(self) -> Self:
        """A copy that has computed nothing yet."""
        other = copy(self)
        for name in ("outputs", "_pulled", "_recorded"):
            vars(other).pop(name, None)
        return other

    def shaken(self, count: int, us: Sequence[Array] = (), vs: Sequence[Array] = ()) -> list[list[Array]]:
        """The VJP of us (or the JVP of vs), several times, from numbers that are all off by a random relative 2⁻²⁰.

        How far the results sway tells what rounding does to them (Parker, "Monte Carlo arithmetic", 1997).
        """
        rng = np.random.default_rng(5)
        found = []
        for _ in range(count):
            there = self.at([nudged(x, rng) for x in self.inputs])
            found.append(there.pull([nudged(u, rng) for u in us]) if us else there.push([nudged(v, rng) for v in vs]))
        return found  # type: ignore[return-value]

    def in_float64(self) -> Subject:
        """The same function at the same numbers in float64, as far as that follows from its arguments."""
        raise NotImplementedError

    def along(self, vs: Sequence[Array]) -> list[Array] | None:
        """The derivative along vs from the forward alone, where it is exact: a linear operation maps tangents as
        values, a bilinear one by the product rule. None for others."""
        return None

    def complex_forward(self, zs: Sequence[Any]) -> Sequence[Any]:
        """The outputs at complex inputs."""
        return self.forward(zs)

    @cached_property
    def outputs(self) -> list[Array]:
        """The outputs at the point."""
        with np.errstate(all="ignore"):
            return self.forward(self.inputs)

    @property
    def eps(self) -> float:
        """The coarsest unit roundoff among inputs and outputs."""
        return max(float(np.finfo(x.dtype).eps) for x in [*self.inputs, *self.outputs])


class OfArrays(Subject):
    """A NumPy function with a hand-written VJP."""

    def __init__(self, f: Callable[..., Any], vjp: Callable[..., Any], xs: Sequence[Any]):
        self.f, self.vjp = f, vjp
        self.title = _name_of(f)
        self.arguments = [np.array(x) for x in xs]
        for x in self.arguments:
            if x.dtype.kind in "fc" and x.dtype not in (np.float32, np.float64):
                raise TypeError(f"check_vjp: expected arrays of float32 or float64, got {x.dtype}: convert with astype")
        self.spots = [i for i, x in enumerate(self.arguments) if x.dtype.kind == "f"]
        if not self.spots:
            raise TypeError("check_vjp: expected at least one floating-point array to differentiate by, got none")
        self.inputs = [self.arguments[i] for i in self.spots]
        names = _parameters(f, len(xs))
        self.input_names = [names[i] for i in self.spots]

    def _full(self, xs: Sequence[Any]) -> list[Any]:
        given = dict(zip(self.spots, xs, strict=True))
        return [given.get(i, x) for i, x in enumerate(self.arguments)]

    def forward(self, xs: Sequence[Any]) -> list[Array]:
        y = self.f(*self._full(xs))
        self.several = isinstance(y, (tuple, list))
        return [z if isinstance(z, Analytic) else np.asarray(z) for z in (y if self.several else [y])]

    def pull(self, us: Sequence[Array]) -> list[Any]:
        _ = self.outputs
        bars = self.vjp(tuple(us) if self.several else us[0], *self._full(self.inputs))
        bars = list(bars) if isinstance(bars, (tuple, list)) else [bars]
        if len(bars) == len(self.arguments):
            bars = [bars[i] for i in self.spots]
        if len(bars) != len(self.spots):
            raise ValueError(f"vjp: expected {len(self.spots)} cotangents, one for each input, got {len(bars)}")
        for name, bar in zip(self.input_names, bars, strict=True):
            if bar is None:
                raise ValueError(
                    f"vjp: expected a cotangent for {name}, got None: return zeros where there is no slope"
                )
        return [np.asarray(bar) for bar in bars]

    def in_float64(self) -> OfArrays:
        return OfArrays(self.f, self.vjp, [_widened(x) for x in self.arguments])


class OfTensors(Subject):
    """A function of trees of Tensors: its VJP and JVP are those that the engine composes."""

    def __init__(self, f: Callable[..., Any], args: Sequence[Any], title: str = "", names: Sequence[str] = ()):
        if hasattr(f, "__tree__"):  # a module: its parameters are inputs, too
            names = ["", *_parameters(f, len(args))]
            f, args = _call_module, (f, *args)
        self.f = f
        self.title = title or _name_of(f)
        leaves, self.rebuild = trees.flatten(tuple(args), floats=True)
        self.leaves = [np.asarray(raw(x)) for x in leaves]
        self.spots = [i for i, x in enumerate(self.leaves) if x.dtype.kind == "f"]
        if not self.spots:
            raise TypeError("check: expected at least one floating-point Tensor, array or float, got none")
        self.inputs = [self.leaves[i] for i in self.spots]
        given = names or _parameters(f, len(args))
        paths = [name.partition(".") for name, _ in trees.named_leaves(tuple(args), floats=True)]
        every = [".".join(filter(None, (given[int(head)], tail))) for head, _, tail in paths]
        self.input_names = [every[i] for i in self.spots]

    def on_tensors(self, *xs: Any) -> list[Any]:
        """The function of the inputs alone, as Tensors; the list of its floating-point outputs.

        One that comes twice is a value of its own the second time: how many there are must not depend on whether two
        rules returned one and the same Tensor, as those of a sum do when they are recorded.
        """
        given = dict(zip(self.spots, xs, strict=True))
        y = self.f(*self.rebuild([given[i] if i in given else _wrapped(x) for i, x in enumerate(self.leaves)]))
        return self._floats(y, [leaf for (leaf,) in trees.matched(y, floats=True, ties=False)[0]])

    def _floats(self, y: Any, leaves: Iterable[Any]) -> list[Any]:
        """The floating-point outputs among the leaves of a result."""
        found: list[Any] = [leaf if isinstance(leaf, Value) else Tensor(leaf) for leaf in leaves]
        floats = [leaf for leaf in found if leaf.dtype.kind in "fc"]
        if not floats:
            raise TypeError(f"{self.title}: expected a floating-point result, or a tree of them, got {y!r:.80}")
        return [alias(z) if any(z is other for other in floats[:k]) else z for k, z in enumerate(floats)]

    def forward(self, xs: Sequence[Any]) -> list[Array]:
        with no_grad():
            return [y.array for y in self.on_tensors(*map(_wrapped, xs))]

    @cached_property
    def _pulled(self) -> Any:
        with no_grad():  # so that the rules run on arrays, as they do in an ordinary backward
            return vjp(self.on_tensors, *map(_wrapped, self.inputs))[1]

    def pull(self, us: Sequence[Array]) -> list[Any]:
        with no_grad():
            return [bar.array for bar in self._pulled([_wrapped(u) for u in us])]

    def push(self, vs: Sequence[Array]) -> list[Array]:
        with no_grad():
            return [y.array for y in jvp(self.on_tensors, self._tensors(), [_wrapped(v) for v in vs])[1]]

    def _tensors(self) -> tuple[Any, ...]:
        return tuple(map(_wrapped, self.inputs))

    def gradient(self) -> OfTensors:
        """The VJP of this function as a function of its inputs and of its cotangents."""
        count = len(self.inputs)

        def pulled(*args: Any) -> Any:
            return list(vjp(self.on_tensors, *args[:count])[1](list(args[count:])))

        rng = np.random.default_rng(1)
        us = [(rng.integers(1, 17, y.shape) * rng.choice([-1, 1], y.shape) / 8).astype(y.dtype) for y in self.outputs]
        names = [*self.input_names, *(f"cotangent {k}" for k in range(len(us)))]
        return OfTensors(pulled, [*self.inputs, *us], f"VJP of {self.title}", names)

    def in_float64(self) -> OfTensors:
        wide = self._bare()
        wide.leaves = [_widened(x) for x in self.leaves]
        wide.inputs = [wide.leaves[i] for i in self.spots]
        return wide

    def calls(self) -> list[Entry]:
        """The calls that depend on the inputs, in order, as a tape writes them down."""
        xs = self._tensors()
        with record() as tape, np.errstate(all="ignore"):
            self.on_tensors(*xs)
        reached = {id(x.array) for x in xs}
        found = []
        for entry in tape.entries:
            if any(id(a) in reached for a in entry.inputs):
                reached.add(id(entry.output))
                reached.update(map(id, entry.output if isinstance(entry.output, tuple) else ()))
                found.append(entry)
        return found

    def shaken(self, count: int, us: Sequence[Array] = (), vs: Sequence[Array] = ()) -> list[list[Array]]:
        """Here all that the rules compute is shaken: they are recorded and run again. The forward is not, nor are
        numbers that are only moved: rules compare them (the largest element is the one that equals the maximum)."""
        xs, given = self._tensors(), [_wrapped(a) for a in us or vs]
        with record() as tape, no_grad():
            pullback = vjp(self.on_tensors, *xs)[1]
            forward = len(tape)
            results = pullback(given) if us else jvp(self.on_tensors, xs, given)[1]
        rng = np.random.default_rng(5)
        entries = tape.entries[forward:] if us else tape.entries[2 * forward :]  # jvp runs the forward once more
        found = []
        for _ in range(count):
            now: dict[int, Any] = {id(t.array): nudged(t.array, rng) for t in given}
            for op, arrays, params, output, _ in entries:
                there = [now.get(id(a), a) for a in arrays]
                y = op.forward(*there, **params)
                now[id(output)] = y if isinstance(y, (tuple, list)) or _moved(y, there) else nudged(y, rng)
            found.append([now.get(id(r.array), r.array) for r in results])
        return found

    @cached_property
    def _recorded(self) -> tuple[Any, Any, list[Entry]]:
        """Inputs and outputs at the point, and the calls between them."""
        xs = self._tensors()
        with record() as tape:
            return xs, self.on_tensors(*xs), tape.entries

    def complex_forward(self, zs: Sequence[Any]) -> Sequence[Any]:
        """The calls that were recorded at the point, made again on complex arrays."""
        xs, ys, entries = self._recorded
        now: dict[int, Any] = {id(x.array): z for x, z in zip(xs, zs, strict=True)}
        for op, arrays, params, output, _ in entries:
            given = [now.get(id(a), a) for a in arrays]
            if any(isinstance(a, Analytic) for a in given):
                now[id(output)] = tracked(op.forward(*given, **params))
        return [now.get(id(y.array), y.array) for y in ys]


class OfCall(OfTensors):
    """One call of an operation, as a function of the inputs that have a gradient."""

    def __init__(self, call: Call):
        counts = {name: call.names.count(name) for name in call.names}
        numbered = [f"{n}[{call.names[:i].count(n)}]" if counts[n] > 1 else n for i, n in enumerate(call.names)]
        apart = [np.asarray(x).view() for x in call.xs]  # one array for two inputs is two inputs
        super().__init__(call.f, apart, call.op.name, [numbered[i] for i in call.spots])
        self.call, self.kind, self.formula = call, call.op.kind, call.op.formula

    def on_tensors(self, *xs: Any) -> list[Any]:
        """The same without a walk through trees: a check calls an operation some hundred times."""
        y = self.f(*xs)
        return self._floats(y, y if isinstance(y, (tuple, list)) else [y])

    def in_float64(self) -> OfCall:
        return OfCall(self.call.in_float64())

    def along(self, vs: Sequence[Array]) -> list[Array] | None:
        if self.kind == "linear":
            return self.forward(vs)
        if self.kind == "bilinear":
            terms = [self.forward([v if i == k else x for i, x in enumerate(self.inputs)]) for k, v in enumerate(vs)]
            return [np.sum(parts, axis=0) for parts in zip(*terms, strict=True)]
        return None


def _widened(x: Any) -> Any:
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def _moved(y: Any, arrays: Sequence[Any]) -> bool:
    """Whether all elements of y are elements of the arrays."""
    numbers = [np.ravel(a) for a in arrays if not isinstance(a, tuple)]
    return bool(numbers) and bool(np.all(np.isin(y, np.concatenate(numbers))))


NUDGE = 2.0**-20  # how far numbers are moved to see how results sway, relative


def nudged(x: Any, rng: np.random.Generator) -> Array:
    """Floating-point numbers, each off by a random relative 2⁻²⁰, up or down."""
    x = np.asarray(x)
    if x.dtype.kind != "f":
        return x
    return np.asarray(x * (1 + NUDGE * rng.choice([-1.0, 1.0], x.shape)), x.dtype)


def _call_module(module: Any, *xs: Any) -> Any:
    return module(*xs)


def _wrapped(x: Any) -> Any:
    """An array as a Tensor around the very same memory, that nobody writes to through it."""
    x = np.asarray(x).view()
    x.setflags(write=False)
    return Tensor.wrap(x)


def _name_of(f: Any) -> str:
    return getattr(f, "__name__", type(f).__name__)


def _parameters(f: Any, count: int) -> list[str]:
    """The names of so many positional parameters."""
    if isinstance(f, Op):
        return [*f.inputs[: f.star], *f.names(count)[len(f.inputs[: f.star]) :]]
    try:
        given = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):  # ufuncs and other built-in functions
        given = ()  # type: ignore[assignment]
    names = [p.name for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    star = next((p.name for p in given if p.kind is p.VAR_POSITIONAL), "x")
    rest = count - len(names)
    return [*names[:count], *(f"{star}[{k}]" if rest > 1 else star for k in range(rest))]
