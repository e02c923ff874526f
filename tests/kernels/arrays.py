"""Arrays as kernels may meet them, memory that notices what is written beside an array, and other processors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import pytest

GUARD = 64  # elements before and after
CPUS = {
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+64bit,+sse2,+avx,+avx2,+fma"},
    "portable": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+64bit,+sse2"},
}


def between_nans(x: np.ndarray) -> np.ndarray:
    """A copy in C order: whoever reads beside it reads NaN."""
    buffer = np.full(x.size + 2 * GUARD, np.nan if x.dtype.kind == "f" else -1, x.dtype)
    inside = buffer[GUARD : GUARD + x.size].reshape(x.shape)
    inside[...] = x
    return inside


def _misaligned(x: np.ndarray) -> np.ndarray:
    y = np.frombuffer(bytearray(x.nbytes + 1), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    y[...] = x
    return y


def _read_only(x: np.ndarray) -> np.ndarray:
    y = x.copy()
    y.setflags(write=False)
    return y


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "between NaNs": between_nans,
    "columns first": lambda x: x.copy(order="F"),
    "reversed": lambda x: np.asarray(np.flip(np.flip(x).copy())),
    "gaps": lambda x: np.repeat(x, 2, -1)[..., ::2] if x.ndim else x,
    "misaligned": _misaligned,
    "read-only": _read_only,
}


@contextmanager
def guarded(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block, arrays that the module makes have cells around them, which must not change."""
    buffers: list[tuple[np.ndarray, int]] = []

    class Numpy:
        def __getattr__(self, name: str) -> Any:
            return getattr(np, name)

        def empty(self, shape: Any, dtype: Any) -> np.ndarray:
            n = int(np.prod(shape))
            buffer = np.full(n + 2 * GUARD, 7, dtype)
            buffers.append((buffer, n))
            return buffer[GUARD : GUARD + n].reshape(shape)

        def empty_like(self, x: np.ndarray) -> np.ndarray:
            return self.empty(x.shape, x.dtype)

    with monkeypatch.context() as patch:
        patch.setattr(module, "np", Numpy())
        yield
    assert buffers
    for buffer, n in buffers:
        assert (buffer[:GUARD] == 7).all()
        assert (buffer[GUARD + n :] == 7).all()


def run_elsewhere(cpu: str, script: str, cache: Any) -> None:
    """Run a script in a process whose code is made for another processor."""
    env = {**os.environ, **CPUS[cpu], "MINIGRAD_CACHE_DIR": str(cache)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
