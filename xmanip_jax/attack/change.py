"""The largest change of an explanation within a ball: what every search for it shares, and its result."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import metrics
from ..types import Array, ArrayLike, Explanation, Model
from . import checks
from .objective import View, look, same_prediction

__all__ = ["Changed", "Distance", "correlation_lost", "draw", "margin", "score", "searching", "transfer"]

# (current heat map, clean heat map) -> Float[], not negative, 0 at the clean one
Distance = Callable[[Array, Array], Array]


class Changed(NamedTuple):
    """The largest change that a search found, batched; every value belongs to the ORIGINAL model unless said.

    Only images whose prediction is that of the clean one count; the clean image, with change 0, is the first of them.
    """

    pixels: Array  # Float[b, h, w, c] in [0, 1], in the ball
    heatmap: Array  # Float[b, h', w']
    logits: Array  # Float[b, classes]
    clean: View  # batched
    change: Array  # Float[b], the distance of heatmap from clean.heatmap
    by_restart: Array  # Float[restarts, b], the largest change of each
    under_surrogate: Array  # Float[b], the largest change of the surrogate's map, its own prediction staying
    still: Array  # Float[b], the share of steps whose gradient was zero or undefined; nan without gradients
    by_noise: Array  # Float[b], the change by noise of a hundredth of the ball (and of other draws of the explanation)
    evaluations: int  # of the gradient, or of the explanation in searches without, for each image


def correlation_lost(now: Array, clean: Array) -> Array:
    """1 - Pearson correlation of two heat maps, in [0, 2]; nan where one is constant: the default distance."""
    return 1 - metrics.pearson(now, clean)


def margin(logits: Array, label: Array) -> Array:
    """The logit of the label above the largest of the others."""
    return logits[label] - jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits).max()


def score(now: View, clean: View, distance: Distance) -> Array:
    """What a search raises: the change while the prediction stays, else below -1, lower with the margin's deficit.

    An undefined change counts as none.
    """
    change = distance(now.heatmap, clean.heatmap)
    lost = margin(now.logits, clean.logits.argmax()) - 1
    return jnp.where(same_prediction(now, clean, None), jnp.where(jnp.isnan(change), 0, change), lost)


def draw(key: Array, purpose: int, i: Array) -> Array:
    """A key of its own for every purpose and every i; `key` itself is that of the verdicts."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), i)


def searching(restart: Callable, explanation: Explanation, distance: Distance, preprocess, epsilon: float,
              restarts: int, evaluations: int) -> Callable[..., Changed]:
    """A search from what one of its restarts finds.

    restart(model, clean: View, labels, keys, r) -> (best: View, its score, under_surrogate, still), batched.
    """

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0, 0))
    def begin(model, pixels, label, key):
        clean = look(explanation, model, preprocess, pixels, label, key)
        place, other = jax.random.split(draw(key, 2, 0))
        noise = jax.random.uniform(place, pixels.shape, pixels.dtype, -epsilon / 100, epsilon / 100)
        near = look(explanation, model, preprocess, jnp.clip(pixels + noise, 0, 1), label, other)
        return clean, distance(near.heatmap, clean.heatmap)

    @jax.jit
    @jax.vmap
    def better(best, change, found, value):
        keep = lambda new, old: jnp.where(value > change, new, old)
        return jax.tree.map(keep, found, best), jnp.maximum(change, value)

    def search(model: Model, pixels: ArrayLike, *, labels: ArrayLike | None = None, key: Array) -> Changed:
        pixels = checks.checked_pixels(pixels)
        model = model if isinstance(model, jax.tree_util.Partial) else jax.tree_util.Partial(model)
        classes, _ = checks.shapes(model, explanation, preprocess, pixels)
        labels = checks.predictions(model, preprocess, pixels) if labels is None else checks.checked_labels(
            labels, len(pixels), classes)
        keys = jax.random.split(key, len(pixels))
        clean, by_noise = begin(model, pixels, labels, keys)
        best, change, rows = clean, jnp.zeros_like(by_noise), []
        for r in range(restarts):
            found, value, *row = restart(model, clean, labels, keys, r)
            best, change = better(best, change, found, value)
            rows.append((jnp.maximum(value, 0), *row))
        by_restart, under_surrogate, still = map(jnp.stack, zip(*rows, strict=True))
        return Changed(*best, clean, change, by_restart, under_surrogate.max(0), still.mean(0), by_noise,
                       restarts * evaluations)

    return search


def transfer(explanation: Explanation, *, distance: Distance = correlation_lost,
             preprocess: Callable[[Array], Array] = lambda pixels: pixels) -> Callable[..., Changed]:
    """Judge on one network what was found on another: `judge(model, found: Changed, *, labels=None, key) -> Changed`.

    Arguments as in `largest_change`. The images of `found` where `model` changes its prediction count as clean.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain, smooth
    >>> other = lambda x: jnp.stack([jnp.sum(2 * x + jnp.sin(9 * x)), 0.0])
    >>> pixels, e = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1), explain.gradient()
    >>> search = attack.largest_change(e, epsilon=0.1, surrogate=smooth.none(), steps=5, restarts=1)
    >>> found = search(other, pixels, key=jax.random.key(0))
    >>> bool(attack.transfer(e)(lambda x: 2 * other(x), found, key=jax.random.key(0)).change > 0)
    True
    """

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
    def judged(model, pixels, clean, label, key):
        now = look(explanation, model, preprocess, pixels, label, key)
        return now, score(now, clean, distance)

    def judge(model, found, *, labels=None, key):
        def restart(model, clean, labels, keys, r):
            now, value = judged(model, found.pixels, clean, labels, keys)
            return now, value, jnp.maximum(value, 0), jnp.full_like(value, jnp.nan)

        epsilon = float(jnp.abs(found.pixels - found.clean.pixels).max())
        search = searching(restart, explanation, distance, preprocess, epsilon, 1, 1)
        return search(model, found.clean.pixels, labels=labels, key=key)

    return judge
