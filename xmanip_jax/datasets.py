"""Prepared data sets of tensorflow-datasets, and the folder that data are read from: a part of `xmanip_jax.data`."""

import contextlib
import importlib
import logging
import os
import pathlib
import warnings
from typing import Any

import numpy as np

from .extras import missing

__all__ = ["DatasetError", "data_dir", "load_dataset", "one_line", "require"]


class DatasetError(ValueError):
    """A dataset that is not there, or not what was asked for."""


def data_dir() -> pathlib.Path | None:
    """The data folder: $XMANIP_DATA if set, else ../shared/data, seen from here, if there is one, else None.

    Raises:
      DatasetError: XMANIP_DATA names no folder.

    >>> folder = data_dir()
    >>> folder is None or folder.is_dir()
    True
    """
    named = os.environ.get("XMANIP_DATA")
    folder = pathlib.Path(named or "../shared/data")
    if named and not folder.is_dir():
        raise DatasetError(f"XMANIP_DATA names no folder: {named}")
    return folder if folder.is_dir() else None


def load_dataset(name: str, split: str, *, data_dir: str | os.PathLike | None = None,
                 limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """A prepared tensorflow-datasets image set -> (images Float32[n, h, w, c] in [0, 1], labels Int32[n]).

    Args:
      name: such as "mnist" or "cifar10", with a version or a configuration where wanted ("cifar10:3.0.2").
      split: such as "train", "test[:200]", "train[90%:]"; examples come in the order of the files.
      data_dir: the folder that holds <name>/<version>; default: tfds/ in the data folder (see `data_dir`) if
        there is one, else tensorflow-datasets' own default.
      limit: the first so many only.

    Raises:
      DatasetError: an unknown set or split, a set without images and labels, or one that is not prepared as
        array_record, with the two ways out. Nothing is ever downloaded.
      ImportError: a package is missing, with the extra that brings it.

    >>> load_dataset("cifar10", "test[:2]")[0].shape  # doctest: +SKIP
    (2, 32, 32, 3)
    """
    folder = data_dir or _prepared()
    with _quiet():
        tfds = require("tensorflow_datasets", "data")
        for module in ("PIL", "array_record", "importlib_resources"):
            require(module, "data")
        try:
            source = tfds.data_source(name, split=split, data_dir=folder, download=False)
        except tfds.core.DatasetNotFoundError:
            raise DatasetError(f"tensorflow-datasets knows no set {name!r}") from None
        except (NotImplementedError, OSError, AssertionError, KeyError):  # for a set that is not there
            raise DatasetError(_not_prepared(name, folder)) from None
        except ValueError as error:
            raise DatasetError(f"{name}: {one_line(error)}") from None
        return _stack(name, source, len(source) if limit is None else min(limit, len(source)))


def _prepared():
    folder = data_dir()
    return folder / "tfds" if folder and (folder / "tfds").is_dir() else None


def _stack(name, source, n):
    if n < 1:
        raise DatasetError(f"{name}: the split is empty")
    first = source[0]
    if not {"image", "label"} <= set(first):
        raise DatasetError(f"{name}: needs the features image and label, has {', '.join(sorted(first))}")
    images = np.empty((n, *first["image"].shape), np.float32)
    labels = np.empty(n, np.int32)
    for i in range(n):
        example = source[i]
        shape = example["image"].shape
        if shape != images.shape[1:]:
            raise DatasetError(f"{name}: images differ in size, {images.shape[1:]} and {shape}")
        images[i], labels[i] = example["image"], example["label"]
    images /= 255
    return images, labels


def _not_prepared(name, folder):
    where = f"in {folder}" if folder else "in tensorflow-datasets' default folder"
    argument = f", data_dir='{folder}'" if folder else ""
    return (f"{name} is not prepared as array_record {where}. Either prepare it on a machine with TensorFlow "
            f"(pip install tensorflow tensorflow-datasets array_record; "
            f"python -c \"import tensorflow_datasets as t; t.data_source('{name}'{argument})\"), "
            f"or point XMANIP_DATA at a folder that holds tfds/{name.split(':')[0].split('/')[0]}")


def require(module: str, extra: str) -> Any:
    """A package that xmanip_jax.data needs, imported; where it is missing, the error names the extra that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing("data", extra, error) from error


def one_line(error: Exception) -> str:
    """What an error says, in one line."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@contextlib.contextmanager
def _quiet():
    """Hides tensorflow-datasets' remarks on its own insides: its decoder, metadata, protobuf's age."""
    harmless = ("OpenCV is not installed", "Variant folder")
    log = logging.getLogger("absl")
    hide = lambda record: not record.getMessage().startswith(harmless)
    log.addFilter(hide)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Protobuf gencode version")
            yield
    finally:
        log.removeFilter(hide)
