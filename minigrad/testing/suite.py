"""The generic suite: what must hold for any Op, as a class of tests; and `gradcheck`, which tests any gradient.

    TestCube = op_suite(cube)

in a test module has pytest run every check below that applies to the Op `cube`, each over calls that Hypothesis draws
from the Op's own record. A check is a function that takes a `Call` and raises an AssertionError; its decorator says
with which calls it is to be run, and for which Ops. Some ask for the `oracle` too: what NumPy computes. Derivatives are
judged by `check_call`; everything else that a wrong rule or forward can do is looked at here: values far out, dtypes,
layouts, aliases, what is kept alive, whether a rule gives the same bits on arrays, on Tensors and under a tape.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, currently_in_test_context, given, settings, target
from hypothesis import strategies as st

from minigrad import kernels
from minigrad.core.op import Op
from minigrad.core.value import Like
from minigrad.ops.manipulation import concat, reshape
from minigrad.tape import record
from minigrad.tensor import Tensor
from minigrad.testing import plugin
from minigrad.testing.accuracy import lost_digits
from minigrad.testing.blame import UNITS
from minigrad.testing.check import GradientError, check, check_call
from minigrad.testing.report import Report
from minigrad.testing.strategies import (
    EVERYWHERE,
    FLOATS,
    Array,
    Inputs,
    Interval,
    Plan,
    Shape,
    Sizes,
    Strategy,
    arrays,
    broadcastable_shapes,
    calls,
    cores,
)
from minigrad.testing.subject import Call, OfCall
from minigrad.transforms import jvp, vjp

Oracle = Callable[..., Any]

ALIKE = Sizes(alike=True)
SQUARE = Sizes(2, 2, axes=2)  # what is transposed shows in no other shape
DOZEN = Sizes(line=12)  # many at once, but few enough for the judge to look at each of them alone
LINE = Sizes(line=40, alike=True)  # many numbers at once, to meet rare ones


@dataclass(frozen=True)
class Check:
    """A property, the calls that it is to be run with, and the Ops that it is for."""

    name: str
    holds: Callable[..., None]
    draws: dict[str, Any]
    suits: Callable[[Op], bool]

    def applies(self, op: Op, oracle: Oracle | None = None) -> bool:
        """Whether it is for this Op: a check that asks for the oracle needs one."""
        return self.suits(op) and (oracle is not None or self._asks is not inspect.Parameter.empty)

    @functools.cached_property
    def _asks(self) -> Any:
        """The default of the parameter `oracle`: `empty` if there must be one, False if it does not ask for one."""
        asked = inspect.signature(self.holds).parameters.get("oracle")
        return False if asked is None else asked.default

    def calls(self, op: Op, **options: Any) -> Strategy[Call]:
        """The strategy of calls of an Op for this check; `options` differ from what the check wants."""
        draws = {"values": "exact", **self.draws, **options}
        values = draws.pop("values")
        return calls(op, values=values(op) if callable(values) else values, **draws)

    def run(self, call: Call, oracle: Oracle | None = None) -> None:
        """AssertionError unless the property holds for the call."""
        if self._asks is False:
            self.holds(call)
        else:
            self.holds(call, oracle)


CHECKS: dict[str, Check] = {}


def any_op(op: Op) -> bool:
    """True."""
    return True


def has_rules(op: Op) -> bool:
    """Whether a gradient flows through an operation."""
    return bool(op.vjp)


def is_exact(op: Op) -> bool:
    """Whether an operation is of first degree in each input, so that its rules can be compared bit for bit."""
    return has_rules(op) and op.kind in ("linear", "bilinear")


def checked(suits: Callable[[Op], bool] = has_rules, **draws: Any) -> Callable[[Any], Any]:
    """Register a function as a check, for the Ops that it suits, with calls drawn as `draws` says."""

    def register(holds: Callable[..., None]) -> Callable[..., None]:
        CHECKS[holds.__name__] = Check(holds.__name__, holds, draws, suits)
        return holds

    return register


# Running a call


def several(y: Any) -> tuple[Any, ...]:
    """Outputs as a tuple, of one too."""
    return tuple(y) if isinstance(y, tuple) else (y,)


def forward(call: Call) -> tuple[Array, ...]:
    """The outputs, on arrays."""
    return several(call.op(*call.arrays, **call.params))


def exact_numbers(shape: Shape, rng: np.random.Generator, dtype: Any = np.float64) -> Array:
    """Multiples of 1/8 in [-2, 2], none of them 0: cotangents and directions whose products with `exact` are exact."""
    k = rng.integers(1, 17, shape) * rng.choice([-1, 1], shape)
    return np.asarray(k / 8, dtype)


def rng_for(call: Call) -> np.random.Generator:
    """Random numbers for cotangents and directions: the same in every run of a call."""
    return np.random.default_rng([x.size for x in call.arrays])


def cotangents(call: Call, rng: np.random.Generator | None = None) -> list[Array]:
    """Cotangents for the outputs."""
    rng = rng or rng_for(call)
    return [exact_numbers(y.shape, rng, y.dtype) for y in forward(call)]


def pull(call: Call, us: Sequence[Any]) -> list[Array]:
    """The VJP: the cotangents of the differentiable inputs from those of the outputs."""
    y, pullback = vjp(call.f, *map(Tensor, call.xs))
    return [x_bar.data for x_bar in pullback(tuple(us) if isinstance(y, tuple) else us[0])]


def on_tensors(call: Call, chosen: Sequence[int] | None = None) -> list[Tensor]:
    """The inputs as tensors, on the very memory of the arrays, of which the chosen ones (None: all that can) require a
    gradient; they are numbered as in `call.xs`."""
    xs = [Tensor.wrap(_frozen(x)) for x in call.arrays]
    for k in range(len(call.spots)) if chosen is None else chosen:
        xs[call.spots[k]].requires_grad = True
    return xs


def _frozen(x: Array) -> Array:
    x = x.view()
    x.setflags(write=False)
    return x


def backward(ys: Sequence[Any], us: Sequence[Array], **options: Any) -> None:
    """Backward from one output, or from all of several."""
    if len(ys) == 1:
        ys[0].backward(Tensor.wrap(_frozen(us[0])), **options)
    else:
        total = concat([reshape(y, -1) for y in ys])
        total.backward(np.concatenate([u.reshape(-1) for u in us]), **options)


def gradients(call: Call, us: Sequence[Array], chosen: Sequence[int] | None = None, **options: Any) -> list[Array]:
    """What backward leaves in `.grad` of the chosen inputs (None: of all that can have one)."""
    xs = on_tensors(call, chosen)
    backward(several(call.op(*xs, **call.params)), us, **options)
    return [x.grad.data for x in xs if x.grad is not None]


def results(call: Call, us: Sequence[Array]) -> list[Array]:
    """Outputs, and gradients of all inputs that can have one."""
    ys = several(call.op(*on_tensors(call, []), **call.params))
    return [*(y.data for y in ys), *(gradients(call, us) if call.spots else [])]


def inner(xs: Sequence[Any], ys: Sequence[Any]) -> float:
    """⟨xs, ys⟩ over all arrays, in float64."""
    return float(sum(np.sum(x.astype(np.float64) * y, dtype=np.float64) for x, y in zip(xs, ys, strict=True)))


def insist(holds: Any, what: str) -> None:
    """AssertionError unless it holds."""
    if not holds:
        raise AssertionError(what)


def same_bits(a: Any, b: Any, what: str) -> None:
    """AssertionError unless two arrays have the same dtype, shape and bits; one NaN is as good as another."""
    a, b = np.asarray(a), np.asarray(b)
    insist((a.dtype, a.shape) == (b.dtype, b.shape), f"{what}: {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if a.dtype.kind == "f":
        a, b = (np.where(np.isnan(x), np.asarray(np.nan, x.dtype), x) for x in (a, b))
    insist(a.tobytes() == b.tobytes(), f"{what} differ:\n{a!r}\n{b!r}")


# Values


@checked(any_op, values=("exact", "ordinary"), dtype=FLOATS)
def as_numpy(call: Call, oracle: Oracle) -> None:
    """The forward is what NumPy computes."""
    compare_forward(call, oracle)


@checked(any_op, values=("extreme", "ties"), dtype=FLOATS, sizes=LINE)
def extremes(call: Call, oracle: Oracle) -> None:
    """So it is for numbers of every magnitude and in ties; it warns of nothing that NumPy does not warn of."""
    compare_forward(call, oracle)


@checked(any_op, values="nonfinite", dtype=FLOATS, sizes=LINE)
def nonfinite(call: Call, oracle: Oracle) -> None:
    """Infinities and NaN go through as they do in NumPy."""
    with np.errstate(all="ignore"):
        compare_forward(call, oracle)


def cancelling(size: Callable[..., Any]) -> Callable[[Oracle], Oracle]:
    """Mark an oracle in which larger numbers cancel than its result and inputs show: `size(*inputs)` is how large.

    Example: 1 + 2x as the difference of two squares.
        >>> @cancelling(lambda x: (1 + abs(x)) ** 2)
        ... def oracle(x):
        ...     return (1 + x) ** 2 - x**2
    """

    def mark(oracle: Oracle) -> Oracle:
        oracle.size = size  # type: ignore[attr-defined]
        return oracle

    return mark


def _terms(call: Call, oracle: Oracle, ys: Sequence[Array]) -> list[Array]:
    """How large the numbers are that are summed in each output: Σ|∂y/∂x·x|, unless the oracle says."""
    with np.errstate(all="ignore"):
        if hasattr(oracle, "size"):
            return [np.asarray(oracle.size(*call.arrays), np.float64)] * len(ys)
        if call.op.kind == "elementwise" or not call.spots:
            return [np.zeros(())] * len(ys)
        found = [np.zeros(y.shape) for y in ys]
        for k, y in enumerate(ys):
            for i in np.ndindex(y.shape):
                us = [np.zeros_like(z) for z in ys]
                us[k][i] = 1
                terms = (np.abs(x_bar * np.float64(x)) for x, x_bar in zip(call.xs, pull(call, us), strict=True))
                found[k][i] = sum(float(np.sum(t, where=np.isfinite(t))) for t in terms)
        return found


def compare_forward(call: Call, oracle: Oracle) -> None:
    """AssertionError unless the operation gives what the oracle gives, with as few warnings."""
    arrays = call.arrays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            wants = several(oracle(*arrays, **call.params))
        except RuntimeWarning:
            warnings.simplefilter("ignore")
            wants = several(oracle(*arrays, **call.params))
        ys = several(call.op(*arrays, **call.params))
        on_tensors = several(call.op(*map(Tensor.wrap, arrays), **call.params)) if arrays else ys
    insist(len(ys) == len(wants), f"{len(ys)} outputs, {len(wants)} in NumPy")
    sizes = _terms(call, oracle, ys)
    for y, want, t, size in zip(ys, map(np.asarray, wants), on_tensors, sizes, strict=True):
        insist(isinstance(y, np.ndarray), f"expected an array, got {type(y).__name__}")
        same = (y.dtype, y.shape) == (want.dtype, want.shape)
        insist(same, f"{y.dtype} {y.shape}, NumPy {want.dtype} {want.shape}")
        if y.dtype.kind == "f":
            rtol = 64 * float(np.finfo(y.dtype).eps)
            atol = rtol * size + 4 * float(np.finfo(y.dtype).smallest_subnormal)
            with np.errstate(invalid="ignore"):
                wrong = ~np.isclose(y.astype(np.float64), want.astype(np.float64), rtol, atol, equal_nan=True)
            insist(not wrong.any(), f"{y[wrong]}, but {want[wrong]} in NumPy")
        else:
            insist(np.array_equal(y, want), f"{y}, but {want} in NumPy")
        same_bits(t.array if isinstance(t, Tensor) else t, y, "results on arrays and on tensors")


# Derivatives


def _insist_on(report: Report, allow_unsure: bool = False) -> None:
    """GradientError unless the report is a pass; and let Hypothesis climb towards reports that are nearly none."""
    with np.errstate(divide="ignore"):
        height = float(np.clip(np.log10(report.worst), None, 3.0))
    if math.isfinite(height) and currently_in_test_context():
        target(height, label="how near to failing")
    if report.verdict == "fail" or (report.verdict == "unsure" and not allow_unsure):
        raise GradientError(report)


def away_from_kinks(op: Op) -> Sequence[str]:
    """Numbers with a full mantissa, and others if the operation is differentiable everywhere in its domain."""
    return ("ordinary",) if op.undifferentiable else ("ordinary", "moderate", "ties")


@checked(values=away_from_kinks, sizes=(Sizes(), SQUARE, DOZEN), dtype=FLOATS)
def derivative(call: Call) -> None:
    """VJP and JVP are the derivative of the forward."""
    _insist_on(check_call(call))


@checked(values="ordinary", sizes=(Sizes(longest=2, most=1), Sizes(2, 2, axes=1, most=2)))
def second_derivative(call: Call) -> None:
    """So are those of the VJP itself, in the inputs and in the cotangent."""
    _insist_on(check_call(call, order=2))


@checked(
    lambda op: has_rules(op) and bool(op.undifferentiable), values=("ties", "moderate"), sizes=(Sizes(longest=2), DOZEN)
)
def subgradient(call: Call) -> None:
    """At kinks and ties the rule takes a valid subgradient: along any line between the slopes on either side.

    Where the operation jumps there is none, and nobody can tell.
    """
    _insist_on(check_call(call), allow_unsure=True)


@checked(values=("interesting", "extreme"))
def far_out(call: Call) -> None:
    """The derivative is right at numbers of any magnitude, or nobody can tell because of overflow or rounding there."""
    with np.errstate(all="ignore"):
        _insist_on(check_call(call), allow_unsure=True)


@checked(sizes=(Sizes(), SQUARE))
def transpose(call: Call) -> None:
    """⟨u, Jv⟩ = ⟨Jᵀu, v⟩, whichever inputs are differentiated: bit for bit if the operation is linear or bilinear.

    The JVP of a linear operation is its forward, so that this is its exact adjoint identity ⟨u, f(v)⟩ = ⟨fᵀ(u), v⟩.
    """
    rng = rng_for(call)
    us = cotangents(call, rng)
    x_bars, vs = pull(call, us), [exact_numbers(x.shape, rng, x.dtype) for x in call.xs]
    for x, x_bar in zip(call.xs, x_bars, strict=True):
        same = (x_bar.shape, x_bar.dtype) == (x.shape, x.dtype)
        insist(same, f"cotangent {x_bar.dtype} {x_bar.shape} of an input {x.dtype} {x.shape}")
    for chosen in subsets(len(vs)):

        def f(*some: Any, chosen: tuple[int, ...] = chosen) -> Any:
            given = dict(zip(chosen, some, strict=True))
            return call.f(*(given.get(i, x) for i, x in enumerate(call.xs)))

        y, dy = jvp(f, tuple(Tensor(call.xs[i]) for i in chosen), tuple(Tensor(vs[i]) for i in chosen))
        for a, b in zip(several(y), several(dy), strict=True):
            insist((a.shape, a.dtype) == (b.shape, b.dtype), f"tangent {b.dtype} {b.shape} of {a.dtype} {a.shape}")
        got = inner([d.data for d in several(dy)], us)
        want = inner([x_bars[i] for i in chosen], [vs[i] for i in chosen])
        off = 0.0 if is_exact(call.op) else 1e-11 * (1 + abs(want))
        insist(abs(got - want) <= off, f"⟨u, Jv⟩ = {got}, but ⟨Jᵀu, v⟩ = {want}")


def subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Each alone, and all together."""
    return iter(dict.fromkeys([*((i,) for i in range(count)), *([tuple(range(count))] if count else [])]))


