"""How long does it take until the first result: with nothing compiled, and with all code in the cache?

    python -m benchmarks.startup                  the table
    python -m benchmarks.startup --quick          ... of float32 alone, in half a minute
    python -m benchmarks.startup --json --plot    ... also written to benchmarks/results

Every time is that of a fresh interpreter; reported are medians.

Compilation: the call of a kernel that is in no cache, where another kernel was compiled before, so that Numba has been
imported and has made its own beginnings.
First use: a process with an empty cache that calls one kernel, once, from its start to its end: interpreter, NumPy,
Numba and all.
Second process: the same for a process that computes a matrix product and tanh, large enough that the pool of threads
starts, with all code in the cache.
Import: the statement `import minigrad` alone.

Beside all but the first stands NumPy alone: a process that only imports it, or that statement. They take turns, and
"beyond NumPy" is the median of the difference within a round. A training step that is compiled as a whole is another
question, and `benchmarks.training` answers it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.report import Row, print_table, quartiles, rounded

DTYPES = ("float32", "float64")
ROUNDS, QUICK_ROUNDS = 5, 3
THREADS = os.cpu_count() or 1

# By name: the module of minigrad.kernels, the statement, and the seconds that its compilation may take.
KERNELS = {
    "matmul": ("matmul", "matmul(x, x)", 3.0),
    "tanh": ("elementwise", "tanh(x)", 0.4),
    "gelu": ("elementwise", "gelu(x)", 0.4),
}
SMALL, LARGE = 64, 512  # x is n×n: small enough for one thread, large enough for all
SECOND, SECOND_AIM = ("matmul", "tanh"), 0.5

OURS, ALONE = "minigrad", "NumPy alone"
NUMPY = "import numpy"
ANOTHER = "from minigrad.kernels.elementwise import relu; relu(x)"
TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"

Samples = dict[str, list[float]]  # seconds by round


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
    environment = os.environ | {"MINIGRAD_CACHE_DIR": cache, "MINIGRAD_NUM_THREADS": str(THREADS)}
    environment["PYTHONDONTWRITEBYTECODE"] = ""  # modules are read as byte code, as usual
    start = perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = perf_counter() - start
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return seconds, done.stdout


def compilation(name: str, dtype: str, rounds: int) -> Samples:
    """Seconds of the first call of a kernel; the cache is empty each time."""
    *before, call = program([name], dtype, SMALL)
    samples: Samples = {OURS: []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            samples[OURS].append(float(process([*before, ANOTHER, TIMED.format(call)], cache)[1]))
    return samples


def first_use(name: str, dtype: str, rounds: int) -> Samples:
    """Seconds of a process that calls a kernel; the cache is empty each time."""
    samples: Samples = {OURS: [], ALONE: []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            samples[OURS].append(process(program([name], dtype, SMALL), cache)[0])
            samples[ALONE].append(process([NUMPY], cache)[0])
    return samples


def second_process(dtype: str, rounds: int) -> Samples:
    """Seconds of a process that finds everything in the cache."""
    samples: Samples = {OURS: [], ALONE: []}
    with tempfile.TemporaryDirectory() as cache:
        process(program(SECOND, dtype, LARGE), cache)
        for _ in range(rounds):
            samples[OURS].append(process(program(SECOND, dtype, LARGE), cache)[0])
            samples[ALONE].append(process([NUMPY], cache)[0])
    return samples


def imports(rounds: int) -> Samples:
    """Seconds of the statements `import minigrad` and `import numpy`."""
    statements = {OURS: [TIMED.format("import minigrad")], ALONE: [TIMED.format(NUMPY)]}
    samples: Samples = {OURS: [], ALONE: []}
    with tempfile.TemporaryDirectory() as cache:
        process(statements[OURS], cache)  # writes the byte code
        for _ in range(rounds):
            for name, timed in statements.items():
                samples[name].append(float(process(timed, cache)[1]))
    return samples


def row_of(case: str, dtype: str | None, aim: float | None, job: Callable[[], Samples]) -> Row:
    """What a job measured, as JSON has it; where a program failed, the row says why."""
    row: Row = {"case": case, "dtype": dtype, "unit": "s"}
    try:
        samples = job()
    except RuntimeError as error:
        return row | {"failure": str(error)}
    row["seconds"] = {name: rounded(float(np.median(s))) for name, s in samples.items()}
    if ALONE in samples:
        beyond = np.subtract(samples[OURS], samples[ALONE])
        row["beyond_numpy"] = rounded(float(np.median(beyond)))
    if aim is not None:
        row |= {"aim": aim, "met": row["seconds"][OURS] <= aim}
    row["quartiles"] = {name: quartiles(s) for name, s in samples.items()}
    row["samples"] = {name: [*map(rounded, s)] for name, s in samples.items()}
    return row


def import_row(rounds: int) -> Row:
    """The row of the import, which takes little time and so gets twice as many rounds."""
    return row_of("import minigrad", None, None, partial(imports, 2 * rounds))


def measured(dtypes: Sequence[str], rounds: int) -> Iterator[Row]:
    """The rows of the table."""
    for dtype in dtypes:
        for name, (_, _, aim) in KERNELS.items():
            yield row_of(f"compilation of {name}", dtype, aim, partial(compilation, name, dtype, rounds))
        for name in KERNELS:
            yield row_of(f"first use of {name}", dtype, None, partial(first_use, name, dtype, rounds))
        second = f"second process: {', '.join(SECOND)}"
        yield row_of(second, dtype, SECOND_AIM, partial(second_process, dtype, rounds))
    yield import_row(rounds)


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""
    title = row["case"], row["dtype"] or ""
    if "failure" in row:
        return *title, row["failure"], "", "", "", ""
    seconds = (*(row["seconds"].get(name) for name in (OURS, ALONE)), row.get("beyond_numpy"))
    aim = (f"{row['aim']:.1f}", "yes" if row["met"] else "NO") if "aim" in row else ("", "")
    return *title, *("" if s is None else f"{s:.3f}" for s in seconds), *aim


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    columns = ("case", "dtype", OURS, ALONE, "beyond NumPy", "aim", "met")
    print_table("Seconds until the first result", columns, [*map(cells, rows)])


def plot(rows: Sequence[Row]) -> None:
    """Draw the seconds of every row, those of NumPy alone in the same bar, and a mark at the aim."""
    drawn, ((axes,),) = report.figure("startup", size=(8, 1.4 + 0.32 * len(rows)))
    there = [(place, row) for place, row in enumerate(rows) if "seconds" in row]
    for name, color in ((OURS, "tab:blue"), (ALONE, "tab:orange")):
        bars = {place: row["seconds"][name] for place, row in there if name in row["seconds"]}
        axes.barh(bars.keys(), bars.values(), color=color, label=name)
    aims = {place: row["aim"] for place, row in there if "aim" in row}
    axes.plot(aims.values(), aims.keys(), "|", color="black", markersize=14, label="aim, at most")
    axes.set_yticks(range(len(rows)), [", ".join(filter(None, (row["case"], row["dtype"]))) for row in rows])
    axes.invert_yaxis()
    axes.set(title="Until the first result", xlabel="seconds")
    drawn.legend(loc="outside lower center", ncols=3)
    report.save(drawn, "startup")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = report.parser("startup", __doc__, rounds=(ROUNDS, QUICK_ROUNDS))
    given = report.parse(parser, argv)
    results: dict[str, Any] = report.circumstances(__doc__) | {"rounds": given.rounds, "threads": THREADS}
    results["rows"] = [*measured(DTYPES[:1] if given.quick else DTYPES, given.rounds)]
    show(results["rows"])
    report.finish("startup", given, results)
    if given.plot:
        plot(results["rows"])


if __name__ == "__main__":
    main()
