"""The largest change of an explanation within a ball: what every search for it shares, and its result."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .. import explain, metrics
from ..arguments import check_count
from ..devices import spread
from ..memory import Budget
from ..objectives import View, same_prediction, viewing
from ..programs import Machine, Program, in_parts
from ..types import (
    AnyArray,
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
    Transfer,
)
from . import checks
from .best import Best, better
from .constraint import box, linf
from .diagnosis import check_finite

__all__ = ["Case", "Changed", "Distance", "Search", "asked", "correlation_lost", "draw", "margin", "score", "searching",
           "transfer", "without_gradient"]

# (current heat map, clean heat map) -> Float[], not negative, 0 at the clean one
Distance = Callable[[Array, Array], Array]


class Changed(NamedTuple):
    """The largest change that a search found, batched; every value belongs to the ORIGINAL model unless said.

    Only images whose prediction is that of the clean one count; the clean image, with change 0, is the first of them.
    """

    pixels: Float[Array, " b *shape"]  # in [0, 1], in the ball
    heatmap: Float[Array, " b *places"]  # one value for each place
    logits: Float[Array, "b classes"]
    clean: View  # batched
    change: Float[Array, " b"]  # the distance of heatmap from clean.heatmap
    by_restart: Float[Array, "restarts b"]  # the largest change of each
    under_surrogate: Float[Array, " b"]  # the largest change of the surrogate's map, its own prediction staying
    zero_gradient: Float[Array, " b"]  # the share of steps whose gradient was zero or undefined; nan without gradients
    by_noise: Float[Array, " b"]  # the change by noise of a hundredth of the ball (and of the explanation's draws)
    evaluations: int  # of the gradient, or of the explanation in searches without, for each image


# Of the images in a Changed.
_AXES: Any = Changed(*(None if name == "evaluations" else int(name == "by_restart")  # type: ignore[arg-type]
                       for name in Changed._fields))


def correlation_lost(now: Float[AnyArray, "*places"], clean: Float[AnyArray, "*places"]) -> Float[Array, ""]:
    """1 - Pearson correlation of two heat maps, in [0, 2]; nan where one is constant: the default distance."""
    return 1 - metrics.pearson(now, clean)


def margin(logits: Float[AnyArray, " classes"], label: Integer[AnyArray, ""]) -> Float[Array, ""]:
    """The logit of the label above the largest of the others."""
    return logits[label] - jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits).max()


def score(now: View, clean: View, distance: Distance) -> Array:
    """What a search raises: the change while the prediction stays, else below -1, lower with the margin's deficit.

    An undefined change counts as none.
    """
    change = distance(now.heatmap, clean.heatmap)
    lost = margin(now.logits, clean.logits.argmax()) - 1
    return jnp.where(same_prediction(now, clean, None), jnp.where(jnp.isnan(change), 0, change), lost)


def draw(key: RandomKey, purpose: int, i: Integer[ArrayLike, ""]) -> RandomKey:
    """A key of its own for every purpose and every i; `key` itself is that of the verdicts."""
    return jax.random.fold_in(jax.random.fold_in(key, purpose), i)


class Case(NamedTuple):
    """One image of a search without gradients: what does not change from trial to trial."""

    clean: View
    label: Array
    key: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Search:
    """What every search for the largest change is asked, with any model and images; see `largest_change`."""

    judge: Callable[..., View]  # see `objectives.viewing`
    distance: Distance
    preprocess: Callable[[Array], Array]
    epsilon: float
    constraint: Constraint
    restarts: int
    steps: int  # evaluations in each restart


def asked(judge: Callable[..., View], distance: Distance, preprocess: Callable[[Array], Array], epsilon: float,
          constraint: Constraint | None, restarts: int, steps: int) -> Search:
    """A search, its numbers checked."""
    ball = linf(epsilon)
    check_count(restarts=restarts, steps=steps)
    return Search(judge, distance, preprocess, epsilon, constraint or ball, restarts, steps)


def searching(search: Search, machine: Machine) -> Callable[..., Changed]:
    """The loop of a search: `run(restart, model, pixels, labels, key, epsilon, *given) -> Changed`.

    restart(network: checks.Lifted, clean: View, labels, keys, r, *given) -> (best: Best, under_surrogate,
    zero_gradient), all batched.
    """
    first, kept = Program(partial(_begin, search), None, 0, 0, 0, None), Program(better, 0, 0)

    def run(restart: Callable, model: Model, pixels: ArrayLike, labels: ArrayLike | None, key: Array,
            epsilon: float, *given: Array) -> Changed:
        network, *batch, place = checks.prepared(model, search.judge, search.preprocess, pixels, labels, key=key,
                                                 machine=machine)
        found = partial(searched, restart, network, place, epsilon)
        return in_parts(found, (*batch, *given), machine, _AXES)

    def searched(restart, network, place, epsilon, batch, _):
        pixels, labels, _, keys, *given = spread(batch, place)
        clean, by_noise = first(network, pixels, labels, keys, epsilon)
        check_finite(clean)
        best, rows = Best(clean, jnp.zeros_like(by_noise)), []
        for r in range(search.restarts):
            found, *row = restart(network, clean, labels, keys, r, *given)
            best = kept(best, found._replace(along=()))
            rows.append((jnp.maximum(found.value, 0), *row))
        by_restart, under_surrogate, zero_gradient = map(jnp.stack, zip(*rows, strict=True))
        return Changed(*best.view, clean, best.value, by_restart, under_surrogate.max(0), zero_gradient.mean(0),
                       by_noise, search.restarts * search.steps)

    return run


def _begin(s: Search, network, pixels, label, key, epsilon):
    """(the clean image, the change by noise of a hundredth of the ball)."""
    clean = s.judge(*network, pixels, label, key)
    place, other = jax.random.split(draw(key, 2, 0))
    noise = jax.random.uniform(place, pixels.shape, pixels.dtype, -epsilon / 100, epsilon / 100)
    near = s.judge(*network, jnp.clip(pixels + noise, 0, 1), label, other)
    return clean, s.distance(near.heatmap, clean.heatmap)


def without_gradient(search: Search, improved: Callable[..., Best], machine: Machine) -> LargestChange:
    """A search that looks at no gradient: improved(network, best, case: Case, r) -> best, batched, of each restart.

    The best that it is given is of no value, so that the first trial that counts takes its place.
    """
    run = searching(search, machine)

    def restart(network, clean, labels, keys, r):
        none = Best(jax.tree.map(jnp.copy, clean), jnp.full_like(labels, -jnp.inf, clean.pixels.dtype))
        best = improved(network, none, Case(clean, labels, keys), r)
        return best, jnp.maximum(best.value, 0), jnp.full_like(best.value, jnp.nan)

    def found(model: Model, pixels: Float[ArrayLike, " b *shape"] | Nested, *,
              labels: Integer[ArrayLike, " b"] | Nested | None = None, key: RandomKey) -> Changed:
        return run(restart, model, pixels, labels, key, search.epsilon)

    return found


def transfer(explanation: Explanation, *, distance: Distance = correlation_lost,
             preprocess: Callable[[Array], Array] = lambda pixels: pixels, channels: Channels = "auto",
             heat: Heat = explain.heatmap, devices: Sequence[jax.Device] | None = None,
             memory: int | str | Budget | None = None, precision: str | None = None) -> Transfer:
    """Judge on one network what was found on another: `judge(model, found: Changed, *, labels=None, key) -> Changed`.

    Arguments as in `largest_change`. The images of `found` where `model` changes its prediction count as clean.

    Raises ValueError for bad input, and NonFiniteError where the model's logits or maps are not finite.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain, smooth
    >>> other = lambda x: jnp.stack([jnp.sum(2 * x + jnp.sin(9 * x)), 0.0])
    >>> pixels, e = jnp.linspace(0.2, 0.8, 16).reshape(1, 4, 4, 1), explain.gradient()
    >>> search = attack.largest_change(e, epsilon=0.1, surrogate=smooth.none(), steps=5, restarts=1)
    >>> found = search(other, pixels, key=jax.random.key(0))
    >>> bool(attack.transfer(e)(lambda x: 2 * other(x), found, key=jax.random.key(0)).change > 0)
    True
    """

    look = viewing(explanation, channels=channels, heat=heat)
    run = searching(Search(look, distance, preprocess, 0.0, box(), 1, 1), Machine(devices, memory, precision))

    def judge_one(network, pixels, clean, label, key):
        now = look(*network, pixels, label, key)
        return Best(now, score(now, clean, distance))

    judged = Program(judge_one, None, 0, 0, 0, 0)

    def judge(model: Model, found: Changed, *, labels: Integer[ArrayLike, " b"] | Nested | None = None,
              key: RandomKey) -> Changed:
        def restart(network, clean, labels, keys, r, moved):
            now = judged(network, moved, clean, labels, keys)
            check_finite(now.view, "the changed image")
            return now, jnp.maximum(now.value, 0), jnp.full_like(now.value, jnp.nan)

        epsilon = float(jnp.abs(found.pixels - found.clean.pixels).max())
        return run(restart, model, found.clean.pixels, labels, key, epsilon, jnp.asarray(found.pixels))

    return judge
