"""What a unit of a model does with the image that flows through it: the table that propagation rules rest on."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from ..nonlinearities import Window, soft_max_pool
from ..pooling import max_pool
from .blocks import Unit
from .graph import AFFINE, NEUTRAL, STEPS, Flat, constant_of
from .jaxprs import Literal, bind, bodies, eqn_name, is_custom_rule, prims, trace
from .known import KNOWN
from .softmax import is_share

__all__ = ["ROUTES", "Tag", "always", "is_max_pool", "kind_of", "pool_params", "tag_of"]

SUMS = {"reduce_sum", "reduce_window_sum", "cumsum"}
ROUTES = {"broadcast_in_dim", "concatenate", "convert_element_type", "copy", "copy_p", "device_put", "dynamic_slice",
          "dynamic_update_slice", "expand_dims", "gather", "name", "optimization_barrier", "pad", "pvary",
          "reduce_precision", "reshape", "rev", "sharding_constraint", "slice", "sort", "split", "squeeze", "stack",
          "tile", "transpose", "unstack"}
_NONNEGATIVE = {"abs", "exp", "exp2", "logistic", "square", "sqrt", "rsqrt", "cosh"}


class Tag(NamedTuple):
    """What is known of a value that depends on the image.

    carried: relevance flows through it (comparisons and indices depend on the image without carrying it);
    first: no linear layer lies between the image and it, None for sometimes;  nonnegative: by construction;
    gate: it lies in [0, 1] by construction;  squares: it is a square, or a sum of squares;
    scale: it is a positive function of such a sum, as the deviation that a normalisation divides by;
    softmax: it is one, as attention weights are, or what constants made of one.
    """

    carried: bool
    first: bool | None
    nonnegative: bool
    gate: bool = False
    squares: bool = False
    scale: bool = False
    softmax: bool = False


LOST = Tag(carried=False, first=False, nonnegative=False)
IMAGE = Tag(carried=True, first=True, nonnegative=False)


def always(marks: Iterable[bool | None]) -> bool | None:
    """Whether all of several are, True, False or None for sometimes."""
    marks = set(marks)
    return False if False in marks else None if None in marks else True


def kind_of(flat: Flat, unit: Unit, tags: list[Tag | None]) -> str:
    """What a unit is to a rule, given the tags of its inputs (None: independent of the image).

    "conv" and "dense": linear layers with weights;  "add": a sum of two carried operands;  "sum": a sum over
    axes or windows;  "product" and "quotient": of two carried operands;  "matmul": a matrix product of two;
    "softmax";  "max_pool", "max";  "activation": a curved
    elementwise function of one operand;  "elementwise": an affine one, constants added or multiplied;  "statistic": a
    curved one that only scales a normalisation;  "step": a comparison, or what derivatives take for a constant;
    "route": moves values without changing them;  "select": a choice between values;  "custom": a function with a
    derivative rule of its own;  "other": anything else.
    """
    carried = [bool(t and t.carried) for t in tags]
    if unit.role == "softmax":
        return "softmax"
    if unit.role != "single":
        if unit.role == "curved":
            if not carries(unit):
                return "step"
            if any(t and t.scale for t in tags):
                return "statistic"
            return "activation" if unit.known or any(map(_bends, unit.nodes)) else "custom"
        return "elementwise" if unit.role == "affine" else "route"
    eqn = unit.nodes[0].eqn
    name = eqn.primitive.name
    if is_max_pool(eqn):
        return "max_pool"
    if is_custom_rule(eqn):
        return "custom"
    if name in ("conv_general_dilated", "dot_general"):
        weights_only = name == "dot_general" or carried[0]
        linear = sum(carried) == 1 and weights_only
        if name == "dot_general" and all(carried):
            return "matmul"
        return {"conv_general_dilated": "conv", "dot_general": "dense"}[name] if linear else "other"
    if all(carried) and len(tags) == 2 and name in _PAIRS:
        return _PAIRS[name]
    if name in _PAIRS and sum(carried) == 1 and None not in tags and (name != "div" or carried[0]):
        return "elementwise" if _PAIRS[name] == "add" else _PAIRS[name]
    if name in SUMS:
        return "sum"
    if name == "reduce_max":
        return "max"
    if name == "select_n":
        return "select"
    return "route" if name in ROUTES else "other"


_SHIFTS = {"add", "neg", "sub"}
_PAIRS = {"add": "add", "add_any": "add", "sub": "add", "mul": "product", "div": "quotient"}


def _bends(node):
    """Whether a node is curved in itself, and not only a function with a derivative rule around something affine."""
    if not is_custom_rule(node.eqn):
        return True
    names = {e.primitive.name for e in _opened(bodies(node.eqn)[0][0])}
    return not names <= AFFINE | NEUTRAL | {"broadcast_in_dim", "reshape"}


def tag_of(flat: Flat, unit: Unit, kind: str, tags: list[Any]) -> Tag:
    """The tag of what a unit makes of inputs with the given tags."""
    carried = [t for t in tags if t and t.carried]
    if not carried or not carries(unit):
        return LOST
    linear = kind in ("conv", "dense")
    first = not linear and always(t.first for t in carried)
    known = KNOWN.get(unit.known.name) if unit.known else None
    names = [node.eqn.primitive.name for node in unit.nodes]
    scale = (kind in ("statistic", "route", "elementwise") and all(t.scale for t in carried)) or (
        kind == "sum" and all(t.squares for t in carried)) or (
        kind == "add" and tags[0].scale and (tags[1].scale or (names == ["sub"] and tags[1].squares)))
    squares = bool(unit.known and unit.known.name == "square") or (
        kind in ("route", "elementwise") and all(t.squares for t in carried))
    nonnegative = not linear and _keeps_sign(flat, unit, kind, tags, known)
    gate = bool(known and known.gate) or (kind in ("route", "select") and all(t.gate for t in carried)) or (
        names == ["sub"] and kind == "elementwise" and all(t.gate for t in carried)
        and constant_of(flat, unit.inputs[0]) == 1) or (kind == "quotient" and is_share(flat, *unit.inputs))
    shares = kind == "softmax" or (
        kind in ("route", "select", "elementwise") and all(t.softmax for t in carried) and names[0] not in _SHIFTS)
    return Tag(True, first, nonnegative, gate or kind == "softmax", squares, scale, shares)


def carries(unit: Unit) -> bool:
    """Whether a unit of an elementwise block passes anything on but comparisons and steps of its variable."""
    if unit.role in ("single", "softmax"):
        return True
    known = {unit.inputs[0]} if unit.role == "curved" else {i for i in unit.inputs if not isinstance(i, Literal)}
    for node in unit.nodes:
        name, inputs = node.eqn.primitive.name, node.inputs
        own = inputs[1:] if name == "select_n" else inputs
        floats = all(jax.dtypes.issubdtype(v.aval.dtype, np.inexact) for v in node.eqn.outvars)
        if name not in STEPS and name != "stop_gradient" and floats and any(
                not isinstance(i, Literal) and i in known for i in own):
            known.update(node.outputs)
    return unit.outputs[0] in known


def _keeps_sign(flat, unit, kind, tags, known):
    if kind == "softmax":
        return True
    signs = [_nonnegative_constant(flat, i) if t is None else t.nonnegative
             for i, t in zip(unit.inputs, tags, strict=True)]
    names = [node.eqn.primitive.name for node in unit.nodes]
    if kind in ("activation", "statistic"):
        return known.nonnegative if known else names[-1] in _NONNEGATIVE or (
            names == ["integer_pow"] and unit.nodes[0].eqn.params["y"] % 2 == 0)
    if kind == "elementwise":
        return names[0] not in ("neg", "sub") and all(signs)
    if kind in ("add", "matmul", "product", "quotient"):
        return names[0] != "sub" and all(signs)
    if kind == "max_pool":
        return any(t is not None and t.nonnegative for t in tags)
    floats = [s for s, i in zip(signs, unit.inputs, strict=True)
              if jax.dtypes.issubdtype(flat.aval(i).dtype, np.floating)]
    return kind in ("sum", "max", "route", "select") and bool(floats) and all(floats)


def _nonnegative_constant(flat, i):
    value = constant_of(flat, i)
    return value is not None and bool(value >= 0)


def is_max_pool(eqn: Any) -> bool:
    """A max-pooling, hard or soft: by what it computes, its derivative included."""
    if eqn.primitive.name == "reduce_window_max":
        return True
    if eqn.primitive is prims.jit_p:
        return eqn_name(eqn) == "soft_max_pool" and soft_window(eqn) is not None
    if not is_custom_rule(eqn) or len(eqn.invars) != 1:
        return False
    jaxpr, _ = bodies(eqn)[0]
    if [e.primitive.name for e in jaxpr.eqns] != ["reduce_window_max"]:
        return False
    return _pools_alike(eqn, jaxpr.eqns[0].params)


def _pools_alike(eqn, params):
    """Whether the equation is `pooling.max_pool` of the window of a reduce_window, derivative included."""
    x = eqn.invars[0].aval
    x = jax.ShapeDtypeStruct(x.shape, x.dtype)
    own = _derivative_text(lambda v: bind(eqn, [v])[0], x)
    (window, stride), ((padding, _), *_) = (params[k][-2] for k in ("window_dimensions", "window_strides")), \
        params["padding"][-3:-1]
    for ceil in (False, True):
        try:
            if _derivative_text(lambda v, c=ceil: max_pool(v, window, stride, c, padding), x) == own:
                return True
        except ValueError:
            continue
    return False


def _derivative_text(f, x):
    return str(jax.make_jaxpr(lambda v, t: jax.jvp(f, (v,), (t,)))(x, x).jaxpr)


def soft_window(eqn: Any) -> Window | None:
    """The window of a `soft_max_pool`, read from its body and checked by computing with it; None if it is no such."""
    if len(eqn.invars) != 2 or eqn.invars[1].aval.shape != ():
        return None
    jaxpr, _ = bodies(eqn)[0]
    z = eqn.invars[0].aval
    dims, strides, padding = [1] * z.ndim, [1] * z.ndim, [(0, 0)] * z.ndim
    axis = None
    for e in _opened(jaxpr):
        if e.primitive.name == "pad":
            axis, size = None, e.invars[0].aval.shape
            config = [(low, high) for low, high, _ in e.params["padding_config"]]
        elif e.primitive.name == "slice" and len(e.outvars[0].aval.shape) == z.ndim:
            steps = e.params["strides"] or (1,) * z.ndim
            padded = [n + low + high for n, (low, high) in zip(size, config, strict=True)]
            start, stop = e.params["start_indices"], e.params["limit_indices"]
            moved = [a for a in range(z.ndim)
                     if stop[a] - start[a] != padded[a] or steps[a] != 1 or config[a] != (0, 0)]
            if len(moved) != 1:
                return None
            axis = moved[0]
            dims[axis] = e.params["start_indices"][axis] + 1
            strides[axis], padding[axis] = steps[axis], config[axis]
    window = Window(tuple(dims), tuple(strides), tuple(padding))
    shape = lambda v: jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
    try:
        wanted = trace(lambda z, beta: soft_max_pool(z, beta, window), *map(shape, eqn.invars))[0].eqns
    except (ValueError, TypeError):
        return None
    return window if len(wanted) == 1 and str(bodies(wanted[0])[0][0]) == str(jaxpr) else None


def _opened(jaxpr):
    for e in jaxpr.eqns:
        if e.primitive is prims.jit_p or is_custom_rule(e):
            yield from _opened(bodies(e)[0][0])
        else:
            yield e


def pool_params(eqn: Any) -> Any:
    """The equation's parameters, or those of the reduce_window inside a max-pooling that is a function."""
    inner = [e.params for jaxpr, _ in bodies(eqn) for e in jaxpr.eqns if e.primitive.name == "reduce_window_max"]
    return inner[0] if inner else eqn.params
