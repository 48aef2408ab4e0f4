"""A measure of one point, over many points, within a budget of memory: the one driver of this package."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..arguments import check_count
from ..devices import fetched, holding, on_each, spread

__all__ = ["memory_of", "sweep"]


def sweep(measure: Callable[..., Any], points: Any, *shared: Any, memory: int | None = None, chunk: int | None = None,
          devices: Sequence[jax.Device] | None = None, progress: Callable[[int, int], None] | None = None) -> Any:
    """measure(point, *shared) for every point: compiled, in chunks that fit the memory, fetched as they are done.

    Args:
      measure: (point, *shared) -> a tree of arrays, a pure function of ONE point, such as
        `lambda p, f: spectral_norm(lambda x: f(x)[p["y"]], p["x"])`.
      points: a tree of [n, ...]; one with keys where the measure is random.
      shared: trees that all points share, the model for example (a jax.tree_util.Partial); arguments of the compiled
        function, so that weights are not copied into it.
      memory: bytes for the compiled function's results and intermediate values, as XLA states them, without points and
        shared, None meaning no limit;  chunk: points at once, None meaning as many as fit.
      devices: over which each chunk is spread, memory and chunk being those of one device;  shared lies on each. By
        default those over which points are spread already.
      progress: called with (points done, n) after every chunk.

    Returns the results as a tree of numpy arrays [n, ...], the same for every chunk up to rounding.

    Two small chunks are compiled to learn what a point takes, then the chosen one. The last chunk is filled up with the
    last point, so nothing else is compiled.

    Raises ValueError for no points, different numbers of them, and a budget below what one point takes.

    >>> from xmanip_jax import geometry
    >>> measure = lambda x: geometry.spectral_norm(lambda z: (z ** 4).sum(), x).value
    >>> geometry.sweep(measure, jnp.ones((5, 3)), memory=10 ** 6)
    array([12., 12., 12., 12., 12.], dtype=float32)
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(f"points are arrays with one leading axis of the same length, got {sorted(sizes)}")
    ((n,),) = sizes
    devices = holding(jax.tree.leaves(points)[0]) if devices is None else devices
    over = jax.jit(jax.vmap(measure, in_axes=(0, *[None] * len(shared))))
    if chunk is None:
        chunk = n if memory is None else _fitting(over, points, shared, n, memory)
    check_count(chunk=chunk)
    count = len(devices or [0])
    chunk, results, shared = min(chunk, -(-n // count)) * count, [], on_each(shared, devices)
    for start in range(0, n, chunk):
        index = np.minimum(np.arange(start, start + chunk), n - 1)
        part, done = jax.tree.map(lambda v, index=index: v[index], points), min(start + chunk, n)
        found = fetched(over(spread(part, devices), *shared))
        results.append(jax.tree.map(lambda v, size=done - start: v[:size], found))
        if progress:
            progress(done, n)
    return jax.tree.map(lambda *v: np.concatenate(v), *results)


def memory_of(measure: Callable[..., Any], points: Any, *shared: Any) -> int:
    """Bytes that `sweep` takes for these points at once: results and intermediate values, as XLA states them.

    points: arrays or jax.ShapeDtypeStruct; nothing is computed.

    >>> double = lambda x: 2 * x
    >>> memory_of(double, jax.ShapeDtypeStruct((10, 100), jnp.float32))
    4000
    """
    return _memory(jax.jit(jax.vmap(measure, in_axes=(0, *[None] * len(shared)))), points, shared)


def _memory(over, points, shared):
    found = over.lower(points, *shared).compile().memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


def _fitting(over, points, shared, n, memory):
    """The most points whose compiled memory is within the budget."""
    like = lambda b: jax.tree.map(lambda v: jax.ShapeDtypeStruct((b, *jnp.shape(v)[1:]), jnp.result_type(v)), points)
    took = {b: _memory(over, like(b), shared) for b in (1, min(2, n))}
    if took[1] > memory:
        raise ValueError(f"one point takes {took[1]} bytes, the budget is {memory}")
    more = max(took[min(2, n)] - took[1], 1)
    chunk = int(np.clip(1 + (memory - took[1]) // more, 1, n))
    while chunk > 2 and _memory(over, like(chunk), shared) > memory:
        chunk = max(chunk * 3 // 4, 2)
    return 1 if chunk == 2 and took[min(2, n)] > memory else chunk
