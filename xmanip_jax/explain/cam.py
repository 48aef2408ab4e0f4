"""Class activation maps, at any layer that the model names (see `rewrite.layers`).

A layer's value has one axis of channels, the last unless `channels` names another, and places: Float[h', w', c'] of an
image, [t, c'] of a token sequence or a row, [d, h', w', c'] of a volume. Its map has one value for each place, and no
channels (`heatmap(map, channels=None)`). Leading axes of length 1, a batch of one inside the model, are dropped; they
are no axis of the map. Maps of layers in half precision are summed, and returned, in float32. Only what lies above the
layer is differentiated: with r the share of the forward pass above it, a map costs 1 + r forward passes.

`channels` is an axis of the layer's value: -1, or counted from the end, -3 for images with channels first. `places` is
the number of the map's axes that are believed: by default at most those of the input, which has channels itself when
it has three axes or more. A layer with more of them is refused, because the first is a batch, of crops or heads, rather
than a place.

A layer of tokens [t, c'] of an image has the map of their grid, if they make one in the image's proportions, with or
without a class token in front (`explain.tokens`), which is left out, also of the mean over places; else say `grid=`
and `class_tokens=`, how many tokens stand in front. `cam` leaves none out, and keeps [t] where one stands there. Where
only the class token is read above the layer, as after the last attention, the gradient at all others is 0, and so is
the map: take the last layer below an attention.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import rewrite
from ..metrics.places import channel_axis, wide
from ..types import Explanation
from .base import explanation, select
from .linearity import first_nonlinear
from .tokens import on_grid, token_grid

__all__ = ["cam", "grad_cam", "grad_cam_pp", "layer_gradient"]


def layer_gradient(layer: str) -> Explanation:
    """d f_t / d a for the layer's value a, in its shape; more than three axes lose leading ones of length 1.

    Raises LayerError for an unknown layer.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x) * jnp.array([2.0, 3.0])
    >>> explain.layer_gradient("relu#0")(f, jnp.ones(2), 1)
    Array([0., 3.], dtype=float32)
    """
    def core(f, x, target, *, key=None):
        _, g, logits = _value_and_gradient(layer, f, x, target)
        while g.ndim > 3 and g.shape[0] == 1:
            g = g[0]
        return g, logits

    return explanation(core)


def cam(layer: str, *, channels: int = -1, places: int | None = None) -> Explanation:
    """CAM(i) = sum_k W_kc a_k(i) (Zhou et al. 2016) for a layer a that only an average and a dense layer follow.

    As in Boopathy et al. 2020, without 1/M: the M cells of a map sum to M times the logit (less its bias). No second
    derivative is needed to attack it. Raises ValueError, naming the first operation, when the logits are not known to
    be affine in the layer's value.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x).mean(0) @ jnp.array([[2.0], [3.0]])  # two tokens of two channels
    >>> explain.cam("relu#0")(f, jnp.array([[1.0, 0.0], [0.0, 1.0]]), 0)
    Array([2., 3.], dtype=float32)
    """
    def core(f, x, target, *, key=None):
        above = lambda delta: rewrite.tap(f, layer)(x, delta)[0]
        if operation := first_nonlinear(above, rewrite.zero_at(f, x, layer)):
            raise ValueError(f"cam needs a model that is affine above the layer {layer!r}, but {operation} follows: "
                             "choose a later layer, or grad_cam")
        a, g, logits = _value_and_gradient(layer, f, x, target)
        a, g = _gridded(*_arranged(a, g, x, layer, channels, places), x, None, None, all_tokens=True)
        return a[..., 0].size * jnp.sum(a * g, -1), logits

    return explanation(core)


def grad_cam(layer: str, *, relu: bool = True, channels: int = -1, places: int | None = None,
             grid: Sequence[int] | None = None, class_tokens: int | None = None) -> Explanation:
    """relu(sum_k mean_i(d f_t / d a_k(i)) a_k) (Selvaraju et al. 2017); relu=False keeps the negative evidence.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x).mean(0) @ jnp.array([[2.0], [3.0]])  # two tokens of two channels
    >>> explain.grad_cam("relu#0")(f, jnp.array([[1.0, 0.0], [0.0, 1.0]]), 0)
    Array([1. , 1.5], dtype=float32)
    """
    def core(f, x, target, *, key=None):
        a, g, logits = _value_and_gradient(layer, f, x, target)
        a, g = _gridded(*_arranged(a, g, x, layer, channels, places), x, grid, class_tokens)
        weighted = jnp.sum(a * g.mean(tuple(range(g.ndim - 1)), keepdims=True), -1)
        return jnp.maximum(weighted, 0) if relu else weighted, logits

    return explanation(core)


def grad_cam_pp(layer: str, *, channels: int = -1, places: int | None = None, grid: Sequence[int] | None = None,
                class_tokens: int | None = None) -> Explanation:
    """Grad-CAM++ (Chattopadhay et al. 2018): channel weights sum_i alpha_k(i) relu(g_k(i)), with
    alpha = g^2 / (2 g^2 + sum_j a_k(j) g^3), the score's exponential being what is differentiated (their eq. 19).

    >>> import jax, jax.numpy as jnp
    >>> import numpy as np
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x).mean(0) @ jnp.array([[2.0], [3.0]])  # two tokens of two channels
    >>> np.asarray(explain.grad_cam_pp("relu#0")(f, jnp.array([[1.0, 0.0], [0.0, 1.0]]), 0), float).round(3)
    array([0.667, 0.857])
    """
    def core(f, x, target, *, key=None):
        a, g, logits = _value_and_gradient(layer, f, x, target)
        a, g = _gridded(*_arranged(a, g, x, layer, channels, places), x, grid, class_tokens)
        everywhere = tuple(range(g.ndim - 1))
        denominator = 2 * g**2 + a.sum(everywhere, keepdims=True) * g**3
        safe = jnp.where(denominator == 0, 1, denominator)
        alpha = jnp.where(denominator == 0, 0, g**2 / safe)
        weights = jnp.sum(alpha * jnp.maximum(g, 0), everywhere, keepdims=True)
        return jnp.maximum(jnp.sum(a * weights, -1), 0), logits

    return explanation(core)


def _value_and_gradient(layer, f, x, target):
    """(the layer's value, d score / d it, logits)."""
    tapped = rewrite.tap(f, layer)

    def score(delta):
        logits, value = tapped(x, delta)
        return select(logits, target), (logits, value)

    g, (logits, a) = jax.grad(score, has_aux=True)(rewrite.zero_at(f, x, layer))
    return a, g, logits


def _arranged(a, g, x, layer, channels, places):
    """Both as Float[places ..., channels], without a batch of one; ValueError for a layer that is not to be read so."""
    named, shape = f"layer {layer!r} of shape {a.shape}", a.shape
    if not isinstance(channels, int):
        raise ValueError(f"channels is an axis of the {named}, got {channels!r}")
    axis = channel_axis(a.ndim, channels) if a.ndim > 1 else 0
    if a.ndim < 2 or (shape[0] == 1 and a.ndim == 2 and axis == 1):
        raise ValueError(f"{named} has channels only: a class activation map needs places, choose a layer below the "
                         "pooling, or layer_gradient")
    ones = next((k for k, n in enumerate(shape[:axis]) if n > 1), axis)
    if axis < a.ndim - 1 and ones < axis:
        raise ValueError(f"{named} has a batch before its channels, axis {axis}: take one of it inside the model")
    first = min(ones, a.ndim - 2)
    kept = [k for k in range(first, a.ndim) if k != axis]
    most = max(x.ndim - 1, 2) if places is None else places
    if len(kept) > most:
        raise ValueError(f"{named} has {len(kept)} axes beside its channels, the input {x.shape} at most {most} of "
                         f"places: its axis {kept[0]} is a batch (take one of it inside the model) or a place (say "
                         f"places={len(kept)})")
    return (wide(v).transpose(*range(first), *kept, axis).reshape(*(shape[k] for k in kept), shape[axis])
            for v in (a, g))


def _gridded(a, g, x, grid, class_tokens, all_tokens=False):
    """Both on the grid of the image, if they are of tokens and make one; all_tokens: only if none would be left out."""
    said = grid is not None or class_tokens is not None
    if a.ndim != 2 or (x.ndim < 3 and not said):
        if said:
            raise ValueError(f"grid and class_tokens are for a layer of tokens [t, c], got places {a.shape[:-1]}")
        return a, g
    try:
        places, front = token_grid(len(a), x.shape, grid, class_tokens)
    except ValueError:
        if said:
            raise
        return a, g
    if (front and all_tokens) or (not said and sum(n > 1 for n in places) < 2):
        return a, g
    return on_grid(a, places, front), on_grid(g, places, front)
