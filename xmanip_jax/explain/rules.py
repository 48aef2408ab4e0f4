"""Propagation rules of one linear layer: how the relevance of its result is shared out among its inputs.

A rule is `rule(relevance, layer: rewrite.LinearLayer) -> relevance of layer.x`. Notation: x+ = max(x, 0),
x- = min(x, 0), z = W x + b; R is the relevance of z. A denominator z is stabilised to z + s * sign(z) with
sign(0) = +1; with s = 0, a neuron whose denominator is 0 passes nothing on, and the rule stays differentiable.
"""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from ..rewrite import LinearLayer, UnsupportedPrimitiveError
from ..types import AnyArray, Array, ArrayLike, Float, Num

__all__ = ["Rule", "alpha_beta", "epsilon", "flat", "gamma", "ratio", "w_square", "z_box", "z_plus"]


@runtime_checkable
class Rule(Protocol):
    """The relevance of a linear layer's input from that of its result."""

    def __call__(self, relevance: Float[AnyArray, "*results"], layer: LinearLayer, /) -> Float[Array, "*inputs"]: ...



def epsilon(eps: float = 1e-6, *, bias: bool = True) -> Rule:
    """R_i = sum_j x_i w_ij / z_j R_j, with stabilizer eps (Bach et al. 2015, eq. 58); eps = 0 is LRP-0.

    bias: whether b counts in the denominator, and so keeps its share.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: x @ jnp.array([[1.0], [-2.0]])
    >>> explain.lrp(dense=explain.epsilon(0.0))(f, jnp.array([3.0, 1.0]), 0)
    Array([ 3., -2.], dtype=float32)
    """
    _checked("eps", eps)

    def rule(relevance, layer):
        z = layer.z if bias else layer.z - layer.b
        return layer.x * _back(layer, layer.w, ratio(relevance, z, eps))

    return rule


def z_plus(*, stabilizer: float = 1e-6, bias: bool = False) -> Rule:
    """R_i = sum_j (x_i w_ij)+ / sum_k (x_k w_kj)+ R_j (Montavon et al. 2017; alpha = 1, beta = 0 of Bach et al. 2015).

    On a signed input the positive part is x+ w+ + x- w-; behind a relu the second term is skipped.
    bias: whether b+ counts in the denominator; Dombrowski et al. 2019 leave it out.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: x @ jnp.array([[1.0], [-2.0]])
    >>> explain.lrp(dense=explain.z_plus(stabilizer=0))(f, jnp.array([3.0, 1.0]), 0)
    Array([1., 0.], dtype=float32)
    """
    return _alpha_beta(1.0, 0.0, stabilizer, bias)


def alpha_beta(alpha: float = 2.0, beta: float = 1.0, *, stabilizer: float = 1e-6, bias: bool = True) -> Rule:
    """alpha times the share of positive parts minus beta times that of negative ones (Bach et al. 2015, eq. 60).

    alpha - beta = 1 conserves relevance and is required. bias: whether b+ and b- count in the denominators.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: x @ jnp.array([[1.0], [-2.0]])
    >>> explain.lrp(dense=explain.alpha_beta(stabilizer=0))(f, jnp.array([3.0, 1.0]), 0)
    Array([ 2., -1.], dtype=float32)
    """
    return _alpha_beta(alpha, beta, stabilizer, bias)


def _alpha_beta(alpha, beta, stabilizer, bias):
    _checked("stabilizer", stabilizer)
    if alpha < 1 or beta < 0 or abs(alpha - beta - 1) > 1e-9:
        raise ValueError(f"alpha - beta must be 1 with alpha >= 1 and beta >= 0, got {alpha} and {beta}")

    def rule(relevance, layer):
        terms = _signed_parts(layer)
        b = layer.b if bias else jnp.zeros_like(layer.b)
        positive = sum(layer.apply(x, w) for x, w, _ in terms)
        back = lambda ratio, sign: sum(x * _back(layer, w if sign > 0 else other, ratio) for x, w, other in terms)
        found = alpha * back(ratio(relevance, positive + jnp.maximum(b, 0), stabilizer), 1)
        if beta:
            negative = layer.z - layer.b - positive + jnp.minimum(b, 0)
            found -= beta * back(ratio(relevance, negative, stabilizer), -1)
        return found

    return rule


