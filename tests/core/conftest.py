"""What the tests of the engine share: operations that a test declares are forgotten when it is over."""

import pytest

from minigrad.core.op import registry


@pytest.fixture(autouse=True)
def same_registry():
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)
