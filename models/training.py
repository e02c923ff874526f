"""The loop that trains: minibatches, steps, curves; checkpoints that lose nothing; Ctrl-C, divergence, early stopping.

`Training` goes through the training images, epoch by epoch, and gives every minibatch to the model's own `step`, which
most models write as `descent(loss(batch))`: a `Descent` is an optimiser and the schedule of its learning rate. A step
is tensors in, tensors out, so that it can be compiled; all that looks at numbers (the schedule, whether the loss is
finite) is done between steps.

Everything that a step changes is in one tree of tensors, `state`. With the random state and the place in the epoch it
makes the checkpoint, so that a run that was killed at any step goes on to the same bits. Random numbers come in two
streams. One orders the images: the order of epoch e is its draw number e, so nothing of it needs to be kept. All that
steps and evaluations draw (noise, dropout) comes from the other.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

import minigrad as mg
from minigrad import trees
from minigrad.data import minibatches
from minigrad.optim import Optimizer
from minigrad.optim.schedules import Schedule
from models import checkpoints
from models.progress import Epochs

Array = np.ndarray[Any, Any]

SECONDS_BETWEEN_CHECKPOINTS = 20.0
EXPLODED = 1000.0  # times the size of the first loss, and no smaller than this


class Diverged(FloatingPointError):
    """A loss, a gradient or a weight is NaN or infinite, or the loss exploded."""


class Descent:
    """An optimiser and the schedule of its learning rate; called on a loss, it does one step downhill.

    Args:
        optimizer: of the parameters that the loss depends on.
        schedule: from the number of steps done so far to the learning rate; None leaves it as it is.

    It is a tree of tensors: the optimiser's state, and the number of steps.

    Example:
        >>> p = mg.Tensor([1.0], requires_grad=True)
        >>> descent = Descent(mg.optim.SGD([p], lr=0.25))
        >>> descent(mg.sum(p * p)).item(), p.data
        (1.0, array([0.5]))
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule | None = None):
        self.optimizer, self.schedule = optimizer, schedule
        self.steps = mg.Tensor(0.0, np.float64)

    def __tree__(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]:
        return {"optimizer": self.optimizer.state, "steps": self.steps}, dict

    def __call__(self, loss: mg.Tensor) -> mg.Tensor:
        """Step against the gradient of a loss (), and return its value. A compiled function can call it."""
        self.optimizer.zero_grad()  # another loss may have left gradients here
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # so that a compiled step need not write them out
        self.steps.assign(self.steps + 1.0)
        return loss.detach()

    def set_rate(self) -> None:
        """Give the optimiser the learning rate of the next step. To be called before each step, outside of it."""
        if self.schedule is not None:
            self.optimizer.learning_rate = self.schedule(int(self.steps.item()))


class Patience(NamedTuple):
    """Early stopping: the curve to watch, which falls while the model gets better, and for how many epochs in vain.

    The weights of the best epoch are kept, and are the model's at the end.
    """

    curve: str
    epochs: int


@dataclass
class Place:
    """Where a training stands: what of a checkpoint is no tensor."""

    epoch: int = 0  # epochs that are done
    position: int = 0  # steps of the next one that are done
    sums: dict[str, float] = field(default_factory=dict)  # of what those steps returned, over their images
    limits: dict[str, float] = field(default_factory=dict)  # beyond which each of these has exploded
    curves: dict[str, list[float]] = field(default_factory=dict)  # one number an epoch
    best: float | None = None  # of the curve that the patience watches
    best_epoch: int = 0
    seconds: float = 0.0  # spent


class _Stop:
    """Within the block the first Ctrl-C only says `asked`, so that no step is cut in two; another one interrupts."""

    def __enter__(self) -> _Stop:
        self.asked = False
        self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)


