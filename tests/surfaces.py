"""Functions whose curvature is known: quadratics, and a network with its dense Hessian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xmanip_jax import smooth

SHAPE = 4, 4, 3


def orthogonal(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def quadratic(values, seed=0):
    """x^T A x / 2 with the given eigenvalues, and A."""
    basis = orthogonal(len(values), seed)
    a = jnp.asarray(basis * values @ basis.T)
    return lambda x: x @ a @ x / 2, a


@functools.cache
def network():
    """One logit of a softplus network of Float[4, 4, 3], a point, and its dense Hessian and gradient."""
    r = np.random.default_rng(1)
    w = [r.normal(size=s) / np.sqrt(s[0]) for s in ((48, 20), (20, 12), (12,))]

    def g(x):
        h = smooth.softplus_beta(x.ravel() @ w[0], 3.0)
        return smooth.softplus_beta(h @ w[1] + 0.1, 3.0) @ w[2]

    x = jnp.asarray(r.normal(size=SHAPE))
    return g, x, np.asarray(jax.jit(jax.hessian(g))(x)).reshape(48, 48), np.asarray(jax.jit(jax.grad(g))(x)).ravel()
