"""Explanations: constructors return pure functions `e(f, x, target, *, key=None) -> map`, built from jax.grad.

They differentiate to any order in x and in the model's parameters, and compose with jit, vmap and remat.
"""

from .base import explanation, select, with_logits
from .cam import cam, grad_cam, grad_cam_pp, layer_gradient
from .gradients import gradient, gradient_x_input, integrated_gradients
from .heatmap import heatmap, min_max, over_max
from .patterns import fit_patterns
from .propagation import deconvnet, guided_backprop, lrp, lrp_dombrowski2019, lrp_heo2019, pattern_attribution
from .rollouts import attention, attention_rollout, gradient_attention_rollout, transformer_attribution
from .rules import alpha_beta, epsilon, flat, gamma, w_square, z_box, z_plus
from .smoothing import beta_smoothing, smoothgrad, uniform_gradient
from .transformers import attnlrp, cp_lrp

__all__ = [
    "alpha_beta", "attention", "attention_rollout", "attnlrp", "beta_smoothing", "cam", "cp_lrp", "deconvnet",
    "epsilon", "explanation", "fit_patterns", "flat", "gamma", "grad_cam", "grad_cam_pp", "gradient",
    "gradient_attention_rollout", "gradient_x_input", "guided_backprop", "heatmap", "integrated_gradients",
    "layer_gradient", "lrp", "lrp_dombrowski2019", "lrp_heo2019", "min_max", "over_max", "pattern_attribution",
    "select", "smoothgrad", "transformer_attribution", "uniform_gradient", "w_square", "with_logits", "z_box",
    "z_plus",
]


def __dir__():
    return __all__
