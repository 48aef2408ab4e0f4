"""What explanations of a network and attacks on them cost, in forward passes of that network.

    python experiments/cost.py --network cifar10_resnet20
    python experiments/cost.py --model net.py:network --batches 1 8 32
    python experiments/cost.py --quick             # without weights

For every explanation and batch size, the forward pass, the map, and a step of the attack on it: loss, gradient through
the explanation, Adam, projection, on the smooth surrogate that manipulate.py climbs (a network without kinks is its
own). Each is compiled once and the three take turns, so that their ratios belong to one run; FLOPs are XLA's count, and
memory is what XLA sets aside beside arguments and results. Limits are what the convolutions of map and step cost at
least. integrated_gradients and smoothgrad count 5 points or samples: others scale with their number.

Weights and images change no cost; the images are random. What a network cannot have is refused in its row, with the
reason. Beside plain PyTorch stand three of the project's networks in benchmarks/second_order.py.

The run folder gets results.json, table.md, and report.html, which opens in any browser. Finished rows are kept in
parts/; --resume goes on after them.
"""

import common.program  # isort: skip  # noqa: F401  (first: Ctrl-C during the other imports)

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
from rich.console import Console

from common import batches, cost_measures, files, html_report, inputs, machines, named_explanations, report, runs
from common.named_explanations import EXPLANATIONS, Needs
from xmanip_jax import rewrite, smooth

HEAD = ("explanation", "batch", "map FLOPs", "map time", "step FLOPs", "step time", "limits", "step ms", "step MiB",
        "compile s")


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """Explanations and attack steps of a network, in its forward passes."""

    network: str = "efficientnet_lite0"
    """The network: efficientnet_lite0, squeezenet1_1, cifar10_resnet20, cifar10_resnet56, small_cnn, small_cnn_cifar10,
    vgg16, vgg19, resnet18, resnet50, densenet121, vit_b_16, deit_tiny, convnext_tiny, swin_t, mobilenet_v3_large,
    mobilenet_v3_small, cct_2_3x2_32 or cct_7_3x1_32; or one of zoo/."""
    model: str | None = None
    """A network of your own instead: FILE.py:NAME or module:NAME, see docs/howto/own-network-in-the-jobs.md."""
    weights: Path | None = None
    """A .safetensors, .pth or .pt file; default: the network's own."""
    explanations: Annotated[tuple[str, ...], runs.choices("The explanations", EXPLANATIONS)] = (
        cost_measures.EXPLANATIONS)
    layer: str = "features"
    """Layer of grad_cam, layer_gradient and lrp_heo2019."""
    batches: tuple[int, ...] = (1, 8)
    """Numbers of images explained and attacked together."""
    repeats: int = 7
    """Number of turns of each, of 50 ms at least; medians count."""
    quick: bool = False
    """A small network with random weights, or your own, the gradient alone, one image: does everything run?"""


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.quick:
        config = dataclasses.replace(config, explanations=config.explanations[:1], batches=config.batches[:1],
                                     repeats=1)
    if config.process:
        raise ValueError("costs are measured in one process: leave --process out")
    runs.check_known("explanation", config.explanations, EXPLANATIONS)
    runs.check_some(config, "explanations", "batches")
    runs.check_positive(config, "batches", "repeats")
    return config


def explanation_of(name, network, x, layer):
    """The explanation of a row; any patterns cost the same."""
    layers = rewrite.linear_layers(network.model)(x) if name == "pattern_attribution" else {}
    needs = Needs(*named_explanations.bounds(network), layer, {k: np.asarray(v.w) for k, v in layers.items()},
                  **cost_measures.AVERAGES)
    return EXPLANATIONS[name].make(needs)


def measured(config, network, scales, name, batch):
    """The row of an explanation at a batch size, flat: {forward.flops: ...}; raises ValueError for what is refused."""
    pixels = machines.spread(jax.random.uniform(jax.random.key(config.seed), (batch, *network.input_shape)))
    explanation = explanation_of(name, network, network.preprocess(pixels[0]), config.layer)
    surrogate = smooth.relative()
    run = cost_measures.functions(network.net.apply, network.preprocess, explanation, lambda f: f,
                                  lambda f: surrogate.rewrite(f, scales, 0.0))
    found = cost_measures.measured(run, (network.params, network.state), pixels, network.num_classes, config.repeats)
    return {f"{part}.{key}": value for part, of in found.items() for key, value in of.items()}


