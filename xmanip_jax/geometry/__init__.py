"""Curvature of a scalar function of the input: of a logit, a difference of logits, a loss.

Every measure is a pure function at ONE point: batch it with jax.vmap, compile it with jax.jit. Estimates carry their
standard error, iterations say whether they converged; what is called a bound holds, whatever the attack.
"""

from .certificates import (
    certified_signs,
    certified_top_k,
    heatmap_bounds,
    heatmap_change_bound,
    map_change_bound,
    saliency_bounds,
)
from .curvature import Curvature, normalised_curvature
from .hessian_bound import gradient_change_bound, hessian_bound, normal_change_bound
from .hvp import gradient_and_hvp, hvp, hvps
from .intervals import Box, ball, gradient_bounds, output_bounds
from .jacobian import lipschitz
from .level_set import (
    Path,
    Projection,
    all_principal_curvatures,
    level_set_path,
    principal_curvatures,
    project_to_level_set,
)
from .logistic import logistic_noise
from .norms import Estimate, frobenius_norm, squared_frobenius_norm
from .operator_norms import convolution_norm, matrix_norm
from .path_estimates import PathEstimate, gradient_change_estimate, normal_change_estimate
from .piecewise import PiecewiseLinearWarning
from .robustness import lipschitz_estimate, thickness
from .smooth_hessian import SmoothHessian, SmoothPairs, smooth_eigenpairs, smooth_hessian, smooth_hvp
from .spectrum import Eigenpairs, Norm, spectral_norm, top_eigenpairs
from .sweep import memory_of, sweep
from .trust_region import Step, low_rank_trust_region_step, trust_region_step

__all__ = [
    "Box", "Curvature", "Eigenpairs", "Estimate", "Norm", "Path", "PathEstimate", "PiecewiseLinearWarning",
    "Projection", "SmoothHessian", "SmoothPairs", "Step", "all_principal_curvatures", "ball", "certified_signs",
    "certified_top_k", "convolution_norm", "frobenius_norm", "gradient_and_hvp", "gradient_bounds",
    "gradient_change_bound", "gradient_change_estimate", "heatmap_bounds", "heatmap_change_bound", "hessian_bound",
    "hvp", "hvps", "level_set_path", "lipschitz", "lipschitz_estimate", "logistic_noise", "low_rank_trust_region_step",
    "map_change_bound", "matrix_norm", "memory_of", "normal_change_bound", "normal_change_estimate",
    "normalised_curvature", "output_bounds", "principal_curvatures", "project_to_level_set", "saliency_bounds",
    "smooth_eigenpairs", "smooth_hessian", "smooth_hvp", "spectral_norm", "squared_frobenius_norm", "sweep",
    "thickness", "top_eigenpairs", "trust_region_step",
]
