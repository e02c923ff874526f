"""The walker: every chunk of every phase is done once, and never before what its phase waits for."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad.kernels import native, steps
from minigrad.kernels.threads import num_threads, set_num_threads

DOUBLE = np.dtype(np.float64)
MOST = 12  # chunks of a phase

# A chunk counts which of those that it waits for are done, works for a while, and says that it is done.
TEXT = """
def kernel(done, times, seen, by, before, count, spins, first, chunk, thread):
    n = 0
    for k in range(count):
        n = n + done[before[k]]
    x = n
    for k in range(spins[chunk]):
        x = (x * 5 + k) % 1000003
    put(seen, first + chunk, n + x // 1000003)
    put(times, first + chunk, times[first + chunk] + 1)
    put(by, first + chunk, thread)
    put(done, first + chunk, 1)
"""
KINDS = ["int64*", "int64*", "int64*", "int64*", "int64*", "int", "int64*", "int"]


def chunk_function() -> int:
    """The address of TEXT as machine code."""

    def code() -> bytes:
        from minigrad.kernels.code.translate import object_code

        return object_code("test_steps_chunk", TEXT, KINDS)

    return native.function_address("test_steps_chunk", code)


class Plan:
    """A plan of phases that have so many chunks, wait for such others, and spin for so long in each chunk."""

    def __init__(self, chunks: list[int], waits: list[list[int]], spins: np.ndarray):
        phases = len(chunks)
        self.chunks, self.waits = chunks, waits
        self.done, self.times, self.seen, self.by = (np.zeros(phases * MOST + 1, np.int64) for _ in range(4))
        self.spins = spins
        self.before = [
            np.array([q * MOST + c for q in waiting for c in range(chunks[q])] or [0], np.int64) for waiting in waits
        ]
        flat = [q for waiting in waits for q in waiting]
        self.words = np.zeros(phases * steps.PHASE + len(flat) + 1, np.int64)
        self.words[phases * steps.PHASE :][: len(flat)] = flat
        self.slots = np.zeros((phases, len(KINDS)), np.int64)
        self.counters = np.zeros(max(1, phases) * steps.COUNTERS, np.int64)
        begin = phases * steps.PHASE
        for p in range(phases):
            self.slots[p] = [
                *(x.ctypes.data for x in (self.done, self.times, self.seen, self.by, self.before[p])),
                self.awaited(p), self.spins[p].ctypes.data, p * MOST,
            ]  # fmt: skip
            row = self.words[p * steps.PHASE :]
            row[steps.FUNCTION], row[steps.SLOTS] = chunk_function(), self.slots[p].ctypes.data
            row[steps.CHUNKS], row[steps.WAITING], row[steps.WAITS] = chunks[p], len(waits[p]), begin
            begin += len(waits[p])

    def awaited(self, p: int) -> int:
        """How many chunks have to be done before phase p begins."""
        return sum(self.chunks[q] for q in self.waits[p])

    def run(self, threads: int, *segments: tuple[int, int]) -> None:
        """Run it, and see that every chunk is done once, after all that it waits for."""
        self.done[:] = self.times[:] = self.seen[:] = 0
        self.counters[:] = 0
        self.by[:] = -1
        for first, last in segments:
            if threads == 1:
                steps.alone[DOUBLE](self.words, first, last, 1)
            else:
                steps.walk[DOUBLE](self.words, self.counters, first, last, threads)
        for p, n in enumerate(self.chunks):
            mine = slice(p * MOST, p * MOST + n)
            rest = slice(p * MOST + n, (p + 1) * MOST)
            assert (self.times[mine] == 1).all(), f"phase {p}: chunks were done {self.times[mine]} times"
            assert not self.times[rest].any()
            assert (self.seen[mine] == self.awaited(p)).all(), f"phase {p} began before {self.waits[p]} were over"
            assert (self.by[mine] < threads).all()


@pytest.fixture(autouse=True, scope="module")
def as_before() -> Iterator[None]:
    before = num_threads()
    yield
    set_num_threads(before)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Some phases, which wait for some of those before them, and whose chunks take differently long."""
    phases = draw(st.integers(1, 10))
    chunks = [draw(st.integers(1, MOST)) for _ in range(phases)]
    waits = [sorted(draw(st.sets(st.integers(0, p - 1), max_size=4))) if p else [] for p in range(phases)]
    longest = draw(st.sampled_from((0, 30, 3000)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return Plan(chunks, waits, rng.integers(0, longest + 1, (phases, MOST)) * rng.integers(0, 2, (phases, MOST)))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_random_plans(threads: int) -> None:
    set_num_threads(threads)

    @settings(max_examples=max(5, settings.default.max_examples // 2))  # type: ignore[union-attr]
    @given(plans())
    def run(plan: Plan) -> None:
        for _ in range(20):
            plan.run(threads, (0, len(plan.chunks)))

    run()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_chain_of_many_short_phases(threads: int) -> None:
    """Each waits for the one before: where a wait is lost, it shows."""
    set_num_threads(threads)
    n = 60
    plan = Plan([2] * n, [[p - 1] if p else [] for p in range(n)], np.arange(n * MOST).reshape(n, MOST) % 7 * 40)
    for _ in range(30):
        plan.run(threads, (0, n))


@pytest.mark.parametrize("threads", [2, 3])
def test_one_long_chunk_holds_up_only_those_who_wait_for_it(threads: int) -> None:
    """Phase 0 has a chunk that takes long; phases 1 to 8 wait for none, phase 9 for all."""
    set_num_threads(threads)
    spins = np.zeros((10, MOST), np.int64)
    spins[0, 0] = 100_000
    plan = Plan([1, *[3] * 8, 2], [[]] * 9 + [list(range(9))], spins)
    for _ in range(10):
        plan.run(threads, (0, 10))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_segments_run_one_after_the_other(threads: int) -> None:
    """As where an operation is called from Python in between; phases may wait for those of earlier segments."""
    set_num_threads(threads)
    plan = Plan([3, 5, 1, 4, 2], [[], [0], [0, 1], [1], [0, 3]], np.full((5, MOST), 50, np.int64))
    for _ in range(20):
        plan.run(threads, (0, 2), (2, 3), (3, 5))


def test_helpers_take_part() -> None:
    """With chunks that last, not all are done by one thread, unless a busy machine gives the other no processor."""
    set_num_threads(2)
    plan = Plan([MOST] * 4, [[], [0], [1], [2]], np.full((4, MOST), 300_000, np.int64))
    deadline = time.monotonic() + 30
    plan.run(2, (0, 4))
    while len(set(plan.by[:-1].tolist())) == 1 and time.monotonic() < deadline:
        plan.run(2, (0, 4))
    assert {0, 1} == set(plan.by[:-1].tolist())


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_to_do(threads: int) -> None:
    set_num_threads(threads)
    plan = Plan([2], [[]], np.zeros((1, MOST), np.int64))
    plan.done[:] = 0
    if threads == 1:
        steps.alone[DOUBLE](plan.words, 0, 0, 1)
    else:
        steps.walk[DOUBLE](plan.words, plan.counters, 0, 0, threads)
    assert not plan.done.any()


NOTHING = np.zeros(1, np.int64)


def started(arrays, checks, places=NOTHING, count=0, slots=NOTHING) -> bool:
    """Whether `begin` goes on with these arrays."""
    steps.begin[DOUBLE](arrays, checks, places, count, slots, NOTHING, 0, 1)
    return bool(checks[steps.PASSED])


def test_begin_writes_addresses() -> None:
    """Addresses of arrays, with so many bytes added, go into their slots, and nothing else."""
    a, b = np.arange(5.0), np.arange(3, dtype=np.float32)
    slots = np.full(6, -1, np.int64)
    places = np.array([[0, 0, 1], [1, 8, 4], [0, 16, 0]], np.int64).reshape(-1)
    assert not started((a, b), steps.checks([(1, a, 0)]), places, 3, slots)
    assert slots.tolist() == [-1] * 6
    assert started((a, b), steps.checks([(1, b, 0)]), places, 3, slots)
    assert slots.tolist() == [a.ctypes.data + 16, a.ctypes.data, -1, -1, b.ctypes.data + 8, -1]
    assert started((a, b), steps.checks([]), places, 0, slots)
    assert ctypes.c_double.from_address(int(slots[0])).value == 2.0


def test_begin_does_the_first_phases() -> None:
    plan = Plan([3, 2, 4], [[], [0], [1]], np.zeros((3, MOST), np.int64))
    plan.done[:] = 0
    a = np.arange(3.0)
    for table, done in ((steps.checks([(0, a[:2], 0)]), [0, 0, 0]), (steps.checks([(0, a, 0)]), [3, 2, 0])):
        steps.begin[DOUBLE]((a,), table, NOTHING, 0, NOTHING, plan.words, 2, 1)
        assert [int(np.count_nonzero(row)) for row in plan.done[:-1].reshape(3, MOST)] == done


class Kind(np.ndarray):
    """Another class of arrays."""


X = np.arange(24.0).reshape(4, 6)


@pytest.mark.parametrize(
    "other",
    [
        X[:3], X.reshape(6, 4), X.reshape(24), X.reshape(4, 6, 1), X[0, 0], X.T.copy().T, np.zeros((4, 12))[:, ::2],
        X.astype(np.float32), X.astype(np.int64), X.astype(np.uint64), X.astype(complex),
        X.astype(X.dtype.newbyteorder()), X.view(Kind), np.zeros(200, np.uint8)[1:193].view(np.float64).reshape(4, 6),
    ],
)  # fmt: skip
def test_what_does_not_pass(other: np.ndarray) -> None:
    """Another shape, order, dtype, byte order, class or alignment, at any place."""
    x, y, z = X.copy(), np.ones(3, np.float32), np.ones((), bool)
    for number in range(3):
        wanted: list[tuple[int, np.ndarray, int]] = [(k, x if k == number else (y, z, y)[k], 0) for k in range(3)]
        table = steps.checks(wanted)
        assert started(tuple(array for _, array, _ in wanted), table)
        assert not started(tuple(other if k == number else array for k, array, _ in wanted), table)


def test_what_passes() -> None:
    """Arrays alike, whatever dtype object says what they are made of."""
    table = steps.checks([(0, X, 0)])
    assert started((np.ones((4, 6)),), table)
    again = np.zeros((4, 6), X.dtype.newbyteorder("="))
    assert again.dtype is not X.dtype
    assert started((again,), table)
