"""A number over many images, with an interval that says how far to trust it. Host code: nothing compiles."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ..types import ArrayLike, Nested, Num, RandomKey

__all__ = ["Interval", "Summary", "bootstrap_interval", "summarise"]


class Interval(NamedTuple):
    """A statistic of a sample and its confidence interval, in the values' unit."""

    value: float
    low: float
    high: float


class Summary(NamedTuple):
    """An `Interval`; how many values it rests on, and how many were left out as undefined (nan)."""

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # a tuple's method
    undefined: int


def bootstrap_interval(values: Num[ArrayLike, " n"] | Nested, *, key: RandomKey,
                       statistic: Callable[..., ArrayLike] = np.median,
                       confidence: float = 0.95, resamples: int = 2000) -> Interval:
    """The percentile bootstrap interval of a statistic (Efron 1979), samples being drawn with replacement.

    Args:
      values: Float[n], one value per independent image (average over what is not independent first).
      key: a typed key; the same key draws the same images for every measure, so their intervals compare.
      statistic: takes the axis of the sample: statistic(Float[m, n], axis=-1) -> Float[m], as np.mean does.
      confidence: the probability inside, in (0, 1).
      resamples: their number; resamples * n values are in memory at once.

    A nan among the values makes all three nan: leave out what is undefined, and say so (`summarise` does).

    Raises:
      ValueError: no values, more than one axis, confidence or resamples out of range.

    >>> value, low, high = bootstrap_interval(np.arange(101.0), key=jax.random.key(0))
    >>> value, 30 < low < 45, 55 < high < 70
    (50.0, True, True)
    """
    v = np.asarray(values, np.float64)
    if v.ndim != 1 or v.size == 0:
        raise ValueError(f"a sample is Float[n] with n > 0, got shape {v.shape}")
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(f"confidence is in (0, 1) and resamples >= 1, got {confidence} and {resamples}")
    if np.isnan(v).any():
        return Interval(np.nan, np.nan, np.nan)
    random = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    drawn = statistic(v[random.integers(v.size, size=(resamples, v.size))], axis=-1)
    ends = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(*(float(x) for x in (statistic(v, axis=-1), *ends)))


def summarise(values: Mapping[str, Num[ArrayLike, " n"] | Nested], *, key: RandomKey,
              **options: Any) -> dict[str, Summary]:
    """`bootstrap_interval` of every measure in a dict, ready to be written down.

    Args:
      values: name -> Float[n], one value per image; undefined ones (nan) are left out and counted.
      options: those of `bootstrap_interval`.

    A measure without a defined value has nan for its value and its interval, and count 0.

    >>> summarise({"pearson": [1.0, float("nan"), 1.0]}, key=jax.random.key(0))
    {'pearson': Summary(value=1.0, low=1.0, high=1.0, count=2, undefined=1)}
    """
    return {name: _summary(np.asarray(v, np.float64), key, options) for name, v in values.items()}


def _summary(v, key, options):
    defined = v[~np.isnan(v)] if v.ndim == 1 else v
    interval = bootstrap_interval(defined if defined.size else v, key=key, **options)
    return Summary(*interval, defined.size, v.size - defined.size)
