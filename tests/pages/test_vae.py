"""The variational autoencoder: its bounds against integrals of SciPy, its command from end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import binom

import minigrad as mg
from minigrad import testing
from models import datasets, vae
from models.autoencoder import neighbours_agree
from models.pca import principal_components
from models.vae import (
    BLOCK,
    RECIPES,
    VAE,
    binarised,
    importance_bound,
    interpolation,
    main,
    negative_elbo,
    quantile_grid,
)

image = pytest.importorskip("matplotlib.image")

Array = np.ndarray[Any, Any]

TINY = replace(RECIPES["digits"], layers=1, hidden=5, activation="Tanh", trials=1)
PIXELS = np.array([1.0, 0.0, 0.0, 1.0, 1.0])


class Oracle:
    """A small VAE, and what it says about one image, written out again with NumPy and SciPy."""

    def __init__(self, code: int = 1, trials: int = 1, x: Array = PIXELS):
        self.model = VAE(len(x), code, replace(TINY, trials=trials)).astype(np.float64)
        rng = np.random.default_rng(0)
        for name, tensor in self.model.parameters().items():
            tensor.assign(rng.normal(size=tensor.shape) * (0.5 if name.startswith("encoder") else 1.0))
        self.n, self.x = trials, x
        h = self.layers("encoder", x)
        self.mean, self.std = h[:code], np.exp(h[code:] / 2)

    def layers(self, part: str, h: Array) -> Array:
        p = {name: tensor.data for name, tensor in self.model.parameters().items()}
        h = np.tanh(h @ p[f"{part}.layers.0.weight"] + p[f"{part}.layers.0.bias"])
        return h @ p[f"{part}.layers.2.weight"] + p[f"{part}.layers.2.bias"]

    def log_p_x_given(self, z: Array) -> Array:
        white = 1 / (1 + np.exp(-self.layers("decoder", z)))
        return np.sum(self.n * (self.x * np.log(white) + (1 - self.x) * np.log(1 - white)), axis=-1)

    def log_p(self, z: Array) -> Array:
        return np.sum(stats.norm.logpdf(z), axis=-1)

    def log_q(self, z: Array) -> Array:
        return np.sum(stats.norm.logpdf(z, self.mean, self.std), axis=-1)

    def log_w(self, z: Array) -> Array:
        return self.log_p_x_given(z) + self.log_p(z) - self.log_q(z)

    def integral(self, f: Callable[[Array], Array]) -> float:
        """Of f over all codes, by the trapezoid rule: very exact for smooth functions that vanish at the border."""
        line, step = np.linspace(-12, 12, 501, retstep=True)
        k = len(self.mean)
        codes = np.stack(np.meshgrid(*[line] * k), axis=-1).reshape(-1, k)
        return float(np.sum(f(codes)) * step**k)

    def log_likelihood(self) -> float:
        return float(np.log(self.integral(lambda z: np.exp(self.log_p_x_given(z) + self.log_p(z)))))

    def elbo(self) -> float:
        """log p(x) - KL(q(z|x) ‖ p(z|x)), the second formula of the page."""
        total = self.log_likelihood()
        return total - self.integral(lambda z: np.exp(self.log_q(z)) * (total - self.log_w(z)))


ORACLES: dict[str, dict[str, Any]] = {
    "one number": {},
    "two numbers": {"code": 2, "x": PIXELS[:3]},
    "binomial pixels": {"trials": 4, "x": PIXELS * 0.5 + 0.25},
}


@pytest.fixture(params=ORACLES)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return Oracle(**ORACLES[request.param])


def test_the_elbo_is_the_log_likelihood_less_a_divergence(oracle: Oracle) -> None:
    rows = np.tile(oracle.x, (20_000, 1))
    with mg.random.use(mg.random.Generator(0)), mg.no_grad():
        losses = [negative_elbo(oracle.model, mg.Tensor(rows)).item() for _ in range(20)]
    error = np.std(losses) / np.sqrt(len(losses))
    assert error < 0.02
    assert -np.mean(losses) == pytest.approx(oracle.elbo(), abs=4 * error)
    assert oracle.elbo() < oracle.log_likelihood() - 20 * error  # it is a divergence that can be seen


def test_the_integrals_of_this_test(oracle: Oracle) -> None:
    assert oracle.integral(lambda z: np.exp(oracle.log_p(z))) == pytest.approx(1, abs=1e-9)
    assert oracle.integral(lambda z: np.exp(oracle.log_q(z))) == pytest.approx(1, abs=1e-9)
    one = Oracle()
    expected, _ = integrate.quad(lambda z: np.exp(one.log_p_x_given(np.array([z])) + stats.norm.logpdf(z)), -9, 9)
    assert one.log_likelihood() == pytest.approx(np.log(expected), abs=1e-8)


def test_the_elbo_is_reconstruction_less_divergence_from_the_prior(oracle: Oracle) -> None:
    first = oracle.integral(lambda z: np.exp(oracle.log_q(z)) * oracle.log_p_x_given(z))
    kl = oracle.integral(lambda z: np.exp(oracle.log_q(z)) * (oracle.log_q(z) - oracle.log_p(z)))
    mean, log_variance = oracle.model.encode(mg.Tensor(oracle.x[None]))
    assert mg.sum(mg.gaussian_kl(mean, log_variance)).item() == pytest.approx(kl, rel=1e-5)
    assert first - kl == pytest.approx(oracle.elbo(), rel=1e-5)


def test_the_bound_of_many_samples_is_the_log_likelihood(oracle: Oracle) -> None:
    with mg.random.use(mg.random.Generator(0)), mg.no_grad():
        bound = importance_bound(oracle.model, mg.Tensor(oracle.x[None]), 200 * BLOCK + 321)
    assert bound == pytest.approx(oracle.log_likelihood(), abs=0.02)


@pytest.mark.parametrize("k", [1, 2])
def test_the_bound_of_few_samples_is_its_integral(k: int) -> None:
    oracle = Oracle()
    noise, weight = np.polynomial.hermite_e.hermegauss(120)
    weight = weight / weight.sum()
    log_w = np.array([oracle.log_w(oracle.mean + oracle.std * e) for e in noise])
    two = np.logaddexp(log_w[:, None], log_w) - np.log(2)
    expected = weight @ (log_w if k == 1 else two @ weight)
    x = mg.Tensor(oracle.x[None])
    with mg.random.use(mg.random.Generator(0)), mg.no_grad():
        bounds = [importance_bound(oracle.model, x, k) for _ in range(4000)]
    error = np.std(bounds) / np.sqrt(len(bounds))
    assert np.mean(bounds) == pytest.approx(expected, abs=4 * error)
    assert k == 2 or expected == pytest.approx(oracle.elbo(), abs=1e-3)
    assert weight @ two @ weight > weight @ log_w + 8 * error  # L₂ > L₁: the test can tell them apart


def test_binomial_pixels_are_a_distribution() -> None:
    oracle = Oracle(trials=3)
    z = np.array([0.3])
    total = 0.0
    for counts in np.ndindex(4, 4, 4, 4, 4):
        oracle.x = np.array(counts) / 3
        total += np.prod(binom(3, counts)) * np.exp(oracle.log_p_x_given(z))
    assert total == pytest.approx(1, rel=1e-12)


def test_the_loss_is_the_formula_of_the_page() -> None:
    x = np.random.default_rng(0).uniform(size=(7, 5))
    model = Oracle(code=2, trials=3).model
    with mg.random.use(mg.random.Generator(5)):
        loss = negative_elbo(model, mg.Tensor(x)).item()
    noise = mg.random.normal((7, 2), generator=mg.random.Generator(5)).data
    expected = []
    for image_, e in zip(x, noise, strict=True):
        one = Oracle(code=2, trials=3, x=image_)
        z = one.mean + one.std * e
        kl = np.sum(one.mean**2 + one.std**2 - 1 - np.log(one.std**2)) / 2
        expected.append(kl - one.log_p_x_given(z))
    assert loss == pytest.approx(np.mean(expected), rel=1e-12)


def test_every_gradient_of_the_loss_of_binary_images_is_right() -> None:
    report = vae.check(RECIPES["iwae"])
    assert report.verdict == "pass", report
    # 9-5-5-6 and 3-5-5-9
    assert report.entries == (9 * 5 + 5 + 5 * 5 + 5 + 5 * 6 + 6) + (3 * 5 + 5 + 5 * 5 + 5 + 5 * 9 + 9)


def test_an_error_in_one_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    slip = mg.Op("slip_of_the_vae", lambda x: x + 0, vjp={"x": lambda g: g * (1 + 1e-6)}, kind="linear")
    monkeypatch.delitem(mg.core.op.registry, "slip_of_the_vae")
    encode = VAE.encode
    monkeypatch.setattr(VAE, "encode", lambda self, x: (encode(self, x)[0], slip(encode(self, x)[1])))
    report: testing.Report = vae.check(RECIPES["mnist"])
    assert report.verdict == "fail"
    assert "model.encoder" in report.findings[0].entry


def test_binary_pixels_are_drawn_with_their_grey_values() -> None:
    x = np.array([0.0, 0.25, 1.0], np.float32)
    with mg.random.use(mg.random.Generator(0)):
        drawn = [binarised(mg.Tensor(x)).data for _ in range(2000)]
    assert drawn[0].dtype == np.float32
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert np.mean(drawn, axis=0) == pytest.approx(x, abs=0.04)


def test_the_binary_test_images_are_the_same_for_every_seed() -> None:
    test = datasets.digits().test
    seen = []
    for seed in (1, 2):
        with mg.random.use(mg.random.Generator(seed)) as draws:
            seen.append(vae.as_seen(test, RECIPES["iwae"]))
            assert draws.state.data[1] == 0  # and take nothing from the draws of the run
    assert np.array_equal(seen[0], seen[1])
    assert set(np.unique(seen)) == {0.0, 1.0}
    assert abs(seen[0].mean() - test.mean()) < 0.01
    assert vae.as_seen(test, RECIPES["mnist"]) is test


def test_a_fresh_decoder_draws_the_mean_image() -> None:
    train = datasets.digits().train
    model = VAE(64, 3, TINY)
    vae.start_at_mean(model, train)
    for name, tensor in model.decoder.parameters().items():
        if name.endswith("weight"):
            tensor.assign(np.zeros_like(tensor.data))
    assert model.decode(np.ones((1, 3), np.float32))[0] == pytest.approx(train.mean(0), abs=0.0011)


def test_the_manifold_has_parts_of_equal_probability() -> None:
    grid = quantile_grid(5).reshape(5, 5, 2)
    middles = (np.arange(5) + 0.5) / 5
    for row in range(5):
        assert stats.norm.cdf(grid[row, :, 0]) == pytest.approx(middles, abs=1e-6)  # to the right
        assert stats.norm.cdf(grid[::-1, row, 1]) == pytest.approx(middles, abs=1e-6)  # upwards


class Finished:
    """A run of the command on the digits."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder
        self.code = main([*options, "--out", str(folder)])
        self.summary: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))
        self.images = datasets.digits()
        settings = {name: value for name, value in self.summary["settings"].items() if name in vars(TINY)}
        recipe = vae.Recipe(**settings)
        codes = {"vae": recipe.code} | ({"plane": 2} if recipe.plane == "yes" else {})
        self.models = {name: VAE(64, code, recipe) for name, code in codes.items()}
        mg.io.load_into(self.models, folder / "weights.safetensors")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("vae"), "--epochs", "60", "--samples", "200")


