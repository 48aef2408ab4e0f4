"""How fast an explanation changes with the input."""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..types import AnyArray, Explanation, Float, Model, RandomKey, Target
from .piecewise import warn_if_it_jumps
from .spectrum import Norm, lanczos

__all__ = ["lipschitz"]


def lipschitz(e: Explanation, f: Model, x: Float[AnyArray, "*shape"], target: Target, *, key: RandomKey | None = None,
              steps: int | None = None, tolerance: float = 1e-3, start: RandomKey | None = None) -> Norm:
    """The local Lipschitz constant of an explanation at `x`: the largest singular value of its Jacobian in x.

    ||e(x + d) - e(x)|| <= value ||d|| to first order, with equality in one direction. For `explain.gradient` it is
    ||H||_2. Unit map / x. Lanczos iteration on J^T J, with forward and reverse products; never above the truth.

    Args:
      e: any differentiable explanation;  f: a smooth model; a relu network's maps jump, of which a
        PiecewiseLinearWarning says that `smooth.softplus` is the way out.
      x: Float[h, w, c];  target: as e takes it;  key: the explanation's own, held fixed.
      steps: 1 to d products with J^T J, None meaning 32 or d;  tolerance: residual = ||J^T J v - s^2 v|| / s against s.
      start: a key of the start vector, None meaning a fixed one.

    Raises ValueError for steps out of range, and the errors of `e`.

    >>> from xmanip_jax import explain
    >>> f = lambda x: jnp.array([x[0] ** 2 + 3 * x[1] ** 2])
    >>> round(float(jax.jit(lambda x: lipschitz(explain.gradient(), f, x, 0).value)(jnp.ones(2))), 3)
    6.0
    """
    flat, unravel = ravel_pytree(x)
    explain = lambda z: ravel_pytree(e(f, unravel(z), target, key=key))[0]
    _, forward = jax.linearize(explain, flat)
    warn_if_it_jumps(explain, flat, forward)
    reverse = jax.linear_transpose(forward, flat)
    pairs = lanczos(lambda v: reverse(forward(v))[0], flat, 1, steps=steps, tolerance=tolerance, key=start)
    square = jnp.maximum(pairs.values[0], 0)
    # The root of zero, the constant of a map that does not change, would have an infinite derivative.
    value = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    residual = jnp.where(value > 0, pairs.residuals[0] / jnp.where(value > 0, value, 1), 0)
    return Norm(value, jax.lax.stop_gradient(residual), pairs.converged[0])
