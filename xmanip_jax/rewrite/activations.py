"""Find and swap the activations and max-poolings of a model, wherever and however they are written.

An activation is recognised by what it computes (`known.KNOWN`). A `max(v, 0)` of a sum of squares, as normalisation
layers clamp their variance, never acts and is none.
"""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from ..nonlinearities import Window
from .blocks import run_nodes
from .errors import (
    DerivativeInModelError,
    KinkWarning,
    LostRuleWarning,
    NoActivationError,
    UnsupportedPrimitiveError,
)
from .expressions import identity
from .graph import describe, literal
from .interpreter import Rule, Site, compute, evaluate, sites
from .jaxprs import Literal, bind, bodies, is_custom_rule, prims, trace
from .known import KNOWN, rules_of
from .operations import carries, pool_params
from .plan import IMAGE, Options, Plan, Step, make_plan

__all__ = ["ACTIVATIONS", "Call", "Window", "call_kind", "calls", "inputs", "kinks", "map_calls", "plan_of", "replace"]

# What makes a network piecewise linear: the known functions that have kinks, and unknown ones made of maxima and |.|.
ACTIVATIONS = (*(name for name, row in KNOWN.items() if row.surrogate), "piecewise")
_KINDS = (*KNOWN, "piecewise", "max_pool")
_CORNERS = {"max", "min", "abs", "clamp"}
_JUMPS = {"select_n", "sign", "floor", "ceil", "round", "rem"}
_KINKS = {"max", "min", "reduce_max", "reduce_min", "sort", "top_k"} | _JUMPS


class Call(NamedTuple):
    """One call to rewrite: its kind, its place among the calls in the order of execution, its window if it pools.

    parameters: of a known function, such as the slope of a leaky relu;  around: of one that is "piecewise", and made of
    maxima, minima and |.|: from another relu to the function with it in their place;  total: how many calls there are.
    """

    kind: str
    index: int  # type: ignore[assignment]  # a tuple's method
    window: Window | None
    parameters: tuple[Any, ...] = ()
    around: Callable[[Callable[[Array], Array]], Callable[[Array], Array]] | None = None
    total: int = 0


def call_kind(step: Step) -> str | None:
    """The kind of call that a step is: a name of the table, "piecewise", "max_pool", or None."""
    operation = step.operation
    if operation is None:
        return None
    if operation.kind == "max_pool":
        return "max_pool" if step.eqn.primitive is not prims.jit_p else None
    if operation.kind != "activation":
        return None
    if operation.known:  # |.| of what is never negative, as logsumexp takes it, is nothing
        return None if operation.known.name == "abs" and operation.nonnegative else operation.known.name
    names = _names(step)
    return "piecewise" if names & _CORNERS and not names & _JUMPS else None


def kinks(plan: Plan) -> list[Any]:
    """The equations that are not smooth, neither a call nor a function with a rule, and have a say in a result.

    What stop_gradient hides is none, rounding apart: so is the maximum that a softmax subtracts, and on which its
    value does not depend.
    """
    live = {o for o in plan.outputs if not isinstance(o, Literal)}
    moving, found = set(live), []
    for step in reversed(plan.steps):
        if live.isdisjoint(step.outputs):
            continue
        moves, kink = not moving.isdisjoint(step.outputs) and not _hides(step), _kink(step)
        if kink is not None and (moves or kink.primitive.name in _JUMPS - {"select_n"}):
            found.append(kink)
        for body in step.bodies:
            found += kinks(body)[::-1]
        inputs = {i for i in step.inputs if not isinstance(i, Literal)}
        live |= inputs
        moving |= inputs if moves else set()
    return found[::-1]


def _kink(step):
    """The equation that makes a step one, or None."""
    operation, unit = step.operation, step.unit
    if call_kind(step) or unit.role in ("affine", "neutral") or (operation and operation.kind == "statistic"):
        return None
    if step.bodies or any(is_custom_rule(node.eqn) for node in unit.nodes):
        return None
    equations = [node.eqn for node in unit.nodes]
    names = {eqn.primitive.name for eqn in equations}
    real = lambda variables: any(jax.dtypes.issubdtype(v.aval.dtype, np.inexact) for v in variables)
    bent = next((eqn for eqn in equations if eqn.primitive.name in _KINKS), None)
    if bent is not None and real(equations[-1].outvars):
        return bent
    compares = real(equations[0].invars) and not (carries(unit) and real(equations[-1].outvars))
    return equations[0] if compares and not {"stop_gradient", "is_finite"} & names else None


