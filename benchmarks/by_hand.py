"""Training steps by hand, in NumPy alone: forward, backward and update as one writes them who knows NumPy well.

Memory is taken once, products go straight into it, and what can be changed in place is. `Dense`, `Conv` and `Pool` are
layers, each with its forward and its backward, `Net` is several of them, `Descent` the optimiser, which other libraries
that have none use, too; `of_numpy` makes a step of a case.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from benchmarks.cases import BETA2, CHAIN, EPS, SLOPE, Array, Case, Layers, Step


class Descent:
    """Adam, or gradient descent, on NumPy's arrays, in place, for libraries that have no optimiser."""

    def __init__(self, case: Case, parameters: Sequence[Array]):
        self.rate, self.beta, self.steps = case.rate, case.beta, 0
        self.parameters = parameters
        self.first, self.second = ([np.zeros_like(p) for p in parameters] for _ in range(2))
        self.room = [np.empty_like(p) for p in parameters]

    def step(self, gradients: Sequence[Array]) -> None:
        """Update the parameters."""
        if self.beta is None:
            for p, g, room in zip(self.parameters, gradients, self.room, strict=True):
                p -= np.multiply(g, self.rate, out=room)
            return
        self.steps += 1
        root = math.sqrt(1 - BETA2**self.steps)
        size, eps = root * self.rate / (1 - self.beta**self.steps), root * EPS
        arrays = zip(self.parameters, gradients, self.first, self.second, self.room, strict=True)
        for p, g, m, v, room in arrays:
            np.subtract(g, m, out=room)
            room *= 1 - self.beta
            m += room
            np.multiply(g, g, out=room)
            room -= v
            room *= 1 - BETA2
            v += room
            np.sqrt(v, out=room)
            room += eps
            np.divide(m, room, out=room)
            room *= size
            p -= room


def flat(layers: Sequence[Sequence[Any]]) -> list[Any]:
    """The weights and biases of layers in a row."""
    return [p for layer in layers for p in layer]


# By hand: the activation of y, and the slope of what went into it from that of y, both in place

BY_HAND: dict[str, tuple[Callable[[Array], Any], Callable[[Array, Array], Any]]] = {
    "relu": (lambda y: np.maximum(y, 0, out=y), lambda y, dy: np.multiply(dy, y > 0, out=dy)),
    "leaky": (lambda y: np.maximum(y, SLOPE * y, out=y), lambda y, dy: np.multiply(dy, SLOPE, out=dy, where=y < 0)),
    "tanh": (lambda y: np.tanh(y, out=y), lambda y, dy: np.multiply(dy, 1 - y * y, out=dy)),
    "": (lambda y: y, lambda y, dy: dy),
}


class Dense:
    """y = f(xw + b) by hand, in arrays that are made once.

    Args:
        w, b: the parameters, which layers may share.
        rows: how many x has.
        activation: the name of f.
    """

    def __init__(self, w: Array, b: Array, rows: int, activation: str = ""):
        self.w, self.b = w, b
        self.dw, self.db = np.empty_like(w), np.empty_like(b)
        self.activate, self.deactivate = BY_HAND[activation]
        self.y, self.dx = (np.empty((rows, n), w.dtype) for n in reversed(w.shape))

    def forward(self, x: Array) -> Array:
        """y."""
        self.x = x.reshape(len(self.y), -1)
        np.matmul(self.x, self.w, out=self.y)
        self.y += self.b
        self.activate(self.y)
        return self.y

    def backward(self, dy: Array, to_x: bool = True, to_w: bool = True) -> Array:
        """The slopes of what is asked for: dx, which is returned, dw and db. That of y is overwritten."""
        self.deactivate(self.y, dy)
        if to_w:
            np.matmul(self.x.T, dy, out=self.dw)
            np.sum(dy, 0, out=self.db)
        return np.matmul(dy, self.w.T, out=self.dx) if to_x else dy


