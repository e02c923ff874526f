"""benchmarks.scaling: both libraries do the same; and what becomes of their times: rows, lines, tables, pictures."""

import doctest
import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import report, scaling
from benchmarks.interleaved import WRONG, Process, differing
from benchmarks.scaling import LIBRARIES, SWEEPS, WORKER, Found, Worker, cells, line, lines_of, measured, rows_of

SIZES = {"depth": 20, "width": 16, "batch": 3}


def test_examples():
    assert doctest.testmod(scaling).failed == 0


@pytest.mark.parametrize("sweep", SWEEPS)
def test_libraries_agree(sweep):
    numbers = {}
    for library, package in LIBRARIES.items():
        if library != "minigrad":
            pytest.importorskip(package)
        worker = Worker()
        found = worker.answer({"library": library, "sweep": sweep, "size": SIZES[sweep]})
        numbers[library] = found["numbers"]
        assert found["seconds"] > 0
        parts = worker.answer({"calls": 2})
        assert tuple(parts) == SWEEPS[sweep].parts
        assert min(parts.values()) > 0
    assert differing(numbers, "float32") == []
    assert sweep != "depth" or numbers["minigrad"] == [[1.0] * 8]


def test_a_deep_chain():
    assert Worker().answer({"library": "minigrad", "sweep": "depth", "size": 20_000})["numbers"] == [[1.0] * 8]


def test_a_process():
    process = Process(1, "benchmarks.scaling", {WORKER: "1"})
    try:
        assert process.ask(library="minigrad", sweep="batch", size=2)["seconds"] > 0
        assert process.ask(calls=3)["backward"] > 0
        assert process.ask(library="absent", sweep="batch", size=2) == {"failure": "KeyError: 'absent'"}
    finally:
        process.end()


# Turns and rows


class Scripted:
    """Stands in for a process: it says what it is told to, and writes down how many calls it was asked for."""

    def __init__(self, key, asked, first, seconds):
        self.key, self.asked, self.first, self.seconds = key, asked, first, seconds

    def ask(self, **command):
        if "size" in command:
            return self.first
        self.asked.append((self.key, command["calls"]))
        return self.seconds


def workers(asked, right=1.0, **answers):
    """One and two threads; PyTorch takes three times as long as minigrad, and two threads half as long as one."""
    found = {}
    for threads in (1, 2):
        for name, seconds in {"minigrad": 1.0, "PyTorch": 3.0}.items():
            parts = {"forward": seconds / threads, "backward": 2 * seconds / threads, "freeing": 0.0}
            first = {"numbers": [[right] * 8], "seconds": 0.004}
            found[name, threads] = Scripted((name, threads), asked, answers.get(name, first), parts)
    return found


def test_libraries_take_turns():
    asked = []
    found = measured("width", 64, workers(asked), 2)
    a, b, c, d = ("minigrad", 1), ("PyTorch", 1), ("minigrad", 2), ("PyTorch", 2)
    assert asked == [(key, 5) for key in (b, c, d, a, c, d, a, b)]  # as many calls as take 20 ms
    assert {key: len(seconds) for key, seconds in found.seconds.items()} == dict.fromkeys((a, b, c, d), 2)


def test_wrong_results_and_failures_are_out():
    asked = []
    wrong = {"numbers": [[1.5] * 8], "seconds": 1.0}
    found = measured("width", 64, workers(asked, minigrad=wrong), 1)
    assert found.failures == {("minigrad", 1): WRONG, ("minigrad", 2): WRONG}
    found = measured("width", 64, workers(asked, PyTorch={"failure": "no memory"}), 1)
    assert found.failures == {("PyTorch", 1): "no memory", ("PyTorch", 2): "no memory"}
    one, two = rows_of("width", 64, found)
    assert one["failures"] == {"PyTorch": "no memory"}
    assert "ratio" not in one
    assert set(two["speed_up"]) == {"minigrad"}
    assert not any(key[0] == "minigrad" for key in measured("depth", 10, workers([], minigrad=wrong), 1).seconds)


def test_a_chain_that_all_get_wrong():
    assert set(measured("depth", 10, workers([], right=2.0), 1).failures.values()) == {WRONG}


def test_a_worker_that_fails_later():
    broken = workers([])
    broken["PyTorch", 1].seconds = {"failure": "no memory"}
    with pytest.raises(RuntimeError, match="PyTorch, width 64: no memory"):
        measured("width", 64, broken, 1)


