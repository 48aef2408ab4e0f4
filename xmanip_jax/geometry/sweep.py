"""A measure of one point, over many points, within a budget of memory: the one driver of this package."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..arguments import check_count
from ..devices import fetched, holding, on_each, spread
from ..memory import Budget
from ..programs import Machine, Program, in_parts

__all__ = ["memory_of", "sweep"]


def sweep(measure: Callable[..., Any], points: Any, *shared: Any, memory: int | str | Budget | None = None,
          chunk: int | None = None, devices: Sequence[jax.Device] | None = None, precision: str | None = None,
          progress: Callable[[int, int], None] | None = None) -> Any:
    """measure(point, *shared) for every point: compiled, in chunks that fit the memory, fetched as they are done.

    Args:
      measure: (point, *shared) -> a tree of arrays, a pure function of ONE point, such as
        `lambda p, f: spectral_norm(lambda x: f(x)[p["y"]], p["x"])`.
      points: a tree of [n, ...]; one with keys where the measure is random.
      shared: trees that all points share, the model for example (a jax.tree_util.Partial); arguments of the compiled
        function, so that weights are not copied into it.
      memory: bytes, or "2GiB", for all that the compiled function takes, as XLA states it: points, shared, results and
        what lies between. Where one point does not fit, averages and estimates inside the measure are computed in
        chunks of their points, samples or columns; default no limit.
      chunk: the most points at once, None meaning as many as fit.
      devices: over which each chunk is spread, memory and chunk being those of one device;  shared lies on each. By
        default those over which points are spread already.
      precision: of products, see `attack.manipulation`.
      progress: called with (points done, n) after every chunk.

    Returns the results as a tree of numpy arrays [n, ...], the same for every chunk up to rounding.

    All points are compiled first; what does not fit is compiled again for fewer, two or three times in all. The last
    chunk is filled up with the last point, so nothing else is compiled.

    Raises ValueError for no points, different numbers of them, and a memory below what one point takes.

    >>> from xmanip_jax import geometry
    >>> measure = lambda x: geometry.spectral_norm(lambda z: (z ** 4).sum(), x).value
    >>> geometry.sweep(measure, jnp.ones((5, 3)), memory="1MB")
    array([12., 12., 12., 12., 12.], dtype=float32)
    """
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(points)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(f"points are arrays with one leading axis of the same length, got {sorted(sizes)}")
    if chunk is not None:
        check_count(chunk=chunk)
    devices = holding(jax.tree.leaves(points)[0]) if devices is None else devices
    machine, over, shared = Machine(devices, memory, precision), _over(measure, shared), on_each(shared, devices)

    def run(part, of):
        found = fetched(over(spread(part, devices), *shared))
        if progress:
            progress(of.stop, of.of)
        return found

    found = in_parts(run, points, machine, size=chunk and chunk * machine.group)
    return jax.tree.map(np.asarray, found)


def memory_of(measure: Callable[..., Any], points: Any, *shared: Any) -> int:
    """Bytes that `sweep` takes for these points at once, as XLA states them: points, shared, results and the rest.

    points: arrays or jax.ShapeDtypeStruct; nothing is computed.

    >>> double = lambda x: 2 * x
    >>> memory_of(double, jax.ShapeDtypeStruct((10, 100), jnp.float32))
    8000
    """
    return _over(measure, shared).takes(points, *shared)


def _over(measure, shared):
    return Program(measure, 0, *[None] * len(shared))
