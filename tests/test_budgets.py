"""Budgets in the unit in which they are given: inner ascents in pixels or in the unit of x, and what `fit` refuses."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xmanip_jax import certify, defend, train
from xmanip_jax.train import Ascent

pytestmark = pytest.mark.promotes("ranks")

KEY = jax.random.key(0)
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
PIXELS = np.random.default_rng(0).uniform(size=(6, 5, 5, 3)).astype(np.float32)
PIXELS[:, 0] = np.round(PIXELS[:, 0])  # black and white ones
LABELS = np.arange(6) % 3
W = np.random.default_rng(1).normal(size=(75, 3)).astype(np.float32) / 8


def normalised(pixels):
    return (pixels - MEAN) / STD


def net(x):
    return jnp.tanh(x.ravel() @ W)


def loss(x, y):
    return train.cross_entropy(net(x), y)


@pytest.mark.parametrize("random_start", [False, True])
def test_normalised_inputs_move_by_the_radius_and_no_more(random_start):
    """In [0, 1] they were clipped: by 1.96 at a radius of 0.1."""
    a = Ascent(0.1, 0.05, 3, random_start=random_start)
    x = normalised(PIXELS)
    z = jax.jit(jax.vmap(lambda x, y: train.ascend(lambda z: loss(z, y), x, a, key=KEY)))(x, LABELS)
    assert np.abs(z - x).max() == pytest.approx(0.1, abs=1e-5) and (jnp.abs(z - x).max((1, 2, 3)) > 0.09).all()
    up = jax.jit(jax.vmap(lambda x: train.ascend(jnp.sum, x, a._replace(step=0.3), key=KEY)))(x)
    np.testing.assert_allclose(up, x + 0.1, atol=1e-6)  # from -2 and from 2 alike
    assert (jax.vmap(loss)(z, LABELS) > jax.vmap(loss)(x, LABELS)).all()


PREPROCESSED = {
    "per channel": normalised,
    "inverted": lambda pixels: 1 - 2 * pixels,
    "in 0..255": lambda pixels: 255 * pixels - np.float32([123, 117, 104]),
    "by pixel": lambda pixels: pixels * np.linspace(0.5, 3, 75, dtype=np.float32).reshape(5, 5, 3),
}


@pytest.mark.parametrize("name", PREPROCESSED)
def test_an_ascent_in_pixels_is_the_ascent_of_the_pixels(name):
    """By hand: sign steps on loss(preprocess(pixels)), within the ball and [0, 1]."""
    preprocess = PREPROCESSED[name]
    a = Ascent(0.1, 0.04, 4, random_start=False, preprocess=preprocess)

    scale = np.abs(preprocess(np.ones((5, 5, 3), np.float32)) - preprocess(np.zeros((5, 5, 3), np.float32)))
    worse = lambda z, y: loss(z / scale.max(), y)  # no network of a saturated tanh

    def by_hand(pixels, y):
        box, z = certify.ball(pixels, 0.1, 0, 1), pixels
        for _ in range(4):
            z = train.sign_step(lambda p: worse(preprocess(p), y), z, box, 0.04)
        return preprocess(z)

    found = jax.jit(jax.vmap(lambda p, y: train.ascend(lambda z: worse(z, y), preprocess(p), a)))(PIXELS, LABELS)
    np.testing.assert_allclose(found / scale, jax.jit(jax.vmap(by_hand))(PIXELS, LABELS) / scale, atol=2e-6)
    noise = a._replace(random_start=True, steps=0)
    drawn = jax.jit(jax.vmap(lambda p, k: train.ascend(jnp.sum, preprocess(p), noise, key=k)))(
        PIXELS, jax.random.split(KEY, 6))
    assert 0.09 < (np.abs(drawn - preprocess(PIXELS)) / scale).max() <= 0.1 + 1e-5


def test_bounds_in_pixels_narrow_the_box():
    a = Ascent(0.3, 0.3, 1, low=0.2, high=0.6, random_start=False, preprocess=normalised)
    pixels = jnp.full((1, 1, 3), 0.5)
    for sign, wanted in ((1, 0.6), (-1, 0.2)):
        z = train.ascend(lambda z, s=sign: s * z.sum(), normalised(pixels), a)
        np.testing.assert_allclose(z, normalised(jnp.full((1, 1, 3), wanted)), rtol=1e-5)


def test_the_radius_holds_where_x_is_outside_of_the_bounds():
    z = train.ascend(jnp.sum, jnp.array([2.0, -1.0]), Ascent(0.1, 0.1, 1, low=0, high=1, random_start=False))
    np.testing.assert_allclose(z, [1.9, -0.9], rtol=1e-6)


@pytest.mark.parametrize("preprocess", [lambda p: (p - p.mean()) / p.std(), lambda p: p[..., ::-1], lambda p: p**2,
                                        lambda p: p.mean(-1, keepdims=True)],
                         ids=["by image", "channels turned", "squared", "grey"])
def test_a_ball_of_pixels_that_is_no_box_is_refused(preprocess):
    with pytest.raises(ValueError, match="affine in each number"):
        train.ascend(jnp.sum, jnp.ones((5, 5, 3)), Ascent(0.1, 0.1, 1, random_start=False,
                                                                 preprocess=preprocess))


def fit(p, preprocess=normalised, images=PIXELS, **options):
    own = SimpleNamespace(apply=lambda params, state, x: params * net(x))
    run = train.fit(optax.sgd(1.0), terms=((1.0, defend.gradient_norm()), (1.0, p)), batch=6, steps=1,
                    preprocess=preprocess, devices=jax.devices()[:1], **options)
    return run(own, train.begin(jnp.ones(()), {}, optax.sgd(1.0)), images, LABELS)


def test_fit_trains_on_neighbours_within_the_budget_in_pixels():
    a, seen = Ascent(0.1, 0.05, 3, preprocess=normalised), []

    def core(f, x, y, key):
        z = train.ascend(lambda z: train.cross_entropy(f(z), y), x, a, key=key)
        jax.debug.callback(lambda *pair: seen.append(pair), x, z)
        return jnp.zeros(()), f(z), z

    fit(train.penalty(core, moves=True, unit=a.unit))
    jax.effects_barrier()
    assert len(seen) == 6
    for x, z in seen:
        moved = z * STD + MEAN
        assert 0.08 < np.abs(moved - (x * STD + MEAN)).max() <= 0.1 + 1e-5
        assert moved.min() > -1e-5 and moved.max() < 1 + 1e-5


BUDGETS = {"adversarial": defend.adversarial(Ascent(0.1, 0.1, 1)), "trades": defend.trades(Ascent(0.1, 0.1, 1)),
           "llr": defend.local_linearity(Ascent(0.1, 0.1, 1)), "cure": defend.cure(step=0.1),
           "gradient alignment": defend.gradient_alignment(radius=0.1),
           "interval width": defend.interval_width(0.1), "atex": defend.atex(net, radius=0.1)}


@pytest.mark.parametrize("name", BUDGETS)
def test_fit_refuses_budgets_that_are_not_in_pixels(name):
    with pytest.raises(ValueError, match=r"the budget of terms\[1\] is not in pixels.*give its Ascent"):
        fit(BUDGETS[name])


def test_fit_takes_the_same_map_by_what_it_computes():
    again = lambda pixels: pixels / STD - MEAN / STD
    fit(defend.adversarial(Ascent(0.1, 0.1, 1, preprocess=again)))
    fit(defend.adversarial(Ascent(0.1, 0.1, 1)), preprocess=lambda pixels: pixels + 0.0)
    fit(defend.cure(step=0.1), preprocess=lambda pixels: pixels, images=normalised(PIXELS))
    with pytest.raises(ValueError, match=r"in pixels in \[0, 1\], the images lie in \[0, 255\]"):
        fit(defend.adversarial(Ascent(0.1, 0.1, 1, preprocess=lambda p: p / 255)), lambda p: p / 255, 255 * PIXELS)


def test_fit_preprocesses_image_by_image():
    """As attacks do: a standardisation of each image by itself is not one of the batch."""
    own = SimpleNamespace(apply=lambda params, state, x: params * net(x))
    standard = lambda pixels: (pixels - pixels.mean()) / pixels.std()
    images = PIXELS * np.linspace(0.1, 1, 6, dtype=np.float32)[:, None, None, None]
    run = lambda images, **options: train.fit(
        optax.sgd(1.0), batch=6, steps=1, devices=jax.devices()[:1], **options)(
        own, train.begin(jnp.ones(()), {}, optax.sgd(1.0)), images, LABELS)
    np.testing.assert_allclose(run(images, preprocess=standard).params,
                               run(np.stack([standard(p) for p in images])).params, rtol=1e-5)