class Training:
    """A training, at its start or where its checkpoint stands; `run` takes it to its end.

    Args:
        step: is given a minibatch of each array, changes `state`, and returns the loss, or several numbers by name:
            tensors (), as a compiled function does. They have to stay finite, and must not explode.
        state: a dict of all tensors that steps change. If there is patience, `state["model"]` is what it keeps. Every
            `Descent` in it, also in dicts and lists, is told its learning rate before each step.
        arrays: training images, and what goes with them, (count, ...) each.
        epochs, batch_size: how often to go through them, and in what portions; the last one of an epoch may be smaller.
        path: of the checkpoint.
        settings: what makes this training this one, as JSON can hold it; a checkpoint with others is not resumed.
        resume: whether to go on from the checkpoint; otherwise a new one is written there.
        evaluate: called after each epoch, without gradients; more numbers by name.
        patience: for early stopping.

    `place` is where it stands. Its curves are means of what the steps of an epoch returned, and what `evaluate` did.

    Raises:
        CheckpointError: it can't be resumed; nothing is changed then.
    """

    def __init__(
        self,
        step: Callable[..., mg.Tensor | Mapping[str, mg.Tensor]],
        state: dict[str, Any],
        arrays: Sequence[Array],
        *,
        epochs: int,
        batch_size: int,
        path: Path,
        settings: Mapping[str, Any],
        resume: bool = False,
        evaluate: Callable[[], Mapping[str, float]] | None = None,
        patience: Patience | None = None,
    ):
        self.step, self.state, self.images = step, state, len(arrays[0])
        self.descents = _descents_in(state)
        self.epochs, self.batch_size = epochs, batch_size
        self.path, self.settings, self.evaluate, self.patience = path, dict(settings), evaluate, patience
        self.order, self.draws = mg.random.current().split(2)
        self.batches = minibatches(*arrays, batch_size=batch_size, generator=self.order)
        self.model = dict(trees.named_leaves(state["model"])) if patience else {}
        self.best = {name: mg.Tensor(tensor.data) for name, tensor in self.model.items()}
        self.tensors = {"state": state, "draws": self.draws, "best": self.best}
        self.place = Place()
        if resume:
            self._load()
        checkpoints.remove_drafts(path)
        self.clock = monotonic() - self.place.seconds
        self.saved = -math.inf

    def run(self) -> Place:
        """Train to the last epoch, or until the patience is at its end.

        Raises:
            KeyboardInterrupt: Ctrl-C, after a step and a checkpoint.
            Diverged: with the epoch, the step, the first bad layer and what to try; the last good checkpoint stays.
        """
        place = self.place
        done = place.epoch * self.images + min(place.position * self.batch_size, self.images)
        progress = Epochs(self.epochs, self.images, len(self.batches), done)
        # numbers that are not finite are found by looking at them: no warnings
        with _Stop() as stop, mg.random.use(self.draws), np.errstate(all="ignore"), progress:
            self._save()
            for batch in self._batches(progress.epoch_done):
                values = self._step(batch)
                progress.step(place.epoch + 1, place.position, len(batch[0]), values)
                if stop.asked or monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
                    self._save()
                if stop.asked:
                    raise KeyboardInterrupt
            self._save()
        if self.patience is not None:
            for name, tensor in self.model.items():
                tensor.assign(self.best[name].data)
        return place

    def _batches(self, epoch_done: Callable[[int, dict[str, float]], None]) -> Iterator[tuple[mg.Tensor, ...]]:
        """The minibatches from where the training stands to its end; whoever takes one does a step with it."""
        while self.place.epoch < self.epochs and not self._out_of_patience():
            self.order.state.assign(np.array([self.order.state.data[0], self.place.epoch], np.uint64))
            for batch in islice(self.batches, self.place.position, None):
                yield batch if isinstance(batch, tuple) else (batch,)
            epoch_done(self.place.epoch + 1, self._end_of_epoch())

    def _step(self, batch: tuple[mg.Tensor, ...]) -> dict[str, float]:
        """One step, and what it returned, which has to be sound."""
        place = self.place
        values = {name: value.item() for name, value in self._taken(batch).items()}
        for name, value in values.items():
            limit = place.limits.setdefault(name, EXPLODED * max(1.0, abs(value)))
            if not math.isfinite(value):
                raise self._explained(f"{name} became {value}; {self._where(name)}")
            if abs(value) > limit:
                exploded = f"{name} exploded: it is {value:.3g} now, where {limit:.3g} is the limit"
                raise self._explained(f"{exploded}; {self._where(name)}")
        for name, value in values.items():
            place.sums[name] = place.sums.get(name, 0.0) + value * len(batch[0])
        place.position += 1
        return values

    def _taken(self, batch: tuple[mg.Tensor, ...]) -> Mapping[str, mg.Tensor]:
        """Take one step; what it returned, by name."""
        for descent in self.descents:
            descent.set_rate()
        values = self.step(*batch)
        return values if isinstance(values, Mapping) else {"loss": values}

    def _where(self, bad: str) -> str:
        """Where in the step that has just diverged the number of this name went bad.

        By now this step has changed the state. So the training goes back to its checkpoint and comes here again, to
        the same bits; then the step is recorded, operation by operation.
        """
        here = self.place.epoch, self.place.position
        self._load()
        batches = self._batches(lambda epoch, values: None)
        batch = next(batches)
        while (self.place.epoch, self.place.position) != here:
            self._step(batch)
            batch = next(batches)
        return _first_bad_layer(self.state, lambda: self._taken(batch)[bad])

    def _end_of_epoch(self) -> dict[str, float]:
        """Continue the curves, and keep the weights if they are the best so far."""
        place = self.place
        values = {name: total / self.images for name, total in place.sums.items()}
        if self.evaluate is not None:
            with mg.no_grad():
                values |= self.evaluate()
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise self._explained(f"after the last step of the epoch, {' and '.join(bad)}")
        for name, value in values.items():
            place.curves.setdefault(name, []).append(value)
        place.epoch, place.position, place.sums = place.epoch + 1, 0, {}
        watched = values[self.patience.curve] if self.patience is not None else None
        if watched is not None and (place.best is None or watched < place.best):
            place.best, place.best_epoch = watched, place.epoch
            for name, tensor in self.best.items():
                tensor.assign(self.model[name].data)
        return values

    def _out_of_patience(self) -> bool:
        return self.patience is not None and self.place.epoch - self.place.best_epoch >= self.patience.epochs

    def _load(self) -> None:
        """Go to where the checkpoint stands."""
        facts = checkpoints.load_facts(self.path)
        checkpoints.refuse_other(self.path, facts["settings"], self.settings)
        checkpoints.load_into(self.path, self.tensors)
        self.place = Place(**facts["place"])

    def _save(self) -> None:
        """Write the checkpoint; if a tensor is not finite, leave the old one."""
        for name, tensor in trees.named_leaves(self.state):
            if tensor.ndim and not np.isfinite(tensor.data).all():
                raise self._explained(f"{name} is not finite any more")
        self.place.seconds = monotonic() - self.clock
        checkpoints.save(self.path, self.tensors, {"settings": self.settings, "place": asdict(self.place)})
        self.saved = monotonic()

    def _explained(self, what: str) -> Diverged:
        where = f"epoch {self.place.epoch + 1}, step {self.place.position + 1}"
        return Diverged(
            f"{where}: {what}. Try a smaller --learning-rate or another --seed. The last good checkpoint is {self.path}"
        )


