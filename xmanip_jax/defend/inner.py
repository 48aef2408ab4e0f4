"""The inner maximisation of robust training: the neighbour at which an objective is worst."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import geometry
from ..geometry import Box
from ..geometry.base import repeat
from ..types import Array, ArrayLike

__all__ = ["Ascent", "ascend", "sign_step"]


class Ascent(NamedTuple):
    """Projected gradient ascent by the sign, in the unit of x.

    radius: of the ball, in each coordinate;  step: of one move;  steps: moves, 0 for the random start alone;
    low, high: bounds of x, scalars or broadcastable to it;  random_start: uniform in the ball, else x itself.
    """

    radius: ArrayLike
    step: ArrayLike
    steps: int
    low: ArrayLike = 0.0
    high: ArrayLike = 1.0
    random_start: bool = True


def sign_step(objective: Callable[[Array], Array], x: Array, box: Box, step: ArrayLike) -> Array:
    """`x` moved by `step` along the sign of the objective's gradient, within a box (`geometry.ball`).

    >>> sign_step(lambda z: z.sum(), jnp.array([0.2, 0.95]), geometry.ball(jnp.array([0.2, 0.95]), 0.1, 0, 1), 0.2)
    Array([0.3, 1. ], dtype=float32)
    """
    return jnp.clip(x + step * jnp.sign(jax.grad(objective)(x)), *box)


def ascend(objective: Callable[[Array], Array], x: Array, key: Array | None, a: Ascent) -> Array:
    """The neighbour of `x` where the ascent of `objective` by `sign_step` ends; no derivative flows through it.

    2 forward passes a step for an objective of the outputs, 4 for one of explanations. A loop primitive, unrolled
    where that is slow (a convolution on CPU).

    Raises ValueError for negative steps and radii, and without a key where the start is random.

    >>> ascend(lambda z: z.sum(), jnp.array([0.2, 0.95]), None, Ascent(0.1, 0.2, 1, random_start=False))
    Array([0.3, 1. ], dtype=float32)
    """
    if a.steps < 0:
        raise ValueError(f"an ascent takes steps of 0 or more, got {a.steps}")
    if a.random_start and key is None:
        raise ValueError("a random start needs a key")
    box = geometry.ball(x, a.radius, a.low, a.high)
    start = jax.random.uniform(key, x.shape, x.dtype, -1, 1) * a.radius if a.random_start else 0
    move = lambda z: sign_step(objective, z, box, a.step)
    return jax.lax.stop_gradient(repeat(move, jnp.clip(x + start, *box), a.steps))
