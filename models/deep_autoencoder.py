r"""A deep autoencoder: eight layers, whose reconstructions follow the images where PCA's plane cuts through.

    python -m models.deep_autoencoder                     64-200-100-50-8 and back, on 8×8 digits: ten seconds
    python -m models.deep_autoencoder --preset paper      784-1000-500-250-30 and back, on MNIST: nine minutes
    python -m models.deep_autoencoder --preset paper --code 2      the digits as a map: as long

**The model.** An encoder of four layers maps an image x, D pixels, to a code h of K numbers; a decoder of four layers,
with the same widths in reverse, maps h to a reconstruction x̃. With a_0 = x, layer l = 1 ... 8 computes

    z_l = a_{l-1} W_l + b_l,    a_l = φ(z_l),    but h = a_4 = z_4, without φ, and x̃ = a_8 = σ(z_8),

where σ(z) = 1/(1 + exp(-z)) keeps pixels between 0 and 1, and φ is the exponential linear unit (Clevert et al. 2016):

    φ(z) = z where z > 0, else exp(z) - 1;    φ'(z) = 1, or exp(z).

784-1000-500-250-30 is the network with which Hinton and Salakhutdinov showed in 2006 how much better than PCA a deep
autoencoder is: a squared error of 3.00 a test image, against PCA's 13.87 with as many numbers. That is what to beat.

**The loss** is the cross-entropy, as in their fine-tuning: each pixel x_i is taken as the probability of being white,

    L = -Σ_i (x_i log x̃_i + (1 - x_i) log(1 - x̃_i)),    in the mean over N images.

Like the squared error it is least at x̃ = x. Backpropagation starts with δ_8 = ∂L/∂z_8 = (x̃ - x)/N and goes

    δ_l = (δ_{l+1} W_{l+1}ᵀ) ⊙ φ'(z_l),    ∂L/∂W_l = a_{l-1}ᵀ δ_l,    ∂L/∂b_l = δ_l, summed over the images,

without φ' at the code. The squared error would start with 2 (x̃ - x) x̃ (1 - x̃)/N, next to nothing where a pixel is
wrong and sure of it. In short trials on MNIST, training on it ended with a larger squared error than training on L.

**What pretraining was for.** Follow δ down through the layers: each multiplies it by a weight matrix and by a slope.
The units of 2006 were logistic, and σ' is at most 1/4. With small weights δ is nearly gone when it arrives at W_1, and
the first layers don't learn; with large ones the units saturate, and the network stays near where it began. So each
pair of layers was first trained alone, as a restricted Boltzmann machine, a model of the activities in the layer below.
The stack of them, unrolled, was an autoencoder that already did something sensible; backpropagation only fine-tuned it.

**What replaced it.** None of this looks at the data:

- units whose slope at 0 is 1, so that in a fresh network nearly all of a signal, and of δ, passes them;
- weights uniform on ±√(6/(n_in + n_out + 1)), a variance of 2/(n_in + n_out + 1) (Glorot and Bengio 2010), with which
  the products with W_l and W_lᵀ neither wear down what passes nor blow it up. `gradients.png` has ∂L/∂W_l of the fresh
  network, layer by layer, beside that of the same weights with logistic units;
- Adam, which divides each step by the size of recent gradients, so that no layer is left behind. Its learning rate
  falls to 0 along half a cosine;
- and faster machines.

**Which unit.** By the squared error of 10,000 images of MNIST that were held out: after six epochs, GELU, z Φ(z), with
such weights was far behind, at 5.7 where ELU had 4.4, for its slope at 0 is 1/2, and every layer halves the signal.
With weights of variance 2/n_in, which are made for units that cut off half (He et al. 2015), it learned faster than
ELU, but by heart: after 40 epochs on only 10,000 images it had 2.0 on those and 5.8 on others, ELU 2.5 and 5.0.

Martens (2010) and Sutskever et al. (2013) were the first to train this network well from random weights.

Sources: G. E. Hinton and R. R. Salakhutdinov, "Reducing the dimensionality of data with neural networks", Science 313,
2006, figure 2B. J. Martens, "Deep learning via Hessian-free optimization", ICML 2010. I. Sutskever et al., "On the
importance of initialization and momentum in deep learning", ICML 2013. The lectures on deep autoencoders and on
initialisation. The page `pca` has the linear case.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, testing, trees
from models import commands, plots
from models.commands import Run
from models.pca import error_per_image, principal_components, project
from models.training import Descent

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how. The learning rate falls to 0 along a cosine."""

    width: int
    code: int


