"""Guards: what a function depends on in Python, and a fast check that all of it is still the same.

A compiled step has every Python value that the function used built into it. `look` finds those values before the
function runs. It reads the names in the function's code and follows them: closure cells, globals, default arguments,
and from each object the attributes that this code names; the functions that are reached there are read in turn.
Libraries are not followed, nor are the globals of minigrad itself.

    rate = 0.5                             roots     step
    def step(x):                           slots     globals["rate"] is 0.5
        return model(x) * rate                       globals["model"] is <Net>
                                                     model.training is True         (Net.__call__ names it)
                                                     model.layers is [...], len(model.layers) == 2, ...

What was found is a `Snapshot`. Its `slots` are the places, each with the value that stood there; its `conditions()` ask
whether the very same objects still stand in all of them, by one `generated` expression. If not, the values may be equal
still (a float computed anew): then `look` again, and compare the `key` of the snapshots, in which immutable objects
stand by value, tensors and arrays by identity, and everything else by what it consists of. Of a tensor only the
identity and the hooks count: its value is read at each call.
"""

from __future__ import annotations

import dis
import functools
import io
import random
import re
import sys
import sysconfig
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from keyword import iskeyword
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minigrad.arrays import changeable
from minigrad.core.op import Op
from minigrad.core.value import Value

CONSTANTS = (bool, int, float, complex, str, bytes, range, slice, type(None), type(...), type(NotImplemented))
OPAQUE = (
    Op, np.ufunc, np.dtype, Enum, re.Pattern, types.CodeType, types.GenericAlias, types.UnionType, property,
    type(threading.Lock()), type(threading.RLock()),
)  # fmt: skip
UNSEEN = (
    Iterator, io.IOBase, np.random.Generator, np.random.BitGenerator, np.random.RandomState, random.Random,
    types.CoroutineType, types.AsyncGeneratorType, memoryview, bytearray,
)  # fmt: skip
BY_STRINGS = {"getattr", "hasattr", "setattr", "vars", "__dict__", "attrgetter", "eval", "exec"}
NOT_CALLED = {"__init__", "__new__", "__repr__", "__str__", "__tree__", "__del__", "__init_subclass__", "__dict__"}

