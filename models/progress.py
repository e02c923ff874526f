"""How far a run has come: a bar on a terminal, elsewhere a plain line for each epoch."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


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
    """Progress of a training: epoch, loss, examples a second, time left.

    Args:
        epochs: how many there will be.
        examples: how many examples one has.
    """

    def __init__(self, epochs: int, examples: int):
        loss = TextColumn("loss {task.fields[loss]}")
        super().__init__(self._title(1, epochs), epochs * examples, "examples", loss, loss="")
        self.epochs, self.examples, self.begun = epochs, examples, monotonic()

    @staticmethod
    def _title(epoch: int, epochs: int) -> str:
        return f"epoch {epoch}/{epochs}"

    def step(self, epoch: int, examples: int, loss: float) -> None:
        """A step of this epoch was done."""
        self.advance(examples, description=self._title(epoch, self.epochs), loss=f"{loss:.4g}")

    def epoch_done(self, epoch: int, loss: float, test_loss: float) -> None:
        """An epoch ended: where there is no bar, say so in a line."""
        if not self.shown:
            spent = monotonic() - self.begun
            self.console.print(
                f"{self._title(epoch, self.epochs)}  loss {loss:.4g}  test loss {test_loss:.4g}  "
                f"{epoch * self.examples / spent:,.0f} examples/s  {spent / epoch * (self.epochs - epoch):.0f} s left",
                soft_wrap=True,
            )
