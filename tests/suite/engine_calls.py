"""How calls of the engine's own operations are drawn, where the record does not say; and all those operations.

Shapes follow from the record (`kind`, `signature`), parameters are drawn by name (`minigrad.testing.strategies`, and
NAMED here). Only operations whose shapes and parameters hang together in a way of their own have an entry in CALLS: a
function from Sizes to a strategy of (shapes or arrays, parameters).
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.core.op import Op, registry
from minigrad.ops.indexing import ARRAY, Slice, _read
from minigrad.testing.strategies import (
    FLOATS,
    Array,
    Draw,
    Inputs,
    Parameter,
    Plan,
    Shape,
    Sizes,
    Strategy,
    arrays,
    by_record,
    indices,
    lengths,
    part_of,
    shapes,
    some_axes,
)

# how many calls a check sees: few of each, since there are many checks and many Ops
few = settings(max_examples=max(5, settings().max_examples // 8), suppress_health_check=[HealthCheck.filter_too_much])

# Parameters by name


def of(*values: Any) -> Parameter:
    """A parameter that has one of these values."""
    return Parameter(lambda shapes: st.sampled_from(values))


NAMED: dict[str, Parameter] = {
    "descending": of(False, True),
    "exponent": of(3, 0.5, -1, 2.5, -0.5, 4, 1, 0, -2.0, 1.5),
    "slope": of(0.5, 0.0, 0.25, 1.5, -0.5),
    "alpha": of(1.0, 0.5, 2.0),
    "k": Parameter(lambda shapes: st.integers(-2, 2), 2),
    "eps": of(0.25, 0.01),
    "fill_value": of(0, 1, -2.5),
    "n": Parameter(lambda shapes: st.integers(0, 4)),
}


def axes_to_choose_from(shapes: Sequence[Shape]) -> Strategy[Shape]:
    """Several axes, of which none is empty: a largest element needs one to choose."""
    return some_axes(shapes[0]).map(lambda axes: tuple(i for i in axes if shapes[0][i]))


def axis_to_choose_from(shapes: Sequence[Shape]) -> Strategy[int | None]:
    """An axis that is not empty, or None."""
    shape = shapes[0]
    choices: list[int | None] = [i for i, n in enumerate(shape) if n]
    choices += [] if 0 in shape else [None]
    return st.sampled_from(choices) if choices else st.nothing()


# where `axis` is a tuple of axes, or must not be empty
AXIS: dict[str, Parameter] = {
    **dict.fromkeys(("sum", "logsumexp", "all", "any", "flip"), Parameter(lambda shapes: some_axes(shapes[0]))),
    **dict.fromkeys(("max", "min", "moments", "standardise"), Parameter(axes_to_choose_from)),
    **dict.fromkeys(("argmax", "argmin"), Parameter(axis_to_choose_from)),
}
DISCRETE = st.sampled_from([np.dtype(np.int64), np.dtype(np.bool_)])


# Operations whose shapes and parameters hang together


@st.composite
def _sum_to(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    return [shape], {"shape": draw(part_of(shape))}


@st.composite
def _broadcast_to(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    return [draw(part_of(shape))], {"shape": shape}


@st.composite
def _reshape(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    ways = [(math.prod(shape),), shape[::-1], (1, *shape), (*shape, 1), shape]
    return [shape], {"shape": draw(st.sampled_from(ways))}


@st.composite
def _unreduce(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    axis = draw(some_axes(shape))
    kept = draw(st.booleans())
    before = tuple(1 if i in axis else n for i, n in enumerate(shape) if kept or i not in axis)
    return [before], {"shape": shape, "axis": axis}


@st.composite
def _roll(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    axis = draw(st.lists(st.integers(0, len(shape) - 1), max_size=2).map(tuple))
    return [shape], {"axis": axis, "shift": tuple(draw(st.integers(-4, 4)) for _ in axis)}


@st.composite
def _split(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    axis = draw(st.integers(0, len(shape) - 1))
    return [shape], {"axis": axis, "at": tuple(sorted(draw(st.lists(st.integers(0, shape[axis]), max_size=2))))}


@st.composite
def _concat(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    axis = draw(st.integers(0, len(shape) - 1))
    parts = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    return [(*shape[:axis], n, *shape[axis + 1 :]) for n in parts], {"axis": axis}


def _read_index(draw: Draw, shape: Shape, basic: bool = True) -> tuple[Any, list[Array]]:
    """The template and the arrays of an index into an array of this shape; there are arrays for sure if not `basic`."""
    return _read(draw(indices(shape, basic)))


@st.composite
def _getitem(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    template, arrays = _read_index(draw, shape)
    return [shape, *arrays], {"template": template}


def _selected(shape: Shape, template: Any, arrays: Sequence[Array]) -> Shape:
    return np.empty(shape)[key(template, arrays)].shape


@st.composite
def _setitem(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    template, arrays = _read_index(draw, shape)
    selected = _selected(shape, template, arrays)
    return [shape, draw(st.one_of(part_of(selected), st.just(selected))), *arrays], {"template": template}


@st.composite
def _scatter(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    read = [_read_index(draw, shape) for _ in range(draw(st.integers(1, 2)))]
    selected = [_selected(shape, *index) for index in read]
    params = {"shape": shape, "dtype": draw(st.sampled_from(FLOATS)), "templates": tuple(t for t, _ in read)}
    return [*selected, *(a for _, arrays in read for a in arrays)], params


@st.composite
def _overwritten(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    template, arrays = _read_index(draw, shape, basic=False)
    return [*arrays], {"shape": shape, "template": template}


CONTRACTIONS = [
    "ij,jk->ik",
    "ij,->i",
    "ii,->i",
    "ii,i->",
    "i,j->ij",
    "ijk,ik->j",
    "ij,ij->",
    "ij,->ji",
    "i,->",
    "iji,j->ij",
]


@st.composite
def _einsum(draw: Draw, sizes: Sizes) -> Inputs:
    left, right, out = draw(st.sampled_from(CONTRACTIONS)).replace("->", ",").split(",")
    names = sorted(set(left + right))
    length = dict(zip(names, draw(lengths(len(names), sizes)), strict=True))
    ones = {c for c in right if c in left and draw(st.booleans()) and draw(st.booleans())}  # these broadcast
    operands = [tuple(length[c] for c in left), tuple(1 if c in ones else length[c] for c in right)]
    return operands, {"a_axes": left, "b_axes": right, "axes": out}


@st.composite
def _assign(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    return [shape, shape], {}


@st.composite
def _astype(draw: Draw, sizes: Sizes) -> Inputs:
    return [draw(shapes(sizes))], {"dtype": draw(DISCRETE)}


def _update(kinds: int, scalars: int, squares: bool = False, **params: Strategy[Any]) -> Plan:
    """A step of an optimiser: a learning rate, a step count; for one or two parameters all arrays of each kind.

    They are of one shape, so that the oracles can say for all results at once how large the numbers in them are. The
    last kind may be means of squares, which are positive.
    """

    @st.composite
    def plan(draw: Draw, sizes: Sizes) -> Inputs:
        shape, count = draw(shapes(sizes)), draw(st.integers(1, 2))
        numbers = (draw(st.sampled_from([0.5, 1e-3])), float(draw(st.integers(1, 100))))[:scalars]
        values = st.sampled_from(["ordinary", "extreme"])
        positive = [draw(arrays(shape, domain=(0.0, math.inf), values=draw(values))) for _ in range(squares * count)]
        inputs = [*map(np.array, numbers), *[shape] * (kinds - squares) * count, *positive]
        return inputs, draw(st.fixed_dictionaries(params))

    return plan


DECAYS = st.sampled_from([0.0, 0.1])


@st.composite
def _cross_entropy(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))[:2]
    classes = draw(st.integers(1, 3))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=(n := math.prod(shape)), max_size=n))
    return [(*shape, classes), np.array(labels, int).reshape(shape)], {}


def _loss_and_slope(inputs: Plan) -> Plan:
    """Predictions and targets, and what the loss is multiplied by."""
    scales = st.sampled_from([1.0, 0.25, 1 / 3])
    return lambda sizes: st.tuples(inputs(sizes).map(lambda drawn: drawn[0]), st.fixed_dictionaries({"scale": scales}))


def _geometry(draw: Draw) -> tuple[int, ...]:
    """Along one axis of an image: size of the window, stride, padding, dilation, windows, length of the image."""
    size, stride, padding, dilation, windows = (
        draw(st.integers(*ends)) for ends in ((1, 2), (1, 2), (0, 1), (1, 2), (1, 2))
    )
    spare = draw(st.integers(0, stride - 1))
    length = (windows - 1) * stride + dilation * (size - 1) + 1 - 2 * padding + spare
    assume(length > 0)
    return size, stride, padding, dilation, windows, length


def _convolution(given: str, **params: str) -> Plan:
    """Two of images x, weights w and outputs z, and the parameters; `params` names what else there is to say."""

    @st.composite
    def plan(draw: Draw, sizes: Sizes) -> Inputs:
        size, stride, padding, dilation, windows, image = zip(_geometry(draw), _geometry(draw), strict=True)
        groups, channels, out = draw(st.sampled_from([(1, 1, 1), (1, 2, 1), (1, 1, 2), (2, 1, 1), (2, 1, 2)]))
        n = 0 if sizes.empty else draw(st.integers(1, 2))
        known = {
            "x": (n, groups * channels, *image),
            "w": (groups * out, channels, *size),
            "z": (n, groups * out, *windows),
        }
        rest = {name: known[of][2:] for name, of in params.items()}
        return [known[name] for name in given], {
            **rest,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }

    return plan


def _pooling(*given: str, even: bool = False) -> Plan:
    """Images x, or what there is of each window, z; `even`: the number of pixels in a window is a power of two."""

    @st.composite
    def plan(draw: Draw, sizes: Sizes) -> Inputs:
        size = (draw(st.integers(1, 2)), draw(st.sampled_from([1, 2, 4] if even else [1, 2, 3])))
        stride, windows = (tuple(draw(st.integers(1, 2)) for _ in size) for _ in range(2))
        padding = tuple(draw(st.integers(0, k // 2)) for k in size)
        image = tuple(
            (count - 1) * step + k - 2 * p + draw(st.integers(0, step - 1))
            for k, step, p, count in zip(size, stride, padding, windows, strict=True)
        )
        assume(min(image) > 0)
        leading = (0,) if sizes.empty else draw(st.sampled_from([(), (2,), (1, 2)]))
        shapes = {"x": (*leading, *image), "z": (*leading, *windows)}
        params = {"size": size, "stride": stride, "padding": padding}
        return [shapes[name] for name in given], params if "x" in given else {**params, "shape": image}

    return plan


def _random(**params: Strategy[Any]) -> Plan:
    state = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 5)).map(lambda state: np.array(state, np.uint64))
    return lambda sizes: st.tuples(st.tuples(state), st.fixed_dictionaries(params))


CALLS: dict[str, Plan] = {
    "sum_to": _sum_to,
    "broadcast_to": _broadcast_to,
    "reshape": _reshape,
    "unreduce": _unreduce,
    "roll": _roll,
    "split": _split,
    "concat": _concat,
    "getitem": _getitem,
    "setitem": _setitem,
    "scatter": _scatter,
    "overwritten": _overwritten,
    "einsum": _einsum,
    "assign": _assign,
    "astype": _astype,
    "sgd": _update(2, 1, weight_decay=DECAYS),
    "momentum": _update(3, 1, momentum=st.sampled_from([0.5, 0.9]), nesterov=st.booleans(), weight_decay=DECAYS),
    "adam": _update(
        4, 2, squares=True, betas=st.sampled_from([(0.9, 0.999), (0.0, 0.5)]), eps=st.just(1e-3), weight_decay=DECAYS
    ),
    "cross_entropy": _cross_entropy,
    "cross_entropy_and_slope": _loss_and_slope(_cross_entropy),
    "bce_with_logits_and_slope": _loss_and_slope(_assign),
    "conv2d": _convolution("xw"),
    "conv2d_input": _convolution("zw", shape="x"),
    "conv2d_weight": _convolution("xz", size="w"),
    "max_pool": _pooling("x"),
    "max_pool_input": _pooling("z", "x"),
    "pool_argmax": _pooling("x"),
    "stochastic_pool": _pooling("x", "z"),
    "stochastic_pool_input": _pooling("z", "x", "z"),
    "pool_draw": _pooling("x", "z"),
    "avg_pool": _pooling("x", even=True),
    "avg_unpool": _pooling("z", even=True),
    "random_uniform": _random(shape=shapes(), dtype=st.sampled_from(FLOATS)),
    "random_normal": _random(shape=shapes(), dtype=st.sampled_from(FLOATS)),
    "random_integers": _random(shape=shapes(), low=st.integers(-3, 0), high=st.integers(1, 4)),
    "random_permutation": _random(n=st.integers(0, 4)),
    "random_split": _random(n=st.integers(0, 3)),
    "random_next": _random(),
}


def plan_of(op: Op) -> Plan:
    """How calls of one of the engine's operations are drawn."""
    named = {name: parameter for name, parameter in NAMED.items() if name in op.params}
    if op.name in AXIS:
        named["axis"] = AXIS[op.name]
    return CALLS.get(op.name) or by_record(op, **named)


def key(template: Any, arrays: Sequence[Array]) -> tuple[Any, ...]:
    """The index that NumPy takes, from a template and its arrays."""
    rest = iter(arrays)
    items = (next(rest) if isinstance(item, str) and item == ARRAY else item for item in template)
    return tuple(slice(*item) if isinstance(item, Slice) else item for item in items)


def every_op() -> dict[str, Op]:
    """All the operations that the package declares, by name; those that tests declare are not among them."""
    for module in pkgutil.walk_packages(mg.__path__, "minigrad."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {name: op for name, op in sorted(registry.items()) if not _declared_outside(op)}


def _declared_outside(op: Op) -> bool:
    modules = {getattr(f, "__module__", None) or "numpy" for f in (op.forward, *op.vjp.values())}
    return not all(module.partition(".")[0] in ("minigrad", "numpy") for module in modules)
