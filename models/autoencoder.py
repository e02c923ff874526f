r"""An autoencoder: a network that learns to say again what it was shown, through a bottleneck.

    python -m models.autoencoder                     64-32-8-32-64 on 8×8 digits: ten seconds
    python -m models.autoencoder --preset paper      784-128-32-128-784 on MNIST: one minute

**The model.** An encoder e maps an image x, D pixels, to a code h of K < D numbers; a decoder d maps the code back:

    h = e(x),    x̃ = d(h).

Training asks that x̃ be x. Were K as large as D, copying would do; with K < D the network has to find out what images
have in common, and keep in the code only how they differ. No label is needed: the target is the input.

**The linear case is PCA.** Let e(x) = Vᵀ(x - m) and d(h) = m + V h be affine, and the loss ‖x - x̃‖². Reconstructions
then lie in a plane of K dimensions. None is nearer to the images, in the mean of squares, than the plane through their
mean m along the K leading eigenvectors of their covariance (Pearson 1901), and a linear network trained to reconstruct
finds the same one (Baldi and Hornik 1989). The page `pca` shows it. PCA is what to beat.

**Deep autoencoders** put nonlinear layers around the code, with an activation φ,

    e(x) = φ(φ(x W₁ + b₁) W₂ + b₂),    d(h) = σ(φ(h W₃ + b₃) W₄ + b₄),    σ(z) = 1/(1 + exp(-z)),

so that reconstructions lie on a curved K-dimensional surface, which can follow the images where a plane cuts through.
Hinton and Salakhutdinov ("Reducing the Dimensionality of Data with Neural Networks", Science 313, 2006) showed how much
that wins. They still had to pretrain layer by layer, where now a fitting initialisation, uniform on
±√(6/(n_in + n_out + 1)), and Adam will do. σ keeps x̃ between 0 and 1, as pixels are. See also Goodfellow, Bengio and
Courville, "Deep Learning" (2016), chapter 14.

**Three codes.** The command trains three of them side by side, on the same minibatches:

- *autoencoder*, the bottleneck of above;
- *map*, whose code has two numbers, without an activation: a point in the plane for each image. Images of one digit
  should lie together, though no label was shown. The measure is how often the nearest training image in the plane has
  the label of a test image;
- *overcomplete*, with one hidden layer, the code, of more numbers than the image has pixels. It has the lowest error,
  and need not have learned anything: with W₄ a left inverse of W₁, copying would do. `sparse_autoencoder` and
  `denoising_autoencoder` show what makes such a code useful.

**The loss** is a sum over pixels, in the mean over images. On the 8×8 digits it is the squared error, as for PCA:

    L = Σᵢ (x̃ᵢ - xᵢ)²,    ∂L/∂x̃ᵢ = 2 (x̃ᵢ - xᵢ).

On MNIST, whose pixels are nearly all black or white, it is the binary cross-entropy, in nats: xᵢ is taken as the
probability that pixel i is white, and x̃ᵢ = σ(zᵢ) as the network's opinion of it,

    L = -Σᵢ (xᵢ log x̃ᵢ + (1 - xᵢ) log(1 - x̃ᵢ)),    ∂L/∂zᵢ = x̃ᵢ - xᵢ.

Here the slope of σ has cancelled: an output that is sure and wrong still learns, where the gradient of the squared
error, 2 (x̃ᵢ - xᵢ) x̃ᵢ (1 - x̃ᵢ), would be nearly zero. Both losses are smallest where x̃ = x.

**The check.** With `--check`, the gradient of the loss with respect to every weight and bias of a small network of
this kind, as the engine computes it in float64, is first compared with what the loss itself says
(`minigrad.testing.check`). If one of them is wrong, the command says which and exits with 1.

Source: the lectures on autoencoders; 784-128-32-128-784 with ReLU, cross-entropy and Adam is an example in one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import minigrad as mg
from minigrad import nn, testing
from models import commands, plots
from models.commands import Run
from models.pca import error_per_image, principal_components, project
from models.training import Descent

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how."""

    hidden: int
    code: int
    activation: Literal["Tanh", "ReLU"]
    loss: Literal["squared error", "cross-entropy"]


