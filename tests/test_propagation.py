"""Propagated models and the rules on them: exact identities in float64, on networks of every kind."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from checks import compiled
from xmanip_jax import explain, models, rewrite, smooth
from xmanip_jax.pooling import avg_pool, max_pool

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.promotes("ranks", "types")]
rng = np.random.default_rng(0)
x = rng.normal(size=(8, 8, 3))
W = {"first": rng.normal(size=(3, 3, 3, 4)) / 5, "again": rng.normal(size=(3, 3, 4, 4)) / 6,
     "hidden": rng.normal(size=(16, 6)) / 4, "out": rng.normal(size=(6, 5)) / 2}
relu = jax.nn.relu
exact = {"conv": explain.epsilon(0.0), "dense": explain.epsilon(0.0), "sums": explain.epsilon(0.0)}
LRP0 = compiled(explain.lrp(**exact))


def conv(x, w, stride=1):
    return lax.conv_general_dilated(x[None], w, (stride, stride), "SAME",
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def bias_free(x, act=relu):
    """Max-pooling, one convolution used three times, a residual addition, average pooling, dense layers."""
    h = max_pool(act(conv(x, W["first"])), 2, 2)
    h = act(h + conv(act(conv(h, W["again"])), W["again"]))
    h = avg_pool(act(conv(h, W["again"])), 2, 2)
    return act(h.ravel() @ W["hidden"]) @ W["out"]


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.sampled(6)
@pytest.mark.parametrize("rule", [
    explain.epsilon(0.0), explain.alpha_beta(2, 1, stabilizer=0), explain.gamma(0.3, stabilizer=0),
    explain.z_plus(stabilizer=0)], ids=["epsilon", "alpha_beta", "gamma", "z_plus"])
@pytest.mark.parametrize("pool", ["winner", "proportional"])
def test_relevance_is_conserved_without_biases(rule, pool):
    e = explain.lrp(conv=rule, dense=explain.epsilon(0.0), sums=explain.epsilon(0.0), max_pool=pool)
    map, logits = compiled(explain.with_logits(e))(bias_free, x, 2)
    np.testing.assert_allclose(map.sum(), logits[2], rtol=1e-6)
    difference = jnp.array([0.0, 1.0, -1.0, 0.0, 0.0])
    np.testing.assert_allclose(compiled(e)(bias_free, x, difference).sum(), logits[1] - logits[2], rtol=1e-6)


@pytest.mark.parametrize("rule", [explain.z_box(-4.0, 4.0, stabilizer=0), explain.w_square(stabilizer=0),
                                  explain.flat(stabilizer=0)], ids=["z_box", "w_square", "flat"])
def test_first_layer_rules_conserve(rule):
    map, logits = compiled(explain.with_logits(explain.lrp(**exact, first=rule)))(bias_free, x, 2)
    np.testing.assert_allclose(map.sum(), logits[2], rtol=1e-6)
    assert not np.allclose(map, LRP0(bias_free, x, 2))


def test_lrp_0_is_gradient_x_input_without_biases():
    gradient_x_input = compiled(explain.gradient_x_input())
    close(LRP0(bias_free, x, 2), gradient_x_input(bias_free, x, 2))
    smoothed = smooth.softplus(bias_free, 3.0)  # biases of softplus(0) leak: no identity
    assert not np.allclose(LRP0(smoothed, x, 2), gradient_x_input(smoothed, x, 2))


def test_a_zero_denominator_passes_nothing_on_and_stays_differentiable():
    w = np.array([[1.0, 0.0], [0.0, 0.0]])
    f = lambda x: relu(x @ w) @ jnp.eye(2)
    both = explain.alpha_beta(stabilizer=0.0)
    for rule in (explain.epsilon(0.0), explain.z_plus(stabilizer=0.0), both):
        e = compiled(explain.lrp(dense=rule))
        at = jnp.array([2.0, 0.0])
        if rule is not both:  # alpha-beta conserves only where both signs are present
            close(e(f, at, jnp.array([1.0, 1.0])), np.array([2.0, 0.0]))
        assert np.isfinite(jax.jit(jax.jacrev(lambda x, e=e: e(f, x, jnp.array([1.0, 1.0]))))(at)).all()


@pytest.mark.parametrize("passed", ["guided", "deconvolved"])
def test_guided_backprop_and_deconvnet_equal_activations_written_by_hand(passed):
    @jax.custom_vjp
    def act(z):
        return relu(z)

    keep = (lambda z, g: jnp.maximum(g, 0) * (z > 0)) if passed == "guided" else (lambda z, g: jnp.maximum(g, 0))
    act.defvjp(lambda z: (act(z), z), lambda z, g: (keep(z, g),))
    wanted = jax.jit(jax.grad(lambda x: bias_free(x, act)[2]))(x)
    e = explain.guided_backprop() if passed == "guided" else explain.deconvnet()
    close(e(bias_free, x, 2), wanted)
    close(jax.jit(e, static_argnums=0)(jax.jit(jax.checkpoint(bias_free)), x, 2), wanted)


def test_guided_backprop_of_a_softplus_network_gates_with_its_sigmoid():
    v, w = rng.normal(size=4), rng.normal(size=(4, 1))
    f = smooth.softplus(lambda v: relu(v) @ w, 3.0)
    close(explain.guided_backprop()(f, v, 0), np.maximum(w[:, 0], 0) / (1 + np.exp(-3 * v)))
    with pytest.raises(rewrite.NoActivationError, match="gradient"):
        explain.guided_backprop()(lambda v: 2 * v @ w, v, 0)


def normalised(scale):
    """A convolution, a bias, BatchNorm in inference, a relu."""
    mean, var, shift = np.arange(4) / 9, np.arange(1, 5) / 3, np.arange(4) / 7 - 0.2
    weights, offset = W["first"] * scale / np.sqrt(var), (0.3 - mean) * scale / np.sqrt(var) + shift
    head = lambda h: relu(h).mean((0, 1)) @ W["out"][:4]
    apart = lambda x: head((jax.jit(conv)(x, W["first"]) + 0.3 - mean) * (scale * lax.rsqrt(jnp.asarray(var))) + shift)
    return apart, lambda x: head(conv(x, weights) + offset)


@pytest.mark.parametrize("rule", [explain.epsilon(0.1), explain.z_plus(bias=True), explain.alpha_beta(),
                                  explain.gamma(), explain.z_box(-4.0, 4.0)], ids=list("ezagb"))
def test_batch_norm_merges_into_the_convolution_before_it(rule):
    apart, together = normalised(np.array([1.0, -2.0, 0.5, -0.1]))
    e = compiled(explain.lrp(conv=rule))
    close(e(apart, x, 2), e(together, x, 2))
    (layer,) = (v for k, v in rewrite.linear_layers(apart)(x).items() if k.startswith("conv"))
    close(layer.apply(layer.x, layer.w) + layer.b, layer.z)


def test_a_scale_before_or_a_reader_between_is_not_merged():
    scaled = lambda x: conv(2.0 * x + 1.0, W["first"])
    between = lambda x: (lambda z: relu(z + 1.0) + relu(z))(conv(x, W["first"]))
    for f in (scaled, between):
        (layer,) = rewrite.linear_layers(f)(x).values()
        assert not np.any(layer.b)
    spatial = lambda x: conv(x, W["first"]) * np.arange(64.0).reshape(8, 8, 1)
    (layer,) = rewrite.linear_layers(spatial)(x).values()
    close(layer.w, W["first"])


def test_the_box_of_z_box_goes_through_what_precedes_the_first_layer():
    inside = lambda x: relu(conv((x - 0.4) / -0.5, W["first"])).mean((0, 1))
    outside = lambda x: relu(conv(x, W["first"])).mean((0, 1))
    e = lambda low, high: compiled(explain.lrp(first=explain.z_box(low, high)))
    close(e(-1.0, 3.0)(inside, x, 1), e(-2.6 / 0.5, 1.4 / 0.5)(outside, (x - 0.4) / -0.5, 1))
    # With explicit padding the box of the padding is [0, 0].
    valid = lambda x: lax.conv_general_dilated(x[None], W["first"], (1, 1), "VALID",
                                               dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
    padded = lambda x: relu(valid(jnp.pad(x, ((1, 1), (1, 1), (0, 0))))).mean((0, 1))
    close(e(-4.0, 4.0)(padded, x, 1), e(-4.0, 4.0)(outside, x, 1))
    mean = jnp.full(3, 0.4)  # a value of the remat's own trace
    remat = jax.checkpoint(lambda x: relu(conv((x - mean) / -0.5, W["first"])).mean((0, 1)))
    close(e(-1.0, 3.0)(remat, x, 1), e(-1.0, 3.0)(inside, x, 1))
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match="first layer"):
        explain.lrp(conv=explain.z_box(-1.0, 1.0))(bias_free, x, 1)


def test_the_box_of_z_box_holds_what_comes_to_the_first_layer():
    """Each coordinate falls or rises in the input's, and 1000 points of the box show how far."""
    to_the_layer = {
        "1 - 2 sigmoid": lambda x: 1 - 2 * jax.nn.sigmoid(x), "less its mean": lambda x: x - x.mean(0),
        "less itself reversed": lambda x: x[::-1] - 2 * x, "max": lambda x: -jnp.maximum(x, 0.2)}
    v, points = np.array([0.3, -0.6, 0.5, 0.2]), np.random.default_rng(0).uniform(-1, 1, (1000, 4))
    weights = np.random.default_rng(1).normal(size=(4, 3))
    for name, before in to_the_layer.items():
        boxes = []

        def rule(relevance, layer, boxes=boxes):
            boxes.append(layer.box)
            return relevance @ layer.w.T

        rule.box = -1.0, 1.0
        explain.lrp(first=rule)(lambda x, before=before: before(x) @ weights, v, 1)
        values = jax.jit(jax.vmap(before))(points)
        (low, high), = boxes
        assert np.all(low <= values.min(0) + 1e-6) and np.all(values.max(0) <= high + 1e-6), name
    for name, before in {"square": lambda x: x**2, "mul": lambda x: x * x.sum(),
                         "gt": lambda x: jnp.where(x[0] > 0, x, -x)}.items():
        with pytest.raises(rewrite.UnsupportedPrimitiveError, match=rf"{name} .*monotone.*z_box"):
            explain.lrp(first=explain.z_box(-1.0, 1.0))(lambda x, before=before: before(x) @ weights, v, 1)


