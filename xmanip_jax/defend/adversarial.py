"""Defences of the prediction by its worst neighbour: adversarial training, TRADES, local linearity."""

import jax
import jax.numpy as jnp

from ..metrics import kl_divergence
from ..train.ascent import Ascent, ascend
from ..train.loss import cross_entropy, penalty, scalar
from ..types import Penalty

__all__ = ["adversarial", "local_linearity", "trades"]


def adversarial(a: Ascent) -> Penalty:
    """No penalty, but the cross entropy of the neighbour where it is largest (Madry et al. 2018). Needs a key.

    Its value is 0, whatever its weight. Costs 2 steps + 3 forward passes a training step.

    >>> linear = lambda params, state, x: params * x
    >>> p = adversarial(Ascent(0.1, 0.1, 1, random_start=False))
    >>> p.with_logits(linear, 1.0, None, jnp.array([0.5, 0.5]), 0)[1].round(1)
    Array([0.4, 0.6], dtype=float32)
    """

    def core(f, x, y, key):
        z = ascend(lambda z: cross_entropy(f(z), y), x, a, key=key)
        logits = f(z)
        return jnp.zeros((), logits.dtype), logits, z

    return penalty(core, moves=True, unit=a.unit)


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
        attacked = ascend(lambda z: kl_divergence(fixed, f(z)), x, a, key=key)
        return kl_divergence(logits, f(attacked)), logits

    return penalty(core, unit=a.unit)


def local_linearity(a: Ascent, *, slope: float = 0.3, output: str = "loss") -> Penalty:
    """How far the loss l is from its tangent where that is worst (LLR, Qin et al. 2019); needs a key.

    gap(d) = |l(x + d) - l(x) - d . grad l(x)| is maximised within the ball; the value is gap(d) + slope |d . grad l(x)|
    there. The released code has weight 4 and label_weight=2. A training step costs 2 steps + 9 forward passes, less
    twice the first layer: 3 plain ones without an ascent.

    Deviation: the ascent steps by the sign, as all of them here, where the released code unrolls Adam at 0.1. Neither
    lets a derivative through it, and grad l(x) is held fixed inside it.

    Args:
      a: starts at random, because at x itself the gap and its gradient are 0.
      slope: weight of the tangent's change;  output: what l is, as in `gradient_norm`.

    Raises ValueError for a start that is not random, and for a negative slope.

    >>> linear = lambda params, state, x: params @ x
    >>> p = local_linearity(Ascent(0.1, 0.1, 1), slope=0.0, output="logit")
    >>> round(float(p(linear, jnp.ones((1, 3)), None, jnp.full(3, 0.5), 0, jax.random.key(0))), 6)
    0.0
    """
    if not a.random_start:
        raise ValueError("local_linearity starts at random: at x itself the gap has no gradient")
    if not slope >= 0:
        raise ValueError(f"slope is not negative, got {slope}")

    def core(f, x, y, key):
        loss = scalar(f, output, y)
        (here, logits), gradient = jax.value_and_grad(loss, has_aux=True)(x)

        def gap(z, here, gradient):
            return jnp.abs(loss(z)[0] - here - jnp.sum(gradient * (z - x)))

        z = ascend(lambda z: gap(z, *jax.lax.stop_gradient((here, gradient))), x, a, key=key)
        return gap(z, here, gradient) + slope * jnp.abs(jnp.sum(gradient * (z - x))), logits

    return penalty(core, unit=a.unit)
