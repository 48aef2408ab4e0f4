"""A point and its function in flat coordinates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..arguments import traced
from ..types import Array, Float

__all__ = ["flatten", "like"]


def flatten(g: Callable[[Any], Array],
            x: Any) -> tuple[Callable[[Array], Array], Float[Array, " d"], Callable[[Array], Any]]:
    """`g` as a function of Float[d], the flat x, and the way back. Raises ValueError unless g is a scalar of floats."""
    kinds = {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(x)}
    if not kinds or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(f"curvature needs a point of real floating numbers, got {sorted(kinds) or 'nothing'}")
    out = traced(g, x, name="the function", twice=True)[1]
    shapes = [leaf.shape for leaf in jax.tree.leaves(out)]
    if shapes != [()]:
        raise ValueError(f"curvature is that of a scalar function, got outputs of shapes {shapes}: select one logit, "
                         "and vmap over a batch")
    flat, unravel = ravel_pytree(x)
    return lambda z: g(unravel(z)), flat, unravel


def like(x: Any, v: Any) -> Any:
    """`v` with the types of x. Raises ValueError unless it has its shapes."""
    structure: Any = jax.tree.structure(x)
    if structure != jax.tree.structure(v) or jax.tree.map(jnp.shape, x) != jax.tree.map(jnp.shape, v):
        raise ValueError(f"a vector has the shapes of the point {jax.tree.map(jnp.shape, x)}, "
                         f"got {jax.tree.map(jnp.shape, v)}")
    return jax.tree.map(lambda a, b: jnp.asarray(b, jnp.result_type(a)), x, v)
