"""The images that a network is trained and judged on, with their labels: a data set's, a folder's, or random ones."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import inputs
from common.defence_recipes import NETWORKS
from xmanip_jax import data, models

MOST_TEST_IMAGES = 10_000  # of a folder
_HELD = ("test", "val", "validation")


class Split(NamedTuple):
    """Images Float[n, h, w, c] in [0, 1] and labels Int[n] to train on, and others to judge by.

    said: a sentence that says what the labels are.
    """

    images: np.ndarray | data.Folder
    labels: np.ndarray
    test_images: np.ndarray | data.Folder
    test_labels: np.ndarray
    said: str = ""


def read(config, own=None) -> Split:
    """What a configuration names (see training.Config), or with --quick random images.

    own: the network, as a function of the pixels, which images and labels must fit; None for the data set's own.

    Raises ValueError where they do not.
    """
    if config.images:
        return folder(config, own)
    if config.quick:
        return stand_ins(own.input_shape, own.num_classes) if own else stand_ins(
            models.NETWORKS[NETWORKS[config.dataset]].input_shape, 10)
    found = Split(*data.load_dataset(config.dataset, "train", limit=config.train_images),
                  *data.load_dataset(config.dataset, "test"), f"Labels are those of {config.dataset}.")
    if own and found.images.shape[1:] != own.input_shape:
        raise ValueError(f"{own.name} takes images of shape {own.input_shape}, those of {config.dataset} have "
                         f"{found.images.shape[1:]}")
    if own and (most := found.labels.max()) >= own.num_classes:
        raise ValueError(f"{own.name} has {own.num_classes} classes, {config.dataset} has {most + 1}")
    return found


def stand_ins(shape, classes) -> Split:
    """Random images instead."""
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(64, *shape)).astype(np.float32)
    labels = rng.integers(0, classes, 64)
    return Split(images, labels, images[:4], labels[:4], "Images and labels are random.")


def folder(config, own) -> Split:
    """The images of --images, with its subfolders or its index.csv for labels, see `data.image_files`.

    They are data.Folder, whose pixels are read when they are asked for.

    What judges is test/ beside train/ (val/ or validation/ do as well), or else every fifth image of each class.
    """
    root = config.images
    held = next((root / name for name in _HELD if (root / "train").is_dir() and (root / name).is_dir()), None)
    parts = _apart(root / "train", held) if held else _every_fifth(root)
    limits = config.train_images, min(config.count, MOST_TEST_IMAGES) if config.quick else MOST_TEST_IMAGES
    found, counts = [], []
    for part, limit in zip(parts, limits, strict=True):
        labels = _labels(root, part, own)
        chosen = np.sort(np.lexsort((labels, data.ranks(labels)))[:limit])
        images = inputs.fitted(data.Folder(part, own.input_shape[0]).take(chosen), own)
        found += [images, labels[chosen]]
        counts.append(np.bincount(labels[chosen], minlength=own.num_classes))
    apart = f"{held.name}/ judges" if held else "every fifth image of a class judges"
    return Split(*found, _said(root, parts[0].classes, own, counts, apart))


def _apart(train: Path, test: Path) -> list[data.Files]:
    """The files of two folders, with the classes of the first."""
    files, others = data.image_files(train), data.image_files(test)
    if files.labels is None or others.labels is None or bool(files.classes) != bool(others.classes):
        raise ValueError(f"{train} and {test} have labels of the same kind: a subfolder for each class in both, or an "
                         "index.csv with the columns image and class_index in both")
    if strange := sorted(set(others.classes) - set(files.classes)):
        raise ValueError(f"{test / strange[0]} is a class that {train} lacks")
    places = np.array([files.classes.index(name) for name in others.classes], np.int32)
    return [files, others._replace(labels=places[others.labels] if files.classes else others.labels,
                                   classes=files.classes)]


def _every_fifth(root: Path) -> list[data.Files]:
    """(the files to train on, those to judge by) of a folder: of a class with two images one judges."""
    files = data.image_files(root)
    if files.labels is None:
        raise ValueError(f"{root} has no labels to train on: sort its images into a subfolder for each class, or add "
                         "an index.csv with the columns image and class_index")
    judges = data.ranks(files.labels) % 5 == 1
    if not judges.any():
        raise ValueError(f"{root} has one image of each class: training and judging take two at least")
    take = lambda mask: data.Files([n for n, m in zip(files.names, mask, strict=True) if m],
                                   [p for p, m in zip(files.paths, mask, strict=True) if m],
                                   files.labels[mask], files.classes)
    return [take(~judges), take(judges)]


def _labels(root, files, own) -> np.ndarray:
    """The network's classes of a folder's labels: of subfolders by name, or else in their order."""
    places = {name.lower(): i for i, name in enumerate(own.classes)}
    names = [name.lower() for name in files.classes]
    if names and all(name in places for name in names):
        return np.array([places[name] for name in names], np.int32)[files.labels]
    if names and len(names) != own.num_classes:
        known = f" ({', '.join(own.classes[:5])}{' ...' * (own.num_classes > 5)})" if own.classes else ""
        raise ValueError(f"{own.name} has {own.num_classes} classes{known}, {root} has {len(names)} subfolders: give "
                         "it one for each, or call them as the network calls its classes")
    if (most := files.labels.max()) >= own.num_classes:
        raise ValueError(f"{own.name} has {own.num_classes} classes, {root / 'index.csv'} has class {most}: they begin "
                         "at 0")
    return files.labels


def _said(root, classes, own, counts, apart):
    """What the labels are, how many images of each train and judge."""
    source = f"the subfolders of {root}" if classes else f"class_index of {root / 'index.csv'}"
    names = own.classes or classes or [f"class {i}" for i in range(own.num_classes)]
    there = [f"{names[i]} ({a} and {b})" for i, (a, b) in enumerate(zip(*counts, strict=True)) if a + b]
    more = f" and {len(there) - 10} more" * (len(there) > 10)
    return (f"Labels are {source}, with so many images to train on and to judge by: {', '.join(there[:10])}{more}; "
            f"{apart}.")


def inputs_of(found: Split) -> dict:
    """The same for runs.same_inputs: folders by the names and sizes of their files."""
    return {"the training images": (_known(found.images), found.labels),
            "the test images": (_known(found.test_images), found.test_labels)}


def _known(images):
    if not isinstance(images, data.Folder):
        return images
    return np.frombuffer("\n".join(images.names).encode(), np.uint8), images.sizes()
