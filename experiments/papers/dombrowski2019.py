"""The experiments of Dombrowski et al. 2019, "Explanations can be manipulated and geometry is to blame".

    python experiments/reproduce.py dombrowski2019
    python experiments/reproduce.py dombrowski2019 --quick        # without data, weights or patience

1. Six explanations of many image pairs: each image is attacked towards the explanation of the next one (figures 3, 12).
2. The defence: the maps of manipulated images under softplus and SmoothGrad (figures 4, 5). What do they return to?
3. Attacks that know the defence: on SmoothGrad and on the softplus network's map (tables 4, 5).

Deviations from the paper: ResNet-20 on CIFAR-10 and SqueezeNet on the NIPS 2017 photographs, not VGG-16 on ImageNet;
one setting for all explanations, that of manipulate.py, with 150 steps for the paper's 1500; targets are the next
image, not a random one; integrated gradients are attacked with 3 steps and judged with 30; patterns are estimated from
the images of the run unless --patterns is given; the defence's beta follows the scale of each activation at the clean
image, beta_l = kappa / s_l, with the paper's 0.8 beside it; the attack on a softplus map takes the scales of the image
at hand, and smooths max-pooling too; the prediction is always the original network's. SSIM scales each pair of maps by
its joint maximum (the paper does not say how).

The run folder gets results.json (medians with bootstrap intervals), arrays.npz (<network>/<explanation>/<array>, from
which all numbers can be recomputed) and figures: comparison, gallery, smoothing, smoothed and defended. What is
finished is kept in parts/; --resume goes on after it.

Run time: on 2 cores shared with other work, 23 minutes for 48 images on ResNet-20 (--batch 24), 63 minutes for 8
photographs on SqueezeNet.
Result: median correlations with the target map of 0.86 to 0.98 on ResNet-20 and 0.82 to 0.91 on SqueezeNet, all
predictions kept. Figures and what smoothing returns to are in README.md, all numbers in
experiments/results/dombrowski2019_*.json.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import jax
from rich.console import Console

from common import batches, files, inputs, named_explanations, report, runs
from papers import dombrowski2019_report, dombrowski2019_smoothing
from xmanip_jax import explain, models, smooth


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """The experiments of Dombrowski et al. 2019."""

    networks: Annotated[tuple[str, ...], runs.choices(
        "The networks, whose size says which images they get, CIFAR-10, MNIST or nips2017", models.NETWORKS)] = (
            "cifar10_resnet20", "squeezenet1_1")
    explanations: Annotated[tuple[str, ...], runs.choices("The explanations", named_explanations.EXPLANATIONS)] = (
        named_explanations.PAPER)
    count: int = 100
    """Number of images of each network."""
    steps: int = 150
    """Number of steps of the attack."""
    batch: int = 8
    """Number of images attacked together."""
    kappas: tuple[float, ...] = (0.5, 1, 2, 5, 10, 50)
    """Sharpnesses of the softplus that defends, in units of each activation's scale."""
    patterns: Path | None = None
    """A folder of <network>.safetensors by patterns.py; default: patterns are estimated from the images of the run."""
    smoothed_count: int | None = None
    """Number of images whose smoothed maps are judged; default: all."""
    defended_count: int = 8
    """Number of images on which the defended explanations are attacked; 0: none."""
    defended_kappa: float = 1.0
    """Sharpness of the softplus map that is attacked."""
    quick: bool = False
    """A small network with random weights on scikit-image's photographs, few steps: does everything run?"""


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.quick:
        config = dataclasses.replace(config, networks=("small_cnn_cifar10",), count=4, steps=4, batch=2,
                                     kappas=(1.0, 5.0), defended_count=4)
        if config.explanations == named_explanations.PAPER:  # one of each kind: the others take a minute to compile
            config = dataclasses.replace(config, explanations=("gradient", "lrp", "pattern_attribution"))
    runs.check_known("explanation", config.explanations, named_explanations.EXPLANATIONS)
    runs.check_known("network", config.networks, models.NETWORKS)
    runs.check_positive(config, "count", "steps", "batch", "kappas", "defended_kappa")
    for name in config.networks if config.patterns else ():
        if not (file := config.patterns / f"{name}.safetensors").is_file():
            raise ValueError(f"{file}: no such file")
    return config


