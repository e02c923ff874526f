"""Losses that networks are trained with, in forms that neither overflow nor lose digits."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.core.adjoint import cast
from minigrad.core.op import Op
from minigrad.core.value import raw
from minigrad.ops.activation import sigmoid
from minigrad.ops.elementwise import exp, square, subtract
from minigrad.ops.indexing import take_along_axis
from minigrad.ops.manipulation import expand_dims, squeeze
from minigrad.ops.reduction import log_softmax, mean
from minigrad.ops.reduction import sum as sum_

REDUCTIONS = ("mean", "sum", "none")


def _reduce(x: Any, reduction: str, what: str) -> Any:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{what}: reduction is one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    return mean(x) if reduction == "mean" else sum_(x) if reduction == "sum" else x


def _same_shape(what: str, a: Any, b: Any) -> None:
    if raw(a).shape != raw(b).shape:
        raise ValueError(f"{what}: prediction and target must have one shape, got {raw(a).shape} and {raw(b).shape}")


def mse(prediction: Any, target: Any, reduction: str = "mean") -> Any:
    """Squared error (prediction - target)², its mean over all elements, their sum, or 'none': one by one.

    Raises:
        ValueError: two shapes, or an unknown reduction.

    Example:
        >>> import minigrad as mg
        >>> mg.mse(mg.Tensor([1.0, 2.0]), mg.Tensor([0.0, 4.0])).item()
        2.5
    """
    _same_shape("mse", prediction, target)
    return _reduce(square(subtract(prediction, target)), reduction, "mse")


_bce_with_logits = Op(
    "bce_with_logits",
    lambda z, t: np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z))),
    # not σ(z) - t, which is 0 where a confident prediction is right, though the slope is not
    vjp={"z": lambda g, z, t: g * ((1.0 - t) * sigmoid(z) - t * sigmoid(-z)), "t": lambda g, z: -(g * z)},
    kind="elementwise",
    formula="y = softplus(z) - z·t,  z̄ = ȳ·((1 - t)·σ(z) - t·σ(-z)),  t̄ = -ȳ·z",
)


def bce_with_logits(logits: Any, target: Any, reduction: str = "mean") -> Any:
    """Binary cross-entropy -t·log σ(z) - (1 - t)·log σ(-z) in nats, of logits z with targets t in [0, 1].

    Raises:
        ValueError: two shapes, or an unknown reduction.

    Example:
        >>> import minigrad as mg
        >>> mg.bce_with_logits(mg.Tensor([0.0, 1000.0]), mg.Tensor([1.0, 1.0])).item()  # (log 2 + 0)/2
        0.34657359027997264
    """
    _same_shape("bce_with_logits", logits, target)
    if raw(target).dtype == np.float32 and raw(logits).dtype == np.float64:
        target = cast(target, dtype=np.dtype(np.float64))  # or the rule would round 1 - t to float32
    return _reduce(_bce_with_logits(logits, target), reduction, "bce_with_logits")


def cross_entropy(logits: Any, labels: Any, reduction: str = "mean") -> Any:
    """Cross-entropy -log softmax(logits)[label] in nats.

    Args:
        logits: shape (..., classes).
        labels: integers in [0, classes), shape (...).
        reduction: 'mean' over the examples, 'sum', or 'none'.

    Raises:
        ValueError: shapes that don't fit, or a label out of range.
        TypeError: labels that are not integers.

    Example:
        >>> import minigrad as mg
        >>> mg.cross_entropy(mg.Tensor([[0.0, 0.0]]), mg.Tensor([1])).item()  # log 2
        0.6931471805599453
    """
    z, t = raw(logits), raw(labels)
    if t.dtype.kind not in "iu":
        raise TypeError(f"cross_entropy: labels are integers, got {t.dtype}")
    if z.ndim == 0 or z.shape[:-1] != t.shape:
        raise ValueError(f"cross_entropy: expected logits (..., classes) and labels (...), got {z.shape} and {t.shape}")
    if t.size and not (t.min() >= 0 and t.max() < z.shape[-1]):
        raise ValueError(f"cross_entropy: labels must lie in [0, {z.shape[-1]}), got {t.min()} to {t.max()}")
    picked = take_along_axis(log_softmax(logits), expand_dims(labels, -1), -1)
    return _reduce(-squeeze(picked, -1), reduction, "cross_entropy")


def gaussian_kl(mean: Any, log_variance: Any) -> Any:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats, elementwise; sum over the code's axis for a VAE.

    Kingma and Welling, "Auto-Encoding Variational Bayes" (2014), appendix B.

    Raises:
        ValueError: two shapes.

    Example:
        >>> import minigrad as mg
        >>> mg.gaussian_kl(mg.Tensor([1.0]), mg.Tensor([0.0])).data
        array([0.5])
    """
    _same_shape("gaussian_kl", mean, log_variance)
    return (square(mean) + exp(log_variance) - 1.0 - log_variance) * 0.5


__all__ = ["bce_with_logits", "cross_entropy", "gaussian_kl", "mse"]
