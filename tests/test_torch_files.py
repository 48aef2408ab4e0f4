"""Torch's zip files, built here as torch.save writes them: their tensors, and what is refused, nothing executed."""

import io
import struct
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest

from xmanip_jax.models import SmallCNN, WeightsError, load, read_tensors
from xmanip_jax.models.net import abstract
from xmanip_jax.models.weights import weight_shapes

# torch.save(torch.nn.Linear(3, 2).state_dict(), path), data.pkl: memos and the attribute _metadata included
LINEAR = (
    b"\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01(X\x06\x00\x00\x00weightq\x02ctorch._utils\n_rebuild_tensor_v2\n"
    b"q\x03((X\x07\x00\x00\x00storageq\x04ctorch\nFloatStorage\nq\x05X\x01\x00\x00\x000q\x06X\x03\x00\x00\x00cpuq\x07"
    b"K\x06tq\x08QK\x00K\x02K\x03\x86q\tK\x03K\x01\x86q\n\x89h\x00)Rq\x0btq\x0cRq\rX\x04\x00\x00\x00biasq\x0eh\x03((h"
    b"\x04h\x05X\x01\x00\x00\x001q\x0fh\x07K\x02tq\x10QK\x00K\x02\x85q\x11K\x01\x85q\x12\x89h\x00)Rq\x13tq\x14Rq\x15u}"
    b"q\x16X\t\x00\x00\x00_metadataq\x17h\x00)Rq\x18X\x00\x00\x00\x00q\x19}q\x1aX\x07\x00\x00\x00versionq\x1bK\x01sssb.")


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def ints(values):
    return b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"


def tensor(storage, key, count, size, stride, offset=0):
    """The pickle of a tensor: what rebuilds it, from a storage that is named by its key."""
    kind, number = f"ctorch\n{storage}\n".encode(), lambda v: b"J" + struct.pack("<i", v)
    named = b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"tQ"
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + named + number(offset) + ints(size) + ints(stride)
            + b"\x89ccollections\nOrderedDict\n)RtR")


def dictionary(**values):
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in values.items()) + b"u."


def archive(pickled, storages, *, folder="net", compression=zipfile.ZIP_STORED, **more):
    """A file as torch writes it: members start at multiples of 64 bytes."""
    members = {"data.pkl": pickled, ".format_version": b"1", "byteorder": b"little", **more}
    members |= {f"data/{key}": np.ascontiguousarray(v).tobytes() for key, v in storages.items()} | {"version": b"3\n"}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, data in members.items():
            info = zipfile.ZipInfo(f"{folder}/{name}")
            pad = -(out.tell() + 34 + len(info.filename)) % 64
            info.extra = b"FB" + struct.pack("<H", pad) + b"Z" * pad
            file.writestr(info, data, compression)
    return out.getvalue()


def read(tmp_path, data, name="net.pt"):
    (tmp_path / name).write_bytes(data)
    return read_tensors(tmp_path / name)


