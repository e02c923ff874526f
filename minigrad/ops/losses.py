"""Losses that networks are trained with, in forms that neither overflow nor lose digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.core.adjoint import cast
from minigrad.core.op import Op
from minigrad.core.value import raw
from minigrad.kernels import losses as kernels
from minigrad.ops.activation import sigmoid
from minigrad.ops.elementwise import equal, expm1, square, subtract, where
from minigrad.ops.manipulation import expand_dims
from minigrad.ops.reduction import mean, over_outputs, softmax, softmax_vjp
from minigrad.ops.reduction import sum as sum_

REDUCTIONS = {"mean": mean, "sum": sum_, "none": lambda x: x}


def _reduction(reduction: str, what: str) -> Callable[[Any], Any]:
    if reduction not in REDUCTIONS:
        raise ValueError(f"{what}: reduction is one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    return REDUCTIONS[reduction]


def _reduced(each: Op, total: Op, z: Any, t: Any, reduction: str) -> Any:
    """The loss of each prediction z with its target t, or their mean or sum, for which there is an Op of one pass."""
    reduced, count = _reduction(reduction, each.name), raw(t).size  # labels of classes are as many as the losses
    if reduction == "none" or count == 0:
        return reduced(each(z, t))
    loss, _ = total(z, t, scale=1 / count if reduction == "mean" else 1.0)
    return loss


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
    return _reduction(reduction, "mse")(square(subtract(prediction, target)))


_bce_with_logits = Op(
    "bce_with_logits",
    lambda z, t: np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z))),
    # not σ(z) - t, which is 0 where a confident prediction is right, though the slope is not
    vjp={"z": lambda g, z, t: g * ((1.0 - t) * sigmoid(z) - t * sigmoid(-z)), "t": lambda g, z: -(g * z)},
    kernels={"y": (kernels.bce_with_logits, 0), "z": (kernels.bce_with_logits_vjp, 0)},
    kind="elementwise",
    formula="y = softplus(z) - z·t,  z̄ = ȳ·((1 - t)·σ(z) - t·σ(-z)),  t̄ = -ȳ·z",
)


def _bce_with_logits_and_slope_forward(z: np.ndarray, t: np.ndarray, *, scale: float) -> tuple[Any, Any]:
    """The slope is (1 - t)·σ(z) - t·σ(-z), over a common denominator."""
    z = z.astype(np.result_type(z, t, 0.0), copy=False)
    e, positive = np.exp(-np.abs(z)), np.greater(z, 0)
    slope = ((1.0 - t) * np.where(positive, 1.0, e) - t * np.where(positive, e, 1.0)) / (1.0 + e)
    return np.add.reduce(_bce_with_logits.forward(z, t), None) * scale, scale * slope


_bce_with_logits_and_slope = Op(
    "bce_with_logits_and_slope",
    _bce_with_logits_and_slope_forward,
    vjp={
        "z": lambda g, y, z, scale: over_outputs(
            g, lambda of_loss: of_loss * y[1], lambda of_slope: of_slope * (scale * (sigmoid(z) * sigmoid(-z)))
        ),
        "t": lambda g, z, scale: over_outputs(
            g, lambda of_loss: of_loss * (-scale * z), lambda of_slope: -scale * of_slope
        ),
    },
    kernels={"y": (kernels.bce_with_logits_and_slope, 0)},
    formula="L = scale·Σ bce_with_logits(z, t),  L' = ∂L/∂z,  z̄ = L̄·L' + L̄'·scale·σ(z)·σ(-z),  t̄ = -scale·(L̄·z + L̄')",
)


def bce_with_logits(logits: Any, target: Any, reduction: str = "mean") -> Any:
    """Binary cross-entropy -t·log σ(z) - (1 - t)·log σ(-z) in nats, of logits z with targets t in [0, 1].

    Raises:
        ValueError: two shapes, or an unknown reduction.

    Example:
        >>> import minigrad as mg
        >>> loss = mg.bce_with_logits(mg.Tensor([0.0, 1000.0]), mg.Tensor([1.0, 1.0]))  # (log 2 + 0)/2
        >>> round(loss.item(), 12)
        0.34657359028
    """
    _same_shape("bce_with_logits", logits, target)
    if raw(target).dtype == np.float32 and raw(logits).dtype == np.float64:
        target = cast(target, dtype=np.dtype(np.float64))  # or the rule would round 1 - t to float32
    return _reduced(_bce_with_logits, _bce_with_logits_and_slope, logits, target, reduction)


def _exponentials(z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of z with the largest subtracted: where the label is, z there, exp z, and both exp z there and Σ exp z minus 1.

    If the label's is the largest, the last two are 0 and the sum of the others, with all digits.
    """
    z = z.astype(np.result_type(z, 0.0), copy=False)
    shifted = z - np.max(z, axis=-1, keepdims=True, initial=-np.inf)
    at = np.equal(np.arange(z.shape[-1]), labels[..., None])
    picked = np.max(np.where(at, shifted, -np.inf), axis=-1, keepdims=True, initial=-np.inf)
    e, less = np.exp(shifted), np.expm1(picked)
    return at, picked, e, less, np.sum(np.where(at, less, e), axis=-1, keepdims=True)


