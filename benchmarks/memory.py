"""How much memory does a training step take, with and without checkpoints, beside PyTorch and JAX?

    python -m benchmarks.memory                     the tables: two minutes
    python -m benchmarks.memory --quick             one round, without what is large
    python -m benchmarks.memory --json --plot       ... also written to benchmarks/results

Two networks of dense layers and ReLU, float32, Adam, the same weights and batch for all. The deep autoencoder
(784-1000-500-250-30-...-784) has much to keep besides activations: weights, gradients and moments. The chain is one
layer that is applied L times, so that activations are nearly all there is. "Checkpointed": blocks of layers are
computed again in backward instead of stored, two layers each, or √L of the chain (Chen et al. 2016, section 4.1).

Live activations are what the graph keeps between forward and backward, neither the parameters nor the batch: the same
number in every run. Of minigrad it is what NumPy has allocated during forward and not freed (`tracemalloc`), of PyTorch
the storages of all tensors that are saved (`saved_tensors_hooks`). Steps that are compiled have no such moment.
The peak is what was resident at most from the start of a process to the end of its third step; beside it stands what
of that is above the memory that was resident after the import, modules among it that a library only loads when they
are needed. JAX compiles in that time, as it always does; minigrad finds its code in its cache. Every library has a
process of its own on one thread for each row, started several times in turn, for a chain once. Losses after three
steps have to be equal to 1e-4, or the library is out.

How to read it: `Net` is what is trained, `of_minigrad` and its like train it, `work` is a process; then what is asked
of the processes, rows, tables and pictures.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from itertools import chain
from statistics import median
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.cases import CASES, Case
from benchmarks.interleaved import Process
from benchmarks.report import Row, differing, number, print_table, quartiles, ratio, rounded
from benchmarks.steps import memory, of_jax

BATCHES, QUICK_BATCHES = (128, 2048), (128,)  # of the deep autoencoder
DEPTHS, QUICK_DEPTHS = (4, 16, 64, 256), (4, 16)  # of the chain
WIDTH, CHAIN_BATCH = 128, 1024  # of the chain: half a MiB each activation
ROUNDS, QUICK_ROUNDS = 3, 1  # in which every process is started
STEPS = 3
MIB = 2**20
WORKER = "MINIGRAD_BENCHMARK_WORKER"  # the variable that tells this program that it is a worker
ENVIRONMENT = {
    WORKER: "1",
    "JAX_PLATFORMS": "cpu",
    "NPROC": "1",  # for XLA's pool, as the flags are
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}

Array = np.ndarray[Any, Any]
Weights = list[tuple[Array, Array]]


@dataclass(frozen=True)
class Net:
    """What is trained, as an autoencoder.

    Attributes:
        case: its name.
        shapes: of the weights, layer by layer.
        batch: its size.
        every: how many layers a checkpoint spans.
        repeats: how often all layers follow one another; the weights of a chain begin as the identity.
        linear: the layers, besides the last one, that no activation follows.
        rate: of Adam; low for a chain, whose output a small step moves far.
    """

    case: str
    shapes: Sequence[Sequence[int]]
    batch: int
    every: int
    repeats: int = 1
    linear: Sequence[int] = ()
    rate: float = 1e-3

    def data(self) -> tuple[Weights, Array]:
        """The weights, and a batch of numbers from 0 to 1: the same in every process."""
        rng = np.random.default_rng(0)
        if self.repeats > 1:
            weights = [(np.eye(n, dtype=np.float32), np.zeros(n, np.float32)) for n, _ in self.shapes]
        else:
            # Biases are not 0, so that no unit is at 0, where the slope of ReLU is a matter of convention.
            weights = [(glorot(shape, rng), uniform(0.05, shape[1:], rng)) for shape in self.shapes]
        return weights, rng.random((self.batch, self.shapes[0][0]), np.float32)

    def blocks(self, layers: Sequence[Any], activation: Any) -> list[list[Any]]:
        """Layers and activations in the order in which they are applied, cut where checkpoints are."""
        layers = [*layers] * self.repeats
        stages = [
            [layer] if i in (*self.linear, len(layers) - 1) else [layer, activation] for i, layer in enumerate(layers)
        ]
        return [[*chain(*stages[i : i + self.every])] for i in range(0, len(stages), self.every)]


def uniform(limit: float, shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Numbers from -limit to limit, float32."""
    return (rng.random(shape, np.float32) - np.float32(0.5)) * np.float32(2 * limit)


