"""Arguments: what a compiled function is called with, taken apart into what may differ from call to call and what not.

    step({"x": batch, "scale": 2.0}, net)     leaves    [batch], tensors and arrays: another value at each call
                                              key       (dict, ("x", (32, 64), "f"), ("scale", float, "2.0"), object)
                                              objects   [net], whose state the guards look after

Calls of one key can share a program. While a call is recorded, `Argument` stands for each NumPy array: the same array,
of which any use that the recording would not see is an error.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

from minigrad.arrays import check_dtype
from minigrad.compiler.guards import constant
from minigrad.core.node import Leaf
from minigrad.core.value import Value
from minigrad.source import line, place


class Arguments:
    """The leaves of a call, the objects in it, and its key."""

    __slots__ = ("have_history", "key", "leaves", "objects", "owners")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.leaves: list[Any] = []
        self.objects: list[Any] = []
        self.have_history = False  # whether a gradient of a leaf goes on to what was recorded before, or to its hooks
        key: tuple[Any, ...] = tuple([self._part(x) for x in args])
        if kwargs:
            key += tuple([(name, self._part(x)) for name, x in sorted(kwargs.items())])
        if len(self.leaves) > 1 and len(set(map(id, self.leaves))) < len(self.leaves):  # step(x, x)
            ids = [id(x) for x in self.leaves]
            key += tuple(map(ids.index, ids))
        self.owners = tuple([id(x) for x in self.objects if type(x) is not FunctionType]) if self.objects else ()
        self.key = key

    def _part(self, x: Any) -> Any:
        """What stands for an argument, or a part of one, in the key."""
        if isinstance(x, Value):
            self.leaves.append(x)
            array, node = x.array, x.node
            if node is None or not node.requires_grad:
                return array.shape, array.dtype.char
            self.have_history |= type(node) is not Leaf or bool(getattr(x, "_hooks", None))
            return array.shape, array.dtype.char, True
        if isinstance(x, np.ndarray):
            self.leaves.append(x)
            return x.shape, x.dtype.char, "array"
        if (fixed := constant(x)) is not None:
            return fixed
        if (items := _items(x)) is not None:
            return type(x), tuple([(k, self._part(item)) for k, item in items.items()])
        self.objects.append(x)
        return type(x)


def _items(x: Any) -> dict[Any, Any] | None:
    """The items of a container by key; None for any other object."""
    if isinstance(x, dict):
        return x
    if isinstance(x, (list, tuple)):
        return dict(enumerate(x))
    if dataclasses.is_dataclass(x) and not isinstance(x, type) and not hasattr(x, "__tree__"):
        return {field.name: getattr(x, field.name) for field in dataclasses.fields(x) if hasattr(x, field.name)}
    return None


def parts(x: Any, name: str) -> list[tuple[str, Any]]:
    """The leaves and the objects in an argument, in the order of `Arguments`, by names such as 'batch[0]'."""
    if constant(x) is not None:
        return []
    items = None if isinstance(x, (Value, np.ndarray)) else _items(x)
    if items is None:
        return [(name, x)]
    dotted = dataclasses.is_dataclass(x)
    return [part for k, item in items.items() for part in parts(item, f"{name}.{k}" if dotted else f"{name}[{k!r}]")]


def named(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The names of the leaves and of the objects in a call's arguments."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    simple = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "arguments")
    roots = [simple[i] if i < len(simple) else f"{rest}[{i - len(simple)}]" for i in range(len(args))]
    found = [part for root, x in [*zip(roots, args, strict=True), *sorted(kwargs.items())] for part in parts(x, root)]
    leaves = [name for name, x in found if isinstance(x, (Value, np.ndarray))]
    return leaves, [name for name, x in found if not isinstance(x, (Value, np.ndarray))]


def replaced(x: Any, change: Callable[[np.ndarray], Any]) -> Any:
    """An argument with other arrays in place of its NumPy arrays."""
    if isinstance(x, np.ndarray) and not isinstance(x, Value):
        return change(x)
    items = None if isinstance(x, Value) or constant(x) is not None else _items(x)
    if not items or not any(isinstance(part, np.ndarray) for _, part in parts(x, "")):
        return x
    new = {k: replaced(item, change) for k, item in items.items()}
    if isinstance(x, dict):
        return type(x)(new) if type(x) is dict else {**x, **new}
    if isinstance(x, (list, tuple)):
        return getattr(x, "_make", type(x))(new.values())
    copy = object.__new__(type(x))
    for k, item in {**getattr(x, "__dict__", {}), **new}.items():
        object.__setattr__(copy, k, item)
    return copy


def as_input(x: Any) -> np.ndarray:
    """A leaf as a program takes it: in C order, aligned, of the machine's byte order."""
    array = x.array if isinstance(x, Value) else x
    flags = array.flags
    if flags.c_contiguous and flags.aligned and array.dtype.isnative and type(array) is np.ndarray:
        return array
    return np.array(array, array.dtype.newbyteorder("="), order="C")