def _hides(step):
    unit = step.unit
    single = unit.role == "single" and step.eqn.primitive.name == "stop_gradient"
    return single or (not carries(unit) and any(n.eqn.primitive.name == "stop_gradient" for n in unit.nodes))


def _names(step):
    return {node.eqn.primitive.name for node in _opened(step.unit.nodes)}


def _opened(nodes):
    for node in nodes:
        yield node
        if is_custom_rule(node.eqn):
            yield from _equations(bodies(node.eqn)[0][0])


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield _Shown(eqn)
        for inner, _ in bodies(eqn):
            yield from _equations(inner)


class _Shown(NamedTuple):
    eqn: Any


def _match(kinds):
    return lambda step: kind if (kind := call_kind(step)) in kinds else None


def _window(step):
    p = pool_params(step.eqn)
    if any(d != 1 for d in (*p["base_dilation"], *p["window_dilation"])):
        raise UnsupportedPrimitiveError(f"a dilated max-pooling cannot be rewritten: {describe(step.eqn)}")
    return Window(p["window_dimensions"], p["window_strides"], p["padding"])


def plan_of(f: Callable[..., Any], args: Sequence[Any], kinds: Sequence[str] = ()) -> tuple[Plan, list, Any]:
    """The plan of a function of any arrays, its flat arguments, the structure of its result.

    A function with a derivative rule is opened if it holds one of the kinds of call.
    """
    jaxpr, consts, leaves, structure = trace(f, *args)
    opens = lambda eqn: bool(kinds) and _holds(eqn, kinds)
    options = Options(everything=True, merge=False, opens_rules=opens,
                      opens_elementwise=lambda eqn, on: bool(kinds) and not _is_known(eqn, on) and opens(eqn))
    return make_plan(jaxpr, consts, [IMAGE] * len(leaves), options), leaves, structure


def _holds(eqn, kinds):
    """Whether the body of a function with a derivative rule makes calls of the given kinds."""
    options = Options(everything=True, merge=False, opens_elementwise=lambda eqn, on: not _is_known(eqn, on))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LostRuleWarning)
        inner = make_plan(*bodies(eqn)[0], [IMAGE] * len(eqn.invars), options)
    return bool(sites(inner, _match(kinds)))


def _is_known(eqn, on):
    """Whether an elementwise function with a derivative rule is, derivative included, one that the table knows."""
    if identity(eqn, {}) in rules_of(np.dtype(eqn.outvars[0].aval.dtype)):
        return True
    read = lambda v, value: literal(v) if isinstance(v, Literal) else value
    run = lambda *values: bind(eqn, list(map(read, eqn.invars, values)))
    jaxpr, consts, *_ = trace(run, *(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars))
    plan = make_plan(jaxpr, consts, [IMAGE if d else None for d in on], Options(everything=True))
    return any(step.operation and step.operation.known for step in plan.steps)


def calls(plan: Plan, kinds: Sequence[str]) -> list[Site]:
    """The sites of the given kinds; refuses a function that holds a derivative of one of its activations."""
    found = sites(plan, _match(kinds))
    if any(site.kind for site in sites(plan, _reversed_remat)) or any(map(_has_gate, found)):
        raise DerivativeInModelError(
            "the function contains a derivative of an activation, which would stay as it is (or it compares the input "
            "of an activation with a number): rewrite the model first and differentiate afterwards, grad(replace(f)) "
            "and not replace(grad(f))")
    return found


def _reversed_remat(step):
    return True if step.eqn.primitive is prims.remat_p and step.eqn.params["differentiated"] else None


def _has_gate(site):
    """Whether a step of the activation's input, as relu' is, leaves it for another part of the model."""
    if site.kind == "max_pool":
        return False
    z = site.step.inputs[0]
    return any(step.unit.role == "curved" and step.inputs[0] == z and not carries(step.unit)
               for step in site.plan.steps)