@checked()
def linear_in_the_cotangent(call: Call) -> None:
    """Jᵀ(2u + w) = 2Jᵀu + Jᵀw, bit for bit if the operation is linear or bilinear, and Jᵀ0 = 0."""
    rng = rng_for(call)
    us, ws = cotangents(call, rng), cotangents(call, rng)
    both = pull(call, [2 * u + w for u, w in zip(us, ws, strict=True)])
    for got, a, b in zip(both, pull(call, us), pull(call, ws), strict=True):
        want = 2 * a + b
        allowed = 0.0 if is_exact(call.op) else 1e-12 * np.max(np.abs(want), initial=0.0)
        insist(np.all(np.abs(got - want) <= allowed), f"the VJP of a sum is {got}, the sum of VJPs {want}")
    for x_bar in pull(call, [np.zeros_like(u) for u in us]):
        insist(not x_bar.any(), "the VJP of 0 is not 0")


@checked(
    lambda op: op.kind == "elementwise" and has_rules(op),
    values=("extreme", "ordinary"),
    sizes=LINE,
    dtype=np.float32,
)
def accurate_in_float32(call: Call) -> None:
    """The rules lose no digits in float32, in the tails neither: see `accuracy`."""
    with np.errstate(all="ignore"):
        lost = lost_digits(OfCall(call), OfCall(call.in_float64()), UNITS)
    insist(lost is None, str(lost))


