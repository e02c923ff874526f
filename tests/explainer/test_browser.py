"""The page in a real browser: a whole backward pass is stepped through, and what is seen are Python's numbers."""

from __future__ import annotations

import linecache
import re
import shutil
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.explainer.story import Story

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


class Browser:
    """A page in Chromium, by what a person does and sees."""

    def __init__(self, driver: Any, folder: Path):
        self.driver, self.folder = driver, folder

    def open(self, story: Story, seconds: float = 5.0) -> None:
        self.driver.get(story.html(self.folder / "step.html", seconds).as_uri())

    def all(self, css: str) -> list[Any]:
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def one(self, css: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def type(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def script(self, code: str, *given: Any) -> Any:
        return self.driver.execute_script(code, *given)

    def node(self, label: str) -> Any:
        """The node of the graph that shows this text."""
        return self.driver.find_element(By.XPATH, f"//*[contains(@class, 'node')][*[name()='text'][text()='{label}']]")

    def tables(self, css: str) -> list[np.ndarray]:
        """The numbers of the tables in an element."""
        rows = """return [...document.querySelectorAll(arguments[0] + " table")].map(
            t => [...t.rows].map(r => [...r.cells].map(c => Number(c.textContent))))"""
        return [np.array(table) for table in self.script(rows, css)]

    def problems(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1300,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: Any, tmp_path: Path) -> Iterator[Browser]:
    browser = Browser(driver, tmp_path)
    yield browser
    assert not browser.problems()


class Net(nn.Module):
    def __init__(self) -> None:
        self.encoder = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1))
        self.decoder = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 3))

    def __call__(self, x: Any) -> Any:
        return self.decoder(self.encoder(x))


def network() -> Story:
    with mg.random.use(mg.random.Generator(3)):
        net, x = Net().astype("float64"), mg.random.normal((2, 3))
    return mg.explain(lambda x: mg.mean(mg.square(net(x) - x)), x)


def close(shown: np.ndarray, right: Any) -> None:
    """Numbers of four digits."""
    np.testing.assert_allclose(np.ravel(shown), np.ravel(right), rtol=2e-3, atol=1e-12)


def test_a_whole_pass_is_stepped_through_with_the_numbers_of_python(browser: Browser) -> None:
    story = network()
    browser.open(story)
    assert browser.one("#where").text == f"before the first of {len(story.calls)} calls"
    for call in story.calls:
        browser.type(Keys.ARROW_RIGHT)
        assert browser.one("#where").text == f"forward, call {call.number} of {len(story.calls)}: {call.op.name}"
        assert f"{call.made.name} = {call.op.name}(" in browser.one("#step h2").text
        shown = [call.made, *call.given]
        for table, quantity in zip(browser.tables("#step"), shown, strict=True):
            close(table, quantity.array)
        assert call.line.endswith(browser.one("[aria-current]").text.split(maxsplit=1)[1])
        assert len(browser.all(".node.current")) == 1
        assert len(browser.all(".node.call:not(.later)")) == call.number
    for step in story.steps:
        browser.type(Keys.ARROW_RIGHT)
        assert browser.one("#where").text == f"backward, step {step.number} of {len(story.steps)}: {step.op.name}"
        came, *left = browser.tables("#step")
        close(came, step.came)
        for table, (_, _, cotangent) in zip(left, step.left, strict=True):
            close(table, cotangent)
        assert browser.one("#step .formula").text == step.op.formula.replace(",  ", ", ")
        of_rules = " ".join(e.text for e in browser.all("#step .formula .said"))
        assert of_rules.startswith(re.split(r",\s{2,}", step.op.formula)[1])
        assert len(browser.all(".edge.moving")) == sum(not q.is_constant for _, q, _ in step.left)
    assert not browser.one("#on").is_enabled()
    browser.type(Keys.ARROW_LEFT)
    assert f"step {len(story.steps) - 1} of" in browser.one("#where").text
    browser.type(Keys.HOME)
    assert browser.one("#where").text.startswith("before")
    browser.type(Keys.END)
    assert f"step {len(story.steps)} of" in browser.one("#where").text


