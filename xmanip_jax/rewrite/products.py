"""A finished program with other products: dense ones and convolutions, wherever they stand in it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from .control import CONTROL, rebuild
from .convolutions import convolved
from .jaxprs import Literal, bind, bodies, body, is_custom_rule, prims

__all__ = ["with_products"]

_PRODUCTS = (prims.dot_general_p, prims.conv_general_dilated_p)
_LOOPS = (prims.scan_p, prims.while_p)


def with_products(f: Callable[..., Any], rounded: Callable[[Any], Any] | None, *, order: bool) -> Callable[..., Any]:
    """`f` with the operands of all its products rounded, its loops with the convolutions that are fast there.

    Apply it after all derivatives: those of the result are those of the rounded products. rounded: an array -> one of
    its shape and type;  order: whether convolutions inside of loops get the form of `ordered`.

    >>> import jax.numpy as jnp
    >>> coarse = with_products(lambda a, b: a @ b, lambda v: jax.lax.reduce_precision(v, 8, 3), order=False)
    >>> coarse(jnp.array([1.01]), jnp.array([2.0]))
    Array(2., dtype=float32)
    """

    def product(eqn, operands, inside):
        operands = operands if rounded is None else [rounded(v) for v in operands]
        if order and inside and eqn.primitive is prims.conv_general_dilated_p:
            return [convolved(eqn.params, *operands)]
        return bind(eqn, operands)

    def runners(eqn, inside):
        return [lambda *values, part=part: (walk(*part, values, inside), []) for part in bodies(eqn)]

    def walk(jaxpr, consts, values, inside):
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
        read = lambda v: v.val if isinstance(v, Literal) else env[v]
        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            if eqn.primitive in _PRODUCTS:
                results = product(eqn, operands, inside)
            elif eqn.primitive is prims.jit_p or is_custom_rule(eqn):  # the derivative of a rule is taken already
                name = "jaxpr" if eqn.primitive is prims.jit_p else "call_jaxpr"
                results = walk(*body(eqn.params[name]), operands, inside)
            elif eqn.primitive in CONTROL and any(map(holds, bodies(eqn))):
                results, _ = rebuild(eqn, operands, runners(eqn, inside or eqn.primitive in _LOOPS))
            else:
                results = bind(eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(lambda *args: f(*args), return_shape=True)(*args)
        if rounded is None and not any(e.primitive in CONTROL and holds((closed.jaxpr, ())) for e in closed.jaxpr.eqns):
            results = jaxpr_as_fun(closed)(*jax.tree.leaves(args))
        else:
            results = walk(closed.jaxpr, closed.consts, jax.tree.leaves(args), False)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def holds(part: Any) -> bool:
    """Whether a body, (jaxpr, constants), holds a product."""
    return any(eqn.primitive in _PRODUCTS or any(map(holds, bodies(eqn))) for eqn in part[0].eqns)
