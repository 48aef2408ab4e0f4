"""SmoothHess against the exact Hessian of a convolved relu network; the trust-region step against its certificate."""

from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surfaces import orthogonal
from xmanip_jax import geometry

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
R = np.random.default_rng(0)
W, B, A = R.normal(size=(6, 2)), R.normal(size=6), R.normal(size=6)
X, SIGMA = np.array([0.2, -0.1]), 0.6
relu_net = lambda x: jax.nn.relu(W @ x + B) @ A


def exact():
    """Sum of a w w^T times the density of N(0, sigma^2 ||w||^2) at w.x + b: a relu's second derivative, convolved."""
    spread = SIGMA * np.linalg.norm(W, axis=1)
    density = np.exp(-0.5 * ((W @ X + B) / spread) ** 2) / (spread * np.sqrt(2 * np.pi))
    return np.einsum("k,ki,kj->ij", A * density, W, W)


def test_smooth_hessian_of_a_relu_network():
    trial = jax.vmap(lambda k: geometry.smooth_hessian(relu_net, X, key=k, samples=50, sigma=SIGMA))
    trials = jax.jit(trial)(jax.random.split(KEY, 2000))
    spread = trials.hessian.std(0)
    assert (np.abs(trials.hessian.mean(0) - exact()) < 4 * spread / 2000 ** 0.5).all()
    assert (spread / 2000 ** 0.5 < 0.02 * np.abs(exact()).max()).all()
    np.testing.assert_allclose(trials.standard_error.mean(0), spread, rtol=0.05)
    np.testing.assert_array_equal(trials.hessian, trials.hessian.mT)
    share = [NormalDist().cdf(z) for z in (W @ X + B) / (SIGMA * np.linalg.norm(W, axis=1))]
    np.testing.assert_allclose(trials.gradient.mean(0), (A * share) @ W, atol=0.02)


def test_the_forms_are_one_matrix():
    w = np.random.default_rng(1).normal(size=(5, 12)) / 3
    g = lambda x: jax.nn.relu(w @ x.ravel()).sum()
    x, v = jnp.ones((3, 4)) / 5, np.random.default_rng(2).normal(size=(3, 4))

    @jax.jit
    def forms(k):
        options = {"key": k, "samples": 5, "sigma": 0.4}
        return (geometry.smooth_hessian(g, x, chunk=3, **options), geometry.smooth_hvp(g, x, v, **options),
                geometry.smooth_eigenpairs(g, x, 10, **options))

    dense, product, pairs = forms(KEY)
    np.testing.assert_allclose(product.ravel(), dense.hessian @ v.ravel(), atol=1e-12)
    flat = pairs.vectors.reshape(10, 12)
    np.testing.assert_allclose(flat.T * pairs.values[None] @ flat, dense.hessian, atol=1e-12)
    assert (np.diff(np.abs(pairs.values)) <= 1e-12).all()
    np.testing.assert_allclose(pairs.gradient, dense.gradient, atol=1e-12)
    for match, call in (("sigma is positive, got 0", lambda: geometry.smooth_hessian(g, x, key=KEY, sigma=0.0)),
                        ("samples = 7", lambda: geometry.smooth_eigenpairs(g, x, 1, key=KEY, samples=7, sigma=1.0)),
                        ("samples.*got 0", lambda: geometry.smooth_hvp(g, x, v, key=KEY, samples=0, sigma=1.0))):
        with pytest.raises(ValueError, match=match):
            call()


def problems(kind, n=40, d=6):
    """Gradients, Hessians and radii; in the hard case the gradient has no component along the lowest eigenvectors."""
    r = np.random.default_rng(3)
    for seed in range(n):
        basis = orthogonal(d, seed)
        values = np.sort(r.normal(size=d)) * 10.0 ** r.uniform(-2, 2)
        components = r.normal(size=d) * 10.0 ** r.uniform(-2, 2)
        radius = 10.0 ** r.uniform(-1, 1)
        if kind == "interior":
            values = np.abs(values) + 0.1
            components *= 0.9 * radius / np.linalg.norm(components / values)
        elif kind in ("hard", "nearly hard"):
            values[1] = values[0] = -abs(values[0]) - 0.1
            values[2:] = np.abs(values[2:])
            components[:2] = 0 if kind == "hard" else 1e-12
            components[2:] *= 0.5 * radius / np.linalg.norm(components[2:] / (values[2:] - values[0]))
        yield basis @ components, basis * values @ basis.T, radius


steps = jax.jit(jax.vmap(geometry.trust_region_step))


@pytest.mark.parametrize("kind", ["any", "interior", "hard", "nearly hard"])
def test_trust_region_step_meets_the_conditions_of_a_global_minimum(kind):
    gradient, hessian, radius = (np.stack(v) for v in zip(*problems(kind), strict=True))
    found = steps(gradient, hessian, radius)
    length = np.linalg.norm(found.step, axis=1)
    scale = np.linalg.norm(hessian, 2, axis=(1, 2))
    assert (length <= radius * (1 + 1e-9)).all() and (found.multiplier >= 0).all() and (found.value <= 0).all()
    curved = hessian + found.multiplier[:, None, None] * np.eye(6)[None]
    assert (np.linalg.eigvalsh(curved)[:, 0] >= -1e-12 * scale).all()
    residual = np.linalg.norm(np.einsum("nij,nj->ni", curved, found.step) + gradient, axis=1)
    assert (residual <= 1e-9 * (np.linalg.norm(gradient, axis=1) + scale * radius)).all()
    outside = np.abs(length / radius - 1) > 1e-9
    assert (found.multiplier[outside] == 0).all() and (outside == found.interior).all()
    assert found.interior.all() if kind == "interior" else kind == "any" or not found.interior.any()
    value = lambda s: np.einsum("ni,nsi->ns", gradient, s) + np.einsum("nsi,nij,nsj->ns", s, hessian, s) / 2
    np.testing.assert_allclose(value(np.asarray(found.step)[:, None])[:, 0], found.value, rtol=1e-9, atol=1e-12)
    tries = np.random.default_rng(4).normal(size=(40, 500, 6))
    tries *= radius[:, None, None] / np.linalg.norm(tries, axis=-1, keepdims=True)
    tries[:, ::2] *= np.random.default_rng(5).uniform(size=(40, 250, 1))
    assert (value(tries).min(1) >= found.value - 1e-9 * np.abs(found.value)).all()


def test_low_rank_step_is_the_dense_one():
    basis, values = orthogonal(6)[:3], np.array([2.0, -1.0, 0.5])
    gradient, radius = np.random.default_rng(6).normal(size=(40, 6)), np.geomspace(0.1, 10, 40)
    dense = steps(gradient, np.broadcast_to(basis.T * values @ basis, (40, 6, 6)), radius)
    low = jax.jit(jax.vmap(lambda g, r: geometry.low_rank_trust_region_step(g, values, basis, r)))(gradient, radius)
    np.testing.assert_allclose(low.step, dense.step, atol=1e-9)
    np.testing.assert_allclose(low.value, dense.value, rtol=1e-9)
    g = gradient[0]
    for match, call in (("radius is positive, got -1", lambda: geometry.trust_region_step(g, np.eye(6), -1.0)),
                        (r"\(6,\), \(3, 3\)", lambda: geometry.trust_region_step(g, np.eye(3), 1.0)),
                        ("Float.k, d.", lambda: geometry.low_rank_trust_region_step(g, values, np.eye(3), 1.0))):
        with pytest.raises(ValueError, match=match):
            call()
