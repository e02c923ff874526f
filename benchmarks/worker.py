"""A process that times statements with one library, or with several, as `benchmarks.interleaved` tells it to.

It reads commands from standard input and answers on standard output, a line of JSON each. First comes

    {"library": "PyTorch", "statement": "tanh(x)", "dtype": "float32", "arrays": {"x": ["normal", [100000]]},
     "differentiated": []}

Names in the statement are those of the library. The answer has the seconds of a call, and some numbers of its result,
by which the libraries are compared; or it says what is missing or went wrong. Then, as often as it is asked,

    {"library": "PyTorch", "calls": 50, "samples": 5}

is answered by the median, over the samples, of the seconds of a call. The numbers in the arrays are the same in every
library. Where they lie in memory can matter by a tenth, and would be luck for as long as the process lives: so every
time they are put elsewhere, NumPy's at multiples of 16 bytes and PyTorch's at multiples of 64, as those allocate.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from statistics import median
from timeit import Timer
from typing import Any

import numpy as np

SAMPLE = 1e-3  # seconds that a sample takes at least, if a call takes less
PAGE = 4096  # bytes
KERNELS = ("elementwise", "matmul", "losses", "convolution")  # modules of minigrad.kernels

Names = dict[str, Any]


def of_minigrad() -> Names:
    """The kernels, as far as there are any."""
    names: Names = {}
    for module in KERNELS:
        try:
            names |= vars(import_module(f"minigrad.kernels.{module}"))
        except ModuleNotFoundError as error:
            if error.name != f"minigrad.kernels.{module}":
                raise
    return names


def of_numpy() -> Names:
    """NumPy's functions, and SciPy's error function where it is installed."""
    try:
        from scipy.special import erf
    except ModuleNotFoundError:
        return vars(np)
    return {**vars(np), "erf": erf}


def of_torch() -> Names:
    """The functions of torch and of torch.nn.functional, the latter also by its name; grad is torch.autograd.grad."""
    import torch

    functional = torch.nn.functional
    return {**vars(functional), **vars(torch), "functional": functional, "grad": torch.autograd.grad}


def of_the_machine() -> Names:
    """What `benchmarks.peak` has."""
    from benchmarks import peak

    return vars(peak)


NAMES = {"minigrad": of_minigrad, "NumPy": of_numpy, "PyTorch": of_torch, "peak": of_the_machine}


def array(kind: str, shape: list[int], dtype: str, rng: np.random.Generator) -> np.ndarray:
    """Numbers of a kind: uniform from 0 to 1, normal, those transposed, positive, weights, or labels.

    What is transposed has its shape in memory only. Weights are normal by the root of their number of rows. The last
    number of the shape of labels is that of classes.
    """
    if kind == "labels":
        *shape, classes = shape
        return rng.integers(0, classes, shape)
    x = rng.uniform(size=shape) if kind == "uniform" else rng.standard_normal(shape)
    if kind == "positive":
        x = np.exp(x)
    if kind == "weights":
        x /= np.sqrt(len(x))
    return x.astype(dtype).T if kind == "transposed" else x.astype(dtype)


def placed(x: np.ndarray, align: int, rng: np.random.Generator) -> np.ndarray:
    """A copy of x at a random place in a page, with its elements in the same order in memory."""
    memory = np.empty(x.nbytes + 2 * PAGE, np.uint8)
    start = -memory.ctypes.data % PAGE + int(rng.integers(PAGE // align)) * align
    flat = memory[start : start + x.nbytes].view(x.dtype)
    copy = flat.reshape(x.shape) if x.flags.c_contiguous else flat.reshape(x.T.shape).T
    copy[...] = x
    return copy


@dataclass
class Task:
    """A statement with the names that it knows; some of them are arrays."""

    is_torch: bool
    statement: str
    names: Names
    arrays: dict[str, np.ndarray]
    differentiated: list[str]
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def renew(self) -> None:
        """Put the arrays elsewhere."""
        for name, x in self.arrays.items():
            self.names[name] = placed(x, 64 if self.is_torch else 16, self.rng)
            if self.is_torch:
                tensor = self.names["from_numpy"](self.names[name])
                self.names[name] = tensor.requires_grad_(name in self.differentiated)
        if self.is_torch:
            self.names["set_grad_enabled"](bool(self.differentiated))

    def run(self) -> Any:
        """What the statement returns."""
        return eval(self.statement, self.names)

    def timed(self, calls: int) -> float:
        """Seconds of so many calls in a row."""
        return Timer(self.statement, globals=self.names).timeit(calls)


class Worker:
    """What this process has loaded: the names of each library, and the task that is timed with each."""

    def __init__(self) -> None:
        self.names: dict[str, Names] = {}
        self.tasks: dict[str, Task] = {}

    def answer(self, command: dict[str, Any]) -> Any:
        """Do what one command asks for."""
        if "statement" in command:
            return self.prepare(**command)
        task, calls = self.tasks[command["library"]], command["calls"]
        task.renew()
        if calls > 1:
            task.timed(calls)  # brings everything back into the caches
        return median(task.timed(calls) for _ in range(command["samples"])) / calls

    def prepare(
        self, library: str, statement: str, dtype: str, arrays: dict[str, Any], differentiated: list[str]
    ) -> dict[str, Any]:
        """Make the arrays, run the statement once, and see how long it takes."""
        if library not in self.names:
            self.names[library] = NAMES[library]()
        rng = np.random.default_rng(0)
        made = {name: array(kind, shape, dtype, rng) for name, (kind, shape) in arrays.items()}
        task = Task(library == "PyTorch", statement, {**self.names[library], "dtype": dtype}, made, differentiated)
        task.renew()
        try:
            result = task.run()
        except NameError as error:
            return {"failure": f"has no {error.name}"}
        except Exception as error:
            return {"failure": f"{type(error).__name__}: {error}".partition("\n")[0][:80]}
        if result is NotImplemented:
            return {"failure": "NotImplemented"}
        self.tasks[library] = task
        return {"numbers": some_numbers(result), "seconds": calibrated(task.timed)}


def some_numbers(result: Any) -> list[list[float]]:
    """At most 100 numbers of each array of a result, evenly spread."""
    parts = result if isinstance(result, (tuple, list)) else [result]
    flat = [np.asarray(part.detach() if hasattr(part, "detach") else part).ravel() for part in parts]
    return [x[:: -(-max(len(x), 1) // 100)].tolist() for x in flat]


def calibrated(timeit: Callable[[int], float]) -> float:
    """Seconds of a call, from as many calls as take about a sample's time."""
    calls = 1
    while (seconds := timeit(calls)) < SAMPLE:
        calls *= 2 if seconds > SAMPLE / 16 else 8
    return seconds / calls


def main() -> None:
    """Answer commands until there are no more."""
    worker = Worker()
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
