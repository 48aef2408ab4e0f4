"""Eigenvalues of the Hessian of a scalar function of the input, by Lanczos iteration.

Not matfree's: at the end of a Krylov space it divides rounding by rounding (or zero by zero), which on a multiple of
the identity, such as the curvature of a sphere, returned 5.4 for 1; and the convolutions in its loop are several times
slower on CPU than those of `numerics.repeat`. The tests compare with it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arguments import check_count
from ..numerics import repeat
from ..types import AnyArray, Array, Bool, Float, RandomKey
from .flat import flatten
from .hvp import gradient_and_hvp

__all__ = ["Eigenpairs", "Norm", "lanczos", "spectral_norm", "top_eigenpairs"]


class Eigenpairs(NamedTuple):
    """k eigenpairs, largest magnitude first.

    values: Float[k];  vectors: a tree of [k, ...], each of unit norm over the tree, the sign arbitrary;
    residuals: Float[k], ||H v - value v||: an eigenvalue lies within it;
    converged: Bool[k], residuals <= tolerance * the largest |value|.
    """

    values: Float[Array, " k"]
    vectors: Any
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]


class Norm(NamedTuple):
    """The largest singular value found, a lower bound of the norm; its residual, in its unit; whether it is small."""

    value: Float[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


def top_eigenpairs(g: Callable[[Any], Array], x: Any, k: int, *, steps: int | None = None, tolerance: float = 1e-3,
                   key: RandomKey | None = None) -> Eigenpairs:
    """The k eigenpairs of the Hessian of `g` at `x` whose eigenvalues are largest in magnitude; unit g / x^2.

    Lanczos iteration with full reorthogonalisation. The values are Rayleigh quotients of stopped vectors, so that the
    derivative of a simple eigenvalue in x and in the parameters of g is exact where it has converged.

    Args:
      g: x -> Float[];  x: any tree of real arrays, d numbers in all.
      k: 1 to d;  steps: k to d, the depth of the Krylov space; None means 2 k + 30. Memory 2 * steps * d.
      tolerance: relative to the largest eigenvalue, for `converged`; float32 reaches about 1e-5.
      key: of the start vector; None means one fixed vector. A start orthogonal to an eigenvector misses it.

    Costs 2 + 2 (steps + k) forward passes. A residual says that an eigenvalue is there, not that none is larger; more
    steps do. Where the Krylov space ends (low rank, repeated eigenvalues) a random vector starts it afresh.

    Raises ValueError for k or steps out of range and for a g or x that `hvp` refuses.

    >>> top = jax.jit(lambda x: top_eigenpairs(lambda x: x[0] ** 2 - 3 * x[1] ** 2 + x[2], x, 2))(jnp.ones(3))
    >>> top.values.round().tolist(), top.converged.tolist()
    ([-6.0, 2.0], [True, True])
    """
    g, x, unravel = flatten(g, x)
    pairs = lanczos(gradient_and_hvp(g, x)[1], x, k, steps=steps, tolerance=tolerance, key=key)
    return pairs._replace(vectors=jax.vmap(unravel)(pairs.vectors))


def spectral_norm(g: Callable[[Any], Array], x: Any, *, steps: int | None = None, tolerance: float = 1e-3,
                  key: RandomKey | None = None) -> Norm:
    """||H||_2 of the Hessian of `g` at `x`, the largest magnitude of an eigenvalue; unit g / x^2.

    Never above the truth, up to rounding. Arguments, errors and derivatives as in `top_eigenpairs`.

    >>> float(jax.jit(lambda x: spectral_norm(lambda x: x[0] ** 2 - 3 * x[1] ** 2, x).value.round())(jnp.ones(2)))
    6.0
    """
    pairs = top_eigenpairs(g, x, 1, steps=steps, tolerance=tolerance, key=key)
    return Norm(jnp.abs(pairs.values[0]), pairs.residuals[0], pairs.converged[0])


def lanczos(product: Callable[[Array], Array], like: Float[AnyArray, " d"], k: int, *, steps: int | None = None,
            tolerance: float = 1e-3, key: RandomKey | None = None) -> Eigenpairs:
    """`top_eigenpairs` of any symmetric product Float[d] -> Float[d]; `like`: Float[d], for its shape and type."""
    d = like.size
    check_count(k=k)
    steps = min(2 * k + 30, d) if steps is None else steps
    if not k <= steps <= d:
        raise ValueError(f"Lanczos needs k <= steps <= d, got k = {k}, steps = {steps}, d = {d}")
    basis, projected = _krylov(product, like, steps, jax.random.key(0) if key is None else key)
    values, vectors = jnp.linalg.eigh(projected)
    vectors = vectors[:, jnp.argsort(-jnp.abs(values))[:k]].T @ basis
    images = jax.vmap(product)(vectors)
    values = jnp.sum(images * vectors, -1)
    residuals = jax.lax.stop_gradient(jnp.linalg.norm(images - values[:, None] * vectors, axis=-1))
    return Eigenpairs(values, vectors, residuals, residuals <= tolerance * jnp.abs(values).max())


class _Krylov(NamedTuple):
    """The next row and its vector; rows found (zero until then); their products with A; the largest ||A v||."""

    i: Array
    v: Array
    basis: Array
    projected: Array
    scale: Array


def _krylov(product, like, steps, key):
    """Q: Float[steps, d] with orthonormal rows, and Q A Q^T."""
    fresh = jax.random.normal(key, (steps + 1, like.size), like.dtype)
    basis, projected = jnp.zeros((steps, like.size), like.dtype), jnp.zeros((steps, steps), like.dtype)
    state = _Krylov(0, fresh[-1] / jnp.linalg.norm(fresh[-1]), basis, projected, projected[0, 0])
    state = repeat(lambda s: _krylov_step(product, s, fresh), state, steps)
    lower = jnp.tril(state.projected)
    return state.basis, lower + jnp.tril(lower, -1).T


def _krylov_step(product, state, fresh):
    basis = state.basis.at[state.i].set(state.v)
    image = jax.lax.stop_gradient(product(state.v))  # the eigenvalues differentiate with their vectors fixed
    scale = jnp.maximum(state.scale, jnp.linalg.norm(image))
    rest, afresh = _orthogonal(basis, jnp.stack([image, fresh[state.i]]))
    info = jnp.finfo(image.dtype)
    rest = jnp.where(jnp.linalg.norm(rest) <= 10 * info.eps * scale, afresh, rest)
    v = rest / jnp.maximum(jnp.linalg.norm(rest), info.tiny)
    return _Krylov(state.i + 1, v, basis, state.projected.at[state.i].set(basis @ image), scale)


def _orthogonal(basis, vectors):
    """`vectors` less their components along the basis: twice, which suffices in floating point (Parlett 1980)."""
    for _ in range(2):
        vectors = vectors - (vectors @ basis.T) @ basis
    return vectors
