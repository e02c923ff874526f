"""Minibatches: every row once an epoch, rows stay together, orders follow the seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.data import minibatches


@given(st.integers(0, 30), st.integers(1, 12), st.booleans(), st.booleans())
def test_every_row_comes_once_with_its_partner(n, batch_size, shuffle, drop_last):
    x = np.arange(n * 2, dtype=np.float32).reshape(n, 2)
    y = np.arange(n)
    batches = minibatches(x, y, batch_size=batch_size, seed=0, shuffle=shuffle, drop_last=drop_last)
    got = list(batches)
    assert len(got) == len(batches) == (n // batch_size if drop_last else -(-n // batch_size))
    sizes = [len(yb) for _, yb in got]
    assert all(size == batch_size for size in sizes[: None if drop_last else -1])
    rows = [int(i) for _, yb in got for i in yb.data]
    assert len(set(rows)) == len(rows)
    if not drop_last:
        assert sorted(rows) == list(range(n))
    if not shuffle:
        assert rows == list(range(len(rows)))
    for xb, yb in got:
        assert isinstance(xb, mg.Tensor)
        assert xb.dtype == np.float32
        assert (xb.data == x[yb.data]).all()


def _order(batches):
    return [int(i) for batch in batches for i in batch.data]


def test_orders_are_reproducible_and_new_each_epoch():
    x = np.arange(50)
    a, b = (minibatches(x, batch_size=8, seed=3) for _ in range(2))
    first, second = _order(a), _order(a)
    assert first != second
    assert [_order(b), _order(b)] == [first, second]
    assert _order(minibatches(x, batch_size=8, seed=4)) != first


def test_the_generator_may_be_given_or_the_one_of_the_context():
    x = np.arange(50)
    expected = _order(minibatches(x, batch_size=8, generator=mg.random.Generator(5)))
    mg.random.seed(5)
    assert _order(minibatches(x, batch_size=8)) == expected


def test_tensors_and_lists_are_taken_and_one_array_gives_no_tuple():
    (batch,) = minibatches(mg.Tensor([1.0, 2.0]), batch_size=2, shuffle=False)
    assert batch.data.tolist() == [1, 2]
    (pair,) = minibatches([1, 2], [[3], [4]], batch_size=5, shuffle=False)
    assert [t.data.tolist() for t in pair] == [[1, 2], [[3], [4]]]


def test_batches_don_t_change_with_the_array():
    x = np.zeros(4)
    (batch,) = minibatches(x, batch_size=4, shuffle=False)
    x[:] = 1
    assert not batch.data.any()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: minibatches(batch_size=2), ValueError, "at least one array"),
        (lambda: minibatches(np.float64(1), batch_size=2), ValueError, "one sample a row"),
        (lambda: minibatches(np.ones(3), np.ones(4), batch_size=2), ValueError, "different lengths: 3, 4"),
        (lambda: minibatches(np.ones(3), batch_size=0), ValueError, "at least 1, not 0"),
        (
            lambda: minibatches(np.ones(3), batch_size=1, seed=1, generator=mg.random.Generator(1)),
            ValueError,
            "not both",
        ),
        (lambda: minibatches(np.array(["a"]), batch_size=1), TypeError, "computes with"),
    ],
)
def test_errors(make, error, message):
    with pytest.raises(error, match=message):
        make()