def test_it_explains_the_digits_far_better_than_pixels_on_their_own(run: Finished) -> None:
    p = run.images.train.mean(0, dtype=np.float64).clip(0.001, 0.999)
    alone = 16 * np.sum(run.images.test * np.log(p) + (1 - run.images.test) * np.log(1 - p), axis=1).mean()
    assert run.code == 0
    assert alone < -380
    assert run.summary["elbo"] > -290
    assert run.summary["log_likelihood"] > run.summary["elbo"] + 3
    assert 12 < run.summary["kl"] < 25
    assert run.summary["code_numbers_used"] == 10
    assert run.summary["curves"]["plane, test"][-1] < 340


def test_the_weights_give_the_numbers_that_were_reported(run: Finished) -> None:
    model, test = run.models["vae"], run.images.test
    with mg.random.use(mg.random.Generator(9)), mg.no_grad():
        elbo = -np.mean([negative_elbo(model, mg.Tensor(test)).item() for _ in range(20)])
        bound = vae.log_likelihood(model, test[:100], 200)
        whole = np.mean([importance_bound(model, mg.Tensor(x[None]), 200) for x in test[:100]])
    assert elbo == pytest.approx(run.summary["elbo"], abs=1)
    assert bound == pytest.approx(whole, abs=0.3)
    assert bound == pytest.approx(run.summary["log_likelihood"], abs=10)  # a hundred images are not all 360


