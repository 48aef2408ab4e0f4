"""Attacks on explanations: an objective, a constraint, an optimiser, a surrogate and a driver; and a sneaking one."""

from .ascent import largest_change
from .backdoor import backdoor, stamp
from .change import Changed, transfer
from .constraint import box, l0, l2, linf
from .diagnosis import NonFiniteError, ZeroGradientError
from .fooling import active, center_mass, fairwash, location, top_k
from .manipulate import DEFAULT_OBJECTIVE, Manipulated, Progress, default_optimizer, manipulation
from .masking import Flag, Flags, flags
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
from .square import random_search

__all__ = [
    "DEFAULT_OBJECTIVE", "Changed", "Flag", "Flags", "Manipulated", "NonFiniteError", "Progress", "Sneaked", "View",
    "ZeroGradientError", "active", "backdoor", "box", "center_mass", "default_optimizer", "fairwash", "flags",
    "greedy_pixels", "hide_top_k", "keep_logits", "keep_output", "keep_probabilities", "l0", "l2", "largest_change",
    "linf", "location", "manipulation", "match_map", "move_mass_center", "raise_region", "random_search",
    "release_pixels", "same_prediction", "sneaking", "stamp", "top_k", "top_k_hidden", "transfer", "weighted",
]
