"""The cases of benchmarks.training: that all libraries train the same, and what becomes of their times."""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from benchmarks import by_hand, cases, floor, report, training
from benchmarks.by_hand import Descent, Net, flat
from benchmarks.cases import BATCHES, CASES, arrays
from benchmarks.interleaved import Process
from benchmarks.report import ENOUGH
from benchmarks.steps import LIBRARIES, Run
from benchmarks.training import COLD, OURS, Bench, Found, arguments, compared, differing, measured, row_of, show
from models import datasets

SMALL = ("ae32", "vae", "gan", "digits", "conv", "chain")
# All are compared whenever the benchmark runs; C++ compilers, for one, take their time.
AGREE = [(library, case) for library in ("autograd", "MyGrad", "NumPy") for case in SMALL]
AGREE += [(library, case) for library in ("PyTorch", "PyTorch, fused", "JAX") for case in ("gan", "digits", "chain")]
AGREE += [("PyTorch, fused", "conv")]
AGREE += [(OURS, case) for case in ("ae32", "gan", "digits", "chain")]


@pytest.fixture(autouse=True)
def no_images(monkeypatch):
    """Nothing is read or downloaded."""

    def load(name):
        raise datasets.DataError(name)

    monkeypatch.setattr(datasets, "load", load)
    cases.images.cache_clear()
    yield
    cases.images.cache_clear()


@pytest.fixture
def folder_of_results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arrays")


@pytest.fixture(scope="module")
def loss_of(folder):
    @cache
    def loss_of(library, case):
        run = Run(library, case, str(Bench(folder, 1).file(case)))
        first, then = (run.steps(warm=0, steps=count)["loss"] for count in (1, BATCHES))
        assert then < first or case in ("gan", "chain")  # the first batch again
        return then

    return loss_of


@pytest.mark.parametrize(("library", "case"), AGREE)
def test_libraries_agree(library, case, loss_of):
    pytest.importorskip(LIBRARIES[library][0])
    if (library, case) == ("autograd", "conv"):
        with pytest.raises(NotImplementedError, match=r"scipy.signal.convolve"):
            loss_of(library, case)
    else:
        assert differing({name: loss_of(name, case) for name in ("minigrad", library)}) == {}


@pytest.mark.parametrize("case", ["ae32", "vae", "digits"])
def test_gradients_by_hand(case, monkeypatch):
    """Those with which `Descent` is called, beside differences of the loss in the first weights and the last."""
    shown = []
    monkeypatch.setattr(Descent, "step", lambda self, gradients: shown.append((self.parameters, [*gradients])))
    made = {name: x.astype("f8") if x.dtype == "f" else x for name, x in arrays(case).items()}
    weights = [(made[f"w{i}"], made[f"b{i}"]) for i in range(len(CASES[case].shapes))]
    batch = [made[name] for name in ("x0", "y0") if name in made]
    step = by_hand.of_numpy(CASES[case], weights)
    step(*batch)
    parameters, gradients = shown[0]
    for p, g in [(parameters[0], gradients[0].copy()), (parameters[-1], gradients[-1].copy())]:
        i = np.unravel_index(np.abs(g).argmax(), g.shape)
        middle, losses = p[i], []
        for shift in (-1e-3, 1e-3):
            p[i] = middle + shift
            losses.append(step(*batch))
        p[i] = middle
        assert (losses[1] - losses[0]) / 2e-3 == pytest.approx(g[i], rel=1e-3)


@pytest.mark.parametrize("beta", [0.9, None])
def test_descent_is_that_of_the_library(beta):
    case, rng = cases.Case("autoencoder", 1, rate=0.1, beta=beta), np.random.default_rng(0)
    p = mg.Tensor(rng.normal(size=(3, 2)), requires_grad=True)
    mine, optimizer = p.data.copy(), mg.optim.SGD([p], 0.1) if beta is None else mg.optim.Adam([p], 0.1)
    descent = Descent(case, [mine])
    for g in rng.normal(size=(5, 3, 2)):
        descent.step([g])
        (p * g).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    np.testing.assert_allclose(mine, p.data, rtol=1e-6)


def test_layers_stay_linear_if_they_are_to():
    weights = [(-np.ones((1, 1)), np.zeros(1))] * 3
    outputs = [Net.mlp(weights, 1, "relu", linear).forward(np.ones((1, 1))).item() for linear in ((), (0,), (0, 1))]
    assert outputs == [0, -1, -1]
    assert len(flat(weights)) == 6


