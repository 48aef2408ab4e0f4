"""Where the training loss takes its cross entropy, in which unit its budgets are, and what its keys are."""

import functools
from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xmanip_jax import defend, explain, models, smooth, train
from xmanip_jax.train import Ascent

KEY = jax.random.key(0)
FIXED = Ascent(0.2, 0.1, 2, random_start=False)
STEEP = optax.sgd(0.5)
MAP = explain.gradient_x_input()
XS = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
YS = np.array([0, 2, 1, 1])
PARAMS = {"a": jax.random.normal(KEY, (5, 6)), "b": jax.random.normal(jax.random.key(1), (6, 3))}


def apply(params, state, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


class Normed(nnx.Module):
    """Two linear layers with BatchNorm between: a network with a state."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.last, self.norm = nnx.Linear(5, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs), nnx.BatchNorm(
            6, rngs=rngs)

    def __call__(self, x):
        return self.last(smooth.softplus_beta(self.norm(self.first(x)), 3.0))


def moved(f, x, y, a=FIXED, key=None):
    return train.ascend(lambda z: train.cross_entropy(f(z), y), x, a, key=key)


MOVING = {
    "adversarial": defend.adversarial(FIXED),
    "int-adv": defend.interpretability(FIXED, MAP, at="attacked"),
    "int2-adv": defend.interpretability(FIXED, MAP, inner="loss", at="attacked"),
    "ig-sum-norm": defend.integrated_norm(FIXED, points=3, at="attacked"),
    "adv far": defend.attribution_robustness(FIXED, MAP, at="attacked"),
}


@pytest.mark.parametrize("name", MOVING)
def test_the_cross_entropy_is_that_of_the_neighbour_wherever_its_term_stands(name):
    """Among a penalty of one trace, one of the parameters alone and one of a user's own."""
    own = lambda apply, params, state, x, y, key=None: jnp.sum(apply(params, state, x) ** 2)
    others = (0.3, defend.gradient_norm()), (0.2, train.parameter_penalty(lambda p: jnp.sum(p["b"] ** 2))), (0.1, own)
    term = 2.0, MOVING[name]
    orders = [(*others[i:], term, *others[:i]) for i in range(4)]
    values = jax.jit(lambda params: [train.training_loss(*terms)(apply, params, None, XS, YS)[1] for terms in orders])(
        PARAMS)
    for found in values[1:]:
        for key, value in found.items():
            np.testing.assert_allclose(value, values[0][key], rtol=1e-5)
    clean = jax.jit(lambda params: train.training_loss(*others)(apply, params, None, XS, YS)[1])(PARAMS)
    logits = jax.jit(jax.vmap(lambda x, y: term[1].with_logits(apply, PARAMS, None, x, y)[1]))(XS, YS)
    entropy = jax.vmap(train.cross_entropy)(logits, YS).mean()
    np.testing.assert_allclose(values[0]["cross_entropy"], entropy, rtol=1e-5)
    assert entropy > clean["cross_entropy"] + 0.05
    np.testing.assert_allclose(values[0]["accuracy"], np.mean(logits.argmax(1) == YS))  # that of the neighbours


def test_readme_s_loss_is_int_adv():
    """training_loss((1e-3, hessian), (1, int_adv)), every number by hand."""
    a, keys = Ascent(0.2, 0.1, 2), jax.random.split(KEY, 4)
    int_adv = defend.interpretability(a, MAP, gamma=1.0, at="attacked")
    loss = train.training_loss((1e-3, defend.hessian()), (1.0, int_adv))
    found, numbers = jax.jit(lambda params: loss(apply, params, None, XS, YS, keys))(PARAMS)

    def by_hand(x, y, key):
        f, (of_hessian, own) = partial(apply, PARAMS, None), jax.random.split(key)
        worst = lambda z: defend.discrepancy(MAP, f, x, z, y) + train.cross_entropy(f(z), y)
        z = train.ascend(worst, x, a, key=own)
        bent = defend.hessian()(apply, PARAMS, None, x, y, of_hessian)
        return train.cross_entropy(f(z), y), 1e-3 * bent + defend.discrepancy(MAP, f, x, z, y)

    entropy, penalty = (v.mean() for v in jax.jit(jax.vmap(by_hand))(XS, YS, keys))
    np.testing.assert_allclose(numbers["cross_entropy"], entropy, rtol=1e-5)
    np.testing.assert_allclose(found, entropy + penalty, rtol=1e-5)
    plain = train.training_loss()(apply, PARAMS, None, XS, YS)[0]
    assert numbers["cross_entropy"] > plain + 0.05


def one_step(net, params, state, xs, terms, **options):
    start = train.begin(params, state, STEEP)
    run = train.fit(STEEP, terms=terms, batch=len(xs), steps=1, devices=jax.devices()[:1], **options)
    return run(net, start, xs, YS)


@functools.cache
def plain_step():
    return one_step(*models.functional(Normed()), XS, ())


def in_order():
    chosen = train.batch_indices(0, 0, 4, 4)
    return XS[chosen], YS[chosen]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("terms", [((1.0, MOVING["adversarial"]),),
                                   ((0.3, defend.gradient_norm()), (2.0, MOVING["int-adv"])),
                                   ((2.0, MOVING["ig-sum-norm"]), (0.3, defend.gradient_norm()))],
                         ids=["adversarial", "int-adv second", "ig-sum-norm first"])
def test_a_step_with_batch_norm_is_adversarial_training(terms):
    """Neighbours by the statistics as they are, then the batch of them in training mode, which updates these."""
    net, params, state = models.functional(Normed())
    found = one_step(net, params, state, XS, terms)
    xs, ys = in_order()

    def by_hand(params):
        f = partial(net.apply, params, state)
        movers = [p for _, p in terms if p in MOVING.values()]
        zs = jax.vmap(lambda x, y: movers[0].moved(net.apply, params, state, x, y)[2])(xs, ys)
        if movers[0] is MOVING["adversarial"]:
            zs = jax.vmap(lambda x, y: moved(f, x, y))(xs, ys)
        logits, after = net.train_apply(params, state, zs)
        penalty = sum(w * jax.vmap(lambda x, y, p=p: p(net.apply, params, state, x, y))(xs, ys) for w, p in terms)
        return jax.vmap(train.cross_entropy)(logits, ys).mean() + penalty.mean(), after

    slope, after = jax.jit(jax.grad(by_hand, has_aux=True))(params)
    wanted = jax.tree.map(lambda p, g: p - 0.5 * g, params, slope), after
    chex.assert_trees_all_close((found.params, found.state), wanted, rtol=1e-4, atol=1e-5)
    plain = plain_step()
    for a, b in ((found.params, plain.params), (found.state, plain.state)):
        assert max(np.abs(u - v).max() for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)) > 1e-3


