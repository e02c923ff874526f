"""Matrix products against NumPy's in more precision: shapes, strides, dtypes, layers, batches, processors, threads."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from minigrad import kernels
from minigrad.kernels import matmul as plans
from minigrad.kernels.matmul import linear, matmul

# A sum of k products in any order errs by at most k·eps·Σ|a||b|; with random signs by about √k. Partial sums of slabs,
# and vectors of them, keep it at a few eps for all shapes here.
BOUND = 8  # eps · |A||B|
DTYPES = (np.float32, np.float64)
ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def layouts(x, rng):
    """The same matrices with some other strides, among NaN that nobody may read; read-only."""
    kind = rng.integers(8)
    swapped = x.swapaxes(-1, -2)
    if kind == 1:  # transposed
        x = np.ascontiguousarray(swapped).swapaxes(-1, -2)
    elif kind in (2, 3):  # a part of something larger, transposed or not
        large = np.full((*x.shape[:-2], x.shape[-2] + 3, x.shape[-1] + 5), np.nan, x.dtype)
        if kind == 3:
            large = np.full((*x.shape[:-2], x.shape[-1] + 5, x.shape[-2] + 3), np.nan, x.dtype).swapaxes(-1, -2)
        large[..., 1:-2, 2:-3] = x
        x = large[..., 1:-2, 2:-3]
    elif kind == 4:  # neither rows nor columns contiguous
        large = np.full((*x.shape[:-2], 2 * x.shape[-2], 3 * x.shape[-1]), np.nan, x.dtype)
        large[..., ::2, ::3] = x
        x = large[..., ::2, ::3]
    elif kind == 5:  # backwards
        x = np.ascontiguousarray(x[..., ::-1, :])[..., ::-1, :]
    elif kind == 6:
        x = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    elif kind == 7:  # misaligned
        data = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
        data[...] = x
        x = data
    x = x.view()
    x.flags.writeable = False
    return x


def exact(a, b):
    """The product in more precision, and the product of the sizes."""
    wide = np.float64 if a.dtype == np.float32 else np.longdouble
    if a.shape[-1] * a.size > 1e5:  # NumPy takes long for products of longdouble
        wide = np.float64
    a, b = a.astype(wide), b.astype(wide)
    return a @ b, np.abs(a) @ np.abs(b)


def check(y, expected, scale):
    assert y.shape == expected.shape
    error = np.abs(y - expected) / np.where(scale == 0, 1, scale)
    assert error.max(initial=0) <= BOUND * np.finfo(y.dtype).eps


def length(rng):
    return int(rng.choice([0, 1, 2, 3, rng.integers(1, 20), rng.integers(1, 70), rng.integers(60, 150)]))


@pytest.mark.parametrize("seed", range(8))
def test_ragged_shapes_and_any_strides(seed):
    rng = np.random.default_rng(seed)
    for _ in range(300):
        m, k, n = (length(rng) for _ in range(3))
        dtype = DTYPES[rng.integers(2)]
        a = layouts(rng.standard_normal((m, k)).astype(dtype), rng)
        b = layouts(rng.standard_normal((k, n)).astype(dtype), rng)
        y = matmul(a, b)
        assert y.dtype == dtype
        assert y.flags.writeable
        check(y, *exact(a, b))
        np.testing.assert_array_equal(matmul(a, b), y)  # with the plan that was kept


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_of_several_chunks_and_slabs(seed, dtype):
    rng = np.random.default_rng(seed)
    for m, k, n in ((70, 1100, 90), (1, 2000, 300), (300, 520, 2), (530, 260, 100), (65, 70, 800), (200, 129, 400)):
        a = layouts(rng.standard_normal((m, k)).astype(dtype), rng)
        b = layouts(rng.standard_normal((k, n)).astype(dtype), rng)
        check(matmul(a, b), *exact(a, b))


@pytest.fixture
def all_is_far(monkeypatch):
    """Blocks of several panels, as for large matrices."""
    monkeypatch.setattr(plans, "NEAR", 0)
    monkeypatch.setattr(plans, "FAR_SLAB", 64)
    forget_plans()
    yield
    forget_plans()


def forget_plans():
    plans._planned.cache_clear()
    plans._plans[:] = 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_several_panels(dtype, all_is_far):
    rng = np.random.default_rng(0)
    for m, k, n in ((70, 300, 700), (5, 130, 1700), (150, 140, 150), (18, 64, 90), (200, 130, 3), (90, 0, 90)):
        for _ in range(4):
            a = layouts(rng.standard_normal((m, k)).astype(dtype), rng)
            b = layouts(rng.standard_normal((k, n)).astype(dtype), rng)
            bias = rng.standard_normal(n).astype(dtype)
            product, scale = exact(a, b)
            check(matmul(a, b), product, scale)
            check(linear(a, b, bias, "relu"), np.maximum(product + bias, 0), scale + np.abs(bias))
    a, b = rng.standard_normal((60, 30, 40)).astype(dtype), rng.standard_normal((60, 50, 40)).astype(dtype)
    check(matmul(a, b.swapaxes(1, 2)), *exact(a, b.swapaxes(1, 2)))


@pytest.mark.parametrize("shapes", [
    ((3, 5, 4), (3, 4, 6)),
    ((3, 5, 4), (4, 6)),
    ((2, 1, 5, 4), (3, 4, 6)),
    ((5, 4), (2, 3, 4, 6)),
    ((0, 5, 4), (4, 6)),
    ((2, 0, 4), (2, 4, 6)),
    ((2, 5, 0), (0, 6)),
    ((2, 3, 100, 80), (3, 80, 90)),
    ((7, 1, 300), (300, 1)),
    ((2, 1, 70, 600), (2, 600, 70)),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(8))
def test_leading_axes_broadcast(shapes, seed):
    rng = np.random.default_rng(seed)
    a, b = (layouts(rng.standard_normal(s).astype(DTYPES[seed % 2]), rng) for s in shapes)
    check(matmul(a, b), *exact(a, b))
    bias = rng.standard_normal(b.shape[-1]).astype(a.dtype)
    product, scale = exact(a, b)
    check(linear(a, b, bias), product + bias, scale + np.abs(bias))


def test_broadcast_operands_of_stride_0():
    a = np.broadcast_to(np.arange(4.0), (3, 4))
    b = np.broadcast_to(np.arange(4.0)[:, None], (4, 80))
    np.testing.assert_array_equal(matmul(a, b), np.full((3, 80), 14.0))
    a = np.broadcast_to(np.eye(3), (5, 3, 3))
    np.testing.assert_array_equal(matmul(a, b[:3]), np.broadcast_to(b[:3], (5, 3, 80)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layers(activation, dtype):
    rng = np.random.default_rng(0)
    for m, k, n in ((0, 3, 4), (3, 0, 5), (1, 1, 1), (5, 7, 9), (70, 20, 33), (100, 600, 450), (3, 5, 1700)):
        x = layouts(rng.standard_normal((m, k)).astype(dtype), rng)
        w = layouts(rng.standard_normal((k, n)).astype(dtype), rng)
        for bias in (None, rng.standard_normal(n).astype(dtype), rng.standard_normal(2 * n).astype(dtype)[::2]):
            product, scale = exact(x, w)
            total = product if bias is None else product + bias
            y = linear(x, w, bias, activation)
            # The activations' slopes are at most 1; they add a few units in the last place of their results.
            check(y, ACTIVATIONS[activation](total), scale + (0 if bias is None else np.abs(bias)) + 1)


@pytest.mark.parametrize("n", [3, 40, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_in_their_rows_and_columns(n, dtype):
    a, b = np.ones((n, n), dtype), np.ones((n, n), dtype)
    a[1, 2], b[0, n - 1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(matmul(a, b), a @ b)
    y = linear(a, b, b[1], "relu")
    assert np.isnan(y[1]).all()
    assert np.isfinite(np.delete(y, 1, 0)[:, :-1]).all()


def test_nothing_but_the_output_is_written():
    """C is a window of something larger, of any number of rows and columns: what lies around it stays."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        gemm = plans._gemm[np.dtype(dtype)]
        size = np.dtype(dtype).itemsize
        for n in (*range(1, 60), 100, 500):
            m, k = int(rng.integers(1, 30)), int(rng.integers(0, 40))
            a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
            large = np.full((m + 2, n + 7), 7, dtype)
            strides, offset = (k * size, size), (n + 7 + 3) * size
            plan = plans.plan(m, n, k, strides, (n * size, size), size, m, n, (n + 7) * size, (0, 0, offset))
            plan[plans.SLAB] = plans.LINE // size
            gemm(a, b, large, large, large, plan, 1)
            check(large[1:-1, 3:-4].copy(), *exact(a, b))
            large[1:-1, 3:-4] = 7
            assert (large == 7).all()


