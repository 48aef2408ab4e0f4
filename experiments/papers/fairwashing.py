"""Fairwashing (Anders et al. 2020): a network with the same outputs whose every gradient map is "42"; and two defences.

    python experiments/reproduce.py fairwashing
    python experiments/reproduce.py fairwashing --quick        # without data or patience

The teacher is trained first: two convolutions and two dense layers, softplus, on MNIST. The student starts from it and
keeps its logits, while the heat map of its gradient becomes the target. Judged on held-out images: SSIM of the heat
maps with the target, scaled by their joint maximum; the largest change of a probability; agreement of predictions.
Defences, for student and teacher alike: the map projected on the tangent space of the data (principal directions of the
nearest training images of the predicted class), and SmoothGrad.

Deviations from the paper: another network and fewer steps; it is smooth (beta 10) when it is judged, too, not only in
training; logits are kept, not probabilities (--keep); the target is drawn here.

The run folder gets results.json, arrays.npz, figure.png and parts/; --resume goes on.

Run time: 12 minutes on one core. Result: on 100 held-out images the student's map has a median SSIM of 0.75 with "42".
The largest change of a probability is 0.0001 in the median, 0.005 in the mean, at most 0.02 on 94 % of all test images;
accuracy goes from 0.9862 to 0.9856. Projected maps correlate by 0.82 with the teacher's projected ones (unprojected
0.24); SmoothGrad shows "42" all the same (SSIM 0.71, correlation 0.90). --alpha 0.998 --steps 6000: SSIM 0.84,
projection 0.77.
"""

import dataclasses
import time
from functools import partial
from typing import Literal

import jax
import numpy as np
from jax.tree_util import Partial
from rich.console import Console

from common import batches, files, fine_tuning, inputs, report, runs
from papers import fairwashing_network
from xmanip_jax import data, defend, explain, fool, metrics, plot

SSIM = partial(metrics.ssim, window=None)
DIGITS = ("#...#..####.", "#...#.....#.", "#####..####.", "....#..#....", "....#..####.")


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """One student."""

    network: str = "cnn"
    """The teacher: cnn, trained here, or one of models.NETWORKS or of boopathy2020 for 28x28 or 32x32 pixels."""
    train_images: int = 60_000
    """Number of images to train on, the first ones of the training split, also those that span tangent spaces."""
    count: int = 100
    """Number of held-out images whose maps are judged."""
    alpha: float = 0.99
    """Weight of the map, in [0, 1]; the rest is the outputs'."""
    keep: Literal["logits", "probabilities"] = "logits"
    """What of the teacher's outputs is kept; the paper: probabilities."""
    steps: int = 8000
    """Number of steps of fine-tuning."""
    batch: int = 64
    """Number of images of a step."""
    learning_rate: float = 1e-3
    """Learning rate of the first step, decayed to 0 by a cosine."""
    neighbours: int = 30
    """Number of training images that span a tangent space."""
    dimensions: int = 16
    """Number of dimensions of a tangent space."""
    sigma: float = 0.2
    """Standard deviation of SmoothGrad's noise, in pixels in [0, 1]."""
    quick: bool = False
    """Without data and weights: does everything run?"""


