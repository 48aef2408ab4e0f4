"""Defences: penalties for training, inner maximisations, projections of maps. See `training_loss`.

A penalty is `(apply, params, state, x, y, key=None) -> Float[]` of ONE example; weights, batches and optimisers stay
outside. Neighbouring defences need nothing new: weight decay is optax's, softplus training `smooth.softplus` or a
network built with act=, beta-smoothing, SmoothGrad and UniGrad are explanations.
"""

from .adversarial import adversarial, local_linearity, trades
from .base import cross_entropy, no_penalty, penalty, training_loss, with_logits
from .distillation import atex
from .inner import Ascent, ascend, sign_step
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
    parameter_penalty,
    ranking,
)
from .tangent import project, tangent_space
from .train import NanLossError, Training, batch_indices, begin, fit, frozen

__all__ = [
    "Ascent", "NanLossError", "Training", "adversarial", "ascend", "atex", "attribution_robustness",
    "batch_indices", "begin", "cross_entropy", "cure", "discrepancy", "fit", "frozen", "gradient_alignment",
    "gradient_norm", "hessian", "input_density", "integrated_norm", "interpretability", "interval_width", "lcnn",
    "local_linearity", "no_penalty", "parameter_penalty", "penalty", "project", "ranking", "sign_step",
    "tangent_space", "trades", "training_loss", "two_class_discrepancy", "with_logits",
]
