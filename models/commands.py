"""What the commands of all models share: options, the folder they write to, the run itself, and how it ends.

A page describes itself: recipes (settings by name), `train` (from a `Run` to the numbers of its summary) and `check`
(of all gradients of a small one of its kind). `main` does the rest.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from math import ceil
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_type_hints

import numpy as np

import minigrad as mg
from minigrad import testing, trees
from models import checkpoints, datasets
from models.checkpoints import CheckpointError
from models.datasets import SOURCES, DataError, Images
from models.files import read_json, write_json
from models.training import Diverged, Patience, Place, Training

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
CHECKPOINT = "checkpoint.safetensors"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of a training: numbers, texts and switches. A page adds its own."""

    epochs: int
    batch_size: int
    learning_rate: float

    def steps(self, images: int) -> int:
        """How many steps so many training images take, in all epochs.

        Example:
            >>> Recipe(epochs=3, batch_size=100, learning_rate=0.1).steps(250)
            9
        """
        return self.epochs * ceil(images / self.batch_size)


R = TypeVar("R", bound=Recipe)


@dataclass
class Run(Generic[R]):
    """One call of a command: what is trained on what, and the folder that it writes to.

    `files` collects what it has written.
    """

    name: str
    recipe: R
    data: str
    images: Images
    seed: int
    folder: Path
    resume: bool
    compile: bool = True
    files: list[str] = field(default_factory=list)
    place: Place = field(default_factory=Place)

    @property
    def data_name(self) -> str:
        """What the images are called in titles: of a folder, its last part."""
        return Path(self.data).name

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this run this one. The same settings give the same weights, on any number of threads."""
        chosen = {"data": self.data, "seed": self.seed, "kernels": mg.kernels.mode(), "compile": self.compile}
        return {"model": self.name} | chosen | asdict(self.recipe)

    def fit(
        self,
        step: Callable[..., mg.Tensor | Mapping[str, mg.Tensor]],
        state: dict[str, Any],
        *arrays: Array,
        evaluate: Callable[[], Mapping[str, float]] | None = None,
        patience: Patience | None = None,
    ) -> Place:
        """Train as the recipe says, and save the weights of `state["model"]`; see `Training`."""
        training = Training(
            mg.compile(step) if self.compile else step,
            state,
            arrays,
            epochs=self.recipe.epochs,
            batch_size=self.recipe.batch_size,
            path=self.folder / CHECKPOINT,
            settings=self.settings,
            resume=self.resume,
            evaluate=evaluate,
            patience=patience,
        )
        self.place = training.run()
        mg.io.save(self.path("weights.safetensors"), state["model"])
        return self.place

    def path(self, name: str) -> Path:
        """The path of a file that this run is about to write."""
        self.files.append(name)
        return self.folder / name


def main(
    page: str,
    description: str | None,
    recipes: Mapping[str, R],
    train: Callable[[Run[R]], Mapping[str, Any]],
    check: Callable[[R], testing.Report],
    options: Mapping[str, str],
    minutes: Mapping[str, float],
    arguments: Sequence[str] | None = None,
) -> int:
    """The command of a page.

    Args:
        page: the name of the module.
        description: its docstring; the first line goes into the help.
        recipes: by name. "digits" and "mnist" are the defaults of such data, "mnist" also of any other images; the
            rest are presets, on MNIST unless --data says otherwise.
        train: does the work, prints what it found, and returns it for `summary.json`.
        check: compares every gradient of a small model with finite differences.
        options: fields of the recipe that the command line can set, and what they are.
        minutes: what a preset takes on two cores, roughly.
        arguments: of the command line.

    Returns:
        The exit code: 0; 1 if a gradient is wrong or the training diverged; 2 for a wrong option, bad data or a
        checkpoint that can't be resumed; 130 when interrupted.
    """
    name = page.rpartition(".")[2]
    parser = _parser(name, (description or "").split("\n")[0], recipes, options)
    given = parser.parse_args(arguments)
    folder = given.out or Path("runs") / name
    _open(parser, folder)
    if given.threads is not None:
        mg.kernels.set_num_threads(given.threads)
    recipe = _recipe(parser, given, recipes, options)
    try:
        run = _run(name, given, folder, recipe, options)
        if given.check:
            report = check(run.recipe)
            print(f"every gradient of a small one against finite differences, in float64: {report}")
            if not report:
                return 1
        if given.preset:
            print(f"{given.preset}: about {minutes[given.preset]:g} minutes on two cores")
        return _train(run, train)
    except KeyboardInterrupt:
        print(f"\nInterrupted.{_left(folder)}", file=sys.stderr)
        return INTERRUPTED
    except (DataError, CheckpointError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def check_gradients(make: Callable[[], tuple[Any, ...]], loss: Callable[..., Any]) -> testing.Report:
    """Compare the gradient of a loss with respect to all parameters of a fresh model with finite differences.

    Args:
        make: a model or a tree of them, and the data that the loss is to be of, float64.
        loss: of these; what it draws is the same at every call.

    The model is taken to float64, with some noise on every tensor: fresh biases are 0, and where a hidden unit gets
    nothing but a bias, ReLU would be at its kink. All draws are fixed, so that the verdict is always the same.
    """
    with mg.random.use(mg.random.Generator(0)):
        model, *data = make()
        model = trees.map(lambda leaf: mg.Tensor(leaf.data + mg.random.normal(leaf.shape, 0.0, 0.1).data), model)

    def fixed(model: Any) -> Any:
        with mg.random.use(mg.random.Generator(1)):
            return loss(model, *data)

    return testing.check(fixed, model)


def _train(run: Run[R], train: Callable[[Run[R]], Mapping[str, Any]]) -> int:
    """Train, and write the summary last: where there is one, everything is there."""
    if not run.resume:
        _clear(run.folder)
    with mg.random.use(mg.random.Generator(run.seed)):
        found = train(run)
    summary = {
        "threads": mg.kernels.num_threads(),
        "training_seconds": round(run.place.seconds, 3),
        "curves": run.place.curves,
        **found,
    }
    files = [*run.files, CHECKPOINT, "summary.json"]
    write_json(run.folder / "summary.json", {"settings": run.settings, **summary, "files": files})
    print(f"written to {run.folder}: {', '.join(files)}")
    return 0


def _recipe(
    parser: argparse.ArgumentParser, given: argparse.Namespace, recipes: Mapping[str, R], options: Mapping[str, str]
) -> R:
    """The recipe that the options ask for; if it does not allow one of them, end with a usage error."""
    name = given.preset or ("mnist" if given.data not in (None, "digits") else "digits")
    try:
        return replace(recipes[name], **_changes(given, options))
    except ValueError as error:
        parser.error(str(error))


def _changes(given: argparse.Namespace, options: Mapping[str, str]) -> dict[str, Any]:
    return {name: getattr(given, name) for name in _settable(options) if getattr(given, name) is not None}


def _run(name: str, given: argparse.Namespace, folder: Path, recipe: R, options: Mapping[str, str]) -> Run[R]:
    """The run that is asked for: by the options, or by a checkpoint, which the options must not contradict."""
    data = given.data or ("mnist" if given.preset else "digits")
    seed = given.seed or 0
    compile = given.compile is not False
    if given.resume:
        stored = checkpoints.load_facts(folder / CHECKPOINT)["settings"]
        asked = {"model": name} | (asdict(recipe) if given.preset else _changes(given, options))
        chosen = {"data": given.data, "seed": given.seed, "compile": given.compile}
        asked |= {key: value for key, value in chosen.items() if value is not None}
        checkpoints.refuse_other(folder / CHECKPOINT, {key: stored.get(key) for key in asked}, asked)
        recipe = replace(recipe, **{entry.name: stored[entry.name] for entry in fields(recipe)})
        data, seed, compile = stored["data"], stored["seed"], stored["compile"]
    return Run(name, recipe, data, datasets.load(data), seed, folder, given.resume, compile)


def _parser(name: str, what: str, recipes: Mapping[str, R], options: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m models.{name}", description=what)
    presets = [preset for preset in recipes if preset not in ("digits", "mnist")]
    add = parser.add_argument
    known = ", ".join(SOURCES)
    add("--data", help=f"the images: digits, {known}, or a folder of four IDX files (default: digits, presets: mnist)")
    if presets:
        add("--preset", choices=presets, help=f"settings for MNIST that reach published numbers: {', '.join(presets)}")
    else:
        parser.set_defaults(preset=None)
    kinds = get_type_hints(type(next(iter(recipes.values()))))
    for option, meaning in _settable(options).items():
        defaults = ", ".join(f"{recipe} {getattr(recipes[recipe], option)}" for recipe in recipes)
        convert = above_zero if option == "learning_rate" else _KINDS.get(kinds[option], str)
        choices = get_args(kinds[option]) or None
        add(f"--{option.replace('_', '-')}", type=convert, choices=choices, help=f"{meaning} (default: {defaults})")
    add("--seed", type=natural, help="of all that is random (default: 0)")
    add("--threads", type=positive, help="how many processors to use (default: all); it changes no result")
    add("--compile", action=argparse.BooleanOptionalAction, help="train by a compiled step, or eagerly (default: on)")
    add("--out", type=Path, help=f"folder to write to (default: runs/{name})")
    add("--resume", action="store_true", help="go on from the checkpoint in that folder, with its settings")
    add("--check", action="store_true", help="first compare every gradient with finite differences")
    return parser


def _settable(options: Mapping[str, str]) -> dict[str, str]:
    shared = {
        "epochs": "times to go through the training images",
        "batch_size": "images in a step",
        "learning_rate": "of the optimiser, at its highest",
    }
    return shared | dict(options)


def positive(text: str) -> int:
    """An option's value as a whole number of at least 1; argparse reports the error with the option's name."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An option's value as a whole number of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, not {text!r}")
    return number


