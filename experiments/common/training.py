"""One network trained with a defence, and judged by an attack on its explanation that knows it."""

import csv
import dataclasses
import math
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.tree_util import Partial

from common import (
    batches,
    files,
    html_report,
    inputs,
    machines,
    program,
    report,
    robustness,
    runs,
    training_data,
    training_report,
    user_model,
)
from common.defence_recipes import NETWORKS, RECIPES
from xmanip_jax import checkpoint, devices, models, smooth, train


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """One network, one defence."""

    dataset: Literal["mnist", "cifar10"] | None = None
    """The data set to train and judge on; default: mnist, where no --images are given."""
    images: Path | None = None
    """A folder of images instead, for --model or --network, with a subfolder for each class or an index.csv; test/ or
    val/ beside train/ judges, or else every fifth image of each class."""
    defence: Annotated[str, runs.choices("The defence", RECIPES)] = "plain"
    weight: float | None = None
    """Weight of the penalty, or of the decay; default: the defence's own."""
    beta: float = 5.0
    """Sharpness of softplus in the defences that are smooth; where that of lcnn begins."""
    epsilon: float = 0.1
    """Largest change of any pixel, which is in [0, 1], in training."""
    inner: int = 10
    """Number of steps of each inner maximisation of a defence."""
    train_images: int = 20_000
    """Number of images to train on at most: the first ones of the training split, or of each class of --images."""
    epochs: int = 3
    """Number of passes over the training images."""
    batch: int = 50
    """Number of images of a training step."""
    learning_rate: float = 4e-3
    """Learning rate of the first step, decayed to 0 by a cosine."""
    model: str | None = None
    """A network of your own: FILE.py:NAME or module:NAME."""
    network: str | None = None
    """One of the project's networks, with its weights: squeezenet1_1, cifar10_resnet20, efficientnet_lite0 and so on;
    default: the Small network for the data set, from scratch."""
    start: Path | None = None
    """A weights.safetensors of the network to go on from; atex distils it."""
    epsilons: tuple[float, ...] = (0.02, 0.05, 0.1)
    """Largest changes of any pixel, which is in [0, 1], in the attacks that judge."""
    count: int = 200
    """Number of test images that are attacked."""
    restarts: int = 2
    """Number of random starts of each attack, at least 2."""
    quick: bool = False
    """Random images, a few steps: does everything run?"""


class Start(NamedTuple):
    """What training begins with: a network, its weights, and itself as it is before; see models.Net.

    save(params, state, file): keeps its weights, under the names that `--start` reads.
    """

    net: Any
    params: Any
    state: Any
    teacher: Any
    save: Callable[[Any, Any, Path], None]


def begun(config, recipe, shape):
    """Where the recipe's own network starts."""
    module = recipe.network(shape, recipe.act(config.beta), nnx.Rngs(config.seed))
    if config.start:
        models.load_weights(module, config.start)

    teacher = config.start and models.load(NETWORKS[config.dataset], config.start).model
    return Start(*models.functional(module), teacher, _saving(module))


def chosen(config) -> models.Pretrained | None:
    """The network of --model or --network, as a function of the pixels; None for the data set's Small one."""
    if not (config.model or config.network):
        return None
    name = config.model or config.network
    return user_model.of_pixels(inputs.network(name, weights=config.start, quick=config.quick, seed=config.seed))


def softened(net, beta) -> models.Net:
    """A network with softplus in the place of its kinks, in evaluation and in training; beta: as in smooth.softplus."""
    soft = lambda f: smooth.softplus(f, beta)
    return models.Net(lambda p, s, x: soft(lambda x: net.apply(p, s, x))(x),
                      lambda p, s, xs, key=None: soft(lambda xs: net.train_apply(p, s, xs, key))(xs))


def own_start(config, recipe, own):
    """Where a network of `chosen` starts: as it is, or on its softplus where the recipe needs a smooth network."""
    net, x = own.net, jnp.zeros(own.input_shape)
    if net.train_apply is None:
        raise ValueError(f"{config.model} returns a function, whose parameters are not known: give apply and params in "
                         "the place of model")
    if recipe.act(config.beta) is not jax.nn.relu and smooth.kinks(own.model, x):
        net = softened(net, config.beta)
    for _, term in recipe.terms(1.0, config.epsilon, config.inner, own.model):  # what it cannot do it says here
        jax.eval_shape(lambda p, s, x, key, term=term: term(net.apply, p, s, x, 0, key), own.params, own.state, x,
                       jax.random.key(0))
    save = _save_own if config.model else _saving(models.NETWORKS[own.name].build(rngs=nnx.Rngs(0)))
    return Start(net, own.params, own.state, own.model, save)


def _save_own(params, state, file):
    models.save_tensors(user_model.tensors(params, state), file)


def _saving(module):
    """`Start.save` of a module."""

    def save(params, state, file):
        nnx.update(module, params, state)
        models.save_weights(module, file)

    return save


