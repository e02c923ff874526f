"""The story of a computation: its calls in order, then backward, rule by rule, each with its line, formula and numbers.

    loss = mg.mean(mg.tanh(x @ w))

    forward                              backward
    1  matmul_1 = matmul(x, w)           1  mean      loss: 1        -> tanh_1: 0.25, 0.25, 0.25, 0.25
    2  tanh_1 = tanh(matmul_1)           2  tanh      tanh_1: 0.25 … -> matmul_1: 0.105, 0.25, 0.105, 0.25
    3  loss = mean(tanh_1)               3  matmul    matmul_1: …    -> x: …, w: …

It is made from a tape. `explain` makes the tape, too, where it is given a function; `text` prints a story, `graphs`
draws it.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.compiler.guards import look
from minigrad.core.backward import backward
from minigrad.core.mode import enable_grad
from minigrad.core.node import Leaf, Node
from minigrad.core.op import Op, Part
from minigrad.core.value import Value, raw
from minigrad.io import write_whole
from minigrad.source import line, variable
from minigrad.tape import Entry, Pass, Pull, Tape, record
from minigrad.tensor import Tensor

Array = np.ndarray[Any, Any]


@dataclass
class Quantity:
    """A value of the story: an input, a constant, or what a call made.

    Attributes:
        name: what people call it.
        array: its numbers; a tuple of arrays for several outputs.
        call: the number of the call that made it, None if none did.
        cotangent: what backward made of it in the end; None if it did not get there.
    """

    name: str
    array: Any
    call: int | None = None
    cotangent: Any = None

    @property
    def is_constant(self) -> bool:
        """Whether nobody gave it a name, and no call made it."""
        return self.call is None and not self.name


@dataclass
class Call:
    """A call of an operation.

    Attributes:
        number: its place among the calls, from 1.
        given: the inputs, in order.
        made: the output.
        entry: the call as the tape has it.
        modules: those that were called around it, the outermost first: 'net.layers.0: Linear'.
        after: how many backward passes came before it; an optimiser's calls have one at least.
    """

    number: int
    given: list[Quantity]
    made: Quantity
    entry: Entry
    modules: tuple[str, ...] = ()
    after: int = 0

    @property
    def op(self) -> Op:
        """Its operation."""
        return self.entry.op

    @property
    def params(self) -> dict[str, Any]:
        """Its other parameters."""
        return self.entry.params

    @property
    def line(self) -> str:
        """'file.py:12: y = log(x)'."""
        return line(self.entry.where)


@dataclass
class Step:
    """A node's share of backward: the cotangent that came, and those that left, each for an input of the call.

    Attributes:
        number: its place among the steps, from 1.
        pass_number: of the backward pass that it belongs to, from 1.
        call: the call whose rules ran; None if it was made outside of the tape.
        node: the node that has them.
        came: the cotangent of its output.
        left: for each rule that ran the input's name in the record, the input, and its cotangent from here.
    """

    number: int
    pass_number: int
    call: Call | None
    node: Node
    came: Any
    left: list[tuple[str, Quantity, Any]] = field(default_factory=list)

    @property
    def op(self) -> Op:
        """Its operation."""
        return self.node.plan.op

    @property
    def line(self) -> str:
        """The call's."""
        return line(self.node.plan.where)