def _cross_entropy_forward(z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """log Σ exp z - z[label]."""
    _, picked, _, _, rest = _exponentials(z, labels)
    return np.squeeze(np.log1p(rest) - picked, -1)


def _cross_entropy_vjp(g: Any, z: Any, labels: Any) -> Any:
    """Where a confident prediction is right, p - 1 would cancel: the label's entry is minus the sum of the others."""
    at = equal(np.arange(raw(z).shape[-1]), expand_dims(labels, -1))
    others = where(at, 0.0, softmax(z, -1))
    return expand_dims(g, -1) * where(at, -sum_(others, -1, keepdims=True), others)


_cross_entropy = Op(
    "cross_entropy",
    _cross_entropy_forward,
    vjp={"z": _cross_entropy_vjp},
    kernels={"y": (kernels.cross_entropy, 0), "z": (kernels.cross_entropy_vjp, 0)},
    formula="y = log Σ exp z - z[label],  z̄ = ȳ·(softmax z - 1 at the label)",
)


def _cross_entropy_and_slope_forward(z: np.ndarray, labels: np.ndarray, *, scale: float) -> tuple[Any, Any]:
    """The slope at the label is minus the sum of the others, (Σ exp z - exp z)/Σ exp z."""
    at, picked, e, less, rest = _exponentials(z, labels)
    slope = np.where(at, less - rest, e) / (1.0 + rest)
    return np.add.reduce(np.log1p(rest) - picked, None) * scale, scale * slope


def _cross_entropy_and_slope_vjp(g: Any, y: Any, z: Any, scale: float) -> Any:
    last = raw(z).ndim - 1
    return over_outputs(
        g, lambda of_loss: of_loss * y[1], lambda of_slope: softmax_vjp(scale * of_slope, softmax(z, last), last)
    )


_cross_entropy_and_slope = Op(
    "cross_entropy_and_slope",
    _cross_entropy_and_slope_forward,
    vjp={"z": _cross_entropy_and_slope_vjp},
    kernels={"y": (kernels.cross_entropy_and_slope, 0)},
    formula="L = scale·Σ cross_entropy(z, labels),  L' = ∂L/∂z,  z̄ = L̄·L' + scale·(softmax's rule for L̄')",
)


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
    return _reduced(_cross_entropy, _cross_entropy_and_slope, logits, labels, reduction)


def _gaussian_kl_forward(m: np.ndarray, v: np.ndarray) -> np.ndarray:
    """With the Taylor series of eᵛ - 1 - v where that cancels."""
    dtype = np.result_type(m, v)
    m, v = np.positive(m, dtype=dtype), np.positive(v, dtype=dtype)
    near = np.abs(v) < 0.5
    small = np.where(near, v, 0)
    series = small * (1 / math.factorial(17))
    for k in range(16, 1, -1):
        series = (series + 1 / math.factorial(k)) * small
    return (m * m + np.where(near, series * small, np.expm1(v) - v)) * 0.5


_gaussian_kl = Op(
    "gaussian_kl",
    _gaussian_kl_forward,
    vjp={"m": lambda g, m: g * m, "v": lambda g, v: g * (expm1(v) * 0.5)},
    kernels={"y": (kernels.gaussian_kl, 0)},
    kind="elementwise",
    formula="y = (m² + eᵛ - 1 - v)/2,  m̄ = ȳ·m,  v̄ = ȳ·(eᵛ - 1)/2",
)


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
    return _gaussian_kl(mean, log_variance)


__all__ = ["bce_with_logits", "cross_entropy", "gaussian_kl", "mse"]
