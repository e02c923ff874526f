"""check, check_vjp, check_call, assert_gradients: is a gradient right?

Each makes a `Subject` of what it is given and asks the judge. For a function of Tensors that fails, every operation on
the way is tried alone: so the report names the guilty line, or says that the chain rule itself does not hold there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minigrad.core.value import Value, raw
from minigrad.testing.accuracy import lost_digits
from minigrad.testing.blame import UNITS, calls_of, local, tried
from minigrad.testing.judge import judge, unsymmetric
from minigrad.testing.oracle import at_kink
from minigrad.testing.report import Finding, Report
from minigrad.testing.subject import Call, OfArrays, OfCall, OfTensors, Subject

UNITS_BY_HAND = 256.0  # of eps, that a hand-written VJP may lose in float32


class GradientError(AssertionError):
    """A gradient that is wrong, or that could not be decided; `report` has the story.

    Example:
        >>> import minigrad as mg
        >>> try:
        ...     assert_gradients(lambda x: x * mg.stop_gradient(x), 2.0)
        ... except GradientError as error:
        ...     error.report.verdict
        'fail'
    """

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report


def check(f: Callable[..., Any], *xs: Any, order: int = 1) -> Report:
    """Check the gradient of a function of Tensors at a point, by VJP and JVP.

    There is no tolerance to choose: the derivatives that it is compared with carry their own error bars. float32 inputs
    are lifted to float64 for that, where the function allows it, and the rules are then judged in float32 as well.

    Args:
        f: a function from trees of Tensors to a tree of floating-point Tensors; or a Module, whose parameters are then
            checked, too. It is called some hundred times, and must give the same result each time.
        xs: its arguments: Tensors, arrays, floats, or trees of them (modules, dicts, ...). All floating-point leaves
            are differentiated, whether they require a gradient or not.
        order: 2 checks also the gradient of the gradient, and so on.

    Returns:
        A report that is true if the gradient passed. 'unsure' says why it could not be decided.

    Raises:
        TypeError: nothing to differentiate, or a result that is not floating-point.
        whatever f raises at xs.

    Example:
        >>> import minigrad as mg
        >>> bool(check(lambda x: mg.sum(mg.tanh(x) * x), mg.Tensor([0.5, -2.0, 0.0])))
        True
        >>> print(check(lambda x: mg.relu(x) - mg.relu(-x), 0.0).verdict)
        unsure
    """
    return _again(_ordered(OfTensors(f, xs), order), "check", f, xs, f", order={order}" if order > 1 else "")


def assert_gradients(f: Callable[..., Any], *xs: Any, order: int = 1, allow_unsure: bool = False) -> None:
    """Raise a GradientError with the report unless `check(f, *xs, order=order)` passes.

    Args:
        f, xs, order: as for `check`.
        allow_unsure: whether a gradient that can't be decided is let through.

    Raises:
        GradientError: the gradient is wrong, or undecided.

    Example:
        >>> import minigrad as mg
        >>> assert_gradients(mg.exp, mg.Tensor([0.0, 1.0]), order=2)
    """
    report = check(f, *xs, order=order)
    if report.verdict == "fail" or (report.verdict == "unsure" and not allow_unsure):
        raise GradientError(report)


def check_vjp(f: Callable[..., Any], vjp: Callable[..., Any], *xs: Any) -> Report:
    """Check a hand-written gradient of a function of plain NumPy arrays.

    Args:
        f: takes arrays, returns an array, or a tuple of them.
        vjp: (g, *xs) -> the cotangent of x, or a tuple of one for each of the xs, where g is the cotangent of f's
            result (a tuple if f returns one): Σ g·∂f/∂x, of x's shape.
        xs: where to check it: arrays or floats, at least one of them floating-point. Others are held fixed, and may
            have a cotangent or not.

    Returns:
        A report that is true if the gradient passed.

    Raises:
        TypeError: nothing to differentiate.
        whatever f raises at xs.

    Example:
        >>> import numpy as np
        >>> bool(check_vjp(np.tanh, lambda g, x: g / np.cosh(x) ** 2, np.array([0.1, 20.0])))
        True
        >>> print(check_vjp(np.sin, lambda g, x: -g * np.cos(x), np.array([0.5])).findings[0].looks[0])
        the sign is flipped
    """
    subject = OfArrays(f, vjp, xs)
    wide = _lifted(subject)
    report = judge(wide or subject)
    if wide is not None and report.verdict != "fail":
        lost = lost_digits(subject, wide, UNITS_BY_HAND)
        report = report if lost is None else report.joined(Report(report.title, (lost,)))
    return _again(report, "check_vjp", f, (vjp, *xs))


def check_call(call: Call, order: int = 1) -> Report:
    """Check the rules of an operation at one call of it: linear and bilinear ones by their exact adjoints.

    Args:
        call: the operation, its inputs as arrays, and its parameters.
        order: as for `check`.

    Example:
        >>> import numpy as np, minigrad as mg
        >>> report = check_call(Call(mg.negative, (np.ones((2, 3)),)))
        >>> report.verdict, report.oracle
        ('pass', 'exact adjoints')
    """
    report = local(call)
    if order > 1 and report.verdict != "fail":
        report = report.joined(_gradient(OfCall(call), order - 1))
    return _again(report, "check_call", call, (), f", order={order}" if order > 1 else "")


def _again(report: Report, checker: str, f: Any, xs: Sequence[Any], rest: str = "") -> Report:
    """The report with a line that shows its findings again; numbers only if they are few."""
    if report:
        return report
    given = []
    for x in (f, *xs):
        if callable(x):
            given.append(getattr(x, "__name__", type(x).__name__))
        elif np.size(raw(x) if isinstance(x, (Value, np.ndarray, float, int)) else len(repr(x))) <= 40:
            given.append(" ".join(repr(raw(x) if isinstance(x, Value) else x).split()))
        else:
            given.append("...")
    line = f"{checker}({', '.join(given)}{rest})"
    return replace(report, findings=tuple(replace(finding, reproducer=line) for finding in report.findings))


def _ordered(subject: OfTensors, order: int) -> Report:
    """The report of a function, and of its gradient for higher orders."""
    report = _first_order(subject)
    return report if order == 1 or report.verdict == "fail" else report.joined(_gradient(subject, order - 1))


def _gradient(subject: OfTensors, order: int) -> Report:
    """The report of a function's VJP as a function of its inputs and cotangents."""
    gradient = subject.gradient()
    report = _ordered(gradient, order)
    wrong = unsymmetric(gradient, len(subject.inputs)) if report.verdict != "fail" and report.probes else None
    return report if wrong is None else report.joined(Report(report.title, (wrong,)))


