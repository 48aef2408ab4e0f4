"""The evaluation of Boopathy et al. 2020: robust classification (ATA) and robust interpretation (AAI) of networks.

    XMANIP_DATA=<data folder> python experiments/reproduce.py boopathy2020
    python experiments/reproduce.py boopathy2020 --quick        # without data or weights

ATA: accuracy under projected gradient ascent on the cross entropy, steps of 0.01 by the sign, from the image itself.
AAI: the mass of the true class's CAM on its clean top cells is minimised, from a random start; the mean Kendall tau of
clean and attacked map over the images whose prediction stays, and how many those are. Within epsilon of each pixel.

Deviations from the paper: the first images of the test split in its own order, not 200 random ones; the released
evaluation's evident defects (specs of the authors' code: a swallowed exception scores an image) have no counterpart.
The run folder gets results.json, with the value of every image; what is finished is kept in parts/, and --resume goes
on after it.

Run time: 2.5 minutes for each network on 2 cores (200 images, 5 epsilons, 100 and 200 steps).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from common import files, inputs, machines, report, robustness, runs
from xmanip_jax import certify, data, explain, metrics, train

CAM = explain.cam("features")
STEP = 0.01


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """ATA and AAI of networks."""

    networks: tuple[str, ...] = tuple(f"mnist_smallgap_{n}" for n in (
        "normal", "adv", "trades", "int", "intone", "intadv", "int2", "int2adv", "ig", "igsum"))
    """Names of networks/boopathy2020 in the data folder, all of one data set, which their names begin with."""
    epsilons: tuple[float, ...] = (0.1, 0.2, 0.3, 0.35, 0.4)
    """Largest changes of any pixel, which is in [0, 1]."""
    count: int = 200
    """Number of images that are attacked; the clean accuracy is that of the whole split."""
    ata_steps: int = 100
    """Number of steps of the attack on the classification."""
    aai_steps: int = 200
    """Number of steps of the attack on the interpretation."""
    k: int = 8
    """Number of cells of the map that the interpretation attack empties."""
    quick: bool = False
    """Random images, a random network, few steps: does everything run?"""


def ata_step(model, x, z, y, epsilon):
    return robustness.climbed(model, x, y, z, epsilon, STEP)


@partial(jax.jit, static_argnums=5)
@partial(jax.vmap, in_axes=(None, 0, 0, 0, None, None))
def aai_step(model, x, z, y, epsilon, k):
    top = jax.lax.top_k(CAM(model, x, y).ravel(), k)[1]
    mass = lambda z: -CAM(model, z, y).ravel()[top].sum()
    return train.sign_step(mass, z, certify.ball(x, epsilon, 0, 1), STEP)


@jax.jit
@partial(jax.vmap, in_axes=(None, 0))
def predicted(model, x):
    return model(x).argmax()


@jax.jit
@partial(jax.vmap, in_axes=(None, 0, 0, 0))
def tau(model, x, z, y):
    return metrics.kendall(CAM(model, x, y).ravel(), CAM(model, z, y).ravel())


def evaluated(config, network, images, labels):
    """{measure: Float[images]} of one network; the correlation is nan where the prediction did not stay."""
    model, classes = network.model, partial(predicted, network.model)
    right = [np.asarray(classes(images[i:i + 1000])) == labels[i:i + 1000] for i in range(0, len(images), 1000)]
    found = {"accuracy": np.float32(np.concatenate(right))}
    x, y = machines.spread((jnp.asarray(images[:config.count]), labels[:config.count]))
    clean = np.asarray(classes(x))
    noise = jax.random.uniform(jax.random.key(config.seed), x.shape, minval=-1)
    for epsilon in config.epsilons:
        z = x
        for _ in range(config.ata_steps):
            z = ata_step(model, x, z, y, epsilon)
        found[f"ata@{epsilon:g}"] = np.float32(np.asarray(classes(z)) == y)
        z = jnp.clip(x + epsilon * noise, 0, 1)
        for _ in range(config.aai_steps):
            z = aai_step(model, x, z, y, epsilon, config.k)
        stays = np.asarray(classes(z)) == clean
        found[f"aai@{epsilon:g}"] = np.where(stays, tau(model, x, z, y), np.nan)
    return found


def main(config: Config) -> None:
    console = Console()
    if config.quick:
        config = dataclasses.replace(config, networks=("random",), epsilons=(0.1,), count=4, ata_steps=2, aai_steps=2)
    runs.check_positive(config, "count", "ata_steps", "aai_steps", "k", "epsilons")
    if config.quick:
        rng = np.random.default_rng(config.seed)
        images, labels = rng.uniform(size=(8, 32, 32, 3)).astype(np.float32), rng.integers(0, 10, 8)
    else:
        images, labels = data.load_dataset("cifar10" if config.networks[0].startswith("cifar") else "mnist", "test")
    out, settings = runs.begin("boopathy2020", config)
    rows, values = {}, {}
    for name in config.networks:
        network = inputs.network(name, quick=config.quick, seed=config.seed)
        inputs.note(out, name, network, ["the images"], [images], labels)
        kept = runs.finished(out, 0, partial(evaluated, config, network, images, labels), name=name)
        rows[name] = report.summary(kept, config.seed, mean=kept)
        values[name] = {k: np.round(np.float64(v), 4).tolist() for k, v in kept.items() if k != "accuracy"}
        console.print(name, " ".join(f"{k} {v['value']:.3f}" for k, v in rows[name].items()))
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "results": rows,
                                            "per_image": values})
    measures = [f"{m}@{e:g}" for m in ("ata", "aai") for e in config.epsilons]
    console.print(report.grid(
        ("network", "accuracy", *(m.upper().replace("@", " ") for m in measures)),
        [(report.words(name), f"{row['accuracy']['value']:.4f}", *(f"{row[m]['value']:.3f}" for m in measures))
         for name, row in rows.items()]))


def run(arguments=None) -> None:
    runs.command("boopathy2020", Config, main, __doc__, arguments)
