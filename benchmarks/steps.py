"""Training steps as a user of each library writes them, and the process in which one of them runs.

`CASES` says what is trained. `of_minigrad` (eager, and compiled: the very same function), `of_torch` (with its usual
and with its fused optimiser) and `of_jax` (one jitted function, whose old state is donated) make a step of it:
called with a batch, it returns the loss before its update. All start from the same weights and see the same batches,
which `benchmarks.training` writes to a file.

The process reads commands from standard input and answers on standard output, a line of JSON each, or says what went
wrong: {"failure": "..."}. First

    {"peer": "jax", "case": "ae32", "file": "ae32.npz"}

imports the library, prepares, and takes the first step. Then {"warm": 5, "steps": 50} takes 5 steps, and 50 that are
timed; the answer has the seconds of one, the last loss, and the memory: MiB that were resident after the import, and
the peak so far. Nothing is imported here that a library would not import itself.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import cycle, islice, pairwise
from pathlib import Path
from time import perf_counter
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


def in_a_row(layers: Sequence[Any], activation: Any, linear: Sequence[int] = ()) -> Iterator[Any]:
    """The layers, and an activation after each but the last and those that are to stay linear."""
    for i, layer in enumerate(layers):
        yield layer
        if i not in (*linear, len(layers) - 1):
            yield activation


def of_minigrad(case: Case, weights: Layers, compiled: bool = False) -> Step:
    """With modules and `mg.optim`; or the same function, given to `mg.compile`."""
    import minigrad as mg
    from minigrad import nn

    compile = mg.compile if compiled else lambda function: function

    def layer(w: Array, b: Array) -> Any:
        made: Any = nn.Linear(*w.shape) if w.ndim == 2 else nn.Conv2d(w.shape[1], w.shape[0], w.shape[2:])
        made.weight.assign(w)
        made.bias.assign(b)
        return made

    def descent(model: Any) -> mg.optim.Optimizer:
        if case.beta is None:
            return mg.optim.SGD(model, case.rate)
        return mg.optim.Adam(model, case.rate, (case.beta, BETA2), EPS)

    def train(optimizer: mg.optim.Optimizer, loss: mg.Tensor) -> mg.Tensor:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    if case.kind == "chain":

        def chain(y: mg.Tensor, w: mg.Tensor) -> mg.Tensor:
            for _ in range(CHAIN):
                y = mg.tanh(y * w)
            return y.sum()

        differentiated = compile(mg.value_and_grad(chain, (0, 1)))
        return lambda x, w: differentiated(x, w)[0]

    layers = [layer(w, b) for w, b in weights]
    if case.kind == "gan":
        leaky = nn.LeakyReLU(SLOPE)
        generator = nn.Sequential(*in_a_row(layers[:3], leaky), nn.Tanh())
        discriminator = nn.Sequential(*in_a_row(layers[3:], leaky))
        of_generator, of_discriminator = descent(generator), descent(discriminator)

        def play(x: mg.Tensor, z: mg.Tensor) -> mg.Tensor:
            drawn = generator(z)
            on_real, on_drawn = discriminator(x), discriminator(mg.stop_gradient(drawn))
            loss = train(of_discriminator, mg.mean(mg.softplus(-on_real)) + mg.mean(mg.softplus(on_drawn)))
            constant = mg.stop_gradient(discriminator)
            return loss + train(of_generator, mg.mean(mg.softplus(-constant(drawn))))

        return compile(play)

    if case.kind == "vae":
        hidden, mean, log_variance, *decoder = layers
        decode = nn.Sequential(*in_a_row(decoder, nn.ReLU()))

        def loss_of(x: mg.Tensor, y: Any = None) -> mg.Tensor:
            h = mg.relu(hidden(x))
            m, v = mean(h), log_variance(h)
            logits = decode(m + y * mg.exp(0.5 * v))
            return (mg.bce_with_logits(logits, x, "sum") + mg.sum(mg.gaussian_kl(m, v))) / len(x)

    else:
        net = nn.Sequential(*in_a_row(layers, nn.ReLU(), case.linear))
        if len(case.shapes[0]) == 4:
            stage = (nn.ReLU(), nn.MaxPool2d(2))
            net = nn.Sequential(layers[0], *stage, layers[1], *stage, lambda x: x.reshape(len(x), -1), layers[2])

        def loss_of(x: mg.Tensor, y: Any = None) -> mg.Tensor:
            return mg.bce_with_logits(net(x), x) if y is None else mg.cross_entropy(net(x), y)

    optimizer = descent(layers)

    def step(*batch: mg.Tensor) -> mg.Tensor:
        return train(optimizer, loss_of(*batch))

    return compile(step)


def of_torch(case: Case, weights: Layers, fused: bool | None = None) -> Step:
    """With modules and `torch.optim`, eagerly."""
    import torch
    from torch import nn
    from torch.nn import functional

    bce = functional.binary_cross_entropy_with_logits

    def layer(w: Array, b: Array) -> Any:
        made = nn.Linear(*w.shape) if w.ndim == 2 else nn.Conv2d(w.shape[1], w.shape[0], w.shape[2:])
        with torch.no_grad():
            made.weight.copy_(torch.from_numpy(w.T if w.ndim == 2 else w))
            made.bias.copy_(torch.from_numpy(b))
        return made

    def descent(model: Any) -> Any:
        if case.beta is None:
            return torch.optim.SGD(model.parameters(), case.rate, fused=fused)
        return torch.optim.Adam(model.parameters(), case.rate, (case.beta, BETA2), EPS, fused=fused)

    def train(optimizer: Any, loss: Any, inputs: Any = None) -> Any:
        loss.backward(inputs=inputs)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    if case.kind == "chain":

        def chain(x: Any, w: Any) -> Any:
            y = x.requires_grad_()
            w.requires_grad_()
            for _ in range(CHAIN):
                y = torch.tanh(y * w)
            loss = y.sum()
            torch.autograd.grad(loss, (x, w))
            return loss

        return chain

    layers = [layer(w, b) for w, b in weights]
    if case.kind == "gan":
        leaky = nn.LeakyReLU(SLOPE)
        generator = nn.Sequential(*in_a_row(layers[:3], leaky), nn.Tanh())
        discriminator = nn.Sequential(*in_a_row(layers[3:], leaky))
        of_generator, of_discriminator = descent(generator), descent(discriminator)
        drawing = list(generator.parameters())

        def play(x: Any, z: Any) -> Any:
            drawn = generator(z)
            on_real, on_drawn = discriminator(x), discriminator(drawn.detach())
            loss = train(of_discriminator, functional.softplus(-on_real).mean() + functional.softplus(on_drawn).mean())
            return loss + train(of_generator, functional.softplus(-discriminator(drawn)).mean(), drawing)

        return play

    if case.kind == "vae":
        hidden, mean, log_variance, *decoder = layers
        decode = nn.Sequential(*in_a_row(decoder, nn.ReLU()))

        def loss_of(x: Any, y: Any = None) -> Any:
            h = torch.relu(hidden(x))
            m, v = mean(h), log_variance(h)
            logits = decode(m + y * torch.exp(0.5 * v))
            return (bce(logits, x, reduction="sum") + 0.5 * torch.sum(m * m + torch.exp(v) - 1 - v)) / len(x)

    else:
        net = nn.Sequential(*in_a_row(layers, nn.ReLU(), case.linear))
        if len(case.shapes[0]) == 4:
            stage = (nn.ReLU(), nn.MaxPool2d(2))
            net = nn.Sequential(layers[0], *stage, layers[1], *stage, nn.Flatten(), layers[2])

        def loss_of(x: Any, y: Any = None) -> Any:
            return bce(net(x), x) if y is None else functional.cross_entropy(net(x), y)

    optimizer = descent(nn.ModuleList(layers))
    return lambda *batch: train(optimizer, loss_of(*batch))


def of_jax(case: Case, weights: Layers) -> Step:
    """As pure functions of a state, which each step donates to the next."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    relu, leaky = jax.nn.relu, partial(jax.nn.leaky_relu, negative_slope=SLOPE)

    def mlp(layers: Any, x: Any, activation: Any, linear: Sequence[int] = ()) -> Any:
        for function in in_a_row([lambda x, w=w, b=b: x @ w + b for w, b in layers], activation, linear):
            x = function(x)
        return x

    def bce(logits: Any, target: Any) -> Any:
        return jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits)))

    def stage(x: Any, w: Any, b: Any) -> Any:
        x = relu(lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")) + b)
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def loss_of(layers: Any, x: Any, y: Any = None) -> Any:
        if case.kind == "vae":
            (w, b), (wm, bm), (wv, bv), *decoder = layers
            h = relu(x @ w + b)
            m, v = h @ wm + bm, h @ wv + bv
            logits = mlp(decoder, m + y * jnp.exp(0.5 * v), relu)
            return (jnp.sum(bce(logits, x)) + 0.5 * jnp.sum(m * m + jnp.exp(v) - 1 - v)) / len(x)
        if y is None:
            return jnp.mean(bce(mlp(layers, x, relu, case.linear), x))
        if len(case.shapes[0]) == 4:
            for w, b in layers[:2]:
                x = stage(x, w, b[:, None, None])
            x, layers = x.reshape(len(x), -1), layers[2:]
        scores = jax.nn.log_softmax(mlp(layers, x, relu))
        return -jnp.mean(jnp.take_along_axis(scores, y[:, None], axis=1))

    def judged(layers: Any, real: Any, drawn: Any) -> Any:
        on_real, on_drawn = mlp(layers, real, leaky), mlp(layers, drawn, leaky)
        return jnp.mean(jax.nn.softplus(-on_real)) + jnp.mean(jax.nn.softplus(on_drawn))

    def begun(weights: Layers) -> Any:
        """The state of a network: its layers, the moments, and the number of steps."""
        layers = [(jnp.array(w), jnp.array(b)) for w, b in weights]
        moments = [jax.tree.map(jnp.zeros_like, layers) for _ in range(2)] if case.beta else []
        return layers, moments, jnp.zeros(())

    def updated(state: Any, gradient: Any) -> Any:
        layers, moments, t = state
        if case.beta is None:
            return jax.tree.map(lambda p, g: p - case.rate * g, layers, gradient), moments, t
        beta, t = case.beta, t + 1
        first = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, moments[0], gradient)
        second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, moments[1], gradient)
        left = lambda b: -jnp.expm1(t * math.log(b))  # 1 - bᵗ, which in float32 would lose half of its digits
        size, scale = case.rate / left(beta), 1 / jnp.sqrt(left(BETA2))
        descend = lambda p, m, v: p - size * m / (jnp.sqrt(v) * scale + EPS)
        return jax.tree.map(descend, layers, first, second), [first, second], t

    def trained(state: Any, *batch: Any) -> Any:
        loss, gradient = jax.value_and_grad(loss_of)(state[0], *batch)
        return updated(state, gradient), loss

    def played(states: Any, x: Any, z: Any) -> Any:
        generator, discriminator = states
        drawn, pull = jax.vjp(lambda layers: jnp.tanh(mlp(layers, z, leaky)), generator[0])
        loss, gradient = jax.value_and_grad(judged)(discriminator[0], x, drawn)
        discriminator = updated(discriminator, gradient)
        fooling = lambda images: jnp.mean(jax.nn.softplus(-mlp(discriminator[0], images, leaky)))
        fooled, slope = jax.value_and_grad(fooling)(drawn)
        return (updated(generator, pull(slope)[0]), discriminator), loss + fooled

    def chain(y: Any, w: Any) -> Any:
        for _ in range(CHAIN):
            y = jnp.tanh(y * w)
        return y.sum()

    if case.kind == "chain":
        differentiated = jax.jit(jax.value_and_grad(chain, (0, 1)))
        return lambda x, w: differentiated(x, w)[0]
    game = case.kind == "gan"
    state = (begun(weights[:3]), begun(weights[3:])) if game else begun(weights)
    compiled = jax.jit(played if game else trained, donate_argnums=0)

    def step(*batch: Any) -> Any:
        nonlocal state
        state, loss = compiled(state, *batch)
        return loss

    return step