def test_rows():
    one, two = rows_of("batch", 1024, measured("batch", 1024, workers([]), 3))
    assert (one["case"], one["threads"], one["unit"]) == ("batch 1,024", 1, "s")
    assert (one["ratio"], one["ratio_95"]) == (3.0, [3.0, 3.0])
    assert one["backward_by_forward"]["PyTorch"] == {"ratio": 2.0, "ratio_95": [2.0, 2.0]}
    assert one["samples"]["minigrad"] == [3.0] * 3
    assert two["parts"]["minigrad"] == {"forward": [0.5] * 3, "backward": [1.0] * 3}
    assert two["speed_up"]["PyTorch"]["ratio"] == 2.0
    assert "speed_up" not in one
    ends = ("2.00", "2.00", "3.00", "3.00 to 3.00", "minigrad 2.00, PyTorch 2.00")
    assert cells(two) == ("1,024", "500", "1,500", "1,000", "3,000", *ends)


def test_a_chain_is_shown_by_operation():
    found = Found({("minigrad", 1): [{"forward": 2e-3, "backward": 4e-3, "freeing": 1e-4}]})
    (row,) = rows_of("depth", 1000, found)
    assert cells(row) == ("1,000", "2", "", "4", "", "0.1", "", "2.00", "", "", "", "")


# Lines


def test_a_line_is_found():
    noise = np.random.default_rng(1).uniform(0.95, 1.05, (4, 9))
    sizes = [10, 100, 1000, 10_000]
    found = line(sizes, [(0.3 * n**1.5 * noise[i]).tolist() for i, n in enumerate(sizes)])
    low, high = found["slope_95"]
    assert low < 1.5 < high < low + 0.02
    assert found["slope"] == pytest.approx(1.5, abs=0.01)
    assert found["at_1"] == pytest.approx(0.3, rel=0.1)
    assert found["off"] < 1.03


def test_a_curve_is_off_the_line():
    found = line([1, 10, 100], [[1.0], [20.0], [100.0]])  # twice too high in the middle
    assert found["slope"] == 1.0
    assert found["off"] == pytest.approx(2 ** (2 / 3), rel=1e-3)


def test_lines_are_fitted_where_they_should_be_straight():
    rows = []
    for size in SWEEPS["depth"].sizes:
        seconds = 1e-6 * size if size >= SWEEPS["depth"].start else 1.0
        parts = dict.fromkeys(SWEEPS["depth"].parts, seconds)
        rows += rows_of("depth", size, Found({("minigrad", 1): [parts] * 3}))
    lines = lines_of(rows)
    assert [each["part"] for each in lines] == ["forward", "backward", "freeing"]
    for each in lines:
        assert (each["slope"], each["slope_95"], each["ideal"], each["off"]) == (1.0, [1.0, 1.0], 1, 1.0)
        assert each["sizes"] == [1000, 10_000, 100_000, 1_000_000]
    assert lines_of(rows[:3]) == []  # one size is no line


@pytest.mark.parametrize("of", SWEEPS.values(), ids=SWEEPS)
def test_sweeps(of):
    assert list(of.sizes) == sorted(of.sizes)
    assert sum(of.start <= size <= of.quick for size in of.sizes) >= 3  # a line, and whether it is straight
    assert of.axis != "operations" or of.sizes[-1] == 1_000_000


# All of it


def test_all_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(scaling, "LIBRARIES", {"minigrad": "minigrad"})
    small = {name: replace(of, sizes=(10, 20, 40), start=10) for name, of in SWEEPS.items() if name != "width"}
    for name, of in small.items():
        monkeypatch.setitem(SWEEPS, name, of)
    options = ["--sweeps", *small, "--rounds", "2", "--threads", "1", "--json"]
    scaling.main([*options, "--plot"])
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["case"] for row in result["rows"]] == [f"{name} {n}" for name in small for n in (10, 20, 40)]
    assert len(result["lines"]) == 5
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "scaling.svg").exists()
    monkeypatch.setattr(scaling, "measured", lambda *_: Found(failures={("minigrad", 1): WRONG}))
    with pytest.raises(SystemExit, match="there are wrong results"):
        scaling.main(["--sweeps", "depth"])
    assert "depth 10, 1 threads, without minigrad: wrong result" in capsys.readouterr().out


@pytest.mark.parametrize(
    "wrong", [["--rounds", "0"], ["--threads", "0"], ["--sweeps", "height"], ["--peers", "jax"]], ids="/".join
)
def test_command_line(wrong, capsys):
    with pytest.raises(SystemExit):
        scaling.main(wrong)
    assert wrong[0].lstrip("-") in capsys.readouterr().err
