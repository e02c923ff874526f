"""A story as a page: one file of HTML with all that it needs, to step through the graph, forward and backward.

`page.html` is the frame, `page.css` how it looks, and SCRIPTS, one after the other, are what it does. Here the story
becomes data for them: every array as numbers, a summary, and cells of a picture; every call with its inputs, lines,
modules and evidence. Names and source lines are data, too. The script puts them into the page as text, never as HTML;
the page allows no other script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import linecache
import os
from collections.abc import Iterable
from importlib import resources
from math import isqrt
from typing import Any

import numpy as np

from minigrad.core.op import Part
from minigrad.explainer.evidence import cost, jacobians, verdicts
from minigrad.explainer.story import Array, Quantity, Story
from minigrad.explainer.text import called, label, numbers, shape
from minigrad.source import Place, location

SCRIPTS = ("basics.js", "layout.js", "pictures.js", "page.js")
CELLS = 1_200_000  # of all pictures together: some 6 MB
WIDEST, HIGHEST = 160, 96  # cells of one picture
TILES = 16  # matrices of one picture
IMAGE = 64  # pixels that a row must have to be taken for an image
AROUND = 2  # lines of the program that are shown before and after those that are told
LONGEST = 2000  # characters of a text


def page(story: Story, seconds: float) -> str:
    """The page of a story. Its rules are checked for so many seconds."""
    files = resources.files("minigrad.explainer")
    read = lambda name: files.joinpath(name).read_text("utf-8")
    frame, style, script = read("page.html"), read("page.css"), "\n".join(map(read, SCRIPTS))
    with np.errstate(all="ignore"):  # what warned when it was computed need not do so again
        told = _data(story, seconds)
    data = json.dumps(told, separators=(",", ":"), allow_nan=False)
    parts = {
        "hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "style": style,
        "data": data.replace("<", "\\u003c"),  # what would end the element, or open a comment
        "script": script,
    }
    pieces = frame.split("@@")  # every second one is the name of a part
    return "".join(parts[piece] if k % 2 else piece for k, piece in enumerate(pieces))


def framed(story: Story, seconds: float) -> str:
    """The page in a frame of its own, as notebooks show it: nothing of it can meet anything of theirs."""
    return (
        f'<iframe sandbox="allow-scripts" title="a computation, step by step" '
        f'style="width: 100%; height: 46rem; border: 0" srcdoc="{html.escape(page(story, seconds))}"></iframe>'
    )


def _data(story: Story, seconds: float) -> dict[str, Any]:
    """All that the script reads."""
    step_of = {id(step.call): step for step in story.steps}
    reports = verdicts(story, seconds)
    quantities = {id(x): x for call in story.calls for x in [*call.given, call.made]}
    quantities |= {id(x): x for step in story.steps for _, x, _ in step.left}
    places = {key: k for k, key in enumerate(quantities)}
    shown = [a for x in quantities.values() for a in (x.array, x.cotangent)]
    shown += [a for step in story.steps for a in (step.came, *(c for _, _, c in step.left))]
    arrays = _Arrays(shown)
    calls = []
    for call in story.calls:
        step, report = step_of.get(id(call)), reports.get(call.number)
        costs = cost(call, step)
        calls.append({
            "name": call.made.name,
            "op": call.op.name,
            "text": _short(called(call.op.name, call.given, call.params)),
            "formula": call.op.formula,
            "place": _location(call.entry.where),
            "given": [places[id(x)] for x in call.given],
            "made": places[id(call.made)],
            "modules": list(call.modules),
            "after": call.after,
            "verdict": None if report is None else [report.verdict, _short(str(report))],
            "jacobians": [[name, arrays.add(matrix)] for name, matrix in jacobians(call)],
            "cost": [costs.forward, costs.backward, costs.made, costs.kept],
        })  # fmt: skip
    steps = [
        {
            "call": None if step.call is None else step.call.number - 1,
            "pass": step.pass_number,
            "op": step.op.name,
            "formula": step.op.formula,
            "place": _location(step.node.plan.where),
            "came": arrays.add(step.came, step.call and step.call.made.array),
            "left": [[name, places[id(x)], arrays.add(c, x.array)] for name, x, c in step.left],
        }
        for step in story.steps
    ]
    return {
        "values": [_value(x, arrays) for x in quantities.values()],
        "calls": calls,
        "steps": steps,
        "arrays": arrays.told,
        "program": _program([call.entry.where for call in story.calls] + [s.node.plan.where for s in story.steps]),
    }


def _value(x: Quantity, arrays: _Arrays) -> dict[str, Any]:
    return {
        "name": _short(" ".join((label(x) or "constant").split())),
        "isConstant": x.is_constant,
        "call": None if x.call is None else x.call - 1,
        "array": arrays.add(x.array),
        "cotangent": None if x.cotangent is None else arrays.add(x.cotangent, x.array),
        "size": None if x.cotangent is None else _root_mean_square(x.cotangent),
    }


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def _root_mean_square(cotangent: Any) -> float | str | None:
    """The size of a cotangent by entry, by which vanishing and exploding gradients are seen."""
    if isinstance(cotangent, Part):
        cotangent = cotangent.g
    parts = [np.ravel(p) for p in (cotangent if isinstance(cotangent, tuple) else (cotangent,)) if p is not None]
    x = np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
    if not x.size:
        return None
    largest = float(np.max(np.abs(x)))
    if largest == 0.0 or not np.isfinite(largest):
        return 0.0 if largest == 0.0 else "not finite"
    return largest * float(np.sqrt(np.mean(np.square(x / largest))))  # whose square might under- or overflow


class _Arrays:
    """The arrays of a page, each once: `told` has a record for each, `add` gives its place there."""

    def __init__(self, expected: Iterable[Any]):
        count = max(1, len({id(x) for x in expected}))
        self.cells = min(WIDEST * HIGHEST, max(64, CELLS // count))
        self.told: list[Any] = []
        self.places: dict[Any, int] = {}
        self.kept: list[Any] = []  # so that an id stays that of its array

    def add(self, x: Any, like: Any = None) -> int:
        """The place of an array, or of a tuple of them, or of part of one; laid out like another array."""
        similar = like if isinstance(like, np.ndarray) and getattr(x, "shape", None) == like.shape else x
        key = id(x), isinstance(similar, np.ndarray) and holds_images(similar)
        if key not in self.places:
            self.kept.append(x)
            self.places[key] = len(self.told)
            self.told.append(None)
            self.told[self.places[key]] = self._record(x, similar)
        return self.places[key]

    def _record(self, x: Any, like: Any) -> dict[str, Any]:
        if isinstance(x, Part):
            return {**self._record(x.g, x.g), "text": numbers(x)}
        if x is None or isinstance(x, tuple):
            parts = [part for part in x or () if part is not None]
            return {"text": numbers(x or ()), "shape": shape(x or ()), "dtype": "", "parts": [*map(self.add, parts)]}
        x = np.asarray(x)
        seen = picture(x, self.cells, like if isinstance(like, np.ndarray) else x)
        return {"text": numbers(x), "shape": shape(x), "dtype": str(x.dtype), **seen}


def picture(x: Array, cells: int, like: Array) -> dict[str, Any]:
    """An array as at most so many cells: tiles of rows of columns, and how many entries each cell is the mean of.

    A vector is a row. Of more than two axes the last two are the tiles. Rows that look like square images, as those of
    `like` do, are tiles of their own.

    Example:
        >>> x = np.arange(6.0).reshape(2, 3)
        >>> told = picture(x, 100, x)
        >>> told["tiles"], told["block"], np.frombuffer(base64.b64decode(told["cells"]), "<f4").tolist()
        ([1, 2, 3], [1, 1], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    """
    is_image = holds_images(like)
    if x.size == 0:
        return {"tiles": [0, 0, 0], "block": [1, 1], "cells": "", "isImage": False, "more": 0}
    if is_image and x.ndim == 2:
        tiles = x.reshape(len(x), isqrt(x.shape[1]), -1)
    else:
        tiles = np.atleast_2d(x)
        tiles = tiles.reshape(-1, *tiles.shape[-2:])
    rows, columns = tiles.shape[1:]
    many = min(len(tiles), TILES, max(1, cells // (rows * columns)))
    down = max(1, -(-rows // HIGHEST))
    across = max(1, -(-columns // WIDEST))
    while many * -(-rows // down) * -(-columns // across) > cells:
        if rows / down > columns / across:
            down += 1
        else:
            across += 1
    kept = tiles[:many].astype(np.float64)
    for axis, block in ((1, down), (2, across)):
        if block > 1:
            starts = np.arange(0, kept.shape[axis], block)
            counts = np.diff([*starts, kept.shape[axis]])
            sums = np.add.reduceat(kept, starts, axis=axis)
            kept = sums / counts.reshape((-1, 1) if axis == 1 else (-1,))
    with np.errstate(over="ignore"):
        data = base64.b64encode(np.ascontiguousarray(kept, "<f4").tobytes()).decode()
    return {
        "tiles": list(kept.shape),
        "block": [down, across],
        "cells": data,
        "isImage": is_image and like is x,  # what is laid out like an image need not be one
        "more": len(tiles) - many,
    }


def holds_images(x: Array) -> bool:
    """Whether an array looks like images: numbers between 0 and 1, many of them different, in squares."""
    if x.ndim < 2 or x.dtype.kind != "f" or not x.size:
        return False
    side = isqrt(x.shape[-1])
    flat = x.ndim == 2 and side * side == x.shape[-1] >= IMAGE
    square = x.ndim > 2 and x.shape[-1] == x.shape[-2] and x.shape[-1] ** 2 >= IMAGE
    return bool((flat or square) and x.min() >= 0 and x.max() <= 1 and x.max() > x.min())


def _location(where: Place | None) -> tuple[str, int] | None:
    return None if where is None else location(where)


def _program(places: Iterable[Place | None]) -> list[dict[str, Any]]:
    """The lines of the program that were told, with some around them, by file."""
    wanted: dict[str, set[int]] = {}
    for file, number in filter(None, map(_location, places)):
        wanted.setdefault(file, set()).update(range(number - AROUND, number + AROUND + 1))
    program = []
    for file, lines in wanted.items():
        text = linecache.getlines(file)
        numbered = [(n, _short(text[n - 1].rstrip())) for n in sorted(lines) if 0 < n <= len(text)]
        program.append({"file": file, "name": os.path.basename(file), "lines": numbered})
    return program