PEERS: dict[str, tuple[str, Callable[[Case, Layers], Step]]] = {  # the package, and what makes a step
    "minigrad": ("minigrad", of_minigrad),
    "compiled": ("minigrad", partial(of_minigrad, compiled=True)),
    "torch": ("torch", of_torch),
    "fused": ("torch", partial(of_torch, fused=True)),
    "jax": ("jax", of_jax),
}
ARRAYS = {"minigrad": "Tensor", "torch": "from_numpy", "jax": "device_put"}  # how each takes a NumPy array


def memory() -> dict[str, float]:
    """MiB that are resident now, and at most so far; empty where the system does not tell.

    Not from getrusage, whose peak begins with what the parent of the process had.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    names = {"VmRSS": "resident", "VmHWM": "peak"}
    return {
        names[key]: int(text.split()[0]) / 1024 for key, _, text in (x.partition(":") for x in lines) if key in names
    }


class Run:
    """One peer at one case.

    Args:
        peer: a key of `PEERS`.
        case: a key of `CASES`.
        file: where the weights w0, b0, w1, ... and the batches x0, y0, x1, ... are; y are labels, noise, or missing.
    """

    def __init__(self, peer: str, case: str, file: str):
        package, make = PEERS[peer]
        library = import_module(package)
        self.imported = memory()
        take = getattr(library, ARRAYS[package])
        with np.load(file) as arrays:
            weights = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(len(CASES[case].shapes))]
            names = [[f"{part}{i}" for part in ("x", "y") if f"{part}{i}" in arrays] for i in range(BATCHES)]
            self.batches = cycle([tuple(take(arrays[name]) for name in batch) for batch in names])
        self.step = make(CASES[case], weights)

    def steps(self, warm: int, steps: int) -> dict[str, Any]:
        """Take steps, and time the last ones, until the loss is a number: JAX's steps may be under way for a while."""
        for batch in islice(self.batches, warm):
            self.step(*batch)
        begun = perf_counter()
        for batch in islice(self.batches, steps):
            tensor = self.step(*batch)
        loss = tensor.item()
        seconds = (perf_counter() - begun) / steps
        return {"seconds": seconds, "loss": loss, "imported": self.imported, "memory": memory()}


def main() -> None:
    """Answer commands until there are no more."""
    run: Run | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            with redirect_stdout(sys.stderr):  # for what a library prints
                if run is None:
                    run = Run(**command)
                    command = {"warm": 0, "steps": 1}
                answer = run.steps(**command)
        except Exception as error:
            answer = {"failure": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