RECIPES = {
    "digits": Recipe(
        epochs=100, batch_size=32, learning_rate=0.01, hidden=32, code=8, activation="Tanh", loss="squared error"
    ),
    "mnist": Recipe(
        epochs=5, batch_size=128, learning_rate=0.001, hidden=128, code=32, activation="ReLU", loss="cross-entropy"
    ),
}
RECIPES["paper"] = RECIPES["mnist"]


class Autoencoder(nn.Module):
    """An encoder e and a decoder d.

    Called on images (rows, pixels) it returns z, the decoder's output before σ: that is what the loss is computed from.
    """

    def __init__(self, encoder: nn.Sequential, decoder: nn.Sequential):
        self.encoder, self.decoder = encoder, decoder

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        """z = logits of the reconstruction of x."""
        return self.decoder(self.encoder(x))

    def reconstruct(self, images: Array) -> Array:
        """x̃ = σ(z), what comes out for images (rows, pixels)."""
        with mg.no_grad():
            return mg.sigmoid(self(mg.Tensor(images))).data

    def encode(self, images: Array) -> Array:
        """h = e(x), (rows, code)."""
        with mg.no_grad():
            return self.encoder(mg.Tensor(images)).data


def networks(pixels: int, recipe: Recipe) -> dict[str, Autoencoder]:
    """The three of the page, with fresh weights."""
    hidden, code, activation = recipe.hidden, recipe.code, getattr(nn, recipe.activation)
    more = pixels * 5 // 4
    return {
        "autoencoder": Autoencoder(
            nn.Sequential(nn.Linear(pixels, hidden), activation(), nn.Linear(hidden, code), activation()),
            nn.Sequential(nn.Linear(code, hidden), activation(), nn.Linear(hidden, pixels)),
        ),
        "map": Autoencoder(
            nn.Sequential(nn.Linear(pixels, hidden), activation(), nn.Linear(hidden, 2)),
            nn.Sequential(nn.Linear(2, hidden), activation(), nn.Linear(hidden, pixels)),
        ),
        "overcomplete": Autoencoder(
            nn.Sequential(nn.Linear(pixels, more), activation()), nn.Sequential(nn.Linear(more, pixels))
        ),
    }


def mean_loss(z: mg.Tensor, x: mg.Tensor, kind: str) -> mg.Tensor:
    """L: summed over the pixels, in the mean over the images x (rows, pixels), from logits z of the reconstructions.

    The cross-entropy is computed in a form that neither overflows nor takes log 0.

    Example:
        >>> mean_loss(mg.zeros((3, 4)), mg.ones((3, 4)), "squared error").item()
        1.0
    """
    if kind == "cross-entropy":
        return mg.bce_with_logits(z, x, reduction="sum") / len(x)
    return mg.mse(mg.sigmoid(z), x, reduction="sum") / len(x)


def neighbours_agree(codes: Array, labels: Array, test_codes: Array, test_labels: Array) -> float:
    """How often the nearest of the codes (rows, k) has the label of a test code, in [0, 1].

    Example:
        >>> neighbours_agree(np.array([[0.0], [1.0]]), np.array([3, 7]), np.array([[0.2], [0.4]]), np.array([3, 7]))
        0.5
    """
    from sklearn.neighbors import KNeighborsClassifier

    return float(KNeighborsClassifier(n_neighbors=1).fit(codes, labels).score(test_codes, test_labels))


