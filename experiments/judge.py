"""How far an attack can move the explanation of a network without changing its prediction, and whether to believe it.

    python experiments/judge.py --network cifar10_resnet20 --dataset cifar10 --count 50
    python experiments/judge.py --model net.py:network --images photos/ --explanation integrated_gradients
    python experiments/judge.py --quick            # without data or weights

Of each image, at each of --epsilons, a budget for every pixel, the largest change of the predicted class's heat map,
1 - Pearson correlation with the clean one, that the searches find while the prediction stays:

  ascent     step-size-free gradient ascent from random starts (`attack.largest_change`), on a smooth surrogate where
             the network has kinks;
  random     random squares, which see no gradient (`attack.random_search`), twice as many looks as the ascent takes
             steps;
  transfer   what the ascent finds on another network (--transfer-from), judged on this one (`attack.transfer`).

What they find is found: the worst change is at least that. A small one speaks for the network only where no flag is
raised (`attack.flags`): each says that the attack was weak, and the verdict what to do.

The run folder gets results.json (verdicts, medians with bootstrap intervals, flags, every number by image), arrays.npz
(<array>@<epsilon>), figure.png, the images whose maps changed most, and report.html, which shows it all and opens in
any browser. Finished batches are kept in parts/; --resume goes on after them.
"""

import common.program  # isort: skip  # noqa: F401  (first: Ctrl-C during the other imports)

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
from rich.console import Console

from common import batches, files, html_report, inputs, machines, named_explanations, report, robustness, runs
from common.machine import Computing
from xmanip_jax import plot


@dataclasses.dataclass(frozen=True)
class Config(runs.Computed):
    """Judge an explanation of a network by attacks on it."""

    network: str = "efficientnet_lite0"
    """The network: efficientnet_lite0, squeezenet1_1, cifar10_resnet20, cifar10_resnet56, small_cnn, small_cnn_cifar10,
    vgg16, vgg19, resnet18, resnet50 or densenet121; or one of zoo/."""
    model: str | None = None
    """A network of your own instead: FILE.py:NAME or module:NAME, see docs/howto/own-network-in-the-jobs.md."""
    weights: Path | None = None
    """A .safetensors, .pth or .pt file; default: the network's own."""
    transfer_from: str | None = None
    """A second network, on which changes are found, too: a name or FILE.py:NAME; it takes the same images."""
    images: Path | None = None
    """A folder of images; default: what the project's network was trained for, from the data folder (XMANIP_DATA), or
    scikit-image's six photographs, as for your own network."""
    dataset: Literal["cifar10", "mnist"] | None = None
    """A tensorflow-datasets test split instead: its first correctly classified images."""
    count: int = 20
    """Number of images."""
    explanation: Annotated[str, runs.choices("The explanation", named_explanations.EXPLANATIONS)] = "gradient"
    patterns: Path | None = None
    """Patterns of pattern_attribution, from patterns.py; default: estimated from the images of the run."""
    layer: str = "features"
    """Layer of grad_cam, layer_gradient and lrp_heo2019."""
    integration_steps: int = 3
    """Integration steps of the ascent on integrated_gradients; the verdict always takes 30."""
    epsilons: tuple[float, ...] = (0.01, 0.03)
    """The largest changes of a pixel, which is in [0, 1]."""
    steps: int = 20
    """Number of steps of the ascent from each start."""
    restarts: int = 2
    """Number of random starts, at least 2: the flags compare them."""
    batch: int = 8
    """Number of images attacked together."""
    quick: bool = False
    """A small network with random weights, or your own, on two photographs, a few steps: does everything run?"""


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.quick:
        config = dataclasses.replace(config, epsilons=config.epsilons[-1:], steps=2, count=2, batch=2)
    runs.check_known("explanation", config.explanation, named_explanations.EXPLANATIONS)
    runs.check_positive(config, "count", "epsilons", "steps", "batch", "integration_steps")
    runs.check_some(config, "epsilons")
    if config.restarts < 2:
        raise ValueError(f"--restarts is at least 2: the flags compare them, got {config.restarts}")
    if config.images and config.dataset:
        raise ValueError("choose one of --images and --dataset")
    return config


