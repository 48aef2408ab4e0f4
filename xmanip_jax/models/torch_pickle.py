"""Read torch's tensor files, of any version, without torch and without running their code."""

import collections
import io
import math
import pickle
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from .errors import WeightsError

__all__ = ["read_torch_file"]

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": ml_dtypes.bfloat16,
             "LongStorage": "<i8", "IntStorage": "<i4"}
_WAY_OUT = "save the tensors alone, torch.save(module.state_dict(), path)"


class _Storage(NamedTuple):
    """What a pickle refers to by key: a number of elements of a type, which the file holds elsewhere."""

    key: str
    dtype: np.dtype
    elements: int


class _Tensor(NamedTuple):
    """A tensor whose storage is still to be read: strides and offset count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_file(data: bytes) -> dict[str, np.ndarray]:
    """A flat dictionary of tensors, as `torch.save(module.state_dict(), path)` writes it.

    Since torch 1.6 that is a zip archive with <folder>/data.pkl, the dictionary, and <folder>/data/<key>, the elements
    of each storage, uncompressed. Before, it was pickles of the magic number, the protocol, the system, the dictionary
    and the list of storage keys, then for each key the number of elements (int64) and the elements. All little-endian.

    Raises WeightsError for another format and for any global but ordered dictionaries, tensors and their storages;
    damaged data raises whatever unzipping and unpickling raise.
    """
    return _read_zip(data) if data[:2] == b"PK" else _read_pickles(data)


def _read_zip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        folder = next((name.removesuffix("data.pkl") for name in names if name.count("/") == 1
                       and name.endswith("/data.pkl")), None)
        if folder is None:
            raise WeightsError("a zip archive, but not one of torch's: it holds no data.pkl")
        if f"{folder}constants.pkl" in names:
            raise WeightsError(f"a TorchScript program: {_WAY_OUT}")
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise WeightsError("compressed, as torch writes no file: pack it again without (zip -0)")
        if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("written on a big-endian machine")
        tensors = _tensors(_unpickle(io.BytesIO(archive.read(f"{folder}data.pkl"))))
        read = {}
        for storage in {t.storage for t in tensors.values()}:
            if (member := f"{folder}data/{storage.key}") not in names:
                raise WeightsError(f"lacks {member}, the elements of a tensor")
            read[storage] = _elements(archive.read(member), storage.dtype, storage.elements)
    return {name: _strided(read[t.storage], t) for name, t in tensors.items()}


def _read_pickles(data):
    stream = io.BytesIO(data)
    if _unpickle(stream) != _MAGIC or _unpickle(stream) != _PROTOCOL:
        raise WeightsError("not a torch file")
    if not _unpickle(stream)["little_endian"]:
        raise WeightsError("written on a big-endian machine")
    tensors = _tensors(_unpickle(stream))
    dtypes, read = {t.storage.key: t.storage.dtype for t in tensors.values()}, {}
    for key in _unpickle(stream):
        count = int(np.frombuffer(stream.read(8), "<i8")[0])
        read[key] = _elements(stream.read(max(count, 0) * dtypes[key].itemsize), dtypes[key], count)
    return {name: _strided(read[t.storage.key], t) for name, t in tensors.items()}


def _tensors(found: Any) -> dict[str, _Tensor]:
    """What was unpickled, if it is a flat dictionary of tensors that agree on their storages' types."""
    flat = lambda v: isinstance(v, dict) and all(isinstance(t, _Tensor) for t in v.values())
    if not flat(found):
        inside = [repr(k) for k, v in found.items() if v and flat(v)] if isinstance(found, dict) else []
        way = f"its {' and '.join(inside)} is one, save that alone" if inside else _WAY_OUT
        raise WeightsError(f"not a flat dictionary of tensors: {way}")
    dtypes: dict[str, Any] = {}
    for storage in (t.storage for t in found.values()):
        if dtypes.setdefault(storage.key, storage.dtype) != storage.dtype:
            raise WeightsError(f"reads storage {storage.key!r} as {dtypes[storage.key]} and as {storage.dtype}")
    return found


def _unpickle(stream):
    """One pickle; tensors come as _Tensor."""

    # New per call: a pickle can set attributes on what it names, which must not outlive it.
    def rebuild_tensor(storage, offset, size, stride, requires_grad, hooks, metadata=None):
        return _Tensor(storage, offset, tuple(size), tuple(stride))

    def rebuild_parameter(tensor, requires_grad, hooks):
        return tensor

    def storage_of(reference):
        kind, storage, key, _device, count, *_view = reference
        if kind != "storage" or storage not in _STORAGES:
            raise WeightsError(f"refers to {kind!r}, which is not a storage")
        return _Storage(key, np.dtype(_STORAGES[storage]), count)

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("collections", "OrderedDict"):
                return collections.OrderedDict
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return rebuild_tensor
            if (module, name) == ("torch._utils", "_rebuild_parameter"):
                return rebuild_parameter
            if module == "torch" and name in _STORAGES:
                return name
            raise WeightsError(f"refused to load {module}.{name}, which is not part of a tensor: {_WAY_OUT}")

    unpickler = Unpickler(stream)
    unpickler.persistent_load = storage_of
    return unpickler.load()


def _elements(data, dtype, count):
    """Storage of `count` elements, all of it."""
    if count * dtype.itemsize != len(data):
        raise WeightsError(f"ends within a tensor: {len(data)} of {count * dtype.itemsize} bytes")
    return np.frombuffer(data, dtype)


def _strided(storage, tensor):
    """The tensor's view of its storage, checked: unchecked strides would read foreign memory."""
    _, offset, size, stride = tensor
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min((offset, *size, *stride)) < 0 or math.prod(size) > storage.size or last >= storage.size:
        raise WeightsError("holds a tensor larger than its storage")
    return np.lib.stride_tricks.as_strided(storage[offset:], size, [step * storage.itemsize for step in stride]).copy()