def map_calls(f: Callable[..., Any], act: Callable[[Call, Array], Array], kinds: Sequence[str] = ACTIVATIONS, *,
              smooth: bool = False) -> Callable[..., Any]:
    """`f` with every call of the given kinds computed by `act(call, z)`; z: the call's input, any shape.

    A call inside a scan counts as one. Parameters closed over by `f` stay differentiable. The result traces `f` again
    whenever it is called: compile it. smooth: the result is meant to have no kinks; those that stay are warned of.

    Raises NoActivationError, DerivativeInModelError, UnsupportedPrimitiveError; warns with LostRuleWarning and
    KinkWarning.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> leaky = rewrite.map_calls(lambda x: jax.nn.relu(x), lambda call, z: jnp.where(z > 0, z, z / 4))
    >>> leaky(jnp.array([-1.0, 1.0]))
    Array([-0.25,  1.  ], dtype=float32)
    """
    def apply(total, kind, index, step, operands):
        return [act(_call(kind, index, step, operands)._replace(total=total), operands[0])], None

    return _rewritten(f, kinds, apply, lambda outs, sown, structure: jax.tree.unflatten(structure, outs), smooth)


def _call(kind, index, step, operands):
    known = step.operation.known
    value = lambda p: operands[p[1]] if isinstance(p, tuple) else p
    return Call(kind, index, _window(step) if kind == "max_pool" else None,
                tuple(map(value, known.parameters)) if known else (),
                _around(step, operands) if kind == "piecewise" else None)


def _around(step, operands):
    """From a relu to the step's function, its maxima, minima and |.| made of that relu."""
    constants = {i: v for i, v in zip(step.inputs[1:], operands[1:], strict=True) if not isinstance(i, Literal)}

    def with_relu(r):
        corners = {"max": lambda a, b: b + r(a - b), "min": lambda a, b: a - r(a - b), "abs": lambda a: r(a) + r(-a),
                   "clamp": lambda low, z, high: low + r(z - low) - r(z - high)}
        return lambda z: run_nodes(step.unit.nodes, {**constants, step.inputs[0]: z}, corners)[step.outputs[0]]

    return with_relu


def replace(f: Callable[..., Any], rules: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """`f` with its activations swapped, its code and parameters untouched.

    Args:
      f: a model, or any function of arrays.
      rules: from the name of a known function ("relu", "gelu", "leaky_relu" ...) to what takes its place,
        `act(z, *parameters)` (a leaky relu's slope, a clip's bounds), and from "max_pool" to `pool(z, window)` with a
        Window. Functions not named stay.

    Raises:
      NoActivationError: nothing matches (see `inspect` for what the model contains).
      DerivativeInModelError: `f` contains a derivative, as `replace(grad(f))` does.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> f = lambda x: jax.nn.relu(x).sum()
    >>> float(rewrite.replace(f, {"relu": jnp.square})(jnp.array([-2.0, 1.0])))
    5.0
    """
    unknown = sorted(set(rules) - set(_KINDS) | {"piecewise"} & set(rules))
    if unknown or not rules:
        raise ValueError(f"rules name {unknown or 'nothing'}; known are {', '.join((*KNOWN, 'max_pool'))}")
    return map_calls(f, lambda call, z: rules[call.kind](z, *([call.window] if call.window else call.parameters)),
                     tuple(rules))


def inputs(f: Callable[..., Any], kinds: Sequence[str] = ACTIVATIONS) -> Callable[..., list[Array]]:
    """The inputs of the calls of the given kinds, in the order of execution; inside a scan of n steps: [n, ...].

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import rewrite
    >>> rewrite.inputs(lambda x: jax.nn.relu(2 * x))(jnp.ones(2))
    [Array([2., 2.], dtype=float32)]
    """
    return _rewritten(f, kinds, lambda total, kind, index, step, operands: (compute(step, operands), operands[0]),
                      lambda outs, sown, structure: sown)


def _rewritten(f, kinds, apply, choose, smooth=False):
    def rewritten(*args):
        plan, leaves, structure = plan_of(f, args, kinds)
        total = len(calls(plan, kinds))
        if not total:
            raise NoActivationError(f"the model calls none of {', '.join(kinds)}, so there is nothing to rewrite: "
                                    "rewrite.inspect(f, x) lists its activations and its kinks")
        if smooth and (left := dict.fromkeys(map(describe, kinks(plan)))):
            warnings.warn(f"no surrogate replaces {', '.join(left)}: where it jumps or has a kink, the gradient of the "
                          "smooth model jumps too. In the model itself, a logsumexp is a smooth maximum and a sigmoid "
                          "a smooth step", KinkWarning, stacklevel=3)
        return choose(*evaluate(plan, leaves, Rule(_match(kinds), functools.partial(apply, total))), structure)

    return rewritten
