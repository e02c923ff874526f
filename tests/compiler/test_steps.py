"""Training steps that Hypothesis makes up, compiled by the compiler itself, against the same steps in eager mode.

What is drawn: the layers and their sizes, ties and residual connections, the loss, the optimiser, the dtype, and what
happens between the calls: another learning rate, another dropout rate, `eval()`, a smaller batch.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, optim

from .graphs import threads

EPS = 1e-2  # of Adam: gradients that are 0 but for rounding must not become whole steps
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.Sigmoid, nn.Softplus, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU)


class Residual(nn.Module):
    """x + layer(x)."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x):
        return x + self.layer(x)


class Tied(nn.Module):
    """The decoder that has the encoder's weight, transposed."""

    def __init__(self, encoder):
        self.encoder = encoder

    def __call__(self, h):
        return mg.matmul(h, mg.matrix_transpose(self.encoder.weight))


@dataclass
class Network:
    """What a network is made of: the kinds of its layers, with their widths."""

    dtype: str
    features: int
    layers: list = field(default_factory=list)

    def made(self):
        generator = mg.random.Generator(5)
        linear = lambda n, m, bias=True: nn.Linear(n, m, bias=bias, dtype=self.dtype, generator=generator)
        made, width = [], self.features
        for kind, size in self.layers:
            if kind == "linear":
                made.append(linear(width, size, bias=size % 2 == 0))
                width = size
            elif kind == "activation":
                made.append(ACTIVATIONS[size % len(ACTIVATIONS)]())
            elif kind == "layer norm":
                made.append(nn.LayerNorm(width, dtype=self.dtype))
            elif kind == "batch norm":
                made.append(nn.BatchNorm(width, dtype=self.dtype))
            elif kind == "dropout":
                made.append(nn.Dropout(size % 10 / 10))
            elif kind == "residual":
                made.append(Residual(nn.Sequential(linear(width, width), nn.Tanh())))
            else:
                encoder = linear(width, size)
                made += [encoder, nn.Tanh(), Tied(encoder)]
        return nn.Sequential(*made, linear(width, 4))


@st.composite
def networks(draw):
    kind = st.sampled_from(("linear", "activation", "layer norm", "batch norm", "dropout", "residual", "tied"))
    size = st.sampled_from((1, 2, 3, 8, 17, 40))
    layers = draw(st.lists(st.tuples(kind, size), max_size=4))
    return Network(draw(st.sampled_from(("float32", "float64"))), draw(size), layers)


OPTIMIZERS = {
    "sgd": lambda net: optim.SGD(net, 0.1),
    "sgd with decay": lambda net: optim.SGD(net, 0.1, weight_decay=0.01),
    "momentum": lambda net: optim.SGD(net, 0.05, momentum=0.8),
    "nesterov": lambda net: optim.SGD(net, 0.05, momentum=0.8, nesterov=True, weight_decay=0.01),
    "adam": lambda net: optim.Adam(net, 0.01, eps=EPS),
    "adam with decay": lambda net: optim.Adam(net, 0.01, betas=(0.5, 0.9), eps=EPS, weight_decay=0.1),
}
LOSSES = {
    "squared error": lambda y, t: mg.mse(y, mg.softmax(t)),
    "cross-entropy of pixels": lambda y, t: mg.mean(mg.bce_with_logits(y, mg.sigmoid(t))),
    "cross-entropy of classes": lambda y, t: mg.cross_entropy(y, mg.argmax(t, 1)),
    "by hand": lambda y, t: mg.mean(mg.abs(y - t) ** 3) + mg.mean(mg.logsumexp(y, -1)) * 0.1,
    "a Gaussian's": lambda y, t: mg.mean(mg.gaussian_kl(y[:, :2], y[:, 2:])) + mg.mean(mg.square(y - t)),
}
CLIPPINGS = {
    "not clipped": lambda net: None,
    "norm": lambda net: optim.clip_grad_norm(net, 0.5),
    "values": lambda net: optim.clip_grad_value(net, 0.05),
}


def set_rate(training):
    training.optimizer.learning_rate = training.optimizer.learning_rate.item() / 2


def set_dropout(training):
    for layer in training.net.layers:
        if isinstance(layer, nn.Dropout):
            layer.rate = 0.25


CHANGES = {
    "nothing": lambda training: None,
    "fewer rows": lambda training: None,
    "another rate": set_rate,
    "another dropout": set_dropout,
    "eval": lambda training: training.net.eval(),
    "train": lambda training: training.net.train(),
}


