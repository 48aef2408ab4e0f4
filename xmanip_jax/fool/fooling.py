"""An attack on weights from any objective: a penalty of fine-tuning."""

import jax.numpy as jnp

from .. import explain
from ..objectives import viewing
from ..train import penalty
from ..train.loss import of_x
from ..types import ArrayLike, Channels, Explanation, Heat, Model, Num, Objective, Penalty

__all__ = ["fooling"]


def fooling(e: Explanation, original: Model, objective: Objective, *, goal: Num[ArrayLike, "..."] | None = None,
            heat: Heat = explain.heatmap, channels: Channels = "auto", predicted: bool = False) -> Penalty:
    """`objective` as a penalty `(apply, params, state, x, y, key) -> Float[]` of a network that is fine-tuned.

    The objective's `now` is what the network sees of x with its weights as they are, its `clean` what the original
    network sees of the same x, which is fixed and computed beside.

    Args:
      original: the network before;  objective: of `objectives`, or your own;  goal: what it is handed as such.
      heat, channels: how a map becomes a heat map, and the axis that it sums over, see `objectives.viewing`.
      predicted: explain the class that the original network predicts; by default the label.

    >>> from xmanip_jax import explain, objectives
    >>> away = objectives.raise_region([False, True])
    >>> lying = fooling(explain.gradient(), lambda x: x, away)
    >>> lying(lambda params, state, x: params @ x, jnp.eye(2)[::-1], None, jnp.ones(2), 0)
    Array(-1., dtype=float32)
    """
    goal = None if goal is None else jnp.asarray(goal)
    look = viewing(e, channels=channels, heat=heat)

    def core(f, x, y, key):
        label = original(x).argmax() if predicted else y
        now, before = (look(model, of_x, x, label, key) for model in (f, original))
        return objective(now, before, goal), now.logits

    return penalty(core)
