"""Smoothed explanations, the defence of Dombrowski et al. 2019, section 4: what they make of manipulated images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from common import batches, machines
from xmanip_jax import explain, metrics, rewrite, smooth
from xmanip_jax.types import Array, Explanation

MEASURES = {
    "own": "smoothed map of the manipulated image, with that of the original",
    "target": "smoothed map of the manipulated image, with the target map",
    "before": "smoothed map of the original image, with the target map",
    "fidelity": "smoothed map of the original image, with its unsmoothed map",
    "other": "smoothed maps of the original image and of the next one of its batch",
    "repeat": "smoothed map of the original image, with the same under other noise",
}


class Defence(NamedTuple):
    """One way to smooth an explanation; none of the numbers set: the explanation as it is."""

    label: str
    kappa: float | None = None  # softplus, beta_l = kappa / s_l with the scale s_l of activation l's inputs
    beta: float | None = None  # softplus, the same beta everywhere
    sigma: float | None = None  # SmoothGrad: noise in units of the input's range
    max_pool: bool = False  # smooth max-pooling as well


def defences(kappas: Sequence[float], pooled: bool) -> list[Defence]:
    """The sweep over kappa (with soft pooling too where the network pools), the paper's beta and two SmoothGrads."""
    swept = [Defence(f"kappa {k:g}" + " soft pooling" * soft, kappa=k, max_pool=soft)
             for soft in (False, True)[:1 + pooled] for k in kappas]
    return [Defence("relu"), *swept, Defence("beta 0.8", beta=0.8),
            *(Defence(f"smoothgrad {s:g}", sigma=s) for s in (0.1, 0.2))]


def pools(network) -> bool:
    """Whether the network has a max-pooling."""
    return bool(rewrite.inspect(network.model, jnp.zeros(network.input_shape)).max_pools)


def smoothed_maps(network, judge: Explanation, samples: int = 10) -> Callable[..., Array]:
    """g(defence, pixels, clean, y, key) -> heat maps Float[b, h', w'] of the defended explanation at `pixels`.

    pixels, clean: Float[b, h, w, c] in [0, 1]; the scales s_l are those of the clean images. y: Int[b], the classes
    explained. One compilation serves all kappas and betas, and one all noise levels, whose copies are drawn one by one.
    """
    low, high = (network.preprocess(np.full(network.input_shape[2], v, np.float32)) for v in (0, 1))
    width = float(np.mean(high - low))

    @partial(jax.jit, static_argnames="max_pool")
    def scales(model, pixels, max_pool):
        return jax.vmap(lambda p: smooth.activation_scales(model, network.preprocess(p), max_pool=max_pool))(pixels)

    @partial(jax.jit, static_argnames="max_pool")
    def softplus(model, pixels, y, betas, keys, max_pool):
        def one(p, y, betas, key):
            f = smooth.softplus(model, betas, max_pool=max_pool)
            return explain.heatmap(judge(f, network.preprocess(p), y, key=key))

        return jax.vmap(one)(pixels, y, betas, keys)

    mean_map = jax.jit(lambda copies: jax.vmap(explain.heatmap)(sum(copies) / samples))

    @jax.jit
    def noisy(model, pixels, y, sigma, keys):
        def one(p, y, key):
            noise, inside = jax.random.split(key)
            x = network.preprocess(p)
            return judge(model, x + sigma * jax.random.normal(noise, x.shape), y, key=inside)

        return jax.vmap(one)(pixels, y, keys)

    def maps(defence, pixels, clean, y, key):
        keys = jax.random.split(key, (samples, len(pixels)))
        if defence.sigma:
            return mean_map([noisy(network.model, pixels, y, defence.sigma * width, k) for k in keys])
        s = scales(network.model, clean, defence.max_pool)
        betas = defence.kappa / s if defence.kappa else jnp.full_like(s, defence.beta)
        return softplus(network.model, pixels, y, betas, keys[0], defence.max_pool)

    return maps


def returned(maps, chosen: Sequence[Defence], arrays, key, tick=lambda: None) -> dict[str, np.ndarray]:
    """What smoothing returns to: the correlations of MEASURES, "smoothed_<measure>": Float[b, defences].

    arrays: of batches.attack_batches;  tick: called after each defence. "smoothed_original", "smoothed_adv":
    Float[b, defences, h', w'], the smoothed maps of both images. The noise of all maps is independent.
    """
    found = []
    for d in chosen:
        smoothed = lambda name, i, d=d: maps(
            d, *machines.spread((arrays[name], arrays["x"], arrays["y"])), jax.random.fold_in(key, i))
        original, adv = (arrays["map_original"], arrays["map_adv"]) if d.label == "relu" else (
            smoothed("x", 0), smoothed("x_adv", 1))
        found.append((original, adv, smoothed("x", 2) if d.sigma else original))
        tick()
    original, adv, again = (np.stack(m, axis=1) for m in zip(*found, strict=True))
    target, unsmoothed = arrays["map_target"][:, None], arrays["map_original"][:, None]
    other = np.roll(original, -1, axis=0) if len(original) > 1 else np.full_like(original, np.nan)
    pairs = {"own": (adv, original), "target": (adv, target), "before": (original, target),
             "fidelity": (original, unsmoothed), "other": (original, other), "repeat": (original, again)}
    return {**{f"smoothed_{name}": _pearson(*pair) for name, pair in pairs.items()},
            "smoothed_original": original, "smoothed_adv": adv}


def smoothed_batches(network, judge: Explanation, arrays, chosen: Sequence[Defence], *, batch, seed, keep, watch):
    """`returned`, batch by batch; the maps are kept for the first image only.

    arrays: of batches.attack_batches;  keep, watch: as there, but what watch returns takes no arguments.
    """
    maps = smoothed_maps(network, judge)
    count = len(arrays["x"])

    def compute(part, index):
        key = jax.random.fold_in(jax.random.key(seed), index)
        inside = {name: value[part] for name, value in arrays.items()}
        found = returned(maps, chosen, inside, key, watch(index, -(-count // batch)))
        return found | {name: found[name][:index == 0] for name in ("smoothed_original", "smoothed_adv")}

    return batches.in_batches(compute, count, batch, keep)


@jax.jit
def _pearson(maps, others):
    """Float[b, d]: of maps Float[b, d, h, w] with others of the same shape, or Float[b, 1, h, w]."""
    return jax.vmap(jax.vmap(metrics.pearson))(maps, jnp.broadcast_to(others, maps.shape))
