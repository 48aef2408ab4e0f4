"""The slope of an activation between 0 and its argument, by which relevance passes it: (f(z) - f(0)) / z.

It is f(z) / z for all that are 0 at 0, and what f has at 0 counts as a bias. Closed forms where the table has one, so
that no 0 / 0 is left in any derivative.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..nonlinearities import softplus_secant
from ..rewrite import Operation
from ..types import Array, Float

__all__ = ["secant"]

_CLOSED: dict[str, Callable[..., Any]] = {
    "gelu": lambda z: 0.5 * jax.lax.erfc(-z * np.sqrt(0.5).astype(z.dtype)),
    "gelu_tanh": lambda z: 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi).astype(z.dtype) * (z + 0.044715 * z**3))),
    "swish": jax.nn.sigmoid,
    "mish": lambda z: jnp.tanh(jax.nn.softplus(z)),
    "hard_swish": lambda z: jnp.clip(z + 3, 0, 6) / 6,
    "square": lambda z: z,
    "softplus": softplus_secant,
    "softplus_beta": lambda z, beta: softplus_secant(beta * z),
    "centred_softplus": lambda z, beta: softplus_secant(beta * z),
}
_RAYS = {"abs", "leaky_relu", "relu"}  # straight on either side of 0: the slope is the derivative
_NEAR = 0.02  # below it the mean of the derivative between 0 and z, by Gauss's quadrature; nothing cancels
_POINTS, _WEIGHTS = ((v + s) / 2 for v, s in zip(np.polynomial.legendre.leggauss(5), (1, 0), strict=True))


def secant(operation: Operation, operands: tuple[Array, ...]) -> Float[Array, "*shape"]:
    """The slope of an activation of one operand, which is differentiable to any order in it, 0 included."""
    at, known = operation.carried.index(True), operation.known
    z = operands[at]
    run = lambda z: operation.apply(*operands[:at], z, *operands[at + 1:])
    if known and known.name in _CLOSED:
        return _CLOSED[known.name](z, *(operands[p[1]] if isinstance(p, tuple) else p for p in known.parameters))
    slope = lambda z: jax.jvp(run, (z,), (jnp.ones_like(z),))[1]
    return slope(z) if known and known.name in _RAYS else _mean_slope(run, slope, z)


def _mean_slope(run: Callable, slope: Callable, z: Array) -> Array:
    near = jnp.abs(z) < _NEAR
    small, large = jnp.where(near, z, 0), jnp.where(near, 1, z)
    means = sum(jnp.asarray(w, z.dtype) * slope(jnp.asarray(t, z.dtype) * small)
                for t, w in zip(_POINTS, _WEIGHTS, strict=True))
    return jnp.where(near, means, (run(large) - run(jnp.zeros_like(z))) / large)
