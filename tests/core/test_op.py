"""Operations of one's own: a record of a few lines works everywhere; a wrong record says what is wrong with it."""

import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import Op, Tensor
from minigrad.core.op import registry


def cube():
    return Op("cube", lambda x: x**3, vjp={"x": lambda g, x: g * 3.0 * x * x}, kind="elementwise", formula="y = x³")


# A record of one's own


def test_three_lines_are_an_operation():
    op = cube()
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = op(x)
    assert y.tolist() == [1, 8]
    y.sum().backward()
    assert x.grad.tolist() == [3, 12]
    assert registry["cube"] is op
    assert repr(op) == "<Op cube: y = x³>"
    assert op.__doc__ == "y = x³"
    assert op.__name__ == "cube"


def test_on_arrays_it_is_a_function_of_arrays():
    y = cube()(np.array([1.0, 2.0]))
    assert type(y) is np.ndarray
    y[0] = 5.0  # nobody's but the caller's
    assert type(cube()(np.float64(2.0))) is np.ndarray
    assert type(cube()(2.0)) is np.ndarray


def test_double_backward():
    op = cube()
    x = Tensor(2.0, requires_grad=True)
    op(x).backward(create_graph=True)
    gradient, x.grad = x.grad, None
    gradient.backward(create_graph=True)
    assert (gradient.item(), x.grad.item()) == (12, 12)


def test_transforms():
    op = cube()
    x, v = Tensor([1.0, 2.0]), Tensor([1.0, 10.0])
    y, tangent = mg.jvp(op, (x,), (v,))
    assert y.tolist() == [1, 8]
    assert tangent.tolist() == [3, 120]
    assert mg.jacobian(op)(x).tolist() == [[3, 0], [0, 12]]
    assert mg.hessian(lambda x: op(x).sum())(x).tolist() == [[6, 0], [0, 12]]


def test_under_a_tape():
    op = cube()
    x = Tensor([1.0, 2.0], requires_grad=True)
    with mg.record() as tape:
        op(x).sum().backward()
    assert tape.replay({x: [2.0, 3.0]})(x.grad).tolist() == [12, 27]
    assert tape.entries[0].op is op


def test_parameters_are_keywords():
    op = Op("scale", lambda x, *, k, m=2.0: x * k * m, vjp={"x": lambda g, k, m: g * k * m}, kind="linear")
    x = Tensor([1.0], requires_grad=True)
    op(x, k=3.0).backward()
    op(x, k=3.0, m=5.0).backward()
    assert x.grad.tolist() == [6 + 15]
    with pytest.raises(TypeError, match=r"scale\(x float64 \(1,\)\): .* unexpected keyword argument 'n'"):
        op(x, k=1.0, n=2.0)
    for wrong in (lambda: op(x), lambda: op(x, n=1.0), lambda: op(x, m=1.0), lambda: op(np.ones(1))):
        with pytest.raises(TypeError, match=r"scale takes the parameters \['k', 'm'\], got \["):
            wrong()


def test_everything_that_a_rule_may_ask_for():
    seen = {}

    def rule(g, y, a, like_b, k, b, like_a):
        seen.update(g=g, y=y, a=a, b=b, k=k, like_a=like_a, like_b=like_b)
        return g * k * b

    op = Op("all", lambda a, b, *, k: a * b * k, vjp={"a": rule}, kind="elementwise")
    x = Tensor([[1.0, 2.0]], "float32", requires_grad=True)
    op(x, Tensor([3.0, 4.0], "float32"), k=5.0).backward([[1.0, 1.0]])
    assert x.grad.tolist() == [[15, 20]]
    assert {name: np.asarray(v).tolist() for name, v in seen.items() if not name.startswith("like")} == {
        "g": [[1, 1]], "y": [[15, 40]], "a": [[1, 2]], "b": [3, 4], "k": 5
    }  # fmt: skip
    assert seen["like_a"] == ((1, 2), np.dtype("float32"))
    assert seen["like_b"] == ((2,), np.dtype("float32"))


def test_like_of_a_scalar():
    op = Op(
        "shift", lambda a, b: a + b, vjp={"a": lambda g, like_b: g * float(np.prod(like_b.shape))}, kind="elementwise"
    )
    x = Tensor([1.0], requires_grad=True)
    op(x, 3.0).backward()
    assert x.grad.tolist() == [1]


