"""Change a photograph invisibly so that its explanation becomes that of another one, while the prediction stays.

Dombrowski et al. 2019, section 2.1. Without arguments: scikit-image's cat gets the coffee cup's gradient explanation
under EfficientNet-Lite0, while no channel of a pixel changes by more than 2/255; README.md shows the figure. Many
images: --images FOLDER or --dataset cifar10, each attacked towards the explanation of the next one.

Deviations from the paper: the change has a budget (--constraint box has none, as there); beta follows the scale of
each layer, and max-pooling is smoothed with the activations (`smooth.relative`); loss weights are scale-free; the best
iterate is kept, judged under the original network.

The run folder gets results.json (settings, versions, every number with its bootstrap interval), arrays.npz (from which
all numbers can be recomputed), figure.png, and report.html, which shows it all and opens in any browser;
docs/run-folder.md describes them. Finished batches are kept in parts/; --resume goes on after them.
"""

import common.program  # isort: skip  # noqa: F401  (first: Ctrl-C during the other imports)

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from rich.console import Console

from common import batches, files, html_report, inputs, named_explanations, report, runs
from common.machine import Computing
from xmanip_jax import attack, objectives, plot, smooth

CONSTRAINTS = {"box": lambda epsilon: attack.box(), "linf": attack.linf, "l2": attack.l2, "l0": attack.l0}
EPSILON = 2 / 255  # nobody sees it
SURROGATES = {"relative": smooth.relative, "absolute": smooth.absolute, "none": smooth.none}


@dataclasses.dataclass(frozen=True)
class Config(runs.Computed):
    """Manipulate the explanation of an image, or of many."""

    network: str = "efficientnet_lite0"
    """The network: efficientnet_lite0, squeezenet1_1, cifar10_resnet20, cifar10_resnet56, small_cnn, small_cnn_cifar10,
    vgg16, vgg19, resnet18, resnet50 or densenet121; or one of zoo/."""
    model: str | None = None
    """A network of your own instead: FILE.py:NAME or module:NAME, see docs/howto/own-network-in-the-jobs.md."""
    weights: Path | None = None
    """A .safetensors, .pth or .pt file; default: the network's own."""
    image: str = "chelsea"
    """The image to change: a file, or a photograph of scikit-image (chelsea, coffee, rocket, astronaut ...)."""
    target_image: str = "coffee"
    """The image whose explanation it gets: a file or a photograph."""
    images: Path | None = None
    """A folder of images instead: each gets the explanation of the next one."""
    dataset: Literal["cifar10", "mnist"] | None = None
    """A tensorflow-datasets test split instead: its first correctly classified images."""
    count: int | None = None
    """Number of images of the folder or data set; default: all, or 200 of a data set."""
    explanation: Annotated[str, runs.choices("The explanation", named_explanations.EXPLANATIONS)] = "gradient"
    patterns: Path | None = None
    """Patterns of pattern_attribution, from patterns.py; default: estimated from the images of the run."""
    layer: str = "features"
    """Layer of grad_cam, layer_gradient and lrp_heo2019; their maps have this layer's size."""
    integration_steps: int = 3
    """Integration steps of the attack on integrated_gradients; the verdict always takes the paper's 30."""
    steps: int = 150
    """Number of steps of Adam (the paper: 1500)."""
    learning_rate: float = 2e-3
    """Learning rate of the first step, in [0, 1] pixels, decayed to 0 by a cosine."""
    constraint: Literal["box", "linf", "l2", "l0"] = "linf"
    """What --epsilon bounds: the largest change of a channel of a pixel (linf), the Euclidean norm of the change (l2),
    the number of pixels that change (l0), or nothing, as in the paper (box)."""
    epsilon: float | None = None
    """The budget: of linf and l2 in [0, 1] pixels, of l0 a number of pixels; default: 2 / 255 for linf."""
    surrogate: Literal["relative", "absolute", "none"] = "relative"
    """The smooth network that is attacked; absolute is the paper's beta 10 -> 100."""
    output_weight: float = 1.0
    """Weight of the divergence of the output (nats), beside N^2 mse of the maps."""
    size: int | None = None
    """Side of the images in pixels; default: what the network was trained on."""
    batch: int = 8
    """Number of images attacked together."""


def checked(config):
    """The configuration with its budget; refuses what can be refused before anything is read or computed."""
    runs.check_known("explanation", config.explanation, named_explanations.EXPLANATIONS)
    runs.check_positive(config, "steps", "learning_rate", "batch", "integration_steps", "count", "size", "epsilon",
                        "output_weight")
    if config.images and config.dataset:
        raise ValueError("choose one of --images and --dataset")
    if config.constraint == "linf" and config.epsilon is None:
        return dataclasses.replace(config, epsilon=EPSILON)
    if (config.constraint == "box") != (config.epsilon is None):
        wanted = "no" if config.constraint == "box" else "an"
        raise ValueError(f"--constraint {config.constraint} takes {wanted} --epsilon")
    return config


