"""The interpretability sneaking attack: a wrong prediction whose explanation changes as little as it can."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import explain
from ..arguments import check_count, check_positive
from ..devices import fetched, spread
from ..memory import Budget
from ..numerics import repeat
from ..objectives import viewing
from ..programs import Machine, Program, in_parts
from ..types import (
    Array,
    ArrayLike,
    Bool,
    Constraint,
    Explanation,
    Float,
    Integer,
    Model,
    Nested,
    RandomKey,
    Sneak,
)
from . import checks
from .constraint import linf
from .diagnosis import check_slopes

__all__ = ["Sneaked", "sneaking"]


class Sneaked(NamedTuple):
    """The outcome for every multiple of the smallest epsilon (first axis) and image (second).

    What failed has success False, and nan for every number.
    """

    pixels: Float[Array, " m b *shape"]  # in [0, 1]
    success: Bool[Array, "m b"]  # the target is predicted
    epsilon: Float[Array, "m b"]  # in pixels
    gamma: Float[Array, "m b"]  # the largest weight of the distance with which the attack succeeds
    distance: Float[Array, "m b"]
    normalised: Float[Array, "m b"]  # over the range of the label's clean map, the least so far along the multiples
    slope: Float[Array, " b"]  # (D_0 - D_n) epsilon_0 / ((epsilon_n - epsilon_0) D_0) of the normalised distance


def sneaking(
    explanation: Explanation, distance: Callable[..., Array], *, multiples: tuple[float, ...] = (1.0, 2.0, 4.0),
    kappa: float = 0.1, step: float = 0.2, steps: int = 10, rounds: int = 10, first_epsilon: float = 0.05,
    first_gamma: float = 5e-5, constraint: Callable[[Any], Constraint] = linf,
    preprocess: Callable[[Array], Array] = lambda pixels: pixels, devices: Sequence[jax.Device] | None = None,
    memory: int | str | Budget | None = None, precision: str | None = None,
) -> Sneak:
    """An attack `sneak(model, pixels, targets, *, labels=None, key=None) -> Sneaked` (ISA, Boopathy et al. 2020).

    It minimises max(max over c != target of f_c - f_target, -kappa) + gamma * distance within epsilon of each pixel,
    by `steps` moves of step * epsilon * clip(1000 gradient, -1, 1) from the image itself. First the smallest epsilon
    that succeeds is found for each image with gamma = 0, by bisection of [0, 1]; then, for each multiple of it, the
    largest gamma in [0, 1]. gamma = 0 is tried first, so that a multiple fails only if that does.

    Args:
      explanation: differentiated once; CAM needs no second derivative.
      distance: `(explanation, f, x, z, (label, target)) -> Float[]`, for example `defend.two_class_discrepancy`: for
        complete maps of M cells proposition 1 keeps it above M / 2 (f_label(x) - f_target(x)) wherever the attack
        succeeds. A distance of one class has no such bound. The explanation that it is given has the image's key bound.
      constraint: epsilon, a traced number -> the set that pixels stay in, from `attack.constraint`.
      multiples: of the smallest epsilon, ascending from at least 1;  rounds: of each bisection, which starts at
        first_epsilon and first_gamma;  preprocess: pixels -> the network's input; maps are taken there;
      devices, memory, precision: as in `manipulation`.

    The returned function takes pixels: Float[b, h, w, c], or any Float[b, ...], in [0, 1]; targets: Int[b], the classes
    to be predicted; labels: Int[b], by default the clean predictions; key: of an explanation that averages over noise,
    whose draws are those of its image throughout: the same at the image and at what becomes of it, in every step.
    rounds + (rounds + 1) * multiples compiled calls.

    Raises ValueError for counts and numbers out of range, for a target that is the label, and without a key where the
    explanation needs one; NonFiniteError where the clean logits, or the gradient there, are not finite. What is not
    finite later has not succeeded.

    >>> from xmanip_jax import defend, explain
    >>> e = explain.gradient_x_input()
    >>> sneak = sneaking(e, defend.two_class_discrepancy, multiples=(1.0,))
    >>> f = lambda x: jnp.stack([x.sum(), 1 - x.sum()])
    >>> found = sneak(f, jnp.full((1, 1, 1, 1), 0.6), [1])  # 0.5 is where the classes meet
    >>> bool(found.success[0, 0]), round(float(found.epsilon[0, 0]), 2)
    (True, 0.1)
    """
    check_count(steps=steps, rounds=rounds)
    check_positive(step=step, first_epsilon=first_epsilon, first_gamma=first_gamma)
    if not kappa >= 0:
        raise ValueError(f"kappa is not negative, got {kappa}")
    if not multiples or multiples[0] < 1 or np.any(np.diff(multiples) <= 0):
        raise ValueError(f"multiples ascend from at least 1, got {multiples}")

    machine = Machine(devices, memory, precision)

    def loss(z, network, x, classes, key, gamma):
        model, preprocess = network
        logits = model(preprocess(z))
        others = jnp.where(jnp.arange(len(logits)) == classes[1], -jnp.inf, logits).max()
        apart = distance(_bound(explanation, key), model, preprocess(x), preprocess(z), classes)
        return jnp.maximum(others - logits[classes[1]], -kappa) + gamma * apart

    @partial(Program, axes=(None, 0, 0, 0))
    def begin(network, x, classes, key):
        """The clean logits, and the gradient of the objective there."""
        return network.model(network.preprocess(x)), jax.grad(loss)(x, network, x, classes, key, first_gamma)

    @partial(Program, axes=(None, 0, 0, 0, 0, 0))
    def attempt(network, x, classes, key, epsilon, gamma):
        """(pixels, whether they are predicted as the target)."""
        project = constraint(epsilon)
        slope = lambda z: jax.grad(loss)(z, network, x, classes, key, gamma)
        move = lambda z: project(z - step * epsilon * jnp.clip(1000 * slope(z), -1, 1), x)
        z = repeat(move, x, steps)
        hit = network.model(network.preprocess(z)).argmax() == classes[1]
        return z, hit & jnp.isfinite(z).all()

    @partial(Program, axes=(None, 0, 0, 0, 0))
    def measure(network, x, z, classes, key):
        (model, preprocess), e = network, _bound(explanation, key)
        map = e(model, preprocess(x), classes[0])
        apart = distance(e, model, preprocess(x), preprocess(z), classes)
        return apart, apart / (map.max() - map.min())

    def bisect(attempted, found, first, smallest):
        """(pixels, success, value): the smallest or largest value in [0, 1] whose attempt succeeds."""
        low, high = jnp.zeros_like(found[2]), jnp.ones_like(found[2])
        middle = jnp.full_like(low, first)
        for _ in range(rounds):
            z, hit = attempted(middle)
            found = _chosen(hit, z, found[0]), found[1] | hit, jnp.where(hit, middle, found[2])
            below = hit == smallest
            low, high = jnp.where(below, low, middle), jnp.where(below, middle, high)
            middle = (low + high) / 2
        return found

    def sneak(model: Model, pixels: Float[ArrayLike, " b *shape"] | Nested,
              targets: Integer[ArrayLike, " b"] | Nested, *, labels: Integer[ArrayLike, " b"] | Nested | None = None,
              key: RandomKey | None = None) -> Sneaked:
        network, x, labels, _, keys, place = checks.prepared(
            model, viewing(_bound(explanation, key)), preprocess, pixels, labels, key=key, machine=machine)
        targets = spread(checks.checked_labels(targets, len(x), checks.classes(network, x)), place)
        if same := np.flatnonzero(fetched(labels == targets)).tolist():
            raise ValueError(f"a target is another class than the label, but not for images {same[:5]}")
        return in_parts(partial(sneaked, network, place), (x, jnp.stack([labels, targets], 1), keys), machine, _AXES)

    def sneaked(network, place, batch, _):
        x, classes, keys = spread(batch, place)
        zero = spread(jnp.zeros(len(x), x.dtype), place)
        none = x, zero > 0, zero
        check_slopes(*begin(network, x, classes, keys))
        attempted = partial(attempt, network, x, classes, keys)
        start, reached, epsilon = bisect(lambda epsilon: attempted(epsilon, zero), none, first_epsilon, True)
        rows = []
        for multiple in multiples:
            within = jnp.minimum(multiple * epsilon, 1)
            z, hit = (start, reached) if multiple == 1 else attempted(within, zero)
            z, hit, gamma = bisect(partial(attempted, within), (z, hit, zero), first_gamma, False)
            success = hit & reached
            numbers = within, gamma, *measure(network, x, z, classes, keys)
            rows.append((z, success, *(jnp.where(success, v, jnp.nan) for v in numbers)))
        z, success, within, gamma, apart, normalised = map(jnp.stack, zip(*rows, strict=True))
        least = jax.lax.cummin(jnp.where(success, normalised, jnp.inf), axis=0)
        least = jnp.where(success, least, jnp.nan)
        slope = (least[0] - least[-1]) * within[0] / ((within[-1] - within[0]) * least[0])
        return Sneaked(z, success, within, gamma, apart, least, slope)

    return sneak


# Of the images in a Sneaked.
_AXES: Any = Sneaked(*(int(name != "slope") for name in Sneaked._fields))  # type: ignore[arg-type]


def _bound(e, key):
    """`e` with its key given; None is left to e, which may need one."""
    return explain.explanation(lambda f, x, target, **_: explain.with_logits(e)(f, x, target, key=key))


def _chosen(hit, new, old):
    return jnp.where(hit.reshape(-1, *[1] * (new.ndim - 1)), new, old)
