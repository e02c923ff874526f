"""Real images for the models: scikit-learn's embedded 8×8 digits, MNIST, Fashion-MNIST, or four IDX files of your own.

All come as `Images`: rows of pixels in [0, 1] with their labels, split into training and test images. The digits need
no file. MNIST and Fashion-MNIST are downloaded once into a cache, or read from a folder; whatever is wrong with a file
is a `DataError` that names it.
"""

from __future__ import annotations

import gzip
import os
import zlib
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FOLDER_VARIABLE = "MINIGRAD_DATA_DIR"

Array = np.ndarray[Any, Any]


class DataError(Exception):
    """A data set can't be had: which file, what is wrong with it, and what to do."""


class Images(NamedTuple):
    """Images (count, height · width), float32 in [0, 1], their labels (count,), int64, and one's (height, width)."""

    train: Array
    train_labels: Array
    test: Array
    test_labels: Array
    shape: tuple[int, int]

    @property
    def pixels(self) -> int:
        """How many an image has."""
        return prod(self.shape)

    def holding_out(self, count: int) -> Images:
        """The last so many training images take the place of the test images: to choose settings by.

        Example:
            >>> digits().holding_out(300).test.shape
            (300, 64)
        """
        train, labels = self.train, self.train_labels
        return Images(train[:-count], labels[:-count], train[-count:], labels[-count:], self.shape)


class Source(NamedTuple):
    """Where the four gzipped IDX files of a data set come from, and the checksums that its publishers give."""

    url: str
    checksums: dict[str, str]


FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

SOURCES = {
    # Y. LeCun, C. Cortes and C. J. C. Burges, The MNIST database of handwritten digits, 1998
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte": "sha256:0b367032e93c5d0cea0925647cfdb18614af8ee15f83e6f2fc2ad904a6835971",
            "train-labels-idx1-ubyte": "sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte": "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte": "sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    # H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017; the sums of their README are MD5
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte": "md5:25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte": "md5:bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte": "md5:bb300cfdad3c16e7a12a480ee83cd310",
        },
    ),
}


def load(data: str) -> Images:
    """A data set by name ("digits", "mnist", "fashion-mnist"), or from the folder of its four IDX files.

    MNIST and Fashion-MNIST are looked for in $MINIGRAD_DATA_DIR/mnist and $MINIGRAD_DATA_DIR/fashion-mnist, if that
    variable is set; otherwise they are downloaded once into the user's cache, and compared with their checksums.

    Raises:
        DataError: a file is missing, truncated, corrupt, or not what its name says; or the download failed.
    """
    if data == "digits":
        return digits()
    if data not in SOURCES:
        return from_folder(Path(data))
    if os.environ.get(FOLDER_VARIABLE):
        return from_folder(Path(os.environ[FOLDER_VARIABLE]) / data)
    return _images({name: _fetch(data, name) for name in FILES})


def digits() -> Images:
    """The 1,797 handwritten digits of scikit-learn, 8×8, pixels / 16; always the same 360 are the test images.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.

    Example:
        >>> images = digits()
        >>> images.train.shape, images.test.shape, images.test_labels.shape, images.shape
        ((1437, 64), (360, 64), (360,), (8, 8))
    """
    from sklearn.datasets import load_digits

    everything = load_digits()
    pixels, labels = np.asarray(everything.data / 16, np.float32), everything.target.astype(np.int64)
    # shuffled, because neighbours in the file are by one writer; always alike, so that errors compare across seeds
    order = np.random.default_rng(0).permutation(len(pixels))
    pixels, labels = pixels[order], labels[order]
    return Images(pixels[:-360], labels[:-360], pixels[-360:], labels[-360:], (8, 8))


def from_folder(folder: Path) -> Images:
    """The data set whose four IDX files, named as those of MNIST, gzipped or plain, lie in a folder.

    Raises:
        DataError: the folder or a file is missing, truncated, corrupt, or not what its name says.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder. Data are digits, {', '.join(SOURCES)} (looked for in the folder that "
            f"{FOLDER_VARIABLE} names if it is set, else downloaded) or the folder of four IDX files"
        )
    return _images({name: _find(folder, name) for name in FILES})


def _find(folder: Path, name: str) -> Path:
    """The path of a file in a folder, gzipped or plain."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(f"{folder / name}: no such file, nor with .gz: copy it there, or name another folder")


def _fetch(data: str, name: str) -> Path:
    """The path of a file in the cache, downloaded if it is not there or is not what it should be.

    Pooch downloads to a temporary file, compares its checksum and renames it, so nothing half-written gets the name.
    """
    import pooch
    from requests import RequestException

    source = SOURCES[data]
    cache = pooch.os_cache("minigrad") / data
    url = f"{source.url}{name}.gz"
    advice = f"try again, or download it by hand and name its folder: --data DIR, or {FOLDER_VARIABLE} for DIR/{data}"
    try:
        return Path(pooch.retrieve(url, source.checksums[name], fname=f"{name}.gz", path=cache))
    except ValueError as error:  # how pooch says that the checksum differs
        raise DataError(f"{url}: what came is not the file (its checksum differs): {advice}") from error
    except (RequestException, OSError) as error:
        raise DataError(f"{url}: the download to {cache} failed ({error}): {advice}") from error


def _images(paths: dict[str, Path]) -> Images:
    """What four files hold, if they fit together."""
    arrays = {name: read_idx(path) for name, path in paths.items()}
    for name, array in arrays.items():
        dimensions = 3 if "idx3" in name else 1
        if array.ndim != dimensions or not array.size:
            raise DataError(f"{paths[name]}: expected {dimensions} dimensions, found shape {array.shape}: {_REPLACE}")
    train, train_labels, test, test_labels = (arrays[name] for name in FILES)
    for images, labels, name in ((train, train_labels, FILES[1]), (test, test_labels, FILES[3])):
        if len(images) != len(labels):
            raise DataError(f"{paths[name]}: {len(labels)} labels for {len(images)} images: they are of different sets")
    if train.shape[1:] != test.shape[1:]:
        raise DataError(f"{paths[FILES[2]]}: images {test.shape[1:]}, but the training images are {train.shape[1:]}")
    train_pixels, test_pixels = (np.divide(x.reshape(len(x), -1), 255, dtype=np.float32) for x in (train, test))
    shape = (train.shape[1], train.shape[2])
    return Images(train_pixels, train_labels.astype(np.int64), test_pixels, test_labels.astype(np.int64), shape)


_REPLACE = "put the original in its place"


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
