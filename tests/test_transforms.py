"""Transforms against closed forms and finite differences, nested in every way, over trees; checkpoint's memory."""

import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import Tensor
from minigrad.core.op import registry

RNG = np.random.default_rng(0)


def t(*values: float, **options: Any) -> Tensor:
    return Tensor(np.array(values, np.float64), **options)


def close(actual: Any, expected: Any, tolerance: float = 1e-10) -> None:
    actual = actual.data if isinstance(actual, Tensor) else np.asarray(actual)
    expected = expected.data if isinstance(expected, Tensor) else np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def numeric_jvp(f: Callable[..., Any], xs: tuple[np.ndarray, ...], vs: tuple[np.ndarray, ...]) -> np.ndarray:
    """Central differences with one Richardson step: error O(h⁴)."""

    def slope(h: float) -> np.ndarray:
        ahead, behind = (f(*(Tensor(x + s * h * v) for x, v in zip(xs, vs, strict=True))).data for s in (1, -1))
        return (ahead - behind) / (2 * h)

    return np.asarray((4 * slope(1e-3) - slope(2e-3)) / 3)


# Levels


def derivative_by_grad(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return mg.grad(f)


def derivative_by_vjp(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def derivative(x: Any) -> Any:
        _, pullback = mg.vjp(f, x)
        return pullback(1.0)[0]

    return derivative


def derivative_by_jvp(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: mg.jvp(f, (x,), (1.0,))[1]


def derivative_by_jacobian(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return mg.jacobian(f)


def derivative_by_checkpoint(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return mg.grad(mg.checkpoint(f))


DERIVATIVES = [
    derivative_by_grad, derivative_by_vjp, derivative_by_jvp, derivative_by_jacobian, derivative_by_checkpoint,
]  # fmt: skip


def test_perturbation_confusion() -> None:
    # d/dx (x · d/dy (x + y)) = 1: Siskind and Pearlmutter 2005, "Perturbation confusion and referential transparency"
    for outer in DERIVATIVES:
        for inner in DERIVATIVES:
            close(outer(lambda x, inner=inner: x * inner(lambda y: x + y)(1.0))(3.0), 1.0)
            close(outer(lambda x, inner=inner: x * inner(lambda y: x * y)(2.0))(3.0), 6.0)
            close(outer(lambda x, inner=inner: inner(lambda y: x * x * y * y * y)(x))(2.0), 12 * 2.0**3)
            close(outer(lambda x, inner=inner: inner(lambda y: mg.stop_gradient(x) * y * y)(x))(2.0), 4.0)


@given(st.lists(st.sampled_from(DERIVATIVES), min_size=1, max_size=5), st.floats(-3, 3))
def test_any_nesting_of_derivatives_of_sine(nesting: list[Any], x: float) -> None:
    f: Callable[[Any], Any] = mg.sin
    for derivative in nesting:
        f = derivative(f)
    expected = math.sin(x + len(nesting) * math.pi / 2)
    close(f(x), expected, 1e-12)


def test_sixth_derivative_of_a_quotient() -> None:
    f: Callable[[Any], Any] = lambda x: 1.0 / (1.0 + x)
    for _ in range(6):
        f = mg.grad(f)
    close(f(0.5), math.factorial(6) / 1.5**7)


def test_an_inner_derivative_of_a_closed_over_function_flows_out() -> None:
    # Manzyuk et al. 2019, "Perturbation confusion in forward automatic differentiation of higher-order functions"
    shift = lambda x: lambda f: lambda y: f(x + y)
    for derivative in (derivative_by_grad, derivative_by_jvp):
        bend = derivative(lambda x, d=derivative: d(shift(x)(mg.sin))(0.5))
        close(bend(0.0), -math.sin(0.5))


# Gradients


def test_gradient_does_not_depend_on_requires_grad_and_leaves_no_trace() -> None:
    for needs in (False, True):
        x = t(1.0, 2.0, requires_grad=needs)
        g = mg.grad(lambda x: (x * x * x).sum())(x)
        close(g, [3.0, 12.0])
        assert x.grad is None
        assert g.requires_grad == needs
    with mg.no_grad():
        value, g = mg.value_and_grad(lambda x: (x * x * x).sum())(x)
    close(value, 9.0)
    close(g, [3.0, 12.0])
    assert not g.requires_grad
    assert not value.requires_grad
    assert value.is_leaf
    w = t(2.0, requires_grad=True)
    with mg.no_grad():
        for result in (mg.grad(lambda x: (w * x * x).sum())(x), mg.jvp(lambda x: w * x, (x,), (x,))[1]):
            assert not result.requires_grad
    assert (
        mg.grad(lambda x: x.reshape(2, 1).sum())(x.detach()).array.base is None
    )  # no view that keeps another array alive


def test_a_gradient_that_depends_on_a_parameter_can_be_differentiated() -> None:
    w = t(2.0, 3.0, requires_grad=True)
    value, g = mg.value_and_grad(lambda x: (w * x * x).sum())(t(5.0, 7.0))
    close(g, [20.0, 42.0])
    (g * g).sum().backward(retain_graph=True)  # Σ (2wx)²
    close(w.grad, [8 * 2 * 25.0, 8 * 3 * 49.0])
    w.zero_grad()
    value.backward()
    close(w.grad, [25.0, 49.0])


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass
class Cell:
    weight: Any
    name: str = "cell"


class Own:
    def __init__(self, p: Any):
        self.p = p

    def __tree__(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], "Own"]]:
        return {"p": self.p}, lambda new: Own(new["p"])


def test_gradients_have_the_structure_of_the_argument() -> None:
    tree = {
        "z": [t(1.0, 2.0), np.array([3.0])],
        "a": Pair(4.0, None),
        "c": Cell(t(5.0)),
        "o": Own(t(6.0)),
        "n": (Tensor([1, 2]), np.array([3]), 7, "text"),
    }

    def f(p: Any) -> Any:
        assert p["n"][0].data.tolist() == [1, 2]
        return (p["z"][0] * 2.0).sum() + (p["z"][1] * p["a"].a).sum() + (p["c"].weight * p["o"].p).sum()

    g = mg.grad(f)(tree)
    assert list(g) == list(tree)
    close(g["z"][0], [2.0, 2.0])
    close(g["z"][1], [4.0])
    assert isinstance(g["a"], Pair)
    close(g["a"].a, 3.0)
    assert g["a"].b is None
    assert (type(g["c"]), g["c"].name) == (Cell, "cell")
    close(g["c"].weight, [6.0])
    assert type(g["o"]) is Own
    close(g["o"].p, [5.0])
    assert [x.data.tolist() for x in g["n"][:2]] == [[0, 0], [0]]
    assert g["n"][2:] == (7, "text")


def test_tied_weights_receive_the_whole_gradient() -> None:
    w = t(3.0)
    g = mg.grad(lambda p: (p["a"] * p["a"] * p["b"]).sum())({"a": w, "b": w})
    close(g["a"], [27.0])
    assert g["a"] is g["b"]


def test_one_tensor_for_two_arguments_is_two() -> None:
    x = t(3.0)
    a, b = mg.grad(lambda a, b: (a * a * b).sum(), argnums=(0, 1))(x, x)
    close(a, [18.0])
    close(b, [9.0])
    close(mg.jvp(lambda a, b: a * a * b, (x, x), (t(1.0), t(0.0)))[1], [18.0])


def test_argnums_aux_and_keywords() -> None:
    def f(a: Any, b: Any, *, scale: float) -> Any:
        return (a * b).sum() * scale, {"a": a, "b2": b * b, "n": 3}

    a, b = t(1.0, 2.0), t(3.0, 4.0)
    g, aux = mg.grad(f, argnums=1, has_aux=True)(a, b, scale=10.0)
    close(g, [10.0, 20.0])
    close(aux["b2"], [9.0, 16.0])
    assert aux["a"] is a  # what was there before comes back as it was
    assert aux["n"] == 3
    assert not aux["b2"].requires_grad
    (value, _), (ga, gb) = mg.value_and_grad(f, argnums=(-2, 1), has_aux=True)(a, b, scale=1.0)
    close(value, 11.0)
    close(ga, b)
    close(gb, a)
    _, pullback, aux = mg.vjp(lambda a, b: f(a, b, scale=1.0), a, b, has_aux=True)
    close(pullback(2.0)[0], [6.0, 8.0])
    close(aux["b2"], [9.0, 16.0])


def test_aux_keeps_its_history_where_it_has_one_outside() -> None:
    w = t(2.0, requires_grad=True)

    def f(x: Any) -> Any:
        hidden = x * x
        return hidden.sum(), hidden * w  # the gradient itself is independent of w, and frees nothing that aux needs

    g, aux = mg.grad(f, has_aux=True)(t(3.0))
    close(g, [6.0])
    assert not g.requires_grad
    aux.sum().backward()
    close(w.grad, [9.0])


def test_independent_results_have_zero_gradients() -> None:
    x = t(1.0, 2.0)
    close(mg.grad(lambda x: 3.0)(x), [0.0, 0.0])
    close(mg.grad(lambda x: t(4.0).sum())(x), [0.0, 0.0])
    close(mg.grad(lambda x: mg.floor(x).sum())(x), [0.0, 0.0])
    close(mg.vjp(lambda x: t(5.0), x)[1](t(1.0))[0], [0.0, 0.0])
    close(mg.jvp(lambda x: t(5.0), (x,), (x,))[1], [0.0])
    close(mg.jacobian(lambda x: t(5.0, 6.0))(x), np.zeros((2, 2)))
    close(mg.hessian(lambda x: x.sum())(x), np.zeros((2, 2)))


def test_dtypes_are_those_of_the_arguments() -> None:
    x = Tensor([1.0, 2.0], dtype="float32")
    assert mg.grad(lambda x: (x.astype("float64") * 2.0).sum())(x).dtype == np.float32
    y, ydot = mg.jvp(lambda x: x.astype("float64") * 2.0, (x,), (x,))
    assert (y.dtype, ydot.dtype) == (np.float64, np.float64)
    assert mg.jacobian(mg.sin)(x).dtype == np.float32
    assert mg.grad(lambda x: x * x)(2.0).dtype == np.float64


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mg.grad(lambda x: x)(t(1, 2)), ValueError, r"not a Tensor of shape \(2,\): reduce it with sum\(\)"),
        (lambda: mg.grad(lambda x: (x > 0.0).any())(t(1)), TypeError, "floating-point scalar, not bool"),
        (lambda: mg.grad(lambda x: [x])(t(1)), TypeError, "returns a scalar Tensor, not list"),
        (lambda: mg.grad(mg.sin)(3), TypeError, r"argument 0 is a int without any .* \(write 3.0 instead of 3\)"),
        (lambda: mg.grad(mg.sum)(Tensor([1, 2])), TypeError, "argument 0 is a Tensor without any floating-point"),
        (lambda: mg.grad(mg.sin, argnums=1)(1.0), ValueError, "argnums has 1, but .* with 1 positional"),
        (lambda: mg.grad(mg.sin, argnums="x")(1.0), TypeError, "argnums is a position or a tuple of .* not 'x'"),
        (lambda: mg.grad(mg.sin, argnums=())(1.0), ValueError, "no argument to differentiate"),
        (lambda: mg.grad(mg.sin, has_aux=True)(1.0), TypeError, r"must return \(result, aux\)"),
        (lambda: mg.vjp(mg.sin, t(1, 2))[1](t(1)), ValueError, r"float64 \(2,\) must have .* not float64 \(1,\)"),
        (lambda: mg.vjp(mg.sin, t(1.0))[1](Tensor([1.0], dtype="float32")), ValueError, r"not float32 \(1,\)"),
        (lambda: mg.vjp(mg.sin, t(1))[1]([t(1)]), ValueError, r"differ at the root: Tensor \(1,\) in tree 1, but list"),
        (lambda: mg.vjp(mg.sin), ValueError, "no argument to differentiate"),
        (lambda: mg.jvp(mg.sin, t(1.0), t(1.0)), TypeError, "primals and tangents are tuples"),
        (lambda: mg.jvp(mg.sin, (t(1.0),), ()), ValueError, "1 primals need as many tangents, not 0"),
        (lambda: mg.jvp(mg.sin, (t(1.0),), (t(1, 2),)), ValueError, r"the tangent of a float64 \(1,\)"),
    ],
)  # fmt: skip
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# vjp and jvp


