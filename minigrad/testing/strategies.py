"""Hypothesis strategies: arrays with interesting values, shapes that fit together, axes, indices, and calls of any Op.

What is drawn shrinks to what a person can read: few axes of length 1, zeros and ones. Elements are positions in a list
of numbers, VALUES, of which the simplest stand first; Hypothesis draws them as one string of bytes for a whole array,
which is fast, and shrinks it as a whole: zeros mean the simplest number.

- `interesting`: zeros of both signs, integers and half integers and their neighbours at 1e-7 (kinks and ties are
  there), numbers with a full mantissa, tiny and huge ones; all of these times a power of two, on which
  `hypothesis.target` climbs up to where something fails.
- `moderate`: the same without the tiny and the huge ones: what a whole model takes without overflow.
- `ordinary`: full mantissas, no two alike, away from integers, half integers and each other: no kinks, no ties.
- `exact`: such numbers, but odd multiples of 1/32 in (-4, 4), whose sums and products are exact: linear and bilinear
  operations are compared bit for bit.
- `ties`: few numbers, zeros of both signs among them.
- `extreme`: every exponent, the tails where slopes vanish, subnormal numbers.
- `nonfinite`: infinities and NaN among ordinary numbers.

Read `arrays` and `shapes`, then `calls`: the shapes of a call follow from the record of the Op (`kind` and
`signature`), its parameters from their names (PARAMETERS), its values from the domain that the record states.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib.array_utils import normalize_axis_tuple

from minigrad.core.op import Op
from minigrad.tensor import Tensor
from minigrad.testing.subject import Call

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Interval = tuple[float, float]
Strategy = st.SearchStrategy
Draw = Callable[[Strategy[Any]], Any]

FLOATS = (np.dtype(np.float64), np.dtype(np.float32))
EVERYWHERE = (-math.inf, math.inf)

# Values


def _both_signs(*xs: float) -> list[float]:
    return [s * x for x in xs for s in (1, -1)]


EXACT = sorted([(2 * k + 1) / 32 for k in range(-64, 64)], key=lambda x: (abs(x - 1), -x))
ORDINARY = [x * 0.7390851332151607 for x in EXACT]
SIMPLE = [0.0, *_both_signs(1.0, 2.0, 0.5, 3.0, 1.5), -0.0]
LARGER = _both_signs(3.3, 3.7)  # where a tail begins, not where all is flat
NEAR_KINKS = _both_signs(1e-7, 1 + 1e-7, 1 - 1e-7, 0.5 + 1e-7, 2 - 1e-7)
TAILS = [1.0, 3.0, 8.5, 17.0, 40.0, 88.0, 120.0, 300.0, 700.0, 1e4, 1e10, 1e20, 1e30]
TINY = [0.0, 1e-3, 1e-8, 1e-20, 1e-30, 1e-38, 1e-45]
VALUES: dict[str, list[float]] = {
    "interesting": [*SIMPLE, *NEAR_KINKS, *ORDINARY[:64:2], *_both_signs(8.5, 40.0, 300.0, 1e10, 1e-8, 1e-20, 1e30)],
    "moderate": [*SIMPLE, *NEAR_KINKS, *LARGER, *ORDINARY[:64:2]],
    "ordinary": ORDINARY,
    "exact": EXACT,
    "ties": [1.0, 0.0, -1.0, 0.5, -0.0, -1.5],
    "extreme": _both_signs(*TAILS, *TINY),
    "nonfinite": [1.0, math.inf, -math.inf, math.nan, 0.0, -2.0],
}
ALL_DIFFERENT = ("exact", "ordinary")
SCALES = {"interesting": (-64, 64), "moderate": (-4, 1)}  # exponents of two


def into(x: Array, domain: Interval) -> Array:
    """Numbers moved into an open interval; those inside stay where they are, and so do infinities and NaN.

    Example:
        >>> into(np.array([-2.0, 0.0, 3.0]), (0.0, np.inf))
        array([2., 1., 3.])
    """
    low, high = domain
    if (low, high) == EVERYWHERE:
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


def _numbers(draw: Draw, sizes: Sequence[int], values: str) -> Iterator[Array]:
    """So many numbers for each of several arrays, in float64."""
    if values not in VALUES:
        raise ValueError(f"values: expected one of {', '.join(VALUES)}, got {values!r}")
    pool = VALUES[values]
    positions = list(draw(st.binary(min_size=sum(sizes), max_size=sum(sizes))))
    if values in ALL_DIFFERENT:
        assume(len(positions) <= len(pool))
        taken: set[int] = set()
        for k, byte in enumerate(positions):
            i = byte % len(pool)
            while i in taken:
                i = (i + 1) % len(pool)
            taken.add(i)
            positions[k] = i
    chosen = np.array(pool)[np.array(positions, int) % len(pool)]
    for x in np.split(chosen, np.cumsum(sizes[:-1], dtype=int)):
        if values in SCALES and draw(st.booleans()):
            x = np.ldexp(x, draw(st.integers(*SCALES[values])))
        yield x


def _finish(x: Array, shape: Shape, dtype: Any, domain: Interval) -> Array:
    """Numbers as an array of a dtype, in a domain."""
    x = into(x, domain).reshape(shape)
    if np.dtype(dtype).kind == "i":
        x = np.ceil(np.abs(x))
    with np.errstate(all="ignore"):
        return np.asarray(x, dtype)


def _drawn(draw: Draw, x: Any) -> Any:
    return draw(x) if isinstance(x, Strategy) else x


@st.composite
def arrays(
    draw: Draw,
    shape: Shape | int | Strategy[Shape] | None = None,
    dtype: Any = np.float64,
    domain: Interval = EVERYWHERE,
    values: str = "interesting",
) -> Array:
    """Arrays of floating-point numbers.

    Args:
        shape: a shape, or a strategy of shapes; default: `shapes()`.
        dtype: float64 or float32, or a strategy of them.
        domain: the open interval where the elements lie.
        values: which numbers, one of VALUES.

    Raises:
        ValueError: values of no known name.

    Example: the simplest array whose elements are not all the same.
        >>> from hypothesis import find
        >>> find(arrays(), lambda x: x.size and x.min() < x.max())
        array([0., 1.])
        >>> find(arrays((2,), domain=(0.0, np.inf)), lambda x: True)
        array([1., 1.])
    """
    chosen = draw(shapes()) if shape is None else _drawn(draw, shape)
    chosen = (chosen,) if isinstance(chosen, int) else chosen
    (x,) = _numbers(draw, [math.prod(chosen)], values)
    return _finish(x, chosen, _drawn(draw, dtype), domain)


def tensors(
    shape: Shape | int | Strategy[Shape] | None = None,
    dtype: Any = np.float64,
    domain: Interval = EVERYWHERE,
    values: str = "interesting",
    requires_grad: bool = False,
) -> Strategy[Tensor]:
    """The same as `arrays`, as Tensors.

    Example:
        >>> from hypothesis import find
        >>> find(tensors((2,)), lambda x: float(x.sum()) == 1)
        Tensor([0., 1.])
    """
    return arrays(shape, dtype, domain, values).map(lambda x: Tensor(x, requires_grad=requires_grad))


# Shapes


@dataclass(frozen=True)
class Sizes:
    """What shapes are drawn.

    Axes are `shortest` to `longest` long, but with `empty` one of them has length 0; there are `axes` of them at least
    and `most` at most. `scalar`: no axes, where that is possible. `line`: one axis of so many elements, where that is
    possible. `alike`: inputs that would broadcast all have the same shape.
    """

    shortest: int = 1
    longest: int = 3
    axes: int = 0
    most: int = 3
    empty: bool = False
    scalar: bool = False
    line: int = 0
    alike: bool = False


def lengths(count: int, sizes: Sizes = Sizes()) -> Strategy[Shape]:
    """Shapes of so many axes."""
    several = st.tuples(*[st.integers(sizes.shortest, sizes.longest)] * count)
    if not (sizes.empty and count):
        return several
    return st.builds(lambda shape, i: (*shape[:i], 0, *shape[i + 1 :]), several, st.integers(0, count - 1))


def shapes(sizes: Sizes = Sizes(), at_least: int = 0) -> Strategy[Shape]:
    """Shapes of arrays.

    Args:
        sizes: how many axes, and how long.
        at_least: so many axes are needed whatever `sizes` says.

    Example:
        >>> from hypothesis import find
        >>> find(shapes(), lambda shape: True), find(shapes(Sizes(empty=True)), lambda shape: True)
        ((), (0,))
        >>> find(shapes(Sizes(longest=5)), lambda shape: 4 in shape)
        (4,)
    """
    if sizes.line and at_least <= 1:
        return st.just((sizes.line,))
    least = at_least if sizes.scalar else max(at_least, sizes.axes, int(sizes.empty))
    most = least if sizes.scalar else max(least, sizes.most)
    return st.integers(least, most).flatmap(lambda count: lengths(count, sizes))


@st.composite
def part_of(draw: Draw, shape: Shape) -> Shape:
    """Shapes that broadcast to another one: some leading axes are missing, some are 1.

    Example:
        >>> from hypothesis import find
        >>> find(part_of((2, 3)), lambda shape: len(shape) == 2), find(part_of((2, 3)), lambda shape: 1 in shape)
        ((2, 3), (1,))
    """
    part = shape[len(shape) - draw(st.integers(0, len(shape))) :]
    return tuple(1 if draw(st.booleans()) else n for n in part)


@st.composite
def broadcastable_shapes(draw: Draw, signature: str | int, sizes: Sizes = Sizes()) -> list[Shape]:
    """Shapes of inputs that go together.

    Args:
        signature: core dimensions in the manner of NumPy's generalised ufuncs, such as "(m,k),(k,n)->(m,n)", where
            leading ones broadcast; or just how many inputs broadcast.
        sizes: how many axes, and how long.

    Returns:
        A list of shapes, one for each input; one of them has all the leading axes.

    Example:
        >>> from hypothesis import find
        >>> find(broadcastable_shapes("(m,k),(k,n)->(m,n)"), lambda shapes: len(shapes[0]) > 2)
        [(1, 1, 1), (1, 1)]
        >>> find(broadcastable_shapes(2), lambda shapes: shapes[0] != shapes[1])
        [(1,), ()]
    """
    each = [[] for _ in range(signature)] if isinstance(signature, int) else cores(signature)
    names = sorted({name for core in each for name in core})
    if names:  # of these axes alone there can be many
        outer = draw(shapes(Sizes(sizes.shortest, sizes.longest, most=min(sizes.most, 2), scalar=sizes.scalar)))
        length = dict(zip(names, draw(lengths(len(names), sizes)), strict=True))
    else:
        outer, length = draw(shapes(sizes)), {}
    full = 0 if sizes.alike else draw(st.integers(0, len(each) - 1))
    outers = [outer if i == full or sizes.alike else draw(part_of(outer)) for i in range(len(each))]
    return [(*o, *(length[name] for name in core)) for o, core in zip(outers, each, strict=True)]


def cores(signature: str) -> list[list[str]]:
    """The names of the core dimensions of each input.

    Raises:
        ValueError: something that is no signature.

    Example:
        >>> cores("(m,k),(k,n)->(m,n)")
        [['m', 'k'], ['k', 'n']]
    """
    inputs = signature.replace(" ", "").partition("->")[0]
    if not inputs.startswith("(") or not inputs.endswith(")"):
        raise ValueError(f"signature: expected something like '(m,k),(k,n)->(m,n)', got {signature!r}")
    return [[name for name in core.split(",") if name] for core in inputs[1:-1].split("),(")]


# Axes and indices


def axes(shape: Shape) -> Strategy[Any]:
    """What NumPy's `axis=` takes for an array of this shape: one axis, a tuple of several, or None; negative ones too.

    Example:
        >>> from hypothesis import find
        >>> [find(axes((2, 3)), lambda axis: type(axis) is kind) for kind in (int, tuple, type(None))]
        [0, (), None]
    """
    ndim = len(shape)
    if not ndim:
        return st.sampled_from([None, ()])
    one = st.integers(-ndim, ndim - 1)
    several = st.lists(one, max_size=ndim, unique_by=lambda i: i % ndim).map(tuple)
    return st.one_of(one, several, st.none())


def indices(shape: Shape, basic: bool = True) -> Strategy[Any]:
    """What stands between brackets after an array of this shape: integers, slices, ..., None, arrays, masks.

    Args:
        shape: of the array.
        basic: also indices without an array.

    Example:
        >>> from hypothesis import find
        >>> find(indices((3,)), lambda index: isinstance(index, np.ndarray) and np.zeros(3)[index].size == 2)
        array([0, 0])
    """
    ways: list[Strategy[Any]] = [hnp.basic_indices(shape, allow_newaxis=True, max_dims=len(shape) + 1)] if basic else []
    if shape:
        counts = st.sampled_from([(2,), (3,), (0,), (2, 2), ()]) if shape[0] else st.just((0,))
        rows = counts.flatmap(lambda count: _integers(count, shape[0]))
        ways += [rows, rows.map(lambda array: (array, Ellipsis, None))]
    size = math.prod(shape)
    masks = st.lists(st.booleans(), min_size=size, max_size=size)
    return st.one_of(*ways, masks.map(lambda mask: np.array(mask, bool).reshape(shape)))


def _integers(count: Shape, length: int) -> Strategy[Array]:
    """Arrays of positions along an axis, which may count from its end."""
    size = math.prod(count)
    each = st.integers(-length, length - 1) if length else st.nothing()
    return st.lists(each, min_size=size, max_size=size).map(lambda rows: np.array(rows, np.intp).reshape(count))


# Calls


class Parameter(NamedTuple):
    """How a parameter is drawn: the strategy that goes with the shapes of the inputs, which all need `ndim` axes."""

    given: Callable[[Sequence[Shape]], Strategy[Any]]
    ndim: int = 0


PARAMETERS: dict[str, Parameter] = {
    "axis": Parameter(lambda shapes: st.integers(0, len(shapes[0]) - 1), 1),
    "axes": Parameter(lambda shapes: st.permutations(range(len(shapes[0]))).map(tuple)),
    "keepdims": Parameter(lambda shapes: st.booleans()),
    "dtype": Parameter(lambda shapes: st.sampled_from(FLOATS)),
}


def some_axes(shape: Shape) -> Strategy[Shape]:
    """Several axes of an array as operations get them from the public functions: not negative, in order."""
    return axes(shape).map(
        lambda axis: tuple(range(len(shape))) if axis is None else tuple(sorted(normalize_axis_tuple(axis, len(shape))))
    )


Inputs = tuple[
    Sequence[Shape | Array], Mapping[str, Any]
]  # inputs as shapes, or as arrays if values matter; parameters
Plan = Callable[[Sizes], Strategy[Inputs]]


def by_record(op: Op, **parameters: Parameter | Strategy[Any]) -> Plan:
    """How the shapes and parameters of an Op's calls are drawn: by `kind` and `signature`, and by name.

    Args:
        op: which operation.
        parameters: how those are drawn whose names don't tell (see PARAMETERS). One that has a default keeps it.

    Raises:
        LookupError: a parameter of which nothing is known.

    Example:
        >>> from hypothesis import find
        >>> steps = Op("steps", lambda x, *, step: x[..., ::step])
        >>> find(by_record(steps, step=st.integers(1, 3))(Sizes()), lambda drawn: drawn[1]["step"] > 1)
        ([()], {'step': 2})
    """
    known = {name: _parameter(op, name, parameters) for name in op.params}
    at_least = max((parameter.ndim for parameter in known.values()), default=0)

    @st.composite
    def inputs(draw: Draw, sizes: Sizes) -> Inputs:
        count = len(op.inputs) if op.star is None else len(op.inputs) + draw(st.integers(0, 2))
        if at_least and not op.signature:
            drawn = [draw(shapes(sizes, at_least))] * count
        else:
            drawn = draw(broadcastable_shapes(op.signature or count, sizes))
        params = {}
        for name, parameter in known.items():
            given = parameter.given(drawn)
            assume(not given.is_empty)
            params[name] = draw(given)
        return drawn, params

    return inputs


def _parameter(op: Op, name: str, parameters: Mapping[str, Parameter | Strategy[Any]]) -> Parameter:
    found = parameters.get(name, PARAMETERS.get(name))
    if isinstance(found, Parameter):
        return found
    if found is None and op.params[name] is inspect.Parameter.empty:
        raise LookupError(
            f"{op.name}: nothing says how the parameter {name!r} is drawn: pass calls=by_record({op.name}, {name}=...) "
            "with a strategy"
        )
    strategy = st.just(op.params[name]) if found is None else found
    return Parameter(lambda shapes: strategy)


BOOLEAN_INPUTS = ("condition",)


@st.composite
def calls(
    draw: Draw,
    op: Op,
    values: str | Sequence[str] = "interesting",
    sizes: Sizes | Sequence[Sizes] = Sizes(),
    dtype: Any = np.float64,
    mixed: bool = False,
    plan: Plan | Strategy[Inputs] | None = None,
) -> Call:
    """Calls of an Op.

    Args:
        op: which one.
        values: of its inputs, one of VALUES, or several to choose from.
        sizes: what shapes, or several to choose from.
        dtype: of its floating-point inputs, or several to choose from.
        mixed: they have different dtypes instead, in any order: float32, float64 and int64.
        plan: how shapes and parameters are drawn, where the record does not say; default: `by_record(op)`. A strategy
            of (inputs, parameters), or a function from Sizes to such a strategy. An input is a shape, or an array whose
            values are as they must be.

    Example:
        >>> from hypothesis import find
        >>> twice = Op("twice", lambda x: 2 * x, kind="linear")
        >>> find(calls(twice), lambda call: call.arrays[0].shape == (2,))
        twice(array([0., 0.]))
    """
    values = values if isinstance(values, str) else draw(st.sampled_from(values))
    sizes = sizes if isinstance(sizes, Sizes) else draw(st.sampled_from(sizes))
    dtype = draw(st.sampled_from(dtype)) if isinstance(dtype, tuple) else dtype
    plan = by_record(op) if plan is None else plan
    items, params = draw(plan if isinstance(plan, Strategy) else plan(sizes))
    dtypes = draw(st.permutations([np.float32, np.float64, np.int64])) if mixed else [dtype]
    names = Call(op, tuple(items)).names
    numbers = _numbers(draw, [math.prod(item) for item in items if isinstance(item, tuple)], values)
    if values == "ties" and draw(st.booleans()):  # between inputs, too
        drawn = [*numbers]
        longest = max(drawn, key=len, default=np.zeros(0))
        numbers = (np.resize(longest, len(x)) for x in drawn)
    xs: list[Array] = []
    for name, item in zip(names, items, strict=True):
        chosen = dtypes[len(xs) % len(dtypes)]
        if isinstance(item, np.ndarray):
            xs.append(item.astype(chosen) if item.dtype.kind == "f" else item)
        elif name in BOOLEAN_INPUTS:
            xs.append(np.asarray(next(numbers).reshape(item) > 0))
        else:
            xs.append(_finish(next(numbers), item, chosen, op.domain.get(name, EVERYWHERE)))
    call = Call(op, tuple(xs), dict(params))
    assume(not mixed or call.spots)
    return call