@pytest.mark.parametrize("case", CASES)
def test_data(case):
    made = arrays(case)
    assert {x.dtype for x in made.values()} <= {np.dtype("f"), np.dtype("i8")}
    assert len(made[f"x{BATCHES - 1}"]) == CASES[case].batch
    assert [made[f"w{i}"].shape for i in range(len(CASES[case].shapes))] == [*CASES[case].shapes]
    for name, x in arrays(case).items():
        np.testing.assert_array_equal(x, made[name])


def test_random_images_are_said_to_be_random():
    pixels, labels, name = cases.images("mnist")
    assert name == "random numbers in place of mnist"
    assert (pixels.shape, pixels.dtype, labels.max()) == ((2000, 784), np.float32, 9)
    assert pixels.mean() == pytest.approx(0.13, abs=0.01)
    assert (pixels.min(), pixels.max() <= 1) == (0, True)


def test_wrong_losses_are_found():
    assert differing({}) == {}
    assert differing({"minigrad": 2.0001, "PyTorch": 2.0, "JAX": 2.0}) == {}
    assert set(differing({"minigrad": 2.001, "PyTorch": 2.0, "JAX": 2.0})) == {"minigrad"}
    assert set(differing({"minigrad": np.nan, "PyTorch": 2.0, "JAX": 2.0})) >= {"minigrad"}


@pytest.mark.parametrize(
    ("times", "threads", "reached"),
    [(1.8, 1, {"at least": True, "to aim at": True}), (1.6, 1, {"at least": True, "to aim at": False}), (3, 3, {})],
)
def test_what_is_asked_for(times, threads, reached):
    drift = np.geomspace(1, 9, ENOUGH)  # ratios are of one round
    row = compared("ae32", threads, {OURS: drift, "JAX": times * drift, "PyTorch": drift})
    assert (row["reference"], row["ratio"], row["ratio_95"], row["reached"]) == ("JAX", times, [times, times], reached)
    few = compared("ae32", threads, {OURS: drift[1:], "JAX": drift[1:]})
    assert few["ratio"] == 1
    assert "reached" not in few


def test_convolutions_are_held_against_pytorch():
    one = np.ones(ENOUGH)
    assert compared("conv", 1, {OURS: one, "JAX": one, "PyTorch, fused": 2 * one})["ratio"] == 2
    assert compared("conv", 1, {OURS: one, "JAX": one}) == {}
    assert compared("ae32", 1, {"minigrad": one, "JAX": one}) == {}


class Scripted:
    """Stands in for a process: it says what it is told to, and writes down who was asked."""

    def __init__(self, library, asked, answer):
        self.name, self.asked, self.answer = library, asked, answer

    def ask(self, **command):
        self.asked.append((self.name, command["steps"]))
        return self.answer

    def end(self):
        self.asked.append((self.name, "ends"))


class ScriptedBench(Bench):
    def __init__(self, folder, answers):
        super().__init__(folder, 1)
        self.answers, self.asked, self.caches = answers, [], {}

    def kernels(self, case):
        path = self.folder / "kernels"
        path.mkdir(parents=True)
        return path

    def start(self, library, case, cached):
        self.caches.setdefault(library, []).append(cached)
        self.asked.append((library, "starts"))
        return Scripted(library, self.asked, self.answers[library]), 2.0, self.answers[library]


def answer(loss=0.5, seconds=0.02):
    memory = {"resident": 30.0, "peak": 90.5}
    return {"seconds": seconds, "loss": loss, "imported": memory, "memory": memory}


def test_libraries_take_turns(tmp_path):
    bench = ScriptedBench(tmp_path, {"minigrad": answer(), OURS: answer(), "JAX": answer(0.7)})
    found = measured(bench, "ae32", ["minigrad", OURS, "JAX"], rounds=2, starts=2)
    assert set(found.failures) == {"JAX"}
    assert found.seconds == {"minigrad": [0.02, 0.02], OURS: [0.02, 0.02]}
    assert found.first == {key: [2.0, 2.0] for key in ("minigrad", OURS + COLD, OURS, "JAX")}
    cold, warm, again, *_ = bench.caches[OURS]
    assert cold == warm != again  # each cold cache is a new one
    assert not any(" " in path.name for path in bench.caches[OURS])  # g++ would take it for two
    turns = [library for library, count in bench.asked if count == 10]  # 0.2 s
    assert turns == ["minigrad", OURS, OURS, "minigrad"]
    assert sum(what == "starts" for _, what in bench.asked) == sum(what == "ends" for _, what in bench.asked)


