"""A network in Keras on JAX: `stateless_call` is its function of parameters and state."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from keras import layers

CLASSES = ["cat", "cup", "rocket", "face", "eye"]


def network():
    """Random weights; yours come from keras.saving.load_model."""
    keras.utils.set_random_seed(0)
    convolution = lambda channels: layers.Conv2D(channels, 3, 2, padding="same", activation="relu")
    module = keras.Sequential([
        layers.Input((32, 32, 3)), convolution(8), layers.BatchNormalization(), convolution(16),
        layers.GlobalAveragePooling2D(), layers.Dense(5)])

    def apply(params, state, x):
        return module.stateless_call(params, state, x[None], training=False)[0][0]

    def train_apply(params, state, xs, key):
        return module.stateless_call(params, state, xs, training=True)

    return {"apply": apply, "train_apply": train_apply, "params": [v.value for v in module.trainable_variables],
            "state": [v.value for v in module.non_trainable_variables], "input_shape": (32, 32, 3), "classes": CLASSES}
