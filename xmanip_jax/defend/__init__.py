"""Defences: penalties for training and projections of maps. See `train.training_loss`.

A penalty is `(apply, params, state, x, y, key=None) -> Float[]` of ONE example; weights, batches and optimisers stay
outside (`train`). Neighbouring defences need nothing new: weight decay is optax's, softplus training `smooth.softplus`
or a network built with act=, beta-smoothing, SmoothGrad and UniGrad are explanations.
"""

from .adversarial import adversarial, local_linearity, trades
from .distillation import atex
from .interpretation import (
    attribution_robustness,
    discrepancy,
    integrated_norm,
    interpretability,
    two_class_discrepancy,
)
from .penalties import (
    cure,
    gradient_alignment,
    gradient_norm,
    hessian,
    input_density,
    interval_width,
    lcnn,
    ranking,
)
from .tangent import project, tangent_space

__all__ = [
    "adversarial", "atex", "attribution_robustness", "cure", "discrepancy", "gradient_alignment", "gradient_norm",
    "hessian", "input_density", "integrated_norm", "interpretability", "interval_width", "lcnn", "local_linearity",
    "project", "ranking", "tangent_space", "trades", "two_class_discrepancy",
]


def __dir__():
    return __all__
