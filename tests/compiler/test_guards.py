"""Guards: what is found, that a change of any of it is noticed, and what is refused."""

import dataclasses
import enum
import fractions
import functools
import io
import random
import threading
import types
from collections import deque
from timeit import repeat

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.compiler.guards import Slot, difference, generated, look, names_in

RATE = 0.5
TABLE = {"a": 1.0, "b": [1, 2]}


def check_of(snapshot):
    """The function that says whether all is as it was."""
    return generated("True", *snapshot.conditions())


def paths(snapshot):
    return [slot.path for slot in snapshot.slots]


class Plain:
    scale = 3.0

    def __init__(self):
        self.rate, self.unused, self.inner = 0.5, object(), None

    def call(self, x):
        return x * self.rate * self.scale

    def __call__(self, x):
        return self.call(x)


class WithSlots:
    __slots__ = ("rate",)

    def __init__(self):
        self.rate = 1.0


def step(x):
    return x * RATE + TABLE["a"]


def test_globals_closures_and_defaults():
    inner = {"rate": 2.0}

    def f(x, scale=4.0, *, other=(1, 2)):
        return step(x) * inner["rate"] * scale

    snapshot = look(f, {})
    assert paths(snapshot) == [
        "inner", "inner", "inner['rate']", "the defaults of f", "the defaults of f", "the defaults of f",
        "the defaults of f['other']", "step", "RATE", "TABLE", "TABLE", "TABLE['a']", "TABLE['b']", "TABLE['b']",
        "TABLE['b'][0]", "TABLE['b'][1]",
    ]  # fmt: skip
    assert check_of(snapshot)()
    assert snapshot.change() is None
    inner["rate"] = 3.0
    assert not check_of(snapshot)()
    assert snapshot.change() == "inner['rate'] (2.0 before, 3.0 after)"
    assert difference(snapshot, look(f, {})) == "inner['rate'] (2.0 the last time, 3.0 now)"


def test_attributes_that_code_names():
    x = Plain()
    found = paths(look(x, {}))
    assert "Plain.rate" in found
    assert "Plain.scale" in found
    assert "Plain.unused" not in found
    assert "Plain.inner" not in found
    assert look(x.call, {}).key != look(x, {}).key
    assert [p for p in paths(look(x.call, {})) if "rate" in p] == ["self.rate"]


def mutations():
    """A name; an object that a function uses; a change of it that must be noticed."""
    yield "attribute", Plain(), lambda x: setattr(x, "rate", 0.25)
    yield "of the class, hidden", Plain(), lambda x: setattr(x, "scale", 4.0)
    yield "slots", WithSlots(), lambda x: setattr(x, "rate", 2.0)
    yield "namespace", types.SimpleNamespace(rate=1.0), lambda x: setattr(x, "rate", 2.0)
    yield "list", [1, 2.0], lambda x: x.__setitem__(1, 3.0)
    yield "longer list", [1], lambda x: x.append(1)
    yield "dict", {"a": 1}, lambda x: x.update(a=2)
    yield "longer dict", {"a": 1}, lambda x: x.update(b=2)
    yield "other key", {"a": 1}, lambda x: (x.pop("a"), x.update(b=1))
    yield "set", {1, 2}, lambda x: (x.remove(1), x.add(3))
    yield "deque", deque([1, 2]), lambda x: x.rotate()
    yield "nested", ([{"a": Plain()}],), lambda x: setattr(x[0][0]["a"], "rate", 2.0)
    yield "int to bool", {"rate": 1}, lambda x: x.update(rate=True)
    yield "sign of zero", {"rate": 0.0}, lambda x: x.update(rate=-0.0)
    yield "of a library", fractions.Fraction(1, 2), lambda x: setattr(x, "_numerator", 3)
    yield "training", nn.Dropout(0.5), lambda x: x.eval()
    yield "layers", nn.Sequential(nn.Tanh()), lambda x: x.layers.append(nn.Tanh())
    yield "another layer", nn.Sequential(nn.Tanh()), lambda x: x.layers.__setitem__(0, nn.ReLU())
    yield "weight", nn.Linear(1, 1), lambda x: setattr(x, "weight", mg.Tensor([[1.0]]))
    yield "bias", nn.Linear(1, 1), lambda x: setattr(x, "bias", None)
    yield "frozen", nn.Linear(1, 1), lambda x: setattr(x.weight, "requires_grad", False)