def full():
    """What is found if nothing fails."""
    seconds = {library: [3e-3] * ENOUGH for library in LIBRARIES} | {OURS: [2e-3] * ENOUGH}
    first = {library: [2.0] * training.STARTS for library in LIBRARIES} | {OURS + COLD: [3.5] * training.STARTS}
    memory = dict.fromkeys(LIBRARIES, (30.0, 130.0)) | {OURS: (30.0, 80.0)}
    return Found(first, memory, dict.fromkeys(LIBRARIES, 0.25), seconds)


def test_tables(tmp_path, capsys, monkeypatch):
    libraries = {OURS: {"failure": "has no compile"}, "minigrad": answer(), "PyTorch": answer(), "JAX": answer()}
    found = measured(ScriptedBench(tmp_path, libraries), "digits", [*libraries], rounds=1, starts=1)
    rows = [row_of("digits", 1, found)]
    assert OURS not in rows[0]["first_step"].keys() | rows[0]["us"].keys() | rows[0]["samples"].keys()
    monkeypatch.setattr(training, "print_table", lambda *table: print(*table))
    show(json.loads(json.dumps(rows)))
    out = capsys.readouterr().out
    assert "digits without minigrad, compiled: has no compile" in out
    assert "('digits', '20,000', '', '20,000', '20,000', '', '', '', '', '0.5')" in out
    assert "NumPy" not in out  # nobody asked for it
    rows = [row_of("ae32", 2, full()), row_of("chain", 1, full())]
    show(json.loads(json.dumps(rows)))
    out = capsys.readouterr().out
    three, two, memory = ("'3', " * 7)[:-2], ("'2.00', " * 7)[:-2], "'100 / 130'"
    assert f"('ae32', '3', '2', {three}, '1.50', '1.50-1.50', '', '2.00 NO', '0.25')" in out
    assert "('case', 'minigrad', 'minigrad, compiled, cold', 'minigrad, compiled', 'PyTorch', 'PyTorch, fused', " in out
    warm, cold = "'1.00 ≤ 0.5 NO'", "'1.75 ≤ 1.5 NO'"
    assert f"('ae32', '2.00', '3.50', '2.00', '2.00', '2.00', '', {two[8 * 2 :]}, {warm}, {cold})" in out
    assert f"('ae32', {memory}, '', '50 / 80', {memory}, {memory}, '', " in out
    assert "'yes')" in out
    assert f"('chain', '30', '20', {three.replace('3', '30')}, '1.50', '1.50-1.50', '1.00 yes', '', '0.25')" in out


