"""Modules: layers and networks as plain objects that are trees of tensors.

Read `module` first, then `layers`; `initialisers` is what their parameters start from.
"""

from minigrad.nn import initialisers
from minigrad.nn.convolution import AvgPool2d, Conv2d, ConvTranspose2d, MaxPool2d, StochasticPool2d
from minigrad.nn.embedding import Embedding
from minigrad.nn.layers import (
    ELU,
    GELU,
    Dropout,
    LeakyReLU,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from minigrad.nn.module import Module
from minigrad.nn.normalisation import BatchNorm, LayerNorm

__all__ = [
    "ELU",
    "GELU",
    "AvgPool2d",
    "BatchNorm",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "Module",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "StochasticPool2d",
    "Tanh",
    "initialisers",
]
