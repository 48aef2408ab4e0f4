"""What the measures of geometry share: flat coordinates, and loops that bound memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ..rewrite.jaxprs import convolves
from ..types import Array, ArrayLike

__all__ = ["check_count", "check_positive", "epsilon", "flatten", "like", "over_chunks", "repeat"]


def flatten(g: Callable[[Any], Array], x: Any) -> tuple[Callable[[Array], Array], Array, Callable[[Array], Any]]:
    """`g` as a function of Float[d], the flat x, and the way back. Raises ValueError unless g is a scalar of floats."""
    kinds = {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(x)}
    if not kinds or not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(f"curvature needs a point of real floating numbers, got {sorted(kinds) or 'nothing'}")
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(jax.eval_shape(g, x))]
    if shapes != [()]:
        raise ValueError(f"curvature is that of a scalar function, got outputs of shapes {shapes}; select one logit")
    flat, unravel = ravel_pytree(x)
    return lambda z: g(unravel(z)), flat, unravel


def check_count(**counts: int) -> None:
    """Raises ValueError naming the count that is not a positive integer."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is a positive integer, got {value}")


def check_positive(**values: ArrayLike) -> None:
    """Raises ValueError naming the value that is known and not positive."""
    for name, value in values.items():
        if not isinstance(value, jax.core.Tracer) and not value > 0:
            raise ValueError(f"{name} is positive, got {value}")


def epsilon(v: Array) -> float:
    """The distance from 1 to the next number of v's type."""
    return float(jnp.finfo(v.dtype).eps)


def like(x: Any, v: Any) -> Any:
    """`v` with the types of x. Raises ValueError unless it has its shapes."""
    if jax.tree.structure(x) != jax.tree.structure(v) or jax.tree.map(jnp.shape, x) != jax.tree.map(jnp.shape, v):
        raise ValueError(f"a vector has the shapes of the point {jax.tree.map(jnp.shape, x)}, "
                         f"got {jax.tree.map(jnp.shape, v)}")
    return jax.tree.map(lambda a, b: jnp.asarray(b, jnp.result_type(a)), x, v)


def over_chunks(part: Callable[[Array], Any], keys: Array, chunk: int | None, *, add: bool = False):
    """part(keys[c]) -> tree, for chunks of the keys: concatenated along the first axes, or added up.

    An unrolled loop on CPU, where convolutions in a loop primitive are slow; a scan elsewhere.
    """
    n = len(keys)
    if chunk is None or chunk >= n:
        return part(keys)
    check_count(chunk=chunk)
    whole, rest = keys[:n - n % chunk].reshape(-1, chunk), keys[n - n % chunk:]
    if jax.default_backend() == "cpu":
        results = [part(c) for c in whole]
    elif add:
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, whole[0]))
        results = [jax.lax.scan(lambda total, c: (jax.tree.map(jnp.add, total, part(c)), None), zero, whole)[0]]
    else:
        results = [jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), jax.lax.map(part, whole))]
    results += [part(rest)] if len(rest) else []
    return jax.tree.map(lambda *v: sum(v) if add else jnp.concatenate(v), *results)


def repeat(body: Callable[[Any], Any], start: Any, steps: int) -> Any:
    """`body` applied `steps` times by a loop primitive; unrolled where that is slow, a convolution on CPU."""
    if jax.default_backend() != "cpu" or not convolves(body, start):
        return jax.lax.fori_loop(0, steps, lambda i, value: body(value), start)
    for _ in range(steps):
        start = body(start)
    return start