def test_gradients_move_only_along_what_rules_returned(browser: Browser) -> None:
    """Not to labels, which have none, nor in the second pass along what the first one used."""
    x, y = mg.Tensor([0.5, -1.0], requires_grad=True), mg.Tensor([2.0, 3.0], requires_grad=True)
    labels = mg.Tensor([True, False])
    with mg.record() as tape:
        z = mg.where(labels, x, y) * x
        z[0].backward(retain_graph=True)
        z[1].backward()
    story = mg.explain(tape)
    browser.open(story)
    browser.type(*[Keys.ARROW_RIGHT] * len(story.calls))
    for step in story.steps:
        browser.type(Keys.ARROW_RIGHT)
        assert len(browser.all(".edge.moving")) == len({quantity.name for _, quantity, _ in step.left})
    assert len(browser.all(".edge.pulled")) == len(browser.all(".edge")) - 1  # but for the labels


def nested() -> Story:
    """Branches, an input that is used everywhere, modules in modules."""
    with mg.random.use(mg.random.Generator(3)):
        net, x = nn.Sequential(Net(), nn.Linear(3, 3), Net()).astype("float64"), mg.random.normal((2, 3))

    def f(x: Any) -> Any:
        y = net(x)
        return mg.mean(mg.square(y - x)) + mg.sum(mg.abs(x)) * mg.sum(mg.sin(y) * mg.cos(x))

    return mg.explain(f, x)


def many() -> Story:
    """A wide sum."""

    def f(xs: Any) -> Any:
        return sum((mg.sin(x) * x for x in xs), start=mg.Tensor(0.0))

    return mg.explain(f, [mg.Tensor(float(k)) for k in range(20)])


@pytest.mark.parametrize("story", [network, nested, many])
def test_nodes_stand_apart_and_edges_go_to_the_right(browser: Browser, story: Any) -> None:
    browser.open(story())
    for button in ("unfold", "fold"):
        browser.one(f"#{button}").click()
        boxes = """return [...document.querySelectorAll(".node")].map(n => {
            const r = n.querySelector("rect").getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom] })"""
        left, right, top, bottom = np.array(browser.script(boxes)).T
        apart = lambda low, high: (low[:, None] > high) | (low > high[:, None])
        assert np.all(apart(left, right) | apart(top, bottom) | np.eye(len(left), dtype=bool))
        ends = "return drawn.edges.map(e => [e.points[0], e.points.at(-1)].map(p => [p.x, p.width]))"
        for (start, from_width), (end, to_width) in browser.script(ends):
            assert start + from_width / 2 < end - to_width / 2


def test_a_chain_is_level(browser: Browser) -> None:
    """Beside what comes from outside, and under an edge that passes it by."""
    browser.open(network())
    browser.one("#unfold").click()
    heights = browser.script("return [...drawn.nodes.values()].filter(n => n.item !== null).map(n => [n.first, n.y])")
    layers = [y for name, y in heights if name in ("linear", "tanh")]
    assert max(layers) - min(layers) < 3


def test_a_node_tells_its_jacobian_verdict_and_cost(browser: Browser) -> None:
    story = mg.explain(lambda x: mg.sum(mg.tanh(x)), mg.Tensor([0.5, -1.0]))
    browser.open(story)
    browser.node("tanh").click()
    told = browser.one("#node").text
    assert "pass, by finite differences" in told
    assert "y 16 B" in told or "x 16 B" in told
    jacobian, value, cotangent = browser.tables("#node")
    close(jacobian, np.diag(1 - np.tanh([0.5, -1.0]) ** 2))
    close(value, np.tanh([0.5, -1.0]))
    close(cotangent, [1, 1])
    browser.node("x").click()
    value, cotangent = browser.tables("#node")
    close(cotangent, 1 - np.tanh([0.5, -1.0]) ** 2)


def test_a_wrong_rule_is_marked(browser: Browser) -> None:
    slip = mg.Op("slip", np.sinh, vjp={"x": lambda g, x: g * 1.001 * mg.cosh(x)}, kind="elementwise", formula="y = …")
    browser.open(mg.explain(lambda x: mg.sum(slip(mg.exp(x))), mg.Tensor([0.5, -1.0])))
    assert [mark.text for mark in browser.all(".mark.fail")] == ["✗"]
    browser.node("slip").click()
    assert "fail, by finite differences" in browser.one("#node").text
    browser.one("#node summary").click()
    assert "times the right one" in browser.one("#node pre").text