def test_vjp_takes_and_returns_trees_any_number_of_times() -> None:
    f = lambda p, s: {"sum": p["a"] + p["b"], "product": [p["a"] * s, 7]}
    y, pullback = mg.vjp(f, {"a": t(1.0, 2.0), "b": np.array([3.0, 4.0])}, 10.0)
    close(y["product"][0], [10.0, 20.0])
    for k in (1.0, 2.0):
        p, s = pullback({"sum": t(k, 0.0), "product": [np.array([0.0, k]), 7]})
        close(p["a"], [k, 10 * k])
        close(p["b"], [k, 0.0])
        close(s, 2 * k)


def test_an_output_returned_twice_has_two_cotangents() -> None:
    _, pullback = mg.vjp(lambda x: (x, x), t(1.0))
    close(pullback((t(2.0), t(3.0)))[0], [5.0])
    double = lambda x: (y := x * 2.0, y)
    close(mg.vjp(double, t(1.0))[1]((t(2.0), t(3.0)))[0], [10.0])
    _, (a, b) = mg.jvp(double, (t(1.0),), (t(4.0),))
    close(a, [8.0])
    close(b, [8.0])
    close(mg.jacobian(double)(t(1.0))[1], [[2.0]])


def test_pullbacks_and_tangents_are_differentiable_in_what_they_are_given() -> None:
    x = t(2.0)
    _, pullback = mg.vjp(lambda x: x * x * x, x)
    close(mg.grad(lambda u: pullback(u)[0].sum())(t(1.0)), [12.0])
    close(mg.grad(lambda v: mg.jvp(lambda x: x * x * x, (x,), (v,))[1].sum())(t(1.0)), [12.0])
    u = t(1.0, requires_grad=True)
    with mg.no_grad():
        assert not pullback(u)[0].requires_grad
    pullback(u)[0].sum().backward()
    close(u.grad, [12.0])