def check(recipe: Recipe) -> testing.Report:
    """Check the gradient of the losses of five images of nine pixels with respect to all parameters, in float64."""

    def total(models: dict[str, Autoencoder], x: mg.Tensor) -> mg.Tensor:
        return mg.sum(mg.stack([mean_loss(model(x), x, recipe.loss) for model in models.values()]))

    small = replace(recipe, hidden=5, code=3)
    return commands.check_gradients(lambda: (networks(9, small), mg.random.uniform((5, 9))), total)


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Train the three, compare them with PCA, draw."""
    recipe, images = run.recipe, run.images
    models = networks(images.pixels, recipe)
    descents = {name: Descent(mg.optim.Adam(model, lr=recipe.learning_rate)) for name, model in models.items()}
    test = mg.Tensor(images.test)

    def step(x: mg.Tensor) -> dict[str, mg.Tensor]:
        return {name: descents[name](mean_loss(models[name](x), x, recipe.loss)) for name in models}

    def evaluate() -> dict[str, float]:
        return {f"{name}, test": mean_loss(models[name](test), test, recipe.loss).item() for name in models}

    place = run.fit(step, {"model": models, "descent": descents}, images.train, evaluate=evaluate)
    losses = {name: curve for name, curve in place.curves.items() if name.startswith("autoencoder")}
    sizes = f"{images.pixels}-{recipe.hidden}-{recipe.code}-{recipe.hidden}-{images.pixels}"
    plots.curves(run.path("curves.png"), losses, f"loss of an image ({recipe.loss})", f"{sizes} on {run.data_name}")
    return {"sizes": sizes} | reconstructions(run, models) | code_map(run, models["map"])


def reconstructions(run: Run[Recipe], models: dict[str, Autoencoder]) -> dict[str, Any]:
    """The squared errors of the three and of PCA, and a picture of what comes out."""
    images, recipe = run.images, run.recipe
    rows = {name: model.reconstruct(images.test) for name, model in models.items()}
    rows |= {"PCA": project(images.train, recipe.code)(images.test)}
    errors = {name: error_per_image(images.test, row) for name, row in rows.items()}
    print(
        f"squared error of a test image, summed over its {images.pixels} pixels: {errors['autoencoder']:.4f} with a "
        f"code of {recipe.code}; PCA with as many components {errors['PCA']:.4f}; overcomplete code "
        f"{errors['overcomplete']:.4f}"
    )
    shown = {"original": images.test[:12]} | {name: row[:12] for name, row in rows.items()}
    title = f"Test images, and what {recipe.code} numbers kept of them (2 for the map)"
    plots.image_rows(run.path("reconstructions.png"), shown, images.shape, title)
    return {"squared_error": errors}


def code_map(run: Run[Recipe], model: Autoencoder) -> dict[str, Any]:
    """How well the plane of two numbers keeps the digits apart, and a picture of it."""
    images = run.images
    mean, axes = principal_components(images.train, 2)
    codes: dict[str, Callable[[Array], Array]] = {"map": model.encode, "PCA": lambda x: (x - mean) @ axes}
    agreement = {
        name: neighbours_agree(encode(images.train), images.train_labels, encode(images.test), images.test_labels)
        for name, encode in codes.items()
    }
    print(
        f"the nearest training image in a plane has the same label: {agreement['map']:.1%} of the test images; "
        f"in PCA's plane {agreement['PCA']:.1%}"
    )
    for name, encode in codes.items():
        plots.labelled_map(
            run.path(f"plane_{name.lower()}.png"),
            encode(images.test[:3000]),
            images.test_labels[:3000],
            "first number",
            "second number",
            f"Test images in a plane: {'two numbers of an autoencoder' if name == 'map' else 'two components of PCA'}",
        )
    return {"nearest_neighbour_accuracy": agreement}


OPTIONS = {"hidden": "units of the hidden layers", "code": "numbers in the code"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    return commands.main("models.autoencoder", __doc__, RECIPES, train, check, OPTIONS, {"paper": 1}, arguments)


if __name__ == "__main__":
    sys.exit(main())
