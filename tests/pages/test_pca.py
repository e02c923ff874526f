"""PCA: its formulas against SciPy, scikit-learn and NumPy, and that a linear autoencoder learns its subspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from models import datasets, pca
from models.pca import (
    RECIPES,
    LinearAutoencoder,
    error_per_image,
    errors_by_number,
    leading_eigenvectors,
    loss_by_covariance,
    main,
    mean_and_covariance,
    mean_loss,
    principal_angles,
    principal_axes,
    principal_components,
    project,
)

image = pytest.importorskip("matplotlib.image")

Array = np.ndarray[Any, Any]


class Run:
    """A finished run of the command."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder
        self.code = main([*options, "--out", str(folder)])
        self.summary: dict[str, Any] = json.loads((folder / "summary.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("default"))


def test_training_finds_the_subspace_of_pca(default: Run) -> None:
    assert default.code == 0
    for error in (default.summary["squared_error"], default.summary["training_error"]):
        assert error["linear autoencoder"] == pytest.approx(error["PCA"], rel=1e-3)
    assert default.summary["training_error"]["linear autoencoder"] > default.summary["training_error"]["PCA"]
    assert default.summary["squared_error"]["PCA"] == pytest.approx(1.578, abs=1e-3)
    assert default.summary["largest_principal_angle"] < 1.0


def test_the_weights_are_those_of_the_summary(default: Run) -> None:
    """The numbers again, by other means: SciPy's angles, and reconstructions from the file of weights."""
    from scipy.linalg import subspace_angles
    from sklearn.decomposition import PCA

    images = datasets.digits()
    weights = {
        name: tensor.data.astype(float) for name, tensor in mg.io.load(default.folder / "weights.safetensors").items()
    }
    peer = PCA(8, svd_solver="full").fit(images.train.astype(float))
    angle = np.degrees(subspace_angles(weights["decoder.weight"].T, peer.components_.T)[0])
    assert default.summary["largest_principal_angle"] == pytest.approx(angle, rel=1e-6)
    codes = (images.test - weights["mean"]) @ weights["encoder.weight"]
    error = error_per_image(images.test, weights["mean"] + codes @ weights["decoder.weight"])
    assert default.summary["squared_error"]["linear autoencoder"] == pytest.approx(error, rel=1e-5)
    expected = error_per_image(images.test, peer.inverse_transform(peer.transform(images.test.astype(float))))
    assert default.summary["squared_error"]["PCA"] == pytest.approx(expected, rel=1e-6)


def test_the_weights_are_not_the_eigenvectors_but_can_be_turned_into_them(default: Run) -> None:
    images = datasets.digits()
    u = mg.io.load(default.folder / "weights.safetensors")["decoder.weight"].data.T.astype(float)
    _, q = principal_components(images.train, 8)
    cosines = np.abs(np.sum(u / np.linalg.norm(u, axis=0) * q, axis=0))
    assert cosines.min() < 0.9
    turned = principal_axes(u, mean_and_covariance(images.train)[1])
    assert np.allclose(np.abs(turned.T @ q), np.eye(8), atol=0.05)
    assert principal_angles(turned, u).max() < 1e-5


def test_pictures(default: Run) -> None:
    for name in ("curves", "filters", "spectrum", "components", "reconstructions"):
        pixels = image.imread(default.folder / f"{name}.png")
        assert pixels.shape[0] > 200
        assert pixels.shape[1] > 600
        assert pixels.std() > 0.05


def test_as_many_numbers_as_pixels_learn_the_identity(tmp_path: Path) -> None:
    run = Run(tmp_path, "--code", "64", "--epochs", "60")
    assert run.summary["squared_error"]["linear autoencoder"] < 1e-3  # of 4.7, which is the variance
    assert run.summary["squared_error"]["PCA"] < 1e-20
    weights = mg.io.load(tmp_path / "weights.safetensors")
    product = weights["encoder.weight"].data @ weights["decoder.weight"].data
    varies = datasets.digits().train.std(axis=0) > 0.1  # a pixel that is always black may become anything
    assert np.allclose(product[np.ix_(varies, varies)], np.eye(varies.sum()), atol=0.05)


def test_more_numbers_than_pixels(tmp_path: Path) -> None:
    run = Run(tmp_path, "--code", "70", "--epochs", "5")
    assert run.code == 0
    assert run.summary["largest_principal_angle"] < 1e-5  # there is no other subspace of 64 dimensions


def test_pca_is_that_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    images = datasets.digits()
    peer = PCA(8, svd_solver="full").fit(images.train.astype(float))
    mean, q = principal_components(images.train, 8)
    assert np.allclose(mean, peer.mean_, atol=1e-12)
    assert np.allclose(q * np.sign(np.sum(q * peer.components_.T, axis=0)), peer.components_.T, atol=1e-9)
    expected = peer.inverse_transform(peer.transform(images.test.astype(float)))
    assert np.allclose(project(images.train, 8)(images.test), expected, atol=1e-9)
    _, covariance = mean_and_covariance(images.train)
    assert np.allclose(covariance, np.cov(images.train.astype(float), rowvar=False, bias=True), atol=1e-12)
    lost = np.linalg.eigvalsh(covariance)[:-8].sum()
    assert error_per_image(images.train, project(images.train, 8)(images.train)) == pytest.approx(lost, rel=1e-9)


def test_errors_by_number_are_those_of_projections() -> None:
    images = datasets.digits()
    mean, q = principal_components(images.train, 20)
    errors = errors_by_number(images.test, mean, q)
    assert errors.shape == (21,)
    assert errors[0] == pytest.approx(np.sum(np.mean((images.test - mean) ** 2, axis=0)), rel=1e-9)
    for k in (1, 8, 20):
        assert errors[k] == pytest.approx(error_per_image(images.test, project(images.train, k)(images.test)), rel=1e-9)


@pytest.mark.parametrize("k", [0, 65])
def test_there_are_as_many_components_as_pixels(k: int) -> None:
    with pytest.raises(ValueError, match=f"64 pixels have 1 to 64 principal components, not {k}"):
        principal_components(datasets.digits().train, k)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (5, 2)])
