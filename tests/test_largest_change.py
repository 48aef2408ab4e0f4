"""Searches for the largest change of an explanation, and attacks through what is meant to prevent it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tiny_networks import HONEST, KEY, PARAMS, PHOTOS, ascent, blind, e, network, soft
from xmanip_jax import attack, defend, explain, smooth

rng = np.random.default_rng(1)

# Explanations of three pixels, where a grid sees the whole ball: the map is the image under a bend.
GRID, CORNERS = (np.stack(np.meshgrid(*[np.linspace(-0.2, 0.2, n)] * 3, indexing="ij"), -1).reshape(-1, 3, 1, 1)
                 for n in (41, 2))
THREE = np.float32([[0.3, 0.5, 0.9], [0.1, 0.6, 0.4]]).reshape(2, 3, 1, 1)
BENT = explain.explanation(lambda f, x, t, key=None: (jnp.sin(7 * x) + jnp.roll(x, 1, 0) + 2 * x**2, f(x)))
l1 = lambda now, clean: jnp.abs(now - clean).sum()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("model", [
    pytest.param(lambda x: jnp.stack([jnp.ones(()), jnp.zeros(())]), marks=pytest.mark.slow),
    lambda x: jnp.stack([10 * (x[1, 0, 0] - 0.45), jnp.zeros(())])], ids=["free", "predictions bind"])
def test_the_searches_find_what_a_grid_finds(model):
    h = lambda x: explain.heatmap(BENT(model, x, 0))
    values = jax.jit(jax.vmap(lambda z, x: (l1(h(z), h(x)), model(z).argmax()), (0, None)))
    searches = (ascent(BENT, epsilon=0.2, distance=l1, steps=100), GRID, 0.03), (
        blind(BENT, epsilon=0.2, distance=l1, steps=10, restarts=20), CORNERS, 1e-5)
    for search, moves, slack in searches:
        found = search(model, THREE, key=KEY)
        for x, change, now in zip(THREE, found.change, found.pixels, strict=True):
            value, predicted = values(np.float32(np.clip(x + moves, 0, 1)), x)
            largest = value[predicted == model(x).argmax()].max()
            assert (1 - slack) * largest <= change <= (1 + slack) * largest
            np.testing.assert_allclose(change, l1(h(now), h(x)), atol=1e-6)


def test_what_is_found_is_the_models_own_and_in_the_ball():
    relu = network(jax.nn.relu)
    found = ascent(e, surrogate=None)(relu, PHOTOS, key=KEY)
    look = jax.vmap(lambda p, y: (explain.heatmap(e(relu, p, y)), relu(p)))
    heatmap, logits = look(found.pixels, found.clean.logits.argmax(1))
    np.testing.assert_allclose(found.heatmap, heatmap, atol=1e-6)
    np.testing.assert_allclose(found.logits, logits, atol=1e-5)
    assert (logits.argmax(1) == found.clean.logits.argmax(1)).all()
    assert np.abs(found.pixels - PHOTOS).max() <= 0.1 + 1e-6 and found.pixels.min() >= 0 and found.pixels.max() <= 1
    apart = [1 - np.corrcoef(np.ravel(a), np.ravel(b))[0, 1] for a, b in zip(heatmap, found.clean.heatmap, strict=True)]
    np.testing.assert_allclose(found.change, apart, atol=1e-5)
    np.testing.assert_array_equal(found.by_restart.max(0), found.change)
    assert found.evaluations == 100 and (found.change > 0.05).all()
    again = ascent(e, surrogate=None)(relu, PHOTOS, key=KEY)
    np.testing.assert_array_equal(again.pixels, found.pixels)


def test_another_radius_compiles_nothing_anew():
    search = ascent(e, epsilon=0.1, steps=6, restarts=1)
    wide = search(HONEST, PHOTOS, key=KEY)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(listen := lambda name, *_, **__: compiled.append(name))
    near = search(HONEST, PHOTOS, key=KEY, epsilon=0.01)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert not [name for name in compiled if "backend_compile" in name]
    assert np.abs(near.pixels - PHOTOS).max() <= 0.01 + 1e-6
    assert (near.change > 0).all() and near.change.mean() < wide.change.mean()
    alone = ascent(e, epsilon=0.01, steps=6, restarts=1)(HONEST, PHOTOS, key=KEY)
    np.testing.assert_allclose(near.pixels, alone.pixels, atol=1e-6)
    with pytest.raises(ValueError, match="epsilon is positive"):
        search(HONEST, PHOTOS, key=KEY, epsilon=0)


@pytest.mark.parametrize("search", [ascent, blind])
def test_any_constraint_holds(search):
    found = search(e, epsilon=0.1, constraint=attack.l0(6), steps=8, restarts=1)(HONEST, PHOTOS, key=KEY)
    moved = np.abs(found.pixels - PHOTOS).max(-1) > 0
    assert (moved.sum((1, 2)) <= 6).all() and (found.change > 0).any()


def test_no_step_size_to_choose():
    """At one budget of 25 gradients from each start it beats sign ascent of every fixed step."""
    @jax.jit
    @jax.vmap
    def climbed(x, y, start, size):
        h = lambda z: explain.heatmap(e(HONEST, z, y))
        apart = lambda z: 1 - jnp.corrcoef(jnp.stack([h(z).ravel(), h(x).ravel()]))[0, 1]
        ball = jnp.clip(x - 0.1, 0, 1), jnp.clip(x + 0.1, 0, 1)

        def step(carry, _):
            z, best = carry
            value, slope = jax.value_and_grad(apart)(z)
            best = jnp.maximum(best, jnp.where(HONEST(z).argmax() == y, value, 0))
            return (jnp.clip(z + size * jnp.sign(slope), *ball), best), None

        return jax.lax.scan(step, (jnp.clip(start, *ball), 0.0), None, 25)[0][1]

    labels = jax.vmap(HONEST)(PHOTOS).argmax(1)
    found = ascent(e)(HONEST, PHOTOS, key=KEY).change.mean()
    for size in (0.2, 0.05, 0.0125, 0.003):
        starts = PHOTOS + np.float32(rng.uniform(-0.1, 0.1, size=(4, *PHOTOS.shape)))
        fixed = np.max([climbed(PHOTOS, labels, s, jnp.full(len(PHOTOS), size)) for s in starts], 0)
        assert found > fixed.mean()


def test_what_changes_elsewhere_is_judged_here():
    other = network(soft, {k: v + 0.3 * np.float32(rng.normal(size=v.shape)) for k, v in PARAMS.items()})
    there = ascent(e)(other, PHOTOS, key=KEY)
    here = attack.transfer(e)(HONEST, there, key=KEY)
    own = ascent(e)(HONEST, PHOTOS, key=KEY)
    kept = np.asarray(jax.vmap(HONEST)(there.pixels).argmax(1) == jax.vmap(HONEST)(PHOTOS).argmax(1))
    np.testing.assert_array_equal(here.change > 0, kept)
    np.testing.assert_array_equal(np.where(kept[:, None, None, None], there.pixels, PHOTOS), here.pixels)
    assert (here.change <= own.change + 1e-4).all()
    np.testing.assert_allclose(attack.transfer(e)(other, there, key=KEY).change, there.change, atol=1e-5)


def test_the_surrogate_is_climbed_away_from_the_models_own_map():
    """The surrogate's map lies 0.5 above the model's: from its own clean map it would go the way of the start."""
    value = explain.explanation(lambda f, x, t, key=None: (x + f(x)[0] + x**2, f(x)))
    model = lambda x: jnp.zeros(2)
    higher = smooth.Surrogate(lambda f, x: (), lambda f, settings, t: lambda x: f(x) + jnp.array([0.5, 0.0]))
    pixels = np.linspace(0.3, 0.6, 8, dtype=np.float32).reshape(8, 1, 1, 1)
    found = ascent(value, distance=l1, heat=lambda m, channels: m[..., 0], steps=10, restarts=1, surrogate=higher)(model, pixels, key=KEY)
    np.testing.assert_allclose(found.pixels, pixels + 0.1, atol=1e-6)


@pytest.mark.slow
def test_smoothing_is_attacked_through_its_noise():
    e_smooth = explain.smoothgrad(e, sigma=0.15, samples=8)
    options = {"epsilon": 0.1, "steps": 25, "restarts": 2, "surrogate": smooth.none()}
    adaptive = attack.largest_change(e_smooth, **options)(HONEST, PHOTOS, key=KEY)
    unaware = attack.largest_change(e, judged_by=e_smooth, **options)(HONEST, PHOTOS, key=KEY)
    assert adaptive.change.mean() > unaware.change.mean()


@pytest.mark.slow
def test_projections_are_attacked_through():
    data = np.float32(PHOTOS[:1] + 0.1 * rng.normal(size=(40, *PHOTOS.shape[1:])))
    projected = defend.project(e, data, neighbours=20, dimensions=5)
    goal = jax.vmap(lambda p: explain.heatmap(projected(HONEST, p, HONEST(p).argmax())))(np.roll(PHOTOS, 1, 0))
    options = {"surrogate": smooth.none(), "steps": 80, "constraint": attack.linf(0.1)}
    adaptive = attack.manipulation(projected, **options)(HONEST, PHOTOS, goal, key=KEY)
    unaware = attack.manipulation(e, judged_by=projected, **options)(HONEST, PHOTOS, goal, key=KEY)
    assert adaptive.loss.mean() < unaware.loss.mean()


NAN = PHOTOS.copy()
NAN[1, 2, 3, 0] = np.nan


@pytest.mark.parametrize("call, match", [
    (lambda: ascent(epsilon=0.0), "epsilon is positive, got 0"),
    (lambda: ascent(steps=0), "steps is a positive integer, got 0"),
    (lambda: ascent(restarts=0), "restarts is a positive integer, got 0"),
    (lambda: blind(steps=0), "steps is a positive integer, got 0"),
    (lambda: blind(area=0), r"area is a share of the image in \(0, 1\], got 0"),
    (lambda: ascent(e)(HONEST, NAN, key=KEY), "NaN"),
    (lambda: ascent(e)(HONEST, PHOTOS, labels=np.array([0, 1, 2, 3]), key=KEY), r"0\.\.2, got 0 to 3")])
def test_bad_input_is_named_before_any_compute(call, match):
    with pytest.raises(ValueError, match=match):
        call()
