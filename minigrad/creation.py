"""New tensors: constants, identity matrices, ranges; float64 unless a dtype is given or follows from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigrad.tensor import Tensor, from_numpy


def full(
    shape: int | Sequence[int], fill_value: Any, dtype: DTypeLike | None = None, requires_grad: bool = False
) -> Tensor:
    """One number everywhere; without a dtype it is that of `Tensor(fill_value)`.

    Raises:
        TypeError: the fill value is a tensor, whose gradient would be lost, or a dtype is not one of minigrad's.

    Example:
        >>> import minigrad as mg
        >>> mg.full((2, 2), 7.0).data
        array([[7., 7.],
               [7., 7.]])
    """
    if isinstance(fill_value, Tensor):
        raise TypeError("full: expected a number to fill with, got a tensor; use broadcast_to(value, shape)")
    return from_numpy(np.full(shape, fill_value, dtype), requires_grad)


def zeros(shape: int | Sequence[int], dtype: DTypeLike | None = np.float64, requires_grad: bool = False) -> Tensor:
    """Zeros in a shape.

    Example:
        >>> import minigrad as mg
        >>> mg.zeros(3).data
        array([0., 0., 0.])
    """
    return from_numpy(np.zeros(shape, dtype), requires_grad)


def ones(shape: int | Sequence[int], dtype: DTypeLike | None = np.float64, requires_grad: bool = False) -> Tensor:
    """Ones in a shape.

    Example:
        >>> import minigrad as mg
        >>> mg.ones((1, 2), dtype="float32").data
        array([[1., 1.]], dtype=float32)
    """
    return from_numpy(np.ones(shape, dtype), requires_grad)


def eye(
    rows: int, columns: int | None = None, k: int = 0, dtype: DTypeLike | None = np.float64, requires_grad: bool = False
) -> Tensor:
    """Ones on diagonal k (0: the main one, 1: the one above it), zeros elsewhere; square without `columns`.

    Example:
        >>> import minigrad as mg
        >>> mg.eye(2).data
        array([[1., 0.],
               [0., 1.]])
    """
    return from_numpy(np.eye(rows, columns, k, dtype), requires_grad)


def arange(
    start: float,
    stop: float | None = None,
    step: float = 1,
    dtype: DTypeLike | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers from start (0, if only one is given) to stop, which is left out; of integers without a dtype int64.

    Raises:
        ValueError: a step of 0.

    Example:
        >>> import minigrad as mg
        >>> mg.arange(1.0, 2.0, 0.25).data
        array([1.  , 1.25, 1.5 , 1.75])
    """
    if step == 0:
        raise ValueError("arange: expected a step other than 0")
    start, stop = (0, start) if stop is None else (start, stop)
    return from_numpy(np.arange(start, stop, step, dtype), requires_grad)  # type: ignore[call-overload]


def linspace(
    start: float,
    stop: float,
    num: int = 50,
    dtype: DTypeLike | None = np.float64,
    requires_grad: bool = False,
) -> Tensor:
    """`num` evenly spaced numbers from start to stop, both included.

    Raises:
        ValueError: a negative number of them.

    Example:
        >>> import minigrad as mg
        >>> mg.linspace(0.0, 1.0, 5).data
        array([0.  , 0.25, 0.5 , 0.75, 1.  ])
    """
    return Tensor(np.linspace(start, stop, num), dtype, requires_grad)


__all__ = ["arange", "eye", "full", "linspace", "ones", "zeros"]
