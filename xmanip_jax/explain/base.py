"""What every explanation shares: the target, the one-trace form."""

from typing import Any

import jax
import jax.numpy as jnp

from ..arguments import check_key, check_one, model_error
from ..types import AnyArray, Array, Explanation, Float, Model, RandomKey, Target, Traced

__all__ = ["check_logits", "explanation", "select", "with_logits"]


def explanation(core: Traced) -> Explanation:
    """An explanation from its one-trace form `core(f, x, target, *, key) -> (map, logits)`.

    It refuses an x that is not one array of floating-point numbers, and a key that is none. What the model raises
    becomes a ModelError (a ValueError) that says what it was called with. A batch in the place of one example is seen
    by the logits, [b, classes] then; a model that sums over all axes takes it for an example, and nothing can know. A
    model in training mode is seen where it fails: flax and equinox at once, Keras, whose first call leaves values of
    the trace in the model, at the second; a function that normalises a batch of one is a function like any other.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> e = explain.explanation(lambda f, x, target, *, key: (x * f(x)[target], f(x)))
    >>> e(lambda x: 2 * x, jnp.array([1.0, 3.0]), 1)
    Array([ 6., 18.], dtype=float32)
    """

    def with_logits(f: Model, x: Float[AnyArray, "*shape"], target: Target, *,
                    key: RandomKey | None = None) -> tuple[Float[Array, "*map"], Float[AnyArray, " classes"]]:
        check_one(x)
        if key is not None:
            check_key(key)
        try:
            return core(f, x, target, key=key)
        except Exception as error:
            if told := _of_the_model(error, f, x):
                raise told from error
            raise

    def explain(f: Model, x: Float[AnyArray, "*shape"], target: Target, *,
                key: RandomKey | None = None) -> Float[Array, "*map"]:
        return with_logits(f, x, target, key=key)[0]

    explain.with_logits = with_logits  # type: ignore[attr-defined]
    return explain


def _of_the_model(error, f, x):
    """What to say of an error that the model raises alone, too; None for others."""
    told = model_error(error, x)
    if told is None or type(error).__name__ == "UnexpectedTracerError":
        return told
    try:
        jax.eval_shape(lambda x: f(x), x)
    except Exception as alone:
        return told if type(alone) is type(error) else None
    return None


def with_logits(e: Explanation) -> Traced:
    """`e` in the form `(f, x, target, *, key=None) -> (map, logits)`, from one trace of the model where `e` allows.

    An attack step on a gradient then costs 4 forward passes; calling f(x) beside e(f, x, target) costs 5.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> explain.with_logits(explain.gradient())(lambda x: 2 * x, jnp.ones(3), 1)
    (Array([0., 2., 0.], dtype=float32), Array([2., 2., 2.], dtype=float32))
    """
    core = getattr(e, "with_logits", None)
    if core is None:
        return lambda f, x, target, *, key=None: (e(f, x, target, key=key), f(x))
    return lambda f, x, target, *, key=None: core(f, x, target, key=key)


def select(scores: Float[AnyArray, " classes"], target: Target) -> Float[Array, ""]:
    """The score of a class (integer target), or the scores' component along a direction Float[classes].

    Raises ValueError for scores that are not one array Float[classes], and for a target that is neither.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> logits = jnp.array([1.0, 3.0])
    >>> float(explain.select(logits, 1)), float(explain.select(logits, jnp.array([-1.0, 1.0])))
    (3.0, 2.0)
    """
    check_logits(scores)
    target = jnp.asarray(target)
    if jnp.issubdtype(target.dtype, jnp.integer):
        if target.ndim:
            raise ValueError(f"a class is one integer, got shape {target.shape}; vmap over it for several")
        if not isinstance(target, jax.core.Tracer) and not 0 <= int(target) < scores.shape[-1]:
            raise ValueError(f"class {int(target)} is outside 0..{scores.shape[-1] - 1}")
        return scores[target]
    if target.shape != scores.shape:
        raise ValueError(f"a direction over the logits has their shape {scores.shape}, got {target.shape}")
    return scores @ target


def check_logits(logits: Any) -> None:
    """Raise ValueError for what a model returned, or its shape, that is not one array Float[classes]."""
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 1:
        got = type(logits).__name__ if shape is None else f"shape {shape}"
        way_out = "give one example and vmap over a batch, or choose the logits" if shape else "choose them"
        raise ValueError(f"a model returns its logits, one array Float[classes], got {got}: {way_out}, as in "
                         "lambda x: f(x)[0], where it returns several values or a batch of one")
