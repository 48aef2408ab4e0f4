"""How a fooled network is judged, from its maps and logits beside those of the network before."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from common.batches import over
from common.fine_tuning import heats
from xmanip_jax import metrics

KINDS = ("location", "top_k", "center_mass", "active")
# The measure of a kind of fooling, for one image's heat maps, now and before; and when it counts as success.
VALUES = {"location": lambda now, before: metrics.frame_distance(now), "top_k": metrics.top_k_share,
          "center_mass": metrics.mass_center_shift, "active": metrics.swap_score}
SUCCESS = {"location": {"high": 0.2}, "top_k": {"high": 0.3}, "center_mass": {"low": 0.1}, "active": {"low": 0.5}}
GRID = np.round(np.arange(0, 1.01, 0.05), 2)


def fooling(kind: str, now: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray]:
    """Per image: the kind's measure, and the rank correlation of the map with that before; maps Float[n, ...]."""
    return over(_fooling(kind), now, before)


@functools.cache
def _fooling(kind):
    correlation = metrics.spearman if kind != "active" else lambda a, b: jax.vmap(metrics.spearman)(a, b).mean()
    return lambda now, before: {"value": VALUES[kind](now, before), "kept": correlation(now, before)}


def rates(kind: str, values: np.ndarray) -> dict:
    """The Fooling Success Rate at our threshold, and at every threshold of a grid."""
    side = next(iter(SUCCESS[kind]))
    return {"success_rate": metrics.success_rate(values, **SUCCESS[kind]), "threshold": SUCCESS[kind],
            "median": median(values), "vanished": float(np.isnan(values).mean()), "count": len(values),
            "curve": {f"{t:g}": metrics.success_rate(values, **{side: t}) for t in GRID}}


def median(values: np.ndarray) -> float:
    """Of the defined values; nan if there is none."""
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if defined.size else float("nan")


def flipping(model, network, images, labels, maps, seed: int) -> np.ndarray:
    """Float[n]: the area over the perturbation curve of a model under given maps Float[n, h, w]."""
    keys = jax.random.split(jax.random.key(seed), len(images))
    return over(_flipping(network.preprocess), images, labels, maps, keys, batch=8, model=model)


@functools.cache
def _flipping(preprocess):
    return lambda model, p, y, map, key: metrics.aopc(metrics.pixel_flipping(
        model, preprocess(p), y, map, key=key, grid=min(8, *map.shape)))


def membership(model, network, pair, images, labels, last: str, seed: int) -> dict[str, np.ndarray]:
    """What a detector without the original network can compare, per image.

    randomised: the rank correlation of the map with the map after the weights of the layer `last` were shuffled; alike:
    with the map of the next image. A map that says the same whatever the weights or the image is suspicious.
    """
    random = np.random.default_rng(seed)
    shuffled = {**model.args[0], last: jax.tree.map(
        lambda v: jnp.asarray(random.permutation(np.asarray(v).ravel()).reshape(v.shape)), model.args[0][last])}
    other = jax.tree_util.Partial(model.func, shuffled, model.args[1])
    maps, randomised = (heats(m, network, pair, images, labels) for m in (model, other))
    return {"randomised": over(metrics.spearman, maps, randomised),
            "alike": over(metrics.spearman, maps, np.roll(maps, -1, 0))}


def auc(suspects: np.ndarray, honest: np.ndarray) -> float:
    """The chance that a suspect's value is above an honest one's, ties counting half; nan counts as a suspect's 1."""
    a, b = (np.nan_to_num(v, nan=1.0) for v in (suspects, honest))
    return float(np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b)))
