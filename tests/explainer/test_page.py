"""What the page is given: arrays as cells, evidence for each call, modules; and how it is written."""

from __future__ import annotations

import base64
import json
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import nn
from minigrad.explainer import page as pages
from minigrad.explainer.evidence import cost, jacobians, verdicts
from minigrad.explainer.page import HIGHEST, TILES, WIDEST, page, picture


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, flags=re.S)
    assert found is not None
    return json.loads(found[1])


def cells_of(told: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(told["cells"]), "<f4").reshape(told["tiles"])


@given(
    hnp.arrays(np.float64, hnp.array_shapes(max_dims=4, max_side=200), elements=st.floats(-1e3, 1e3)),
    st.integers(64, 4000),
)
def test_cells_are_means_of_blocks(x: np.ndarray, cells: int) -> None:
    told = picture(x, cells, x)
    count, rows, columns = told["tiles"]
    down, across = told["block"]
    assert prod(told["tiles"]) <= max(cells, 1)
    assert count <= TILES
    assert rows <= HIGHEST
    assert columns <= WIDEST
    shown = cells_of(told)
    if told["isImage"] and x.ndim == 2:
        side = int(np.sqrt(x.shape[1]))
        whole = x.reshape(len(x), side, side)
    else:
        whole = np.atleast_2d(x).reshape(-1, *np.atleast_2d(x).shape[-2:])
    assert told["more"] == len(whole) - count
    assert (rows, columns) == (-(-whole.shape[1] // down), -(-whole.shape[2] // across))
    rng = np.random.default_rng(0)
    for _ in range(5):
        k, i, j = (int(rng.integers(n)) for n in told["tiles"])
        block = whole[k, i * down : (i + 1) * down, j * across : (j + 1) * across]
        np.testing.assert_allclose(shown[k, i, j], block.mean(), rtol=1e-5, atol=1e-4)


def test_what_looks_like_images() -> None:
    rng = np.random.default_rng(0)
    for shape, tiles in (((5, 64), [5, 8, 8]), ((20, 784), [16, 28, 28]), ((3, 2, 9, 9), [6, 9, 9])):
        told = picture(x := rng.uniform(size=shape), 100_000, x)
        assert (told["isImage"], told["tiles"]) == (True, tiles)
    for x in (rng.normal(size=(5, 64)), rng.uniform(size=(5, 60)), np.ones((5, 64)), rng.uniform(size=(7, 7))):
        assert not picture(x, 100_000, x)["isImage"]
    cotangent = picture(rng.normal(size=(5, 64)), 100_000, rng.uniform(size=(5, 64)))
    assert (cotangent["isImage"], cotangent["tiles"]) == (False, [5, 8, 8])  # laid out like one, and no image


def test_empty_scalar_and_not_finite() -> None:
    told = lambda x: picture(x, 100, x)
    assert told(np.zeros((0, 3)))["cells"] == ""
    assert cells_of(told(np.array(2.5))).tolist() == [[[2.5]]]
    seen = cells_of(told(np.array([np.nan, np.inf, 1e300])))  # beyond float32: infinite
    np.testing.assert_array_equal(seen, [[[np.nan, np.inf, np.inf]]])
    assert cells_of(told(np.array([True, False]))).tolist() == [[[1.0, 0.0]]]


def test_the_page_does_not_grow_with_the_arrays() -> None:
    x = mg.random.normal((1000, 1000), dtype="float32")

    def deep(x: Any) -> Any:
        for _ in range(20):
            x = x * 2.0
        return mg.sum(x)

    assert len(page(mg.explain(deep, x), 0.0)) < 8 * 2**20


def test_the_data_of_the_page() -> None:
    story = mg.explain(lambda x: mg.sum(mg.exp(x) * x), mg.Tensor([1.0, 2.0]))
    data = data_of(page(story, 60.0))
    assert [call["name"] for call in data["calls"]] == [call.made.name for call in story.calls]
    assert [step["op"] for step in data["steps"]] == ["sum", "multiply", "exp"]
    assert all(call["verdict"][0] == "pass" for call in data["calls"])
    for call, told in zip(story.calls, data["calls"], strict=True):
        value = data["values"][told["made"]]
        np.testing.assert_allclose(np.ravel(cells_of(data["arrays"][value["array"]])), np.ravel(call.made.array), 1e-6)
        assert value["size"] == pytest.approx(np.sqrt(np.mean(np.square(call.made.cotangent))))
    file, number = data["calls"][0]["place"]
    lines = next(each["lines"] for each in data["program"] if each["file"] == file)
    assert "mg.exp(x) * x" in dict(map(tuple, lines))[number]


@pytest.mark.parametrize("size", [0.0, 1e-300, 1e200, np.nan, np.inf])
def test_the_size_of_a_gradient(size: float) -> None:
    found = pages._root_mean_square(np.array([size, -size]))
    assert found == ("not finite" if not np.isfinite(size) else pytest.approx(size))


def test_only_our_script_is_allowed() -> None:
    html = page(mg.explain(lambda x: mg.sum(x), mg.Tensor([1.0])), 0.0)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    assert not re.findall(r"https?://(?!www\.w3\.org/(?:1999/xhtml|2000/svg))", html)


def test_names_that_are_no_text() -> None:
    """Half of a surrogate pair can't be written as UTF-8."""
    op = mg.Op("half \ud800", np.exp, vjp={"x": lambda g, y: g * y}, kind="elementwise", formula="\udfff")
    html = page(mg.explain(lambda x: mg.sum(op(x)), mg.Tensor([1.0])), 0.0)
    assert "\ud800" in data_of(html.encode().decode())["calls"][0]["op"]


def test_writing(tmp_path: Path) -> None:
    story = mg.explain(lambda x: mg.sum(x), mg.Tensor([1.0]))
    target = tmp_path / "step.html"
    target.write_text("before")
    assert story.html(str(target)) == target
    assert target.read_text("utf-8").startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["step.html"]
    with pytest.raises(FileNotFoundError, match="expected a folder .*none.*make it first"):
        story.html(tmp_path / "none" / "step.html")
    with pytest.raises(IsADirectoryError, match="expected a file, and .* is a folder: name a file in it"):
        story.html(tmp_path)


# Modules


class Block(nn.Module):
    def __init__(self) -> None:
        self.parts = {"a": nn.Linear(2, 2), "b": [nn.Tanh(), nn.Linear(2, 2)]}

    def __call__(self, x: Any) -> Any:
        x = self.parts["a"](x) + 1.0
        for layer in self.parts["b"]:
            x = layer(x)
        return x


def modules_of(story: Any) -> list[tuple[str, tuple[str, ...]]]:
    return [(call.op.name, call.modules) for call in story.calls]


def test_calls_know_the_modules_around_them() -> None:
    net = nn.Sequential(Block().astype("float64"), nn.ReLU())
    block = ("net: Sequential", "net.layers.0: Block")
    expected = [
        ("linear", (*block, "net.layers.0.parts.a: Linear")),
        ("add", block),
        ("tanh", (*block, "net.layers.0.parts.b.0: Tanh")),
        ("linear", (*block, "net.layers.0.parts.b.1: Linear")),
        ("relu", ("net: Sequential", "net.layers.1: ReLU")),
        ("sum", ()),
    ]
    x = mg.Tensor([[1.0, 2.0]])
    assert modules_of(mg.explain(lambda x: mg.sum(net(x)), x)) == expected
    assert modules_of(mg.explain(lambda net, x: mg.sum(net(x)), net, x)) == expected
    with mg.record() as tape:
        mg.sum(net(x)).backward()
    assert modules_of(mg.explain(tape)) == expected
    of_module = modules_of(mg.explain(nn.Sequential(nn.Linear(2, 1).astype("float64")), x))
    assert of_module == [("linear", ("Sequential", "Sequential.layers.0: Linear"))]


def test_containers_that_hold_themselves() -> None:
    around: list[Any] = [nn.Tanh()]
    around.append(around)
    story = mg.explain(lambda x: mg.sum(around[0](x)), mg.Tensor([1.0]))
    assert story.calls[0].modules == ("around.0: Tanh",)
    x = mg.Tensor([1.0], requires_grad=True)
    with mg.record() as tape:
        mg.sum(around[0](x)).backward()
    story = mg.explain(tape)
    assert (story.inputs[0].name, story.calls[0].modules) == ("x", ("around.0: Tanh",))


# Evidence


def test_jacobians_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3)), rng.normal(size=(3, 2))
    story = mg.explain(lambda a, b: mg.sum(mg.softmax(a @ b, axis=1)), mg.Tensor(a), mg.Tensor(b))
    of = {call.op.name: dict(jacobians(call)) for call in story.calls}
    first, second = of["matmul"].values()
    np.testing.assert_allclose(first, np.kron(np.eye(2), b.T))
    np.testing.assert_allclose(second, np.kron(a, np.eye(2)))
    y = next(call.made.array for call in story.calls if call.op.name == "softmax")
    (found,) = of["softmax"].values()
    right = np.zeros((4, 4))
    for i in range(2):
        right[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = np.diag(y[i]) - np.outer(y[i], y[i])
    np.testing.assert_allclose(found, right, atol=1e-15)


def test_jacobians_that_are_large_or_are_none() -> None:
    x = mg.Tensor(np.ones((40, 40)))
    story = mg.explain(lambda x: mg.sum(mg.where(mg.greater(x, 0.0), x, 0.0)), x)
    assert not [name for call in story.calls[:2] for name, _ in jacobians(call)]
    (named,) = jacobians(mg.explain(lambda *xs: mg.concat(xs[:1]), mg.Tensor([1.0, 2.0])).calls[0])
    np.testing.assert_array_equal(named[1], np.eye(2))


def test_the_memory_that_is_kept() -> None:
    net = nn.Linear(3, 4)
    story = mg.explain(lambda x: mg.sum(mg.tanh(net(x))), mg.Tensor(np.ones((5, 3)), dtype="float32"))
    steps = {step.op.name: step for step in story.steps}
    linear, tanh, total = story.calls
    assert cost(linear, steps["linear"]).kept == {"w": 4 * 12, "x": 4 * 15}
    assert cost(tanh, steps["tanh"]).made == 4 * 20
    assert cost(total, steps["sum"]).kept == {}
    assert cost(linear).backward == 0.0
    assert cost(linear, steps["linear"]).forward > 0.0
    reshaped = mg.explain(lambda x: mg.sum(mg.reshape(x, (4,))), mg.Tensor(np.ones((2, 2)))).calls[0]
    assert cost(reshaped).made == 0  # a view


def test_verdicts() -> None:
    slip = mg.Op("slip", np.sinh, vjp={"x": lambda g, x: -g * mg.cosh(x)}, kind="elementwise", formula="wrong")
    story = mg.explain(lambda x: mg.sum(slip(mg.exp(x))), mg.Tensor([0.5, -1.0]))
    found = verdicts(story, 60.0)
    assert {story.calls[k - 1].op.name: report.verdict for k, report in found.items()} == {
        "exp": "pass",
        "slip": "fail",
        "sum": "pass",
    }
    assert verdicts(story, -1.0) == {}


def test_a_checkpoint_and_several_outputs() -> None:
    """What can't be called alone has no verdict and no Jacobian, but a cost."""
    x = mg.Tensor([1.0, 2.0, 3.0, 4.0])

    def f(x: Any) -> Any:
        a, b = mg.split(mg.checkpoint(mg.sin)(x), 2)
        return mg.sum(a * b)

    story = mg.explain(f, x)
    data = data_of(page(story, 60.0))
    told = {call["op"]: call for call in data["calls"]}
    assert told["checkpoint"]["verdict"] is None
    assert told["multiply"]["verdict"][0] == "pass"
    assert all(call["cost"][0] > 0 for call in data["calls"])