M = RNG.normal(size=(3, 4))
INDEX = np.array([2, 0, 2])
SAMPLES: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "broadcasting": (lambda a, b: a * b - b / (a * a + 1.0) + 2.0 * a, ((3, 1), (4,))),
    "where": (lambda a, b: mg.where(mg.greater(a, b), a * b, mg.exp(b)), ((3, 4), (4,))),
    "chain": (lambda a: mg.tanh(mg.sigmoid(a) * mg.softplus(a)), ((3, 4),)),
    "matmul": (lambda a, b: mg.matmul(a, b), ((3, 4), (4, 2))),
    "batched matmul": (lambda a, b: mg.matmul(a, b), ((2, 3, 4), (4, 2))),
    "matmul with constants": (lambda a, b: mg.matmul(mg.matmul(a, M.T), b), ((2, 4), (3,))),
    "matmul with itself": (lambda a: mg.matmul(a, a), ((3, 3),)),
    "einsum": (lambda a, b: mg.einsum("ij,kj->ki", a, b), ((3, 4), (2, 4))),
    "tensordot": (lambda a, b: mg.tensordot(a, b, 1), ((3, 4), (4, 2))),
    "reductions": (lambda a: mg.sum(a * a, axis=0, keepdims=True) + mg.mean(a, axis=1).sum() + mg.max(a), ((3, 4),)),
    "var and logsumexp": (lambda a: mg.var(a, axis=1) + mg.logsumexp(a, axis=1), ((3, 4),)),
    "softmax": (lambda a: mg.softmax(a, axis=-1) + mg.log_softmax(a, axis=0), ((3, 4),)),
    "prod": (lambda a: mg.prod(a, axis=0), ((3, 4),)),
    "shapes": (lambda a: mg.permute_dims(mg.reshape(a, (2, 6)), (1, 0)) * 2.0, ((3, 4),)),
    "concat with constants": (lambda a, b: mg.concat([a, Tensor(M), b], axis=0), ((2, 4), (1, 4))),
    "stack": (lambda a, b: mg.stack([a, b, a * b], axis=1), ((3,), (3,))),
    "split": (lambda a: (lambda p: p[0] * p[2] + mg.exp(p[2]))(mg.split(a, 3)), ((6,),)),
    "slices": (lambda a: a[1:, ::2] * a[:-1, 1::2] + a[0, 0], ((3, 4),)),
    "gather": (lambda a: a[INDEX] * mg.take(a, INDEX, axis=0), ((3, 4),)),
    "setitem": (lambda a, b: mg.setitem(a, (slice(None), 1), b) * a, ((3, 4), (3,))),
    "flip roll pad": (lambda a: mg.pad(mg.roll(mg.flip(a, axis=0), 1, axis=1), ((1, 0), (0, 2))), ((3, 4),)),
    "sort": (lambda a: mg.sort(a, axis=1) * a, ((3, 4),)),
    "cumulative sum": (lambda a: mg.cumulative_sum(a, axis=1) * a, ((3, 4),)),
    "norm": (lambda a: mg.norm(a, axis=1), ((3, 4),)),
    "no axes": (lambda a, b: a * b + mg.sin(a), ((), ())),
    "empty": (lambda a: mg.sin(a).sum() + a.sum(axis=0), ((0, 2),)),
    "checkpoint": (mg.checkpoint(lambda a, b: mg.matmul(mg.tanh(a), b) * 2.0), ((3, 4), (4, 2))),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_jvp_agrees_with_differences_and_with_vjp(name: str) -> None:
    f, shapes = SAMPLES[name]
    xs = tuple(RNG.normal(size=s) for s in shapes)
    vs = tuple(RNG.normal(size=s) for s in shapes)
    y, ydot = mg.jvp(f, xs, vs)
    assert not ydot.requires_grad
    close(y, f(*map(Tensor, xs)))
    close(ydot, numeric_jvp(f, xs, vs), 1e-6)
    u = RNG.normal(size=y.shape)
    _, pullback = mg.vjp(f, *xs)
    xbars = pullback(u)
    assert all(not x.requires_grad for x in xbars)
    close((u * ydot.data).sum(), sum((x.data * v).sum() for x, v in zip(xbars, vs, strict=True)))


