"""The minimum of a quadratic over a ball: the second-order attack, exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..arguments import check_positive
from ..types import Array, ArrayLike, Bool, Float, Num

__all__ = ["TrustRegionStep", "low_rank_trust_region_step", "trust_region_step"]


class TrustRegionStep(NamedTuple):
    """The minimum.

    step: Float[d];  value: of the quadratic there, <= 0;  multiplier: lambda >= 0 with (H + lambda) step = -gradient.
    interior: the step is the unconstrained minimum, lambda = 0;  hard: the hard case, in which the secular equation
    has no solution and the step goes to the sphere along the lowest eigenvector, in either sense.
    """

    step: Float[Array, " d"]
    value: Float[Array, ""]
    multiplier: Float[Array, ""]
    interior: Bool[Array, ""]
    hard: Bool[Array, ""]


def trust_region_step(gradient: Float[ArrayLike, " d"], hessian: Float[ArrayLike, "d d"],
                      radius: Num[ArrayLike, ""]) -> TrustRegionStep:
    """The global minimum of gradient . s + s^T H s / 2 over ||s|| <= radius, for any symmetric H.

    By the eigendecomposition of H and the secular equation ||(H + lambda)^-1 gradient|| = radius, lambda >= max(0,
    -lowest eigenvalue) (More and Sorensen 1983), which replaces the semidefinite program of Torop et al. 2023.

    Args:
      gradient: Float[d];  hessian: Float[d, d], symmetric;  radius: positive, in the unit of the step.

    Raises ValueError for shapes that do not fit or a radius that is known and not positive.

    >>> s = jax.jit(trust_region_step)(jnp.array([1.0, 0.0]), jnp.diag(jnp.array([1.0, -2.0])), 2.0)  # the hard case
    >>> round(float(abs(s.step[1])), 3), round(float(s.value), 3), bool(s.hard)
    (1.972, -4.167, True)
    """
    gradient, hessian = jnp.asarray(gradient), jnp.asarray(hessian)
    if gradient.ndim != 1 or hessian.shape != gradient.shape * 2:
        raise ValueError(f"the gradient is Float[d], the Hessian Float[d, d]; got {gradient.shape}, {hessian.shape}")
    values, vectors = jnp.linalg.eigh((hessian + hessian.T) / 2)
    solution = _secular(values, vectors.T @ gradient, _radius(radius, gradient))
    return solution._replace(step=vectors @ solution.step)


def low_rank_trust_region_step(gradient: Float[ArrayLike, " d"], values: Float[ArrayLike, " k"],
                               vectors: Float[ArrayLike, "k d"], radius: Num[ArrayLike, ""]) -> TrustRegionStep:
    """`trust_region_step` for H = sum values_i vectors_i vectors_i^T, never forming H.

    Args:
      gradient: Float[d];  values: Float[k];  vectors: Float[k, d], orthonormal rows;  radius: positive.

    The minimum lies in the span of the vectors and the gradient, a problem of k + 1 dimensions. Raises as above.

    >>> jax.jit(low_rank_trust_region_step)(jnp.array([0.0, 1.0]), jnp.array([3.0]), jnp.array([[1.0, 0.0]]), 2.0).step
    Array([-0., -2.], dtype=float32)
    """
    gradient, values, vectors = jnp.asarray(gradient), jnp.asarray(values), jnp.asarray(vectors)
    if gradient.ndim != 1 or vectors.shape != (*values.shape, *gradient.shape):
        raise ValueError(f"the gradient is Float[d], values Float[k], vectors Float[k, d]; got {gradient.shape}, "
                         f"{values.shape}, {vectors.shape}")
    inside = vectors @ gradient
    rest = gradient - vectors.T @ inside
    length = jnp.linalg.norm(rest)
    solution = _secular(jnp.append(values, 0), jnp.append(inside, length), _radius(radius, gradient))
    direction = rest / jnp.maximum(length, jnp.finfo(rest.dtype).tiny)
    return solution._replace(step=vectors.T @ solution.step[:-1] + solution.step[-1] * direction)


def _radius(radius, gradient):
    check_positive(radius=radius)
    return jnp.asarray(radius, gradient.dtype)


def _secular(w, c, radius):
    """The same problem for the diagonal matrix w: lambda = low + mu, bisected in log mu to full relative precision."""
    info = jnp.finfo(c.dtype)
    low = jnp.maximum(0, -w.min())
    shifted = jnp.where(low > 0, w - w.min(), w)  # exactly zero at the lowest eigenvalue
    step = lambda mu: -c / (shifted + mu)
    length = lambda mu: jnp.linalg.norm(step(mu))
    top = jnp.log(jnp.maximum(jnp.linalg.norm(c) / radius, info.tiny ** 0.5))
    bottom = top + 3 * jnp.log(info.eps)

    def halve(i, ends):
        middle = (ends[0] + ends[1]) / 2
        outside = length(jnp.exp(middle)) > radius
        return jnp.where(outside, middle, ends[0]), jnp.where(outside, ends[1], middle)

    mu = jnp.exp(jax.lax.fori_loop(0, 64, halve, (bottom, top))[1])
    short = length(jnp.exp(bottom)) < radius
    interior = short & (w.min() > 0)
    hard = short & ~interior
    mu = jnp.where(interior | hard, 0, mu)
    safe = jnp.where(shifted + mu > 0, shifted + mu, jnp.inf)  # in the hard case c vanishes where the divisor does
    s = -c / safe
    lowest = jnp.argmin(w)
    gap = jnp.sqrt(jnp.maximum(radius ** 2 - s @ s, 0))
    s = s.at[lowest].add(jnp.where(hard, jnp.where(c[lowest] > 0, -gap, gap), 0))
    return TrustRegionStep(s, c @ s + s @ (w * s) / 2, low + mu, interior, hard)
