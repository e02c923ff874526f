"""Every check can fail: operations with a planted bug, and the checks that find it. And operations of a user that pass.

None of these operations has an entry anywhere: what the suite needs to know is in their records.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import Phase, given, settings

import minigrad as mg
from minigrad.core.op import Op, registry
from minigrad.testing.suite import CHECKS

from .engine_calls import few

# the same calls in every run; a bug must be found among them, and what fails need not be shrunk
same = settings(
    few, max_examples=100, derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False
)


@contextmanager
def declared(make: Callable[[], Op]) -> Iterator[Op]:
    """An Op that is in the registry as long as it is looked at."""
    before = dict(registry)
    try:
        yield make()
    finally:
        registry.clear()
        registry.update(before)


def run(name: str, op: Op, how: settings = few, oracle: Callable[..., Any] | None = None) -> None:
    """One check over one Op."""

    @how
    @given(call=CHECKS[name].calls(op))
    def test(call: Any) -> None:
        CHECKS[name].run(call, oracle)

    test()


# Operations as a user would declare them

POSITIVE = {"x": (0.0, np.inf)}


def cube() -> Op:
    return Op("cube", lambda x: x * x * x, vjp={"x": lambda g, x: g * (3.0 * x * x)}, kind="elementwise")


def square_times() -> Op:
    return Op(
        "square_times",
        lambda a, b: a * a * b,
        vjp={"a": lambda g, a, b: g * (2.0 * a * b), "b": lambda g, a: g * (a * a)},
        kind="elementwise",
    )


def scaled() -> Op:
    rule = lambda g, factor: g * factor
    return Op("scaled", lambda x, *, factor=0.5: x * factor, vjp={"x": rule}, kind="linear")


def row_times_matrix() -> Op:
    return Op(
        "row_times_matrix",
        lambda a, b: np.matmul(a[..., None, :], b)[..., 0, :],
        vjp={
            "a": lambda g, b: mg.squeeze(mg.matmul(mg.expand_dims(g, -2), mg.matrix_transpose(b)), -2),
            "b": lambda g, a: mg.expand_dims(a, -1) * mg.expand_dims(g, -2),
        },
        kind="bilinear",
        signature="(m),(m,n)->(n)",
    )


def sum_of_squares() -> Op:
    return Op(
        "sum_of_squares",
        lambda x, *, axis: np.sum(x * x, axis=axis, keepdims=True),
        vjp={"x": lambda g, x: g * (x + x)},
    )


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("make", [cube, square_times, scaled, row_times_matrix, sum_of_squares])
def test_a_new_op_needs_no_entry(make: Callable[[], Op], check: str) -> None:
    with declared(make) as op:
        if CHECKS[check].applies(op):
            run(check, op)


# Operations with a bug


class Bug(NamedTuple):
    """An Op, the checks that must find out, each with what it says, and an oracle where a check needs one."""

    make: Callable[[], Op]
    found_by: dict[str, str]
    oracle: Callable[..., Any] | None = None


def elementwise(forward: Callable[..., Any], options: dict[str, Any] | None = None, **vjp: Any) -> Callable[[], Op]:
    return lambda: Op("planted", forward, vjp=vjp, kind="elementwise", **(options or {}))


def linear(forward: Callable[..., Any], rule: Callable[..., Any]) -> Callable[[], Op]:
    return lambda: Op("planted", forward, vjp={"x": rule}, kind="linear")


def forgotten_unbroadcast() -> Op:
    """The engine sums over broadcast axes for elementwise Ops and for those with a signature; this one is neither."""
    return Op("planted", np.add, vjp={"a": lambda g: g, "b": lambda g: g})


def forgotten_transpose() -> Op:
    return Op(
        "planted",
        np.matmul,
        vjp={"a": lambda g, b: mg.matmul(g, b), "b": lambda g, a: mg.matmul(a, g)},
        kind="bilinear",
        signature="(m,m),(m,m)->(m,m)",
    )


def different_on_tensors(g: Any, x: Any) -> Any:
    return g * (x + x) * 1.0000001 if isinstance(g, mg.Tensor) else g * (x + x)


def without_history(x: Any) -> Any:
    return x.detach() if isinstance(x, mg.Tensor) else x


def doubled_in_place(x: np.ndarray) -> np.ndarray:
    if x.flags.writeable:
        x *= 2.0
        return x.copy()
    return x * 2.0


KEPT: list[Any] = []


def keeping(x: np.ndarray) -> np.ndarray:
    KEPT[:] = [x]
    return x * 2.0


def with_a_memory() -> Callable[[Any], Any]:
    """A rule that gives another result with every call."""
    calls = itertools.count(1)
    return lambda g: g * float(next(calls))


double = lambda g: g * 2.0
two_at_zero = lambda g, x: mg.where(mg.equal(x, 0.0), 2.0 * g, g * mg.sign(x))
rounded_tanh = lambda g, x: g * (1.0 - np.tanh(x) ** 2)
WRONG = "the VJP for . is wrong"
NOT_LINEAR = "not linear in the cotangent"
BUGS: dict[str, Bug] = {
    "a factor": Bug(elementwise(np.square, x=lambda g, x: g * x), {"derivative": WRONG}),
    "a factor of 1 + 1e-7": Bug(elementwise(np.sin, x=lambda g, x: g * mg.cos(x) * (1 + 1e-7)), {"derivative": WRONG}),
    "a sign": Bug(elementwise(np.cos, x=lambda g, x: g * mg.sin(x)), {"derivative": WRONG}),
    "x for y": Bug(elementwise(np.exp, x=lambda g, x: g * x), {"derivative": WRONG}),
    "y for x": Bug(elementwise(np.expm1, x=lambda g, y: g * y), {"derivative": WRONG}),
    "swapped operands": Bug(
        elementwise(np.multiply, a=lambda g, a: g * a, b=lambda g, b: g * b), {"derivative": WRONG}
    ),
    "one input forgotten": Bug(elementwise(np.subtract, a=lambda g: g, b=lambda g: g * 0.0), {"derivative": WRONG}),
    "an offset in a linear one": Bug(
        linear(lambda x: 2.0 * x + 1.0, double), {"transpose": "but ⟨Jᵀu, v⟩", "derivative": "by exact adjoints"}
    ),
    "a forgotten unbroadcast": Bug(
        forgotten_unbroadcast, {"transpose": "cotangent float64", "derivative": "expected a cotangent"}
    ),
    "a forgotten transpose": Bug(forgotten_transpose, {"derivative": WRONG}),
    "a tail of tanh": Bug(
        elementwise(np.tanh, x=lambda g, y: g * (1.0 - y * y)), {"accurate_in_float32": "loses its digits"}
    ),
    "a tail of expm1": Bug(
        elementwise(np.expm1, x=lambda g, y: g * (y + 1.0)), {"accurate_in_float32": "loses its digits"}
    ),
    "elementwise by name": Bug(
        elementwise(lambda x: np.roll(x, 1), x=lambda g: mg.roll(g, -1)), {"transpose": "but ⟨Jᵀu, v⟩"}
    ),
    "a rule that is not linear": Bug(
        elementwise(np.exp, x=lambda g, y: g * g * y),
        {"linear_in_the_cotangent": "VJP of a sum", "derivative": NOT_LINEAR},
    ),
    "a rule with an offset": Bug(
        elementwise(np.exp, x=lambda g, y: g * y + 1e-9),
        {"linear_in_the_cotangent": "VJP of a sum", "derivative": NOT_LINEAR},
    ),
    "a factor far out": Bug(
        elementwise(np.sin, x=lambda g, x: g * mg.cos(x) * mg.where(mg.greater(x, 200.0), 1.001, 1.0)),
        {"far_out": WRONG},
    ),
    "history lost": Bug(
        elementwise(np.sin, x=lambda g, x: g * mg.cos(without_history(x))), {"second_derivative": WRONG}
    ),
    "no subgradient": Bug(
        elementwise(np.abs, {"undifferentiable": "0"}, x=two_at_zero), {"subgradient": "either side"}
    ),
    "the input as output": Bug(linear(lambda x: x, lambda g: g), {"no_aliases": "one of the inputs"}),
    "writing into the input": Bug(linear(doubled_in_place, double), {"layout": "before and after"}),
    "the order of memory": Bug(
        linear(lambda x: -x.ravel(order="K").reshape(x.shape), lambda g: -g), {"layout": "C and Fortran order differ"}
    ),
    "strides of 0": Bug(linear(lambda x: x * (1.0 + (0 in x.strides)), lambda g: g), {"zero_strides": "differ"}),
    "always float64": Bug(linear(lambda x: x * np.float64(2.0), double), {"float32": "gave float64"}),
    "the dtype of the first": Bug(
        elementwise(lambda a, b: np.asarray(a + b, a.dtype), a=lambda g: g, b=lambda g: g), {"mixed_dtypes": "gave"}
    ),
    "scalars that are not weak": Bug(
        elementwise(lambda a, b: np.asarray(a) + np.asarray(b), a=lambda g: g, b=lambda g: g),
        {"weak_scalars": "widened"},
    ),
    "an input kept alive": Bug(linear(keeping, double), {"saved": "no rule asks for it"}),
    "a rule with a memory": Bug(linear(np.positive, with_a_memory()), {"each_alone": "alone and among others"}),
    "another value on tensors": Bug(
        elementwise(np.square, x=different_on_tensors), {"three_ways": "arrays and on tensors differ"}
    ),
    "a faster form that rounds": Bug(
        elementwise(np.tanh, {"fused": {"x": rounded_tanh}}, x=lambda g, x: g / mg.square(mg.cosh(x))),
        {"fused": "faster form differ", "three_ways": "differ"},
    ),
    "a kernel that is slightly off": Bug(
        elementwise(np.tanh, {"kernels": {"y": (lambda x: np.tanh(x) * (1 + 1e-4), 0)}}, x=lambda g, x: g),
        {"by_kernel": "by NumPy"},
    ),
    "a kernel of the rule that forgets": Bug(
        elementwise(np.negative, {"kernels": {"x": (lambda g: g, 0)}}, x=lambda g: -g), {"by_kernel": "by NumPy"}
    ),
    "rows taken for granted": Bug(
        linear(lambda x: x.reshape(len(x), -1).reshape(x.shape), lambda g: g), {"empty_or_0d": "unsized|reshape"}
    ),
    "another function": Bug(elementwise(np.sin, x=lambda g, x: g * mg.cos(x)), {"as_numpy": "in NumPy"}, np.tan),
    "a spurious warning": Bug(
        elementwise(lambda x: np.log(1.0 + np.exp(x)), x=lambda g, x: g * mg.sigmoid(x)),
        {"extremes": "overflow"},
        lambda x: np.logaddexp(x, 0),
    ),
    "NaN dropped": Bug(
        elementwise(lambda x: np.where(np.greater(x, 0), x, 0.0), x=lambda g, x: mg.where(mg.greater(x, 0.0), g, 0.0)),
        {"nonfinite": "in NumPy"},
        lambda x: np.maximum(x, 0),
    ),
    "integers that stay integers": Bug(
        linear(lambda x: x // 2 if x.dtype.kind == "i" else x / 2, lambda g: g / 2.0),
        {"integers": "NumPy float64"},
        lambda x: x / 2,
    ),
}


@pytest.mark.parametrize(("bug", "check"), [(name, check) for name, bug in BUGS.items() for check in bug.found_by])
def test_planted(bug: str, check: str) -> None:
    make, found_by, oracle = BUGS[bug]
    with declared(make) as op:
        assert CHECKS[check].applies(op, oracle)
        with pytest.raises((AssertionError, ValueError, TypeError, RuntimeWarning), match=found_by[check]):
            run(check, op, same, oracle)


def test_every_check_finds_a_bug() -> None:
    assert {check for bug in BUGS.values() for check in bug.found_by} == set(CHECKS)
