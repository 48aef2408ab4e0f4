"""The images of an experiment and their targets, and stand-ins where there are no data."""

import dataclasses
from itertools import chain
from types import SimpleNamespace

import jax
import numpy as np

from common import batches, runs, user_model, zoo
from xmanip_jax import data, models
from xmanip_jax.models.net import abstract
from xmanip_jax.models.weights import weight_shapes

_DATASETS = {(32, 32, 3): "cifar10", (28, 28, 1): "mnist"}  # what an input's shape tells


def given(config, network):
    """(names, images Float[n, h, w, c]) of --dataset or --images; None where a configuration names neither.

    The images of a folder are a data.Folder, whose pixels are read when they are asked for.

    config: has dataset, images, count (None: all, or 200 of a data set) and perhaps size.

    Raises ValueError for images that do not fit the network.
    """
    side = getattr(config, "size", None) or network.input_shape[0]
    if config.dataset:
        found = _correct(config.dataset, config.count or 200, network)
    elif config.images:
        images = data.open_folder(config.images, side, limit=config.count)
        found = images.names, images
    else:
        return None
    return found[0], fitted(found[1], network)


def pictures(config, network, *, own: bool):
    """What a network is measured on: `given`, or by default `standard`.

    For a network of the user's (own), with --quick, and where there is no data folder for photographs, those that
    scikit-image carries.
    """
    if found := given(config, network):
        return found
    missing = data.data_dir() is None and network.input_shape not in _DATASETS
    return (photographs if config.quick or own or missing else standard)(network, config.count)


def pairs(config, network):
    """(names, images, targets of the same shape) to manipulate: `given`, or --image and --target-image."""
    side = config.size or network.input_shape[0]
    _check_size(network, side)
    if found := given(config, network):
        return *found, targets(*found)
    images = fitted(np.stack([_one(name, side) for name in (config.image, config.target_image)]), network)
    return [config.image], images[:1], images[1:]


def _check_size(network, side):
    """Some networks take images of their own size only."""
    pixels = jax.ShapeDtypeStruct((side, side, network.input_shape[2]), np.float32)
    try:
        jax.eval_shape(lambda pixels: network.model(network.preprocess(pixels)), pixels)
    except Exception:
        raise ValueError(f"{network.name} takes no images of {side} pixels: leave --size out, its own are "
                         f"{network.input_shape[0]}") from None


def targets(names, images) -> np.ndarray:
    """The image whose explanation each of them gets: the next one. Raises ValueError where there is no other."""
    if len(images) < 2:
        raise ValueError(f"only {names[0]} was found: each image needs another one as its target")
    if isinstance(images, data.Folder):
        return images.take(np.roll(np.arange(len(images)), -1))
    return np.roll(images, -1, axis=0)


def standard(network, count):
    """`given` of what a network's input suggests: the test split of CIFAR-10 or MNIST, or nips2017's photographs."""
    dataset = _DATASETS.get(network.input_shape)
    if dataset is None and data.data_dir() is None:
        raise ValueError("the photographs are read from nips2017 in the data folder: set XMANIP_DATA")
    folder = None if dataset else data.data_dir() / "nips2017"
    return given(SimpleNamespace(dataset=dataset, images=folder, count=count), network)


def photographs(network, count):
    """(names, images) of up to six photographs that scikit-image carries: no data folder is needed."""
    names = ["chelsea", "coffee", "rocket", "astronaut", "retina", "hubble_deep_field"][:count]
    return names, fitted(np.stack([data.photograph(name, network.input_shape[0]) for name in names]), network)


def fitted(images, network) -> np.ndarray:
    """Images with the network's channels: the mean of the colours where it takes one.

    Raises ValueError for another number of channels.
    """
    if network.input_shape[2] == 1:
        return images.grey() if isinstance(images, data.Folder) else images.mean(-1, keepdims=True)
    if images.shape[-1] != network.input_shape[2]:
        raise ValueError(f"{network.name} takes {network.input_shape[2]} channels, the images have {images.shape[-1]}")
    return images


