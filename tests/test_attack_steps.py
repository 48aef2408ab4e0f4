"""Single steps of the attacks against answers by hand: the keys that they draw, momentum, squares that shrink."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import attack, explain, metrics, smooth
from xmanip_jax.attack.apgd import checkpoints

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
free = lambda x: jnp.array([1.0, 0.0]) + 0 * x.sum()  # never changes its prediction


def seen_by(map, note):
    """An explanation that notes, on the host, what it is given, and the notes."""
    notes = []

    def core(f, x, target, *, key=None):
        jax.debug.callback(lambda v: notes.append(np.asarray(v)), note(x, key))
        return map(x, key), f(x)

    return explain.explanation(core), notes


def test_every_step_draws_a_key_of_its_own():
    """Three images, four steps: twelve keys, none of them twice, nor a verdict's."""
    pixels = np.float32(rng.uniform(0.3, 0.7, size=(3, 2, 2)))
    e, keys = seen_by(lambda x, key: x + jax.random.uniform(key, x.shape), lambda x, key: jax.random.key_data(key))
    goal, options = np.full((3, 2, 2), 0.25), {"surrogate": smooth.none()}
    runs = {
        "manipulation": lambda judge: attack.manipulation(e, steps=4, judged_by=judge, **options)(
            free, pixels, goal, labels=[0, 0, 0], key=KEY),
        "largest_change": lambda judge: attack.largest_change(e, epsilon=0.1, steps=4, restarts=1, judged_by=judge,
                                                              **options)(free, pixels, labels=[0, 0, 0], key=KEY)}
    for name, run in runs.items():
        verdict, judged = seen_by(lambda x, key: x, lambda x, key: jax.random.key_data(key))
        keys.clear()
        run(verdict)
        jax.effects_barrier()
        drawn, fixed = ({tuple(v.ravel()) for v in noted} for noted in (keys, judged))
        anchors = 3 if name == "largest_change" else 0  # clean, under the surrogate: with the verdict's keys
        assert len(drawn) == 12 + anchors, name
        assert len(drawn & fixed) == anchors


@pytest.mark.usefixtures("x64")
def test_ascent_has_the_momentum_of_the_paper():
    """Croce and Hein 2020, algorithm 1, on one number whose heat map is (m, 1 - m): the points that it visits."""
    clean, epsilon, steps = 0.5, 0.1, 40
    m, slope = lambda x: 0.5 + 0.4 * jnp.sin(30 * x), lambda x: np.cos(30 * x)
    e, visited = seen_by(lambda x, key: jnp.stack([m(x[0]), 1 - m(x[0])]), lambda x, key: x)
    apart = lambda now, before: 2 + now[0] - before[0]  # increases with m
    search = attack.largest_change(e, epsilon=epsilon, steps=steps, restarts=1, distance=apart, surrogate=smooth.none(),
                                   judged_by=e)
    found = search(free, np.full((1, 1), clean), labels=[0], key=KEY)
    jax.effects_barrier()
    visited = np.array([v.item() for v in visited])

    inside = lambda x: np.clip(x, clean - epsilon, clean + epsilon)
    start = next(x for x in visited if abs(x - clean) > epsilon / 50)
    x = before = start
    best, best_value, size, checked, gains, halved, value = start, -np.inf, 2 * epsilon, -np.inf, 0, False, None
    path, marks = [], checkpoints(steps)
    for i in range(steps):
        path.append(x)
        now = 0.4 * np.sin(30 * x)
        gains += value is not None and now > value
        value = now
        if now > best_value:
            best, best_value = x, now
        at, back, g = x, before, slope(x)
        if i in marks[1:]:
            since = i - marks[marks.index(i) - 1]
            halve = gains < 0.75 * since or (not halved and best_value == checked)
            if halve:
                size, at, back, g = size / 2, best, best, slope(best)
            halved, checked, gains = halve, best_value, 0
        z, share = inside(at + size * np.sign(g)), 1 if i == 0 else 0.75
        x, before = inside(at + share * (z - at) + (1 - share) * (at - back)), at
    for x in path:
        assert np.abs(visited - x).min() < 1e-9
    np.testing.assert_allclose(found.pixels[0, 0], best, atol=1e-9)


