"""Read torch's tensor files from before version 1.6 (a bare pickle) without torch, and without running their code."""

import collections
import io
import math
import pickle
from typing import Any, NamedTuple

import numpy as np

from .errors import WeightsError

__all__ = ["read_torch_pickle"]

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8",
             "IntStorage": "<i4"}


class _Tensor(NamedTuple):
    """A tensor whose storage is still to be read: strides and offset count elements."""

    storage: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_pickle(data: bytes) -> dict[str, np.ndarray]:
    """A flat dictionary of tensors, as `torch.save(module.state_dict(), path)` wrote it before torch 1.6.

    Layout: pickles of the magic number, the protocol, the system, the dictionary and the list of storage keys, then
    for each key the number of elements (int64) and the elements, all little-endian.

    Raises WeightsError for another format and for any global but ordered dictionaries, tensors and their storages;
    damaged data raises whatever unpickling raises.
    """
    if data[:2] == b"PK":
        raise WeightsError("a zip archive, torch's format since 1.6; convert it to .safetensors")
    stream = io.BytesIO(data)
    dtypes: dict[str, Any] = {}
    if _unpickle(stream) != _MAGIC or _unpickle(stream) != _PROTOCOL:
        raise WeightsError("not a torch file in the format before 1.6")
    if not _unpickle(stream)["little_endian"]:
        raise WeightsError("written on a big-endian machine")
    tensors = _unpickle(stream, dtypes)
    if not isinstance(tensors, dict) or not all(isinstance(t, _Tensor) for t in tensors.values()):
        raise WeightsError("not a flat dictionary of tensors")
    storages = {key: _elements(stream, dtypes[key]) for key in _unpickle(stream)}
    return {name: _strided(storages[t.storage], t) for name, t in tensors.items()}


def _unpickle(stream, dtypes=None):
    """One pickle; the element types of the storages it refers to are noted in `dtypes`."""

    # New per call: a pickle can set attributes on what it names, which must not outlive it.
    def rebuild_tensor(storage, offset, size, stride, requires_grad, hooks, metadata=None):
        return _Tensor(storage, offset, tuple(size), tuple(stride))

    def storage_key(reference):
        kind, dtype, key, _device, _count, *_view = reference
        if kind != "storage" or not isinstance(dtype, np.dtype):
            raise WeightsError(f"refers to {kind!r}, which is not a storage")
        dtypes[key] = dtype
        return key

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("collections", "OrderedDict"):
                return collections.OrderedDict
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return rebuild_tensor
            if module == "torch" and name in _STORAGES:
                return np.dtype(_STORAGES[name])
            raise WeightsError(f"refused to load {module}.{name}, which is not part of a tensor")

    unpickler = Unpickler(stream)
    unpickler.persistent_load = storage_key
    return unpickler.load()


def _elements(stream, dtype):
    count = int(np.frombuffer(stream.read(8), "<i8")[0])
    data = stream.read(max(count, 0) * dtype.itemsize)
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
