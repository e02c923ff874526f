"""The story: what people call the values of a plan, and which of their lines its kernels come from.

A plan knows numbers of nodes. Their names come from the recording: paths of parameters, arguments, variables; what has
none is named after the operation that made it, and a gradient after what it is the gradient of.

    %0 state, (784, 128)                     encoder_weight      forward: train.py:12: h = relu(model.encoder(x))
    %4 maximum(%3, 0.0), (128, 128)          h                       h = relu(x @ encoder_weight + encoder_bias)
    %9 where(%8, %7, 0.0), (128, 128)        linear_1_grad       backward: train.py:14: loss.backward()

No array of the recording is kept, so that a step can be shown long after it was recorded.
"""

from __future__ import annotations

import builtins
import keyword
import linecache
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np

from minigrad.compiler.elementwise import ELEMENTWISE
from minigrad.compiler.fuse import Kernel
from minigrad.compiler.schedule import Phase, Place, Schedule
from minigrad.compiler.strides import contiguous_strides
from minigrad.source import Place as Where
from minigrad.source import line

# How people write operations, and how strongly signs bind; what is not here is a function.
INFIX = {
    "add": ("+", 4), "subtract": ("-", 4), "multiply": ("*", 5), "divide": ("/", 5), "matmul": ("@", 5),
    "power": ("**", 7), "equal": ("==", 3), "not_equal": ("!=", 3), "less": ("<", 3), "less_equal": ("<=", 3),
    "greater": (">", 3), "greater_equal": (">=", 3), "logical_and": ("and", 2), "logical_or": ("or", 1),
}  # fmt: skip
REDUCTIONS = {"add": "sum", "maximum": "max", "minimum": "min", "multiply": "prod"}
# Operations that only arrange or compare: kernels are not named after them.
MINOR = {
    "pick", "copy", "assign", "cast", "permute_dims", "reshape", "broadcast_to", "sum_to", "unreduce", "expand_dims",
    "squeeze", "greater", "less", "equal", "getitem", "flip", "matrix_transpose",
}  # fmt: skip
RESERVED = ("np", "kernel", "registry", "strided", "step", "output", "outputs")  # for the text of the step
DEPTH = 10  # of a formula
SHORT = 72  # characters of a formula that is written out; of a longer one it is said what goes in


def identifier(path: str) -> str:
    """A name of Python that is like a path. The layers of a Sequential go by their numbers.

    Example:
        >>> identifier("model.encoder.layers[0].weight"), identifier("0.weight")
        ('model_encoder_0_weight', 'x_0_weight')
    """
    path = re.sub(r"(?<=\w)\.layers(\[\d+\]|\.\d+)", r"\1", path)
    name = re.sub(r"\W+", "_", path).strip("_") or "value"
    return f"x_{name}" if name[0].isdigit() else name


def in_common(names: Sequence[str]) -> str:
    """What names of arrays in the same place have in common; the first, if that is nothing.

    Example:
        >>> in_common(["encoder_weight", "decoder_weight"]), in_common(["relu_1", "relu_2"]), in_common(["x", "relu_1"])
        ('weight', 'relu', 'x')
    """
    words = [name.split("_") for name in names]
    alike = lambda words: [w[0] for w in takewhile(lambda w: len(set(w)) == 1, zip(*words, strict=False))]
    shared = [alike([w[::-1] for w in words])[::-1], alike(words)]
    return next((name for w in shared if (name := "_".join(w)) and not name[0].isdigit()), names[0])


class Scope:
    """Names that are taken; `new` gives one that is not.

    Example:
        >>> scope = Scope(["x"])
        >>> scope.new("x", "given"), scope.new("x"), scope.new("lambda")
        ('given', 'x_2', 'lambda_2')
    """

    def __init__(self, taken: Iterable[str] = ()):
        self.taken = {*taken, *keyword.kwlist, *dir(builtins)}

    def new(self, *wishes: str) -> str:
        """The first of these names that is free; else the last, with a number."""
        name, k = next((w for w in wishes if w not in self.taken), wishes[-1]), 2
        while name in self.taken:
            name, k = f"{wishes[-1]}_{k}", k + 1
        self.taken.add(name)
        return name


