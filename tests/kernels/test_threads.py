"""The pool: every chunk is done once, by whomever; nothing hangs in threads, after fork, or at exit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from minigrad import kernels
from minigrad.kernels import control as words
from minigrad.kernels import native
from minigrad.kernels.code import pool
from minigrad.kernels.control import control

PATIENCE = 10_000_000_000  # looks for the other chunk: some seconds


def count_chunks(counts, work, chunk):
    """Add 1 to the count of this chunk, after some work."""
    x = 0
    for i in range(work):
        x += i * counts[chunk]
    counts[chunk] += 1 + x * 0


def meet_others(seen, chunk):
    """Say that this chunk, 0 or 1, is being done, wait for the other one, and write whether it came meanwhile."""
    pool.write(seen, chunk, 1)
    looks = 0
    while pool.read(seen, 1 - chunk) == 0 and looks < PATIENCE:
        looks += 1
    seen[2 + chunk] = pool.read(seen, 1 - chunk)


def compiled(function, parameters: str):
    return native._callable(
        function.__name__, native.object_code(function.__name__, native.Source(function, parameters), "float64")
    )


@pytest.fixture(scope="module")
def count():
    """count(counts, work, chunks) as machine code."""
    return compiled(count_chunks, "int64* int")


@pytest.fixture(scope="module")
def meet():
    """meet(seen, 2) as machine code."""
    return compiled(meet_others, "int64*")


@pytest.fixture(autouse=True)
def as_before():
    before = kernels.num_threads()
    yield
    kernels.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("chunks", [0, 1, 2, 7, 1000])
def test_every_chunk_is_done_once(count, n: int, chunks: int) -> None:
    kernels.set_num_threads(n)
    counts = np.zeros(max(chunks, 1), np.int64)
    for _ in range(20):
        count(counts, 100, chunks)
    assert counts[:chunks].tolist() == [20] * chunks


def test_helpers_start_with_the_first_job_of_several_chunks(count) -> None:
    kernels.set_num_threads(3)
    counts = np.zeros(8, np.int64)
    count(counts, 10, 1)
    assert control[words.HELPERS] == 0
    count(counts, 10, 2)
    assert control[words.HELPERS] == 2
    kernels.set_num_threads(1)
    assert control[words.HELPERS] == 0
    assert [t.name for t in threading.enumerate() if t.name.startswith("minigrad")] == []


def test_helpers_take_part(meet) -> None:
    """A helper that sleeps is woken, and is at a chunk while the caller is at another: else neither sees the other."""
    kernels.set_num_threads(2)
    meet(np.zeros(4, np.int64), 2)
    place = words.FIRST_HELPER
    deadline = time.monotonic() + 30
    while control[place + words.ASLEEP] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert control[place + words.ASLEEP] == 1  # there is nothing to do
    seen = np.zeros(4, np.int64)
    meet(seen, 2)
    assert seen.tolist() == [1, 1, 1, 1]


def test_several_threads_of_python_at_once(count) -> None:
    kernels.set_num_threads(3)
    results = [np.zeros(50, np.int64) for _ in range(6)]

    def work(counts: np.ndarray) -> None:
        for _ in range(300):
            count(counts, 20, 50)

    threads = [threading.Thread(target=work, args=(counts,)) for counts in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array(results).tolist() == [[300] * 50] * 6


def test_the_number_changes_while_others_work(count) -> None:
    counts = np.zeros(50, np.int64)

    def work() -> None:
        for _ in range(500):
            count(counts, 20, 50)

    thread = threading.Thread(target=work)
    thread.start()
    for n in (1, 4, 2, 3, 1, 2) * 3:
        kernels.set_num_threads(n)
    thread.join()
    assert counts.tolist() == [500] * 50


@pytest.mark.parametrize("n", [0, -1, 257])
def test_a_wrong_number(n: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 256 threads, got {n}"):
        kernels.set_num_threads(n)


def test_no_number() -> None:
    with pytest.raises(AttributeError):
        kernels.set_num_threads("two")  # type: ignore[arg-type]


def test_a_wrong_argument_is_an_error(count) -> None:
    with pytest.raises(TypeError):
        count(np.zeros(1, np.int64), "1", 1)


PREAMBLE = """
import os, sys, threading, warnings
import numpy as np
from minigrad import kernels
from minigrad.kernels import elementwise
from minigrad.kernels.control import HELPERS, control
kernels.set_num_threads(3)
x = np.linspace(-3, 3, 1_000_000)
y = elementwise.tanh(x)
assert control[HELPERS] == 2
"""


def run(script: str, **environment: str) -> str:
    env = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    script = """
warnings.simplefilter("ignore")  # Python warns of any fork with threads
busy = threading.Thread(target=lambda: [elementwise.tanh(x) for _ in range(50)])
busy.start()
for _ in range(5):
    child = os.fork()
    if child == 0:
        assert control[HELPERS] == 0
        same = np.array_equal(elementwise.tanh(x), y)
        os._exit(0 if same and control[HELPERS] == 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
busy.join()
print(np.array_equal(elementwise.tanh(x), y))
"""
    assert run(script) == "True"


def test_the_process_ends_while_helpers_look_for_work() -> None:
    assert run("print('end')") == "end"


def test_the_process_ends_while_another_thread_computes() -> None:
    script = """
def forever():
    while True:
        elementwise.tanh(x)
threading.Thread(target=forever, daemon=True).start()
print('end')
"""
    assert run(script) == "end"


def test_the_environment_says_how_many() -> None:
    script = "from minigrad.kernels.threads import _usable; print(_usable())"
    assert run(script, MINIGRAD_NUM_THREADS="5", OMP_NUM_THREADS="2") == "5"
    assert run(script, MINIGRAD_NUM_THREADS="", OMP_NUM_THREADS="7") == "7"
    assert int(run(script, MINIGRAD_NUM_THREADS="none", OMP_NUM_THREADS="0")) >= 1
