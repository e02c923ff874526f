"""A story as text: calls under the lines that made them, then backward as numbered steps.

forward
train.py:12: h = mg.tanh(x @ w)
   1  matmul_1 = matmul(x, w)      (2, 2)   0.3, -1.2, 0.5, 0.1
   2  h = tanh(matmul_1)           (2, 2)   0.291, -0.834, 0.462, 0.0997
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from minigrad.core.op import Part
from minigrad.explainer.story import Quantity, Step, Story

FEW = 8  # numbers that are written out; of more it is said how they are spread; and how many inputs are named
DIGITS = 4


def told(story: Story) -> str:
    """The whole story."""
    lines, last = ["forward"], ""
    rows = [(f"{c.made.name} = {called(c.op.name, c.given, c.params)}", shape(c.made.array)) for c in story.calls]
    name_width, shape_width = (max((len(row[k]) for row in rows), default=0) for k in (0, 1))
    for call, (text, of) in zip(story.calls, rows, strict=True):
        if call.line != last:
            lines.append(last := call.line)
        lines.append(f"{call.number:4}  {text:{name_width}}  {of:{shape_width}}  {numbers(call.made.array)}")
    if not story.steps:
        return "\n".join([*lines, "", "no backward pass was recorded: call backward() of the result under the tape"])
    last, now = "", 0
    for step in story.steps:
        if step.pass_number != now:
            now, last = step.pass_number, ""
            lines += ["", "backward" if story.steps[-1].pass_number == 1 else f"backward, pass {now}"]
        if step.line != last:
            lines.append(last := step.line)
        lines += _step(step)
    reached = [x for x in story.inputs if x.cotangent is not None]
    if reached:
        lines += ["", "gradients" if story.steps[-1].pass_number == 1 else "gradients, of the last pass that came"]
        gradients = [(label(x) or "an input", shape(x.cotangent), numbers(x.cotangent)) for x in reached]
        name_width, shape_width = (max(len(row[k]) for row in gradients) for k in (0, 1))
        lines += [f"      {name:{name_width}}  {of:{shape_width}}  {values}" for name, of, values in gradients]
    return "\n".join(lines)


def _step(step: Step) -> list[str]:
    name = step.call.made.name if step.call else "what was made before the tape"
    lines = [f"{step.number:4}  {step.op.name}  {step.op.formula}".rstrip()]
    told = [("came", name, step.came), *(("left", label(x) or "an input", c) for _, x, c in step.left)]
    width = max(len(name) for _, name, _ in told)
    return [*lines, *(f"      {way}  {name:{width}}  {numbers(cotangent)}" for way, name, cotangent in told)]


def label(x: Quantity) -> str:
    """What a value is called; a number that stands in the code is its own name."""
    if not x.is_constant:
        return x.name
    array = np.asarray(x.array) if not isinstance(x.array, tuple) and x.array is not None else None
    if array is not None and array.size == 1:
        return f"{array.item():.{DIGITS}g}" if array.dtype.kind == "f" else str(array.item())
    return "" if array is None else f"constant {array.shape}"


def called(name: str, given: list[Quantity], params: dict[str, Any]) -> str:
    """A call as it is written: 'sum(x, axis=0)'."""
    shown = {k: v for k, v in params.items() if v is not None and v is not False}
    return f"{name}({', '.join([*some(map(label, given)), *(f'{k}={v!r:.40}' for k, v in shown.items())])})"


def some(texts: Iterable[str]) -> list[str]:
    """The texts, or of many the first ones, and how many more there are.

    Example:
        >>> some("abc"), some("abcdefghijk")
        (['a', 'b', 'c'], ['a', 'b', 'c', 'd', '... 7 more'])
    """
    texts = list(texts)
    return texts if len(texts) <= FEW else [*texts[: FEW // 2], f"... {len(texts) - FEW // 2} more"]


def shape(array: Any) -> str:
    """The shape of an array, or of several."""
    return ", ".join(some(map(shape, array))) if isinstance(array, tuple) else str(np.shape(array))


def numbers(array: Any) -> str:
    """All numbers of a small array; of a large one how they are spread.

    Example:
        >>> numbers(np.array([1.0, -2.5])), numbers(np.arange(20.0))
        ('1, -2.5', '0 to 19, mean 9.5, norm 49.7, 5 % zeros')
    """
    if isinstance(array, Part):
        return f"{numbers(array.g)}; zeros elsewhere"
    if isinstance(array, tuple):
        return "; ".join(some("nothing" if part is None else numbers(part) for part in array))
    x = np.asarray(array)
    if x.size <= FEW:
        form = (lambda v: f"{v:.{DIGITS}g}") if x.dtype.kind == "f" else str
        return ", ".join(form(v) for v in x.ravel().tolist()) or "no numbers"
    finite = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    bad = f"{x.size - finite.size} not finite" if finite.size < x.size else ""
    if not finite.size:
        return bad
    low, high, mean = (f"{float(v):.{DIGITS}g}" for v in (finite.min(), finite.max(), finite.mean(dtype=np.float64)))
    norm = float(np.sqrt(np.sum(np.square(finite, dtype=np.float64))))
    share = np.count_nonzero(x == 0) / x.size
    zeros = f"{100 * share:.0f} % zeros" if share else ""
    return ", ".join(filter(None, [f"{low} to {high}", f"mean {mean}", f"norm {norm:.{DIGITS}g}", zeros, bad]))
