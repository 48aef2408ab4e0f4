"""What an equation does with the image that flows through it: the table by primitive that propagation rules rest on."""

from typing import NamedTuple

import numpy as np

from .jaxprs import Literal, bodies, eqn_name, is_custom_rule, prims

__all__ = ["AFFINE", "Tag", "is_activation", "is_max_pool", "keeps_sign", "kind_of", "pool_params"]

AFFINE = {"add", "add_any", "sub", "mul", "div", "neg"}
_NEUTRAL = {"broadcast_in_dim", "convert_element_type", "stop_gradient", "copy", "reshape", "squeeze"}
_STEPS = {"and", "ceil", "eq", "floor", "ge", "gt", "is_finite", "le", "lt", "ne", "not", "or", "round", "sign", "xor"}
_CURVED = {"abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "clamp", "cos", "cosh",
           "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "log", "log1p", "logistic", "max", "min",
           "pow", "rsqrt", "select_n", "sin", "sinh", "sqrt", "square", "tan", "tanh"}
_ELEMENTWISE = AFFINE | _CURVED
_SUMS = {"reduce_sum", "reduce_window_sum", "cumsum"}
_ROUTES = {"broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p", "device_put", "dynamic_slice",
           "dynamic_update_slice", "expand_dims", "gather", "max", "min", "name", "optimization_barrier", "pad",
           "reduce_precision", "reshape", "rev", "select_n", "sharding_constraint", "slice", "sort", "split", "squeeze",
           "stack", "tile", "transpose", "unstack"}
_NONNEGATIVE_CALLS = {"relu", "relu6", "sigmoid", "softplus", "softplus_beta", "softplus_beta6"}
_NONNEGATIVE = {"abs", "exp", "exp2", "logistic", "square"}


class Tag(NamedTuple):
    """What is known of a value that depends on the image.

    carried: relevance flows through it (comparisons and indices depend on the image without carrying it);
    first: no linear layer lies between the image and it;  nonnegative: by construction.
    """

    carried: bool
    first: bool
    nonnegative: bool


def is_max_pool(eqn):
    """A max-pooling, hard or soft, in any of its spellings."""
    named = is_custom_rule(eqn) and eqn_name(eqn) == "max_pool"
    soft = eqn.primitive is prims.jit_p and eqn_name(eqn) == "soft_max_pool"
    return named or soft or eqn.primitive.name == "reduce_window_max"


def pool_params(eqn):
    """The equation's parameters, or those of the reduce_window inside a max-pooling that is a function."""
    inner = [e.params for jaxpr, _ in bodies(eqn) for e in jaxpr.eqns if e.primitive.name == "reduce_window_max"]
    return inner[0] if inner else eqn.params


def is_activation(eqn, tags):
    """A function call that maps one carried operand elementwise and is not affine: jax.nn.relu, a jitted swish ...

    A choice that does not depend on the image, as jnp.where makes with a fixed mask, is linear and no activation.
    """
    if not (is_custom_rule(eqn) or eqn.primitive is prims.jit_p) or len(eqn.outvars) != 1:
        return False
    carried = [v for v, t in zip(eqn.invars, tags, strict=True) if t and t.carried]
    if len(carried) != 1 or carried[0].aval.shape != eqn.outvars[0].aval.shape:
        return False
    inside = _primitives(eqn)
    compares = inside & _STEPS or any(t and not t.carried for t in tags)
    curved = inside & _CURVED - (set() if compares else {"select_n"})
    return bool(curved) and inside <= _ELEMENTWISE | _NEUTRAL | _STEPS


def _primitives(eqn):
    """The primitives inside a call, calls opened."""
    inner = bodies(eqn)
    return set().union(*(_primitives(e) for jaxpr, _ in inner for e in jaxpr.eqns)) if inner else {eqn.primitive.name}


def kind_of(eqn, tags):
    """What the equation is to a rule, given the tags of its operands (None: independent of the image).

    "conv" and "dense": linear layers with weights;  "add": a sum of two carried operands;  "sum": a sum over
    axes or windows;  "max_pool", "max";  "activation": a named elementwise function;  "elementwise": of one
    carried operand, affine maps with constants included;  "route": moves values without changing them;
    "other": anything else, which needs a rule of the user's.
    """
    name, carried = eqn.primitive.name, [bool(t and t.carried) for t in tags]
    if is_max_pool(eqn):
        return "max_pool"
    if is_activation(eqn, tags):
        return "activation"
    if name in ("conv_general_dilated", "dot_general"):
        weights_only = name == "dot_general" or carried[0]
        return {"conv_general_dilated": "conv", "dot_general": "dense"}[name] if sum(carried) == 1 and weights_only \
            else "other"
    if name in ("add", "add_any", "sub") and all(carried):
        return "add"
    if name in _SUMS:
        return "sum"
    if name == "reduce_max":
        return "max"
    operands = {v for v, c in zip(eqn.invars, carried, strict=True) if c}
    if name in _ELEMENTWISE and len(operands) == 1 and not (name == "div" and carried[1]) and name != "select_n":
        return "elementwise"
    return "route" if name in _ROUTES else "other"


def keeps_sign(eqn, kind, tags):
    """Whether the result is non-negative by construction."""
    name = eqn.primitive.name
    known = [_nonnegative_literal(v) if t is None else t.nonnegative for v, t in zip(eqn.invars, tags, strict=True)]
    if kind == "activation":
        return eqn_name(eqn) in _NONNEGATIVE_CALLS
    if kind == "elementwise":
        if name == "integer_pow":
            return eqn.params["y"] % 2 == 0
        kept = (name == "max" and any(known)) or (name in AFFINE - {"neg", "sub"} and all(known))
        return name in _NONNEGATIVE or kept
    if kind == "add":
        return name != "sub" and all(known)
    if kind == "max_pool":
        return any(t is not None and t.nonnegative for t in tags)
    carried = [k for k, v in zip(known, eqn.invars, strict=True) if np.issubdtype(v.aval.dtype, np.floating)]
    return kind in ("sum", "max", "route") and bool(carried) and all(carried)


def _nonnegative_literal(v):
    return isinstance(v, Literal) and bool(np.all(np.asarray(v.val) >= 0))
