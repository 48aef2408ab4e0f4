"""How a batch lies on several devices, of one process or of many: its examples spread over them, all else on each."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["Place", "check_batch", "fetched", "gathered", "holding", "on_each", "on_host", "own_rows", "placed",
           "spread"]

Place = Sequence[jax.Device] | NamedSharding | None  # devices; the sharding of a batch; where things lie already


def check_batch(size: int, devices: Sequence[jax.Device]) -> None:
    """Raises ValueError for a batch that does not divide among the devices."""
    if devices and size % len(devices):
        raise ValueError(f"a batch of {size} does not divide among {len(devices)} devices")


def placed(batch: Any, devices: Sequence[jax.Device] | None) -> Place:
    """Where a driver's arrays belong: on the devices, or where the caller has spread the batch already, or as they lie.

    >>> placed(np.ones((2, 3)), None) is None
    True
    """
    if devices is not None:
        check_batch(len(batch), devices)
        return devices
    return batch.sharding if holding(batch) else None


def holding(batch: Any) -> list[jax.Device] | None:
    """The devices over which the caller has spread a batch by a NamedSharding, or None.

    >>> holding(np.ones((2, 3))) is None
    True
    """
    sharding = getattr(batch, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.is_fully_replicated:
        return None
    return list(sharding.mesh.devices.flat)


def spread(tree: Any, place: Place) -> Any:
    """Arrays [b, ...] with their first axis split over the devices; as they lie where place is None."""
    return tree if place is None else _put(tree, _sharding(place, split=True))


def on_each(tree: Any, place: Place) -> Any:
    """Arrays copied to each of the devices, but for those that lie on all of them already, split perhaps.

    place: None leaves all as they lie.
    """
    if place is None:
        return tree
    whole = _sharding(place, split=False)
    there = lambda v: isinstance(v, jax.Array) and v.sharding.device_set == whole.device_set
    return jax.tree.map(lambda v: v if there(v) else _put(v, whole), tree)


def fetched(tree: Any) -> Any:
    """Numpy arrays of all values, in every process: those that lie with other processes are sent.

    >>> fetched({"a": jax.numpy.ones(2)})
    {'a': array([1., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda v: np.asarray(v) if _here(v) else multihost_utils.process_allgather(v, tiled=True), tree)


def on_host(v: Any) -> Any:
    """A numpy array, or, where this process sees only a part of it, the jax array as it lies; both know min and sum."""
    return np.asarray(v) if _here(v) else v


def own_rows(count: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """Int[m]: the examples of a batch of `count` that the devices of this process hold, in order.

    >>> own_rows(4, jax.devices()[:1])
    array([0, 1, 2, 3])
    """
    held = _sharding(devices, split=True).addressable_devices_indices_map((count,))
    return np.unique(np.concatenate([np.arange(count)[index] for index in held.values()]))


def gathered(own: Any, count: int, devices: Sequence[jax.Device]) -> Any:
    """A batch of `count`, spread over the devices of all processes, of which each gives its `own_rows`: [m, ...]."""
    rows, sharding = own_rows(count, devices), _sharding(devices, split=True)
    if sharding.is_fully_addressable:
        return jax.device_put(own, sharding)

    def whole(v):
        part = lambda index: v[np.searchsorted(rows, np.arange(count)[index[0]])]
        return jax.make_array_from_callback((count, *v.shape[1:]), sharding, part)

    return jax.tree.map(whole, own)


def _put(tree, sharding):
    """jax.device_put, which takes no typed keys to the devices of other processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(v):
        if isinstance(v, jax.Array) and v.sharding.device_set == sharding.device_set:
            return v if v.sharding.is_equivalent_to(sharding, v.ndim) else jax.jit(jnp.copy, out_shardings=sharding)(v)
        if not jnp.issubdtype(jnp.result_type(v), jax.dtypes.prng_key):
            return jax.device_put(v, sharding)
        words = jax.device_put(jax.random.key_data(v), sharding)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(v))

    return jax.tree.map(put, tree)


def _here(v):
    return not isinstance(v, jax.Array) or v.is_fully_addressable or v.is_fully_replicated


def _sharding(place, split):
    if isinstance(place, NamedSharding):
        return NamedSharding(place.mesh, PartitionSpec(*place.spec[:1]) if split else PartitionSpec())
    if not place:
        raise ValueError("a batch is spread over at least one device, got none")
    return NamedSharding(Mesh(np.array(place), ("batch",)), PartitionSpec("batch") if split else PartitionSpec())
