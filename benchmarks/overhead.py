"""What does an operation cost beyond its arithmetic?

A chain of 99 operations (multiply, add, tanh, 33 times over) on arrays so small that the engine's own work is most of
the time, differentiated by each engine that is installed. The engines take turns in one process on one thread
(A B C D A B C D ...), so that whatever slows the machine down for a while slows all of them; what is reported is the
median over the rounds, and the median of the ratio within a round with a bootstrap interval.

    python -m benchmarks.overhead               the table
    python -m benchmarks.overhead --json        ... also written to benchmarks/results/overhead.json
    python -m benchmarks.overhead --guarantees  what each of the always-on guarantees costs, by itself
    python -m benchmarks.overhead --import      what `import minigrad` takes beyond `import numpy`

Peers come with `pip install -e '.[bench]'`; one that is missing is left out and named. How to read it: `Engine` is the
interface, one small subclass an engine; `measure` is the loop; below come the two other questions and the printing.
"""

from __future__ import annotations

import os

THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
os.environ.update(THREADS)  # read when the libraries load, so before they are imported

import argparse
import gc
import importlib.metadata
import json
import platform
import subprocess
import sys
import timeit
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from weakref import ref

import numpy as np

import minigrad as mg

REPEATS = 33
OPERATIONS = 3 * REPEATS
SHAPES = ((8,), (32, 32))
WARM_UP = 30
RESULTS = Path(__file__).parent / "results" / "overhead.json"

Seconds = tuple[float, float, float]  # forward, backward, and freeing the graph


class Engine:
    """One autograd library on the chain y <- tanh(y·w + b), for a fixed x, w and b.

    Args:
        x, w, b: float32 arrays of one shape.
        parameters: whether w and b need gradients too; x always does.
    """

    name: str
    package: str

    def __init__(self, x: np.ndarray, w: np.ndarray, b: np.ndarray, parameters: bool):
        raise NotImplementedError

    def run(self) -> Seconds:
        """One forward and one backward pass from a cotangent of ones; gradients start from none every time."""
        raise NotImplementedError

    def gradient(self) -> np.ndarray:
        """The gradient of x, to see that all engines computed the same."""
        raise NotImplementedError


class Minigrad(Engine):
    name = package = "minigrad"

    def __init__(self, x: np.ndarray, w: np.ndarray, b: np.ndarray, parameters: bool):
        self.x = mg.Tensor(x, requires_grad=True)
        self.w, self.b = (mg.Tensor(a, requires_grad=parameters) for a in (w, b))
        self.ones = mg.Tensor(np.ones_like(x))

    def run(self) -> Seconds:
        x, w, b, tanh = self.x, self.w, self.b, mg.tanh
        for tensor in (x, w, b):
            tensor.zero_grad()
        t0 = perf_counter()
        y = x
        for _ in range(REPEATS):
            y = tanh(y * w + b)
        t1 = perf_counter()
        y.backward(self.ones)
        t2 = perf_counter()
        del y
        return t1 - t0, t2 - t1, perf_counter() - t2

    def gradient(self) -> np.ndarray:
        self.run()
        assert self.x.grad is not None
        return self.x.grad.data


class PyTorch(Engine):
    name, package = "PyTorch", "torch"

    def __init__(self, x: np.ndarray, w: np.ndarray, b: np.ndarray, parameters: bool):
        import torch

        torch.set_num_threads(1)
        self.tanh = torch.tanh
        self.x = torch.tensor(x, requires_grad=True)
        self.w, self.b = (torch.tensor(a, requires_grad=parameters) for a in (w, b))
        self.ones = torch.ones_like(self.x, requires_grad=False)

    def run(self) -> Seconds:
        x, w, b, tanh = self.x, self.w, self.b, self.tanh
        x.grad = w.grad = b.grad = None
        t0 = perf_counter()
        y = x
        for _ in range(REPEATS):
            y = tanh(y * w + b)
        t1 = perf_counter()
        y.backward(self.ones)
        t2 = perf_counter()
        del y
        return t1 - t0, t2 - t1, perf_counter() - t2

    def gradient(self) -> np.ndarray:
        self.run()
        return self.x.grad.numpy()


class HipsAutograd(Engine):
    name, package = "HIPS autograd", "autograd"

    def __init__(self, x: np.ndarray, w: np.ndarray, b: np.ndarray, parameters: bool):
        import autograd
        import autograd.numpy as anp

        def chain(x: Any, w: Any, b: Any) -> Any:
            y = x
            for _ in range(REPEATS):
                y = anp.tanh(y * w + b)
            return y

        self.arrays = (x, w, b)
        self.ones = np.ones_like(x)
        # make_vjp runs the forward pass and returns the backward pass
        self.forward = autograd.make_vjp(chain, (0, 1, 2) if parameters else 0)
        self.parameters = parameters

    def run(self) -> Seconds:
        t0 = perf_counter()
        backward, y = self.forward(*self.arrays)
        t1 = perf_counter()
        self.last = backward(self.ones)
        t2 = perf_counter()
        del backward, y
        return t1 - t0, t2 - t1, perf_counter() - t2

    def gradient(self) -> np.ndarray:
        self.run()
        return self.last[0] if self.parameters else self.last


