"""A function as it is now: traced anew at each call of a driver, the arrays that it holds made arguments.

jit knows a function by its identity, but modules (flax nnx, Keras, any Python object) change in place under it: their
weights would stay those of the first call, constants in the compiled step. So a driver hands its steps, instead of the
function, the arrays of today and a stand-in that equals an earlier one when both compute the same from their arrays:
then what was compiled serves again, with other weights too, and otherwise (another number of layers, another flag,
another number in a closure) it is compiled again.
"""

import functools
import hashlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.tree_util import Partial

from ..arguments import traced
from ..rewrite.jaxprs import bind, body, is_custom_rule
from ..types import AnyArray, Array, Shaped

__all__ = ["lifted"]

_ORDERS = 3  # of the derivatives of a custom rule that are compared: an attack on a map of second order takes three


def lifted(f: Callable[[Array], Array], x: Shaped[AnyArray | jax.ShapeDtypeStruct, "*shape"],
           name: str = "the model") -> Partial:
    """`f` as a pytree of the arrays that it closes over and those that it is bound to, for jitted functions.

    Args:
      f: a function of x, a Partial, or a module that is called;  x: an example of its input, whose values do not
        matter;  name: of f, in errors.

    At the shape and type of x it runs what f was traced to. Elsewhere it calls f, if f closes over no arrays.

    Raises ValueError where f closes over values that are being traced.

    >>> import jax, jax.numpy as jnp
    >>> state, x = {"w": jnp.ones(2)}, jnp.ones(2)
    >>> f, run = lambda x: state["w"] * x, jax.jit(lambda f, x: f(x))
    >>> before = run(lifted(f, x), x)
    >>> state["w"] = 3 * state["w"]  # in place, as modules change
    >>> before, run(lifted(f, x), x), run._cache_size()
    (Array([1., 1.], dtype=float32), Array([3., 3.], dtype=float32), 1)
    """
    leaves, structure = jax.tree.flatten(f if isinstance(f, Partial) else Partial(f))
    leaves = [jnp.asarray(v) if isinstance(v, np.ndarray) else v for v in leaves]
    call = lambda leaves, x: jax.tree.unflatten(structure, leaves)(x)
    closed, out = traced(call, leaves, x, name=name, given=x, twice=True)
    held = [*closed.consts, *leaves]
    if any(isinstance(v, jax.core.Tracer) for v in held):
        raise ValueError(f"{name} closes over values that are being traced: an attack is a loop on the host, call it "
                         "outside jit, grad and vmap")
    stand_in = _first(_StandIn(closed.jaxpr, jax.tree.structure(out), call, x, name))
    return Partial(stand_in, [jnp.asarray(v) for v in closed.consts], leaves)


class _StandIn:
    """`(arrays closed over, arrays bound, x) -> f(x)`, equal to every other that computes the same from them."""

    def __init__(self, jaxpr, out, call, at, name):
        self.jaxpr, self.out, self.call, self.at, self.name = jaxpr, out, call, (at.shape, at.dtype), name
        self.form = _form(jaxpr, _ORDERS), out
        self.hash = hash(self.form)

    def __call__(self, consts, leaves, x):
        if (jnp.shape(x), jnp.result_type(x)) == self.at:
            return jax.tree.unflatten(self.out, jaxpr_as_fun(ClosedJaxpr(self.jaxpr, consts))(*leaves, x))
        if not consts:
            return self.call(leaves, x)
        raise ValueError(f"{self.name} closes over arrays and was read at inputs {self.at}, but it is called at "
                         f"{jnp.shape(x), jnp.result_type(x)}: bind them, jax.tree_util.Partial(apply, params)")

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        return self is other or (isinstance(other, _StandIn) and self.form == other.form)


@functools.lru_cache(maxsize=64)
def _first(stand_in):
    """Of all that are equal: jit then compares by identity in every step."""
    return stand_in


def _form(jaxpr, orders):
    """What a jaxpr computes from its inputs and constants, as tuples: two that are equal compute the same."""
    numbers = {}

    def named(v):
        return v.aval, numbers.setdefault(v, len(numbers)) if _variable(v) else _value(np.asarray(v.val), orders)

    every = lambda variables: tuple(map(named, variables))
    inputs = every((*jaxpr.constvars, *jaxpr.invars))
    steps = tuple((e.primitive, every(e.invars), _params(e, orders), every(e.outvars)) for e in _needed(jaxpr))
    return inputs, steps, every(jaxpr.outvars)


def _needed(jaxpr):
    """The equations that a result or an effect depends on: derivatives hold the values of rules once more, unused."""
    needed, kept = set(filter(_variable, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            kept.append(eqn)
            needed.update(filter(_variable, eqn.invars))
    return kept[::-1]


def _variable(v):
    return not isinstance(v, Literal)


def _params(eqn, orders):
    """The parameters of an equation; of a custom rule what its derivative computes, its functions not comparing."""
    if not is_custom_rule(eqn):
        return tuple((name, _value(v, orders)) for name, v in eqn.params.items())
    return _value(eqn.params["call_jaxpr"], orders), _derivative(eqn, orders - 1) if orders else ()


def _derivative(eqn, orders):
    """The form of the reverse-mode derivative of a custom rule, with the arrays that the rule closes over."""
    moves = lambda v: jnp.issubdtype(v.dtype, jnp.inexact)
    struct = lambda avals: [jax.ShapeDtypeStruct(a.shape, a.dtype, weak_type=a.weak_type) for a in avals]
    operands, results = ([v.aval for v in variables] for variables in (eqn.invars, eqn.outvars))

    def pulled(values, cotangents):
        def forward(*moving):
            rest = iter(moving)
            return [v for v in bind(eqn, [next(rest) if moves(v) else v for v in values]) if moves(v)]

        return jax.vjp(forward, *filter(moves, values))[1](cotangents)

    try:
        return _value(jax.make_jaxpr(pulled)(struct(operands), struct(filter(moves, results))), orders)
    except Exception:  # a rule that cannot be traced alone equals no other: what holds it is compiled again
        return object()


def _value(v, orders):
    """A parameter of an equation, as it compares: arrays by their digest, nested jaxprs by their form."""
    if hasattr(v, "eqns"):
        jaxpr, consts = body(v)
        return _form(jaxpr, orders), tuple(_value(c, orders) for c in consts)
    if isinstance(v, tuple | list):
        return tuple(_value(each, orders) for each in v)
    if isinstance(v, dict):
        return tuple((key, _value(each, orders)) for key, each in v.items())
    if isinstance(v, np.ndarray | np.generic | jax.Array):
        keys = jnp.issubdtype(v.dtype, jax.dtypes.prng_key)
        host = np.asarray(jax.random.key_data(v) if keys else v)
        return host.shape, str(v.dtype), hashlib.sha256(host.tobytes()).digest()
    try:
        hash(v)
    except TypeError:
        return object()
    return v
