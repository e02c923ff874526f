"""How long does a training step take, compiled and eager, beside PyTorch, JAX, autograd, MyGrad and NumPy by hand?

    python -m benchmarks.training                     all cases on one thread and on all: 45 minutes on two cores
    python -m benchmarks.training --cases ae32 gan --peers torch,jax --threads 1
    python -m benchmarks.training --quick             one case and few rounds: numbers for a look only
    python -m benchmarks.training --json --plot       ... also written to benchmarks/results, each case when it is
                                                      done; cases measured before stay if nothing else is different
    python -m benchmarks.training --against FILE      what is different from an earlier result, beyond noise
    python -m benchmarks.training --against floor     how far the compiled steps are from the least time, see
                                                      `benchmarks.floor`
    python -m benchmarks.training --show              measure nothing: take what benchmarks/results/training.json holds

`benchmarks.cases` has the cases, `benchmarks.steps` their steps as each library's users write them. Here they are
started, compared and shown. Every library has a process of its own for each case, which may use so many processors and
threads and no more; who does not have the turn is stopped. Weights and batches are the same, and the losses after 20
steps have to be equal to 1e-4, or the library is out. Then the libraries take turns (A B C, B C A, ...) of about 0.2 s;
the batches come round again after 20. Reported are the median of a step's time over the rounds, and the median ratio
within a round, with its bootstrap interval: JAX's time by that of the compiled step; for the convolutions, at which
eager PyTorch with channels last is the fastest peer, that one's. What could not be measured is named below the tables,
with the reason.

A process is timed from its start to the end of its first step, several times in turn (with more threads once): all
read their data from the same file of arrays. "Cold" is with all of minigrad's eager kernels in its cache, but without
this step, and with nothing in PyTorch's; the next process, which finds there what the cold one has compiled, is the
other. JAX compiles anew, as it does if not told otherwise. Memory is the peak of all that a process does, from its
start to its last step.

MNIST is found as `models.datasets.load` does; without it images are random, with as much ink, and the table says so.
The peers come with `pip install -e '.[bench]'`; one that is missing is left out and named.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks import floor, report
from benchmarks.cases import CASES, CHAIN, arrays, images, source
from benchmarks.interleaved import ROUNDS, Process
from benchmarks.report import ENOUGH, Row, differing, number, print_table, quartiles, ratio, rounded
from benchmarks.steps import LIBRARIES

PEERS = ("torch", "jax", "autograd", "mygrad", "numpy")
COMPILED = ("minigrad, compiled", "PyTorch, compiled")  # those that have a cache for what they compile
OURS = COMPILED[0]
COLD = ", cold"  # follows the name of one of them where there is nothing in its cache
TURN = 0.2  # seconds
STARTS = 3
QUICK_ROUNDS, QUICK_STARTS, QUICK_CASES = 3, 1, ("ae32",)
STEPS = 20  # after which losses are compared


def by_case(*ratios: float) -> dict[str, float]:
    """Numbers in the order of `CASES`, the last of which may have none."""
    return dict(zip(CASES, ratios, strict=False))


# By the number of threads: how many times as fast as the reference the compiled step is asked to be.
ASKED = {
    1: {
        "at least": by_case(1.5, 1.35, 1.2, 1.15, 1.3, 1.15, 3.5, 1.2, 1.0),
        "to aim at": by_case(1.7, 1.45, 1.3, 1.3, 1.4, 1.25, 5.0, 2.0),
    },
    2: {"to aim at": by_case(2.0, 1.55, 1.45, 1.15, 1.3, 1.2, 2.5, 1.2)},
}
START_ASKED = {OURS: 0.5, OURS + COLD: 1.5}  # at most so many times JAX's


# Processes


def asked(process: Process, **command: Any) -> dict[str, Any]:
    """The answer to a command; a failure, too, if the process died of it."""
    try:
        return dict(process.ask(**command))
    except (RuntimeError, BrokenPipeError):
        return {"failure": "the process died"}


class Bench:
    """Starts libraries, in a folder for the data and for what they compile."""

    def __init__(self, folder: Path, threads: int):
        self.folder, self.threads = folder, threads

    def file(self, case: str) -> Path:
        """The weights and batches of a case."""
        path = self.folder / f"{case}.npz"
        if not path.exists():
            np.savez(path, **arrays(case))  # type: ignore[arg-type]
        return path

    def start(self, library: str, case: str, cached: Path) -> tuple[Process, float, dict[str, Any]]:
        """A process that has taken its first step, the seconds from its start to there, and what it says of it."""
        file, several = self.file(case), self.threads > 1
        environment = {
            "MINIGRAD_CACHE_DIR": str(cached),
            "TORCHINDUCTOR_CACHE_DIR": str(cached / "torch"),
            "TORCHINDUCTOR_COMPILE_THREADS": str(self.threads),
            "JAX_PLATFORMS": "cpu",
            "NPROC": str(self.threads),  # for XLA's pool, as the flags are
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={several} intra_op_parallelism_threads={self.threads}".lower(),
        }
        begun = perf_counter()
        process = Process(self.threads, "benchmarks.steps", environment)
        if hasattr(os, "sched_setaffinity"):  # XLA makes as many threads as there are processors
            os.sched_setaffinity(process.process.pid, sorted(os.sched_getaffinity(0))[-self.threads :])
        answer = asked(process, library=library, case=case, file=str(file))
        return process, perf_counter() - begun, answer

    def kernels(self, case: str) -> Path:
        """A cache that has what eager steps of the case need, and compiled ones of another, but not of this."""
        other = "ae32" if case == "digits" else "digits"
        eager, path = (self.folder / f"{name}-{self.threads}" for name in ("eager", f"kernels-{case}"))
        eager.mkdir(exist_ok=True)
        self.start("minigrad", case, eager)[0].end()
        shutil.copytree(eager, path)
        self.start(OURS, other, path)[0].end()
        return path


@dataclass
class Found:
    """What was measured of a case, by library; for a process with a cold cache by its name and `COLD`.

    Attributes:
        first: seconds from the start of a process to its first step, for each start.
        memory: MiB that were resident after the import, and at most.
        losses: after 20 steps.
        seconds: of a step, in each round.
        failures: why a library is out.
    """

    first: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, key: str, answer: dict[str, Any]) -> bool:
        """Take down the memory, or why the library is out; whether all is well."""
        if "failure" in answer:
            self.failures[key.removesuffix(COLD)] = answer["failure"]
        elif answer["memory"]:
            self.memory[key] = answer["imported"]["resident"], answer["memory"]["peak"]
        return "failure" not in answer


def measured(bench: Bench, case: str, libraries: Sequence[str], rounds: int, starts: int) -> Found:
    """Start the libraries in turn, several times; the processes of the last time then take turns at the steps."""
    found = Found()
    running: dict[str, Process] = {}
    kernels = bench.kernels(case)

    def start(key: str, cached: Path) -> None:
        library = key.removesuffix(COLD)
        if library in running:
            running.pop(library).end()
        if library in found.failures:
            return
        running[library], seconds, answer = bench.start(library, case, cached)
        if found.note(key, answer):
            found.first.setdefault(key, []).append(seconds)

    try:
        order = deque(libraries)
        for k in range(starts):
            order.rotate(-1)
            for library in order:
                cached = kernels
                if library in COMPILED:
                    name = f"{LIBRARIES[library][0]}-{case}-{bench.threads}-{k}"  # C++ compilers want no spaces
                    cached = shutil.copytree(kernels, bench.folder / name)
                    start(library + COLD, cached)
                start(library, cached)
        last: dict[str, float] = {}
        for library in libraries:
            if library not in found.failures:
                answer = asked(running[library], warm=0, steps=STEPS - 1)
                if found.note(library, answer):
                    found.losses[library], last[library] = answer["loss"], answer["seconds"]
        found.failures |= differing(found.losses)
        for _ in range(rounds):
            order.rotate(-1)
            for library in order:
                if library not in found.failures:
                    steps = max(1, round(TURN / last[library]))
                    answer = asked(running[library], warm=steps // 10, steps=steps)
                    if found.note(library, answer):
                        last[library] = answer["seconds"]
                        found.seconds.setdefault(library, []).append(last[library])
    finally:
        for process in running.values():
            process.end()
    return found


# What is made of it


def row_of(case: str, threads: int, found: Found) -> Row:
    """What the tables show, as JSON has it."""
    well = lambda key: key.removesuffix(COLD) not in found.failures
    first = {key: np.array(seconds) for key, seconds in found.first.items() if well(key)}
    memory = {key: mib for key, mib in found.memory.items() if well(key)}
    samples = {library: found.seconds[library] for library in LIBRARIES if library in found.seconds and well(library)}
    row: Row = {"case": case, "threads": threads, "unit": "s"}
    row["images"] = "" if case == "chain" else images(source(case))[2]
    row["rounds"] = max(map(len, samples.values()), default=0)
    row["starts"] = max(map(len, first.values()), default=0)
    row["us"] = {library: rounded(median(seconds) * 1e6) for library, seconds in samples.items()}
    row["quartiles"] = {library: quartiles(seconds) for library, seconds in samples.items()}
    row["samples"] = {library: [*map(rounded, seconds)] for library, seconds in samples.items()}
    row |= {"loss": found.losses, "failures": found.failures} | compared(case, threads, samples)
    row["first_step"] = {key: rounded(float(np.median(seconds))) for key, seconds in first.items()}
    if "JAX" in first:
        ratios = {key: first[key] / first["JAX"] for key in START_ASKED if key in first}
        row["first_step_by_jax"] = {key: rounded(float(np.median(each))) for key, each in ratios.items()}
    row["peak_mib"] = {key: round(peak) for key, (_, peak) in memory.items()}
    row["above_import_mib"] = {key: round(peak - imported) for key, (imported, peak) in memory.items()}
    return row


def compared(case: str, threads: int, seconds: Mapping[str, Sequence[float]]) -> Row:
    """How many times as fast as the reference the compiled step is, and whether that is what was asked for.

    A number is reached if the ratio's median reaches it or the interval contains it, and there were enough rounds.
    """
    reference = "PyTorch, fused" if case == "conv" else "JAX"
    if not {OURS, reference} <= seconds.keys():
        return {}
    row: Row = {"reference": reference} | ratio(seconds[reference], seconds[OURS])
    row["asked"] = {what: of_case[case] for what, of_case in ASKED.get(threads, {}).items() if case in of_case}
    if len(seconds[OURS]) >= ENOUGH:
        low, high = row["ratio_95"]
        row["reached"] = {what: row["ratio"] >= least or low <= least <= high for what, least in row["asked"].items()}
    return row


# Tables


def shown(rows: Sequence[Row]) -> list[str]:
    """The libraries that rows have something to say of."""
    return [library for library in LIBRARIES if any(library in row["us"] or library in row["failures"] for row in rows)]


def with_cold(libraries: Sequence[str]) -> list[str]:
    """The same, each that compiles twice: with a cold cache before."""
    return [key for name in libraries for key in ((name + COLD, name) if name in COMPILED else (name,))]


def verdict(asked: str, reached: bool | None) -> str:
    """What was asked for, and whether it is reached, if that can be said."""
    return asked + {True: " yes", False: " NO", None: ""}[reached]


def speed(row: Row, libraries: Sequence[str]) -> tuple[str, ...]:
    """The row of the first table: times, ratio, what is asked, and the loss."""
    scale = {"digits": 1.0, "chain": 2.0 * CHAIN}.get(row["case"], 1000.0)
    times = [number(rounded(row["us"][library] / scale)) if library in row["us"] else "" for library in libraries]
    beside = [f"{row['ratio']:.2f}", "{:.2f}-{:.2f}".format(*row["ratio_95"])] if "ratio" in row else ["", ""]
    asked = [
        verdict(f"{row['asked'][what]:.2f}", row.get("reached", {}).get(what)) if what in row.get("asked", {}) else ""
        for what in ("at least", "to aim at")
    ]
    losses = [loss for library, loss in row["loss"].items() if library not in row["failures"]]
    return row["case"], *times, *beside, *asked, f"{median(losses):.6g}" if losses else ""


def starts(row: Row, libraries: Sequence[str]) -> tuple[str, ...]:
    """The row of the second table: seconds to the first step, and the compiled ones' as parts of JAX's."""
    first = row["first_step"]
    times = [f"{first[key]:.2f}" if key in first else "" for key in with_cold(libraries)]
    ratios = row.get("first_step_by_jax", {})
    judged = row["starts"] >= STARTS
    parts = [
        f"{ratios[key]:.2f}" + verdict(f" ≤ {most}", ratios[key] <= most if judged else None) if key in ratios else ""
        for key, most in START_ASKED.items()
    ]
    return row["case"], *times, *parts


def memory(row: Row, libraries: Sequence[str]) -> tuple[str, ...]:
    """The row of the third table: MiB above the import, the peak, and whether the compiled step's is the least."""
    above, peak = row["above_import_mib"], row["peak_mib"]
    cells = [f"{above[key]} / {peak[key]}" if key in above else "" for key in with_cold(libraries)]
    others = [above[library] for library in libraries if library in above and not library.startswith("minigrad")]
    least = verdict("", above[OURS] < min(others)).strip() if OURS in above and others else ""
    return row["case"], *cells, least


