"""Max-pooling for bounds: which inputs of a window may be the largest."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..numerics import epsilon
from ..rewrite import Stage
from ..types import Array

__all__ = ["Windows", "over_axes", "windows"]


class Windows(NamedTuple):
    """parts(values, fill): Float[n, *result], the n inputs of every window, `fill` outside the input.

    terms: windows that share an input, at most;  shape: of the input.
    """

    parts: Callable[[Array, float], Array]
    terms: int
    shape: jax.ShapeDtypeStruct

    def largest(self, values: Array) -> Array:
        return self.parts(values, -jnp.inf).max(0)

    def gates(self, lower: Array, upper: Array) -> tuple[Array, Array]:
        """Float[n, *result] of 0 and 1: the input is certainly the largest of its window, and possibly.

        By more than rounding: where the derivative picks the largest, its numbers may be recomputed.
        """
        slack = 8 * epsilon(lower)
        lower, upper = self.parts(lower, -jnp.inf), self.parts(upper, -jnp.inf)
        below, above = (v + sign * slack * jnp.abs(jnp.where(jnp.isfinite(v), v, 0))
                        for v, sign in ((lower, -1), (upper, 1)))
        certain, possible = below > _others(above), above >= _others(below)
        return certain.astype(lower.dtype), possible.astype(lower.dtype)

    def spread(self, cotangents: Array) -> tuple[Array]:
        """Every part of Float[n, *result] back at its input, added up."""
        return jax.linear_transpose(lambda v: self.parts(v, 0.0), self.shape)(cotangents)


def windows(stage: Stage, shape: jax.ShapeDtypeStruct) -> Windows | None:
    """The stage as a hard max-pooling or a maximum over axes, or None. shape: of its first operand."""
    operation = stage.operation
    if operation.primitive == "reduce_max":
        return over_axes(operation.params["axes"], stage.shapes[0].shape, shape)
    if operation.kind != "max_pool" or "window_dimensions" not in operation.params:
        return None
    p = operation.params
    if any(d != 1 for name in ("base_dilation", "window_dilation") for d in p.get(name, ())):
        return None

    def parts(v, fill):
        padded = jax.lax.pad(v, jnp.asarray(fill, v.dtype), [(low, high, 0) for low, high in p["padding"]])
        spans = [(n - 1) * s + 1 for n, s in zip(stage.shapes[0].shape, p["window_strides"], strict=True)]
        offsets = itertools.product(*map(range, p["window_dimensions"]))
        return jnp.stack([jax.lax.slice(padded, at, np.add(at, spans), p["window_strides"]) for at in offsets])

    return Windows(parts, math.prod(p["window_dimensions"]), shape)


def over_axes(axes: tuple[int, ...], result: tuple[int, ...], shape: jax.ShapeDtypeStruct) -> Windows:
    """The maximum over axes of an array of `shape`; result: the shape of what is left."""
    front = tuple(range(len(axes)))
    return Windows(lambda v, fill: jnp.moveaxis(v, axes, front).reshape(-1, *result), 1, shape)


def _others(values):
    """Float[n, ...]: for each entry, the largest of the other n - 1 along the first axis."""
    none = jnp.full_like(values[:1], -jnp.inf)
    before = jax.lax.cummax(jnp.concatenate([none, values[:-1]]), axis=0)
    after = jax.lax.cummax(jnp.concatenate([values[1:], none]), axis=0, reverse=True)
    return jnp.maximum(before, after)
