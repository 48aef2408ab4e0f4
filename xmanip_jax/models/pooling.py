"""The pooling that networks are built of; see `xmanip_jax.pooling`."""

from ..pooling import avg_pool, global_avg_pool, max_pool, pooled_size

__all__ = ["avg_pool", "global_avg_pool", "max_pool", "pooled_size"]
