"""Train a network with a defence, and judge it by an attack on its explanation that knows it.

    python experiments/train.py --defence plain --out runs/plain
    python experiments/train.py --defence hessian --start runs/plain/weights.safetensors
    python experiments/train.py --defence hessian --model net.py:network --dataset cifar10
    python experiments/train.py --defence hessian --model net.py:network --images photos/
    python experiments/train.py --defence plain --quick       # without data: does everything run?

The Small network of Boopathy et al. 2020 on MNIST or CIFAR-10, from scratch or from the weights of another run; or
another of the project's networks, or one of your own (docs/howto/own-network-in-the-jobs.md), as a function of the
pixels, from the weights it comes with, its activations replaced by softplus where the defence needs a smooth network.
--images names a folder with a subfolder for each class, called as the network calls its classes or in their order. The
defences are those of common/defence_recipes.py; --beta is the sharpness of the softplus in those that need a smooth
network. Judged on the test split: accuracy; and at each of --epsilons, a budget for every pixel, the accuracy under 20
sign steps on the cross entropy, and the change of the gradient map of the label, 1 - Pearson correlation, that
`attack.largest_change` reaches while the prediction stays, 20 steps from each of --restarts random starts. It climbs
the network itself; a relu network, whose gradient map is piecewise constant, it climbs on its softplus. At the last of
--epsilons a random search that sees no gradient judges the ascent (`attack.flags`).

The run folder gets log.csv, weights.safetensors, results.json, arrays.npz (a value for each judged image), report.html,
which shows it all and opens in any browser, and checkpoints/; killed, --resume goes on, to the same bits. Run time: 1
minute on 2 cores for plain, 8 for atex. Results: README, zoo/README.md.
"""

import common.program  # isort: skip  # noqa: F401  (first: Ctrl-C during the other imports)

from rich.console import Console

from common import runs, training, training_report
from common.defence_recipes import RECIPES
from common.training import Config


def main(config: Config) -> None:
    console, config = Console(), training.checked(config)
    own = training.chosen(config)
    if own:
        training.own_start(config, RECIPES[config.defence], own)  # refuses what it cannot train
    out, settings = runs.begin(config.defence, config)
    console.print(f"run folder: [bold]{out}[/bold]")
    rows = training.train_and_judge(config, out, settings, console, own)
    console.print(training_report.table(rows))
    console.print(f"results.json, arrays.npz, weights.safetensors and report.html are in [bold]{out}[/bold]")


def run(arguments=None) -> None:
    runs.command("train", Config, main, __doc__, arguments)


if __name__ == "__main__":
    run()
