"""Forward mode: tangents pushed through a recorded graph, oldest node first.

It needs no rules of its own. The Jacobian of an elementwise operation is diagonal, hence its own transpose: the rule
takes the tangent in place of the cotangent. A linear operation maps tangents as it maps values, a bilinear one by the
product rule. Of any other operation the VJP is linear in its cotangent u; differentiating it by u, against the tangent,
gives the JVP.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minigrad.core.adjoint import add, broadcast_to, cast
from minigrad.core.backward import backward, check_saved, conformed, with_history
from minigrad.core.mode import changed, current
from minigrad.core.node import Leaf, Node
from minigrad.core.op import Part, pick
from minigrad.core.value import Value
from minigrad.graph import AnyNode, leading_to
from minigrad.tensor import Tensor


def pushforward(
    wanted: set[AnyNode], targets: Sequence[AnyNode], tangents: dict[AnyNode, Any], recorded: bool
) -> dict[AnyNode, Any]:
    """Forward mode: the tangents of the wanted nodes, from those of the targets, oldest first.

    Args:
        wanted: the nodes between targets and outputs.
        targets: nodes whose tangents are given.
        tangents: arrays or values of the targets' shapes and dtypes, by node.
        recorded: whether the tangents may be differentiated in turn; else the rules run on arrays.
    """
    mode = current()
    on_values = tuple(w for w in mode.watchers if w.on_values) if mode else ()
    values = recorded or bool(on_values)
    after = {n: Tensor.wrap(v) if values and not isinstance(v, Value) else v for n, v in tangents.items()}
    if not values:
        after = {n: v.array if isinstance(v, Value) else v for n, v in after.items()}
    with np.errstate(all="ignore"), changed(grad=recorded, watchers=on_values):
        for node in sorted(wanted.difference(targets), key=lambda n: -n.birth):
            v = _pushed(node, after, values, recorded)  # type: ignore[arg-type]
            if v is not None:
                after[node] = v
    return after


def _pushed(node: Node, after: dict[AnyNode, Any], values: bool, recorded: bool) -> Any:
    """The tangent of a node from those of its parents; None for zero."""
    op, plan = node.plan.op, node.plan
    check_saved(node)
    if op is pick:
        parts = after.get(node.parents[0])
        return None if parts is None else parts[dict(zip(plan.names, node.saved or (), strict=True))["i"]]
    saved = with_history(node, Tensor) if values else list(node.saved or ())
    terms = None
    if op.kind == "elementwise" and op.star is None:
        pulls = [(rule, uses, after[p]) for i, rule, uses in plan.pulls if (p := node.parents[i]) in after]
        terms = [rule(v, *(saved if uses is None else saved[uses])) for rule, uses, v in pulls]
    elif op.kind in ("linear", "bilinear") and op.star is None and node.dtype is not None:  # of one output
        terms = _by_forward(node, after, saved)
    if terms is None:
        return _by_transposing(node, after, recorded)
    total = None
    for term in terms:
        v = term if isinstance(term, (Value, np.ndarray)) else np.asarray(term)
        total = v if total is None else add(total, v)
    return None if total is None else _shaped(total, node)


def _shaped(v: Any, node: Node) -> Any:
    """A tangent in the shape and dtype of its node."""
    array = v.array if isinstance(v, Value) else v
    v = v if array.shape == node.shape else broadcast_to(v, shape=node.shape)
    return v if array.dtype == node.dtype else cast(v, dtype=node.dtype)


def _by_forward(node: Node, after: dict[AnyNode, Any], saved: list[Any]) -> list[Any] | None:
    """The terms of a linear or bilinear operation's tangent, by its forward; None if the node did not keep enough."""
    op = node.plan.op
    known = dict(zip(node.plan.names, saved, strict=True))
    dots = {name: after[p] for name, p in zip(op.inputs, node.parents, strict=True) if p is not None and p in after}
    if not known.keys() >= op.params.keys():
        return None
    params = {name: known[name] for name in op.params}
    swaps = [{name: v} for name, v in dots.items()] if op.kind == "bilinear" else [dots]
    calls = [{**known, **swap} for swap in swaps]
    if op.kind == "linear" and not op.vjp.keys() <= dots.keys():
        return None  # the zero tangents of the other inputs have a shape that is not known
    if not all(call.keys() >= set(op.inputs) for call in calls):
        return None
    return [op(*(call[name] for name in op.inputs), **params) for call in calls]


def _by_transposing(node: Node, after: dict[AnyNode, Any], recorded: bool) -> Any:
    """A node's tangent as the derivative of its VJP in the cotangent: u ↦ ⟨x̄(u), ẋ⟩ is linear, its gradient is ẏ."""
    several = node.dtype is None  # the hidden node of an operation of several outputs
    likes: Any = node.shape if several else (node,)
    with changed(grad=True):
        us = [Tensor.wrap(z := np.zeros(like.shape, like.dtype), Leaf(z, True)) for like in likes]
        u = tuple(us) if several else us[0]
        pulled = [
            (x_bar, after[parent])
            for parent, x_bar in _pull(node, u)
            if parent in after and x_bar.node is not None and x_bar.node.requires_grad
        ]
    targets = [x.node for x in us]
    wanted, _ = leading_to([x_bar.node for x_bar, _ in pulled], targets)
    roots = [(x_bar.node, v) for x_bar, v in pulled if x_bar.node in wanted]
    reached = backward(roots, Tensor, targets=targets, wanted=wanted, create_graph=recorded)
    if not reached:
        return None
    zero = Tensor.wrap if isinstance(next(iter(reached.values())), Value) else np.asarray
    found = [reached[x.node] if x.node in reached else zero(np.zeros_like(x.array)) for x in us]
    return tuple(found) if several else found[0]


def _pull(node: Node, g: Any) -> Iterator[tuple[AnyNode, Any]]:
    """The cotangents of a node's parents, one a use, by its rules run on values."""
    saved = with_history(node, Tensor)
    for i, rule, uses in node.plan.pulls:
        c = rule(g, *(saved if uses is None else saved[uses]))
        for parent, x_bar in conformed(node, i, c, None):
            yield parent, x_bar.merge([x_bar], parent) if type(x_bar) is Part else x_bar
