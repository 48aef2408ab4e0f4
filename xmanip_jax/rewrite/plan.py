"""A model as a plan: the steps through which the image flows, calls opened, each linear layer with its affine run.

An affine run is what follows a linear layer up to the next non-affine operation, as long as nothing else reads
the values between and its constants are one number per output feature: the bias, BatchNorm in inference, a rescaling.
It is merged into the layer, for which a propagation rule then sees z = apply(x, w) + b. A run is never merged into the
layer after it, which would be wrong at the border of a zero-padded convolution.
"""

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from .control import CONTROL
from .errors import LostRuleWarning
from .jaxprs import Literal, bind, bodies, eqn_name, is_custom_rule, prims, scan_split
from .merge import Merged, affine_run, literal, merged
from .operations import Tag, is_activation, is_max_pool, keeps_sign, kind_of, pool_params

__all__ = ["Node", "Operation", "Plan", "Step", "early_values", "make_plan", "operations"]

_LOST = Tag(carried=False, first=False, nonnegative=False)
IMAGE = Tag(carried=True, first=True, nonnegative=False)


class Operation(NamedTuple):
    """One operation that carries the image, as a propagation rule sees it.

    kind: see `operations.kind_of`;  name: of its primitive or function;  index: its place among those of its kind;
    first: no linear layer lies between the image and it;  nonnegative: the carried operands are, by construction;
    carried: which operands carry the image;  params: the parameters of its primitive (of a hard max-pooling: its
    reduce_window's);  apply: operands -> result, as traced;  merge: a linear layer with its affine run, else None.
    """

    kind: str
    name: str
    index: int
    first: bool
    nonnegative: bool
    carried: tuple[bool, ...]
    params: Mapping[str, Any]
    apply: Callable[..., Any]
    merge: Merged | None = None


class Node(NamedTuple):
    """An equation whose variables are renamed: numbers, or Literals."""

    eqn: Any
    inputs: tuple
    outputs: tuple


class Step(NamedTuple):
    """Part of a run: operation None is a value that carries no relevance; bodies are the plans of control flow."""

    operation: Operation | None
    eqn: Any
    inputs: tuple
    outputs: tuple
    bodies: tuple = ()
    run: tuple = ()  # the nodes of the affine run


class Plan(NamedTuple):
    """early: nodes that do not depend on the image;  steps: the others, in the order of execution."""

    early: list[Node]
    steps: list[Step]
    constants: dict
    inputs: tuple
    outputs: tuple
    tags: dict