def show(rows: Sequence[Row]) -> None:
    """Print the tables for each number of threads, and below them what could not be measured."""
    libraries = shown(rows)
    for threads in sorted({row["threads"] for row in rows}):
        chosen = [row for row in rows if row["threads"] == threads]
        trained = [row for row in chosen if row["case"] != "chain"]
        chain = [row for row in chosen if row["case"] == "chain"]
        on = f"{threads} thread{'s' * (threads > 1)}"
        data = " and ".join(dict.fromkeys(row["images"] for row in trained))
        times = ("case", *libraries, "ratio", "95 %", "at least", "to aim at", f"loss {STEPS}")
        both = with_cold(libraries)
        tables: list[tuple[str, Sequence[str], Callable[[Row, Sequence[str]], tuple[str, ...]], list[Row]]] = [
            (f"A training step, ms (digits: µs), {on}; float32; images: {data}", times, speed, trained),
            (
                f"From the start of a process to its first step, s, {on}",
                ("case", *both, "warm / JAX", "cold / JAX"),
                starts,
                trained,
            ),
            (f"Memory above that after import / peak, MiB, {on}", ("case", *both, "least"), memory, trained),
            (
                f"{2 * CHAIN} operations on shape (8,), forward and backward, µs an operation, {on}",
                times,
                speed,
                chain,
            ),
        ]
        for title, columns, cells, those in tables:
            if those:
                print_table(title, columns, [cells(row, libraries) for row in those])
        for row in chosen:
            for library, why in row["failures"].items():
                print(f"{row['case']} without {library}: {why}")
    if any(row["rounds"] < ENOUGH for row in rows):
        print(f"fewer than {ENOUGH} rounds say nothing about what is asked")