@pytest.mark.parametrize("name", SAMPLES)
def test_second_derivatives_agree_in_all_four_modes(name: str) -> None:
    f, shapes = SAMPLES[name]
    xs = tuple(RNG.normal(size=s) for s in shapes)
    vs = tuple(RNG.normal(size=s) for s in shapes)
    weights = RNG.normal(size=f(*map(Tensor, xs)).shape)
    loss = lambda xs: (f(*xs) * f(*xs) * weights).sum()
    gradient = mg.grad(loss)
    forward_over_reverse = mg.hvp(loss, xs, vs)
    inner = lambda xs: sum(((g * v).sum() for g, v in zip(gradient(xs), vs, strict=True)), start=Tensor(0.0))
    reverse_over_reverse = mg.grad(inner)(xs)
    reverse_over_forward = mg.grad(lambda xs: mg.jvp(loss, (xs,), (vs,))[1])(xs)
    for a, b, c in zip(forward_over_reverse, reverse_over_reverse, reverse_over_forward, strict=True):
        close(a, b, 1e-9)
        close(a, c, 1e-9)
    curvature = mg.jvp(lambda xs: mg.jvp(loss, (xs,), (vs,))[1], (xs,), (vs,))[1]
    close(curvature, sum((a.data * v).sum() for a, v in zip(forward_over_reverse, vs, strict=True)), 1e-9)
    slope = lambda *xs: inner(xs)
    close(curvature, numeric_jvp(slope, xs, vs), 1e-5)


