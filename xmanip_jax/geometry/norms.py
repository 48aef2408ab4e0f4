"""The Frobenius norm of a Hessian, estimated from products with random vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arguments import check_count, keys_of
from ..numerics import over_chunks
from ..types import Array, Float, RandomKey
from .flat import flatten
from .hvp import gradient_and_hvp

__all__ = ["Estimate", "frobenius_norm", "squared_frobenius_norm"]


class Estimate(NamedTuple):
    """An estimated number and its standard error, both in the number's unit."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


def _sphere(key, shape, dtype):
    v = jax.random.normal(key, shape, dtype)
    return v * jnp.sqrt(v.size / jnp.sum(v * v))


_PROBES = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal, "sphere": _sphere}


def squared_frobenius_norm(g: Callable[[Any], Array], x: Any, *, key: RandomKey, samples: int = 100,
                           probe: str = "rademacher", chunk: int | None = None) -> Estimate:
    """||H||_F^2 of the Hessian of `g` at `x`, unbiased: the mean of ||H v||^2 over random v with E[v v^T] = 1.

    Hutchinson 1989; Dombrowski et al. 2022 penalise it. With A = H^2 one probe's variance is 2 tr A^2 (gaussian),
    2 (||A||_F^2 - sum A_ii^2) (rademacher) or 2 d / (d + 2) (tr A^2 - (tr A)^2 / d) (sphere); the last two are never
    larger.

    Args:
      g: x -> Float[];  x: any tree of real arrays;  key: a typed key, the same for the same numbers.
      samples: probes; 2 + 2 samples forward passes. With one, the standard error is nan.
      probe: "rademacher", "gaussian", or "sphere": uniform on the sphere of radius sqrt(d).
      chunk: probes computed at once, None meaning all. Memory grows with it; the numbers are the same.

    The value differentiates, in x and in the parameters of g; the standard error is a constant.

    How often value -+ 1.96 standard errors holds the truth (4000 trials, d = 48, rademacher, random basis): with
    eigenvalues 0.8^i 94.8 % at 300 probes, 94.7 % at 100, 92.6 % at 30, 88 % at 10 and 77 % at 3; with 1 / i^2 and
    with rank one 94.4, 94, 90, 84 and 68 %; gaussian and sphere within 3 % of that. Few probes cover too little,
    because the squares are skewed and the error is itself estimated. Take 100 or more.

    Raises ValueError for an unknown probe, a count below 1, a g or x that `hvp` refuses.

    >>> squared_frobenius_norm(lambda x: (x ** 2).sum(), jnp.ones(3), key=jax.random.key(0), samples=4)
    Estimate(value=Array(12., dtype=float32), standard_error=Array(0., dtype=float32))
    """
    squares = _squares(g, x, key, samples, probe, chunk)
    error = jnp.std(squares, ddof=1) / jnp.sqrt(samples) if samples > 1 else jnp.full((), jnp.nan, squares.dtype)
    return Estimate(squares.mean(), jax.lax.stop_gradient(error))


def frobenius_norm(g: Callable[[Any], Array], x: Any, *, key: RandomKey, samples: int = 100,
                   probe: str = "rademacher", chunk: int | None = None) -> Estimate:
    """||H||_F of the Hessian of `g` at `x`, by the jackknife, with standard error se(||H||_F^2) / (2 ||H||_F).

    The plain root of the mean is too small, by Var / (8 samples ||H||_F^4) to first order; leaving out one probe at a
    time removes that order. Rank one, 10 probes:
    0.973 of the truth becomes 0.995 (rademacher), 0.966 becomes 0.990 (gaussian).
    Arguments and errors as in `squared_frobenius_norm`, with at least 2 samples. Unit g / x^2.

    >>> frobenius_norm(lambda x: (x ** 2).sum(), jnp.ones(4), key=jax.random.key(0), samples=4)
    Estimate(value=Array(4., dtype=float32), standard_error=Array(0., dtype=float32))
    """
    if samples < 2:
        raise ValueError(f"the jackknife needs at least 2 samples, got {samples}")
    squares = _squares(g, x, key, samples, probe, chunk)
    root = jnp.sqrt(squares.mean())
    without = jnp.sqrt(jnp.maximum(squares.sum() - squares, 0) / (samples - 1))
    error = jnp.std(squares, ddof=1) / jnp.sqrt(samples) / jnp.maximum(2 * root, jnp.finfo(root.dtype).tiny)
    return Estimate(samples * root - (samples - 1) * without.mean(), jax.lax.stop_gradient(error))


def _squares(g, x, key, samples, probe, chunk):
    """Float[samples]: ||H v||^2."""
    if probe not in _PROBES:
        raise ValueError(f"probe is one of {', '.join(_PROBES)}, got {probe!r}")
    check_count(samples=samples)
    g, x, _ = flatten(g, x)
    product = gradient_and_hvp(g, x)[1]

    def square(k):
        return jnp.sum(product(_PROBES[probe](k, x.shape, x.dtype)) ** 2)

    return over_chunks(jax.vmap(square), keys_of(key, samples), chunk)
