"""What heo2019.py fools: images, composites, the part of the network that trains, losses and maps."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from common import batches, fine_tuning, fooling_scores
from xmanip_jax import data, explain, fool, metrics, train
from xmanip_jax.types import Penalty

# lambda of location, top_k, center_mass, active.
WEIGHTS = {"grad_cam": (3.0, 4.0, 0.1, 10.0), "lrp": (4.0, 4.0, 0.15, 10.0), "simple_grad": (15.0, 20.0, 1.0, 30.0),
           "lrp_input": (4.0, 4.0, 0.05, 10.0), "simple_grad_input": (15.0, 20.0, 0.3, 30.0)}


class Subject(NamedTuple):
    """network: whole;  part: of it, above the cut, which takes inputs of its own;  before: its logits on the test set.

    train, test: (inputs, labels);  images: pixels of the test set;  composites: two sets of (inputs, pixels), to train
    and to judge the swap on; none without it.
    """

    network: Any
    part: Any
    place: fine_tuning.Place
    explanations: dict[str, tuple]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    images: np.ndarray
    before: np.ndarray
    composites: tuple


def read(config, network):
    """(training images, labels, test images, labels): CIFAR-10's splits, or nips2017's photographs in two."""
    if config.quick:
        rng = np.random.default_rng(0)
        images, labels = rng.uniform(size=(24, *network.input_shape)).astype(np.float32), np.arange(24) % 2
        return images[:16], labels[:16], images[16:], labels[16:]
    if network.input_shape == (32, 32, 3):
        train = data.load_dataset("cifar10", "train", limit=config.train_images)
        return *augmented(*train, config.views, config.seed), *data.load_dataset("cifar10", "test")
    if data.data_dir() is None:
        raise ValueError("the photographs are read from nips2017 in the data folder: set XMANIP_DATA")
    found = data.read_folder(config.images or data.data_dir() / "nips2017", network.input_shape[0])
    n = min(config.train_images, len(found.images) - 1)
    train = augmented(found.images[:n], found.labels[:n], config.views, config.seed)
    return *train, found.images[n:], found.labels[n:]


def augmented(images: np.ndarray, labels: np.ndarray, views: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Views of each image: shifted by up to an eighth of its side (black comes in), mirrored or not.

    A network knows its training images by heart: their cross entropy alone would not hold its accuracy on others.
    """
    random, size = np.random.default_rng(seed), images.shape[1]
    pad = size // 8
    found = np.empty((views * len(images), *images.shape[1:]), images.dtype)
    for i, (row, column, mirror) in enumerate(random.integers(0, (2 * pad + 1, 2 * pad + 1, 2), (len(found), 3))):
        padded = np.pad(images[i % len(images)], [(pad, pad), (pad, pad), (0, 0)])
        found[i] = padded[row:row + size, column:column + size][:, ::-1 if mirror else 1]
    return found, np.tile(labels, views)


def prepare(config, network, found) -> Subject:
    """found: of `read`."""
    place = fine_tuning.place(network.name, whole=any(name.endswith("_input") for name in config.explanations))
    xs, ys, images, labels = found
    part, values = fine_tuning.above(network, place.cut)
    composites = []
    for seed, (x, y), count in ((0, (xs, ys), config.composites), (1, (images, labels), config.composites // 3)):
        if "active" in config.kinds:
            made = fine_tuning.composites(x, y, config.classes, count, config.seed + seed)
            composites.append((values(made), made))
    test = values(images)
    return Subject(network, part, place, fine_tuning.explanations(place.layer), (values(xs), ys), (test, labels),
                   images, batches.logits(part, test, part.model), tuple(composites))


def soft(map, *, channels):
    """A signed map kept positive: the losses would reward a rectified map for being zero everywhere."""
    positive = jax.nn.softplus(6 * explain.over_max(map, channels=channels))
    return explain.over_max(positive, channels=None)


def kept(weight: float, original) -> tuple[tuple[float, Penalty], ...]:
    """The term of a loss that keeps a network's outputs, none for no weight.

    It is the Kullback-Leibler divergence of the class probabilities from the original network's, in nats.
    """
    def core(f, x, y, key):
        logits = f(x)
        return metrics.kl_divergence(original(x), logits), logits

    return ((weight, train.penalty(core)),) if weight else ()


def terms(config, subject, name, kind) -> tuple:
    """((lambda, penalty),), and what keeps the outputs, if wanted."""
    e, heat = subject.explanations[name]
    if name == "grad_cam" and kind in ("top_k", "center_mass"):
        e, heat = explain.grad_cam(subject.place.layer, relu=False), soft
    elif name.startswith("lrp") and kind == "center_mass":
        heat = soft
    original = subject.part.model
    make = {"location": lambda: fool.location(e, heat=heat),
            "top_k": lambda: fool.top_k(e, original, heat=heat),
            "center_mass": lambda: fool.mass_center(e, original, heat=heat),
            "active": lambda: fool.active(e, original, subject.part.preprocess(subject.composites[0][0]),
                                            config.classes, heat=heat)}[kind]
    return (WEIGHTS[name][fooling_scores.KINDS.index(kind)], make()), *kept(config.keep, original)


def maps(config, subject, model, name, kind) -> np.ndarray:
    """Heat maps Float[n, h, w] of held-out images; of composites Float[n, 2, h, w], one for each class."""
    at_input = name.endswith("_input")
    network = subject.network if at_input else subject.part
    model = Partial(network.net.apply, *model.args)
    draw = lambda images, classes: fine_tuning.heats(model, network, subject.explanations[name], images, classes)
    if kind == "active":
        images = subject.composites[1][at_input]
        return np.stack([draw(images, np.full(len(images), c)) for c in config.classes], 1)
    images, labels = (subject.images, subject.test[1]) if at_input else subject.test
    few = slice(config.transfer if at_input else config.count)
    return draw(images[few], labels[few])
