"""Files give back the bits they were given, and a bad one changes nothing."""

import os
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from minigrad import io, nn, optim

pytest.importorskip("safetensors")

DTYPES = [np.float32, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, np.bool_]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
)


def _bits(x):
    array = x.data if isinstance(x, mg.Tensor) else x
    return array.dtype, array.shape, array.tobytes()


def _net():
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda s: s != "__metadata__"), arrays, min_size=1))
def test_round_trip_is_bitwise(tmp_path, tree):
    """NaN payloads and signs of zero included."""
    path = tmp_path / "f.safetensors"
    io.save(path, {name: mg.Tensor(array) for name, array in tree.items()})
    back = io.load(path)
    assert {name: _bits(t) for name, t in back.items()} == {name: _bits(a) for name, a in tree.items()}
    assert os.listdir(tmp_path) == ["f.safetensors"]


def test_non_contiguous_arrays_come_back_as_they_look(tmp_path):
    a = np.arange(24.0).reshape(2, 3, 4).T[::2]
    io.save(tmp_path / "f", {"a": a})
    assert (io.load(tmp_path / "f")["a"].data == a).all()


def test_a_module_and_its_optimiser_go_on_where_they_were(tmp_path):
    mg.random.seed(0)
    x = mg.Tensor(np.ones((5, 3), np.float32))

    def train(net, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (net(x) ** 2).sum().backward()
            optimizer.step()

    net = _net()
    optimizer = optim.Adam(net, 0.01)
    train(net, optimizer, 3)
    io.save(tmp_path / "net", net)
    io.save(tmp_path / "optimizer", optimizer.state)
    train(net, optimizer, 3)

    other = _net()
    resumed = optim.Adam(other, 0.5)
    io.load_into(other, tmp_path / "net")
    io.load_into(resumed.state, tmp_path / "optimizer")
    train(other, resumed, 3)
    assert {n: _bits(t) for n, t in net.tensors().items()} == {n: _bits(t) for n, t in other.tensors().items()}


def test_loading_keeps_the_parameters_trainable(tmp_path):
    a, b = _net(), _net()
    io.save(tmp_path / "f", a)
    weight = b.layers[0].weight
    io.load_into(b, str(tmp_path / "f"))
    assert b.layers[0].weight is weight
    assert weight.requires_grad
    assert (weight.data == a.layers[0].weight.data).all()


def test_a_dict_of_tensors_or_arrays_will_do():
    a, b = _net(), _net()
    io.load_into(b, {name: t.data for name, t in a.tensors().items()})
    assert (b.layers[2].weight.data == a.layers[2].weight.data).all()


def test_all_that_does_not_fit_is_named_and_nothing_changed(tmp_path):
    source = {
        "layers.0.weight": mg.zeros((3, 5), dtype="float32"),
        "layers.0.bias": mg.zeros(4),
        "layers.2.weight": mg.zeros((4, 2), dtype="float32"),
        "extra": mg.zeros(1),
    }
    io.save(tmp_path / "f", source)
    net = _net()
    before = {n: _bits(t) for n, t in net.tensors().items()}
    with pytest.raises(ValueError, match="does not fit Sequential") as error:
        io.load_into(net, tmp_path / "f")
    for part in (
        str(tmp_path / "f"),
        "layers.2.bias is missing",
        "extra is unexpected",
        "layers.0.weight is float32 (3, 5), expected float32 (3, 4)",
        "layers.0.bias is float64 (4,), expected float32 (4,)",
    ):
        assert part in str(error.value)
    assert {n: _bits(t) for n, t in net.tensors().items()} == before


@pytest.mark.parametrize("damage", ["truncated", "empty", "header", "text"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = tmp_path / "weights.safetensors"
    io.save(path, _net())
    data = path.read_bytes()
    path.write_bytes(
        {"truncated": data[:-5], "empty": b"", "header": b"\xff" * 20 + data[20:], "text": b"hello"}[damage]
    )
    net = _net()
    before = {n: _bits(t) for n, t in net.tensors().items()}
    with pytest.raises(ValueError, match=r"weights\.safetensors: damaged"):
        io.load_into(net, path)
    assert {n: _bits(t) for n, t in net.tensors().items()} == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors: no such file"):
        io.load(tmp_path / "nothing.safetensors")


def test_a_file_of_a_newer_format_is_refused_and_others_files_are_read(tmp_path):
    from safetensors.numpy import save_file

    save_file({"a": np.ones(2)}, tmp_path / "new", metadata={"minigrad": "2"})
    with pytest.raises(ValueError, match="version 2 of the format: update minigrad"):
        io.load(tmp_path / "new")
    save_file({"a": np.ones(2)}, tmp_path / "other", metadata={"format": "pt"})
    save_file({"a": np.ones(2)}, tmp_path / "bare")
    assert (io.load(tmp_path / "other")["a"].data == io.load(tmp_path / "bare")["a"].data).all()


def test_a_dtype_that_the_engine_does_not_have_is_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"half": np.ones(2, np.float16)}, tmp_path / "f")
    with pytest.raises(TypeError, match="not float16"):
        io.load(tmp_path / "f")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "f"
    io.save(path, {"a": mg.zeros(2)})
    old = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="disk full"):
                io.save(path, {"a": mg.ones(2)})
        assert path.read_bytes() == old
        assert os.listdir(tmp_path) == ["f"]


def test_what_can_t_be_saved_or_loaded_is_refused_before_a_file_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"'a\.b'"):
        io.save(tmp_path / "f", {"a": {"b": mg.zeros(1)}, "a.b": mg.zeros(1)})
    with pytest.raises(ValueError, match="dict holds no tensors"):
        io.save(tmp_path / "f", {})
    with pytest.raises(TypeError, match="a is an array"):
        io.load_into({"a": np.zeros(2)}, {"a": np.ones(2)})
    assert os.listdir(tmp_path) == []


def test_without_safetensors_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: io.save(tmp_path / "f", {"a": mg.zeros(1)}), lambda: io.load(tmp_path / "f")):
        with pytest.raises(ImportError, match=r"pip install 'minigrad\[models\]'"):
            call()


@given(st.text())
def test_a_text_goes_along(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("text") / "f.safetensors"
    io.save(path, {"a": np.ones(2)}, text)
    assert io.load_text(path) == text
    assert io.load(path)["a"].data.tolist() == [1.0, 1.0]


def test_without_a_text_there_is_none_and_a_bad_file_is_said(tmp_path):
    path = tmp_path / "f.safetensors"
    io.save(path, {"a": np.ones(2)})
    assert io.load_text(path) == ""
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="damaged"):
        io.load_text(path)
    with pytest.raises(FileNotFoundError):
        io.load_text(tmp_path / "nowhere")
