"""What certified intervals say of heat maps, and the bounds of a network's curvature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import random_networks
from surfaces import network
from xmanip_jax import certify, explain, geometry, rewrite, smooth
from xmanip_jax.certify import Box

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("x64")


def test_heat_maps_of_a_box_stay_in_their_bounds():
    """2000 boxes of maps, 60 maps of each: corners, inside, and the map itself."""

    def one(key):
        centre, size, corner, inside = jax.random.split(key, 4)
        map = jax.random.normal(centre, (4, 4, 2))
        radius = 10.0 ** jax.random.uniform(size, (4, 4, 2), minval=-4, maxval=0.3)
        box = Box(map - radius, map + 0.5 * radius)
        shares = jnp.concatenate([jax.random.bernoulli(corner, shape=(30, 4, 4, 2)).astype(map.dtype),
                                  jax.random.uniform(inside, (30, 4, 4, 2))])
        maps = jnp.clip(box.lower + shares * (box.upper - box.lower), *box)
        heats, heat = jax.vmap(explain.heatmap)(maps), explain.heatmap(map)
        bounds = certify.heatmap_bounds(box)
        saliency = certify.saliency_bounds(box)
        found = jnp.abs(maps).sum(-1)
        change = jnp.abs(heats - heat).sum((1, 2))
        top = lambda h: jax.lax.top_k(h.ravel(), 5)[1]
        kept = jax.vmap(lambda h: jnp.isin(top(h), top(heat)).sum())(heats)
        signs = certify.certified_signs(box)
        return jnp.stack([
            ((heats >= bounds.lower) & (heats <= bounds.upper)).all(),
            ((found >= saliency.lower) & (found <= saliency.upper)).all(),
            (change <= certify.heatmap_change_bound(map, box)).all(),
            (jnp.abs(maps - map).sum((1, 2, 3)) <= certify.map_change_bound(map, box)).all(),
            (kept >= certify.certified_top_k(map, box, 5)).all(),
            ((jnp.sign(maps) == jnp.sign(map)).all(0) | ~signs).all(),
        ]), certify.certified_top_k(map, box, 5), certify.heatmap_change_bound(map, box)

    holds, kept, change = jax.jit(jax.vmap(one))(jax.random.split(KEY, 2000))
    np.testing.assert_array_equal(holds.all(0), True)
    assert 0.5 < kept.mean() < 4.5 and (change < 1).mean() > 0.2  # and they say something


def test_a_certain_map_is_certified_whole():
    map = jnp.arange(12.0).reshape(3, 4)
    assert certify.certified_top_k(map, Box(map, map), 5) == 5
    assert certify.heatmap_change_bound(map, Box(map, map)) < 1e-12
    np.testing.assert_allclose(certify.heatmap_bounds(Box(map, map)).lower, explain.heatmap(map), rtol=1e-9)
    nothing = Box(-map, map)
    assert certify.certified_top_k(map, nothing, 5) == 0 and certify.heatmap_change_bound(map, nothing) == 2


@pytest.mark.sampled(2)
@pytest.mark.parametrize("window, strides, size, groups", [
    ((3, 3), (1, 1), (8, 8), 1), ((4, 2), (2, 1), (5, 6), 1), ((1, 3), (3, 2), (7, 5), 2), ((3, 4), (3, 3), (6, 8), 2)])
def test_norms_of_convolutions_are_never_below_the_truth_and_close_to_it(window, strides, size, groups):
    def ratio(w, padding):
        def conv(x):
            image, numbers = x.reshape(1, *size, 2 * groups), ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(image, w, strides, padding, dimension_numbers=numbers,
                                            feature_group_count=groups).ravel()

        dense = jax.vmap(conv)(jnp.eye(size[0] * size[1] * 2 * groups))
        return jnp.linalg.norm(dense, 2) / certify.convolution_norm(w, size, strides, groups)

    w = jax.random.normal(KEY, (8, *window, 2, 3 * groups))
    ratios = [jax.jit(jax.vmap(lambda w, p=p: ratio(w, p)))(w) for p in ("SAME", [(0, 0), (3, 1)])]
    assert np.max(ratios) <= 1 and np.median(ratios) > 0.85


@pytest.mark.parametrize("kind, act", [("dense", "softplus"),
                                       pytest.param("residual", "softplus", marks=pytest.mark.slow),
                                       *(pytest.param(k, a, marks=pytest.mark.slow)
                                         for k in ("dense", "conv", "average", "residual")
                                         for a in ("softplus6", "sigmoid", "tanh"))])
def test_no_curvature_exceeds_its_bound(kind, act):
    apply = random_networks.apply(kind, act)

    def one(w, key):
        at, size, to = jax.random.split(key, 3)
        x = 3 * jax.random.normal(at, random_networks.IMAGE)
        box = certify.ball(x, 10.0 ** jax.random.uniform(size, minval=-4, maxval=0))
        y = x + jax.random.normal(to, x.shape) * (box.upper - x)
        f = lambda z: apply(w, z)
        g = jax.grad(lambda z: f(z)[1])
        inside = jnp.clip(y, box.lower, box.upper)
        h = jax.vmap(jax.hessian(lambda z: f(z)[1]))(jnp.stack([x, inside])).reshape(2, x.size, x.size)
        frobenius, spectral = jnp.linalg.norm(h, axis=(1, 2)), jnp.linalg.norm(h, 2, axis=(1, 2))
        entropy = jax.vmap(jax.hessian(lambda z: -jax.nn.log_softmax(f(z))[0]))(jnp.stack([x, inside]))
        normal = lambda z: g(z) / jnp.linalg.norm(g(z).ravel())
        moved = lambda v: jnp.linalg.norm((v(x) - v(y)).ravel())
        anywhere, here = certify.hessian_bound(f, x, 1), certify.hessian_bound(f, x, 1, box=box)
        return jnp.stack([
            frobenius.max() / anywhere, frobenius.max() / here, here / anywhere,
            spectral.max() / certify.hessian_bound(f, x, 1, box=box, spectral=True),
            moved(g) / certify.gradient_change_bound(f, x, y, 1),
            moved(normal) / certify.normal_change_bound(f, x, y, 1),
            jnp.linalg.norm(entropy.reshape(2, -1), axis=1).max() / certify.cross_entropy_hessian_bound(f, x)])

    count = 150 if kind == "dense" else 8
    keys = jax.random.split(jax.random.key(5), count)
    ratios = jax.jit(jax.vmap(one))(random_networks.weights(kind, jax.random.key(6), count), keys)
    assert (np.delete(ratios, 2, 1) <= 1).all(), ratios.max(0)
    assert (np.median(ratios, 0)[:2] > 1e-5).all()


def test_the_bound_of_one_layer_is_attained():
    w = jnp.diag(jnp.array([1.0, 2.0, 3.0]))
    f = lambda x: smooth.softplus_beta(w @ x, 5.0)
    for target, norm in ((2, 5 / 4 * 9), (jnp.array([3.0, 0.0, 0.0]), 5 / 4 * 3 * 9)):  # |d| beta / 4 ||W||^2
        np.testing.assert_allclose(certify.hessian_bound(f, jnp.zeros(3), target), norm, rtol=1e-9)
    np.testing.assert_allclose(jnp.linalg.norm(jax.hessian(lambda x: f(x)[2])(jnp.zeros(3))), 5 / 4 * 9, rtol=1e-9)


def test_bounds_of_a_residual_and_of_tanh_are_attained():
    doubled = lambda x: smooth.softplus_beta(x + 1.0 * x, 3.0)
    np.testing.assert_allclose(certify.hessian_bound(doubled, jnp.zeros(1), 0), 3 / 4 * 4, rtol=1e-9)
    bend = jnp.arctanh(3**-0.5) * jnp.ones(1)  # where |tanh''| is largest, 4 / sqrt(27)
    for box in (None, Box(bend, bend)):
        np.testing.assert_allclose(certify.hessian_bound(jnp.tanh, bend, 0, box=box), 4 / 27**0.5, rtol=1e-9)


def test_bounds_of_two_layers_are_the_paper_s():
    w, v, u = np.random.default_rng(0).normal(size=(5, 3)), np.random.default_rng(1).normal(size=(4, 5)), np.ones(4)
    s = lambda z: smooth.softplus_beta(z, 2.0)
    found = certify.hessian_bound(lambda x: (u @ s(v @ s(w @ x)))[None], jnp.zeros(3), 0)
    norm = lambda m: np.linalg.norm(m, 2)
    paper = 2 / 4 * np.linalg.norm(u) * (norm(v) * norm(w) ** 2 + norm(v) ** 2 * norm(w) ** 2)
    np.testing.assert_allclose(found, paper, rtol=1e-9)


def test_the_bound_of_the_cross_entropy_is_that_of_the_mathematics():
    w, u = np.random.default_rng(0).normal(size=(5, 3)), np.random.default_rng(1).normal(size=(4, 5))
    s = lambda z: smooth.softplus_beta(z, 2.0)
    norm = lambda m: np.linalg.norm(m, 2)
    expected = 2 / 4 * 2**0.5 * norm(u) * norm(w) ** 2 + (norm(u) * norm(w)) ** 2 / 2
    found = certify.cross_entropy_hessian_bound(lambda x: u @ s(w @ x), jnp.zeros(3))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match="relu"):
        certify.cross_entropy_hessian_bound(lambda x: u @ jax.nn.relu(w @ x), jnp.zeros(3))


def broadcasts():
    """Networks of one smooth layer behind an affine map that is broadcast along axes of size 1, by what it does."""
    s, shift = (lambda z: smooth.softplus_beta(z, 4.0)), jnp.arange(6.0).reshape(6, 1, 1) - 3
    mean = lambda x, *axes: x.mean(axes, keepdims=True)
    return {"a mean that is added": lambda x: s(0.1 * x + mean(x, 0, 1)),
            "a mean that is taken off": lambda x: s(mean(x, 0, 1) - 0.1 * x),
            "a mean of rows and one of columns": lambda x: s(mean(x, 0) - mean(x, 1)),
            "a mean that is scaled": lambda x: s(mean(x, 0, 1) * shift),
            "a mean that is shifted": lambda x: s(mean(x, 0, 1, 2) + jnp.zeros((6, 6, 1))),
            "a mean that is divided": lambda x: s(mean(x, 0) / (2 + shift**2))}


@pytest.mark.parametrize("name", broadcasts())
def test_norms_of_what_is_broadcast(name):
    """The bound from the weights alone holds at 0, where softplus is most curved, and is not vast."""
    layer = broadcasts()[name]
    f, x = (lambda x: layer(x).sum()[None]), jnp.zeros((6, 6, 1))
    true = jnp.linalg.norm(jax.hessian(lambda x: f(x)[0])(x).reshape(36, 36))
    bound = certify.hessian_bound(f, x, 0)
    assert true <= bound <= 40 * true
    y = x + 0.01
    moved = jnp.linalg.norm(jax.grad(lambda x: f(x)[0])(y) - jax.grad(lambda x: f(x)[0])(x))
    assert moved <= certify.gradient_change_bound(f, x, y, 0)


def test_what_jumps_is_refused():
    x = jnp.ones((4, 4, 1))
    relu = lambda x: jax.nn.relu(x).sum((0, 1))
    pool = lambda x: lax.reduce_window(jnp.tanh(x), -jnp.inf, lax.max, (2, 2, 1), (2, 2, 1), "VALID").sum((0, 1))
    for f, match in ((relu, "relu .*makes the gradient jump"), (pool, "max-pooling makes the gradient jump")):
        for bound in (lambda f: certify.hessian_bound(f, x, 0), lambda f: certify.gradient_change_bound(f, x, x, 0),
                      lambda f: certify.normal_change_bound(f, x, x, 0)):
            with pytest.raises(rewrite.UnsupportedPrimitiveError, match=match):
                bound(f)
    with pytest.raises(ValueError, match="needs a box"):
        certify.hessian_bound(jnp.tanh, x[0, 0], 0, spectral=True)


@pytest.mark.slow
def test_estimates_along_a_path():
    g, x, *_ = network()
    y = x + 0.5 * jax.random.normal(KEY, x.shape)

    @jax.jit
    def measure(x, y):
        path = geometry.level_set_path(g, x, y, segments=16)
        exact, found = (geometry.normal_change_estimate(g, path.points, exact=e) for e in (True, False))
        line = x + jnp.linspace(0, 1, 33)[:, None, None, None] * (y - x)
        turn = jax.vmap(lambda z: jax.jvp(jax.grad(g), (z,), (y - x,))[1])(line[::32])
        fine, coarse = (geometry.gradient_change_estimate(g, points) for points in (line, line[::32]))
        return exact, found, fine, coarse, turn

    exact, found, change, coarse, turn = measure(x, y)
    np.testing.assert_allclose(exact.curvature, found.curvature, rtol=1e-5)
    assert exact.converged and found.converged and 0.1 * exact.estimate < exact.change <= exact.estimate
    assert change.change <= change.estimate <= change.curvature.max() * change.length
    np.testing.assert_allclose(coarse.estimate, np.linalg.norm(turn.reshape(2, -1), axis=1).mean(), rtol=1e-9)
    np.testing.assert_allclose(change.length, np.linalg.norm(x - y), rtol=1e-9)


def test_thickness_and_sampled_lipschitz_constants():
    g, x, h, _ = network()
    f = lambda z: g(z)[None]
    e = explain.gradient()

    @jax.jit
    def measure(radius):
        options = {"radius": radius, "chunk": 5}
        return (geometry.thickness(e, f, x, 0, 3, key=KEY, samples=12, **options),
                geometry.lipschitz_estimate(e, f, x, 0, key=KEY, samples=12, **options))

    thick, slope = measure(1e-6)
    assert thick.value == 1 and slope <= np.linalg.norm(h, 2)
    thin, _ = measure(3.0)
    assert 0.3 < thin.value < 0.95 and thin.standard_error > 0


def test_thickness_counts_pairs():
    """Three pixels of saliency |1 - 2 |move||, 1/2 and 0: the first is overtaken by the second between 1/4 and 3/4."""

    def e(f, x, target, *, key=None):
        first = x[0, 0] - 1
        return jnp.stack([1 - 2 * jnp.abs(first), 0 * first + 0.5, 0 * first])[None]

    found = geometry.thickness(e, jnp.ravel, jnp.ones((1, 3, 1)), 0, 1, key=KEY, radius=1.0, samples=4000)
    t = (np.arange(8) + 0.5) / 8
    kept = np.mean(np.minimum(1, 0.25 / t) + np.maximum(0, 1 - 0.75 / t))
    np.testing.assert_allclose(found.value, (kept + 1) / 2, atol=4 * found.standard_error)


def test_errors_of_certificates():
    map = jnp.ones((2, 2))
    for match, call in (("number of pixels 4, got 5", lambda: certify.certified_top_k(map, Box(map, map), 5)),
                        ("positive integer, got 0", lambda: certify.certified_top_k(map, Box(map, map), 0)),
                        (r"\(2, 2\) and \(2,\)", lambda: certify.map_change_bound(map, Box(map[0], map[0]))),
                        (r"shape \(2,\)", lambda: certify.saliency_bounds(Box(map[0], map[0]))),
                        ("sizes and strides", lambda: certify.convolution_norm(jnp.ones((3, 3, 1, 1)), (4,))),
                        ("2 groups", lambda: certify.convolution_norm(jnp.ones((3, 1, 3)), (4,), groups=2)),
                        ("radius is positive", lambda: geometry.thickness(explain.gradient(), jnp.tanh, map[..., None],
                                                                         0, 1, key=KEY, radius=0.0)),
                        ("below the number of pixels 4", lambda: geometry.thickness(
                            explain.gradient(), lambda x: x.sum((0, 1)), map[..., None], 0, 4, key=KEY, radius=1.0))):
        with pytest.raises(ValueError, match=match):
            call()
