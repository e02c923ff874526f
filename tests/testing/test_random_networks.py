"""A small sample of the random networks: right ones pass, and a rule that is off by 1e-9 is found where it is used."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from benchmarks.random_networks import PLANTED, Program, drawn, examine, plant, resolvable, spoilt
from minigrad.core.op import registry
from minigrad.testing import Call, blame, check


@pytest.mark.parametrize("index", range(40))
def test_a_right_one_passes(index: int) -> None:
    program = drawn(0, index)
    report = check(program, *program.inputs)
    assert report.verdict == "pass", f"{program}\n{report}"


@pytest.mark.parametrize("index", [0, 2, 4, 8, 9, 10, 12, 14])
def test_a_planted_error_is_found_and_blamed(index: int) -> None:
    program = drawn(0, index)
    rng = np.random.default_rng(index)
    wrong = plant(program, rng)
    assert resolvable(wrong.call, wrong.name, rng)
    assert [suspect.op for suspect in blame(wrong.f, *program.inputs).guilty] == [wrong.op]


def test_what_is_told_of_one() -> None:
    found = examine(2, seed=0, planted=True)
    assert (found.verdict, found.planted, found.blamed, found.seen, found.felt) == ("pass", "fail", "right", True, True)


def test_the_same_index_gives_the_same_program() -> None:
    a, b, other = drawn(0, 7), drawn(0, 7), drawn(1, 7)
    assert str(a) == str(b) != str(other)
    assert all(np.array_equal(x, y) for x, y in zip(a.inputs, b.inputs, strict=True))


def test_a_planted_rule_is_off_by_as_much_and_nothing_else_changes() -> None:
    before = dict(registry)
    op = spoilt(mg.multiply, "a")
    a, b = (mg.Tensor(x, requires_grad=True) for x in (2.0, 3.0))
    op(a, b).backward()
    assert abs(a.grad.item() / 3.0 - 1 - PLANTED) < 1e-15
    assert b.grad.item() == 2.0
    assert registry == before
    assert "a" in mg.multiply.vjp
    assert op.vjp["a"] is not mg.multiply.vjp["a"]


def test_what_can_be_resolved() -> None:
    rng = np.random.default_rng(0)
    smooth = Call(mg.sin, (np.array([0.3, 2.0]),))
    flat = Call(mg.relu, (np.array([-1.0, -2.0]),))
    assert resolvable(smooth, "x", rng)
    assert not resolvable(flat, "x", rng)


def test_a_planted_program_computes_the_same() -> None:
    program = drawn(0, 5)
    found = plant(program, np.random.default_rng(0))
    with mg.no_grad():
        xs = [mg.Tensor(x) for x in program.inputs]
        (y,) = found.f(*xs)
        assert np.array_equal(y.data, program(*xs).data)
    assert isinstance(program, Program)
