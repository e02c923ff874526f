"""The strategies draw what they promise, all of it, and shrink to what a person can read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings, target
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

import minigrad as mg
from minigrad.core.op import Op, registry
from minigrad.testing.strategies import (
    VALUES,
    Sizes,
    arrays,
    axes,
    broadcastable_shapes,
    by_record,
    calls,
    indices,
    part_of,
    shapes,
    some_axes,
    tensors,
)

same = settings(derandomize=True, database=None, max_examples=1000, deadline=None, report_multiple_bugs=False)


def simplest(strategy: Any, condition: Any = lambda x: True) -> Any:
    """What Hypothesis shrinks to."""
    return find(strategy, condition, settings=same)


# Arrays


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("a zero", lambda x: x == 0 and not np.signbit(x)),
        ("a negative zero", lambda x: x == 0 and np.signbit(x)),
        ("tiny", lambda x: 0 < abs(x) < 1e-15),
        ("huge", lambda x: abs(x) > 1e15),
        ("beside a kink at 0", lambda x: 0 < abs(x) <= 1e-7),
        ("beside an integer", lambda x: 0 < abs(x - np.rint(x)) < 1e-6 < abs(x)),
        ("beside a half integer", lambda x: 0 < abs(x - np.floor(x) - 0.5) < 1e-6),
        ("a full mantissa", lambda x: math.frexp(x)[0] * 2**30 % 1 > 0 and 0.1 < abs(x) < 2),
        ("an integer", lambda x: x in (1, -1, 2, -2, 3, -3)),
    ],
)
def test_interesting_numbers(kind, wanted):
    assert wanted(simplest(arrays(()), wanted))


def test_ties_and_mixed_magnitudes():
    assert simplest(arrays((3,)), lambda x: len(set(x.tolist())) == 2).tolist() == [0.0, 0.0, 1.0]
    x = simplest(arrays((2,)), lambda x: 0 < abs(x[0]) < 1e-6 and abs(x[1]) > 1e6)
    assert abs(x[1] / x[0]) > 1e12


@given(arrays(values="moderate"))
def test_moderate_numbers(x):
    assert np.all(np.abs(x) < 8)


@given(st.sampled_from(["interesting", "ordinary", "ties", "extreme"]), st.data())
def test_what_is_drawn_is_finite_and_of_its_shape(values, data):
    x = data.draw(arrays((2, 3), values=values, dtype=st.sampled_from([np.float32, np.float64])))
    assert x.shape == (2, 3)
    assert np.isfinite(x).all()
    assert x.dtype in (np.float32, np.float64)


@given(arrays((8,), values="ordinary"))
def test_ordinary_numbers_are_all_different(x):
    assert len(set(x.tolist())) == 8


@given(
    st.sampled_from([(0.0, np.inf), (-np.inf, 1.0), (-1.0, 1.0), (1e6, 1e6 + 1)]),
    st.sampled_from(list(VALUES)),
    st.data(),
)
def test_domains_are_open(domain, values, data):
    x = data.draw(arrays((4,), domain=domain, values=values))
    low, high = domain
    assert np.all(~np.isfinite(x) | ((low < x) & (x < high)))


def test_shapes_of_arrays():
    assert simplest(arrays()).shape == ()
    assert simplest(arrays(3)).shape == (3,)
    assert simplest(arrays(st.just((1, 2)))).shape == (1, 2)


def test_unknown_values_are_refused():
    with pytest.raises(ValueError, match="expected one of interesting"):
        simplest(arrays((1,), values="lots"))


def test_tensors():
    x = simplest(tensors((2,), np.float32, requires_grad=True), lambda x: float(x.data.min()) > 0)
    assert (type(x), x.dtype, x.requires_grad, x.data.tolist()) == (mg.Tensor, np.float32, True, [1.0, 1.0])


# How they shrink


def test_arrays_shrink_to_zeros_and_ones():
    assert simplest(arrays((2, 2)), lambda x: x[1, 0] != 0).tolist() == [[0, 0], [1, 0]]
    assert simplest(arrays(), lambda x: np.any(x != 0)).tolist() == 1
    assert -4 < simplest(arrays(), lambda x: np.any(x < 0)).tolist() < 0
    x = simplest(arrays((3,)), lambda x: np.any(x > 2))
    assert np.count_nonzero(x) == 1
    assert x.max() <= 4


def test_shapes_shrink_to_few_and_short_axes():
    assert simplest(shapes(), lambda shape: len(shape) == 2) == (1, 1)
    assert simplest(broadcastable_shapes(2), lambda s: s[0] != s[1]) == [(1,), ()]
    assert simplest(broadcastable_shapes("(m,k),(k,n)->(m,n)")) == [(1, 1), (1, 1)]


def test_calls_shrink_to_zeros_and_ones():
    """Where the slope of |x| must be 1, and not -1: the simplest such number is 1."""
    call = simplest(calls(registry["abs"]), lambda call: np.any(call.arrays[0] > 0))
    assert repr(call) == "abs(array(1.))"


def nearest(climbs: bool) -> float:
    """How near the size of 300 numbers comes to 10⁻¹³·³⁷⁷, if Hypothesis is told so, or not; as an exponent of ten.

    Constants in the package's sources, from which Hypothesis draws too, are unlikely to be as near.
    """
    best = math.inf

    @settings(same, max_examples=300, phases=[Phase.generate, Phase.target])
    @given(arrays(()))
    def test(x):
        nonlocal best
        distance = abs(math.log10(abs(float(x)) + 1e-50) + 13.377)
        if climbs:
            target(-distance)
        best = min(best, distance)

    test()
    return best


def test_target_climbs():
    assert nearest(True) < nearest(False) / 2


# Shapes


@given(st.sampled_from([Sizes(), Sizes(shortest=2, longest=5), Sizes(axes=2), Sizes(most=1)]), st.data())
def test_sizes_are_kept(sizes, data):
    shape = data.draw(shapes(sizes))
    assert sizes.axes <= len(shape) <= sizes.most
    assert all(sizes.shortest <= n <= sizes.longest for n in shape)


@given(st.data())
def test_empty_scalar_and_line(data):
    assert 0 in data.draw(shapes(Sizes(empty=True)))
    assert data.draw(shapes(Sizes(scalar=True))) == ()
    assert data.draw(shapes(Sizes(scalar=True), 2)) != ()
    assert data.draw(shapes(Sizes(line=40))) == (40,)
    assert len(set(data.draw(broadcastable_shapes(3, Sizes(alike=True))))) == 1


@given(st.integers(1, 4), st.data())
def test_shapes_broadcast(count, data):
    drawn = data.draw(broadcastable_shapes(count))
    assert len(drawn) == count
    assert np.broadcast_shapes(*drawn) in drawn


@given(broadcastable_shapes("(m,k),(k,n)->(m,n)"))
def test_shapes_follow_the_signature(drawn):
    a, b = drawn
    assert np.matmul(np.zeros(a), np.zeros(b)).shape[-2:] == (a[-2], b[-1])


def test_shapes_of_a_signature_have_leading_axes_that_broadcast():
    a, b = simplest(broadcastable_shapes("(m,k), (k) -> (m)"), lambda s: len(s[0]) == 2 and len(s[1]) == 2)
    assert (a, b) == ((1, 1), (1, 1))


@pytest.mark.parametrize("signature", ["m,k", "(m,k", "->(m)"])
def test_signatures_that_are_none(signature):
    with pytest.raises(ValueError, match="expected something like"):
        simplest(broadcastable_shapes(signature))


@given(shapes(), st.data())
def test_a_part_broadcasts_to_the_whole(shape, data):
    assert np.broadcast_shapes(shape, data.draw(part_of(shape))) == shape


# Axes and indices


@given(shapes(), st.data())
def test_axes_are_valid(shape, data):
    np.sum(np.zeros(shape), axis=data.draw(axes(shape)))
    assert all(0 <= i < len(shape) for i in data.draw(some_axes(shape)))


@pytest.mark.parametrize("wanted", [lambda a: a is None, lambda a: a == -1, lambda a: a == (-1, 0), lambda a: a == ()])
def test_axes_of_every_kind(wanted):
    assert wanted(simplest(axes((2, 3)), wanted))


@given(shapes(Sizes(shortest=0)), st.data())
def test_indices_are_valid(shape, data):
    np.zeros(shape)[data.draw(indices(shape))]


@pytest.mark.parametrize(
    "wanted",
    [
        lambda i: isinstance(i, np.ndarray) and i.dtype == bool,
        lambda i: isinstance(i, np.ndarray) and i.ndim == 2 and i.dtype != bool,
        lambda i: isinstance(i, np.ndarray) and i.size > 1 and len(set(i.reshape(-1).tolist())) < i.size,
        lambda i: isinstance(i, tuple) and any(j is None for j in i),
        lambda i: isinstance(i, tuple) and any(isinstance(j, np.ndarray) for j in i),
        lambda i: isinstance(i, slice) or (isinstance(i, tuple) and any(isinstance(j, slice) for j in i)),
        lambda i: isinstance(i, int) or (isinstance(i, tuple) and any(isinstance(j, int) and j < 0 for j in i)),
    ],
    ids=["mask", "array", "twice the same", "newaxis", "mixed", "slice", "from the end"],
)
def test_indices_of_every_kind(wanted):
    simplest(indices((3, 2)), wanted)


@given(indices((3,), basic=False))
def test_indices_with_an_array(index):
    assert any(isinstance(i, np.ndarray) for i in (index if isinstance(index, tuple) else (index,)))


# Calls


def scaled() -> Op:
    return Op("scaled", lambda x, *, factor=0.5, step: x[..., ::step] * factor, vjp={"x": lambda g: g})


@given(st.data())
def test_parameters_by_name(data):
    op = Op("summed", lambda x, *, axis, keepdims: np.sum(x, axis, keepdims=keepdims), vjp={"x": lambda g: g})
    call = data.draw(calls(op))
    op(*call.arrays, **call.params)
    assert set(call.params) == {"axis", "keepdims"}


def test_a_parameter_of_which_nothing_is_known():
    with pytest.raises(LookupError, match=r"scaled: .* 'step' is drawn: pass calls=by_record\(scaled, step=...\)"):
        simplest(calls(scaled()))
    op = scaled()
    call = simplest(calls(op, plan=by_record(op, step=st.integers(1, 3))), lambda call: call.params["step"] == 3)
    assert repr(call) == "scaled(array(0.), factor=0.5, step=3)"


def test_a_plan_of_ones_own():
    """A strategy of (inputs, parameters): shapes, or arrays as they must be, of which only the dtype is changed."""
    op = Op("solved", lambda a, b: b, vjp={"b": lambda g: g})
    plan = st.just(([np.eye(2), (2,)], {}))
    call = simplest(calls(op, plan=plan, dtype=np.float32))
    assert [x.dtype for x in call.arrays] == [np.float32, np.float32]
    np.testing.assert_array_equal(call.arrays[0], np.eye(2))
    call = simplest(calls(op, plan=lambda sizes: st.just(([(2, 2), (sizes.longest,)], {}))))
    assert call.arrays[1].shape == (3,)


@given(st.data())
def test_domains_of_the_record(data):
    op = Op("root", np.sqrt, vjp={"x": lambda g, y: g / y}, kind="elementwise", domain={"x": (0.0, np.inf)})
    assert np.all(data.draw(calls(op)).arrays[0] > 0)


@given(st.data())
def test_mixed_dtypes(data):
    op = Op("plus", np.add, vjp={"a": lambda g: g, "b": lambda g: g}, kind="elementwise")
    call = data.draw(calls(op, mixed=True))
    assert len({x.dtype for x in call.arrays}) == 2
    assert call.spots


def test_starred_inputs_come_several_times():
    op = Op("joined", lambda *xs: np.stack(xs), vjp={"xs": lambda g: list(g)}, kind="linear")
    assert len(simplest(calls(op), lambda call: len(call.arrays) > 2).arrays) == 3


def test_conditions_are_booleans():
    assert simplest(calls(registry["where"])).arrays[0].dtype == bool


def test_nothing_to_draw():
    with pytest.raises(NoSuchExample):
        simplest(arrays((1,), values="ties"), lambda x: x[0] > 2)
