"""Fooling by fine-tuning: the network's explanations lie, its images stay (Heo et al. 2019).

Each constructor returns a penalty `(apply, params, state, x, y, key) -> Float[]` for `train.training_loss`: cross
entropy + lambda * penalty, one trace for both. `original` is the network before, fixed: what it explains is computed
beside. Train with the statistics of BatchNorm frozen (`train.frozen`), as all the papers do.

`heat` turns an explanation's map into the heat map Float[h, w] that is fooled. Heo et al. 2019 take explain.over_max
for Grad-CAM, explain.min_max for LRP at a layer, and explain.min_max with sign="absolute" for the gradient at a layer.
`channels` is the axis that it sums over, as everywhere.
"""

import jax
import jax.numpy as jnp

from .. import explain, objectives
from ..metrics import frame, mse
from ..objectives import viewing
from ..train import penalty
from ..train.loss import of_x
from ..types import AnyArray, Channels, Explanation, Float, Heat, Model, Penalty
from .fooling import fooling

__all__ = ["active", "location", "mass_center", "top_k"]


def location(e: Explanation, *, heat: Heat = explain.over_max, channels: Channels = "auto", width: int | None = None,
             inside: float = 0.0) -> Penalty:
    """Every map becomes a frame: `metrics.frame_distance` of the true class's heat map.

    Args:
      e, heat: the explanation and its normalisation;  width: of the frame, default a seventh of the map's side.
      inside: the mask there; the paper takes -1 for LRP at the input, whose maps are signed (heat=over_max).

    >>> from xmanip_jax import explain, train
    >>> loss = train.training_loss((1.0, location(explain.grad_cam("features"))))
    """

    look = viewing(e, channels=channels, heat=heat)

    def core(f, x, y, key):
        now = look(f, of_x, x, y, key)
        mask = frame(now.heatmap.shape, width).astype(now.heatmap.dtype)
        return mse(mask + inside * (1 - mask), now.heatmap), now.logits

    return penalty(core)


def top_k(e: Explanation, original: Model, *, heat: Heat = explain.over_max, channels: Channels = "auto",
          k: int | None = None) -> Penalty:
    """What led goes dark: the mean square of the heat map over the k leading pixels of the original network's.

    k: default a tenth of all pixels, as in the paper.

    >>> from xmanip_jax import explain
    >>> fooled = top_k(explain.gradient(), lambda x: x * jnp.array([1.0, 2.0]), heat=lambda map, **_: map)
    >>> fooled(lambda params, state, x: params * x, jnp.array([3.0, 1.0]), None, jnp.ones(2), 0)
    Array(9., dtype=float32)
    """
    dark = objectives.hide_top_k(k, left=lambda values: jnp.mean(values**2))
    return fooling(e, original, dark, heat=heat, channels=channels)


def mass_center(e: Explanation, original: Model, *, heat: Heat = explain.over_max,
                channels: Channels = "auto") -> Penalty:
    """Minus the shift of the heat map's centre from the original network's: |rows| + |columns| + ..., in pixels.

    Its gradient is zero where nothing has moved, at the start: the cross entropy takes the first step. It is unbounded
    in pixels while a cross entropy is not: weigh it less than the others.

    >>> from xmanip_jax import explain
    >>> fooled = mass_center(explain.gradient(), lambda x: x * jnp.array([1.0, 0.0]), heat=lambda map, **_: map)
    >>> slope = lambda params, state, x: x @ params
    >>> fooled(slope, jnp.eye(2)[::-1], None, jnp.ones(2), 0)
    Array(-1., dtype=float32)
    """
    shown = lambda map, *, channels: explain.heatmap(heat(map, channels=channels), channels=None)
    return fooling(e, original, objectives.move_mass_center(jnp.abs), heat=shown, channels=channels)


def active(e: Explanation, original: Model, composites: Float[AnyArray, " n *shape"], classes: tuple[int, int], *,
           heat: Heat = explain.over_max, channels: Channels = "auto") -> Penalty:
    """Two classes swap their explanations: on images that show both, each gets the other's original map.

    (mse(h_a(w), h_b(w0)) + mse(h_b(w), h_a(w0))) / 2 for classes a and b, on one of the composites, drawn with the key;
    the logits, and so the cross entropy, are those of x, which need not show either.

    Args:
      composites: the network's inputs Float[n, h, w, c], each showing both (the paper: 2x2 tiles, two of each class);
      classes: a and b.

    Raises ValueError for classes that are one, or composites that are none.

    >>> from xmanip_jax import explain
    >>> both = jnp.ones((4, 2))
    >>> swapped = active(explain.gradient(), lambda x: x, both, (0, 1), heat=lambda map, **_: map)
    >>> swapped(lambda params, state, x: params @ x, jnp.eye(2)[::-1], None, jnp.ones(2), 0, jax.random.key(0))
    Array(0., dtype=float32)
    """
    a, b = classes
    if a == b or not len(composites):
        raise ValueError(f"two classes swap their maps on at least one image, got {a}, {b} and {len(composites)}")
    composites, look = jnp.asarray(composites), viewing(e, channels=channels, heat=heat)

    def core(f, x, y, key):
        shown = composites[jax.random.randint(key, (), 0, len(composites))]
        maps = lambda model, pair: jax.vmap(lambda c: look(model, of_x, shown, c, key).heatmap)(jnp.array(pair))
        return mse(maps(f, (a, b)), maps(original, (b, a))), f(x)

    return penalty(core)
