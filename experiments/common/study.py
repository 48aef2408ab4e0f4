"""Many trainings judged alike: variants of training.Config over seeds, each finished one kept."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from rich.table import Table

from common import files, report, runs, training, training_data
from common.defence_recipes import RECIPES
from xmanip_jax import metrics, plot

Found = Mapping[str, Mapping[str, np.ndarray]]  # {variant: {measure: Float[seeds, n]}}


@dataclasses.dataclass(frozen=True)
class Protocol(runs.Run):
    """How the networks of a study are trained: a plain one for each seed, from which the variants go on."""

    dataset: Literal["mnist", "cifar10"] = "mnist"
    """The data set to train and judge on."""
    seeds: int = 1
    """Number of seeds; each makes a network of every kind."""
    train_images: int = 12_000
    """Number of images to train on, the first ones of the training split."""
    base_epochs: int = 3
    """Number of passes over the training images for the plain network."""
    epochs: int = 2
    """Number of passes over the training images for what goes on from it."""
    batch: int = 50
    """Number of images of a training step."""
    base_learning_rate: float = 4e-3
    """Learning rate of the plain network's first step, decayed to 0 by a cosine."""
    learning_rate: float = 2e-3
    """Learning rate of the first step of what goes on from it, decayed to 0 by a cosine."""
    quick: bool = False
    """Random images, a few steps, fewer networks: does everything run?"""


def carry_out(name: str, config: Protocol, variants: Mapping[str, training.Config], base: training.Config,
              console) -> None:
    """A whole study in its run folder; config.epsilons are those of the attacks."""
    out, settings = runs.begin(name, config)
    console.print(f"run folder: [bold]{out}[/bold]")
    found = trainings(variants, config.seeds, out, console, base=base)
    rows = write(out, settings, found, config.epsilons, console)
    files.save_figure(figure(rows, config.epsilons), out / "figure.png")


def trainings(variants: Mapping[str, training.Config], seeds: int, out: Path, console, *,
              base: training.Config | None = None) -> Found:
    """Train and judge every variant from seeds 0, 1, ...; folders <out>/<variant>-<seed>, read back when finished.

    base: the plain network that the variants of a seed go on from; those with another network train from scratch, for
    the epochs of both and at the base's rate. None: each from scratch, or from its own start.

    Raises runs.RunError where those that are finished were trained on other images.
    """
    runs.same_inputs(out, training_data.inputs_of(training_data.read(base or next(iter(variants.values())))))
    found = {name: [] for name in variants}
    for seed in range(seeds):
        start = None
        if base is not None:
            one(dataclasses.replace(base, seed=seed), out / f"base-{seed}", console)
            start = out / f"base-{seed}" / "weights.safetensors"
        for name, config in variants.items():
            if base is not None and RECIPES[config.defence].scratch:
                config = dataclasses.replace(config, epochs=base.epochs + config.epochs,
                                             learning_rate=base.learning_rate, seed=seed)
            else:
                config = dataclasses.replace(config, start=config.start or start, seed=seed)
            found[name].append(one(config, out / f"{name}-{seed}", console))
    return {name: {m: np.stack([v[m] for v in values]) for m in values[0]} for name, values in found.items()}


def shared(config) -> tuple[dict, training.Config]:
    """(what training.Config takes over from a study's configuration, the plain network that variants go on from)."""
    taken = {f.name: getattr(config, f.name) for f in dataclasses.fields(training.Config)
             if hasattr(config, f.name) and f.name not in ("out", "resume")}
    return taken, training.Config(**taken | {"epochs": config.base_epochs, "learning_rate": config.base_learning_rate})


def one(config: training.Config, folder: Path, console) -> dict[str, np.ndarray]:
    """The values of one run, computed if its folder has no results yet."""
    config = training.checked(dataclasses.replace(config, out=folder, resume=True))
    folder, settings = runs.begin(config.defence, config)
    if not (folder / "results.json").exists():
        rows = training.train_and_judge(config, folder, settings, console)
        console.print(f"{folder.name:24}", *(f"{name} {row['value']:.3f} " for name, row in rows.items()))
    return files.read_arrays(folder / "arrays.npz", f"delete {folder}, and --resume trains it again")


