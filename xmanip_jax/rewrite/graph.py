"""A traced function as one flat list of equations: calls opened, implicit broadcasts made explicit, values numbered.

What a model computes does not depend on how it is spelled. Here the first differences go: a jitted function is its
body, and `x + m` whose `m` is broadcast along axes of length 1 is a broadcast and an addition of equal shapes.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .jaxprs import Literal, bind, bodies, eqn_name, is_custom_rule, prims, scan_split

__all__ = ["AFFINE", "ELEMENTWISE", "NEUTRAL", "STEPS", "Flat", "Node", "constant_of", "describe", "flatten",
           "is_elementwise_rule", "literal", "place"]

AFFINE = {"add", "add_any", "sub", "mul", "div", "neg"}
COMPARISONS = {"eq", "ge", "gt", "le", "lt", "ne"}
STEPS = COMPARISONS | {"and", "ceil", "floor", "is_finite", "not", "or", "round", "sign", "xor"}
CURVED = {"abs", "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "clamp", "cos", "cosh", "digamma",
          "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic", "max",
          "min", "one_minus_square", "pow", "rem", "rsqrt", "select_n", "sin", "sinh", "sqrt", "square", "tan", "tanh"}
NEUTRAL = {"convert_element_type", "copy", "copy_p", "reduce_precision", "stop_gradient"}
ELEMENTWISE = AFFINE | CURVED | STEPS | NEUTRAL


class Node(NamedTuple):
    """An equation with renamed variables: numbers, or Literals; caller: the call that it was opened from, or None."""

    eqn: Any
    inputs: tuple
    outputs: tuple[int, ...]
    caller: Any = None

    @property
    def place(self) -> str:
        """Where it stands in the user's code, see `place`; inside a library's function, where that is called."""
        return place(self.eqn) or (place(self.caller) if self.caller is not None else "")


class Flat(NamedTuple):
    """A flat function.

    nodes: in the order of execution;  constants: by number;  depends: the numbers that depend on the image;
    avals: shape and type of every value, by number;  makers: the node that computes a value;  memo: of what is asked
    twice.
    """

    nodes: list[Node]
    constants: dict[int, Any]
    inputs: tuple[int, ...]
    outputs: tuple
    depends: set[int]
    avals: dict[int, Any]
    makers: dict[int, Node]
    memo: dict

    def aval(self, i: Any) -> Any:
        return i.aval if isinstance(i, Literal) else self.avals[i]

    def depending(self, node: Node) -> Any:
        """The inputs of a node that depend on the image."""
        return [i for i in node.inputs if not isinstance(i, Literal) and i in self.depends]


def flatten(jaxpr: Any, consts: Sequence[Any], image: Sequence[bool], opens: Callable[[Any, Sequence[bool]], bool],
            ) -> Flat:
    """The flat form of an open jaxpr.

    image: which inputs depend on the image;  opens(eqn, which operands depend on it): whether a call that reads the
    image is replaced by its body.
    """
    fresh = itertools.count()
    inputs = tuple(next(fresh) for _ in jaxpr.invars)
    flat = Flat([], {}, inputs, (), {i for i, on in zip(inputs, image, strict=True) if on},
                {i: v.aval for i, v in zip(inputs, jaxpr.invars, strict=True)}, {}, {})

    def add(eqn, ins, shapes, caller=None):
        outs = tuple(next(fresh) for _ in eqn.outvars)
        node = Node(eqn, ins, outs, caller)
        flat.nodes.append(node)
        flat.avals.update(zip(outs, shapes, strict=True))
        flat.makers.update(dict.fromkeys(outs, node))
        on = depending_results(eqn, [not isinstance(i, Literal) and i in flat.depends for i in ins])
        flat.depends.update(o for o, d in zip(outs, on, strict=True) if d)
        return outs

    def explicit(eqn, ins):
        """The operands of an elementwise equation, those that depend on the image broadcast to its result."""
        out = eqn.outvars[0].aval
        for i in ins:
            aval = flat.aval(i)
            if not isinstance(i, Literal) and i in flat.depends and aval.shape != out.shape:
                shape = jax.ShapeDtypeStruct(out.shape, aval.dtype)
                i, = add(_broadcast(aval.shape, out.shape, aval.dtype), (i,), [shape])
            yield i

    def walk(jaxpr, consts, operands, caller=None):
        env = dict(zip(jaxpr.invars, operands, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = next(fresh)
            flat.constants[env[var]] = value
            flat.avals[env[var]] = var.aval
        read = lambda v: v if isinstance(v, Literal) else env[v]
        for eqn in jaxpr.eqns:
            ins = tuple(map(read, eqn.invars))
            own = [not isinstance(i, Literal) and i in flat.depends for i in ins]
            if any(own) and opens(eqn, own):
                (inner, inner_consts), = bodies(eqn)
                env.update(zip(eqn.outvars, walk(inner, inner_consts, ins, caller or eqn), strict=True))
                continue
            if any(own) and eqn.primitive.name in ELEMENTWISE:
                ins = tuple(explicit(eqn, ins))
            env.update(zip(eqn.outvars, add(eqn, ins, [v.aval for v in eqn.outvars], caller),
                           strict=True))
        return tuple(map(read, jaxpr.outvars))

    return flat._replace(outputs=walk(jaxpr, consts, inputs))


@functools.lru_cache(maxsize=1024)
def _broadcast(shape, target, dtype):
    dims = tuple(range(len(target) - len(shape), len(target)))
    f = lambda v: jax.lax.broadcast_in_dim(v, target, dims)
    return jax.make_jaxpr(f)(jax.ShapeDtypeStruct(shape, dtype)).eqns[0]


def depending_results(eqn: Any, on: Sequence[bool]) -> Sequence[bool]:
    """Which results of an equation depend on the image, given which operands do."""
    if not any(on):
        return [False] * len(eqn.outvars)
    inner = bodies(eqn)
    if eqn.primitive is prims.scan_p:
        n, m = scan_split(eqn.params)
        return _fixed_point(lambda on: _through(inner[0][0], on), on, n, m)
    if eqn.primitive is prims.cond_p and not on[0]:
        return [any(each) for each in zip(*(_through(jaxpr, on[1:]) for jaxpr, _ in inner), strict=True)]
    if eqn.primitive in (prims.jit_p, prims.remat_p):
        return _through(inner[0][0], on)
    return [True] * len(eqn.outvars)


def _fixed_point(through, on, n, m):
    while True:
        outs = through(on)
        grown = [a or b for a, b in zip(on[n:n + m], outs, strict=False)]
        if grown == on[n:n + m]:
            return outs
        on = [*on[:n], *grown, *on[n + m:]]


def _through(jaxpr, on):
    known = {v for v, d in zip(jaxpr.invars, on, strict=True) if d}
    seen = lambda v: not isinstance(v, Literal) and v in known
    for eqn in jaxpr.eqns:
        found = depending_results(eqn, [seen(v) for v in eqn.invars])
        known.update(v for v, d in zip(eqn.outvars, found, strict=True) if d)
    return [seen(v) for v in jaxpr.outvars]


def literal(v: Any) -> Any:
    """The value of a Literal in its own type."""
    return jax.numpy.asarray(v.val, v.aval.dtype)


def constant_of(flat: Flat, i: Any) -> Any:
    """The number that a value is everywhere, if it is known while tracing and does not depend on the image; else None.

    Looks through broadcasts, casts and arithmetic of such numbers.
    """
    if isinstance(i, Literal):
        return np.asarray(i.val, i.aval.dtype)[()]  # type: ignore[attr-defined]
    if i in flat.depends:
        return None
    if i in flat.constants:
        value = flat.constants[i]
        if isinstance(value, jax.core.Tracer) or not jax.dtypes.issubdtype(value.dtype, np.number):
            return None  # a number that is only known when the model runs, or none at all
        return np.asarray(value).ravel()[0] if np.size(value) == 1 else None
    node = flat.makers.get(i)
    if node is None:
        return None
    eqn, name = node.eqn, node.eqn.primitive.name
    if name in ("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "copy", "copy_p"):
        return constant_of(flat, node.inputs[0])
    if (name not in ELEMENTWISE and eqn.primitive is not prims.jit_p) or len(node.outputs) != 1:
        return None
    known = [constant_of(flat, j) for j in node.inputs]
    if any(k is None for k in known) or any(flat.aval(j).shape != () for j in node.inputs) or eqn.outvars[0].aval.shape:
        return None
    with jax.ensure_compile_time_eval():
        return np.asarray(bind(eqn, [jax.numpy.asarray(k) for k in known])[0])[()]


def place(eqn: Any) -> str:
    """Where an equation stands in the user's code: "model.py:12 in Net.__call__", or the empty string."""
    frames = getattr(getattr(eqn.source_info, "traceback", None), "frames", ())
    for frame in frames:
        if "/jax/" not in frame.file_name and "/xmanip_jax/" not in frame.file_name:
            return f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.line_num} in {frame.function_name}"
    return ""