# How arrays come in


def layouts(x: Array) -> dict[str, Array]:
    """An array in other layouts of memory."""
    twice = np.repeat(x, 2, -1)[..., ::2] if x.ndim else np.array([x, x])[0]
    around = np.flip(np.flip(x).copy(order="C"))
    return {"Fortran": np.array(x, order="F"), "strided": twice, "reversed": around, "read-only": _frozen(x.copy())}


def exact_where_possible(op: Op) -> str:
    """Sums that are exact don't depend on the order of terms; other operations see numbers with full mantissas."""
    return "exact" if is_exact(op) else "ordinary"


def same_results(op: Op, got: Sequence[Array], want: Sequence[Array], what: str) -> None:
    """AssertionError unless results from two layouts of memory are the same.

    To the bit, where no rounding is involved, else to a few units in the last place: NumPy computes exp or tanh of
    contiguous memory by another loop than of other memory, and sums in the order of memory.
    """
    for a, b in zip(got, want, strict=True):
        if is_exact(op) or not op.vjp:
            same_bits(a, b, what)
        else:
            insist(a.dtype == b.dtype, f"{what}: {a.dtype} and {b.dtype}")
            rtol = 8 * float(np.finfo(a.dtype).eps)
            atol = 16 * rtol  # products are 16 at most
            insist(a.shape == b.shape and np.allclose(a, b, rtol, atol, equal_nan=True), f"{what} differ:\n{a}\n{b}")


