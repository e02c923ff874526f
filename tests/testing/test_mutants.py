"""The generic suite kills every mutant of every operation of the package, but those that behave like the right rule.

Each check of the suite draws a few calls of an operation; these are then made with each of its mutants, until one of
them fails that passes with the right operation. What was drawn is the same in every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, is_dataclass
from functools import cache, cached_property
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from suite.engine_calls import every_op, plan_of
from suite.test_composites import Composite, one

import minigrad as mg
from minigrad.core.op import registry
from minigrad.testing import witness
from minigrad.testing.mutants import Mutant, mutants
from minigrad.testing.subject import Call, OfCall
from minigrad.testing.suite import CHECKS

OPS = {name: op for name, op in every_op().items() if op.vjp}

# Operations that can't be called with arrays alone: they are made inside of these.
INSIDE = {
    "pick": OPS["split"],
    "checkpoint": Composite("checkpointed", mg.checkpoint(lambda x: mg.tanh(x) * x), np.tanh, one()),
}

# How many calls a check draws, those first that are likely to kill, and FEW for the others; MORE times as many for a
# mutant that survives these and is not known to be equivalent.
COUNTS = {
    "derivative": 16,
    "three_ways": 6,
    "transpose": 6,
    "accurate_in_float32": 4,
    "subgradient": 12,
    "far_out": 6,
    "second_derivative": 5,
}
FEW = 3
MORE = 8

# What behaves like the right rule, and why.
CHOICES = "the rule depends on its inputs by choices alone, whose derivative is 0"
NOWHERE = "its node has empty arrays for what the function depends on, so that no x is anywhere"
LOST = "history of what was saved lost"
EQUIVALENT: dict[str, str] = {
    f"abs, vjp of 'x': {LOST}": CHOICES,
    f"leaky_relu, vjp of 'x': {LOST}": CHOICES,
    f"max, vjp of 'x': {LOST}": CHOICES,
    f"max_pool, vjp of 'x': {LOST}": CHOICES,
    f"max_pool_input, vjp of 'z': {LOST}": CHOICES,
    f"maximum, vjp of 'a': {LOST}": CHOICES,
    f"maximum, vjp of 'b': {LOST}": CHOICES,
    f"min, vjp of 'x': {LOST}": CHOICES,
    f"minimum, vjp of 'a': {LOST}": CHOICES,
    f"minimum, vjp of 'b': {LOST}": CHOICES,
    f"relu, vjp of 'x': {LOST}": CHOICES,
    f"stochastic_pool, vjp of 'x': {LOST}": CHOICES,
    f"stochastic_pool_input, vjp of 'z': {LOST}": CHOICES,
    f"where, vjp of 'a': {LOST}": CHOICES,
    f"where, vjp of 'b': {LOST}": CHOICES,
    "cast, vjp of 'x': the cotangent as it is": "the engine casts each cotangent to the dtype of its input",
    f"checkpoint, vjp of 'arrays': {LOST}": "what was saved is compared with what is computed again, and no more",
    "checkpoint, vjp of 'arrays': × 1.1 where |x| > 3": NOWHERE,
    "checkpoint, vjp of 'arrays': × 1.1 where |x| < 1e-3": NOWHERE,
    "checkpoint, vjp of 'arrays': × 1.1 where x < 0": NOWHERE,
    "checkpoint, vjp of 'arrays': × 1.1 where x > 0": NOWHERE,
    "power, vjp of 'a': × 1.1 in float32": "the rule computes in float64, whatever its inputs are",
    "power, vjp of 'b': × 1.1 in float32": "the rule computes in float64, whatever its inputs are",
    "relu, vjp of 'x': × 1.1 where x < 0": "the cotangent is 0 there",
    "relu, vjp of 'x': x for y": "x > 0 is where y > 0",
}


@dataclass(eq=False)
class Trial:
    """One check, with one call."""

    check: str
    call: Call

    def fails(self, op: Any = None) -> bool:
        """Whether it raises anything (with another operation in place of the call's own)."""
        call = self.call if op is None else Call(op, self.call.arrays, self.call.params)
        try:
            CHECKS[self.check].run(call)
        except Exception:
            return True
        return False

    @cached_property
    def passes(self) -> bool:
        """Whether it holds for the right operation; if not, it tells nothing of a mutant."""
        return not self.fails()


def drawn(check: str, op: Any, count: int) -> list[Call]:
    """So many calls that a check draws, without those that are the same; the quick ones first."""
    calls: dict[Any, Call] = {}

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(CHECKS[check].calls(op, plan=op.plan if isinstance(op, Composite) else plan_of(op)))
    def note(call: Call) -> None:
        calls[repr(call), *((x.dtype, x.shape) for x in call.arrays)] = call

    note()
    return sorted(calls.values(), key=lambda call: sum(x.size for x in call.arrays))


@cache
def trials(name: str, times: int = 1) -> dict[str, list[Trial]]:
    """All trials of an operation, by check."""
    op = INSIDE.get(name, OPS[name])
    names = [*COUNTS, *(check for check in CHECKS if check not in COUNTS)]
    checks = [check for check in names if CHECKS[check].applies(op)]
    return {c: [Trial(c, call) for call in drawn(c, op, times * COUNTS.get(c, FEW))] for c in checks}


@contextmanager
def installed(mutant: Mutant) -> Iterator[None]:
    """The broken rule in the operation itself, for those that nobody calls but the engine."""
    op = OPS[mutant.op.name]
    before = op.vjp, op.uses
    op._plans.clear()
    op.vjp, op.uses = mutant.op.vjp, mutant.op.uses
    try:
        yield
    finally:
        op._plans.clear()
        op.vjp, op.uses = before


# To be quick: what is known is not measured again, nobody asks why a mutant fails, the check that killed the last
# mutant of a kind is tried first, and so is the call that killed most.


def remembered(measure: Callable[..., Any]) -> Callable[..., Any]:
    """The same measurement, made once for all mutants of an operation: it sees the forward alone, which is the same."""
    found: dict[Any, Any] = {}

    def once(point: Any, *given: Any) -> Any:
        if not isinstance(point.subject, OfCall):  # the forward of a gradient is a rule
            return measure(point, *given)
        call = point.subject.call
        key = call.op.name, bits((call.arrays, call.params, given))
        if key not in found:
            found[key] = measure(point, *given)
        return found[key]

    return once


def bits(x: Any) -> Any:
    """What two values have in common if they are the same, bit by bit."""
    if isinstance(x, np.ndarray):
        return x.dtype.str, x.shape, x.tobytes()
    if is_dataclass(x):
        return bits(vars(x))
    if isinstance(x, dict):
        x = list(x.items())
    return tuple(map(bits, x)) if isinstance(x, (tuple, list)) else repr(x)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge gives its verdict, and no more."""
    check, judge = (import_module(f"minigrad.testing.{name}") for name in ("check", "judge"))
    for name in ("measured", "look_again", "second_look"):
        monkeypatch.setattr(judge, name, remembered(getattr(judge, name)))
    monkeypatch.setattr(witness, "evidence", lambda *_: ("", "", "", ()))
    monkeypatch.setattr(check, "_attributed", lambda _, report: report)


last: dict[str, str] = {}
kills: Counter[int] = Counter()


def killer(mutant: Mutant, times: int = 1) -> Trial | None:
    """The trial that fails with a mutant, and with it alone; None if there is none."""
    name = mutant.op.name
    checks = trials(name, times)
    for check in sorted(checks, key=lambda check: check != last.get(mutant.mutation)):
        for trial in sorted(checks[check], key=lambda trial: -kills[id(trial)]):
            with installed(mutant) if name in INSIDE else nullcontext():
                failed = trial.fails(None if name in INSIDE else mutant.op)
            if failed and trial.passes:
                last[mutant.mutation] = check
                kills[id(trial)] += 1
                return trial
    return None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", OPS)
def test_mutants(name: str) -> None:
    """Killed are all but those that are listed."""
    surviving = [mutant for mutant in mutants(OPS[name]) if killer(mutant) is None]
    surviving = [m.name for m in surviving if m.name in EQUIVALENT or killer(m, MORE) is None]
    assert sorted(surviving) == sorted(mutant for mutant in EQUIVALENT if mutant.startswith(f"{name}, "))


def test_equivalent_ones_exist() -> None:
    every = {mutant.name for op in OPS.values() for mutant in mutants(op)}
    assert set(EQUIVALENT) <= every


def test_mutants_stay_out_of_the_registry() -> None:
    before = dict(registry)
    found = [*mutants(OPS["multiply"])]
    assert registry == before
    assert len({mutant.name for mutant in found}) == len(found)
    assert all(mutant.op is not OPS["multiply"] for mutant in found)


def test_a_mutant_asks_for_what_it_uses_and_drops_the_faster_form() -> None:
    tanh = {mutant.mutation: mutant.op for mutant in mutants(OPS["tanh"])}
    assert tanh["y for x"].uses["x"] == ("x", "y")
    assert tanh["twice"].fused == {}
    assert tanh["twice"].vjp["x"].__module__ == OPS["tanh"].vjp["x"].__module__  # the engine trusts both alike
