"""Curvature of a scalar function of the input: of a logit, a difference of logits, a loss.

Every measure is a pure function at ONE point: batch it with jax.vmap, compile it with jax.jit. Estimates carry their
standard error, iterations say whether they converged. What no attack exceeds is in `certify`.
"""

from .curvature import Curvature, normalised_curvature
from .hvp import gradient_and_hvp, hvp, hvps
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
from .path_estimates import PathEstimate, gradient_change_estimate, normal_change_estimate
from .piecewise import PiecewiseLinearWarning
from .rare_events import RareEvent, subset_simulation
from .robustness import lipschitz_estimate, thickness
from .smooth_hessian import SmoothHessian, SmoothPairs, smooth_eigenpairs, smooth_hessian, smooth_hvp
from .spectrum import Eigenpairs, Norm, spectral_norm, top_eigenpairs
from .sweep import memory_of, sweep
from .trust_region import TrustRegionStep, low_rank_trust_region_step, trust_region_step

__all__ = [
    "Curvature", "Eigenpairs", "Estimate", "Norm", "Path", "PathEstimate", "PiecewiseLinearWarning", "Projection",
    "RareEvent", "SmoothHessian", "SmoothPairs", "TrustRegionStep", "all_principal_curvatures", "frobenius_norm",
    "gradient_and_hvp", "gradient_change_estimate", "hvp", "hvps", "level_set_path", "lipschitz", "lipschitz_estimate",
    "logistic_noise", "low_rank_trust_region_step", "memory_of", "normal_change_estimate", "normalised_curvature",
    "principal_curvatures", "project_to_level_set", "smooth_eigenpairs", "smooth_hessian", "smooth_hvp",
    "spectral_norm", "squared_frobenius_norm", "subset_simulation", "sweep", "thickness", "top_eigenpairs",
    "trust_region_step",
]


def __dir__():
    return __all__
