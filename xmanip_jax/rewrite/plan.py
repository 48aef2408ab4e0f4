"""A model as a plan: the steps through which the image flows, each linear layer with its affine run.

An affine run is what follows a linear layer up to the next non-affine operation, as long as nothing else reads
the values between and its constants are one number per output feature: the bias, BatchNorm in inference, a rescaling.
It is merged into the layer, for which a propagation rule then sees z = apply(x, w) + b. A run is never merged into the
layer after it, which would be wrong at the border of a zero-padded convolution.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .blocks import Unit, run_nodes, units
from .control import CONTROL
from .errors import LostRuleWarning
from .graph import Flat, Node, describe, flatten, is_elementwise_rule, literal
from .jaxprs import Literal, bind, bodies, eqn_name, is_custom_rule, prims, scan_split
from .known import Known
from .merge import Merged, affine_run, merged
from .operations import IMAGE, LOST, Tag, always, is_max_pool, kind_of, pool_params, tag_of
from .roles import centred, log_sums, normalising, scale, signal

__all__ = ["IMAGE", "Operation", "Options", "Plan", "Step", "early_values", "make_plan", "operations", "read"]


class Options(NamedTuple):
    """How a plan is made.

    open_remat: remat is its body;  calls: names of functions that stay one operation, "call";
    everything: comparisons and integers carry the image, too;  merge: linear layers take their affine runs along;
    opens_rules: (equation) -> whether a function with a derivative rule that is neither elementwise nor a pooling is
    its body, the rule being dropped with a warning; else it stays one operation, "custom";
    opens_elementwise: (equation, which operands depend on the image) -> likewise for one that is elementwise;
    shares: a softmax is one operation.
    """

    open_remat: bool = False
    calls: frozenset[str] = frozenset()
    everything: bool = False
    merge: bool = True
    opens_rules: Callable[[Any], bool] = lambda eqn: True
    opens_elementwise: Callable[[Any, Sequence[bool]], bool] = lambda eqn, on: False
    shares: bool = False


class Operation(NamedTuple):
    """One operation that carries the image, as a propagation rule sees it.

    kind: see `operations.kind_of`;  name: of its primitive or function, of a known activation that in the table;
    index: its place among those of its kind;
    first: no linear layer lies between the image and it; None where that depends on the turn of a loop or on a branch;
    nonnegative: the carried operands are, by construction;  carried: which operands carry the image;
    params: the parameters of its primitive (of a hard max-pooling: its reduce_window's);
    apply: operands -> result, as traced;  merge: a linear layer with its affine run, else None;
    known: of an activation, its name in the table of known ones and its parameters, numbers or the places of operands
    as `("operand", k)`;
    signal: of a product, which operand the relevance belongs to if the other only gates or scales it, else None; of a
    sum of two, which one the other centres, being its mean;
    scale: what a sum over axes is multiplied by before anything else is done to it, as in a mean;
    place: where it stands in the user's code;
    primitive: what it is to JAX, "" for functions and blocks of several equations: `name` may be a user's, and says
    nothing of what is computed;
    beside: what the operand beside the signal is: "gate", "softmax", "scale", "mean", "lost", "" where there is none.
    """

    kind: str
    name: str
    index: int  # type: ignore[assignment]  # a tuple's method
    first: bool | None
    nonnegative: bool
    carried: tuple[bool, ...]
    params: Mapping[str, Any]
    apply: Callable[..., Any]
    merge: Merged | None = None
    known: Known | None = None
    signal: int | None = None
    scale: float = 1.0
    place: str = ""
    primitive: str = ""
    beside: str = ""

    def __str__(self):
        return f"{self.name} ({self.place})" if self.place else self.name


class Step(NamedTuple):
    """Part of a run: operation None is a value that carries no relevance; bodies are the plans of control flow."""

    operation: Operation | None
    unit: Unit
    inputs: tuple
    outputs: tuple
    bodies: tuple = ()
    run: tuple = ()  # the units of the affine run

    @property
    def eqn(self) -> Any:
        return self.unit.nodes[0].eqn


class Plan(NamedTuple):
    """early: nodes that do not depend on the image;  steps: the others, in the order of execution."""

    flat: Flat
    early: list[Node]
    steps: list[Step]
    tags: dict

    @property
    def inputs(self) -> tuple[int, ...]:
        return self.flat.inputs

    @property
    def outputs(self) -> tuple:
        return self.flat.outputs


def make_plan(jaxpr: Any, consts: Sequence[Any], tags: list[Tag | None], options: Options) -> Plan:
    """The plan of an open jaxpr whose inputs have the given tags (None: independent of the image)."""
    return _numbered(_planned(jaxpr, consts, tags, options), Counter())


def _numbered(plan, counter):
    """With the operations of each kind numbered in the order of execution, whether remat is open or not."""
    steps = []
    for step in plan.steps:
        inner = tuple(_numbered(body, counter) for body in step.bodies)
        operation = step.operation and step.operation._replace(index=counter[step.operation.kind])
        counter.update([operation.kind] if operation else [])
        steps.append(step._replace(operation=operation, bodies=inner))
    return plan._replace(steps=steps)


def _planned(jaxpr, consts, tags, options):
    flat = flatten(jaxpr, consts, [t is not None for t in tags], lambda eqn, on: _opens(eqn, on, options))
    known = {i: t for i, t in zip(flat.inputs, tags, strict=True) if t}
    found = units(flat, options.shares)
    kinds, plans = {}, {}
    for k, unit in enumerate(found):
        own = [_tag(known, i) for i in unit.inputs]
        if _is_control(unit):
            plans[k] = _body_plans(unit.nodes[0].eqn, own, options)
            results = _join(plans[k], len(unit.outputs))
        else:
            kinds[k] = "call" if _is_call(unit, options) else kind_of(flat, unit, own)
            results = [tag_of(flat, unit, kinds[k], own)] * len(unit.outputs)
        for o, t in zip(unit.outputs, results, strict=True):
            lost = not t or not t.carried or not jax.dtypes.issubdtype(flat.aval(o).dtype, np.inexact)
            if o in flat.depends:
                known[o] = LOST._replace(carried=options.everything) if lost else t
    early = [node for node in flat.nodes if not flat.depending(node)]
    return Plan(flat, early, _steps(flat, found, kinds, plans, known, options.merge), known)


def early_values(plan: Plan, values: Mapping[int, Any]) -> dict[int, Any]:
    """By its number, every constant, the given values of inputs, and what the early nodes make of them."""
    return run_nodes(plan.early, {**plan.flat.constants, **values})


def read(env: dict, i: Any) -> Any:
    return literal(i) if isinstance(i, Literal) else env[i]


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


def _is_control(unit):
    eqn = unit.nodes[0].eqn
    return unit.role == "single" and eqn.primitive in CONTROL and eqn.primitive is not prims.jit_p


def _is_call(unit, options):
    return unit.role == "single" and eqn_name(unit.nodes[0].eqn) in options.calls and bool(bodies(unit.nodes[0].eqn))


def _opens(eqn, on, options):
    """Whether a call is replaced by its body."""
    if eqn.primitive is prims.jit_p:
        return eqn.params["name"] not in options.calls and not is_max_pool(eqn)
    if is_custom_rule(eqn):
        if eqn_name(eqn) in options.calls or is_max_pool(eqn):
            return False
        if options.opens_elementwise(eqn, on) if is_elementwise_rule(eqn, on) else options.opens_rules(eqn):
            warnings.warn(f"{describe(eqn)} has its own derivative rule, which is dropped: what is done to the model "
                          "is done to its body", LostRuleWarning, stacklevel=2)
            return True
        return False
    return eqn.primitive.name in ("closed_call", "core_call") or (options.open_remat and eqn.primitive is prims.remat_p)


def _body_plans(eqn, tags, options):
    """Plans of the bodies of control flow; the tags of what a loop carries grow until they hold every time."""
    make = lambda body, tags: _planned(*body, tags, options)
    inner = bodies(eqn)
    if eqn.primitive is prims.cond_p:
        return tuple(make(branch, tags[1:]) for branch in inner)
    if eqn.primitive is prims.scan_p:
        n, m = scan_split(eqn.params)
        return (make(inner[0], _settled(inner[0], tags, n, m, make)),)
    if eqn.primitive is prims.while_p:
        n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        carry = _settled(inner[1], tags[n:], m, len(tags) - n - m, make)
        return make(inner[0], [*tags[:n], *carry[m:]]), make(inner[1], carry)
    return (make(inner[0], tags),)


def _settled(body, tags, n, m, make):
    while True:
        plan = make(body, tags)
        grown = [_either(t, _tag(plan.tags, o)) for t, o in zip(tags[n:n + m], plan.outputs, strict=False)]
        if grown == tags[n:n + m]:
            return tags
        tags = [*tags[:n], *grown, *tags[n + m:]]


def _join(plans, count):
    """The tags of the results of a body, or of any of several."""
    outs = [[_tag(p.tags, o) for o in p.outputs] for p in plans if len(p.outputs) == count]
    joined = outs[-1]
    for other in outs[:-1]:
        joined = [_either(a, b) for a, b in zip(joined, other, strict=True)]
    return joined if len(outs) == 1 else [t or LOST for t in joined]


def _either(a, b):
    """What holds of a value that is one or the other."""
    if a is None or b is None:
        one = a or b
        return one and Tag(one.carried, one.first, False)
    first = a.first if a.first == b.first or not b.carried else b.first if not a.carried else None
    return Tag(a.carried or b.carried, first, *(p and q for p, q in zip(a[2:], b[2:], strict=True)))


def _steps(flat, found, kinds, plans, known, merges):
    users, readers, steps, done = Counter(), {}, [], set()
    for unit in found:
        for i in {i for i in unit.inputs if not isinstance(i, Literal)}:
            users[i] += 1
            readers[i] = unit
    users.update(o for o in flat.outputs if not isinstance(o, Literal))
    alone = lambda v: readers[v] if users[v] == 1 and v in readers else None
    scaling = normalising(found, kinds, known) | log_sums(found, kinds)
    for k, unit in enumerate(found):
        if unit.outputs in done:
            continue
        tags = [_tag(known, i) for i in unit.inputs]
        carried = tuple(bool(t and t.carried) for t in tags)
        if k in plans or not any(carried) or not any(known[o].carried for o in unit.outputs):
            steps.append(Step(None, unit, unit.inputs, unit.outputs, plans.get(k, ())))
            continue
        kind = "statistic" if kinds[k] == "activation" and unit.outputs[0] in scaling else kinds[k]
        run, merge, inputs, outs = (), None, unit.inputs, unit.outputs
        if kind in ("conv", "dense"):
            run = affine_run(flat, unit, kind, carried, alone if merges else lambda v: None)
            extra = tuple(dict.fromkeys(i for part in run for node in part.nodes for i in node.inputs if not isinstance(
                i, Literal) and i not in flat.depends))
            done |= {part.outputs for part in run}
            merge = merged(flat, unit, kind, carried, run, extra)
            inputs, outs = (*unit.inputs, *extra), run[-1].outputs if run else unit.outputs
        operation = _operation(unit, kind, tags, carried, merge)
        if kind == "sum":
            operation = operation._replace(scale=scale(flat, unit, alone))
        elif kind == "add" and centred(flat, unit):
            operation = operation._replace(signal=0, beside="mean")
        steps.append(Step(operation, unit, inputs, outs, run=run))
    return steps


def _operation(unit, kind, tags, carried, merge):
    eqn = unit.nodes[0].eqn
    first = always(t.first for t in tags if t and t.carried)
    nonnegative = all(t.nonnegative for t in tags if t and t.carried)
    name = unit.known.name if unit.known else kind if kind == "softmax" else ", ".join(
        dict.fromkeys(eqn_name(node.eqn) for node in unit.nodes))
    opaque = len(unit.nodes) > 1 or is_custom_rule(eqn) or eqn.primitive is prims.jit_p
    params = {"axes": unit.axes} if kind == "softmax" else pool_params(eqn)
    which, beside = signal(kind, tags)
    return Operation(kind, name, 0, first, nonnegative, carried, params, _applies(unit), merge, _known(unit), which,
                     place=unit.nodes[-1 if kind == "softmax" else 0].place,
                     primitive="" if opaque else eqn.primitive.name, beside=beside)


def _applies(unit):
    if unit.role == "single" or (len(unit.nodes) == 1 and unit.inputs == unit.nodes[0].inputs):
        return lambda *values: _single(bind(unit.nodes[0].eqn, values))
    return lambda *values: run_nodes(unit.nodes, dict(zip(unit.inputs, values, strict=True)))[unit.outputs[0]]


def _known(unit):
    """The known function, its parameters as numbers or as places among the unit's inputs."""
    if unit.known is None:
        return None
    places = {i: k for k, i in enumerate(unit.inputs) if not isinstance(i, Literal)}
    parameter = lambda p: p.params[0] if p.op == "const" else ("operand", places[p.params[0]])
    return Known(unit.known.name, tuple(map(parameter, unit.known.parameters)))


def _single(results):
    return results[0] if len(results) == 1 else tuple(results)
