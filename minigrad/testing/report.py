"""What a check found, and how it tells it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from textwrap import indent

VERDICTS = ("pass", "unsure", "fail")  # from best to worst


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that could not be decided.

    Attributes:
        verdict: 'fail' or 'unsure'.
        what: one sentence.
        entry: which entry of which input, and of which output: "x[0, 2], output y[1]".
        numbers: both values and the error bar.
        looks: how the wrong one looks beside the right one.
        formula: of the rule, as the operation's record has it.
        guilty: the operations that are wrong, or (unsure) at a kink, with the source line.
        reproducer: a line that shows it again.
    """

    verdict: str
    what: str
    entry: str = ""
    numbers: str = ""
    looks: tuple[str, ...] = ()
    formula: str = ""
    guilty: tuple[str, ...] = ()
    reproducer: str = ""

    def __str__(self) -> str:
        told = [
            ("at", self.entry),
            ("", self.numbers),
            *(("looks", look) for look in self.looks),
            ("rule", self.formula),
            *(("guilty" if self.verdict == "fail" else "kink", line) for line in self.guilty),
            ("again", self.reproducer),
        ]
        lines = [f"{name + ':' if name else '':8}{text}" for name, text in told if text]
        return "\n".join([f"{self.verdict.upper()}: {self.what}", *(indent(line, "  ") for line in lines)])


@dataclass(frozen=True)
class Report:
    """What a check found out about a gradient. It is true if the gradient passed, and printing it tells the story.

    Attributes:
        title: what was checked.
        findings: what is wrong or undecided; none of them for a pass.
        oracle: what the derivatives were compared with.
        entries: how many numbers the inputs have.
        probes: how many directional derivatives were compared.
        worst: the largest disagreement, in units of its tolerance; above 1 only where that was explained.
        bar: the median relative error bar of the derivatives.
    """

    title: str
    findings: tuple[Finding, ...] = ()
    oracle: str = ""
    entries: int = 0
    probes: int = 0
    worst: float = 0.0
    bar: float = field(default=float("nan"))

    @property
    def verdict(self) -> str:
        """'pass', 'fail', or 'unsure'."""
        return max((f.verdict for f in self.findings), key=VERDICTS.index, default="pass")

    def __bool__(self) -> bool:
        return self.verdict == "pass"

    def __str__(self) -> str:
        if self.probes:
            bar = f", known to {self.bar:.0e} of their size in the median" if self.bar == self.bar else ""
            how = f"{self.entries:,} entries, {self.probes} derivatives compared with {self.oracle}{bar}"
        else:
            how = "no derivative was compared"
        shown = self.findings[:5]
        more = [f"... and {len(self.findings) - 5} more"] if len(self.findings) > 5 else []
        return "\n".join([f"{self.title}: {self.verdict} ({how})", *map(str, shown), *more])

    def joined(self, other: Report) -> Report:
        """Both reports in one."""
        return replace(
            self,
            findings=self.findings + other.findings,
            probes=self.probes + other.probes,
            worst=max(self.worst, other.worst),
        )
