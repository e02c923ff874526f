"""Reductions: the sum or the extrema of a run of numbers, or down the columns of a table, and softmax along rows.

An array is seen as (outer, n, inner), reduced over n. Where inner is 1 a row lies together in memory, and vectors run
along it (`rows`); else vectors run along inner (`columns`).

Sums are made of short chains: at most 16 additions one after the other, whose results are added with the error of each
addition kept (Knuth's two-sum, "The Art of Computer Programming" 2, section 4.2.2), so that the error does not grow
with the length. It is at most that of NumPy's pairwise summation.
"""

from __future__ import annotations

from typing import Any

from numba import njit

from minigrad.kernels.native import Source
from minigrad.kernels.simd import V, larger, select, smaller, sqrt
from minigrad.kernels.simd_math import exp as exp_formula
from minigrad.kernels.simd_math import log as log_formula
from minigrad.kernels.vectors import (
    compiled,
    filled,
    first_true,
    folding,
    keep_some,
    lanes_of,
    largest,
    load,
    load_some,
    store,
    store_some,
    total,
    where,
)

INF, NAN = float("inf"), float("nan")
CHAIN = 16  # additions one after the other

exp, log, root = compiled(exp_formula), compiled(log_formula), compiled(sqrt)


def _maximum(x: V, y: V) -> V:
    """The larger of two; NaN where either is."""
    return select(x == x, larger(x, y), x)


def _minimum(x: V, y: V) -> V:
    return select(x == x, smaller(x, y), x)


maximum, minimum = compiled(_maximum), compiled(_minimum)
highest = folding(_maximum)
plus = compiled(lambda x, y: x + y)


@njit(error_model="numpy")
def added(s: Any, c: Any, x: Any) -> Any:
    """s + x, and c plus what rounding took from it."""
    t = s + x
    rest = t - s
    return t, c + ((s - (t - rest)) + (x - rest))


@njit(error_model="numpy")
def corrected(s: Any, c: Any) -> Any:
    """A sum with its error, which is NaN where the sum overflowed; without one it stays as it is, -0 for example."""
    return where(c == c, where(c == 0.0, s, s + c), s)


@njit(error_model="numpy")
def loaded(x: Any, i: int, count: int) -> Any:
    """The vector at x[i], or its first `count` lanes."""
    return load(x, i) if count >= lanes_of(x) else load_some(x, i, count)


@njit(error_model="numpy")
def put(y: Any, i: int, x: Any, count: int) -> None:
    """Store a vector at y[i], or its first `count` lanes."""
    if count >= lanes_of(y):
        store(y, i, x)
    else:
        store_some(y, i, x, count)