@pytest.mark.parametrize(("a", "b"), [
    (np.ones((2, 3)), np.ones((3, 2), np.float32)),
    (np.ones((2, 3), int), np.ones((3, 2), int)),
    (np.ones((2, 3), ">f8"), np.ones((3, 2), ">f8")),
    (np.ones(3), np.ones((3, 2))),
    (np.ones((2, 3)), np.ones(3)),
    (np.ones((2, 3)), np.ones((2, 3))),
    (np.ones((2, 2, 3)), np.ones((3, 3, 3))),
    (np.ones((2, 3)), [[1.0]] * 3),
    (1.0, np.ones((3, 2))),
])  # fmt: skip
def test_what_is_not_implemented(a, b):
    matmul(np.ones((2, 2)), np.ones((2, 2)))  # from then on machine code refuses
    assert matmul(a, b) is NotImplemented
    assert linear(a, b) is NotImplemented


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_in_machine_code_alone(dtype):
    rng = np.random.default_rng(0)
    matmul(np.ones((2, 2), dtype), np.ones((2, 2), dtype))
    for _ in range(100):
        m, k, n = (int(x) for x in rng.integers(0, 90, 3))
        activation = (None, None, "relu", "tanh")[rng.integers(4)]
        x = layouts(rng.standard_normal((m, k)).astype(dtype), rng)
        w = layouts(rng.standard_normal((k, n)).astype(dtype), rng)
        bias = rng.standard_normal(n + 3).astype(dtype)[3:]
        product, scale = exact(x, w)
        expected, scale = ACTIVATIONS[activation](product + bias), scale + np.abs(bias)
        small = activation is None and max(m, k, n) <= plans.SMALL
        y = linear(x, w, bias, activation)
        check(y, expected, scale)
        if small or y.size:
            again = plans._product(x, w, bias, activation)
            np.testing.assert_array_equal(again, y)
            assert again.flags.owndata
            if not small and sys.platform == "linux":
                assert again.ctypes.data % plans.LINE == 0
        check(linear(x, w, np.repeat(bias, 2)[::2], activation), expected, scale)
    x = np.ones((3, 3), dtype)
    for bias in (np.ones(2, dtype), np.ones((1, 3), dtype), np.ones(3, int), [1.0] * 3, np.ones(6, dtype)[::2]):
        assert plans._product(x, x, bias, None) is NotImplemented


