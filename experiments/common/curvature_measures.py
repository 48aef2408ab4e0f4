"""What curvature.py measures at an image: curvature, what an attack does within a ball, what no attack can do."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xmanip_jax import attack, certify, explain, geometry, metrics, smooth
from xmanip_jax.certify.hessian_bound import changes
from xmanip_jax.programs import Machine, Program, in_parts
from xmanip_jax.types import Array

GRADIENT = explain.gradient()
AT_ONCE = 10  # of the probes of the Frobenius norm


class Settings(NamedTuple):
    """k: pixels of the top;  probes: of the Frobenius norm;  steps: of Lanczos iteration.

    attack: gradients from each start;  restarts: starts;  weights: whether there are bounds from the weights.
    """

    k: int = 20
    probes: int = 100
    steps: int = 32
    attack: int = 20
    restarts: int = 1
    weights: bool = True


def frobenius(f, x, y, key, s: Settings) -> dict:
    """||H||_F of the logit y of a smooth f at x, with its standard error; x: Float[h, w, c], the network's input."""
    found = geometry.frobenius_norm(lambda z: f(z)[y], x, key=key, samples=s.probes, chunk=AT_ONCE)
    return {"frobenius_norm": found.value, "frobenius_error": found.standard_error}


def spectral(f, x, y, key, s: Settings) -> dict:
    """||grad g||, ||H||_2 and their ratio, the normalised curvature of Srinivas et al. 2022, g being the logit y."""
    g = lambda z: f(z)[y]
    slope, norm = jnp.linalg.norm(jax.grad(g)(x).ravel()), geometry.spectral_norm(g, x, steps=s.steps)
    return {"gradient_norm": slope, "spectral_norm": norm.value, "spectral_converged": norm.converged,
            "normalised_curvature": norm.value / (slope + 1e-6)}


def level_set(f, x, y, key, s: Settings) -> dict:
    """The principal curvature of the logit's level set that is largest in magnitude."""
    level = geometry.principal_curvatures(lambda z: f(z)[y], x, 1, steps=s.steps)
    return {"level_set_curvature": jnp.abs(level.values[0]), "level_set_converged": level.converged[0]}


def weights(f, x, y, key, s: Settings) -> dict:
    """What ||H||_F of the logit, and of the cross entropy, do not exceed at any input."""
    return {"hessian_bound": certify.hessian_bound(f, x, y),
            "cross_entropy_bound": certify.cross_entropy_hessian_bound(f, x)}


def distances(k: int) -> dict[str, Callable]:
    """What an attack raises: the change of the heat map, ||h' - h||_1, and the mass that its top k pixels lose."""

    def lost(now, clean):
        top = jax.lax.top_k(clean.ravel(), k)[1]
        return jnp.maximum((clean.ravel()[top] - now.ravel()[top]).sum(), 0)

    return {"change": lambda now, clean: jnp.abs(now - clean).sum(), "top": lost}


class Found(NamedTuple):
    """The most that attacks within a ball, or within a smaller one, do to images; every value is the network's own.

    change: Float[n], of the heat maps;  top: Float[n], how many of their top pixels stay, the fewest;
    pixels: Float[n, h, w, c], where the change is.
    """

    change: Array
    top: Array
    pixels: Array


def attacked(searches: Sequence[Callable], model, pixels, labels, key, epsilons: Sequence[float],
             k: int) -> Iterator[tuple[float, Found]]:
    """For each epsilon, ascending, what the searches find within it; what a smaller ball holds, a larger one holds.

    searches: of `attack.largest_change`.
    """
    change, kept = (jax.jit(jax.vmap(of)) for of in (
        distances(k)["change"], lambda now, clean: k * metrics.top_k_intersection(now, clean, k)))
    best = Found(jnp.zeros(len(pixels), pixels.dtype), jnp.full(len(pixels), k, pixels.dtype), pixels)
    for eps in sorted(epsilons):
        for purpose, search in enumerate(searches):
            now = search(model, pixels, labels=labels, key=jax.random.fold_in(key, purpose), epsilon=eps)
            moved = jnp.nan_to_num(change(now.heatmap, now.clean.heatmap))  # 0 where a map vanishes
            further = (moved > best.change).reshape(-1, *[1] * (pixels.ndim - 1))
            best = Found(jnp.maximum(best.change, moved), jnp.minimum(best.top, kept(now.heatmap, now.clean.heatmap)),
                         jnp.where(further, now.pixels, best.pixels))
        yield eps, best


def certified(f, preprocess, pixels, y, eps, s: Settings, *, linear: bool) -> dict:
    """What no change of the pixels by at most eps does: to the heat map, its top, its signs, to two classes' maps."""
    x, box = preprocess(pixels), certify.Box(*map(preprocess, certify.ball(pixels, eps, 0, 1)))
    rival = jnp.argsort(f(x))[-2]
    maps = [GRADIENT(f, x, t) for t in (y, rival)]
    bounds = [certify.gradient_bounds(f, box, t, linear=linear) for t in (y, rival)]
    return {"change": certify.heatmap_change_bound(maps[0], bounds[0]),
            "top": certify.certified_top_k(maps[0], bounds[0], s.k).astype(x.dtype),
            "signs": jnp.mean(certify.certified_signs(bounds[0]), dtype=x.dtype),
            "width": (bounds[0].upper - bounds[0].lower).sum() / jnp.abs(maps[0]).sum(),
            "discrepancy": sum(map(certify.map_change_bound, maps, bounds)) / 2 / sum(jnp.abs(m).sum() for m in maps)}


