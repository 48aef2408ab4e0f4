"""The largest change of an explanation by gradient ascent without a step size to choose (Croce and Hein 2020)."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import smooth
from ..objectives import View, look, same_prediction
from ..types import Array, ArrayLike, Channels, Explanation, Model
from . import change as changes
from . import constraint as constraints
from .change import Changed, Distance, draw, margin, score

__all__ = ["checkpoints", "largest_change"]

MOMENTUM = 0.75  # of Croce and Hein 2020, as is PROGRESS, their rho
PROGRESS = 0.75


class _Climb(NamedTuple):
    pixels: Array
    before: Array  # the pixels one step earlier
    value: Array  # there
    best: View
    best_value: Array
    best_gradient: Array
    step: Array
    gains: Array  # steps since the last checkpoint that raised the value
    checked: Array  # the best value at the last checkpoint
    halved: Array  # whether the step was halved there
    under_surrogate: Array
    still: Array  # steps without gradient


def largest_change(
    explanation: Explanation, *, epsilon: float, steps: int = 50, restarts: int = 4,
    distance: Distance = changes.correlation_lost, surrogate: smooth.Surrogate | None = None,
    judged_by: Explanation | None = None, preprocess: Callable[[Array], Array] = lambda pixels: pixels,
    channels: Channels = "auto",
) -> Callable[..., Changed]:
    """The largest change of an explanation: `search(model, pixels, *, labels=None, key) -> Changed` on a batch.

    Ascent of the distance from the clean heat map within epsilon of each pixel, while the prediction stays, from random
    starts: sign steps with momentum 0.75 of first 2 epsilon, halved at checkpoints when fewer than 0.75 of the steps
    since the last one gained or the best has not moved, to go on from the best (APGD, Croce and Hein 2020). Where the
    model has changed its prediction, a step climbs the logit of the clean class above the others instead. The values
    that steer are the original model's; the gradients are the surrogate's.

    A defence that is part of the explanation (`explain.smoothgrad`, `defend.project`) or of the model is attacked
    through: pass it as it is. An explanation that averages over noise is seen with fresh noise in every step.

    Args:
      explanation: what is climbed.
      epsilon: largest change of a channel of a pixel, in pixels; the image stays in [0, 1].
      steps: gradients taken from each start, `restarts * steps` in all.
      distance: `(heat map, clean heat map) -> Float[]`, not negative, 0 at the clean one; default 1 - Pearson.
      surrogate: from `xmanip_jax.smooth`; default `smooth.relative(30, 100)`, for relu networks; `smooth.none()` for
        smooth ones. Its schedule moves on at the checkpoints.
      judged_by: the explanation of the verdict, where it is not the one that is climbed.
      preprocess: pixels -> the network's input, one image.
      channels: as in `manipulation`.

    The returned function takes model, pixels, labels and key as `manipulation` does, inputs of any number of axes
    included. About 6 forward passes a step for a gradient.

    Raises ValueError for bad input before any computation, and NonFiniteError where the clean logits or map are not
    finite. A gradient that vanishes is no error here, and where an entry of it is not finite the search goes on without
    it: `still` counts the steps that were left nowhere to go, and `flags` raises their share.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain
    >>> net = lambda x: jnp.stack([jnp.sum(2 * x + jnp.sin(9 * x)), 0.0])
    >>> pixels = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1)
    >>> search = attack.largest_change(explain.gradient(), epsilon=0.1, steps=10, restarts=2, surrogate=smooth.none())
    >>> found = search(net, pixels, key=jax.random.key(0))
    >>> bool(found.change > 0.1), found.by_restart.shape, found.evaluations
    (True, (2, 1), 20)
    """
    project = constraints.linf(epsilon)
    for name, value in (("steps", steps), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    surrogate = surrogate or smooth.relative(30.0, 100.0)
    judge = judged_by or explanation

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0, None))
    def begin(network, clean, key, r):
        noise = jax.random.uniform(draw(key, 0, r), clean.pixels.shape, clean.pixels.dtype, -epsilon, epsilon)
        start, number = project(clean.pixels + noise, clean.pixels), partial(jnp.full, ())
        low = number(-jnp.inf, start.dtype)
        return surrogate.fit(network.model, network.preprocess(clean.pixels)), _Climb(
            pixels=start, before=start, value=low, best=clean, best_value=low, best_gradient=jnp.zeros_like(start),
            step=number(2 * epsilon, start.dtype), gains=number(0), checked=low, halved=number(False),
            under_surrogate=number(0, start.dtype), still=number(0))

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0, 0, 0, 0, None))
    def anchored(network, settings, clean, label, key, t):
        """The clean image as the surrogate sees it: what the next steps climb away from."""
        f = surrogate.rewrite(network.model, settings, t)
        return look(explanation, f, network.preprocess, clean.pixels, label, key, channels)

    @partial(jax.jit, donate_argnames="now")
    @partial(jax.vmap, in_axes=(None, 0, 0, 0, 0, 0, 0, None, None, None, None))
    def step(network, now, settings, clean, anchor, label, key, t, draws, i, since):
        seen = look(judge, *network, now.pixels, label, key, channels)
        value, kept = score(seen, clean, distance), same_prediction(seen, clean, None)
        f = surrogate.rewrite(network.model, settings, t)

        def objective(pixels):
            view = look(explanation, f, network.preprocess, pixels, label, draw(key, 1, draws), channels)
            apart = distance(view.heatmap, anchor.heatmap)
            return jnp.where(kept, apart, margin(view.logits, clean.logits.argmax())), score(view, anchor, distance)

        gradient, under_surrogate = jax.grad(objective, has_aux=True)(now.pixels)
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
        better = value > now.best_value
        keep = lambda new, old: jax.tree.map(partial(jnp.where, better), new, old)
        now = now._replace(
            best=keep(seen, now.best), best_value=keep(value, now.best_value), value=value,
            best_gradient=keep(gradient, now.best_gradient), gains=now.gains + ((value > now.value) & (i > 0)),
            under_surrogate=jnp.maximum(now.under_surrogate, under_surrogate),
            still=now.still + jnp.all(gradient == 0))
        return advanced(now, gradient, clean.pixels, i, since)

    def advanced(now, gradient, clean, i, since):
        """The next step; at a checkpoint, `since` steps after the last one, perhaps from the best, half as large."""
        here = since > 0
        slow = now.gains < PROGRESS * since
        unmoved = ~now.halved & (now.best_value == now.checked)
        halve = here & (slow | unmoved)
        pick = partial(jnp.where, halve)
        at, before = pick(now.best.pixels, now.pixels), pick(now.best.pixels, now.before)
        size = pick(now.step / 2, now.step)
        ahead = project(at + size * jnp.sign(pick(now.best_gradient, gradient)), clean)
        share = jnp.where(i == 0, 1, MOMENTUM)
        return now._replace(
            pixels=project(at + share * (ahead - at) + (1 - share) * (at - before), clean), before=at, step=size,
            gains=jnp.where(here, 0, now.gains), checked=jnp.where(here, now.best_value, now.checked),
            halved=jnp.where(here, halve, now.halved))

    def restart(network, clean, labels, keys, r):
        settings, now = begin(network, clean, keys, r)
        marks = checkpoints(steps)
        for j, (first, last) in enumerate(zip(marks, [*marks[1:], steps], strict=True)):
            t = j / max(len(marks) - 1, 1)
            anchor = anchored(network, settings, clean, labels, keys, t)
            for i in range(first, last):
                since = i - marks[j - 1] if i == first and j else 0
                now = step(network, now, settings, clean, anchor, labels, keys, t, r * steps + i, i, since)
        return now.best, now.best_value, now.under_surrogate, now.still / steps

    run = changes.searching(judge, distance, preprocess, channels)

    def search(model: Model, pixels: ArrayLike, *, labels: ArrayLike | None = None, key: Array) -> Changed:
        return run(restart, model, pixels, labels, key, epsilon, restarts, steps)

    return search


def checkpoints(steps: int) -> list[int]:
    """The steps at which progress is judged: 0, 0.22 of them, then at intervals that shrink by 0.03 down to 0.06.

    >>> checkpoints(100)
    [0, 22, 41, 57, 70, 80, 87, 93, 99]
    """
    marks = [0.0, 0.22]
    while marks[-1] < 1:
        marks.append(marks[-1] + max(marks[-1] - marks[-2] - 0.03, 0.06))
    whole = sorted({math.ceil(round(m * steps, 6)) for m in marks})
    return [m for m in whole if m < steps]
