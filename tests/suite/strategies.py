"""How a call of any Op is drawn: shapes, parameters, magnitudes.

Shapes follow from the record: `kind` and `signature` say how the inputs' shapes hang together. Parameters are drawn by
name, one strategy a name (PARAMETERS). Only operations whose shapes and parameters hang together in a way of their own
have an entry (CALLS). Values come from a regime (REGIMES), moved into the domain that the record states:

- `exact`: odd multiples of 1/32 in (-4, 4), no two alike. Their sums and products are exact, so linear and bilinear
  rules are compared bit for bit; and they are 1/32 from every integer and half integer, where kinks are, and 1/16 from
  each other, so that differences don't meet a tie.
- `ordinary`: the same, times a number that fills the mantissa.
- `ties`: few numbers, zeros of both signs among them.
- `extreme`: every exponent, the tails where slopes vanish, zeros of both signs, subnormal numbers.
- `nonfinite`: infinities and NaN among ordinary numbers.

Elements are read from a string of bytes, which Hypothesis draws and shrinks as a whole: zeros mean the simplest number.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad.core.op import Op, registry
from minigrad.ops.indexing import ARRAY, Slice, _read

Shape = tuple[int, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]
FLOATS = (np.dtype(np.float64), np.dtype(np.float32))


@dataclass(frozen=True)
class Call:
    """One call of an operation: its inputs as arrays, and its parameters."""

    op: Op
    arrays: tuple[np.ndarray, ...]
    params: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """The name in the record of each input; a starred one comes several times."""
        star = self.op.star
        last = len(self.op.inputs) - 1
        return [self.op.inputs[i if star is None else min(i, last)] for i in range(len(self.arrays))]

    @cached_property
    def spots(self) -> list[int]:
        """The positions of the inputs that have a gradient."""
        return [
            i
            for i, (name, x) in enumerate(zip(self.names, self.arrays, strict=True))
            if name in self.op.vjp and x.dtype.kind == "f"
        ]

    @property
    def xs(self) -> list[np.ndarray]:
        """The inputs that have a gradient."""
        return [self.arrays[i] for i in self.spots]

    def f(self, *xs: Any) -> Any:
        """The operation as a function of the inputs that have a gradient."""
        return self.op(*self.having(xs).arrays, **self.params)

    def having(self, xs: Sequence[Any]) -> Call:
        """The same call with other differentiable inputs."""
        arrays = list(self.arrays)
        for i, x in zip(self.spots, xs, strict=True):
            arrays[i] = x
        return Call(self.op, tuple(arrays), self.params)

    def __repr__(self) -> str:
        given = [*map(repr, self.arrays), *(f"{name}={value!r}" for name, value in self.params.items())]
        return f"{self.op.name}({', '.join(given)})"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # how Hypothesis prints it


# Magnitudes

SIMPLE = sorted([(2 * k + 1) / 32 for k in range(-64, 64)], key=lambda x: (abs(x - 1), -x))
TIES = [0.0, 1.0, -1.0, 0.5, -0.0, -0.5, 2.0, 1.5, -1.5]
TAILS = [1.0, 3.0, 8.5, 17.0, 40.0, 88.0, 120.0, 300.0, 700.0, 1e4, 1e10, 1e20, 1e30]
TINY = [0.0, 1e-3, 1e-8, 1e-20, 1e-30, 1e-38, 1e-45]
EXTREME = [s * x for x in (*TAILS, *TINY) for s in (1, -1)]
REGIMES: dict[str, list[float]] = {
    "exact": SIMPLE,
    "ordinary": [x * 0.7390851332151607 for x in SIMPLE],
    "ties": TIES,
    "extreme": EXTREME,
    "nonfinite": [1.0, math.inf, -math.inf, math.nan, 0.0, -2.0],
}
ALL_DIFFERENT = ("exact", "ordinary")
EVERYWHERE = (-math.inf, math.inf)


def into(x: np.ndarray, domain: tuple[float, float]) -> np.ndarray:
    """Numbers moved into an open interval; those inside stay where they are, and so do infinities and NaN."""
    low, high = domain
    if domain == EVERYWHERE:
        return x
    if math.isfinite(low) and math.isfinite(high):
        moved = low + (high - low) * (0.5 + np.arctan(x) / np.pi * 0.999)
        border = (low + high) / 2
    elif math.isfinite(low):
        moved, border = low + np.abs(x), low + 1.0
    else:
        moved, border = high - np.abs(x), high - 1.0
    kept = ~np.isfinite(x)
    x = np.where((low < x) & (x < high) | kept, x, moved)
    return np.where((low < x) & (x < high) | kept, x, border)


def _elements(draw: Draw, sizes: Sequence[int], regime: str) -> list[np.ndarray]:
    """So many numbers of a regime for each input."""
    pool = REGIMES[regime]
    indices = list(draw(st.binary(min_size=sum(sizes), max_size=sum(sizes))))
    if regime in ALL_DIFFERENT:
        assume(len(indices) <= len(pool))
        taken: set[int] = set()
        for k, byte in enumerate(indices):
            i = byte % len(pool)
            while i in taken:
                i = (i + 1) % len(pool)
            taken.add(i)
            indices[k] = i
    numbers = iter(indices)
    return [np.array([pool[next(numbers) % len(pool)] for _ in range(size)]) for size in sizes]


# Shapes


@dataclass(frozen=True)
class Sizes:
    """What shapes are drawn.

    Axes are `shortest` to `longest` long, but with `empty` one of them has length 0; there are at least `axes` of them.
    `scalar`: no axes, where that is possible. `line`: one axis of so many elements, where that is possible. `alike`:
    the inputs of an elementwise operation all have the same shape.
    """

    shortest: int = 1
    longest: int = 3
    axes: int = 0
    empty: bool = False
    scalar: bool = False
    line: int = 0
    alike: bool = False


ALIKE = Sizes(alike=True)
LINE = Sizes(line=40, alike=True)  # many numbers at once, to meet rare ones


def _lengths(draw: Draw, count: int, sizes: Sizes) -> list[int]:
    lengths = draw(st.lists(st.integers(sizes.shortest, sizes.longest), min_size=count, max_size=count))
    if sizes.empty and count:
        lengths[draw(st.integers(0, count - 1))] = 0
    return lengths


def _ndim(draw: Draw, sizes: Sizes, at_least: int = 0) -> int:
    if sizes.scalar:
        return at_least
    at_least = max(at_least, sizes.axes, int(sizes.empty))
    return draw(st.integers(at_least, max(at_least, 3)))


def a_shape(draw: Draw, sizes: Sizes, at_least: int = 0) -> Shape:
    """One shape."""
    if sizes.line and at_least <= 1:
        return (sizes.line,)
    return tuple(_lengths(draw, _ndim(draw, sizes, at_least), sizes))


def part_of(draw: Draw, shape: Shape) -> Shape:
    """A shape that broadcasts to another one: some leading axes are missing, some are 1."""
    part = shape[draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else n for n in part)


def broadcasting(draw: Draw, count: int, sizes: Sizes, at_least: int = 0) -> list[Shape]:
    """So many shapes that broadcast together; which of them has all the axes is drawn, too."""
    whole = a_shape(draw, sizes, at_least)
    if sizes.alike or count == 1 or at_least:
        return [whole] * count
    full = draw(st.integers(0, count - 1))
    return [whole if i == full else part_of(draw, whole) for i in range(count)]


def by_signature(draw: Draw, signature: str, sizes: Sizes) -> list[Shape]:
    """Shapes by a signature such as (m,k),(k,n)->(m,n), with leading axes that broadcast."""
    cores = [part.strip("()").split(",") for part in signature.partition("->")[0].split("),(")]
    cores = [[name for name in core if name] for core in cores]
    names = sorted({name for core in cores for name in core})
    loop = 0 if sizes.scalar else draw(st.integers(0, 2))
    lengths = _lengths(draw, loop + len(names), sizes)
    length = dict(zip(names, lengths[loop:], strict=True))
    outer = tuple(lengths[:loop])
    full = draw(st.integers(0, len(cores) - 1))
    outers = [outer if i == full else part_of(draw, outer) for i in range(len(cores))]
    return [(*o, *(length[name] for name in core)) for o, core in zip(outers, cores, strict=True)]


# Parameters: one strategy a name, given the shapes of the inputs, and how many axes the first input needs for it

Parameter = Callable[[Sequence[Shape]], st.SearchStrategy[Any]]


def one_axis(shapes: Sequence[Shape]) -> st.SearchStrategy[int]:
    """An axis of the first input."""
    return st.integers(0, len(shapes[0]) - 1)


def some_axes(shapes: Sequence[Shape]) -> st.SearchStrategy[Shape]:
    """Several axes of the first input, or none."""
    ndim = len(shapes[0])
    return st.lists(st.booleans(), min_size=ndim, max_size=ndim).map(
        lambda chosen: tuple(i for i, yes in enumerate(chosen) if yes)
    )


def axes_to_choose_from(shapes: Sequence[Shape]) -> st.SearchStrategy[Shape]:
    """Several axes, of which none is empty: a largest element needs one to choose."""
    return some_axes(shapes).map(lambda axes: tuple(i for i in axes if shapes[0][i]))


def axis_to_choose_from(shapes: Sequence[Shape]) -> st.SearchStrategy[int | None]:
    """An axis that is not empty, or None."""
    shape = shapes[0]
    choices: list[int | None] = [i for i, n in enumerate(shape) if n]
    choices += [] if 0 in shape else [None]
    return st.sampled_from(choices) if choices else st.nothing()


PARAMETERS: dict[str, tuple[Parameter, int]] = {
    "axis": (one_axis, 1),
    "axes": (lambda shapes: st.permutations(range(len(shapes[0]))).map(tuple), 0),
    "keepdims": (lambda shapes: st.booleans(), 0),
    "descending": (lambda shapes: st.booleans(), 0),
    "dtype": (lambda shapes: st.sampled_from(FLOATS), 0),
    "exponent": (lambda shapes: st.sampled_from([3, 0.5, -1, 2.5, -0.5, 4, 1, 0, -2.0, 1.5]), 0),
    "slope": (lambda shapes: st.sampled_from([0.5, 0.0, 0.25, 1.5, -0.5]), 0),
    "alpha": (lambda shapes: st.sampled_from([1.0, 0.5, 2.0]), 0),
    "k": (lambda shapes: st.integers(-2, 2), 2),
    "fill_value": (lambda shapes: st.sampled_from([0, 1, -2.5]), 0),
    "n": (lambda shapes: st.integers(0, 4), 0),
}
# where `axis` is a tuple of axes, or must not be empty
AXIS: dict[str, Parameter] = {
    **dict.fromkeys(("sum", "logsumexp", "all", "any", "flip"), some_axes),
    **dict.fromkeys(("max", "min"), axes_to_choose_from),
    **dict.fromkeys(("argmax", "argmin"), axis_to_choose_from),
}
DISCRETE = st.sampled_from([np.dtype(np.int64), np.dtype(np.bool_)])


def _parameter(op: Op, name: str) -> tuple[Parameter, int]:
    if name == "axis" and op.name in AXIS:
        return AXIS[op.name], 0
    if name in PARAMETERS:
        return PARAMETERS[name]
    default = op.params[name]
    if default is inspect.Parameter.empty:
        raise LookupError(f"{op.name}: no strategy for a parameter called {name!r}: add one to PARAMETERS")
    return (lambda shapes: st.just(default)), 0


# Operations whose shapes and parameters hang together: each function draws (shapes or arrays, parameters)

Drawn = tuple[list[Any], dict[str, Any]]
Plan = Callable[[Draw, Sizes], Drawn]


def _sum_to(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    return [shape], {"shape": part_of(draw, shape)}


def _broadcast_to(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    return [part_of(draw, shape)], {"shape": shape}


def _reshape(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    return [shape], {
        "shape": draw(st.sampled_from([(math.prod(shape),), shape[::-1], (1, *shape), (*shape, 1), shape]))
    }


def _unreduce(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    axis = draw(some_axes([shape]))
    kept = draw(st.booleans())
    before = tuple(1 if i in axis else n for i, n in enumerate(shape) if kept or i not in axis)
    return [before], {"shape": shape, "axis": axis}


def _roll(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes, 1)
    axis = draw(st.lists(one_axis([shape]), max_size=2).map(tuple))
    return [shape], {"axis": axis, "shift": tuple(draw(st.integers(-4, 4)) for _ in axis)}


def _split(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes, 1)
    axis = draw(one_axis([shape]))
    return [shape], {"axis": axis, "at": tuple(sorted(draw(st.lists(st.integers(0, shape[axis]), max_size=2))))}


def _concat(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes, 1)
    axis = draw(one_axis([shape]))
    lengths = draw(st.lists(st.integers(0, 2), min_size=1, max_size=3))
    return [(*shape[:axis], n, *shape[axis + 1 :]) for n in lengths], {"axis": axis}


def _an_index(draw: Draw, shape: Shape, basic: bool = True) -> tuple[Any, list[np.ndarray]]:
    """The template and the arrays of an index into an array of this shape; there are arrays for sure if not `basic`."""
    way = draw(st.sampled_from(["basic"] * basic + ["mask"] + ["rows", "mixed"] * bool(shape)))
    if way == "basic":
        index = draw(hnp.basic_indices(shape, allow_newaxis=True, max_dims=len(shape) + 1))
    elif way == "mask":
        index = np.array(draw(st.lists(st.booleans(), min_size=(n := math.prod(shape)), max_size=n)), bool).reshape(
            shape
        )
    else:
        count = draw(st.sampled_from([(2,), (3,), (0,), (2, 2), ()])) if shape[0] else (0,)
        which = st.integers(-shape[0], shape[0] - 1) if shape[0] else st.nothing()
        rows = np.array([draw(which) for _ in range(math.prod(count))], np.intp).reshape(count)
        index = rows if way == "rows" else (rows, Ellipsis, None)
    return _read(index)


def _getitem(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    template, arrays = _an_index(draw, shape)
    return [shape, *arrays], {"template": template}


def _selected(shape: Shape, template: Any, arrays: Sequence[np.ndarray]) -> Shape:
    return np.empty(shape)[key(template, arrays)].shape


def _setitem(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    template, arrays = _an_index(draw, shape)
    return [shape, part_of(draw, _selected(shape, template, arrays)), *arrays], {"template": template}


def _scatter(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    indices = [_an_index(draw, shape) for _ in range(draw(st.integers(1, 2)))]
    shapes = [_selected(shape, *index) for index in indices]
    params = {"shape": shape, "dtype": draw(st.sampled_from(FLOATS)), "templates": tuple(t for t, _ in indices)}
    return [*shapes, *(a for _, arrays in indices for a in arrays)], params


def _overwritten(draw: Draw, sizes: Sizes) -> Drawn:
    shape = a_shape(draw, sizes)
    template, arrays = _an_index(draw, shape, basic=False)
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


def _einsum(draw: Draw, sizes: Sizes) -> Drawn:
    left, right, out = draw(st.sampled_from(CONTRACTIONS)).replace("->", ",").split(",")
    names = sorted(set(left + right))
    length = dict(zip(names, _lengths(draw, len(names), sizes), strict=True))
    ones = {c for c in right if c in left and draw(st.booleans()) and draw(st.booleans())}  # these broadcast
    shapes = [tuple(length[c] for c in left), tuple(1 if c in ones else length[c] for c in right)]
    return shapes, {"a_axes": left, "b_axes": right, "axes": out}


def _assign(draw: Draw, sizes: Sizes) -> Drawn:
    return [shape := a_shape(draw, sizes), shape], {}


def _astype(draw: Draw, sizes: Sizes) -> Drawn:
    return [a_shape(draw, sizes)], {"dtype": draw(DISCRETE)}


def _random(**params: Callable[[Draw, Sizes], Any]) -> Plan:
    def plan(draw: Draw, sizes: Sizes) -> Drawn:
        state = np.array([draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 5))], np.uint64)
        return [state], {name: value(draw, sizes) for name, value in params.items()}

    return plan


def _float(draw: Draw, sizes: Sizes) -> Any:
    return draw(st.sampled_from(FLOATS))


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
    "random_uniform": _random(shape=a_shape, dtype=_float),
    "random_normal": _random(shape=a_shape, dtype=_float),
    "random_integers": _random(
        shape=a_shape, low=lambda d, s: d(st.integers(-3, 0)), high=lambda d, s: d(st.integers(1, 4))
    ),
    "random_permutation": _random(n=lambda d, s: d(st.integers(0, 4))),
    "random_split": _random(n=lambda d, s: d(st.integers(0, 3))),
    "random_next": _random(),
}
BOOLEAN_INPUTS = ("condition",)


def by_record(op: Op) -> Plan:
    """How shapes and parameters are drawn for an Op that has no entry in CALLS."""
    strategies = {name: _parameter(op, name) for name in op.params}
    at_least = max((axes for _, axes in strategies.values()), default=0)

    def plan(draw: Draw, sizes: Sizes) -> Drawn:
        if op.signature:
            shapes = by_signature(draw, op.signature, sizes)
        else:
            count = len(op.inputs) if op.star is None else len(op.inputs) + draw(st.integers(0, 2))
            shapes = broadcasting(draw, count, sizes, at_least)
        params = {}
        for name, (strategy, _) in strategies.items():
            drawn_from = strategy(shapes)
            assume(not drawn_from.is_empty)
            params[name] = draw(drawn_from)
        return list(shapes), params

    return plan


def key(template: Any, arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """The index that NumPy takes, from a template and its arrays."""
    rest = iter(arrays)
    items = (next(rest) if isinstance(item, str) and item == ARRAY else item for item in template)
    return tuple(slice(*item) if isinstance(item, Slice) else item for item in items)


# The strategy itself


@st.composite
def calls(
    draw: Draw,
    op: Op,
    regime: str | Sequence[str] = "exact",
    sizes: Sizes | Sequence[Sizes] = Sizes(),
    dtype: Any = np.float64,
    mixed: bool = False,
    plan: Plan | None = None,
) -> Call:
    """A call of an Op.

    Args:
        op: which one; if its shapes don't follow from its record, it has an entry in CALLS.
        regime: the magnitudes of its inputs, or several to choose from.
        sizes: what shapes, or several to choose from.
        dtype: of its floating-point inputs, or several to choose from.
        mixed: they have different dtypes instead, in any order: float32, float64 and int64.
        plan: how shapes and parameters are drawn; default: as the record, or the entry in CALLS, says.
    """
    regime = regime if isinstance(regime, str) else draw(st.sampled_from(regime))
    sizes = sizes if isinstance(sizes, Sizes) else draw(st.sampled_from(sizes))
    dtype = draw(st.sampled_from(dtype)) if isinstance(dtype, tuple) else dtype
    plan = plan or CALLS.get(op.name) or by_record(op)
    items, params = plan(draw, sizes)
    dtypes = draw(st.permutations([np.float32, np.float64, np.int64])) if mixed else [dtype]
    names = Call(op, tuple(items)).names
    shapes = [item for item in items if isinstance(item, tuple)]
    numbers = iter(_elements(draw, [math.prod(s) for s in shapes], regime))
    arrays = []
    for name, item in zip(names, items, strict=True):
        if isinstance(item, np.ndarray):
            arrays.append(item)
            continue
        x = into(next(numbers), op.domain.get(name, EVERYWHERE)).reshape(item)
        if name in BOOLEAN_INPUTS:
            arrays.append(np.asarray(x > 0))
            continue
        chosen = np.dtype(dtypes[len(arrays) % len(dtypes)])
        if chosen.kind == "i":
            x = np.ceil(np.abs(x))
        with np.errstate(all="ignore"):
            arrays.append(np.asarray(x, chosen))
    call = Call(op, tuple(arrays), params)
    assume(not mixed or call.spots)
    return call


def every_op() -> dict[str, Op]:
    """All the operations that the package declares, by name; those that tests declare are not among them."""
    for module in pkgutil.walk_packages(mg.__path__, "minigrad."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {name: op for name, op in sorted(registry.items()) if not _declared_outside(op)}


def _declared_outside(op: Op) -> bool:
    modules = {getattr(f, "__module__", None) or "numpy" for f in (op.forward, *op.vjp.values())}
    return not all(module.partition(".")[0] in ("minigrad", "numpy") for module in modules)


def exact_numbers(shape: Shape, rng: np.random.Generator, dtype: Any = np.float64) -> np.ndarray:
    """Multiples of 1/8 in [-2, 2], none of them 0: cotangents and directions whose products with `exact` are exact."""
    k = rng.integers(1, 17, shape) * rng.choice([-1, 1], shape)
    return np.asarray(k / 8, dtype)