def test_a_result_has_its_circumstances_and_samples(folder_of_results, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(training, "measured", lambda *_: full())
    assert training.main(["--json", "--plot", "--threads", "1", "2", "--cases", "vae", "ae32"]) == 0
    path = folder_of_results / "training.json"
    results = json.loads(path.read_text())
    assert results.keys() >= {"question", "date", "machine", "versions", "blas"}
    assert what_is_in(path) == [(1, "ae32"), (1, "vae"), (2, "ae32"), (2, "vae")]
    row = results["rows"][0]
    assert (row["unit"], row["samples"][OURS], row["us"]["NumPy"]) == ("s", [2e-3] * ENOUGH, 3000)
    assert row["quartiles"]["JAX"] == [3e-3] * 3
    for kind in ("png", "svg"):
        assert (folder_of_results / f"training.{kind}").stat().st_size > 1000
    capsys.readouterr()
    assert training.main(["--show", "--against", str(path)]) == 0
    assert f"0 of {4 * len(LIBRARIES)} differences are more than noise" in capsys.readouterr().out


def what_is_in(path):
    return [(row["threads"], row["case"]) for row in json.loads(path.read_text())["rows"]]


def test_what_was_measured_stays(folder_of_results, monkeypatch):
    """Beside other cases, and if the run is stopped; but not beside results of other circumstances."""
    asked = []

    def measured(bench, case, libraries, rounds, starts):
        asked.append((case, bench.threads, starts))
        if case == "gan":
            raise KeyboardInterrupt
        return full()

    monkeypatch.setattr(training, "measured", measured)
    path = folder_of_results / "training.json"
    training.main(["--json", "--threads", "1", "2", "--cases", "vae"])
    assert asked == [("vae", 1, training.STARTS), ("vae", 2, 1)]
    with pytest.raises(KeyboardInterrupt):
        training.main(["--json", "--threads", "2", "--cases", "ae32", "gan"])
    assert what_is_in(path) == [(1, "vae"), (2, "ae32"), (2, "vae")]
    monkeypatch.setattr(training.report, "blas", lambda: "another")
    training.main(["--json", "--threads", "1", "--cases", "digits"])
    assert what_is_in(path) == [(1, "digits")]


def test_peers_are_chosen_by_package(folder_of_results, monkeypatch):
    asked = []
    monkeypatch.setattr(training, "measured", lambda bench, case, libraries, *_: asked.append(libraries) or Found())
    training.main(["--peers", "numpy", "--threads", "1", "--cases", "digits"])
    assert asked == [["minigrad", OURS, "NumPy"]]
    if find_spec("torch"):
        training.main(["--peers", "torch", "--threads", "1", "--quick"])
        assert asked[1:] == [["minigrad", OURS, "PyTorch", "PyTorch, fused", "PyTorch, compiled"]]


def test_the_floor_stands_beside_the_table(folder_of_results, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(training, "measured", lambda *_: full())
    least = {"step": [4e-3] * 3, "floor": [1e-3] * 3, "gflops": [50.0] * 3, "gb_a_second": [9.0] * 3}
    ran = []

    def run(command, env, **_):
        ran.append((command[-1], env["MINIGRAD_NUM_THREADS"]))
        return type("Done", (), {"stdout": json.dumps(least)})

    monkeypatch.setattr(floor.subprocess, "run", run)
    monkeypatch.setattr(floor, "print_table", lambda *table: print(*table))
    given = ["--against", "floor", "--threads", "2", "--cases", "ae32", "conv", "--json"]
    assert training.main(given) == 0
    assert "A compiled step beside its floor, µs, 2 threads" in (out := capsys.readouterr().out)
    assert "('ae32', '4,000', '1,000', '0.25', '0.25-0.25', '50', '9')" in out
    assert len(ran) == 1  # convolutions have no floor
    assert "'ae32'" in ran[0][0]
    assert ran[0][1] == "2"
    (row,) = json.loads((folder_of_results / "training.json").read_text())["floor"]
    assert (row["ratio"], row["samples"]["floor"]) == (0.25, [1e-3] * 3)
    floor.main(["--threads", "1", "--cases", "digits", "vae", "--plot", "--json"])
    assert (folder_of_results / "floor.png").exists()
    written = json.loads((folder_of_results / "floor.json").read_text())
    assert [row["case"] for row in written["rows"]] == ["digits", "vae"]


def test_a_floor_is_below_its_step():
    found = floor.measured("digits", rounds=2)
    assert {len(samples) for samples in found.values()} == {2}
    assert all(value > 0 for samples in found.values() for value in samples)


def test_operations_of_products():
    x, w = (mg.zeros(shape, dtype="float32") for shape in ((3, 4), (4, 5)))
    step = mg.compile(lambda x: mg.tanh(x @ w))
    step(x)
    assert floor.product_operations(step) == 2 * 3 * 4 * 5


def test_earlier_formats_are_refused(folder_of_results, capsys):
    path = folder_of_results / "training.json"
    path.write_text(json.dumps({"question": "?", "rows": [{"case": "ae32", "threads": 1, "us": {"jax": 1.0}}]}))
    assert training.main(["--show"]) == 1
    assert "measure anew" in capsys.readouterr().out


def test_wrong_losses_are_an_error(monkeypatch):
    monkeypatch.setattr(training, "measured", lambda *_: Found(failures={"JAX": "wrong loss: 1, not 2"}))
    assert training.main(["--threads", "1", "--cases", "chain"]) == 1
    monkeypatch.setattr(training, "measured", lambda *_: Found(failures={"JAX": "the process died"}))
    assert training.main(["--threads", "1", "--cases", "chain"]) == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--rounds", "0"], "at least 1"),
        (["--threads", "0"], "at least 1"),
        (["--cases", "absent"], "invalid choice"),
        (["--peers", "jax.jit"], "is none of torch,jax,autograd,mygrad,numpy"),
        (["--against", "absent"], "expected a result"),
        (["--show"], "--json writes it"),
    ],
)
def test_command_line(wrong, message, folder_of_results, capsys):
    with pytest.raises(SystemExit):
        arguments(wrong)
    assert message in capsys.readouterr().err


def test_a_process(folder):
    process = Process(1, "benchmarks.steps")
    try:
        answer = process.ask(library="minigrad", case="chain", file=str(Bench(folder, 1).file("chain")))
        assert answer["loss"] != 0
        if Path("/proc/self/status").exists():
            assert 0 < answer["imported"]["resident"] <= answer["memory"]["peak"]
        assert process.ask(warm=1, steps=2)["seconds"] > 0
        assert process.ask(warm=0, steps=-1)["failure"].startswith("ValueError: ")
    finally:
        process.end()
