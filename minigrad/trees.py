"""Trees: nests of dicts, lists, tuples, NamedTuples, dataclasses and modules, with tensors and arrays as leaves.

Whatever takes parameters (grad, optimisers, files) takes a tree of them. `_walk` is the whole algorithm: it goes down
one tree, or several of the same structure side by side, collects the leaves, and returns the function that puts new
leaves where the old ones were. What is no leaf (numbers, strings, functions) is structure and comes back as it is.
None is empty. A tensor that is reached twice, tied weights, is one leaf, and a rebuilt tree has the new one twice.

Any object takes part that has a method `__tree__()`: it returns its children by name, and a function from new children
to a new object.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np

from minigrad.core.value import Value

Make = Callable[[dict[Any, Any]], Any]
Rebuild = Callable[[Sequence[Any]], Any]


def is_leaf(x: Any, floats: bool = False) -> bool:
    """Whether `x` is a leaf: a tensor or an array, and if `floats`, also a Python or NumPy float.

    Example:
        >>> import numpy as np
        >>> from minigrad import trees
        >>> trees.is_leaf(np.zeros(3)), trees.is_leaf(1.0), trees.is_leaf(1.0, floats=True), trees.is_leaf([])
        (True, False, True, False)
    """
    return isinstance(x, (Value, np.ndarray)) or (floats and isinstance(x, (float, np.floating)))


def flatten(tree: Any, floats: bool = False) -> tuple[list[Any], Rebuild]:
    """The leaves of a tree, and the function from as many new leaves to a tree of the same structure.

    Args:
        tree: a nest of dict (in insertion order), list, tuple, NamedTuple, dataclass, objects with `__tree__()`.
        floats: whether Python floats are leaves too; otherwise they are structure.

    Raises:
        ValueError: the tree contains itself; or, from the function, another number of leaves.

    Example:
        >>> import numpy as np
        >>> from minigrad import trees
        >>> leaves, rebuild = trees.flatten({"w": np.ones(2), "rest": [np.zeros(1), "name", None]})
        >>> leaves
        [array([1., 1.]), array([0.])]
        >>> rebuild(["a", "b"])
        {'w': 'a', 'rest': ['b', 'name', None]}
    """
    found, rebuild = matched(tree, floats=floats)
    return [leaf for (leaf,) in found], rebuild


def map(f: Callable[..., Any], tree: Any, *others: Any, floats: bool = False) -> Any:
    """The tree of f(leaf, leaf of the others, ...) over trees of one structure.

    Args:
        f: called once for each leaf of `tree`, with the leaves of the other trees that stand in the same place. There
            a number will do for a leaf.
        tree: gives the result its structure, and whatever is no leaf.
        others: trees with the same containers, keys and lengths.
        floats: whether Python floats in `tree` are leaves too.

    Raises:
        ValueError: the structures differ (the message names the place), or a tree contains itself.

    Example:
        >>> import numpy as np
        >>> from minigrad import trees
        >>> trees.map(lambda p, g: p - g, {"w": np.array([3.0, 4.0])}, {"w": np.array([1.0, 1.0])})
        {'w': array([2., 3.])}
    """
    found, rebuild = matched(tree, *others, floats=floats)
    return rebuild([f(*leaves) for leaves in found])


def named_leaves(tree: Any, floats: bool = False) -> list[tuple[str, Any]]:
    """The leaves of a tree with their paths: keys, names and positions from the root, joined by dots.

    A leaf that is reached twice has the path by which it was reached first.

    Raises:
        ValueError: the tree contains itself.

    Example:
        >>> import numpy as np
        >>> from minigrad import trees
        >>> trees.named_leaves({"layers": [{"weight": np.zeros(1)}, {"weight": np.ones(1)}]})
        [('layers.0.weight', array([0.])), ('layers.1.weight', array([1.]))]
    """
    walk = _Walk(floats)
    walk.down((tree,), ())
    return [(".".join(str(key) for key in keys), leaf) for keys, (leaf,) in zip(walk.paths, walk.found, strict=True)]


def objects(tree: Any) -> Iterator[tuple[str, Any]]:
    """Everything in a tree with its path, containers before what they hold, each object once: also leaves that others
    ignore, and trees that contain themselves.

    Example:
        >>> loop = [1.5]
        >>> loop.append(loop)
        >>> [path for path, _ in objects({"a": loop})]
        ['', 'a', 'a.0']
    """
    seen: dict[int, Any] = {}  # which keeps them, so that an id stays that of its object
    pending: list[tuple[tuple[Any, ...], Any]] = [((), tree)]
    while pending:
        path, x = pending.pop()
        if id(x) in seen:
            continue
        seen[id(x)] = x
        yield ".".join(str(key) for key in path), x
        opened = _open(x)
        if opened is not None:
            pending += [((*path, key), child) for key, child in opened[0].items()][::-1]


def matched(tree: Any, *others: Any, floats: bool = False, ties: bool = True) -> tuple[list[tuple[Any, ...]], Rebuild]:
    """The leaves of several trees side by side, and the function that rebuilds the first: see `map`.

    Args:
        tree, others, floats: as for `map`.
        ties: whether a tensor that is reached twice is one leaf. It is not in what a function returned.

    Raises:
        ValueError: the structures differ (the message names the place), or a tree contains itself.

    Example:
        >>> import numpy as np
        >>> from minigrad import trees
        >>> trees.matched([np.zeros(1)], [2.0])[0]
        [(array([0.]), 2.0)]
    """
    walk = _Walk(floats, ties)
    build = walk.down((tree, *others), ())
    count = len(walk.found)

    def rebuild(new: Sequence[Any]) -> Any:
        if len(new) != count:
            raise ValueError(f"rebuilding a tree of {count} leaves takes {count} new ones, not {len(new)}")
        return build(new)

    return walk.found, rebuild


class _Walk:
    """One walk down trees of the same structure: the leaves found so far and where each was found first."""

    def __init__(self, floats: bool, ties: bool = True):
        self.floats = floats
        self.ties = ties
        self.found: list[tuple[Any, ...]] = []
        self.paths: list[tuple[Any, ...]] = []
        self.positions: dict[int, int] = {}  # of the tensors and arrays that were found, by id
        self.above: list[int] = []  # the containers we are in, by id

    def down(self, trees: tuple[Any, ...], path: tuple[Any, ...]) -> Callable[[Sequence[Any]], Any]:
        """Collect the leaves below, and return the function from all new leaves to the new tree here."""
        tree, *others = trees
        if is_leaf(tree, self.floats):
            return itemgetter(self.position(trees, path))
        opened = _open(tree)
        if opened is None:
            for k, other in enumerate(others, 2):
                if is_leaf(other) or _open(other) is not None:
                    raise _differ(path, tree, other, k)
            return lambda new: tree
        children, make = opened
        if id(tree) in self.above:
            raise ValueError(f"a tree that contains itself has no leaves: at {_path(path)}, {_kind(tree)} comes again")
        beside = [_children_like(tree, children, other, path, k) for k, other in enumerate(others, 2)]
        self.above.append(id(tree))
        parts = {key: self.down((child, *(b[key] for b in beside)), (*path, key)) for key, child in children.items()}
        self.above.pop()
        return lambda new: make({key: part(new) for key, part in parts.items()})

    def position(self, leaves: tuple[Any, ...], path: tuple[Any, ...]) -> int:
        """The position of a leaf in the list: a new one, or, if it was found before, its old one."""
        leaf, *others = leaves
        for k, other in enumerate(others, 2):
            if not isinstance(other, (Value, np.ndarray, np.number, int, float)):
                raise _differ(path, leaf, other, k)
        old = self.positions.get(id(leaf))
        if old is not None:
            for k, (a, b) in enumerate(zip(self.found[old][1:], others, strict=True), 2):
                if a is not b and (is_leaf(a) or is_leaf(b) or a != b):
                    raise ValueError(
                        f"trees differ: in tree 1, {_path(self.paths[old])} and {_path(path)} are one and the same "
                        f"{_kind(leaf)} (tied), but in tree {k} they are two: tie them there, too"
                    )
            return old
        if self.ties and is_leaf(leaf):  # not floats: equal ones are often one object, but they are not tied
            self.positions[id(leaf)] = len(self.found)
        self.found.append(leaves)
        self.paths.append(path)
        return len(self.found) - 1


def _open(tree: Any) -> tuple[dict[Any, Any], Make] | None:
    """The children of a container by key, and the function from new children to a new one; None if it is none."""
    if isinstance(tree, (str, bytes, int, float, type)) or tree is None:
        return None
    if hasattr(tree, "__tree__"):
        children, make = tree.__tree__()
        return children, make
    if isinstance(tree, dict):
        return dict(tree), lambda new: new if type(tree) is dict else _updated(tree, new)
    if isinstance(tree, list):
        return dict(enumerate(tree)), lambda new: list(new.values()) if type(tree) is list else _updated(tree, new)
    if isinstance(tree, tuple):
        make_tuple = getattr(tree, "_make", type(tree))
        return dict(zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True)), lambda new: make_tuple(
            new.values()
        )
    if dataclasses.is_dataclass(tree):
        names = [field.name for field in dataclasses.fields(tree) if hasattr(tree, field.name)]
        return {name: getattr(tree, name) for name in names}, lambda new: _with_fields(tree, new)
    return None


def _updated(container: Any, new: dict[Any, Any]) -> Any:
    """A copy of a subclass of dict or list (which may hold more, such as a default) with new items."""
    result = copy.copy(container)
    for key, item in new.items():
        result[key] = item
    return result


def _with_fields(instance: Any, new: dict[str, Any]) -> Any:
    """A copy of a dataclass with new fields. Its __init__ and __post_init__ don't run: they ran for the old ones."""
    result = copy.copy(instance)
    for name, value in new.items():
        object.__setattr__(result, name, value)  # frozen ones, too
    return result


