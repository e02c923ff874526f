"""What does an operation cost beyond its arithmetic?

A chain of 99 operations (multiply, add, tanh, 33 times over) on arrays so small that the engine's own work is most of
the time, differentiated by each engine; NumPy, with derivatives written by hand, is the arithmetic alone. The engines
take turns in one process on one thread (A B C D A B C D ...), so that whatever slows the machine down for a while slows
all of them; what is reported is the median over the rounds, and the median of the ratio within a round with a bootstrap
interval. The garbage collector is on, as it is by default.

    python -m benchmarks.overhead                  the tables
    python -m benchmarks.overhead --quick          ... in seconds
    python -m benchmarks.overhead --json --plot    ... also written to benchmarks/results
    python -m benchmarks.overhead --guarantees     what each of the always-on guarantees costs, by itself
    python -m benchmarks.overhead --import         what `import minigrad` takes beyond `import numpy`

Peers come with `pip install -e '.[bench]'`; one that is missing is left out and named. JAX is not among them: it is
made for whole functions, compiled, as in the chain of `benchmarks.training`.
How to read it: `Engine` is the interface, one small subclass an engine; `measure` is the loop, `row_of` makes a row of
the result; below come the pieces by themselves, and the printing.
"""

from __future__ import annotations

import gc
import timeit
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from itertools import count
from time import perf_counter
from typing import Any
from weakref import ref

import numpy as np

import minigrad as mg
from benchmarks import report, startup
from benchmarks.report import Array, Row, print_table, quartiles, ratio, rounded

REPEATS = 33
OPERATIONS = 3 * REPEATS
SHAPES = ((8,), (32, 32))
WARM_UP = 30
ROUNDS, QUICK_ROUNDS = 400, 40
PARTS = ("forward", "backward", "free")

Seconds = tuple[float, float, float]  # of each part


class Engine:
    """One autograd library on the chain y <- tanh(y·w + b), for a fixed x, w and b.

    Args:
        x, w, b: float32 arrays of one shape.
        parameters: whether w and b need gradients too; x always does.
    """

    name: str

    def __init__(self, x: Array, w: Array, b: Array, parameters: bool):
        raise NotImplementedError

    def run(self) -> Seconds:
        """One forward and one backward pass from a cotangent of ones; gradients start from none every time."""
        raise NotImplementedError

    def gradient(self) -> Array:
        """The gradient of x, to see that all engines computed the same."""
        raise NotImplementedError


class Minigrad(Engine):
    name = "minigrad"

    def __init__(self, x: Array, w: Array, b: Array, parameters: bool):
        mg.kernels.set_num_threads(1)
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

    def gradient(self) -> Array:
        self.run()
        assert self.x.grad is not None
        return self.x.grad.data


class PyTorch(Engine):
    name = "PyTorch"

    def __init__(self, x: Array, w: Array, b: Array, parameters: bool):
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

    def gradient(self) -> Array:
        self.run()
        return self.x.grad.numpy()


class Autograd(Engine):
    name = "autograd"

    def __init__(self, x: Array, w: Array, b: Array, parameters: bool):
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

    def gradient(self) -> Array:
        self.run()
        return self.last[0] if self.parameters else self.last


class MyGrad(Engine):
    name = "MyGrad"

    def __init__(self, x: Array, w: Array, b: Array, parameters: bool):
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

    def gradient(self) -> Array:
        self.run()
        return self.x.grad


class ByHand(Engine):
    name = "NumPy"

    def __init__(self, x: Array, w: Array, b: Array, parameters: bool):
        self.arrays, self.parameters = (x, w, b), parameters
        self.ones = np.ones_like(x)

    def run(self) -> Seconds:
        x, w, b = self.arrays
        t0 = perf_counter()
        ys = [x]
        for _ in range(REPEATS):
            ys.append(np.tanh(ys[-1] * w + b))
        t1 = perf_counter()
        g, gw, gb = self.ones, np.zeros_like(w), np.zeros_like(b)
        for y, before in zip(ys[:0:-1], ys[-2::-1], strict=True):
            g = g * (1 - y * y)
            if self.parameters:
                gb += g
                gw += g * before
            g = g * w
        t2 = perf_counter()
        self.last = g, gw, gb
        del ys
        return t1 - t0, t2 - t1, perf_counter() - t2

    def gradient(self) -> Array:
        self.run()
        return self.last[0]