def glorot(shape: Sequence[int], rng: np.random.Generator) -> Array:
    """Weights as Glorot and Bengio 2010 draw them, equation 16."""
    return uniform(math.sqrt(6 / sum(shape)), shape, rng)


def autoencoder(batch: int) -> Net:
    """The deep autoencoder."""
    case = CASES["deepae"]
    return Net(f"deep autoencoder, batch {batch:,}", case.shapes, batch, 2, linear=case.linear)


def chain_of(depth: int) -> Net:
    """So many layers, which are one and the same."""
    return Net(f"chain of {depth}", [(WIDTH, WIDTH)], CHAIN_BATCH, math.isqrt(depth), depth, rate=1e-5)


# What a process does


@dataclass(frozen=True)
class Training:
    """A step, which returns the loss, and the bytes that are kept between its halves, if that can be said."""

    step: Callable[[], Any]
    kept: Callable[[], int] | None = None


def of_minigrad(net: Net, checkpointed: bool = False, compiled: bool = False) -> Training:
    """With modules and `mg.optim`, as they are, or with `mg.checkpoint` around each block, or as a compiled step."""
    import minigrad as mg
    from minigrad import nn

    weights, batch = net.data()
    layers: list[Any] = [nn.Linear(*w.shape) for w, _ in weights]
    for layer, (w, b) in zip(layers, weights, strict=True):
        layer.weight.assign(w)
        layer.bias.assign(b)
    parts: list[Callable[..., Any]] = [nn.Sequential(*block) for block in net.blocks(layers, nn.ReLU())]
    if checkpointed:
        parts = [mg.checkpoint(part) for part in parts]
    x, optimizer = mg.Tensor(batch), mg.optim.Adam(layers, net.rate)

    def loss_of(x: mg.Tensor) -> mg.Tensor:
        y = x
        for part in parts:
            y = part(y)
        return mg.bce_with_logits(y, x)

    def step(x: mg.Tensor) -> mg.Tensor:
        loss = loss_of(x)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    if compiled:
        return Training(partial(mg.compile(step), x))
    return Training(partial(step, x), lambda: allocated(lambda: loss_of(x)))


def allocated(forward: Callable[[], Any]) -> int:
    """Bytes of the arrays that NumPy has allocated, and that live as long as the result does."""
    tracemalloc.start()
    result = forward()
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    traces = tracemalloc.take_snapshot().filter_traces([arrays]).traces
    tracemalloc.stop()
    del result
    return sum(trace.size for trace in traces)


def of_torch(net: Net, checkpointed: bool = False) -> Training:
    """With modules and `torch.optim`, as they are, or with `torch.utils.checkpoint` around each block."""
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    weights, batch = net.data()
    layers = nn.ModuleList([nn.Linear(*w.shape) for w, _ in weights])
    with torch.no_grad():
        for layer, (w, b) in zip(layers, weights, strict=True):
            layer.weight.copy_(torch.from_numpy(w.T))
            layer.bias.copy_(torch.from_numpy(b))
    parts: list[Callable[..., Any]] = [nn.Sequential(*block) for block in net.blocks(layers, nn.ReLU())]
    if checkpointed:
        parts = [partial(checkpoint, part, use_reentrant=False) for part in parts]
    x, optimizer = torch.from_numpy(batch), torch.optim.Adam(layers.parameters(), net.rate)

    def loss_of() -> Any:
        y = x
        for part in parts:
            y = part(y)
        return nn.functional.binary_cross_entropy_with_logits(y, x)

    def step() -> Any:
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Training(step, lambda: saved(loss_of, [x, *layers.parameters()]))


def saved(forward: Callable[[], Any], given: Sequence[Any]) -> int:
    """Bytes of the storages of the tensors that PyTorch saves for backward, without those that it was given."""
    from torch.autograd.graph import saved_tensors_hooks

    storages: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor  # which stays alive, so that no other storage comes to lie at the same place

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    for tensor in given:
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(storages.values())


def jitted(net: Net) -> Training:
    """One function, jitted, whose old state is donated."""
    import jax

    weights, batch = net.data()
    case = Case("autoencoder", net.batch, tuple(map(tuple, net.shapes)), net.rate, linear=tuple(net.linear))
    return Training(partial(of_jax(case, weights), jax.device_put(batch)))


