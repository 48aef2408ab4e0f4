"""Patterns: the direction in which each neuron's input varies with its output, estimated from data."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import rewrite
from ..types import Array, ArrayLike, Float, Model

__all__ = ["fit_patterns"]


class _Sums(NamedTuple):
    """Sums over the examples and places at which a linear layer is evaluated; + where the neuron is positive."""

    xz: Array  # x z, +, in the shape of the weights
    x: Array  # x, +, in the shape of the weights
    positive: Array  # how many are +, one for each neuron
    z: Array  # z, all, likewise
    count: Array  # type: ignore[assignment]  # how many there are


def fit_patterns(f: Model, batches: Iterable[Float[ArrayLike, "..."]]) -> dict[str, Float[Array, "..."]]:
    """The patterns of every linear layer of `f`, for `pattern_attribution`: by layer, in its weights' shape.

    Kindermans et al. 2018, eq. (12), as Dombrowski et al. 2019 estimate it:
    a = (E+[x z] - E[z] E+[x]) / (w . (E+[x z] - E[z] E+[x])), where E+ averages where the neuron is positive and E over
    everything; x is the patch that a neuron sees. A neuron that is never positive gets the pattern 0. Sums are
    accumulated batch by batch: memory does not grow with the data.

    Args:
      f: a model of one example.
      batches: arrays Float[b, h, w, c] of the network's own (normalised) inputs; one compilation for each shape.

    Raises ValueError when there is no batch, UnsupportedPrimitiveError for a layer in a loop.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> w = jnp.array([[1.0], [0.0]])
    >>> signal = jax.random.normal(jax.random.key(0), (1000, 1)) * jnp.array([1.0, 0.5])
    >>> explain.fit_patterns(lambda x: x @ w, [signal])["dense#0"].round(3).ravel()
    Array([1. , 0.5], dtype=float32)
    """
    f = f if isinstance(f, jax.tree_util.Partial) else jax.tree_util.Partial(f)
    summed = jax.jit(lambda f, xs: _sums(f, xs))  # new for each call: a module may have changed in place
    total = None
    for xs in batches:
        sums = summed(f, jnp.asarray(xs))
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    if total is None:
        raise ValueError("no data: patterns are estimated from at least one batch")
    return jax.jit(lambda f, x, total: _patterns(f, x, total))(f, jnp.asarray(xs)[0], total)


def _sums(f, xs):
    """{layer: _Sums}; the model is mapped over the batch first, so that its convolutions take whole batches."""
    return {name: _layer_sums(layer) for name, layer in rewrite.linear_layers(jax.vmap(f))(xs).items()}


def _layer_sums(layer):
    # What the weights get as their gradient when the result gets `v` is the sum of x v over the layer's places.
    weighted = lambda v: jax.linear_transpose(partial(layer.apply, layer.x), layer.w)(v)[0]
    z, positive = layer.z - layer.b, (layer.z > 0).astype(layer.z.dtype)
    places = tuple(a for a in range(z.ndim) if a not in layer.neurons[0])
    each = partial(jnp.sum, axis=places)
    return _Sums(weighted(positive * z), weighted(positive), each(positive), each(z), each(jnp.ones_like(z)))


def _patterns(f, x, total):
    return {name: _pattern(layer, total[name]) for name, layer in rewrite.linear_layers(f)(x).items()}


def _pattern(layer, s):
    neurons = layer.neurons[1]
    like_w = lambda v: v.reshape([n if a in neurons else 1 for a, n in enumerate(layer.w.shape)])
    positive = like_w(jnp.maximum(s.positive, 1))
    covariance = (s.xz - like_w(s.z / s.count) * s.x) / positive
    others = tuple(a for a in range(layer.w.ndim) if a not in neurons)
    scale = jnp.sum(layer.w * covariance, others, keepdims=True)
    return covariance / jnp.where(scale == 0, 1, scale)
