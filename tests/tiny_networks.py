"""Small dense networks, and the searches that judge them: compiled once for all tests of a network."""

import functools

import jax
import numpy as np

from xmanip_jax import attack, explain, smooth

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
PHOTOS = np.float32(rng.uniform(0.2, 0.8, size=(4, 5, 5, 1)))
SHAPES = {"a": (25, 16), "b": (16, 16), "out": (16, 3)}
PARAMS = {k: np.float32(rng.normal(size=s) * np.sqrt(3 / s[0])) for k, s in SHAPES.items()}
e = explain.gradient()


@functools.cache
def forward(act, after):
    return lambda p, x: after(act(act((4 * x - 2).ravel() @ p["a"]) @ p["b"]) @ p["out"])


def network(act, params=PARAMS, after=lambda z: z):
    """A dense network of two hidden layers, a Partial of its parameters."""
    return jax.tree_util.Partial(forward(act, after), params)


soft = lambda z: smooth.softplus_beta(z, 3.0)
HONEST = network(soft)


@functools.cache
def ascent(e=e, **options):
    options = {"epsilon": 0.1, "steps": 25, "restarts": 4, "surrogate": smooth.none(), **options}
    return attack.largest_change(e, **options)


@functools.cache
def blind(e=e, **options):
    return attack.random_search(e, **{"epsilon": 0.1, "steps": 150, **options})