def trained(config, out, console, own=None):
    """The network with its trained parameters: (recipe, start, training, what it was trained on)."""
    recipe = RECIPES[config.defence]
    found = training_data.read(config, own)
    runs.same_inputs(out, training_data.inputs_of(found))
    if found.said:
        console.print(found.said, highlight=False)
    images, labels = found.images, found.labels
    begin = own_start(config, recipe, own) if own else begun(config, recipe, images.shape[1:])
    net, params, state, teacher, _ = begin
    if len(images) < config.batch:
        raise ValueError(f"--batch is at most the number of images to train on, {len(images)}, got {config.batch}")
    steps = config.epochs * (len(images) // config.batch)
    weight = recipe.weight if config.weight is None else config.weight
    optimizer = recipe.optimizer(optax.cosine_decay_schedule(config.learning_rate, steps), weight)
    fit = train.fit(
        optimizer, terms=recipe.terms(weight, config.epsilon, config.inner, teacher), label_weight=recipe.label_weight,
        batch=config.batch, steps=steps, every=min(50, steps), devices=machines.everywhere(),
        scale=lambda step: jnp.minimum(1.0, 2 * step / steps))  # half of the steps to the full weight
    like = train.begin(params, state, optimizer, seed=config.seed)
    return recipe, begin, finished(config.defence, fit, steps, net, like, images, labels, out, console), found


def finished(title, fit, steps, net, like, images, labels, out, console):
    """The training that `fit` finishes after `steps`, from the last one kept in `out`, or as `like` begins it.

    It is kept in checkpoints/, and its numbers are noted in log.csv.
    """
    folder = out / "checkpoints"
    start = checkpoint.load_step(folder, like=like) if checkpoint.latest_step(folder) is not None else like
    table = out / "log.csv" if machines.first() else os.devnull
    with open(table, "a" if start.step else "w", newline="") as file, batches.progress(console) as bar:
        log, task = csv.writer(file), bar.add_task(title, total=steps, status="", completed=int(start.step))

        def show(step, numbers):
            if not file.tell():
                log.writerow(["step", *numbers])
            log.writerow([step, *numbers.values()])
            file.flush()
            bar.update(task, completed=step, status="  ".join(f"{k} {v:.4g}" for k, v in numbers.items()))

        return fit(net, start, images, labels, callback=show, keep=partial(_keep, folder))


def _keep(folder, training):
    if machines.first():
        with program.WHOLE:
            checkpoint.save_step(folder, int(training.step), training)


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    runs.check_known("defence", config.defence, RECIPES)
    if config.network:
        runs.check_known("network", config.network, models.NETWORKS)
    if config.network and config.model:
        raise ValueError("choose one of --network and --model")
    if config.images and config.dataset:
        raise ValueError("choose one of --images and --dataset")
    if config.images and not (config.network or config.model):
        raise ValueError("--images go with the network that takes them: --model FILE.py:NAME, or --network")
    if not (config.images or config.dataset):
        config = dataclasses.replace(config, dataset="mnist")
    if config.quick:
        config = dataclasses.replace(config, train_images=64, epochs=2, batch=min(config.batch, 16), count=4,
                                     restarts=2, inner=1)
    if config.weight is not None and not 0 <= config.weight < math.inf:
        raise ValueError(f"--weight is not negative, got {config.weight}")
    runs.check_some(config, "epsilons")
    runs.check_positive(config, "epsilon", "beta", "train_images", "epochs", "batch", "learning_rate",
                        "count", "epsilons")
    if config.start and not config.start.is_file():
        raise ValueError(f"--start names a weights.safetensors, got {config.start}")
    if RECIPES[config.defence].teacher and not (config.start or config.model or config.network):
        raise ValueError(f"{config.defence} distils the network that it starts from: --start names its weights")
    if RECIPES[config.defence].scratch and (config.model or config.network):
        named = "--model" if config.model else "--network"
        raise ValueError(f"{config.defence} trains a network of its own kind: leave {named} out")
    if config.restarts < 2:
        raise ValueError(f"--restarts is at least 2: the flags compare them, got {config.restarts}")
    return config


def train_and_judge(config, out, settings, console, own=None):
    """The whole of a run in the folder `out`; the summary that results.json holds.

    own: of `chosen`, what is trained instead of the recipe's network.
    """
    start = time.perf_counter()
    recipe, (net, *_, teacher, save), training, found = trained(config, out, console, own)
    params, state = jax.tree.map(jnp.asarray, devices.fetched((training.params, training.state)))
    if machines.first():
        with program.WHOLE:
            save(params, state, out / "weights.safetensors")
    model, images, labels = Partial(net.apply, params, state), found.test_images, found.test_labels
    with batches.progress(console) as bar:
        task = bar.add_task("judging", total=len(config.epsilons) * min(config.count, len(images)), status="")
        values, flags = robustness.judged(
            model, images, labels, epsilons=config.epsilons, count=config.count, restarts=config.restarts,
            seed=config.seed, surrogate=robustness.surrogate_of(recipe.act(config.beta)),
            batch=config.batch if own else config.count, advance=partial(bar.advance, task))
    files.write_arrays(out / "arrays.npz", values)
    rows = report.summary(values, config.seed, mean=[name for name in values if "accuracy" in name])
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "labels": found.said,
                                           "metrics": rows,
                                           "flags": {name: flag._asdict() for name, flag in flags.items()},
                                           "seconds": round(time.perf_counter() - start, 1)})
    html_report.write(out, f"{own.name if own else NETWORKS[config.dataset]}, trained with {config.defence}",
                      __doc__.splitlines()[0], [training_report.verdict(config, rows, flags, found.said)],
                      training_report.pictures(model, teacher, images, labels, own.classes if own else ()),
                      [training_report.table(rows)], training_report.curves(out / "log.csv"))
    return rows