@checked(any_op, values=exact_where_possible, sizes=(Sizes(alike=True, axes=2, shortest=2), ALIKE))
def layout(call: Call) -> None:
    """The order of an array in memory changes nothing, and nothing is written into inputs."""
    us = cotangents(call) if call.spots else []
    want = results(call, us)
    ways, u_ways = [layouts(x) for x in call.arrays], [layouts(u) for u in us]
    for name in ("Fortran", "strided", "reversed", "read-only"):
        moved = Call(call.op, tuple(way[name] for way in ways), call.params)
        before = [x.copy() for x in moved.arrays]
        same_results(call.op, results(moved, [way[name] for way in u_ways]), want, f"results of C and {name} order")
        on_arrays = forward(moved)
        same_results(call.op, on_arrays, want[: len(on_arrays)], f"results of C and {name} order, on arrays")
        for a, b in zip(moved.arrays, before, strict=True):
            same_bits(a, b, "an input before and after")


@checked(any_op, values=exact_where_possible, sizes=ALIKE)
def zero_strides(call: Call) -> None:
    """Inputs that np.broadcast_to made, with strides of 0, are as good as copies of them."""
    thin = [
        np.broadcast_to(x[..., :1], x.shape) if x.ndim and x.dtype.kind == "f" and x.size else x for x in call.arrays
    ]
    full = Call(call.op, tuple(np.array(x) for x in thin), call.params)
    us = cotangents(full) if call.spots else []
    got, want = results(Call(call.op, tuple(thin), call.params), us), results(full, us)
    same_results(call.op, got, want, "results with strides of 0 and without")


