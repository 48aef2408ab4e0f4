"""Convolutions in the one form that XLA on CPU runs fast inside loops.

XLA's pass for CPU that brings a convolution into that form, images [n, *places, channels] and kernels [*places, in,
out], looks at the entry of a program alone. In the body of a loop every other form, such as that of a derivative, is
computed number by number: a product with ResNet-20's Hessian took 23 ms in a loop and takes 3 there in this form.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..types import Array
from .jaxprs import Literal, bind, body, prims

__all__ = ["convolved", "ordered"]


def ordered(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with its convolutions in the form that is fast in the body of a loop.

    Apply it after all derivatives of what is inside: those of a convolution in this form have another one. Loops inside
    f, remat and functions with a derivative rule of their own stay as they are.

    >>> kernel = jnp.ones((4, 2, 3))  # [out, in, places]
    >>> f = lambda x: jax.lax.conv_general_dilated(x, kernel, (1,), "SAME")
    >>> print(jax.make_jaxpr(ordered(f))(jnp.ones((1, 2, 8))).eqns[2].params["dimension_numbers"])
    ConvDimensionNumbers(lhs_spec=(0, 2, 1), rhs_spec=(2, 1, 0), out_spec=(0, 2, 1))
    """

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(lambda *args: f(*args), return_shape=True)(*args)
        return jax.tree.unflatten(jax.tree.structure(shapes), _run(closed.jaxpr, closed.consts, jax.tree.leaves(args)))

    return run


def _run(jaxpr, consts, values):
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else env[v]
    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        if eqn.primitive is prims.conv_general_dilated_p:
            results = [convolved(eqn.params, *operands)]
        elif eqn.primitive is prims.jit_p:
            results = _run(*body(eqn.params["jaxpr"]), operands)
        else:
            results = bind(eqn, operands)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def convolved(params: dict[str, Any], images: Array, kernel: Array) -> Array:
    """The convolution of an equation, with transposed operands, transposed back."""
    told, rank = params["dimension_numbers"], images.ndim
    places, last = tuple(range(1, rank - 1)), rank - 1
    form = type(told)((0, last, *places), (last, last - 1, *range(last - 1)), (0, last, *places))
    out, into, *of_kernel = told.rhs_spec
    result = prims.conv_general_dilated_p.bind(
        jnp.transpose(images, _last(told.lhs_spec)), jnp.transpose(kernel, (*of_kernel, into, out)),
        **params | {"dimension_numbers": form})
    return jnp.transpose(result, np.argsort(_last(told.out_spec)).tolist())


def _last(spec):
    """The axes (images, channels, *places) of a convolution with the channels last."""
    images, channels, *places = spec
    return images, *places, channels
