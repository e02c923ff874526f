"""What all commands share: options and their errors, checks, checkpoints, Ctrl-C, the same bits on any threads."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, testing

pytest.importorskip("matplotlib")

import models
from benchmarks import papers
from models import checkpoints, commands, training

MODELS = [importlib.import_module(f"models.{name}") for name in models.MODELS]
EVERY = pytest.mark.parametrize("page", MODELS, ids=models.MODELS)


def arguments(page: ModuleType, folder: Path, *more: str) -> list[str]:
    """Of a short run."""
    return ["--epochs", "2", "--out", str(folder), *more]


def weights(folder: Path) -> dict[str, str]:
    """The weights as hashes: to show where long bytes differ takes minutes."""
    tensors = mg.io.load(folder / "weights.safetensors")
    return {name: hashlib.sha256(tensor.data.tobytes()).hexdigest() for name, tensor in tensors.items()}


def test_the_list_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("models", run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == [page.__name__ for page in MODELS]
    pages = {path.stem for path in Path(models.__file__).parent.glob("*.py") if "commands.main(" in path.read_text()}
    assert pages == set(models.MODELS)


@EVERY
def test_help_explains_the_options(page: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        page.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    options = "data epochs batch-size learning-rate seed threads compile no-compile out resume check preset"
    assert all(f"--{option}" in shown for option in options.split())


@EVERY
@pytest.mark.parametrize("recipe", ["digits", "mnist", "paper"])
def test_every_gradient_is_right(page: ModuleType, recipe: str) -> None:
    report = page.check(page.RECIPES[recipe])
    assert report.verdict == "pass", report
    assert report.entries > 20


def test_a_check_draws_the_same_every_time_and_finds_what_is_wrong() -> None:
    def make() -> tuple[nn.Linear, mg.Tensor]:
        return nn.Linear(3, 2), mg.random.uniform((4, 3))

    def loss(model: nn.Linear, x: mg.Tensor) -> mg.Tensor:
        return mg.sum(mg.tanh(model(x) + mg.random.normal((4, 2))))

    seen = []
    for seed in (1, 2):
        mg.random.seed(seed)
        assert commands.check_gradients(make, lambda model, x: seen.append(loss(model, x).item()) or loss(model, x))
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    slip = mg.Op("slip_of_a_check", lambda x: x + 0, vjp={"x": lambda g: g * 1.001}, kind="linear")
    wrong = commands.check_gradients(make, lambda model, x: loss(model, slip(x @ model.weight)[:, :1] + x))
    assert wrong.verdict == "fail"


@EVERY
def test_the_recipes_are_json(page: ModuleType) -> None:
    for recipe in page.RECIPES.values():
        fields = vars(recipe)
        assert type(recipe)(**json.loads(json.dumps(fields))) == recipe


@EVERY
def test_a_wrong_gradient_stops_the_command(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slip = mg.Op("slip_of_a_page", lambda x: x + 0, vjp={"x": lambda g: g * 1.01}, kind="linear")
    monkeypatch.delitem(mg.core.op.registry, "slip_of_a_page")
    wrong = testing.check(lambda x: mg.sum(slip(x)), mg.Tensor([1.0, 2.0]))
    monkeypatch.setattr(page, "check", lambda recipe: wrong)
    assert page.main(arguments(page, tmp_path, "--check")) == 1
    assert "FAIL" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@EVERY
def test_stopped_and_resumed_it_ends_with_the_same_bits(
    page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every model's state is whole: what a step changes and the checkpoint lacks would make a difference."""
    options = ["--seed", "5"]
    assert page.main(arguments(page, tmp_path / "whole", *options)) == 0
    whole = json.loads((tmp_path / "whole" / "summary.json").read_text("utf-8"))
    assert {path.name for path in (tmp_path / "whole").iterdir()} == set(whole["files"])
    for row in papers.ROWS:  # what is held against papers can be found in it
        if f"models.{row.model}" == page.__name__:
            assert row.preset in page.RECIPES
            summaries = [whole, {"test_loss": 1.0}] if row.reference else [whole]
            assert all(np.isfinite(number.found(summaries)) for number in row.numbers)

    step, calls = training.Training._step, 0

    def interrupted(self: training.Training, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == len(self.batches) + len(self.batches) // 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(training.Training, "_step", interrupted)
        assert page.main(arguments(page, tmp_path / "stopped", *options)) == commands.INTERRUPTED
    assert "--resume" in capsys.readouterr().err
    left = {path.name for path in (tmp_path / "stopped").iterdir()}
    assert commands.CHECKPOINT in left
    assert not left & {"weights.safetensors", "summary.json"}
    facts = checkpoints.load_facts(tmp_path / "stopped" / commands.CHECKPOINT)
    assert facts["place"]["epoch"] == 1
    assert facts["place"]["position"] > 0

    assert page.main(["--out", str(tmp_path / "stopped"), "--resume", "--seed", "6"]) == 2
    assert "seed is 5 there and 6 here" in capsys.readouterr().err
    assert page.main(["--out", str(tmp_path / "stopped"), "--resume", "--no-compile"]) == 2
    assert "compile is True there and False here" in capsys.readouterr().err
    assert checkpoints.load_facts(tmp_path / "stopped" / commands.CHECKPOINT) == facts
    assert page.main(["--out", str(tmp_path / "stopped"), "--resume"]) == 0
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    resumed = json.loads((tmp_path / "stopped" / "summary.json").read_text("utf-8"))
    assert resumed["curves"] == whole["curves"]
    assert resumed["settings"] == whole["settings"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one's own: 300 and 50 images of 20×20 pixels, so large that kernels share the work out."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    for kind, count in (("train", 300), ("t10k", 50)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = (rng.uniform(0, 100, (count, 20, 20)) + 15 * labels[:, None, None]).astype(np.uint8)
        for name, array in ((f"{kind}-images-idx3-ubyte", images), (f"{kind}-labels-idx1-ubyte", labels)):
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            (path / name).write_bytes(head + array.tobytes())
    return path


@EVERY
def test_the_same_bits_on_any_number_of_threads(page: ModuleType, tmp_path: Path, folder: Path) -> None:
    before = mg.kernels.num_threads()
    try:
        for threads in ("1", "2"):
            options = ["--data", str(folder), "--epochs", "1", "--out", str(tmp_path / threads), "--threads", threads]
            assert page.main(options) == 0
    finally:
        mg.kernels.set_num_threads(before)
    assert weights(tmp_path / "1") == weights(tmp_path / "2")
    curves = [json.loads((tmp_path / n / "summary.json").read_text("utf-8"))["curves"] for n in "12"]
    assert curves[0] == curves[1]


@EVERY
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs: expected a whole number of at least 1, not '0'"),
        (["--epochs", "many"], "--epochs: expected a whole number of at least 1, not 'many'"),
        (["--batch-size", "-3"], "--batch-size: expected a whole number of at least 1"),
        (["--learning-rate", "0"], "--learning-rate: expected a number above 0, not '0'"),
        (["--learning-rate", "nan"], "--learning-rate: expected a number above 0, not 'nan'"),
        (["--seed", "-1"], "--seed: expected a whole number of at least 0"),
        (["--threads", "0"], "--threads: expected a whole number of at least 1"),
        (["--preset", "magazine"], "--preset: invalid choice: 'magazine'"),
        (["--out", __file__], "can't be made a folder"),
    ],
)
def test_a_wrong_option_is_explained(
    page: ModuleType, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        page.main(options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_data_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = MODELS[0]
    missing = str(tmp_path / "nowhere")
    assert page.main(arguments(page, tmp_path / "out", "--data", missing)) == 2
    assert capsys.readouterr().err.startswith(f"error: {missing}: no such folder")
    assert page.main(arguments(page, tmp_path / "out", "--data", str(tmp_path))) == 2
    assert "train-images-idx3-ubyte: no such file" in capsys.readouterr().err


def test_a_training_that_diverges_is_explained(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data", str(folder), "--learning-rate", "1e30"]
    assert autoencoder().main(arguments(autoencoder(), tmp_path, *options)) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: epoch 1, step ")
    assert "layer" in shown
    assert "smaller --learning-rate" in shown
    place = checkpoints.load_facts(tmp_path / commands.CHECKPOINT)["place"]
    assert (place["epoch"], place["position"]) == (0, 0)


def autoencoder() -> ModuleType:
    return importlib.import_module("models.autoencoder")


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = MODELS[0], MODELS[-1]
    assert one.main(arguments(one, tmp_path)) == 0
    assert other.main(["--out", str(tmp_path), "--resume"]) == 2
    assert "model is" in capsys.readouterr().err


def test_an_unfinished_run_is_kept_aside_when_another_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = autoencoder()
    (tmp_path / commands.CHECKPOINT).write_text("an unfinished run")
    (tmp_path / "notes.txt").write_text("mine")
    assert page.main(arguments(page, tmp_path)) == 0
    assert (tmp_path / f"previous-{commands.CHECKPOINT}").read_text() == "an unfinished run"
    assert "--resume would have continued it" in capsys.readouterr().out
    assert page.main(arguments(page, tmp_path)) == 0  # a finished one is replaced
    assert (tmp_path / f"previous-{commands.CHECKPOINT}").read_text() == "an unfinished run"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_lines_when_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = autoencoder()
    assert page.main(arguments(page, tmp_path, "--code", "3", "--batch-size", "200")) == 0
    lines = capsys.readouterr().out.splitlines()
    for number, line in enumerate(lines[:2], 1):
        assert line.startswith(f"epoch {number}/2  autoencoder ")
        assert "examples/s" in line
        assert "s left" in line


def test_ctrl_c_keeps_the_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "models.autoencoder", "--epochs", "20", "--batch-size", "1"]
    # a shell's background job ignores SIGINT, and what it starts would, too
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)],
        cwd=Path(commands.__file__).parents[1],
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert f"Interrupted. The checkpoint is {tmp_path / commands.CHECKPOINT}" in errors
    assert [path.name for path in tmp_path.iterdir()] == [commands.CHECKPOINT]
    assert checkpoints.load_facts(tmp_path / commands.CHECKPOINT)["place"]["epoch"] >= 1
