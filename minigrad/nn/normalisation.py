"""Normalisation: layers that give what flows through them mean 0 and variance 1, and then learn its scale and shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from minigrad.core.mode import no_grad
from minigrad.nn.module import Module
from minigrad.ops.elementwise import sqrt
from minigrad.ops.manipulation import reshape
from minigrad.ops.reduction import moments, standardise
from minigrad.tensor import Tensor

__all__ = ["BatchNorm", "LayerNorm"]


def _check(layer: Module, x: Any, fits: bool, shape: str, dtype: np.dtype[Any]) -> None:
    if not fits:
        raise ValueError(f"{layer}: expected an input of shape {shape}, got {x.dtype} {x.shape}")
    if x.dtype != dtype:
        raise TypeError(
            f"{layer} has {dtype} parameters, but its input is {x.dtype} {x.shape}: convert the input "
            f"with x.astype('{dtype}'), or the whole module with module.astype('{x.dtype}')"
        )


class LayerNorm(Module):
    """Each sample (..., n) minus its mean over the last axis, over its deviation, times `weight` plus `bias`.

    Ba, Kiros and Hinton, "Layer normalization" (2016), equations 3 and 4; the variance has `eps` added.

    Args:
        n: number of features, the length of the last axis.
        eps: positive.
        dtype: of weight and bias: float32 or float64.

    `weight` is (n,), ones at first, `bias` (n,), zeros.

    Raises:
        ValueError: n below 1; or in a call, another last axis than n.
        TypeError: in a call, an input of another dtype than the parameters.

    Example:
        >>> import minigrad as mg
        >>> norm = mg.nn.LayerNorm(3, dtype="float64")
        >>> norm(mg.Tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])).data.round(2)
        array([[-1.22,  0.  ,  1.22],
               [-1.22,  0.  ,  1.22]])
    """

    def __init__(self, n: int, *, eps: float = 1e-5, dtype: DTypeLike = np.float32):
        if n < 1:
            raise ValueError(f"LayerNorm: expected at least 1 feature, got {n}")
        self.weight = Tensor(np.ones(n, dtype), requires_grad=True)
        self.bias = Tensor(np.zeros(n, dtype), requires_grad=True)
        self.eps = eps

    def __repr__(self) -> str:
        return f"LayerNorm({self.weight.shape[0]})"

    def __call__(self, x: Any) -> Tensor:
        """x normalised over its last axis."""
        n = self.weight.shape[0]
        _check(self, x, x.ndim > 0 and x.shape[-1] == n, f"(..., {n})", self.weight.dtype)
        return standardise(x, -1, self.eps) * self.weight + self.bias


class BatchNorm(Module):
    """Each feature, axis 1 of (batch, n, ...), normalised over the batch and the other axes, scaled and shifted.

    Ioffe and Szegedy, "Batch normalization" (2015), algorithm 1. In training mean and variance are those of the batch,
    and running averages of them are kept: average ← (1 - momentum)·average + momentum·batch. After `eval()` the
    averages are used, so that a sample's result does not depend on its companions. The variance that is averaged is the
    unbiased one, as in their algorithm 2.

    Args:
        n: number of features (of channels, for images), the length of axis 1.
        momentum: in (0, 1].
        eps: positive.
        dtype: float32 or float64.

    `weight` and `bias` are (n,) and trained; `running_mean` and `running_variance` are (n,), saved with them, and not
    trained.

    Raises:
        ValueError: n below 1, a momentum outside (0, 1]; or in a call, another axis 1 than n, or one value of each
            feature in training.
        TypeError: in a call, an input of another dtype than the parameters.

    Example:
        >>> import minigrad as mg
        >>> norm = mg.nn.BatchNorm(2, dtype="float64")
        >>> norm(mg.Tensor([[1.0, 10.0], [3.0, 30.0]])).data.round(2)
        array([[-1., -1.],
               [ 1.,  1.]])
        >>> norm.running_mean.data
        array([0.2, 2. ])
    """

    _origin: Callable[[], BatchNorm]

    def __init__(self, n: int, *, momentum: float = 0.1, eps: float = 1e-5, dtype: DTypeLike = np.float32):
        if n < 1:
            raise ValueError(f"BatchNorm: expected at least 1 feature, got {n}")
        if not 0 < momentum <= 1:
            raise ValueError(f"BatchNorm: the momentum lies in (0, 1], not {momentum}")
        self.weight = Tensor(np.ones(n, dtype), requires_grad=True)
        self.bias = Tensor(np.zeros(n, dtype), requires_grad=True)
        self.running_mean = Tensor(np.zeros(n, dtype))
        self.running_variance = Tensor(np.ones(n, dtype))
        self.momentum, self.eps = momentum, eps

    def __repr__(self) -> str:
        return f"BatchNorm({self.weight.shape[0]})"

    def __call__(self, x: Any) -> Tensor:
        """x normalised for each feature."""
        n = self.weight.shape[0]
        _check(self, x, x.ndim > 1 and x.shape[1] == n, f"(batch, {n}, ...)", self.weight.dtype)
        axes = (0, *range(2, x.ndim))
        along = (n, *(1,) * (x.ndim - 2))  # broadcasts against x
        if self.training:
            if x.size <= n:
                raise ValueError(
                    f"{self}: expected more than one value of each feature to train with, got {x.dtype} {x.shape}; "
                    "call eval() to use the running averages"
                )
            y = standardise(x, axes, self.eps)
            count = x.size // n
            with no_grad():
                mean, variance = moments(x, axes)
                self._update(mean, variance * (count / (count - 1)))
        else:
            deviation = sqrt(self.running_variance + self.eps)
            y = (x - reshape(self.running_mean, along)) / reshape(deviation, along)
        return y * reshape(self.weight, along) + reshape(self.bias, along)

    def _with(self, children: dict[str, Any]) -> Self:
        other = super()._with(children)
        other._origin = lambda: self  # a function: what a module remembers as a module would be its child
        return other

    def _update(self, *batch: Any) -> None:
        """Move the averages towards a batch: inside `grad`, those of the module that was given to it."""
        owner = self
        while not owner.running_mean.is_leaf:
            owner = owner._origin()
        for average, x in zip((owner.running_mean, owner.running_variance), batch, strict=True):
            average.assign((1 - self.momentum) * average + self.momentum * x)