_PACKAGE = str(Path(__file__).parent.parent) + "/"
_LIBRARIES = tuple({sysconfig.get_path(name) + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_INSTALLED = ("/site-packages/", "/dist-packages/")  # where else libraries are: of a user, of a system, on PYTHONPATH
_MISSING = object()


class Slot(NamedTuple):
    """A place in which `value` was found: an attribute or an item of `holder`, its length, or what a cell holds."""

    holder: Any
    kind: str  # attribute, item, cell; length or members of a container
    name: Any
    value: Any
    path: str

    def now(self) -> Any:
        """What stands there now."""
        try:
            if self.kind == "attribute":
                return getattr(self.holder, self.name)
            if self.kind == "item":
                return self.holder[self.name]
            if self.kind == "cell":
                return self.holder.cell_contents
            return len(self.holder) if self.kind == "length" else frozenset(self.holder)
        except (AttributeError, LookupError, ValueError):
            return _MISSING

    def same(self) -> bool:
        """Whether that is still the same."""
        now = self.now()
        return now is self.value or (self.kind in ("length", "members") and now == self.value)

    def source(self, i: int) -> str:
        """The condition of the generated check; h and v are the holders and the values, k the names."""
        if self.kind == "attribute":
            plain = self.name.isidentifier() and not iskeyword(self.name)
            return f"h{i}.{self.name} is v{i}" if plain else f"getattr(h{i}, k{i}) is v{i}"
        if self.kind == "item":
            return f"h{i}[k{i}] is v{i}"
        if self.kind == "cell":
            return f"h{i}.cell_contents is v{i}"
        return f"len(h{i}) == {self.value}" if self.kind == "length" else f"h{i} == v{i}"


class Snapshot:
    """What `look` found.

    `key` is hashable, and equal for equal states. `tensors` and `arrays` have what was reached, with its path, by id,
    `reached` all objects that were.
    """

    def __init__(self, walk: _Walk):
        self.key = tuple(walk.key)
        self.slots = walk.slots
        self.tensors = walk.tensors
        self.arrays = walk.arrays
        self._needs = [(tensor, needs_gradient(tensor), hooks_of(tensor)) for tensor, _ in walk.tensors.values()]
        self._empty = walk.empty
        self.reached = walk.seen

    def conditions(self) -> tuple[list[str], dict[str, Any]]:
        """That every slot still has the very same object in it, and the same tensors need a gradient and have the same
        hooks: as conditions for `generated`, and what the names in them stand for."""
        found = [slot.source(i) for i, slot in enumerate(self.slots)]
        names: dict[str, Any] = {}
        for i, slot in enumerate(self.slots):
            names |= {f"h{i}": slot.holder, f"k{i}": slot.name, f"v{i}": slot.value}
        for i, (tensor, needs, hooks) in enumerate(self._needs):
            names |= {f"t{i}": tensor, f"hooks{i}": hooks}
            found.append(f"t{i}.node.requires_grad" if needs else f"(t{i}.node is None or not t{i}.node.requires_grad)")
            if needs:
                found.append(f"hooks_of(t{i}) == hooks{i}" if hooks else f"not t{i}._hooks")
        return found, names

    def change(self) -> str | None:
        """The first slot that has another value now, as a text, or None."""
        for slot in [*self._empty, *self.slots]:
            if not slot.same() and not _equal_constants(now := slot.now(), slot.value):
                return f"{slot.path} ({_shown(slot.value)} before, {_shown(now)} after)"
        return None


def generated(
    value: str, conditions: Sequence[str], names: Mapping[str, Any], first: Sequence[str] = (), parameters: str = ""
) -> Callable[..., Any]:
    """The function that does what comes first, and returns a value if all conditions hold; else, or after an error,
    None. They are expressions (statements, what comes first), in which `names` are known."""
    steps = "; ".join([*first, f"return {value} if {' and '.join(conditions) or 'True'} else None"])
    source = f"def factory({', '.join(names)}):\n def function({parameters}):\n  try: {steps}\n"
    source += "  except (AttributeError, LookupError, ValueError, TypeError): return None\n return function"
    made: dict[str, Any] = {"hooks_of": hooks_of}
    exec(compile(source, "<guards>", "exec"), made)
    return made["factory"](**names)


def needs_gradient(tensor: Value) -> bool:
    """Whether a gradient flows through a tensor."""
    return tensor.node is not None and tensor.node.requires_grad


def hooks_of(tensor: Value) -> list[Callable[[Any], Any]]:
    """The hooks of a tensor, in their order."""
    if not hasattr(tensor, "_hooks"):
        tensor._hooks = {}  # for conditions to find
    return list(tensor._hooks.values())


def difference(a: Snapshot, b: Snapshot) -> str:
    """The first place in which two states of one function differ, as a text."""
    for old, new in zip(a.slots, b.slots, strict=False):
        if old.value is not new.value and not _equal_constants(old.value, new.value):
            return f"{new.path} ({_shown(old.value)} the last time, {_shown(new.value)} now)"
    return "something that it uses"


def look(function: Callable[..., Any], objects: Mapping[str, Any]) -> Snapshot:
    """What a function depends on in Python, beyond the tensors, arrays and numbers that it is called with.

    Args:
        function: whatever can be called: a function, a method, an object with `__call__`, a partial.
        objects: other arguments of the call, such as modules, by their names.

    Raises:
        RuntimeError: something is reached whose state can't be seen: an iterator, an open file, a random generator of
            NumPy or Python, an object without attributes; or a NumPy array that can be changed in place.
    """
    follow = Names((), frozenset(), frozenset())
    while True:
        walk = _Walk(follow)
        walk.value(function, "self" if isinstance(function, types.MethodType) else _name(function))
        for name, x in objects.items():
            walk.value(x, name)
        if walk.names == follow:
            return Snapshot(walk)
        follow = walk.names  # code that was reached names more attributes: follow those, too


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


class Names(NamedTuple):
    """The names in a piece of code, and in the functions that it defines, by what the code does with them."""

    globals: tuple[str, ...]
    attributes: frozenset[str]
    stored: frozenset[str]


@functools.lru_cache(maxsize=4096)
def names_in(code: types.CodeType) -> Names:
    """The names in a piece of code."""
    found: dict[str, set[str]] = {"GLOBAL": set(), "ATTR": set(), "STORE_ATTR": set()}
    for instruction in dis.get_instructions(code):
        operation, _, kind = instruction.opname.partition("_")
        kind = {"NAME": "GLOBAL", "METHOD": "ATTR", "SUPER_ATTR": "ATTR"}.get(kind, kind)
        if operation in ("LOAD", "STORE", "DELETE") and kind in ("GLOBAL", "ATTR"):
            found[kind].add(instruction.argval)
            if operation != "LOAD" and kind == "ATTR":
                found["STORE_ATTR"].add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            for kind, inner in zip(found, names_in(constant), strict=True):
                found[kind].update(inner)
    return Names(tuple(sorted(found["GLOBAL"])), frozenset(found["ATTR"]), frozenset(found["STORE_ATTR"]))


def is_library(filename: str) -> bool:
    """Whether a source file belongs to Python or to an installed library."""
    installed = filename.startswith((*_LIBRARIES, "<frozen")) or any(part in filename for part in _INSTALLED)
    return installed and not is_package(filename)


def is_package(filename: str) -> bool:
    """Whether a source file is one of minigrad's own."""
    return filename.startswith(_PACKAGE)


def _file_of(x: Any) -> str:
    """The file of a class or module; 'built in' counts as one of the standard library."""
    module = x if isinstance(x, types.ModuleType) else sys.modules.get(x.__module__)
    if module is not None and module.__name__ == "__main__":
        return "__main__"
    return getattr(module, "__file__", None) or "<frozen"


class _Walk:
    """One walk along attributes of the given names; `names` are those that it met in code."""

    def __init__(self, follow: Names):
        self.follow, self.stored = follow.attributes, follow.stored
        self.names = follow
        self.key: list[Any] = []
        self.slots: list[Slot] = []
        self.tensors: dict[int, tuple[Value, str]] = {}
        self.arrays: dict[int, tuple[np.ndarray, str]] = {}
        self.empty: list[Slot] = []  # places that code stores to, with nothing in them yet
        self.seen: dict[int, tuple[int, Any]] = {}  # with a reference, so that no other object gets the id

    def slot(self, holder: Any, kind: str, name: Any, value: Any, path: str) -> None:
        """Write down what stands in a place, and follow it."""
        self.slots.append(Slot(holder, kind, name, value, path))
        if kind not in ("length", "members"):
            self.value(value, path)

    def value(self, x: Any, path: str) -> None:
        """Write down an object, and what can be reached from it."""
        if (fixed := constant(x)) is not None:
            self.key.append(fixed)
            return
        if id(x) in self.seen:
            self.key.append(("again", self.seen[id(x)][0]))
            return
        self.seen[id(x)] = len(self.seen), x
        if isinstance(x, Value):
            self.key += [id(x), needs_gradient(x), x.array.shape, x.array.dtype, len(hooks_of(x))]
            self.tensors[id(x)] = x, path
            for hook in hooks_of(x):
                self.value(hook, f"a hook of {path}")
        elif isinstance(x, np.ndarray):
            self._array(x, path)
        elif isinstance(x, UNSEEN):
            raise _refused(path, x, "its state can't be seen")
        elif isinstance(x, types.FunctionType):
            self._function(x, path)
        elif isinstance(x, types.MethodType):
            self.key.append("method")
            self.value(x.__func__, f"{path}.{x.__name__}")
            self.value(x.__self__, path)
        elif isinstance(x, functools.partial):
            self.key.append("partial")
            for part in (x.func, x.args, x.keywords):
                self.value(part, path)
        elif isinstance(x, (list, tuple, deque, dict, types.MappingProxyType, set, frozenset)):
            self._container(x, path)
        elif isinstance(x, types.ModuleType):
            self.key.append(x.__name__)
            if not is_library(file := _file_of(x)) and not is_package(file):
                self._attributes(x, path, self.follow)
        elif isinstance(x, type):
            self.key.append(x)
            if not is_library(file := _file_of(x)):
                self._members(x, path, {*self.follow, "__init__", "__new__", "__post_init__"})
        elif isinstance(x, OPAQUE) or type(x).__module__ == "typing":
            self.key.append(x)
        elif isinstance(x, (types.BuiltinFunctionType, types.MethodWrapperType)):
            self.key.append(x.__name__)
            self.value(x.__self__, path.rpartition(".")[0] or path)
        elif (wrapped := getattr(x, "__wrapped__", None)) is not None:  # such as another compiled function
            self.key.append(type(x))
            self.value(wrapped, path)
        elif type(x).__module__.partition(".")[0] == "numpy" and callable(x):
            self.key.append(id(x))
        else:
            self._object(x, path)

    def _array(self, x: np.ndarray, path: str) -> None:
        if changeable(x):
            raise RuntimeError(
                f"compile: {path} is a NumPy array that could be changed in place without a compiled step noticing: "
                f"pass it as an argument, or make it a Tensor, or freeze it with {path}.setflags(write=False)"
            )
        self.key.append(id(x))
        self.arrays[id(x)] = x, path

    def _container(self, x: Any, path: str) -> None:
        self.key += [type(x), len(x)]
        if isinstance(x, (set, frozenset)):
            self.key.append(members := frozenset(x))
            if isinstance(x, set):
                self.slot(x, "members", None, members, path)
        elif isinstance(x, tuple):
            for i, item in enumerate(x):
                self.value(item, f"{path}[{i}]")
        elif isinstance(x, (list, deque)):
            self.slot(x, "length", None, len(x), path)
            for i, item in enumerate(x):
                self.slot(x, "item", i, item, f"{path}[{i}]")
        else:
            self.slot(x, "length", None, len(x), path)
            for k, item in x.items():
                self.value(k, path)
                self.slot(x, "item", k, item, f"{path}[{k!r}]")

    def _function(self, f: types.FunctionType, path: str) -> None:
        self.key.append(f.__code__)
        filename = f.__code__.co_filename
        if is_library(filename) and not f.__closure__:
            return
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
            try:
                self.slot(cell, "cell", None, cell.cell_contents, name)
            except ValueError:  # the variable has no value yet
                self.key.append("empty")
                self.empty.append(Slot(cell, "cell", None, _MISSING, name))
        if is_library(filename):
            return
        names = self._code(f.__code__)
        if is_package(filename):
            return
        if f.__defaults__:
            self.slot(f, "attribute", "__defaults__", f.__defaults__, f"the defaults of {path}")
        if f.__kwdefaults__:
            self.slot(f, "attribute", "__kwdefaults__", f.__kwdefaults__, f"the defaults of {path}")
        for name in names.globals:
            if name in f.__globals__:
                self.slot(f.__globals__, "item", name, f.__globals__[name], name)
            else:
                self.empty.append(Slot(f.__globals__, "item", name, _MISSING, name))

    def _code(self, code: types.CodeType) -> Names:
        names, known = names_in(code), self.names
        by_strings = BY_STRINGS.intersection(names.globals)
        self.names = Names((), known.attributes | names.attributes | by_strings, known.stored | names.stored)
        return names

    def _object(self, x: Any, path: str) -> None:
        """Any other object: its attributes, as far as code names them, and the methods of its class."""
        cls = type(x)
        self.key.append(cls)
        slots = [name for c in cls.__mro__ for name in _slots_of(c)]
        if not hasattr(x, "__dict__") and not any("__slots__" in vars(c) for c in cls.__mro__):
            raise _refused(path, x, "it has no attributes that could be seen")
        present = {*vars(x), *slots} if hasattr(x, "__dict__") else set(slots)
        file = _file_of(cls)
        followed = set(self.follow)
        if hasattr(x, "__tree__"):
            followed.update(x.__tree__()[0])
        if is_library(file) and cls is not types.SimpleNamespace:  # whose code is not read
            followed |= present
        elif BY_STRINGS & self.follow and not is_package(file):
            followed |= present
            if hasattr(x, "__dict__"):
                self.slot(vars(x), "length", None, len(vars(x)), f"the attributes of {path}")
        data = {name for c in cls.__mro__[:-1] for name, member in vars(c).items() if not _is_code(member)}
        self._attributes(x, path, followed & (present | data - set(slots)))
        if not is_library(file):
            self._members(cls, path, self.follow)
        if not is_package(file):
            stored = [name for name in sorted(self.stored) if not hasattr(x, name)]
            self.empty += [Slot(x, "attribute", name, _MISSING, f"{path}.{name}") for name in stored]

    def _attributes(self, x: Any, path: str, names: Any) -> None:
        for name in sorted(names, key=str):
            if not str(name).startswith("__") and (value := getattr(x, str(name), _MISSING)) is not _MISSING:
                self.key.append(name)
                self.slot(x, "attribute", str(name), value, f"{path}.{name}")

    def _members(self, cls: type, path: str, names: Any) -> None:
        """The code of a class that may run: members that are named, and those that Python calls by itself."""
        for c in cls.__mro__:
            if is_library(_file_of(c)):
                continue
            for name, member in vars(c).items():
                implicit = name.startswith("__") and name.endswith("__") and name not in NOT_CALLED
                if name in names or (implicit and isinstance(member, types.FunctionType)):
                    self._member(member, f"{path}.{name}")

    def _member(self, member: Any, path: str) -> None:
        if isinstance(member, (staticmethod, classmethod)):
            self.value(member.__func__, path)
        elif isinstance(member, property):
            for function in (member.fget, member.fset):
                if function is not None:
                    self.value(function, path)
        elif isinstance(member, functools.cached_property):
            self.value(member.func, path)
        elif isinstance(member, types.FunctionType) or hasattr(member, "__wrapped__"):
            self.value(member, path)


def _is_code(member: Any) -> bool:
    """Whether a member of a class is a method or a descriptor, and no value that all instances share."""
    return isinstance(member, types.FunctionType) or hasattr(member, "__get__")


def _slots_of(cls: type) -> Sequence[str]:
    slots = vars(cls).get("__slots__", ())
    return [slots] if isinstance(slots, str) else [s for s in slots if s not in ("__dict__", "__weakref__")]


def constant(x: Any) -> Any:
    """What stands for an immutable value in a key: equal for equal ones of one type; None for any other object."""
    if isinstance(x, np.generic):
        return type(x), x.tobytes()
    if type(x) in (float, complex, range, slice):  # repr: nan is the same as nan, and 0.0 is not -0.0
        return type(x), repr(x)
    if type(x) in CONSTANTS:
        return type(x), x
    base = next((base for base in (int, float, complex, str, bytes) if isinstance(x, base)), None)
    return None if base is None else (type(x), base.__repr__(x))


def _equal_constants(a: Any, b: Any) -> bool:
    return constant(a) is not None and constant(a) == constant(b)


def _shown(x: Any) -> str:
    """What an error says of a value."""
    if x is _MISSING:
        return "nothing"
    if isinstance(x, Value):
        return f"a tensor {x.array.dtype} {x.array.shape}"
    return repr(x) if type(x) in CONSTANTS else f"another {type(x).__name__}"


def _refused(path: str, x: Any, why: str) -> RuntimeError:
    return RuntimeError(
        f"compile: the function uses {path}, of type {type(x).__qualname__}: {why}, so a compiled step would not "
        "notice when it changes: use it outside of the function, and pass what comes of it as an argument"
    )
