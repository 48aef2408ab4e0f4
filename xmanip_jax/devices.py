"""How a batch lies on several devices: its examples spread over them, everything else on each."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

__all__ = ["check_batch", "on_each", "spread"]


def check_batch(size: int, devices: Sequence[jax.Device]) -> None:
    """Raises ValueError for a batch that does not divide among the devices."""
    if devices and size % len(devices):
        raise ValueError(f"a batch of {size} does not divide among {len(devices)} devices")


def spread(tree: Any, devices: Sequence[jax.Device] | None) -> Any:
    """Arrays [b, ...] with their first axis split over the devices; as they lie where devices is None."""
    return tree if devices is None else jax.device_put(tree, _sharding(devices, PartitionSpec("batch")))


def on_each(tree: Any, devices: Sequence[jax.Device] | None) -> Any:
    """Arrays copied to each of the devices; as they lie where devices is None."""
    return tree if devices is None else jax.device_put(tree, _sharding(devices, PartitionSpec()))


def _sharding(devices, spec):
    if not devices:
        raise ValueError("a batch is spread over at least one device, got none")
    return NamedSharding(Mesh(np.array(devices), ("batch",)), spec)
