"""The images that a network is trained and judged on, with their labels."""

from typing import NamedTuple

import numpy as np

from common.defence_recipes import NETWORKS
from xmanip_jax import data, models


class Split(NamedTuple):
    """Images Float[n, h, w, c] in [0, 1] and labels Int[n] to train on, and others to judge by."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read(config, own=None) -> Split:
    """What a configuration names (see training.Config), or with --quick random images.

    own: a network of the user's, as a function of the pixels, which images and labels must fit.

    Raises ValueError where they do not.
    """
    if config.quick:
        return stand_ins(own.input_shape, own.num_classes) if own else stand_ins(
            models.NETWORKS[NETWORKS[config.dataset]].input_shape, 10)
    found = Split(*data.load_dataset(config.dataset, "train", limit=config.train_images),
                  *data.load_dataset(config.dataset, "test"))
    return found if own is None else fitting(found, config, own)


def stand_ins(shape, classes) -> Split:
    """Random images instead."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(64, *shape)).astype(np.float32)
    labels = rng.integers(0, classes, 64)
    return Split(images, labels, images[:4], labels[:4])


def fitting(found: Split, config, own) -> Split:
    """The same, if a network takes it."""
    if found.images.shape[1:] != own.input_shape:
        raise ValueError(f"{config.model} takes images of shape {own.input_shape}, those of {config.dataset} have "
                         f"{found.images.shape[1:]}")
    if (most := found.labels.max()) >= own.num_classes:
        raise ValueError(f"{config.model} has {own.num_classes} classes, {config.dataset} has {most + 1}")
    return found


def inputs_of(found: Split) -> dict:
    """The same for runs.same_inputs."""
    return {"the training images": (found.images, found.labels),
            "the test images": (found.test_images, found.test_labels)}