def test_tangents_have_the_shape_and_dtype_of_the_output() -> None:
    single = Tensor([[1.0], [2.0]], dtype="float32")
    _, ydot = mg.jvp(lambda x: x + np.ones(3), (single,), (single,))
    assert ydot.dtype == np.float64
    close(ydot, [[1.0] * 3, [2.0] * 3])


def own_op(name: str, *args: Any, **options: Any) -> mg.Op:
    """An operation that the suite over all registered ones does not see."""
    op = mg.Op(name, *args, **options)
    del registry[name]
    return op


mirror = own_op(
    "mirror",
    lambda a, b: a[::-1] - 2.0 * b,
    vjp={"a": lambda g: mg.flip(g), "b": lambda g: g * -2.0},
    kind="linear",
)
squares = own_op(
    "squares",
    lambda *xs: np.add.reduce([x * x for x in xs]),
    vjp={"xs": lambda g, xs: [g * 2.0 * x for x in xs]},
    kind="elementwise",
)


@pytest.mark.parametrize("op", [mirror, squares])
def test_jvp_of_ones_own_operations(op: mg.Op) -> None:
    xs, vs = tuple(RNG.normal(size=(2, 3))), tuple(RNG.normal(size=(2, 3)))
    constant = Tensor(RNG.normal(size=3))
    for f, n in ((op, 2), (lambda a: op(a, constant), 1), (lambda b: op(constant, b), 1), (lambda a: op(a, a), 1)):
        close(mg.jvp(f, xs[:n], vs[:n])[1], numeric_jvp(f, xs[:n], vs[:n]), 1e-7)
        hessian = mg.hessian(lambda x, f=f, n=n: mg.exp(f(x, *xs[1:n])).sum())(xs[0])
        close(mg.matmul(hessian, vs[0]), mg.hvp(lambda x, f=f, n=n: mg.exp(f(x, *xs[1:n])).sum(), xs[0], vs[0]))


def test_an_operation_of_several_outputs_whose_rule_asks_for_them() -> None:
    pull = lambda g, x, y: sum(c * slope for c, slope in zip(g, (y[0], 2.0 * x), strict=True) if c is not None)
    both = own_op("both", lambda x: (np.exp(x), x * x), vjp={"x": pull})
    f = lambda x: (lambda p: p[0] * p[1])(both(x))  # x² exp(x)
    close(f(1.0), math.e)
    for outer in DERIVATIVES:
        for inner in DERIVATIVES:
            close(outer(inner(f))(1.0), 7 * math.e)
    close(mg.grad(lambda x: both(x)[1])(3.0), 6.0)


