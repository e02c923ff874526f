"""Which of the two runs an operation on arrays: NumPy, or the kernel.

The record of an operation names its kernel and says from how many elements on it is worth its call. `use` overrides
that for everything. These sizes are where NumPy's and the kernel's times cross, as measured on one thread of a 2-core
Intel Xeon with AVX-512 in November 2026 (NumPy 2.4), whole calls, powers of two: 1 for all that takes NumPy several
passes (activations, softmax and its kin, losses, convolutions); some thousands for what NumPy has fast loops for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from inspect import signature
from math import inf
from typing import Any

import numpy as np

MODES = {"numpy": inf, "auto": 1.0, "numba": 0.0}  # by what `least` is multiplied: so one comparison decides

# Numba's own switch turns compilation off from the start.
_mode = "numpy" if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0") else "auto"

_dispatched: list[tuple[list[float], tuple[int, int]]] = []  # of each function: its limits now, and in mode "auto"

NEVER = 1 << 62  # a `least` where NumPy is faster at any size: such kernels run only where `use` asks for them

_ndarray = np.ndarray


def use(mode: str) -> AbstractContextManager[None]:
    """Run operations by NumPy alone ("numpy"), by kernels wherever there is one ("numba"), or by the faster ("auto").

    It holds for the whole process, from now on; as a context manager, until the end of the block. At first it is
    "auto". The numbers are the same to rounding, and so are random streams.

    Raises:
        ValueError: another mode.

    Example:
        >>> import numpy as np, minigrad as mg
        >>> with mg.kernels.use("numpy"):
        ...     mg.exp(mg.Tensor([0.0])).data
        array([1.])
    """
    if mode not in MODES:
        raise ValueError(f"use: expected one of {', '.join(MODES)}, got {mode!r}")
    before = _mode
    _change(mode)
    return _Restoring(before)


def mode() -> str:
    """What `use` last asked for: "numpy", "auto" or "numba".

    Example:
        >>> import minigrad as mg
        >>> with mg.kernels.use("numpy"):
        ...     mg.kernels.mode()
        'numpy'
    """
    return _mode


def _change(mode: str) -> None:
    global _mode
    _mode = mode
    for limits, least in _dispatched:
        limits[:] = [n * MODES[mode] for n in least]


class _Restoring(AbstractContextManager[None]):
    def __init__(self, mode: str):
        self.mode = mode

    def __exit__(self, *_: Any) -> None:
        _change(self.mode)


def dispatched(
    numpy: Callable[..., Any], kernel: Callable[..., Any] | None = None, least: int = 0, least_double: int | None = None
) -> Callable[..., Any]:
    """A function that runs the kernel for first inputs of at least so many elements, and NumPy's where it declines.

    Args:
        numpy: a function of arrays.
        kernel: another of the same parameters, which returns NotImplemented for what it can't do; None: there is none.
        least: elements of the first input from which on the kernel is faster.
        least_double: the same for elements of 8 bytes, if it is another number.

    Example:
        >>> import numpy as np
        >>> double = dispatched(lambda x: x + x, lambda x: NotImplemented, least=100)
        >>> double(np.ones((2, 2)))
        array([[2., 2.],
               [2., 2.]])
    """

    if kernel is None:
        return numpy
    sizes = (least, least if least_double is None else least_double)
    limits = [n * MODES[_mode] for n in sizes]  # 0·∞, no least and no kernels, is less than nothing
    _dispatched.append((limits, sizes))

    def run(x: Any, *rest: Any, **params: Any) -> Any:
        if type(x) is _ndarray and x.size >= limits[x.itemsize == 8]:
            y = kernel(x, *rest, **params)
            if y is not NotImplemented:
                return y
        return numpy(x, *rest, **params)

    # The same for one and for two arguments: to pass on any number costs a tenth of a small operation.
    def run_one(x: Any) -> Any:
        if type(x) is _ndarray and x.size >= limits[x.itemsize == 8] and (y := kernel(x)) is not NotImplemented:
            return y
        return numpy(x)

    def run_two(x: Any, z: Any) -> Any:
        if type(x) is _ndarray and x.size >= limits[x.itemsize == 8] and (y := kernel(x, z)) is not NotImplemented:
            return y
        return numpy(x, z)

    given = signature(kernel).parameters.values()
    plain = all(p.kind is p.POSITIONAL_OR_KEYWORD for p in given)
    usual: dict[int, Callable[..., Any]] = {1: run_one, 2: run_two}
    return usual.get(len(given), run) if plain else run
