"""Loops of a fixed length, written out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .control import CONTROL, rebuild
from .jaxprs import Literal, bind, bodies, prims, scan_split, subjaxprs, trace

__all__ = ["unroll"]


def unroll(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with every scan, map and fori_loop of a fixed length written out, also in branches and under remat: the same
    values and derivatives. Those inside a function with its own derivative rule stay.

    Bounds, patterns and rules of a first layer, which need every layer to have one input, then see a model without
    loops. A while loop whose length depends on its values stays. Compile time and memory grow with the length.

    >>> from xmanip_jax import rewrite
    >>> f = lambda x: jax.lax.fori_loop(0, 3, lambda i, x: 2 * x, x)
    >>> [op.name for op in rewrite.flow(rewrite.unroll(f), jnp.ones(2))]
    ['mul', 'mul', 'mul']
    """

    def unrolled(*args):
        jaxpr, consts, leaves, structure = trace(f, *args)
        return jax.tree.unflatten(structure, _run(jaxpr, consts, leaves))

    return unrolled


def _run(jaxpr, consts, args):
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
    read = lambda v: jnp.asarray(v.val, v.aval.dtype) if isinstance(v, Literal) else env[v]
    for eqn in jaxpr.eqns:
        values = list(map(read, eqn.invars))
        if eqn.primitive is prims.scan_p:
            results = _scan(eqn.params, *bodies(eqn)[0], values)
        elif eqn.primitive is prims.jit_p and any(map(_loops, subjaxprs(eqn))):
            results = _run(*bodies(eqn)[0], values)
        elif eqn.primitive in CONTROL and any(map(_loops, subjaxprs(eqn))):
            results, _ = rebuild(eqn, values, [partial(_body, body) for body in bodies(eqn)])
        else:
            results = bind(eqn, values)
        env.update(zip(eqn.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _body(body, *values):
    return _run(*body, values), []


def _loops(jaxpr):
    return any(eqn.primitive is prims.scan_p or any(map(_loops, subjaxprs(eqn))) for eqn in jaxpr.eqns)


def _scan(params, body, body_consts, values):
    n, m = scan_split(params)
    consts, carry, xs = values[:n], values[n:n + m], values[n + m:]
    rows, length = [], params["length"]
    for t in reversed(range(length)) if params["reverse"] else range(length):
        outs = _run(body, body_consts, [*consts, *carry, *(x[t] for x in xs)])
        carry = outs[:m]
        rows.append(outs[m:])
    rows = rows[::-1] if params["reverse"] else rows
    stacked = [jnp.stack(column) for column in zip(*rows, strict=True)] if rows else [
        jnp.zeros((0, *v.aval.shape), v.aval.dtype) for v in body.outvars[m:]]
    return [*carry, *stacked]
