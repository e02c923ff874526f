"""Progress on a terminal and without one, and files that are never half-written."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from models import progress
from models.files import replacing, write_json

console = pytest.importorskip("rich.console")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = StringIO()
    terminal = console.Console(file=screen, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    with progress.Epochs(epochs=3, examples=100, steps=2) as epochs:
        for epoch in (1, 2, 3):
            for step in (1, 2):
                epochs.step(epoch, step, 50, {"loss": 0.5 / epoch})
            epochs.epoch_done(epoch, {"loss": 0.5, "test loss": 0.6})
    shown = screen.getvalue()
    assert "epoch 3/3, step 2/2" in shown
    assert "loss 0.1667" in shown
    assert "examples/s" in shown
    assert "0:00:00" in shown
    assert "test loss" not in shown  # those lines are for where there is no terminal


def interrupted(target: Path) -> None:
    with replacing(target) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt


def test_what_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    write_json(target, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"a": float("nan")})
    with pytest.raises(KeyboardInterrupt):
        interrupted(target)
    assert target.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [target]


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Few of them, and the time left does not count what an earlier run did."""
    with progress.Epochs(epochs=100, examples=10, steps=1, done=500) as epochs:
        for epoch in range(50, 101):  # the epoch 50 was over when it was interrupted
            if epoch > 50:
                epochs.step(epoch, 1, 10, {"loss": 1.0})
            epochs.epoch_done(epoch, {"loss": 1.0, "test": 2.0})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[-1].startswith("epoch 100/100  loss 1  test 2  ")
    assert lines[-1].endswith("  0 s left")
