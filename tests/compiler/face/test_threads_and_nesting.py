"""Compiled functions in threads, in forked processes, in one another, and beside watchers."""

import os
import sys
import threading
import time

import pytest

import minigrad as mg
from compiler.face.training import batch, pair
from compiler.replaying import Replaying
from minigrad.compiler import compile as face


def test_threads():
    eager, compiled, step = pair()
    x = mg.Tensor(batch())
    for _ in range(40):
        eager.step(x)
    errors = []

    def run():
        try:
            for _ in range(10):
                step(x)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert eager.state() == compiled.state()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork():
    eager, compiled, step = pair()
    x = mg.Tensor(batch())
    for _ in range(3):
        eager.step(x)
        step(x)
    release = threading.Event()

    def hold():
        with face._LOCK:
            release.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    child = os.fork()
    if child == 0:
        eager.step(x)
        step(x)
        os._exit(0 if eager.state() == compiled.state() else 1)
    release.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_inside_of_another_compiled_function(builds):
    inner = mg.compile(lambda x: x * 2.0)
    outer = mg.compile(lambda x: inner(x) + 1.0)
    for i in range(4):
        assert outer(mg.Tensor(float(i))).item() == 2.0 * i + 1.0
    assert builds.calls == [4]
    assert [e.op.name for e in builds[0].recording.entries] == ["multiply", "add"]


def test_inside_of_a_derivative_and_under_a_tape(builds):
    f = mg.compile(lambda x: mg.sum(x * x))
    for _ in range(3):
        assert mg.grad(f)(mg.Tensor([3.0])).data == [6.0]
        assert mg.jvp(f, (mg.Tensor([3.0]),), (mg.Tensor([1.0]),))[1].item() == 6.0
        with mg.record() as tape:
            f(mg.Tensor([1.0]))
        assert len(tape) == 2
    assert builds == []


def test_the_progress_of_a_long_compilation(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(face, "PATIENCE", 0.01)
    monkeypatch.setattr(face, "build", lambda recording: (time.sleep(0.2), Replaying(recording))[1])

    def doubled(x):
        return x * 2.0

    assert mg.compile(doubled)(mg.Tensor(1.0)).item() == 2.0
    assert "compiling doubled" in capsys.readouterr().err
