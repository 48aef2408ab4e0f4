"""Pooling of [..., h, w, c] arrays with torch's sizes and ties, cheap to differentiate twice."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from .types import Array, ArrayLike, Num

__all__ = ["avg_pool", "global_avg_pool", "max_pool", "pooled_size"]


def pooled_size(size: int, window: int, stride: int, ceil: bool = False, padding: int = 0) -> int:
    """How many windows fit along an axis; with `ceil` the last may stick out, but starts inside (torch's rule)."""
    if not 0 <= padding <= window // 2:
        raise ValueError(f"padding must be between 0 and half the pooling window of {window}, got {padding}")
    steps = size + 2 * padding - window
    count = (-(-steps // stride) if ceil else steps // stride) + 1
    if ceil and (count - 1) * stride >= size + padding:
        count -= 1
    if count < 1:
        raise ValueError(f"a pooling window of {window} does not fit into an axis of {size}")
    return count


# Why not reduce_window's own derivative: on CPU (batch 8, 113x113x64, window 3, stride 2) this rule, a masked sum along
# one axis after the other, makes the gradient 2.6 and its Hessian-vector product 3.5 times faster. Masks over all 9
# offsets at once are slower than both; reshape + max, for windows that do not overlap, splits the gradient on ties.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def max_pool(x: Num[ArrayLike, "*b h w c"], window: int, stride: int, ceil: bool = False,
             padding: int = 0) -> Num[Array, "*b h2 w2 c"]:
    """Maximum over square windows: x [..., h, w, c] -> [..., h', w', c].

    Parts of a window that stick out of the input (`padding` on all four sides, `ceil` on the right and bottom) count
    as -inf. On ties the derivative goes to the first position in row-major order, as in torch. Every order of forward
    and reverse derivative works; the choice of the winner is piecewise constant. In a jaxpr this is one equation,
    `max_pool`.

    Raises ValueError when no window fits, or when padding exceeds half the window.

    >>> import jax.numpy as jnp
    >>> max_pool(jnp.arange(9.0).reshape(3, 3, 1), 2, 2, ceil=True)[..., 0]
    Array([[4., 5.],
           [7., 8.]], dtype=float32)
    """
    x = jnp.asarray(x)
    lead = (1,) * (x.ndim - 3)
    ends = [_overhang(size, window, stride, ceil, padding) for size in x.shape[-3:-1]]
    widths = [(0, 0)] * len(lead) + [(padding, max(end, 0)) for end in ends] + [(0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (*lead, window, window, 1), (*lead, stride, stride, 1), widths)


@max_pool.defjvp
def _max_pool_jvp(window, stride, ceil, padding, primals, tangents):
    (x,), (dx,) = primals, tangents
    # Rows inside columns: the first of the winning columns in the first winning row is the row-major first.
    out, pooled = lax.stop_gradient(x), dx
    for axis in (-2, -3):
        parts = _slices(out, axis, window, stride, ceil, padding, -jnp.inf)
        best, winner = parts[0], jnp.zeros(parts[0].shape, jnp.uint8)
        for k, part in enumerate(parts[1:], 1):
            best, winner = jnp.maximum(best, part), jnp.where(part > best, jnp.uint8(k), winner)
        moved = _slices(pooled, axis, window, stride, ceil, padding, 0)
        pooled = sum(jnp.where(winner == k, part, 0) for k, part in enumerate(moved))
        out = best
    return max_pool(x, window, stride, ceil, padding), pooled


def _slices(x, axis, window, stride, ceil, padding, fill):
    """The `window` strided slices along an axis whose elementwise maximum is the pooling along that axis."""
    count = pooled_size(x.shape[axis], window, stride, ceil, padding)
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (padding, _overhang(x.shape[axis], window, stride, ceil, padding), 0)
    x = lax.pad(x, jnp.asarray(fill, x.dtype), widths)
    return [lax.slice_in_dim(x, k, k + (count - 1) * stride + 1, stride, axis) for k in range(window)]


def _overhang(size, window, stride, ceil, padding):
    """Positions to append so that the windows cover the axis; negative ones drop the rest that no window covers."""
    return (pooled_size(size, window, stride, ceil, padding) - 1) * stride + window - size - padding


def avg_pool(x: Num[ArrayLike, "*b h w c"], window: int, stride: int) -> Num[Array, "*b h2 w2 c"]:
    """Mean over square windows that lie inside the input: x [..., h, w, c] -> [..., h', w', c]."""
    x = jnp.asarray(x)
    lead = (1,) * (x.ndim - 3)
    total = lax.reduce_window(x, 0.0, lax.add, (*lead, window, window, 1), (*lead, stride, stride, 1), "VALID")
    return total / window**2


def global_avg_pool(x: Num[ArrayLike, "*b h w c"]) -> Num[Array, "*b c"]:
    """Mean over the image: x [..., h, w, c] -> [..., c]."""
    return jnp.mean(x, axis=(-3, -2))
