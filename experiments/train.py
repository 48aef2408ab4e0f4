"""Train a network with a defence, and judge it by an attack on its explanation that knows it.

    python experiments/train.py --defence hessian
    python experiments/train.py --defence plain --quick       # without data: does everything run?

The Small network of Boopathy et al. 2020 on MNIST. The defences are those of defences.py; --beta is the sharpness of
the softplus in those that need a smooth network. Judged on the test split: accuracy; accuracy under 20 sign steps on
the cross entropy; and the change of the gradient map of the label, 1 - Pearson correlation, that
`attack.largest_change` reaches within --epsilon of each pixel while the prediction stays, 20 steps from each of
--restarts random starts. It climbs the network itself; a relu network, whose gradient map is piecewise constant, it
climbs on its softplus.

The run folder gets log.csv, weights.safetensors, results.json and checkpoints/; killed, --resume goes on, to the same
bits.
"""

import csv
import dataclasses
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

import attacking
import report
import runs
from defences import RECIPES
from xmanip_jax import attack, checkpoint, data, defend, explain, models, smooth


@dataclasses.dataclass(frozen=True)
class Config:
    """One network, one defence."""

    defence: str = "plain"
    """Of defences.RECIPES."""
    weight: float | None = None
    """Of the penalty; default: the recipe's."""
    beta: float = 5.0
    """Sharpness of softplus."""
    epsilon: float = 0.1
    """The ball of training and of the attack, in pixels in [0, 1]."""
    inner: int = 10
    """Steps of inner maximisations."""
    images: int = 20_000
    epochs: int = 3
    batch: int = 100
    rate: float = 1e-3
    """Learning rate, decayed to 0 by a cosine."""
    judged: int = 200
    """Test images that are attacked."""
    restarts: int = 2
    teacher: Path | None = None
    """weights.safetensors of a plain network, for atex."""
    seed: int = 0
    out: Path | None = None
    """The run folder; default: runs/<defence>-<time>."""
    resume: bool = False
    quick: bool = False
    """64 random images, a few steps."""


def read(config):
    """(training images, labels, test images, labels)."""
    if config.quick:
        rng = np.random.default_rng(0)
        images, labels = rng.uniform(size=(64, 28, 28, 1)).astype(np.float32), rng.integers(0, 10, 64)
        return images, labels, images[:4], labels[:4]
    images, labels = data.load_dataset("mnist", "train", limit=config.images)
    return images, labels, *data.load_dataset("mnist", "test")


