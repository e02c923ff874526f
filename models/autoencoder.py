r"""An autoencoder: a network that learns to say again what it was shown, through a bottleneck.

    python -m models.autoencoder                     64-32-8-32-64 on 8×8 digits: five seconds
    python -m models.autoencoder --data mnist        784-128-32-128-784 on MNIST: a minute

**The model.** An encoder e maps an image x, D pixels, to a code h of K < D numbers; a decoder d maps the code back:

    h = e(x),    x̃ = d(h).

Training asks that x̃ be x. Were K as large as D, copying would do; with K < D the network has to find out what images
have in common, and keep in the code only how they differ. No label is needed: the target is the input.

**The linear case is PCA.** Let e(x) = Vᵀ(x - m) and d(h) = m + V h be affine, and the loss ‖x - x̃‖². Reconstructions
then lie in a plane of K dimensions. None is nearer to the images, in the mean of squares, than the plane through their
mean m along the K leading eigenvectors of their covariance (Pearson 1901), and a linear network trained to reconstruct
finds the same one (Baldi and Hornik 1989). `pca` computes it, without any training. That is what to beat.

**Deep autoencoders** put nonlinear layers around the code, with an activation φ,

    e(x) = φ(φ(x W₁ + b₁) W₂ + b₂),    d(h) = σ(φ(h W₃ + b₃) W₄ + b₄),    σ(z) = 1/(1 + exp(-z)),

so that reconstructions lie on a curved K-dimensional surface, which can follow the images where a plane cuts through.
Hinton and Salakhutdinov ("Reducing the Dimensionality of Data with Neural Networks", Science 313, 2006) showed how much
that wins. They still had to pretrain layer by layer, where now a fitting initialisation, uniform on
±√(6/(n_in + n_out + 1)), and Adam will do. σ keeps x̃ between 0 and 1, as pixels are. See also Goodfellow, Bengio and
Courville, "Deep Learning" (2016), chapter 14.

**The loss** is a sum over pixels, in the mean over images. On the 8×8 digits it is the squared error, as for PCA:

    L = Σᵢ (x̃ᵢ - xᵢ)²,    ∂L/∂x̃ᵢ = 2 (x̃ᵢ - xᵢ).

On MNIST, whose pixels are nearly all black or white, it is the binary cross-entropy, in nats: xᵢ is taken as the
probability that pixel i is white, and x̃ᵢ = σ(zᵢ) as the network's opinion of it,

    L = -Σᵢ (xᵢ log x̃ᵢ + (1 - xᵢ) log(1 - x̃ᵢ)),    ∂L/∂zᵢ = x̃ᵢ - xᵢ.

Here the slope of σ has cancelled: an output that is sure and wrong still learns, where the gradient of the squared
error, 2 (x̃ᵢ - xᵢ) x̃ᵢ (1 - x̃ᵢ), would be nearly zero. Both losses are smallest where x̃ = x.

**The check.** After training, the gradient of the loss of a few images with respect to every weight and bias, as the
engine computes it in float64, is compared with what the loss itself says (`minigrad.testing.check`). If one of them is
wrong, the command says which and exits with 1.

Source: the lectures on autoencoders; 784-128-32-128-784 with ReLU, cross-entropy and Adam is an example in one of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import nn, testing
from models import datasets, plots
from models.commands import INTERRUPTED, guarded, natural, open_folder, positive
from models.files import write_json
from models.training import History, fit

Array = np.ndarray[Any, Any]


OUTPUTS = ("learning_curve.png", "reconstructions.png", "summary.json", "weights.safetensors")


class Autoencoder(nn.Module):
    """pixels → hidden → code → hidden → pixels, fully connected, with one activation after each layer but the last.

    Called on images (rows, pixels) it returns z, the decoder's output before σ: that is what the loss is computed from.
    """

    def __init__(self, pixels: int, hidden: int, code: int, activation: Callable[[], Callable[[Any], Any]]):
        self.sizes = f"{pixels}-{hidden}-{code}-{hidden}-{pixels}"
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), activation(), nn.Linear(hidden, code), activation())
        self.decoder = nn.Sequential(nn.Linear(code, hidden), activation(), nn.Linear(hidden, pixels))

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        """z = logits of the reconstruction of x."""
        return self.decoder(self.encoder(x))

    def reconstruct(self, images: Array) -> Array:
        """x̃ = σ(z), what comes out for images (rows, pixels)."""
        with mg.no_grad():
            return mg.sigmoid(self(mg.Tensor(images))).data


def squared_error(z: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
    """(σ(z) - x)², pixel by pixel."""
    return mg.mse(mg.sigmoid(z), x, reduction="none")


def cross_entropy(z: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
    """-x log σ(z) - (1 - x) log(1 - σ(z)), pixel by pixel, in a form that neither overflows nor takes log 0."""
    return mg.bce_with_logits(z, x, reduction="none")


class Recipe(NamedTuple):
    """What is trained on a data set, and how."""

    load: Callable[[str | None], datasets.Images]  # from the folder that was named
    pixels: int
    hidden: int
    code: int
    activation: Callable[[], Callable[[Any], Any]]
    terms: Callable[[mg.Tensor, mg.Tensor], mg.Tensor]  # of the loss, one for each pixel
    unit: str  # of the loss
    epochs: int
    batch_size: int
    learning_rate: float
    checked: int  # how many images the loss whose gradient is checked has


RECIPES = {
    "digits": Recipe(
        load=lambda _: datasets.digits(),
        pixels=64,
        hidden=32,
        code=8,
        activation=nn.Tanh,
        terms=squared_error,
        unit="squared error",
        epochs=100,
        batch_size=32,
        learning_rate=0.01,
        checked=16,
    ),
    "mnist": Recipe(
        load=datasets.mnist,
        pixels=784,
        hidden=128,
        code=32,
        activation=nn.ReLU,
        terms=cross_entropy,
        unit="cross-entropy in nats",
        epochs=5,
        batch_size=128,
        learning_rate=0.001,
        checked=4,
    ),
}


def mean_loss(model: Autoencoder, terms: Callable[[Any, Any], mg.Tensor], x: mg.Tensor) -> mg.Tensor:
    """The loss: its terms summed over the pixels, and their mean over the images."""
    return mg.sum(terms(model(x), x)) / len(x)


def pca(train: Array, code: int) -> Callable[[Array], Array]:
    """The best affine autoencoder, from images (rows, pixels) to their reconstructions from `code` components.

    The components are the eigenvectors of the covariance with the largest eigenvalues (Eckart and Young 1936).

    Example:
        >>> line = np.outer([0.0, 1.0, 2.0], [3.0, 4.0]) + 1
        >>> bool(np.allclose(pca(line, 1)(line), line))
        True
    """
    mean = train.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(np.cov(train, rowvar=False, dtype=np.float64))  # in the order of growing eigenvalues
    v = vectors[:, -code:]
    return lambda images: mean + (images - mean) @ v @ v.T


def error_per_image(images: Array, reconstructions: Array) -> float:
    """‖x - x̃‖² in the mean over images: summed over the pixels of one, which lie in [0, 1]."""
    return float(np.mean(np.sum((images - np.asarray(reconstructions, np.float64)) ** 2, axis=1)))


def check(model: Autoencoder, recipe: Recipe, images: Array) -> testing.Report:
    """Check the gradient of the loss of a few of the images with respect to all parameters, in float64."""
    few = mg.Tensor(images[: recipe.checked].astype(np.float64))

    def loss(model: Autoencoder) -> mg.Tensor:
        return mean_loss(model, recipe.terms, few)

    return testing.check(loss, model.astype(np.float64))


def train(model: Autoencoder, recipe: Recipe, images: datasets.Images, seed: int, history: History) -> None:
    """Minimise the mean loss with Adam; the history tells what became of it, also if this is interrupted."""
    optimizer = mg.optim.Adam(model, lr=recipe.learning_rate)
    batches = mg.data.minibatches(images.train, batch_size=recipe.batch_size, seed=seed)
    fit(lambda x: mean_loss(model, recipe.terms, x), optimizer, batches, images, recipe.epochs, history)


def run(data: str, data_dir: str | None, recipe: Recipe, seed: int, out: Path) -> int:
    """Train, compare with PCA, draw, check; write all of it to the folder `out`. Returns the exit code."""
    images = recipe.load(data_dir)
    for name in OUTPUTS:  # of an earlier run, they would not fit if this one is interrupted
        (out / name).unlink(missing_ok=True)
    mg.random.seed(seed)
    model = Autoencoder(recipe.pixels, recipe.hidden, recipe.code, recipe.activation)
    print(f"{model.sizes} autoencoder, {len(images.train):,} training and {len(images.test):,} test images of {data}")
    weights = out / "weights.safetensors"
    history = History([], [])
    begun = perf_counter()
    try:
        train(model, recipe, images, seed, history)
    except KeyboardInterrupt:
        mg.io.save(weights, model)
        print(f"Interrupted after {len(history.train)} epochs. The weights so far: {weights}", file=sys.stderr)
        return INTERRUPTED
    mg.io.save(weights, model)
    seconds = perf_counter() - begun

    rows = {"original": images.test, "autoencoder": model.reconstruct(images.test)}
    rows["PCA"] = pca(images.train, recipe.code)(images.test)
    errors = {name: error_per_image(images.test, rows[name]) for name in ("autoencoder", "PCA")}
    print(
        f"test error, the squared error per image summed over its {recipe.pixels} pixels in [0, 1]: "
        f"{errors['autoencoder']:.4f}; PCA with {recipe.code} components: {errors['PCA']:.4f}"
    )
    curves = {"training images": history.train, "test images": history.test}
    plots.curve(out / "learning_curve.png", curves, f"loss per image ({recipe.unit})", f"{model.sizes} on {data}")
    title = f"Test images, and what {recipe.code} numbers kept of them"
    plots.image_rows(out / "reconstructions.png", {name: x[:10] for name, x in rows.items()}, images.shape, title)

    checking = perf_counter()
    report = check(model, recipe, images.test)
    print(f"every gradient against finite differences, in float64: {report}")
    settings = {"model": model.sizes, "data": data, "seed": seed, "batch_size": recipe.batch_size}
    results = {
        "training_seconds": round(seconds, 3),
        "loss_unit": f"{recipe.unit} per image, summed over its pixels",
        "training_loss_by_epoch": history.train,
        "test_loss_by_epoch": history.test,
        "test_error_unit": "squared error per image, summed over its pixels in [0, 1]",
        "test_error": errors,
        "gradient_check": {
            "verdict": report.verdict,
            "entries": report.entries,
            "compared_with": report.oracle,
            "seconds": round(perf_counter() - checking, 3),
        },
    }
    write_json(out / "summary.json", settings | results)
    print(f"written to {out}: {', '.join(OUTPUTS)}")
    return 0 if report else 1


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for; a mistake in it ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m models.autoencoder", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--data", choices=sorted(RECIPES), default="digits", help="the images (default: digits)")
    add("--data-dir", help=f"folder of the MNIST IDX files (default: ${datasets.FOLDER_VARIABLE}, else downloaded)")
    add("--epochs", type=positive, help="times to go through the training images (default: digits 100, mnist 5)")
    add("--batch-size", type=positive, help="images in a step (default: digits 32, mnist 128)")
    add("--code", type=positive, help="numbers in the code (default: digits 8, mnist 32)")
    add("--seed", type=natural, default=0, help="of the weights and the order of images (default: 0)")
    add("--out", type=Path, default=Path("runs/autoencoder"), help="folder to write to (default: runs/autoencoder)")
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.data]
    if options.data_dir is not None and options.data != "mnist":
        parser.error("--data-dir goes with --data mnist; the digits come with scikit-learn")
    if options.code is not None and options.code > recipe.pixels:
        parser.error(f"argument --code: at most {recipe.pixels}, the number of pixels, not {options.code}")
    asked = {name: getattr(options, name) for name in ("epochs", "batch_size", "code")}
    options.recipe = recipe._replace(**{name: value for name, value in asked.items() if value is not None})
    open_folder(parser, options.out)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit codes: 0, 1 if a gradient is wrong, 2 for a wrong option or bad data, 130 when interrupted."""
    options = parse(arguments)
    return guarded(lambda: run(options.data, options.data_dir, options.recipe, options.seed, options.out))


if __name__ == "__main__":
    sys.exit(main())
