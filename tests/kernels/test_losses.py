"""Losses against SciPy in float64 and mpmath, forward, backward, and both in one pass."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
from scipy import special

from minigrad import kernels
from minigrad.kernels import losses as K

from .arrays import CPUS, LAYOUTS, guarded, run_elsewhere

DTYPES = ["float32", "float64"]
SHAPES = [(), (1,), (7,), (16,), (3, 11), (0, 3), (5, 100), (300, 70)]
ROWS = [(1, 2), (3, 10), (4, 16), (2, 17), (2, 3, 5), (3, 300), (700, 30), (2,), (3, 1), (37, 32), (19, 33)]


def eps(dtype: str) -> float:
    return float(np.finfo(dtype).eps)


def logits(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.asarray(np.random.default_rng(0).standard_normal(shape) * 8, dtype)


def targets(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.asarray(np.random.default_rng(1).choice([0.0, 1.0, 0.25, 1e-6], shape), dtype)


def binary(z: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and slope in float64."""
    z, t = z.astype(np.float64), t.astype(np.float64)
    loss = -(t * special.log_expit(z) + (1 - t) * special.log_expit(-z))
    return loss, (1 - t) * special.expit(z) - t * special.expit(-z)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy(layout: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in SHAPES:
        z, t = logits(shape, dtype), targets(shape, dtype)
        g = np.asarray(1 + 0 * z + np.arange(z.size).reshape(shape) % 3, dtype)
        loss, slope = binary(z, t)
        given = LAYOUTS[layout](z), LAYOUTS[layout](t)
        with guarded(K, monkeypatch):
            y = K.bce_with_logits(*given)
            z_bar = K.bce_with_logits_vjp(LAYOUTS[layout](g), *given)
            total, one_pass = K.bce_with_logits_and_slope(*given, 0.5)
        assert (y.dtype, y.shape) == (z.dtype, shape)
        bound = eps(dtype) * (4 * loss + np.abs(z) * t)
        assert (np.abs(y - loss) <= bound).all()
        bound = 6 * eps(dtype) * (np.abs(slope) + 2 * t * special.expit(-z) * (t > 0))
        assert (np.abs(z_bar - g * slope) <= g * bound).all()
        assert (np.abs(one_pass - 0.5 * slope) <= 0.5 * bound).all()
        assert total == pytest.approx(0.5 * loss.sum(), rel=8 * eps(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_logits(dtype: str) -> None:
    """A confident prediction that is right has a slope, and a loss, of all digits."""
    most = 80.0 if dtype == "float32" else 700.0
    for z, t in ((most, 1.0), (-most, 0.0), (20.0, 1.0), (-20.0, 0.0), (1e-30, 0.0), (most, 0.0), (-1e30, 1.0)):
        zs, ts = np.full(40, z, dtype), np.full(40, t, dtype)
        with mpmath.workdps(500 if abs(z) > 1 else 60):
            x = mpmath.mpf(float(zs[0])) if abs(z) < 1e4 else None
            if x is None:
                loss, slope = -z, -1.0
            else:
                loss = float(mpmath.log1p(mpmath.exp(x)) - x * t)
                slope = float(1 / (1 + mpmath.exp(-x)) - t)
        np.testing.assert_allclose(K.bce_with_logits(zs, ts), loss, rtol=4 * eps(dtype))
        np.testing.assert_allclose(K.bce_with_logits_and_slope(zs, ts)[1], slope, rtol=6 * eps(dtype))
    bad = np.array([np.nan, 1.0, np.nan], dtype)
    assert np.isnan(K.bce_with_logits(bad, bad[::-1].copy())).tolist() == [True, False, True]
    loss, slope = K.bce_with_logits_and_slope(np.full(5, np.nan, dtype), np.ones(5, dtype))
    assert np.isnan(loss)
    assert np.isnan(slope).all()


@np.errstate(over="ignore")
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_that_are_not_finite(dtype: str) -> None:
    """∞ - ∞ of two chunks, and a sum of chunks that is beyond the largest number, as NumPy has them: no errors."""
    z, t = np.zeros(3 * K.WORK, dtype), np.ones(3 * K.WORK, dtype)
    z[0] = -np.inf
    assert K.bce_with_logits_and_slope(z, t)[0] == np.inf
    z[-1] = -np.inf
    t[-1] = -1
    assert np.isnan(K.bce_with_logits_and_slope(z, t)[0])
    z[[0, -1]] = -0.8 * np.finfo(dtype).max
    t[-1] = 1
    assert K.bce_with_logits_and_slope(z, t)[0] == np.inf
    labels = np.zeros(3 * K.WORK, int)
    z = np.zeros((3 * K.WORK, 2), dtype)
    z[[0, -1], 1] = 0.8 * np.finfo(dtype).max
    assert K.cross_entropy_and_slope(z, labels)[0] == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_log1p_by_a_polynomial(dtype: str) -> None:
    """At t = 0 and z < 0 the loss is log(1 + eᶻ), whose polynomial is accurate over the whole range."""
    z = -np.linspace(0, 60, 5000).astype(dtype)
    want = np.log1p(np.exp(z.astype(np.longdouble))).astype(np.float64)
    np.testing.assert_allclose(K.bce_with_logits(z, np.zeros_like(z)), want, rtol=3 * eps(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_divergence_of_a_gaussian(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near v = 0, too, where eᵛ - 1 - v cancels."""
    v = np.concatenate([np.geomspace(1e-10, 8, 400), -np.geomspace(1e-10, 80, 400), [0.34, -0.34, 0]]).astype(dtype)
    with mpmath.workdps(50):
        want = np.array([float(mpmath.expm1(x) - x) / 2 for x in map(mpmath.mpf, v.tolist())])
    for layout in LAYOUTS.values():
        with guarded(K, monkeypatch):
            y = K.gaussian_kl(layout(np.zeros_like(v)), layout(v))
        np.testing.assert_allclose(y, want, rtol=6 * eps(dtype))
    m = logits(v.shape, dtype)
    np.testing.assert_allclose(K.gaussian_kl(m, v), np.float64(m) ** 2 / 2 + want, rtol=4 * eps(dtype))


def categorical(z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and slope in float64 with a slope of all digits."""
    z, at = z.astype(np.float64), labels[..., None]
    others = z - np.take_along_axis(z, at, -1)
    np.put_along_axis(others, at, -np.inf, -1)
    slope = special.softmax(z, -1)
    np.put_along_axis(slope, at, 0, -1)
    np.put_along_axis(slope, at, -slope.sum(-1, keepdims=True), -1)
    return np.logaddexp(special.logsumexp(others, -1), 0), slope


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(layout: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ROWS:
        z = logits(shape, dtype)
        labels = np.asarray(np.random.default_rng(2).integers(0, shape[-1], shape[:-1]))
        g = np.asarray(1 + np.arange(labels.size).reshape(labels.shape) % 3, dtype)
        loss, slope = categorical(z, labels)
        given = LAYOUTS[layout](z), LAYOUTS[layout](labels)
        with guarded(K, monkeypatch):
            y = K.cross_entropy(*given)
        assert (y.dtype, y.shape) == (z.dtype, labels.shape)
        spread = eps(dtype) * (8 + np.ptp(z, -1))  # z - max z is rounded
        assert (np.abs(y - loss) <= spread * (loss + eps(dtype))).all()
        if shape[-1] > 1:
            with guarded(K, monkeypatch):
                total, one_pass = K.cross_entropy_and_slope(*given, 0.5)
                z_bar = K.cross_entropy_vjp(LAYOUTS[layout](g), *given)
            bound = 2 * spread[..., None] * np.abs(slope)
            assert (np.abs(one_pass - 0.5 * slope) <= bound).all()
            assert (total.dtype, total.shape) == (z.dtype, ())
            assert total == pytest.approx(0.5 * loss.sum(), rel=float(np.max(spread)))
            assert (np.abs(z_bar - g[..., None] * slope) <= 2 * g[..., None] * bound).all()


@pytest.mark.parametrize("n", [10, 100])
def test_a_confident_prediction_that_is_right(n: int) -> None:
    """Loss and slope have all digits, where log softmax and p - 1 would be 0."""
    z = np.zeros((n, n), np.float32)
    z[np.arange(n), np.arange(n)] = 30
    small = (n - 1) * np.exp(-30.0)
    loss, slope = K.cross_entropy_and_slope(z, np.arange(n))
    assert loss == pytest.approx(n * small, rel=1e-5)
    np.testing.assert_allclose(np.diag(slope), -small, rtol=1e-5)


@pytest.mark.parametrize("n", [5, 50])
def test_labels_out_of_range_touch_nothing(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z = np.ones((4, n), np.float32)
    with guarded(K, monkeypatch):
        losses = K.cross_entropy(z, np.array([0, n, -1, 2**40]))
        z_bar = K.cross_entropy_vjp(np.ones(4, np.float32), z, np.array([0, n, -1, 2**40]))
    assert np.isnan(losses).tolist() == [False, True, True, True]
    assert np.isnan(z_bar).all(1).tolist() == [False, True, True, True]


@pytest.mark.parametrize("n", [3, 32, 33])
@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_that_are_not_finite(dtype: str, n: int) -> None:
    """-∞ is a class that never happens; NaN and +∞ spoil their own row, and only that."""
    z, labels = logits((40, n), dtype), np.arange(40) % n
    want, slope = K.cross_entropy(z, labels), K.cross_entropy_vjp(np.ones(40, dtype), z, labels)
    for value in (np.nan, np.inf, -np.inf):
        for place in range(n):
            spoiled = z.copy()
            spoiled[7, place] = value
            y, z_bar = K.cross_entropy(spoiled, labels), K.cross_entropy_vjp(np.ones(40, dtype), spoiled, labels)
            if value != -np.inf:
                assert np.isnan(y[7])
                assert np.isnan(z_bar[7]).all()
            elif place == labels[7]:
                assert y[7] == np.inf
                assert z_bar[7, place] == pytest.approx(-1)
            else:
                others = np.arange(n) != place
                assert y[7] == pytest.approx(K.cross_entropy(z[7, others], np.array(labels[7] - (place < labels[7]))))
                assert z_bar[7, place] == 0
            rest = np.arange(40) != 7
            np.testing.assert_array_equal(y[rest], want[rest])
            np.testing.assert_array_equal(z_bar[rest], slope[rest])
    nowhere = np.full((1, n), -np.inf, dtype)
    assert np.isnan(K.cross_entropy(nowhere, np.array([0]))).all()


@pytest.mark.parametrize("kind", ["i1", "i4", "u1", "u8", ">i4"])
def test_labels_of_any_integers(kind: str) -> None:
    z, labels = logits((4, 3), "float64"), np.array([0, 1, 2, 1])
    np.testing.assert_array_equal(K.cross_entropy(z, labels.astype(kind)), K.cross_entropy(z, labels))


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads(dtype: str) -> None:
    before, results = kernels.num_threads(), []
    z, labels = logits((3000, 11), dtype), np.arange(3000) % 11
    for threads in (1, 3):
        kernels.set_num_threads(threads)
        loss, slope = K.cross_entropy_and_slope(z, labels)
        binary_loss, binary_slope = K.bce_with_logits_and_slope(z, targets(z.shape, dtype))
        results.append((loss, slope.tobytes(), binary_loss, binary_slope.tobytes()))
    kernels.set_num_threads(before)
    assert results[0] == results[1]


def test_what_kernels_do_not_know() -> None:
    z, wide, whole = np.ones((2, 3), np.float32), np.ones((2, 3)), np.ones((2, 3), int)
    for a, b in ((z, wide), (whole, whole), (z, z[0]), (z, 1.0), (1.0, z)):
        assert K.bce_with_logits(a, b) is NotImplemented
        assert K.bce_with_logits_and_slope(a, b) is NotImplemented
        assert K.gaussian_kl(a, b) is NotImplemented
    for a, b in ((whole, np.zeros(2, int)), (z, np.zeros(3, int)), (z, np.zeros(2)), (z[:0], np.zeros(0, int))):
        assert K.cross_entropy(a, b) is NotImplemented
        assert K.cross_entropy_vjp(np.ones(2, np.float32), a, b) is NotImplemented
        assert K.cross_entropy_and_slope(a, b) is NotImplemented
    assert K.cross_entropy_vjp(np.ones(2), z, np.zeros(2, int)) is NotImplemented
    one_class = np.full((2, 1), np.inf), np.zeros(2, int)  # NumPy gives a slope of 0
    assert K.cross_entropy_and_slope(*one_class) is NotImplemented
    assert K.cross_entropy_vjp(np.ones(2), *one_class) is NotImplemented


SCRIPT = """
import numpy as np
from scipy import special
from minigrad.kernels import losses as K
rng = np.random.default_rng(0)
for n in (2, 3, 4, 5, 8, 9, 33, 40):
    z = (rng.standard_normal((5, n)) * 5).astype(np.float32)
    t = rng.choice([0, 1], z.shape).astype(np.float32)
    loss, slope = K.bce_with_logits_and_slope(z, t)
    wide = z.astype(float)
    np.testing.assert_allclose(slope, np.where(t, -special.expit(-wide), special.expit(wide)), 3e-6)
    np.testing.assert_allclose(loss, -np.where(t, special.log_expit(z), special.log_expit(-z)).sum(), 1e-5)
    labels = rng.integers(0, n, 5)
    loss, slope = K.cross_entropy_and_slope(z, labels)
    p = special.softmax(z.astype(float), 1)
    np.testing.assert_allclose(loss, -np.log(p[np.arange(5), labels]).sum(), 1e-5, 1e-6)
    np.testing.assert_allclose(slope, p - (np.arange(n) == labels[:, None]), atol=1e-6)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_other_processors(cpu: str, tmp_path: Any) -> None:
    run_elsewhere(cpu, SCRIPT, tmp_path)
