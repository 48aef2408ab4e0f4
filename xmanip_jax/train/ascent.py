"""The inner maximisation of robust training: the neighbour at which an objective is worst."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..certify.intervals import Box
from ..numerics import epsilon, repeat
from ..types import AnyArray, Array, ArrayLike, Float, Num, Penalty, RandomKey, Source
from .loss import of_x

__all__ = ["Ascent", "ascend", "check_units", "noise_of", "sign_step"]


class Ascent(NamedTuple):
    """Projected gradient ascent by the sign, in the unit of x, or in pixels.

    radius: of the ball, in each coordinate;  step: of one move;  steps: moves, 0 for the random start alone;
    low, high: bounds, scalars or broadcastable to x, none unless given: [0, 1] where x are pixels. The radius holds
    even where x is outside;  random_start: uniform in the ball, else x itself;
    preprocess: pixels -> x, affine in each number: radius, step and bounds are then in pixels, which stay in [0, 1].
    """

    radius: Num[ArrayLike, "..."]
    step: Num[ArrayLike, "..."]
    steps: int
    low: Num[ArrayLike, "..."] = -np.inf
    high: Num[ArrayLike, "..."] = np.inf
    random_start: bool = True
    preprocess: Callable[[Array], Array] | None = None

    @property
    def unit(self) -> Callable[[Array], Array]:
        """pixels -> x, for the pixels that radius and step count."""
        return self.preprocess or of_x


def sign_step(objective: Callable[[Array], Array], x: Float[AnyArray, "*shape"], box: Box,
              step: Num[ArrayLike, "..."]) -> Float[Array, "*shape"]:
    """`x` moved by `step` along the sign of the objective's gradient, within a box (`certify.ball`).

    >>> sign_step(lambda z: z.sum(), jnp.array([0.2, 0.95]), Box(jnp.zeros(2), jnp.array([0.3, 1.0])), 0.2)
    Array([0.3, 1. ], dtype=float32)
    """
    return jnp.clip(x + step * jnp.sign(jax.grad(objective)(x)), *box)


def ascend(objective: Callable[[Array], Array], x: Float[AnyArray, "*shape"], a: Ascent, *,
           key: RandomKey | None = None) -> Float[Array, "*shape"]:
    """The neighbour of `x` where the ascent of `objective` by `sign_step` ends; no derivative flows through it.

    2 forward passes a step for an objective of the outputs, 4 for one of explanations. A loop primitive.

    Raises ValueError for negative steps and radii, without a key where the start is random, and for a preprocess that
    is not affine in each number: the ball of pixels would be no box of x.

    >>> ascend(lambda z: z.sum(), jnp.array([0.2, 0.95]), Ascent(0.1, 0.2, 1, high=1, random_start=False))
    Array([0.3, 1. ], dtype=float32)
    """
    if a.steps < 0:
        raise ValueError(f"an ascent takes steps of 0 or more, got {a.steps}")
    if not isinstance(a.radius, jax.core.Tracer) and np.any(np.asarray(a.radius) < 0):
        raise ValueError(f"the radius of an ascent is not negative, got {a.radius}")
    if a.random_start and key is None:
        raise ValueError("a random start needs a key")
    radius, step, box = _reach(x, a)
    start = jax.random.uniform(key, x.shape, x.dtype, -1, 1) * radius if key is not None and a.random_start else 0
    move = lambda z: sign_step(objective, z, box, step)
    return jax.lax.stop_gradient(repeat(move, jnp.clip(x + start, *box), a.steps))


def noise_of(key: RandomKey | None) -> RandomKey | None:
    """The key of an explanation beside an ascent whose start `key` draws; None, for a deterministic one, stays None."""
    return None if key is None else jax.random.fold_in(key, 2**31 - 1)  # a count that no draw of x reaches


def check_units(penalties: Sequence[Penalty], preprocess: Callable[[Array], Array], images: AnyArray | Source) -> None:
    """Raises ValueError for a penalty whose budget is not in the pixels of `images` Float[n, ...].

    What is read from files is not read for that.
    """
    probe = np.random.default_rng(0).uniform(size=images.shape[1:]).astype(np.float32)
    for i, p in enumerate(penalties):
        unit = getattr(p, "unit", None)
        if unit is None:
            continue
        ours, theirs = (np.asarray(f(jnp.asarray(probe))) for f in (preprocess, unit))
        if not ours.shape == theirs.shape == probe.shape or not np.allclose(ours, theirs, 1e-5, 1e-6):
            raise ValueError(
                f"the budget of terms[{i}] is not in pixels, for a preprocess stands between them and the network's "
                "input: give its Ascent the same preprocess=, or hand fit images that are preprocessed")
        if isinstance(images, Source) or np.array_equal(theirs, probe):
            continue
        if not 0 <= images.min() <= images.max() <= 1:
            raise ValueError(f"the budget of terms[{i}] is in pixels in [0, 1], the images lie in "
                             f"[{images.min():g}, {images.max():g}]")


def _reach(x, a):
    """(radius, step, what is allowed), in the unit of x."""
    low, high, scale = a.low, a.high, 1
    if a.preprocess is not None:
        zero, scale = _affine(a.preprocess, x)
        ends = [zero + scale * jnp.clip(v, 0, 1) for v in (low, high)]
        low, high, scale = jnp.minimum(*ends), jnp.maximum(*ends), jnp.abs(scale)
    radius, step = a.radius * scale, a.step * scale
    return radius, step, Box(*(jnp.clip(v, x - radius, x + radius) for v in (low, high)))


def _affine(preprocess, x):
    """(shift, scale) of x = shift + scale * pixels, each like x; see `ascend` for what is refused."""
    with jax.ensure_compile_time_eval():
        probe = jnp.asarray(np.random.default_rng(0).uniform(size=x.shape), x.dtype)
        zero, one, between = (preprocess(v) for v in (jnp.zeros_like(probe), jnp.ones_like(probe), probe))
        fits = jnp.shape(between) == x.shape
        if fits and not isinstance(between, jax.core.Tracer):
            gap = jnp.abs(between - (zero + probe * (one - zero)))
            fits = bool(jnp.all(gap <= 16 * epsilon(probe) * (jnp.abs(zero) + jnp.abs(one))))
    if not fits:
        raise ValueError("an Ascent in pixels needs a preprocess that is affine in each number, as (pixels - mean) / "
                         "std is: make the rest a part of the model, or give radius and step in the unit of x")
    return zero, one - zero
