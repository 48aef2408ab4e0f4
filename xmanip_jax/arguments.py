"""Checks of what many functions take: numbers, keys, one example, a model."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .types import Array, ArrayLike

__all__ = ["ModelError", "check_count", "check_key", "check_one", "check_positive", "keys_of", "model_error", "traced"]

_INFERENCE = ("switch it to inference, with model.eval() in flax nnx, eqx.nn.inference_mode(model) in equinox, "
              "training=False in Keras, and make it anew if a call has left its values in it")


class ModelError(ValueError):
    """A model that cannot be called as it is."""


def check_count(**counts: int) -> None:
    """Raises ValueError naming the count that is not a positive integer."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is a positive integer, got {value}")


def check_positive(**values: ArrayLike) -> None:
    """Raises ValueError naming the value that is known and not positive."""
    for name, value in values.items():
        if not isinstance(value, jax.core.Tracer) and not value > 0:  # type: ignore[operator]
            raise ValueError(f"{name} is positive, got {value}")


def check_key(key: Array) -> None:
    """Raises ValueError for what is not one key: typed, jax.random.key(0), or as before it, jax.random.PRNGKey(0)."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not (typed and shape == ()) and not (dtype == jnp.uint32 and shape in ((2,), (4,))):
        got = f"{dtype}{list(shape)}" if shape is not None else repr(key)
        raise ValueError(f"key is one key, such as jax.random.key(0), got {got}"
                         + (": take one of them, or vmap over them" if typed else ""))


def keys_of(key: Array, count: int) -> Array:
    """`count` keys from one; ValueError for what is none, see `check_key`."""
    check_key(key)
    return jax.random.split(key, count)


def check_one(x: Any) -> None:
    """Raises ValueError for what is not an array of floating-point numbers: a list, pixels of 0 to 255."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:
        raise ValueError(f"x is one array, the network's input, got {type(x).__name__}: jnp.asarray makes one")
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"x is of floating-point numbers, the network's input, got {dtype}: divide pixels of 0 to 255 "
                         "by 255, and preprocess them as the network wants")


def traced(f: Callable, *inputs: Any, name: str = "the model", given: Any = None, twice: bool = False
           ) -> tuple[Any, Any]:
    """(closed jaxpr, shapes of the results) of a user's function, read anew: it may have changed in place.

    given: of the inputs, what errors name; default all;  twice: also whether it reads what this trace left in it.

    Raises ModelError where it cannot be called so, and where it reads values that an earlier trace left in it (unless a
    jit around all of this is being traced, which fails at its end).
    """
    read = lambda: jax.make_jaxpr(lambda *inputs: f(*inputs), return_shape=True)(*inputs)  # it remembers functions
    try:
        closed, out = read()
        if not isinstance(jnp.zeros(()), jax.core.Tracer):
            consts = [*closed.consts, *(read()[0].consts if twice else ())]
            jax.tree.map(jnp.copy, [v for v in consts if isinstance(v, jax.core.Tracer)])  # fails for what is left
    except Exception as error:
        if told := model_error(error, inputs if given is None else given, name=name):
            raise told from error
        raise
    return closed, out


def model_error(error: Exception, inputs: Any, name: str = "the model") -> ModelError | None:
    """What a model raised when called with inputs, as one line with the way out; None for what this library says."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if _in_training(error):
        return ModelError(f"{name} is in training mode (dropout, BatchNorm) or keeps values of a call in itself: "
                          f"{_INFERENCE} ({first.split('. ')[0].split(' (http')[0]})")
    ours = type(error).__module__.startswith(__package__)
    if ours or not isinstance(error, TypeError | ValueError | AttributeError | IndexError):
        return None
    given = ", ".join(f"{v.dtype}{list(v.shape)}" for v in jax.tree.leaves(inputs) if hasattr(v, "shape"))
    return ModelError(f"{name} cannot be called with {given} (one example: the first axis of the pixels is the batch "
                      f"of an attack, elsewhere jax.vmap maps over it; channels where the model has them): {first}")


def _in_training(error):
    """Whether a model tried to change its own state while it was traced, as flax, equinox, Keras and haiku say it."""
    kind, text = type(error).__name__, str(error)
    return (isinstance(error, jax.errors.UnexpectedTracerError) or "an unexpected tracer" in text
            or kind in ("TraceContextError", "ModifyScopeVariableError", "InvalidRngError")
            or "Dropout requires a key" in text or (isinstance(error, NameError) and "unbound axis name" in text))
