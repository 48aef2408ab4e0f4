"""Certified bounds of the gradient: nothing sampled or attacked may ever leave them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import random_networks
from xmanip_jax import certify, models, rewrite, smooth
from xmanip_jax.certify import Box, activations, forms, intervals

pytestmark = pytest.mark.promotes("ranks", "types")

CLASS = 1
SMOOTH = "softplus", "softplus6", "tanh", "sigmoid", "jax softplus"


def points(grad, box, x, key):
    """Points of the box: its centre, corners, points inside, and where an attack drives entries of the gradient."""
    corner, inside, entry = jax.random.split(key, 3)
    at = lambda u: jnp.clip(box.lower + u * (box.upper - box.lower), box.lower, box.upper)
    corners = jax.vmap(at)(jax.random.bernoulli(corner, shape=(12, *x.shape)).astype(x.dtype))
    within = jax.vmap(at)(jax.random.uniform(inside, (12, *x.shape), x.dtype))

    def attacked(i):
        """Two steps to the corner to which the entry's own gradient points, and the opposite corner."""
        at = x
        for _ in range(2):
            slope = jax.grad(lambda z: grad(z).ravel()[i])(at)
            at = jnp.where(slope > 0, box.upper, jnp.where(slope < 0, box.lower, at))
        return jnp.stack([at, box.lower + box.upper - at])

    driven = jax.vmap(attacked)(jax.random.randint(entry, (4,), 0, x.size)).reshape(-1, *x.shape)
    return jnp.concatenate([x[None], corners, within, jnp.clip(driven, box.lower, box.upper)])


def violations(kind, act, count, *, linear, weights=0.0):
    """(of the gradient, of the output: Bool[count]; largest share of an interval's width that the gradients fill)."""
    apply = random_networks.apply(kind, act)

    def one(w, key):
        at, size, search, move = jax.random.split(key, 4)
        x = jax.random.normal(at, random_networks.IMAGE)
        box = certify.ball(x, 10.0 ** jax.random.uniform(size, minval=-6, maxval=0.3))
        f = lambda z: apply(w, z)
        gradients = certify.gradient_bounds(f, box, CLASS, linear=linear, weights=weights)
        outputs = certify.output_bounds(f, box, linear=linear, weights=weights)
        moved = jax.tree.map(lambda v: v * (1 + weights * jax.random.uniform(move, v.shape, minval=-1)), w)
        grad = jax.grad(lambda z: apply(moved, z)[CLASS])
        tried = points(grad, box, x, search)
        found, values = jax.vmap(grad)(tried), jax.vmap(lambda z: apply(moved, z))(tried)
        width = jnp.maximum((gradients.upper - gradients.lower).max(), 1e-30)
        return leaves(found, gradients), leaves(values, outputs), (found.max(0) - found.min(0)).max() / width

    keys = jax.random.split(jax.random.key(7), count)
    return jax.jit(jax.vmap(one))(random_networks.weights(kind, jax.random.key(3), count), keys)


def leaves(values, box):
    return jnp.any((values < box.lower) | (values > box.upper) | jnp.isnan(values))


QUICK = [("dense", "softplus", True), ("conv", "relu", False), ("average", "softplus", False),
         ("overlapping max", "relu", False), ("residual", "softplus", False)]
REST = [c for c in itertools.product(random_networks.NETWORKS, random_networks.ACTIVATIONS, (False, True))
        if c not in QUICK]


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind, act, linear",
                         [*QUICK, *(pytest.param(*c, marks=pytest.mark.slow) for c in REST)])
def test_no_gradient_leaves_its_interval(kind, act, linear):
    count = 420
    gradients, outputs, filled = violations(kind, act, count, linear=linear)
    assert not gradients.any() and not outputs.any(), (int(gradients.sum()), int(outputs.sum()))
    assert filled.max() > (0.5 if linear and act == "softplus" else 0.02)  # not sound by being vast


@pytest.mark.slow
@pytest.mark.parametrize("kind, act", [("dense", "relu"), pytest.param("residual", "softplus", marks=pytest.mark.slow)])
def test_boxes_of_weights(kind, act):
    gradients, outputs, _ = violations(kind, act, 300, linear=False, weights=0.05)
    assert not gradients.any() and not outputs.any()