def inputs_if_like(args: tuple[Any, ...]) -> tuple[str, list[str], dict[str, Any], str] | None:
    """The program's inputs, if arguments are the usual ones: as what `generated` takes (a value, conditions, names,
    and the statement that comes first), of `args`, arguments like these, and `strangers`, ids of tensors.

    The conditions do not hold for arguments of another kind, or that have to be looked at closely: a tensor that needs
    a gradient, one twice, or one that is a stranger. Shapes, dtypes and layouts are not looked at: that is for
    `Program.checks`.

    Returns:
        None if these arguments are such themselves, or in containers.
    """
    conditions: list[str] = []
    arrays: list[tuple[int, str]] = []
    names: dict[str, Any] = {}
    for i, x in enumerate(args):
        if isinstance(x, (Value, np.ndarray)):
            if (isinstance(x, Value) and x.node is not None and x.node.requires_grad) or any(x is y for y in args[:i]):
                return None
            names[f"type{i}"] = type(x)
            conditions += [f"type(x{i}) is type{i}", f"id(x{i}) not in strangers"]
            conditions += [f"x{i} is not x{k}" for k, _ in arrays]
            arrays.append((i, f"x{i}.array" if isinstance(x, Value) else f"x{i}"))
            if isinstance(x, Value):
                conditions.append(f"(x{i}.node is None or not x{i}.node.requires_grad)")
        elif constant(x) is not None or _items(x) is None:
            names[f"value{i}"] = x
            conditions.append(f"x{i} is value{i}")
        else:
            return None
    first = f"[{', '.join(f'x{i}' for i in range(len(args)))}] = args"
    return f"[{', '.join(array for _, array in arrays)}]", conditions, names, first


SEEN = {"shape", "dtype", "ndim", "size", "nbytes", "itemsize", "flags", "base", "strides"}  # whatever the values are


class Argument(np.ndarray):
    """An array among the arguments while the call is recorded: operations on tensors take it, NumPy's refuse."""

    @classmethod
    def of(cls, array: np.ndarray) -> Argument:
        """An argument that shares no memory with what the caller gave, and can't be changed."""
        check_dtype(array.dtype)
        copy = np.array(array, array.dtype.newbyteorder("="), order="C", subok=False)
        copy.setflags(write=False)
        return copy.view(cls)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name in SEEN:
            return super().__getattribute__(name)
        raise _unseen(f".{name}")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if any(isinstance(x, Value) for x in inputs):
            return NotImplemented  # the tensor knows what to do
        raise _unseen(f"np.{ufunc.__name__}")

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, options: Any) -> Any:
        if any(issubclass(t, Value) for t in types):
            return NotImplemented
        raise _unseen(f"np.{function.__name__}")

    def _read(self, *_: Any) -> Any:
        raise _unseen("reading its values, or indexing it,")

    __getitem__ = __iter__ = __contains__ = __bool__ = __float__ = __int__ = __index__ = _read
    __repr__ = __str__ = __format__ = __copy__ = __deepcopy__ = __reduce__ = _read


def _unseen(what: str) -> RuntimeError:
    return RuntimeError(
        f"compile: {what} of a NumPy array among the arguments is computed by NumPy, which a compiled step does not "
        f"do again: make it a tensor first, x = minigrad.Tensor(x), or pass tensors\n  {line(place())}"
    )
