"""The site: it builds without a warning, prints the core whole, lists every operation, and sets every formula."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.loading import DOCS, load
from minigrad.core.op import registry

pytest.importorskip("latex2mathml")
chapters, hooks = load("chapters"), load("hooks")
ROOT = DOCS.parent
PAGES = sorted(chapters.PAGES.rglob("*.md"))


def test_the_core_is_printed_whole_and_in_order() -> None:
    text = (chapters.PAGES / "core.md").read_text("utf-8")
    printed: dict[str, list[str]] = {}
    for path, names, note in hooks.PRINT.findall(text):
        printed.setdefault(path, []).extend(names.split())
        assert 25 <= len(note.split()) <= 110, f"the note on {names}"
    core = {p.relative_to(ROOT).as_posix(): p for p in (ROOT / "minigrad/core").glob("*.py") if p.name != "__init__.py"}
    assert set(printed) == set(core)
    for path, names in printed.items():
        defined = [name for name, _, _ in hooks.definitions(core[path].read_text("utf-8"))]
        assert names == ["head", *defined], path


def test_what_is_printed_is_the_source() -> None:
    path = "minigrad/core/op.py"
    text = (ROOT / path).read_text("utf-8")
    names = ["head", *(name for name, _, _ in hooks.definitions(text))]
    pieces = [hooks.source(path, [name]) for name in names]
    for first, piece in pieces:
        assert text.splitlines()[first - 1 : first + piece.count("\n")] == piece.splitlines()
    assert "".join(piece for _, piece in pieces).replace("\n", "") == text.replace("\n", "")
    first, both = hooks.source(path, ["KINDS", "registry"])
    assert ast.parse(both).body[0].lineno == 1
    with pytest.raises(ValueError, match="expected definitions one after the other"):
        hooks.source(path, ["KINDS", "Op"])


def test_every_formula_is_set() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.M | re.S)
        for formula in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, flags=re.S):
            tex = "".join(formula)
            set_by = hooks.FORMULA.sub(hooks._formula, f'<span class="arithmatex">\\({tex}\\)</span>')
            said = re.sub(r"<[^>]+>", "", set_by)
            assert set_by.startswith("<math"), tex
            assert "\\" not in said, tex
            assert "&amp;" not in said, tex


def test_every_operation_is_listed() -> None:
    table = hooks.operations()
    for name in registry:
        assert f"| `{name}(" in table
    assert table.count("\n") == len(registry) + 1


def test_it_builds(tmp_path: Path) -> None:
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", DOCS / "mkdocs.yml", "-d", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in PAGES:
        made = tmp_path / page.relative_to(chapters.PAGES).with_suffix(".html")
        html = made.read_text("utf-8")
        assert "<!-- print" not in html
        assert "arithmatex" not in html
        assert not re.findall(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?)"', html)  # it needs nobody else
        for frame in re.findall(r'<iframe [^>]*src="([^"]+)"', html):
            assert "A computation, step by step" in (made.parent / frame).read_text("utf-8")
    index = json.loads((tmp_path / "search" / "search_index.json").read_text("utf-8"))
    assert len({entry["location"].partition("#")[0] for entry in index["docs"]}) == len(PAGES)


def test_the_readme_and_the_index_lead_to_every_chapter() -> None:
    for text, folder in (((ROOT / "README.md"), "docs/pages/"), ((chapters.PAGES / "index.md"), "")):
        links = re.findall(r"\]\(([^)]+\.md)\)", text.read_text("utf-8"))
        for page in (*chapters.PAGES.glob("[01]*.md"), chapters.PAGES / "core.md"):
            assert f"{folder}{page.name}" in links
