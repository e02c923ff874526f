"""Libraries that take turns at the same task: how they are measured, compared, and shown.

Every library has a process of its own (`benchmarks.worker`), since pools of threads in one process disturb one
another. They take turns (A B C, B C A, C A B, ...), and who does not have the turn is stopped by a signal, its idle
threads too, which otherwise would look for work for a while on the core of another. Whatever slows the machine down
for a while slows all of them, so what counts is the ratio within a round: reported are its median and a bootstrap
interval of that. A turn is as many calls as take a millisecond, to warm up, then the median of up to five such samples;
a call that takes longer is a sample by itself, without warming up.

A script measures the machine's limit, too. "Of peak" is how near to it minigrad comes; "at peak" is the ratio that a
kernel at the limit would have. An aim above that can be met only in an interval that noise has widened.

`--one-process` lets the libraries take turns in one process instead. On one thread that makes no difference: NumPy's
time by PyTorch's differed by about 2 % between the two ways, no more than from run to run. With two threads it does:
PyTorch's product of n = 256 took 30 times as long in one of two runs in one process, presumably since threads of
NumPy's pool were still looking for work, and in neither of two runs in a process of its own.

How to read it: a `Case` says what each library does, `Workers` starts the processes and asks them, `measured` is the
loop, `compared` makes a row of the table from the seconds, and `run` is what the scripts do; `benchmarks.report` has
what is not about turns.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.report import ENOUGH, Row, number, print_table, quartiles, ratio, rounded
from benchmarks.worker import SAMPLE

DTYPES = ("float32", "float64")
PEERS = {"numpy": "NumPy", "torch": "PyTorch"}  # by package
LIBRARIES = ("minigrad", *PEERS.values())
ROUNDS, QUICK_ROUNDS = 25, 7
SAMPLES = 5
TURN = 5e-3  # seconds in which a turn takes its samples
WRONG = "wrong result"


@dataclass(frozen=True)
class Case:
    """One task.

    Attributes:
        name: of the row.
        arrays: for each name in the statements the kind of numbers and the shape, see `benchmarks.worker.array`.
        statements: an expression for each library; "peak" has the one that measures the machine's limit.
        work: how much of what the limit counts a call does: floating-point operations, or bytes read and written.
        aim: the ratio to reach, seconds of the faster one of `peers` over seconds of minigrad; None if there is none.
        differentiated: the arrays for which PyTorch's statement asks gradients.
        large: left out by --quick.
    """

    name: str
    arrays: Mapping[str, tuple[str, tuple[int, ...]]]
    statements: dict[str, str]
    work: float
    aim: float | None
    peers: tuple[str, ...] = ("NumPy", "PyTorch")
    differentiated: tuple[str, ...] = ()
    large: bool = False


class Process:
    """A worker, which is stopped while nobody waits for its answer.

    Args:
        threads: how many it may use.
        module: its program.
        environment: variables that it gets, besides those of this process and those that say how many threads.
    """

    def __init__(self, threads: int, module: str = "benchmarks.worker", environment: Mapping[str, str] | None = None):
        names = ("OMP", "OPENBLAS", "MKL", "NUMBA", "MINIGRAD")
        variables = {f"{name}_NUM_THREADS": str(threads) for name in names} | dict(environment or {})
        command = [sys.executable, "-m", module]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=os.environ | variables, stdin=pipe, stdout=pipe, text=True)

    def ask(self, **command: Any) -> Any:
        """The worker's answer to a command.

        Raises:
            RuntimeError: it died.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._signal("SIGCONT")
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        self._signal("SIGSTOP")
        if not answer:
            raise RuntimeError(f"the process died that was asked {command}")
        return json.loads(answer)

    def _signal(self, name: str) -> None:
        if hasattr(signal, name):  # Windows has neither
            self.process.send_signal(getattr(signal, name))

    def end(self) -> None:
        """Kill it, and wait for that."""
        self.process.kill()
        self.process.communicate()


class Workers(dict[str, Process]):
    """The process of each library: its own, or one for all.

    Args:
        threads: how many each library may use.
    """

    def __init__(self, libraries: Iterable[str], threads: int, one_process: bool = False):
        one = Process(threads) if one_process else None
        super().__init__((library, one or Process(threads)) for library in libraries)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.values():
            process.end()


@dataclass
class Timings:
    """What was measured of a case: seconds of a call by library and round, and by library why there are none."""

    seconds: dict[str, np.ndarray] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    limit: float = 0.0  # what a call of the "peak" statement does

    @property
    def peak(self) -> float:
        """The limit per second in the fastest round, 0 if it was not measured: disturbed ones are slower."""
        return self.limit / float(self.seconds["peak"].min()) if "peak" in self.seconds else 0.0


