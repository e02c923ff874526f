"""The runtime: a schedule as machine code and memory, and what happens when a compiled step is called.

All kernels are compiled, or found on disk, under a name that is a hash of their text. Their arguments lie in one table
of words; addresses of what changes from call to call (arguments, results) are put there at the beginning of each call,
those of parameters when a parameter has moved. Then the phases run, on as many threads as there are; operations that
have no scalar form are called from Python in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import count, starmap
from typing import TYPE_CHECKING, Any

import numpy as np

from minigrad.arrays import describe
from minigrad.compiler import schedule as schedules
from minigrad.compiler.arguments import as_input
from minigrad.compiler.emit import Argument, Source
from minigrad.compiler.fuse import fuse
from minigrad.compiler.graph import Graph, strided
from minigrad.compiler.lower import lower
from minigrad.compiler.schedule import Phase, Schedule, schedule
from minigrad.compiler.story import Story
from minigrad.kernels import matmul, native, steps
from minigrad.kernels.threads import num_threads

if TYPE_CHECKING:
    from minigrad.compiler.explain import Explanation

SIZES = 5  # the last arguments of every kernel
ANYTHING = steps.checks([])


def build(recording: Any) -> Program:
    """A recorded step as a program."""
    lowered = lower(recording)
    outputs = [*lowered.results, *(g for g in lowered.gradients.values() if g is not None)]
    program = assembled(lowered.graph, outputs, lowered.updates, recording.arrays, len(recording.inputs))
    program.story = Story(program.plan, recording)
    return program


def assembled(
    graph: Graph, outputs: Sequence[int], updates: Mapping[int, int], arrays: Sequence[np.ndarray], inputs: int
) -> Program:
    """A graph as a program.

    Args:
        outputs: the nodes whose values are returned.
        updates: the nodes whose values states get, by the number of the state.
        arrays: of the nodes "array".
        inputs: how many a call has, also if nothing needs them.

    Example:
        >>> graph = Graph()
        >>> x, w = graph.leaf("input", 0, (2,), np.float64), graph.leaf("state", 0, (2,), np.float64)
        >>> y = graph.elementwise("multiply", [x, w], np.float64, (2,))
        >>> program = assembled(graph, [graph.reduce("add", y, [0])], {0: y}, [], inputs=1)
        >>> state = np.array([3.0, 4.0])
        >>> program([np.array([1.0, 2.0])], [state]), state
        ([array([11.])], array([3., 8.]))
    """
    fused = fuse(graph, schedules.own_copies(graph, [*outputs, *updates.values()]))
    return Program(schedule(fused, len(outputs), list(updates)), arrays, inputs)


def kernel_name(source: Source, kinds: Sequence[str]) -> str:
    """What a kernel is called on disk: kernels of one text and one kind of arguments are one kernel."""
    return "step." + sha256("\n".join([source.text, *kinds]).encode()).hexdigest()[:24]


def compiled(source: Source, kinds: Sequence[str]) -> int:
    """The address of a kernel's machine code."""

    name = kernel_name(source, kinds)

    def code() -> bytes:
        from minigrad.kernels.code import translate

        return translate.object_code(name, source.text, kinds)

    return native.function_address(name, code)


def aligned(size: int) -> np.ndarray:
    """So many bytes, that begin on a page."""
    memory = np.empty(size + 4096, np.uint8)
    start = -memory.ctypes.data % 4096
    return memory[start : start + size]


