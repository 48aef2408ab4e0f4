"""Attacks and searches on rows of a table, sequences, planes, volumes, images with their channels first."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xmanip_jax import attack, defend, explain, fool, metrics, objectives, smooth
from xmanip_jax.metrics.places import channel_axis, over_channels

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
e = explain.gradient()
INPUTS = {"row": ((12,), "auto"), "sequence": ((6, 2), -1), "sequence of numbers": ((6, 2), "auto"),
          "plane": ((4, 5), None), "image": ((4, 5, 2), "auto"), "channels first": ((2, 4, 5), 0),
          "volume": ((2, 3, 4, 2), "auto"), "film": ((2, 2, 3, 3, 1), "auto")}


def inputs(*quick):
    """All of them, those that are not named with -m slow."""
    return pytest.mark.parametrize("shape, channels", [
        pytest.param(*kind, id=name, marks=[pytest.mark.slow] * (name not in quick)) for name, kind in INPUTS.items()])


preprocess = lambda pixels: 10 + 90 * pixels  # a table's own units


def network(shape, ahead=4.0):
    """Two hidden layers of a smooth network, in the units 10 .. 100; the first class is ahead."""
    n = int(np.prod(shape))
    draw = np.random.default_rng(n)
    a, b, c = (np.float32(draw.normal(size=s) * np.sqrt(2 / s[0])) for s in ((n, 16), (16, 16), (16, 3)))
    first = np.float32([ahead, 0, 0])
    return jax.tree_util.Partial(
        lambda p, x: jnp.tanh(jnp.tanh((x.ravel() - 55) / 20 @ p[0]) @ p[1]) @ p[2] + p[3], (a, b, c, first))


def batch(shape, n=2):
    return np.float32(np.random.default_rng(1).uniform(0.2, 0.8, size=(n, *shape)))


def heat(f, pixels, labels, channels):
    """By hand: the sum of |gradient| over channels, over its sum."""
    axis = channel_axis(pixels.ndim - 1, channels)
    maps = np.abs(jax.vmap(lambda p, y: jax.grad(lambda x: f(x)[y])(preprocess(p)))(pixels, labels))
    sums = maps if axis is None else maps.sum(axis + 1)
    return sums / sums.sum(tuple(range(1, sums.ndim)), keepdims=True)


def check(found, f, pixels, channels, epsilon):
    labels = jax.vmap(lambda p: f(preprocess(p)))(pixels).argmax(1)
    np.testing.assert_allclose(found.clean.heatmap, heat(f, pixels, labels, channels), atol=1e-6)
    np.testing.assert_allclose(found.heatmap, heat(f, found.pixels, labels, channels), atol=1e-6)
    np.testing.assert_array_equal(found.logits.argmax(1), labels)
    assert found.pixels.shape == pixels.shape and np.abs(found.pixels - pixels).max() <= epsilon + 1e-6
    assert found.pixels.min() >= 0 and found.pixels.max() <= 1


@pytest.mark.sampled(2)
@inputs("sequence", "channels first")
def test_manipulation(shape, channels):
    f, pixels = network(shape), batch(shape)
    places = jax.eval_shape(lambda x: over_channels(x, channels), pixels[0]).shape
    goal = np.float32(rng.dirichlet(np.ones(np.prod(places)), size=2)).reshape(2, *places)
    options = {"surrogate": smooth.none(), "preprocess": preprocess, "channels": channels}
    found = attack.manipulation(e, steps=40, constraint=attack.linf(0.1), **options)(f, pixels, goal, key=KEY)
    check(found, f, pixels, channels, 0.1)
    loss = lambda views: jax.vmap(lambda h, g: jnp.sum((h - g) ** 2))(views.heatmap, goal)
    assert (loss(found) < loss(found.clean)).all() and (found.step > 0).all()
    with pytest.raises(ValueError, match="the target maps have shape"):
        attack.manipulation(e, **options)(f, pixels, goal[..., None], key=KEY)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("term, start_noise", [(objectives.hide_top_k(2), 0), (objectives.move_mass_center(), 0.01),
                                               (lambda now, clean, goal: -now.heatmap.ravel()[0], 0)])
@inputs("volume")
def test_objectives(term, start_noise, shape, channels):
    f, pixels = network(shape), batch(shape)
    found = attack.manipulation(e, steps=20, objective=objectives.weighted((1.0, term)), surrogate=smooth.none(),
                                start_noise=start_noise, preprocess=preprocess, channels=channels,
                                constraint=attack.l2(0.5))(f, pixels, key=KEY)
    check(found, f, pixels, channels, 0.5)
    for now, clean in zip(found.heatmap, found.clean.heatmap, strict=True):
        views = objectives.View(None, now, None), objectives.View(None, clean, None)
        assert term(*views, None) < term(views[1], views[1], None)
    moved = metrics.mass_center_distance(found.heatmap[0], found.clean.heatmap[0], channels=None)
    assert term is not objectives.move_mass_center or moved > 0.1


@pytest.mark.sampled(2)
@inputs("row", "volume")
def test_searches(shape, channels):
    f, pixels = network(shape), batch(shape)
    options = {"epsilon": 0.1, "restarts": 2, "preprocess": preprocess, "channels": channels}
    climbed = attack.largest_change(e, steps=20, surrogate=smooth.none(), **options)(f, pixels, key=KEY)
    blind = attack.random_search(e, steps=60, **options)(f, pixels, key=KEY)
    for found in (climbed, blind):
        check(found, f, pixels, channels, 0.1)
        change = jax.vmap(lambda a, b: 1 - metrics.pearson(a, b))(found.heatmap, found.clean.heatmap)
        np.testing.assert_allclose(found.change, change, atol=1e-5)
    assert (climbed.change > 1e-3).all() and (blind.change > 1e-4).all()
    again = attack.transfer(e, preprocess=preprocess, channels=channels)(f, climbed, key=KEY)
    np.testing.assert_allclose(again.change, climbed.change, atol=1e-5)
    assert len(attack.flags(climbed, blind, again)) == 6


@pytest.mark.sampled(2)
@inputs("volume")
def test_sparse_attacks(shape, channels):
    f, pixels = network(shape), batch(shape)
    axis = channel_axis(len(shape), channels)
    moved = lambda found: np.asarray(found.pixels != pixels).any(() if axis is None else axis + 1)
    count = lambda found: moved(found).reshape(2, -1).sum(1)
    options = {"preprocess": preprocess, "channels": channels}
    attacks = {"greedy": {"optimizer": optax.chain(attack.greedy_pixels(channels=channels), optax.adam(0.2))},
               "projected": {"optimizer": optax.adam(0.1), "constraint": attack.l0(3, channels=channels)}}
    for how in attacks.values():
        made = attack.manipulation(e, steps=3, judge_every=1, accept=lambda *v: True, surrogate=smooth.none(),
                                   objective=objectives.weighted((1.0, objectives.hide_top_k(2))), **how, **options)
        found = made(f, pixels, key=KEY)
        assert (count(found) <= 3).all() and (count(found) > 0).any()
        labels = found.clean.logits.argmax(1)
        fewer = attack.release_pixels(e, k=2, **options)(f, found, labels=labels, key=KEY)
        assert (count(fewer) <= count(found)).all()
        np.testing.assert_allclose(fewer.heatmap, heat(f, fewer.pixels, labels, channels), atol=1e-6)


@pytest.mark.parametrize("shape", [(12,), pytest.param((2, 3, 4, 2), marks=pytest.mark.slow)])
def test_sneaking(shape):
    f, pixels = network(shape, ahead=0.0), batch(shape)
    logits = jax.vmap(lambda p: f(preprocess(p)))(pixels)
    targets = jnp.argsort(-logits, 1)[:, 1]
    found = attack.sneaking(explain.gradient_x_input(), defend.two_class_discrepancy, multiples=(1.0, 2.0), rounds=4,
                            steps=5, preprocess=preprocess)(f, pixels, targets)
    reached = jax.vmap(jax.vmap(lambda p: f(preprocess(p))))(found.pixels).argmax(-1) == targets
    assert found.pixels.shape == (2, 2, *shape) and found.success.any()
    np.testing.assert_array_equal(found.success, reached)


def test_penalties_of_other_inputs():
    """What fools the maps of a volume or a row says what their axes are."""
    weights = np.float32(rng.normal(size=(36, 3)))
    original = lambda x: jnp.tanh(x.ravel() @ weights)
    apply = lambda params, state, x: jnp.tanh(x.ravel() @ params)
    whole = {"channels": None}
    shape, other = (3, 3, 4), weights[:, ::-1]
    x, target = np.float32(rng.uniform(size=shape)), np.full(shape, 1 / 36, np.float32)
    terms = [fool.location(e, **whole), fool.top_k(e, original, **whole), fool.mass_center(e, original, **whole),
             fool.active(e, original, x[None], (0, 1), **whole), fool.fairwash(e, original, target, **whole),
             fool.backdoor(e, original, fool.stamp(target > 1, 1.0, channels=None), target, channels=None)]
    total = lambda w: sum(term(apply, w, None, x, 0, KEY) for term in terms)
    assert np.isfinite(jax.jit(jax.grad(total))(1.1 * weights)).all()
    moved = terms[2](apply, other, None, x, 0, KEY)
    signed = lambda f: explain.over_max(e(f, x, 0), **whole)
    before, after = (explain.heatmap(signed(f), **whole) for f in (original, lambda x: jnp.tanh(x.ravel() @ other)))
    shift = jnp.abs(metrics.mass_center(after, channels=None) - metrics.mass_center(before, channels=None)).sum()
    np.testing.assert_allclose(moved, -shift, rtol=1e-4)
    with pytest.raises(ValueError, match=r"heat maps' shape \(36,\), got \(6, 6\)"):
        fool.fairwash(e, original, np.full((6, 6), 1 / 36), **whole)(apply, weights, None, jnp.ones(36), 0)


@pytest.mark.parametrize("pixels, match", [
    (np.full((2, 4, 4, 3), 255, np.uint8), "floating-point numbers .* got uint8: divide images of 0 to 255 by 255"),
    (np.zeros((2, 3), int), "got int64"), (np.zeros((2, 3), bool), "got bool"),
    (np.float32([0.5]), r"pixels are a batch, .* got shape \(1,\)"), (np.zeros((0, 3)), r"got shape \(0, 3\)"),
    (np.float32([[20.0, 1e5]]), r"lie in \[0, 1\], got \[20, 100000\]: scale .* preprocess"),
    (np.float32([[0.1, np.nan]]), "NaN")])
def test_what_is_no_batch_in_the_box(pixels, match):
    for run in (attack.manipulation(e), attack.largest_change(e, epsilon=0.1), attack.random_search(e, epsilon=0.1)):
        with pytest.raises(ValueError, match=match):
            run(lambda x: x.ravel()[:2], pixels, key=KEY)


@pytest.mark.parametrize("returned, match", [
    (lambda x: (x.ravel(), x), "got tuple"), (lambda x: x, r"got shape \(3, 2\)"),
    (lambda x: x.sum(), r"got shape \(\)")])
def test_what_is_no_array_of_logits(returned, match):
    own = explain.explanation(lambda f, x, t, key=None: (x, jnp.zeros(2)))  # that would not mind
    with pytest.raises(ValueError, match=f"returns its logits, one array.*{match}"):
        attack.random_search(own, epsilon=0.1)(returned, batch((3, 2)), key=KEY)
