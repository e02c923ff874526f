"""Strides: how a view lies in the memory of what it is a view of, in elements, and how a view of a view does.

x of shape (2, 3), in C order:   strides (3, 1), offset 0
x.T                              strides (1, 3), offset 0       shape (3, 2)
x[:, ::-1]                       strides (3, -1), offset 2
x[0] copied to four rows         strides (0, 1), offset 0       shape (4, 3)
"""

from __future__ import annotations

import math

import numpy as np

Shape = tuple[int, ...]
Layout = tuple[Shape, Shape, int]  # shape, strides, offset


def contiguous_strides(shape: Shape) -> Shape:
    """The strides, in elements, of an array in C order; 0 along axes of length 1, as in all views of a graph.

    Example:
        >>> contiguous_strides((2, 1, 3))
        (3, 0, 1)
    """
    return tuple(0 if n == 1 else math.prod(shape[i + 1 :]) for i, n in enumerate(shape))


def strided(array: np.ndarray, shape: Shape, strides: Shape, offset: int) -> np.ndarray:
    """A view of an array in C order, its strides and offset counted in elements."""
    if 0 in shape:
        return np.zeros(shape, array.dtype)
    size = array.itemsize
    return np.ndarray(shape, array.dtype, array, offset * size, tuple(size * s for s in strides))


def composed(view: tuple[Shape, Shape, int], of: tuple[Shape, Shape, int]) -> tuple[Shape, int] | None:
    """Strides and offset of a view of what is itself a view (each: shape, strides, offset); None if there are none.

    A step along an axis of the outer view is a step along axes of the inner one, if none of them runs over its end.

    Example: the columns, backwards, of a matrix whose rows are all the same.
        >>> composed(((3, 2), (-1, 3), 2), of=((2, 3), (0, 1), 0))
        ((-1, 0), 2)
    """
    shape, strides, offset = view
    axes: list[tuple[int, int]] = []  # of the inner view, merged where one continues the other
    for n, s in zip(of[0], of[1], strict=True):
        if axes and axes[-1][1] == n * s:
            axes[-1] = (axes[-1][0] * n, s)
        elif n > 1:
            axes.append((n, s))
    sizes = [math.prod(n for n, _ in axes[i + 1 :]) for i in range(len(axes))]
    first, new_offset = [], of[2]
    for size, (_, s) in zip(sizes, axes, strict=True):
        first.append(offset // size)
        offset %= size
        new_offset += first[-1] * s
    low, high, new_strides = first[:], first[:], []
    for n, step in zip(shape, strides, strict=True):
        rest, stride = abs(step), 0
        for k, size in enumerate(sizes if n > 1 else ()):
            along = rest // size * (1 if step > 0 else -1)
            rest %= size
            stride += along * axes[k][1]
            low[k] += min(along, 0) * (n - 1)
            high[k] += max(along, 0) * (n - 1)
        new_strides.append(stride)
    inside = all(a >= 0 and b < n for a, b, (n, _) in zip(low, high, axes, strict=True))
    return (tuple(new_strides), new_offset) if inside else None
