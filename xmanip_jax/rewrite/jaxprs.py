"""What differs between JAX versions, and the few facts about jaxprs that the interpreter needs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.extend.core import Literal
from jax.extend.core import primitives as prims

from ..arguments import traced

__all__ = ["Literal", "bind", "bodies", "body", "eqn_name", "is_custom_rule", "prims", "scan_split",
           "subjaxprs", "trace"]


def trace(f: Callable[..., Any], *args: Any) -> tuple[Any, list, list, Any]:
    """Trace `f`: (open jaxpr, its constants, flat arguments, structure of the result)."""
    closed, shape = traced(f, *args)
    return closed.jaxpr, closed.consts, jax.tree.leaves(args), jax.tree.structure(shape)


def body(jaxpr: Any) -> tuple[Any, Any]:
    """A jaxpr parameter of an equation as (open jaxpr, constants): open, closed, or both (jax >= 0.12)."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def bodies(eqn: Any) -> list[tuple[Any, Any]]:
    """(open jaxpr, constants) of every jaxpr among the parameters of an equation; of `while`, the condition first."""
    names = ("cond_jaxpr", "body_jaxpr") if eqn.primitive is prims.while_p else eqn.params
    values = [eqn.params[name] for name in names]
    flat = [j for value in values for j in (value if isinstance(value, (tuple, list)) else (value,))]
    return [body(j) for j in flat if hasattr(j, "eqns")]


def subjaxprs(eqn: Any) -> list:
    """Every open jaxpr among the parameters of an equation."""
    return [jaxpr for jaxpr, _ in bodies(eqn)]


def bind(eqn: Any, values: Sequence[Any]) -> list:
    """Run one equation as it is; always a list of results."""
    out = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
    return list(out) if eqn.primitive.multiple_results else [out]


def scan_split(params: Mapping[str, Any]) -> Any:
    """(number of constants, number of carried values) of a scan."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()  # jax >= 0.12
    return len(consts), len(carry)


def is_custom_rule(eqn: Any) -> bool:
    """Whether the equation carries a user's own derivative rule."""
    return eqn.primitive in (prims.custom_jvp_call_p, prims.custom_vjp_call_p)


def eqn_name(eqn: Any) -> str:
    """The name of a jitted or custom-rule function, else of the primitive."""
    if is_custom_rule(eqn):
        return body(eqn.params["call_jaxpr"])[0].debug_info.func_name.split(" ")[0]
    return eqn.params.get("name") if eqn.primitive is prims.jit_p else eqn.primitive.name