def test_modules_are_folded_and_unfolded(browser: Browser) -> None:
    browser.open(network())
    count = lambda: len(browser.all(".node"))
    titles = lambda: {title.text for title in browser.all(".group-title")}
    names = {"▾ net: Net", "▾ net.encoder: Sequential", "▾ net.decoder: Sequential"}
    whole = count()
    assert titles() == names
    browser.all(".group-title")[1].click()
    assert (titles(), count()) == (names - {"▾ net.encoder: Sequential"}, whole - 6)  # three calls, four parameters
    browser.node("▸ net.encoder: Sequential").click()
    assert (titles(), count()) == (names, whole)
    browser.one("#fold").click()
    assert not titles()
    browser.type(Keys.HOME, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)  # what is folded is still stepped through
    assert "call 2 of" in browser.one("#where").text
    assert "▸ net: Net" in browser.one(".node.current").text
    browser.script("arguments[0].focus()", browser.one(".node.current"))
    browser.type(Keys.ENTER)
    assert titles() == {"▾ net: Net"}
    assert "net.encoder" in browser.script("return document.activeElement.textContent")
    browser.type("f")
    assert not titles()
    browser.one("#unfold").click()
    assert (titles(), count()) == (names, whole)


def test_what_comes_after_backward_is_a_group_at_the_end(browser: Browser) -> None:
    layer, x = nn.Linear(3, 2), mg.ones((4, 3), dtype="float32")
    optimizer = mg.optim.Adam(layer, lr=0.1)
    with mg.record() as tape:
        mg.mean(mg.square(layer(x))).backward()
        optimizer.step()
    story = mg.explain(tape)
    assert {call.op.name for call in story.calls if call.after} >= {"adam", "assign"}
    browser.open(story)
    folded = browser.node("▸ after backward")
    left = "return [...document.querySelectorAll('.node rect')].map(r => r.getBoundingClientRect().left)"
    assert folded.find_element(By.CSS_SELECTOR, "rect").rect["x"] == pytest.approx(max(browser.script(left)), abs=1)
    folded.click()
    assert len(browser.all(".node.call")) == len(story.calls)
    last = max(k for k, call in enumerate(story.calls) if not call.after)
    spots = "return calls.map((_, k) => drawn.nodes.get(`c${k}`).x)"
    places = browser.script(spots)
    assert max(places[: last + 1]) < min(places[last + 1 :])


def test_two_thousand_nodes(browser: Browser) -> None:
    def deep(x: Any) -> Any:
        for _ in range(1000):
            x = mg.sin(x) + x
        return mg.sum(x)

    story = mg.explain(deep, mg.Tensor([0.5, -1.0]))
    browser.open(story, seconds=0.5)
    assert 2 <= len(browser.all(".node")) <= 45
    browser.type(*[Keys.ARROW_RIGHT] * 5)
    assert "call 5 of 2001" in browser.one("#where").text
    assert len(browser.all(".node.current")) == 1
    browser.one("#unfold").click()
    assert len(browser.all(".node")) == 2002
    browser.type(Keys.END)
    assert "step 2001 of 2001" in browser.one("#where").text
    rect = (
        "const [a, b] = [...arguments].map(e => e.getBoundingClientRect()); return [a.left - b.left, b.right - a.right]"
    )
    left, right = browser.script(rect, browser.one(".node.current"), browser.one("#graph"))
    assert left >= 0  # it was scrolled to
    assert right >= 0
    browser.one("#fold").click()
    assert len(browser.all(".node")) < 45


