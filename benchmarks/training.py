"""How long does a training step take, compiled and eager, beside PyTorch and JAX?

    python -m benchmarks.training                     all cases on one thread and on all: half an hour
    python -m benchmarks.training --cases ae32 gan --peers compiled jax --threads 1
    python -m benchmarks.training --quick             few rounds, whose numbers are for a look only
    python -m benchmarks.training --json              ... also written to benchmarks/results/training.json, case by
                                                      case; cases that are not run now stay there
    python -m benchmarks.training --show              only print what that file holds

`benchmarks.steps` has the cases, and their steps as each library's users write them. Here they are started, compared
and shown. Every library has a process of its own for each case, which may use so many processors and threads and no
more; who does not have the turn is stopped. Weights and batches are the same, and the losses after 20 steps have to
be equal to 1e-4, or the peer is out. Then the peers take turns (A B C, B C A, ...) of about 0.2 s; the batches come
round again after 20. Reported are the median of a step's time over the rounds, and the median ratio within a round,
with its bootstrap interval: JAX's time by that of the compiled step, or PyTorch's for the convolutions.

A process is timed from its start to the end of its first step, several times in turn: all read their data from the
same file of arrays, "cold" is with all of minigrad's kernels in its cache, but without this step, and "warm" with
both; JAX compiles anew, as it does if not told otherwise. Memory is the peak of all that a process does, from its
start to its last step.

MNIST is found as `models.datasets.load` does; without it images are random, with as much ink, and the table says so.
The peers come with `pip install -e '.[bench]'`; what is missing is left out, and it is said why.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.interleaved import ENOUGH, ROUNDS, Process, rounded
from benchmarks.interleaved import digits as number
from benchmarks.overhead import interval, machine, print_table, write
from benchmarks.steps import BATCHES, CASES, CHAIN, CODE, NOISE, PEERS
from models import datasets

RESULTS = Path(__file__).parent / "results" / "training.json"
TURN = 0.2  # seconds
STARTS = 5
QUICK_ROUNDS, QUICK_STARTS = 3, 1
STEPS = 20  # after which losses are compared
TOLERANCE = 1e-4
COLD = "compiled, cold"
TITLES = {"minigrad": "minigrad", "compiled": "mg.compile", "torch": "PyTorch", "fused": "fused", "jax": "jax.jit"}


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
START_ASKED = {"compiled": 0.5, COLD: 1.5}  # at most so many times JAX's

Row = dict[str, Any]
Array = np.ndarray[Any, Any]


# What they train on


def source(case: str) -> str:
    """The name of the images of a case."""
    return "digits" if case == "digits" else "mnist"


@cache
def images(name: str) -> tuple[Array, Array, str]:
    """Pixels in [0, 1], float32 (count, pixels), labels, int64 (count,), and where they are from."""
    try:
        found = datasets.load(name)
        return found.train, found.train_labels, name
    except (datasets.DataError, ImportError):
        rng, size = np.random.default_rng(0), (2000, 64 if name == "digits" else 784)
        ink = (rng.random(size) < 0.19) * rng.uniform(0.37, 1, size)  # as many pixels as in MNIST, and as dark
        return ink.astype(np.float32), rng.integers(0, 10, len(ink)), f"random numbers in place of {name}"


def arrays(name: str) -> dict[str, Array]:
    """Weights and batches of a case, as `benchmarks.steps.Run` reads them: float32, and int64 labels."""
    case, rng = CASES[name], np.random.default_rng(7)
    found: dict[str, Array] = {}
    normal: Callable[..., Array] = lambda *shape: rng.standard_normal(shape, np.float32)
    for i, shape in enumerate(case.shapes):
        is_dense = len(shape) == 2
        n_in, n_out = shape if is_dense else (9 * shape[1], 9 * shape[0])
        limit = np.sqrt(6 / (n_in + n_out))  # Glorot and Bengio 2010, equation 16
        found[f"w{i}"] = rng.uniform(-limit, limit, shape).astype(np.float32)
        found[f"b{i}"] = rng.uniform(-0.05, 0.05, shape[1] if is_dense else shape[0]).astype(np.float32)
    for i in range(BATCHES):
        if case.kind == "chain":
            found |= {f"x{i}": normal(case.batch), f"y{i}": 1 + 0.01 * normal(case.batch)}
            continue
        pixels, labels, _ = images(source(name))
        chosen = rng.permutation(len(pixels))[: case.batch]
        x = pixels[chosen]
        if case.kind == "autoencoder":
            found[f"x{i}"] = x
        elif case.kind == "vae":
            found |= {f"x{i}": x, f"y{i}": normal(case.batch, CODE)}
        elif case.kind == "gan":
            found |= {f"x{i}": 2 * x - 1, f"y{i}": normal(case.batch, NOISE)}
        else:
            found |= {f"x{i}": x.reshape(-1, 1, 28, 28) if name == "conv" else x, f"y{i}": labels[chosen]}
    return found


# Processes


def asked(process: Process, **command: Any) -> dict[str, Any]:
    """The answer to a command; a failure, too, if the process died of it."""
    try:
        return dict(process.ask(**command))
    except (RuntimeError, BrokenPipeError):
        return {"failure": "the process died"}


class Bench:
    """Starts peers, in a folder for the data and for minigrad's caches."""

    def __init__(self, folder: Path, threads: int):
        self.folder, self.threads = folder, threads

    def file(self, case: str) -> Path:
        """The weights and batches of a case."""
        path = self.folder / f"{case}.npz"
        if not path.exists():
            np.savez(path, **arrays(case))  # type: ignore[arg-type]
        return path

    def start(self, peer: str, case: str, cached: Path) -> tuple[Process, float, dict[str, Any]]:
        """A process that has taken its first step, the seconds from its start to there, and what it says of it."""
        file, several = self.file(case), self.threads > 1
        environment = {
            "MINIGRAD_CACHE_DIR": str(cached),
            "JAX_PLATFORMS": "cpu",
            "NPROC": str(self.threads),  # for XLA's pool, as the flags are
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={several} intra_op_parallelism_threads={self.threads}".lower(),
        }
        begun = perf_counter()
        process = Process(self.threads, "benchmarks.steps", environment)
        if hasattr(os, "sched_setaffinity"):  # XLA makes as many threads as there are processors
            os.sched_setaffinity(process.process.pid, sorted(os.sched_getaffinity(0))[-self.threads :])
        answer = asked(process, peer=peer, case=case, file=str(file))
        return process, perf_counter() - begun, answer

    def library(self, case: str) -> Path:
        """A cache that has what eager steps of the case need, and compiled ones of another, but not of this."""
        other = "ae32" if case == "digits" else "digits"
        kernels, path = (self.folder / f"{name}-{self.threads}" for name in ("kernels", f"library-{case}"))
        kernels.mkdir(exist_ok=True)
        self.start("minigrad", case, kernels)[0].end()
        shutil.copytree(kernels, path)
        self.start("compiled", other, path)[0].end()
        return path


