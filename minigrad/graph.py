"""Walks over a recorded graph, from its results down: what lies between nodes, and what enters from outside."""

from __future__ import annotations

from collections.abc import Sequence

from minigrad.core.node import Leaf, Node

AnyNode = Node | Leaf


def leading_to(roots: Sequence[AnyNode | None], targets: Sequence[AnyNode]) -> tuple[set[AnyNode], bool]:
    """The nodes between roots and targets, and whether the roots depend on anything else that needs a gradient."""
    wanted = set(targets)
    oldest = max((t.birth for t in wanted), default=0)
    seen: set[AnyNode] = set()
    stack = [r for r in roots if r is not None]
    others = False
    while stack:
        node = stack.pop()
        if node in seen or node in wanted:
            continue
        if not isinstance(node, Node) or node.birth > oldest:
            others = others or node.requires_grad
            continue
        seen.add(node)
        stack += [p for p in node.parents if p is not None]
    for node in sorted(seen, key=lambda n: -n.birth):
        if not wanted.isdisjoint(node.parents):  # type: ignore[union-attr]
            wanted.add(node)
    return wanted, others


def entering(roots: list[AnyNode], start: int) -> list[AnyNode]:
    """The nodes born before `start` that need a gradient, which the roots depend on without another in between."""
    found: dict[AnyNode, None] = {}
    seen: set[AnyNode] = set(roots)
    stack = list(roots)
    while stack:
        node = stack.pop()
        if node.birth > start:
            if node.requires_grad:
                found[node] = None
        elif type(node) is Node:
            new = [p for p in node.parents if p is not None and p not in seen]
            seen.update(new)
            stack += new
    return list(found)
