"""Distances of two maps, for training and judging (Noppel et al. 2023)."""

import jax.numpy as jnp

from ..types import Array, ArrayLike, Float, Nested, Num
from .similarity import _pair, ssim

__all__ = ["dssim", "standardised_mse"]


def standardised_mse(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested) -> Float[Array, ""]:
    """The mean squared difference of the maps, each with mean 0 and standard deviation 1: in [0, 4], 2 - 2 Pearson.

    A constant map is standardised to zero, so that training goes on.

    >>> standardised_mse([0.0, 1.0], [3.0, 5.0]), standardised_mse([0.0, 1.0], [5.0, 3.0])
    (Array(0., dtype=float32), Array(4., dtype=float32))
    """
    u, v = map(_standardised, _pair(a, b))
    return jnp.mean((u - v) ** 2)


def dssim(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested, *,
          window: int | None = None) -> Float[Array, ""]:
    """(1 - SSIM) / 2 of maps Float[h, w], each brought to [0, 1] by its own minimum and maximum, data range 1.

    window: that of ssim; default 7, or the largest odd one that fits the map.

    >>> import jax
    >>> a = jax.random.uniform(jax.random.key(0), (8, 8))
    >>> abs(round(float(dssim(a, 3 * a + 1)), 4)), bool(dssim(a, 1 - a) > 0.8)
    (0.0, True)
    """
    a, b = _pair(a, b)
    return (1 - ssim(_unit_range(a), _unit_range(b), data_range=1.0, window=window)) / 2


def _standardised(v):
    v = v - v.mean()
    square = jnp.mean(v * v)
    return v / jnp.sqrt(jnp.where(square > 0, square, 1))


def _unit_range(v):
    low, high = v.ravel()[v.argmin()], v.ravel()[v.argmax()]  # by position: see explain.heatmap
    return (v - low) / jnp.where(high > low, high - low, 1)
