"""Layers: the affine one, dropout, activations, and Sequential, which puts them in a row.

Samples are rows: a layer maps arrays (..., n_in) to arrays (..., n_out), whatever the leading axes are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from textwrap import indent
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from minigrad import random
from minigrad.nn import initialisers
from minigrad.nn.initialisers import Initialiser
from minigrad.nn.module import Module
from minigrad.ops import activation
from minigrad.ops.contraction import linear
from minigrad.ops.elementwise import less, where
from minigrad.random import Generator
from minigrad.tensor import Tensor

__all__ = [
    "ELU",
    "GELU",
    "Dropout",
    "LeakyReLU",
    "Linear",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
]


class Linear(Module):
    """y = x W + b, for x (..., n_in) and y (..., n_out).

    Args:
        n_in, n_out: numbers of features, at least 1.
        bias: whether there is a b, which starts at 0.
        initialiser: of W, from `nn.initialisers`; the default is that of the lecture.
        dtype: of W and b: float32 or float64.
        generator: where W is drawn from; None: the generator of the context.

    `weight` is (n_in, n_out), `bias` (n_out,) or None.

    Raises:
        ValueError: a number of features below 1; or in a call, another last axis than n_in.
        TypeError: in a call, an input of another dtype than the parameters.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.Linear(3, 2)(mg.zeros((5, 3), dtype="float32")).shape
        (5, 2)
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        bias: bool = True,
        *,
        initialiser: Initialiser = initialisers.uniform,
        dtype: DTypeLike = np.float32,
        generator: Generator | None = None,
    ):
        if n_in < 1 or n_out < 1:
            raise ValueError(f"Linear: expected at least 1 input and 1 output, got {n_in} and {n_out}")
        self.weight = Tensor(initialiser((n_in, n_out), n_in, n_out, dtype, generator).data, requires_grad=True)
        self.bias = Tensor(np.zeros(n_out, dtype), requires_grad=True) if bias else None

    def __repr__(self) -> str:
        n_in, n_out = self.weight.shape
        return f"Linear({n_in}, {n_out}{'' if self.bias is not None else ', bias=False'})"

    def __call__(self, x: Any) -> Tensor:
        """x W + b."""
        n_in = self.weight.shape[0]
        if x.ndim < 1 or x.shape[-1] != n_in:
            raise ValueError(f"{self}: expected an input of shape (..., {n_in}), got {x.dtype} {x.shape}")
        if x.dtype != self.weight.dtype:
            raise TypeError(
                f"{self} has {self.weight.dtype} parameters, but its input is {x.dtype} {x.shape}: convert the input "
                f"with x.astype('{self.weight.dtype}'), or the whole module with module.astype('{x.dtype}')"
            )
        return linear(x, self.weight, self.bias)


class Sequential(Module):
    """Layers in a row, each fed with the output of the one before.

    Args:
        layers: modules, or any functions of one tensor.

    An error in a layer says which one it was.

    Example:
        >>> import minigrad as mg
        >>> net = mg.nn.Sequential(mg.nn.Linear(3, 2), mg.nn.Tanh())
        >>> net
        Sequential(
          0: Linear(3, 2),
          1: Tanh(),
        )
        >>> net(mg.zeros((5, 3), dtype="float32")).shape
        (5, 2)
    """

    def __init__(self, *layers: Callable[[Any], Any]):
        self.layers = list(layers)

    def __repr__(self) -> str:
        lines = "".join(indent(f"{i}: {layer!r},\n", "  ") for i, layer in enumerate(self.layers))
        return f"Sequential(\n{lines})" if self.layers else "Sequential()"

    def __call__(self, x: Any) -> Any:
        """The output of the last layer."""
        for i, layer in enumerate(self.layers):
            try:
                x = layer(x)
            except Exception as error:
                error.add_note(f"in layer {i} of Sequential: {layer!r}")
                raise
        return x

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, i: int) -> Callable[[Any], Any]:
        return self.layers[i]

    def __iter__(self) -> Iterator[Callable[[Any], Any]]:
        return iter(self.layers)