def not_negative(text: str) -> float:
    """An option's value as a finite number of at least 0."""
    number = _number(text)
    if not 0 <= number < np.inf:
        raise argparse.ArgumentTypeError(f"expected a number of at least 0, not {text!r}")
    return number


def above_zero(text: str) -> float:
    """An option's value as a finite number above 0."""
    number = _number(text)
    if not 0 < number < np.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text!r}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


_KINDS: dict[type, Callable[[str], Any]] = {int: positive, float: not_negative}  # the others are Literals


def _open(parser: argparse.ArgumentParser, folder: Path) -> None:
    """Make the folder that --out names; if it can't be made or written to, end with a usage error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --out: {folder} can't be made a folder ({error.strerror}): choose another")
    if not os.access(folder, os.W_OK):
        parser.error(f"argument --out: {folder} can't be written to: choose another")


def _clear(folder: Path) -> None:
    """Remove what an earlier run left: it would not fit if this one is interrupted. Keep a checkpoint aside."""
    for name in read_json(folder / "summary.json").get("files", []):
        if Path(name).name == name:  # and no path to elsewhere
            (folder / name).unlink(missing_ok=True)
    if (folder / CHECKPOINT).exists():
        (folder / CHECKPOINT).replace(folder / f"previous-{CHECKPOINT}")
        print(f"note: {folder} has an unfinished run, now in previous-{CHECKPOINT}; --resume would have continued it")


def _left(folder: Path) -> str:
    """What an interrupted run left, in words."""
    if not (folder / CHECKPOINT).exists():
        return ""
    return f" The checkpoint is {folder / CHECKPOINT}: the same command with --resume goes on from there."
