"""Killed anywhere it goes on to the same bits, Ctrl-C and divergence lose nothing, patience keeps the best."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.optim import schedules

pytest.importorskip("rich")
pytest.importorskip("safetensors")

from models import checkpoints, training
from models.checkpoints import CheckpointError
from models.training import Descent, Diverged, Patience, Training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 6)).astype(np.float32)
Y = np.tanh(X @ RNG.normal(size=(6, 2))).astype(np.float32)


class Watched(Training):
    """A training that calls `before` before each step."""

    before: Callable[[], None] = staticmethod(lambda: None)

    def _batches(self, epoch_done: Callable[..., None]) -> Any:
        for batch in super()._batches(epoch_done):
            self.before()
            yield batch


class Made:
    """A training of a network with dropout, noise, Adam, momentum, a schedule and patience; all that can go wrong.

    `spoil` is given each loss, the training, and which of the two it is; `spoiled` is 1 in the 20th step, else 0.
    """

    def __init__(
        self,
        folder: Path,
        resume: bool = False,
        epochs: int = 6,
        compiled: bool = True,
        spoil: Callable[..., Any] | None = None,
        before: Callable[[], None] = lambda: None,
    ):
        mg.random.seed(3)
        self.net = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.2), nn.Tanh(), nn.Linear(5, 2))
        self.scale = mg.Tensor(np.ones(6, np.float32), requires_grad=True)
        self.spoiled = mg.Tensor(np.float32(0.0))
        first = Descent(mg.optim.Adam(self.net, lr=0.01), schedules.cosine(0.01, steps=6 * 8))
        second = Descent(mg.optim.SGD([self.scale], lr=0.05, momentum=0.9))

        def loss(x: mg.Tensor, y: mg.Tensor, which: int) -> mg.Tensor:
            noisy = x * self.scale + mg.random.normal(x.shape, dtype="float32") * 0.1
            value = mg.mse(self.net(noisy), y)
            return spoil(value, self, which) if spoil is not None else value

        def evaluate() -> dict[str, float]:
            self.net.eval()
            value = mg.mse(self.net(mg.Tensor(X) * self.scale + mg.random.normal(X.shape, dtype="float32")), Y).item()
            self.net.train()
            # the best epoch is the third, so that its weights have to survive what comes after it
            return {"test": value, "watched": abs(self.training.place.epoch - 2) + value}

        self.descents = [first, second]
        self.state = {"model": self.net, "scale": self.scale, "descents": self.descents}
        self.path = folder / "checkpoint.safetensors"

        def step(x: mg.Tensor, y: mg.Tensor) -> dict[str, mg.Tensor]:
            return {"loss": first(loss(x, y, 1)), "other": second(loss(x, y, 2))}

        def each() -> None:
            place = self.training.place
            self.spoiled.assign(float((place.epoch, place.position) == (2, 3)))
            before()

        self.training = Watched(
            mg.compile(step) if compiled else step,
            self.state,
            (X, Y),
            epochs=epochs,
            batch_size=7,
            path=self.path,
            settings={"lr": 0.01},
            resume=resume,
            evaluate=evaluate,
            patience=Patience("watched", 100),
        )
        self.training.before = each

    def bits(self) -> dict[str, bytes]:
        return {name: leaf.data.tobytes() for name, leaf in mg.trees.named_leaves(self.state)}


def file_bits(path: Path) -> dict[str, bytes]:
    return {name: tensor.data.tobytes() for name, tensor in mg.io.load(path).items()}


def curves(path: Path) -> Any:
    return checkpoints.load_facts(path)["place"]["curves"]


def in_a_child(folder: Path, kills: int) -> None:
    """Fork children that train, a checkpoint a step, and kill each at a random time, so many times; then let one end.

    It is a program of its own: a process with threads must not be forked.
    """
    training.SECONDS_BETWEEN_CHECKPOINTS = 0.0
    draw = random.Random(0)
    killed = 0
    for attempt in range(1000):
        child = os.fork()
        if child == 0:
            Made(folder, resume=attempt > 0 and (folder / "checkpoint.safetensors").exists()).training.run()
            os._exit(0)
        if killed < kills:
            time.sleep(draw.uniform(0.0, 0.04))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            if killed == kills:
                print(f"killed {killed} times")
                return
            (folder / "checkpoint.safetensors").rename(folder / f"whole-{killed}.safetensors")  # and begin anew


def test_killed_anywhere_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Made(tmp_path / "whole")
    whole.training.run()
    environment = os.environ | {"PYTHONPATH": str(Path(training.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "killed"), "40"], capture_output=True, text=True, env=environment
    )
    assert "killed 40 times" in done.stdout, done.stderr
    for file in (tmp_path / "killed").glob("*.safetensors"):
        assert file_bits(file) == file_bits(whole.path)
        assert curves(file) == curves(whole.path)
    assert not list((tmp_path / "killed").glob(".*"))  # what those killed were writing is gone


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("stop_at", [1, 2, 5, 8, 9, 20, 37])
def test_interrupted_after_any_step_it_goes_on_to_the_same_bits(tmp_path: Path, stop_at: int, compiled: bool) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = Made(tmp_path / "whole", compiled=compiled)
    whole.training.run()
    calls = 0

    def ctrl_c() -> None:
        nonlocal calls
        calls += 1
        if calls == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = Made(tmp_path / "stopped", compiled=compiled, before=ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        stopped.training.run()
    assert calls == stop_at
    assert stopped.training.place.epoch * 8 + stopped.training.place.position == stop_at
    again = Made(tmp_path / "stopped", resume=True, compiled=compiled)
    place = again.training.run()
    assert again.bits() == whole.bits()
    assert place.curves == whole.training.place.curves


def test_compiled_and_eager_agree_to_rounding(tmp_path: Path) -> None:
    one, other = (Made(tmp_path, compiled=compiled) for compiled in (True, False))
    for made in (one, other):
        made.training.run()
    leaves = (dict(mg.trees.named_leaves(made.state)) for made in (one, other))
    for a, b in zip(*(found.values() for found in leaves), strict=True):
        assert np.allclose(a.data, b.data, rtol=1e-3, atol=1e-5)


def test_the_other_seed_and_order_matter(tmp_path: Path) -> None:
    """So that equal bits mean something: another place in the epoch's order, or other noise, gives other bits."""
    whole = Made(tmp_path)
    whole.training.run()
    for spoil in ("order", "draws"):
        other = Made(tmp_path)
        getattr(other.training, spoil).state.assign(np.array([5, 0], np.uint64))
        other.training.run()
        assert other.bits() != whole.bits()


