"""The nodes of a computation graph: which operation made a value, from what, and what its rules will need.

A node never points at a tensor (only weakly, where a gradient or a hook waits), so a graph has no reference cycles and
is freed the moment nobody holds it. A node is born after its inputs: births are a topological order.
"""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import ref

import numpy as np

birth = count(0, -1).__next__  # downwards, so that a heap yields the youngest first


class Leaf:
    """A value that no recorded operation made: a parameter, an input, a constant.

    `stale` once its tensor was assigned: the tensor then stands on a new leaf, and what was recorded with this one and
    needs its value is out of date.
    """

    __slots__ = ("birth", "dtype", "owner", "requires_grad", "shape", "stale")
    last_retired = 1  # when that last happened to any leaf: nothing born after it can be stale

    def __init__(self, array: np.ndarray, requires_grad: bool = False, owner: ref[Any] | None = None):
        self.birth = birth()
        self.shape = array.shape
        self.dtype = array.dtype
        self.requires_grad = requires_grad
        self.owner = owner
        self.stale = False

    def retire(self) -> None:
        """Become stale: the tensor has another value now."""
        self.stale = True
        Leaf.last_retired = birth()

    def __repr__(self) -> str:
        return f"<leaf {self.shape} {self.dtype}>"


class Node:
    """One recorded call of an operation.

    `parents` are the nodes of its inputs (None for constants), `saved` what the rules of those inputs need that need a
    gradient, in the order of `plan`; None once backward has freed it.
    """

    __slots__ = ("birth", "dtype", "parents", "plan", "saved", "shape")
    requires_grad = True
    stale = False

    birth: int
    plan: Any  # a Plan; its file stands on this one
    parents: tuple[Any, ...]
    saved: tuple[Any, ...] | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def owner(self) -> Any:
        """A weak reference to its tensor, if a hook or a gradient waits there."""
        return self.plan.owner

    @owner.setter
    def owner(self, owner: Any) -> None:
        self.plan = self.plan.noting(owner=owner)

    def __repr__(self) -> str:
        return f"<{self.plan.op.name} {self.shape} {self.dtype}>"