def visited_by_search(shape, channels, steps=200):
    """The images that random_search tries, none of which it accepts but the first."""
    e, tried = seen_by(lambda x, key: x, lambda x, key: x)
    none = lambda now, clean: jnp.zeros(())
    search = attack.random_search(e, epsilon=0.1, steps=steps, distance=none, channels=channels)
    search(free, np.full((1, *shape), 0.5, np.float32), labels=[0], key=KEY)
    jax.effects_barrier()
    tried = np.array([v.reshape(shape) for v in tried])
    tried = tried[np.abs(np.abs(tried - 0.5) - 0.1).reshape(len(tried), -1).max(1) < 1e-6]
    assert len(tried) == steps
    return tried


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape, channels, axis", [
    ((20, 20, 1), "auto", 2), ((3, 20, 20), 0, 0), ((300,), "auto", None), ((300, 2), -1, 1), ((12, 12), "auto", None),
    ((9, 9, 9, 1), "auto", 3), ((4, 50, 2), "auto", 2)])
def test_boxes_shrink_as_the_square_attack_says(shape, channels, axis):
    tried = visited_by_search(shape, channels)
    places = [n for k, n in enumerate(shape) if k != axis]
    start, first = tried[0], next(k for k in range(len(shape)) if k != axis)
    if len(places) > 1:  # stripes along the first axis of places
        assert (start == np.take(start, [0], first)).all()
    assert len(np.unique(start)) == 2
    parts = np.array([0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8])
    seen = 0
    for i in range(1, len(tried)):
        share = 0.8 / 2 ** (i >= parts * len(tried)).sum()
        side = np.round((share * np.prod(places)) ** (1 / len(places)))
        changed = tried[i] != start
        at = np.argwhere(changed if axis is None else changed.any(axis))
        if not len(at):
            continue
        extent = np.ptp(at, axis=0) + 1
        assert (extent <= np.clip(side, 1, places)).all()
        if len(places) > 1:  # the stripes do not change along the first axis: the box is seen whole
            assert extent[0] == np.clip(side, 1, places[0])
        inside = np.moveaxis(tried[i], axis, -1) if axis is not None else tried[i][..., None]
        box = tuple(slice(a, a + n) for a, n in zip(at.min(0), extent, strict=True))
        assert all(len(np.unique(inside[box][..., c])) == 1 for c in range(inside.shape[-1]))  # one sign a channel
        seen += 1
    assert seen > 0.4 * len(tried)


@pytest.mark.usefixtures("x64")
def test_scales_of_activations_have_a_floor():
    """The second activation's input does not vary: without the floor its beta were infinite."""
    f = lambda x: jax.nn.relu(jax.nn.relu(x * jnp.array([1.0, 3.0, 8.0])) * 0 + 2)
    np.testing.assert_allclose(smooth.activation_scales(f, jnp.ones(3)), np.std([1, 3, 8]) * np.array([1, 1e-6]))
    assert np.isfinite(smooth.softplus(f, 5 / smooth.activation_scales(f, jnp.ones(3)))(jnp.ones(3))).all()


def test_what_is_found_is_no_less_than_what_is_tried():
    """The search returns the best of the images that it tried."""
    e, tried = seen_by(lambda x, key: x**2, lambda x, key: x)
    pixels = np.float32(rng.uniform(0.2, 0.8, size=(1, 6, 6, 1)))
    found = attack.random_search(e, epsilon=0.1, steps=30)(free, pixels, labels=[0], key=KEY)
    jax.effects_barrier()
    lost = [1 - metrics.pearson(explain.heatmap(x.reshape(6, 6, 1) ** 2), found.clean.heatmap[0]) for x in tried]
    np.testing.assert_allclose(found.change[0], max(lost), atol=1e-5)


def test_every_restart_of_the_square_attack_begins_with_stripes():
    e, tried = seen_by(lambda x, key: x, lambda x, key: x)
    search = attack.random_search(e, epsilon=0.1, steps=3, restarts=2, distance=lambda now, clean: jnp.zeros(()))
    search(free, np.full((1, 8, 8, 1), 0.5, np.float32), labels=[0], key=KEY)
    jax.effects_barrier()
    moved = np.array([v.reshape(8, 8) for v in tried if np.abs(v - 0.5).max() > 0.05]) - 0.5
    assert len(moved) == 6
    for start in (moved[0], moved[3]):
        np.testing.assert_allclose(np.abs(start), 0.1, atol=1e-6)
        assert (start == start[:1]).all()
    assert (moved[0] != moved[3]).any()


def test_manipulation_starts_in_a_box_around_the_image():
    e, seen = seen_by(lambda x, key: x, lambda x, key: x)
    clean = np.full((1, 20, 20), 0.5, np.float32)
    attack.manipulation(e, steps=1, start_noise=0.2, surrogate=smooth.none())(
        free, clean, np.full((1, 20, 20), 1 / 400), labels=[0], key=KEY)
    jax.effects_barrier()
    start = next(v for v in seen if (v != clean[0]).any()) - 0.5
    assert -0.2 <= start.min() < -0.19 and 0.19 < start.max() <= 0.2
    assert abs(start.mean()) < 0.03
