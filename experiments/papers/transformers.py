"""Are the explanations of networks with attention easier to manipulate than those of convolutional ones?

    XMANIP_DATA=<data folder> python experiments/reproduce.py transformers
    python experiments/reproduce.py transformers --quick        # without data or weights

Networks on MNIST: the zoo's vision transformer (mnist_vit), a convolutional relu network of equal accuracy (small_cnn,
which the authors of Boopathy et al. 2020 trained), and the zoo's convolutional softplus network (mnist_softplus), which
is smooth as the transformer is. Images: the first of the test split that a network classifies correctly. With one
setting for all:

1. each image is attacked towards the explanation of the next one: how alike do the maps become, at what image change?
2. the largest change of the explanation within epsilon, by gradient ascent and by a random search that sees no
   gradient, and the flags that say whether the number is to be believed;
3. the spectral norm of the input Hessian of the predicted class's logit, and that over the gradient's norm. A relu
   network has none: its Hessian is 0 between the kinks.

The run folder gets results.json (medians with bootstrap intervals) and arrays.npz (<network>/<explanation>/<array>, a
value for each image, from which all numbers can be recomputed). What is finished is kept in parts/; --resume goes on.
"""

import dataclasses
import time
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from common import batches, files, inputs, named_explanations, report, robustness, runs
from xmanip_jax import geometry, rewrite, smooth

EXPLANATIONS = ("gradient", "gradient_x_input", "integrated_gradients", "attnlrp", "cp_lrp", "grad_cam",
                "attention_rollout", "gradient_attention_rollout")
ATTENTION = {"attention_rollout", "gradient_attention_rollout"}  # of networks that have some
SHOWN = {"map_pearson_before": "r before", "map_pearson": "r after", "image_mse": "image MSE",
         "prediction_unchanged": "kept", "probability_change": "change of a probability",
         "largest_change": "largest change"}


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """Convolutional against attentional networks."""

    networks: tuple[str, ...] = ("small_cnn", "mnist_softplus", "mnist_vit")
    """Names of xmanip_jax.models.NETWORKS or of the zoo, on MNIST or CIFAR-10."""
    explanations: Annotated[tuple[str, ...], runs.choices("The explanations", named_explanations.EXPLANATIONS)] = (
        EXPLANATIONS)
    count: int = 100
    """Number of images of each network."""
    steps: int = 150
    """Number of steps of the attack towards a target."""
    batch: int = 50
    """Number of images attacked together."""
    epsilon: float = 0.05
    """Largest change of any pixel, which is in [0, 1], in the search for the largest change."""
    ascent: int = 20
    """Number of steps of that search, from each of its restarts."""
    restarts: int = 2
    """Number of its random starts, at least 2."""
    quick: bool = False
    """Random images, a random network, few steps: does everything run?"""


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.quick:
        config = dataclasses.replace(config, networks=("random",), count=2, steps=2, batch=2, ascent=2)
        if config.explanations == EXPLANATIONS:  # the others take a minute to compile
            config = dataclasses.replace(config, explanations=("gradient",))
    runs.check_known("explanation", config.explanations, named_explanations.EXPLANATIONS)
    runs.check_positive(config, "count", "steps", "batch", "epsilon", "ascent")
    if config.restarts < 2:
        raise ValueError(f"--restarts is at least 2: the flags compare them, got {config.restarts}")
    return config


def explained(config, network, name, images, targets, out, bar):
    """Of one explanation: the arrays of `batches.attack_batches`, as search_<name> those of `robustness.searches`."""
    pair, part = named_explanations.method(name, network), f"{network.name}-{name}"
    found = batches.attack_batches(
        pair, network, images, targets, batch=config.batch, seed=config.seed, steps=config.steps,
        keep=runs.keeping(out, part, "seconds"), watch=batches.watching(bar, part, config.steps))
    search = robustness.searches(pair, network, epsilon=config.epsilon, steps=config.ascent, restarts=config.restarts)
    compute = lambda chosen, index: search(images[chosen], jax.random.fold_in(jax.random.key(config.seed), index))
    largest = batches.in_batches(compute, len(images), config.batch,
                                 lambda index, compute: runs.finished(out, index, compute, name=f"{part}-search"))
    return found | {f"search_{key}": value for key, value in largest.items()}


def curvature(network, images):
    """{"hessian": the spectral norm of a logit's Hessian in the pixels, "normalised": over the gradient's}, if any."""
    if smooth.kinks(network.model, network.preprocess(jnp.asarray(images[0]))):
        return {}

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def measured(model, pixels):
        label = model(network.preprocess(pixels)).argmax()
        g = lambda pixels: model(network.preprocess(pixels))[label]
        return geometry.spectral_norm(g, pixels).value, jnp.linalg.norm(jax.grad(g)(pixels).ravel())

    norm, slope = map(np.asarray, measured(network.model, images))
    return {"hessian": norm, "normalised": norm / slope}


def numbers(arrays):
    """{measure: Float[n]} of one explanation, from its arrays alone."""
    return report.measure(arrays) | {"largest_change": robustness.largest(searched(arrays))}


def searched(arrays):
    """Those of `robustness.searches`."""
    return {key.removeprefix("search_"): value for key, value in arrays.items() if key.startswith("search_")}


def study(config, name, out):
    """(names of the images, {explanation: arrays}, of the curvature {measure: values}) of a network."""
    network = inputs.network(name, quick=config.quick, seed=config.seed)
    found = inputs.photographs(network, config.count) if config.quick else inputs.standard(network, config.count)
    names, images = found
    targets = inputs.targets(*found)
    inputs.note(out, name, network, names, images, targets)
    attention = rewrite.inspect(network.model, network.preprocess(jnp.asarray(images[0]))).attention
    fitting = [e for e in config.explanations if attention or e not in ATTENTION]
    with batches.progress(Console(), transient=True) as bar:
        arrays = {e: explained(config, network, e, images, targets, out, bar) for e in fitting}
    return names, arrays, runs.finished(out, 0, lambda: curvature(network, images), name=f"{network.name}-curvature")


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    out, settings = runs.begin("transformers", config)
    console.print(f"run folder: [bold]{out}[/bold]")
    start, images, results, everything = time.perf_counter(), {}, {}, {}
    for name in config.networks:
        images[name], arrays, bends = study(config, name, out)
        rows = {e: report.summary(numbers(a), config.seed) for e, a in arrays.items()}
        flags = {e: robustness.flags_of(a["x"], searched(a)) for e, a in arrays.items()}
        results[name] = {"explanations": rows, "curvature": report.summary(bends, config.seed),
                         "flags": {e: {flag: of._asdict() for flag, of in f._asdict().items()}
                                   for e, f in flags.items()}}
        everything |= {f"{name}/{e}/{key}": value for e, found in arrays.items() for key, value in found.items()}
        everything |= {f"{name}/curvature/{key}": value for key, value in bends.items()}
        lines = [(report.words(e), *(report.cell(row[measure]) for measure in SHOWN)) for e, row in rows.items()]
        console.print(report.grid(("", *SHOWN.values()), lines, title=name, caption="medians above 95 % intervals"))
        console.print({measure: row["value"] for measure, row in results[name]["curvature"].items()})
    files.write_arrays(out / "arrays.npz", everything)
    files.write_json(out / "results.json", {
        "config": settings, **runs.environment(), "seconds": round(time.perf_counter() - start, 1), "images": images,
        "results": results})


def run(arguments=None) -> None:
    runs.command("transformers", Config, main, __doc__, arguments)
