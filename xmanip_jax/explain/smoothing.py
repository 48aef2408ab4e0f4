"""Explanations averaged over noise around the input."""

import jax

from ..types import Explanation
from .base import explanation, mean_over

__all__ = ["smoothgrad", "uniform_gradient"]


def smoothgrad(inner: Explanation, *, sigma: float, samples: int = 10, chunk: int | None = None) -> Explanation:
    """The mean of `inner` at x + sigma * N(0, 1) (Smilkov et al. 2017).

    Args:
      inner: any explanation.
      sigma: standard deviation in units of the network's input; the paper takes 0.1 to 0.2 of its range.
      samples: copies. FLOPs: `samples` times the inner explanation; with_logits adds f(x).
      chunk: copies computed at once; None means all.

    The map is a function of the key, which is required: the same key gives the same map.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> e = explain.smoothgrad(explain.gradient(), sigma=0.1)
    >>> e(lambda x: 3 * x, jnp.ones(2), 0, key=jax.random.key(0)).round(4)
    Array([3., 0.], dtype=float32)
    """
    return _averaged(inner, lambda key, x: sigma * jax.random.normal(key, x.shape, x.dtype), sigma, samples, chunk)


def uniform_gradient(inner: Explanation, *, radius: float, samples: int = 10, chunk: int | None = None) -> Explanation:
    """The mean of `inner` at x + U[-radius, radius] (UniGrad); arguments as in `smoothgrad`."""
    draw = lambda key, x: jax.random.uniform(key, x.shape, x.dtype, -radius, radius)
    return _averaged(inner, draw, radius, samples, chunk)


def _averaged(inner, draw, scale, samples, chunk):
    if samples < 1 or scale <= 0:
        raise ValueError(f"noise needs a positive scale and at least one sample, got {scale} and {samples}")

    def core(f, x, target, *, key=None):
        if key is None:
            raise ValueError("this explanation averages over noise: pass key=jax.random.key(...)")

        def at(k):
            noise, inside = jax.random.split(k)
            return inner(f, x + draw(noise, x), target, key=inside)

        return mean_over(at, jax.random.split(key, samples), samples, chunk), f(x)

    return explanation(core)
