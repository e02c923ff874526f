"""no_grad, enable_grad and their kin: nested, as decorators, in threads, in asyncio tasks."""

import asyncio
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import minigrad as mg
import minigrad.tensor
from minigrad import Tensor


@pytest.fixture
def x():
    return Tensor([1.0, 2.0], requires_grad=True)


def test_no_grad_and_enable_grad_nest(x):
    assert mg.grad_enabled()
    with mg.no_grad():
        assert not mg.grad_enabled()
        assert not (x * x).requires_grad
        with mg.enable_grad():
            assert mg.grad_enabled()
            y = x * x
            with mg.no_grad():
                assert not (x * x).requires_grad
        assert not mg.grad_enabled()
    assert mg.grad_enabled()
    y.sum().backward()
    assert x.grad.tolist() == [2, 4]


def test_an_error_leaves_the_block(x):
    with pytest.raises(ArithmeticError), mg.no_grad():
        raise ArithmeticError
    assert mg.grad_enabled()
    with pytest.raises(ValueError, match="matmul"), mg.record(), mg.no_grad():
        x @ np.ones((3, 3))
    assert (x * x).requires_grad


def test_one_object_may_be_entered_again(x):
    block = mg.no_grad()
    with block:
        with block:
            assert not mg.grad_enabled()
        assert not mg.grad_enabled()
    assert mg.grad_enabled()


def test_a_value_made_under_no_grad_is_a_constant(x):
    with mg.no_grad():
        c = x * 3.0
    (x * c).sum().backward()
    assert c.is_leaf
    assert x.grad.tolist() == [3, 6]


def test_creation_under_no_grad_still_takes_requires_grad():
    with mg.no_grad():
        p = Tensor([1.0], requires_grad=True)
    assert p.requires_grad


# Decorators


@pytest.mark.parametrize(("mode", "inside"), [(mg.no_grad, False), (mg.enable_grad, True), (mg.debug, True)])
def test_as_a_decorator(mode, inside):
    @mode()
    def f(depth=2):
        """The doc."""
        assert mg.grad_enabled() == inside
        return f(depth - 1) if depth else inside

    with mg.no_grad() if inside and mode is not mg.debug else mg.enable_grad():
        before = mg.grad_enabled()
        assert f() == inside
        assert mg.grad_enabled() == before
    assert f.__name__ == "f"
    assert f.__doc__ == "The doc."


def test_a_decorated_function_in_threads():
    """The thread that is first to enter is first to leave."""
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()

    @mg.no_grad()
    def f(enter, leave):
        enter.set()
        assert leave.wait(10)
        return mg.grad_enabled()

    def first():
        inside = f(first_is_in, second_is_in)
        first_is_out.set()
        return inside, mg.grad_enabled()

    def second():
        assert first_is_in.wait(10)
        return f(second_is_in, first_is_out), mg.grad_enabled()

    with ThreadPoolExecutor(2) as pool:
        assert [r.result() for r in (pool.submit(first), pool.submit(second))] == [(False, True)] * 2


@pytest.mark.parametrize("mode", [mg.no_grad, mg.enable_grad, mg.debug, mg.detect_anomaly])
def test_what_runs_after_its_call_is_not_decorated(mode):
    """The body of a generator or coroutine runs when the block is over: silence would be a trap."""

    def generator():
        yield

    async def coroutine():
        pass

    async def asynchronous_generator():
        yield

    for function in (generator, coroutine, asynchronous_generator):
        with pytest.raises(TypeError, match=rf"{function.__name__} .*use a with block in its body"):
            mode()(function)


def test_a_generator_with_a_block_in_its_body(x):
    def results():
        with mg.no_grad():
            kept = [x * x, x * x]
        yield from kept

    for y in results():
        assert not y.requires_grad
        assert mg.grad_enabled()


@pytest.mark.parametrize("mode", [mg.debug, mg.detect_anomaly])
def test_a_watching_decorator_keeps_the_tape_that_listens(mode, x):
    """Whoever watches is asked when the block is entered, not when the decorator is written."""

    @mode()
    def f():
        return x * x

    with mg.record() as tape:
        f()
    assert [e.op.name for e in tape.entries] == ["multiply"]
    with mg.record() as tape, mode():
        f()
    assert len(tape) == 1


