"""Convolution and pooling as layers: what they compute, gradients, what they are called, what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.testing import assert_gradients

rng = np.random.default_rng(0)


def with_bias(layer: Any) -> Any:
    layer.bias.assign(rng.normal(size=layer.bias.shape).astype(layer.bias.dtype))
    return layer


def test_conv2d_is_the_function_with_a_bias() -> None:
    layer = with_bias(nn.Conv2d(4, 6, (2, 3), stride=2, padding=(1, 0), dilation=2, groups=2, dtype="float64"))
    x = rng.normal(size=(2, 4, 7, 8))
    want = mg.conv2d(x, layer.weight.data, 2, (1, 0), 2, 2) + layer.bias.data[:, None, None]
    assert layer.weight.shape == (6, 2, 2, 3)
    np.testing.assert_allclose(layer(mg.Tensor(x)).data, want, rtol=1e-14)


def test_conv_transpose2d_is_the_function_with_a_bias() -> None:
    layer = with_bias(nn.ConvTranspose2d(4, 6, (2, 3), 2, (1, 0), (1, 0), 2, 2, dtype="float64"))
    x = rng.normal(size=(2, 4, 3, 4))
    want = mg.conv_transpose2d(x, layer.weight.data, 2, (1, 0), (1, 0), 2, 2) + layer.bias.data[:, None, None]
    assert layer.weight.shape == (4, 3, 2, 3)
    np.testing.assert_allclose(layer(mg.Tensor(x)).data, want, rtol=1e-14)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 3, 2, stride=2, padding=1, dtype="float64"),
        nn.ConvTranspose2d(2, 3, 2, stride=2, padding=1, dtype="float64"),
    ],
)
def test_gradients_reach_weight_bias_and_images(layer: nn.Module) -> None:
    x = mg.Tensor(rng.normal(size=(2, 2, 3, 3)))
    assert_gradients(lambda layer, x: mg.sum(mg.tanh(layer(x))), layer, x)


def test_filters_start_on_the_scale_of_what_a_unit_sees() -> None:
    seen: list[Any] = []

    def note(shape: Any, n_in: int, n_out: int, dtype: Any, generator: Any) -> mg.Tensor:
        seen.append((shape, n_in, n_out))
        return mg.zeros(shape, dtype=dtype)

    layer = nn.Conv2d(4, 6, (2, 3), groups=2, initialiser=note)
    nn.ConvTranspose2d(4, 6, (2, 3), groups=2, initialiser=note)
    assert seen == [((6, 2, 2, 3), 12, 18), ((4, 3, 2, 3), 12, 18)]
    assert layer.weight.dtype == np.float32


def test_the_same_generator_gives_the_same_filters() -> None:
    first, second = (nn.Conv2d(2, 3, 3, generator=mg.random.Generator(1)) for _ in range(2))
    np.testing.assert_array_equal(first.weight.data, second.weight.data)


@pytest.mark.parametrize(("layer", "f"), [(nn.MaxPool2d, mg.max_pool), (nn.AvgPool2d, mg.avg_pool)])
def test_pooling_is_the_function(layer: Any, f: Any) -> None:
    x = rng.normal(size=(2, 3, 6, 7))
    np.testing.assert_array_equal(layer((3, 2), 1, (1, 0))(mg.Tensor(x)).data, f(x, (3, 2), 1, (1, 0)))
    np.testing.assert_array_equal(layer(2)(mg.Tensor(x)).data, f(x, 2))


def test_stochastic_pool_draws_in_training_and_averages_in_use() -> None:
    pool = nn.StochasticPool2d(2)
    x = mg.Tensor([[[[0.4, 0.1], [0.2, 0.3]]]])
    with mg.random.use(mg.random.Generator(0)):
        drawn = {pool(x).item() for _ in range(100)}
    assert drawn == set(x.data.ravel().tolist())
    pool.eval()
    assert pool(x).item() == pytest.approx((x.data**2).sum() / x.data.sum())


def test_stochastic_pool_backward_goes_to_what_was_drawn() -> None:
    x = mg.Tensor(rng.uniform(1, 2, size=(1, 2, 4, 4)), requires_grad=True)
    y = nn.StochasticPool2d(2)(x)
    y.backward(np.arange(1.0, 9).reshape(y.shape))
    hit = x.grad.data != 0
    assert set(x.data[hit]) == set(y.data.ravel())
    assert sorted(x.grad.data[hit]) == list(range(1, 9))


REPRS = {
    "Conv2d(3, 8, 3)": nn.Conv2d(3, 8, 3),
    "Conv2d(4, 8, (3, 1), stride=2, padding=(1, 0), dilation=3, groups=4, bias=False)": nn.Conv2d(
        4, 8, (3, 1), 2, (1, 0), 3, 4, False
    ),
    "ConvTranspose2d(8, 4, 4, stride=2, padding=1, output_padding=(1, 0), groups=2)": nn.ConvTranspose2d(
        8, 4, 4, 2, 1, (1, 0), groups=2
    ),
    "MaxPool2d(2)": nn.MaxPool2d(2),
    "AvgPool2d((2, 3), stride=1, padding=(0, 1))": nn.AvgPool2d((2, 3), 1, (0, 1)),
    "StochasticPool2d(3, stride=2)": nn.StochasticPool2d(3, 2),
}


@pytest.mark.parametrize("text", REPRS)
def test_repr(text: str) -> None:
    assert repr(REPRS[text]) == text


@pytest.mark.parametrize("make", [nn.Conv2d, nn.ConvTranspose2d])
def test_what_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"at least 1 of each, got 0 input"):
        make(0, 2, 3)
    with pytest.raises(ValueError, match=r"groups divides.*groups=2"):
        make(2, 3, 3, groups=2)
    with pytest.raises(ValueError, match=r"stride is at least 1, got 0"):
        make(2, 3, 3, stride=0)
    layer = make(2, 3, 3)
    with pytest.raises(ValueError, match=r"shape \(batch, 2, height, width\), got float32 \(1, 3, 5, 5\)"):
        layer(mg.zeros((1, 3, 5, 5), dtype="float32"))
    with pytest.raises(TypeError, match=r"has float32 parameters.*astype"):
        layer(mg.zeros((1, 2, 5, 5)))


def test_pools_refuse() -> None:
    with pytest.raises(ValueError, match="MaxPool2d: size is at least 1"):
        nn.MaxPool2d(0)
    with pytest.raises(ValueError, match="do not fit"):
        nn.StochasticPool2d(3)(mg.zeros((1, 1, 2, 2)))


def test_a_small_network_learns() -> None:
    """Which half of an image is brighter."""
    with mg.random.use(mg.random.Generator(0)):
        net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4), nn.Conv2d(4, 1, (1, 2)))
    x = rng.uniform(size=(32, 1, 4, 8)).astype("float32")
    target = (x[..., :4].mean((1, 2, 3)) > x[..., 4:].mean((1, 2, 3))).astype("float32")[:, None, None, None]

    def loss(net: Any) -> Any:
        return mg.bce_with_logits(net(mg.Tensor(x)), mg.Tensor(target))

    first = loss(net).item()
    optimiser = mg.optim.Adam(net, 0.05)
    for _ in range(40):
        optimiser.zero_grad()
        loss(net).backward()
        optimiser.step()
    assert loss(net).item() < first / 3
