"""The table of published numbers: what counts as reached, and that a run's failure is not passed over."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import papers
from benchmarks.papers import Number, Row, measured, ratio


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
    monkeypatch.setattr(papers, "RESULTS", tmp_path / "papers.json")
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
