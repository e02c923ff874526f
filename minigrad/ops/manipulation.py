"""Shapes and places: operations that move elements, copy them or leave them out, but never compute with them.

There are few primitives, all of them linear; most public functions are a reshape, a permutation of axes or a gather.
They turn negative axes and lengths of -1 into what they mean, so that the primitives see non-negative ones only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from operator import index as as_int
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.typing import DTypeLike

from minigrad.arrays import check_dtype
from minigrad.core.adjoint import broadcast_to as _broadcast_to
from minigrad.core.adjoint import cast
from minigrad.core.op import Op
from minigrad.core.value import raw
from minigrad.ops.indexing import getitem, operand, setitem, take

Ints = int | Sequence[int]


def _ints(x: Any) -> tuple[int, ...]:
    """One integer or several as a tuple."""
    if type(x) is not tuple:
        try:
            return (as_int(x),)
        except TypeError:
            pass
    return tuple(map(as_int, x))


_reshape = Op(
    "reshape",
    lambda x, *, shape: x.reshape(shape),
    vjp={"x": lambda g, like_x: _reshape(g, shape=like_x.shape)},
    kind="linear",
    formula="y = x in another shape,  x̄ = ȳ in x's",
)


def reshape(x: Any, shape: Ints) -> Any:
    """The elements of x, in the order of rows, in another shape; one length may be -1, for what is left.

    Raises:
        ValueError: a shape for another number of elements.

    Example:
        >>> import minigrad as mg
        >>> mg.reshape(mg.Tensor([1.0, 2.0, 3.0, 4.0]), (2, -1)).data
        array([[1., 2.],
               [3., 4.]])
    """
    new = _ints(shape)
    old = raw(x).shape
    size, known = prod(old), prod(n for n in new if n != -1)
    if known and new.count(-1) == 1:
        new = tuple(size // known if n == -1 else n for n in new)
    if min(new, default=0) < 0 or prod(new) != size:
        raise ValueError(f"reshape: shape {old} has {size} elements and can't take the shape {_ints(shape)}")
    return _reshape(operand(x), shape=new)


_permute_dims = Op(
    "permute_dims",
    lambda x, *, axes: x.transpose(axes),
    vjp={"x": lambda g, axes: _permute_dims(g, axes=tuple(sorted(range(len(axes)), key=axes.__getitem__)))},
    kind="linear",
    formula="y = x with its axes in another order,  x̄ = ȳ with them back in x's",
)


def permute_dims(x: Any, axes: Sequence[int] | None = None) -> Any:
    """x with its axes in another order (None: reversed).

    Raises:
        ValueError: axes that are not each axis of x once.

    Example:
        >>> import minigrad as mg
        >>> mg.permute_dims(mg.zeros((2, 3, 4)), (2, 0, 1)).shape
        (4, 2, 3)
    """
    shape = raw(x).shape
    ndim = len(shape)
    order = tuple(range(ndim))[::-1] if axes is None else normalize_axis_tuple(axes, ndim, "permute_dims")
    if len(order) != ndim:
        raise ValueError(f"permute_dims: shape {shape} has {ndim} axes, got an order of {len(order)}: {order}")
    return _permute_dims(operand(x), axes=order)


def matrix_transpose(x: Any) -> Any:
    """x with its last two axes exchanged.

    Raises:
        ValueError: fewer than two dimensions.
    """
    shape = raw(x).shape
    if len(shape) < 2:
        raise ValueError(f"matrix_transpose: expected at least two dimensions, got shape {shape}")
    return swapaxes(x, -1, -2)


def swapaxes(x: Any, axis1: int, axis2: int) -> Any:
    """x with two axes exchanged.

    Raises:
        ValueError: an axis that x does not have.
    """
    ndim = raw(x).ndim
    order = list(range(ndim))
    i, j = normalize_axis_index(axis1, ndim, "swapaxes"), normalize_axis_index(axis2, ndim, "swapaxes")
    order[i], order[j] = j, i
    return _permute_dims(operand(x), axes=tuple(order))


def moveaxis(x: Any, source: Ints, destination: Ints) -> Any:
    """x with some axes at other places, the rest in their order.

    Raises:
        ValueError: an axis that x does not have, or not as many destinations as sources.

    Example:
        >>> import minigrad as mg
        >>> mg.moveaxis(mg.zeros((2, 3, 4)), 0, -1).shape
        (3, 4, 2)
    """
    ndim = raw(x).ndim
    sources = normalize_axis_tuple(source, ndim, "moveaxis: source")
    places = normalize_axis_tuple(destination, ndim, "moveaxis: destination")
    if len(sources) != len(places):
        raise ValueError(f"moveaxis: got {len(sources)} sources, {sources}, and {len(places)} destinations, {places}")
    order = [i for i in range(ndim) if i not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return _permute_dims(operand(x), axes=tuple(order))


def expand_dims(x: Any, axis: Ints = 0) -> Any:
    """x with new axes of length 1, which stand at `axis` in the result.

    Raises:
        ValueError: an axis that the result does not have, or the same one twice.
    """
    shape = raw(x).shape
    ndim = len(shape) + len(_ints(axis))
    new = normalize_axis_tuple(axis, ndim, "expand_dims")
    lengths = iter(shape)
    return _reshape(operand(x), shape=tuple(1 if i in new else next(lengths) for i in range(ndim)))


def squeeze(x: Any, axis: Ints | None = None) -> Any:
    """x without some axes of length 1 (None: without any such axis).

    Raises:
        ValueError: an axis of another length, or that x does not have.
    """
    shape = raw(x).shape
    if axis is None:
        return _reshape(operand(x), shape=tuple(n for n in shape if n != 1))
    gone = normalize_axis_tuple(axis, len(shape), "squeeze")
    if any(shape[i] != 1 for i in gone):
        raise ValueError(f"squeeze: only axes of length 1 can go, but of shape {shape} the axes {gone} have others")
    return _reshape(operand(x), shape=tuple(n for i, n in enumerate(shape) if i not in gone))


def broadcast_to(x: Any, shape: Ints) -> Any:
    """x copied along new leading axes and along axes of length 1, to a shape. No memory is copied.

    Raises:
        ValueError: a shape to which x does not broadcast.
    """
    old, new = raw(x).shape, _ints(shape)
    if len(old) > len(new) or any(n not in (1, m) for n, m in zip(old[::-1], new[::-1], strict=False)):
        raise ValueError(f"broadcast_to: shape {old} does not broadcast to {new}")
    return _broadcast_to(operand(x), shape=new)


_concat = Op(
    "concat",
    lambda *xs, axis: np.concatenate(xs, axis),
    vjp={
        "xs": lambda g, like_xs, axis: _split(
            g, axis=axis, at=tuple(accumulate(like.shape[axis] for like in like_xs[:-1]))
        )
    },
    kind="linear",
    formula="y = the xs one after the other along axis,  each x̄ = its piece of ȳ",
)


def _split_vjp(g: Any, like_x: Any, axis: int, at: tuple[int, ...]) -> Any:
    """The cotangents one after the other, zeros for pieces that nobody used."""
    ends = pairwise((0, *at, like_x.shape[axis]))
    shapes = [(*like_x.shape[:axis], end - start, *like_x.shape[axis + 1 :]) for start, end in ends]
    pieces = [np.zeros(s, like_x.dtype) if c is None else c for c, s in zip(g, shapes, strict=True)]
    return _concat(*pieces, axis=axis)


_split = Op(
    "split",
    lambda x, *, axis, at: tuple(np.split(x, at, axis)),
    vjp={"x": _split_vjp},
    kind="linear",
    formula="the ys = x cut along axis,  x̄ = the ȳs one after the other",
)


def concat(xs: Sequence[Any], axis: int | None = 0) -> Any:
    """Arrays one after the other along an axis that they have (None: flattened).

    Raises:
        ValueError: no arrays, arrays without dimensions, or shapes that differ in another axis.

    Example:
        >>> import minigrad as mg
        >>> mg.concat([mg.Tensor([1.0, 2.0]), mg.Tensor([3.0])]).data
        array([1., 2., 3.])
    """
    xs = [reshape(x, -1) for x in xs] if axis is None else list(xs)
    axis = axis or 0
    shapes = [raw(x).shape for x in xs]
    if not shapes:
        raise ValueError("concat: expected at least one array, got none")
    if not shapes[0]:
        raise ValueError("concat: arrays without dimensions have no axis; use stack")
    axis = normalize_axis_index(axis, len(shapes[0]), "concat")
    if len({(*shape[:axis], None, *shape[axis + 1 :]) for shape in shapes}) > 1:
        raise ValueError(f"concat: shapes may differ along axis {axis} only, got {', '.join(map(str, shapes))}")
    return _concat(*map(operand, xs), axis=axis)


def stack(xs: Sequence[Any], axis: int = 0) -> Any:
    """Arrays of one shape, one after the other along a new axis.

    Raises:
        ValueError: no arrays, or shapes that differ.

    Example:
        >>> import minigrad as mg
        >>> mg.stack([mg.Tensor([1.0, 2.0]), mg.Tensor([3.0, 4.0])], axis=1).data
        array([[1., 3.],
               [2., 4.]])
    """
    xs = list(xs)
    shapes = {raw(x).shape for x in xs}
    if len(shapes) != 1:
        raise ValueError(f"stack: expected arrays of one shape, got {', '.join(map(str, sorted(shapes))) or 'none'}")
    axis = normalize_axis_index(axis, len(shapes.pop()) + 1, "stack")
    return _concat(*(expand_dims(x, axis) for x in xs), axis=axis)


def unstack(x: Any, axis: int = 0) -> tuple[Any, ...]:
    """The slices of x along an axis, without it: what `stack` puts together.

    Raises:
        ValueError: an axis that x does not have.
    """
    shape = raw(x).shape
    axis = normalize_axis_index(axis, len(shape), "unstack")
    return tuple(getitem(x, (slice(None),) * axis + (i,)) for i in range(shape[axis]))


def split(x: Any, indices_or_sections: Ints, axis: int = 0) -> tuple[Any, ...]:
    """x cut along an axis: into so many equal pieces, or before the given indices.

    Raises:
        ValueError: a length that the number of pieces does not divide, indices that decrease, or an axis that x lacks.

    Example:
        >>> import minigrad as mg
        >>> [piece.data for piece in mg.split(mg.Tensor([1.0, 2.0, 3.0]), [1])]
        [array([1.]), array([2., 3.])]
    """
    shape = raw(x).shape
    axis = normalize_axis_index(axis, len(shape), "split")
    length = shape[axis]
    if isinstance(indices_or_sections, Sequence | np.ndarray):
        at = tuple(min(max(i + length if i < 0 else i, 0), length) for i in _ints(indices_or_sections))
        if any(i > j for i, j in pairwise(at)):
            raise ValueError(f"split: indices must not decrease, got {indices_or_sections} for a length of {length}")
    else:
        sections = as_int(indices_or_sections)
        if sections < 1 or length % sections:
            raise ValueError(
                f"split: axis {axis} of shape {shape} does not divide into {sections} pieces; give indices"
            )
        at = tuple(length // sections * i for i in range(1, sections))
    pieces: tuple[Any, ...] = _split(operand(x), axis=axis, at=at)
    return pieces


_flip = Op(
    "flip",
    lambda x, *, axis: np.flip(x, axis),
    vjp={"x": lambda g, axis: _flip(g, axis=axis)},
    kind="linear",
    formula="y = x backwards along axis,  x̄ = ȳ backwards",
)


def flip(x: Any, axis: Ints | None = None) -> Any:
    """x backwards along axes (None: along all of them).

    Raises:
        ValueError: an axis that x does not have.
    """
    ndim = raw(x).ndim
    return _flip(operand(x), axis=tuple(range(ndim)) if axis is None else normalize_axis_tuple(axis, ndim, "flip"))


_roll = Op(
    "roll",
    lambda x, *, shift, axis: np.roll(x, shift, axis),
    vjp={"x": lambda g, shift, axis: _roll(g, shift=tuple(-s for s in shift), axis=axis)},
    kind="linear",
    formula="y = x moved cyclically along axis,  x̄ = ȳ moved back",
)


def roll(x: Any, shift: Ints, axis: Ints | None = None) -> Any:
    """x moved by `shift` along axes; what leaves at the end comes back in front. None: the flattened x, in x's shape.

    Raises:
        ValueError: an axis that x does not have, or not as many shifts as axes.

    Example:
        >>> import minigrad as mg
        >>> mg.roll(mg.Tensor([1.0, 2.0, 3.0]), 1).data
        array([3., 1., 2.])
    """
    shape = raw(x).shape
    if axis is None:
        return _reshape(roll(reshape(x, -1), shift, 0), shape=shape)
    axes, shifts = _ints(axis), _ints(shift)
    if 1 not in (len(axes), len(shifts)) and len(axes) != len(shifts):
        raise ValueError(f"roll: got {len(shifts)} shifts, {shifts}, and {len(axes)} axes, {axes}")
    shifts = shifts * len(axes) if len(shifts) == 1 else shifts
    axes = tuple(normalize_axis_index(a, len(shape), "roll") for a in (axes * len(shifts) if len(axes) == 1 else axes))
    return _roll(operand(x), shift=shifts, axis=axes)


def tile(x: Any, repetitions: Ints) -> Any:
    """x as a tile, laid out so many times along each axis; missing axes, of x or of the repetitions, come in front.

    Example:
        >>> import minigrad as mg
        >>> mg.tile(mg.Tensor([1.0, 2.0]), (2, 2)).data
        array([[1., 2., 1., 2.],
               [1., 2., 1., 2.]])
    """
    times, shape = _ints(repetitions), raw(x).shape
    times, shape = (1,) * (len(shape) - len(times)) + times, (1,) * (len(times) - len(shape)) + shape
    if min(times, default=0) < 0:
        raise ValueError(f"tile: expected repetitions of at least 0, got {times}")
    laid = tuple(n for pair in zip(times, shape, strict=True) for n in pair)
    x = _reshape(operand(x), shape=tuple(n for length in shape for n in (1, length)))
    return _reshape(_broadcast_to(x, shape=laid), shape=tuple(t * n for t, n in zip(times, shape, strict=True)))


def repeat(x: Any, repeats: Any, axis: int | None = None) -> Any:
    """Each element (row, ...) of x so many times in a row along an axis (None: of the flattened x).

    Args:
        repeats: one number, or one for each element along the axis.

    Raises:
        ValueError: an axis that x does not have, negative repeats, or not one for each element.

    Example:
        >>> import minigrad as mg
        >>> mg.repeat(mg.Tensor([1.0, 2.0]), 2).data
        array([1., 1., 2., 2.])
    """
    if axis is None:
        return repeat(reshape(x, -1), repeats, 0)
    shape, counts = raw(x).shape, raw(repeats)
    axis = normalize_axis_index(axis, len(shape), "repeat")
    if counts.ndim:
        if counts.shape not in ((1,), (shape[axis],)):
            raise ValueError(f"repeat: expected {shape[axis]} repeats for axis {axis} of {shape}, got {counts.shape}")
        return take(x, np.repeat(np.arange(shape[axis]), counts), axis)
    times = as_int(counts)
    if times < 0:
        raise ValueError(f"repeat: expected at least 0 repeats, got {times}")
    before, after = shape[: axis + 1], shape[axis + 1 :]
    x = _broadcast_to(_reshape(operand(x), shape=(*before, 1, *after)), shape=(*before, times, *after))
    return _reshape(x, shape=(*shape[:axis], shape[axis] * times, *after))


def pad(x: Any, pad_width: Any, mode: str = "constant", constant_values: float = 0.0) -> Any:
    """x with so many elements more before and after it along each axis.

    Args:
        pad_width: one number, a pair (before, after), or a pair for each axis.
        mode: 'constant', or one of NumPy's modes that copy elements: 'edge', 'reflect', 'symmetric', 'wrap'.
        constant_values: the number that 'constant' puts there; it has no gradient.

    Raises:
        ValueError: negative widths, widths that don't fit the axes, or an unknown mode.

    Example:
        >>> import minigrad as mg
        >>> mg.pad(mg.Tensor([1.0, 2.0]), (1, 2)).data
        array([0., 1., 2., 0., 0.])
    """
    array = raw(x)
    if mode not in (modes := ("constant", "edge", "reflect", "symmetric", "wrap")):
        raise ValueError(f"pad: mode is one of {', '.join(modes)}, not {mode!r}")
    try:
        widths = [tuple(map(as_int, pair)) for pair in np.broadcast_to(np.asarray(pad_width), (array.ndim, 2))]
    except (ValueError, TypeError):
        widths = [(-1, -1)]
    if any(n < 0 for pair in widths for n in pair):
        raise ValueError(
            f"pad: expected widths of at least 0, one (before, after) for each of the {array.ndim} axes "
            f"of shape {array.shape}, got {pad_width}"
        )
    if mode == "constant":
        whole = tuple(a + n + b for (a, b), n in zip(widths, array.shape, strict=True))
        inside = tuple(slice(a, a + n) for (a, _), n in zip(widths, array.shape, strict=True))
        return setitem(np.full(whole, constant_values, array.dtype), inside, x)
    x = _reshape(operand(x), shape=array.shape)  # should there be nothing to pad, the result is still not x itself
    for axis, (pair, n) in enumerate(zip(widths, array.shape, strict=True)):
        if any(pair):
            x = take(x, np.pad(np.arange(n), pair, mode), axis)  # type: ignore[call-overload]
    return x


def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    """The diagonals of the matrices that two axes span, along a new last axis.

    Args:
        offset: which diagonal: 0 the main one, 1 the one above it, -1 the one below.

    Raises:
        ValueError: fewer than two dimensions, axes that x does not have, or the same axis twice.

    Example:
        >>> import minigrad as mg
        >>> mg.diagonal(mg.Tensor([[1.0, 2.0], [3.0, 4.0]])).data
        array([1., 4.])
    """
    shape = raw(x).shape
    if len(shape) < 2:
        raise ValueError(f"diagonal: expected at least two dimensions, got shape {shape}")
    i, j = normalize_axis_tuple((axis1, axis2), len(shape), "diagonal: axes")
    above, below = max(offset, 0), max(-offset, 0)
    steps = np.arange(max(min(shape[i] - below, shape[j] - above), 0))
    return getitem(moveaxis(x, (i, j), (-2, -1)), (..., steps + below, steps + above))


_tril = Op(
    "tril",
    lambda x, *, k: np.tril(x, k),
    vjp={"x": lambda g, k: _tril(g, k=k)},
    kind="linear",
    formula="y = x, but 0 above diagonal k,  x̄ = ȳ, but 0 there",
)

_triu = Op(
    "triu",
    lambda x, *, k: np.triu(x, k),
    vjp={"x": lambda g, k: _triu(g, k=k)},
    kind="linear",
    formula="y = x, but 0 below diagonal k,  x̄ = ȳ, but 0 there",
)


def tril(x: Any, k: int = 0) -> Any:
    """The matrices in the last two axes of x with zeros above diagonal k (0: the main one, 1: the one above it).

    Raises:
        ValueError: fewer than two dimensions.
    """
    return _tril(_matrices("tril", x), k=as_int(k))


def triu(x: Any, k: int = 0) -> Any:
    """The matrices in the last two axes of x with zeros below diagonal k (0: the main one, 1: the one above it).

    Raises:
        ValueError: fewer than two dimensions.
    """
    return _triu(_matrices("triu", x), k=as_int(k))


def _matrices(op: str, x: Any) -> Any:
    if raw(x).ndim < 2:
        raise ValueError(f"{op}: expected at least two dimensions, got shape {raw(x).shape}")
    return operand(x)


_discrete = Op("astype", lambda x, *, dtype: x.astype(dtype), formula="y = x as integers or booleans; no gradient")


def astype(x: Any, dtype: DTypeLike) -> Any:
    """x in another dtype. Between floats the gradient is cast back; integers and booleans have none.

    Raises:
        TypeError: a dtype that minigrad does not compute with.

    Example:
        >>> import minigrad as mg
        >>> mg.astype(mg.Tensor([1.5, -1.5]), "int64").data
        array([ 1, -1])
    """
    dtype = np.dtype(dtype).newbyteorder("=")
    check_dtype(dtype)
    return (cast if dtype.kind == "f" else _discrete)(operand(x), dtype=dtype)


__all__ = [
    "astype",
    "broadcast_to",
    "concat",
    "diagonal",
    "expand_dims",
    "flip",
    "matrix_transpose",
    "moveaxis",
    "pad",
    "permute_dims",
    "repeat",
    "reshape",
    "roll",
    "split",
    "squeeze",
    "stack",
    "swapaxes",
    "tile",
    "tril",
    "triu",
    "unstack",
]
