"""Recording: the user's function is run once, under a tape, and what it did is written down.

When it is over, also by an error, its updates, gradients and draws are undone: it is the program that does them, in the
first call as in all others. What is noted beyond the tape is where the arrays on it come from, and where they go:

    def step(x):                        entries     square(x) -> a;  sum(a) -> loss;  ...;  assign(p, p') -> p'
        loss = mg.sum((x * p)**2)       inputs      [x]
        loss.backward()                 captured    [p], which stood on `before`
        optimizer.step()                updates     [(0, p')]: p stands on p' at the end
        return loss                     gradients   [(0, ḡ)]: p.grad
                                        results     [loss]

A value's identity is its array, as on any tape. An array in an entry's inputs of which none of these say anything is a
constant: it was made inside of the function, and two recordings are compared to see whether it always is the same.

While the function runs, Python must not see the values of tensors, for what it did with them would not be on the tape:
reading them is an error that names the line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from minigrad import random, trees
from minigrad.arrays import describe
from minigrad.compiler.arguments import Argument, Arguments, named, replaced
from minigrad.compiler.guards import OPAQUE, Snapshot, constant, hooks_of, is_package, needs_gradient
from minigrad.core.adjoint import cast, copy
from minigrad.core.mode import changed, grad_enabled, watching
from minigrad.core.node import Leaf, Node, birth
from minigrad.core.op import Op
from minigrad.core.value import Value
from minigrad.source import Place, line, place, variable
from minigrad.tape import Entry, Tape
from minigrad.tensor import Tensor


class Source(NamedTuple):
    """Where a captured tensor is found at a call: it is `tensor` itself ('here'), or the argument leaf of that number
    ('leaf'), or the random state ('random'); or the `.grad` of that."""

    kind: str
    tensor: Any = None
    leaf: int = 0
    gradient: bool = False

    @property
    def moves(self) -> bool:
        """Whether it may be another tensor in another call."""
        return self.kind != "here" or self.gradient

    def find(self, leaves: list[Any]) -> Any:
        """The tensor, or for a gradient perhaps None."""
        if self.kind == "random":
            return random.current().state
        owner = leaves[self.leaf] if self.kind == "leaf" else self.tensor
        return owner.grad if self.gradient else owner


@dataclass
class Recording:
    """What one call of a function did."""

    entries: list[Entry]  # operations in their order: forward, backward, updates, draws
    inputs: list[np.ndarray]  # the arguments' arrays, as the function got them; not those of captured tensors
    captured: list[Any]  # tensors from outside that the function read or changed; first those that can't move
    before: list[np.ndarray]  # the array of each of them when the recording began
    arrays: list[np.ndarray]  # NumPy arrays from outside: frozen ones
    results: list[np.ndarray]  # the arrays of what was returned
    updates: list[tuple[int, np.ndarray]]  # captured[k] stands on this array at the end
    gradients: list[tuple[int, np.ndarray | None]]  # captured[k].grad at the end, where that changed
    names: dict[int, str]  # what people call an array, by its id
    # for whoever calls the program
    taken: list[int]  # the leaves that are the inputs
    sources: list[Source]  # where the captured tensors are found
    grads: list[tuple[Source, bool]]  # tensors that need a gradient, and whether they had one when it began
    is_one_tensor: bool  # whether that is what is returned
    rebuild: Callable[[list[Any]], Any]  # what is returned, from its leaves
    returned: list[tuple[str, Any]]  # each leaf: ('tensor' or 'array', k of results), or ('found', its Source)
    outline: list[tuple[Any, str]]  # of each entry what must be the same in another call, and its line


def record(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], given: Arguments, seen: Snapshot
) -> Recording:
    """Call a function, and note what it did.

    Args:
        function, args, kwargs: the call.
        given: its arguments, taken apart.
        seen: what the function depends on in Python, as `guards.look` found it just before.

    Raises:
        RuntimeError: the function read the values of a tensor, changed something in Python that it depends on, used a
            tensor that can't be guarded, seeded the generator that others draw from, or returned a tensor through
            which a gradient would flow to the outside. As after any error of the function, no tensor is changed.
    """
    recorder = Recorder(function, args, kwargs, given, seen)
    try:
        with random.use(generator := random.current()):  # at the end it is again what `current` returns
            with changed(watchers=watching(recorder)):
                result = function(*recorder.args, **recorder.kwargs)
            seeded = random.current() is not generator
        if recorder.refusal is not None:  # the function may have caught it
            raise recorder.refusal
        if seeded:
            raise RuntimeError(
                "compile: the function seeded the random numbers of its context, for whoever draws next: do that "
                "outside of it, or draw from a generator of its own, with minigrad.random.use(generator)"
            )
        if change := seen.change():
            raise RuntimeError(
                f"compile: the function changed {change}, which a compiled step would not do again: keep it in a "
                "Tensor that the function changes by assign(), or change it outside of the function"
            )
        return recorder.finish(result)
    finally:
        recorder.undo()


def _is_live(root: Any) -> bool:
    """Whether backward could go from a node to a leaf: through no node whose saved arrays were freed."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if node is None or not node.requires_grad or id(node) in seen:
            continue
        if type(node) is Leaf:
            return True
        seen.add(id(node))
        pending += node.parents if node.saved is not None else ()
    return False


