"""What is known of activations: where they, their slopes and those' slopes turn, and how large these get.

Between two such places each is monotone, so that its range on an interval is that of its values at the two ends and at
the places between. The slope of a slope is that of jax at kinks, where it has none.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..types import Array, ArrayLike

__all__ = ["PRIMITIVES", "RECIPROCAL", "TABLE", "Shape"]


class Shape(NamedTuple):
    """How an activation s is shaped.

    value, slope, curvature: the places, kinks apart, where s, s' and s'' turn;  kinks: where s' or s'' jumps;
    steepest: sup |s'|;  most_curved: sup |s''|, None where s' jumps;  convex: s is, and s' is 0 far to the left;
    beta: the sharpness of a softplus, else None;  exact: s and s' do not round;  digits: how many last digits s' may be
    wrong by;  pole: where s is infinite;  curvatures: the range of s'' itself,
    (lower, upper) -> (least, largest), where its turns have no closed form.
    """

    value: tuple = ()
    slope: tuple = ()
    curvature: tuple = ()
    kinks: tuple = ()
    steepest: ArrayLike = 1.0
    most_curved: ArrayLike | None = None
    convex: bool = False
    beta: ArrayLike | None = None
    exact: bool = False
    digits: int = 8
    pole: float | None = None
    curvatures: Callable[[Array, Array], tuple[Array, Array]] | None = None


def _softplus(beta=1.0):
    return Shape(curvature=(0.0,), most_curved=jnp.max(jnp.abs(jnp.asarray(beta))) / 4, convex=True, beta=beta)


def _softplus6(beta):
    """s'' is that of one softplus less that of one which is 6 later."""
    bend = lambda z: beta * jax.nn.sigmoid(beta * z) * jax.nn.sigmoid(-beta * z)

    def bump(lower, upper):
        return jnp.minimum(bend(lower), bend(upper)), bend(jnp.clip(0.0, lower, upper))

    def curvatures(lower, upper):
        (least, largest), (later_least, later_largest) = bump(lower, upper), bump(lower - 6, upper - 6)
        return least - later_largest, largest - later_least

    return Shape(slope=(3.0,), most_curved=jnp.max(jnp.abs(jnp.asarray(beta))) / 4, curvatures=curvatures)


def _largest(*values: ArrayLike) -> Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(jnp.asarray(v, float))) for v in values]))


def _elu(alpha=1.0):
    smooth = _number(alpha) == 1
    return Shape(kinks=(0.0,), steepest=_largest(1.0, alpha), most_curved=1.0 if smooth else None)


def _number(v):
    """A number that is known, or None."""
    try:
        return float(v)
    except Exception:  # traced, or an array
        return None


def _celu(alpha=1.0):
    positive = jnp.min(jnp.asarray(alpha)) > 0
    return Shape(kinks=(0.0,), steepest=jnp.where(positive, 1.0, jnp.inf),
                 most_curved=jnp.where(positive, _largest(1 / jnp.asarray(alpha)), jnp.inf))


def _squareplus(b=4.0):
    return Shape(curvature=(0.0,), most_curved=_largest(0.5 / jnp.sqrt(jnp.asarray(b))))


_LOG_2_3 = 1.3169578969248166  # ln(2 + sqrt 3)
_SWISH = Shape(value=(-1.2784645427610738,), slope=(-2.3993572805154677, 2.3993572805154677),
               curvature=(-3.435840993535111, 0.0, 3.435840993535111), steepest=1.099839320128867, most_curved=0.5,
               digits=32)
_GELU_TANH = Shape(value=(-0.7524614220710163,), slope=(-1.4185040087908284, 1.4185040087908284),
                   curvature=(-2.0134807246242579, 0.0, 2.0134807246242579), steepest=1.1289930686587718,
                   most_curved=0.7978845608028654, digits=128)
_SIGMOID = Shape(slope=(0.0,), curvature=(-_LOG_2_3, _LOG_2_3), steepest=0.25, most_curved=1 / 108**0.5)

TABLE: dict[str, Callable[..., Shape]] = {
    "relu": lambda: Shape(kinks=(0.0,), convex=True, exact=True),
    "relu6": lambda: Shape(kinks=(0.0, 6.0), curvature=(3.0,), slope=(3.0,), exact=True),
    "leaky_relu": lambda alpha=0.01: Shape(kinks=(0.0,), steepest=_largest(1.0, alpha)),
    "elu": _elu,
    "selu": lambda: Shape(kinks=(0.0,), steepest=1.7580993408473766),
    "celu": _celu,
    "gelu": lambda: Shape(value=(-0.7517915246935645,), slope=(-2**0.5, 2**0.5), curvature=(-2.0, 0.0, 2.0),
                          steepest=1.1289041451851548, most_curved=0.7978845608028654, digits=32),
    "gelu_tanh": lambda: _GELU_TANH,
    "swish": lambda: _SWISH,
    "mish": lambda: Shape(value=(-1.1924312145154952,), slope=(-2.256376396360793, 1.4905711794854285),
                          curvature=(-3.2673378465204046, -0.08793443131491421, 2.114842563020877),
                          steepest=1.0884981612517279, most_curved=0.6442046372369725, digits=32),
    "softplus": _softplus,
    "softplus_beta": _softplus,
    "centred_softplus": _softplus,
    "softplus_beta6": _softplus6,
    "log_sigmoid": lambda: Shape(curvature=(0.0,), most_curved=0.25),
    "sigmoid": lambda: _SIGMOID,
    "tanh": lambda: Shape(slope=(0.0,), curvature=(-_LOG_2_3 / 2, _LOG_2_3 / 2), most_curved=4 / 27**0.5),
    "hard_tanh": lambda: Shape(kinks=(-1.0, 1.0), slope=(0.0,), exact=True),
    "hard_sigmoid": lambda: Shape(kinks=(-3.0, 3.0), slope=(0.0,), steepest=1 / 6),
    "hard_swish": lambda: Shape(kinks=(-3.0, 3.0), value=(-1.5,), curvature=(0.0,), steepest=1.5),
    "squareplus": _squareplus,
    "soft_sign": lambda: Shape(kinks=(0.0,), slope=(0.0,), most_curved=2.0),
    "sparse_plus": lambda: Shape(kinks=(-1.0, 1.0), curvature=(0.0,), most_curved=0.5),
    "sparse_sigmoid": lambda: Shape(kinks=(-1.0, 1.0), slope=(0.0,), steepest=0.5),
    "maximum": lambda c: Shape(kinks=(c,), exact=True),
    "minimum": lambda c: Shape(kinks=(c,), exact=True),
    "clip": lambda low, high: Shape(kinks=(low, high), slope=((jnp.asarray(low) + high) / 2,), exact=True),
    "abs": lambda: Shape(kinks=(0.0,), exact=True),
    "square": lambda: Shape(value=(0.0,), steepest=np.inf, most_curved=2.0),
    "exp": lambda: _UNBOUNDED,
}
_UNBOUNDED: Shape = Shape(steepest=np.inf, most_curved=np.inf)
RECIPROCAL = _UNBOUNDED._replace(pole=0.0)
# Of a single operation: nothing turns where it is defined, and nothing is a number where it is not.
PRIMITIVES: dict[str, Shape] = {
    **dict.fromkeys(("exp", "exp2", "sqrt", "rsqrt"), _UNBOUNDED), "log": RECIPROCAL,
    "log1p": _UNBOUNDED._replace(pole=-1.0),
    "tanh": TABLE["tanh"](), "logistic": _SIGMOID, "square": TABLE["square"](),
    "erf": Shape(slope=(0.0,), curvature=(-0.5**0.5, 0.5**0.5), steepest=1.1283791670955126,
                 most_curved=0.9678828980938385),
}
