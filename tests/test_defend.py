"""Penalties: their values, their gradients in the parameters, their cost, and what they refuse."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.flatten_util import ravel_pytree

from checks import compiled
from xmanip_jax import defend, explain, metrics, smooth, train
from xmanip_jax.train import Ascent

KEY = jax.random.key(0)
SHAPE = 6, 6, 2
A = Ascent(0.2, 0.1, 2, low=0, high=1)


def apply(params, state, x):
    """A softplus network with convolutions, and a named layer of features."""
    order = ("NHWC", "HWIO", "NHWC")
    conv = lambda x, w: lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=order)[0]
    h = smooth.softplus_beta(conv(x, params["a"]), 3.0)
    h = checkpoint_name(smooth.softplus_beta(conv(h, params["b"]), 3.0), "features")
    return h.mean((0, 1)) @ params["c"]


def parameters(dtype=jnp.float64):
    shapes = {"a": (3, 3, 2, 4), "b": (3, 3, 4, 5), "c": (5, 3)}
    return {n: jax.random.normal(jax.random.fold_in(KEY, i), s, dtype) * (2 / np.prod(s[:-1])) ** 0.5
            for i, (n, s) in enumerate(shapes.items())}


PENALTIES = {
    "gradient norm": defend.gradient_norm(),
    "hessian": defend.hessian(),
    "hessian of the loss, 3 gaussian probes": defend.hessian(output="loss", samples=3, probe="gaussian"),
    "gradient alignment": defend.gradient_alignment(radius=0.1, detach=False),
    "cure": defend.cure(step=0.1),
    "cure, released": defend.cure(step=0.1, squared=False),
    "input density": defend.input_density(),
    "interval width": defend.interval_width(0.05),
    "ranking": defend.ranking(5),
    "adversarial": defend.adversarial(A),
    "trades": defend.trades(A),
    "llr": defend.local_linearity(A),
    "int": defend.interpretability(A, explain.cam("features"), gamma=1.0),
    "int one class": defend.interpretability(A, explain.cam("features"), gamma=1.0, one_class=True),
    "int-adv": defend.interpretability(A, explain.cam("features"), gamma=1.0, at="attacked"),
    "int2-adv": defend.interpretability(A, explain.cam("features"), gamma=1.0, inner="loss", at="attacked"),
    "ig-norm": defend.integrated_norm(A, points=3),
    "ig-sum-norm": defend.integrated_norm(A, points=3, at="attacked"),
    "far": defend.attribution_robustness(A, explain.gradient()),
    "adv far": defend.attribution_robustness(A, explain.gradient(), at="attacked"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_in_the_parameters(name, x64):
    """Against central differences along a random direction, in float64, of penalty and cross entropy together."""
    loss = train.training_loss((0.7, PENALTIES[name]))
    params = parameters()
    xs, ys = jax.random.uniform(KEY, (2, *SHAPE), jnp.float64), jnp.array([0, 2])
    keys = jax.random.split(jax.random.key(5), 2)
    flat, unravel = ravel_pytree(params)
    value = jax.jit(jax.value_and_grad(lambda v: loss(apply, unravel(v), None, xs, ys, keys)[0]))
    v = jax.random.normal(jax.random.key(3), flat.shape, jnp.float64)
    h = 1e-6
    difference = (value(flat + h * v)[0] - value(flat - h * v)[0]) / (2 * h)
    np.testing.assert_allclose(value(flat)[1] @ v, difference, rtol=2e-6, atol=1e-9)


def test_hessian_penalty_is_unbiased(x64):
    params, x = parameters(), jax.random.uniform(KEY, SHAPE, jnp.float64)
    for output in ("logit", "loss"):
        dense = jax.jit(jax.hessian(lambda z, o=output: train.loss.OUTPUTS[o](apply(params, None, z), 1)))(x)
        p = defend.hessian(output=output, samples=4)
        found = jax.jit(jax.vmap(lambda k, p=p: p(apply, params, None, x, 1, k)))(jax.random.split(KEY, 1000))
        assert abs(found.mean() - jnp.sum(dense**2)) < 4 * found.std() / 1000**0.5


def test_penalties_of_known_functions():
    bend = lambda params, state, x: jnp.stack([x[0] ** 2 + 3 * x[1], 5 * x[1]])
    x = jnp.array([0.5, 0.25])
    assert defend.gradient_norm(output="logit")(bend, None, None, x, 0) == 10
    p = jax.nn.softmax(jnp.array([1.0, 1.25]))
    np.testing.assert_allclose(defend.input_density()(bend, None, None, x, 0), p[0] ** 2 + (3 * p[0] + 5 * p[1]) ** 2,
                               rtol=1e-6)
    np.testing.assert_allclose(defend.cure(step=0.1, output="logit")(bend, None, None, x, 0), (0.2 / 2**0.5) ** 2,
                               rtol=1e-5)
    pair = defend.gradient_alignment(radius=0.4, l2=1.0, cosine=0.0, output="logit")
    z = x + jax.random.uniform(KEY, x.shape, x.dtype, -0.4, 0.4)
    np.testing.assert_allclose(pair(bend, None, None, x, 0, KEY), (2 * (z[0] - x[0])) ** 2, rtol=1e-5)
    turned = defend.gradient_alignment(radius=0.4, l2=0.0, cosine=1.0, output="logit")(bend, None, None, x, 0, KEY)
    np.testing.assert_allclose(turned, (1 - metrics.cosine(jnp.r_[1.0, 3], jnp.r_[2 * z[0], 3])) / 2, rtol=1e-4)


def test_local_linearity_of_linear_and_quadratic_losses():
    """No gap for the first; for c ||x||^2 / 2 the corner of the ball is worst, c d r^2 / 2 from the tangent."""
    a, x = Ascent(0.1, 0.05, 4), jnp.linspace(0.3, 0.7, 6)
    plain = lambda params, state, x: (params @ x)[None]
    w = jnp.arange(6.0) - 2
    side = jnp.sign(jax.random.uniform(KEY, x.shape, x.dtype, -1, 1)) * 0.1  # where the ascent starts, and ends up
    p = defend.local_linearity(a, slope=0.0, output="logit")
    assert abs(p(plain, w, None, x, 0, KEY)) < 1e-6
    bowl = lambda params, state, x: (params * jnp.sum(x**2) / 2)[None]
    np.testing.assert_allclose(p(bowl, 3.0, None, x, 0, KEY), 3 * 6 * 0.1**2 / 2, rtol=1e-5)
    both = defend.local_linearity(a, slope=2.0, output="logit")
    expected = 3 * 6 * 0.1**2 / 2 + 2 * abs(3 * side @ x)
    np.testing.assert_allclose(both(bowl, 3.0, None, x, 0, KEY), expected, rtol=1e-5)


def test_the_ascent_stays_in_the_ball_and_climbs():
    f = lambda z: jnp.sum(jnp.sin(3 * z))
    x = jnp.linspace(0, 1, 8)
    far = train.ascend(f, x, Ascent(0.3, 0.05, 20, low=0, high=1), key=KEY)
    assert (jnp.abs(far - x) <= 0.3 + 1e-6).all() and (far >= 0).all() and (far <= 1).all()
    best = jnp.clip(jnp.pi / 6, jnp.maximum(x - 0.3, 0), jnp.minimum(x + 0.3, 1))
    assert jnp.abs(far - best).max() <= 0.05 + 1e-6
    assert jax.grad(lambda x: train.ascend(f, x, Ascent(0.3, 0.05, 2), key=KEY).sum())(x).sum() == 0


@pytest.mark.parametrize("count", [300])
def test_proposition_1(count):
    """The 2-class discrepancy of complete maps is at least half the margin, whatever the change that flips a class."""
    e = explain.cam("features")
    params = parameters(jnp.float32)
    f = partial(apply, params, None)

    @jax.jit
    @jax.vmap
    def margins(x, z):
        a, b = f(x), f(z)
        t, s = a.argmax(), b.argmax()
        cells = e(f, x, t).size
        scale = cells * a[t] / e(f, x, t).sum()  # CAM sums to M times the logit
        found = defend.two_class_discrepancy(e, f, x, z, (t, s)) * scale
        return found, cells / 2 * (a[t] - a[s]), t != s

    x, z = jax.random.normal(KEY, (2, count, *SHAPE)) + 5 * jax.random.normal(KEY, (2, count, 1, 1, 2))
    found, bound, flipped = margins(x, z)
    assert flipped.sum() > 10 and (found >= bound * (1 - 1e-4) - 1e-5)[flipped].all()


def test_discrepancy_by_hand():
    params = parameters(jnp.float32)
    f, e = partial(apply, params, None), explain.cam("features")
    x, z = jax.random.uniform(KEY, (2, *SHAPE))
    change = jax.jit(lambda x, z: jnp.stack([jnp.abs(e(f, x, c) - e(f, z, c)).sum() for c in range(3)]))(x, z)
    p = np.exp(f(z))
    expected = change[1] + (p[0] * change[0] + p[2] * change[2]) / (p[0] + p[2])
    two, one = jax.jit(lambda x, z: [defend.discrepancy(e, f, x, z, 1, one_class=b) for b in (False, True)])(x, z)
    np.testing.assert_allclose(two, expected, rtol=1e-5)
    np.testing.assert_allclose(one, change[1], rtol=1e-6)


def test_atex_by_hand():
    """Neighbours across the direction only, the teacher's tempered prediction as target, no derivative through both."""
    params, teacher = parameters(jnp.float32), jax.tree.map(lambda v: 1.1 * v, parameters(jnp.float32))
    x, settings = jax.random.uniform(KEY, SHAPE), {"radius": 0.05, "shifts": 3, "neighbours": 4, "samples": 5}
    p = defend.atex(partial(apply, teacher, None), temperature=2.0, **settings)
    noise, others = jax.random.split(KEY)
    smoothgrad = compiled(explain.smoothgrad(explain.gradient(), sigma=0.05, samples=5))
    s = smoothgrad(partial(apply, params, None), x, 1, key=noise)

    def expected(params):
        total = 0.0
        for t, k in enumerate(jax.random.split(others, 3)):
            at = x + (t - 1.5) / 2 * 0.2 * s / jnp.abs(s).max()
            target = jax.nn.softmax(apply(teacher, None, at) / 2)
            for key in jax.random.split(k, 4):
                u = jax.random.uniform(key, x.shape, minval=-0.2, maxval=0.2)
                u -= s * jnp.sum(u * s) / jnp.sum(s * s)
                total += jnp.sum(target * (jnp.log(target) - jax.nn.log_softmax(apply(params, None, at + u))))
        return total / 12

    found = jax.jit(jax.value_and_grad(lambda w: p(apply, w, None, x, 1, KEY)))
    value, slope = found(params)
    wanted, by_hand = jax.jit(jax.value_and_grad(expected))(params)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    chex.assert_trees_all_close(slope, by_hand, rtol=1e-3, atol=1e-6)
    flat = jax.tree.map(jnp.zeros_like, params)  # no direction: finite, with finite derivatives
    chex.assert_tree_all_finite(found(flat))


