"""benchmarks.memory: what it counts is what is there, all libraries train the same; and its rows and tables."""

import doctest
import json
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from benchmarks import memory, report
from benchmarks.memory import (
    LIBRARIES,
    MIB,
    OF_CHAINS,
    STEPS,
    Found,
    Net,
    allocated,
    asked,
    autoencoder,
    chain_of,
    lines_of,
    measured,
    row_of,
    trained,
)

TINY = Net("tiny", [(6, 5), (5, 4), (4, 5), (5, 6)], 3, 2, linear=(1,))


def test_examples():
    assert doctest.testmod(memory).failed == 0


def chain(depth, width=8, batch=16):
    return replace(chain_of(depth), shapes=[(width, width)], batch=batch)


def installed(library):
    return pytest.importorskip(LIBRARIES[library][0])


def test_blocks():
    assert TINY.blocks("abcd", "!") == [["a", "!", "b"], ["c", "!", "d"]]
    assert replace(TINY, repeats=3, linear=(), every=2).blocks("w", "!") == [["w", "!", "w", "!"], ["w"]]


def test_nets():
    assert [len(block) for block in autoencoder(128).blocks(range(8), "!")] == [4, 3, 4, 3]
    for depth in memory.DEPTHS:
        net = chain_of(depth)
        assert net.every**2 == depth
        assert len(net.blocks("w", "!")) == net.every
    (w, b), = net.data()[0]  # fmt: skip
    np.testing.assert_array_equal(w, np.eye(memory.WIDTH))
    assert not b.any()


def test_data_is_the_same_every_time():
    (weights, batch), (again, other) = TINY.data(), TINY.data()
    np.testing.assert_array_equal(batch, other)
    np.testing.assert_equal(weights, again)
    assert {x.dtype for pair in weights for x in pair} | {batch.dtype} == {np.dtype("f")}
    assert (batch.min() >= 0, batch.max() < 1) == (True, True)


def saved_by_nodes(loss, given):
    """Bytes of the arrays that the nodes of a graph save, without those that were given."""
    found, seen, stack = {}, set(), [loss.node]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        stack += getattr(node, "parents", ())
        items = list(getattr(node, "saved", None) or ())
        while items:
            x = items.pop()
            if isinstance(x, tuple):
                items += x
            elif isinstance(x, np.ndarray):
                while x.base is not None:
                    x = x.base
                found[id(x)] = x.nbytes
    return sum(n for key, n in found.items() if key not in {id(array) for array in given})


def test_what_is_allocated_is_what_the_nodes_save():
    net = mg.nn.Sequential(mg.nn.Linear(6, 40), mg.nn.ReLU(), mg.nn.Linear(40, 6))
    x = mg.Tensor(np.linspace(0, 1, 18, dtype="f").reshape(3, 6))
    forward = lambda: mg.bce_with_logits(net(x), x)
    forward().backward()  # what is loaded at first use is no activation
    expected = saved_by_nodes(forward(), [x.array, *(p.array for p in mg.trees.flatten(net)[0])])
    assert expected >= 4 * 3 * 40
    assert expected <= allocated(forward) <= expected + 64  # the scalars, too
    assert allocated(lambda: x) == 0


@pytest.mark.parametrize("library", OF_CHAINS)
def test_live_activations_of_a_chain(library):
    """∝ L without checkpoints, ∝ √L with them; what PyTorch keeps can be said to the byte."""
    installed(library)
    activation = 4 * 8 * 16 / MIB
    kept = {depth: trained(library, asdict(chain(depth)))["kept"] / activation for depth in (4, 16, 64)}
    grows = (kept[64] - kept[16]) / (kept[16] - kept[4])
    if library.endswith("checkpointed"):
        assert grows == pytest.approx(2, rel=0.15)
        assert kept[64] < 16
    else:
        assert grows == pytest.approx(4, rel=0.05)
        assert kept[64] >= 64
    if library.startswith("PyTorch"):
        assert kept == ({4: 2, 16: 4, 64: 8} if library.endswith("checkpointed") else {4: 4, 16: 16, 64: 64})


@pytest.mark.parametrize("net", [TINY, chain(4)], ids=["tiny", "chain"])
def test_libraries_train_the_same(net):
    losses = {}
    for library, (package, _) in LIBRARIES.items():
        if (net is TINY or library in OF_CHAINS) and find_spec(package):
            losses[library] = trained(library, json.loads(json.dumps(asdict(net))))["loss"]
    assert {"minigrad", "minigrad, checkpointed"} <= losses.keys()
    assert memory.differing(losses) == {}
    assert np.isfinite(list(losses.values())).all()


def test_weights_are_changed():
    step = memory.of_minigrad(replace(TINY, rate=0.1)).step
    first, *_, last = [step().item() for _ in range(STEPS)]
    assert last < first


def test_compiled_steps_have_no_live_activations():
    assert "kept" not in trained("minigrad, compiled", asdict(TINY))


