"""Learning-rate schedules: functions from the number of steps already made (0, 1, ...) to a learning rate.

A loop writes it into the optimiser, whose learning rate is a tensor of its state:

    optimizer.learning_rate = schedule(step)
"""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["Schedule", "constant", "cosine", "exponential", "step_decay", "warmup"]

Schedule = Callable[[int], float]


def constant(lr: float) -> Schedule:
    """Always lr ≥ 0.

    Example:
        >>> from minigrad.optim import schedules
        >>> schedules.constant(0.1)(1000)
        0.1
    """
    _check(lr=lr)
    return lambda step: lr


def step_decay(lr: float, every: int, factor: float = 0.1) -> Schedule:
    """lr·factor^⌊step/every⌋: lowered by a factor in (0, 1] after every so many steps.

    Example:
        >>> from minigrad.optim import schedules
        >>> [schedules.step_decay(1.0, every=10, factor=0.5)(step) for step in (0, 9, 10, 20)]
        [1.0, 1.0, 0.5, 0.25]
    """
    _check(lr=lr, every=every, factor=factor)
    return lambda step: lr * factor ** (step // every)


def exponential(lr: float, factor: float) -> Schedule:
    """lr·factor^step: lowered by a factor in (0, 1] at every step.

    Example:
        >>> from minigrad.optim import schedules
        >>> schedules.exponential(1.0, 0.5)(3)
        0.125
    """
    _check(lr=lr, factor=factor)
    return lambda step: lr * factor**step


def cosine(lr: float, steps: int, final: float = 0.0) -> Schedule:
    """From lr to `final` along half a cosine in so many steps, then `final` (Loshchilov and Hutter 2017, eq. 5).

    Example:
        >>> from minigrad.optim import schedules
        >>> [round(schedules.cosine(1.0, steps=100)(step), 6) for step in (0, 50, 100, 200)]
        [1.0, 0.5, 0.0, 0.0]
    """
    _check(lr=lr, steps=steps, final=final)
    return lambda step: final + (lr - final) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """Lead up to the first learning rate of a schedule in `steps` equal stages, then run it from its beginning.

    Example:
        >>> from minigrad.optim import schedules
        >>> [schedules.warmup(schedules.constant(1.0), steps=4)(step) for step in range(6)]
        [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    _check(steps=steps)
    return lambda step: schedule(0) * (step + 1) / steps if step < steps else schedule(step - steps)


def _check(**given: float) -> None:
    """ValueError unless rates are ≥ 0, numbers of steps ≥ 1, and factors in (0, 1]."""
    for name, x in given.items():
        if name in ("lr", "final"):
            allowed, words = 0 <= x < math.inf, "a number ≥ 0"
        elif name == "factor":
            allowed, words = 0 < x <= 1, "in (0, 1]"
        else:
            allowed, words = x >= 1, "at least 1"
        if not allowed:
            raise ValueError(f"{name} of a schedule is {words}, not {x}")
