"""Indexing: gather (getitem, take), scatter (its adjoint) and assignment to a copy (setitem); sorting is a gather too.

An index is split in two: its arrays become inputs of the operation, so that a tape can be run again with other ones;
what is left is the `template`, a hashable tuple of integers, slices, None, Ellipsis, and `ARRAY` where an array goes.
Gather and scatter are each other's VJP. The cotangents of all the parts that were taken from one array meet in a single
`scatter`, so that a loop over n slices costs n slices and not n whole arrays, also where that backward is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from math import prod
from operator import index as as_int
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from minigrad.core.adjoint import add, broadcast_to, sum_to
from minigrad.core.op import Op, Part
from minigrad.core.value import Value, raw
from minigrad.kernels import scatter as kernels

ARRAY = "array"


class Slice(NamedTuple):
    """A slice that can be hashed (slices can't before Python 3.12)."""

    start: int | None = None
    stop: int | None = None
    step: int | None = None


Template = tuple[Any, ...]
ALL = Slice()


def operand(x: Any) -> Any:
    """A value as it is, anything else as an array."""
    return x if isinstance(x, Value) else np.asarray(x)


def _index_array(op: str, x: Any) -> Any:
    """Integers or booleans to index with: a value as it is, anything else as an array."""
    array = raw(x)
    if array.size == 0 and not isinstance(x, (Value, np.ndarray)):
        array = array.astype(np.intp)
    if array.dtype.kind not in "iub":
        raise IndexError(
            f"{op}: expected an index of integers, slices, ..., None, or arrays of integers or booleans; "
            f"got {array.dtype} of shape {array.shape}"
        )
    return x if isinstance(x, Value) else array


def _read(index: Any) -> tuple[Template, list[Any]]:
    """The template and the arrays of an index, as they stand between brackets."""
    template: list[Any] = []
    arrays: list[Any] = []
    for item in index if type(index) is tuple else (index,):
        if type(item) is int or item is None or item is Ellipsis:
            template.append(item)
        elif isinstance(item, slice):
            template.append(Slice(*(n if n is None else as_int(n) for n in (item.start, item.stop, item.step))))
        elif isinstance(item, np.integer):
            template.append(int(item))
        else:
            arrays.append(_index_array("getitem", item))
            template.append(ARRAY)
    return tuple(template), arrays


@lru_cache(maxsize=4096)
def _prepared(template: Template) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """The index that NumPy takes, and where the arrays go in it."""
    items = tuple(slice(*item) if type(item) is Slice else item for item in template)
    return items, tuple(i for i, item in enumerate(template) if item == ARRAY)


def _key(template: Template, arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
    items, spots = _prepared(template)
    if not spots:
        return items
    key = list(items)
    for spot, array in zip(spots, arrays, strict=True):
        key[spot] = array
    return tuple(key)


def _may_repeat(arrays: Sequence[Any]) -> bool:
    """Whether an index can hit an element twice. It asks for shapes and dtypes alone, so a tape may rely on it."""
    return any(raw(a).size > 1 and raw(a).dtype != bool for a in arrays)


def _numbered(shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape that holds the position of each element."""
    return np.arange(prod(shape)).reshape(shape)


def _merge(parts: list[Part], node: Any) -> Any:
    """The cotangents of the parts of one array as the cotangent of the array."""
    gs = [part.g for part in parts]
    arrays = [array for part in parts for array in part.key[1]]
    templates = tuple(part.key[0] for part in parts)
    return _scatter(*gs, *arrays, shape=node.shape, dtype=node.dtype, templates=templates)


_getitem = Op(
    "getitem",
    lambda x, *arrays, template: x[_key(template, arrays)],
    vjp={"x": lambda g, arrays, template: Part(g, (template, arrays), _merge)},
    kind="linear",
    formula="y = x[index],  x̄ = zeros, with ȳ added at index",
)


def _grouped(xs: Sequence[Any], templates: Sequence[Template]) -> Iterator[tuple[Template, tuple[Any, ...]]]:
    """The templates of a scatter with their arrays; its inputs are a cotangent for each template, then these arrays."""
    arrays = iter(xs[len(templates) :])
    for template in templates:
        yield template, tuple(islice(arrays, len(_prepared(template)[1])))


def _scatter_forward(
    *xs: np.ndarray, shape: tuple[int, ...], dtype: np.dtype[Any], templates: tuple[Template, ...]
) -> np.ndarray:
    y = np.zeros(shape, dtype)
    numbered = None
    for g, (template, arrays) in zip(xs, _grouped(xs, templates), strict=False):
        key = _key(template, arrays)
        if _may_repeat(arrays):  # by position, since NumPy's add.at is several times faster in one dimension
            numbered = _numbered(shape) if numbered is None else numbered
            np.add.at(y.reshape(-1), numbered[key].reshape(-1), g.astype(dtype, copy=False).reshape(-1))
        else:
            y[key] += g
    return y


def _scatter_vjp(g: Any, xs: Any, templates: tuple[Template, ...]) -> list[Any]:
    # it asks for all of xs, though of the cotangents among them it needs nothing, to find the index arrays behind them
    taken = [_getitem(g, *arrays, template=template) for template, arrays in _grouped(xs, templates)]
    return taken + [None] * (len(xs) - len(taken))


_scatter = Op(
    "scatter",
    _scatter_forward,
    vjp={"xs": _scatter_vjp},
    kernels={"y": (kernels.scatter, 8)},
    kind="linear",
    formula="y = zeros, with each x added at its index;  x̄ = ȳ[index]",
    doc="Add arrays into zeros, each at its index. The index arrays, which are constants, come after them.",
)


def getitem(x: Any, index: Any) -> Any:
    """x[index] as in NumPy: integers, slices, ..., None, arrays of integers, boolean masks, and all of them together.

    Where an index takes an element several times, the gradients add up.

    Raises:
        IndexError: an index out of bounds, too many of them, or one that is neither integer nor boolean.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([1.0, 2.0, 3.0], requires_grad=True)
        >>> x[[0, 2, 2]].sum().backward()
        >>> x.grad.data
        array([1., 0., 2.])
    """
    template, arrays = _read(index)
    return _getitem(operand(x), *arrays, template=template)


def _refuse_shape(op: str, shape: tuple[int, ...], selected: tuple[int, ...]) -> None:
    """ValueError unless a value of this shape broadcasts to what the index selects."""
    if len(shape) > len(selected) or any(n not in (1, m) for n, m in zip(shape[::-1], selected[::-1], strict=False)):
        raise ValueError(f"{op}: the index selects shape {selected}; the value, {shape}, does not broadcast to it")


def _setitem_forward(x: np.ndarray, value: Any, *arrays: np.ndarray, template: Template) -> np.ndarray:
    key = _key(template, arrays)
    y = np.array(x, order="C")
    if not _may_repeat(arrays):
        if np.ndim(value):
            _refuse_shape("setitem", value.shape, x[key].shape)
        y[key] = value
        return y
    spots = _numbered(x.shape)[key]
    _refuse_shape("setitem", np.shape(value), spots.shape)
    y.reshape(-1)[spots.reshape(-1)] = np.broadcast_to(value, spots.shape).reshape(-1)  # in order: the last one stays
    return y


def _overwritten_forward(*arrays: np.ndarray, shape: tuple[int, ...], template: Template) -> np.ndarray:
    spots = _numbered(shape)[_key(template, arrays)]
    order = np.arange(spots.size)
    last = np.empty(prod(shape), np.intp)
    last[spots.reshape(-1)] = order
    lost: np.ndarray = last[spots.reshape(-1)] != order
    return lost.reshape(spots.shape)


_overwritten = Op(
    "overwritten",
    _overwritten_forward,
    formula="y = whether a later item of the index hits the same element of an array of that shape",
)


def _setitem_value_vjp(g: Any, like_x: Any, like_value: Any, arrays: Any, template: Template) -> Any:
    taken = _getitem(g, *arrays, template=template)
    if _may_repeat(arrays):
        taken = _setitem(taken, 0.0, _overwritten(*arrays, shape=like_x.shape, template=template), template=(ARRAY,))
    return taken if taken.shape == like_value.shape else sum_to(taken, shape=like_value.shape)


_setitem = Op(
    "setitem",
    _setitem_forward,
    vjp={
        "x": lambda g, arrays, template: _setitem(g, 0.0, *arrays, template=template),
        "value": _setitem_value_vjp,
    },
    kind="linear",
    formula="y = x, but value at index;  x̄ = ȳ, but 0 at index,  the value's cotangent = ȳ[index]",
)

_RANK = {"b": 0, "u": 1, "i": 1, "f": 2}


def _refuse_dtype(op: str, x: Any, value: Any) -> None:
    """TypeError where putting a value into x would truncate it."""
    into, kind = raw(x).dtype, raw(value).dtype
    if _RANK.get(kind.kind, 3) > _RANK.get(into.kind, 3):
        raise TypeError(f"{op}: a value of dtype {kind} would be truncated in an array of {into}: use astype on either")


def setitem(x: Any, index: Any, value: Any) -> Any:
    """A copy of x with `value` at `index`: what `x[index] = value` does in NumPy. Gradients go to x and to the value.

    The value broadcasts. Where an index hits an element several times the last value stays, in the order of rows.

    Raises:
        IndexError: as for `getitem`.
        ValueError: the value does not broadcast to what the index selects.
        TypeError: the value would be truncated, as a float in an array of integers.

    Example:
        >>> import minigrad as mg
        >>> mg.setitem(mg.Tensor([1.0, 2.0, 3.0]), slice(1, None), 0.0).data
        array([1., 0., 0.])
    """
    template, arrays = _read(index)
    _refuse_dtype("setitem", x, value)
    return _setitem(operand(x), operand(value), *arrays, template=template)


def scatter_add(x: Any, index: Any, value: Any) -> Any:
    """A copy of x with `value` added at `index`, as often as the index hits an element: NumPy's `add.at`.

    Raises:
        IndexError, ValueError, TypeError: as for `setitem`.

    Example:
        >>> import minigrad as mg
        >>> mg.scatter_add(mg.Tensor([0.0, 0.0]), [1, 1, 0], mg.Tensor([1.0, 2.0, 4.0])).data
        array([4., 3.])
    """
    template, arrays = _read(index)
    _refuse_dtype("scatter_add", x, value)
    shape, dtype = raw(x).shape, raw(x).dtype
    selected = np.broadcast_to(False, shape)[_key(template, [raw(a) for a in arrays])].shape
    _refuse_shape("scatter_add", raw(value).shape, selected)
    value = broadcast_to(operand(value), shape=selected)
    return add(operand(x), _scatter(value, *arrays, shape=shape, dtype=dtype, templates=(template,)))


def take(x: Any, indices: Any, axis: int | None = None) -> Any:
    """The elements (rows, ...) of x at `indices` along an axis; axis may be left out if x has one dimension.

    Args:
        indices: integers of any shape, which stands in the result where the axis was; negative ones count from the end.

    Raises:
        IndexError: an index out of bounds, or not an integer.
        ValueError: no axis for an array that is not one-dimensional, or an axis that it does not have.

    Example:
        >>> import minigrad as mg
        >>> mg.take(mg.Tensor([[1.0, 2.0, 3.0]]), [2, 0], axis=1).data
        array([[3., 1.]])
    """
    shape = raw(x).shape
    if axis is None and len(shape) != 1:
        raise ValueError(f"take: an array of shape {shape} needs an axis; for the flattened one, reshape(x, -1) first")
    axis = normalize_axis_index(0 if axis is None else axis, len(shape), "take")
    return _getitem(operand(x), _integers("take", indices), template=(ALL,) * axis + (ARRAY,))


def _integers(op: str, x: Any) -> Any:
    array = _index_array(op, x)
    if raw(array).dtype == bool:
        raise IndexError(f"{op}: expected integers, got booleans of shape {raw(array).shape}; use x[mask]")
    return array


def take_along_axis(x: Any, indices: Any, axis: int = -1) -> Any:
    """For each line of x along an axis the elements at that line's own indices, such as those that `argsort` gives.

    Args:
        indices: integers, as many dimensions as x; the other axes broadcast against those of x.

    Raises:
        IndexError: an index out of bounds, or not an integer.
        ValueError: another number of dimensions than x has, or an axis that it does not have.

    Example:
        >>> import minigrad as mg
        >>> mg.take_along_axis(mg.Tensor([[1.0, 2.0], [3.0, 4.0]]), [[1], [0]], axis=1).data
        array([[2.],
               [3.]])
    """
    shape = raw(x).shape
    indices = _integers("take_along_axis", indices)
    ndim = len(shape)
    if raw(indices).ndim != ndim:
        raise ValueError(
            f"take_along_axis: expected indices of {ndim} dimensions for shape {shape}, got {raw(indices).shape}"
        )
    axis = normalize_axis_index(axis, ndim, "take_along_axis")
    lines = [np.arange(n).reshape(n, *(1,) * (ndim - 1 - i)) for i, n in enumerate(shape)]
    return _getitem(operand(x), *lines[:axis], indices, *lines[axis + 1 :], template=(ARRAY,) * ndim)


def _argsort_forward(x: np.ndarray, *, axis: int, descending: bool) -> np.ndarray:
    order = np.argsort(np.flip(x, axis) if descending else x, axis=axis, kind="stable")
    return x.shape[axis] - 1 - np.flip(order, axis) if descending else order


_argsort = Op("argsort", _argsort_forward, formula="y = the indices that sort x along axis")


def argsort(x: Any, axis: int = -1, *, descending: bool = False) -> Any:
    """The indices that sort x along an axis; equal elements keep their order. No gradient.

    Raises:
        ValueError: an axis that x does not have.

    Example:
        >>> import minigrad as mg
        >>> mg.argsort(mg.Tensor([3.0, 1.0, 2.0])).data
        array([1, 2, 0])
    """
    return _argsort(operand(x), axis=normalize_axis_index(axis, raw(x).ndim, "argsort"), descending=descending)


def sort(x: Any, axis: int = -1, *, descending: bool = False) -> Any:
    """x sorted along an axis. A gradient goes to where each element came from; equal ones keep their order.

    Raises:
        ValueError: an axis that x does not have.

    Example:
        >>> import minigrad as mg
        >>> mg.sort(mg.Tensor([3.0, 1.0, 2.0]), descending=True).data
        array([3., 2., 1.])
    """
    axis = normalize_axis_index(axis, raw(x).ndim, "sort")
    return take_along_axis(x, _argsort(operand(x), axis=axis, descending=descending), axis)


__all__ = ["argsort", "getitem", "scatter_add", "setitem", "sort", "take", "take_along_axis"]