def summary(found: Found, seed: int, plain: str = "plain") -> dict[str, dict]:
    """{variant: {measure: value, 95 % interval over the images, value of each seed}}.

    Values are averaged over the seeds for each image. accuracy and adversarial accuracy: means over the images; the
    change of the map: a median, and `reduction`, 1 - its ratio to that of plain training on the same images.
    """
    rows = {}
    for name, measures in found.items():
        accuracies = [m for m in measures if "accuracy" in m]
        rows[name] = report.summary({m: v.mean(0) for m, v in measures.items()}, seed, mean=accuracies)
        for m, v in measures.items():
            rows[name][m]["seeds"] = (v.mean(1) if m in accuracies else np.median(v, 1)).tolist()
            if m.startswith("map_change"):
                rows[name][m]["reduction"] = _reduction(v.mean(0), found[plain][m].mean(0), seed)
    return rows


def _reduction(values, reference, seed):
    """1 - median / median, the same images being drawn for both."""
    ratio = lambda i, axis: 1 - np.median(values[np.intp(i)], axis) / np.median(reference[np.intp(i)], axis)
    return metrics.bootstrap_interval(np.arange(len(values)), key=jax.random.key(seed), statistic=ratio)._asdict()


def markdown(rows: Mapping[str, dict], epsilons: Sequence[float]) -> str:
    """A table: accuracy, and at every epsilon the change of the map (less than plain by) and adversarial accuracy."""
    head = ["training", "accuracy", *(f"map change at {e:g}" for e in epsilons),
            *(f"less than plain at {e:g}" for e in epsilons), *(f"adversarial accuracy at {e:g}" for e in epsilons)]
    cells = []
    for name, row in rows.items():
        changes = [row[f"map_change@{e:g}"] for e in epsilons]
        cells.append([
            name.replace("_", " "), report.interval(row["accuracy"], 3), *(report.interval(c, 2) for c in changes),
            *(f"{100 * c['reduction']['value']:.0f} % ({100 * c['reduction']['low']:.0f} to "
              f"{100 * c['reduction']['high']:.0f})" for c in changes),
            *(f"{row[f'adversarial_accuracy@{e:g}']['value']:.2f}" for e in epsilons)])
    return report.markdown(head, cells)


def tables(rows: Mapping[str, dict], epsilons: Sequence[float]) -> list[Table]:
    """The same for the terminal: one for every epsilon."""
    head = ("training", "accuracy", "map change", "reduction", "adversarial accuracy")
    cells = lambda row, e: map(report.cell, (row["accuracy"], row[f"map_change@{e:g}"],
                                             row[f"map_change@{e:g}"]["reduction"], row[f"adversarial_accuracy@{e:g}"]))
    return [report.grid(head, [(report.words(name), *cells(row, e)) for name, row in rows.items()],
                        title=f"epsilon {e:g}") for e in epsilons]


def write(out: Path, settings: dict, found: Found, epsilons: Sequence[float], console) -> dict[str, dict]:
    """results.json, arrays.npz and table.md of a study."""
    rows = summary(found, 0)
    files.write_arrays(out / "arrays.npz", {f"{n}/{m}": v for n, by in found.items() for m, v in by.items()})
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "results": rows})
    files.write_text(out / "table.md", markdown(rows, epsilons))
    console.print(*tables(rows, epsilons))
    return rows


def figure(rows: Mapping[str, dict], epsilons: Sequence[float]):
    """For every epsilon accuracy against the change of the map, a point with its intervals for each training."""
    points = {f"epsilon {e:g}": {name.replace("_", " "): (row["accuracy"], row[f"map_change@{e:g}"])
                                 for name, row in rows.items()} for e in epsilons}
    triple = lambda row: (row["value"], row["low"], row["high"])
    return plot.scatter({e: {name: tuple(map(triple, pair)) for name, pair in panel.items()}
                         for e, panel in points.items()}, xlabel="accuracy",
                        ylabel="change of the map under attack, 1 - correlation")
