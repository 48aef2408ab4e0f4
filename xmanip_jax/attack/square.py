"""A search that looks at no gradient: random squares (Square attack, Andriushchenko et al. 2020)."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..types import Array, Explanation
from . import change as changes
from . import constraint as constraints
from .change import Changed, Distance, draw, score
from .objective import View, look

__all__ = ["random_search"]


class _Walk(NamedTuple):
    best: View
    value: Array


def random_search(explanation: Explanation, *, epsilon: float, steps: int = 500, restarts: int = 1,
                  distance: Distance = changes.correlation_lost, area: float = 0.8,
                  preprocess: Callable[[Array], Array] = lambda pixels: pixels) -> Callable[..., Changed]:
    """The largest change of an explanation found without its gradient: `search(model, pixels, *, labels=None, key)`.

    From random vertical stripes of +-epsilon, each step sets a random square to +-epsilon, a sign for each channel,
    and stays there if the explanation changes more and the prediction stays (Square attack for the l-infinity ball,
    Andriushchenko et al. 2020). The square covers `area` of the image at first, and is halved when 0.001, 0.005, 0.02,
    0.05, 0.1, 0.2, 0.4, 0.6 and 0.8 of the steps are done. It sees what masks its gradients: beside `largest_change`,
    whose arguments and result it shares, it is a check for `flags`.

    Args: those of `largest_change`;  steps: explanations computed in each restart (2 forward passes for a gradient).

    Raises ValueError for bad input before any computation.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain
    >>> net = lambda x: jnp.stack([jnp.sum(2 * x + jnp.sin(9 * x)), 0.0])
    >>> pixels = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1)
    >>> search = attack.random_search(explain.gradient(), epsilon=0.1, steps=20)
    >>> bool(search(net, pixels, key=jax.random.key(0)).change > 0.1)
    True
    """
    project = constraints.linf(epsilon)
    for name, value in (("steps", steps), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < area <= 1:
        raise ValueError(f"area is a share of the image in (0, 1], got {area}")

    def stripes(key, clean):
        return clean + epsilon * jax.random.rademacher(key, (1, *clean.shape[1:]), clean.dtype)

    def square(key, pixels, clean, share):
        h, w, c = pixels.shape
        side = jnp.clip(jnp.round(jnp.sqrt(share * h * w)), 1, min(h, w))
        rows, columns, signs = jax.random.split(key, 3)
        covers = lambda key, n: jnp.abs(jnp.arange(n) - (jax.random.randint(key, (), 0, n - side.astype(int) + 1) + (
            side - 1) / 2)) <= (side - 1) / 2
        inside = covers(rows, h)[:, None, None] & covers(columns, w)[:, None]
        return jnp.where(inside, clean + epsilon * jax.random.rademacher(signs, (c,), pixels.dtype), pixels)

    @partial(jax.jit, donate_argnames="now")
    @partial(jax.vmap, in_axes=(None, 0, 0, 0, 0, None, None))
    def step(model, now, clean, label, key, i, share):
        chance = draw(key, 0, i)
        trial = jnp.where(i % steps == 0, stripes(chance, clean.pixels),
                          square(chance, now.best.pixels, clean.pixels, share))
        seen = look(explanation, model, preprocess, project(trial, clean.pixels), label, key)
        value = score(seen, clean, distance)
        keep = lambda new, old: jax.tree.map(partial(jnp.where, value > now.value), new, old)
        return _Walk(keep(seen, now.best), keep(value, now.value))

    def restart(model, clean, labels, keys, r):
        now = _Walk(jax.tree.map(jnp.copy, clean), jnp.full(len(labels), -jnp.inf, clean.pixels.dtype))
        for i in range(steps):
            halvings = sum(i >= steps * part for part in (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8))
            now = step(model, now, clean, labels, keys, r * steps + i, area / 2**halvings)
        return now.best, now.value, jnp.maximum(now.value, 0), jnp.full_like(now.value, jnp.nan)

    return changes.searching(restart, explanation, distance, preprocess, epsilon, restarts, steps)