@pytest.mark.parametrize("turn", [1e-12, 1e-6, 0.3, 1.0])
def test_angles_are_those_of_scipy(sizes: tuple[int, int], turn: float) -> None:
    from scipy.linalg import subspace_angles

    random = np.random.default_rng(0)
    a = random.normal(size=(9, sizes[0]))
    b = np.concatenate([a, random.normal(size=(9, 3))], axis=1)[:, : sizes[1]] + turn * random.normal(
        size=(9, sizes[1])
    )
    expected = np.degrees(subspace_angles(a, b))[::-1]
    assert np.allclose(principal_angles(a, b), expected, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 30.0, 89.9999, 90.0])
def test_angles_are_exact_where_a_cosine_or_a_sine_alone_is_not(angle: float) -> None:
    """A plane that is turned about an axis: its angles are 0 and what it was turned by."""
    t = np.radians(angle)
    a = np.eye(4)[:, :2]
    b = np.array([[1.0, 0, 0, 0], [0, np.cos(t), np.sin(t), 0]]).T @ np.array([[2.0, 1.0], [0.5, 3.0]])
    assert principal_angles(a, b) == pytest.approx([0.0, angle], rel=1e-12, abs=1e-14)


def small() -> tuple[LinearAutoencoder, Array, Array, Array]:
    """A model of seven pixels, float64, images with their mean in it, and their covariance."""
    x = np.random.default_rng(0).uniform(size=(11, 7)) ** 2
    mean, covariance = mean_and_covariance(x)
    model = LinearAutoencoder(mean, 3).astype("float64")
    model.mean.assign(mean)
    return model, x, mean, covariance


def test_the_loss_is_the_formula_of_the_page() -> None:
    model, x, mean, covariance = small()
    u, v = model.matrices()
    direct = np.mean([np.sum((p - mean - u @ (v @ (p - mean))) ** 2) for p in x])
    assert mean_loss(model, mg.Tensor(x)).item() == pytest.approx(direct, rel=1e-12)
    missing = np.eye(7) - u @ v
    assert loss_by_covariance(u, v, covariance) == pytest.approx(np.trace(missing @ covariance @ missing.T), rel=1e-12)
    assert loss_by_covariance(u, v, covariance) == pytest.approx(direct, rel=1e-12)