def _children_like(tree: Any, children: dict[Any, Any], other: Any, path: tuple[Any, ...], k: int) -> dict[Any, Any]:
    """The children of another tree, which must be of the same type and have the same keys."""
    opened = _open(other)
    if opened is None or type(other) is not type(tree):
        raise _differ(path, tree, other, k)
    if opened[0].keys() != children.keys():
        missing = [str(key) for key in children.keys() - opened[0].keys()]
        extra = [str(key) for key in opened[0].keys() - children.keys()]
        what = "; ".join(
            f"{verb} {', '.join(sorted(keys))}" for verb, keys in (("lacks", missing), ("has also", extra)) if keys
        )
        raise ValueError(f"trees differ at {_path(path)}: {_kind(other)} in tree {k} {what}")
    return opened[0]


def _differ(path: tuple[Any, ...], tree: Any, other: Any, k: int) -> ValueError:
    return ValueError(f"trees differ at {_path(path)}: {_kind(tree)} in tree 1, but {_kind(other)} in tree {k}")


def _path(keys: tuple[Any, ...]) -> str:
    return ".".join(str(key) for key in keys) or "the root"


def _kind(x: Any) -> str:
    """'list of 2' for a container, 'Tensor (3,)' for a leaf, 'int' for the rest."""
    name = type(x).__name__
    if isinstance(x, Value):
        return f"{name} {x.array.shape}"
    if isinstance(x, np.ndarray):
        return f"{name} {x.shape}"
    return f"{name} of {len(x)}" if isinstance(x, (list, tuple, dict)) else name
