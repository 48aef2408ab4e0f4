"""The best that a search has seen so far: one record for all of them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..objectives import View
from ..types import Array

__all__ = ["Best", "better"]


class Best(NamedTuple):
    """Of one image: its view, the value that the search raises, and what belongs to it: a gradient, a step, nothing."""

    view: View
    value: Array
    along: Any = ()


def better(best: Best, found: Best, allowed: Array | bool = True) -> Best:
    """`found` where it is allowed and above the best in value, else the best; an undefined value is above nothing."""
    return jax.tree.map(partial(jnp.where, allowed & (found.value > best.value)), found, best)