class Training:
    """A network, its optimiser, and a step of both."""

    def __init__(self, network, loss, optimizer, clipping):
        self.net, self.features, self.dtype = network.made(), network.features, network.dtype
        self.loss, self.clip = LOSSES[loss], CLIPPINGS[clipping]
        self.optimizer = OPTIMIZERS[optimizer](self.net)
        self.generator = mg.random.Generator(7)

    def step(self, x, target):
        with mg.random.use(self.generator):
            prediction = self.net(x)
            loss = self.loss(prediction, target)
            loss.backward()
            self.clip(self.net)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss, mg.max(prediction, 1)

    def run(self, step, changes):
        """What is returned by one call after each change, and what there is at the end: arrays by name."""
        rng, returned = np.random.default_rng(3), []
        for change in changes:
            CHANGES[change](self)
            rows = 5 if change == "fewer rows" else 9
            batch = [mg.Tensor(rng.normal(size=(rows, n)).astype(self.dtype)) for n in (self.features, 4)]
            returned.append(step(*batch))
        state = {"net": self.net, "optimizer": self.optimizer.state, "random": self.generator, "returned": returned}
        return {name: np.array(t.data) for name, t in mg.trees.named_leaves(state)}


def compare(changes, *drawn):
    """Steps in eager mode and compiled: equal to rounding; compiled ones on one thread and on three: the same bits."""
    eager = Training(*drawn)
    expected = eager.run(eager.step, changes)
    found = []
    for n in (1, 3):
        with threads(n):
            training = Training(*drawn)
            found.append(training.run(mg.compile(training.step), changes))
    one, three = found
    assert one.keys() == expected.keys()
    tolerance = 1e-3 if eager.dtype == "float32" else 1e-9
    for name, array in expected.items():
        assert one[name].tobytes() == three[name].tobytes(), name
        np.testing.assert_allclose(one[name], array, tolerance, tolerance, err_msg=name)


@settings(max_examples=settings().max_examples // 2)  # each of them compiles several versions
@given(
    st.lists(st.sampled_from(tuple(CHANGES)), max_size=3).map(lambda more: ["nothing", "nothing", *more]),
    networks(),
    st.sampled_from(tuple(LOSSES)),
    st.sampled_from(tuple(OPTIMIZERS)),
    st.sampled_from(tuple(CLIPPINGS)),
)
def test_steps_that_are_made_up(changes, network, loss, optimizer, clipping):
    compare(changes, network, loss, optimizer, clipping)


def test_fifty_steps():
    """Adam's corrections of its moments, a schedule, and evaluation between the steps."""
    network = Network("float64", 8, [("linear", 17), ("batch norm", 0), ("activation", 1), ("dropout", 5)])
    ten = ["train", *["nothing"] * 6, "another rate", "eval", "fewer rows"]
    compare(ten * 5, network, "cross-entropy of classes", "adam with decay", "norm")


# What was wrong once


@pytest.mark.parametrize("rearrange", [mg.flip, mg.matrix_transpose, lambda y: mg.reshape(y, (3, 2, 4))])
def test_a_long_chain_that_is_read_in_another_order(rearrange):
    """All of it hangs on the argument alone, and so could be computed wherever it is needed: point by point."""

    def chain(x):
        for _ in range(600):
            x = mg.abs(x - 0.3)
        return mg.sum(rearrange(x) * 2.0, 0)

    x = mg.Tensor(np.random.default_rng(0).normal(size=(4, 6)))
    np.testing.assert_allclose(mg.compile(chain)(x).data, chain(x).data, 1e-12, 1e-12)


def test_a_captured_array_that_is_not_contiguous():
    array = np.arange(6.0).reshape(2, 3).copy()
    array.setflags(write=False)
    frozen = array.T
    assert mg.compile(lambda x: x * frozen)(mg.ones((3, 2), "float64")).data.tolist() == frozen.tolist()


@pytest.mark.parametrize("needed", [(), (0,), (1,), (2,), (0, 2)])
def test_arguments_that_nothing_needs(needed):
    """They are neither read nor written, wherever they stand."""
    state = mg.Tensor([7.0, 8.0])

    def f(*xs):
        dead = [x * 2.0 for x in xs]
        state.assign(state + 1.0)
        return [xs[i] * 3.0 for i in needed] + [state * 1.0, len(dead)]

    step, xs = mg.compile(f), [mg.Tensor(np.full(2, i + 1.0)) for i in range(3)]
    for call in range(4):
        *results, of_state, count = step(*xs)
        assert [x.tolist() for x in xs] == [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
        assert [y.tolist() for y in results] == [[3.0 * (i + 1)] * 2 for i in needed]
        assert (of_state.tolist(), count) == ([8.0 + call, 9.0 + call], 3)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (0, 0), (3, 0, 2)])
def test_without_any_numbers(shape):
    def f(x):
        return mg.sum(mg.exp(x) * 2.0), mg.exp(x), mg.sum(x * 3.0, 0), mg.sum(x * 3.0, -1), mg.softmax(x, -1)

    step, x = mg.compile(f), mg.Tensor(np.ones(shape))
    for _ in range(3):
        for a, b in zip(step(x), f(x), strict=True):
            assert (a.shape, a.dtype, a.tolist()) == (b.shape, b.dtype, b.tolist())
