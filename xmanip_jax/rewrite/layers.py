"""What a model contains, and access to its inner layers."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from ..types import Model
from .activations import call_kind, layer_kind
from .errors import LayerError
from .interpreter import Rule, evaluate, sites
from .jaxprs import bind, eqn_name, is_custom_rule, prims, trace

__all__ = ["Contents", "Layer", "inspect", "layers", "tap", "zero_at"]

_KINKS = {"abs", "ceil", "clamp", "floor", "max", "min", "reduce_max", "reduce_min", "round", "select_n",
          "sign", "sort"}
_LOOPS = {"scan", "while", "cond"}


class Contents(NamedTuple):
    """What a rewrite would see.

    activations: how often jax.nn.relu and jax.nn.relu6 are called; max_pools: max-poolings; kinks: other operations
    that are not smooth and that no rewrite touches, by primitive; custom_rules: functions with their own derivative;
    layers: see `layers`.
    """

    activations: dict[str, int]
    max_pools: int
    kinks: dict[str, int]
    custom_rules: dict[str, int]
    layers: tuple["Layer", ...]


class Layer(NamedTuple):
    """A place in the model: its name, the shape of its value, and whether it sits in a loop (then it has no tap)."""

    name: str
    shape: tuple[int, ...]
    in_loop: bool


def inspect(f: Model, x) -> Contents:
    """List the activations, kinks, custom rules and layers of `f` at inputs shaped like `x`; nothing is computed.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> rewrite.inspect(lambda x: jnp.maximum(jax.nn.relu(x), 1.0), jnp.ones(3)).kinks
    {'max': 1}
    """
    jaxpr = trace(f, x)[0]

    def role(eqn):
        # A custom rule hides its body from differentiation, so the kinks inside it do not count.
        if kind := call_kind(eqn):
            return ("pools" if kind == "max_pool" else "activations"), kind
        if is_custom_rule(eqn):
            return "custom_rules", eqn_name(eqn)
        return ("kinks", eqn.primitive.name) if eqn.primitive.name in _KINKS else None

    found = Counter(site.kind for site in sites(jaxpr, role))
    of = lambda part: {name: n for (role, name), n in found.items() if role == part}
    return Contents(of("activations"), sum(of("pools").values()), of("kinks"), of("custom_rules"), layers(f, x))


def layers(f: Model, x) -> tuple[Layer, ...]:
    """The layers of `f`, named in the model by `jax.ad_checkpoint.checkpoint_name(value, "features")`.

    A name used n > 1 times is listed as name#0 ... name#n-1. A model without names gets automatic ones for the
    outputs of its activations: relu#0, relu#1, ... (and its softplus surrogates keep them).
    """
    return tuple(layer for layer, _ in _layer_sites(trace(f, x)[0])[1])


def tap(f: Model, layer: str) -> Callable[[Array, Array], tuple[Array, Array]]:
    """`g(x, delta) -> (f(x) with delta added to the layer's value, that value)`: every layer-wise map follows.

    d logit / d delta at delta = 0 is the gradient at the layer. delta: the layer's shape, or a scalar 0.

    Raises LayerError for a name that is unknown (the known ones are listed) or that sits in a loop.
    """

    def tapped(x, delta):
        jaxpr, consts, leaves, structure = trace(f, x)
        match, found = _layer_sites(jaxpr)
        names = [known.name for known, _ in found]
        if layer not in names:
            raise LayerError(f"no layer {layer!r}; the model's layers are {names}")
        index = names.index(layer)
        if found[index][0].in_loop:
            raise LayerError(f"layer {layer!r} sits in a loop: it has no single value; unroll the loop")

        def apply(kind, at, eqn, values):
            (value,) = bind(eqn, values)
            return ([value + delta], value) if at == index else ([value], None)

        outs, sown = evaluate(jaxpr, consts, leaves, Rule(match, apply))
        return jax.tree.unflatten(structure, outs), sown[0]

    return tapped


def zero_at(f: Model, x, layer: str) -> Array:
    """Zeros in the shape of a layer's value: the delta at which `tap` changes nothing. Raises LayerError."""
    found = {known.name: known for known in layers(f, x)}
    if layer not in found:
        raise LayerError(f"no layer {layer!r}; the model's layers are {list(found)}")
    return jnp.zeros(found[layer].shape, jnp.result_type(x))


def _layer_sites(jaxpr):
    match = lambda e: e.params["name"] if e.primitive is prims.name_p else None
    if not (found := sites(jaxpr, match)):
        match = layer_kind
        found = sites(jaxpr, match)
    total, seen, listed = Counter(s.kind for s in found), Counter(), []
    for site in found:
        automatic = match is layer_kind or total[site.kind] > 1
        name = f"{site.kind}#{seen[site.kind]}" if automatic else site.kind
        seen[site.kind] += 1
        listed.append((Layer(name, site.eqn.outvars[0].aval.shape, bool(_LOOPS & set(site.inside))), site))
    return match, listed
