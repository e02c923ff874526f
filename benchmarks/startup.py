"""How long does it take until the first result: with nothing compiled, and with all code in the cache?

    python -m benchmarks.startup           the tables
    python -m benchmarks.startup --json    ... also written to benchmarks/results/startup.json

Three questions, asked in fresh interpreters; medians.

First use: a process with an empty cache calls one kernel, once. "Compiles" is the time of that call where another
kernel was compiled before, so that Numba has been imported and has made its own beginnings. "In all" is what another
process takes from start to end, without that other kernel: interpreter, NumPy, Numba and all.
Second process: "in all" for a process that computes a matrix product and tanh, large enough that the pool of threads
starts, with all code in the cache.
Beside each "in all" stands the time of a process that only imports NumPy: they take turns.
Import: what `import minigrad` takes beyond `import numpy`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import minigrad as mg
from benchmarks.overhead import import_time, machine, print_table, write

RESULTS = Path(__file__).parent / "results" / "startup.json"
DTYPES = ("float32", "float64")

# By name: the module of minigrad.kernels, the statement, and the seconds that its compilation may take.
KERNELS = {
    "matmul": ("matmul", "matmul(x, x)", 3.0),
    "tanh": ("elementwise", "tanh(x)", 0.4),
    "gelu": ("elementwise", "gelu(x)", 0.4),
}
SMALL, LARGE = 64, 512  # x is n×n: small enough for one thread, large enough for all
SECOND, SECOND_AIM = ("matmul", "tanh"), 0.5

NUMPY = "import numpy"
ANOTHER = "from minigrad.kernels.elementwise import relu; relu(x)"
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"


def program(names: Sequence[str], dtype: str, n: int) -> list[str]:
    """Statements that make x, import kernels, and call them."""
    modules = dict.fromkeys(KERNELS[name][0] for name in names)
    return [
        f"import numpy; x = numpy.ones(({n}, {n}), '{dtype}')",
        *(f"from minigrad.kernels.{module} import *" for module in modules),
        "; ".join(f"assert {KERNELS[name][1]} is not NotImplemented" for name in names),
    ]


def process(statements: Sequence[str], cache: str) -> tuple[float, str]:
    """Seconds that a fresh interpreter takes for a program, and what it prints.

    Raises:
        RuntimeError: the program failed.
    """
    command = [sys.executable, "-c", "\n".join(statements)]
    environment = os.environ | {"MINIGRAD_CACHE_DIR": cache, "MINIGRAD_NUM_THREADS": str(os.cpu_count() or 1)}
    start = perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return seconds, done.stdout


def beside_numpy(statements: Sequence[str], cache: str) -> tuple[float, float]:
    """Seconds that a program takes, and that one takes which only imports NumPy."""
    return process(statements, cache)[0], process([NUMPY], cache)[0]


def first_use(name: str, dtype: str, rounds: int) -> dict[str, float]:
    """Seconds of the first use of a kernel; the cache is empty each time."""
    *before, call = program([name], dtype, SMALL)
    compiles, pairs = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            compiles.append(float(process([*before, ANOTHER, TIMED.format(call)], cache)[1]))
        with tempfile.TemporaryDirectory() as cache:
            pairs.append(beside_numpy([*before, call], cache))
    return {"compiles": median(compiles)} | medians(pairs)


def second_process(dtype: str, rounds: int) -> dict[str, float]:
    """Seconds of a process that finds everything in the cache."""
    statements = program(SECOND, dtype, LARGE)
    with tempfile.TemporaryDirectory() as cache:
        process(statements, cache)
        return medians([beside_numpy(statements, cache) for _ in range(rounds)])


def medians(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of what `beside_numpy` gave several times."""
    return dict(zip(("in_all", "numpy_alone"), map(median, zip(*pairs, strict=True)), strict=True))


def measured(rounds: int) -> Iterator[dict[str, Any]]:
    """The rows of the table; where a program failed, a row says why."""
    for dtype in DTYPES:
        jobs: list[tuple[str, str, float, Callable[[], dict[str, float]]]] = [
            (f"first use of {name}", "compiles", aim, partial(first_use, name, dtype, rounds))
            for name, (_, _, aim) in KERNELS.items()
        ]
        jobs.append(
            (f"second process: {', '.join(SECOND)}", "in_all", SECOND_AIM, partial(second_process, dtype, rounds))
        )
        for case, judged, aim, job in jobs:
            row: dict[str, Any] = {"case": case, "dtype": dtype}
            try:
                row |= {what: round(seconds, 3) for what, seconds in job().items()}
                row |= {"judged": judged, "aim": aim, "met": row[judged] <= aim}
            except RuntimeError as error:
                row["failure"] = str(error)
            yield row


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A row as text."""
    if "failure" in row:
        return row["case"], row["dtype"], row["failure"], "", "", "", ""
    seconds = (f"{row[what]:.2f}" if what in row else "" for what in ("compiles", "in_all", "numpy_alone"))
    return (
        row["case"],
        row["dtype"],
        *seconds,
        f"{row['aim']:.1f} {row['judged'].replace('_', ' ')}",
        "yes" if row["met"] else "NO",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help=f"also write {RESULTS.name} to benchmarks/results")
    given = parser.parse_args(argv)
    if given.rounds < 1:
        parser.error("rounds are at least 1")
    rows = list(measured(given.rounds))
    columns = ("case", "dtype", "compiles", "in all", "NumPy alone", "aim", "met")
    print_table("Seconds until the first result", columns, [*map(cells, rows)])
    numpy, minigrad, beyond = import_time(2 * given.rounds + 1)
    print(f"import minigrad: {minigrad:.3f} s, {beyond:.3f} s beyond import numpy, which takes {numpy:.3f} s")
    if given.json:
        results = {
            "question": __doc__.split("\n")[0],
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": given.rounds,
            "machine": machine(),
            "python": platform.python_version(),
            "versions": {"minigrad": mg.__version__}
            | {name: importlib.metadata.version(name) for name in ("numpy", "numba", "llvmlite")},
            "rows": rows,
            "import": {"numpy": round(numpy, 4), "minigrad": round(minigrad, 4), "beyond": round(beyond, 4)},
        }
        write(results, RESULTS)


if __name__ == "__main__":
    main()
