"""Convolution and pooling of images (..., channels, height, width), after PyTorch's definitions.

All of them look at an image through windows: `_windows` shows these as axes of their own, and `_fold`, its adjoint,
adds windows back into an image. Convolution is then a matrix product. It is linear in the image and in the weights, and
each of the primitives `conv2d`, `conv2d_input` and `conv2d_weight` takes two of image, weights and output and makes the
third; so they are each other's VJPs. The primitives take pairs (vertical, horizontal); the public functions also take
one number for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from operator import index as as_int
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from minigrad.core.op import Op
from minigrad.core.value import raw
from minigrad.kernels import convolution as kernels
from minigrad.ops.activation import relu
from minigrad.ops.elementwise import equal, square, where
from minigrad.ops.indexing import getitem, operand
from minigrad.ops.manipulation import reshape

Pair = tuple[int, int]


def lengths(shape: Sequence[int], size: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)) -> Pair:
    """How many windows of so many rows and columns fit below and beside each other."""
    down, across = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(shape[-2:], size, stride, padding, dilation, strict=True)
    )
    return down, across


def _padded(x: np.ndarray, padding: Pair, value: Any = 0) -> np.ndarray:
    """An image with rows and columns of a value on its four sides."""
    sides = [(0, 0)] * (x.ndim - 2) + [(p, p) for p in padding]
    return np.pad(x, sides, constant_values=value) if any(padding) else x


def _windows(x: np.ndarray, size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> np.ndarray:
    """A view (..., down, across, rows, columns) of all windows of an image (..., h, w)."""
    spans = [d * (k - 1) + 1 for k, d in zip(size, dilation, strict=True)]
    views = sliding_window_view(x, spans, (-2, -1))
    return views[..., :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


def _fold(windows: np.ndarray, shape: Sequence[int], stride: Pair, padding: Pair, dilation: Pair) -> np.ndarray:
    """An image of this shape (h, w) to which all windows are added where they lie: the adjoint of `_windows`."""
    *leading, down, across, rows, columns = windows.shape
    h, w = shape
    y = np.zeros((*leading, h + 2 * padding[0], w + 2 * padding[1]), windows.dtype)
    for i in range(rows):
        for j in range(columns):
            top, left = i * dilation[0], j * dilation[1]
            below, beside = top + (down - 1) * stride[0] + 1, left + (across - 1) * stride[1] + 1
            y[..., top : below : stride[0], left : beside : stride[1]] += windows[..., i, j]
    return np.array(y[..., padding[0] : padding[0] + h, padding[1] : padding[1] + w], order="C")


# Convolution


def _columns(x: np.ndarray, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> np.ndarray:
    """The windows of images (n, c, h, w) as columns of matrices (n, groups, c/groups·rows·columns, down·across)."""
    windows = _windows(_padded(x, padding), size, stride, dilation)
    n, c, down, across, rows, columns = windows.shape
    height = c // groups * rows * columns
    return windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, groups, height, down * across)


def _grouped(z: np.ndarray, groups: int) -> np.ndarray:
    """Outputs (n, out, down, across) as matrices (n, groups, out/groups, down·across)."""
    n, out, down, across = z.shape
    return z.reshape(n, groups, out // groups, down * across)


def _conv2d_forward(
    x: np.ndarray, w: np.ndarray, *, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> np.ndarray:
    size = w.shape[2:]
    columns = _columns(x, size, stride, padding, dilation, groups)
    y = np.matmul(w.reshape(groups, w.shape[0] // groups, columns.shape[2]), columns)
    return y.reshape(len(x), w.shape[0], *lengths(x.shape, size, stride, padding, dilation))


def _conv2d_input_forward(
    z: np.ndarray, w: np.ndarray, *, shape: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> np.ndarray:
    out, c, rows, columns = w.shape
    matrices = w.reshape(groups, out // groups, c * rows * columns).swapaxes(1, 2)
    windows = np.matmul(matrices, _grouped(z, groups))
    windows = windows.reshape(len(z), groups * c, rows, columns, *z.shape[2:]).transpose(0, 1, 4, 5, 2, 3)
    return _fold(windows, shape, stride, padding, dilation)


def _conv2d_weight_forward(
    x: np.ndarray, z: np.ndarray, *, size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> np.ndarray:
    columns = _columns(x, size, stride, padding, dilation, groups)
    y = np.matmul(_grouped(z, groups), columns.swapaxes(2, 3)).sum(0)
    return y.reshape(z.shape[1], x.shape[1] // groups, *size)


_conv2d = Op(
    "conv2d",
    _conv2d_forward,
    vjp={
        "x": lambda g, w, like_x, stride, padding, dilation, groups: _conv2d_input(
            g, w, shape=like_x.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        "w": lambda g, x, like_w, stride, padding, dilation, groups: _conv2d_weight(
            x, g, size=like_w.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    },
    kernels={"y": (kernels.conv2d, 1)},
    kind="bilinear",
    formula="y[o] = Σ w[o, c, i, j]·x[c, i + ·, j + ·] over channels and window,  x̄ = conv2d_input(ȳ, w),  "
    "w̄ = conv2d_weight(x, ȳ)",
)

_conv2d_input = Op(
    "conv2d_input",
    _conv2d_input_forward,
    vjp={
        "z": lambda g, w, stride, padding, dilation, groups: _conv2d(
            g, w, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        "w": lambda g, z, like_w, stride, padding, dilation, groups: _conv2d_weight(
            g, z, size=like_w.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    },
    kernels={"y": (kernels.conv2d_input, 1)},
    kind="bilinear",
    formula="y = the adjoint of x ↦ conv2d(x, w), of z,  z̄ = conv2d(ȳ, w),  w̄ = conv2d_weight(ȳ, z)",
)

_conv2d_weight = Op(
    "conv2d_weight",
    _conv2d_weight_forward,
    vjp={
        "x": lambda g, z, like_x, stride, padding, dilation, groups: _conv2d_input(
            z, g, shape=like_x.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
        "z": lambda g, x, stride, padding, dilation, groups: _conv2d(
            x, g, stride=stride, padding=padding, dilation=dilation, groups=groups
        ),
    },
    kernels={"y": (kernels.conv2d_weight, 1)},
    kind="bilinear",
    formula="y = the adjoint of w ↦ conv2d(x, w), of z,  x̄ = conv2d_input(z, ȳ),  z̄ = conv2d(x, ȳ)",
)


def pair(op: str, name: str, value: Any, least: int) -> Pair:
    """One number, or two, as a pair of integers of at least so much."""
    try:
        first, second = (as_int(n) for n in (value if isinstance(value, Sequence) else (value, value)))
    except (TypeError, ValueError):
        raise TypeError(f"{op}: {name} is an integer or a pair of them, got {value!r}") from None
    if min(first, second) < least:
        raise ValueError(f"{op}: {name} is at least {least}, got {value}")
    return first, second


def _refuse_images(op: str, x: np.ndarray, w: np.ndarray, channels: str, groups: Any) -> None:
    """An error unless both have four axes and groups divides their channels; `channels` names the weights' axes."""
    if x.ndim != 4 or w.ndim != 4:
        raise ValueError(
            f"{op}: expected images (n, channels, height, width) and weights ({channels}, rows, columns), "
            f"got shapes {x.shape} and {w.shape}"
        )
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{op}: groups is a positive integer, got {groups!r}")
    if 0 in w.shape:
        raise ValueError(f"{op}: the weights are empty: their shape is {w.shape}")
    if x.shape[1] % groups or w.shape[0] % groups:
        raise ValueError(
            f"{op}: groups={groups} does not divide the {x.shape[1]} channels of the images {x.shape} "
            f"and the first axis of the weights {w.shape}"
        )


