"""Rendering: a compiled step as Python that can be read, and run.

The text is the plan, written down: each kernel once, and a driver that calls them in the plan's order. A kernel is the
very text that is compiled, up to names and nesting: arguments have the names of the user's parameters and variables,
and a value that is used once stands where it is used.

    def kernel(a0, a1, a2, rows, ...):                        relu = kernel("float32* float32* float32*", '''
        ...                                                   def relu(x, scale, h, rows, ...):
                v0 = load_some(a0, i * columns + j, n)            ...
                v1 = load_some(a1, j, n)                →                 x_ij = load_some(x, i * columns + j, n)
                v2 = v0 * v1                                              scale_j = load_some(scale, j, n)
                v3 = maximum(v2, 0.0)                                     store_some(h, i * columns + j,
                store_some(a2, i * columns + j, v3, n)                               maximum(x_ij * scale_j, 0.0), n)

`canonical` says what a text is apart from names and nesting, so that kernels can be told apart, and compared.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes import CFUNCTYPE, c_int64, c_void_p
from functools import cached_property
from hashlib import sha256
from textwrap import wrap
from typing import Any

import numpy as np

from minigrad.compiler.elementwise import ELEMENTWISE
from minigrad.compiler.emit import SIZES, Argument, Source
from minigrad.compiler.runtime import aligned, compiled
from minigrad.compiler.schedule import Phase, Place
from minigrad.compiler.story import RESERVED, Scope, Story, identifier, in_common
from minigrad.compiler.strides import contiguous_strides
from minigrad.core.op import registry
from minigrad.kernels import matmul

WIDTH = 120
FOR_PRODUCTS = (
    "gemm",
    "panels",
    "plan",
    "scratch",
    "scratch_size",
)  # arguments that only the machinery of products needs
STRUCTURE = (*SIZES, "chunk", "thread", "i", "j", "q", "n", "c", "c_row", "i0", "i1", "j0", "j1", "LANES")

# What a value is called that is used several times, by the operation that makes it; or that operation's own name.
NOUNS = {
    "Add": "plus", "Sub": "minus", "Mult": "times", "Div": "ratio", "Pow": "raised", "USub": "minus", "Invert": "isnt",
    "exp": "e", "sqrt": "root", "where": "chosen", "IfExp": "chosen", "Compare": "holds", "maximum": "larger",
    "minimum": "smaller", "absolute": "size", "total": "row_sum", "largest": "row_max", "smallest": "row_min",
    "product_of": "row_product",
}  # fmt: skip


def source(story: Story) -> str:
    """A plan as a Python text, with the names and lines of its story.

    The function `step` of the text takes the arguments' arrays, and by name what the step captured, which it updates in
    place. It returns a list: the results, then the gradients.
    """
    return Rendering(story).text


# A kernel of a text, running


def kernel(kinds: str, text: str) -> Callable[..., None]:
    """A kernel of a rendered step, compiled as the compiler compiles its own when it is first called.

    Args:
        kinds: of the arguments, in a row: 'float32*' (an array), 'int', 'float32', ... (numbers).
        text: of one function, which does a chunk.

    Returns:
        A function of arrays and numbers that does all chunks. See `_Kernel.__call__`.

    Example:
        >>> double = kernel("float64* float64*", '''
        ... def double(x, y, rows, columns, row_step, column_step, down, chunk, thread):
        ...     LANES = lanes_of(x)
        ...     for j in range(0, columns, LANES):
        ...         v = load_some(x, j, columns - j)
        ...         store_some(y, j, v + v, columns - j)
        ... ''')
        >>> x, y = np.array([1.0, 2.0, 3.0]), np.empty(3)
        >>> double(x, y, grid=(1, 3))
        >>> y
        array([2., 4., 6.])
    """
    return _Kernel(kinds.split(), text)


class _Kernel:
    def __init__(self, kinds: list[str], text: str):
        self.kinds, self.text = kinds, text
        self.names = [a.arg for a in parsed(text).args.args][: len(kinds)]

    @cached_property
    def run(self) -> Callable[..., None]:
        """The machine code: of the address of the slots, and the numbers of the chunk and the thread."""
        address = compiled(Source(self.text, [], 1, 1), [*self.kinds, *["int"] * len(SIZES)])
        return CFUNCTYPE(None, c_void_p, c_int64, c_int64)(address)

    def __call__(
        self,
        *given: Any,
        grid: tuple[int, int],
        chunk: tuple[int, int] | None = None,
        product: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Run it, chunk by chunk.

        Args:
            given: arrays and numbers, but for what the machinery of products needs.
            grid: how many rows and columns there are.
            chunk: how many of them a chunk has; default: all.
            product: the matrices that are multiplied.
        """
        rows, columns = chunk or grid
        machinery = {} if product is None else self._machinery(product, grid, (rows, columns))
        rest = iter(given)
        values = [machinery[name] if name in machinery else next(rest) for name in self.names]
        down = -(-grid[0] // rows)
        slots = np.array([*map(_word, values), *grid, rows, columns, down], np.int64)
        for k in range(down * -(-grid[1] // columns)):
            self.run(slots.ctypes.data, k, 0)

    def _machinery(self, product: Any, grid: tuple[int, int], chunk: tuple[int, int]) -> dict[str, Any]:
        a, b = product
        strides = lambda x: (x.strides[0] * (x.shape[0] > 1), x.strides[1] * (x.shape[1] > 1))
        row = chunk[1] if "scratch" in self.names else grid[1]
        plan = matmul.plan(*grid, a.shape[1], strides(a), strides(b), a.itemsize, *chunk, c_row=row * a.itemsize)
        panels, scratch = aligned(int(plan[matmul.PANELS])), aligned(math.prod(chunk) * a.itemsize)
        memory = {"panels": panels, "scratch": scratch, "scratch_size": math.prod(chunk)}
        return {"gemm": matmul.gemm_function(a.dtype), "plan": plan, **memory}


def _word(x: Any) -> int:
    """What lies in the slot of an argument."""
    if isinstance(x, np.ndarray):
        return x.ctypes.data
    return int(np.float64(x).view(np.int64)) if isinstance(x, float) else int(x)


# What a kernel is, apart from names and nesting


def parsed(text: str) -> ast.FunctionDef:
    """The one function of a text."""
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef)
    return function


def canonical(text: str) -> tuple[Any, ...]:
    """What a kernel does: the same for two texts if and only if they are the same up to names and nesting.

    It lists what has an effect, in order. An expression is told by a hash of what it consists of, whether parts of it
    have names or not; one that reads memory also by how many effects come before it, so that it can't go past a store
    unnoticed.

    Example:
        >>> one = "def f(a, b): v = a[0]; w = v * v; put(b, 0, w)"
        >>> canonical(one) == canonical("def g(x, y): x_0 = x[0]; put(y, 0, x_0 * x_0)")
        True
        >>> canonical(one) == canonical("def g(x, y): put(y, 0, x[0] + x[0])")
        False
    """
    return tuple(_Canonical(parsed(text)).done)


class _Canonical:
    def __init__(self, function: ast.FunctionDef):
        self.effects = self.loops = 0
        self.done: list[Any] = []
        self.block(function.body, {a.arg: f"argument {k}" for k, a in enumerate(function.args.args)})

    def told(self, e: ast.expr, env: Mapping[str, str]) -> str:
        """What stands for an expression; env has that for names."""
        match e:
            case ast.Name(id):
                return env.get(id, f"word {id}")
            case ast.Constant(value):
                return f"constant {value!r}"
        parts = [self.told(x, env) if isinstance(x, ast.expr) else type(x).__name__ for x in ast.iter_child_nodes(e)]
        if _read(e, within=False):
            parts.append(f"after {self.effects}")
        return sha256(" ".join([type(e).__name__, *map(repr, parts)]).encode()).hexdigest()

    def block(self, statements: Sequence[ast.stmt], env: dict[str, str]) -> None:
        for s in statements:
            match s:
                case ast.Assign([ast.Name(id)], value):
                    env[id] = self.told(value, env)
                case ast.For(ast.Name(id), iterated, body):
                    self.loop(id, self.told(iterated, env), body, env)
                case ast.Expr(value):
                    self.done.append(self.told(value, env))
                    self.effects += 1
                case _:
                    raise ValueError(f"no statement of a kernel: {ast.unparse(s)}")

    def loop(self, index: str, iterated: str, body: Sequence[ast.stmt], env: dict[str, str]) -> None:
        """What was there before and changes in the loop is told by its place among those of its kind."""
        stored = [x.id for s in body for x in ast.walk(s) if isinstance(x, ast.Name) and isinstance(x.ctx, ast.Store)]
        carried = [name for name in dict.fromkeys(stored) if name in env and name != index]
        self.loops += 1
        this, outside, before = self.loops, self.done, [env[name] for name in carried]
        inside = env | {name: f"carried {this} {k}" for k, name in enumerate(carried)} | {index: f"index {this}"}
        self.done = []
        self.block(body, inside)
        after = [inside[name] for name in carried]
        self.done = [*outside, ("for", iterated, tuple(before), tuple(self.done), tuple(after))]
        env.update((name, f"after {this} {k}") for k, name in enumerate(carried))


# A kernel's text, for people


class KernelText:
    """A kernel with telling names, and with values that are used once where they are used.

    Args:
        text: the compiled one, whose values are v0, v1, ..., each assigned once.
        title: the name of the function.
        names: of the arguments, by what they are in the text.
        product: the name of what the product is, if there is one.
    """

    def __init__(self, text: str, title: str, names: Mapping[str, str], product: str = "product"):
        self.function = parsed(text)
        self.function.name = title
        self.renamed = {**names, "c": product}
        words = {x.id for x in ast.walk(self.function) if isinstance(x, ast.Name)} - set(names)
        self.taken = [*names.values(), *STRUCTURE, *words]
        stored = {value: f"{names[memory]}{_suffix(at)}" for memory, at, value in self._stores() if memory in names}
        wishes: dict[str, str] = {}  # of v0, v1, ..., and of what is collected over a row, and over all
        for s in _statements(self.function.body):
            if isinstance(s, ast.Assign) and (match := re.fullmatch(r"(v|all|row)\d+", name := _target(s))):
                wishes.setdefault(
                    name, self._wish(s.value, stored.get(name)) if match[1] == "v" else f"over_{match[1]}"
                )
        del self.renamed["c"]
        values = self._rename(wishes)
        self.values = {new for old, new in values.items() if old[0] == "v"}
        self.carried = set(values.values()) - self.values
        self._nest(self.function.body, 1)
        left = set(_names(self.function))
        self.renamed = {}
        self._rename({new: wishes[old] for old, new in values.items() if new in left})

    def _rename(self, wishes: Mapping[str, str]) -> dict[str, str]:
        """Rename arguments, and values as they wish; returns the names of those."""
        scope = Scope(self.taken)
        values = {name: scope.new(wish) for name, wish in wishes.items()}
        names = {**self.renamed, **values}
        for x in ast.walk(self.function):
            if isinstance(x, ast.arg):
                x.arg = names.get(x.arg, x.arg)
            elif isinstance(x, ast.Name):
                x.id = names.get(x.id, x.id)
        return values

    def _stores(self) -> Iterator[tuple[str, ast.expr, str]]:
        """The memory, the place and the name of each value that is stored."""
        for x in ast.walk(self.function):
            match x:
                case ast.Call(ast.Name("store_some" | "put"), [ast.Name(memory), at, ast.Name(value), *_]):
                    yield memory, at, value

    def _wish(self, value: ast.expr, stored: str | None) -> str:
        """What a value is to be called: after what is read or stored, or after the operation."""
        match _read(value):
            case ast.Call(ast.Name(word), [ast.Name(memory), *_]) if word.startswith("together"):
                return f"{self.renamed.get(memory, memory).removesuffix('_parts')}_sum"
            case ast.Call(_, [ast.Name(memory), at, *_]) | ast.Subscript(ast.Name(memory), at):
                return f"{self.renamed.get(memory, memory)}{_suffix(at)}"
        operation = _operation(value)
        return stored or NOUNS.get(operation, f"{operation.lower()}_of")

    def _nest(self, block: list[ast.stmt], depth: int) -> None:
        """Write values where they are used, if that is once, in the same block. What reads memory stays."""
        for s in block:
            if isinstance(s, ast.For):
                self._nest(s.body, depth + 1)
        at = 0
        while at < len(block):
            s, at = block[at], at + 1
            if not isinstance(s, ast.Assign) or _target(s) not in self.values or not self._may_move(s.value):
                continue
            name = _target(s)
            users = [k for k, t in enumerate(block) if name in _names(t)]
            if (
                len(users) == 1
                and not isinstance(block[users[0]], ast.For)
                and _names(block[users[0]]).count(name) == 1
            ):
                nested = _Nesting(name, s.value).visit(parsed_statement(block[users[0]]))
                if 4 * depth + len(ast.unparse(nested)) <= WIDTH - 10:
                    block[users[0]] = nested
                    at -= 1
                    del block[at]

    def _may_move(self, value: ast.expr) -> bool:
        simple = isinstance(value, (ast.Constant, ast.Name))
        return not simple and not self.carried.intersection(_names(value)) and _read(value) is None

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        """As Python writes them; what begins a chunk on two lines, long lines broken."""
        yield from broken(f"def {self.function.name}(", [a.arg for a in self.function.args.args], "):")
        body = self.function.body
        begin = {_target(s): ast.unparse(s) for s in body[:4] if isinstance(s, ast.Assign)}
        if list(begin) == ["i0", "i1", "j0", "j1"]:
            body = body[4:]
            yield f"    {begin['i0']}; {begin['i1']}  # the rows of this chunk"
            yield f"    {begin['j0']}; {begin['j1']}  # and its columns"
        for s, depth in _indented(body):
            indent = "    " * depth
            if isinstance(s, ast.For):
                yield f"{indent}for {ast.unparse(s.target)} in {ast.unparse(s.iter)}:"
            elif isinstance(s, ast.Expr) and isinstance(s.value, ast.Call):
                items = list(map(ast.unparse, s.value.args))
                yield from broken(f"{indent}{ast.unparse(s.value.func)}(", items, ")")
            elif isinstance(s, ast.Assign) and isinstance(s.value, ast.Call):
                items = list(map(ast.unparse, s.value.args))
                yield from broken(f"{indent}{_target(s)} = {ast.unparse(s.value.func)}(", items, ")")
            elif isinstance(s, ast.Assign):
                yield from broken(f"{indent}{_target(s)} = ", [ast.unparse(s.value)], "")


class _Nesting(ast.NodeTransformer):
    """Puts a value in the place of its name."""

    def __init__(self, name: str, value: ast.expr):
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.value if node.id == self.name else node


def parsed_statement(s: ast.stmt) -> ast.stmt:
    """A copy of a statement."""
    return ast.parse(ast.unparse(s)).body[0]


def _target(s: ast.Assign) -> str:
    (target,) = s.targets
    assert isinstance(target, ast.Name)
    return target.id


def _names(x: ast.AST) -> list[str]:
    """The names that are read, each as often as it is."""
    return [n.id for n in ast.walk(x) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]


def _indented(body: Sequence[ast.stmt], depth: int = 1) -> Iterator[tuple[ast.stmt, int]]:
    """Statements, also those in loops, and how deep they stand."""
    for s in body:
        yield s, depth
        if isinstance(s, ast.For):
            yield from _indented(s.body, depth + 1)


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    return (s for s, _ in _indented(body))


def _operation(e: ast.expr) -> str:
    """The name of the operation that makes a value, dtypes and copies in all lanes aside."""
    match e:
        case ast.Call(ast.Name("float32" | "float64" | "filled"), [*_, value]) if not isinstance(value, ast.Constant):
            return _operation(value)
        case ast.Call(ast.Name(name)):
            return name
        case ast.BinOp(op=op) | ast.UnaryOp(op=op):
            return type(op).__name__
    return type(e).__name__


def _read(e: ast.expr, within: bool = True) -> ast.expr | None:
    """The part of an expression that reads memory; not `within`: the expression, if it does so itself."""
    for x in ast.walk(e) if within else (e,):
        match x:
            case ast.Subscript():
                return x
            case ast.Call(ast.Name(word)) if word.startswith(("load", "together")):
                return x
    return None


def _suffix(at: ast.expr) -> str:
    """'_ij', '_i', '_j', or '_0' where neither the row nor the column matters."""
    loops = {x.id[0] for x in ast.walk(at) if isinstance(x, ast.Name) and re.fullmatch(r"[ijq](_\d)?", x.id)}
    return f"_{''.join(sorted(loops)) or '0'}"


def broken(head: str, items: Sequence[str], tail: str) -> Iterator[str]:
    """'head a, b, c tail', on as many lines as it takes; in parentheses if there is no tail."""
    whole = head + ", ".join(items) + tail
    if len(whole) <= WIDTH:
        yield whole
        return
    indent = head[: len(head) - len(head.lstrip())]
    yield head if tail else f"{head}("
    row = f"{indent}   "
    for item in items:
        if len(row) + len(item) + 2 > WIDTH and row.strip():
            yield row
            row = f"{indent}   "
        row += f" {item}," if tail else f" {item}"
    yield row
    yield indent + (tail or ")")


# The whole text

LEGEND = """`step` calls the kernels, which stand below it, in order. What is named twice in a call is updated in place.
A kernel does one chunk of a grid of rows and columns, in vectors of LANES columns: x_ij is what array x has in row i \
and columns j, j + 1, ..., x_j what all rows share. `product` multiplies two matrices, into c; the loops after it work \
on the result while that is in a near cache. `float32(...)` rounds, `put` and `store_some` write.
"""


class Rendering:
    """A plan as a text.

    Attributes:
        text: all of it.
        groups: the phases of each distinct kernel.
        given: for each argument of the text's `step` the place of what it is, or the thing itself.
    """

    def __init__(self, story: Story):
        self.story, self.plan, self.graph = story, story.plan, story.graph
        self.scope = Scope([*RESERVED, *story.given.values(), *story.names.values()])
        self.titles: dict[int, str] = {}
        self.groups = self._groups()
        self.given: dict[str, Any] = {name: place for place, name in story.given.items()}
        self.imports = {"from minigrad.compiler.render import kernel"} if self.groups else set()
        kernels = [line for group in self.groups for line in self._kernel(group)]
        driver = list(self._driver())
        self.text = "\n".join([*self._header(), *driver, *kernels, ""])

    def kinds(self, phase: Phase) -> list[str]:
        """Of the arguments of a kernel, but for the sizes."""
        assert phase.source is not None
        dtype = lambda a: self.graph.nodes[a.what].dtype
        return [f"{dtype(a)}*" if a.kind == "memory" else a.kind for a in phase.source.arguments]

    def _groups(self) -> list[list[Phase]]:
        groups: dict[Any, list[Phase]] = {}
        for phase in self.plan.phases:
            if phase.source is not None:
                groups.setdefault((canonical(phase.source.text), *self.kinds(phase)), []).append(phase)
        for phases in groups.values():
            title = self.scope.new(self.story.title(phases[0]))
            self.titles |= {id(phase): title for phase in phases}
        return list(groups.values())

    def title(self, phase: Phase) -> str:
        """What a kernel, or an operation that is called, is called in the text."""
        call = self.story.kernel(phase).call
        return self.titles[id(phase)] if call is None else self.graph.calls[call].op.name

    # Kernels

    def _kernel(self, group: list[Phase]) -> Iterator[str]:
        phase = group[0]
        assert phase.source is not None
        product = "product"
        if self.story.kernel(phase).product is not None:
            product = in_common([self.story.product_name(p) for p in group])
        text = KernelText(phase.source.text, self.title(phase), self._argument_names(group), product)
        made = [self.story.name(self.story.stores(p)[-1]) or "" for p in group]
        comment = f"# for {', '.join(made)}" if len(group) > 1 else ""
        yield from ["", ""]
        if comment:
            yield comment if len(comment) <= WIDTH else f"{comment[: WIDTH - 3]}..."
        head, kinds = f"{self.title(phase)} = kernel(", " ".join(self.kinds(phase))
        if len(head) + len(kinds) + 7 <= WIDTH:
            yield f'{head}"{kinds}", """'
        else:
            rows = wrap(kinds, WIDTH - 12)
            yield from [head, *(f'    "{row} "' for row in rows[:-1]), f'    "{rows[-1]}", """']
        yield from str(text).split("\n")
        yield '""")'

    def _argument_names(self, group: list[Phase]) -> dict[str, str]:
        """What the arguments of a kernel are called, after what they are in all of its uses."""
        sources = [phase.source for phase in group if phase.source is not None]
        words = {x.id for x in ast.walk(parsed(sources[0].text)) if isinstance(x, ast.Name)}
        scope = Scope([*STRUCTURE, *(words - {a.name for a in sources[0].arguments})])
        names: dict[str, str] = {}
        for k, argument in enumerate(sources[0].arguments):
            if argument.name in FOR_PRODUCTS:
                names[argument.name] = argument.name
            elif argument.kind == "memory":
                uses = [self.story.name(s.arguments[k].what) or "memory" for s in sources]
                updated = (
                    argument.what in self.story.stores(group[0]) and self.story.place(argument.what).kind == "state"
                )
                new = "_new" * updated
                names[argument.name] = scope.new(in_common(uses) + new, uses[0] + new)
            else:
                names[argument.name] = scope.new(self._number_name(argument, group[0]))
        return names

    def _number_name(self, argument: Argument, phase: Phase) -> str:
        """What a number is called: after the parameter of the user's operation that it is."""
        if isinstance(argument.what, tuple):
            return "parts"
        if argument.kind == "int":
            return "stride"
        for k in self.story.entries(phase):
            for name, value in self.story.numbers[k].items():
                for wish, number in ((name, value), (f"one_minus_{name}", 1 - value), (f"minus_{name}", -value)):
                    if np.float32(number) == np.float32(argument.what):
                        return identifier(wish)
        return "number"

    # The driver

    def _header(self) -> Iterator[str]:
        kernels = len(self.titles)
        called = len(self.plan.phases) - kernels
        told = (
            f"A compiled step: {self.story.recorded} operations were recorded. What they compute takes "
            f"{count_of(self)} elementary ones, in {kernels} kernels, {len(self.groups)} of them different, and "
            f"{called} calls of whole operations.\n{LEGEND}"
        )
        yield from (f"# {row}" for paragraph in told.split("\n") for row in wrap(paragraph, WIDTH - 2))
        yield ""
        yield "import numpy as np"
        yield ""
        yield from sorted(self.imports)

    def _driver(self) -> Iterator[str]:
        body = list(self._body())
        inputs = [name for name, x in self.given.items() if isinstance(x, Place) and x.kind == "input"]
        others = [name for name in self.given if name not in inputs]
        yield from ["", ""]
        if any(p.source is None for p in self.plan.phases):
            yield '@np.errstate(all="ignore")'
        yield from broken("def step(", [*inputs, *(["*"] if others else []), *others], "):")
        yield from body

    def _body(self) -> Iterator[str]:
        for phase in self.plan.phases:
            lines = self.story.lines(phase)
            more = [f"and {len(lines) - 3} more lines"] if len(lines) > 4 else lines[3:]
            for text in [*lines[:3], *more, *(f"    {f}" for f in self.story.formulas(phase))]:
                comment = f"    # {text}"
                yield comment if len(comment) <= WIDTH else f"{comment[: WIDTH - 3]}..."
            for i in self.story.stores(phase):
                if i in self.story.names and self.story.place(i).kind != "returned":
                    node = self.graph.nodes[i]
                    shape = (self.plan.partials[i],) if i in self.plan.partials else node.shape
                    yield f"    {self.story.names[i]} = np.empty({shape}, np.{node.dtype.name})"
            yield from self._call(phase) if phase.source is None else self._launch(phase)
            yield ""
        results = sorted((place.k, i) for i, place in self.plan.places.items() if place.kind == "result")
        yield from broken("    return [", [self.story.names[i] for _, i in results], "]")

    def _launch(self, phase: Phase) -> Iterator[str]:
        """The call of a kernel."""
        source, product = phase.source, self.story.kernel(phase).product
        assert source is not None
        given = [self._given(a) for a in source.arguments if a.name not in FOR_PRODUCTS]
        if product is not None:
            a, b = self.graph.nodes[product].inputs
            inner = self.graph.nodes[a].shape[-1]
            given.append(f"product=({self._matrix(a, source.rows, inner)}, {self._matrix(b, inner, source.columns)})")
        given.append(f"grid=({source.rows}, {source.columns})")
        if phase.chunks > 1:
            given.append(f"chunk=({phase.row_step}, {phase.column_step})")
        yield from broken(f"    {self.title(phase)}(", given, ")")

    def _given(self, a: Argument) -> str:
        if a.kind == "memory":
            return f"{self.story.name(a.what)}.reshape(-1)[{a.offset}:]" if a.offset else f"{self.story.name(a.what)}"
        number = self.plan.partials[a.what[1]] if isinstance(a.what, tuple) else a.what
        return literal(float(str(np.float32(number))) if a.kind == "float32" else number)

    def _matrix(self, j: int, rows: int, columns: int) -> str:
        """An operand of a product."""
        _, strides, offset = self.graph.layout(j)
        return self._view(j, (rows, columns), strides[-2:], offset)

    def _view(self, j: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> str:
        """Elements of what lies in memory below a node, as NumPy says it."""
        base = self.graph.nodes[self.graph.base(j)]
        if base.op == "literal":
            return f"np.broadcast_to(np.{base.dtype.name}({literal(base.params[0])}), {shape})"
        name = self.story.name(self.graph.base(j))
        strides = tuple(s if n > 1 else 0 for n, s in zip(shape, strides, strict=True))
        if offset == 0 and math.prod(shape) == math.prod(base.shape):
            if strides == contiguous_strides(shape):
                return f"{name}" if shape == base.shape else f"{name}.reshape({shape})"
            if strides == contiguous_strides(shape[::-1])[::-1]:
                return f"{name}.T" if shape[::-1] == base.shape else f"{name}.reshape({shape[::-1]}).T"
        self.imports.add("from minigrad.compiler.strides import strided")
        return f"strided({name}, {shape}, {strides}, {offset})"

    def _call(self, phase: Phase) -> Iterator[str]:
        """The call of a whole operation."""
        number = self.story.kernel(phase).call
        assert number is not None
        call, stored = self.graph.calls[number], self.story.stores(phase)
        given = [self._view(j, *self.graph.layout(j)) for j in self.graph.nodes[number].inputs]
        for position, x in sorted(call.numbers.items()):
            given.insert(position, self._parameter(f"{call.op.name}_{position}", x))
        given += [f"{name}={self._parameter(f'{call.op.name}_{name}', x)}" for name, x in call.params.items()]
        if registry.get(call.op.name) is call.op:
            self.imports.add("from minigrad.core.op import registry")
            run = f'registry["{call.op.name}"].run('
        else:
            run = f"{self._argument(call.op.name, call.op)}.run("
        one = len(self.graph.outputs[number]) == 1
        yield from broken(f"    {'output' if one else 'outputs'} = {run}", given, ")")
        for i in stored:
            output = "output" if one else f"outputs[{self.graph.nodes[i].params[0]}]"
            if self.story.place(i).kind == "returned":
                yield f"    {self.story.name(i)} = np.ascontiguousarray({output})"
            else:
                yield f"    {self.story.name(i)}[...] = {output}"

    def _parameter(self, name: str, x: Any) -> str:
        """A parameter of an operation: as Python writes it, else as an argument of the step."""
        try:
            return literal(x)
        except ValueError:
            return self._argument(name, x)

    def _argument(self, name: str, x: Any) -> str:
        name = self.scope.new(identifier(name))
        self.given[name] = x
        return name


def count_of(rendering: Rendering) -> int:
    """How many operations of the graph are computed, each once."""
    graph, fused = rendering.graph, rendering.plan.fused
    counted = (*ELEMENTWISE, "reduce", "matmul", "copy", "call")
    return sum(graph.nodes[i].op in counted for i in graph.live(fused.wanted))


def literal(x: Any) -> str:
    """What Python reads as x again.

    Raises:
        ValueError: there is no such text.

    Example:
        >>> literal((1.5, slice(None, 3), np.dtype("float32"), float("inf")))
        '(1.5, slice(None, 3, None), np.dtype("float32"), float("inf"))'
    """
    match x:
        case tuple() if type(x) is tuple:
            return f"({', '.join(map(literal, x))}{',' * (len(x) == 1)})"
        case list():
            return f"[{', '.join(map(literal, x))}]"
        case slice():
            return f"slice({literal(x.start)}, {literal(x.stop)}, {literal(x.step)})"
        case np.dtype():
            return f'np.dtype("{x.name}")'
        case np.generic():
            return f"np.{x.dtype.name}({literal(x.item())})"
        case float() if not math.isfinite(x):
            return f'float("{x}")'
        case None | bool() | int() | float() | str():
            return repr(x)
    if x is ...:
        return "..."
    if isinstance(x, type) and issubclass(x, np.generic):
        return f"np.{x.__name__}"
    raise ValueError(f"{type(x).__name__} has no text")
