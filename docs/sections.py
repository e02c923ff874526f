"""Docstrings as the reference reads them: its section of sessions is called `Examples`, minigrad's `Example`."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Sections(griffe.Extension):
    """Renames the section before a docstring is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename that of one object."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:", "Examples:", obj.docstring.value, flags=re.M)