RECIPES = {
    "digits": Recipe(epochs=100, batch_size=32, learning_rate=0.001, width=200, code=8),
    "mnist": Recipe(epochs=10, batch_size=128, learning_rate=0.001, width=1000, code=30),
}
RECIPES["paper"] = replace(RECIPES["mnist"], epochs=45)


def sizes(pixels: int, recipe: Recipe) -> list[int]:
    """Units of the encoder's layers, the image first: each hidden layer has half as many as the one before.

    Example:
        >>> sizes(784, RECIPES["paper"])
        [784, 1000, 500, 250, 30]
    """
    return [pixels, recipe.width, recipe.width // 2, recipe.width // 4, recipe.code]


class DeepAutoencoder(nn.Module):
    """An encoder with layers of these sizes, and a decoder with the same in reverse; φ after all but their last.

    Called on images (rows, pixels) it returns z, the decoder's output before σ: that is what the loss is computed from.
    """

    def __init__(self, sizes: Sequence[int], activation: Callable[[], Callable[[Any], Any]] = nn.ELU):
        self.encoder = self._layers(sizes, activation)
        self.decoder = self._layers(sizes[::-1], activation)

    @staticmethod
    def _layers(sizes: Sequence[int], activation: Callable[[], Callable[[Any], Any]]) -> nn.Sequential:
        layers: list[Callable[[Any], Any]] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), activation()]
        return nn.Sequential(*layers[:-1])

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        """z = logits of the reconstruction of x."""
        return self.decoder(self.encoder(x))

    def encode(self, images: Array) -> Array:
        """h (rows, code), of images (rows, pixels)."""
        with mg.no_grad():
            return self.encoder(mg.Tensor(images)).data

    def decode(self, codes: Array) -> Array:
        """x̃ (rows, pixels), of codes (rows, code)."""
        with mg.no_grad():
            return mg.sigmoid(self.decoder(mg.Tensor(codes))).data

    def reconstruct(self, images: Array) -> Array:
        """x̃ of images (rows, pixels)."""
        return self.decode(self.encode(images))


