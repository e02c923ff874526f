"""The generative adversarial network: the theorems of its page, its losses, Parzen's windows, and digits, all ten."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist, jensenshannon
from scipy.special import expit, logit
from scipy.stats import gaussian_kde, norm
from sklearn.neighbors import KernelDensity

import minigrad as mg
from minigrad import nn

pytest.importorskip("matplotlib")
pytest.importorskip("rich")
pytest.importorskip("safetensors")

from matplotlib import image

from models import classifier, datasets, gan
from models.gan import RECIPES, Discriminator, Generator, discriminator_loss, generator_loss, main, parzen

RNG = np.random.default_rng(0)
KINDS = ("minimax", "non-saturating")


def best_logits(counts: dict[str, list[int]]) -> tuple[np.ndarray, float]:
    """The discriminator of a few points, one logit each, that minimises its loss; and V there.

    Args:
        counts: how often each point is among "real" and "drawn".
    """
    a = mg.Tensor(np.zeros(len(counts["real"])), requires_grad=True)
    rows = {name: np.repeat(np.arange(len(some)), some) for name, some in counts.items()}
    optimizer = mg.optim.SGD([a], lr=4.0)
    for _ in range(2000):
        optimizer.zero_grad()
        loss = discriminator_loss(a[rows["real"]], a[rows["drawn"]])
        loss.backward()
        optimizer.step()
    return a.data, -loss.item()


def test_the_best_discriminator_is_p_over_p_plus_q_and_its_value_the_divergence() -> None:
    counts = {"real": [5, 1, 3, 1], "drawn": [1, 4, 3, 2]}
    p, q = (np.array(some) / 10 for some in counts.values())
    a, value = best_logits(counts)
    assert np.allclose(expit(a), p / (p + q), atol=1e-9)
    assert np.allclose(a, np.log(p) - np.log(q), atol=1e-8)
    assert value == pytest.approx(-np.log(4) + 2 * jensenshannon(p, q) ** 2, abs=1e-12)


def test_it_is_minus_log_4_where_images_are_drawn_as_they_are() -> None:
    a, value = best_logits({"real": [5, 1, 3, 1], "drawn": [5, 1, 3, 1]})
    assert np.allclose(expit(a), 0.5)
    assert value == pytest.approx(-np.log(4), abs=1e-12)


def test_of_two_normal_densities_it_is_linear() -> None:
    """log N(x; 1, 1) - log N(x; 0, 1) = x - 1/2: the quantiles of both stand for draws."""
    quantiles = norm.ppf((np.arange(4000) + 0.5) / 4000)[:, None]
    layer = nn.Linear(1, 1, dtype=np.float64)
    optimizer = mg.optim.SGD(layer, lr=1.0)
    for _ in range(500):
        optimizer.zero_grad()
        discriminator_loss(layer(mg.Tensor(quantiles + 1)), layer(mg.Tensor(quantiles))).backward()
        optimizer.step()
    assert layer.weight.item() == pytest.approx(1, abs=2e-3)
    assert layer.bias.item() == pytest.approx(-0.5, abs=2e-3)


def test_the_losses_are_those_of_the_paper() -> None:
    real, drawn = RNG.uniform(0.01, 0.99, (2, 7, 1))  # what D says
    a, b = mg.Tensor(logit(real)), mg.Tensor(logit(drawn))
    value = np.log(real).mean() + np.log(1 - drawn).mean()
    assert discriminator_loss(a, b).item() == pytest.approx(-value, rel=1e-12)
    assert generator_loss(b, "minimax").item() == pytest.approx(np.log(1 - drawn).mean(), rel=1e-12)
    assert generator_loss(b, "non-saturating").item() == pytest.approx(-np.log(drawn).mean(), rel=1e-12)


def test_their_slopes_are_those_of_the_page() -> None:
    a = np.linspace(-40, 40, 9)
    minimax, other = (mg.grad(generator_loss)(mg.Tensor(a), kind).data * len(a) for kind in KINDS)
    assert np.allclose(minimax, -expit(a), rtol=1e-12, atol=0)
    assert np.allclose(other, -expit(-a), rtol=1e-12, atol=0)
    assert abs(minimax[0]) < 1e-17  # saturated: D is sure that the image is drawn
    assert other[0] == pytest.approx(-1)
    real, drawn = mg.grad(discriminator_loss, (0, 1))(mg.Tensor(a), mg.Tensor(a))
    assert np.allclose(real.data * len(a), -expit(-a), rtol=1e-12, atol=0)
    assert np.allclose(drawn.data * len(a), expit(a), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_discriminator_supplies_the_gradient_and_gets_none(kind: str) -> None:
    """∂L/∂x of a network without hidden layers, a = x·w + b, by hand; and its parameters are left alone."""
    judge = Discriminator(6, 4).astype(np.float64)
    x = mg.Tensor(RNG.uniform(size=(5, 6)), requires_grad=True)
    generator_loss(gan.constant(judge)(x), kind).backward()
    assert all(parameter.grad is None for parameter in judge.parameters().values())
    weights = [layer for layer in judge.layers if isinstance(layer, nn.Linear)]
    h, slopes = x.data, []
    for layer in weights[:-1]:
        h = h @ layer.weight.data + layer.bias.data
        slopes.append(np.where(h > 0, 1, 0.2))
        h = np.where(h > 0, 1, 0.2) * h
    a = h @ weights[-1].weight.data + weights[-1].bias.data
    assert np.allclose(judge(x.detach()).data, a)
    g = (-expit(a) if kind == "minimax" else -expit(-a)) / 5
    for layer, slope in zip(weights[:0:-1], slopes[::-1], strict=True):
        g = g @ layer.weight.data.T * slope
    assert np.allclose(x.grad.data, g @ weights[0].weight.data.T, rtol=1e-12)


def test_the_best_ones_gradient_leads_from_where_g_draws_to_where_real_images_are() -> None:
    """∇a* = ∇log p - ∇log q, in the game's value: of a generator that moves a bell curve, towards the real one."""
    quantiles = mg.Tensor(norm.ppf((np.arange(4000) + 0.5) / 4000))

    def loss(shift: mg.Tensor, now: float, kind: str) -> mg.Tensor:
        x = quantiles + shift
        return generator_loss(0.5 * mg.square(x - now) - 0.5 * mg.square(x - 2.0), kind)  # p = N(2, 1), q = N(now, 1)

    for kind in KINDS:
        slopes = [mg.grad(loss)(mg.Tensor(now), now, kind).item() for now in (-3.0, 1.0, 2.0, 3.0)]
        assert slopes[0] < 0
        assert slopes[1] < 0
        assert slopes[2] == pytest.approx(0, abs=1e-12)
        assert slopes[3] > 0
    saturated, not_so = (mg.grad(loss)(mg.Tensor(-3.0), -3.0, kind).item() for kind in KINDS)
    assert abs(saturated) < 0.05
    assert not_so == pytest.approx(-5, abs=0.1)  # ∇a* itself


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-7)])
def test_parzen_is_the_kernel_density_of_scikit_learn(dtype: str, tolerance: float) -> None:
    centres, points = (RNG.normal(size=(n, 3)).astype(dtype) for n in (300, 1100))
    found = parzen(points, centres, [0.3, 0.7])
    assert found.shape == (2, 1100)
    for width, row in zip((0.3, 0.7), found, strict=True):
        peer = KernelDensity(bandwidth=width).fit(centres.astype(float))
        assert np.allclose(row, peer.score_samples(points.astype(float)), rtol=tolerance)


