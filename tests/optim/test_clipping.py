"""Clipping bounds what it says, and changes nothing that is within."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import optim

entries = st.floats(-(2.0**100), 2.0**100, width=32)


def _with_gradients(*gradients):
    params = [mg.Tensor(np.zeros_like(g), requires_grad=True) for g in gradients]
    for p, g in zip(params, gradients, strict=True):
        p.grad = mg.Tensor(g)
    return params


@given(
    hnp.arrays(np.float32, (2, 3), elements=entries),
    hnp.arrays(np.float64, (4,), elements=entries),
    st.floats(0.01, 1e6),
)
def test_norm_is_bounded_and_direction_kept(a, b, max_norm):
    params = _with_gradients(a, b)
    before = np.concatenate([a.ravel().astype(float), b])
    norm = optim.clip_grad_norm(params, max_norm)
    after = np.concatenate([p.grad.data.ravel().astype(float) for p in params])
    true = np.linalg.norm(before / 1e25) * 1e25
    np.testing.assert_allclose(norm.item(), true, rtol=1e-10, atol=1e-300)
    factor = min(1.0, max_norm / true) if true else 1.0
    np.testing.assert_allclose(after, factor * before, rtol=1e-6, atol=1e-37)
    if true <= max_norm:
        assert (after == before).all()


def test_squares_do_not_overflow_in_float32():
    params = _with_gradients(np.full(2, 1e30, np.float32))
    assert np.isclose(optim.clip_grad_norm(params, 1.0).item(), 2**0.5 * 1e30)
    np.testing.assert_allclose(params[0].grad.data, 0.5**0.5, rtol=1e-6)


@given(hnp.arrays(np.float32, (5,), elements=entries), st.floats(0.01, 1e6))
def test_values_are_bounded(a, max_value):
    (p,) = _with_gradients(a)
    optim.clip_grad_value([p], max_value)
    assert p.grad.dtype == np.float32
    assert (p.grad.data == np.clip(a, np.float32(-max_value), np.float32(max_value))).all()


def test_parameters_without_a_gradient_do_not_count():
    params = [*_with_gradients(np.array([3.0, 4.0])), mg.Tensor(1.0, requires_grad=True)]
    assert optim.clip_grad_norm(params, 10.0).item() == 5
    optim.clip_grad_value(params, 1.0)
    assert params[1].grad is None
    assert optim.clip_grad_norm(params[1:], 1.0).item() == 0


def test_a_norm_that_is_no_number_names_the_parameter_and_changes_nothing():
    params = _with_gradients(np.array([3.0, 4.0]), np.array([np.nan, 1.0]))
    with pytest.raises(FloatingPointError, match=r"the norm is nan: look at b$"):
        optim.clip_grad_norm({"a": params[0], "b": params[1]}, 1.0)
    assert params[0].grad.data.tolist() == [3, 4]


@pytest.mark.parametrize("clip", [optim.clip_grad_norm, optim.clip_grad_value])
@pytest.mark.parametrize("bound", [0.0, -1.0, float("inf"), float("nan")])
def test_bounds_are_positive(clip, bound):
    with pytest.raises(ValueError, match="is a positive number"):
        clip(_with_gradients(np.ones(2)), bound)


def test_clipping_is_on_the_tape():
    (p,) = _with_gradients(np.array([3.0, 4.0]))
    before = p.grad
    with mg.record() as tape:
        norm = optim.clip_grad_norm([p], 1.0)
    run = tape.replay({before: [30.0, 40.0]})
    assert run(norm) == 50
    np.testing.assert_allclose(run(p.grad), [0.6, 0.8])
