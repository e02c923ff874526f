"""NumPy's functions on tensors: which of our operations each one is, and a refusal where there is none.

NumPy hands its functions over by two protocols, one for ufuncs (NEP 13) and one for the rest (NEP 18). Nothing here
falls back to plain arrays: the gradient would be lost without a word.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from minigrad import ops
from minigrad.core.op import Op


def _table() -> dict[Any, Callable[..., Any]]:
    """Our function for each of NumPy's: those of the same name, and NumPy's other names for them."""
    table = {getattr(np, name): getattr(ops, name) for name in ops.__all__ if hasattr(np, name)}
    others = {
        "absolute": "abs", "fabs": "abs", "concatenate": "concat", "cumsum": "cumulative_sum", "true_divide": "divide",
        "amax": "max", "amin": "min", "rint": "round", "permute_dims": "permute_dims", "power": "pow",
    }  # fmt: skip
    table.update({getattr(np, theirs): getattr(ops, ours) for theirs, ours in others.items() if hasattr(np, theirs)})
    table[np.transpose] = lambda a, axes=None: a.T if axes is None else ops.permute_dims(a, axes)
    table[np.linalg.norm] = ops.norm
    return table


OURS = _table()
_OUR_NAMES = {"a_min": "min", "a_max": "max", "ddof": "correction", "reps": "repetitions"}


def call_ufunc(ufunc: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Our operation for a ufunc.

    Raises:
        TypeError: there is none, or the result was to go into an array in place.
    """
    if options.get("out") is not None or method == "at":
        raise TypeError(
            f"np.{ufunc.__name__}: a result goes into no array or tensor in place, since the gradient would be lost: "
            "write a = a + t"
        )
    if ufunc not in OURS or method != "__call__":
        raise _unknown(ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}")
    return OURS[ufunc](*inputs, **options)


def call_function(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Our operation for another function of NumPy.

    Raises:
        TypeError: there is none, or an argument by position means something else to ours.
    """
    if function not in OURS:
        raise _unknown(function.__name__)
    if len(args) > (count := _same_by_position(function)):
        raise TypeError(f"np.{function.__name__} of tensors: name the arguments after the first {count}")
    return OURS[function](*args, **{_OUR_NAMES.get(name, name): x for name, x in options.items()})


def _unknown(name: str) -> TypeError:
    return TypeError(f"np.{name} has no rule for tensors: use minigrad's operations, or .data for the bare array")


@cache
def _same_by_position(function: Callable[..., Any]) -> int:
    """How many arguments of NumPy's function and of ours mean the same by position."""
    ours = OURS[function]
    if isinstance(ours, Op) or function is np.einsum:
        return sys.maxsize
    names = list(inspect.signature(ours).parameters)
    theirs = [_OUR_NAMES.get(name, name) for name in inspect.signature(function).parameters]
    return next((i for i in range(1, len(names)) if names[i] != theirs[i]), len(names))
