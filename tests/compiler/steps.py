"""Steps of many kinds, for tests that compare a compiled function with the eager one.

Each function here makes a fresh step, of one batch (4, 6) of float32, and a tree of the tensors that it changes; made
twice, the two are equal.
"""

import copy

import numpy as np

import minigrad as mg
from minigrad import nn, optim


def batch(seed, rows=4):
    return mg.Tensor(np.random.default_rng(seed).uniform(size=(rows, 6)).astype("float32"))


def parameter(value=1.0):
    return mg.Tensor(np.full(6, value, "float32"), requires_grad=True)


def linear(seed=0):
    return nn.Linear(6, 6, generator=mg.random.Generator(seed))


def a_value_taken_before_the_parameter():
    p = parameter()

    def step(x):
        loss = mg.sum(x * p * (p.detach() * 2.0))
        loss.backward()
        with mg.no_grad():
            old = p
            old -= p.grad * 0.1
        p.zero_grad()
        return loss

    return step, [p]


def assigning_twice():
    p = parameter().detach()

    def step(x):
        p.assign(p + 1.0)
        y = p * 2.0
        p.assign(y + x.sum())
        return y, p.detach()

    return step, [p]


def assigning_a_constant():
    p = parameter().detach()

    def step(x):
        y = p * x
        p.assign(0.5)
        return y

    return step, [p]


def assigning_the_input():
    p = mg.Tensor(np.ones((4, 6), "float32"))

    def step(x):
        y = p * 1.0
        p.assign(x)
        return y

    return step, [p]


def exchanging_two_tensors():
    p, q = parameter(1.0).detach(), parameter(0.0).detach()

    def step(x):
        old = p.detach()
        p.assign(q)
        q.assign(old + x[0])
        return p + q

    return step, [p, q]


def several_updates():
    net = linear()
    optimizer = optim.Adam(net, 0.01)

    def step(x):
        losses = []
        for _ in range(3):
            loss = mg.mse(net(x), x)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss)
        return losses

    return step, {"net": net, "optimizer": optimizer.state}


def a_moving_average():
    net, average = linear(), linear()
    optimizer = optim.SGD(net, 0.1)

    def step(x):
        loss = mg.mse(net(x), x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with mg.no_grad():
            for a, b in zip(average.parameters().values(), net.parameters().values(), strict=True):
                a.assign(a * 0.9 + b * 0.1)
        return loss

    return step, {"net": net, "average": average}


def gradients_that_are_set():
    p, q = parameter(), parameter()

    def step(x):
        mg.sum(p * x).backward()
        p.grad = p.grad * 2.0
        q.grad = mg.zeros(6, "float32")

    return step, [p, q]


def layers_in_a_dict():
    class Net(nn.Module):
        def __init__(self):
            self.parts = {"a": linear(0), "b": [nn.Tanh(), linear(1)]}

        def __call__(self, x):
            for layer in (self.parts["a"], *self.parts["b"]):
                x = layer(x)
            return x

    net = Net()

    def step(x):
        loss = mg.mse(net(x), x)
        loss.backward()
        return loss

    return step, net


def layers_by_computed_names():
    class Net(nn.Module):
        def __init__(self):
            for i in range(3):
                setattr(self, f"layer{i}", linear(i))

        def __call__(self, x):
            for i in range(3):
                x = getattr(self, f"layer{i}")(x)
            return x

    net = Net()

    def step(x):
        loss = mg.mse(net(x), x)
        loss.backward()
        return loss

    return step, net


def a_method():
    class Trainer:
        def __init__(self):
            self.net = linear()
            self.optimizer = optim.SGD(self.net, 0.1, momentum=0.9)
            self.images, self.log, self.epoch = np.ones((3, 3)), [], 0

        def loss(self, x):
            return mg.mse(self.net(x), x)

        def step(self, x):
            loss = self.loss(x)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss

        def run(self):
            self.epoch += 1
            self.log.append(self.images)

    trainer = Trainer()
    return trainer.step, {"net": trainer.net, "optimizer": trainer.optimizer.state}


def hooks_and_kept_gradients():
    p = parameter()

    def step(x):
        y = p * x
        y.register_hook(lambda g: g * 3.0)
        y.retain_grad()
        mg.sum(y * y).backward()
        gradient = p.grad
        p.zero_grad()
        return gradient, y.grad

    return step, [p]


def derivatives_of_derivatives():
    def step(x):
        f = lambda x: mg.tanh(x) * x
        hessian = mg.hessian(lambda x: mg.sum(x**3))(x[0])
        return mg.jacobian(f)(x[0]), hessian, mg.jvp(f, (x,), (x,))

    return step, []


def choices_and_orders():
    def step(x):
        return [
            mg.where(x.sum() > 12.0, x, -x), mg.sort(x, axis=1), mg.argmax(x, axis=1), x[:, mg.argsort(x[0])],
            mg.cumulative_sum(x, axis=0),
        ]  # fmt: skip

    return step, []


def several_outputs():
    def step(x):
        a, b, c = mg.split(x, 3, axis=1)
        return a * b, c, mg.unstack(x)[0], [row * 2.0 for row in x]

    return step, []


def random_draws():
    generator = mg.random.Generator(5)

    def step(x):
        a, b = generator.split(2)
        return [
            mg.random.bernoulli(x, generator=generator), mg.random.integers(0, 9, (3,), generator=generator),
            x[mg.random.permutation(4, generator=generator)], mg.random.normal((3,), generator=a),
            mg.random.uniform((3,), generator=b),
        ]  # fmt: skip

    return step, generator


def copies():
    p = parameter().detach()

    def step(x):
        q = copy.deepcopy(p)
        q.assign(q * 2.0)
        p.assign(p + q)
        return q + x.sum()

    return step, [p]


def numbers_of_all_kinds():
    def step(x):
        return x * np.float32(2.0) + np.int64(1), np.add(x, 1.0), np.sum(x), np.maximum(x, 0.5), 2.0**x

    return step, []


def frozen_arrays():
    mean = np.arange(1, 7, dtype="float32")
    mean.setflags(write=False)
    return lambda x: ((x - mean) / mean[None][0], x * mean[:1]), []


def nothing_of_the_input():
    return lambda x: mg.ones(3), []


KINDS = [
    a_value_taken_before_the_parameter, assigning_twice, assigning_a_constant, assigning_the_input,
    exchanging_two_tensors, several_updates, a_moving_average, gradients_that_are_set, layers_in_a_dict,
    layers_by_computed_names, a_method, hooks_and_kept_gradients, derivatives_of_derivatives, choices_and_orders,
    several_outputs, random_draws, copies, numbers_of_all_kinds, frozen_arrays, nothing_of_the_input,
]  # fmt: skip
