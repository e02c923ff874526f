"""Right and wrong derivatives: what a gradient checker has to tell apart.

`CASES` is a table. Each case is a function of plain NumPy arrays, a vector-Jacobian product (VJP) written by hand, the
arrays at which it is judged, whether it is right there, and a word on what it shows. A right one must pass and a wrong
one must fail; that a checker "can't tell" counts as neither. The last group has functions of Tensors, whose VJP is
composed by minigrad from the rules of its operations (`Case.vjp` is None).

The wrong ones are mistakes that people make: a factor, a sign, a transposition, a sum over copies that was forgotten,
statistics taken for constants, an index off by one, digits lost in the tail. Many of the right ones stand where
checkers with fixed tolerances raise false alarms: large and small numbers, steep functions, kinks, float32.

Read a group, `elementwise` say, from top to bottom; `right` and `wrong` make one row. tests/testing/test_derivatives.py
verifies each label by differences of 50 digits. `benchmarks.checkers` shows what PyTorch and JAX say of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.core.op import registry
from minigrad.testing import Report, check, check_vjp

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: unique in the table.
        f: the function of the arrays; an array, or a tuple of them, comes out.
        vjp: (g, *xs) -> the cotangent of x, or a tuple of one for each of the xs; None if f is a function of Tensors.
        xs: where it is judged; float64 unless the group says otherwise.
        right: whether the VJP is right there.
        shows: what is special about it, in a few words; '' where the name says it.
        group: the part of the table.
    """

    name: str
    f: Callable[..., Any]
    vjp: Callable[..., Any] | None
    xs: tuple[Array, ...]
    right: bool
    shows: str
    group: str = ""

    def judged(self) -> Report:
        """What minigrad.testing says of it."""
        return check(self.f, *self.xs) if self.vjp is None else check_vjp(self.f, self.vjp, *self.xs)

    def forward(self, *xs: Array) -> Any:
        """The function on NumPy arrays, whatever it was written for."""
        return self.f(*map(mg.Tensor, xs)).data if self.vjp is None else self.f(*xs)

    def pull(self, g: Any, *xs: Array) -> tuple[Array, ...]:
        """The cotangents of all inputs, as NumPy arrays."""
        if self.vjp is None:
            bars = mg.vjp(self.f, *map(mg.Tensor, xs))[1](mg.Tensor(g))
            return tuple(bar.data for bar in (bars if isinstance(bars, tuple) else (bars,)))
        bars = self.vjp(g, *xs)
        return tuple(bars) if isinstance(bars, (tuple, list)) else (bars,)


def right(name: str, shows: str, f: Callable[..., Any], vjp: Callable[..., Any] | None, *xs: Any) -> Case:
    """A row whose VJP is right."""
    return Case(name, f, vjp, tuple(map(np.asarray, xs)), True, shows)


def wrong(name: str, shows: str, f: Callable[..., Any], vjp: Callable[..., Any] | None, *xs: Any) -> Case:
    """A row whose VJP is wrong."""
    return Case(name, f, vjp, tuple(map(np.asarray, xs)), False, shows)


