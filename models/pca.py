r"""PCA, and the linear autoencoder that learns it: one hidden layer, no activation, squared error.

    python -m models.pca                     8 components of the 8×8 digits: five seconds
    python -m models.pca --code 64           K = D on the same: it learns the identity
    python -m models.pca --preset paper      30 components of MNIST: one minute

**The model.** The smallest autoencoder maps an image x, D pixels, to a code h of K numbers and back, by two matrices.
Nothing is curved, and nothing is learned of the images' mean m, which is subtracted first:

    h = V (x - m),    x̃ = m + U h,    V: K × D,  U: D × K.

The loss is the squared error, L = mean ‖x - x̃‖². It knows the images only by m and their covariance C, the mean of
(x - m)(x - m)ᵀ, for x - x̃ = (I - U V)(x - m):

    L = tr((I - U V) C (I - U V)ᵀ),
    ∂L/∂U = -2 (I - U V) C Vᵀ,    ∂L/∂V = -2 Uᵀ (I - U V) C.

**Principal components.** Write C q_i = λ_i q_i, with orthonormal eigenvectors q_i and λ_1 ≥ λ_2 ≥ ..., and Q for the
matrix with columns q_1 ... q_K. Whatever U and V are, x̃ lies in a plane of at most K dimensions through m, the
column space of U. The plane nearest to the images, in the mean of squares, is that of Q (Pearson 1901), and the point
of it nearest to x is m + Q Qᵀ (x - m) (its proof as an approximation of matrices: Eckart and Young 1936). What is
lost is the variance in the other directions:

    min L = λ_{K+1} + ... + λ_D.

If K ≥ D nothing has to be lost: U V = I will do, and copies. That is no discovery about images.

**Does training find it?** Yes: every stationary point of L with U and V of rank K is U V = P Pᵀ, P made of any K of
the eigenvectors; but only the K leading ones are a minimum, all other choices are saddles, and there is no other
local minimum (Baldi and Hornik 1989). So descent ends in PCA's *subspace*. It does not find the eigenvectors
themselves: U R and R⁻¹ V give the same x̃ for every invertible K × K matrix R, so the loss can't tell them apart, and
the columns of U are some oblique basis of the plane. The eigenvectors are found within it: with an orthonormal basis
B of the column space of U, diagonalise the K × K matrix Bᵀ C B = R Λ Rᵀ; the columns of B R are the principal axes.
`filters.png` shows all three: what was learned, that turned, and the eigenvectors of C.

**How far from it?** By the error, and by angles. The principal angles 0 ≤ θ_1 ≤ ... ≤ θ_K ≤ 90° between two subspaces
with orthonormal bases A and B: cos θ_i are the singular values of Aᵀ B, and sin θ_i those of B - A Aᵀ B, the part of
B that sticks out of A's (Björck and Golub 1973). Either alone is inexact: near 0 a cosine is 1 - θ²/2, and half of
the digits of θ are lost, as from a sine near 90°. The arctangent of the two, sine over cosine, is exact everywhere.

The angle is the harder test. Turn q_K by θ towards q_{K+1}: the loss grows by (λ_K - λ_{K+1}) sin² θ only. On MNIST
with K = 30 that is 0.017 sin² θ, of a loss of 14: a plane with one axis altogether wrong is worse by 0.12 %.

**Why it takes many steps.** For the same reason. At the minimum U = Q, V = Qᵀ the loss has its largest curvature, 4
λ_1, where U and V grow along q_1, and only about λ_K - λ_{K+1} where they turn as above. On MNIST that is 1,200 times
less, and a step that the largest curvature permits does next to nothing there. (Without subtracting m, 9,000 times:
the mean square of x along m, 38, takes the place of λ_1, 5.) Adam with a learning rate that stays high for long gets
there; then the rate falls to 0 along a cosine, and with it the noise of the minibatches, which turns the plane to and
fro, dies out. To whiten the images first would make all curvatures alike, but whitening is PCA.

Sources: K. Pearson, "On lines and planes of closest fit to systems of points in space", Phil. Mag. 2, 1901. C. Eckart
and G. Young, "The approximation of one matrix by another of lower rank", Psychometrika 1, 1936. P. Baldi and K.
Hornik, "Neural networks and principal component analysis: learning from examples without local minima", Neural
Networks 2, 1989. Å. Björck and G. H. Golub, "Numerical methods for computing angles between linear subspaces", Math.
Comp. 27, 1973. The lectures on autoencoders have it as x̃ = U V x.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, testing
from models import commands, plots
from models.commands import Run
from models.training import Descent

Array = np.ndarray[Any, Any]


def mean_and_covariance(images: Array) -> tuple[Array, Array]:
    """m (pixels,) and C (pixels, pixels) of images (rows, pixels), in float64; C is a mean, not divided by rows - 1.

    Example:
        >>> mean_and_covariance(np.array([[0.0, 1.0], [2.0, 3.0]]))
        (array([1., 2.]), array([[1., 1.],
               [1., 1.]]))
    """
    mean = images.mean(axis=0, dtype=np.float64)
    deviations = images - mean
    return mean, deviations.T @ deviations / len(images)


def leading_eigenvectors(covariance: Array, k: int) -> Array:
    """Q (pixels, k): orthonormal eigenvectors of a symmetric matrix with the largest eigenvalues, the largest first.

    Raises:
        ValueError: k is not between 1 and the number of pixels.

    Example:
        >>> np.abs(leading_eigenvectors(np.diag([1.0, 3.0, 2.0]), 2))
        array([[0., 0.],
               [1., 0.],
               [0., 1.]])
    """
    pixels = len(covariance)
    if not 1 <= k <= pixels:
        raise ValueError(f"images of {pixels} pixels have 1 to {pixels} principal components, not {k}")
    return np.linalg.eigh(covariance)[1][:, ::-1][:, :k]  # eigh has them in the order of growing eigenvalues


def principal_components(train: Array, k: int) -> tuple[Array, Array]:
    """m (pixels,) and Q (pixels, k) of images (rows, pixels): their mean, and their k leading principal axes.

    The axes are orthonormal, that of the largest variance first. The sign of each is arbitrary. Computed in float64,
    whatever the images' dtype.

    Raises:
        ValueError: k is not between 1 and the number of pixels.

    Example:
        >>> m, q = principal_components(np.array([[0.0, 1.0], [3.0, 5.0], [6.0, 9.0]]), 1)
        >>> m, np.abs(q[:, 0]).round(6)
        (array([3., 5.]), array([0.6, 0.8]))
    """
    mean, covariance = mean_and_covariance(train)
    return mean, leading_eigenvectors(covariance, k)


def project(train: Array, k: int) -> Callable[[Array], Array]:
    """The best affine autoencoder with k numbers in its code: from images (rows, pixels) to m + (x - m) Q Qᵀ.

    Raises:
        ValueError: k is not between 1 and the number of pixels.

    Example:
        >>> line = np.outer([0.0, 1.0, 2.0], [3.0, 4.0]) + 1
        >>> bool(np.allclose(project(line, 1)(line), line))
        True
    """
    mean, q = principal_components(train, k)
    return lambda images: mean + (images - mean) @ q @ q.T


def error_per_image(images: Array, reconstructions: Array) -> float:
    """‖x - x̃‖² in the mean over images (rows, pixels): summed over the pixels of each, which lie in [0, 1].

    Example:
        >>> error_per_image(np.zeros((2, 3)), np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
        2.0
    """
    return float(np.mean(np.sum((images - np.asarray(reconstructions, np.float64)) ** 2, axis=1)))


def errors_by_number(images: Array, mean: Array, q: Array) -> Array:
    """The squared error of images (rows, pixels) with 0, 1, 2, ... of the principal axes q (pixels, k): k + 1 numbers.

    Each axis takes away the mean square along it.

    Example:
        >>> errors_by_number(np.array([[3.0, 1.0], [1.0, 3.0]]), np.zeros(2), np.eye(2))
        array([10.,  5.,  0.])
    """
    deviations = images - mean
    explained = np.mean((deviations @ q) ** 2, axis=0)
    return error_per_image(images, mean) - np.concatenate([[0.0], np.cumsum(explained)])


def principal_angles(a: Array, b: Array) -> Array:
    """Angles in degrees between the column spaces of a (pixels, i) and b (pixels, j), the smallest first.

    There are as many as the smaller space has dimensions. Each matrix must have full rank.

    Example:
        >>> principal_angles(np.array([[1.0], [0.0]]), np.array([[3.0], [3.0]])).round(6)
        array([45.])
    """
    (a, _), (b, _) = np.linalg.qr(a), np.linalg.qr(b)
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    overlap = a.T @ b
    cosines = np.linalg.svd(overlap, compute_uv=False)
    sines = np.linalg.svd(b - a @ overlap, compute_uv=False)[::-1]
    return np.degrees(np.arctan2(sines, cosines))


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how. The learning rate falls to 0 along a cosine."""

    code: int


RECIPES = {
    "digits": Recipe(epochs=200, batch_size=100, learning_rate=0.01, code=8),
    "mnist": Recipe(epochs=40, batch_size=1000, learning_rate=0.005, code=30),
}
RECIPES["paper"] = RECIPES["mnist"]


class LinearAutoencoder(nn.Module):
    """x̃ = m + U V (x - m). Samples are rows: the weight of `encoder` is Vᵀ, that of `decoder` Uᵀ; m is not trained."""

    def __init__(self, mean: Array, code: int):
        self.mean = mg.Tensor(mean, np.float32)
        self.encoder = nn.Linear(len(mean), code, bias=False)
        self.decoder = nn.Linear(code, len(mean), bias=False)

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        """x̃, for images x (rows, pixels)."""
        return self.mean + self.decoder(self.encoder(x - self.mean))

    def matrices(self) -> tuple[Array, Array]:
        """U (pixels, code) and V (code, pixels), in float64."""
        return self.decoder.weight.data.T.astype(np.float64), self.encoder.weight.data.T.astype(np.float64)


def mean_loss(model: LinearAutoencoder, x: mg.Tensor) -> mg.Tensor:
    """L = ‖x - x̃‖², in the mean over the images x (rows, pixels)."""
    return mg.mse(model(x), x, reduction="sum") / len(x)


def loss_by_covariance(u: Array, v: Array, covariance: Array) -> float:
    """L = tr((I - U V) C (I - U V)ᵀ): the mean loss of all images that have the covariance C.

    Example:
        >>> loss_by_covariance(np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]), np.diag([5.0, 2.0]))
        2.0
    """
    missing = np.eye(len(u)) - u @ v
    return float(np.sum((missing @ covariance) * missing))


def principal_axes(u: Array, covariance: Array) -> Array:
    """The columns of B R: an orthonormal basis of the column space of U (pixels, code), in which C is diagonal."""
    basis, _ = np.linalg.qr(u)
    return basis @ leading_eigenvectors(basis.T @ covariance @ basis, basis.shape[1])


def check(recipe: Recipe) -> testing.Report:
    """Check the gradient of the loss of five images of nine pixels with respect to m, U and V, in float64."""

    def make() -> tuple[LinearAutoencoder, mg.Tensor]:
        x = mg.random.uniform((5, 9))
        return LinearAutoencoder(x.data.mean(axis=0), 3), x

    return commands.check_gradients(make, mean_loss)


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Train, compare with PCA, draw."""
    recipe, images = run.recipe, run.images
    mean, covariance = mean_and_covariance(images.train)
    components = leading_eigenvectors(covariance, min(recipe.code, images.pixels))
    least = loss_by_covariance(components, components.T, covariance)
    model = LinearAutoencoder(mean, recipe.code)
    schedule = mg.optim.schedules.cosine(recipe.learning_rate, recipe.steps(len(images.train)))
    descent = Descent(mg.optim.Adam(model, lr=recipe.learning_rate), schedule)

    def step(x: mg.Tensor) -> mg.Tensor:
        return descent(mean_loss(model, x))

    def evaluate() -> dict[str, float]:
        u, v = model.matrices()
        return {
            "training error": loss_by_covariance(u, v, covariance),
            "largest angle": float(principal_angles(u, components)[-1]),
        }

    run.fit(step, {"model": model, "descent": descent}, images.train, evaluate=evaluate)
    u, v = model.matrices()
    angle = float(principal_angles(u, components)[-1])
    print(f"largest principal angle between the column space of U and PCA's subspace: {angle:.3g} degrees")
    convergence(run, least)
    filters(run, u, covariance, components)
    spectrum(run, covariance)
    errors = {"linear autoencoder": loss_by_covariance(u, v, covariance), "PCA": least}
    return {"largest_principal_angle": angle, "training_error": errors} | reconstructions(run, model, mean, covariance)


def convergence(run: Run[Recipe], least: float) -> None:
    """How the error and the angle went down, epoch by epoch."""
    curves = run.place.curves
    with plots.axes(run.path("curves.png"), "epoch", "", "On the way to PCA's subspace") as drawing:
        epochs = range(1, run.place.epoch + 1)
        excess = np.array(curves["training error"]) - least
        drawing.semilogy(epochs, curves["largest angle"], label="largest angle to PCA's subspace, degrees")
        drawing.semilogy(epochs, excess, label="squared error of a training image, minus PCA's")
        drawing.grid(True, alpha=0.25)
        drawing.legend()


def filters(run: Run[Recipe], u: Array, covariance: Array, components: Array) -> None:
    """What U's columns look like, the principal axes of the same plane, and the eigenvectors that they should be."""
    count = min(10, run.recipe.code)
    learned, turned, expected = (x[:, :count] for x in (u, principal_axes(u, covariance), components))
    turned = turned * np.sign(np.sum(turned * expected, axis=0))
    title = "Top: columns of U as learned. Middle: the\nprincipal axes of their plane. Bottom: PCA's"
    rows = np.concatenate([learned.T, turned.T, expected.T])
    plots.filter_grid(run.path("filters.png"), rows, run.images.shape, count, title)


def spectrum(run: Run[Recipe], covariance: Array) -> None:
    """The eigenvalues: the variance along each component. Those beyond K are what is lost."""
    values, k = np.linalg.eigvalsh(covariance)[::-1], run.recipe.code
    values = values[values > 1e-9 * values[0]]  # the others are 0, but for rounding: pixels that are always black
    title = f"{np.sum(values[:k]) / np.sum(values):.1%} of the variance is in the first {k} components"
    with plots.axes(run.path("spectrum.png"), "component", "variance along it", title) as drawing:
        drawing.semilogy(np.arange(len(values[:k])) + 1, values[:k], ".", label="kept")
        drawing.semilogy(np.arange(len(values[k:])) + k + 1, values[k:], ".", label="lost")
        drawing.grid(True, alpha=0.25)
        drawing.legend()


def reconstructions(run: Run[Recipe], model: LinearAutoencoder, mean: Array, covariance: Array) -> dict[str, Any]:
    """The squared errors of the test images, and pictures of them and of what comes out."""
    images, k = run.images, run.recipe.code
    q = leading_eigenvectors(covariance, images.pixels)
    with mg.no_grad():
        rows = {"original": images.test, "learned": model(mg.Tensor(images.test)).data}
    rows["PCA"] = mean + (images.test - mean) @ q[:, :k] @ q[:, :k].T
    errors = {name: error_per_image(images.test, rows[name]) for name in ("learned", "PCA")}
    print(
        f"squared error of a test image, summed over its {images.pixels} pixels, with a code of {k}: "
        f"{errors['learned']:.5g}; PCA {errors['PCA']:.5g}"
    )
    title = f"Test images, and what {k} numbers kept of them"
    plots.image_rows(run.path("reconstructions.png"), {name: x[:12] for name, x in rows.items()}, images.shape, title)

    least = errors_by_number(images.test, mean, q[:, : 4 * k])
    with plots.axes(
        run.path("components.png"), "numbers in the code", "squared error", "What is lost of a test image"
    ) as drawing:
        drawing.plot(least, label="PCA")
        drawing.plot(k, errors["learned"], "o", label="linear autoencoder, trained")
        drawing.set(xlim=(0, None), ylim=(0, None))
        drawing.grid(True, alpha=0.25)
        drawing.legend()
    return {"squared_error": {"linear autoencoder": errors["learned"], "PCA": errors["PCA"]}}


OPTIONS = {"code": "numbers in the code"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    return commands.main("models.pca", __doc__, RECIPES, train, check, OPTIONS, {"paper": 1}, arguments)


if __name__ == "__main__":
    sys.exit(main())
