"""Networks as people write them in JAX alone."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from foreign.model import collection, uniform

MODELS, model = collection("plain")


def weights(seed, *shape):
    """Of variance 1 / fan-in, the last axis numbering the outputs."""
    limit = (3 / math.prod(shape[:-1])) ** 0.5
    return uniform(seed, *shape, low=-limit, high=limit)


def biases(seed, n):
    return uniform(seed, n, low=-0.3, high=0.3)


def dense(seed, n, m):
    return weights(seed, n, m), biases(seed + 100, m)


@model("MLP")
def mlp(wrap):
    act, w, v = wrap(jax.nn.relu), weights(0, 6, 8), weights(1, 8, 3)
    return lambda x: act(act(x @ w) @ weights(2, 8, 8)) @ v, uniform(0, 6)


@model("MLP")
def mlp_with_parameters_in_a_tree(wrap):
    layers, act = [dense(3, 6, 8), dense(4, 8, 8), dense(5, 8, 3)], wrap(jax.nn.elu)

    @jax.jit
    def f(x):
        for w, b in layers[:-1]:
            x = act(jnp.dot(x, w) + b)
        w, b = layers[-1]
        return jnp.dot(x, w) + b

    return f, uniform(1, 6)


@model("convolutions, channels first", channels_first=True)
def cnn_channels_first(wrap):
    act, k, m = wrap(jax.nn.relu), weights(6, 4, 2, 3, 3), weights(7, 3, 4, 3, 3)

    def f(x):
        h = act(lax.conv(x[None], k, (1, 1), "SAME") + biases(8, 4)[:, None, None])
        h = act(lax.conv(h, m, (2, 2), "SAME"))
        return h.mean((0, 2, 3)) @ weights(9, 3, 3)

    return f, uniform(2, 2, 6, 6)


def conv(x, kernel, strides=1, padding="SAME", **options):
    return lax.conv_general_dilated(x[None], kernel, (strides, strides), padding,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)[0]


@model("depthwise convolutions")
def depthwise(wrap):
    act, k = wrap(jax.nn.relu6), weights(10, 3, 3, 1, 4)

    def f(x):
        h = act(4 * conv(x, weights(11, 1, 1, 2, 4)) + biases(12, 4))
        h = act(conv(h, k, feature_group_count=4) + biases(13, 4))
        return conv(h, weights(14, 1, 1, 4, 3)).mean((0, 1))

    return f, uniform(3, 6, 6, 2)


@model("dilated convolutions")
def dilated(wrap):
    act = wrap(jax.nn.leaky_relu)

    def f(x):
        h = act(conv(x, weights(15, 3, 3, 2, 3)))
        h = act(conv(h, weights(16, 3, 3, 3, 3), rhs_dilation=(2, 2)))
        return h.ravel() @ weights(17, 147, 3)

    return f, uniform(4, 7, 7, 2)


@model("max-pooling")
def reduce_window_pooling(wrap):
    act = wrap(jax.nn.relu)

    def f(x):
        h = act(conv(x, weights(18, 3, 3, 2, 4)))
        h = lax.reduce_window(h, -jnp.inf, lax.max, (3, 3, 1), (2, 2, 1), "SAME")
        return act(h.ravel() @ weights(19, 64, 6)) @ weights(20, 6, 3)

    return f, uniform(5, 8, 8, 2)


@model("max-pooling")
def reshape_pooling(wrap):
    act = wrap(jax.nn.relu)

    def f(x):
        h = act(conv(x, weights(21, 3, 3, 2, 4)) + biases(22, 4))
        h = h.reshape(4, 2, 4, 2, 4).max((1, 3))
        return h.mean((0, 1)) @ weights(23, 4, 3)

    return f, uniform(6, 8, 8, 2)


@model("max-pooling")
def global_max(wrap):
    act = wrap(jax.nn.relu)
    return lambda x: act(conv(x, weights(24, 3, 3, 2, 5), 2)).max((0, 1)) @ weights(25, 5, 3), uniform(7, 6, 6, 2)


@model("average pooling")
def average_pooling(wrap):
    act = wrap(jax.nn.celu)

    def f(x):
        h = act(conv(x, weights(26, 3, 3, 2, 4)))
        h = lax.reduce_window(h, 0.0, lax.add, (2, 2, 1), (2, 2, 1), "VALID") / 4
        return h.ravel() @ weights(27, 36, 3)

    return f, uniform(8, 6, 6, 2)


@model("U-net")
def unet(wrap):
    act = wrap(jax.nn.relu)

    def f(x):
        fine = act(conv(x, weights(28, 3, 3, 2, 3)))
        coarse = act(conv(fine, weights(29, 3, 3, 3, 4), 2))
        up = jax.image.resize(coarse, (8, 8, 4), "nearest")
        h = act(conv(jnp.concatenate([up, fine], -1), weights(30, 3, 3, 7, 3)))
        return h.mean((0, 1))

    return f, uniform(9, 8, 8, 2)


@model("U-net")
def deconvolving(wrap):
    act = wrap(jax.nn.relu)

    def f(x):
        h = act(conv(x, weights(31, 3, 3, 2, 4), 2))
        h = lax.conv_transpose(h[None], weights(32, 2, 2, 4, 3), (2, 2), "SAME")[0]
        return act(h + biases(33, 3)).mean((0, 1))

    return f, uniform(10, 6, 6, 2)


@model("U-net")
def bilinear_upsampling(wrap):
    act = wrap(jax.nn.softplus)

    def f(x):
        h = jax.image.resize(act(conv(x, weights(34, 3, 3, 2, 3), 2)), (6, 6, 3), "bilinear")
        return (h + conv(x, weights(35, 1, 1, 2, 3))).mean((0, 1))

    return f, uniform(11, 6, 6, 2)


@model("named layers")
def named_layers(wrap):
    act = wrap(jax.nn.relu)

    def f(x):
        h = checkpoint_name(conv(x, weights(73, 3, 3, 2, 4)), "before the bias") + biases(74, 4)
        h = checkpoint_name(act(h), "features")
        return h.mean((0, 1)) @ weights(75, 4, 3)

    return f, uniform(23, 6, 6, 2)


@model("max-pooling")
def maxout():
    a, b, c = weights(22, 6, 24), weights(23, 8, 12), weights(24, 4, 3)
    return lambda x: (((x @ a).reshape(8, 3).max(-1)) @ b).reshape(4, 3).max(-1) @ c, uniform(12, 6)
