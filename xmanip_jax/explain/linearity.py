"""Whether a function is affine, decided by what it computes: every operation that its argument reaches is linear.

A short list of operations is believed to be; whatever else the argument reaches is named. So a function may be affine
and still be refused (relu of what is never negative), but none that is believed is anything else.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from ..rewrite.jaxprs import eqn_name
from ..types import AnyArray, Array, Shaped

__all__ = ["first_nonlinear"]

_first = lambda operands: operands == [0]
# Operation -> whether it is linear in the operands, by position, that depend on the argument, the others being fixed.
_LINEAR = {
    **dict.fromkeys(("add", "add_any", "concatenate", "optimization_barrier", "pad", "stack", "sub"), bool),
    **dict.fromkeys(("conv_general_dilated", "dot_general", "mul"), lambda operands: len(operands) == 1),
    **dict.fromkeys(("broadcast_in_dim", "convert_element_type", "copy", "copy_p", "cumsum", "device_put", "div",
                     "dynamic_slice", "gather", "name", "neg", "reduce_sum", "reduce_window_sum", "reshape", "rev",
                     "sharding_constraint", "slice", "split", "squeeze", "tile", "transpose", "unstack"), _first),
    "select_n": lambda operands: 0 not in operands,
    "dynamic_update_slice": lambda operands: max(operands) < 2,
    "scatter": lambda operands: 1 not in operands,
    "scatter-add": lambda operands: 1 not in operands,
}
_CALLS = {"checkpoint", "closed_call", "jit", "pjit", "remat", "remat2"}


def first_nonlinear(f: Callable[[Array], Array], x: Shaped[AnyArray, "*shape"]) -> str | None:
    """The first operation between the argument of f and its result that is not known to be linear; None without one.

    Nothing is computed. A function with a derivative rule of its own counts as not linear, as loops and branches do.

    >>> import jax.numpy as jnp
    >>> first_nonlinear(lambda x: 2 * x.mean() + jnp.ones(3), jnp.ones(4))
    >>> first_nonlinear(lambda x: jnp.tanh(x) @ jnp.ones(4), jnp.ones(4))
    'tanh'
    """
    return _walk(jax.make_jaxpr(lambda x: f(x))(x).jaxpr, [True])[0]


def _walk(jaxpr, depends):
    """(name of the first operation that is not linear, which results depend on the inputs that `depends` marks)."""
    reached = {v for v, marked in zip(jaxpr.invars, depends, strict=True) if marked}
    marks = lambda variables: [not isinstance(v, Literal) and v in reached for v in variables]
    for eqn in jaxpr.eqns:
        if not any(inside := marks(eqn.invars)):
            continue
        named, outside = _step(eqn, inside)
        if named:
            return named, []
        reached.update(v for v, marked in zip(eqn.outvars, outside, strict=True) if marked)
    return None, marks(jaxpr.outvars)


def _step(eqn, inside):
    name = eqn.primitive.name
    if name in _CALLS:
        body = eqn.params["jaxpr"]
        return _walk(getattr(body, "jaxpr", body), inside)
    operands = [i for i, marked in enumerate(inside) if marked]
    real = all(jnp.issubdtype(v.aval.dtype, jnp.inexact) for v in eqn.outvars)
    if name in _LINEAR and _LINEAR[name](operands) and real:
        return None, [True] * len(eqn.outvars)
    return eqn_name(eqn) + (" of two values" if name in _LINEAR and len(operands) > 1 else ""), []
