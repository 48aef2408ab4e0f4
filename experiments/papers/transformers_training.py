"""Networks with attention for the zoo: a vision transformer on MNIST, a compact convolutional one on CIFAR-10.

    python experiments/reproduce.py transformers_training --network mnist_vit --out runs/mnist_vit
    python experiments/reproduce.py transformers_training --network cifar10_cct --out runs/cifar10_cct --resume
    python experiments/reproduce.py zoo --transformer runs/mnist_vit      # copies the network, writes its card
    python experiments/reproduce.py transformers_training --quick         # without data: does everything run?

mnist_vit: patches of 7 x 7, width 64, 4 blocks of 4 heads. cifar10_cct: CCT-2/3x2 (Hassani et al. 2021); shifts by up
to 4 pixels, mirrored. AdamW, a linear warm-up, a cosine to 0. Judged on the test split as
train.py judges, by its accuracy and under attacks.

The run folder gets log.csv, weights.safetensors, results.json, arrays.npz (a value for each judged image) and
checkpoints/; killed, --resume goes on, to the same bits.
"""

import dataclasses
from functools import partial
from typing import Annotated, NamedTuple

import numpy as np
import optax
from flax import nnx
from jax.tree_util import Partial
from rich.console import Console

from common import files, program, report, robustness, runs, training, training_data, zoo
from xmanip_jax import data, models, smooth, train


class Recipe(NamedTuple):
    """shift, mirror: of `moved`;  epochs, learning_rate: the network's own;  epsilons, surrogate: of the attacks."""

    shift: int
    mirror: bool
    epochs: int
    learning_rate: float
    epsilons: tuple[float, ...]
    surrogate: object


RECIPES = {
    "mnist_vit": Recipe(0, False, 6, 2e-3, (0.05, 0.1), smooth.none()),
    "cifar10_cct": Recipe(4, True, 30, 1e-3, (0.01, 0.03), None),
}


@dataclasses.dataclass(frozen=True)
class Config(runs.SeededRun):
    """One network."""

    network: Annotated[str, runs.choices("The network", RECIPES)] = "mnist_vit"
    train_images: int | None = None
    """Number of images to train on, the first ones of the training split; default: all."""
    epochs: int | None = None
    """Number of passes over the training images; default: the network's own."""
    batch: int = 50
    """Number of images of a training step."""
    learning_rate: float | None = None
    """Learning rate after the warm-up, decayed to 0 by a cosine; default: the network's own."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    count: int = 100
    """Number of test images that are attacked."""
    restarts: int = 2
    """Number of random starts of each attack, at least 2."""
    quick: bool = False
    """Random images, a few steps: does everything run?"""


def read(config) -> training_data.Split:
    if config.quick:
        return training_data.stand_ins(zoo.TRANSFORMERS[config.network].input_shape, 10)
    dataset = config.network.partition("_")[0]
    return training_data.Split(*data.load_dataset(dataset, "train", limit=config.train_images),
                               *data.load_dataset(dataset, "test"))


def moved(shift, mirror, random, images):
    """Each image moved by up to `shift` pixels along both axes, into 0, and with `mirror` one in two turned round."""
    (n, h, w, _), widths = images.shape, ((0, 0), (shift, shift), (shift, shift), (0, 0))
    places = random.integers(0, 2 * shift + 1, (n, 2))
    shifted = np.stack([x[i:i + h, j:j + w] for x, (i, j) in zip(np.pad(images, widths), places, strict=True)])
    flip = mirror & (random.random(n) < 0.5)
    return np.where(flip[:, None, None, None], shifted[:, :, ::-1], shifted)


def trained(config, out, console, images, labels):
    """The module with its trained weights."""
    spec, recipe = zoo.TRANSFORMERS[config.network], RECIPES[config.network]
    module = spec.build(rngs=nnx.Rngs(config.seed))
    net, params, state = models.functional(module)
    steps = config.epochs * (len(images) // config.batch)
    rate = optax.warmup_cosine_decay_schedule(0, config.learning_rate, steps // 10, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=config.weight_decay))
    fit = train.fit(optimizer, batch=config.batch, steps=steps, every=min(200, steps), preprocess=spec.preprocess,
                    augment=partial(moved, recipe.shift, recipe.mirror))
    like = train.begin(params, state, optimizer, seed=config.seed)
    found = training.finished(config.network, fit, steps, net, like, images, labels, out, console)
    nnx.update(module, found.params, found.state)
    return module


def main(config: Config) -> None:
    console = Console()
    runs.check_known("network", config.network, RECIPES)
    recipe, spec = RECIPES[config.network], zoo.TRANSFORMERS[config.network]
    config = dataclasses.replace(config, epochs=config.epochs or recipe.epochs,
                                 learning_rate=config.learning_rate or recipe.learning_rate)
    if config.quick:
        config = dataclasses.replace(config, epochs=1, batch=16, count=2)
    runs.check_positive(config, "train_images", "epochs", "batch", "learning_rate", "count")
    out, settings = runs.begin(config.network, config)
    console.print(f"run folder: [bold]{out}[/bold]")
    found = read(config)
    runs.same_inputs(out, training_data.inputs_of(found))
    module = trained(config, out, console, found.images, found.labels)
    with program.WHOLE:
        models.save_weights(module, out / "weights.safetensors")
    net, *weights = models.functional(module)
    model = Partial(partial(_of_pixels, net, spec.preprocess), *weights)
    values, flags = robustness.judged(
        model, found.test_images, found.test_labels, epsilons=recipe.epsilons, count=config.count,
        restarts=config.restarts, seed=config.seed, surrogate=recipe.surrogate)
    files.write_arrays(out / "arrays.npz", values)
    rows = report.summary(values, config.seed, mean=[name for name in values if "accuracy" in name])
    files.write_json(out / "results.json", {"config": settings, **runs.environment(), "metrics": rows,
                                           "flags": {name: flag._asdict() for name, flag in flags.items()}})
    for name, row in rows.items():
        console.print(f"{name:26} {row['value']:.4f}  ({row['low']:.4f} to {row['high']:.4f})")


def _of_pixels(net, preprocess, params, state, pixels):
    return net.apply(params, state, preprocess(pixels))


def run(arguments=None) -> None:
    runs.command("transformers_training", Config, main, __doc__, arguments)
