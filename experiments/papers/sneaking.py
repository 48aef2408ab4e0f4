"""How little can the explanation change when the prediction is made wrong? The sneaking attack of Boopathy et al. 2020.

    XMANIP_DATA=<data folder> python experiments/reproduce.py sneaking
    python experiments/reproduce.py sneaking --quick        # without data or weights

Networks that the paper's authors trained on MNIST, their CAMs, random targets, the first images of the test split.
The distance that the attack holds down is that of both classes' maps, which proposition 1 keeps from 0, or that of the
label's map alone. For each multiple of the smallest epsilon: the distance over the range of the clean map, and the
Kendall and Pearson correlations of the label's clean and attacked map; medians over the images on which the attack
succeeds, the others are counted.

The run folder gets results.json and arrays.npz; what is finished is kept in parts/, and --resume goes on after it.

Result (experiments/results/sneaking_mnist.json), normalised slope with its 95 % interval: how much of the change the
attack saves when it may move further. Both classes' maps hardly let it save any on the plain network (0.014, 0.005 to
0.026) and on Int (0.002, 0 to 0.02), the label's map alone does (0.11, 0.08 to 0.13, and 0.19, 0.01 to 0.41); on the
adversarially trained one 0.11 (0.05 to 0.23) and 0.22 (0.14 to 0.44). The attack succeeds on all images of the plain
network, on 67 % of the other two. Run time: 4 minutes on 2 cores.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from common import batches, files, inputs, machines, report, runs
from xmanip_jax import attack, data, defend, explain, metrics

CAM = explain.cam("features")


def label_alone(e, f, x, z, classes):
    """||I(x, t) - I(z, t)||_1 for the label t."""
    return jnp.abs(e(f, x, classes[0]) - e(f, z, classes[0])).sum()


DISTANCES = {"two classes": defend.two_class_discrepancy, "label alone": label_alone}


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """The sneaking attack on networks."""

    networks: tuple[str, ...] = tuple(f"mnist_smallgap_{n}" for n in ("normal", "adv", "int"))
    """Names of networks/boopathy2020 in the data folder, of MNIST."""
    count: int = 30
    """Number of images, the first ones of the test split."""
    multiples: tuple[float, ...] = (1.0, 1.5, 2.0, 4.0)
    """Multiples of each image's smallest epsilon, ascending from at least 1."""
    rounds: int = 10
    """Number of rounds of each bisection."""
    quick: bool = False
    """Random images, a random network, few rounds: does everything run?"""


@jax.jit
@jax.vmap
def correlations(a, b):
    return metrics.kendall(a.ravel(), b.ravel()), metrics.pearson(a, b)


def attacked(config, network, distance, images):
    """{measure: Float[multiples, n] or Float[n]} of one network and distance."""
    labels = batches.predict(network, images)
    shift = np.random.default_rng(config.seed).integers(1, network.num_classes, len(images))
    images = machines.spread(images)
    sneak = attack.sneaking(CAM, distance, multiples=config.multiples, rounds=config.rounds,
                            preprocess=network.preprocess)
    found = sneak(network.model, images, (labels + shift) % network.num_classes, labels=labels,
                  key=jax.random.key(config.seed))
    maps = jax.jit(jax.vmap(lambda p, y: CAM(network.model, network.preprocess(p), y)))
    clean = maps(images, labels)
    tau, r = zip(*(correlations(clean, maps(z, labels)) for z in found.pixels), strict=True)
    keep = lambda values: np.where(found.success, np.stack(values), np.nan)
    return {"success": found.success, "epsilon": found.epsilon, "gamma": found.gamma, "distance": found.normalised,
            "kendall": keep(tau), "pearson": keep(r), "slope": found.slope}


def summarised(config, arrays):
    """{measure@multiple: its summary}."""
    numbers = {"slope": arrays["slope"]}
    for i, multiple in enumerate(config.multiples):
        numbers |= {f"{m}@{multiple:g}": np.float32(arrays[m][i]) for m in (
            "success", "epsilon", "gamma", "distance", "kendall", "pearson")}
    return report.summary(numbers, config.seed, mean=[n for n in numbers if n.startswith("success")])


def main(config: Config) -> None:
    console = Console()
    if config.quick:
        config = dataclasses.replace(config, networks=("random",), count=2, multiples=(1.0, 2.0), rounds=2)
    runs.check_positive(config, "count")
    attack.sneaking(CAM, label_alone, multiples=config.multiples, rounds=config.rounds)  # refuses what it refuses
    if config.quick:
        images = np.random.default_rng(config.seed).uniform(size=(2, 32, 32, 3)).astype(np.float32)
    else:
        images = data.load_dataset("mnist", "test", limit=config.count)[0]
    out, settings = runs.begin("sneaking", config)
    everything, rows, lines = {}, {}, []
    first, columns = f"@{config.multiples[0]:g}", [f"at {m:g} x" for m in config.multiples]
    for name in config.networks:
        network = inputs.network(name, quick=config.quick, seed=config.seed)
        inputs.note(out, name, network, ["the images"], [images])
        for kind, distance in DISTANCES.items():
            arrays = runs.finished(out, 0, partial(attacked, config, network, distance, images),
                                   name=f"{name}-{kind.replace(' ', '_')}")
            row = rows[f"{name}/{kind}"] = summarised(config, arrays)
            everything |= {f"{name}/{kind}/{m}": v for m, v in arrays.items()}
            value = lambda measure, row=row: row[measure]["value"]
            lines.append((report.words(name), kind, f"{value('success' + first):.0%}",
                          f"{value('epsilon' + first):.3f}",
                          *(f"{value(f'distance@{m:g}'):.2f}" for m in config.multiples), f"{value('slope'):.3f}"))
            console.print(f"{name}, {kind}: done")
    files.write_arrays(out / "arrays.npz", everything)
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "results": rows})
    console.print(report.grid(("network", "distance", "succeeds", "epsilon", *columns, "slope"), lines,
                              title="epsilon, and the normalised distance at multiples of it"))


def run(arguments=None) -> None:
    runs.command("sneaking", Config, main, __doc__, arguments)
