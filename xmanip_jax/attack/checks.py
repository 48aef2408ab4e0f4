"""What a driver is given, checked before any computation: each error names the value and what was expected."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ..arguments import keys_of
from ..devices import Place, fetched, on_each, on_host, placed, spread
from ..explain.base import check_logits
from ..objectives import View
from ..programs import Machine, Program, in_parts
from ..types import AnyArray, Array, Float, Integer, Model, RandomKey
from .model import lifted

__all__ = ["Lifted", "Subject", "checked_goal", "checked_labels", "checked_pixels", "classes", "prepared"]


class Lifted(NamedTuple):
    """What an attack looks at, as it is at this call (see model.py): a pytree of arrays, an argument of each step."""

    model: Partial  # the network's input -> Float[classes]
    preprocess: Partial  # the pixels of one image -> the network's input


class Subject(NamedTuple):
    """What every driver works on."""

    network: Lifted
    pixels: Float[Array, " b *shape"]  # in [0, 1]
    labels: Integer[Array, " b"]
    goal: Float[Array, " b *places"] | None  # heat maps
    keys: Array | None  # one for each image
    place: Place  # where the arrays of images lie, see devices.py


def prepared(model: Model, seen: Callable[..., View], preprocess: Callable[[Array], Array], pixels: Any, labels: Any,
             goal: Any = None, *, key: RandomKey | None, machine: Machine) -> Subject:
    """The arguments of a driver, checked. Nothing is computed but, where labels is None, the clean predictions.

    seen(model, preprocess, pixels, label, key) -> View: how the driver judges, see `objectives.viewing`.
    machine: over whose devices the images are spread, the network on each; without: where they lie, all else with them.
    """
    pixels = checked_pixels(pixels)
    place = placed(pixels, machine.devices)
    given = f"(pixels of shape {pixels.shape})"
    preprocess = lifted(preprocess, pixels[0], f"preprocess {given}")
    x = jax.eval_shape(lambda p: preprocess(p), pixels[0])
    network = Lifted(lifted(model, x, f"the model {given}"), preprocess)
    count = classes(network, pixels)
    one = lambda p: seen(*network, p, 0, jax.random.key(0))
    goal = checked_goal(goal, len(pixels), jax.eval_shape(one, pixels[0]).heatmap.shape)
    labels = None if labels is None else checked_labels(labels, len(pixels), count)
    keys = None if key is None else keys_of(key, len(pixels))
    network, pixels = on_each(network, place), pixels if machine.devices is None else spread(pixels, place)
    goal, labels, keys = spread((goal, labels, keys), place)
    if labels is None:
        labels = in_parts(lambda part, _: _predicted(network, spread(part, place)), pixels, machine, tell=False)
    return Subject(network, pixels, labels, goal, keys, place)


def classes(network: Lifted, pixels: Float[AnyArray, " b *shape"]) -> int:
    """How many the model has; ValueError where it returns anything but Float[classes]."""
    logits = jax.eval_shape(lambda p: network.model(network.preprocess(p)), pixels[0])
    check_logits(logits)
    return logits.shape[0]


def checked_pixels(pixels: Any) -> Float[Array, " b *shape"]:
    """Float[b, ...] in [0, 1]: images [b, h, w, c], rows [b, n], sequences [b, t, c], volumes [b, d, h, w, c]."""
    host = on_host(pixels)
    if host.ndim < 2 or not host.size:
        raise ValueError("pixels are a batch, Float[b, h, w, c] of images or Float[b, ...] of any other inputs, "
                         f"got shape {host.shape}")
    if not jnp.issubdtype(host.dtype, jnp.floating):
        raise ValueError(f"pixels are floating-point numbers in [0, 1], got {host.dtype}: divide images of 0 to 255 "
                         "by 255")
    low, high = float(host.min()), float(host.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels contain NaN or infinite values")
    if low < 0 or high > 1:
        raise ValueError(f"pixels lie in [0, 1], got [{low:g}, {high:g}]: scale the inputs to it, and "
                         "back in preprocess")
    return jnp.asarray(pixels)


def checked_goal(goal: Any, batch: int, map_shape: tuple[int, ...]) -> Float[Array, " b *places"] | None:
    """Heat maps that sum to 1, or None."""
    if goal is None:
        return None
    host = on_host(goal)
    if host.shape != (batch, *map_shape):
        raise ValueError(f"the target maps have shape {host.shape}, expected {(batch, *map_shape)}")
    sums, low = fetched(host.reshape(batch, -1).sum(1)), float(host.min())
    if not low >= 0 or not np.allclose(sums, 1, atol=1e-3):
        raise ValueError("a target map is non-negative, finite and sums to 1, "
                         f"got sums {sums} and minimum {low:g}")
    return jnp.asarray(goal)


def checked_labels(labels: Any, batch: int, classes: int) -> Integer[Array, " b"]:
    """Int[b], each a class."""
    host = on_host(fetched(labels))
    if host.shape != (batch,) or not np.issubdtype(host.dtype, np.integer):
        raise ValueError(f"labels are Int[{batch}], got {host.dtype}{list(host.shape)}")
    if host.min() < 0 or host.max() >= classes:
        raise ValueError(f"a class lies in 0..{classes - 1}, got {host.min()} to {host.max()}")
    return jnp.asarray(labels)


_predicted = Program(lambda network, p: network.model(network.preprocess(p)).argmax(), None, 0)
