"""Convolution and pooling of images as layers: images are (batch, channels, height, width).

Sizes, strides and the like are one number, or a pair for height and width; layers keep them as pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from minigrad import random
from minigrad.nn import initialisers
from minigrad.nn.initialisers import Initialiser
from minigrad.nn.module import Module
from minigrad.nn.normalisation import _check
from minigrad.ops import convolution
from minigrad.ops.convolution import lengths, pair, window_of
from minigrad.ops.manipulation import reshape
from minigrad.random import Generator
from minigrad.tensor import Tensor

__all__ = ["AvgPool2d", "Conv2d", "ConvTranspose2d", "MaxPool2d", "StochasticPool2d"]

USUAL = {"stride": (1, 1), "padding": (0, 0), "output_padding": (0, 0), "dilation": (1, 1)}


def _shown(value: Sequence[int]) -> str:
    """A pair as one would write it: one number if both are the same."""
    return str(value[0] if value[0] == value[1] else tuple(value))


class _Convolution(Module):
    """What both directions share: options, `weight`, whose first axes the layer says, and `bias`."""

    transposed: ClassVar[bool]
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        c_in: int,
        c_out: int,
        size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        initialiser: Initialiser = initialisers.he_uniform,
        dtype: DTypeLike = np.float32,
        generator: Generator | None = None,
    ):
        name = type(self).__name__
        if c_in < 1 or c_out < 1 or groups < 1 or c_in % groups or c_out % groups:
            raise ValueError(
                f"{name}: expected channels that groups divides, and at least 1 of each, got {c_in} input and "
                f"{c_out} output channels and groups={groups}"
            )
        rows, columns = pair(name, "size", size, 1)
        self.options = {
            "stride": pair(name, "stride", stride, 1),
            "padding": pair(name, "padding", padding, 0),
            "dilation": pair(name, "dilation", dilation, 1),
        }
        self.groups = groups
        first, second = (c_in, c_out // groups) if self.transposed else (c_out, c_in // groups)
        area = rows * columns
        start = initialiser(
            (first, second, rows, columns), c_in // groups * area, c_out // groups * area, dtype, generator
        )
        self.weight = Tensor(start.data, requires_grad=True)
        self.bias = Tensor(np.zeros(c_out, dtype), requires_grad=True) if bias else None

    @property
    def channels(self) -> tuple[int, int]:
        """How many channels images have before and after."""
        first, second = self.weight.shape[0], self.weight.shape[1] * self.groups
        return (first, second) if self.transposed else (second, first)

    def __repr__(self) -> str:
        options = [f"{k}={_shown(v)}" for k, v in self.options.items() if v != USUAL[k]]
        options += [f"groups={self.groups}"] * (self.groups != 1) + ["bias=False"] * (self.bias is None)
        c_in, c_out = self.channels
        return f"{type(self).__name__}({', '.join([f'{c_in}, {c_out}, {_shown(self.weight.shape[2:])}', *options])})"

    def __call__(self, x: Any) -> Tensor:
        """The convolution of x with the weight, plus the bias of each channel."""
        c_in, c_out = self.channels
        _check(self, x, x.ndim == 4 and x.shape[1] == c_in, f"(batch, {c_in}, height, width)", self.weight.dtype)
        convolve = convolution.conv_transpose2d if self.transposed else convolution.conv2d
        y = convolve(x, self.weight, groups=self.groups, **self.options)
        return y if self.bias is None else y + reshape(self.bias, (c_out, 1, 1))


class Conv2d(_Convolution):
    """`minigrad.conv2d` with trained filters, plus a bias for each channel.

    Args:
        c_in, c_out: numbers of channels, at least 1, that groups divides.
        size: rows and columns of the filters.
        stride, padding, dilation, groups: as of `minigrad.conv2d`.
        bias: whether there is one, which starts at 0.
        initialiser: of the filters, from `nn.initialisers`; the default is made for rectifiers. A unit sees
            c_in/groups·rows·columns inputs.
        dtype: float32 or float64.
        generator: where the filters are drawn from; None: the generator of the context.

    `weight` is (c_out, c_in/groups, rows, columns), `bias` (c_out,) or None.

    Raises:
        ValueError: a number out of its range; or in a call, images of another shape than (batch, c_in, height, width),
            or too small.
        TypeError: in a call, an input of another dtype than the parameters.

    Example:
        >>> import minigrad as mg
        >>> layer = mg.nn.Conv2d(3, 8, 3, padding=1)
        >>> layer
        Conv2d(3, 8, 3, padding=1)
        >>> layer(mg.zeros((2, 3, 28, 28), dtype="float32")).shape
        (2, 8, 28, 28)
    """

    transposed = False


class ConvTranspose2d(_Convolution):
    """`minigrad.conv_transpose2d` with trained filters, plus a bias for each channel: with a stride, images grow.

    Args:
        output_padding: rows and columns more at the end, smaller than the stride.
        c_in, c_out, size, stride, padding, dilation, groups, bias, initialiser, dtype, generator: as of `Conv2d`.

    `weight` is (c_in, c_out/groups, rows, columns), `bias` (c_out,) or None.

    Raises:
        ValueError, TypeError: as for `Conv2d`.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)(mg.zeros((2, 8, 14, 14), dtype="float32")).shape
        (2, 3, 28, 28)
    """

    transposed = True

    def __init__(
        self,
        c_in: int,
        c_out: int,
        size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        **rest: Any,
    ):
        output_padding = pair(type(self).__name__, "output_padding", output_padding, 0)
        super().__init__(c_in, c_out, size, stride, padding, dilation, groups, bias, **rest)
        self.options["output_padding"] = output_padding


class _Pool(Module):
    """A layer that applies a pooling."""

    function: ClassVar[Callable[..., Any]]

    def __init__(self, size: Any, stride: Any = None, padding: Any = 0):
        name = type(self).__name__
        self.size = pair(name, "size", size, 1)
        self.stride = self.size if stride is None else pair(name, "stride", stride, 1)
        self.padding = pair(name, "padding", padding, 0)

    def __repr__(self) -> str:
        stride = f", stride={_shown(self.stride)}" * (self.stride != self.size)
        padding = f", padding={_shown(self.padding)}" * any(self.padding)
        return f"{type(self).__name__}({_shown(self.size)}{stride}{padding})"

    def __call__(self, x: Any) -> Any:
        """One number for each window of x."""
        return type(self).function(x, self.size, self.stride, self.padding)


class MaxPool2d(_Pool):
    """`minigrad.max_pool` as a layer.

    Args:
        size, stride, padding: as of the function.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.MaxPool2d(2)(mg.zeros((2, 8, 28, 28))).shape
        (2, 8, 14, 14)
    """

    function = staticmethod(convolution.max_pool)


class AvgPool2d(_Pool):
    """`minigrad.avg_pool` as a layer.

    Args:
        size, stride, padding: as of the function.

    Example:
        >>> import minigrad as mg
        >>> mg.nn.AvgPool2d(3, stride=2, padding=1)(mg.zeros((2, 8, 28, 28))).shape
        (2, 8, 14, 14)
    """

    function = staticmethod(convolution.avg_pool)


class StochasticPool2d(_Pool):
    """`minigrad.stochastic_pool` as a layer: in training it draws a pixel, after `eval()` it takes the weighted mean.

    It regularises like dropout, without a rate to choose (Zeiler and Fergus 2013). Inputs are not to be negative.

    Args:
        size, stride, padding: as of the function.

    Example:
        >>> import minigrad as mg
        >>> pool = mg.nn.StochasticPool2d(2)
        >>> x = mg.Tensor([[1.0, 3.0], [0.0, 0.0]])
        >>> pool(x).item() in (1.0, 3.0)
        True
        >>> pool.eval()(x).item()
        2.5
    """

    def __call__(self, x: Any) -> Any:
        """A pixel of each window in training, else its mean weighted with the probabilities."""
        uniforms = None
        if self.training:
            window = window_of("stochastic_pool", x, self.size, self.stride, self.padding)
            uniforms = random.uniform((*x.shape[:-2], *lengths(x.shape, **window)), dtype=x.dtype)
        return convolution.stochastic_pool(x, self.size, self.stride, self.padding, uniforms)
