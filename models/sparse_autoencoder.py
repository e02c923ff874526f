r"""A sparse autoencoder: a code of more units than the image has pixels, few of which may be active.

    python -m models.sparse_autoencoder                     64-256-256-256-64 on 150 of the 8×8 digits: half a minute
    python -m models.sparse_autoencoder --preset paper      784-256-1000-256-784 on 500 images of MNIST: two minutes

**The model.** An encoder with one hidden layer, a wide code h, whose units lie between 0 and 1, and a decoder:

    h = σ(tanh(x W₁ + b₁) W₂ + b₂),    x̃ = σ(tanh(h W₃ + b₃) W₄ + b₄),    σ(z) = 1/(1 + exp(-z)).

The code is overcomplete, so nothing forces the network to find out what images have in common. It may copy them, or
keep the training images by heart. A penalty Ω on the code shall prevent that:

    L = ‖x̃ - x‖² + Ω, in the mean over the images of a minibatch.

- *L1*: Ω = λ Σⱼ |hⱼ|. Its slope λ is the same however small hⱼ is, so units that don't matter for an image end at 0.
- *KL*: a unit shall be active with probability ρ, in the mean over images. Its mean activation ρ̂ⱼ, here that over the
  minibatch, is compared with ρ as two coins are:

      Ω = β Σⱼ KL(ρ ‖ ρ̂ⱼ),    KL(ρ ‖ ρ̂) = ρ log(ρ/ρ̂) + (1 - ρ) log((1 - ρ)/(1 - ρ̂)),
      ∂Ω/∂ρ̂ⱼ = β (ρ̂ⱼ - ρ) / (ρ̂ⱼ (1 - ρ̂ⱼ)).

  It is 0 where ρ̂ⱼ = ρ (A. Ng, "Sparse autoencoder", lecture notes of CS294A, Stanford 2011).

**With and without.** Three networks, with no penalty, L1 and KL, are trained side by side: on the same minibatches of
a small training set, for so long that learning by heart pays. What has been learned by heart shows as a gap between
the errors of training and test images, and as a test error that grows while the training error still falls.

**What comes out** is less simple than "a sparse code does not memorise". Squared errors, with the settings of the page:

                                training     test      gap    units above 0.1
    150 digits     no penalty      0.024    0.625    0.600               62 %
                   L1              0.031    0.858    0.827                8 %
                   KL              0.118    0.405    0.287                4 %
    500 of MNIST   no penalty       0.42    17.27    16.85               32 %
                   L1               0.25    19.54    19.29                3 %
                   KL               1.69    13.64    11.96                4 %

- Without a penalty the network memorises: its test error is lowest after a third of the epochs, and grows from then on.
  KL prevents half of it on the digits, nearly a third on MNIST; its test error gets lower than any without a penalty.
- It is not sparseness that does it. `activations.png` shows how: the units of KL's code hardly ever leave the
  neighbourhood of ρ. There σ has little curvature, and so has the map from x to h: a smooth code, rather than one of
  which each image switches on a few units.
- The code of L1 is the sparse one, and it memorises more than without a penalty. With more units than images, a code
  that is cheap in the sense of L1 can keep a few units for each training image, which say little of other images. Nor
  does L1 limit the weights: halving h and doubling W₃ halves Ω and changes no x̃.
- Without the hidden layers, 64-128-64 does not memorise in the first place: it learns to copy any image. Either penalty
  then makes the test error larger, and the gap, too (150 digits: a gap of 0.23 without, 0.44 with L1, 0.47 with KL).

Sources: the notes above; the lectures on regularised autoencoders; Goodfellow, Bengio and Courville, "Deep Learning"
(2016), section 14.2.1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, testing
from models import commands, plots
from models.commands import Run
from models.pca import error_per_image
from models.training import Descent

Array = np.ndarray[Any, Any]

PENALTIES = ("no penalty", "L1", "KL")
THRESHOLD = 0.1  # a unit with more than this counts as active


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how."""

    images: int  # of the training set, the first ones
    hidden: int
    code: int
    l1: float  # λ
    kl: float  # β
    rho: float

    def __post_init__(self) -> None:
        if not 0 < self.rho < 1:
            raise ValueError("--rho is a probability between 0 and 1")


