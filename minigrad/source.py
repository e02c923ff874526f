"""Where in the user's source an operation was called: what errors, tapes and explanations name."""

from __future__ import annotations

import dis
import linecache
import os
import sys
from functools import lru_cache
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

Place = tuple[CodeType, int]

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def place() -> Place | None:
    """The nearest caller outside the package, as (code object, offset): never the frame, which holds locals."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else (frame.f_code, frame.f_lasti)


def callees() -> tuple[Any, ...]:
    """The modules, objects with a `__tree__`, whose `__call__` runs right now, the outermost first."""
    found: list[Any] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__call__" and code.co_argcount and code.co_qualname != "Op.__call__":
            called = frame.f_locals.get(code.co_varnames[0])
            if hasattr(type(called), "__tree__"):
                found.append(called)
        frame = frame.f_back
    return tuple(reversed(found))


def line(where: Place | None) -> str:
    """'file.py:12: y = log(x)', or how to get it when it was not remembered."""
    if where is None:
        return "source line unknown: run the forward pass under minigrad.debug() to see it"
    file, number = location(where)
    return f"{file}:{number}: {linecache.getline(file, number).strip()}"


def location(where: Place) -> tuple[str, int]:
    """The file of a place, and the number of the line."""
    code, offset = where
    number = next((n for start, end, n in code.co_lines() if start <= offset < end and n), code.co_firstlineno)
    return code.co_filename, number


def variable(where: Place | None) -> str | None:
    """The variable to which the call at a place is assigned, h in `h = tanh(x)`; None if it is assigned to none."""
    return None if where is None else _variables(where[0]).get(where[1])


@lru_cache(maxsize=4096)
def _variables(code: CodeType) -> dict[int, str]:
    """For the offsets of each call whose result is assigned: the name of the variable."""
    found: dict[int, str] = {}
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    for call, store in pairwise(instructions):
        if store.opname in ("STORE_FAST", "STORE_NAME", "STORE_DEREF", "STORE_GLOBAL"):
            found.update(dict.fromkeys(range(call.offset, store.offset), store.argval))  # and its inline caches
    return found
