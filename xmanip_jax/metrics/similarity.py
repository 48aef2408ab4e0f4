"""Similarity of two attribution maps, and of two predictions.

Maps may have any shape unless said otherwise; both have the same one, else ValueError names the two. Results
are Float[] in float32, or wider where an argument is. What a measure leaves undefined is nan, as in scipy (a
constant map has no correlation); a nan inside a map gives nan.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ..types import Array, ArrayLike, Channels, Float, Nested, Num
from .places import channel_axis, over_channels, wide, widest

__all__ = ["cosine", "gini", "kendall", "kl_divergence", "mass_center", "mass_center_distance", "mse", "pearson",
           "probability_change", "spearman", "ssim", "top_k_intersection"]


def mse(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested) -> Float[Array, ""]:
    """The mean of (a - b)^2, in the maps' unit squared. Maps are compared as they are: normalise them before.

    >>> mse([0.0, 1.0], [0.0, 3.0])
    Array(2., dtype=float32)
    """
    a, b = _pair(a, b)
    return jnp.mean((a - b) ** 2)


def pearson(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested) -> Float[Array, ""]:
    """Pearson's correlation coefficient of the maps' entries, in [-1, 1]; nan where a map is constant.

    Differentiable to any order where defined.

    >>> round(float(pearson([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])), 5)
    1.0
    """
    a, b = _pair(a, b)
    return jnp.where(_constant(a) | _constant(b), jnp.nan, _unit_product(_centred(a), _centred(b)))


def cosine(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested) -> Float[Array, ""]:
    """The cosine of the angle between the maps, in [-1, 1]; nan where a map is zero.

    Differentiable to any order where defined.

    >>> round(float(cosine([3.0, 0.0], [1.0, 1.0])), 5)
    0.70711
    """
    a, b = _pair(a, b)
    return jnp.where((a == 0).all() | (b == 0).all(), jnp.nan, _unit_product(a, b))


def spearman(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested) -> Float[Array, ""]:
    """Spearman's rank correlation, in [-1, 1]: Pearson's coefficient of the ranks.

    Tied entries share the mean of their ranks (scipy.stats.spearmanr). nan where a map is constant. Its
    derivative is zero.

    >>> round(float(spearman([1.0, 2.0, 3.0], [1.0, 10.0, 100.0])), 5)
    1.0
    """
    a, b = _pair(a, b)
    missing = jnp.isnan(a).any() | jnp.isnan(b).any()
    return jnp.where(missing, jnp.nan, pearson(_ranks(a), _ranks(b)))


def kendall(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested) -> Float[Array, ""]:
    """Kendall's tau-b, in [-1, 1]; nan where a map is constant. Its derivative is zero.

    (concordant - discordant pairs) / sqrt(pairs not tied in a * pairs not tied in b): scipy.stats.kendalltau.
    It takes O(n log n) operations and O(n) memory.

    >>> round(float(kendall([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])), 5)
    0.33333
    """
    a, b = _pair(a, b)
    dtype, missing = a.dtype, jnp.isnan(a).any() | jnp.isnan(b).any()
    (first, second), ends = jax.vmap(_places)(jnp.stack([a, b]))
    discordant, concordant = jax.vmap(lambda v: _inversions(first, v, dtype))(jnp.stack([second, -second]))
    untied_a, untied_b = jax.vmap(lambda v: _pairs(v, dtype) / 2)(a.size - ends + jnp.stack([first, second]))
    untied = jnp.sqrt(untied_a) * jnp.sqrt(untied_b)
    tau = (concordant - discordant) / jnp.where(untied > 0, untied, 1)
    return jnp.where(missing | (untied == 0), jnp.nan, jnp.clip(tau, -1, 1))


def ssim(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested, *,
         data_range: Num[ArrayLike, ""] | None = None, window: int | None = 7, channels: Channels = "auto",
         ) -> Float[Array, ""]:
    """The mean structural similarity of two images or maps Float[h, w] or Float[h, w, c], in [-1, 1].

    Maps of any number of axes: windows extend along every axis of places, as in scikit-image.

    Wang et al. 2004, eq. (13), with a uniform window, sample covariances and only windows that lie inside, as
    skimage.metrics.structural_similarity given win_size=window and data_range; the mean over channels.

    Args:
      data_range: the width of the range of values: 1 for pixels in [0, 1]. None divides both maps by their
        joint maximum of |.| and takes 1. ALWAYS state which. Heat maps that sum to 1 have values near 1e-5:
        SSIM's constants (0.01 and 0.03 times data_range, squared) drown them, and with data_range=1 two
        INDEPENDENT such maps score 0.999.
      window: odd, at least 3, at most h and w. None: 7, or the largest odd one that fits, for maps of a few cells.
      channels: see explain.heatmap; None for the heat map [d, h, w] of a volume.

    Two maps that are zero everywhere score 1. Differentiable, the joint maximum included.

    >>> import jax
    >>> a, b = jax.random.uniform(jax.random.key(0), (2, 32, 32))
    >>> bool(ssim(a / a.sum(), b / b.sum(), data_range=1) > 0.99), bool(abs(ssim(a, b)) < 0.2)
    (True, True)
    """
    a, b = _pair(a, b)
    axis = channel_axis(a.ndim, channels)
    places = [k for k in range(a.ndim) if k != axis]
    side = min(a.shape[k] for k in places)
    window = min(7, side - 1 | 1) if window is None else window
    if window < 3 or window % 2 == 0 or window > side:
        raise ValueError(f"a window of ssim is odd, at least 3 and at most {side}, got {window} for maps {a.shape}")
    if data_range is None:
        pair = _scaled(jnp.stack([a, b]))  # changes nothing, keeps the derivatives of tiny maps in float32
        a, b = pair[0], pair[1]
        magnitudes = jnp.abs(pair).ravel()
        data_range = magnitudes[magnitudes.argmax()]  # by position: see explain.heatmap
        data_range = jnp.where(data_range == 0, 1, data_range)
    a, b = a / data_range, b / data_range
    (mean_a, mean_b), covariance = _windowed(a, b, window, places)
    variances = _windowed(a, a, window, places)[1] + _windowed(b, b, window, places)[1]
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return jnp.mean(luminance * (2 * covariance + c2) / (variances + c2))


def top_k_intersection(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested,
                       k: int) -> Float[Array, ""]:
    """The share of a's k largest entries that are also among b's k largest, in [0, 1] (Ghorbani et al. 2019).

    By value, not by magnitude: pass heat maps, or absolute values. Ties go to the lower index. Its derivative
    is zero.

    >>> top_k_intersection([3.0, 2.0, 1.0, 0.0], [3.0, 0.0, 1.0, 2.0], 2)
    Array(0.5, dtype=float32)
    """
    a, b = _pair(a, b)
    if not 1 <= k <= a.size:
        raise ValueError(f"the largest k of {a.size} entries: k is in 1..{a.size}, got {k}")
    missing = jnp.isnan(a).any() | jnp.isnan(b).any()
    chosen = jnp.zeros(a.size, a.dtype).at[_largest(a, k)].set(1)
    return jnp.where(missing, jnp.nan, chosen[_largest(b, k)].sum() / k)


def mass_center(a: Num[ArrayLike, "*shape"] | Nested, *, channels: Channels = "auto") -> Float[Array, " axes"]:
    """[row, column] of the centre of the mass |a|: Float[2] in pixels, [0, 0] being the first pixel's centre.

    Args:
      a: Float[h, w], or Float[h, w, c], whose channels are summed; of any other map, one coordinate for each axis of
        places.
      channels: see explain.heatmap.

    A map that is zero everywhere has none: nan. Differentiable where no entry is zero.

    >>> mass_center([[0.0, 0.0], [1.0, 3.0]])
    Array([1.  , 0.75], dtype=float32)
    """
    a = wide(a)
    mass = over_channels(_scaled(jnp.abs(a)), channels)
    total = mass.sum()
    along = lambda axis: mass.sum(tuple(other for other in range(mass.ndim) if other != axis))
    moments = jnp.stack([(along(k) * jnp.arange(n, dtype=mass.dtype)).sum() for k, n in enumerate(mass.shape)])
    return jnp.where(total == 0, jnp.nan, moments / jnp.where(total == 0, 1, total))


def mass_center_distance(a: Num[ArrayLike, "*shape"] | Nested, b: Num[ArrayLike, "*shape"] | Nested, *,
                         channels: Channels = "auto") -> Float[Array, ""]:
    """The Euclidean distance in pixels between the mass centres of two maps (Ghorbani et al. 2019), see `mass_center`.

    Its derivative where the centres coincide is taken as 0.

    >>> mass_center_distance([[1.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 2.0]])
    Array(3., dtype=float32)
    """
    a, b = _pair(a, b)
    square = ((mass_center(a, channels=channels) - mass_center(b, channels=channels)) ** 2).sum()
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def gini(a: Num[ArrayLike, "*shape"] | Nested) -> Float[Array, ""]:
    """The Gini coefficient of |a|, in [0, 1): 0 for a uniform map, 1 - 1/n for a single entry, nan for zeros.

    sum_i (2i - n - 1) v_i / (n sum v), v = |a| / max |a| + 1e-7 in ascending order (Chalasani et al. 2020;
    Quantus' Sparseness, with the maximum taken over the one map).

    >>> round(float(gini([0.0, 0.0, 0.0, -5.0])), 5)
    0.75
    """
    v = _scaled(jnp.abs(wide(a)).ravel())
    n = v.size
    sorted_v = jnp.sort(v) + 1e-7
    weights = (2 * jnp.arange(1, n + 1, dtype=v.dtype) - n - 1) / n
    return jnp.where(v.max() == 0, jnp.nan, (weights * sorted_v).sum() / sorted_v.sum())


def probability_change(logits_a: Num[ArrayLike, " classes"] | Nested,
                       logits_b: Num[ArrayLike, " classes"] | Nested) -> Float[Array, ""]:
    """The largest absolute change of a class's probability, in [0, 1], between logits Float[classes].

    >>> probability_change([0.0, 0.0], [0.0, 100.0])
    Array(0.5, dtype=float32)
    """
    a, b = _pair(logits_a, logits_b)
    return jnp.abs(jax.nn.softmax(a) - jax.nn.softmax(b)).max()


def kl_divergence(logits_a: Num[ArrayLike, " classes"] | Nested,
                  logits_b: Num[ArrayLike, " classes"] | Nested) -> Float[Array, ""]:
    """KL(p || q) in nats of the class probabilities of two logits Float[classes].

    Its gradient in the second logits is the difference of the probabilities.

    >>> round(float(kl_divergence([0.0, 0.0], [0.0, 1.0])), 4)
    0.1201
    """
    log_p, log_q = (jax.nn.log_softmax(v) for v in _pair(logits_a, logits_b))
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q))


def _pair(a: Any, b: Any) -> tuple[Array, Array]:
    """Two maps of one shape, in one type of at least single precision."""
    a, b = wide(a), wide(b)
    if a.shape != b.shape:
        raise ValueError(f"two maps of one shape are compared, got {a.shape} and {b.shape}")
    if a.size == 0:
        raise ValueError(f"a map has entries, got shape {a.shape}")
    dtype = widest(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _constant(a):
    return a.max() == a.min()


def _centred(a):
    """Less its mean, twice: the first mean's rounding error is large against a small spread."""
    a = a - a.mean()
    return a - a.mean()


def _scaled(a: Array) -> Array:
    """Over its largest magnitude: squares of gradients such as 1e-25 leave float32."""
    top = jax.lax.stop_gradient(jnp.abs(a).max())
    return a / jnp.where(top == 0, 1, top)


def _unit_product(a, b):
    """<a, b> / (|a| |b|), which does not change when a or b is scaled: hence constants suffice as scales."""
    a, b = _scaled(a), _scaled(b)
    norms = jnp.sqrt((a * a).sum()) * jnp.sqrt((b * b).sum())
    r = (a * b).sum() / jnp.where(norms == 0, 1, norms)
    return r + jax.lax.stop_gradient(jnp.clip(r, -1, 1) - r)  # clipped by rounding only: keep its derivatives


def _places(a):
    """How many entries lie below each one, and how many do not lie above it: Int[n], Int[n]."""
    v, n = a.ravel(), a.size
    order = jnp.argsort(v)
    steps = v[order][1:] != v[order][:-1]
    first, last = jnp.append(True, steps), jnp.append(steps, True)
    place = jnp.arange(n, dtype=jnp.int32)
    start = jax.lax.cummax(jnp.where(first, place, 0))
    end = jax.lax.cummin(jnp.where(last, place + 1, n), reverse=True)
    return place.at[order].set(start), place.at[order].set(end)


def _ranks(a):
    start, end = _places(a)
    return (start + end + 1).astype(a.dtype) / 2


def _inversions(a, b, dtype):
    """The number of pairs with a_i < a_j and b_i > b_j, for integers.

    Sorted by (a, b), b becomes a permutation (equal entries keep their order), whose inversions are counted
    bit by bit. At each bit the values with equal upper bits fill one block, in their original order; a 1
    before a 0 in a block is an inversion that this bit decides. The ones before it in its block are all ones
    before it less half of the block's start: every block has as many ones as zeros, padded to 0..2^bits - 1.
    """
    n = a.size
    bits = max(n - 1, 1).bit_length()
    order = jnp.lexsort((b, a))
    by_b = jnp.argsort(b[order], stable=True)
    place = jnp.arange(2**bits, dtype=jnp.int32)
    values = place.at[by_b].set(jnp.arange(n, dtype=jnp.int32))

    def step(values, bit):
        one = (values >> bit) & 1
        start = (values >> (bit + 1)) << (bit + 1)
        ones = jnp.cumsum(one) - one - start // 2
        to = jnp.where(one == 1, start + (1 << bit) + ones, place - ones)
        return values.at[to].set(values), _pairs(jnp.where(one == 0, ones, 0), dtype)

    return jax.lax.scan(step, values, jnp.arange(bits - 1, -1, -1, dtype=jnp.int32))[1].sum()


def _pairs(counts, dtype):
    """The sum of counts, each at most their number: int32 inside blocks that cannot overflow, then floats."""
    n = counts.size
    block = max(1, min(n, 2**30 // n))
    padded = jnp.pad(counts, (0, -n % block))
    return padded.reshape(-1, block).sum(1, dtype=jnp.int32).astype(dtype).sum()


def _largest(a, k):
    v = a.ravel()
    return jax.lax.top_k(jnp.where(v == 0, 0, v), k)[1]  # -0 and 0 tie


def _windows(a, n, axis):
    """The n shifted copies of a whose entries make up each window of n along an axis: [n, ...]."""
    m = a.shape[axis] - n + 1
    return jnp.stack([jax.lax.slice_in_dim(a, i, i + m, axis=axis) for i in range(n)])


def _windowed(a, b, n, axes):
    """(means of a and of b, sample covariance) over windows of n along each of the axes, one axis after the other.

    E[ab] - E[a]E[b] would cancel in float32. Parts of equal size m: co-moment = sum of theirs + m * that of their means
    (Chan et al. 1983).
    """
    size, moment = 1, 0
    for axis in axes:
        parts_a, parts_b = _windows(a, n, axis), _windows(b, n, axis)
        a, b = parts_a.mean(0), parts_b.mean(0)
        between = size * ((parts_a - a[None]) * (parts_b - b[None])).sum(0)
        moment = between + (_windows(moment, n, axis).sum(0) if size > 1 else 0)
        size *= n
    return (a, b), moment / (size - 1)
