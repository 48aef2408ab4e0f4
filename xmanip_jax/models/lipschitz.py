"""Layers whose curvature is held down by two trained numbers, beta and gamma (LCNN, Srinivas et al. 2022)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from .. import smooth

__all__ = ["CentredSoftplus", "LipschitzNorm", "UnitNorm"]


class CentredSoftplus(nnx.Module):
    """`smooth.centred_softplus` with a trained beta, as the parameter log_beta.

    Raises ValueError for a beta that is not positive.
    """

    def __init__(self, beta: float = 5.0) -> None:
        _check_positive("beta", beta)
        self.log_beta = nnx.Param(jnp.log(jnp.float32(beta)))

    def __call__(self, z: Array) -> Array:
        return smooth.centred_softplus(z, jnp.exp(self.log_beta[...]))


class UnitNorm(nnx.Module):
    """A linear layer divided by its operator norm on inputs of `shape`, with its own stride and padding.

    The norm is ||layer(v)||, v being what power iteration with the layer and its transpose has come to: one step for
    each training step, none in evaluation, `warm_up` at the beginning. It differentiates in the layer's kernel, and is
    a lower bound until v has converged.

    Args:
      layer: nnx.Conv, nnx.Linear or another linear one, without bias;  shape: of one input, Float[h, w, c] or [n].

    Raises ValueError for a layer with a bias.
    """

    def __init__(self, layer: nnx.Module, shape: tuple[int, ...], *, warm_up: int = 15, rngs: nnx.Rngs) -> None:
        if getattr(layer, "bias", None) is not None:
            raise ValueError("an operator norm is that of a linear layer: build it with use_bias=False")
        self.layer = layer
        self.use_running_average = True  # what nnx's train and eval set
        start = jax.random.normal(rngs.params(), shape)
        steps = jax.jit(lambda v: jax.lax.fori_loop(0, warm_up, lambda i, v: self._closer(v), v))
        self.v = nnx.BatchStat(steps(start / jnp.linalg.norm(start.ravel())))

    def _closer(self, v):
        image, pull = jax.vjp(self.layer, v)
        back = pull(image)[0]
        return back / jnp.maximum(jnp.linalg.norm(back.ravel()), jnp.finfo(back.dtype).tiny)

    def __call__(self, x: Array) -> Array:
        v = self.v[...]
        if not self.use_running_average:
            v = jax.lax.stop_gradient(self._closer(v))
            self.v[...] = v
        return self.layer(x) / jnp.linalg.norm(self.layer(v).ravel())


class LipschitzNorm(nnx.Module):
    """BatchNorm without scale and shift, times min(1, gamma s), s the smallest running standard deviation.

    Its slope is then at most gamma in evaluation; at a training step the statistics are the batch's and s is not.
    gamma is trained, as the parameter log_gamma.

    Raises ValueError for a gamma that is not positive.
    """

    def __init__(self, channels: int, *, gamma: float = 10.0, rngs: nnx.Rngs) -> None:
        _check_positive("gamma", gamma)
        self.log_gamma = nnx.Param(jnp.log(jnp.float32(gamma)))
        self.norm = nnx.BatchNorm(channels, use_running_average=True, momentum=0.9, use_scale=False, use_bias=False,
                                  rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = self.norm(x)
        deviation = jnp.sqrt(jax.lax.stop_gradient(self.norm.var[...]).min() + self.norm.epsilon)
        return x * jnp.minimum(1, jnp.exp(self.log_gamma[...]) * deviation)


def _check_positive(name, value):
    if not value > 0:
        raise ValueError(f"{name} is positive, got {value}")
