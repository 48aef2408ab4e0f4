"""Many points within a budget of memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import geometry, smooth

W = jax.random.normal(jax.random.key(0), (64, 32))
POINTS = jax.random.normal(jax.random.key(1), (23, 32))


def measure(point, w):
    x, key = point["x"], point["key"]
    g = lambda x: jnp.sum(smooth.softplus_beta(w @ x, 2.0) ** 2)
    return geometry.frobenius_norm(g, x, key=key, samples=16)


def test_every_chunk_gives_the_same_numbers_within_the_budget():
    points = {"x": POINTS, "key": jax.random.split(jax.random.key(2), 23)}
    whole = geometry.sweep(measure, points, W)
    assert whole.value.shape == (23,) and isinstance(whole.value, np.ndarray)
    for options in ({"chunk": 10}, {"memory": 80_000}):
        seen = []
        part = geometry.sweep(measure, points, W, progress=lambda *done, seen=seen: seen.append(done), **options)
        np.testing.assert_allclose(part.value, whole.value, rtol=1e-5)
        assert seen[-1] == (23, 23) and sorted(set(seen)) == seen
    chunk = seen[0][0]  # the budget's
    take = lambda b: jax.tree.map(lambda v: v[:b], points)
    assert 1 < chunk < 23 and geometry.memory_of(measure, take(chunk), W) <= 80_000
    assert geometry.memory_of(measure, take(min(2 * chunk, 23)), W) > 80_000


def test_what_is_refused():
    double = lambda x: 2 * x
    for match, call in (("memory of 100 B is too small: one example needs 342 B",
                         lambda: geometry.sweep(double, POINTS, memory=100)),
                        ("same length", lambda: geometry.sweep(double, {"a": POINTS, "b": POINTS[:2]})),
                        ("same length", lambda: geometry.sweep(double, POINTS[:0])),
                        ("chunk is a positive integer, got 0", lambda: geometry.sweep(double, POINTS, chunk=0))):
        with pytest.raises(ValueError, match=match):
            call()
