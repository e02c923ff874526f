"""What the engine asks of arrays from outside: a dtype that it computes with, and that nobody can change them."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_dtype(dtype: np.dtype[Any]) -> None:
    """TypeError unless the engine computes with this dtype: float32, float64, integers and booleans."""
    if dtype.kind not in "fiub" or dtype.itemsize not in (1, 2, 4, 8) or dtype == np.float16:
        raise TypeError(
            f"minigrad computes with float32, float64, integers and booleans, not {dtype}: convert with astype first"
        )


def changeable(array: np.ndarray) -> bool:
    """Whether somebody outside could still write to the memory of an array."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return False


def frozen(x: Any) -> np.ndarray:
    """What came from outside as an array that can't change: copied if somebody could still write to it."""
    array = np.asarray(x) if isinstance(x, np.ndarray) and not changeable(x) else np.array(x)
    check_dtype(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array.setflags(write=False)
    return array
