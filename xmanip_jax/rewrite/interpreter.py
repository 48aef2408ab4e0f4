"""Re-run a traced function and change chosen equations: the only code in the library that walks a jaxpr.

`Rule.match` names the equations of interest (its sites), statically; `Rule.apply` computes them. Control flow that
holds a site is rebuilt through JAX's public functions (jit, checkpoint, scan, while_loop, switch), never by binding a
primitive to a changed body: binding scan gave a wrong gradient in a traced parameter. Everything else runs as it was.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax

from .errors import LostRuleWarning, UnsupportedPrimitiveError
from .jaxprs import Literal, bind, body, eqn_name, is_custom_rule, prims, scan_split, subjaxprs

__all__ = ["Rule", "Site", "evaluate", "sites"]


class Rule(NamedTuple):
    """match(eqn) -> a hashable kind or None;  apply(kind, index, eqn, values) -> (results, sown value or None)."""

    match: Callable[[Any], Any]
    apply: Callable[..., tuple[list, Any]]


class Site(NamedTuple):
    """One matched equation: its kind, the equation, the jaxpr that holds it, and the loops around it."""

    kind: Any
    eqn: Any
    jaxpr: Any
    inside: tuple[str, ...]


def sites(jaxpr, match, inside=()):
    """All matched equations in the order of execution; a matched equation is not searched further."""
    found = []
    for eqn in jaxpr.eqns:
        kind = match(eqn)
        if kind is not None:
            found.append(Site(kind, eqn, jaxpr, inside))
        else:
            for sub in subjaxprs(eqn):
                found += sites(sub, match, (*inside, eqn.primitive.name))
    return found


def evaluate(jaxpr, consts, args, rule, start=0):
    """Run `jaxpr` under `rule`: (results, sown values). `start` is the index of the first site."""
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else env[v]
    sown = []
    for eqn in jaxpr.eqns:
        values = [read(v) for v in eqn.invars]
        kind = rule.match(eqn)
        if kind is not None:
            results, new = rule.apply(kind, start, eqn, values)
            new, start = ([] if new is None else [new]), start + 1
        elif inner := sum(len(sites(sub, rule.match)) for sub in subjaxprs(eqn)):
            results, new = _rebuild(eqn, values, rule, start)
            start += inner
        else:
            results, new = bind(eqn, values), []
        sown += new
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars], sown


def _rebuild(eqn, values, rule, start):
    p, params = eqn.primitive, eqn.params
    if p is prims.jit_p:
        return jax.jit(_runner(params["jaxpr"], rule, start))(*values)
    if p is prims.remat_p:
        run = _runner(params["jaxpr"], rule, start)
        return jax.checkpoint(run, prevent_cse=params["prevent_cse"], policy=params["policy"])(*values)
    if p is prims.scan_p:
        return _scan(params, values, rule, start)
    if p is prims.while_p:
        return _while(params, values, rule, start)
    if p is prims.cond_p:
        return _cond(params, values, rule, start)
    if is_custom_rule(eqn):
        warnings.warn(f"{eqn_name(eqn)} has its own derivative rule and contains an activation that is being "
                      "rewritten: the rule is dropped and JAX differentiates the rewritten body", LostRuleWarning,
                      stacklevel=2)
        return _runner(params["call_jaxpr"], rule, start)(*values)
    raise UnsupportedPrimitiveError(f"an activation sits inside `{p.name}`, which cannot be rebuilt; rewrite the "
                                    "function that is called inside it instead")


def _runner(jaxpr, rule, start):
    inner, consts = body(jaxpr)
    return lambda *values: evaluate(inner, consts, values, rule, start)


def _scan(params, values, rule, start):
    n_consts, n_carry = scan_split(params)
    consts, init, xs = values[:n_consts], values[n_consts:n_consts + n_carry], values[n_consts + n_carry:]
    run = _runner(params["jaxpr"], rule, start)

    def step(carry, x):
        outs, sown = run(*consts, *carry, *x)
        return outs[:n_carry], (outs[n_carry:], sown)

    carry, (ys, sown) = lax.scan(step, list(init), list(xs), length=params["length"], reverse=params["reverse"],
                                 unroll=params["unroll"])
    return [*carry, *ys], sown


def _while(params, values, rule, start):
    n, m = params["cond_nconsts"], params["body_nconsts"]
    cond_consts, body_consts, init = values[:n], values[n:n + m], values[n + m:]
    cond = _silent(params["cond_jaxpr"], rule, start, "while")
    start += len(sites(body(params["cond_jaxpr"])[0], rule.match))
    step = _silent(params["body_jaxpr"], rule, start, "while")
    return list(lax.while_loop(lambda c: cond(*cond_consts, *c)[0], lambda c: step(*body_consts, *c), list(init))), []


def _cond(params, values, rule, start):
    branches = []
    for branch in params["branches"]:
        branches.append(_silent(branch, rule, start, "cond"))
        start += len(sites(body(branch)[0], rule.match))
    return list(lax.switch(values[0], branches, *values[1:])), []


def _silent(jaxpr, rule, start, where):
    """A runner for control flow whose number of executions is unknown: nothing can be sown from inside."""

    def run(*values):
        outs, sown = _runner(jaxpr, rule, start)(*values)
        if sown:
            raise UnsupportedPrimitiveError(f"values inside `{where}` cannot be collected: it may run any number of "
                                            "times; unroll it, use scan, or choose one beta for the whole model")
        return outs

    return run
