"""Measures of the study `neighbours`: second-order models of a network, rare changes of a map, trained networks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from common import batches, zoo
from xmanip_jax import certify, explain, geometry, metrics, smooth

RADII = (0.25, 0.5, 1.0)  # of the moves that are predicted, l2
SIGMAS, BETAS = (0.003, 0.01, 0.03, 0.1), (3.0, 10.0, 30.0, 100.0)
TRAINED = ("plain", "softplus", "hessian", "ranking", "llr", "ig_norm", "far", "interval_width")


def second_order(config, images):
    """{radius: compute}: the squared error of each model of the predicted logit over moves within the radius.

    A model is a gradient with or without a Hessian; the smoothing of each is the one that does best on other moves.
    """
    network = zoo.load("mnist_plain")
    labels, moves = batches.predict(network, images), 20 if config.quick else 200
    sigmas, betas = (SIGMAS[:1], BETAS[:1]) if config.quick else (SIGMAS, BETAS)

    def forms(g, hvp, d):
        """g.d and d.H.d / 2 of every move."""
        return jnp.einsum("nhwc,hwc->n", d, g), jax.vmap(lambda v: jnp.vdot(v, hvp(v)) / 2)(d)

    @jax.jit
    def smoothed(model, x, y, d, key, sigma):
        found = geometry.smooth_hessian(lambda z: model(z)[y], x, key=key, sigma=sigma, chunk=100,
                                        samples=100 if config.quick else 1000)
        flat = found.hessian
        return forms(found.gradient, lambda v: (flat @ v.ravel()).reshape(v.shape), d)

    @jax.jit
    def softened(model, x, y, d, beta):
        f = smooth.softplus(model, beta)
        scalar = lambda z: f(z)[y]
        return forms(jax.grad(scalar)(x), lambda v: geometry.hvp(scalar, x, v), d)

    def errors(x, y, radius, key):
        """{model: the error of its best smoothing}."""
        d = jax.random.normal(key, (2 * moves, *x.shape))
        length = radius * jax.random.uniform(jax.random.fold_in(key, 1), (2 * moves, 1, 1, 1))
        d = d / jnp.linalg.norm(d.reshape(2 * moves, -1), axis=1).reshape(-1, 1, 1, 1) * length
        f = jax.jit(jax.vmap(lambda z: network.model(z)[y]))
        truth = np.asarray(f(x + d) - f(x[None]))
        plain = np.asarray(jnp.einsum("nhwc,hwc->n", d, jax.grad(lambda z: network.model(z)[y])(x)))
        models = {"gradient": [plain], "smoothgrad": [], "smoothhess": [], "softplus gradient": [],
                  "softplus Hessian": []}
        for sigma in sigmas:
            first, second = map(np.asarray, smoothed(network.model, x, y, d, key, sigma))
            models["smoothgrad"].append(first)
            models["smoothhess"].append(first + second)
        for beta in betas:
            first, second = map(np.asarray, softened(network.model, x, y, d, beta))
            models["softplus gradient"].append(first)
            models["softplus Hessian"].append(first + second)
        square = lambda says, part: np.mean((says - truth)[part] ** 2)
        chosen, judged = slice(0, moves), slice(moves, None)
        best = {name: min(says, key=lambda one: square(one, chosen)) for name, says in models.items()}
        return {name: square(says, judged) for name, says in best.items()}

    def compute(radius):
        keys = jax.random.split(jax.random.key(config.seed), len(images))
        rows = [errors(jnp.asarray(x), int(y), radius, k) for x, y, k in zip(images, labels, keys, strict=True)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    return {f"radius {r:g}": partial(compute, r) for r in (RADII[:1] if config.quick else RADII)}


def probability(config, images):
    """{network: compute}: how probable a map of a correlation below 0.8 is, the prediction kept, and by sampling."""
    e, few = explain.gradient(), images[:2 if config.quick else 10]
    particles, draws = (100, 200) if config.quick else (200, 20_000)

    def compute(name):
        network = zoo.load(name)
        clean = lambda model, x, y: explain.heatmap(e(model, x, y))

        def score(model, x, y, z):
            stays = model(z).argmax() == y
            return jnp.where(stays, 0.8 - metrics.pearson(clean(model, z, y), clean(model, x, y)), -2.0)

        @jax.jit
        def simulated(model, x, y, key):
            return geometry.subset_simulation(lambda z: score(model, x, y, z), x, key=key, radius=config.epsilon,
                                              particles=particles, moves=20, rounds=8)

        @jax.jit
        def sampled(model, x, y, key):
            low, high = jnp.maximum(x - config.epsilon, 0), jnp.minimum(x + config.epsilon, 1)
            part = lambda k: jax.vmap(lambda k: score(model, x, y, jax.random.uniform(k, x.shape, x.dtype, low, high))
                                      )(jax.random.split(k, 200)) >= 0
            return jax.lax.map(part, jax.random.split(key, draws // 200)).mean()

        labels, keys = batches.predict(network, few), jax.random.split(jax.random.key(config.seed), len(few))
        found = [simulated(network.model, x, y, k) for x, y, k in zip(few, labels, keys, strict=True)]
        brute = [sampled(network.model, x, y, k) for x, y, k in zip(few, labels, keys, strict=True)]
        return {"probability": np.array([f.probability for f in found]), "by_sampling": np.array(brute),
                "variation": np.array([f.coefficient_of_variation for f in found]),
                "reached": np.array([f.reached for f in found], np.float32)}

    return {name: partial(compute, f"mnist_{name}") for name in ("plain", "softplus", "hessian")}


def defended(config, images):
    """{network: compute}: thickness (k = 50, within epsilon) and what is certified within a tenth of epsilon."""
    e, k = explain.gradient(), 50

    def compute(name):
        network = zoo.load(name)

        @jax.jit
        @partial(jax.vmap, in_axes=(None, 0, 0, 0))
        def measured(model, x, y, key):
            box = certify.gradient_bounds(model, certify.ball(x, config.epsilon / 10, 0, 1), y)
            return {"thickness": geometry.thickness(e, model, x, y, k, key=key, radius=config.epsilon, samples=16,
                                                    points=4).value,
                    "certified_change": certify.heatmap_change_bound(e(model, x, y), box),
                    "certified_top": certify.certified_top_k(e(model, x, y), box, k) / k,
                    "width": jnp.mean(box.upper - box.lower)}

        keys = jax.random.split(jax.random.key(config.seed), len(images))
        return {m: np.asarray(v) for m, v in
                measured(network.model, images, batches.predict(network, images), keys).items()}

    known = [name for name in TRAINED if f"mnist_{name}" in zoo.cards()]
    return {name: partial(compute, f"mnist_{name}") for name in (known[:2] if config.quick else known)}