def gamma(g: float = 0.25, *, stabilizer: float = 1e-6) -> Rule:
    """LRP-gamma (Montavon et al. 2019), generalised to signed inputs and results (Andeol et al. 2021).

    Where z > 0, the parts of z that are positive weigh 1 + g times as much; where z < 0, the negative ones do. The
    bias counts as such a part.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: x @ jnp.array([[1.0], [-2.0]])
    >>> explain.lrp(dense=explain.gamma(1.0, stabilizer=0))(f, jnp.array([3.0, 1.0]), 0)
    Array([ 1.5, -0.5], dtype=float32)
    """
    _checked("stabilizer", stabilizer)
    _checked("g", g)

    def rule(relevance, layer):
        terms = _signed_parts(layer)
        positive = sum(layer.apply(x, w) for x, w, _ in terms)
        up = layer.z + g * (positive + jnp.maximum(layer.b, 0))
        down = layer.z + g * (layer.z - layer.b - positive + jnp.minimum(layer.b, 0))
        up = ratio(jnp.where(layer.z > 0, relevance, 0), up, stabilizer)
        down = ratio(jnp.where(layer.z < 0, relevance, 0), down, stabilizer)
        # x w + g (x w)+, split by the sign of x: a part's own weights weigh 1 + g, the others 1.
        share = lambda w, other, ratio: _back(layer, (1 + g) * w + other, ratio)
        return sum(x * (share(w, other, up) + share(other, w, down)) for x, w, other in terms)

    return rule


def z_box(low: Num[ArrayLike, "..."], high: Num[ArrayLike, "..."], *, stabilizer: float = 1e-6) -> Rule:
    """R_i = sum_j (x_i w_ij - l_i w+_ij - h_i w-_ij) / (its sum over i) R_j (Montavon et al. 2017), for a first layer.

    low, high: the bounds l <= h of the model's input, broadcast against it. What the model does to its
    input before its first linear layer is done to the bounds: padding has the box [0, 0], and maps are zero there.
    Refused, with the operation's name, where that is not known to be monotone: a square, a division by a norm.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: x @ jnp.array([[1.0], [-2.0]])
    >>> explain.lrp(first=explain.z_box(0.0, 3.5, stabilizer=0))(f, jnp.array([3.0, 1.0]), 0)
    Array([0.375, 0.625], dtype=float32)
    """
    _checked("stabilizer", stabilizer)
    low, high = jnp.asarray(low), jnp.asarray(high)
    if not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer) and bool(jnp.any(low > high)):
        raise ValueError(f"z_box needs low <= high, got {low} and {high}")

    def rule(relevance, layer):
        if layer.box is None:
            raise UnsupportedPrimitiveError("z_box is a rule for a first layer outside loops: its box is the input's; "
                                            "write loops out with rewrite.unroll(f)")
        lowest, highest = jnp.minimum(*layer.box), jnp.maximum(*layer.box)
        up, down = jnp.maximum(layer.w, 0), jnp.minimum(layer.w, 0)
        z = layer.z - layer.b - layer.apply(lowest, up) - layer.apply(highest, down)
        c = ratio(relevance, z, stabilizer)
        back = lambda w: _back(layer, w, c)
        return layer.x * back(layer.w) - lowest * back(up) - highest * back(down)

    rule.box = low, high  # type: ignore[attr-defined]
    return rule


def w_square(*, stabilizer: float = 1e-6) -> Rule:
    """R_i = sum_j w_ij^2 / sum_k w_kj^2 R_j (Montavon et al. 2017), for a first layer.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: x @ jnp.array([[1.0], [-2.0]])
    >>> explain.lrp(first=explain.w_square(stabilizer=0))(f, jnp.array([3.0, 1.0]), 0)
    Array([0.2, 0.8], dtype=float32)
    """
    return _input_free(lambda w: w**2, stabilizer)


def flat(*, stabilizer: float = 1e-6) -> Rule:
    """Every input of a neuron gets the same share (Bach et al. 2016), for a first layer.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: x @ jnp.array([[1.0], [-2.0]])
    >>> explain.lrp(first=explain.flat(stabilizer=0))(f, jnp.array([3.0, 1.0]), 0)
    Array([0.5, 0.5], dtype=float32)
    """
    return _input_free(jnp.ones_like, stabilizer)


def _input_free(weights, stabilizer):
    _checked("stabilizer", stabilizer)

    def rule(relevance, layer):
        w = weights(layer.w)
        return _back(layer, w, ratio(relevance, layer.apply(jnp.ones_like(layer.x), w), stabilizer))

    return rule


def _signed_parts(layer):
    """(input part, the weights that make it positive, the others); one part where the input is non-negative."""
    up, down = jnp.maximum(layer.w, 0), jnp.minimum(layer.w, 0)
    if layer.nonnegative:
        return [(layer.x, up, down)]
    return [(jnp.maximum(layer.x, 0), up, down), (jnp.minimum(layer.x, 0), down, up)]


def _back(layer, w, ratio):
    """The transposed layer."""
    return jax.linear_transpose(lambda x: layer.apply(x, w), layer.x)(ratio)[0]


def ratio(relevance: Float[AnyArray, "*shape"], z: Float[AnyArray, "*shape"],
          stabilizer: float) -> Float[Array, "*shape"]:
    """relevance / z with the stabilizer of the conventions above; 0 where the denominator is 0."""
    z = z + stabilizer * jnp.where(z < 0, -1.0, 1.0).astype(z.dtype)
    return jnp.where(z == 0, 0, relevance / jnp.where(z == 0, 1, z))


def _checked(name, value):
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value}")
