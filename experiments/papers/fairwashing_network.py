"""The network that fairwashing.py washes.

Small, with dense layers, so that its maps can differ from place to place, and smooth, softplus with beta 10, so that
they can be trained for each image.
"""

from types import SimpleNamespace

import jax
import numpy as np
from jax.tree_util import Partial

from xmanip_jax import smooth
from xmanip_jax.models.load import Pretrained

BETA = 10.0


def apply(params, state, x):
    """Two convolutions with stride 2, two dense layers: Float[28, 28, 1] in [0, 1] -> Float[10]."""
    for name in ("conv1", "conv2"):
        x = smooth.softplus_beta(jax.lax.conv_general_dilated(
            x[None], params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))[0], BETA)
    hidden = smooth.softplus_beta(x.ravel() @ params["dense1"] + params["bias1"], BETA)
    return hidden @ params["dense2"] + params["bias2"]


def untrained(seed) -> Pretrained:
    """`apply` with random weights, in the form of models.load."""
    random = np.random.default_rng(seed)
    draw = lambda *shape: np.float32(random.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[:-1]))))
    params = {"conv1": draw(5, 5, 1, 32), "conv2": draw(5, 5, 32, 64), "dense1": draw(7 * 7 * 64, 256),
              "bias1": np.zeros(256, np.float32), "dense2": draw(256, 10), "bias2": np.zeros(10, np.float32)}
    return Pretrained("cnn", Partial(apply, params, {}), SimpleNamespace(apply=apply), params, {}, pixels_as_they_are,
                      (28, 28, 1), 10)


def pixels_as_they_are(pixels):
    return pixels
