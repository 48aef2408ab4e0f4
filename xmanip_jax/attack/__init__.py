"""Attacks on the explanation of an image: objective (`objectives`), constraint, optimiser, surrogate and driver."""

from .apgd import largest_change
from .change import Changed, transfer
from .constraint import box, l0, l2, linf
from .descent import DEFAULT_OBJECTIVE, Manipulated, Progress, default_optimizer, manipulation
from .diagnosis import NonFiniteError, ZeroGradientError
from .genetic import genetic_search
from .masking import Flag, Flags, flags
from .sneaking import Sneaked, sneaking
from .sparse import greedy_pixels, release_pixels
from .square import random_search

__all__ = [
    "DEFAULT_OBJECTIVE", "Changed", "Flag", "Flags", "Manipulated", "NonFiniteError", "Progress", "Sneaked",
    "ZeroGradientError", "box", "default_optimizer", "flags", "genetic_search", "greedy_pixels", "l0", "l2",
    "largest_change", "linf", "manipulation", "random_search", "release_pixels", "sneaking", "transfer",
]


def __dir__():
    return __all__
