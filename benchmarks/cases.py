"""What `benchmarks.training` and its like train, and on what.

`CASES` says it: sizes, losses, rates. `arrays` has the weights to begin with and the batches, the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Layers = list[tuple[Array, Array]]
Step = Callable[..., Any]  # from the arrays of a batch to the loss, both as the library has them


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        kind: of the loss: "autoencoder", "vae", "gan", "classifier"; or "chain", where nothing is trained.
        batch: its size.
        shapes: of the weights, (n_in, n_out) or (c_out, c_in, height, width), layer by layer.
        rate: of Adam if `beta` is its β₁, else of gradient descent.
        linear: the layers, besides the last one, that no activation follows.
    """

    kind: str
    batch: int
    shapes: tuple[tuple[int, ...], ...] = ()
    rate: float = 1e-3
    beta: float | None = 0.9
    linear: tuple[int, ...] = ()


def dense(*sizes: int) -> tuple[tuple[int, int], ...]:
    """The shapes of the weights between layers of these sizes."""
    return tuple(pairwise(sizes))


AE = dense(784, 128, 32, 128, 784)
CASES = {
    "ae32": Case("autoencoder", 32, AE),
    "ae128": Case("autoencoder", 128, AE),
    "ae512": Case("autoencoder", 512, AE),
    "deepae": Case("autoencoder", 128, dense(784, 1000, 500, 250, 30, 250, 500, 1000, 784), linear=(3,)),
    "vae": Case("vae", 128, ((784, 400), (400, 20), (400, 20), (20, 400), (400, 784))),  # two heads: mean, log variance
    "gan": Case("gan", 128, dense(64, 256, 512, 784) + dense(784, 512, 256, 1), 2e-4, 0.5),  # generator, discriminator
    "digits": Case("classifier", 32, dense(64, 32, 10), 0.1, None),
    "conv": Case("classifier", 64, ((16, 1, 3, 3), (32, 16, 3, 3), (800, 10)), 0.05, None),
    "chain": Case("chain", 8),
}
CODE, NOISE = 20, 64  # numbers that the VAE's and the GAN's noise has
SLOPE = 0.2  # of the GAN's leaky ReLU
CHAIN = 50  # times y ← tanh(y·w), so 100 operations
BATCHES = 20  # that are in the file of a case, and used over and over
BETA2, EPS = 0.999, 1e-8  # of Adam, in all libraries
ZERO, HALF, ONE = (np.float32(x) for x in (0, 0.5, 1))  # MyGrad takes Python's numbers for float64


def source(case: str) -> str:
    """The name of the images of a case."""
    return "digits" if case == "digits" else "mnist"


@cache
def images(name: str) -> tuple[Array, Array, str]:
    """Pixels in [0, 1], float32 (count, pixels), labels, int64 (count,), and where they are from."""
    from models import datasets  # here, since the processes that are measured do without

    try:
        found = datasets.load(name)
        return found.train, found.train_labels, name
    except (datasets.DataError, ImportError):
        rng, size = np.random.default_rng(0), (2000, 64 if name == "digits" else 784)
        ink = (rng.random(size) < 0.19) * rng.uniform(0.37, 1, size)  # as many pixels as in MNIST, and as dark
        return ink.astype(np.float32), rng.integers(0, 10, len(ink)), f"random numbers in place of {name}"


def arrays(name: str) -> dict[str, Array]:
    """Weights and batches of a case, as `Run` reads them: float32, and int64 labels."""
    case, rng = CASES[name], np.random.default_rng(7)
    found: dict[str, Array] = {}
    normal: Callable[..., Array] = lambda *shape: rng.standard_normal(shape, np.float32)
    for i, shape in enumerate(case.shapes):
        is_dense = len(shape) == 2
        n_in, n_out = shape if is_dense else (9 * shape[1], 9 * shape[0])
        limit = np.sqrt(6 / (n_in + n_out))  # Glorot and Bengio 2010, equation 16
        found[f"w{i}"] = rng.uniform(-limit, limit, shape).astype(np.float32)
        found[f"b{i}"] = rng.uniform(-0.05, 0.05, shape[1] if is_dense else shape[0]).astype(np.float32)
    for i in range(BATCHES):
        if case.kind == "chain":
            found |= {f"x{i}": normal(case.batch), f"y{i}": 1 + 0.01 * normal(case.batch)}
            continue
        pixels, labels, _ = images(source(name))
        chosen = rng.permutation(len(pixels))[: case.batch]
        x = pixels[chosen]
        if case.kind == "autoencoder":
            found[f"x{i}"] = x
        elif case.kind == "vae":
            found |= {f"x{i}": x, f"y{i}": normal(case.batch, CODE)}
        elif case.kind == "gan":
            found |= {f"x{i}": 2 * x - 1, f"y{i}": normal(case.batch, NOISE)}
        else:
            found |= {f"x{i}": x.reshape(-1, 1, 28, 28) if name == "conv" else x, f"y{i}": labels[chosen]}
    return found
