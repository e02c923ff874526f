"""Updates in one pass have the bits of the operations' NumPy forwards, whatever the arrays' layout."""

from __future__ import annotations

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
SHAPES = [(), (1,), (7,), (16,), (3, 11), (0, 3), (5, 100), (40_000,)]
STEPS: list[tuple[str, int, list[float], dict[str, Any]]] = [
    ("sgd", 2, [0.1], {"weight_decay": 0.0}),
    ("sgd", 2, [0.1], {"weight_decay": 0.3}),
    ("momentum", 3, [0.1], {"momentum": 0.9, "nesterov": False, "weight_decay": 0.0}),
    ("momentum", 3, [0.1], {"momentum": 0.9, "nesterov": True, "weight_decay": 0.3}),
    ("adam", 4, [0.1, 1], {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}),
    ("adam", 4, [0.1, 1000], {"betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.3}),
]


def arrays(shape: tuple[int, ...], dtype: str, count: int) -> list[np.ndarray]:
    """Parameter, gradient, first moment, second moment, which is positive."""
    rng = np.random.default_rng(0)
    xs = [np.asarray(rng.standard_normal(shape), dtype) for _ in range(count)]
    return [np.asarray(abs(x)) if i == 3 else x for i, x in enumerate(xs)]


def parts(y: Any) -> tuple[np.ndarray, ...]:
    return y if isinstance(y, tuple) else (y,)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bits_of_numpy(layout: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, count, scalars, params in STEPS:
        for shape in SHAPES:
            xs, numbers = arrays(shape, dtype, count), [np.array(x) for x in scalars]
            with guarded(K, monkeypatch):
                got = parts(getattr(K, name)(*(LAYOUTS[layout](x) for x in xs), *numbers, **params))
            want = parts(registry[name].forward(*xs, *numbers, **params))
            for y, z in zip(got, want, strict=True):
                assert (y.dtype, y.shape) == (z.dtype, z.shape)
                np.testing.assert_array_equal(y, z, err_msg=f"{name} {shape} {params}")


def test_any_number_of_threads() -> None:
    before = kernels.num_threads()
    xs = arrays((200_001,), "float32", 4)
    results = []
    for threads in (1, 3):
        kernels.set_num_threads(threads)
        results.append(K.adam(*xs, 0.1, 3, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1))
    kernels.set_num_threads(before)
    assert all((a == b).all() for a, b in zip(*results, strict=True))


def test_without_decay_a_parameter_that_is_not_finite_does_not_matter() -> None:
    """∞·0 would make its velocity NaN."""
    p, g, v = np.array([np.inf]), np.array([1.0]), np.array([2.0])
    p, v = K.momentum(p, g, v, 0.1, momentum=0.5, nesterov=False, weight_decay=0.0)
    assert (p[0], v[0]) == (np.inf, 2.0)


def test_what_kernels_do_not_know() -> None:
    p = np.ones(3, np.float32)
    for g in (np.ones(3), np.ones(4, np.float32), np.ones((3, 1), np.float32), 1.0, np.ones(3, ">f4")):
        assert K.sgd(p, g, 0.1, weight_decay=0.0) is NotImplemented
    assert K.sgd(np.ones(3, int), np.ones(3, int), 0.1, weight_decay=0.0) is NotImplemented


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.1), lambda p: SGD(p, 0.1, 0.9), lambda p: Adam(p, 0.1)])
def test_a_step_is_one_operation_for_each_parameter_and_the_same_recorded(make: Any) -> None:
    def trained(record: bool) -> tuple[list[bytes], list[str]]:
        params = [mg.Tensor(np.ones(n), requires_grad=True) for n in (3, 5)]
        optimizer = make(params)
        for p in params:
            p.grad = mg.Tensor(np.linspace(0, 1, p.size))
        names: list[str] = []
        if record:
            with mg.record() as tape:
                optimizer.step()
            names = [entry.op.name for entry in tape.entries]
        else:
            optimizer.step()
        return [p.data.tobytes() for p in params], names

    (bits, names), (plain, _) = trained(True), trained(False)
    assert bits == plain
    assert sum(name in ("sgd", "momentum", "adam") for name in names) == 2
    assert {"multiply", "divide", "sqrt"}.isdisjoint(names)


SCRIPT = """
import numpy as np
from minigrad.core.op import registry
from minigrad.kernels import optimisers as K
import minigrad.optim
rng = np.random.default_rng(0)
for n in (1, 3, 4, 5, 8, 9, 100):
    xs = [abs(rng.standard_normal(n)).astype(np.float32) for _ in range(4)]
    args, params = (*xs, np.array(0.1), np.array(3)), dict(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
    for a, b in zip(K.adam(*args, **params), registry["adam"].forward(*args, **params)):
        np.testing.assert_array_equal(a, b)
"""


@pytest.mark.parametrize("cpu", CPUS)
def test_other_processors(cpu: str, tmp_path: Any) -> None:
    run_elsewhere(cpu, SCRIPT, tmp_path)
