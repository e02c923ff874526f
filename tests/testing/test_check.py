"""check, check_vjp, check_call: verdicts, and what the reports say."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, testing
from minigrad.core.op import Op, registry
from minigrad.testing import Call, GradientError, assert_gradients, check, check_call, check_vjp
from minigrad.testing.judge import unsymmetric
from minigrad.testing.subject import OfTensors

rng = np.random.default_rng(0)


def op(forward: Callable[..., Any], **vjp: Any) -> Op:
    return Op("mine", forward, vjp=vjp, kind="elementwise", formula="y = f(x),  x̄ = ȳ·f′(x)")


class Net(nn.Module):
    def __init__(self, sizes: tuple[int, ...], activation: Any):
        self.layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        self.activation = activation

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


def loss(model: Any, x: mg.Tensor) -> mg.Tensor:
    return mg.mean(mg.square(model(x) - 1.0))


# What passes


@pytest.mark.parametrize("activation", [mg.tanh, mg.relu, mg.gelu, mg.softplus, mg.leaky_relu])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_module_and_a_batch(activation: Any, dtype: str) -> None:
    mg.random.seed(1)
    model = Net((6, 5, 4), activation).astype(dtype)
    report = check(loss, model, rng.random((7, 6)).astype(dtype))
    assert report, report
    assert report.entries == 6 * 5 + 5 + 5 * 4 + 4 + 7 * 6


def test_a_module_itself_has_its_parameters_checked() -> None:
    mg.random.seed(1)
    model = Net((3, 4, 2), mg.tanh).astype("float64")
    assert check(model, rng.random((2, 3))).entries == 3 * 4 + 4 + 4 * 2 + 2 + 6


def test_trees() -> None:
    @dataclasses.dataclass
    class State:
        mass: Any
        rest: tuple[Any, ...]

    state = State(np.array([2.0, 3.0]), ({"v": 1.5}, np.array([1, 2])))
    report = check(lambda s, k: {"e": s.mass * s.rest[0]["v"] * s.rest[1], "k": [k * k]}, state, 2.0, order=2)
    assert report, report
    assert report.entries >= 4


def test_the_same_result_twice_and_an_integer_beside_it() -> None:
    def f(x: Any) -> Any:
        y = x * x
        return y, y, mg.argmax(x)

    assert check(f, np.array([1.0, 2.0]))


@pytest.mark.parametrize("order", [2, 3])
def test_higher_orders(order: int) -> None:
    assert check(lambda x: mg.sum(mg.sin(x) * mg.exp(x)), np.array([0.3, -1.0]), order=order)


def test_empty_inputs() -> None:
    assert check(mg.exp, np.zeros((0, 3)))
    assert check(lambda x: mg.sum(x), np.zeros(0))


def test_a_float32_closure_that_refuses_float64() -> None:
    model = Net((3, 4, 2), mg.tanh)  # float32: a float64 batch is an error
    report = check(lambda x: loss(model, x), rng.random((5, 3)).astype(np.float32))
    assert report, report
    assert 1e-8 < report.bar < 1e-2


def test_many_outputs() -> None:
    x = rng.standard_normal(10_000)
    assert check_vjp(np.sin, lambda g, x: g * np.cos(x), x)
    assert not check_vjp(np.sin, lambda g, x: g * np.where(np.arange(len(x)) == 777, 1.5, 1.0) * np.cos(x), x)


@pytest.mark.parametrize("error", [0.0, 1e-12])
def test_how_small_an_error_is_seen_by_differences(error: float) -> None:
    """|x| has no complex step; the bars of the differences leave no room for a hundred times the rounding."""
    x = np.array([0.7, 1.3, 2.9])
    report = check_vjp(lambda x: np.sin(np.abs(x)), lambda g, x: g * np.cos(x) * (1 + error), x)
    assert report.oracle == "extrapolated differences"
    assert report.verdict == ("fail" if error else "pass")


@pytest.mark.parametrize(("entry", "error"), [(3, 0.5), (3, -1e-3), (17_000, 1e-7), (12_345, 1e-6)])
def test_one_entry_of_many_thousands(entry: int, error: float) -> None:
    """However small its slope is beside the others."""
    w = np.geomspace(1e-6, 1.0, 20_000)
    x = np.linspace(1.5, 2.5, len(w))
    slip = np.where(np.arange(len(w)) == entry, 1 + error, 1.0)
    f = lambda x: np.sum(w * np.exp(-x) * np.abs(x))
    vjp = lambda g, x: g * w * np.exp(-x) * (1 - x) * slip
    report = check_vjp(f, vjp, x)
    assert report.verdict == "fail"
    assert report.findings[0].entry == f"x[{entry}], output"
    assert check_vjp(f, lambda g, x: vjp(g, x) / slip, x)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_subgradients_of_relu(slope: float) -> None:
    relu = op(lambda x: np.maximum(x, 0), x=lambda g, x: g * mg.where(mg.equal(x, 0.0), slope, mg.greater(x, 0.0)))
    assert check(relu, np.array([0.0, 1.0, -1.0, 3e-7, -3e-7]))


# What is unsure


@pytest.mark.parametrize(
    ("f", "x", "why"),
    [
        (lambda x: mg.relu(x) - mg.relu(-x), 0.0, "the chain rule does not hold at kinks"),
        (mg.sqrt, 0.0, "no finite slope was found"),
        (mg.floor, 2.0, "no difference quotient settles"),
        (lambda x: mg.exp(x), 1000.0, "not finite at this point"),
        (lambda x: x * 1.0, np.nan, "an input is not finite"),
        (lambda x: x * mg.random.normal(()), 1.0, "another result in each call"),
        (lambda x: mg.sin(x * 1e16), 1.0, "can't tell"),
    ],
)
def test_unsure_says_why(f: Any, x: float, why: str) -> None:
    report = check(f, x)
    assert report.verdict == "unsure", report
    assert not report
    assert why in str(report)
    with pytest.raises(GradientError, match="UNSURE") as caught:
        assert_gradients(f, x)
    assert caught.value.report.verdict == "unsure"
    assert_gradients(f, x, allow_unsure=True)


def test_the_nodes_at_a_kink_are_named() -> None:
    def f(x: Any) -> Any:
        positive = mg.relu(x)
        negative = mg.relu(-x)
        return mg.tanh(positive - negative)

    text = str(check(f, 0.0))
    assert text.count("kink:   relu at ") == 2
    assert "test_check.py" in text
    assert "tanh at" not in text


# What fails


@pytest.mark.parametrize("error", [1e-9, -1e-6, 0.0009, 0.5, -2.0])
def test_a_factor(error: float) -> None:
    wrong = op(np.sin, x=lambda g, x: g * mg.cos(x) * (1 + error))
    report = check(lambda x: mg.sum(mg.exp(wrong(x))), np.array([0.5, 1.5]))
    assert report.verdict == "fail"
    (finding,) = report.findings
    assert finding.entry.startswith("x[")
    assert finding.guilty[0].startswith("mine at ")
    assert "test_check.py" in finding.guilty[0]
    assert finding.formula == wrong.formula


def test_the_report_names_everything() -> None:
    def f(w: Any, x: Any) -> Any:
        return np.maximum(x @ w, 0)

    def vjp(g: Any, w: Any, x: Any) -> Any:
        g = g * (x @ w > 0)
        return -x.T @ g, g @ w.T

    w, x = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([[1.0, 2.0], [3.0, 0.25]])
    text = str(check_vjp(f, vjp, w, x))
    assert text.startswith("f: fail (8 entries, ")
    assert "FAIL: the VJP for w is wrong" in text
    assert "at:     w[0, 0], output[1, 0]" in text
    assert "the VJP gives -3, it is 3 ± " in text
    assert "looks:  the sign is flipped" in text
    assert "again:  check_vjp(f, vjp, array([[ 1. , -2. ], [ 0.5, 3. ]]), " in text


def test_a_slope_outside_of_the_kink() -> None:
    report = check_vjp(
        lambda x: np.maximum(x, 0), lambda g, x: np.where(x == 0, 2 * g, g * (x > 0)), np.array([0.0, 1.0])
    )
    assert report.verdict == "fail"
    assert "the slopes on either side are 0 and 1" in str(report)


def test_what_is_not_recorded() -> None:
    report = check(lambda x: x * x.detach(), np.array([2.0, 3.0]))
    assert report.verdict == "fail"
    assert "not recorded" in str(report)
    assert "no gradient flows" in str(check(lambda x: mg.Tensor(x.data * 2.0), np.array([2.0, 3.0])))


@pytest.mark.parametrize(
    ("vjp", "says"),
    [
        (lambda g, a, b: (g * b, np.sum(g * a, keepdims=True)), "cotangent of b has the shape (1, 1), expected ()"),
        (lambda g, a, b: g * b, "expected 2 cotangents"),
        (lambda g, a, b: (g * b, None), "expected a cotangent for b, got None"),
        (lambda g, a, b: 1 / 0, "the VJP raised ZeroDivisionError"),
        (lambda g, a, b: (g * b * np.nan, np.sum(g * a)), "the VJP is nan, but the function has a finite slope"),
        (lambda g, a, b: (g * b + 1e-9, np.sum(g * a)), "not linear in the cotangent: of 0 it is not 0"),
        (lambda g, a, b: (g * b * (abs(g) > 1e-8), np.sum(g * a)), "small ones are lost"),
        (lambda g, a, b: (g * g * b, np.sum(g * a)), "not linear in the cotangent"),
        (lambda g, a, b: (np.maximum(g, 0) * b, np.sum(g * a)), "not linear in the cotangent"),
        (lambda g, a, b: (g * b * np.max(abs(g)) / np.sum(abs(g)), np.sum(g * a)), "not linear in the cotangent"),
        (lambda g, a, b: (g * b, np.sum(np.multiply(g, a, out=a))), "an input was changed"),
        (lambda g, a, b: (g.ravel(order="K").reshape(g.shape) * b, np.sum(g * a)), "VJPs of Fortran-ordered"),
    ],
)
def test_faults_that_show_at_once(vjp: Any, says: str) -> None:
    report = check_vjp(lambda a, b: a * b, vjp, rng.standard_normal((2, 3)), 1.5)
    assert report.verdict == "fail"
    assert says in str(report)


def test_a_jvp_that_is_not_the_transpose() -> None:
    """An operation that claims to be elementwise, and is not: its VJP is right, its JVP is wrong."""
    wrong = Op("turn", lambda x: np.roll(x, 1), vjp={"x": lambda g: mg.roll(g, -1)}, kind="elementwise")
    report = check(wrong, np.array([1.0, 2.0, 4.0]))
    assert report.verdict == "fail"
    assert "JVP" in report.findings[0].what


def test_a_wrong_second_derivative() -> None:
    wrong = op(np.sin, x=lambda g, x: g * mg.cos(x.detach() if isinstance(x, mg.Tensor) else x))
    assert check(wrong, np.array([0.5]))
    report = check(wrong, np.array([0.5]), order=2)
    assert report.verdict == "fail"
    assert report.findings[0].what.startswith("the VJP for x is wrong")


def test_an_unsymmetric_hessian() -> None:
    wrong = Op(
        "pair",
        lambda a, b: a * a * b,
        vjp={"a": lambda g, a, b: g * (2.0 * a * b), "b": lambda g, like_b, y, b: g * (y / b)},
        kind="elementwise",
    )
    forgetful = Op(
        "pair2",
        wrong.forward,
        vjp={**wrong.vjp, "b": lambda g, a: g * mg.square(mg.stop_gradient(a))},
        kind="elementwise",
    )
    xs = np.array(1.5), np.array(0.5)
    assert check(wrong, *xs, order=2)
    assert check(forgetful, *xs)
    assert check(forgetful, *xs, order=2).verdict == "fail"


@pytest.mark.parametrize(("factor", "symmetric"), [(1.0, True), (1 + 1e-9, False)])
def test_symmetry_needs_no_oracle(factor: float, symmetric: bool) -> None:
    def gradient(a: Any, b: Any, u: Any) -> Any:
        """Of u·sin(a·b), with a slip in one of the two."""
        return [u * b * mg.cos(a * b), u * a * mg.cos(a * b) * factor]

    subject = OfTensors(gradient, [np.array([0.3, 1.5]), np.array([0.5, -2.0]), np.ones(2)])
    assert (unsymmetric(subject, 2) is None) == symmetric


def test_digits_lost_in_float32() -> None:
    wrong = op(np.tanh, x=lambda g, y: g * (1.0 - y * y))
    x = np.array([0.5, 8.5])
    f = lambda x: mg.sum(wrong(x) * 2.0)
    assert check(f, x)
    report = check(f, x.astype(np.float32))
    assert report.verdict == "fail"
    assert "loses its digits in float32" in str(report)
    assert "mine at" in report.findings[0].guilty[0]
    assert check(lambda x: mg.sum(mg.tanh(x) * 2.0), x.astype(np.float32))
    assert not check_vjp(np.tanh, lambda g, x: g * (1 - np.tanh(x) ** 2), x.astype(np.float32))
    assert check_vjp(np.tanh, lambda g, x: g / np.cosh(x) ** 2, x.astype(np.float32))


# Calls of operations, and mistakes of the caller


def test_exact_adjoints() -> None:
    matmul = registry["matmul"]
    call = Call(matmul, (rng.standard_normal((3, 4)), rng.standard_normal((4, 2))))
    assert check_call(call).oracle == "exact adjoints"
    assert check_call(call, order=2)
    wrong = dataclasses.replace(
        matmul, name="mine", vjp={**matmul.vjp, "b": lambda g, a: mg.matmul(mg.matrix_transpose(a), g) * (1 + 1e-13)}
    )
    assert check_call(Call(wrong, call.arrays)).verdict == "fail"


def test_mistakes_of_the_caller() -> None:
    with pytest.raises(TypeError, match="expected at least one floating-point"):
        check(lambda x: x, np.array([1, 2]))
    with pytest.raises(TypeError, match="expected a floating-point result"):
        check(lambda x: mg.argmax(x), np.array([1.0, 2.0]))
    with pytest.raises(TypeError, match="expected at least one floating-point"):
        check_vjp(lambda x: x, lambda g, x: g, np.array([1, 2]))
    with pytest.raises(TypeError, match="got float16: convert with astype"):
        check_vjp(lambda x: x, lambda g, x: g, np.ones(2, np.float16))
    with pytest.raises(ValueError, match="matmul"):
        check(lambda x: mg.matmul(x, x), np.ones((2, 3)))


def test_the_point_is_not_changed() -> None:
    x = mg.Tensor([1.0, 2.0], requires_grad=True)
    array = np.array([3.0, 4.0])
    assert check(lambda x, y: x * y, x, array)
    assert x.grad is None
    assert x.data.tolist() == [1.0, 2.0]
    assert array.tolist() == [3.0, 4.0]
    assert array.flags.writeable


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs no Hypothesis works without it; the rest says how to get it."""
    monkeypatch.delitem(sys.modules, "minigrad.testing.suite", raising=False)
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ModuleNotFoundError, match=r"op_suite needs hypothesis: pip install 'minigrad\[testing\]'"):
        testing.op_suite
    assert testing.check(mg.exp, 1.0)