def target(side: int) -> np.ndarray:
    """The heat map "42", Float[side, side], sums to 1."""
    glyph = np.array([[c == "#" for c in row] for row in DIGITS], np.float32)[:, :11]
    glyph = np.kron(glyph, np.ones((2 * side // 16, side // 14)))
    top, left = ((side - n) // 2 for n in glyph.shape)
    map = np.zeros((side, side), np.float32)
    map[top:top + glyph.shape[0], left:left + glyph.shape[1]] = glyph
    return map / map.sum()


def teacher(config, out):
    """The network of the configuration, trained or read back where it is our own."""
    if config.quick or config.network != "cnn":
        return inputs.network(config.network, quick=config.quick)
    network = fairwashing_network.untrained(config.seed)
    images, labels, *_ = read(config, network)
    tuned = lambda: fine_tuning.fine_tuned(network, (), images, labels, rate=1e-3, steps=1000, batch=64)
    train = lambda: fine_tuning.arrays_of(tuned())
    params = fine_tuning.params_of(runs.finished(out, 0, train, name="teacher"), network.params)
    return network._replace(model=Partial(fairwashing_network.apply, params, {}), params=params)


def read(config, network):
    """(training images, labels, test images, labels)."""
    if config.quick:
        rng = np.random.default_rng(0)
        images = rng.uniform(size=(40, *network.input_shape)).astype(np.float32)
        labels = batches.predict(network, images)
        chosen = np.flatnonzero(labels == np.bincount(labels).argmax())  # a class with neighbours
        return images[chosen], labels[chosen], images[chosen[:8]], labels[chosen[:8]]
    name = {1: "mnist", 3: "cifar10"}[network.input_shape[2]]
    return *data.load_dataset(name, "train", limit=config.train_images), *data.load_dataset(name, "test")


def trained(config, network, images, labels, goal, console):
    term = fool.fairwash(explain.gradient(), network.model, goal, alpha=config.alpha, keep=config.keep)
    model = fine_tuning.fine_tuned(network, ((1.0, term),), images, labels, label_weight=0.0, rate=config.learning_rate,
                                   steps=config.steps, batch=config.batch, seed=config.seed,
                                   show=fine_tuning.reporting(console, "student"))
    return fine_tuning.arrays_of(model)


def explained(config, network, model, classes, train, images):
    """Heat maps Float[n, h, w] of a model: "plain", "projected" on the class's images, "smoothed" by noise."""
    e, (xs, ys) = explain.gradient(), train
    low, high = (network.preprocess(np.full(network.input_shape[2], v, np.float32)) for v in (0, 1))
    noisy = explain.smoothgrad(e, sigma=config.sigma * float(np.mean(high - low)))
    keys = jax.random.split(jax.random.key(config.seed), len(images))
    show = lambda e: lambda model, p, c, key: explain.heatmap(e(model, network.preprocess(p), c, key=key))
    found = {way: batches.over(show(e), images, classes, keys, model=model)
             for way, e in (("plain", e), ("smoothed", noisy))}
    found["projected"] = np.zeros_like(found["plain"])
    for c in np.unique(classes):
        mine, near = classes == c, network.preprocess(xs[ys == c])
        along = defend.project(e, near, neighbours=config.neighbours, dimensions=config.dimensions)
        found["projected"][mine] = batches.over(show(along), images[mine], classes[mine], keys[mine], model=model,
                                               batch=25)
    return found


def judged(config, network, student, train, test):
    """The arrays that all numbers come from; classes are the teacher's predictions."""
    images = test[:config.count]
    logits = {name: batches.logits(network, test, model)
              for name, model in (("teacher", network.model), ("student", student))}
    classes = logits["teacher"][:config.count].argmax(1)
    found = {f"logits/{name}": v for name, v in logits.items()}
    for name, model in (("teacher", network.model), ("student", student)):
        found |= {f"{name}/{key}": v for key, v in explained(config, network, model, classes, train, images).items()}
    return found


def numbers(found, goal):
    """Per image: {measure: Float[n]}."""
    ssim, pearson = partial(batches.over, SSIM), partial(batches.over, metrics.pearson)
    rows = {"probability_change": batches.over(metrics.probability_change, *(
        found[f"logits/{who}"] for who in ("student", "teacher")))}
    for way in ("plain", "projected", "smoothed"):
        student, teacher = found[f"student/{way}"], found[f"teacher/{way}"]
        goals = np.broadcast_to(goal, student.shape)
        rows |= {f"{way}_ssim_with_target": ssim(student, goals),
                 f"{way}_ssim_with_target_before": ssim(teacher, goals),
                 f"{way}_pearson_with_target": pearson(student, goals),
                 f"{way}_pearson_with_original": pearson(student, teacher),
                 f"{way}_ssim_with_original": ssim(student, teacher)}
    return rows


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.quick:
        config = dataclasses.replace(config, count=4, steps=2, batch=4, neighbours=8, dimensions=4)
    runs.check_positive(config, "train_images", "count", "steps", "batch", "learning_rate", "neighbours", "dimensions",
                        "sigma")
    fool.fairwash(explain.gradient(), abs, np.ones((1, 1)), alpha=config.alpha, keep=config.keep)  # what it refuses
    return config


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    out, settings = runs.begin("fairwashing", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    start, network = time.perf_counter(), teacher(config, out)
    *train, images, labels = read(config, network)
    inputs.note(out, config.network, network, ["the training images", "the test images"], [train[0], images],
                train[1], labels)
    goal = target(network.input_shape[0])
    arrays = runs.finished(out, 0, partial(trained, config, network, *train, goal, console), name="student")
    student = Partial(network.net.apply, fine_tuning.params_of(arrays, network.params), network.state)
    found = runs.finished(out, 0, partial(judged, config, network, student, train, images), name="judged")
    measured = numbers(found, goal)
    rows, within = report.summary(measured, config.seed), np.asarray(measured["probability_change"]) <= 0.02
    moved = fine_tuning.distances(student, network.model, found["logits/student"], found["logits/teacher"], labels)
    results = {"measures": rows, "probabilities_within_0.02": float(within.mean()), "moved": moved,
               "accuracy": fine_tuning.accuracy(found["logits/student"], labels), "test_images": len(labels),
               "accuracy_before": fine_tuning.accuracy(found["logits/teacher"], labels)}
    console.print(report.grid(("measure", "median", "95 % interval"), [
        (name, f"{row['value']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}") for name, row in rows.items()]))
    columns = [(who, way) for who in ("teacher", "student") for way in ("plain", "projected", "smoothed")]
    rows = {f"{i + 1}": [images[i], *(found[f"{who}/{way}"][i] for who, way in columns)] for i in range(4)}
    files.save_figure(plot.gallery(rows, ["image", *map("\n".join, columns)]), out / "figure.png")
    files.write_arrays(out / "arrays.npz", found)
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "results": results,
                                           "seconds": round(time.perf_counter() - start, 1)})


def run(arguments=None) -> None:
    runs.command("fairwashing", Config, main, __doc__, arguments)
