r"""A classifier: a network that says which digit an image shows.

    python -m models.classifier                     64-128-128-10 on 8×8 digits: five seconds
    python -m models.classifier --preset paper      784-800-800-10 on MNIST, 98.6 %: two minutes
    python -m models.classifier --preset nielsen    784-30-10 as in Nielsen's book, about 95 %: half a minute

**The model.** A network maps an image x, D pixels, to a number z_k for each class k, layer by layer:

    h⁰ = x,    hˡ = φ(hˡ⁻¹ Wˡ + bˡ),    z = hᴸ W + b,

with an activation φ. The class with the largest z_k is the network's answer. The page shows two ways to train it.

**Nielsen's network** (M. Nielsen, "Neural Networks and Deep Learning", 2015, chapter 1) is the classical one: 30 hidden
units, φ = σ, σ(z) = 1/(1 + exp(-z)), and σ at the output as well, a = σ(z). The target y is 1 at the right class and 0
elsewhere, and the cost is quadratic,

    C = 1/(2n) Σ ‖a - y‖²,    ∂C/∂z_k = (a_k - y_k) a_k (1 - a_k) / n    for each of n images.

Weights and biases start from N(0, 1), and plain stochastic gradient descent, W ← W - η ∂C/∂W, goes down with η = 3 on
minibatches of 10. He reports 95 % of the test images after 30 epochs of the first 50,000 training images.

**Softmax and cross-entropy.** The factor a_k (1 - a_k) is nearly 0 where an output is sure, even if it is wrong: such a
unit hardly learns. Let the outputs be a probability distribution instead, and the loss the negative log-likelihood of
the right class t, in nats:

    p_k = exp(z_k) / Σⱼ exp(z_j),    L = -log p_t = log Σⱼ exp(z_j) - z_t,    ∂L/∂z_k = p_k - y_k.

The gradient is the error itself. In place of σ, whose slope is at most 1/4 so that gradients fade from layer to layer,
hidden units are rectifiers, φ(z) = max(z, 0), which start from weights of variance 2/n_in (He et al. 2015). Adam takes
the steps; its learning rate falls to 0 along half a cosine.

**Against learning by heart.** Such a network has more weights than there are images to learn them from, and gets all
training images right. Three things help it with images it has not seen:

- *dropout* (Srivastava et al., JMLR 15, 2014): in training, every hidden unit is set to 0 with probability r, anew for
  each image, and the others are multiplied by 1/(1 - r). No unit can rely on another being there. Pixels are dropped,
  too, with a smaller probability. In use, nothing is dropped;
- *weight decay*: each step also shrinks all weights, W ← (1 - ηλ) W. For plain gradient descent that is a penalty
  λ/2 Σ W² in the cost; with Adam it is kept out of the gradient (Loshchilov and Hutter 2019). A weight that does not
  help fades, as do those of the pixels at the border, which are never white;
- *early stopping*: the last sixth of the training images is held out. Their error is measured after each epoch, the
  weights of the best one are kept, and training ends when so many epochs in a row were no better.

The test images are looked at once, at the end. For comparison: with dropout, three layers of 1,024 rectifiers reached
98.75 % (Srivastava et al. 2014, table 2).

**A judge.** `trained(images)` gives other pages a classifier: `gan` asks it which digits its samples show.

Sources: the lectures on multi-class networks and training; the papers above.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

import minigrad as mg
from minigrad import nn, testing
from minigrad.data import minibatches
from models import commands, plots
from models.commands import Run
from models.datasets import Images
from models.training import Descent, Patience

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how."""

    cost: Literal["cross-entropy", "quadratic"]
    layers: int  # hidden ones
    hidden: int
    drop_pixels: float
    dropout: float
    weight_decay: float
    patience: int

    def __post_init__(self) -> None:
        if max(self.drop_pixels, self.dropout) >= 1:
            raise ValueError("--drop-pixels and --dropout are probabilities below 1")


RECIPES = {
    "digits": Recipe(
        epochs=40,
        batch_size=32,
        learning_rate=0.003,
        cost="cross-entropy",
        layers=2,
        hidden=128,
        drop_pixels=0.1,
        dropout=0.3,
        weight_decay=0.1,
        patience=20,
    ),
    "mnist": Recipe(
        epochs=10,
        batch_size=100,
        learning_rate=0.002,
        cost="cross-entropy",
        layers=1,
        hidden=400,
        drop_pixels=0.1,
        dropout=0.3,
        weight_decay=0.1,
        patience=5,
    ),
    "nielsen": Recipe(
        epochs=30,
        batch_size=10,
        learning_rate=3.0,
        cost="quadratic",
        layers=1,
        hidden=30,
        drop_pixels=0.0,
        dropout=0.0,
        weight_decay=0.0,
        patience=30,
    ),
}
RECIPES["paper"] = replace(
    RECIPES["mnist"], epochs=30, learning_rate=0.001, layers=2, hidden=800, drop_pixels=0.2, dropout=0.5, patience=10
)