def test_an_infinity_near_the_point_is_no_slope() -> None:
    """1 to the power -1e30 is 0 on one side of 1 and infinite on the other, within the rounding of 1."""
    assert check(mg.pow, np.array(1.0), np.array(-1e30)).verdict == "unsure"


@pytest.mark.parametrize("x", [[8.5], [0.5, 8.5], [0.5, -8.0, 9.5], [0.5, 0.25, 7.0, 8.25, 10.0]])
def test_a_term_that_cancels_beside_one_that_does_not(x):
    """1 - tanh² has few digits far out, and stands still nearby: the noise is seen all the same, and hides no error."""
    x = np.array(x)
    assert check_vjp(np.tanh, lambda g, x: g * (1 - np.tanh(x) ** 2), x)
    for k in range(len(x)):
        slip = np.where(np.arange(len(x)) == k, 1 + 1e-5, 1.0)
        assert check_vjp(np.tanh, lambda g, x: g * slip * (1 - np.tanh(x) ** 2), x).verdict == "fail"  # noqa: B023


def test_two_kinks_on_a_line_are_said_once():
    (finding,) = check(lambda x: mg.relu(x) - mg.relu(-x), 0.0).findings
    assert len(finding.guilty) == 1
    assert finding.looks == ()
    assert finding.numbers.startswith("the VJP gives 0, it is 1 ±")


@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0, -0.25, 1.5])
def test_kinks_among_very_many_outputs(at_zero):
    """They are summed in blocks, with signs: the slopes of a sum say nothing of those of its terms at their kinks."""
    x = np.random.default_rng(0).normal(size=4500)
    x[::3] = 0.0
    rule = lambda g, x: g * np.where(x == 0, at_zero, x > 0)
    report = check_vjp(lambda x: np.maximum(x, 0.0), rule, x)
    assert report.verdict == ("pass" if 0 <= at_zero <= 1 else "fail"), report


def test_one_wrong_entry_beside_kinks_among_very_many_outputs():
    x = np.random.default_rng(0).normal(size=4500)
    x[::3] = 0.0
    rule = lambda g, x: g * np.where(np.arange(4500) == 3777, 1.1, 1.0) * (x > 0)
    x[3777] = 0.5
    assert check_vjp(lambda x: np.maximum(x, 0.0), rule, x).verdict == "fail"