def subjects(config):
    """(the network, the second one or None, names and pixels of the images)."""
    network = inputs.chosen(config)
    other = config.transfer_from and inputs.network(config.transfer_from, quick=config.quick, seed=config.seed + 1)
    if other and other.input_shape != network.input_shape:
        raise ValueError(f"--transfer-from takes images of shape {other.input_shape}, {network.name} of "
                         f"{network.input_shape}: choose a network for the same images")
    return network, other, *inputs.pictures(config, network, own=bool(config.model))


def searched(config, network, other, images, out, bar, computing):
    """{epsilon: the arrays of robustness.searches}; finished batches are read back."""
    patterns = named_explanations.patterns_of(config.explanation, network, images, config.patterns)
    pair = named_explanations.method(config.explanation, network, integration_steps=config.integration_steps,
                                     layer=config.layer, patterns=patterns,
                                     chunk=None if config.memory else 5)
    found = {}
    for epsilon in sorted(config.epsilons):
        run = robustness.searches(pair, network, epsilon=epsilon, steps=config.steps, restarts=config.restarts,
                                  other=other, **computing.options)
        task = bar.add_task(f"epsilon {epsilon:g}", total=len(images), status="")

        def compute(part, index, run=run):
            return run(machines.spread(images[part]), jax.random.fold_in(jax.random.key(config.seed), index))

        def keep(index, compute, epsilon=epsilon, task=task):
            arrays = runs.finished(out, index, compute, name=f"{epsilon:g}")
            changes = robustness.largest(arrays)
            bar.update(task, advance=len(changes), status=f"change {np.median(changes):.2f}")
            return arrays

        found[epsilon] = batches.in_batches(compute, len(images), config.batch, keep)
    return found


def summarised(config, images, found):
    """{epsilon: {measure: row of report.summary}} and {epsilon: flags}."""
    rows, flags = {}, {}
    for epsilon, arrays in found.items():
        changes = {name.removeprefix("change_"): v for name, v in arrays.items() if name.startswith("change_")}
        rows[epsilon] = report.summary({"change": robustness.largest(arrays), **changes}, config.seed)
        flags[epsilon] = robustness.flags_of(images, arrays)._asdict()
    return rows, flags


def verdict(name, explanation, epsilon, row, flags, count):
    """A sentence, and what is against believing it."""
    left = [1 - row[end] for end in ("value", "high", "low")]
    plural = "s" * (count != 1)
    said = (f"Within {epsilon:g} of every pixel, the {explanation} map of {name} can be changed, the prediction "
            f"staying, until it has a correlation of {left[0]:.2f} with what it was (median of {count} image{plural}, "
            f"{left[1]:.2f} to {left[2]:.2f}).")
    raised = [robustness.READING[flag].format(f.value) for flag, f in flags.items() if f.raised]
    if raised:
        return f"{said} To be read with care: {'; '.join(raised)}."
    return f"{said} No flag is raised: no sign that the attack was weak, and no certificate either."


def table(rows, flags, title):
    """A line for each epsilon, for the terminal."""
    names = {name: label for name, label in robustness.SEARCHES.items() if name in next(iter(rows.values()))}
    raised = {e: [report.words(name) for name, f in of.items() if f.raised] for e, of in flags.items()}
    return report.grid(
        ("epsilon", "change of the map", *(f"by {label}" for label in names.values()), "flags"),
        [(f"{e:g}", report.cell(row["change"]), *(f"{row[name]['value']:.3f}" for name in names),
          "\n".join(raised[e]) or "none") for e, row in rows.items()], title=title)


def finder(arrays, i):
    """The search that changed the map of image i most."""
    return max((k for k in robustness.SEARCHES if f"change_{k}" in arrays), key=lambda k: arrays[f"change_{k}"][i])


def figure(names, images, arrays):
    """The images whose maps changed most, before and after."""
    changes = robustness.largest(arrays)
    rows = {}
    for i in np.argsort(-changes)[:4]:
        best = finder(arrays, i)
        rows[names[i]] = [images[i], arrays[f"pixels_{best}"][i], arrays["map_original"][i], arrays[f"map_{best}"][i]]
    notes = {name: ["", "", "", f"r {1 - changes[names.index(name)]:.2f}"] for name in rows}
    return plot.gallery(rows, ["image", "changed", "its map", "changed map"], notes=notes)


