"""Attacks on explanations: an objective, a constraint, an optimiser, a surrogate model, and one driver."""

from .backdoor import backdoor, stamp
from .constraint import box, l0, l2, linf
from .fooling import active, center_mass, fairwash, location, top_k
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
from .sparse import greedy_pixels, release_pixels

__all__ = [
    "DEFAULT_OBJECTIVE", "Manipulated", "Progress", "View", "ZeroGradientError", "active", "backdoor", "box",
    "center_mass", "default_optimizer", "fairwash", "greedy_pixels", "hide_top_k", "keep_logits", "keep_output",
    "keep_probabilities", "l0", "l2", "linf", "location", "manipulation", "match_map", "move_mass_center",
    "raise_region", "release_pixels", "same_prediction", "stamp", "top_k", "top_k_hidden", "weighted",
]
