"""What an attack minimises, over what it sees now and saw before: of an image that changes, or of a network that does.

A term is `(now: View, clean: View, goal) -> Float[]`. Attacks on pixels (`attack`) hand it one model's views of two
images, attacks on weights (`fool`) two models' views of one image.

By default maps are compared with N^2 weights (N pixels) and outputs by sums, so that one pair of weights serves every
resolution and every number of classes: heat maps sum to 1 and their mean squared error falls as 1 / N^2. Dombrowski et
al. 2019 weigh mean squared errors by 1e11 and 1e6 on ImageNet (here 1 and 25), by 1e7 and 1e2 on CIFAR-10 (1 and 1).
"""

import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import explain
from .metrics import kl_divergence
from .metrics.fooling import leading
from .types import (
    AnyArray,
    Array,
    ArrayLike,
    Bool,
    Channels,
    Explanation,
    Float,
    Heat,
    Model,
    Nested,
    Num,
    Objective,
    RandomKey,
    Shaped,
    Target,
)

__all__ = ["View", "hide_top_k", "keep_logits", "keep_output", "keep_probabilities", "match_map",
           "move_mass_center", "raise_region", "same_prediction", "scale_free", "squares", "top_k_hidden", "viewing",
           "weighted"]


class View(NamedTuple):
    """One image, or another input, as a model and an explanation see it."""

    pixels: Float[Array, "*shape"]  # in [0, 1]
    heatmap: Float[Array, "*places"]  # sums to 1: one value for each place
    logits: Float[Array, " classes"]


def viewing(e: Explanation, *, channels: Channels = "auto", heat: Heat = explain.heatmap) -> Callable[..., View]:
    """How e shows an image: `(f, preprocess, pixels, label, key) -> View`, from one trace of the model f.

    Args:
      channels: the axis of the network's input that no heat map has, see `explain.heatmap`. A map with fewer axes than
        the input, as a class activation map, has none; of one with more axes nothing is known ("auto").
      heat: how the map becomes a heat map.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain, objectives
    >>> look = objectives.viewing(explain.gradient())
    >>> look(lambda x: x ** 2, lambda pixels: 2 * pixels, jnp.ones(2), 1, None).heatmap
    Array([0., 1.], dtype=float32)
    """

    def look(f: Model, preprocess: Callable[[Array], Array], pixels: Float[AnyArray, "*shape"], label: Target,
             key: RandomKey | None) -> View:
        x = preprocess(pixels)
        map, logits = explain.with_logits(e)(f, x, label, key=key)
        here = channels if map.ndim == x.ndim else None if map.ndim < x.ndim else "auto"
        return View(pixels, heat(map, channels=here), logits)

    return look


def weighted(*terms: tuple[float, Objective]) -> Objective:
    """The weighted sum of terms.

    The default of the driver, as in Dombrowski et al. 2019, eq. (1), with scale-free weights:

    >>> from xmanip_jax import objectives
    >>> objective = objectives.weighted((1.0, objectives.match_map()), (1.0, objectives.keep_output()))
    """
    if not terms:
        raise ValueError("an objective needs at least one (weight, term)")
    return lambda now, clean, goal: functools.reduce(operator.add, (w * term(now, clean, goal) for w, term in terms))


def squares(a: Num[AnyArray, "*shape"], b: Num[AnyArray, "*shape"]) -> Float[Array, ""]:
    """The sum of the squared differences.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> float(objectives.squares(jnp.array([1.0, 2.0]), jnp.zeros(2)))
    5.0
    """
    return jnp.sum((a - b) ** 2)


def scale_free(heatmap: Num[AnyArray, "*places"], goal: Num[AnyArray, "*places"]) -> Float[Array, ""]:
    """N^2 * mean squared error of two heat maps of N places that sum to 1.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> float(objectives.scale_free(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])))
    1.0
    """
    return heatmap.size * squares(heatmap, goal)


def match_map(distance: Callable[[Array, Array], Array] = scale_free) -> Objective:
    """The distance of the heat map from the goal, of the same shape.

    distance: of (heat map, goal); by default N^2 * mean squared error, for heat maps that sum to 1.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now = objectives.View(None, jnp.array([0.5, 0.5]), None)
    >>> float(objectives.match_map()(now, now, jnp.array([1.0, 0.0])))
    1.0
    """

    def term(now, clean, goal):
        if goal is None:
            raise ValueError("match_map needs a goal: pass the target heat maps to the attack")
        return distance(now.heatmap, goal)

    return term


def keep_output() -> Objective:
    """The Kullback-Leibler divergence of the class probabilities from the clean ones, in nats.

    Its gradient in the logits is the difference of the probabilities. That of `keep_probabilities` vanishes once an
    attack has driven a probability to 1, and the output never comes back.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now, clean = (objectives.View(None, None, jnp.array([z, 0.0])) for z in (1.0, 0.0))
    >>> round(float(objectives.keep_output()(now, clean, None)), 4)
    0.1201
    """
    return lambda now, clean, goal: kl_divergence(clean.logits, now.logits)


