"""A small training, twice: once to call its step as it is, once to compile it."""

import numpy as np

import minigrad as mg
from minigrad import nn, optim


def bits(*tensors):
    return [t if t is None else (t.dtype, t.shape, t.data.tobytes()) for t in tensors]


def network(seed=0, dropout=0.0):
    g = mg.random.Generator(seed)
    layers = [nn.Linear(6, 5, generator=g), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 6, generator=g)]
    return nn.Sequential(*layers)


def batch(seed=0, rows=4):
    return np.random.default_rng(seed).uniform(size=(rows, 6)).astype("float32")


class Training:
    """A network with its optimiser, and a step that can be called compiled or not."""

    def __init__(self, make=lambda net: optim.Adam(net, 0.01), dropout=0.0):
        self.net, self.generator = network(dropout=dropout), mg.random.Generator(3)
        self.optimizer = make(self.net)

    def step(self, x):
        with mg.random.use(self.generator):
            loss = mg.mse(self.net(x), x)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss

    def state(self):
        tensors = {"net": self.net, "optimizer": self.optimizer.state, "random": self.generator}
        return bits(*(t for _, t in mg.trees.named_leaves(tensors)))


def pair(**options):
    eager, compiled = Training(**options), Training(**options)
    return eager, compiled, mg.compile(compiled.step)
