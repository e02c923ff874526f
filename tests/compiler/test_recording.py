"""What a recording holds: entries, where arrays come from and go to, names."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.compiler.arguments import Argument, Arguments, as_input, named
from minigrad.compiler.guards import look
from minigrad.compiler.recording import record


def recorded(f, *args, **kwargs):
    given = Arguments(args, kwargs)
    _, names = named(f, args, kwargs)
    return record(f, args, kwargs, given, look(f, dict(zip(names, given.objects, strict=True))))


def names(recording):
    return [e.op.name for e in recording.entries]


def test_a_training_step():
    net = nn.Linear(3, 2, generator=mg.random.Generator(0))
    optimizer = optim.SGD(net, 0.5)

    def step(x):
        z = net(x)
        loss = mg.sum(z * z)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    weight, bias, leaf = net.weight.array, net.bias.array, net.weight.node
    x = mg.Tensor(np.ones((4, 3), "float32"))
    r = recorded(step, x)
    assert names(r)[:3] == ["linear", "multiply", "sum"]
    assert names(r).count("assign") == 2
    assert r.inputs[0] is x.array
    before = {id(t): a for t, a in zip(r.captured, r.before, strict=True)}
    assert before[id(net.weight)] is weight
    assert before[id(net.bias)] is bias
    assert before.keys() == {id(net.weight), id(net.bias), id(optimizer.learning_rate)}
    assert {id(a) for _, a in r.updates} == {id(e.output) for e in r.entries if e.op.name == "assign"}
    assert [k for k, _ in r.updates] == [0, 1]  # the updated ones come first
    assert net.weight.array is weight  # it is undone
    assert net.bias.array is bias
    assert net.weight.node is leaf
    assert not leaf.stale
    assert r.gradients == []
    assert r.results == [r.entries[2].output]
    assert r.is_one_tensor
    assert r.returned == [("tensor", 0)]
    assert r.arrays == []
    assert {r.names[id(a)] for a in r.before} == {"net.weight", "net.bias", "optimizer.state['learning_rate']"}
    assert r.names[id(x.array)] == "x"
    assert r.names[id(r.entries[0].output)] == "z"
    assert r.names[id(r.entries[2].output)] == "loss"
    made = {id(e.output) for e in r.entries}
    known = made | {id(a) for a in [*r.inputs, *r.before]}
    constants = [a for e in r.entries for a in e.inputs if isinstance(a, (np.ndarray, tuple)) and id(a) not in known]
    assert [a.tolist() for a in constants] == [1.0]  # the cotangent that backward starts from


def test_gradients_that_stay():
    p = mg.Tensor([2.0], requires_grad=True)
    q = mg.Tensor([2.0], requires_grad=True)
    q.grad = old = mg.Tensor([1.0])

    def f():
        mg.sum(p * q).backward()

    r = recorded(f)
    gradients = {id(r.captured[k]): a.tolist() for k, a in r.gradients}
    assert gradients == {id(p): [2.0], id(q): [3.0]}
    assert p.grad is None  # it is undone
    assert q.grad is old
    assert any(t is old for t in r.captured)  # it was added to
    k = next(k for k, t in enumerate(r.captured) if t is old)
    assert r.sources[k].find([]) is q.grad
    assert r.names[id(old.array)] == "q.grad"
    assert {had for source, had in r.grads if source.tensor is q} == {True}
    r = recorded(lambda: q.zero_grad())
    assert [(r.captured[k], a) for k, a in r.gradients] == [(q, None)]
    assert q.grad is old


def test_arrays_among_the_arguments():
    def f(x, labels, more):
        assert type(x) is Argument
        assert (x.flags.writeable, x.flags.c_contiguous) == (False, True)
        return mg.Tensor(x) * 2.0, mg.Tensor(x, "float32"), mg.Tensor(np.eye(3))[labels], more[0] * x

    x, labels, other = np.ones((2, 3))[:, ::-1], np.array([0, 2]), mg.Tensor(3.0)
    r = recorded(f, x, labels, [other])
    assert names(r) == ["copy", "multiply", "cast", "getitem", "multiply"]
    assert [a.shape for a in r.inputs] == [(2, 3), (2,), ()]
    assert all(type(a) is np.ndarray for a in r.inputs)
    assert r.entries[0].inputs[0] is r.inputs[0]
    assert r.entries[2].inputs[0] is r.inputs[0]
    assert r.entries[3].inputs[1] is r.inputs[1]
    assert r.entries[4].inputs == (r.inputs[2], r.inputs[0])
    assert [r.names[id(a)] for a in r.inputs] == ["x", "labels", "more[0]"]


def test_frozen_arrays_and_constants():
    table = np.arange(3.0)
    table.setflags(write=False)
    r = recorded(lambda x: x * table + np.ones(3) + mg.Tensor([1.0, 2.0, 3.0]) + 1.0, mg.Tensor(2.0))
    assert [a is table for a in r.arrays] == [True]
    assert r.entries[0].inputs[1] is table
    assert [e.inputs[1] if isinstance(e.inputs[1], float) else e.inputs[1].tolist() for e in r.entries[1:]] == [
        [1, 1, 1],
        [1, 2, 3],
        1.0,
    ]


def test_tensor_arguments_that_are_captured():
    def f(p, average, x):
        mg.sum(p * x).backward()
        average.assign(average + x)

    p, average, x = mg.Tensor([1.0], requires_grad=True), mg.Tensor([0.0]), mg.Tensor([3.0])
    r = recorded(f, p, average, x)
    assert [t is average or t is p for t in r.captured] == [True, True]
    assert r.captured[0] is average
    assert r.inputs == [x.array]
    assert r.taken == [2]
    assert [s.find([10, 11, 12]) for s in r.sources] == [11, 10]


def test_random_state():
    mg.random.seed(0)
    r = recorded(lambda: mg.random.normal((2,)))
    assert r.captured[0] is mg.random.current().state
    mg.random.seed(1)
    assert r.sources[0].find([]) is mg.random.current().state
    assert r.names[id(r.before[0])] == "random state"


def test_two_recordings_have_one_outline():
    w = mg.Tensor([1.0], requires_grad=True)

    def f(x, scale):
        y = mg.getitem(x * w, slice(0, 1)) * scale + np.ones(1)
        y.sum().backward()
        w.zero_grad()
        return {"y": y.detach(), "n": 1}

    a, b, c = (recorded(f, mg.Tensor([float(i), 2.0]), s).outline for i, s in enumerate((1.0, 1.0, 2.0)))
    assert a == b
    assert a != c
    assert "test_recording.py" in a[0][1]


KEPT = []


def test_unknown_tensors_from_outside():
    KEPT.append(mg.Tensor([1.0]))
    with pytest.raises(RuntimeError, match=r"comes from outside by a way(.|\n)*test_recording.py"):
        recorded(lambda x: x * eval("KEPT")[0], mg.Tensor(1.0))


def test_names_of_arguments():
    def f(a, b=1, *rest, key=None, **others):
        pass

    x, o = mg.Tensor(1.0), object()
    leaves, objects = named(f, (x, [x, {"k": x}], x, o), {"z": x, "key": x})
    assert leaves == ["a", "b[0]", "b[1]['k']", "rest[0]", "key", "z"]
    assert objects == ["rest[1]"]
    assert named(print, (x,), {})[0] in (["args[0]"], ["arguments[0]"])


def test_keys_of_arguments():
    def key(*args, **kwargs):
        return Arguments(args, kwargs).key

    x, y = mg.Tensor([1.0]), mg.Tensor([2.0])
    assert key(x) == key(y)
    assert hash(key(x, [1, "a", None], {"k": 2.0}, z=x)) == hash(key(y, [1, "a", None], {"k": 2.0}, z=y))
    different = [
        key(x), key(x.array), key([x]), key((x,)), key(x, x), key(x, y), key(mg.Tensor([1.0, 2.0])), key({"a": x}),
        key(mg.Tensor([1.0], "float32")), key(mg.Tensor([1.0], requires_grad=True)), key(1), key(1.0), key(True),
        key("a"), key({"b": x}), key(a=x), key(0.0), key(-0.0), key(np.float32(1)), key(object()), key(None),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


def test_inputs_are_converted():
    x = np.arange(6.0).reshape(2, 3)
    assert as_input(x) is x
    assert as_input(mg.Tensor(1.0)).shape == ()
    for y in (x.T, x[:, ::2], x.astype(">f8"), np.asfortranarray(x), x.view(np.recarray)):
        z = as_input(y)
        assert z.tolist() == y.tolist()
        assert z.flags.c_contiguous
        assert z.dtype == np.float64
        assert z.dtype.isnative


def test_hooks_are_recorded():
    w = mg.Tensor([1.0], requires_grad=True)
    w.register_hook(lambda g: g * 10.0)

    def f(x):
        mg.sum(w * x).backward()
        g = w.grad
        w.zero_grad()
        return g

    r = recorded(f, mg.Tensor([2.0]))
    assert r.results[0].tolist() == [20.0]
    assert any(10.0 in [a for a in e.inputs if isinstance(a, float)] for e in r.entries)
