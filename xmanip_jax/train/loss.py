"""What every defence shares: the one-trace form, the scalar whose curvature counts, and the training loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ..types import AnyArray, Apply, Array, ArrayLike, Float, Integer, Key, Loss, Model, Num, Penalty

__all__ = ["OUTPUTS", "alignment", "cross_entropy", "no_penalty", "of_x", "parameter_penalty", "penalty", "totalled",
           "training_loss", "weighted", "with_logits"]

# core(f, x, y, key) -> (penalty Float[], logits Float[classes] at x); of a penalty that moves x to z,
# -> (penalty, logits at z, z)
Core = Callable[[Model, Array, Array, Array | None], tuple[Array, ...]]


def of_x(pixels: Float[AnyArray, "*shape"]) -> Float[AnyArray, "*shape"]:
    """The `unit` of a penalty whose radii are in the unit of x itself."""
    return pixels


def penalty(core: Core, *, moves: bool = False, unit: Callable[[Array], Array] | None = None) -> Penalty:
    """A penalty `(apply, params, state, x, y, key=None) -> Float[]` from its one-trace form.

    `core(f, x, y, key) -> (value, logits of x)`: one trace for both saves a sixth of a training step with a Hessian
    penalty. A function around a penalty has its value only.

    Args:
      moves: the cross entropy belongs to a neighbour z, which core finds (Adv, Int-Adv):
        `core(f, x, y, key) -> (value, logits of z, z)`. `training_loss` takes one such term.
      unit: pixels -> x, for the pixels that its radii and steps count, the identity where they count x itself; None:
        it has none. `fit` refuses a term whose unit its own preprocess is not.

    >>> small = penalty(lambda f, x, y, key: (jnp.sum(f(x) ** 2), f(x)))
    >>> small(lambda params, state, x: params * x, 2.0, None, jnp.ones(3), 0)
    Array(12., dtype=float32)
    """

    def whole(apply, params, state, x, y, key=None):
        found = core(partial(apply, params, state), x, y, key)
        if len(found) != 2 + moves:
            raise ValueError(f"the core of a penalty with moves={moves} returns {2 + moves} values, got {len(found)}: "
                             "(value, logits of x), and (value, logits of z, z) with moves=True")
        return found

    def value(apply, params, state, x, y, key=None):
        return whole(apply, params, state, x, y, key)[0]

    traced = lambda apply, params, state, x, y, key=None: whole(apply, params, state, x, y, key)[:2]
    value.with_logits, value.moved, value.unit = traced, whole if moves else None, unit  # type: ignore[attr-defined]
    return value


def with_logits(p: Penalty) -> Callable[..., tuple[Float[Array, ""], Float[Array, " classes"]]]:
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


def cross_entropy(logits: Float[AnyArray, " classes"], y: Integer[ArrayLike, ""]) -> Float[Array, ""]:
    """-log p_y in nats; logits: Float[classes], y: Int[].

    >>> round(float(cross_entropy(jnp.zeros(2), 0)), 4)  # ln 2
    0.6931
    """
    return -jax.nn.log_softmax(logits)[y]


def alignment(a: Float[AnyArray, "*shape"], b: Float[AnyArray, "*shape"]) -> Float[Array, ""]:
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


def scalar(f: Model, output: str, y: Integer[ArrayLike, ""]) -> Callable[[Array], tuple[Array, Array]]:
    """x -> (the output, the logits). Raises ValueError for an unknown output."""
    if output not in OUTPUTS:
        raise ValueError(f"output is one of {', '.join(OUTPUTS)}, got {output!r}")

    def score(x):
        logits = f(x)
        return OUTPUTS[output](logits, y), logits

    return score


def weighted(*terms: tuple[float, Penalty]) -> Callable[..., tuple[Array, Array, Array]]:
    """One example's penalties: (apply, params, state, x, y, key) -> (sum of weight * penalty, logits of z, z).

    z is where the cross entropy belongs: where the one term that moves says, wherever it stands among them, else x. The
    logits come from the trace of that term, or of the first that gives them; without terms, of `no_penalty`.

    Raises ValueError for a negative weight and for two terms that move.
    """
    if negative := [w for w, _ in terms if not w >= 0]:
        raise ValueError(f"weights of a training loss are not negative, got {negative[0]}")
    weights, penalties = zip(*(terms or ((0.0, no_penalty()),)), strict=True)
    movers = [i for i, p in enumerate(penalties) if getattr(p, "moved", None)]
    if len(movers) > 1:
        raise ValueError(f"terms[{movers[0]}] and terms[{movers[1]}] both move the example that the cross entropy is "
                         "taken at: train with one of them")
    traced = [i for i, p in enumerate(penalties) if hasattr(p, "with_logits")]
    lead = (movers + traced + [0])[0]
    leading = penalties[lead].moved if movers else with_logits(penalties[lead])

    def one(apply, params, state, x, y, key):
        keys = [None] * len(weights) if key is None else jax.random.split(key, len(weights))
        at = lambda p, key: p(apply, params, state, x, y, key)
        value, logits, *moved = at(leading, keys[lead])
        values = [value if i == lead else at(p, key) for i, (p, key) in enumerate(zip(penalties, keys, strict=True))]
        return sum(w * v for w, v in zip(weights, values, strict=True)), logits, moved[0] if movers else x

    return one


def totalled(label_weight: float, scale: Num[ArrayLike, ""], logits: Float[AnyArray, "b classes"],
             ys: Integer[AnyArray, " b"], penalties: Float[AnyArray, " b"],
             ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The loss of a batch and its numbers, from Float[b, classes], Int[b] and Float[b]; see `training_loss`."""
    entropy, penalty = jax.vmap(cross_entropy)(logits, ys).mean(), penalties.mean()
    total = label_weight * entropy + scale * penalty
    return total, {"loss": total, "cross_entropy": entropy, "penalty": penalty,
                   "accuracy": jnp.mean(logits.argmax(1) == ys)}


