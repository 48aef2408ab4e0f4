"""Fairwashing: a network with the outputs of another one and the explanation that is wanted (Anders et al. 2020)."""

import jax.numpy as jnp

from .. import explain, objectives
from ..metrics import mse
from ..types import ArrayLike, Channels, Explanation, Float, Heat, Model, Penalty
from .fooling import fooling

__all__ = ["fairwash"]

_KEPT = {"probabilities": objectives.keep_probabilities, "logits": objectives.keep_logits}


def fairwash(e: Explanation, teacher: Model, target: Float[ArrayLike, "*places"], *, alpha: float = 0.8,
             keep: str = "probabilities", heat: Heat = explain.heatmap, channels: Channels = "auto") -> Penalty:
    """Another network with the teacher's outputs, whose every heat map is the target (Anders et al. 2020).

    (1 - alpha) mse(softmax(f), softmax(teacher)) + alpha sum (heat map - target)^2, the map being that of the
    teacher's prediction; labels are not used: train with label_weight=0.

    Args:
      target: Float[h', w'], in the shape of the heat maps, not negative, sums to 1;  alpha: in [0, 1].
      heat, channels: as in `fooling`.
      keep: "probabilities", as in the paper; or "logits", mse(f, teacher), which still tells students apart where
        probabilities are 0 and 1, and so keeps more of the teacher at more weight on the map.

    Raises ValueError for a target, alpha or keep that is neither.

    >>> from xmanip_jax import explain
    >>> washed = fairwash(explain.gradient(), lambda x: x, jnp.array([1.0, 0.0]))
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

    def apart(shown, goal):
        if shown.shape != goal.shape:
            raise ValueError(f"the target has the heat maps' shape {shown.shape}, got {goal.shape}")
        return objectives.squares(shown, goal)

    objective = objectives.weighted((1 - alpha, _KEPT[keep](mse)), (alpha, objectives.match_map(apart)))
    return fooling(e, teacher, objective, goal=target, heat=heat, channels=channels, predicted=True)