@pytest.mark.slow
def test_cost_of_training_steps():
    """FLOPs of a step as multiples of the plain one, which is 3 forward passes less a first layer."""
    params = {"a": jnp.ones((3, 3, 2, 32)), "b": jnp.ones((3, 3, 32, 32)), "c": jnp.ones((32, 3))}
    xs, ys, keys = jnp.ones((2, 16, 16, 2)), jnp.zeros(2, int), jax.random.split(KEY, 2)

    def flops(*terms, label_weight=1.0):
        loss = train.training_loss(*terms, label_weight=label_weight)
        step = jax.jit(jax.grad(lambda p: loss(apply, p, None, xs, ys, keys)[0]))
        return step.lower(params).compile().cost_analysis()["flops"]

    plain = flops()
    for penalty, limit in ((defend.gradient_norm(), 2), (defend.hessian(), 4), (defend.hessian(samples=3), 8),
                           (defend.gradient_alignment(radius=0.1), 10 / 3), (defend.cure(step=0.1), 4),
                           (defend.local_linearity(Ascent(0.1, 0.1, 0)), 3),
                           (defend.interpretability(Ascent(0.1, 0.1, 0), explain.cam("features")), 2)):
        ratio = flops((1.0, penalty)) / plain
        assert ratio < 1.08 * limit, (ratio, limit)
    twice = flops((1.0, train.no_penalty()), (1.0, defend.hessian()))
    assert twice > 1.1 * flops((1.0, defend.hessian()))  # what one trace saves
    size = 1.0, train.parameter_penalty(lambda p: jnp.sum(p["c"] ** 2))  # sees no example, wherever it stands
    assert flops(size, (1.0, defend.hessian())) < 4 * 1.08 * plain