def test_layers_under_remat_are_numbered_as_without():
    below, above = (np.random.default_rng(k).normal(size=s) for k, s in enumerate([(4, 5), (5, 3)]))
    f = lambda wrap: lambda x: wrap(lambda h: relu(h) @ above)(x @ below)
    v, layers = np.array([0.3, -0.6, 0.5, 0.2]), rewrite.linear_layers(f(jax.checkpoint))
    patterns = {name: 2 * jnp.ones_like(layer.w) for name, layer in layers(v).items()}
    assert {name: p.shape for name, p in patterns.items()} == {"dense#0": (4, 5), "dense#1": (5, 3)}
    e = explain.pattern_attribution(patterns)
    close(e(f(jax.checkpoint), v, 1), e(f(lambda g: g), v, 1))


@pytest.mark.filterwarnings("ignore::xmanip_jax.rewrite.KinkWarning")  # where the branch changes
def test_control_flow_changes_nothing():
    plain = lambda x: relu(relu(relu(x @ W1) @ W1) @ W1) @ W1
    W1 = rng.normal(size=(6, 6)) / 2
    looped = lambda x: lax.scan(lambda c, _: (relu(c @ W1), None), x, None, length=3)[0] @ W1
    branched = lambda x: lax.cond(x[0] > 99, lambda x: x, jax.checkpoint(lambda x: relu(x @ W1)), x)
    branched = lambda x, b=branched: relu(relu(b(x) @ W1) @ W1) @ W1
    v = rng.normal(size=6)
    for e in (explain.lrp(dense=explain.alpha_beta()), explain.lrp(dense=explain.gamma()), explain.guided_backprop()):
        def map_and_slope(f, e=e):
            loss = lambda v: jnp.sum(e(smooth.softplus(f, 3.0), v, 2) ** 2)
            return jax.jit(lambda v: (e(f, v, 2), jax.grad(loss)(v)))(v)

        wanted = map_and_slope(plain)
        for f in (looped, branched):
            for found, right in zip(map_and_slope(f), wanted, strict=True):
                close(found, right)