def measured(case: Case, dtype: str, workers: Workers, rounds: int) -> Timings:
    """Let the libraries take turns at a case."""
    found = Timings()
    plans: dict[str, dict[str, Any]] = {}
    numbers: dict[str, list[list[float]]] = {}
    for library, statement in case.statements.items():
        if library not in workers:
            continue
        answer = workers[library].ask(
            library=library,
            statement=statement,
            dtype=dtype,
            arrays=case.arrays,
            differentiated=case.differentiated,
        )
        if "failure" in answer:
            found.failures[library] = answer["failure"]
            continue
        plans[library] = plan(library, answer["seconds"])
        numbers[library] = answer["numbers"]
    if "peak" in numbers:
        ((found.limit,),) = numbers.pop("peak")
    for library in differing(numbers, dtype):
        found.failures[library] = WRONG
        plans.pop(library)
    order = deque(plans)
    found.seconds = {library: np.empty(rounds) for library in order}
    for r in range(rounds):
        order.rotate(-1)
        for library in order:
            found.seconds[library][r] = workers[library].ask(**plans[library])
    return found


def plan(library: str, seconds: float) -> dict[str, Any]:
    """What to ask of a library that takes so long for a call."""
    calls = max(1, round(SAMPLE / seconds + 0.5))
    return {"library": library, "calls": calls, "samples": max(1, min(SAMPLES, int(TURN / (calls * seconds))))}


def differing(numbers: dict[str, list[list[float]]], dtype: str) -> list[str]:
    """The libraries whose results are not the first peer's, by more than what rounding does to long sums."""
    peers = [library for library in numbers if library != "minigrad"]
    tolerance = {"float32": 1e-4, "float64": 1e-11}[dtype]

    def equal(given: list[float], expected: list[float]) -> bool:
        scale = np.abs(expected).max(initial=0.0)
        return len(given) == len(expected) and np.allclose(given, expected, rtol=0, atol=tolerance * scale)

    return [
        library
        for library, parts in numbers.items()
        if peers and (len(parts) != len(numbers[peers[0]]) or not all(map(equal, parts, numbers[peers[0]])))
    ]


def compared(case: Case, dtype: str, threads: int, found: Timings, peak: float = 0.0) -> Row:
    """A row of the table, as JSON has it; peak is what of the case's work the machine can do in a second, if known.

    Its ratio is the speed of minigrad by that of the faster peer, whichever that is by its median; `ratio_at_peak` is
    what it would be at the peak. The aim is met if the ratio's median reaches it or the interval contains it, and there
    were enough rounds for that to be said.
    """
    row: Row = {"case": case.name, "dtype": dtype, "threads": threads, "unit": "s"}
    seconds = {name: s for name, s in found.seconds.items() if name != "peak"}
    row["us"] = {name: rounded(float(np.median(s)) * 1e6) for name, s in seconds.items()}
    row["quartiles"] = {name: quartiles(s.tolist()) for name, s in seconds.items()}
    row["samples"] = {name: [rounded(x) for x in s.tolist()] for name, s in seconds.items()}
    if found.failures:
        row["failures"] = found.failures
    ours = seconds.get("minigrad")
    if ours is None:
        return row
    if peak:
        speed = case.work / float(np.median(ours))
        row |= {"giga_per_second": rounded(speed / 1e9), "of_peak": rounded(speed / peak)}
    peers = [name for name in case.peers if name in seconds]
    if peers:
        faster = min(peers, key=lambda name: float(np.median(seconds[name])))
        row |= {"faster_peer": faster} | ratio(seconds[faster].tolist(), ours.tolist())
        if peak:
            row["ratio_at_peak"] = rounded(float(np.median(seconds[faster])) * peak / case.work)
        if case.aim is not None:
            row["aim"] = case.aim
            if len(ours) >= ENOUGH:
                low, high = row["ratio_95"]
                row["met"] = row["ratio"] >= case.aim or low <= case.aim <= high
    return row


def rows_of(done: Sequence[tuple[Case, str, int, Timings]]) -> list[Row]:
    """The rows of cases, each with its dtype, threads and timings; the same limit holds for all to which it applies."""
    peaks: dict[tuple[str, str, int], float] = {}
    for case, dtype, threads, found in done:
        key = case.statements.get("peak", ""), dtype, threads
        peaks[key] = max(peaks.get(key, 0.0), found.peak)
    return [
        compared(case, dtype, threads, found, peaks[case.statements.get("peak", ""), dtype, threads])
        for case, dtype, threads, found in done
    ]


def cells(row: Row) -> tuple[str, ...]:
    """The row of `compared` as text."""
    failures = row.get("failures", {})
    times = [number(row["us"][name]) if name in row["us"] else failures.get(name, "") for name in LIBRARIES]
    speed = [f"{row['giga_per_second']:.3g}", f"{row['of_peak']:.0%}"] if "of_peak" in row else ["", ""]
    if "ratio" not in row:
        return (row["case"], *times, *speed, "", "", "", "", "")
    most = f"{row['ratio_at_peak']:.2f}" if "ratio_at_peak" in row else ""
    aim = f"{row['aim']:.2f}" if "aim" in row else ""
    met = {True: "yes", False: "NO", None: ""}[row.get("met")]
    interval = "{:.2f}-{:.2f}".format(*row["ratio_95"])
    return row["case"], *times, *speed, f"{row['ratio']:.2f}", interval, most, aim, met


