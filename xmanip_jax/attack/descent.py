"""The attack on the input: one jitted step in a host loop, the best iterate judged under the original model."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import objectives, smooth
from ..objectives import View, look
from ..types import Array, ArrayLike, Channels, Constraint, Explanation, Model, Objective
from . import checks
from . import constraint as constraints
from .diagnosis import check_finite, check_moving, warn_of_broken

__all__ = ["DEFAULT_OBJECTIVE", "Manipulated", "Progress", "manipulation"]

DEFAULT_OBJECTIVE = objectives.weighted((1.0, objectives.match_map()), (1.0, objectives.keep_output()))


class Manipulated(NamedTuple):
    """The outcome of an attack, batched; every value belongs to the ORIGINAL model at the best iterate."""

    pixels: Array  # Float[b, h, w, c], or Float[b, ...], in [0, 1]
    heatmap: Array  # Float[b, h', w'], one value for each place
    logits: Array  # Float[b, classes]
    clean: View  # the start, batched
    loss: Array  # Float[b], the objective
    step: Array  # Int[b], when the best iterate was found; 0: no admissible iterate beat the clean image


class Progress(NamedTuple):
    """What a callback is told, on the host: numpy arrays over the batch."""

    step: int
    steps: int
    loss: np.ndarray  # under the surrogate, at the current iterate
    best: np.ndarray  # under the original model, at the best iterate
    heatmap: np.ndarray  # of the best iterate
    done: np.ndarray  # images that stopped early


class _State(NamedTuple):
    pixels: Array
    optimizer: Any
    best: View
    best_loss: Array
    best_step: Array
    done: Array
    loss: Array
    moving: Array
    broken: Array  # the step whose gradient was not finite, or -1: there the image stops


def manipulation(
    explanation: Explanation, *, steps: int = 150, optimizer: optax.GradientTransformation | None = None,
    objective: Objective = DEFAULT_OBJECTIVE, constraint: Constraint | None = None,
    surrogate: smooth.Surrogate | None = None, judged_by: Explanation | None = None,
    accept: Callable[[View, View, Any], Array] = objectives.same_prediction,
    stop: Callable[[View, View, Any], Array] | None = None, judge_every: int = 10, restarts: int = 1,
    start_noise: float = 0.0, preprocess: Callable[[Array], Array] = lambda pixels: pixels, channels: Channels = "auto",
) -> Callable[..., Manipulated]:
    """An attack `manipulate(model, pixels, goal, *, labels=None, key, callback=None) -> Manipulated` on a batch.

    It minimises `objective` over the pixels by projected gradient steps on the surrogate model, whose outputs are held
    to its own at the clean image, and returns, for each image, the iterate with the lowest objective under the original
    model among those that `accept` admits. Images do not interact. One compilation serves all calls of one shape. Each
    call reads the model and preprocess anew, so a module that changed in place is attacked as it is; the arrays that
    they hold are arguments of the compiled step. Whatever else is passed here (the explanation, the objective, what
    they close over) is read once, when it is compiled.

    Args:
      explanation: what to manipulate, differentiated in every step.
      steps: gradient steps per restart.
      optimizer: any optax transformation of one image's pixels; default Adam at `default_learning_rate`.
      objective: `(now, clean, goal) -> Float[]`; default N^2 mse(heat map, goal) + KL(clean output, output).
      constraint: projection after each step, from `attack.constraint`; default the pixel box.
      surrogate: from `xmanip_jax.smooth`; default `smooth.relative()`.
      judged_by: the explanation of the verdict, when the attack uses a cheaper one (fewer integration steps, say).
      accept: which iterates count; default those that keep the predicted class.
      stop: `(now, clean, goal) -> Bool[]`, tested when judging; an image that meets it stops, all: the loop ends.
      judge_every: steps between two verdicts (2 forward passes each for a gradient).
      restarts: repetitions, the first from the clean image (plus `start_noise`), the others from noise.
      start_noise: half-width of the uniform noise added to the start, in pixels; restarts use at least 1/255.
      preprocess: pixels -> the network's input, one image; maps are taken at the network's input.
      channels: the axis of the network's input that heat maps sum over, None where every entry is a place of its own;
        by default the last of three or more axes, none of one or two (a sequence [t, c] says -1, channels first 0).

    The returned function takes
      model: f(x) -> logits;  pixels: Float[b, h, w, c] in [0, 1], or rows [b, n], sequences [b, t, c], volumes
        [b, d, h, w, c] ...; what has other units is scaled to [0, 1], and back in preprocess;
      goal: target heat maps Float[b, h', w'] that sum to 1, or None for objectives that have none;
      labels: Int[b], the classes explained; default the clean predictions;
      key: a typed PRNG key; one is split off for every image, and a fresh one drawn in every step;
      callback: called with a Progress at every verdict.

    Raises ValueError for bad input before any computation, NonFiniteError when the clean logits or map, or the gradient
    of the first step, are not finite, and ZeroGradientError when that gradient is zero everywhere, as it is for the
    gradient of a piecewise linear model without a surrogate. An image whose gradient is not finite later stops there,
    with one RuntimeWarning; its best iterate so far is what counts.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain, smooth
    >>> net = lambda x: jnp.stack([jnp.sum(x**3), 0.0])  # of four numbers: a row of a table
    >>> rows, goal = jnp.array([[0.2, 0.4, 0.6, 0.8]]), jnp.full((1, 4), 0.25)
    >>> manipulate = attack.manipulation(explain.gradient(), steps=50, surrogate=smooth.none())
    >>> found = manipulate(net, rows, goal, key=jax.random.key(0))
    >>> apart = lambda view: float(jnp.abs(view.heatmap - goal).sum())
    >>> found.heatmap.shape, apart(found) < apart(found.clean)
    ((1, 4), True)
    """
    for name, value in (("steps", steps), ("judge_every", judge_every), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if start_noise < 0:
        raise ValueError(f"start_noise must not be negative, got {start_noise}")
    project = constraint or constraints.box()
    surrogate = surrogate or smooth.relative()
    optimizer = optimizer or default_optimizer(steps)
    judge_explanation = judged_by or explanation
    progress = lambda i: jnp.minimum(i / max(steps - 1, 1), 1)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
    def begin(network, pixels, label, goal, key):
        settings = surrogate.fit(network.model, network.preprocess(pixels))
        clean = look(judge_explanation, *network, pixels, label, key, channels)
        return settings, clean, objective(clean, clean, goal)

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0, None))
    def anchored(network, clean, settings, i):
        """The clean image as the surrogate classifies it: what the outputs of the next steps are held to."""
        f = surrogate.rewrite(network.model, settings, progress(i))
        return clean._replace(logits=f(network.preprocess(clean.pixels)))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def restart(clean_pixels, key, noise):
        shape, dtype = clean_pixels.shape, clean_pixels.dtype
        pixels = clean_pixels + jax.random.uniform(key, shape, dtype, -noise, noise)
        pixels = project(pixels, clean_pixels)
        return pixels, optimizer.init(pixels)

    @partial(jax.jit, donate_argnames="state")
    def step(network, state, settings, clean, goal, label, key, i):
        def one(state, settings, clean, goal, label, key):
            def loss(pixels):
                f = surrogate.rewrite(network.model, settings, progress(i))
                now = look(explanation, f, network.preprocess, pixels, label, jax.random.fold_in(key, i), channels)
                return objective(now, clean, goal)

            value, gradient = jax.value_and_grad(loss)(state.pixels)
            update, optimizer_state = optimizer.update(gradient, state.optimizer, state.pixels)
            pixels = project(optax.apply_updates(state.pixels, update), clean.pixels)
            moved = state._replace(pixels=pixels, optimizer=optimizer_state, loss=value)
            broken = jnp.where((state.broken < 0) & ~(jnp.isfinite(value) & jnp.isfinite(gradient).all()), i,
                               state.broken)
            held = state.done | (broken >= 0)
            kept = jax.tree.map(lambda new, old: jnp.where(held, old, new), moved, state)
            return kept._replace(moving=jnp.any(gradient != 0), broken=jnp.where(state.done, state.broken, broken))

        return jax.vmap(one)(state, settings, clean, goal, label, key)

    @partial(jax.jit, donate_argnames="state")
    def judge(network, state, clean, goal, label, key, i):
        def one(state, clean, goal, label, key):
            now = look(judge_explanation, *network, state.pixels, label, key, channels)
            value = objective(now, clean, goal)
            better = accept(now, clean, goal) & (value < state.best_loss) & ~state.done
            keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
            done = state.done if stop is None else state.done | (accept(now, clean, goal) & stop(now, clean, goal))
            return state._replace(best=keep(now, state.best), best_loss=keep(value, state.best_loss),
                                  best_step=keep(i, state.best_step), done=done)

        return jax.vmap(one)(state, clean, goal, label, key)

    def manipulate(model: Model, pixels: ArrayLike, goal: Any = None, *, labels: ArrayLike | None = None,
                   key: Array, callback: Callable[[Progress], None] | None = None) -> Manipulated:
        network, pixels, labels, goal = checks.prepared(model, judge_explanation, preprocess, channels, pixels, labels,
                                                        goal)
        keys = jax.random.split(key, len(pixels))
        settings, clean, loss = begin(network, pixels, labels, goal, keys)
        check_finite(clean)
        best = jax.tree.map(jnp.copy, clean), loss, jnp.zeros(len(pixels), jnp.int32)
        done = jnp.zeros(len(pixels), bool)
        for r in range(restarts):
            noise = max(start_noise, 1 / 255) if r else start_noise
            start, optimizer_state = restart(pixels, jax.vmap(jax.random.fold_in, (0, None))(keys, steps + r), noise)
            each = lambda value, dtype=None: jnp.full(len(pixels), value, dtype)
            state = _State(start, optimizer_state, *best, done, each(0, loss.dtype), each(True), each(-1, jnp.int32))
            for i in range(steps):
                if i % judge_every == 0:
                    anchor = anchored(network, clean, settings, i + judge_every // 2)
                state = step(network, state, settings, anchor, goal, labels, keys, i)
                if i == r == 0:
                    check_moving(state, network, surrogate, settings, clean, anchor, goal)
                if (i + 1) % judge_every == 0 or i + 1 == steps:
                    state = judge(network, state, clean, goal, labels, keys, r * steps + i + 1)
                    if callback:
                        callback(Progress(r * steps + i + 1, restarts * steps, *jax.device_get(
                            (state.loss, state.best_loss, state.best.heatmap, state.done))))
                    if stop is not None and bool(state.done.all()):
                        break
            best, done = (state.best, state.best_loss, state.best_step), state.done
            warn_of_broken(state, steps)
        found, loss, at = best
        return Manipulated(found.pixels, found.heatmap, found.logits, clean, loss, at)

    return manipulate


def default_optimizer(steps: int, learning_rate: float = 2e-3) -> optax.GradientTransformation:
    """Adam with a cosine decay to zero over `steps`; the rate is in pixels."""
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate}")
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