def rows_of(config, network, out, bar):
    """[(explanation, batch, row or the reason why there is none)]; finished rows are read back."""
    task = bar.add_task("rows", total=len(config.batches) * len(config.explanations), status="")
    x = network.preprocess(jax.random.uniform(jax.random.key(config.seed), network.input_shape))
    scales, rows = jax.jit(smooth.relative().fit)(network.model, x), []
    for index, (batch, name) in enumerate((b, n) for b in config.batches for n in config.explanations):
        bar.update(task, status=f"{name}, batch {batch}")
        try:
            found = runs.finished(out, index, partial(measured, config, network, scales, name, batch))
            rows.append((name, batch, {key: float(v) for key, v in found.items()}))
        except ValueError as error:
            rows.append((name, batch, str(error).splitlines()[0]))
        bar.advance(task)
    bar.update(task, status="")
    return rows


def cells(name, batch, row):
    """A row as text, under HEAD."""
    if isinstance(row, str):
        return [name, str(batch), "refused", *[""] * (len(HEAD) - 3)]
    limits = "{:g} / {:g}".format(*EXPLANATIONS[name].passes(Needs(0, 1, **cost_measures.AVERAGES)))
    ratio = lambda part, kind: f"{row[f'{part}.{kind}_ratio']:.2f}"
    return [name, str(batch), ratio("map", "flop"), ratio("map", "time"), ratio("step", "flop"), ratio("step", "time"),
            limits, f"{row['step.ms']:.1f}",
            f"{row['step.temporary_mib']:.0f}", f"{row['step.compile_s']:.1f}"]


def write_page(out, name, rows, shown, refused):
    """report.html."""
    of = lambda batch, part: {n: row[f"{part}.time_ratio"] for n, b, row in rows
                              if b == batch and not isinstance(row, str)}
    sizes = dict.fromkeys(batch for _, batch, row in rows if not isinstance(row, str))
    ends = lambda part: " to ".join(dict.fromkeys(
        f"{end(v for b in sizes for v in of(b, part).values()):.2g}" for end in (min, max)))
    said = (f"A map of {name} takes the time of {ends('map')} forward passes, a step of the attack on it that of "
            f"{ends('step')}, by explanation and batch size."
            if sizes else f"{name} has none of these explanations.")
    graphs = [html_report.bars(f"{what}, batch {batch}: time in forward passes", of(batch, part))
              for batch in sizes for part, what in (("map", "map"), ("step", "step of the attack"))]
    reasons = [report.grid(("explanation", "reason"), [*refused.items()], title="refused")] if refused else []
    html_report.write(out, f"Cost of explanations of {name}", __doc__.splitlines()[0], [html_report.Verdict(said)], [],
                      [shown, *reasons], graphs)


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    network = inputs.chosen(config)
    out, settings = runs.begin(f"cost-{network.name}", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    inputs.note(out, network.name, network, [], [])
    with batches.progress(console) as bar:
        rows = rows_of(config, network, out, bar)
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "rows": [
        {"explanation": name, "batch": batch, **({"refused": row} if isinstance(row, str) else row)}
        for name, batch, row in rows]})
    files.write_text(out / "table.md", report.markdown(HEAD, [cells(*row) for row in rows]))
    forward = {batch: row["forward.ms"] for _, batch, row in rows if not isinstance(row, str)}
    times = ", ".join(f"{ms:.1f} ms for {batch} image{'s' * (batch > 1)}" for batch, ms in forward.items())
    shown = report.grid(HEAD, [cells(*row) for row in rows],
                        title=f"{network.name}: FLOPs and times in forward passes ({times})")
    refused = {name: row for name, _, row in rows if isinstance(row, str)}
    write_page(out, network.name, rows, shown, refused)
    console.print(shown)
    for name, reason in refused.items():
        console.print(f"{name} is refused: {reason}", highlight=False)
    console.print(f"results.json, table.md and report.html are in [bold]{out}[/bold]")


def run(arguments=None) -> None:
    runs.command("cost", Config, main, __doc__, arguments)


if __name__ == "__main__":
    run()