def sigmoid(x: Any) -> Any:
    """1/(1 + exp(-x)), without overflow."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def softmax(x: Any) -> Any:
    """exp(x) over its sum along the last axis."""
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


def logsumexp(x: Any) -> Any:
    """log Σ exp x along the last axis."""
    largest = np.max(x, axis=-1, keepdims=True)
    return (np.log(np.sum(np.exp(x - largest), axis=-1, keepdims=True)) + largest)[..., 0]


def elementwise() -> Iterator[Case]:
    """One number in, one number out."""
    rng = np.random.default_rng(1)
    x, a, b = rng.normal(size=(4, 4)), rng.normal(size=(3, 5)), rng.uniform(0.5, 2.0, (3, 5))
    yield right("sin", "the simplest case", np.sin, lambda g, x: g * np.cos(x), x)
    yield wrong("cos, sign flipped", "the derivative of cos is -sin", np.cos, lambda g, x: g * np.sin(x), x)
    yield right("exp", "the rule uses the output", np.exp, lambda g, x: g * np.exp(x), x)
    yield right("tanh", "as 1 - y²", np.tanh, lambda g, x: g * (1 - np.tanh(x) ** 2), x)
    yield wrong("tanh, as 1 - x²", "x for y", np.tanh, lambda g, x: g * (1 - x**2), x)
    yield wrong("square, factor dropped", "x in place of 2x", lambda x: x * x, lambda g, x: g * x, x)
    yield wrong("cube, y for x", "3y² in place of 3x²", lambda x: x * x * x, lambda g, x: g * 3 * x**6, x)
    yield right("product", "two inputs", lambda a, b: a * b, lambda g, a, b: (g * b, g * a), a, b)
    yield wrong("product, swapped", "each gets its own", lambda a, b: a * b, lambda g, a, b: (g * a, g * b), a, b)
    yield right("quotient", "two inputs", lambda a, b: a / b, lambda g, a, b: (g / b, -g * a / b**2), a, b)
    yield wrong("quotient, b not squared", "b̄ = -ȳ·a/b", lambda a, b: a / b, lambda g, a, b: (g / b, -g * a / b), a, b)
    yield right(
        "power",
        "of a positive base, in both inputs",
        lambda a, b: np.exp(b * np.log(a)),
        lambda g, a, b: (g * b * a ** (b - 1), g * a**b * np.log(a)),
        b,
        a,
    )
    yield wrong(
        "power, logarithm forgotten",
        "b̄ = ȳ·aᵇ",
        lambda a, b: np.exp(b * np.log(a)),
        lambda g, a, b: (g * b * a ** (b - 1), g * a**b),
        b,
        a,
    )
    silu = lambda x: x * sigmoid(x)
    yield right("SiLU", "", silu, lambda g, x: g * (sigmoid(x) + x * sigmoid(x) * sigmoid(-x)), x)
    yield wrong("SiLU, product rule", "the second term is missing", silu, lambda g, x: g * sigmoid(x), x)
    c = np.sqrt(2 / np.pi)
    gelu = lambda x: 0.5 * x * (1 + np.tanh(c * (x + 0.044715 * x * x * x)))

    def gelu_vjp(g: Array, x: Array, inner: float = 3 * 0.044715) -> Array:
        t = np.tanh(c * (x + 0.044715 * x**3))
        return g * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * c * (1 + inner * x**2))

    yield right("GELU", "its tanh form", gelu, gelu_vjp, x)
    yield wrong("GELU, inner factor 3", "0.044715·x² in place of 3·", gelu, lambda g, x: gelu_vjp(g, x, 0.044715), x)
    yield right("softplus", "its slope is σ(x)", lambda x: logsumexp(np.stack([0 * x, x], -1)), _softplus_vjp, x)
    both = lambda x: (np.sin(x), np.cos(x))
    yield right("sin and cos", "two outputs", both, lambda g, x: g[0] * np.cos(x) - g[1] * np.sin(x), x)
    yield wrong("sin and cos, one ignored", "two outputs", both, lambda g, x: g[0] * np.cos(x), x)


def _softplus_vjp(g: Array, x: Array) -> Array:
    return g * sigmoid(x)


def reductions() -> Iterator[Case]:
    """Many numbers in, few out."""
    rng = np.random.default_rng(2)
    x, p = rng.normal(size=(4, 5)), rng.uniform(0.5, 1.5, 6)
    row = lambda g: g[:, None]
    total, mean = lambda x: np.sum(x, axis=1), lambda x: np.sum(x, axis=1) / 5
    yield right("sum", "the cotangent is copied", total, lambda g, x: row(g) + 0 * x, x)
    yield right("mean", "... and divided", mean, lambda g, x: row(g) / 5 + 0 * x, x)
    yield wrong("mean, as sum", "1/n forgotten", mean, lambda g, x: row(g) + 0 * x, x)
    yield wrong("mean, wrong n", "divided by the other axis' length", mean, lambda g, x: row(g) / 4 + 0 * x, x)
    yield right("product of all", "as y/x", np.prod, lambda g, x: g * np.prod(x) / x, p)
    q = np.array([2.0, 0.0, -3.0, 0.5])
    rest = lambda x: np.array([np.prod(np.delete(x, i)) for i in range(len(x))])
    yield right("product with a zero", "the others' product", np.prod, lambda g, x: g * rest(x), q)
    yield wrong("product with a zero, as y/x", "0/0 is no number", np.prod, lambda g, x: g * np.prod(x) / x, q)
    deviation = lambda x: x - np.sum(x, axis=1, keepdims=True) / 5
    var = lambda x: np.sum(deviation(x) ** 2, axis=1) / 5
    yield right("variance", "the mean's terms add up to 0", var, lambda g, x: row(g) * 2 / 5 * deviation(x), x)
    yield wrong("variance, corrected", "1/(n-1) for 1/n", var, lambda g, x: row(g) * 2 / 4 * deviation(x), x)
    yield wrong("variance, mean forgotten", "as if it were Σx²/n", var, lambda g, x: row(g) * 2 / 5 * x, x)
    norm = lambda x: np.sqrt(np.sum(x * x))
    yield right("norm", "", norm, lambda g, x: g * x / np.sqrt(np.sum(x * x)), x)
    yield wrong("norm, not normalised", "2x, the rule of its square", norm, lambda g, x: g * 2 * x, x)
    yield right("logsumexp", "", logsumexp, lambda g, x: row(g) * softmax(x), x)
    yield wrong("logsumexp, as a mean", "each gets 1/n", logsumexp, lambda g, x: row(g) / 5 + 0 * x, x)
    largest = lambda x: np.max(x, axis=1)
    hit = lambda x: x == np.max(x, axis=1, keepdims=True)
    yield right("max", "goes to the largest", largest, lambda g, x: row(g) * hit(x), x)
    yield wrong("max, shared", "a part of it goes to all", largest, lambda g, x: row(g) * (hit(x) + 1e-3), x)
    running = lambda x: np.cumsum(x, axis=1)
    back = lambda g: np.flip(np.cumsum(np.flip(g, 1), axis=1), 1)
    yield right("running sum", "from the end", running, lambda g, x: back(g), x)
    yield wrong("running sum, forwards", "its own rule", running, lambda g, x: np.cumsum(g, axis=1), x)
    yield wrong("running sum, off by one", "the element itself is left out", running, lambda g, x: back(g) - g, x)
    inner = lambda g, y: np.sum(g * y, axis=-1, keepdims=True)
    yield right("softmax", "y(ȳ - Σȳy)", softmax, lambda g, x: softmax(x) * (g - inner(g, softmax(x))), x)
    yield wrong("softmax, diagonal alone", "y(1 - y)ȳ", softmax, lambda g, x: g * softmax(x) * (1 - softmax(x)), x)
    yield wrong("softmax, over all axes", "Σ over the rows, too", softmax, _softmax_over_all, x)


def _softmax_over_all(g: Array, x: Array) -> Array:
    y = softmax(x)
    return y * (g - np.sum(g * y))


def contractions() -> Iterator[Case]:
    """Products of matrices, and what stands in a course on linear algebra."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(3, 3)), rng.normal(size=(3, 3))
    mm = lambda a, b: a @ b
    yield right("matmul", "ȲBᵀ and AᵀȲ", mm, lambda g, a, b: (g @ b.T, a.T @ g), a, b)
    yield wrong("matmul, untransposed", "ȲB: square, so no error", mm, lambda g, a, b: (g @ b, a.T @ g), a, b)
    yield wrong("matmul, swapped", "ȲAᵀ in place of AᵀȲ", mm, lambda g, a, b: (g @ b.T, g @ a.T), a, b)
    yield wrong("matmul, result transposed", "(AᵀȲ)ᵀ", mm, lambda g, a, b: (g @ b.T, (a.T @ g).T), a, b)
    batch, w = rng.normal(size=(4, 2, 3)), rng.normal(size=(3, 2))
    yield right(
        "batched matmul",
        "one matrix for the whole batch: Σ over it",
        mm,
        lambda g, a, b: (g @ b.T, np.sum(np.swapaxes(a, 1, 2) @ g, axis=0)),
        batch,
        w,
    )
    yield wrong(
        "batched matmul, first alone",
        "the others are forgotten",
        mm,
        lambda g, a, b: (g @ b.T, a[0].T @ g[0]),
        batch,
        w,
    )
    u, v = rng.normal(size=4), rng.normal(size=4)
    outer = lambda u, v: u[:, None] * v
    yield right("outer product", "", outer, lambda g, u, v: (g @ v, g.T @ u), u, v)
    yield wrong("outer product, transposed", "", outer, lambda g, u, v: (g.T @ v, g @ u), u, v)
    x = rng.normal(size=3)
    form = lambda x, a: x @ a @ x
    yield right("quadratic form", "(A + Aᵀ)x", form, lambda g, x, a: (g * (a + a.T) @ x, g * np.outer(x, x)), x, a)
    yield wrong(
        "quadratic form, as 2Ax", "A is not symmetric", form, lambda g, x, a: (g * 2 * a @ x, g * np.outer(x, x)), x, a
    )
    m = a + 3 * np.eye(3)
    inv, det, solve = np.linalg.inv, np.linalg.det, np.linalg.solve
    yield right("inverse", "-YᵀȲYᵀ", inv, lambda g, m: -inv(m).T @ g @ inv(m).T, m)
    yield wrong("inverse, untransposed", "-YȲY", inv, lambda g, m: -inv(m) @ g @ inv(m), m)
    yield right("determinant", "ȳ·y·A⁻ᵀ", det, lambda g, m: g * det(m) * inv(m).T, m)
    yield wrong("determinant, untransposed", "ȳ·y·A⁻¹", det, lambda g, m: g * det(m) * inv(m), m)
    c = rng.normal(size=(3, 2))

    def solve_vjp(g: Array, m: Array, c: Array, sign: float = -1.0) -> tuple[Array, Array]:
        bar = solve(m.T, g)
        return sign * bar @ solve(m, c).T, bar

    yield right("solve", "b̄ = A⁻ᵀȳ, Ā = -b̄yᵀ", solve, solve_vjp, m, c)
    yield wrong("solve, sign of Ā", "+b̄yᵀ", solve, lambda g, m, c: solve_vjp(g, m, c, 1.0), m, c)
    half = lambda a: (a + a.T) / 2

    def eigenvalues_vjp(g: Array, a: Array) -> Array:
        vectors = np.linalg.eigh(half(a))[1]
        return (vectors * g) @ vectors.T

    eigenvalues = lambda a: np.linalg.eigvalsh(half(a))
    yield right("eigenvalues", "V diag(ȳ) Vᵀ", eigenvalues, eigenvalues_vjp, a)
    singular = lambda a: np.linalg.svd(a, compute_uv=False)

    def singular_vjp(g: Array, a: Array) -> Array:
        left, _, right_t = np.linalg.svd(a)
        return (left * g) @ right_t

    yield right("singular values", "U diag(ȳ) Vᵀ", singular, singular_vjp, a)
    spd = lambda a: a @ a.T + np.eye(3)

    def cholesky_vjp(g: Array, s: Array, keep: float = 0.5) -> Array:
        l = np.linalg.cholesky(half(s))
        phi = np.tril(l.T @ g)
        phi[np.diag_indices(3)] *= keep
        return half(solve(l.T, phi) @ inv(l))

    factor = lambda s: np.linalg.cholesky(half(s))
    yield right("Cholesky factor", "(Murray 2016)", factor, cholesky_vjp, spd(a))
    yield wrong("Cholesky factor, diagonal", "not halved", factor, lambda g, s: cholesky_vjp(g, s, 1.0), spd(a))
    p, q = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    yield right("cross product", "", np.cross, lambda g, a, b: (np.cross(b, g), np.cross(g, a)), p, q)
    yield wrong("cross product, anticommuted", "", np.cross, lambda g, a, b: (np.cross(g, b), np.cross(g, a)), p, q)
    signal, kernel = rng.normal(size=9), rng.normal(size=3)
    conv = lambda x, k: sum(k[i] * x[i : i + 7] for i in range(3))
    full = lambda g, k: sum(k[i] * np.pad(g, (i, 2 - i)) for i in range(3))
    taps = lambda g, x: np.array([g @ x[i : i + 7] for i in range(3)])
    yield right("convolution", "by hand", conv, lambda g, x, k: (full(g, k), taps(g, x)), signal, kernel)
    yield wrong("convolution, kernel flipped", "", conv, lambda g, x, k: (full(g, k[::-1]), taps(g, x)), signal, kernel)


