"""Homes: where they lie, and that a tensor moves away from an array that somebody else holds."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.compiler.homes import Memory, States, home, is_home
from minigrad.kernels import steps


def settled(*tensors):
    """A function that settles the tensors; it was called once."""
    states = States(len(tensors), [(t.shape, t.dtype) for t in tensors])
    states.arrays(tensors)
    return lambda: states.arrays(tensors)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint64", "bool"])
def test_a_home(shape, dtype):
    array = np.ones(shape[::-1], dtype).T
    y = home(array)
    assert y.tolist() == array.tolist()
    assert (y.shape, y.dtype) == (array.shape, array.dtype)
    assert y.ctypes.data % 64 == 0 or y.size == 0
    assert y.flags.c_contiguous
    assert not y.flags.writeable
    assert type(y.base) is Memory
    assert y.base.flags.writeable
    assert is_home(y)


def test_what_is_no_home():
    y = home(np.ones((4, 4)))
    assert not is_home(y.T)
    assert not is_home(y[:2])
    assert not is_home(np.ones(3))
    assert not is_home(np.ones((2, 2))[0])


def test_homes_of_one_size_begin_at_different_places_of_a_page():
    homes = [home(np.ones(1024)) for _ in range(30)]
    assert len({h.ctypes.data % 4096 for h in homes}) == 30


def test_who_holds_an_array_keeps_its_value():
    p = mg.Tensor([1.0, 2.0], requires_grad=True)
    settle = settled(p)
    held = [
        lambda: p.data,
        lambda: p.array,
        lambda: p.detach(),
        lambda: p * p,
        lambda: p.array[:1],
        lambda: p.reshape(2, 1),
    ]
    for hold in held:
        before, node = id(p.array), p.node
        holder = hold()
        settle()
        assert id(p.array) != before
        assert node.stale
        assert p.requires_grad
        assert is_home(p.array)
        del holder
        before, node = id(p.array), p.node
        settle()
        assert id(p.array) == before
        assert not node.stale


def test_two_tensors_on_one_array_part():
    p = mg.Tensor([1.0])
    q = p.detach()
    settle = settled(p, q)
    assert not np.shares_memory(p.array, q.array)
    arrays = settle()
    assert arrays[0] is p.array
    assert arrays[1] is q.array


def test_a_part_of_a_home_is_none():
    p = mg.Tensor(np.ones((2, 2)))
    settled(p)
    q = p.T
    del p
    settled(q)
    assert is_home(q.array)
    assert q.array.flags.c_contiguous


def pass_as_they_are(checks, tensors):
    """Whether a program would take the arrays of the tensors, in the way in which a compiled function gives them."""
    states = [t.array for t in tensors]
    steps.begin[np.dtype(np.float64)]((*states,), checks, NOTHING, 0, NOTHING, NOTHING, 0, 1)
    return bool(checks[steps.PASSED])


NOTHING = np.zeros(1, np.int64)


def test_the_usual_case_is_told_without_a_change():
    p, x = mg.Tensor([1.0, 2.0]), mg.Tensor(3.0)
    states = States(1, [(t.shape, t.dtype) for t in (p, x)])
    arrays = states.arrays([p, x])
    assert all(a is t.array for a, t in zip(arrays, (p, x), strict=True))
    checks = steps.checks((k, a, n) for k, (a, n) in enumerate(zip(arrays, states.holders, strict=True)))
    assert not pass_as_they_are(checks, [p, x])  # `arrays` holds one
    del arrays
    assert pass_as_they_are(checks, [p, x])
    for hold in (lambda: p.data, lambda: p.array, lambda: p.array[:1], lambda: p.array.base):
        holder = hold()
        assert not pass_as_they_are(checks, [p, x])
        del holder
        assert pass_as_they_are(checks, [p, x])
    x.assign(4.0)  # another array, but as a program takes it
    assert pass_as_they_are(checks, [p, x])
    p.assign([5.0, 6.0])  # it has no home
    assert not pass_as_they_are(checks, [p, x])


def test_what_is_read_is_converted_or_refused():
    x = mg.Tensor(np.arange(6.0).reshape(2, 3)).T
    states = States(0, [(x.shape, x.dtype)])
    (array,) = states.arrays([x])
    assert array.flags.c_contiguous
    assert array.tolist() == x.tolist()
    for updated in (0, 1):
        with pytest.raises(RuntimeError, match=r"a tensor was float64 \(3, 2\) .* and is float64 \(1,\) now"):
            States(updated, [(x.shape, x.dtype)]).arrays([mg.Tensor([1.0])])
