"""Explanations of transformers against tables in numpy, on three networks that are written in different ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiny_transformers import ATTNLRP, CHEFER, CP_LRP, KINDS, by_tables, model, parameters
from xmanip_jax import explain, rewrite

pytestmark = pytest.mark.usefixtures("x64")
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