class Program:
    """A step that can be run.

    Args:
        plan: the schedule.
        arrays: of the nodes "array".
        inputs: how many a call has.

    Attributes:
        story: names and lines for people, where it was built from a recording.
    """

    story: Story

    def __init__(self, plan: Schedule, arrays: Sequence[np.ndarray], inputs: int):
        self.plan, self.arrays, self.inputs = plan, [as_input(array) for array in arrays], inputs
        graph = plan.fused.graph
        self.results = [
            (graph.nodes[i].shape, graph.nodes[i].dtype)
            for i, place in sorted(plan.places.items(), key=lambda item: item[1].k)
            if place.kind == "result"
        ]
        self.updated = sorted(place.k for place in plan.places.values() if place.kind == "state")
        self.arena = aligned(plan.arena)
        # which of the arrays of a call (inputs, results, states), bytes to add, slot
        self.of_calls: list[tuple[int, int, int]] = []
        self.of_returned: dict[int, list[tuple[int, int]]] = {}
        self.returned: dict[int, np.ndarray] = {}
        self.threads = 0
        self.fixed: dict[str, Any] = {"array": self.arrays, "constant": graph.constants, "returned": self.returned}
        # looked up once, since a lookup takes as long as a small kernel
        self.begin, self.alone, self.walk = (kernel[_DOUBLE] for kernel in (steps.begin, steps.alone, steps.walk))
        self._lay_out()

    # Showing

    @property
    def source(self) -> str:
        """What runs, as a Python text: see `compiler.render`."""
        from minigrad.compiler.render import source

        return source(self.story)

    def explain(self) -> Explanation:
        """What was fused, and what each phase costs."""
        from minigrad.compiler.explain import explain

        return explain(self.story)

    # Laying out

    def _lay_out(self) -> None:
        """Compile every kernel and write the table of arguments and the plan."""
        phases = self.plan.phases
        kinds = [[] if p.source is None else [self._kind(a) for a in p.source.arguments] for p in phases]
        functions = [
            0 if p.source is None else compiled(p.source, [*k, *["int"] * SIZES])
            for p, k in zip(phases, kinds, strict=True)
        ]
        begins = np.cumsum([0, *(len(k) + SIZES for k in kinds)])
        self.slots = np.zeros(max(1, begins[-1]), np.int64)
        waits = [w for p in phases for w in p.waits]
        self.words = np.zeros(len(phases) * steps.PHASE + max(1, len(waits)), np.int64)
        at = len(phases) * steps.PHASE
        for p, phase in enumerate(phases):
            row = self.words[p * steps.PHASE :]
            row[steps.FUNCTION], row[steps.CHUNKS] = functions[p], phase.chunks if phase.source else 0
            row[steps.SLOTS] = self.slots.ctypes.data + 8 * begins[p]
            row[steps.WAITING], row[steps.WAITS] = len(phase.waits), at
            self.words[at : at + len(phase.waits)] = phase.waits
            at += len(phase.waits)
        self.counters = np.zeros(len(phases) * steps.COUNTERS, np.int64)
        self.begins = [int(b) for b in begins]
        for phase, begin in zip(phases, self.begins, strict=False):
            if phase.source is not None:
                for k, argument in enumerate(phase.source.arguments):
                    self._write(begin + k, argument, phase)
                down = -(-phase.source.rows // phase.row_step)
                sizes = phase.source.rows, phase.source.columns, phase.row_step, phase.column_step, down
                self.slots[begin + len(phase.source.arguments) :][:SIZES] = sizes
        self.places = np.array(self.of_calls or [(0, 0, 0)], np.int64).reshape(-1)
        self.segments = list(self._segments())
        self.is_divided = any(phase.chunks > 1 for phase in phases)  # else one thread is done before another is awake
        # on one thread, what comes before the first call is done together with `begin`
        self.first = self.segments[0][1] if self.segments and isinstance(self.segments[0], tuple) else 0
        self.later = self.segments[1:] if self.first else self.segments
        self.calls = {p: self._called(phase.kernel) for p, phase in enumerate(phases) if phase.source is None}

    def _kind(self, argument: Argument) -> str:
        return f"{self._dtype(argument.what)}*" if argument.kind == "memory" else argument.kind

    def _product(self, phase: Phase) -> int:
        product = self.plan.fused.kernels[phase.kernel].product
        assert product is not None
        return product

    def _dtype(self, i: int) -> np.dtype[Any]:
        return self.plan.fused.graph.nodes[i].dtype

    def _write(self, slot: int, argument: Argument, phase: Phase) -> None:
        """Put an argument into its slot, or note who will."""
        what = argument.what
        if argument.kind == "memory":
            self._write_address(slot, what, argument.offset * self._dtype(what).itemsize)
        elif argument.kind in ("float32", "float64"):
            self.slots[slot] = np.float64(what).view(np.int64)
        elif what == "gemm":
            self.slots[slot] = matmul.gemm_function(self._dtype(self._product(phase)))
        elif what == "plan":
            assert phase.plan is not None
            self.slots[slot] = phase.plan.ctypes.data
        elif isinstance(what, tuple):
            self.slots[slot] = self.plan.partials[what[1]]
        elif isinstance(what, int):
            self.slots[slot] = what
        # panels and scratch are as many as threads: `_fit` writes them

    def _write_address(self, slot: int, i: int, extra: int) -> None:
        node = self.plan.fused.graph.nodes[i]
        place = self.plan.places.get(i) or schedules.Place(node.op, node.params[0])
        if place.kind == "arena":
            self.slots[slot] = self.arena.ctypes.data + place.k + extra
        elif place.kind == "input":
            self.of_calls.append((place.k, extra, slot))
        elif place.kind == "result":
            self.of_calls.append((self.inputs + place.k, extra, slot))
        elif place.kind == "state":
            self.of_calls.append((self.inputs + len(self.results) + place.k, extra, slot))
        elif place.kind == "returned":
            self.of_returned.setdefault(place.k, []).append((slot, extra))
        else:
            array = self.arrays[place.k] if place.kind == "array" else self.plan.fused.graph.constants[place.k]
            self.slots[slot] = array.ctypes.data + extra

    def _segments(self) -> Any:
        """What runs one after the other: (first, last) phases of machine code, or the number of a phase to call."""
        first = 0
        for p, phase in enumerate([*self.plan.phases, None]):
            if phase is None or phase.source is None:
                if first < p:
                    yield first, p
                if phase is not None:
                    yield p
                first = p + 1

    def _called(self, k: int) -> tuple[int, list[tuple[int, int]]]:
        """What a kernel calls, and which nodes are which of its outputs."""
        fused = self.plan.fused
        call, nodes = fused.kernels[k].call, fused.graph.nodes
        assert call is not None
        used = [i for i in fused.stored if fused.home[i] == k]
        return call, [(i, nodes[i].params[0] if nodes[i].op == "output" else 0) for i in used]

    def _fit(self, threads: int) -> None:
        """Have memory for so many threads. At one time they may be at different products: each has as much as any."""
        self.threads = threads
        products = [(p, b) for p, b in zip(self.plan.phases, self.begins, strict=False) if p.plan is not None]
        panels = max((int(p.plan[matmul.PANELS]) for p, _ in products), default=0)  # type: ignore[index]
        scratch = schedules.up(max((p.scratch for p, _ in products), default=0), schedules.LINE)
        self.panels, self.scratch = aligned(panels * threads), aligned(scratch * threads)
        for phase, begin in products:
            assert phase.plan is not None
            assert phase.source is not None
            if phase.plan[matmul.PANELS]:
                phase.plan[matmul.PANELS] = panels
            for k, argument in enumerate(phase.source.arguments, begin):
                if argument.what in ("panels", "scratch"):
                    self.slots[k] = getattr(self, argument.what).ctypes.data
                elif argument.what == "scratch_size":
                    self.slots[k] = scratch // self._dtype(self._product(phase)).itemsize

    # Running

    def checks(self, inputs: Sequence[np.ndarray], states: Sequence[np.ndarray], holders: Sequence[int]) -> np.ndarray:
        """Checks for calls: that their arrays are like these, and how many references there may be to each state."""
        of_inputs = [(k, array, 0) for k, array in enumerate(inputs)]
        of_states = zip(count(len(inputs) + len(self.results)), states, holders, strict=False)
        return steps.checks([*of_inputs, *of_states])

    def __call__(
        self, inputs: Sequence[np.ndarray], states: Sequence[np.ndarray], checks: np.ndarray = ANYTHING
    ) -> list[np.ndarray] | None:
        """Run it.

        Args:
            inputs: in C order, of the recorded shapes and dtypes.
            states: the arrays of all captured tensors; those of `updated` are changed in place.
            checks: what holds for them if it is to run.

        Returns:
            The results, then the gradients, fresh and read-only; None if the checks failed, and nothing was done.
        """
        results = list(starmap(np.empty, self.results))
        threads = num_threads() if self.is_divided else 1
        if threads != self.threads:
            self._fit(threads)
        first = self.first if threads == 1 else 0
        self.begin(
            (*inputs, *results, *states), checks, self.places, len(self.of_calls), self.slots, self.words, first, 1
        )
        if not checks[steps.PASSED]:
            return None
        if threads > 1:
            self.counters.fill(0)
        for segment in self.segments if threads > 1 else self.later:
            if not isinstance(segment, tuple):
                self._call(segment, {"input": inputs, "state": states, "result": results, **self.fixed})
            elif threads == 1:
                self.alone(self.words, *segment, 1)
            else:
                self.walk(self.words, self.counters, *segment, threads)
        for array in results:
            array.setflags(write=False)
        return results

    def _point(self, places: Sequence[tuple[int, int]], array: np.ndarray) -> None:
        """Put the address of an array into slots, with so many bytes added."""
        start = array.ctypes.data
        for slot, extra in places:
            self.slots[slot] = start + extra

    def _call(self, p: int, memory: Mapping[str, Sequence[np.ndarray] | Mapping[int, np.ndarray]]) -> None:
        """Run an operation that is called as it is, and put its outputs where they belong."""
        graph = self.plan.fused.graph
        call, outputs = self.calls[p]
        with np.errstate(all="ignore"):
            given = graph.calls[call].run([self._array(j, memory) for j in graph.nodes[call].inputs])
        for (shape, dtype), array in zip(graph.outputs[call], given, strict=True):
            if (array.shape, array.dtype) != (shape, dtype):
                raise RuntimeError(
                    f"compile: {graph.calls[call].op.name} gave {dtype} {shape} when the step was recorded, and "
                    f"{describe(array)} now: a step whose shapes follow from values can't be compiled"
                )
        for i, number in outputs:
            if self.plan.places[i].kind == "returned":
                self.returned[i] = np.asarray(given[number], order="C")
                self._point(self.of_returned.get(i, ()), self.returned[i])
            else:
                self._array(i, memory)[...] = given[number]

    def _array(self, i: int, memory: Mapping[str, Any]) -> np.ndarray:
        """A value, or a view of one, where it lies."""
        graph = self.plan.fused.graph
        base = graph.base(i)
        node = graph.nodes[base]
        if node.op == "literal":
            return np.broadcast_to(np.asarray(node.params[0], node.dtype), graph.nodes[i].shape)
        place = self.plan.places.get(base) or schedules.Place(node.op, node.params[0])
        if place.kind == "arena":
            whole = np.ndarray(node.shape, node.dtype, self.arena, place.k)
        else:
            whole = memory[place.kind][place.k]
        return strided(whole, *graph.layout(i)) if base != i else whole


_DOUBLE = np.dtype(np.float64)  # of kernels that compute nothing