def test_a_plan_that_was_kept_is_for_its_product_alone():
    """All that it depends on is changed, one after the other: it is not found, and what is done instead is right."""
    x, w, bias = np.ones((70, 80)), np.ones((80, 90)), np.ones(90)
    linear(x, w, bias, "relu")
    assert plans._product(x, w, bias, "relu") is not NotImplemented
    others = [
        (x[:69], w, bias, "relu"),
        (x[:, :79], w[:79], bias, "relu"),
        (x, w[:, :89], bias[:89], "relu"),
        (np.asfortranarray(x), w, bias, "relu"),
        (x, np.asfortranarray(w), bias, "relu"),
        (x.astype(np.float32), w.astype(np.float32), bias.astype(np.float32), "relu"),
        (x, w, bias, "tanh"),
        (x, w, None, None),
    ]
    for a, b, c, activation in others:
        forget_plans()
        linear(x, w, bias, "relu")
        assert plans._product(a, b, c, activation) is NotImplemented
        product = a @ b if c is None else a @ b + c
        np.testing.assert_allclose(linear(a, b, c, activation), ACTIVATIONS[activation](product), rtol=1e-6)
        assert plans._product(a, b, c, activation) is not NotImplemented
    threads = kernels.num_threads()
    kernels.set_num_threads(threads + 1)
    assert plans._product(x, w, bias, "relu") is NotImplemented
    kernels.set_num_threads(threads)
    assert plans._product(x, w, bias, "relu") is not NotImplemented


