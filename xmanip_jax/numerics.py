"""Loops that bound memory and are fast on every backend, and the rounding of a type."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .arguments import check_count
from .metrics.places import wide
from .rewrite.convolutions import ordered
from .types import AnyArray, Array, Shaped

__all__ = ["epsilon", "mean_over", "over_chunks", "repeat"]


def epsilon(v: Array | jax.ShapeDtypeStruct) -> float:
    """The distance from 1 to the next number of v's type."""
    return float(jnp.finfo(v.dtype).eps)


def mean_over(g: Callable[[Any], Any], points: Any, n: int, chunk: int | None) -> Any:
    """The mean of g over n points: all at once (chunk None), or chunk by chunk with the inner values recomputed.

    Recomputing makes memory independent of n; an attack through the map then costs 6 forward passes a point, not 4.
    Half precision is summed, and the mean returned, in float32.
    """
    if chunk is None or chunk >= n:
        return jax.tree.map(lambda v: wide(v).mean(0), jax.vmap(g)(points))
    part = jax.checkpoint(lambda p: jax.tree.map(lambda v: wide(v).sum(0), jax.vmap(g)(p)))
    starts = range(0, n - n % chunk, chunk)
    if jax.default_backend() == "cpu":  # the derivative of a loop has convolutions that are slow on CPU, see `in_loop`
        sums = [part(jax.tree.map(lambda v, i=i: v[i:i + chunk], points)) for i in starts]
        total = jax.tree.map(lambda *s: sum(s), *sums)
    else:
        stacked = jax.tree.map(lambda v: v[:len(starts) * chunk].reshape(len(starts), chunk, *v.shape[1:]), points)
        total = jax.tree.map(lambda v: v.sum(0), jax.lax.map(part, stacked))
    if n % chunk:
        rest = part(jax.tree.map(lambda v: v[n - n % chunk:], points))
        total = jax.tree.map(jnp.add, total, rest)
    return jax.tree.map(lambda v: v / n, total)


def over_chunks(part: Callable[[Array], Any], keys: Shaped[AnyArray, " n *shape"], chunk: int | None, *,
                add: bool = False) -> Any:
    """part(keys[c]) -> tree, for chunks of the keys in a loop: concatenated along the first axes, or added up."""
    n = len(keys)
    if chunk is None or chunk >= n:
        return part(keys)
    check_count(chunk=chunk)
    whole, rest = keys[:n - n % chunk].reshape(-1, chunk, *keys.shape[1:]), keys[n - n % chunk:]
    part = in_loop(part)
    if add:
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, whole[0]))
        results = [jax.lax.scan(lambda total, c: (jax.tree.map(jnp.add, total, part(c)), None), zero, whole)[0]]
    else:
        results = [jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), jax.lax.map(part, whole))]
    results += [part(rest)] if len(rest) else []
    return jax.tree.map(lambda *v: sum(v) if add else jnp.concatenate(v), *results)


def repeat(body: Callable[[Any], Any], start: Any, steps: int) -> Any:
    """`body` applied `steps` times, by a loop primitive."""
    body = in_loop(body)
    return jax.lax.fori_loop(0, steps, lambda i, value: body(value), start)


def in_loop(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` as the body of a loop primitive: on CPU with the convolutions that are fast there."""
    return ordered(f) if jax.default_backend() == "cpu" else f
