"""Explanations and derivatives in one program each, where op by op dozens are compiled; a full disk."""

import contextlib
import errno
import os
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from xmanip_jax import checkpoint


def compiled(e):
    """The explanation (or one with logits), each of its calls one program."""
    return lambda f, x, target, **options: jax.jit(lambda x: e(f, x, target, **options))(x)


def check_derivatives(f, x, *, step=1e-5, rtol=2e-6, atol=1e-9):
    """First and second derivative of a scalar function of a pytree, along a random direction, in float64.

    One program for each order; jax.test_util runs op by op.

    Checks reverse mode against differences of f, and forward-over-reverse and reverse-over-reverse against differences
    of the gradient.
    """
    flat, unravel = ravel_pytree(x)
    assert flat.dtype == jnp.float64
    v = np.random.default_rng(0).normal(size=flat.size)
    g = lambda z: f(unravel(z))
    value, grad = jax.jit(g), jax.jit(jax.grad(g))
    difference = (value(flat + step * v) - value(flat - step * v)) / (2 * step)
    np.testing.assert_allclose(grad(flat) @ v, difference, rtol=rtol, atol=atol)
    second = (grad(flat + step * v) - grad(flat - step * v)) / (2 * step)
    scale = np.abs(second).max()
    forward = jax.jit(lambda z: jax.jvp(jax.grad(g), (z,), (v,))[1])(flat)
    np.testing.assert_allclose(forward, second, rtol=rtol, atol=rtol * scale + atol)
    reverse = jax.jit(jax.grad(lambda z: jax.grad(g)(z) @ v))(flat)
    np.testing.assert_allclose(reverse, forward, rtol=1e-8, atol=1e-9 * scale + 1e-14)


@contextlib.contextmanager
def full_disk():
    """orbax stops half way through a save, as on a full disk: an OSError, and what it began is left behind."""

    def cut_off(path, tree):
        begun = Path(f"{path}.orbax-checkpoint-tmp")
        begun.mkdir(parents=True)
        (begun / "d").write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch.object(checkpoint.ocp, "save", cut_off):
        yield
