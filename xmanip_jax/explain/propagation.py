"""Explanations that change the rules of backpropagation: the vjp of `rewrite.propagate`d models."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from .. import rewrite
from ..types import Array, ArrayLike, Explanation, Float, Num
from .base import explanation, select
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
            return _pull(operation, operands, jnp.maximum(relevance, 0))

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
        max_pool: str = "winner", layer: str | None = None,
        rules: Mapping[str, Callable[..., Array]] | None = None) -> Explanation:
    """Layer-wise relevance propagation (Bach et al. 2015) with one rule for each kind of layer.

    It starts with the target's logit at its class (a direction d: with d * logits). Affine runs, BatchNorm in inference
    among them, are merged into the linear layer before them. Activations and other elementwise functions of
    one operand pass relevance unchanged, and so do constants added or multiplied elsewhere. A product gives all
    relevance to the signal if the other operand is a gate, a value in [0, 1] by construction such as a sigmoid (Arras
    et al. 2017), or the scale of a normalisation (Ali et al. 2022); else half to each. So gated units, LSTM, GRU,
    LayerNorm, GroupNorm, RMSNorm and L2 normalisation have their rules.

    Args:
      conv: rule of convolutions, default z_plus();  dense: of dense layers, default epsilon().
      first: rule of the linear layers that no other precedes; default that of their kind.
      sums: rule of additions, sums and average pools, as linear layers of equal weights: epsilon() splits
        in proportion to the summands (the default), z_plus() in proportion to their positive parts.
      max_pool: "winner" (the first largest takes all), or "proportional": as a sum over the window.
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
    by_kind = {"conv": conv or z_plus(), "dense": dense or epsilon()}
    sums, rules = sums or epsilon(), rules or {}

    def choose(operation):
        kind = operation.kind
        if operation.name in rules and kind not in _FIXED:
            return rules[operation.name]
        if kind in by_kind:
            if not first or layer is not None or operation.first is False:
                return by_kind[kind]
            return first if operation.first else functools.partial(_sometimes_first, operation)
        if kind in ("sum", "add"):
            return functools.partial(_summed, operation, sums)
        if kind in ("activation", "elementwise", "statistic", "custom") and sum(operation.carried) == 1:
            return functools.partial(_passed, operation)
        if kind == "product" or (kind == "quotient" and operation.signal is not None):
            return _Product(operation)
        if kind == "max_pool":
            return None if max_pool == "winner" else functools.partial(_shared_pool, operation, sums)
        if kind == "max":
            return functools.partial(_first_largest, operation)
        return None if kind in ("route", "select") else NotImplemented

    return _from_logits(choose, layer, frozenset(rules))


def _sometimes_first(operation, relevance, layer):
    raise rewrite.UnsupportedPrimitiveError(f"{operation} is a first layer in some turns of its loop, or in some "
                                            "branches, only: unroll the loop, rewrite.unroll(f), or give no rule for "
                                            "first layers")


_FIXED = ("conv", "dense", "elementwise", "route")  # kinds that no rule by name is asked for


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

    return _from_logits(choose)


def _from_logits(choose, layer=None, names=frozenset()):
    """Relevance starts as direction * logits; names: of operations that the user gave rules for."""
    def core(f, x, target, *, key=None):
        h, at = (f, x) if layer is None else _above(f, x, layer)
        _check_names(h, at, names)
        g = rewrite.propagate(h, choose, calls=names)
        return _pulled(g, at, target, lambda direction, logits: direction * logits)

    return explanation(core)


def _above(f, x, layer):
    """The part of the model above a layer, as a function of what is added to the layer's value, and zero."""
    tapped = rewrite.tap(f, layer)
    return lambda delta: tapped(x, delta)[0], rewrite.zero_at(f, x, layer)


def _check_names(f, x, names):
    if not names:
        return
    known = {op.name for op in rewrite.flow(f, x, calls=names) if op.kind not in _FIXED}
    if missing := sorted(names - known):
        raise ValueError(f"rules name {', '.join(missing)}, which the model does not contain as an operation with a "
                         f"rule of its own; it contains {', '.join(sorted(known)) or 'none'}")


