"""Products with the Hessian of a scalar function of the input, without the Hessian."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..numerics import over_chunks
from ..types import Array
from .flat import flatten, like
from .piecewise import warn_if_it_jumps

__all__ = ["gradient_and_hvp", "hvp", "hvps"]


def _forward_over_reverse(g, x, v):
    return jax.jvp(jax.grad(g), (x,), (v,))[1]


def _reverse_over_forward(g, x, v):
    return jax.grad(lambda z: jax.jvp(g, (z,), (v,))[1])(x)


def _reverse_over_reverse(g, x, v):
    return jax.vjp(jax.grad(g), x)[1](v)[0]


_MODES = {"forward_over_reverse": _forward_over_reverse, "reverse_over_forward": _reverse_over_forward,
          "reverse_over_reverse": _reverse_over_reverse}


def hvp(g: Callable[[Any], Array], x: Any, v: Any, *, mode: str = "forward_over_reverse") -> Any:
    """The Hessian of `g` at `x` times `v`, in the shape of x; unit g / x^2 times that of v.

    Args:
      g: x -> Float[]; a logit, a difference of logits, a loss. The curvature of a piecewise linear g, such as a relu
        network's logit, is 0: a PiecewiseLinearWarning says so, here and in all that is made of such products.
      x: any tree of real arrays, such as Float[h, w, c];  v: a tree of the same shapes.
      mode: "forward_over_reverse", "reverse_over_forward" or "reverse_over_reverse": the same numbers.

    Costs 4 forward passes in every mode, less what the first layer takes.

    Raises ValueError for an unknown mode, a g that is not scalar, an x that is not real, shapes that differ.

    >>> hvp(lambda x: x[0] ** 2 * x[1], jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0]))
    Array([4., 2.], dtype=float32)
    """
    if mode not in _MODES:
        raise ValueError(f"mode is one of {', '.join(_MODES)}, got {mode!r}")
    flatten(g, x)
    v, slope = like(x, v), jax.grad(g)
    warn_if_it_jumps(slope, x, lambda v: jax.linearize(slope, x)[1](v))
    return _MODES[mode](g, x, v)


def hvps(g: Callable[[Any], Array], x: Any, vs: Any) -> Any:
    """The Hessian of `g` at `x` times n vectors: a tree of [n, ...] in the shapes of x.

    The primal computation is shared: 2 + 2 n forward passes, where n calls of `hvp` take 4 n. Arguments and errors as
    in `hvp`, every array of `vs` having one leading axis of n.

    >>> hvps(lambda x: x[0] ** 2 * x[1], jnp.array([1.0, 2.0]), jnp.eye(2))
    Array([[4., 2.],
           [2., 0.]], dtype=float32)
    """
    return over_chunks(jax.vmap(gradient_and_hvp(g, x)[1]), vs, None)


def gradient_and_hvp(g: Callable[[Any], Array], x: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The gradient of `g` at `x`, and the function v -> H v, linear, that shares what x alone determines.

    2 forward passes for the gradient, 2 more for every product. Memory: what the backward pass of a gradient keeps.
    Arguments and errors as in `hvp`.

    >>> gradient, product = gradient_and_hvp(lambda x: (x ** 3).sum(), jnp.array([1.0, 2.0]))
    >>> gradient, product(jnp.array([1.0, 1.0]))
    (Array([ 3., 12.], dtype=float32), Array([ 6., 12.], dtype=float32))
    """
    flatten(g, x)
    x, slope = jax.tree.map(jnp.asarray, x), jax.grad(g)
    gradient, product = jax.linearize(slope, x)
    warn_if_it_jumps(slope, x, product)
    return gradient, lambda v: product(like(x, v))
