"""How much a network's output bends, what that lets an attack do to its heat map, and what it lets no attack do.

    python experiments/curvature.py --networks mnist_smallgap_normal mnist_smallgap_int
    python experiments/curvature.py --model net.py:network --images photos/
    python experiments/curvature.py --quick        # without data or weights

For each network, as it is (relu) and with softplus of several kappa (beta_l = kappa / s_l, s_l the scale of activation
l's inputs averaged over 32 images), and the gradient map of the predicted class; a network without kinks as it is
(smooth) only:

1. curvature of the logit (not of relu): norms of gradient and Hessian, normalised and level-set curvature, the bound of
   the Hessian from the weights;
2. at each epsilon, a budget for every pixel, the most that `attack.largest_change` within it, or within a smaller one,
   does to the heat map while the prediction stays, and to its top k pixels, each of which one search climbs;
3. beside it what is certified for every image in the ball, by intervals and by following the inputs linearly (--linear,
   as many forward passes as the input has numbers), in double precision;
4. along the way to the attacked image (not of relu), the change of gradient and normal with their bounds.

Bounds that the library has not for a network are left out, and the reason is printed. A network of your own
(docs/howto/own-network-in-the-jobs.md) is seen as a function of the pixels.

The run folder gets results.json (medians with bootstrap intervals), arrays.npz (<network>/<activation>/<array>), two
figures, and report.html, which shows it all, the worst images first, and opens in any browser. What is finished is kept
in parts/; --resume goes on after it.
"""

import common.program  # isort: skip  # noqa: F401  (first: Ctrl-C during the other imports)

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from common import batches, curvature_measures, curvature_report, files, html_report, inputs, machines, runs, user_model
from common.machine import Computing
from xmanip_jax import smooth


@dataclasses.dataclass(frozen=True)
class Config(runs.Computed):
    """Curvature, attacks and certificates of networks."""

    networks: tuple[str, ...] = ("mnist_smallgap_normal", "mnist_smallgap_adv", "mnist_smallgap_int")
    """Names of xmanip_jax.models.NETWORKS, of the zoo, or of networks/boopathy2020 in the data folder."""
    model: str | None = None
    """A network of your own instead: FILE.py:NAME or module:NAME."""
    weights: Path | None = None
    """A .safetensors, .pth or .pt file for the only one of the networks, or for your own."""
    images: Path | None = None
    """A folder of images; default: what the project's network was trained for, from the data folder (XMANIP_DATA), or
    scikit-image's six photographs, as for your own network."""
    dataset: Literal["cifar10", "mnist"] | None = None
    """A tensorflow-datasets test split instead: its first correctly classified images."""
    kappas: tuple[float, ...] = (10.0, 2.0)
    """Sharpnesses of softplus, in units of each activation's scale."""
    epsilons: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    """Largest changes of any pixel, which is in [0, 1]."""
    count: int = 100
    """Number of images of each network, of a test split correctly classified ones."""
    certified: int = 20
    """Number of images for which bounds are computed."""
    linear: bool = True
    """Follow the inputs linearly as well; for networks with skip connections a matter of hours."""
    batch: int = 20
    """Number of images measured together."""
    k: int = 20
    """Number of leading pixels that are the top of a map."""
    steps: int = 20
    """Number of gradients that an attack takes from each start."""
    restarts: int = 1
    """Number of random starts of an attack at each epsilon."""
    quick: bool = False
    """A small network with random weights, or your own, on scikit-image's photographs: does everything run?"""


def measured(config, network, pixels, betas, run, keep, *, smooth=False):
    """Parts 1, 2 and 4 of one activation: arrays with a leading axis of images, those at an epsilon named after it.

    betas: None for the network as it is;  run: `curvature_measures.measures`;  smooth: whether it has no kinks.
    """
    curved = smooth or betas is not None
    model = curvature_measures.model_of(network.model, betas)

    def compute(part, index):
        p, key = machines.spread(jnp.asarray(pixels[part])), jax.random.fold_in(jax.random.key(config.seed), index)
        y, keys = run.predict(network.model, betas, p), jax.random.split(key, len(p))
        found = {"y": y}
        for measure in run.curvature if curved else ():
            found |= measure(network.model, betas, p, y, keys)
        for eps, now in curvature_measures.attacked(run.searches[curved], model, p, y, key, config.epsilons, config.k):
            found |= {f"attacked_change@{eps:g}": now.change, f"attacked_top@{eps:g}": now.top}
            for way in run.way if curved else ():
                found |= {f"{k}@{eps:g}": v for k, v in way(network.model, betas, p, now.pixels, y).items()}
        return found

    return batches.in_batches(compute, len(pixels), config.batch, keep)


def certified(config, network, pixels, y, betas, run, keep):
    """Part 3, image by image in double precision: arrays Float[n, ...] named <bound>_<kind>@<epsilon>."""
    with jax.enable_x64(True):
        double = curvature_measures.double
        model, betas = double(network.model), double(betas)

        def compute(part, index):
            p, label, found = double(pixels[part]), y[part], {}
            for eps in config.epsilons:
                for kind, bound in run.bound.items():
                    values = bound(model, betas, p, label, np.full(1, eps))
                    found |= {f"{name}_{kind}@{eps:g}": np.asarray(v) for name, v in values.items()}
            return found

        return batches.in_batches(compute, len(pixels), 1, keep)


