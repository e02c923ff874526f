"""Training steps as a user of each library writes them, and the process in which one of them runs.

`benchmarks.cases` says what is trained, and on what. Each `of_...` makes a step of a case with one library: called with
a batch, the step returns the loss before its update. All start from the same weights and see the same batches.

    of_minigrad   modules and `mg.optim`: eager, and compiled, which is the very same function
    of_torch      modules and `torch.optim`: eager, with the fused optimiser (and channels last in convolutions), and
                  all of that given to `torch.compile`
    of_jax        a jitted function of a state, which each step donates to the next
    of_autograd   the same losses as JAX's, and `Descent`, which updates arrays in place
    of_mygrad     so, too, with tensors
    of_numpy      forward and backward by hand: `benchmarks.by_hand`

`LIBRARIES` has them by name. The process reads commands from standard input and answers on standard output, a line of
JSON each, or says what went wrong: {"failure": "..."}. First

    {"library": "JAX", "case": "ae32", "file": "ae32.npz"}

imports the library, prepares, and takes the first step. Then {"warm": 5, "steps": 50} takes 5 steps, and 50 that are
timed; the answer has the seconds of one, the last loss, and the memory: MiB that were resident after the import, and
the peak so far. Nothing is imported there that a library would not import itself.
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
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.by_hand import Descent, flat, of_numpy
from benchmarks.cases import (
    BATCHES,
    BETA2,
    CASES,
    CHAIN,
    EPS,
    HALF,
    ONE,
    SLOPE,
    ZERO,
    Array,
    Case,
    Layers,
    Step,
)  # fmt: skip

# The steps


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


def of_torch(case: Case, weights: Layers, fused: bool | None = None, compiled: bool = False) -> Step:
    """With modules and `torch.optim`; or that, tuned; or the whole step, given to `torch.compile`, as is advised."""
    import torch
    from torch import nn
    from torch.nn import functional

    compile = torch.compile if compiled else lambda function: function
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

        return compile(chain)

    layers = [layer(w, b) for w, b in weights]
    if case.kind == "gan":
        leaky = nn.LeakyReLU(SLOPE)
        generator = nn.Sequential(*in_a_row(layers[:3], leaky), nn.Tanh())
        discriminator = nn.Sequential(*in_a_row(layers[3:], leaky))
        of_generator, of_discriminator = descent(generator), descent(discriminator)
        drawing = list(generator.parameters())

        def judged(real: Any, drawn: Any) -> Any:
            on_real, on_drawn = discriminator(real), discriminator(drawn)
            return functional.softplus(-on_real).mean() + functional.softplus(on_drawn).mean()

        def fooled(drawn: Any) -> Any:
            return functional.softplus(-discriminator(drawn)).mean()

        # One by one: what a compiled function keeps for its backward, be it of two losses, the first of them frees.
        draw, judge, fool = compile(lambda z: generator(z)), compile(judged), compile(fooled)

        def play(x: Any, z: Any) -> Any:
            drawn = draw(z)
            loss = train(of_discriminator, judge(x, drawn.detach()))
            return loss + train(of_generator, fool(drawn), drawing)

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
            if fused:
                net.to(memory_format=torch.channels_last)  # the other thing that is advised for speed

        def loss_of(x: Any, y: Any = None) -> Any:
            return bce(net(x), x) if y is None else functional.cross_entropy(net(x), y)

    optimizer = descent(nn.ModuleList(layers))

    def step(*batch: Any) -> Any:
        return train(optimizer, loss_of(*batch))

    return compile(step)


@dataclass(frozen=True)
class Losses:
    """What is minimised, as functions of layers and batch, for libraries whose functions are NumPy's.

    Attributes:
        case: whose losses they are.
        np: the library's NumPy.
        relu, leaky: its activations, one of its functions each.
        cross_entropy: of scores and labels, the mean.
        stage: a convolution, ReLU and pooling, as a function of images, weights and bias; None if it has none.
    """

    case: Case
    np: Any
    relu: Callable[[Any], Any]
    leaky: Callable[[Any], Any]
    cross_entropy: Callable[[Any, Any], Any]
    stage: Callable[[Any, Any, Any], Any] | None = None

    def mlp(self, layers: Any, x: Any, activation: Any, linear: Sequence[int] = ()) -> Any:
        """The outputs of dense layers."""
        for function in in_a_row([lambda x, w=w, b=b: x @ w + b for w, b in layers], activation, linear):
            x = function(x)
        return x

    def mean(self, x: Any) -> Any:
        """Not by the library's mean, of which autograd's has a gradient in float64."""
        return self.np.sum(x) / np.float32(x.size)

    def bce(self, logits: Any, target: Any) -> Any:
        """The cross-entropy of each number. max(x, 0) is (x + |x|)/2 here, since at 0 its slope has to be 1/2."""
        size = self.np.abs(logits)
        return HALF * (logits + size) - logits * target + self.np.log1p(self.np.exp(-size))

    def loss(self, layers: Any, x: Any, y: Any = None) -> Any:
        """Of autoencoders, the VAE, whose y is noise, and classifiers, whose y are labels."""
        case, lib = self.case, self.np
        if case.kind == "vae":
            (w, b), (wm, bm), (wv, bv), *decoder = layers
            h = self.relu(x @ w + b)
            m, v = h @ wm + bm, h @ wv + bv
            logits = self.mlp(decoder, m + y * lib.exp(HALF * v), self.relu)
            divergence = HALF * lib.sum(m * m + lib.exp(v) - ONE - v)
            return (lib.sum(self.bce(logits, x)) + divergence) / np.float32(case.batch)
        if y is None:
            return self.mean(self.bce(self.mlp(layers, x, self.relu, case.linear), x))
        if self.stage is not None and x.ndim == 4:
            for w, b in layers[:2]:
                x = self.stage(x, w, b[:, None, None])
            x, layers = x.reshape(len(x), -1), layers[2:]
        return self.cross_entropy(self.mlp(layers, x, self.relu), y)

    def drawn(self, generator: Any, z: Any) -> Any:
        """The images that a generator makes of noise."""
        return self.np.tanh(self.mlp(generator, z, self.leaky))

    def judged(self, discriminator: Any, real: Any, drawn: Any) -> Any:
        """The loss of a discriminator."""
        on_real, on_drawn = self.mlp(discriminator, real, self.leaky), self.mlp(discriminator, drawn, self.leaky)
        return self.mean(self.np.logaddexp(-on_real, ZERO)) + self.mean(self.np.logaddexp(on_drawn, ZERO))

    def fooled(self, drawn: Any, discriminator: Any) -> Any:
        """The loss of the generator that made the images."""
        return self.mean(self.np.logaddexp(-self.mlp(discriminator, drawn, self.leaky), ZERO))

    def chain(self, y: Any, w: Any) -> Any:
        """Operations on tiny arrays, one after the other."""
        for _ in range(CHAIN):
            y = self.np.tanh(y * w)
        return self.np.sum(y)


def of_jax(case: Case, weights: Layers) -> Step:
    """As pure functions of a state, which each step donates to the next."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    relu, leaky = jax.nn.relu, partial(jax.nn.leaky_relu, negative_slope=SLOPE)

    def cross_entropy(scores: Any, labels: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1))

    def stage(x: Any, w: Any, b: Any) -> Any:
        x = relu(lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=("NCHW", "OIHW", "NCHW")) + b)
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    losses = Losses(case, jnp, relu, leaky, cross_entropy, stage)
    if case.kind == "chain":
        differentiated = jax.jit(jax.value_and_grad(losses.chain, (0, 1)))
        return lambda x, w: differentiated(x, w)[0]

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
        loss, gradient = jax.value_and_grad(losses.loss)(state[0], *batch)
        return updated(state, gradient), loss

    def played(states: Any, x: Any, z: Any) -> Any:
        generator, discriminator = states
        drawn, pull = jax.vjp(lambda layers: losses.drawn(layers, z), generator[0])
        loss, gradient = jax.value_and_grad(losses.judged)(discriminator[0], x, drawn)
        discriminator = updated(discriminator, gradient)
        fooled, slope = jax.value_and_grad(losses.fooled)(drawn, discriminator[0])
        return (updated(generator, pull(slope)[0]), discriminator), loss + fooled

    game = case.kind == "gan"
    state = (begun(weights[:3]), begun(weights[3:])) if game else begun(weights)
    compiled = jax.jit(played if game else trained, donate_argnums=0)

    def step(*batch: Any) -> Any:
        nonlocal state
        state, loss = compiled(state, *batch)
        return loss

    return step