def test_everything_unsupported_is_listed_at_once_and_a_user_can_add_rules():
    f = lambda v: jnp.prod(v) * jnp.tanh(jnp.sort(v) @ jnp.ones((4, 2)))[::-1].cumprod() / v[:2]
    v = jnp.arange(1.0, 5.0)
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match=r"cumprod \(test_propag.*, div \(.*reduce_prod"):
        explain.lrp()(f, v, 0)
    gated = lambda v: (v * jnp.tanh(v + v.mean())) @ jnp.ones((4, 2))
    halves = lambda relevance, result, a, b: (relevance / 2, relevance / 2)
    e = explain.lrp(dense=explain.epsilon(0.0), sums=explain.epsilon(0.0), rules={"mul": halves})
    np.testing.assert_allclose(e(gated, v, 1).sum(), gated(v)[1])


def test_spellings_of_relu_and_masks():
    w = rng.normal(size=(6, 6))
    v, mask = rng.normal(size=6), np.arange(6) % 2 == 0
    net = lambda act: lambda v: act(act(v @ w) @ w) @ w
    spelled = lambda z: jnp.where(z > 0, z, 0)
    for e in (explain.lrp(dense=explain.alpha_beta()), explain.guided_backprop()):
        for other in (spelled, lambda z: jnp.clip(z, 0), jax.jit(spelled)):
            close(e(net(other), v, 1), e(net(relu), v, 1))
    masked = lambda v: jnp.where(mask, relu(v @ w), 0) @ w
    weighted = lambda v: relu(v @ w) @ (mask[:, None] * w)
    for e in (explain.guided_backprop(), explain.deconvnet(), explain.lrp(dense=explain.alpha_beta(stabilizer=0))):
        close(e(masked, v, 1), e(weighted, v, 1))