def test_jvp_runs_no_hooks_and_is_recorded_on_a_tape() -> None:
    calls = []
    x = t(1.0, 2.0, requires_grad=True)
    x.register_hook(lambda g: calls.append(g))
    with mg.record() as tape:
        _, ydot = mg.jvp(lambda x: mg.matmul(x, x) * mg.sin(x), (x,), (t(1.0, 0.0),))
    assert calls == []
    expected = mg.jvp(lambda x: mg.matmul(x, x) * mg.sin(x), (t(3.0, 4.0),), (t(1.0, 0.0),))[1]
    close(tape.replay({x: [3.0, 4.0]})(ydot), expected)


def test_grad_on_a_tape_replays() -> None:
    x = t(1.0, 2.0)
    f = mg.checkpoint(lambda x: mg.exp(mg.sin(x)).sum())
    with mg.record() as tape:
        g = mg.grad(f)(x)
        h = mg.hvp(f, x, t(1.0, 1.0))
    run = tape.replay({x: [3.0, 4.0]})
    close(run(g), mg.grad(f)(t(3.0, 4.0)))
    close(run(h), mg.hvp(f, t(3.0, 4.0), t(1.0, 1.0)))


# Second order


@pytest.mark.parametrize("rows", [2, 5])  # fewer outputs than inputs: by rows; more: by columns
def test_jacobian_by_rows_and_by_columns(rows: int) -> None:
    w = RNG.normal(size=(rows, 3))
    x = RNG.normal(size=3)
    f = lambda x: mg.tanh(mg.matmul(w, x))
    expected = (1 - np.tanh(w @ x) ** 2)[:, None] * w
    close(mg.jacobian(f)(x), expected)
    assert not mg.jacobian(f)(x).requires_grad
    total = mg.grad(lambda x: (mg.jacobian(f)(x) * mg.jacobian(f)(x)).sum())(x)
    y = np.tanh(w @ x)
    close(total, ((w * w).sum(1) * 2 * (1 - y * y) * -2 * y * (1 - y * y)) @ w)


def test_jacobian_makes_a_pass_for_each_entry_of_the_smaller_side() -> None:
    calls = []
    op = own_op("counted", lambda x: x.copy(), vjp={"x": lambda g: calls.append(1) or g}, kind="elementwise")
    mg.jacobian(lambda x: op(x)[:2])(np.ones(5))
    assert len(calls) == 2
    calls.clear()
    mg.jacobian(lambda x: mg.tile(op(x), 5))(np.ones(3))
    assert len(calls) == 3


def test_jacobian_of_trees() -> None:
    f = lambda p, c: {"outer": mg.outer(p["a"], p["b"]), "square": [p["a"] * p["a"] * c, 5.0]}
    p = {"a": t(1.0, 2.0), "b": np.array([3.0, 4.0, 5.0]), "n": np.array([1, 2])}
    j = mg.jacobian(f)(p, 2.0)
    assert list(j) == ["outer", "square"]
    close(j["outer"]["a"], np.einsum("ik,j->ijk", np.eye(2), [3.0, 4.0, 5.0]))
    close(j["outer"]["b"], np.einsum("i,jk->ijk", [1.0, 2.0], np.eye(3)))
    close(j["square"][0]["a"], np.diag([4.0, 8.0]))
    close(j["square"][0]["b"], np.zeros((2, 3)))
    close(j["square"][1]["a"], np.zeros(2))
    assert (j["outer"]["n"].shape, j["outer"]["n"].dtype.kind) == ((2, 3, 2), "i")
    a, c = mg.jacobian(lambda a, c: a * c, argnums=(0, 1))(t(1.0, 2.0), 3.0)
    close(a, 3 * np.eye(2))
    close(c, [1.0, 2.0])
    assert mg.jacobian(lambda x: x * 2.0)(np.zeros((0, 2))).shape == (0, 2, 0, 2)
    assert mg.jacobian(lambda x: x[:0])(t(1.0, 2.0)).shape == (0, 2)


def test_hessian_and_hvp() -> None:
    a = RNG.normal(size=(3, 3))
    x, v = RNG.normal(size=3), RNG.normal(size=3)
    f = lambda x: (x * mg.matmul(a, x)).sum() + mg.exp(x).sum()
    expected = a + a.T + np.diag(np.exp(x))
    close(mg.hessian(f)(x), expected)
    close(mg.hvp(f, x, v), expected @ v)
    (xx, xy), (yx, yy) = mg.hessian(lambda x, y: (x * x * y).sum(), argnums=(0, 1))(t(2.0), t(3.0))
    for block, value in ((xx, 6.0), (xy, 4.0), (yx, 4.0), (yy, 0.0)):
        close(block, [[value]])
    tree = {"x": t(2.0), "y": 3.0}
    g = lambda p: (p["x"] * p["x"]).sum() * p["y"]
    h = mg.hessian(g)(tree)
    close(h["x"]["y"], [4.0])
    close(h["y"]["x"], [4.0])
    product = mg.hvp(g, tree, {"x": t(1.0), "y": 10.0})
    close(product["x"], [46.0])
    close(product["y"], 4.0)
    third = mg.jacobian(mg.hessian(lambda x: (x * x * x).sum()))(t(1.0, 2.0))
    close(third, np.einsum("ij,jk->ijk", 6 * np.eye(2), np.eye(2)))


