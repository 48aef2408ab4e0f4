"""Run a plan and change chosen steps of it.

`Rule.match` names the steps of interest (its sites), statically; `Rule.apply` computes them. Control flow that
holds a site is rebuilt (see control.py). Everything else runs as it was.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .blocks import run_nodes
from .control import CONTROL, rebuild
from .errors import UnsupportedPrimitiveError
from .graph import describe
from .jaxprs import Literal, bind
from .plan import Plan, Step, early_values, read

__all__ = ["Rule", "Site", "compute", "evaluate", "sites"]


class Rule(NamedTuple):
    """match(step) -> a hashable kind or None;  apply(kind, index, step, operands) -> (results, sown value or None)."""

    match: Callable[[Step], Any]
    apply: Callable[..., tuple[list, Any]]


class Site(NamedTuple):
    """One matched step: its kind, the step, the plan that holds it, and the loops around it."""

    kind: Any
    step: Step
    plan: Plan
    inside: tuple[str, ...]


def sites(plan: Plan, match: Callable[[Step], Any], inside: tuple = ()) -> list[Site]:
    """All matched steps in the order of execution."""
    found = []
    for step in plan.steps:
        kind = match(step)
        if kind is not None:
            found.append(Site(kind, step, plan, inside))
        for body in step.bodies:
            found += sites(body, match, (*inside, step.eqn.primitive.name))
    return found


def evaluate(plan: Plan, values: Sequence[Any], rule: Rule, start: int = 0) -> tuple[list, list]:
    """Run a plan under a rule: (results, sown values). `start` is the index of the first site."""
    env = early_values(plan, dict(zip(plan.inputs, values, strict=True)))
    sown = []
    for step in plan.steps:
        operands = [read(env, i) for i in step.inputs]
        kind = rule.match(step)
        if kind is not None:
            results, new = rule.apply(kind, start, step, operands)
            new, start = ([] if new is None else [new]), start + 1
        elif inner := sum(len(sites(body, rule.match)) for body in step.bodies):
            results, new = _rebuilt(step, operands, rule, start)
            start += inner
        else:
            results, new = compute(step, operands), []
        sown += new
        env.update(zip(step.outputs, results, strict=True))
    return [read(env, i) for i in plan.outputs], sown


def compute(step: Step, operands: Sequence[Any]) -> list:
    """The results of a step as it was traced."""
    unit = step.unit
    if unit.role == "single" and not step.run:
        return bind(step.eqn, operands)
    env = dict(zip([i for i in step.inputs if not isinstance(i, Literal)],
                   [v for i, v in zip(step.inputs, operands, strict=True) if not isinstance(i, Literal)], strict=True))
    env = run_nodes([*unit.nodes, *(node for part in step.run for node in part.nodes)], env)
    return [env[o] for o in step.outputs]


def _rebuilt(step, operands, rule, start):
    runners = []
    for body in step.bodies:
        runners.append(lambda *values, body=body, start=start: evaluate(body, values, rule, start))
        start += len(sites(body, rule.match))
    if step.eqn.primitive in CONTROL:
        return rebuild(step.eqn, operands, runners)
    raise UnsupportedPrimitiveError(f"an activation sits inside {describe(step.eqn)}, which cannot be rebuilt")