def reduction(together: Any, fold: Any, empty: float, absorbed: Any, finished: Any) -> tuple[Any, Any, Any]:
    """The kernels `rows` and `columns` of an operation, and the reduction of one run of numbers.

    Args:
        together: of two vectors, lane by lane.
        fold: of the lanes of one vector.
        empty: what leaves a number as it is.
        absorbed: a result s with an error c, and a vector: the new s and c.
        finished: s and c as one vector.
    """

    @njit(error_model="numpy")
    def of_run(x: Any, i: int, n: int) -> Any:
        width = lanes_of(x)
        s, c = filled(x, empty), filled(x, 0.0)
        while n >= 4 * width:
            a, b, d, e = load(x, i), load(x, i + width), load(x, i + 2 * width), load(x, i + 3 * width)
            steps = min(n // (4 * width), CHAIN)
            for k in range(1, steps):
                j = i + 4 * k * width
                a, b = together(a, load(x, j)), together(b, load(x, j + width))
                d, e = together(d, load(x, j + 2 * width)), together(e, load(x, j + 3 * width))
            i += 4 * steps * width
            n -= 4 * steps * width
            s, c = absorbed(s, c, together(together(a, b), together(d, e)))
        while n >= width:
            s, c = absorbed(s, c, load(x, i))
            i += width
            n -= width
        if n > 0:
            s, c = absorbed(s, c, keep_some(load_some(x, i, n), n, empty))
        return fold(finished(s, c))

    def rows(x: Any, y: Any, outer: int, n: int, block: int, per_chunk: int, chunk: int) -> None:
        """y[outer, blocks]: each row in blocks of so many numbers; `per_chunk` of them are a chunk's."""
        blocks = (n + block - 1) // block
        for task in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer * blocks)):
            row, first = task // blocks, task % blocks * block
            y[task] = of_run(x, row * n + first, min(block, n - first))

    @njit(error_model="numpy")
    def down(x: Any, i: int, step: int, steps: int, count: int) -> Any:
        """The vectors at x[i], x[i + step], ... together."""
        s = loaded(x, i, count)
        for k in range(1, steps):
            s = together(s, loaded(x, i + k * step, count))
        return s

    def columns(
        x: Any,
        y: Any,
        errors: Any,
        outer: int,
        n: int,
        inner: int,
        block: int,
        piece: int,
        chunk: int,
    ) -> None:
        """y[outer, blocks, inner]: a chunk has one block of rows and one piece of the columns; `errors` is scratch."""
        pieces, blocks = (inner + piece - 1) // piece, (n + block - 1) // block
        task = chunk // pieces
        left = chunk % pieces * piece
        right = min(left + piece, inner)
        top = task % blocks * block
        bottom = min(top + block, n)
        source, target = task // blocks * n * inner, task * inner
        for row in range(top, bottom, CHAIN):
            steps = min(CHAIN, bottom - row)
            for column in range(left, right, lanes_of(x)):
                count, i = right - column, target + column
                part = down(x, source + row * inner + column, inner, steps, count)
                if row > top:
                    s, c = absorbed(loaded(y, i, count), loaded(errors, i, count), part)
                else:
                    s, c = part, filled(x, 0.0)
                if row + CHAIN < bottom:
                    put(y, i, s, count)
                    put(errors, i, c, count)
                else:
                    put(y, i, finished(s, c), count)

    return rows, columns, of_run


@njit(error_model="numpy")
def without_error(s: Any, c: Any) -> Any:
    return s


@njit(error_model="numpy")
def larger_so_far(s: Any, c: Any, x: Any) -> Any:
    return maximum(s, x), c


@njit(error_model="numpy")
def smaller_so_far(s: Any, c: Any, x: Any) -> Any:
    return minimum(s, x), c


sum_rows, sum_columns, sum_of = reduction(plus, folding(lambda x, y: x + y), -0.0, added, corrected)
max_rows, max_columns, max_of = reduction(maximum, highest, -INF, larger_so_far, without_error)
min_rows, min_columns, _ = reduction(minimum, folding(_minimum), INF, smaller_so_far, without_error)


@njit(error_model="numpy")
def exp_run(x: Any, y: Any, i: int, n: int, shift: float) -> None:
    """y = exp(x - shift), of the n numbers from i on."""
    for j in range(i, i + n, lanes_of(x)):
        put(y, j, exp(loaded(x, j, i + n - j) - shift), i + n - j)


@njit(error_model="numpy")
def sum_of_exp(x: Any, i: int, n: int, shift: float) -> Any:
    """The sum of exp(x - shift), of the n numbers from i on."""
    s, c = filled(x, 0.0), filled(x, 0.0)
    for j in range(i, i + n, lanes_of(x)):
        count = i + n - j
        s, c = added(s, c, keep_some(exp(loaded(x, j, count) - shift), count, 0.0))
    return total(corrected(s, c))


@njit(error_model="numpy")
def exp_of_some(z: Any, n: int) -> Any:
    """The largest of the first n lanes, and exp(z - largest) in these, 0 in the others.

    There exp(0) is computed, for exp(-∞) makes denormal numbers on its way, which are slow.
    """
    shift = largest(keep_some(z, n, -INF))  # a NaN that this may miss comes out of exp
    return shift, keep_some(exp(keep_some(z - shift, n, 0.0)), n, 0.0)


