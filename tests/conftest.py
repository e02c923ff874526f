"""What all tests share: operations that a test declares are forgotten, how Hypothesis runs, and in how many processes.

All of them run in as many processes as there are processors, tests that are named in one: add `-n 2` for two.

Hypothesis has the profiles `dev`, the default, `ci` where CI is set, and `deep` when asked for.

Choose with HYPOTHESIS_PROFILE=deep, or `pytest --hypothesis-profile=deep`.
"""

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from minigrad.core.op import registry

# No deadlines anywhere: a test that fails on a slow machine says nothing about the code.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, database=None, print_blob=True)
settings.register_profile(
    "deep", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """The whole suite is shared out to as many processes as there are processors; tests that are named are run here."""
    return None if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the garbage collector need not look through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def same_registry() -> Iterator[None]:
    """Operations that a test declares are not in the registry after it."""
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)
