"""Attacks on explanations: an objective, a constraint, an optimiser, a surrogate and a driver; and a sneaking one."""

from .constraint import box, l0, l2, linf
from .manipulate import DEFAULT_OBJECTIVE, Manipulated, Progress, ZeroGradientError, default_optimizer, manipulation
from .objective import (
    View,
    hide_top_k,
    keep_logits,
    keep_output,
    keep_probabilities,
    match_map,
    move_mass_center,
    raise_region,
    same_prediction,
    top_k_hidden,
    weighted,
)
from .sneaking import Sneaked, sneaking
from .sparse import greedy_pixels, release_pixels

__all__ = [
    "DEFAULT_OBJECTIVE", "Manipulated", "Progress", "Sneaked", "View", "ZeroGradientError", "box", "default_optimizer",
    "greedy_pixels", "hide_top_k", "keep_logits", "keep_output", "keep_probabilities", "l0", "l2", "linf",
    "manipulation", "match_map", "move_mass_center", "raise_region", "release_pixels", "same_prediction", "sneaking",
    "top_k_hidden", "weighted",
]
