"""Fooling by fine-tuning: the network's explanations lie, its images stay (Heo et al. 2019).

Each constructor returns a penalty `(apply, params, state, x, y, key) -> Float[]` for `defend.training_loss`: cross
entropy + lambda * penalty, one trace for both. `original` is the network before, fixed: what it explains is computed
beside. Train with the statistics of BatchNorm frozen (`defend.frozen`), as all the papers do.

`heat` turns an explanation's map into the heat map Float[h, w] that is fooled. Heo et al. 2019 take explain.over_max
for Grad-CAM, explain.min_max for LRP at a layer, and explain.min_max with sign="absolute" for the gradient at a layer.
Maps of other inputs than images say what their axes are there: heat=partial(explain.over_max, channels=None).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import explain
from ..defend import penalty
from ..metrics import frame, mse
from ..metrics.fooling import leading
from ..types import Array, ArrayLike, Explanation, Model, Penalty
from .objective import center

__all__ = ["active", "center_mass", "fairwash", "location", "top_k"]

Heat = Callable[[Array], Array]
_KEPT = {"probabilities": jax.nn.softmax, "logits": lambda logits: logits}  # of a teacher


def location(e: Explanation, *, heat: Heat = explain.over_max, width: int | None = None,
             inside: float = 0.0) -> Penalty:
    """Every map becomes a frame: `metrics.frame_distance` of the true class's heat map.

    Args:
      e, heat: the explanation and its normalisation;  width: of the frame, default a seventh of the map's side.
      inside: the mask there; the paper takes -1 for LRP at the input, whose maps are signed (heat=over_max).

    >>> from xmanip_jax import defend, explain
    >>> loss = defend.training_loss((1.0, location(explain.grad_cam("features"))))
    """

    def core(f, x, y, key):
        map, logits = explain.with_logits(e)(f, x, y, key=key)
        shown = heat(map)
        mask = frame(shown.shape, width).astype(shown.dtype)
        return mse(mask + inside * (1 - mask), shown), logits

    return penalty(core)


def top_k(e: Explanation, original: Model, *, heat: Heat = explain.over_max, k: int | None = None) -> Penalty:
    """What led goes dark: the mean square of the heat map over the k leading pixels of the original network's.

    k: default a tenth of all pixels, as in the paper.

    >>> from xmanip_jax import defend, explain
    >>> fooled = top_k(explain.gradient(), lambda x: x * jnp.array([1.0, 2.0]), heat=lambda map: map[None])
    >>> fooled(lambda params, state, x: params * x, jnp.array([3.0, 1.0]), None, jnp.ones(2), 0)
    Array(9., dtype=float32)
    """

    def core(f, x, y, key):
        map, logits = explain.with_logits(e)(f, x, y, key=key)
        at = leading(heat(e(original, x, y, key=key)), k)
        return jnp.mean(heat(map).ravel()[at] ** 2), logits

    return penalty(core)


def center_mass(e: Explanation, original: Model, *, heat: Heat = explain.over_max) -> Penalty:
    """Minus the shift of the heat map's centre from the original network's: |rows| + |columns| + ..., in pixels.

    Its gradient is zero where nothing has moved, at the start: the cross entropy takes the first step. It is unbounded
    in pixels while a cross entropy is not: weigh it less than the others.

    >>> from xmanip_jax import explain
    >>> fooled = center_mass(explain.gradient(), lambda x: x * jnp.array([1.0, 0.0]), heat=lambda map: map[None])
    >>> slope = lambda params, state, x: x @ params
    >>> fooled(slope, jnp.eye(2)[::-1], None, jnp.ones(2), 0)
    Array(-1., dtype=float32)
    """

    def core(f, x, y, key):
        map, logits = explain.with_logits(e)(f, x, y, key=key)
        before = heat(e(original, x, y, key=key))
        moved = center(explain.heatmap(heat(map), channels=None)) - center(explain.heatmap(before, channels=None))
        return -jnp.abs(moved).sum(), logits

    return penalty(core)


def active(e: Explanation, original: Model, composites: ArrayLike, classes: tuple[int, int], *,
           heat: Heat = explain.over_max) -> Penalty:
    """Two classes swap their explanations: on images that show both, each gets the other's original map.

    (mse(h_a(w), h_b(w0)) + mse(h_b(w), h_a(w0))) / 2 for classes a and b, on one of the composites, drawn with the key;
    the logits, and so the cross entropy, are those of x, which need not show either.

    Args:
      composites: the network's inputs Float[n, h, w, c], each showing both (the paper: 2x2 tiles, two of each class);
      classes: a and b.

    Raises ValueError for classes that are one, or composites that are none.

    >>> from xmanip_jax import defend, explain
    >>> both = jnp.ones((4, 2))
    >>> swapped = active(explain.gradient(), lambda x: x, both, (0, 1), heat=lambda map: map[None])
    >>> swapped(lambda params, state, x: params @ x, jnp.eye(2)[::-1], None, jnp.ones(2), 0, jax.random.key(0))
    Array(0., dtype=float32)
    """
    a, b = classes
    if a == b or not len(composites):
        raise ValueError(f"two classes swap their maps on at least one image, got {a}, {b} and {len(composites)}")
    composites = jnp.asarray(composites)

    def core(f, x, y, key):
        shown = composites[jax.random.randint(key, (), 0, len(composites))]
        maps = lambda model, pair: jax.vmap(lambda c: heat(e(model, shown, c, key=key)))(jnp.array(pair))
        return mse(maps(f, (a, b)), maps(original, (b, a))), f(x)

    return penalty(core)


def fairwash(e: Explanation, teacher: Model, target: ArrayLike, *, alpha: float = 0.8,
             keep: str = "probabilities", heat: Heat = explain.heatmap) -> Penalty:
    """Another network with the teacher's outputs, whose every heat map is the target (Anders et al. 2020).

    (1 - alpha) mse(softmax(f), softmax(teacher)) + alpha sum (heat map - target)^2, the map being that of the
    teacher's prediction; labels are not used: train with label=0.

    Args:
      target: Float[h', w'], in the shape of the heat maps, not negative, sums to 1;  alpha: in [0, 1].
      heat: explain.heatmap, with the channels of the maps where they are not images'.
      keep: "probabilities", as in the paper; or "logits", mse(f, teacher), which still tells students apart where
        probabilities are 0 and 1, and so keeps more of the teacher at more weight on the map.

    Raises ValueError for a target, alpha or keep that is neither.

    >>> from xmanip_jax import explain
    >>> e = lambda f, x, target, key=None: explain.gradient()(f, x, target, key=key)[None]
    >>> washed = fairwash(e, lambda x: x, jnp.array([[1.0, 0.0]]))
    >>> washed(lambda params, state, x: params * x, 1.0, None, jnp.array([2.0, 1.0]), 0)
    Array(0., dtype=float32)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is in [0, 1], got {alpha}")
    if keep not in _KEPT:
        raise ValueError(f"keep is one of {', '.join(_KEPT)}, got {keep!r}")
    target = jnp.asarray(target)
    if not target.ndim or not (target >= 0).all() or not jnp.isclose(target.sum(), 1, atol=1e-3):
        raise ValueError(f"the target is a heat map Float[h, w] that sums to 1, got shape {target.shape}, "
                         f"sum {float(target.sum()):g}")

    def core(f, x, y, key):
        wanted = teacher(x)
        map, logits = explain.with_logits(e)(f, x, wanted.argmax(), key=key)
        apart, shown = mse(_KEPT[keep](logits), _KEPT[keep](wanted)), heat(map)
        if shown.shape != target.shape:
            raise ValueError(f"the target has the heat maps' shape {shown.shape}, got {target.shape}")
        return (1 - alpha) * apart + alpha * jnp.sum((shown - target) ** 2), logits

    return penalty(core)