def _through_activations(backward):
    """A changed gradient: it starts as the direction itself, and activations have their own rule."""
    def core(f, x, target, *, key=None):
        seen = []

        def choose(operation):
            if operation.kind != "activation":
                return None
            seen.append(operation)
            return backward(operation)

        found = _pulled(rewrite.propagate(f, choose), x, target, lambda direction, logits: direction)
        if not seen:
            raise rewrite.NoActivationError("the model calls no activation function: its guided and deconvolved "
                                            "gradients are its gradient; rewrite.inspect(f, x) lists its kinks")
        return found

    return explanation(core)


def _pulled(g, x, target, start):
    logits, pull = jax.vjp(g, x)
    direction = jax.grad(lambda scores: select(scores, target))(logits)
    return pull(start(direction, logits))[0], logits


def _pull(operation, operands, relevance):
    """JAX's own derivative of an operation in its carried operands."""
    carried = [i for i, c in enumerate(operation.carried) if c]

    def of_carried(*values):
        full = list(operands)
        for i, v in zip(carried, values, strict=True):
            full[i] = v
        return operation.apply(*full)

    found = jax.vjp(of_carried, *(operands[i] for i in carried))[1](relevance)
    return found[0] if len(found) == 1 else found


def _passed(operation, relevance, result, *operands):
    return _like(operands[operation.carried.index(True)], relevance)


class _Product:
    """All relevance to the signal, none to what gates or scales it; half to each if both count."""

    def __init__(self, operation):
        self.carried, self.signal = operation.carried, operation.signal
        places = [k for k, c in enumerate(self.carried) if c]
        self.passes = tuple(self.signal in (None, k) for k in places)

    def __call__(self, relevance, result, *operands):
        if self.signal is None:
            return relevance / 2, relevance / 2
        return tuple(relevance if p else None for p in self.passes)


def _like(operand, relevance):
    """What a result says of an operand that was broadcast into it."""
    if operand.shape == relevance.shape:
        return relevance
    return jax.linear_transpose(lambda v: jnp.broadcast_to(v, relevance.shape), operand)(relevance)[0]


def _summed(operation, rule, relevance, result, *operands):
    """An addition or a sum as a linear layer whose weights are all 1, or 1 / n of a mean."""
    values = [v for v, c in zip(operands, operation.carried, strict=True) if c]
    if operation.kind == "sum":
        return _shared(operation, rule, relevance, *values, operation.apply)
    signs = (1, -1) if operation.primitive == "sub" else (1, 1)
    terms = jnp.stack([s * jnp.broadcast_to(v, result.shape) for s, v in zip(signs, values, strict=True)])
    found = _shared(operation, rule, relevance, terms, lambda x: x.sum(0))
    return tuple(_like(v, part) for v, part in zip(values, found, strict=True))


def _shared_pool(operation, rule, relevance, result, x):
    """Max-pooling as a sum over each window."""
    p = operation.params
    if "window_dimensions" not in p:
        raise rewrite.UnsupportedPrimitiveError('soft max-pooling has its own shares: max_pool="winner" takes them')
    window = p["window_dimensions"], p["window_strides"], p["padding"]
    zero = jnp.zeros((), x.dtype)
    return _shared(operation, rule, relevance, x, lambda v: jax.lax.reduce_window(v, zero, jax.lax.add, *window))


def _shared(operation, rule, relevance, x, total):
    w = jnp.full((), abs(operation.scale), x.dtype)
    layer = rewrite.LinearLayer(x, w, 0 * w, w * total(x), lambda x, w: w * total(x), operation.nonnegative)
    return rule(relevance, layer)


def _first_largest(operation, relevance, result, x):
    """A maximum over axes: all to the first position that attains it."""
    axes = operation.params["axes"]
    order = [a for a in range(x.ndim) if a not in axes] + list(axes)
    moved = x.transpose(order)
    flat = moved.reshape(*result.shape, -1)
    winner = jax.nn.one_hot(flat.argmax(-1), flat.shape[-1], dtype=x.dtype)
    return (winner * relevance[..., None]).reshape(moved.shape).transpose([order.index(a) for a in range(x.ndim)])
