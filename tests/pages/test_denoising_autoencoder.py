"""The denoiser: it beats PCA and every affine map, learns the posterior mean, and what it is compared with is right."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from models import datasets, denoising_autoencoder
from models.denoising_autoencoder import (
    NOISES,
    RECIPES,
    Denoiser,
    best_affine,
    main,
    mean_loss,
    moments,
    networks,
    projection,
    spoilt,
)
from models.pca import error_per_image
from models.training import Descent

image = pytest.importorskip("matplotlib.image")

Array = np.ndarray[Any, Any]
DIGITS = RECIPES["digits"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["--epochs", "40", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text("utf-8"))


@pytest.mark.parametrize("noise", NOISES)
def test_it_beats_pca_and_every_affine_map(summary: dict[str, Any], noise: str) -> None:
    errors = summary[noise]["squared_error"]
    assert errors["denoiser"] < 0.9 * errors["best affine"]
    assert errors["best affine"] < 0.8 * errors["PCA"]
    assert errors["PCA"] < 0.6 * errors["noisy"]
    expected = 64 * 0.25 if noise == "gaussian" else 0.5 * np.mean(np.sum(datasets.load("digits").test ** 2, axis=1))
    assert errors["noisy"] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("noise", NOISES)
def test_a_network_is_best_at_the_noise_it_was_trained_with(summary: dict[str, Any], noise: str) -> None:
    others = summary[noise]["squared_error_of_networks_trained_with"]
    assert sorted([*others, noise]) == ["gaussian", "masking", "none"]
    assert min(others.values()) > 1.2 * summary[noise]["squared_error"]["denoiser"]
    assert others["none"] > summary[noise]["squared_error"]["PCA"]  # it copies noise
    assert summary["curves"]["none"][-1] < 0.1 * min(summary["curves"][noise][-1] for noise in NOISES)


def test_the_weights_do_as_well_on_other_noise(run: Path, summary: dict[str, Any]) -> None:
    models = networks(64, DIGITS)
    mg.io.load_into(models, run / "weights.safetensors")
    test = datasets.load("digits").test
    for noise in NOISES:
        error = summary[noise]["squared_error"]["denoiser"]
        assert summary["curves"][f"{noise}, test"][-1] == pytest.approx(error, rel=1e-5)
        with mg.random.use(mg.random.Generator(9)):
            other = spoilt(mg.Tensor(test), noise, DIGITS).data
        assert error_per_image(test, models[noise].denoise(other)) == pytest.approx(error, rel=0.05)


def test_the_pictures_are_there(run: Path) -> None:
    names = ["curves", "gaussian", "masking", "filters_gaussian", "filters_masking", "filters_none"]
    for name in names:
        pixels = image.imread(run / f"{name}.png")
        assert min(pixels.shape[:2]) > 300
        assert pixels.std() > 0.05
    assert len(list(run.glob("*.png"))) == len(names)


def test_noise() -> None:
    x = mg.Tensor(np.linspace(0.1, 1, 40_000, dtype=np.float32).reshape(200, 200))
    recipe = replace(DIGITS, sigma=0.3, fraction=0.2)
    with mg.random.use(mg.random.Generator(0)):
        gaussian, again = (spoilt(x, "gaussian", recipe).data for _ in range(2))
        masked, another = (spoilt(x, "masking", recipe).data for _ in range(2))
        assert spoilt(x, "none", recipe) is x
    noise = gaussian - x.data
    assert abs(noise.mean()) < 0.006
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02
    assert gaussian.min() < -0.2  # not clipped
    assert gaussian.max() > 1.2
    assert np.mean(masked == 0) == pytest.approx(0.2, abs=0.01)
    assert np.array_equal(masked[masked != 0], x.data[masked != 0])
    assert not np.array_equal(gaussian, again)
    assert not np.array_equal(masked, another)
    assert {array.dtype for array in (gaussian, masked)} == {np.dtype(np.float32)}


def test_the_loss_is_the_formula_of_the_page() -> None:
    random = np.random.default_rng(0)
    model = Denoiser(6, 9).astype("float64")
    w1, b1, w2, b2 = (tensor.data for tensor in model.tensors().values())
    x, noisy = random.uniform(size=(5, 6)), random.normal(size=(5, 6))
    r = 1 / (1 + np.exp(-(np.maximum(noisy @ w1 + b1, 0) @ w2 + b2)))
    assert np.allclose(model.denoise(noisy), r, rtol=1e-12)
    loss = mean_loss(model(mg.Tensor(noisy)), mg.Tensor(x)).item()
    assert loss == pytest.approx(np.mean(np.linalg.norm(r - x, axis=1) ** 2), rel=1e-12)


def test_it_learns_the_posterior_mean() -> None:
    """Of three images, equally likely: E[x | x̃] weighs each by its normal density around x̃."""
    images = np.array([[0.9, 0.1, 0.1, 0.8], [0.1, 0.9, 0.2, 0.7], [0.5, 0.4, 0.9, 0.1]], np.float32)
    recipe = replace(DIGITS, sigma=0.4)
    with mg.random.use(mg.random.Generator(0)):
        model = Denoiser(4, 64)
        descent = Descent(mg.optim.Adam(model, lr=0.01), mg.optim.schedules.cosine(0.01, 1500))
        x = mg.Tensor(np.repeat(images, 100, axis=0))

        @mg.compile
        def step() -> None:
            descent(mean_loss(model(spoilt(x, "gaussian", recipe)), x))

        for _ in range(1500):
            descent.set_rate()
            step()
        noisy = spoilt(x, "gaussian", recipe).data
    weights = np.exp(-((noisy[:, None] - images) ** 2).sum(-1) / (2 * 0.4**2))
    wanted = weights / weights.sum(1, keepdims=True) @ images
    found = model.denoise(noisy)
    assert error_per_image(wanted, found) < 0.02 * error_per_image(x.data, found)
    assert error_per_image(x.data, found) == pytest.approx(error_per_image(x.data, wanted), rel=0.03)


def every_noisy_copy(images: Array, noise: str) -> tuple[Array, Array, Array]:
    """Images, noisy copies, and the probability of each.

    Gaussian noise is replaced by ±σ: an affine map's error depends on nothing but means and covariances.
    """
    clean, noisy, chances = [], [], []
    for x, on in product(images, product([0, 1], repeat=images.shape[1])):
        clean.append(x)
        noisy.append(x + 0.3 * (2 * np.array(on) - 1) if noise == "gaussian" else x * np.array(on))
        keep = 0.5 if noise == "gaussian" else 1 - 0.2
        chances.append(np.prod([keep if o else 1 - keep for o in on]))
    return np.array(clean), np.array(noisy), np.array(chances) / len(images)


@pytest.mark.parametrize("noise", NOISES)
def test_no_affine_map_is_better(noise: str) -> None:
    """Against a weighted regression on everything that can happen; one pixel is always black."""
    images = np.random.default_rng(0).uniform(size=(7, 4)) * [1, 1, 1, 0]
    recipe = replace(DIGITS, sigma=0.3, fraction=0.2)
    clean, noisy, chances = every_noisy_copy(images, noise)
    root = np.sqrt(chances)[:, None]
    design = np.concatenate([noisy, np.ones((len(noisy), 1))], axis=1)
    regression = np.linalg.lstsq(root * design, root * clean)[0]
    assert np.allclose(best_affine(images, noise, recipe)(noisy), design @ regression, atol=1e-10)
    a, n = moments(images, noise, recipe)
    assert np.allclose(chances @ (noisy - a * clean), 0, atol=1e-12)
    assert np.allclose(chances @ (noisy - a * clean) ** 2, n, atol=1e-12)


def test_pca_projects_on_the_best_number_of_components() -> None:
    from sklearn.decomposition import PCA

    images = datasets.load("digits").holding_out(200)
    with mg.random.use(mg.random.Generator(0)):
        noisy = spoilt(mg.Tensor(images.test), "masking", DIGITS).data
    found, k = projection(images.train, images.test, noisy, 0.5)
    errors = {}
    for components in range(1, 65):
        peer = PCA(components, svd_solver="full").fit(images.train.astype(float))
        errors[components] = error_per_image(images.test, peer.inverse_transform(peer.transform(noisy / 0.5)))
    assert k == min(errors, key=lambda components: errors[components])
    assert 1 < k < 20
    assert error_per_image(images.test, found(noisy)) == pytest.approx(errors[k], rel=1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_every_gradient(name: str) -> None:
    report = denoising_autoencoder.check(RECIPES[name])
    assert report.verdict == "pass", report
    assert report.entries == 3 * (9 * 12 + 12 + 12 * 9 + 9)


def test_a_fraction_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="below 1"):
        replace(DIGITS, fraction=1.0)
