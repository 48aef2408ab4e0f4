"""What no point of a box, or of a line, exceeds: intervals, linear relaxations, bounds from the weights.

Every bound holds whatever the attack, rounded outwards; what cannot be bounded is refused by name. Measured curvature
is in `geometry`.
"""

from .certificates import (
    certified_signs,
    certified_top_k,
    heatmap_bounds,
    heatmap_change_bound,
    map_change_bound,
    saliency_bounds,
)
from .hessian_bound import (
    cross_entropy_hessian_bound,
    gradient_change_bound,
    hessian_bound,
    normal_change_bound,
)
from .intervals import Box, ball, gradient_bounds, output_bounds
from .network import RoundingWarning
from .operator_norms import convolution_norm, matrix_norm

__all__ = [
    "Box", "RoundingWarning", "ball", "certified_signs", "certified_top_k", "convolution_norm",
    "cross_entropy_hessian_bound", "gradient_bounds", "gradient_change_bound", "heatmap_bounds",
    "heatmap_change_bound", "hessian_bound", "map_change_bound", "matrix_norm", "normal_change_bound", "output_bounds",
    "saliency_bounds",
]


def __dir__():
    return __all__
