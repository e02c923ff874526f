"""Convolution and pooling: windows of odd shapes against loops, adjoints, second derivatives, draws, what is refused.

The primitives go through the generic suite with windows of few sizes; here are larger ones, and the public functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from suite.oracles import ORACLES

import minigrad as mg
from minigrad import kernels
from minigrad.testing import check

rng = np.random.default_rng(0)
small = st.integers(1, 3)
pairs = st.tuples(small, small)
paddings = st.tuples(st.integers(0, 2), st.integers(0, 2))


@pytest.fixture(autouse=True, scope="module", params=["numpy", "numba"])
def both_ways(request: Any) -> Iterator[None]:
    with kernels.use(request.param):
        yield


@given(size=pairs, stride=pairs, padding=paddings, dilation=pairs, groups=st.integers(1, 2), data=st.data())
def test_convolutions_are_loops(size: Any, stride: Any, padding: Any, dilation: Any, groups: int, data: Any) -> None:
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(size, padding, dilation, strict=True)]
    image = [data.draw(st.integers(n, n + 4)) for n in least]
    x, w = rng.normal(size=(2, 2 * groups, *image)), rng.normal(size=(3 * groups, 2, *size))
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y = mg.conv2d(x, w, **options)
    np.testing.assert_allclose(y, ORACLES["conv2d"](x, w, **options), atol=1e-12)
    spare = [
        (n + 2 * p - d * (k - 1) - 1) % s for n, k, s, p, d in zip(image, size, stride, padding, dilation, strict=True)
    ]
    back = mg.conv_transpose2d(y, w, output_padding=spare, **options)
    assert back.shape == x.shape
    np.testing.assert_allclose(back, ORACLES["conv2d_input"](y, w, shape=tuple(image), **options), atol=1e-12)
    gradient = mg.grad(lambda w: mg.sum(mg.conv2d(x, w, **options) * y))(mg.Tensor(w)).data
    np.testing.assert_allclose(gradient, ORACLES["conv2d_weight"](x, y, size=size, **options), atol=1e-11)


@given(size=pairs, stride=pairs, data=st.data())
def test_pooling_is_loops(size: Any, stride: Any, data: Any) -> None:
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in size)
    image = [data.draw(st.integers(max(1, k - 2 * p), 6)) for k, p in zip(size, padding, strict=True)]
    x = rng.integers(-2, 3, (2, 1, *image)).astype(float)
    window: dict[str, Any] = {"size": size, "stride": stride, "padding": padding}
    for name in ("max_pool", "avg_pool"):
        np.testing.assert_allclose(getattr(mg, name)(x, **window), ORACLES[name](x, **window), rtol=1e-14)
    u = rng.uniform(size=mg.max_pool(x, **window).shape)
    want = ORACLES["stochastic_pool"](x, u, **window)
    np.testing.assert_array_equal(mg.stochastic_pool(x, **window, uniforms=u), want)


def test_one_number_stands_for_two() -> None:
    x, w = rng.normal(size=(1, 2, 7, 7)), rng.normal(size=(2, 1, 3, 3))
    np.testing.assert_array_equal(
        mg.conv2d(x, w, 2, 1, 2, 2), mg.conv2d(x, w, stride=(2, 2), padding=(1, 1), dilation=(2, 2), groups=2)
    )
    np.testing.assert_array_equal(mg.max_pool(x, 2), mg.max_pool(x, (2, 2), stride=(2, 2), padding=(0, 0)))


@pytest.mark.parametrize(
    "f",
    [
        lambda x, w: mg.conv2d(x, w, (2, 1), (1, 0), (1, 2)),
        lambda x, w: mg.conv_transpose2d(mg.permute_dims(x, (1, 0, 2, 3)), w, (2, 1), (1, 0), (1, 0), (1, 2)),
        lambda x, w: mg.tanh(mg.max_pool(x, (2, 3), (2, 1), (1, 0))) * mg.sum(w),
        lambda x, w: mg.stochastic_pool(mg.square(x), 2, 1, 1) * mg.sum(w),
    ],
)
def test_derivatives(f: Any) -> None:
    x, w = mg.Tensor(rng.normal(size=(2, 1, 4, 4))), mg.Tensor(rng.normal(size=(2, 1, 2, 2)))
    report = check(lambda x, w: mg.sum(mg.square(f(x, w))), x, w)
    assert report.verdict == "pass", report
    slope = mg.grad(lambda x: mg.sum(mg.square(f(x, w))))
    report = check(lambda x: mg.sum(mg.sin(slope(x))), x)
    assert report.verdict == "pass", report


def test_of_ties_the_first_gets_the_cotangent() -> None:
    x = mg.Tensor([[1.0, 2.0], [2.0, 2.0]], requires_grad=True)
    mg.max_pool(x, 2).backward([[5.0]])
    assert x.grad.data.tolist() == [[0.0, 5.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("name", "f"),
    [
        ("max_pool_input", lambda x: mg.max_pool(x, 3, 2, 1)),
        ("avg_unpool", lambda x: mg.avg_pool(x, 3, 2, 1)),
        ("stochastic_pool_input", lambda x: mg.stochastic_pool(x, 3, 2, 1, uniforms=np.full((2, 3, 3), 0.4))),
    ],
)
def test_a_recorded_backward_is_one_operation(name: str, f: Any) -> None:
    """It gives the same bits as one on arrays."""
    x, g = mg.Tensor(np.abs(rng.normal(size=(2, 5, 5))), requires_grad=True), rng.normal(size=(2, 3, 3))
    f(x).backward(g)
    want, x.grad = x.grad, None
    with mg.record() as tape:
        y = f(x)
        forward = len(tape)
        y.backward(g)
    assert {entry.op.name for entry in tape.entries[forward:]} - {"copy"} == {name}
    np.testing.assert_array_equal(x.grad.data, want.data)


def test_padding_is_never_the_maximum() -> None:
    x = mg.Tensor([[-np.inf, -3.0]], requires_grad=True)
    y = mg.max_pool(x, (3, 3), 1, 1)
    assert y.data.tolist() == [[-3.0, -3.0]]
    alone = mg.Tensor([[-np.inf]], requires_grad=True)
    mg.max_pool(alone, 3, 1, 1).backward([[2.0]])
    assert alone.grad.data.tolist() == [[2.0]]


def test_draws_have_the_probabilities() -> None:
    """Evenly spaced uniforms draw each pixel as often as it is large; the mean is that of the draws."""
    x = np.array([[1.0, 0.0], [5.0, 2.0]])
    n = 800
    u = (np.arange(n) + 0.5).reshape(n, 1, 1) / n
    drawn = mg.stochastic_pool(np.broadcast_to(x, (n, 2, 2)), 2, uniforms=u)
    assert {value: int((drawn == value).sum()) for value in (0, 1, 2, 5)} == {0: 0, 1: n // 8, 2: n // 4, 5: 5 * n // 8}
    np.testing.assert_allclose(mg.stochastic_pool(x, 2), [[drawn.mean()]])


def test_windows_without_positive_pixels() -> None:
    x = mg.Tensor([[0.0, -1.0], [-2.0, 0.0]], requires_grad=True)
    assert mg.stochastic_pool(x, 2).data.tolist() == [[0.0]]
    mg.stochastic_pool(x, 2, uniforms=[[0.7]]).backward([[1.0]])
    assert x.grad.data.tolist() == [[1.0, 0.0], [0.0, 0.0]]


IMAGES, FILTERS = np.ones((1, 4, 5, 5)), np.ones((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (
            ValueError,
            r"expected images \(n, channels, height, width\).*\(4, 5, 5\)",
            lambda: mg.conv2d(IMAGES[0], FILTERS),
        ),
        (ValueError, "images of 4 channels, got images", lambda: mg.conv2d(IMAGES[:, :3], FILTERS)),
        (ValueError, "groups=4 does not divide", lambda: mg.conv2d(IMAGES, FILTERS, groups=4)),
        (ValueError, "groups is a positive integer, got 0", lambda: mg.conv2d(IMAGES, FILTERS, groups=0)),
        (ValueError, "do not fit in images", lambda: mg.conv2d(IMAGES[:, :, :2], FILTERS)),
        (ValueError, "do not fit in images", lambda: mg.conv2d(IMAGES, FILTERS, dilation=(1, 3))),
        (ValueError, "the weights are empty", lambda: mg.conv2d(IMAGES, FILTERS[:0])),
        (ValueError, "stride is at least 1, got 0", lambda: mg.conv2d(IMAGES, FILTERS, stride=0)),
        (ValueError, "padding is at least 0", lambda: mg.conv2d(IMAGES, FILTERS, padding=(0, -1))),
        (TypeError, "dilation is an integer or a pair", lambda: mg.conv2d(IMAGES, FILTERS, dilation=1.5)),
        (TypeError, "stride is an integer or a pair", lambda: mg.conv2d(IMAGES, FILTERS, stride=(1, 1, 1))),
        (ValueError, "of 6 channels, got images", lambda: mg.conv_transpose2d(IMAGES, FILTERS)),
        (ValueError, "smaller than the stride", lambda: mg.conv_transpose2d(IMAGES, FILTERS[:4], output_padding=1)),
        (ValueError, "would give images", lambda: mg.conv_transpose2d(IMAGES, FILTERS[:4], padding=4)),
        (ValueError, r"expected images \(\.\.\., height, width\)", lambda: mg.max_pool(np.ones(3), 2)),
        (ValueError, "at most half of the window", lambda: mg.avg_pool(IMAGES, 2, padding=(0, 2))),
        (ValueError, "do not fit", lambda: mg.max_pool(IMAGES, 6)),
        (ValueError, "size is at least 1", lambda: mg.max_pool(IMAGES, 0)),
        (
            ValueError,
            r"uniforms of shape \(1, 4, 2, 2\), got \(2, 2\)",
            lambda: mg.stochastic_pool(IMAGES, 2, uniforms=np.ones((2, 2))),
        ),
    ],
)
def test_what_is_refused(error: type[Exception], text: str, call: Any) -> None:
    with pytest.raises(error, match=text):
        call()
