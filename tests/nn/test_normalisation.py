"""LayerNorm, BatchNorm and Embedding: values against NumPy, gradients by the checker, averages, errors."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.testing import assert_gradients

rng = np.random.default_rng(0)


def shaken(module: nn.Module) -> nn.Module:
    """A module whose tensors are no longer ones and zeros."""
    for tensor in module.tensors().values():
        tensor.assign(tensor.data + rng.uniform(0.1, 0.5, tensor.shape).astype(tensor.dtype))
    return module


def test_layer_norm_is_what_it_says() -> None:
    norm = shaken(nn.LayerNorm(5, eps=0.01, dtype="float64"))
    x = rng.normal(2.0, 3.0, (4, 3, 5))
    want = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.01)
    np.testing.assert_allclose(norm(mg.Tensor(x)).data, want * norm.weight.data + norm.bias.data, rtol=1e-13)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (2, 3, 4, 5)])
def test_batch_norm_is_what_it_says(shape: tuple[int, ...]) -> None:
    norm = shaken(nn.BatchNorm(3, momentum=0.25, eps=0.01, dtype="float64"))
    before = {name: tensor.data for name, tensor in norm.tensors().items()}
    x = rng.normal(2.0, 3.0, shape)
    axes = (0, *range(2, x.ndim))
    scale, shift = (np.reshape(before[name], (3, *(1,) * (x.ndim - 2))) for name in ("weight", "bias"))
    want = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 0.01)
    np.testing.assert_allclose(norm(mg.Tensor(x)).data, want * scale + shift, rtol=1e-12)
    average = 0.75 * before["running_mean"] + 0.25 * x.mean(axes)
    variance = 0.75 * before["running_variance"] + 0.25 * x.var(axes, ddof=1)
    np.testing.assert_allclose(norm.running_mean.data, average, rtol=1e-13)
    np.testing.assert_allclose(norm.running_variance.data, variance, rtol=1e-13)
    norm.eval()
    average, variance = (np.reshape(a, (3, *(1,) * (x.ndim - 2))) for a in (average, variance))
    want = (x - average) / np.sqrt(variance + 0.01)
    np.testing.assert_allclose(norm(mg.Tensor(x)).data, want * scale + shift, rtol=1e-12)
    np.testing.assert_array_equal(norm.running_mean.data, average.ravel())


def test_batch_norm_in_use_treats_samples_alone() -> None:
    norm = shaken(nn.BatchNorm(3)).eval()
    x = mg.Tensor(rng.normal(size=(4, 3)).astype("float32"))
    np.testing.assert_array_equal(norm(x).data[1:2], norm(x[1:2]).data)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layer", [nn.LayerNorm(3, dtype="float64"), nn.BatchNorm(3, dtype="float64")])
def test_gradients(layer: nn.Module, training: bool) -> None:
    layer = shaken(layer).train(training)
    x = mg.Tensor(rng.normal(size=(4, 3)))
    u = mg.Tensor(rng.normal(size=(4, 3)))

    def loss(module: nn.Module, x: mg.Tensor) -> mg.Tensor:
        return mg.sum(module(x) * u)

    assert_gradients(loss, layer, x)


def test_a_step_with_batch_norm_is_replayed() -> None:
    """The averages are updated by operations on the tape, so that a replay updates them too."""
    norm = nn.BatchNorm(2, momentum=0.5, dtype="float64")
    x, other = (mg.Tensor(rng.normal(size=(4, 2))) for _ in range(2))
    with mg.record() as tape:
        norm(x)
    again = tape.replay({x: other})(norm.running_mean)
    np.testing.assert_allclose(again, 0.5 * other.data.mean(0), rtol=1e-14)


def test_averages_move_inside_of_grad() -> None:
    """grad hands the function a module of aliases; the averages that move are those of the module itself."""
    norm = nn.BatchNorm(2, momentum=0.5, dtype="float64")
    x = mg.Tensor(rng.normal(size=(4, 2)))
    for _ in range(2):
        mg.grad(lambda norm: mg.sum(norm(x)))(norm)
    np.testing.assert_allclose(norm.running_mean.data, 0.75 * x.data.mean(0), rtol=1e-14)
    other = norm.astype("float32")
    other(x.astype("float32"))
    np.testing.assert_allclose(norm.running_mean.data, 0.75 * x.data.mean(0), rtol=1e-14)
    np.testing.assert_allclose(other.running_mean.data, 0.875 * x.data.mean(0), rtol=1e-6)


def test_normalised_values_have_mean_0_and_variance_1() -> None:
    y = nn.BatchNorm(3)(mg.Tensor(rng.normal(50.0, 7.0, (100, 3)).astype("float32"))).data
    assert abs(y.mean(0)).max() < 1e-5
    assert abs(y.var(0) - 1).max() < 1e-5


def test_only_weight_and_bias_are_trained() -> None:
    norm = nn.BatchNorm(2)
    assert list(norm.parameters()) == ["weight", "bias"]
    assert list(norm.tensors()) == ["weight", "bias", "running_mean", "running_variance"]


def test_rows_of_an_embedding() -> None:
    table = nn.Embedding(5, 3, dtype="float64", generator=mg.random.Generator(0))
    i = np.array([[4, 0], [0, 2]])
    np.testing.assert_array_equal(table(i).data, table.weight.data[i])
    mg.sum(table(i)).backward()
    assert table.weight.grad is not None
    np.testing.assert_array_equal(table.weight.grad.data, np.array([2, 0, 1, 0, 1])[:, None] * np.ones(3))
    assert table(mg.Tensor(3)).shape == (3,)
    assert table(np.zeros((0,), int)).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: nn.LayerNorm(0), ValueError, "at least 1 feature, got 0"),
        (lambda: nn.BatchNorm(0), ValueError, "at least 1 feature, got 0"),
        (lambda: nn.BatchNorm(2, momentum=0.0), ValueError, r"in \(0, 1\], not 0.0"),
        (lambda: nn.Embedding(0, 2), ValueError, "got 0 and 2"),
        (
            lambda: nn.LayerNorm(3)(mg.zeros((2, 4), dtype="float32")),
            ValueError,
            r"LayerNorm\(3\).*\(\.\.\., 3\).*\(2, 4\)",
        ),
        (
            lambda: nn.BatchNorm(3)(mg.zeros((3,), dtype="float32")),
            ValueError,
            r"\(batch, 3, ...\), got float32 \(3,\)",
        ),
        (lambda: nn.BatchNorm(3)(mg.zeros((1, 3), dtype="float32")), ValueError, r"more than one value.*call eval\(\)"),
        (lambda: nn.LayerNorm(3)(mg.zeros((2, 3))), TypeError, r"x.astype\('float32'\)"),
        (lambda: nn.Embedding(3, 2)(np.array([0.5])), TypeError, r"Embedding\(3, 2\): expected integers, got float64"),
        (lambda: nn.Embedding(3, 2)(np.array([3])), IndexError, r"in \[0, 3\), got 3 to 3"),
        (lambda: nn.Embedding(3, 2)(np.array([-1])), IndexError, r"in \[0, 3\), got -1 to -1"),
        (lambda: mg.standardise(mg.zeros((2, 0))), ValueError, "at least one element"),
        (lambda: mg.standardise(mg.zeros(2), eps=0.0), ValueError, "eps is a positive number"),
    ],
)
def test_errors(call, error, match) -> None:
    with pytest.raises(error, match=match):
        call()
