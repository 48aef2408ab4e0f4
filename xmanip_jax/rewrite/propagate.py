"""Give a model other derivatives: the same values, but what flows back through an operation is computed by a rule.

Guided backpropagation, LRP and Pattern Attribution are `jax.vjp` of such a model. Its values have their true
derivatives, so that the maps, once taken, differentiate to any order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..types import Array, Model
from .control import rebuild
from .errors import UnsupportedPrimitiveError
from .jaxprs import Literal, bind, trace
from .merge import literal
from .plan import IMAGE, Operation, Plan, early_values, make_plan, operations

__all__ = ["LinearLayer", "flow", "linear_layers", "propagate"]


class LinearLayer(NamedTuple):
    """A linear layer z = apply(x, w) + b at one example, its affine run merged into it.

    x: the input;  w: the weights;  b: broadcastable to z;  z: the result;  apply: bilinear in (x, w);
    nonnegative: x is, by construction;  box: the bounds of x that follow from `rule.box`, the rule's bounds of the
    model's input, if this is a first layer outside loops, else None;  neurons: the axes of z and the axes of w
    that number the output features.
    """

    x: Array
    w: Array
    b: Array
    z: Array
    apply: Callable[[Array, Array], Array]
    nonnegative: bool
    box: tuple[Array, Array] | None = None
    neurons: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())


def flow(f: Model, x: Array) -> list[Operation]:
    """The operations through which the image flows, in the order of execution; nothing is computed.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> [op.kind for op in rewrite.flow(lambda x: jax.nn.relu(x @ jnp.ones((2, 3))).sum(), jnp.ones(2))]
    ['dense', 'activation', 'sum']
    """
    return operations(_plan(f, x)[0])


def propagate(f: Model, choose: Callable[[Operation], Any]) -> Model:
    """`f` with the same values and, where `choose` gives one, another derivative.

    choose(operation) is None (JAX's derivative stays), NotImplemented (refuse the model), or a function that gets the
    relevance R of the result and returns that of the carried operand: for "conv" and "dense"
    `(R, layer: LinearLayer)`, for everything else `(R, result, *operands)`, where several carried operands take a
    tuple. It may use R nonlinearly. The result has reverse-mode derivatives only.

    Raises UnsupportedPrimitiveError naming everything for which `choose` gave NotImplemented.
    """

    def propagated(x):
        plan, leaves, structure = _plan(f, x)
        refused = sorted({op.name for op in operations(plan) if choose(op) is NotImplemented})
        if refused:
            raise UnsupportedPrimitiveError(
                f"no propagation rule for {', '.join(refused)}: the image reaches these operations in a way that the "
                "rule table does not cover; pass rules={name: rule}, or explain the part of the model without them")
        outs = _run(plan, leaves, choose, [_image_like(leaf) for leaf in leaves])
        return jax.tree.unflatten(structure, outs)

    return propagated


def linear_layers(f: Model) -> Callable[[Array], dict[str, LinearLayer]]:
    """`g(x) -> {"conv#0": LinearLayer, "dense#0": ...}`: every linear layer with its input, merged weights and result.

    The names are those that patterns go by. Raises UnsupportedPrimitiveError for a layer in a loop.
    """

    def layers(x):
        plan, leaves, _ = _plan(f, x, open_remat=True)
        if any(step.bodies for step in plan.steps):
            raise UnsupportedPrimitiveError("a layer sits in a loop or a branch: it has no single input; unroll it")
        found = {}
        _run(plan, leaves, lambda op: None, [None] * len(leaves), found)
        return found

    return layers


def _plan(f, x, open_remat=False):
    jaxpr, consts, leaves, structure = trace(f, x)
    return make_plan(jaxpr, consts, [IMAGE] * len(leaves), open_remat=open_remat), leaves, structure


def _image_like(leaf):
    return lambda v: jnp.broadcast_to(v, leaf.shape).astype(leaf.dtype)


def _run(plan: Plan, values, choose, sources, found=None):
    """The results. sources: for each input, from an image to it, or None;  found: takes the linear layers by name."""
    env = early_values(plan, dict(zip(plan.inputs, values, strict=True)))
    source = {i: s for i, s in zip(plan.inputs, sources, strict=True) if s is not None}
    read = lambda i: literal(i) if isinstance(i, Literal) else env[i]
    for step in plan.steps:
        operands = [read(i) for i in step.inputs]
        sourced = [None if isinstance(i, Literal) else source.get(i) for i in step.inputs]
        if step.bodies:
            results = _control(step, operands, choose, sourced)
        elif step.operation is None:
            results = bind(step.eqn, operands)
        elif step.operation.merge:
            results = _linear(step.operation, operands, choose, sourced, found)
        else:
            results = _other(step.operation, operands, choose)
        env.update(zip(step.outputs, results, strict=True))
        if not step.bodies and any(sourced) and not (step.operation and step.operation.merge):
            for k, out in enumerate(step.outputs):
                source[out] = _continued(step.eqn, operands, sourced, k)
    return [read(i) for i in plan.outputs]


def _continued(eqn, operands, sourced, k):
    return lambda image: bind(eqn, [v if s is None else s(image) for v, s in zip(operands, sourced, strict=True)])[k]


def _control(step, operands, choose, sourced):
    name = step.eqn.primitive.name
    runners = []
    for plan in step.bodies:
        sources = sourced if name not in ("scan", "cond") else [None] * len(plan.inputs)
        runners.append(lambda *values, plan=plan, sources=sources: (_run(plan, values, choose, sources), []))
    return rebuild(step.eqn, operands, runners)[0]


def _linear(operation, operands, choose, sourced, found):
    m, rule = operation.merge, choose(operation)
    source, box = sourced[m.x] if operation.first else None, getattr(rule, "box", None)
    # Bounds are operands, computed here: a backward pass may run outside the trace that holds what they depend on.
    bounds = [source(v) for v in box] if source and box else []
    n = len(operands)

    def layer(z, *operands):
        w, b = m.weights(*operands[:n])
        return LinearLayer(operands[m.x], w, b, z.reshape(m.shape), m.apply, operation.nonnegative,
                           operands[n:] or None, m.neurons)

    def values(*operands):
        return m.run(m.apply(operands[m.x], operands[m.w]), *operands[2:n])

    backward = rule and (lambda relevance, z, *operands: rule(relevance.reshape(m.shape), layer(z, *operands)))
    z = _replaced(values, backward, operation.carried, [*operands, *bounds])
    if found is not None:
        found[f"{operation.kind}#{operation.index}"] = layer(z, *operands)
    return [z]


def _other(operation, operands, choose):
    result = _replaced(operation.apply, choose(operation), operation.carried, operands)
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
