"""Find and swap what makes a network piecewise linear: relu, relu6 and max-pooling, wherever they are called.

Only calls of jax.nn.relu and jax.nn.relu6 match, never a bare `max(x, 0)`: normalisation layers clamp their variance
with it. Max-pooling is `lax.reduce_window` with max (flax's max_pool too), or a custom-rule function named max_pool.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
from jax import Array

from ..types import Model
from .errors import DerivativeInModelError, NoActivationError, UnsupportedPrimitiveError
from .interpreter import Rule, evaluate, sites
from .jaxprs import bind, body, eqn_name, prims, subjaxprs, trace

__all__ = ["ACTIVATIONS", "Call", "Window", "activation_kind", "call_kind", "calls", "inputs", "layer_kind",
           "map_calls", "replace"]

_BODIES = {"relu": ["max"], "relu6": ["max", "min"]}
ACTIVATIONS = tuple(_BODIES)
_KINDS = (*ACTIVATIONS, "max_pool")
_COMPARISONS = {"gt", "ge", "lt", "le"}


class Window(NamedTuple):
    """The window of a max-pooling, one entry for each axis of its input."""

    dimensions: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


class Call(NamedTuple):
    """One call to rewrite: its kind, its place among the calls in the order of execution, its window if it pools."""

    kind: str
    index: int
    window: Window | None


def activation_kind(eqn) -> str | None:
    """"relu" or "relu6" when the equation is a call of jax.nn.relu or jax.nn.relu6, else None."""
    if eqn.primitive is not prims.custom_jvp_call_p:
        return None
    inner = body(eqn.params["call_jaxpr"])[0].eqns
    if len(inner) != 1 or inner[0].primitive is not prims.jit_p:
        return None
    name = inner[0].params["name"]
    steps = [e.primitive.name for e in body(inner[0].params["jaxpr"])[0].eqns]
    return name if _BODIES.get(name) == steps else None


def layer_kind(eqn) -> str | None:
    """The kind of activation that an equation is or stands for: a smooth surrogate's layers keep the model's names."""
    surrogates = {"softplus_beta": "relu", "softplus_beta6": "relu6", "centred_softplus": "relu"}
    return activation_kind(eqn) or (surrogates.get(eqn.params["name"]) if eqn.primitive is prims.jit_p else None)


def call_kind(eqn) -> str | None:
    """The kind of call that an equation is: "relu", "relu6", "max_pool", or None."""
    if eqn.primitive.name == "reduce_window_max" or (
            eqn.primitive is prims.custom_jvp_call_p and eqn_name(eqn) == "max_pool"):
        return "max_pool"
    return activation_kind(eqn)


def _match(kinds):
    return lambda eqn: kind if (kind := call_kind(eqn)) in kinds else None


def _find_pool(eqn):
    if eqn.primitive.name == "reduce_window_max":
        return eqn
    inner = (_find_pool(e) for sub in subjaxprs(eqn) for e in sub.eqns)
    return next((e for e in inner if e is not None), None)


def _window(eqn):
    p = _find_pool(eqn).params
    if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
        raise UnsupportedPrimitiveError("a dilated max-pooling cannot be rewritten")
    return Window(p["window_dimensions"], p["window_strides"], p["padding"])


def calls(jaxpr, kinds):
    """The sites of the given kinds; refuses a function that holds a derivative of one of its activations."""
    found = sites(jaxpr, _match(kinds))
    if any(s.kind for s in sites(jaxpr, _trace_of_derivative)) or any(map(_has_gate, found)):
        raise DerivativeInModelError(
            "the function contains a derivative of an activation, which would stay as it is (or a function of yours "
            "named relu, or a comparison of a relu's input): rewrite the model first and differentiate afterwards, "
            "grad(replace(f)) and not replace(grad(f))")
    return found


def _has_gate(site):
    """Whether the activation's input is compared with a number beside it: relu' is traced as select(z > 0, ...)."""
    z = site.eqn.invars[0]
    return site.kind != "max_pool" and any(
        e.primitive.name in _COMPARISONS and any(v is z for v in e.invars) for e in site.jaxpr.eqns)


def _trace_of_derivative(eqn):
    """Whether an equation is a reversed remat, or relu without its rule, as the derivative of a loop leaves it.

    None for everything else but a call proper, whose inside is not to be searched.
    """
    if call_kind(eqn):
        return False
    if eqn.primitive is prims.remat_p:
        return True if eqn.params["differentiated"] else None
    if eqn.primitive is not prims.jit_p or eqn.params["name"] not in _BODIES:
        return None
    inner = body(eqn.params["jaxpr"])[0].eqns
    return None if any(e.primitive is prims.custom_jvp_call_p for e in inner) else True


def map_calls(f: Model, act: Callable[[Call, Array], Array], kinds=ACTIVATIONS) -> Model:
    """`f` with every call of the given kinds computed by `act(call, z)`; z: the call's input, any shape.

    A call inside a scan counts as one. Parameters closed over by `f` stay differentiable. The result traces `f` again
    whenever it is called: compile it.

    Raises NoActivationError, DerivativeInModelError, UnsupportedPrimitiveError; warns with LostRuleWarning.
    """
    def apply(kind, index, eqn, values):
        return [act(Call(kind, index, _window(eqn) if kind == "max_pool" else None), values[0])], None

    return _rewritten(f, kinds, apply, lambda outs, sown, structure: jax.tree.unflatten(structure, outs))


def replace(f: Model, rules: Mapping[str, Callable[..., Array]]) -> Model:
    """`f` with its activations swapped, its code and parameters untouched.

    Args:
      f: a model, or any function of arrays.
      rules: from "relu", "relu6", "max_pool" to what takes its place: `act(z)`, or `pool(z, window)` with a Window.
        Kinds not named stay.

    Raises:
      NoActivationError: nothing matches (other spellings of relu do not: see `inspect`).
      DerivativeInModelError: `f` contains a derivative, as `replace(grad(f))` does.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> f = lambda x: jax.nn.relu(x).sum()
    >>> float(rewrite.replace(f, {"relu": jnp.square})(jnp.array([-2.0, 1.0])))
    5.0
    """
    unknown = sorted(set(rules) - set(_KINDS))
    if unknown or not rules:
        raise ValueError(f"rules name {unknown or 'nothing'}; known kinds are {list(_KINDS)}")
    return map_calls(f, lambda call, z: rules[call.kind](z, *([call.window] if call.window else [])), tuple(rules))


def inputs(f: Model, kinds=ACTIVATIONS) -> Callable[..., list[Array]]:
    """The inputs of the calls of the given kinds, in the order of execution; inside a scan of n steps: [n, ...]."""
    return _rewritten(f, kinds, lambda kind, index, eqn, values: (bind(eqn, values), values[0]),
                      lambda outs, sown, structure: sown)


def _rewritten(f, kinds, apply, choose):
    def rewritten(*args):
        jaxpr, consts, leaves, structure = trace(f, *args)
        if not calls(jaxpr, kinds):
            raise NoActivationError(f"the model calls none of {', '.join(kinds)}, so there is nothing to rewrite; "
                                    "other spellings do not match: rewrite.inspect(f, x) lists its kinks")
        return choose(*evaluate(jaxpr, consts, leaves, Rule(_match(kinds), apply)), structure)

    return rewritten
