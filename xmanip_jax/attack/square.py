"""A search that looks at no gradient: random squares (Square attack, Andriushchenko et al. 2020), boxes, intervals."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .. import explain
from ..memory import Budget
from ..metrics.places import channel_axis
from ..objectives import viewing
from ..programs import Machine, Program
from ..types import (
    Array,
    Channels,
    Constraint,
    Explanation,
    Heat,
    LargestChange,
)
from .best import Best, better
from .change import Case, Distance, Search, asked, correlation_lost, draw, score, without_gradient
from .checks import Lifted

__all__ = ["random_search"]


def stripes(key: Array, clean: Array, axis: int | None, epsilon: float) -> Array:
    """Signs that are constant along the first axis of places; along a single one, they change at every place."""
    first, *others = (k for k in range(clean.ndim) if k != axis)
    shape = [1 if k == first and others else n for k, n in enumerate(clean.shape)]
    return clean + epsilon * jax.random.rademacher(key, shape, clean.dtype)


def square(key: Array, pixels: Array, clean: Array, axis: int | None, share: Array, epsilon: float) -> Array:
    """A box of about `share` of all places, its sides equal where the input is long enough; a sign a channel."""
    places = [k for k in range(pixels.ndim) if k != axis]
    size = math.prod(pixels.shape[k] for k in places)
    *keys, signs = jax.random.split(key, len(places) + 1)
    inside: Any = True
    for key, k in zip(keys, places, strict=True):
        n = pixels.shape[k]
        side = jnp.clip(jnp.round((share * size) ** (1 / len(places))), 1, n).astype(int)
        start = jax.random.randint(key, (), 0, n - side + 1)
        covered = (jnp.arange(n) >= start) & (jnp.arange(n) < start + side)
        inside &= jnp.expand_dims(covered, [other for other in range(pixels.ndim) if other != k])
    sign = jax.random.rademacher(signs, [n if k == axis else 1 for k, n in enumerate(pixels.shape)], pixels.dtype)
    return jnp.where(inside, clean + epsilon * sign, pixels)


def step(s: Search, channels: Channels, network: Lifted, now: Best, case: Case, i: Array, share: Array) -> Best:
    """One trial, kept where the explanation changes more; channels: of pixels whose shape preprocess keeps."""
    clean, chance = case.clean.pixels, draw(case.key, 0, i)
    kept = jax.eval_shape(lambda p: network.preprocess(p), clean).shape == clean.shape
    axis = channel_axis(clean.ndim, channels if kept else "auto")
    trial = jnp.where(i % s.steps == 0, stripes(chance, clean, axis, s.epsilon),
                      square(chance, now.view.pixels, clean, axis, share, s.epsilon))
    seen = s.judge(*network, s.constraint(trial, clean), case.label, case.key)
    return better(now, Best(seen, score(seen, case.clean, s.distance)))


def random_search(explanation: Explanation, *, epsilon: float, steps: int = 500, restarts: int = 1,
                  distance: Distance = correlation_lost, constraint: Constraint | None = None, area: float = 0.8,
                  preprocess: Callable[[Array], Array] = lambda pixels: pixels, channels: Channels = "auto",
                  heat: Heat = explain.heatmap, devices: Sequence[jax.Device] | None = None,
                  memory: int | str | Budget | None = None, precision: str | None = None) -> LargestChange:
    """The largest change of an explanation found without its gradient: `search(model, pixels, *, labels=None, key)`.

    From random vertical stripes of +-epsilon, each step sets a random square to +-epsilon, a sign for each channel,
    and stays there if the explanation changes more and the prediction stays (Square attack for the l-infinity ball,
    Andriushchenko et al. 2020). The square covers `area` of the image at first, and is halved when 0.001, 0.005, 0.02,
    0.05, 0.1, 0.2, 0.4, 0.6 and 0.8 of the steps are done. In an input of other axes it is an interval, or a box of
    equal sides, and along a single axis each place starts with a sign of its own. It sees what masks its gradients:
    beside `largest_change`, whose arguments and result it shares, it is a check for `flags`.

    Args: those of `largest_change`;  steps: explanations computed in each restart (2 forward passes for a gradient).
      channels: also of the pixels, where preprocess keeps their shape; else these have theirs last ("auto").

    Raises ValueError for bad input before any computation, and NonFiniteError where the clean logits or map are not
    finite. A map that is not finite counts as unchanged.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain
    >>> net = lambda x: jnp.stack([jnp.sum(2 * x + jnp.sin(9 * x)), 0.0])
    >>> pixels = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1)
    >>> search = attack.random_search(explain.gradient(), epsilon=0.1, steps=20)
    >>> bool(search(net, pixels, key=jax.random.key(0)).change > 0.1)
    True
    """
    look = viewing(explanation, channels=channels, heat=heat)
    search = asked(look, distance, preprocess, epsilon, constraint, restarts, steps)
    if not 0 < area <= 1:
        raise ValueError(f"area is a share of the image in (0, 1], got {area}")
    stepped = Program(partial(step, search, channels), None, 0, 0, None, None, donate_argnums=1)

    def improved(network, now, case, r):
        for i in range(steps):
            halvings = sum(i >= steps * part for part in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
            now = stepped(network, now, case, r * steps + i, area / 2**halvings)
        return now

    return without_gradient(search, improved, Machine(devices, memory, precision))
