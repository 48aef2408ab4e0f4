"""Accuracy against robust explanations: the three defences of Dombrowski et al. 2022, each over its strength.

    python experiments/reproduce.py dombrowski2022
    python experiments/reproduce.py dombrowski2022 --quick        # without data: does everything run?

Weight decay, softplus with ever smaller beta, and the penalty on the Hessian (softplus, beta 5) with ever more weight,
each going on from the plain network of its seed, and judged as in train.py. The bounds of the paper say that all three
lower the largest change of an explanation: by the norms of the weights, by the largest second derivative of the
activation, by the curvature itself. The run folder gets results.json, table.md, arrays.npz and figure.png; finished
trainings are kept, and --resume goes on.

Run time: about 20 minutes on 2 cores. Result (one seed, MNIST): at epsilon 0.05 the map changes by 0.73 (plain), 0.65
(weight decay 1), 0.33 to 0.03 (beta 20 to 1) and 0.10 to 0.06 (weight 0.0001 to 0.01), at accuracies of 0.970, 0.965,
0.970 to 0.949 and 0.967 to 0.959.
"""

import dataclasses

from rich.console import Console

from common import runs, study, training


@dataclasses.dataclass(frozen=True)
class Config(study.Protocol):
    """The sweeps."""

    decays: tuple[float, ...] = (0.1, 0.3, 1.0)
    """Strengths of decoupled weight decay."""
    betas: tuple[float, ...] = (20.0, 5.0, 2.0, 1.0)
    """Sharpnesses of softplus."""
    weights: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    """Weights of the Hessian penalty."""
    epsilons: tuple[float, ...] = (0.05, 0.1)
    """Largest changes of any pixel, which is in [0, 1], in the attacks that judge."""
    count: int = 100
    """Number of test images that are attacked."""
    restarts: int = 2
    """Number of random starts of each attack, at least 2."""


def main(config: Config) -> None:
    console = Console()
    if config.quick:
        config = dataclasses.replace(config, decays=(0.1,), betas=(5.0,), weights=(1e-3,), epsilons=(0.1,))
    shared, base = study.shared(config)
    of = lambda defence, **options: training.Config(**shared, defence=defence, **options)
    variants = {"plain": of("plain"), **{f"weight_decay {w:g}": of("weight_decay", weight=w) for w in config.decays},
                **{f"softplus beta {b:g}": of("softplus", beta=b) for b in config.betas},
                **{f"hessian {w:g}": of("hessian", weight=w) for w in config.weights}}
    study.carry_out("dombrowski2022", config, variants, base, console)


def run(arguments=None) -> None:
    runs.command("dombrowski2022", Config, main, __doc__, arguments)
