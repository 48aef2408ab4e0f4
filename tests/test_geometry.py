"""Measures of curvature against dense float64 Hessians, closed forms, and their own error bars."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from surfaces import SHAPE, network, quadratic
from xmanip_jax import geometry, smooth
from xmanip_jax.numerics import over_chunks, repeat

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)


@pytest.mark.parametrize("mode", ["forward_over_reverse", "reverse_over_forward", "reverse_over_reverse"])
def test_hvp_of_every_mode_is_the_dense_product(mode):
    g, x, h, _ = network()
    v = np.random.default_rng(2).normal(size=SHAPE)
    got = jax.jit(lambda x, v: geometry.hvp(g, x, v, mode=mode))(x, v)
    np.testing.assert_allclose(got.ravel(), h @ v.ravel(), atol=1e-12)


def test_products_share_the_primal_and_take_trees():
    g, x, h, gradient = network()
    vs = np.random.default_rng(2).normal(size=(3, *SHAPE))
    split = lambda x: {"a": x[:2], "b": (x[2:],)}
    tree_g = lambda t: g(jnp.concatenate([t["a"], t["b"][0]]))

    @jax.jit
    def measure(x, vs):
        found, product = geometry.gradient_and_hvp(tree_g, split(x))
        return geometry.hvps(g, x, vs), ravel_pytree(found)[0], ravel_pytree(product(split(vs[0])))[0]

    products, found, product = measure(x, vs)
    np.testing.assert_allclose(products.reshape(3, 48), vs.reshape(3, 48) @ h, atol=1e-12)
    np.testing.assert_allclose(found, gradient, atol=1e-12)
    np.testing.assert_allclose(product, h @ vs[0].ravel(), atol=1e-12)


def conv_network(x):
    r = np.random.default_rng(0)
    for a, b in ((4, 64), (64, 64), (64, 64)):
        w = jnp.asarray(r.normal(size=(3, 3, a, b)) / np.sqrt(9 * a), x.dtype)
        x = jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
        x = smooth.softplus_beta(x, 3.0)
    return x.mean((0, 1)).sum()


def flops(f, *arguments):
    return jax.jit(f).lower(*arguments).compile().cost_analysis()["flops"]


def test_forward_passes_of_products():
    x, vs = jnp.ones((8, 8, 4), jnp.float32), jnp.ones((8, 8, 8, 4), jnp.float32)
    forward = flops(conv_network, x)
    for mode in ("forward_over_reverse", "reverse_over_forward"):
        assert flops(lambda x, v, mode=mode: geometry.hvp(conv_network, x, v, mode=mode), x, vs[0]) <= 4.5 * forward
    shared = flops(lambda x, vs: geometry.hvps(conv_network, x, vs), x, vs) / forward
    assert abs(shared / (2 + 2 * 8) - 1) < 0.06, shared


def test_convolutions_in_loops_have_the_form_that_is_fast_on_cpu():
    x = jnp.linspace(-1, 1, 16, dtype=jnp.float32).reshape(2, 2, 4)
    step = lambda x: jax.jit(jax.grad(conv_network))(x)
    loops = {"repeat": lambda x: repeat(step, x, 3),
             "over_chunks": lambda x: over_chunks(jax.vmap(step), jnp.stack([x, 2 * x, 3 * x]), 1),
             "added": lambda x: over_chunks(lambda xs: step(xs[0]), jnp.stack([x, 2 * x]), 1, add=True)}
    expected = {"repeat": step(step(step(x))), "over_chunks": jnp.stack([step(x), step(2 * x), step(3 * x)]),
                "added": step(x) + step(2 * x)}
    for name, loop in loops.items():
        forms = set(re.findall(r"dim_numbers = (.*?), window", jax.jit(loop).lower(x).as_text()))
        assert forms == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}, (name, forms)
        np.testing.assert_allclose(jax.jit(loop)(x), expected[name], rtol=1e-4)


def test_bad_points_and_functions_are_named():
    g, x = lambda x: jnp.sum(x ** 2), jnp.ones((16, 3))
    for match, call in (
            ("mode is one of", lambda: geometry.hvp(g, x, x, mode="double")),
            ("got outputs of shapes.*48", lambda: geometry.hvp(jnp.ravel, x, x)),
            ("int32", lambda: geometry.spectral_norm(jnp.sum, jnp.ones(3, jnp.int32))),
            ("shapes of the point", lambda: geometry.hvp(g, x, x[0])),
            ("probe is one of", lambda: geometry.squared_frobenius_norm(g, x, key=KEY, probe="uniform")),
            ("samples.*got 0", lambda: geometry.squared_frobenius_norm(g, x, key=KEY, samples=0)),
            ("chunk.*got 0", lambda: geometry.squared_frobenius_norm(g, x, key=KEY, chunk=0)),
            ("at least 2", lambda: geometry.frobenius_norm(g, x, key=KEY, samples=1)),
            ("steps = 2", lambda: geometry.top_eigenpairs(g, x, 3, steps=2)),
            ("d = 48", lambda: geometry.top_eigenpairs(g, x, 49))):
        with pytest.raises(ValueError, match=match):
            call()


def test_frobenius_norm_within_its_error_and_equal_in_chunks():
    g, x, h, _ = network()
    truth = np.linalg.norm(h) ** 2
    whole = jax.jit(lambda k: geometry.squared_frobenius_norm(g, x, key=k, samples=2000))(KEY)
    assert abs(whole.value - truth) < 4 * whole.standard_error < 0.3 * truth
    parts = jax.jit(lambda k: (geometry.squared_frobenius_norm(g, x, key=k, samples=20),
                               geometry.squared_frobenius_norm(g, x, key=k, samples=20, chunk=8)))(KEY)
    np.testing.assert_allclose(*parts, rtol=1e-12)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian", "sphere"])
def test_variance_of_one_probe_is_the_stated_one(probe):
    g, a = quadratic(0.8 ** np.arange(12))
    b = np.asarray(a @ a)
    variance = {"gaussian": 2 * np.sum(b * b), "rademacher": 2 * (np.sum(b * b) - np.sum(np.diag(b) ** 2)),
                "sphere": 24 / 14 * (np.sum(b * b) - np.trace(b) ** 2 / 12)}[probe]
    e = jax.jit(lambda k: geometry.squared_frobenius_norm(g, jnp.zeros(12), key=k, samples=20000, probe=probe))(KEY)
    np.testing.assert_allclose(e.standard_error ** 2 * 20000, variance, rtol=0.06)
    assert abs(e.value - np.trace(b)) < 4 * e.standard_error


@jax.jit
def trials(a, keys):
    measure = lambda n: jax.lax.map(lambda k: geometry.squared_frobenius_norm(
        lambda x: x @ a @ x / 2, jnp.zeros(len(a)), key=k, samples=n), keys, batch_size=100)
    return measure(300), measure(10)


@pytest.mark.parametrize("values", [0.8 ** np.arange(24), 1 / np.arange(1, 25) ** 2])
def test_intervals_cover_the_truth_as_often_as_they_say(values):
    _, a = quadratic(values * np.cos(np.arange(24) * 2))
    truth = np.sum(np.asarray(a) ** 2)
    many, few = (np.mean(np.abs(e.value - truth) <= 1.96 * e.standard_error)
                 for e in trials(a, jax.random.split(jax.random.key(3), 1000)))
    assert 0.93 <= many <= 0.97
    assert 0.78 <= few <= 0.92  # the docstring says 84 to 88 %


def test_the_jackknife_removes_the_root_s_bias():
    g, _ = quadratic(np.eye(16)[0] * 5)
    measure = lambda f: jax.vmap(lambda k: f(g, jnp.zeros(16), key=k, samples=10, probe="gaussian").value)
    both = jax.jit(lambda k: (measure(geometry.frobenius_norm)(k), measure(geometry.squared_frobenius_norm)(k)))
    root, square = both(jax.random.split(KEY, 4000))
    assert abs((square ** 0.5).mean() / 5 - 0.967) < 0.01 and abs(root.mean() / 5 - 0.99) < 0.01


def test_the_penalty_differentiates():
    weigh = lambda s, k: geometry.squared_frobenius_norm(
        lambda x: s * jnp.sum(x ** 3), jnp.arange(3.0), key=k, samples=1).value
    np.testing.assert_allclose(jax.jit(jax.grad(weigh))(2.0, KEY), 2 * 2.0 * 36 * 5, rtol=1e-12)


def test_eigenpairs_of_a_network():
    g, x, h, _ = network()
    values = np.linalg.eigvalsh(h)
    values = values[np.argsort(-np.abs(values))]
    pairs = jax.jit(lambda x: geometry.top_eigenpairs(lambda t: g(t["x"]), {"x": x}, 12, steps=16, tolerance=1e-8))(x)
    vectors, largest = pairs.vectors["x"].reshape(12, 48), abs(values[0])
    assert pairs.converged[:3].all() and not pairs.converged.all()
    np.testing.assert_allclose(pairs.values[:3], values[:3], atol=1e-6 * largest)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(12), atol=1e-9)
    residuals = np.linalg.norm(h @ vectors.T - vectors.T * pairs.values, axis=0)
    np.testing.assert_allclose(pairs.residuals, residuals, rtol=1e-5, atol=1e-14)
    np.testing.assert_array_equal(pairs.converged, residuals <= 1e-8 * largest)


@jax.jit
def top_four(a):
    return geometry.top_eigenpairs(lambda x: x @ a @ x / 2, jnp.zeros(len(a)), 4, steps=32)


@pytest.mark.parametrize("values", [np.zeros(32), np.ones(32), np.r_[3, -2, 1, np.zeros(29)],
                                    np.r_[np.ones(16), -np.ones(16)]], ids=["zero", "identity", "rank3", "reflection"])
def test_krylov_spaces_that_end_early(values):
    pairs = top_four(quadratic(values)[1])
    np.testing.assert_allclose(np.abs(pairs.values), np.sort(np.abs(values))[:-5:-1], atol=1e-12)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(4), atol=1e-12)


def test_lanczos_agrees_with_matfree():
    from matfree import decomp, eig

    _, a = quadratic(0.8 ** np.arange(32))
    theirs, _ = jax.jit(lambda v: eig.eigh_partial(decomp.tridiag_sym(25))(lambda v: a @ v, v))(jnp.ones(32))
    np.testing.assert_allclose(top_four(a).values, theirs[:-5:-1], rtol=1e-9)


def test_derivatives_of_the_spectral_norm_beside_repeated_eigenvalues():
    norm = lambda s, x: geometry.spectral_norm(lambda z: s * jnp.sum(z ** 4) / 12, x).value  # H = s diag(x^2)
    value, (by_s, by_x) = jax.jit(jax.value_and_grad(norm, argnums=(0, 1)))(3.0, jnp.r_[1.0, -1, 1, 2])
    np.testing.assert_allclose(value, 12, rtol=1e-12)
    np.testing.assert_allclose(by_s, 4, rtol=1e-12)
    np.testing.assert_allclose(by_x, [0, 0, 0, 12], atol=1e-11)
