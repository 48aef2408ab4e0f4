"""Control flow, broadcasts, outputs that are not logits, complex numbers and half precision, in JAX alone."""

import jax
import jax.numpy as jnp
from jax import lax

from foreign.model import collection, uniform
from foreign.plain import biases, conv, weights
from foreign.spellings import two_layers

MODELS, model = collection("control")


@model("broadcasts")
def plus_its_mean(wrap):
    act = wrap(jax.nn.softplus)

    def f(x):
        h = act(0.1 * x + x.mean((0, 1), keepdims=True))
        return (h * biases(25, 2)).ravel() @ weights(26, 72, 3)

    return f, uniform(13, 6, 6, 2)


@model("broadcasts")
def empty_slice(wrap):
    f = two_layers(wrap(jnp.tanh), 27)
    return lambda x: f(jnp.concatenate([x[:0], x])), uniform(14, 6)


@model("output functions", linear=False)
def softmax_output(wrap):
    f = two_layers(wrap(jax.nn.relu), 28)
    return lambda x: jax.nn.softmax(f(x)), uniform(15, 6)


@model("output functions", linear=False)
def log_softmax_output(wrap):
    f = two_layers(wrap(jax.nn.relu), 29)
    return lambda x: jax.nn.log_softmax(f(x)), uniform(16, 6)


@model("complex numbers", linear=False)
def fourier_layer():
    w = weights(30, 5, 4) + 1j * weights(31, 5, 4)

    def f(x):
        h = jnp.fft.irfft(jnp.fft.rfft(x, axis=0) * w, 8, axis=0)
        return jax.nn.relu(h).mean(0) @ weights(32, 4, 3)

    return f, uniform(17, 8, 4)


CONTROL = "control flow"


@model(CONTROL)
def scanned_layers(wrap):
    act, stack = wrap(jax.nn.relu), (weights(33, 3, 6, 6) * 1.7, uniform(34, 3, 6, low=-0.2, high=0.2))
    step = lambda h, layer: (act(h @ layer[0] + layer[1]), None)
    return lambda x: lax.scan(step, x, stack)[0] @ weights(35, 6, 3), uniform(18, 6)


@model(CONTROL)
def fori_loop(wrap):
    act, w = wrap(jnp.tanh), weights(36, 6, 6)
    return lambda x: lax.fori_loop(0, 3, lambda i, h: act(h @ w), x) @ weights(37, 6, 3), uniform(19, 6)


@model(CONTROL)
def while_loop(wrap):
    """Without a reverse derivative: jax itself refuses its gradient."""
    act, w = wrap(jnp.tanh), weights(38, 6, 6)
    body = lambda carry: (carry[0] + 1, act(carry[1] @ w))
    return lambda x: lax.while_loop(lambda c: c[0] < 3, body, (0, x))[1] @ weights(39, 6, 3), uniform(20, 6)


@model(CONTROL)
def branches(wrap):
    f, g = two_layers(wrap(jax.nn.relu), 40), two_layers(wrap(jax.nn.relu), 43)
    return lambda x: lax.cond(x.sum() > 3, f, g, x), uniform(21, 6)


@model(CONTROL)
def rematerialised(wrap):
    f = jax.checkpoint(two_layers(wrap(jax.nn.relu), 46, 8))
    return lambda x: f(x @ weights(49, 6, 8)), uniform(22, 6)


@model(CONTROL)
def mapped_patches(wrap):
    act, a = wrap(jax.nn.relu), weights(50, 12, 6)

    def f(x):
        patches = x.reshape(3, 2, 3, 2, 3).transpose(0, 2, 1, 3, 4).reshape(9, 12)
        return lax.map(lambda patch: act(patch @ a), patches).mean(0) @ weights(51, 6, 3)

    return f, uniform(23, 6, 6, 3)


HALF = "half precision"


def half(name, dtype):
    def make(wrap, dtype=dtype):
        act, cast = wrap(jax.nn.relu), lambda w: w.astype(dtype)

        def f(x):
            h = act(conv(x.astype(dtype), cast(weights(52, 3, 3, 2, 4))) + cast(biases(53, 4)))
            h = act(conv(h, cast(weights(54, 3, 3, 4, 4)), 2))
            return (h.mean((0, 1)) @ cast(weights(55, 4, 3))).astype(x.dtype)

        return f, uniform(24, 6, 6, 2)

    make.__name__ = name
    model(HALF)(make)


half("bfloat16", jnp.bfloat16)
half("float16", jnp.float16)
