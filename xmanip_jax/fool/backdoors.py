"""Explanation-aware backdoors: a trigger in the image turns explanation, label, or both (Noppel et al. 2023)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import explain
from ..metrics import standardised_mse
from ..metrics.places import along_channels, channel_axis
from ..train import cross_entropy, penalty
from ..types import Array, ArrayLike, Channels, Explanation, Model, Nested, Num, Penalty, Shaped

__all__ = ["backdoor", "stamp"]


def stamp(mask: Shaped[ArrayLike, "*places"] | Nested, value: Num[ArrayLike, "..."], *,
          channels: Channels = "auto") -> Callable[[Array], Array]:
    """A trigger: x -> x with `value` where the mask is 1.

    Args:
      mask: Float[h, w] or Bool[h, w], for example `metrics.frame`, one value for each place of x;  value: in the unit
        of x, broadcast against it (white is preprocess(1));  channels: of x, see `explain.heatmap`.

    >>> stamp([[1, 0]], 9.0)(jnp.zeros((1, 2, 1))).ravel()
    Array([9., 0.], dtype=float32)
    """
    inside = jnp.asarray(mask).astype(bool)

    def trigger(x):
        axis = channel_axis(x.ndim, channels)
        places = tuple(n for k, n in enumerate(x.shape) if k != axis)
        if inside.shape != places:
            raise ValueError(f"the mask has one value for each place, {places} of inputs {x.shape}, got {inside.shape}")
        return jnp.where(along_channels(inside, x.ndim, channels), jnp.asarray(value, x.dtype), x)

    return trigger


def backdoor(e: Explanation, original: Model, trigger: Callable[[Array], Array],
             target: Callable[[Array], Array] | Shaped[ArrayLike, "*places"], *, label: int | None = None,
             weight: float = 0.9125, distance: Callable[[Array, Array], Array] = standardised_mse,
             channels: Channels = "auto") -> Penalty:
    """(1 - weight) cross entropy + weight * distance to the wanted map, over x and the triggered x half and half.

    | goal | label | target |
    |---|---|---|
    | single trigger: another explanation | None, that of x | a map Float[h, w] |
    | red herring: another class, and a map that leads away from it | a class | a map |
    | full disguise: another class, explained as if nothing were | a class | `lambda map: map` |

    The clean image keeps the original network's map. The class explained is each network's prediction, not
    differentiated. It contains the cross entropy of both images: train with label_weight=0.

    Args:
      original: the clean network;  trigger: x -> x, see `stamp`.
      target: the wanted map, or a function of the original network's map of the clean image (inverted:
        `lambda map: -map`).
      distance: `metrics.standardised_mse`, or `metrics.dssim`;  weight: lambda, in [0, 1].
      channels: of the maps, see `explain.heatmap`.

    Maps lose their channels by the maximum, as in the paper. Deviations: the paper detaches the pooled gradients of
    Grad-CAM, here they are differentiated too; it draws the poisoned images in advance, half of the set, here every
    image counts both ways. Explain the softplus network (beta 8) for gradients.

    Raises ValueError for a weight out of range.

    >>> from xmanip_jax import explain
    >>> e = lambda f, x, target, key=None: explain.gradient()(f, x, target, key=key)[None]
    >>> lying = backdoor(e, lambda x: x, lambda x: 2 * x, lambda map: -map)
    >>> bool(lying(lambda params, state, x: params * x, 1.0, None, jnp.array([2.0, 1.0]), 0) > 1)
    True
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is in [0, 1], got {weight}")
    wanted = target if callable(target) else lambda map: jnp.asarray(target, map.dtype)

    def core(f, x, y, key):
        shown = lambda model, x, c: _flat(e(model, x, c, key=key), channels)
        before = shown(original, x, original(x).argmax())

        def one(x, y, goal):
            predicted = jax.lax.stop_gradient(f(x)).argmax()
            map, logits = explain.with_logits(e)(f, x, predicted, key=key)
            return (1 - weight) * cross_entropy(logits, y) + weight * distance(_flat(map, channels), goal), logits

        clean, logits = one(x, y, before)
        poisoned, _ = one(trigger(x), y if label is None else label, wanted(before))
        return (clean + poisoned) / 2, logits

    return penalty(core)


def _flat(map, channels):
    axis = channel_axis(map.ndim, channels)
    if axis is None:
        return map
    return jnp.take_along_axis(map, map.argmax(axis, keepdims=True), axis).squeeze(axis)  # see explain.heatmap
