"""The draws have the distributions they claim, and their streams depend on nothing but the state."""

import asyncio
import copy
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import minigrad as mg
from minigrad.random import Generator

N = 20_000
ALPHA = 1e-4  # seeds are fixed: a test that passes once passes always


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uniform_is_uniform(dtype):
    x = mg.random.uniform(N, -2.0, 3.0, dtype=dtype, generator=Generator(1))
    assert x.dtype == dtype
    assert stats.kstest(x.data, stats.uniform(-2, 5).cdf).pvalue > ALPHA
    assert x.data.min() >= -2
    assert x.data.max() < 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_normal_is_normal(dtype):
    x = mg.random.normal((N,), 1.0, 0.5, dtype=dtype, generator=Generator(2))
    assert x.dtype == dtype
    assert stats.kstest(x.data, stats.norm(1, 0.5).cdf).pvalue > ALPHA


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_bernoulli_has_its_probability(p):
    x = mg.random.bernoulli(p, N, generator=Generator(3))
    assert x.dtype == np.bool_
    assert stats.binomtest(int(x.data.sum()), N, p).pvalue > ALPHA


def test_bernoulli_of_an_array_draws_each_entry_with_its_own_probability():
    p = np.linspace(0, 1, 5)
    x = mg.random.bernoulli(mg.Tensor(p), (N, 5), generator=Generator(4)).data
    assert (abs(x.mean(0) - p) <= 4 * np.sqrt(p * (1 - p) / N)).all()
    assert mg.random.bernoulli(p).shape == (5,)


def test_integers_are_uniform_and_exclude_the_upper_end():
    x = mg.random.integers(-2, 3, N, generator=Generator(5)).data
    values, counts = np.unique(x, return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1, 2]
    assert stats.chisquare(counts).pvalue > ALPHA


def test_permutations_are_permutations_and_all_come_up():
    g = Generator(6)
    seen = [tuple(mg.random.permutation(3, generator=g).data) for _ in range(600)]
    orders, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(orders) == 6
    assert stats.chisquare(counts).pvalue > ALPHA
    assert mg.random.permutation(0).shape == (0,)


def test_successive_draws_and_split_streams_are_uncorrelated():
    g = Generator(7)
    a, b = (mg.random.normal(N, generator=g).data for _ in range(2))
    streams = [mg.random.normal(N, generator=s).data for s in g.split(3)]
    table = np.corrcoef([a, b, *streams])
    assert abs(table - np.eye(5)).max() < 4.5 / np.sqrt(N)


@given(st.integers(0, 2**200), st.integers(0, 50))
def test_a_stream_depends_on_seed_and_position_only(seed, skipped):
    a, b = Generator(seed), Generator(seed)
    for _ in range(skipped):
        mg.random.uniform(1, generator=a)
        mg.random.permutation(7, generator=b)  # another kind of draw: each draw has its own stream
    assert (mg.random.normal(4, generator=a).data == mg.random.normal(4, generator=b).data).all()
    assert (a.state.data == b.state.data).all()
    assert a.state.data[1] == skipped + 1


def test_known_stream():
    """The stream is Philox's as NumPy has it: key and counter are the state."""
    g = Generator(8)
    key = g.state.data[0]
    mg.random.uniform(generator=g)
    expected = np.random.Generator(np.random.Philox(key=int(key), counter=[0, 0, 0, 1])).random(5)
    assert (mg.random.uniform(5, generator=g).data == expected).all()


def test_copy_repeats_and_split_does_not():
    g = Generator(9)
    mg.random.uniform(generator=g)
    a, twin = g.copy(), copy.deepcopy([g])[0]
    first = mg.random.uniform(3, generator=a).data
    assert (mg.random.uniform(3, generator=twin).data == first).all()
    assert not (mg.random.uniform(3, generator=g.split(1)[0]).data == first).any()
    states = {tuple(s.state.data.tolist()) for s in [*g.split(5), *g.split(5)]}
    assert len(states) == 10


def test_assigning_the_state_goes_back():
    g = Generator(10)
    before = g.state.data
    a = mg.random.uniform(3, generator=g).data
    g.state.assign(before)
    assert (mg.random.uniform(3, generator=g).data == a).all()


def test_seed_makes_the_context_reproducible():
    mg.random.seed(11)
    a = mg.random.normal(3).data
    mg.random.seed(11)
    assert (mg.random.normal(3).data == a).all()


def test_without_a_seed_contexts_differ():
    assert Generator().state.data[0] != Generator().state.data[0]


def test_use_draws_from_its_generator_within_the_block_only():
    mg.random.seed(12)
    outer = mg.random.current()
    with mg.random.use(Generator(1)) as g:
        assert mg.random.current() is g
        mg.random.uniform()
        with pytest.raises(KeyError), mg.random.use(Generator(2)):
            raise KeyError
        assert mg.random.current() is g
    assert mg.random.current() is outer
    assert outer.state.data[1] == 0


