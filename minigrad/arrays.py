"""What the engine asks of arrays from outside: a dtype that it computes with, and that nobody can change them; and how
errors describe them."""

from __future__ import annotations

from typing import Any

import numpy as np


def check_dtype(dtype: np.dtype[Any]) -> None:
    """TypeError unless the engine computes with this dtype: float32, float64, integers and booleans."""
    if dtype.kind not in "fiub" or dtype.itemsize not in (1, 2, 4, 8) or dtype == np.float16:
        raise TypeError(
            f"minigrad computes with float32, float64, integers and booleans, not {dtype}: convert with astype first"
        )


def changeable(array: Any) -> bool:
    """Whether somebody outside could still write to the memory of an array (or another base of arrays)."""
    base = array
    while isinstance(base, np.ndarray):
        if base.flags.writeable:
            return True
        base = base.base
    return base is not None and type(base) is not bytes  # any other buffer may be somebody's


def read_only_view(array: np.ndarray) -> np.ndarray:
    """A view that can't be made writeable: if the array is a view itself, what it is a view of is frozen, too."""
    base: Any = array.base
    while isinstance(base, np.ndarray):
        base.setflags(write=False)
        base = base.base
    return array.view()


def frozen(x: Any) -> np.ndarray:
    """What came from outside as an array that can't change: copied if somebody could still write to it."""
    array = np.asarray(x) if isinstance(x, np.ndarray) and not changeable(x) else np.array(x)
    check_dtype(array.dtype)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    array.setflags(write=False)
    return array


def constant(a: Any) -> Any:
    """An input that is no value: scalars stay weak, NumPy's too; arrays are made safe from later changes."""
    if (kind := type(a)) is float or kind is int:
        return a
    a = a.item() if isinstance(a, np.generic) else a
    return a if isinstance(a, (float, int)) else frozen(a)


def describe(x: Any) -> str:
    """'float32 (2, 3)' for an array, the number itself for a scalar."""
    if isinstance(x, tuple):
        return f"({', '.join(map(describe, x))})"
    return f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else repr(x)