def conv2d(x: Any, w: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    """Slide filters over images and take the inner product at each place: cross-correlation, as networks call it.

    Args:
        x: images (n, c, h, w).
        w: filters (out, c/groups, rows, columns). With groups, channels and filters are split in so many parts, and
            each part of the filters sees its own part of the channels.
        stride: how far the filter moves each time.
        padding: how many zeros are put on each side.
        dilation: how far apart the pixels are that neighbouring weights see.

    Returns:
        (n, out, down, across), where down is ⌊(h + 2·padding - dilation·(rows - 1) - 1)/stride⌋ + 1, and across alike.

    Raises:
        ValueError: shapes that don't go together, or a filter larger than the padded image.
        TypeError: a stride, padding or dilation that is neither an integer nor a pair.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([[[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]])
        >>> mg.conv2d(x, mg.Tensor([[[[-1.0, 1.0]]]])).data
        array([[[[1., 1.],
                 [1., 1.]]]])
    """
    x, w = operand(x), operand(w)
    stride, dilation = pair("conv2d", "stride", stride, 1), pair("conv2d", "dilation", dilation, 1)
    padding = pair("conv2d", "padding", padding, 0)
    images, filters = raw(x), raw(w)
    _refuse_images("conv2d", images, filters, "out, channels/groups", groups)
    if filters.shape[1] * groups != images.shape[1]:
        raise ValueError(
            f"conv2d: with groups={groups}, weights {filters.shape} fit images of {filters.shape[1] * groups} "
            f"channels, got images {images.shape}"
        )
    if min(lengths(images.shape, filters.shape[2:], stride, padding, dilation)) < 1:
        raise ValueError(
            f"conv2d: weights {filters.shape} with dilation {dilation} do not fit in images {images.shape} with "
            f"padding {padding}: pad more"
        )
    return _conv2d(x, w, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv_transpose2d(
    x: Any,
    w: Any,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    """The adjoint of `conv2d`, which puts a filter, times the pixel, wherever the image has a pixel.

    Args:
        x: images (n, c, h, w), of the shape that conv2d would return.
        w: filters (c, out/groups, rows, columns), as conv2d would take them.
        stride, padding, dilation, groups: as of conv2d.
        output_padding: how many more rows and columns the result has, at its end: with a stride, images of several
            sizes give one size in conv2d. Smaller than the stride.

    Returns:
        (n, out, H, W), where H is (h - 1)·stride - 2·padding + dilation·(rows - 1) + 1 + output_padding, and W alike.

    Raises:
        ValueError: shapes that don't go together, an output_padding too large, or nothing left within the padding.
        TypeError: a stride, padding or dilation that is neither an integer nor a pair.

    Example:
        >>> import minigrad as mg
        >>> mg.conv_transpose2d(mg.Tensor([[[[1.0, 2.0]]]]), mg.Tensor([[[[1.0, 10.0]]]]), stride=2).data
        array([[[[ 1., 10.,  2., 20.]]]])
    """
    op = "conv_transpose2d"
    x, w = operand(x), operand(w)
    stride, dilation = pair(op, "stride", stride, 1), pair(op, "dilation", dilation, 1)
    padding, extra = pair(op, "padding", padding, 0), pair(op, "output_padding", output_padding, 0)
    images, filters = raw(x), raw(w)
    _refuse_images(op, images, filters, "channels, out/groups", groups)
    if filters.shape[0] != images.shape[1]:
        raise ValueError(
            f"{op}: weights {filters.shape} fit images of {filters.shape[0]} channels, got images {images.shape}"
        )
    if extra[0] >= stride[0] or extra[1] >= stride[1]:
        raise ValueError(f"{op}: output_padding is smaller than the stride {stride}, got {extra}")
    h, width = (
        (n - 1) * s - 2 * p + d * (k - 1) + 1 + e
        for n, s, p, d, k, e in zip(images.shape[2:], stride, padding, dilation, filters.shape[2:], extra, strict=True)
    )
    if min(*images.shape[2:], h, width) < 1:
        raise ValueError(f"{op}: images {images.shape} with padding {padding} would give images of {h} x {width}")
    return _conv2d_input(x, w, shape=(h, width), stride=stride, padding=padding, dilation=dilation, groups=groups)


# Pooling: one number for each window. `max_pool_input` and `stochastic_pool_input` put a number for each window back
# where its pixel was chosen: one operation each, so that a recorded backward is as fast as one on arrays.


def _choices(scores: np.ndarray, shape: tuple[int, ...], stride: Pair, padding: Pair) -> np.ndarray:
    """For each window the first pixel of the largest score, as its position in the flattened images of this shape.

    Args:
        scores: (..., down, across, rows, columns), of the windows of the padded images.
    """
    *leading, down, across, rows, columns = scores.shape
    i, j = np.divmod(scores.reshape(*leading, down, across, rows * columns).argmax(-1), columns)
    # A padding pixel is only chosen where none is better; then it stands for the window's pixel next to it.
    i = (i + np.arange(down)[:, None] * stride[0] - padding[0]).clip(0, shape[-2] - 1)
    j = (j + np.arange(across) * stride[1] - padding[1]).clip(0, shape[-1] - 1)
    plane = np.arange(prod(leading)).reshape(*leading, 1, 1)
    return (plane * shape[-2] + i) * shape[-1] + j


def _argmax_forward(x: np.ndarray, *, size: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    return _choices(_windows(_padded(x, padding, lowest), size, stride), x.shape, stride, padding)


def _draw_forward(x: np.ndarray, u: np.ndarray, *, size: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    windows = _windows(_padded(np.maximum(x, 0), padding), size, stride)
    sums = np.cumsum(windows.reshape(*windows.shape[:-2], prod(size)), axis=-1)
    total = sums[..., -1:]
    # the last pixel that counts, where rounding lifts u·total to the total; the first of all, where the total is 0
    drawn = (sums > u[..., None] * total) | (sums == total) | np.isnan(sums)
    return _choices(drawn.reshape(windows.shape), x.shape, stride, padding)


_pool_argmax = Op("pool_argmax", _argmax_forward, formula="y = where in x each window has its largest pixel")
_pool_draw = Op(
    "pool_draw",
    _draw_forward,
    formula="y = where in x the pixel is that each window's uniform number u draws, with probability x/Σx",
    domain={"u": (0.0, 1.0)},
)


def _put_back(z: np.ndarray, at: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Images of this shape, all zeros, with z added at these positions."""
    y = np.zeros(shape, z.dtype)
    np.add.at(y.reshape(-1), at.reshape(-1), z.reshape(-1))
    return y


_max_pool = Op(
    "max_pool",
    lambda x, *, size, stride, padding: x.reshape(-1)[_argmax_forward(x, size=size, stride=stride, padding=padding)],
    vjp={"x": lambda g, x, size, stride, padding: _max_pool_input(g, x, size=size, stride=stride, padding=padding)},
    kernels={"y": (kernels.max_pool, 1)},
    formula="y = max x over each window,  x̄ = max_pool_input(ȳ, x)",
    undifferentiable="ties: the cotangent goes to the first of the window's largest pixels, row by row",
)

_max_pool_input = Op(
    "max_pool_input",
    lambda z, x, *, size, stride, padding: _put_back(
        z, _argmax_forward(x, size=size, stride=stride, padding=padding), x.shape
    ),
    vjp={
        "z": lambda g, x, size, stride, padding: getitem(
            reshape(g, -1), _pool_argmax(x, size=size, stride=stride, padding=padding)
        )
    },
    kernels={"y": (kernels.max_pool_input, 1)},
    formula="y = zeros, with each z added where in x its window has its largest pixel,  z̄ = ȳ there",
)

_stochastic_pool = Op(
    "stochastic_pool",
    lambda x, u, *, size, stride, padding: x.reshape(-1)[
        _draw_forward(x, u, size=size, stride=stride, padding=padding)
    ],
    vjp={
        "x": lambda g, x, u, size, stride, padding: _stochastic_pool_input(
            g, x, u, size=size, stride=stride, padding=padding
        )
    },
    kernels={"y": (kernels.stochastic_pool, 1)},
    formula="y = the pixel that u draws from each window,  x̄ = stochastic_pool_input(ȳ, x, u)",
    undifferentiable="where another pixel would be drawn; the rule takes the draw as given",
    domain={"u": (0.0, 1.0)},
)

_stochastic_pool_input = Op(
    "stochastic_pool_input",
    lambda z, x, u, *, size, stride, padding: _put_back(
        z, _draw_forward(x, u, size=size, stride=stride, padding=padding), x.shape
    ),
    vjp={
        "z": lambda g, x, u, size, stride, padding: getitem(
            reshape(g, -1), _pool_draw(x, u, size=size, stride=stride, padding=padding)
        )
    },
    kernels={"y": (kernels.stochastic_pool_input, 1)},
    formula="y = zeros, with each z added where in x the pixel is that u draws from its window,  z̄ = ȳ there",
    domain={"u": (0.0, 1.0)},
)

_avg_pool = Op(
    "avg_pool",
    lambda x, *, size, stride, padding: _windows(_padded(x, padding), size, stride).mean((-2, -1)),
    vjp={
        "x": lambda g, like_x, size, stride, padding: _avg_unpool(
            g, shape=like_x.shape[-2:], size=size, stride=stride, padding=padding
        )
    },
    kernels={"y": (kernels.avg_pool, 1)},
    kind="linear",
    formula="y = mean of x over each window,  x̄ = avg_unpool(ȳ)",
)


def _avg_unpool_forward(x: np.ndarray, *, shape: Pair, size: Pair, stride: Pair, padding: Pair) -> np.ndarray:
    shares = np.broadcast_to((x / prod(size))[..., None, None], (*x.shape, *size))
    return _fold(shares, shape, stride, padding, (1, 1))


_avg_unpool = Op(
    "avg_unpool",
    _avg_unpool_forward,
    vjp={
        "x": lambda g, size, stride, padding: _avg_pool(g, size=size, stride=stride, padding=padding),
    },
    kernels={"y": (kernels.avg_unpool, 1)},
    kind="linear",
    formula="y = zeros of that shape, with each x shared out evenly to its window,  x̄ = avg_pool(ȳ)",
)


def window_of(op: str, x: Any, size: Any, stride: Any, padding: Any) -> dict[str, Pair]:
    """The parameters of a pooling, checked."""
    size, shape = pair(op, "size", size, 1), raw(x).shape
    stride = size if stride is None else pair(op, "stride", stride, 1)
    padding = pair(op, "padding", padding, 0)
    if len(shape) < 2:
        raise ValueError(f"{op}: expected images (..., height, width), got shape {shape}")
    if 2 * padding[0] > size[0] or 2 * padding[1] > size[1]:
        raise ValueError(f"{op}: padding is at most half of the window's size {size}, got {padding}")
    if min(shape[-2:]) < 1 or min(lengths(shape, size, stride, padding)) < 1:
        raise ValueError(f"{op}: windows of size {size} do not fit in images {shape} with padding {padding}")
    return {"size": size, "stride": stride, "padding": padding}


def max_pool(x: Any, size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """The largest pixel of each window over the last two axes; of several that tie, the first gets the cotangent.

    Args:
        x: images (..., h, w).
        size: rows and columns of the window.
        stride: how far the window moves each time; None: by its size.
        padding: how many rows and columns of -∞ are put on each side, at most half a window.

    Returns:
        (..., down, across), where down is ⌊(h + 2·padding - rows)/stride⌋ + 1, and across alike.

    Raises:
        ValueError: fewer than two axes, a window larger than the padded image, or too much padding.
        TypeError: a size, stride or padding that is neither an integer nor a pair.

    Example:
        >>> import minigrad as mg
        >>> mg.max_pool(mg.Tensor([[1.0, 2.0, 3.0, 0.0], [4.0, 5.0, 1.0, 2.0]]), 2).data
        array([[5., 3.]])
    """
    x = operand(x)
    return _max_pool(x, **window_of("max_pool", x, size, stride, padding))


def avg_pool(x: Any, size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """The mean of each window over the last two axes; the zeros of the padding count.

    Args, Returns and Raises as for `max_pool`.

    Example:
        >>> import minigrad as mg
        >>> mg.avg_pool(mg.Tensor([[1.0, 2.0, 3.0, 0.0], [4.0, 5.0, 1.0, 2.0]]), 2).data
        array([[3. , 1.5]])
    """
    x = operand(x)
    return _avg_pool(x, **window_of("avg_pool", x, size, stride, padding))


def stochastic_pool(x: Any, size: Any, stride: Any = None, padding: Any = 0, uniforms: Any = None) -> Any:
    """A pixel of each window, drawn with probability proportional to its value (Zeiler and Fergus 2013, eqs. 5 and 6).

    Negative pixels are never drawn, nor is padding; a window without positive ones gives its first pixel.

    Args:
        x: images (..., h, w), not negative, as after a rectifier.
        size, stride, padding: as of `max_pool`.
        uniforms: numbers in [0, 1), one for each window, that draw. None: no draw, but the mean of the window, each
            pixel weighted with its probability (their eq. 8), which is used after training.

    Raises:
        ValueError: as for `max_pool`; or uniforms of another shape than the result has.
        TypeError: as for `max_pool`.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([[1.0, 3.0]])
        >>> mg.stochastic_pool(x, (1, 2), uniforms=mg.Tensor([[0.2]])).data
        array([[1.]])
        >>> mg.stochastic_pool(x, (1, 2)).data
        array([[2.5]])
    """
    x = operand(x)
    window = window_of("stochastic_pool", x, size, stride, padding)
    if uniforms is None:
        x = relu(x)
        mean = _avg_pool(x, **window)
        return _avg_pool(square(x), **window) / where(equal(mean, 0.0), 1.0, mean)
    uniforms = operand(uniforms)
    want = (*raw(x).shape[:-2], *lengths(raw(x).shape, **window))
    if raw(uniforms).shape != want:
        raise ValueError(f"stochastic_pool: expected uniforms of shape {want}, got {raw(uniforms).shape}")
    return _stochastic_pool(x, uniforms, **window)


__all__ = ["avg_pool", "conv2d", "conv_transpose2d", "max_pool", "stochastic_pool"]
