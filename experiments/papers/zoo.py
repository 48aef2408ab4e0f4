"""The zoo: small networks that defences.py and transformers_training.py trained, each with a model card.

    python experiments/reproduce.py zoo --study runs/defences        # copies the networks of seed 0, writes their cards
    python experiments/reproduce.py zoo --transformer runs/mnist_vit

zoo/<name>.safetensors, zoo/cards.json (command, commit, versions, seed, accuracy, robustness with intervals) and
zoo/README.md, the cards as a table. Experiments take these networks by name, as in

    python experiments/curvature.py --networks mnist_hessian mnist_int
"""

import dataclasses
import shutil
from pathlib import Path

from common import files, program, report, runs
from common.defence_recipes import NETWORKS, RECIPES
from common.zoo import FOLDER, cards

ABOUT = """# Networks trained with defences

The Small network of Boopathy et al. 2020. A plain network is trained on 12000 images for 3 epochs, and each defence
goes on from it for 2 (batch 50, Adam, 5 inner steps, softplus beta 5; LCNN from scratch for 5); seed 0. CIFAR-10: a
part of the set that 2 cores can train, hence the accuracy. The networks with attention, vit and cct, are trained on all
of the training split and without a defence (experiments/papers/transformers_training.py).

Intervals: 95 %, bootstrap over the test images. adversarial accuracy: 20 sign steps on the cross entropy within
epsilon; map change: the largest 1 - Pearson correlation of the gradient's heat map that an attack finds within epsilon,
the prediction staying (experiments/train.py). What each card holds besides is in cards.json.

"""


def card(folder: Path) -> dict:
    """What is known of a finished run of train.py, or of the study that trains transformers."""
    found = files.read_json(folder / "results.json")
    config = found["config"]
    if "defence" in config:
        weight = RECIPES[config["defence"]].weight if config["weight"] is None else config["weight"]
        trained = {"defence": config["defence"], "beta": config["beta"], "weight": weight}
        command = "defences"
    else:
        trained = {"defence": "plain", "weight": RECIPES["plain"].weight}
        command = f"transformers_training --network {config['network']}"
    return {**trained, "seed": config["seed"], "command": f"python experiments/reproduce.py {command}",
            "training": config, "commit": found["commit"], "versions": found["versions"], "device": found["device"],
            "metrics": found["metrics"]}


def finished(config) -> dict[str, Path]:
    """{name in the zoo: the run folder of its training}."""
    if config.transformer:
        folder = config.transformer
        if not (folder / "results.json").is_file():
            raise ValueError(f"{folder} holds no finished training")
        return {files.read_json(folder / "config.json")["network"]: folder}
    study = files.read_json(config.study / "config.json")
    folders = {f"{study['dataset']}_{f.name[:-2]}": f for f in sorted(config.study.glob("*-0"))
               if (f / "results.json").is_file() and not f.name.startswith("base")}
    if not folders:
        raise ValueError(f"{config.study} holds no finished training of seed 0")
    return folders


def table(known: dict[str, dict]) -> str:
    """Markdown: a line for each card."""
    measures = list(next(iter(known.values()))["metrics"])
    head = ["network", "training", "weight", *(m.replace("_", " ").replace("@", " at ") for m in measures)]
    return report.markdown(head, ([name, of["defence"].replace("_", " "), f"{of['weight']:g}",
                                   *(report.interval(row, 3) for row in of["metrics"].values())]
                                  for name, of in known.items()))


@dataclasses.dataclass(frozen=True)
class Config:
    """Fill the zoo."""

    study: Path | None = None
    """The run folder of a finished study `defences`."""
    transformer: Path | None = None
    """The run folder of a finished `transformers_training`, in the place of --study."""


def main(config: Config) -> None:
    if (config.study is None) == (config.transformer is None):
        raise ValueError("the zoo is filled from one of --study and --transformer")
    folders = finished(config)
    FOLDER.mkdir(exist_ok=True)
    for name, folder in folders.items():
        with program.WHOLE:
            shutil.copyfile(folder / "weights.safetensors", FOLDER / f"{name}.safetensors")
    known = cards() | {name: card(folder) for name, folder in folders.items()}
    files.write_json(FOLDER / "cards.json", known)
    tables = [f"## {d}\n\n" + table({name: c for name, c in known.items() if name.startswith(d)})
              for d in NETWORKS if any(name.startswith(d) for name in known)]
    files.write_text(FOLDER / "README.md", ABOUT + "\n".join(tables))


def run(arguments=None) -> None:
    runs.command("zoo", Config, main, __doc__, arguments)
