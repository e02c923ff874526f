"""How far a run has come: a bar on a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

LINES = 20  # at most so many epochs are reported where there is no terminal, or a line for each if there are fewer


class _Speed(ProgressColumn):
    """Units a second, once they can be told."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} {self.unit}/s" if speed else "")


class Bar:
    """A progress bar over `total` units with the speed and the time left; nothing where there is no terminal.

    A context manager. `advance(n)` counts units.
    """

    def __init__(self, title: str, total: int, unit: str, *columns: ProgressColumn, **fields: Any):
        self.console = Console(highlight=False)
        self.shown = self.console.is_terminal
        text = TextColumn("{task.description}")
        self._progress = Progress(
            text,
            BarColumn(),
            *columns,
            _Speed(unit),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.shown,
        )
        self._task = self._progress.add_task(title, total=total, **fields)

    def advance(self, units: int, **fields: Any) -> None:
        """So many units more are done."""
        self._progress.update(self._task, advance=units, **fields)

    def __enter__(self) -> Any:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


class Epochs(Bar):
    """Progress of a training: epoch, step, loss, examples a second, time left.

    Args:
        epochs: how many there will be.
        examples: how many examples one has.
        steps: how many steps.
        done: examples that an interrupted run has already had, of all epochs.
    """

    def __init__(self, epochs: int, examples: int, steps: int, done: int = 0):
        values = TextColumn("{task.fields[values]}")
        super().__init__("training", epochs * examples, "examples", values, values="", completed=done)
        self.epochs, self.examples, self.steps = epochs, examples, steps
        self.begun, self.done = monotonic(), done

    def step(self, epoch: int, step: int, examples: int, values: Mapping[str, float]) -> None:
        """A step of this epoch was done, with so many examples."""
        title = f"epoch {epoch}/{self.epochs}, step {step}/{self.steps}"
        self.advance(examples, description=title, values=_line(values))

    def epoch_done(self, epoch: int, values: Mapping[str, float]) -> None:
        """An epoch ended: where there is no bar, say so in a line."""
        if not self.shown and (epoch % max(1, self.epochs // LINES) == 0 or epoch == self.epochs):
            had, spent = epoch * self.examples - self.done, monotonic() - self.begun
            speed = max(had, 1) / spent  # of a run that was resumed at the end of an epoch, nothing can be told yet
            left = (self.epochs - epoch) * self.examples / speed
            self.console.print(
                f"epoch {epoch}/{self.epochs}  {_line(values)}  {speed:,.0f} examples/s  {left:.0f} s left",
                soft_wrap=True,
            )


def _line(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
