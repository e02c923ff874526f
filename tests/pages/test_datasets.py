"""Data sets: the IDX format, and that whatever is wrong with a file is said, and nothing half-written stays."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import datasets
from models.datasets import FILES, SOURCES, DataError, Source, load, read_idx

pooch = pytest.importorskip("pooch")

Array = np.ndarray[Any, Any]


def idx(array: Array) -> bytes:
    """An array of unsigned bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The gzipped files of a data set that stands for MNIST, by name: 5 training and 2 test images of 28×28."""
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (5, 28, 28), np.uint8), np.array([3, 1, 4, 1, 5], np.uint8)]
    arrays += [rng.integers(0, 256, (2, 28, 28), np.uint8), np.array([9, 2], np.uint8)]
    files = {f"{name}.gz": gzip.compress(idx(array)) for name, array in zip(FILES, arrays, strict=True)}
    sums = {name: f"sha256:{hashlib.sha256(files[name + '.gz']).hexdigest()}" for name in FILES}
    monkeypatch.setitem(SOURCES, "mnist", Source(SOURCES["mnist"].url, sums))
    monkeypatch.delenv(datasets.FOLDER_VARIABLE, raising=False)
    return files


@pytest.fixture
def folder(small: dict[str, bytes], tmp_path: Path) -> Path:
    path = tmp_path / "mnist"
    path.mkdir()
    for name, content in small.items():
        (path / name).write_bytes(content)
    return path


def test_digits_are_the_same_at_every_call() -> None:
    a, b = load("digits"), load("digits")
    assert np.array_equal(a.train, b.train)
    assert np.array_equal(a.test, b.test)
    assert np.array_equal(a.test_labels, b.test_labels)
    assert a.train.dtype == np.float32
    assert a.train_labels.dtype == np.int64
    assert a.train.min() == 0
    assert a.train.max() == 1
    assert not set(map(bytes, a.test)) <= set(map(bytes, a.train))


def test_labels_belong_to_their_images() -> None:
    """The digits with their labels are those of scikit-learn, in any order; held-out images take theirs along."""
    from sklearn.datasets import load_digits

    whole, images = load_digits(), load("digits")
    known = {
        (row / 16).astype(np.float32).tobytes(): label for row, label in zip(whole.data, whole.target, strict=True)
    }
    parts = images.holding_out(300)
    assert (len(parts.train), len(parts.test)) == (1137, 300)
    for part in (images, parts):
        for rows, labels in ((part.train, part.train_labels), (part.test, part.test_labels)):
            assert [known[row.tobytes()] for row in rows] == list(labels)


@given(st.lists(st.integers(0, 4), max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_idx_round_trip(tmp_path_factory: Any, shape: list[int], random: Any, gzipped: bool) -> None:
    array = np.frombuffer(random.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / ("a.gz" if gzipped else "a")
    path.write_bytes(gzip.compress(idx(array)) if gzipped else idx(array))
    assert np.array_equal(read_idx(path), array)
    assert read_idx(path).shape == array.shape


@given(st.integers(0, 39))
def test_an_idx_file_that_ends_anywhere_too_early(tmp_path_factory: Any, length: int) -> None:
    path = tmp_path_factory.mktemp("idx") / "cut"
    path.write_bytes(idx(np.zeros((4, 7), np.uint8))[:length])
    with pytest.raises(DataError, match="cut: "):
        read_idx(path)


@given(st.integers(0, 80))
def test_a_gzip_file_that_ends_anywhere_too_early(tmp_path_factory: Any, length: int) -> None:
    path = tmp_path_factory.mktemp("idx") / "cut.gz"
    whole = gzip.compress(idx(np.random.default_rng(0).integers(0, 256, (4, 20), np.uint8)))
    assert length < len(whole)
    path.write_bytes(whole[:length])
    with pytest.raises(DataError, match="cut.gz: "):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "starts with nothing"),
        (b"\x89PNG\r\n", "starts with 89 50 4e 47, expected 00 00 08"),
        (bytes([0, 0, 13, 1, 0, 0, 0, 0]), "no IDX file of unsigned bytes"),
        (idx(np.zeros(3, np.uint8)) + b"x", "too long: 12 bytes, expected 11 for shape (3,)"),
        (idx(np.zeros(3, np.uint8))[:-1], "truncated: 10 bytes, expected 11 for shape (3,)"),
    ],
)
def test_what_is_no_idx_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(tmp_path / "images")
    assert str(tmp_path / "images") in str(error.value)
    assert message in str(error.value)
    assert "put the original in its place" in str(error.value)


def test_a_folder_with_gzipped_or_plain_files(folder: Path, small: dict[str, bytes]) -> None:
    gzipped = load(str(folder))
    for name, content in small.items():
        (folder / name).unlink()
        (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    plain = load(str(folder))
    assert (gzipped.train.shape, gzipped.test.shape, gzipped.shape) == ((5, 784), (2, 784), (28, 28))
    assert gzipped.train.dtype == np.float32
    assert gzipped.train.max() <= 1
    assert gzipped.train_labels.tolist() == [3, 1, 4, 1, 5]
    assert gzipped.test_labels.tolist() == [9, 2]
    assert np.array_equal(gzipped.train, plain.train)
    assert np.array_equal(gzipped.test, plain.test)
    expected = read_idx(folder / "t10k-images-idx3-ubyte").reshape(2, 784) / np.float32(255)
    assert np.array_equal(plain.test, expected)


def test_the_folder_of_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(datasets.FOLDER_VARIABLE, str(folder.parent))
    assert len(load("mnist").train) == 5
    with pytest.raises(DataError, match="fashion-mnist: no such folder"):
        load("fashion-mnist")


def test_files_that_do_not_belong_together(folder: Path) -> None:
    labels = folder / "t10k-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.zeros(3, np.uint8))))
    with pytest.raises(DataError, match="3 labels for 2 images"):
        load(str(folder))
    labels.write_bytes(gzip.compress(idx(np.zeros(2, np.uint8))))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((2, 8, 9), np.uint8))))
    with pytest.raises(DataError, match=r"images \(8, 9\), but the training images are \(28, 28\)"):
        load(str(folder))


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "truncated or corrupt gzip file"),
        (flipped, "corrupt"),
        (lambda content: b"", "no IDX file"),
        (lambda content: gzip.decompress(content), "truncated or corrupt gzip file"),
        (lambda content: gzip.compress(gzip.decompress(content)[:-1]), "truncated: "),
        (lambda content: gzip.compress(idx(np.zeros((5, 64), np.uint8))), "3 dimensions, found shape (5, 64)"),
        (lambda content: gzip.compress(idx(np.zeros((0, 8, 8), np.uint8))), "3 dimensions, found shape (0, 8, 8)"),
        (None, "no such file, nor with .gz"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, damage: Callable[[bytes], bytes] | None, message: str) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(whole))
    with pytest.raises(DataError) as error:
        load(str(folder))
    assert str(path).removesuffix(".gz") in str(error.value)
    assert message in str(error.value)


@pytest.fixture
def cache(small: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of downloads, still empty."""
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "minigrad" / "mnist"


def serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], bytes]) -> list[str]:
    """Let downloads get an answer instead of going out; returns the list of what was asked for."""
    asked = []

    def download(self: Any, url: str, output_file: str, pooch: Any) -> None:
        asked.append(url)
        with open(output_file, "wb") as file:
            file.write(answer(url.removeprefix(SOURCES["mnist"].url)))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)
    return asked


def test_a_download_happens_once(cache: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, small.__getitem__)
    assert len(load("mnist").train) == 5
    assert len(load("mnist").train) == 5
    assert asked == [SOURCES["mnist"].url + name for name in small]
    assert sorted(path.name for path in cache.iterdir()) == sorted(small)


def test_a_damaged_file_in_the_cache_is_replaced(
    cache: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, small.__getitem__)
    load("mnist")
    path = cache / "train-images-idx3-ubyte.gz"
    os.chmod(path, 0o600)
    path.write_bytes(path.read_bytes()[:100])
    assert len(load("mnist").train) == 5
    assert len(asked) == 5


def test_a_wrong_download_leaves_nothing(cache: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, lambda name: small[name][:-1])
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.gz: what came is not the file \(its checksum differs\)"
    ):
        load("mnist")
    assert list(cache.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(
    cache: Path, small: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Any, url: str, output_file: str, pooch: Any) -> None:
        Path(output_file).write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load("mnist")
    assert list(cache.iterdir()) == []


def test_no_network_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from requests import ConnectionError

    def unreachable(self: Any, url: str, output_file: str, pooch: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", unreachable)
    with pytest.raises(DataError, match=r"the download to .* failed \(no route to host\): .* --data DIR"):
        load("mnist")
    assert list(cache.iterdir()) == []


def real_folder() -> Path | None:
    """The folder of the real files, if there is one."""
    beside = Path(__file__).parents[2].parent / "shared" / "data" / "mnist"
    named = os.environ.get(datasets.FOLDER_VARIABLE)
    return Path(named) / "mnist" if named else beside if beside.is_dir() else None


@pytest.mark.skipif(real_folder() is None, reason="needs the files of MNIST, in mnist in the folder MINIGRAD_DATA_DIR")
def test_the_real_files() -> None:
    images = load(str(real_folder()))
    assert (images.train.shape, images.test.shape) == ((60_000, 784), (10_000, 784))
    assert images.train.mean(dtype=float) == pytest.approx(0.1306604762738429)  # as MNIST is quoted everywhere: 0.1307
    assert np.bincount(images.train_labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(images.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
