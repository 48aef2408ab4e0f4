"""Flags tell a masked defence from an honest one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tiny_networks import HONEST, KEY, PARAMS, PHOTOS, ascent, blind, e, network, soft
from xmanip_jax import attack, defend, explain, objectives, smooth, train

rng = np.random.default_rng(2)


def judged(model, e=e, **options):
    """The flags of a model under one protocol."""
    return attack.flags(ascent(e, **options)(model, PHOTOS, key=KEY), blind(e)(model, PHOTOS, key=KEY))


def raised(flags):
    return {name for name, flag in flags._asdict().items() if flag.raised}


def stairs(z):
    """Its slope is a staircase: no second derivative, though the map changes."""
    return z * jnp.round(4 * jax.nn.sigmoid(3 * z)) / 4


@pytest.mark.parametrize("model, expected", [
    (network(soft, after=lambda z: jnp.tanh(50 * z)), {"zero_gradient", "random_maps"}),
    (network(stairs), {"zero_gradient", "gradient_free_wins"}),
    pytest.param(network(lambda z: smooth.softplus_beta(z, 1000.0)), {"zero_gradient", "gradient_free_wins"},
                 marks=pytest.mark.slow),
], ids=["saturated logits", "staircase slopes", "steep softplus"])
def test_masked_defences_are_caught(model, expected):
    found = judged(model)
    assert expected <= raised(found)


@pytest.mark.slow
def test_a_relu_network_is_masked_from_an_attack_without_surrogate_only():
    relu = network(jax.nn.relu)
    a, b = judged(relu), judged(relu, surrogate=None)
    assert raised(a) >= {"zero_gradient", "gradient_free_wins"}
    assert not raised(b)


@pytest.mark.slow
def test_success_on_the_surrogate_alone_is_caught():
    always_on = jax.tree_util.Partial(lambda p, x: jax.nn.relu((4 * x - 2).ravel() @ p["a"] + 9) @ p["out"], PARAMS)
    found = judged(always_on, surrogate=smooth.absolute(0.3, 0.3))
    assert raised(found) == {"surrogate_only"} and found.surrogate_only.value > 0.9


@pytest.mark.slow
def test_maps_that_noise_changes_are_caught():
    noisy = explain.smoothgrad(e, sigma=0.3, samples=1)
    found = judged(HONEST, noisy)
    assert "random_maps" in raised(found)


def trained(*terms):
    """HONEST, trained a little on random data."""
    net = SimpleNamespace(apply=lambda params, state, x: HONEST.func(params, x))
    optimizer = optax.adam(3e-3)
    images, labels = np.float32(rng.uniform(size=(64, 5, 5, 1))), rng.integers(0, 3, 64)
    start = train.begin(PARAMS, {}, optimizer)
    run = train.fit(optimizer, terms=terms, batch=32, steps=40, devices=jax.devices()[:1])
    return network(soft, run(net, start, images, labels).params)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("make", [lambda: HONEST, lambda: trained((1e-2, defend.hessian()))],
                         ids=["softplus", "hessian penalty"])
def test_honest_networks_are_not_flagged(make):
    found = judged(make())
    assert not raised(found)


def seen(change, halves, surrogate=0.0, zero_gradient=0.0, noise=0.0, heat=(0.2, 0.8), evaluations=100):
    """A search's result on two images or one, by hand: the flags read nothing else."""
    clean = objectives.View(np.ones(len(change)), np.array([[heat]] * len(change)), None)
    return attack.Changed(None, None, None, clean, np.array(change), np.array(halves), np.full(2, surrogate),
                          np.full(2, zero_gradient), np.full(2, noise), evaluations)


@pytest.mark.parametrize("found, blind, values", [
    (seen((0.4, 0.4), ((0.4, 0.4), (0.4, 0.2))), (), (0, 0, 0, 0, 0)),
    (seen((0.4, 0.4), ((0.2, 0.4), (0.4, 0.2))), (), (0, 0, 0.25, 0, 0)),
    (seen((0.4, 0.4), ((0.4, 0.4),) * 2, zero_gradient=0.5), ((0.3, 0.8),), (0.5, 1 / 3, 0, 0, 0)),
    (seen((0.4, 0.4), ((0.4, 0.4),) * 2), ((0.8, 0.2), (0.1, 0.8)), (0, 0.5, 0, 0, 0)),
    (seen((0.4, 0.4), ((0.4, 0.4),) * 2, surrogate=0.8, noise=0.1), (), (0, 0, 0, 0.5, 0.25)),
    (seen((0.0, 0.0), ((0.0, 0.0),) * 2, noise=np.nan, heat=(0.0, 0.0)), (), (0, 0, 0, 0, 1)),
    (seen((1e-7, 0.0), ((0.0, 0.0), (1e-7, 0.0)), noise=1e-7), ((1e-6, 1e-6),), (0, 9.5e-4, 5e-5, 0, 1e-4))])
def test_flags_are_shares(found, blind, values):
    flags = attack.flags(found, *(seen(change, ()) for change in blind))
    np.testing.assert_allclose([flag.value for flag in flags], [*values, np.nan], atol=1e-9)
    assert all(flag.raised == (flag.value > flag.limit) for flag in flags)


@pytest.mark.parametrize("change, value", [((0.5, 0.4), 1 / 9), ((0.3, 0.5), 1 / 8), ((0.5,), 1 / 5), ((0.4, 0.3), 0)])
def test_a_larger_budget_that_finds_more_is_a_flag(change, value):
    found = seen((0.4, 0.4), ((0.4, 0.4),) * 2)
    flag = attack.flags(found, longer=seen(change, (), evaluations=1000)).budget_helps
    assert flag.value == pytest.approx(value, abs=1e-12) and flag.raised == (value > 0.02)


def test_flags_refuse_what_they_cannot_compare():
    found = seen((0.4, 0.4), ((0.4, 0.4),) * 2)
    with pytest.raises(ValueError, match="at least 2"):
        attack.flags(seen((0.4, 0.4), ((0.4, 0.4),)))
    other = seen((0.4, 0.4), ())
    other.clean.pixels[0] = 0
    with pytest.raises(ValueError, match="different images"):
        attack.flags(found, other)
    with pytest.raises(ValueError, match="different images"):
        attack.flags(found, longer=other)
    with pytest.raises(ValueError, match="more gradients than found's 100, got 100"):
        attack.flags(found, longer=found)
