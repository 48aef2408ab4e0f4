"""Explanations that average over noise, in every comparison of two maps: a key goes in, the same for both."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import attack, defend, explain, smooth, train
from xmanip_jax.train import Ascent

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
PARAMS = {"a": RANDOM.normal(size=(16, 8)).astype(np.float32), "b": RANDOM.normal(size=(8, 3)).astype(np.float32)}
X, Z = RANDOM.uniform(size=(2, 4, 4, 1)).astype(np.float32)
FIXED = Ascent(0.1, 0.05, 2, random_start=False)
NOISY = {"smoothgrad": explain.smoothgrad(explain.gradient(), sigma=0.3, samples=3),
         "uniform gradient": explain.uniform_gradient(explain.gradient_x_input(), radius=0.3, samples=3)}


def apply(params, state, x):
    return smooth.softplus_beta(x.ravel() @ params["a"], 3.0) @ params["b"]


MODEL = jax.tree_util.Partial(apply, PARAMS, None)
COMPARED = {
    "two classes": lambda e, z, key: defend.two_class_discrepancy(e, MODEL, X, z, (0, 2), key=key),
    "all classes": lambda e, z, key: defend.discrepancy(e, MODEL, X, z, 0, key=key),
    "one class": lambda e, z, key: defend.discrepancy(e, MODEL, X, z, 0, one_class=True, key=key),
}


@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.parametrize("noise", NOISY)
def test_an_image_is_no_way_from_itself(name, noise):
    far = jax.jit(partial(COMPARED[name], NOISY[noise]))
    assert far(X, KEY) == 0 and far(Z, KEY) > 0.01
    assert abs(far(Z, KEY) - far(Z, jax.random.key(1))) > 1e-4
    with pytest.raises(ValueError, match=r"pass key=jax.random.key"):
        COMPARED[name](NOISY[noise], Z, None)


def noisier(sigma):
    return explain.smoothgrad(explain.gradient(), sigma=sigma, samples=3)


PENALTIES = {
    "int": lambda e, a: defend.interpretability(a, e, gamma=1.0),
    "int-adv": lambda e, a: defend.interpretability(a, e, gamma=1.0, at="attacked"),
    "int2, one class": lambda e, a: defend.interpretability(a, e, gamma=1.0, inner="loss", one_class=True),
    "far": lambda e, a: defend.attribution_robustness(a, e),
    "adv far": lambda e, a: defend.attribution_robustness(a, e, at="attacked"),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_train_with_noise(name):
    """Nothing at a radius of 0, a finite slope beyond; without an ascent the penalty is the comparison by hand."""
    make = PENALTIES[name]
    at_x = make(NOISY["smoothgrad"], Ascent(0.0, 0.1, 1))
    assert abs(jax.jit(lambda key: at_x(apply, PARAMS, None, X, 0, key))(KEY)) < 1e-6
    loss = train.training_loss((1.0, make(NOISY["smoothgrad"], Ascent(0.1, 0.05, 2))))
    step = jax.jit(jax.value_and_grad(lambda p, k: loss(apply, p, None, X[None], np.array([0]), k[None])[0]))
    values = [step(PARAMS, k) for k in jax.random.split(KEY, 2)]
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(values)) and values[0][0] != values[1][0]
    with pytest.raises(ValueError, match=r"pass key=jax.random.key"):
        make(NOISY["smoothgrad"], FIXED)(apply, PARAMS, None, X, 0)


def test_the_noise_is_not_that_of_the_start():
    """An explanation that is its own noise shows the key that it gets: another than the one that draws the start."""
    drawn = lambda f, x, target, *, key=None: x * jax.random.uniform(key, x.shape, x.dtype, -1, 1)
    z = train.ascend(jnp.sum, X, Ascent(0.1, 0.0, 0), key=KEY)
    found = defend.interpretability(Ascent(0.1, 0.0, 0), drawn, gamma=1.0, one_class=True)(
        apply, PARAMS, None, X, 0, KEY)
    same = jnp.abs((z - X) * jax.random.uniform(KEY, X.shape, X.dtype, -1, 1)).sum()
    assert 0 < found < jnp.abs(z - X).sum() and abs(found - same) > 1e-3


def label_alone(e, f, x, z, classes):
    """A distance of a user's own, who knows nothing of keys."""
    return jnp.abs(e(f, x, classes[0]) - e(f, z, classes[0])).sum()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("distance", [defend.two_class_discrepancy, label_alone], ids=["two classes", "label alone"])
def test_sneaking_with_noise(distance):
    pixels = RANDOM.uniform(size=(3, 4, 4, 1)).astype(np.float32)
    labels = jax.vmap(MODEL)(pixels).argmax(1)
    sneak = attack.sneaking(NOISY["smoothgrad"], distance, multiples=(1.0,), rounds=4, steps=3, first_epsilon=0.5)
    found = sneak(MODEL, pixels, (labels + 1) % 3, key=KEY)
    assert found.success.any()
    far = lambda p, z, y, own: distance(
        lambda f, x, t, key=None: NOISY["smoothgrad"](f, x, t, key=own), MODEL, p, z, (y, (y + 1) % 3))
    wanted = jax.vmap(far)(pixels, found.pixels[0], labels, jax.random.split(KEY, 3))
    np.testing.assert_allclose(found.distance[0][found.success[0]], wanted[found.success[0]], rtol=1e-4)
    assert (sneak(MODEL, pixels, (labels + 1) % 3, key=KEY).pixels == found.pixels).all()
    with pytest.raises(ValueError, match=r"pass key=jax.random.key"):
        sneak(MODEL, pixels, (labels + 1) % 3)