def test_plans_that_belong_in_the_same_row_take_turns():
    x, w = np.ones((70, 80)), np.ones((80, 90))
    row = plans._row(plans._key(x, w, None))
    wide = (np.ones((70, 80 + more))[:, :80] for more in itertools.count(1))
    other = next(y for y in wide if plans._row(plans._key(y, w, None)) == row)
    for given, absent in ((x, other), (other, x)):
        matmul(given, w)
        assert plans._product(given, w, None, None) is not NotImplemented
        assert plans._product(absent, w, None, None) is NotImplemented


def test_a_plan_may_be_replaced_while_it_is_used():
    rng = np.random.default_rng(0)
    shapes = [(int(m), 70, int(n)) for m, n in rng.integers(65, 300, (4 * len(plans._plans), 2))]
    stop = []

    def work():
        a = np.ones((200, 70))
        while not stop:
            assert (matmul(a, a.T) == 70).all()

    worker = threading.Thread(target=work)
    worker.start()
    for m, k, n in shapes:
        assert plans._planned_product(np.ones((m, k)), np.ones((k, n)), None, None)[-1, -1] == k
    stop.append(True)
    worker.join()
    assert len(plans._kept) <= len(plans._plans)  # old ones are gone


def test_layers_that_are_not_implemented():
    x = np.ones((2, 2))
    assert linear(x, x, np.ones(3)) is NotImplemented
    assert linear(x, x, np.ones(2, np.float32)) is NotImplemented
    assert linear(x, x, [1.0, 2.0]) is NotImplemented
    assert linear(x, x, None, "softmax") is NotImplemented


def test_machine_code_leaves_no_reference_behind():
    x, large = np.ones((2, 2)), np.ones((70, 70))
    bias = np.ones(70)
    matmul(x, x)
    linear(large, large, bias, "tanh")
    plan = next(plan for plan, _ in plans._kept.values() if plan.shape == large.shape)
    watched = (NotImplemented, None, x, large, bias, x.dtype, plan, plan.numbers)
    before = [sys.getrefcount(thing) for thing in watched]
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        assert plans._product(x, 1.0, None, None) is NotImplemented
        plans._product(x, x, None, None)
        plans._product(large, large, bias, "tanh")
    after = [sys.getrefcount(thing) for thing in watched]
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) < 100
    assert sys.getallocatedblocks() - blocks < 100


def test_a_product_that_memory_is_too_small_for():
    """Machine code raises what NumPy does, keeps no reference, and leaves NumPy's way to get memory as it was."""
    x, w = np.broadcast_to(1.0, (10**8, 1)), np.broadcast_to(1.0, (1, 10**8))
    matmul(np.ones((2, 2)), np.ones((2, 2)))
    plan = plans._planned(x.shape, x.strides, w.shape, w.strides, 8, None, kernels.num_threads())
    plans._remember(plans._key(x, w, None), plan, plans._kernel(np.dtype(float)), 8)
    references, name = sys.getrefcount(plan), np._core.multiarray.get_handler_name()
    for _ in range(10):
        with pytest.raises(MemoryError):
            plans._product(x, w, None, None)
    assert sys.getrefcount(plan) == references
    assert np._core.multiarray.get_handler_name() == name


