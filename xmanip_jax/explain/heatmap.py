"""From an attribution map to the picture that people look at."""

import jax.numpy as jnp

from ..types import Array

__all__ = ["heatmap", "saliency"]


def saliency(map: Array) -> Array:
    """Float[h, w, c] or Float[h, w] -> Float[h, w]: the sum of |.| over channels, in the map's unit."""
    return jnp.abs(map).sum(-1) if map.ndim == 3 else jnp.abs(map)


def heatmap(map: Array) -> Array:
    """Float[h, w, c] or Float[h, w] -> Float[h, w]: the sum of |.| over channels, divided by its spatial sum.

    Dombrowski et al. 2019, section 2: non-negative, sums to 1. A map that is zero everywhere stays zero.

    >>> import jax.numpy as jnp
    >>> heatmap(jnp.array([[[1.0, -1.0], [2.0, 0.0]]]))
    Array([[0.5, 0.5]], dtype=float32)
    """
    if map.ndim not in (2, 3):
        raise ValueError(f"a map is Float[h, w, c] or Float[h, w], got shape {map.shape}")
    mass = saliency(map)
    total = mass.sum()
    return mass / jnp.where(total > 0, total, 1)