def attacked(config, network, images, targets, out, bar, computing):
    """The arrays of batches.attack_batches; finished batches are read back."""
    patterns = named_explanations.patterns_of(config.explanation, network, images, config.patterns)
    pair = named_explanations.method(config.explanation, network, integration_steps=config.integration_steps,
                                     layer=config.layer, patterns=patterns,
                                     chunk=None if config.memory else 5)
    return batches.attack_batches(
        pair, network, images, targets, batch=config.batch, seed=config.seed, keep=partial(runs.finished, out),
        watch=batches.watching(bar, "batch", config.steps), steps=config.steps,
        constraint=CONSTRAINTS[config.constraint](config.epsilon), surrogate=SURROGATES[config.surrogate](),
        optimizer=attack.default_optimizer(config.steps, config.learning_rate),
        objective=objectives.weighted((1.0, objectives.match_map()), (config.output_weight, objectives.keep_output())),
        **computing.options)


def verdict(name, explanation, numbers):
    """A sentence that sums up."""
    before, after = (np.median(numbers[m]) for m in ("map_pearson_before", "map_pearson"))
    stayed, largest = numbers["prediction_unchanged"].sum(), 255 * numbers["image_largest_change"].max()
    count = len(numbers["map_pearson"])
    over = f" (median of {count} images)" if count > 1 else ""
    return html_report.Verdict(
        f"The {explanation} map of {name} was led towards another image's: its correlation with the goal went from "
        f"{before:.2f} to {after:.2f}{over}. No channel of a pixel changed by more than "
        f"{largest:.3g}/255, and the prediction stayed for {stayed:.0f} of {count}.")


def pictures(names, arrays, numbers, classes):
    """What was done to three images: the one whose map came closest to its goal, a median one, the one least close."""
    order, found = np.argsort(-numbers["map_pearson"]), []
    places = {order[0]: ", closest to its goal", order[len(order) // 2]: ", the median", order[-1]: ", the furthest"}
    for i, place in (places if len(order) > 2 else dict.fromkeys(order, "")).items():
        a = {name: v[i] for name, v in arrays.items()}
        pairs = {"original": (a["x"], a["map_original"]), "manipulated": (a["x_adv"], a["map_adv"]),
                 "target": (a["x_target"], a["map_target"])}
        before, after = (report.predicted(a[f"logits_{of}"], classes) for of in ("original", "adv"))
        found.append(html_report.Picture(
            f"{names[i]}{place}",
            f"Before: {before}. After: {after}. Correlation of the map with the goal: "
            f"{numbers['map_pearson_before'][i]:.2f}, then {numbers['map_pearson'][i]:.2f}. {html_report.SIGNS}",
            [html_report.maps(pairs), html_report.changes(pairs["original"], pairs["manipulated"])]))
    return found


def by_image(names, numbers, predicted):
    """A line for each image, for report.html."""
    lines = zip(names, *predicted.values(), *(numbers[m] for m in ("map_pearson_before", "map_pearson")),
                255 * numbers["image_largest_change"], strict=True)
    return html_report.by_image(
        ("image", "predicted before", "after", "map_pearson before", "after", "largest change, of 255"),
        [(*words, *(f"{v:.3g}" for v in values)) for *words, a, b, c in lines for values in [(a, b, c)]],
        "by image")


def main(config: Config) -> None:
    console = Console()
    config = checked(config)
    computing, network = Computing(config, console), inputs.chosen(config)
    names, images, targets = inputs.pairs(config, network)
    out, settings = runs.begin(f"{network.name}-{config.explanation}", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    inputs.note(out, network.name, network, names, images, targets)
    start = time.perf_counter()
    with batches.progress(console) as bar:
        arrays = attacked(config, network, images, targets, out, bar, computing)
    numbers = report.measure(arrays)
    rows, predicted = report.summary(numbers, config.seed), report.predictions(arrays, network.classes)
    seconds = round(time.perf_counter() - start, 1)
    files.write_arrays(out / "arrays.npz", arrays)
    files.write_json(out / "results.json", {
        "config": settings, **runs.environment(), **computing.noted(), "seconds": seconds,
        "images": names, "metrics": rows, "per_image": {k: v.tolist() for k, v in numbers.items()},
        "predictions": predicted})
    if single := len(images) == 1:
        figure = plot.manipulation(arrays, caption=report.caption(arrays, numbers, network.classes))
    else:
        figure = plot.manipulations(arrays, labels=predicted["original"])
    files.save_figure(figure, out / "figure.png")
    title = f"{config.explanation} of {network.name}, {len(images)} image{'s' * (not single)}, {seconds:.0f} s"
    note = "predicted before and after: " + ", ".join(name for [name] in predicted.values()) if single else None
    shown = report.table(rows, title, note)
    html_report.write(out, f"{config.explanation} maps of {network.name}, manipulated", __doc__.splitlines()[0],
                      [verdict(network.name, config.explanation, numbers)],
                      pictures(names, arrays, numbers, network.classes), [shown, by_image(names, numbers, predicted)])
    console.print(shown)
    console.print(f"results.json, arrays.npz, figure.png and report.html are in [bold]{out}[/bold]")


def run(arguments=None) -> None:
    runs.command("manipulate", Config, main, __doc__, arguments)


if __name__ == "__main__":
    run()
