"""What sampling says of an explanation's stability: the empirical counterparts of the certified bounds."""

import jax
import jax.numpy as jnp

from ..arguments import check_count, check_positive, keys_of
from ..explain.heatmap import saliency
from ..numerics import over_chunks
from ..types import AnyArray, Array, ArrayLike, Explanation, Float, Model, RandomKey, Target
from .norms import Estimate

__all__ = ["lipschitz_estimate", "thickness"]


def thickness(e: Explanation, f: Model, x: Float[AnyArray, "*shape"], target: Target, k: int, *,
              key: RandomKey, radius: ArrayLike, samples: int = 32, points: int = 8,
              chunk: int | None = None) -> Estimate:
    """The top-k thickness of an explanation (Chen et al. 2024, R2ET): how much of the way the ranking survives.

    The share of (sample, t, i, j) with saliency i >= saliency j at (1 - t) x + t x', for i among the k most salient
    pixels of x and j not, x' uniform in the ball of `radius` in each coordinate, t in `points` midpoints of [0, 1].
    1 where the top k is never overtaken. Saliency is the sum of |.| over channels. The standard error is that of the
    samples.

    Args:
      e: any explanation;  f, x, target: as it takes them;  k: 1 to h w - 1;  key: of the samples, and of e.
      radius: positive, in the unit of x;  samples, points: explanations are samples x points;  chunk: samples at once.

    Raises ValueError for counts and radii out of range.

    >>> from xmanip_jax import explain
    >>> f = lambda x: jnp.array([(x ** 2).sum()])
    >>> x = jnp.array([[[1.0], [0.1]]])
    >>> thickness(explain.gradient(), f, x, 0, 1, key=jax.random.key(0), radius=0.3)
    Estimate(value=Array(1., dtype=float32), standard_error=Array(0., dtype=float32))
    """
    check_count(k=k, samples=samples, points=points)
    check_positive(radius=radius)
    own, noise = keys_of(key, 2)
    mass = lambda z: saliency(e(f, z, target, key=own)).ravel()
    order = jnp.argsort(-mass(x))
    if k >= order.size:
        raise ValueError(f"k is below the number of pixels {order.size}, got {k}")
    ways = (jnp.arange(points, dtype=x.dtype) + 0.5) / points

    def share(key):
        move = jax.random.uniform(key, x.shape, x.dtype, -radius, radius)
        ranked = jax.vmap(lambda t: mass(x + t * move))(ways)[:, order]
        rest = jnp.sort(ranked[:, k:], axis=1)
        below = jax.vmap(lambda low, top: jnp.searchsorted(low, top, side="right"))(rest, ranked[:, :k])
        return jnp.mean(below / rest.shape[1], dtype=x.dtype)

    shares = over_chunks(jax.vmap(share), jax.random.split(noise, samples), chunk)
    return Estimate(shares.mean(), shares.std() / jnp.sqrt(jnp.maximum(samples - 1, 1)))


def lipschitz_estimate(e: Explanation, f: Model, x: Float[AnyArray, "*shape"], target: Target, *,
                       key: RandomKey, radius: ArrayLike, samples: int = 64,
                       chunk: int | None = None) -> Float[Array, ""]:
    """max ||e(x') - e(x)|| / ||x' - x|| over random x' within `radius` in each coordinate.

    Alvarez-Melis & Jaakkola 2018. A lower bound of the local Lipschitz constant; `lipschitz` has its limit for small
    radii. Unit map / x. Arguments and errors as in `thickness`.

    >>> from xmanip_jax import explain
    >>> f = lambda x: jnp.array([(x ** 2).sum()])
    >>> lipschitz_estimate(explain.gradient(), f, jnp.ones((2, 2, 1)), 0, key=jax.random.key(0), radius=0.5).round(3)
    Array(2., dtype=float32)
    """
    check_count(samples=samples)
    check_positive(radius=radius)
    own, noise = keys_of(key, 2)
    explain = lambda z: e(f, z, target, key=own)
    here = explain(x)

    def ratio(key):
        move = jax.random.uniform(key, x.shape, x.dtype, -radius, radius)
        return jnp.linalg.norm(jnp.ravel(explain(x + move) - here)) / jnp.linalg.norm(jnp.ravel(move))

    return over_chunks(jax.vmap(ratio), jax.random.split(noise, samples), chunk).max()
