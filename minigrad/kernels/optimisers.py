"""Updates of all parameters in one pass: the kernels of the operations in `minigrad.optim`, with the bits of NumPy.

Each takes the learning rate, and then arrays: all parameters, their gradients, and what the optimiser remembers of
them, in the same order. It returns new arrays, all parameters and all that is remembered.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from minigrad.kernels.native import REALS, Kernel
from minigrad.kernels.reductions import IN_ORDER, in_order

_sgd, _momentum, _adam = Kernel("optimisers", "sgd"), Kernel("optimisers", "momentum"), Kernel("optimisers", "adam")

PER_CHUNK = 1 << 15  # elements: about 10 to 40 µs


def _updated(kernel: Kernel, kinds: int, arrays: tuple[Any, ...], *numbers: float) -> Any:
    """What a kernel makes of arrays of so many kinds, parameters, gradients and others, given its numbers.

    NotImplemented unless they are arrays of one dtype that kernels know, of the same shapes in each kind.
    """
    dtype, layout, shapes = getattr(arrays[0], "dtype", None), IN_ORDER, []
    for x in arrays:
        if type(x) is not np.ndarray or x.dtype is not dtype:
            return NotImplemented
        layout &= x.flags.num
        shapes.append(x.shape)
    plan = _planned(kinds, tuple(shapes))
    if plan is None or dtype not in REALS:
        return NotImplemented
    count, begins, chunks = plan
    if layout != IN_ORDER:
        arrays = tuple(map(in_order, arrays))
    new = tuple([np.empty(shape, dtype) for shape in shapes[count:]])
    kernel[dtype](arrays, new, begins, count, *numbers, PER_CHUNK, chunks)
    return new


@lru_cache(maxsize=256)
def _planned(kinds: int, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, np.ndarray, int] | None:
    """How many parameters there are; where they begin, one after the other, and where the last ends; how many chunks.

    None if the shapes are not the same in each kind.
    """
    count = len(shapes) // kinds
    if shapes != shapes[:count] * kinds:
        return None
    begins = np.cumsum([0, *map(prod, shapes[:count])], dtype=np.int64)
    return count, begins, -(-int(begins[-1]) // PER_CHUNK)


def sgd(rate: Any, *arrays: np.ndarray, weight_decay: float) -> Any:
    """p - rate·(g + weight_decay·p) for each p.

    Args:
        rate: (), the learning rate.
        arrays: of any shapes: all p, then all g.

    Example:
        >>> import numpy as np
        >>> sgd(np.array(0.25), np.array([1.0, 2.0]), np.array([2.0, -4.0]), weight_decay=0.0)
        (array([0.5, 3. ]),)
    """
    return _updated(_sgd, 2, arrays, float(rate), weight_decay)


def momentum(rate: Any, *arrays: np.ndarray, momentum: float, nesterov: bool, weight_decay: float) -> Any:
    """All p, then all v, after v ← momentum·v + g and p ← p - rate·v, with weight_decay·p added to g.

    With Nesterov's momentum p ← p - rate·(g + momentum·v).

    Args:
        rate: (), the learning rate.
        arrays: of any shapes: all p, then all g, then all v.

    Example:
        >>> import numpy as np
        >>> p, g, v = np.array([1.0]), np.array([2.0]), np.array([4.0])
        >>> momentum(np.array(0.25), p, g, v, momentum=0.5, nesterov=False, weight_decay=0.0)
        (array([0.]), array([4.]))
    """
    return _updated(_momentum, 3, arrays, float(rate), momentum, int(nesterov), weight_decay)


def adam(rate: Any, step: Any, *arrays: np.ndarray, betas: tuple[float, float], eps: float, weight_decay: float) -> Any:
    """All p, then all m, then all v, after step number `step`, from 1, of Adam: see `minigrad.optim.Adam`.

    Args:
        rate, step: (), the learning rate and the number.
        arrays: of any shapes: all p, then all g, all m, all v.

    Example:
        >>> import numpy as np
        >>> p, g, m, v = np.array([1.0]), np.array([2.0]), np.array([0.0]), np.array([0.0])
        >>> adam(np.array(0.25), np.array(1.0), p, g, m, v, betas=(0.5, 0.75), eps=1e-8, weight_decay=0.0)
        (array([0.75]), array([1.]), array([1.]))
    """
    sizes = adam_sizes(float(rate), float(step), betas=betas, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = betas
    return _updated(_adam, 4, arrays, beta1, 1.0 - beta1, beta2, 1.0 - beta2, *map(float, sizes))


def adam_sizes(
    rate: Any, step: Any, *, betas: tuple[float, float], eps: float, weight_decay: float
) -> tuple[Any, Any, Any]:
    """What step number `step` of Adam multiplies m with, adds to √v, and multiplies p with, in float64.

    Rate and step are numbers, Python's or NumPy's, whose powers are the same; those of arrays may not be.

    Kingma and Ba (2015), end of section 2: the corrections of the moments' bias, all in one number.

    Example:
        >>> sizes = adam_sizes(0.5, 1, betas=(0.5, 0.75), eps=0.125, weight_decay=0.5)
        >>> [float(size) for size in sizes]
        [0.5, 0.0625, 0.75]
    """
    root = np.sqrt(1.0 - betas[1] ** step)
    shrink = 1.0 - weight_decay * rate if weight_decay else np.float64(1.0)
    return rate * root / (1.0 - betas[0] ** step), eps * root, shrink
