"""The training loop: one jitted step in a host loop, resumable to the bit, over the devices that are there."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..arguments import check_count
from ..devices import check_batch, fetched, gathered, on_each, own_rows
from ..types import AnyArray, Array, ArrayLike, Float, Int, Integer, Penalty, Source, Train
from .ascent import check_units
from .loss import totalled, training_loss, weighted
from .reading import ahead

__all__ = ["NanLossError", "Training", "batch_indices", "begin", "fit", "frozen"]


class NanLossError(ValueError):
    """The loss is no longer a finite number; `training` is the state before the step."""

    def __init__(self, message: str, training: "Training") -> None:
        super().__init__(message)
        self.training = training


class Training(NamedTuple):
    """Everything that a run goes on from: a tree of arrays, which `checkpoint.save_step` keeps.

    step: steps done;  seed: of the order of the data and of the keys, with which `step` says what comes next;  ema: an
    average of the parameters, or an empty tuple.
    """

    params: Any
    state: Any
    optimizer: Any
    ema: Any
    step: Int[Array, ""]
    seed: Int[Array, ""]


def begin(params: Any, state: Any, optimizer: optax.GradientTransformation, *, seed: int = 0,
          ema: bool = False) -> Training:
    """A run that has not started.

    >>> begin({"w": jnp.ones(2)}, {}, optax.sgd(0.1)).step
    Array(0, dtype=int32)
    """
    return Training(params, state, optimizer.init(params), jax.tree.map(jnp.copy, params) if ema else (),
                    jnp.zeros((), jnp.int32), jnp.asarray(seed, jnp.int32))


def frozen(net: Any, state: Any) -> Any:
    """`net` in evaluation mode for good, as fine-tuning wants it: start with begin(params, {}, optimizer).

    BatchNorm's statistics stay those of `state`; its scale and shift are parameters and train.

    >>> net = SimpleNamespace(apply=lambda params, state, x: params * x + state)
    >>> frozen(net, 1.0).apply(2.0, {}, 3.0)
    7.0
    """
    return SimpleNamespace(apply=lambda params, _, x: net.apply(params, state, x))


def batch_indices(step: int, seed: int, n: int, batch: int) -> Integer[np.ndarray, " batch"]:
    """Int[batch]: the examples of a step. Each epoch is another permutation; the last, incomplete batch is left out.

    >>> batch_indices(0, 0, 5, 2).shape
    (2,)
    """
    epoch, place = divmod(step, n // batch)
    return _order(seed, epoch, n)[place * batch:(place + 1) * batch].copy()


@lru_cache(maxsize=1)
def _order(seed, epoch, n):
    return np.random.default_rng((seed, epoch)).permutation(n)


def fit(optimizer: optax.GradientTransformation, *, terms: Sequence[tuple[float, Penalty]] = (),
        label_weight: float = 1.0, batch: int = 100, steps: int = 1000,
        scale: Callable[[Array], ArrayLike] = lambda step: 1.0,
        preprocess: Callable[[Array], Array] = lambda x: x, ema_decay: float = 0.999, every: int = 50,
        devices: list | None = None) -> Train:
    """The loop `run(net, training, images, labels, *, callback=None, keep=None) -> Training`, until `steps` are done.

    On the same devices, a run that is interrupted and goes on ends bit-equal.

    Args:
      preprocess: pixels of one image -> the network's input x. Penalties see x: curvature and maps are in its unit. A
        term with a budget (an `Ascent`, a radius, a step) is refused unless its unit is the same preprocess, so that
        budgets are in pixels.
      optimizer: optax's, weight decay and gradient clipping included.
      terms, label_weight: of `training_loss`. Networks with a state (BatchNorm) take the cross entropy of the whole
        batch by train_apply, and penalties with the statistics as they are. A term that moves the examples finds its
        neighbours with these, too; their batch is what train_apply then sees, and what the statistics are updated on.
        Networks without a state are seen as in evaluation throughout: dropout is off.
      batch: examples of a step, a multiple of the number of devices;  scale: step -> factor of all penalties, a ramp.
      every: steps between two fetches of the loss, at which callback(step, numbers) and keep(training) are called.
      ema_decay: of the average of the parameters, where `begin` asked for one.
      devices: over which the batch is spread, parameters on each; None meaning all that are there, in every process
        (jax.distributed): each process calls fit alike, and reads the examples of its own devices only.

    The returned function takes
      net: models.Net, or anything with its apply and train_apply;  training: of `begin`, or a kept one;
      images: pixels Float[n, h, w, c], on the host, or a `data.Folder`, whose batches are read from the files in a
        thread while the steps before them run;  labels: Int[n].

    Raises NanLossError, with the last kept state, as soon as a fetched loss is not finite; ValueError for sizes
    that do not fit, and for a budget that is not in pixels.

    >>> from types import SimpleNamespace
    >>> net = SimpleNamespace(apply=lambda params, state, x: params * x)
    >>> images, labels = np.eye(2, dtype=np.float32), np.arange(2)
    >>> start = begin(jnp.zeros(()), {}, optax.sgd(1.0))
    >>> run = fit(optax.sgd(1.0), batch=2, steps=3, devices=jax.devices()[:1])
    >>> bool(run(net, start, images, labels).params > 0)
    True
    """
    check_count(steps=steps, every=every)
    devices = jax.devices() if devices is None else devices
    check_batch(batch, devices)

    def run(net: Any, training: Training, images: Float[AnyArray, " n *shape"] | Source,
            labels: Integer[AnyArray, " n"], *, callback: Callable[[int, dict[str, float]], None] | None = None,
            keep: Callable[[Training], None] | None = None) -> Training:
        _check(images, labels, batch)
        check_units([p for _, p in terms], preprocess, images)
        loss = _loss(net, terms, label_weight, bool(jax.tree.leaves(training.state)), preprocess)
        stepped = jax.jit(partial(_step, loss, optimizer, scale, ema_decay), donate_argnums=0)
        training = on_each(jax.tree.map(jnp.copy, training), devices)
        done, seed, kept = int(training.step), int(training.seed), fetched(training)
        own, there = own_rows(batch, devices), np.asarray(labels)
        pick = images.read if isinstance(images, Source) else np.asarray(images).__getitem__

        def read(now):
            chosen = batch_indices(now, seed, len(images), batch)[own]
            return pick(chosen), there[chosen]

        for now, examples in ahead(read, range(done, steps)):
            training, numbers = stepped(training, *gathered(examples, batch, devices))
            if len(devices) > 1 and devices[0].platform == "cpu":  # they share threads: steps in flight lock each other
                jax.block_until_ready(training)
            if (now + 1) % every == 0 or now + 1 == steps:
                found = {name: float(v) for name, v in numbers.items()}
                if not np.isfinite(found["loss"]):
                    raise NanLossError(f"the loss is {found['loss']} at step {now + 1}; the run stands at step "
                                       f"{kept.step}", kept)
                kept = fetched(training)
                if callback:
                    callback(now + 1, found)
                if keep:
                    keep(kept)
        return training

    return run


def _step(loss, optimizer, scale, ema_decay, training, xs, ys):
    keys = jax.random.split(jax.random.fold_in(jax.random.key(training.seed), training.step), len(xs) + 1)
    (_, (numbers, state)), slope = jax.value_and_grad(loss, has_aux=True)(
        training.params, training.state, xs, ys, keys, scale(training.step))
    update, optimizer_state = optimizer.update(slope, training.optimizer, training.params)
    params = optax.apply_updates(training.params, update)
    average = optax.incremental_update(params, training.ema, 1 - ema_decay) if training.ema != () else ()
    return Training(params, state, optimizer_state, average, training.step + 1, training.seed), numbers


def _check(images, labels, batch):
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images have {len(labels)} labels")
    if not 1 <= batch <= len(images):
        raise ValueError(f"a batch has 1 to {len(images)} examples, got {batch}")


def _loss(net, terms, label_weight, stateful, preprocess):
    """(params, state, pixels, labels, keys, scale) -> (loss, (numbers, new state)); one key more than examples."""
    whole, one = training_loss(*terms, label_weight=label_weight), weighted(*terms)

    def loss(params, state, pixels, ys, keys, scale):
        xs, own, keys = jax.vmap(preprocess)(pixels), keys[-1], keys[:-1]
        if not stateful:
            total, numbers = whole(net.apply, params, state, xs, ys, keys, scale)
            return total, (numbers, state)
        axes = (None, None, None, 0, 0, 0)
        penalties, _, zs = jax.vmap(one, in_axes=axes)(net.apply, params, state, xs, ys, keys)
        logits, after = net.train_apply(params, state, zs, own)
        total, numbers = totalled(label_weight, scale, logits, ys, penalties)
        return total, (numbers, jax.lax.stop_gradient(after))

    return loss