def softmax(x: Any, y: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    for row in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer)):
        i = row * n
        if n <= lanes_of(x):
            _, e = exp_of_some(load_some(x, i, n), n)
            store_some(y, i, e / total(e), n)
        else:
            exp_run(x, y, i, n, max_of(x, i, n))
            size = sum_of(y, i, n)
            for j in range(i, i + n, lanes_of(x)):
                put(y, j, loaded(y, j, i + n - j) / size, i + n - j)


@njit(error_model="numpy")
def shifts_and_logs(x: Any, shifts: Any, logs: Any, first: int, last: int, n: int) -> None:
    """For rows first to last - 1: the largest number, and the logarithm of the sum of exp(x - largest)."""
    for row in range(first, last):
        i = row * n
        if n <= lanes_of(x):
            shift, e = exp_of_some(load_some(x, i, n), n)
            size = total(e)
        else:
            shift = max_of(x, i, n)
            size = sum_of_exp(x, i, n, shift)
        shifts[row], logs[row] = shift, size
    for row in range(first, last, lanes_of(logs)):  # logarithms of many rows at once
        put(logs, row, log(loaded(logs, row, last - row)), last - row)


def log_softmax(x: Any, y: Any, shifts: Any, logs: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    first, last = chunk * per_chunk, min((chunk + 1) * per_chunk, outer)
    shifts_and_logs(x, shifts, logs, first, last, n)
    for row in range(first, last):
        i = row * n
        for j in range(i, i + n, lanes_of(x)):
            put(y, j, loaded(x, j, i + n - j) - shifts[row] - logs[row], i + n - j)


def logsumexp(x: Any, y: Any, logs: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    first, last = chunk * per_chunk, min((chunk + 1) * per_chunk, outer)
    shifts_and_logs(x, y, logs, first, last, n)
    for row in range(first, last):
        y[row] = y[row] + logs[row] if abs(y[row]) < INF else max_of(x, row * n, n)


@njit(error_model="numpy")
def balance(x_bar: Any, y: Any, i: int, n: int) -> None:
    """Make the cotangent of the largest of y (the first of them) minus the sum of the others."""
    most = max_of(y, i, n)
    leading = i
    for j in range(i, i + n, lanes_of(y)):
        count = i + n - j
        lane = first_true(keep_some(loaded(y, j, count), count, NAN) == most)
        if lane < lanes_of(y):
            leading = j + lane
            break
    x_bar[leading] = 0.0
    x_bar[leading] = -sum_of(x_bar, i, n)


@njit(error_model="numpy")
def sum_of_products(a: Any, b: Any, i: int, n: int) -> Any:
    s, c = filled(a, 0.0), filled(a, 0.0)
    for j in range(i, i + n, lanes_of(a)):
        s, c = added(s, c, loaded(a, j, i + n - j) * loaded(b, j, i + n - j))
    return total(corrected(s, c))


def softmax_vjp(g: Any, y: Any, x_bar: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    """x̄ = y·(ȳ - Σ ȳ·y), balanced."""
    for row in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer)):
        i = row * n
        inner = sum_of_products(g, y, i, n)
        for j in range(i, i + n, lanes_of(g)):
            put(x_bar, j, loaded(y, j, i + n - j) * (loaded(g, j, i + n - j) - inner), i + n - j)
        balance(x_bar, y, i, n)


def log_softmax_vjp(g: Any, y: Any, x_bar: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    """x̄ = ȳ - exp(y)·Σ ȳ, balanced."""
    for row in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer)):
        i = row * n
        size = sum_of(g, i, n)
        for j in range(i, i + n, lanes_of(g)):
            put(x_bar, j, loaded(g, j, i + n - j) - exp(loaded(y, j, i + n - j)) * size, i + n - j)
        balance(x_bar, y, i, n)


@njit(error_model="numpy")
def mean_and_variance(x: Any, i: int, n: int) -> Any:
    """Of the n numbers from i on. The deviations from the mean are squared, so that nothing cancels."""
    mean = sum_of(x, i, n) / n
    s, c = filled(x, 0.0), filled(x, 0.0)
    for j in range(i, i + n, lanes_of(x)):
        count = i + n - j
        deviation = keep_some(loaded(x, j, count) - mean, count, 0.0)
        s, c = added(s, c, deviation * deviation)
    return mean, total(corrected(s, c)) / n