def make_plan(jaxpr, consts, tags, *, open_remat: bool = False, counter: Counter | None = None) -> Plan:
    """The plan of an open jaxpr whose inputs have the given tags (None: independent of the image)."""
    counter = Counter() if counter is None else counter
    fresh, constants, known = itertools.count(), {}, {}
    inputs = tuple(next(fresh) for _ in jaxpr.invars)
    known.update({i: t for i, t in zip(inputs, tags, strict=True) if t})
    nodes = []

    def flatten(jaxpr, consts, operands):
        env = dict(zip(jaxpr.invars, operands, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = next(fresh)
            constants[env[var]] = value
        read = lambda v: v if isinstance(v, Literal) else env[v]
        for eqn in jaxpr.eqns:
            ins = tuple(map(read, eqn.invars))
            own = [_tag(known, i) for i in ins]
            if _opens(eqn, own, open_remat):
                _warn_of_lost_rule(eqn)
                (inner, inner_consts), = bodies(eqn)
                env.update(zip(eqn.outvars, flatten(inner, inner_consts, ins), strict=True))
                continue
            outs = tuple(next(fresh) for _ in eqn.outvars)
            env.update(zip(eqn.outvars, outs, strict=True))
            body_plans = _body_plans(eqn, own, counter, open_remat) if any(own) and _is_control(eqn) else ()
            out_tags = _join(body_plans) if body_plans else _out_tags(eqn, own)
            known.update({o: t for o, t in zip(outs, out_tags, strict=True) if t})
            nodes.append((Node(eqn, ins, outs), body_plans))
        return [read(v) for v in jaxpr.outvars]

    outputs = tuple(flatten(jaxpr, consts, inputs))
    early = [node for node, _ in nodes if not any(_tag(known, i) for i in node.inputs)]
    steps = _steps([(n, b) for n, b in nodes if any(_tag(known, i) for i in n.inputs)], early, known, outputs, counter)
    return Plan(early, steps, constants, inputs, outputs, known)


def early_values(plan: Plan, values: Mapping[int, Any]) -> dict[int, Any]:
    """By its number, every constant, the given values of inputs, and what the early nodes make of them."""
    env = dict(plan.constants) | dict(values)
    read = lambda i: literal(i) if isinstance(i, Literal) else env[i]
    for node in plan.early:
        env.update(zip(node.outputs, bind(node.eqn, [read(i) for i in node.inputs]), strict=True))
    return env


def operations(plan: Plan) -> list[Operation]:
    """All operations in the order of execution; those of a loop once."""
    found = []
    for step in plan.steps:
        for inner in step.bodies:
            found += operations(inner)
        if step.operation:
            found.append(step.operation)
    return found


def _tag(known, i):
    return None if isinstance(i, Literal) else known.get(i)


def _is_control(eqn):
    return eqn.primitive in CONTROL and eqn.primitive is not prims.jit_p


def _opens(eqn, tags, open_remat):
    """Whether a call is replaced by its body."""
    if is_max_pool(eqn) or is_activation(eqn, tags) or not any(tags):
        return False
    return eqn.primitive is prims.jit_p or is_custom_rule(eqn) or (open_remat and eqn.primitive is prims.remat_p)


def _warn_of_lost_rule(eqn):
    if is_custom_rule(eqn):
        warnings.warn(f"{eqn_name(eqn)} has its own derivative rule, which is dropped: relevance goes through its body",
                      LostRuleWarning, stacklevel=2)


def _out_tags(eqn, tags):
    carried = [t for t in tags if t and t.carried]
    if not any(tags):
        return [None] * len(eqn.outvars)
    kind = kind_of(eqn, tags)
    tag = _LOST
    if carried and eqn.primitive.name != "stop_gradient":
        linear = kind in ("conv", "dense")
        tag = Tag(True, not linear and all(t.first for t in carried), not linear and keeps_sign(eqn, kind, tags))
    return [tag if jnp.issubdtype(v.aval.dtype, np.floating) else _LOST for v in eqn.outvars]


def _body_plans(eqn, tags, counter, open_remat):
    """Plans of the bodies of control flow; the tags of a scan's carry grow until they hold for every iteration."""
    make = lambda body, tags, counter: make_plan(*body, tags, open_remat=open_remat, counter=counter)
    inner = bodies(eqn)
    if eqn.primitive is prims.cond_p:
        return tuple(make(branch, tags[1:], counter) for branch in inner)
    if eqn.primitive is prims.while_p:  # has no reverse derivative, so nothing propagates through it
        return ()
    if eqn.primitive is prims.scan_p:
        n, m = scan_split(eqn.params)
        tags = [t and t._replace(first=False) for t in tags]
        while True:
            plan = make(inner[0], tags, Counter(counter))
            grown = [_either(t, _tag(plan.tags, o)) for t, o in zip(tags[n:n + m], plan.outputs, strict=False)]
            if grown == tags[n:n + m]:
                break
            tags = [*tags[:n], *grown, *tags[n + m:]]
    return (make(inner[0], tags, counter),)


def _join(plans):
    """The tags of the results of one body, or of any of several."""
    outs = [[_tag(p.tags, o) for o in p.outputs] for p in plans]
    joined = outs[0]
    for other in outs[1:]:
        joined = [_either(a, b) for a, b in zip(joined, other, strict=True)]
    return joined if len(plans) == 1 else [t or _LOST for t in joined]


def _either(a, b):
    """What holds of a value that is one or the other."""
    if a is None or b is None:
        one = a or b
        return one and one._replace(first=False, nonnegative=False)
    return Tag(a.carried or b.carried, a.first and b.first, a.nonnegative and b.nonnegative)


def _steps(nodes, early, known, outputs, counter):
    makers = {o: node for node in early for o in node.outputs}
    users, steps, done = Counter(), [], set()
    readers = {}
    for node, _ in nodes:
        for i in {i for i in node.inputs if not isinstance(i, Literal)}:
            users[i] += 1
            readers[i] = node
    users.update(o for o in outputs if not isinstance(o, Literal))
    for node, body_plans in nodes:
        if node.outputs in done:
            continue
        tags = [_tag(known, i) for i in node.inputs]
        eqn, carried = node.eqn, tuple(bool(t and t.carried) for t in tags)
        if body_plans or not any(carried) or not any(known[o].carried for o in node.outputs):
            steps.append(Step(None, eqn, node.inputs, node.outputs, body_plans))
            continue
        kind = kind_of(eqn, tags)
        run, merge, inputs, outs = (), None, node.inputs, node.outputs
        if kind in ("conv", "dense"):
            next_of = lambda v: readers[v] if users[v] == 1 and v in readers else None
            run, axes = affine_run(node, kind, carried, next_of, lambda i: _tag(known, i) is None, makers.get)
            extra = tuple(i for n in run for i in n.inputs if not isinstance(i, Literal) and not known.get(i))
            done |= {n.outputs for n in run}
            merge = merged(node, kind, carried, run, axes, extra)
            inputs, outs = (*node.inputs, *extra), run[-1].outputs if run else node.outputs
        first = all(t.first for t in tags if t and t.carried)
        nonnegative = all(t.nonnegative for t in tags if t and t.carried)
        apply = lambda *values, eqn=eqn: _single(bind(eqn, values))
        operation = Operation(kind, eqn_name(eqn), counter[kind], first, nonnegative, carried, pool_params(eqn),
                              apply, merge)
        counter[kind] += 1
        steps.append(Step(operation, eqn, inputs, outs, run=run))
    return steps


def _single(results):
    return results[0] if len(results) == 1 else tuple(results)