def describe(eqn: Any) -> str:
    """An equation by its name and place."""
    where = place(eqn)
    return f"{eqn_name(eqn)} ({where})" if where else eqn_name(eqn)


def is_elementwise_rule(eqn: Any, on: Sequence[bool]) -> bool:
    """A function with its own derivative that maps the one operand that depends on the image elementwise."""
    if not is_custom_rule(eqn) or len(eqn.outvars) != 1 or sum(on) != 1:
        return False
    operand = eqn.invars[on.index(True)]
    if operand.aval.shape != eqn.outvars[0].aval.shape:
        return False
    jaxpr, _ = bodies(eqn)[0]
    return _elementwise(jaxpr, [False] * (len(jaxpr.invars) - len(on)) + list(on))


def _elementwise(jaxpr, on):
    """Whether everything that depends on the image is computed from it elementwise."""
    known = {v for v, d in zip(jaxpr.invars, on, strict=True) if d}
    shapes = {v.aval.shape for v in known}
    for eqn in jaxpr.eqns:
        own = [not isinstance(v, Literal) and v in known for v in eqn.invars]
        if not any(own):
            continue
        if any(v.aval.shape not in shapes for v in eqn.outvars):
            return False
        inner = bodies(eqn)
        if eqn.primitive is prims.jit_p or is_custom_rule(eqn):
            if not _elementwise(inner[0][0], [False] * (len(inner[0][0].invars) - len(own)) + own):
                return False
        elif eqn.primitive.name not in ELEMENTWISE:
            return False
        known.update(eqn.outvars)
    return True