def test_leaving_out_the_first_layer_is_unsound(monkeypatch):
    """The released recursion of Wicker et al. 2023 does not bound the slope of the first hidden layer."""
    own, seen = forms.gate, []

    def gate(act, z, lower, upper):
        seen.append(act)
        ones = jnp.ones_like(lower)
        return own(act, z, lower, upper) if len(seen) == 1 else forms.of_bounds(ones, ones)

    monkeypatch.setattr(intervals.forms, "gate", gate)
    gradients, *_ = violations("dense", "relu", 200, linear=False)
    assert len(seen) == 2 and gradients.mean() > 0.4


def small_network():
    """A softplus network with convolutions; its weights, a point."""
    w = jax.tree.map(lambda v: v[0], random_networks.weights("conv", jax.random.key(0), 1))
    return random_networks.apply("conv", "softplus"), w, jax.random.normal(jax.random.key(1), random_networks.IMAGE)


@pytest.mark.slow
def test_linear_bounds_are_never_wider_and_tight_to_first_order(x64):
    apply, w, x = small_network()

    @jax.jit
    def widths(eps):
        box = certify.ball(x, eps)
        plain, linear = (certify.gradient_bounds(lambda z: apply(w, z), box, CLASS, linear=v) for v in (False, True))
        return plain, linear

    hessian = np.asarray(jax.hessian(lambda z: apply(w, z)[CLASS])(x)).reshape(72, 72)
    reach = np.abs(hessian).sum(1).reshape(x.shape)  # what a ball of radius 1 does to first order
    for eps in (1e-4, 0.1, 1.0):
        plain, linear = widths(eps)
        assert (linear.lower >= plain.lower).all() and (linear.upper <= plain.upper).all()
    plain, linear = widths(1e-4)
    np.testing.assert_allclose((linear.upper - linear.lower) / 2, 1e-4 * reach, rtol=0.02)
    assert np.median((plain.upper - plain.lower) / (linear.upper - linear.lower)) > 3


def test_a_point_has_its_gradient():
    apply, w, x = small_network()
    f = lambda z: apply(w, z)
    bounds = jax.jit(lambda x: certify.gradient_bounds(f, Box(x, x), CLASS))(x)
    gradient = jax.jit(jax.grad(lambda z: f(z)[CLASS]))(x)
    size = np.abs(gradient).max()
    assert not leaves(gradient[None], bounds)
    np.testing.assert_allclose(bounds.lower, gradient, atol=2e-3 * size)
    np.testing.assert_allclose(bounds.upper, gradient, atol=2e-3 * size)


def test_a_real_network_is_understood():
    net, params, state = models.functional(models.CifarResNet(rngs=nnx.Rngs(0)))
    f, x = (lambda x: net.apply(params, state, x)), jnp.zeros((32, 32, 3))
    assert jax.eval_shape(lambda x: certify.gradient_bounds(f, certify.ball(x, 0.01), 3), x).lower.shape == x.shape


def test_directions_and_mixed_targets():
    apply, w, x = small_network()
    f, box = (lambda z: apply(w, z)), certify.ball(x, 1e-3)
    both = jax.jit(jax.vmap(lambda t: certify.gradient_bounds(f, box, t)))(jnp.eye(3))
    one = jax.jit(lambda: certify.gradient_bounds(f, box, 2))()
    np.testing.assert_allclose(both.lower[2], one.lower, rtol=1e-5, atol=1e-7)


def test_errors_name_what_is_wrong():
    x = jnp.ones(3)
    for match, f in (("lgamma.*sort", lambda x: jnp.sort(jax.lax.lgamma(x))), ("cumprod", lambda x: jnp.cumprod(x)),
                     ("dot_general", lambda x: x @ x[::-1])):
        with pytest.raises(rewrite.UnsupportedPrimitiveError, match=match):
            certify.gradient_bounds(f, Box(x, x), 0)
    for match, call in ((r"\(3,\) and \(2,\)", lambda: certify.gradient_bounds(jax.nn.relu, Box(x, x[:2]), 0)),
                        ("class 3 is outside 0..2", lambda: certify.gradient_bounds(jax.nn.relu, Box(x, x), 3)),
                        ("not negative, got -1", lambda: certify.ball(x, -1))):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.mark.slow
