"""AttnLRP and CP-LRP: gradient times input, but for the derivatives of what is no linear layer.

Of a linear layer LRP-0 is R = x * W'(R / z), so that relevance over value passes it as a cotangent does. Both methods
are therefore x * gradient of the logit with few derivatives changed: normalisations divide by a constant, activations
have their slope from 0, and products share. What a bias, a mask or a position embedding adds keeps its share.
"""

import functools
from collections.abc import Callable, Mapping

from ..types import Array, Explanation
from .relevance import FIXED, Product, from_logits
from .rules import Rule, ratio
from .secants import secant

__all__ = ["attnlrp", "cp_lrp"]


def attnlrp(*, conv: Rule | None = None, dense: Rule | None = None, layer: str | None = None,
            rules: Mapping[str, Callable[..., Array]] | None = None) -> Explanation:
    """AttnLRP (Achtibat et al. 2024) at stabilizer 0, for any network.

    A product of two values gives each half, attention weights included, which pass their share on through the softmax;
    of a gate in [0, 1] (a sigmoid) the signal gets all. Normalisations divide by a constant; an activation passes
    relevance on, less what it has at 0, which a bias would keep. Linear layers, sums and pooling have the gradient.

    Args:
      conv, dense: rules of convolutions and dense layers instead, as `gamma()` in the paper's vision transformers.
      layer: stop at this layer (see `rewrite.layers`): the map is the relevance of its value.
      rules: rules of single operations by name, as in `lrp`.

    Map: the shape of x (or of the layer). FLOPs as of the gradient: map 2 + a, attack step 4 + 5a forward passes,
    a being the share of products of two values in the multiply-adds. A softmax does not conserve relevance.
    Raises UnsupportedPrimitiveError listing everything that has no rule, LayerError, ValueError as `lrp` does.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> explain.attnlrp()(lambda x: jax.nn.gelu(x[:1]) * x[1:], jnp.array([1.0, 2.0]), 0).round(3)
    Array([0.841, 0.841], dtype=float32)
    """
    return _preset(True, conv, dense, layer, rules or {})


def cp_lrp(*, conv: Rule | None = None, dense: Rule | None = None, layer: str | None = None,
           rules: Mapping[str, Callable[..., Array]] | None = None) -> Explanation:
    """CP-LRP (Ali et al. 2022): as `attnlrp`, but attention weights are constants, and what they weight gets all.

    Queries and keys get nothing. Without biases, masks apart, the map sums to the logit. Arguments, FLOPs and errors
    are those of `attnlrp`.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: (jax.nn.softmax(x @ x.T) @ x).sum(0)
    >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    >>> bool(jnp.isclose(explain.cp_lrp()(f, x, 0).sum(), f(x)[0]))
    True
    """
    return _preset(False, conv, dense, layer, rules or {})


def _preset(halves, conv, dense, layer, rules):
    layers = {"conv": conv and _of_layer(conv), "dense": dense and _of_layer(dense)}

    def choose(operation):
        kind = operation.kind
        if operation.name in rules and kind not in FIXED:
            return functools.partial(_of_operation, operation, rules[operation.name])
        if kind in layers:
            return layers[kind]
        if kind == "activation" and sum(operation.carried) == 1:
            return lambda cotangent, result, *operands: cotangent * secant(operation, operands)
        if kind in ("matmul", "product") or (kind == "quotient" and operation.signal is not None):
            return _Shared(operation, halves)
        return NotImplemented if kind in ("activation", "call", "other", "quotient") else None

    return from_logits(choose, layer, frozenset(rules), cotangents=True)


class _Shared(Product):
    """The cotangents of a product's operands: JAX's own derivative, halved where both count."""

    def __call__(self, cotangent, result, *operands):
        inverse = self.operation.kind == "quotient" and self.signal == 1  # R passes unchanged, whatever its power
        sign = -1 if inverse else 1 if self.signal is not None else 0.5
        return self.each(lambda k, g: sign * g, cotangent, operands)


def _of_layer(rule):
    return lambda cotangent, layer: ratio(rule(cotangent * layer.z, layer), layer.x, 0.0)


def _of_operation(operation, rule, cotangent, result, *operands):
    found = rule(cotangent * result, result, *operands)
    found = found if isinstance(found, tuple) else (found,)
    carried = [v for v, c in zip(operands, operation.carried, strict=False) if c]
    return tuple(None if r is None else ratio(r, v, 0.0) for r, v in zip(found, carried, strict=True))