def short_names(paths: Mapping[Any, str], scope: Scope) -> dict[Any, str]:
    """Identifiers for paths, without what they begin with if they can be told apart by the rest.

    Example:
        >>> short_names({0: "net.fc.weight", 1: "adam.state['step']", 2: "sgd.state['step']"}, Scope())
        {0: 'fc_weight', 1: 'adam_step', 2: 'sgd_step'}
    """
    paths = {k: re.sub(r"\.state\['(\w+)'\]", r".\1", path) for k, path in paths.items()}
    short = {k: identifier(path.partition(".")[2] or path) for k, path in paths.items()}
    count = Counter(short.values())
    return {k: scope.new(*[short[k]][: count[short[k]] == 1], identifier(path)) for k, path in paths.items()}


class Story:
    """Names, lines and formulas of a plan.

    Args:
        plan: a schedule.
        recording: of the step that it is for.

    Attributes:
        given: the names of arguments, states, arrays and constants, by their places.
        names: of the other nodes that lie in memory.
        recorded: how many operations were recorded.
    """

    def __init__(self, plan: Schedule, recording: Any):
        self.plan, self.graph = plan, plan.fused.graph
        self.scope = Scope([*RESERVED, *ELEMENTWISE, *REDUCTIONS.values(), "relu"])
        entries = recording.entries
        self.recorded = len(entries)
        self.ops: list[str] = [e.op.name for e in entries]
        self.places: list[Where | None] = [e.where for e in entries]
        self.numbers = [dict(_numbers_of(e.params)) for e in entries]
        self.roles = _roles(recording)
        self.of_entry: dict[int, list[int]] = {}
        for i, asked in enumerate(self.graph.origins):
            for k in asked:
                self.of_entry.setdefault(k, []).append(i)
        self.given = self._given(recording)
        self.wishes = self._wishes(recording)
        self.names: dict[int, str] = {}
        for phase in plan.phases:
            for i in self.stores(phase):
                if self.place(i).kind in ("arena", "result", "returned"):
                    self.names[i] = self.scope.new(wish := self._wish(i), f"{wish}_1")

    # Names

    def _given(self, recording: Any) -> dict[Place, str]:
        given: dict[Place, str] = {}
        named = lambda array, otherwise: recording.names.get(id(array), otherwise)
        for k, array in enumerate(recording.inputs):
            given[Place("input", k)] = self.scope.new(identifier(named(array, f"input_{k + 1}")))
        paths = {Place("state", k): named(array, f"state_{k + 1}") for k, array in enumerate(recording.before)}
        moments = {Place("state", k): id(a) for k, a in enumerate(recording.before)}
        owners = {id(a): id(p) for p, _, of_p in _optimised(recording, self.roles) for a in of_p}
        given |= short_names({place: path for place, path in paths.items() if moments[place] not in owners}, self.scope)
        states = {id(a): given.get(Place("state", k), "parameter") for k, a in enumerate(recording.before)}
        for place, path in paths.items():
            if place not in given:
                moment = re.search(r"\['(\w+)'\]", path)
                of = states.get(owners[moments[place]], "parameter")
                given[place] = self.scope.new(f"{of}_{moment[1] if moment else 'moment'}")
        for kind, arrays in (("array", recording.arrays), ("constant", self.graph.constants)):
            for k, array in enumerate(arrays):
                given[Place(kind, k)] = self.scope.new(identifier(named(array, f"{kind}_{k + 1}")))
        return given

    def place(self, i: int) -> Place:
        """Where a leaf, or a node that is stored, lies."""
        node = self.graph.nodes[i]
        return self.plan.places.get(i) or Place(node.op, node.params[0] if node.params else 0)

    def name(self, i: int) -> str | None:
        """The name of a node that lies in memory; None for others."""
        return self.names.get(i) or self.given.get(self.place(i))

    def _wishes(self, recording: Any) -> dict[int, str]:
        """What nodes are to be called: results, variables of the user, gradients."""
        made = {id(e.output): e for e in recording.entries}
        position = {id(e.output): k for k, e in enumerate(recording.entries)}
        wishes: dict[int, str] = {}

        def node_of(array: Any) -> int | None:
            """The node of an array: the last that its entry asked for, of its shape and dtype."""
            entry = made.get(id(array))
            if entry is not None and entry.op.name in ("pick", "copy") and not self.of_entry.get(position[id(array)]):
                whole = entry.inputs[0]
                if entry.op.name == "copy" or id(whole) not in position:
                    return node_of(whole)
                asked = self.of_entry.get(position[id(whole)], [])
            else:
                asked = self.of_entry.get(position.get(id(array), -1), [])
            nodes = self.graph.nodes
            alike = [i for i in asked if (nodes[i].shape, nodes[i].dtype) == (array.shape, array.dtype)]
            return self.graph.base(max(alike)) if alike else None

        def wish(node: int | None, name: str) -> None:
            if node is not None and self.graph.nodes[node].op != "literal":
                wishes.setdefault(node, identifier(name))

        states = {id(a): self.given[Place("state", k)] for k, a in enumerate(recording.before)}
        places = sorted((place.k, i) for i, place in self.plan.places.items() if place.kind == "result")
        left = [f"{self.given[Place('state', k)]}_grad" for k, g in recording.gradients if g is not None]
        differentiated = [m[1] for where in self.places if (m := re.search(r"(\w+)\.backward\(", called(where)))]
        for n, array in enumerate(recording.results):
            fallback = f"result_{n + 1}" if len(recording.results) > 1 else "result"
            if array.shape == () and len(set(differentiated)) == 1 and len(recording.results) == 1:
                fallback = differentiated[0]
            left.insert(n, recording.names.get(id(array), fallback))
        for (_, i), name in zip(places, left, strict=True):
            wish(i, name)
        first: dict[int, Any] = {}  # what is picked first of several outputs has the name of all
        for e in recording.entries:
            if e.op.name == "pick":
                first.setdefault(id(e.inputs[0]), e.output)
            if (name := recording.names.get(id(e.output))) and id(e.output) not in states:
                wish(node_of(first.get(id(e.inputs[0]), e.output) if e.op.name == "pick" else e.output), name)
        for p, g, _ in _optimised(recording, self.roles):
            if id(p) in states:
                wish(node_of(g), f"{states[id(p)]}_grad")
        for node, name in self._cotangents(wishes):
            wish(node, f"{name}_grad")
        return wishes

    def _cotangents(self, wishes: Mapping[int, str]) -> Iterator[tuple[int, str]]:
        """Nodes that are cotangents: of p = a·b what is multiplied with aᵀ or bᵀ, and then that product, of b or a."""
        graph = self.graph
        by_operand: dict[Any, int] = {}
        for p, node in enumerate(graph.nodes):
            if node.op != "matmul" or p not in self.plan.fused.home:
                continue
            entry = self.entry_of(p)
            backward = entry is not None and self.roles[entry] == "backward"
            for side in (0, 1):
                forward = by_operand.get((side, *self._layout(node.inputs[side])))
                cotangent, other = node.inputs[1 - side], None
                if backward and forward is not None and graph.nodes[cotangent].shape == graph.nodes[forward].shape:
                    yield graph.base(cotangent), self.origin_name(forward)
                    other = graph.base(graph.nodes[forward].inputs[1 - side])
                    yield p, wishes.get(other) or self.given.get(self.place(other)) or self.origin_name(other)
                    break
            for side in (0, 1):
                by_operand.setdefault((side, *self._layout(node.inputs[side], turned=True)), p)

    def _layout(self, i: int, turned: bool = False) -> tuple[Any, ...]:
        """What is in memory where a matrix is, or its transpose."""
        shape, strides, offset = self.graph.layout(i)
        if turned:
            shape, strides = (*shape[:-2], *shape[:-3:-1]), (*strides[:-2], *strides[:-3:-1])
        return self.graph.base(i), shape, strides, offset

    def origin_name(self, i: int) -> str:
        """The operation that made a node, with its number among those of its kind: 'linear_2'."""
        k = self.entry_of(i)
        if k is None:
            return identifier(self.graph.nodes[i].op)
        alike = [q for q, op in enumerate(self.ops) if op == self.ops[k]]
        return f"{self.ops[k]}_{alike.index(k) + 1}" if len(alike) > 1 else self.ops[k]

    def _wish(self, i: int) -> str:
        """What a node in memory is to be called."""
        if i in self.wishes:
            return self.wishes[i]
        node = self.graph.nodes[i]
        if i in self.plan.partials:
            users = [p for p in self.plan.phases if any(self.graph.base(j) == i for j in self.kernel(p).loads)]
            stored = [j for p in users for j in self.stores(p)]
            return f"{self.wishes.get(stored[0]) if len(stored) == 1 else self.origin_name(i)}_parts"
        if node.op == "copy" and node.inputs[0] in self.wishes:
            return f"{self.wishes[node.inputs[0]]}_copy"
        return self.origin_name(i) + ("_number" if math.prod(node.shape) == 1 else "")

    # Kernels

    def kernel(self, phase: Phase) -> Kernel:
        return self.plan.fused.kernels[phase.kernel]

    def stores(self, phase: Phase) -> list[int]:
        """The nodes that a phase puts into memory."""
        fused = self.plan.fused
        return sorted(i for i in fused.stored if fused.home[i] == phase.kernel)

    def computes(self, phase: Phase) -> list[int]:
        """The nodes that a phase computes, also those that belong to no kernel."""
        kernel, home = self.kernel(phase), self.plan.fused.home
        seen = {i for i in (kernel.product, kernel.call) if i is not None}
        pending = list(kernel.nodes)
        while pending:
            i = pending.pop()
            if i not in seen and i not in kernel.loads and home.get(i, phase.kernel) == phase.kernel:
                seen.add(i)
                pending += self.graph.nodes[i].inputs
        leaves = ("literal", "iota", "view")
        return sorted(i for i in seen if self.graph.nodes[i].op not in leaves)

    def delivered(self, phase: Phase) -> int | None:
        """What the product of a kernel is, with a bias if one is added."""
        kernel, nodes = self.kernel(phase), self.graph.nodes
        users = [i for i in kernel.nodes if kernel.product in nodes[i].inputs]
        return users[0] if len(users) == 1 and nodes[users[0]].op == "add" else kernel.product

    def product_name(self, phase: Phase) -> str:
        """What a kernel's product is called, whether it is stored or not."""
        i, product = self.delivered(phase), self.kernel(phase).product
        assert i is not None
        assert product is not None
        return self.name(i) or self.wishes.get(i) or self.wishes.get(product) or self.origin_name(i)

    def title(self, phase: Phase) -> str:
        """What a kernel does, in one word: the operations that it was made of."""
        ops = [self.ops[k] for k in self.entries(phase)]
        ops = [op for op in dict.fromkeys(ops) if op not in MINOR] or [self.graph.nodes[self.stores(phase)[0]].op]
        return "_".join(ops[:3]) + ("_numbers" if math.prod(self.kernel(phase).grid) == 1 else "")

    # The user's lines

    def entry_of(self, i: int) -> int | None:
        """The first entry of the tape that asked for a node; of a node that the compiler made, for its inputs."""
        seen, pending = set(), [i]
        while pending:
            j = pending.pop(0)
            if self.graph.origins[j]:
                return self.graph.origins[j][0]
            if j not in seen:
                seen.add(j)
                pending += self.graph.nodes[j].inputs
        return None

    def entries(self, phase: Phase) -> list[int]:
        """The entries of the tape that a phase comes from."""
        return sorted({k for i in self.computes(phase) if (k := self.entry_of(i)) is not None})

    def lines(self, phase: Phase) -> list[str]:
        """The user's lines that a phase comes from: 'forward: train.py:12: h = model(x)'."""
        return list(dict.fromkeys(f"{self.roles[k]}: {shown(self.places[k])}" for k in self.entries(phase)))

    # Formulas

    def formulas(self, phase: Phase) -> list[str]:
        """What a phase puts into memory, and from what: 'h = relu(x @ w + b)   (128, 784) @ (784, 64)'."""
        kernel, stored = self.kernel(phase), self.stores(phase)
        if kernel.call is not None:
            call, inputs = self.graph.calls[kernel.call], self.graph.nodes[kernel.call].inputs
            return [f"{self._listed(stored)} = {call.op.name}({', '.join(map(self.text, inputs))})"]
        found, named, shapes = [], dict[int, str](), ""
        if kernel.product is not None:
            shapes = "   " + " @ ".join(str(self.graph.nodes[j].shape) for j in self.graph.nodes[kernel.product].inputs)
            value = self.delivered(phase)
            assert value is not None
            if len(stored) > 1 or value in self.wishes or not self._short(stored[0], named):
                named[value] = self.product_name(phase)
                kept = "" if value in stored else ", not stored"
                found.append(f"{named[value]} = {self.text(value, top=True)}{shapes}{kept}")
                shapes = ""
        together: dict[Any, list[int]] = {}  # nodes of one entry are one line, unless each is short
        for i in stored:
            if i not in named:
                updated = self.place(i).kind == "state"
                alone = not updated and self._short(i, named)
                together.setdefault(("alone", i) if alone else (updated, self.entry_of(i)), []).append(i)
        for nodes in together.values():
            right, entry = self.text(nodes[0], named, top=True), self.entry_of(nodes[0])
            if len(nodes) > 1 or not self._short(nodes[0], named):
                given = [x for x in self._cone(nodes, entry, named) if x not in map(self.name, nodes)]
                right = f"{'computed' if entry is None else self.ops[entry]}({', '.join(given)})"
            found.append(f"{self._listed(nodes)} = {right}{shapes}")
        return found

    def _short(self, i: int, named: Mapping[int, str]) -> bool:
        text = self.text(i, named, top=True)
        return len(text) <= SHORT and "…" not in text

    def _listed(self, nodes: Sequence[int]) -> str:
        """'weight and its m, v' for weight_m, weight_v and weight; else the names in a row."""
        names = sorted(self.name(i) or "_" for i in nodes)
        whole = names[0]
        if len(names) > 1 and all(re.match(rf"{whole}_[a-z]", name) for name in names[1:]):
            return f"{whole} and its {', '.join(name[len(whole) + 1 :] for name in names[1:])}"
        return ", ".join(self.name(i) or "_" for i in nodes)

    def _cone(self, nodes: Sequence[int], entry: int | None, named: Mapping[int, str]) -> list[str]:
        """What the nodes of an entry are computed from: what has a name, or is a short formula."""
        found: dict[str, None] = {}
        seen, pending = set(nodes), [j for i in nodes for j in self.graph.nodes[i].inputs]
        while pending:
            j = pending.pop(0)
            base = self.graph.base(j)
            if j in seen or base in nodes or self.graph.nodes[j].op in ("literal", "iota"):
                continue
            seen.add(j)
            text, asked = self.text(j, named), self.graph.origins[base]
            foreign = bool(asked) and entry not in asked
            if base in named or self.name(base) or (foreign and len(text) <= SHORT // 2):
                found[text] = None
            else:
                pending = [*self.graph.nodes[j].inputs, *pending]
        return list(found)

    def text(
        self, i: int, named: Mapping[int, str] | None = None, above: int = 0, top: bool = False, depth: int = DEPTH
    ) -> str:
        """A node as a formula over what lies in memory or is `named`; at the `top` over what it is made of.

        `above` is how strongly the sign binds in whose operand it stands; what is too deep to be read is '…'.
        """
        node, named = self.graph.nodes[i], named or {}
        inside = lambda j, above=0: self.text(j, named, above, False, depth - 1)
        if not top and i in named:
            return named[i]
        if not top and node.op != "view" and (name := self.name(i)):
            return f"sum({name})" if i in self.plan.partials else name
        if depth == 0:
            return "…"
        x = node.inputs[0] if node.inputs else i
        if node.op in INFIX:
            sign, strength = INFIX[node.op]
            a, b = inside(x, strength), inside(node.inputs[1], strength + 1)
            return f"({a} {sign} {b})" if strength < above else f"{a} {sign} {b}"
        match node.op:
            case "literal":
                return f"{node.params[0]:.6g}" if node.dtype.kind == "f" else repr(node.params[0])
            case "view":
                return self._view(i, inside(self.graph.base(i), above))
            case "cast" | "copy":
                return inside(x, above)
            case "negative":
                return f"-{inside(x, 6)}"
            case "maximum" if inside(node.inputs[1]) == "0":
                return f"relu({inside(x)})"
            case "reduce":
                axes = node.params[1]
                whole = len(axes) == sum(n > 1 for n in self.graph.nodes[x].shape)
                along = "" if whole else f", axis={axes[0] if len(axes) == 1 else axes}"
                return f"{REDUCTIONS[node.params[0]]}({inside(x)}{along})"
        return f"{node.op}({', '.join(map(inside, node.inputs))})"

    def _view(self, i: int, text: str) -> str:
        """A view of what has this text: broadcasting and reshaping go without saying."""
        shape, strides, offset = self.graph.layout(i)
        base = self.graph.nodes[self.graph.base(i)].shape
        if len(shape) > 1 and (shape, strides, offset) == (base[::-1], contiguous_strides(base)[::-1], 0):
            return f"{text}.T" if text.isidentifier() else f"({text}).T"
        part = offset or math.prod(n for n, s in zip(shape, strides, strict=True) if s) < math.prod(base)
        return f"{text}[...]" if part else text


def _numbers_of(params: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers among parameters, by name; those in a tuple with their positions: beta_1, beta_2."""
    for name, x in params.items():
        if isinstance(x, (tuple, list)):
            yield from ((f"{name.removesuffix('s')}_{k + 1}", v) for k, v in enumerate(x) if isinstance(v, float))
        elif isinstance(x, float):
            yield name, x


def _optimised(recording: Any, roles: Sequence[str]) -> Iterator[tuple[Any, Any, Sequence[Any]]]:
    """The array of each parameter that an optimiser's operation changes, of its gradient, and of its moments.

    The operation takes all parameters, all gradients, and all of each moment, and returns all but the gradients, new.
    """
    for e, role in zip(recording.entries, roles, strict=True):
        if role == "update" and e.op.star is not None and isinstance(e.output, tuple):
            arrays = e.inputs[e.op.star :]
            count = len(arrays) - len(e.output)
            for i in range(count):
                yield arrays[i], arrays[count + i], arrays[2 * count + i :: count]


def _roles(recording: Any) -> list[str]:
    """Of each entry whether it is 'forward', 'backward' or 'update'.

    Backward is what the user's line calls so; or, as for gradients of functions, what a call does that begins with a
    cotangent of ones, which nothing made. An update is an assignment, and what its call computes for nothing else.
    """
    entries = recording.entries
    known = {id(a) for a in (*recording.inputs, *recording.before, *recording.arrays, *(e.output for e in entries))}
    seen: set[Where | None] = set()
    backward: set[Where | None] = set()
    for e in entries:
        if e.where not in seen:
            seeds = [x for x in e.inputs if isinstance(x, np.ndarray) and id(x) not in known and x.dtype.kind == "f"]
            if "backward(" in called(e.where) or any((x == 1).all() for x in seeds):
                backward.add(e.where)
            seen.add(e.where)
    roles: list[str] = []
    users: dict[int, set[Any]] = {
        id(a): {"result"} for a in recording.results
    }  # of an array: the calls of updates, or others
    for e in reversed(entries):
        uses = users.get(id(e.output), {"nothing"})
        update = not e.op.name.startswith("random_") and (e.op.name == "assign" or uses == {("update", e.where)})
        roles.append("update" if update else "backward" if e.where in backward else "forward")
        for x in e.inputs:
            users.setdefault(id(x), set()).add(("update", e.where) if update else "other")
    return roles[::-1]


@lru_cache(maxsize=4096)
def called(where: Where | None) -> str:
    """The call in the user's source that is under way at a place; '' where that is not known."""
    if where is None:
        return ""
    code, offset = where
    start, end, left, right = list(code.co_positions())[offset // 2]
    if start is None or end is None:
        return ""
    lines = [linecache.getline(code.co_filename, n).encode() for n in range(start, end + 1)]
    lines[-1] = lines[-1][:right]
    lines[0] = lines[0][left:]
    return b"".join(lines).decode(errors="replace")


def shown(where: Where | None) -> str:
    """'train.py:12: loss = model(x)', without the folder."""
    if where is None:
        return "somewhere"
    file = where[0].co_filename
    return os.path.basename(file) + line(where)[len(file) :]
