"""Interval arithmetic of JAX's elementwise operations, by primitive. Every result is rounded outwards.

A result holds for exact arithmetic and for the numbers that are computed: each operation is widened by more last digits
than it may be wrong by. Outside its domain (logarithms of negative numbers, quotients by an interval around zero) an
operation has infinite bounds.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from ..types import Array

__all__ = ["RULES", "Range", "fixed"]


class Range(NamedTuple):
    """lower <= value <= upper, elementwise; of truth values: certainly and possibly true.

    jumps: the value may jump within the interval of the argument;  maker: (name, its two operands) of a larger or
    smaller of two, by which its derivative tells which of them it is.
    """

    lower: Array
    upper: Array
    jumps: Array | bool = False
    maker: tuple | None = None


def fixed(value: Array) -> Range:
    """A value that is the same all over the interval."""
    return Range(value, value)


def _outward(lower, upper, digits, jumps=False, least=-np.inf, largest=np.inf):
    """Wider by so many last digits; what is not a number may be any."""
    info = jnp.finfo(lower.dtype)
    slack = lambda v: jnp.where(jnp.isfinite(v), digits * float(info.eps) * jnp.abs(v) + float(info.tiny), 0)
    lower = jnp.where(jnp.isnan(lower), -jnp.inf, jnp.minimum(lower, float(info.max)))
    upper = jnp.where(jnp.isnan(upper), jnp.inf, jnp.maximum(upper, float(info.min)))
    return Range(jnp.clip(lower - slack(lower), least, largest), jnp.clip(upper + slack(upper), least, largest), jumps)


def _hull(values, digits, jumps, unknown=False):
    """From the smallest to the largest of several values; 0 times infinity is 0, an infinite bound is not attained."""
    values = [jnp.where(jnp.isnan(v), 0, v) for v in values]
    lower, upper = (_folded(pick, values) for pick in (jnp.minimum, jnp.maximum))
    return _outward(jnp.where(unknown, -jnp.inf, lower), jnp.where(unknown, jnp.inf, upper), digits, jumps)


def _folded(pick, values):
    first, *rest = values
    for value in rest:
        first = pick(first, value)
    return first


def _either(*ranges):
    """Whether any of them jumps."""
    return _folded(lambda a, b: a | b, [r.jumps for r in ranges])


def _increasing(digits, least=-np.inf, largest=np.inf):
    return lambda apply, params, a: _outward(apply(a.lower), apply(a.upper), digits, a.jumps, least, largest)


def _decreasing(digits, least=-np.inf):
    return lambda apply, params, a: _outward(apply(a.upper), apply(a.lower), digits, a.jumps, least)


def _moved(apply, params, a):
    """Exact, and not decreasing."""
    jumps = a.jumps if isinstance(a.jumps, bool) else apply(a.jumps)
    return Range(apply(a.lower), apply(a.upper), jumps)


def _even(apply, params, a, digits=4):
    """Rises with the absolute value."""
    least = jnp.maximum(jnp.maximum(a.lower, -a.upper), 0)
    return _outward(apply(least), apply(jnp.maximum(jnp.abs(a.lower), jnp.abs(a.upper))), digits, a.jumps, 0)


def _one_minus_square(apply, params, a):
    """1 - x^2, in which jax 0.12 writes the derivative of tanh."""
    square = _even(jnp.square, params, a)
    return _outward(1 - square.upper, 1 - square.lower, 4, a.jumps)


def _negated(apply, params, a):
    return Range(-a.upper, -a.lower, a.jumps)


def _added(apply, params, a, b):
    return _outward(a.lower + b.lower, a.upper + b.upper, 2, _either(a, b))


def _subtracted(apply, params, a, b):
    return _outward(a.lower - b.upper, a.upper - b.lower, 2, _either(a, b))


def _multiplied(apply, params, a, b):
    if a is b:
        return _even(jnp.square, params, a)
    return _hull([x * y for x in a[:2] for y in b[:2]], 2, _either(a, b))


def _reciprocal(a):
    """1 / a; unbounded at zero."""
    around = (a.lower <= 0) & (a.upper >= 0) & ((a.lower < 0) == (a.upper > 0))
    low, high = (jnp.where(v == 0, 1, v) for v in a[:2])
    lower, upper = jnp.where(a.upper == 0, -jnp.inf, 1 / high), jnp.where(a.lower == 0, jnp.inf, 1 / low)
    return _outward(jnp.where(around, -jnp.inf, lower), jnp.where(around, jnp.inf, upper), 2, a.jumps)


def _divided(apply, params, a, b):
    return _multiplied(apply, params, a, _reciprocal(b))


def _whole_power(apply, params, a):
    y = params["y"]
    if y < 0:
        return _reciprocal(_whole_power(lambda v: v ** -y, {"y": -y}, a))
    return _even(apply, params, a, 2 * y + 2) if y % 2 == 0 else _increasing(2 * y + 2)(apply, params, a)


def _power(apply, params, a, b):
    """Monotone in each of base and exponent where the base is positive."""
    corners = [apply(x, y) for x in a[:2] for y in b[:2]]
    unknown = (a.lower < 0) | ((a.lower == 0) & (b.lower <= 0))
    size = jnp.maximum(*(jnp.abs(jnp.nan_to_num(jnp.log(jnp.maximum(c, 0)), posinf=0, neginf=0))
                         for c in (_folded(jnp.minimum, corners), _folded(jnp.maximum, corners))))
    return _hull(corners, 16 + 4 * size, _either(a, b), unknown)


def _extreme(name):
    def rule(apply, params, a, b):
        return Range(apply(a.lower, b.lower), apply(a.upper, b.upper), _either(a, b), (name, a, b))

    return rule


def _clamped(apply, params, low, a, high):
    return Range(apply(low.lower, a.lower, high.lower), apply(low.upper, a.upper, high.upper), _either(low, a, high))


def _wave(phase):
    """sin(a + phase): its crests are where the angle is a quarter turn and whole ones."""
    def rule(apply, params, a):
        slack = 16 * float(jnp.finfo(a.lower.dtype).eps) * (4 + jnp.abs(a.lower) + jnp.abs(a.upper))
        ends = apply(a.lower), apply(a.upper)
        holds = lambda at: jnp.floor((a.upper + slack - at) / (2 * np.pi)) >= jnp.ceil(
            (a.lower - slack - at) / (2 * np.pi))
        lower, upper = jnp.minimum(*ends) - slack, jnp.maximum(*ends) + slack
        lower = jnp.where(holds(-np.pi / 2 - phase) | jnp.isnan(lower), -1, lower)
        upper = jnp.where(holds(np.pi / 2 - phase) | jnp.isnan(upper), 1, upper)
        return Range(jnp.maximum(lower, -1), jnp.minimum(upper, 1), a.jumps)

    return rule


def _stepped(apply, params, a):
    lower, upper = apply(a.lower), apply(a.upper)
    return Range(lower, upper, a.jumps | (lower != upper))


def _compared(name):
    def rule(apply, params, a, b):
        if name in ("eq", "ne"):
            certain, possible = _equal(a, b)
            return Range(certain, possible) if name == "eq" else Range(~possible, ~certain)
        if name in ("lt", "le"):
            a, b = b, a
        at_least = name in ("ge", "le")
        above = jnp.greater_equal if at_least else jnp.greater
        if a is b:
            always = jnp.full(a.lower.shape, at_least)
            return Range(always, always)
        return Range(above(a.lower, b.upper), above(a.upper, b.lower))

    return rule


def _equal(a, b):
    """(certainly, possibly) equal; whether an operand is the larger or smaller of two is decided from the two."""
    if a is b:
        always = jnp.full(a.lower.shape, True)
        return always, always
    certain = (a.lower == a.upper) & (b.lower == b.upper) & (a.lower == b.lower)
    possible = (a.lower <= b.upper) & (b.lower <= a.upper)
    for one, chosen in ((a, b), (b, a)):
        for name, own, other in _operands(chosen):
            same = own is one or (_is_fixed(own) and _is_fixed(one) and (own.lower == one.lower))
            won = RULES["ge" if name == "max" else "le"](None, None, own, other)
            certain, possible = (jnp.where(same, w, v) for w, v in zip(won, (certain, possible), strict=False))
    return certain, possible


def _operands(chosen):
    if chosen.maker is None:
        return []
    name, a, b = chosen.maker
    return [(name, a, b), (name, b, a)]


def _is_fixed(a):
    return a.lower is a.upper


def _selected(apply, params, which, *cases):
    if _is_fixed(which):
        lower, upper = (apply(which.lower, *(c[i] for c in cases)) for i in (0, 1))
        jumps = apply(which.lower, *(jnp.broadcast_to(c.jumps, lower.shape) for c in cases))
        return Range(lower, upper, jumps)
    no, yes = cases
    certain, impossible = which.lower, ~which.upper
    pick = lambda i, both: jnp.where(certain, yes[i], jnp.where(impossible, no[i], both(yes[i], no[i])))
    jumps = jnp.where(certain, yes.jumps, jnp.where(impossible, no.jumps, True))
    if yes.lower.dtype == bool:
        return Range(pick(0, jnp.logical_and), pick(1, jnp.logical_or), jumps)
    return Range(pick(0, jnp.minimum), pick(1, jnp.maximum), jumps)


def _converted(apply, params, a):
    if a.lower.dtype == bool:
        lower, upper = apply(a.lower), apply(a.upper)
        return Range(lower, upper, lower != upper)
    if not jnp.issubdtype(params["new_dtype"], jnp.floating):
        return None
    wider = jnp.finfo(params["new_dtype"]).bits >= jnp.finfo(a.lower.dtype).bits
    return _outward(apply(a.lower), apply(a.upper), 0 if wider else 1, a.jumps)


def _finite(apply, params, a):
    return Range(jnp.isfinite(a.lower) & jnp.isfinite(a.upper), jnp.ones(a.lower.shape, bool))


def _logic(of):
    return lambda apply, params, *ranges: Range(*of(*ranges)) if ranges[0].lower.dtype == bool else None


RULES: dict[str, Callable[..., Range | None]] = {
    **dict.fromkeys(("log", "log1p", "expm1", "tanh", "sinh", "asinh", "atan", "erf", "erf_inv", "cbrt"),
                    _increasing(16)),
    **dict.fromkeys(("exp", "exp2", "sqrt"), _increasing(16, 0)), "logistic": _increasing(16, 0, 1),
    "erfc": _decreasing(256, 0), "rsqrt": _decreasing(16, 0),
    "abs": lambda apply, params, a: _even(apply, params, a, 0), "square": _even, "one_minus_square": _one_minus_square,
    "cosh": lambda apply, params, a: _even(apply, params, a, 16),
    "integer_pow": _whole_power, "pow": _power, "neg": _negated,
    "add": _added, "add_any": _added, "sub": _subtracted, "mul": _multiplied, "div": _divided,
    "max": _extreme("max"), "min": _extreme("min"), "clamp": _clamped, "sin": _wave(0.0), "cos": _wave(np.pi / 2),
    **dict.fromkeys(("sign", "floor", "ceil", "round"), _stepped),
    **{name: _compared(name) for name in ("eq", "ne", "gt", "ge", "lt", "le")},
    "and": _logic(lambda a, b: (a.lower & b.lower, a.upper & b.upper)),
    "or": _logic(lambda a, b: (a.lower | b.lower, a.upper | b.upper)),
    "not": _logic(lambda a: (~a.upper, ~a.lower)),
    "select_n": _selected, "convert_element_type": _converted, "reduce_precision": _stepped, "is_finite": _finite,
    **dict.fromkeys(("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "copy_p", "stop_gradient",
                     "name"), _moved),
}