def print_rows(rows: list[Row], unit: str) -> None:
    """Print a table for each dtype and number of threads."""
    columns = ("case", *(f"{name} µs" for name in LIBRARIES), unit, "of peak", "ratio", "95 %", "at peak", "aim", "met")
    for dtype, threads in dict.fromkeys((row["dtype"], row["threads"]) for row in rows):
        chosen = [cells(row) for row in rows if (row["dtype"], row["threads"]) == (dtype, threads)]
        print_table(title(dtype, threads), columns, chosen)
    judged = [row for row in rows if "met" in row]
    if judged:
        print(f"{sum(row['met'] for row in judged)} of {len(judged)} aims are met")
    elif any("aim" in row for row in rows):
        print(f"fewer than {ENOUGH} rounds say nothing about the aims")
    missing = [row for row in rows if "minigrad" in row.get("failures", {})]
    if missing:
        print(f"{len(missing)} rows are without minigrad: {', '.join(dict.fromkeys(row['case'] for row in missing))}")


def plot(rows: list[Row], script: str, speeds: Callable[[Any, list[Row]], None]) -> None:
    """Draw for each dtype and number of threads the speeds, as the function does, and below them the ratios."""
    columns = list(dict.fromkeys((row["dtype"], row["threads"]) for row in rows))
    drawn, grid = report.figure(script, len(columns), 2, (5.5, 5.5))
    for (dtype, threads), (above, below) in zip(columns, grid.T, strict=True):
        chosen = [row for row in rows if (row["dtype"], row["threads"]) == (dtype, threads)]
        speeds(above, chosen)
        above.set_title(title(dtype, threads))
        plot_ratios(below, chosen)
    grid[0, 0].legend()
    for axes in grid[1, 1:]:
        axes.set_yticklabels([])  # they are those of the first column
    report.save(drawn, script)


def title(dtype: str, threads: int) -> str:
    """What a table or a column of the plot is about."""
    return f"{dtype}, {threads} thread{'s' * (threads > 1)}"


def plot_ratios(axes: Any, rows: list[Row]) -> None:
    """Draw the ratio of every row that has one with its interval, and a mark at the aim."""
    places = range(len(rows))
    there = [(place, row) for place, row in enumerate(rows) if "ratio" in row]
    for place, row in there:
        axes.plot(row["ratio_95"], [place, place], color="tab:blue", linewidth=2)
        axes.plot(row["ratio"], place, "o", color="tab:blue")
        axes.plot(row.get("aim", np.nan), place, "|", color="black", markersize=14)
    axes.axvline(1, color="gray", linewidth=1, zorder=0)
    values = [1.0, *(x for _, row in there for x in (*row["ratio_95"], row.get("aim", 1.0)))]
    few = max(values) < 4 * min(values)
    ticks = (0.4, 0.5, 0.6, 0.8, 1, 1.2, 1.5, 2, 3) if few else (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xlim(min(values) / 1.1, max(values) * 1.1)
    axes.set_yticks(places, [row["case"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("speed by the faster peer's, 95 %; | aim")


def arguments(script: str, doc: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a script."""
    parser = report.parser(script, doc, tuple(PEERS), threads=True, rounds=(ROUNDS, QUICK_ROUNDS))
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES, help="(default: both)")
    parser.add_argument("--only", default="", help="the cases that have this text in their name")
    parser.add_argument("--one-process", action="store_true", help="all libraries in one process")
    return report.parse(parser, argv)


def run(
    script: str,
    doc: str | None,
    cases: Callable[[str], Iterable[Case]],
    unit: str,
    speeds: Callable[[Any, list[Row]], None],
    argv: Sequence[str] | None = None,
) -> None:
    """Measure what the command line asks for, print it, write it."""
    given = arguments(script, doc, argv)
    results = report.circumstances(doc, given.peers)
    done: list[tuple[Case, str, int, Timings]] = []
    for threads in given.threads:
        libraries = ["minigrad", *(PEERS[package] for package in given.peers), "peak"]
        with Workers(libraries, threads, given.one_process) as workers:
            for dtype in given.dtype:
                for case in cases(dtype):
                    if given.only not in case.name or (given.quick and case.large):
                        continue
                    done.append((case, dtype, threads, measured(case, dtype, workers, given.rounds)))
    rows = rows_of(done)
    print_rows(rows, unit)
    results |= {
        "rounds": given.rounds,
        "one_process": given.one_process,
        "statements": {case.name: case.statements for dtype in given.dtype for case in cases(dtype)},
        "rows": rows,
    }
    report.finish(script, given, results)
    if given.plot:
        plot(rows, script, speeds)
    if any(WRONG in row.get("failures", {}).values() for row in rows):
        sys.exit("there are wrong results")
