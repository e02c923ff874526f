"""What the site does to a page beyond Markdown: it prints source, lists operations, sets formulas, runs chapters.

- `<!-- print minigrad/core/node.py Node -->` becomes the source of that definition, the text after it its margin note.
- `<!-- operations -->` becomes the table of all operations.
- `$...$` becomes MathML, which browsers set by themselves: no script, no font.
- Pages that chapters write, under `pictures/live/`, are written into the site.
"""

from __future__ import annotations

import ast
import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))
import chapters

ROOT = Path(__file__).parent.parent
PRINT = re.compile(r"^<!-- print (\S+) (.+?) -->\n(.*?)(?=^<!-- print|^#|\Z)", flags=re.M | re.S)
FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', flags=re.S)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Source and tables, before Markdown is read."""
    if PRINT.search(markdown):
        page.meta["hide"] = ["navigation", "toc"]  # source and notes need the place
    return PRINT.sub(_printed, markdown).replace("<!-- operations -->", operations())


def on_page_content(html: str, **_: Any) -> str:
    """Formulas, after it."""
    return FORMULA.sub(_formula, html)


def on_post_build(config: Any) -> None:
    """What chapters write."""
    for page in sorted(chapters.PAGES.glob("*.md")):
        if "pictures/live/" in page.read_text("utf-8"):
            chapters.run(page, Path(config["site_dir"]))


def source(path: str, names: list[str]) -> tuple[int, str]:
    """The lines of the definitions of a file, and the number of the first; 'head' is what stands before all.

    Raises:
        ValueError: there is no such definition, or others stand between them.
    """
    text = (ROOT / path).read_text("utf-8")
    lines = text.splitlines()
    defined = list(definitions(text))
    starts = {name: start for name, start, _ in defined}
    if names == ["head"]:
        begin, end = 1, defined[0][1] - 1
    else:
        found = [k for k, (name, _, _) in enumerate(defined) if name in names]
        if len(found) != len(names) or found != list(range(found[0], found[0] + len(found))):
            raise ValueError(f"{path}: expected definitions one after the other, got {names} of {list(starts)}")
        begin, end = defined[found[0]][1], defined[found[-1]][2]
    return begin, "\n".join(lines[begin - 1 : end]).rstrip()


def definitions(text: str) -> list[tuple[str, int, int]]:
    """The top-level functions, classes and assignments of a module: name, first line with comments above, last line."""
    lines = text.splitlines()
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            name, start = node.name, min([node.lineno, *(d.lineno for d in node.decorator_list)])
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            target = target.elts[0] if isinstance(target, ast.Tuple) else target
            name, start = ast.unparse(target), node.lineno
        else:
            continue
        while lines[start - 2].startswith("#"):
            start -= 1
        found.append((name, start, node.end_lineno or start))
    return found


def _printed(found: re.Match[str]) -> str:
    path, names, note = found.groups()
    first, text = source(path, names.split())
    code = f'```python linenums="{first}"\n{text}\n```'
    return f'<div class="printed" markdown>\n\n{code}\n\n<div class="note" markdown>\n\n{note}\n\n</div></div>\n\n'


def operations() -> str:
    """All operations, as their records have them."""
    import minigrad  # noqa: F401  # declares them
    from minigrad.core.op import registry

    rows = ["| operation | kind | forward, and rules |", "| --- | --- | --- |"]
    for name, op in sorted(registry.items()):
        given = [*op.inputs, *op.params]
        if op.star is not None:
            given[op.star] = f"*{given[op.star]}"
        formula = html.escape(op.formula).replace("|", "&#124;").replace("*", "&#42;").replace("_", "&#95;")
        parts = "<br>".join(re.split(r",\s{2,}", formula))
        rows.append(f"| `{name}({', '.join(given)})` | {op.kind} | {parts} |")
    return "\n".join(rows)


def _formula(found: re.Match[str]) -> str:
    text = html.unescape(found[2]).strip().replace("{aligned}", "{split}")  # which the library knows
    return convert(text[2:-2], display="inline" if found[1] == "span" else "block")  # between \( and \), \[ and \]
