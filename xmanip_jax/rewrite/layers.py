"""Access to the inner layers of a model."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..types import Example, Float, Model, Shaped
from .activations import plan_of
from .errors import LayerError
from .interpreter import Rule, Site, compute, evaluate, sites
from .jaxprs import prims
from .known import KNOWN
from .plan import Plan, Step

__all__ = ["Layer", "layer_sites", "layer_values", "layers", "tap", "zero_at"]

_LOOPS = {"scan", "while", "cond"}


class Layer(NamedTuple):
    """A place in the model: its name, the shape of its value, and whether it sits in a loop (then it has no tap)."""

    name: str
    shape: tuple[int, ...]
    in_loop: bool


def layers(f: Callable[..., Any], x: Any) -> tuple[Layer, ...]:
    """The layers of `f`, named in the model by `jax.ad_checkpoint.checkpoint_name(value, "features")`.

    A name used n > 1 times is listed as name#0 ... name#n-1. A model without names gets automatic ones for the
    outputs of its activations: relu#0, relu#1, gelu#0 ... (and its softplus surrogates keep them).

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> rewrite.layers(lambda x: jax.nn.relu(x).sum(), jnp.ones(2))
    (Layer(name='relu#0', shape=(2,), in_loop=False),)
    """
    return tuple(layer for layer, _ in layer_sites(plan_of(f, (x,))[0])[1])


def tap(f: Model, layer: str) -> Callable[[Array, Array], tuple[Array, Array]]:
    """`g(x, delta) -> (f(x) with delta added to the layer's value, that value)`: every layer-wise map follows.

    d logit / d delta at delta = 0 is the gradient at the layer. delta: the layer's shape, or a scalar 0.

    Raises LayerError for a name that is unknown (the known ones are listed) or that sits in a loop.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> rewrite.tap(lambda x: 3 * jax.nn.relu(x), "relu#0")(jnp.ones(2), 1.0)
    (Array([6., 6.], dtype=float32), Array([1., 1.], dtype=float32))
    """

    def tapped(x, delta):
        plan, leaves, structure = plan_of(f, (x,))
        match, found = layer_sites(plan)
        names = [known.name for known, _ in found]
        if layer not in names:
            raise _unknown(layer, names)
        index = names.index(layer)
        if found[index][0].in_loop:
            raise LayerError(f"layer {layer!r} sits in a loop: it has no single value; unroll it, rewrite.unroll(f)")

        def apply(kind, at, step, operands):
            (value,) = compute(step, operands)
            if at != index:
                return [value], None
            return [value + jnp.asarray(delta, value.dtype)], value

        outs, sown = evaluate(plan, leaves, Rule(match, apply))
        return jax.tree.unflatten(structure, outs), sown[0]

    return tapped


def layer_values(f: Model) -> Callable[[Array], tuple[Array, dict[str, Array]]]:
    """`g(x) -> (f(x), {name: value})` of the layers in the order of execution, but for those in loops.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> rewrite.layer_values(lambda x: jax.nn.relu(x).sum())(jnp.array([-1.0, 2.0]))
    (Array(2., dtype=float32), {'relu#0': Array([0., 2.], dtype=float32)})
    """

    def valued(x):
        plan, leaves, structure = plan_of(f, (x,))
        match, found = layer_sites(plan)
        kept = [not layer.in_loop for layer, _ in found]

        def apply(kind, at, step, operands):
            (value,) = compute(step, operands)
            return [value], value if kept[at] else None

        outs, sown = evaluate(plan, leaves, Rule(match, apply))
        names = [layer.name for (layer, _), keep in zip(found, kept, strict=True) if keep]
        return jax.tree.unflatten(structure, outs), dict(zip(names, sown, strict=True))

    return valued


def zero_at(f: Model, x: Shaped[Example, "*shape"], layer: str) -> Float[Array, "*layer"]:
    """Zeros in the shape and type of a layer's value: the delta at which `tap` changes nothing. Raises LayerError.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> rewrite.zero_at(lambda x: jax.nn.relu(x).sum(), jnp.ones(2), "relu#0")
    Array([0., 0.], dtype=float32)
    """
    found = {known.name: site for known, site in layer_sites(plan_of(f, (x,))[0])[1]}
    if layer not in found:
        raise _unknown(layer, list(found))
    aval = found[layer].plan.flat.aval(found[layer].step.outputs[0])
    return jnp.zeros(aval.shape, aval.dtype)


def _unknown(layer, names):
    known = f"the model's layers are {names}" if names else (
        "the model names none and calls no activation: name one in it, jax.ad_checkpoint.checkpoint_name(value, name)")
    return LayerError(f"no layer {layer!r}; {known}")


def layer_kind(step: Step) -> str | None:
    """The activation that a step is or stands for: a surrogate's layer keeps the name of what it replaced."""
    operation = step.operation
    if operation is None or operation.kind != "activation":
        return None
    if operation.known is None:
        return "activation"
    return KNOWN[operation.known.name].layer or operation.known.name


def layer_sites(plan: Plan) -> tuple[Callable[[Step], Any], list[tuple[Layer, Site]]]:
    """(which steps are layers, each with its site)."""
    match = lambda step: step.eqn.params["name"] if step.eqn.primitive is prims.name_p else None
    if not (found := sites(plan, match)):
        match = layer_kind
        found = sites(plan, match)
    total, listed = Counter(s.kind for s in found), []
    seen: Counter[str] = Counter()
    for site in found:
        automatic = match is layer_kind or total[site.kind] > 1
        name = f"{site.kind}#{seen[site.kind]}" if automatic else site.kind
        seen[site.kind] += 1
        shape = site.plan.flat.aval(site.step.outputs[0]).shape
        listed.append((Layer(name, shape, bool(_LOOPS & set(site.inside))), site))
    return match, listed
