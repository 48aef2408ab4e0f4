"""Subset simulation against probabilities that are known, and brute force on a small network."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from xmanip_jax import explain, geometry, metrics

CENTRE = jnp.full(6, 0.5)


def estimates(score, repeats=24, **options):
    simulate = partial(geometry.subset_simulation, score, CENTRE, radius=0.5, particles=200, **options)
    found = jax.jit(jax.vmap(lambda key: simulate(key=key)))(jax.random.split(jax.random.key(3), repeats))
    assert found.reached.all()
    return found


@pytest.mark.parametrize("threshold", [3.5, 5.0])
def test_a_sum_of_uniform_numbers(threshold):
    """P(sum of 6 uniform numbers >= t), Irwin and Hall: from a fifth to a thousandth."""
    exact = 1 - scipy.stats.irwinhall(6).cdf(threshold)
    found = estimates(lambda z: z.sum() - threshold, moves=8)
    error = np.std(found.probability) / np.sqrt(len(found.probability))
    assert abs(np.mean(found.probability) - exact) < 4 * error
    inside = np.abs(found.probability / exact - 1) < 2 * found.coefficient_of_variation
    assert inside.mean() > 0.7, "the coefficient of variation says how far the estimates are"


def test_the_ball_ends_at_the_box():
    found = geometry.subset_simulation(lambda z: 0.1 - z[0], jnp.full(2, 0.1), key=jax.random.key(0), radius=0.3)
    assert found.probability == pytest.approx(0.25, abs=0.06)   # z[0] is uniform in [0, 0.4]
    assert found.example.min() >= 0 and found.example[0] <= 0.1


def test_what_is_not_reached_says_so():
    found = geometry.subset_simulation(lambda z: -1 - z.sum(), CENTRE, key=jax.random.key(0), radius=0.5, rounds=3)
    assert not found.reached and found.rounds == 3 and 0 < found.probability < 2e-3


def test_nan_is_below_every_level():
    score = lambda z: jnp.where(z[0] > 0.5, jnp.nan, z[1] - 0.5)
    found = geometry.subset_simulation(score, CENTRE, key=jax.random.key(0), radius=0.5)
    assert found.probability == pytest.approx(0.25, abs=0.05)


@pytest.mark.slow
def test_an_explanation_against_brute_force():
    """SAFARI's event, the same prediction and another map, on a small network."""
    weights = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(6, 16), (16, 3)])]
    f = lambda x: jnp.tanh(3 * x @ weights[0]) @ weights[1]
    e, label = explain.gradient(), f(CENTRE).argmax()
    clean = jnp.abs(e(f, CENTRE, label))

    def score(z):
        change = -0.2 - metrics.pearson(jnp.abs(e(f, z, label)), clean)
        return jnp.where(f(z).argmax() == label, change, -2.0)

    z = jax.random.uniform(jax.random.key(9), (1_000_000, 6), minval=0.4, maxval=0.6)
    exact = float(jnp.mean(jax.jit(jax.vmap(score))(z) >= 0))
    assert 1e-4 < exact < 0.05
    simulate = partial(geometry.subset_simulation, score, CENTRE, radius=0.1, moves=20)
    found = jax.jit(jax.vmap(lambda key: simulate(key=key)))(jax.random.split(jax.random.key(1), 20))
    assert np.mean(found.probability) == pytest.approx(exact, rel=0.15)


def test_a_point_outside_the_box_is_no_answer():
    """Its ball and the box do not meet: an error, or nan where x is not known."""
    simulate = lambda x: geometry.subset_simulation(lambda z: z[0], x, key=jax.random.key(0), radius=0.1, moves=1)
    for x in (1.5, -0.2, np.nan):
        with pytest.raises(ValueError, match=r"x lies in \[0, 1\], got values from"):
            simulate(jnp.array([0.5, x]))
    assert np.isnan(jax.jit(simulate)(jnp.array([0.5, 1.5])).probability)


@pytest.mark.parametrize(("options", "words"), [
    ({"particles": 50, "share": 0.1}, "at least 10 particles"), ({"share": 1.0}, r"share is in \(0, 1\)"),
    ({"radius": 0.0}, "radius"), ({"moves": 0}, "moves")])
def test_bad_numbers_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        geometry.subset_simulation(jnp.sum, CENTRE, key=jax.random.key(0), **{"radius": 0.1} | options)
