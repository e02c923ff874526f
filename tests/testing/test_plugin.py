"""The plugin, in runs of pytest of its own: what it prints, how many examples it runs, and what it loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest_plugins = ["pytester"]

WRONG = """
    import numpy as np
    import minigrad as mg
    from minigrad.testing import assert_gradients, gradcheck, op_suite

    wrong = mg.Op("wrong", lambda x: x * x, vjp={"x": lambda g, x: g * x}, kind="elementwise")
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on a test module, with the plugin."""
    monkeypatch.setenv("PYTHONPATH", str(pytest.importorskip("minigrad").__path__[0]) + "/..")
    monkeypatch.delenv("HYPOTHESIS_PROFILE", raising=False)

    def run(source: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=source)
        loaded = [] if _installed() else ["-p", "minigrad.testing.plugin"]
        return pytester.runpytest_subprocess(*loaded, "-p", "no:cacheprovider", *options)

    return run


def _installed() -> bool:
    """Whether pytest finds the plugin by itself."""
    from importlib.metadata import entry_points

    return any(entry.value == "minigrad.testing.plugin" for entry in entry_points(group="pytest11"))


def test_a_wrong_gradient_is_told_by_its_report_and_the_line_of_the_test(run):
    result = run(WRONG + "\n    def test_it():\n        assert_gradients(lambda x: wrong(x), np.array([1.0, 2.0]))\n")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "test_it.py:*: in test_it",
            "*assert_gradients(lambda x: wrong(x), np.array(*",
            "*FAIL: the VJP for x is wrong",
        ]
    )
    assert "judge.py" not in text
    assert "check.py" not in text


def test_the_whole_way_is_shown_if_asked_for(run):
    result = run(WRONG + "\n    def test_it():\n        assert_gradients(lambda x: wrong(x), 2.0)\n", "--tb=long")
    assert "check.py" in result.stdout.str()


def test_a_failing_example_is_kept(run):
    result = run(WRONG + "\n    @gradcheck\n    def test_it(x):\n        return wrong(x)\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*FAIL: the VJP for x is wrong", "*test_it(*", "*x=array(1.),*"])
    text = result.stdout.str()
    assert "suite.py" not in text
    assert "hypothesis/core.py" not in text


def test_a_failing_call_of_a_suite_is_kept(run):
    result = run(WRONG + "\n    TestWrong = op_suite(wrong)\n", "-k", "derivative and not second")
    result.assert_outcomes(failed=1, deselected=result.parseoutcomes()["deselected"])
    result.stdout.fnmatch_lines(["*FAIL: the VJP for x is wrong", "*Draw 1 (call): wrong(array(*"])


def test_other_failures_are_left_alone(run):
    result = run("def test_it():\n    x = 1\n    assert x == 2\n")
    result.stdout.fnmatch_lines(["*>*assert x == 2*", "E*assert 1 == 2"])


COUNTING = """
    from minigrad.core.op import Op
    from minigrad.testing import gradcheck, op_suite

    seen = []

    @gradcheck
    def test_gradient(x):
        return 2.0 * x

    def forward(x):
        seen.append(x)
        return x * 2.0

    twice = Op("twice", forward, vjp={"x": lambda g: g * 2.0}, kind="linear")
    from minigrad.testing import suite
    draw = suite.Check.run
    drawn = []
    suite.Check.run = lambda self, call, oracle=None: drawn.append(call) or draw(self, call, oracle)
    TestTwice = op_suite(twice)

    def test_count():
        print("drawn", len(drawn))
"""


@pytest.mark.parametrize("count", [1, 7])
def test_the_number_of_examples(run, count):
    options = ["-k", "(TestTwice and float32 and not accurate) or count", "-rP", "-p", "no:randomly"]
    result = run(COUNTING, *options, f"--gradcheck-examples={count}")
    result.stdout.fnmatch_lines([f"drawn {count}"])


def test_the_option_is_explained(run):
    result = run("", "--help")
    result.stdout.fnmatch_lines(["minigrad:", "*--gradcheck-examples=N*"])


def test_it_loads_neither_hypothesis_nor_the_suite():
    code = "import sys, minigrad.testing.plugin; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "minigrad.testing.plugin" in loaded
    assert not {"hypothesis", "numba", "minigrad.testing.suite", "minigrad.testing.strategies", "minigrad.nn"} & loaded
