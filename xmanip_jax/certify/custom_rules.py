"""Derivative rules of a model's own: they count as jax.grad has them, or are refused."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..rewrite import UnsupportedPrimitiveError
from ..rewrite.jaxprs import Literal, bind, is_custom_rule, prims, subjaxprs
from ..types import Array
from .enclosure import walk

__all__ = ["has_rule", "opened", "primitive_of", "slope_of"]

_MOVES = {"broadcast_in_dim", "convert_element_type", "copy", "copy_p", "expand_dims", "neg", "reduce_sum", "reshape",
          "squeeze", "transpose"}


def slope_of(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The slope of an elementwise function, as jax.grad computes it.

    Tracing the result raises UnsupportedPrimitiveError where a rule is not linear in what it pulls back, as one that
    clips gradients is not: then there is no slope.

    >>> float(slope_of(jnp.square)(jnp.float32(3)))
    6.0
    """
    def slope(z):
        value, pull = jax.vjp(function, z)
        if _holds(jax.make_jaxpr(function)(z).jaxpr, lambda e: e.primitive is prims.custom_vjp_call_p):
            _check_linear(jax.make_jaxpr(pull)(value).jaxpr)
        return pull(jnp.ones_like(value))[0]

    return slope


def opened(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The function without its own derivative rules."""
    def plain(z):
        closed = jax.make_jaxpr(function)(z)
        return walk(closed.jaxpr, closed.consts, [z], bind)[0]

    return plain


def has_rule(function: Callable[[Array], Array], shape: jax.ShapeDtypeStruct) -> bool:
    """Whether the function, or one that it calls, has its own derivative rule."""
    return _holds(jax.make_jaxpr(function)(shape).jaxpr, is_custom_rule)


def primitive_of(function: Callable[[Array], Array], shape: jax.ShapeDtypeStruct) -> str | None:
    """The name of the one operation that the function is, constants apart; else None."""
    jaxpr = jax.make_jaxpr(function)(shape).jaxpr
    single = len(jaxpr.eqns) == 1 and jaxpr.eqns[0].outvars == jaxpr.outvars
    return jaxpr.eqns[0].primitive.name if single else None


def _holds(jaxpr, condition):
    return any(condition(e) or any(_holds(sub, condition) for sub in subjaxprs(e)) for e in jaxpr.eqns)


def _check_linear(jaxpr):
    if not set(_degrees(jaxpr, ["linear"] * len(jaxpr.invars))) <= {"linear", "zero"}:
        raise UnsupportedPrimitiveError("a derivative rule is not linear in what it pulls back (it clips or normalises "
                                        "gradients), so that no slope bounds it; take the rule out of the model")


def _degrees(jaxpr, degrees):
    """What each result is in the arguments: "linear", "zero", "constant" or "other"."""
    known = dict.fromkeys(jaxpr.constvars, "constant") | dict(zip(jaxpr.invars, degrees, strict=True))

    def read(v):
        if isinstance(v, Literal):
            return "zero" if v.aval.shape == () and v.val == 0 else "constant"
        return known[v]

    for eqn in jaxpr.eqns:
        operands = list(map(read, eqn.invars))
        inner = subjaxprs(eqn)
        opens = inner and (eqn.primitive is prims.jit_p or is_custom_rule(eqn))
        found = _degrees(inner[0], operands) if opens else [_degree(eqn.primitive.name, operands)] * len(eqn.outvars)
        known.update(zip(eqn.outvars, found, strict=True))
    return list(map(read, jaxpr.outvars))


def _degree(name, operands):
    seen = set(operands)
    if name in _MOVES or (name in ("add", "add_any", "sub") and seen <= {"linear", "zero"}):
        return operands[0] if len(seen) == 1 else "linear"
    if seen <= {"constant", "zero"}:
        return "zero" if name == "mul" and "zero" in seen else "constant"
    if name == "mul" and seen == {"linear", "constant"}:
        return "linear"
    if name == "mul" and seen == {"linear", "zero"}:
        return "zero"
    if name == "div" and operands == ["linear", "constant"]:
        return "linear"
    if name == "select_n" and operands[0] == "constant" and set(operands[1:]) <= {"linear", "zero"}:
        return "linear"
    return "other"
