"""The autoencoder: it beats PCA, its plane keeps the digits apart, and its loss is the formula of the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import trees
from minigrad.core.op import registry
from models import autoencoder, datasets
from models.autoencoder import RECIPES, main, mean_loss, neighbours_agree, networks
from models.pca import error_per_image

image = pytest.importorskip("matplotlib.image")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["--epochs", "30", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text("utf-8"))


def test_it_beats_pca(summary: dict[str, Any]) -> None:
    errors = summary["squared_error"]
    assert errors["PCA"] == pytest.approx(1.578, abs=1e-3)  # by scikit-learn
    assert errors["autoencoder"] < 0.9 * errors["PCA"]
    assert errors["overcomplete"] < errors["autoencoder"] < errors["map"]
    assert len(summary["curves"]["autoencoder"]) == len(summary["curves"]["autoencoder, test"]) == 30
    assert summary["curves"]["autoencoder"][-1] < summary["curves"]["autoencoder"][0] / 2


def test_its_plane_keeps_the_digits_apart(summary: dict[str, Any]) -> None:
    agreement = summary["nearest_neighbour_accuracy"]
    assert agreement["map"] > agreement["PCA"] + 0.05
    assert agreement["PCA"] == pytest.approx(0.594, abs=0.01)  # the first 2 components of scikit-learn, and its 1-NN


def test_the_pictures_are_there(run: Path) -> None:
    for path in run.glob("*.png"):
        pixels = image.imread(path)
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.05  # something is drawn
    assert len(list(run.glob("*.png"))) == 4


def test_the_weights_give_the_error_that_was_reported(run: Path, summary: dict[str, Any]) -> None:
    models = networks(64, RECIPES["digits"])
    mg.io.load_into(models, run / "weights.safetensors")
    test = datasets.load("digits").test
    for name, model in models.items():
        assert error_per_image(test, model.reconstruct(test)) == pytest.approx(summary["squared_error"][name], rel=1e-9)
        last = summary["curves"][f"{name}, test"][-1]
        assert summary["squared_error"][name] == pytest.approx(last, rel=1e-5)


@pytest.mark.parametrize("kind", ["squared error", "cross-entropy"])
def test_the_loss_is_the_formula_of_the_page(kind: str) -> None:
    x = np.random.default_rng(0).uniform(size=(5, 6))
    for model in networks(6, replace(RECIPES["digits"], hidden=4, code=3)).values():
        model = model.astype("float64")
        y = model.reconstruct(x)
        terms = (y - x) ** 2 if kind == "squared error" else -x * np.log(y) - (1 - x) * np.log(1 - y)
        loss = mean_loss(model(mg.Tensor(x)), mg.Tensor(x), kind)
        assert loss.item() == pytest.approx(terms.sum(1).mean(), rel=1e-12)


def test_neighbours_by_hand() -> None:
    rng = np.random.default_rng(0)
    codes, test = rng.normal(size=(60, 2)), rng.normal(size=(40, 2))
    labels, test_labels = rng.integers(0, 3, 60), rng.integers(0, 3, 40)
    nearest = ((test[:, None] - codes) ** 2).sum(-1).argmin(1)
    assert neighbours_agree(codes, labels, test, test_labels) == np.mean(labels[nearest] == test_labels)


def plant(monkeypatch: pytest.MonkeyPatch, index: int, factor: float) -> None:
    """Multiply one entry of the gradient of a parameter of the first network, that of median size, by a factor."""

    def wrong(g: Any) -> Any:
        sizes = np.where(np.asarray(g) == 0, np.inf, abs(np.asarray(g)))
        k = np.argsort(sizes, axis=None)[np.count_nonzero(np.asarray(g)) // 2]
        return g * np.where(np.arange(g.size).reshape(g.shape) == k, factor, 1.0).astype(g.dtype)

    slip = mg.Op("slip", lambda x: x.view(), vjp={"x": wrong}, kind="linear")
    monkeypatch.delitem(registry, "slip")
    call = autoencoder.Autoencoder.__call__

    def planted(model: Any, x: mg.Tensor) -> mg.Tensor:
        leaves, rebuild = trees.flatten(model)
        if len(leaves) > index:
            leaves[index] = slip(leaves[index])
        return call(rebuild(leaves), x)

    monkeypatch.setattr(autoencoder.Autoencoder, "__call__", planted)


@pytest.mark.parametrize(("recipe", "index"), [("digits", 3), ("mnist", 4)])
def test_an_error_of_a_millionth_in_one_entry_is_found(
    monkeypatch: pytest.MonkeyPatch, recipe: str, index: int
) -> None:
    plant(monkeypatch, index, 1 + 1e-6)
    report = autoencoder.check(RECIPES[recipe])
    assert report.verdict == "fail"
    assert report.findings[0].guilty[0].startswith("slip at ")


def test_the_command_stops_at_such_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(monkeypatch, 6, 1 + 1e-6)
    assert main(["--epochs", "5", "--check", "--out", str(tmp_path)]) == 1
    assert ".decoder.layers.2.weight is wrong" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"
    if not beside.is_dir():
        pytest.skip("needs the files of MNIST")
    images = datasets.load(str(beside))
    some = images._replace(
        train=images.train[:10_000],
        train_labels=images.train_labels[:10_000],
        test=images.test[:500],
        test_labels=images.test_labels[:500],
    )
    monkeypatch.setattr(datasets, "load", lambda data: some)
    options = ["--epochs", "2", "--hidden", "32", "--code", "10", "--out", str(tmp_path)]
    assert main(["--preset", "paper", *options]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["sizes"] == "784-32-10-32-784"
    first, second = summary["curves"]["autoencoder, test"]
    assert second < first < 250
