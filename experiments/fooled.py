"""What experiments with fine-tuned networks share: the explanations, the fine-tuning, and numbers over many images."""

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from xmanip_jax import checkpoint, data, defend, explain, metrics

LAYERS = {"cifar10_resnet20": "last_block", "cifar10_resnet56": "last_block", "squeezenet1_1": "fire8",
          "small_cnn_cifar10": "stage1"}
_ABSOLUTE = functools.partial(explain.min_max, sign="absolute")


def explanations(layer: str) -> dict[str, tuple]:
    """{name: (explanation, heat)}: Heo et al. 2019's at a layer, and at the input (last)."""
    return {
        "grad_cam": (explain.grad_cam(layer), explain.over_max),
        "lrp": (explain.lrp_heo2019(layer=layer), explain.min_max),
        "simple_grad": (explain.layer_gradient(layer), _ABSOLUTE),
        "lrp_input": (explain.lrp_heo2019(), explain.min_max),
        "simple_grad_input": (explain.gradient(), _ABSOLUTE),
    }


def fine_tuned(network, terms: tuple, images: np.ndarray, labels: np.ndarray, *, rate: float, steps: int, batch: int,
               folder=None, seed: int = 0, label: float = 1.0, every: int = 20, parts: tuple[str, ...] = (),
               show: Callable | None = None) -> Partial:
    """The network's model after `steps` of Adam on the loss, BatchNorm's statistics frozen; resumable in `folder`.

    rate: of Adam, falling to 0 by a cosine;  parts: of the parameters that train, by their first name; default all.
    Everything else as in defend.fit.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))
    moving = {name: value for name, value in network.params.items() if name in (parts or network.params)}
    whole = SimpleNamespace(apply=lambda params, state, x: network.net.apply({**network.params, **params}, state, x))
    start = defend.begin(moving, {}, optimizer, seed=seed)
    if folder and checkpoint.latest_step(folder) is not None:
        start = checkpoint.load_step(folder, like=start)
    training = defend.fit(
        defend.frozen(whole, network.state), start, images, labels, optimizer, terms=terms, label=label,
        batch=batch, steps=steps, preprocess=network.preprocess, every=min(every, steps), callback=show,
        devices=jax.devices()[:1],
        keep=folder and (lambda t: checkpoint.save_step(folder, int(t.step), t)))
    return Partial(network.net.apply, {**network.params, **jax.tree.map(jnp.asarray, training.params)}, network.state)


def over(f: Callable, *arrays: np.ndarray, batch: int = 100) -> Any:
    """f of each example, batch by batch; its results, a tree of arrays, joined."""
    compiled = jax.jit(jax.vmap(f))
    parts = [jax.tree.map(np.asarray, compiled(*(a[i:i + batch] for a in arrays)))
             for i in range(0, len(arrays[0]), batch)]
    return jax.tree.map(lambda *p: np.concatenate(p), *parts)


def logits(model, network, images: np.ndarray) -> np.ndarray:
    """Float[n, classes]."""
    return over(lambda p: model(network.preprocess(p)), images)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of images classified correctly: of as many as there are."""
    return float(np.mean(logits.argmax(-1) == labels))


def heats(model, network, pair: tuple, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Float[n, h, w]: the heat maps of the classes."""
    e, heat = pair
    return over(lambda p, c: heat(e(model, network.preprocess(p), c)), images, classes)


def composites(images: np.ndarray, labels: np.ndarray, classes: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """Float[count, h, w, c]: 2x2 tiles of halved images, two of each class, at random places.

    Halved by averages over 2x2 pixels; an odd last row and column are left out and the composite is padded with edges.
    """
    random = np.random.default_rng(seed)
    h, w = images.shape[1] // 2, images.shape[2] // 2
    pools = [np.flatnonzero(labels == c) for c in classes]

    def one():
        order = random.permutation([0, 0, 1, 1])
        tiles = [images[random.choice(pools[c])][:2 * h, :2 * w].reshape(h, 2, w, 2, -1).mean((1, 3)) for c in order]
        whole = np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])
        return np.pad(whole, [(0, a - b) for a, b in zip(images.shape[1:], whole.shape, strict=True)], mode="edge")

    return np.stack([one() for _ in range(count)]).astype(np.float32)


def calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """The expected calibration error: |accuracy - confidence| over bins of confidence, weighted by their images."""
    p = np.asarray(jax.nn.softmax(logits, -1))
    confidence, right = p.max(-1), p.argmax(-1) == labels
    at = np.minimum((confidence * bins).astype(int), bins - 1)
    return float(sum(abs(np.sum(right[at == b] - confidence[at == b])) for b in range(bins)) / len(labels))


def distances(model, original, after: np.ndarray, before: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How far a network moved: weights, outputs, calibration, where after and before are its logits."""
    ours, theirs = (jax.tree.leaves(m.args[0]) for m in (model, original))
    square = lambda v: sum(float(jnp.sum(a ** 2)) for a in v)
    change = [a - b for a, b in zip(ours, theirs, strict=True)]
    p, q = (np.asarray(jax.nn.softmax(v, -1)) for v in (after, before))
    return {
        "weights_relative_change": (square(change) / square(theirs)) ** 0.5,
        "probability_change_median": float(np.median(np.abs(p - q).max(1))),
        "probability_change_mean": float(np.abs(p - q).max(1).mean()),
        "predictions_changed": float(np.mean(p.argmax(1) != q.argmax(1))),
        "calibration_error": calibration_error(after, labels),
        "calibration_error_before": calibration_error(before, labels),
    }


def datasets(name: str, count: int) -> tuple:
    """(training images, labels, test images, labels) of tensorflow-datasets' CIFAR-10, `count` of training."""
    return *data.load_dataset(name, "train", limit=count), *data.load_dataset(name, "test")


def spearman_across(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Float[n]: the rank correlation of two sets of maps."""
    return over(metrics.spearman, *maps)
