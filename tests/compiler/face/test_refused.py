"""What can't be compiled is refused, with the line, before anything is changed."""

import re
import time
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from compiler.face.training import batch, bits, network
from minigrad import nn, optim
from minigrad.compiler import compile as face


def here(pattern, call):
    """The call raises RuntimeError, which names a line of this file."""
    with pytest.raises(RuntimeError, match=pattern) as caught:
        call()
    assert re.search(r"test_refused\.py:\d+", str(caught.value)), caught.value


LOOKS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "index": lambda x: [1, 2, 3][mg.argmax(x)],
    "branch": lambda x: 1 if x.sum() > 0 else 2,
    "data": lambda x: (x * 2).data,
    "tolist": lambda x: x.tolist(),
    "asarray": lambda x: np.asarray(x),
    "print": lambda x: print(x),
    "format": lambda x: f"{x.sum():.3f}",
    "str": lambda x: str(x),
    "nest": lambda x: mg.Tensor([x.sum(), 1.0]),
    "module": lambda x: holding(x).astype("float64"),
    "learning rate": lambda x: setattr(optim.SGD(mg.Tensor(1.0, requires_grad=True), 1.0), "learning_rate", mg.sum(x)),
    "repr": lambda x: repr([x]),
}


def holding(x):
    norm = nn.LayerNorm(3)
    norm.weight = x
    return norm


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_at_values(look, builds):
    here("shows Python the values", lambda: mg.compile(look)(mg.Tensor(batch(rows=1))))
    p = mg.Tensor(batch(rows=1))
    here("shows Python the values", lambda: mg.compile(lambda: look(p))())
    assert builds == []


def test_a_refusal_that_the_function_catches():
    def f(x):
        try:
            return x * float(x)
        except RuntimeError:
            return x

    here("float", lambda: mg.compile(f)(mg.Tensor(2.0)))


def test_iterating_and_constants_are_no_looks(builds):
    def f(x):
        widths = mg.arange(2).tolist()
        return sum(row * w for row, w in zip(x, widths, strict=True)) * len(x) * x.shape[0] * x.ndim

    compiled = mg.compile(f)
    for i in range(4):
        x = mg.Tensor(batch(i, rows=2))
        assert bits(f(x)) == bits(compiled(x))


ON_ARRAYS = {
    "ufunc": lambda x: mg.Tensor([1.0]) * np.exp(x),
    "operator": lambda x: mg.mean(mg.Tensor([1.0]) * (x / 255.0)),
    "function": lambda x: np.concatenate([x, x]),
    "method": lambda x: x.mean(),
    "attribute": lambda x: x.T,
    "index": lambda x: x[0],
    "branch": lambda x: 1 if x else 2,
    "iterate": lambda x: list(x),
    "contains": lambda x: 1.0 in x,
    "print": lambda x: print(x),
    "list": lambda x: mg.Tensor([x, x]),
}


@pytest.mark.parametrize("compute", ON_ARRAYS.values(), ids=ON_ARRAYS)
def test_computing_with_numpy_on_an_argument(compute, builds):
    here("make it a tensor first", lambda: mg.compile(compute)(batch(rows=40)))
    assert builds == []


NO_TENSORS = [
    "tanh", "argsort", "diagonal", "erf", "expand_dims", "flip", "matrix_transpose", "permute_dims", "prod", "sort",
    "max", "squeeze", "tril", "unstack", "mean", "softmax", "norm", "relu", "var", "exp", "reshape", "getitem", "roll",
    "tile", "concat", "stack", "split", "pad", "outer", "conv2d", "cumulative_sum",
]  # fmt: skip


@pytest.mark.parametrize("name", NO_TENSORS)
def test_operations_on_arrays_alone(name, builds):
    """They are those of NumPy: nothing of them would be on the tape."""
    more = {
        "getitem": [0],
        "roll": [1],
        "tile": [(2, 2)],
        "split": [2],
        "reshape": [-1],
        "pad": [1],
        "cumulative_sum": [0],
    }

    def f(x):
        given = [[x, x]] if name in ("concat", "stack") else [x, x] if name in ("outer", "conv2d") else [x]
        return getattr(mg, name)(*given, *more.get(name, []))

    here("make it a tensor first", lambda: mg.compile(f)(np.ones((2, 2, 2, 2) if name == "conv2d" else (2, 2))))
    assert builds == []


def test_python_changes():
    class Counter:
        count = 0

    counter, history, seen = Counter(), [], {}

    def count(x):
        counter.count += 1
        return x

    def append(x):
        history.append(1)
        return x

    def store(x):
        seen["x"] = 1
        return x

    def new(x):
        counter.last = x * 2
        return x

    def of_global(x):
        global made_by_a_step
        made_by_a_step = 1
        return x

    variable = None
    del variable

    def of_cell(x):
        nonlocal variable
        variable = 1
        return x

    for f, what in (
        (count, "counter.count"), (append, "history"), (store, "seen"), (new, r"counter.last \(nothing before"),
        (of_global, r"made_by_a_step \(nothing before, 1 after"), (of_cell, "variable"),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"the function changed {what}.*keep it in a Tensor"):
            mg.compile(f)(mg.Tensor(1.0))


