"""The programs that benchmarks.startup times, and what it makes of their seconds."""

import pytest

from benchmarks import startup


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
    rows = [*startup.measured(rounds=3)]
    assert [row["dtype"] for row in rows] == ["float32"] * 4 + ["float64"] * 4
    matmul, tanh, gelu, second = rows[:4]
    # x, the import, another kernel, the call; then without the other kernel; then a process that imports NumPy
    assert (matmul["compiles"], matmul["in_all"], matmul["numpy_alone"], matmul["met"]) == (4.0, 3.0, 1.0, False)
    assert matmul["aim"] == 3.0
    assert not tanh["met"]
    assert gelu["case"] == "first use of gelu"
    assert (second["in_all"], second["met"], "compiles" in second) == (4.0, False, False)
    for statements in scripted:
        compile("\n".join(statements), "program", "exec")
    assert startup.cells(second) == ("second process: matmul, tanh", "float32", "", "4.00", "1.00", "0.5 in all", "NO")


def test_a_program_that_fails_is_told_of(monkeypatch):
    monkeypatch.setattr(startup, "ANOTHER", "absent")
    monkeypatch.setattr(startup, "KERNELS", {"exp": ("elementwise", "exp(x)", 0.4)})
    monkeypatch.setattr(startup, "second_process", lambda dtype, rounds: {"in_all": 0.1, "numpy_alone": 0.05})
    row, second, *_ = startup.measured(rounds=1)
    assert row["failure"] == "NameError: name 'absent' is not defined"
    assert startup.cells(row)[2] == row["failure"]
    assert second["met"]


def test_what_a_program_prints():
    seconds, printed = startup.process(["import os", "print(os.environ['MINIGRAD_CACHE_DIR'])"], "some folder")
    assert printed == "some folder\n"
    assert seconds > 0


def test_wrong_rounds(capsys):
    with pytest.raises(SystemExit):
        startup.main(["--rounds", "0"])
    assert "at least 1" in capsys.readouterr().err