@checked(dtype=np.float32)
def float32(call: Call) -> None:
    """float32 in, float32 out, forward and backward."""
    _dtypes(call)


@checked(lambda op: has_rules(op) and len(op.inputs) > 1, mixed=True)
def mixed_dtypes(call: Call) -> None:
    """Dtypes that differ promote as in NumPy; each gradient has the dtype of its input."""
    _dtypes(call)


# the output's dtype, where it is not what NumPy promotes the inputs to: what is put into an array takes its dtype
INTO = ("setitem", "scatter_add")


def _dtypes(call: Call) -> None:
    ys = forward(call)
    floats = [x.dtype for x, name in zip(call.arrays, call.names, strict=True) if name in call.op.vjp]
    usual = call.arrays[0].dtype if call.op.name in INTO else np.result_type(*floats)
    want = call.params.get("dtype") or usual
    for y in ys:
        insist(y.dtype == want, f"{', '.join(map(str, floats))} gave {y.dtype}, not {want}")
    for x, x_bar in zip(call.xs, pull(call, cotangents(call)), strict=True):
        insist(x_bar.dtype == x.dtype, f"the gradient of a {x.dtype} input is {x_bar.dtype}")


@checked(lambda op: op.kind == "elementwise" and len(op.inputs) > 1, values="ordinary", dtype=np.float32)
def weak_scalars(call: Call) -> None:
    """Python's and NumPy's scalars don't widen a float32 tensor."""
    for i in call.spots:
        others = [0.5 if k != i and x.dtype.kind == "f" else x for k, x in enumerate(call.arrays)]
        for kind in (float, np.float64):
            given = [kind(x) if isinstance(x, float) else x for x in others]
            x = Tensor(call.arrays[i], requires_grad=True)
            given[i] = x
            y = call.op(*given, **call.params)
            insist(y.dtype == np.float32, f"a {kind.__name__} widened float32 to {y.dtype}")
            y.backward(np.ones(y.shape, np.float32))
            insist(x.grad is not None and x.grad.dtype == np.float32, f"a {kind.__name__} widened the gradient")


