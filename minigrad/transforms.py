"""Functions of functions: grad, value_and_grad, vjp, jvp, jacobian, hessian, hvp, stop_gradient.

Each runs the function once and records it, on aliases of the arguments: an alias is the same array on a node of its
own, which needs a gradient whatever the argument says. The derivative stops at the aliases, so nested derivatives never
mix up their levels: to the inner one, what the outer one differentiates is a constant. To the outer one an alias is one
more operation, the identity, through which gradients flow to the argument. The derivative itself is recorded only if
somebody outside may ask for its derivative in turn (`_Run.flows`); else the rules run on bare arrays.

Reverse mode is `core.backward`, forward mode is `pushforward`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from operator import index
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.arrays import frozen
from minigrad.core.backward import backward
from minigrad.core.mode import changed, grad_enabled
from minigrad.core.node import Leaf, birth
from minigrad.core.op import Op
from minigrad.core.value import Value
from minigrad.graph import AnyNode, leading_to
from minigrad.ops.manipulation import reshape, stack
from minigrad.pushforward import pushforward
from minigrad.tape import pass_begins
from minigrad.tensor import Tensor

__all__ = [
    "grad", "hessian", "hvp", "jacobian", "jvp", "stop_gradient", "value_and_grad", "vjp",
]  # fmt: skip

alias = Op("alias", lambda x: x.view(), vjp={"x": lambda g: g}, kind="linear", formula="y = x,  x̄ = ȳ")


# What all of them share


def _differentiable(x: Any) -> bool:
    return isinstance(x, Value) and x.array.dtype.kind == "f"


def _needs_gradient(x: Any) -> bool:
    return isinstance(x, Value) and x.node is not None and x.node.requires_grad


def _tensor(x: Any) -> Any:
    """A leaf as a Tensor."""
    return x if isinstance(x, Value) else Tensor(x)


class _Argument:
    """One argument that is differentiated: its leaves, each with an alias (integer leaves are constants: None)."""

    def __init__(self, tree: Any, nested: bool, what: str):
        leaves, self.rebuild = trees.flatten(tree, floats=True)
        self.leaves = [x if isinstance(x, np.ndarray) and x.dtype.kind != "f" else _tensor(x) for x in leaves]
        self.through = nested and any(_needs_gradient(x) for x in self.leaves)
        self.aliases = [_alias(x, nested) if _differentiable(x) else None for x in self.leaves]
        if all(a is None for a in self.aliases):
            hint = " (write 3.0 instead of 3)" if isinstance(tree, int) else ""
            raise TypeError(
                f"{what} is a {type(tree).__name__} without any floating-point tensor, array or float to differentiate "
                f"with respect to{hint}"
            )

    def inside(self) -> Any:
        """What the function receives in place of the argument."""
        return self.rebuild([x if a is None else a for x, a in zip(self.leaves, self.aliases, strict=True)])

    def result(self, derivative: Callable[[Any], Any], zeros: Callable[[Any], Any]) -> Any:
        """A tree of the argument's structure: derivative(alias) where it is differentiated, zeros(leaf) elsewhere."""
        return self.rebuild(
            [zeros(x) if a is None else derivative(a) for x, a in zip(self.leaves, self.aliases, strict=True)]
        )


def _alias(x: Any, nested: bool) -> Any:
    """The same array on a fresh node, through which gradients flow to `x` if it is nested in another derivative."""
    with changed(grad=True):
        return alias(x if nested and _needs_gradient(x) else Tensor.wrap(x.array, Leaf(x.array, True)))


def _zeros(x: Any, before: tuple[int, ...] = ()) -> Any:
    """Zeros of a leaf's shape, after the axes `before`, and dtype."""
    array = x.array if isinstance(x, Value) else x
    return _wrapped(np.zeros(before + array.shape, array.dtype))


def _wrapped(x: Any) -> Any:
    """A result as a Tensor. An array that is a view of another is copied, so that it keeps no other alive."""
    if isinstance(x, Value):
        return x
    x = np.array(x) if x.base is not None else x
    x.setflags(write=False)
    return Tensor.wrap(x)


class _Run:
    """One recorded call of a function on aliases of the arguments that are differentiated.

    Args:
        f: the function; has_aux: it returns a pair, whose second is not differentiated.
        args: all its positional arguments, and which of them are differentiated.
        name: of the transform, for errors.
    """

    def __init__(
        self, name: str, f: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], nums: Sequence[int],
        has_aux: bool = False,
    ):  # fmt: skip
        if not nums:
            raise ValueError(f"{name}: there is no argument to differentiate with respect to")
        self.name = name
        self.start = birth()  # nodes of the run are born after it: theirs are lower
        self.nested = grad_enabled()
        self.arguments = {n: _Argument(args[n], self.nested, f"{name}: argument {n}") for n in nums}
        self.aliases = [a for argument in self.arguments.values() for a in argument.aliases if a is not None]
        self.targets = [a.node for a in self.aliases]
        inside = [self.arguments[n].inside() if n in self.arguments else x for n, x in enumerate(args)]
        with changed(grad=True):
            y = f(*inside, **kwargs)
        aux = None
        if has_aux:
            if not isinstance(y, tuple) or len(y) != 2:
                raise TypeError(f"{name} with has_aux=True: the function must return (result, aux), not {y!r:.80}")
            y, aux = y
        outputs, self.rebuild = trees.matched(y, floats=True, ties=False)
        self.outputs = [_tensor(x) for (x,) in outputs]
        self.roots = [x.node for x in self.outputs if x.node is not None]
        self.wanted, self.flows = self._reach(self.roots)
        self.aux, self.aux_flows = self._outward(aux)

    def _reach(self, roots: list[Any]) -> tuple[set[AnyNode], bool]:
        """The nodes between aliases and roots; and whether a derivative may be asked for of what flows through them."""
        wanted, others = leading_to(roots, self.targets)
        through = any(argument.through for argument in self.arguments.values())
        return wanted, self.nested and (others or through)

    def _outward(self, aux: Any) -> tuple[Any, bool]:
        """What is returned beside the result, with history only if it may be of use outside."""
        leaves, rebuild = trees.flatten(aux)
        flows = self._reach([x.node for x in leaves if isinstance(x, Value) and x.node is not None])[1]
        return (aux, True) if flows else (rebuild([self._without_history(x) for x in leaves]), False)

    def _without_history(self, x: Any) -> Any:
        """The value of a leaf that the run has made; what was there before stays as it is."""
        made = isinstance(x, Value) and x.node is not None and x.node.birth < self.start
        return Tensor.wrap(x.array) if made else x

    def value(self) -> Any:
        """The result of the function, with history only if it may be of use outside."""
        return self.rebuild([x if self.flows else self._without_history(x) for x in self.outputs])

    def pull(self, cotangents: Sequence[Any], keep: bool, recorded: bool) -> dict[AnyNode, Any]:
        """The cotangents of the aliases from those of the outputs (arrays, or Tensors; None for zero)."""
        roots = [
            (y.node, g.array if isinstance(g, Value) and not recorded else g)
            for y, g in zip(self.outputs, cotangents, strict=True)
            if g is not None and y.node in self.wanted and _differentiable(y)
        ]
        pass_begins()
        return backward(
            roots, Tensor, targets=self.targets, wanted=self.wanted, retain_graph=keep, create_graph=recorded
        )

    def gradients(self, argument: _Argument, reached: dict[AnyNode, Any]) -> Any:
        """What the aliases of an argument received, in its structure."""
        return argument.result(lambda a: _wrapped(reached[a.node]) if a.node in reached else _zeros(a), _zeros)

    def push(self, tangents: dict[AnyNode, Any], recorded: bool) -> list[Any]:
        """The tangents of the outputs from those of the aliases."""
        after = pushforward(self.wanted, self.targets, tangents, recorded)
        return [after.get(y.node) for y in self.outputs]


def _given(name: str, x: Any, like: Any, where: str) -> Any:
    """A cotangent or tangent as a Tensor or array, after a check that it fits."""
    array = like.array
    given = x.array if isinstance(x, Value) else x if isinstance(x, np.ndarray) else np.asarray(x, array.dtype)
    if given.shape != array.shape or given.dtype != array.dtype:
        hint = "" if given.dtype == array.dtype else ": convert it with astype"
        raise ValueError(
            f"{name}: the {where} of a {array.dtype} {array.shape} must have this dtype and shape, "
            f"not {given.dtype} {given.shape}{hint}"
        )
    return x if isinstance(x, Value) else frozen(given)


def _numbers(name: str, argnums: int | Sequence[int], args: Sequence[Any]) -> list[int]:
    """The positions of the differentiated arguments, after a check that there are such."""
    try:
        numbers = [index(n) for n in (argnums if isinstance(argnums, (tuple, list)) else (argnums,))]
    except TypeError:
        raise TypeError(f"{name}: argnums is a position or a tuple of positions, not {argnums!r}") from None
    for n in numbers:
        if not -len(args) <= n < len(args):
            raise ValueError(
                f"{name}: argnums has {n}, but the function was called with {len(args)} positional arguments"
            )
    return [n % len(args) for n in numbers]


def _in_structure(argnums: int | Sequence[int], results: list[Any]) -> Any:
    return tuple(results) if isinstance(argnums, (tuple, list)) else results[0]


# Reverse mode


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """The function that returns the value of `f`, a scalar, and its gradient, in one pass forward and one backward.

    Args:
        f: returns a 0-d floating-point Tensor.
        argnums: the positional argument that the gradient is with respect to, or a tuple of them. They may be any
            trees; each Tensor, array or Python float in them is differentiated, whether it requires a gradient or not.
            Integer leaves are constants. An argument that comes in twice counts as two.
        has_aux: `f` returns (value, aux), and aux is passed through.

    Returns:
        A function of the same arguments that returns (value, gradient), or ((value, aux), gradient). The gradient has
        the structure of the argument, Tensors for leaves (zeros for integers); a tuple of them for a tuple of argnums.
        Values and gradients carry history only if they are computed within another derivative, or from tensors that
        require a gradient, and recording is on.

    Raises:
        ValueError: the value is no scalar, or argnums is out of range.
        TypeError: the value is not floating-point, or there is nothing to differentiate with respect to.

    Example:
        >>> import minigrad as mg
        >>> mg.value_and_grad(lambda p: (p["w"] * p["w"]).sum())({"w": mg.Tensor([1.0, 2.0])})
        (Tensor(5.), {'w': Tensor([2., 4.])})
    """

    @wraps(f, updated=())
    def transformed(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers("grad", argnums, args)
        run = _Run("grad", f, args, kwargs, numbers, has_aux)
        y = _scalar(run)
        reached = run.pull([np.ones((), y.array.dtype)], keep=run.flows or run.aux_flows, recorded=run.flows)
        result = _in_structure(argnums, [run.gradients(run.arguments[n], reached) for n in numbers])
        value = run.value()
        return ((value, run.aux), result) if has_aux else (value, result)

    return transformed


def _scalar(run: _Run) -> Any:
    """The one output of a function whose gradient is wanted."""
    y = run.value()
    if not isinstance(y, Value):
        raise TypeError(f"{run.name} needs a function that returns a scalar Tensor, not {type(y).__name__}: see vjp")
    if y.array.shape != ():
        raise ValueError(
            f"{run.name} needs a function that returns a scalar, not a Tensor of shape {y.array.shape}: "
            "reduce it with sum() or mean(), or see vjp and jacobian"
        )
    if not _differentiable(y):
        raise TypeError(f"{run.name} needs a function that returns a floating-point scalar, not {y.array.dtype}")
    return y


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """The function that returns the gradient of `f`: see `value_and_grad` for arguments and errors.

    Returns:
        A function of the same arguments that returns the gradient, or (gradient, aux).

    Example:
        >>> import minigrad as mg
        >>> mg.grad(mg.grad(mg.sin))(0.5), -mg.sin(0.5)
        (Tensor(-0.47942554), np.float64(-0.47942554))
    """
    both = value_and_grad(f, argnums, has_aux)

    @wraps(f, updated=())
    def transformed(*args: Any, **kwargs: Any) -> Any:
        value, gradient = both(*args, **kwargs)
        return (gradient, value[1]) if has_aux else gradient

    return transformed


def vjp(f: Callable[..., Any], *xs: Any, has_aux: bool = False) -> Any:
    """The value of `f` and its pullback, the function from cotangents of the value to cotangents of the arguments.

    Args:
        f: takes and returns trees.
        xs: where to differentiate it: trees of Tensors, arrays, floats.
        has_aux: `f` returns (value, aux), and aux is passed through.

    Returns:
        (value, pullback), or (value, pullback, aux). The pullback takes a tree of the value's structure, with its
        shapes and dtypes, and returns a tuple of one cotangent an argument. It can be called any number of times.

    Raises:
        ValueError: a cotangent of another structure, shape or dtype.
        TypeError: an argument without floating-point leaves.

    Example:
        >>> import minigrad as mg
        >>> y, pullback = mg.vjp(lambda a, b: a * b, mg.Tensor([1.0, 2.0]), mg.Tensor([3.0, 4.0]))
        >>> y, pullback(mg.Tensor([1.0, 10.0]))
        (Tensor([3., 8.]), (Tensor([ 3., 40.]), Tensor([ 1., 20.])))
    """
    run = _Run("vjp", f, xs, {}, range(len(xs)), has_aux)
    value = run.value()

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        pairs, _ = trees.matched(value, cotangent)
        given = [
            _given("vjp", g, y, "cotangent") if _differentiable(y) else None
            for y, (_, g) in zip(run.outputs, pairs, strict=True)
        ]
        recorded = grad_enabled() and (run.flows or any(map(_needs_gradient, given)))
        reached = run.pull(given, keep=True, recorded=recorded)
        return tuple(run.gradients(argument, reached) for argument in run.arguments.values())

    return (value, pullback, run.aux) if has_aux else (value, pullback)


# Forward mode


def jvp(f: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """The value of `f` and its derivative along tangents.

    Args:
        f: takes and returns trees.
        primals: its arguments: a tuple of trees of Tensors, arrays, floats.
        tangents: the direction, of the structure, shapes and dtypes of the primals.

    Returns:
        The value, and its tangent of the same structure: Σ ∂f/∂x ẋ over the arguments.

    Raises:
        ValueError: a tangent of another structure, shape or dtype.
        TypeError: primals is no tuple or list, or has an argument without floating-point leaves.

    Example:
        >>> import minigrad as mg
        >>> mg.jvp(lambda a, b: a * b, (mg.Tensor([1.0, 2.0]), 3.0), (mg.Tensor([1.0, 0.0]), 1.0))
        (Tensor([3., 6.]), Tensor([4., 2.]))
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise TypeError("jvp: primals and tangents are tuples with one item an argument: jvp(f, (x,), (v,))")
    if len(primals) != len(tangents):
        raise ValueError(f"jvp: {len(primals)} primals need as many tangents, not {len(tangents)}")
    given = [_tangents(x, v) for x, v in zip(primals, tangents, strict=True)]
    run = _Run("jvp", f, primals, {}, range(len(primals)))
    by_node = {
        a.node: v
        for argument, vs in zip(run.arguments.values(), given, strict=True)
        for a, v in zip(argument.aliases, vs, strict=True)
        if a is not None
    }
    recorded = grad_enabled() and (run.flows or any(map(_needs_gradient, by_node.values())))
    after = run.push(by_node, recorded)
    dots = [_zeros(y) if v is None else _wrapped(v) for y, v in zip(run.outputs, after, strict=True)]
    return run.value(), run.rebuild(dots)


def _tangents(primal: Any, tangent: Any) -> list[Any]:
    """The tangents of the leaves of an argument; None for integers."""
    pairs, _ = trees.matched(primal, tangent, floats=True)
    tensors = [(_tensor(x), v) for x, v in pairs]
    return [_given("jvp", v, x, "tangent") if _differentiable(x) else None for x, v in tensors]


# Second order


def jacobian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The function that returns the Jacobian of `f`: for an output y and an input x an array of y.shape + x.shape.

    The function runs once; then there is one pass for each entry of the smaller side: backward for an entry of the
    output, forward for one of the input.

    Args:
        f: takes and returns trees.
        argnums: the positional argument to differentiate with respect to, or a tuple of them.

    Returns:
        A function of the same arguments. For trees: the structure of the output, with a tree of the structure of the
        input in place of each leaf.

    Raises:
        ValueError: argnums is out of range.
        TypeError: there is nothing to differentiate with respect to.

    Example:
        >>> import minigrad as mg
        >>> mg.jacobian(lambda x: x * x)(mg.Tensor([1.0, 2.0]))
        Tensor([[2., 0.],
                [0., 4.]])
    """

    @wraps(f, updated=())
    def transformed(*args: Any, **kwargs: Any) -> Any:
        numbers = _numbers("jacobian", argnums, args)
        run = _Run("jacobian", f, args, kwargs, numbers)
        blocks = _derivatives(run)

        def row(k: int, shape: tuple[int, ...]) -> Any:
            inputs = [run.arguments[n] for n in numbers]
            found = [x.result(lambda a: blocks[k, a.node], lambda constant: _zeros(constant, shape)) for x in inputs]
            return _in_structure(argnums, found)

        return run.rebuild([row(k, y.array.shape) for k, y in enumerate(run.outputs)])

    return transformed


def _derivatives(run: _Run) -> dict[tuple[int, AnyNode], Any]:
    """∂y/∂x of every output (by its position) and alias (by its node), of y.shape + x.shape."""
    blocks: dict[tuple[int, AnyNode], Any] = {}
    outputs, recorded = list(enumerate(run.outputs)), run.flows
    if sum(a.array.size for a in run.aliases) < sum(y.array.size for y in run.outputs):
        for a in run.aliases:
            columns = [run.push({a.node: unit}, recorded) for unit in _units(a)]
            for k, y in outputs:
                entries = [_zeros(y) if c[k] is None else c[k] for c in columns]
                blocks[k, a.node] = _stacked(entries, -1, y, a)
        return blocks
    for k, y in outputs:
        cotangents: list[Any] = [None] * len(outputs)
        rows = []
        for cotangents[k] in _units(y):
            rows.append(run.pull(cotangents, keep=True, recorded=recorded))
        for a in run.aliases:
            entries = [row[a.node] if a.node in row else _zeros(a) for row in rows]
            blocks[k, a.node] = _stacked(entries, 0, y, a)
    return blocks


def _units(x: Any) -> Iterator[np.ndarray]:
    """Arrays like `x`, each with a one in another place and zeros elsewhere."""
    for i in range(x.array.size):
        unit = np.zeros(x.array.shape, x.array.dtype)
        unit.flat[i] = 1
        yield unit


def _stacked(entries: list[Any], axis: int, y: Any, x: Any) -> Any:
    shape = y.array.shape + x.array.shape
    return _wrapped(reshape(stack(entries, axis), shape) if entries else np.zeros(shape, x.array.dtype))


def hessian(f: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """The function that returns the matrix of second derivatives of a scalar function: the Jacobian of its gradient.

    Returns:
        A function of the same arguments. For an argument x an array of x.shape + x.shape; for a tree, and for a tuple
        of argnums, a tree of trees.

    Raises:
        ValueError: the value is no scalar, or argnums is out of range.
        TypeError: there is nothing to differentiate with respect to.

    Example:
        >>> import minigrad as mg
        >>> mg.hessian(lambda x: (x * x * x).sum())(mg.Tensor([1.0, 2.0]))
        Tensor([[ 6.,  0.],
                [ 0., 12.]])
    """
    return jacobian(grad(f, argnums), argnums)


def hvp(f: Callable[..., Any], x: Any, v: Any) -> Any:
    """The Hessian of a scalar function at `x` times `v`, forward over reverse: as cheap as a few gradients.

    Args:
        f: from a tree to a 0-d Tensor.
        x: where, a tree.
        v: the direction, of the structure, shapes and dtypes of `x`.

    Raises:
        ValueError: the value is no scalar, or `v` does not fit `x`.
        TypeError: there is nothing to differentiate with respect to.

    Example:
        >>> import minigrad as mg
        >>> mg.hvp(lambda x: (x * x * x).sum(), mg.Tensor([1.0, 2.0]), mg.Tensor([1.0, 1.0]))
        Tensor([ 6., 12.])
    """
    return jvp(grad(f), (x,), (v,))[1]


# Constants


def stop_gradient(tree: Any) -> Any:
    """The same values as constants: no gradient flows through them, in any derivative.

    Args:
        tree: a Tensor, or a tree of them; leaves that are no Tensors are returned as they are.

    Example:
        >>> import minigrad as mg
        >>> mg.grad(lambda x: x * mg.stop_gradient(x))(3.0)
        Tensor(3.)
    """
    return trees.map(lambda x: x.wrap(x.array) if isinstance(x, Value) else x, tree)
