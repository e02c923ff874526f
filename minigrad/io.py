"""Files of tensors, in the safetensors format: no code in them, so that loading one is safe.

`save` writes every tensor of a tree under its path (`layers.0.weight`), and a text if there is one to go with them,
into a temporary file beside the target, and then renames it: at any moment the file is the old one or the new one,
never a part. `load_into` compares names, shapes and dtypes with what is there before it changes anything.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.tensor import Tensor, from_numpy

__all__ = ["load", "load_into", "load_text", "save"]

VERSION = 1  # of the format, in the metadata; nothing else is there but the text, so the same content is the same bytes


def save(path: str | os.PathLike[str], tree: Any, text: str = "") -> None:
    """Write all tensors and arrays of a module or any other tree to a file, bit for bit, and a text with them.

    Raises:
        ValueError: the tree has no tensors, or two of one name.
        ImportError: safetensors is not installed.

    Example:
        >>> import tempfile, minigrad as mg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mg.io.save(f"{folder}/weights.safetensors", mg.nn.Linear(3, 2))
        ...     list(mg.io.load(f"{folder}/weights.safetensors"))
        ['bias', 'weight']
    """
    numpy_format = _safetensors().numpy
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in trees.named_leaves(tree):
        if name in arrays:
            raise ValueError(f"save: two tensors have the name {name!r}: rename a key of the tree")
        arrays[name] = np.asarray(_array(leaf), order="C")
    if not arrays:
        raise ValueError(f"save: {type(tree).__name__} holds no tensors")
    metadata = {"minigrad": str(VERSION)} | ({"text": text} if text else {})
    write_whole(Path(path), numpy_format.save(arrays, metadata=metadata))


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, no safetensors file, or written by a newer version of minigrad.
        TypeError: it has a tensor of a dtype that the engine does not compute with.
        ImportError: safetensors is not installed.

    Example:
        >>> import tempfile, minigrad as mg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mg.io.save(f"{folder}/f.safetensors", {"a": {"b": mg.ones(2)}})
        ...     mg.io.load(f"{folder}/f.safetensors")
        {'a.b': Tensor([1., 1.])}
    """
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    return {name: from_numpy(np.array(array)) for name, array in sorted(arrays.items())}


def load_text(path: str | os.PathLike[str]) -> str:
    """The text that was saved with the tensors of a file; empty if there was none.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `load`.

    Example:
        >>> import tempfile, minigrad as mg
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     mg.io.save(f"{folder}/f.safetensors", {"a": mg.ones(2)}, text="two ones")
        ...     mg.io.load_text(f"{folder}/f.safetensors")
        'two ones'
    """
    with _opened(path) as file:
        return (file.metadata() or {}).get("text", "")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A file of tensors, open; what is wrong with it is a ValueError."""
    safetensors = _safetensors()
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            version = (file.metadata() or {}).get("minigrad", "0")
            if int(version) > VERSION:
                raise ValueError(f"{path}: written in version {version} of the format: update minigrad")
            yield file
    except (safetensors.SafetensorError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: damaged, or no safetensors file of NumPy's dtypes ({error}): get it anew") from error


def load_into(tree: Any, source: str | os.PathLike[str] | Mapping[str, Any]) -> None:
    """Assign to every tensor of a module or any other tree what has its name in a file, or in a dict of tensors.

    Raises:
        ValueError: names are missing or unexpected, shapes or dtypes differ; nothing is changed then. Or as `load`.
        TypeError: the tree holds an array, which can't be assigned.
        FileNotFoundError, ImportError: as `load`.

    Example:
        >>> import minigrad as mg
        >>> a, b = mg.nn.Linear(3, 2), mg.nn.Linear(3, 2)
        >>> mg.io.load_into(b, a.tensors())
        >>> (a.weight.data == b.weight.data).all()
        np.True_
    """
    where, new = ("the dict", source) if isinstance(source, Mapping) else (str(source), load(source))
    old = dict(trees.named_leaves(tree))
    problems = [f"{name} is missing" for name in old if name not in new]
    problems += [f"{name} is unexpected" for name in new if name not in old]
    for name, tensor in old.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"load_into: {name} is an array {tensor.shape}, which can't be assigned: make it a Tensor")
        if name in new:
            array = _array(new[name])
            if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
                problems.append(f"{name} is {array.dtype} {array.shape}, expected {tensor.dtype} {tensor.shape}")
    if problems:
        raise ValueError(f"{where} does not fit {type(tree).__name__}: " + "; ".join(problems))
    for name, tensor in old.items():
        tensor.assign(_array(new[name]))


def _array(leaf: Any) -> np.ndarray:
    return leaf.data if isinstance(leaf, Tensor) else np.asarray(leaf)


def _safetensors() -> Any:
    """The library, loaded when it is first needed."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError("files of tensors need safetensors: pip install 'minigrad[models]'") from error
    return safetensors


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen half-written: under another name, to the disk, then renamed."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