def plot(rows: Sequence[Row]) -> None:
    """Draw for each number of threads how many times the compiled step's time the other libraries take."""
    numbers, others = sorted({row["threads"] for row in rows}), [name for name in shown(rows) if name != OURS]
    drawn, grid = report.figure("training", 1, len(numbers), (11, 4))
    for threads, axes in zip(numbers, grid[:, 0], strict=True):
        chosen = [row for row in rows if row["threads"] == threads]
        for i, library in enumerate(others):
            color, shift = f"C{i}", 0.8 * ((i + 0.5) / len(others) - 0.5)  # side by side within a case
            there = [(x, row["samples"]) for x, row in enumerate(chosen) if {OURS, library} <= row["samples"].keys()]
            found = [(x + shift, ratio(samples[library], samples[OURS])) for x, samples in there]
            axes.plot([x for x, _ in found], [each["ratio"] for _, each in found], "o", color=color, label=library)
            for x, each in found:
                axes.plot([x, x], each["ratio_95"], color=color)
        axes.axhline(1, color="gray", linewidth=1, zorder=0)
        axes.vlines([x + 0.5 for x in range(len(chosen) - 1)], 0, 1, "lightgray", transform=axes.get_xaxis_transform())
        axes.set_yscale("log", subs=(2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xticks(range(len(chosen)), [row["case"] for row in chosen])
        axes.set_xlim(-0.5, len(chosen) - 0.5)
        axes.set_ylabel(f"time / compiled minigrad's, {threads} thread{'s' * (threads > 1)}")
    drawn.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(others))
    report.save(drawn, "training")


# The command line


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = report.parser(
        "training", __doc__, PEERS, threads=True, rounds=(ROUNDS, QUICK_ROUNDS), against="FILE|floor"
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: all, or if --quick one")
    parser.add_argument("--show", action="store_true", help="measure nothing: take what was written")
    given = report.parse(parser, argv)
    if given.show and not (report.RESULTS / "training.json").exists():
        parser.error("--show: there is no training.json in benchmarks/results; --json writes it")
    given.cases = given.cases or (QUICK_CASES if given.quick else [*CASES])
    given.starts = QUICK_STARTS if given.quick else STARTS
    return given


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The result that is asked for."""
    results = report.circumstances(__doc__, given.peers)
    libraries = [name for name, (package, _) in LIBRARIES.items() if package in ("minigrad", *given.peers)]
    rows = {(row["threads"], row["case"]): row for row in (report.kept("training", results) if given.json else ())}
    with tempfile.TemporaryDirectory() as folder:
        for threads in given.threads:
            starts = given.starts if threads == given.threads[0] else 1  # which hardly differ
            for case in given.cases:
                print(f"{case}, {threads} threads", file=sys.stderr, flush=True)
                found = measured(Bench(Path(folder), threads), case, libraries, given.rounds, starts)
                rows[threads, case] = row_of(case, threads, found)
                results["rows"] = [rows[key] for key in sorted(rows, key=lambda key: (key[0], [*CASES].index(key[1])))]
                if given.json:  # it takes long: what there is is not lost if it is stopped
                    report.write(results, report.RESULTS / "training.json")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit code is 1 if there was a wrong loss."""
    given = arguments(argv)
    path = report.RESULTS / "training.json"
    results = json.loads(path.read_text("utf-8")) if given.show else measure(given)
    rows: list[Row] = results["rows"]
    if not all("samples" in row for row in rows):
        print(f"{path} is of an earlier format: measure anew with --json")
        return 1
    show(rows)
    if given.floor:
        least = [(row["case"], row["threads"]) for row in rows if row["case"] in floor.CASES]
        results["floor"] = [floor.row(case, threads) for case, threads in least]
        floor.show(results["floor"])
    if given.plot:
        plot(rows)
    report.finish("training", given, results)
    return int(any(why.startswith("wrong loss") for row in rows for why in row["failures"].values()))


if __name__ == "__main__":
    sys.exit(main())
