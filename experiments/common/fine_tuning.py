"""What experiments with fine-tuned networks share: the explanations, the fine-tuning, and numbers over many images."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from common import batches, machines
from common.named_explanations import EXPLANATIONS, Needs
from xmanip_jax import devices, explain, rewrite, train

_ABSOLUTE = functools.partial(explain.min_max, sign="absolute")


class Place(NamedTuple):
    """Where a network is fooled.

    layer: whose maps are, the input of the last block;  last: the last layer's name;  cut: only what lies above it
    trains;  parts: the names of that.
    """

    layer: str
    last: str = "linear"
    cut: str | None = None
    parts: tuple[str, ...] = ()


PLACES = {
    "cifar10_resnet20": Place("last_block", "linear", "stage2", ("layer3", "linear")),
    "cifar10_resnet56": Place("last_block", "linear", "stage2", ("layer3", "linear")),
    "squeezenet1_1": Place("fire8", "classifier", "fire6", ("features/10", "features/11", "features/12", "classifier")),
    "small_cnn_cifar10": Place("stage2"), "vgg19": Place("stage5", "classifier"),
    "resnet50": Place("stage3", "fc"), "densenet121": Place("denseblock3", "classifier"),
}


def place(name: str, whole: bool) -> Place:
    """Of PLACES; whole: all of the network trains, from its own input."""
    return PLACES[name]._replace(cut=None, parts=()) if whole else PLACES[name]


def explanations(layer: str) -> dict[str, tuple]:
    """{Heo et al. 2019's name: (explanation, heat)} of theirs at a layer, and at the input (last)."""
    of = lambda name, layer=layer: EXPLANATIONS[name].make(Needs(0, 1, layer))
    return {
        "grad_cam": (of("grad_cam"), explain.over_max),
        "lrp": (of("lrp_heo2019"), explain.min_max),
        "simple_grad": (of("layer_gradient"), _ABSOLUTE),
        "lrp_input": (of("lrp_heo2019", None), explain.min_max),
        "simple_grad_input": (of("gradient"), _ABSOLUTE),
    }


def above(network, layer: str | None):
    """(the part of the network above a layer, in the form of a network; pixels -> that part's input). None: all of it.

    For fine-tuning of what lies above a layer through which everything flows: what lies below is computed once for
    each image. One fixed input feeds what lies below in the part itself, unbatched.
    """
    if layer is None:
        return network, lambda images: images
    x0 = jnp.zeros(network.input_shape)
    value = lambda x: rewrite.tap(network.model, layer)(x, 0.0)[1]
    a0 = jax.jit(value)(x0)

    def apply(params, state, a):
        return rewrite.tap(functools.partial(network.net.apply, params, state), layer)(x0, a - a0)[0]

    part = network._replace(net=SimpleNamespace(apply=apply), model=Partial(apply, network.params, network.state),
                            preprocess=lambda a: a)
    return part, lambda images: batches.over(lambda p: value(network.preprocess(p)), images)


def fine_tuned(network, terms: tuple, images: np.ndarray, labels: np.ndarray, *, rate: float, steps: int, batch: int,
               parts: tuple[str, ...] = (), seed: int = 0, label_weight: float = 1.0,
               show: Callable | None = None) -> Partial:
    """The network's model after `steps` of Adam on the loss, BatchNorm's statistics frozen.

    rate: of Adam, falling to 0 by a cosine;  parts: of the parameters that train, as in "layer3" or "features/11";
    default all. Everything else as in train.fit.
    """
    name = lambda path: "/".join(str(key.key) for key in path) + "/"
    chosen = lambda path, _: "train" if not parts or name(path).startswith(tuple(f"{p}/" for p in parts)) else "keep"
    optimizer = optax.multi_transform(
        {"train": optax.adam(optax.cosine_decay_schedule(rate, steps)), "keep": optax.set_to_zero()},
        jax.tree_util.tree_map_with_path(chosen, network.params))
    net, start = train.frozen(network.net, network.state), train.begin(network.params, {}, optimizer, seed=seed)
    fit = train.fit(optimizer, terms=terms, label_weight=label_weight, batch=batch, steps=steps,
                    preprocess=network.preprocess, every=min(50, steps), devices=machines.own(batch))
    training = fit(net, start, images, labels, callback=show)
    return Partial(network.net.apply, jax.tree.map(jnp.asarray, devices.fetched(training.params)), network.state)


def reporting(console, name: str, every: int = 250) -> Callable:
    """A `show` of `fine_tuned` that prints the numbers of some steps."""
    def show(step, numbers):
        if step % every == 0:
            console.print(f"{name} {step}: " + "  ".join(f"{k} {v:.3g}" for k, v in numbers.items()))

    return show


def arrays_of(model: Partial) -> dict[str, np.ndarray]:
    """A model's parameters as named arrays, for a file."""
    return {str(i): np.asarray(v) for i, v in enumerate(jax.tree.leaves(model.args[0]))}


def params_of(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """The parameters that `arrays_of` kept, in the structure of others."""
    return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(arrays[str(i)]) for i in range(len(arrays))])


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of images classified correctly: of as many as there are."""
    return float(np.mean(logits.argmax(-1) == labels))


def heats(model, network, pair: tuple, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Float[n, h, w]: the heat maps of the classes."""
    return batches.over(_heats(*pair, network.preprocess), images, classes, model=model)


@functools.lru_cache
def _heats(e, heat, preprocess):
    return lambda model, p, c: heat(e(model, preprocess(p), c))


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
