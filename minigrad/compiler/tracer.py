"""Tracers: arrays of which nothing is known but shape and dtype, and which note what NumPy is asked to do with them.

A tracer stands for a node of a graph. NumPy hands its functions over to it by two protocols, one for ufuncs (NEP 13)
and one for the rest (NEP 18), and what it returns is the tracer of a new node:

    e = np.exp(-np.abs(x))                            %1 = absolute(%0)
    np.where(x >= 0, 1.0, e) / (1.0 + e)              %2 = negative(%1)
                                                      %3 = exp(%2)
                                                      %4 = greater_equal(%0, 0.0)
                                                      %5 = where(%4, 1.0, %3)
                                                      %6 = add(%3, 1.0)
                                                      %7 = divide(%5, %6)

Broadcasting becomes views, NumPy's promotion of dtypes becomes casts. What no graph can say (sorting, reading values,
arithmetic of integers) is refused by `Untraceable`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf, prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.lib.mixins import NDArrayOperatorsMixin

from minigrad.arrays import check_dtype, describe
from minigrad.compiler.elementwise import ELEMENTWISE
from minigrad.compiler.graph import Graph

OF_ANY_DTYPE = ("where", "cast", "equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
LOGICAL = ("logical_and", "logical_or", "logical_not")
INITIAL = {"add": 0, "multiply": 1, "maximum": -inf, "minimum": inf}  # what changes no reduction
WHOLE = {np.dtype(np.float32): 1 << 24, np.dtype(np.float64): 1 << 53}  # up to here they have all whole numbers


class Untraceable(Exception):
    """A tracer was asked for what no graph can say."""


class Tracer(NDArrayOperatorsMixin):
    """An array of which nothing is known but shape and dtype: node `number` of a graph.

    Operators and NumPy's functions work on it, and those of an array's methods that are functions of NumPy, too.

    Example:
        >>> graph = Graph()
        >>> x = Tracer(graph, graph.leaf("input", 0, (2, 3), np.float32))
        >>> y = x.sum(axis=1) * 2
        >>> print(graph.dump([y.number]))
        %0 = input(0)  float32 (2, 3)
        %1 = reduce(%0, add, axes (1,))  float32 (2, 1)
        %2 = view(%1, strides (1,), offset 0)  float32 (2,)
        %3 = 2.0  float32
        %5 = multiply(%2, %3)  float32 (2,)
    """

    def __init__(self, graph: Graph, number: int, fresh: bool = False):
        self.graph = graph
        self.number = number
        self.fresh = fresh  # nobody has a view of it, so that it can be changed in place

    shape = property(lambda self: self.graph.nodes[self.number].shape)
    dtype = property(lambda self: self.graph.nodes[self.number].dtype)
    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: prod(self.shape))
    T = property(lambda self: self.transpose())
    mT = property(np.matrix_transpose)

    def __len__(self) -> int:
        return int(self.shape[0])

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise Untraceable("values are not known, and elements are not assigned to")

    __array__ = __bool__ = __float__ = __int__ = __index__ = __setitem__ = _refuse

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        name = ufunc.__name__.removesuffix(" (vectorized)")  # as np.frompyfunc names the functions of ops.special
        if method == "reduce":
            return _reduce(inputs[0], name, out=out, **options)
        dtype = options.pop("dtype", None)
        if method != "__call__" or options:
            raise Untraceable(f"{name}.{method} with {sorted(options)}")
        if name == "matmul":
            y = _matmul(self.graph, *inputs)
        elif name == "positive":
            y = inputs[0].astype(dtype or inputs[0].dtype)
        elif name == "square":
            y = _elementwise(self.graph, np.multiply, "multiply", [inputs[0], inputs[0]], dtype)
        elif name == "reciprocal" and inputs[0].dtype.kind == "f":
            y = _elementwise(self.graph, np.divide, "divide", [1, inputs[0]], dtype)
        else:
            y = _elementwise(self.graph, ufunc, name, inputs, dtype)
        return y if out is None else _into(out[0], y)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function in VIEWS and args[0] is self:
            return self.viewed(lambda ghost: function(ghost, *args[1:], **kwargs))
        if function not in FUNCTIONS:
            raise Untraceable(f"np.{function.__name__}")
        return FUNCTIONS[function](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        function: Any = getattr(np, name, None)
        if function in VIEWS or function in FUNCTIONS:
            return partial(function, self)
        raise AttributeError(f"a tracer has no {name}")

    def viewed(self, function: Callable[[np.ndarray], Any]) -> Any:
        """What a function of NumPy that returns a view, or a list of them, makes of it."""
        self.fresh = False
        numbers = self.graph.viewed(self.number, function)
        return [Tracer(self.graph, n) for n in numbers] if isinstance(numbers, list) else Tracer(self.graph, numbers)

    def __getitem__(self, key: Any) -> Tracer:
        items = key if isinstance(key, tuple) else (key,)
        if not all(type(item) in (int, slice, type(None), type(...)) for item in items):
            raise Untraceable("an index with arrays")
        if ... not in items:
            items = (*items, ...)  # so that NumPy returns a view, of a single element too
        return self.viewed(lambda ghost: ghost[items])

    def reshape(self, *shape: Any) -> Tracer:
        """As of an array."""
        return self.viewed(lambda ghost: ghost.reshape(*shape))

    def transpose(self, *axes: Any) -> Tracer:
        """As of an array."""
        return self.viewed(lambda ghost: ghost.transpose(*axes))

    def view(self) -> Tracer:
        """As of an array."""
        return self.viewed(lambda ghost: ghost)

    def astype(self, dtype: Any, copy: bool = True) -> Tracer:
        """As of an array."""
        return Tracer(
            self.graph, computed(self.graph, "cast", [self], [self.dtype], np.dtype(dtype)).number, fresh=copy
        )


def _into(target: Any, y: Tracer) -> Tracer:
    """What an operation in place leaves in its array."""
    if not (isinstance(target, Tracer) and target.fresh and target.shape == y.shape):
        raise Untraceable("a change of an array that others may have a view of")
    target.number = y.astype(target.dtype).number
    return target


# Elementwise operations


def _is_weak(x: Any) -> bool:
    return type(x) in (int, float)


def node_of(graph: Graph, x: Any) -> int:
    """The node of what is no weak number: of a tracer, a number of NumPy's, an array."""
    if isinstance(x, Tracer):
        return x.number
    if not isinstance(x, (np.ndarray, np.generic, bool)):
        raise Untraceable(f"a {type(x).__name__} among arrays")
    return graph.constant(np.asarray(x))


