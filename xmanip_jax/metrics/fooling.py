"""How far a fooled map went, from heat maps Float[h, w] of one image: what Heo et al. 2019 count as success.

Heat maps of other inputs, one value for each place, are taken as well. The test losses are those of their evaluation;
thresholds and map normalisation are the caller's. A map that vanished fools nobody: every measure is nan for it, and
`success_rate` counts nan as failure.
"""

import jax.numpy as jnp
import numpy as np

from ..types import AnyArray, Array, ArrayLike, Channels, Float, Int, Nested, Num
from .places import channel_axis
from .similarity import _largest, mass_center, spearman

__all__ = ["frame", "frame_distance", "mass_center_shift", "success_rate", "swap_score", "top_k_share"]


def frame(shape: tuple[int, ...], width: int | None = None) -> Float[Array, "*places"]:
    """Float[h, w]: 1 on a border of `width` pixels, 0 inside; default a seventh of the shortest side, at least 1.

    Heo et al. 2019 take 2 at 14x14 and 1 at 7x7. Raises ValueError for a width that leaves no inside.

    >>> frame((3, 4))
    Array([[1., 1., 1., 1.],
           [1., 0., 0., 1.],
           [1., 1., 1., 1.]], dtype=float32)
    """
    width = max(min(shape) // 7, 1) if width is None else width
    if not 1 <= width < min(shape) / 2:
        raise ValueError(f"the frame of a map {tuple(shape)} is 1 to {(min(shape) - 1) // 2} wide, got {width}")
    return jnp.pad(jnp.zeros([n - 2 * width for n in shape]), width, constant_values=1.0)


def frame_distance(map: Num[ArrayLike, "*places"] | Nested, *, width: int | None = None,
                   inside: float = 0.0) -> Float[Array, ""]:
    """The mean of (m - map)^2, m being 1 on the `frame` and `inside` in it (Heo et al. 2019, Location).

    >>> float(frame_distance(frame((8, 8)))), float(frame_distance(1 - frame((8, 8))))
    (0.0, 1.0)
    """
    map = jnp.asarray(map)
    mask = frame(map.shape, width).astype(map.dtype)
    return _defined(map, jnp.mean((mask + inside * (1 - mask) - map) ** 2))


def top_k_share(map: Num[ArrayLike, "*places"] | Nested, original: Num[ArrayLike, "*places"] | Nested,
                k: int | None = None) -> Float[Array, ""]:
    """sum |map| / sum |original| over the k leading pixels of the original; k: default a tenth of all, at least 1.

    >>> top_k_share([[0.5, 1.0]], [[1.0, 0.0]])
    Array(0.5, dtype=float32)
    """
    map, original = jnp.asarray(map), jnp.asarray(original)
    at = leading(original, k)
    return _defined(map, jnp.abs(map).ravel()[at].sum() / jnp.abs(original).ravel()[at].sum())


def mass_center_shift(map: Num[ArrayLike, "*shape"] | Nested, original: Num[ArrayLike, "*shape"] | Nested, *,
                      channels: Channels = "auto") -> Float[Array, ""]:
    """The root mean square, over the axes of places, of the centre's shift as a share of the map's side, less 1.

    An axis of length 1, along which nothing can shift, counts as 0. channels: see explain.heatmap.

    >>> mass_center_shift([[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]])
    Array(1., dtype=float32)
    """
    shift = mass_center(map, channels=channels) - mass_center(original, channels=channels)
    shape = jnp.asarray(map).shape
    axis = channel_axis(len(shape), channels)
    sides = [max(n - 1, 1) for k, n in enumerate(shape) if k != axis]
    return jnp.sqrt(jnp.mean((shift / jnp.asarray(sides, shift.dtype)) ** 2))


def swap_score(maps: Num[ArrayLike, " 2 *places"] | Nested, originals: Num[ArrayLike, " 2 *places"] | Nested,
               ) -> Float[Array, ""]:
    """Float[2, h, w] each, of two classes: rank correlation with the other class's original map less with the own one.

    Spearman's; the mean over the two classes, in [-2, 2]. Heo et al. 2019 call a swap successful from 0.5.

    >>> a = [[[0.0, 1.0, 2.0]], [[2.0, 1.0, 0.0]]]
    >>> swap_score(a[::-1], a), swap_score(a, a)
    (Array(2., dtype=float32), Array(-2., dtype=float32))
    """
    (m1, m2), (o1, o2) = jnp.asarray(maps), jnp.asarray(originals)
    return (spearman(m1, o2) - spearman(m1, o1) + spearman(m2, o1) - spearman(m2, o2)) / 2


def success_rate(values: Num[ArrayLike, " n"] | Nested, low: float = -np.inf, high: float = np.inf) -> float:
    """The share of values Float[n] in [low, high]; nan is outside. Host code.

    >>> success_rate([0.1, 0.3, float("nan"), 0.2], high=0.2)
    0.5
    """
    values = np.asarray(values, np.float64)
    return float(np.mean((values >= low) & (values <= high)))


def leading(map: Num[AnyArray, "*places"], k: int | None = None) -> Int[Array, " k"]:
    """Int[k]: the flat positions of the k largest values; default a tenth of all, at least 1."""
    k = max(map.size // 10, 1) if k is None else k
    if not 1 <= k <= map.size:
        raise ValueError(f"k is 1 to {map.size}, got {k}")
    return _largest(map, k)


def _defined(map, value):
    return jnp.where((map == 0).all(), jnp.nan, value)