def test_two_that_move_are_refused_by_their_places():
    net, params, state = models.functional(Normed())
    plain, (first, second) = (0.1, defend.gradient_norm()), [(1.0, MOVING[n]) for n in ("int-adv", "adversarial")]
    for terms, a, b in (((first, second), 0, 1), ((plain, first, second), 1, 2), ((second, plain, second), 0, 2)):
        match = rf"terms\[{a}\] and terms\[{b}\] both move"
        with pytest.raises(ValueError, match=match):
            train.training_loss(*terms)
        with pytest.raises(ValueError, match=match):
            one_step(net, params, state, XS, terms)
    train.training_loss(first, (1.0, defend.trades(FIXED)), (1.0, defend.integrated_norm(FIXED)))  # these stay at x


def test_a_user_s_own_moving_penalty():
    shifted = train.penalty(lambda f, x, y, key: (jnp.zeros(()), f(x + 1), x + 1), moves=True)
    _, numbers = train.training_loss((1.0, defend.gradient_norm()), (1.0, shifted))(apply, PARAMS, None, XS, YS)
    wanted = jax.vmap(train.cross_entropy)(jax.vmap(partial(apply, PARAMS, None))(XS + 1), YS).mean()
    np.testing.assert_allclose(numbers["cross_entropy"], wanted, rtol=1e-6)
    for moves, core in ((True, lambda f, x, y, key: (0.0, f(x))), (False, lambda f, x, y, key: (0.0, f(x), x))):
        with pytest.raises(ValueError, match=f"moves={moves} returns {2 + moves} values, got {3 - moves}"):
            train.penalty(core, moves=moves)(apply, PARAMS, None, XS[0], 0)


def test_every_step_has_keys_of_its_own():
    """A penalty of the key alone: sgd adds up uniform numbers of split(fold_in(key(seed), step))."""
    draw = lambda apply, params, state, x, y, key: params * jax.random.uniform(key)
    net, seen = SimpleNamespace(apply=lambda params, state, x: jnp.zeros(3)), []
    for seed in (0, 3):
        start = train.begin(jnp.zeros(()), {}, optax.sgd(1.0), seed=seed)
        run = train.fit(optax.sgd(1.0), terms=((1.0, draw),), batch=2, steps=5, every=1, label_weight=0.0,
                        devices=jax.devices()[:1])
        found = run(net, start, XS, YS, keep=lambda t: seen.append(float(t.params)))
        step = lambda i, seed=seed: jax.random.fold_in(jax.random.key(seed), i)
        keys = jnp.stack([jax.random.split(step(i), 2) for i in range(5)]).ravel()
        drawn = jax.vmap(lambda k: jax.random.uniform(jax.random.split(k, 1)[0]))(keys)
        assert len(set(drawn.tolist())) == 10
        np.testing.assert_allclose(found.params, -drawn.reshape(5, 2).mean(1).sum(), rtol=1e-6)
    assert len(set(np.round(np.diff([0, *seen[:5], 0, *seen[5:]]), 6))) == 11  # no two steps alike


def test_dropout_draws_from_a_key_of_its_own():
    """Not from one that a penalty of the batch has, and from another in every step."""
    seen = []
    net = SimpleNamespace(apply=lambda params, state, x: params * x[:3],
                          train_apply=lambda params, state, xs, key: (
                              params * xs[:, :3] + 0 * state["n"], {"n": jax.random.uniform(key)}))
    noisy = lambda apply, params, state, x, y, key: 0 * params
    start = train.begin(jnp.ones(()), {"n": jnp.zeros(())}, STEEP)
    run = train.fit(STEEP, terms=((1.0, noisy),) * 4, batch=2, steps=4, every=1, devices=jax.devices()[:1])
    run(net, start, XS, YS, keep=lambda t: seen.append(float(t.state["n"])))
    step = [jax.random.split(jax.random.fold_in(jax.random.key(0), i), 2) for i in range(4)]
    others = jax.vmap(jax.random.uniform)(jnp.stack([jax.random.split(k, 4) for k in jnp.stack(step).ravel()]).ravel())
    assert len({*seen, *others.tolist()}) == 4 + 32