# Threads


def in_threads(f, count=4):
    """What f(0), ..., f(count - 1) return when they run at the same time, switching as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(f, range(count)))
    finally:
        sys.setswitchinterval(interval)


def test_no_grad_in_one_thread_does_not_leak_into_another():
    inside, checked = threading.Event(), threading.Event()

    def quiet():
        with mg.no_grad():
            inside.set()
            assert checked.wait(10)
            return mg.grad_enabled()

    def loud():
        assert inside.wait(10)
        enabled = mg.grad_enabled()
        checked.set()
        return enabled

    with ThreadPoolExecutor(2) as pool:
        assert [r.result() for r in (pool.submit(quiet), pool.submit(loud))] == [False, True]


def test_a_new_thread_starts_with_gradients(x):
    with mg.no_grad(), mg.record() as tape, ThreadPoolExecutor(1) as pool:
        y = pool.submit(lambda: x * x).result()
    if getattr(sys.flags, "thread_inherit_context", 0):
        pytest.skip("this Python lets threads inherit the context")
    assert y.requires_grad
    assert len(tape) == 0


def test_threads_differentiate_their_own_graphs_over_shared_parameters():
    w = Tensor(np.linspace(-1, 1, 9).reshape(3, 3), requires_grad=True)

    def f(i):
        x = np.full((2, 3), float(i + 1))
        loss = lambda w: mg.square(mg.tanh(x @ w)).sum() * w[0, 0]
        return [mg.grad(loss)(w).tolist() for _ in range(30)]

    for i, results in enumerate(in_threads(f)):
        assert all(r == f(i)[0] for r in results)


def test_second_derivatives_in_threads():
    def f(i):
        values = []
        for _ in range(30):
            x = Tensor(1.0 + i, requires_grad=True)
            (x * x * x).backward(create_graph=True)
            gradient, x.grad = x.grad, None
            gradient.backward()
            values.append(x.grad.item())
        return set(values)

    assert in_threads(f) == [{6.0 * (1 + i)} for i in range(4)]


def test_gradients_that_threads_accumulate_in_a_shared_parameter_are_not_lost(monkeypatch):
    w = Tensor(np.zeros(2), requires_grad=True)
    add = minigrad.tensor.add

    def slow_add(a, b):
        time.sleep(1e-3)
        return add(a, b)

    monkeypatch.setattr(minigrad.tensor, "add", slow_add)

    def f(i):
        for _ in range(10):
            (w * 1.0).sum().backward()

    in_threads(f)
    assert w.grad.tolist() == [40, 40]


def test_threads_that_record_see_their_own_operations():
    def f(i):
        x = Tensor([1.0 * i], requires_grad=True)
        with mg.record() as tape:
            for _ in range(20):
                (x * x).sum().backward()
        return len(tape)

    assert len(set(in_threads(f))) == 1


# asyncio


def test_no_grad_in_one_task_does_not_leak_into_another(x):
    async def quiet(log):
        with mg.no_grad():
            for _ in range(3):
                log.append(("quiet", (x * x).requires_grad))
                await asyncio.sleep(0)

    async def loud(log):
        for _ in range(3):
            log.append(("loud", (x * x).requires_grad))
            await asyncio.sleep(0)

    async def main():
        log = []
        await asyncio.gather(quiet(log), loud(log), quiet(log))
        assert mg.grad_enabled()
        return log

    log = asyncio.run(main())
    assert len(log) == 9
    assert all(requires_grad == (who == "loud") for who, requires_grad in log)
    assert [who for who, _ in log[:3]] == ["quiet", "loud", "quiet"]  # they did take turns


def test_tapes_of_tasks_are_their_own():
    async def step(n):
        x = Tensor([1.0], requires_grad=True)
        with mg.record() as tape:
            for _ in range(n):
                x = x * 2.0
                await asyncio.sleep(0)
        return len(tape)

    async def main():
        return await asyncio.gather(step(3), step(5))

    assert asyncio.run(main()) == [3, 5]