@checked(any_op, sizes=ALIKE)
def integers(call: Call, oracle: Oracle) -> None:
    """Integers are taken as NumPy takes them, with its dtype, or refused as it refuses them."""
    arrays = tuple(np.asarray(np.ceil(np.abs(x)), np.int64) if x.dtype.kind == "f" else x for x in call.arrays)
    try:
        oracle(*arrays, **call.params)
    except (TypeError, ValueError) as refusal:
        try:
            call.op(*arrays, **call.params)
        except (TypeError, ValueError):
            return
        raise AssertionError(f"NumPy refuses integers ({refusal}), the operation takes them") from refusal
    compare_forward(Call(call.op, arrays, call.params), oracle)
    ys = several(call.op(*map(Tensor, arrays), **call.params))
    insist(not any(y.requires_grad for y in ys), "integers require a gradient")


@checked(any_op, sizes=(Sizes(empty=True), Sizes(scalar=True)))
def empty_or_0d(call: Call, oracle: Oracle | None = None) -> None:
    """Arrays without elements, and without axes: values, and derivatives of every kind."""
    if oracle is not None:
        compare_forward(call, oracle)
    ys = forward(call)
    if call.spots and ys and all(np.isfinite(y).all() for y in ys):  # the log of an empty sum is -inf
        empty = any(x.size == 0 for x in call.xs)
        _insist_on(check_call(call, order=2 if empty else 1))
        transpose(call)


# Memory


@checked(any_op)
def no_aliases(call: Call) -> None:
    """No result is one of the inputs, or can be written to; gradients share their memory with nothing."""
    xs = on_tensors(call)
    ys = several(call.op(*xs, **call.params))
    for y in ys:
        insist(all(y is not x and y.array is not x.array for x in xs), "the output is one of the inputs")
        insist(not y.array.flags.writeable, "the output can be written to")
    us = cotangents(call) if call.spots else []
    others = [*(x.array for x in xs), *(y.array for y in ys), *us]
    for create_graph in (False, True):
        if call.spots:
            backward(ys, us, retain_graph=True, create_graph=create_graph)
        grads = [x.grad.array for x in xs if x.grad is not None]
        insist(not any(g.flags.writeable for g in grads), "a gradient can be written to")
        pairs = [*itertools.combinations(grads, 2), *itertools.product(grads, others)]
        insist(not any(np.shares_memory(a, b) for a, b in pairs), "a gradient shares memory with another array")
        for x in xs:
            x.zero_grad()


@checked(lambda op: has_rules(op) and isinstance(op, Op))
def saved(call: Call) -> None:
    """A node keeps what the rules of its differentiated inputs name, and keeps nothing else alive."""
    for chosen in subsets(len(call.spots)):
        xs = on_tensors(call, chosen)
        ys = several(call.op(*xs, **call.params))
        node = ys[0].node if len(ys) == 1 and ys[0].node.plan.op is call.op else ys[0].node.parents[0]
        rules = [call.op.vjp[name] for name in dict.fromkeys(call.names[call.spots[k]] for k in chosen)]
        asked = {name for rule in rules for name in list(inspect.signature(rule).parameters)[1:]}
        insist(set(node.plan.names) == asked, f"saved {node.plan.names}, but the rules ask for {sorted(asked)}")
        alive = {
            name: [weakref.ref(x.array) for x, n in zip(xs, call.names, strict=True) if n == name]
            for name in call.names
        }
        outputs = [weakref.ref(y.array) for y in ys]
        views = any(y.array.base is not None for y in ys)
        del xs, ys
        for name, refs in alive.items():
            if name not in asked and not (views and "y" in asked):
                insist(all(r() is None for r in refs), f"input {name!r} is kept, but no rule asks for it")
        if "y" not in asked:
            insist(all(r() is None for r in outputs), "the output is kept, but no rule asks for it")


# Rules run three ways


@checked(values=("exact", "ordinary", "extreme"))
def three_ways(call: Call) -> None:
    """A rule on arrays, on tensors and under a tape gives the same bits, kernels apart: they are for arrays alone."""
    with np.errstate(all="ignore"), kernels.use("numpy"):  # a kernel is the rule to rounding only: see by_kernel
        us = cotangents(call)
        want = gradients(call, us)
        ways = {"on tensors": gradients(call, us, create_graph=True)}
        with record():
            ways["under a tape"] = gradients(call, us)
            ways["on tensors under a tape"] = gradients(call, us, create_graph=True)
    for name, got in ways.items():
        for a, b in zip(got, want, strict=True):
            same_bits(a, b, f"gradients on arrays and {name}")


