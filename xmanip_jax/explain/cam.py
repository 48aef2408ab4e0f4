"""Class activation maps, at any layer that the model names (see `rewrite.layers`).

A layer's value is Float[h', w', c'] (leading axes of length 1 are dropped); maps are Float[h', w']. Only what lies
above the layer is differentiated: with r the share of the forward pass above it, a map costs 1 + r forward passes.
"""

import jax
import jax.numpy as jnp

from .. import rewrite
from ..types import Explanation
from .base import explanation, select

__all__ = ["cam", "grad_cam", "grad_cam_pp", "layer_gradient"]


def layer_gradient(layer: str) -> Explanation:
    """d f_t / d a for the layer's value a, in its shape. Raises LayerError for an unknown layer.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x) * jnp.array([2.0, 3.0])
    >>> explain.layer_gradient("relu#0")(f, jnp.ones(2), 1)
    Array([0., 3.], dtype=float32)
    """
    return explanation(_at(layer, lambda a, g: g))


def cam(layer: str) -> Explanation:
    """CAM(i) = sum_k W_kc a_k(i) (Zhou et al. 2016) for a layer a that only an average and a dense layer follow.

    As in Boopathy et al. 2020, without 1/M: the M cells of a map sum to M times the logit (less its bias). No second
    derivative is needed to attack it. Raises ValueError when the layer's gradient depends on its value, that is when a
    non-linear operation follows.
    """
    def core(f, x, target, *, key=None):
        curved = sorted({op.name for op in rewrite.flow(lambda delta: rewrite.tap(f, layer)(x, delta)[0],
                                                        rewrite.zero_at(f, x, layer))
                         if op.kind in ("activation", "max_pool", "max", "other")})
        if curved:
            raise ValueError(f"cam needs a linear model above the layer {layer!r}, but {', '.join(curved)} follows: "
                             "choose a later layer, or grad_cam")
        return _at(layer, lambda a, g: a.shape[0] * a.shape[1] * jnp.sum(a * g, -1))(f, x, target, key=key)

    return explanation(core)


def grad_cam(layer: str, *, relu: bool = True) -> Explanation:
    """relu(sum_k mean_i(d f_t / d a_k(i)) a_k) (Selvaraju et al. 2017); relu=False keeps the negative evidence."""
    def map(a, g):
        weighted = jnp.sum(a * g.mean((0, 1)), -1)
        return jnp.maximum(weighted, 0) if relu else weighted

    return explanation(_at(layer, map))


def grad_cam_pp(layer: str) -> Explanation:
    """Grad-CAM++ (Chattopadhay et al. 2018): channel weights sum_i alpha_k(i) relu(g_k(i)), with
    alpha = g^2 / (2 g^2 + sum_j a_k(j) g^3), the score's exponential being what is differentiated (their eq. 19).
    """
    def map(a, g):
        denominator = 2 * g**2 + a.sum((0, 1)) * g**3
        safe = jnp.where(denominator == 0, 1, denominator)
        alpha = jnp.where(denominator == 0, 0, g**2 / safe)
        return jnp.maximum(jnp.sum(a * jnp.sum(alpha * jnp.maximum(g, 0), (0, 1)), -1), 0)

    return explanation(_at(layer, map))


def _at(layer, map):
    def core(f, x, target, *, key=None):
        tapped = rewrite.tap(f, layer)

        def score(delta):
            logits, value = tapped(x, delta)
            return select(logits, target), (logits, value)

        g, (logits, a) = jax.grad(score, has_aux=True)(rewrite.zero_at(f, x, layer))
        if a.ndim > 3:
            a, g = (v.reshape(v.shape[-3:]) for v in (a, g))
        return map(a, g), logits

    return core
