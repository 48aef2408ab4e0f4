"""Defences of the prediction: adversarial training and TRADES."""

import jax
import jax.numpy as jnp

from ..metrics import kl_divergence
from ..types import Penalty
from .base import cross_entropy, penalty
from .inner import Ascent, ascend

__all__ = ["adversarial", "trades"]


def adversarial(a: Ascent) -> Penalty:
    """No penalty, but the cross entropy of the neighbour where it is largest (Madry et al. 2018). Needs a key.

    Costs 2 steps + 3 forward passes a training step.

    >>> linear = lambda params, state, x: params * x
    >>> p = adversarial(Ascent(0.1, 0.1, 1, random_start=False))
    >>> p.with_logits(linear, 1.0, None, jnp.array([0.5, 0.5]), 0)[1].round(1)
    Array([0.4, 0.6], dtype=float32)
    """

    def core(f, x, y, key):
        logits = f(ascend(lambda z: cross_entropy(f(z), y), x, key, a))
        return jnp.zeros((), logits.dtype), logits

    return penalty(core)


def trades(a: Ascent) -> Penalty:
    """KL(p(x) || p(x')) at the neighbour x' where it is largest (Zhang et al. 2019); needs a key.

    Usual weight 6; Boopathy et al. 2020 compare with weight 1.

    >>> linear = lambda params, state, x: params * x
    >>> bool(trades(Ascent(0.1, 0.1, 1))(linear, 1.0, None, jnp.array([0.5, 0.4]), 0, jax.random.key(0)) > 0)
    True
    """

    def core(f, x, y, key):
        logits = f(x)
        fixed = jax.lax.stop_gradient(logits)
        attacked = ascend(lambda z: kl_divergence(fixed, f(z)), x, key, a)
        return kl_divergence(logits, f(attacked)), logits

    return penalty(core)
