"""One catalogue drives one matrix: every explanation x every transformation, checked against finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checks import check_derivatives
from xmanip_jax import explain, smooth

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.promotes("ranks")]
KEY = jax.random.key(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(4, 4, 2))
params = {"conv": rng.normal(size=(3, 3, 2, 3)) / 4, "bias": rng.normal(size=3) / 4, "out": rng.normal(size=(3, 5))}
patterns = {"conv#0": rng.uniform(size=(3, 3, 2, 3)), "dense#0": rng.uniform(size=(3, 5))}

CATALOGUE = {
    "gradient": explain.gradient(),
    "gradient_x_input": explain.gradient_x_input(),
    "integrated_gradients": explain.integrated_gradients(steps=5),
    "integrated_gradients_chunked": explain.integrated_gradients(steps=5, chunk=2),
    "integrated_gradients_probability": explain.integrated_gradients(steps=4, baseline=0.1, output="probability"),
    "smoothgrad": explain.smoothgrad(explain.gradient(), sigma=0.2, samples=3),
    "smoothgrad_of_ig": explain.smoothgrad(explain.integrated_gradients(steps=2), sigma=0.2, samples=2, chunk=1),
    "uniform_gradient": explain.uniform_gradient(explain.gradient_x_input(), radius=0.2, samples=3),
    "beta_smoothing": explain.beta_smoothing(explain.gradient(), beta=2.0),
    "guided_backprop": explain.guided_backprop(),
    "deconvnet": explain.deconvnet(),
    "lrp_epsilon": explain.lrp(conv=explain.epsilon(), max_pool="proportional"),
    "lrp_gamma_w_square": explain.lrp(conv=explain.gamma(), dense=explain.gamma(), first=explain.w_square()),
    "lrp_alpha_beta_flat": explain.lrp(conv=explain.alpha_beta(), dense=explain.alpha_beta(), first=explain.flat()),
    "lrp_dombrowski2019": explain.lrp_dombrowski2019(-4.0, 4.0),
    "lrp_heo2019_at_a_layer": explain.lrp_heo2019(layer="relu#0"),
    "pattern_attribution": explain.pattern_attribution(patterns),
    "layer_gradient": explain.layer_gradient("relu#0"),
    "cam": explain.cam("relu#0"),
    "grad_cam": explain.grad_cam("relu#0"),
    "grad_cam_pp": explain.grad_cam_pp("relu#0"),
    "smoothgrad_of_guided_backprop": explain.smoothgrad(explain.guided_backprop(), sigma=0.2, samples=2),
}
NOT_LINEAR = {"guided_backprop", "deconvnet", "smoothgrad_of_guided_backprop", "grad_cam", "grad_cam_pp"}
# Compositions whose parts are all here by themselves: with -m slow.
COMPOSED = {"beta_smoothing", "integrated_gradients_probability", "smoothgrad_of_ig", "uniform_gradient",
            "lrp_heo2019_at_a_layer", "smoothgrad_of_guided_backprop"}
every = pytest.mark.parametrize("e", [
    pytest.param(e, id=name, marks=[pytest.mark.slow] * (name in COMPOSED)) for name, e in CATALOGUE.items()])


def relu_model(p, x):
    h = jax.lax.conv_general_dilated(x[None], p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return jax.nn.relu(h[0] + p["bias"]).mean((0, 1)) @ p["out"]


def model(p):
    """The smooth network: its maps are differentiable everywhere."""
    return smooth.softplus(lambda x: relu_model(p, x), 3.0)


def value(e, p, x):
    """A scalar of the heat map, so that derivatives of the whole chain are checked."""
    h = explain.heatmap(e(model(p), x, 2, key=KEY))
    return jnp.sum(h * jnp.arange(h.size, dtype=h.dtype).reshape(h.shape)) / h.size


@pytest.mark.sampled(6)
@every
def test_derivatives_in_the_input_and_the_parameters(e):
    check_derivatives(lambda both: value(e, *both), (params, x))


@pytest.mark.sampled(6)
@every
def test_jit_vmap_remat_and_two_devices_change_nothing(e):
    f = model(params)
    map = lambda x: e(f, x, 2, key=KEY)
    loss = lambda map: lambda x: jnp.sum(map(x) ** 2)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14)
    assert len(jax.devices()) == 2
    apart = jax.sharding.NamedSharding(jax.sharding.Mesh(jax.devices(), "batch"), jax.sharding.PartitionSpec("batch"))
    batch = jax.device_put(np.stack([x, 2 * x]), apart)
    both = lambda x: (map(x), jax.grad(loss(map))(x))
    wanted, g = jax.jit(both)(x)
    maps, gradients = jax.jit(jax.vmap(both), out_shardings=apart)(batch)
    close(maps[0], wanted)
    close(gradients[0], g)
    inside = lambda x: e(jax.checkpoint(f), x, 2, key=KEY)
    outer, inner = jax.jit(lambda x: [jax.grad(loss(g))(x) for g in (jax.checkpoint(map), inside)])(x)
    close(outer, g)
    close(inner, g)
    close(map(x), wanted)  # without jit


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", CATALOGUE)
def test_forms_agree(name):
    """One trace for map and logits; a direction is a weighted sum of classes where relevance is linear; vmap."""
    e, f = CATALOGUE[name], model(params)
    direction = jnp.array([0.0, 1.0, -1.0, 0.0, 0.0])

    @jax.jit
    def forms(x):
        one = lambda target: e(f, x, target, key=KEY)
        return explain.with_logits(e)(f, x, 2, key=KEY), f(x), one(2), one(direction), jax.vmap(one)(jnp.arange(5))

    (map, logits), wanted, alone, along, classes = forms(x)
    np.testing.assert_allclose(logits, wanted, rtol=1e-12)
    np.testing.assert_allclose(map, alone, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(classes[2], alone, rtol=1e-10, atol=1e-15)
    if name not in NOT_LINEAR:
        np.testing.assert_allclose(along, classes[1] - classes[2], atol=1e-14)


def test_known_answers_on_a_linear_model():
    w = rng.normal(size=(32, 5))
    f = lambda x: x.ravel() @ w
    g = w[:, 2].reshape(x.shape)
    np.testing.assert_allclose(explain.gradient()(f, x, 2), g)
    np.testing.assert_allclose(explain.gradient_x_input()(f, x, 2), x * g)
    np.testing.assert_allclose(explain.integrated_gradients(baseline=0.3)(f, x, 2), (x - 0.3) * g)
    np.testing.assert_allclose(CATALOGUE["smoothgrad"](f, x, 2, key=KEY), g)


def test_gradient_x_input_sums_to_the_logit_without_biases():
    p = {**params, "bias": np.zeros(3)}
    map, logits = explain.with_logits(explain.gradient_x_input())(lambda x: relu_model(p, x), x, 2)
    np.testing.assert_allclose(map.sum(), logits[2], rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["logit", "probability"])
def test_completeness_gap_of_integrated_gradients_halves(output):
    f = model(params)
    score = lambda x: (f(x) if output == "logit" else jax.nn.softmax(f(x)))[2]
    total = lambda n: explain.integrated_gradients(steps=n, output=output, baseline=0.2)(f, x, 2).sum()
    gap = [total(n) - (score(x) - score(0.2 * np.ones_like(x))) for n in (50, 100, 200)]
    np.testing.assert_allclose([gap[0] / gap[1], gap[1] / gap[2]], 2, rtol=0.02)


def test_beta_smoothing_explains_the_softplus_network_and_keeps_the_logits():
    relu = lambda x: relu_model(params, x)
    pool = lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")
    pooled = lambda x: jax.nn.relu(pool(x)).sum((0, 1))
    gradient = explain.gradient()
    for f, options, soft in (
            (relu, {"beta": 3.0}, smooth.softplus(relu, 3.0)),
            (pooled, {"beta": 3.0, "max_pool": True}, smooth.softplus(pooled, 3.0, max_pool=True)),
            (relu, {"kappa": 2.0}, smooth.softplus(relu, 2.0 / smooth.activation_scales(relu, x)))):
        map, logits = explain.with_logits(explain.beta_smoothing(gradient, **options))(f, x, 1)
        np.testing.assert_allclose(map, gradient(soft, x, 1), rtol=1e-12)
        np.testing.assert_allclose(logits, f(x), rtol=1e-12)
        assert np.abs(map - gradient(f, x, 1)).max() > 1e-3
    linear = lambda x: x.ravel()[:5]
    np.testing.assert_array_equal(explain.beta_smoothing(gradient, kappa=1.0)(linear, x, 1), gradient(linear, x, 1))


def test_smoothgrad_converges_to_the_gradient_of_the_convolution():
    """For f = x^3 and Gaussian noise, E f'(x + e) = 3 (x^2 + sigma^2)."""
    e = explain.smoothgrad(explain.gradient(), sigma=0.5, samples=20_000)
    got = e(lambda x: x**3, jnp.array([2.0]), 0, key=KEY)
    np.testing.assert_allclose(got, 3 * (4 + 0.25), rtol=0.01)
    e = explain.uniform_gradient(explain.gradient(), radius=0.5, samples=20_000)
    np.testing.assert_allclose(e(lambda x: x**3, jnp.array([2.0]), 0, key=KEY), 3 * (4 + 0.25 / 3), rtol=0.01)


