"""What explanations by rules share: where relevance starts, and what single operations other than layers do with it.

A rule of an operation is `(relevance, result, *operands) -> relevance of the operands that carry the image`.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from .. import rewrite
from ..rewrite.plan import Operation
from ..types import Array, Explanation, Target
from .base import explanation, select
from .rules import Rule, ratio

__all__ = ["FIXED", "Product", "first_largest", "from_logits", "passed", "pull", "pulled", "shared_pool",
           "softmax_rule", "summed"]

FIXED = ("conv", "dense", "elementwise", "route")  # kinds that no rule by name is asked for


def from_logits(choose: Callable[[Operation], Any], layer: str | None = None,
                names: Collection[str] = frozenset(), *, cotangents: bool = False) -> Explanation:
    """The explanation by the rules of `choose`, whose relevance starts as direction * logits.

    names: of operations that the user gave rules for;  cotangents: what the rules pass on is relevance over value, so
    that it starts as the direction, and the map is the layer's value times it.
    """
    def core(f, x, target, *, key=None):
        h, at = (lambda x: (f(x), x), x) if layer is None else _above(f, x, layer)
        _check_names(lambda x: h(x)[0], at, names)
        if not cotangents:
            g = rewrite.propagate(lambda x: h(x)[0], choose, calls=names)
            return pulled(g, at, target, lambda direction, logits: direction * logits)
        logits, pull_back, value = jax.vjp(rewrite.propagate(h, choose, calls=names), at, has_aux=True)
        if not isinstance(logits, jax.core.Tracer) and not bool(jnp.isfinite(logits).all()):
            raise ValueError("the logits are not finite, and no relevance is: a mask may hide every token from one")
        return value * pull_back(_direction(logits, target))[0], logits

    return explanation(core)


def _above(f, x, layer):
    """The part of the model above a layer, a function of what is added to the layer's value, with that; and zero."""
    tapped = rewrite.tap(f, layer)
    return lambda delta: tapped(x, delta), rewrite.zero_at(f, x, layer)


def _check_names(f, x, names):
    if not names:
        return
    known = {op.name for op in rewrite.flow(f, x, calls=names) if op.kind not in FIXED}
    if missing := sorted(names - known):
        raise ValueError(f"rules name {', '.join(missing)}, which the model does not contain as an operation with a "
                         f"rule of its own; it contains {', '.join(sorted(known)) or 'none'}")


def pulled(g: Callable, x: Any, target: Target, start: Callable) -> tuple[Array, Array]:
    logits, pull_back = jax.vjp(g, x)
    return pull_back(start(_direction(logits, target), logits))[0], logits


def _direction(logits, target):
    return jax.grad(lambda scores: select(scores, target))(logits)


def pull(operation: Operation, operands: Sequence[Any], relevance: Array,
         which: Sequence[int] | None = None) -> tuple[Array, ...]:
    """JAX's own derivative of an operation in its carried operands, or in those of the given places."""
    places = [i for i, c in enumerate(operation.carried) if c] if which is None else which

    def of_places(*values):
        full = list(operands)
        for i, v in zip(places, values, strict=True):
            full[i] = v
        return operation.apply(*full)

    return jax.vjp(of_places, *(operands[i] for i in places))[1](relevance)


def passed(operation: Operation, relevance: Array, result: Array, *operands: Any) -> Array:
    return _like(operands[operation.carried.index(True)], relevance)


