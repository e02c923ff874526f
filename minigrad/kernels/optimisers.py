"""Updates of parameters in one pass: the kernels of the operations in `minigrad.optim`, with the same bits as NumPy.

Each takes a parameter, its gradient and what the optimiser remembers of it, and returns new arrays.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from minigrad.kernels.native import REALS, Kernel
from minigrad.kernels.reductions import IN_ORDER, in_order

_sgd, _momentum, _adam = Kernel("optimisers", "sgd"), Kernel("optimisers", "momentum"), Kernel("optimisers", "adam")

PER_CHUNK = 1 << 15  # elements: about 10 to 40 µs


def _flat(*arrays: Any) -> tuple[np.ndarray, ...] | None:
    """The arrays in C order, or None if they are not arrays of one shape and one dtype that kernels know."""
    p = arrays[0]
    if type(p) is not np.ndarray or p.dtype not in REALS:
        return None
    dtype, shape, layout = p.dtype, p.shape, IN_ORDER
    for x in arrays:
        if type(x) is not np.ndarray or x.dtype is not dtype or x.shape != shape:
            return None
        layout &= x.flags.num
    return arrays if layout == IN_ORDER else tuple(map(in_order, arrays))


def sgd(p: np.ndarray, g: np.ndarray, rate: Any, *, weight_decay: float) -> Any:
    """p - rate·(g + weight_decay·p).

    Example:
        >>> import numpy as np
        >>> sgd(np.array([1.0, 2.0]), np.array([2.0, -4.0]), np.array(0.25), weight_decay=0.0)
        array([0.5, 3. ])
    """
    flat = _flat(p, g)
    if flat is None:
        return NotImplemented
    p, g = flat
    new_p = np.empty(p.shape, p.dtype)
    _sgd[p.dtype](p, g, new_p, float(rate), weight_decay, p.size, PER_CHUNK, -(-p.size // PER_CHUNK))
    return new_p


def momentum(
    p: np.ndarray, g: np.ndarray, v: np.ndarray, rate: Any, *, momentum: float, nesterov: bool, weight_decay: float
) -> Any:
    """(p, v) after v ← momentum·v + g and p ← p - rate·v, with weight_decay·p added to g.

    With Nesterov's momentum p ← p - rate·(g + momentum·v).

    Example:
        >>> import numpy as np
        >>> p, g, v = np.array([1.0]), np.array([2.0]), np.array([4.0])
        >>> momentum(p, g, v, np.array(0.25), momentum=0.5, nesterov=False, weight_decay=0.0)
        (array([0.]), array([4.]))
    """
    flat = _flat(p, g, v)
    if flat is None:
        return NotImplemented
    p, g, v = flat
    new_p, new_v = np.empty(p.shape, p.dtype), np.empty(p.shape, p.dtype)
    chunks = -(-p.size // PER_CHUNK)
    _momentum[p.dtype](
        p, g, v, new_p, new_v, float(rate), momentum, int(nesterov), weight_decay, p.size, PER_CHUNK, chunks
    )
    return new_p, new_v


def adam(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    rate: Any,
    step: Any,
    *,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> Any:
    """(p, m, v) after step number `step`, from 1, of Adam: see `minigrad.optim.Adam`.

    Example:
        >>> import numpy as np
        >>> p, g, m, v = np.array([1.0]), np.array([2.0]), np.array([0.0]), np.array([0.0])
        >>> adam(p, g, m, v, np.array(0.25), np.array(1.0), betas=(0.5, 0.75), eps=1e-8, weight_decay=0.0)
        (array([0.75]), array([1.]), array([1.]))
    """
    flat = _flat(p, g, m, v)
    if flat is None:
        return NotImplemented
    p, g, m, v = flat
    size, floor, shrink = adam_sizes(rate, step, betas=betas, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = betas
    new_p, new_m, new_v = np.empty(p.shape, p.dtype), np.empty(p.shape, p.dtype), np.empty(p.shape, p.dtype)
    n, chunks = p.size, -(-p.size // PER_CHUNK)
    kernel = _adam[p.dtype]
    kernel(
        p, g, m, v, new_p, new_m, new_v,
        beta1, 1.0 - beta1, beta2, 1.0 - beta2, size, floor, shrink, n, PER_CHUNK, chunks,
    )  # fmt: skip
    return new_p, new_m, new_v


def adam_sizes(
    rate: Any, step: Any, *, betas: tuple[float, float], eps: float, weight_decay: float
) -> tuple[float, float, float]:
    """What step number `step` of Adam multiplies m with, adds to √v, and multiplies p with, in float64.

    Kingma and Ba (2015), end of section 2: the corrections of the moments' bias, all in one number.

    Example:
        >>> adam_sizes(0.5, 1, betas=(0.5, 0.75), eps=0.125, weight_decay=0.5)
        (0.5, 0.0625, 0.75)
    """
    rate, step = float(rate), float(step)
    root = sqrt(1.0 - betas[1] ** step)
    return rate * root / (1.0 - betas[0] ** step), eps * root, 1.0 - weight_decay * rate
