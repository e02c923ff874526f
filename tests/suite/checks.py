"""What must hold for a call of any Op: one function a property, which draws say with which calls it is to be run.

A check takes a Call and raises an AssertionError. The decorator states the calls that it wants and the Ops that it is
for, so that `CHECKS` runs over any Op, one that a test declares included.
"""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings

import minigrad as mg
from minigrad.core.op import Op
from minigrad.core.value import Like

from .differences import side_slope, slope
from .oracles import oracle_of
from .strategies import ALIKE, FLOATS, LINE, Call, Sizes, calls, exact_numbers


@dataclass(frozen=True)
class Check:
    """A property, the calls that it is to be run with, and the Ops that it is for."""

    name: str
    run: Callable[[Call], None]
    draws: dict[str, Any]
    applies: Callable[[Op], bool]

    def calls(self, op: Op, **options: Any) -> Any:
        """The strategy of calls of an Op for this check; `options` differ from what the check wants."""
        draws = {"regime": "exact", **self.draws, **options}
        regime = draws.pop("regime")
        return calls(op, regime=regime(op) if callable(regime) else regime, **draws)


CHECKS: dict[str, Check] = {}

# how many calls a check sees: few of each, since there are many checks and many Ops
few = settings(max_examples=max(5, settings().max_examples // 8), suppress_health_check=[HealthCheck.filter_too_much])


def _any_op(op: Op) -> bool:
    return True


def has_rules(op: Op) -> bool:
    """Whether a gradient flows through an operation."""
    return bool(op.vjp)


def has_oracle(op: Op) -> bool:
    """Whether NumPy or SciPy can say what an operation computes."""
    return oracle_of(op) is not None


def check(applies: Callable[[Op], bool] = has_rules, **draws: Any) -> Callable[[Any], Any]:
    """Register a function as a check."""

    def register(run: Callable[[Call], None]) -> Callable[[Call], None]:
        CHECKS[run.__name__] = Check(run.__name__, run, draws, applies)
        return run

    return register


# Running a call


def several(y: Any) -> tuple[Any, ...]:
    """Outputs as a tuple, of one too."""
    return tuple(y) if isinstance(y, tuple) else (y,)


def forward(call: Call) -> tuple[np.ndarray, ...]:
    """The outputs, on arrays."""
    return several(call.op(*call.arrays, **call.params))


def rng_for(call: Call) -> np.random.Generator:
    """Random numbers for cotangents and directions: the same in every run of a call."""
    return np.random.default_rng([x.size for x in call.arrays])


def cotangents(call: Call, rng: np.random.Generator | None = None) -> list[np.ndarray]:
    """Cotangents for the outputs."""
    rng = rng or rng_for(call)
    return [exact_numbers(y.shape, rng, y.dtype) for y in forward(call)]


def directions(call: Call, rng: np.random.Generator) -> list[np.ndarray]:
    """A direction for each differentiable input, such that a step of 1/2 along it does not leave the domain."""
    result = []
    for i in call.spots:
        low, high = call.op.domain.get(call.names[i], (-np.inf, np.inf))
        room = np.minimum(1.0, np.minimum(call.arrays[i] - low, high - call.arrays[i]))
        result.append(
            exact_numbers(call.arrays[i].shape, rng, call.arrays[i].dtype) * room.astype(call.arrays[i].dtype)
        )
    return result


def pull(call: Call, us: Sequence[Any]) -> list[np.ndarray]:
    """The VJP: the cotangents of the differentiable inputs from those of the outputs."""
    y, pullback = mg.vjp(call.f, *map(mg.Tensor, call.xs))
    return [x_bar.data for x_bar in pullback(tuple(us) if isinstance(y, tuple) else us[0])]


def tensors(call: Call, chosen: Sequence[int] | None = None) -> list[mg.Tensor]:
    """The inputs as tensors, on the very memory of the arrays, of which the chosen ones (None: all that can) require a
    gradient; they are numbered as in `call.xs`."""
    xs = [mg.Tensor.wrap(_frozen(x)) for x in call.arrays]
    for k in range(len(call.spots)) if chosen is None else chosen:
        xs[call.spots[k]].requires_grad = True
    return xs


def _frozen(x: np.ndarray) -> np.ndarray:
    x = x.view()
    x.setflags(write=False)
    return x


def backward(ys: Sequence[Any], us: Sequence[np.ndarray], **options: Any) -> None:
    """Backward from one output, or from all of several."""
    if len(ys) == 1:
        ys[0].backward(mg.Tensor.wrap(_frozen(us[0])), **options)
    else:
        total = mg.concat([mg.reshape(y, -1) for y in ys])
        total.backward(np.concatenate([u.reshape(-1) for u in us]), **options)


def gradients(
    call: Call, us: Sequence[np.ndarray], chosen: Sequence[int] | None = None, **options: Any
) -> list[np.ndarray]:
    """What backward leaves in `.grad` of the chosen inputs (None: of all that can have one)."""
    xs = tensors(call, chosen)
    backward(several(call.op(*xs, **call.params)), us, **options)
    return [x.grad.data for x in xs if x.requires_grad]


def results(call: Call, us: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs, and gradients of all inputs that can have one."""
    ys = several(call.op(*tensors(call, []), **call.params))
    return [*(y.data for y in ys), *(gradients(call, us) if call.spots else [])]


def inner(xs: Sequence[Any], ys: Sequence[Any]) -> float:
    """⟨xs, ys⟩ over all arrays, in float64."""
    return float(sum(np.sum(x.astype(np.float64) * y, dtype=np.float64) for x, y in zip(xs, ys, strict=True)))


def is_exact(op: Op) -> bool:
    """Whether differences of the operation have no error: it is of first degree in each input."""
    return op.kind in ("linear", "bilinear")


def along(call: Call, vs: Sequence[np.ndarray], t: float) -> Call:
    """The call with its inputs moved."""
    return call.having([x + t * v for x, v in zip(call.xs, vs, strict=True)])


def same_bits(a: Any, b: Any, what: str) -> None:
    """AssertionError unless two arrays have the same dtype, shape and bits; one NaN is as good as another."""
    a, b = np.asarray(a), np.asarray(b)
    assert (a.dtype, a.shape) == (b.dtype, b.shape), f"{what}: {a.dtype} {a.shape} and {b.dtype} {b.shape}"
    if a.dtype.kind == "f":
        a, b = (np.where(np.isnan(x), np.asarray(np.nan, x.dtype), x) for x in (a, b))
    assert a.tobytes() == b.tobytes(), f"{what} differ:\n{a!r}\n{b!r}"


def close(got: Any, want: Any, rtol: float, what: str) -> None:
    """AssertionError unless two arrays agree up to rtol of the largest."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"{what}: shapes {got.shape} and {want.shape}"
    scale = np.max(np.abs(want), initial=0.0, where=np.isfinite(want))
    np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale, err_msg=what)


def compare_slope(got: float, f: Callable[[float], float], exact: bool, what: str) -> None:
    """Compare a derivative with the differences of a function of one number."""
    if exact:
        want = (f(1.0) - f(-1.0)) / 2
        assert got == want, f"{what}: {got!r} by the rule, {want!r} exactly"
        return
    want, error = slope(f)
    size = 1 + abs(want) + abs(f(0.0))
    assert error <= 1e-6 * size, f"{what}: the differences don't converge: {want!r} ± {error!r}"
    assert abs(got - want) <= 10 * error + 1e-10 * size, (
        f"{what}: {got!r} by the rule, {want!r} ± {error:.1e} by differences"
    )


def one_by_one(vs: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """For each entry the direction that has only this one."""
    for k, v in enumerate(vs):
        for i in np.ndindex(v.shape):
            result = [np.zeros_like(w) for w in vs]
            result[k][i] = v[i] or 1.0
            yield result


def some_directions(vs: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """A direction, and for small inputs each of its entries alone."""
    yield vs
    if sum(v.size for v in vs) <= 6:
        yield from one_by_one(vs)


# Values


@check(has_oracle, regime=("exact", "ordinary"), dtype=FLOATS)
def as_numpy(call: Call) -> None:
    """The forward is what NumPy computes."""
    _compare_forward(call, call.arrays)


@check(has_oracle, regime=("extreme", "ties"), dtype=FLOATS, sizes=LINE)
def extremes(call: Call) -> None:
    """So it is for numbers of every magnitude and in ties; it warns of nothing that NumPy does not warn of."""
    _compare_forward(call, call.arrays)


@check(has_oracle, regime="nonfinite", dtype=FLOATS, sizes=LINE)
def nonfinite(call: Call) -> None:
    """Infinities and NaN go through as they do in NumPy."""
    with np.errstate(all="ignore"):
        _compare_forward(call, call.arrays)


def _largest(x: np.ndarray) -> float:
    return float(np.max(np.abs(x), initial=0.0, where=np.isfinite(x)))


def _products(*xs: np.ndarray) -> float:
    return math.prod(map(_largest, xs))


# the size of the numbers that cancel in an operation: its error is in proportion to them, not to its result
_SUMS = ("softmax", "log_softmax", "logsumexp", "cross_entropy", "sum", "mean", "sum_to", "cumulative_sum")
CANCELS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_SUMS, _largest),
    **dict.fromkeys(("matmul", "einsum", "tensordot", "vecdot"), _products),
    "scatter": lambda *xs: max(map(_largest, xs)),
    "bce_with_logits": lambda z, t: np.abs(z) + np.abs(t) + np.abs(z * t),
    "gaussian_kl": lambda m, v: 1 + m * m + np.exp(v),
}


def _compare_forward(call: Call, arrays: Sequence[np.ndarray]) -> None:
    oracle = oracle_of(call.op)
    assert oracle is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            wants = several(oracle(*arrays, **call.params))
            allowed = "error"
        except RuntimeWarning:
            warnings.simplefilter("ignore")
            wants = several(oracle(*arrays, **call.params))
            allowed = "ignore"
        warnings.simplefilter(allowed)
        ys = several(call.op(*arrays, **call.params))
        on_tensors = several(call.op(*map(mg.Tensor.wrap, arrays), **call.params)) if arrays else ys
    assert len(ys) == len(wants)
    with np.errstate(all="ignore"):
        size = np.asarray(CANCELS.get(call.op.name, lambda *arrays: 0.0)(*arrays))
    for y, want, t in zip(ys, map(np.asarray, wants), on_tensors, strict=True):
        assert isinstance(y, np.ndarray)
        assert (y.dtype, y.shape) == (want.dtype, want.shape), f"{y.dtype} {y.shape}, NumPy {want.dtype} {want.shape}"
        if y.dtype.kind == "f":
            rtol = 64 * float(np.finfo(y.dtype).eps)
            here = size if size.shape == y.shape else np.max(size, initial=0.0)
            atol = rtol * here + 4 * float(np.finfo(y.dtype).smallest_subnormal)
            with np.errstate(invalid="ignore"):
                wrong = ~np.isclose(y.astype(np.float64), want.astype(np.float64), rtol, atol, equal_nan=True)
            assert not wrong.any(), f"{y[wrong]}, but {want[wrong]} in NumPy"
        else:
            np.testing.assert_array_equal(y, want)
        same_bits(t.array if isinstance(t, mg.Tensor) else t, y, "results on arrays and on tensors")


# Derivatives


@check()
def vjp(call: Call) -> None:
    """The VJP is the derivative: by differences, or as the exact adjoint ⟨f(v), u⟩ = ⟨v, fᵀ(u)⟩."""
    rng = rng_for(call)
    us = cotangents(call, rng)
    x_bars = pull(call, us)
    for x, x_bar in zip(call.xs, x_bars, strict=True):
        assert (x_bar.shape, x_bar.dtype) == (x.shape, x.dtype)
    for vs in some_directions(directions(call, rng)):
        got = inner(x_bars, vs)
        if call.op.kind == "linear":
            want = inner(forward(call.having(vs)), us)
            assert got == want, f"⟨v, fᵀ(u)⟩ = {got}, but ⟨f(v), u⟩ = {want}"
        elif call.op.kind == "bilinear":
            terms = [[v if i == k else x for i, x in enumerate(call.xs)] for k, v in enumerate(vs)]
            want = sum(inner(forward(call.having(term)), us) for term in terms)
            assert got == want, f"⟨v, fᵀ(u)⟩ = {got}, but ⟨f(v, b) + f(a, v), u⟩ = {want}"
        else:
            compare_slope(got, lambda t, vs=vs: inner(forward(along(call, vs, t)), us), False, "VJP")


@check()
def vjp_of_vjp(call: Call) -> None:
    """The VJP, recorded, has the derivative that differences of the VJP have, in the inputs and in the cotangent."""
    rng = rng_for(call)
    us, n = cotangents(call, rng), len(call.xs)
    ws = [exact_numbers(x.shape, rng) for x in call.xs]

    def pulled(*args: Any) -> Any:
        y, pullback = mg.vjp(call.f, *args[:n])
        return pullback(tuple(args[n:]) if isinstance(y, tuple) else args[n])

    _, pullback = mg.vjp(pulled, *map(mg.Tensor, [*call.xs, *us]))
    bars = [bar.data for bar in pullback(tuple(mg.Tensor(w.astype(x.dtype)) for w, x in zip(ws, call.xs, strict=True)))]
    for vs in some_directions([*directions(call, rng), *cotangents(call, rng)]):

        def moved(t: float, vs: list[np.ndarray] = vs) -> float:
            return inner(pull(along(call, vs[:n], t), [u + t * v for u, v in zip(us, vs[n:], strict=True)]), ws)

        compare_slope(inner(bars, vs), moved, is_exact(call.op), "VJP of the VJP")


@check()
def jvp(call: Call) -> None:
    """⟨u, Jv⟩ = ⟨Jᵀu, v⟩, whichever inputs are differentiated."""
    rng = rng_for(call)
    us = cotangents(call, rng)
    x_bars, vs = pull(call, us), [exact_numbers(x.shape, rng, x.dtype) for x in call.xs]
    for chosen in _subsets(len(vs)):

        def f(*some: Any, chosen: tuple[int, ...] = chosen) -> Any:
            given = dict(zip(chosen, some, strict=True))
            return call.f(*(given.get(i, x) for i, x in enumerate(call.xs)))

        y, dy = mg.jvp(f, tuple(mg.Tensor(call.xs[i]) for i in chosen), tuple(mg.Tensor(vs[i]) for i in chosen))
        for a, b in zip(several(y), several(dy), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
        got = inner([d.data for d in several(dy)], us)
        want = inner([x_bars[i] for i in chosen], [vs[i] for i in chosen])
        if is_exact(call.op):
            assert got == want, f"⟨u, Jv⟩ = {got}, but ⟨Jᵀu, v⟩ = {want}"
        else:
            assert abs(got - want) <= 1e-12 * (1 + abs(want)) * 10, f"⟨u, Jv⟩ = {got}, but ⟨Jᵀu, v⟩ = {want}"


def _subsets(count: int) -> Iterator[tuple[int, ...]]:
    """Each alone, and all together."""
    return iter(dict.fromkeys([*((i,) for i in range(count)), *([tuple(range(count))] if count else [])]))


@check()
def linear_in_the_cotangent(call: Call) -> None:
    """Jᵀ(2u + w) = 2Jᵀu + Jᵀw, and Jᵀ0 = 0."""
    rng = rng_for(call)
    us, ws = cotangents(call, rng), cotangents(call, rng)
    both = pull(call, [2 * u + w for u, w in zip(us, ws, strict=True)])
    for got, a, b in zip(both, pull(call, us), pull(call, ws), strict=True):
        close(got, 2 * a + b, 0.0 if is_exact(call.op) else 1e-12, "VJP of a sum")
    for x_bar in pull(call, [np.zeros_like(u) for u in us]):
        assert not x_bar.any(), "the VJP of 0 is not 0"


@check(lambda op: has_rules(op) and bool(op.undifferentiable), regime="ties", sizes=Sizes(longest=2))
def subgradient(call: Call) -> None:
    """At kinks and ties the rule takes a valid subgradient: along any line between the slopes on either side."""
    rng = rng_for(call)
    ys = forward(call)
    for us in itertools.islice(one_by_one([np.ones_like(y) for y in ys]), 6):
        x_bars = pull(call, us)
        for vs in some_directions(directions(call, rng)):
            f = lambda t, us=us, vs=vs: inner(forward(along(call, vs, t)), us)
            low, high = sorted((side_slope(f, 1), side_slope(f, -1)))
            got = inner(x_bars, vs)
            assert low - 1e-8 <= got <= high + 1e-8, f"slope {got} by the rule, {low} and {high} on either side"


# slopes of slopes, which only rules call: they multiply a number that may be rounded among the subnormal ones, and this
# is how many of the smallest that costs
SUBNORMALS: dict[str, Callable[..., Any]] = {
    "over_square": lambda a, b: 1 + 2 / np.abs(b),  # -2ȳ·y/b
    "tanh_slope": lambda g, x: 3.0,  # -2ȳ·y·tanh x
}


@check(
    lambda op: op.kind == "elementwise" and has_rules(op),
    regime=("extreme", "ordinary"),
    sizes=LINE,
    dtype=np.float32,
)
def accurate_in_float32(call: Call) -> None:
    """The rules lose no digits in float32, in the tails neither: |error| ≤ 4 eps·(|f′| + Σ|x·∂f′/∂x|), and a subnormal.

    The reference is the rule itself in float64, which the differences check where they can.
    """
    wide = call.having([x.astype(np.float64) for x in call.xs])
    info = np.finfo(np.float32)
    with np.errstate(all="ignore"):
        y = np.asarray(call.op(*call.arrays, **call.params))
        x_bars = pull(call, [np.ones_like(y)])
        u = np.ones(y.shape)
        for k, got in enumerate(x_bars):
            want, curvatures = mg.vjp(lambda *xs, k=k: mg.vjp(wide.f, *xs)[1](u)[k], *map(mg.Tensor, wide.xs))
            want = want.data
            sway = sum(np.abs(x * c.data) for x, c in zip(wide.xs, curvatures(np.ones_like(want)), strict=True))
            subnormals = SUBNORMALS.get(call.op.name, lambda *xs: 1.0)(*wide.xs) * float(info.smallest_subnormal)
            bound = 4 * float(info.eps) * (np.abs(want) + sway) + subnormals
            says = np.isfinite(bound) & (np.abs(want) < float(info.max)) & np.isfinite(y)
            wrong = says & ~(np.abs(got - want) <= bound)
            assert not wrong.any(), f"cotangent {k}: {got[wrong]}, but {want[wrong]} in float64, bound {bound[wrong]}"


# How arrays come in


def layouts(x: np.ndarray) -> dict[str, np.ndarray]:
    """An array in other layouts of memory."""
    twice = np.repeat(x, 2, -1)[..., ::2] if x.ndim else np.array([x, x])[0]
    around = np.flip(np.flip(x).copy(order="C"))
    return {"Fortran": np.array(x, order="F"), "strided": twice, "reversed": around, "read-only": _frozen(x.copy())}


def _exact_where_possible(op: Op) -> str:
    """Sums that are exact don't depend on the order of terms; other operations see numbers with full mantissas."""
    return "exact" if is_exact(op) else "ordinary"


def same_results(op: Op, got: Sequence[np.ndarray], want: Sequence[np.ndarray], what: str) -> None:
    """AssertionError unless results from two layouts of memory are the same.

    To the bit, where no rounding is involved, else to a few units in the last place: NumPy computes exp or tanh of
    contiguous memory by another loop than of other memory, and sums in the order of memory.
    """
    for a, b in zip(got, want, strict=True):
        if is_exact(op) or not op.vjp:
            same_bits(a, b, what)
        else:
            assert a.dtype == b.dtype
            rtol = 8 * float(np.finfo(a.dtype).eps)
            np.testing.assert_allclose(a, b, rtol=rtol, atol=16 * rtol, err_msg=what)  # products are 16 at most


@check(_any_op, regime=_exact_where_possible, sizes=(Sizes(alike=True, axes=2, shortest=2), ALIKE))
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


@check(_any_op, regime=_exact_where_possible, sizes=ALIKE)
def zero_strides(call: Call) -> None:
    """Inputs that np.broadcast_to made, with strides of 0, are as good as copies of them."""
    thin = [
        np.broadcast_to(x[..., :1], x.shape) if x.ndim and x.dtype.kind == "f" and x.size else x for x in call.arrays
    ]
    full = Call(call.op, tuple(np.array(x) for x in thin), call.params)
    us = cotangents(full) if call.spots else []
    same_results(
        call.op,
        results(Call(call.op, tuple(thin), call.params), us),
        results(full, us),
        "with strides of 0 and without",
    )


@check(has_rules, dtype=np.float32)
def float32(call: Call) -> None:
    """float32 in, float32 out, forward and backward."""
    _dtypes(call)


@check(lambda op: has_rules(op) and len(op.inputs) > 1, mixed=True)
def mixed_dtypes(call: Call) -> None:
    """Dtypes that differ promote as in NumPy; each gradient has the dtype of its input."""
    _dtypes(call)


# the output's dtype, where it is not what NumPy promotes the inputs to
OUTPUT_DTYPE: dict[str, Callable[[Call], Any]] = dict.fromkeys(
    ("setitem", "scatter_add"), lambda call: call.arrays[0].dtype
)


def _dtypes(call: Call) -> None:
    ys = forward(call)
    floats = [x.dtype for x, name in zip(call.arrays, call.names, strict=True) if name in call.op.vjp]
    usual = OUTPUT_DTYPE.get(call.op.name, lambda call: np.result_type(*floats))
    want = call.params.get("dtype") or usual(call)
    for y in ys:
        assert y.dtype == want, f"{', '.join(map(str, floats))} gave {y.dtype}, not {want}"
    for x, x_bar in zip(call.xs, pull(call, cotangents(call)), strict=True):
        assert x_bar.dtype == x.dtype, f"the gradient of a {x.dtype} input is {x_bar.dtype}"


@check(lambda op: op.kind == "elementwise" and len(op.inputs) > 1, regime="ordinary", dtype=np.float32)
def weak_scalars(call: Call) -> None:
    """Python's and NumPy's scalars don't widen a float32 tensor."""
    for i in call.spots:
        others = [0.5 if k != i and x.dtype.kind == "f" else x for k, x in enumerate(call.arrays)]
        for kind in (float, np.float64):
            given = [kind(x) if isinstance(x, float) else x for x in others]
            x = mg.Tensor(call.arrays[i], requires_grad=True)
            given[i] = x
            y = call.op(*given, **call.params)
            assert y.dtype == np.float32, f"a {kind.__name__} widened float32 to {y.dtype}"
            y.backward(np.ones(y.shape, np.float32))
            assert x.grad.dtype == np.float32


@check(has_oracle, sizes=ALIKE)
def integers(call: Call) -> None:
    """Integers are taken as NumPy takes them, with its dtype, or refused as it refuses them."""
    arrays = [np.asarray(np.ceil(np.abs(x)), np.int64) if x.dtype.kind == "f" else x for x in call.arrays]
    try:
        oracle_of(call.op)(*arrays, **call.params)
    except (TypeError, ValueError) as refusal:
        try:
            call.op(*arrays, **call.params)
        except (TypeError, ValueError):
            return
        raise AssertionError(f"NumPy refuses integers ({refusal}), the operation takes them") from refusal
    _compare_forward(call, arrays)
    assert not any(y.requires_grad for y in several(call.op(*map(mg.Tensor, arrays), **call.params)))


@check(_any_op, sizes=(Sizes(empty=True), Sizes(scalar=True)))
def empty_or_0d(call: Call) -> None:
    """Arrays without elements, and without axes: values, and derivatives of every kind."""
    if has_oracle(call.op):
        _compare_forward(call, call.arrays)
    if has_rules(call.op) and all(np.isfinite(y).all() for y in forward(call)):  # the log of an empty sum is -inf
        for derivative in (vjp, vjp_of_vjp, jvp):
            derivative(call)


# Memory


@check(_any_op)
def no_aliases(call: Call) -> None:
    """No result is one of the inputs, or can be written to; gradients share their memory with nothing."""
    xs = tensors(call)
    ys = several(call.op(*xs, **call.params))
    for y in ys:
        assert all(y is not x and y.array is not x.array for x in xs), "the output is one of the inputs"
        assert not y.array.flags.writeable, "the output can be written to"
    us = cotangents(call) if call.spots else []
    others = [*(x.array for x in xs), *(y.array for y in ys), *us]
    for create_graph in (False, True):
        if call.spots:
            backward(ys, us, retain_graph=True, create_graph=create_graph)
        grads = [x.grad.array for x in xs if x.requires_grad]
        assert not any(g.flags.writeable for g in grads), "a gradient can be written to"
        pairs = [*itertools.combinations(grads, 2), *itertools.product(grads, others)]
        assert not any(np.shares_memory(a, b) for a, b in pairs), "a gradient shares memory with another array"
        for x in xs:
            x.zero_grad()


@check()
def saved(call: Call) -> None:
    """A node keeps what the rules of its differentiated inputs name, and keeps nothing else alive."""
    for chosen in _subsets(len(call.spots)):
        xs = tensors(call, chosen)
        ys = several(call.op(*xs, **call.params))
        node = ys[0].node if len(ys) == 1 and ys[0].node.plan.op is call.op else ys[0].node.parents[0]
        assert node.plan.op is call.op
        rules = [call.op.vjp[name] for name in dict.fromkeys(call.names[call.spots[k]] for k in chosen)]
        asked = {name for rule in rules for name in list(inspect.signature(rule).parameters)[1:]}
        assert set(node.plan.names) == asked, f"saved {node.plan.names}, but the rules ask for {sorted(asked)}"
        alive = {
            name: [weakref.ref(x.array) for x, n in zip(xs, call.names, strict=True) if n == name]
            for name in call.names
        }
        outputs = [weakref.ref(y.array) for y in ys]
        views = any(y.array.base is not None for y in ys)
        del xs, ys
        for name, refs in alive.items():
            if name not in asked and not (views and "y" in asked):
                assert all(r() is None for r in refs), f"input {name!r} is kept, but no rule asks for it"
        if "y" not in asked:
            assert all(r() is None for r in outputs), "the output is kept, but no rule asks for it"


# Rules run three ways


@check(regime=("exact", "ordinary", "extreme"))
def three_ways(call: Call) -> None:
    """A rule on arrays, on tensors and under a tape gives the same bits."""
    with np.errstate(all="ignore"):
        us = cotangents(call)
        want = gradients(call, us)
        ways = {"on tensors": gradients(call, us, create_graph=True)}
        with mg.record():
            ways["under a tape"] = gradients(call, us)
            ways["on tensors under a tape"] = gradients(call, us, create_graph=True)
    for name, got in ways.items():
        for a, b in zip(got, want, strict=True):
            same_bits(a, b, f"gradients on arrays and {name}")


@check(regime=_exact_where_possible)
def each_alone(call: Call) -> None:
    """The gradient of an input does not depend on which other inputs require one."""
    us = cotangents(call)
    want = gradients(call, us)
    for k in range(len(want)):
        (alone,) = gradients(call, us, [k])
        same_bits(alone, want[k], f"the gradient of {call.names[call.spots[k]]!r} alone and among others")


@check(lambda op: bool(op.fused), regime=("ordinary", "extreme"), sizes=LINE)
def fused(call: Call) -> None:
    """The faster form of a rule gives the bits of the rule."""
    with np.errstate(all="ignore"):
        y = np.asarray(call.op(*call.arrays, **call.params))
        u = exact_numbers(y.shape, rng_for(call), y.dtype)
        likes = {f"like_{name}": Like(x.shape, x.dtype) for name, x in zip(call.names, call.arrays, strict=True)}
        at_hand = {"y": y, **dict(zip(call.names, call.arrays, strict=True)), **call.params, **likes}
        for name, faster in call.op.fused.items():
            rule = call.op.vjp[name]
            asked = list(inspect.signature(rule).parameters)[1:]
            assert asked == list(inspect.signature(faster).parameters)[1:], "the faster form asks for something else"
            args = [at_hand[n] for n in asked]
            same_bits(faster(u, *args), rule(u, *args), f"cotangents of {name!r} by the rule and by its faster form")