def test_a_process():
    answer = asked("minigrad", TINY)
    assert answer["loss"] > 0
    if Path("/proc/self/status").exists():
        assert 0 < answer["imported"]["resident"] <= answer["memory"]["peak"]
    assert asked("absent", TINY) == {"failure": "KeyError: 'absent'"}


# What is made of it


def answer(loss=0.5, peak=130.0, kept=2.0):
    found = {"loss": loss, "imported": {"resident": 30.0, "peak": 31.0}, "memory": {"resident": 90.0, "peak": peak}}
    return found | ({} if kept is None else {"kept": kept})


@pytest.fixture
def scripted(monkeypatch):
    """No process runs: libraries answer what is set here, and who is asked is written down."""
    answers = {name: answer() for name in LIBRARIES} | {"PyTorch": answer(peak=80.0), "JAX": answer(kept=None)}
    questions = []

    def ask(library, net):
        questions.append(library)
        return answers[library]

    monkeypatch.setattr(memory, "asked", ask)
    return answers, questions


def test_libraries_take_turns(scripted):
    _, questions = scripted
    found = measured(["minigrad", "PyTorch", "JAX"], TINY, 2)
    fills_its_cache, *turns = questions
    assert fills_its_cache == "minigrad"
    assert turns == ["PyTorch", "JAX", "minigrad", "JAX", "minigrad", "PyTorch"]
    assert found.above == {"minigrad": [100.0] * 2, "PyTorch": [50.0] * 2, "JAX": [100.0] * 2}
    assert found.peak["PyTorch"] == [80.0] * 2
    assert found.kept == {"minigrad": 2.0, "PyTorch": 2.0}


def test_who_fails_or_trains_otherwise_is_out(scripted):
    answers, questions = scripted
    answers |= {"JAX": {"failure": "the process died"}, "minigrad, compiled": answer(loss=0.6)}
    found = measured(["minigrad", "minigrad, compiled", "PyTorch", "JAX"], TINY, 3)
    assert found.failures == {"JAX": "the process died", "minigrad, compiled": "wrong loss: 0.6, not 0.5"}
    assert questions.count("JAX") == 1
    row = row_of(TINY, found)
    assert row["samples"].keys() == row["loss"].keys() == {"minigrad", "PyTorch"}
    assert memory.differing({"minigrad": np.nan, "PyTorch": 0.5, "JAX": 0.5}).keys() >= {"minigrad"}


def test_a_row():
    found = Found(
        above={"PyTorch": [50.0, 40.0], "minigrad": [100.0, 80.0]}, peak={"minigrad": [130.0, 110.0]},
        kept={"minigrad": 2.0}, losses={"PyTorch": 0.5, "minigrad": 0.5, "JAX": 0.5},
    )  # fmt: skip
    row = row_of(TINY, found)
    assert list(row["samples"]) == ["minigrad", "PyTorch"]
    assert (row["unit"], row["threads"], row["layers"], row["every"]) == ("MiB", 1, 4, 2)
    assert row["by_pytorch"]["minigrad"] == {"ratio": 2.0, "ratio_95": [2.0, 2.0]}
    assert lines_of(row, "minigrad") == ("minigrad", "2", "90", "85 to 95", "2.00", "2.00 to 2.00", "120")
    assert lines_of(row, "JAX") == ("JAX", "", "", "", "", "", "")  # a system that does not tell the peak


def test_all_of_it(scripted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "find_spec", lambda name: object())
    memory.main(["--quick", "--json", "--plot"])
    result = json.loads((tmp_path / "memory.json").read_text())
    assert [row["case"] for row in result["rows"]] == ["deep autoencoder, batch 128", "chain of 4", "chain of 16"]
    assert result["rounds"] == 1
    assert set(result["rows"][1]["samples"]) == set(OF_CHAINS)
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "memory.svg").exists()
    memory.main(["--quick", "--against", str(tmp_path / "memory.json")])
    assert "0 of 14 differences are more than noise" in capsys.readouterr().out


def test_peers_can_be_left_out(scripted, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: object())
    memory.main(["--quick", "--peers", "jax", "--rounds", "2"])
    assert not any(name.startswith("PyTorch") for name in scripted[1])


def test_wrong_losses_are_an_error(scripted, monkeypatch, capsys):
    monkeypatch.setattr(report, "find_spec", lambda name: object())
    scripted[0]["minigrad, checkpointed"] = answer(loss=0.7)
    with pytest.raises(SystemExit, match="there are wrong losses"):
        memory.main(["--quick"])
    assert "chain of 16 without minigrad, checkpointed: wrong loss: 0.7, not 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--peers", "numpy"], ["--threads", "2"]])
def test_command_line(wrong, capsys):
    with pytest.raises(SystemExit):
        memory.main(wrong)
    assert wrong[0].lstrip("-") in capsys.readouterr().err
