"""What bounds know of an elementwise function: the ranges of it, of its slope and of that one's slope.

A function that is known (`critical_points.TABLE`) has the tightest. Every other one is enclosed from what it computes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..numerics import epsilon
from ..rewrite import Stage
from ..types import Array, ArrayLike
from .critical_points import PRIMITIVES, TABLE, Shape
from .custom_rules import has_rule, opened, primitive_of, slope_of
from .enclosure import enclose

__all__ = ["Activation", "activation", "enclosed", "known"]

Ends = tuple[Array, Array]


class Activation(NamedTuple):
    """An elementwise function s.

    value: s;  slope: s', as jax computes it, custom rules and kinks included.
    values, slopes, curvatures: (lower, upper) -> the least and the largest of s, s', s'' there, rounded outwards;
    those of s'' are infinite where s' may jump;  steepest: (lower, upper) -> the largest |s'|, of the derivative rules
    and of s itself;  anywhere: () -> sup |s'| and sup |s''| over all inputs, infinite if unknown.
    jumps: s' jumps at a kink that is known;  convex, beta, exact: as in `critical_points.Shape`.
    """

    name: str
    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    values: Callable[[Array, Array], Ends]
    slopes: Callable[[Array, Array], Ends]
    curvatures: Callable[[Array, Array], Ends]
    steepest: Callable[[Array, Array], Array]
    anywhere: Callable[[], tuple[ArrayLike, ArrayLike]]
    jumps: bool = False
    convex: bool = False
    beta: ArrayLike | None = None
    exact: bool = False

    def curvature(self, z: Array) -> Array:
        """s'' of a softplus: beta s(z) s(-z), s being the sigmoid; falls with |z|."""
        beta: Any = self.beta
        return beta * jax.nn.sigmoid(beta * z) * jax.nn.sigmoid(-beta * z)


def activation(stage: Stage) -> Activation:
    """A stage that maps the one value that it carries elementwise.

    Raises UnsupportedPrimitiveError for an operation inside it without a range, and for a derivative rule that is not
    linear in what it pulls back.
    """
    run = lambda z: stage.operation.apply(*(z if isinstance(o, int) else o for o in stage.operands))
    function = stage.operation.known
    if function and function.name in TABLE:
        parameters = (stage.operands[p[1]] if isinstance(p, tuple) else p for p in function.parameters)
        return known(str(stage.operation), run, TABLE[function.name](*parameters))
    shape, = stage.shapes  # of the argument, too
    if (name := primitive_of(run, shape)) in PRIMITIVES:
        return known(str(stage.operation), run, PRIMITIVES[name])
    return enclosed(str(stage.operation), run, shape)


def known(name: str, run: Callable[[Array], Array], shape: Shape) -> Activation:
    """The activation `run` of a known shape: its range is that of its values at the ends and where it turns."""
    slope = slope_of(run)
    bend = slope_of(slope)

    def total(ends, lower, upper):
        """Infinite on an interval with the pole inside."""
        if shape.pole is None:
            return _sound(*ends)
        holds = (lower <= shape.pole) & (upper >= shape.pole)
        return _sound(*(jnp.where(holds, jnp.nan, end) for end in ends))

    def around(like):
        """The kinks and, on either side, their neighbours."""
        step = lambda k: 2 * epsilon(like) * jnp.abs(k) + float(jnp.finfo(like.dtype).tiny)
        kinks = [jnp.asarray(k, like.dtype) for k in shape.kinks]
        return [v for k in kinks for v in (k, k - step(k), k + step(k))]

    def values(lower, upper):
        least, largest = total(_between(run, lower, upper, (*shape.kinks, *shape.value)), lower, upper)
        finite = sum(jnp.where(jnp.isfinite(v), jnp.abs(v), 0) for v in (lower, upper, least, largest))
        slack = 0 if shape.exact else 8 * epsilon(lower) * finite
        return least - slack, largest + slack

    def slopes(lower, upper):
        margin = 4 * epsilon(lower) if shape.kinks and not shape.exact else 0  # kinks are where rounding has them
        lower, upper = lower - margin * jnp.abs(lower), upper + margin * jnp.abs(upper)
        least, largest = total(_between(slope, lower, upper, (*around(lower), *shape.slope)), lower, upper)
        digits = 0 if shape.exact else shape.digits * epsilon(lower)
        return _widened(least, largest, digits, 1.0 if shape.steepest is not np.inf else None, shape.steepest)

    def curvatures(lower, upper):
        find = shape.curvatures or (lambda *ends: _between(bend, *ends, (*around(ends[0]), *shape.curvature)))
        if shape.most_curved is None:
            return jnp.full_like(lower, -jnp.inf), jnp.full_like(upper, jnp.inf)
        digits, bounded = 8 * shape.digits * epsilon(lower), shape.most_curved is not np.inf
        scale = jnp.asarray(shape.most_curved, lower.dtype) if bounded else None
        return _widened(*total(find(lower, upper), lower, upper), digits, scale, shape.most_curved)

    return Activation(
        name, run, slope, values, slopes, curvatures, lambda *ends: _size(slopes(*ends)),
        lambda: (shape.steepest, jnp.inf if shape.most_curved is None else shape.most_curved),
        shape.most_curved is None, shape.convex, shape.beta, shape.exact)


def enclosed(name: str, run: Callable[[Array], Array], shape: jax.ShapeDtypeStruct) -> Activation:
    """The activation `run`, unknown, from what it computes. shape: of its argument. Raises as `activation`."""
    range_of = lambda function: jax.jit(functools.partial(enclose, function))  # traced once
    slope = slope_of(run)
    value, slopes, bends = range_of(run), range_of(slope), [range_of(slope_of(slope))]
    steeps = [slopes]
    if has_rule(run, shape):  # what the rules say, and what they are the rules of
        steeps.append(range_of(slope_of(opened(run))))
        bends.append(range_of(slope_of(opened(slope))))

    def steepest(lower, upper):
        return functools.reduce(jnp.maximum, (_size(s(lower, upper)) for s in steeps))

    def curvatures(lower, upper):
        found = [bend(lower, upper) for bend in bends]
        jumps = value(lower, upper).jumps | slopes(lower, upper).jumps
        least = functools.reduce(jnp.minimum, (f.lower for f in found))
        largest = functools.reduce(jnp.maximum, (f.upper for f in found))
        return jnp.where(jumps, -jnp.inf, least), jnp.where(jumps, jnp.inf, largest)

    def over_all():
        ends = [jnp.full(shape.shape, v, shape.dtype) for v in (-jnp.inf, jnp.inf)]
        return steepest(*ends).max(initial=0), _size(curvatures(*ends)).max(initial=0)

    @functools.cache
    def anywhere():
        with jax.ensure_compile_time_eval():
            return jax.jit(over_all)()

    jax.eval_shape(lambda z: (value(z, z), slopes(z, z)), shape)
    ends = lambda found: lambda lower, upper: found(lower, upper)[:2]
    return Activation(name, run, slope, ends(value), ends(slopes), curvatures, steepest, anywhere)


def _between(function, lower, upper, places):
    """The least and the largest of a function's values at the ends and at the places between them."""
    dtype = lower.dtype
    between = [jnp.minimum(jnp.maximum(jnp.asarray(p, dtype), lower), upper) for p in places]
    found = list(jax.vmap(function)(jnp.stack([lower, upper, *between])))
    # Chosen by comparison: the derivative of min compares a value with itself recomputed, and may be 0 / 0.
    least = functools.reduce(lambda a, b: jnp.where((a < b) | jnp.isnan(a), a, b), found)
    return least, functools.reduce(lambda a, b: jnp.where((a > b) | jnp.isnan(a), a, b), found)


def _sound(least, largest):
    """What is not a number may be any."""
    return jnp.where(jnp.isnan(least), -jnp.inf, least), jnp.where(jnp.isnan(largest), jnp.inf, largest)


def _widened(least, largest, digits, scale, most):
    """By a share `digits` of `scale`, or of themselves; no further than most. digits: 0 for what does not round."""
    slack = lambda v: digits * (jnp.where(jnp.isfinite(v), jnp.abs(v), 0) if scale is None else scale)
    most = jnp.asarray(most, least.dtype) * (1 + digits)
    return jnp.clip(least - slack(least), -most, most), jnp.clip(largest + slack(largest), -most, most)


def _size(ends):
    return jnp.maximum(jnp.abs(ends[0]), jnp.abs(ends[1]))
