r"""A denoising autoencoder: noise in, the clean image out.

    python -m models.denoising_autoencoder                     64-128-64 on 8×8 digits: ten seconds
    python -m models.denoising_autoencoder --preset paper      784-500-784 on MNIST: two and a half minutes

**The model.** A copy x̃ of an image x is spoilt; the network sees x̃, and is asked for x:

    r(x̃) = σ(φ(x̃ W₁ + b₁) W₂ + b₂),    L = ‖r(x̃) - x‖², in the mean over images and noise,

with rectifiers φ(z) = max(z, 0) and σ(z) = 1/(1 + exp(-z)), as pixels lie between 0 and 1. The noise is drawn anew each
time that an image comes (Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", ICML
2008; "Stacked Denoising Autoencoders", JMLR 11, 2010). Two kinds:

- *gaussian*: x̃ = x + σ ε with ε from N(0, I). Nothing is clipped, so noisy pixels may lie outside of [0, 1];
- *masking*: each pixel is 0 with probability ν, and otherwise stays as it is.

The code may be wider than the image: copying is no solution any more.

**What is the best that can be done?** Of all functions r, the one with the least mean squared error is the posterior
mean: for each x̃ it averages the images that may have been behind it,

    r*(x̃) = E[x | x̃],    since E‖r(x̃) - x‖² = E‖r(x̃) - r*(x̃)‖² + E‖x - r*(x̃)‖²,

and its last term is there for every r. So the denoiser learns an average, and is blurred where x̃ leaves several
images possible. With Gaussian noise the posterior mean also says where images are dense. For p(x̃), the density of
noisy images,

    r*(x̃) = x̃ + σ² ∇ log p(x̃)

(Tweedie's formula; see Efron, J. Amer. Stat. Assoc. 106, 2011): the correction r(x̃) - x̃ is an estimate of σ² times the
score ∇ log p. Training a denoiser is score matching (Vincent, "A Connection Between Score Matching and Denoising
Autoencoders", Neural Computation 23, 2011), which is also what diffusion models do.

**What to beat.** For both kinds of noise E[x̃ | x] = a x, with a = 1 or a = 1 - ν, and the noise of different pixels is
uncorrelated, with variances whose means over the images are nᵢ = σ² or nᵢ = ν (1 - ν) E[xᵢ²]. Then

- *PCA* projects x̃/a on the plane of K principal components, which keeps the noise within that plane. K is chosen
  by the error of held-out training images;
- *the best affine map* is known: with the images' mean m and covariance C,

      r(x̃) = m + (x̃ - a m) S⁻¹ a C,    S = a² C + diag(n),

  as a linear regression of x on x̃ would find from endless noise (Wiener 1949). A denoising autoencoder without φ and σ
  could learn this and nothing better.

**Three networks** are trained side by side, on the same images: one for each kind of noise, and one without noise, a
plain autoencoder of the same size, which learns to copy. Compare their filters, the columns of W₁, on MNIST: without
noise they show nothing in particular. With Gaussian noise many are strokes and edges of the size of a digit's, which
average noise away; with masking many are small spots, which look whether there is ink nearby. Vincent et al. (2010)
draw such filters, too.

Sources: the papers above; the lectures on regularised autoencoders.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, testing
from models import commands, plots
from models.commands import Run
from models.pca import error_per_image, principal_components
from models.training import Descent

Array = np.ndarray[Any, Any]

NOISES = ("gaussian", "masking")


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how."""

    hidden: int
    sigma: float
    fraction: float

    def __post_init__(self) -> None:
        if self.fraction >= 1:
            raise ValueError("--fraction is a probability below 1")


RECIPES = {
    "digits": Recipe(epochs=60, batch_size=32, learning_rate=0.005, hidden=128, sigma=0.5, fraction=0.5),
    "mnist": Recipe(epochs=10, batch_size=100, learning_rate=0.002, hidden=500, sigma=0.5, fraction=0.5),
}
RECIPES["paper"] = RECIPES["mnist"]


class Denoiser(nn.Module):
    """One hidden layer. Called on images (rows, pixels) it returns r (rows, pixels)."""

    def __init__(self, pixels: int, hidden: int):
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(hidden, pixels), nn.Sigmoid())

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        """r(x̃)."""
        return self.decoder(self.encoder(x))

    def denoise(self, images: Array) -> Array:
        """What comes out for images (rows, pixels)."""
        with mg.no_grad():
            return self(mg.Tensor(images)).data


def networks(pixels: int, recipe: Recipe) -> dict[str, Denoiser]:
    """The three of the page, by the noise that they are trained with, with fresh weights."""
    return {noise: Denoiser(pixels, recipe.hidden) for noise in (*NOISES, "none")}


def spoilt(x: mg.Tensor, noise: str, recipe: Recipe) -> mg.Tensor:
    """x̃, a noisy copy of images x (rows, pixels).

    Example:
        >>> spoilt(mg.ones((2, 50)), "masking", RECIPES["digits"]).data.mean().round(0) in (0.0, 1.0)
        True
    """
    if noise == "gaussian":
        return x + recipe.sigma * mg.random.normal(x.shape, dtype=x.dtype)
    if noise == "masking":
        return mg.where(mg.random.uniform(x.shape, dtype=np.float32) < recipe.fraction, 0.0, x)
    return x


