"""What bounds know of an activation: it does not decrease, and its slope rises up to one place and falls after it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..rewrite import Stage
from ..types import Array

__all__ = ["Activation", "activation"]


class Activation(NamedTuple):
    """A non-decreasing elementwise function s whose slope has one peak.

    value: s;  slope: s', which at a kink is jax's;  peak: the argument at which s' is largest, inf where s is convex;
    slope_bound: sup s';  curvature_bound: sup |s''|, None where the slope jumps;  exact: value and slope do not round;
    beta: the sharpness of a softplus, else None.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    peak: float
    slope_bound: float
    curvature_bound: Array | float | None
    exact: bool = False
    beta: Array | float | None = None

    @property
    def convex(self) -> bool:
        return self.peak == float("inf")

    def curvature(self, z: Array) -> Array:
        """s'' of a softplus: beta s(z) s(-z), s being the sigmoid; falls with |z|."""
        return self.beta * jax.nn.sigmoid(self.beta * z) * jax.nn.sigmoid(-self.beta * z)


def activation(stage: Stage) -> Activation | None:
    """The stage as an activation, or None."""
    operation = stage.operation
    known = operation.known
    if operation.kind not in ("activation", "statistic") or known is None or known.name not in _KNOWN:
        return None
    parameters = [stage.operands[p[1]] if isinstance(p, tuple) else p for p in known.parameters]
    run = lambda z: operation.apply(*(z if isinstance(o, int) else o for o in stage.operands))
    slope = lambda z: jax.jvp(run, (z,), (jnp.ones_like(z),))[1]
    return Activation(run, slope, *_KNOWN[known.name](*parameters))


def _softplus(beta=1.0):
    return float("inf"), 1.0, jnp.max(jnp.asarray(beta)) / 4, False, beta


# peak, sup s', sup |s''|, exact, beta
_KNOWN = {
    "relu": lambda: (float("inf"), 1.0, None, True),
    "relu6": lambda: (3.0, 1.0, None, True),
    "softplus": _softplus,
    "softplus_beta": _softplus,
    "centred_softplus": _softplus,
    "softplus_beta6": lambda beta: (3.0, 1.0, jnp.max(jnp.asarray(beta)) / 4),
    "tanh": lambda: (0.0, 1.0, 4 / 27**0.5),
    "sigmoid": lambda: (0.0, 0.25, 1 / 108**0.5),
}
