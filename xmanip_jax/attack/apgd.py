"""The largest change of an explanation by gradient ascent without a step size to choose (Croce and Hein 2020)."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import explain, smooth
from ..arguments import check_positive
from ..devices import placed, spread
from ..memory import Budget
from ..objectives import View, same_prediction, viewing
from ..programs import Machine, Program
from ..types import (
    Array,
    ArrayLike,
    Channels,
    Constraint,
    Explanation,
    Float,
    Heat,
    Integer,
    LargestChange,
    Model,
    Nested,
    RandomKey,
)
from .best import Best, better
from .change import Changed, Distance, Search, asked, correlation_lost, draw, margin, score, searching
from .checks import Lifted
from .constraint import linf

__all__ = ["checkpoints", "largest_change"]

MOMENTUM = 0.75  # of Croce and Hein 2020, as is PROGRESS, their rho
PROGRESS = 0.75


class Case(NamedTuple):
    """One image: what does not change between two checkpoints."""

    clean: View
    anchor: View  # the clean image as the surrogate sees it
    settings: Any  # of the surrogate
    label: Array
    key: Array


class Clock(NamedTuple):
    """When: of the surrogate t in [0, 1]; the number of the draw; the step; steps since a checkpoint, at it, else 0."""

    t: Array
    draw: Array
    step: Array
    since: Array


class Climb(NamedTuple):
    """One image on its way."""

    pixels: Array
    before: Array  # the pixels one step earlier
    value: Array  # there
    best: Best  # along: the gradient there
    size: Array  # of the next step
    gains: Array  # steps since the last checkpoint that raised the value
    checked: Array  # the best value at the last checkpoint
    halved: Array  # whether the step was halved there
    under_surrogate: Array
    zero_gradient: Array  # steps without gradient


def begin(s: Search, surrogate: smooth.Surrogate, network: Lifted, clean: View, key: RandomKey,
          r: Array) -> tuple[Any, Climb]:
    """(settings of the surrogate, a random start within epsilon)."""
    noise = jax.random.uniform(draw(key, 0, r), clean.pixels.shape, clean.pixels.dtype, -s.epsilon, s.epsilon)
    start, number = s.constraint(clean.pixels + noise, clean.pixels), partial(jnp.full, ())
    low = number(-jnp.inf, start.dtype)
    return surrogate.fit(network.model, network.preprocess(clean.pixels)), Climb(
        pixels=start, before=start, value=low, best=Best(clean, low, jnp.zeros_like(start)),
        size=number(2 * s.epsilon, start.dtype), gains=number(0), checked=low, halved=number(False),
        under_surrogate=number(0, start.dtype), zero_gradient=number(0))


def step(s: Search, seen: Callable, network: Lifted, now: Climb, case: Case, clock: Clock) -> Climb:
    """One step. seen(network, pixels, case, key, t) -> View: what the surrogate shows."""
    real = s.judge(*network, now.pixels, case.label, case.key)
    value, kept = score(real, case.clean, s.distance), same_prediction(real, case.clean, None)

    def objective(pixels):
        view = seen(network, pixels, case, draw(case.key, 1, clock.draw), clock.t)
        apart = s.distance(view.heatmap, case.clean.heatmap)
        return (jnp.where(kept, apart, margin(view.logits, case.clean.logits.argmax())),
                score(view, case.anchor, s.distance))

    gradient, under_surrogate = jax.grad(objective, has_aux=True)(now.pixels)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    now = now._replace(
        best=better(now.best, Best(real, value, gradient)), value=value,
        gains=now.gains + ((value > now.value) & (clock.step > 0)),
        under_surrogate=jnp.maximum(now.under_surrogate, under_surrogate),
        zero_gradient=now.zero_gradient + jnp.all(gradient == 0))
    return advanced(s, now, gradient, case.clean.pixels, clock)


def advanced(s: Search, now: Climb, gradient: Array, clean: Array, clock: Clock) -> Climb:
    """The next step; at a checkpoint perhaps from the best, half as large."""
    here = clock.since > 0
    slow = now.gains < PROGRESS * clock.since
    unmoved = ~now.halved & (now.best.value == now.checked)
    halve = here & (slow | unmoved)
    pick: Any = partial(jnp.where, halve)
    at, before = pick(now.best.view.pixels, now.pixels), pick(now.best.view.pixels, now.before)
    size = pick(now.size / 2, now.size)
    ahead = s.constraint(at + size * jnp.sign(pick(now.best.along, gradient)), clean)
    share = jnp.where(clock.step == 0, 1, MOMENTUM)
    return now._replace(
        pixels=s.constraint(at + share * (ahead - at) + (1 - share) * (at - before), clean), before=at, size=size,
        gains=jnp.where(here, 0, now.gains), checked=jnp.where(here, now.best.value, now.checked),
        halved=jnp.where(here, halve, now.halved))


def largest_change(
    explanation: Explanation, *, epsilon: float, steps: int = 50, restarts: int = 4,
    distance: Distance = correlation_lost, constraint: Constraint | None = None,
    surrogate: smooth.Surrogate | None = None, judged_by: Explanation | None = None,
    preprocess: Callable[[Array], Array] = lambda pixels: pixels, channels: Channels = "auto",
    heat: Heat = explain.heatmap, devices: Sequence[jax.Device] | None = None, memory: int | str | Budget | None = None,
    precision: str | None = None,
) -> LargestChange:
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
      constraint: another set than the ball of epsilon, of which starts and first steps still are.
      distance: `(heat map, clean heat map) -> Float[]`, not negative, 0 at the clean one; default 1 - Pearson.
      surrogate: from `xmanip_jax.smooth`; default `smooth.relative(30, 100)`, for relu networks; `smooth.none()` for
        smooth ones. Its schedule moves on at the checkpoints.
      judged_by: the explanation of the verdict, where it is not the one that is climbed.
      preprocess: pixels -> the network's input, one image.
      channels, heat, devices, memory, precision: as in `manipulation`.

    The returned function takes model, pixels, labels and key as `manipulation` does, inputs of any number of axes
    included, and `epsilon=`, another radius than that of the search, for which nothing is compiled anew. About 6
    forward passes a step for a gradient.

    Raises ValueError for bad input before any computation, and NonFiniteError where the clean logits or map are not
    finite. A gradient that vanishes is no error here, and where an entry of it is not finite the search goes on without
    it: `zero_gradient` counts the steps that were left nowhere to go, and `flags` raises their share.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain
    >>> net = lambda x: jnp.stack([jnp.sum(2 * x + jnp.sin(9 * x)), 0.0])
    >>> pixels = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1)
    >>> search = attack.largest_change(explain.gradient(), epsilon=0.1, steps=10, restarts=2, surrogate=smooth.none())
    >>> found = search(net, pixels, key=jax.random.key(0))
    >>> bool(found.change > 0.1), found.by_restart.shape, found.evaluations
    (True, (2, 1), 20)
    """
    look, judge = (viewing(e, channels=channels, heat=heat) for e in (explanation, judged_by or explanation))
    search = asked(judge, distance, preprocess, epsilon, constraint, restarts, steps)
    surrogate = surrogate or smooth.relative(30.0, 100.0)

    def within(radius):
        return dataclasses.replace(search, epsilon=radius, constraint=constraint or linf(radius))

    def seen(network, pixels, case, key, t):
        f = surrogate.rewrite(network.model, case.settings, t)
        return look(f, network.preprocess, pixels, case.label, key)

    first = Program(lambda radius, *of: begin(within(radius), surrogate, *of), None, None, 0, 0, None)
    anchored = Program(lambda network, case, t: seen(network, case.clean.pixels, case, case.key, t), None, 0, None)
    stepped = Program(lambda radius, *of: step(within(radius), seen, *of), None, None, 0, 0, None, donate_argnums=2)

    def restart(radius, network, clean, labels, keys, r):
        settings, now = spread(first(radius, network, clean, keys, r), placed(clean.pixels, None))
        now = jax.tree.map(jnp.copy, now)  # the steps are given their state, and the clean image must outlive it
        case, marks = Case(clean, clean, settings, labels, keys), checkpoints(steps)
        for j, (mark, last) in enumerate(zip(marks, [*marks[1:], steps], strict=True)):
            t = j / max(len(marks) - 1, 1)
            case = case._replace(anchor=anchored(network, case, t))
            for i in range(mark, last):
                since = i - marks[j - 1] if i == mark and j else 0
                now = stepped(radius, network, now, case, Clock(t, r * steps + i, i, since))
        return now.best, now.under_surrogate, now.zero_gradient / steps

    run = searching(search, Machine(devices, memory, precision))

    def found(model: Model, pixels: Float[ArrayLike, " b *shape"] | Nested, *,
              labels: Integer[ArrayLike, " b"] | Nested | None = None, key: RandomKey,
              epsilon: float = epsilon) -> Changed:
        check_positive(epsilon=epsilon)
        return run(partial(restart, epsilon), model, pixels, labels, key, epsilon)

    return found


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
