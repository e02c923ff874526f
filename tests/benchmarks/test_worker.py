"""What a worker makes of its commands, and the loops that measure the machine."""

import ctypes

import numpy as np
import pytest
from numba import cfunc, types

from benchmarks import peak
from benchmarks.worker import PAGE, SAMPLE, Worker, array, calibrated, placed, some_numbers


def test_arrays():
    rng = np.random.default_rng(0)
    assert array("transposed", [2, 3], "float32", rng).shape == (3, 2)
    assert array("transposed", [2, 3], "float32", rng).flags.f_contiguous
    labels = array("labels", [1000, 4], "float32", rng)
    assert (labels.shape, labels.dtype, set(labels)) == ((1000,), np.int64, {0, 1, 2, 3})
    assert array("positive", [1000], "float64", rng).min() > 0
    assert np.ptp(array("uniform", [1000], "float64", rng)) < 1
    assert array("weights", [400, 5], "float32", rng).std() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("kind", ["normal", "transposed", "labels"])
@pytest.mark.parametrize("align", [16, 64])
def test_placed(kind, align):
    rng = np.random.default_rng(0)
    x = array(kind, [5, 7], "float32", rng)
    copies = [placed(x, align, rng) for _ in range(20)]
    for copy in copies:
        np.testing.assert_array_equal(copy, x)
        assert copy.strides == x.strides
        assert copy.ctypes.data % align == 0
    assert len({copy.ctypes.data % PAGE for copy in copies}) > 10


def test_numbers_of_a_result():
    assert some_numbers((2.5, np.arange(1000.0))) == [[2.5], [*range(0, 1000, 10)]]
    assert some_numbers(np.ones((2, 3)).T) == [[1.0] * 6]
    assert some_numbers(np.empty(0)) == [[]]
    assert max(map(len, some_numbers(np.ones(1199)))) <= 100


@pytest.mark.parametrize("seconds", [1e-8, 1e-5, 1.0])
def test_calibration(seconds):
    taken = []

    def timeit(calls):
        taken.append(calls * seconds)
        return taken[-1]

    assert calibrated(timeit) == pytest.approx(seconds)
    assert taken[-1] >= SAMPLE
    assert sum(taken[:-1]) < SAMPLE + taken[-1]


def test_a_task():
    worker = Worker()
    task = {"library": "NumPy", "dtype": "float32", "arrays": {"x": ["normal", [9]]}, "differentiated": []}
    answer = worker.answer(task | {"statement": "(x, x.dtype == dtype, exp(x))"})
    (x, same, y), seconds = answer["numbers"], answer["seconds"]
    assert same == [True]
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-6)
    assert seconds > 0
    assert worker.answer({"library": "NumPy", "calls": 2, "samples": 3}) > 0


@pytest.mark.parametrize(
    ("statement", "failure"),
    [
        ("absent(x)", "has no absent"),
        ("exp(x, out=3)", "TypeError: return arrays must be of ArrayType"),
        ("NotImplemented", "NotImplemented"),
        ("(_ for _ in ()).throw(ValueError('several\\nlines'))", "ValueError: several"),
        ("(_ for _ in ()).throw(ValueError(99 * 'x'))", "ValueError: " + 68 * "x"),
    ],
)
def test_what_fails(statement, failure):
    task = {"library": "NumPy", "dtype": "float32", "arrays": {"x": ["normal", [9]]}, "differentiated": []}
    assert Worker().answer(task | {"statement": statement}) == {"failure": failure}


def run(loop, *args):
    """Compile a loop for float64, and call it."""
    pointer = types.CPointer(types.float64)
    code = cfunc(types.void(pointer, pointer, types.int64, types.int64))(loop)
    arrays = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in args]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(code.address)(*arrays)


def test_every_multiply_add_is_done():
    size = peak.SUMS * peak.lanes("float64")
    x, y = np.full(size, 0.5), np.zeros(size)
    run(peak.LOOPS["multiply_adds"], x, y, size, 10)
    np.testing.assert_array_equal(y, 1 - 0.5**11)  # s ← s/2 + 1/2, ten times


def test_everything_is_copied():
    x = np.arange(64.0)
    y = np.zeros(64)
    run(peak.LOOPS["copies"], x, y, 64, 2)
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("name", ["multiply_adds", "copies"])
def test_limits(name, monkeypatch):
    monkeypatch.setattr(peak, "TIMES", {"multiply_adds": 3, "copies": 2})
    threads, lanes = peak.num_threads(), peak.lanes("float64")
    size = {"multiply_adds": peak.SUMS * lanes, "copies": 100_000 // threads // lanes * lanes}[name]
    expected = {"multiply_adds": 2 * 3 * size * threads, "copies": 2 * 8 * 2 * size * threads}[name]
    assert getattr(peak, name)("float64") == expected
