"""The genetic search: inside the ball, the prediction kept, better than its first population."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import attack, explain

KEY = jax.random.key(0)
PIXELS = jnp.linspace(0.2, 0.8, 32).reshape(2, 4, 4, 1)


def net(x):
    bends = jnp.sin(5 * x + jnp.arange(16.0).reshape(4, 4, 1))
    return jnp.stack([x.sum() + bends.sum(), 20 - bends.sum()])


def searched(steps, **options):
    search = attack.genetic_search(explain.gradient(), epsilon=0.1, steps=steps, population=20, parents=5, **options)
    return search(net, PIXELS, key=KEY)


def test_what_it_finds():
    first, found = searched(20), searched(200)
    assert (found.change > first.change + 0.05).all()
    assert np.abs(found.pixels - PIXELS).max() <= 0.1 + 1e-6
    assert (found.logits.argmax(1) == found.clean.logits.argmax(1)).all()
    assert np.isnan(found.zero_gradient).all()

def test_predictions_stay_where_most_moves_lose_them():
    """A boundary through the clean image's ball: the members beyond it are never the best."""
    edge = lambda x: jnp.stack([jnp.sin(9 * x).sum(), jnp.sin(9 * PIXELS[0]).sum() - 0.05 + 0 * x.sum()])
    search = attack.genetic_search(explain.gradient(), epsilon=0.1, steps=200, population=20, parents=5)
    found = search(edge, PIXELS[:1], key=KEY)
    assert found.change[0] > 0 and found.logits.argmax() == found.clean.logits.argmax()


def test_a_generation_needs_parents_and_children():
    for numbers in ({"parents": 1}, {"parents": 50}):
        with pytest.raises(ValueError, match="2 <= parents < population"):
            attack.genetic_search(explain.gradient(), epsilon=0.1, **numbers)
