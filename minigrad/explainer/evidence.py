"""What can be told of a call by trying it alone: its Jacobian, whether its rules hold, what it costs.

A call stands on the tape with the very arrays that it was given. So it can be run again, on those or on others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from minigrad.core.op import Part
from minigrad.explainer.profile import memory
from minigrad.explainer.story import Array, Call, Step, Story
from minigrad.testing.blame import calls_of, local
from minigrad.testing.report import Report
from minigrad.testing.subject import OfCall

SMALL = 1024  # numbers of a Jacobian that is shown
ALIKE = 1000  # numbers up to which all checks take about the same time
REPEATS = 3  # runs of which the fastest is told


@dataclass
class Cost:
    """What a call costs, in seconds and bytes, on arrays that nobody else uses at the time.

    Attributes:
        forward, backward: seconds of the forward, and of all its rules together; 0 where backward did not come.
        made: bytes of the result; 0 for a view.
        kept: what is kept until backward, by name, with its bytes.
    """

    forward: float
    backward: float
    made: int
    kept: dict[str, int]


def cost(call: Call, step: Step | None = None) -> Cost:
    """Measure a call again, and if backward came to it, the rules of that step.

    Example:
        >>> import minigrad as mg
        >>> story = mg.explain(lambda x: mg.sum(mg.exp(x)), mg.Tensor([1.0, 2.0]))
        >>> cost(story.calls[0], story.steps[1]).kept
        {'y': 16}
    """
    op, arrays, params, y, _ = call.entry
    forward = _fastest(lambda: op.run(*arrays, **params))
    if step is None or isinstance(step.came, Part):
        return Cost(forward, 0.0, memory(y), {})
    plan = step.node.plan
    saved = plan.keep(arrays if op.star is None else (*arrays[: op.star], tuple(arrays[op.star :])), y, params)
    pulls = [(rule, saved if uses is None else saved[uses]) for _, rule, uses in plan.fused_pulls]
    backward = _fastest(lambda: [rule(step.came, *given) for rule, given in pulls])
    kept = {name: memory(x, views=True) for name, x in zip(plan.names, saved, strict=True)}
    return Cost(forward, backward, memory(y), {name: size for name, size in kept.items() if size})


def _fastest(run: Callable[[], Any]) -> float:
    seconds = []
    for _ in range(REPEATS):
        start = perf_counter()
        run()
        seconds.append(perf_counter() - start)
    return min(seconds)


def jacobians(call: Call) -> Iterator[tuple[str, Array]]:
    """The name of each input with its Jacobian, a row for each number of the output, where that is small.

    The rows are what the rules make of unit cotangents: a VJP is a row vector times the Jacobian.

    Example:
        >>> import minigrad as mg
        >>> story = mg.explain(lambda x: mg.sum(mg.square(x)), mg.Tensor([1.0, 2.0]))
        >>> [(name, J.tolist()) for name, J in jacobians(story.calls[0])]
        [('x', [[2.0, 0.0], [0.0, 4.0]])]
    """
    alone = next((c for c, _ in calls_of([call.entry])), None)
    if alone is None or isinstance(call.entry.output, tuple):
        return
    y = call.entry.output
    if y.dtype.kind != "f" or not 0 < y.size * max(x.size for x in map(np.asarray, alone.xs)) <= SMALL:
        return
    subject = OfCall(alone)
    units = np.eye(y.size, dtype=y.dtype).reshape(y.size, *y.shape)
    rows = [subject.pull([unit]) for unit in units]
    for k, name in enumerate(subject.input_names):
        yield name, np.array([np.ravel(row[k]) for row in rows])


def verdicts(story: Story, seconds: float) -> dict[int, Report]:
    """What finite differences say of the rules of each call, by its number: those with few numbers first, for so long.
    A call that would presumably take longer is left out.

    Example:
        >>> import minigrad as mg
        >>> story = mg.explain(lambda x: mg.sum(mg.square(x)), mg.Tensor([1.0, 2.0]))
        >>> {number: report.verdict for number, report in verdicts(story, seconds=60.0).items()}
        {1: 'pass', 2: 'pass'}
    """
    until = perf_counter() + seconds
    found: dict[int, Report] = {}
    took, before = 0.0, ALIKE  # seconds of the last check, and how many numbers that was about
    for call in sorted(story.calls, key=lambda call: _numbers(call.entry.inputs)):
        begun, count = perf_counter(), max(ALIKE, _numbers(call.entry.inputs))
        if begun + took * count / before > until:
            break
        found.update((call.number, local(alone)) for alone, _ in calls_of([call.entry]))
        took, before = perf_counter() - begun, count
    return found


def _numbers(arrays: Iterable[Any]) -> int:
    return sum(np.size(x) for x in arrays if not isinstance(x, tuple))
