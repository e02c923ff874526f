"""The autoencoder's command, from end to end: it beats PCA, leaves what it promises, and ends as it should."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, testing, trees
from minigrad.core.op import registry
from models import autoencoder, datasets
from models.autoencoder import OUTPUTS, RECIPES, Autoencoder, error_per_image, main, mean_loss, pca

image = pytest.importorskip("matplotlib.image")


class Run:
    """A finished run of the command: its exit code, what it printed, and its folder."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder
        self.code = main([*options, "--out", str(folder)])

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("short"), "--epochs", "30")


def test_it_beats_pca_and_every_gradient_is_right(short: Run) -> None:
    summary = short.summary
    assert short.code == 0
    assert summary["test_error"]["autoencoder"] < 0.9 * summary["test_error"]["PCA"]
    assert summary["gradient_check"]["verdict"] == "pass"
    assert summary["gradient_check"]["entries"] == 64 * 32 + 32 + 32 * 8 + 8 + 8 * 32 + 32 + 32 * 64 + 64
    assert len(summary["training_loss_by_epoch"]) == len(summary["test_loss_by_epoch"]) == 30
    assert summary["training_loss_by_epoch"][-1] < summary["training_loss_by_epoch"][0] / 2


def test_the_pictures_are_there(short: Run) -> None:
    assert sorted(path.name for path in short.folder.iterdir()) == sorted(OUTPUTS)
    for name in ("learning_curve.png", "reconstructions.png"):
        pixels = image.imread(short.folder / name)
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 900
        assert pixels.std() > 0.05  # something is drawn


def test_the_weights_give_the_error_that_was_reported(short: Run) -> None:
    model = Autoencoder(64, 32, 8, nn.Tanh)
    mg.io.load_into(model, short.folder / "weights.safetensors")
    images = datasets.digits()
    error = error_per_image(images.test, model.reconstruct(images.test))
    assert error == pytest.approx(short.summary["test_error"]["autoencoder"], rel=1e-12)
    assert error == pytest.approx(short.summary["test_loss_by_epoch"][-1], rel=1e-5)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "check", lambda *_: testing.Report("loss"))
    runs = [Run(tmp_path / str(i), "--epochs", "2", "--seed", seed) for i, seed in enumerate("778")]
    a, b, c = (mg.io.load(run.folder / "weights.safetensors") for run in runs)
    assert all(np.array_equal(a[name].data, b[name].data) for name in a)
    assert not any(np.array_equal(a[name].data, c[name].data) for name in a)
    assert runs[0].summary["test_loss_by_epoch"] == runs[1].summary["test_loss_by_epoch"]


def test_pca_is_that_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    images = datasets.digits()
    peer = PCA(8, svd_solver="full").fit(images.train.astype(float))
    expected = peer.inverse_transform(peer.transform(images.test.astype(float)))
    assert np.allclose(pca(images.train, 8)(images.test), expected, atol=1e-6)
    assert error_per_image(images.test, expected) == pytest.approx(1.578, abs=1e-3)


@pytest.mark.parametrize("data", RECIPES)
def test_the_loss_is_the_formula_of_the_page(data: str) -> None:
    recipe = RECIPES[data]
    x = np.random.default_rng(0).uniform(size=(5, 6))
    model = Autoencoder(6, 4, 3, recipe.activation).astype("float64")
    y = model.reconstruct(x)
    terms = (y - x) ** 2 if data == "digits" else -x * np.log(y) - (1 - x) * np.log(1 - y)
    assert mean_loss(model, recipe.terms, mg.Tensor(x)).item() == pytest.approx(terms.sum(1).mean(), rel=1e-12)


