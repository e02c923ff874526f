"""In these tests programs replay the recording, operation by operation: they are about what is around a program."""

from types import SimpleNamespace

import pytest

import minigrad as mg
from compiler.replaying import use
from minigrad.compiler import compile as face


@pytest.fixture(autouse=True)
def builds(monkeypatch):
    monkeypatch.setattr(face, "dispatch", SimpleNamespace(mode=lambda: "auto"))  # or nothing would be compiled
    with mg.kernels.use("numpy"):  # one kind of arithmetic in backward on values and on arrays
        yield use(monkeypatch)
