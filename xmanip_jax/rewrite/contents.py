"""What a model contains."""

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from .activations import call_kind, kinks, plan_of
from .attention import Attention, above, blocks_of, products_of
from .errors import LostRuleWarning
from .interpreter import sites
from .jaxprs import eqn_name, is_custom_rule
from .layers import Layer, layer_sites
from .plan import Options
from .propagate import plan_for

__all__ = ["Contents", "inspect"]


class Contents(NamedTuple):
    """What a rewrite would see.

    activations: how often each known activation is called, by its name in the table of known ones, "piecewise" for
    unknown ones made of maxima and |.|;  max_pools: max-poolings;  kinks: other operations that are not smooth and that
    no surrogate touches, by primitive;  custom_rules: functions with their own derivative;  layers: see `layers`.
    """

    activations: dict[str, int]
    max_pools: int
    kinks: dict[str, int]
    custom_rules: dict[str, int]
    layers: tuple[Layer, ...]
    attention: tuple[Attention, ...]
    normalisations: dict[str, int]
    gates: dict[str, int]


def inspect(f: Callable[..., Any], x: Any) -> Contents:
    """List what `f` is made of, see `Contents`, at inputs shaped like `x`; nothing is computed.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> rewrite.inspect(lambda x: jnp.maximum(jax.nn.relu(x), x[::-1]), jnp.ones(3)).kinks
    {'max': 1}
    """
    plan = plan_of(f, (x,))[0]

    def role(step):
        if kind := call_kind(step):
            return ("pools" if kind == "max_pool" else "activations"), kind
        return next((("custom_rules", eqn_name(n.eqn)) for n in step.unit.nodes if is_custom_rule(n.eqn)), None)

    found = Counter(site.kind for site in sites(plan, role))
    of = lambda part: {name: n for (role, name), n in found.items() if role == part}
    listed = tuple(layer for layer, _ in layer_sites(plan)[1])
    bent = dict(Counter(eqn.primitive.name for eqn in kinks(plan)))
    flowing = _flowing(f, x)
    blocks = tuple(block for block, _ in blocks_of(flowing))
    normed, gated = _scaled(flowing)
    return Contents(of("activations"), sum(of("pools").values()), bent, of("custom_rules"), listed, blocks,
                    dict(normed), dict(gated))


def _flowing(f, x):
    """The plan that propagation sees; what it would warn of is for those who propagate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LostRuleWarning)
        return plan_for(f, x, Options(open_remat=True, shares=True))[0]


def _scaled(plan):
    """How many normalisations and gates a plan has, those of its loops once."""
    makers = {o: step for step in plan.steps for o in step.outputs}
    weighing = {id(product) for product in products_of(plan)}
    normed: Counter[str] = Counter()
    gated: Counter[str] = Counter()
    for step in plan.steps:
        for found in (_scaled(body) for body in step.bodies):
            normed.update(found[0])
            gated.update(found[1])
        operation = step.operation
        if operation is None or operation.beside not in ("gate", "scale", "softmax") or id(step) in weighing:
            continue
        through = ("elementwise", "route", "select")
        if operation.beside == "scale":
            made = above(step.inputs[operation.signal], makers, through)
            normed["centred" if any(s.operation.beside == "mean" for s in made) else "uncentred"] += 1
        else:
            made = above(step.inputs[1 - operation.signal], makers, through)
            gated[made[0].operation.name if made else operation.beside] += 1
    return normed, gated