@pytest.mark.parametrize(("x", "change"), [pytest.param(x, c, id=name) for name, x, c in mutations()])
def test_every_change_is_noticed(x, change):
    f = lambda y: (x.rate, x.scale, x(y), x)
    before = look(f, {})
    check = check_of(before)
    assert check()
    assert look(f, {}).key == before.key
    change(x)
    assert not check()
    assert look(f, {}).key != before.key


def test_equal_values_have_equal_keys():
    x = Plain()
    f = lambda: (x.rate, x.inner)
    x.inner = (0.1, [1.5, {"a": 2.5}])
    before = look(f, {})
    x.rate, x.inner = 0.25 + 0.25, (0.2 / 2, [3 / 2, {"a": 5 / 2}])
    assert not check_of(before)()
    after = look(f, {})
    assert after.key == before.key
    assert check_of(after)()


def test_numbers_that_are_no_number():
    x = {"a": float("nan"), "b": np.float32("nan")}
    f = lambda: x
    before = look(f, {})
    x["a"], x["b"] = float("nan"), np.float32("nan")
    assert look(f, {}).key == before.key


def test_a_value_that_is_reached_twice():
    inner = [1.0]
    x = {"a": inner, "b": inner}
    f = lambda: x
    before = look(f, {})
    x["b"] = [1.0]
    assert look(f, {}).key != before.key


def test_things_that_contain_themselves():
    x = Plain()
    x.inner = x
    y = [x]
    y.append(y)
    assert check_of(look(lambda: (y, x.inner), {}))()


def test_functions_of_functions():
    cell = 1.0

    def inner(x):
        return x * cell

    for f in (
        functools.partial(lambda g, x: g(x), inner),
        functools.wraps(inner)(lambda x: inner(x)),
        functools.lru_cache(inner),
        mg.no_grad()(inner),
        mg.value_and_grad(inner),
        mg.checkpoint(inner),
        mg.compile(inner),
        lambda x: [inner(i) for i in x],
        lambda x: (lambda y: inner(y))(x),
    ):
        cell = 1.0
        snapshot = look(f, {})
        assert check_of(snapshot)()
        cell = 2.0
        assert not check_of(snapshot)()
        assert snapshot.change() == "cell (1.0 before, 2.0 after)"


def test_methods_properties_and_classes():
    class Base:
        @property
        def doubled(self):
            return self.hidden * 2

        @staticmethod
        def static(x):
            return x * RATE

        @functools.cached_property
        def cached(self):
            return self.of_cached

    class Derived(Base):
        hidden, of_cached = 1.0, 2.0

        def __init__(self):
            self.made = 1.0

    x = Derived()
    assert "x.hidden" in paths(look(lambda: x.doubled, {}))
    assert "x.of_cached" in paths(look(lambda: x.cached, {}))
    assert "RATE" in paths(look(lambda: x.static(1), {}))
    assert "Derived.of_cached" not in paths(look(lambda: Derived(), {}))


def test_names_from_strings_follow_everything():
    x = Plain()
    x.unused = 1.0
    assert "x.unused" in paths(look(lambda: getattr(x, "unu" + "sed"), {}))


def test_attributes_that_come_later():
    x = Plain()
    del x.unused
    vars(x)["class"] = 1
    f = lambda: getattr(x, "later", 1.0)
    check = check_of(look(f, {}))
    assert check()
    x.later = 2.0
    assert not check()


def test_subclasses_of_constants():
    class Name(str):
        pass

    box = {"name": Name("a")}
    f = lambda: box
    before = look(f, {})
    box["name"] = Name("a")
    assert look(f, {}).key == before.key
    box["name"] = Name("b")
    assert look(f, {}).key != before.key