def test_samples_are_digits_of_all_kinds(run: Finished) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = run.images.train, run.images.train_labels
    z = mg.random.normal((1000, 10), dtype="float32", generator=mg.random.Generator(3)).data
    samples = run.models["vae"].decode(z)
    shares = np.bincount(KNeighborsClassifier(3).fit(train, labels).predict(samples), minlength=10) / 1000
    assert shares.min() > 0.02, shares
    # nearer to some digit than an image of the same brightness and other shapes: one with its pixels shuffled
    nearest = KNeighborsClassifier(1).fit(train, labels)
    shuffled = np.random.default_rng(0).permuted(samples, axis=1)
    assert nearest.kneighbors(samples)[0].mean() < 0.6 * nearest.kneighbors(shuffled)[0].mean()


def test_the_plane_keeps_digits_apart_better_than_pca(run: Finished) -> None:
    images = run.images
    mean, axes = principal_components(images.train, 2)

    def agreement(encode: Callable[[Array], Array]) -> float:
        return neighbours_agree(encode(images.train), images.train_labels, encode(images.test), images.test_labels)

    assert agreement(run.models["plane"].codes) > agreement(lambda x: (x - mean) @ axes) + 0.1


def test_a_way_from_image_to_image(run: Finished) -> None:
    model, test = run.models["vae"], run.images.test
    ways = interpolation(model, test[:2], test[2:4]).reshape(2, 13, 64)
    codes = model.codes(test[:4])
    for row in range(2):
        assert np.array_equal(ways[row, [0, 12]], test[[row, row + 2]])
        for column, code in ((1, codes[row]), (6, (codes[row] + codes[row + 2]) / 2), (11, codes[row + 2])):
            assert ways[row, column] == pytest.approx(model.decode(code[None])[0], abs=1e-5)


