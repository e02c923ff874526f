"""Updates in one pass have the bits of the operations' NumPy forwards, whatever the arrays' layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import kernels
from minigrad.core.op import registry
from minigrad.kernels import optimisers as K
from minigrad.optim import SGD, Adam

from .arrays import CPUS, LAYOUTS, guarded, run_elsewhere

DTYPES = ["float32", "float64"]
SHAPES = [(), (1,), (7,), (0,), (16,), (3, 11), (0, 3), (5, 100), (40_000,), (2,)]
STEPS: list[tuple[str, int, list[float], dict[str, Any]]] = [
    ("sgd", 2, [0.1], {"weight_decay": 0.0}),
    ("sgd", 2, [0.1], {"weight_decay": 0.3}),
    ("momentum", 3, [0.1], {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}),
    ("momentum", 3, [0.1], {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3}),
    ("adam", 4, [0.1, 1], {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
    ("adam", 4, [0.1, 1000], {"betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.3}),
]
SETTINGS = {"sgd": STEPS[1], "momentum": STEPS[3], "adam": STEPS[5]}


def arrays(shapes: Sequence[tuple[int, ...]], dtype: str, kinds: int) -> list[np.ndarray]:
    """All parameters, all gradients, all first moments, all second moments, which are positive."""
    rng = np.random.default_rng(0)
    xs = [[np.asarray(rng.standard_normal(shape), dtype) for shape in shapes] for _ in range(kinds)]
    return [np.asarray(abs(x)) if i == 3 else x for i, kind in enumerate(xs) for x in kind]


def compare(name: str, xs: Sequence[np.ndarray], moved: Sequence[np.ndarray] | None = None) -> None:
    """The kernel gives of arrays, perhaps `moved` elsewhere in memory, the bits that the formula gives."""
    for step, _, scalars, params in STEPS:
        if step != name:
            continue
        numbers = [*map(np.array, scalars)]
        with np.errstate(all="ignore"):
            want = registry[name].forward(*numbers, *xs, **params)
        got = getattr(K, name)(*numbers, *(xs if moved is None else moved), **params)
        assert got is not NotImplemented
        for y, z in zip(got, want, strict=True):
            assert (y.dtype, y.shape) == (z.dtype, z.shape)
            np.testing.assert_array_equal(y, z, err_msg=f"{name} {y.shape} {params}")


@pytest.fixture
def threads() -> Iterator[Any]:
    """set_num_threads, undone after the test."""
    before = kernels.num_threads()
    yield kernels.set_num_threads
    kernels.set_num_threads(before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_the_bits_of_numpy(name: str, dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all shapes at once, and of each alone; where some arrays are in order, and where none is."""
    for shapes in (SHAPES, *([shape] for shape in SHAPES)):
        xs = arrays(shapes, dtype, SETTINGS[name][1])
        with guarded(K, monkeypatch):
            compare(name, xs, [LAYOUTS[layout](x) for x in xs])
            compare(name, xs, [LAYOUTS[layout](x) if i % 3 else x for i, x in enumerate(xs)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_that_are_not_ordinary(name: str, dtype: str) -> None:
    """Zeros, infinities, NaN, denormals, and squares that overflow, in all combinations."""
    info = np.finfo(dtype)
    numbers = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, info.smallest_subnormal, -info.max]
    grid = np.meshgrid(*[np.array(numbers, dtype)] * SETTINGS[name][1])
    compare(name, [np.ascontiguousarray(abs(x) if i == 3 else x) for i, x in enumerate(grid)])


@pytest.fixture
def per_chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many numbers a chunk has in the test."""
    monkeypatch.setattr(K, "PER_CHUNK", request.param)
    monkeypatch.setattr(K, "_planned", K._planned.__wrapped__)  # which keeps plans for other chunks
    return request.param


@pytest.mark.parametrize("per_chunk", [1, 16, 37, 1000], indirect=True)
@pytest.mark.parametrize("name", SETTINGS)
def test_chunks_may_begin_and_end_anywhere(name: str, per_chunk: int, threads: Any, monkeypatch: Any) -> None:
    """In the middle of a parameter, or of a vector; a chunk may have many parameters, a parameter many chunks."""
    rng = np.random.default_rng(per_chunk)
    for count in (1, 2, 5, 30):
        sizes = rng.integers(0, [4, 40, 150][count % 3], count)
        threads(1 + count % 3)
        xs = arrays([(int(n),) for n in sizes], "float32", SETTINGS[name][1])
        with guarded(K, monkeypatch):
            compare(name, xs)


@pytest.mark.parametrize("per_chunk", [16], indirect=True)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_chunk_does_its_part_and_no_more(name: str, per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    double, (_, kinds, scalars, params) = np.dtype("float64"), SETTINGS[name]
    kernel = getattr(K, f"_{name}")[double]

    def first_two(arrays: Any, new: Any, *rest: Any) -> None:
        for x in new:
            x.fill(np.nan)
        kernel(arrays, new, *rest[:-1], 2)

    monkeypatch.setattr(K, f"_{name}", {double: first_two})
    new = getattr(K, name)(*map(np.array, scalars), *arrays([(5,), (0,), (40,), (9,)], "float64", kinds), **params)
    for i in range(0, len(new), 4):
        assert np.isfinite(np.concatenate(new[i : i + 4])).tolist() == [True] * 2 * per_chunk + [False] * 22


def test_no_numbers_at_all() -> None:
    for name in SETTINGS:
        compare(name, arrays([(0,), (3, 0)], "float64", SETTINGS[name][1]))


def test_a_thousand_parameters() -> None:
    for name in SETTINGS:
        compare(name, arrays([(n % 5,) for n in range(1000)], "float32", SETTINGS[name][1]))


@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_threads(name: str, threads: Any) -> None:
    _, kinds, scalars, params = SETTINGS[name]
    xs, results = arrays([(200_001,), (3,), (33_000,), (5,)], "float32", kinds), []
    for n in (1, 3):
        threads(n)
        results.append(getattr(K, name)(*map(np.array, scalars), *xs, **params))
    assert all((a == b).all() for a, b in zip(*results, strict=True))


def test_without_decay_a_parameter_that_is_not_finite_does_not_matter() -> None:
    """∞·0 would make its velocity NaN."""
    p, g, v = np.array([np.inf]), np.array([1.0]), np.array([2.0])
    p, v = K.momentum(0.1, p, g, v, momentum=0.5, nesterov=False, weight_decay=0.0)
    assert (p[0], v[0]) == (np.inf, 2.0)


def test_what_kernels_do_not_know() -> None:
    p = np.ones(3, np.float32)
    for other in (np.ones(3), np.ones(4, np.float32), np.ones((3, 1), np.float32), 1.0, np.ones(3, ">f4")):
        for xs in ([p, other], [other, p], [p, p, p, other], [p, other, other, p]):
            assert K.sgd(0.1, *xs, weight_decay=0.0) is NotImplemented
    assert K.sgd(0.1, np.ones(3, int), np.ones(3, int), weight_decay=0.0) is NotImplemented
    assert K.sgd(0.1, p, p, p, weight_decay=0.0) is NotImplemented


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1), lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p, 0.1)])
def test_a_step_is_one_call_of_machine_code(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parameters share a chunk with others."""
    chunks: list[int] = []
    for name in SETTINGS:
        monkeypatch.setattr(K, f"_{name}", {np.dtype("float32"): lambda *args: chunks.append(args[-1])})
    params = [mg.Tensor(np.ones(n, np.float32), requires_grad=True) for n in (3, 40_000, *[10] * 100, 0)]
    for p in params:
        p.grad = mg.Tensor(np.ones(p.shape, np.float32))
    make(params).step()
    assert chunks == [2]


SCRIPT = """
import numpy as np
from minigrad.core.op import registry
from minigrad.kernels import optimisers as K
import minigrad.optim
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    sizes = (1, 3, 4, 5, 0, 8, 9, 100, 40_000)
    xs = [abs(rng.standard_normal(n)).astype(dtype) for _ in range(4) for n in sizes]
    args, params = (np.array(0.1), np.array(3), *xs), dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    for a, b in zip(K.adam(*args, **params), registry["adam"].forward(*args, **params), strict=True):
        np.testing.assert_array_equal(a, b)
    params = dict(momentum=0.9, nesterov=True, weight_decay=0.1)
    args = (np.array(0.1), *xs[: 3 * len(sizes)])
    for a, b in zip(K.momentum(*args, **params), registry["momentum"].forward(*args, **params), strict=True):
        np.testing.assert_array_equal(a, b)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_other_processors(cpu: str, tmp_path: Any) -> None:
    run_elsewhere(cpu, SCRIPT, tmp_path)
