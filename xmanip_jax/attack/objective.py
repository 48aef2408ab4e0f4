"""What an attack minimises: weighted terms over what it sees of the clean and of the current image.

A term is `(now: View, clean: View, goal) -> Float[]`. Maps are compared with N^2 weights (N pixels) and
outputs by sums, so that one pair of weights serves every resolution and every number of classes: heat maps sum to 1 and
their mean squared error falls as 1 / N^2. Dombrowski et al. 2019 weigh mean squared errors by 1e11 and 1e6 on ImageNet
(here 1 and 25), by 1e7 and 1e2 on CIFAR-10 (here 1 and 1).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import explain
from ..metrics import kl_divergence
from ..types import Array, ArrayLike, Channels, Explanation, Model, Objective

__all__ = ["View", "center", "hide_top_k", "keep_logits", "keep_output", "keep_probabilities", "look", "match_map",
           "move_mass_center", "raise_region", "same_prediction", "top", "top_k_hidden", "weighted"]


class View(NamedTuple):
    """One image, or another input, as a model and an explanation see it."""

    pixels: Array  # Float[h, w, c] in [0, 1]
    heatmap: Array  # Float[h', w'], sums to 1: one value for each place
    logits: Array  # Float[classes]


def look(e: Explanation, f: Model, preprocess: Callable[[Array], Array], pixels: Array, label, key,
         channels: Channels = "auto") -> View:
    """One image as the model f and the explanation e see it, from one trace.

    channels: the axis of the network's input that no heat map has, see `explain.heatmap`. A map with fewer axes than
    the input, as a class activation map, has none; of one with more axes nothing is known ("auto").
    """
    x = preprocess(pixels)
    map, logits = explain.with_logits(e)(f, x, label, key=key)
    here = channels if map.ndim == x.ndim else None if map.ndim < x.ndim else "auto"
    return View(pixels, explain.heatmap(map, channels=here), logits)


def weighted(*terms: tuple[float, Objective]) -> Objective:
    """The weighted sum of terms.

    The default of the driver, as in Dombrowski et al. 2019, eq. (1), with scale-free weights:

    >>> from xmanip_jax import attack
    >>> objective = attack.weighted((1.0, attack.match_map()), (1.0, attack.keep_output()))
    """
    if not terms:
        raise ValueError("an objective needs at least one (weight, term)")
    return lambda now, clean, goal: sum(weight * term(now, clean, goal) for weight, term in terms)


def match_map() -> Objective:
    """N^2 * mean squared error between the heat map and the goal, a heat map that sums to 1."""

    def term(now, clean, goal):
        if goal is None:
            raise ValueError("match_map needs a goal: pass the target heat maps to the attack")
        return now.heatmap.size * jnp.sum((now.heatmap - goal) ** 2)

    return term


def keep_output() -> Objective:
    """The Kullback-Leibler divergence of the class probabilities from the clean ones, in nats.

    Its gradient in the logits is the difference of the probabilities. That of `keep_probabilities` vanishes once an
    attack has driven a probability to 1, and the output never comes back.
    """
    return lambda now, clean, goal: kl_divergence(clean.logits, now.logits)


def keep_probabilities() -> Objective:
    """The sum of the squared changes of the class probabilities (Dombrowski et al. 2019, eq. 1)."""
    return lambda now, clean, goal: jnp.sum((jax.nn.softmax(now.logits) - jax.nn.softmax(clean.logits)) ** 2)


def keep_logits() -> Objective:
    """The sum of the squared changes of the logits (Dombrowski et al. 2019, table 2)."""
    return lambda now, clean, goal: jnp.sum((now.logits - clean.logits) ** 2)


def hide_top_k(k: int) -> Objective:
    """The mass that is left on the k pixels that lead the clean heat map (Ghorbani et al. 2019, top-k attack)."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return lambda now, clean, goal: now.heatmap.ravel()[top(clean.heatmap, k)].sum()


def move_mass_center() -> Objective:
    """Minus the squared distance, in pixels, from the clean centre of mass, along all axes (Ghorbani et al. 2019).

    Its gradient is zero at the clean image: start from noise (`start_noise`).
    """
    return lambda now, clean, goal: -jnp.sum((center(now.heatmap) - center(clean.heatmap)) ** 2)


def raise_region(mask: ArrayLike) -> Objective:
    """Minus the mass inside a region, mask: Bool[h', w'], as the heat map (Ghorbani et al. 2019, targeted attack)."""
    inside = jnp.asarray(mask)
    if not bool(jnp.any(inside)):
        raise ValueError("the region is empty: mask has no True")

    def term(now, clean, goal):
        if inside.shape != now.heatmap.shape:
            raise ValueError(f"the mask of a region has the heat map's shape {now.heatmap.shape}, got {inside.shape}")
        return -jnp.sum(now.heatmap * inside)

    return term


def same_prediction(now: View, clean: View, goal) -> Array:
    """Whether the predicted class is that of the clean image: the driver's rule for keeping an iterate."""
    return now.logits.argmax() == clean.logits.argmax()


def top_k_hidden(k: int) -> Callable[[View, View, Array], Array]:
    """A stopping rule: none of the k leading pixels of the clean heat map leads the current one."""
    return lambda now, clean, goal: ~jnp.isin(top(now.heatmap, k), top(clean.heatmap, k)).any()


def top(heatmap: Array, k: int) -> Array:
    """Int[k]: the flat positions of the k largest values, ties to the first."""
    if k > heatmap.size:
        raise ValueError(f"the leading pixels of a heat map {heatmap.shape} are at most {heatmap.size}, got k={k}")
    return jax.lax.top_k(heatmap.ravel(), k)[1]


def center(heatmap: Array) -> Array:
    """Float[axes]: the centre of a heat map that sums to 1, in pixels, one coordinate for each axis; of zeros, 0."""
    marginal = lambda axis: heatmap.sum(tuple(other for other in range(heatmap.ndim) if other != axis))
    return jnp.stack([marginal(k) @ jnp.arange(n, dtype=heatmap.dtype) for k, n in enumerate(heatmap.shape)])
