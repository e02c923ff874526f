"""The pytest plugin: `--gradcheck-examples N`, and failures of gradients printed as what they are, a report.

pytest loads it by its entry point in every run where minigrad is installed, so it imports nothing that is heavy.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from minigrad.testing.check import GradientError

HIDDEN = ("minigrad", "hypothesis", "_pytest", "pluggy")  # packages whose lines say nothing about a wrong gradient

examples: int | None = None  # how many a test of a gradient runs; None: as Hypothesis' profile says


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option."""
    parser.getgroup("minigrad").addoption(
        "--gradcheck-examples",
        type=int,
        metavar="N",
        help="how many examples a @gradcheck test and each check of an op_suite runs (default: Hypothesis' profile)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Note the option, for the tests that are made from now on."""
    global examples
    examples = config.getoption("gradcheck_examples")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell a wrong gradient by its report, and the line of the test that asked for it, not the way through the checker.

    What Hypothesis notes on the error, the failing example, comes along. `--tb=long` and the like show all of it.
    """
    result = yield
    if (
        call.excinfo is not None
        and isinstance(call.excinfo.value, GradientError)
        and item.config.option.tbstyle == "auto"
    ):
        asked = call.excinfo.traceback.filter(_outside)
        if asked:
            call.excinfo.traceback = asked
            result.longrepr = call.excinfo.getrepr(style="short", chain=False)
        else:  # the test was made of a function: there is no line to show
            result.longrepr = call.excinfo.getrepr(style="value", chain=False)
            result.sections.append(("Hypothesis", "\n".join(getattr(call.excinfo.value, "__notes__", []))))
    return result


def _outside(entry: Any) -> bool:
    """Whether a line of a traceback is a user's own."""
    module = str(entry.frame.f_globals.get("__name__", "")).partition(".")[0]
    return module not in HIDDEN and not module.startswith("hypothesis_temporary")  # code that Hypothesis generates
