"""Give a model other derivatives: the same values, but what flows back through an operation is computed by a rule.

Guided backpropagation, LRP and Pattern Attribution are `jax.vjp` of such a model. Its values have their true
derivatives, so that the maps, once taken, differentiate to any order.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..types import Array, Example, Float, Model, Shaped
from .control import rebuild
from .errors import UnsupportedPrimitiveError
from .graph import describe
from .interpreter import compute
from .jaxprs import Literal, trace
from .plan import IMAGE, Operation, Options, Plan, Step, early_values, make_plan, operations, read

__all__ = ["LinearLayer", "flow", "linear_layers", "propagate"]


class LinearLayer(NamedTuple):
    """A linear layer z = apply(x, w) + b at one example, its affine run merged into it.

    x: the input;  w: the weights;  b: broadcastable to z;  z: the result;  apply: bilinear in (x, w);
    nonnegative: x is, by construction;  box: the bounds of x that follow from `rule.box`, the rule's bounds of the
    model's input, if this is a first layer outside loops, else None;  neurons: the axes of z and the axes of w
    that number the output features.
    """

    x: Float[Array, "*inputs"]
    w: Float[Array, "*weights"]
    b: Float[Array, "..."]
    z: Float[Array, "*results"]
    apply: Callable[[Array, Array], Array]
    nonnegative: bool
    box: tuple[Float[Array, "*inputs"], Float[Array, "*inputs"]] | None = None
    neurons: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


def flow(f: Model, x: Shaped[Example, "*shape"], *, calls: frozenset[str] = frozenset()) -> list[Operation]:
    """The operations through which the image flows, in the order of execution; nothing is computed.

    calls: see `propagate`.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> [op.kind for op in rewrite.flow(lambda x: jax.nn.relu(x @ jnp.ones((2, 3))).sum(), jnp.ones(2))]
    ['dense', 'activation', 'sum']
    """
    return operations(plan_for(f, x, Options(calls=calls, shares=True))[0])


def propagate(f: Model, choose: Callable[[Operation], Any], *, calls: frozenset[str] = frozenset()) -> Model:
    """`f` with the same values and, where `choose` gives one, another derivative.

    choose(operation) is None (JAX's derivative stays), NotImplemented (refuse the model), or a function that gets the
    relevance R of the result and returns that of the carried operand: for "conv" and "dense"
    `(R, layer: LinearLayer)`, for everything else `(R, result, *operands)`, where several carried operands take a
    tuple, None in it standing for no relevance at all. It may use R nonlinearly. The result has reverse-mode
    derivatives only.

    calls: names of jitted or custom-rule functions that are one operation, of kind "call", wherever they stand.

    Raises UnsupportedPrimitiveError naming everything for which `choose` gave NotImplemented and which relevance can
    reach: a rule with the attribute `passes`, a tuple of Bool for the carried operands, says which get any.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> through = lambda operation: (lambda R, result, z: R) if operation.kind == "activation" else None
    >>> jax.grad(rewrite.propagate(lambda x: jax.nn.relu(x).sum(), through))(jnp.array([-1.0, 1.0]))
    Array([1., 1.], dtype=float32)
    """

    def propagated(x):
        plan, leaves, structure = plan_for(f, x, Options(calls=calls, shares=True))
        refuse(plan, choose)
        boxes = _boxes(plan, choose, leaves)
        return jax.tree.unflatten(structure, run(plan, leaves, choose, boxes))

    return propagated


def refuse(plan: Plan, choose: Callable[[Operation], Any]) -> None:
    """Raises UnsupportedPrimitiveError for what has no rule and is reached by relevance."""
    refused = sorted({str(op) for op in _reached(plan, choose, list(plan.outputs))[0] if choose(op) is NotImplemented})
    if refused:
        raise UnsupportedPrimitiveError(
            f"no propagation rule for {', '.join(refused)}: the image reaches these operations in a way that the "
            "rule table does not cover; pass rules={name: rule}, or explain the part of the model without them")


def _reached(plan, choose, outputs):
    """The operations that relevance of the given results reaches, and the inputs that it reaches."""
    wanted, found = {o for o in outputs if not isinstance(o, Literal)}, []
    for step in reversed(plan.steps):
        if wanted.isdisjoint(step.outputs):
            continue
        if step.bodies:
            for body in step.bodies:
                found += _reached(body, choose, list(body.outputs))[0]
            wanted.update(i for i in step.inputs if not isinstance(i, Literal))
        elif step.operation:
            found.append(step.operation)
            carried = [i for i, c in zip(step.inputs, step.operation.carried, strict=False) if c]
            passes = getattr(choose(step.operation), "passes", None) or (True,) * len(carried)
            wanted.update(i for i, p in zip(carried, passes, strict=True) if p)
    return found, wanted


def linear_layers(f: Model) -> Callable[[Array], dict[str, LinearLayer]]:
    """`g(x) -> {"conv#0": LinearLayer, "dense#0": ...}`: every linear layer with its input, merged weights and result.

    The names are those that patterns go by. Raises UnsupportedPrimitiveError for a layer in a loop.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> found = rewrite.linear_layers(lambda x: x @ jnp.ones((2, 3)) + 1)(jnp.ones(2))
    >>> {name: (layer.w.shape, layer.z) for name, layer in found.items()}
    {'dense#0': ((2, 3), Array([3., 3., 3.], dtype=float32))}
    """

    def layers(x):
        plan, leaves, _ = plan_for(f, x, Options(open_remat=True, shares=True))
        if looped := [op for step in plan.steps for body in step.bodies for op in operations(body) if op.merge]:
            raise UnsupportedPrimitiveError(f"{looped[0]} sits in a loop or a branch: the layer has no single input; "
                                            "unroll it, rewrite.unroll(f)")
        found = {}
        run(plan, leaves, lambda op: None, {}, found)
        return found

    return layers


def plan_for(f: Callable[..., Any], x: Any, options: Options) -> tuple[Plan, list, Any]:
    """(the plan of f, whose argument all carries the image, the leaves of x, the structure of the result)."""
    jaxpr, consts, leaves, structure = trace(f, x)
    return make_plan(jaxpr, consts, [IMAGE] * len(leaves), options), leaves, structure


def _boxes(plan, choose, leaves):
    """For a rule that needs the bounds of a first layer's input: both bounds of what precedes one, by number."""
    rules = [choose(op) for op in operations(plan) if op.merge and op.first]
    box = next((rule.box for rule in rules if getattr(rule, "box", None)), None)
    if box is None:
        return {}
    images = [[jnp.broadcast_to(v, leaf.shape).astype(leaf.dtype) for leaf in leaves] for v in box]
    return _bounds(plan, dict(zip(plan.inputs, zip(*images, strict=True), strict=True)), leaves)


# What keeps or reverses the order of its carried operands; of activations, those of the table that keep it.
_MONOTONE = {"add", "custom", "elementwise", "max", "max_pool", "route", "sum"}
_INCREASING = {"centred_softplus", "clip", "hard_sigmoid", "hard_tanh", "log_sigmoid", "maximum", "minimum", "relu",
               "relu6", "selu", "sigmoid", "soft_sign", "softplus", "softplus_beta", "softplus_beta6", "sparse_plus",
               "sparse_sigmoid", "squareplus", "tanh"}


def _bounds(plan, known, values):
    """What the bounds of the model's input become on the way to its first linear layers.

    (lower, upper) of a value, or the name of an operation on the way to it that is not known to be monotone.
    """
    env, found = early_values(plan, dict(zip(plan.inputs, values, strict=True))), dict(known)
    for step in plan.steps:
        own = [i for i in step.inputs if not isinstance(i, Literal) and i in plan.flat.depends]
        if step.bodies or (step.operation and step.operation.merge) or not all(i in found for i in own):
            continue
        lost = [found[i] for i in own if isinstance(found[i], str)]
        if lost or not _monotone(step, plan.flat):
            found.update(dict.fromkeys(step.outputs, lost[0] if lost else str(step.operation or describe(step.eqn))))
            continue
        crossed = step.operation.kind == "add" and step.operation.primitive == "sub"
        both = [compute(step, [found[i][side ^ (crossed and k)] if not isinstance(i, Literal) and i in found
                               else read(env, i) for k, i in enumerate(step.inputs)]) for side in (0, 1)]
        found.update((o, (jnp.minimum(a, b), jnp.maximum(a, b)))
                     for o, a, b in zip(step.outputs, *both, strict=True))
    return found


def _monotone(step, flat):
    """Whether the bounds of its operands, and nothing else that depends on the image, give those of its results."""
    operation = step.operation
    if operation is None or any(
            i in flat.depends and not c for i, c in zip(step.inputs, operation.carried, strict=False)
            if not isinstance(i, Literal)):
        return False
    if operation.kind == "activation":
        return bool(operation.known) and operation.known.name in _INCREASING
    return operation.kind in _MONOTONE and (operation.primitive != "sort" or len(step.inputs) == 1)


def run(plan: Plan, values: Sequence[Any], choose: Callable[[Operation], Any], boxes: Any, found: Any = None,
        after: Callable[[Step, list], list] = lambda step, results: results) -> list:
    """The results. boxes: see `_boxes`;  found: takes the linear layers by name;  after: changes what steps make."""
    rule_of = lambda operation: None if (rule := choose(operation)) is NotImplemented else rule  # nothing reaches it
    env = early_values(plan, dict(zip(plan.inputs, values, strict=True)))
    for step in plan.steps:
        operands = [read(env, i) for i in step.inputs]
        if step.bodies:
            results = _control(step, operands, choose, boxes)
        elif step.operation is None:
            results = compute(step, operands)
        elif step.operation.merge:
            x = step.inputs[step.operation.merge.x]
            results = _linear(step.operation, operands, rule_of(step.operation), boxes.get(x, ()), found)
        else:
            results = _other(step.operation, operands, rule_of(step.operation))
        env.update(zip(step.outputs, after(step, results), strict=True))
    return [read(env, i) for i in plan.outputs]


def _control(step, operands, choose, boxes):
    opened = step.eqn.primitive.name in ("remat", "remat2", "checkpoint")
    runners = []
    for plan in step.bodies:
        inside = {i: boxes[o] for i, o in zip(plan.inputs, step.inputs, strict=False) if not isinstance(
            o, Literal) and o in boxes} if opened else {}
        runners.append(lambda *values, plan=plan, inside=inside: (
            run(plan, values, choose, _bounds(plan, inside, values) if inside else {}), []))
    return rebuild(step.eqn, operands, runners)[0]


def _linear(operation, operands, rule, bounds, found):
    m, n = operation.merge, len(operands)
    # Bounds are operands, computed here: a backward pass may run outside the trace that holds what they depend on.
    bounds = bounds if operation.first and getattr(rule, "box", None) else ()
    if isinstance(bounds, str):
        raise UnsupportedPrimitiveError(
            f"the bounds of the input do not pass {bounds}, which is not known to be monotone, on the way to the first "
            f"layer, {operation}: give this layer another rule than z_box, or explain the model above that operation")

    def layer(z, *operands):
        w, b = m.weights(*operands[:n])
        box = operands[n:] or None
        return LinearLayer(operands[m.x], w, b, m.back(z), m.apply, operation.nonnegative, box, m.neurons)

    def values(*operands):
        return m.run(m.apply(operands[m.x], operands[m.w]), *operands[2:n])

    backward = rule and (lambda relevance, z, *operands: rule(m.back(relevance), layer(z, *operands)))
    z = _replaced(values, backward, operation.carried, [*operands, *bounds])
    if found is not None:
        found[f"{operation.kind}#{operation.index}"] = layer(z, *operands)
    return [z]


def _other(operation, operands, rule):
    result = _replaced(operation.apply, rule, operation.carried, operands)
    return list(result) if isinstance(result, tuple) else [result]


def _replaced(values, backward, carried, operands):
    """values(*operands), whose derivative in the carried operands is `backward`'s."""
    if backward is None:
        return values(*operands)

    @jax.custom_vjp
    def replaced(*operands):
        return values(*operands)

    def forward(*operands):
        result = values(*operands)
        return result, (result, operands)

    def pull(residuals, relevance):
        result, operands = residuals
        found = backward(relevance, result, *operands)
        found = iter(found if isinstance(found, tuple) else (found,))
        full = (*carried, *[False] * (len(operands) - len(carried)))
        return tuple(next(found) if c else None for c in full)

    replaced.defvjp(forward, pull)
    return replaced(*operands)
