"""Small random networks of every kind that bounds support: (shapes of the weights, apply(weights, x))."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from xmanip_jax import models, smooth
from xmanip_jax.pooling import avg_pool

IMAGE = 6, 6, 2
BETA = 3.0

ACTIVATIONS = {"relu": jax.nn.relu, "softplus": lambda z: smooth.softplus_beta(z, BETA), "relu6": jax.nn.relu6,
               "softplus6": lambda z: smooth.softplus_beta6(z, BETA), "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid,
               "jax softplus": jax.nn.softplus}


def conv(x, w, stride=1, padding="SAME"):
    return lax.conv_general_dilated(x[None], w, (stride, stride), padding,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def batch_norm(x, scale, shift):
    return (x - shift) * (1 + 0.3 * scale) + 0.5 * shift


def dense(act, w, x):
    h = act(w["a"] @ x.ravel() + w["p"])
    return w["c"] @ act(w["b"] @ h + w["q"]) + w["r"]


def convolutional(act, w, x, pool=None):
    h = act(conv(x, w["k"], padding=((1, 1), (1, 1))) + w["s"])
    h = pool(h) if pool else h
    h = act(conv(h, w["l"], 2) + w["t"])
    return h.mean((0, 1)) @ w["o"]


def residual(act, w, x):
    h = act(batch_norm(conv(x, w["k"]), w["s"], w["u"]))
    inner = batch_norm(conv(act(conv(h, w["m"]) + w["s"]), w["n"]), w["u"], w["s"])
    h = act(h + inner)
    small = jnp.concatenate([h[::2, ::2], -h[1::2, 1::2]], -1)
    return act(small.reshape(-1)) @ w["e"]


DENSE = {"a": (7, 72), "p": (7,), "b": (5, 7), "q": (5,), "c": (3, 5), "r": (3,)}
CONV = {"k": (3, 3, 2, 4), "s": (4,), "l": (2, 2, 4, 3), "t": (3,), "o": (3, 3)}
RESIDUAL = {"k": (3, 3, 2, 3), "s": (3,), "u": (3,), "m": (3, 3, 3, 3), "n": (3, 3, 3, 3), "e": (54, 3)}
NETWORKS = {
    "dense": (DENSE, dense),
    "conv": (CONV, convolutional),
    "average": (CONV, partial(convolutional, pool=lambda h: avg_pool(h, 3, 2))),
    "max": (CONV, partial(convolutional, pool=lambda h: models.max_pool(h, 2, 2))),
    "overlapping max": (CONV, partial(convolutional, pool=lambda h: models.max_pool(h, 3, 2, ceil=True))),
    "residual": (RESIDUAL, residual),
}


def weights(kind, key, count):
    """Gaussian weights of `count` networks, of variance 2 / fan-in, biases of 0.3."""
    shapes = NETWORKS[kind][0]
    keys = dict(zip(shapes, jax.random.split(key, len(shapes)), strict=True))
    size = lambda s: 0.3 if len(s) == 1 else (2 / (s[0] * s[1] * s[2] if len(s) == 4 else max(s))) ** 0.5
    return {n: jax.random.normal(keys[n], (count, *s)) * size(s) for n, s in shapes.items()}


def apply(kind, act):
    """(weights, x) -> logits Float[3]."""
    return partial(NETWORKS[kind][1], ACTIVATIONS[act])
