"""How probable is what an attack would find? Subset simulation (Au and Beck 2001), as SAFARI (Huang et al. 2023)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..arguments import check_count, check_positive
from ..types import AnyArray, Array, ArrayLike, Bool, Float, Int, RandomKey

__all__ = ["RareEvent", "subset_simulation"]


class RareEvent(NamedTuple):
    """probability, its coefficient_of_variation: Float[]; rounds: Int[]; reached: Bool[]; example: x's shape.

    Where the event was not reached within the rounds, probability is that of the highest level that was, an upper
    estimate. example: the point with the largest score. The coefficient of variation takes the particles as
    independent: they are nearly, after enough moves.
    """

    probability: Float[Array, ""]
    coefficient_of_variation: Float[Array, ""]
    rounds: Int[Array, ""]
    reached: Bool[Array, ""]
    example: Any


class State(NamedTuple):
    """The particles, their scores, ln P, its variance, the width of the proposals, the round, whether to stop."""

    particles: Array
    scores: Array
    log_probability: Array
    variance: Array
    width: Array
    round: Array
    reached: Array


def subset_simulation(score: Callable[[Array], Array], x: Float[AnyArray, "*shape"], *, key: RandomKey,
                      radius: ArrayLike, low: float = 0.0, high: float = 1.0, particles: int = 1000,
                      share: float = 0.1, moves: int = 50, rounds: int = 20) -> RareEvent:
    """The probability that score(z) >= 0, z uniform within `radius` of each value of x and in [low, high].

    From levels: each is the score that the best `share` of the particles reach, so that a probability of share^m takes
    m rounds of `particles` x `moves` scores, where sampling would take share^-m. Between the levels the survivors are
    drawn again and moved by Metropolis steps, uniform in a box whose width follows the share that is accepted.

    Args:
      score: x's shape -> Float[], pure; a rank such as a margin works best. nan counts as below every level.
      key: of everything random;  radius: positive, in the unit of x;  low, high: of the pixels.
      particles: at least 10 / share;  moves: Metropolis steps in a round;  rounds: at most.

    Raises ValueError for counts, radius and share out of range, and for an x outside of [low, high]; inside jit and
    vmap, where x is not known yet, its probability is nan. Jits and vmaps.

    >>> at = subset_simulation(lambda z: z.min() - 0.6, jnp.full(4, 0.5), key=jax.random.key(0), radius=0.5)
    >>> bool(abs(at.probability - 0.4 ** 4) < 3 * 0.4 ** 4 * at.coefficient_of_variation)
    True
    """
    check_count(particles=particles, moves=moves, rounds=rounds)
    check_positive(radius=radius)
    if not 0 < share < 1 or particles * share < 10:
        raise ValueError(f"share is in (0, 1), with at least 10 particles in it, got {share} of {particles} particles")
    x = jnp.asarray(x)
    inside = jnp.all((x >= low) & (x <= high))
    if not isinstance(inside, jax.core.Tracer) and not inside:
        raise ValueError(f"x lies in [{low:g}, {high:g}], got values from {x.min():g} to {x.max():g}: say low=, high=")
    bottom, top = jnp.maximum(x - radius, low)[None], jnp.minimum(x + radius, high)[None]
    rated = jax.vmap(lambda z: jnp.nan_to_num(score(z), nan=-jnp.inf))
    start, way = jax.random.split(key)

    def move(level, state, key):
        """One Metropolis step of every particle: accepted inside the box and above the level."""
        step = jax.random.uniform(key, state.particles.shape, x.dtype, -state.width, state.width)
        trial = state.particles + step
        # Reflected at the walls, proposals stay symmetric and inside; steps wider than the box are refused.
        trial = jnp.where(trial < bottom, 2 * bottom - trial, jnp.where(trial > top, 2 * top - trial, trial))
        inside = jnp.all((trial >= bottom) & (trial <= top), axis=tuple(range(1, trial.ndim)))
        scores = rated(trial)
        accepted = inside & (scores >= level)
        where = accepted.reshape(-1, *[1] * x.ndim)
        rate = accepted.mean()
        width = state.width * jnp.where(rate > 0.3, 1.1, jnp.where(rate < 0.15, 0.8, 1.0))
        return state._replace(particles=jnp.where(where, trial, state.particles),
                              scores=jnp.where(accepted, scores, state.scores),
                              width=jnp.minimum(width, radius)), None

    def level(state):
        """Up to the next level, and the particles moved there; the last one is 0."""
        next_level = jnp.minimum(jnp.sort(state.scores)[particles - round(share * particles)], 0)
        above = state.scores >= next_level
        p = above.mean()
        reached = next_level >= 0
        counted = state._replace(
            log_probability=state.log_probability + jnp.log(p), variance=state.variance + (1 - p) / (p * particles),
            round=state.round + 1, reached=reached)
        pick, walk = jax.random.split(jax.random.fold_in(way, state.round))
        chosen = jax.random.categorical(pick, jnp.where(above, 0.0, -jnp.inf), shape=(particles,))
        drawn = counted._replace(particles=state.particles[chosen], scores=state.scores[chosen])
        walked = lambda s: jax.lax.scan(lambda now, k: move(next_level, now, k), s, jax.random.split(walk, moves))[0]
        return jax.lax.cond(reached, lambda s: s._replace(particles=state.particles, scores=state.scores), walked,
                            drawn)

    first = bottom + (top - bottom) * jax.random.uniform(start, (particles, *x.shape), x.dtype)
    zero = jnp.zeros((), x.dtype)
    begin = State(first, rated(first), zero, zero, jnp.asarray(radius, x.dtype) / 3, jnp.zeros((), jnp.int32),
                  jnp.array(False))
    end = jax.lax.while_loop(lambda s: ~s.reached & (s.round < rounds), level, begin)
    probability = jnp.where(inside, jnp.exp(end.log_probability), jnp.nan)
    return RareEvent(probability, jnp.sqrt(end.variance), end.round, end.reached,
                     end.particles[end.scores.argmax()])
