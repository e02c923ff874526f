"""Public functions that have no Op of their own: the generic suite, run over each of them as if it were one.

A row of the table has the function, what NumPy or SciPy computes, and how shapes and arguments are drawn, negative axes
and None among them. Second derivatives, forward mode, layouts, dtypes, empty and 0-d arrays come with the checks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy import special

import minigrad as mg
from minigrad import ops
from minigrad.testing.strategies import (
    Draw,
    Inputs,
    Plan,
    Shape,
    Sizes,
    axes,
    broadcastable_shapes,
    part_of,
    shapes,
)
from minigrad.testing.suite import cancelling, op_suite

from .engine_calls import CALLS, every_op, few
from .oracles import ORACLES


@dataclass(frozen=True)
class Composite:
    """A public function, with what the checks ask an Op for."""

    name: str
    f: Callable[..., Any]
    oracle: Callable[..., Any]
    plan: Plan
    inputs: tuple[str, ...] = ("x",)
    kind: str = "other"
    undifferentiable: str = ""
    star: int | None = None
    signature: str = ""
    domain: dict[str, tuple[float, float]] = field(default_factory=dict)
    params: tuple[str, ...] = ()
    fused: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, Any] = field(default_factory=dict)
    formula: str = ""

    @property
    def vjp(self) -> dict[str, Any]:
        """All inputs have a gradient, unless they are integers."""
        return dict.fromkeys(self.inputs)

    def __call__(self, *args: Any, **params: Any) -> Any:
        """The function itself; bare operators make NumPy scalars of 0-d arrays, which are as good."""
        y = self.f(*args, **params)
        return np.asarray(y) if isinstance(y, np.generic) else y


# How arguments are drawn


def _axis(draw: Draw, shape: Shape) -> Any:
    """One axis, some, or None; negative ones too."""
    return draw(axes(shape))


def _count(shape: Shape, axis: Any) -> int:
    axes = range(len(shape)) if axis is None else np.atleast_1d(np.array(axis, int))
    return math.prod(shape[i] for i in axes)


def one(at_least: int = 0, **params: Callable[[Draw, Shape], Any]) -> Plan:
    """One array of so many axes at least, and parameters that depend on its shape."""

    @st.composite
    def plan(draw: Draw, sizes: Sizes) -> Inputs:
        shape = draw(shapes(sizes, at_least))
        return [shape], {name: value(draw, shape) for name, value in params.items()}

    return plan


def reduced(more_than: int = 0, **params: Callable[[Draw, Shape], Any]) -> Plan:
    """One array with axes along which there are so many elements that the function is defined."""

    @st.composite
    def plan(draw: Draw, sizes: Sizes) -> Inputs:
        shape = draw(shapes(sizes))
        axis = _axis(draw, shape)
        if _count(shape, axis) <= more_than:
            shape, axis = (*shape, more_than + 2), -1
        return [shape], {
            "axis": axis,
            "keepdims": draw(st.booleans()),
            **{k: v(draw, shape) for k, v in params.items()},
        }

    return plan


def one_axis(draw: Draw, shape: Shape) -> int:
    return draw(st.integers(-len(shape), len(shape) - 1))


def choice(*values: Any) -> Callable[[Draw, Shape], Any]:
    return lambda draw, shape: draw(st.sampled_from(values))


def alike(count: int, **params: Callable[[Draw, Shape], Any]) -> Plan:
    """Arrays of one shape."""

    @st.composite
    def plan(draw: Draw, sizes: Sizes) -> Inputs:
        shape = draw(shapes(sizes))
        return [shape] * count, {name: value(draw, shape) for name, value in params.items()}

    return plan


def together(count: int) -> Plan:
    """Arrays that broadcast."""
    return lambda sizes: st.tuples(broadcastable_shapes(count, sizes), st.just({}))


@st.composite
def _several(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    count = draw(st.integers(1, 3))
    return [shape] * count, {"axis": draw(st.integers(-len(shape) - 1, len(shape)))}


@st.composite
def _matmul(draw: Draw, sizes: Sizes) -> Inputs:
    m, k, n = (draw(st.integers(sizes.shortest, 3)) for _ in range(3))
    k = draw(st.sampled_from([0, k])) if sizes.empty else k
    outer = draw(shapes(Sizes(longest=2)))[:2]
    left = draw(st.sampled_from([(k,), (m, k), (*outer, m, k)]))
    right = draw(st.sampled_from([(k,), (k, n), (*draw(part_of(outer)), k, n)]))
    return [left, right], {}


@st.composite
def _linear(draw: Draw, sizes: Sizes) -> Inputs:
    k, n = (draw(st.integers(sizes.shortest, 3)) for _ in range(2))
    k = draw(st.sampled_from([0, k])) if sizes.empty else k
    return [(*draw(shapes(Sizes(longest=2)))[:2], k), (k, n), (n,)], {}


@st.composite
def _tensordot(draw: Draw, sizes: Sizes) -> Inputs:
    shared = draw(shapes(sizes))[:2]
    left, right = ((draw(st.integers(1, 2)),) * draw(st.integers(0, 1)) for _ in range(2))
    if draw(st.booleans()):
        return [(*left, *shared), (*shared, *right)], {"axes": len(shared)}
    a, b = (*shared, *left), (*right, *shared[::-1])
    pairs = (tuple(range(len(shared))), tuple(range(-1, -len(shared) - 1, -1)))
    return [a, b], {"axes": pairs}


SUBSCRIPTS = (
    "ij,jk->ik",
    "...i,i...",
    "ii",
    "i...->...",
    "ij,ij,ij->j",
    "i,j,k->kji",
    "ab,b",
    "b a -> ab",
    "ij,jk,kl->il",
)


@st.composite
def _einsum(draw: Draw, sizes: Sizes) -> Inputs:
    subscripts = draw(st.sampled_from(SUBSCRIPTS))
    dots = draw(shapes(Sizes(longest=2)))[:2]
    length = {c: draw(st.integers(0 if sizes.empty else 1, 3)) for c in "abijkl"}
    operands = subscripts.partition("->")[0].replace(" ", "").split(",")
    drawn = []
    for operand in operands:
        before, ellipsis, after = operand.partition("...")
        drawn.append((*(length[c] for c in before), *(dots if ellipsis else ()), *(length[c] for c in after)))
    return drawn, {"subscripts": subscripts}


@st.composite
def _vecdot(draw: Draw, sizes: Sizes) -> Inputs:
    axis = draw(st.sampled_from([-1, 0]))
    both = draw(broadcastable_shapes(2, sizes))
    n = draw(st.integers(1, 3))
    if axis == 0:
        return [(n, *both[0])] * 2, {"axis": 0}
    return [(*shape, n) for shape in both], {"axis": -1}


@st.composite
def _any_axes(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))
    return [shape], {"axis": _axis(draw, shape), "keepdims": draw(st.booleans())}


@st.composite
def _pad(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    mode = draw(st.sampled_from(["constant", *(["edge", "symmetric", "wrap", "reflect"] if 0 not in shape else [])]))
    widths = draw(st.one_of(st.integers(0, 2), st.tuples(*(st.tuples(*[st.integers(0, 2)] * 2) for _ in shape))))
    return [shape], {"pad_width": widths, "mode": mode}


@st.composite
def _repeat(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    axis = draw(st.one_of(st.none(), st.integers(-len(shape), len(shape) - 1)))
    length = math.prod(shape) if axis is None else shape[axis]
    counts = st.lists(st.integers(0, 2), min_size=length, max_size=length).map(lambda n: np.array(n, int))
    return [shape], {"repeats": draw(st.one_of(st.integers(0, 3), counts)), "axis": axis}


@st.composite
def _take(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    axis = one_axis(draw, shape)
    n = shape[axis]
    indices = draw(st.lists(st.integers(-n, n - 1), max_size=4)) if n else []
    return [shape], {"indices": np.array(indices, int), "axis": axis}


@st.composite
def _take_along_axis(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    axis = one_axis(draw, shape)
    n, k = shape[axis], draw(st.integers(0, 3)) if shape[axis] else 0
    lines = (*shape[: axis % len(shape)], k, *shape[axis % len(shape) + 1 :])
    size = math.prod(lines)
    indices = draw(st.lists(st.integers(-n, n - 1), min_size=size, max_size=size)) if size else []
    return [shape], {"indices": np.array(indices, int).reshape(lines), "axis": axis}


@st.composite
def _split(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes, 1))
    axis = one_axis(draw, shape)
    length = shape[axis]
    parts = st.sampled_from([k for k in (1, 2, 3) if length % k == 0])
    cuts = st.lists(st.integers(0, length), max_size=3).map(sorted)
    return [shape], {"indices_or_sections": draw(st.one_of(parts, cuts)), "axis": axis}


def _expand(draw: Draw, shape: Shape) -> Any:
    return draw(st.integers(-len(shape) - 1, len(shape)))


@st.composite
def _squeezable(draw: Draw, sizes: Sizes) -> Inputs:
    shape = (*draw(shapes(sizes))[:2], 1)
    return [shape], {"axis": draw(st.sampled_from([None, -1]))}


@st.composite
def _scatter_add(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(Sizes(), 1))
    rows = draw(st.lists(st.integers(-shape[0], shape[0] - 1), max_size=4))
    return [shape, draw(part_of((len(rows), *shape[1:])))], {"index": np.array(rows, int)}


@st.composite
def _labelled(draw: Draw, sizes: Sizes) -> Inputs:
    shape = draw(shapes(sizes))[:2]
    classes = draw(st.integers(1, 3))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=(n := math.prod(shape)), max_size=n))
    reduction = draw(st.sampled_from(["mean", "sum", "none"])) if n else "sum"
    return [(*shape, classes)], {"labels": np.array(labels, int).reshape(shape), "reduction": reduction}


def _loss(draw: Draw, shape: Shape) -> str:
    return draw(st.sampled_from(["mean", "sum", "none"])) if 0 not in shape else "sum"


# What NumPy computes


def _mean_of(y: np.ndarray, reduction: str) -> Any:
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](y)


def _cross_entropy(logits: np.ndarray, *, labels: np.ndarray, reduction: str) -> Any:
    logs = logits - special.logsumexp(logits, axis=-1, keepdims=True) if logits.size else logits
    return _mean_of(-np.take_along_axis(logs, labels[..., None], -1)[..., 0], reduction)


def _bce(z: np.ndarray, t: np.ndarray, *, reduction: str) -> Any:
    return _mean_of(-(t * special.log_expit(z) + (1 - t) * special.log_expit(-z)), reduction)


@cancelling(lambda m, v: 1 + m * m + np.exp(v))
def _gaussian_kl(m: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.5 * (m * m + np.exp(v) - 1 - v)


def _norm(x: np.ndarray, *, axis: Any, keepdims: bool) -> Any:
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def _scattered(x: np.ndarray, value: np.ndarray, *, index: np.ndarray) -> np.ndarray:
    y = x.copy()
    np.add.at(y, index, value)
    return y


def _clipped(x: Any, low: Any, high: Any = None) -> Any:
    return np.maximum(x, low) if high is None else np.minimum(np.maximum(x, low), high)


def _sorted(x: np.ndarray, *, axis: int, descending: bool) -> np.ndarray:
    return np.flip(np.sort(x, axis), axis) if descending else np.sort(x, axis)


def _logsumexp(x: np.ndarray, *, axis: Any, keepdims: bool) -> np.ndarray:
    return np.logaddexp.reduce(x, axis=axis, keepdims=keepdims)


def _softmax(x: np.ndarray, *, axis: int) -> np.ndarray:
    return np.exp(x - np.logaddexp.reduce(x, axis=axis, keepdims=True))


@st.composite
def _transposed(draw: Draw, sizes: Sizes) -> Inputs:
    """What a convolution in reverse takes: its outputs, its weights, and an image size that it can have come from."""
    (z, w), params = draw(CALLS["conv2d_input"](sizes))
    shape, stride, padding, dilation = (params[name] for name in ("shape", "stride", "padding", "dilation"))
    least = [(z[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (w[2 + i] - 1) + 1 for i in (0, 1)]
    params["output_padding"] = tuple(shape[i] - least[i] for i in (0, 1))
    del params["shape"]
    return [z, w], params


def _conv_transpose2d(x: np.ndarray, w: np.ndarray, *, output_padding: Any, **params: Any) -> np.ndarray:
    """Every pixel of x puts w times itself into the result."""
    shape = tuple(
        (x.shape[2 + i] - 1) * params["stride"][i]
        - 2 * params["padding"][i]
        + params["dilation"][i] * (w.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in (0, 1)
    )
    return ORACLES["conv2d_input"](x, w, shape=shape, **params)


INTS = (0, 1, -1, 2)
AB = ("a", "b")
LINEAR: dict[str, Any] = {"kind": "linear"}
BILINEAR: dict[str, Any] = {"kind": "bilinear", "inputs": AB}
STARRED: dict[str, Any] = {"kind": "linear", "inputs": ("xs",), "star": 0}
COMPOSITES = {
    c.name: c
    for c in [
        # convolution
        Composite("conv_transpose2d", mg.conv_transpose2d, _conv_transpose2d, _transposed, ("x", "w"), "bilinear"),
        # reductions
        Composite("sum", mg.sum, np.sum, _any_axes, **LINEAR),
        Composite("mean", mg.mean, np.mean, reduced()),
        Composite("moments", mg.moments, ORACLES["moments"], reduced()),
        Composite("max", mg.max, np.max, reduced(), undifferentiable="ties"),
        Composite("min", mg.min, np.min, reduced(), undifferentiable="ties"),
        Composite("prod", mg.prod, np.prod, _any_axes),
        Composite(
            "var",
            mg.var,
            lambda x, *, correction, **k: np.var(x, ddof=correction, **k),
            reduced(1, correction=choice(0, 1, 0.5)),
        ),
        Composite(
            "std",
            mg.std,
            lambda x, *, correction, **k: np.std(x, ddof=correction, **k),
            reduced(1, correction=choice(0, 1)),
            undifferentiable="where it is 0",
        ),
        Composite("norm", mg.norm, _norm, _any_axes, undifferentiable="where it is 0"),
        Composite("logsumexp", mg.logsumexp, _logsumexp, reduced()),
        Composite("softmax", mg.softmax, _softmax, one(1, axis=one_axis)),
        Composite(
            "log_softmax",
            mg.log_softmax,
            lambda x, *, axis: np.log(_softmax(x, axis=axis)),
            one(1, axis=one_axis),
        ),
        Composite("cumulative_sum", mg.cumulative_sum, np.cumsum, one(1, axis=one_axis), **LINEAR),
        # elementwise
        Composite("clip", mg.clip, _clipped, together(3), ("x", "low", "high"), undifferentiable="bounds"),
        Composite("clip below", mg.clip, _clipped, together(2), ("x", "low"), undifferentiable="bound"),
        Composite("power 3", lambda x: mg.pow(x, 3), lambda x: x * x * x, one()),
        Composite("power -1", lambda x: mg.pow(x, -1.0), lambda x: 1.0 / x, one(), undifferentiable="0"),
        Composite("power 2", lambda x: mg.pow(x, 2), lambda x: x * x, one()),
        Composite("pow", mg.pow, np.power, together(2), AB, domain={"a": (0.0, np.inf)}),
        Composite(
            "leaky_relu",
            mg.leaky_relu,
            lambda x, *, slope: np.where(x > 0, x, slope * x),
            one(slope=choice(0.1, 2.0)),
            undifferentiable="0",
        ),
        Composite(
            "elu",
            mg.elu,
            lambda x, *, alpha: np.where(x > 0, x, alpha * np.expm1(x)),
            one(alpha=choice(1.0, 0.5)),
            undifferentiable="0",
        ),
        # contractions
        Composite("matmul", mg.matmul, np.matmul, _matmul, **BILINEAR),
        Composite("linear", mg.linear, lambda x, w, b: np.matmul(x, w) + b, _linear, ("x", "w", "b")),
        Composite("tensordot", mg.tensordot, np.tensordot, _tensordot, **BILINEAR),
        Composite("outer", mg.outer, np.outer, alike(2), **BILINEAR),
        Composite("vecdot", mg.vecdot, lambda a, b, *, axis: np.sum(a * b, axis), _vecdot, **BILINEAR),
        Composite(
            "einsum",
            lambda *xs, subscripts: mg.einsum(subscripts, *xs),
            lambda *xs, subscripts: np.einsum(subscripts, *xs),
            _einsum,
            ("xs",),
            star=0,
        ),
        # manipulation
        Composite(
            "stack", lambda *xs, axis: mg.stack(xs, axis), lambda *xs, axis: np.stack(xs, axis), _several, **STARRED
        ),
        Composite(
            "concat", lambda *xs: mg.concat(xs, None), lambda *xs: np.concatenate(xs, None), together(2), **STARRED
        ),
        Composite(
            "unstack",
            mg.unstack,
            lambda x, *, axis: tuple(np.moveaxis(x, axis, 0)),
            one(1, axis=one_axis),
            **LINEAR,
        ),
        Composite(
            "split",
            mg.split,
            lambda x, *, indices_or_sections, axis: tuple(np.split(x, indices_or_sections, axis)),
            _split,
            **LINEAR,
        ),
        Composite("pad", mg.pad, np.pad, _pad, **LINEAR),
        Composite("repeat", mg.repeat, np.repeat, _repeat, **LINEAR),
        Composite(
            "tile",
            mg.tile,
            lambda x, *, repetitions: np.tile(x, repetitions),
            one(repetitions=choice(2, (2, 1), (1, 0, 2), (), (1,))),
            **LINEAR,
        ),
        Composite("roll", mg.roll, np.roll, one(shift=choice(*INTS)), **LINEAR),
        Composite("flip", mg.flip, np.flip, one(axis=_axis), **LINEAR),
        Composite("diagonal", mg.diagonal, np.diagonal, one(2, offset=choice(*INTS)), **LINEAR),
        Composite("permute_dims", mg.permute_dims, np.transpose, one(), **LINEAR),
        Composite("matrix_transpose", mg.matrix_transpose, np.matrix_transpose, one(2), **LINEAR),
        Composite("swapaxes", mg.swapaxes, np.swapaxes, one(1, axis1=one_axis, axis2=one_axis), **LINEAR),
        Composite("moveaxis", mg.moveaxis, np.moveaxis, one(1, source=one_axis, destination=one_axis), **LINEAR),
        Composite("expand_dims", mg.expand_dims, np.expand_dims, one(axis=_expand), **LINEAR),
        Composite("squeeze", mg.squeeze, np.squeeze, _squeezable, **LINEAR),
        Composite("reshape", lambda x: mg.reshape(x, -1), np.ravel, one(), **LINEAR),
        Composite(
            "broadcast_to", lambda x: mg.broadcast_to(x, (2, *x.shape)), lambda x: np.stack([x, x]), one(), **LINEAR
        ),
        Composite("astype", lambda x: mg.astype(x, "float64"), lambda x: x.astype("float64"), one(), **LINEAR),
        # indexing
        Composite("take", mg.take, np.take, _take, **LINEAR),
        Composite("take_along_axis", mg.take_along_axis, np.take_along_axis, _take_along_axis, **LINEAR),
        Composite(
            "sort",
            mg.sort,
            _sorted,
            one(1, axis=one_axis, descending=choice(False, True)),
            undifferentiable="ties",
        ),
        Composite(
            "scatter_add",
            lambda x, value, *, index: mg.scatter_add(x, index, value),
            _scattered,
            _scatter_add,
            kind="linear",
            inputs=("x", "value"),
        ),
        # losses
        Composite(
            "mse", mg.mse, lambda a, b, *, reduction: _mean_of((a - b) ** 2, reduction), alike(2, reduction=_loss), AB
        ),
        Composite("bce_with_logits", mg.bce_with_logits, _bce, alike(2, reduction=_loss), AB),
        Composite("cross_entropy", mg.cross_entropy, _cross_entropy, _labelled),
        Composite("gaussian_kl", mg.gaussian_kl, _gaussian_kl, alike(2), ("m", "v")),
    ]
}

# public functions without a gradient and without an Op of their own name: both are full_like, which is one
CONSTANT = {"ones_like", "zeros_like"}

EXCLUDED: dict[tuple[str, str], str] = {
    ("subgradient", "sort"): "each output gets the slope of one of those that tie, which need not lie between its own",
    ("subgradient", "clip"): "where both bounds are equal to x it composes two ties; clip below has one",
    ("far_out", "clip"): "as for subgradient",
    ("mixed_dtypes", "scatter_add"): "floats are not added to integers: see tests/ops/test_indexing.py",
    ("float32", "astype"): "it makes float64 of float32",
}

# what is not run over any of them
NOT_RUN = {
    "extremes": "squares of the extremes overflow; the Ops that these are made of are tested there",
    "nonfinite": "as for extremes",
}

fewer = settings(few, max_examples=few.max_examples // 2)  # they are made of Ops that are tested themselves

for _name, _composite in COMPOSITES.items():
    globals()[f"Test_{_name.replace(' ', '_')}"] = op_suite(
        _composite,
        _composite.oracle,
        _composite.plan,
        {**NOT_RUN, **{check: why for (check, name), why in EXCLUDED.items() if name == _name}},
        fewer,
    )


def test_every_public_function_is_tested() -> None:
    """As an Op, or over an Op of its name, or in the table above."""
    assert set(ops.__all__) - set(every_op()) - set(COMPOSITES) == CONSTANT


def test_exclusions_are_few() -> None:
    assert len(EXCLUDED) == 5