def test_a_rule_of_the_model_s_own_is_lost_with_a_warning():
    @jax.custom_vjp
    def twice(v):
        return v @ W["out"]

    twice.defvjp(lambda v: (twice(v), None), lambda _, g: (g @ W["out"].T,))
    with pytest.warns(rewrite.LostRuleWarning, match="twice"):
        explain.lrp()(twice, np.ones(6), 0)


def test_maxima_take_the_first_winner():
    tied = jnp.array([[1.0, 3.0], [3.0, 2.0]])
    f = lambda x: jnp.stack([x.max(), x.max(0).sum(), x.max(1).sum()])
    e = compiled(explain.lrp(sums=explain.epsilon(0.0)))
    close(e(f, tied, 0), np.array([[0, 3.0], [0, 0]]))
    close(e(f, tied, 1), np.array([[0, 3.0], [3.0, 0]]))
    close(e(lambda x: max_pool(x[..., None], 2, 2).ravel(), tied, 0), np.array([[0, 3.0], [0, 0]]))
    shared = compiled(explain.lrp(max_pool="proportional"))
    close(shared(lambda x: max_pool(x[..., None], 2, 2).ravel(), tied, 0), tied / 3, 1e-5)


@pytest.mark.slow
def test_the_same_network_in_flax_nnx_linen_and_equinox():
    class Nnx(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0), param_dtype=jnp.float64)
            self.dense = nnx.Linear(4, 5, rngs=nnx.Rngs(1), param_dtype=jnp.float64)

        def __call__(self, x):
            return self.dense(nnx.relu(self.conv(x)).mean((0, 1)))

    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(5, name="dense")(nn.relu(nn.Conv(4, (3, 3), name="conv")(x)).mean((0, 1)))

    class Equinox(eqx.Module):
        conv: eqx.nn.Conv2d
        dense: eqx.nn.Linear

        def __call__(self, x):
            h = jax.nn.relu(self.conv(jnp.moveaxis(x, -1, 0)))
            return self.dense(h.mean((1, 2)))

    one = Nnx()
    kernel, bias, weight, shift = (v[...] for v in (one.conv.kernel, one.conv.bias, one.dense.kernel, one.dense.bias))
    params = {"conv": {"kernel": kernel, "bias": bias}, "dense": {"kernel": weight, "bias": shift}}
    key = jax.random.key(0)
    three = Equinox(eqx.nn.Conv2d(3, 4, 3, padding=1, key=key), eqx.nn.Linear(4, 5, key=key))
    three = eqx.tree_at(lambda m: (m.conv.weight, m.conv.bias, m.dense.weight, m.dense.bias), three,
                        (kernel.transpose(3, 2, 0, 1), bias[:, None, None], weight.T, shift))
    networks = [one, lambda x: Linen().apply({"params": params}, x), three]
    for e in (LRP0, explain.lrp_dombrowski2019(-4.0, 4.0), explain.guided_backprop(),
              explain.lrp(conv=explain.gamma(), dense=explain.alpha_beta())):
        maps = [e(f, x, 2) for f in networks]
        close(maps[1], maps[0])
        close(maps[2], maps[0])
    patterns = [explain.fit_patterns(f, [x[None], -x[None]]) for f in networks]
    close(explain.pattern_attribution(patterns[2])(three, x, 2), explain.pattern_attribution(patterns[0])(one, x, 2))