def indexing() -> Iterator[Case]:
    """Elements taken, put and moved."""
    rng = np.random.default_rng(4)
    x, order = rng.normal(size=6), np.array([4, 0, 4, 2])

    def added(g: Array, x: Array, index: Array) -> Array:
        bar = np.zeros_like(x)
        np.add.at(bar, index, g)
        return bar

    def assigned(g: Array, x: Array, index: Array) -> Array:
        bar = np.zeros_like(x)
        bar[index] = g
        return bar

    take = lambda x: x[order]
    yield right("gather", "index 4 comes twice", take, lambda g, x: added(g, x, order), x)
    yield wrong("gather, assigned", "index 4 comes twice, the last wins", take, lambda g, x: assigned(g, x, order), x)
    rows = rng.normal(size=(5, 3))
    tokens = np.array([[0, 3], [3, 3]])
    yield right("embedding", "rows taken", lambda w: w[tokens], lambda g, w: added(g, w, tokens), rows)
    yield right("slice", "", lambda x: x[1:5:2], lambda g, x: added(g, x, np.array([1, 3])), x)
    yield wrong("slice, off by one", "", lambda x: x[1:5:2], lambda g, x: added(g, x, np.array([2, 4])), x)

    def scattered(x: Any) -> Any:
        y = np.zeros(5, x.dtype)
        np.add.at(y, np.array([1, 1, 3, 0, 4, 3]), x)
        return y

    yield right("scatter", "a gather is its rule", scattered, lambda g, x: g[np.array([1, 1, 3, 0, 4, 3])], x)
    yield wrong("scatter, sorted", "the indices in another order", scattered, lambda g, x: g[[0, 1, 1, 3, 3, 4]], x)
    yield right("sort", "x̄[order] = ȳ", np.sort, lambda g, x: assigned(g, x, np.argsort(x)), x)
    yield wrong("sort, not inverted", "x̄ = ȳ[order]", np.sort, lambda g, x: g[np.argsort(x)], x)
    shifted = lambda x: np.roll(x, 2)
    yield right("roll", "back", shifted, lambda g, x: np.roll(g, -2), x)
    yield wrong("roll, the same way", "", shifted, lambda g, x: np.roll(g, 2), x)
    square = rng.normal(size=(3, 3))
    lower = lambda x: np.tril(x) * 2
    yield right("lower triangle", "", lower, lambda g, x: np.tril(g) * 2, square)
    yield wrong("lower triangle, upper", "", lower, lambda g, x: np.triu(g) * 2, square)
    turned = lambda x: np.transpose(x, (2, 0, 1))
    cube = rng.normal(size=(3, 3, 3))
    yield right("permuted axes", "the inverse permutation", turned, lambda g, x: np.transpose(g, (1, 2, 0)), cube)
    yield wrong("permuted axes, not inverted", "", turned, lambda g, x: np.transpose(g, (2, 0, 1)), cube)
    column = lambda x: np.reshape(x, (9,))
    yield wrong("reshape, by columns", "", column, lambda g, x: np.reshape(g, (3, 3), order="F"), square)
    thrice = lambda x: np.concatenate([x, x, x])
    yield right("repeat", "Σ of the copies", thrice, lambda g, x: np.sum(np.reshape(g, (3, 6)), axis=0), x)
    yield wrong("repeat, first copy", "", thrice, lambda g, x: g[:6], x)
    mask = np.array([True, False, True, True, False, True])
    yield right("mask", "", lambda x: x[mask] * 2, lambda g, x: assigned(2 * g, x, mask), x)
    yield wrong("mask, inverted", "", lambda x: np.where(mask, x, 2 * x), lambda g, x: np.where(mask, 2 * g, g), x)


def broadcasting() -> Iterator[Case]:
    """A number used for many: its cotangents add up."""
    rng = np.random.default_rng(5)
    x, bias, square = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(3, 3))
    add = lambda x, b: x + b
    yield right("bias", "Σ over the batch", add, lambda g, x, b: (g, np.sum(g, axis=0)), x, bias)
    yield wrong("bias, one copy", "the first row's", add, lambda g, x, b: (g, g[0]), x, bias)
    yield wrong("bias, mean", "in place of Σ", add, lambda g, x, b: (g, np.mean(g, axis=0)), x, bias)
    yield wrong("bias, wrong axis", "square, so no error", add, lambda g, x, b: (g, np.sum(g, axis=1)), square, bias)
    scaled, factor = lambda x, s: s * x, np.array(0.7)
    yield right("scalar times array", "", scaled, lambda g, x, s: (g * s, np.sum(g * x)), x, factor)
    yield wrong("scalar times array, Σȳ·Σx", "", scaled, lambda g, x, s: (g * s, np.sum(g) * np.sum(x)), x, factor)
    left, below = rng.normal(size=(4, 1)), rng.normal(size=(1, 3))
    both = lambda a, b: np.sin(a * b)

    def both_vjp(g: Array, a: Array, b: Array) -> tuple[Array, Array]:
        slope = g * np.cos(a * b)
        return np.sum(slope * b, axis=1, keepdims=True), np.sum(slope * a, axis=0, keepdims=True)

    yield right("column and row", "each copied along the other", both, both_vjp, left, below)

    def overwritten(g: Array, a: Array, b: Array) -> tuple[Array, Array]:
        g = np.array(g)
        g *= b
        return g, g * a

    c = rng.normal(size=(4, 3))
    yield wrong("product, cotangent reused", "after it was overwritten", lambda a, b: a * b, overwritten, x, c)