def mean_loss(z: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
    """L: summed over the pixels, in the mean over the images x (rows, pixels), from logits z of the reconstructions.

    Computed in a form that neither overflows nor takes log 0.

    Example:
        >>> round(mean_loss(mg.zeros((3, 4)), mg.ones((3, 4))).item(), 6)  # 4 log 2
        2.772589
    """
    return mg.bce_with_logits(z, x, reduction="sum") / len(x)


def interpolations(model: DeepAutoencoder, start: Array, end: Array, count: int) -> Array:
    """Images (count, pixels) at equal distances on the straight line between the codes of two images (pixels,)."""
    first, last = model.encode(np.stack([start, end]))
    return model.decode(np.linspace(first, last, count, dtype=np.float32))


def gradient_sizes(model: DeepAutoencoder, x: mg.Tensor) -> list[float]:
    """The root mean square of ∂L/∂W_l, for l = 1 ... 8, at images x (rows, pixels)."""
    of = mg.grad(lambda model: mean_loss(model(x), x))(model)
    weights = [layer.weight for layer in (*of.encoder, *of.decoder) if isinstance(layer, nn.Linear)]
    return [float(np.sqrt(np.mean(np.square(weight.data)))) for weight in weights]


def check(recipe: Recipe) -> testing.Report:
    """Check the gradient of the loss of five images of nine pixels with respect to all parameters, in float64."""
    small = sizes(9, replace(recipe, width=8, code=2))
    return commands.check_gradients(
        lambda: (DeepAutoencoder(small), mg.random.uniform((5, 9))), lambda model, x: mean_loss(model(x), x)
    )


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Train, compare with PCA, draw."""
    recipe, images = run.recipe, run.images
    layers = sizes(images.pixels, recipe)
    model = DeepAutoencoder(layers)
    fresh = gradients(run, model)
    schedule = mg.optim.schedules.cosine(recipe.learning_rate, recipe.steps(len(images.train)))
    descent = Descent(mg.optim.Adam(model, lr=recipe.learning_rate), schedule)

    def step(x: mg.Tensor) -> dict[str, mg.Tensor]:
        z = model(x)
        error = mg.mse(mg.sigmoid(z.detach()), x, reduction="sum") / len(x)
        return {"cross-entropy": descent(mean_loss(z, x)), "squared error": error}

    def evaluate() -> dict[str, float]:
        return {"squared error, test": error_per_image(images.test, model.reconstruct(images.test))}

    run.fit(step, {"model": model, "descent": descent}, images.train, evaluate=evaluate)
    shape = "-".join(map(str, layers + layers[-2::-1]))
    if recipe.code > 1:
        code_map(run, model)
    return {"sizes": shape, "fresh_gradients": fresh} | reconstructions(run, model)


def gradients(run: Run[Recipe], fresh: DeepAutoencoder) -> dict[str, list[float]]:
    """The size of the gradient layer by layer before any training; the same with logistic units."""
    x = mg.Tensor(run.images.train[:100])
    logistic = DeepAutoencoder(sizes(run.images.pixels, run.recipe), nn.Sigmoid)
    mg.io.load_into(logistic, dict(trees.named_leaves(fresh)))
    found = {"ELU": gradient_sizes(fresh, x), "logistic": gradient_sizes(logistic, x)}
    title = "Before training: the gradient of each layer's weights"
    with plots.axes(run.path("gradients.png"), "layer", "root mean square of ∂L/∂W", title) as drawing:
        for name, values in found.items():
            drawing.semilogy(range(1, 9), values, "o-", label=f"{name} units")
        drawing.grid(True, alpha=0.25)
        drawing.legend()
    return found


def reconstructions(run: Run[Recipe], model: DeepAutoencoder) -> dict[str, Any]:
    """The squared errors of the test images with this network and with PCA; pictures of what comes out, and between."""
    images, k = run.images, run.recipe.code
    networks = {"deep": model.reconstruct, "PCA": project(images.train, min(k, images.pixels))}
    errors = {name: error_per_image(images.test, network(images.test)) for name, network in networks.items()}
    print(
        f"squared error of a test image, summed over its {images.pixels} pixels, with a code of {k}: "
        f"{errors['deep']:.4f}; PCA {errors['PCA']:.4f}"
    )
    title = f"From {images.pixels} pixels to {k} numbers and back"
    with plots.axes(run.path("curves.png"), "epoch", "squared error of an image", title) as drawing:
        for name, label in {"squared error": "training images", "squared error, test": "test images"}.items():
            drawing.semilogy(range(1, run.place.epoch + 1), run.place.curves[name], label=label)
        drawing.yaxis.set_major_formatter("{x:g}")
        drawing.yaxis.set_minor_formatter("{x:g}")
        drawing.axhline(errors["PCA"], color="gray", linestyle="--", label="PCA, test images")
        drawing.grid(True, which="both", alpha=0.25)
        drawing.legend()
    labels, first = np.unique(images.test_labels, return_index=True)
    digits = images.test[first]
    rows = {"original": digits} | {name: network(digits) for name, network in networks.items()}
    title = f"A test image of each digit, and what {k} numbers kept of it"
    plots.image_rows(run.path("reconstructions.png"), rows, images.shape, title)

    between = {}
    for a in range(min(3, len(labels) // 2)):
        b = len(labels) - 1 - a
        between[f"{labels[a]} to {labels[b]}, deep"] = interpolations(model, digits[a], digits[b], 11)
        # PCA is linear: between two codes lie mixtures of the two images
        between[f"{labels[a]} to {labels[b]}, PCA"] = networks["PCA"](np.linspace(digits[a], digits[b], 11))
    plots.image_rows(run.path("between.png"), between, images.shape, "On the line between the codes of two test images")
    return {"squared_error": {"deep autoencoder": errors["deep"], "PCA": errors["PCA"]}}


def code_map(run: Run[Recipe], model: DeepAutoencoder) -> None:
    """Where the codes of test images lie, seen in the plane in which they vary most; of a code of two, all of it."""
    labels, codes = run.images.test_labels[:3000], model.encode(run.images.test[:3000])
    title = "Codes of test images, in their plane of largest variance"
    mean, axes = principal_components(codes, 2)
    plots.labelled_map(run.path("codes.png"), (codes - mean) @ axes, labels, "first axis", "second axis", title)


OPTIONS = {"code": "numbers in the code"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    return commands.main("models.deep_autoencoder", __doc__, RECIPES, train, check, OPTIONS, {"paper": 9}, arguments)


if __name__ == "__main__":
    sys.exit(main())