def test_parzen_is_the_kernel_density_of_scipy() -> None:
    """SciPy's window is as wide as its centres scatter, times a factor."""
    centres, points = RNG.normal(size=300), RNG.normal(size=50)
    peer = gaussian_kde(centres, bw_method=0.3 / centres.std(ddof=1))
    assert np.allclose(parzen(points[:, None], centres[:, None], [0.3])[0], peer.logpdf(points), rtol=1e-9)


def test_parzen_of_images_far_away_is_finite_and_right() -> None:
    found = parzen(np.full((2, 784), 1.0, np.float32), np.zeros((3, 784), np.float32), [0.1])
    assert np.allclose(found, -784 * (50 + np.log(0.1 * np.sqrt(2 * np.pi))), rtol=1e-6)


def test_the_images_held_out_choose_the_width() -> None:
    """They alone: here the others lie nearer to the centres, and would have a narrower one."""
    images, held_out, centres = (RNG.normal(scale=s, size=(n, 8)) for s, n in ((0.1, 1500), (0.2, 700), (0.1, 500)))
    found = gan.likelihood(images, held_out, centres)
    means = {s / 100: parzen(held_out, centres, [s / 100]).mean() for s in range(10, 31)}
    assert found["width"] == max(means, key=lambda s: means[s])
    log_p = parzen(images, centres, [found["width"]])
    assert found["width"] > 1.2 * gan.likelihood(images, images, centres)["width"]
    assert found["nats"] == pytest.approx(log_p.mean())
    assert found["standard_error"] == pytest.approx(log_p.std() / np.sqrt(1500))