def test_each_epoch_has_all_images_in_another_order_and_curves_are_means(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def step(x: mg.Tensor) -> dict[str, mg.Tensor]:
        seen.append(x.data[:, 0].tolist())
        return {"number": mg.mean(x), "rows": mg.Tensor(float(len(x)))}

    numbers = np.arange(10.0)[:, None]
    mg.random.seed(0)
    options = {"epochs": 3, "batch_size": 4, "path": tmp_path / "c.safetensors", "settings": {}}
    place = Training(step, {"w": mg.ones(1)}, (numbers,), **options).run()
    assert [len(batch) for batch in seen] == [4, 4, 2] * 3
    orders = [[x for batch in seen[i : i + 3] for x in batch] for i in (0, 3, 6)]
    assert all(sorted(order) == numbers[:, 0].tolist() for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert place.curves == {"number": pytest.approx([4.5] * 3), "rows": pytest.approx([3.6] * 3)}


def test_patience_stops_and_keeps_the_best(tmp_path: Path) -> None:
    w = mg.Tensor(np.zeros(1), requires_grad=True)
    falls = iter([3.0, 2.0, 1.0, 4.0, 5.0, 6.0, 7.0])

    def step(x: mg.Tensor) -> mg.Tensor:
        w.assign(w.data + 1)
        return mg.Tensor(0.0)

    place = Training(
        step,
        {"model": {"w": w}},
        (np.zeros((4, 1)),),
        epochs=50,
        batch_size=4,
        path=tmp_path / "c.safetensors",
        settings={},
        evaluate=lambda: {"test": next(falls)},
        patience=Patience("test", 2),
    ).run()
    assert place.epoch == 5
    assert place.best_epoch == 3
    assert w.item() == 3.0


def log_of_zero(value: mg.Tensor, made: Made, which: int) -> mg.Tensor:
    return value + mg.log(1 - made.spoiled)


def the_second_loss(value: mg.Tensor, made: Made, which: int) -> mg.Tensor:
    return value + mg.log(1 - made.spoiled) if which == 2 else value


def too_large(value: mg.Tensor, made: Made, which: int) -> mg.Tensor:
    return value * (1 + 1e9 * made.spoiled)


def no_slope(value: mg.Tensor, made: Made, which: int) -> mg.Tensor:
    """Here the loss is finite and the gradient is not: that of the square root at zero."""
    good = 1 - made.spoiled
    return value if which == 1 else value + (mg.sqrt(good + mg.sum(made.scale) * made.spoiled * 0.0) - good)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("often", [True, False])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (log_of_zero, "loss became -inf; the first bad layer is model.layers.3, in its operation log"),
        (the_second_loss, "other became -inf; the first bad layer is model.layers.3, in its operation log"),
        (too_large, "loss exploded: it is .*; values grow most, .* times, in layer "),
    ],
)
def test_divergence_is_explained_and_the_last_checkpoint_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[..., Any],
    message: str,
    often: bool,
    compiled: bool,
) -> None:
    if often:
        monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    made = Made(tmp_path, spoil=spoil, compiled=compiled)
    with pytest.raises(Diverged, match=rf"^epoch 3, step 4: {message}.*smaller --learning-rate.*checkpoint"):
        made.training.run()
    facts = checkpoints.load_facts(made.path)
    assert (facts["place"]["epoch"], facts["place"]["position"]) == ((2, 3) if often else (0, 0))
    assert all(np.isfinite(tensor.data).all() for tensor in mg.io.load(made.path).values())
    (tmp_path / "whole").mkdir()
    whole = Made(tmp_path / "whole", compiled=compiled)
    whole.training.run()
    again = Made(tmp_path, resume=True, compiled=compiled)
    again.training.run()
    assert again.bits() == whole.bits()