def test_a_rule_asks_for_one_thing_or_for_nothing():
    """What is kept stays a tuple."""
    for rule in (
        lambda g: g,
        lambda g, y: g * 1.0,
        lambda g, x: g * 1.0,
        lambda g, like_x: g * 1.0,
        lambda g, k: g * k,
    ):
        op = Op("one", lambda x, *, k=1.0: x * k, vjp={"x": rule}, kind="linear")
        x = Tensor([[1.0, 2.0]], requires_grad=True)
        op(x).sum().backward()
        assert x.grad.tolist() == [[1, 1]]


def test_an_input_without_a_rule_is_a_constant():
    op = Op("gate", lambda x, mask: x * mask, vjp={"x": lambda g, mask: g * mask}, kind="elementwise")
    x, mask = Tensor([1.0, 2.0], requires_grad=True), Tensor([0.0, 1.0], requires_grad=True)
    op(x, mask).sum().backward()
    assert x.grad.tolist() == [0, 1]
    assert mask.grad is None
    assert not op(x.detach(), mask).requires_grad
    with pytest.raises(RuntimeError, match="no gradient flows"):
        Op("nothing", lambda x: x * 1.0)(x).sum().backward()


def test_any_number_of_inputs():
    op = Op(
        "weighted",
        lambda w, *xs: w * sum(xs),
        vjp={"w": lambda g, xs: g * sum(xs[1:], xs[0]), "xs": lambda g, w, xs: [g * w] * len(xs)},
        kind="other",
    )
    w, x, z = (Tensor([v], requires_grad=True) for v in (2.0, 3.0, 5.0))
    y = op(w, x, 7.0, z, x)
    assert y.tolist() == [36]
    y.backward(create_graph=True)
    assert [t.grad.tolist() for t in (w, x, z)] == [[18], [4], [2]]
    gradient, w.grad, x.grad = w.grad, None, None
    gradient.backward()
    assert x.grad.tolist() == [2]
    constant = op(w.detach(), x, np.ones(1))
    constant.backward()
    assert x.grad.tolist() == [4]
    assert op(w, x).tolist() == [6]
    assert type(op(np.ones(1), np.ones(1), np.ones(1))) is np.ndarray


@pytest.mark.parametrize("kind", [tuple, list])
def test_several_outputs(kind):
    op = Op("sincos", lambda x: kind((np.sin(x), np.cos(x))), vjp={"x": lambda g, y: g[0] * y[1] - g[1] * y[0]})
    x = Tensor([0.3], requires_grad=True)
    s, c = op(x)
    assert (s.shape, c.shape) == ((1,), (1,))
    assert not s.data.flags.writeable
    (s * 2.0 + c * 3.0).backward(create_graph=True)
    np.testing.assert_allclose(x.grad.data, 2 * math.cos(0.3) - 3 * math.sin(0.3))
    gradient, x.grad = x.grad, None
    gradient.backward()
    np.testing.assert_allclose(x.grad.data, -2 * math.sin(0.3) - 3 * math.cos(0.3))
    outputs = op(np.array([0.3]))
    assert isinstance(outputs, tuple)
    assert all(type(a) is np.ndarray for a in outputs)
    with mg.no_grad():
        assert [t.requires_grad for t in op(x)] == [False, False]
    with mg.record() as tape:
        s, c = op(x)
        (s * c).backward()
    run = tape.replay({x: [0.4]})
    np.testing.assert_allclose(run(c), math.cos(0.4))


def test_outputs_of_several_shapes_and_dtypes():
    op = Op(
        "parts",
        lambda x: (x.sum(), x.astype("float32"), x > 1.0),
        vjp={"x": lambda g: mg.where(True, mg.broadcast_to(g[0], (2,)), 0.0) + g[1].astype("float64")},
    )
    x = Tensor([1.0, 2.0], requires_grad=True)
    total, single, mask = op(x)
    assert (total.shape, single.dtype, mask.dtype) == ((), np.float32, np.bool_)
    (total + single.sum()).backward()
    assert x.grad.tolist() == [2, 2]


def test_a_ufunc_is_a_forward():
    op = Op(
        "hypotenuse", np.hypot, vjp={"a": lambda g, a, y: g * a / y, "b": lambda g, b, y: g * b / y}, kind="elementwise"
    )
    a, b = Tensor([3.0], requires_grad=True), Tensor([[4.0]], requires_grad=True)
    op(a, b).backward()
    np.testing.assert_allclose([a.grad.item(), b.grad.item()], [0.6, 0.8])
    assert Op("halves", np.modf)(Tensor([1.5]))[1].tolist() == [1]