PEERS: dict[str, type[Engine]] = {"torch": PyTorch, "autograd": Autograd, "mygrad": MyGrad, "numpy": ByHand}


def measure(engines: Sequence[type[Engine]], shape: tuple[int, ...], parameters: bool, rounds: int) -> dict[str, Array]:
    """Seconds by engine, each a float64 array of shape (rounds, parts).

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
    seconds = np.array([[racer.run() for racer in racers] for _ in range(rounds)])
    return {racer.name: seconds[:, i] for i, racer in enumerate(racers)}


def row_of(shape: tuple[int, ...], parameters: bool, seconds: Mapping[str, Array]) -> Row:
    """What was measured of a case as JSON has it, for one operation; the samples are forward and backward together."""
    each = {name: of_chain / OPERATIONS for name, of_chain in seconds.items()}
    both = {name: parts[:, :2].sum(1).tolist() for name, parts in each.items()}
    needing = "x, w and b need gradients" if parameters else "x alone needs a gradient"
    row: Row = {"case": f"{shape}, {needing}", "dtype": "float32", "threads": 1, "unit": "s"}
    row |= {"shape": shape, "parameters_need_gradients": parameters}
    row["us"] = {name: rounded(float(np.median(s)) * 1e6) for name, s in both.items()}
    for i, part in enumerate(PARTS):
        row[f"{part}_us"] = {name: rounded(float(np.median(parts[:, i])) * 1e6) for name, parts in each.items()}
    if "PyTorch" in both:
        row["over_torch"] = {name: ratio(s, both["PyTorch"]) for name, s in both.items() if name != "PyTorch"}
    row["quartiles"] = {name: quartiles(s) for name, s in both.items()}
    row["samples"] = {name: [*map(rounded, s)] for name, s in both.items()}
    return row


# The pieces


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


# Tables and pictures


def print_row(row: Row) -> None:
    """Print the table of a case."""
    lines = []
    for name, both in row["us"].items():
        forward, backward, free = (row[f"{part}_us"][name] for part in PARTS)
        over = row.get("over_torch", {}).get(name)
        compared = (f"{over['ratio']:.2f}", "{:.2f} to {:.2f}".format(*over["ratio_95"])) if over else ("", "")
        lines.append((name, *(f"{us:.2f}" for us in (forward, backward, both, free)), *compared))
    columns = ("engine", "forward", "backward", "both", "freeing", "/ PyTorch", "95 %")
    print_table(f"{row['case']}; {row['dtype']}, µs an operation", columns, lines)


def plot(rows: Sequence[Row]) -> None:
    """Draw the time of each engine, forward and backward, a part of the figure for each case."""
    drawn, grid = report.figure("overhead", len(SHAPES), 2, (5, 2.4))
    for axes, row in zip(grid.flat, rows, strict=True):
        names, forward, backward = [*row["us"]], [*row["forward_us"].values()], [*row["backward_us"].values()]
        axes.barh(names, forward, label="forward")
        bars = axes.barh(names, backward, left=forward, label="backward")
        axes.bar_label(bars, [f"{us:.1f}" for us in row["us"].values()], padding=3)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set(title=row["case"], xlabel="µs an operation")
    grid[0, 0].legend()
    report.save(drawn, "overhead")


def main(argv: Sequence[str] | None = None) -> None:
    """Answer what the command line asks."""
    parser = report.parser("overhead", __doc__, tuple(PEERS), rounds=(ROUNDS, QUICK_ROUNDS))
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--guarantees", action="store_true", help="time the always-on guarantees one by one instead")
    instead.add_argument("--import", dest="imports", action="store_true", help="time `import minigrad` instead")
    given = report.parse(parser, argv)
    if given.guarantees:
        title = "Each piece by itself, in a loop: lower bounds, and they don't add up to the whole"
        print_table(title, ("piece", "where", "ns"), guarantees())
        return
    if given.imports:
        startup.show([startup.import_row(startup.ROUNDS)])
        return
    results = report.circumstances(__doc__, given.peers) | {"rounds": given.rounds, "rows": []}
    engines: list[type[Engine]] = [Minigrad, *(PEERS[package] for package in given.peers)]
    for parameters in (False, True):
        for shape in SHAPES:
            row = row_of(shape, parameters, measure(engines, shape, parameters, given.rounds))
            print_row(row)
            results["rows"].append(row)
    report.finish("overhead", given, results)
    if given.plot:
        plot(results["rows"])


if __name__ == "__main__":
    main()