class Story:
    """What `explain` returns. Printing it tells the story; `dot()` and `mermaid()` draw the graph.

    Attributes:
        calls: forward, in order.
        steps: backward, in order.
        inputs: what came from outside: arguments, parameters, constants.
    """

    def __init__(self, tape: Tape, names: Mapping[int, str], module_names: Mapping[int, str]):
        self.calls: list[Call] = []
        self.steps: list[Step] = []
        self.quantities: dict[int, Quantity] = {}  # by the id of their array, or of the node of a leaf
        self._tape = tape  # keeps the arrays
        self._names = {**_variables(tape), **names}
        for entry in reversed(tape.entries):  # what a parameter was before a step has its name, too
            if entry.op.name == "assign" and (name := self._names.get(id(entry.output))):
                self._names.setdefault(id(entry.inputs[0]), name)
        self._module_names = module_names
        self._of_entry: dict[int, Call] = {}
        self._last: Any = None  # the node whose rules ran last
        of_backward = {k for each in tape.passes for k in _entries_of(tape, each)}
        counts: dict[str, int] = {}
        for k, entry in enumerate(tape.entries):
            if k not in of_backward:
                self._tell_call(k, entry, counts)
        for number, each in enumerate(tape.passes, 1):
            self._last = None
            for pull in each.pulls:
                self._tell_pull(number, pull)
            for node, g in each.reached:
                if (quantity := self.quantities.get(id(node))) is not None:
                    quantity.cotangent = bare(g)

    @property
    def inputs(self) -> list[Quantity]:
        """What the calls took from outside, in the order in which they took it, but for constants without a name."""
        given = [x for call in self.calls for x in call.given if x.call is None and not x.is_constant]
        return list({id(x): x for x in given}.values())

    def __str__(self) -> str:
        from minigrad.explainer.text import told

        return told(self)

    def dot(self) -> str:
        """The graph in Graphviz's language: `dot -Tsvg` draws it."""
        from minigrad.explainer.graphs import dot

        return dot(self)

    def mermaid(self) -> str:
        """The graph for Markdown: a page on GitHub draws it in a block of the language mermaid."""
        from minigrad.explainer.graphs import mermaid

        return mermaid(self)

    def html(self, path: str | os.PathLike[str], seconds: float = 5.0) -> Path:
        """Write the story as a page to step through, with its graph: one file that needs nothing else.

        Args:
            path: where it goes. The folder must be there; a file of that name is replaced, in one piece.
            seconds: how long rules are compared with finite differences, those with few numbers first; those that would
                take longer are not.

        Returns:
            The path.

        Raises:
            FileNotFoundError, IsADirectoryError: there is no such folder, or the path is one.

        Example:
            >>> import tempfile
            >>> import minigrad as mg
            >>> story = mg.explain(lambda x: mg.sum(mg.exp(x)), mg.Tensor([1.0, 2.0]))
            >>> story.html(Path(tempfile.mkdtemp()) / "step.html").name
            'step.html'
        """
        from minigrad.explainer.page import page

        path = Path(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"html: expected a folder {path.parent}, and there is none: make it first")
        if path.is_dir():
            raise IsADirectoryError(f"html: expected a file, and {path} is a folder: name a file in it")
        write_whole(path, page(self, seconds).encode())
        return path

    def _repr_html_(self) -> str:
        from minigrad.explainer.page import framed

        return framed(self, 3.0)  # whoever looks at a notebook waits

    def _tell_call(self, k: int, entry: Entry, counts: dict[str, int]) -> None:
        if entry.op.name == "pick":  # one of several outputs is no call of its own
            self._tell_output(entry)
            return
        given = [self._quantity(array) for array in entry.inputs]
        counts[entry.op.name] = counts.get(entry.op.name, 0) + 1
        name = self._names.get(id(entry.output)) or f"{entry.op.name}_{counts[entry.op.name]}"
        modules = tuple(self._module_names.get(id(m)) or type(m).__name__ for m in self._tape.modules[k])
        after = sum(each.first <= k for each in self._tape.passes)
        call = Call(len(self.calls) + 1, given, Quantity(name, entry.output), entry, modules, after)
        call.made.call = call.number
        self.quantities[id(entry.output)] = call.made
        self._of_entry[k] = call
        self.calls.append(call)

    def _tell_output(self, entry: Entry) -> None:
        whole, i = self._quantity(entry.inputs[0]), entry.params["i"]
        self.quantities[id(entry.output)] = Quantity(f"{whole.name}[{i}]", entry.output, whole.call)

    def _quantity(self, array: Any) -> Quantity:
        if id(array) not in self.quantities:
            whole = array if isinstance(array, tuple) else np.asarray(array)  # Python's numbers are given as they are
            self.quantities[id(array)] = Quantity(self._names.get(id(array), ""), whole)
        return self.quantities[id(array)]

    def _tell_pull(self, pass_number: int, pull: Pull) -> None:
        k = self._tape.entry_of(pull.node)
        call, came = None if k is None else self._of_entry.get(k), bare(pull.g)
        if pull.node.plan.op.name == "pick":
            if k is not None:
                self._quantity(self._tape.entries[k].output).cotangent = came
            return
        if pull.node is not self._last:
            self._last = pull.node
            self.steps.append(Step(len(self.steps) + 1, pass_number, call, pull.node, came))
            if call is not None:
                call.made.cotangent = came
        step = self.steps[-1]
        step.left.append((pull.input, self._input_of(call, pull, step), bare(pull.cotangent)))

    def _input_of(self, call: Call | None, pull: Pull, step: Step) -> Quantity:
        """The input that a cotangent is for. Those of a starred input that need one come one after the other."""
        op, parents = pull.node.plan.op, pull.node.parents
        i = op.inputs.index(pull.input)
        if i == op.star:
            needed = [j for j in range(i, len(parents)) if parents[j] is not None and parents[j].requires_grad]
            i = needed[sum(name == pull.input for name, *_ in step.left)]
        parent = parents[i]
        quantity = call.given[i] if call is not None else Quantity("", None)
        if type(parent) is Leaf:
            self.quantities[id(parent)] = quantity
        return quantity


def bare(x: Any) -> Any:
    """A cotangent as arrays: a part of one goes on to be a part, several outputs' are a tuple, with None for missing
    ones."""
    if isinstance(x, Part):
        return x._replace(g=bare(x.g))
    if isinstance(x, (tuple, list)):
        return tuple(None if part is None else bare(part) for part in x)
    return raw(x)


