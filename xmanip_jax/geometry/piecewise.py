"""Curvature that is 0 because a function is piecewise linear: found in its trace, and said."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Literal

__all__ = ["PiecewiseLinearWarning", "jumps", "warn_if_it_jumps"]


class PiecewiseLinearWarning(UserWarning):
    """A curvature is exactly 0 wherever it exists: all of it is in the kinks, which no derivative sees."""


def jumps(slope: Callable[[Any], Any], x: Any, product: Callable[[Any], Any]) -> bool:
    """Whether `slope` depends on x, but by jumps alone, as the gradient of a relu network does.

    Read off traces, nothing is computed: `product`, v -> the derivative of slope at x times v, is zero as a matter of
    structure where no operations lead from v to its result. What is known is what the derivatives compute, in
    whatever spelling. False for what does not depend on x at all, such as the gradient of an affine function.

    >>> slope = jax.grad(jax.nn.relu)
    >>> jumps(slope, 1.0, jax.linearize(slope, 1.0)[1])
    True
    """
    return not _depends(product, x) and _depends(slope, x)


def warn_if_it_jumps(slope: Callable[[Any], Any], x: Any, product: Callable[[Any], Any]) -> None:
    """A PiecewiseLinearWarning with the way out, when traced, where `jumps`."""
    if jumps(slope, x, product):
        warnings.warn("this function is piecewise linear: its curvature is 0 at every point but the kinks, while its "
                      "gradient jumps there. Measure a smooth neighbour: smooth.softplus(f, beta)",
                      PiecewiseLinearWarning, stacklevel=3)


def _depends(f, x):
    """Whether operations lead from x to a result of `f` in its trace."""
    jaxpr = jax.make_jaxpr(lambda x: f(x))(x).jaxpr
    live = set(jaxpr.invars)
    reached = lambda variables: any(not isinstance(v, Literal) and v in live for v in variables)
    for eqn in jaxpr.eqns:
        if reached(eqn.invars):
            live.update(eqn.outvars)
    return reached(jaxpr.outvars)