def test_the_pictures_are_there(run: Finished) -> None:
    names = ["curves", "reconstructions", "samples", "interpolation", "manifold", "plane"]
    assert {f"{name}.png" for name in names} == {name for name in run.summary["files"] if name.endswith(".png")}
    for name in names:
        pixels = image.imread(run.folder / f"{name}.png")
        assert min(pixels.shape[:2]) > 200
        assert pixels.std() > 0.05


def test_the_preset_of_binary_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def counted(x: Any) -> mg.Tensor:
        drawn.append(x)
        return binarised(x)

    monkeypatch.setattr(vae, "binarised", counted)
    options = "--preset iwae --data digits --epochs 2 --hidden 20 --samples 30 --no-compile"
    run = Finished(tmp_path, *options.split())
    assert run.code == 0
    assert len(drawn) == 1 + 2 * 15  # the test images once, and each minibatch anew
    assert run.summary["sizes"] == "64-20-20-50"
    assert run.summary["importance_samples"] == 30
    assert run.summary["unit"] == "nats an image, in the mean over 360 test images, binary pixels"
    assert run.summary["curves"].keys() == {"vae", "vae, test"}
    assert -45 < run.summary["elbo"] < run.summary["log_likelihood"] < -20
    assert not (tmp_path / "plane.png").exists()
