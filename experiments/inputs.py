"""The images of an experiment and their targets."""

import jax
import numpy as np

from xmanip_jax import data


def read(config, network):
    """(names, images Float[n, h, w, c], targets of the same shape); each of many gets the explanation of the next.

    config: has image, target_image, images, dataset, count and size; see manipulate.Config.
    """
    side = config.size or network.input_shape[0]
    if config.dataset:
        names, images = _correct(config.dataset, config.count or 200, network)
    elif config.images:
        names, images, _ = data.read_folder(config.images, side, limit=config.count)
    else:
        names = [config.image]
        images = np.stack([_one(name, side) for name in (config.image, config.target_image)])
    if images.shape[-1] != network.input_shape[2]:
        raise ValueError(f"{network.name} takes {network.input_shape[2]} channels, the images have {images.shape[-1]}")
    if len(images) < 2:
        raise ValueError(f"only {names[0]} was found: each image needs another one as its target")
    return (names, images[:1], images[1:]) if len(names) == 1 else (names, images, np.roll(images, -1, axis=0))


def predict(network, pixels) -> np.ndarray:
    """Int[n]: the predicted classes."""
    return np.asarray(_predict(network.model, network.preprocess(pixels)))


@jax.jit
def _predict(model, x):
    return jax.vmap(model)(x).argmax(1)


def _one(name, side):
    """A file when the name has a suffix or a folder, else a photograph that scikit-image carries."""
    return data.read_image(name, side) if "." in name or "/" in name else data.photograph(name, side)


def _correct(dataset, wanted, network):
    """The first correctly classified images of the test split."""
    images, labels = data.load_dataset(dataset, "test")
    right = []
    for start in range(0, len(images), 500):
        part = slice(start, start + 500)
        right += list(start + np.flatnonzero(predict(network, images[part]) == labels[part]))
        if len(right) >= wanted:
            break
    right = right[:wanted]
    return [f"{dataset}-test-{i}" for i in right], images[right]
