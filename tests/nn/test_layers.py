"""Layers against NumPy, and what they say to wrong inputs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn


@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.lists(st.integers(0, 3), max_size=3),
    st.booleans(),
    st.sampled_from(["float32", "float64"]),
)
def test_linear_is_x_w_plus_b(n_in, n_out, leading, bias, dtype):
    layer = nn.Linear(n_in, n_out, bias, dtype=dtype)
    if bias:
        layer.bias.assign(np.arange(n_out, dtype=dtype))
    x = np.random.default_rng(0).normal(size=(*leading, n_in)).astype(dtype)
    y = layer(mg.Tensor(x))
    expected = x @ layer.weight.data + (layer.bias.data if bias else 0)
    assert y.dtype == dtype
    assert y.shape == (*leading, n_out)
    np.testing.assert_allclose(y.data, expected, rtol=1e-5, atol=1e-5)


def test_gradients_of_linear_reach_both_parameters():
    layer = nn.Linear(3, 2, dtype="float64")
    x = mg.Tensor(np.arange(12.0).reshape(4, 3))
    layer(x).sum().backward()
    np.testing.assert_allclose(layer.weight.grad.data, np.repeat(x.data.sum(0)[:, None], 2, 1))
    np.testing.assert_allclose(layer.bias.grad.data, [4, 4])


def test_linear_takes_an_array():
    assert nn.Linear(2, 3)(np.ones((4, 2), np.float32)).shape == (4, 3)


@pytest.mark.parametrize("shape", [(), (3,), (2, 4)])
def test_linear_names_a_wrong_shape(shape):
    with pytest.raises(
        ValueError, match=r"Linear\(2, 3\): expected an input of shape \(\.\.\., 2\), got float32"
    ) as error:
        nn.Linear(2, 3)(mg.ones(shape, dtype="float32"))
    assert str(error.value).endswith(str(shape))


def test_a_float64_batch_into_a_float32_module_names_astype():
    with pytest.raises(TypeError, match=r"float32 parameters, but its input is float64 \(4, 2\).*astype\('float32'\)"):
        nn.Linear(2, 3)(mg.ones((4, 2)))
    with pytest.raises(TypeError, match="int64"):
        nn.Linear(2, 3)(mg.Tensor([[1, 2]]))


def test_sequential_says_in_which_layer_an_error_was():
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"Linear\(4, 1\): expected") as e:
        net(mg.ones((5, 2), dtype="float32"))
    assert e.value.__notes__ == ["in layer 2 of Sequential: Linear(4, 1)"]


def test_sequential_is_a_sequence_of_modules_and_functions():
    net = nn.Sequential(nn.Linear(2, 3), mg.abs)
    assert len(net) == 2
    assert net[1] is mg.abs
    assert list(net) == net.layers
    x = mg.ones((1, 2), dtype="float32")
    assert (net(x).data == abs(net[0](x).data)).all()
    assert nn.Sequential()(x) is x


ACTIVATIONS = {
    nn.Tanh(): np.tanh,
    nn.ReLU(): lambda x: np.maximum(x, 0),
    nn.Sigmoid(): lambda x: 1 / (1 + np.exp(-x)),
    nn.Softplus(): lambda x: np.log1p(np.exp(x)),
    nn.GELU(): lambda x: np.array([v * 0.5 * (1 + math.erf(v / 2**0.5)) for v in x]),
    nn.SiLU(): lambda x: x / (1 + np.exp(-x)),
    nn.LeakyReLU(0.2): lambda x: np.where(x > 0, x, 0.2 * x),
    nn.ELU(0.5): lambda x: np.where(x > 0, x, 0.5 * np.expm1(x)),
}


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_activations(layer):
    x = np.array([-2.0, -0.5, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(layer(mg.Tensor(x)).data, ACTIVATIONS[layer](x), rtol=1e-12, atol=1e-15)
    assert layer.parameters() == {}


def test_dropout_drops_at_its_rate_and_keeps_the_mean():
    mg.random.seed(0)
    layer = nn.Dropout(0.2)
    x = mg.full((20_000,), 3.0, dtype="float32")
    y = layer(x).data
    assert y.dtype == np.float32
    assert set(np.unique(y).tolist()) == {0.0, 3.75}
    assert abs((y == 0).mean() - 0.2) < 4 * np.sqrt(0.16 / 20_000)


def test_dropout_passes_the_gradient_where_it_passed_the_value():
    mg.random.seed(1)
    x = mg.Tensor(np.ones(50), requires_grad=True)
    y = nn.Dropout(0.5)(x)
    y.sum().backward()
    assert (x.grad.data == y.data).all()


def test_dropout_is_nothing_in_use_and_at_rate_zero():
    mg.random.seed(2)
    x = mg.ones(3)
    assert nn.Dropout(0.5).eval()(x) is x
    assert nn.Dropout(0.0)(x) is x
    assert mg.random.current().state.data[1] == 0


def test_dropout_of_what_is_dropped_hides_nan():
    mg.random.seed(3)
    y = nn.Dropout(0.9)(mg.full((100,), np.inf)).data
    assert set(np.unique(y).tolist()) == {0.0, np.inf}


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_refuses_other_rates(rate):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        nn.Dropout(rate)


def test_linear_refuses_no_features():
    with pytest.raises(ValueError, match="got 0 and 3"):
        nn.Linear(0, 3)


LIMITS = {
    nn.initialisers.uniform: (6 / (80 + 50 + 1)) ** 0.5,
    nn.initialisers.glorot_uniform: (6 / (80 + 50)) ** 0.5,
    nn.initialisers.he_uniform: (6 / 80) ** 0.5,
}
DEVIATIONS = {nn.initialisers.glorot_normal: (2 / (80 + 50)) ** 0.5, nn.initialisers.he_normal: (2 / 80) ** 0.5}


@pytest.mark.parametrize("initialiser", LIMITS)
def test_uniform_initialisers_fill_their_interval(initialiser):
    limit = LIMITS[initialiser]
    w = nn.Linear(80, 50, initialiser=initialiser, generator=mg.random.Generator(0)).weight.data
    assert w.dtype == np.float32
    assert 0.998 * limit < abs(w).max() <= limit * (1 + 1e-6)
    assert abs(w.mean()) < 4 * limit / (3 * w.size) ** 0.5
    assert abs(w.std() * 3**0.5 / limit - 1) < 0.05


@pytest.mark.parametrize("initialiser", DEVIATIONS)
def test_normal_initialisers_have_their_deviation(initialiser):
    w = nn.Linear(80, 50, initialiser=initialiser, dtype="float64", generator=mg.random.Generator(0)).weight.data
    assert w.dtype == np.float64
    assert abs(w.std() / DEVIATIONS[initialiser] - 1) < 0.05
    assert abs(w.mean()) < 4 * w.std() / w.size**0.5


def test_the_default_is_the_lectures():
    a = nn.Linear(5, 4, generator=mg.random.Generator(1))
    b = nn.Linear(5, 4, initialiser=nn.initialisers.uniform, generator=mg.random.Generator(1))
    assert (a.weight.data == b.weight.data).all()
    assert not a.bias.data.any()
    assert not nn.Linear(5, 4, initialiser=nn.initialisers.zeros).weight.data.any()


def test_initialisation_is_reproducible_by_seed():
    def weights():
        mg.random.seed(4)
        return nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).parameters()

    a, b = weights(), weights()
    assert all((a[name].data == b[name].data).all() for name in a)
    assert not (a["layers.0.weight"].data == a["layers.1.weight"].data).any()
