"""Scatter: rows added at places that may repeat, the adjoint of taking rows by an array of integers (an embedding)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from minigrad.kernels.native import REALS, Kernel

_add_rows = Kernel("scatter", "add_rows")

COLUMNS = 256  # of a chunk: each thread reads all the places, so there should be much to add at each


def _add_rows_to(y: np.ndarray, rows: np.ndarray, values: np.ndarray) -> bool:
    """y[rows[i]] += values[i] for each i, in this order, in place; whether that could be done."""
    if (
        rows.dtype.kind not in "iu"
        or rows.dtype == np.uint64
        or values.dtype != y.dtype
        or values.shape != (*rows.shape, *y.shape[1:])
    ):
        return False
    if not values.size:
        return not rows.size
    rows, values = np.require(rows, np.int64, ("C", "A")), np.require(values, None, ("C", "A"))
    columns = prod(y.shape[1:])
    failed = np.zeros(1, np.int64)
    chunks = -(-columns // COLUMNS)
    _add_rows[y.dtype](rows, values, y, failed, len(y), rows.size, columns, COLUMNS, chunks)
    return not failed[0]


def scatter(*xs: Any, shape: tuple[int, ...], dtype: Any, templates: tuple[tuple[Any, ...], ...]) -> Any:
    """The operation `scatter`: zeros, with each x added where its index is; only for indices that are one array.

    Example:
        >>> import numpy as np
        >>> index = (("array",),)
        >>> scatter(np.array([1.0, 2.0]), np.array([1, 1]), shape=(2,), dtype=np.dtype("f8"), templates=index)
        array([0., 3.])
    """
    count = len(templates)
    if len(xs) != 2 * count or any(template != ("array",) for template in templates):
        return NotImplemented
    if dtype not in REALS or not all(type(x) is np.ndarray for x in xs):
        return NotImplemented
    y = np.zeros(shape, dtype)
    if not all(_add_rows_to(y, rows, x) for x, rows in zip(xs[:count], xs[count:], strict=True)):
        return NotImplemented
    return y
