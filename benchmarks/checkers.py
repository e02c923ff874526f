"""Which gradient checker can be trusted, and what does it cost?

The table of right and wrong derivatives (`benchmarks.derivatives`), as minigrad.testing, PyTorch's `gradcheck`, its
fast mode, and JAX's `check_grads` judge it, each with its defaults: a wrong derivative that passes is a miss, a right
one that fails a false alarm. The peers get the very same functions and VJPs, as a `torch.autograd.Function` and as
a `jax.custom_vjp`. Then the seconds of `check` and of `gradcheck` for a network written in both with equal weights.

    python -m benchmarks.checkers           both tables
    python -m benchmarks.checkers --json    ... also written to benchmarks/results/checkers.json
    python -m benchmarks.checkers --brief   of the first only the rows where some checker is wrong

Each checker runs in a process of its own. Peers come with `pip install -e '.[bench]'`; one that is missing is left out
and named. How to read it: `CHECKERS` says how each one is asked, `judged` asks it about the whole table, `Network` and
`speed` are the second question; printing comes last. float32 stays float32, although PyTorch's documentation asks for
double precision, and kinks are kinks, although it says that they may fail: the totals are told group by group.
The table holds what minigrad.testing was built to tell apart, so it is no neutral sample: rows say more than totals.
"""

from __future__ import annotations

import os

THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
os.environ.update(THREADS, XLA_FLAGS="--xla_cpu_multi_thread_eigen=false")  # read when the libraries load

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import minigrad as mg
from benchmarks.derivatives import CASES, Case
from benchmarks.overhead import interval, machine, print_table, write
from minigrad.testing import check

RESULTS = Path(__file__).parent / "results" / "checkers.json"
SMALL = (16, 40, 20, 4)  # the widths of a network of 1,584 parameters
LARGE = (256, 400, 240, 4)  # ... of 200,004
BATCH = 8

Array = np.ndarray[Any, Any]


def _contiguous(x: Any, dtype: Any) -> Array:
    return np.array(x, dtype, order="C")


def ask_minigrad() -> Callable[[Case], str]:
    """minigrad.testing's verdict on a case."""
    return lambda case: case.judged().verdict


def ask_torch(fast_mode: bool) -> Callable[[Case], str]:
    """The verdict of torch.autograd.gradcheck."""
    import torch

    torch.set_num_threads(1)

    class Rule(torch.autograd.Function):
        """A case's forward and VJP, as PyTorch takes them."""

        @staticmethod
        def forward(ctx: Any, case: Case, *xs: Any) -> Any:
            ctx.case, ctx.arrays = case, [x.detach().numpy() for x in xs]
            y = case.forward(*ctx.arrays)
            ctx.several = isinstance(y, tuple)
            dtype = np.result_type(*ctx.arrays)
            ys = tuple(torch.from_numpy(_contiguous(part, dtype)) for part in (y if ctx.several else (y,)))
            return ys if ctx.several else ys[0]

        @staticmethod
        def backward(ctx: Any, *gs: Any) -> Any:
            arrays = tuple(g.detach().numpy() for g in gs)
            bars = ctx.case.pull(arrays if ctx.several else arrays[0], *ctx.arrays)
            return None, *(torch.from_numpy(_contiguous(b, x.dtype)) for b, x in zip(bars, ctx.arrays, strict=True))

    def verdict(case: Case) -> str:
        xs = [torch.from_numpy(x.copy(order="K")).requires_grad_() for x in case.xs]
        f = partial(Rule.apply, case)
        return "pass" if torch.autograd.gradcheck(f, xs, fast_mode=fast_mode, raise_exception=False) else "fail"

    return verdict


def ask_jax() -> Callable[[Case], str]:
    """The verdict of jax.test_util.check_grads in reverse mode."""
    import jax
    from jax.test_util import check_grads

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")

    def verdict(case: Case) -> str:
        def shaped(y: Any, dtype: Any) -> Any:
            return jax.tree.map(lambda part: jax.ShapeDtypeStruct(np.shape(part), dtype), y)

        def forward(*xs: Any) -> Any:
            return jax.tree.map(lambda y: _contiguous(y, dtype), case.forward(*map(np.asarray, xs)))

        def pull(g: Any, *xs: Any) -> Any:
            bars = case.pull(jax.tree.map(np.asarray, g), *map(np.asarray, xs))
            return tuple(_contiguous(b, dtype) for b in bars)

        dtype = np.result_type(*case.xs)
        out, into = shaped(case.forward(*case.xs), dtype), shaped(case.xs, dtype)
        f = jax.custom_vjp(lambda *xs: jax.pure_callback(forward, out, *xs))
        f.defvjp(lambda *xs: (f(*xs), xs), lambda xs, g: jax.pure_callback(pull, into, g, *xs))
        try:
            check_grads(f, case.xs, order=1, modes=["rev"])
        except AssertionError:
            return "fail"
        return "pass"

    return verdict