def test_weights_that_are_shared_and_results_that_are_collected(browser: Browser) -> None:
    """A recurrent network: edges from one input to all calls, and from all calls to one at the end."""

    def recurrent(w: Any, h: Any) -> Any:
        states = []
        for _ in range(300):
            h = mg.tanh(mg.sin(h) * w)
            states.append(h)
        return mg.sum(mg.stack(states))

    story = mg.explain(recurrent, 1.5, mg.Tensor([0.5, -1.0]))
    browser.open(story, seconds=0.0)
    assert len(browser.all(".node")) < 50
    browser.one("#unfold").click()
    assert len(browser.all(".node.call")) == len(story.calls) > 1200
    browser.type(Keys.END)
    assert f"step {len(story.steps)} of {len(story.steps)}" in browser.one("#where").text


def test_colours_show_how_gradients_vanish(browser: Browser) -> None:
    def deep(x: Any) -> Any:
        for _ in range(6):
            x = mg.sigmoid(x)
        return mg.sum(x)

    story = mg.explain(deep, mg.Tensor([0.5, -1.0]))
    browser.open(story)
    assert browser.one("#gradients").get_attribute("aria-pressed") == "false"
    browser.type("g")
    sizes = [np.sqrt(np.mean(np.square(call.made.cotangent))) for call in story.calls]
    fills = [browser.one(f"[data-key='c{k}'] .box").value_of_css_property("fill") for k in range(len(sizes))]
    greens = [int(re.findall(r"\d+", fill)[1]) for fill in fills]  # of viridis, green grows with the number
    assert greens[:-1] == sorted(set(greens[:-1]))
    for k, size in enumerate(sizes):
        spoken = browser.one(f"[data-key='c{k}']").get_attribute("aria-label")
        assert float(re.search(r"gradient ([\d.e-]+)", spoken)[1]) == pytest.approx(size, rel=1e-3)
    low, high = re.findall(r"[\d.]+(?:e-?\d+)?", browser.one("#legend").text)
    assert float(low) == pytest.approx(min(np.sqrt(np.mean(np.square(story.inputs[0].cotangent))), *sizes), rel=1e-3)
    assert float(high) == pytest.approx(1.0)
    browser.type("g")
    assert browser.one("[data-key='c0'] .box").value_of_css_property("fill") != fills[0]


def test_large_arrays_are_pictures_whose_cells_can_be_read(browser: Browser) -> None:
    rng = np.random.default_rng(0)
    x, images = rng.normal(size=(20, 30)), rng.uniform(size=(5, 64))
    large = rng.normal(size=(100, 500))
    f = lambda x, i, large: mg.sum(x * 2.0) + mg.mean(mg.square(i)) + mg.sum(large)
    browser.open(mg.explain(f, mg.Tensor(x), mg.Tensor(images), mg.Tensor(large)))
    browser.node("x").click()
    canvas = browser.one("#node canvas")
    scale = canvas.size["width"] / 30
    move = webdriver.ActionChains(browser.driver)
    middle = [-canvas.size["width"] / 2, -canvas.size["height"] / 2]
    spot = [int(middle[0] + (7 + 0.5) * scale), int(middle[1] + (4 + 0.5) * scale)]  # row 4, column 7
    move.move_to_element_with_offset(canvas, *spot).perform()
    at, number = browser.one("#node figure .soft").text.split("] ")
    assert at == "[4, 7"
    assert float(number) == pytest.approx(x[4, 7], rel=1e-3)
    browser.node("large").click()
    canvas = browser.one("#node canvas")  # 100 rows of 500: each cell is the mean of 2 × 4 entries
    assert "each cell is the mean of 2×4 entries" in browser.one("#node figure .soft").text
    spot = [int(canvas.size["width"] * (50.5 / 125 - 0.5)), int(canvas.size["height"] * (20.5 / 50 - 0.5))]
    webdriver.ActionChains(browser.driver).move_to_element_with_offset(canvas, *spot).perform()
    at, number = browser.one("#node figure .soft").text.split("] ")
    assert at == "[40, 200"
    assert float(number) == pytest.approx(large[40:42, 200:204].mean(), rel=1e-3)
    browser.node("i").click()
    width, height = (int(browser.one("#node canvas").get_attribute(side)) for side in ("width", "height"))
    assert (width, height) == (5 * 72 + 4 * 4, 72)  # five images of 8 × 8, side by side
    pixel = browser.script(
        "return [...arguments[0].getContext('2d').getImageData(76 + 9 * 2 + 4, 9 * 1 + 4, 1, 1).data]",
        browser.one("#node canvas"),
    )
    assert pixel[:3] == [round(255 * images[1, 10])] * 3  # the second image, row 1, column 2


HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def test_names_are_text_whatever_they_are(browser: Browser) -> None:
    op = mg.Op(HOSTILE, np.exp, vjp={"x": lambda g, y: g * y}, kind="elementwise", formula=HOSTILE)
    names: dict[str, Any] = {"mg": mg, "op": op}
    program = f"def f(tree):\n    h = op(tree[{HOSTILE!r}])  # {HOSTILE}\n    return mg.sum(h)\n"
    linecache.cache[HOSTILE] = (len(program), None, program.splitlines(keepends=True), HOSTILE)
    exec(compile(program, HOSTILE, "exec"), names)
    browser.open(mg.explain(names["f"], {HOSTILE: mg.Tensor([1.0, 2.0])}))
    browser.type(*[Keys.ARROW_RIGHT] * 3)
    assert browser.script("return window.hacked === undefined")
    assert not browser.all("img, iframe, [onerror]")
    assert len(browser.all("script")) == 2
    assert HOSTILE in browser.one("#program").text
    browser.all(".node")[0].click()
    assert HOSTILE in browser.one("#node").text


def test_it_needs_nothing_else(browser: Browser) -> None:
    browser.open(network())
    assert browser.script("return performance.getEntriesByType('resource').length") == 0
    blocked = browser.script(
        "try { await fetch('data:text/plain,x'); return 'fetched' } catch { return 'blocked' }".join(
            ("return (async () => {", "})()")
        )
    )
    assert blocked == "blocked"
    browser.problems()  # which tell of that


