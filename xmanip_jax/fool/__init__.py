"""Attacks on a network's weights: fine-tuning after which the explanations lie and the predictions stay.

Each is a penalty of one example, as a defence is, and goes through the loss and the loop of `train`. Its objective is
one of `objectives`, those of attacks on pixels.
"""

from .backdoors import backdoor, stamp
from .fairwashing import fairwash
from .fooling import fooling
from .heo2019 import active, location, mass_center, top_k

__all__ = ["active", "backdoor", "fairwash", "fooling", "location", "mass_center", "stamp", "top_k"]


def __dir__():
    return __all__
