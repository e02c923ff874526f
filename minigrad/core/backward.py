"""Reverse mode: vector-Jacobian products composed, youngest node first.

A node's share is to turn the cotangent of its output, by its rules, into those of its inputs. `backward` is the loop
around that: births are a topological order, so a heap that yields the youngest pending node is all the sorting there
is, and nothing recurses. The rules run on arrays; if the pass is to be differentiated again, or a tape listens, the
very same rules run on values instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from heapq import heappop, heappush
from typing import Any

import numpy as np

from minigrad.arrays import describe
from minigrad.core.adjoint import add, cast, sum_to
from minigrad.core.mode import USUAL, Watcher, changed, current
from minigrad.core.node import Leaf, Node
from minigrad.core.op import Part, _ndarray, pick
from minigrad.core.value import Value, raw
from minigrad.source import line

AnyNode = Node | Leaf


def with_history(node: Node, cls: Any) -> list[Any]:
    """What a node saved, each array as a value with the node that made it; what is no array stays as it is."""
    items: list[Any] = []
    for x, origin in zip(node.saved or (), node.plan.origins, strict=True):
        if type(x) is _ndarray:
            x = cls.wrap(x, node if origin == -1 else node.parents[origin])
        elif origin == -1:  # several outputs
            x = tuple(pick(cls.wrap(x, node), i=i) for i in range(len(x)))
        elif origin is not None and origin == node.plan.op.star:
            pairs = zip(x, node.parents[origin:], strict=True)
            x = tuple(cls.wrap(a, parent) if type(a) is _ndarray else a for a, parent in pairs)
        items.append(x)
    return items


def check_saved(node: Node) -> None:
    """RuntimeError if what a node saved was freed, or belongs to a leaf that was assigned since."""
    if node.saved is None:
        raise RuntimeError(f"backward through {node!r} a second time: pass retain_graph=True to the first")
    for j in (j for j in node.plan.origins if j is not None and j >= 0):
        inputs = node.parents[j:] if j == node.plan.op.star else node.parents[j : j + 1]
        if any(p is not None and p.stale for p in inputs):
            needed = f"its input {node.plan.op.inputs[j]!r}, which was changed by assign() since: call backward before"
            raise RuntimeError(f"backward of {node!r} needs {needed}\n  {line(node.plan.where)}")


def conformed(node: Node, i: int, result: Any, wanted: set[AnyNode] | None) -> Iterator[tuple[AnyNode, Any]]:
    """What the rule of input i returned, for each parent that it is for, in the shape and dtype of that parent."""
    op = node.plan.op
    parents, result = (node.parents[i:], [*result]) if i == op.star else (node.parents[i : i + 1], [result])
    if len(parents) != len(result):
        raise ValueError(f"{op.name}, rule for {op.inputs[i]!r}: expected {len(parents)} cotangents, got {len(result)}")
    for parent, c in zip(parents, result, strict=True):
        if parent is None or not parent.requires_grad or (wanted is not None and parent not in wanted):
            continue
        if type(c) is Part or parent.dtype is None:
            yield parent, c
            continue
        array = raw(c)
        if array.shape != parent.shape or array.dtype.kind not in "biuf":
            leading = op.signature and np.broadcast_shapes(parent.shape, array.shape)
            if array.shape != (node.shape if op.kind == "elementwise" else leading) or array.dtype.kind not in "biuf":
                expected = f"expected a cotangent {parent.dtype} {parent.shape}"
                raise ValueError(f"{op.name}, rule for {op.inputs[i]!r}: {expected}, got {describe(array)}")
            c = sum_to(c, shape=parent.shape)
        c = c if array.dtype == parent.dtype else cast(c, dtype=parent.dtype)
        yield parent, c if isinstance(c, Value) else np.asarray(c)


def backward(
    roots: Iterable[tuple[AnyNode, Any]],
    cls: Any,
    *,
    targets: Iterable[AnyNode] = (),
    wanted: set[AnyNode] | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> dict[AnyNode, Any]:
    """Compose the rules from the roots down.

    Args:
        roots: nodes with the cotangents to start from, arrays (or values) of the node's shape and dtype.
        cls: the class of the values that hooks see, and that rules run on where the pass is recorded.
        targets: nodes to stop at.
        wanted: go through these nodes only, as `leading_to` finds them.
        retain_graph: keep the saved arrays for another pass.
        create_graph: record this pass, so that it can be differentiated.

    Returns:
        The cotangents of the leaves and targets that were reached, and of the nodes whose tensor retains its gradient.
    """
    watchers = (current() or USUAL).watchers
    inner = tuple(w if w.on_values else Watcher() for w in watchers)  # the others see rules from outside
    recorded = create_graph or any(w.on_values for w in watchers)
    targets = set(targets)
    pending: dict[AnyNode, Any] = {}  # what was received so far, by node
    summed: set[AnyNode] = set()  # the nodes for which that is a buffer made here
    parts: dict[AnyNode, list[Part]] = {}
    reached: dict[AnyNode, Any] = {}
    heap: list[tuple[int, Any]] = []  # the youngest first; Any: whether it is a leaf is told by its type, below
    assigned = Leaf.last_retired

    def add_up(node: AnyNode, c: Any) -> None:
        """Receive a further cotangent of a node, or a part of one."""
        if type(c) is Part:
            parts.setdefault(node, []).append(c)
            c = None
        if node not in pending:
            pending[node] = c
            heappush(heap, (node.birth, node))
        elif pending[node] is None or c is None:
            pending[node] = c if pending[node] is None else pending[node]
        elif recorded:
            pending[node] = add(pending[node], c)
        elif node in summed:
            np.add(pending[node], c, out=pending[node])
        else:
            pending[node] = np.asarray(np.add(pending[node], c))
            summed.add(node)

    with np.errstate(all="ignore"), changed(grad=create_graph, watchers=inner) if recorded else nullcontext():
        for node, g in roots:
            add_up(node, cls.wrap(g) if recorded and type(g) is _ndarray else g)
        while heap:
            node = heappop(heap)[1]
            g = pending.pop(node)
            if parts and node in parts:
                merged = parts[node][0].merge(parts.pop(node), node)
                g = merged if g is None else add(g, merged)
            target = targets and node in targets  # its hooks run when whoever asked goes on from there
            plan: Any = node if type(node) is Leaf else node.plan  # either notes the owner
            if plan.owner is not None and not target:
                g = _through_hooks(node, g, cls, recorded)
                if getattr(plan.owner(), "_retains", False):
                    reached[node] = g
            if plan is node or target:
                for watcher in watchers:
                    watcher.reached(node, g)
                reached[node] = g
                continue
            if node.saved is None or node.birth > assigned:
                check_saved(node)
            if plan.guarded and not recorded:
                g.setflags(0)  # others may hold it, and a rule of a user's own might write into it
            saved, pulls = (with_history(node, cls), plan.pulls) if recorded else (node.saved, plan.fused_pulls)
            for i, rule, uses in pulls:
                parent = node.parents[i]
                if wanted is not None and parent not in wanted and i != plan.op.star:
                    continue
                c = rule(g, *saved) if uses is None else rule(g, *saved[uses])
                is_plain = type(c) is _ndarray and parent is not None and not watchers  # a starred one may have no node
                if not is_plain or c.shape != parent.shape or c.dtype is not parent.dtype:
                    for receiver, cotangent in conformed(node, i, c, wanted):
                        for watcher in watchers:
                            watcher.backward(node, g, plan.op.inputs[i], cotangent)
                        add_up(receiver, cotangent)
                elif parent in summed:
                    np.add(pending[parent], c, pending[parent])
                elif parent in pending:
                    add_up(parent, c)
                else:
                    pending[parent] = c
                    heappush(heap, (parent.birth, parent))
            if not retain_graph:
                node.saved = None
    return reached


def _through_hooks(node: Any, g: Any, cls: Any, recorded: bool) -> Any:
    """The cotangent after the hooks of its tensor have read or replaced it."""
    tensor = node.owner()
    if tensor is None and getattr(node.owner, "count", False):  # a reference to a tensor with hooks counts them
        raise RuntimeError(f"{node!r} had hooks, but its tensor is gone: keep a reference to it until backward")
    for hook in list(getattr(tensor, "_hooks", {}).values()):
        seen = g if isinstance(g, Value) else cls.wrap(g)
        seen.array.setflags(write=False)
        if (new := hook(seen)) is not None:
            g = new if recorded else new.array
    return g