LIBRARIES: dict[str, tuple[str, Callable[[Net], Training]]] = {  # the package, and what trains
    "minigrad": ("minigrad", of_minigrad),
    "minigrad, checkpointed": ("minigrad", partial(of_minigrad, checkpointed=True)),
    "minigrad, compiled": ("minigrad", partial(of_minigrad, compiled=True)),
    "PyTorch": ("torch", of_torch),
    "PyTorch, checkpointed": ("torch", partial(of_torch, checkpointed=True)),
    "JAX": ("jax", jitted),
}
OF_CHAINS = [name for name in LIBRARIES if name not in ("minigrad, compiled", "JAX")]


def trained(library: str, net: dict[str, Any]) -> dict[str, Any]:
    """Import a library and train a network: the last loss, the memory, and MiB that are kept between the halves."""
    package, make = LIBRARIES[library]
    import_module(package)
    imported = memory()
    training = make(Net(**net))
    for _ in range(STEPS):
        loss = training.step().item()
    found = {"loss": loss, "imported": imported, "memory": memory()}
    return found | ({"kept": training.kept() / MIB} if training.kept else {})


def work() -> None:
    """Answer commands from standard input on standard output, a line of JSON each."""
    for line in sys.stdin:
        try:
            with redirect_stdout(sys.stderr):  # for what a library prints
                answer = trained(**json.loads(line))
        except Exception as error:
            answer = {"failure": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
        print(json.dumps(answer), flush=True)


# What is asked of the processes


@dataclass
class Found:
    """What was measured of a network, by library.

    Attributes:
        above: MiB at most above those after the import, for each start.
        peak: MiB at most, for each start.
        kept: MiB between forward and backward.
        losses: after the last step.
        failures: why a library is out.
    """

    above: dict[str, list[float]] = field(default_factory=dict)
    peak: dict[str, list[float]] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def note(self, library: str, answer: dict[str, Any]) -> None:
        """Take down what a process says."""
        if "failure" in answer:
            self.failures[library] = answer["failure"]
            return
        self.losses[library] = answer["loss"]
        if "kept" in answer:
            self.kept[library] = answer["kept"]
        if answer["memory"]:
            self.peak.setdefault(library, []).append(answer["memory"]["peak"])
            self.above.setdefault(library, []).append(answer["memory"]["peak"] - answer["imported"]["resident"])


def asked(library: str, net: Net) -> dict[str, Any]:
    """What a new process says of a network."""
    process = Process(1, "benchmarks.memory", ENVIRONMENT)
    try:
        return dict(process.ask(library=library, net=asdict(net)))
    except (RuntimeError, BrokenPipeError):
        return {"failure": "the process died"}
    finally:
        process.end()


def measured(libraries: Sequence[str], net: Net, rounds: int) -> Found:
    """Start the libraries in turn, several times."""
    found = Found()
    for library in libraries:
        if LIBRARIES[library][0] == "minigrad":
            asked(library, net)  # fills its cache
    order = deque(libraries)
    for _ in range(rounds):
        order.rotate(-1)
        for library in order:
            if library not in found.failures:
                found.note(library, asked(library, net))
    found.failures |= differing(found.losses)
    return found


# Rows, tables and pictures


def row_of(net: Net, found: Found) -> Row:
    """What the tables show, as JSON has it; ratios are those to PyTorch, of the peaks above the import."""
    well = lambda of: {name: of[name] for name in LIBRARIES if name in of and name not in found.failures}
    above, kept, losses = well(found.above), well(found.kept), well(found.losses)
    row: Row = {"case": net.case, "dtype": "float32", "threads": 1, "unit": "MiB", "every": net.every}
    row["layers"] = len(net.shapes) * net.repeats
    row["above_import"] = {library: rounded(median(mib)) for library, mib in above.items()}
    row["quartiles"] = {library: quartiles(mib) for library, mib in above.items()}
    row["peak"] = {library: rounded(median(mib)) for library, mib in well(found.peak).items()}
    row["live_activations"] = {library: round(mib, 3) for library, mib in kept.items()}
    if "PyTorch" in above:
        row["by_pytorch"] = {library: ratio(mib, above["PyTorch"]) for library, mib in above.items()}
    row["samples"] = {library: [rounded(x) for x in mib] for library, mib in above.items()}
    return row | {"loss": losses} | ({"failures": found.failures} if found.failures else {})


def show(rows: Sequence[Row]) -> None:
    """Print a table for each autoencoder, with a line for each library, and one of the chains."""
    columns = ("library", "live activations", "peak above import", "quartiles", "by PyTorch's", "95 %", "peak in all")
    chains = [row for row in rows if row["case"].startswith("chain")]
    for row in rows:
        if row not in chains:
            lines = [lines_of(row, library) for library in LIBRARIES if library in row["loss"]]
            print_table(f"MiB, float32: {row['case']}, checkpoints every {row['every']} layers", columns, lines)
    if chains:
        heads = [f"{library}: {what}" for what in ("live", "peak") for library in OF_CHAINS]
        print_table(
            f"MiB, float32: chain of L layers of {WIDTH}, batch {CHAIN_BATCH:,}, checkpoints every √L layers: live "
            "activations, peak above import",
            ("L", *heads),
            [
                (
                    str(row["layers"]),
                    *(text(row[what].get(name)) for what in ("live_activations", "above_import") for name in OF_CHAINS),
                )
                for row in chains
            ],
        )
    for row in rows:
        for library, failure in row.get("failures", {}).items():
            print(f"{row['case']} without {library}: {failure}")


def lines_of(row: Row, library: str) -> tuple[str, ...]:
    """The line of a library in the table of an autoencoder."""
    by, there = row.get("by_pytorch", {}).get(library), library in row["above_import"]
    return (
        library,
        text(row["live_activations"].get(library)),
        text(row["above_import"].get(library)),
        "{} to {}".format(*(number(q) for q in row["quartiles"][library][::2])) if there else "",
        f"{by['ratio']:.2f}" if by else "",
        "{:.2f} to {:.2f}".format(*by["ratio_95"]) if by else "",
        text(row["peak"].get(library)),
    )


def text(mib: float | None) -> str:
    """A number, if there is one.

    Example:
        >>> text(0.50049), text(1234.5), text(None)
        ('0.5', '1,234', '')
    """
    return "" if mib is None else number(rounded(round(mib, 1)))


def plot(rows: Sequence[Row]) -> None:
    """Draw the autoencoders as bars, and the chains over their depth: without checkpoints ∝ L, with them ∝ √L."""
    chains = [row for row in rows if row["case"].startswith("chain")]
    others = [row for row in rows if row not in chains]
    drawn, (above, below) = report.figure("memory", 2, 2, (6.5, 4))
    for axes, row in zip(above, others, strict=False):
        names = list(row["above_import"])
        axes.barh(names, [row["above_import"][name] for name in names], color="tab:blue", label="peak above import")
        live = [row["live_activations"].get(name, 0) for name in names]
        axes.barh(names, live, height=0.4, color="tab:orange", label="live activations")
        axes.set(title=row["case"], xlabel="MiB")
        axes.invert_yaxis()
    above[0].legend()
    for axes in above[len(others) :]:
        axes.set_axis_off()
    for axes, what, title in zip(
        below, ("live_activations", "above_import"), ("live activations", "peak above import"), strict=True
    ):
        for i, name in enumerate(OF_CHAINS):
            points = {row["layers"]: row[what][name] for row in chains if name in row[what]}
            style = {"color": f"C{i // 2}", "marker": "os"[i % 2], "linestyle": ("-", "--")[i % 2]}
            axes.plot(points.keys(), points.values(), label=name, **style)
        depths = [row["layers"] for row in chains]
        axes.set(title=f"chain of L layers: {title}", xlabel="L", ylabel="MiB", xscale="log", yscale="log")
        axes.set_xticks(depths, [str(depth) for depth in depths])
        axes.minorticks_off()
    below[0].legend()
    report.save(drawn, "memory")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print it, write it."""
    parser = report.parser("memory", __doc__, ("torch", "jax"), rounds=(ROUNDS, QUICK_ROUNDS))
    given = report.parse(parser, argv)
    results = report.circumstances(__doc__, given.peers)
    if not memory():
        print("the peak is read in /proc/self/status, which this system does not have: it is left out")
    libraries = [name for name, (package, _) in LIBRARIES.items() if package in ("minigrad", *given.peers)]
    nets = [autoencoder(batch) for batch in (QUICK_BATCHES if given.quick else BATCHES)]
    rows = [row_of(net, measured(libraries, net, given.rounds)) for net in nets]
    of_chains = [name for name in libraries if name in OF_CHAINS]
    nets = [chain_of(depth) for depth in (QUICK_DEPTHS if given.quick else DEPTHS)]
    rows += [row_of(net, measured(of_chains, net, 1)) for net in nets]
    show(rows)
    report.finish("memory", given, results | {"rounds": given.rounds, "rows": rows})
    if given.plot:
        plot(rows)
    if any(failure.startswith("wrong") for row in rows for failure in row.get("failures", {}).values()):
        sys.exit("there are wrong losses")


if __name__ == "__main__":
    work() if WORKER in os.environ else main()