def test_a_fused_rule_serves_arrays_and_the_rule_the_rest():
    calls = []
    op = Op(
        "twice",
        lambda x: x * 2.0,
        vjp={"x": lambda g: calls.append("rule") or g * 2.0},
        fused={"x": lambda g: calls.append("fused") or g * 2.0},
        kind="linear",
    )
    x = Tensor([1.0], requires_grad=True)
    op(x).backward()
    op(x).backward(create_graph=True)
    assert calls == ["fused", "rule"]
    assert x.grad.tolist() == [4]


def test_a_subclass_stays_a_subclass():
    class MyTensor(Tensor):
        __slots__ = ()

    x = MyTensor([1.0, 2.0], requires_grad=True)
    assert type(cube()(x)) is MyTensor
    assert type(x + 1.0) is MyTensor
    assert type(1.0 - x) is MyTensor
    (x * x).sum().backward()
    assert type(x.grad) is MyTensor


# The engine's share


def test_a_cotangent_is_summed_over_what_was_broadcast():
    op = Op("times", lambda a, b: a * b, vjp={"a": lambda g, b: g * b, "b": lambda g, a: g * a}, kind="elementwise")
    a, b = Tensor(np.ones((2, 1)), requires_grad=True), Tensor(np.ones(3), "float32", requires_grad=True)
    op(a, b).sum().backward()
    assert a.grad.tolist() == [[3], [3]]
    assert b.grad.tolist() == [2, 2, 2]
    assert b.grad.dtype == np.float32


def test_leading_axes_of_a_signature_are_summed():
    op = Op("dot", lambda a, b: (a * b).sum(-1), vjp={"a": lambda g, b: g[..., None] * b}, signature="(n),(n)->()")
    a = Tensor(np.ones(3), requires_grad=True)
    op(a, np.ones((4, 3))).sum().backward()
    assert a.grad.tolist() == [4, 4, 4]


def test_a_rule_may_return_a_number():
    op = Op("first", lambda x: x * 2.0, vjp={"x": lambda g: 2.0 * float(np.sum(g))})
    x = Tensor(1.0, requires_grad=True)
    op(x).backward()
    assert x.grad.item() == 2


def test_a_rule_may_not_write_into_its_cotangent():
    """It is passed on to others: the other rule of the operation, other inputs, a gradient that was retained."""

    def in_place(g, b):
        g *= b
        return g

    op = Op("product", np.multiply, vjp={"a": in_place, "b": lambda g, a: g * a}, kind="elementwise")
    x, z = Tensor([2.0, 3.0], requires_grad=True), Tensor([5.0, 7.0], requires_grad=True)
    with pytest.raises(ValueError, match="read-only"):
        op(x, z).sum().backward()
    with pytest.raises(ValueError, match="read-only"):
        (op(x, 2.0) + z).sum().backward()
    assert x.grad is None
    assert z.grad is None


def test_a_forward_may_not_write_into_its_input():
    def in_place(x):
        x += 1.0
        return x

    x = Tensor([1.0])
    with pytest.raises(ValueError, match=r"increment\(x float64 \(1,\)\): .*read-only"):
        Op("increment", in_place)(x)
    assert x.tolist() == [1]


# Wrong declarations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "linaer"}, "Op 'bad': kind is one of elementwise, linear, bilinear, other, not 'linaer'"),
        ({"vjp": {"z": lambda g: g}}, r"Op 'bad' has no inputs \['z'\]; its inputs are \['x'\]"),
        ({"vjp": {"k": lambda g: g}}, r"no inputs \['k'\]"),
        ({"fused": {"z": lambda g: g}}, r"no inputs \['z'\]"),
        ({"domain": {"z": (0.0, 1.0)}}, r"no inputs \['z'\]"),
        (
            {"vjp": {"x": lambda g, z, k: g}},
            r"the rule for 'x' asks for \['z'\], which is none of \['y', 'x', 'like_x', 'k'\]",
        ),
        ({"vjp": {"x": lambda g, like_k: g}}, r"asks for \['like_k'\]"),
        ({"vjp": {"x": lambda g, x: g}, "fused": {"x": lambda g, y: g}}, "faster rule asks for what the rule asks for"),
        ({"fused": {"x": lambda g: g}}, "faster rule"),
    ],
)
def test_a_wrong_declaration(options, message):
    with pytest.raises(ValueError, match=message):
        Op("bad", lambda x, *, k=1.0: x * k, **options)
    assert "bad" not in registry


def test_what_is_no_option():
    with pytest.raises(TypeError, match="jvp"):
        Op("bad", lambda x: x, jvp={})


# Wrong rules

