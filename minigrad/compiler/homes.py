"""Homes: the memory in which a compiled step updates a tensor in place.

Nobody may see that it is done in place: results and `.data` views that were taken before keep their values, and graphs
that were recorded with the old value become stale. So an updated tensor stands on an array of our own, its home: a
read-only ndarray on writeable memory. Before each call reference counts tell whether anybody else holds that array, or
a view of its memory. If so, the tensor moves to a fresh home, a copy, and its leaf with it.

    step(x)                         the tensor p stands on its home; its value there is replaced
    before = p.data                 somebody holds the memory
    step(x)                         p moves: `before` keeps the old home to itself

A home belongs to nobody but its tensor. So steps that update the same tensors, one after the other, share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from sys import getrefcount
from typing import Any

import numpy as np

from minigrad.arrays import describe
from minigrad.compiler.arguments import as_input
from minigrad.core.value import Value

PAGE, LINE = 4096, 64
HOLDERS = 3  # of an array that nobody but its tensor needs, while a program looks at it: the tensor, two sequences
_number = count()


class Memory(np.ndarray):
    """The bytes below one home."""


def home(array: np.ndarray) -> np.ndarray:
    """A copy of an array on memory of its own, whose writeable bytes are `.base`; itself it is C-contiguous, read-only.

    It begins on a cache line. Homes made one after the other begin at different places within a page: were those of p,
    m and v of one size to lie a multiple of 4 KiB apart, a loop over all three would wait for false dependencies
    between loads and stores.

    Example:
        >>> import numpy as np
        >>> a = home(np.ones(3))
        >>> a, a.flags.writeable, a.base.flags.writeable
        (array([1., 1., 1.]), False, True)
    """
    memory = Memory(array.nbytes + PAGE + LINE, np.uint8)
    offset = next(_number) * 11 % 61 * LINE
    start = (offset - memory.__array_interface__["data"][0]) % PAGE
    copy = np.ndarray(array.shape, array.dtype.newbyteorder("="), memory, start)
    copy[...] = array
    copy.setflags(write=False)
    return copy


def is_home(array: np.ndarray) -> bool:
    """Whether an array is a home, and not a part of one or a view in other strides."""
    base = array.base
    return type(base) is Memory and array.flags.c_contiguous and base.nbytes == array.nbytes + PAGE + LINE


class States:
    """The arrays of the tensors that a step takes from outside: those that it updates come first, and get homes; the
    others it reads where they are.

    Args:
        updated: how many it updates.
        specs: shape and dtype of each tensor.
    """

    def __init__(self, updated: int, specs: Sequence[tuple[Any, Any]]):
        self.updated, self.specs = updated, specs
        self.holders = [HOLDERS if k < updated else 0 for k in range(len(specs))]  # for `Program.checks`

    def arrays(self, tensors: Sequence[Value]) -> list[np.ndarray]:
        """The arrays of the tensors; those that will be updated are homes that nothing else holds from now on.

        Raises:
            RuntimeError: a tensor has another shape or dtype.
        """
        for tensor, (shape, dtype) in zip(tensors, self.specs, strict=True):
            if (tensor.array.shape, tensor.array.dtype) != (shape, dtype):
                raise RuntimeError(
                    f"compile: a tensor was {dtype} {shape} when it was recorded, and is {describe(tensor.array)} now"
                )
        for tensor in tensors[: self.updated]:
            if not is_home(tensor.array) or _counts(tensor) != (ALONE, BELOW):
                tensor.become_leaf(home(tensor.array), tensor.node is not None and tensor.node.requires_grad)
        arrays = [tensor.array for tensor in tensors]
        return [array if k < self.updated else as_input(array) for k, array in enumerate(arrays)]


def _counts(tensor: Value) -> tuple[int, int]:
    """How many references there are to the array of a tensor, and to the memory below it."""
    array = tensor.array
    return getrefcount(array), getrefcount(array.base)


ALONE, BELOW = _counts(Value.wrap(home(np.zeros(1))))  # where only a tensor holds them
