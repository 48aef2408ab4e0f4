"""Explanations of a smoother function: averaged over noise around the input, or of the softplus network."""

import jax

from .. import smooth
from ..arguments import check_positive
from ..numerics import mean_over
from ..types import Explanation
from .base import explanation, with_logits

__all__ = ["beta_smoothing", "smoothgrad", "uniform_gradient"]


def beta_smoothing(inner: Explanation, *, kappa: float | None = None, beta: float | None = None,
                   max_pool: bool = False) -> Explanation:
    """`inner` of the network with softplus_beta for its relus (Dombrowski et al. 2019, section 4): their defence.

    The curvature of the output falls with beta, and with it what an attack can do to the map. The logits stay those of
    the network itself. A network without kinks is its own smoothing.

    Args:
      inner: any explanation.
      kappa: beta_l = kappa / s_l, s_l being the standard deviation of the inputs of activation l at x, held fixed under
        differentiation: about 1 smooths much, 5 little, whatever the network;  beta: or one beta for all activations
        (the paper: 0.8 for VGG-16). One of the two.
      max_pool: smooth max-pooling as well.

    Raises ValueError unless exactly one of kappa and beta is given, and positive.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> e = explain.beta_smoothing(explain.gradient(), beta=4.0)
    >>> e(jax.nn.relu, jnp.zeros(2), 0)  # at a kink
    Array([0.5, 0. ], dtype=float32)
    """
    given = {name: value for name, value in (("kappa", kappa), ("beta", beta)) if value is not None}
    if len(given) != 1:
        raise ValueError(f"beta-smoothing takes kappa or beta, got {given or 'neither'}")
    check_positive(**given)

    [(name, sharpness)] = given.items()
    schedule = {"kappa": smooth.relative, "beta": smooth.absolute}[name]
    surrogate = schedule(sharpness, sharpness, max_pool=max_pool)  # as sharp at the end as at the start

    def core(f, x, target, *, key=None):
        soft = surrogate.rewrite(f, jax.lax.stop_gradient(surrogate.fit(f, x)), 0.0)
        return with_logits(inner)(f, x, target, key=key) if soft is f else (inner(soft, x, target, key=key), f(x))

    return explanation(core)


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
    """The mean of `inner` at x + U[-radius, radius] (UniGrad); arguments as in `smoothgrad`.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> e = explain.uniform_gradient(explain.gradient(), radius=0.1)
    >>> e(lambda x: 3 * x, jnp.ones(2), 0, key=jax.random.key(0)).round(4)
    Array([3., 0.], dtype=float32)
    """
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
