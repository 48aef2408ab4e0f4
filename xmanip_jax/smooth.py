"""Smooth surrogates of a network: softplus in place of relu, and schedules for its sharpness beta.

A relu network is piecewise linear, so the gradient of its gradient explanation is zero. The attack therefore walks on
softplus_beta(z) = ln(1 + exp(beta z)) / beta, sharpening beta as it goes (Dombrowski et al. 2019, section 2.1, A.1),
and the same replacement at a small beta is the defence of their section 4, beta-smoothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from . import rewrite
from .nonlinearities import centred_softplus, soft_max_pool, softplus_beta, softplus_beta6
from .rewrite.known import KNOWN
from .types import AnyArray, Array, ArrayLike, Example, Float, Model, Num, Shaped

__all__ = ["Surrogate", "absolute", "activation_scales", "centred_softplus", "kinks", "none", "relative",
           "soft_max_pool", "softplus", "softplus_beta", "softplus_beta6"]


def softplus(f: Model, beta: Num[ArrayLike, ""] | Num[ArrayLike, " calls"], *, max_pool: bool = False) -> Model:
    """`f` with softplus_beta in place of every kink: relu, relu6, leaky relu, elu, selu, clip, |.| and their kind.

    Each activation is recognised by what it computes, however it is written; smooth ones stay as they are. A function
    with several kinks is made of several softplus: relu6(z) of softplus_beta(z) - softplus_beta(z - 6).

    Args:
      f: a model of one example.
      beta: Float[] for all calls, or Float[n], one for each in the order of execution. Positive; may be traced.
      max_pool: replace max-pooling by `soft_max_pool` as well. Without it the gradient still jumps where the maximum
        changes place; Dombrowski et al. 2019 leave it hard.

    Raises the errors of `rewrite.replace`, and ValueError when the number of betas is not that of the calls. Warns,
    with a `rewrite.KinkWarning`, of what stays that is not smooth: a maximum over axes, a choice, rounding.

    >>> import jax
    >>> f = lambda x: jax.nn.relu(x).sum()
    >>> round(float(jax.grad(softplus(f, 4.0))(jnp.zeros(1))[0]), 3)
    0.5
    """
    betas = jnp.asarray(beta)

    def act(call, z):
        if betas.ndim and len(betas) != call.total:
            raise ValueError(f"{len(betas)} betas for {call.total} calls")
        return _smoothed(call, z, (betas if betas.ndim == 0 else betas[call.index]).astype(z.dtype))

    return rewrite.map_calls(f, act, _kinds(max_pool), smooth=True)


def _smoothed(call, z, beta):
    if call.window:
        return soft_max_pool(z, beta, call.window)
    r = lambda z: softplus_beta(z, beta)
    if call.around:
        return call.around(r)(z)
    if call.kind == "relu6":
        return softplus_beta6(z, beta)
    return KNOWN[call.kind].surrogate(r, z, *call.parameters)


def _kinds(max_pool):
    return (*rewrite.ACTIVATIONS, "max_pool") if max_pool else rewrite.ACTIVATIONS


def kinks(f: Model, x: Shaped[Example, "*shape"], *, max_pool: bool = False) -> int:
    """How many calls `softplus` replaces in `f` at inputs shaped like x; 0 for a smooth model.

    >>> import jax
    >>> kinks(lambda x: jax.nn.relu(jax.nn.gelu(x)), jnp.ones(3))
    1
    """
    contents = rewrite.inspect(f, x)
    return sum(contents.activations.get(kind, 0) for kind in rewrite.ACTIVATIONS) + max_pool * contents.max_pools


def activation_scales(f: Model, x: Float[AnyArray, "*shape"], *, max_pool: bool = False) -> Float[Array, " calls"]:
    """Float[n]: the standard deviation of the inputs of each activation with a kink (and pooling) at x.

    Floored at 1e-6 of the largest. A layer whose inputs are all equal, or one number, has the scale of that number.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import smooth
    >>> smooth.activation_scales(lambda x: jax.nn.relu(10 * jax.nn.relu(x)), jnp.array([1.0, 3.0]))
    Array([ 1., 10.], dtype=float32)
    """
    scales = jnp.stack([jnp.std(z) for z in rewrite.inputs(f, _kinds(max_pool))(x)])
    return jnp.maximum(scales, 1e-6 * scales.max())


class Surrogate(NamedTuple):
    """The model that an attack differentiates, changing along the attack.

    fit(f, x) -> settings, one forward pass at the clean x;
    rewrite(f, settings, t) -> the model at progress t in [0, 1].
    """

    fit: Callable[[Model, Array], Any]
    rewrite: Callable[[Model, Any, ArrayLike], Model]


def _geometric(start, stop):
    if not 0 < start <= stop:
        raise ValueError(f"a schedule needs 0 < start <= stop, got {start} and {stop}")
    return lambda t: start * (stop / start) ** t


def relative(start: float = 5.0, stop: float = 400.0, *, max_pool: bool = True) -> Surrogate:
    """Softplus, and soft max-pooling, whose beta follows the scale of each activation: beta_l(t) = kappa(t) / s_l.

    s_l is the standard deviation of activation l's inputs at the clean image and kappa grows geometrically from `start`
    to `stop`. No constant depends on the network, and rescaling its layers changes nothing. The default.

    Smoothing the max-pooling too is what lets the attack move the positions through which a gradient flows back: on
    SqueezeNet 1.1 the correlation with the target map rises from 0.58 to 0.83 in the same 150 steps.

    A model without kinks is its own surrogate.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import smooth
    >>> surrogate, f, x = smooth.relative(), lambda x: jax.nn.relu(x), jnp.array([-1.0, 1.0])
    >>> [round(float(surrogate.rewrite(f, surrogate.fit(f, x), t)(0 * x)[0]), 4) for t in (0.0, 1.0)]
    [0.1386, 0.0017]
    """
    kappa = _geometric(start, stop)

    def fit(f, x):
        try:
            return activation_scales(f, x, max_pool=max_pool)
        except rewrite.NoActivationError:
            return jnp.zeros(0)

    return Surrogate(fit, lambda f, scales, t: softplus(f, kappa(t) / scales, max_pool=max_pool) if scales.size else f)


def absolute(start: float = 10.0, stop: float = 100.0, *, max_pool: bool = False) -> Surrogate:
    """Softplus with one beta(t) = start (stop / start)^t for all activations (Dombrowski et al. 2019, A.1).

    The papers' 10 -> 100 is the scale of their VGG-16, with max-pooling as it is; other networks need other numbers, or
    `relative`. A model without kinks is its own surrogate.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import smooth
    >>> surrogate, f, x = smooth.absolute(10.0, 100.0), jax.nn.relu, jnp.zeros(1)
    >>> [round(float(surrogate.rewrite(f, surrogate.fit(f, x), t)(x)[0]), 4) for t in (0.0, 1.0)]
    [0.0693, 0.0069]
    """
    beta = _geometric(start, stop)
    return Surrogate(lambda f, x: jnp.zeros(kinks(f, x, max_pool=max_pool)),
                     lambda f, settings, t: softplus(f, beta(t), max_pool=max_pool) if settings.size else f)


def none() -> Surrogate:
    """The model itself, also where it has kinks: for explanations whose gradient needs no second derivative.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import attack, explain, smooth
    >>> attacked = attack.manipulation(explain.cam("features"), surrogate=smooth.none())
    """
    return Surrogate(lambda f, x: (), lambda f, settings, t: f)