def kinks() -> Iterator[Case]:
    """Where left and right slopes differ, any value between them is right; nothing beyond is. And near kinks."""
    zero = np.zeros(1)
    relu = lambda x: np.maximum(x, 0.0)
    step = lambda at_zero: lambda g, x: g * np.where(x == 0, at_zero, np.where(x > 0, 1.0, 0.0))
    at = np.array([0.0, -1.0, 2.0])
    for value in (0.0, 0.5, 1.0):
        yield right(f"relu at 0, {value:g}", "a subgradient", relu, step(value), at)
    for value in (2.0, -0.5, 1.001):
        yield wrong(f"relu at 0, {value:g}", "no subgradient", relu, step(value), at)
    yield right("relu at 3e-7", "near a kink", relu, step(0.0), np.array([3e-7, -3e-7, 1.0]))
    yield right("relu at 3e-7, alone", "near a kink", relu, step(0.0), np.array([3e-7]))
    yield right("relu at 1e-12", "nearer", relu, step(0.0), np.array([1e-12, -1e-12]))
    yield wrong(
        "relu at 3e-7, smoothed",
        "half the slope next to the kink",
        relu,
        lambda g, x: g * np.clip(x / 6e-7, 0.0, 1.0),
        np.array([3e-7, -3e-7, 1.0]),
    )
    yield right("abs at 0, 0", "", np.abs, lambda g, x: g * np.sign(x), at)
    yield right("abs at 0, 1", "", np.abs, lambda g, x: g * np.where(x >= 0, 1.0, -1.0), at)
    yield wrong("abs at 0, 1.5", "", np.abs, lambda g, x: g * np.where(x == 0, 1.5, np.sign(x)), at)
    yield wrong("abs, as 1", "also for x < 0", np.abs, lambda g, x: g * np.ones_like(x), at)
    a, b = np.array([1.0, 2.0, 3.0]), np.array([1.0, 5.0, -1.0])
    tie = lambda share_a, share_b: (
        lambda g, a, b: (
            g * np.where(a == b, share_a, a > b),
            g * np.where(a == b, share_b, b > a),
        )
    )
    yield right("maximum with a tie, halves", "", np.maximum, tie(0.5, 0.5), a, b)
    yield right("maximum with a tie, first", "", np.maximum, tie(1.0, 0.0), a, b)
    yield wrong("maximum with a tie, both", "counted twice", np.maximum, tie(1.0, 1.0), a, b)
    yield wrong("maximum with a tie, neither", "counted never", np.maximum, tie(0.0, 0.0), a, b)
    clip = lambda x: np.minimum(np.maximum(x, -1.0), 1.0)
    clip_rule = lambda inside: lambda g, x: g * np.where(np.abs(x) == 1, inside, np.abs(x) < 1)
    bounds = np.array([-1.0, 1.0, 0.3, 4.0])
    yield right("clip at its bounds, 0", "", clip, clip_rule(0.0), bounds)
    yield right("clip at its bounds, 1", "", clip, clip_rule(1.0), bounds)
    yield wrong("clip at its bounds, -1", "", clip, clip_rule(-1.0), bounds)
    yield wrong("clip, straight through", "as if it did not clip", clip, lambda g, x: g, bounds)
    huber = lambda x: np.where(np.abs(x) <= 1, 0.5 * x * x, np.abs(x) - 0.5)
    yield right("Huber at its joints", "smooth there", huber, lambda g, x: g * np.clip(x, -1, 1), bounds)
    yield wrong("Huber, not clipped", "beyond the joint", huber, lambda g, x: g * x, bounds)
    yield right("x·|x| at 0", "smooth, but no parabola", lambda x: x * np.abs(x), lambda g, x: g * 2 * np.abs(x), zero)
    yield wrong("x·|x| at 0, 1", "", lambda x: x * np.abs(x), lambda g, x: g * (2 * np.abs(x) + (x == 0)), zero)
    between = np.array([0.3, -1.7, 2.5])
    yield right("floor", "flat between its jumps", np.floor, lambda g, x: g * 0, between)
    yield wrong(
        "floor, straight through", "an estimator, no derivative", np.floor, lambda g, x: g, np.array([0.3, 2.5])
    )
    l1 = lambda x: np.sum(np.abs(x))
    yield right("L1 norm with zeros", "", l1, lambda g, x: g * np.sign(x), np.array([0.0, 2.0, 0.0, -1.0]))
    margin = lambda x: np.sum(np.maximum(0.0, 1.0 - x))
    yield right("hinge loss at its margin", "", margin, lambda g, x: -g * (x < 1), np.array([1.0, 0.2, 3.0]))
    yield wrong("hinge loss, sign", "", margin, lambda g, x: g * (x < 1), np.array([1.0, 0.2, 3.0]))
    norm = lambda x: np.sqrt(np.sum(x * x))
    yield right("norm at 0", "0 is a subgradient of a cone", norm, lambda g, x: g * 0 * x, np.zeros(3))
    yield wrong("norm at 0, 2", "longer than 1", norm, lambda g, x: g * 2 + 0 * x, np.zeros(3))