def trained(config, out, console):
    """The network with its trained parameters: (recipe, module, net, training, test images and labels)."""
    recipe = RECIPES[config.defence]
    images, labels, *test = read(config)
    module = models.SmallCNN(act=recipe.act(config.beta), rngs=nnx.Rngs(config.seed))
    net, params, state = models.functional(module)
    steps = config.epochs * (len(images) // config.batch)
    optimizer = recipe.optimizer(optax.cosine_decay_schedule(config.rate, steps))
    teacher = config.teacher and models.load("small_cnn", config.teacher).model
    weight = recipe.weight if config.weight is None else config.weight
    like = defend.begin(params, state, optimizer, seed=config.seed)
    folder = out / "checkpoints"
    start = checkpoint.load_step(folder, like=like) if checkpoint.latest_step(folder) is not None else like
    with open(out / "log.csv", "a", newline="") as file, attacking.progress(console) as bar:
        log, task = csv.writer(file), bar.add_task(config.defence, total=steps, status="", completed=int(start.step))

        def show(step, numbers):
            if not file.tell():
                log.writerow(["step", *numbers])
            log.writerow([step, *numbers.values()])
            file.flush()
            bar.update(task, completed=step, status="  ".join(f"{k} {v:.4g}" for k, v in numbers.items()))

        training = defend.fit(
            net, start, images, labels, optimizer, terms=recipe.terms(weight, config.epsilon, config.inner, teacher),
            label=recipe.label, batch=config.batch, steps=steps, every=min(50, steps), callback=show,
            scale=lambda step: jnp.minimum(1.0, 2 * step / steps),  # half of the steps to the full weight
            keep=lambda t: checkpoint.save_step(folder, int(t.step), t))
    return recipe, module, net, training, *test


def judged(config, recipe, net, training, images, labels):
    """Accuracies over the whole test split, and the attack on the maps of its first images."""
    model = partial(net.apply, jax.tree.map(jnp.asarray, training.params), training.state)
    right = jax.jit(jax.vmap(lambda x, y: model(x).argmax() == y))
    sweep = lambda f, *arrays: np.concatenate([np.float32(f(*(a[i:i + 500] for a in arrays)))
                                               for i in range(0, len(arrays[0]), 500)])
    x, y = images[:config.judged], labels[:config.judged]
    ascent = defend.Ascent(config.epsilon, 2.5 * config.epsilon / 20, 20, random_start=False)
    attacked = jax.jit(jax.vmap(lambda x, y: model(defend.ascend(
        lambda z: defend.cross_entropy(model(z), y), x, None, ascent)).argmax() == y))
    return {"accuracy": sweep(right, images, labels), "adversarial_accuracy": sweep(attacked, x, y),
            "map_change": explanation_change(config, recipe, model, x, y)}


def explanation_change(config, recipe, model, images, labels):
    """Float[n]: the largest 1 - Pearson of the gradient's heat maps that the ascent finds, the prediction staying."""
    surrogate = None if recipe.act(1.0) is jax.nn.relu else smooth.none()
    search = attack.largest_change(explain.gradient(), epsilon=config.epsilon, steps=20, restarts=config.restarts,
                                   surrogate=surrogate)
    return np.asarray(search(model, images, labels=labels, key=jax.random.key(config.seed)).change)


def checked(config):
    """The configuration that is run; refuses what can be refused before anything is read or computed."""
    if config.defence not in RECIPES:
        raise ValueError(f"unknown defence {config.defence!r}; known: {', '.join(RECIPES)}")
    if config.quick:
        config = dataclasses.replace(config, images=64, epochs=2, batch=16, judged=4, restarts=1, inner=1)
    if config.weight is not None and config.weight < 0:
        raise ValueError(f"--weight is not negative, got {config.weight}")
    for name in ("epsilon", "beta", "images", "epochs", "batch", "judged", "restarts"):
        if not getattr(config, name) > 0:
            raise ValueError(f"--{name} must be positive, got {getattr(config, name)}")
    if RECIPES[config.defence].teacher and not (config.teacher and config.teacher.is_file()):
        raise ValueError(f"{config.defence} distils a plain network: --teacher names its weights.safetensors")
    return config


def main(config: Config) -> None:
    console, config = Console(), checked(config)
    if config.out and (config.out / "checkpoints").exists() and not config.resume:
        raise ValueError(f"{config.out} already holds checkpoints: pass --resume to go on, or choose another --out")
    out, settings = runs.begin(config.defence, config)
    console.print(f"run folder: [bold]{out}[/bold]")
    start = time.perf_counter()
    recipe, module, net, training, images, labels = trained(config, out, console)
    nnx.update(module, jax.tree.map(jnp.asarray, training.params))
    models.save_weights(module, out / "weights.safetensors")
    values = judged(config, recipe, net, training, images, labels)
    rows = report.summary(values, config.seed, mean=("accuracy", "adversarial_accuracy"))
    runs.write_json(out / "results.json", {"config": settings, **runs.environment(), "metrics": rows,
                                           "seconds": round(time.perf_counter() - start, 1)})
    for name, row in rows.items():
        console.print(f"{name:22} {row['value']:.4f}  ({row['low']:.4f} to {row['high']:.4f})")


def run(arguments=None) -> None:
    runs.command("train", Config, main, __doc__, arguments)


if __name__ == "__main__":
    run()