def gradients(model: LinearAutoencoder, x: Array) -> tuple[Array, Array]:
    """∂L/∂U and ∂L/∂V by the engine."""
    of = mg.grad(lambda model: mean_loss(model, mg.Tensor(x)))(model)
    return of.decoder.weight.data.T, of.encoder.weight.data.T


def test_the_gradients_are_the_formulas_of_the_page() -> None:
    model, x, _, covariance = small()
    u, v = model.matrices()
    missing = np.eye(7) - u @ v
    of_u, of_v = gradients(model, x)
    assert np.allclose(of_u, -2 * missing @ covariance @ v.T, rtol=1e-10, atol=1e-14)
    assert np.allclose(of_v, -2 * u.T @ missing @ covariance, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("chosen", [(0, 1, 2), (0, 1, 4), (3, 5, 6)])
def test_any_eigenvectors_are_stationary_but_only_the_leading_ones_a_minimum(chosen: tuple[int, ...]) -> None:
    model, x, _, covariance = small()
    random = np.random.default_rng(1)
    basis, r = leading_eigenvectors(covariance, 7)[:, chosen], random.normal(size=(3, 3))
    u, v = basis @ r, np.linalg.inv(r) @ basis.T
    model.decoder.weight.assign(u.T)
    model.encoder.weight.assign(v.T)
    assert all(np.abs(g).max() < 1e-12 for g in gradients(model, x))
    loss = loss_by_covariance(u, v, covariance)
    values = np.linalg.eigvalsh(covariance)[::-1]
    assert loss == pytest.approx(values.sum() - values[list(chosen)].sum(), rel=1e-9)
    near = [
        loss_by_covariance(u + 0.01 * random.normal(size=u.shape), v + 0.01 * random.normal(size=v.shape), covariance)
        for _ in range(1000)
    ]
    turned = basis.copy()  # the last axis towards a better one, if there is one
    best = next(i for i in range(7) if i not in chosen)
    turned[:, -1] = np.cos(0.1) * basis[:, -1] + np.sin(0.1) * leading_eigenvectors(covariance, 7)[:, best]
    change = loss_by_covariance(turned, turned.T, covariance) - loss
    assert change == pytest.approx((values[chosen[-1]] - values[best]) * np.sin(0.1) ** 2, rel=1e-9)
    if chosen == (0, 1, 2):
        assert min(near) > loss
        assert change > 0
    else:
        assert change < 0


def test_the_curvatures_are_those_of_the_page() -> None:
    """4 λ_1 at most; and about λ_K - λ_{K+1} where an axis turns, if the two are close."""
    values = np.array([5.0, 3.0, 2.0, 1.98, 1.0])
    covariance, q = np.diag(values), np.eye(5)[:, :3]

    def loss(p: Any) -> Any:
        u, v = mg.reshape(p[:15], (5, 3)), mg.reshape(p[15:], (3, 5))
        missing = mg.Tensor(np.eye(5)) - u @ v
        return mg.sum((missing @ mg.Tensor(covariance)) * missing)

    p = mg.Tensor(np.concatenate([q.ravel(), q.T.ravel()]))
    assert loss(p).item() == pytest.approx(values[3:].sum())
    curvatures = np.linalg.eigvalsh(mg.hessian(loss)(p).data)
    assert curvatures[-1] == pytest.approx(4 * values[0], rel=1e-9)
    assert np.abs(curvatures[:9]).max() < 1e-9  # U R and R⁻¹ V are as good: as many flat directions as R has entries
    assert curvatures[9] == pytest.approx(values[2] - values[3], rel=0.02)


@pytest.mark.parametrize("name", RECIPES)
def test_every_gradient(name: str) -> None:
    report = pca.check(RECIPES[name])
    assert report.verdict == "pass"
    assert report.entries == 9 + 2 * 9 * 3


def test_the_presets_are_the_published_problem() -> None:
    assert RECIPES["paper"].code == 30
