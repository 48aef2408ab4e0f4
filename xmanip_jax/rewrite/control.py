"""Rebuild control flow around changed bodies through JAX's public functions.

Never by binding a primitive to a changed body: binding scan gave a wrong gradient in a traced parameter on jax 0.10.2.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from .errors import UnsupportedPrimitiveError
from .jaxprs import prims, scan_split

__all__ = ["CONTROL", "rebuild"]

CONTROL = (prims.jit_p, prims.remat_p, prims.scan_p, prims.while_p, prims.cond_p)


def rebuild(eqn: Any, values: Sequence[Any], runners: Any) -> Any:
    """Run a control-flow equation with `runners` for its bodies: (results, what the bodies sowed).

    runners: one for each sub-jaxpr, in the order of `subjaxprs`, from values to (results, sown values). Values sown in
    a scan are stacked; in `while` and `cond` sowing raises UnsupportedPrimitiveError.
    """
    p, params = eqn.primitive, eqn.params
    if p is prims.jit_p:
        return jax.jit(runners[0])(*values)
    if p is prims.remat_p:
        return jax.checkpoint(runners[0], prevent_cse=params["prevent_cse"], policy=params["policy"])(*values)
    if p is prims.scan_p:
        return _scan(params, values, runners[0])
    if p is prims.while_p:
        return _while(params, values, *(_silent(run, "while") for run in runners)), []
    return list(lax.switch(values[0], [_silent(run, "cond") for run in runners], *values[1:])), []


def _scan(params, values, run):
    n_consts, n_carry = scan_split(params)
    consts, init, xs = values[:n_consts], values[n_consts:n_consts + n_carry], values[n_consts + n_carry:]

    def step(carry, x):
        outs, sown = run(*consts, *carry, *x)
        return outs[:n_carry], (outs[n_carry:], sown)

    carry, (ys, sown) = lax.scan(step, list(init), list(xs), length=params["length"], reverse=params["reverse"],
                                 unroll=params["unroll"])
    return [*carry, *ys], sown


def _while(params, values, cond, step):
    n, m = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts, init = values[:n], values[n:n + m], values[n + m:]
    return list(lax.while_loop(lambda c: cond(*cond_consts, *c)[0], lambda c: step(*body_consts, *c), list(init)))


def _silent(run, where):
    """A runner for control flow whose number of executions is unknown: nothing can be sown from inside."""

    def silent(*values):
        outs, sown = run(*values)
        if sown:
            raise UnsupportedPrimitiveError(f"values inside `{where}` cannot be collected: it may run any number of "
                                            "times; unroll it, use scan, or choose one beta for the whole model")
        return outs

    return silent