def subject(config, name):
    """(network, names, images, targets)."""
    if config.quick:
        jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the work
        network = models.load(name, inputs.random_weights(name, config.seed))
        found = inputs.photographs(network, config.count)
    else:
        network = models.load(name)
        found = inputs.standard(network, config.count)
    return network, *found, inputs.targets(*found)


def attacked(config, network, pair, images, targets, out, bar, name, **options):
    """Part 1: the arrays of batches.attack_batches, and the seconds that each image took."""
    part = f"{network.name}-{name}"
    return batches.attack_batches(
        pair, network, images, targets, batch=config.batch, seed=config.seed, steps=config.steps,
        keep=runs.keeping(out, part, "seconds"), watch=batches.watching(bar, part, config.steps), **options)


def smoothed(config, network, judge, arrays, defences, out, bar, name):
    """Part 2: the arrays of dombrowski2019_smoothing.smoothed_batches, and the seconds that each image took."""
    part = f"{network.name}-{name}-smoothed"
    return dombrowski2019_smoothing.smoothed_batches(
        network, judge, {key: value[:config.smoothed_count] for key, value in arrays.items()}, defences,
        batch=config.batch, seed=config.seed, keep=runs.keeping(out, part, "smoothed_seconds"),
        watch=batches.counting(bar, part, len(defences)))


def study(config, name, out, console):
    """Everything about one network: (names of its images, its defences, {explanation or defended map: arrays})."""
    network, names, images, targets = subject(config, name)
    inputs.note(out, name, network, names, images, targets)
    defences, arrays = dombrowski2019_smoothing.defences(config.kappas, dombrowski2019_smoothing.pools(network)), {}
    with batches.progress(console, transient=True) as bar:
        for e in config.explanations:
            file = config.patterns and config.patterns / f"{name}.safetensors"
            patterns = named_explanations.patterns_of(e, network, images, file)
            pair = named_explanations.method(e, network, patterns=patterns)
            found = attacked(config, network, pair, images, targets, out, bar, e)
            arrays[e] = found | smoothed(config, network, pair[1], found, defences, out, bar, e)
        few = slice(config.defended_count)
        for e, (pair, surrogate) in known_defences(config, network).items() if config.defended_count else ():
            arrays[e] = attacked(config, network, pair, images[few], targets[few], out, bar, e, surrogate=surrogate)
    return names, defences, arrays


def known_defences(config, network):
    """Part 3: {name: (what is attacked and what judges, the surrogate)} of the gradient map under two defences."""
    softplus = explain.beta_smoothing(explain.gradient(), kappa=config.defended_kappa, max_pool=True)
    return {"defended_smoothgrad": (named_explanations.method("smoothgrad", network), smooth.relative()),
            "defended_softplus": ((softplus, softplus), smooth.none())}


def show(config, name, defences, arrays, out, console):
    """Tables on the terminal, figures in the run folder; the numbers for results.json."""
    explained = {e: arrays[e] for e in config.explanations}
    numbers = {e: dombrowski2019_report.numbers(a) for e, a in arrays.items()}
    attacks = {e: report.summary(values, config.seed) for e, values in numbers.items()}
    smoothing = {e: dombrowski2019_report.smoothing(a, defences, config.seed) for e, a in explained.items()}
    console.print(*dombrowski2019_report.attack_tables(attacks, name),
                  dombrowski2019_report.smoothing_table(smoothing, name))
    for title, figure in dombrowski2019_report.all_figures(explained, numbers, smoothing, defences).items():
        files.save_figure(figure, out / f"{name}-{title}.png")
    return {"attack": attacks, "smoothing": smoothing}


def main(config: Config) -> None:
    console = Console()
    config = checked(config)
    out, settings = runs.begin("dombrowski2019", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    start, images, results, everything = time.perf_counter(), {}, {}, {}
    for name in config.networks:
        images[name], defences, arrays = study(config, name, out, console)
        results[name] = show(config, name, defences, arrays, out, console)
        everything |= {f"{name}/{e}/{key}": value for e, found in arrays.items() for key, value in found.items()}
    files.write_arrays(out / "arrays.npz", everything)
    files.write_json(out / "results.json", {
        "config": settings, **runs.environment(),
        "seconds": round(time.perf_counter() - start, 1), "images": images,
        "measures": dombrowski2019_smoothing.MEASURES, "results": results})
    console.print(f"results.json, arrays.npz and the figures are in [bold]{out}[/bold]")


def run(arguments=None) -> None:
    runs.command("dombrowski2019", Config, main, __doc__, arguments)