class Product:
    """All relevance to the signal, none to what gates or scales it; half to each if both count.

    halves: attention weights count, as values do. Of a matrix product each gets in proportion to its terms, but a
    signal alone by the rule of sums, as the input of a linear layer whose weights are the attention weights.
    """

    def __init__(self, operation: Operation, halves: bool = False, stabilizer: float = 1e-8,
                 sums: Any = None) -> None:
        self.operation, self.stabilizer, self.sums = operation, stabilizer, sums
        self.signal = None if halves and operation.beside == "softmax" else operation.signal
        self.places = [k for k, c in enumerate(operation.carried) if c]
        self.passes = tuple(self.signal in (None, k) for k in self.places)

    def __call__(self, relevance: Array, result: Array, *operands: Any) -> tuple[Array | None, ...]:
        relevance = relevance / 2 if self.signal is None else relevance
        if self.operation.kind != "matmul":
            return tuple(relevance if p else None for p in self.passes)
        if self.sums and self.signal is not None:
            return tuple(self._weighted(relevance, result, *operands) if p else None for p in self.passes)
        return self.each(lambda k, g: operands[k] * g, ratio(relevance, result, self.stabilizer), operands)

    def _weighted(self, relevance, result, *operands):
        k = self.signal
        apply = lambda x, w: self.operation.apply(*((x, w) if k == 0 else (w, x)))
        layer = rewrite.LinearLayer(operands[k], operands[1 - k], jnp.zeros((), result.dtype), result, apply,
                                    self.operation.nonnegative)
        return self.sums(relevance, layer)

    def each(self, of: Callable, cotangent: Array, operands: Sequence[Any]) -> tuple[Array | None, ...]:
        """Of each carried operand that counts, `of` its place and JAX's own derivative there; None of the others."""
        places = [k for k, p in zip(self.places, self.passes, strict=True) if p]
        found = dict(zip(places, pull(self.operation, operands, cotangent, places), strict=True))
        return tuple(of(k, found[k]) if k in found else None for k in self.places)


def softmax_rule(operation: Operation, relevance: Array, result: Array, scores: Array, *constants: Any) -> Array:
    """R_i = x_i (R_i - s_i sum R) (Achtibat et al. 2024): Taylor's expansion; scores of -inf, masked, get nothing."""
    scores = jnp.where(jnp.isfinite(scores), scores, 0)
    return scores * (relevance - result * relevance.sum(operation.params["axes"], keepdims=True))


def _like(operand, relevance):
    """What a result says of an operand that was broadcast into it."""
    if operand.shape == relevance.shape:
        return relevance
    return jax.linear_transpose(lambda v: jnp.broadcast_to(v, relevance.shape), operand)(relevance)[0]


def summed(operation: Operation, rule: Rule, relevance: Array, result: Array, *operands: Any) -> Any:
    """An addition or a sum as a linear layer whose weights are all 1, or 1 / n of a mean."""
    values = [v for v, c in zip(operands, operation.carried, strict=True) if c]
    if operation.kind == "sum":
        value, = values
        return _shared(operation, rule, relevance, value, operation.apply)
    signs = (1, -1) if operation.primitive == "sub" else (1, 1)
    terms = jnp.stack([s * jnp.broadcast_to(v, result.shape) for s, v in zip(signs, values, strict=True)])
    found = _shared(operation, rule, relevance, terms, lambda x: x.sum(0))
    return tuple(_like(v, part) for v, part in zip(values, found, strict=True))


def shared_pool(operation: Operation, rule: Rule, relevance: Array, result: Array, x: Array) -> Array:
    """Max-pooling as a sum over each window."""
    p = operation.params
    if "window_dimensions" not in p:
        raise rewrite.UnsupportedPrimitiveError('soft max-pooling has its own shares: max_pool="winner" takes them')
    window = p["window_dimensions"], p["window_strides"], p["padding"]
    # A number: zero as an array is traced under jit, and no sum then, which alone has a transpose.
    return _shared(operation, rule, relevance, x, lambda v: jax.lax.reduce_window(v, 0.0, jax.lax.add, *window))


def _shared(operation, rule, relevance, x, total):
    w = jnp.full((), abs(operation.scale), x.dtype)
    layer = rewrite.LinearLayer(x, w, 0 * w, w * total(x), lambda x, w: w * total(x), operation.nonnegative)
    return rule(relevance, layer)


def first_largest(operation: Operation, relevance: Array, result: Array, x: Array) -> Array:
    """A maximum over axes: all to the first position that attains it."""
    axes = operation.params["axes"]
    order = [a for a in range(x.ndim) if a not in axes] + list(axes)
    moved = x.transpose(order)
    flat = moved.reshape(*result.shape, -1)
    winner = jax.nn.one_hot(flat.argmax(-1), flat.shape[-1], dtype=x.dtype)
    return (winner * relevance[..., None]).reshape(moved.shape).transpose([order.index(a) for a in range(x.ndim)])
