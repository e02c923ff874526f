"""The disk cache: whatever is wrong with it, kernels compile once more and are right; what is stale is never loaded."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad.kernels import store

SCRIPT = """
import sys
import numpy as np
from minigrad.kernels import elementwise
x = np.linspace(-3, 3, 1000)
np.testing.assert_allclose(elementwise.tanh(x), np.tanh(x), rtol=1e-15)
print("compiled" if "numba" in sys.modules else "loaded")
"""


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "MINIGRAD_CACHE_DIR": str(folder), **environment}
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def outcome(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out.strip()


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which the kernel of SCRIPT was put by a process."""
    folder = tmp_path_factory.mktemp("warm")
    assert outcome(start(folder)) == "compiled"
    return folder


@pytest.fixture
def copy(warm: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(warm, tmp_path / "copy"))


def test_a_second_process_compiles_nothing(warm: Path) -> None:
    assert outcome(start(warm)) == "loaded"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    """Under a file no folder can be made: not even by root, whom read-only folders don't stop."""
    file = tmp_path / "file"
    file.write_text("")
    assert outcome(start(file)) == "compiled"


@pytest.mark.skipif(os.name != "posix", reason="modes of folders are POSIX")
def test_a_read_only_folder(copy: Path) -> None:
    for path in copy.rglob("*.o"):
        path.unlink()
    (copy / "kernels").chmod(0o500)
    assert outcome(start(copy)) == "compiled"
    (copy / "kernels").chmod(0o700)


SPOILT = {
    "empty": lambda code: b"",
    "torn": lambda code: code[: len(code) // 2],
    "changed": lambda code: code[:-1] + bytes([code[-1] ^ 1]),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_corrupt_file(copy: Path, spoil) -> None:
    for path in copy.rglob("*.o"):
        path.write_bytes(spoil(path.read_bytes()))
    assert outcome(start(copy)) == "compiled"
    assert outcome(start(copy)) == "loaded"  # it was mended


def test_several_processes_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path) for _ in range(3)]
    assert {outcome(p) for p in processes} <= {"compiled", "loaded"}
    assert outcome(start(tmp_path)) == "loaded"
    assert [p.name for p in (tmp_path / "kernels").iterdir() if p.suffix != ".o"] == []


def test_another_processor_is_told_apart(warm: Path) -> None:
    assert outcome(start(warm, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="+64bit,+sse2")) == "compiled"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIGRAD_CACHE_DIR", str(tmp_path))
    return tmp_path / "kernels"


def never() -> bytes:
    raise AssertionError("compiled again")


def test_other_sources_are_told_apart(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    shutil.copytree(Path(store.__file__).parent, sources, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(store, "__file__", str(sources / "store.py"))
    monkeypatch.setattr(store, "circumstances", store.hashed)
    assert store.fetch("f", lambda: b"before") == b"before"
    assert store.fetch("f", never) == b"before"
    with (sources / "code" / "entry.py").open("a") as file:
        file.write("# changed\n")
    assert store.fetch("f", lambda: b"after") == b"after"


def test_sources_that_change_while_they_are_compiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled may be neither the old nor the new ones: it is not kept."""
    monkeypatch.setattr(store, "hashed", lambda: b"other sources")
    assert store.fetch("f", lambda: b"something") == b"something"
    assert not folder.exists()


def test_names_are_told_apart(folder: Path) -> None:
    store.fetch("f", lambda: b"f")
    assert store.fetch("g", lambda: b"g") == b"g"
    assert store.fetch("f", never) == b"f"


@pytest.mark.skipif(os.name != "posix", reason="modes of folders are POSIX")
def test_code_that_others_could_have_put_there_is_not_run(folder: Path) -> None:
    store.fetch("f", lambda: b"mine")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert store.fetch("f", lambda: b"new") == b"new"
    folder.chmod(0o700)
    assert store.fetch("f", never) == b"mine"


def test_a_crash_while_writing_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.fetch("f", lambda: b"code")
    assert list(folder.iterdir()) == []
    assert store.fetch("f", lambda: b"code") == b"code"


def test_old_code_of_a_kernel_is_removed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.fetch("f", lambda: b"old")
    store.fetch("g", lambda: b"of another kernel")
    for path in folder.iterdir():
        os.utime(path, (0, 0))
    for name in ("circumstances", "hashed"):
        monkeypatch.setattr(store, name, lambda: b"others")
    store.fetch("f", lambda: b"new")
    assert sorted(path.name[0] for path in folder.iterdir()) == ["f", "g"]
    assert store.fetch("f", never) == b"new"


@pytest.mark.parametrize(
    ("platform", "variable", "value", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "/x", "/x/minigrad/kernels"),
        ("linux", "XDG_CACHE_HOME", "", "~/.cache/minigrad/kernels"),
        ("darwin", "XDG_CACHE_HOME", "", "~/Library/Caches/minigrad/kernels"),
        ("win32", "LOCALAPPDATA", "/l", "/l/minigrad/kernels"),
    ],
)
def test_where_it_is(platform, variable, value, expected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIGRAD_CACHE_DIR", raising=False)
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert store.folder() == Path(expected).expanduser()


def test_the_processor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.hashed()
    assert store.hashed() == before
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    assert store.hashed() != before
