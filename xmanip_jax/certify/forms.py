"""Arithmetic of values that are known up to an interval, or as a linear function of the inputs plus an interval.

The second are zonotopes whose symbols are the inputs. Every operation rounds outwards. A form that is not a number is
one of which nothing is known: what is made of it is not a number either, and its bounds are infinite.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..numerics import epsilon
from ..types import AnyArray, Array, Float
from .activations import Activation

__all__ = ["Form", "add", "bounds", "gate", "inputs", "linear_map", "multiply", "of_bounds", "repeated",
           "value"]


class Form(NamedTuple):
    """centre + sum_i slopes[i] e_i -+ radius, for all e in [-1, 1]^d; slopes: Float[d, *value], None if d = 0."""

    centre: Float[Array, "*shape"]
    radius: Float[Array, "*shape"]
    slopes: Float[Array, " n *shape"] | None = None

    @property
    def eps(self) -> float:
        return epsilon(self.centre)

    @property
    def reach(self) -> Array:
        """How far from the centre."""
        return self.radius if self.slopes is None else self.radius + jnp.abs(self.slopes).sum(0)

    @property
    def size(self) -> Array:
        """How far from zero."""
        return jnp.abs(self.centre) + self.reach


def of_bounds(lower: Float[AnyArray, "*shape"], upper: Float[AnyArray, "*shape"]) -> Form:
    """The interval [lower, upper]."""
    centre = lower + (upper - lower) / 2
    form = Form(centre, jnp.maximum(upper - centre, centre - lower))
    return form._replace(radius=form.radius * (1 + 4 * form.eps))


def inputs(lower: Float[AnyArray, "*shape"], upper: Float[AnyArray, "*shape"]) -> Form:
    """The inputs themselves: one symbol for each of the d numbers."""
    form = of_bounds(lower, upper)
    slopes = jnp.diag(form.radius.ravel()).reshape(-1, *form.radius.shape)
    return Form(form.centre, jnp.zeros_like(form.radius), slopes)


def bounds(form: Form) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The least and the largest value."""
    terms = 0 if form.slopes is None else len(form.slopes)
    reach = form.reach * (1 + (terms + 4) * form.eps) + 2 * form.eps * jnp.abs(form.centre)
    lower, upper = form.centre - reach, form.centre + reach
    return jnp.where(jnp.isnan(lower), -jnp.inf, lower), jnp.where(jnp.isnan(upper), jnp.inf, upper)


def add(a: Form, b: Form) -> Form:
    """a + b of the same symbols."""
    centre = a.centre + b.centre
    return Form(centre, a.radius + b.radius + 2 * a.eps * (a.size + b.size), _sum(a.slopes, b.slopes))


def _sum(a, b):
    return b if a is None else a if b is None else a + b


def linear_map(apply: Callable, linear: Callable, absolute: Callable, forms: list[Form], gamma: float) -> list[Form]:
    """apply(*forms), affine, one for each result.

    linear: apply less its constants;  absolute: with its coefficients in absolute value;  gamma: the relative error of
    each product in a sum. What gamma makes of the constants is the caller's.
    """
    centres = apply(*(f.centre for f in forms))
    radii = absolute(*(f.radius + gamma * f.size for f in forms))
    if all(f.slopes is None for f in forms):
        return [Form(c, r) for c, r in zip(centres, radii, strict=True)]
    d = next(len(f.slopes) for f in forms if f.slopes is not None)
    slopes = jax.vmap(linear)(*(_slopes(f, d) for f in forms))
    return [Form(*parts) for parts in zip(centres, radii, slopes, strict=True)]


def _slopes(form, d):
    return jnp.zeros((d, *form.centre.shape), form.centre.dtype) if form.slopes is None else form.slopes


def repeated(form: Form) -> Form:
    """With a new first axis of length 1."""
    return Form(form.centre[None], form.radius[None], None if form.slopes is None else form.slopes[:, None])


def multiply(a: Form, b: Form) -> Form:
    """a b, elementwise: of intervals the smallest one, else what is of second order in the symbols is in the radius."""
    if a.slopes is None and b.slopes is None:
        (p, q), (r, s) = ((f.centre - f.radius, f.centre + f.radius) for f in (a, b))
        low, high = (pick(pick(p * r, p * s), pick(q * r, q * s)) for pick in (jnp.minimum, jnp.maximum))
        slack = 8 * a.eps * jnp.maximum(-low, high)
        return of_bounds(low - slack, high + slack)
    reach = lambda f: f.reach - f.radius if f.slopes is not None else 0.0
    radius = reach(a) * reach(b) + a.radius * b.size + b.radius * (jnp.abs(a.centre) + reach(a))
    slopes = _sum(None if a.slopes is None else b.centre * a.slopes, None if b.slopes is None else a.centre * b.slopes)
    return Form(a.centre * b.centre, radius + 8 * a.eps * a.size * b.size, slopes)


def value(act: Activation, z: Form, lower: Array, upper: Array) -> Form:
    """s(z) of an activation s for z in [lower, upper].

    For a convex s, m z plus the least and the largest value of s(z) - m z (Singh et al. 2018): m is the slope of the
    chord, so that the largest is at an end, and the least lies above any tangent's.
    """
    if z.slopes is None or not act.convex:
        return of_bounds(*act.values(lower, upper))
    low, high = act.value(lower), act.value(upper)
    m = jnp.clip(_chord(low, high, lower, upper, act.slope), 0, 1)
    at = jnp.clip(_touching(act, m), lower, upper)
    touching = m if act.exact else act.slope(at)
    tangent = lambda t: act.value(at) + touching * (t - at) - m * t
    least = jnp.minimum(tangent(lower), tangent(upper))
    largest = jnp.maximum(low - m * lower, high - m * upper)
    size = high + jnp.abs(lower) + jnp.abs(upper)
    return _along(m, z, least, largest, 16 * z.eps * size)


def gate(act: Activation, z: Form, lower: Array, upper: Array) -> Form:
    """s'(z) of an activation s for z in [lower, upper].

    For softplus, m z plus the least and the largest value of s'(z) - m z, at an end or where s''(z) = m.
    """
    if z.slopes is None or act.beta is None:
        return of_bounds(*act.slopes(lower, upper))
    ends = act.slope(lower), act.slope(upper)
    m = jnp.clip(_chord(*ends, lower, upper, act.curvature), 0, act.beta / 4)
    root = jnp.sqrt(jnp.clip(1 - 4 * m / act.beta, 0, 1))
    bend = jnp.log((1 + root) / jnp.maximum(1 - root, z.eps)) / act.beta
    places = jnp.stack([lower, upper, jnp.clip(bend, lower, upper), jnp.clip(-bend, lower, upper)])
    rest = jax.vmap(act.slope)(places) - m * places
    size = 1 + m * (jnp.abs(lower) + jnp.abs(upper))
    return _along(m, z, rest.min(0), rest.max(0), 16 * z.eps * size)


def _chord(low, high, lower, upper, slope):
    width = upper - lower
    return jnp.where(width > 0, (high - low) / jnp.where(width > 0, width, 1), slope(upper))


def _touching(act, m):
    """Where the slope of a convex activation is m; at the kink of relu, every slope between."""
    return jnp.zeros_like(m) if act.beta is None else jnp.log(m / (1 - m)) / act.beta


def _along(m, z, least, largest, slack):
    """m z + [least, largest]."""
    radius = m * z.radius + (largest - least) / 2 + slack + 8 * z.eps * m * z.size
    return Form(m * z.centre + (least + largest) / 2, radius, m[None] * z.slopes)
