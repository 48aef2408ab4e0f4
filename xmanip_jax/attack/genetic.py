"""A search that looks at no gradient: a genetic algorithm (SAFARI, Huang et al. 2023)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import explain
from ..memory import Budget
from ..objectives import viewing
from ..programs import Machine, Program
from ..types import (
    Array,
    Channels,
    Constraint,
    Explanation,
    Float,
    Heat,
    LargestChange,
)
from .best import Best, better
from .change import Case, Distance, Search, asked, correlation_lost, draw, score, without_gradient
from .checks import Lifted

__all__ = ["genetic_search"]

MUTATED = 0.2  # the share of an image's values that a child changes


class Population(NamedTuple):
    """Of one image: the members' pixels and scores, and the best that was seen."""

    pixels: Float[Array, " members *shape"]
    scores: Float[Array, " members"]
    best: Best


def judged(s: Search, network: Lifted, case: Case, pixels: Array, best: Best) -> Population:
    """The members as a population, the best of them kept."""

    def seen(z):
        view = s.judge(*network, z, case.label, case.key)
        return Best(view, score(view, case.clean, s.distance))

    members = jax.vmap(seen)(pixels)
    first = jax.tree.map(lambda leaf: leaf[members.value.argmax()], members)
    return Population(pixels, members.value, better(best, first))


def begin(s: Search, members: int, network: Lifted, case: Case, best: Best, r: Array) -> Population:
    """Members drawn uniformly from the ball."""
    clean = case.clean.pixels
    noise = jax.random.uniform(draw(case.key, 1, r), (members, *clean.shape), clean.dtype, -s.epsilon, s.epsilon)
    return judged(s, network, case, jax.vmap(lambda move: s.constraint(clean + move, clean))(noise), best)


def generation(s: Search, parents: int, network: Lifted, now: Population, case: Case, i: Array) -> Population:
    """The fittest stay; children of two of them, chosen by softmax of the scores, take the places of the others."""
    clean, (members, *_) = case.clean.pixels, now.pixels.shape
    fittest = jnp.argsort(-now.scores)[:parents]
    pick, cross, where, change = jax.random.split(draw(case.key, 2, i), 4)
    pairs = jax.random.categorical(pick, now.scores[fittest], shape=(2, members - parents))
    one, two = (now.pixels[fittest[p]] for p in pairs)
    ahead = now.scores[fittest[pairs[0]]] - now.scores[fittest[pairs[1]]]
    of_one = jax.random.uniform(cross, one.shape) < jax.nn.sigmoid(ahead).reshape(-1, *[1] * clean.ndim)
    noise = jax.random.uniform(change, one.shape, clean.dtype, -s.epsilon, s.epsilon)
    mutates = jax.random.bernoulli(where, MUTATED, one.shape)
    children = jnp.where(of_one, one, two) + jnp.where(mutates, noise, 0)
    children = jax.vmap(lambda z: s.constraint(z, clean))(children)
    return judged(s, network, case, jnp.concatenate([now.pixels[fittest], children]), now.best)


def genetic_search(explanation: Explanation, *, epsilon: float, steps: int = 500, restarts: int = 1,
                   population: int = 50, parents: int = 10, distance: Distance = correlation_lost,
                   constraint: Constraint | None = None,
                   preprocess: Callable[[Array], Array] = lambda pixels: pixels, channels: Channels = "auto",
                   heat: Heat = explain.heatmap, devices: Sequence[jax.Device] | None = None,
                   memory: int | str | Budget | None = None, precision: str | None = None) -> LargestChange:
    """The largest change of an explanation that evolution finds: `search(model, pixels, *, labels=None, key)`.

    A population drawn uniformly from the ball; in each generation the `parents` fittest stay and the others are
    children of two of them, value by value from one or the other, a fifth of the values moved by noise within epsilon
    (Huang et al. 2023, SAFARI, the worst case; their mutations are smaller). Fitness is the change of the heat map
    while the prediction stays, and how near the prediction is to the clean one where it does not. It sees no gradient,
    and is a judge beside `random_search`, whose arguments and result it shares.

    Args: those of `largest_change`;  steps: explanations computed in each restart, about: generations are whole.
      population: members that are judged together, more than parents;  parents: at least 2.

    Raises ValueError for bad input before any computation, and NonFiniteError where the clean logits or map are not
    finite. A map that is not finite counts as unchanged.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain
    >>> net = lambda x: jnp.stack([jnp.sum(2 * x + jnp.sin(9 * x)), 0.0])
    >>> pixels = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1)
    >>> search = attack.genetic_search(explain.gradient(), epsilon=0.1, steps=32, population=8, parents=3)
    >>> bool(search(net, pixels, key=jax.random.key(0)).change > 0.1)
    True
    """
    if not 2 <= parents < population:
        raise ValueError(f"a generation needs 2 <= parents < population, got {parents} parents of {population}")
    look = viewing(explanation, channels=channels, heat=heat)
    search = asked(look, distance, preprocess, epsilon, constraint, restarts, steps)
    bred = Program(partial(generation, search, parents), None, 0, 0, None)
    first = Program(partial(begin, search, population), None, 0, 0, None)

    def improved(network, best, case, r):
        now = first(network, case, best, r)
        for i in range(max(steps // population - 1, 0)):
            now = bred(network, now, case, r * steps + i)
        return now.best

    return without_gradient(search, improved, Machine(devices, memory, precision))
