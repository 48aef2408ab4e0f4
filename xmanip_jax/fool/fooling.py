"""An attack on weights from any objective: a penalty of fine-tuning."""

from collections.abc import Callable

import jax.numpy as jnp

from .. import explain
from ..objectives import View
from ..train import penalty
from ..types import Array, ArrayLike, Explanation, Model, Objective, Penalty

__all__ = ["fooling"]


def fooling(e: Explanation, original: Model, objective: Objective, *, goal: ArrayLike | None = None,
            heat: Callable[[Array], Array] = explain.heatmap, predicted: bool = False) -> Penalty:
    """`objective` as a penalty `(apply, params, state, x, y, key) -> Float[]` of a network that is fine-tuned.

    The objective's `now` is what the network sees of x with its weights as they are, its `clean` what the original
    network sees of the same x, which is fixed and computed beside.

    Args:
      original: the network before;  objective: of `objectives`, or your own;  goal: what it is handed as such.
      heat: a map -> the heat map of both views.
      predicted: explain the class that the original network predicts; by default the label.

    >>> from xmanip_jax import explain, objectives
    >>> away = objectives.raise_region([False, True])
    >>> lying = fooling(explain.gradient(), lambda x: x, away)
    >>> lying(lambda params, state, x: params @ x, jnp.eye(2)[::-1], None, jnp.ones(2), 0)
    Array(-1., dtype=float32)
    """
    goal = None if goal is None else jnp.asarray(goal)

    def core(f, x, y, key):
        label = original(x).argmax() if predicted else y
        map, logits = explain.with_logits(e)(f, x, label, key=key)
        before, wanted = explain.with_logits(e)(original, x, label, key=key)
        return objective(View(x, heat(map), logits), View(x, heat(before), wanted), goal), logits

    return penalty(core)
