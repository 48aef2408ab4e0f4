"""Explanations of transformers against tables in numpy, on three networks that are written in different ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checks import check_derivatives
from tiny_transformers import ATTNLRP, CHEFER, CP_LRP, KINDS, by_tables, model, parameters
from xmanip_jax import explain, rewrite

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.promotes("ranks", "types")]
rng = np.random.default_rng(1)
x = rng.normal(size=(8, 8, 3))
gelu = lambda z: jax.nn.gelu(z, approximate=False)
every = pytest.mark.parametrize("name", KINDS)


def network(name, **options):
    kind = KINDS[name]
    p = parameters(kind)
    return p, kind, model(p, kind, act=gelu, **options)


def of(e, f, x, target=1):
    return jax.jit(lambda x: e(f, x, target))(x)


def close(a, b, tolerance=1e-6):
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@every
@pytest.mark.parametrize("e, table", [(explain.attnlrp(), ATTNLRP), (explain.cp_lrp(), CP_LRP)], ids=["attn", "cp"])
def test_maps_equal_the_tables(name, e, table):
    p, kind, f = network(name)
    act = jax.nn.silu if kind.gated else gelu
    close(of(e, f, x), by_tables(p, kind, x, 1, table, "logit", act)[0])


@pytest.mark.sampled(3)
@every
def test_rollouts_equal_the_tables(name):
    p, kind, f = network(name)
    logits, weights = jax.jit(rewrite.attention_weights(f))(x)
    close(logits, f(x))
    front, n = int(kind.class_token), len(weights[0][0])
    row = np.eye(n)[0] if front else np.full(n, 1 / n)

    def rolled(matrices):
        r = row
        for m in matrices[::-1]:
            r = r @ m
        return r[front:].reshape(2, 2)

    for fuse in ("mean", "max"):
        mixed = [np.asarray(getattr(np, fuse)(a, 0)) + np.eye(n) for a in weights]
        close(of(explain.attention_rollout(fuse=fuse), f, x), rolled([m / m.sum(1, keepdims=True) for m in mixed]))
    by_hand = lambda deltas: model(p, kind, act=gelu, deltas=deltas)(x)[1]
    gradients = jax.jit(jax.grad(by_hand))([jnp.zeros(a.shape) for a in weights])
    act = jax.nn.silu if kind.gated else gelu
    relevance = by_tables(p, kind, x, 1, CHEFER, "one", act)[1]
    for e, shares in ((explain.gradient_attention_rollout(), weights), (explain.transformer_attribution(), relevance)):
        steps = [np.eye(n) + np.maximum(a * g, 0).mean(0) for a, g in zip(shares, gradients, strict=True)]
        close(of(e, f, x), rolled(steps))
    close(of(explain.attention(0, 1), f, x), rolled([weights[0][1]]))
    close(of(explain.attention(), f, x), rolled([weights[-1].mean(0)]))


EXPLANATIONS = {
    "attnlrp": explain.attnlrp(), "cp_lrp": explain.cp_lrp(), "attention": explain.attention(0, 1),
    "attnlrp_gamma": explain.attnlrp(dense=explain.gamma()), "lrp": explain.lrp(products="halves"),
    "attention_rollout": explain.attention_rollout(), "transformer_attribution": explain.transformer_attribution(),
    "gradient_attention_rollout": explain.gradient_attention_rollout(),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", EXPLANATIONS)
def test_derivatives_in_the_input_and_the_parameters(method, name):
    kind = KINDS[name]._replace(spelling="einsum")  # jax's dot_product_attention has scores in float32
    p = parameters(kind, layers=1)
    e = EXPLANATIONS[method]

    def value(both):
        x, qkv, up = both
        block = {**p["blocks"][0], "qkv": qkv, "up": up}
        map = e(model({**p, "blocks": [block]}, kind, act=gelu, loop="plain"), x, 1)
        return jnp.sum(map**2) + jnp.sum(map * jnp.cos(jnp.arange(map.size).reshape(map.shape)))

    check_derivatives(value, (x, p["blocks"][0]["qkv"], p["blocks"][0]["up"]), rtol=1e-5)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("method", EXPLANATIONS)
def test_jit_vmap_remat_and_scan_change_nothing(method):
    kind, e = KINDS["scanned"], EXPLANATIONS[method]
    p = parameters(kind)
    alone, xs = of(e, model(p, kind, act=gelu, loop="plain"), x), jnp.stack([x, 2 * x])
    for loop in ("scan", "remat"):
        found = jax.jit(jax.vmap(lambda x, loop=loop: e(model(p, kind, act=gelu, loop=loop), x, 1)))(xs)
        close(found[0], alone, 1e-9)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("e", [explain.gradient(), explain.attnlrp()], ids=["gradient", "attnlrp"])
def test_an_attack_step_costs_what_the_products_of_two_values_cost(e):
    """4 + 5a forward passes, a being attention's share of the multiply-adds, plus 5 % for what is elementwise."""
    n, d, w = 64, 128, lambda *shape: rng.normal(size=shape).astype(np.float32) / 12
    qkv, out, up, down, head = w(d, 3 * d), w(d, d), w(d, 4 * d), w(4 * d, d), w(d, 5)

    def f(x):
        q, k, v = (a.reshape(n, 2, -1).transpose(1, 0, 2) for a in jnp.split(x @ qkv, 3, -1))
        x = x + (jax.nn.softmax(q @ k.mT / 8) @ v).transpose(1, 0, 2).reshape(n, d) @ out
        return (x + jax.nn.gelu(x @ up) @ down).mean(0) @ head

    def loss(x):
        map, logits = explain.with_logits(e)(f, x, 1)
        return jnp.sum(map**2) + jnp.sum(logits**2)

    share = 2 * n**2 * d / (12 * n * d**2 + 2 * n**2 * d + 5 * d)
    flops = lambda g: jax.jit(g).lower(jnp.ones((n, d), jnp.float32)).compile().cost_analysis()["flops"]
    forward = flops(f)
    assert flops(jax.grad(loss)) <= 1.05 * (4 + 5 * share) * forward
    assert flops(lambda x: e(f, x, 1)) <= 1.05 * (2 + share) * forward


def test_rules_are_the_innermost_derivative_only():
    """What leads to the weights is differentiated truly, though relevance is taken at the weights alone."""
    *_, f = network("plain", loop="plain")
    value = jax.jit(lambda x: jnp.sum(explain.transformer_attribution()(f, x, 1) ** 2))
    v = rng.normal(size=x.shape)
    difference = (value(x + 1e-5 * v) - value(x - 1e-5 * v)) / 2e-5
    np.testing.assert_allclose(jnp.sum(jax.jit(jax.grad(value))(x) * v), difference, rtol=1e-5)
