"""All checks over all Ops of the package; what is excluded, and why.

There is one class an Op, made in a loop below: `pytest "tests/suite/test_every_op.py::Test_tanh::test[derivative]"`
runs one check over one Op; HYPOTHESIS_PROFILE=deep, or `--gradcheck-examples`, runs all of them on many more examples.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.testing.strategies import calls
from minigrad.testing.suite import has_rules, op_suite

from .engine_calls import every_op, few, plan_of
from .oracles import ORACLES

OPS = every_op()

# Ops that can't be called with arrays alone, and so with no call that could be drawn
APART = {
    "pick": "takes the outputs of another operation, never arrays: every check runs it as part of split",
    "checkpoint": "takes a function and the nodes of its inputs, never arrays: see tests/test_transforms.py",
}

# (check, Op): why the check is not run
EXCLUDED: dict[tuple[str, str], str] = {
    **{
        (check, op): "its stairs look like rounding from far, so that now and then nobody can tell; subgradient is run"
        for check in ("derivative", "second_derivative", "far_out")
        for op in ("ceil", "floor", "round")
    },
    ("far_out", "cos"): "far out its periods are shorter than any step: what differences see there is chance",
    ("far_out", "sin"): "as for cos",
    ("nonfinite", "bce_with_logits"): "∞ - ∞: which of ∞ and NaN comes out depends on the form",
    ("nonfinite", "bce_with_logits_and_slope"): "as for bce_with_logits",
    ("nonfinite", "softmax"): "of +∞ it is undefined: which elements are NaN depends on the form; test_masked has -∞",
    ("nonfinite", "log_softmax"): "as for softmax",
    ("nonfinite", "cross_entropy"): "as for softmax",
    ("nonfinite", "cross_entropy_and_slope"): "as for softmax",
    ("nonfinite", "argsort"): "NumPy has no descending order to compare with: where NaN goes is ours to choose",
    ("integers", "adam"): "parameters are floats: they require a gradient",
    ("integers", "sgd"): "as for adam",
    ("weak_scalars", "bce_with_logits"): "the public function takes two arrays of one shape, no scalars",
    ("weak_scalars", "tanh_slope"): "called by rules alone, always with arrays",
}

STREAM = "its values are whatever the random stream draws; tests/test_random.py has their distribution"
WITHOUT_ORACLE = dict.fromkeys(
    ("random_uniform", "random_normal", "random_integers", "random_permutation", "random_split"), STREAM
)

# Ops without a rule: choices, comparisons, draws, and what makes integers
WITHOUT_RULES = [
    "adam",
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "assign",
    "astype",
    "equal",
    "full_like",
    "greater",
    "greater_equal",
    "isfinite",
    "isnan",
    "less",
    "less_equal",
    "logical_and",
    "logical_not",
    "logical_or",
    "momentum",
    "not_equal",
    "overwritten",
    "pool_argmax",
    "pool_draw",
    "random_integers",
    "random_next",
    "random_normal",
    "random_permutation",
    "random_split",
    "random_uniform",
    "sgd",
]


for _name, _op in OPS.items():
    if _name not in APART:
        globals()[f"Test_{_name}"] = op_suite(
            _op,
            ORACLES.get(_name),
            plan_of(_op),
            {check: why for (check, op), why in EXCLUDED.items() if op == _name},
            few,
        )


@pytest.mark.parametrize("name", ["bce_with_logits_and_slope", "cross_entropy_and_slope", "moments", "split"])
@few
@given(data=st.data())
def test_outputs_used_alone(name: str, data: st.DataObject) -> None:
    """What nobody used has no cotangent: the gradients are those of zero cotangents for it, backward and forward."""
    call = data.draw(calls(OPS[name], plan=plan_of(OPS[name])))
    xs = [mg.Tensor(x) for x in call.xs]
    ys, pullback = mg.vjp(call.f, *xs)
    for i, y in enumerate(ys):
        u = mg.Tensor(np.arange(1.0, y.size + 1).reshape(y.shape))
        want = pullback(tuple(u if k == i else mg.zeros_like(other) for k, other in enumerate(ys)))
        alone = lambda *xs, i=i: call.f(*xs)[i]
        _, pull_one = mg.vjp(alone, *xs)
        for got, x_bar in zip(pull_one(u), want, strict=True):
            np.testing.assert_allclose(got.data, x_bar.data, rtol=1e-14, atol=1e-14)
        _, tangents = mg.jvp(call.f, tuple(xs), tuple(xs))
        np.testing.assert_array_equal(mg.jvp(alone, tuple(xs), tuple(xs))[1].data, tangents[i].data)


@pytest.mark.parametrize("f", [mg.bce_with_logits, mg.cross_entropy])
def test_the_gradient_of_a_loss_is_made_with_it(f) -> None:
    """The slope that the forward made is multiplied with the cotangent, and nothing else is computed."""
    z = mg.Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)
    target = np.array([0, 1, 1]) if f is mg.cross_entropy else np.full((3, 2), 0.25)
    for reduction, reduced in (("mean", np.mean), ("sum", np.sum)):
        with mg.record() as tape:
            loss = f(z, mg.Tensor(target), reduction)
            forward = len(tape)
            loss.backward()
        np.testing.assert_allclose(loss.data, reduced(f(z.data, target, "none")), rtol=1e-14)
        assert {entry.op.name for entry in tape.entries[forward:]} - {"pick", "copy"} == {"multiply"}
        by_elements = mg.grad(lambda z, r=reduction: getattr(mg, r)(f(z, target, "none")))(z)
        np.testing.assert_allclose(z.grad.data, by_elements.data, rtol=1e-13)
        z.grad = None


def test_exclusions_are_few() -> None:
    """Whoever excludes something changes a number here. What is excluded would be run: `op_suite` sees to that."""
    assert len(EXCLUDED) == 22
    assert len(APART) == 2
    assert {*APART, *(op for _, op in EXCLUDED)} <= set(OPS)


def test_ops_without_oracle() -> None:
    assert set(OPS) - set(ORACLES) == {*WITHOUT_ORACLE, *APART}
    assert len(WITHOUT_ORACLE) == 5


def test_ops_without_rules() -> None:
    assert sorted(name for name, op in OPS.items() if not has_rules(op)) == WITHOUT_RULES


def test_every_op_has_a_formula() -> None:
    assert [name for name, op in OPS.items() if not op.formula] == []


@pytest.mark.parametrize("f", [mg.softmax, mg.log_softmax, mg.logsumexp])
def test_masked(f) -> None:
    """An element of -∞ takes no part: neither it nor the others get a gradient that is not finite."""
    x = mg.Tensor([[0.5, -np.inf, 1.0]], requires_grad=True)
    y = f(x, axis=-1)
    alone = f(np.array([[0.5, 1.0]]), axis=-1)
    np.testing.assert_allclose(y.data[..., [0, 2]] if y.ndim == 2 else y.data, alone, rtol=1e-14)
    g = np.ones(y.shape)
    if f is mg.log_softmax:
        g[0, 1] = 0.0
    y.backward(g)
    assert np.isfinite(x.grad.data).all()
    assert x.grad.data[0, 1] == 0.0


def test_power_at_zero() -> None:
    """In the exponent, at a = 0, the slope 0 is taken, as the record says: 0ᵇ is 0 on either side of b > 0."""
    b = mg.Tensor([0.5, 1.0, 3.0], requires_grad=True)
    mg.pow(mg.Tensor([0.0, 0.0, 0.0]), b).sum().backward()
    assert b.grad.data.tolist() == [0.0, 0.0, 0.0]