def moments(x: Any, means: Any, variances: Any, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    for row in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer)):
        means[row], variances[row] = mean_and_variance(x, row * n, n)


@njit(error_model="numpy", forceinline=True)
def powers_down(x: Any, column: int, n: int, inner: int, count: int, power: int, mean: Any) -> Any:
    """Of `count` columns, Σ (x - mean)^power, the power being 1 or 2."""
    s, c = filled(x, -0.0), filled(x, 0.0)  # -0 + x is x for all x
    for top in range(0, n, CHAIN):
        part = filled(x, -0.0)
        for row in range(top, min(top + CHAIN, n)):
            deviation = loaded(x, row * inner + column, count) - mean
            part = part + (deviation * deviation if power == 2 else deviation)
        s, c = added(s, c, part)
    return corrected(s, c)


def moments_columns(x: Any, means: Any, variances: Any, n: int, inner: int, piece: int, chunk: int) -> None:
    """Of x (n, inner), down its columns; a chunk does a piece of them. A vector's columns stay in a cache."""
    size, right = filled(x, n), min((chunk + 1) * piece, inner)
    for column in range(chunk * piece, right, lanes_of(x)):
        count = right - column
        mean = powers_down(x, column, n, inner, count, 1, filled(x, 0.0)) / size
        put(means, column, mean, count)
        put(variances, column, powers_down(x, column, n, inner, count, 2, mean) / size, count)


def standardise(x: Any, y: Any, eps: float, outer: int, n: int, per_chunk: int, chunk: int) -> None:
    """y = (x - mean)/√(variance + eps)."""
    for row in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer)):
        i = row * n
        mean, variance = mean_and_variance(x, i, n)
        size = root(variance + eps)
        for j in range(i, i + n, lanes_of(x)):
            put(y, j, (loaded(x, j, i + n - j) - mean) / size, i + n - j)


def standardise_vjp(
    g: Any, x: Any, y: Any, x_bar: Any, eps: float, outer: int, n: int, per_chunk: int, chunk: int
) -> None:
    """x̄ = (ȳ - mean of ȳ - y·(mean of ȳ·y))/√(variance + eps)."""
    for row in range(chunk * per_chunk, min((chunk + 1) * per_chunk, outer)):
        i = row * n
        _, variance = mean_and_variance(x, i, n)
        size = root(variance + eps)
        mean, along = sum_of(g, i, n) / n, sum_of_products(g, y, i, n) / n
        for j in range(i, i + n, lanes_of(x)):
            count = i + n - j
            put(x_bar, j, (loaded(g, j, count) - mean - loaded(y, j, count) * along) / size, count)


ROWS = "real* real* int int int int"
COLUMNS = "real* real* real* int int int int int"
SOURCES = {
    "sum_rows": Source(sum_rows, ROWS),
    "sum_columns": Source(sum_columns, COLUMNS),
    "max_rows": Source(max_rows, ROWS),
    "max_columns": Source(max_columns, COLUMNS),
    "min_rows": Source(min_rows, ROWS),
    "min_columns": Source(min_columns, COLUMNS),
    "softmax": Source(softmax, "real* real* int int int"),
    "log_softmax": Source(log_softmax, "real* real* real* real* int int int"),
    "logsumexp": Source(logsumexp, "real* real* real* int int int"),
    "softmax_vjp": Source(softmax_vjp, "real* real* real* int int int"),
    "log_softmax_vjp": Source(log_softmax_vjp, "real* real* real* int int int"),
    "moments": Source(moments, "real* real* real* int int int"),
    "moments_columns": Source(moments_columns, "real* real* real* int int int"),
    "standardise": Source(standardise, "real* real* real int int int"),
    "standardise_vjp": Source(standardise_vjp, "real* real* real* real* real int int int"),
}
