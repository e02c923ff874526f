"""Modules are trees: names, parameters, modes, copies."""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, trees


def _net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2, bias=False)))


class WithBuffer(nn.Module):
    def __init__(self):
        self.layers = {"first": nn.Linear(2, 2), "rest": [nn.Linear(2, 2)]}
        self.mean = mg.Tensor([1.0, 2.0])
        self.rate = 0.5
        self.function = abs


class Tied(nn.Module):
    def __init__(self):
        self.encoder = nn.Linear(3, 3)
        self.decoder = nn.Linear(3, 3)
        self.decoder.weight = self.encoder.weight


def test_names_are_paths_in_the_order_of_the_attributes():
    assert list(_net().parameters()) == ["layers.0.weight", "layers.0.bias", "layers.2.layers.1.weight"]


def test_buffers_are_tensors_but_not_parameters():
    module = WithBuffer()
    names = ["layers.first.weight", "layers.first.bias", "layers.rest.0.weight", "layers.rest.0.bias"]
    assert list(module.parameters()) == names
    assert list(module.tensors()) == [*names, "mean"]


def test_a_frozen_parameter_is_none_any_more():
    net = _net()
    net.layers[0].weight.requires_grad = False
    assert "layers.0.weight" not in net.parameters()
    assert "layers.0.weight" in net.tensors()


def test_tied_weights_come_once_and_stay_tied_in_a_rebuilt_module():
    module = Tied()
    assert list(module.parameters()) == ["encoder.weight", "encoder.bias", "decoder.bias"]
    again = module.astype("float64")
    assert again.encoder.weight is again.decoder.weight


def test_a_module_is_a_tree_and_its_settings_are_structure():
    module = WithBuffer()
    leaves, rebuild = trees.flatten(module, floats=True)
    assert len(leaves) == 5  # the rate is no leaf
    again = rebuild([mg.zeros(leaf.shape) for leaf in leaves])
    assert type(again) is WithBuffer
    assert again is not module
    assert (again.rate, again.function) == (0.5, abs)
    assert again.layers["rest"][0].weight.data.sum() == 0
    assert module.layers["rest"][0].weight is leaves[2]


def test_grad_of_a_whole_module_agrees_with_backward():
    mg.random.seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    x = mg.Tensor(np.ones((5, 3), np.float32))
    gradient = mg.grad(lambda net: (net(x) ** 2).sum())(net)
    (net(x) ** 2).sum().backward()
    assert isinstance(gradient, nn.Sequential)
    for name, p in net.parameters().items():
        assert (gradient.tensors()[name].data == p.grad.data).all()


def test_a_dataclass_is_a_module():
    @dataclass
    class Scaled(nn.Module):
        inner: nn.Linear
        scale: Any
        name: str = "scaled"

        def __call__(self, x):
            return self.scale * self.inner(x)

    module = Scaled(nn.Linear(2, 1), mg.Tensor([3.0], "float32", requires_grad=True))
    assert list(module.parameters()) == ["inner.weight", "inner.bias", "scale"]
    again = module.eval().astype("float64")
    assert again.name == "scaled"
    assert not again.training
    assert not again.inner.training
    assert again(mg.ones((4, 2))).shape == (4, 1)


def test_train_and_eval_reach_every_module_and_return_the_module():
    class Holder(nn.Module):
        def __init__(self):
            self.parts = {"a": [nn.Dropout(0.1)], "b": (nn.Dropout(0.2), nn.Tanh())}

    module = Holder()
    assert len(list(module.modules())) == 4
    assert module.training
    assert module.eval() is module
    assert not any(m.training for m in module.modules())
    assert module.train() is module
    assert all(m.training for m in module.modules())


def test_the_mode_of_a_copy_is_its_own():
    module = _net()
    other = module.astype("float64").eval()
    assert all(m.training for m in module.modules())
    assert not any(m.training for m in other.modules())


def test_astype_copies_values_and_keeps_what_is_not_floating_point():
    class Counter(nn.Module):
        def __init__(self):
            self.linear = nn.Linear(2, 2)
            self.count = mg.Tensor([3])

    module = Counter()
    double = module.astype(np.float64)
    assert {t.dtype for t in double.parameters().values()} == {np.dtype("float64")}
    assert double.count.dtype == np.int64
    assert (double.linear.weight.data == module.linear.weight.data).all()
    assert module.linear.weight.dtype == np.float32
    assert double.linear.weight is not module.linear.weight
    same = module.astype("float32")
    assert same.linear.weight is not module.linear.weight
    with pytest.raises(TypeError, match="float32 or float64, not int64"):
        module.astype("int64")


def test_zero_grad_forgets():
    net = nn.Linear(2, 1)
    net(mg.ones((1, 2), dtype="float32")).sum().backward()
    assert net.weight.grad is not None
    net.zero_grad()
    assert net.weight.grad is None
    assert net.bias.grad is None


def test_repr_shows_the_layers():
    assert repr(_net()) == (
        "Sequential(\n"
        "  0: Linear(3, 4),\n"
        "  1: Tanh(),\n"
        "  2: Sequential(\n"
        "    0: Dropout(0.5),\n"
        "    1: Linear(4, 2, bias=False),\n"
        "  ),\n"
        ")"
    )
    assert repr(WithBuffer()) == (
        "WithBuffer(\n"
        "  layers: {\n"
        "    first: Linear(2, 2),\n"
        "    rest: [\n"
        "      Linear(2, 2),\n"
        "    ],\n"
        "  },\n"
        "  mean: float64 (2,),\n"
        ")"
    )
    assert repr(nn.Sequential()) == "Sequential()"


def test_deepcopy_is_independent():
    net = _net()
    other = copy.deepcopy(net)
    other.layers[0].weight.assign(0.0)
    assert net.layers[0].weight.data.any()
