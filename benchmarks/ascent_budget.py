"""Has the search for the largest change converged? Its standard budget beside ten times as many gradients.

    python benchmarks/ascent_budget.py            # 15 minutes on 2 quiet cores
    python benchmarks/ascent_budget.py --quick    # a smoke test

`attack.largest_change` of the gradient map within 0.1 of each pixel, as it comes, on networks that Boopathy et al. 2020
trained on MNIST, and with ten times as many restarts; the flags of the first with the second as `longer`. The relu
networks are climbed on their softplus; "softplus" is the plain one smoothed for good (kappa 2), climbed itself. Writes
results/ascent_budget.json and .md after each network, with the change of every image.
"""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import tyro

from xmanip_jax import attack, data, explain, models, smooth

sys.path.insert(0, str(Path(__file__).parent.parent / "experiments"))
from common import files, report, runs

NETWORKS = {"plain": "normal", "Int": "int", "adversarial": "adv", "softplus": "normal"}


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare budgets."""

    count: int = 20
    """Number of test images."""
    epsilon: float = 0.1
    """Largest change of any pixel, which is in [0, 1]."""
    steps: int = 50
    """Number of steps from each start."""
    restarts: int = 4
    """Number of random starts; ten times as many are compared with them."""
    quick: bool = False
    """Two images, two steps, the plain network."""
    out: Path = Path(__file__).parent / "results" / "ascent_budget.json"


def model_of(name):
    """The network, at pixels."""
    network = models.load("small_cnn", data.data_dir() / "networks/boopathy2020" /
                          f"mnist_smallgap_{NETWORKS[name]}.safetensors")
    if name != "softplus":
        return network.model
    image, _ = data.load_dataset("mnist", "test", limit=1)
    return smooth.softplus(network.model, 2 / smooth.activation_scales(network.model, image[0]))


def compared(model, images, config):
    """The changes of every image within both budgets, and the flags."""
    search = lambda restarts: attack.largest_change(explain.gradient(), epsilon=config.epsilon, steps=config.steps,
                                                    restarts=restarts)
    found, longer = (search(n)(model, images, key=jax.random.key(n)) for n in (config.restarts, 10 * config.restarts))
    best = np.maximum(found.change, longer.change)
    return {"change": np.asarray(found.change).tolist(), "longer": np.asarray(best).tolist(),
            "gradients": [found.evaluations, longer.evaluations],
            "medians": [float(np.median(found.change)), float(np.median(best))],
            "means": [float(np.mean(found.change)), float(np.mean(best))],
            "flags": {name: flag._asdict() for name, flag in attack.flags(found, longer=longer)._asdict().items()}}


def table(results):
    """A line for each network."""
    head = ["network", "standard budget, median", "ten times as much", "more", "mean", "ten times as much", "more"]
    lines = []
    for name, of in results.items():
        (a, b), (c, d) = of["medians"], of["means"]
        lines.append([name, f"{a:.3f}", f"{b:.3f}", f"{b / a - 1:.1%}", f"{c:.3f}", f"{d:.3f}", f"{d / c - 1:.1%}"])
    return report.markdown(head, lines)


def main(config: Config) -> None:
    names = NETWORKS
    if config.quick:
        names, config = ["plain"], dataclasses.replace(config, count=2, steps=2, restarts=2)
    images, _ = data.load_dataset("mnist", "test", limit=config.count)
    results = {}
    for name in names:
        results[name] = compared(model_of(name), images, config)
        files.write_json(config.out, {"config": runs.settings(config), **runs.environment(), "results": results})
        files.write_text(config.out.with_suffix(".md"), table(results))
        print(table(results))


if __name__ == "__main__":
    main(tyro.cli(Config))
