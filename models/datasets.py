"""Real images for the models: scikit-learn's embedded 8×8 digits, and MNIST from its IDX files.

Both come as `Images`: rows of pixels in [0, 1], split into training and test images. The digits need no file. MNIST is
read from a folder, or downloaded once into a cache; whatever is wrong with a file is a `DataError` that names it.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER_VARIABLE = "MINIGRAD_DATA_DIR"
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"

Array = np.ndarray[Any, Any]


class DataError(Exception):
    """A data set can't be had: which file, what is wrong with it, and what to do."""


class Images(NamedTuple):
    """Training and test images, (count, height · width) float32 in [0, 1], and the (height, width) of one."""

    train: Array
    test: Array
    shape: tuple[int, int]


class Source(NamedTuple):
    """A file of MNIST: its name, the shape it holds, and SHA-256 sums of it and of the gzipped file of the mirror."""

    name: str
    shape: tuple[int, ...]
    plain: str
    gzipped: str


TRAIN = Source(
    "train-images-idx3-ubyte",
    (60_000, 28, 28),
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
)
TEST = Source(
    "t10k-images-idx3-ubyte",
    (10_000, 28, 28),
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
)


def digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, 8×8, pixels / 16; always the same 360 are the test images.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.

    Example:
        >>> images = digits()
        >>> images.train.shape, images.test.shape, images.shape
        ((1437, 64), (360, 64), (8, 8))
    """
    from sklearn.datasets import load_digits

    pixels = np.asarray(load_digits().data / 16, np.float32)
    # shuffled, because neighbours in the file are by one writer; always alike, so that errors compare across seeds
    pixels = pixels[np.random.default_rng(0).permutation(len(pixels))]
    return Images(pixels[:-360], pixels[-360:], (8, 8))


def mnist(folder: str | os.PathLike[str] | None = None) -> Images:
    """The 60,000 training and 10,000 test images of MNIST, 28×28, pixels / 255.

    Args:
        folder: where the IDX files are, gzipped or plain. Left out: the folder that the environment variable
            MINIGRAD_DATA_DIR names; without that, the mirror's files, downloaded once into the user's cache.

    Raises:
        DataError: a file is missing, truncated, corrupt, or not what its name says; or the download failed.

    Source: Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits, 1998.
    """
    folder = folder or os.environ.get(FOLDER_VARIABLE) or None
    if folder is not None and not Path(folder).is_dir():
        raise DataError(
            f"{folder}: no such folder. Name the folder of the MNIST files with --data-dir or {FOLDER_VARIABLE}, "
            "or neither, to have them downloaded"
        )
    train, test = (
        _pixels(_find(Path(folder), source) if folder else _fetch(source), source) for source in (TRAIN, TEST)
    )
    return Images(train, test, (28, 28))


def _find(folder: Path, source: Source) -> Path:
    """The path of a file in a folder, gzipped or plain."""
    for name in (source.name + ".gz", source.name):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder / source.name}: no such file, nor with .gz. Copy it there, or leave out --data-dir and "
        f"{FOLDER_VARIABLE} to have it downloaded from {MIRROR}"
    )


def _fetch(source: Source) -> Path:
    """The path of a file in the cache, downloaded if it is not there or is not what it should be.

    Pooch downloads to a temporary file, compares its checksum and renames it, so nothing half-written gets the name.
    """
    import pooch
    from requests import RequestException

    name = source.name + ".gz"
    cache = pooch.os_cache("minigrad")
    advice = f"try again, or download it by hand and name its folder with --data-dir or {FOLDER_VARIABLE}"
    try:
        return Path(pooch.retrieve(MIRROR + name, f"sha256:{source.gzipped}", fname=name, path=cache))
    except ValueError as error:  # how pooch says that the checksum differs
        raise DataError(f"{MIRROR + name}: what came is not the file (its SHA-256 differs): {advice}") from error
    except (RequestException, OSError) as error:
        raise DataError(f"{MIRROR + name}: the download to {cache} failed ({error}): {advice}") from error


def _pixels(path: Path, source: Source) -> Array:
    """The images of a file that must be the known one, (count, pixels) float32 in [0, 1]."""
    images = read_idx(path)
    if images.shape != source.shape:
        raise DataError(f"{path}: holds an array of shape {images.shape}, not {source.shape}: {_REPLACE}")
    header = bytes((0, 0, 8, images.ndim)) + b"".join(n.to_bytes(4, "big") for n in images.shape)
    if hashlib.sha256(header + images.tobytes()).hexdigest() != source.plain:
        raise DataError(f"{path}: corrupt, or another data set: its SHA-256 is not that of MNIST: {_REPLACE}")
    return np.divide(images.reshape(len(images), -1), 255, dtype=np.float32)


_REPLACE = f"delete it and copy the original there, or leave out --data-dir and {FOLDER_VARIABLE} to have it downloaded"


def read_idx(path: str | os.PathLike[str]) -> Array:
    """The array of unsigned bytes in an IDX file, plain, or gzipped if its name ends in .gz.

    The format (described with MNIST, LeCun 1998): two zero bytes, the type (8: unsigned bytes), the number of
    dimensions, each dimension as a big-endian 32-bit integer, then the data in C order.

    Raises:
        DataError: the file can't be read, is no IDX file of unsigned bytes, or is shorter or longer than it says.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pair-idx1-ubyte"
        >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]))
        >>> read_idx(path)
        array([7, 9], dtype=uint8)
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: truncated or corrupt gzip file ({error}): {_REPLACE}") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}): {_REPLACE}") from error
    if content[:3] != b"\0\0\x08" or len(content) < 4:
        raise DataError(
            f"{path}: no IDX file of unsigned bytes: it starts with {content[:4].hex(' ') or 'nothing'}, "
            f"expected 00 00 08: {_REPLACE}"
        )
    start = 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    if len(content) != start + prod(shape):
        kind = "truncated" if len(content) < start + prod(shape) else "too long"
        raise DataError(
            f"{path}: {kind}: {len(content):,} bytes, expected {start + prod(shape):,} for shape {shape}: {_REPLACE}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