def mean_loss(r: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
    """L: the squared error of r, summed over the pixels, in the mean over the images x (rows, pixels)."""
    return mg.mse(r, x, reduction="sum") / len(x)


def moments(images: Array, noise: str, recipe: Recipe) -> tuple[float, Array]:
    """a and n (pixels,): given x, x̃ has the mean a x, and variances whose mean over images (rows, pixels) is n."""
    if noise == "gaussian":
        return 1.0, np.full(images.shape[1], recipe.sigma**2)
    keep = 1 - recipe.fraction
    return keep, keep * recipe.fraction * np.asarray(np.mean(images**2, axis=0, dtype=np.float64))


def best_affine(images: Array, noise: str, recipe: Recipe) -> Callable[[Array], Array]:
    """The affine map from x̃ to x with the least mean squared error, for training images (rows, pixels)."""
    a, n = moments(images, noise, recipe)
    mean = images.mean(axis=0, dtype=np.float64)
    covariance = np.cov(images, rowvar=False, bias=True, dtype=np.float64)
    matrix = np.linalg.lstsq(a**2 * covariance + np.diag(n), a * covariance)[0]  # S is singular if a pixel never varies
    return lambda noisy: mean + (noisy - a * mean) @ matrix


def projection(train: Array, held: Array, noisy: Array, a: float) -> tuple[Callable[[Array], Array], int]:
    """PCA's projection of x̃/a, and K: the one with the least error on held-out images and noisy copies of them."""
    mean, v = principal_components(train, train.shape[1])
    clean, found = (held - mean) @ v, (noisy / a - mean) @ v
    inside = np.mean((found - clean) ** 2, axis=0)  # a component's error if it is kept
    outside = np.mean(clean**2, axis=0)  # and if it is left out
    k = int(np.argmin(np.cumsum(inside - outside))) + 1
    return lambda noisy: mean + (noisy / a - mean) @ v[:, :k] @ v[:, :k].T, k


def check(recipe: Recipe) -> testing.Report:
    """Check the gradient of the losses of five images of nine pixels with respect to all parameters, in float64."""

    def total(models: dict[str, Denoiser], x: mg.Tensor) -> mg.Tensor:
        return mg.sum(mg.stack([mean_loss(model(spoilt(x, noise, recipe)), x) for noise, model in models.items()]))

    small = replace(recipe, hidden=12)
    return commands.check_gradients(lambda: (networks(9, small), mg.random.uniform((5, 9))), total)


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Train the three, compare them with what is to beat, draw."""
    recipe, images = run.recipe, run.images
    models = networks(images.pixels, recipe)
    schedule = mg.optim.schedules.cosine(recipe.learning_rate, recipe.steps(len(images.train)))
    descents = {name: Descent(mg.optim.Adam(m, lr=recipe.learning_rate), schedule) for name, m in models.items()}
    test = mg.Tensor(images.test)
    noisy = {noise: spoilt(test, noise, recipe) for noise in NOISES}  # once, so that all see the same

    def step(x: mg.Tensor) -> dict[str, mg.Tensor]:
        return {
            noise: descents[noise](mean_loss(model(spoilt(x, noise, recipe)), x)) for noise, model in models.items()
        }

    def evaluate() -> dict[str, float]:
        return {f"{noise}, test": mean_loss(models[noise](noisy[noise]), test).item() for noise in NOISES}

    place = run.fit(step, {"model": models, "descent": descents}, images.train, evaluate=evaluate)
    lines = {name: curve for name, curve in place.curves.items() if name != "none"}
    sizes = f"{images.pixels}-{recipe.hidden}-{images.pixels}"
    plots.curves(run.path("curves.png"), lines, "squared error of an image", f"{sizes} on {run.data_name}")
    for name, model in models.items():
        filters = model.encoder.tensors()["layers.0.weight"].data.T[:100]
        title = f"{len(filters)} filters of the network trained with {name if name in NOISES else 'no'} noise"
        plots.filter_grid(run.path(f"filters_{name}.png"), filters, images.shape, 10, title)
    return {"sizes": sizes} | {noise: compared(run, models, noise, noisy[noise].data) for noise in NOISES}


def compared(run: Run[Recipe], models: dict[str, Denoiser], noise: str, noisy: Array) -> dict[str, Any]:
    """The squared errors of all that make a clean image of a noisy one, and a picture of what comes out."""
    recipe, images = run.recipe, run.images
    rest = images.holding_out(len(images.train) // 6)
    held = spoilt(mg.Tensor(rest.test), noise, recipe).data
    projected, k = projection(rest.train, rest.test, held, moments(images.train, noise, recipe)[0])
    rows = {
        "noisy": noisy,
        "PCA": projected(noisy),
        "best affine": best_affine(images.train, noise, recipe)(noisy),
        "denoiser": models[noise].denoise(noisy),
    }
    errors = {name: error_per_image(images.test, row) for name, row in rows.items()}
    others = {name: error_per_image(images.test, models[name].denoise(noisy)) for name in models if name != noise}
    print(
        f"{noise} noise: squared error of a test image {errors['noisy']:.2f}; after PCA's projection on {k} components "
        f"{errors['PCA']:.2f}, the best affine map {errors['best affine']:.2f}, the denoiser {errors['denoiser']:.2f}"
    )
    level = f"σ = {recipe.sigma:g}" if noise == "gaussian" else f"ν = {recipe.fraction:g}"
    shown = {"original": images.test[:12]} | {f"{name}, {errors[name]:.1f}": row[:12] for name, row in rows.items()}
    title = f"Test images, {noise} noise with {level}, and squared errors in the mean over all test images"
    plots.image_rows(run.path(f"{noise}.png"), shown, images.shape, title)
    return {"squared_error": errors, "components": k, "squared_error_of_networks_trained_with": others}


OPTIONS = {
    "hidden": "units of the hidden layer",
    "sigma": "σ, the standard deviation of Gaussian noise",
    "fraction": "ν, the probability that masking sets a pixel to 0",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    return commands.main(
        "models.denoising_autoencoder", __doc__, RECIPES, train, check, OPTIONS, {"paper": 2.5}, arguments
    )


if __name__ == "__main__":
    sys.exit(main())
