"""Loops that bound memory and are fast on every backend, and the rounding of a type."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .arguments import check_count
from .memory import chosen, points_at_once
from .metrics.places import wide
from .rewrite.convolutions import ordered
from .types import Array

__all__ = ["epsilon", "mean_over", "over_chunks", "repeat"]


def epsilon(v: Array | jax.ShapeDtypeStruct) -> float:
    """The distance from 1 to the next number of v's type."""
    return float(jnp.finfo(v.dtype).eps)


def mean_over(g: Callable[[Any], Any], points: Any, n: int, chunk: int | None) -> Any:
    """The mean of g over n points: all at once (chunk None), or chunk by chunk with the inner values recomputed.

    Recomputing makes memory independent of n; an attack through the map then costs 6 forward passes a point, not 4.
    Half precision is summed, and the mean returned, in float32.
    """
    chunk = points_at_once(n, chunk)
    if chunk is None or chunk >= n:
        return jax.tree.map(lambda v: wide(v).mean(0), jax.vmap(g)(points))
    part = recomputed(lambda p: jax.tree.map(lambda v: wide(v).sum(0), jax.vmap(g)(p)))
    starts = range(0, n - n % chunk, chunk)
    if jax.default_backend() == "cpu" and chosen.value is None:  # outside of drivers nobody orders its derivative
        sums = [part(jax.tree.map(lambda v, i=i: v[i:i + chunk], points)) for i in starts]
        total = jax.tree.map(lambda *s: sum(s), *sums)
    else:
        stacked = jax.tree.map(lambda v: v[:len(starts) * chunk].reshape(len(starts), chunk, *v.shape[1:]), points)
        total = jax.tree.map(lambda v: v.sum(0), jax.lax.map(part, stacked))
    if n % chunk:
        rest = part(jax.tree.map(lambda v: v[n - n % chunk:], points))
        total = jax.tree.map(jnp.add, total, rest)
    return jax.tree.map(lambda v: v / n, total)


recomputed = jax.checkpoint  # a chunk of an average, for its derivative


def over_chunks(part: Callable[[Any], Any], keys: Any, chunk: int | None, *, add: bool = False) -> Any:
    """part(keys[c]) -> tree, for chunks of the keys in a loop: concatenated along the first axes, or added up.

    keys: a tree of [n, ...];  chunk: None means all, or as many as a driver's memory allows.
    """
    n = len(jax.tree.leaves(keys)[0])
    chunk = points_at_once(n, chunk)
    if chunk is None or chunk >= n:
        return part(keys)
    check_count(chunk=chunk)
    even = n - n % chunk
    whole = jax.tree.map(lambda v: v[:even].reshape(-1, chunk, *v.shape[1:]), keys)
    part = in_loop(part)
    if add:
        first = jax.eval_shape(part, jax.tree.map(lambda v: v[0], whole))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), first)
        results = [jax.lax.scan(lambda total, c: (jax.tree.map(jnp.add, total, part(c)), None), zero, whole)[0]]
    else:
        results = [jax.tree.map(lambda v: v.reshape(-1, *v.shape[2:]), jax.lax.map(part, whole))]
    results += [part(jax.tree.map(lambda v: v[even:], keys))] if n % chunk else []
    return jax.tree.map(lambda *v: sum(v) if add else jnp.concatenate(v), *results)


def repeat(body: Callable[[Any], Any], start: Any, steps: int) -> Any:
    """`body` applied `steps` times, by a loop primitive."""
    body = in_loop(body)
    return jax.lax.fori_loop(0, steps, lambda i, value: body(value), start)


def in_loop(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` as the body of a loop primitive: on CPU with the convolutions that are fast there."""
    return ordered(f) if jax.default_backend() == "cpu" else f
