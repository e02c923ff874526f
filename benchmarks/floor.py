"""How far are compiled training steps from the least time that their products and their memory take?

The floor of a step is the floating-point operations of its matrix products, done as fast as one of 512×512 by 512×512
is, and the bytes of its parameters and moments, read once and written once, and of its batch, as fast as an array of as
many bytes is scaled in place. Nothing is counted for activations, losses, noise, and what lies between the layers.

    python -m benchmarks.floor                      the table: one thread, and as many as there are processors
    python -m benchmarks.floor --json --plot        ... also written to benchmarks/results
    python -m benchmarks.training --against floor   ... beside the other libraries' times

Step, product and update take turns, in a process for each case; reported are medians of 40 rounds, and the ratio
within a round with its bootstrap interval. `benchmarks.cases` has the cases. The one with convolutions is left out:
what the least of a convolution is depends on the algorithm.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import cycle
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks import report, steps
from benchmarks.cases import BATCHES, arrays
from benchmarks.cases import CASES as TRAINED
from benchmarks.report import Row, number, print_table, quartiles, ratio, rounded

CASES = tuple(name for name in TRAINED if name not in ("conv", "chain"))
STEP = "minigrad, compiled"
ROUNDS, QUICK_ROUNDS = 40, 5
TURN = 0.02  # seconds
SIDE = 512
LEAST = 1 << 16  # numbers that are updated: of fewer, it is the call that takes the time


def row(name: str, threads: int, rounds: int = ROUNDS) -> Row:
    """The row of a case, measured in a process that may use so many threads."""
    code = f"import json; from benchmarks.floor import measured; print(json.dumps(measured({name!r}, {rounds})))"
    environment = os.environ | {"MINIGRAD_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    samples = {STEP: found["step"], "floor": found["floor"]}
    made: Row = {"case": name, "threads": threads, "unit": "s"}
    made["us"] = {what: rounded(median(seconds) * 1e6) for what, seconds in samples.items()}
    made["quartiles"] = {what: quartiles(seconds) for what, seconds in samples.items()}
    made["samples"] = {what: [*map(rounded, seconds)] for what, seconds in samples.items()}
    made |= {what: rounded(median(found[what])) for what in ("gflops", "gb_a_second")}
    return made | ratio(samples["floor"], samples[STEP])


def measured(name: str, rounds: int) -> dict[str, list[float]]:
    """In each round the seconds of the step and of its floor, and the speeds that this one follows from."""
    import minigrad as mg

    case, given = TRAINED[name], arrays(name)
    weights = [(given[f"w{i}"], given[f"b{i}"]) for i in range(len(case.shapes))]
    step = steps.of_minigrad(case, weights, compiled=True)
    names = [[f"{part}{i}" for part in "xy" if f"{part}{i}" in given] for i in range(BATCHES)]
    batches = cycle([[mg.Tensor(given[each]) for each in batch] for batch in names])
    kinds = 1 if case.beta is None else 3  # parameters, or also two moments
    state = kinds * sum(w.nbytes + b.nbytes for w, b in weights)
    memory = 2 * state + sum(given[each].nbytes for each in names[0])
    a, b = (mg.random.normal((SIDE, SIDE), dtype="float32") for _ in range(2))
    block = mg.zeros(max(state // 4, LEAST), dtype="float32")

    @mg.compile
    def scale() -> None:
        block.assign(block * 0.999)

    turns = [turn(lambda: step(*next(batches))), turn(lambda: mg.matmul(a, b)), turn(scale)]
    work = product_operations(step)
    found: dict[str, list[float]] = {"step": [], "floor": [], "gflops": [], "gb_a_second": []}
    for _ in range(rounds):
        seconds, of_product, of_update = (each() for each in turns)
        speed, bandwidth = 2 * SIDE**3 / of_product, 2 * block.data.nbytes / of_update
        values = seconds, work / speed + memory / bandwidth, speed / 1e9, bandwidth / 1e9
        for samples, value in zip(found.values(), values, strict=True):
            samples.append(value)
    return found


def turn(run: Callable[[], Any]) -> Callable[[], float]:
    """A turn: seconds a call, of as many calls as fit into a turn."""
    for _ in range(3):
        run()
    begun = perf_counter()
    run()
    count = max(1, int(TURN / (perf_counter() - begun)))

    def taken() -> float:
        begun = perf_counter()
        for _ in range(count):
            run()
        return (perf_counter() - begun) / count

    return taken


def product_operations(step: Any) -> float:
    """The floating-point operations of the products of a compiled step."""
    fused, total = step.last.program.plan.fused, 0.0
    nodes = fused.graph.nodes
    for kernel in fused.kernels:
        if kernel.product is not None:
            first, _ = nodes[kernel.product].inputs
            total += 2.0 * math.prod(nodes[kernel.product].shape) * nodes[first].shape[-1]
    return total


def show(rows: Sequence[Row]) -> None:
    """Print a table for each number of threads."""
    for threads in sorted({row["threads"] for row in rows}):
        print_table(
            f"A compiled step beside its floor, µs, {threads} thread{'s' * (threads > 1)}",
            ("case", "step", "floor", "floor / step", "95 %", "products, GFLOP/s", "memory, GB/s"),
            [
                (row["case"], number(row["us"][STEP]), number(row["us"]["floor"]), f"{row['ratio']:.2f}",
                 "{:.2f}-{:.2f}".format(*row["ratio_95"]), f"{row['gflops']:.0f}", f"{row['gb_a_second']:.0f}")
                for row in rows
                if row["threads"] == threads
            ],
        )  # fmt: skip


def plot(rows: Sequence[Row]) -> None:
    """Draw for each number of threads what part of a step its floor is, with the interval."""
    drawn, grid = report.figure("floor")
    axes = grid[0, 0]
    for threads in sorted({row["threads"] for row in rows}):
        chosen = [row for row in rows if row["threads"] == threads]
        cases, ratios = [row["case"] for row in chosen], [row["ratio"] for row in chosen]
        bounds = [[abs(row["ratio_95"][i] - row["ratio"]) for row in chosen] for i in range(2)]
        axes.errorbar(cases, ratios, bounds, fmt="o", capsize=3, label=f"{threads} thread{'s' * (threads > 1)}")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("floor / step, 95 %")
    axes.legend()
    report.save(drawn, "floor")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = report.parser("floor", __doc__, threads=True, rounds=(ROUNDS, QUICK_ROUNDS))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="default: all")
    given = report.parse(parser, argv)
    results = report.circumstances(__doc__)
    rows = [row(case, threads, given.rounds) for threads in given.threads for case in given.cases]
    show(rows)
    report.finish("floor", given, results | {"rows": rows})
    if given.plot:
        plot(rows)


if __name__ == "__main__":
    main()
