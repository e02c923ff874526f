"""The programs that benchmarks.startup times, and what it makes of their seconds."""

import json

import pytest

from benchmarks import report, startup


@pytest.fixture
def scripted(monkeypatch):
    """No process runs: a program takes one second for every statement, and prints how many it has."""
    programs = []

    def process(statements, cache):
        programs.append(statements)
        return float(len(statements)), f"{len(statements)}\n"

    monkeypatch.setattr(startup, "process", process)
    return programs


def test_rows(scripted):
    rows = [*startup.measured(startup.DTYPES, rounds=3)]
    assert [row["dtype"] for row in rows] == ["float32"] * 7 + ["float64"] * 7 + [None]
    assert len({(row["case"], row["dtype"]) for row in rows}) == len(rows)
    compiled, tanh, _, first, *_, second = rows[:7]
    # x, the import, another kernel, the call; then without the other kernel, beside a process that imports NumPy
    assert compiled["samples"] == {"minigrad": [4.0] * 3}
    assert (compiled["case"], compiled["aim"], compiled["met"]) == ("compilation of matmul", 3.0, False)
    assert "beyond_numpy" not in compiled
    assert tanh["aim"] == 0.4
    assert first["samples"] == {"minigrad": [3.0] * 3, "NumPy alone": [1.0] * 3}
    assert (first["case"], first["beyond_numpy"], "aim" in first) == ("first use of matmul", 2.0, False)
    assert (second["seconds"]["minigrad"], second["met"]) == (4.0, False)
    assert len(rows[-1]["samples"]["minigrad"]) == 6
    for statements in scripted:
        compile("\n".join(statements), "program", "exec")
    assert startup.cells(second) == (
        "second process: matmul, tanh", "float32", "4.000", "1.000", "3.000", "0.5", "NO",
    )  # fmt: skip


def test_differences_are_of_one_round():
    samples = {"minigrad": [2.0, 20.0, 30.0], "NumPy alone": [1.0, 10.0, 29.0]}
    row = startup.row_of("case", None, 20.0, lambda: samples)
    assert row["beyond_numpy"] == 1.0
    assert row["seconds"] == {"minigrad": 20.0, "NumPy alone": 10.0}
    assert row["met"]


def test_a_program_that_fails_is_told_of(monkeypatch):
    monkeypatch.setattr(startup, "ANOTHER", "absent")
    monkeypatch.setattr(startup, "KERNELS", {"exp": ("elementwise", "exp(x)", 0.4)})
    monkeypatch.setattr(startup, "first_use", lambda name, dtype, rounds: {"minigrad": [0.1]})
    monkeypatch.setattr(startup, "second_process", lambda dtype, rounds: {"minigrad": [0.1]})
    row, _, second, *_ = startup.measured(["float32"], rounds=1)
    assert row["failure"] == "NameError: name 'absent' is not defined"
    assert startup.cells(row)[2] == row["failure"]
    assert second["met"]


def test_what_a_program_prints():
    seconds, printed = startup.process(["import os", "print(os.environ['MINIGRAD_CACHE_DIR'])"], "some folder")
    assert printed == "some folder\n"
    assert seconds > 0


def test_json_plot_and_against(scripted, monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    startup.main(["--json", "--plot", "--rounds", "2"])
    written = json.loads((tmp_path / "startup.json").read_text("utf-8"))
    assert (written["rounds"], len(written["rows"])) == (2, 15)
    assert (tmp_path / "startup.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "startup.svg").read_text()
    capsys.readouterr()
    startup.main(["--quick", "--against", str(tmp_path / "startup.json")])
    assert "\n0 of 13 differences are more than noise" in capsys.readouterr().out


def test_a_row_that_failed_is_drawn_as_none(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    startup.plot([{"case": "compilation of exp", "dtype": "float32", "unit": "s", "failure": "NameError"}])
    assert (tmp_path / "startup.png").exists()


def test_wrong_rounds(capsys):
    with pytest.raises(SystemExit):
        startup.main(["--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err
