"""Pytrees on disk, and numbered copies of a training run, by orbax: `pip install "xmanip-jax[checkpoint]"`.

A copy appears under its name only when it is complete; a save that is killed leaves the earlier copies alone.
One process writes a folder at a time. Of several (jax.distributed), each saves and loads for itself.
"""

import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from .extras import missing

try:
    from orbax.checkpoint import v1 as ocp
except ImportError as error:
    raise missing("checkpoint", "checkpoint", error) from error

__all__ = ["CheckpointError", "latest_step", "load", "load_step", "save", "save_step"]

_COMMIT = "commit_success.txt"  # orbax writes it last
_KEY = "prng_key_"  # a typed key is stored as {"prng_key_<implementation>": its words}


class CheckpointError(ValueError):
    """A copy that is missing, incomplete, damaged, in the way, or of another structure."""


def save(path: str | os.PathLike, tree: Any, *, overwrite: bool = False) -> None:
    """Writes a pytree of arrays, numbers and typed keys to a folder, and returns when it is complete.

    Args:
      path: a folder that does not exist; those above it are made.
      overwrite: replace a copy that is there, after the new one is complete.

    Raises:
      CheckpointError: something is there already; no leaf; a leaf that is not an array or has no elements; it cannot
        be written, as on a full disk: what was there is left as it was, and nothing beside it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/run", {"w": np.ones(2), "key": jax.random.key(1)})
    ...     load(folder + "/run")
    {'key': Array((), dtype=key<fry>) overlaying:
    [0 1], 'w': array([1., 1.])}
    """
    target, packed = _absolute(path), _pack(tree)
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} is there already; pass overwrite=True to replace it")
    if target.exists():
        _replace(target, packed)
    else:
        _write(target, packed)
    _remove_leftovers(target)


def load(path: str | os.PathLike, like: Any = None) -> Any:
    """Reads what `save` wrote.

    Args:
      path: the folder.
      like: a pytree of the same structure, shapes and dtypes: arrays, jax.ShapeDtypeStruct, numbers, keys.
        The result has its containers, its Python numbers, and jax arrays where it has them, on their devices.
        None gives dicts, lists and numpy arrays, numbers as arrays of shape (). Typed keys stay typed keys.

    Raises:
      CheckpointError: missing, incomplete or damaged; or the first leaves in which it differs from `like`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(folder + "/run", (np.ones(2), 3))
    ...     load(folder + "/run"), load(folder + "/run", like=(np.zeros(2), 0))
    ([array([1., 1.]), array(3)], (array([1., 1.]), 3))
    """
    path = _complete(_absolute(path))
    stored = _read(path, lambda: ocp.metadata(path).metadata)
    if like is None:
        return _unpack(_read(path, lambda: ocp.load(path, jax.tree.map(_host, stored))))
    packed = _pack(like)
    _compare(path, stored, packed)
    loaded = _read(path, lambda: ocp.load(path, jax.tree.map(_target, packed)))
    return jax.tree.map(_as_like, like, _unpack(loaded))


def save_step(folder: str | os.PathLike, step: int, tree: Any, *, keep: int = 2) -> None:
    """Saves `tree` as folder/<step>, then deletes all but the `keep` latest complete steps.

    Raises:
      CheckpointError: a complete step at or after this one is there; what `save` raises.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (10, 20, 30):
    ...         save_step(folder, step, {"w": np.full(2, step)})
    ...     latest_step(folder), load_step(folder)["w"], load_step(folder, 20)["w"]
    (30, array([30, 30]), array([20, 20]))
    """
    if keep < 1 or step < 0:
        raise ValueError(f"steps count from 0 and at least one is kept, got step {step} and keep={keep}")
    root, latest = _absolute(folder), latest_step(folder)
    if latest is not None and step <= latest:
        raise CheckpointError(f"{root}: step {step} is not after the latest, {latest}")
    shutil.rmtree(root / str(step), ignore_errors=True)  # an incomplete copy
    save(root / str(step), tree)
    for old in _steps(root)[:-keep]:
        shutil.rmtree(root / str(old))


def latest_step(folder: str | os.PathLike) -> int | None:
    """The largest step of which the folder holds a complete copy; None without one, or without the folder.

    `save_step` has an example.
    """
    return max(_steps(_absolute(folder)), default=None)


def load_step(folder: str | os.PathLike, step: int | None = None, like: Any = None) -> Any:
    """`load` of folder/<step>, the latest complete step by default; `save_step` has an example.

    Raises:
      CheckpointError: no complete copy in the folder; what `load` raises.
    """
    step = latest_step(folder) if step is None else step
    if step is None:
        raise CheckpointError(f"{_absolute(folder)} holds no complete step")
    return load(_absolute(folder) / str(step), like)


def _absolute(path):
    return pathlib.Path(os.path.abspath(path))  # orbax refuses relative paths