SHAPES = {
    "a scalar": (lambda g: g.sum(), r"float64 \(\)"),
    "a number": (lambda g: 3.0, r"float64 \(\)"),
    "nothing": (lambda g: None, r"object \(\)"),
    "larger": (lambda g: mg.concat([g, g]), r"float64 \(4,\)"),
    "outer": (lambda g: g.reshape(2, 1) * g, r"float64 \(2, 2\)"),
    "complex": (lambda g: np.ones(2) * 1j, r"complex128 \(2,\)"),
    "text": (lambda g: np.array(["a", "b"]), r"<U1 \(2,\)"),
}


@pytest.mark.parametrize(("rule", "got"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["elementwise", "linear", "other"])
@pytest.mark.parametrize("create_graph", [False, True])
def test_a_cotangent_of_the_wrong_shape(rule, got, kind, create_graph):
    op = Op("bad", lambda x: x * 2.0, vjp={"x": rule}, kind=kind)
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=rf"bad, rule for 'x': expected a cotangent float64 \(2,\), got {got}"):
        op(x).sum().backward(create_graph=create_graph)
    assert x.grad is None


def test_a_cotangent_of_nothing_is_not_nan():
    op = Op("bad", lambda x: x * 2.0, vjp={"x": lambda g: None})
    with pytest.raises(ValueError, match=r"expected a cotangent float64 \(\), got object"):
        op(Tensor(1.0, requires_grad=True)).backward()


def test_a_sum_over_axes_that_were_not_broadcast_is_not_silent():
    """A column by mistake: the product has one axis too many, and its sum the right shape but a wrong value."""
    op = Op("bad", lambda a, b: a * b, vjp={"a": lambda g, b: g * b.reshape(-1, 1)}, kind="elementwise")
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(
        ValueError, match=r"bad, rule for 'a': expected a cotangent float64 \(2,\), got float64 \(2, 2\)"
    ):
        op(x, Tensor([3.0, 4.0])).sum().backward()


@pytest.mark.parametrize("count", [1, 3])
def test_not_as_many_cotangents_as_inputs(count):
    op = Op("bad", lambda *xs: xs[0] + xs[1], vjp={"xs": lambda g: [g] * count})
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=f"bad, rule for 'xs': expected 2 cotangents, got {count}"):
        op(x, x).sum().backward()


# Errors of the forward


def test_the_error_names_operation_shapes_and_dtypes():
    x, y = Tensor(np.ones((2, 3)), "float32"), Tensor(np.ones((4,)))
    with pytest.raises(
        ValueError, match=r"add\(a float32 \(2, 3\), b float64 \(4,\)\): operands could not be broadcast"
    ) as e:
        x + y
    assert isinstance(e.value.__cause__, ValueError)
    with pytest.raises(ValueError, match=r"multiply\(a float32 \(2, 3\), b float64 \(4,\)\)"):
        x * np.ones(4)
    op = Op("joined", lambda a, *xs: np.concatenate([a, *xs]))
    with pytest.raises(ValueError, match=r"joined\(a float32 \(2, 3\), xs\[0\] 2.0, xs\[1\] float64 \(4,\)\)"):
        op(x, 2.0, y)


@pytest.mark.parametrize(
    "error", [ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, np.linalg.LinAlgError]
)
def test_errors_of_every_class(error):
    def forward(x):
        raise error("why")

    expected = error if error in (ValueError, TypeError, IndexError) else ValueError
    with pytest.raises(expected, match=r"bad\(x float64 \(2,\)\): .*why"):
        Op("bad", forward)(Tensor([1.0, 2.0]))


@pytest.mark.parametrize("args", [(), (1.0, 2.0, 3.0), (1.0,) * 4])
def test_a_wrong_number_of_inputs(args):
    x = Tensor([1.0])
    with pytest.raises((TypeError, ValueError), match="add"):
        mg.add(x, *args)
    with pytest.raises((TypeError, ValueError), match="exp"):
        mg.exp(x, x, *args)


def test_an_input_is_positional():
    with pytest.raises(TypeError, match=r"exp takes the parameters \[\], got \['x'\]"):
        mg.exp(x=Tensor([1.0]))


def test_a_tape_refuses_an_operation_that_returns_its_input():
    op = Op("same", lambda x: x, vjp={"x": lambda g: g})
    x = Tensor([1.0], requires_grad=True)
    op(x).backward()
    assert x.grad.tolist() == [1]
    with pytest.raises(ValueError, match="same returned one of its inputs.*return a view"), mg.record():
        op(x)
