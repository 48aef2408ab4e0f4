"""The Hessian of a function smoothed by Gaussian noise: relu networks have one (Torop et al. 2023, SmoothHess).

Stein's lemma: the Hessian of E[g(x + sigma u)], u ~ N(0, 1), is E[u grad g(x + sigma u)^T] / sigma. Here with pairs
+-u, for less variance, and symmetrised: E[u d^T + d u^T] / (2 sigma) with
d = (grad g(x + sigma u) - grad g(x - sigma u)) / 2.

`sigma` is the standard deviation of the noise. The released code calls the VARIANCE `sigma`, and `std`: its 1.8e-4 is
0.0134 here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..arguments import check_count, check_positive, keys_of
from ..numerics import over_chunks
from ..types import Array, Float, RandomKey
from .flat import flatten, like

__all__ = ["SmoothHessian", "SmoothPairs", "smooth_eigenpairs", "smooth_hessian", "smooth_hvp"]


class SmoothHessian(NamedTuple):
    """hessian, standard_error of each entry: Float[d, d];  gradient: of the smoothed g (SmoothGrad), in x's shape."""

    hessian: Float[Array, "d d"]
    standard_error: Float[Array, "d d"]
    gradient: Any


def smooth_hessian(g: Callable[[Any], Array], x: Any, *, key: RandomKey, samples: int = 1000, sigma: float,
                   chunk: int | None = None) -> SmoothHessian:
    """The Hessian of E[g(x + sigma u)] at `x`, estimated without bias from `samples` pairs; unit g / x^2.

    Args:
      g: x -> Float[], differentiable almost everywhere: relu will do;  x: any tree of real arrays, d numbers in all.
      key: a typed key;  samples: pairs, 4 forward passes each;  sigma: standard deviation, in the unit of x.
      chunk: pairs computed at once, None meaning all; the numbers are the same. Memory: d^2 and chunk * d.

    Rows and columns follow jax.flatten_util.ravel_pytree(x). With one pair the standard error is nan.

    Raises ValueError for sigma <= 0, counts below 1, a g that is not scalar, an x that is not real.

    >>> relu = lambda x: jax.nn.relu(x[0])
    >>> at = smooth_hessian(relu, jnp.zeros(1), key=jax.random.key(0), samples=4000, sigma=0.5)
    >>> bool(abs(at.hessian[0, 0] - 0.79788) < 3 * at.standard_error[0, 0])  # the density of the noise at the kink
    True
    """
    pair, unravel = _pairs(g, x, sigma, samples)

    def part(keys):
        u, d, mean = jax.vmap(pair)(keys)
        product = u.T @ d
        square = (u * u).T @ (d * d)
        cross = (u * d).T @ (u * d)
        return (product + product.T) / 2, (square + 2 * cross + square.T) / 4, mean.sum(0)

    first, second, mean = over_chunks(part, keys_of(key, samples), chunk, add=True)
    hessian = first / samples
    variance = jnp.maximum(second / samples - hessian ** 2, 0)
    error = jnp.sqrt(variance / (samples - 1)) if samples > 1 else jnp.full_like(hessian, jnp.nan)
    return SmoothHessian(hessian / sigma, error / sigma, unravel(mean / samples))


def smooth_hvp(g: Callable[[Any], Array], x: Any, v: Any, *, key: RandomKey, samples: int = 1000, sigma: float,
               chunk: int | None = None) -> Any:
    """`smooth_hessian(...).hessian` times `v`, in the shape of x, without the matrix: memory chunk * d.

    The same key gives the same matrix, hence a linear and symmetric function of v. Arguments and errors as there.

    >>> smooth_hvp(jnp.sum, jnp.ones(2), jnp.ones(2), key=jax.random.key(0), samples=10, sigma=0.1)
    Array([0., 0.], dtype=float32)
    """
    pair, unravel = _pairs(g, x, sigma, samples)
    v = ravel_pytree(like(x, v))[0]

    def part(keys):
        u, d, _ = jax.vmap(pair)(keys)
        return (u.T @ (d @ v) + d.T @ (u @ v)) / (2 * sigma)

    return unravel(over_chunks(part, keys_of(key, samples), chunk, add=True) / samples)


class SmoothPairs(NamedTuple):
    """values: Float[k], largest magnitude first;  vectors: a tree of [k, ...];  gradient: as in SmoothHessian."""

    values: Float[Array, " k"]
    vectors: Any
    gradient: Any


def smooth_eigenpairs(g: Callable[[Any], Array], x: Any, k: int, *, key: RandomKey, samples: int = 100,
                      sigma: float, chunk: int | None = None) -> SmoothPairs:
    """The k largest eigenpairs of `smooth_hessian(...).hessian`, exactly, without the matrix.

    With fewer than d / 2 pairs the estimate has rank 2 * samples: it is W C W^T with W = [u, d], Float[d, 2 samples],
    and its eigenvectors are in the span of W. Memory 2 * samples * d. For `low_rank_trust_region_step`.

    Args: as in `smooth_hessian`;  k: 1 to 2 * samples, and 2 * samples <= d. Beyond that, form the matrix.

    Raises ValueError for k or samples out of range, besides what `smooth_hessian` raises.

    >>> g = lambda x: x[0] ** 2
    >>> smooth_eigenpairs(g, jnp.ones(8), 1, key=jax.random.key(0), samples=4, sigma=0.1).vectors.shape
    (1, 8)
    """
    pair, unravel = _pairs(g, x, sigma, samples)
    check_count(k=k)
    size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(x))
    if not k <= 2 * samples <= size:
        raise ValueError(f"needs k <= 2 samples <= d, got k = {k}, samples = {samples}, d = {size}")
    u, d, mean = over_chunks(jax.vmap(pair), keys_of(key, samples), chunk)
    basis, r = jnp.linalg.qr(jnp.concatenate([u, d]).T)
    mixed = r[:, :samples] @ r[:, samples:].T
    values, vectors = jnp.linalg.eigh((mixed + mixed.T) / (2 * sigma * samples))
    order = jnp.argsort(-jnp.abs(values))[:k]
    vectors = jax.vmap(unravel)((basis @ vectors[:, order]).T)
    return SmoothPairs(values[order], vectors, unravel(mean.mean(0)))


def _pairs(g, x, sigma, samples):
    """key -> u, (grad g(x + sigma u) - grad g(x - sigma u)) / 2, their mean: Float[d] each; and the way back."""
    check_count(samples=samples)
    check_positive(sigma=sigma)
    g, x, unravel = flatten(g, x)

    def pair(key):
        u = jax.random.normal(key, x.shape, x.dtype)
        plus, minus = jax.grad(g)(x + sigma * u), jax.grad(g)(x - sigma * u)
        return u, (plus - minus) / 2, (plus + minus) / 2

    return pair, unravel