class Conv(Dense):
    """A convolution of images (n, height, width, channels), and ReLU: a dense layer of all their windows."""

    def __init__(self, w: Array, b: Array, shape: tuple[int, ...]):
        c_out, c_in, *size = w.shape
        n, height, width = shape[0], shape[1] - size[0] + 1, shape[2] - size[1] + 1
        self.windows = np.empty((n, height, width, *size, c_in), w.dtype)
        super().__init__(w.transpose(2, 3, 1, 0).reshape(-1, c_out), b, n * height * width, "relu")
        self.images, self.slopes = self.y.reshape(n, height, width, c_out), np.empty(shape, w.dtype)

    def forward(self, x: Array) -> Array:
        """y, as images."""
        x = x.reshape(self.slopes.shape)  # channels first is the same where there is one
        windows = sliding_window_view(x, self.windows.shape[3:5], (1, 2))
        np.copyto(self.windows, np.moveaxis(windows, 3, 5))
        super().forward(self.windows)
        return self.images

    def backward(self, dy: Array, to_x: bool = True, to_w: bool = True) -> Array:
        """As of a dense layer; each pixel's slope is the sum of those that it has in its windows."""
        super().backward(dy.reshape(self.y.shape), to_x, to_w)
        if to_x:
            (_, height, width, *size, _), dx = self.windows.shape, self.dx.reshape(self.windows.shape)
            self.slopes.fill(0)
            for i, j in np.ndindex(*size):
                self.slopes[:, i : i + height, j : j + width] += dx[:, :, :, i, j]
        return self.slopes


