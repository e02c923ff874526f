"""What parameters start from: functions of a shape and the numbers of inputs and outputs that a unit sees.

Each draws so that signals, or their gradients, neither die out nor explode on their way through many layers.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike

from minigrad import random
from minigrad.random import Generator
from minigrad.tensor import Tensor

__all__ = ["Initialiser", "glorot_normal", "glorot_uniform", "he_normal", "he_uniform", "uniform", "zeros"]


class Initialiser(Protocol):
    """A function that makes the first value of a parameter."""

    def __call__(
        self, shape: tuple[int, ...], n_in: int, n_out: int, dtype: DTypeLike, generator: Generator | None
    ) -> Tensor:
        """An array of this shape and dtype for units that see n_in inputs and feed n_out outputs."""


def uniform(
    shape: tuple[int, ...], n_in: int, n_out: int, dtype: DTypeLike = np.float32, generator: Generator | None = None
) -> Tensor:
    """Uniform on ±√(6/(n_in + n_out + 1)): the initialisation of the lecture on autoencoders.

    Example:
        >>> import minigrad as mg
        >>> w = mg.nn.initialisers.uniform((3, 2), 3, 2)
        >>> bool((abs(w.data) <= 1.0).all()), w.dtype
        (True, dtype('float32'))
    """
    return _uniform(math.sqrt(6 / (n_in + n_out + 1)), shape, dtype, generator)


def glorot_uniform(
    shape: tuple[int, ...], n_in: int, n_out: int, dtype: DTypeLike = np.float32, generator: Generator | None = None
) -> Tensor:
    """Uniform on ±√(6/(n_in + n_out)), for units that are linear near 0 (Glorot and Bengio 2010, eq. 16).

    Example:
        >>> import minigrad as mg
        >>> mg.nn.initialisers.glorot_uniform((3, 2), 3, 2).shape
        (3, 2)
    """
    return _uniform(math.sqrt(6 / (n_in + n_out)), shape, dtype, generator)


def glorot_normal(
    shape: tuple[int, ...], n_in: int, n_out: int, dtype: DTypeLike = np.float32, generator: Generator | None = None
) -> Tensor:
    """Normal of variance 2/(n_in + n_out), for units that are linear near 0 (Glorot and Bengio 2010, eq. 12).

    Example:
        >>> import minigrad as mg
        >>> mg.nn.initialisers.glorot_normal((3, 2), 3, 2).shape
        (3, 2)
    """
    return random.normal(shape, std=math.sqrt(2 / (n_in + n_out)), dtype=dtype, generator=generator)


def he_uniform(
    shape: tuple[int, ...], n_in: int, n_out: int, dtype: DTypeLike = np.float32, generator: Generator | None = None
) -> Tensor:
    """Uniform of variance 2/n_in, that is on ±√(6/n_in), for rectifiers (He et al. 2015, eq. 10).

    Example:
        >>> import minigrad as mg
        >>> mg.nn.initialisers.he_uniform((3, 2), 3, 2).shape
        (3, 2)
    """
    return _uniform(math.sqrt(6 / n_in), shape, dtype, generator)


def he_normal(
    shape: tuple[int, ...], n_in: int, n_out: int, dtype: DTypeLike = np.float32, generator: Generator | None = None
) -> Tensor:
    """Normal of variance 2/n_in, for rectifiers (He et al. 2015, eq. 10).

    Example:
        >>> import minigrad as mg
        >>> mg.nn.initialisers.he_normal((3, 2), 3, 2).shape
        (3, 2)
    """
    return random.normal(shape, std=math.sqrt(2 / n_in), dtype=dtype, generator=generator)


def zeros(
    shape: tuple[int, ...],
    n_in: int = 0,
    n_out: int = 0,
    dtype: DTypeLike = np.float32,
    generator: Generator | None = None,
) -> Tensor:
    """All zeros, as biases start.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.initialisers.zeros((2,)).data
        array([0., 0.], dtype=float32)
    """
    return Tensor(np.zeros(shape, dtype))


def _uniform(limit: float, shape: tuple[int, ...], dtype: DTypeLike, generator: Generator | None) -> Tensor:
    return random.uniform(shape, -limit, limit, dtype=dtype, generator=generator)