class MyGrad(Engine):
    name, package = "MyGrad", "mygrad"

    def __init__(self, x: np.ndarray, w: np.ndarray, b: np.ndarray, parameters: bool):
        import mygrad

        self.tanh = mygrad.tanh
        self.x = mygrad.tensor(x)
        self.w, self.b = (mygrad.tensor(a, constant=not parameters) for a in (w, b))
        self.ones = np.ones_like(x)

    def run(self) -> Seconds:
        x, w, b, tanh = self.x, self.w, self.b, self.tanh
        for tensor in (x, w, b):
            tensor.null_grad()
        t0 = perf_counter()
        y = x
        for _ in range(REPEATS):
            y = tanh(y * w + b)
        t1 = perf_counter()
        y.backward(self.ones)
        t2 = perf_counter()
        del y
        return t1 - t0, t2 - t1, perf_counter() - t2

    def gradient(self) -> np.ndarray:
        self.run()
        return self.x.grad


ENGINES: tuple[type[Engine], ...] = (Minigrad, PyTorch, HipsAutograd, MyGrad)


def installed(engine: type[Engine]) -> bool:
    """Whether the package of an engine can be imported."""
    try:
        importlib.import_module(engine.package)
    except ImportError:
        return False
    return True


def measure(engines: list[type[Engine]], shape: tuple[int, ...], parameters: bool, rounds: int) -> np.ndarray:
    """Seconds by round, engine and part (forward, backward, freeing), float64 of shape (rounds, engines, 3).

    Raises:
        RuntimeError: the engines' gradients differ by more than the rounding of a chain this long.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype("f")
    w = (1 + 0.01 * rng.standard_normal(shape)).astype("f")  # near 1 and 0, so that no value or cotangent is denormal
    b = (0.01 * rng.standard_normal(shape)).astype("f")
    racers = [engine(x, w, b, parameters) for engine in engines]
    expected = racers[0].gradient()
    for racer in racers[1:]:
        if not np.allclose(racer.gradient(), expected, rtol=1e-3):
            raise RuntimeError(f"{racer.name} and {racers[0].name} disagree on the gradient of the chain")
    for _ in range(WARM_UP):
        for racer in racers:
            racer.run()
    gc.collect()
    return np.array([[racer.run() for racer in racers] for _ in range(rounds)])


def interval(ratios: np.ndarray) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the median (Efron & Tibshirani 1993, section 13.3)."""
    resamples = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(resamples, axis=1), [2.5, 97.5])
    return float(low), float(high)


def overhead(rounds: int) -> dict[str, Any]:
    """Measure every case, print it, and return what was found with all that is needed to judge it."""
    engines = [e for e in ENGINES if installed(e)]
    for e in ENGINES:
        if e not in engines:
            print(f"{e.name} is not installed and left out")
    reference = engines.index(PyTorch) if PyTorch in engines else None
    cases = []
    for parameters in (False, True):
        for shape in SHAPES:
            seconds = measure(engines, shape, parameters, rounds)
            micros = np.median(seconds, axis=0) / OPERATIONS * 1e6
            total = seconds[:, :, :2].sum(axis=2)  # forward and backward
            rows = []
            for i, engine in enumerate(engines):
                row: dict[str, Any] = {
                    "engine": engine.name,
                    "forward_us": round(float(micros[i, 0]), 3),
                    "backward_us": round(float(micros[i, 1]), 3),
                    "free_us": round(float(micros[i, 2]), 3),
                    "forward_backward_us": round(float(np.median(total[:, i]) / OPERATIONS * 1e6), 3),
                }
                if reference is not None and i != reference:
                    ratios = total[:, i] / total[:, reference]
                    row["over_torch"] = round(float(np.median(ratios)), 3)
                    row["over_torch_95"] = [round(v, 3) for v in interval(ratios)]
                rows.append(row)
            cases.append({"shape": shape, "parameters_need_gradients": parameters, "engines": rows})
            print_case(cases[-1])
    peers = ["numpy", *(e.package for e in engines if e is not Minigrad)]
    return {
        "question": "microseconds per operation of a chain of 33 (multiply, add, tanh), median over rounds",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": rounds,
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {"minigrad": mg.__version__} | {name: importlib.metadata.version(name) for name in peers},
        "threads": THREADS,
        "garbage_collector": "enabled" if gc.isenabled() else "disabled",
        "cases": cases,
    }


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, number of cores, system."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {"cpu": cpu, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def nanoseconds(statement: str, names: dict[str, Any]) -> float:
    """What one statement takes beyond an empty one, the least disturbed of nine measurements."""

    def best(code: str) -> float:
        return min(timeit.repeat(code, globals=names, number=20_000, repeat=9)) / 20_000 * 1e9

    return max(0.0, best(statement) - best("pass"))