def keep_probabilities(distance: Callable[[Array, Array], Array] = squares) -> Objective:
    """The squared changes of the class probabilities, summed (Dombrowski et al. 2019, eq. 1), or another distance.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now, clean = (objectives.View(None, None, jnp.array([z, 0.0])) for z in (100.0, 0.0))
    >>> float(objectives.keep_probabilities()(now, clean, None))
    0.5
    """
    return lambda now, clean, goal: distance(jax.nn.softmax(now.logits), jax.nn.softmax(clean.logits))


def keep_logits(distance: Callable[[Array, Array], Array] = squares) -> Objective:
    """The sum of the squared changes of the logits (Dombrowski et al. 2019, table 2), or another distance.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now, clean = (objectives.View(None, None, jnp.array([z, 0.0])) for z in (3.0, 1.0))
    >>> float(objectives.keep_logits()(now, clean, None))
    4.0
    """
    return lambda now, clean, goal: distance(now.logits, clean.logits)


def hide_top_k(k: int | None = None, *, left: Callable[[Array], Array] = jnp.sum) -> Objective:
    """What is left on the k pixels that lead the clean heat map (Ghorbani et al. 2019, top-k attack).

    k: default a tenth of all, at least 1;  left: of the values Float[k] there, by default their mass.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now, clean = (objectives.View(None, jnp.array(h), None) for h in ([0.25, 0.25, 0.5], [0.5, 0.25, 0.25]))
    >>> float(objectives.hide_top_k(1)(now, clean, None))
    0.25
    """
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return lambda now, clean, goal: left(now.heatmap.ravel()[leading(clean.heatmap, k)])


def move_mass_center(shift: Callable[[Array], Array] = jnp.square) -> Objective:
    """Minus the squared distance, in pixels, from the clean centre of mass, along all axes (Ghorbani et al. 2019).

    Its gradient is zero at the clean image: start from noise (`start_noise`).

    shift: of a coordinate, by default its square; summed over the axes.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now, clean = (objectives.View(None, jnp.array(h), None) for h in ([0.0, 0.0, 1.0], [1.0, 0.0, 0.0]))
    >>> float(objectives.move_mass_center()(now, clean, None))
    -4.0
    """
    return lambda now, clean, goal: -shift(mass_center(now.heatmap) - mass_center(clean.heatmap)).sum()


def raise_region(mask: Shaped[ArrayLike, "*places"] | Nested) -> Objective:
    """Minus the mass inside a region, mask: Bool[h', w'], as the heat map (Ghorbani et al. 2019, targeted attack).

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now = objectives.View(None, jnp.array([0.25, 0.25, 0.5]), None)
    >>> float(objectives.raise_region([False, True, True])(now, now, None))
    -0.75
    """
    inside = jnp.asarray(mask)
    if not bool(jnp.any(inside)):
        raise ValueError("the region is empty: mask has no True")

    def term(now, clean, goal):
        if inside.shape != now.heatmap.shape:
            raise ValueError(f"the mask of a region has the heat map's shape {now.heatmap.shape}, got {inside.shape}")
        return -jnp.sum(now.heatmap * inside.astype(now.heatmap.dtype))

    return term


def same_prediction(now: View, clean: View, goal: Any) -> Bool[Array, ""]:
    """Whether the predicted class is that of the clean image: the driver's rule for keeping an iterate.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now, clean = (objectives.View(None, None, jnp.array([z, 0.0])) for z in (3.0, 1.0))
    >>> bool(objectives.same_prediction(now, clean, None))
    True
    """
    return now.logits.argmax() == clean.logits.argmax()


def top_k_hidden(k: int) -> Callable[[View, View, Any], Bool[Array, ""]]:
    """A stopping rule: none of the k leading pixels of the clean heat map leads the current one.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> now, clean = (objectives.View(None, jnp.array(h), None) for h in ([0.25, 0.25, 0.5], [0.5, 0.25, 0.25]))
    >>> bool(objectives.top_k_hidden(1)(now, clean, None))
    True
    """
    return lambda now, clean, goal: ~jnp.isin(leading(now.heatmap, k), leading(clean.heatmap, k)).any()


def mass_center(heatmap: Float[AnyArray, "*places"]) -> Float[Array, " axes"]:
    """Float[axes]: the centre of a heat map that sums to 1, in pixels, one coordinate for each axis; of zeros, 0.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import objectives
    >>> objectives.mass_center(jnp.array([[0.0, 0.5], [0.0, 0.5]]))
    Array([0.5, 1. ], dtype=float32)
    """
    marginal = lambda axis: heatmap.sum(tuple(other for other in range(heatmap.ndim) if other != axis))
    return jnp.stack([marginal(k) @ jnp.arange(n, dtype=heatmap.dtype) for k, n in enumerate(heatmap.shape)])
