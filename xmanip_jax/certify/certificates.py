"""What certified bounds of a gradient say about its heat map: no attack within the box does more.

Every function takes bounds of a map, for example those of `gradient_bounds` over a ball, and the map itself at a point
of the box where needed.
"""

import jax
import jax.numpy as jnp

from ..arguments import check_count
from ..numerics import epsilon
from ..types import AnyArray, Array, Bool, Float, Int
from .intervals import Box, sizes

__all__ = ["certified_signs", "certified_top_k", "heatmap_bounds", "heatmap_change_bound", "map_change_bound",
           "saliency_bounds"]


def saliency_bounds(box: Box) -> Box:
    """Bounds of the sum of |.| over channels: Box of Float[h, w, c] or Float[h, w] -> Box of Float[h, w].

    >>> bounds = saliency_bounds(Box(jnp.array([[[-1.0, 2.0]]]), jnp.array([[[3.0, 4.0]]])))
    >>> round(float(bounds.lower[0, 0]), 3), round(float(bounds.upper[0, 0]), 3)
    (2.0, 7.0)
    """
    if box.lower.ndim not in (2, 3):
        raise ValueError(f"bounds of a map are of Float[h, w, c] or Float[h, w], got shape {box.lower.shape}")
    least, largest = sizes(box)
    if least.ndim == 2:
        return Box(least, largest)
    slack = box.lower.shape[-1] * epsilon(box.lower)
    return Box(least.sum(-1) * (1 - slack), largest.sum(-1) * (1 + slack))


def heatmap_bounds(box: Box) -> Box:
    """Bounds of `explain.heatmap` of a map in a box: Float[h, w, c] or Float[h, w] -> Box of Float[h, w].

    A pixel's share is least with the pixel at its lower bound and all others at their upper ones. A map that may be
    zero everywhere has the bounds 0 and 1.

    >>> bounds = heatmap_bounds(Box(jnp.array([[1.0, 2.0]]), jnp.array([[2.0, 3.0]])))
    >>> round(float(bounds.lower[0, 0]), 3), round(float(bounds.upper[0, 0]), 3)
    (0.25, 0.5)
    """
    least, largest = saliency_bounds(box)
    slack = 2 * least.size * epsilon(box.lower)
    low = _share(least, largest.sum() - largest)
    high = jnp.where(largest > 0, _share(largest, least.sum() - least), 0)
    return Box(low * (1 - slack), jnp.where(least.sum() > 0, jnp.minimum(high * (1 + slack), 1), 1))


def _share(part, others):
    others = jnp.maximum(others, 0)
    return part / jnp.where(part + others > 0, part + others, 1)


def map_change_bound(map: Float[AnyArray, "*map"], box: Box) -> Float[Array, ""]:
    """A number that ||map' - map||_1 does not exceed for any map' in the box. map: in the box, of its shape.

    Half of it, added up over the true and the target class, bounds the 2-class interpretation discrepancy of Boopathy
    et al. 2020.

    >>> round(float(map_change_bound(jnp.array([[1.0]]), Box(jnp.array([[0.0]]), jnp.array([[3.0]])))), 3)
    2.0
    """
    if map.shape != box.lower.shape:
        raise ValueError(f"a map and its bounds have one shape, got {map.shape} and {box.lower.shape}")
    return jnp.maximum(box.upper - map, map - box.lower).sum() * (1 + 2 * map.size * epsilon(box.lower))


def heatmap_change_bound(map: Float[AnyArray, "*map"], box: Box) -> Float[Array, ""]:
    """A number that ||h' - h||_1 does not exceed, h' and h the heat maps of any map in the box and of `map`; at most 2.

    The smaller of two: twice the map's own relative change, 2 ||map' - map||_1 / ||map||_1, and the distance within
    `heatmap_bounds`.

    >>> map = jnp.array([[1.0, 1.0]])
    >>> round(float(heatmap_change_bound(map, Box(0.9 * map, 1.1 * map))), 3)
    0.1
    """
    least, largest = saliency_bounds(Box(map, map))
    mass = least.sum() * (1 - least.size * epsilon(box.lower))
    relative = jnp.where(mass > 0, 2 * map_change_bound(map, box) / jnp.where(mass > 0, mass, 1), 2)
    share = largest / jnp.where(mass > 0, mass, 1)
    return jnp.minimum(jnp.minimum(relative, map_change_bound(share, heatmap_bounds(box))), 2)


def certified_signs(box: Box) -> Bool[Array, "*map"]:
    """Bool, of the map's shape: the sign is the same all over the box, and not zero.

    >>> certified_signs(Box(jnp.array([-1.0, 1.0]), jnp.array([1.0, 2.0])))
    Array([False,  True], dtype=bool)
    """
    return (box.lower > 0) | (box.upper < 0)


def certified_top_k(map: Float[AnyArray, "*map"], box: Box, k: int) -> Int[Array, ""]:
    """Int[]: at least so many of the k most salient pixels of `map` stay among the k most salient, all over the box.

    A pixel stays if fewer than k others can reach its least saliency. map: Float[h, w, c] or Float[h, w], in the box.

    Raises ValueError for k out of range and for shapes that differ.

    >>> row = lambda *v: jnp.array([v])
    >>> certified_top_k(row(3.0, 2.0, 1.0), Box(row(2.5, 1.4, 0.5), row(3.5, 2.6, 1.5)), 2)
    Array(1, dtype=int32)
    """
    check_count(k=k)
    if map.shape != box.lower.shape:
        raise ValueError(f"a map and its bounds have one shape, got {map.shape} and {box.lower.shape}")
    least, largest = (v.ravel() for v in saliency_bounds(box))
    if k > least.size:
        raise ValueError(f"k is at most the number of pixels {least.size}, got {k}")
    chosen = jax.lax.top_k(saliency_bounds(Box(map, map)).upper.ravel(), k)[1]
    rivals = (jnp.sort(largest)[None] >= least[chosen, None]).sum(-1) - 1  # itself is one of those that reach it
    return jnp.sum(rivals < k)
