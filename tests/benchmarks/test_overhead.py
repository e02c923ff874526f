"""What benchmarks.overhead makes of seconds, and that every engine really differentiates the chain."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

import minigrad as mg
from benchmarks import overhead, report, startup
from benchmarks.overhead import OPERATIONS, PEERS, ByHand, Minigrad, measure, row_of
from benchmarks.report import ENOUGH

# Seconds of forward, backward and freeing, such that an operation takes 1, 2 and 0.5 µs, and so on
KNOWN = {"minigrad": (1, 2, 0.5), "PyTorch": (2, 4, 0.5), "NumPy": (0.5, 0.5, 0)}


@pytest.fixture(autouse=True)
def threads():
    """minigrad's engine asks for one thread."""
    before = mg.kernels.num_threads()
    yield
    mg.kernels.set_num_threads(before)


def known(drift=None, **replaced):
    drift = np.ones(ENOUGH) if drift is None else drift
    seconds = KNOWN | replaced
    return {name: drift[:, None] * np.array(parts) * OPERATIONS / 1e6 for name, parts in seconds.items()}


@pytest.mark.parametrize("parameters", [False, True])
@pytest.mark.parametrize("package", PEERS)
def test_engines_agree(package, parameters):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    seconds = measure([Minigrad, PEERS[package]], (8,), parameters, rounds=2)
    assert list(seconds) == ["minigrad", report.PACKAGES[package]]
    for of_engine in seconds.values():
        assert of_engine.shape == (2, 3)
        assert (of_engine >= 0).all()


def test_parameters_by_hand():
    """NumPy's sums over all uses of w and b are what minigrad finds."""
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=4), 1 + 0.01 * rng.normal(size=4), 0.01 * rng.normal(size=4)]
    by_hand, ours = ByHand(*arrays, parameters=True), Minigrad(*arrays, parameters=True)
    by_hand.run()
    ours.run()
    for found, tensor in zip(by_hand.last, (ours.x, ours.w, ours.b), strict=True):
        np.testing.assert_allclose(found, tensor.grad.data, rtol=1e-12)


def test_a_wrong_gradient_is_refused():
    class Wrong(ByHand):
        name = "wrong"

        def gradient(self):
            return super().gradient() * 1.01

    with pytest.raises(RuntimeError, match="wrong and minigrad disagree on the gradient"):
        measure([Minigrad, Wrong], (8,), False, rounds=1)


def test_row():
    row = row_of((8,), False, known(drift=np.linspace(1, 5, ENOUGH)))  # the machine becomes slower and slower
    assert row["case"] == "(8,), x alone needs a gradient"
    assert row["us"] == {"minigrad": 9.0, "PyTorch": 18.0, "NumPy": 3.0}
    assert row["forward_us"]["minigrad"] == 3.0
    assert row["backward_us"]["PyTorch"] == 12.0
    assert row["free_us"]["minigrad"] == 1.5
    assert row["over_torch"]["minigrad"] == {"ratio": 0.5, "ratio_95": [0.5, 0.5]}
    assert "PyTorch" not in row["over_torch"]
    assert row["samples"]["minigrad"][0] == 3e-6
    assert len(row["samples"]["NumPy"]) == ENOUGH


def test_without_pytorch_there_is_no_ratio(capsys):
    seconds = known()
    seconds.pop("PyTorch")
    row = row_of((32, 32), True, seconds)
    assert "over_torch" not in row
    overhead.print_row(row)
    printed = capsys.readouterr().out
    assert "(32, 32), x, w and b need gradients" in printed
    assert "3.00" in printed


def test_json_plot_and_against(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(overhead, "measure", lambda engines, shape, parameters, rounds: known())
    overhead.main(["--json", "--plot", "--quick", "--peers", "numpy"])
    written = json.loads((tmp_path / "overhead.json").read_text("utf-8"))
    assert written["rounds"] == overhead.QUICK_ROUNDS
    assert [(row["shape"], row["parameters_need_gradients"]) for row in written["rows"]] == [
        ([8], False), ([32, 32], False), ([8], True), ([32, 32], True),
    ]  # fmt: skip
    assert (tmp_path / "overhead.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "overhead.svg").read_text()
    slower = known(minigrad=(2, 4, 0.5))
    monkeypatch.setattr(overhead, "measure", lambda engines, shape, parameters, rounds: slower)
    capsys.readouterr()
    overhead.main(["--against", str(tmp_path / "overhead.json")])
    assert "worse" in capsys.readouterr().out


def test_guarantees(monkeypatch):
    """Every statement of the list runs."""
    monkeypatch.setattr(overhead, "nanoseconds", lambda statement, names: exec(statement, dict(names)) or 5.0)
    assert {cells[2] for cells in overhead.guarantees()} == {"5"}


def test_nanoseconds(monkeypatch):
    """A statement's time is that beyond an empty one, of the least disturbed of several measurements."""
    loops = {"work": [0.9, 0.5, 0.7], "pass": [0.1, 0.2, 0.3]}
    monkeypatch.setattr(overhead.timeit, "repeat", lambda code, globals, number, repeat: loops[code])
    assert overhead.nanoseconds("work", {}) == pytest.approx(0.4 / 20_000 * 1e9)


def test_import(monkeypatch, capsys):
    monkeypatch.setattr(startup, "imports", lambda rounds: {"minigrad": [0.25], "NumPy alone": [0.125]})
    overhead.main(["--import"])
    assert "0.125" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "jax"], "'jax' is none of torch,autograd,mygrad,numpy"),
        (["--rounds", "0"], "at least 1"),
        (["--guarantees", "--import"], "not allowed with"),
        (["--against", "absent.json"], "expected a result"),
    ],
)
def test_wrong_options(options, message, capsys):
    with pytest.raises(SystemExit):
        overhead.main(options)
    assert message in capsys.readouterr().err
