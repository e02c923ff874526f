"""Runs the code of the pages: blocks in order, in one namespace, as a reader would type them.

A block of the language `python` with `>>>` in it is a session: what it prints must be what the page says. One without
is a program: it is run. So a page is a test, and the pictures that it shows are the ones that its code draws:

    python docs/chapters.py                 # all pages, each in docs/pages/, so that pictures are drawn anew
    python docs/chapters.py 03 05           # some of them
"""

from __future__ import annotations

import doctest
import linecache
import re
import sys
import types
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

PAGES = Path(__file__).parent / "pages"
STYLE = Path(__file__).parent / "pictures.mplstyle"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```", flags=re.M | re.S)


class Block(NamedTuple):
    """A block of code: its text, and the line of the page on which that begins, from 1."""

    text: str
    line: int

    @property
    def is_session(self) -> bool:
        """Whether it shows what is typed and what is printed."""
        return ">>>" in self.text


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page that are run."""
    text = page.read_text("utf-8")
    for found in FENCE.finditer(text):
        yield Block(found[1], text.count("\n", 0, found.start(1)) + 1)


def run(page: Path, folder: Path) -> dict[str, Any]:
    """Run a page in a folder, whose `pictures` get what it draws, and `pictures/live` the pages that it writes.

    Returns:
        What its names stand for in the end.

    Raises:
        AssertionError: a session printed something else.
    """
    from matplotlib import pyplot, style

    module = types.ModuleType("__main__")
    (folder / "pictures" / "live").mkdir(parents=True, exist_ok=True)
    with chdir(folder), style.context(STYLE):
        for block in blocks(page):
            _run(page, block, vars(module))
        pyplot.close("all")
    return vars(module)


def _run(page: Path, block: Block, names: dict[str, Any]) -> None:
    if block.is_session:
        test = doctest.DocTestParser().get_doctest(block.text, {}, page.name, str(page), block.line - 1)
        test.globs = names  # not a copy: later blocks go on with them
        said: list[str] = []
        if doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append, clear_globs=False).failed:
            raise AssertionError("".join(said))
        return
    name = f"<{page.name}, line {block.line}>"
    linecache.cache[name] = (len(block.text), None, block.text.splitlines(keepends=True), name)  # explanations show it
    exec(compile(block.text, name, "exec"), names)


def main(wanted: list[str]) -> None:
    """Run the pages whose names begin so, or all."""
    for page in sorted(PAGES.rglob("*.md")):
        if not wanted or page.name.startswith(tuple(wanted)):
            print(page.relative_to(PAGES))
            run(page, PAGES)


if __name__ == "__main__":
    main(sys.argv[1:])