def softened(config, network, pixels):
    """{softplus <kappa>: betas}; empty for a network without kinks."""
    if not smooth.kinks(network.model, network.preprocess(pixels[0])):
        return {}
    scales = jax.jit(jax.vmap(lambda p: smooth.activation_scales(network.model, network.preprocess(p))))(pixels[:32])
    return {f"softplus {kappa:g}": kappa / scales.mean(0) for kappa in config.kappas}


def subject(config, name):
    """(what a network is called, (the network, the names of its images, their pixels))."""
    own = user_model.named(name)
    network = inputs.network(name, weights=config.weights, quick=config.quick, seed=config.seed)
    if config.k > (places := network.input_shape[0] * network.input_shape[1]):
        raise ValueError(f"--k is at most the number of pixels, {places} of {network.name}, got {config.k}")
    pictures = inputs.pictures(config, network, own=own)
    return (network.name, (user_model.of_pixels(network), *pictures)) if own else (name, (network, *pictures))


def study(config, name, network, names, pixels, out, bar, computing):
    """{activation: arrays} of one network."""
    inputs.note(out, name, network, names, pixels)
    betas = softened(config, network, pixels)
    few = {"probes": 4, "steps": 4} if config.quick else {}
    s = curvature_measures.Settings(k=config.k, attack=config.steps, restarts=config.restarts, **few)
    kinds = {"intervals": False} | ({"linear": True} if config.linear else {})
    s, kinds, reasons = curvature_measures.bounded(network, pixels[0], next(iter(betas.values()), None), s, kinds)
    for bound, reason in reasons.items():
        bar.console.print(f"{name} has no {bound}: {reason}")
    run, found = curvature_measures.measures(network.preprocess, s, kinds, **computing.options), {}
    for activation, b in {"relu" if betas else "smooth": None, **betas}.items():
        task = bar.add_task(f"{name} {activation}", total=len(pixels) + config.certified, status="")

        def keep(index, compute, kind="", task=task, activation=activation):
            arrays = runs.finished(out, index, compute, name=f"{name}-{activation.replace(' ', '')}{kind}")
            bar.advance(task, len(next(iter(arrays.values()))))
            return arrays

        arrays = measured(config, network, pixels, b, run, keep, smooth=not betas)
        few = slice(config.certified)
        arrays |= certified(config, network, pixels[few], arrays["y"][few], b, run, partial(keep, kind="-certified"))
        found[activation] = arrays
    return found


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.quick:
        config = dataclasses.replace(config, networks=("random",), kappas=(2.0,), epsilons=(1e-3, 1e-2), count=4,
                                     certified=1, batch=2, steps=2, linear=False)
    if config.model:
        if config.networks not in (Config.networks, ("random",)):
            raise ValueError("choose one of --networks and --model")
        config = dataclasses.replace(config, networks=(config.model,))
    if config.weights and len(config.networks) > 1:
        raise ValueError(f"--weights goes with a single network, got --networks {' '.join(config.networks)}")
    if config.images and config.dataset:
        raise ValueError("choose one of --images and --dataset")
    runs.check_some(config, "networks", "epsilons", "kappas")
    runs.check_positive(config, "count", "certified", "batch", "k", "steps", "restarts", "kappas", "epsilons")
    if config.certified > config.count:
        raise ValueError(f"--certified is at most --count {config.count}, got {config.certified}")
    return config


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    computing = Computing(config, console)
    subjects = dict(subject(config, name) for name in config.networks)
    out, settings = runs.begin("curvature", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    with batches.progress(console) as bar:
        found = {name: study(config, name, *of, out, bar, computing) for name, of in subjects.items()}
    rows = curvature_report.summaries(found, config.seed, config.k)
    files.write_arrays(out / "arrays.npz", {f"{n}/{a}/{k}": v for n, by in found.items() for a, arrays in by.items()
                                           for k, v in arrays.items()})
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), **computing.noted(),
                                            "results": rows})
    tables = curvature_report.tables(rows, config.epsilons, config.k)
    console.print(*tables)
    for title, figure in curvature_report.figures(found, rows, config.epsilons).items():
        files.save_figure(figure, out / f"{title}.png")
    figures = [html_report.Picture(title, about, [(out / f"{name}.png").read_bytes()]) for name, title, about in (
        ("certificates", "Heat maps within epsilon", "How far attacks move them, and how far no attack can."),
        ("curvature", "Curvature", "Boxes hold half of the images, whiskers 80 %."))]
    eps = max(config.epsilons)
    pages = [curvature_report.worst(name, subjects[name], by, eps) for name, by in found.items()]
    html_report.write(out, f"Curvature of {', '.join(found)}", __doc__.splitlines()[0],
                      curvature_report.verdicts(rows, eps), [*(picture for picture, _ in pages), *figures],
                      [*tables, *(table for _, table in pages)])
    console.print(f"results.json, arrays.npz, figures and report.html are in [bold]{out}[/bold]")


def run(arguments=None) -> None:
    runs.command("curvature", Config, main, __doc__, arguments)


if __name__ == "__main__":
    run()