def _first_order(subject: OfTensors) -> Report:
    wide = _lifted(subject)
    report = judge(wide or subject)
    if wide is not None and report.verdict != "fail":
        return report.joined(Report(report.title, tuple(_lost(subject))))
    if report.verdict == "fail":
        return _attributed(wide or subject, report)
    return report


def _lost(subject: OfTensors) -> Iterator[Finding]:
    """The operations that lose their digits in float32, where they are used."""
    for call, where in calls_of(subject.calls()):
        low = OfCall(call)
        if low.eps > 2.0**-30 and (finding := lost_digits(low, low.in_float64(), UNITS)) is not None:
            yield replace(finding, guilty=(f"{call.op.name} at {where}",))


def _lifted(subject: Subject) -> Any:
    """The same function at the same numbers in float64; None if it is there already, or can't be lifted."""
    if subject.eps < 2.0**-30:
        return None
    try:
        wide = subject.in_float64()
        low, high = subject.outputs, wide.outputs
    except Exception:  # a float32 closure may refuse float64 in any way
        return None
    return wide if wide.eps < 2.0**-30 and len(low) == len(high) else None


def _attributed(subject: OfTensors, report: Report) -> Report:
    """A failure with the guilty operations; or, where every local rule is valid, why the whole still disagrees."""
    found = tried(subject.calls())
    if found.guilty:
        rule, again = found.guilty[0].op.formula, found.guilty[0].report.findings[0]
        found_in = tuple(dict.fromkeys(map(str, found.guilty)))  # two calls on a line are said once
        findings = (replace(f, guilty=found_in, formula=rule, looks=f.looks or again.looks) for f in report.findings)
        return replace(report, findings=tuple(findings))
    kinks = [f"{call.op.name} at {where}" for call, where in calls_of(subject.calls()) if at_kink(OfCall(call))]
    if kinks:
        words = "every local rule is valid, but the chain rule does not hold at kinks"
        at = tuple(dict.fromkeys(kinks))
        findings = (replace(f, verdict="unsure", what=words, guilty=at, looks=()) for f in report.findings)
        return replace(report, findings=tuple(findings))
    if not report.findings[0].what.startswith("the VJP for"):  # it breaks a law, whatever is recorded
        return report
    words = "every recorded rule holds: something on the way is not recorded (detach, stop_gradient, .data, item)"
    return replace(report, findings=(*report.findings, Finding("fail", words)))
