"""How does the cost grow: with depth, width, batch and threads, forward and backward?

    python -m benchmarks.scaling                     the tables: three minutes
    python -m benchmarks.scaling --quick             few rounds, chains of at most 100,000 operations
    python -m benchmarks.scaling --json --plot       ... also written to benchmarks/results

Three sweeps in float32, minigrad and PyTorch, both eager. Depth: a chain of n operations on 8 numbers, which are
multiplied by 2 and by 1/2 in turn, so that all stay as they are and the gradient is exactly 1; then the graph is freed.
Microseconds an operation should be the same for any n. Width: a layer of n to n units with ReLU, for 128 samples; three
products of matrices, whose work is as n². Batch: such a layer of 512 units, whose work is as the number of samples;
two of the three products are backward, which so should take about twice the time of forward.

Where it should be straight, a line is fitted to the logarithms of the medians, from the size on at which what a call
costs by itself is small: its slope, with the bootstrap interval in which rounds are resampled, and the largest factor
by which a median is off the line. Every library has a process of its own for each number of threads; they take turns
at each size (A B, B A, ...), and who does not have the turn is stopped. A turn is as many calls as take 20 ms, and its
number is their mean, garbage collection included. Chains of so small arrays run on one thread.

How to read it: `Sweep` is what grows, `work` is a process, `measured` the loop, `line` the fit; tables and pictures
come last.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.interleaved import WRONG, Process, differing
from benchmarks.report import Row, number, print_table, ratio, rounded
from benchmarks.worker import some_numbers

ROUNDS, QUICK_ROUNDS = 7, 3
TURN = 0.02  # seconds that a turn takes at least
NUMBERS, SAMPLES, UNITS = 8, 128, 512  # of a chain's arrays, of the batch while the width grows, of the layer otherwise
LIBRARIES = {"minigrad": "minigrad", "PyTorch": "torch"}  # by name the package
WORKER = "MINIGRAD_BENCHMARK_WORKER"  # the variable that tells this program that it is a worker

Array = np.ndarray[Any, Any]
Seconds = dict[str, float]  # by part
Key = tuple[str, int]  # a library, and its number of threads


@dataclass(frozen=True)
class Sweep:
    """What grows.

    Attributes:
        axis: what the size is the number of.
        sizes: all of them.
        quick: the largest with --quick.
        start: the size from which on it should be straight.
        slope: that of the line, the power of the size with which the work grows.
        parts: what is timed.
        unit, scale: of the tables and pictures, and how many of it a second has; of a chain: an operation's.
    """

    axis: str
    sizes: tuple[int, ...]
    quick: int
    start: int
    slope: int
    parts: tuple[str, ...] = ("forward", "backward")
    unit: str = "ms"
    scale: float = 1e3


SWEEPS = {
    "depth": Sweep(
        "operations", tuple(10**k for k in range(1, 7)), 100_000, 1000, 1, ("forward", "backward", "freeing"),
        "µs an operation", 1e6,
    ),
    "width": Sweep("units", (16, 32, 64, 128, 256, 512, 1024, 2048), 1024, 256, 2),
    "batch": Sweep("samples", (1, 4, 16, 64, 256, 1024, 4096), 1024, 64, 1),
}  # fmt: skip


# What a process does


def of_minigrad() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What makes a leaf of an array, and a layer."""
    import minigrad as mg

    return partial(mg.Tensor, requires_grad=True), lambda x, w, b: mg.relu(mg.linear(x, w, b))


def of_torch() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """What makes a leaf of an array, and a layer."""
    import torch

    return partial(torch.tensor, requires_grad=True), lambda x, w, b: torch.relu(torch.addmm(b, x, w))


def task(library: str, sweep: str, size: int) -> tuple[Callable[[], Seconds], list[Any]]:
    """What is timed, and the leaves at which it leaves gradients."""
    leaf, layer = {"minigrad": of_minigrad, "PyTorch": of_torch}[library]()
    if sweep == "depth":
        x, *constants = (leaf(np.full(NUMBERS, value, np.float32)) for value in (1, 2, 0.5, 1))
        return partial(chain, size, x, *(constant.detach() for constant in constants)), [x]
    samples, units = (SAMPLES, size) if sweep == "width" else (size, UNITS)
    rng = np.random.default_rng(0)
    normal = lambda *shape: leaf(rng.standard_normal(shape, np.float32))
    leaves = [normal(samples, units), normal(units, units), normal(units)]
    return partial(dense, layer, leaves, normal(samples, units).detach()), leaves