def test_projection_on_the_data():
    random = np.random.default_rng(0)
    plane = np.linalg.qr(random.normal(size=(12, 3)))[0]
    data = (random.normal(size=(200, 3)) @ plane.T + 1).reshape(200, 2, 3, 2)
    x = jnp.asarray(data[0])
    basis = defend.tangent_space(x, data, neighbours=20, dimensions=3).reshape(3, 12)
    np.testing.assert_allclose(basis.T @ basis, plane @ plane.T, atol=1e-5)
    w = random.normal(size=(2, 3, 2))
    f = lambda x: jnp.sum(w * x)[None]
    e = defend.project(explain.gradient(), data, neighbours=20, dimensions=3)
    np.testing.assert_allclose(e(f, x, 0).ravel(), plane @ plane.T @ w.ravel(), atol=1e-5)
    np.testing.assert_allclose(explain.with_logits(e)(f, x, 0)[1], f(x))


def test_what_is_refused():
    cam = explain.cam("features")
    cases = [
        ("output is one of logit", lambda: defend.gradient_norm(output="odds")(
            apply, parameters(jnp.float32), None, jnp.ones(SHAPE), 0)),
        ("probe is one of", lambda: defend.hessian(probe="cauchy")), ("samples is at least 1", lambda: defend.hessian(
            samples=0)), ("radius is positive, got 0", lambda: defend.gradient_alignment(radius=0)),
        ("step is positive, got -1", lambda: defend.cure(step=-1)), ("k is at least 1", lambda: defend.ranking(0)),
        ("inner is one of same, loss, got 'other'", lambda: defend.interpretability(A, cam, inner="other")),
        ("at is one of clean, attacked", lambda: defend.integrated_norm(A, at="x")),
        ("starts at random", lambda: defend.local_linearity(A._replace(random_start=False))),
        ("slope is not negative, got -1", lambda: defend.local_linearity(A, slope=-1)),
        ("shifts are at least 2", lambda: defend.atex(lambda x: x, radius=0.1, shifts=1)),
        ("not negative, got -0.1", lambda: train.training_loss((-0.1, defend.cure(step=1)))),
        ("not negative, got nan", lambda: train.training_loss((float("nan"), defend.cure(step=1)))),
        ("a random start needs a key", lambda: train.ascend(jnp.sum, jnp.ones(2), A)),
        ("needs 1 <= dimensions", lambda: defend.tangent_space(jnp.ones(2), jnp.ones((5, 2)))),
        ("shape of x", lambda: defend.tangent_space(jnp.ones(2), jnp.ones((5, 3)))),
    ]
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()
