"""How far are compiled training steps from the least time that their products and their memory take?

The floor of a step is the floating-point operations of its matrix products, done as fast as one of 512×512 by 512×512
is, and the bytes of its parameters and moments, read once and written once, and of its batch, as fast as an array of as
many bytes is scaled in place. Nothing is counted for activations, losses, noise, and what lies between the layers.

    python -m benchmarks.floor            on one thread
    python -m benchmarks.floor --json     ... also written to benchmarks/results/floor.json

Step, product and update take turns; reported are medians of 40 rounds. `benchmarks.steps` has the cases. The one with
convolutions is left out: what the least of a convolution is depends on the algorithm.
"""

from __future__ import annotations

import os

os.environ["MINIGRAD_NUM_THREADS"] = "1"

import argparse
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import minigrad as mg
from benchmarks.overhead import machine, print_table, write
from benchmarks.steps import BATCHES, CASES, of_minigrad
from benchmarks.training import arrays

RESULTS = Path(__file__).parent / "results" / "floor.json"
ROUNDS, SECONDS = 40, 0.02  # of a turn
SIDE = 512
LEAST = 1 << 16  # numbers that are updated: of fewer, it is the call that takes the time
LEFT_OUT = ("conv", "chain")


def repeated(run: Callable[[], Any]) -> Callable[[], float]:
    """A turn: seconds a call, of as many calls as fit into a turn."""
    for _ in range(3):
        run()
    begun = perf_counter()
    run()
    count = max(1, int(SECONDS / (perf_counter() - begun)))

    def turn() -> float:
        begun = perf_counter()
        for _ in range(count):
            run()
        return (perf_counter() - begun) / count

    return turn


def measured(name: str) -> dict[str, Any]:
    """The row of a case."""
    case, found = CASES[name], arrays(name)
    step = of_minigrad(case, [(found[f"w{i}"], found[f"b{i}"]) for i in range(len(case.shapes))], compiled=True)
    batches = [[mg.Tensor(found[x + str(i)]) for x in "xy" if x + str(i) in found] for i in range(BATCHES)]
    batch = cycle(batches)
    kinds = 1 if case.beta is None else 3  # parameters, or also two moments
    state = 4 * kinds * sum(found[f"w{i}"].size + found[f"b{i}"].size for i in range(len(case.shapes)))
    memory = 2 * state + sum(tensor.data.nbytes for tensor in batches[0])
    a, b = (mg.random.normal((SIDE, SIDE), dtype="float32") for _ in range(2))
    block = mg.zeros(max(state // 4, LEAST), dtype="float32")

    @mg.compile
    def scale() -> None:
        block.assign(block * 0.999)

    turns = {
        "step": repeated(lambda: step(*next(batch))),
        "product": repeated(lambda: mg.matmul(a, b)),
        "update": repeated(scale),
    }
    taken_turns = [[turn() for turn in turns.values()] for _ in range(ROUNDS)]
    seconds = {what: median(each) for what, each in zip(turns, zip(*taken_turns, strict=True), strict=True)}
    work = product_operations(step)
    speed, bandwidth = 2 * SIDE**3 / seconds["product"], 8 * block.size / seconds["update"]
    floor = work / speed + memory / bandwidth
    return {
        "case": name,
        "us": seconds["step"] * 1e6,
        "floor_us": floor * 1e6,
        "of_floor": floor / seconds["step"],
        "gflops": speed / 1e9,
        "gb_a_second": bandwidth / 1e9,
    }


def product_operations(step: Any) -> float:
    """The floating-point operations of the products of a compiled step."""
    fused, total = step.last.program.plan.fused, 0.0
    nodes = fused.graph.nodes
    for kernel in fused.kernels:
        if kernel.product is not None:
            first, _ = nodes[kernel.product].inputs
            total += 2.0 * math.prod(nodes[kernel.product].shape) * nodes[first].shape[-1]
    return total


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    print_table(
        "A compiled step beside its floor, µs, one thread",
        ("case", "step", "floor", "floor / step", "products, GFLOP/s", "memory, GB/s"),
        [
            (row["case"], f"{row['us']:.4g}", f"{row['floor_us']:.4g}", f"{row['of_floor']:.2f}",
             f"{row['gflops']:.0f}", f"{row['gb_a_second']:.0f}")
            for row in rows
        ],
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.floor", description=(__doc__ or "").split("\n")[0])
    cases = [name for name in CASES if name not in LEFT_OUT]
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases, help="default: all")
    parser.add_argument("--json", action="store_true", help="write to benchmarks/results/floor.json")
    given = parser.parse_args(argv)
    rows = [measured(name) for name in given.cases]
    show(rows)
    if given.json:
        date = datetime.now(UTC).date().isoformat()
        write({"question": (__doc__ or "").split("\n")[0], "date": date, "machine": machine(), "rows": rows}, RESULTS)


if __name__ == "__main__":
    main()
