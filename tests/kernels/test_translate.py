"""The words of compiled kernels against NumPy, on vectors with tails of every length and on numbers; translation."""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from scipy import special

from minigrad.kernels import native
from minigrad.kernels.code.translate import TYPES, object_code
from minigrad.kernels.code.words import WORDS
from minigrad.kernels.simd import WIDTH

from .arrays import GUARD, between_nans

REALS = ("float32", "float64")
INF, NAN = np.inf, np.nan


def translated(text: str, *kinds: str) -> Callable[..., None]:
    """The kernel of this text as a function of arrays and numbers; `chunk` and `thread` are 0 unless given."""
    name = "test_" + sha256("\n".join([text, *kinds]).encode()).hexdigest()[:24]
    address = native.function_address(name, lambda: object_code(name, text, kinds))
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)

    def call(*arguments: Any, chunk: int = 0, thread: int = 0) -> None:
        slots = np.zeros(len(kinds) + 1, np.int64)
        for i, (kind, x) in enumerate(zip(kinds, arguments, strict=True)):
            if kind.endswith("*"):
                assert x.dtype == (kind[:-1] if kind != "int*" else "int64")
                slots[i] = x.ctypes.data
            else:
                slots[i] = x if kind == "int" else np.float64(x).view(np.int64)
        function(slots.ctypes.data, chunk, thread)

    return call


def written(function: Callable[..., None], n: int, dtype: Any, *arguments: Any) -> np.ndarray:
    """What a kernel puts into the array that it is given last, and nowhere beside it."""
    buffer = np.full(n + 2 * GUARD, 7, dtype)
    before = buffer.copy()
    function(*arguments, buffer[GUARD : GUARD + n], n)
    np.testing.assert_array_equal(buffer[:GUARD], before[:GUARD])
    np.testing.assert_array_equal(buffer[GUARD + n :], before[GUARD + n :])
    return buffer[GUARD : GUARD + n]


def on_vectors(expression: str, inputs: Sequence[str]) -> str:
    """A text that computes it of arrays x, y, ... in vectors, and puts it into `out`; lanes past the end are 0."""
    loads = "".join(f"        {x} = load_some(p{x}, j, n)\n" for x in inputs)
    names = ", ".join(f"p{x}" for x in inputs)
    return (
        f"def kernel({names}, out, count, chunk, thread):\n    for j in range(0, count, lanes_of(out)):\n"
        f"        n = count - j\n{loads}        store_some(out, j, {expression}, n)\n"
    )


def on_numbers(expression: str, inputs: Sequence[str]) -> str:
    """The same number by number."""
    loads = "".join(f"        {x} = p{x}[j]\n" for x in inputs)
    names = ", ".join(f"p{x}" for x in inputs)
    return (
        f"def kernel({names}, out, count, chunk, thread):\n    for j in range(count):\n"
        f"{loads}        put(out, j, {expression})\n"
    )


