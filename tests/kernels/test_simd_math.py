"""Elementary functions of the kernels against mpmath: errors in units in the last place, and special values.

They run on every kind of vector: on this processor's, and in a process of their own each on AVX2 and on what every
processor has, where products are not fused with sums.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from minigrad.kernels import elementwise
from minigrad.kernels.simd import FEATURES, WIDTH

INF, NAN = np.inf, np.nan

# name: (the largest error in units in the last place, in float32 and in float64; the function in mpmath)
FUNCTIONS: dict[str, tuple[float, float, Callable[[Any], Any]]] = {
    "exp": (1.1, 1.1, mpmath.exp),
    "expm1": (1.8, 1.9, mpmath.expm1),
    "log": (0.9, 1.2, mpmath.log),
    "log1p": (1.3, 1.4, mpmath.log1p),
    "tanh": (2.5, 2.6, mpmath.tanh),
    "sigmoid": (2.5, 2.3, lambda x: 1 / (1 + mpmath.exp(-x))),
    "softplus": (1.8, 1.8, lambda x: mpmath.log1p(mpmath.exp(-abs(x))) + max(x, 0)),
    "erf": (1.5, 1.5, mpmath.erf),
    "erfc": (3.0, 2.8, lambda x: mpmath.erfc(max(-100, min(x, 100)))),  # farther out mpmath can't
    "gelu": (3.0, 3.0, lambda x: x * mpmath.erfc(-max(-100, min(x, 100)) / mpmath.sqrt(2)) / 2),
    "silu": (3.0, 2.7, lambda x: x / (1 + mpmath.exp(-x))),
    "sin": (0.6, 0.8, mpmath.sin),
    "cos": (0.6, 0.8, mpmath.cos),
}
# The same in float64, accurate enough to judge float32; what cancels is left to the C library.
WIDE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))),
    "softplus": lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0),
    "erf": lambda x: _by_element("erf", x),
    "erfc": lambda x: _by_element("erfc", x),
    "gelu": lambda x: np.maximum(x, -1e300) * _by_element("erfc", -x * 0.5**0.5) / 2,
    "silu": lambda x: np.maximum(x, -1e300) * WIDE["sigmoid"](x),
}
# name: for -∞, -0, 0, ∞, and what else is special
SPECIAL: dict[str, tuple[list[float], dict[float, float]]] = {
    "exp": ([0.0, 1.0, 1.0, INF], {}),
    "expm1": ([-1.0, -0.0, 0.0, INF], {}),
    "log": ([NAN, -INF, -INF, INF], {1.0: 0.0, -1.0: NAN, -1e-40: NAN}),
    "log1p": ([NAN, -0.0, 0.0, INF], {-1.0: -INF, -1.5: NAN}),
    "tanh": ([-1.0, -0.0, 0.0, 1.0], {100.0: 1.0, -1e30: -1.0}),
    "sigmoid": ([0.0, 0.5, 0.5, 1.0], {1e30: 1.0, -1e30: 0.0}),
    "softplus": ([0.0, np.log(2), np.log(2), INF], {1e30: 1e30, -1e30: 0.0}),
    "erf": ([-1.0, -0.0, 0.0, 1.0], {30.0: 1.0, -1e30: -1.0}),
    "erfc": ([2.0, 1.0, 1.0, 0.0], {-30.0: 2.0, 1e30: 0.0}),
    "gelu": ([-0.0, -0.0, 0.0, INF], {1e30: 1e30, -1e30: -0.0}),
    "silu": ([-0.0, -0.0, 0.0, INF], {1e30: 1e30, -1e30: -0.0}),
    "sin": ([NAN, -0.0, 0.0, NAN], {}),
    "cos": ([NAN, 1.0, 1.0, NAN], {}),
}
DTYPES = [np.float32, np.float64]


def _by_element(name: str, x: np.ndarray) -> np.ndarray:
    return np.array([getattr(math, name)(v) for v in x.tolist()])


def points(dtype: type, n: int) -> np.ndarray:
    """Finite numbers of every size and sign, and many where functions bend, over- or underflow."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    width = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    patterns = np.linspace(0, int(np.array(info.max, dtype).view(width)), n).astype(width).view(dtype)
    far = float(-np.log(float(info.tiny)) + np.log(1 / float(info.eps)))  # exp(-far) is denormal
    edges = np.array([0.5, 0.92, 1, 2**-0.5, 2**0.5, np.log(2) / 2, np.log(2), np.pi / 2, np.pi, far], dtype)
    near = np.concatenate([np.nextafter(edges, dtype(0)), edges, np.nextafter(edges, dtype(INF))])
    x = np.concatenate([patterns, rng.normal(0, 2, n), rng.uniform(0, far, n), rng.uniform(0, 2, n), near]).astype(
        dtype
    )
    x = x[np.isfinite(x)]  # the last pattern, rounded, may be infinite
    return np.concatenate([x, -x])


