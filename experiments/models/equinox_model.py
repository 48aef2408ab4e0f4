"""A network in equinox: the module is the model. Its channels come first, which `preprocess` brings about."""

import equinox as eqx
import jax
import jax.numpy as jnp

CLASSES = ["cat", "cup", "rocket", "face", "eye"]


def network():
    """Random weights; yours come from a file."""
    first, second, third = jax.random.split(jax.random.key(0), 3)
    module = eqx.nn.Sequential([
        eqx.nn.Conv2d(3, 8, 3, stride=2, padding=1, key=first), eqx.nn.Lambda(jax.nn.gelu),
        eqx.nn.Conv2d(8, 16, 3, stride=2, padding=1, key=second), eqx.nn.Lambda(jax.nn.gelu), eqx.nn.Dropout(),
        eqx.nn.Lambda(lambda x: x.mean((1, 2))), eqx.nn.Linear(16, 5, key=third)])
    return {"model": eqx.nn.inference_mode(module), "input_shape": (32, 32, 3), "classes": CLASSES,
            "preprocess": lambda pixels: jnp.transpose(pixels, (2, 0, 1))}