@dataclass
class Found:
    """What was measured of a case: by peer, or for a process with a cold cache by `COLD`.

    Attributes:
        first: seconds from the start of a process to its first step, for each start.
        memory: MiB that were resident after the import, and at most.
        losses: after 20 steps.
        seconds: of a step, in each round.
        failures: why a peer is out.
    """

    first: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, key: str, answer: dict[str, Any]) -> bool:
        """Take down the memory, or why the peer is out; whether all is well."""
        if "failure" in answer:
            self.failures["compiled" if key == COLD else key] = answer["failure"]
        elif answer["memory"]:
            self.memory[key] = answer["imported"]["resident"], answer["memory"]["peak"]
        return "failure" not in answer


def measured(bench: Bench, case: str, peers: Sequence[str], rounds: int, starts: int) -> Found:
    """Start the peers in turn, several times; the processes of the last time then take turns at the steps."""
    found = Found()
    running: dict[str, Process] = {}
    library = bench.library(case) if any(PEERS[peer][0] == "minigrad" for peer in peers) else bench.folder

    def start(key: str, cached: Path) -> None:
        peer = "compiled" if key == COLD else key
        if peer in running:
            running.pop(peer).end()
        if peer in found.failures:
            return
        running[peer], seconds, answer = bench.start(peer, case, cached)
        if found.note(key, answer):
            found.first.setdefault(key, []).append(seconds)

    try:
        order = deque(peers)
        for k in range(starts):
            order.rotate(-1)
            for peer in order:
                cached = library
                if peer == "compiled":
                    cached = shutil.copytree(library, bench.folder / f"{case}-{bench.threads}-{k}")
                    start(COLD, cached)
                start(peer, cached)
        last: dict[str, float] = {}
        for peer in peers:
            if peer not in found.failures:
                answer = asked(running[peer], warm=0, steps=STEPS - 1)
                if found.note(peer, answer):
                    found.losses[peer], last[peer] = answer["loss"], answer["seconds"]
        found.failures |= differing(found.losses)
        for _ in range(rounds):
            order.rotate(-1)
            for peer in order:
                if peer not in found.failures:
                    steps = max(1, round(TURN / last[peer]))
                    answer = asked(running[peer], warm=steps // 10, steps=steps)
                    if found.note(peer, answer):
                        last[peer] = answer["seconds"]
                        found.seconds.setdefault(peer, []).append(last[peer])
    finally:
        for process in running.values():
            process.end()
    return found


# What is made of it


def row_of(case: str, threads: int, found: Found) -> Row:
    """What the tables show, as JSON has it."""
    well = lambda key: key.partition(",")[0] not in found.failures
    first = {key: np.array(seconds) for key, seconds in found.first.items() if well(key)}
    memory = {key: mib for key, mib in found.memory.items() if well(key)}
    row: Row = {"case": case, "threads": threads, "images": "" if case == "chain" else images(source(case))[2]}
    row["rounds"] = max(map(len, found.seconds.values()), default=0)
    row["starts"] = max(map(len, first.values()), default=0)
    row["us"] = {peer: rounded(median(seconds) * 1e6) for peer, seconds in found.seconds.items() if well(peer)}
    row |= {"loss": found.losses, "failures": found.failures}
    row |= compared(case, threads, {peer: np.array(seconds) for peer, seconds in found.seconds.items() if well(peer)})
    row["first_step"] = {key: rounded(float(np.median(seconds))) for key, seconds in first.items()}
    if "jax" in first:
        ratios = {key: first[key] / first["jax"] for key in START_ASKED if key in first}
        row["first_step_by_jax"] = {key: rounded(float(np.median(ratio))) for key, ratio in ratios.items()}
    row["peak_mib"] = {key: round(peak) for key, (_, peak) in memory.items()}
    row["above_import_mib"] = {key: round(peak - imported) for key, (imported, peak) in memory.items()}
    return row


def differing(losses: Mapping[str, float]) -> dict[str, str]:
    """The peers whose loss is not that of most, and what is wrong with it.

    Example:
        >>> differing({"minigrad": 0.50001, "torch": 0.5, "jax": 0.6})
        {'jax': 'wrong loss: 0.6, not 0.50001'}
    """
    usual = float(np.median([*losses.values()])) if losses else 0.0
    near = lambda loss: abs(loss - usual) <= TOLERANCE * abs(usual)  # false for NaN, too
    return {peer: f"wrong loss: {loss:g}, not {usual:g}" for peer, loss in losses.items() if not near(loss)}


def compared(case: str, threads: int, seconds: Mapping[str, Array]) -> Row:
    """How many times as fast as the reference the compiled step is, and whether that is what was asked for.

    A number is reached if the ratio's median reaches it or the interval contains it, and there were enough rounds.
    """
    reference = "torch" if case == "conv" else "jax"
    if not {"compiled", reference} <= seconds.keys():
        return {}
    ratios = seconds[reference] / seconds["compiled"]
    ratio, (low, high) = float(np.median(ratios)), interval(ratios)
    asked = {what: of_case[case] for what, of_case in ASKED.get(threads, {}).items() if case in of_case}
    row: Row = {"reference": reference, "ratio": rounded(ratio), "ratio_95": [rounded(low), rounded(high)]}
    row["asked"] = asked
    if len(ratios) >= ENOUGH:
        row["reached"] = {what: ratio >= least or low <= least <= high for what, least in asked.items()}
    return row


# Tables


def verdict(asked: str, reached: bool | None) -> str:
    """What was asked for, and whether it is reached, if that can be said."""
    return asked + {True: " yes", False: " NO", None: ""}[reached]


def speed(row: Row) -> tuple[str, ...]:
    """The row of the first table: times, ratio, what is asked, and the loss."""
    scale = {"digits": 1.0, "chain": 2.0 * CHAIN}.get(row["case"], 1000.0)
    times = [number(rounded(row["us"][peer] / scale)) if peer in row["us"] else "" for peer in TITLES]
    ratio = [f"{row['ratio']:.2f}", "{:.2f}-{:.2f}".format(*row["ratio_95"])] if "ratio" in row else ["", ""]
    asked = [
        verdict(f"{row['asked'][what]:.2f}", row.get("reached", {}).get(what)) if what in row.get("asked", {}) else ""
        for what in ("at least", "to aim at")
    ]
    losses = [loss for peer, loss in row["loss"].items() if peer not in row["failures"]]
    return row["case"], *times, *ratio, *asked, f"{median(losses):.6g}" if losses else ""


def starts(row: Row) -> tuple[str, ...]:
    """The row of the second table: seconds to the first step, and the compiled ones' as parts of JAX's."""
    times = [f"{row['first_step'][key]:.2f}" if key in row["first_step"] else "" for key in (COLD, *TITLES)]
    ratios = row.get("first_step_by_jax", {})
    judged = row["starts"] >= STARTS
    parts = [
        f"{ratios[key]:.2f}" + verdict(f" ≤ {most}", ratios[key] <= most if judged else None) if key in ratios else ""
        for key, most in START_ASKED.items()
    ]
    return row["case"], *times, *parts


def memory(row: Row) -> tuple[str, ...]:
    """The row of the third table: MiB above the import, the peak, and whether the compiled step's is the least."""
    above, peak = row["above_import_mib"], row["peak_mib"]
    cells = [f"{above[key]} / {peak[key]}" if key in above else "" for key in (COLD, *TITLES)]
    others = [above[peer] for peer in above.keys() & {"torch", "fused", "jax"}]
    least = verdict("", above["compiled"] < min(others)).strip() if "compiled" in above and others else ""
    return row["case"], *cells, least


def show(rows: Sequence[Row]) -> None:
    """Print the tables for each number of threads, and below them what could not be measured."""
    peers = tuple(TITLES.values())
    for threads in sorted({row["threads"] for row in rows}):
        chosen = [row for row in rows if row["threads"] == threads]
        trained = [row for row in chosen if row["case"] != "chain"]
        chain = [row for row in chosen if row["case"] == "chain"]
        on = f"{threads} thread{'s' * (threads > 1)}"
        data = " and ".join(dict.fromkeys(row["images"] for row in trained))
        faster = ("ratio", "95 %", "at least", "to aim at", f"loss {STEPS}")
        tables: list[tuple[str, tuple[str, ...], Callable[[Row], tuple[str, ...]], list[Row]]] = [
            (
                f"A training step, ms (digits: µs), {on}; float32; images: {data}",
                ("case", *peers, *faster),
                speed,
                trained,
            ),
            (
                f"From the start of a process to its first step, s, {on}",
                ("case", "cold", *peers, "warm / jax", "cold / jax"),
                starts,
                trained,
            ),
            (f"Memory above that after import / peak, MiB, {on}", ("case", "cold", *peers, "least"), memory, trained),
            (
                f"{2 * CHAIN} operations on shape (8,), forward and backward, µs an operation, {on}",
                ("case", *peers, *faster),
                speed,
                chain,
            ),
        ]
        for title, columns, cells, those in tables:
            if those:
                print_table(title, columns, [*map(cells, those)])
        for row in chosen:
            for peer, why in row["failures"].items():
                print(f"{row['case']} without {TITLES[peer]}: {why}")
    if any(row["rounds"] < ENOUGH for row in rows):
        print(f"fewer than {ENOUGH} rounds say nothing about what is asked")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=(__doc__ or "").split("\n")[0])
    every = sorted({1, os.cpu_count() or 1})
    parser.add_argument("--threads", nargs="+", type=int, default=every, help="numbers of them (default: 1 and all)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES], help="default: all")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=[*PEERS], help="default: all")
    parser.add_argument("--rounds", type=int, help=f"how often each has its turn (default: {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, each process started once")
    parser.add_argument("--json", action="store_true", help="write to benchmarks/results/training.json")
    parser.add_argument("--show", action="store_true", help="run nothing: print what was written")
    given = parser.parse_args(argv)
    given.rounds = given.rounds if given.rounds is not None else QUICK_ROUNDS if given.quick else ROUNDS
    if given.rounds < 1 or min(given.threads) < 1:
        parser.error("rounds and threads are at least 1")
    return given


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit code is 1 if there was a wrong loss."""
    given = arguments(argv)
    stored: list[Row] = json.loads(RESULTS.read_text("utf-8"))["rows"] if RESULTS.exists() else []
    if given.show:
        show(stored)
        return 0
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1:
        print(f"the machine is busy with something else (load {load:.1f})", file=sys.stderr)
    packages = ("numpy", "numba", *dict.fromkeys(PEERS[peer][0] for peer in given.peers))
    installed = {each.name: each.version for each in importlib.metadata.distributions()}
    circumstances = {
        "machine": machine() | {"load_before": round(load, 2)},
        "python": platform.python_version(),
        "versions": {package: installed[package] for package in packages if package in installed},
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for threads, case in [(threads, case) for threads in given.threads for case in given.cases]:
            print(f"{case}, {threads} threads", file=sys.stderr, flush=True)
            starts = QUICK_STARTS if given.quick else STARTS
            found = measured(Bench(Path(folder), threads), case, given.peers, given.rounds, starts)
            rows.append(row_of(case, threads, found) | {"date": datetime.now(UTC).date().isoformat()} | circumstances)
            if given.json:
                stored = [each for each in stored if (each["case"], each["threads"]) != (case, threads)] + rows[-1:]
                stored.sort(key=lambda each: (each["threads"], [*CASES].index(each["case"])))
                write({"question": (__doc__ or "").split("\n")[0], "rows": stored}, RESULTS)
    show(rows)
    return int(any("wrong" in why for row in rows for why in row["failures"].values()))


if __name__ == "__main__":
    sys.exit(main())
