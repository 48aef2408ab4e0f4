"""Explanations made of input gradients."""

import jax
import jax.numpy as jnp

from ..metrics.places import wide
from ..numerics import mean_over
from ..types import ArrayLike, Explanation, Num
from .base import explanation, select

__all__ = ["gradient", "gradient_x_input", "integrated_gradients"]


def _value_and_grad(f, x, target):
    """(d score / d x, logits) from one trace."""

    def score(x):
        logits = f(x)
        return select(logits, target), logits

    g, logits = jax.grad(score, has_aux=True)(x)
    return g, logits


def gradient() -> Explanation:
    """The gradient of the target's logit, d f_t / d x (Simonyan et al. 2014). FLOPs: 2 forward passes.

    Map: the shape of x. At the kinks of relu, relu'(0) = 0.

    >>> import jax.numpy as jnp
    >>> gradient()(lambda x: x**2, jnp.array([1.0, 3.0]), 1)
    Array([0., 6.], dtype=float32)
    """
    return explanation(lambda f, x, target, *, key=None: _value_and_grad(f, x, target))


def gradient_x_input() -> Explanation:
    """x * d f_t / d x, with the network's own (normalised) input. FLOPs: 2 forward passes.

    On a relu network without biases it sums to the logit.

    >>> import jax.numpy as jnp
    >>> gradient_x_input()(lambda x: x**2, jnp.array([1.0, 3.0]), 1)
    Array([ 0., 18.], dtype=float32)
    """

    def core(f, x, target, *, key=None):
        g, logits = _value_and_grad(f, x, target)
        return x * g, logits

    return explanation(core)


def integrated_gradients(*, steps: int = 30, baseline: Num[ArrayLike, "..."] = 0.0, output: str = "logit",
                         chunk: int | None = None) -> Explanation:
    """(x - b) * mean over k = 1..steps of the gradient at b + k/steps (x - b) (Sundararajan et al. 2017).

    A right Riemann sum, as in the code of Dombrowski et al. 2019, whose integrand is the probability and not the
    logit: `output="probability"`. The map sums to the difference of the outputs at x and b up to O(1 / steps).

    Args:
      steps: summands, at least 1. FLOPs: 2 * steps forward passes.
      baseline: in the network's own input, broadcast against x.
      output: "logit" or "probability".
      chunk: points computed at once; None means all. See `mean_over` for what a chunk costs an attack.

    >>> import jax.numpy as jnp
    >>> integrated_gradients(steps=1000)(lambda x: x**2, jnp.array([1.0, 3.0]), 1).sum().round(1)
    Array(9., dtype=float32)
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if output not in ("logit", "probability"):
        raise ValueError(f'output is "logit" or "probability", got {output!r}')
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")

    def core(f, x, target, *, key=None):
        offset = x - jnp.asarray(baseline, x.dtype)

        def at(alpha_last):
            alpha, last = alpha_last

            def score(z):
                logits = f(z)
                return select(logits if output == "logit" else jax.nn.softmax(logits), target), logits

            g, logits = jax.grad(score, has_aux=True)(x - (1 - alpha) * offset)
            # The last point is x itself: its logits come free. Times steps, because a mean is taken.
            return g, jnp.where(last, steps * wide(logits), 0)

        ks = jnp.arange(1, steps + 1)
        mean, logits = mean_over(at, (ks.astype(x.dtype) / steps, ks == steps), steps, chunk)
        return wide(offset) * mean, logits

    return explanation(core)
