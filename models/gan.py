r"""A generative adversarial network: one network draws digits, another one tells them from real ones, and both learn.

    python -m models.gan                     10-64-128-64 against 64-128-64-1 on 8×8 digits: half a minute
    python -m models.gan --preset paper      10-256-512-784 against 784-512-256-1 on MNIST: five minutes

**The game** (Goodfellow et al. 2014). A generator G turns noise z of K numbers, from N(0, I), into an image G(z). A
discriminator D says with which probability an image is real: D(x) = σ(a(x)), σ(a) = 1/(1 + exp(-a)). They play for

    V(D, G) = E[log D(x)] + E[log(1 - D(G(z)))]    (equation 1; x: the real images).

D wants V large, right answers; G wants it small, to be taken for real. No pixel of G(z) is ever compared with one of x.

**The best discriminator.** Let p be the density of real images and q that of generated ones. Then

    V = ∫ p(x) log D(x) + q(x) log(1 - D(x)) dx,

and for each x the largest value is where p/D = q/(1 - D), that is at

    D*(x) = p(x)/(p(x) + q(x)),    a*(x) = log p(x) - log q(x)    (proposition 1).

Put in, with m = (p + q)/2, this gives (theorem 1)

    V(D*, G) = E_p[log p/(2m)] + E_q[log q/(2m)] = -log 4 + KL(p ‖ m) + KL(q ‖ m) = -log 4 + 2 JSD(p, q).

The Jensen-Shannon divergence JSD is never negative, and 0 only if q = p. So against the best discriminator the best
generator draws real images; then D says 1/2 to everything, and V = -log 4 = -1.386.

**What G learns from** is the slope of a at the images it drew: ∂V/∂θ is a mean of J_θᵀ ∂/∂x log(1 - D(x)), with J_θ the
Jacobian of x = G(z). For the best discriminator ∇a* = ∇log p - ∇log q: towards where real images are denser, and away
from where G draws already. This second part is why not all z end at the same, most likely image.

**Two losses for G.** In terms of a = a(G(z)), with 1 - σ(a) = σ(-a), minimised:

    minimax           log(1 - D) = -log(1 + exp(a)),    slope -σ(a)     = -D,
    non-saturating    -log D = log(1 + exp(-a)),        slope -(1 - σ(a)) = -(1 - D).

Both want a to grow, but the minimax loss hardly says so where D is sure that an image is drawn, D ≈ 0, as it is at the
beginning: it saturates. The other one (section 3) has a slope near -1 there. Its fixed point is the same.

**Noise.** Real images fill nearly nothing of the space of pixels, nor do drawn ones. A network D can then be right on
all of them, and ∇a says nothing about where to go. Hence D only sees images with noise, x + s·ε with ε from N(0, I)
(Sønderby et al. 2017; Arjovsky and Bottou 2017). Blurred like this, p and q overlap, and they are equal only if they
were so before. With little noise, D wins on MNIST, and some digits become rare in what G draws.

**Ink spreads.** A fully connected layer does not know which pixels are neighbours. It leaves white and black specks
all over the image, and D is slow to mend that. So the logits L of G's pixels, as a matrix, are smoothed before σ by a
Gaussian of width r pixels, down and across: L ← A L Bᵀ, with A and B constant.

**An average of G.** The game goes round and round its fixed point rather than to it. So images for us are drawn by an
average of the weights of G over the last 1/(1 - d) steps or so, w̄ ← d·w̄ + (1 - d)·w (Yazıcı et al. 2019). The
learning rate stays high, so that there is something to average. On MNIST this is worth 37 of the nats below.

**How good is it?** G gives no likelihoods. Goodfellow et al. put a Gaussian window of width h around each of n = 10,000
samples and take the density of that mixture at the test images, of N pixels each:

    log p(x) ≈ log 1/n Σⱼ exp(-‖x - G(zⱼ)‖²/(2h²)) - N log(h √(2π))    (Parzen 1962),

with h chosen by images that were held out from training. It is a rough measure: smooth samples score better than sharp
ones, even than real images (Theis, van den Oord and Bethge 2016). So a classifier also counts which digits the samples
show: all ten should be there.

Source: I. J. Goodfellow et al., "Generative Adversarial Nets", NeurIPS 2014. In table 1 they have 225 ± 2 nats on
MNIST. With training images in place of samples it is 242.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Literal

import numpy as np

import minigrad as mg
from minigrad import nn, testing, trees
from models import classifier, commands, plots
from models.commands import Run
from models.training import Descent

Array = np.ndarray[Any, Any]

FRAMES = 8  # of the picture of samples in the course of training
SHOWN = 12  # samples in each of them
HELD_OUT = 6  # the last one in so many of the training images chooses the width of the window


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how."""

    code: int  # K, the numbers in z
    hidden: int  # units of the smaller hidden layer of both networks; the larger one has twice as many
    loss: Literal["non-saturating", "minimax"]  # of the generator
    spread: float  # r, in pixels
    noise: float  # s, on the images that the discriminator sees
    memory: float  # d, of the average of the generator's weights
    samples: int  # that are drawn to measure it

    def __post_init__(self) -> None:
        if self.memory >= 1:
            raise ValueError("--memory is a number below 1")
        if self.batch_size < 2:
            raise ValueError("--batch-size is at least 2, since minibatches are normalised")


