"""Arrays like another one: constants that follow the shape and dtype of a model, on a tape too. No gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minigrad.arrays import check_dtype
from minigrad.core.op import Op
from minigrad.core.value import Value, raw

_full_like = Op(
    "full_like",
    lambda x, *, fill_value, dtype: np.full(x.shape, fill_value, dtype),
    formula="y = fill_value everywhere, in the shape of x",
)


def full_like(x: Any, fill_value: Any, dtype: DTypeLike | None = None) -> Any:
    """One number everywhere, in the shape of x and, if none is given, its dtype. No gradient.

    Raises:
        TypeError: the fill value is a tensor, whose gradient would be lost, or a dtype is not one of minigrad's.

    Example:
        >>> import minigrad as mg
        >>> mg.full_like(mg.Tensor([1.0, 2.0]), 7.0).data
        array([7., 7.])
    """
    if isinstance(fill_value, Value):
        raise TypeError("full_like: expected a number to fill with, got a tensor; use broadcast_to(value, x.shape)")
    dtype = raw(x).dtype if dtype is None else np.dtype(dtype)
    check_dtype(dtype)
    return _full_like(x if isinstance(x, Value) else np.asarray(x), fill_value=fill_value, dtype=dtype)


def zeros_like(x: Any, dtype: DTypeLike | None = None) -> Any:
    """Zeros in the shape of x and, if none is given, its dtype. No gradient."""
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: DTypeLike | None = None) -> Any:
    """Ones in the shape of x and, if none is given, its dtype. No gradient."""
    return full_like(x, 1, dtype)


__all__ = ["full_like", "ones_like", "zeros_like"]
