"""Does adversarial training gain from starting at a network that ATEX made stable? Claim 6 of Tang et al. 2022.

    XMANIP_DATA=<data folder> python experiments/reproduce.py atex2022_adversarial
    python experiments/reproduce.py atex2022_adversarial --quick

The zoo's ATEX network of MNIST and the softplus network that had as many epochs go on by adversarial training with one
inner step (FGSM) and with several (PGD); then accuracy under attack and the change of the gradient's map.

The run folder gets results.json, arrays.npz, table.md and figure.png; --resume goes on. Run time: 8 minutes on 2 cores.
"""

import dataclasses

from rich.console import Console

from common import files, report, runs, study, training
from common.zoo import FOLDER

STARTS = ("softplus", "atex")
INNER = {"fgsm": 1, "pgd": 7}


@dataclasses.dataclass(frozen=True)
class Config(study.Protocol):
    """Adversarial training from two starts."""

    beta: float = 5.0
    """Sharpness of softplus: that of the zoo's networks."""
    epsilon: float = 0.1
    """Largest change of any pixel, which is in [0, 1], in training."""
    epsilons: tuple[float, ...] = (0.05, 0.1)
    """Largest changes of any pixel, which is in [0, 1], in the attacks that judge."""
    count: int = 200
    """Number of test images that are attacked."""
    restarts: int = 2
    """Number of random starts of each attack, at least 2."""
    seeds: int = 2
    """Number of seeds of the adversarial training; the networks it starts from are of seed 0."""


def main(config: Config) -> None:
    console = Console()
    if config.quick:
        config = dataclasses.replace(config, seeds=1, epsilons=(0.1,), count=2)
    runs.check_positive(config, "count", "seeds", "epsilon", "epsilons")
    taken, _ = study.shared(config)
    variants = {f"{kind} from {start}": training.Config(**taken | {
        "defence": "adversarial_smooth", "inner": inner, "start": FOLDER / f"mnist_{start}.safetensors"})
        for kind, inner in INNER.items() for start in STARTS}
    out, settings = runs.begin("atex2022_adversarial", config)
    found = study.trainings(variants, config.seeds, out, console)
    rows = {}
    for kind in INNER:
        rows |= study.summary({v: found[v] for v in found if v.startswith(kind)}, 0, plain=f"{kind} from softplus")
    files.write_arrays(out / "arrays.npz", {f"{n}/{m}": v for n, by in found.items() for m, v in by.items()})
    files.write_json(out / "results.json", {
        "config": settings, **runs.environment(), "results": rows,
        "per_image": {n: {m: v.mean(0).round(4).tolist() for m, v in by.items() if m != "accuracy"}
                      for n, by in found.items()}})
    files.write_text(out / "table.md", study.markdown(rows, config.epsilons))
    files.save_figure(study.figure(rows, config.epsilons), out / "figure.png")
    console.print(report.grid(("training", "accuracy", *(f"under attack at {e:g}" for e in config.epsilons)), [
        (name, report.cell(row["accuracy"]), *(report.cell(row[f"adversarial_accuracy@{e:g}"])
                                               for e in config.epsilons)) for name, row in rows.items()]))


def run(arguments=None) -> None:
    runs.command("atex2022_adversarial", Config, main, __doc__, arguments)
