"""What every explanation shares: the target, the one-trace form."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..types import Array, Explanation, Model, Target

__all__ = ["check_logits", "explanation", "select", "with_logits"]


def explanation(core: Callable[..., tuple[Array, Array]]) -> Explanation:
    """An explanation from its one-trace form `core(f, x, target, *, key) -> (map, logits)`."""

    def explain(f: Model, x: Array, target: Target, *, key: Array | None = None) -> Array:
        return core(f, x, target, key=key)[0]

    explain.with_logits = core
    return explain


def with_logits(e: Explanation) -> Callable[..., tuple[Array, Array]]:
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


def select(scores: Array, target: Target) -> Array:
    """The score of a class (integer target), or the scores' component along a direction Float[classes].

    Raises ValueError for scores that are not one array Float[classes], and for a target that is neither.
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


def check_logits(logits: Array) -> None:
    """Raise ValueError for what a model returned, or its shape, that is not one array Float[classes]."""
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 1:
        got = type(logits).__name__ if shape is None else f"shape {shape}"
        raise ValueError(f"a model returns its logits, one array Float[classes], got {got}: choose them, as in "
                         "lambda x: f(x)[0], where it returns several values or a batch of one")
