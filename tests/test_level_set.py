"""Level sets of known curvature, normalised curvature, Lipschitz constants of maps, theorem 2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from surfaces import SHAPE, network, quadratic
from xmanip_jax import explain, geometry, smooth

pytestmark = pytest.mark.usefixtures("x64")


def test_principal_curvatures_of_a_network():
    g, x, h, gradient = network()
    n = gradient / np.linalg.norm(gradient)
    tangent = np.linalg.svd(n[None])[2][1:]
    values = np.linalg.eigvalsh(-tangent @ h @ tangent.T / np.linalg.norm(gradient))
    few, (all_values, vectors) = jax.jit(lambda x: (geometry.principal_curvatures(g, x, 4, tolerance=1e-9),
                                                    geometry.all_principal_curvatures(g, x)))(x)
    largest = np.abs(values).max()
    np.testing.assert_allclose(all_values, values, atol=1e-6 * largest)
    np.testing.assert_allclose(few.values, values[np.argsort(-np.abs(values))][:4], atol=1e-6 * largest)
    assert few.converged.all() and few.vectors.shape == (4, *SHAPE)
    for v in (few.vectors.reshape(4, -1), vectors.reshape(47, -1)):
        np.testing.assert_allclose(v @ n, 0, atol=1e-12)
        np.testing.assert_allclose(v @ v.T, np.eye(len(v)), atol=1e-9)


def test_known_surfaces():
    a, b, x, wanted = (np.array(v) for v in zip(
        (np.diag([2, 2, 2]), [0, 0, 0], [1, -2, 2], [-1 / 3, -1 / 3]),  # a sphere of radius 3
        (np.diag([-2, -2, -2]), [0, 0, 0], [3, 0, 0], [1 / 3, 1 / 3]),  # its normal pointing inwards
        (np.diag([2, 1 / 2, 2 / 9]), [0, 0, 0], [0, 0, 3], [-3, -3 / 4]),  # half axes 1, 2, 3: -c / a^2, -c / b^2
        (np.diag([2, 2, 0]), [0, 0, 0], [0, 2, 5], [-1 / 2, 0]),  # a cylinder
        (np.diag([-3, 1, 0]), [0, 0, 1], [0, 0, 0], [3, -1]), strict=True))  # a saddle, bent towards the normal
    both = lambda a, b, x: (geometry.principal_curvatures(lambda x: x @ a @ x / 2 + b @ x, x, 2).values,
                            geometry.all_principal_curvatures(lambda x: x @ a @ x / 2 + b @ x, x)[0])
    few, every = jax.jit(jax.vmap(both))(a * 1.0, b * 1.0, x * 1.0)
    np.testing.assert_allclose(few, wanted, atol=1e-12)
    np.testing.assert_allclose(every, np.sort(wanted), atol=1e-12)


def test_normalised_curvature_against_dense():
    g, x, h, gradient = network()
    measure = lambda x, t: geometry.normalised_curvature(g, x, steps=200, tolerance=t)
    c, strict = jax.jit(lambda x: (measure(x, 1e-2), measure(x, 1e-30)))(x)
    np.testing.assert_allclose(c.spectral_norm, np.linalg.norm(h, 2), rtol=1e-6)
    np.testing.assert_allclose(c.gradient_norm, np.linalg.norm(gradient), rtol=1e-12)
    np.testing.assert_allclose(c.value, np.linalg.norm(h, 2) / (np.linalg.norm(gradient) + 1e-6), rtol=1e-6)
    assert c.converged and not strict.converged and c.residual < 1e-3 * c.spectral_norm


def test_opposite_eigenvalues_hide_from_the_rayleigh_quotient_only():
    g, _ = quadratic(np.r_[2, -2, 0.5, 0.1])
    norms = jax.jit(jax.vmap(lambda k: geometry.normalised_curvature(g, jnp.ones(4), key=k).spectral_norm))(
        jax.random.split(jax.random.key(0), 20))
    np.testing.assert_allclose(norms, 2, rtol=1e-9)


def test_relative_change_of_the_gradient_is_bounded():
    g, x, *_ = network()
    e = 0.3 * np.random.default_rng(0).normal(size=(10, *SHAPE)) / 7
    measure = jax.vmap(lambda z: geometry.normalised_curvature(g, z, eps=0.0).value)
    share = np.linspace(0, 1, 9)[:, None, None, None]
    at = jax.jit(lambda e: (measure(x[None] + share * e[None]), jax.grad(g)(x + e)))
    start = jax.grad(g)(x)
    for step in e:
        largest, end = at(step)
        change = np.linalg.norm(end - start) / np.linalg.norm(start)
        assert change <= np.expm1(1.01 * np.linalg.norm(step) * largest.max())


def test_projection_and_paths():
    ellipse = lambda x: x[0] ** 2 / 4 + x[1] ** 2
    quarter = 9.68844822054767 / 4  # the perimeter with half axes 2 and 1, by the elliptic integral
    path, nowhere = jax.jit(lambda a, b: (geometry.level_set_path(ellipse, a, b), geometry.project_to_level_set(
        ellipse, a, -1.0)))(jnp.r_[2.0, 0], jnp.r_[0, 1.0])
    np.testing.assert_allclose(path.length + path.error, quarter, rtol=1e-5)
    assert quarter * 0.999 < path.length < quarter and path.converged and path.largest_step < 4 * quarter / 64
    np.testing.assert_allclose(jax.vmap(ellipse)(path.points), 1, atol=1e-9)
    assert not nowhere.converged


def test_a_path_between_points_of_a_network_s_level_set():
    g, x, *_ = network()
    end = x + 0.3 * np.random.default_rng(3).normal(size=SHAPE)
    path = jax.jit(lambda a, b: geometry.level_set_path(g, a, b, segments=8))(x, end)
    np.testing.assert_allclose(jax.vmap(g)(path.points), g(x), atol=1e-9)
    assert path.points.shape == (9, *SHAPE) and path.converged
    np.testing.assert_allclose(path.points[0], x, atol=1e-12)
    assert path.length >= np.linalg.norm(path.points[-1] - path.points[0])


def test_errors_name_the_value():
    g, x = lambda x: jnp.sum(x ** 2), jnp.ones((16, 3))
    for match, call in (("segments is even, got 3", lambda: geometry.level_set_path(g, x, x, segments=3)),
                        ("start and end", lambda: geometry.level_set_path(g, x, x[0])),
                        ("d = 47", lambda: geometry.principal_curvatures(g, x, 48)),
                        ("steps.*got 0", lambda: geometry.normalised_curvature(g, x, steps=0)),
                        ("beta is positive, got 0", lambda: geometry.logistic_noise(
                            x, 0, key=jax.random.key(0), samples=1))):
        with pytest.raises(ValueError, match=match):
            call()


def test_lipschitz_is_the_largest_singular_value_of_the_jacobian():
    g, x, h, gradient = network()
    scaled = lambda s: geometry.lipschitz(explain.gradient_x_input(), lambda x: s * jnp.stack([-g(x), g(x)]), x, 1)
    got = jax.jit(jax.vmap(scaled))(jnp.array([1.0, 0.0]))
    jacobian = np.diag(gradient) + np.ravel(x)[:, None] * h
    np.testing.assert_allclose(got.value, [np.linalg.norm(jacobian, 2), 0], rtol=1e-6)
    assert got.converged.all() and got.residual[1] == 0


@jax.jit
def relu_gradients(w, points):
    return jax.vmap(jax.grad(lambda x: jax.nn.relu(x @ w)))(points)


softplus_gradient = jax.jit(jax.grad(lambda x, w, beta: smooth.softplus_beta(x @ w, beta)))
noise_of = jax.jit(geometry.logistic_noise, static_argnames="samples")


@pytest.mark.parametrize("beta, w", [(0.8, (1.0, 1.0)), (3.0, (0.5, -2.0)), (10.0, (0.0, -2.0))])
def test_theorem_2_along_w(beta, w):
    w = np.asarray(w)
    x = np.array([0.4, 0.1])
    width = np.linalg.norm(w)
    t = np.linspace(-40 / beta, 40 / beta, 100001)
    density = beta / (np.exp(beta * t / 2) + np.exp(-beta * t / 2)) ** 2
    gradients = relu_gradients(w, x - t[:, None] * w / width)
    expected = (density[:, None] * gradients).sum(0) * (t[1] - t[0])
    wanted = softplus_gradient(x, w, beta / width)
    np.testing.assert_allclose(expected, wanted, atol=6e-4 * width)
    noise = noise_of(w, beta, key=jax.random.key(1), samples=len(t))
    mean = np.mean(relu_gradients(w, x - np.asarray(noise)), 0)
    np.testing.assert_allclose(mean, wanted, atol=4 * 0.5 / len(t) ** 0.5 * np.abs(w).max())
    np.testing.assert_allclose(noise.std(0), np.pi / np.sqrt(3) / beta * np.abs(w) / width, rtol=0.03, atol=1e-12)


def test_independent_logistic_components_miss_theorem_2_by_one_percent():
    t = np.linspace(-40, 40, 20001)  # beta = 1; w = (1, 1): the factor is P(e1 + e2 < w.x)
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    density = sigmoid(t) * sigmoid(-t)
    z = np.linspace(0, 6, 601)
    independent = np.array([(density * sigmoid(s - t)).sum() * (t[1] - t[0]) for s in z])
    gap = independent - sigmoid(z / np.sqrt(2))
    assert abs(np.abs(gap).max() - 0.0103) < 1e-4 and abs(z[np.abs(gap).argmax()] - 1.68) < 0.02