class Known(NamedTuple):
    """A tensor from outside, as it was when the recording began."""

    tensor: Any
    source: Source
    name: str
    array: np.ndarray
    node: Any
    requires_grad: bool
    grad: Any
    hooks: dict[object, Any]


class Recorder(Tape):
    """The tape of a recording, which knows where its arrays come from."""

    def __init__(self, function: Any, args: Any, kwargs: Any, given: Arguments, seen: Snapshot):
        super().__init__()
        self.seen, self.given = seen, given
        self.start = birth()
        self.refusal: RuntimeError | None = None
        self.known: dict[int, Known] = {}  # by the tensor's id
        self.by_array: dict[int, Known] = {}
        self.twins: dict[int, str] = {}  # tensors that are found in two places, of which one is a .grad, by id
        self.captured: dict[int, int] = {}  # tensor's id -> k
        self.refs: dict[int, tuple[Any, ...]] = {}  # what an array on the tape is, by its id
        self.aliases: dict[int, np.ndarray] = {}  # the array that stands for another one
        self.alive: list[Any] = []  # whose ids are in these
        self.arrays: list[np.ndarray] = []
        self.args = tuple([replaced(x, Argument.of) for x in args])
        self.kwargs = {name: replaced(x, Argument.of) for name, x in kwargs.items()}
        names, _ = named(function, args, kwargs)
        self.inside = Arguments(self.args, self.kwargs)
        self.leaves = self.inside.leaves
        for tensor, path in seen.tensors.values():
            self._know(tensor, Source("here", tensor), path)
        for i, (x, name) in enumerate(zip(self.leaves, names, strict=True)):
            if isinstance(x, Value) and id(x) not in self.known:
                self._know(x, Source("leaf", leaf=i), name)
        state = random.current().state
        if id(state) not in self.known:
            self._know(state, Source("random"), "random state")
        for known in list(self.known.values()):
            if known.grad is None:
                continue
            name = f"{known.name}.grad"
            if id(known.grad) in self.known:
                self.twins[id(known.grad)] = f"{name} and {self.known[id(known.grad)].name}"
            else:
                self._know(known.grad, known.source._replace(gradient=True), name)
        wholes = [x.array if isinstance(x, Value) else x.base for x in self.leaves]
        self.names = {id(whole): name for whole, name in zip(wholes, names, strict=True)}
        self.outside: list[tuple[np.ndarray, tuple[Any, ...]]]
        self.outside = [(whole, ("input", i)) for i, whole in enumerate(wholes)]
        self.outside += [(array, ("array", path)) for array, path in seen.arrays.values()]
        self.refs.update((id(array), ref) for array, ref in self.outside)

    def _know(self, tensor: Any, source: Source, name: str) -> None:
        if id(tensor.array) in self.by_array:  # as after detach(): two tensors on one array would be one on the tape
            tensor.array = tensor.array.view()
        tensor.grad = tensor.grad  # None where it was not set yet, for the check
        hooks_of(tensor)  # makes the dict, as well
        node, hooks = tensor.node, dict(tensor._hooks)
        known = Known(tensor, source, name, tensor.array, node, needs_gradient(tensor), tensor.grad, hooks)
        self.known[id(tensor)] = self.by_array[id(tensor.array)] = known
        if type(node) is Leaf:  # the function gets another one, to retire and change; born now, so that backward
            tensor.node = Leaf(tensor.array, node.requires_grad, node.owner)  # goes in one order in all recordings

    # While the function runs

    def forward(self, op: Op, given: Any, arrays: Any, params: dict[str, Any], y: Any, where: Place | None) -> None:
        """Write one call down, with the arrays that stand for its inputs."""
        if any(isinstance(x, Value) for x in given):
            inputs = tuple([self._found(g, a, where) for g, a in zip(given, arrays, strict=True)])
            self.write(op, inputs, params, y, where)
        elif not _is_inner() and any(self._is_argument(x) for x in given):
            self._refuse(
                f"{op.name} of a NumPy array among the arguments is no operation on tensors: {_AS_TENSOR}", where
            )

    def _is_argument(self, x: Any) -> bool:
        """Whether an array is one of the arguments, or has a part of its memory."""
        inputs = [whole for whole, ref in self.outside if ref[0] == "input"]
        return isinstance(x, np.ndarray) and any(np.may_share_memory(_plain(x), whole) for whole in inputs)

    def write(self, op: Op, arrays: Any, params: dict[str, Any], y: Any, where: Place | None) -> None:
        """Put one call at the end of the tape, and note where its output comes from."""
        super().write(op, arrays, params, y, where)
        self.refs[id(y)] = ("made", len(self.entries) - 1)

    def _found(self, given: Any, array: Any, where: Place | None) -> Any:
        """The array that stands for an input; the first time that it is seen, find out what it is."""
        if not isinstance(array, (np.ndarray, tuple)):
            return array
        if (known := self.by_array.get(id(array))) is not None:
            self._capture(known, where)
        elif id(array) in self.aliases:
            return self.aliases[id(array)]
        elif self.refs.get(id(array), ("",))[0] == "array":
            self._outside(array, where)
        elif id(array) not in self.refs:
            self.alive.append(array)
            if (whole := self._outside(array, where)) is not None:
                self.aliases[id(array)] = whole
                return whole
            if isinstance(given, Value):
                self._refuse_unknown(given, where)
            self.refs[id(array)] = ("constant", _digest(array))
        return array

    def _capture(self, known: Known, where: Place | None = None) -> None:
        """Note that a tensor from outside is used; one among the arguments is an input, unless `finish` says more."""
        node = known.tensor.node
        if type(node) is Node and node.birth > self.start and grad_enabled():
            self._refuse(
                f"{known.name}, {describe(known.array)}, was computed outside of the function, and gradients would "
                "flow there: use x.detach() in its place",
                where,
            )
        if (names := self.twins.get(id(known.tensor))) is not None:
            self._refuse(f"{names} are one tensor, and may be two in another call: detach() one of the other", where)
        if known.source.kind != "leaf" or known.source.gradient:
            k = self.captured.setdefault(id(known.tensor), len(self.captured))
            self.refs[id(known.array)] = ("captured", k)

    def _outside(self, array: Any, where: Place | None) -> np.ndarray | None:
        """The argument, or NumPy array from outside, that has the memory of an array; None if there is none."""
        for whole, ref in self.outside:
            if _layout(array) == _layout(whole):
                if ref[0] == "array" and not any(whole is a for a in self.arrays):
                    self.arrays.append(whole)
                return whole
            if ref[0] == "input" and type(self.leaves[ref[1]]) is Argument and np.may_share_memory(array, whole):
                self._refuse(f"a part of the argument {self.names[id(whole)]} was taken by NumPy: {_AS_TENSOR}", where)
        return None

    def _refuse_unknown(self, value: Value, where: Place | None) -> None:
        """Refuse a tensor that is neither made inside nor reached by the guards: it could be replaced unnoticed."""
        node = value.node
        if node is not None and node.birth > self.start and value.array.size:  # an empty one has no value to change
            self._refuse(
                f"a tensor {describe(value.array)} comes from outside by a way that minigrad can't follow (as through "
                "a library, or an attribute of a computed name): pass it as an argument",
                where,
            )

    def looked(self, value: Value, how: str) -> None:
        """Refuse: Python is about to see values that are others in the next call. (The engine looks at arrays.)"""
        array = value.array
        if id(array) not in self.by_array and self.refs.get(id(array), ("constant",))[0] == "constant":
            return
        self._refuse(
            f"{how} shows Python the values of a tensor {describe(array)}, but a compiled function is recorded once "
            "for all values: choose between tensors by minigrad.where(condition, a, b), or return the tensor and look "
            "at it outside",
            place(),
        )

    def copied(self, source: Any, value: Value) -> None:
        """Write down as a copy what Tensor(x) did to an array that is known."""
        array = source.array if isinstance(source, Value) else source
        if isinstance(source, (list, tuple)) and any(isinstance(x, Argument) for x in source):
            self._refuse(f"a list of arrays was made a tensor: {_AS_TENSOR}, and write minigrad.stack(list)", place())
        if isinstance(array, np.ndarray):
            whole = self._found(source, array, place())
            if self.refs[id(whole)][0] != "constant":
                op, params = (copy, {}) if whole.dtype == value.array.dtype else (cast, {"dtype": value.array.dtype})
                self.write(op, (whole,), params, value.array, place())

    def _refuse(self, why: str, where: Place | None) -> None:
        self.refusal = self.refusal or RuntimeError(f"compile: {why}" + (f"\n  {line(where)}" if where else ""))
        raise self.refusal

    # When it is over

    def finish(self, result: Any) -> Recording:
        """The recording of a function that returned `result`."""
        after = Arguments(self.args, self.kwargs)
        if after.key != self.inside.key or not all(map(is_, after.leaves, self.leaves)):
            raise RuntimeError("compile: the function changed a container among its arguments: return a new one")
        for known in self.known.values():
            self._refuse_other_changes(known)
            if _changed(known) or (known.source.kind == "leaf" and known.requires_grad):
                self.captured.setdefault(id(known.tensor), len(self.captured))
        leaves, rebuild = trees.matched(result, ties=False)
        parts = Arguments((result,), {})
        self._refuse_made_objects(parts.objects)
        results: list[np.ndarray] = []
        returned = [self._returned(leaf, results) for (leaf,) in leaves]
        for known in list(self.known.values()):  # whatever a tensor stands on at the end is captured, too
            for value in (known.tensor, known.tensor.grad):
                if _changed(known) and value is not None:
                    self._found(value, value.array, None)
        captured = [self.known[i] for i in self.captured]
        # first those that are found where they were, and of these and of the others first the updated ones
        captured.sort(key=lambda known: (known.source.moves, known.tensor.array is known.array))
        updates, gradients = [], []
        for k, known in enumerate(captured):
            if (array := known.tensor.array) is not known.array:
                updates.append((k, self._found(known.tensor, array, None)))
            if (grad := known.tensor.grad) is not known.grad:
                gradients.append((k, None if grad is None else self._found(grad, grad.array, None)))
        sources = [known.source for known in captured]
        of_leaves = {source.leaf for source in sources if source.kind == "leaf" and not source.gradient}
        taken = [i for i in range(len(self.leaves)) if i not in of_leaves]
        outline: list[tuple[Any, str]]
        outline = [((e.op.name, *map(self._ref, e.inputs), _digest(e.params)), line(e.where)) for e in self.entries]
        ends = {
            "returned": ([self._ref(a) for a in results], parts.key, [kind for kind, _ in returned]),
            "updated": [(k, self._ref(a)) for k, a in updates],
            "left in .grad": [(k, a is None or self._ref(a)) for k, a in gradients],
            "captured": [(s.kind, id(s.tensor), s.leaf, s.gradient) for s in sources],
        }
        outline += [(x, f"what is {what} at the end") for what, x in ends.items()]
        self._name(captured, updates, gradients)
        return Recording(
            entries=self.entries,
            inputs=[self.outside[i][0] for i in taken],
            captured=[known.tensor for known in captured],
            before=[known.array for known in captured],
            arrays=self.arrays,
            results=results,
            updates=updates,
            gradients=gradients,
            names=self.names,
            is_one_tensor=type(result) is Tensor and returned[0][0] == "tensor",
            taken=taken,
            sources=sources,
            grads=[(known.source, known.grad is not None) for known in self.known.values() if known.requires_grad],
            rebuild=rebuild,
            returned=returned,
            outline=outline,
        )

    def undo(self) -> None:
        """Let every tensor be what it was when the recording began."""
        for tensor, _, _, array, node, _, grad, hooks in self.known.values():
            tensor.array, tensor.node, tensor.grad = array, node, grad
            tensor._hooks.clear()
            tensor._hooks.update(hooks)

    def _refuse_other_changes(self, known: Known) -> None:
        """Refuse what an update can't do to a tensor: its need of a gradient, its hooks, its shape."""
        tensor = known.tensor
        if needs_gradient(tensor) != known.requires_grad:
            raise RuntimeError(f"compile: the function changed {known.name}.requires_grad: do that outside of it")
        if tensor._hooks != known.hooks:
            raise RuntimeError(f"compile: the function changed the hooks of {known.name}: do that outside of it")
        if tensor.array is not known.array and describe(tensor.array) != describe(known.array):
            raise RuntimeError(
                f"compile: the function changed {known.name} from {describe(known.array)} to {describe(tensor.array)}"
            )
        if tensor.grad is not None and tensor.grad is not known.grad:
            self._refuse_live(tensor.grad, f"{known.name}.grad")

    def _refuse_made_objects(self, returned: list[Any]) -> None:
        """Refuse to return an object of this call in later ones: it may hold what belongs to this call."""
        for x in returned:
            old = id(x) in self.seen.reached or any(x is y for y in self.given.objects)
            if not old and not hasattr(x, "__tree__") and not isinstance(x, (type, *OPAQUE)):
                raise RuntimeError(
                    f"compile: the function returns {type(x).__qualname__}, made in the call: return tensors, or "
                    "containers (dict, list, tuple, dataclass) of them"
                )

    def _refuse_live(self, value: Value, name: str) -> None:
        """Refuse to hand out a tensor through which backward could still go."""
        node: Any = value.node
        if _is_live(node):
            where = None if type(node) is Leaf else node.plan.where
            raise RuntimeError(
                f"compile: a gradient would flow through {name}, {describe(value.array)}, into the function, but a "
                "compiled function keeps no graph: call backward() inside of the function, or return x.detach(), or "
                f"call the function under minigrad.no_grad()\n  {line(where)}"
            )

    def _returned(self, leaf: Any, results: list[np.ndarray]) -> tuple[str, Any]:
        """How a returned leaf is made in later calls: where it is found, or which of the results it is."""
        for i, x in enumerate(self.leaves):
            if leaf is x:
                return "found", Source("leaf", leaf=i)
        if id(leaf) in self.known:
            return "found", self.known[id(leaf)].source
        if isinstance(leaf, Value):
            self._refuse_live(leaf, "what the function returns")
        results.append(self._found(leaf, leaf.array if isinstance(leaf, Value) else leaf, None))
        return "tensor" if isinstance(leaf, Value) else "array", len(results) - 1

    def _ref(self, x: Any) -> tuple[Any, ...]:
        """What stands for an input in the outline: the same in every call that does the same."""
        if id(x) in self.by_array and id(x) not in self.refs:
            return ("known", self.by_array[id(x)].name)
        return self.refs[id(x)] if isinstance(x, (np.ndarray, tuple)) else ("number", *constant(x))

    def _name(self, captured: list[Known], updates: list[Any], gradients: list[Any]) -> None:
        """Give names to arrays: of parameters and arguments, and of the variables that calls are assigned to."""
        for entry, after in zip(self.entries, [*self.entries, None][1:], strict=True):
            if (after is None or after.where != entry.where) and (name := variable(entry.where)) is not None:
                self.names.setdefault(id(entry.output), name)
        for known in captured:
            self.names[id(known.array)] = known.name
        self.names.update((id(array), captured[k].name) for k, array in updates)
        self.names.update((id(a), f"{captured[k].name}.grad") for k, a in gradients if a is not None)


