"""Sound ranges of elementwise functions from what they compute.

A function is traced, and its equations are evaluated in interval arithmetic (`arithmetic.RULES`) on each of many short
pieces of the interval, so that the ranges are close however often the argument occurs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..rewrite import UnsupportedPrimitiveError
from ..rewrite.graph import literal
from ..rewrite.jaxprs import Literal, bind, bodies, eqn_name, is_custom_rule, prims
from ..types import AnyArray, Array, Float
from .arithmetic import RULES, Range, fixed

__all__ = ["enclose", "walk"]

_FAR = 64.0  # an unbounded interval is cut within it, where functions do what they do


def enclose(function: Callable[[Array], Array], lower: Float[AnyArray, "*shape"], upper: Float[AnyArray, "*shape"],
            pieces: int = 32) -> Range:
    """All values of an elementwise `function` on [lower, upper], and whether they may jump there; arrays of one shape.

    Raises UnsupportedPrimitiveError naming the operation for which no range is known.

    >>> found = enclose(lambda z: z * jnp.exp(-z), jnp.float32(0), jnp.float32(4))
    >>> bool(found.lower <= 0), round(float(found.upper), 2)  # the largest is 1 / e = 0.37; never a smaller one
    (True, 0.42)
    """
    closed = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(lower.shape, lower.dtype))
    shape = closed.out_avals[0].shape

    def over(low, high):
        found, = walk(closed.jaxpr, closed.consts, [Range(low, high)], _range)
        if isinstance(found, _Unknown):
            raise UnsupportedPrimitiveError(f"no range is known for {found.name}")
        found = found if isinstance(found, Range) else fixed(found)
        return tuple(jnp.broadcast_to(v, shape) for v in found[:3])

    edges = _edges(lower, upper, pieces)
    lows, highs, jumps = jax.vmap(over)(edges[:-1], edges[1:])
    return Range(lows.min(0), highs.max(0), jumps.any(0))


def _edges(lower, upper, pieces):
    """Float[pieces + 1, ...]: from lower to upper, most of them within _FAR of zero if one is infinite."""
    infinite = jnp.isinf(lower) | jnp.isinf(upper)
    start, stop = (jnp.where(infinite, jnp.clip(v, -_FAR, _FAR), v) for v in (lower, upper))
    share = (jnp.arange(1, pieces) / pieces).astype(lower.dtype).reshape(-1, *[1] * lower.ndim)
    inner = jnp.clip(start[None] * (1 - share) + stop[None] * share, lower[None], upper[None])
    return jnp.concatenate([lower[None], inner, upper[None]])


def walk(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], results: Callable) -> list:
    """Run an open jaxpr, its calls and custom rules opened: results(eqn, values) for every other equation."""
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, values, strict=True))
    read = lambda v: literal(v) if isinstance(v, Literal) else env[v]
    for eqn in jaxpr.eqns:
        operands = list(map(read, eqn.invars))
        opens = eqn.primitive in (prims.jit_p, prims.remat_p) or is_custom_rule(eqn)
        found = walk(*bodies(eqn)[0], operands, results) if opens else results(eqn, operands)
        env.update(zip(eqn.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


class _Unknown(NamedTuple):
    """A value without a range because of the operation `name`."""

    name: str


def _range(eqn, values):
    """One equation on ranges; what does not depend on them is computed as it is."""
    if not any(isinstance(v, Range | _Unknown) for v in values):
        return bind(eqn, values)
    unknown = next((v for v in values if isinstance(v, _Unknown)), None)
    if unknown is None and eqn.primitive.name in RULES:
        ranges = [v if isinstance(v, Range) else fixed(v) for v in values]
        found = RULES[eqn.primitive.name](lambda *operands: bind(eqn, operands)[0], eqn.params, *ranges)
        if found is not None:
            return [found]
    return [unknown or _Unknown(eqn_name(eqn))] * len(eqn.outvars)
