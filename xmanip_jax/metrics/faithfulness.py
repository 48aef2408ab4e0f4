"""Whether a map says what the network looks at: flip its leading cells and see the score fall."""

import jax
import jax.numpy as jnp

from ..types import AnyArray, Array, ArrayLike, Channels, Float, Integer, Model, Nested, Num, RandomKey
from .places import along_channels, channel_axis, over_channels

__all__ = ["aopc", "pixel_flipping"]


def pixel_flipping(f: Model, x: Float[AnyArray, "*shape"], target: Integer[ArrayLike, ""],
                   map: Num[ArrayLike, "*places"] | Nested, *, key: RandomKey, grid: int | None = None,
                   noise: float = 0.3, steps: int | None = None, channels: Channels = "auto",
                   ) -> Float[Array, " n"]:
    """Float[steps + 1]: the target's logit after 0, 1, ... cells of x, in the order of the map, became noise.

    Samek et al. 2017, as Heo et al. 2019 do: the map is averaged over a grid of cells, cells are replaced by
    N(0, noise^2) in the unit of x, the most relevant first, ties in the order of the grid.

    Args:
      f, x: the model and its input Float[h, w, c], or any other;  target: a class;  map: Float[h', w'], one value for
        each place, or with as many axes as x, whose channels are summed; a random one gives the baseline.
      grid: cells on a side, along every axis of places; default the map's longest side, which must not exceed the
        shortest.
      steps: default all cells. FLOPs: steps + 1 forward passes.
      channels: the axis of x that is no place, see explain.heatmap.

    Raises ValueError for a grid or steps out of range, and for a map of other axes than those of x.

    >>> f = lambda x: x.sum(-1).reshape(-1)[:1]  # sees the first pixel only
    >>> map = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    >>> pixel_flipping(f, jnp.ones((2, 2, 1)), 0, map, key=jax.random.key(0), noise=0.0)
    Array([1., 0., 0., 0., 0.], dtype=float32)
    """
    map, axis = jnp.asarray(map), channel_axis(x.ndim, channels)
    places = tuple(n for k, n in enumerate(x.shape) if k != axis)
    map = over_channels(map, channels) if map.ndim == x.ndim else map
    if map.ndim != len(places):
        raise ValueError(f"the places of an input {x.shape} are {places}, got a map {map.shape}")
    grid = max(map.shape) if grid is None else grid
    if not 1 <= grid <= min(*map.shape, *places):
        raise ValueError(f"a grid on maps {map.shape} of inputs {x.shape} has 1 to "
                         f"{min(*map.shape, *places)} cells on a side, got {grid}")
    count = grid**map.ndim
    steps = count if steps is None else steps
    if not 1 <= steps <= count:
        raise ValueError(f"steps are 1 to {count}, got {steps}")
    cells = _cells(map.shape, grid)
    sums = jnp.zeros(count, map.dtype).at[cells].add(map)
    mean = sums / jnp.zeros(count).at[cells].add(1.0)
    rank = jnp.zeros(count, jnp.int32).at[jnp.argsort(-mean)].set(jnp.arange(count, dtype=jnp.int32))
    when = along_channels(rank[_cells(places, grid)], x.ndim, channels)
    other = noise * jax.random.normal(key, x.shape, x.dtype)
    return jax.vmap(lambda k: f(jnp.where(when < k, other, x))[target])(jnp.arange(steps + 1))


def aopc(scores: Num[ArrayLike, " n"] | Nested) -> Float[Array, ""]:
    """The area over the perturbation curve: the mean over k = 0 .. K of score_0 - score_k (Samek et al. 2017).

    >>> aopc([1.0, 0.0, 0.0, 0.0])
    Array(0.75, dtype=float32)
    """
    scores = jnp.asarray(scores)
    return jnp.mean(scores[0] - scores)


def _cells(shape, grid):
    """Int[h, w]: the cell that each position belongs to, numbered along the last axis first."""
    parts = jnp.meshgrid(*(jnp.arange(n) * grid // n for n in shape), indexing="ij")
    return sum(part * grid**k for k, part in enumerate(reversed(parts)))
