"""Schedules: where they begin, how they go, where they end."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.optim import SGD, schedules

rates = st.floats(1e-6, 10)
SCHEDULES = {
    "constant": lambda lr: schedules.constant(lr),
    "step_decay": lambda lr: schedules.step_decay(lr, every=7, factor=0.5),
    "exponential": lambda lr: schedules.exponential(lr, factor=0.9),
    "cosine": lambda lr: schedules.cosine(lr, steps=20, final=lr / 10),
}


@pytest.mark.parametrize("name", SCHEDULES)
@given(lr=rates)
def test_schedules_begin_at_lr_and_never_rise(name, lr):
    schedule = SCHEDULES[name](lr)
    values = [schedule(step) for step in range(40)]
    assert math.isclose(values[0], lr)
    assert all(a >= b > 0 for a, b in itertools.pairwise(values))


def test_values():
    assert [schedules.step_decay(1.0, 2)(s) for s in range(5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert schedules.exponential(2.0, 0.5)(4) == 0.125
    assert schedules.cosine(2.0, 10, 1.0)(5) == pytest.approx(1.5)
    assert schedules.cosine(2.0, 10, 1.0)(10) == schedules.cosine(2.0, 10, 1.0)(11) == 1.0
    assert schedules.cosine(2.0, 3)(1) == pytest.approx(1 + math.cos(math.pi / 3))


@given(rates, st.integers(1, 10))
def test_warmup_is_linear_and_then_the_schedule(lr, steps):
    inner = schedules.exponential(lr, 0.5)
    schedule = schedules.warmup(inner, steps)
    for step in range(steps):
        assert schedule(step) == pytest.approx(lr * (step + 1) / steps)
    assert [schedule(steps + s) for s in range(3)] == [inner(s) for s in range(3)]


def test_an_optimiser_follows_its_schedule():
    p = mg.Tensor(0.0, requires_grad=True)
    optimizer = SGD(p, lr=1.0)
    schedule = schedules.exponential(1.0, 0.5)
    for step in range(3):
        optimizer.learning_rate = schedule(step)
        p.zero_grad()
        (-p).backward()
        optimizer.step()
    assert p.item() == 1.75


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.constant(-1.0), "lr of a schedule is a number ≥ 0, not -1.0"),
        (lambda: schedules.step_decay(1.0, 0), "every of a schedule is at least 1, not 0"),
        (lambda: schedules.step_decay(1.0, 1, 0.0), "factor"),
        (lambda: schedules.exponential(1.0, 1.5), r"factor of a schedule is in \(0, 1\], not 1.5"),
        (lambda: schedules.cosine(1.0, 0), "steps"),
        (lambda: schedules.cosine(1.0, 5, float("nan")), "final"),
        (lambda: schedules.warmup(schedules.constant(1.0), 0), "steps"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
