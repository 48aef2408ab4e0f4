"""Attacks of the study `neighbours`: three objectives, few pixels, searches without gradients."""

from functools import partial

import jax
import numpy as np
import optax

from common import batches, zoo
from xmanip_jax import attack, explain, metrics, objectives

K = 20  # leading pixels that attacks hide


def _measured(now, clean):
    """{measure: Float[n]} of two batches of views: the leading pixels, the centre of mass, the ranking."""
    over = lambda f: np.asarray(jax.jit(jax.vmap(f))(now.heatmap, clean.heatmap))
    return {"top_intersection": over(lambda a, b: metrics.top_k_intersection(a, b, K)),
            "centre_shift": over(metrics.mass_center_distance), "spearman": over(metrics.spearman),
            "prediction_kept": np.float32(now.logits.argmax(1) == clean.logits.argmax(1))}


def fragility(config, images):
    """{explanation and objective: compute} of Ghorbani et al. 2019: hide the top, move the centre, raise a corner."""
    network, corner = zoo.load("mnist_plain"), np.zeros((28, 28), bool)
    corner[:9, :9] = True
    wanted = {"hide the top": objectives.hide_top_k(K), "move the centre": objectives.move_mass_center(),
              "raise a corner": objectives.raise_region(corner)}
    explanations = {"gradient": explain.gradient(), "integrated gradients": explain.integrated_gradients(steps=10)}

    def compute(e, objective):
        step = config.epsilon / 20
        run = attack.manipulation(e, steps=3 if config.quick else 100, objective=objective, start_noise=step,
                                  constraint=attack.linf(config.epsilon), judge_every=5,
                                  optimizer=optax.chain(optax.scale_by_sign(), optax.scale(-step)))
        found = run(network.model, images, None, key=jax.random.key(config.seed))
        inside = lambda maps: np.asarray(maps)[:, corner].sum(1)
        return {**_measured(found, found.clean), "corner": inside(found.heatmap),
                "corner_before": inside(found.clean.heatmap)}

    def noise(e):
        move = np.random.default_rng(config.seed).uniform(-config.epsilon, config.epsilon, images.shape)
        labels = batches.predict(network, images)
        look = jax.jit(jax.vmap(lambda x, y: objectives.viewing(e)(network.model, network.preprocess, x, y, None)))
        now, clean = look(np.float32(np.clip(images + move, 0, 1)), labels), look(images, labels)
        return _measured(now, clean)

    return {f"{name}, {kind}": partial(compute, e, objective) for name, e in explanations.items()
            for kind, objective in wanted.items()} | {f"{name}, noise": partial(noise, e)
                                                      for name, e in explanations.items()}


def sparse(config, images):
    """{scheme: compute}: pixels changed until none of the K leading ones leads, greedy, projected and dense."""
    network, e, budget = zoo.load("mnist_plain"), explain.gradient(), 4 if config.quick else 60
    adam = optax.adam(0.1)

    def compute(optimizer, constraint):
        run = attack.manipulation(e, steps=budget, objective=objectives.hide_top_k(K), constraint=constraint,
                                  optimizer=optimizer, stop=objectives.top_k_hidden(K), judge_every=1)
        key = jax.random.key(config.seed)
        found = run(network.model, images, None, key=key)
        labels = batches.predict(network, images)
        released = attack.release_pixels(e, k=K)(network.model, found, labels=labels, key=key)
        changed = lambda x: np.float32((np.abs(np.asarray(x) - images).max(-1) > 0).sum((1, 2)))
        return {"pixels": changed(found.pixels), "pixels_after_release": changed(released.pixels),
                **_measured(found, found.clean)}

    return {"greedy": partial(compute, optax.chain(attack.greedy_pixels(), adam), attack.box()),
            "projected to 40 pixels": partial(compute, adam, attack.l0(40)),
            "dense": partial(compute, adam, attack.box())}


def worst_case(config, images):
    """{search and network: compute}: the largest change within epsilon, 2000 explanations or gradients of each."""
    looks = 20 if config.quick else 2000
    searches = {
        "genetic": partial(attack.genetic_search, steps=looks, population=10 if config.quick else 50, parents=5),
        "random": partial(attack.random_search, steps=looks),
        "ascent": partial(attack.largest_change, steps=max(looks // 20, 1), restarts=20 if not config.quick else 2)}

    def compute(search, name):
        network = zoo.load(name)
        found = search(explain.gradient(), epsilon=config.epsilon)(network.model, images,
                                                                    key=jax.random.key(config.seed))
        return {"change": np.asarray(found.change)}

    return {f"{kind}, {name}": partial(compute, search, f"mnist_{name}") for kind, search in searches.items()
            for name in ("plain", "softplus")}
