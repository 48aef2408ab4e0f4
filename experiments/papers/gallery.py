"""One photograph, every explanation, before and after: the cat gets the cup's map, whichever explanation is asked.

    python experiments/reproduce.py gallery

EfficientNet-Lite0 and scikit-image's photographs: no data folder is needed. Each explanation is attacked alone, with
the one setting of manipulate.py, within 4/255; patterns are estimated from six photographs. The run folder gets
figure.png, results.json and arrays.npz (<explanation>/<array>); what is finished is kept in parts/, and --resume goes
on after it.
"""

import dataclasses
from typing import Annotated

import numpy as np
from rich.console import Console

from common import batches, files, inputs, named_explanations, report, runs
from xmanip_jax import attack, data, models, plot


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """One photograph, every explanation, before and after the attack."""

    network: Annotated[str, runs.choices("The network", models.NETWORKS)] = "efficientnet_lite0"
    image: str = "chelsea"
    """The photograph of scikit-image that is changed: chelsea, coffee, rocket, astronaut ..."""
    target_image: str = "coffee"
    """The photograph of scikit-image whose explanations it gets."""
    explanations: Annotated[tuple[str, ...], runs.choices("The explanations", named_explanations.EXPLANATIONS)] = (
        *named_explanations.PAPER, "grad_cam")
    steps: int = 150
    """Number of steps of each attack."""
    epsilon: float = 4 / 255
    """The largest change of a channel of a pixel, in [0, 1]."""
    size: int = 160
    """Side of the photographs in pixels."""


def attacked(config, network, name, image, target, out, bar):
    """The arrays of batches.attack_batches for one explanation."""
    patterns = named_explanations.patterns_of(name, network, inputs.photographs(network, 6)[1])
    return batches.attack_batches(
        named_explanations.method(name, network, patterns=patterns), network, image, target, batch=1, seed=config.seed,
        steps=config.steps, constraint=attack.linf(config.epsilon), keep=runs.keeping(out, name, "seconds"),
        watch=batches.watching(bar, name, config.steps))


def figure(arrays):
    """A column for each explanation: the map of the photograph, of the manipulated one, and of the target.

    The manipulated photograph that is shown is the one that changed most; each map has its own scale.
    """
    most = max(arrays, key=lambda e: np.mean((arrays[e]["x_adv"] - arrays[e]["x"]) ** 2))
    rows, notes = {}, {}
    for label, photo, map in (("original", "x", "map_original"), ("manipulated", "x_adv", "map_adv"),
                              ("target", "x_target", "map_target")):
        rows[label] = [arrays[most][photo][0], *(a[map][0] for a in arrays.values())]
        r = [report.pearson(a[map], a["map_target"])[0] for a in arrays.values()]
        notes[label] = ["", *([""] * len(r) if label == "target" else [f"r {value:.2f}" for value in r])]
    titles = ["", *(report.words(name).replace(" x ", " x\n") for name in arrays)]
    return plot.gallery(rows, titles, notes=notes, scale="own")


def main(config: Config) -> None:
    console = Console()
    runs.check_known("explanation", config.explanations, named_explanations.EXPLANATIONS)
    runs.check_known("network", config.network, models.NETWORKS)
    runs.check_positive(config, "steps", "size", "epsilon")
    network = models.load(config.network)
    out, settings = runs.begin("gallery", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    image, target = (data.photograph(photo, config.size)[None] for photo in (config.image, config.target_image))
    inputs.note(out, config.network, network, [config.image], image, target)
    with batches.progress(console) as bar:
        arrays = {name: attacked(config, network, name, image, target, out, bar) for name in config.explanations}
    numbers = {name: {k: float(v[0]) for k, v in report.measure(a).items()} for name, a in arrays.items()}
    predicted = {name: report.predictions(a, network.classes) for name, a in arrays.items()}
    files.write_arrays(out / "arrays.npz", {f"{e}/{k}": v for e, a in arrays.items() for k, v in a.items()})
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "metrics": numbers,
                                           "predictions": predicted})
    files.save_figure(figure(arrays), out / "figure.png")
    console.print(report.grid(("explanation", "r before", "r", "image MSE", "prediction"), [
        (report.words(name), f"{row['map_pearson_before']:.2f}", f"{row['map_pearson']:.2f}", f"{row['image_mse']:.1e}",
         "kept" if row["prediction_unchanged"] else "changed") for name, row in numbers.items()]))


def run(arguments=None) -> None:
    runs.command("gallery", Config, main, __doc__, arguments)