@pytest.mark.parametrize(
    "unseen",
    [time.perf_counter, lambda: np.random.uniform(), lambda: np.random.default_rng().uniform(size=3)],  # noqa: NPY002
)
def test_what_changes_unseen_is_found_at_the_second_call(unseen):
    def f(x):
        return x * unseen()

    def g(x):
        return x + mg.Tensor(unseen())

    for function in (f, g):
        compiled = mg.compile(function)
        compiled(mg.Tensor(1.0))
        here("did not do the same", lambda c=compiled: c(mg.Tensor(1.0)))


def test_changes_of_arguments():
    with pytest.raises(RuntimeError, match="changed a container among its arguments"):
        mg.compile(lambda x, history: history.append(x * 2.0))(mg.Tensor(1.0), [])


def test_returning_objects_of_a_call():
    f = lambda x: mg.vjp(mg.sin, x)
    with pytest.raises(RuntimeError, match="returns function, made in the call: return tensors"):
        mg.compile(f)(mg.Tensor(1.0))
    state = Path("a")
    g = mg.compile(lambda x, mode: (x * 2.0, state, mode, nn.Linear))
    for i in range(4):
        assert g(mg.Tensor(float(i)), pytest)[1:] == (state, pytest, nn.Linear)


def test_numpy_arrays_that_can_change():
    array = np.ones(3)
    with pytest.raises(RuntimeError, match=r"array is a NumPy array that could be changed in place"):
        mg.compile(lambda x: x * array)(mg.Tensor(1.0))
    view = array[1:]
    view.setflags(write=False)
    with pytest.raises(RuntimeError, match=r"view is a NumPy array"):
        mg.compile(lambda x: x * view)(mg.Tensor(1.0))


def test_seeding_the_random_numbers():
    def f():
        mg.random.seed(0)
        return mg.random.normal((2,))

    generator = mg.random.current()
    with pytest.raises(RuntimeError, match=r"seeded the random numbers.*a generator of its own"):
        mg.compile(f)()
    assert mg.random.current() is generator


def test_a_gradient_that_is_also_another_tensor():
    p, q = (mg.Tensor([1.0], requires_grad=True) for _ in range(2))
    p.grad = q.grad = mg.Tensor([2.0])
    here("q.grad and p.grad are one tensor", lambda: mg.compile(lambda: (p * 1.0).detach() + p.grad + q.grad)())
    mg.compile(lambda: [p.zero_grad(), q.zero_grad()])()  # it is not used
    assert p.grad is q.grad is None


def test_a_result_that_needs_a_gradient():
    net = network()
    x = mg.Tensor(batch())
    here(r"call backward\(\) inside", lambda: mg.compile(lambda x: mg.mse(net(x), x))(x))
    with mg.no_grad():
        mg.compile(lambda x: mg.mse(net(x), x))(x)
    with pytest.raises(RuntimeError, match="call backward"):
        mg.compile(lambda x: mg.Tensor([1.0], requires_grad=True))(x)


def test_a_captured_tensor_with_a_history():
    w = mg.Tensor([1.0], requires_grad=True)
    y = w * 2.0
    here("y.*was computed outside", lambda: mg.compile(lambda: mg.sum(y * 3.0).backward())())
    f = mg.compile(lambda: y.detach() * 3.0)
    with mg.no_grad():
        assert [f().data for _ in range(4)] == [[6.0]] * 4


def test_other_changes_of_a_tensor():
    p = mg.Tensor([1.0], requires_grad=True)

    def freeze():
        p.requires_grad = False

    with pytest.raises(RuntimeError, match=r"changed p.requires_grad"):
        mg.compile(freeze)()
    p.requires_grad = True
    with pytest.raises(RuntimeError, match="changed the hooks of p"):
        mg.compile(lambda: p.register_hook(lambda g: g) and None)()


def test_too_many_shapes(builds):
    f = mg.compile(lambda x: x * 2.0)
    for n in range(1, face.MOST + 1):
        f(mg.ones(n))
    with pytest.raises(
        RuntimeError, match=r"float64 \(1,\); float64 \(2,\).*another, float64 \(99,\).*ragged last batch"
    ):
        f(mg.ones(99))
    f(mg.ones(1))
    assert len(builds) == face.MOST


def test_too_many_numbers():
    f = mg.compile(lambda x, n: x * n)
    for n in range(face.MOST):
        f(mg.ones(1), n)
    with pytest.raises(RuntimeError, match="pass numbers that change from call to call as tensors"):
        f(mg.ones(1), 99)


def test_too_many_states():
    class Settings:
        rate = 0.0

    settings = Settings()
    f = mg.compile(lambda x: x * settings.rate)
    for i in range(face.MOST):
        settings.rate = float(i)
        f(mg.ones(1))
    settings.rate = 99.0
    with pytest.raises(RuntimeError, match=r"settings.rate \(7.0 the last time, 99.0 now\): keep what changes"):
        f(mg.ones(1))


def test_an_exception_passes_and_nothing_is_compiled(builds):
    fails = True

    def f(x):
        if fails:
            raise KeyError("mine")
        return x * 1.0

    compiled = mg.compile(f)
    with pytest.raises(KeyError, match="mine"):
        compiled(mg.Tensor(1.0))
    assert builds == []
    fails = False
    for _ in range(3):
        assert compiled(mg.Tensor(1.0)).item() == 1.0
    assert builds.calls == [3]