def plant(monkeypatch: pytest.MonkeyPatch, name: str, factor: float) -> None:
    """Multiply one entry of a parameter's gradient, the one of median size, by a factor."""

    def wrong(g: Any) -> Any:
        sizes = np.where(np.asarray(g) == 0, np.inf, abs(np.asarray(g)))
        k = np.argsort(sizes, axis=None)[np.count_nonzero(np.asarray(g)) // 2]
        return g * np.where(np.arange(g.size).reshape(g.shape) == k, factor, 1.0).astype(g.dtype)

    def planted(model: Autoencoder, *rest: Any) -> mg.Tensor:
        leaves, rebuild = trees.flatten(model)
        k = [path for path, _ in trees.named_leaves(model)].index(name)
        leaves[k] = slip(leaves[k])
        return mean_loss(rebuild(leaves), *rest)

    slip = mg.Op("slip", lambda x: x.view(), vjp={"x": wrong}, kind="linear")
    monkeypatch.delitem(registry, "slip")
    monkeypatch.setattr(autoencoder, "mean_loss", planted)


NAMES = [f"{part}.layers.{i}.{what}" for part in ("encoder", "decoder") for i in (0, 2) for what in ("weight", "bias")]


@pytest.mark.parametrize("name", NAMES)
def test_an_error_of_a_millionth_in_one_entry_is_found(short: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = Autoencoder(64, 32, 8, nn.Tanh)
    mg.io.load_into(model, short.folder / "weights.safetensors")
    plant(monkeypatch, name, 1 + 1e-6)
    report = autoencoder.check(model, RECIPES["digits"], datasets.digits().test)
    assert report.verdict == "fail"
    assert report.findings[0].entry.startswith(f"model.{name}[")
    assert report.findings[0].guilty[0].startswith("slip at ")


def test_an_error_in_one_entry_makes_the_command_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, "decoder.layers.2.weight", 1 + 1e-6)
    run = Run(tmp_path, "--epochs", "5")
    assert run.code == 1
    assert "FAIL: the VJP for model.decoder.layers.2.weight is wrong" in capsys.readouterr().out
    assert run.summary["gradient_check"]["verdict"] == "fail"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "cifar"], "invalid choice: 'cifar'"),
        (["--epochs", "0"], "--epochs: expected a whole number of at least 1, not '0'"),
        (["--epochs", "many"], "--epochs: expected a whole number of at least 1, not 'many'"),
        (["--batch-size", "-3"], "--batch-size: expected a whole number of at least 1"),
        (["--seed", "-1"], "--seed: expected a whole number of at least 0"),
        (["--code", "65"], "--code: at most 64, the number of pixels, not 65"),
        (["--data-dir", "."], "--data-dir goes with --data mnist"),
        (["--out", __file__], "can't be made a folder"),
    ],
)
def test_a_wrong_option_is_explained(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_data_are_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nowhere")
    assert Run(tmp_path / "out", "--data", "mnist", "--data-dir", missing).code == 2
    assert capsys.readouterr().err.startswith(f"error: {missing}: no such folder")
    assert Run(tmp_path / "out", "--data", "mnist", "--data-dir", str(tmp_path)).code == 2
    assert "train-images-idx3-ubyte: no such file" in capsys.readouterr().err


def test_a_training_that_diverges_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(z: Any, x: Any) -> Any:
        return mg.mse(z, x, reduction="none") * float("nan")

    monkeypatch.setitem(RECIPES, "digits", RECIPES["digits"]._replace(terms=broken))
    assert Run(tmp_path, "--epochs", "1").code == 1
    assert "error: the loss became nan in epoch 1" in capsys.readouterr().err


def test_lines_when_there_is_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Run(tmp_path, "--epochs", "2", "--code", "3", "--batch-size", "200").code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "64-32-3-32-64 autoencoder, 1,437 training and 360 test images of digits"
    for number, line in enumerate(lines[1:3], 1):
        assert line.startswith(f"epoch {number}/2  loss ")
        assert "examples/s" in line
        assert "s left" in line
    assert "PCA with 3 components" in lines[3]


def test_ctrl_c_keeps_the_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "models.autoencoder", "--epochs", "100000", "--out", str(tmp_path)]
    (tmp_path / "summary.json").write_text("of an earlier run")
    # a shell's background job ignores SIGINT, and what it starts would, too
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        command,
        cwd=Path(autoencoder.__file__).parents[1],
        env={**os.environ, "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "Interrupted after" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    assert len(mg.io.load(tmp_path / "weights.safetensors")) == 8


def test_ctrl_c_during_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(autoencoder, "check", interrupted)
    assert Run(tmp_path, "--epochs", "1").code == 130
    assert "Interrupted" in capsys.readouterr().err
    assert (tmp_path / "weights.safetensors").is_file()


def test_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"
    folder = os.environ.get(datasets.FOLDER_VARIABLE) or (str(beside) if beside.is_dir() else None)
    if folder is None:
        pytest.skip("needs the files of MNIST, in the folder MINIGRAD_DATA_DIR")

    def some(folder: str | None) -> datasets.Images:
        train, test, shape = datasets.mnist(folder)
        return datasets.Images(train[:20_000], test[:500], shape)

    smaller = RECIPES["mnist"]._replace(load=some, hidden=32, checked=1)
    monkeypatch.setitem(RECIPES, "mnist", smaller)
    run = Run(tmp_path, "--data", "mnist", "--data-dir", folder, "--epochs", "2", "--code", "10")
    assert run.code == 0
    assert run.summary["model"] == "784-32-10-32-784"
    assert run.summary["gradient_check"]["verdict"] == "pass"
    assert run.summary["test_loss_by_epoch"][1] < run.summary["test_loss_by_epoch"][0] < 250