# name: the package that it takes, and how it is asked
CHECKERS: dict[str, tuple[str, Callable[[], Callable[[Case], str]]]] = {
    "minigrad": ("minigrad", ask_minigrad),
    "gradcheck": ("torch", partial(ask_torch, False)),
    "gradcheck, fast": ("torch", partial(ask_torch, True)),
    "check_grads": ("jax", ask_jax),
}


def judged(name: str) -> list[dict[str, Any]]:
    """What one checker says of every case: its verdict, and the error if it raised one, which is a rejection."""
    ask = CHECKERS[name][1]()
    rows = []
    for case in CASES:
        row: dict[str, Any] = {}
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            start = perf_counter()
            try:
                row["verdict"] = ask(case)
            except Exception as error:
                row = {"verdict": "fail", "raised": f"{type(error).__name__}: {error}"[:200]}
        rows.append(row | {"seconds": perf_counter() - start})
    return rows


def mark(case: Case, verdict: str) -> str:
    """'' for a correct verdict, else 'miss', 'false alarm' or 'unsure'."""
    if verdict == "unsure":
        return "unsure"
    return "" if (verdict == "pass") == case.right else "false alarm" if case.right else "miss"


# The second question


class Network:
    """tanh and ReLU layers, a softmax cross-entropy: one network in minigrad and in PyTorch, in float64.

    Args:
        widths: of the input, the hidden layers and the output.
    """

    def __init__(self, widths: tuple[int, ...]):
        rng = np.random.default_rng(0)
        self.x, self.labels = rng.normal(size=(BATCH, widths[0])), rng.integers(0, widths[-1], BATCH)
        self.parameters: list[Array] = []
        for m, n in pairwise(widths):
            self.parameters += [rng.normal(size=(m, n)) / np.sqrt(m), 0.1 * rng.normal(size=n)]
        self.count = sum(p.size for p in self.parameters)

    def minigrad(self, *parameters: Any) -> Any:
        """The loss in minigrad."""
        w1, b1, w2, b2, w3, b3 = parameters
        h = mg.relu(mg.tanh(self.x @ w1 + b1) @ w2 + b2)
        return -mg.mean(mg.log_softmax(h @ w3 + b3, -1)[np.arange(BATCH), self.labels])

    def torch(self, *parameters: Any) -> Any:
        """The loss in PyTorch."""
        import torch

        w1, b1, w2, b2, w3, b3 = parameters
        h = torch.relu(torch.tanh(torch.from_numpy(self.x) @ w1 + b1) @ w2 + b2)
        return torch.nn.functional.cross_entropy(h @ w3 + b3, torch.from_numpy(self.labels))

    def equal(self) -> bool:
        """Whether both compute the same loss and gradients."""
        import torch

        ours = mg.value_and_grad(lambda p: self.minigrad(*p))([mg.Tensor(p) for p in self.parameters])
        leaves = [torch.from_numpy(p).requires_grad_() for p in self.parameters]
        loss = self.torch(*leaves)
        loss.backward()
        pairs = [(ours[0], loss), *((a, b.grad) for a, b in zip(ours[1], leaves, strict=True))]
        return all(np.allclose(a.data, b.detach().numpy(), rtol=1e-10, atol=1e-14) for a, b in pairs)


def speed(rounds: int) -> list[dict[str, Any]]:
    """Seconds to check a network, for minigrad and PyTorch in turns in this process, medians over the rounds.

    PyTorch's slow mode evaluates the network twice for each parameter. For the large one it checks the last layer
    alone, and what is given is that time by the number of all parameters over the number of those.

    Raises:
        RuntimeError: the two networks differ, or a checker rejects one of them.
    """
    import torch

    torch.set_num_threads(1)
    found = []
    for widths in (SMALL, LARGE):
        network = Network(widths)
        if not network.equal():
            raise RuntimeError("the networks in minigrad and PyTorch differ")
        leaves = [torch.from_numpy(p).requires_grad_() for p in network.parameters]
        last = leaves[-2:]
        with_rest = partial(network.torch, *(leaf.detach() for leaf in leaves[:-2]))
        gradcheck = torch.autograd.gradcheck
        slow = partial(gradcheck, network.torch, leaves) if widths == SMALL else partial(gradcheck, with_rest, last)
        ways: dict[str, Callable[[], Any]] = {
            "minigrad check": partial(check, network.minigrad, *network.parameters),
            "gradcheck, fast": partial(gradcheck, network.torch, leaves, fast_mode=True),
            "gradcheck": slow,
        }
        seconds = np.zeros((rounds, len(ways)))
        for r in range(-1, rounds):  # the first round warms up
            for i, (name, run) in enumerate(ways.items()):
                start = perf_counter()
                if not run():
                    raise RuntimeError(f"{name} rejects a correct network")
                seconds[r, i] = perf_counter() - start
        if widths == LARGE:
            seconds[:, 2] *= network.count / sum(p.numel() for p in last)
        rows = []
        for i, name in enumerate(ways):
            ratios = seconds[:, i] / seconds[:, 0]
            rows.append(
                {
                    "checker": name,
                    "seconds": round(float(np.median(seconds[:, i])), 4),
                    "extrapolated": widths == LARGE and name == "gradcheck",
                    "over_check": round(float(np.median(ratios)), 3),
                    "over_check_95": [round(v, 3) for v in interval(ratios)],
                }
            )
        found.append({"widths": widths, "parameters": network.count, "rows": rows})
    return found


