"""Checkpoints: all that a training needs to go on as if it had never stopped, in one file.

Tensors (weights, moments, random state, the best weights so far) lie in a safetensors file; everything else (settings,
epoch, position in the epoch, curves) is JSON in the same file's header. The file is written beside the old one and
takes its place in one step, so that a crash at any moment leaves one or the other, whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import minigrad as mg

VERSION = 2  # of what the JSON holds


class CheckpointError(Exception):
    """A checkpoint can't be used: which file, what is wrong with it, and what to do."""


def save(path: Path, tensors: Any, facts: Mapping[str, Any]) -> None:
    """Write a tree of tensors, and facts that JSON can hold. Floats come back bit by bit.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "checkpoint.safetensors"
        >>> save(path, {"w": mg.ones(2)}, {"epoch": 3})
        >>> load_facts(path)["epoch"], mg.io.load(path)["w"].data
        (3, array([1., 1.]))
    """
    mg.io.save(path, tensors, json.dumps({"version": VERSION, **facts}, ensure_ascii=False, allow_nan=False))


def load_facts(path: Path) -> dict[str, Any]:
    """What a checkpoint says beside its tensors.

    Raises:
        CheckpointError: there is no such file, it is damaged, no checkpoint, or of a newer or older version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, so there is nothing to resume: leave out --resume")
    try:
        facts = json.loads(mg.io.load_text(path) or "null")
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: can't be read ({error}): start anew without --resume") from error
    if not isinstance(facts, dict) or "version" not in facts:
        raise CheckpointError(f"{path}: holds tensors, but is no checkpoint of a training: name another folder")
    if facts["version"] > VERSION:
        raise CheckpointError(f"{path}: written by a newer version of these models: update them, or start anew")
    if facts["version"] < VERSION:
        raise CheckpointError(f"{path}: written by an older version of these models: start anew without --resume")
    return facts


def remove_drafts(path: Path) -> None:
    """Remove what a process that was killed in the middle of `save` has left beside a checkpoint."""
    for draft in path.parent.glob(f".{path.name}.*.tmp"):
        draft.unlink(missing_ok=True)


def refuse_other(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise a CheckpointError that names every setting of this training that differs from the checkpoint's.

    Example:
        >>> refuse_other(Path("c"), {"seed": 0}, {"seed": 1})
        Traceback (most recent call last):
            ...
        models.checkpoints.CheckpointError: c: is of another training: seed is 0 there and 1 here. ...
    """
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    if names:
        differing = "; ".join(f"{name} is {there.get(name)!r} there and {here.get(name)!r} here" for name in names)
        raise CheckpointError(
            f"{path}: is of another training: {differing}. Resume without these options, or start anew without --resume"
        )


def load_into(path: Path, tensors: Any) -> None:
    """Give every tensor of a tree the value that it has in a checkpoint, or change none.

    Raises:
        CheckpointError: names, shapes or dtypes differ; or the file is damaged.
    """
    try:
        mg.io.load_into(tensors, path)
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: is not of this training ({error}): start anew without --resume") from error
