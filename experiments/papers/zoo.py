"""The zoo: small networks that defences.py trained, each with a model card.

    python experiments/reproduce.py zoo --study runs/defences        # copies the networks of seed 0, writes their cards

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
part of the set that 2 cores can train, hence the accuracy.

Intervals: 95 %, bootstrap over the test images. adversarial accuracy: 20 sign steps on the cross entropy within
epsilon; map change: the largest 1 - Pearson correlation of the gradient's heat map that an attack finds within epsilon,
the prediction staying (experiments/train.py). What each card holds besides is in cards.json.

"""


def card(folder: Path) -> dict:
    """What is known of a finished run of train.py."""
    found = files.read_json(folder / "results.json")
    config = found["config"]
    recipe = RECIPES[config["defence"]]
    return {"defence": config["defence"], "beta": config["beta"],
            "weight": recipe.weight if config["weight"] is None else config["weight"], "seed": config["seed"],
            "command": "python experiments/reproduce.py defences", "training": config, "commit": found["commit"],
            "versions": found["versions"], "device": found["device"],
            "metrics": found["metrics"]}


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

    study: Path
    """The run folder of a finished study `defences`."""


def main(config: Config) -> None:
    study = files.read_json(config.study / "config.json")
    folders = {f"{study['dataset']}_{f.name[:-2]}": f for f in sorted(config.study.glob("*-0"))
               if (f / "results.json").is_file() and not f.name.startswith("base")}
    if not folders:
        raise ValueError(f"{config.study} holds no finished training of seed 0")
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
