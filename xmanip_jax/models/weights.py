"""Weights between files, torch's names and layouts, and flax nnx modules."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from .errors import WeightsError
from .torch_pickle import read_torch_file

__all__ = ["WeightsError", "load_weights", "read_tensors", "save_tensors", "save_weights", "weight_shapes"]

_READERS = {".safetensors": safetensors.numpy.load, ".pth": read_torch_file, ".pt": read_torch_file}
_PARALLEL = "module."
_DERIVED = ("num_batches_tracked", "relative_position_index")  # buffers that torch writes and nothing needs
_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a .safetensors file, or of a .pth or .pt file that `torch.save(module.state_dict(), path)` wrote.

    Torch's files are read without torch, those of all versions, and nothing in them is executed: they may name ordered
    dictionaries and tensors only. bfloat16 comes as the type of ml_dtypes, which jax knows.

    Raises FileNotFoundError, or WeightsError naming the file and the reason.

    >>> import tempfile, numpy as np
    >>> from xmanip_jax import models
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     models.save_tensors({"w": np.ones(2)}, folder + "/w.safetensors")
    ...     models.read_tensors(folder + "/w.safetensors")
    {'w': array([1., 1.])}
    """
    path = Path(path)
    if path.suffix not in _READERS:
        raise WeightsError(f"{path}: unknown suffix {path.suffix!r}, expected one of {', '.join(_READERS)}")
    data = path.read_bytes()
    try:
        return _READERS[path.suffix](data)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # damaged bytes make unpickling raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(f"{path}: damaged or truncated ({reason})") from error


def load_weights(module: nnx.Module, weights: str | os.PathLike | Mapping[str, np.ndarray]) -> nnx.Module:
    """Fill a module in place, from a file or from named arrays, and return it.

    Names are torch's (`layer.weight` as OIHW or (out, in), `bn.running_mean`), or the module's own (`layer.kernel` as
    HWIO or (in, out), `bn.mean`). Of parameters, only kernels have another layout here: a position embedding or
    `in_proj_weight` is as torch has it. A module may list `other_names`, pairs of a regular expression and
    what replaces it in a name, as `ViT` does for timm's. `num_batches_tracked` and Swin's `relative_position_index` are
    ignored, and so is a prefix `module.` that every name has, as torch's DataParallel writes it.

    Raises WeightsError listing every missing and unexpected name, every wrong shape and every tensor with values that
    are not finite; the module is then unchanged.

    >>> import numpy as np
    >>> from flax import nnx
    >>> from xmanip_jax import models
    >>> weights = {"weight": np.ones((3, 2)), "bias": np.zeros(3)}  # as torch has them
    >>> models.load_weights(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), weights)(np.ones(2, np.float32))
    Array([2., 2., 2.], dtype=float32)
    """
    source = "the given tensors" if isinstance(weights, Mapping) else os.fspath(weights)
    tensors = dict(weights) if isinstance(weights, Mapping) else read_tensors(weights)
    tensors = {name: t for name, t in tensors.items() if name.rpartition(".")[2] not in _DERIVED}
    if tensors and all(name.startswith(_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(_PARALLEL): t for name, t in tensors.items()}
    names = _renamed(tensors, getattr(module, "other_names", ()))
    slots, found, problems = _slots(module), {}, []
    for slot in slots:
        known = next((n for n in (slot.torch_name, slot.own_name) if n in names), None)
        if known is None:
            problems.append(f"missing {slot.torch_name}")
            continue
        name, is_torch = names.pop(known), known == slot.torch_name
        tensor = np.asarray(tensors[name])
        expected = slot.torch_shape if is_torch else slot.shape
        if tensor.shape != expected:
            problems.append(f"{name} has shape {tensor.shape}, expected {expected}")
        if bad := int(np.sum(~np.isfinite(tensor))):
            problems.append(f"{name} has {bad} of {tensor.size} values that are NaN or infinite")
        found[slot.path] = tensor.transpose(_own_axes(tensor.shape)) if is_torch and slot.is_turned else tensor
    problems += [f"unexpected {name}" for name in names.values()]
    if problems:
        raise WeightsError(f"{source} does not fit {type(module).__name__}: " + "; ".join(problems))
    filled = [(slot.path, slot.variable.replace(jnp.asarray(found[slot.path], slot.variable.dtype))) for slot in slots]
    nnx.update(module, nnx.from_flat_state(filled))
    return module


def save_weights(module: nnx.Module, path: str | os.PathLike) -> None:
    """Write parameters and running statistics as .safetensors with torch's names and layouts; all or nothing.

    >>> import tempfile
    >>> from flax import nnx
    >>> from xmanip_jax import models
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     models.save_weights(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), folder + "/w.safetensors")
    ...     sorted(models.read_tensors(folder + "/w.safetensors"))
    ['bias', 'weight']
    """
    arrays = {slot.torch_name: np.transpose(slot.variable[...], slot.torch_axes) for slot in _slots(module)}
    save_tensors(arrays, path)


def save_tensors(tensors: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Write named arrays (weights, patterns) as .safetensors, whole or not at all; `read_tensors` reads them.

    >>> import tempfile, numpy as np
    >>> from xmanip_jax import models
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     models.save_tensors({"w": np.ones(2)}, folder + "/w.safetensors")
    ...     models.read_tensors(folder + "/w.safetensors")
    {'w': array([1., 1.])}
    """
    path = Path(path)
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(safetensors.numpy.save(tensors))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def weight_shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """The names and shapes, in torch's layout, that save_weights writes and load_weights takes; no weight is read."""
    return {slot.torch_name: slot.torch_shape for slot in _slots(module)}


class _Slot(NamedTuple):
    """One array of a module: where it is, its name there and in torch, its shape, and the variable that holds it."""

    path: tuple
    own_name: str
    torch_name: str
    shape: tuple[int, ...]
    variable: nnx.Variable

    @property
    def is_turned(self):
        """Whether torch's axes are in another order: a parameter's only where it is a kernel."""
        return self.own_name.rpartition(".")[2] == "kernel" or isinstance(self.variable, nnx.BatchStat)

    @property
    def torch_axes(self):
        return _torch_axes(self.shape) if self.is_turned else tuple(range(len(self.shape)))

    @property
    def torch_shape(self):
        return tuple(self.shape[axis] for axis in self.torch_axes)


def _slots(module):
    slots = []
    for path, variable in nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat))):
        *prefix, last = map(str, path)
        torch_name = ".".join([*prefix, _TORCH_NAMES.get(last, last)])
        slots.append(_Slot(path, ".".join([*prefix, last]), torch_name, tuple(variable.shape), variable))
    return slots


def _renamed(names, other_names):
    """{name as the module has it: that of `names`}; what would take another's place keeps its own."""
    found = {}
    for name in names:
        known = name
        for pattern, replacement in other_names:
            known = re.sub(pattern, replacement, known)
        found[name if known in found or known in names else known] = name
    return found


def _own_axes(shape):
    """OIHW -> HWIO, (out, in) -> (in, out)."""
    return (2, 3, 1, 0) if len(shape) == 4 else tuple(reversed(range(len(shape))))


def _torch_axes(shape):
    """HWIO -> OIHW, (in, out) -> (out, in)."""
    return (3, 2, 0, 1) if len(shape) == 4 else tuple(reversed(range(len(shape))))
