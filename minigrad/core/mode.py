"""How operations are called right now: one context variable that every call reads once.

The usual mode, gradients on and nobody watching, is None, so that the common call pays for one comparison. A context
variable belongs to one thread and one asyncio task, so a mode can't leak into another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any

from minigrad.source import Place, place


class Watcher:
    """Sees every operation while it is in the mode: a tape, say. This one only makes nodes remember lines."""

    on_values = False  # whether backward's rules must run on values, so that the watcher sees their operations too

    def forward(self, op: Any, given: Any, arrays: Any, params: dict[str, Any], y: Any, where: Place | None) -> None:
        """An operation was called: what it was given (values, arrays, or arrays only), and what it computed on."""

    def begins(self) -> None:
        """Somebody asks for a backward pass, which begins now."""

    def backward(self, node: Any, g: Any, name: str, cotangent: Any) -> None:
        """The rule of a node for the input `name` turned `g` into `cotangent`."""

    def reached(self, node: Any, g: Any) -> None:
        """The whole cotangent of a leaf, or of another node where backward stops, is `g`."""

    def looked(self, value: Any, how: str) -> None:
        """Python is about to see what numbers a value holds, by the method that `how` names."""

    def copied(self, source: Any, value: Any) -> None:
        """A value was made from an array, or whatever else, without an operation."""


@dataclass(frozen=True, slots=True)
class Mode:
    """Whether operations record nodes, and who watches them."""

    grad: bool = True
    watchers: tuple[Watcher, ...] = ()

    def watch(self, op: Any, given: Any, arrays: Any, params: dict[str, Any], y: Any) -> Place | None:
        """Show a finished call to the watchers, and return its place if there are any."""
        where = place() if self.watchers else None
        for watcher in self.watchers:
            watcher.forward(op, given, arrays, params, y, where)
        return where


USUAL = Mode()
_MODE: ContextVar[Mode | None] = ContextVar("minigrad_mode", default=None)
current: Callable[[], Mode | None] = _MODE.get


class changed(ContextDecorator):
    """A with block, or decorated function, in which the mode differs by `changes`: values, or functions for them."""

    def __init__(self, **changes: Any):
        self.changes = changes
        self.tokens: list[Token[Mode | None]] = []

    def __call__(self, function: Any) -> Any:
        if isgeneratorfunction(function) or iscoroutinefunction(function) or isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} runs after its call is over: use a with block in its body")
        return super().__call__(function)

    def _recreate_cm(self) -> changed:  # a decorated function may call itself, and run in several threads
        return type(self)(**self.changes)

    def __enter__(self) -> Any:
        mode = replace(current() or USUAL, **{k: v() if callable(v) else v for k, v in self.changes.items()})
        self.tokens.append(_MODE.set(None if mode == USUAL else mode))
        return self

    def __exit__(self, *error: object) -> None:
        _MODE.reset(self.tokens.pop())


def watching(watcher: Watcher) -> tuple[Watcher, ...]:
    """The watchers of here and now, and one more."""
    return (*(current() or USUAL).watchers, watcher)


def grad_enabled() -> bool:
    """Whether operations record nodes here and now."""
    return (current() or USUAL).grad


def no_grad() -> changed:
    """A with block, or a decorated function, in which operations record nothing: results need no gradient.

    Example:
        >>> import minigrad as mg
        >>> w = mg.Tensor([1.0], requires_grad=True)
        >>> with mg.no_grad():
        ...     w -= 0.5
        >>> w.data
        array([0.5])
    """
    return changed(grad=False)


def enable_grad() -> changed:
    """A with block, or a decorated function, in which operations record, also inside of no_grad()."""
    return changed(grad=True)


def debug() -> changed:
    """A with block, or a decorated function, in which nodes remember their source line, for errors to name."""
    return changed(watchers=lambda: watching(Watcher()))