@checked(values=exact_where_possible)
def each_alone(call: Call) -> None:
    """The gradient of an input does not depend on which other inputs require one."""
    us = cotangents(call)
    want = gradients(call, us)
    for k in range(len(want)):
        (alone,) = gradients(call, us, [k])
        same_bits(alone, want[k], f"the gradient of {call.names[call.spots[k]]!r} alone and among others")


@checked(lambda op: bool(op.fused), values=("ordinary", "extreme"), sizes=LINE)
def fused(call: Call) -> None:
    """The faster form of a rule gives the bits of the rule."""
    with np.errstate(all="ignore"), kernels.use("numpy"):
        y = np.asarray(call.op(*call.arrays, **call.params))
        u = exact_numbers(y.shape, rng_for(call), y.dtype)
        likes = {f"like_{name}": Like(x.shape, x.dtype) for name, x in zip(call.names, call.arrays, strict=True)}
        at_hand = {"y": y, **dict(zip(call.names, call.arrays, strict=True)), **call.params, **likes}
        for name, faster in call.op.fused.items():
            args = [at_hand[n] for n in call.op.uses[name]]
            rule = call.op.vjp[name]
            same_bits(faster(u, *args), rule(u, *args), f"cotangents of {name!r} by the rule and by its faster form")


@checked(lambda op: bool(op.kernels), values=("ordinary", "extreme", "nonfinite"), sizes=LINE, dtype=FLOATS)
def by_kernel(call: Call) -> None:
    """Kernels give NumPy's numbers to rounding, forward and backward."""

    def computed(mode: str) -> list[Array]:
        with np.errstate(all="ignore"), kernels.use(mode):
            return results(call, cotangents(call) if call.spots else [])

    for got, want in zip(computed("numba"), computed("numpy"), strict=True):
        insist((got.dtype, got.shape) == (want.dtype, want.shape), f"{got.dtype} {got.shape}, not {want.dtype}")
        if got.dtype.kind == "f":
            rtol = 64 * float(np.finfo(got.dtype).eps)
            largest = np.max(np.abs(want), initial=0.0, where=np.isfinite(want))
            close = np.isclose(got, want, rtol, rtol * largest + np.finfo(got.dtype).tiny, equal_nan=True)
            insist(close.all(), f"by kernel {got[~close]}, by NumPy {want[~close]}")
        else:
            insist(np.array_equal(got, want), f"by kernel {got}, by NumPy {want}")


# Tests made of checks


def _run_as(how: settings | None) -> settings:
    """Settings of a test: as given, or as Hypothesis' profile says; but as many examples as pytest was asked for."""
    if how is None:
        how = settings(
            deadline=None,
            phases=[phase for phase in settings().phases if phase is not Phase.explain],  # the report does that
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        )
    return how if plugin.examples is None else settings(how, max_examples=plugin.examples)


def op_suite(
    op: Op,
    oracle: Oracle | None = None,
    calls: Plan | Strategy[Inputs] | None = None,
    without: Mapping[str, str] | None = None,
    how: settings | None = None,
) -> type:
    """All the generic tests for an Op, as a class for a test module: one test, parametrised with the checks that apply.

    Args:
        op: the operation. What to test it with follows from its record: kind, signature, domain, names of parameters.
        oracle: what it computes, as a function of the same inputs and parameters on arrays, by NumPy or SciPy; without
            it values are not checked, only derivatives and all the rest.
        calls: how shapes and parameters are drawn where the record does not say: see `strategies.calls`.
        without: checks that are not to be run, each with the reason.
        how: Hypothesis' settings; default: its profile, or what `--gradcheck-examples` says.

    Returns:
        A class whose name must begin with Test where it is assigned, as pytest asks for.

    Raises:
        ValueError: `without` names a check that would not be run anyway.

    Example:
        >>> cube = Op("cube", lambda x: x * x * x, vjp={"x": lambda g, x: g * 3 * x * x}, kind="elementwise")
        >>> TestCube = op_suite(cube, oracle=lambda x: np.power(x, 3))
        >>> TestCube().test("as_numpy")
    """
    names = [name for name, check in CHECKS.items() if check.applies(op, oracle)]
    left_out = dict(without or {})
    if unknown := set(left_out) - set(names):
        raise ValueError(f"op_suite({op.name}): no need to leave out {sorted(unknown)}; the checks are {names}")

    class Suite:
        @pytest.mark.parametrize("check", [name for name in names if name not in left_out])
        @_run_as(how)
        @given(data=st.data())
        def test(self, check: str, data: st.DataObject) -> None:
            CHECKS[check].run(data.draw(CHECKS[check].calls(op, plan=calls), label="call"), oracle)

        def __repr__(self) -> str:
            return f"<suite of {op.name}>"

    Suite.__doc__ = f"The generic suite over the operation {op.name}."
    return Suite


