"""The checks of test_every_op once more for Ops that have kernels, with the kernels in place of NumPy at any size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from minigrad import kernels
from minigrad.testing.suite import CHECKS, op_suite

from .engine_calls import every_op, few, plan_of
from .oracles import ORACLES
from .test_every_op import EXCLUDED

OPS = {name: op for name, op in every_op().items() if op.kernels}


@pytest.fixture(autouse=True, scope="module")
def kernels_everywhere() -> Iterator[None]:
    with kernels.use("numba"):
        yield


CHOOSE = ("by_kernel", "fused", "three_ways")  # kernels or NumPy by themselves: here they would do the very same

for _name, _op in OPS.items():
    _without = {check: why for (check, op), why in EXCLUDED.items() if op == _name}
    _without |= {check: "it is run by test_every_op" for check in CHOOSE if CHECKS[check].applies(_op)}
    globals()[f"Test_{_name}"] = op_suite(_op, ORACLES.get(_name), plan_of(_op), _without, few)
