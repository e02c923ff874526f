"""Where in the user's source an operation was called: what errors, tapes and explanations name."""

from __future__ import annotations

import linecache
import os
import sys
from types import CodeType

Place = tuple[CodeType, int]

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def place() -> Place | None:
    """The nearest caller outside the package, as (code object, offset): never the frame, which holds locals."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else (frame.f_code, frame.f_lasti)


def line(where: Place | None) -> str:
    """'file.py:12: y = log(x)', or how to get it when it was not remembered."""
    if where is None:
        return "source line unknown: run the forward pass under minigrad.debug() to see it"
    code, offset = where
    number = next((n for start, end, n in code.co_lines() if start <= offset < end and n), code.co_firstlineno)
    return f"{code.co_filename}:{number}: {linecache.getline(code.co_filename, number).strip()}"