class Pool:
    """The largest number of each 2×2 square of images; the slope goes to the first that is."""

    def __init__(self, shape: tuple[int, ...]):
        n, height, width, channels = shape
        self.y = np.empty((n, height // 2, width // 2, channels), np.float32)
        self.dx = np.zeros(shape, np.float32)  # 0 in an odd row or column, which is in no square

    def corners(self, x: Array) -> list[Array]:
        """The four numbers of each square."""
        _, height, width, _ = self.y.shape
        return [x[:, i : 2 * height : 2, j : 2 * width : 2] for i, j in np.ndindex(2, 2)]

    def forward(self, x: Array) -> Array:
        """y."""
        self.x = x
        first, *others = self.corners(x)
        np.copyto(self.y, first)
        for other in others:
            np.maximum(self.y, other, out=self.y)
        return self.y

    def backward(self, dy: Array, to_x: bool = True, to_w: bool = True) -> Array:
        """dx."""
        dy, left = dy.reshape(self.y.shape), np.ones(self.y.shape, bool)
        for x, dx in zip(self.corners(self.x), self.corners(self.dx), strict=True):
            largest = left & (x == self.y)
            np.multiply(dy, largest, out=dx)
            left ^= largest
        return self.dx


class Net:
    """Layers by hand, one after the other."""

    def __init__(self, *layers: Dense | Pool):
        self.layers = layers
        dense = [layer for layer in layers if isinstance(layer, Dense)]
        self.parameters = flat([(layer.w, layer.b) for layer in dense])
        self.gradients = flat([(layer.dw, layer.db) for layer in dense])

    @classmethod
    def mlp(cls, weights: Layers, rows: int, activation: str, linear: Sequence[int] = (), last: str = "") -> Net:
        """Dense layers, with an activation after each but the last, which has its own, and those that stay linear."""
        names = ["" if i in linear else activation for i in range(len(weights) - 1)] + [last]
        return cls(*(Dense(w, b, rows, name) for (w, b), name in zip(weights, names, strict=True)))

    def forward(self, x: Array) -> Array:
        """The outputs."""
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy: Array, to_x: bool = False, to_w: bool = True) -> Array:
        """The slopes of what is asked for, from that of the outputs."""
        for layer in reversed(self.layers):
            dy = layer.backward(dy, to_x or layer is not self.layers[0], to_w)
        return dy


def of_numpy(case: Case, weights: Layers) -> Step:
    """Forward and backward by hand, and `Descent`."""
    rows = case.batch

    def bce(logits: Array, target: Array) -> tuple[Any, Array]:
        """The sum of the cross-entropies, and its slope."""
        e = np.abs(logits)
        np.negative(e, out=e)
        np.exp(e, out=e)
        each = np.log1p(e)
        each += np.maximum(logits, 0)
        each -= logits * target
        slope = np.where(logits > 0, 1, e)
        e += 1
        slope /= e  # the sigmoid, exact where it is tiny: Adam takes small gradients for as good as large ones
        slope -= target
        return np.sum(each), slope

    def cross_entropy(scores: Array, labels: Array) -> tuple[Any, Array]:
        """The mean, and its slope, in place of the scores."""
        chosen = np.arange(len(labels)), labels
        scores -= scores.max(1, keepdims=True)
        of_labels = scores[chosen]
        np.exp(scores, out=scores)
        total = scores.sum(1, keepdims=True)
        scores /= total
        scores[chosen] -= 1
        scores /= len(labels)
        return np.mean(np.log(total[:, 0]) - of_labels), scores

    def softplus(x: Array) -> tuple[Any, Array]:
        """The sum over the rows by their number, and its slope."""
        return np.sum(np.logaddexp(x, 0)) / rows, 1 / (rows + rows * np.exp(-x))

    if case.kind == "chain":
        values = np.empty((CHAIN + 1, rows), np.float32)

        def chain(x: Array, w: Array) -> Any:
            values[0] = x
            for y, z in pairwise(values):
                np.multiply(y, w, out=z)
                np.tanh(z, out=z)
            dy, dw = np.ones_like(x), np.zeros_like(w)
            for y, z in pairwise(values[::-1]):
                dy *= 1 - y * y
                dw += dy * z
                dy *= w
            return np.sum(values[-1])

        return chain

    if case.kind == "gan":
        generator = Net.mlp(weights[:3], rows, "leaky", last="tanh")
        discriminator, judge = (Net.mlp(weights[3:], n, "leaky") for n in (2 * rows, rows))  # of the same weights
        images = np.empty((2 * rows, case.shapes[3][0]), np.float32)  # real ones, then drawn ones
        of_generator, of_discriminator = Descent(case, generator.parameters), Descent(case, discriminator.parameters)

        def play(x: Array, z: Array) -> Any:
            drawn = generator.forward(z)
            images[:rows], images[rows:] = x, drawn
            logits = discriminator.forward(images)
            logits[:rows] *= -1
            loss, slope = softplus(logits)
            slope[:rows] *= -1
            discriminator.backward(slope)
            of_discriminator.step(discriminator.gradients)
            fooled, slope = softplus(-judge.forward(drawn))
            generator.backward(judge.backward(-slope, to_x=True, to_w=False))
            of_generator.step(generator.gradients)
            return loss + fooled

        return play

    if case.kind == "vae":
        hidden, mean, log_variance = (Dense(*weights[i], rows, "" if i else "relu") for i in range(3))
        decoder = Net.mlp(weights[3:], rows, "relu")
        net = Net(hidden, mean, log_variance, *decoder.layers)
    elif len(case.shapes[0]) == 4:
        first = Conv(*weights[0], (rows, 28, 28, 1))
        pooled = Pool(first.images.shape)
        second = Conv(*weights[1], pooled.y.shape)
        last = Pool(second.images.shape)
        _, height, width, channels = last.y.shape
        w, b = weights[2]
        w = w.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(w.shape)  # as the images are
        net = Net(first, pooled, second, last, Dense(w, b, rows))
    else:
        net = Net.mlp(weights, rows, "relu", case.linear)
    optimizer = Descent(case, net.parameters)

    def autoencoder(x: Array) -> Any:
        total, slope = bce(net.forward(x), x)
        slope /= x.size
        net.backward(slope)
        return total / x.size

    def classifier(x: Array, labels: Array) -> Any:
        loss, slope = cross_entropy(net.forward(x), labels)
        net.backward(slope)
        return loss

    def vae(x: Array, noise: Array) -> Any:
        h = hidden.forward(x)
        m, v = mean.forward(h), log_variance.forward(h)
        deviation = np.exp(0.5 * v)
        total, slope = bce(decoder.forward(m + noise * deviation), x)
        slope /= rows
        dz = decoder.backward(slope, to_x=True)
        variance = deviation * deviation
        divergence = 0.5 * np.sum(m * m + variance - 1 - v)
        dh = mean.backward(dz + m / rows)
        dh += log_variance.backward(0.5 * (dz * noise * deviation + (variance - 1) / rows))
        hidden.backward(dh, to_x=False)
        return (total + divergence) / rows

    kinds: dict[str, Step] = {"autoencoder": autoencoder, "classifier": classifier, "vae": vae}
    differentiated = kinds[case.kind]

    def step(*batch: Array) -> Any:
        loss = differentiated(*batch)
        optimizer.step(net.gradients)
        return loss

    return step