_AS_TENSOR = "make it a tensor first, x = minigrad.Tensor(x), or pass tensors"


def _changed(known: Known) -> bool:
    return known.tensor.array is not known.array or known.tensor.grad is not known.grad


def _is_inner() -> bool:
    """Whether the operation that is just noted was called by the forward function of another one."""
    frame: Any = sys._getframe(2)
    while frame.f_code is not Op.__call__.__code__:
        frame = frame.f_back
    while (frame := frame.f_back) is not None and is_package(frame.f_code.co_filename):
        if frame.f_code is Op.__call__.__code__:
            return True
    return False


def _plain(x: np.ndarray) -> np.ndarray:
    return x.base if type(x) is Argument else x  # type: ignore[return-value]


def _layout(array: np.ndarray) -> Any:
    interface = array.__array_interface__
    return interface["data"][0], interface["shape"], interface["typestr"], array.strides


def _digest(x: Any) -> Any:
    """What stands for a constant, or for the parameters of an operation, in an outline."""
    if isinstance(x, np.ndarray):
        return x.shape, x.dtype.str, blake2b(np.ascontiguousarray(x).tobytes(), digest_size=16).digest()
    if isinstance(x, (list, tuple)):
        return type(x), *map(_digest, x)
    if isinstance(x, dict):
        return tuple([(k, _digest(item)) for k, item in x.items()])
    if (fixed := constant(x)) is not None:
        return fixed
    return str(x) if isinstance(x, np.dtype) else type(x)
