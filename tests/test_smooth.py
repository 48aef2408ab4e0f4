"""Softplus surrogates: exact values and derivatives, and the rule that needs no constant per network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from checks import check_derivatives
from xmanip_jax import rewrite, smooth

pytestmark = pytest.mark.usefixtures("x64")
z = np.linspace(-3, 9, 41)


@pytest.mark.parametrize("beta", [0.5, 3.0, 40.0])
def test_softplus_values_and_derivatives(beta):
    np.testing.assert_allclose(smooth.softplus_beta(z, beta), np.logaddexp(beta * z, 0) / beta, rtol=1e-12)
    check_derivatives(lambda v: jnp.sum(smooth.softplus_beta(v[0], v[1]) ** 2), (z, np.float64(beta)))
    s = 1 / (1 + np.exp(-beta * z))
    second = jax.jit(jax.vmap(jax.grad(jax.grad(lambda z: smooth.softplus_beta(z, beta)))))(z)
    np.testing.assert_allclose(second, beta * s * (1 - s), atol=1e-12)


@pytest.mark.parametrize("beta", [1.0, 10.0, 100.0])
def test_float32_derivatives_are_absolutely_accurate(beta):
    v = np.linspace(-60, 60, 2001) / beta
    second = jax.jit(jax.vmap(jax.grad(jax.grad(lambda z: smooth.softplus_beta(z, jnp.float32(beta))))))(np.float32(v))
    s = 1 / (1 + np.exp(-beta * np.float64(np.float32(v))))
    np.testing.assert_allclose(second, beta * s * (1 - s), atol=2e-7 * beta)
    third = jax.jit(jax.vmap(jax.grad(jax.grad(jax.grad(lambda z: smooth.softplus_beta(z, beta))))))(v)
    assert np.isfinite(third).all()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("beta", [0.01, 0.7, 40.0])
def test_centred_softplus_values_and_derivatives(beta):
    s = smooth.centred_softplus
    expected = (np.logaddexp(beta * z, 0) - np.log(2)) / beta
    np.testing.assert_allclose(s(z, beta), expected, rtol=1e-12, atol=1e-14 / beta)
    check_derivatives(lambda v: jnp.sum(s(v[0], v[1]) ** 2), (z, np.float64(beta)))
    check_derivatives(lambda v: jnp.sum(jax.grad(lambda b: jnp.sum(s(v[0], b) ** 2))(v[1])), (z, np.float64(beta)))
    v = z / beta
    g = jax.grad(lambda z: s(z, beta))
    slope, curvature = jax.jit(lambda v: (jax.vmap(g)(v), jnp.abs(jax.vmap(jax.grad(g))(v))))(v)
    assert (curvature <= beta * slope).all() and curvature[0] > 0.9 * beta * slope[0]  # reached far to the left


def test_centred_softplus_at_the_ends_of_beta():
    s = smooth.centred_softplus
    v = np.linspace(-3, 9, 41)
    np.testing.assert_allclose(s(v, 1e-9), v / 2, rtol=1e-7)
    np.testing.assert_allclose(s(v, 1e9), np.maximum(v, 0), atol=1e-9)
    assert s(0.0, 3.0) == 0 and jax.grad(s)(0.0, 3.0) == 0.5


def test_centred_softplus_in_float32_for_small_beta():
    """Against float64: the difference of softplus and ln 2 would lose all digits. In beta the derivatives, too."""
    s, v = smooth.centred_softplus, np.float32([-3, -0.1, 0.2, 2])
    for derivative in (lambda z, b: s(z, b), jax.grad(s, 1), jax.grad(jax.grad(s), 1), jax.grad(jax.grad(s, 1), 1),
                       jax.grad(jax.grad(jax.grad(s), 1), 1)):
        for beta in (1e-4, 0.3):
            found = jax.jit(jax.vmap(derivative, (0, None)))
            exact = found(np.float64(v), np.float64(np.float32(beta)))
            single = found(v, np.float32(beta))
            assert single.dtype == jnp.float32
            np.testing.assert_allclose(single, exact, rtol=2e-5, atol=2e-7)


def test_relu6_within_ln2_over_beta():
    for beta in (1.0, 20.0):
        gap = np.abs(smooth.softplus_beta6(z, beta) - np.clip(z, 0, 6))
        assert gap.max() <= np.log(2) / beta + 1e-12 and gap.max() > 0.5 * np.log(2) / beta


WINDOW = rewrite.Window((3, 2, 1), (2, 2, 1), ((0, 1), (1, 0), (0, 0)))


def test_soft_max_pool_is_logsumexp_over_the_window():
    image = np.random.default_rng(0).normal(size=(6, 5, 2))
    beta = 4.0
    padded = np.pad(image, WINDOW.padding, constant_values=-np.inf)
    wanted = np.empty((3, 3, 2))
    for i, j in np.ndindex(3, 3):
        wanted[i, j] = np.log(np.exp(beta * padded[2 * i:2 * i + 3, 2 * j:2 * j + 2]).sum((0, 1))) / beta
    np.testing.assert_allclose(smooth.soft_max_pool(image, beta, WINDOW), wanted, rtol=1e-12)
    check_derivatives(lambda v: jnp.sum(smooth.soft_max_pool(v[0], v[1], WINDOW) ** 2), (image, np.float64(beta)))
    hard = lax.reduce_window(image, -jnp.inf, lax.max, *WINDOW)
    np.testing.assert_allclose(smooth.soft_max_pool(image, 1e6, WINDOW), hard, atol=1e-5)


def pooled(x):
    h = jax.nn.relu(x[..., None] * jnp.array([[1.0, -2.0]]))
    h = lax.reduce_window(h, -jnp.inf, lax.max, (2, 1), (2, 1), "VALID")
    return jax.nn.relu6(h - 0.3).sum(0)


x = np.random.default_rng(1).normal(size=8)


def test_softplus_of_a_model_with_and_without_pooling():
    assert not np.allclose(smooth.softplus(pooled, 2.0)(x), smooth.softplus(pooled, 2.0, max_pool=True)(x))
    for max_pool in (False, True):
        np.testing.assert_allclose(smooth.softplus(pooled, 1e7, max_pool=max_pool)(x), pooled(x), atol=1e-5)
    with pytest.raises(ValueError, match="3 betas for 2 calls"):
        smooth.softplus(pooled, np.ones(3))(x)
    smooth.softplus(pooled, np.ones(3), max_pool=True)(x)


def test_relative_surrogate_ignores_the_scale_of_layers():
    w1, w2 = np.random.default_rng(2).normal(size=(2, 8, 8))
    surrogate = smooth.relative()

    def gradient(c):
        f = lambda x: (jax.nn.relu(x @ (c * w1)) @ (w2 / c)).sum()
        return jax.grad(surrogate.rewrite(f, surrogate.fit(f, x), 0.3))(x)

    np.testing.assert_allclose(gradient(1.0), gradient(1000.0), rtol=1e-10)


def test_schedules_grow_geometrically():
    f = lambda x: jax.nn.relu(x).sum()
    at = lambda s, t: float(jax.grad(s.rewrite(f, s.fit(f, x), t))(np.full(8, 0.01))[0])
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    np.testing.assert_allclose(at(smooth.absolute(10, 1000), 0.5), sigmoid(1.0))
    np.testing.assert_allclose(at(smooth.relative(4, 400), 0.5), sigmoid(0.4 / np.std(x)))
    assert at(smooth.none(), 0.5) == 1.0


@pytest.mark.parametrize("start, stop", [(0, 1), (-1, 2), (3, 2)])
def test_bad_schedules_are_refused(start, stop):
    with pytest.raises(ValueError, match="0 < start <= stop"):
        smooth.relative(start, stop)


def test_theorem_2_along_w_logistic_noise_equals_softplus():
    """E[relu'(w x - e)] with logistic noise of scale 1/beta along w = the softplus gradient (1-D form)."""
    beta, point = 3.0, 0.4
    noise = np.random.default_rng(3).logistic(scale=1 / beta, size=400_000)
    slope = jax.grad(lambda v: smooth.softplus_beta(v, beta))(point)
    assert abs(np.mean(point - noise > 0) - slope) < 4 * 0.5 / np.sqrt(400_000)
