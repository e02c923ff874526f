"""Which gradient checker can be trusted, and what does it cost?

The table of right and wrong derivatives (`benchmarks.derivatives`), as minigrad.testing, PyTorch's `gradcheck`, its
fast mode, and JAX's `check_grads` judge it, each with its defaults: a wrong derivative that passes is a miss, a right
one that fails a false alarm. The peers get the very same functions and VJPs, as a `torch.autograd.Function` and as
a `jax.custom_vjp`. Then the seconds of minigrad's `check` and of `gradcheck` for a network written in both with equal
weights.

    python -m benchmarks.checkers                  the tables
    python -m benchmarks.checkers --brief          ... of the verdicts only the rows where some checker is wrong
    python -m benchmarks.checkers --quick          ... without the large network
    python -m benchmarks.checkers --json --plot    ... also written to benchmarks/results

Each checker runs in a process of its own, on one thread. Peers come with `pip install -e '.[bench]'`; one that is
missing is left out and named. How to read it: `CHECKERS` says how each one is asked, `judged` asks it about the whole
table, `Network` and `speed` are the second question; printing comes last. float32 stays float32, although PyTorch's
documentation asks for double precision, and kinks are kinks, although it says that they may fail: the totals are told
group by group. The table holds what minigrad.testing was built to tell apart, so it is no neutral sample: rows say more
than totals.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

import minigrad as mg
from benchmarks import report
from benchmarks.derivatives import CASES, Case
from benchmarks.report import Array, Row, print_table, quartiles, ratio, rounded
from minigrad.testing import check

ROUNDS, QUICK_ROUNDS = 7, 2
SMALL = (16, 40, 20, 4)  # the widths of a network of 1,584 parameters
LARGE = (256, 400, 240, 4)  # ... of 200,004
MANY = 100_000  # parameters: of so many PyTorch's slow mode would check for a minute
BATCH = 8
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "MINIGRAD")}
ONE_THREAD["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
KINDS = {"miss": "wrong ones accepted", "false alarm": "right ones rejected", "unsure": "unsure"}

Verdicts = dict[str, list[Row]]  # by checker, what `judged` returns


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
    "PyTorch": ("torch", partial(ask_torch, False)),
    "PyTorch, fast": ("torch", partial(ask_torch, True)),
    "JAX": ("jax", ask_jax),
}


def judged(name: str) -> list[Row]:
    """What one checker says of every case: its verdict, and the error if it raised one, which is a rejection."""
    ask = CHECKERS[name][1]()
    rows = []
    for case in CASES:
        row: Row = {}
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

    def __init__(self, widths: Sequence[int]):
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


def ways(network: Network, peers: Sequence[str]) -> Iterator[tuple[str, Callable[[], Any], float]]:
    """The name of each checker, a check of the network by it, and which part of the whole work that is.

    PyTorch's slow mode evaluates the network twice for each parameter. Of a large one it checks the last layer alone.
    """
    yield "minigrad", partial(check, network.minigrad, *network.parameters), 1.0
    if "torch" not in peers:
        return
    import torch

    torch.set_num_threads(1)
    if not network.equal():
        raise RuntimeError("the networks in minigrad and PyTorch differ")
    leaves = [torch.from_numpy(p).requires_grad_() for p in network.parameters]
    gradcheck = torch.autograd.gradcheck
    yield "PyTorch, fast", partial(gradcheck, network.torch, leaves, fast_mode=True), 1.0
    if network.count < MANY:
        yield "PyTorch", partial(gradcheck, network.torch, leaves), 1.0
    else:
        rest, last = leaves[:-2], leaves[-2:]
        with_rest = partial(network.torch, *(leaf.detach() for leaf in rest))
        yield "PyTorch", partial(gradcheck, with_rest, last), sum(leaf.numel() for leaf in last) / network.count


def speed(widths: Sequence[int], peers: Sequence[str], rounds: int) -> Row:
    """The row of a network: seconds to check it, the checkers in turns. Where a checker does a part of the work, they
    are those of the part, by its share.

    Raises:
        RuntimeError: the networks differ, or a checker rejects one of them.
    """
    network = Network(widths)
    row: Row = {"case": f"network of {network.count:,} parameters", "dtype": "float64", "threads": 1, "unit": "s"}
    racers = [*ways(network, peers)]
    samples: dict[str, list[float]] = {name: [] for name, _, _ in racers}
    for r in range(rounds + 1):
        for name, run, part in racers:
            start = perf_counter()
            if not run():
                raise RuntimeError(f"{name} rejects a correct network")
            if r > 0:  # the first round warms up
                samples[name].append((perf_counter() - start) / part)
    row["seconds"] = {name: rounded(float(np.median(s))) for name, s in samples.items()}
    row["extrapolated"] = [name for name, _, part in racers if part < 1]
    row["over_minigrad"] = {name: ratio(s, samples["minigrad"]) for name, s in samples.items() if name != "minigrad"}
    row["quartiles"] = {name: quartiles(s) for name, s in samples.items()}
    row["samples"] = {name: [*map(rounded, s)] for name, s in samples.items()}
    return row


# Running and printing


def in_a_process(call: str) -> Any:
    """What a call of a function of this module returns in a new process, on one thread.

    Raises:
        RuntimeError: it failed.
    """
    code = f"import json; from benchmarks import checkers; print(json.dumps(checkers.{call}))"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | ONE_THREAD, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{call}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def totals(verdicts: Verdicts) -> list[Row]:
    """How often each checker was wrong, group by group and in all."""
    rows = []
    for group in [*dict.fromkeys(case.group for case in CASES), "all"]:
        chosen = [i for i, case in enumerate(CASES) if group in (case.group, "all")]
        row: Row = {"group": group, "cases": len(chosen), "right": sum(CASES[i].right for i in chosen)}
        for name, found in verdicts.items():
            marks = Counter(mark(CASES[i], found[i]["verdict"]) for i in chosen)
            row[name] = {kind: marks[kind] for kind in KINDS}
        rows.append(row)
    return rows


def print_verdicts(verdicts: Verdicts, brief: bool) -> None:
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


def print_speed(row: Row) -> None:
    """Print the seconds of each checker for a network."""
    lines = []
    for name, median in row["seconds"].items():
        seconds = f"{median:.3g}" + (" (extrapolated)" if name in row["extrapolated"] else "")
        over = row["over_minigrad"].get(name)
        compared = (f"{over['ratio']:.3g}", "{:.3g} to {:.3g}".format(*over["ratio_95"])) if over else ("", "")
        lines.append((name, seconds, *compared))
    print_table(f"One check of a {row['case']}", ("checker", "s", "/ minigrad", "95 %"), lines)


def print_changes(before: Mapping[str, Any], cases: Sequence[Row], names: Sequence[str]) -> None:
    """Print which verdicts are other ones than in an earlier result."""
    earlier = {case["name"]: case for case in before.get("cases", [])}
    pairs = [(earlier[case["name"]], case) for case in cases if case["name"] in earlier]
    lines = [
        (case["name"], "right" if case["right"] else "wrong", name, old[name], case[name])
        for old, case in pairs
        for name in names
        if name in old and old[name] != case[name]
    ]
    print_table(f"Verdicts that changed, of {len(pairs)} cases", ("case", "is", "checker", "then", "now"), lines)


def plot(verdicts: Verdicts) -> None:
    """Draw how often each checker was wrong, or could not tell."""
    total = totals(verdicts)[-1]
    drawn, ((axes,),) = report.figure("checkers", size=(7, 1 + 0.7 * len(verdicts)))
    for i, (kind, label) in enumerate(KINDS.items()):
        places = [place + 0.27 * (i - 1) for place in range(len(verdicts))]
        bars = axes.barh(places, [total[name][kind] for name in verdicts], height=0.27, label=label)
        axes.bar_label(bars, padding=3)
    axes.set_yticks(range(len(verdicts)), verdicts)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    wrong = total["cases"] - total["right"]
    axes.set(title=f"Verdicts on {total['right']} right and {wrong} wrong derivatives", xlabel="derivatives")
    axes.legend()
    report.save(drawn, "checkers")


def main(argv: Sequence[str] | None = None) -> None:
    """Answer both questions."""
    parser = report.parser("checkers", __doc__, ("torch", "jax"), rounds=(ROUNDS, QUICK_ROUNDS))
    parser.add_argument("--brief", action="store_true", help="only the rows where some checker is wrong")
    given = report.parse(parser, argv)
    results = report.circumstances(__doc__, given.peers) | {"rounds": given.rounds}
    names = [name for name, (package, _) in CHECKERS.items() if package in ("minigrad", *given.peers)]
    verdicts = {name: in_a_process(f"judged({name!r})") for name in names}
    print_verdicts(verdicts, given.brief)
    networks = [SMALL] if given.quick else [SMALL, LARGE]
    results["rows"] = [in_a_process(f"speed({widths}, {given.peers}, {given.rounds})") for widths in networks]
    for row in results["rows"]:
        print_speed(row)
    results["totals"] = totals(verdicts)
    results["cases"] = [
        {"group": case.group, "name": case.name, "right": case.right}
        | {name: found[i]["verdict"] for name, found in verdicts.items()}
        for i, case in enumerate(CASES)
    ]
    if given.earlier is not None:
        print_changes(given.earlier, results["cases"], names)
    report.finish("checkers", given, results)
    if given.plot:
        plot(verdicts)


if __name__ == "__main__":
    main()