def test_patterns_equal_the_estimator_written_out():
    batch = rng.normal(size=(3, 8, 8, 3)) + 0.3
    f = lambda x: relu(conv(x, W["first"], 2) + 0.1).reshape(-1)[:16] @ W["hidden"]
    found = explain.fit_patterns(f, [batch[:2], batch[2:]])
    padded = np.pad(batch, ((0, 0), (0, 1), (0, 1), (0, 0)))
    patches = np.stack([[[padded[n, i:i + 3, j:j + 3] for j in range(0, 8, 2)] for i in range(0, 8, 2)]
                        for n in range(3)]).reshape(-1, 27)
    wanted = estimate(patches, W["first"].reshape(27, 4), 0.1)
    close(found["conv#0"].reshape(27, 4), wanted)
    hidden = jax.jit(jax.vmap(lambda b: relu(conv(b, W["first"], 2) + 0.1).reshape(-1)[:16]))(batch)
    ever = (hidden @ W["hidden"] > 0).any(0)
    close(found["dense#0"][:, ever], estimate(hidden, W["hidden"][:, ever], 0.0))
    assert not ever.all() and not found["dense#0"][:, ~ever].any()
    for wrong in ({}, {"conv#0": np.ones((3, 3, 3, 5)), "dense#0": np.ones((16, 6))}):
        with pytest.raises(ValueError, match=r"conv#0|dense#0"):
            explain.pattern_attribution(wrong)(f, x, 2)
    with pytest.raises(ValueError, match="no data"):
        explain.fit_patterns(f, [])


def test_patterns_are_those_of_the_weights_of_today():
    module, batch = {"w": W["hidden"]}, [rng.normal(size=(50, 16)) + 0.3]
    f = lambda x: x @ module["w"]
    explain.fit_patterns(f, batch)
    module["w"] = rng.normal(size=(16, 6))
    close(explain.fit_patterns(f, batch)["dense#0"], explain.fit_patterns(lambda x: f(x), batch)["dense#0"])


def estimate(inputs, w, b):
    """Kindermans et al. 2018, eq. (12), neuron by neuron."""
    columns = []
    for column in w.T:
        z = inputs @ column
        on = z + b > 0
        covariance = (inputs[on] * z[on, None]).mean(0) - z.mean() * inputs[on].mean(0)
        columns.append(covariance / (column @ covariance))
    return np.stack(columns, -1)


def test_pattern_attribution_with_patterns_of_ones_is_the_gradient():
    ones = {name: jnp.ones_like(layer.w) for name, layer in rewrite.linear_layers(bias_free)(x).items()}
    gradient, logits = compiled(explain.with_logits(explain.gradient()))(bias_free, x, 2)
    close(compiled(explain.pattern_attribution(ones))(bias_free, x, 2), logits[2] * gradient)