def test_heatmap_is_a_distribution_and_safe_at_zero():
    h = explain.heatmap(x)
    assert h.shape == (4, 4) and h.min() >= 0
    np.testing.assert_allclose(h.sum(), 1)
    np.testing.assert_allclose(explain.heatmap(x[..., 0]), np.abs(x[..., 0]) / np.abs(x[..., 0]).sum())
    zero = jnp.zeros((3, 3, 2))
    assert not explain.heatmap(zero).any() and np.isfinite(jax.grad(lambda m: explain.heatmap(m)[0, 0])(zero)).all()


def test_one_trace_saves_the_fifth_forward_pass():
    f, e = model(params), explain.gradient()
    image = rng.normal(size=(32, 32, 2))
    flops = lambda g: jax.jit(jax.grad(g)).lower(image).compile().cost_analysis()["flops"]

    def joint(x):
        map, logits = explain.with_logits(e)(f, x, 2)
        return jnp.sum(map**2) + jnp.sum(logits**2)

    assert flops(joint) < 0.9 * flops(lambda x: jnp.sum(e(f, x, 2) ** 2) + jnp.sum(f(x) ** 2))


@pytest.mark.parametrize("make, match", [
    (lambda: explain.integrated_gradients(steps=0), "steps"),
    (lambda: explain.integrated_gradients(chunk=0), "chunk"),
    (lambda: explain.integrated_gradients(output="loss"), "'loss'"),
    (lambda: explain.smoothgrad(explain.gradient(), sigma=0.0), "positive"),
    (lambda: explain.beta_smoothing(explain.gradient()), "kappa or beta, got neither"),
    (lambda: explain.beta_smoothing(explain.gradient(), beta=1.0, kappa=1.0), "kappa or beta, got {"),
    (lambda: explain.beta_smoothing(explain.gradient(), beta=0.0), "beta is positive, got 0"),
    (lambda: explain.uniform_gradient(explain.gradient(), radius=1.0, samples=0), "sample"),
    (lambda: CATALOGUE["smoothgrad"](model(params), x, 2), "key"),
    (lambda: explain.gradient()(model(params), x, 5), r"class 5 .* 0\.\.4"),
    (lambda: explain.gradient()(model(params), x, -1), "class -1"),
    (lambda: explain.gradient()(model(params), x, jnp.ones(4)), r"\(5,\)"),
    (lambda: explain.gradient()(model(params), x, jnp.array([1, 2])), "vmap"),
    (lambda: explain.heatmap(jnp.ones(())), "at least one axis"),
])
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        make()