def numbers(dtype: str, seed: int, size: float = 3.0) -> np.ndarray:
    """Ordinary numbers, and all that is special."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(seed)
    tiny = float(info.smallest_subnormal)
    odd = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        INF,
        -INF,
        NAN,
        tiny,
        -tiny,
        float(info.tiny),
        1e5,
        -1e5,
        30.0,
        1e7,
        -3e9,
        3e30,
    ]
    x = np.concatenate([odd, rng.standard_normal(47) * size]).astype(dtype)
    return rng.permutation(x)


def near(got: np.ndarray, want: np.ndarray, units: float) -> None:
    """Equal to so many units in the last place; NaN and infinities in the same places, zeros of the same sign."""
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    info = np.finfo(got.dtype)
    np.testing.assert_allclose(
        got, want.astype(got.dtype), rtol=units * float(info.eps), atol=units * float(info.smallest_subnormal)
    )
    if units == 0:
        number = ~np.isnan(got)
        np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(want[number]))


# The word: what it is in NumPy, in float64, and units in the last place
FUNCTIONS: dict[str, tuple[Callable[..., Any], float]] = {
    "maximum": (np.maximum, 0), "minimum": (np.minimum, 0), "ceil": (np.ceil, 0), "rint": (np.rint, 0),
    "sign": (np.sign, 0), "absolute": (np.absolute, 0), "sqrt": (np.sqrt, 0.5), "floor": (np.floor, 0),
    "cosh": (np.cosh, 6), "sinh": (np.sinh, 6), "exp": (np.exp, 3), "expm1": (np.expm1, 3), "log": (np.log, 3),
    "log1p": (np.log1p, 3), "sin": (np.sin, 3), "cos": (np.cos, 3), "tanh": (np.tanh, 4), "erf": (special.erf, 3),
    "erfc": (special.erfc, 10), "tanh_vjp": (lambda g, x: g / np.cosh(np.clip(x, -400, 400)) ** 2, 8),
    "silu_vjp": (lambda g, x: g * _silu_slope(x), 24), "gelu_vjp": (lambda g, x: g * _gelu_slope(x), 24),
}  # fmt: skip
OF_TWO = ("maximum", "minimum", "tanh_vjp", "silu_vjp", "gelu_vjp")


def _silu_slope(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, -700, 700)
    s = special.expit(x)
    return np.where(x == -700, -0.0, s * (1 + x * special.expit(-x)))


def _gelu_slope(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, -700, 700)
    return special.ndtr(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("word", FUNCTIONS)
def test_functions(word: str, dtype: str) -> None:
    of, units = FUNCTIONS[word]
    inputs = "xy"[: 2 if word in OF_TWO else 1]
    given = [numbers(dtype, seed) for seed in range(len(inputs))]
    if word in ("gelu_vjp", "silu_vjp"):  # near where the slope is 0 digits are lost
        given = [
            np.where(np.isfinite(x) & (np.abs(x) < 50) & ((x < -3) | (x > 0)), x, 2.0).astype(dtype) for x in given
        ]
    if word == "tanh_vjp":
        given[0] = np.where(np.isfinite(given[0]), given[0], 1.0).astype(dtype)
    with np.errstate(all="ignore"):
        want = np.asarray(of(*(x.astype(np.float64) for x in given)))
        want = want.astype(dtype)
    kinds = [*[f"{dtype}*"] * (len(inputs) + 1), "int"]
    expression = f"{word}({', '.join(inputs)})"
    vectors = translated(on_vectors(expression, inputs), *kinds)
    lanes = WIDTH // np.dtype(dtype).itemsize
    for n in [*range(2 * lanes + 2), len(want)]:  # tails of every length
        got = written(vectors, n, dtype, *(between_nans(x[:n]) for x in given))
        near(got, want[:n], units)
    got = written(translated(on_numbers(expression, inputs), *kinds), len(want), dtype, *given)
    near(got, want, units)


@pytest.mark.parametrize("dtype", REALS)
def test_power(dtype: str) -> None:
    """Of numbers; there is none of vectors in the texts."""
    x, y = numbers(dtype, 0), numbers(dtype, 1)
    with np.errstate(all="ignore"):
        want = np.power(x, y)
    for expression in ("power(x, y)", "x ** y"):
        got = written(translated(on_numbers(expression, "xy"), *[f"{dtype}*"] * 3, "int"), len(x), dtype, x, y)
        near(got, want, 4)


OPERATORS = {
    "x + y": operator.add, "x - y": operator.sub, "x * y": operator.mul, "x / y": operator.truediv,
    "-x": lambda x, y: -x, "x + 2.5": lambda x, y: x + 2.5, "2.5 - x": lambda x, y: 2.5 - x,
    "1.0 / x": lambda x, y: 1 / x, "maximum(x, 0.0)": lambda x, y: np.maximum(x, 0),
    "where(x < y, x, y)": lambda x, y: np.where(x < y, x, y),
    "where(x <= y, 1.0, y)": lambda x, y: np.where(x <= y, 1, y),
    "where(x > y, x, 0.5)": lambda x, y: np.where(x > y, x, 0.5),
    "where(x >= 1.0, x, y)": lambda x, y: np.where(x >= 1, x, y),
    "where(x == y, 1.0, x)": lambda x, y: np.where(x == y, 1, x),
    "where(x != y, x, 1.0)": lambda x, y: np.where(x != y, x, 1),
    "where(x != x, 1.0, x)": lambda x, y: np.where(np.isnan(x), 1, x),
    "where(absolute(x) < INF, x, y)": lambda x, y: np.where(np.isfinite(x), x, y),
}  # fmt: skip
ON_VECTORS = {
    "where((x > 0.0) & (y > 0.0), x, y)": lambda x, y: np.where((x > 0) & (y > 0), x, y),
    "where((x > 0.0) | ~(y > 0.0), x, y)": lambda x, y: np.where((x > 0) | ~(y > 0), x, y),
}
ON_NUMBERS = {
    "x if x > 0.0 and y > 0.0 else y": ON_VECTORS["where((x > 0.0) & (y > 0.0), x, y)"],
    "x if x > 0.0 or not y > 0.0 else y": ON_VECTORS["where((x > 0.0) | ~(y > 0.0), x, y)"],
    "1.0 if x < y else x": lambda x, y: np.where(x < y, 1, x),
    "x if x < y else 0.0": lambda x, y: np.where(x < y, x, 0),
}


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("expression", [*OPERATORS, *ON_VECTORS, *ON_NUMBERS])
def test_operators(expression: str, dtype: str) -> None:
    x, y = numbers(dtype, 2), numbers(dtype, 3)
    y[::4] = x[::4]
    with np.errstate(all="ignore"):
        want = {**OPERATORS, **ON_VECTORS, **ON_NUMBERS}[expression](x, y).astype(dtype)
    kinds = [f"{dtype}*"] * 3
    if expression not in ON_NUMBERS:
        near(written(translated(on_vectors(expression, "xy"), *kinds, "int"), len(x), dtype, x, y), want, 0)
    if expression not in ON_VECTORS:
        near(written(translated(on_numbers(expression, "xy"), *kinds, "int"), len(x), dtype, x, y), want, 0)


FOLDS: dict[str, tuple[Callable[..., Any], str, float]] = {
    "total": (np.sum, "0.0", 4),
    "product_of": (np.prod, "1.0", 8),
    "largest": (np.max, "-INF", 0),
    "smallest": (np.min, "INF", 0),
}


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("word", FOLDS)
def test_folds(word: str, dtype: str) -> None:
    """All lanes together, of which `keep_some` leaves out those past the end, and what several chunks have found."""
    of, identity, units = FOLDS[word]
    kinds = [f"{dtype}*", f"{dtype}*", "int"]
    one = f"keep_some(load_some(x, 0, n), n, {identity})"
    fold = translated(f"def kernel(x, out, n, chunk, thread):\n    put(out, 0, {word}({one}))\n", *kinds)
    name = {"total": "add", "product_of": "multiply", "largest": "maximum", "smallest": "minimum"}[word]
    text = f"def kernel(x, out, n, chunk, thread):\n    put(out, 0, together_{name}(x, n))\n"
    together = translated(text, *kinds)
    lanes = WIDTH // np.dtype(dtype).itemsize
    for n in range(1, lanes + 4):
        x = (np.random.default_rng(n).standard_normal(n) + 3).astype(dtype)
        for values in (x, np.where(np.arange(n) == n // 2, NAN, x).astype(dtype)):
            out = np.zeros(1, dtype)
            if n <= lanes:
                fold(between_nans(values), out, n)
                near(out, np.asarray([of(values.astype(np.float64))]), units)
            together(between_nans(values), out, n)
            near(out, np.asarray([of(values.astype(np.float64))]), units)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("step", [1, 2, -1, -3, 0, 7])
def test_load_apart(step: int, dtype: str) -> None:
    text = (
        "def kernel(x, step, start, out, count, chunk, thread):\n    for j in range(0, count, lanes_of(out)):\n"
        "        n = count - j\n"
        "        store_some(out, j, load_apart(x, start + j * step, step, min(n, lanes_of(out))), n)\n"
    )
    kernel = translated(text, f"{dtype}*", "int", "int", f"{dtype}*", "int")
    for n in range(40):
        x = np.arange(1 + abs(step) * max(0, n - 1)).astype(dtype)
        want = np.broadcast_to(x[0], n) if step == 0 else x[::step][:n]
        got = written(kernel, n, dtype, between_nans(x), step, 0 if step >= 0 else x.size - 1)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("step", [1, 2, -1, 0])
def test_truths(step: int, dtype: str) -> None:
    text = (
        "def kernel(x, step, start, out, count, chunk, thread):\n    for j in range(0, count, lanes_of(out)):\n"
        "        n = count - j\n        mask = load_truths(x, start + j * step, step, out, n)\n"
        "        both = where(mask & truth(out, x[0]), filled(out, 2.0), filled(out, 1.0))\n"
        "        store_some(out, j, where(mask, both, filled(out, -1.0)), n)\n"
    )
    kernel = translated(text, "bool*", "int", "int", f"{dtype}*", "int")
    for n in range(40):
        x = np.random.default_rng(n).integers(0, 2, 1 + abs(step) * max(0, n - 1)).astype(bool)
        given = np.broadcast_to(x[0], n) if step == 0 else x[::step][:n]
        buffer = np.ones(x.size + 2 * GUARD, bool)
        buffer[GUARD : GUARD + x.size] = x
        inside = buffer[GUARD : GUARD + x.size]
        got = written(kernel, n, dtype, inside, step, 0 if step >= 0 else x.size - 1)
        np.testing.assert_array_equal(got, np.where(given, 1 + x[0], -1))


@pytest.mark.parametrize("dtype", REALS)
@pytest.mark.parametrize("of", ["int64", "int32", "uint8"])
def test_lane_is(of: str, dtype: str) -> None:
    text = (
        "def kernel(x, out, count, chunk, thread):\n    for j in range(0, count, lanes_of(out)):\n"
        "        store_some(out, j, where(lane_is(out, j, x[0]), filled(out, 1.0), 0.0), count - j)\n"
    )
    kernel = translated(text, f"{of}*", f"{dtype}*", "int")
    for label in (0, 1, 7, 8, 31, 36, 99, 200, *((-1,) if of != "uint8" else ())):
        got = written(kernel, 37, dtype, np.array([label], of))
        np.testing.assert_array_equal(got, np.arange(37) == label)


@pytest.mark.parametrize("dtype", REALS)
def test_filled_and_the_rest(dtype: str) -> None:
    """Numbers from the text, from arguments, and from memory, of another dtype, in all lanes; the first lane again."""
    other = "float64" if dtype == "float32" else "float32"
    text = (
        "def kernel(given, x, out, count, chunk, thread):\n    a = filled(out, 0.1) + filled(out, given)\n"
        "    put(offset(out, 2), 0, lane0(a))\n    put(out, 0, lane0(filled(out, x[1])))\n"
        "    put(out, 1, chunk * 10 + thread)\n    put(out, 3, -INF)\n"
    )
    out = np.zeros(4, dtype)
    translated(text, "float64", f"{other}*", f"{dtype}*", "int")(
        0.2, np.array([1, 2.5], other), out, 0, chunk=3, thread=4
    )
    tenth, fifth = np.array([0.1, 0.2], dtype)
    np.testing.assert_array_equal(out, np.array([2.5, 34, tenth + fifth, -INF], dtype))


def test_every_word_is_tested() -> None:
    apart = {
        *("lanes_of", "offset", "filled", "load_some", "store_some", "load_apart", "load_truths", "truth", "lane_is"),
        *("keep_some", "lane0", "put", "power", "where", "INF", *(w for w in WORDS if w.startswith("together_"))),
        "product",  # in tests/compiler
    }
    assert set(WORDS) == apart | set(FUNCTIONS) | set(FOLDS)


NUMBERS = {
    "float32": [0.0, -0.0, 1.0, -2.5, 3.0, 100.0],
    "float64": [0.0, -0.0, 1.0, -2.5, 3.0, 100.0],
    "bool": [False, True],
    "int8": [-128, -1, 0, 127],
    "uint8": [0, 1, 128, 255],
    "int16": [-32768, -1, 0, 32767],
    "uint16": [0, 32768, 65535],
    "int32": [-(2**31), -1, 0, 2**31 - 1],
    "uint32": [0, 2**31, 2**32 - 1],
    "int64": [-(2**40), -1, 0, 2**53 + 2],
}


@pytest.mark.parametrize("of", NUMBERS)
@pytest.mark.parametrize("to", ["float32", "float64", "int64", "int32", "bool"])
def test_casts(of: str, to: str) -> None:
    """Of single numbers, as NumPy casts, where it says what comes out."""
    x = np.array(NUMBERS[of], of)
    want = x.astype(to)
    expression = "x != 0" if to == "bool" else f"{to}(x)" if of != "bool" else f"{to}(x != 0)"
    got = written(translated(on_numbers(expression, "x"), f"{of}*", f"{to}*", "int"), len(x), to, x)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("a", ["float32", "float64", "int64", "int32", "uint8"])
@pytest.mark.parametrize("b", ["float32", "float64", "int64"])
def test_numbers_of_two_types_are_taken_in_the_wider(a: str, b: str) -> None:
    x, y = np.array([3.5, 1, 7.25]).astype(a), np.array([3, 1, 7]).astype(b)
    for expression, want in {
        "x + y": x + y,
        "y - x": y - x,
        "x < y": x < y,
        "x == y": x == y,
        "maximum(x, y)": np.maximum(x, y),
        "x if x > 2 else y": np.where(x > 2, x, y),
    }.items():
        kernel = translated(on_numbers(expression, "xy"), f"{a}*", f"{b}*", "float64*", "int")
        np.testing.assert_array_equal(written(kernel, 3, "float64", x, y), want.astype("float64"), err_msg=expression)


def test_whole_numbers() -> None:
    text = (
        "def kernel(a, b, out, n, chunk, thread):\n    'A docstring.'\n    put(out, 0, a + b)\n"
        "    put(out, 1, a - b * 2)\n    put(out, 2, a // b)\n    put(out, 3, a % b)\n    put(out, 4, min(a, b))\n"
        "    put(out, 5, -a)\n    put(out, 6, min(7, a) + 1)\n"
    )
    out = np.zeros(7, np.int64)
    translated(text, "int", "int", "int64*", "int")(17, 5, out, 7)
    assert out.tolist() == [22, 7, 3, 2, 5, -17, 8]


@pytest.mark.parametrize("bounds", ["5", "2, 5", "0, 10, 3", "4, 4", "5, 2", "n", "1, n + 1, 2"])
def test_loops(bounds: str) -> None:
    """A variable keeps its type, and what it was set to before the loop; loops nest."""
    text = (
        f"def kernel(out, n, chunk, thread):\n    total = 0\n    half = 0.5\n    for i in range({bounds}):\n"
        "        for k in range(2):\n            total = total + i\n        half = half * 2.0\n"
        "    put(out, 0, total)\n    put(out, 1, half)\n"
    )
    out = np.zeros(2)
    translated(text, "float64*", "int")(out, 9)
    counted = range(*eval(f"[{bounds}]", {"n": 9}))
    assert out.tolist() == [2 * sum(counted), 0.5 * 2 ** len(counted)]


CANNOT = {
    "while x[0] < 1.0:\n        put(x, 0, 2.0)": "while",
    "if n > 1:\n        put(x, 0, 2.0)": "if n > 1",
    "a, b = n, n": "a, b",
    "a += 1": r"a \+= 1",
    "x[0] = 1.0": "x",
    "return n": "return",
    "put(x, 0, [1.0])": "1.0",
    "put(x, 0, 1.0 < n < 2.0)": "1.0 < n < 2.0",
    "put(x, 0, x.real)": "x.real",
    "put(x, 0, abs.of(n))": "abs.of",
}


@pytest.mark.parametrize("line", CANNOT)
def test_what_a_kernel_cannot_say(line: str) -> None:
    with pytest.raises(SyntaxError, match=f"a kernel can't say .*{CANNOT[line]}"):
        object_code("no", f"def kernel(x, n, chunk, thread):\n    {line}\n", ["float64*", "int"])


def test_all_dtypes_have_types() -> None:
    assert {np.dtype(name).name for name in TYPES if name != "int"} == {
        *("float32", "float64", "bool"),
        *(f"{u}int{bits}" for u in ("", "u") for bits in (8, 16, 32, 64)),
    }
