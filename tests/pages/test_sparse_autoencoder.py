"""The sparse autoencoder: the gap with and without a penalty, and that penalties and errors are the page's formulas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from models import datasets, sparse_autoencoder
from models.pca import error_per_image
from models.sparse_autoencoder import PENALTIES, RECIPES, THRESHOLD, losses, main, networks, omega, strokes
from models.training import Descent

image = pytest.importorskip("matplotlib.image")
special = pytest.importorskip("scipy.special")

Array = np.ndarray[Any, Any]
DIGITS = RECIPES["digits"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text("utf-8"))


def test_without_a_penalty_it_memorises(summary: dict[str, Any]) -> None:
    found = summary["no penalty"]
    assert found["training_error"] < 0.1 * found["test_error"]
    assert found["epoch_of_lowest_test_error"] < 250 < DIGITS.epochs
    assert summary["curves"]["no penalty, test"][-1] > 1.1 * found["lowest_test_error_of_an_epoch"]
    assert found["active"] > 0.5


def test_kl_prevents_most_of_it(summary: dict[str, Any]) -> None:
    found, without = summary["KL"], summary["no penalty"]
    assert found["gap"] < 0.6 * without["gap"]
    assert found["test_error"] < 0.8 * without["test_error"]
    assert found["test_error"] < 0.9 * without["lowest_test_error_of_an_epoch"]  # stopping early would do less
    assert found["epoch_of_lowest_test_error"] > 350
    assert found["mean_activation"] == pytest.approx(0.05, abs=0.006)


def test_l1_is_sparse_and_memorises(summary: dict[str, Any]) -> None:
    found, without = summary["L1"], summary["no penalty"]
    assert found["active"] < 0.2 * without["active"]
    assert found["gap"] > without["gap"]


def test_how_sparse_the_codes_are(run: Path) -> None:
    """KL's units stay near ρ; L1's are mostly off, and some are on."""
    models = networks(64, DIGITS)
    mg.io.load_into(models, run / "weights.safetensors")
    codes = {penalty: model.encode(datasets.load("digits").test) for penalty, model in models.items()}
    assert np.mean(codes["KL"] > 0.5) < 0.001
    assert np.mean(codes["KL"] < 0.01) < 0.05
    assert np.mean(codes["L1"] > 0.5) > 0.01
    assert np.mean(codes["L1"] < 0.01) > 0.7


def test_the_weights_give_the_numbers_that_were_reported(run: Path, summary: dict[str, Any]) -> None:
    models = networks(64, DIGITS)
    mg.io.load_into(models, run / "weights.safetensors")
    images = datasets.load("digits")
    few = images.train[:150]
    assert summary["training_images"] == 150
    for penalty, model in models.items():
        found, h = summary[penalty], model.encode(images.test)
        training, test = (float(np.sum((x - model.reconstruct(x)) ** 2) / len(x)) for x in (few, images.test))
        assert found["training_error"] == pytest.approx(training, rel=1e-4)
        assert found["test_error"] == pytest.approx(test, rel=1e-4)
        assert found["gap"] == pytest.approx(test - training, rel=1e-3)
        assert found["active"] == pytest.approx(np.count_nonzero(h > THRESHOLD) / h.size, rel=1e-6)
        assert found["mean_activation"] == pytest.approx(h.mean(dtype=float), rel=1e-5)
        course = summary["curves"][f"{penalty}, test"]
        assert found["lowest_test_error_of_an_epoch"] == min(course) == course[found["epoch_of_lowest_test_error"] - 1]
        assert course[-1] == pytest.approx(error_per_image(images.test[:150], model.reconstruct(images.test[:150])))
        assert summary["curves"][penalty][-1] == pytest.approx(training, rel=0.5)  # while it was still learning


def test_the_pictures_are_there(run: Path) -> None:
    names = ["curves", "activations", "reconstructions", "units_no_penalty", "units_L1", "units_KL"]
    for name in names:
        pixels = image.imread(run / f"{name}.png")
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.05
    assert len(list(run.glob("*.png"))) == len(names)


def test_penalties_are_the_formulas_of_the_page() -> None:
    h = np.random.default_rng(0).uniform(0.01, 0.9, (7, 5))
    recipe = replace(DIGITS, l1=0.3, kl=2.0, rho=0.1)
    assert omega(mg.Tensor(h), "no penalty", recipe) == 0.0
    l1 = omega(mg.Tensor(h), "L1", recipe)
    assert isinstance(l1, mg.Tensor)
    assert l1.item() == pytest.approx(0.3 * np.mean(np.linalg.norm(h, ord=1, axis=1)), rel=1e-12)
    of_coins = special.rel_entr(0.1, h.mean(0)) + special.rel_entr(0.9, 1 - h.mean(0))
    kl = omega(mg.Tensor(h), "KL", recipe)
    assert isinstance(kl, mg.Tensor)
    assert kl.item() == pytest.approx(2 * np.sum(of_coins), rel=1e-12)
    slope = mg.grad(lambda h: omega(h, "KL", recipe))(mg.Tensor(h)).data
    mean = h.mean(0)
    assert np.allclose(slope, 2 * (mean - 0.1) / (mean * (1 - mean)) / 7, rtol=1e-10)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_loss_is_the_formula_of_the_page(penalty: str) -> None:
    model = networks(6, replace(DIGITS, hidden=4, code=9))[penalty].astype("float64")
    w1, b1, w2, b2, w3, b3, w4, b4 = (tensor.data for tensor in model.tensors().values())
    x = np.random.default_rng(0).uniform(size=(5, 6))
    h = special.expit(np.tanh(x @ w1 + b1) @ w2 + b2)
    y = special.expit(np.tanh(h @ w3 + b3) @ w4 + b4)
    assert np.allclose(model.encode(x), h, rtol=1e-12)
    assert np.allclose(model.reconstruct(x), y, rtol=1e-12)
    error, loss = losses(model, mg.Tensor(x), penalty, DIGITS)
    assert error.item() == pytest.approx(np.mean(np.linalg.norm(y - x, axis=1) ** 2), rel=1e-12)
    added = omega(mg.Tensor(h), penalty, DIGITS)
    added = added.item() if isinstance(added, mg.Tensor) else added
    assert loss.item() == pytest.approx(error.item() + added, rel=1e-12)
    assert (added > 0) == (penalty != "no penalty")


def test_halving_the_code_and_doubling_weights_halves_l1_and_changes_nothing_else() -> None:
    model = networks(6, replace(DIGITS, hidden=4, code=9))["L1"].astype("float64")
    x = np.random.default_rng(0).uniform(size=(5, 6))
    h = model.encode(x)
    before, y = omega(mg.Tensor(h), "L1", DIGITS), model.reconstruct(x)
    w3 = model.tensors()["decoder.layers.0.weight"]
    w3.assign(2 * w3.data)
    assert np.allclose(model.decoder(mg.Tensor(h / 2)).data, y, rtol=1e-12)
    after = omega(mg.Tensor(h / 2), "L1", DIGITS)
    assert isinstance(before, mg.Tensor)
    assert isinstance(after, mg.Tensor)
    assert after.item() == pytest.approx(before.item() / 2, rel=1e-12)


def test_without_hidden_layers_copying_is_what_it_learns() -> None:
    """Either penalty then makes the gap larger, as the page says."""
    images = datasets.load("digits")
    few = images.train[:150]
    recipe = replace(DIGITS, l1=0.03, kl=0.05)
    gaps, errors = {}, {}
    for penalty in PENALTIES:
        with mg.random.use(mg.random.Generator(0)):
            model = networks(64, replace(DIGITS, code=128))[penalty]
            model.encoder = nn.Sequential(nn.Linear(64, 128), nn.Sigmoid())
            model.decoder = nn.Sequential(nn.Linear(128, 64), nn.Sigmoid())
            descent = Descent(mg.optim.Adam(model, lr=0.01))
            for _ in range(100):
                for x in mg.data.minibatches(few, batch_size=25):
                    descent(losses(model, x, penalty, recipe)[1])
        errors[penalty] = error_per_image(images.test, model.reconstruct(images.test))
        gaps[penalty] = errors[penalty] - error_per_image(few, model.reconstruct(few))
    for penalty in ("L1", "KL"):
        assert errors[penalty] > 1.2 * errors["no penalty"]
        assert gaps[penalty] > 1.2 * gaps["no penalty"]


def test_what_a_unit_draws() -> None:
    """Of a decoder that is linear: its row of weights, times two standard deviations, the most active unit first."""
    model = networks(6, replace(DIGITS, hidden=4, code=5))["KL"].astype("float64")
    model.decoder = nn.Sequential(nn.Linear(5, 6, dtype="float64"))
    x = np.random.default_rng(0).uniform(size=(9, 6))
    spread = model.encode(x).std(axis=0)
    expected = 2 * spread[:, None] * model.decoder.tensors()["layers.0.weight"].data
    assert np.allclose(strokes(model, x), expected[np.argsort(-spread)], rtol=1e-10)


@pytest.mark.parametrize("name", RECIPES)
def test_every_gradient(name: str) -> None:
    report = sparse_autoencoder.check(RECIPES[name])
    assert report.verdict == "pass", report
    assert report.entries == 3 * (9 * 4 + 4 + 4 * 10 + 10 + 10 * 4 + 4 + 4 * 9 + 9)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_a_mean_activation_lies_between_0_and_1(rho: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        replace(DIGITS, rho=rho)
