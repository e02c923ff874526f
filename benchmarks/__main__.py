"""All benchmarks, each with few rounds: numbers for a look.

    python -m benchmarks                      one after the other, each in a process of its own: some six minutes
    python -m benchmarks --only matmul training
    python -m benchmarks --list               the questions, and which script answers it

Full measurements, those in benchmarks/results, are made by the scripts one by one. `benchmarks.papers` trains for
hours, and is run only when asked for.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).parent
NAMES = (
    "overhead", "matmul", "activations", "convolution", "training", "memory", "scaling", "startup", "checkers",
    "papers",
)  # fmt: skip
ALONE = ("papers",)


def question(name: str) -> str:
    """The first line of a script's docstring; the script is not imported, since that sets numbers of threads.

    Example:
        >>> question("matmul")
        "How fast are matrix products beside OpenBLAS, PyTorch, and the processor's limit?"
    """
    return (ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text("utf-8"))) or "").split("\n")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit code is 0 if every script's was."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=[name for name in NAMES if name not in ALONE])
    parser.add_argument("--list", action="store_true", help="print the questions and run nothing")
    given = parser.parse_args(argv)
    if given.list:
        for name in NAMES:
            print(f"{name:12} {question(name)}")
        return 0
    failed = []
    for name in given.only:
        print(f"\n== {name}: {question(name)}", flush=True)
        begun = perf_counter()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}", "--quick"]).returncode:
            failed.append(name)
        print(f"{perf_counter() - begun:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