def scales() -> Iterator[Case]:
    """Large and small numbers, steep and flat functions."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=5)
    square, double = lambda x: x * x, lambda g, x: g * 2 * x
    large = np.array([1e9, -2e9, 3e9])
    yield right("square at 1e9", "rounding of 1e18 is 128", square, double, large)
    yield wrong("square at 1e9, 3x", "", square, lambda g, x: g * 3 * x, large)
    yield right("square at 1e-9", "", square, double, large * 1e-18)
    yield wrong("square at 1e-9, 3x", "next to nothing, but wrong", square, lambda g, x: g * 3 * x, large * 1e-18)
    yield right("square at 1e-30", "", square, double, large * 1e-39)
    yield right("square at 1e150", "", square, double, np.array([1e150, 2.5e150]))
    yield right("sine of 1e-30", "", np.sin, lambda g, x: g * np.cos(x), np.array([1e-30, -3e-30]))
    small = lambda x: 1e-6 * np.sin(x)
    yield right("small function", "of size 1e-6", small, lambda g, x: g * 1e-6 * np.cos(x), x)
    yield wrong("small function, 5 times", "of size 1e-6", small, lambda g, x: g * 5e-6 * np.cos(x), x)
    yield wrong("small function, 0", "of size 1e-6", small, lambda g, x: g * 0 * x, x)
    tiny = lambda x: 1e-200 * np.sin(x)
    yield wrong("tiny function, 5 times", "of size 1e-200", tiny, lambda g, x: g * 5e-200 * np.cos(x), x)
    mixed = np.array([1e-8, 1e-4, 1.0, 1e4, 1e8])
    yield right("square, mixed", "1e-8 to 1e8 in one array", square, double, mixed)
    yield wrong("square, mixed, smallest", "half there", square, lambda g, x: g * np.where(x < 1e-6, x, 2 * x), mixed)
    weighted = lambda x: np.sum(np.sin(x / mixed))
    yield right(
        "sum of mixed units", "slopes of 1e-8 to 1e8", weighted, lambda g, x: g * np.cos(x / mixed) / mixed, mixed
    )
    yield wrong(
        "sum of mixed units, flattest",
        "the slope of 1e-8 is taken as 0",
        weighted,
        lambda g, x: g * np.where(mixed > 1e7, 0.0, np.cos(x / mixed) / mixed),
        mixed,
    )
    low = np.array([-40.0, -39.0, -30.0])
    yield right("exp at -40", "4e-18", np.exp, lambda g, x: g * np.exp(x), low)
    yield wrong("exp at -40, cut off", "as if it were 0", np.exp, lambda g, x: g * np.where(x < -36, 0, np.exp(x)), low)
    yield right("exp at 700", "1e304, near overflow", np.exp, lambda g, x: g * np.exp(x), np.array([700.0, 690.0]))
    steep = lambda x: np.sin(1000 * x)
    yield right("sin 1000x", "steep", steep, lambda g, x: g * 1000 * np.cos(1000 * x), x)
    yield wrong("sin 1000x, inner factor", "dropped", steep, lambda g, x: g * np.cos(1000 * x), x)
    yield right("sin at 1e6", "far out", np.sin, lambda g, x: g * np.cos(x), np.array([1e6, 1e6 + 1]))
    yield right("1/x near 0", "1e16", lambda x: 1 / x, lambda g, x: -g / x**2, np.array([1e-8, -2e-8]))
    yield right("sqrt near 0", "a slope of 5e9", np.sqrt, lambda g, x: g / (2 * np.sqrt(x)), np.array([1e-20, 1e-10]))
    near = np.array([1e-10, 1e-4])
    yield wrong("sqrt near 0, regularised", "", np.sqrt, lambda g, x: g / (2 * np.sqrt(x + 1e-8)), near)
    yield right("log near 0", "a slope of 1e12", np.log, lambda g, x: g / x, np.array([1e-12, 1e-3]))
    yield wrong("log near 0, regularised", "1/(x + 1e-7)", np.log, lambda g, x: g / (x + 1e-7), np.array([1e-6, 0.5]))
    norm = lambda x: np.sqrt(np.sum(x * x))
    yield right(
        "norm near 0", "1e-12", norm, lambda g, x: g * x / np.sqrt(np.sum(x * x)), 1e-12 * np.array([3.0, -4.0, 1.0])
    )
    hypot = lambda a, b: np.sqrt((a / 1e200) ** 2 + (b / 1e200) ** 2) * 1e200
    far = (np.array([3e200]), np.array([-4e200]))
    stable = lambda g, a, b: (g * (a / np.hypot(a, b)), g * (b / np.hypot(a, b)))
    naive = lambda g, a, b: (g * a / np.sqrt(a * a + b * b), g * b / np.sqrt(a * a + b * b))
    yield right("hypotenuse at 1e200", "", hypot, stable, *far)
    yield wrong("hypotenuse at 1e200, naive", "the rule overflows, and gives 0", hypot, naive, *far)
    logits = np.array([[1e4, 1e4 - 1, -1e4], [-2e4, 0.5, 1.0]])
    yield right("logsumexp of 1e4", "exp would overflow", logsumexp, lambda g, x: g[:, None] * softmax(x), logits)
    labels = np.array([1, 2])
    nll = lambda x: np.sum(logsumexp(x) - x[[0, 1], labels]) / 2

    def nll_vjp(g: Array, x: Array, batch: float = 2.0) -> Array:
        return g * (softmax(x) - np.eye(3)[labels]) / batch

    yield right("cross-entropy, huge logits", "", nll, nll_vjp, logits)
    yield wrong("cross-entropy, huge logits, Σ", "1/n forgotten", nll, lambda g, x: nll_vjp(g, x, 1.0), logits)
    yield right("log1p at 1e-17", "1 + x is 1", np.log1p, lambda g, x: g / (1 + x), np.array([1e-17, -1e-12]))
    pole = np.pi / 2 - np.array([1e-4, 1e-3])
    tan = lambda x: np.sin(x) / np.cos(x)
    yield right("tan near its pole", "a slope of 1e8", tan, lambda g, x: g / np.cos(x) ** 2, pole)
    yield right(
        "two inputs, 1e12 apart",
        "",
        lambda a, b: a * b,
        lambda g, a, b: (g * b, g * a),
        1e-6 * x,
        1e6 * (x + 3),
    )
    flat = lambda x: np.cosh(np.tanh(x))
    flat_rule = lambda g, x: g * np.sinh(np.tanh(x)) / np.cosh(x) ** 2
    saturated = np.array([14.0, 1.0, -1e-3])
    yield right("even and saturated", "long steps see a constant", flat, flat_rule, saturated)
    yield wrong("even and saturated, 0", "", flat, lambda g, x: 0 * g, saturated)
    rows = np.array([[7.6, 43.7, 41.4], [0.3, 2.0, -100.0]])
    inner = lambda g, y: np.sum(g * y, axis=-1, keepdims=True)
    yield right("softmax, saturated", "to 1e-45", softmax, lambda g, x: softmax(x) * (g - inner(g, softmax(x))), rows)
    yield wrong("softmax, saturated, sign", "", softmax, lambda g, x: softmax(x) * (g + inner(g, softmax(x))), rows)
    yield right("tanh of 14", "1 - y is 1e-12", np.tanh, lambda g, x: g / np.cosh(x) ** 2, saturated[:1])
    yield wrong("tanh of 8, 1 %", "1 - y is 2e-7", np.tanh, lambda g, x: g * 1.01 / np.cosh(x) ** 2, np.array([8.0]))
    yield right(
        "sum of softmax", "always 1", lambda x: np.sum(softmax(x)), lambda g, x: g * 0 * x, rng.normal(size=(3, 4))
    )
    yield wrong(
        "sum of softmax, y", "", lambda x: np.sum(softmax(x)), lambda g, x: g * softmax(x), rng.normal(size=(3, 4))
    )
    yield right("constant", "slope 0", lambda x: 0 * x + 3, lambda g, x: 0 * g, x)
    yield wrong("constant, 1e-6", "", lambda x: 0 * x + 3, lambda g, x: 1e-6 * g, x)
    yield right(
        "minimum of a parabola", "slope 0", lambda x: np.sum((x - 1) ** 2), lambda g, x: g * 2 * (x - 1), np.ones(4)
    )


def small_errors() -> Iterator[Case]:
    """Nearly right is wrong: by little everywhere, or by much in few places."""
    rng = np.random.default_rng(8)
    x = rng.normal(size=1000)
    few = x[:40]
    cos = lambda g, x: g * np.cos(x)
    yield right("sine of 1000", "exact", np.sin, cos, x)
    yield wrong("1e-9 off", "everywhere", np.sin, lambda g, x: cos(g, x) * (1 + 1e-9), few)
    yield wrong("1e-6 off", "everywhere", np.sin, lambda g, x: cos(g, x) * (1 + 1e-6), few)
    yield wrong("0.09 % off", "everywhere", np.sin, lambda g, x: cos(g, x) * 1.0009, x)
    yield wrong("1 % off", "everywhere", np.sin, lambda g, x: cos(g, x) * 1.01, x)
    yield wrong("0.09 % off, one number", "", np.sin, lambda g, x: cos(g, x) * 1.0009, x[:1])
    yield wrong("1e-9 too much", "a constant added", np.sin, lambda g, x: cos(g, x) + 1e-9 * g, few)
    yield wrong("noise of 1e-7", "as from float32", np.sin, lambda g, x: g * np.cos(x.astype("f")).astype(float), few)
    one = np.where(np.arange(1000) == 617, 1.5, 1.0)
    yield wrong("one of 1000", "50 % off", np.sin, lambda g, x: cos(g, x) * one, x)
    yield wrong("one of 1000, sum", "50 % off", lambda x: np.sum(np.sin(x)), lambda g, x: g * np.cos(x) * one, x)
    yield wrong("one of 1000, missing", "0", np.sin, lambda g, x: cos(g, x) * (one < 1.2), x)
    matrix, vector = rng.normal(size=(40, 30)), rng.normal(size=30)
    spot = np.where(np.arange(1200).reshape(40, 30) == 333, 0.9, 1.0)
    product = lambda a, b: a @ b
    yield wrong(
        "one of 1200, matrix",
        "10 % off",
        product,
        lambda g, a, b: (np.outer(g, b) * spot, a.T @ g),
        matrix,
        vector,
    )
    soft = lambda x: logsumexp(np.stack([0 * x, x], -1))
    yield wrong("only for x < 0", "exp(x) for σ(x)", soft, lambda g, x: g * np.where(x < 0, np.exp(x), sigmoid(x)), few)
    ramp = np.linspace(-6, 6, 25)
    slope = lambda x: 1 / np.cosh(x) ** 2
    yield wrong(
        "only in the tail", "0 for |x| > 5", np.tanh, lambda g, x: g * np.where(np.abs(x) > 5, 0, slope(x)), ramp
    )
    yield wrong("only at 0", "x = 0 taken out", np.tanh, lambda g, x: g * np.where(x == 0, 0, slope(x)), ramp)
    yield wrong("only the largest", "1 % off", np.sin, lambda g, x: cos(g, x) * np.where(x == x.max(), 0.99, 1), few)
    yield wrong(
        "small cotangents dropped", "below 1e-6", np.sin, lambda g, x: cos(np.where(np.abs(g) < 1e-6, 0, g), x), few
    )
    yield wrong("cotangent clipped", "not linear in it", np.sin, lambda g, x: cos(np.clip(g, -1, 1), x), few)
    yield wrong("cotangent squared", "not linear in it", np.sin, lambda g, x: cos(g * g, x), few)
    yield wrong("cotangent ignored", "right for ones alone", np.sin, lambda g, x: np.cos(x), few)
    yield wrong("cotangent's magnitude", "its sign is lost", np.sin, lambda g, x: cos(np.abs(g), x), few)
    half = lambda g: g.astype(np.float16).astype(float)
    yield wrong("cotangent rounded", "to float16", np.sin, lambda g, x: cos(half(g), x), few)
    yield wrong("one is nan", "", np.sin, lambda g, x: cos(g, x) * np.where(one > 1.2, np.nan, 1.0), x)
    yield wrong("detached", "0 for one of two", lambda a, b: a * b, lambda g, a, b: (g * b, 0 * b), x[:9], x[9:18])


def single_precision() -> Iterator[Case]:
    """float32: the same rules, and where the usual forms lose their digits."""
    rng = np.random.default_rng(9)
    x = rng.normal(size=(4, 4)).astype("f")
    tail = np.array([8.5, -9.0, 0.3], "f")
    yield right("float32 sin", "", np.sin, lambda g, x: g * np.cos(x), x)
    yield wrong("float32 cos, sign", "", np.cos, lambda g, x: g * np.sin(x), x)
    yield wrong("float32, 0.1 % off", "", np.sin, lambda g, x: g * np.cos(x) * np.float32(1.001), x)
    yield wrong("float32, 1e-5 off", "84 eps", np.sin, lambda g, x: g * np.cos(x) * 1.00001, x)
    yield right("float32 square at 1e9", "", lambda x: x * x, lambda g, x: g * 2 * x, np.array([1e9, -3e9], "f"))
    yield right("float32 relu at 3e-7", "", lambda x: np.maximum(x, 0), lambda g, x: g * (x > 0), np.array([3e-7], "f"))
    yield right("float32 tanh, 1/cosh²", "in the tail", np.tanh, lambda g, x: g / np.cosh(x) ** 2, tail)
    yield wrong("float32 tanh, 1 - y²", "all digits lost", np.tanh, lambda g, x: g * (1 - np.tanh(x) ** 2), tail)
    yield right("float32 tanh, 1 - y², 0.3", "fine there", np.tanh, lambda g, x: g * (1 - np.tanh(x) ** 2), tail[2:])
    far = np.array([17.0, 16.5, -1.0], "f")
    yield right("float32 sigmoid, y·σ(-x)", "", sigmoid, lambda g, x: g * (sigmoid(x) * sigmoid(-x)), far)
    yield wrong("float32 sigmoid, y(1 - y)", "0 at 17", sigmoid, lambda g, x: g * sigmoid(x) * (1 - sigmoid(x)), far)
    low = np.array([-18.0, -15.0, 0.5], "f")
    yield right("float32 expm1, exp", "", np.expm1, lambda g, x: g * np.exp(x), low)
    yield wrong("float32 expm1, y + 1", "0 at -18", np.expm1, lambda g, x: g * (np.expm1(x) + 1), low)
    soft = lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    yield wrong("float32 softplus, 1 - exp(-y)", "0 at -18", soft, lambda g, x: g * (1 - np.exp(-soft(x))), low)
    a, b = rng.normal(size=(5, 6)).astype("f"), rng.normal(size=(6, 3)).astype("f")
    mm = lambda a, b: a @ b
    yield right("float32 matmul", "", mm, lambda g, a, b: (g @ b.T, a.T @ g), a, b)
    yield wrong("float32 matmul, one entry", "1 % off", mm, lambda g, a, b: (g @ b.T, _spoilt(a.T @ g)), a, b)
    row = lambda g, y: np.sum(g * y, axis=-1, keepdims=True)
    yield right("float32 softmax", "", softmax, lambda g, x: softmax(x) * (g - row(g, softmax(x))), x)
    big = (np.array([3e25], "f"), np.array([-4e25], "f"))
    hypot = lambda a, b: np.sqrt((a / 1e20) ** 2 + (b / 1e20) ** 2) * 1e20
    naive = lambda g, a, b: (g * a / np.sqrt(a * a + b * b), g * b / np.sqrt(a * a + b * b))
    stable = lambda g, a, b: (g * (a / np.hypot(a, b)), g * (b / np.hypot(a, b)))
    yield right("float32 hypotenuse at 1e25", "", hypot, stable, *big)
    yield wrong("float32 hypotenuse at 1e25, naive", "overflows", hypot, naive, *big)


def _spoilt(x: Array) -> Array:
    x = x.copy()
    x[1, 1] *= 1.01
    return x


def models() -> Iterator[Case]:
    """Gradients of layers and losses, derived by hand as in a paper or an exercise."""
    rng = np.random.default_rng(10)
    yield from _network(rng)
    yield from _normalisation(rng)
    yield from _attention(rng)
    yield from _recurrence(rng)
    yield from _losses(rng)


def _network(rng: np.random.Generator) -> Iterator[Case]:
    x, t = rng.normal(size=(6, 4)), rng.normal(size=(6, 2))
    parameters = rng.normal(size=(4, 5)), rng.normal(size=5), rng.normal(size=(5, 2)), rng.normal(size=2)

    def loss(w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        return np.sum((np.maximum(x @ w1 + b1, 0.0) @ w2 + b2 - t) ** 2) / 6

    def gradient(g: Any, w1: Array, b1: Array, w2: Array, b2: Array) -> tuple[Array, ...]:
        a = x @ w1 + b1
        h = np.maximum(a, 0)
        y_bar = g * 2 * (h @ w2 + b2 - t) / 6
        a_bar = y_bar @ w2.T * (a > 0)
        return x.T @ a_bar, a_bar.sum(0), h.T @ y_bar, y_bar.sum(0)

    def without_mask(g: Any, w1: Array, b1: Array, w2: Array, b2: Array) -> tuple[Array, ...]:
        h = np.maximum(x @ w1 + b1, 0)
        y_bar = g * 2 * (h @ w2 + b2 - t) / 6
        return x.T @ (y_bar @ w2.T), (y_bar @ w2.T).sum(0), h.T @ y_bar, y_bar.sum(0)

    def mean_bias(g: Any, *p: Array) -> tuple[Array, ...]:
        bars = gradient(g, *p)
        return bars[0], bars[1] / 6, bars[2], bars[3]

    def wrong_mask(g: Any, w1: Array, b1: Array, w2: Array, b2: Array) -> tuple[Array, ...]:
        bars = gradient(g, w1, b1, w2, b2)
        return bars[0], bars[1], bars[2] * (w2 > 0), bars[3]

    yield right("two-layer network", "squared error", loss, gradient, *parameters)
    yield wrong("two-layer network, relu's mask", "forgotten", loss, without_mask, *parameters)
    yield wrong("two-layer network, bias", "mean in place of Σ", loss, mean_bias, *parameters)
    yield wrong("two-layer network, wrong mask", "the weights' sign", loss, wrong_mask, *parameters)
    decayed = lambda w: np.sum((x @ w - t) ** 2) + 0.01 * np.sum(w * w)
    fit = lambda g, w: g * 2 * x.T @ (x @ w - t)
    w = rng.normal(size=(4, 2))
    yield right("weight decay", "", decayed, lambda g, w: fit(g, w) + g * 0.02 * w, w)
    yield wrong("weight decay, forgotten", "0.01·Σw²", decayed, fit, w)


def _normalisation(rng: np.random.Generator) -> Iterator[Case]:
    x, gain, shift = rng.normal(size=(5, 6)) * 2 + 1, rng.normal(size=6), rng.normal(size=6)

    def standardised(x: Any, axis: int) -> tuple[Any, Any]:
        centred = x - np.sum(x, axis=axis, keepdims=True) / x.shape[axis]
        deviation = np.sqrt(np.sum(centred**2, axis=axis, keepdims=True) / x.shape[axis] + 1e-5)
        return centred / deviation, deviation

    def norm(axis: int) -> Callable[..., Any]:
        return lambda x, gain, shift: gain * standardised(x, axis)[0] + shift

    def rule(axis: int, mean: float = 1.0, spread: float = 1.0) -> Callable[..., Any]:
        def vjp(g: Array, x: Array, gain: Array, shift: Array) -> tuple[Array, ...]:
            z, deviation = standardised(x, axis)
            s = g * gain
            through_mean = mean * np.mean(s, axis=axis, keepdims=True)
            through_spread = spread * z * np.mean(s * z, axis=axis, keepdims=True)
            return (s - through_mean - through_spread) / deviation, np.sum(g * z, axis=0), np.sum(g, axis=0)

        return vjp

    for name, axis in (("layer norm", 1), ("batch norm", 0)):
        yield right(name, "three terms", norm(axis), rule(axis), x, gain, shift)
        yield wrong(f"{name}, mean", "taken for a constant", norm(axis), rule(axis, mean=0.0), x, gain, shift)
        yield wrong(f"{name}, deviation", "taken for a constant", norm(axis), rule(axis, spread=0.0), x, gain, shift)
    rms = lambda x: x / np.sqrt(np.sum(x * x, axis=1, keepdims=True) / 6)

    def rms_vjp(g: Array, x: Array) -> Array:
        size = np.sqrt(np.mean(x * x, axis=1, keepdims=True))
        return g / size - x * np.mean(g * x, axis=1, keepdims=True) / size**3

    yield right("RMS norm", "", rms, rms_vjp, x)
    unit = lambda x: x / np.sqrt(np.sum(x * x, axis=1, keepdims=True))
    yield wrong(
        "unit vectors", "the projection is forgotten", unit, lambda g, x: g / np.linalg.norm(x, axis=1)[:, None], x
    )


def _attention(rng: np.random.Generator) -> Iterator[Case]:
    q, k, v = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    scale = 1 / np.sqrt(3)
    attend = lambda q, k, v: softmax(scale * (q @ k.T)) @ v

    def rule(inner: float = 1.0, scale: float = scale) -> Callable[..., Any]:
        def vjp(g: Array, q: Array, k: Array, v: Array) -> tuple[Array, ...]:
            p = softmax(q @ k.T / np.sqrt(3))
            p_bar = g @ v.T
            s_bar = scale * p * (p_bar - inner * np.sum(p_bar * p, axis=1, keepdims=True))
            return s_bar @ k, s_bar.T @ q, p.T @ g

        return vjp

    yield right("attention", "q, k and v", attend, rule(), q, k, v)
    yield wrong("attention, softmax", "the inner sum is forgotten", attend, rule(inner=0.0), q, k, v)
    yield wrong("attention, scale", "1/√d is forgotten", attend, rule(scale=1.0), q, k, v)


def _recurrence(rng: np.random.Generator) -> Iterator[Case]:
    inputs, w, h0 = rng.normal(size=(4, 3)), 0.5 * rng.normal(size=(3, 3)), rng.normal(size=3)

    def unrolled(w: Any, h: Any) -> Any:
        for x in inputs:
            h = np.tanh(w @ h + x)
        return h

    def rule(steps: int) -> Callable[..., Any]:
        def vjp(g: Array, w: Array, h: Array) -> tuple[Array, Array]:
            states = [h]
            for x in inputs:
                states.append(np.tanh(w @ states[-1] + x))
            w_bar = np.zeros_like(w)
            for before, after in list(pairwise(states))[::-1][:steps]:
                a_bar = g * (1 - after**2)
                w_bar += np.outer(a_bar, before)
                g = w.T @ a_bar
            return w_bar, g

        return vjp

    yield right("recurrent network", "through time", unrolled, rule(4), w, h0)
    yield wrong("recurrent network, truncated", "one step of four is missing", unrolled, rule(3), w, h0)


def _losses(rng: np.random.Generator) -> Iterator[Case]:
    logits, labels = rng.normal(size=(6, 4)), np.array([0, 3, 1, 1, 2, 0])
    every = np.arange(6)
    nll = lambda x: np.sum(logsumexp(x) - x[every, labels]) / 6
    one_hot = np.eye(4)[labels]
    yield right("cross-entropy", "(p - t)/n", nll, lambda g, x: g * (softmax(x) - one_hot) / 6, logits)
    yield wrong("cross-entropy, 1/n", "forgotten", nll, lambda g, x: g * (softmax(x) - one_hot), logits)
    yield wrong("cross-entropy, sign", "t - p", nll, lambda g, x: g * (one_hot - softmax(x)) / 6, logits)
    mu, log_var = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    kl = lambda m, s: 0.5 * np.sum(np.exp(s) + m**2 - 1 - s)
    yield right("VAE's divergence", "", kl, lambda g, m, s: (g * m, g * 0.5 * (np.exp(s) - 1)), mu, log_var)
    yield wrong("VAE's divergence, -1", "forgotten", kl, lambda g, m, s: (g * m, g * 0.5 * np.exp(s)), mu, log_var)
    noise = rng.normal(size=(3, 4))
    sample = lambda m, s: m + np.exp(0.5 * s) * noise
    yield right(
        "reparametrised sample", "", sample, lambda g, m, s: (g, g * 0.5 * np.exp(0.5 * s) * noise), mu, log_var
    )
    yield wrong(
        "reparametrised sample, 1/2", "dropped", sample, lambda g, m, s: (g, g * np.exp(0.5 * s) * noise), mu, log_var
    )
    targets = rng.uniform(size=(3, 4))
    bce = lambda x: np.sum(np.maximum(x, 0) - x * targets + np.log1p(np.exp(-np.abs(x))))
    yield right("binary cross-entropy", "of logits to 50", bce, lambda g, x: g * (sigmoid(x) - targets), 20 * mu)
    cosine = lambda a, b: np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))

    def cosine_vjp(g: Any, a: Array, b: Array) -> tuple[Array, Array]:
        m, n = np.sqrt(np.sum(a * a)), np.sqrt(np.sum(b * b))
        c = np.sum(a * b) / (m * n)
        return g * (b / (m * n) - c * a / m**2), g * (a / (m * n) - c * b / n**2)

    yield right("cosine similarity", "", cosine, cosine_vjp, mu, noise)
    yield wrong(
        "cosine similarity, norms",
        "taken for constants",
        cosine,
        lambda g, a, b: (g * b / (np.linalg.norm(a) * np.linalg.norm(b)), cosine_vjp(g, a, b)[1]),
        mu,
        noise,
    )
    image = rng.normal(size=(4, 6))
    pool = lambda x: np.sum(x.reshape(2, 2, 3, 2), axis=(1, 3)) / 4
    yield wrong("average pooling", "1/4 forgotten", pool, lambda g, x: np.repeat(np.repeat(g, 2, 0), 2, 1), image)
    gaussian = lambda m, s: np.sum(s + 0.5 * ((noise - m) / np.exp(s)) ** 2)
    z = lambda m, s: (noise - m) / np.exp(s)
    yield right(
        "Gaussian likelihood",
        "in the logarithm of the deviation",
        gaussian,
        lambda g, m, s: (-g * z(m, s) / np.exp(s), g * (1 - z(m, s) ** 2)),
        mu,
        log_var,
    )


def tensors() -> Iterator[Case]:
    """Functions of Tensors: minigrad composes their VJP, and in float32 judges it operation by operation."""
    rng = np.random.default_rng(11)
    single = lambda *shape: np.asarray(rng.normal(size=shape), "f")
    x, w, v = single(4, 6), single(6, 5), single(5, 3)
    yield right("Tensors, float32 network", "", lambda w, v: mg.mean(mg.square(mg.tanh(x @ w) @ v)), None, w, v)
    yield right("Tensors, float32 tanh at 8.5", "", lambda x: mg.sum(mg.tanh(x)), None, np.array([8.5, -9.0], "f"))
    twice = lambda x: usual(x) * 2.0
    usual = _op("usual_tanh", np.tanh, {"x": lambda g, y: g * (1.0 - y * y)}, kind="elementwise")
    yield wrong("Tensors, float32 1 - y²", "a rule of one's own", twice, None, np.array([8.5, 0.1], "f"))
    yield right("Tensors, 1 - y² at 0.3", "the same rule in float64", twice, None, np.array([0.3, -2.0]))
    yield right(
        "Tensors, float32 x·x", "one array twice in a call", lambda x: x * x - mg.einsum("ij,ij->", x, x), None, x
    )
    standard = lambda x: (x - mg.mean(x, -1, True)) / mg.sqrt(mg.var(x, -1, keepdims=True) + 1e-5)
    yield right("Tensors, float32 layer norm", "composed", standard, None, x)
    labels = np.array([0, 2, 1, 1])
    loss = lambda z: -mg.mean(mg.log_softmax(z, -1)[np.arange(4), labels])
    yield right("Tensors, float32 cross-entropy", "logits of 1e3", loss, None, 1e3 * single(4, 3))
    a = rng.normal(size=(3, 4))
    yield wrong("Tensors, stop_gradient", "half of x² is cut off", lambda x: x * mg.stop_gradient(x), None, a)
    yield wrong("Tensors, detach", "", lambda x: mg.sum(mg.exp(x.detach()) + x), None, a)
    yield wrong("Tensors, .data", "", lambda x: mg.sum(x * np.sin(x.data)), None, a)
    sound, slip = (
        _op(name, np.sin, {"x": rule}, kind="elementwise")
        for name, rule in (("sine", lambda g, x: g * mg.cos(x)), ("slip", lambda g, x: g * mg.cos(x) * (1 + 1e-9)))
    )
    deep = lambda third: lambda x: mg.sum(sound(third(sound(sound(x * 2.0) + x) - 0.5) * x))
    yield right("Tensors, an operation used four times", "", deep(sound), None, a)
    yield wrong("Tensors, 1e-9 in one of four uses", "", deep(slip), None, a)
    one_copy = {"s": lambda g, x: g[:, 0] * x[:, 0], "x": lambda g, s: g * s[:, None]}
    unsummed = _op("scale_rows", lambda s, x: s[:, None] * x, one_copy)
    yield wrong("Tensors, Σ forgotten", "a rule of one's own", lambda s, x: unsummed(s, x), None, a[:, 0], a)
    yield right("Tensors, norm at 0", "", lambda x: mg.norm(x), None, np.zeros(3))
    yield right("Tensors, relu at 0", "", lambda x: mg.sum(mg.relu(x) * 3.0), None, np.array([0.0, 1.0, -2.0]))
    yield right("Tensors, safe root", "", lambda x: mg.sqrt(mg.where(x > 0, x, 1.0)), None, np.array([4.0, -1.0, 1e-6]))


def _op(name: str, forward: Callable[..., Any], vjp: dict[str, Any], **rest: Any) -> mg.Op:
    """An operation of one's own that doesn't stay in the registry."""
    op = mg.Op(name, forward, vjp=vjp, **rest)
    del registry[name]
    return op


GROUPS: tuple[Callable[[], Iterator[Case]], ...] = (
    elementwise,
    reductions,
    contractions,
    indexing,
    broadcasting,
    kinks,
    scales,
    small_errors,
    single_precision,
    models,
    tensors,
)
CASES = tuple(replace(case, group=group.__name__.replace("_", " ")) for group in GROUPS for case in group())
