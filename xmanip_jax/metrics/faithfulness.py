"""Whether a map says what the network looks at: flip its leading cells and see the score fall."""

import jax
import jax.numpy as jnp

from ..types import Array, ArrayLike, Model

__all__ = ["aopc", "pixel_flipping"]


def pixel_flipping(f: Model, x: Array, target: ArrayLike, map: ArrayLike, *, key: Array, grid: int | None = None,
                   noise: float = 0.3, steps: int | None = None) -> Array:
    """Float[steps + 1]: the target's logit after 0, 1, ... cells of x, in the order of the map, became noise.

    Samek et al. 2017, as Heo et al. 2019 do: the map is averaged over a grid of cells, cells are replaced by
    N(0, noise^2) in the unit of x, the most relevant first, ties in the order of the grid.

    Args:
      f, x: the model and its input Float[h, w, c];  target: a class;  map: Float[h', w'] or Float[h', w', c], whose
        channels are summed; a random one gives the baseline.
      grid: cells on a side; default the map's own, which must not exceed that of x.
      steps: default all cells. FLOPs: steps + 1 forward passes.

    Raises ValueError for a grid or steps out of range.

    >>> f = lambda x: x.sum(-1).reshape(-1)[:1]  # sees the first pixel only
    >>> map = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    >>> pixel_flipping(f, jnp.ones((2, 2, 1)), 0, map, key=jax.random.key(0), noise=0.0)
    Array([1., 0., 0., 0., 0.], dtype=float32)
    """
    map = jnp.asarray(map)
    map = map.sum(-1) if map.ndim == 3 else map
    grid = max(map.shape) if grid is None else grid
    if not 1 <= grid <= min(*map.shape, *x.shape[:2]):
        raise ValueError(f"a grid on maps {map.shape} of inputs {x.shape} has 1 to "
                         f"{min(*map.shape, *x.shape[:2])} cells on a side, got {grid}")
    steps = grid**2 if steps is None else steps
    if not 1 <= steps <= grid**2:
        raise ValueError(f"steps are 1 to {grid**2}, got {steps}")
    cells = _cells(map.shape, grid)
    sums = jnp.zeros(grid**2, map.dtype).at[cells].add(map)
    mean = sums / jnp.zeros(grid**2).at[cells].add(1.0)
    rank = jnp.zeros(grid**2, jnp.int32).at[jnp.argsort(-mean)].set(jnp.arange(grid**2, dtype=jnp.int32))
    when = rank[_cells(x.shape[:2], grid)][..., None]
    other = noise * jax.random.normal(key, x.shape, x.dtype)
    return jax.vmap(lambda k: f(jnp.where(when < k, other, x))[target])(jnp.arange(steps + 1))


def aopc(scores: ArrayLike) -> Array:
    """The area over the perturbation curve: the mean over k = 0 .. K of score_0 - score_k (Samek et al. 2017).

    >>> aopc([1.0, 0.0, 0.0, 0.0])
    Array(0.75, dtype=float32)
    """
    scores = jnp.asarray(scores)
    return jnp.mean(scores[0] - scores)


def _cells(shape, grid):
    """Int[h, w]: the cell that each position belongs to."""
    rows, columns = (jnp.arange(n) * grid // n for n in shape)
    return rows[:, None] * grid + columns