def test_stop_gradient() -> None:
    tree = {"a": t(2.0, requires_grad=True), "s": "text", "n": np.ones(1)}
    stopped = mg.stop_gradient(tree)
    assert not stopped["a"].requires_grad
    assert stopped["s"] == "text"
    assert stopped["n"] is tree["n"]
    close(mg.grad(lambda x: mg.stop_gradient(x * x) * x)(3.0), 9.0)
    close(mg.jvp(lambda x: mg.stop_gradient(x * x) * x, (3.0,), (1.0,))[1], 9.0)


def test_transforms_leave_nothing_for_the_garbage_collector() -> None:
    w = t(1.0, requires_grad=True)
    f = mg.checkpoint(lambda x: (mg.sin(x) * w).sum())
    x = t(2.0)
    runs = [
        lambda: mg.grad(f)(x), lambda: mg.hvp(f, x, x), lambda: mg.hessian(f)(x), lambda: mg.vjp(f, x)[1](1.0),
        lambda: f(x).backward(), lambda: mg.jacobian(mg.sin)(x),
    ]  # fmt: skip
    for run in runs:
        run()
        gc.collect()
        gc.disable()
        try:
            run()
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_a_record_that_the_function_itself_has_freed_is_an_error() -> None:
    def f(x: Any) -> Any:
        y = (x * x).sum()
        y.backward()
        return y

    for use in (mg.grad(f), lambda x: mg.jvp(f, (x,), (x,))):
        with pytest.raises(RuntimeError, match="a second time"):
            use(t(1.0, 2.0))


def test_errors_inside_leave_the_mode_as_it_was() -> None:
    def fails(x: Any) -> Any:
        raise KeyError("inside")

    with mg.no_grad():
        for transform in (mg.grad, mg.jacobian, mg.checkpoint):
            with pytest.raises(KeyError):
                transform(fails)(1.0)
        assert not mg.grad_enabled()


# checkpoint


def block(w: Any, x: Any) -> Any:
    for _ in range(6):
        x = mg.tanh(mg.matmul(x, w)) * 2.0
    return x


def test_checkpoint_gives_the_same_bits_for_arguments_and_for_what_it_closes_over() -> None:
    w, b = Tensor(RNG.normal(size=(4, 4)), requires_grad=True), Tensor(RNG.normal(size=4), requires_grad=True)
    x = Tensor(RNG.normal(size=(3, 4)), requires_grad=True)
    found = []
    for wrap in (lambda f: f, mg.checkpoint):
        scaled = w * 0.5  # closed over, and no leaf
        f = wrap(lambda p, scaled=scaled: {"y": block(scaled, p["x"]) + b, "again": p["x"], "n": 3})
        out = f({"x": x * 1.0, "tag": "t"})
        assert out["n"] == 3
        (out["y"] * out["y"] + out["again"] * w[0]).sum().backward()
        found.append([p.grad.data for p in (w, b, x)])
        for p in (w, b, x):
            p.zero_grad()
    for plain, again in zip(*found, strict=True):
        np.testing.assert_array_equal(plain, again)


def test_checkpoint_runs_hooks_once_and_returns_constants_as_they_are() -> None:
    calls = []
    w = t(3.0, requires_grad=True)
    w.register_hook(lambda g: calls.append(g.data.copy()) or g * 2.0)
    (mg.checkpoint(lambda x: x * w)(t(2.0)) + w).sum().backward()
    assert [c.tolist() for c in calls] == [[3.0]]
    close(w.grad, [6.0])
    constant = mg.checkpoint(lambda x: mg.sin(x))(t(1.0))
    assert constant.is_leaf
    twice = w * 2.0
    for older in (w, twice):
        assert mg.checkpoint(lambda x: x)(older) is older
    with mg.no_grad():
        assert not mg.checkpoint(lambda x: x * w)(t(2.0)).requires_grad


