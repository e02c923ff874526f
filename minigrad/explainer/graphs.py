"""A story as a picture, left to right: inputs, calls, results; an arrow for each value that is used.

`dot` is for Graphviz, `mermaid` for Markdown. Names and labels may be anything: what would end a label is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator

from minigrad.explainer.story import Story
from minigrad.explainer.text import label, shape


def dot(story: Story) -> str:
    """The graph in Graphviz's language. A red edge is one along which a gradient flows back.

    Example:
        >>> import minigrad as mg
        >>> print(dot(mg.explain(lambda x: mg.sum(mg.exp(x)), mg.Tensor([1.0, 2.0]))))
        digraph story {
          rankdir=LR
          x1 [shape=ellipse, label="x\\n(2,)"]
          c1 [shape=box, label="exp\\n(2,)"]
          c2 [shape=box, label="sum\\n()"]
          x1 -> c1 [color=red]
          c1 -> c2 [color=red]
        }
    """
    quoted = lambda *lines: '"' + "\\n".join(x.replace("\\", "\\\\").replace('"', '\\"') for x in lines) + '"'
    lines = ["digraph story {", "  rankdir=LR"]
    lines += [
        f"  {key} [shape={'box' if is_call else 'ellipse'}, label={quoted(*text)}]"
        for key, is_call, text in _boxes(story)
    ]
    lines += [f"  {a} -> {b}{' [color=red]' * flows}" for a, b, flows in _arrows(story)]
    return "\n".join([*lines, "}"])


def mermaid(story: Story) -> str:
    """The graph for Markdown. A thick edge is one along which a gradient flows back.

    Example:
        >>> import minigrad as mg
        >>> print(mermaid(mg.explain(lambda x: mg.sum(mg.exp(x)), mg.Tensor([1.0, 2.0]))))
        flowchart LR
          x1(["x<br/>(2,)"])
          c1["exp<br/>(2,)"]
          c2["sum<br/>()"]
          x1 ==> c1
          c1 ==> c2
    """
    safe = lambda text: "".join(c if c.isalnum() or c in " _.,()[]*-+=" else f"#{ord(c)};" for c in text)
    lines = ["flowchart LR"]
    for key, is_call, text in _boxes(story):
        inside = "<br/>".join(map(safe, text))
        lines.append(f'  {key}["{inside}"]' if is_call else f'  {key}(["{inside}"])')
    lines += [f"  {a} {'==>' if flows else '-->'} {b}" for a, b, flows in _arrows(story)]
    return "\n".join(lines)


def _boxes(story: Story) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
    """The key of each input and call, which of both it is, and the lines of its label."""
    for k, x in enumerate(story.inputs, 1):
        yield f"x{k}", False, (" ".join((label(x) or "constant").split()), shape(x.array))  # in one line each
    for call in story.calls:
        name = call.op.name if call.made.name.startswith(f"{call.op.name}_") else f"{call.made.name} = {call.op.name}"
        yield f"c{call.number}", True, (" ".join(name.split()), shape(call.made.array))


def _arrows(story: Story) -> Iterator[tuple[str, str, bool]]:
    """From which key to which a value goes, and whether a cotangent came back."""
    keys = {id(x): f"x{k}" for k, x in enumerate(story.inputs, 1)}
    keys |= {id(call.made): f"c{call.number}" for call in story.calls}
    back = {(id(x), step.call.number) for step in story.steps if step.call for _, x, _ in step.left}
    for call in story.calls:
        for x in call.given:
            if id(x) in keys:
                yield keys[id(x)], f"c{call.number}", (id(x), call.number) in back
