"""What every defence shares: the one-trace form, the scalar whose curvature counts, and the training loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..types import Array, Model, Penalty

__all__ = ["OUTPUTS", "alignment", "cross_entropy", "no_penalty", "penalty", "training_loss", "with_logits"]

# core(f, x, y, key) -> (penalty Float[], logits Float[classes] that the cross entropy sees)
Core = Callable[[Model, Array, Array, Array | None], tuple[Array, Array]]


def penalty(core: Core) -> Penalty:
    """A penalty `(apply, params, state, x, y, key=None) -> Float[]` from its one-trace form.

    The logits that `core` returns beside the value are those of the example that the cross entropy is to be taken at:
    of x, or of an adversarial neighbour (Adv, Int-Adv). One trace for both saves a sixth of a training step with a
    Hessian penalty.

    >>> small = penalty(lambda f, x, y, key: (jnp.sum(f(x) ** 2), f(x)))
    >>> small(lambda params, state, x: params * x, 2.0, None, jnp.ones(3), 0)
    Array(12., dtype=float32)
    """

    def value(apply, params, state, x, y, key=None):
        return core(partial(apply, params, state), x, y, key)[0]

    value.with_logits = lambda apply, params, state, x, y, key=None: core(partial(apply, params, state), x, y, key)
    return value


def with_logits(p: Penalty) -> Callable[..., tuple[Array, Array]]:
    """`p` in the form that returns (value, logits): from one trace if it came from `penalty`.

    >>> size = lambda apply, params, state, x, y, key=None: jnp.sum(params ** 2)
    >>> with_logits(size)(lambda params, state, x: params * x, jnp.ones(2), None, jnp.ones(2), 0)
    (Array(2., dtype=float32), Array([1., 1.], dtype=float32))
    """
    core = getattr(p, "with_logits", None)
    if core is not None:
        return core
    return lambda apply, params, state, x, y, key=None: (p(apply, params, state, x, y, key), apply(params, state, x))


def no_penalty() -> Penalty:
    """Zero: plain training.

    >>> no_penalty()(lambda params, state, x: params * x, 2.0, None, jnp.ones(3), 0)
    Array(0., dtype=float32)
    """

    def core(f, x, y, key):
        logits = f(x)
        return jnp.zeros((), logits.dtype), logits

    return penalty(core)


def cross_entropy(logits: Array, y: Array) -> Array:
    """-log p_y in nats; logits: Float[classes], y: Int[].

    >>> round(float(cross_entropy(jnp.zeros(2), 0)), 4)  # ln 2
    0.6931
    """
    return -jax.nn.log_softmax(logits)[y]


def alignment(a: Array, b: Array) -> Array:
    """The cosine of two arrays as vectors, for training: 0 beside a zero vector, where `metrics.cosine` is nan."""
    square = jnp.sum(a * a) * jnp.sum(b * b)
    return jnp.where(square > 0, jnp.sum(a * b) / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


# The scalar whose gradient is explained or penalised, of (logits, y).
OUTPUTS = {
    "logit": lambda logits, y: logits[y],
    "probability": lambda logits, y: jax.nn.softmax(logits)[y],
    "log_probability": lambda logits, y: jax.nn.log_softmax(logits)[y],
    "loss": cross_entropy,
    "log_density": lambda logits, y: jax.nn.logsumexp(logits),
}


def scalar(f: Model, output: str, y: Array) -> Callable[[Array], tuple[Array, Array]]:
    """x -> (the output, the logits). Raises ValueError for an unknown output."""
    if output not in OUTPUTS:
        raise ValueError(f"output is one of {', '.join(OUTPUTS)}, got {output!r}")

    def score(x):
        logits = f(x)
        return OUTPUTS[output](logits, y), logits

    return score


def training_loss(*terms: tuple[float, Penalty], label: float = 1.0) -> Callable[..., tuple[Array, dict[str, Array]]]:
    """label * cross entropy + sum of weight * penalty, for a batch.

    The cross entropy is taken at the logits of the first term, `no_penalty` if there is none.

    Args:
      terms: (weight, penalty), weights not negative;  label: weight of the cross entropy, 0 for pure distillation.

    Returns loss(apply, params, state, xs: Float[b, ...], ys: Int[b], keys: Key[b], scale=1) -> (Float[], {"loss",
    "cross_entropy", "penalty", "accuracy"}); scale multiplies every penalty, for a ramp.

    Raises ValueError for a negative weight.

    >>> from xmanip_jax import defend
    >>> loss = defend.training_loss((1e-3, defend.hessian()))
    """
    if negative := [w for w in (label, *(w for w, _ in terms)) if not w >= 0]:
        raise ValueError(f"weights of a training loss are not negative, got {negative[0]}")
    first, *rest = terms or ((0.0, no_penalty()),)

    def one(apply, params, state, x, y, key):
        keys = [None] * (1 + len(rest)) if key is None else jax.random.split(key, 1 + len(rest))
        value, logits = with_logits(first[1])(apply, params, state, x, y, keys[0])
        extra = [weight * p(apply, params, state, x, y, k) for (weight, p), k in zip(rest, keys[1:], strict=True)]
        return cross_entropy(logits, y), first[0] * value + sum(extra), logits.argmax() == y

    def loss(apply: Callable[..., Any], params, state, xs, ys, keys=None, scale=1.0):
        axes = (None, None, None, 0, 0, None if keys is None else 0)
        entropy, penalties, right = jax.vmap(one, in_axes=axes)(apply, params, state, xs, ys, keys)
        parts = {"cross_entropy": entropy.mean(), "penalty": penalties.mean(), "accuracy": right.mean()}
        total = label * parts["cross_entropy"] + scale * parts["penalty"]
        return total, {"loss": total, **parts}

    return loss
