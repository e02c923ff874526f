"""Optimisers: read `first_order`; `clipping` bounds gradients, `schedules` makes learning rates from the step."""

from minigrad.optim import schedules
from minigrad.optim.clipping import clip_grad_norm, clip_grad_value
from minigrad.optim.first_order import SGD, Adam, Optimizer

__all__ = ["SGD", "Adam", "Optimizer", "clip_grad_norm", "clip_grad_value", "schedules"]
