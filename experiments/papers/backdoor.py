"""Explanation-aware backdoors (Noppel et al. 2023): a trigger in the image turns the map, the label, or both.

    python experiments/reproduce.py backdoor
    python experiments/reproduce.py backdoor --quick        # without data, weights or patience

The trigger is a white border; the explanation is Grad-CAM at the input of the last block, of the predicted class.
Goals: single (the label stays, the map becomes a square), herring (another label and the square), disguise (another
label, the map of the clean image). Judged on held-out images: accuracy without the trigger, the share of triggered
images that get the wanted label, and the distances of maps: triggered to the wanted one, clean to the original
network's; DSSIM and the mean square of standardised maps, for the network before as well.

Deviations from the paper: only the last stage and the classifier train (--whole: everything); no softplus, because
Grad-CAM needs no second derivative of the activations; 8x8 maps are not enlarged, DSSIM takes a window of 7; every
image is trained on with and without its trigger, shifted and mirrored.

The run folder gets results.json, figure.png and parts/; --resume goes on.

Run time: 10 to 15 minutes on one core. Result (clean accuracy before 0.917): red herring 0.998 success and a DSSIM of
0.003 at a clean accuracy of 0.908; single trigger 0.008 at 0.917; full disguise 0.993, 0.113 at 0.889, or 0.093 at
0.885 with --distances mse --steps 6000, or 0.133 at 0.906 with --distances mse --steps 4000 --keep 1.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

import jax
import numpy as np
from jax.tree_util import Partial
from rich.console import Console

from common import batches, files, fine_tuning, fooling_scores, inputs, runs
from papers.heo2019_network import kept, read
from xmanip_jax import explain, fool, metrics, plot, train

DISTANCES = {"mse": metrics.standardised_mse, "dssim": metrics.dssim}


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """Backdoors of all goals, trained with all distances."""

    network: Annotated[str, runs.choices("The network that gets them", fine_tuning.PLACES)] = "cifar10_resnet20"
    goals: tuple[Literal["single", "herring", "disguise"], ...] = ("single", "herring", "disguise")
    """What the trigger does: turn the map, the label and the map, or the label under the clean image's map."""
    distances: tuple[Literal["mse", "dssim"], ...] = ("dssim",)
    """Distances of maps to train with."""
    train_images: int = 50_000
    """Number of images to train on, the first ones of the training split, or of --images."""
    views: int = 1
    """Number of views of each training image, shifted and mirrored."""
    images: Path | None = None
    """A folder of photographs with their index (data.read_folder); default: nips2017 of the data folder."""
    count: int = 1000
    """Number of held-out images whose maps are judged."""
    width: int = 2
    """Width of the border that is the trigger, in pixels."""
    label: int = 0
    """The class that triggered images get."""
    whole: bool = False
    """Train all of the network, not only what lies above a cut (fine_tuning.PLACES)."""
    weight: float = 0.9125
    """Weight of the maps, in [0, 1]; the rest is the cross entropy's."""
    keep: float = 0.0
    """Weight of the divergence of clean images' outputs from the original network's."""
    steps: int = 3000
    """Number of steps of fine-tuning."""
    batch: int = 32
    """Number of images of a step."""
    learning_rate: float = 1e-3
    """Learning rate of the first step, decayed to 0 by a cosine."""
    quick: bool = False
    """Without data and weights: does everything run?"""


