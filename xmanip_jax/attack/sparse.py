"""Sparse attacks: change few pixels, as many as needed (Ajalloeian et al. 2023).

The greedy scheme is an optax transformation: each step releases one more pixel. The projected scheme is any optimiser
under `constraint.l0`. `release_pixels` gives back, after either, the pixels that were not needed.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from .. import explain
from ..devices import spread
from ..memory import Budget
from ..metrics.fooling import leading
from ..metrics.places import along_channels, over_channels
from ..objectives import View, same_prediction, viewing
from ..programs import Machine, Program, in_parts
from ..types import (
    Array,
    ArrayLike,
    Channels,
    Explanation,
    Heat,
    Integer,
    Model,
    Nested,
    RandomKey,
    Release,
)
from . import checks
from .descent import Manipulated
from .diagnosis import check_finite

__all__ = ["greedy_pixels", "release_pixels"]


class GreedyState(NamedTuple):
    """used: Bool[h, w], the pixels released so far; Bool[...] over the places of other inputs."""

    used: Array


def greedy_pixels(*, channels: Channels = "auto") -> optax.GradientTransformation:
    """Pass the gradient on at the released pixels only, one more each step: the largest channel-l1 among the rest.

    Chain it before any optimiser; with `steps = K` at most K pixels change. channels: the axis of the pixels that a
    pixel extends along; None: every entry is a pixel; see `explain.heatmap`.

    >>> import optax
    >>> from xmanip_jax import attack
    >>> optimizer = optax.chain(attack.greedy_pixels(), optax.adam(0.1))
    """

    def init(pixels):
        return GreedyState(jnp.zeros(over_channels(pixels, channels).shape, bool))

    def update(gradient, state, params=None):
        size = jnp.where(state.used, -1, over_channels(jnp.abs(gradient), channels))
        used = state.used.ravel().at[size.argmax()].set(True).reshape(state.used.shape)
        inside = along_channels(used, gradient.ndim, channels)
        return jnp.where(inside, gradient / jnp.abs(gradient).sum().clip(1e-30), 0), GreedyState(used)

    return optax.GradientTransformation(init, update)


def release_pixels(explanation: Explanation, *, k: int, tolerance: float = 1e-3,
                   preprocess: Callable[[Array], Array] = lambda pixels: pixels, channels: Channels = "auto",
                   heat: Heat = explain.heatmap,
                   devices: Sequence[jax.Device] | None = None, memory: int | str | Budget | None = None,
                   precision: str | None = None) -> Release:
    """Undo the changed pixels that a sparse attack does not need: `release(model, result, *, labels, key) -> result`.

    Each changed pixel is tried once, the smallest change (channel-l1) first. It stays released if, under the original
    model, the overlap of the current and the clean k leading pixels does not grow, the cosine distance of the heat
    maps falls by at most `tolerance`, and the prediction is kept. One explanation for each pixel tried.

    channels: as in `random_search`. Raises ValueError for bad input, NonFiniteError where the result's logits or maps
    are not finite.

    >>> from xmanip_jax import attack, explain
    >>> release = attack.release_pixels(explain.gradient(), k=10)  # release(model, found, labels=labels, key=key)
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    look = viewing(explanation, channels=channels, heat=heat)

    machine = Machine(devices, memory, precision)

    def attempt(network, now, clean, pixel, label, key):
        size = over_channels(now.pixels, channels)
        chosen = (jnp.arange(size.size) == pixel).reshape(size.shape)
        trial = jnp.where(along_channels(chosen, now.pixels.ndim, channels), clean.pixels, now.pixels)
        new = look(*network, trial, label, key)
        overlap = lambda view: jnp.isin(leading(view.heatmap, k), leading(clean.heatmap, k)).sum()
        kept = (overlap(new) <= overlap(now)) & same_prediction(new, clean, None) & (
            _cosine(new.heatmap, clean.heatmap) <= _cosine(now.heatmap, clean.heatmap) + tolerance)
        return jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, now)

    attempted = Program(attempt, None, 0, 0, 0, 0, 0)

    def release(model: Model, result: Manipulated, *, labels: Integer[ArrayLike, " b"] | Nested | None,
                key: RandomKey) -> Manipulated:
        network, _, labels, _, keys, place = checks.prepared(model, look, preprocess, result.pixels, labels, key=key,
                                                             machine=machine)
        return in_parts(partial(released, network, place), (result, labels, keys), machine)

    def released(network, place, batch, _):
        result, labels, keys = spread(batch, place)
        check_finite(View(result.pixels, result.heatmap, result.logits), "the changed image")
        moved = jax.vmap(lambda move: over_channels(jnp.abs(move), channels).ravel())(
            result.pixels - result.clean.pixels)
        order = jnp.argsort(jnp.where(moved > 0, moved, jnp.inf), axis=1)
        now = View(result.pixels, result.heatmap, result.logits)
        for i in range(int((moved > 0).sum(1).max())):
            now = attempted(network, now, result.clean, order[:, i], labels, keys)
        return result._replace(pixels=now.pixels, heatmap=now.heatmap, logits=now.logits)

    return release


def _cosine(a, b):
    return jnp.sum(a * b) / jnp.sqrt(jnp.sum(a**2) * jnp.sum(b**2)).clip(1e-30)