@pytest.mark.parametrize("compiled", [True, False])
def test_weights_that_are_not_finite_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        made = Made(tmp_path, spoil=no_slope, compiled=compiled)
        with pytest.raises(Diverged, match="epoch 3, step 5: scale is not finite any more"):
            made.training.run()
    place = checkpoints.load_facts(made.path)["place"]
    assert (place["epoch"], place["position"]) == (2, 3)
    seldom = Made(tmp_path, spoil=no_slope, compiled=compiled)  # so that the next step meets them
    with pytest.raises(Diverged, match="step 5: loss became nan; the parameters of .* were not finite already"):
        seldom.training.run()
    place = checkpoints.load_facts(made.path)["place"]
    assert (place["epoch"], place["position"]) == (0, 0)


def test_an_evaluation_that_is_not_finite_is_said(tmp_path: Path) -> None:
    options = {"epochs": 3, "batch_size": 4, "path": tmp_path / "c.safetensors", "settings": {}}
    training = Training(
        lambda x: mg.Tensor(1.0), {"w": mg.ones(1)}, (np.zeros((4, 1)),), evaluate=lambda: {"test": math.nan}, **options
    )
    with pytest.raises(Diverged, match="epoch 1, .* test is nan"):
        training.run()
    assert checkpoints.load_facts(tmp_path / "c.safetensors")["place"]["curves"] == {}


def damaged(path: Path, kind: str) -> str:
    """Spoil a checkpoint in some way; what the error is to say."""
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
        return "can't be read"
    if kind == "empty":
        path.write_bytes(b"")
        return "can't be read"
    if kind == "foreign":
        path.write_bytes(b"PK\x03\x04" + bytes(200))
        return "can't be read"
    if kind == "weights only":
        mg.io.save(path, {"w": mg.ones(2)})
        return "is no checkpoint of a training"
    if kind in ("newer", "older"):
        mg.io.save(path, {"w": mg.ones(2)}, json.dumps({"version": 99 if kind == "newer" else 1}))
        return f"{kind} version"
    if kind == "another network":
        facts = checkpoints.load_facts(path)
        mg.io.save(path, {"w": mg.ones(2)}, json.dumps(facts))
        return "is not of this training"
    if kind == "missing":
        path.unlink()
        return "no such file, so there is nothing to resume"
    facts = checkpoints.load_facts(path) | {"settings": {"lr": 0.5}}
    checkpoints.save(path, mg.io.load(path), facts)
    return "lr is 0.5 there and 0.01 here"


KINDS = ["truncated", "empty", "foreign", "weights only", "newer", "older", "another network", "missing"]


@pytest.mark.parametrize("kind", [*KINDS, "other settings"])
def test_a_bad_checkpoint_is_explained_and_left_alone(tmp_path: Path, kind: str) -> None:
    made = Made(tmp_path, epochs=1)
    made.training.run()
    message = damaged(made.path, kind)
    before = made.path.read_bytes() if made.path.exists() else None
    with pytest.raises(CheckpointError, match=message):
        Made(tmp_path, resume=True)
    assert (made.path.read_bytes() if made.path.exists() else None) == before


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        Made(tmp_path, resume=True)
    assert not (tmp_path / "ran").exists()


if __name__ == "__main__":
    in_a_child(Path(sys.argv[1]), int(sys.argv[2]))
