"""All defences side by side: what each costs in accuracy and what an attack that knows it still does to the map.

    python experiments/reproduce.py defences
    python experiments/reproduce.py defences --quick        # without data: does everything run?

For each seed a plain network is trained on MNIST or CIFAR-10 (--base-epochs), and every defence of
common/defence_recipes.py goes on from it for --epochs more, plain training too; each is judged as in train.py. --full:
the schedules of the papers, for an accelerator. The run folder gets results.json (medians over the test images with
bootstrap intervals, and the values of each seed), table.md, arrays.npz and figure.png; finished trainings are kept, and
--resume goes on.

Run time: about 2 hours on 2 cores for all eleven and three seeds; the result is README's table.
"""

import dataclasses
from typing import Annotated

from rich.console import Console

from common import runs, study, training
from common.defence_recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Config(study.Protocol):
    """The comparison."""

    names: Annotated[tuple[str, ...], runs.choices("The defences, plain among them", RECIPES)] = (
        "plain", "weight_decay", "softplus", "hessian", "gradient_alignment", "cure", "atex", "lcnn", "int", "int_adv",
        "adversarial")
    seeds: int = 3
    """Number of seeds; each makes a network of every kind."""
    beta: float = 5.0
    """Sharpness of softplus in the defences that are smooth; where that of lcnn begins."""
    epsilon: float = 0.1
    """Largest change of any pixel, which is in [0, 1], in training."""
    inner: int = 5
    """Number of steps of each inner maximisation of a defence."""
    epsilons: tuple[float, ...] = (0.05, 0.1)
    """Largest changes of any pixel, which is in [0, 1], in the attacks that judge."""
    count: int = 100
    """Number of test images that are attacked."""
    restarts: int = 2
    """Number of random starts of each attack, at least 2."""
    full: bool = False
    """The schedules of the papers: all images, 20 + 20 epochs, 40 inner steps, 1000 attacked images, 5 restarts."""


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is computed."""
    if config.full:
        config = dataclasses.replace(config, train_images=60_000, base_epochs=20, epochs=20, inner=40, count=1000,
                                     restarts=5)
    if config.quick:
        config = dataclasses.replace(config, names=("plain", "hessian", "atex"), seeds=1, epsilons=(0.1,))
    runs.check_known("defence", config.names, RECIPES)
    if "plain" not in config.names:
        raise ValueError(f"the others are compared with plain: --names has it, got {', '.join(config.names)}")
    if config.seeds < 1:
        raise ValueError(f"--seeds is at least 1, got {config.seeds}")
    return config


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    shared, base = study.shared(config)
    variants = {name: training.Config(**shared, defence=name) for name in config.names}
    study.carry_out("defences", config, variants, base, console)


def run(arguments=None) -> None:
    runs.command("defences", Config, main, __doc__, arguments)
