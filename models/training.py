"""The loop that trains: minibatches, gradient, step, and what became of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import minigrad as mg
from minigrad.data import Minibatches
from minigrad.optim import Optimizer
from models.datasets import Images
from models.progress import Epochs

Loss = Callable[[mg.Tensor], mg.Tensor]


class History(NamedTuple):
    """The mean loss of each epoch so far: over its steps, and of the test images after it."""

    train: list[float]
    test: list[float]


def fit(loss: Loss, optimizer: Optimizer, batches: Minibatches, images: Images, epochs: int, history: History) -> None:
    """Minimise the mean of a loss over the training images, with a progress bar.

    Args:
        loss: from a batch of images (rows, pixels) to its mean loss.
        optimizer: of the parameters that the loss depends on.
        batches: of the training images; iterated over once an epoch.
        images: what the batches come from, and the test images.
        epochs: how many times to go through the batches.
        history: is added to, epoch by epoch, so that an interrupted run still has it.

    Raises:
        FloatingPointError: the loss is not finite any more.
    """
    with Epochs(epochs, len(images.train)) as progress:
        for epoch in range(1, epochs + 1):
            total = 0.0
            for x in batches:
                value = loss(x)
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                total += value.item() * len(x)
                progress.step(epoch, len(x), value.item())
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"the loss became {total} in epoch {epoch}: take a smaller learning rate; "
                    "mg.detect_anomaly() finds the operation where it began"
                )
            history.train.append(total / len(images.train))
            with mg.no_grad():
                history.test.append(loss(mg.Tensor(images.test)).item())
            progress.epoch_done(epoch, history.train[-1], history.test[-1])
