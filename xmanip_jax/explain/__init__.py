"""Explanations: constructors return pure functions `e(f, x, target, *, key=None) -> map`, built from jax.grad.

They differentiate to any order in x and in the model's parameters, and compose with jit, vmap and remat.
"""

from .base import explanation, select, with_logits
from .gradients import gradient, gradient_x_input, integrated_gradients
from .heatmap import heatmap
from .smoothing import smoothgrad, uniform_gradient

__all__ = ["explanation", "gradient", "gradient_x_input", "heatmap", "integrated_gradients", "select", "smoothgrad",
           "uniform_gradient", "with_logits"]
