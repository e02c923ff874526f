"""The cases of benchmarks.training: that all libraries train the same, and what becomes of their times."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import training
from benchmarks.interleaved import ENOUGH, Process
from benchmarks.steps import BATCHES, CASES, PEERS, Run
from benchmarks.training import COLD, Bench, Found, arrays, compared, differing, measured, row_of, show
from models import datasets

SMALL = ("ae32", "vae", "gan", "digits", "conv", "chain")


@pytest.fixture(autouse=True)
def no_images(monkeypatch):
    """Nothing is read or downloaded."""

    def load(name):
        raise datasets.DataError(name)

    monkeypatch.setattr(datasets, "load", load)
    training.images.cache_clear()
    yield
    training.images.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


def loss(peer, case, folder):
    run = Run(peer, case, str(Bench(folder, 1).file(case)))
    first, then = (run.steps(warm=0, steps=steps)["loss"] for steps in (1, BATCHES))
    assert then < first or case in ("gan", "chain")  # the first batch again
    return then


@pytest.mark.parametrize("case", SMALL)
def test_libraries_agree(case, folder):
    found = {"minigrad": loss("minigrad", case, folder)}
    if case in ("gan", "digits", "chain"):  # the others are compared whenever the benchmark runs
        for peer in ("torch", "fused", "jax"):
            try:
                found[peer] = loss(peer, case, folder)
            except ImportError:
                continue
    assert differing(found) == {}


@pytest.mark.parametrize("case", CASES)
def test_data(case):
    made = arrays(case)
    assert {x.dtype for x in made.values()} <= {np.dtype("f"), np.dtype("i8")}
    assert len(made[f"x{BATCHES - 1}"]) == CASES[case].batch
    assert [made[f"w{i}"].shape for i in range(len(CASES[case].shapes))] == [*CASES[case].shapes]
    for name, x in arrays(case).items():
        np.testing.assert_array_equal(x, made[name])


def test_random_images_are_said_to_be_random(monkeypatch):
    pixels, labels, name = training.images("mnist")
    assert name == "random numbers in place of mnist"
    assert (pixels.shape, pixels.dtype, labels.max()) == ((2000, 784), np.float32, 9)
    assert pixels.mean() == pytest.approx(0.13, abs=0.01)
    assert (pixels.min(), pixels.max() <= 1) == (0, True)


def test_wrong_losses_are_found():
    assert differing({}) == {}
    assert differing({"minigrad": 2.0001, "torch": 2.0, "jax": 2.0}) == {}
    assert set(differing({"minigrad": 2.001, "torch": 2.0, "jax": 2.0})) == {"minigrad"}
    assert set(differing({"minigrad": np.nan, "torch": 2.0, "jax": 2.0})) >= {"minigrad"}


@pytest.mark.parametrize(
    ("times", "threads", "reached"),
    [(1.8, 1, {"at least": True, "to aim at": True}), (1.6, 1, {"at least": True, "to aim at": False}), (3, 3, {})],
)
def test_what_is_asked_for(times, threads, reached):
    drift = np.geomspace(1, 9, ENOUGH)  # ratios are of one round
    row = compared("ae32", threads, {"compiled": drift, "jax": times * drift, "torch": drift})
    assert (row["reference"], row["ratio"], row["ratio_95"], row["reached"]) == ("jax", times, [times, times], reached)
    few = compared("ae32", threads, {"compiled": drift[1:], "jax": drift[1:]})
    assert few["ratio"] == 1
    assert "reached" not in few


def test_convolutions_are_held_against_pytorch():
    one = np.ones(ENOUGH)
    assert compared("conv", 1, {"compiled": one, "jax": one, "torch": 2 * one})["ratio"] == 2
    assert compared("conv", 1, {"compiled": one, "jax": one}) == {}
    assert compared("ae32", 1, {"minigrad": one, "jax": one}) == {}


class Scripted:
    """Stands in for a process: it says what it is told to, and writes down who was asked."""

    def __init__(self, peer, asked, answer):
        self.peer, self.asked, self.answer = peer, asked, answer

    def ask(self, **command):
        self.asked.append((self.peer, command["steps"]))
        return self.answer

    def end(self):
        self.asked.append((self.peer, "ends"))


class ScriptedBench(Bench):
    def __init__(self, folder, **answers):
        super().__init__(folder, 1)
        self.answers, self.asked, self.caches = answers, [], {}

    def library(self, case):
        return self.folder

    def start(self, peer, case, cached):
        self.caches.setdefault(peer, []).append(cached)
        self.asked.append((peer, "starts"))
        return Scripted(peer, self.asked, self.answers[peer]), 2.0, self.answers[peer]


def answer(loss=0.5, seconds=0.02):
    memory = {"resident": 30.0, "peak": 90.5}
    return {"seconds": seconds, "loss": loss, "imported": memory, "memory": memory}


def test_peers_take_turns(tmp_path):
    (tmp_path / "kernel").touch()
    bench = ScriptedBench(tmp_path / "library", minigrad=answer(), compiled=answer(), jax=answer(0.7))
    bench.folder.mkdir()
    found = measured(bench, "ae32", ["minigrad", "compiled", "jax"], rounds=2, starts=2)
    assert set(found.failures) == {"jax"}
    assert found.seconds == {"minigrad": [0.02, 0.02], "compiled": [0.02, 0.02]}
    assert found.first == {key: [2.0, 2.0] for key in ("minigrad", COLD, "compiled", "jax")}
    cold, warm, again, *_ = bench.caches["compiled"]
    assert cold == warm != again  # each cold cache is a new one
    turns = [(peer, steps) for peer, steps in bench.asked if steps == 10]  # 0.2 s
    assert [peer for peer, _ in turns] == ["minigrad", "compiled", "compiled", "minigrad"]
    assert sum(what == "starts" for _, what in bench.asked) == sum(what == "ends" for _, what in bench.asked)


def test_tables(tmp_path, capsys, monkeypatch):
    bench = ScriptedBench(
        tmp_path, compiled={"failure": "has no compile"}, minigrad=answer(), torch=answer(), jax=answer()
    )
    found = measured(bench, "digits", ["compiled", "minigrad", "torch", "jax"], rounds=1, starts=1)
    rows = [row_of("digits", 1, found)]
    assert "compiled" not in rows[0]["first_step"].keys() | rows[0]["us"].keys()
    seconds = {peer: [3e-3] * ENOUGH for peer in PEERS} | {"compiled": [2e-3] * ENOUGH}
    first = {peer: [2.0] * training.STARTS for peer in PEERS} | {COLD: [3.5] * training.STARTS}
    memory = dict.fromkeys(PEERS, (30.0, 130.0)) | {"compiled": (30.0, 80.0)}
    full = Found(first, memory, dict.fromkeys(PEERS, 0.25), seconds)
    rows += [row_of("ae32", 2, full), row_of("chain", 1, full)]
    monkeypatch.setattr(training, "print_table", lambda *table: print(*table))
    show(json.loads(json.dumps(rows)))
    out = capsys.readouterr().out
    assert "digits without mg.compile: has no compile" in out
    assert "('digits', '20,000', '', '20,000', '', '20,000', '', '', '', '', '0.5')" in out
    assert "('ae32', '3', '2', '3', '3', '3', '1.50', '1.50-1.50', '', '2.00 NO', '0.25')" in out
    assert "('ae32', '3.50', '2.00', '2.00', '2.00', '2.00', '2.00', '1.00 ≤ 0.5 NO', '1.75 ≤ 1.5 NO')" in out
    assert "('ae32', '', '100 / 130', '50 / 80', '100 / 130', '100 / 130', '100 / 130', 'yes')" in out
    assert "('chain', '30', '20', '30', '30', '30', '1.50', '1.50-1.50', '1.00 yes', '', '0.25')" in out


def test_rows_that_are_not_run_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "RESULTS", tmp_path / "training.json")
    monkeypatch.setattr(training, "measured", lambda bench, case, *_: Found(losses={"jax": 1.0}))
    assert training.main(["--json", "--threads", "2", "--cases", "vae", "ae32"]) == 0
    assert training.main(["--json", "--threads", "1", "2", "--cases", "vae"]) == 0
    rows = json.loads((tmp_path / "training.json").read_text())["rows"]
    assert [(row["case"], row["threads"]) for row in rows] == [("vae", 1), ("ae32", 2), ("vae", 2)]
    assert training.main(["--show"]) == 0


def test_wrong_losses_are_an_error(monkeypatch):
    monkeypatch.setattr(training, "measured", lambda *_: Found(failures={"jax": "wrong loss: 1, not 2"}))
    assert training.main(["--threads", "1", "--cases", "chain"]) == 1


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--threads", "0"], ["--cases", "absent"]])
def test_command_line(wrong):
    with pytest.raises(SystemExit):
        training.main(wrong)


def test_a_process(folder):
    process = Process(1, "benchmarks.steps")
    try:
        answer = process.ask(peer="minigrad", case="chain", file=str(Bench(folder, 1).file("chain")))
        assert answer["loss"] != 0
        if Path("/proc/self/status").exists():
            assert 0 < answer["imported"]["resident"] <= answer["memory"]["peak"]
        assert process.ask(warm=1, steps=2)["seconds"] > 0
        assert process.ask(warm=0, steps=-1)["failure"].startswith("ValueError: ")
    finally:
        process.end()