def pictures(names, images, arrays, classes, epsilon):
    """The images whose maps changed most, before and after."""
    changed, found = robustness.largest(arrays), []
    for i in np.argsort(-changed)[:3]:
        best = finder(arrays, i)
        before = images[i], arrays["map_original"][i]
        after = arrays[f"pixels_{best}"][i], arrays[f"map_{best}"][i]
        predicted = [report.predicted(arrays[f"logits_{of}"][i], classes) for of in ("original", best)]
        found.append(html_report.Picture(
            f"{names[i]}, changed within {epsilon:g} by {robustness.SEARCHES[best]}",
            f"Clean: {predicted[0]}. Changed: {predicted[1]}. Correlation of the two maps {1 - changed[i]:.2f}. "
            f"{html_report.SIGNS}",
            [html_report.maps({"clean": before, "changed": after}), html_report.changes(before, after)]))
    return found


def details(names, classes, found, flags):
    """The tables that only report.html shows: the flags, and a line for each image, the most changed first."""
    changed = {e: robustness.largest(arrays) for e, arrays in found.items()}
    labels = found[max(found)]["logits_original"].argmax(1)
    return (report.grid(("epsilon", "flag", "raised", "value", "limit"), [
                (f"{e:g}", report.words(name), "yes" if f.raised else "no", f"{f.value:.3g}", f"{f.limit:g}")
                for e, of in flags.items() for name, f in of.items()], title="signs that the attack was weak"),
            html_report.by_image(("image", "predicted", *(f"change at {e:g}" for e in changed)), [
                (names[i], report.class_name(classes, labels[i]), *(f"{v[i]:.3f}" for v in changed.values()))
                for i in np.argsort(-changed[max(changed)])], "by image, the most changed first"))


def curves(rows):
    """The change that each search finds over epsilon; none of a single one."""
    if len(rows) < 2:
        return []
    found = {label: {e: tuple(row[name][end] for end in ("value", "low", "high")) for e, row in rows.items()}
             for name, label in robustness.SEARCHES.items() if name in next(iter(rows.values()))}
    figure = plot.sweep({"": found}, xlabel="epsilon: largest change of any pixel", ylabel="change of the map")
    return [html_report.Picture("Over epsilon", "Medians with their bootstrap intervals.", [html_report.png(figure)])]


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    computing = Computing(config, console)
    network, other, names, images = subjects(config)
    out, settings = runs.begin(f"judge-{network.name}-{config.explanation}", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    inputs.note(out, network.name, network, names, images)
    if other:
        runs.same_inputs(out, {f"the weights of {other.name}": (other.params, other.state)}, "inputs-transfer")
    start = time.perf_counter()
    with batches.progress(console) as bar:
        found = searched(config, network, other, images, out, bar, computing)
    rows, flags = summarised(config, images, found)
    clean = found[max(found)]["logits_original"]
    said = {f"{e:g}": verdict(network.name, config.explanation, e, rows[e]["change"], flags[e], len(images))
            for e in rows}
    files.write_arrays(out / "arrays.npz", {"x": images} | {
        f"{name}@{e:g}": v for e, arrays in found.items() for name, v in arrays.items()})
    files.write_json(out / "results.json", {
        "config": settings, **runs.environment(), **computing.noted(),
        "seconds": round(time.perf_counter() - start, 1), "images": names,
        "predictions": [report.class_name(network.classes, y) for y in clean.argmax(1)],
        "verdicts": said, "metrics": {f"{e:g}": row for e, row in rows.items()},
        "flags": {f"{e:g}": {name: flag._asdict() for name, flag in of.items()} for e, of in flags.items()},
        "per_image": {f"{e:g}": robustness.largest(arrays).tolist() for e, arrays in found.items()}})
    files.save_figure(figure(names, images, found[max(found)]), out / "figure.png")
    shown = table(rows, flags, f"{config.explanation} of {network.name}, {len(images)} images")
    html_report.write(
        out, f"{config.explanation} maps of {network.name}, judged", __doc__.splitlines()[0],
        [html_report.Verdict(said[f"{e:g}"], [name for name, f in of.items() if f.raised]) for e, of in flags.items()],
        [*pictures(names, images, found[max(found)], network.classes, max(found)), *curves(rows)],
        [shown, *details(names, network.classes, found, flags)])
    console.print(shown)
    for sentence in said.values():
        console.print(sentence, highlight=False)
    console.print(f"results.json, arrays.npz, figure.png and report.html are in [bold]{out}[/bold]")


def run(arguments=None) -> None:
    runs.command("judge", Config, main, __doc__, arguments)


if __name__ == "__main__":
    run()
