"""What curvature.py measures at an image: curvature, what an attack does within a ball, what no attack can do."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from xmanip_jax import certify, explain, geometry, metrics, smooth, train
from xmanip_jax.attack.change import margin
from xmanip_jax.types import Array

GRADIENT = explain.gradient()
OBJECTIVES = "change", "top"  # of `climb`


class Settings(NamedTuple):
    """k: pixels of the top;  probes: of the Frobenius norm;  steps: of Lanczos and power iteration;  attack: steps.

    weights: whether there are bounds from the weights.
    """

    k: int = 20
    probes: int = 100
    steps: int = 32
    attack: int = 20
    weights: bool = True


def curvature(f, x, y, key, s: Settings) -> dict:
    """Of the logit y of a smooth f at x, each with its unit; x: Float[h, w, c], the network's input."""
    g = lambda z: f(z)[y]
    frobenius = geometry.frobenius_norm(g, x, key=key, samples=s.probes)
    spectral = geometry.spectral_norm(g, x, steps=s.steps)
    relative = geometry.normalised_curvature(g, x, steps=s.steps)
    level = geometry.principal_curvatures(g, x, 1, steps=s.steps)
    found = {"gradient_norm": relative.gradient_norm, "frobenius_norm": frobenius.value,
             "frobenius_error": frobenius.standard_error, "spectral_norm": spectral.value,
             "spectral_converged": spectral.converged, "normalised_curvature": relative.value,
             "level_set_curvature": jnp.abs(level.values[0]), "level_set_converged": level.converged[0]}
    return found | {"hessian_bound": certify.hessian_bound(f, x, y)} if s.weights else found


class Climb(NamedTuple):
    """An attack on its way: where it is, the most that it or one before it found, and where."""

    pixels: Array
    change: Array
    top: Array
    best: Array


def random_point(box, key):
    """A point of the box, uniformly."""
    return box.lower + jax.random.uniform(key, box.lower.shape, box.lower.dtype) * (box.upper - box.lower)


def nothing(pixels, s: Settings) -> Climb:
    """Before any attack: the image itself."""
    return Climb(pixels, jnp.zeros((), pixels.dtype), jnp.full((), s.k, pixels.dtype), pixels)


def start(pixels, eps, key, found: Climb) -> Climb:
    """A random point within eps of the pixels; what was found in a ball that is no larger stays found."""
    return found._replace(pixels=random_point(certify.ball(pixels, eps, 0, 1), key))


def climb(f, surrogate, preprocess, pixels, y, eps, now: Climb, s: Settings, *, objective: str) -> Climb:
    """A step of projected gradient ascent within eps of the pixels, by the sign, judged where f keeps predicting y.

    objective: "change" of the heat map, ||h' - h||_1, or the mass that its "top" k pixels lose, on the surrogate. Where
    f has lost y, the step climbs back: the logit of y above the others.
    """
    heat = lambda f, p: explain.heatmap(GRADIENT(f, preprocess(p), y))
    here = heat(f, pixels)
    top = jax.lax.top_k(here.ravel(), s.k)[1]
    base = heat(surrogate, pixels)
    aims = {"change": lambda p: jnp.abs(heat(surrogate, p) - base).sum(),
            "top": lambda p: -heat(surrogate, p).ravel()[top].sum()}
    keeps = lambda p: f(preprocess(p)).argmax() == y
    astray = ~keeps(now.pixels)
    aim = lambda p: jnp.where(astray, margin(surrogate(preprocess(p)), y), aims[objective](p))
    p = train.sign_step(aim, now.pixels, certify.ball(pixels, eps, 0, 1), 2.5 * eps / s.attack)
    heat_now, kept = heat(f, p), keeps(p)
    change = jnp.where(kept, jnp.abs(heat_now - here).sum(), 0)
    stays = jnp.where(kept, metrics.top_k_intersection(heat_now, here, s.k) * s.k, s.k)
    return Climb(p, jnp.maximum(change, now.change), jnp.minimum(stays, now.top),
                 jnp.where(change > now.change, p, now.best))


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
    """From one image to another, for a smooth f: the change of gradient and normal, their bounds and estimates."""
    x, z = preprocess(pixels), preprocess(moved)
    g = lambda v: f(v)[y]
    line = x + jnp.linspace(0, 1, 5).reshape(-1, 1, 1, 1) * (z - x)
    found = geometry.gradient_change_estimate(g, line, steps=s.steps)
    unit = lambda v: v / jnp.linalg.norm(v.ravel())
    turn = jnp.linalg.norm((unit(jax.grad(g)(x)) - unit(jax.grad(g)(z))).ravel())
    estimates = {"gradient_change": found.change, "gradient_change_estimate": found.estimate, "normal_change": turn}
    return estimates | {"gradient_change_bound": certify.gradient_change_bound(f, x, z, y),
                        "normal_change_bound": certify.normal_change_bound(f, x, z, y)} if s.weights else estimates


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

    def weights(model, p):
        return certify.hessian_bound(model_of(model, betas), pre(p), 0)

    def box(model, p, *, linear):
        kinds = (None,) if betas is None else (None, betas)
        return [certified(model_of(model, b), pre, p, 0, 0.1, s, linear=linear) for b in kinds]

    s = s._replace(weights=exists("bound from the weights", weights, network.model, pixels))
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
    """What is compiled for a network, once: functions of (model, betas, betas of the surrogate, ...).

    predict, curvature, nothing, begin, step {objective: ...} and way of many images, bound {kind: ...} of one.
    """

    predict: Callable
    curvature: Callable
    nothing: Callable
    begin: Callable
    step: dict[str, Callable]
    way: Callable
    bound: dict[str, Callable]


def measures(pre, s, kinds) -> Measures:
    """pre: from pixels to the input;  kinds: of bounds, {name: whether inputs are followed linearly}."""

    def over(measure, *arrays):
        return jax.jit(jax.vmap(measure, in_axes=(None, None, None, *arrays)))

    return Measures(
        over(lambda m, b, c, p: model_of(m, b)(pre(p)).argmax(), 0),
        over(lambda m, b, c, p, y, key: curvature(model_of(m, b), pre(p), y, key, s), 0, 0, 0),
        jax.vmap(lambda p: nothing(p, s)), jax.jit(jax.vmap(start, in_axes=(0, None, 0, 0))),
        {o: over(lambda m, b, c, p, y, eps, now, o=o: climb(
            model_of(m, b), model_of(m, c), pre, p, y, eps, now, s, objective=o), 0, 0, None, 0) for o in OBJECTIVES},
        over(lambda m, b, c, p, z, y: along(model_of(m, b), pre, p, z, y, s), 0, 0, 0),
        {kind: jax.jit(lambda m, b, p, y, eps, linear=linear: certified(
            model_of(m, b), pre, p, y, eps, s, linear=linear)) for kind, linear in kinds.items()})