RECIPES = {
    "digits": Recipe(
        epochs=300,
        batch_size=64,
        learning_rate=0.001,
        code=10,
        hidden=64,
        loss="non-saturating",
        spread=0.4,
        noise=0.25,
        memory=0.999,
        samples=2000,
    ),
    "mnist": Recipe(
        epochs=40,
        batch_size=128,
        learning_rate=0.001,
        code=10,
        hidden=256,
        loss="non-saturating",
        spread=1.3,
        noise=0.5,
        memory=0.9995,
        samples=10_000,
    ),
}
RECIPES["paper"] = RECIPES["mnist"]


class Generator(nn.Module):
    """G: code → hidden → 2·hidden → pixels. The hidden layers are normalised over the minibatch, and rectified."""

    def __init__(self, code: int, hidden: int, shape: tuple[int, int], spread: float):
        layers: list[Callable[[Any], Any]] = []
        for n_in, n_out in pairwise((code, hidden, 2 * hidden)):
            layers += [linear(n_in, n_out), nn.BatchNorm(n_out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, linear(2 * hidden, prod(shape)))
        self.down, self.across = (mg.Tensor(window(length, spread)) for length in shape)

    def __call__(self, z: mg.Tensor) -> mg.Tensor:
        """G(z), images (rows, pixels) in [0, 1], of codes (rows, code)."""
        logits = mg.reshape(self.layers(z), (len(z), len(self.down), len(self.across)))
        smooth = mg.matmul(mg.matmul(self.down, logits), mg.matrix_transpose(self.across))
        return mg.sigmoid(mg.reshape(smooth, (len(z), -1)))

    def draw(self, z: Array) -> Array:
        """G(z) as images for us: each on its own, not normalised with its companions."""
        self.eval()
        with mg.no_grad():
            return np.concatenate([self(mg.Tensor(part)).data for part in np.array_split(z, -(-len(z) // 1000))])


def window(length: int, spread: float) -> Array:
    """What each of so many pixels in a line takes from each: a bell curve of this width, the sum of a row is 1.

    Example:
        >>> window(3, 0.5).round(2)
        array([[0.88, 0.12, 0.  ],
               [0.11, 0.79, 0.11],
               [0.  , 0.12, 0.88]], dtype=float32)
    """
    pixels = np.arange(length)
    weights = np.exp(-0.5 * np.square((pixels[:, None] - pixels) / spread)) if spread else np.eye(length)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


class Discriminator(nn.Module):
    """D, by its logit: pixels → 2·hidden → hidden → 1."""

    def __init__(self, pixels: int, hidden: int):
        leaky = nn.LeakyReLU(0.2)
        self.layers = nn.Sequential(
            linear(pixels, 2 * hidden), leaky, linear(2 * hidden, hidden), leaky, linear(hidden, 1)
        )

    def __call__(self, x: mg.Tensor) -> mg.Tensor:
        """a(x) = log D(x)/(1 - D(x)), (rows, 1), of images (rows, pixels)."""
        return self.layers(x)


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A layer as it starts, before a rectifier (He et al. 2015)."""
    return nn.Linear(n_in, n_out, initialiser=nn.initialisers.he_normal)


def discriminator_loss(real: mg.Tensor, drawn: mg.Tensor) -> mg.Tensor:
    """-V, from the logits a of real and of drawn images: -log D = log(1 + exp(-a)), -log(1 - D) = log(1 + exp(a)).

    Example:
        >>> a = mg.zeros(5)  # who does not know says 1/2
        >>> discriminator_loss(a, a).item()  # log 4
        1.386294
    """
    return mg.mean(mg.softplus(-real)) + mg.mean(mg.softplus(drawn))


def generator_loss(drawn: mg.Tensor, kind: str) -> mg.Tensor:
    """log(1 - D) ("minimax") or -log D ("non-saturating"), in the mean, from the logits a of drawn images.

    Example:
        >>> sure = mg.Tensor([-10.0])  # that the image is drawn
        >>> [mg.grad(generator_loss)(sure, kind).item() for kind in ("minimax", "non-saturating")]
        [-0.000045, -0.999955]
    """
    return mg.mean(-mg.softplus(drawn) if kind == "minimax" else mg.softplus(-drawn))


def blurred(x: mg.Tensor, noise: float) -> mg.Tensor:
    """x + s·ε, ε from N(0, I)."""
    return x + noise * mg.random.normal(x.shape, dtype=x.dtype)


def constant(model: Discriminator) -> Discriminator:
    """The same function, whose parameters are constants: gradients flow through it to x alone."""
    return trees.map(mg.stop_gradient, model)


def parzen(images: Array, centres: Array, widths: Sequence[float]) -> Array:
    """log p of images under a mixture of Gaussian windows, in nats, for each width h.

    Args:
        images: (count, pixels).
        centres: the means of the windows, (n, pixels), all of the same weight.
        widths: h, the standard deviation of a window in every pixel, several to choose from.

    Returns:
        log p, (widths, count), as in the docstring of the page. Distances are computed in the dtype of the images.

    Example:
        >>> parzen(np.zeros((1, 2)), np.zeros((5, 2)), [1.0])  # -log 2π
        array([[-1.837877]])
    """
    count, pixels = images.shape
    result = np.empty((len(widths), count))
    lengths = np.sum(centres**2, axis=1)
    for start in range(0, count, 500):  # rows of the distances to all centres: to hold them all takes much memory
        rows = slice(start, start + 500)
        x = images[rows]
        squares = np.sum(x**2, axis=1, keepdims=True) + lengths - 2 * x @ centres.T  # ‖x - c‖²
        least = squares.min(axis=1, keepdims=True)  # taken out of the exponentials, so that they are not all 0
        squares -= least
        for k, h in enumerate(widths):
            mean = np.exp(squares * squares.dtype.type(-1 / (2 * h * h))).mean(axis=1)
            result[k, rows] = np.log(mean) - least[:, 0] / (2 * h * h) - pixels * np.log(h * np.sqrt(2 * np.pi))
    return result


def likelihood(images: Array, held_out: Array, centres: Array) -> dict[str, float]:
    """The mean log p of images, its standard error, and the width of the window, which the images held out chose."""
    widths = [k / 100 for k in range(10, 31)]
    width = widths[parzen(held_out, centres, widths).mean(axis=1).argmax()]
    log_p = parzen(images, centres, [width])[0]
    error = float(log_p.std() / np.sqrt(len(log_p)))
    return {"nats": float(log_p.mean()), "standard_error": error, "width": width}


def nearest(samples: Array, train: Array) -> Array:
    """The training image (of rows, pixels) that is nearest to each of the samples (rows, pixels).

    Example:
        >>> nearest(np.array([[0.9, 0.2]]), np.eye(2))
        array([[1., 0.]])
    """
    squares = np.sum(train**2, axis=1) - 2 * samples @ train.T  # and ‖sample‖², the same for all
    return train[squares.argmin(axis=1)]


def way(start: Array, end: Array, count: int) -> Array:
    """Codes on the way from one draw of N(0, I), (K,), to another: start·cos t + end·sin t, t from 0 to π/2.

    As cos² t + sin² t = 1, each of them is distributed as N(0, I), too; the middle of a straight line is too near to 0.

    Example:
        >>> way(np.array([1.0, 0.0]), np.array([0.0, 1.0]), 3).round(3)
        array([[1.   , 0.   ],
               [0.707, 0.707],
               [0.   , 1.   ]])
    """
    t = np.linspace(0, np.pi / 2, count)[:, None]
    return start * np.cos(t) + end * np.sin(t)


def check(recipe: Recipe) -> testing.Report:
    """Check the gradients of both losses, of five images of nine pixels, with respect to all parameters, in float64."""

    def make() -> tuple[dict[str, Any], mg.Tensor, mg.Tensor]:
        networks = {"generator": Generator(3, 4, (3, 3), recipe.spread), "discriminator": Discriminator(9, 4)}
        return networks, mg.random.uniform((5, 9)), mg.random.normal((5, 3))

    def losses(networks: dict[str, Any], x: mg.Tensor, z: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        real, drawn = (
            networks["discriminator"](blurred(images, recipe.noise)) for images in (x, networks["generator"](z))
        )
        return discriminator_loss(real, drawn), generator_loss(drawn, recipe.loss)

    return commands.check_gradients(make, losses)


def follow(average: nn.Module, model: nn.Module, memory: mg.Tensor) -> None:
    """w̄ ← d·w̄ + (1 - d)·w, for every tensor of two modules of a kind; d is a number ()."""
    for mean, w in zip(average.tensors().values(), model.tensors().values(), strict=True):
        d = memory.astype(mean.dtype)
        mean.assign(d * mean.detach() + (1 - d) * w.detach())


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Let the two play, then measure and draw what the generator makes."""
    recipe, images = run.recipe, run.images.holding_out(len(run.images.train) // HELD_OUT)
    generator = Generator(recipe.code, recipe.hidden, images.shape, recipe.spread)
    discriminator = Discriminator(images.pixels, recipe.hidden)
    average = generator.astype(np.float32)  # a copy
    batches = -(-len(images.train) // recipe.batch_size)
    descents = {  # a short memory of gradients, β₁ = 0.5, since the other network changes them (Radford et al. 2016)
        name: Descent(mg.optim.Adam(network, lr=recipe.learning_rate, betas=(0.5, 0.999)))
        for name, network in (("generator", generator), ("discriminator", discriminator))
    }
    frames = sorted({round(epoch) for epoch in np.geomspace(1, recipe.epochs, FRAMES)})  # epochs
    film = mg.Tensor(np.zeros((len(frames), SHOWN, images.pixels), np.float32))
    same = mg.random.normal((SHOWN, recipe.code), dtype=np.float32).data

    def step(x: mg.Tensor) -> dict[str, mg.Tensor]:
        drawn = generator(mg.random.normal((recipe.batch_size, recipe.code), dtype=np.float32))
        on_real = discriminator(blurred(x, recipe.noise))
        on_drawn = discriminator(blurred(mg.stop_gradient(drawn), recipe.noise))
        right = (mg.mean(on_real > 0) + mg.mean(on_drawn < 0)) / 2
        losses = {"discriminator": descents["discriminator"](discriminator_loss(on_real, on_drawn))}
        then = constant(discriminator)(blurred(drawn, recipe.noise))  # a of the same images, after D has learned
        losses |= {"generator": descents["generator"](generator_loss(then, recipe.loss))}
        steps = descents["generator"].steps
        follow(average, generator, mg.minimum(recipe.memory, steps / (steps + 10)))  # at first it forgets faster
        return losses | {"accuracy": right}

    def evaluate() -> dict[str, float]:
        epoch = int(descents["generator"].steps.item()) // batches
        if epoch in frames:
            now = np.arange(len(frames))[:, None, None] == frames.index(epoch)
            film.assign(np.where(now, average.draw(same), film.data))
        return {}

    model = {"generator": generator, "discriminator": discriminator, "average": average}
    run.fit(step, {"model": model, "descents": descents, "film": film}, images.train, evaluate=evaluate)
    draw_curves(run)
    rows = {f"epoch {epoch}": row for epoch, row in zip(frames, film.data, strict=True)}
    plots.image_rows(run.path("training.png"), rows, images.shape, "What became of the same twelve codes")
    return {"sizes": sizes(recipe, images.pixels)} | results(run, average)


def sizes(recipe: Recipe, pixels: int) -> str:
    """The numbers of units, layer by layer."""
    return (
        f"{recipe.code}-{recipe.hidden}-{2 * recipe.hidden}-{pixels} against "
        f"{pixels}-{2 * recipe.hidden}-{recipe.hidden}-1"
    )


def results(run: Run[Recipe], average: Generator) -> dict[str, Any]:
    """How likely the samples make the test images, which digits they show, and pictures of them."""
    recipe, images = run.recipe, run.images.holding_out(len(run.images.train) // HELD_OUT)
    samples = average.draw(mg.random.normal((recipe.samples, recipe.code), dtype=np.float32).data)
    centres = {"samples": samples, "training images": images.train[: recipe.samples]}
    found = {name: likelihood(run.images.test, images.test, some) for name, some in centres.items()}
    judge = classifier.trained(run.images)
    accuracy = judge.accuracy(run.images.test, run.images.test_labels)
    share = np.bincount(judge.labels(samples), minlength=classifier.classes(run.images)) / len(samples)
    print(
        f"log-likelihood of a test image, by windows around {len(samples):,} samples: {found['samples']['nats']:.1f} ± "
        f"{found['samples']['standard_error']:.1f} nats; around as many training images: "
        f"{found['training images']['nats']:.1f}"
    )
    print(
        f"what the samples show: most seldom {share.argmin()}, {share.min():.1%}, and most often {share.argmax()}, "
        f"{share.max():.1%}, says a classifier that is right on {accuracy:.2%} of the test images"
    )
    shape = images.shape
    plots.image_grid(run.path("samples.png"), samples[:200], shape, 20, f"Samples, after training on {run.data_name}")
    draw_shares(run, share)
    rows = {"sample": samples[:SHOWN], "nearest training image": nearest(samples[:SHOWN], images.train)}
    plots.image_rows(run.path("nearest.png"), rows, shape, "Samples, and the training images nearest to them")
    ends = mg.random.normal((9, recipe.code), dtype=np.float32).data
    codes = np.concatenate([way(start, end, 16) for start, end in pairwise(ends)]).astype(np.float32)
    title = "From one code to another: each row begins with the code that ended the one before"
    plots.image_grid(run.path("interpolation.png"), average.draw(codes), shape, 16, title)
    return {
        "parzen_log_likelihood": found,
        "parzen_protocol": f"{len(samples)} Gaussian windows; width chosen by the last {len(images.test)} training "
        f"images, which were not trained on; mean of {len(run.images.test)} test images, pixels in [0, 1]",
        "share_of_each_label": share.tolist(),
        "smallest_share": float(share.min()),
        "judge_test_accuracy": accuracy,
    }


def draw_curves(run: Run[Recipe]) -> None:
    """Both losses, and how often the discriminator is right."""
    curves, title = run.place.curves, f"{sizes(run.recipe, run.images.pixels)} on {run.data_name}"
    even = -np.log(2) if run.recipe.loss == "minimax" else np.log(2)
    losses = {
        f"discriminator ({np.log(4):.3f} if it can't tell)": curves["discriminator"],
        f"generator, {run.recipe.loss} ({even:.3f} then)": curves["generator"],
    }
    plots.curves(run.path("losses.png"), losses, "loss (nats)", title)
    right = {"real and drawn images, with noise": [100 * share for share in curves["accuracy"]]}
    plots.curves(run.path("accuracy.png"), right, "discriminator's right answers (%)", title)


def draw_shares(run: Run[Recipe], share: Array) -> None:
    """How many of the samples show each digit, and how many of the training images do."""
    real = np.bincount(run.images.train_labels, minlength=len(share)) / len(run.images.train)
    title = f"What the samples show, and the training images of {run.data_name}"
    with plots.axes(run.path("shares.png"), "label", "share (%)", title) as drawing:
        for name, values, side in (("training images", real, -0.2), ("samples", share, 0.2)):
            drawing.bar(np.arange(len(share)) + side, 100 * values, 0.4, label=name)
        drawing.axhline(3, color="black", linewidth=0.8, linestyle=":", label="3 %")
        drawing.set_xticks(range(len(share)))
        drawing.set_ylim(top=125 * max(share.max(), real.max()))  # room for the legend
        drawing.legend(ncols=3, loc="upper center")


OPTIONS = {
    "code": "numbers in z",
    "hidden": "units of the smaller hidden layers; the larger ones have twice as many",
    "loss": "of the generator",
    "spread": "r, over so many pixels the generator smooths what it draws",
    "noise": "s, on the images that the discriminator sees",
    "memory": "d, of the average of the generator's weights",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    return commands.main("models.gan", __doc__, RECIPES, train, check, OPTIONS, {"paper": 5}, arguments)


if __name__ == "__main__":
    sys.exit(main())
