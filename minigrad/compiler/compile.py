"""mg.compile: the face of the compiler. A compiled function is called like the one that it was made from.

In the first call of a kind the function is run under a recording, what it did is undone, and a program is built of it;
in the second one it is recorded again, and compared with the first, so that what depends on the time, say, is found.
Whatever happens in a call is done by the program: the numbers have the same bits in all calls.

    @mg.compile                             call 1     look, record and undo, build, run
    def step(x):                            call 2     look, record and undo, compare, run
        loss = model.loss(x)                call 3     check, run
        loss.backward()
        optimizer.step()                    other shapes, another mode (train or eval), another Python number that the
        optimizer.zero_grad()               function uses: another version, built in the same way
        return loss

A `Version` is a program with what must hold for a call to be run by it: the key of the arguments, the guards, and which
parameters have a gradient already. In a usual call one generated expression, `direct`, says that all of it holds, but
for the arrays: a table of checks is for these, at which machine code looks before it begins. Any other call is looked
at part by part.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from operator import is_
from threading import RLock, Timer
from types import MethodType
from typing import Any

import numpy as np

from minigrad import random
from minigrad.arrays import describe
from minigrad.compiler.arguments import Arguments, as_input, inputs_if_like, named
from minigrad.compiler.guards import Snapshot, difference, generated, look
from minigrad.compiler.homes import States
from minigrad.compiler.recording import Recording, Source, record
from minigrad.core.mode import changed, current
from minigrad.core.value import Value
from minigrad.kernels import dispatch
from minigrad.tensor import Tensor

NONE: list[Any] = []  # no leaves: where nothing is found there
MOST = 8  # versions of one function for different arguments, and for different states of what it uses
PATIENCE = 1.0  # seconds, after which it is said that something is being compiled


def build(recording: Recording) -> Any:
    """The program of a recording."""
    from minigrad.compiler import runtime  # loads the kernels: only when there is something to build

    return runtime.build(recording)


class Version:
    """A program, and when it may run.

    Args:
        program: of the recording.
        grad: whether gradients are on when it is called.
    """

    def __init__(self, program: Any, recording: Recording, grad: bool):
        self.program, self.grad, self.no_checks = program, grad, program.checks([], [], [])
        self.outline = recording.outline
        self.confirmed = False  # by another recording
        self.taken, self.results = recording.taken, len(recording.results)
        self.returned, self.rebuild = recording.returned, recording.rebuild
        self.is_one_tensor = recording.is_one_tensor
        self.grads = recording.grads
        self.gradients = [(recording.sources[k], a is None) for k, a in recording.gradients]
        specs, updated = [(a.shape, a.dtype) for a in recording.before], [k for k, _ in recording.updates]
        fixed = sum(not source.moves for source in recording.sources)  # these come first
        self.tensors, self.moving = recording.captured[:fixed], recording.sources[fixed:]
        self.fixed = States(sum(k < fixed for k in updated), specs[:fixed])
        self.moved = States(sum(k >= fixed for k in updated), specs[fixed:])
        self.draws = any(source.kind == "random" for source in self.moving)
        found = [x for kind, x in self.returned if kind == "found"]
        self.asks_for_leaves = any(source.kind == "leaf" for source in [*self.moving, *found])

    def adopt(self, seen: Snapshot, given: Arguments, args: tuple[Any, ...] | None) -> None:
        """Take an equal state, of other objects, for what must be there from now on; `args` are the arguments if all
        of them are positional."""
        self.seen, self.objects, self.arguments = seen, given.objects, _described(given)
        self.shared = _shared(seen, given)
        self.moving_grads = [(source, had) for source, had in self.grads if source.moves]
        conditions, names = seen.conditions()
        for i, (source, had) in enumerate(self.grads):
            if not source.moves:
                names[f"g{i}"] = source.tensor
                conditions.append(f"g{i}._grad is {'not ' * had}None")
        if self.draws and self.shared[-1] is None:  # from another generator than those that the function reaches
            names |= {"generator": random.current, "reached": seen.tensors}
            conditions.append("id(generator().state) not in reached")
        self.holds = generated("True", conditions, names)
        special = any(self.shared) or self.moving_grads or self.asks_for_leaves
        self.direct = None if special or args is None else self._direct(args, conditions, names)

    def fits(self, given: Arguments) -> bool:
        """Whether a call with these arguments, whose key fits, is one for this version."""
        if given.objects and not all(map(is_, given.objects, self.objects)):
            return False
        same = self.shared == _shared(self.seen, given) and _had(self.moving_grads, given.leaves)
        return same and self.holds() is True

    def _direct(
        self, args: tuple[Any, ...], conditions: list[str], names: dict[str, Any]
    ) -> Callable[[tuple[Any, ...]], Any] | None:
        """The arrays of a usual call: a function from its arguments to inputs and states, None if it is not usual."""
        if (inputs := inputs_if_like(args)) is None:
            return None
        arrays, are_like, more, first = inputs
        states = {f"state{k}": tensor for k, tensor in enumerate(self.tensors)}
        value = f"({arrays}, [{', '.join(f'{name}.array' for name in states)}])"
        names = names | more | states | {"strangers": self.seen.tensors}
        return generated(value, [*are_like, *conditions], names, [first], "args")

    def inputs_of(self, given: Arguments) -> list[np.ndarray]:
        """The inputs of the program."""
        return [as_input(given.leaves[i]) for i in self.taken]

    def settled(self) -> list[np.ndarray]:
        """The arrays of the fixed tensors, those that are updated on homes."""
        return self.fixed.arrays(self.tensors)

    def settle(self, given: Arguments) -> None:
        """Bring tensors to homes, and write down what arrays are in calls like this one. Not while a recording holds
        them: whoever is held moves."""
        self.checks = self.program.checks(self.inputs_of(given), self.settled(), self.fixed.holders)

    def same_state(self, seen: Snapshot, given: Arguments) -> bool:
        """Whether what the function depends on is equal, though not the very same objects."""
        return self.seen.key == seen.key and self.shared == _shared(seen, given)

    def began_like(self, recording: Recording) -> bool:
        """Whether the same gradients were there when another recording began."""
        had = {_key(source): was for source, was in recording.grads}
        return all(had.get(_key(source)) == was for source, was in self.grads)

    def agrees(self, recording: Recording) -> bool:
        """Whether another call did the same; then it did not matter where its gradients at the beginning differed."""
        if [x for x, _ in self.outline] != [x for x, _ in recording.outline]:
            return False
        had = {_key(source): was for source, was in recording.grads}
        self.grads = [(source, was) for source, was in self.grads if had.get(_key(source)) == was]
        self.confirmed = True
        return True

    def run(
        self, inputs: list[np.ndarray], states: list[np.ndarray], leaves: list[Any], checks: Any
    ) -> list[np.ndarray] | None:
        """Run the program.

        Args:
            inputs: of the program.
            states: the arrays of the fixed tensors. The list is extended.
            leaves: of the arguments.
            checks: `self.checks`, or `self.no_checks` if the arrays are known to fit.

        Returns:
            Its results; None if the checks failed, and nothing was done.
        """
        if self.moving:
            states += self.moved.arrays([source.find(leaves) for source in self.moving])
        return self.program(inputs, states, checks)

    def finish(self, results: list[np.ndarray], leaves: list[Any]) -> Any:
        """What the call returns, after gradients were put where the recorded call put them."""
        if self.is_one_tensor and not self.gradients:
            return Tensor.wrap(results[0])
        returned = [self._returned(kind, x, results, leaves) for kind, x in self.returned]  # before .grad is another
        gradients = iter(results[self.results :])
        owners = [source.find(leaves) for source, _ in self.gradients]
        for owner, (_, is_none) in zip(owners, self.gradients, strict=True):
            owner._grad = None if is_none else Tensor.wrap(next(gradients))
        return returned[0] if self.is_one_tensor else self.rebuild(returned)

    def _returned(self, kind: str, x: Any, results: list[np.ndarray], leaves: list[Any]) -> Any:
        if kind == "found":
            return x.find(leaves)
        return Tensor.wrap(results[x]) if kind == "tensor" else results[x]


class Compiled:
    """What `compile` returns: call it like the function. `source` and `explain()` show the program that ran last."""

    def __init__(self, function: Callable[..., Any]):
        if not callable(function):
            raise TypeError(f"compile: expected a function, got {function!r}")
        self.function = function
        self.is_derivative = getattr(function, "__globals__", {}).get("__name__") == "minigrad.transforms"
        self.versions: dict[tuple[Any, ...], list[Version]] = {}
        self.direct: list[Version] = []  # those that can tell from the bare arguments whether they fit
        self.last: Version | None = None
        update_wrapper(self, function, updated=())

    def __repr__(self) -> str:
        return f"<compiled {self._name()}, {sum(map(len, self.versions.values()))} versions>"

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def _name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, by a program if there is one."""
        mode = current()
        if (mode is not None and mode.watchers) or dispatch.mode() == "numpy":  # somebody watches, or by NumPy alone
            return self.function(*args, **kwargs)
        grad = (mode is None or mode.grad) and not self.is_derivative  # whose result is not to be differentiated again
        if not kwargs:
            with _LOCK:
                for version in self.direct:
                    arrays: Any = version.direct(args) if version.grad is grad else None  # type: ignore[misc]
                    if arrays is not None:
                        results = version.run(arrays[0], arrays[1], NONE, version.checks)
                        if results is not None:
                            self.last = version
                            return version.finish(results, NONE)
                    del arrays  # as long as something holds them, tensors would move
        given = Arguments(args, kwargs)
        if (mode is None or mode.grad) and given.have_history:
            return self.function(*args, **kwargs)
        with _LOCK:
            signature = given.key, grad, given.owners
            for version in self.versions.get(signature, ()):
                if version.confirmed and version.fits(given):
                    break
            else:
                self.direct = []  # which they are may change
                version = self._recorded(signature, args, kwargs, given)
                version.settle(given)
                versions = [v for of_signature in self.versions.values() for v in of_signature]
                self.direct = [v for v in versions if v.confirmed and v.direct is not None]
            self.last = version
            inputs = version.inputs_of(given)
            states = [tensor.array for tensor in version.tensors]
            if (results := version.run(inputs, states, given.leaves, version.checks)) is None:
                del states  # which hold the arrays
                results = version.run(inputs, version.settled(), given.leaves, version.no_checks)
            return version.finish(results, given.leaves)  # type: ignore[arg-type]

    def _recorded(self, signature: Any, args: Any, kwargs: Any, given: Arguments) -> Version:
        """The version for a call: one that was found to fit after all, or that a recording of the call shows to fit."""
        _, names = named(self.function, args, kwargs)
        seen = look(self.function, dict(zip(names, given.objects, strict=True)))
        equal = [v for v in self.versions.get(signature, []) if v.same_state(seen, given)]
        for version in equal:
            version.adopt(seen, given, None if kwargs else args)
            if version.confirmed and _had(version.grads, given.leaves):
                return version
        self._refuse_too_many(signature, given, seen, equal)
        with _progress(self._name()):  # of kernels that a recorded operation needs, too
            with changed(grad=signature[1]):
                recording = record(self.function, args, kwargs, given, seen)
            agreeing = next((v for v in equal if v.agrees(recording)), None)
            if agreeing is None:
                if twin := next((v for v in equal if v.began_like(recording)), None):
                    raise _differ(twin.outline, recording.outline)
                agreeing = Version(build(recording), recording, signature[1])
                self._keep(signature, agreeing)
        agreeing.adopt(seen, given, None if kwargs else args)
        return agreeing

    def _keep(self, signature: Any, version: Version) -> None:
        self.versions.setdefault(signature, []).append(version)
        owners = list(dict.fromkeys(s[2] for s in self.versions))
        if len(owners) > MOST:  # of models, say, that come as arguments, the first is forgotten
            self.versions = {s: v for s, v in self.versions.items() if s[2] != owners[0]}

    def _refuse_too_many(self, signature: Any, given: Arguments, seen: Snapshot, equal: list[Version]) -> None:
        """RuntimeError before the call if it would need one version more than there may be."""
        alike = [versions for s, versions in self.versions.items() if s[1:] == signature[1:]]
        if signature not in self.versions and len(alike) >= MOST:
            came = "; ".join(versions[0].arguments for versions in alike)
            raise RuntimeError(
                f"compile: {self._name()} was called with {MOST} kinds of arguments ({came}), and now with another, "
                f"{_described(given)}: pad arrays to a few shapes, or drop a ragged last batch (minibatches(..., "
                "drop_last=True)); pass numbers that change from call to call as tensors"
            )
        versions = self.versions.get(signature, [])
        if len(versions) >= MOST and not equal:
            raise RuntimeError(
                f"compile: {self._name()} was compiled for {MOST} states of the Python values that it uses, and there "
                f"is another: {difference(versions[-1].seen, seen)}: keep what changes from call to call in a Tensor"
            )

    @property
    def source(self) -> str:
        """The program that ran last, as Python.

        Raises:
            RuntimeError: nothing was compiled yet.
        """
        return self._program().source

    def explain(self) -> Any:
        """What was fused in the program that ran last, and what it costs.

        Raises:
            RuntimeError: nothing was compiled yet.
        """
        return self._program().explain()

    def _program(self) -> Any:
        if self.last is None:
            raise RuntimeError(f"compile: {self._name()} is compiled when it is first called: call it before")
        return self.last.program


