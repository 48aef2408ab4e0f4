"""What a model computes decides, not how it is written: gates, normalisations, layers and activations in many forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from checks import compiled
from xmanip_jax import explain, rewrite, smooth

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.promotes("ranks", "types")]
rng = np.random.default_rng(0)
x = rng.normal(size=6)
W, V, A, C = (rng.normal(size=s) / 2 for s in ((6, 8), (8, 3), (6, 8), (8, 8)))
b = rng.normal(size=8)
tokens, T = rng.normal(size=(5, 6)), rng.normal(size=(5, 5))
exact = {"conv": explain.epsilon(0.0), "dense": explain.epsilon(0.0), "sums": explain.epsilon(0.0)}
LRP0 = explain.lrp(**exact)
RULES = [explain.lrp(), LRP0, explain.lrp(dense=explain.alpha_beta()), explain.lrp(dense=explain.gamma()),
         explain.lrp(first=explain.z_box(-3.0, 3.0)), explain.guided_backprop(), explain.deconvnet()]
stop = lax.stop_gradient
relu, sigmoid = jax.nn.relu, jax.nn.sigmoid


def close(a, b, tolerance=1e-9):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


# --- gates and normalisations: LRP-0 without biases is gradient x input of the model with constant gates and scales


def lstm(x, keep=lambda v: v):
    def step(carry, row):
        h, c = carry
        i, f, o = (keep(sigmoid(row @ W * s + h @ C)) for s in (1, 2, 3))
        c = f * c + i * jnp.tanh(row @ A + h @ C)
        return (o * jnp.tanh(c), c), None

    return lax.scan(step, (jnp.zeros(8), jnp.zeros(8)), x.reshape(1, 6))[0][0] @ V


def layer_norm(x, keep=lambda v: v):
    h = x @ W
    h = (h - h.mean()) * keep(lax.rsqrt(h.var() + 1e-3))
    return relu(h) @ V


GATED = {
    "glu": lambda x, keep=lambda v: v: (x @ W * keep(sigmoid(x @ A))) @ V,
    "jax.nn.glu": lambda x, keep=None: (jax.nn.glu(jnp.concatenate([x @ W, x @ A])) if keep is None else (
        x @ W) * keep(sigmoid(x @ A))) @ V,
    "gate on the left": lambda x, keep=lambda v: v: (keep(jax.nn.hard_sigmoid(x @ A)) * relu(x @ W)) @ V,
    "highway": lambda x, keep=lambda v: v: (keep(sigmoid(x @ A)) * relu(x @ W) + keep(1 - sigmoid(x @ A)) * (
        x @ C[:6])) @ V,
    "squeeze": lambda x, keep=lambda v: v: (relu(x @ W).reshape(2, 4) * keep(
        jax.nn.hard_sigmoid((x @ A)[:4]))[None]).reshape(-1) @ V,
    "one gate for all": lambda x, keep=lambda v: v: (relu(x @ W) * keep(sigmoid((x @ A).sum()))) @ V,
    "mixture": lambda x, keep=lambda v: v: (keep(jax.nn.softmax((x @ A)[:2]))[:, None] * jnp.stack(
        [x @ W, relu(x @ A)])).sum(0) @ V,
    "layer norm": layer_norm,
    "rms norm": lambda x, keep=lambda v: v: (lambda h: relu(h / keep(jnp.sqrt((h**2).mean() + 1e-6))))(x @ W) @ V,
    "flax's variance": lambda x, keep=lambda v: v: (lambda h: (h - h.mean()) * keep(lax.rsqrt(jnp.maximum(
        0.0, (h * h).mean() - h.mean() ** 2) + 1e-5)))(x @ W) @ V,
    "group norm": lambda x, keep=lambda v: v: (lambda h: ((h - h.mean(1, keepdims=True)) * keep(lax.rsqrt(
        h.var(1, keepdims=True) + 1e-3))).reshape(-1))((x @ W).reshape(2, 4)) @ V,
    "unit input": lambda x, keep=lambda v: v: relu((x / keep(jnp.linalg.norm(x))) @ W) @ V,
    "unit head": lambda x, keep=lambda v: v: (lambda h: h / keep(jnp.maximum(jnp.linalg.norm(h), 1e-12)))(
        relu(x @ W)) @ V,
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", GATED)
def test_gates_and_scales_pass_all_relevance_to_the_signal(name):
    f = GATED[name]
    map, logits = compiled(explain.with_logits(LRP0))(f, x, 1)
    wanted, right = compiled(explain.with_logits(explain.gradient_x_input()))(lambda x: f(x, stop), x, 1)
    close(logits, right)
    close(map, wanted)
    close(jax.jit(jax.vmap(lambda x: LRP0(f, x, 1)))(x[None])[0], map)
    np.testing.assert_allclose(map.sum(), right[1], rtol=1e-9)


def test_an_lstm_s_gates_pass_all_relevance_to_the_signal():
    # tanh passes relevance unchanged, so that the sum is conserved and the map is not a gradient times the input.
    map, logits = compiled(explain.with_logits(LRP0))(lstm, x, 1)
    np.testing.assert_allclose(map.sum(), logits[1], rtol=1e-9)
    close(map, compiled(LRP0)(rewrite.unroll(lstm), x, 1))


def test_two_signals_share_in_halves():
    f = lambda x: ((x @ W) * (x @ A)) @ V
    np.testing.assert_allclose(LRP0(f, x, 1).sum(), f(x)[1], rtol=1e-9)
    half = lambda x, u, v: ((x @ W) * stop(x @ A) + stop(x @ W) * (x @ A)) @ V / 2
    close(LRP0(f, x, 1), explain.gradient_x_input()(lambda x: half(x, None, None), x, 1))


def test_attention_weights_are_a_gate():
    attention = lambda t: (jax.nn.softmax(t @ t.T) @ t).mean(0)
    map, stopped = LRP0(attention, tokens, 0), lambda t: (stop(jax.nn.softmax(t @ t.T)) @ t).mean(0)
    np.testing.assert_allclose(map, explain.gradient_x_input()(stopped, tokens, 0), rtol=1e-6)


# --- one layer in many forms

BASE = lambda t: relu(t @ W + b).sum(0) @ V
LAYERS = {
    "vmapped": lambda t: relu(jax.vmap(lambda row: W.T @ row + b)(t)).sum(0) @ V,
    "vmapped, bias after": lambda t: relu(jax.vmap(lambda row: W.T @ row)(t) + b).sum(0) @ V,
    "transposed inside": lambda t: relu((W.T @ t.T).T + b).sum(0) @ V,
    "bias on columns": lambda t: relu(W.T @ t.T + b[:, None]).sum(1) @ V,
    "reshaped": lambda t: relu((t @ W).reshape(5, 2, 4) + b.reshape(2, 4)).reshape(5, 8).sum(0) @ V,
    "einsum": lambda t: relu(jnp.einsum("ti,io->ot", t, W).T + b).sum(0) @ V,
    "named": lambda t: relu(checkpoint_name(t @ W, "h") + b).sum(0) @ V,
    "cast": lambda t: relu((t @ W).astype(jnp.float64) + b).sum(0) @ V,
    "jitted": lambda t: jax.jit(lambda h: relu(jax.jit(lambda h: h + b)(h)))(jax.jit(jnp.dot)(t, W)).sum(0) @ V,
    "batch axis": lambda t: relu(t[None] @ W + b)[0].sum(0) @ V,
    "scaled": lambda t: relu((t @ (W / 2)) * 2 + b).sum(0) @ V,
    "batch norm": lambda t: relu((t @ W - (-b - 1)) / jnp.full(8, 2.0) * 2 - 1).sum(0) @ V,
    "subtracted": lambda t: relu(t @ W - (-b)).sum(0) @ V,
    "remat": jax.checkpoint(lambda t: relu(t @ W + b).sum(0) @ V),
    "where": lambda t: (lambda h: jnp.where(h > 0, h, 0))(t @ W + b).sum(0) @ V,
    "clip": lambda t: jnp.clip(t @ W + b, 0).sum(0) @ V,
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("e", RULES, ids=["default", "0", "ab", "gamma", "box", "guided", "deconvnet"])
def test_a_layer_is_the_same_however_it_is_written(name, e):
    close(compiled(e)(LAYERS[name], tokens, 1), of_base(e))


@functools.cache
def of_base(e):
    return compiled(e)(BASE, tokens, 1)


def test_patterns_do_not_depend_on_the_form():
    data = rng.normal(size=(20, 5, 6))
    attribution = lambda f: compiled(explain.pattern_attribution(explain.fit_patterns(f, [data])))(f, tokens, 1)
    wanted = attribution(BASE)
    for name in ("vmapped", "transposed inside", "batch norm", "named"):
        close(attribution(LAYERS[name]), wanted)


# --- loops

SCANNED = lambda t: lax.map(lambda row: relu(row @ W + b), t).sum(0) @ V


def test_rules_of_a_first_layer_work_in_loops_or_are_refused():
    for rule in (explain.w_square(), explain.flat(), explain.gamma(0.5)):
        e = compiled(explain.lrp(first=rule))
        close(e(SCANNED, tokens, 1), e(BASE, tokens, 1))
    for e in map(compiled, (explain.lrp_dombrowski2019(-3.0, 3.0), explain.lrp(first=explain.z_box(-3.0, 3.0)))):
        with pytest.raises(rewrite.UnsupportedPrimitiveError, match=r"rewrite\.unroll"):
            e(SCANNED, tokens, 1)
        close(e(rewrite.unroll(SCANNED), tokens, 1), e(BASE, tokens, 1))
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match=r"rewrite\.unroll"):
        explain.fit_patterns(SCANNED, [tokens[None]])
    assert len(explain.fit_patterns(rewrite.unroll(SCANNED), [tokens[None]])) == 6


def test_a_layer_that_is_the_first_in_one_turn_only_is_refused():
    deep = lambda x: lax.scan(lambda h, w: (relu(h @ w), None), x, jnp.stack([C, C.T]))[0] @ V
    e = compiled(explain.lrp(first=explain.flat()))
    with pytest.raises(rewrite.UnsupportedPrimitiveError, match=r"dot_general.*some turns.*rewrite\.unroll"):
        e(deep, b, 1)
    close(e(rewrite.unroll(deep), b, 1), e(lambda x: relu(relu(x @ C) @ C.T) @ V, b, 1))
    summed = lambda x: lax.scan(lambda s, v: (s + v, None), jnp.zeros(6), jnp.stack([x, x]))[0] @ W  # no layer before
    close(e(summed, x, 1), e(lambda x: (x + x) @ W, x, 1), 1e-4)  # the loop's sum has a stabilizer
    close(e(lambda x: (2 * x) @ W, x, 1), e(lambda x: (x + x) @ W, x, 1))


def test_a_mean_is_stabilised_as_a_mean_however_it_is_written():
    e, base = compiled(explain.lrp(sums=explain.epsilon(0.1))), lambda t: relu(t.mean(0) @ W) @ V
    for f in (lambda t: relu(t.sum(0) / 5 @ W) @ V, lambda t: relu((t / 5).sum(0) @ W) @ V,
              lambda t: relu(t.T.sum(1, keepdims=True)[:, 0] * 0.2 @ W) @ V):
        close(e(f, tokens, 1), e(base, tokens, 1))


def test_a_maximum_of_two_multiples_is_a_leaky_relu():
    for act, scale in ((lambda z: jnp.maximum(z, 0.1 * z), 0.1), (lambda z: 2 * jnp.maximum(z / 2, z / 8), 0.25)):
        f, g = lambda x, act=act: act(x @ W) @ V, lambda x, a=scale: jax.nn.leaky_relu(x @ W, a) @ V
        assert rewrite.inspect(f, x).activations == {"leaky_relu": 1}
        for e in map(compiled, (explain.guided_backprop(), explain.deconvnet())):
            close(e(lambda x, f=f: f(x) / 4, x, 1), e(lambda x, g=g: g(x) / 4, x, 1))
        close(jax.jit(smooth.softplus(f, 3.0))(x), jax.jit(smooth.softplus(g, 3.0))(x))
    assert rewrite.inspect(lambda x: jnp.maximum(x, -x / 2), x).activations == {"piecewise": 1}


def test_an_unknown_activation_takes_along_what_turns_its_sign_and_no_more():
    act = lambda z: 1 - jnp.exp(-z)
    f, quarter = lambda x: act(x @ W) @ V, lambda x: act(x @ W) / 4 @ V
    assert [op.name for op in rewrite.flow(f, x)] == ["dot_general", "exp, sub", "dot_general"]
    guided = by_hand(act, lambda g, slope: jnp.maximum(g, 0) * slope)
    close(explain.guided_backprop()(f, x, 1), jax.jit(jax.grad(lambda x: guided(x @ W) @ V[:, 1]))(x))
    for e in map(compiled, (explain.guided_backprop(), explain.deconvnet())):
        close(e(quarter, x, 1), e(f, x, 1) / 4)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("loop", [
    lambda x: lax.fori_loop(0, 3, lambda i, c: jnp.sin(c) + i, x),
    lambda x: lax.scan(lambda c, v: (c * v, c + v), x, jnp.arange(3.0), reverse=True)[1].sum(0),
    lambda x: jax.jit(lambda x: lax.map(lambda v: lax.map(jnp.tanh, v), x.reshape(2, 3)))(x).ravel(),
    lambda x: lax.scan(lambda c, _: (c, c), x, None, length=0)[1].sum(0),
    jax.checkpoint(lambda x: lax.fori_loop(0, 2, lambda i, c: jnp.sin(c) + i, x)),
    lambda x: lax.cond(x[0] > 0, lambda x: lax.map(jnp.tanh, x), lambda x: 2 * lax.map(jnp.sin, x), x)])
def test_unrolled_loops_compute_the_same(loop):
    value_and_slopes = lambda f: jax.jit(lambda x: (f(x), jax.jacrev(f)(x)))(x)
    for found, wanted in zip(value_and_slopes(rewrite.unroll(loop)), value_and_slopes(loop), strict=True):
        close(found, np.asarray(wanted) + 0.0)
    assert "scan" not in str(jax.make_jaxpr(rewrite.unroll(loop))(x))


# --- rules of the user's own


def test_user_rules_are_found_where_they_stand():
    halves = lambda relevance, result, a, b: (relevance / 2, relevance / 2)
    gate = lambda x: (x @ W * sigmoid((x @ A).sum())) @ V * 3.0 + 1.0
    e = explain.lrp(**exact, rules={"mul": halves})
    no_shift = lambda x: gate(x) - 1.0
    np.testing.assert_allclose(e(no_shift, x, 1).sum(), no_shift(x)[1], rtol=1e-9)  # not halved by 3.0

    @jax.jit
    def block(x, y):
        return jnp.cumprod(x) * y.sum()

    f = lambda x: lax.map(lambda s: block(s * x @ W, x), jnp.ones(2)).sum(0) @ V
    seen = []

    def rule(relevance, result, a, b):
        seen.append((relevance.shape, a.shape, b.shape))
        return relevance, jnp.zeros_like(b)

    explain.lrp(rules={"block": rule})(f, x, 1)
    assert seen == [((8,), (8,), (6,))]


@pytest.mark.parametrize("names, f", [
    (["mull"], lambda x: (x @ W) @ V), (["mul"], lambda x: (3 * x @ W) @ V), (["dot_general"], lambda x: x @ W @ V),
    (["relu", "blok"], lambda x: relu(x @ W) @ V)])
def test_a_rule_that_no_operation_asks_for_is_an_error(names, f):
    with pytest.raises(ValueError, match=f"{sorted(names)[0]}.*does not contain"):
        explain.lrp(rules={name: lambda r, z, *v: r for name in names})(f, x, 1)


# --- activations


def by_hand(act, passed):
    """The activation with the rule in its derivative."""
    @jax.custom_vjp
    def f(z):
        return act(z)

    slope = lambda z: jax.vjp(act, z)[1](jnp.ones_like(z))[0]
    f.defvjp(lambda z: (act(z), z), lambda z, g: (passed(g, slope(z)),))
    return f


nn = jax.nn
ACTS = {
    **{name: getattr(nn, name) for name in (
        "relu", "relu6", "sigmoid", "softplus", "silu", "log_sigmoid", "leaky_relu", "hard_sigmoid", "hard_silu",
        "hard_tanh", "elu", "celu", "selu", "gelu", "squareplus", "mish", "soft_sign", "sparse_plus", "sparse_sigmoid",
        "tanh")},
    "exact gelu": lambda z: nn.gelu(z, approximate=False), "swish by hand": lambda z: z * nn.sigmoid(z),
    "bare maximum": lambda z: jnp.maximum(z, 0), "a jitted name that lies": jax.jit(lambda z: jnp.tanh(2 * z)),
    "quick gelu": lambda z: z * nn.sigmoid(1.702 * z), "bump": lambda z: jnp.exp(-z * z), "sine": jnp.sin,
    "softplus by hand": lambda z: jnp.log1p(jnp.exp(z)), "shifted": lambda z: nn.softplus(z) - jnp.log(2.0),
    "gaussian": lambda z: jnp.exp(-z**2), "smooth modulus": lambda z: jnp.sqrt(z**2 + 1),
    "squared relu": lambda z: jnp.square(nn.relu(z)), "prelu": lambda z: jnp.where(z > 0, z, 0.3 * z),
    "snake": lambda z: z + jnp.sin(z) ** 2, "capped": lambda z: jnp.minimum(nn.relu(z), 0.5),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ACTS)
def test_guided_backprop_and_deconvnet_know_every_activation(name):
    act = ACTS[name]
    net = lambda act: lambda x: act(act(x @ W + b) @ C) @ V
    guided = by_hand(act, lambda g, slope: jnp.maximum(g, 0) * slope)
    deconv = by_hand(act, lambda g, slope: jnp.maximum(g, 0))
    close(compiled(explain.guided_backprop())(net(act), x, 1), jax.jit(jax.grad(lambda x: net(guided)(x)[1]))(x))
    if name != "a jitted name that lies":  # the 2 inside of it is a layer's, and stays
        close(compiled(explain.deconvnet())(net(act), x, 1), jax.jit(jax.grad(lambda x: net(deconv)(x)[1]))(x))
    passed = compiled(LRP0)(net(act), x, 1)
    assert np.isfinite(passed).all()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ACTS)
def test_surrogates_are_smooth_and_tend_to_the_function(name):
    act = ACTS[name]
    z = jnp.linspace(-4.0, 4.0, 40)  # not 0, where the second derivative of some jumps
    n = smooth.kinks(act, z)
    kinked = {"relu", "relu6", "leaky_relu", "hard_sigmoid", "hard_silu", "hard_tanh", "selu", "sparse_sigmoid",
              "bare maximum", "prelu", "capped", "elu", "squared relu"}
    assert bool(n) == (name in kinked)
    if n:
        for beta in (10.0, 1e3):
            gap = jax.jit(lambda z, beta=beta: jnp.abs(smooth.softplus(act, beta)(z) - act(z)).max())
            assert gap(z) < 20 / beta
        step = 1e-5
        slope = jax.jit(jax.vmap(jax.grad(smooth.softplus(act, 5.0))))
        curvature = jax.jit(jax.vmap(jax.grad(jax.grad(smooth.softplus(act, 5.0)))))(z)
        close(curvature, (slope(z + step) - slope(z - step)) / (2 * step), 1e-4)


def test_a_rule_of_the_model_s_own_decides():
    @jax.custom_vjp
    def relu_with_another_gradient(z):
        return jnp.maximum(z, 0)

    relu_with_another_gradient.defvjp(lambda z: (jnp.maximum(z, 0), z), lambda z, g: (3 * g,))
    assert rewrite.inspect(relu_with_another_gradient, x).activations != {"relu": 1}

    @jax.custom_jvp
    def my_relu(z):
        return jnp.where(z > 0, z, 0.0)

    my_relu.defjvp(lambda p, t: (my_relu(*p), jnp.where(p[0] > 0, t[0], 0.0)))
    assert rewrite.inspect(my_relu, x).activations == {"relu": 1}


def test_infinite_bounds_are_no_activation():
    head = lambda x: jax.nn.softmax(jax.nn.relu(x @ W))
    assert rewrite.inspect(head, x).activations == {"relu": 1}
    assert rewrite.inspect(lambda x: jnp.minimum(jnp.maximum(x, -jnp.inf), jnp.inf), x).activations == {}
    assert rewrite.inspect(lambda x: jnp.maximum(x, 1e-30), x).activations == {"maximum": 1}
    guided = by_hand(jax.nn.relu, lambda g, slope: jnp.maximum(g, 0) * slope)
    close(explain.guided_backprop()(head, x, 1), jax.jit(jax.grad(lambda x: jax.nn.softmax(guided(x @ W))[1]))(x))