def _beside(path, suffix):
    return path.with_name(f"{path.name}.{suffix}")


def _alone():
    """orbax in this process only: it waits for no others, which need not save or load what this one does."""
    only = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()},
        barrier_sync_key_prefix=str(jax.process_index())) if jax.process_count() > 1 else None
    return ocp.Context(multiprocessing_options=only)


def _write(path, packed):
    try:
        with _alone():
            ocp.save(path, packed)
    except Exception as error:  # orbax, tensorstore and the file system each have their own kinds
        for cut_off in path.parent.glob(f"{path.name}.orbax-checkpoint-tmp*"):
            shutil.rmtree(cut_off, ignore_errors=True)
        raise CheckpointError(f"{path} cannot be written: {_reason(error)}") from error


def _replace(path, packed):
    """Two renames: orbax's own overwrite deletes the old copy before it writes the new one."""
    _remove_leftovers(path)
    _write(_beside(path, "new"), packed)
    path.rename(_beside(path, "old"))
    _beside(path, "new").rename(path)


def _remove_leftovers(path):
    for suffix in ("new", "old"):
        shutil.rmtree(_beside(path, suffix), ignore_errors=True)


def _steps(folder):
    named = [p for p in folder.glob("*") if p.name.isdecimal() and (p / _COMMIT).is_file()]
    return sorted(int(p.name) for p in named)


def _complete(path):
    """The copy at path, or the one that `save` had completed when it was killed while replacing."""
    for candidate in (path, _beside(path, "new")):
        if (candidate / _COMMIT).is_file():
            return candidate
    unfinished = path.exists() or any(path.parent.glob(f"{path.name}.orbax-checkpoint-tmp*"))
    reason = "is incomplete: its save was interrupted" if unfinished else "is not there"
    raise CheckpointError(f"{path} {reason}")


def _read(path, read: Callable[[], Any]):
    try:
        with _alone():
            result = read()
    except Exception as error:  # orbax, tensorstore and the file system each have their own kinds
        raise CheckpointError(f"{path} cannot be read: {_reason(error)}") from error
    if result is None:
        raise CheckpointError(f"{path} cannot be read: its structure is not recorded")
    return result


def _reason(error):
    return str(error).strip().split("\n")[0] or type(error).__name__


def _is_key(x):
    return hasattr(x, "dtype") and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _pack(tree):
    """`tree` with arrays for leaves: numbers become numpy arrays, typed keys dicts of their words."""
    leaves = tree_flatten_with_path(tree)[0]
    if not leaves:
        raise CheckpointError("a tree without leaves cannot be saved")
    for path, leaf in leaves:
        if not hasattr(leaf, "shape") and not isinstance(leaf, bool | int | float | complex):
            raise CheckpointError(f"leaf {_name(path)} is no array but {type(leaf).__name__}")
        if 0 in np.shape(leaf):
            raise CheckpointError(f"leaf {_name(path)} has no elements, shape {np.shape(leaf)}")
    return jax.tree.map(_pack_leaf, tree)


def _pack_leaf(leaf):
    if _is_key(leaf):
        words = lambda key: {f"{_KEY}{jax.random.key_impl(key)}": jax.random.key_data(key)}
        return jax.eval_shape(words, leaf) if isinstance(leaf, jax.ShapeDtypeStruct) else words(leaf)
    return leaf if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct) else np.asarray(leaf)


def _packed_key(x):
    return isinstance(x, dict) and len(x) == 1 and str(next(iter(x))).startswith(_KEY)


def _unpack(tree):
    def leaf(x):
        if not _packed_key(x):
            return x
        ((name, words),) = x.items()
        return jax.random.wrap_key_data(jax.numpy.asarray(words), impl=name.removeprefix(_KEY))

    return jax.tree.map(leaf, tree, is_leaf=_packed_key)


def _host(leaf):
    return np.empty(np.shape(leaf), getattr(leaf, "dtype", None))


def _target(leaf):
    """What orbax shall make of a stored array: a jax array on given devices, or a numpy array."""
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _as_like(like, leaf):
    return type(like)(leaf) if isinstance(like, bool | int | float | complex) else leaf


def _name(path):
    return keystr(path, simple=True, separator="/") or "(the tree itself)"


def _specifications(tree):
    arrays = tree_flatten_with_path(tree)[0]
    return {_name(path): f"{np.dtype(x.dtype)}{list(x.shape)}" for path, x in arrays}


def _compare(path, stored, like):
    have, want = _specifications(stored), _specifications(like)
    differing = [f"{name} is {have.get(name, 'nothing')}, wanted {want.get(name, 'nothing')}"
                 for name in sorted(have | want) if have.get(name) != want.get(name)]
    if differing:
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise CheckpointError(f"{path} differs: {'; '.join(differing[:3])}{more}")
