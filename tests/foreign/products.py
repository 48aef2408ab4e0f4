"""Products, normalisations, gates, attention, recurrences and sets, in JAX alone."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from foreign.model import collection, uniform
from foreign.plain import biases, conv, weights

MODELS, model = collection("products")


@model("LayerNorm and RMSNorm", linear=False)
def layer_norm(wrap):
    act = wrap(jax.nn.gelu)

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5) * 1.1 + biases(36, 6)

    return lambda x: act(norm(x) @ weights(37, 6, 8)) @ weights(38, 8, 3), uniform(12, 6)


@model("L2 normalisation", linear=False)
def cosine_head(wrap):
    act, v = wrap(jax.nn.relu), weights(39, 8, 3)

    def f(x):
        h = act(x @ weights(40, 6, 8))
        h = h / jnp.linalg.norm(h)
        return 5 * h @ (v / jnp.linalg.norm(v, axis=0))

    return f, uniform(13, 6)


@model("L2 normalisation", linear=False)
def normalised_input(wrap):
    act = wrap(jax.nn.relu)

    def f(x):
        x = (x - x.mean()) / jnp.maximum(x.std(), 1 / math.sqrt(x.size))  # tf.image.per_image_standardization
        return act(conv(x, weights(41, 3, 3, 2, 4))).mean((0, 1)) @ weights(42, 4, 3)

    return f, uniform(14, 6, 6, 2)


@model("squeeze and excitation", linear=False)
def squeeze_excitation(wrap):
    act, relu, gate = wrap(jax.nn.hard_swish), wrap(jax.nn.relu), wrap(jax.nn.hard_sigmoid)

    def f(x):
        h = act(conv(x, weights(43, 3, 3, 2, 4)))
        s = gate(relu(h.mean((0, 1)) @ weights(44, 4, 2)) @ weights(45, 2, 4))
        return (h * s).mean((0, 1)) @ weights(46, 4, 3)

    return f, uniform(15, 6, 6, 2)


@model("gated units", linear=False)
def swiglu(wrap):
    act = wrap(jax.nn.silu)
    return lambda x: (act(x @ weights(47, 6, 8)) * (x @ weights(48, 6, 8))) @ weights(49, 8, 3), uniform(16, 6)


@model("gated units", linear=False)
def glu():
    a, b = weights(5, 6, 8), weights(6, 4, 3)
    return lambda x: jax.nn.glu(x @ a) @ b, uniform(4, 6)


@model("gated units", linear=False)
def highway(wrap):
    act, gate = wrap(jnp.tanh), wrap(jax.nn.sigmoid)

    def f(x):
        t = gate(x @ weights(50, 6, 6) + biases(51, 6))
        return (t * act(x @ weights(52, 6, 6)) + (1 - t) * x) @ weights(53, 6, 3)

    return f, uniform(17, 6)


@model("mixture of experts", linear=False)
def soft_mixture():
    experts, gate = weights(54, 3, 6, 8), weights(55, 6, 3)

    def f(x):
        h = jax.nn.relu(jnp.einsum("i,eio->eo", x, experts))
        return jnp.einsum("e,eo->o", jax.nn.softmax(x @ gate), h) @ weights(56, 8, 3)

    return f, uniform(18, 6)


@model("mixture of experts", linear=False)
def hard_mixture():
    """The best expert alone, weighed by its probability, as in a switch transformer."""
    experts, gate = weights(2, 3, 6, 8), weights(3, 6, 3)

    def f(x):
        probabilities = jax.nn.softmax(x @ gate)
        best = probabilities.argmax()
        return probabilities[best] * jax.nn.relu(x @ experts[best]) @ weights(4, 8, 3)

    return f, uniform(24, 6)


@model("attention", linear=False)
def attention():
    q, k, v = (weights(s, 4, 4) for s in (57, 58, 59))

    def f(x):
        scores = (x @ q) @ (x @ k).T / 2
        h = x + jax.nn.softmax(scores, -1) @ (x @ v)
        return jax.nn.relu(h @ weights(60, 4, 8)).mean(0) @ weights(61, 8, 3)

    return f, uniform(19, 5, 4)


@model("recurrent")
def elman(wrap):
    act, u = wrap(jnp.tanh), weights(62, 6, 6)

    def f(x):
        step = lambda h, token: (act(token @ weights(63, 4, 6) + h @ u), None)
        return lax.scan(step, jnp.zeros(6, x.dtype), x)[0] @ weights(64, 6, 3)

    return f, uniform(20, 5, 4)


@model("graphs and sets")
def graph_convolution(wrap):
    act, adjacency = wrap(jax.nn.relu), jnp.eye(5) * 0.5 + jnp.eye(5, k=1) * 0.3 + jnp.eye(5, k=-1) * 0.3

    def f(nodes):
        h = act(adjacency @ nodes @ weights(65, 4, 6) + biases(66, 6))
        return act(adjacency @ (h @ weights(67, 6, 6))).mean(0) @ weights(68, 6, 3)

    return f, uniform(21, 5, 4)


@model("graphs and sets")
def message_passing(wrap):
    """Messages along edges, gathered by senders and summed by receivers."""
    act, senders, receivers = wrap(jax.nn.relu), jnp.array([0, 1, 2, 3, 4, 0]), jnp.array([1, 2, 3, 4, 0, 2])

    def f(nodes):
        messages = act(jnp.concatenate([nodes[senders], nodes[receivers]], -1) @ weights(5, 8, 6) + biases(6, 6))
        received = jax.ops.segment_sum(messages, receivers, 5)
        return act(received @ weights(7, 6, 6)).mean(0) @ weights(8, 6, 3)

    return f, uniform(25, 5, 4)


@model("graphs and sets")
def deep_sets(wrap):
    act = wrap(jax.nn.relu)

    def f(x):
        members = jax.vmap(lambda member: act(member @ weights(69, 4, 6) + biases(70, 6)))(x)
        return act(members.sum(0) @ weights(71, 6, 6)) @ weights(72, 6, 3)

    return f, uniform(22, 5, 4)


@model("products of inputs", linear=False)
def factorisation_machine():
    v, w = weights(18, 6, 12).reshape(6, 4, 3), weights(19, 6, 3)
    return lambda x: x @ w + jnp.square(jnp.einsum("i,ikc->kc", x, v)).sum(0), uniform(10, 6)


@model("products of inputs", linear=False)
def radial_basis():
    centres, v = uniform(20, 8, 6), weights(21, 8, 3)
    return lambda x: jnp.exp(-2 * jnp.sum((x - centres) ** 2, -1)) @ v, uniform(11, 6)
