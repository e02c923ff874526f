"""What benchmarks have in common: options, files, the comparison of two runs; and the tables made from results."""

import doctest
import json

import numpy as np
import pytest

from benchmarks import __main__ as everything
from benchmarks import readme, report


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    return tmp_path


@pytest.mark.parametrize("module", [report, readme, everything])
def test_examples(module):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    found = doctest.testmod(module, optionflags=options)
    assert (found.failed, found.attempted > 0) == (0, True)


# Options


def parsed(*argv):
    return report.parse(report.parser("matmul", "How fast?\n\nMore.", ("torch", "numpy"), threads=True), argv)


def test_options(capsys):
    given = parsed("--peers", "numpy", "--threads", "2", "3")
    assert (given.peers, given.threads, given.earlier, given.json) == (["numpy"], [2, 3], None, False)
    for wrong, message in {
        ("--peers", "numpy,jax"): "'jax' is none of torch,numpy",
        ("--threads", "0"): "rounds and threads are at least 1",
        ("--against", "nowhere.json"): "--against nowhere.json: expected a result that --json wrote",
    }.items():
        with pytest.raises(SystemExit):
            parsed(*wrong)
        assert message in capsys.readouterr().err


def test_a_peer_that_is_missing_is_named(monkeypatch, capsys):
    monkeypatch.setattr(report, "find_spec", lambda name: None if name == "torch" else object())
    assert parsed().peers == ["numpy"]
    assert "PyTorch is not installed and left out" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": [{"case": "exp"}]}'])
def test_a_file_that_is_no_result(text, tmp_path, capsys):
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(SystemExit):
        parsed("--against", str(tmp_path / "old.json"))
    assert "old.json" in capsys.readouterr().err


# Files


def test_what_a_result_says_of_its_circumstances():
    found = report.circumstances("How fast?\n\nMore.", ["numpy", "no_such_package"])
    assert found["question"] == "How fast?"
    assert found["versions"]["numpy"] == np.__version__
    assert "no_such_package" not in found["versions"]
    assert found["machine"].keys() >= {"cpu", "cores", "system"}
    assert found["blas"]


def test_samples_are_one_line_of_a_file(folder):
    results = {"rows": [{"case": "exp", "samples": {"NumPy": [1e-6, 2.5, -3]}, "words": ["a", "b"]}]}
    report.write(results, folder / "exp.json")
    text = (folder / "exp.json").read_text()
    assert '"NumPy": [ 1e-06, 2.5, -3 ]' in text
    assert json.loads(text) == results
    assert [path.name for path in folder.iterdir()] == ["exp.json"]


# Two runs


def result(seed=0, **scale):
    """Samples of 25 rounds that vary by 2 %."""
    rng = np.random.default_rng(seed)
    samples = {name: list(s * rng.normal(1, 0.02, 25)) for name, s in scale.items()}
    return {"date": "2026-11-22", "rows": [{"case": "exp", "dtype": "float32", "threads": 1, "samples": samples}]}


def verdicts(before, now):
    return {row["library"]: row["verdict"] for row in report.compare(before, now)}


def test_the_same_twice_is_noise():
    assert verdicts(result(0, minigrad=1.0, NumPy=2.0), result(1, minigrad=1.0, NumPy=2.0)) == {
        "minigrad": "noise",
        "NumPy": "noise",
    }


def test_a_machine_that_is_slower_today_is_no_difference():
    rows = report.compare(result(0, minigrad=1.0, NumPy=2.0), result(1, minigrad=1.5, NumPy=3.0))
    assert [row["verdict"] for row in rows] == ["noise", "noise"]
    assert rows[0]["change"] == pytest.approx(1.5, rel=0.02)
    assert rows[0]["relative"] == pytest.approx(1.0, rel=0.02)


def test_a_difference_beside_the_peers():
    before, now = result(0, minigrad=1.0, NumPy=2.0, PyTorch=3.0), result(1, minigrad=1.2, NumPy=2.0, PyTorch=3.0)
    assert verdicts(before, now)["minigrad"] == "worse"
    assert verdicts(now, before)["minigrad"] == "better"


def test_without_peers_the_change_itself_counts():
    assert verdicts(result(0, minigrad=1.0), result(1, minigrad=0.8)) == {"minigrad": "better"}


def test_little_is_noise_however_sure():
    sure = lambda x: {"rows": [{"case": "exp", "samples": {"minigrad": [x] * 25}}]}
    assert verdicts(sure(1.0), sure(1.04)) == {"minigrad": "noise"}
    assert verdicts(sure(1.0), sure(1.06)) == {"minigrad": "worse"}


def test_one_librarys_variants_are_no_peers_of_each_other():
    before = result(0, **{"minigrad": 1.0, "minigrad, compiled": 0.5, "JAX": 1.0})
    now = result(1, **{"minigrad": 1.0, "minigrad, compiled": 1.0, "JAX": 1.0})
    assert verdicts(before, now) == {"minigrad": "noise", "minigrad, compiled": "worse", "JAX": "better"}


def test_only_what_both_have_is_compared():
    before, now = result(0, minigrad=1.0, NumPy=2.0), result(1, minigrad=1.0, PyTorch=2.0)
    assert verdicts(before, now) == {"minigrad": "noise"}
    now["rows"][0]["case"] = "tanh"
    assert report.compare(before, now) == []


def test_differences_are_shown_and_results_written(folder, tmp_path, capsys):
    report.write(result(0, minigrad=1.0, NumPy=2.0), folder / "old.json")
    given = parsed("--against", str(folder / "old.json"), "--json")
    report.finish("new", given, result(1, minigrad=2.0, NumPy=2.0))
    out = capsys.readouterr().out
    assert "Against 2026-11-22" in out
    assert "2 of 2 differences are more than noise" in out
    assert (folder / "new.json").exists()


def test_pictures(folder):
    figure, ((axes,),) = report.figure("line")
    axes.plot([1, 2])
    report.save(figure, "line")
    assert (folder / "line.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (folder / "line.svg").read_text()


# All of them, and the tables of the README


def test_every_script_has_a_question(capsys):
    assert everything.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(everything.NAMES)
    assert all(line.endswith("?") for line in lines)


def test_a_script_that_fails_is_named(monkeypatch, capsys):
    ran = []

    def run(command):
        ran.append(command[2:])
        return type("Done", (), {"returncode": int("matmul" in command[2])})

    monkeypatch.setattr(everything.subprocess, "run", run)
    assert everything.main(["--only", "overhead", "matmul"]) == 1
    assert ran == [["benchmarks.overhead", "--quick"], ["benchmarks.matmul", "--quick"]]
    assert "failed: matmul" in capsys.readouterr().err


@pytest.mark.parametrize("name", readme.FILES)
def test_the_tables_are_what_the_results_say(name):
    """If not: python -m benchmarks.readme."""
    text = (readme.ROOT / name).read_text("utf-8")
    assert readme.MARKS.search(text)
    assert readme.filled(text) == text


def test_a_table_is_replaced_and_nothing_else(monkeypatch):
    monkeypatch.setitem(readme.TABLES, "answer", lambda: "42")
    page = "before\n<!-- answer: of everything -->\n41\n<!-- end -->\nafter\n"
    new = "before\n<!-- answer: of everything -->\n\n42\n\n<!-- end -->\nafter\n"
    assert readme.filled(page) == new == readme.filled(new)
    with pytest.raises(KeyError, match="question"):
        readme.filled("<!-- question: of what -->\n<!-- end -->")
