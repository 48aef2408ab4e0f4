"""From an attribution map to the picture that people look at: one value for each place, channels summed over.

`channels` is the axis of the map that holds them, None where every entry is a place, and by default "auto": the last of
three or more axes, none of one or two (`metrics.places.channel_axis`). Say -1 for a sequence [t, c], 0 for channels
first, and None for what has places only, as the class activation maps [d, h, w] of a volume. A map in half precision is
summed in float32, and its heat map is float32.

Extremes are taken by position: the derivative of max compares a value with its recomputed self, and where compilers
round the two differently it is 0 / 0.
"""

import jax.numpy as jnp

from ..metrics.places import over_channels, wide
from ..types import Array, ArrayLike, Channels, Float, Num

__all__ = ["heatmap", "min_max", "over_max", "saliency"]


def saliency(map: Num[ArrayLike, "*map"], *, channels: Channels = "auto") -> Float[Array, "*places"]:
    """Float[h, w, c], or any other map -> Float[h, w]: the sum of |.| over channels, in the map's unit."""
    return over_channels(jnp.abs(wide(map)), channels)


def heatmap(map: Num[ArrayLike, "*map"], *, channels: Channels = "auto") -> Float[Array, "*places"]:
    """Float[h, w, c], or any other map -> Float[h, w]: the sum of |.| over channels, divided by its spatial sum.

    Dombrowski et al. 2019, section 2: non-negative, sums to 1. A map that is zero everywhere stays zero.

    Raises ValueError for channels that are no axis of the map, and for a map without axes.

    >>> import jax.numpy as jnp
    >>> heatmap(jnp.array([[[1.0, -1.0], [2.0, 0.0]]]))
    Array([[0.5, 0.5]], dtype=float32)
    >>> heatmap(jnp.array([[[1.0, -1.0], [2.0, 0.0]]]), channels=0)  # [c, h, w], here c = 1
    Array([[0.25, 0.25], [0.5 , 0.  ]], dtype=float32)
    >>> heatmap(jnp.array([1.0, -3.0]))  # a row of a table: every entry is a place
    Array([0.25, 0.75], dtype=float32)
    """
    mass = saliency(map, channels=channels)
    total = mass.sum()
    return mass / jnp.where(total > 0, total, 1)


def min_max(map: Num[ArrayLike, "*map"], *, sign: str = "positive",
            channels: Channels = "auto") -> Float[Array, "*places"]:
    """Float[h, w, c], or any other map -> Float[h, w] from 0 to 1: less its minimum, over its width.

    sign: "positive", relu of the sum over channels (Heo et al. 2019, LRP at a layer); "absolute", the sum of |.| (their
    SimpleGrad at a layer); "any", the sum. A constant map becomes zero. Raises ValueError for another sign or shape.

    >>> import jax.numpy as jnp
    >>> min_max(jnp.array([[1.0, -3.0, 2.0]])), min_max(jnp.array([[1.0, -3.0, 2.0]]), sign="absolute")
    (Array([[0.5, 0. , 1. ]], dtype=float32), Array([[0. , 1. , 0.5]], dtype=float32))
    """
    summed = over_channels(wide(map), channels)
    of = {"positive": lambda: jnp.maximum(summed, 0), "absolute": lambda: saliency(map, channels=channels),
          "any": lambda: summed}
    if sign not in of:
        raise ValueError(f"sign is one of {', '.join(of)}, got {sign!r}")
    values = of[sign]()
    low, high = values.ravel()[values.argmin()], values.ravel()[values.argmax()]
    return (values - low) / jnp.where(high > low, high - low, 1)


def over_max(map: Num[ArrayLike, "*map"], *, channels: Channels = "auto") -> Float[Array, "*places"]:
    """Float[h, w, c], or any other map -> Float[h, w] in [-1, 1]: the sum over channels, over its largest magnitude.

    Heo et al. 2019 scale Grad-CAM so, which is not negative. A map that is zero everywhere stays zero.

    >>> import jax.numpy as jnp
    >>> over_max(jnp.array([[1.0, -4.0]]))
    Array([[ 0.25, -1.  ]], dtype=float32)
    """
    values = over_channels(wide(map), channels)
    top = jnp.abs(values.ravel()[jnp.abs(values).argmax()])
    return values / jnp.where(top > 0, top, 1)
