"""Which operation is guilty: every rule of a computation is checked by itself.

A composed gradient is wrong if one local rule is. Each call that a tape has written down is a small function at known
arrays, so the judge can try it alone: its VJP against its own forward, where it was used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from minigrad.source import line
from minigrad.tape import Entry, Tape
from minigrad.testing.accuracy import lost_digits
from minigrad.testing.judge import judge
from minigrad.testing.report import Report
from minigrad.testing.subject import Call, OfCall, OfTensors

UNITS = 16.0  # of eps, that one operation may lose in float32


@dataclass(frozen=True)
class Suspect:
    """One call that was tried.

    Attributes:
        op: the operation.
        where: the source line that called it.
        call: the call itself, to run it again.
        report: what the judge says of its rule.
    """

    op: Any
    where: str
    call: Call
    report: Report

    def __str__(self) -> str:
        return f"{self.op.name} at {self.where}"


@dataclass(frozen=True)
class Blame:
    """What `blame` found. It is true if all local rules hold, and printing it tells the story.

    Attributes:
        guilty: the calls whose rule is wrong.
        unsure: those that could not be decided.
        tried: how many calls were tried.
        skipped: the names of operations that can't be called alone, and so were not tried.
    """

    guilty: tuple[Suspect, ...]
    unsure: tuple[Suspect, ...]
    tried: int
    skipped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.guilty and not self.unsure

    def __str__(self) -> str:
        told = [f"not tried: {', '.join(self.skipped)} (can't be called alone)"] if self.skipped else []
        if self:
            return "\n".join([f"all local rules hold: {self.tried} calls tried", *told])
        lines = [f"{len(self.guilty)} of {self.tried} calls are guilty"] if self.guilty else ["no call is found guilty"]
        for kind, suspects in (("guilty", self.guilty), ("unsure", self.unsure)):
            for suspect in suspects:
                lines.append(f"{kind}: {suspect}")
                lines += [f"  {text}" for text in str(suspect.report).splitlines()]
        return "\n".join([*lines, *told])


def blame(f: Callable[..., Any] | Tape, *xs: Any) -> Blame:
    """Find the operations whose rules are wrong, among all calls of a computation.

    Args:
        f: a function of trees of Tensors; or the tape of a computation, backward included.
        xs: where to call it: trees of Tensors, arrays, floats, modules. A tape comes without.

    Returns:
        What was found: `.guilty` has each wrong call with its operation, source line and report.

    Raises:
        TypeError: a tape together with arguments, or no floating-point input.

    Example: of two uses of one operation, the one where its rule is wrong.
        >>> import minigrad as mg
        >>> wrong = lambda g, x: mg.where(mg.less(x, 0.0), 0.5 * g, g)
        >>> ramp = mg.Op("ramp", lambda x: x * 1.0, vjp={"x": wrong}, kind="elementwise")
        >>> found = blame(lambda x: ramp(ramp(x) - 3.0), mg.Tensor([1.0, 2.0]))
        >>> [s.call for s in found.guilty]
        [ramp(array([-2., -1.]))]
    """
    if isinstance(f, Tape):
        if xs:
            raise TypeError("blame takes a tape alone, or a function and its arguments")
        return tried(f.entries)
    subject = OfTensors(f, xs)
    return tried(subject.calls())


def tried(entries: Iterable[Entry]) -> Blame:
    """Try every call, equal ones once."""
    entries = list(entries)
    found: dict[str, list[Suspect]] = {"fail": [], "unsure": [], "pass": []}
    for call, where in calls_of(entries):
        report = local(call)
        found[report.verdict].append(Suspect(call.op, where, call, report))
    skipped = {e.op.name: None for e in entries if e.op.vjp and not _alone(e) and e.op.name != "pick"}
    return Blame(tuple(found["fail"]), tuple(found["unsure"]), sum(map(len, found.values())), tuple(skipped))


def calls_of(entries: Iterable[Entry]) -> Iterator[tuple[Call, str]]:
    """The calls that can be tried alone, each once, with their source lines."""
    seen: set[Any] = set()
    for entry in entries:
        call = Call(entry.op, tuple(entry.inputs), entry.params)
        key = (entry.op.name, *map(id, entry.inputs), repr(entry.params))
        if _alone(entry) and call.spots and key not in seen:
            seen.add(key)
            yield call, line(entry.where)


def _alone(entry: Entry) -> bool:
    """Whether a call can be tried alone. `pick` takes apart what another operation returned, and is tried with that;
    `checkpoint` stands for a whole computation, whose operations are its own."""
    return entry.op.name not in ("pick", "checkpoint") and not any(isinstance(a, tuple) for a in entry.inputs)


def local(call: Call) -> Report:
    """What the judge says of one call: in float64, and if it is in float32 also of what is lost there."""
    subject = OfCall(call)
    if subject.eps < 2.0**-30:
        return judge(subject)
    wide = OfCall(call.in_float64())
    if wide.eps > 2.0**-30:  # it computes in float32 whatever it is given
        return judge(subject)
    report = judge(wide)
    lost = lost_digits(subject, wide, UNITS) if report.verdict != "fail" else None
    return report if lost is None else report.joined(Report(report.title, (lost,)))
