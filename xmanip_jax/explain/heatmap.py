"""From an attribution map to the picture that people look at.

Extremes are taken by position: the derivative of max compares a value with its recomputed self, and where compilers
round the two differently it is 0 / 0.
"""

import jax.numpy as jnp

from ..types import Array

__all__ = ["heatmap", "min_max", "over_max", "saliency"]


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
    _check(map)
    mass = saliency(map)
    total = mass.sum()
    return mass / jnp.where(total > 0, total, 1)


def min_max(map: Array, *, sign: str = "positive") -> Array:
    """Float[h, w, c] or Float[h, w] -> Float[h, w] from 0 to 1: less its minimum, over its width.

    sign: "positive", relu of the sum over channels (Heo et al. 2019, LRP at a layer); "absolute", the sum of |.| (their
    SimpleGrad at a layer); "any", the sum. A constant map becomes zero. Raises ValueError for another sign or shape.

    >>> import jax.numpy as jnp
    >>> min_max(jnp.array([[1.0, -3.0, 2.0]])), min_max(jnp.array([[1.0, -3.0, 2.0]]), sign="absolute")
    (Array([[0.5, 0. , 1. ]], dtype=float32), Array([[0. , 1. , 0.5]], dtype=float32))
    """
    _check(map)
    of = {"positive": lambda map: jnp.maximum(_summed(map), 0), "absolute": saliency, "any": _summed}
    if sign not in of:
        raise ValueError(f"sign is one of {', '.join(of)}, got {sign!r}")
    values = of[sign](map)
    low, high = values.ravel()[values.argmin()], values.ravel()[values.argmax()]
    return (values - low) / jnp.where(high > low, high - low, 1)


def over_max(map: Array) -> Array:
    """Float[h, w, c] or Float[h, w] -> Float[h, w] in [-1, 1]: the sum over channels, over its largest magnitude.

    Heo et al. 2019 scale Grad-CAM so, which is not negative. A map that is zero everywhere stays zero.

    >>> import jax.numpy as jnp
    >>> over_max(jnp.array([[1.0, -4.0]]))
    Array([[ 0.25, -1.  ]], dtype=float32)
    """
    _check(map)
    values = _summed(map)
    top = jnp.abs(values.ravel()[jnp.abs(values).argmax()])
    return values / jnp.where(top > 0, top, 1)


def _summed(map):
    return map.sum(-1) if map.ndim == 3 else map


def _check(map):
    if map.ndim not in (2, 3):
        raise ValueError(f"a map is Float[h, w, c] or Float[h, w], got shape {map.shape}")
