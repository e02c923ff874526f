"""A value: an array and the node that made it. The core knows no more of tensors than this.

Arrays inside the engine never change: they are read-only from birth, and whatever comes from outside is copied (or
frozen) at the door. So a saved array is still what it was when backward comes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from minigrad.core.node import Leaf, Node


class Like(NamedTuple):
    """The shape and dtype of an input whose values a rule does not need (it asks for `like_x`)."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class Value:
    """An array and its node. `node` is None for a result that no gradient can flow through."""

    __slots__ = ("__weakref__", "_grad", "_hooks", "_retains", "array", "node")

    array: np.ndarray
    node: Node | Leaf | None
    _grad: Any
    _hooks: dict[object, Callable[[Any], Any]]
    _retains: bool

    @classmethod
    def wrap(cls, array: Any, node: Node | Leaf | None = None) -> Any:
        """A value around an array that the engine owns: no copy, no check."""
        value = object.__new__(cls)
        value.array = array
        value.node = node
        return value

    def become_leaf(self, array: np.ndarray, requires_grad: bool) -> None:
        """Stand on `array` as a leaf; what was recorded with the old one is stale from now on."""
        if type(self.node) is Leaf:
            self.node.retire()
        self.array = array
        self.node = Leaf(array, requires_grad, ref(self) if requires_grad else None)


def raw(x: Any) -> np.ndarray:
    """The array of a value; whatever else, as an array."""
    return x.array if isinstance(x, Value) else np.asarray(x)
