"""The non-linear functions that the library brings itself: softplus with a sharpness, and smooth max-pooling."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from .types import Array, ArrayLike, Float, Num

__all__ = ["Window", "centred_softplus", "soft_max_pool", "softplus_beta", "softplus_beta6",
           "softplus_secant"]


class Window(NamedTuple):
    """The window of a max-pooling, one entry for each axis of its input."""

    dimensions: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]


@jax.custom_jvp
def _softplus(z):
    return jnp.maximum(z, 0) + _log1p(jnp.exp(-jnp.abs(z)))


def _log1p(e):
    """ln(1 + e) for e in [-1/2, 1], to the last digits: the series of 2 artanh(e / (2 + e)).

    On CPU this makes softplus 2.8 times faster than jnp.log1p does (2 million elements), forward.
    """
    s = e / (2 + e)
    terms, total = (17 if e.dtype == jnp.float64 else 9), 0.0
    for k in reversed(range(terms)):
        total = total * s * s + 1 / (2 * k + 1)
    return 2 * s * total


@_softplus.defjvp
def _softplus_jvp(primals, tangents):
    (z,), (dz,) = primals, tangents
    return _softplus(z), _sigmoid(z) * dz


def _sigmoid(z):
    """By tanh: the second derivative of softplus is then four times cheaper than jax.nn.softplus's on CPU."""
    return 0.5 * (1 + jnp.tanh(0.5 * z))


@jax.jit
def softplus_beta(z: Num[ArrayLike, "..."], beta: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """ln(1 + exp(beta z)) / beta, elementwise; tends to relu(z) as beta grows. beta > 0, broadcast against z.

    Differentiable to any order in z and beta. In float32 its derivatives are accurate to 1e-7 absolutely (times beta
    for the second), and exactly 0 beyond |beta z| = 17; sums such as Hessian-vector products do not notice.

    >>> float(softplus_beta(0.0, 2.0) * 2)  # ln 2
    0.6931471824645996
    """
    return _softplus(beta * jnp.asarray(z)) / beta


@jax.jit
def softplus_beta6(z: Num[ArrayLike, "..."], beta: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The smooth relu6: softplus_beta(z) - softplus_beta(z - 6), within ln 2 / beta of min(max(z, 0), 6).

    >>> import jax.numpy as jnp
    >>> from xmanip_jax import smooth
    >>> smooth.softplus_beta6(jnp.array([-9.0, 3.0, 9.0]), 100.0)
    Array([0., 3., 6.], dtype=float32)
    """
    return softplus_beta(z, beta) - softplus_beta(jnp.asarray(z) - 6, beta)


@jax.custom_jvp
def _centred(z, beta):
    return jnp.maximum(z, 0) + _log1p(0.5 * jnp.expm1(-jnp.abs(beta * z))) / beta


@functools.partial(_centred.defjvp, symbolic_zeros=True)
def _centred_jvp(primals, tangents):
    (z, beta), (dz, dbeta) = primals, tangents
    slopes = (dz, lambda: _sigmoid(beta * z)), (dbeta, lambda: z**2 * _excess(beta * z))
    return _centred(z, beta), sum(slope() * d for d, slope in slopes if not isinstance(d, SymbolicZero))


def softplus_secant(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """(softplus(u) - softplus(0)) / u = ln((1 + e^u) / 2) / u, which is 1/2 at 0; a step for large |u|."""
    return _sigmoid(u) - u * _excess(u)


def _excess(u):
    """(u sigmoid(u) - ln((1 + e^u) / 2)) / u^2, an even function, by its Taylor series where that would cancel."""
    near = jnp.abs(u) < 1
    small, large = jnp.where(near, u, 0), jnp.where(near, 1, u)
    series = jnp.polyval(jnp.asarray(_EXCESS[::-1], u.dtype), small**2)
    return jnp.where(near, series, (large * _sigmoid(large) - _centred(large, jnp.ones_like(large))) / large**2)


def _excess_series(terms):
    """Of tanh(u / 2) / 2 = sum of t_n u^(2n + 1), from y' = 1/4 - y^2, each t_n times (2n + 1) / (2n + 2)."""
    t = [0.25]
    for n in range(1, terms):
        t.append(-sum(t[i] * t[n - 1 - i] for i in range(n)) / (2 * n + 1))
    return [c * (2 * n + 1) / (2 * n + 2) for n, c in enumerate(t)]


_EXCESS = np.array(_excess_series(17))


@jax.jit
def centred_softplus(z: Num[ArrayLike, "..."], beta: Num[ArrayLike, "..."]) -> Float[Array, "..."]:
    """ln((1 + exp(beta z)) / 2) / beta: 0 at 0; tends to relu(z) as beta grows and to z / 2 as it falls to 0.

    Unlike softplus_beta it stays finite for a small beta, which can therefore be trained (LCNN, Srinivas et al. 2022):
    |s''| <= beta s'. beta > 0, broadcast against z. From -ln 2 / beta, within ln 2 / beta of relu.

    Accurate to a few last digits for every beta; differentiable to any order in both, in beta without cancellation.

    >>> [round(float(centred_softplus(2.0, b)), 4) for b in (1e-6, 1.0, 1e6)]
    [1.0, 1.4338, 2.0]
    """
    return _centred(jnp.asarray(z), jnp.asarray(beta))


@functools.partial(jax.jit, static_argnames="window")
def soft_max_pool(z: Float[ArrayLike, "..."], beta: Num[ArrayLike, ""], window: Window) -> Float[Array, "..."]:
    """ln(sum exp(beta z)) / beta over each window: the smooth max-pooling, above the hard one by at most ln(n) / beta.

    Args:
      z: any shape;  beta: positive scalar;  window: dimensions, strides and padding for each axis of z.

    Its gradient is the softmax of beta z over the window. Exact axis by axis, because log-sum-exp is associative.

    >>> soft_max_pool(jnp.array([0.0, 0.0, 1.0]), 100.0, Window((3,), (1,), ((0, 0),)))
    Array([1.], dtype=float32)
    """
    z = jnp.asarray(z)
    for axis, (n, stride, (low, high)) in enumerate(zip(*window, strict=True)):
        if n == 1 and stride == 1 and low == high == 0:
            continue
        pad = [(low, high) if a == axis else (0, 0) for a in range(z.ndim)]
        # e^-100 of the smallest weight: finite, so that no derivative meets 0 * inf.
        padded = jnp.pad(z, pad, constant_values=jax.lax.stop_gradient(z.min() - 100 / beta))
        last = (padded.shape[axis] - n) // stride * stride + 1
        parts = [jax.lax.slice_in_dim(padded, i, i + last, stride, axis) for i in range(n)]
        top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, parts))
        z = top + jnp.log(sum(jnp.exp(beta * (part - top)) for part in parts)) / beta
    return z
