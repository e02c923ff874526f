"""A story as text, and as a graph for others to draw."""

import re

import numpy as np
import pytest

import minigrad as mg
from minigrad.explainer.text import numbers


def test_the_whole_text():
    def f(x):
        h = mg.exp(x)
        return mg.sum(h * 2.0)

    text = re.sub(r"\S*test_text\.py:\d+", "test.py:1", str(mg.explain(f, mg.Tensor([0.0, np.log(2.0)]))))
    assert (
        text
        == """\
forward
test.py:1: h = mg.exp(x)
   1  h = exp(x)                          (2,)  1, 2
test.py:1: return mg.sum(h * 2.0)
   2  multiply_1 = multiply(h, 2)         (2,)  2, 4
   3  sum_1 = sum(multiply_1, axis=(0,))  ()    6

backward
test.py:1: return mg.sum(h * 2.0)
   1  sum  y = Σ x over axis,  x̄ = ȳ copied along axis
      came  sum_1       1
      left  multiply_1  1, 1
   2  multiply  y = a·b,  ā = ȳ·b,  b̄ = ȳ·a
      came  multiply_1  1, 1
      left  h           2, 2
test.py:1: h = mg.exp(x)
   3  exp  y = exp x,  x̄ = ȳ·y
      came  h  2, 2
      left  x  2, 4

gradients
      x  (2,)  2, 4"""
    )


def test_without_backward():
    with mg.record() as tape:
        mg.exp(mg.Tensor([1.0]))
    assert str(mg.explain(tape)).endswith("call backward() of the result under the tape")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float64(0.123456), "0.1235"),
        (np.array([True, False]), "True, False"),
        (np.arange(3), "0, 1, 2"),
        (np.zeros((0, 3)), "no numbers"),
        (np.array([1.0] * 5 + [0.0] * 5), "0 to 1, mean 0.5, norm 2.236, 50 % zeros"),
        (np.array([np.nan, np.inf] + [2.0] * 7), "2 to 2, mean 2, norm 5.292, 2 not finite"),
        (np.full(9, np.nan), "9 not finite"),
        (np.full(9, 1e30, np.float32), "1e+30 to 1e+30, mean 1e+30, norm 3e+30"),
        ((np.ones(1), None), "1; nothing"),
    ],
)
def test_numbers(array, text):
    assert numbers(array) == text


NASTY = 'a"]; evil\\ <script>alert(1)</script>\n`#'


@pytest.fixture
def nasty():
    """A story in which a name and an operation are called like that."""
    op = mg.Op(NASTY, lambda x: x * 1.0, vjp={"x": lambda g: g}, kind="elementwise")
    return mg.explain(lambda x: mg.sum(op(x[NASTY])), {NASTY: mg.Tensor([1.0])})


def test_dot_is_safe(nasty):
    """Every line is one of four kinds, in which only quoted text is free, and that has no quote of its own."""
    quoted = r'"(?:[^"\\\n]|\\.)*"'
    kinds = [
        r"digraph story \{",
        "  rankdir=LR",
        rf"  \w+ \[shape=\w+, label={quoted}\]",
        r"  \w+ -> \w+( \[color=red\])?",
        r"\}",
    ]
    for line in nasty.dot().splitlines():
        assert any(re.fullmatch(kind, line) for kind in kinds), line


def test_mermaid_is_safe(nasty):
    for line in nasty.mermaid().splitlines()[1:]:
        assert re.fullmatch(r'  \w+ [=-]+> \w+|  \w+(\["|\(\[")[^"<>\n`]*<br/>[^"<>\n`]*("\]|"\]\))', line), line


def test_arrows():
    """Along which a gradient comes back, and along which it does not."""
    story = mg.explain(lambda x, n: mg.sum(mg.where(n > 1, x * x, x)), mg.Tensor([1.0, 2.0]), np.array([1, 2]))
    red = set(re.findall(r"(\w+ -> \w+) \[color=red\]", story.dot()))
    every = set(re.findall(r"\w+ -> \w+", story.dot()))
    thick = {edge.replace("==>", "->") for edge in re.findall(r"\w+ ==> \w+", story.mermaid())}
    assert red == thick
    assert len(every - red) == 2  # n > 1, and that in where
