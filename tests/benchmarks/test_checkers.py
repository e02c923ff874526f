"""What benchmarks.checkers makes of verdicts, and that it asks every checker that is installed."""

import json
from importlib.util import find_spec

import pytest

from benchmarks import checkers, report
from benchmarks.checkers import CHECKERS, Network, in_a_process, mark, speed, totals
from benchmarks.derivatives import CASES, Case

RIGHT = Case("cube", lambda x: x**3, lambda g, x: g * 3 * x**2, (checkers.np.array([1.0, 2.0]),), True, "")
WRONG = Case("cube, 2x²", RIGHT.f, lambda g, x: g * 2 * x**2, RIGHT.xs, False, "")
TINY = (3, 4, 4, 3)


def verdicts(**wrong):
    """Right ones of all checkers but those that say the same of every case."""
    right = [{"verdict": "pass" if case.right else "fail", "seconds": 0.5} for case in CASES]
    same = {name: [{"verdict": verdict, "seconds": 0.5}] * len(CASES) for name, verdict in wrong.items()}
    return {"minigrad": right} | same


@pytest.mark.parametrize("name", CHECKERS)
def test_checkers_tell_right_from_wrong(name):
    package, ask_of = CHECKERS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    ask = ask_of()
    assert (ask(RIGHT), ask(WRONG)) == ("pass", "fail")


@pytest.mark.parametrize(
    ("case", "verdict", "marked"),
    [
        (RIGHT, "pass", ""), (RIGHT, "fail", "false alarm"), (RIGHT, "unsure", "unsure"),
        (WRONG, "fail", ""), (WRONG, "pass", "miss"), (WRONG, "unsure", "unsure"),
    ],
)  # fmt: skip
def test_marks(case, verdict, marked):
    assert mark(case, verdict) == marked


def test_an_error_is_a_rejection(monkeypatch):
    monkeypatch.setattr(checkers, "CASES", (WRONG, RIGHT))

    def ask(case):
        if case is WRONG:
            raise ValueError("no")
        return "pass"

    monkeypatch.setitem(CHECKERS, "strict", ("minigrad", lambda: ask))
    first, second = checkers.judged("strict")
    assert (first["verdict"], first["raised"], second["verdict"]) == ("fail", "ValueError: no", "pass")


def test_totals():
    everything = totals(verdicts(JAX="pass", PyTorch="fail"))[-1]
    right, wrong = everything["right"], everything["cases"] - everything["right"]
    assert (everything["group"], everything["cases"]) == ("all", len(CASES))
    assert everything["minigrad"] == {"miss": 0, "false alarm": 0, "unsure": 0}
    assert everything["JAX"] == {"miss": wrong, "false alarm": 0, "unsure": 0}
    assert everything["PyTorch"] == {"miss": 0, "false alarm": right, "unsure": 0}


def test_speed():
    peers = [package for package in ("torch",) if find_spec(package)]
    row = speed(TINY, peers, rounds=2)
    expected = ["minigrad", *(["PyTorch, fast", "PyTorch"] if peers else [])]
    assert list(row["samples"]) == expected
    assert all(len(seconds) == 2 for seconds in row["samples"].values())
    assert list(row["over_minigrad"]) == expected[1:]
    assert (row["case"], row["extrapolated"]) == ("network of 51 parameters", [])


def test_a_part_is_extrapolated(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(checkers, "MANY", 10)
    network = Network(TINY)
    parts = {name: part for name, _, part in checkers.ways(network, ["torch"])}
    assert parts == {"minigrad": 1, "PyTorch, fast": 1, "PyTorch": 15 / 51}  # 4·3 weights and 3 biases
    assert speed(TINY, ["torch"], rounds=1)["extrapolated"] == ["PyTorch"]


def test_networks_that_differ_are_refused(monkeypatch):
    pytest.importorskip("torch")
    loss = Network.torch
    monkeypatch.setattr(Network, "torch", lambda self, *parameters: 1.001 * loss(self, *parameters))
    with pytest.raises(RuntimeError, match="the networks in minigrad and PyTorch differ"):
        speed(TINY, ["torch"], rounds=1)


def test_a_checker_that_rejects_a_network_is_told_of(monkeypatch):
    monkeypatch.setattr(checkers, "check", lambda f, *xs: False)
    with pytest.raises(RuntimeError, match="minigrad rejects a correct network"):
        speed(TINY, [], rounds=1)


def test_processes():
    assert in_a_process("Network((2, 3, 3, 2)).count") == 29
    assert in_a_process("os.environ['MINIGRAD_NUM_THREADS']") == "1"
    with pytest.raises(RuntimeError, match="KeyError: 'absent'"):
        in_a_process("judged('absent')")


@pytest.fixture
def answered(monkeypatch, tmp_path):
    """No process runs."""
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    found = verdicts()
    row = {"case": "network of 51 parameters", "dtype": "float64", "threads": 1, "unit": "s", "extrapolated": []}
    row |= {"seconds": {"minigrad": 0.5}, "over_minigrad": {}, "samples": {"minigrad": [0.5] * 5}}
    monkeypatch.setattr(checkers, "in_a_process", lambda call: row if call.startswith("speed") else found["minigrad"])
    return found


def test_json_plot_and_against(answered, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    checkers.main(["--json", "--plot", "--brief", "--peers", "jax"])
    written = json.loads((tmp_path / "checkers.json").read_text("utf-8"))
    assert len(written["cases"]) == len(CASES)
    assert len(written["rows"]) == 2
    assert (tmp_path / "checkers.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "checkers.svg").read_text()
    right = next(i for i, case in enumerate(CASES) if case.right)
    answered["minigrad"][right] = {"verdict": "unsure", "seconds": 0.5}
    capsys.readouterr()
    checkers.main(["--quick", "--peers", "jax", "--against", str(tmp_path / "checkers.json")])
    printed = capsys.readouterr().out
    assert f"Verdicts that changed, of {len(CASES)} cases" in printed
    assert "unsure" in printed.partition("Verdicts that changed")[2]


def test_wrong_options(capsys):
    with pytest.raises(SystemExit):
        checkers.main(["--peers", "autograd"])
    assert "'autograd' is none of torch,jax" in capsys.readouterr().err
