"""Usual calls, which one expression and one table tell, and others: which version runs, and where tensors lie."""

import sys

import numpy as np
import pytest

import minigrad as mg
from compiler.face.training import batch, bits, pair
from minigrad import optim

FAILS = []  # eval("FAILS") is seen by no guard


def test_by_numpy_alone_it_runs_as_it_is(monkeypatch, builds):
    monkeypatch.undo()
    f = mg.compile(lambda x: x * 2.0 if x.sum() > 0 else x)
    with mg.kernels.use("numpy"):
        assert [f(mg.Tensor(x)).item() for x in (1.0, -1.0)] == [2.0, -1.0]
        x = mg.Tensor(1.0, requires_grad=True)
        assert f(x).requires_grad
    assert f.versions == {}


def test_usual_calls_and_others_are_the_same(builds):
    """Arguments that need a closer look, one after the other, with one function."""
    w = mg.Tensor(batch(8), requires_grad=True)
    other = mg.Tensor(batch(7))

    def f(x, y=None, scale=2.0):
        return x * w.detach() * scale + (x if y is None else y)

    x, y = mg.Tensor(batch(1)), mg.Tensor(batch(2))
    across = mg.Tensor(np.ascontiguousarray(batch(1).T)).T
    calls = [
        ((x,), {}), ((x, y), {}), ((x, x), {}), ((x, y, 3.0), {}), ((y, x), {}), ((x,), {"scale": 3.0}),
        ((w.detach(), y), {}), ((batch(1), y), {}), ((across, y), {}), ((mg.Tensor(batch(1, rows=1)), y), {}),
        ((other, other), {}), ((x, batch(2)), {}), ((x, np.asfortranarray(batch(2))), {}),
    ]  # fmt: skip
    compiled = mg.compile(f)
    for _ in range(4):
        for args, kwargs in calls:
            with mg.no_grad():
                assert bits(f(*(mg.Tensor(a) if isinstance(a, np.ndarray) else a for a in args), **kwargs)) == bits(
                    compiled(*args, **kwargs)
                )
    with mg.no_grad():
        compiled(x, y)
    assert compiled.last.run(*compiled.last.direct((x, y)), [], compiled.last.checks) is not None
    assert compiled.last in compiled.direct


def test_arguments_that_the_function_reaches_by_itself_after_usual_calls(builds):
    p = mg.Tensor([2.0])

    def f(x):
        p.assign(p + 1.0)
        return x * 1.0

    compiled = mg.compile(f)
    for _ in range(3):
        assert compiled(mg.Tensor([5.0])).item() == 5.0
    assert compiled(p).item() == 6.0
    assert len(builds) == 2
    q = mg.Tensor([1.0])
    g = mg.compile(lambda x: x * 2.0 if x is q else x * 3.0)
    for x in (mg.Tensor([1.0]), mg.Tensor([1.0]), mg.Tensor([1.0]), q):
        assert g(x).item() == (2.0 if x is q else 3.0)


def test_arguments_that_need_a_gradient_after_usual_calls(builds):
    w = mg.Tensor([2.0], requires_grad=True)
    f = mg.compile(lambda x: mg.sum(x * w).backward() or w.zero_grad())
    for needs in (False, False, False, True):
        x = mg.Tensor([5.0], requires_grad=needs)
        f(x)
        assert (x.grad is not None) == needs


def test_usual_calls_after_an_error(builds):
    p = mg.Tensor(batch(1), requires_grad=True)
    FAILS.clear()

    @mg.compile
    def f(x):
        mg.sum(p * mg.Tensor(x)).backward()
        return [][0] if eval("FAILS") else None

    for _ in range(3):
        f(batch())
        p.zero_grad()
    FAILS.append("once")
    p.grad = mg.Tensor(batch())  # recorded for that, which fails, with an argument that needs a closer look
    with pytest.raises(IndexError):
        f(np.asfortranarray(batch()))
    p.zero_grad()
    f(batch())
    assert bits(p.grad) == bits(mg.Tensor(batch()))


def test_tensors_stay_where_they_are(builds):
    """Whichever version runs, by whichever way."""
    _, compiled, step = pair()
    small, large, across = mg.Tensor(batch(rows=3)), mg.Tensor(batch(rows=4)), mg.Tensor(batch(rows=6)[:, :4]).T
    calls = [
        lambda: step(large),
        lambda: step(small),
        lambda: step(x=large),
        lambda: step(batch()),
        lambda: step(across),
    ]
    for call in 2 * calls:
        call()
    places = lambda: [id(p.array) for p in compiled.net.parameters().values()]
    before = places()
    for call in 2 * calls:
        call()
        assert places() == before
    assert len(builds) == 4
    for call in calls:
        held, before = compiled.net.layers[0].weight.data, places()
        call()
        assert [a == b for a, b in zip(places(), before, strict=True)] == [False, True, True, True]
        assert held.shape == (6, 5)


def test_what_a_usual_call_takes(builds):
    """A handful of Python functions, however many arguments, parameters and attributes there are to look at."""
    _, _, step = pair(make=lambda net: optim.Adam(net, 0.1))
    x = mg.Tensor(batch())
    for _ in range(3):
        step(x)
    results = [np.ones((), "float32")]
    step.last.program = lambda inputs, states, checks: results
    called = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    step(x)
    sys.setprofile(None)
    assert called == ["__call__", "<lambda>", "function", "run", "<lambda>", "finish", "wrap"]