def _entries_of(tape: Tape, each: Pass) -> Iterator[int]:
    """The entries of a backward pass, with those that add its cotangents to `.grad`."""
    yield from range(each.first, each.last)
    gradients = {id(raw(g)) for _, g in each.reached}
    for k in range(each.last, len(tape.entries)):
        if gradients.isdisjoint(map(id, tape.entries[k].inputs)):
            break
        yield k


def _variables(tape: Tape) -> dict[int, str]:
    """The variables to which the results of calls were assigned, by the id of the array."""
    found: dict[int, str] = {}
    for entry, after in zip(tape.entries, [*tape.entries, None][1:], strict=True):
        is_last = after is None or after.where != entry.where  # of an expression: that is what is assigned
        if is_last and (name := variable(entry.where)) is not None:
            made = entry.inputs[0] if entry.op.name == "pick" else entry.output  # several outputs have one name
            found.setdefault(id(made), name)
    return found


def explain(f: Any, *xs: Any) -> Story:
    """Tell what a computation did: each call, then each step of backward with its rule and its cotangents.

    Args:
        f: a function that returns a Tensor, a loss say; or the tape of a computation, with `backward()` under it.
        xs: what to call it with: trees of Tensors, arrays, floats, modules. A tape comes without. Of a result with
            several numbers the sum is differentiated. Nobody's `.grad` is changed.

    Returns:
        The story: print it, or draw it by `dot()` or `mermaid()`.

    Raises:
        TypeError: a tensor in place of a function or a tape, a tape with arguments, or a result that is no Tensor.
        ValueError: no gradient flows to the result.

    Example:
        >>> import minigrad as mg
        >>> story = mg.explain(lambda x: mg.sum(x * x), mg.Tensor([1.0, 2.0]))
        >>> [call.op.name for call in story.calls], [step.op.name for step in story.steps]
        (['multiply', 'sum'], ['sum', 'multiply'])
        >>> story.inputs[0].name, story.inputs[0].cotangent
        ('x', array([2., 4.]))
    """
    if isinstance(f, Tape):
        if xs:
            raise TypeError("explain takes a tape alone, or a function and its arguments")
        frame = sys._getframe(1)
        return Story(f, *_named({**frame.f_globals, **frame.f_locals}))
    if isinstance(f, Value) or not callable(f):
        raise TypeError(
            f"explain: expected a function and its arguments, or a tape, got {f!r:.80}: a result does not know what "
            "is told; compute it, and call its backward(), under `with mg.record() as tape:`, and explain the tape"
        )
    args = tuple(x if hasattr(type(x), "__tree__") else trees.map(_watched, x, floats=True) for x in xs)
    names, module_names = _names_of(f, args)
    with enable_grad(), record() as tape:
        y = f(*args)
        if not isinstance(y, Tensor):
            raise TypeError(f"explain: expected the function to return a Tensor, got {y!r:.80}")
        if y.node is None or not y.node.requires_grad:
            raise ValueError("explain: no gradient flows to the result, which depends on no floating-point input")
        tape.begins()
        backward([(y.node, np.ones(y.shape, y.dtype))], Tensor)
    return Story(tape, names, module_names)


def _watched(x: Any) -> Any:
    """An argument that a gradient can flow to. (Those of a module are left as they are: some are no parameters.)"""
    if isinstance(x, Tensor):
        return x if x.requires_grad or x.dtype.kind != "f" else Tensor(x, requires_grad=True)
    array = np.asarray(x)
    return Tensor(array, requires_grad=array.dtype.kind == "f")


def _names_of(f: Callable[..., Any], args: tuple[Any, ...]) -> tuple[dict[int, str], dict[int, str]]:
    """What people call tensors, by the ids of their arrays, and modules, by theirs: by the function's variables, or its
    parameters."""
    names: dict[int, str] = {}
    module_names = _named({type(f).__name__: f})[1]
    with suppress(RuntimeError):  # of what can't be looked through
        found = look(f, {}).tensors.values()
        names.update((id(x.array), re.sub(r"\[(\d+)\]", r".\1", path)) for x, path in found)  # as in `parameters()`
    with suppress(TypeError):  # of what is no function of Python's
        used = inspect.getclosurevars(f)
        module_names.update(_named({**used.globals, **used.nonlocals})[1])
    try:
        roots = [p.name for p in inspect.signature(f).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    except (TypeError, ValueError):  # a builtin
        roots = []
    for k, x in enumerate(args):
        tensors, modules = _named({roots[k] if k < len(roots) else f"x{k + 1}": x})
        names.update(tensors)
        module_names.update(modules)
    return names, module_names


def _named(variables: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, str]]:
    """The tensors that variables hold, by themselves or in trees, with their paths, by the ids of their arrays; and the
    modules, with path and class, by theirs."""
    tensors: dict[int, str] = {}
    modules: dict[int, str] = {}
    for path, x in trees.objects(dict(variables)):
        if isinstance(x, Tensor):
            tensors.setdefault(id(x.array), path)
        elif hasattr(type(x), "__tree__"):
            modules[id(x)] = path if path == type(x).__name__ else f"{path}: {type(x).__name__}"
    return tensors, modules
