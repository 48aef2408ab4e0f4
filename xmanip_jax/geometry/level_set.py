"""The level set {g = c} of a scalar function of the input: how it bends, and curves on it.

The normalised gradient is the normal of the level set, so what turns an explanation at constant output is the level
set's curvature (Dombrowski et al. 2019, theorem 1).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..arguments import check_count
from ..numerics import over_chunks, repeat
from ..types import Array, ArrayLike, Bool, Float, Num, RandomKey
from .flat import flatten
from .hvp import gradient_and_hvp
from .spectrum import Eigenpairs, lanczos

__all__ = ["Path", "Projection", "all_principal_curvatures", "level_set_path", "principal_curvatures",
           "project_to_level_set"]


def principal_curvatures(g: Callable[[Any], Array], x: Any, k: int, *, steps: int | None = None,
                         tolerance: float = 1e-3, key: RandomKey | None = None) -> Eigenpairs:
    """The k principal curvatures of the level set of `g` through `x` that are largest in magnitude; unit 1 / x.

    The eigenpairs of -(P H P) / ||grad g|| on the tangent space, P = 1 - n n^T, n = grad g / ||grad g|| (Dombrowski et
    al. 2019, theorem 1). Negative where the set bends away from n: -1 / r on a sphere whose g grows outwards.

    Args: as in `top_eigenpairs`, with 1 <= k <= steps <= d - 1. The vectors are tangent, in the shape of x.
    Costs 2 + 2 (steps + k) forward passes. nan where the gradient vanishes: no level surface is there.

    Raises ValueError for k or steps out of range and for a g or x that `hvp` refuses.

    >>> sphere = lambda x: (x ** 2).sum()
    >>> jax.jit(lambda x: principal_curvatures(sphere, x, 2).values.round(3))(jnp.array([0.0, 0.0, 2.0]))
    Array([-0.5, -0.5], dtype=float32)
    """
    g, x, unravel = flatten(g, x)
    shape, lift = _tangent(g, x)
    pairs = lanczos(shape, x[1:], k, steps=steps, tolerance=tolerance, key=key)
    return pairs._replace(vectors=jax.vmap(lambda v: unravel(lift(v)))(pairs.vectors))


def all_principal_curvatures(g: Callable[[Any], Array], x: Any) -> tuple[Float[Array, " n"], Any]:
    """All d - 1 principal curvatures, ascending, and their tangent directions: a tree of [d - 1, ...].

    Exact, from the dense matrix: memory d^2, 2 d forward passes. Sign, unit and errors as in `principal_curvatures`.

    >>> parabola = lambda x: x[0] ** 2 + x[1]
    >>> jax.jit(lambda x: all_principal_curvatures(parabola, x)[0].round(3))(jnp.array([0.0, 1.0]))
    Array([-2.], dtype=float32)
    """
    g, x, unravel = flatten(g, x)
    shape, lift = _tangent(g, x)
    values, vectors = jnp.linalg.eigh(over_chunks(jax.vmap(shape), jnp.eye(x.size - 1, dtype=x.dtype), None))
    return values, jax.vmap(lambda v: unravel(lift(v)))(vectors.T)


def _tangent(g, x):
    """The second fundamental form Float[d - 1] -> Float[d - 1] and the map of its coordinates to tangent vectors.

    A Householder reflection that takes the first axis to +-n takes the other axes to an orthonormal tangent basis.
    """
    gradient, product = gradient_and_hvp(g, x)
    slope = jnp.linalg.norm(gradient)
    n = gradient / slope
    axis = n.at[0].add(jnp.where(n[0] < 0, -1, 1))
    axis = axis / jnp.linalg.norm(axis)
    reflect = lambda v: v - 2 * axis * (axis @ v)
    lift = lambda v: reflect(jnp.concatenate([jnp.zeros(1, v.dtype), v]))
    return lambda v: -reflect(product(lift(v)))[1:] / slope, lift


class Projection(NamedTuple):
    """A point in the shape of x, |g(point) - level| there, and whether that is small."""

    point: Any
    residual: Float[Array, ""]
    converged: Bool[Array, ""]


def project_to_level_set(g: Callable[[Any], Array], x: Any, level: Num[ArrayLike, ""], *, steps: int = 20,
                         tolerance: float = 1e-5) -> Projection:
    """A point of {g = level} near `x`: Newton steps x - (g - level) grad g / ||grad g||^2, 2 forward passes each.

    Near the set it is the nearest point up to the second order in the distance; far from it, some point or none.

    Args:
      g: x -> Float[];  x: any tree of real arrays;  level: Float[], in the unit of g.
      steps: Newton steps;  tolerance: of the residual, relative to max(|level|, ||x|| ||grad g||).

    Raises ValueError for steps below 1 and for a g or x that `hvp` refuses.

    >>> sphere = lambda x: (x ** 2).sum()
    >>> jax.jit(lambda x: project_to_level_set(sphere, x, 1.0).point.round(3))(jnp.array([3.0, 4.0]))
    Array([0.6, 0.8], dtype=float32)
    """
    check_count(steps=steps)
    g, x, unravel = flatten(g, x)
    point, residual, small = _newton(g, x, level, steps, tolerance)
    return Projection(unravel(point), residual, small)


def _newton(g, x, level, steps, tolerance):
    slope = jax.value_and_grad(g)

    def step(z):
        value, gradient = slope(z)
        square = jnp.maximum(gradient @ gradient, jnp.finfo(x.dtype).tiny)
        return z - (value - level) / square * gradient

    point = repeat(step, x, steps)
    value, gradient = slope(point)
    unit = jnp.maximum(jnp.abs(level), jnp.linalg.norm(point) * jnp.linalg.norm(gradient))
    residual = jnp.abs(value - level)
    return point, residual, residual <= tolerance * unit


class Path(NamedTuple):
    """A curve on a level set, by points.

    points: a tree of [n + 1, ...];  length: of the polygon through them, in the unit of x;  error: an estimate of what
    the polygon leaves out, from every second point;  largest_step: between neighbours: far above length / n means a
    jump from sheet to sheet, hence no curve;  converged: all points are on the set.
    """

    points: Any
    length: Float[Array, ""]
    error: Float[Array, ""]
    largest_step: Float[Array, ""]
    converged: Bool[Array, ""]


def level_set_path(g: Callable[[Any], Array], start: Any, end: Any, *, level: Num[ArrayLike, ""] | None = None,
                   segments: int = 64, steps: int = 20, tolerance: float = 1e-5, chunk: int | None = None) -> Path:
    """A curve on {g = level} from `start` to `end`: their segment, projected point by point on the level set.

    Its length is the length of ONE curve on the set. The geodesic distance, the length of the shortest, is at most
    that; length + error estimates it and is no certificate, the polygon being shorter than the curve.

    Args:
      g: x -> Float[];  start, end: trees of real arrays of the same shapes; projected as well, so an end that is off
        the set is moved onto it.
      level: Float[], None meaning g(start);  segments: an even number of pieces.
      steps, tolerance: of each projection, as in `project_to_level_set`;  chunk: points projected at once, None: all.

    Costs (segments + 1) (2 steps + 2) forward passes.

    Raises ValueError for odd or too few segments, shapes that differ, and a g or x that `hvp` refuses.

    >>> circle = lambda x: (x ** 2).sum()
    >>> quarter = jax.jit(lambda a, b: level_set_path(circle, a, b))(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    >>> round(float(quarter.length + quarter.error), 3), bool(quarter.converged)  # pi / 2
    (1.571, True)
    """
    check_count(segments=segments, steps=steps)
    if segments % 2:
        raise ValueError(f"segments is even, got {segments}")
    if jax.tree.map(jnp.shape, start) != jax.tree.map(jnp.shape, end):
        raise ValueError(f"start and end have shapes {jax.tree.map(jnp.shape, start)} and "
                         f"{jax.tree.map(jnp.shape, end)}")
    g, a, unravel = flatten(g, start)
    b = ravel_pytree(end)[0].astype(a.dtype)
    level = g(a) if level is None else level
    at = jax.vmap(lambda t: _newton(g, (1 - t) * a + t * b, level, steps, tolerance))
    points, _, small = over_chunks(at, jnp.linspace(0, 1, segments + 1, dtype=a.dtype), chunk)
    lengths = jnp.linalg.norm(jnp.diff(points, axis=0), axis=1)
    coarse = jnp.linalg.norm(jnp.diff(points[::2], axis=0), axis=1).sum()
    return Path(jax.vmap(unravel)(points), lengths.sum(), (lengths.sum() - coarse) / 3, lengths.max(), small.all())
