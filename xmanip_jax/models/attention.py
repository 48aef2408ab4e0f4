"""Attention: what the transformers here share, and the two ways to compute it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ..types import Array

__all__ = ["Attend", "MultiheadAttention", "QKVAttention", "dot_product_attention", "explicit_attention", "gelu"]

# (q, k, v: Float[..., n, heads, d], bias: Float, broadcast to [..., heads, n, n], or None) -> Float[..., n, heads, d]
Attend = Callable[..., Array]


def gelu(z: Array) -> Array:
    """z Phi(z), exact: torch's default, where jax's is the approximation by tanh."""
    return jax.nn.gelu(z, approximate=False)


def explicit_attention(q: Array, k: Array, v: Array, bias: Array | None = None) -> Array:
    """softmax(q k^T / sqrt(d) + bias) v, as two products and a softmax.

    q, k, v: Float[..., n, heads, d], with tokens on axis -3; bias broadcasts to [..., heads, n, n]. Every order of
    derivative works, in every precision. `jax.checkpoint(explicit_attention)` in its place keeps no n x n matrix
    between the passes: see docs/howto/vision-transformers.md.

    >>> explicit_attention(*jnp.ones((3, 5, 2, 4))).shape
    (5, 2, 4)
    """
    scores = jnp.einsum("...qhd,...khd->...hqk", q, k) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores if bias is None else scores + bias, axis=-1)
    return jnp.einsum("...hqk,...khd->...qhd", weights, v)


def dot_product_attention(q: Array, k: Array, v: Array, bias: Array | None = None) -> Array:
    """`explicit_attention` by jax.nn.dot_product_attention, XLA's implementation; the fused ones differentiate once.

    Its softmax is computed in float32 whatever comes in: for float64, take `explicit_attention`.

    >>> dot_product_attention(*jnp.ones((3, 5, 2, 4))).shape
    (5, 2, 4)
    """
    *lead, n, heads, _ = q.shape
    flat = lambda a: a.reshape(-1, *a.shape[-3:])
    if bias is not None:
        bias = flat(jnp.broadcast_to(bias, (*lead, heads, n, n))).astype(q.dtype)
    return jax.nn.dot_product_attention(flat(q), flat(k), flat(v), bias=bias, implementation="xla").reshape(q.shape)


class MultiheadAttention(nnx.Module):
    """Self-attention of tokens Float[..., n, width], with the weights that torch's nn.MultiheadAttention has."""

    def __init__(self, width: int, heads: int, *, attend: Attend = explicit_attention, rngs: nnx.Rngs) -> None:
        check_heads(width, heads)
        self.heads, self.attend = heads, attend
        self.in_proj_weight = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (3 * width, width)))
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * width))
        self.out_proj = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        qkv = x @ self.in_proj_weight[...].T + self.in_proj_bias[...]
        return self.out_proj(attended(self.attend, qkv, self.heads))


class QKVAttention(nnx.Module):
    """Self-attention of tokens Float[..., n, width], with one linear layer for queries, keys and values."""

    def __init__(self, width: int, heads: int, *, bias: bool = True, attend: Attend = explicit_attention,
                 rngs: nnx.Rngs) -> None:
        check_heads(width, heads)
        self.heads, self.attend = heads, attend
        self.qkv = nnx.Linear(width, 3 * width, use_bias=bias, rngs=rngs)
        self.proj = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return self.proj(attended(self.attend, self.qkv(x), self.heads))


def attended(attend: Attend, qkv: Array, heads: int, bias: Array | None = None) -> Array:
    """Float[..., n, 3 width], which holds queries, keys and values side by side -> Float[..., n, width]."""
    q, k, v = (part.reshape(*part.shape[:-1], heads, -1) for part in jnp.split(qkv, 3, axis=-1))
    out = attend(q, k, v, bias)
    return out.reshape(*out.shape[:-2], -1)


def check_heads(width: int, heads: int) -> None:
    """Raises ValueError for a width that the heads do not share equally."""
    if width % heads:
        raise ValueError(f"a width of {width} does not divide into {heads} heads")
