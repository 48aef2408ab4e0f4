"""Explanations that change the rules of backpropagation: the vjp of `rewrite.propagate`d models."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from .. import rewrite
from ..types import Array, ArrayLike, Explanation, Float, Num
from .base import explanation
from .relevance import (
    FIXED,
    Product,
    first_largest,
    from_logits,
    passed,
    pull,
    pulled,
    shared_pool,
    softmax_rule,
    summed,
)
from .rules import Rule, alpha_beta, epsilon, z_box, z_plus

__all__ = ["deconvnet", "guided_backprop", "lrp", "lrp_dombrowski2019", "lrp_heo2019", "pattern_attribution"]


def guided_backprop() -> Explanation:
    """The gradient of the target's logit, through activations as relu(R) * act'(z) (Springenberg et al. 2015).

    Every activation counts, however it is written: an elementwise function of one value that is not affine. What only
    scales a normalisation, or is part of a softmax, is none. On a softplus network this is relu(R) * sigmoid(beta z).
    FLOPs: 2 forward passes. Raises NoActivationError.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x) @ jnp.array([[1.0], [1.0], [-1.0]])
    >>> explain.guided_backprop()(f, jnp.array([2.0, -2.0, 2.0]), 0)  # the gradient is [1, 0, -1]
    Array([1., 0., 0.], dtype=float32)
    """
    def backward(operation):
        def rule(relevance, result, *operands):
            return pull(operation, operands, jnp.maximum(relevance, 0))

        return rule

    return _through_activations(backward)


def deconvnet() -> Explanation:
    """The gradient of the target's logit, through activations as relu(R) (Zeiler and Fergus 2014).

    It depends on x through max-pooling only: without max-pooling (or with hard max-pooling) an attack has no gradient.
    FLOPs: 2 forward passes. Raises NoActivationError.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x) @ jnp.array([[1.0], [1.0], [-1.0]])
    >>> explain.deconvnet()(f, jnp.array([2.0, -2.0, 2.0]), 0)  # the gradient is [1, 0, -1]
    Array([1., 1., 0.], dtype=float32)
    """
    return _through_activations(lambda operation: lambda relevance, result, *operands: jnp.maximum(relevance, 0))


def lrp(*, conv: Rule | None = None, dense: Rule | None = None, first: Rule | None = None, sums: Rule | None = None,
        max_pool: str = "winner", products: str = "signal", layer: str | None = None,
        rules: Mapping[str, Callable[..., Array]] | None = None) -> Explanation:
    """Layer-wise relevance propagation (Bach et al. 2015) with one rule for each kind of layer.

    It starts with the target's logit at its class (a direction d: with d * logits). Affine runs, BatchNorm in inference
    among them, are merged into the linear layer before them. Activations and other elementwise functions of
    one operand pass relevance unchanged, and so do constants added or multiplied elsewhere. A product gives all
    relevance to the signal if the other operand is a gate, a value in [0, 1] by construction such as a sigmoid (Arras
    et al. 2017), or the scale of a normalisation (Ali et al. 2022); else half to each. So gated units, LSTM, GRU,
    LayerNorm, GroupNorm, RMSNorm, L2 normalisation and attention have their rules.

    Args:
      conv: rule of convolutions, default z_plus();  dense: of dense layers, default epsilon().
      first: rule of the linear layers that no other precedes; default that of their kind.
      sums: rule of additions, sums and average pools, as linear layers of equal weights: epsilon() splits
        in proportion to the summands (the default), z_plus() in proportion to their positive parts.
      max_pool: "winner" (the first largest takes all), or "proportional": as a sum over the window.
      products: "signal": attention weights are gates, and what they weight gets all, as in CP-LRP (Ali et al. 2022);
        "halves": they get half, and pass it on through their softmax to queries and keys (Achtibat et al. 2024).
      layer: stop at this layer (see `rewrite.layers`): the map is the relevance of its value.
      rules: from the name of a primitive, or of a jitted or custom-rule function wherever it stands, to
        `(R, result, *operands) -> relevance of the operands that depend on the image`, a tuple if several; operands
        have the shape of the result, or their own where the function is the user's. "mul", "div" and "dot_general" mean
        products of two operands that depend on the image; layers have `conv` and `dense`. See docs/rewrite.md.

    Map: the shape of x (or of the layer). FLOPs, map / attack step: epsilon 2 / 4, z_plus 3 / 6 behind relus.
    Raises UnsupportedPrimitiveError listing everything that has no rule, LayerError, ValueError, also for a name in
    `rules` that the model does not contain.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> explain.lrp(dense=explain.epsilon(0.0))(lambda x: x @ jnp.eye(2), jnp.array([1.0, 3.0]), 1)
    Array([0., 3.], dtype=float32)
    """
    if max_pool not in ("winner", "proportional"):
        raise ValueError(f'max_pool is "winner" or "proportional", got {max_pool!r}')
    if products not in ("signal", "halves"):
        raise ValueError(f'products is "signal" or "halves", got {products!r}')
    by_kind = {"conv": conv or z_plus(), "dense": dense or epsilon()}
    sums, rules = sums or epsilon(), rules or {}

    def choose(operation):
        kind = operation.kind
        if operation.name in rules and kind not in FIXED:
            return rules[operation.name]
        if kind in by_kind:
            if not first or layer is not None or operation.first is False:
                return by_kind[kind]
            return first if operation.first else functools.partial(_sometimes_first, operation)
        if kind in ("sum", "add"):
            return functools.partial(summed, operation, sums)
        if kind in ("activation", "elementwise", "statistic", "custom") and sum(operation.carried) == 1:
            return functools.partial(passed, operation)
        if kind in ("matmul", "product") or (kind == "quotient" and operation.signal is not None):
            return Product(operation, products == "halves")
        if kind == "softmax":
            return functools.partial(softmax_rule, operation)
        if kind == "max_pool":
            return None if max_pool == "winner" else functools.partial(shared_pool, operation, sums)
        if kind == "max":
            return functools.partial(first_largest, operation)
        return None if kind in ("route", "select") else NotImplemented

    return from_logits(choose, layer, frozenset(rules))


def _sometimes_first(operation, relevance, layer):
    raise rewrite.UnsupportedPrimitiveError(f"{operation} is a first layer in some turns of its loop, or in some "
                                            "branches, only: unroll the loop, rewrite.unroll(f), or give no rule for "
                                            "first layers")


def lrp_dombrowski2019(low: Num[ArrayLike, "..."], high: Num[ArrayLike, "..."]) -> Explanation:
    """z+ everywhere, z-box at the first layer, winner-take-all max-pooling (Dombrowski et al. 2019, section 2).

    low, high: the least and largest value of the network's input, broadcast against it.

    Deviations from the released code: the stabilizer follows the sign and is 1e-6, not 1e-9; bounds may differ by
    channel (the code takes one scalar for all); additions, which VGG has not, share z+ too.

    >>> import jax, jax.numpy as jnp
    >>> import numpy as np
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x @ jnp.array([[1.0, 0.0], [1.0, 2.0]])) @ jnp.ones((2, 1))
    >>> np.asarray(explain.lrp_dombrowski2019(0.0, 1.0)(f, jnp.array([1.0, 1.0]), 0), float).round(3)
    array([1., 3.])
    """
    return lrp(conv=z_plus(), dense=z_plus(), first=z_box(low, high), sums=z_plus())


def lrp_heo2019(*, layer: str | None = None) -> Explanation:
    """epsilon for dense layers, alpha-beta (1, 0) for convolutions (Heo et al. 2019); stabilizer 0.01, biases counted.

    Deviations from the released code: BatchNorm is merged into its convolution and not skipped; the bias counts
    once in a convolution and not twice; residual additions split by the summands themselves, not by an
    aliased sum. As there, residual additions and average pools share by positive parts.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: jax.nn.relu(x @ jnp.array([[1.0, 0.0], [1.0, 2.0]])) @ jnp.ones((2, 1))
    >>> explain.lrp_heo2019(layer="relu#0")(f, jnp.array([1.0, 1.0]), 0).round(2)
    Array([2., 2.], dtype=float32)
    """
    positive = alpha_beta(1.0, 0.0, stabilizer=0.01)
    return lrp(conv=positive, dense=epsilon(0.01), sums=z_plus(stabilizer=0.01), layer=layer)


def pattern_attribution(patterns: Mapping[str, Float[ArrayLike, "..."]]) -> Explanation:
    """The gradient with all weights w replaced by w * pattern on the way back (Kindermans et al. 2018).

    patterns: from the names of `rewrite.linear_layers` ("conv#0", "dense#0", ...) to arrays in the shape of the
    weights, as `explain.fit_patterns` estimates them. It starts with the target's logit at its class. FLOPs: 2
    forward passes. Raises ValueError naming a layer whose pattern is missing or has another shape.

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> e = explain.pattern_attribution({"dense#0": jnp.array([[0.5], [0.0]])})
    >>> e(lambda x: x @ jnp.array([[2.0], [-1.0]]), jnp.array([1.0, 1.0]), 0)
    Array([ 1., -0.], dtype=float32)
    """
    def choose(operation):
        if operation.merge is None:
            return None
        name = f"{operation.kind}#{operation.index}"
        if name not in patterns:
            raise ValueError(f"no pattern for the layer {name}; patterns has {', '.join(patterns) or 'none'}")

        def rule(relevance, layer):
            pattern = jnp.asarray(patterns[name], layer.w.dtype)
            if pattern.shape != layer.w.shape:
                raise ValueError(f"the pattern of {name} has shape {pattern.shape}, its weights {layer.w.shape}")
            transposed = jax.linear_transpose(lambda x: layer.apply(x, layer.w * pattern), layer.x)
            return transposed(relevance)[0]

        return rule

    return from_logits(choose)


def _through_activations(backward):
    """A changed gradient: it starts as the direction itself, and activations have their own rule."""
    def core(f, x, target, *, key=None):
        seen = []

        def choose(operation):
            if operation.kind != "activation":
                return None
            seen.append(operation)
            return backward(operation)

        found = pulled(rewrite.propagate(f, choose), x, target, lambda direction, logits: direction)
        if not seen:
            raise rewrite.NoActivationError("the model calls no activation function: its guided and deconvolved "
                                            "gradients are its gradient; rewrite.inspect(f, x) lists its kinks")
        return found

    return explanation(core)