def along(f, preprocess, pixels, moved, y, s: Settings) -> dict:
    """From one image to another, for a smooth f: the change of gradient and normal, and an estimate of the first."""
    x, z = preprocess(pixels), preprocess(moved)
    g = lambda v: f(v)[y]
    line = x + jnp.linspace(0, 1, 5).reshape(-1, *[1] * x.ndim) * (z - x)
    found = geometry.gradient_change_estimate(g, line, steps=s.steps)
    unit = lambda v: v / jnp.linalg.norm(v.ravel())
    turn = jnp.linalg.norm((unit(jax.grad(g)(x)) - unit(jax.grad(g)(z))).ravel())
    return {"gradient_change": found.change, "gradient_change_estimate": found.estimate, "normal_change": turn}


def bounds_along(f, preprocess, pixels, moved, y) -> dict:
    """What the change of gradient and normal from one image to another does not exceed, for a smooth f."""
    found = changes(f, preprocess(pixels), preprocess(moved), y, False)
    return {"gradient_change_bound": found.gradient, "normal_change_bound": found.normal}


def bounded(network, pixels, betas, s: Settings, kinds) -> tuple[Settings, dict, dict]:
    """(settings, kinds of certificates) with the bounds that there are for a network, {what is left out: why}.

    pixels: an image;  betas: of its softplus, None where it is smooth itself. Nothing is computed.
    """
    pre, reasons = network.preprocess, {}

    def exists(name, bound, *arguments):
        try:
            jax.eval_shape(bound, *arguments)
        except (ValueError, TypeError, NotImplementedError) as error:
            reasons[name] = str(error).splitlines()[0]
        return name not in reasons

    def from_weights(model, p):
        return weights(model_of(model, betas), pre(p), 0, None, s)

    def box(model, p, *, linear):
        kinds = (None,) if betas is None else (None, betas)
        return [certified(model_of(model, b), pre, p, 0, 0.1, s, linear=linear) for b in kinds]

    s = s._replace(weights=exists("bound from the weights", from_weights, network.model, pixels))
    with jax.enable_x64(True):
        arguments = double((network.model, pixels))
        kinds = {kind: linear for kind, linear in kinds.items()
                 if exists(f"certificate by {kind}", partial(box, linear=linear), *arguments)}
    return s, kinds, reasons


def double(tree):
    """Its floating-point numbers in double precision, where jax.enable_x64 holds."""
    wide = lambda v: jnp.asarray(v, jnp.float64) if jnp.issubdtype(jnp.result_type(v), jnp.floating) else v
    return jax.tree.map(wide, tree)


def model_of(model, betas):
    """The network itself, or its softplus."""
    return model if betas is None else smooth.softplus(model, betas)


class Measures(NamedTuple):
    """What is compiled for a network, once; each of `curvature`, `way` and `bound` is a program of its own.

    predict(model, betas, pixels), and with labels and keys each of curvature, and with labels and the pixels of an
    attack each of way, bound {kind: ...}: of many images;  searches {whether the network is smooth: those of
    `attacked`}.
    """

    predict: Callable
    curvature: list[Callable]
    searches: dict[bool, list[Callable]]
    way: list[Callable]
    bound: dict[str, Callable]


def measures(pre, s: Settings, kinds, *, memory=None, precision=None) -> Measures:
    """pre: from pixels to the input;  kinds: of bounds, {name: whether inputs are followed linearly};

    memory, precision: of drivers; the precision is not that of bounds.
    """
    measuring, bounding = Machine(None, memory, precision), Machine(None, memory, None)

    def over(measure, count, machine):
        program = Program(measure, None, None, *[0] * count)
        return lambda m, b, *arrays: in_parts(lambda part, _: program(m, b, *part), arrays, machine)

    at = lambda measure: over(lambda m, b, p, y, key: measure(model_of(m, b), pre(p), y, key, s), 3, measuring)
    bent = [frobenius, spectral, level_set, *[weights] * s.weights]
    ways = [partial(along, s=s), *[bounds_along] * s.weights]
    search = partial(attack.largest_change, GRADIENT, epsilon=1.0, steps=s.attack, restarts=s.restarts, preprocess=pre,
                     memory=memory, precision=precision)
    return Measures(
        over(lambda m, b, p: model_of(m, b)(pre(p)).argmax(), 1, measuring), [at(measure) for measure in bent],
        {smoothly: [search(distance=d, surrogate=smooth.none() if smoothly else None)
                    for d in distances(s.k).values()] for smoothly in (False, True)},
        [over(lambda m, b, p, z, y, way=way: way(model_of(m, b), pre, p, z, y), 3, measuring) for way in ways],
        {kind: over(lambda m, b, p, y, eps, linear=linear: certified(
            model_of(m, b), pre, p, y, eps, s, linear=linear), 3, bounding) for kind, linear in kinds.items()})
