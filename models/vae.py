r"""A variational autoencoder: codes follow a known distribution, so that new images can be drawn.

    python -m models.vae                     64-64-64-10-64-64-64 on 8×8 digits: fifteen seconds
    python -m models.vae --preset paper      784-400-20-400-784 on MNIST, ten epochs: two minutes
    python -m models.vae --preset iwae       784-300-300-50-300-300-784 on binarised MNIST: half an hour

**The model** tells how an image x of D pixels comes about. First a code z of K numbers is drawn, then every pixel is
black or white, on its own, with a probability that the decoder d computes from the code:

    p(z) = N(z; 0, I),    a = d(z),    p(x|z) = Πᵢ σ(aᵢ)^xᵢ (1 - σ(aᵢ))^(1 - xᵢ),    σ(a) = 1/(1 + exp(-a)).

A good model gives the images that there are a high p(x) = ∫ p(x|z) p(z) dz. This integral has no closed form, and most
codes contribute nothing to it. So an encoder says which ones do: for an image it computes μ and log σ², K numbers each,

    q(z|x) = N(z; μ(x), diag σ²(x)).

**The evidence lower bound** (ELBO). For every z, p(x) = p(x, z) / p(z|x), hence

    log p(x) = log p(x, z)/q(z|x) + log q(z|x)/p(z|x).

In the mean over z from q(z|x), the last term becomes KL(q(z|x) ‖ p(z|x)), which is never negative. The other one is
therefore a lower bound of log p(x), and with p(x, z) = p(x|z) p(z) it reads

    L(x) = E[log p(x|z)] - KL(q(z|x) ‖ p(z))    (Kingma and Welling 2014, eq. 3).

The first term is minus the cross-entropy of a reconstruction, as in an autoencoder. The second one keeps the codes of
all images together near 0, where codes will be drawn later. Raising L improves the model, or brings q(z|x) nearer to
p(z|x), or both. The loss is -L, in nats, in the mean over images.

**The divergence** is a sum over the numbers of the code. For one of them, since z has mean μ and variance σ²,

    KL = E[log q(z|x) - log p(z)] = ½ E[z² - (z - μ)²/σ² - log σ²] = ½ (μ² + σ² - 1 - log σ²)    (appendix B).

**Reparameterisation.** E[log p(x|z)] is estimated by one draw of z. So that a gradient reaches μ and σ, noise that
does not depend on them is drawn, ε from N(0, I), and

    z = μ + σ·ε,    ∂z/∂μ = 1,    ∂z/∂σ = ε.

**How good is the model?** L says too little by KL(q(z|x) ‖ p(z|x)). Let w = p(x, z)/q(z|x) with z from q(z|x): its mean
is p(x). With k draws,

    L_k(x) = E[log (w₁ + … + w_k)/k]    (Burda, Grosse and Salakhutdinov 2016, eq. 8)

is at most log E[w] = log p(x), since log is concave. L₁ is L, L_k grows with k, and tends to log p(x). With 5,000 draws
it is how papers report the test log-likelihood.

**Pixels.** The 8×8 digits were scanned finer: each of their pixels is the share of white ones among n = 16. So p(x|z)
is binomial there, with n·xᵢ and n·(1 - xᵢ) for the exponents of above; the number of ways to choose the white ones is
left out, since no model changes it. On MNIST n is 1, and there are two protocols:

- `paper` takes the grey pixels for xᵢ, as the page `autoencoder` does. Then p(x|z) is no distribution of grey images,
  and its nats compare only with those of models that do the same. In ten epochs the ELBO comes to about -103.4.
- `iwae` is about binary images. Each time a training image is used, its pixels are drawn anew, white with the
  probability that is their grey value; the 10,000 test images are drawn once, with a fixed seed. So the same binary
  image never comes twice, and overfitting is slow.

**The plane.** Beside it, `paper` and the digits train a second model whose code has two numbers. Cutting the plane into
parts of equal probability, by the quantiles of the normal distribution, and decoding the middle of each shows all that
it can draw (Kingma and Welling 2014, figure 4).

Sources: D. P. Kingma and M. Welling, "Auto-Encoding Variational Bayes", ICLR 2014; Y. Burda, R. Grosse and R.
Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016. Their VAE, 784-200-200-50 and back with tanh, has L_5000 =
-86.76 on binarised MNIST, after 3,280 epochs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

import minigrad as mg
from minigrad import nn, testing
from minigrad.optim import schedules
from models import commands, plots
from models.commands import Run
from models.progress import Bar
from models.training import Descent

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe(commands.Recipe):
    """What is trained, and how."""

    layers: int  # hidden ones, of the encoder and of the decoder
    hidden: int
    code: int
    activation: Literal["Tanh", "ReLU", "SiLU"]
    pixels: Literal["grey", "binary"]
    trials: int  # n, the binary pixels of which a grey one is the mean
    samples: int
    plane: Literal["yes", "no"]


RECIPES = {
    "digits": Recipe(
        epochs=150,
        batch_size=32,
        learning_rate=0.005,
        layers=2,
        hidden=64,
        code=10,
        activation="Tanh",
        pixels="grey",
        trials=16,
        samples=1000,
        plane="yes",
    ),
    "mnist": Recipe(
        epochs=10,
        batch_size=100,
        learning_rate=0.003,
        layers=1,
        hidden=400,
        code=20,
        activation="ReLU",
        pixels="grey",
        trials=1,
        samples=100,
        plane="yes",
    ),
    "iwae": Recipe(
        epochs=200,
        batch_size=100,
        learning_rate=0.002,
        layers=2,
        hidden=300,
        code=50,
        activation="SiLU",
        pixels="binary",
        trials=1,
        samples=5000,
        plane="no",
    ),
}
RECIPES["paper"] = RECIPES["mnist"]


def network(sizes: Sequence[int], activation: Callable[[], Callable[[Any], Any]]) -> nn.Sequential:
    """Fully connected layers of these sizes, with an activation between them."""
    layers: list[Callable[[Any], Any]] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), activation()]
    return nn.Sequential(*layers[:-1])


class VAE(nn.Module):
    """An encoder, from images (rows, pixels) to μ and log σ², and a decoder, from codes (rows, code) to a."""

    def __init__(self, pixels: int, code: int, recipe: Recipe):
        between = [recipe.hidden] * recipe.layers
        activation = getattr(nn, recipe.activation)
        self.trials = recipe.trials
        self.encoder = network([pixels, *between, 2 * code], activation)
        self.decoder = network([code, *between, pixels], activation)

    def encode(self, x: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        """μ and log σ² of q(z|x), (rows, code) each."""
        mean, log_variance = mg.split(self.encoder(x), 2, axis=1)
        return mean, log_variance

    def codes(self, images: Array) -> Array:
        """μ, where the codes of images (rows, pixels) most likely are: (rows, code)."""
        with mg.no_grad():
            return self.encode(mg.Tensor(images))[0].data

    def decode(self, codes: Array) -> Array:
        """σ(a), the probabilities of white pixels, for codes (rows, code)."""
        with mg.no_grad():
            return mg.sigmoid(self.decoder(mg.Tensor(codes))).data


def negative_elbo(model: VAE, x: mg.Tensor) -> mg.Tensor:
    """-L of images x (rows, pixels), in nats, in their mean; E[log p(x|z)] is estimated by one draw for each."""
    mean, log_variance = model.encode(x)
    z = mg.random.normal(mean.shape, mean, mg.exp(log_variance / 2))
    cross_entropy = model.trials * mg.bce_with_logits(model.decoder(z), x, reduction="sum")
    return (cross_entropy + mg.sum(mg.gaussian_kl(mean, log_variance))) / len(x)


BLOCK = 1000  # codes that are decoded at a time: few enough for the cache


def importance_bound(model: VAE, x: mg.Tensor, k: int) -> float:
    """L_k of one image x (1, pixels), in nats, estimated by k draws."""
    mean, log_variance = model.encode(x)
    sums = []
    for start in range(0, k, BLOCK):
        noise = mg.random.normal((min(BLOCK, k - start), mean.shape[1]), dtype=mean.dtype)
        z = mean + mg.exp(log_variance / 2) * noise
        a = model.decoder(z)
        # log p(x|z) = n·Σ xᵢ·aᵢ - log(1 + exp aᵢ); the factors 2π of p(z) and q(z|x) cancel in w
        log_p_x = model.trials * (a @ x[0] - mg.sum(mg.softplus(a), axis=1))
        log_p_z = -mg.sum(z * z, axis=1) / 2
        log_q = -mg.sum(noise * noise + log_variance, axis=1) / 2
        sums.append(mg.logsumexp(log_p_x + log_p_z - log_q).item())
    return float(np.logaddexp.reduce(sums)) - log(k)


def log_likelihood(model: VAE, images: Array, k: int) -> float:
    """L_k in the mean over images (rows, pixels)."""
    with mg.no_grad(), Bar("importance sampling", len(images), "images") as bar:
        total = 0.0
        for x in images:
            total += importance_bound(model, mg.Tensor(x[None]), k)
            bar.advance(1)
    return total / len(images)


def binarised(x: Any) -> mg.Tensor:
    """Pixels of x drawn anew: 1 with the probability that they are, else 0."""
    return mg.random.bernoulli(x).astype(x.dtype)


def as_seen(images: Array, recipe: Recipe) -> Array:
    """The test images: grey, or binary, and then always the same, whatever the seed of the run."""
    if recipe.pixels == "grey":
        return images
    with mg.random.use(mg.random.Generator(0)):
        return binarised(images).data


def start_at_mean(model: VAE, images: Array) -> None:
    """Let the decoder begin with the mean image: training need not find out which pixels are always black."""
    p = np.clip(images.mean(axis=0), 0.001, 0.999)
    last: Any = model.decoder[-1]
    last.bias.assign(np.log(p / (1 - p)))


def check(recipe: Recipe) -> testing.Report:
    """Check the gradient of the loss of five images of nine pixels with respect to all parameters, in float64."""

    def make() -> tuple[VAE, mg.Tensor]:
        x = mg.random.uniform((5, 9))
        return VAE(9, 3, replace(recipe, hidden=5)), binarised(x) if recipe.pixels == "binary" else x

    return commands.check_gradients(make, negative_elbo)


def train(run: Run[Recipe]) -> dict[str, Any]:
    """Train, measure, draw."""
    recipe, images = run.recipe, run.images
    codes = {"vae": recipe.code} | ({"plane": 2} if recipe.plane == "yes" else {})
    models = {name: VAE(images.pixels, code, recipe) for name, code in codes.items()}
    schedule = schedules.cosine(recipe.learning_rate, recipe.steps(len(images.train)))
    descents = {}
    for name, model in models.items():
        start_at_mean(model, images.train)
        descents[name] = Descent(mg.optim.Adam(model, lr=recipe.learning_rate), schedule)
    test = as_seen(images.test, recipe)

    def step(x: mg.Tensor) -> dict[str, mg.Tensor]:
        x = binarised(x) if recipe.pixels == "binary" else x
        return {name: descents[name](negative_elbo(models[name], x)) for name in models}

    def evaluate() -> dict[str, float]:
        return {f"{name}, test": negative_elbo(model, mg.Tensor(test)).item() for name, model in models.items()}

    place = run.fit(step, {"model": models, "descent": descents}, images.train, evaluate=evaluate)
    sizes = "-".join(map(str, [images.pixels, *[recipe.hidden] * recipe.layers, recipe.code]))
    losses = {name: curve for name, curve in place.curves.items() if name.startswith("vae")}
    plots.curves(run.path("curves.png"), losses, "-L of an image, in nats", f"{sizes} and back, on {run.data_name}")
    reconstructions(run, models, test)
    pictures(run, models["vae"], test)
    if recipe.plane == "yes":
        plane_pictures(run, models["plane"], test)
    return {"sizes": sizes} | measure(run, models["vae"], test, -place.curves["vae, test"][-1])


def measure(run: Run[Recipe], model: VAE, test: Array, elbo: float) -> dict[str, Any]:
    """The ELBO and its parts, the importance-weighted bound, and how many numbers of the code are used."""
    k = run.recipe.samples
    with mg.no_grad():
        mean, log_variance = model.encode(mg.Tensor(test))
        kl = mg.sum(mg.gaussian_kl(mean, log_variance)).item() / len(test)
    # μ of a number that is not used is the same for all images (Burda et al. 2016, section 5.2)
    used = int(np.count_nonzero(mean.data.var(axis=0) > 0.01))
    print(
        f"test images ({run.recipe.pixels} pixels), in nats an image: ELBO {elbo:.2f} = log p(x|z) {elbo + kl:.2f} "
        f"- KL {kl:.2f}; {used} of the {run.recipe.code} numbers of the code are used"
    )
    bound = log_likelihood(model, test, k)
    print(f"log-likelihood of a test image, from {k:,} importance samples: {bound:.2f} nats")
    return {
        "unit": f"nats an image, in the mean over {len(test)} test images, {run.recipe.pixels} pixels",
        "elbo": elbo,
        "kl": kl,
        "importance_samples": k,
        "log_likelihood": bound,
        "code_numbers_used": used,
    }


def reconstructions(run: Run[Recipe], models: dict[str, VAE], test: Array) -> None:
    """What comes out for the first test images if the code is μ."""
    rows = {name: model.decode(model.codes(test[:12])) for name, model in models.items()}
    title = f"Test images, and what {run.recipe.code} numbers kept of them"
    plots.image_rows(run.path("reconstructions.png"), {"original": test[:12]} | rows, run.images.shape, title)


def pictures(run: Run[Recipe], model: VAE, test: Array) -> None:
    """New images, and ways from one test image to another."""
    shape = run.images.shape
    samples = model.decode(mg.random.normal((150, run.recipe.code), dtype="float32").data)
    title = "New images: probabilities of white pixels for codes from N(0, I)"
    plots.image_grid(run.path("samples.png"), samples, shape, 15, title)

    _, first = np.unique(run.images.test_labels, return_index=True)  # an image of each digit
    others = np.roll(first, -1)
    title = "From one test image to another, straight through the space of codes"
    plots.image_grid(run.path("interpolation.png"), interpolation(model, test[first], test[others]), shape, 13, title)


def interpolation(model: VAE, start: Array, end: Array) -> Array:
    """For each pair of images (rows, pixels): the first, eleven images on the way, and the second; row after row.

    The way is the straight line from the code of the first image to that of the second.
    """
    t = np.linspace(0, 1, 11, dtype=np.float32)[:, None]
    lines = [(1 - t) * a + t * b for a, b in zip(model.codes(start), model.codes(end), strict=True)]
    return np.concatenate([[x, *model.decode(line), y] for x, line, y in zip(start, lines, end, strict=True)])


def plane_pictures(run: Run[Recipe], model: VAE, test: Array) -> None:
    """What the points of the plane are decoded to, and where test images lie in it."""
    title = "What the plane of two numbers holds, in parts of equal probability"
    plots.image_grid(run.path("manifold.png"), model.decode(quantile_grid(20)), run.images.shape, 20, title)
    labels = run.images.test_labels[:3000]
    title = "Where test images lie in the plane"
    plots.labelled_map(run.path("plane.png"), model.codes(test[:3000]), labels, "z₁", "z₂", title)


def quantile_grid(n: int) -> Array:
    """Codes (n², 2) in the middle, by probability, of n·n parts of the plane that are equally probable under N(0, I).

    Row by row from the top left: z₁ grows to the right, z₂ upwards.

    Example:
        >>> quantile_grid(2).round(2).tolist()
        [[-0.67, 0.67], [0.67, 0.67], [-0.67, -0.67], [0.67, -0.67]]
    """
    marks = [NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]
    return np.array([(x, y) for y in reversed(marks) for x in marks], np.float32)


OPTIONS = {
    "layers": "hidden layers of the encoder and of the decoder",
    "hidden": "units of each hidden layer",
    "code": "numbers in the code",
    "pixels": "what the model is about: grey pixels, or binary ones, drawn with the grey values as probabilities",
    "samples": "of the importance-weighted bound, for each test image",
    "plane": "whether to train a second model, whose code has two numbers",
}
MINUTES = {"paper": 2, "iwae": 30}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `commands.main` for its exit codes."""
    return commands.main("models.vae", __doc__, RECIPES, train, check, OPTIONS, MINUTES, arguments)


if __name__ == "__main__":
    sys.exit(main())
