"""The tape: every operation of a step in the order in which it ran, with its inputs and its output.

A value's identity on the tape is its array. Backward, accumulation, `assign` and random draws are operations too, so
that a tape holds a whole training step and can be run again on other inputs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minigrad.arrays import describe, frozen
from minigrad.core.mode import USUAL, Watcher, changed, current, watching
from minigrad.core.node import Node, birth
from minigrad.core.op import Op
from minigrad.core.value import Value
from minigrad.source import Place, callees, line


class Entry(NamedTuple):
    """One call: inputs and output are the arrays themselves (a tuple of them for several outputs)."""

    op: Op
    inputs: tuple[Any, ...]
    params: dict[str, Any]
    output: Any
    where: Place | None

    def __str__(self) -> str:
        given = ", ".join([*map(describe, self.inputs), *(f"{k}={v!r}" for k, v in self.params.items())])
        return f"{self.op.name}({given}) -> {describe(self.output)}    {line(self.where)}"


class Pull(NamedTuple):
    """A rule at work: the cotangent `g` of what a node made became `cotangent`, a part of that of one input."""

    node: Node
    g: Any
    input: str
    cotangent: Any


@dataclass
class Pass:
    """A backward pass: its pulls in order, the whole cotangents of the leaves that it reached, and the entries that it
    wrote, from the first up to the last."""

    first: int
    last: int
    pulls: list[Pull] = field(default_factory=list)
    reached: list[tuple[Any, Any]] = field(default_factory=list)


class Tape(Watcher):
    """What `record()` returns: `entries`, `passes` (which of them are backward's, and for what), `modules` (for each
    entry those inside of whose calls it was written, the outermost first), and `replay` to run the entries again.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([1.0, 2.0], requires_grad=True)
        >>> with mg.record() as tape:
        ...     y = (x * x).sum()
        ...     y.backward()
        >>> run = tape.replay({x: [3.0, 4.0]})
        >>> run(y), run(x.grad)
        (array(25.), array([6., 8.]))
    """

    on_values = True

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.passes: list[Pass] = []
        self.modules: list[tuple[Any, ...]] = []
        self._births: list[int] = []  # just before those of the entries' nodes, in the order in which they increase

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries))

    def forward(self, op: Op, given: Any, arrays: Any, params: dict[str, Any], y: Any, where: Place | None) -> None:
        """Write one call down, unless arrays were all that it was given."""
        if any(isinstance(x, Value) for x in given):
            self.write(op, arrays, params, y, where)

    def write(self, op: Op, arrays: Any, params: dict[str, Any], y: Any, where: Place | None) -> None:
        """Put one call at the end of the tape."""
        if any(y is array for array in arrays):
            raise ValueError(f"{op.name} returned one of its inputs, and a tape can't tell them apart: return a view")
        self.entries.append(Entry(op, tuple(arrays), params, y, where))
        self.modules.append(callees())
        self._births.append(-birth())

    def begins(self) -> None:
        """Begin a new pass."""
        self.passes.append(Pass(len(self.entries), len(self.entries)))

    def backward(self, node: Node, g: Any, name: str, cotangent: Any) -> None:
        """Write down what a rule made of a cotangent."""
        if self.passes:  # else the pass began before the tape
            self.passes[-1].pulls.append(Pull(node, g, name, cotangent))
            self.passes[-1].last = len(self.entries)

    def reached(self, node: Any, g: Any) -> None:
        """Write down the cotangent of a leaf."""
        if self.passes:
            self.passes[-1].reached.append((node, g))
            self.passes[-1].last = len(self.entries)

    def entry_of(self, node: Any) -> int | None:
        """The number of the entry that made a node; None if none did, as for a leaf.

        Example:
            >>> import minigrad as mg
            >>> x = mg.Tensor([1.0, 2.0], requires_grad=True)
            >>> with record() as tape:
            ...     y = mg.exp(x).sum()
            >>> tape.entry_of(y.node), tape.entry_of(x.node)
            (1, None)
        """
        k = bisect_left(self._births, -node.birth) - 1  # births go down: a node is born right after its entry
        return k if k >= 0 and isinstance(node, Node) else None

    def replay(self, inputs: Mapping[Any, Any]) -> Replay:
        """Run every entry again, on new values for some of the tensors that came from outside.

        Args:
            inputs: new values by tensor. A tensor that was assigned during the step stands for its value before it.

        Returns:
            A function from a tensor (or array) of the recorded run to its array in the new one.

        Raises:
            ValueError: a tensor that the tape did not take from outside, another shape or dtype, or a result whose
                shape is not the recorded one.
        """
        before = {id(e.output): e.inputs[0] for e in self.entries if e.op.name == "assign"}
        made = {id(e.output) for e in self.entries}
        used = made.union(id(a) for e in self.entries for a in e.inputs)
        now: dict[int, Any] = {}
        for tensor, new in inputs.items():
            old = tensor.array if isinstance(tensor, Value) else tensor
            while id(old) in before:
                old = before[id(old)]
            value = (
                new.array
                if isinstance(new, Value)
                else frozen(np.asarray(new, None if isinstance(new, np.ndarray) else old.dtype))
            )
            if id(old) not in used:
                raise ValueError(f"replay: the recorded step took no tensor {describe(old)} that is this one")
            if id(old) in made:
                raise ValueError(
                    f"replay: the tensor {describe(old)} was computed on the tape; give values to its inputs"
                )
            if (value.shape, value.dtype) != (old.shape, old.dtype):
                raise ValueError(f"replay: expected {describe(old)} as it was recorded, got {describe(value)}")
            now[id(old)] = value
        with np.errstate(all="ignore"):  # as in backward, most of whose operations stand here, too
            for op, arrays, params, output, _ in self.entries:
                y = op.run(*(now.get(id(a), a) for a in arrays), **params)
                y = tuple(map(np.asarray, y)) if isinstance(y, (tuple, list)) else np.asarray(y)
                if describe(y) != describe(output):
                    raise ValueError(
                        f"replay: {op.name} gave {describe(output)} when it was recorded and {describe(y)} now: a step "
                        "whose shapes follow from values, as those of x[mask] do, can't be replayed on any inputs"
                    )
                now[id(output)] = y
        return Replay(now)


class Replay:
    """The values of a replayed tape: call it with a tensor or array of the recorded run."""

    def __init__(self, now: dict[int, Any]):
        self._now = now

    def __call__(self, recorded: Any) -> np.ndarray:
        """The array that stands in the new run where `recorded` stood."""
        array = recorded.array if isinstance(recorded, Value) else recorded
        return self._now.get(id(array), array)


def pass_begins() -> None:
    """Tell the watchers, before a backward pass that was asked for from outside."""
    for watcher in (current() or USUAL).watchers:
        watcher.begins()


@contextmanager
def record() -> Iterator[Tape]:
    """Write every operation on a tape: `with record() as tape:`. Nodes remember their source lines, too."""
    tape = Tape()
    with changed(watchers=watching(tape)):
        yield tape