def guarantees() -> list[tuple[str, ...]]:
    """What each always-on guarantee adds to one operation, each statement timed by itself.

    Alone in a loop a statement finds everything in the caches, so these are lower bounds of what it costs in the
    engine, and their sum is not the engine's overhead: forward, that is the last line less NumPy's own time.
    """
    array = np.ones(8, "f")
    node: Any = type("Stand-in for a node", (), {"__slots__": ("birth", "dtype", "owner", "saved", "shape")})()
    node.birth, node.shape, node.dtype, node.owner = 0, array.shape, array.dtype, None
    names = {
        "a": array,
        "w": np.ones(8, "f"),
        "node": node,
        "get": ContextVar[Any]("mode", default=None).get,
        "birth": count(0, -1).__next__,
        "assigned": 1,
        "ref": ref,
        "value": type("Weak", (), {})(),
        "ndarray": np.ndarray,
        "np": np,
        "mg": mg,
        "x": mg.Tensor(array, requires_grad=True),
        "c": mg.Tensor(array),
    }
    compared = "if type(a) is not ndarray or a.shape != node.shape or a.dtype is not node.dtype: pass"
    pieces = [
        ("results are read-only", "forward", "a.setflags(0)"),
        ("no_grad, tapes, anomalies: the mode of this thread and task", "forward", "if get() is not None: pass"),
        ("any depth without recursion: a birth number", "forward", "node.birth = birth()"),
        ("cotangents are checked: shape and dtype kept", "forward", "node.shape = a.shape; node.dtype = a.dtype"),
        ("errors name the operation and shapes: a guard", "forward", "try: pass\nexcept Exception: raise"),
        ("cotangents are checked: compared", "backward", compared),
        ("stale values are found: births compared", "backward", "if node.birth > assigned: pass"),
        ("saved arrays are freed after use", "backward", "node.saved = None"),
        ("hooks and retained gradients: a slot read", "backward", "if node.owner is not None: pass"),
        ("no cycles: a weak reference to the tensor", "each leaf", "ref(value)"),
        ("no spurious warnings: np.errstate", "each backward()", "with np.errstate(all='ignore'): pass"),
        ("NumPy's multiply, on (8,) like the next two", "for scale", "np.multiply(a, w)"),
        ("minigrad's multiply, nothing to record", "for scale", "mg.multiply(c, c)"),
        ("minigrad's multiply, recorded and freed", "for scale", "mg.multiply(x, c)"),
    ]
    return [(what, where, f"{nanoseconds(code, names):.0f}") for what, where, code in pieces]


def import_time(rounds: int) -> tuple[float, float, float]:
    """Median seconds of `import numpy`, of `import minigrad`, and of the difference between neighbours.

    Each import is in a fresh interpreter, and they take turns.
    """

    def seconds(module: str) -> float:
        code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(done.stdout)

    seconds("minigrad")  # fills the file cache and writes the byte code
    pairs = [(seconds("numpy"), seconds("minigrad")) for _ in range(rounds)]
    return median(n for n, _ in pairs), median(m for _, m in pairs), median(m - n for n, m in pairs)


def write(results: dict[str, Any], path: Path) -> None:
    """Write results as JSON: to a draft, which then gets the name."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    draft.replace(path)
    print(f"written to {path}")


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table, with rich if it is there."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        print(f"\n{title}")
        for cells in (columns, *rows):
            print("  ".join(cell.ljust(n) for cell, n in zip(cells, widths, strict=True)).rstrip())
        return
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)  # not cut to 80 columns in files and pipes


def print_case(case: dict[str, Any]) -> None:
    """Print one case of `overhead`."""
    needs = "x, w, b need gradients" if case["parameters_need_gradients"] else "x needs a gradient; w, b do not"
    rows = []
    for e in case["engines"]:
        times = (f"{e[part]:.2f}" for part in ("forward_us", "backward_us", "forward_backward_us", "free_us"))
        ratio = f"{e['over_torch']:.2f}" if "over_torch" in e else ""
        bounds = "{:.2f}-{:.2f}".format(*e["over_torch_95"]) if ratio else ""
        rows.append((e["engine"], *times, ratio, bounds))
    columns = ("engine", "forward", "backward", "both", "freeing", "/ PyTorch", "95 %")
    print_table(f"float32 {case['shape']}, µs per operation; {needs}", columns, rows)


def main() -> None:
    """Parse the command line and answer the question asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=400, help="how often each engine runs (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help=f"also write {RESULTS.name} to benchmarks/results")
    parser.add_argument("--guarantees", action="store_true", help="time the always-on guarantees one by one instead")
    parser.add_argument("--import", dest="imports", action="store_true", help="time `import minigrad` instead")
    arguments = parser.parse_args()
    if arguments.guarantees:
        title = "Each piece by itself, in a loop: lower bounds, and they don't add up to the whole"
        print_table(title, ("piece", "where", "ns"), guarantees())
    elif arguments.imports:
        times = import_time(21)
        columns = ("import numpy", "import minigrad", "beyond numpy")
        print_table("Seconds in fresh interpreters, medians of 21", columns, [tuple(f"{t:.3f}" for t in times)])
    else:
        results = overhead(arguments.rounds)
        if arguments.json:
            write(results, RESULTS)


if __name__ == "__main__":
    main()