def contrast(one: str, other: str) -> float:
    """Of two colours, as the Web Content Accessibility Guidelines 2.2 define it: 1 to 21."""

    def luminance(colour: str) -> float:
        c = np.array([float(v) for v in re.findall(r"[\d.]+", colour)[:3]]) / 255
        return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(browser: Browser, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.open(network())
    browser.type(*[Keys.ARROW_RIGHT] * 12)
    body = browser.one("body")
    paper, ink = (body.value_of_css_property(name) for name in ("background-color", "color"))
    assert (contrast(paper, "rgb(0,0,0)") < 2) == (scheme == "dark")
    assert contrast(paper, ink) > 12
    for css, behind in (("h3", None), (".facts dt", None), ("#node .pass", None), (".said", "self"), ("td", "self")):
        for element in browser.all(css):
            back = element.value_of_css_property("background-color") if behind else paper
            assert contrast(back, element.value_of_css_property("color")) >= 4.5, css
    fill = browser.one(".call .box").value_of_css_property("fill")
    assert contrast(fill, browser.one(".call text").value_of_css_property("fill")) > 7
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_screen_readers_are_told_what_is_there(browser: Browser) -> None:
    story = network()
    browser.open(story)
    browser.type(Keys.ARROW_RIGHT)
    tree = browser.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    shown = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"]]
    assert not [role for role, name in shown if not name and role in ("button", "slider", "image", "region")]
    spoken = [name for role, name in shown if role == "button" and name.startswith("call ")]
    assert len(spoken) == len(story.calls)
    assert spoken[0].startswith("call 1: linear_1 = linear(x, net.encoder.layers.0.weight")
    assert "rules: pass" in spoken[0]
    assert browser.one("#where").get_attribute("aria-live") == "polite"
    assert browser.one("#position").get_attribute("aria-valuetext") == browser.one("#where").text


def test_the_keyboard_alone_is_enough(browser: Browser) -> None:
    browser.open(network())
    reached = set()
    for _ in range(40):
        browser.type(Keys.TAB)
        reached.add(browser.script("const e = document.activeElement; return e.id || e.getAttribute('data-key')"))
    assert {"on", "position", "fold", "unfold", "larger", "gradients", "program", "step", "node"} <= reached
    assert sum(str(key).startswith(("c", "x")) for key in reached) == 1  # of the graph one, from where arrows lead on
    browser.script("arguments[0].focus()", browser.one(".node[tabindex='0']"))
    seen = [browser.script("return document.activeElement.getAttribute('data-key')")]
    for key in [Keys.ARROW_UP] * 40 + [Keys.ARROW_DOWN] * 40:
        browser.type(key)
        seen.append(browser.script("return document.activeElement.getAttribute('data-key')"))
    assert set(seen) == {node.get_attribute("data-key") for node in browser.all(".node")}
    browser.type(Keys.ENTER)
    assert browser.one(".node.selected").get_attribute("data-key") == seen[-1]


def test_notebooks_show_it_in_a_frame_of_its_own(browser: Browser) -> None:
    story = mg.explain(lambda x: mg.sum(mg.exp(x)), mg.Tensor([1.0, 2.0]))
    framed = story._repr_html_()
    assert unescape(framed).count("<!doctype html>") == 1
    page = browser.folder / "notebook.html"
    page.write_text(f"<!doctype html><meta charset='utf-8'><title>notebook</title><h1>A notebook</h1>{framed}")
    browser.driver.get(page.as_uri())
    browser.driver.switch_to.frame(browser.one("iframe"))
    browser.one("#on").click()
    assert browser.one("#where").text == "forward, call 1 of 2: exp"
    close(browser.tables("#step")[0], np.exp([1.0, 2.0]))
    browser.driver.switch_to.default_content()
    assert browser.driver.title == "notebook"


def test_the_line_of_the_program_is_always_seen(browser: Browser) -> None:
    lines = [f"    x = mg.sin(x) + {k}.0" for k in range(150)]
    program = "\n".join(["def f(x):", *lines, "    return mg.sum(x)"]) + "\n"
    linecache.cache["<long>"] = (len(program), None, program.splitlines(keepends=True), "<long>")
    names: dict[str, Any] = {"mg": mg}
    exec(compile(program, "<long>", "exec"), names)
    browser.open(mg.explain(names["f"], 1.0), seconds=0.0)
    rect = (
        "const [a, b] = [...arguments].map(e => e.getBoundingClientRect()); return [a.top - b.top, b.bottom - a.bottom]"
    )
    for keys in ([Keys.END], [Keys.HOME, Keys.ARROW_RIGHT], [Keys.END, *[Keys.ARROW_LEFT] * 200]):
        browser.type(*keys)
        above, below = browser.script(rect, browser.one("[aria-current]"), browser.one("#program"))
        assert min(above, below) > -2
    browser.all("#program button")[100].click()
    assert "x = mg.sin(x) + 99.0" in browser.one("[aria-current]").text
    assert "call 199 of" in browser.one("#where").text


def test_a_story_without_backward(browser: Browser) -> None:
    with mg.record() as tape:
        mg.exp(mg.Tensor([1.0, 2.0]))
    browser.open(mg.explain(tape))
    assert "No backward pass was recorded" in browser.one("#step").text
    browser.type(Keys.END, "g")
    assert browser.one("#legend").text == "no gradient came to any value"
    with mg.record() as tape:
        pass
    browser.open(mg.explain(tape))
    browser.type(Keys.ARROW_RIGHT, "g", "f")
    assert browser.one("#where").text == "before the first of 0 calls"


def test_many_kinds_of_values(browser: Browser) -> None:
    """Of several outputs, none, integers, what is not finite, parts of cotangents, and several passes."""
    x = mg.Tensor([[3.0, -1.0, 2.0], [0.5, 0.0, 1.0]], requires_grad=True)
    with mg.record() as tape:
        first, second = mg.split(x, 2)
        with np.errstate(all="ignore"):
            y = mg.sum(first[0] * mg.astype(x > 0, "float64")) + mg.sum(second) / mg.Tensor(0.0)
        mg.sum(mg.square(x)).backward()
        y.backward()
        mg.sum(mg.zeros((0, 3)))
    story = mg.explain(tape)
    browser.open(story)
    for _ in range(len(story.calls) + len(story.steps)):
        browser.type(Keys.ARROW_RIGHT)
        assert browser.one("#step h2").text
    assert "pass 2" in browser.one("#step h2").text
    browser.type("g")
