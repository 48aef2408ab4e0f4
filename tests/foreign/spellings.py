"""Activations spelled by hand, names that lie and derivative rules of one's own, in JAX alone."""

import jax
import jax.numpy as jnp
from jax import lax

from foreign.model import collection, uniform
from foreign.plain import weights

MODELS, model = collection("spellings")


def two_layers(act, seed=0, inputs=6):
    """Dense, act, dense, act, dense; without biases."""
    a, b, c = weights(seed, inputs, 8), weights(seed + 1, 8, 8), weights(seed + 2, 8, 3)
    return lambda x: act(act(x @ a) @ b) @ c


def spelled(name, family, act):
    """A model whose activation is `act`, entered under a name."""
    def make(wrap):
        return two_layers(wrap(act), seed=len(name)), uniform(len(name), 6)

    make.__name__ = name
    model(family)(make)


OWN = "activations in one's own words"
spelled("maximum", OWN, lambda z: jnp.maximum(z, 0))
spelled("where", OWN, lambda z: jnp.where(z > 0, z, 0.1 * z))
spelled("times_mask", OWN, lambda z: z * (z > 0))
spelled("clip", OWN, lambda z: jnp.clip(z, -0.5, 0.5))
spelled("hand_made_swish", OWN, lambda z: z * jax.nn.sigmoid(z))
spelled("inline_gelu", OWN, lambda z: 0.5 * z * (1 + lax.erf(z / jnp.sqrt(2.0))))
spelled("absolute_value", OWN, jnp.abs)
spelled("sine", OWN, lambda z: jnp.sin(2 * z))
spelled("gaussian", OWN, lambda z: jnp.exp(-z**2))
spelled("squared_relu", OWN, lambda z: jnp.square(jax.nn.relu(z)))


@model("all of jax.nn")
def every_activation(wrap):
    names = ("relu", "relu6", "sigmoid", "softplus", "sparse_plus", "sparse_sigmoid", "soft_sign", "silu", "swish",
             "log_sigmoid", "leaky_relu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "tanh", "elu",
             "celu", "selu", "gelu", "squareplus", "mish")
    acts = [wrap(getattr(jax.nn, name)) for name in names if hasattr(jax.nn, name)] + [lambda z: z]
    a, c = weights(3, len(acts), 4, 6), weights(4, len(acts) * 6, 3)
    return lambda x: jnp.concatenate([act(x @ w) for act, w in zip(acts, a, strict=True)]) @ c, uniform(3, 4)


@jax.jit
def tanh(z):
    return jnp.tanh(2 * z)


@jax.jit
def relu(z):
    return jnp.maximum(z, -1)


spelled("a_tanh_that_is_another", "names that lie", tanh)
spelled("a_relu_that_is_another", "names that lie", relu)


@jax.custom_jvp
def own_relu(z):
    return jnp.maximum(z, 0)


own_relu.defjvp(lambda primals, tangents: (own_relu(*primals), jnp.where(primals[0] > 0, tangents[0], 0)))


@jax.custom_vjp
def own_vjp_relu(z):
    return jnp.maximum(z, 0)


own_vjp_relu.defvjp(lambda z: (own_vjp_relu(z), z > 0), lambda positive, g: (jnp.where(positive, g, 0),))

RULES = "derivative rules of one's own"
spelled("custom_jvp_relu", RULES, own_relu)
spelled("custom_vjp_relu", RULES, own_vjp_relu)


@jax.custom_vjp
def clipped_gradient(z):
    return z


clipped_gradient.defvjp(lambda z: (z, None), lambda _, g: (jnp.clip(g, -0.05, 0.05),))


@model(RULES, linear=False, honest=False)
def gradient_clipping(wrap):
    f = two_layers(wrap(jax.nn.relu), 7, 8)
    return lambda x: f(clipped_gradient(x @ weights(8, 6, 8))), uniform(5, 6)


@jax.custom_vjp
def reversed_gradient(z):
    return z


reversed_gradient.defvjp(lambda z: (z, None), lambda _, g: (-g,))


@model(RULES, linear=False, honest=False)
def gradient_reversal(wrap):
    act, a, b = wrap(jax.nn.relu), weights(9, 6, 8), weights(10, 8, 3)
    return lambda x: act(reversed_gradient(act(x @ a)) @ weights(11, 8, 8)) @ b, uniform(6, 6)


@model(RULES, linear=False, honest=False)
def straight_through():
    a, b = weights(12, 6, 8), weights(13, 8, 3)

    def f(x):
        h = jax.nn.relu(x @ a)
        return (h + lax.stop_gradient(jnp.round(h * 4) / 4 - h)) @ b

    return f, uniform(7, 6)


@model("trained activations")
def prelu(wrap):
    slopes = uniform(14, 8, low=0.05, high=0.4)
    return two_layers(wrap(lambda z: jnp.where(z >= 0, z, slopes * z)), 15), uniform(8, 6)


@model("trained activations")
def swish_beta(wrap):
    beta = uniform(16, 8, low=0.5, high=2.0)
    return two_layers(wrap(lambda z: z * jax.nn.sigmoid(beta * z)), 17), uniform(9, 6)