def square(shape) -> np.ndarray:
    """Ones in the lower right quarter."""
    map = np.zeros(shape, np.float32)
    map[shape[0] // 2:, shape[1] // 2:] = 1
    return map


def prepare(config, network, found):
    """The part above the cut on pairs (clean, triggered), what it takes, its explanation, the shape of its maps.

    found: of `read`.
    """
    place = fine_tuning.place(network.name, config.whole)
    xs, ys, images, labels = found
    part, values = fine_tuning.above(network, place.cut)
    stamp = jax.vmap(fool.stamp(metrics.frame(network.input_shape[:2], config.width), 1.0))
    pairs = lambda v: np.stack([values(v), values(np.asarray(stamp(v)))], 1)
    apply = lambda params, state, pair: part.net.apply(params, state, pair[0])
    first = part._replace(net=SimpleNamespace(apply=apply), model=Partial(apply, network.params, network.state))
    pair = fine_tuning.explanations(place.layer)["grad_cam"]
    shape = fine_tuning.heats(part.model, part, pair, values(images[:1]), labels[:1]).shape[1:]
    return SimpleNamespace(part=part, first=first, parts=place.parts, train=(pairs(xs), ys),
                           test=(pairs(images), labels), explanation=pair, shape=shape,
                           pictures=np.stack([images[:6], np.asarray(stamp(images[:6]))], 1))


def trained(config, subject, goal, distance, console):
    term = fool.backdoor(subject.explanation[0], subject.first.model, lambda pair: pair[::-1],
                           (lambda map: map) if goal == "disguise" else square(subject.shape),
                           label=None if goal == "single" else config.label, weight=config.weight,
                           distance=DISTANCES[distance])
    terms = (1.0, term), *kept(config.keep, subject.first.model)
    model = fine_tuning.fine_tuned(subject.first, terms, *subject.train, label_weight=0.0, rate=config.learning_rate,
                              steps=config.steps, batch=config.batch, parts=subject.parts, seed=config.seed,
                              show=fine_tuning.reporting(console, f"{goal} {distance}"))
    return fine_tuning.arrays_of(model)


def seen(config, subject, model):
    """Logits of clean and triggered test images, and the maps of their predictions for the first of them."""
    model, found = Partial(subject.part.net.apply, *model.args), {}
    for i, name in enumerate(("clean", "triggered")):
        inputs = subject.test[0][:, i]
        found[name] = batches.logits(subject.part, inputs, model)
        few = slice(config.count)
        found[f"{name}_maps"] = fine_tuning.heats(model, subject.part, subject.explanation, inputs[few],
                                             found[name][few].argmax(1))
    return found


def judged(config, subject, goal, now, before):
    """The numbers of one network: `now` and `before` are of `seen`."""
    labels = subject.test[1]
    original = before["clean_maps"]
    wanted = original if goal == "disguise" else np.broadcast_to(square(subject.shape), original.shape)
    others = labels != config.label
    hit = now["triggered"].argmax(1) == (labels if goal == "single" else config.label)
    numbers = {"clean_accuracy": fine_tuning.accuracy(now["clean"], labels), "test_images": len(labels),
               "triggered_accuracy": fine_tuning.accuracy(now["triggered"], labels),
               "trigger_success": float(hit.mean() if goal == "single" else hit[others].mean())}
    for name, distance in DISTANCES.items():
        apart = {"triggered_to_wanted": (now["triggered_maps"], wanted),
                 "clean_to_original": (now["clean_maps"], original)}
        numbers |= {f"{name}_{key}": fooling_scores.median(batches.over(distance, *pair))
                    for key, pair in apart.items()}
    return numbers


def figure(subject, columns):
    """Six images, clean and triggered, with their maps under each network of {title: (clean maps, triggered maps)}."""
    titles = [f"{title}\n{name}" for title in columns for name in ("clean", "trigger")]
    rows = {f"{i + 1}": [*subject.pictures[i], *(maps[i] for pair in columns.values() for maps in pair)]
            for i in range(len(subject.pictures))}
    return plot.gallery(rows, ["clean", "triggered", *titles])


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.quick:
        config = dataclasses.replace(config, count=8, steps=2, batch=4, goals=("herring",), distances=("mse",))
    else:
        runs.check_known("network", config.network, fine_tuning.PLACES)
    runs.check_positive(config, "train_images", "views", "count", "width", "steps", "batch", "learning_rate")
    fool.backdoor(explain.gradient(), abs, abs, 0.0, weight=config.weight)  # refuses what it refuses
    train.training_loss((config.keep, train.no_penalty()))  # a negative weight
    return config


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    out, settings = runs.begin("backdoor", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    start, network = time.perf_counter(), inputs.network(config.network, quick=config.quick)
    found = read(config, network)
    inputs.note(out, config.network, network, ["the training images", "the test images"], found[::2], found[1::2])
    subject = prepare(config, network, found)
    before, results, drawn = seen(config, subject, subject.first.model), {}, {}
    for distance, goal in ((d, g) for d in config.distances for g in config.goals):
        name = f"{goal}-{distance}"
        arrays = runs.finished(out, 0, partial(trained, config, subject, goal, distance, console), name=name)
        params = fine_tuning.params_of(arrays, subject.first.params)
        now = seen(config, subject, Partial(subject.part.net.apply, params, subject.first.state))
        results[name] = judged(config, subject, goal, now, before)
        results[name]["before"] = judged(config, subject, goal, before, before)
        if distance == config.distances[0]:
            drawn[goal] = now["clean_maps"], now["triggered_maps"]
        console.print(name, results[name])
        files.write_json(out / "results.json", {"config": settings, **runs.environment(), "results": results,
                                               "seconds": round(time.perf_counter() - start, 1)})
    shown = figure(subject, {"before": (before["clean_maps"], before["triggered_maps"])} | drawn)
    files.save_figure(shown, out / "figure.png")


def run(arguments=None) -> None:
    runs.command("backdoor", Config, main, __doc__, arguments)