def _in_threads(*functions):
    results = [None] * len(functions)

    def run(i):
        results[i] = functions[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(functions))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def test_each_thread_has_its_own_generator():
    mg.random.seed(13)
    mine = mg.random.current()

    def seeded():
        mg.random.seed(13)
        return mg.random.normal(3).data

    a, b, other = _in_threads(seeded, seeded, mg.random.current)
    assert (a == b).all()
    assert other is not mine
    assert mine.state.data[1] == 0


def test_split_generators_in_threads_give_the_streams_they_give_in_turn():
    def draws(g):
        with mg.random.use(g):
            return [mg.random.uniform(2).data.tolist() for _ in range(20)]

    in_turn = [draws(g) for g in Generator(14).split(3)]
    in_threads = _in_threads(*(lambda g=g: draws(g) for g in Generator(14).split(3)))
    assert in_threads == in_turn


def test_threads_that_share_a_generator_make_no_draw_twice():
    g = Generator(15)
    results = _in_threads(*[lambda: [mg.random.uniform(generator=g).item() for _ in range(200)]] * 4)
    assert len({x for part in results for x in part}) == 800
    assert g.state.data[1] == 800


def test_a_seed_in_one_task_does_not_reach_another():
    async def worker(n):
        mg.random.seed(n)
        await asyncio.sleep(0)
        return mg.random.uniform().item()

    async def both():
        return await asyncio.gather(worker(1), worker(2))

    mg.random.seed(16)
    assert asyncio.run(both()) == [mg.random.uniform(generator=Generator(n)).item() for n in (1, 2)]
    assert mg.random.current().state.data[1] == 0


def test_draws_under_record_are_the_same_and_on_the_tape():
    eager = Generator(17)
    expected = [mg.random.normal(3, generator=eager).data, mg.random.permutation(5, generator=eager).data]
    g = Generator(17)
    with mg.record() as tape:
        a = mg.random.normal(3, generator=g)
        b = mg.random.permutation(5, generator=g)
    assert (a.data == expected[0]).all()
    assert (b.data == expected[1]).all()

    other = Generator(18)
    run = tape.replay({g.state: other.state})
    assert (run(a) == mg.random.normal(3, generator=other).data).all()
    assert (run(b) == mg.random.permutation(5, generator=other).data).all()
    assert (run(g.state) == other.state.data).all()


def test_copy_and_split_under_record_follow_the_state():
    g, other = Generator(19), Generator(20)
    with mg.record() as tape:
        a = mg.random.uniform(2, generator=g.copy())
        b = mg.random.uniform(2, generator=g.split(2)[1])
    run = tape.replay({g.state: other.state})
    assert (run(a) == mg.random.uniform(2, generator=other.copy()).data).all()
    assert (run(b) == mg.random.uniform(2, generator=other.split(2)[1]).data).all()


def test_draws_are_differentiable_in_their_location_and_scale():
    mean = mg.Tensor([1.0, 2.0], "float32", requires_grad=True)
    std = mg.Tensor([0.5, 0.1], "float32", requires_grad=True)
    g = Generator(21)
    noise = mg.random.normal((3, 2), dtype="float32", generator=g.copy()).data
    x = mg.random.normal((3, 2), mean, std, generator=g)
    assert x.dtype == np.float32
    x.sum().backward()
    assert mean.grad.data.tolist() == [3, 3]
    np.testing.assert_allclose(std.grad.data, noise.sum(0), rtol=1e-6)


def test_a_generator_is_a_tree_of_its_state():
    g = Generator(22)
    leaves, rebuild = mg.trees.flatten({"g": g})
    assert leaves[0] is g.state
    again = rebuild([mg.Tensor(np.array([5, 6], np.uint64))])["g"]
    assert again.state.data.tolist() == [5, 6]
    mg.random.uniform(generator=again)


@pytest.mark.parametrize("draw", [mg.random.uniform, mg.random.normal])
def test_shapes(draw):
    assert draw().shape == ()
    assert draw(3).shape == (3,)
    assert draw((0, 2)).shape == (0, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Generator(-1), ValueError, "at least 0, not -1"),
        (lambda: Generator(1.5), TypeError, "whole number or None, not 1.5"),
        (lambda: mg.random.uniform(2, dtype="int64"), TypeError, "float32 or float64, not int64"),
        (lambda: mg.random.normal(2, dtype="float16"), TypeError, "float32 or float64, not float16"),
        (lambda: mg.random.bernoulli(1.5), ValueError, r"\[0, 1\], not 1.5"),
        (lambda: mg.random.bernoulli(np.array([0.5, np.nan])), ValueError, "probabilities"),
        (lambda: mg.random.integers(3, 3), ValueError, "3 and 3"),
        (lambda: mg.random.permutation(-1), ValueError, "at least 0, not -1"),
        (lambda: Generator(1).split(0), ValueError, "at least 1, not 0"),
    ],
)
def test_errors(make, error, message):
    mg.random.seed(0)
    with pytest.raises(error, match=message):
        make()
    assert mg.random.current().state.data[1] == 0  # nothing was drawn
