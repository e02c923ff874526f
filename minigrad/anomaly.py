"""detect_anomaly(): find the operation in which NaN or Inf first appears, forward or backward."""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad.core.mode import Watcher, changed, watching
from minigrad.core.node import Leaf, Node
from minigrad.core.op import Op, Part
from minigrad.core.value import Value
from minigrad.source import Place, line


def detect_anomaly() -> changed:
    """A with block in which a NaN or an Inf is an error where it first appears, in an operation or in its backward.

    Raises:
        FloatingPointError: names the operation, its shapes and the source line, and the input or cotangent that brought
            the value, or shows those from which it arose.

    Example:
        >>> import minigrad as mg
        >>> with mg.detect_anomaly():
        ...     mg.exp(mg.Tensor([1.0, float("inf")]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FloatingPointError: forward of exp gave inf at (1,), shape (2,), brought by x (inf at (1,), shape (2,))
        ...
    """
    return changed(watchers=lambda: watching(_Search()))


class _Search(Watcher):
    def forward(self, op: Op, given: Any, arrays: Any, params: dict[str, Any], y: Any, where: Place | None) -> None:
        if not any(isinstance(x, Value) for x in given):
            return
        inputs = dict(zip(op.names(len(arrays)), arrays, strict=True))
        refuse_non_finite(f"forward of {op.name}", y, inputs, where)

    def backward(self, node: Node, g: Any, name: str, cotangent: Any) -> None:
        saved = zip(node.plan.names, node.saved or (), strict=True)
        causes = {"the cotangent of its output": g, **{f"saved {n}": x for n, x in saved}}
        result = cotangent.g if type(cotangent) is Part else cotangent
        refuse_non_finite(f"backward of {node.plan.op.name}, cotangent of {name},", result, causes, node.plan.where)

    def reached(self, node: Any, g: Any) -> None:
        where = None if type(node) is Leaf else node.plan.where
        refuse_non_finite(f"backward, the sum of the cotangents of {node!r},", g, {}, where)


def _arrays(x: Any) -> list[np.ndarray]:
    """The floating-point arrays in what an operation takes or gives."""
    if isinstance(x, tuple):
        return [a for part in x for a in _arrays(part)]
    array = np.asarray(x.array if isinstance(x, Value) else x)
    return [array] if array.dtype.kind == "f" else []


def _first_non_finite(x: Any) -> str | None:
    for array in _arrays(x):
        if not np.isfinite(array).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
            return f"{array[index]} at {index}, shape {array.shape}"
    return None


def refuse_non_finite(what: str, result: Any, causes: dict[str, Any], where: Place | None) -> None:
    """Raise if a result is NaN or Inf; name the causes that brought it, or show those from which it arose."""
    found = _first_non_finite(result)
    if found is None:
        return
    brought = [f"{name} ({bad})" for name, x in causes.items() if (bad := _first_non_finite(x))]
    shown = [f"{name} = {np.array2string(a, threshold=8)}" for name, x in causes.items() for a in _arrays(x)]
    origin = "brought by " + ", ".join(brought) if brought else "which first appears here"
    origin += ", from " + ", ".join(shown) if shown and not brought else ""
    raise FloatingPointError(f"{what} gave {found}, {origin}\n  {line(where)}")
