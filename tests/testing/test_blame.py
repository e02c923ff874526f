"""blame: out of many uses of operations, just the wrong one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.core.op import Op
from minigrad.testing import blame

rng = np.random.default_rng(0)


def slip(factor: float) -> Op:
    """sin, whose slope is wrong for negative numbers."""
    rule = lambda g, x: g * mg.cos(x) * mg.where(mg.less(x, 0.0), factor, 1.0)
    return Op("slip", np.sin, vjp={"x": rule}, kind="elementwise")


@pytest.mark.parametrize(("factor", "guilty"), [(1 + 1e-9, 42), (-1.0, 0), (0.0, 99)])
def test_one_of_a_hundred_uses(factor: float, guilty: int) -> None:
    wrong = slip(factor)

    def f(x: Any) -> Any:
        for k in range(100):
            x = wrong(mg.square(x) + 0.5)
            if k == guilty:
                x = wrong(x - 4.0)  # here
        return mg.sum(x)

    found = blame(f, rng.random(5))
    assert not found
    (suspect,) = found.guilty
    assert suspect.op is wrong
    assert suspect.where.endswith("x = wrong(x - 4.0)  # here")
    assert suspect.report.verdict == "fail"
    assert "1 of " in str(found)


def test_all_local_rules_hold() -> None:
    found = blame(lambda x: mg.softmax(mg.matmul(x, x)) * x.detach(), rng.random((3, 3)))
    assert found
    assert "all local rules hold" in str(found)
    assert found.guilty == ()


def test_a_tape_with_backward_on_it() -> None:
    x, w = mg.Tensor(rng.random((4, 3)) - 2.0), mg.Tensor(rng.random((3, 3)), requires_grad=True)
    wrong = slip(0.5)
    with mg.record() as tape:
        mg.sum(mg.tanh(mg.matmul(wrong(x), w))).backward()
    found = blame(tape)
    assert [s.op.name for s in found.guilty] == ["slip"]
    assert found.tried > 5
    with pytest.raises(TypeError, match="a tape alone"):
        blame(tape, x)


def test_a_constant_operation_is_not_tried() -> None:
    wrong = slip(0.5)
    constant = mg.Tensor([-1.0])
    assert blame(lambda x: x * wrong(constant), np.array([1.0]))


def test_float32() -> None:
    wrong = Op("wrong", np.tanh, vjp={"x": lambda g, y: g * (1.0 - y * y)}, kind="elementwise")
    x = np.array([0.5, 8.5], np.float32)
    assert [s.op.name for s in blame(lambda x: mg.exp(wrong(x)), x).guilty] == ["wrong"]
    assert blame(lambda x: mg.exp(mg.tanh(x)), x)


def test_what_cannot_be_called_with_arrays_is_named() -> None:
    x = mg.Tensor([1.0], requires_grad=True)
    with mg.record() as tape:
        mg.checkpoint(mg.sin)(x).backward()
    found = blame(tape)
    assert found
    assert "not tried: checkpoint" in str(found)


def test_several_outputs() -> None:
    found = blame(lambda x: mg.sum(mg.split(x, 3)[1] * 2.0), rng.random(9))
    assert found
    assert found.tried >= 3