RECIPES = {
    "digits": Recipe(
        epochs=400, batch_size=25, learning_rate=0.003, images=150, hidden=256, code=256, l1=0.003, kl=1.0, rho=0.05
    ),
    "mnist": Recipe(
        epochs=300, batch_size=25, learning_rate=0.002, images=500, hidden=256, code=1000, l1=0.01, kl=3.0, rho=0.05
    ),
}
RECIPES["paper"] = RECIPES["mnist"]


class Autoencoder(nn.Module):
    """An encoder to the code h, and a decoder."""

    def __init__(self, pixels: int, hidden: int, code: int):
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.Tanh(), nn.Linear(hidden, code), nn.Sigmoid())
        self.decoder = nn.Sequential(nn.Linear(code, hidden), nn.Tanh(), nn.Linear(hidden, pixels), nn.Sigmoid())

    def encode(self, images: Array) -> Array:
        """h of images (rows, pixels)."""
        with mg.no_grad():
            return self.encoder(mg.Tensor(images)).data

    def reconstruct(self, images: Array) -> Array:
        """x̃ of images (rows, pixels)."""
        with mg.no_grad():
            return self.decoder(self.encoder(mg.Tensor(images))).data


def networks(pixels: int, recipe: Recipe) -> dict[str, Autoencoder]:
    """The three of the page, by their penalties, with fresh weights."""
    return {penalty: Autoencoder(pixels, recipe.hidden, recipe.code) for penalty in PENALTIES}


def omega(h: mg.Tensor, penalty: str, recipe: Recipe) -> mg.Tensor | float:
    """Ω of codes h (rows, units), in the mean over them.

    Example:
        >>> h = mg.full((3, 4), 0.05)
        >>> omega(h, "L1", replace(RECIPES["digits"], l1=1.0)).item(), omega(h, "KL", RECIPES["digits"]).item()
        (0.2, 0.0)
    """
    if penalty == "L1":
        return recipe.l1 * mg.sum(mg.abs(h)) / len(h)
    if penalty == "KL":
        rho, mean = recipe.rho, mg.mean(h, axis=0)
        own = rho * np.log(rho) + (1 - rho) * np.log(1 - rho)
        return recipe.kl * mg.sum(float(own) - rho * mg.log(mean) - (1 - rho) * mg.log(1 - mean))
    return 0.0


def losses(model: Autoencoder, x: mg.Tensor, penalty: str, recipe: Recipe) -> tuple[mg.Tensor, mg.Tensor]:
    """The squared error ‖x̃ - x‖² in the mean over images x (rows, pixels), and L."""
    h = model.encoder(x)
    error = mg.mse(model.decoder(h), x, reduction="sum") / len(x)
    return error, error + omega(h, penalty, recipe)


