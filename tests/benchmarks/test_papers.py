"""The table of published numbers: what counts as reached, and that a run's failure is not passed over."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import papers, report
from benchmarks.papers import Number, Row, margin, measured, ratio


def row(least: float | None = None, most: float | None = None) -> Row:
    return Row("toy", "paper", "as it is", (Number("score", papers.one("a", "b"), "2", least, most),), seeds=(3, 4))


def answered(monkeypatch: pytest.MonkeyPatch, summaries: list[dict[str, Any]]) -> list[int]:
    """Let runs end with these summaries, without running anything; returns the list of seeds that were asked for."""
    seeds: list[int] = []

    def run(row: Row, seed: int) -> dict[str, Any]:
        seeds.append(seed)
        return {"seconds": 90.0, "peak_mib": 100.4 + seed, "summary": summaries[len(seeds) - 1]}

    monkeypatch.setattr(papers, "run", run)
    return seeds


@pytest.mark.parametrize(
    ("least", "most", "reached"),
    [(None, None, True), (2.5, None, True), (2.6, None, False), (None, 2.5, True), (None, 2.4, False), (2, 3, True)],
)
def test_what_is_reached(monkeypatch: pytest.MonkeyPatch, least: float, most: float, reached: bool) -> None:
    seeds = answered(monkeypatch, [{"a": {"b": 2.5}, "settings": {"n": i}, "threads": 2} for i in range(2)])
    found = measured(row(least, most))
    assert seeds == found["seeds"] == [3, 4]
    assert found["numbers"][0] | {"ours": 2.5, "reached": reached} == found["numbers"][0]
    assert found["settings"] == [{"n": 0}, {"n": 1}]
    assert found["machine"]["threads"] == 2
    assert found["minutes"] == [1.5, 1.5]
    assert found["peak_mib"] == 104


def test_a_number_that_is_none_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    answered(monkeypatch, [{"a": {"b": float("nan")}, "settings": {}, "threads": 2}] * 2)
    assert not measured(row(least=1.0))["numbers"][0]["reached"]


def test_a_quotient() -> None:
    assert ratio(("a", "b"), ("c",))([{"a": {"b": 3.0}, "c": 2.0}]) == 1.5


def test_only_some_rows_are_run_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    other = Row("other", "paper", "also", row().numbers)
    monkeypatch.setattr(papers, "ROWS", (row(least=3.0), other))
    answered(monkeypatch, [{"a": {"b": 2.0 + i}, "settings": {}, "threads": 2} for i in range(3)])
    assert papers.main(["--json", "--only", "toy"]) == 1
    assert papers.main(["--json", "--only", "other-paper"]) == 0
    assert list(json.loads((tmp_path / "papers.json").read_text("utf-8"))) == ["toy-paper", "other-paper"]
    capsys.readouterr()
    assert papers.main(["--show"]) == 0
    shown = capsys.readouterr().out
    assert "toy-paper: as it is" in shown
    assert "✗" in shown


def test_a_run_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(SystemExit, match="toy-paper: the command above ended with exit code 1"):
        papers.run(row(), 0)


def test_quick_stands_for_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    found = {"minutes": [1.0], "peak_mib": 1, "numbers": [], "protocol": ""}
    monkeypatch.setattr(papers, "measured", lambda row: chosen.append(row.name) or found)
    assert papers.main(["--quick"]) == 0
    assert chosen == list(papers.QUICK)


@pytest.mark.parametrize(
    ("ours", "least", "most", "beyond"),
    [
        (1.1, 1.0, None, 0.1),
        (-103.0, -100.0, None, -0.03),
        (1.5, None, 2.0, 0.25),
        (1.0, 0.5, 1.25, 0.2),  # the nearer one of two
        (0.1, 0.0, None, 0.1),
    ],
)
def test_margins(ours: float, least: float | None, most: float | None, beyond: float) -> None:
    assert margin({"ours": ours, "least": least, "most": most}) == pytest.approx(beyond)


def stored(folder: Path, ours: float) -> Path:
    """A file of results with one row."""
    number = {"name": "score", "ours": ours, "published": "2", "reached": ours >= 1, "least": 1.0, "most": None}
    further = number | {"name": "... of others", "ours": 3.0, "reached": True, "least": None}
    found = {"minutes": [1.0], "peak_mib": 100, "numbers": [number, further], "protocol": "as it is"}
    path = folder / "papers.json"
    path.write_text(json.dumps({"toy-paper": found}), "utf-8")
    return path


def test_pictures_and_differences(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    earlier = stored(tmp_path, 2.0).rename(tmp_path / "earlier.json")
    stored(tmp_path, 0.5)
    assert papers.main(["--show", "--plot", "--against", str(earlier)]) == 0
    printed = capsys.readouterr().out
    assert "-75.00%" in printed
    assert "1 of 2 numbers are the same" in printed
    assert (tmp_path / "papers.png").read_bytes().startswith(b"\x89PNG")
    assert "toy-paper: score" in (tmp_path / "papers.svg").read_text("utf-8")


def test_what_is_stored_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    path = report.RESULTS / "papers.json"
    assert papers.main(["--show", "--against", str(path)]) == 0
    numbers = sum(len(row["numbers"]) for row in papers.read(path).values())
    assert f"{numbers} of {numbers} numbers are the same" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[1]", '{"rows": []}'])
def test_another_file(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, "utf-8")
    with pytest.raises(SystemExit):
        papers.main(["--show", "--against", str(path)])
    assert "expected a result that --json wrote" in capsys.readouterr().err