def gradcheck(
    f: Callable[..., Any] | None = None,
    /,
    *,
    signature: str = "",
    domain: Mapping[str, Interval] | None = None,
    values: str = "moderate",
    order: int = 1,
    allow_unsure: bool = False,
    how: settings | None = None,
    **strategies: Strategy[Any],
) -> Any:
    """Turn a function of arrays into a property test of its gradient.

    Args:
        f: a function from Tensors to a Tensor, or to a tree of them. Its arguments are drawn by name; those that have a
            default keep it.
        signature: how the shapes of the arguments go together, such as "(m,k),(k,n)->()"; default: they broadcast.
        domain: the open interval in which an argument lies; default: everywhere.
        values: which numbers are drawn, see `strategies`; by default none that are so large that sums overflow.
        order: 2 checks also the gradient of the gradient.
        allow_unsure: whether a gradient that can't be decided is let through.
        how: Hypothesis' settings; default: its profile, or what `--gradcheck-examples` says.
        strategies: strategies of arguments that are to be drawn in another way, by name. They may draw whatever `check`
            takes: arrays, modules, trees of them.

    Returns:
        The test.

    Raises:
        ValueError: a signature for another number of arguments; an unknown name in `domain` or `strategies`.

    Example:
        >>> from minigrad.ops.elementwise import exp, log
        >>> @gradcheck(domain={"x": (0.0, math.inf)}, how=settings(max_examples=10, deadline=None))
        ... def test_powers(x, y):
        ...     return exp(y * log(x))
        >>> test_powers()
    """
    if f is None:
        return functools.partial(
            gradcheck,
            signature=signature,
            domain=domain,
            values=values,
            order=order,
            allow_unsure=allow_unsure,
            how=how,
            **strategies,
        )
    parameters = inspect.signature(f).parameters
    drawn = _arguments(f, signature, dict(domain or {}), values, strategies)

    named = [p.replace(default=p.empty) for name, p in parameters.items() if name in drawn or name == "self"]
    signature_of_test = inspect.Signature(named)

    @functools.wraps(f)
    def test(*args: Any, **kwargs: Any) -> None:
        rest = dict(signature_of_test.bind(*args, **kwargs).arguments)
        xs = {name: rest.pop(name) for name in drawn}

        def of_drawn(*xs: Any) -> Any:
            return f(**rest, **dict(zip(drawn, xs, strict=True)))

        of_drawn.__name__ = f.__name__
        of_drawn.__signature__ = inspect.Signature([parameters[name] for name in drawn])  # type: ignore[attr-defined]
        _insist_on(check(of_drawn, *xs.values(), order=order), allow_unsure)

    test.__signature__ = signature_of_test  # type: ignore[attr-defined]
    return _run_as(how)(given(**drawn)(test))


def _arguments(
    f: Callable[..., Any],
    signature: str,
    domain: Mapping[str, Interval],
    values: str,
    strategies: Mapping[str, Strategy[Any]],
) -> dict[str, Strategy[Any]]:
    """A strategy for each argument of f that is to be drawn; the shapes of arrays are drawn together."""
    parameters = inspect.signature(f).parameters
    named = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    asked = [n for n in named if parameters[n].default is inspect.Parameter.empty and n not in (*strategies, "self")]
    if not asked and not strategies:
        raise ValueError(
            f"gradcheck: {f.__name__} has no arguments with names of their own to draw: wrap it in a function"
        )
    if unknown := ({*domain} - {*asked}) | ({*strategies} - {*parameters}):
        raise ValueError(
            f"gradcheck: {f.__name__} has no arguments {sorted(unknown)} to draw; it takes {list(parameters)}"
        )
    if signature and (count := len(cores(signature))) != len(asked):
        raise ValueError(f"gradcheck: the signature {signature!r} is for {count} arguments; to draw are {asked}")
    together = st.shared(broadcastable_shapes(signature or len(asked)), key=f)

    def array(i: int, name: str) -> Strategy[Array]:
        return together.flatmap(lambda s: arrays(s[i], domain=domain.get(name, EVERYWHERE), values=values))

    return {**{name: array(i, name) for i, name in enumerate(asked)}, **strategies}
