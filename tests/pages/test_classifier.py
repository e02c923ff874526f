"""The classifier: it reads digits, its costs and gradients are the formulas of the page, and what stops it early."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from models import classifier, datasets
from models.classifier import RECIPES, Classifier, descent, main, mean_loss, trained

image = pytest.importorskip("matplotlib.image")
special = pytest.importorskip("scipy.special")

Array = np.ndarray[Any, Any]


class Run:
    """A finished run of the command on the digits."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder
        assert main([*options, "--data", "digits", "--out", str(folder)]) == 0
        self.summary: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))
        self.curves: dict[str, list[float]] = self.summary["curves"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def nielsen(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("nielsen"), "--preset", "nielsen")


def test_it_reads_digits(run: Run) -> None:
    assert run.summary["test_accuracy"] > 0.97
    assert run.summary["held_out_accuracy"] > 0.97
    assert run.summary["sizes"] == "64-128-128-10"


def test_nielsens_reads_digits(nielsen: Run) -> None:
    assert nielsen.summary["test_accuracy"] > 0.94
    assert nielsen.summary["sizes"] == "64-30-10"
    assert nielsen.summary["epochs"] == 30  # it never stops early


@pytest.mark.parametrize("which", ["run", "nielsen"])
def test_the_weights_give_the_numbers_that_were_reported(which: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(which)
    recipe = RECIPES["digits" if which == "run" else "nielsen"]
    model = Classifier(64, 10, recipe)
    mg.io.load_into(model, run.folder / "weights.safetensors")
    images = datasets.load("digits")
    assert model.accuracy(images.test, images.test_labels) == run.summary["test_accuracy"]
    held = images.holding_out(len(images.train) // 6)
    assert model.accuracy(held.test, held.test_labels) == pytest.approx(run.summary["held_out_accuracy"], rel=1e-12)
    counts = np.zeros((10, 10), int)
    for label, answer in zip(images.test_labels, model.labels(images.test), strict=True):
        counts[label, answer] += 1
    assert counts.tolist() == run.summary["confusion"]
    assert np.trace(counts) == round(360 * run.summary["test_accuracy"])


def test_the_weights_are_those_of_the_best_epoch(run: Run) -> None:
    errors = run.curves["error, held out"]
    best = run.summary["best_epoch"]
    assert best == int(np.argmin(errors)) + 1
    assert run.summary["held_out_accuracy"] == pytest.approx(1 - min(errors), rel=1e-12)
    assert run.summary["epochs"] == len(errors)
    assert best < len(errors)  # so that keeping them was something to do


def test_impatience_ends_the_training(tmp_path: Path) -> None:
    run = Run(tmp_path, "--patience", "2", "--learning-rate", "0.02")
    errors = run.curves["error, held out"]
    assert len(errors) == run.summary["best_epoch"] + 2 < RECIPES["digits"].epochs
    assert min(errors[-2:]) >= min(errors[:-2])


def test_units_are_dropped_in_every_epoch_but_not_when_measuring(run: Run, nielsen: Run) -> None:
    dropped, whole = np.array(run.curves["loss"]), np.array(run.curves["loss, training"])
    assert np.all(dropped > 1.3 * whole)
    model = Classifier(64, 10, RECIPES["digits"])
    x = datasets.load("digits").test
    assert np.array_equal(model.outputs(x), model.outputs(x))
    model.train()
    assert not np.array_equal(model(mg.Tensor(x)).data, model(mg.Tensor(x)).data)
    without = Classifier(64, 10, RECIPES["nielsen"])
    assert np.array_equal(without(mg.Tensor(x)).data, without.outputs(x))


def test_the_pictures_are_there(run: Run, nielsen: Run) -> None:
    for folder in (run.folder, nielsen.folder):
        for name in ("loss", "accuracy", "confusion", "mistakes", "filters"):
            pixels = image.imread(folder / f"{name}.png")
            assert pixels.shape[0] > 150
            assert pixels.shape[1] > 600
            assert pixels.std() > 0.05


def test_pictures_without_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two digits that are easily told apart, and of more than ten classes none of which has few images."""
    images = datasets.load("digits")
    zeros, ones = (images.train_labels < 2, images.test_labels < 2)
    easy = datasets.Images(
        images.train[zeros], images.train_labels[zeros], images.test[ones], images.test_labels[ones], images.shape
    )
    monkeypatch.setattr(datasets, "load", lambda data: easy)
    summary = Run(tmp_path, "--epochs", "10").summary
    assert summary["test_accuracy"] == 1.0
    assert summary["confusion"] == [[int(np.sum(easy.test_labels == 0)), 0], [0, int(np.sum(easy.test_labels == 1))]]
    assert (tmp_path / "mistakes.png").exists()


def test_cross_entropy_is_that_of_scipy() -> None:
    random = np.random.default_rng(0)
    z, labels = 5 * random.normal(size=(20, 10)), random.integers(0, 10, 20)
    expected = -special.log_softmax(z, axis=1)[np.arange(20), labels].mean()
    assert mean_loss(mg.Tensor(z), mg.Tensor(labels), "cross-entropy").item() == pytest.approx(expected, rel=1e-12)
    gradient = mg.grad(lambda z: mean_loss(z, mg.Tensor(labels), "cross-entropy"))(mg.Tensor(z)).data
    assert np.allclose(gradient, (special.softmax(z, axis=1) - np.eye(10)[labels]) / 20, atol=1e-15)


def test_the_quadratic_cost_is_that_of_the_book() -> None:
    random = np.random.default_rng(0)
    z, labels = 3 * random.normal(size=(20, 10)), random.integers(0, 10, 20)
    a, y = special.expit(z), np.eye(10)[labels]
    cost = mean_loss(mg.Tensor(z), mg.Tensor(labels), "quadratic").item()
    assert cost == pytest.approx(sum(np.linalg.norm(a[i] - y[i]) ** 2 for i in range(20)) / 40, rel=1e-12)
    gradient = mg.grad(lambda z: mean_loss(z, mg.Tensor(labels), "quadratic"))(mg.Tensor(z)).data
    assert np.allclose(gradient, (a - y) * a * (1 - a) / 20, atol=1e-15)


def test_a_step_is_that_of_the_book() -> None:
    """Its equations BP1 to BP4 for one minibatch, by hand, with a rate of 3."""
    with mg.random.use(mg.random.Generator(0)):
        model = Classifier(64, 10, RECIPES["nielsen"])
    images = datasets.load("digits")
    x, labels = images.train[:10].astype(float), images.train_labels[:10]
    w1, b1, w2, b2 = (tensor.data.astype(float) for tensor in model.parameters().values())
    w1, b1, w2, b2 = (w1, b1, w2, b2) if w1.ndim == 2 else (b1, w1, b2, w2)
    h = special.expit(x @ w1 + b1)
    a = special.expit(h @ w2 + b2)
    delta2 = (a - np.eye(10)[labels]) * a * (1 - a)
    delta1 = (delta2 @ w2.T) * h * (1 - h)
    wanted = {
        "layers.1.weight": w1 - 3 / 10 * x.T @ delta1,
        "layers.1.bias": b1 - 3 / 10 * delta1.sum(0),
        "layers.4.weight": w2 - 3 / 10 * h.T @ delta2,
        "layers.4.bias": b2 - 3 / 10 * delta2.sum(0),
    }
    step = descent(model, RECIPES["nielsen"], len(images.train))
    step(mean_loss(model(mg.Tensor(images.train[:10])), mg.Tensor(labels), "quadratic"))
    assert model.parameters().keys() == wanted.keys()
    for name, parameter in model.parameters().items():
        assert np.allclose(parameter.data, wanted[name], atol=2e-6), name


def test_how_weights_start() -> None:
    with mg.random.use(mg.random.Generator(0)):
        book, other = Classifier(784, 10, RECIPES["nielsen"]), Classifier(784, 10, RECIPES["paper"])
    first = book.tensors()["layers.1.weight"].data
    assert first.shape == (784, 30)
    assert first.std() == pytest.approx(1.0, abs=0.02)
    assert abs(first.mean()) < 0.03
    biases = np.concatenate([tensor.data for name, tensor in book.tensors().items() if name.endswith("bias")])
    assert biases.std() == pytest.approx(1.0, abs=0.3)
    assert other.tensors()["layers.1.weight"].data.var() == pytest.approx(2 / 784, rel=0.02)
    assert not any(tensor.data.any() for name, tensor in other.tensors().items() if name.endswith("bias"))


def test_the_learning_rate_falls_to_nothing() -> None:
    recipe = replace(RECIPES["digits"], epochs=2, batch_size=4)
    model = Classifier(3, 2, recipe)
    step = descent(model, recipe, 10)  # three minibatches an epoch
    rates = []
    for _ in range(7):
        step.set_rate()
        step(mean_loss(model(mg.zeros((1, 3), dtype="float32")), mg.Tensor([0]), recipe.cost))
        rates.append(step.optimizer.learning_rate.item() / recipe.learning_rate)
    assert rates == pytest.approx([(1 + np.cos(np.pi * t / 6)) / 2 for t in range(7)], abs=1e-7)


def test_weights_of_pixels_that_are_never_white_only_decay(run: Run) -> None:
    """Their gradients are 0, so each step multiplies them by 1 - ηλ."""
    recipe = RECIPES["digits"]
    weight = mg.io.load(run.folder / "weights.safetensors")["layers.1.weight"].data
    with mg.random.use(mg.random.Generator(0)):
        start = Classifier(64, 10, recipe).tensors()["layers.1.weight"].data
    images = datasets.load("digits")
    black = images.train[: -(len(images.train) // 6)].max(axis=0) == 0
    assert black.any()
    epoch = -(-1198 // recipe.batch_size)
    t = np.arange(run.summary["best_epoch"] * epoch) / (recipe.epochs * epoch)
    rates = recipe.learning_rate * (1 + np.cos(np.pi * t)) / 2
    assert np.allclose(weight[black], start[black] * np.prod(1 - rates * recipe.weight_decay), rtol=1e-4)
    assert not np.allclose(weight[black], start[black], rtol=0.1)


@pytest.mark.parametrize("name", RECIPES)
def test_every_gradient(name: str) -> None:
    report = classifier.check(RECIPES[name])
    assert report.verdict == "pass", report
    layers = RECIPES[name].layers
    assert report.entries == (9 * 6 + 6) + (layers - 1) * (6 * 6 + 6) + (6 * 3 + 3)


def test_a_judge() -> None:
    images = datasets.load("digits")
    with mg.random.use(mg.random.Generator(5)) as outside:
        before = outside.state.data.copy()
        judge = trained(images)
        assert np.array_equal(outside.state.data, before)
    assert not any(module.training for module in judge.modules())
    assert judge.accuracy(images.test, images.test_labels) > 0.97
    p = judge.probabilities(images.test)
    assert p.shape == (360, 10)
    assert np.allclose(p, special.softmax(judge.outputs(images.test).astype(float), axis=1), atol=1e-6)
    assert np.array_equal(p.argmax(axis=1), judge.labels(images.test))
    with mg.random.use(mg.random.Generator(6)):
        again = trained(images)
    for name, tensor in judge.tensors().items():
        assert np.array_equal(tensor.data, again.tensors()[name].data)
    other = trained(images, seed=1)
    assert not np.array_equal(other.outputs(images.test), judge.outputs(images.test))


@pytest.mark.parametrize("option", ["dropout", "drop_pixels"])
def test_a_probability_of_one_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match="are probabilities below 1"):
        replace(RECIPES["digits"], **{option: 1.0})


def test_layers_of_rectifiers_are_those_of_the_recipe() -> None:
    model = Classifier(784, 10, RECIPES["paper"])
    kinds = [type(layer) for layer in model]
    assert kinds == [nn.Dropout, *[nn.Linear, nn.ReLU, nn.Dropout] * 2, nn.Linear]
    rates = [layer.rate for layer in model if isinstance(layer, nn.Dropout)]
    assert rates == [0.2, 0.5, 0.5]
