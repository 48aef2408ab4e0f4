"""Explanations by attention weights: one block's, rolled out over all blocks, weighted by gradients or by relevance.

A map has a number for each place of the tokens' grid, Float[rows, columns] and no channels (`heatmap(map,
channels=None)`); the grid has the proportions of the image unless `grid=` is given. It is the row of the class token
where one stands in front of the tokens of the grid, else the mean over the rows of all tokens; `rows=` is "class" or
"mean" where a model with a class token averages over the others. Blocks are found by what they compute
(`rewrite.attentions`), loops over layers are written out, and weights are averaged over heads unless a head is named.

All raise ValueError for a model without attention, for tokens that make no grid, and where weights are not finite, as
where a mask hides every token (under jit these maps are NaN). What is rolled out needs all tokens in every block:
attention within windows, or of fewer keys, is refused.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from .. import rewrite
from ..types import Explanation
from .base import explanation, select
from .relevance import Product, first_largest, passed, summed
from .rules import epsilon, ratio, z_plus
from .tokens import on_grid, token_grid

__all__ = ["attention", "attention_rollout", "gradient_attention_rollout", "transformer_attribution"]

Grid = Sequence[int] | None


def attention(block: int = -1, head: int | None = None, *, grid: Grid = None, class_tokens: int | None = None,
              rows: str | None = None) -> Explanation:
    """The attention weights of a block, and of a head; the mean over heads if none is named. No class enters.

    block, head: counted from 0, or from the end. FLOPs: a forward pass.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: (jax.nn.softmax(x @ x.T) @ x).mean(0)  # three tokens of two channels
    >>> [round(float(v), 2) for v in explain.attention(0)(f, jnp.array([[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]), 0)]
    [0.33, 0.33, 0.33]
    """
    _check_rows(rows)

    def core(f, x, target, *, key=None):
        f, blocks = _blocks(f, x)
        if not -len(blocks) <= block < len(blocks):
            raise ValueError(f"block {block} is none of the {len(blocks)} attention blocks")
        heads = blocks[block].shape[0]
        if head is not None and not -heads <= head < heads:
            raise ValueError(f"head {head} is none of the {heads} heads of {blocks[block]}")
        logits, weights = rewrite.attention_weights(f)(x)
        _check_finite(blocks, weights)
        of_heads = weights[block].mean(0) if head is None else weights[block][head]
        places, front = token_grid(of_heads.shape[1], x.shape, grid, class_tokens)
        row = of_heads[0] if of_heads.shape[0] == 1 else _start(of_heads, front, rows) @ of_heads
        return on_grid(row, places, front), logits

    return explanation(core)


def attention_rollout(*, fuse: str = "mean", grid: Grid = None, class_tokens: int | None = None,
                      rows: str | None = None) -> Explanation:
    """The product over blocks of the weights with half an identity added (Abnar and Zuidema 2020). No class enters.

    M = (A + 1) / row sums, A the mean, maximum or minimum over heads (`fuse`); the map is a row of M_L ... M_1. FLOPs:
    a forward pass.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: (jax.nn.softmax(0 * x @ x.T) @ x).mean(0)
    >>> explain.attention_rollout()(f, jnp.ones((2, 3)), 0)
    Array([0.5, 0.5], dtype=float32)
    """
    _check_rows(rows)
    fuses = {"mean": lambda a: a.mean(0), "max": lambda a: a.max(0), "min": lambda a: a.min(0)}
    if fuse not in fuses:
        raise ValueError(f'fuse is "mean", "max" or "min", got {fuse!r}')

    def core(f, x, target, *, key=None):
        f, blocks = _rolled(f, x)
        logits, weights = rewrite.attention_weights(f)(x)
        _check_finite(blocks, weights)
        mixed = [m + jnp.eye(len(m), dtype=m.dtype) for m in map(fuses[fuse], weights)]
        steps = [m / m.sum(-1, keepdims=True) for m in mixed]
        return _rolled_out(lambda r, m: r @ m, steps, x, grid, class_tokens, rows), logits

    return explanation(core)


def gradient_attention_rollout(*, grid: Grid = None, class_tokens: int | None = None,
                               rows: str | None = None) -> Explanation:
    """The product over blocks of 1 + E, E = mean over heads of relu(A * d f_t / d A) (Chefer et al., ICCV 2021).

    FLOPs: those of the gradient.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: (jax.nn.softmax(x @ x.T) @ x).mean(0)
    >>> [round(float(v), 3) for v in explain.gradient_attention_rollout()(f, jnp.array([[1.0, 0.0], [0.0, 1.0]]), 0)]
    [0.75, 0.5]
    """
    _check_rows(rows)

    def core(f, x, target, *, key=None):
        f, blocks = _rolled(f, x)
        gradients, weights, logits = _gradients(f, x, target, blocks)
        shares = [jnp.maximum(a * g, 0).mean(0) for a, g in zip(weights, gradients, strict=True)]
        return _rolled_out(lambda r, e: r + r @ e, shares, x, grid, class_tokens, rows), logits

    return explanation(core)


def transformer_attribution(*, grid: Grid = None, class_tokens: int | None = None,
                            rows: str | None = None) -> Explanation:
    """As `gradient_attention_rollout`, with the relevance of the weights for the weights (Chefer et al., CVPR 2021).

    Relevance starts as 1 at the class. Linear layers have z+, products share in halves, softmax, activations and
    normalisations pass it on unchanged, and what a residual addition shares out is rescaled so that each branch has its
    part of the whole. Denominators that are 0 pass nothing on, and sums are over one example. FLOPs, map / attack step:
    6 and 13 forward passes.

    >>> import jax, jax.numpy as jnp
    >>> from xmanip_jax import explain
    >>> f = lambda x: (jax.nn.softmax(x @ x.T) @ x).mean(0)
    >>> [round(float(v), 3) for v in explain.transformer_attribution()(f, jnp.array([[1.0, 0.0], [0.0, 1.0]]), 0)]
    [0.625, 0.5]
    """
    _check_rows(rows)

    def core(f, x, target, *, key=None):
        f, blocks = _rolled(f, x)
        gradients, _, logits = _gradients(f, x, target, blocks)
        # In x, too: rules are the innermost derivative, of all that depends on x, and no outer one may meet them.
        run = lambda x, deltas: rewrite.attention_weights(f, _chefer)(x, deltas)[0]
        relevance = jax.vjp(run, x, _zeros(blocks, x))[1]
        direction = jax.grad(lambda scores: select(scores, target))(logits)
        shares = [jnp.maximum(r * g, 0).mean(0) for r, g in zip(relevance(direction)[1], gradients, strict=True)]
        return _rolled_out(lambda r, e: r + r @ e, shares, x, grid, class_tokens, rows), logits

    return explanation(core)


def _chefer(operation):
    kind = operation.kind
    if kind in ("conv", "dense"):
        return z_plus(stabilizer=0.0)
    if kind == "add":
        return _centring if operation.beside == "mean" else functools.partial(_residual, operation)
    if kind == "sum":
        return functools.partial(summed, operation, epsilon(0.0))
    if kind in ("activation", "custom", "elementwise", "softmax", "statistic") and sum(operation.carried) == 1:
        return functools.partial(passed, operation)
    if kind in ("matmul", "product") or (kind == "quotient" and operation.signal is not None):
        return Product(operation, halves=True, stabilizer=0.0)
    if kind == "max":
        return functools.partial(first_largest, operation)
    return None if kind in ("max_pool", "route", "select") else NotImplemented


def _centring(relevance, result, x, mean):
    return relevance, None


_centring.passes = True, False  # type: ignore[attr-defined]


def _residual(operation, relevance, result, a, b):
    """Each in proportion to its terms, then rescaled: |sum of one| / (|sum of one| + |sum of the other|) of it all."""
    share = ratio(relevance, result, 0.0)
    parts = a * share, (-b if operation.primitive == "sub" else b) * share
    sums = [part.sum() for part in parts]
    whole = ratio(relevance.sum(), sum(map(jnp.abs, sums)), 0.0)
    return tuple(part * ratio(jnp.abs(s) * whole, s, 0.0) for part, s in zip(parts, sums, strict=True))


def _blocks(f, x):
    """The model with its loops over blocks written out, and its attention blocks."""
    blocks = rewrite.attentions(f, x)
    if any(block.loop == "scan" for block in blocks):
        f = rewrite.unroll(f)
        blocks = rewrite.attentions(f, x)
    if not blocks:
        raise ValueError("the model has no attention: no softmax of products of two values that multiplies a third; "
                         "rewrite.inspect(f, x) lists what it has")
    return f, blocks


def _rolled(f, x):
    """The same, if the weights of every block are between all tokens."""
    f, blocks = _blocks(f, x)
    tokens = blocks[0].shape[2]
    for block in blocks:
        heads, queries, keys = block.shape
        if queries != keys or keys != tokens or block.tokens not in (tokens, None) or (
                block.tokens is None and heads > 1):
            raise ValueError(f"{block} has weights {block.shape} (heads, queries, keys) of {block.tokens or 'unseen'} "
                             f"tokens, not among the same {tokens} in every block, as within windows: they cannot be "
                             "rolled out; explain.attention(block) shows one")
    return f, blocks


def _zeros(blocks, x):
    return [jnp.zeros(block.shape, x.dtype) for block in blocks]


def _gradients(f, x, target, blocks):
    """(d score / d weights, weights, logits) of every block."""
    def score(deltas):
        logits, weights = rewrite.attention_weights(f)(x, deltas)
        return select(logits, target), (weights, logits)

    gradients, (weights, logits) = jax.grad(score, has_aux=True)(_zeros(blocks, x))
    _check_finite(blocks, weights)
    return gradients, weights, logits


def _rolled_out(step: Callable, matrices, x, grid, class_tokens, rows):
    """The row of a product of matrices, the later ones on the left, on the grid of its tokens."""
    places, front = token_grid(len(matrices[0]), x.shape, grid, class_tokens)
    row = functools.reduce(step, matrices[::-1], _start(matrices[0], front, rows))
    return on_grid(row, places, front)


def _start(matrix, front, rows):
    """The class token, or the mean over the tokens of the grid."""
    if rows == "class" and not front:
        raise ValueError(f'rows="class" needs a class token, but all {len(matrix)} tokens are places of the grid: say '
                         "class_tokens= and grid=")
    at = jnp.arange(len(matrix))
    return (at == 0).astype(matrix.dtype) if front and rows != "mean" else (
        (at >= front) / (len(matrix) - front)).astype(matrix.dtype)


def _check_rows(rows):
    if rows not in (None, "class", "mean"):
        raise ValueError(f'rows is "class", "mean" or None, got {rows!r}')


def _check_finite(blocks, weights):
    for block, a in zip(blocks, weights, strict=True):
        if not isinstance(a, jax.core.Tracer) and not bool(jnp.isfinite(a).all()):
            raise ValueError(f"the weights of {block} are not finite: a mask hides every token from one, or scores "
                             "overflow; mask with a large negative number, or give each token one that it sees")
