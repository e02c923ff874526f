"""The course: its code runs and prints what the pages say, and its pictures are the ones that the code draws."""

import re
from pathlib import Path

import numpy as np
import pytest

from docs.loading import DOCS, load

image = pytest.importorskip("matplotlib.image")

chapters = load("chapters")
README = DOCS.parent / "README.md"
PAGES = [README, *sorted(chapters.PAGES.rglob("*.md"))]
CODE = [page for page in PAGES if list(chapters.blocks(page))]
by_name = lambda page: str(page.relative_to(DOCS.parent))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")


@pytest.mark.parametrize("page", CODE, ids=by_name)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    """What is printed is checked on the way; then the pictures: each that is drawn is shown, each that is shown is
    drawn, and it looks like the one that is kept."""
    chapters.run(page, tmp_path)
    drawn = {path.name for path in (tmp_path / "pictures").glob("*.png")}
    shown = set(re.findall(r"!\[[^\]]*\]\((?:\.\./)?pictures/([^)]+)\)", page.read_text("utf-8")))
    assert drawn == shown
    written = {f"pictures/live/{path.name}" for path in (tmp_path / "pictures" / "live").iterdir()}
    assert written == set(re.findall(r'<iframe [^>]*src="([^"]+)"', page.read_text("utf-8")))
    for name in drawn:
        now, kept = (image.imread(folder / "pictures" / name) for folder in (tmp_path, chapters.PAGES))
        assert now.shape == kept.shape, name
        assert np.abs(now - kept).mean() < 0.02, f"{name} has changed: run docs/chapters.py, and look at it"


@pytest.mark.parametrize("page", PAGES, ids=by_name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_a_page_that_lies_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 2\n```\n\ntext\n\n```python\n>>> x + 1\n3\n>>> x + 2\n5\n```\n")
    with pytest.raises(AssertionError, match="line 10"):
        chapters.run(page, tmp_path)
    page.write_text("```python\n\nx = 1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError):
        chapters.run(page, tmp_path)
    page.write_text("```python\nx = 2\ndef f(y):\n    return x * y\n```\n```python\n>>> f(4)\n8\n```\n")
    assert chapters.run(page, tmp_path)["x"] == 2
