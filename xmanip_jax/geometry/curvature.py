"""The curvature of a function relative to its slope."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arguments import check_count
from ..numerics import repeat
from ..types import AnyArray, Array, Bool, Float, RandomKey
from .flat import flatten
from .hvp import gradient_and_hvp

__all__ = ["Curvature", "normalised_curvature"]


class Curvature(NamedTuple):
    """value = spectral_norm / (gradient_norm + eps), unit 1 / x; the residual and the verdict of the spectral norm."""

    value: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    spectral_norm: Float[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


def normalised_curvature(g: Callable[[Any], Float[AnyArray, ""]], x: Any, *, steps: int = 20, eps: float = 1e-6,
                         tolerance: float = 1e-2, key: RandomKey | None = None) -> Curvature:
    """||H||_2 / (||grad g|| + eps) at `x`, by power iteration (Srinivas et al. 2022, LCNN, section 3).

    The released code estimates ||H||_2 by |u^T H u|, which goes to anything, even 0, where eigenvalues of opposite
    signs have equal size; this is ||H u||, which never exceeds the truth and converges to it. What it bounds is the
    relative change of the gradient: ||grad g(x + e) - grad g(x)|| <= ||grad g(x)|| (exp(||e|| c) - 1), where c is the
    largest value along the segment with eps = 0.

    Args:
      g: x -> Float[]; the paper takes the loss;  x: any tree of real arrays.
      steps: power iterations, 2 forward passes each, and 6 more in all;  eps: in the unit of the gradient.
      tolerance: converged means residual = ||H^2 u - s^2 u|| / s <= tolerance * s, s being the spectral norm.
      key: of the random start, None meaning a fixed one.

    Raises ValueError for steps below 1 and for a g or x that `hvp` refuses.

    >>> saddle = lambda x: x[0] ** 2 - x[1] ** 2 + x[2]
    >>> c = jax.jit(lambda x: normalised_curvature(saddle, x))(jnp.array([0.0, 0.0, 1.0]))
    >>> round(float(c.value), 3), bool(c.converged)
    (2.0, True)
    """
    check_count(steps=steps)
    g, x, _ = flatten(g, x)
    gradient, product = gradient_and_hvp(g, x)
    start = jax.random.normal(jax.random.key(0) if key is None else key, x.shape, x.dtype)
    u = repeat(lambda u: _unit(product(u)), _unit(start), steps)
    image = product(u)
    norm, slope = jnp.linalg.norm(image), jnp.linalg.norm(gradient)
    residual = jnp.linalg.norm(product(_unit(image)) - norm * u)
    return Curvature(norm / (slope + eps), slope, norm, residual, residual <= tolerance * norm)


def _unit(v):
    """`v` of length 1, or 0 where it is 0."""
    return v / jnp.maximum(jnp.linalg.norm(v), jnp.finfo(v.dtype).tiny)