def test_arrays_that_others_make_are_as_ever():
    large = np.ones((70, 70))
    name = np._core.multiarray.get_handler_name()
    for _ in range(3):
        matmul(large, large)
    assert np._core.multiarray.get_handler_name() == name
    assert np._core.multiarray.get_handler_name(large + 1) == name


@pytest.mark.parametrize("far", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype, far, request):
    if far:
        request.getfixturevalue("all_is_far")
    rng = np.random.default_rng(0)
    threads = kernels.num_threads()
    for m, k, n in ((200, 600, 300), (150, 70, 900), (20, 300, 1000)):
        a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
        for x in (a, np.asfortranarray(a)):
            for y in (b, np.asfortranarray(b)):
                results = []
                for count in (1, 2, 3, 8):
                    kernels.set_num_threads(count)
                    results.append(linear(x, y, b[0], "tanh"))
                for other in results[1:]:
                    np.testing.assert_array_equal(results[0], other)
    kernels.set_num_threads(threads)


def test_two_threads_of_python_do_not_share_panels(all_is_far):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 150, 400))  # of which blocks have several panels
    expected = [x @ x.T for x in a]
    wrong = []

    def work(i):
        for _ in range(50):
            if not np.allclose(matmul(a[i], a[i].T), expected[i], rtol=1e-12, atol=1e-10):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def before_a_wall(shape, dtype):
    """An array of ones that ends where memory ends: who reads beyond it crashes. Columns or rows are contiguous."""
    page = mmap.PAGESIZE
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    pages = -(-size // page)
    block = mmap.mmap(-1, (pages + 1) * page)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    data = np.frombuffer(block, np.uint8)
    assert protect(data.ctypes.data + pages * page, page, 0) == 0
    array = data[pages * page - size : pages * page].view(dtype).reshape(shape)
    array[...] = 1
    return array


def read_up_to_a_wall():
    for dtype in DTYPES:
        for m, k, n in ((1, 1, 1), (3, 5, 7), (33, 19, 21), (50, 64, 50), (70, 75, 130), (200, 700, 90)):
            for a in (before_a_wall((m, k), dtype), before_a_wall((k, m), dtype).T):
                for b in (before_a_wall((k, n), dtype), before_a_wall((n, k), dtype).T):
                    assert (matmul(a, b) == k).all()
                    assert (linear(a, b, before_a_wall((n,), dtype)) == k + 1).all()


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect")
def test_nothing_beyond_the_inputs_is_read():
    run_here("t.read_up_to_a_wall()")


def run_here(code, **settings):
    """Run code in a process of its own, where this module is `t`."""
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    environment = os.environ | {"PYTHONPATH": path} | settings
    code = f"import test_matmul as t\n{code}"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


OTHER_PROCESSORS = {
    "haswell": "+64bit,+sse2,+avx,+avx2,+fma",
    "x86-64": "+64bit,+sse2",
}
ON_ANOTHER = """
for seed in range(2):
    t.test_ragged_shapes_and_any_strides(seed)
for dtype in t.DTYPES:
    t.test_shapes_of_several_chunks_and_slabs(1, dtype)
    t.test_layers("tanh", dtype)
t.test_nothing_but_the_output_is_written()
t.read_up_to_a_wall()
"""


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="pretends x86 processors")
@pytest.mark.parametrize("name", OTHER_PROCESSORS)
def test_other_processors(name, tmp_path):
    settings = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": OTHER_PROCESSORS[name]}
    run_here(ON_ANOTHER, MINIGRAD_CACHE_DIR=str(tmp_path), **settings)