def defined(name: str, x: np.ndarray) -> np.ndarray:
    """The points where the function is a number."""
    return x[x > 0] if name == "log" else x[x > -1] if name == "log1p" else x


def ulps(y: np.ndarray, error: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Errors in units in the last place of the exact values; where these overflow, the result must."""
    info = np.finfo(y.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(y.dtype)
        unit = np.maximum(2.0 ** np.floor(np.log2(np.abs(exact))) * float(info.eps), float(info.smallest_subnormal))
        found = np.where(error == 0, 0.0, error / unit)
    finite = np.isfinite(rounded) & np.isfinite(y)
    return np.where(finite, found, np.where(y == rounded, 0.0, INF))


def errors(name: str, x: np.ndarray) -> np.ndarray:
    """Of the kernel at x, in units in the last place, by float64 for float32 and by mpmath for float64."""
    y = getattr(elementwise, name)(x)
    if x.dtype == np.float32:
        with np.errstate(all="ignore"):
            exact = WIDE.get(name, getattr(np, name, None))(x.astype(np.float64))
            error = np.abs(y - exact)
        return ulps(y, error, exact)
    with mpmath.workdps(40):
        values = [FUNCTIONS[name][2](mpmath.mpf(v)) for v in x.tolist()]
        exact = np.array([float(v) for v in values])
        error = np.array([
            float(abs(v - got)) if np.isfinite(got) else INF for v, got in zip(values, y.tolist(), strict=True)
        ])  # fmt: skip
    return ulps(y, error, exact)


def accurate(name: str, dtype: type) -> None:
    n = {np.float32: 4000, np.float64: 150}[dtype]
    x = defined(name, points(dtype, n))
    if name in ("sin", "cos") and dtype is np.float64:
        x = x[np.abs(x) < 1e6]  # farther out it is NumPy's, which has its own tests
    found = errors(name, x)
    worst = int(np.argmax(found))
    bound = FUNCTIONS[name][DTYPES.index(dtype)]
    assert found[worst] <= bound, f"{name}: {found[worst]:.3g} units in the last place at {x[worst]!r}"


def special(name: str, dtype: type) -> None:
    values, others = SPECIAL[name]
    x = np.array([-INF, -0.0, 0.0, INF, NAN, *others], dtype)
    want = np.array([*values, NAN, *others.values()], dtype)
    with np.errstate(invalid="ignore"):
        got = getattr(elementwise, name)(np.tile(x, 20))  # in whole vectors and in the rest
    np.testing.assert_array_max_ulp(np.nan_to_num(got, nan=7.0), np.nan_to_num(np.tile(want, 20), nan=7.0), 1)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(np.tile(want, 20)))
    number = ~np.isnan(got)
    np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(np.tile(want, 20)[number]))


def check() -> None:
    for name in FUNCTIONS:
        for dtype in DTYPES:
            accurate(name, dtype)
            special(name, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(name: str, dtype: type) -> None:
    accurate(name, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name: str, dtype: type) -> None:
    special(name, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_out_sin_and_cos_are_numpys(dtype: type) -> None:
    x = np.array([1e6, 1e7, 1e30, -1e12, 3.0], dtype)
    far = np.abs(x) > 1e6
    np.testing.assert_array_equal(elementwise.sin(x)[far], np.sin(x)[far])
    np.testing.assert_array_equal(elementwise.cos(x)[far], np.cos(x)[far])


OTHERS = {"AVX2": ("haswell", "+64bit,+sse2,+avx,+avx2,+fma", 32), "SSE2": ("x86-64", "+64bit,+sse2", 16)}


@pytest.mark.skipif("sse2" not in FEATURES, reason="pretends processors of the x86 family")
@pytest.mark.parametrize("kind", OTHERS)
def test_on_other_vectors(kind: str, tmp_path: Path) -> None:
    cpu, features, width = OTHERS[kind]
    if not {f[1:] for f in features.split(",")} - {"64bit"} <= FEATURES or width >= WIDTH:
        pytest.skip("this processor can't, or it is tested above")
    env = {
        **os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "MINIGRAD_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    script = (
        "from minigrad.kernels import simd; from tests.kernels.test_simd_math import check; "
        f"assert simd.WIDTH == {width}; check()"
    )
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