def check(recipe: Recipe) -> testing.Report:
    """Check the gradient of the losses of five images of nine pixels with respect to all parameters, in float64."""

    def total(models: dict[str, Autoencoder], x: mg.Tensor) -> mg.Tensor:
        return mg.sum(mg.stack([losses(model, x, penalty, recipe)[1] for penalty, model in models.items()]))

    small = replace(recipe, hidden=4, code=10)
    return commands.check_gradients(lambda: (networks(9, small), mg.random.uniform((5, 9))), total)


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Train the three on few images, measure what they keep, draw."""
    recipe, images = run.recipe, run.images
    few = images.train[: recipe.images]
    models = networks(images.pixels, recipe)
    descents = {penalty: Descent(mg.optim.Adam(model, lr=recipe.learning_rate)) for penalty, model in models.items()}
    others = images.test[: len(few)]

    def step(x: mg.Tensor) -> dict[str, mg.Tensor]:
        errors = {}
        for penalty, model in models.items():
            error, loss = losses(model, x, penalty, recipe)
            descents[penalty](loss)
            errors[penalty] = error.detach()
        return errors

    def evaluate() -> dict[str, float]:
        return {f"{penalty}, test": error_per_image(others, m.reconstruct(others)) for penalty, m in models.items()}

    run.fit(step, {"model": models, "descent": descents}, few, evaluate=evaluate)
    for penalty, model in models.items():
        drawn = strokes(model, images.test)
        title = f"{penalty}: what {len(drawn)} units of the code draw (red) and erase (blue)"
        plots.filter_grid(run.path(f"units_{penalty.replace(' ', '_')}.png"), drawn, images.shape, 10, title)
    draw_curves(run)
    draw_activations(run, models)
    rows = {penalty: model.reconstruct(images.test[:12]) for penalty, model in models.items()}
    title = f"Test images, and what networks make of them that have seen {len(few):,} others"
    plots.image_rows(run.path("reconstructions.png"), {"original": images.test[:12]} | rows, images.shape, title)
    return {"training_images": len(few), "threshold": THRESHOLD} | {
        penalty: measured(run, models[penalty], penalty) for penalty in PENALTIES
    }


def strokes(model: Autoencoder, images: Array) -> Array:
    """What the units of the code draw that differ most among images (rows, pixels), up to 100 of them: (units, pixels).

    It is what changes in the decoder's output for their mean code when one unit is raised by two standard deviations.
    """
    h = model.encode(images)
    most = np.argsort(-h.std(axis=0))[:100]
    raised = np.tile(h.mean(axis=0), (len(most) + 1, 1))
    raised[np.arange(len(most)), most] += 2 * h.std(axis=0)[most]
    with mg.no_grad():
        drawn = model.decoder(mg.Tensor(raised)).data
    return drawn[:-1] - drawn[-1]


def measured(run: Run[Recipe], model: Autoencoder, penalty: str) -> dict[str, Any]:
    """Errors of training and test images, and how active the code is."""
    images = run.images
    few, h = images.train[: run.recipe.images], model.encode(images.test)
    training, test = (error_per_image(x, model.reconstruct(x)) for x in (few, images.test))
    course = run.place.curves[f"{penalty}, test"]
    active = float(np.mean(h > THRESHOLD))
    print(
        f"{penalty}: squared error of a training image {training:.3f}, of a test image {test:.3f}, gap "
        f"{test - training:.3f}; {active:.1%} of the code's units are above {THRESHOLD}, their mean is {h.mean():.3f}"
    )
    return {
        "training_error": training,
        "test_error": test,
        "gap": test - training,
        "active": active,
        "mean_activation": float(h.mean()),
        "lowest_test_error_of_an_epoch": min(course),
        "epoch_of_lowest_test_error": int(np.argmin(course)) + 1,
    }


def draw_curves(run: Run[Recipe]) -> None:
    """Errors of training and test images over the epochs."""
    curves = run.place.curves
    title = f"{run.recipe.images:,} training images of {run.data_name}: solid test error, dashed training error"
    with plots.axes(run.path("curves.png"), "epoch", "squared error of an image", title) as drawing:
        for i, penalty in enumerate(PENALTIES):
            epochs = range(1, len(curves[penalty]) + 1)
            drawing.plot(epochs, curves[f"{penalty}, test"], color=f"C{i}", label=penalty)
            drawing.plot(epochs, curves[penalty], color=f"C{i}", linestyle="--", linewidth=1)
        drawing.set_yscale("log")
        drawing.grid(True, alpha=0.25)
        drawing.legend()


def draw_activations(run: Run[Recipe], models: dict[str, Autoencoder]) -> None:
    """Which fraction of the code is above which activation."""
    title = "How active the units of the code are, over all test images"
    with plots.axes(run.path("activations.png"), "activation h", "units with more than h (%)", title) as drawing:
        for penalty, model in models.items():
            h = np.sort(model.encode(run.images.test), axis=None)
            places = np.linspace(0, len(h) - 1, 500).astype(int)
            drawing.plot(h[places], 100 * (1 - places / len(h)), label=penalty)
        drawing.axvline(THRESHOLD, color="0.6", linestyle=":")
        drawing.grid(True, alpha=0.25)
        drawing.legend()


OPTIONS = {
    "images": "training images",
    "hidden": "units of the encoder's and the decoder's hidden layer",
    "code": "units of the code",
    "l1": "λ, strength of the L1 penalty",
    "kl": "β, strength of the KL penalty",
    "rho": "ρ, the mean activation that KL asks for",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    return commands.main("models.sparse_autoencoder", __doc__, RECIPES, train, check, OPTIONS, {"paper": 2}, arguments)


if __name__ == "__main__":
    sys.exit(main())