def of_autograd(case: Case, weights: Layers) -> Step:
    """With its `value_and_grad`."""
    import autograd.numpy as anp
    from autograd import make_vjp, value_and_grad
    from autograd.scipy.special import logsumexp

    if any(len(shape) == 4 for shape in case.shapes):
        raise NotImplementedError("it has scipy.signal.convolve alone, by einsum, and no pooling")

    def cross_entropy(scores: Any, labels: Any) -> Any:
        of_labels = scores[np.arange(len(labels)), labels]
        return anp.sum(logsumexp(scores, axis=1) - of_labels) / len(labels)

    # Not by its maximum and where, whose gradients are float64.
    relu = lambda x: x * (x > 0)
    leaky = lambda x: x * ((x > 0) * np.float32(1 - SLOPE) + np.float32(SLOPE))
    losses = Losses(case, anp, relu, leaky, cross_entropy)
    if case.kind == "chain":
        differentiated = value_and_grad(losses.chain, (0, 1))
        return lambda x, w: differentiated(x, w)[0]

    if case.kind == "gan":
        generator, discriminator = weights[:3], weights[3:]
        of_generator, of_discriminator = Descent(case, flat(generator)), Descent(case, flat(discriminator))

        def play(x: Any, z: Any) -> Any:
            pull, drawn = make_vjp(lambda layers: losses.drawn(layers, z))(generator)
            loss, gradient = value_and_grad(losses.judged)(discriminator, x, drawn)
            of_discriminator.step(flat(gradient))
            fooled, slope = value_and_grad(losses.fooled)(drawn, discriminator)
            of_generator.step(flat(pull(slope)))
            return loss + fooled

        return play

    optimizer = Descent(case, flat(weights))

    def step(*batch: Any) -> Any:
        loss, gradient = value_and_grad(losses.loss)(weights, *batch)
        optimizer.step(flat(gradient))
        return loss

    return step


