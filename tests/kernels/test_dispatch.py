"""Which of NumPy and the kernel runs: by size, by `use`, and where a kernel declines."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad import kernels


@pytest.fixture
def twice():
    """An Op that tells who computed it: NumPy doubles, the kernel doubles and adds 1000."""

    def kernel(x):
        return NotImplemented if x.dtype == np.float32 else 2 * x + 1000

    def kernel_of_rule(g):
        return 2 * g + 1000

    return mg.Op(
        "twice",
        lambda x: 2 * x,
        vjp={"x": lambda g: g * 2.0},
        kernels={"y": (kernel, 10), "x": (kernel_of_rule, 20)},
    )


def both(op: mg.Op, n: int, dtype: type = np.float64) -> tuple[float, float]:
    """An element of the result and of the gradient, for n zeros."""
    x = mg.Tensor(np.zeros(n, dtype), requires_grad=True)
    y = op(x)
    y.backward(np.zeros(n, dtype))
    assert x.grad is not None
    return y.data[0].item(), x.grad.data[0].item()


def test_by_size(twice) -> None:
    assert both(twice, 9) == (0, 0)
    assert both(twice, 10) == (1000, 0)
    assert both(twice, 20) == (1000, 1000)


def test_switched_off_and_on(twice) -> None:
    with kernels.use("numpy"):
        assert both(twice, 100) == (0, 0)
        with kernels.use("numba"):
            assert both(twice, 1) == (1000, 1000)
        assert both(twice, 100) == (0, 0)
    assert both(twice, 9) == (0, 0)
    assert both(twice, 100) == (1000, 1000)


def test_use_holds_without_a_block(twice) -> None:
    assert kernels.mode() == "auto"
    before = kernels.use("numpy")
    assert kernels.mode() == "numpy"
    assert both(twice, 100) == (0, 0)
    with before:
        pass
    assert both(twice, 100) == (1000, 1000)


def test_no_least_is_switched_off_too() -> None:
    op = mg.Op("always", lambda x: 2 * x, kernels={"y": (lambda x: 2 * x + 1000, 0)})
    assert op(np.zeros(1)).item() == 1000
    with kernels.use("numpy"):
        assert op(np.zeros(1)).item() == 0


def test_a_kernel_may_decline(twice) -> None:
    with kernels.use("numba"):
        assert both(twice, 100, np.float32) == (0, 1000)


def test_what_is_no_array_goes_to_numpy(twice) -> None:
    with kernels.use("numba"):
        assert twice(3.0).item() == 6.0


def test_parameters_reach_the_kernel() -> None:
    op = mg.Op(
        "shifted",
        lambda a, b, *, by: a + b + by,
        kernels={"y": (lambda a, b, *, by: a * b * by, 0)},
    )
    assert op(np.array(3.0), np.array(4.0), by=5).item() == 60


def test_recorded_rules_are_not_kernels(twice) -> None:
    """Under create_graph the rule runs on tensors; a kernel knows of arrays alone."""
    x = mg.Tensor(np.zeros(100), requires_grad=True)
    twice(x).backward(np.zeros(100), create_graph=True)
    assert x.grad.data[0] == 0


def test_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="use: expected one of numpy, auto, numba, got 'c'"):
        kernels.use("c")


def test_a_kernel_that_asks_for_something_else() -> None:
    with pytest.raises(ValueError, match="a faster rule asks for what the rule asks for"):
        mg.Op("bad", lambda x: x + 0, vjp={"x": lambda g: g}, kernels={"x": (lambda g, x: g, 0)})


def test_without_numbas_compiler_there_are_no_kernels() -> None:
    script = "import minigrad as mg, numpy as np, sys; mg.tanh(np.ones(10**5)); print('llvmlite' in sys.modules)"
    env = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr
