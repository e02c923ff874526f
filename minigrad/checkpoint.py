"""checkpoint: recompute instead of store.

A checkpointed call keeps nothing of its inside. One node stands for it, with what the call depends on for parents; its
rule runs the function again, recorded this time, and goes backward through that record.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any

import numpy as np

from minigrad import trees
from minigrad.core.backward import backward
from minigrad.core.mode import changed, grad_enabled
from minigrad.core.node import Node, birth
from minigrad.core.op import Op
from minigrad.core.value import Value
from minigrad.graph import AnyNode, entering, leading_to
from minigrad.tensor import Tensor

__all__ = ["checkpoint"]


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps nothing of its inside for backward, and computes it again instead.

    Gradients flow to the tensors among its arguments (trees, too) and to those that it takes from around it, such as
    the parameters of a layer. Random draws from the generator of the context are the same when it is computed again.
    What else it does besides returning a value happens once more then.

    Args:
        f: from trees to a tree. Called with the same arguments it must compute the same.

    Raises:
        RuntimeError: in backward, if what was computed again differs from what was computed first.

    Source: Chen et al. 2016, "Training deep nets with sublinear memory cost", section 4.

    Example:
        >>> import minigrad as mg
        >>> x = mg.Tensor([1.0, 2.0], requires_grad=True)
        >>> mg.checkpoint(lambda x: mg.exp(mg.sin(x)).sum())(x).backward()
        >>> (x.grad - mg.grad(lambda x: mg.exp(mg.sin(x)).sum())(x)).data
        array([0., 0.])
    """

    @wraps(f, updated=())
    def transformed(*args: Any, **kwargs: Any) -> Any:
        if not grad_enabled():
            return f(*args, **kwargs)
        again = _Again(f, args, kwargs)
        outputs, rebuild = trees.flatten(f(*args, **kwargs))
        return rebuild(again.instead(outputs))

    return transformed


class _Again:
    """A call that can be repeated: what its node holds in place of the arrays inside.

    The first call is recorded, which shows what it depends on (`sources`): nodes that were there before. Then that
    record is dropped, and one node takes its place, with the sources for parents.
    """

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.f = f
        leaves, rebuild = trees.flatten((args, kwargs))
        self.inputs = rebuild([_snapshot(x) for x in leaves])
        self.same_draws = _draws_from_here()
        self.start = birth()
        self.sources: list[AnyNode] = []
        self.made: list[int] = []

    def instead(self, outputs: list[Any]) -> list[Any]:
        """The outputs on the node of a checkpoint."""
        self.made = [
            i
            for i, x in enumerate(outputs)
            if isinstance(x, Value) and type(x.node) is Node and x.node.birth < self.start
        ]
        self.sources = entering([outputs[i].node for i in self.made], self.start)
        if not self.sources:
            return outputs
        values = [Tensor.wrap(outputs[i].array) for i in self.made]
        replaced = checkpointed(*values, *(Tensor.wrap(_NOTHING, node) for node in self.sources), again=self)
        by_position = dict(zip(self.made, replaced, strict=True))
        return [by_position.get(i, x) for i, x in enumerate(outputs)]

    def pull(self, g: tuple[Any, ...], arrays: tuple[Any, ...]) -> list[Any]:
        """The VJP: compute again, recorded, then backward to the sources."""
        recorded = grad_enabled() and any(isinstance(c, Value) for c in g)
        args, kwargs = self.inputs
        with changed(grad=True), self.same_draws():
            outputs, _ = trees.flatten(self.f(*args, **kwargs))
        roots: list[tuple[Any, Any]] = []
        for i, c, first in zip(self.made, g, arrays, strict=False):
            y = outputs[i] if i < len(outputs) else None
            old = first.array if isinstance(first, Value) else first
            if not isinstance(y, Value) or not np.array_equal(y.array, old, equal_nan=True):
                raise RuntimeError(
                    f"checkpoint: {getattr(self.f, '__name__', self.f)!r}, computed again, did not return what it "
                    "returned first; it must depend on nothing that changes in between"
                )
            if c is not None:
                roots.append((y.node, c))
        wanted, _ = leading_to([node for node, _ in roots], self.sources)
        roots = [(node, c) for node, c in roots if node in wanted]
        reached = backward(
            roots, Tensor, targets=self.sources, wanted=wanted, create_graph=recorded, retain_graph=recorded
        )
        found = [reached[n] if n in reached else np.zeros(n.shape, n.dtype) for n in self.sources]
        return [*([None] * len(self.made)), *found]


def _draws_from_here() -> Callable[[], AbstractContextManager[Any]]:
    """What to do something under, any number of times, in which the random draws are those that come next now."""
    from minigrad import random  # loaded when it is first needed

    generator = random.current().copy()
    return lambda: random.use(generator.copy())


def _snapshot(x: Any) -> Any:
    """A leaf as it is now, whatever is assigned to it later."""
    return Tensor.wrap(x.array, x.node) if isinstance(x, Value) else x.copy()


_NOTHING = np.zeros(0)
_NOTHING.setflags(write=False)

checkpointed = Op(
    "checkpoint",
    lambda *arrays, again: tuple(y.view() for y in arrays[: len(again.made)]),
    vjp={"arrays": lambda g, arrays, again: again.pull(g, arrays)},
    formula="y = f(x) for all x that f depends on,  x̄ = ȳ ∂f/∂x, computed again",
)
