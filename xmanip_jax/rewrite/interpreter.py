"""Re-run a traced function and change chosen equations: the only code in the library that walks a jaxpr.

`Rule.match` names the equations of interest (its sites), statically; `Rule.apply` computes them. Control flow that
holds a site is rebuilt (see control.py). Everything else runs as it was.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from .control import CONTROL, rebuild
from .errors import LostRuleWarning, UnsupportedPrimitiveError
from .jaxprs import Literal, bind, bodies, eqn_name, is_custom_rule, subjaxprs

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
    runners = []
    for jaxpr, consts in bodies(eqn):
        runners.append(_runner(jaxpr, consts, rule, start))
        start += len(sites(jaxpr, rule.match))
    if eqn.primitive in CONTROL:
        return rebuild(eqn, values, runners)
    if is_custom_rule(eqn):
        warnings.warn(f"{eqn_name(eqn)} has its own derivative rule and contains an activation that is being "
                      "rewritten: the rule is dropped and JAX differentiates the rewritten body", LostRuleWarning,
                      stacklevel=2)
        return runners[0](*values)
    raise UnsupportedPrimitiveError(f"an activation sits inside `{eqn.primitive.name}`, which cannot be rebuilt; "
                                    "rewrite the function that is called inside it instead")


def _runner(jaxpr, consts, rule, start):
    return lambda *values: evaluate(jaxpr, consts, values, rule, start)
