"""What the axes of a map mean: heat maps, measures and budgets of rows, sequences, images, volumes, channels first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checks import compiled
from xmanip_jax import attack, explain, fool, metrics, objectives
from xmanip_jax.explain.heatmap import saliency
from xmanip_jax.metrics.places import channel_axis

rng = np.random.default_rng(0)
draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
LAST = {"image": (3, 4, 2), "volume": (2, 3, 4, 2), "film": (2, 2, 3, 4, 2)}
HEATS = {"heatmap": explain.heatmap, "saliency": saliency, "over_max": explain.over_max, "min_max": explain.min_max}


@pytest.mark.parametrize("shape", LAST.values(), ids=LAST)
@pytest.mark.parametrize("heat", HEATS.values(), ids=HEATS)
def test_where_the_channels_stand_changes_nothing(heat, shape):
    map = draw(*shape)
    wanted = heat(map)
    assert wanted.shape == shape[:-1]
    for axis in range(len(shape)):
        moved = np.moveaxis(map, -1, axis)
        np.testing.assert_allclose(heat(moved, channels=axis), wanted, rtol=1e-6)
        np.testing.assert_allclose(heat(moved, channels=axis - len(shape)), wanted, rtol=1e-6)
    assert heat(map, channels=None).shape == shape


@pytest.mark.parametrize("shape", [(5,), (5, 3)], ids=["row", "plane"])
def test_maps_of_one_or_two_axes_have_places_only_unless_told(shape):
    map = draw(*shape)
    np.testing.assert_allclose(explain.heatmap(map), np.abs(map) / np.abs(map).sum(), rtol=1e-6)


def test_a_sequence_says_that_it_has_channels():
    map = draw(5, 3)
    np.testing.assert_allclose(explain.heatmap(map, channels=-1), np.abs(map).sum(1) / np.abs(map).sum(), rtol=1e-6)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    map = jnp.full((100, 100, 3), 10.0, dtype)  # sums to 3e5: infinite in float16
    for heat in HEATS.values():
        assert heat(map).dtype == jnp.float32 and np.isfinite(heat(map)).all()
    np.testing.assert_allclose(explain.heatmap(map), 1e-4, rtol=1e-3)
    f = lambda x: x.reshape(-1)[:2] * jnp.asarray(3000, dtype)
    for e in (explain.integrated_gradients(steps=30), explain.integrated_gradients(steps=31, chunk=10),
              explain.smoothgrad(explain.gradient(), sigma=0.1, samples=30)):  # 30 logits of 3000 exceed float16
        map, logits = compiled(explain.with_logits(e))(f, jnp.ones((2, 2), dtype), 1, key=jax.random.key(0))
        np.testing.assert_allclose(map, [[0, 3000], [0, 0]], rtol=1e-2)
        np.testing.assert_allclose(logits, 3000, rtol=1e-2)


def test_mass_centres_have_a_coordinate_for_each_axis_of_places():
    volume = np.abs(draw(3, 4, 5))
    wanted = [np.tensordot(np.arange(n), volume.sum(tuple({0, 1, 2} - {k})), 1) / volume.sum()
              for k, n in enumerate(volume.shape)]
    np.testing.assert_allclose(metrics.mass_center(volume, channels=None), wanted, rtol=1e-5)
    np.testing.assert_allclose(objectives.mass_center(volume / volume.sum()), wanted, rtol=1e-5)
    first = np.stack([volume, 2 * volume])
    np.testing.assert_allclose(metrics.mass_center(first, channels=0), wanted, rtol=1e-5)
    np.testing.assert_allclose(metrics.mass_center([0.0, 1.0, 3.0]), [1.75])
    assert metrics.mass_center_distance(volume, volume[::-1], channels=None) > 0
    corner, other = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    corner[0, 0, 0] = other[1, 2, 3] = 1
    np.testing.assert_allclose(metrics.mass_center_shift(corner, other, channels=None), 1)
    np.testing.assert_allclose(metrics.mass_center_shift([[1.0, 0.0]], [[0.0, 1.0]]), np.sqrt(0.5))  # one row: 0 there


def test_ssim_of_volumes_and_rows_equals_scikit_image():
    compare = pytest.importorskip("skimage.metrics").structural_similarity
    for shape, axis in (((8, 7, 8), None), ((12,), None), ((3, 9, 8), 0)):
        a, b = rng.uniform(size=(2, *shape))
        with jax.enable_x64(True):
            got = float(metrics.ssim(a, b, data_range=1, channels=axis))
        assert abs(got - compare(a, b, data_range=1, win_size=7, channel_axis=axis)) < 1e-10
    with pytest.raises(ValueError, match="at most 2, got 7"):  # the last axis is channels unless told otherwise
        metrics.ssim(np.ones((9, 2, 9)), np.ones((9, 2, 9)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("shape, channels", [((6,), "auto"), ((6, 2), -1), ((2, 6), 0), ((2, 3, 2, 2), "auto"),
                                             ((2, 2, 3), 0)])
def test_pixel_flipping_of_any_input(shape, channels):
    x, w = draw(*shape), np.abs(draw(*shape))
    axis = channel_axis(len(shape), channels)
    evidence = x * w if axis is None else (x * w).sum(axis)
    f = lambda x: jnp.sum(x * w)[None]
    flip = lambda map, **options: jax.jit(lambda map: metrics.pixel_flipping(
        f, jnp.asarray(x), 0, map, key=jax.random.key(0), noise=0.0, channels=channels, **options))(map)
    steps = min(evidence.shape) ** evidence.ndim
    if len(set(evidence.shape)) == 1:
        wanted = evidence.sum() - np.cumsum(np.append(0, -np.sort(-evidence.ravel())))
        np.testing.assert_allclose(flip(evidence), wanted, rtol=1e-4, atol=1e-5)
    got = flip(evidence, grid=min(evidence.shape))
    assert got.shape == (steps + 1,) and abs(got[-1]) < 1e-5
    np.testing.assert_allclose(flip(x * w if axis is not None else evidence, grid=min(evidence.shape)), got)
    with pytest.raises(ValueError, match="the places of an input"):
        flip(np.ones((2,) * (len(shape) + 1)))


def test_frames_of_volumes():
    frame = metrics.frame((3, 4, 5))
    assert frame.sum() == 60 - 1 * 2 * 3 and frame[1, 1, 1] == 0 and frame[0].all()


@pytest.mark.parametrize("shape, channels, wanted", [((7, 3), "auto", (7, 3)), ((7, 3), -1, (7, 1)),
                                                     ((3, 7, 2), 0, (1, 7, 2)), ((2, 3, 4, 2), "auto", (2, 3, 4, 1))])
def test_a_pixel_is_all_channels_of_one_place(shape, channels, wanted):
    clean, move = np.full(shape, 0.5, np.float32), np.float32(rng.uniform(-0.4, 0.4, size=shape))
    changed = np.asarray(attack.l0(2, channels=channels)(clean + move, clean) != clean)
    axis = channel_axis(len(shape), channels)
    at = changed if axis is None else changed.any(axis)
    size = move**2 if axis is None else (move**2).sum(axis)
    np.testing.assert_array_equal(at, size >= np.sort(size.ravel())[-2])
    np.testing.assert_array_equal(changed, np.broadcast_to(at.reshape(wanted), shape))
    greedy = attack.greedy_pixels(channels=channels)
    passed, state = greedy.update(jnp.asarray(move), greedy.init(jnp.asarray(clean)))
    one = np.abs(move) if axis is None else np.abs(move).sum(axis)
    np.testing.assert_array_equal(np.asarray(state.used), one == one.max())
    np.testing.assert_array_equal(passed != 0, np.broadcast_to((one == one.max()).reshape(wanted), shape))


@pytest.mark.parametrize("call, match", [
    (lambda: explain.heatmap(np.ones((2, 2)), channels=2), "channels is an axis of 2, None or \"auto\", got 2"),
    (lambda: explain.over_max(np.ones((2, 2, 2)), channels="first"), "got 'first'"),
    (lambda: explain.min_max(np.ones(2), channels=0), "one axis has places only"),
    (lambda: explain.heatmap(np.ones(())), "at least one axis"),
    (lambda: attack.l0(1, channels=5)(np.ones((2, 2, 1)), np.ones((2, 2, 1))), "axis of 3"),
    (lambda: fool.stamp(np.ones((3, 3)), 1.0)(jnp.ones((2, 3, 1))), r"each place, \(2, 3\) .* got \(3, 3\)"),
    (lambda: objectives.raise_region(np.ones(4, bool))(*[objectives.View(None, jnp.ones((4, 4)), None)] * 2, None),
     r"heat map's shape \(4, 4\), got \(4,\)"),
    (lambda: objectives.hide_top_k(20)(*[objectives.View(None, jnp.ones((4, 4)), None)] * 2, None),
     "k is 1 to 16, got 20"),
    (lambda: objectives.match_map()(*[objectives.View(None, jnp.ones((4, 4)), None)] * 2, None), "needs a goal"),
    (lambda: explain.gradient()(lambda x: (x, x), jnp.ones(2), 0), "one array Float.classes., got tuple"),
    (lambda: explain.gradient()(lambda x: x[None], jnp.ones(2), 0), r"got shape \(1, 2\)"),
    (lambda: explain.gradient()(lambda x: {"logits": x}, jnp.ones(2), 0), "got dict"),
])
def test_what_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_trigger_covers_the_places_of_any_input():
    for shape, channels in (((4,), "auto"), ((4, 2), -1), ((2, 3, 3), 0), ((2, 2, 3, 1), "auto")):
        axis = channel_axis(len(shape), channels)
        places = [n for k, n in enumerate(shape) if k != axis]
        mask = rng.uniform(size=places) > 0.5
        got = fool.stamp(mask, 9.0, channels=channels)(jnp.zeros(shape))
        np.testing.assert_array_equal(got if axis is None else got.min(axis), 9 * mask)