def of_mygrad(case: Case, weights: Layers) -> Step:
    """With tensors, and arrays that are not locked while they are in use, which it advises for code that works."""
    import mygrad as mg
    from mygrad import nnet

    mg.turn_memory_guarding_off()

    def stage(x: Any, w: Any, b: Any) -> Any:
        x = nnet.relu(nnet.conv_nd(x, w, stride=1) + b)
        even = x.shape[-1] // 2 * 2  # it pools only what divides evenly
        return nnet.max_pool(x[..., :even, :even], (2, 2), 2)

    leaky = lambda x: mg.maximum(x, np.float32(SLOPE) * x)
    losses = Losses(case, mg, nnet.relu, leaky, nnet.softmax_crossentropy, stage)
    if case.kind == "chain":

        def chain(x: Any, w: Any) -> Any:
            loss = losses.chain(mg.tensor(x), mg.tensor(w))
            loss.backward()
            return loss

        return chain

    def train(optimizer: Descent, layers: Any, loss: Any) -> Any:
        loss.backward()
        optimizer.step([p.grad for p in flat(layers)])
        return loss

    layers = [(mg.tensor(w), mg.tensor(b)) for w, b in weights]
    values = [(w.data, b.data) for w, b in layers]  # the arrays in the tensors
    if case.kind == "gan":
        of_generator, of_discriminator = Descent(case, flat(values[:3])), Descent(case, flat(values[3:]))

        def play(x: Any, z: Any) -> Any:
            drawn = losses.drawn(layers[:3], z)
            loss = train(of_discriminator, layers[3:], losses.judged(layers[3:], x, drawn.data))
            return loss.item() + train(of_generator, layers[:3], losses.fooled(drawn, values[3:]))

        return play

    optimizer = Descent(case, flat(values))

    def step(*batch: Any) -> Any:
        return train(optimizer, layers, losses.loss(layers, *batch))

    return step


LIBRARIES: dict[str, tuple[str, Callable[[Case, Layers], Step]]] = {  # the package, and what makes a step
    "minigrad": ("minigrad", of_minigrad),
    "minigrad, compiled": ("minigrad", partial(of_minigrad, compiled=True)),
    "PyTorch": ("torch", of_torch),
    "PyTorch, fused": ("torch", partial(of_torch, fused=True)),
    "PyTorch, compiled": ("torch", partial(of_torch, fused=True, compiled=True)),
    "JAX": ("jax", of_jax),
    "autograd": ("autograd", of_autograd),
    "MyGrad": ("mygrad", of_mygrad),
    "NumPy": ("numpy", of_numpy),
}
ARRAYS = {"minigrad": "Tensor", "torch": "from_numpy", "jax": "device_put"}  # how they take an array, if they have own


# The process


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
    """One library at one case.

    Args:
        library: a key of `LIBRARIES`.
        case: a key of `CASES`.
        file: where the weights w0, b0, w1, ... and the batches x0, y0, x1, ... are; y are labels, noise, or missing.
    """

    def __init__(self, library: str, case: str, file: str):
        package, make = LIBRARIES[library]
        module = import_module(package)
        self.imported = memory()
        take = getattr(module, ARRAYS[package]) if package in ARRAYS else np.asarray
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
