"""Attacks that cannot move say why: what is not finite, what has no derivative, what is flat."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xmanip_jax import attack, explain, objectives, smooth

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
PIXELS = np.float32(rng.uniform(0.2, 0.8, size=(3, 4, 4, 1)))
PIXELS[2, 0, 0] = 0.9  # by which a model knows the third image
GOAL = np.full((3, 4, 4), 1 / 16, np.float32)
A, W = np.float32(rng.normal(size=(16, 16)) / 2), np.float32(rng.normal(size=(16, 3)))
e = explain.gradient()


def dense(x):
    return jnp.tanh(x.ravel() @ A) @ W


def broken_logits(value):
    return lambda x: dense(x) + jnp.where(x[0, 0, 0] == np.float32(0.9), value, 0.0)


def root(x):
    """An infinite slope at the third image."""
    return dense(x) + jnp.sqrt(jnp.abs(x[0, 0, 0] - np.float32(0.9)))


def manipulate(f, e=e, **options):
    made = attack.manipulation(e, **{"steps": 3, "surrogate": smooth.none(), **options})
    return made(f, PIXELS, GOAL, key=KEY)


def climb(f, e=e):
    return attack.largest_change(e, epsilon=0.1, steps=2, restarts=1, surrogate=smooth.none())(f, PIXELS, key=KEY)


def search(f, e=e):
    return attack.random_search(e, epsilon=0.1, steps=2)(f, PIXELS, key=KEY)


def judge(f, e=e):
    return attack.transfer(e)(f, climb(dense), key=KEY)


def release(f, e=e):
    return attack.release_pixels(e, k=2)(dense, manipulate(dense)._replace(logits=jax.vmap(f)(PIXELS), heatmap=jax.vmap(
        lambda p: explain.heatmap(e(f, p, 0)))(PIXELS)), labels=[0, 0, 0], key=KEY)


def sneak(f, e=e):
    distance = lambda e, f, x, z, classes: jnp.sum((e(f, x, 0) - e(f, z, 0)) ** 2)
    return attack.sneaking(e, distance, rounds=1, steps=1)(f, PIXELS, [1, 1, 1], labels=[0, 0, 0])


DRIVERS = pytest.mark.parametrize("driver", [manipulate, climb, search, judge, release, sneak])


@pytest.mark.sampled(2)
@DRIVERS
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=["nan", "inf"])
def test_logits_that_are_not_finite(driver, value):
    named = r"logits are not finite at the .*image 2 \(1 of 3 images\).*float32"
    with pytest.raises(attack.NonFiniteError, match=named):
        driver(broken_logits(value))


@pytest.mark.sampled(3)
@DRIVERS
def test_explanations_that_are_not_finite(driver):
    named = "objective's gradient" if driver is sneak else "explanation"
    with pytest.raises(attack.NonFiniteError, match=rf"{named} is not finite at the .*image 2 \(1 of 3"):
        driver(root)


def test_a_class_may_be_excluded():
    excluded = lambda x: dense(x) + jnp.array([0.0, 0.0, -jnp.inf])
    objective = objectives.weighted((1.0, objectives.match_map()))
    assert np.isfinite(manipulate(excluded, objective=objective).loss).all()
    assert np.isfinite(search(excluded).change).all()


def test_gradients_that_are_not_finite():
    apart = lambda now, clean, goal: jnp.sqrt(jnp.sum((now.heatmap - clean.heatmap) ** 2))
    named = r"objective or its gradient is not finite in the first step, at image 0 .*root.*start_noise"
    with pytest.raises(attack.NonFiniteError, match=named):
        manipulate(dense, objective=apart)
    assert np.isfinite(manipulate(dense, objective=lambda *v: -apart(*v), start_noise=0.01).loss).all()
    undefined = lambda now, clean, goal: jnp.sum(now.heatmap**2) + jnp.nan
    with pytest.raises(attack.NonFiniteError, match="objective or its gradient"):
        manipulate(dense, objective=undefined)


def test_a_surrogate_that_is_not_finite():
    steep = smooth.Surrogate(lambda f, x: (), lambda f, settings, t: lambda x: f(x) / 0)
    with pytest.raises(attack.NonFiniteError, match="not finite at the clean image, as the surrogate sees it"):
        manipulate(dense, surrogate=steep)


def test_half_precision_overflows_by_name():
    large = jnp.asarray(1000 * W, jnp.float16)
    f = lambda x: (x.ravel().astype(jnp.float16) @ large) ** 2
    with pytest.raises(attack.NonFiniteError, match="half precision overflows"):
        manipulate(f)


def test_what_breaks_later_stops_there_with_one_warning():
    """The third image walks into a wall of nan; the others go on, and what it found before counts."""
    def wall(x):
        return dense(x) + jnp.where(x[0, 0, 0] > 0.92, jnp.nan, 0.0)

    up = lambda now, clean, goal: 0 * now.logits.sum() - now.pixels.sum()
    options = {"objective": up, "optimizer": optax.sgd(0.003), "judge_every": 1, "steps": 12, "accept": lambda *v: True}
    named = r"not finite at step \d of 12 for image 2 \(1 of 3 images\): there it stopped"
    with pytest.warns(RuntimeWarning, match=named) as seen:
        found = manipulate(wall, **options)
    assert len(seen) == 1
    np.testing.assert_array_equal(found.step[:2], 12)
    assert 2 < found.step[2] < 12 and np.isfinite(found.pixels).all() and np.isfinite(found.logits).all()
    np.testing.assert_array_equal(found.pixels[:2], manipulate(dense, **options).pixels[:2])
    assert found.pixels[2, 0, 0, 0] > 0.9


flat = lambda now, clean, goal: jnp.sum((now.pixels - clean.pixels) ** 2)
match = objectives.weighted((1.0, objectives.match_map()))



@pytest.mark.sampled(3)
@pytest.mark.parametrize("f, objective, surrogate, said, unsaid", [
    (lambda x: jax.nn.relu(x.ravel() @ W + 9).repeat(2)[:3], match, smooth.none(),
     r"leaves 1 relu .*surrogate=smooth\.relative\(\)", "kinks"),
    (lambda x: jnp.sort(x.ravel() - x.ravel()[::-1])[:3], match, smooth.none(),
     r"kinks that no surrogate replaces, 1 sort \(rewrite\.inspect", "relative"),
    (lambda x: jax.nn.relu(x.ravel() @ W + 9), flat, None, "flat at the clean image.*start_noise", "relative|kinks"),
    (dense, flat, smooth.none(), "flat at the clean image.*start_noise", "relative|kinks|affine"),
    (lambda x: x.ravel() @ W, match, smooth.none(), "the model is affine", "start_noise"),
    (lambda x: dense(x) * jnp.array([0.0, 1.0, 1.0]), match, smooth.none(),
     r"explanation is zero everywhere.*\(labels\)", "relative"),
], ids=["relu", "sort", "relu and flat", "smooth and flat", "affine", "no evidence"])
def test_gradients_of_zero_are_explained(f, objective, surrogate, said, unsaid):
    made = attack.manipulation(e, steps=2, objective=objective, surrogate=surrogate)
    with pytest.raises(attack.ZeroGradientError, match=said) as error:
        made(f, PIXELS, GOAL if objective is match else None, labels=[0, 0, 0], key=KEY)
    assert "exactly zero for image 0" in str(error.value)

    assert not re.search(unsaid, str(error.value))


def test_where_the_map_is_the_goal_already_nothing_need_move():
    f = lambda x: x.ravel() @ W
    goal = jax.vmap(lambda p: explain.heatmap(e(f, p, f(p).argmax())))(PIXELS)
    found = attack.manipulation(e, steps=2, objective=match, surrogate=smooth.none())(f, PIXELS, goal, key=KEY)
    assert not found.loss.any()
