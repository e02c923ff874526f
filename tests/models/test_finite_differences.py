"""The checker of gradients: its error bars hold, and an error of a millionth in any entry is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from models.finite_differences import check, far_from_kinks, noise, slopes

Array = np.ndarray[Any, Any]

FUNCTIONS = [  # with their derivatives
    (np.sin, np.cos),
    (np.exp, np.exp),
    (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    (lambda x: x**3 - x, lambda x: 3 * x**2 - 1),
    (lambda x: np.log1p(np.exp(x)), lambda x: 1 / (1 + np.exp(-x))),
]


@given(st.sampled_from(FUNCTIONS), st.integers(0, 2**32), st.floats(0.1, 3), st.floats(-9, 9))
def test_the_bars_of_smooth_functions_hold_the_derivative(f: Any, seed: int, a: float, shift: float) -> None:
    x = np.random.default_rng(seed).uniform(-3, 3, 20)

    def change(k: Array, h: float) -> Array:
        return (f[0](a * (x[k] + h)) + shift) - (f[0](a * (x[k] - h)) + shift)

    values, bars = slopes(change, len(x))
    assert np.all(abs(values - a * f[1](a * x)) <= 1.5 * bars)  # rounding may, rarely, exceed four standard deviations
    assert np.all(bars <= 1e-8 * np.maximum(1, abs(values)))


@given(st.floats(-2, -0.02), st.floats(0.3, 3), st.sampled_from([-1, 1]))
def test_a_kink_nearby_is_not_mistaken_for_a_slope(where: float, jump: float, side: int) -> None:
    def f(t: float) -> float:
        return np.sin(1 + t) + jump * max(0.0, side * t + where)

    values, bars = slopes(lambda k, h: np.full(len(k), f(h) - f(-h)), 1)
    assert abs(values[0] - np.cos(1)) <= bars[0]
    assert bars[0] <= 2.5e-7


def test_noise_is_measured() -> None:
    rng = np.random.default_rng(1)
    sizes = np.array([1e-9, 0, 1e-12])
    measured = noise(lambda k, h: np.exp(k) * (1 + h) + rng.normal(0, 1, len(k)) * sizes, np.arange(3))
    assert np.all(measured >= 0.6 * sizes)
    assert np.all(measured <= 1.6 * sizes + 1e-15)


def network(activation: Any, seed: int = 0) -> tuple[list[Any], dict[str, mg.Tensor], Array]:
    """A small network in float64 as a list of layers, with its parameters, and images whose first pixel is dark."""
    mg.random.seed(seed)
    net = nn.Sequential(nn.Linear(6, 5), activation(), nn.Linear(5, 3), activation(), nn.Linear(3, 6)).astype("float64")
    for p in net.parameters().values():
        p.assign(p.data + np.random.default_rng(seed).normal(0, 0.3, p.shape))
    images = np.random.default_rng(seed + 1).uniform(size=(4, 6))
    images[:, 0] = 0
    return list(net), net.parameters(), images


def cross_entropy(z: Any, x: Any) -> Any:
    return mg.bce_with_logits(z, x, reduction="none")


def backward(layers: list[Any], images: Array) -> None:
    x = mg.Tensor(images)
    z = x
    for layer in layers:
        z = layer(z)
    (mg.sum(cross_entropy(z, x)) / len(images)).backward()


def planted(parameter: mg.Tensor, entry: Any, factor: float = 1.0, added: float = 0.0) -> None:
    """Make a gradient wrong, as a wrong rule would."""

    def wrong(g: mg.Tensor) -> Array:
        array = g.data.copy()
        array[entry] = array[entry] * factor + added
        return array

    parameter.register_hook(wrong)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.SiLU])
@pytest.mark.parametrize("seed", range(3))
def test_a_right_gradient_passes(activation: Any, seed: int) -> None:
    layers, parameters, images = network(activation, seed)
    backward(layers, images)
    done: list[int] = []
    verdict = check(layers, parameters, cross_entropy, images, done.append)
    total = 6 * 5 + 5 + 5 * 3 + 3 + 3 * 6 + 6
    assert verdict.passed
    assert verdict.entries == sum(done) == total
    assert verdict.zeros >= 5  # the weights of the dark pixel
    assert 0 <= verdict.error <= 9e-7
    assert verdict.bar <= 9e-7


@pytest.mark.parametrize("factor", [1 + 1e-6, 1 - 1e-6, -1, 0])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_an_error_of_a_millionth_is_found_in_every_entry(activation: Any, factor: float) -> None:
    layers, parameters, images = network(activation)
    for p in parameters.values():
        planted(p, ..., factor)
    backward(layers, images)
    verdict = check(layers, parameters, cross_entropy, images)
    if factor == 0:
        verdict = verdict._replace(zeros=sum(np.count_nonzero(g == 0) for g in true_gradients(activation)))
    assert verdict.failures == verdict.entries - verdict.zeros - verdict.small
    assert verdict.small == 0
    assert not verdict.passed
    assert "FAILED" in str(verdict)


def true_gradients(activation: Any) -> list[Array]:
    layers, parameters, images = network(activation)
    backward(layers, images)
    return [p.grad.data for p in parameters.values() if p.grad is not None]


def test_the_wrong_entry_is_named() -> None:
    layers, parameters, images = network(nn.Tanh)
    planted(layers[2].weight, (4, 1), 1 + 1e-6)
    backward(layers, images)
    verdict = check(layers, parameters, cross_entropy, images)
    assert verdict.failures == 1
    assert verdict.worst == "layers.2.weight[4, 1]"
    assert verdict.error == pytest.approx(1e-6, rel=0.2)


def test_a_gradient_that_should_be_zero_is_found() -> None:
    layers, parameters, images = network(nn.Tanh)
    planted(layers[0].weight, (0, 2), added=1e-9)  # the weight of a dark pixel
    backward(layers, images)
    verdict = check(layers, parameters, cross_entropy, images)
    assert (verdict.failures, verdict.worst) == (1, "layers.0.weight[0, 2]")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_fails(value: float) -> None:
    layers, parameters, images = network(nn.Tanh)
    planted(layers[4].bias, 3, added=value)
    backward(layers, images)
    verdict = check(layers, parameters, cross_entropy, images)
    assert not verdict.passed
    assert verdict.summary()["error"] is None


def test_images_near_a_kink_are_avoided() -> None:
    layer = nn.Linear(1, 1).astype("float64")
    layer.weight.assign([[1.0]])
    images = np.array([[0.5], [-0.001], [-2.0], [1.0]])
    assert far_from_kinks([layer, nn.ReLU()], images, 2).ravel().tolist() == [-2.0, 1.0]
    assert far_from_kinks([layer, nn.Tanh()], images, 2).ravel().tolist() == [0.5, -0.001]


def test_what_would_go_unchecked_is_refused() -> None:
    layers, parameters, images = network(nn.Tanh)
    with pytest.raises(ValueError, match=r"layers\.0\.weight has no \.grad"):
        check(layers, parameters, cross_entropy, images)
    backward(layers, images)
    scale = mg.Tensor(1.0, requires_grad=True)
    mg.square(scale).backward()
    with pytest.raises(ValueError, match="only parameters of Linear layers can be checked, not scale"):
        check(layers, {**parameters, "scale": scale}, cross_entropy, images)