class Dropout(Module):
    """In training, each entry becomes 0 with probability `rate`, and the others grow by 1/(1 - rate).

    So the mean stays what it is (Srivastava et al. 2014, section 10), and after `eval()` nothing is done.

    Args:
        rate: in [0, 1).

    Raises:
        ValueError: a rate outside [0, 1).

    Example:
        >>> import minigrad as mg
        >>> drop = mg.nn.Dropout(0.5)
        >>> set(drop(mg.ones(100)).data.tolist()) == {0.0, 2.0}
        True
        >>> drop.eval()(mg.ones(3)).data
        array([1., 1., 1.])
    """

    def __init__(self, rate: float):
        if not 0 <= rate < 1:
            raise ValueError(f"Dropout: the rate lies in [0, 1), not {rate}")
        self.rate = rate

    def __repr__(self) -> str:
        return f"Dropout({self.rate})"

    def __call__(self, x: Any) -> Any:
        """x with some entries dropped, or x itself outside of training."""
        if not self.training or self.rate == 0:
            return x
        kept = less(random.uniform(x.shape, dtype=np.float32), 1 - self.rate)
        return where(kept, x * (1 / (1 - self.rate)), 0.0)


class _Activation(Module):
    """A layer that applies one elementwise function."""

    function: ClassVar[Callable[..., Any]]

    def __call__(self, x: Any) -> Any:
        """The function of x, elementwise."""
        return type(self).function(x)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Tanh(_Activation):
    """`minigrad.tanh` as a layer.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.Tanh()(mg.Tensor([-1.0, 0.0])).data.round(3)
        array([-0.762,  0.   ])
    """

    function = staticmethod(activation.tanh)


class ReLU(_Activation):
    """`minigrad.relu` as a layer.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.ReLU()(mg.Tensor([-1.0, 2.0])).data.round(3)
        array([0., 2.])
    """

    function = staticmethod(activation.relu)


class Sigmoid(_Activation):
    """`minigrad.sigmoid` as a layer.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.Sigmoid()(mg.Tensor([0.0, 1.0])).data.round(3)
        array([0.5  , 0.731])
    """

    function = staticmethod(activation.sigmoid)


class Softplus(_Activation):
    """`minigrad.softplus` as a layer.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.Softplus()(mg.Tensor([0.0, 1.0])).data.round(3)
        array([0.693, 1.313])
    """

    function = staticmethod(activation.softplus)


class GELU(_Activation):
    """`minigrad.gelu` as a layer.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.GELU()(mg.Tensor([-1.0, 1.0])).data.round(3)
        array([-0.159,  0.841])
    """

    function = staticmethod(activation.gelu)


class SiLU(_Activation):
    """`minigrad.silu` as a layer.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.SiLU()(mg.Tensor([-1.0, 1.0])).data.round(3)
        array([-0.269,  0.731])
    """

    function = staticmethod(activation.silu)


class LeakyReLU(Module):
    """`minigrad.leaky_relu` as a layer.

    Args:
        slope: of the negative side.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.LeakyReLU()(mg.Tensor([-1.0, 2.0])).data.round(3)
        array([-0.01,  2.  ])
    """

    def __init__(self, slope: float = 0.01):
        self.slope = slope

    def __repr__(self) -> str:
        return f"LeakyReLU({self.slope})"

    def __call__(self, x: Any) -> Any:
        """x where x > 0, else slope·x."""
        return activation.leaky_relu(x, self.slope)


class ELU(Module):
    """`minigrad.elu` as a layer.

    Args:
        alpha: minus the limit of the negative side.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.ELU()(mg.Tensor([-1.0, 2.0])).data.round(3)
        array([-0.632,  2.   ])
    """

    def __init__(self, alpha: float = 1.0):
        self.alpha = alpha

    def __repr__(self) -> str:
        return f"ELU({self.alpha})"

    def __call__(self, x: Any) -> Any:
        """x where x > 0, else alpha·(exp(x) - 1)."""
        return activation.elu(x, self.alpha)
