"""ATEX (Tang et al. 2022) judged as in the paper: an attack that hides the 50 leading pixels of the gradient map.

    python experiments/reproduce.py atex2022
    python experiments/reproduce.py atex2022 --quick        # without data: does everything run?

For each radius of ATEX a network goes on from the plain one of its seed, MNIST, as in defences.py; so do plain and
softplus training (ATEX's own network is smooth: what of its robustness is the softplus?). Within epsilon of each pixel
(the paper: 0.08), --steps of Adam lower the mass on the 50 leading pixels, the prediction staying; a relu network is
climbed on its softplus. Reported: the share of the 50 that still lead, and Spearman's correlation of the maps, both 1
for a map that stays; and how alike the map and its SmoothGrad are without any attack (SSIM, the paper's smoothness).

Deviations: the mask is that of the clean map, as in Ghorbani et al. 2019, not of the current one; the projection has no
sign error; Adam on all pixels, not steps of a largest entry. The run folder gets results.json and arrays.npz; finished
trainings and attacks are kept, and --resume goes on.

Run time: about an hour on 2 cores for three seeds. Result of --radii 0.1 --seeds 3 --count 100: top intersection 0.06
(plain), 0.59 (softplus), 0.71 (ATEX); Spearman 0.23, 0.80, 0.87; smoothness 0.70, 0.99, 0.99.
"""

import dataclasses
from functools import partial

import jax
import numpy as np
from rich.console import Console

from common import files, machines, report, robustness, runs, study, training, training_data
from common.defence_recipes import NETWORKS, RECIPES
from xmanip_jax import attack, explain, metrics, models, objectives

TOP = 50
HINTS = {"accuracy": "test split", "top_intersection": "of the leading 50, attacked", "spearman": "attacked",
         "smoothness": "SSIM with SmoothGrad, not attacked"}


@dataclasses.dataclass(frozen=True)
class Config(study.Protocol):
    """ATEX and what it is compared with."""

    radii: tuple[float, ...] = (0.02, 0.08)
    """Radii of ATEX, in pixels in [0, 1]; the paper: 0.08 on MNIST."""
    attack_epsilon: float = 0.08
    """Largest change of any pixel, which is in [0, 1], in the attack."""
    steps: int = 100
    """Number of steps of the attack."""
    count: int = 200
    """Number of test images that are attacked."""
    beta: float = 5.0
    """Sharpness of softplus."""


def evaluated(config, weights, act, images):
    """{measure: Float[n]} of a trained network under the attack on its first test images."""
    network = models.load(NETWORKS[config.dataset], weights, act=act)
    e, smoothed = explain.gradient(), explain.smoothgrad(explain.gradient(), sigma=0.1, samples=10)
    hide = attack.manipulation(
        e, steps=config.steps, optimizer=attack.default_optimizer(config.steps, 2 * config.attack_epsilon / 10),
        objective=objectives.hide_top_k(TOP), constraint=attack.linf(config.attack_epsilon),
        surrogate=robustness.surrogate_of(act))
    images = machines.spread(images)
    found = hide(network.model, images, key=jax.random.key(config.seeds))
    keys = jax.random.split(jax.random.key(0), len(images))
    softened = jax.jit(jax.vmap(lambda x, y, key: explain.heatmap(smoothed(network.model, x, y, key=key))))
    maps = found.clean.heatmap, softened(images, found.clean.logits.argmax(1), keys)
    alike = jax.jit(jax.vmap(lambda a, b: metrics.ssim(a, b)))
    return {"top_intersection": jax.vmap(partial(metrics.top_k_intersection, k=TOP))(found.heatmap, maps[0]),
            "spearman": jax.vmap(metrics.spearman)(found.heatmap, maps[0]), "smoothness": alike(*maps)}


def main(config: Config) -> None:
    console = Console()
    if config.quick:
        config = dataclasses.replace(config, radii=config.radii[:1], steps=2, count=2)
    runs.check_positive(config, "count", "steps", "seeds", "attack_epsilon", "radii")
    taken, base = study.shared(config)
    taken |= {"epsilons": (config.attack_epsilon,)}
    of = lambda defence, **options: training.Config(**taken | options | {"defence": defence})
    variants = {"plain": of("plain"), "softplus": of("softplus"),
                **{f"atex {r:g}": of("atex", epsilon=r) for r in config.radii}}
    out, settings = runs.begin("atex2022", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    trained = study.trainings(variants, config.seeds, out, console, base=base)
    images = training_data.read(base).test_images[:config.count]
    found = {}
    for name, variant in variants.items():
        values = [runs.finished(out, seed, lambda v=variant, n=name, s=seed: evaluated(
            config, out / f"{n}-{s}" / "weights.safetensors", RECIPES[v.defence].act(v.beta), images), name=name)
            for seed in range(config.seeds)]
        found[name] = {m: np.mean([v[m] for v in values], 0) for m in values[0]} | {
            "accuracy": trained[name]["accuracy"].mean(0)}
    rows = {name: report.summary(values, 0, mean=("accuracy",)) for name, values in found.items()}
    files.write_arrays(out / "arrays.npz", {f"{n}/{m}": v for n, by in found.items() for m, v in by.items()})
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "results": rows})
    console.print(report.grid(
        ("training", *(f"{report.words(m)}\n{hint}" for m, hint in HINTS.items())),
        [(report.words(name), *(report.cell(row[m]) for m in HINTS)) for name, row in rows.items()]))


def run(arguments=None) -> None:
    runs.command("atex2022", Config, main, __doc__, arguments)
