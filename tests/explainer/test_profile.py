"""The profile: what is counted, and for whom."""

import re
import time

import numpy as np

import minigrad as mg
from minigrad import nn


def test_calls_and_bytes():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    x = mg.Tensor(np.ones((5, 4), "float32"))
    with mg.profile() as seen:
        for _ in range(4):
            y = net(x)
            mg.sum(y.reshape(-1)).backward()
    rows = {row.op: row for row in seen.rows}
    assert {name: row.calls for name, row in rows.items()} == {"linear": 4, "relu": 4, "reshape": 4, "sum": 4}
    assert rows["linear"].made == 4 * (15 + 12 + 3) * 4  # the result, and the cotangents of weight and bias
    assert rows["relu"].made == 4 * (15 + 15) * 4
    assert rows["reshape"].made == 0  # views
    assert all(row.backward > 0 for row in rows.values())
    assert [re.sub(r".*\d: ", "", row.line) for row in (rows["linear"], rows["sum"])] == [
        "y = net(x)",
        "mg.sum(y.reshape(-1)).backward()",
    ]
    with mg.profile() as after:
        pass
    assert after.rows == []


def test_time_goes_to_the_operation_that_takes_it():
    slow = mg.Op("slow_one", lambda x: (time.sleep(0.02), x * 1.0)[1], vjp={"x": lambda g: (time.sleep(0.04), g)[1]})
    x = mg.Tensor([1.0], requires_grad=True)
    with mg.profile() as seen:
        mg.exp(slow(mg.exp(x))).sum().backward()
    (row,) = (row for row in seen.rows if row.op == "slow_one")
    assert row.forward >= 0.02
    assert row.backward >= 0.04
    assert [row.seconds for row in seen.rows] == sorted((row.seconds for row in seen.rows), reverse=True)
    assert len(str(seen).splitlines()) == 1 + len(seen.rows)


def test_several_outputs_are_one_call():
    x = mg.Tensor(np.arange(4.0), requires_grad=True)
    with mg.profile() as seen:
        a, b = mg.split(x, 2)
        (a.sum() + b.sum()).backward()
    assert "pick" not in {row.op for row in seen.rows}