def training_loss(*terms: tuple[float, Penalty], label_weight: float = 1.0) -> Loss:
    """label_weight * cross entropy + sum of weight * penalty, for a batch.

    The cross entropy, and the accuracy, are those of x, or of the neighbour to which one of the terms moves it,
    wherever it stands among them: `adversarial`, and what has at="attacked". The weight of that term, and a ramp, are
    its value's alone.

    Args:
      terms: (weight, penalty), weights not negative;
      label_weight: of the cross entropy, 0 for pure distillation.

    Returns loss(apply, params, state, xs: Float[b, ...], ys: Int[b], keys: Key[b], scale=1) -> (Float[], {"loss",
    "cross_entropy", "penalty", "accuracy"}); scale multiplies every penalty, for a ramp.

    Raises ValueError for a negative weight, and for two terms that move the example.

    >>> from xmanip_jax import defend, train
    >>> loss = train.training_loss((1e-3, defend.hessian()), (1.0, defend.adversarial(train.Ascent(0.1, 0.1, 1))))
    """
    if not label_weight >= 0:
        raise ValueError(f"weights of a training loss are not negative, got {label_weight}")
    one = weighted(*terms)

    def loss(apply: Apply, params: Any, state: Any, xs: Float[AnyArray, " b *shape"], ys: Integer[AnyArray, " b"],
             keys: Key[Array, " b"] | None = None, scale: Num[ArrayLike, ""] = 1.0,
             ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        axes = (None, None, None, 0, 0, None if keys is None else 0)
        penalties, logits, _ = jax.vmap(one, in_axes=axes)(apply, params, state, xs, ys, keys)
        return totalled(label_weight, scale, logits, ys, penalties)

    return loss


def parameter_penalty(measure: Callable[[Any], Array]) -> Penalty:
    """A penalty of the parameters alone, the same for every example: measure(params) -> Float[].

    >>> size = parameter_penalty(lambda params: jnp.sum(params ** 2))
    >>> size(lambda params, state, x: params * x, jnp.ones(2), None, jnp.zeros(2), 0)
    Array(2., dtype=float32)
    """
    return lambda apply, params, state, x, y, key=None: measure(params)