def test_checkpoint_does_not_go_backward_from_outputs_that_nobody_used() -> None:
    """The slope of the root at 0 is infinite, and 0·∞ would be NaN."""
    x = t(0.0, requires_grad=True)
    doubled, _ = mg.checkpoint(lambda x: (2.0 * x, mg.sqrt(x)))(x)
    doubled.backward()
    close(x.grad, [2.0])


def test_checkpoint_in_higher_order_and_nested_in_itself() -> None:
    w = t(0.7, 0.3, requires_grad=True)
    f = lambda x: (mg.sin(x * w) * x).sum()
    inner = mg.checkpoint(lambda x: mg.sin(x * w))
    g = mg.checkpoint(lambda x: (inner(x) * x).sum())
    x = t(1.0, 2.0)
    close(mg.hessian(g)(x), mg.hessian(f)(x))
    close(mg.jacobian(mg.hessian(g))(x), mg.jacobian(mg.hessian(f))(x))
    close(mg.jvp(g, (x,), (x,))[1], mg.jvp(f, (x,), (x,))[1])
    grads = []
    for h in (f, g):
        y = t(1.0, 2.0, requires_grad=True)
        h(y).backward(create_graph=True)
        penalty = (y.grad * y.grad).sum()
        y.zero_grad()
        w.zero_grad()
        penalty.backward()
        grads.append((y.grad, w.grad))
    for a, b in zip(*grads, strict=True):
        close(a, b)
    w.zero_grad()


def test_checkpoint_repeats_its_random_draws_and_no_others() -> None:
    x = Tensor(np.ones(1000), requires_grad=True)
    f = mg.checkpoint(lambda x: x * mg.random.normal((1000,)))
    mg.random.seed(3)
    first = f(x)
    between = mg.random.normal((5,)).data
    first.sum().backward(retain_graph=True)
    np.testing.assert_array_equal(x.grad.data, first.data)
    x.zero_grad()
    first.sum().backward()
    after = mg.random.normal((5,)).data
    np.testing.assert_array_equal(x.grad.data, first.data)
    mg.random.seed(3)
    mg.random.normal((1000,))
    np.testing.assert_array_equal(mg.random.normal((5,)).data, between)
    np.testing.assert_array_equal(mg.random.normal((5,)).data, after)


def test_checkpoint_never_gives_a_wrong_gradient() -> None:
    w = t(2.0, requires_grad=True)
    y = mg.checkpoint(lambda x: x * x * w)(t(3.0)).sum()
    with mg.no_grad():
        w.assign([5.0])
    with pytest.raises(RuntimeError, match="changed by assign"):
        y.backward()
    constant = t(3.0)
    y = mg.checkpoint(lambda x: x * x * w)(constant).sum()
    constant.assign([4.0])  # an argument is taken as it was
    y.backward()
    close(w.grad, [9.0])
    array = np.array([3.0])
    y = mg.checkpoint(lambda x: w * x)(array).sum()
    array[:] = 7.0
    w.zero_grad()
    y.backward()
    close(w.grad, [3.0])
    y = mg.checkpoint(lambda: w * constant)().sum()
    constant.assign([5.0])  # but what it closes over has changed
    with pytest.raises(RuntimeError, match="computed again, did not return what it returned first"):
        y.backward()


class Counter:
    """How many bytes the arrays hold that operations made and something keeps alive."""

    def __init__(self) -> None:
        self.live = self.peak = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        y = np.tanh(x)
        self.live += y.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(y, self._gone, y.nbytes)
        return y

    def _gone(self, size: int) -> None:
        self.live -= size


def peak_of_a_chain(wrap: Callable[[Any], Any], blocks: int, length: int) -> tuple[int, np.ndarray]:
    counter = Counter()
    op = own_op("counted", lambda x: counter(x), vjp={"x": lambda g, y: g * (1.0 - y * y)}, kind="elementwise")

    def run(x: Any) -> Any:
        for _ in range(length):
            x = op(x)
        return x

    x = Tensor(np.linspace(0.1, 0.2, 100), requires_grad=True)
    y = x
    for _ in range(blocks):
        y = wrap(run)(y)
    y.sum().backward()
    size = x.data.nbytes
    assert x.grad is not None
    del y
    gc.collect()
    assert counter.live == 0
    return counter.peak // size, x.grad.data


def test_checkpoint_lowers_the_peak_of_live_arrays() -> None:
    blocks, length = 16, 16
    stored, expected = peak_of_a_chain(lambda f: f, blocks, length)
    saved, actual = peak_of_a_chain(mg.checkpoint, blocks, length)
    np.testing.assert_array_equal(actual, expected)
    assert stored >= blocks * length
    assert saved <= blocks + length + 4, f"{saved} arrays alive at once"
