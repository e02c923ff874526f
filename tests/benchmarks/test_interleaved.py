"""What benchmarks.interleaved makes of timings: rows, verdicts, tables and plots; and the processes that it starts."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import activations, convolution, matmul, report
from benchmarks.interleaved import (
    ENOUGH,
    QUICK_ROUNDS,
    ROUNDS,
    Case,
    Process,
    Timings,
    Workers,
    arguments,
    cells,
    compared,
    differing,
    measured,
    plan,
    plot,
    print_rows,
    rows_of,
)
from benchmarks.worker import SAMPLE, Worker

CASE = Case("double", {"x": ("normal", (4,))}, {"minigrad": "x + x", "NumPy": "2 * x", "PyTorch": "x + x"}, 8e9, 1.5)
ALL = {"minigrad": 1.0, "NumPy": 2.0, "PyTorch": 3.0}


def timings(rounds=ENOUGH, drift=None, **seconds):
    drift = np.ones(rounds) if drift is None else drift
    return Timings({name: s * drift for name, s in seconds.items()})


def row(case=CASE, **given):
    return compared(case, "float32", 1, timings(**(ALL | given)))


def test_the_ratio_is_that_to_the_faster_peer():
    assert row()["faster_peer"] == "NumPy"
    assert row()["ratio"] == 2.0
    assert row(PyTorch=1.25)["ratio"] == 1.25
    assert row(PyTorch=1.25)["faster_peer"] == "PyTorch"
    assert compared(replace(CASE, peers=("PyTorch",)), "float32", 1, timings(**ALL))["ratio"] == 3.0


def test_ratios_are_of_one_round():
    drift = np.geomspace(1, 100, ENOUGH)  # the machine becomes slower and slower
    assert row(drift=drift)["ratio_95"] == [2.0, 2.0]


@pytest.mark.parametrize(("aim", "met"), [(1.9, True), (2.0, True), (2.1, False)])
def test_an_aim_is_met_by_the_median(aim, met):
    assert row(replace(CASE, aim=aim))["met"] is met


def test_an_aim_is_met_if_the_interval_contains_it():
    slow = np.where(np.arange(ENOUGH) % 2, 1.0, 1.2)  # ratios of 2 and of 1.67, half of each
    found = timings(minigrad=1.0, NumPy=2.0)
    found.seconds["minigrad"] = slow
    low, high = compared(CASE, "float32", 1, found)["ratio_95"]
    assert low < 1.9 < high
    assert compared(replace(CASE, aim=1.9), "float32", 1, found)["met"]
    assert not compared(replace(CASE, aim=2.01), "float32", 1, found)["met"]


def test_few_rounds_say_nothing_about_the_aim(capsys):
    few = row(rounds=ENOUGH - 1)
    assert few["ratio"] == 2.0
    assert "met" not in few
    print_rows([few], "GFLOP/s")
    assert "say nothing about the aims" in capsys.readouterr().out


def test_share_of_the_limit():
    found = timings(peak=0.5, **ALL)
    found.seconds["peak"][1:] = 0.9  # all but one round were disturbed
    found.limit = 16e9  # in half a second, four times what the case does in one
    slow = timings(peak=0.8, **ALL)
    slow.limit = 16e9
    case = replace(CASE, statements=CASE.statements | {"peak": "limit()"})
    other = replace(case, statements=CASE.statements | {"peak": "another()"})
    done = [(case, "float32", 1, slow), (case, "float32", 1, found), (case, "float32", 2, slow)]
    given = rows_of([*done, (other, "float32", 1, slow), (CASE, "float32", 1, timings(**ALL))])
    assert [row.get("of_peak") for row in given] == [0.25, 0.25, 0.4, 0.4, None]
    assert given[0]["giga_per_second"] == 8.0
    assert given[0]["ratio"] == 2.0
    assert [row.get("ratio_at_peak") for row in given] == [8.0, 8.0, 5.0, 5.0, None]  # a quarter of it makes 2
    assert cells(given[0])[-3:-1] == ("8.00", "1.50")
    assert "peak" not in given[0]["us"]


def test_a_row_without_minigrad_says_why(capsys):
    found = timings(NumPy=2e-6)
    found.failures["minigrad"] = "has no double"
    given = compared(CASE, "float32", 1, found)
    assert cells(given)[:3] == ("double", "has no double", "2")
    print_rows([given, row()], "GFLOP/s")
    out = capsys.readouterr().out
    assert "1 of 1 aims are met" in out
    assert "1 rows are without minigrad: double" in out


def test_a_table_has_what_was_measured():
    assert cells(row(drift=1e-6 * np.ones(ENOUGH))) == (
        "double", "1", "2", "3", "", "", "2.00", "2.00-2.00", "", "1.50", "yes",
    )  # fmt: skip
    assert cells(row(drift=np.full(ENOUGH, 0.0123456)))[1:3] == ("12,350", "24,690")
    assert cells(row(replace(CASE, aim=9.0)))[-2:] == ("9.00", "NO")
    assert cells(row(replace(CASE, aim=None)))[-5:] == ("2.00", "2.00-2.00", "", "", "")


def test_wrong_results_are_found():
    right = [[1.0, 2.0], [1e-6]]
    near = [[1.0 + 1e-5, 2.0], [1e-6]]
    assert differing({"minigrad": near, "NumPy": right, "PyTorch": right}, "float32") == []
    assert differing({"minigrad": near, "NumPy": right, "PyTorch": right}, "float64") == ["minigrad"]
    for wrong in ([[1.0, 2.0], [1.1e-6]], [[1.0, np.nan], [1e-6]], [[1.0], [1e-6]], [[1.0, 2.0]]):
        assert differing({"minigrad": wrong, "NumPy": right}, "float32") == ["minigrad"]
    assert differing({"minigrad": [[1.0]], "NumPy": [[1.0, 1.0]]}, "float32") == ["minigrad"]
    assert differing({"minigrad": right}, "float32") == []


@pytest.mark.parametrize("seconds", [1e-7, 3e-5, 0.9e-3, 1.1e-3, 0.5])
def test_a_sample_lasts(seconds):
    made = plan("NumPy", seconds)
    assert made["calls"] * seconds >= SAMPLE
    assert 1 <= made["samples"] <= 5
    assert made["calls"] == 1 or made["calls"] * seconds < 3 * SAMPLE


class Scripted:
    """Stands in for a process: answers are told beforehand, questions are written down."""

    def __init__(self, name, asked, first):
        self.name, self.asked, self.first = name, asked, first

    def ask(self, **command):
        if "statement" in command:
            return self.first
        self.asked.append(self.name)
        return 1.0


def test_libraries_take_turns_and_wrong_ones_are_out():
    asked = []
    ready = {"numbers": [[1.0]], "seconds": 1e-3}
    first = {"minigrad": ready, "NumPy": ready, "PyTorch": {"numbers": [[2.0]], "seconds": 1e-3}}
    workers = {name: Scripted(name, asked, answer) for name, answer in first.items()}
    found = measured(CASE, "float32", workers, 3)
    assert found.failures == {"PyTorch": "wrong result"}
    assert asked == ["NumPy", "minigrad", "minigrad", "NumPy", "NumPy", "minigrad"]
    assert {name: len(seconds) for name, seconds in found.seconds.items()} == {"minigrad": 3, "NumPy": 3}


def test_nobody_can_do_it():
    workers = {name: Scripted(name, [], {"failure": "has no double"}) for name in ALL}
    found = measured(CASE, "float32", workers, 3)
    assert found.seconds == {}
    assert set(found.failures) == set(ALL)


def state(process):
    return Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_processes():
    case = replace(CASE, statements={"NumPy": "x + x", "minigrad": "doubled(x)"})
    with Workers(("minigrad", "NumPy"), threads=1) as workers:
        found = measured(case, "float64", workers, 2)
        process = workers["NumPy"]
        if Path("/proc/self/stat").exists():
            deadline = time.monotonic() + 10
            while state(process) != "T" and time.monotonic() < deadline:  # the signal needs a moment
                time.sleep(0.001)
            assert state(process) == "T"
    assert found.failures == {"minigrad": "has no doubled"}
    assert 0 < found.seconds["NumPy"].max() < 1e-3
    assert process.process.returncode is not None


def test_a_process_that_dies_is_told_of():
    process = Process(1)
    try:
        with pytest.raises(RuntimeError, match="died"):
            process.ask(library="NumPy", statement="__import__('os')._exit(3)", dtype="f", arrays={}, differentiated=[])
    finally:
        process.end()


def test_command_line(capsys):
    given = arguments("matmul", "Doc.", [])
    assert (given.rounds, given.dtype) == (ROUNDS, ("float32", "float64"))
    assert given.threads[0] == 1
    given = arguments("matmul", "Doc.", ["--quick", "--threads", "3", "--dtype", "float64"])
    assert (given.rounds, given.threads, given.dtype) == (QUICK_ROUNDS, [3], ["float64"])
    assert arguments("matmul", "Doc.", ["--quick", "--rounds", "21"]).rounds == 21
    for wrong in (["--threads", "0"], ["--rounds", "-1"], ["--rounds", "0"], ["--dtype", "int8"]):
        with pytest.raises(SystemExit):
            arguments("matmul", "Doc.", wrong)
    assert "invalid choice: 'int8'" in capsys.readouterr().err


@pytest.mark.parametrize("script", [matmul, activations, convolution])
def test_plots(script, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    rows = [
        compared(case, dtype, 1, timings(**ALL)) for dtype in ("float32", "float64") for case in script.cases(dtype)
    ]
    rows[1] = {"case": rows[1]["case"], "dtype": "float32", "threads": 1, "us": {}}  # one that failed
    plot(rows, "plot", script.speeds)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "plot.svg").read_text()


@pytest.mark.parametrize("script", [matmul, activations, convolution])
def test_cases(script):
    """Every row has its own name and takes what is there; NumPy's statements compute what the kernels do."""
    cases = [*script.cases("float32")]
    assert len({case.name for case in cases}) == len(cases)
    worker = Worker()
    for case in cases:
        for library, statement in case.statements.items():
            compile(statement, library, "eval")
        if case.large or "NumPy" not in case.statements:
            continue
        numbers = {}
        for library in ("NumPy", "minigrad"):
            answer = worker.prepare(library, case.statements[library], "float32", case.arrays, [])
            assert "failure" not in answer, (case.name, answer)
            numbers[library] = answer["numbers"]
        assert differing(numbers, "float32") == [], case.name