def chain(n: int, x: Any, double: Any, half: Any, ones: Any) -> Seconds:
    """Multiply n times, go backward, and free the graph: in the same words for both libraries."""
    x.grad = None
    times = [perf_counter()]
    y = x
    for _ in range(n // 2):
        y = y * double * half
    times.append(perf_counter())
    y.backward(ones)
    times.append(perf_counter())
    del y
    times.append(perf_counter())
    return dict(zip(SWEEPS["depth"].parts, np.diff(times).tolist(), strict=True))


def dense(layer: Callable[..., Any], leaves: Sequence[Any], g: Any) -> Seconds:
    """Go forward and backward through a layer."""
    for leaf in leaves:
        leaf.grad = None
    begun = perf_counter()
    y = layer(*leaves)
    between = perf_counter()
    y.backward(g)
    return {"forward": between - begun, "backward": perf_counter() - between}


class Worker:
    """What this process times: the task that was asked for last."""

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """Prepare a task, and say its gradients and the seconds of a call; or those of the parts, over some calls."""
        if "size" in command:
            self.run, leaves = task(**command)
            self.run()
            seconds = sum(self.run().values())
            return {"numbers": some_numbers([leaf.grad for leaf in leaves]), "seconds": seconds}
        gc.collect()  # what was before is not this turn's
        if command["calls"] > 1:
            self.run()  # brings everything back into the caches
        found = [self.run() for _ in range(command["calls"])]
        return {part: sum(seconds[part] for seconds in found) / len(found) for part in found[0]}


def work() -> None:
    """Answer commands from standard input on standard output, a line of JSON each."""
    worker = Worker()
    for line in sys.stdin:
        try:
            with redirect_stdout(sys.stderr):  # for what a library prints
                answer = worker.answer(json.loads(line))
        except Exception as error:
            answer = {"failure": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
        print(json.dumps(answer), flush=True)


# What is asked of the processes


@dataclass
class Found:
    """What was measured at one size: for each library and number of threads the seconds of each part in each round,
    or why there are none."""

    seconds: dict[Key, list[Seconds]] = field(default_factory=dict)
    failures: dict[Key, str] = field(default_factory=dict)


def measured(sweep: str, size: int, workers: Mapping[Key, Any], rounds: int) -> Found:
    """Let the libraries take turns at one size."""
    found = Found()
    calls: dict[Key, int] = {}
    numbers: dict[Key, Any] = {}
    for key, worker in workers.items():
        answer = worker.ask(library=key[0], sweep=sweep, size=size)
        if "failure" in answer:
            found.failures[key] = answer["failure"]
            continue
        calls[key] = max(1, round(TURN / answer["seconds"]))
        numbers[key] = answer["numbers"]
    for threads in {threads for _, threads in numbers}:
        of_libraries = {name: parts for (name, count), parts in numbers.items() if count == threads}
        wrong = differing(of_libraries, "float32")
        if sweep == "depth":
            wrong = [name for name, parts in of_libraries.items() if parts != [[1.0] * NUMBERS]]
        found.failures |= {(name, threads): WRONG for name in wrong}
    order = deque(key for key in calls if key not in found.failures)
    for _ in range(rounds):
        order.rotate(-1)
        for key in order:
            answer = workers[key].ask(calls=calls[key])
            if "failure" in answer:
                raise RuntimeError(f"{key[0]}, {sweep} {size:,}: {answer['failure']}")
            found.seconds.setdefault(key, []).append(answer)
    return found


def rows_of(sweep: str, size: int, found: Found) -> list[Row]:
    """A row for each number of threads, as JSON has it; samples are the seconds of all parts together.

    Its ratio is PyTorch's time by minigrad's, its speed-up the time of the fewest threads by that of these.
    """
    total = {key: [sum(each.values()) for each in seconds] for key, seconds in found.seconds.items()}
    counts = sorted({threads for _, threads in {*total, *found.failures}})
    rows = []
    for threads in counts:
        names = [name for name in LIBRARIES if (name, threads) in total]
        row: Row = {"case": f"{sweep} {size:,}", "dtype": "float32", "threads": threads, "unit": "s"}
        row |= {"sweep": sweep, "size": size, "samples": {}, "parts": {}, "backward_by_forward": {}}
        for name in names:
            seconds = found.seconds[name, threads]
            parts = {part: [each[part] for each in seconds] for part in SWEEPS[sweep].parts}
            row["samples"][name] = [rounded(x) for x in total[name, threads]]
            row["parts"][name] = {part: [rounded(x) for x in each] for part, each in parts.items()}
            row["backward_by_forward"][name] = ratio(parts["backward"], parts["forward"])
        if {"minigrad", "PyTorch"} <= set(names):
            row |= ratio(total["PyTorch", threads], total["minigrad", threads])
        if threads > counts[0]:
            fewest = {name: total[name, counts[0]] for name in names if (name, counts[0]) in total}
            row["speed_up"] = {name: ratio(seconds, total[name, threads]) for name, seconds in fewest.items()}
        if failures := {name: why for (name, count), why in found.failures.items() if count == threads}:
            row["failures"] = failures
        rows.append(row)
    return rows


# Lines


def line(sizes: Sequence[int], samples: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The straight line through the logarithms of medians, by least squares.

    Args:
        sizes: at least two.
        samples: of each size.

    Returns:
        `slope`, with its 95 % percentile bootstrap interval; `at_1`, where the line is at size 1; and `off`, the
        largest factor by which a median is above or below the line.

    Example:
        >>> line([10, 100, 1000], [[2.0, 2.0], [20.0, 20.0], [200.0, 200.0]])
        {'slope': 1.0, 'slope_95': [1.0, 1.0], 'at_1': 0.2, 'off': 1.0}
    """
    rng = np.random.default_rng(0)
    x = np.log(sizes)
    resampled = [np.median(rng.choice(np.asarray(each), (2000, len(each))), axis=1) for each in samples]
    slopes = np.polyfit(x, np.log(resampled), 1)[0]
    y = np.log([median(each) for each in samples])
    slope, start = np.polyfit(x, y, 1)
    low, high = np.percentile(slopes, [2.5, 97.5])
    off = float(np.exp(np.abs(y - slope * x - start).max()))
    return {
        "slope": rounded(slope),
        "slope_95": [rounded(low), rounded(high)],
        "at_1": rounded(np.exp(start)),
        "off": rounded(off),
    }


def series(rows: Sequence[Row], sweep: str, part: str) -> Iterator[tuple[str, int, dict[int, list[float]]]]:
    """Each library and number of threads of a sweep, and the samples of a part by size."""
    chosen = [row for row in rows if row["sweep"] == sweep]
    for threads in sorted({row["threads"] for row in chosen}):
        for name in LIBRARIES:
            found = [row for row in chosen if row["threads"] == threads and name in row["parts"]]
            points = {row["size"]: row["parts"][name][part] for row in found}
            if points:
                yield name, threads, points


def lines_of(rows: Sequence[Row]) -> list[Row]:
    """The lines of all parts of all sweeps that have two sizes or more where they should be straight."""
    found = []
    for sweep, of in SWEEPS.items():
        for part in of.parts:
            for name, threads, points in series(rows, sweep, part):
                straight = {size: samples for size, samples in points.items() if size >= of.start}
                if len(straight) > 1:
                    fit = line(list(straight), list(straight.values()))
                    about = {"sweep": sweep, "part": part, "threads": threads, "library": name}
                    found.append(about | {"sizes": list(straight), "ideal": of.slope} | fit)
    return found


# Tables and pictures


def show(rows: Sequence[Row], lines: Sequence[Row]) -> None:
    """Print a table for each sweep and number of threads, and one of the lines."""
    for sweep, threads in dict.fromkeys((row["sweep"], row["threads"]) for row in rows):
        of = SWEEPS[sweep]
        heads = [f"{part}: {name}" for part in of.parts for name in LIBRARIES]
        heads += [f"backward / forward: {name}" for name in LIBRARIES]
        columns = (of.axis, *heads, "PyTorch / minigrad", "95 %", "speed-up")
        chosen = [cells(row) for row in rows if (row["sweep"], row["threads"]) == (sweep, threads)]
        print_table(f"{sweep}, {of.unit}, float32, {threads} thread{'s' * (threads > 1)}", columns, chosen)
    columns = ("sweep", "part", "threads", "library", "from", "slope", "95 %", "should be", "off the line")
    print_table(
        "Straight lines in log-log: time is as size to the power of the slope",
        columns,
        [
            (
                each["sweep"],
                each["part"],
                str(each["threads"]),
                each["library"],
                f"{each['sizes'][0]:,} to {each['sizes'][-1]:,}",
                f"{each['slope']:.3f}",
                "{:.3f} to {:.3f}".format(*each["slope_95"]),
                str(each["ideal"]),
                f"{each['off'] - 1:.1%}",
            )
            for each in lines
        ],
    )
    for row in rows:
        for name, failure in row.get("failures", {}).items():
            print(f"{row['case']}, {row['threads']} threads, without {name}: {failure}")


def cells(row: Row) -> tuple[str, ...]:
    """A row as text."""
    of = SWEEPS[row["sweep"]]
    times = [
        number(rounded(shown(of, row["size"], median(row["parts"][name][part])))) if name in row["parts"] else ""
        for part in of.parts
        for name in LIBRARIES
    ]
    by = [f"{row['backward_by_forward'][name]['ratio']:.2f}" if name in row["parts"] else "" for name in LIBRARIES]
    beside = [f"{row['ratio']:.2f}", "{:.2f} to {:.2f}".format(*row["ratio_95"])] if "ratio" in row else ["", ""]
    faster = ", ".join(f"{name} {by['ratio']:.2f}" for name, by in row.get("speed_up", {}).items())
    return f"{row['size']:,}", *times, *by, *beside, faster


def shown(of: Sweep, size: int, seconds: float) -> float:
    """Seconds in the unit of a sweep."""
    return seconds * of.scale / (size if of is SWEEPS["depth"] else 1)


def plot(rows: Sequence[Row], lines: Sequence[Row]) -> None:
    """Draw the sweeps, one below the other: forward, backward, backward over forward, and freeing or the speed-up.

    Dots are samples, full lines those that were fitted; dotted ones go through the first median of these, with the
    slope that should be.
    """
    counts = sorted({row["threads"] for row in rows})
    drawn, grid = report.figure("scaling", 4, len(SWEEPS), (4.2, 3.4))
    for (sweep, of), (forward, backward, by, last) in zip(SWEEPS.items(), grid, strict=True):
        parts = dict(zip(of.parts, (forward, backward, last), strict=False))
        for part, axes in parts.items():
            axes.set(title=f"{sweep}: {part}", ylabel=of.unit)
            for name, threads, points in series(rows, sweep, part):
                style = {"color": f"C{list(LIBRARIES).index(name) + 2 * counts.index(threads)}"}
                label = f"{name}, {threads} thread{'s' * (threads > 1)}"
                many = [(n, shown(of, n, seconds)) for n, samples in points.items() for seconds in samples]
                axes.plot(*zip(*many, strict=True), ".", label=label, **style)
                for fit in lines:
                    if (fit["sweep"], fit["part"], fit["threads"], fit["library"]) == (sweep, part, threads, name):
                        sizes = [fit["sizes"][0], fit["sizes"][-1]]
                        axes.plot(sizes, [shown(of, n, fit["at_1"] * n ** fit["slope"]) for n in sizes], **style)
                        first = median(points[sizes[0]])
                        ideal = [shown(of, n, first * (n / sizes[0]) ** of.slope) for n in sizes]
                        axes.plot(sizes, ideal, ":", linewidth=2, **style)
        draw_ratios(by, [row for row in rows if row["sweep"] == sweep], "backward_by_forward", counts)
        by.set(title=f"{sweep}: backward over forward", ylim=(0, None))
        if last not in parts.values():
            draw_ratios(last, [row for row in rows if row["sweep"] == sweep], "speed_up", counts)
            last.set(title=f"{sweep}: speed-up by threads", ylim=(0, None))
        for axes in (forward, backward, by, last):
            axes.set(xscale="log", xlabel=of.axis)
        for axes in parts.values():
            axes.set(**({"ylim": (0, None)} if sweep == "depth" else {"yscale": "log"}))
    for axes in (grid[0, 0], grid[1, 0]):
        if axes.has_data():
            axes.legend(fontsize="small")
    report.save(drawn, "scaling")


def draw_ratios(axes: Any, rows: Sequence[Row], what: str, counts: Sequence[int]) -> None:
    """Draw a ratio with its interval over the size, for each library and number of threads."""
    for threads in counts:
        for i, name in enumerate(LIBRARIES):
            points = {r["size"]: r[what][name] for r in rows if r["threads"] == threads and name in r.get(what, {})}
            if points:
                color = f"C{i + 2 * counts.index(threads)}"
                axes.plot(points.keys(), [point["ratio"] for point in points.values()], ".-", color=color)
                low, high = zip(*(point["ratio_95"] for point in points.values()), strict=True)
                axes.fill_between(points.keys(), low, high, color=color, alpha=0.2)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print it, write it."""
    parser = report.parser("scaling", __doc__, ("torch",), threads=True, rounds=(ROUNDS, QUICK_ROUNDS))
    parser.add_argument("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS), help="(default: all)")
    given = report.parse(parser, argv)
    results = report.circumstances(__doc__, given.peers)
    libraries = [name for name, package in LIBRARIES.items() if package in ("minigrad", *given.peers)]
    rows: list[Row] = []
    for sweep in given.sweeps:
        counts = [1] if sweep == "depth" else sorted({*given.threads})
        keys = [(name, threads) for threads in counts for name in libraries]
        workers = {key: Process(key[1], "benchmarks.scaling", {WORKER: "1"}) for key in keys}
        try:
            for size in SWEEPS[sweep].sizes:
                if size <= SWEEPS[sweep].quick or not given.quick:
                    rows += rows_of(sweep, size, measured(sweep, size, workers, given.rounds))
        finally:
            for process in workers.values():
                process.end()
    lines = lines_of(rows)
    show(rows, lines)
    report.finish("scaling", given, results | {"rounds": given.rounds, "rows": rows, "lines": lines})
    if given.plot:
        plot(rows, lines)
    if any(WRONG in row.get("failures", {}).values() for row in rows):
        sys.exit("there are wrong results")


if __name__ == "__main__":
    work() if WORKER in os.environ else main()
