"""Manipulation against NumPy: forward, exact adjoint, second derivative; axes, empty and 0-d arrays, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import Tensor

from .linear import check_cubic, check_linear, integers

S = (2, 3, 4)

CASES: list[tuple[str, Any, Any, tuple[int, ...]]] = [
    ("reshape", lambda x: mg.reshape(x, (4, -1)), lambda x: x.reshape(4, -1), S),
    ("reshape to vector", lambda x: mg.reshape(x, -1), lambda x: x.reshape(-1), S),
    ("reshape 0-d", lambda x: mg.reshape(x, (1, 1)), lambda x: x.reshape(1, 1), ()),
    ("reshape to 0-d", lambda x: mg.reshape(x, ()), lambda x: x.reshape(()), (1, 1)),
    ("reshape empty", lambda x: mg.reshape(x, (3, -1, 5)), lambda x: x.reshape(3, -1, 5), (0, 3, 5)),
    ("permute_dims", lambda x: mg.permute_dims(x, (2, 0, -2)), lambda x: np.transpose(x, (2, 0, 1)), S),
    ("permute_dims reversed", lambda x: mg.permute_dims(x), np.transpose, S),
    ("permute_dims 0-d", lambda x: mg.permute_dims(x, ()), lambda x: x, ()),
    ("swapaxes", lambda x: mg.swapaxes(x, 0, -1), lambda x: np.swapaxes(x, 0, -1), S),
    ("moveaxis", lambda x: mg.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), S),
    ("moveaxis several", lambda x: mg.moveaxis(x, (0, 2), (-1, 0)), lambda x: np.moveaxis(x, (0, 2), (-1, 0)), S),
    ("matrix_transpose", lambda x: mg.matrix_transpose(x), lambda x: np.swapaxes(x, -1, -2), S),
    ("expand_dims", lambda x: mg.expand_dims(x, -1), lambda x: np.expand_dims(x, -1), S),
    ("expand_dims several", lambda x: mg.expand_dims(x, (0, -2)), lambda x: np.expand_dims(x, (0, -2)), S),
    ("squeeze", lambda x: mg.squeeze(x), np.squeeze, (1, 3, 1)),
    ("squeeze axis", lambda x: mg.squeeze(x, -1), lambda x: np.squeeze(x, -1), (1, 3, 1)),
    ("broadcast_to", lambda x: mg.broadcast_to(x, (5, 2, 3)), lambda x: np.broadcast_to(x, (5, 2, 3)), (2, 1)),
    ("broadcast_to empty", lambda x: mg.broadcast_to(x, (0, 3)), lambda x: np.broadcast_to(x, (0, 3)), (1, 3)),
    ("flip", lambda x: mg.flip(x), np.flip, S),
    ("flip axes", lambda x: mg.flip(x, (0, -1)), lambda x: np.flip(x, (0, -1)), S),
    ("roll flattened", lambda x: mg.roll(x, 5), lambda x: np.roll(x, 5), S),
    ("roll", lambda x: mg.roll(x, -1, 1), lambda x: np.roll(x, -1, 1), S),
    ("roll several", lambda x: mg.roll(x, (1, 7), (0, -1)), lambda x: np.roll(x, (1, 7), (0, -1)), S),
    ("roll one axis twice", lambda x: mg.roll(x, (1, 1), 2), lambda x: np.roll(x, (1, 1), 2), S),
    ("roll empty", lambda x: mg.roll(x, 1), lambda x: np.roll(x, 1), (0, 3)),
    ("tile", lambda x: mg.tile(x, (2, 1, 3)), lambda x: np.tile(x, (2, 1, 3)), S),
    ("tile short", lambda x: mg.tile(x, 2), lambda x: np.tile(x, 2), S),
    ("tile long", lambda x: mg.tile(x, (2, 1, 2)), lambda x: np.tile(x, (2, 1, 2)), (3,)),
    ("tile 0-d", lambda x: mg.tile(x, 3), lambda x: np.tile(x, 3), ()),
    ("tile none", lambda x: mg.tile(x, 0), lambda x: np.tile(x, 0), (3,)),
    ("repeat flattened", lambda x: mg.repeat(x, 2), lambda x: np.repeat(x, 2), S),
    ("repeat", lambda x: mg.repeat(x, 3, -1), lambda x: np.repeat(x, 3, -1), S),
    ("repeat each", lambda x: mg.repeat(x, [2, 0, 1], 1), lambda x: np.repeat(x, [2, 0, 1], 1), S),
    ("pad", lambda x: mg.pad(x, 1), lambda x: np.pad(x, 1), S),
    ("pad each", lambda x: mg.pad(x, ((0, 1), (2, 0), (0, 0))), lambda x: np.pad(x, ((0, 1), (2, 0), (0, 0))), S),
    ("pad pair", lambda x: mg.pad(x, (1, 2)), lambda x: np.pad(x, (1, 2)), S),
    ("pad 0-d", lambda x: mg.pad(x, 1), lambda x: x, ()),
    ("pad edge", lambda x: mg.pad(x, (1, 2), "edge"), lambda x: np.pad(x, (1, 2), "edge"), S),
    ("pad reflect", lambda x: mg.pad(x, 1, "reflect"), lambda x: np.pad(x, 1, "reflect"), S),
    ("pad wrap", lambda x: mg.pad(x, 5, "wrap"), lambda x: np.pad(x, 5, "wrap"), S),
    ("diagonal", lambda x: mg.diagonal(x), np.diagonal, S),
    ("diagonal above", lambda x: mg.diagonal(x, 1, -1, 0), lambda x: np.diagonal(x, 1, -1, 0), S),
    ("diagonal below", lambda x: mg.diagonal(x, -1, 1, 2), lambda x: np.diagonal(x, -1, 1, 2), S),
    ("diagonal outside", lambda x: mg.diagonal(x, 9), lambda x: np.diagonal(x, 9), S),
    ("tril", lambda x: mg.tril(x), np.tril, S),
    ("tril above", lambda x: mg.tril(x, 1), lambda x: np.tril(x, 1), S),
    ("triu", lambda x: mg.triu(x), np.triu, S),
    ("triu below", lambda x: mg.triu(x, -1), lambda x: np.triu(x, -1), S),
    ("unstack", lambda x: mg.unstack(x, 1), lambda x: tuple(np.moveaxis(x, 1, 0)), S),
    ("split equal", lambda x: mg.split(x, 2, -1), lambda x: tuple(np.split(x, 2, -1)), S),
    ("split at", lambda x: mg.split(x, [1, 1, -1], 2), lambda x: tuple(np.split(x, [1, 1, -1], 2)), S),
    ("split beyond", lambda x: mg.split(x, [1, 9]), lambda x: tuple(np.split(x, [1, 9])), S),
    ("split one", lambda x: mg.split(x, 1), lambda x: tuple(np.split(x, 1)), S),
    ("split empty", lambda x: mg.split(x, 3), lambda x: tuple(np.split(x, 3)), (0, 2)),
]


@pytest.mark.parametrize(("f", "reference", "shape"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_as_in_numpy_with_its_exact_adjoint(f: Any, reference: Any, shape: tuple[int, ...]) -> None:
    check_linear(f, shape, reference=reference)
    check_linear(f, shape)  # the same on arrays alone


@pytest.mark.parametrize("shape", [(3, 2), (0, 2)])
def test_concat_and_stack(shape: tuple[int, ...]) -> None:
    check_linear(lambda *xs: mg.concat(xs), (1, 2), shape, (2, 2), reference=lambda *xs: np.concatenate(xs))
    check_linear(lambda *xs: mg.concat(xs, -2), (1, 2), shape, reference=lambda *xs: np.concatenate(xs))
    check_linear(lambda *xs: mg.concat(xs, None), (1, 3), shape, reference=lambda *xs: np.concatenate(xs, None))
    check_linear(lambda *xs: mg.stack(xs, -1), shape, shape, reference=lambda *xs: np.stack(xs, -1))
    check_linear(lambda *xs: mg.stack(xs), (), (), (), reference=lambda *xs: np.stack(xs))


@pytest.mark.parametrize(
    "f",
    [
        lambda x: mg.concat([x, x * x, np.ones((1, 3)), x[:1]]),
        lambda x: mg.stack(mg.unstack(x * x, 1)[::-1]),
        lambda x: mg.split(x, [1], 1)[1] * x[:, :1],
        lambda x: mg.pad(x * x, 1, constant_values=2.0),
        lambda x: mg.pad(x * x, (2, 1), "symmetric"),
        lambda x: mg.tile(x, (2, 2)) * mg.repeat(mg.repeat(x, 2, 0), 2, 1),
        lambda x: mg.tril(x) * mg.roll(mg.flip(x, 1), 1, 0),
        lambda x: mg.diagonal(x * x, 1),
    ],
)
def test_first_and_second_derivative_by_differences(f: Any) -> None:
    check_cubic(f, (2, 3))


def test_concat_casts_each_cotangent_to_its_input() -> None:
    a, b = Tensor([1.0], "float32", True), Tensor([2.0], requires_grad=True)
    y = mg.concat([a, np.array([3]), b])
    assert y.dtype == np.float64
    y.backward(np.array([4.0, 5.0, 6.0]))
    assert (a.grad.dtype, a.grad.item(), b.grad.dtype, b.grad.item()) == (np.float32, 4.0, np.float64, 6.0)


def test_the_same_tensor_twice() -> None:
    x = Tensor([1.0, 2.0], requires_grad=True)
    mg.concat([x, x]).backward(np.array([1.0, 2.0, 3.0, 4.0]))
    np.testing.assert_array_equal(x.grad.data, [4.0, 6.0])


def test_split_is_one_operation_whose_unused_outputs_have_zero_cotangents() -> None:
    x = Tensor(integers((5, 2)), requires_grad=True)
    with mg.record() as tape:
        a, _, c = mg.split(x, [1, 3])
        (a.sum() + 2.0 * c.sum()).backward()
    assert [e.op.name for e in tape.entries].count("split") == 1
    np.testing.assert_array_equal(x.grad.data, np.repeat([[1.0], [0.0], [2.0]], [1, 2, 2], 0) * np.ones((1, 2)))


def test_split_and_concat_replay() -> None:
    x = Tensor(integers((4,)), requires_grad=True)
    with mg.record() as tape:
        a, b = mg.split(x, 2)
        y = (mg.concat([b, a * b]) * mg.stack([a, b]).reshape(-1)).sum()
        y.backward()
    new = integers((4,))
    t = Tensor(new, requires_grad=True)
    a, b = mg.split(t, 2)
    z = (mg.concat([b, a * b]) * mg.stack([a, b]).reshape(-1)).sum()
    z.backward()
    run = tape.replay({x: new})
    np.testing.assert_array_equal(run(y), z.data)
    np.testing.assert_array_equal(run(x.grad), t.grad.data)


def test_pad_keeps_every_bit_and_its_dtype() -> None:
    x = Tensor([-0.0, np.nan], "float32")
    y = mg.pad(x, 1, constant_values=np.inf)
    assert y.dtype == np.float32
    assert y.data.tobytes() == np.array([np.inf, -0.0, np.nan, np.inf], np.float32).tobytes()
    assert mg.pad(Tensor([1, 2]), 1).dtype == np.int64


def test_triangles_of_infinities_have_no_nan() -> None:
    x = Tensor(np.full((2, 2), np.inf))
    np.testing.assert_array_equal(mg.tril(x).data, [[np.inf, 0.0], [np.inf, np.inf]])
    np.testing.assert_array_equal(mg.triu(x).data, [[np.inf, np.inf], [0.0, np.inf]])


def test_astype() -> None:
    x = Tensor([1.5, -2.5], requires_grad=True)
    y = mg.astype(x, np.float32)
    assert y.dtype == np.float32
    y.backward(np.array([1.0, 2.0], np.float32))
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad.data, [1.0, 2.0])
    for dtype in ("int64", "bool", "uint8"):
        y = mg.astype(mg.abs(x), dtype)
        assert y.dtype == np.dtype(dtype)
        assert not y.requires_grad
    same = mg.astype(x, "float64")
    assert same is not x
    assert same.requires_grad
    assert mg.astype(np.array([1]), "float32").dtype == np.float32
    for dtype in ("float16", "complex128", "object"):
        with pytest.raises(TypeError, match="minigrad computes with"):
            mg.astype(x, dtype)


@given(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3), st.integers(-4, 4), st.integers(-4, 4))
def test_axes_as_in_numpy(shape: tuple[int, ...], axis: int, other: int) -> None:
    x = integers(shape, np.random.default_rng(0))
    t = Tensor(x)
    for ours, theirs in [
        (lambda a: mg.expand_dims(a, axis), lambda a: np.expand_dims(a, axis)),
        (lambda a: mg.squeeze(a, axis), lambda a: np.squeeze(a, (axis,))),  # the tuple: NumPy drops axis 0 of 0-d
        (lambda a: mg.flip(a, axis), lambda a: np.flip(a, axis)),
        (lambda a: mg.roll(a, 2, axis), lambda a: np.roll(a, 2, axis)),
        (lambda a: mg.swapaxes(a, axis, other), lambda a: np.swapaxes(a, axis, other)),
        (lambda a: mg.moveaxis(a, axis, other), lambda a: np.moveaxis(a, axis, other)),
        (lambda a: mg.diagonal(a, 1, axis, other), lambda a: np.diagonal(a, 1, axis, other)),
        (lambda a: mg.repeat(a, 2, axis), lambda a: np.repeat(a, 2, axis) if a.ndim else np.flip(a, axis)),
        (lambda a: mg.concat([a, a], axis), lambda a: np.concatenate([a, a], axis)),
        (lambda a: mg.stack([a, a], axis), lambda a: np.stack([a, a], axis)),
        (lambda a: mg.tile(a, (2, 1)), lambda a: np.tile(a, (2, 1))),
    ]:
        try:
            expected = theirs(x)
        except ValueError:
            with pytest.raises(ValueError, match=r"\w+: "):
                ours(t)
        else:
            np.testing.assert_array_equal(ours(t).data, expected, strict=True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: mg.reshape(x, (4, 4)),
            r"reshape: shape \(2, 3, 4\) has 24 elements and can't take the shape \(4, 4\)",
        ),
        (lambda x: mg.reshape(x, (-1, -1)), "reshape"),
        (lambda x: mg.reshape(x[:1, :1, :1], (-1, -1)), "reshape"),
        (lambda x: mg.reshape(x, (5, -1)), "reshape"),
        (lambda x: mg.reshape(x, (0, -1)), "reshape"),
        (lambda x: mg.permute_dims(x, (0, 1)), r"permute_dims: shape \(2, 3, 4\) has 3 axes, got an order of 2"),
        (lambda x: mg.permute_dims(x, (0, 1, 1)), "permute_dims"),
        (lambda x: mg.matrix_transpose(x[0, 0]), r"matrix_transpose: .* got shape \(4,\)"),
        (lambda x: mg.squeeze(x, 1), r"squeeze: .*\(2, 3, 4\)"),
        (lambda x: mg.broadcast_to(x, (2, 3, 5)), r"broadcast_to: shape \(2, 3, 4\) does not broadcast to \(2, 3, 5\)"),
        (lambda x: mg.concat([x, x[0]]), r"concat: shapes may differ along axis 0 only, got \(2, 3, 4\), \(3, 4\)"),
        (lambda x: mg.concat([]), "concat: expected at least one"),
        (lambda x: mg.concat([x[0, 0, 0]]), "concat: .*use stack"),
        (lambda x: mg.stack([x, x[:1]]), r"stack: .*\(1, 3, 4\), \(2, 3, 4\)"),
        (lambda x: mg.stack([]), "stack: .*none"),
        (lambda x: mg.split(x, 2, 1), r"split: axis 1 of shape \(2, 3, 4\) does not divide into 2 pieces"),
        (lambda x: mg.split(x, 0), "split"),
        (lambda x: mg.split(x, [2, 1], 2), "split: indices must not decrease"),
        (lambda x: mg.roll(x, (1, 2, 3), (0, 1)), r"roll: got 3 shifts, \(1, 2, 3\), and 2 axes, \(0, 1\)"),
        (lambda x: mg.tile(x, -1), "tile"),
        (lambda x: mg.repeat(x, -1), "repeat"),
        (lambda x: mg.repeat(x, [1, 2], 1), r"repeat: expected 3 repeats for axis 1 of \(2, 3, 4\), got \(2,\)"),
        (lambda x: mg.pad(x, -1), "pad: expected widths of at least 0"),
        (lambda x: mg.pad(x, ((1, 1), (1, 1))), r"pad: .*3 axes of shape \(2, 3, 4\), got \(\(1, 1\), \(1, 1\)\)"),
        (lambda x: mg.pad(x, 0.5), "pad"),
        (lambda x: mg.pad(x, 1, "mean"), "pad: mode is one of"),
        (lambda x: mg.diagonal(x[0, 0]), "diagonal: expected at least two"),
        (lambda x: mg.diagonal(x, 0, 1, -2), "diagonal"),
        (lambda x: mg.tril(x[0, 0]), "tril: expected at least two"),
        (lambda x: mg.triu(x[0, 0]), "triu: expected at least two"),
        (lambda x: mg.moveaxis(x, (0, 1), 0), "moveaxis: got 2 sources"),
        (lambda x: mg.flip(x, 3), "flip: axis 3 is out of bounds"),
    ],
)
def test_errors_name_the_operation_and_the_shapes(call: Any, message: str) -> None:
    for x in (Tensor(integers(S)), integers(S)):
        with pytest.raises(ValueError, match=message):
            call(x)


def test_lists_and_numbers_are_arrays() -> None:
    np.testing.assert_array_equal(mg.reshape([1.0, 2.0], (2, 1)), [[1.0], [2.0]])
    np.testing.assert_array_equal(mg.broadcast_to(1.0, 2), [1.0, 1.0])
    np.testing.assert_array_equal(mg.concat([[1.0], Tensor([2.0])]).data, [1.0, 2.0])
    assert isinstance(mg.stack([1.0, 2.0]), np.ndarray)


def test_creation() -> None:
    for ours, theirs in [
        (mg.zeros((2, 3)), np.zeros((2, 3))),
        (mg.ones(2, "float32"), np.ones(2, "float32")),
        (mg.full((2,), 3), np.full(2, 3)),
        (mg.full((2,), 3.0), np.full(2, 3.0)),
        (mg.eye(2, 3, 1), np.eye(2, 3, 1)),
        (mg.arange(3), np.arange(3)),
        (mg.arange(3.0, dtype="float32"), np.arange(3, dtype="float32")),
        (mg.arange(5, 0, -2), np.arange(5, 0, -2)),
        (mg.linspace(0, 1, 5), np.linspace(0, 1, 5)),
        (mg.linspace(0.0, 1.0, 5, "float32"), np.linspace(0, 1, 5, dtype="float32")),
        (mg.zeros_like(Tensor([1, 2])), np.array([0, 0])),
        (mg.ones_like(Tensor([1.0, 2.0]), "float32"), np.ones(2, "float32")),
        (mg.full_like(Tensor([[1.0]]), 7), np.array([[7.0]])),
    ]:
        assert isinstance(ours, Tensor)
        assert not ours.requires_grad
        np.testing.assert_array_equal(ours.data, theirs, strict=True)
    assert mg.zeros(2, requires_grad=True).requires_grad
    assert isinstance(mg.zeros_like(np.ones(2)), np.ndarray)
    x = Tensor([1.0], requires_grad=True)
    assert not mg.ones_like(x).requires_grad
    with pytest.raises(TypeError, match=r"full_like: .*broadcast_to"):
        mg.full_like(x, x)
    with pytest.raises(TypeError, match=r"full: .*broadcast_to"):
        mg.full(2, x)
    with pytest.raises(ValueError, match="arange: expected a step other than 0"):
        mg.arange(1, 2, 0)
    with pytest.raises(TypeError, match="floating-point"):
        mg.arange(3, requires_grad=True)
    with pytest.raises(TypeError, match="float16"):
        mg.zeros(2, "float16")