def refused(tmp_path, data, name="net.pt"):
    with pytest.raises(WeightsError) as caught:
        read(tmp_path, data, name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_state_dict(tmp_path):
    w, b = np.arange(6, dtype="<f4"), np.array([7, 8], "<f4")
    for name in ("net.pt", "net.pth"):
        found = read(tmp_path, archive(LINEAR, {"0": w, "1": b}), name)
        assert list(found) == ["weight", "bias"]
        np.testing.assert_array_equal(found["weight"], w.reshape(2, 3))
        np.testing.assert_array_equal(found["bias"], b)


def test_types_and_views(tmp_path):
    base, half = np.arange(12, dtype="<f4"), np.array([0.5, 2], "<f2")
    brain, count = np.array([1.5, -3], ml_dtypes.bfloat16), np.array([2**40], "<i8")
    found = read(tmp_path, archive(dictionary(
        whole=tensor("FloatStorage", "0", 12, (3, 4), (4, 1)),
        transposed=tensor("FloatStorage", "0", 12, (2, 3), (1, 4), 1),
        half=tensor("HalfStorage", "1", 2, (2,), (1,)), brain=tensor("BFloat16Storage", "2", 2, (2,), (1,)),
        count=tensor("LongStorage", "3", 1, (), ()), double=tensor("DoubleStorage", "4", 1, (1,), (1,)),
        small=tensor("IntStorage", "5", 1, (1,), (1,)), empty=tensor("FloatStorage", "6", 0, (0, 3), (3, 1))), {
            "0": base, "1": half, "2": brain, "3": count, "4": np.array([0.1]), "5": np.array([-1], "<i4"),
            "6": np.zeros(0, "<f4")}))
    np.testing.assert_array_equal(found["whole"], base.reshape(3, 4))
    np.testing.assert_array_equal(found["transposed"], base.reshape(3, 4)[:, 1:3].T)
    assert found["half"].dtype == np.float16 and found["half"].tolist() == [0.5, 2]
    assert found["brain"].dtype == ml_dtypes.bfloat16 and found["brain"].tolist() == [1.5, -3]
    assert found["count"] == 2**40 and found["count"].shape == () and found["double"] == 0.1
    assert found["small"].dtype == np.int32 and found["small"] == -1 and found["empty"].shape == (0, 3)


def test_parameters(tmp_path):
    """What torch.save(dict(module.named_parameters())) writes around each tensor."""
    wrapped = b"ctorch._utils\n_rebuild_parameter\n(" + tensor("FloatStorage", "0", 2, (2,), (1,)) + (
        b"\x88ccollections\nOrderedDict\n)RtR")
    assert read(tmp_path, archive(dictionary(w=wrapped), {"0": np.ones(2, "<f4")}))["w"].tolist() == [1, 1]


def test_a_network_takes_them(tmp_path):
    random, shapes = np.random.default_rng(0), weight_shapes(abstract(SmallCNN))
    values = {name: random.normal(size=shape).astype("<f4") for name, shape in shapes.items()}
    strides = {name: np.array(v.strides) // 4 for name, v in values.items()}
    pickled = dictionary(**{name: tensor("FloatStorage", name, v.size, v.shape, strides[name])
                            for name, v in values.items()})
    (tmp_path / "net.pth").write_bytes(archive(pickled, values))
    found, expected = load("small_cnn", tmp_path / "net.pth").params, load("small_cnn", values).params
    jax.tree.map(np.testing.assert_array_equal, found, expected)


ONE = tensor("FloatStorage", "0", 2, (2,), (1,))
TWO = {"0": np.ones(2, "<f4")}
CODE = b"\x80\x02csys\nexit\nX\x04\x00\x00\x00gone\x85R."
BAD = {
    "code": (archive(CODE, {}), "refused to load sys.exit, which is not part of a tensor: save the tensors alone"),
    "code in the dictionary": (archive(dictionary(a=CODE[2:-1]), {}), "refused to load sys.exit"),
    "a whole module": (archive(b"\x80\x02ctorch.nn\nLinear\n)\x81.", {}), "refused to load torch.nn.Linear"),
    "a storage that is none": (archive(b"\x80\x02(" + text("module") + b"csys\nexit\ntQ.", {}), "to load sys.exit"),
    "another reference": (archive(dictionary(a=b"((" + text("module") + text("x") * 4 + b"tQt"), {}),
                          "refers to 'module', which is not a storage"),
    "bytes": (archive(dictionary(a=tensor("ByteStorage", "0", 2, (2,), (1,))), TWO), "to load torch.ByteStorage"),
    "a checkpoint": (archive(dictionary(epoch=b"K\x03", state_dict=b"}(" + text("w") + ONE + b"u"), TWO),
                     "not a flat dictionary of tensors: its 'state_dict' is one, save that alone"),
    "a number": (archive(b"\x80\x02K\x03.", {}), "not a flat dictionary of tensors: save the tensors alone"),
    "a script": (archive(dictionary(w=ONE), TWO, **{"constants.pkl": b""}), "a TorchScript program"),
    "no archive of torch": (archive(b"", {}, folder="a/b"), "holds no data.pkl"),
    "compressed": (archive(dictionary(w=ONE), TWO, compression=zipfile.ZIP_DEFLATED), "compressed"),
    "big-endian": (archive(dictionary(w=ONE), TWO, byteorder=b"big"), "written on a big-endian machine"),
    "no storage": (archive(dictionary(w=ONE), {}), "lacks net/data/0"),
    "a short storage": (archive(dictionary(w=ONE), {"0": np.ones(1, "<f4")}), "ends within a tensor: 4 of 8 bytes"),
    "beyond its storage": (archive(dictionary(w=tensor("FloatStorage", "0", 2, (2,), (1,), 1)), TWO), "larger than"),
    "two types": (archive(dictionary(w=ONE, v=tensor("IntStorage", "0", 2, (2,), (1,))), TWO),
                  "reads storage '0' as float32 and as int32"),
    "only the start of a zip": (b"PK\x03\x04 and so on", "damaged or truncated"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name, tmp_path):
    data, reason = BAD[name]
    assert reason in refused(tmp_path, data)


def test_a_file_cut_or_changed_anywhere_is_refused(tmp_path):
    whole = archive(dictionary(w=ONE), TWO)
    for length in range(0, len(whole), 31):
        refused(tmp_path, whole[:length])
    place = whole.index(np.ones(2, "<f4").tobytes())
    assert "damaged" in refused(tmp_path, whole[:place] + b"\1" + whole[place + 1:])


def test_what_a_pickle_sets_on_what_it_names_does_not_outlive_it(tmp_path):
    """BUILD on a storage's type, an ordered dictionary's or the function that rebuilds: refused, or without effect."""
    for named in (b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n"):
        build = named + b"}(" + text("itemsize") + b"K\x09ub"
        refused(tmp_path, archive(dictionary(a=build), {}))
    assert read(tmp_path, archive(dictionary(w=ONE), TWO))["w"].tolist() == [1, 1]