def compile(function: Callable[..., Any]) -> Compiled:
    """The same function, to be called many times: its operations are fused into a program that runs in their place.

    A training step (forward, backward, update), a function's value or its gradient, inference: whatever is made of
    minigrad's operations.

    - Arguments are tensors, arrays, containers of them, and Python objects. Other shapes and dtypes of them get a
      version of their own, at most 8. So do other Python numbers, strings and flags, among the arguments and in what
      the function uses (globals, attributes of modules: a dropout rate, train() or eval()).
    - The first two calls of each version run the Python function itself, to record what it does, and undo that: the
      program does it, in these calls as in all others. So all calls have the same bits, and training that is stopped
      and resumed goes on as if it had not been. Where the function raises an error, no tensor is changed.
    - After a call parameters, optimisers and the random state are what they are after an eager call, to rounding; so is
      `p.grad`: what backward left there, added to what it was before if the function did not clear it, or None if the
      function cleared it at the end. A new gradient is a new tensor. What is returned is new, too, and has no history;
      but an argument, or a tensor of outside such as a parameter, is returned as itself.
    - Later calls run no Python. So the function must not look at the values of tensors (`.item()`, `if`, print), nor
      change Python objects, nor seed the random numbers; it must not return a tensor through which backward could go
      on, nor use NumPy on an argument, a NumPy array from outside that can be changed, or objects whose state can't be
      seen (iterators, files, NumPy's generators). All of that is refused, with the line where there is one. What others
      compute (NumPy, time) is a constant, and an error if the two recordings differ. The engine's checks of values
      (labels in their range, say) are made while it is recorded.
    - Under `kernels.use("numpy")`, `record()`, `detect_anomaly()` and `debug()`, inside of another compiled function or
      of a derivative, and on arguments that have a history or hooks, the function runs as it is.
    - Results that would be denormal numbers, below 1.2e-38 in float32, are 0: with moments of Adam that fade away,
      steps took three times as long.

    Raises:
        TypeError: this can't be called. A call raises RuntimeError for what is refused.

    Example:
        >>> import minigrad as mg
        >>> p = mg.Tensor([4.0], requires_grad=True)
        >>> optimizer = mg.optim.SGD([p], lr=0.25)
        >>> @mg.compile
        ... def step(x):
        ...     loss = mg.sum((p - x) ** 2)
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     return loss
        >>> [step(mg.Tensor([0.0])).item() for _ in range(4)]
        [16.0, 4.0, 1.0, 0.25]
    """
    return Compiled(function)


