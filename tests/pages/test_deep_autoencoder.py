"""The deep autoencoder: far below PCA's error, its formulas against NumPy, and why it can be trained at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, trees
from models import datasets, deep_autoencoder
from models.deep_autoencoder import RECIPES, DeepAutoencoder, gradient_sizes, interpolations, main, mean_loss, sizes

image = pytest.importorskip("matplotlib.image")

Array = np.ndarray[Any, Any]


class Run:
    """A finished run of the command."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder
        self.code = main([*options, "--out", str(folder)])
        self.summary: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("short"), "--epochs", "20")


def test_it_is_far_below_pca(short: Run) -> None:
    errors = short.summary["squared_error"]
    assert short.code == 0
    assert errors["PCA"] == pytest.approx(1.578, abs=1e-3)
    assert errors["deep autoencoder"] < 0.65 * errors["PCA"]
    assert short.summary["sizes"] == "64-200-100-50-8-50-100-200-64"


def test_the_curves_and_the_weights_are_those_of_the_summary(short: Run) -> None:
    curves = short.summary["curves"]
    assert sorted(curves) == ["cross-entropy", "squared error", "squared error, test"]
    assert all(len(curve) == 20 for curve in curves.values())
    error = short.summary["squared_error"]["deep autoencoder"]
    assert curves["squared error, test"][-1] == pytest.approx(error, rel=1e-9)
    assert curves["squared error"][-1] < error < 2 * curves["squared error"][-1]
    weights = {name: w.data.astype(float) for name, w in mg.io.load(short.folder / "weights.safetensors").items()}
    x = datasets.digits().test.astype(float)
    _, outputs = forward(weights, x)
    assert np.mean(np.sum((outputs[-1] - x) ** 2, axis=1)) == pytest.approx(error, rel=1e-5)


def test_gradients_reach_the_first_layer_where_those_of_logistic_units_vanish(short: Run) -> None:
    sizes = short.summary["fresh_gradients"]
    assert len(sizes["ELU"]) == len(sizes["logistic"]) == 8
    assert max(sizes["ELU"]) < 10 * min(sizes["ELU"])
    assert sizes["logistic"][0] < 1e-3 * sizes["logistic"][-1]


def test_pictures(short: Run) -> None:
    for name in ("curves", "gradients", "codes", "reconstructions", "between"):
        pixels = image.imread(short.folder / f"{name}.png")
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 900
        assert pixels.std() > 0.05


def test_a_code_of_one_number_and_one_as_large_as_the_image(tmp_path: Path) -> None:
    one, all_ = (Run(tmp_path / code, "--code", code, "--epochs", "2") for code in ("1", "70"))
    assert one.code == all_.code == 0
    assert not (tmp_path / "1" / "codes.png").exists()
    assert one.summary["squared_error"]["deep autoencoder"] > all_.summary["squared_error"]["deep autoencoder"]
    assert all_.summary["squared_error"]["PCA"] < 1e-20


def test_the_preset_is_the_published_network() -> None:
    model = DeepAutoencoder(sizes(784, RECIPES["paper"]))
    shapes = [
        layer.weight.shape for part in (model.encoder, model.decoder) for layer in part if isinstance(layer, nn.Linear)
    ]
    assert shapes[:4] == [(784, 1000), (1000, 500), (500, 250), (250, 30)]
    assert shapes[4:] == [(30, 250), (250, 500), (500, 1000), (1000, 784)]


def names(weights: Any) -> list[str]:
    """`encoder.layers.0` and so on, in the order in which they are applied."""
    layers = {name.rpartition(".")[0] for name in weights}
    return sorted(layers, key=lambda name: (name.startswith("decoder"), int(name.rpartition(".")[2])))


def phi(z: Array) -> Array:
    return np.where(z > 0, z, np.exp(z) - 1)


def forward(weights: dict[str, Array], x: Array) -> tuple[list[Array], list[Array]]:
    """z_1 ... z_8 and a_0 ... a_8 by the formulas of the page."""
    inputs, outputs = [], [x]
    for number, name in enumerate(names(weights), 1):
        z = outputs[-1] @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
        inputs.append(z)
        outputs.append(1 / (1 + np.exp(-z)) if number == 8 else z if number == 4 else phi(z))
    return inputs, outputs


