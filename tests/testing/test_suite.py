"""op_suite and gradcheck as users use them. What the suite finds is tested in tests/suite, over the engine's Ops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.core.op import Op, registry
from minigrad.testing import GradientError, gradcheck, op_suite
from minigrad.testing.strategies import arrays, by_record
from minigrad.testing.suite import CHECKS, cancelling

quick = settings(max_examples=5, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
before = dict(registry)
cube = Op("cube", lambda x: x * x * x, vjp={"x": lambda g, x: g * (3.0 * x * x)}, kind="elementwise")
powers = Op(
    "powers",
    lambda x, *, step: x[..., ::step] ** 2,
    vjp={"x": lambda g, x, step: mg.scatter_add(0.0 * x, (..., slice(None, None, step)), 2.0 * g * x[..., ::step])},
)
registry.clear()
registry.update(before)  # they are for this file alone

TestCube = op_suite(cube, oracle=lambda x: np.power(x, 3), how=quick)
TestPowers = op_suite(
    powers,
    oracle=lambda x, *, step: np.square(x)[..., ::step],
    calls=lambda sizes: st.tuples(
        st.sampled_from([[(3,)], [(2, 4)]]), st.fixed_dictionaries({"step": st.integers(1, 3)})
    ),
    without={"empty_or_0d": "it needs an axis"},
    how=quick,
)


def checks_of(suite: type) -> list[str]:
    """The names of the checks that pytest would run."""
    return next(mark.args[1] for mark in suite.test.pytestmark if mark.name == "parametrize")


def run(suite: type) -> dict[str, BaseException]:
    """Run all checks of a suite as pytest does; those that failed."""
    failed, tests = {}, suite()
    for name in checks_of(suite):
        try:
            tests.test(name)
        except Exception as error:
            failed[name] = error
    return failed


def wrong_cube(factor: Any) -> Op:
    return Op("wrong", lambda x: x * x * x, vjp={"x": lambda g, x: g * (factor(x) * x * x)}, kind="elementwise")


def test_a_wrong_rule_fails_where_derivatives_are_looked_at():
    failed = run(op_suite(wrong_cube(lambda x: 3.0 + 1e-6), how=quick))
    assert {"derivative", "second_derivative", "far_out"} <= set(failed)
    assert isinstance(failed["derivative"], GradientError)
    assert failed["derivative"].report.verdict == "fail"


def test_a_wrong_forward_fails_where_an_oracle_is_given():
    assert not {"as_numpy", "extremes"} & set(run(op_suite(cube, how=quick)))
    assert {"as_numpy", "extremes"} <= set(run(op_suite(cube, oracle=lambda x: x * x, how=quick)))


def test_only_checks_that_apply_are_run():
    without_rule = Op("stairs", np.floor)
    names = checks_of(op_suite(without_rule))
    assert "layout" in names
    assert not {"derivative", "as_numpy", "fused"} & set(names)


def test_what_is_left_out_would_be_run():
    with pytest.raises(ValueError, match=r"op_suite\(cube\): no need to leave out \['fused', 'nothing'\]"):
        op_suite(cube, without={"fused": "why", "nothing": "why"})
    assert set(checks_of(op_suite(cube))) - set(checks_of(op_suite(cube, without={"layout": "why"}))) == {"layout"}


def test_a_parameter_of_which_nothing_is_known():
    with pytest.raises(LookupError, match="step"):
        op_suite(powers, how=quick)().test("layout")
    op_suite(powers, calls=by_record(powers, step=st.integers(1, 2)), without={}, how=quick)


def test_every_check_says_what_must_hold():
    assert all(check.holds.__doc__ for check in CHECKS.values())


def test_numbers_that_cancel():
    """An oracle says how large the numbers are that cancel in it; otherwise what it gives must be nearly exact."""

    def oracle(x: Any) -> Any:
        return np.power(x + 1e6, 1) - 1e6

    same = Op("same", lambda x: x * 1.0, vjp={"x": lambda g: g}, kind="elementwise")
    assert "as_numpy" in run(op_suite(same, oracle=oracle, how=quick))
    marked = cancelling(lambda x: 1e6 + np.abs(x))(oracle)
    assert not {"as_numpy", "extremes"} & set(run(op_suite(same, oracle=marked, how=quick)))


def test_sums_are_compared_by_the_size_of_their_terms():
    """A sum in another order differs by rounding, of the size of its terms and not of the sum."""
    total = Op(
        "total",
        lambda x, *, axis: np.flip(x, axis).sum(axis=axis),
        vjp={"x": lambda g, like_x, axis: mg.broadcast_to(mg.expand_dims(g, axis), like_x.shape)},
        kind="linear",
    )
    assert run(op_suite(total, oracle=lambda x, *, axis: np.sum(x, axis), how=quick)) == {}


# gradcheck


@gradcheck
def test_energy(x, y):
    return mg.sum(mg.exp(x) * y)


@gradcheck(signature="(m,k),(k,n)->(m,n)", order=2, how=quick)
def test_a_product(a, b):
    assert a.shape[-1] == b.shape[-2]
    return mg.matmul(a, b)


@gradcheck(domain={"x": (0.0, math.inf)}, y=st.floats(0.5, 2.0), z=arrays((2,), values="ordinary"))
def test_arguments_of_ones_own(x, y, z):
    assert z.shape == (2,)
    return mg.log(x) * y - mg.sum(z * z)


def test_arguments_with_a_default_keep_it():
    def f(x, sign=-1.0):
        assert sign == -1.0
        return sign * x

    gradcheck(f, how=quick)()


class TestMethods:
    offset = 2.0

    @gradcheck
    def test_method(self, x):
        return mg.tanh(x + self.offset)


def test_settings():
    seen = set()

    def f(x):
        seen.add(id(x))
        return x * 2.0

    test = gradcheck(how=settings(quick, max_examples=1))(f)
    test()
    calls_of_one = len(seen)
    gradcheck(how=settings(quick, max_examples=20))(f)()
    assert len(seen) > 2 * calls_of_one


def found(f: Any, **options: Any) -> GradientError:
    """The error of a gradcheck that must fail."""
    with pytest.raises(GradientError) as caught:
        gradcheck(how=settings(quick, max_examples=100, phases=[Phase.generate, Phase.shrink]), **options)(f)()
    return caught.value


def test_a_wrong_gradient_shrinks_to_ones():
    error = found(lambda x, y: mg.sum(x * mg.stop_gradient(x) * y))
    assert error.report.verdict == "fail"
    example = "\n".join(error.__notes__)
    assert "x=array(1.)" in example
    assert "y=array(1.)" in example


def test_the_second_order_is_checked_if_asked_for():
    detached = Op("detached", np.sin, vjp={"x": lambda g, x: g * mg.stop_gradient(mg.cos(x))}, kind="elementwise")
    gradcheck(lambda x: detached(x), how=quick)()
    assert found(lambda x: detached(x), order=2).report.verdict == "fail"


def test_unsure_fails_unless_allowed():
    f = lambda x: mg.relu(x) - mg.relu(-x)
    zero = st.just(np.array(0.0))
    assert found(f, x=zero).report.verdict == "unsure"
    gradcheck(f, x=zero, allow_unsure=True, how=quick)()


def test_names_that_are_not_arguments():
    with pytest.raises(ValueError, match=r"has no arguments \['z'\] to draw; it takes \['x'\]"):
        gradcheck(lambda x: x, z=arrays())
    with pytest.raises(ValueError, match=r"has no arguments \['z'\]"):
        gradcheck(lambda x: x, domain={"z": (0.0, 1.0)})


def test_a_function_without_named_arguments():
    with pytest.raises(ValueError, match="no arguments with names of their own"):
        gradcheck(mg.exp)


def test_a_signature_for_another_number_of_arguments():
    with pytest.raises(ValueError, match=r"signature '\(m\),\(m\)->\(\)' is for 2 arguments; to draw are \['x'\]"):
        gradcheck(lambda x: x, signature="(m),(m)->()")


def test_target_is_told_how_near_to_failing_a_report_was(monkeypatch):
    from minigrad.testing import suite

    told: list[float] = []
    monkeypatch.setattr(suite, "target", lambda height, label: told.append(height))
    gradcheck(lambda x: mg.exp(x), how=quick)()
    assert told
    assert all(math.isfinite(height) and height <= 3.0 for height in told)