def test_activations_are_bounded_between_their_ends():
    """Value, slope and their linear relaxations, on random intervals of every activation."""
    lower = jax.random.uniform(jax.random.key(0), (400,), minval=-8, maxval=8)
    upper = lower + 10.0 ** jax.random.uniform(jax.random.key(1), (400,), minval=-5, maxval=1)
    centred = {"centred softplus": lambda z: smooth.centred_softplus(z, random_networks.BETA)}
    for name, act in (random_networks.ACTIVATIONS | centred).items():
        stage = rewrite.stages(act, lower).stages[0]
        function = activations.activation(stage)
        z = forms.of_bounds(lower, upper)
        z = z._replace(radius=jnp.zeros_like(z.radius), slopes=z.radius[None])
        t = jnp.linspace(-1, 1, 101)[:, None]
        inside = jnp.clip(z.centre + t * z.slopes[0], lower, upper)
        slopes = jax.jvp(jax.vmap(act), (inside,), (jnp.ones_like(inside),))[1]
        for form, exact in ((forms.value(function, z, lower, upper), jax.vmap(act)(inside)),
                            (forms.gate(function, z, lower, upper), slopes)):
            at = form.centre + (0 if form.slopes is None else t * form.slopes[0])
            assert (jnp.abs(exact - at) <= form.radius * (1 + 1e-6) + 1e-6).all(), name
        assert function.convex == (name in ("relu", "softplus", "jax softplus", "centred softplus")), name


def test_smooth_surrogates_of_a_network():
    f = lambda x: jax.nn.relu(jnp.array([[1.0, -1.0]]) @ x)
    box = certify.ball(jnp.array([0.2, 0.0]), 0.1)
    sharp = certify.gradient_bounds(smooth.softplus(f, 20.0), box, 0)
    np.testing.assert_allclose(sharp.lower[0], 0.5, atol=1e-5)
    np.testing.assert_allclose(sharp.upper[0], jax.nn.sigmoid(8.0), atol=1e-5)


def test_products_of_forms_hold_what_they_multiply():
    """All values of both forms at 200 settings of the symbols, each with every sign of its remainder."""

    def one(key):
        keys = jax.random.split(key, 7)
        form = lambda a, b, c: forms.Form(jax.random.normal(a, (3,)), jnp.abs(jax.random.normal(b, (3,))),
                                          jax.random.normal(c, (4, 3)))
        a, b = form(*keys[:3]), form(*keys[3:6])
        e = jax.random.uniform(keys[6], (200, 4), minval=-1)
        e = jnp.where(jnp.arange(200)[:, None] < 100, jnp.sign(e), e)
        values = lambda f, sign: f.centre + e @ f.slopes + sign * f.radius
        product, total = forms.multiply(a, b), forms.add(a, b)
        at = lambda f: f.centre + e @ f.slopes
        fits = [(jnp.abs(values(a, s) * values(b, t) - at(product)) <= product.radius).all() &
                (jnp.abs(values(a, s) + values(b, t) - at(total)) <= total.radius).all()
                for s, t in itertools.product((-1, 1), (-1, 1))]
        return jnp.stack(fits).all() & ~leaves(values(a, 1) * values(b, 1), Box(*forms.bounds(product)))

    assert jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 300)).all()


def test_rounding_is_covered():
    """Long sums that cancel: the exact derivative and the one of another order of summation lie inside."""
    r = np.random.default_rng(0)
    half, x = r.normal(size=(3000, 4)).astype(np.float32), jnp.ones(4, jnp.float32)
    w = np.concatenate([half, -half + np.float32(1e-7) * r.normal(size=half.shape).astype(np.float32)])
    v = np.ones(6000, np.float32)
    f = lambda w, v: lambda x: (v @ (w @ x))[None]
    bounds = jax.jit(lambda: certify.gradient_bounds(f(w, v), Box(x, x), 0))()
    order = r.permutation(6000)
    shuffled = jax.jit(lambda: jax.grad(lambda x: f(w[order], v[order])(x)[0])(x))()
    with jax.enable_x64(True):
        exact = jax.jit(lambda: jax.grad(lambda x: f(np.float64(w), np.float64(v))(x)[0])(np.ones(4)))()
    lower, upper, shuffled, exact = (np.asarray(v, np.float64) for v in (*bounds, shuffled, exact))
    for gradient in (exact, shuffled):
        assert ((lower <= gradient) & (gradient <= upper)).all()
    assert np.abs(shuffled - exact).max() > 100 * np.finfo(np.float32).eps * np.abs(exact).max()
