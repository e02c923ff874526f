"""Where machine code is kept between processes: one file a kernel, in a private folder of the user.

A file's name tells for what it was made: a hash of the kernels' sources, of the versions of what compiles them, and of
the processor. So what is found under a name is never stale, and whatever is wrong with the folder (missing, read-only,
full, open to others) or with a file (torn, corrupt) has one consequence: the kernel is compiled once more. Files are
written beside their place and renamed into it, so that several processes may share the folder.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import get_ident

KEPT = 30 * 24 * 3600  # seconds; older code of a kernel is removed when new code is kept: it costs but a compilation
DIGEST = 32  # bytes of the hash that a file begins with


def folder() -> Path:
    """The folder: `kernels` in that of the environment variable MINIGRAD_CACHE_DIR, else in the user's for caches."""
    if given := os.environ.get("MINIGRAD_CACHE_DIR"):
        return Path(given, "kernels")
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "minigrad" / "kernels"


def hashed() -> bytes:
    """A hash of all that machine code depends on: sources, compiler, Python, processor, and what pretends another."""
    from importlib.metadata import version  # takes longer to import than all of minigrad

    here = Path(__file__).parent
    parts = [f"{path.relative_to(here)}\n".encode() + path.read_bytes() for path in sorted(here.rglob("*.py"))]
    settings = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(("NUMBA_CPU", "NUMBA_OPT")))
    python = (sys.version, str(object.__basicsize__))
    versions = [f"{name} {version(name)}" for name in ("llvmlite", "numba", "numpy")]
    parts += [text.encode() for text in (*settings, *processor(), *python, *versions)]
    return sha256(b"\0".join(sha256(part).digest() for part in parts)).digest()


def processor() -> tuple[str, ...]:
    """What tells this processor from others, whose instructions differ: from Linux, or else from LLVM."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()  # of the first core
    except OSError:
        lines = []
    found = tuple(line for line in lines if line.partition("\t")[0].rstrip() in KINDS)
    if len(found) == len(KINDS):
        return (*found, os.uname().machine)
    import llvmlite.binding as llvm  # which takes 50 MB

    return llvm.get_default_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


KINDS = ("vendor_id", "cpu family", "model", "stepping", "flags")

circumstances = cache(hashed)  # as they were when this process first asked


def _private(path: Path) -> bool:
    """Whether nobody else can put code there: the folder is this user's, or root's, and no others may write to it."""
    if os.name != "posix":
        return True
    status = path.stat()
    return status.st_uid in (0, os.getuid()) and not status.st_mode & 0o022


def fetch(name: str, compile: Callable[[], bytes]) -> bytes:
    """The machine code of this name that was kept, else what `compile` makes, which is kept if possible.

    What stands before a point in a name is a family: old code of all of it is removed when new code is kept.

    Example:
        >>> import os, tempfile
        >>> os.environ["MINIGRAD_CACHE_DIR"], before = tempfile.mkdtemp(), os.environ.get("MINIGRAD_CACHE_DIR", "")
        >>> fetch("answer", lambda: b"42"), fetch("answer", lambda: b"is not compiled again")
        (b'42', b'42')
        >>> os.environ["MINIGRAD_CACHE_DIR"] = before
    """
    path = folder() / f"{name}-{sha256(circumstances() + name.encode()).hexdigest()[:32]}.o"
    try:
        kept = path.read_bytes() if _private(path.parent) else b""
    except OSError:
        kept = b""
    if kept[:DIGEST] == sha256(kept[DIGEST:]).digest() and len(kept) > DIGEST:
        return kept[DIGEST:]
    code = compile()
    if circumstances() == hashed():  # or somebody changed the sources while they were compiled
        with suppress(OSError):  # this process has its code; the next one compiles it again
            _keep(path, name, code)
    return code


def _keep(path: Path, name: str, code: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _private(path.parent):
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{get_ident()}")
    try:
        temporary.write_bytes(sha256(code).digest() + code)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    for other in path.parent.glob(f"{name.partition('.')[0]}[-.]*.o"):
        if time.time() - other.stat().st_mtime > KEPT:
            other.unlink(missing_ok=True)
