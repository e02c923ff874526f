"""Trees: flatten and rebuild, side by side, names, ties and errors."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import Tensor, trees


class Point(NamedTuple):
    x: Any
    y: Any


@dataclass
class Plain:
    w: Any
    name: str = "plain"
    made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.made += 1


@dataclass(frozen=True, slots=True)
class Frozen:
    w: Any
    power: float = 2.0


class Layer:
    def __init__(self, w: Any, f: Callable[..., Any] = np.tanh):
        self.w, self.f = w, f

    def __tree__(self) -> tuple[dict[str, Any], Callable[[dict[str, Any]], "Layer"]]:
        return {"w": self.w}, lambda new: Layer(new["w"], self.f)


def a(*values: float) -> np.ndarray:
    return np.array(values)


LEAVES = st.integers(0, 9).map(lambda n: Tensor([float(n)])) | st.integers(0, 9).map(lambda n: np.array([n]))
ATOMS = st.none() | st.integers() | st.text(max_size=2) | st.booleans() | st.just(abs)
TREES = st.recursive(
    LEAVES | ATOMS | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2) | st.integers(), inner, max_size=3)
        | st.builds(Point, inner, inner)
        | st.builds(Plain, inner)
        | st.builds(Frozen, inner)
        | st.builds(Layer, inner)
    ),
    max_leaves=12,
)


def same(x: Any, y: Any) -> bool:
    """Whether two trees have the same types, keys and order, and the very same objects for leaves."""
    if type(x) is not type(y):
        return False
    if isinstance(x, dict):
        return list(x) == list(y) and all(same(x[k], y[k]) for k in x)
    if isinstance(x, (list, tuple)):
        return len(x) == len(y) and all(map(same, x, y))
    if isinstance(x, (Plain, Frozen, Layer)):
        names = getattr(x, "__dataclass_fields__", ("w", "f"))
        return all(same(getattr(x, n), getattr(y, n)) for n in names)
    return x is y or x == y


@given(TREES, st.booleans())
def test_rebuilding_from_the_leaves_gives_the_tree(tree: Any, floats: bool) -> None:
    leaves, rebuild = trees.flatten(tree, floats=floats)
    assert all(trees.is_leaf(leaf, floats) for leaf in leaves)
    assert same(rebuild(leaves), tree)
    assert same(trees.map(lambda leaf: leaf, tree, floats=floats), tree)
    named = trees.named_leaves(tree, floats=floats)
    assert all(x is y for x, (_, y) in zip(leaves, named, strict=True))


@given(TREES)
def test_new_leaves_go_where_the_old_ones_were(tree: Any) -> None:
    leaves, rebuild = trees.flatten(tree)
    numbered = rebuild([np.array(i) for i in range(len(leaves))])
    again, _ = trees.flatten(numbered)
    assert [int(x) for x in again] == list(range(len(leaves)))
    pairs, _ = trees.matched(tree, numbered)
    assert [int(n) for _, n in pairs] == list(range(len(leaves)))


def test_leaves_come_in_insertion_order_with_their_names() -> None:
    tree = {"z": a(1), "a": [Point(a(2), None), Plain(a(3))], "layers": (Layer(a(4)), Frozen(a(5), 3.0))}
    assert trees.named_leaves(tree) == [
        ("z", a(1)), ("a.0.x", a(2)), ("a.1.w", a(3)), ("layers.0.w", a(4)), ("layers.1.w", a(5)),
    ]  # fmt: skip
    assert [name for name, _ in trees.named_leaves(tree, floats=True)][-1] == "layers.1.power"
    assert trees.named_leaves(a(1)) == [("", a(1))]


def test_floats_are_leaves_only_when_asked_and_never_tied() -> None:
    one = 1.0
    tree = [one, one, np.float64(2.0), np.float32(3.0), 4, True, "s", None]
    assert trees.flatten(tree)[0] == []
    leaves, rebuild = trees.flatten(tree, floats=True)
    assert leaves == [1.0, 1.0, 2.0, 3.0]
    assert rebuild([5, 6, 7, 8]) == [5, 6, 7, 8, 4, True, "s", None]


@pytest.mark.parametrize("w", [Tensor([1.0]), np.ones(1)])
def test_a_tied_leaf_is_one_and_comes_back_in_both_places(w: Any) -> None:
    tree = {"encoder": Layer(w), "decoder": [w, Tensor([2.0])]}
    leaves, rebuild = trees.flatten(tree)
    assert len(leaves) == 2
    assert [n for n, _ in trees.named_leaves(tree)] == ["encoder.w", "decoder.1"]
    new = rebuild([Tensor([3.0]), Tensor([4.0])])
    assert new["encoder"].w is new["decoder"][0]
    calls = []
    trees.map(lambda x, y: calls.append((x, y)), tree, new)
    assert len(calls) == 2
    assert len(trees.matched(tree, ties=False)[0]) == 3


def test_tied_here_and_not_there_is_an_error_that_names_both_places() -> None:
    w = Tensor([1.0])
    with pytest.raises(ValueError, match=r"a and b\.0 are one and the same Tensor \(1,\) \(tied\), but in tree 2"):
        trees.map(lambda x, y: x, {"a": w, "b": [w]}, {"a": Tensor([1.0]), "b": [Tensor([1.0])]})
    assert trees.map(lambda x, y: y, [w, w], [0.5, 0.5]) == [0.5, 0.5]


def test_a_container_that_is_shared_is_no_cycle() -> None:
    shared = [a(1)]
    assert len(trees.flatten([shared, shared])[0]) == 1


def test_subclasses_keep_what_else_they_hold() -> None:
    default = defaultdict(list, x=a(1))
    new = trees.map(lambda x: 7, default)
    assert type(new) is defaultdict
    assert new["missing"] == []
    assert new["x"] == 7
    assert default["x"] == a(1)
    ordered = trees.map(lambda x: x + 1, OrderedDict(b=a(1), a=a(2)))
    assert ordered == OrderedDict(b=a(2), a=a(3))

    class Names(list):  # type: ignore[type-arg]
        pass

    new = trees.map(lambda x: 7, Names([a(1), "s"]))
    assert type(new) is Names
    assert new == [7, "s"]


def test_dataclasses_are_copied_not_constructed() -> None:
    old = Plain(a(1))
    old.extra = "kept"  # type: ignore[attr-defined]
    new = trees.map(lambda x: x + 1, old)
    assert (new.w, new.made, new.extra, old.w) == (a(2), 1, "kept", a(1))
    assert trees.map(lambda x: x + 1, Frozen(a(1), 3.0)) == Frozen(a(2), 3.0)
    assert trees.flatten(Plain)[0] == []  # the class itself is structure


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": [a(1), 0]}, "differ at the root: dict of 1 in tree 2 lacks b"),
        ({"a": [a(1), 0], "b": a(1), "c": 1}, "differ at the root: dict of 3 in tree 2 has also c"),
        ({"a": [a(1)], "b": a(1)}, "differ at a: list of 1 in tree 2 lacks 1"),
        ({"a": (a(1), 0), "b": a(1)}, "differ at a: list of 2 in tree 1, but tuple of 2 in tree 2"),
        ({"a": [a(1), a(1)], "b": a(1)}, r"differ at a\.1: int in tree 1, but ndarray \(1,\) in tree 2"),
        ({"a": [None, 0], "b": a(1)}, r"differ at a\.0: ndarray \(1,\) in tree 1, but NoneType in tree 2"),
        ({"a": [a(1), 0], "b": [a(1)]}, r"differ at b: ndarray \(1,\) in tree 1, but list of 1 in tree 2"),
        (a(1), r"differ at the root: dict of 2 in tree 1, but ndarray \(1,\) in tree 2"),
    ],
)
def test_structures_that_differ_are_an_error_that_names_the_place(other: Any, message: str) -> None:
    tree = {"a": [a(1), 0], "b": a(1)}
    with pytest.raises(ValueError, match=message):
        trees.map(lambda x, y: x, tree, other)
    with pytest.raises(ValueError, match=message.replace("tree 2", "tree 3")):
        trees.map(lambda x, y, z: x, tree, tree, other)


def test_a_tree_that_contains_itself_is_an_error() -> None:
    loop: dict[str, Any] = {"w": a(1)}
    loop["inner"] = [loop]
    with pytest.raises(ValueError, match=r"contains itself.*at inner\.0, dict of 2 comes again"):
        trees.flatten(loop)


def test_rebuild_wants_as_many_leaves_as_there_were() -> None:
    with pytest.raises(ValueError, match="a tree of 2 leaves takes 2 new ones, not 1"):
        trees.flatten([a(1), a(2)])[1]([a(1)])