def note(out, name, network, names, images, *others) -> None:
    """Note, in a run folder, what an experiment reads for a network: `runs.same_inputs` of images by name and others.

    others: further arrays that go with the images, their targets or labels.
    """
    further = [("what goes with the images", others)] if others else []
    weights = f"the weights of {name}", (network.params, network.state)
    runs.same_inputs(out, chain(zip(names, images, strict=True), further, [weights]), f"inputs-{name}")


def network(name: str, *, weights=None, quick: bool = False, seed: int = 0) -> models.Pretrained:
    """A network of models.NETWORKS, of the zoo, of boopathy2020 in the data folder, or your own, FILE.py:NAME.

    weights: a file, in the place of the network's own;  quick: random weights and any name, but for your own.

    Raises ValueError for a name that is none of these.
    """
    if quick:
        jax.config.update("jax_disable_most_optimizations", True)  # compiling is most of the work
    if user_model.named(name):
        return user_model.read(name, weights)
    if quick:
        return models.load("small_cnn_cifar10", random_weights("small_cnn_cifar10", seed))
    if name in models.NETWORKS:
        return models.load(name, weights)
    if name in zoo.cards():
        return zoo.load(name, weights)
    if weights:
        raise ValueError(f"--weights go with one of {', '.join([*models.NETWORKS, *zoo.cards()])}, got {name!r}")
    file = data.data_dir() and data.data_dir() / "networks" / "boopathy2020" / f"{name}.safetensors"
    if not file or not file.is_file():
        raise ValueError(f"unknown network {name!r}; known: {', '.join([*models.NETWORKS, *zoo.cards()])}, and with "
                         "XMANIP_DATA the files of networks/boopathy2020")
    return models.load("small_cnn" if name.startswith("mnist") else "small_cnn_cifar10", file)


def chosen(config) -> models.Pretrained:
    """The network that --network, with --weights, or --model names; config: has these three and perhaps quick and seed.

    Raises ValueError for a name that is no network, and where --model and --network are both given.
    """
    default = next(f.default for f in dataclasses.fields(config) if f.name == "network")
    if config.model and config.network != default:
        raise ValueError("choose one of --network and --model")
    if config.model and not user_model.named(config.model):
        raise ValueError(f"--model is FILE.py:NAME or module:NAME, got {config.model!r}; --network names one of the "
                         "project's")
    return network(config.model or config.network, weights=config.weights, quick=getattr(config, "quick", False),
                   seed=config.seed)


def random_weights(name, seed):
    """{name of a tensor: its values}, of variance 2 / fan-in: a network of models.NETWORKS without any file."""
    random = np.random.default_rng(seed)
    shapes = weight_shapes(abstract(models.NETWORKS[name].build))
    return {tensor: np.float32(random.normal(size=shape, scale=np.sqrt(2 / max(np.prod(shape[1:]), 2))))
            for tensor, shape in shapes.items()}


def _one(name, side):
    """A file when the name has a suffix or a folder, else a photograph that scikit-image carries."""
    return data.read_image(name, side) if "." in name or "/" in name else data.photograph(name, side)


def _correct(dataset, wanted, network):
    """The first correctly classified images of the test split."""
    images, labels = data.load_dataset(dataset, "test")
    if images.shape[1:] != network.input_shape:
        raise ValueError(f"{network.name} takes images of shape {network.input_shape}, those of {dataset} have "
                         f"{images.shape[1:]}: --images takes a folder of images of any size")
    right = []
    for start in range(0, len(images), 500):
        part = slice(start, start + 500)
        right += list(start + np.flatnonzero(batches.predict(network, images[part]) == labels[part]))
        if len(right) >= wanted:
            break
    right = right[:wanted]
    return [f"{dataset}-test-{i}" for i in right], images[right]
