"""The bounds of the two papers along a path, from curvature at sampled points: estimates, not certificates.

`hessian_bound` has what certifies: the curvature between the samples is not known.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..numerics import over_chunks
from ..types import Array, Bool, Float
from .flat import flatten
from .hvp import gradient_and_hvp
from .level_set import all_principal_curvatures, principal_curvatures
from .spectrum import lanczos

__all__ = ["PathEstimate", "gradient_change_estimate", "normal_change_estimate"]


class PathEstimate(NamedTuple):
    """change: what the quantity did from the first point to the last;  estimate: of the bound;  curvature: Float[n], at
    each point;  length: of the polygon;  converged: every curvature is.
    """

    change: Float[Array, ""]
    estimate: Float[Array, ""]
    curvature: Float[Array, " n"]
    length: Float[Array, ""]
    converged: Bool[Array, ""]


def normal_change_estimate(g: Callable[[Any], Array], points: Any, *, exact: bool = False, steps: int | None = None,
                           chunk: int | None = None) -> PathEstimate:
    """Theorem 1 of Dombrowski et al. 2019 along a curve on the level set: ||n(p) - n(q)|| <= |lambda|_max length.

    n = grad g / ||grad g||; lambda_max is the principal curvature of largest magnitude anywhere ON THE CURVE; at its
    ends alone it is no bound. Here it is the largest over the points.

    Args:
      g: x -> Float[], smooth;  points: a tree of [n, ...], for example of `level_set_path`.
      exact: all principal curvatures from the dense matrix, else the largest by Lanczos iteration with `steps`.
      chunk: points at once, None: all.

    >>> circle = lambda x: (x ** 2).sum()
    >>> angle = jnp.linspace(0, jnp.pi / 2, 65)
    >>> on = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
    >>> found = jax.jit(lambda p: normal_change_estimate(circle, p))(on)
    >>> round(float(found.change), 2), round(float(found.estimate), 2)  # a chord and its arc
    (1.41, 1.57)
    """
    g, flat = _flattened(g, points)

    def at(x):
        gradient = jax.grad(g)(x)
        if exact:
            curvature, converged = jnp.abs(all_principal_curvatures(g, x)[0]).max(), jnp.array(True)
        else:
            pairs = principal_curvatures(g, x, 1, steps=steps)
            curvature, converged = jnp.abs(pairs.values[0]), pairs.converged[0]
        return gradient / jnp.linalg.norm(gradient), curvature, converged

    normals, curvature, converged = over_chunks(jax.vmap(at), flat, chunk)
    length = jnp.linalg.norm(jnp.diff(flat, axis=0), axis=1).sum()
    return PathEstimate(jnp.linalg.norm(normals[-1] - normals[0]), curvature.max() * length, curvature, length,
                        converged.all())


def gradient_change_estimate(g: Callable[[Any], Array], points: Any, *, steps: int | None = None,
                             chunk: int | None = None) -> PathEstimate:
    """The path bound of Dombrowski et al. 2022: ||grad g(p) - grad g(q)|| <= integral of ||H c'|| dt.

    By the trapezoidal rule over the points of the path, its first estimate being `estimate`; curvature is ||H||_2 at
    each point, whose largest value times the length is the looser form. Holds for any path of a smooth g, among others
    the iterates of an attack. Arguments as in `normal_change_estimate`.

    >>> cube = lambda x: (x ** 3).sum()
    >>> found = jax.jit(lambda p: gradient_change_estimate(cube, p))(jnp.linspace(0, 1, 33)[:, None])
    >>> round(float(found.change), 2), round(float(found.estimate), 2)
    (3.0, 3.0)
    """
    g, flat = _flattened(g, points)
    moves = jnp.pad(jnp.diff(flat, axis=0), ((1, 1), (0, 0)))  # to and from each point

    def at(i):
        gradient, product = gradient_and_hvp(g, flat[i])
        norm = lanczos(product, flat[i], 1, steps=steps)
        turns = jax.vmap(lambda v: jnp.linalg.norm(product(v)))(jnp.stack([moves[i], moves[i + 1]]))
        return gradient, jnp.abs(norm.values[0]), norm.converged[0], turns

    gradients, curvature, converged, turns = over_chunks(jax.vmap(at), jnp.arange(len(flat)), chunk)
    return PathEstimate(jnp.linalg.norm(gradients[-1] - gradients[0]), turns.sum() / 2, curvature,
                        jnp.linalg.norm(moves, axis=1).sum(), converged.all())


def _flattened(g, points):
    """g of flat points, and the points as Float[n, d]."""
    first = jax.tree.map(lambda v: v[0], points)
    return flatten(g, first)[0], jax.vmap(lambda p: ravel_pytree(p)[0])(points)