def computed(graph: Graph, name: str, inputs: Sequence[Any], dtypes: Sequence[Any], dtype: Any) -> Tracer:
    """An elementwise operation on inputs that are cast to dtypes, and copied to one shape."""
    for t in (*dtypes, dtype):
        check_dtype(t)
    numbers = [
        graph.literal(x, t) if _is_weak(x) else graph.cast(node_of(graph, x), t)
        for x, t in zip(inputs, dtypes, strict=True)
    ]
    shape = np.broadcast_shapes(*(graph.nodes[n].shape for n in numbers))
    copied = [graph.broadcast(n, shape) for n in numbers]
    return Tracer(graph, graph.elementwise(name, copied, dtype, shape), fresh=True)


def _elementwise(graph: Graph, ufunc: np.ufunc, name: str, inputs: Sequence[Any], dtype: Any) -> Tracer:
    """A ufunc, computed in the dtypes that NumPy would compute it in."""
    if name not in ELEMENTWISE:
        raise Untraceable(f"np.{name}")
    given: Any = tuple(type(x) if _is_weak(x) else graph.nodes[node_of(graph, x)].dtype for x in inputs)
    if hasattr(np, name):
        signature = (*[None] * ufunc.nin, None if dtype is None else np.dtype(dtype))
        into: list[Any]
        *into, result = ufunc.resolve_dtypes((*given, None), signature=signature)
    else:  # a function of ops.special
        result = given[0] if given[0].kind == "f" else np.dtype(np.float64)
        into = [result]
    if name in LOGICAL:
        into = [np.dtype(bool)] * len(inputs)
    elif any(t != into[0] for t in into) or (into[0].kind != "f" and name not in OF_ANY_DTYPE):
        raise Untraceable(f"{name} of {', '.join(map(str, into))}")
    return computed(graph, name, inputs, into, result)


def _result_type(*xs: Any) -> Any:
    return np.result_type(*(x.dtype if isinstance(x, Tracer) else x for x in xs))


def _where(condition: Any, a: Any, b: Any) -> Tracer:
    graph = next(x.graph for x in (condition, a, b) if isinstance(x, Tracer))
    dtype = _result_type(a, b)
    return computed(graph, "where", [condition, a, b], [np.dtype(bool), dtype, dtype], dtype)


