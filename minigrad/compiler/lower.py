"""Lowering: what a tape says in operations of the engine, as a graph of a few primitive ones.

There is no table of how each Op is computed: its forward is NumPy code, and it is run on tracers, which note what NumPy
is asked to do. So an Op of the user's is taken apart like ours, and what two Ops both compute is one node:

    a tape of                          as a graph
        softplus(x) -> a                   exp(-|x|), log1p of that, max(x, 0), their sum
        sigmoid(x) -> b                    where(x >= 0, 1, that exp), that exp + 1, their quotient
        assign(p, b) -> p'                 p' is b

What a tracer refuses (sorting, drawing random numbers, scattering) becomes a `call`: the Op is run as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.compiler.graph import Call, Graph
from minigrad.compiler.tracer import Tracer, computed, node_of
from minigrad.core.adjoint import copy
from minigrad.core.op import Op, pick
from minigrad.ops.activation import tanh_slope
from minigrad.ops.elementwise import over_square
from minigrad.ops.reduction import _unreduce
from minigrad.tape import Entry

if TYPE_CHECKING:
    from minigrad.compiler.recording import Recording


def _copied(x: Tracer, *, shape: tuple[int, ...], axis: tuple[int, ...]) -> Any:
    return np.broadcast_to(x.reshape([1 if i in axis else n for i, n in enumerate(shape)]), shape)


def _over_square_everywhere(a: Any, b: Any) -> Any:
    """Without asking whether any element needs float64."""
    y = np.divide(np.divide(a, b), b)
    if y.dtype != np.float32:
        return y
    exact = np.divide(a, np.square(b, dtype=np.float64)).astype(np.float32)
    return np.where(np.abs(a) < np.finfo(np.float32).tiny, exact, y)


def _slope_by_formula(g: Tracer, x: Tracer) -> Tracer:
    """By the formula of `kernels.simd_math`, which has none for cosh."""
    dtype = np.result_type(g.dtype, x.dtype)
    return computed(x.graph, "tanh_vjp", [g, x], [dtype, dtype], dtype)


# Operations whose forward writes into an array, looks at values to save work, or has a better formula for vectors:
# the same on tracers.
DIRECT: dict[Op, Callable[..., Any]] = {
    copy: lambda x: x,
    _unreduce: _copied,
    over_square: _over_square_everywhere,
    tanh_slope: _slope_by_formula,
}


@dataclass
class Lowered:
    """A recorded step as a graph.

    Attributes:
        graph: what is needed for the rest, and no more.
        results: the nodes of `Recording.results`.
        updates: of each captured tensor that changes, the node of its new value.
        gradients: of each captured tensor whose gradient changes, the node of that; None where it is deleted.
        origin: for each node the tape's entries that it comes from.
    """

    graph: Graph
    results: list[int]
    updates: dict[int, int]
    gradients: dict[int, int | None]
    origin: dict[int, list[int]]

    @property
    def wanted(self) -> list[int]:
        """All that the step is run for: results, gradients that are there, new values."""
        return [*self.results, *(g for g in self.gradients.values() if g is not None), *self.updates.values()]


def lower(recording: Recording) -> Lowered:
    """The graph of a recorded step."""
    lowering = _Lowering(recording)
    for k, entry in enumerate(recording.entries):
        lowering.graph.entry = k
        lowering.add(entry)
    lowering.graph.entry = None
    number = lowering.number
    results = [number(a) for a in recording.results]
    updates = {k: number(a) for k, a in recording.updates}
    gradients = {k: None if a is None else number(a) for k, a in recording.gradients}
    whole = Lowered(lowering.graph, results, updates, gradients, {})
    graph, new = lowering.graph.only(whole.wanted)
    return Lowered(
        graph,
        [new[i] for i in results],
        {k: new[i] for k, i in updates.items()},
        {k: None if i is None else new[i] for k, i in gradients.items()},
        dict(enumerate(graph.origins)),
    )


class _Lowering:
    """The graph so far, and which of its nodes each array of the tape is (by its id; several, of several outputs)."""

    def __init__(self, recording: Recording):
        self.graph = Graph()
        self.numbers: dict[int, Any] = {}
        for op, arrays in (("array", recording.arrays), ("state", recording.before), ("input", recording.inputs)):
            for k, array in enumerate(arrays):
                self.numbers[id(array)] = self.graph.leaf(op, k, array.shape, array.dtype)

    def number(self, array: np.ndarray) -> int:
        """The node of an array; one that the tape knows nothing of was made inside of the step, as a constant."""
        if id(array) not in self.numbers:
            self.numbers[id(array)] = self.graph.constant(array)
        return int(self.numbers[id(array)])

    def add(self, entry: Entry) -> None:
        """The nodes of one entry."""
        made = entry.output if isinstance(entry.output, tuple) else (entry.output,)
        if entry.op is pick:
            numbers = [self.numbers[id(entry.inputs[0])][entry.params["i"]]]
        else:
            given = [self.number(x) if isinstance(x, np.ndarray) else None for x in entry.inputs]
            numbers = self.traced(entry, given, made) or self.called(entry, given, made)
        for array, number in zip(made, numbers, strict=True):
            self.numbers[id(array)] = number
        if isinstance(entry.output, tuple):
            self.numbers[id(entry.output)] = numbers

    def traced(self, entry: Entry, given: Sequence[int | None], made: Sequence[np.ndarray]) -> list[int] | None:
        """The nodes of the outputs, if the forward can be traced to arrays of their shapes and dtypes.

        It is run twice: one that draws random numbers of its own, say, does not come to the same nodes. It is called.
        """
        graph, found = self.graph, self.way(entry, given)
        if found is not None:
            same = [(y.shape, y.dtype) for y in made] == [(graph.nodes[n].shape, graph.nodes[n].dtype) for n in found]
            if same and self.way(entry, given) == found:
                return found
        for asked in graph.origins:  # nothing comes of it
            if asked[-1:] == [graph.entry]:
                asked.pop()
        return None

    def way(self, entry: Entry, given: Sequence[int | None]) -> list[int] | None:
        """The nodes that the forward comes to; None where it refuses."""
        forward = DIRECT.get(entry.op, entry.op.forward)
        arguments = [x if n is None else Tracer(self.graph, n) for x, n in zip(entry.inputs, given, strict=True)]
        try:
            with np.errstate(all="ignore"):
                y = forward(*arguments, **entry.params)
                return [node_of(self.graph, y) for y in (y if isinstance(y, (tuple, list)) else (y,))]
        except Exception:  # Untraceable, or whatever else a forward raises that can't do with a tracer
            return None

    def called(self, entry: Entry, given: Sequence[int | None], made: Sequence[np.ndarray]) -> list[int]:
        """The nodes of the outputs of an operation that stays what it is."""
        rest = {k: x for k, (x, n) in enumerate(zip(entry.inputs, given, strict=True)) if n is None}
        inputs = [n for n in given if n is not None]
        return self.graph.call(Call(entry.op, rest, entry.params), inputs, [(y.shape, y.dtype) for y in made])