def linear(n_in: int, n_out: int, cost: str) -> nn.Linear:
    """A layer as it starts: for rectifiers, or with weights and biases from N(0, 1) as in Nielsen's book."""
    layer = nn.Linear(n_in, n_out, initialiser=nn.initialisers.he_uniform)
    if cost == "quadratic":
        for parameter in layer.parameters().values():
            parameter.assign(mg.random.normal(parameter.shape, dtype=np.float32))
    return layer


class Classifier(nn.Sequential):
    """Hidden layers, and an output z_k for each class.

    Called on images (rows, pixels) it returns z (rows, classes), with dropout while it is in training.
    """

    def __init__(self, pixels: int, classes: int, recipe: Recipe):
        layers: list[Callable[[Any], Any]] = [nn.Dropout(recipe.drop_pixels)]
        for _ in range(recipe.layers):
            activation = nn.Sigmoid() if recipe.cost == "quadratic" else nn.ReLU()
            layers += [linear(pixels, recipe.hidden, recipe.cost), activation, nn.Dropout(recipe.dropout)]
            pixels = recipe.hidden
        super().__init__(*layers, linear(pixels, classes, recipe.cost))

    def outputs(self, images: Array) -> Array:
        """z of images (rows, pixels), without dropout."""
        self.eval()
        with mg.no_grad():
            return self(mg.Tensor(images)).data

    def probabilities(self, images: Array) -> Array:
        """p of images (rows, pixels): the softmax of z, (rows, classes)."""
        return mg.softmax(mg.Tensor(self.outputs(images)), -1).data

    def labels(self, images: Array) -> Array:
        """What images (rows, pixels) show, (rows,): the class of the largest z."""
        return self.outputs(images).argmax(axis=1)

    def accuracy(self, images: Array, labels: Array) -> float:
        """The fraction of images (rows, pixels) whose labels (rows,) it says, in [0, 1]."""
        return float(np.mean(self.labels(images) == labels))


def mean_loss(z: mg.Tensor, labels: mg.Tensor, cost: str) -> mg.Tensor:
    """L or C, in the mean over images, from outputs z (rows, classes) and labels (rows,).

    Example:
        >>> mean_loss(mg.zeros((3, 4)), mg.Tensor([0, 1, 2]), "quadratic").item()  # all a are 1/2
        0.5
    """
    if cost == "cross-entropy":
        return mg.cross_entropy(z, labels)
    y = labels[:, None] == np.arange(z.shape[1])
    return mg.mse(mg.sigmoid(z), y.astype(z.dtype), reduction="sum") / (2 * len(z))


def check(recipe: Recipe) -> testing.Report:
    """Check the gradient of the loss of five images of nine pixels with respect to all parameters, in float64."""

    def make() -> tuple[Classifier, mg.Tensor, mg.Tensor]:
        model = Classifier(9, 3, replace(recipe, hidden=6))
        return model, mg.random.uniform((5, 9)), mg.random.integers(0, 3, 5)

    return commands.check_gradients(make, lambda model, x, labels: mean_loss(model(x), labels, recipe.cost))


