"""Embedding: a table of vectors, one for each of so many things."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigrad import random
from minigrad.core.value import raw
from minigrad.nn.module import Module
from minigrad.ops.indexing import take
from minigrad.random import Generator
from minigrad.tensor import Tensor

__all__ = ["Embedding"]


class Embedding(Module):
    """Integers (...) to vectors (..., n): row i of `weight` for each i. Rows that are not asked for get gradient 0.

    Args:
        count: number of rows, at least 1.
        n: length of a row, at least 1.
        dtype: float32 or float64.
        generator: where the rows are drawn from N(0, 1); None: the generator of the context.

    `weight` is (count, n).

    Raises:
        ValueError: a count or an n below 1.
        TypeError: in a call, indices that are not integers.
        IndexError: in a call, an index outside [0, count).

    Example:
        >>> import minigrad as mg, numpy as np
        >>> words = mg.nn.Embedding(10, 3)
        >>> words(np.array([[1, 2], [2, 9]])).shape
        (2, 2, 3)
    """

    def __init__(self, count: int, n: int, *, dtype: DTypeLike = np.float32, generator: Generator | None = None):
        if count < 1 or n < 1:
            raise ValueError(f"Embedding: expected at least 1 row of at least 1 number, got {count} and {n}")
        self.weight = Tensor(random.normal((count, n), dtype=dtype, generator=generator).data, requires_grad=True)

    def __repr__(self) -> str:
        count, n = self.weight.shape
        return f"Embedding({count}, {n})"

    def __call__(self, indices: Any) -> Tensor:
        """The rows of these numbers."""
        i, count = np.asarray(raw(indices)), self.weight.shape[0]
        if i.dtype.kind not in "iu":
            raise TypeError(f"{self}: expected integers, got {i.dtype} {i.shape}")
        if i.size and not (i.min() >= 0 and i.max() < count):
            raise IndexError(f"{self}: indices lie in [0, {count}), got {i.min()} to {i.max()}")
        return take(self.weight, indices, axis=0)