def test_ink_spreads_as_in_scipy() -> None:
    """A Gaussian filter of the logits, with nothing beyond the border."""
    generator = Generator(2, 3, (6, 9), 1.3).eval()
    codes = mg.Tensor(RNG.normal(size=(4, 2)).astype(np.float32))
    logits = generator.layers(codes).data.reshape(4, 6, 9)
    peer, whole = (
        gaussian_filter(x, (0, 1.3, 1.3), mode="constant", truncate=20) for x in (logits, np.ones((1, 6, 9)))
    )
    assert np.allclose(generator(codes).data, expit(peer / whole).reshape(4, 54), atol=1e-5)
    assert np.allclose(gan.window(5, 0), np.eye(5))


def test_images_are_drawn_on_their_own_whatever_their_companions() -> None:
    generator = Generator(2, 3, (4, 4), 0.5)
    codes = RNG.normal(size=(2500, 2)).astype(np.float32)
    generator(mg.Tensor(codes))  # moves the averages that stand for those of a minibatch
    drawn = generator.draw(codes)
    assert np.allclose(drawn[7:8], generator.draw(codes[7:8]), atol=1e-6)
    assert np.allclose(drawn[-1:], generator.draw(codes[-1:]), atol=1e-6)


def test_noise_average_way_and_neighbours() -> None:
    x = mg.Tensor(np.full((400, 500), 0.5, np.float32))
    with mg.random.use(mg.random.Generator(0)):
        noise = gan.blurred(x, 0.3).data - 0.5
    assert noise.dtype == np.float32
    assert noise.mean() == pytest.approx(0, abs=0.003)
    assert noise.std() == pytest.approx(0.3, abs=0.003)

    start, end = nn.Linear(3, 2), nn.Linear(3, 2)
    expected = 0.9**5 * start.weight.data + (1 - 0.9**5) * end.weight.data
    for _ in range(5):
        gan.follow(start, end, mg.Tensor(0.9))
    assert np.allclose(start.weight.data, expected, atol=1e-6)

    starts, ends = RNG.normal(size=(2, 20_000))
    ways = gan.way(starts, ends, 9)
    assert np.array_equal(ways[0], starts)
    assert np.allclose(ways[-1], ends)
    assert np.allclose(ways.std(axis=1), 1, atol=0.02)
    steps = np.linalg.norm(np.diff(ways, axis=0), axis=1)
    assert np.allclose(steps, steps[0], rtol=0.02)

    samples, train = RNG.uniform(size=(20, 5)), RNG.uniform(size=(300, 5))
    assert np.array_equal(gan.nearest(samples, train), train[cdist(samples, train).argmin(axis=1)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_is_right(kind: Any) -> None:
    assert gan.check(replace(RECIPES["digits"], loss=kind))


class Trained:
    """A run of the command: its folder and its summary."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder
        assert main([*options, "--out", str(folder)]) == 0
        self.summary = json.loads((folder / "summary.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("gan"), "--epochs", "100")


def test_all_ten_digits_are_drawn(run: Trained) -> None:
    share, summary = np.array(run.summary["share_of_each_label"]), run.summary
    assert share.shape == (10,)
    assert share.sum() == pytest.approx(1)
    assert summary["smallest_share"] == share.min() > 0.03
    assert summary["judge_test_accuracy"] > 0.95
    assert summary["sizes"] == "10-64-128-64 against 64-128-64-1"


def test_its_samples_are_better_windows_than_draws_from_the_nearest_normal_density(run: Trained) -> None:
    images = datasets.load("digits")
    train, held_out = images.train[:-239].astype(float), images.train[-239:].astype(float)
    normal = np.random.default_rng(0).multivariate_normal(train.mean(0), np.cov(train.T), 2000).clip(0, 1)
    found = run.summary["parzen_log_likelihood"]
    assert found["samples"]["nats"] > gan.likelihood(images.test.astype(float), held_out, normal)["nats"] + 3
    assert found["training images"] == pytest.approx(
        gan.likelihood(images.test.astype(float), held_out, train), rel=1e-4
    )


def test_the_weights_are_those_of_the_summary_and_do_not_copy(run: Trained) -> None:
    """Other draws than the command's show the same digits as often; and no sample is a training image."""
    average = Generator(10, 64, (8, 8), RECIPES["digits"].spread)
    weights = mg.io.load(run.folder / "weights.safetensors")
    for name, tensor in average.tensors().items():
        tensor.assign(weights[f"average.{name}"].data)
    samples = average.draw(RNG.normal(size=(2000, 10)).astype(np.float32))
    images = datasets.load("digits")
    judge = classifier.trained(images)
    share = np.bincount(judge.labels(samples), minlength=10) / 2000
    assert np.abs(share - run.summary["share_of_each_label"]).max() < 0.04
    distances = np.linalg.norm(samples - gan.nearest(samples, images.train), axis=1)
    assert np.quantile(distances, 0.01) > 0.3


def test_the_pictures_are_worth_a_look(run: Trained) -> None:
    written = ["losses", "accuracy", "training", "samples", "shares", "nearest", "interpolation"]
    assert {f"{name}.png" for name in written} <= set(run.summary["files"])
    for name in written:
        pixels = image.imread(run.folder / f"{name}.png")
        assert min(pixels.shape[:2]) > 200
        assert pixels[..., :3].std() > 0.05  # something is drawn
    curves = run.summary["curves"]
    assert set(curves) == {"discriminator", "generator", "accuracy"}
    assert 1.0 < curves["discriminator"][-1] < np.log(4) + 0.02
    assert 0.5 < curves["accuracy"][-1] < 0.75


def test_the_minimax_loss_saturates_where_the_other_one_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise the discriminator soon wins: then log(1 - D) is near 0, its largest value, and so is its slope."""
    monkeypatch.setattr(gan, "results", lambda *_: {})  # they take longer than these two epochs
    for kind in KINDS:
        options = ["--epochs", "2", "--noise", "0", "--loss", kind]
        curves = Trained(tmp_path / kind, *options).summary["curves"]
        assert curves["accuracy"][-1] > 0.9
        slope = 1 - np.exp(curves["generator"][-1] * (1 if kind == "minimax" else -1))  # D, or 1 - D, about
        assert slope < 0.3 if kind == "minimax" else slope > 0.7
