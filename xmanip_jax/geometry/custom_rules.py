"""Derivative rules of a model's own: they count as jax.grad has them, or are refused."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..pooling import max_pool
from ..rewrite import UnsupportedPrimitiveError
from ..rewrite.jaxprs import Literal, bind, bodies, is_custom_rule, prims, subjaxprs
from ..types import Array
from .enclosure import walk

__all__ = ["has_rule", "is_max_pool", "opened", "primitive_of", "slope_of"]

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
    """The name of the one operation that the function is, else None."""
    eqn = _only(jax.make_jaxpr(function)(shape).jaxpr)
    return None if eqn is None else eqn.primitive.name


def is_max_pool(function: Callable[[Array], Array], shape: jax.ShapeDtypeStruct) -> bool:
    """Whether the function is lax.reduce_window with max, derivative included, or `models.max_pool`."""
    eqn, calls = _only(jax.make_jaxpr(function)(shape).jaxpr), []
    while eqn is not None and bodies(eqn):
        calls.append(eqn)
        eqn = _only(subjaxprs(eqn)[0])
    if eqn is None or eqn.primitive.name != "reduce_window_max":
        return False
    if not any(map(is_custom_rule, calls)):
        return True
    window, stride = eqn.params["window_dimensions"][-2], eqn.params["window_strides"][-2]
    padding = eqn.params["padding"][-2][0]
    rule = lambda f: str(jax.make_jaxpr(lambda x, t: jax.jvp(f, (x,), (t,))[1])(shape, shape))
    own = [lambda x, ceil=ceil: max_pool(x, window, stride, ceil, padding) for ceil in (False, True)]
    return len(shape.shape) >= 3 and 2 * padding <= window and rule(function) in map(rule, own)


def _only(jaxpr):
    """The one equation of a jaxpr that makes its result from its argument, or None."""
    single = len(jaxpr.eqns) == 1 and len(jaxpr.invars) == 1 and jaxpr.eqns[0].invars == jaxpr.invars
    return jaxpr.eqns[0] if single and jaxpr.eqns[0].outvars == jaxpr.outvars else None


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
