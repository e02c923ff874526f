"""Module: what a layer or a network is, a plain object whose attributes hold tensors and other modules.

There is no registration and no hidden state. A module is a tree (see `minigrad.trees`): its children are the attributes
that hold tensors or other modules, by name, in the order in which they were set. So `grad` differentiates with respect
to a whole module, optimisers and files take one, and a name such as `layers.0.weight` is the path to a tensor. A
dataclass that inherits from Module works, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from textwrap import indent
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from minigrad import trees
from minigrad.tensor import Tensor

__all__ = ["Module"]


class Module:
    """Base of layers and networks: set tensors and modules as attributes, define `__call__`.

    Tensors that require a gradient are its parameters; the others are saved and loaded with them, but not trained.

    Example:
        >>> import minigrad as mg
        >>> class Residual(mg.nn.Module):
        ...     def __init__(self, n):
        ...         self.inner = mg.nn.Linear(n, n)
        ...         self.scale = mg.Tensor([0.1], dtype="float32", requires_grad=True)
        ...
        ...     def __call__(self, x):
        ...         return x + self.scale * self.inner(x)
        >>> list(Residual(3).parameters())
        ['inner.weight', 'inner.bias', 'scale']
    """

    training = True

    def __tree__(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], Self]]:
        """The attributes that hold tensors, arrays or modules, and how to make a module like this one with others."""
        return {name: x for name, x in vars(self).items() if _holds_any(x)}, self._with

    def _with(self, children: dict[str, Any]) -> Self:
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        vars(other).update(children)
        return other

    def __repr__(self) -> str:
        lines = [f"{name}: {_shown(x)}" for name, x in self.__tree__()[0].items()]
        return f"{type(self).__name__}({_indented(lines)})"

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its path; one that is reached twice (tied weights) comes once, by its first path.

        Example:
            >>> import minigrad as mg
            >>> {name: t.shape for name, t in mg.nn.Linear(3, 2).tensors().items()}
            {'weight': (3, 2), 'bias': (2,)}
        """
        return {name: leaf for name, leaf in trees.named_leaves(self) if isinstance(leaf, Tensor)}

    def parameters(self) -> dict[str, Tensor]:
        """The tensors that require a gradient, by their paths.

        Example:
            >>> import minigrad as mg
            >>> list(mg.nn.Sequential(mg.nn.Linear(3, 2), mg.nn.Tanh(), mg.nn.Linear(2, 3)).parameters())
            ['layers.0.weight', 'layers.0.bias', 'layers.2.weight', 'layers.2.bias']
        """
        return {name: tensor for name, tensor in self.tensors().items() if tensor.requires_grad}

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once."""
        seen: set[int] = set()
        pending: list[Any] = [self]
        while pending:
            x = pending.pop()
            if id(x) in seen:
                continue
            seen.add(id(x))
            if isinstance(x, Module):
                yield x
            pending += reversed(list(_children(x)))

    def train(self, training: bool = True) -> Self:
        """Make this module and all below it behave as in training: dropout drops. Returns the module itself.

        Example:
            >>> import minigrad as mg
            >>> mg.nn.Dropout(0.5).eval().training
            False
        """
        for module in self.modules():
            vars(module)["training"] = training
        return self

    def eval(self) -> Self:
        """Make this module and all below it behave as in use: dropout passes everything. Returns the module itself.

        Example:
            >>> import minigrad as mg
            >>> mg.nn.Sequential(mg.nn.Dropout(0.5)).eval()(mg.ones(2)).data
            array([1., 1.])
        """
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters.

        Example:
            >>> import minigrad as mg
            >>> layer = mg.nn.Linear(2, 1)
            >>> layer.weight.sum().backward()
            >>> layer.zero_grad()
            >>> layer.weight.grad is None
            True
        """
        for parameter in self.parameters().values():
            parameter.zero_grad()

    def astype(self, dtype: DTypeLike) -> Self:
        """A copy of this module with its floating-point tensors in another dtype, float32 or float64.

        Raises:
            TypeError: another dtype.

        Example:
            >>> import minigrad as mg
            >>> mg.nn.Linear(3, 2).astype("float64").weight.dtype
            dtype('float64')
        """
        wanted = np.dtype(dtype)
        if wanted not in (np.float32, np.float64):
            raise TypeError(f"a module computes in float32 or float64, not {wanted}")

        def converted(leaf: Any) -> Any:
            kept = leaf.dtype if leaf.dtype.kind != "f" else wanted
            if not isinstance(leaf, Tensor):
                return leaf.astype(kept)
            return Tensor(leaf.data.astype(kept), requires_grad=leaf.requires_grad)

        return trees.map(converted, self)


def _children(x: Any) -> Iterator[Any]:
    """What a container or a module holds directly."""
    if hasattr(x, "__tree__"):
        yield from x.__tree__()[0].values()
    elif isinstance(x, dict):
        yield from x.values()
    elif isinstance(x, (list, tuple)):
        yield from x
    elif dataclasses.is_dataclass(x) and not isinstance(x, type):
        yield from (getattr(x, field.name) for field in dataclasses.fields(x))


def _holds_any(x: Any) -> bool:
    """Whether x is, or holds, a tensor, an array or a module: numbers and functions are settings, not children."""
    if isinstance(x, type):
        return False
    return isinstance(x, (Tensor, np.ndarray)) or hasattr(x, "__tree__") or any(map(_holds_any, _children(x)))


def _shown(x: Any) -> str:
    """A child as `repr` shows it: tensors by dtype and shape."""
    if isinstance(x, (Tensor, np.ndarray)):
        return f"{x.dtype} {x.shape}"
    if isinstance(x, (list, tuple)):
        return f"[{_indented([_shown(item) for item in x])}]"
    if isinstance(x, dict):
        return f"{{{_indented([f'{key}: {_shown(item)}' for key, item in x.items()])}}}"
    return repr(x)


def _indented(lines: list[str]) -> str:
    """The lines, each indented and followed by a comma, between line breaks; nothing if there are none."""
    return "\n" * bool(lines) + "".join(indent(f"{line},\n", "  ") for line in lines)
