"""Five neighbours of the five papers, one short experiment each, on the zoo's MNIST networks.

    XMANIP_DATA=<data folder> python experiments/reproduce.py neighbours
    python experiments/reproduce.py neighbours --quick        # without data: does everything run?

second_order: does SmoothHess (Torop et al. 2023) predict a relu network better than softplus' gradient and Hessian?
fragility: the three attacks of Ghorbani et al. 2019, side by side. sparse: how many pixels an attack needs
(Ajalloeian et al. 2023). worst_case: what searches without gradients find; probability: how probable a changed map
is, by subset simulation and by sampling (both Huang et al. 2023). defended: what training for a ranking, narrow
intervals or steady attributions does to thickness and certificates (Chen et al. 2024, Wicker et al. 2023, Chen et al.
2019, Ivankay et al. 2021).

The run folder gets results.json, with the value of every image; what is finished is kept in parts/, and --resume goes
on after it.

Run time: about 15 minutes on 2 cores.
"""

import dataclasses
from typing import Annotated

import numpy as np
from rich.console import Console

from common import files, report, runs
from papers import neighbours_attacks, neighbours_measures
from xmanip_jax import data

PARTS = {"second_order": neighbours_measures.second_order, "fragility": neighbours_attacks.fragility,
         "sparse": neighbours_attacks.sparse, "worst_case": neighbours_attacks.worst_case,
         "probability": neighbours_measures.probability, "defended": neighbours_measures.defended}


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """Short experiments."""

    parts: Annotated[tuple[str, ...], runs.choices("Which of them", PARTS)] = tuple(PARTS)
    count: int = 20
    """Number of test images, the first ones."""
    epsilon: float = 0.1
    """Largest change of any pixel, which is in [0, 1], in the attacks."""
    quick: bool = False
    """Random images and few steps: does everything run?"""


def main(config: Config) -> None:
    console = Console()
    if config.quick:
        config = dataclasses.replace(config, count=2)
    runs.check_positive(config, "count", "epsilon")
    runs.check_known("part", config.parts, PARTS)
    out, settings = runs.begin("neighbours", config)
    images = data.load_dataset("mnist", "test", limit=config.count)[0] if not config.quick else np.float32(
        np.random.default_rng(0).uniform(size=(config.count, 28, 28, 1)))
    runs.same_inputs(out, {"the images": images})
    rows, values = {}, {}
    for part in config.parts:
        for name, compute in PARTS[part](config, images).items():
            found = runs.finished(out, 0, compute, name=f"{part}-{name}")
            shares = [m for m, v in found.items() if set(np.unique(v)) <= {0.0, 1.0}]
            rows[f"{part}/{name}"] = report.summary(found, config.seed, mean=shares)
            values[f"{part}/{name}"] = {m: np.round(np.float64(v), 6).tolist() for m, v in found.items()}
            console.print(f"{part}, {name}:", *(f"{m} {row['value']:.3g}" for m, row in
                                                rows[f"{part}/{name}"].items()))
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "results": rows,
                                            "per_image": values})


def run(arguments=None) -> None:
    runs.command("neighbours", Config, main, __doc__, arguments)
