"""A number over many images, with an interval that says how far to trust it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..types import Array, ArrayLike

__all__ = ["Interval", "Summary", "bootstrap_interval", "summarise"]


class Interval(NamedTuple):
    """A statistic of a sample and its confidence interval, in the values' unit: Float[] each."""

    value: Array
    low: Array
    high: Array


class Summary(NamedTuple):
    """An `Interval` in Python floats; how many values it rests on, and how many were undefined (nan)."""

    value: float
    low: float
    high: float
    count: int
    undefined: int


def bootstrap_interval(values: ArrayLike, *, key: Array, statistic: Callable[[Array], Array] = jnp.median,
                       confidence: float = 0.95, resamples: int = 2000) -> Interval:
    """The percentile bootstrap interval of a statistic (Efron 1979), samples being drawn with replacement.

    Args:
      values: Float[n], one value per independent image (average over what is not independent first).
      key: a typed key; the same key draws the same images for every measure, so their intervals compare.
      statistic: Float[n] -> Float[].
      confidence: the probability inside, in (0, 1).
      resamples: their number; resamples * n values are in memory at once.

    A nan among the values makes all three nan: leave out what is undefined, and say so (`summarise` does).

    >>> import jax
    >>> value, low, high = bootstrap_interval(jnp.arange(101.0), key=jax.random.key(0))
    >>> float(value), bool(30 < low < 45), bool(55 < high < 70)
    (50.0, True, True)
    """
    v = jnp.asarray(values)
    v = v.astype(jnp.promote_types(v.dtype, jnp.float32))
    if v.ndim != 1 or v.size == 0:
        raise ValueError(f"a sample is Float[n] with n > 0, got shape {v.shape}")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence is in (0, 1) and resamples >= 1, got {confidence} and {resamples}")
    drawn = v[jax.random.randint(key, (resamples, v.size), 0, v.size)]
    ends = jnp.array([(1 - confidence) / 2, (1 + confidence) / 2], v.dtype)
    low, high = jnp.quantile(jax.vmap(statistic)(drawn), ends)
    missing = jnp.isnan(v).any()
    return Interval(*(jnp.where(missing, jnp.nan, x) for x in (statistic(v), low, high)))


def summarise(values: Mapping[str, ArrayLike], *, key: Array, **options) -> dict[str, Summary]:
    """`bootstrap_interval` of every measure in a dict, ready to be written down. For the host, not for jit.

    Args:
      values: name -> Float[n], one value per image; undefined ones (nan) are left out and counted.
      options: those of `bootstrap_interval`.

    A measure without a defined value has nan for its value and its interval, and count 0.

    >>> import jax
    >>> summarise({"pearson": [1.0, float("nan"), 1.0]}, key=jax.random.key(0))
    {'pearson': Summary(value=1.0, low=1.0, high=1.0, count=2, undefined=1)}
    """
    return {name: _summary(np.asarray(v), key, options) for name, v in values.items()}


def _summary(v, key, options):
    defined = v[~np.isnan(v)]
    if v.ndim == 1 and not defined.size:
        return Summary(float("nan"), float("nan"), float("nan"), 0, v.size)
    interval = bootstrap_interval(defined if v.ndim == 1 else v, key=key, **options)
    return Summary(*(float(x) for x in interval), defined.size, v.size - defined.size)
