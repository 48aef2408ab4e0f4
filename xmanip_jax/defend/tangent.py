"""Post hoc: only the part of a map that lies along the data (Anders et al. 2020)."""

from typing import Any

import jax
import jax.numpy as jnp

from ..explain.base import explanation, with_logits
from ..types import AnyArray, Array, ArrayLike, Explanation, Float

__all__ = ["project", "tangent_space"]


def tangent_space(x: Float[AnyArray, "*shape"], data: Float[ArrayLike, " n *shape"], *, neighbours: int = 30,
                  dimensions: int = 16, centre: str = "mean") -> Float[Array, " dimensions *shape"]:
    """An orthonormal basis Float[dimensions, *x.shape] of the data near x: principal directions of its neighbours.

    Args:
      x: Float[...];  data: Float[n, ...] of the same shape, for example the training images of x's class.
      neighbours: the nearest of the data, in the Euclidean distance;  dimensions: at most so many.
      centre: "mean" of the neighbours, or "x" itself (the paper's strict mode).

    Raises ValueError for counts out of range and an unknown centre.

    >>> line = jnp.arange(5.0)[:, None] * jnp.array([0.6, 0.8])
    >>> [round(abs(float(v)), 3) for v in tangent_space(jnp.zeros(2), line, neighbours=4, dimensions=1)[0]]
    [0.6, 0.8]
    """
    data = jnp.asarray(data)
    if data.shape[1:] != x.shape:
        raise ValueError(f"the data have the shape of x {x.shape}, got {data.shape[1:]}")
    if not 1 <= dimensions <= min(neighbours, x.size) or neighbours > len(data):
        raise ValueError(f"needs 1 <= dimensions <= neighbours <= n, got {dimensions}, {neighbours}, {len(data)}")
    if centre not in ("mean", "x"):
        raise ValueError(f"centre is one of mean, x, got {centre!r}")
    flat = data.reshape(len(data), -1)
    distance = jnp.sum((flat - x.ravel()[None]) ** 2, 1)
    near = flat[jax.lax.top_k(-distance, neighbours)[1]]
    near = near - (near.mean(0) if centre == "mean" else x.ravel())[None]
    return jnp.linalg.svd(near, full_matrices=False)[2][:dimensions].reshape(-1, *x.shape)


def project(e: Explanation, data: Float[ArrayLike, " n *shape"], **options: Any) -> Explanation:
    """`e` projected on the tangent space of the data at x; options of `tangent_space`.

    The basis is held fixed under differentiation: an attack through the projection sees the plane, not how it turns.

    >>> from xmanip_jax import explain
    >>> line = jnp.arange(5.0)[:, None] * jnp.array([1.0, 0.0])
    >>> along = project(explain.gradient(), line, neighbours=4, dimensions=1)
    >>> along(lambda x: x.sum()[None], jnp.zeros(2), 0).round(3) + 0
    Array([1., 0.], dtype=float32)
    """

    def core(f, x, target, *, key=None):
        map, logits = with_logits(e)(f, x, target, key=key)
        basis = jax.lax.stop_gradient(tangent_space(x, data, **options))
        return jnp.tensordot(jnp.tensordot(basis, map, map.ndim), basis, 1), logits

    return explanation(core)
