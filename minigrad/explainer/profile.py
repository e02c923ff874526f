"""The profile: where the time and the memory of eager steps go, by operation and source line.

    operation   line                          calls  forward ms  backward ms    MiB
    linear      train.py:12: h = fc(x)          100       21.30        40.12   38.3
    tanh        train.py:13: h = mg.tanh(h)     100        6.01         7.94   38.3

A watcher sees each operation when it is done, and each rule. So what is counted is the time since the one before: the
Python in between is counted, too, for the operation that comes next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from minigrad.core.mode import Watcher, changed, watching
from minigrad.core.op import Op, Part
from minigrad.core.value import Value
from minigrad.source import Place, line

MIB = 2**20


@dataclass
class Row:
    """What an operation took at one line.

    Attributes:
        op: its name.
        line: 'file.py:12: y = log(x)'.
        calls: how often it was called.
        forward, backward: seconds, backward those of all its rules.
        made: bytes of the results, and of the cotangents that its rules returned, but for views.
    """

    op: str
    line: str
    calls: int = 0
    forward: float = 0.0
    backward: float = 0.0
    made: int = 0

    @property
    def seconds(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


class Profile(Watcher):
    """What `profile()` returns: `rows`, those that took longest first; printing it shows them."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        self._since = perf_counter()

    @property
    def rows(self) -> list[Row]:
        """One for each operation and line, by time."""
        return sorted(self._rows.values(), key=lambda row: -row.seconds)

    def __str__(self) -> str:
        rows = [
            (row.op, row.line, str(row.calls), *(f"{1e3 * s:.2f}" for s in (row.forward, row.backward)),
             f"{row.made / MIB:.1f}")
            for row in self.rows
        ]  # fmt: skip
        rows = [("operation", "line", "calls", "forward ms", "backward ms", "MiB"), *rows]
        widths = [max(len(row[k]) for row in rows) for k in range(6)]
        shown = lambda k, cell: cell.ljust(widths[k]) if k < 2 else cell.rjust(widths[k])
        return "\n".join("  ".join(shown(k, cell) for k, cell in enumerate(row)).rstrip() for row in rows)

    def _row(self, op: Op, where: Place | None) -> tuple[Row, float]:
        """The row of an operation, and the seconds since the event before."""
        now = perf_counter()
        key = op.name, line(where)
        row = self._rows.setdefault(key, Row(*key))
        seconds, self._since = now - self._since, now
        return row, seconds

    def forward(self, op: Op, given: Any, arrays: Any, params: dict[str, Any], y: Any, where: Place | None) -> None:
        """Count a call, unless arrays were all that it was given."""
        if op.name != "pick" and any(isinstance(x, Value) for x in given):  # one of several outputs is no call
            row, seconds = self._row(op, where)
            row.calls += 1
            row.forward += seconds
            row.made += memory(y)
            self._since = perf_counter()  # without what it took to write this down

    def begins(self) -> None:
        """What comes before is no rule's."""
        self._since = perf_counter()

    def backward(self, node: Any, g: Any, name: str, cotangent: Any) -> None:
        """Count a rule."""
        if node.plan.op.name != "pick":
            row, seconds = self._row(node.plan.op, node.plan.where)
            row.backward += seconds
            row.made += memory(cotangent)
            self._since = perf_counter()


def memory(x: Any, views: bool = False) -> int:
    """The bytes of arrays, of views only if that is asked: they have no memory of their own."""
    if isinstance(x, (tuple, list)) and not isinstance(x, Part):
        return sum(memory(part, views) for part in x)
    x = x.g if isinstance(x, Part) else x
    x = x.array if isinstance(x, Value) else x
    return int(x.nbytes) if isinstance(x, np.ndarray) and (views or x.flags.owndata) else 0


@contextmanager
def profile() -> Iterator[Profile]:
    """Measure every operation and rule in a with block: `with mg.profile() as seen:`; then `print(seen)`.

    Compiled functions run operation by operation while they are measured: `explain()` of a compiled step tells what its
    kernels cost.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([1.0, 2.0], requires_grad=True)
        >>> with mg.profile() as seen:
        ...     for _ in range(3):
        ...         mg.sum(mg.exp(x)).backward()
        >>> sorted((row.op, row.calls, row.made) for row in seen.rows)
        [('exp', 3, 96), ('sum', 3, 72)]
    """
    seen = Profile()
    with changed(watchers=watching(seen)):
        yield seen