def _differ(first: list[Any], second: list[Any]) -> RuntimeError:
    """The error of two recordings that should be the same."""
    pairs = zip(first, second, strict=False)
    where = next((there for (a, _), (b, there) in pairs if a != b), "one of them has more operations")
    return RuntimeError(
        "compile: two calls of one kind did not do the same, so the function depends on something that minigrad can't "
        "see (the time, NumPy's random numbers, a file): pass it as an argument, or keep it in a Tensor; the first "
        f"difference is at\n  {where}"
    )


def _described(given: Arguments) -> str:
    arrays = [x.array if isinstance(x, Value) else x for x in given.leaves]
    return ", ".join(map(describe, arrays)) or "no tensors"


def _had(grads: list[tuple[Source, bool]], leaves: list[Any]) -> bool:
    """Whether the tensors have a gradient, or not, as they had. (One may be a gradient itself, which is gone.)"""
    return all((getattr(source.find(leaves), "grad", None) is not None) == had for source, had in grads)


def _shared(seen: Snapshot, given: Arguments) -> list[str | None]:
    """For each leaf, and the random state of the context, by which path the function reaches that tensor by itself."""
    tensors = seen.tensors
    return [tensors[id(x)][1] if id(x) in tensors else None for x in (*given.leaves, random.current().state)]


def _key(source: Source) -> tuple[Any, ...]:
    """A source as something that can be compared (tensors compare elementwise)."""
    return source.kind, id(source.tensor), source.leaf


@contextmanager
def _progress(name: str) -> Iterator[None]:
    """Say so on the terminal if compiling takes more than a second."""
    timer = Timer(PATIENCE, lambda: print(f"minigrad: compiling {name} ...", file=sys.stderr))
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


_LOCK = RLock()  # of all compiled functions: they may update the same tensors in place


def _unlock() -> None:
    global _LOCK
    _LOCK = RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)  # the thread that holds it did not come along