def test_tensors_and_arrays_are_found():
    net, array = nn.Linear(2, 2), np.ones(2)
    array.setflags(write=False)
    snapshot = look(lambda x: net(x) * array, {})
    assert {path for _, path in snapshot.tensors.values()} == {"net.weight", "net.bias"}
    assert [path for _, path in snapshot.arrays.values()] == ["array"]
    net.weight.assign(np.zeros((2, 2), "float32"))  # its value is none of a guard's business
    assert check_of(snapshot)()


def test_hooks():
    p, scale = mg.Tensor([1.0], requires_grad=True), 2.0
    f = lambda: p
    before = look(f, {})
    hook = p.register_hook(lambda g: g * scale)
    assert not check_of(before)()
    hooked = look(f, {})
    assert hooked.key != before.key
    assert check_of(hooked)()
    scale = 3.0
    assert not check_of(hooked)()
    scale = 2.0
    hook.remove()
    assert not check_of(hooked)()
    assert check_of(before)()


def test_objects_among_the_arguments():
    snapshot = look(lambda model, x: model.rate, {"model": Plain()})
    assert "model.rate" in paths(snapshot)


def test_what_is_fine():
    class Colour(enum.Enum):
        RED = 1

    lock, dtype, kind, text, none, pattern = threading.Lock(), np.dtype("f"), Colour.RED, "s", None, range(3)
    f = lambda: (lock, dtype, kind, text, none, pattern, np, mg, dataclasses, Colour, len, print, np.exp, mg.exp, ...)
    assert check_of(look(f, {}))()
    assert look(f, {}).key == look(f, {}).key


class Unseen:
    """Something of C, with nothing to see."""


UNSEEN = {
    "generator": (i for i in range(3)),
    "iterator": iter([1, 2]),
    "zip": zip([1], [2], strict=True),
    "file": io.StringIO(),
    "random of NumPy": np.random.default_rng(0),
    "old random of NumPy": np.random.RandomState(0),
    "random of Python": random.Random(0),
    "bytearray": bytearray(3),
    "memoryview": memoryview(b"abc"),
    "object": object(),
}


@pytest.mark.parametrize("x", UNSEEN.values(), ids=UNSEEN)
def test_what_is_refused(x):
    with pytest.raises(
        RuntimeError, match=r"the function uses x, of type .*: it.* pass what comes of it as an argument"
    ):
        look(lambda: x, {})
    holder = types.SimpleNamespace(x=x)
    with pytest.raises(RuntimeError, match=r"the function uses holder\.x, of type"):
        look(lambda: holder.x, {})
    assert check_of(look(lambda: holder, {}))()  # nothing names it


def test_methods_of_what_is_refused():
    draw = np.random.default_rng(0).normal
    with pytest.raises(RuntimeError, match="the function uses draw, of type Generator"):
        look(lambda: draw(), {})


def test_arrays_that_can_change():
    array = np.ones(3)
    for x, path in ((array, "x"), (array[1:], "x"), ([array], r"x\[0\]")):
        with pytest.raises(RuntimeError, match=f"{path} is a NumPy array .*setflags"):
            look(lambda: x, {})  # noqa: B023


def test_names_in_code():
    def f(a):
        a.read.stored = g(a)  # noqa: F821
        a.called(lambda: h.inner)  # noqa: F821
        return a.read

    names = names_in(f.__code__)
    assert names.globals == ("g", "h")
    assert names.attributes >= {"read", "stored", "called", "inner"}
    assert names.stored == {"stored"}


def test_slots_that_are_gone():
    x = types.SimpleNamespace(a=1)
    assert not Slot(x, "attribute", "b", 1, "x.b").same()
    assert not Slot({}, "item", "b", 1, "x['b']").same()
    f = lambda: x.a
    snapshot = look(f, {})
    del x.a
    assert not check_of(snapshot)()
    assert snapshot.change() == "x.a (1 before, nothing after)"


def test_what_a_check_costs():
    """25 ns a slot on a quiet machine; here the fastest of many, with room for a busy one."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 4))
    optimizer = optim.Adam(net)

    def train(x):
        mg.mse(net(x), x).backward()
        optimizer.step()

    snapshot = look(train, {})
    seconds = min(repeat(check_of(snapshot), number=1000, repeat=20)) / 1000
    assert seconds < 100e-9 * len(snapshot.slots)
