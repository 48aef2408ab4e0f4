"""Softmax and attention in all spellings, what each operation does with relevance, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from tiny_transformers import KINDS, model, parameters
from xmanip_jax import certify, explain, rewrite

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.promotes("ranks", "types")]
rng = np.random.default_rng(0)
scores = rng.normal(size=(4, 4))
MASK = np.tril(np.ones((4, 4), bool))
total = lambda e, **options: e.sum(-1, keepdims=True, **options)

SOFTMAXES = {
    "jax": jax.nn.softmax,
    "no shift": lambda z: jnp.exp(z) / total(jnp.exp(z)),
    "a maximum that is not stopped": lambda z: (e := jnp.exp(z - z.max(-1, keepdims=True))) / e.sum(-1)[:, None],
    "one maximum for all": lambda z: (e := jnp.exp(z - z.max())) / total(e),
    "a log softmax": lambda z: jnp.exp(jax.nn.log_softmax(z)),
    "a logsumexp": lambda z: jnp.exp(z - jax.nn.logsumexp(z, -1, keepdims=True)),
    "a reciprocal": lambda z: (e := jnp.exp(z)) * jnp.reciprocal(total(e)),
    "a power": lambda z: (e := jnp.exp(z)) * total(e) ** -1,
    "columns": lambda z: jax.nn.softmax(z.T, 0).T,
    "jitted": jax.jit(jax.nn.softmax), "vmapped": jax.vmap(jax.nn.softmax),
    "einsum": lambda z: (e := jnp.exp(z)) / jnp.einsum("ij->i", e)[:, None],
}
MASKED = {
    "where": lambda z: jax.nn.softmax(z, where=MASK),
    "added": lambda z: jax.nn.softmax(z + jnp.where(MASK, 0, -jnp.inf)),
    "chosen before": lambda z: jax.nn.softmax(jnp.where(MASK, z, -jnp.inf)),
    "a large number": lambda z: jax.nn.softmax(jnp.where(MASK, z, -1e30)),
    "after": lambda z: (e := jnp.exp(z) * MASK) / total(e),
    "a little more": lambda z: (e := jnp.exp(z) * MASK) / (total(e) + 1e-300),
}
NO_SOFTMAX = {
    "columns over rows' sums": lambda z: (e := jnp.exp(z)) / e.sum(-1),
    "others": lambda z: jnp.exp(z) / total(jnp.exp(2 * z)),
    "another logarithm": lambda z: jnp.exp(z - jnp.log(total(jnp.exp(2 * z)))),
    "of other values": lambda z: jnp.exp(z) / total(jnp.exp(z.T)),
    "no exponential": lambda z: jnp.square(z) / total(jnp.square(z)),
    "a mean": lambda z: (e := jnp.exp(z)) / e.mean(-1, keepdims=True),
}


@pytest.mark.parametrize("name", [*SOFTMAXES, *MASKED])
def test_a_softmax_is_found_however_it_is_written(name):
    f, mask = (SOFTMAXES | MASKED)[name], MASK if name in MASKED else True
    kinds = [op.kind for op in rewrite.flow(f, scores)]
    assert kinds.count("softmax") == 1 and set(kinds) <= {"softmax", "elementwise", "route", "select"}
    rule = lambda operation: (lambda R, s, z, *constants: 3 * R) if operation.kind == "softmax" else None
    values, pull = jax.vjp(rewrite.propagate(f, rule), scores)
    e = np.exp(scores) * mask
    np.testing.assert_allclose(values, e / e.sum(-1, keepdims=True), rtol=1e-12)
    assert np.abs(pull(np.ones((4, 4)))[0]).max() == 3  # all of it goes through the rule


@pytest.mark.parametrize("name", NO_SOFTMAX)
def test_what_only_looks_like_a_softmax_is_none(name):
    assert "softmax" not in [op.kind for op in rewrite.flow(NO_SOFTMAX[name], scores)]


# --- attention

def heads(x):
    return [x @ w for w in rng_heads]


rng_heads = rng.normal(size=(3, 6, 6)) / 2
x = rng.normal(size=(4, 6))
split = lambda a: a.reshape(4, 2, 3)
plain = lambda q, k, v: jnp.concatenate([jax.nn.softmax(a @ b.T / 3**0.5) @ c for a, b, c in zip(
    *(jnp.split(m, 2, -1) for m in (q, k, v)), strict=True)], -1)
ATTENTION = {
    "einsum": lambda q, k, v: jnp.einsum("hqk,khd->qhd", jax.nn.softmax(jnp.einsum(
        "qhd,khd->hqk", split(q), split(k)) / 3**0.5), split(v)).reshape(4, 6),
    "keys in the middle": lambda q, k, v: jnp.einsum("qkh,khd->qhd", jax.nn.softmax(jnp.einsum(
        "qhd,khd->qkh", split(q), split(k)) / 3**0.5, 1), split(v)).reshape(4, 6),
    "a batch of one": lambda q, k, v: jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.einsum(
        "bqhd,bkhd->bhqk", split(q)[None], split(k)[None] / 3**0.5)), split(v)[None]).reshape(4, 6),
    "dot_product_attention": lambda q, k, v: jax.nn.dot_product_attention(*map(split, (q, k, v))).reshape(4, 6),
    "vmapped heads": lambda q, k, v: jax.vmap(lambda a, b, c: jax.nn.softmax(a @ b.T / 3**0.5) @ c, 1, 1)(
        *map(split, (q, k, v))).reshape(4, 6),
    "products and sums": lambda q, k, v: (jax.nn.softmax((split(q)[:, None] * split(k)[None]).sum(-1) / 3**0.5, 1)[
        ..., None] * split(v)[None]).sum(1).reshape(4, 6),
    "a cap and a bias": lambda q, k, v: jnp.einsum("hqk,khd->qhd", jax.nn.softmax(0.1 * jnp.tanh(jnp.einsum(
        "qhd,khd->hqk", split(q), split(k)) / 3**0.5 / 0.1) + 0.0), split(v)).reshape(4, 6),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_weights_in_every_layout(name):
    f = lambda x: ATTENTION[name](*heads(x))
    block, = rewrite.inspect(f, x).attention
    assert block.shape == (2, 4, 4) and block.tokens == 4 and "test_attention.py" in block.place
    rtol = 1e-6 if name == "dot_product_attention" else 1e-9  # its scores are float32 always
    out, (weights,) = jax.jit(rewrite.attention_weights(f))(x)
    values = split(heads(x)[2])
    np.testing.assert_allclose(out, f(x), rtol=1e-12)
    np.testing.assert_allclose(np.einsum("hqk,khd->qhd", weights, values).reshape(4, 6), out, rtol=rtol)
    if name != "a cap and a bias":
        np.testing.assert_allclose(out, plain(*heads(x)), rtol=rtol)
        e, other = explain.attnlrp(), lambda x: plain(*heads(x)).sum(0)
        np.testing.assert_allclose(e(lambda x: f(x).sum(0), x, 1), e(other, x, 1), rtol=10 * rtol, atol=rtol)


def test_what_a_model_has_is_listed():
    def f(x):
        q, k, v = heads(x)
        x = x + jax.nn.softmax(q @ k.T) @ v
        x = x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        x = (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-6)  # BatchNorm in training
        return (x * jax.nn.sigmoid(q) * jax.nn.softmax(k)).sum(0)

    found = rewrite.inspect(f, x)
    assert [block.shape for block in found.attention] == [(1, 4, 4)]
    assert found.normalisations == {"uncentred": 1, "centred": 1} and found.gates == {"sigmoid": 1, "softmax": 1}
    scanned = lambda x: lax.scan(lambda x, w: (jax.nn.softmax(x @ x.T) @ x @ w, None), x, jnp.asarray(rng_heads))[0]
    block, = rewrite.inspect(scanned, x).attention
    assert block.loop == "scan" and len(rewrite.attention_weights(scanned)(x)[1]) == 3


# --- what single operations do with relevance, in sums

a, v = rng.normal(size=(4, 5)), rng.normal(size=(5, 3))
standardised = lambda x: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
SUMS = {  # a function of one value or two, and the sum of relevance that each gets of R = direction * result
    "a dense layer": (lambda x: x @ v, (a,), lambda R, a: [R.sum()]),
    "an addition": (lambda x, y: x + y, (a, a[::-1]), lambda R, x, y: [(v * R / (x + y)).sum() for v in (x, y)]),
    "a matrix product": (lambda x, y: x @ y, (a, v), lambda R, x, y: [R.sum() / 2] * 2),
    "a product": (lambda x, y: x * y, (a, a[::-1]), lambda R, x, y: [R.sum() / 2] * 2),
    "a softmax": (jax.nn.softmax, (scores,), lambda R, x: [
        (R * (x - (jax.nn.softmax(x) * x).sum(-1, keepdims=True))).sum()]),
    "an RMSNorm": (lambda x: x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True)), (a,), lambda R, x: [R.sum()]),
    "a LayerNorm": (lambda x: standardised(x), (a,), lambda R, x: [R.sum()]),
    "a LayerNorm with a shift": (lambda x: standardised(x) + 1.0, (a,), lambda R, x: [
        (R * standardised(x) / (standardised(x) + 1)).sum()]),
    "a gelu": (jax.nn.gelu, (a,), lambda R, x: [R.sum()]), "a tanh": (jnp.tanh, (a,), lambda R, x: [R.sum()]),
    "a sigmoid": (jax.nn.sigmoid, (a,), lambda R, x: [(R * (1 - 0.5 / jax.nn.sigmoid(x))).sum()]),
    "a mean": (lambda x: x.mean(0), (a,), lambda R, x: [R.sum()]),
    "a gate": (lambda x, y: x * jax.nn.sigmoid(y), (a, a[::-1]), lambda R, x, y: [R.sum(), 0]),
    "a roll": (lambda x: jnp.roll(x, 1, 0), (a,), lambda R, x: [R.sum()]),
}


@pytest.mark.parametrize("name", SUMS)
def test_each_operation_passes_on_the_sum_of_its_formula(name):
    """On the two operands side by side: the model is a function of one array, cut apart inside."""
    f, values, formula = SUMS[name]
    sizes = np.cumsum([v.size for v in values])[:-1]
    inner = lambda x: f(*(part.reshape(v.shape) for part, v in zip(jnp.split(x, sizes), values, strict=True))).ravel()
    x = jnp.concatenate([v.ravel() for v in values])
    result = inner(x)
    direction = rng.normal(size=result.shape)
    map = explain.attnlrp()(inner, x, direction)
    R = (direction * result).reshape(f(*values).shape)
    found = [part.sum() for part in jnp.split(map, sizes)]
    np.testing.assert_allclose(found, formula(R, *values), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("act", [lambda z: z, jax.nn.relu, jax.nn.gelu, jax.nn.silu, jnp.tanh, jax.nn.hard_swish])
def test_cp_lrp_sums_to_the_logit_without_biases(act):
    kind = KINDS["plain"]
    f = model(parameters(kind), kind, act=act)
    image = rng.normal(size=(8, 8, 3))
    map, logits = jax.jit(lambda x: explain.with_logits(explain.cp_lrp())(f, x, 1))(image)
    np.testing.assert_allclose(map.sum(), logits[1], rtol=1e-6)


def test_full_derivatives_of_a_layer_norm_cancel_and_a_stopped_deviation_conserves():
    norm = lambda x: (x - x.mean()) / x.std()
    x, direction = rng.normal(size=6), rng.normal(size=6)
    np.testing.assert_allclose(explain.gradient_x_input()(norm, x, direction).sum(), 0, atol=1e-12)
    np.testing.assert_allclose(explain.attnlrp()(norm, x, direction).sum(), norm(x) @ direction)


def test_z_plus_shares_of_attention_are_not_negative():
    """What attention weights sum is a sum to `sums=`: each gets a share of the logit, none negative under z+."""
    f = lambda x: (jax.nn.softmax(x @ x.T) @ x).sum(0)
    share = lambda e: e(f, x, 1) / f(x)[1]
    assert share(explain.lrp(sums=explain.z_plus())).min() >= -1e-12
    assert share(explain.lrp()).min() < -1e-3


def test_lrp_on_attention_shares_by_its_option():
    f = lambda x: plain(*heads(x)).sum(0)
    exact = {"dense": explain.epsilon(0.0), "sums": explain.epsilon(0.0)}
    for products, e in (("signal", explain.cp_lrp()), ("halves", explain.attnlrp())):
        np.testing.assert_allclose(explain.lrp(products=products, **exact)(f, x, 1), e(f, x, 1), rtol=1e-6, atol=1e-8)
    gamma = explain.attnlrp(dense=explain.gamma(0.0, stabilizer=0.0))  # gamma 0 is LRP-0
    np.testing.assert_allclose(gamma(f, x, 1), explain.attnlrp()(f, x, 1), rtol=1e-9)
    assert not np.allclose(explain.attnlrp(dense=explain.gamma(1.0))(f, x, 1), gamma(f, x, 1))
    with pytest.raises(ValueError, match="'half'"):
        explain.lrp(products="half")


# --- limits and refusals

def test_scores_that_underflow_are_hard_attention():
    """In float32 the other weights are exactly 0: every map is finite, and that of a choice of one token."""
    hard = lambda x: (1.0 * jax.nn.one_hot(jnp.array([0, 1, 2, 3]), 4, dtype=x.dtype) @ x).sum(0)
    soft = lambda x: (jax.nn.softmax(1e4 * x @ x.T) @ x).sum(0)
    at = jnp.eye(4, dtype=jnp.float32) + 0.25
    np.testing.assert_allclose(explain.cp_lrp()(soft, at, 1), explain.cp_lrp()(hard, at, 1))
    np.testing.assert_allclose(explain.attnlrp()(soft, at, 1), explain.attnlrp()(hard, at, 1) / 2)
    np.testing.assert_allclose(explain.attention_rollout()(soft, at, 1), 0.25)
    second = jax.grad(lambda x: jnp.sum(explain.attnlrp()(soft, x, 1) ** 2))(at)
    assert np.isfinite(second).all()
    for e in (explain.lrp(products="halves"), explain.gradient_attention_rollout(), explain.transformer_attribution()):
        assert np.isfinite(e(soft, at, 1)).all()


@pytest.mark.parametrize("products", ["signal", "halves"])
def test_masked_scores_of_minus_infinity_get_nothing(products):
    f = lambda x, mask: (jax.nn.softmax(jnp.where(MASK, x @ x.T, mask)) @ x).sum(0)
    for e in (explain.attnlrp(), explain.cp_lrp(), explain.lrp(products=products), explain.transformer_attribution()):
        np.testing.assert_allclose(e(lambda x: f(x, -jnp.inf), x, 1), e(lambda x: f(x, -1e30), x, 1), rtol=1e-9)


hidden = lambda x: (jax.nn.softmax(jnp.where(MASK & (MASK[0] == 0)[:, None], x @ x.T, -jnp.inf)) @ x).sum(0)
roots = lambda x: jnp.prod(x, 0) * jax.nn.softmax(x @ x.T)[0].cumprod().sum()
vit = lambda x, n=4: (jax.nn.softmax(x.reshape(n, -1) @ x.reshape(n, -1).T) @ x.reshape(n, -1)).sum(0)[:3]
windows = lambda x: jnp.einsum("wqk,wkd->wqd", jax.nn.softmax(jnp.einsum("wqd,wkd->wqk", *[x.reshape(2, 2, 6)] * 2)),
                               x.reshape(2, 2, 6) @ rng_heads[0]).sum((0, 1))
image = rng.normal(size=(4, 4, 3))
ROLLED = [explain.attention_rollout(), explain.gradient_attention_rollout(), explain.transformer_attribution()]


@pytest.mark.parametrize("f, at, e, match", [
    *((hidden, x, e, "attention 0 .* not finite: a mask hides every token")
      for e in (explain.attention(), *ROLLED)),
    *((hidden, x, e, "logits are not finite") for e in (explain.attnlrp(), explain.cp_lrp())),
    *((roots, x, e, r"cumprod \(test_attention.py.*, reduce_prod \(test_attention.py")
      for e in (explain.attnlrp(), explain.cp_lrp())),
    *((lambda x: jnp.tanh(x).sum(0), x, e, "no attention") for e in (explain.attention(), *ROLLED)),
    *((windows, x, e, "cannot be rolled out") for e in ROLLED),
    (vit, image, explain.attention_rollout(class_tokens=1), "no grid .* 3 tokens without 1 class"),
    (vit, image, explain.attention_rollout(rows="class"), "needs a class token, but all 4"),
    (vit, image, explain.attention_rollout(grid=(3, 2)), "a grid of 3 x 2 = 6 places and 0 or 1 class tokens .* the 4"),
    (lambda x: vit(x, 3), image, explain.attention_rollout(), "no grid .* 4 x 4 x 3 has 3 tokens, nor 2"),
    (vit, image, explain.attention(1), "block 1 is none of the 1"),
    (vit, image, explain.attention(0, 2), "head 2 is none of the 1"),
])
def test_what_cannot_be_explained_is_said(f, at, e, match):
    with pytest.raises(ValueError, match=match):
        e(f, at, 0)


def test_bad_options():
    for make in (lambda: explain.attention_rollout(fuse="sum"), lambda: explain.attention(rows="all")):
        with pytest.raises(ValueError, match=r"'sum'|'all'"):
            make()


def test_grad_cam_of_tokens():
    w = rng.normal(size=(12, 3))

    def f(x, front):
        t = jnp.concatenate([jnp.ones((front, 12)), x.reshape(4, 12)])
        t = checkpoint_name(jnp.tanh(t), "tokens")
        return (jax.nn.softmax(t @ t.T) @ t)[0] @ w

    for front, said in ((0, {}), (1, {}), (2, {"class_tokens": 2}), (1, {"grid": (4, 1)})):
        at = lambda x, front=front: f(x, front)
        _, values = rewrite.layer_values(at)(image)
        tokens = values["tokens"][front:]
        g = explain.layer_gradient("tokens")(at, image, 1)[front:]
        expected = np.maximum(tokens @ g.mean(0), 0).reshape(said.get("grid", (2, 2)))
        np.testing.assert_allclose(explain.grad_cam("tokens", **said)(at, image, 1), expected)
        assert explain.grad_cam_pp("tokens", **said)(at, image, 1).shape == expected.shape
    for said, match in (({"class_tokens": 2}, "no grid"), ({"grid": (3, 3)}, "3 x 3 = 9")):
        with pytest.raises(ValueError, match=match):
            explain.grad_cam("tokens", **said)(lambda x: f(x, 1), image, 1)


def test_bounds_refuse_attention_by_name():
    shifted = lambda x: (jax.nn.softmax(x @ x.T) @ x).sum(0)
    bare = lambda x: ((e := jnp.exp(x @ x.T)) / total(e) @ x).sum(0)
    for f, match in ((shifted, "stop_gradient"), (bare, r"dot_general \(test_attention.py")):
        with pytest.raises(rewrite.UnsupportedPrimitiveError, match=match):
            certify.gradient_bounds(f, certify.ball(jnp.asarray(x), 0.1), 0)


def test_a_fused_attention_is_refused_by_name():
    """A kernel with a derivative of its own, that rules do not see into, and that has no second derivative."""
    exact = lambda q: (jax.nn.softmax(q @ q.T) @ q).sum(0)
    on_host = lambda q: jax.pure_callback(lambda q: np.asarray(exact(q)), jax.ShapeDtypeStruct((6,), q.dtype), q)
    fused = jax.custom_vjp(on_host)
    fused.defvjp(lambda q: (on_host(q), q), lambda q, g: (jax.pure_callback(
        lambda q, g: np.asarray(jax.vjp(exact, q)[1](g)[0]), jax.ShapeDtypeStruct(q.shape, q.dtype), q, g),))
    with pytest.warns(rewrite.LostRuleWarning), pytest.raises(
            rewrite.UnsupportedPrimitiveError, match=r"pure_callback \(test_attention.py"):
        explain.attnlrp()(fused, x, 0)
    with pytest.raises(ValueError, match="no attention"), pytest.warns(rewrite.LostRuleWarning):
        explain.attention()(fused, x, 0)
    with pytest.raises(ValueError, match=r"Pure callbacks do not support JVP"):
        jax.grad(lambda x: explain.gradient()(fused, x, 0).sum())(x)