def descent(model: Classifier, recipe: Recipe, images: int) -> Descent:
    """Downhill as the recipe says, with so many training images."""
    if recipe.cost == "quadratic":
        return Descent(mg.optim.SGD(model, lr=recipe.learning_rate, weight_decay=recipe.weight_decay))
    optimizer = mg.optim.Adam(model, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return Descent(optimizer, mg.optim.schedules.cosine(recipe.learning_rate, recipe.steps(images)))


def trained(images: Images, seed: int = 0) -> Classifier:
    """A classifier to judge other pages' images by, trained on all training images in half a minute on MNIST.

    The same images and seed give the same one. Nothing is drawn from the generator of the context.

    Example:
        >>> from models import datasets
        >>> digits = datasets.load("digits")
        >>> trained(digits).accuracy(digits.test, digits.test_labels) > 0.95
        True
    """
    recipe = RECIPES["digits" if len(images.train) < 10_000 else "mnist"]
    with mg.random.use(mg.random.Generator(seed)):
        model = Classifier(images.pixels, classes(images), recipe)
        down = descent(model, recipe, len(images.train))
        batches = minibatches(images.train, images.train_labels, batch_size=recipe.batch_size)

        @mg.compile
        def step(x: mg.Tensor, labels: mg.Tensor) -> None:
            down(mean_loss(model(x), labels, recipe.cost))

        for _ in range(recipe.epochs):
            for x, labels in batches:
                down.set_rate()
                step(x, labels)
    return model.eval()


def classes(images: Images) -> int:
    """How many classes there are: labels are 0, 1, ..."""
    return int(images.train_labels.max()) + 1


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Train with early stopping, measure on the test images, draw."""
    recipe = run.recipe
    images = run.images.holding_out(len(run.images.train) // 6)
    model = Classifier(images.pixels, classes(images), recipe)
    down = descent(model, recipe, len(images.train))
    held = len(images.test)
    sets = {"training": (images.train[:held], images.train_labels[:held])}
    sets |= {"held out": (images.test, images.test_labels)}

    def step(x: mg.Tensor, labels: mg.Tensor) -> mg.Tensor:
        return down(mean_loss(model(x), labels, recipe.cost))

    def evaluate() -> dict[str, float]:
        values = {}
        for name, (x, labels) in sets.items():
            z = model.outputs(x)
            values[f"loss, {name}"] = mean_loss(mg.Tensor(z), mg.Tensor(labels), recipe.cost).item()
            values[f"error, {name}"] = float(np.mean(z.argmax(axis=1) != labels))
        model.train()
        return values

    run.fit(
        step,
        {"model": model, "descent": down},
        images.train,
        images.train_labels,
        evaluate=evaluate,
        patience=Patience("error, held out", recipe.patience),
    )
    return results(run, model)


def results(run: Run[Recipe], model: Classifier) -> dict[str, Any]:
    """How many of the test images are right, and the pictures."""
    images, place = run.images, run.place
    said = model.labels(images.test)
    counts = np.zeros((classes(images), classes(images)), np.int64)
    np.add.at(counts, (images.test_labels, said), 1)
    accuracy = float(np.mean(said == images.test_labels))
    held_out = 1 - min(place.curves["error, held out"])
    print(
        f"right on {accuracy:.2%} of {len(said):,} test images (on {held_out:.2%} of those held out), with the weights "
        f"of epoch {place.best_epoch} of {place.epoch}"
    )
    sizes = "-".join(map(str, [images.pixels, *[run.recipe.hidden] * run.recipe.layers, len(counts)]))
    draw_curves(run, sizes)
    draw_confusion(run, counts)
    draw_mistakes(run, said)
    filters = next(layer for layer in model if isinstance(layer, nn.Linear)).weight.data.T[:100]
    title = f"What {len(filters)} units of the first layer add up: weights of the pixels"
    plots.filter_grid(run.path("filters.png"), filters, images.shape, 10, title)
    return {
        "sizes": sizes,
        "test_accuracy": accuracy,
        "held_out_accuracy": held_out,
        "best_epoch": place.best_epoch,
        "epochs": place.epoch,
        "confusion": counts.tolist(),  # a row for each label, a column for each answer
    }


def draw_curves(run: Run[Recipe], sizes: str) -> None:
    """Loss and accuracy over the epochs."""
    curves, title = run.place.curves, f"{sizes} on {run.data_name}"
    losses = {"training, with dropout": curves["loss"]} if run.recipe.dropout or run.recipe.drop_pixels else {}
    losses |= {name: curves[f"loss, {name}"] for name in ("training", "held out")}
    plots.curves(run.path("loss.png"), losses, f"loss of an image ({run.recipe.cost})", title)
    right = {name: [100 * (1 - error) for error in curves[f"error, {name}"]] for name in ("training", "held out")}
    plots.curves(run.path("accuracy.png"), right, "right answers (% of the images)", title)


def draw_confusion(run: Run[Recipe], counts: Array) -> None:
    """How often the images of each label got each answer."""
    mistakes = np.where(np.eye(len(counts), dtype=bool), np.nan, counts)
    title = f"Test images of {run.data_name}: {int(np.trace(counts)):,} of {int(counts.sum()):,} right"
    with plots.axes(run.path("confusion.png"), "answer", "label", title, 6.4, 6.0) as drawing:
        drawing.imshow(mistakes, cmap="Reds", vmin=0)
        for (label, answer), count in np.ndenumerate(counts):
            pale = label == answer or count < 0.6 * np.nanmax(mistakes)
            drawing.text(answer, label, str(count or ""), ha="center", va="center", color="black" if pale else "white")
        drawing.set(xticks=range(len(counts)), yticks=range(len(counts)))


def draw_mistakes(run: Run[Recipe], said: Array) -> None:
    """The first test images whose label is not what the network said."""
    images = run.images
    wrong = np.flatnonzero(said != images.test_labels)[:60]
    title = f"Wrong answers to test images of {run.data_name}: the label → the answer"
    with plots.axes(run.path("mistakes.png"), "", "", title, 9.0, 0.95 * -(-len(wrong) // 10) + 0.5) as drawing:
        for i, k in enumerate(wrong):
            y, x = divmod(i, 10)
            extent = (x + 0.1, x + 0.9, y + 1.0, y + 0.2)
            drawing.imshow(images.test[k].reshape(images.shape), cmap="gray", vmin=0, vmax=1, extent=extent)
            drawing.text(x + 0.5, y + 0.16, f"{images.test_labels[k]} → {said[k]}", ha="center", fontsize=9)
        drawing.set(xlim=(0, 10), ylim=(-(-max(len(wrong), 1) // 10), 0))
        drawing.axis("off")


OPTIONS = {
    "layers": "hidden layers",
    "hidden": "units of a hidden layer",
    "drop_pixels": "probability that a pixel is dropped in training",
    "dropout": "probability that a hidden unit is dropped in training",
    "weight_decay": "λ",
    "patience": "epochs without a better one before training ends",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    minutes = {"nielsen": 0.5, "paper": 2}
    return commands.main("models.classifier", __doc__, RECIPES, train, check, OPTIONS, minutes, arguments)


if __name__ == "__main__":
    sys.exit(main())