def _clip(x: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _triangle(x: Tracer, k: int, lower: bool) -> Tracer:
    rows, columns = (np.arange(n) for n in x.shape[-2:])
    below = rows[:, None] - columns >= -k
    return _where(below if lower else ~below, x, x.dtype.type(0))


# Products and reductions


def _matmul(graph: Graph, a: Any, b: Any) -> Tracer:
    """The leading axes of both are copied to those of the product."""
    i, j = node_of(graph, a), node_of(graph, b)
    dtype = np.result_type(graph.nodes[i].dtype, graph.nodes[j].dtype)
    m, n = graph.nodes[i].shape, graph.nodes[j].shape
    if dtype.kind != "f" or min(len(m), len(n)) < 2:
        raise Untraceable(f"matmul of {dtype}, {m} and {n}")
    outer = np.broadcast_shapes(m[:-2], n[:-2])
    i, j = (graph.broadcast(graph.cast(x, dtype), (*outer, *s[-2:])) for x, s in ((i, m), (j, n)))
    return Tracer(graph, graph.matmul(i, j), fresh=True)


def _reduce(
    x: Any,
    name: str,
    axis: Any = 0,
    dtype: Any = None,
    out: None = None,
    keepdims: bool = False,
    initial: Any = None,
    where: bool = True,
) -> Tracer:
    """ufunc.reduce; of booleans, which are counted."""
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    if name == "add" and x.dtype == bool and dtype is None:
        count = prod(x.shape[i] for i in axes)
        exact = next(t for t, most in WHOLE.items() if count <= most)
        return _reduce(x, name, axis, exact, out, keepdims, initial, where).astype(np.int64)
    x = x if dtype is None else x.astype(dtype)
    known = name in INITIAL and initial in (None, INITIAL[name])
    if x.dtype.kind != "f" or not known or out is not None or where is not True:
        raise Untraceable(f"{name}.reduce of {x.dtype}, initial {initial}, in place, or of some elements")
    if x.size == 0 and initial is not None:
        y = Tracer(x.graph, x.graph.broadcast(x.graph.literal(initial, x.dtype), kept), fresh=True)
    else:
        y = Tracer(x.graph, x.graph.reduce(name, x.number, axes), fresh=True)
    return y if keepdims else y.reshape([n for i, n in enumerate(x.shape) if i not in axes])


def _reduction(name: str, *order: str) -> Callable[..., Tracer]:
    """A function of NumPy that reduces by a ufunc; the order in which it takes what comes after x."""
    return lambda x, *args, **options: _reduce(
        x, name, **{"axis": None, **dict(zip(order, args, strict=False)), **options}
    )


def _mean(x: Tracer, axis: Any = None, dtype: Any = None, out: None = None, keepdims: bool = False) -> Tracer:
    axes = tuple(range(x.ndim)) if axis is None else normalize_axis_tuple(axis, x.ndim)
    dtype = np.dtype(np.float64) if dtype is None and x.dtype.kind != "f" else dtype
    return _reduce(x, "add", axes, dtype, out, keepdims) / prod(x.shape[i] for i in axes)


def _any(x: Tracer, axis: Any = None, out: None = None, keepdims: bool = False) -> Tracer:
    return _reduce(x.astype(bool), "add", axis, None, out, keepdims) > 0


def _all(x: Tracer, axis: Any = None, out: None = None, keepdims: bool = False) -> Tracer:
    return np.logical_not(_any(np.logical_not(x), axis, out, keepdims))  # type: ignore[arg-type, return-value]


def _position(name: str) -> Callable[..., Tracer]:
    """np.argmax and np.argmin: the least of the positions where x is the extremum, or is NaN."""

    def function(x: Tracer, axis: int | None = None, out: None = None, *, keepdims: bool = False) -> Tracer:
        if axis is None:
            y = function(x.reshape(-1), 0, out)
            return y.reshape([1] * x.ndim) if keepdims else y
        axis = normalize_axis_index(axis, x.ndim)
        n = x.shape[axis]
        if n > WHOLE.get(x.dtype, 0):
            raise Untraceable(f"the position of the {name} of {describe(x)}")
        hit = np.logical_or(np.equal(x, _reduce(x, name, axis, keepdims=True)), np.isnan(x))
        positions = np.arange(n).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        chosen = _where(hit, positions.astype(x.dtype), float(n))
        return _reduce(chosen, "minimum", axis, None, out, keepdims).astype(np.int64)

    return function


def _full_like(x: Tracer, fill_value: Any, dtype: Any = None, shape: Any = None) -> np.ndarray:
    return np.full(x.shape if shape is None else shape, fill_value, x.dtype if dtype is None else dtype)


# NumPy's functions


VIEWS = {
    np.transpose, np.matrix_transpose, np.swapaxes, np.moveaxis, np.rollaxis, np.reshape, np.ravel, np.squeeze,
    np.expand_dims, np.broadcast_to, np.flip, np.fliplr, np.flipud, np.rot90, np.diagonal, np.split, np.array_split,
    np.atleast_1d, np.atleast_2d, np.atleast_3d,
}  # fmt: skip
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: _where,
    np.clip: _clip,
    np.tril: lambda m, k=0: _triangle(m, k, True),
    np.triu: lambda m, k=0: _triangle(m, k - 1, False),
    np.sum: _reduction("add", "axis", "dtype", "out", "keepdims", "initial", "where"),
    np.prod: _reduction("multiply", "axis", "dtype", "out", "keepdims", "initial", "where"),
    np.max: _reduction("maximum", "axis", "out", "keepdims", "initial", "where"),
    np.min: _reduction("minimum", "axis", "out", "keepdims", "initial", "where"),
    np.mean: _mean,
    np.all: _all,
    np.any: _any,
    np.argmax: _position("maximum"),
    np.argmin: _position("minimum"),
    np.copy: lambda a: a.astype(a.dtype),
    np.full_like: _full_like,
    np.zeros_like: lambda a, dtype=None, shape=None: _full_like(a, 0, dtype, shape),
    np.ones_like: lambda a, dtype=None, shape=None: _full_like(a, 1, dtype, shape),
    np.result_type: _result_type,
    np.shape: lambda a: a.shape,
    np.ndim: lambda a: a.ndim,
    np.size: lambda a: a.size,
}
