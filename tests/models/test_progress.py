"""Progress on a terminal, files that are never half-written, and the list of models."""

from __future__ import annotations

import runpy
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
    with progress.Epochs(epochs=3, examples=100) as epochs:
        for epoch in (1, 2, 3):
            epochs.step(epoch, 100, loss=0.5 / epoch)
            epochs.epoch_done(epoch, 0.5, 0.6)
    shown = screen.getvalue()
    assert "epoch 3/3" in shown
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


def test_the_list_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("models", run_name="__main__")
    assert "python -m models.autoencoder " in capsys.readouterr().out
