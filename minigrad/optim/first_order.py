"""Optimisers of first order: SGD with momentum, and Adam.

All that an optimiser remembers (moments, the number of steps, the learning rate) is tensors in the tree `state`, and a
step is operations alone: one that computes the new values of all parameters, then `assign` for each. So a tape of a
step can be replayed, a compiled step freezes nothing, and `state` is saved and loaded like a module. Scalars are
computed in float64, where 1 - βᵗ keeps its digits, and rounded to the dtype of each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.arrays import describe
from minigrad.core.adjoint import assign
from minigrad.core.op import Op
from minigrad.kernels import optimisers as kernels
from minigrad.tensor import Tensor

__all__ = ["SGD", "Adam", "Optimizer", "parameters_of"]


def parameters_of(params: Any) -> dict[str, Tensor]:
    """The parameters of a module, or all leaves of a tree (a dict, a list, ...), by name.

    Raises:
        TypeError: a leaf that is no tensor.
        ValueError: no leaves at all, or one that does not require a gradient or is the result of an operation.
    """
    if hasattr(params, "parameters"):
        found = params.parameters()
    else:
        found = dict(trees.named_leaves([params] if isinstance(params, Tensor) else params))
    if not found:
        raise ValueError(
            f"{type(params).__name__} holds no parameters: give a module, or a dict or list of tensors with "
            "requires_grad=True"
        )
    for name, p in found.items():
        if not isinstance(p, Tensor):
            raise TypeError(f"parameter {name} is {type(p).__name__} {p.shape}, not a Tensor with requires_grad=True")
        if not p.is_leaf:
            raise ValueError(f"parameter {name} is the result of an operation, {p.node!r}: only leaves can be trained")
        if not p.requires_grad:
            raise ValueError(
                f"parameter {name} does not require a gradient: leave it out (module.parameters() has those that do), "
                "or make it with requires_grad=True"
            )
    return found


class Optimizer:
    """Base of optimisers: holds `parameters`, a dict, and `state`, a tree of tensors; a subclass defines `_operation`.

    Args:
        params: a module, or a tree of tensors that require a gradient.
        lr: the learning rate, positive.
    """

    def __init__(self, params: Any, lr: float):
        self.parameters = parameters_of(params)
        if not (0 < lr < math.inf):
            raise ValueError(f"{type(self).__name__}: the learning rate is a positive number, not {lr}")
        self.state: dict[str, Any] = {"learning_rate": Tensor(lr, np.float64)}
        self.moments: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.parameters)} parameters, lr={self.learning_rate.item():g})"

    @property
    def learning_rate(self) -> Tensor:
        """The learning rate, float64 (): part of the state. Set it to a number ≥ 0, as a schedule does.

        Raises:
            ValueError: set to a negative or non-finite number.

        Example:
            >>> import minigrad as mg
            >>> optimizer = mg.optim.SGD([mg.Tensor(1.0, requires_grad=True)], lr=0.1)
            >>> optimizer.learning_rate = 0.05
            >>> optimizer
            SGD(1 parameters, lr=0.05)
        """
        return self.state["learning_rate"]

    @learning_rate.setter
    def learning_rate(self, lr: float) -> None:
        lr = float(lr)
        if not (0 <= lr < math.inf):
            raise ValueError(f"{type(self).__name__}: a learning rate is a number ≥ 0, not {lr}")
        self.learning_rate.assign(lr)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.parameters.values():
            p.zero_grad()

    def step(self) -> None:
        """Change every parameter that has a gradient; the others, and what is remembered of them, stay as they are.

        Raises:
            RuntimeError: no parameter has a gradient.
        """
        by_dtype: dict[np.dtype[Any], dict[str, Tensor]] = {}
        for name, p in self.parameters.items():
            if p.grad is not None:
                by_dtype.setdefault(p.dtype, {})[name] = p
        if not by_dtype:
            raise RuntimeError(f"{type(self).__name__}: no parameter has a gradient: call backward() before step()")
        operation = self._operation()
        for params in by_dtype.values():
            moments = [self.state[moment][name] for moment in self.moments for name in params]
            new = operation(*params.values(), *[p.grad for p in params.values()], *moments)
            # not Tensor.assign, which would check again what the operation has checked: shapes and dtypes
            for tensor, value in zip([*params.values(), *moments], new, strict=True):
                tensor.become_leaf(assign(tensor, value).array, tensor.requires_grad)

    def _operation(self) -> Callable[..., tuple[Tensor, ...]]:
        """What this step computes: from all p, all g and all of each moment to all p and all of each moment, new."""
        raise NotImplementedError(f"{type(self).__name__} does not define _operation")

    def _remember(self, *moments: str) -> None:
        """From now on a step changes these, too: in `state` each is a tensor for every parameter, at first 0."""
        for moment in moments:
            self.state[moment] = {name: Tensor(np.zeros(p.shape, p.dtype)) for name, p in self.parameters.items()}
        self.moments = moments


def _for_each(
    update: Callable[..., tuple[np.ndarray, ...]], kinds: int, arrays: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """What update(p, g, ...) makes of each parameter; in arrays and results all of a kind come before the next kind.

    Raises:
        ValueError: what belongs to a parameter has not its shape and dtype.
    """
    count, new = len(arrays) // kinds, []
    for i in range(count):
        of_one = arrays[i::count]
        if len({(x.shape, x.dtype) for x in of_one}) > 1:
            raise ValueError(f"expected one shape and dtype for all of parameter {i}, got {describe(of_one)}")
        new.append(update(*of_one))
    return tuple(x for kind in zip(*new, strict=True) for x in kind)


def _sgd_forward(rate: np.ndarray, *arrays: np.ndarray, weight_decay: float) -> tuple[np.ndarray, ...]:
    def update(p: np.ndarray, g: np.ndarray) -> tuple[np.ndarray]:
        return (p - rate.astype(p.dtype) * (g + weight_decay * p if weight_decay else g),)

    return _for_each(update, 2, arrays)


def _momentum_forward(
    rate: np.ndarray, *arrays: np.ndarray, momentum: float, nesterov: bool, weight_decay: float
) -> tuple[np.ndarray, ...]:
    def update(p: np.ndarray, g: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        g = g + weight_decay * p if weight_decay else g
        v = momentum * v + g
        return p - rate.astype(p.dtype) * (g + momentum * v if nesterov else v), v

    return _for_each(update, 3, arrays)


_sgd = Op(
    "sgd",
    _sgd_forward,
    kernels={"y": (kernels.sgd, 0)},
    formula="of each (p, g):  p' = p - rate·(g + λ·p)",
)
_momentum = Op(
    "momentum",
    _momentum_forward,
    kernels={"y": (kernels.momentum, 0)},
    formula="of each (p, g, v):  v' = μ·v + g + λ·p,  p' = p - rate·v', or with Nesterov p - rate·(g + λ·p + μ·v')",
)


class SGD(Optimizer):
    """Gradient descent, with momentum: v ← μ·v + g,  p ← p - lr·v.

    With Nesterov's momentum p ← p - lr·(g + μ·v) (Sutskever et al. 2013, eqs. 3-4, with the learning rate outside of
    v). Weight decay adds λ·p to g, the gradient of the lecture's λ/2·Σp².

    Args:
        params: a module, or a tree of tensors that require a gradient.
        lr: the learning rate, positive.
        momentum: μ, in [0, 1).
        nesterov: whether the momentum is Nesterov's; needs μ > 0.
        weight_decay: λ ≥ 0.

    Raises:
        ValueError: a number outside its range; no parameters, or one that does not require a gradient.

    Example:
        >>> import minigrad as mg
        >>> p = mg.Tensor([1.0], requires_grad=True)
        >>> optimizer = mg.optim.SGD([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.data
        array([0.5])
    """

    def __init__(
        self, params: Any, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ):
        super().__init__(params, lr)
        if not 0 <= momentum < 1:
            raise ValueError(f"SGD: momentum lies in [0, 1), not {momentum}")
        if nesterov and momentum == 0:
            raise ValueError("SGD: nesterov=True needs a momentum above 0, 0.9 say")
        _check_weight_decay(self, weight_decay)
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        if momentum:
            self._remember("momentum")

    def _operation(self) -> Callable[..., tuple[Tensor, ...]]:
        if not self.momentum:
            return partial(_sgd, self.learning_rate, weight_decay=self.weight_decay)
        return partial(
            _momentum,
            self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


def _adam_forward(
    rate: np.ndarray,
    step: np.ndarray,
    *arrays: np.ndarray,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[np.ndarray, ...]:
    sizes = kernels.adam_sizes(rate[()], step[()], betas=betas, eps=eps, weight_decay=weight_decay)
    beta1, beta2 = betas

    def update(p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, ...]:
        size, floor, shrink = (s.astype(p.dtype) for s in sizes)
        m = beta1 * m + (1.0 - beta1) * g
        v = beta2 * v + (1.0 - beta2) * np.square(g)
        return shrink * p - size * m / (np.sqrt(v) + floor), m, v

    return _for_each(update, 4, arrays)


_adam = Op(
    "adam",
    _adam_forward,
    kernels={"y": (kernels.adam, 0)},
    formula="of each (p, g, m, v):  m' = β₁·m + (1 - β₁)·g,  v' = β₂·v + (1 - β₂)·g²,  "
    "p' = (1 - lr·λ)·p - lr·m̂'/(√v̂' + ε)",
)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with the decoupled weight decay of Loshchilov and Hutter (2019).

    m ← β₁·m + (1 - β₁)·g,  v ← β₂·v + (1 - β₂)·g²,  p ← (1 - lr·λ)·p - lr·m̂/(√v̂ + ε), where m̂ = m/(1 - β₁ᵗ) and
    v̂ = v/(1 - β₂ᵗ). It is computed as p - α·m/(√v + ε·√(1 - β₂ᵗ)), α = lr·√(1 - β₂ᵗ)/(1 - β₁ᵗ), which is the same
    (end of their section 2). One count of steps t serves all parameters.

    Args:
        params: a module, or a tree of tensors that require a gradient.
        lr: the learning rate, positive.
        betas: β₁ and β₂, each in [0, 1).
        eps: ε, positive.
        weight_decay: λ ≥ 0.

    Raises:
        ValueError: a number outside its range; no parameters, or one that does not require a gradient.

    Example:
        >>> import minigrad as mg
        >>> p = mg.Tensor([1.0, -1.0], requires_grad=True)
        >>> optimizer = mg.optim.Adam([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.data.round(6)
        array([ 0.75, -0.75])
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"Adam: betas lie in [0, 1), not {betas}")
        if not 0 < eps < math.inf:
            raise ValueError(f"Adam: eps is a positive number, not {eps}")
        _check_weight_decay(self, weight_decay)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.state["step"] = Tensor(0.0, np.float64)
        self._remember("first_moment", "second_moment")

    def _operation(self) -> Callable[..., tuple[Tensor, ...]]:
        step = self.state["step"].assign(self.state["step"] + 1.0)
        return partial(
            _adam,
            self.learning_rate,
            step,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )


def _check_weight_decay(optimizer: Optimizer, weight_decay: float) -> None:
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"{type(optimizer).__name__}: weight_decay is a number ≥ 0, not {weight_decay}")