def _descents_in(state: Any) -> list[Descent]:
    """All of them, in nests of dict, list and tuple."""
    if isinstance(state, Descent):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [descent for part in parts for descent in _descents_in(part)]


def _first_bad_layer(state: Any, number: Callable[[], mg.Tensor]) -> str:
    """Where in the computation of a number () the first one that is not finite arises, or where values grow the most.

    The computation is recorded for this. It may change the state, after the number or before.
    """

    def by_array() -> dict[int, str]:
        return {id(leaf.array): name.rpartition(".")[0] for name, leaf in trees.named_leaves(state)}

    layers = by_array()
    with mg.record() as tape:
        last = number().array
    layers |= by_array()  # of a part of the state that changed before the number was there
    layer, most, where = "the input", 0.0, ""
    for entry in tape.entries:
        arrays = [array for array in entry.inputs if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
        for array in arrays:
            if id(array) in layers:
                layer = layers[id(array)]
                if not np.isfinite(array).all():
                    return f"the parameters of {layer} were not finite already"
        outputs = entry.output if isinstance(entry.output, tuple) else (entry.output,)
        if not all(np.isfinite(y).all() for y in outputs if y.dtype.kind == "f"):
            return f"the first bad layer is {layer}, in its operation {entry.op.name}"
        before, after = (
            max((float(np.max(np.abs(x), initial=0.0)) for x in side), default=1.0) for side in (arrays, outputs)
        )
        if before and after > most * before:
            most, where = after / before, layer
        if any(y is last for y in outputs):
            break
    return f"values grow most, {most:.3g} times, in layer {where}"