def small() -> tuple[DeepAutoencoder, dict[str, Array], Array]:
    """A model of six pixels in float64, its weights and biases (random, too), and images."""
    random = np.random.default_rng(0)
    model = DeepAutoencoder([6, 8, 5, 4, 3]).astype("float64")
    for tensor in model.parameters().values():
        tensor.assign(random.normal(size=tensor.shape) * 0.4)
    return model, {name: p.data for name, p in trees.named_leaves(model)}, random.uniform(size=(7, 6))


def test_the_network_and_the_loss_are_the_formulas_of_the_page() -> None:
    model, weights, x = small()
    _, outputs = forward(weights, x)
    assert np.allclose(model.reconstruct(x), outputs[-1], rtol=1e-12)
    assert np.allclose(model.encode(x), outputs[4], rtol=1e-12)
    assert np.allclose(model.decode(outputs[4]), outputs[-1], rtol=1e-12)
    direct = -np.sum(x * np.log(outputs[-1]) + (1 - x) * np.log(1 - outputs[-1])) / len(x)
    assert mean_loss(model(mg.Tensor(x)), mg.Tensor(x)).item() == pytest.approx(direct, rel=1e-12)


def test_the_gradients_are_those_of_the_recursion() -> None:
    model, weights, x = small()
    z, a = forward(weights, x)
    gradients = mg.grad(lambda model: mean_loss(model(mg.Tensor(x)), mg.Tensor(x)))(model)
    found = {name: g.data for name, g in trees.named_leaves(gradients)}
    delta = (a[8] - x) / len(x)
    for number, name in reversed(list(enumerate(names(weights), 1))):
        assert np.allclose(found[f"{name}.weight"], a[number - 1].T @ delta, rtol=1e-9, atol=1e-14)
        assert np.allclose(found[f"{name}.bias"], delta.sum(axis=0), rtol=1e-9, atol=1e-14)
        if number > 1:
            below = z[number - 2]
            slope = np.where((below > 0) | (number - 1 == 4), 1.0, np.exp(below))
            delta = (delta @ weights[f"{name}.weight"].T) * slope


def test_gradient_sizes_are_root_mean_squares() -> None:
    model, _, x = small()
    mean_loss(model(mg.Tensor(x)), mg.Tensor(x)).backward()
    of = [layer.weight.grad for layer in (*model.encoder, *model.decoder) if isinstance(layer, nn.Linear)]
    expected = [np.linalg.norm(g.data) / np.sqrt(g.size) for g in of if g is not None]
    assert gradient_sizes(model, mg.Tensor(x)) == pytest.approx(expected, rel=1e-12)


def test_interpolations_go_straight_from_code_to_code() -> None:
    model = DeepAutoencoder([6, 8, 5, 4, 3])
    a, b = np.random.default_rng(0).uniform(size=(2, 6)).astype(np.float32)
    images = interpolations(model, a, b, 5)
    codes = model.encode(np.stack([a, b]))
    assert images.shape == (5, 6)
    assert np.allclose(images[[0, 4]], model.reconstruct(np.stack([a, b])), atol=1e-6)
    assert np.allclose(images[1:2], model.decode(0.75 * codes[:1] + 0.25 * codes[1:]), atol=1e-6)


def test_signals_keep_their_size_in_the_fresh_network() -> None:
    x = np.random.default_rng(0).normal(size=(200, 400)).astype(np.float32)
    with mg.random.use(mg.random.Generator(0)):
        model = DeepAutoencoder([400, 400, 400, 400, 400])
    z = mg.Tensor(x)
    for layer in model.encoder:
        z = layer(z)
        if isinstance(layer, nn.Linear):
            assert 0.5 < np.sqrt(np.mean(z.data**2)) < 2.0


@pytest.mark.parametrize("name", RECIPES)
def test_every_gradient(name: str) -> None:
    report = deep_autoencoder.check(RECIPES[name])
    assert report.verdict == "pass"
    assert report.entries == 2 * (9 * 8 + 8 * 4 + 4 * 2 + 2 * 2) + (8 + 4 + 2 + 2) + (2 + 4 + 8 + 9)