def test_cam_sums_to_the_logit_and_refuses_a_nonlinear_top():
    f = lambda x: relu(conv(relu(conv(x, W["first"])), W["again"])).mean((0, 1)) @ W["out"][:4]
    close(explain.cam("relu#1")(f, x, 2).sum(), 64 * f(x)[2])
    with pytest.raises(ValueError, match="relu"):
        explain.cam("relu#0")(f, x, 2)
    a = relu(conv(relu(conv(x, W["first"])), W["again"]))
    g = np.broadcast_to(W["out"][:4, 2] / 64, a.shape)
    close(explain.grad_cam("relu#1")(f, x, 2), np.maximum((a * W["out"][:4, 2] / 64).sum(-1), 0))
    alpha = g**2 / (2 * g**2 + a.sum((0, 1)) * g**3)
    close(explain.grad_cam_pp("relu#1")(f, x, 2), (a * (alpha * np.maximum(g, 0)).sum((0, 1))).sum(-1))
    with pytest.raises(rewrite.LayerError, match="relu#0"):
        explain.grad_cam("nowhere")(f, x, 2)


def test_relevance_at_a_layer_is_what_the_part_above_it_says():
    above = lambda h: relu(conv(h, W["again"])).mean((0, 1)) @ W["out"][:4]
    f = lambda x: above(relu(conv(x, W["first"])))
    h = relu(conv(x, W["first"]))
    for e, at in ((explain.lrp(layer="relu#0"), explain.lrp()), (explain.lrp_heo2019(layer="relu#0"),
                                                                explain.lrp_heo2019())):
        close(compiled(e)(f, x, 2), compiled(at)(above, h, 2))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["squeezenet1_1", "cifar10_resnet20", "efficientnet_lite0", "vgg16", "small_cnn",
                                  "vgg19", "resnet18", "resnet50",
                                  pytest.param("densenet121", marks=pytest.mark.slow)])
def test_every_network_of_the_library_has_a_rule_for_everything(name):
    spec = models.NETWORKS[name]
    module = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0)))
    flow = abstract_flow(module, spec)
    kinds = {op.kind for op in flow}
    assert "conv" in kinds and "other" not in kinds
    linear = [op for op in flow if op.merge]
    assert sum(op.first for op in linear) == 1 and all(op.nonnegative for op in linear if name == "vgg16" and op.index)


def abstract_flow(module, spec):
    """The operations of a network of zeros."""
    zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), nnx.state(module))
    nnx.update(module, zeros)
    net, params, state = models.functional(module)
    return rewrite.flow(lambda x: net.apply(params, state, x), jnp.zeros(spec.input_shape))


def test_a_rule_costs_what_it_must():
    """In forward passes, a map and an attack step: epsilon 2 and 4, z_plus behind relus 3 and 6, alpha-beta 4 and 8."""
    wide = [rng.normal(size=(3, 3, a, b)).astype(np.float32) / 20 for a, b in ((1, 16), (16, 32), (32, 32))]

    def network(x):
        for w in wide:
            x = relu(conv(x, w))
        return x.mean((0, 1))

    f = smooth.softplus(network, 3.0)
    image = rng.normal(size=(24, 24, 1)).astype(np.float32)
    flops = lambda g: jax.jit(g).lower(image).compile().cost_analysis()["flops"]
    for rule, limit in ((explain.epsilon(), 2), (explain.z_plus(), 3), (explain.alpha_beta(), 4)):
        e = explain.with_logits(explain.lrp(conv=rule))

        def loss(x, e=e):
            map, logits = e(f, x, 2)
            return jnp.sum(explain.heatmap(map) ** 2) + jnp.sum(logits**2)

        assert flops(lambda x, e=e: e(f, x, 2)) < 1.06 * limit * flops(f)
        assert flops(jax.grad(loss)) < 1.06 * 2 * limit * flops(f)


@pytest.mark.parametrize("make, match", [
    (lambda: explain.epsilon(-1.0), "-1"), (lambda: explain.alpha_beta(2.0, 2.0), "alpha - beta"),
    (lambda: explain.gamma(-0.1), "-0.1"), (lambda: explain.z_box(1.0, 0.0), "low <= high"),
    (lambda: explain.lrp(max_pool="mean"), "'mean'"), (lambda: explain.z_plus(stabilizer=-1.0), "stabilizer"),
    (lambda: explain.lrp()(bias_free, x, 7), r"0\.\.4"),
])
def test_bad_input(make, match):
    with pytest.raises(ValueError, match=match):
        make()
