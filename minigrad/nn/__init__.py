"""Modules: layers and networks as plain objects that are trees of tensors.

Read `module` first, then `layers`; `initialisers` is what their parameters start from.
"""

from minigrad.nn import initialisers
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

__all__ = [
    "ELU",
    "GELU",
    "Dropout",
    "LeakyReLU",
    "Linear",
    "Module",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "initialisers",
]
