"""A network in flax linen: apply, parameters and state, and what training does to the state."""

import flax.linen as nn
import jax
import jax.numpy as jnp

CLASSES = ["cat", "cup", "rocket", "face", "eye"]


class Network(nn.Module):
    """x: Float[b, 32, 32, 3] -> logits Float[b, 5]."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(8, (3, 3), 2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.relu(nn.Conv(16, (3, 3), 2)(x))
        return nn.Dense(5)(x.mean((1, 2)))


def network():
    """Random weights; yours come from a file."""
    module = Network()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

    def apply(params, state, x):
        return module.apply({"params": params, **state}, x[None])[0]

    def train_apply(params, state, xs, key):
        return module.apply({"params": params, **state}, xs, train=True, mutable=["batch_stats"])

    return {"apply": apply, "params": variables["params"], "state": {"batch_stats": variables["batch_stats"]},
            "train_apply": train_apply, "input_shape": (32, 32, 3), "classes": CLASSES,
            "preprocess": lambda pixels: 2 * pixels - 1}
