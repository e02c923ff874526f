"""Gradient clipping: bounds on the gradients of all parameters, between backward and the step of the optimiser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minigrad.core.adjoint import cast
from minigrad.core.mode import changed
from minigrad.ops.elementwise import clip, maximum, sqrt, square
from minigrad.ops.reduction import sum as sum_
from minigrad.optim.first_order import parameters_of
from minigrad.tensor import Tensor

__all__ = ["clip_grad_norm", "clip_grad_value"]


def clip_grad_norm(params: Any, max_norm: float) -> Tensor:
    """Scale all gradients by one factor, so that together their Euclidean norm is at most `max_norm`.

    (Pascanu et al. 2013, algorithm 1.) Parameters without a gradient don't count.

    Returns:
        The norm before, float64 ().

    Raises:
        ValueError: max_norm is not positive, or no parameter.
        FloatingPointError: the norm is infinite or no number; the gradients are left as they are.

    Example:
        >>> import minigrad as mg
        >>> p = mg.Tensor([1.0, 1.0], requires_grad=True)
        >>> (p * mg.Tensor([3.0, 4.0])).sum().backward()
        >>> mg.optim.clip_grad_norm([p], 1.0).item(), p.grad.data
        (5.0, array([0.6, 0.8]))
    """
    if not 0 < max_norm < math.inf:
        raise ValueError(f"clip_grad_norm: max_norm is a positive number, not {max_norm}")
    params = _with_gradients(params)
    with changed(grad=False):
        total = Tensor(0.0, np.float64)
        for p in params.values():
            total = total + sum_(square(cast(p.grad, dtype=np.dtype(np.float64))))  # where squares don't overflow
        norm = sqrt(total)
        if not np.isfinite(norm.array):  # not .item(), which a compiled step refuses
            bad = [name for name, p in params.items() if not np.isfinite(p.grad.array).all()]
            raise FloatingPointError(f"clip_grad_norm: the norm is {norm.array}: look at {', '.join(bad) or 'all'}")
        factor = max_norm / maximum(norm, max_norm)
        for p in params.values():
            p.grad = p.grad * cast(factor, dtype=p.dtype)
    return norm


def clip_grad_value(params: Any, max_value: float) -> None:
    """Bound every entry of every gradient to [-max_value, max_value].

    Raises:
        ValueError: max_value is not positive, or no parameter.

    Example:
        >>> import minigrad as mg
        >>> p = mg.Tensor([1.0, 1.0], requires_grad=True)
        >>> (p * mg.Tensor([0.5, -4.0])).sum().backward()
        >>> mg.optim.clip_grad_value([p], 1.0)
        >>> p.grad.data
        array([ 0.5, -1. ])
    """
    if not 0 < max_value < math.inf:
        raise ValueError(f"clip_grad_value: max_value is a positive number, not {max_value}")
    with changed(grad=False):
        for p in _with_gradients(params).values():
            p.grad = clip(p.grad, -max_value, max_value)


def _with_gradients(params: Any) -> dict[str, Tensor]:
    return {name: p for name, p in parameters_of(params).items() if p.grad is not None}