# Running and printing


def in_a_process(what: str, rounds: int) -> Any:
    """What this script, asked for one thing, prints as JSON."""
    command = [sys.executable, "-m", "benchmarks.checkers", "--only", what, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def totals(verdicts: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """How often each checker was wrong, group by group and in all."""
    rows = []
    for group in [*dict.fromkeys(case.group for case in CASES), "all"]:
        chosen = [i for i, case in enumerate(CASES) if group in (case.group, "all")]
        row: dict[str, Any] = {"group": group, "cases": len(chosen), "right": sum(CASES[i].right for i in chosen)}
        for name, found in verdicts.items():
            marks = Counter(mark(CASES[i], found[i]["verdict"]) for i in chosen)
            row[name] = {kind: marks[kind] for kind in ("miss", "false alarm", "unsure")}
        rows.append(row)
    return rows


def print_verdicts(verdicts: dict[str, list[dict[str, Any]]], brief: bool) -> None:
    """Print the verdicts side by side, and the totals."""
    rows = []
    for i, case in enumerate(CASES):
        marks = [mark(case, found[i]["verdict"]) for found in verdicts.values()]
        if any(marks) or not brief:
            cells = (m.upper() or found[i]["verdict"] for m, found in zip(marks, verdicts.values(), strict=True))
            rows.append((case.name, "right" if case.right else "wrong", *cells))
    print_table(f"{len(CASES)} derivatives", ("case", "is", *verdicts), rows)
    rows = []
    for row in totals(verdicts):
        counts = (" / ".join(map(str, row[name].values())) if any(row[name].values()) else "" for name in verdicts)
        rows.append((row["group"], str(row["right"]), str(row["cases"] - row["right"]), *counts))
    print_table("Misses / false alarms / unsure", ("group", "right", "wrong", *verdicts), rows)
    seconds = [f"{sum(row['seconds'] for row in found):.1f}" for found in verdicts.values()]
    print_table("Seconds for all of them", tuple(verdicts), [tuple(seconds)])


def print_speed(found: list[dict[str, Any]]) -> None:
    """Print the seconds of each checker."""
    for model in found:
        rows: list[tuple[str, ...]] = []
        for row in model["rows"]:
            seconds = f"{row['seconds']:.3g}" + (" (extrapolated)" if row["extrapolated"] else "")
            rows.append(
                (row["checker"], seconds, f"{row['over_check']:.3g}", "{:.3g}-{:.3g}".format(*row["over_check_95"]))
            )
        title = f"One check of a network of {model['parameters']:,} parameters"
        print_table(title, ("checker", "s", "/ minigrad", "95 %"), rows)


def main() -> None:
    """Parse the command line and answer both questions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkers", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="how often each is timed (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help=f"also write {RESULTS.name} to benchmarks/results")
    parser.add_argument("--brief", action="store_true", help="only the rows where some checker is wrong")
    parser.add_argument("--only", choices=[*CHECKERS, "speed"], help="answer for one checker, or for speed, as JSON")
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(speed(arguments.rounds) if arguments.only == "speed" else judged(arguments.only)))
        return
    missing = {package for package, _ in CHECKERS.values() if find_spec(package) is None}
    for package in missing:
        print(f"{package} is not installed, and its checkers are left out")
    names = [name for name, (package, _) in CHECKERS.items() if package not in missing]
    verdicts = {name: in_a_process(name, arguments.rounds) for name in names}
    print_verdicts(verdicts, arguments.brief)
    timed = [] if "torch" in missing else in_a_process("speed", arguments.rounds)
    print_speed(timed)
    if arguments.json:
        peers = ["numpy", *sorted({package for package, _ in CHECKERS.values()} - missing - {"minigrad"})]
        results = {
            "question": "verdicts on right and wrong derivatives, and seconds to check a network (medians)",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rounds": arguments.rounds,
            "machine": machine(),
            "python": platform.python_version(),
            "versions": {"minigrad": mg.__version__} | {name: importlib.metadata.version(name) for name in peers},
            "threads": THREADS,
            "totals": totals(verdicts),
            "speed": timed,
            "cases": [
                {"group": case.group, "name": case.name, "right": case.right}
                | {name: found[i]["verdict"] for name, found in verdicts.items()}
                for i, case in enumerate(CASES)
            ],
        }
        write(results, RESULTS)


if __name__ == "__main__":
    main()
