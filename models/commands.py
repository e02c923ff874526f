"""What the commands of all models share: kinds of options, the folder they write to, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from models.datasets import DataError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def positive(text: str) -> int:
    """An option's value as a whole number of at least 1; argparse reports the ValueError with the option's name."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """An option's value as a whole number of at least 0."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, not {text!r}")
    return number


def open_folder(parser: argparse.ArgumentParser, path: Path) -> None:
    """Make the folder that --out names; if it can't be made or written to, end with a usage error."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"argument --out: {path} can't be made a folder ({error.strerror}): choose another")
    if not os.access(path, os.W_OK):
        parser.error(f"argument --out: {path} can't be written to: choose another")


def guarded(run: Callable[[], int]) -> int:
    """What `run` returns, its exit code; where the fault is not the program's, a message and a code, no traceback.

    2 for data or files that can't be had, 1 for a training that diverged, 130 for an interrupt (Ctrl-C).
    """
    try:
        return run()
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
