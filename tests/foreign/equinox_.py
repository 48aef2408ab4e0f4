"""Networks of equinox: one example, channels first, layers vmapped over tokens."""

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import nn

from foreign.model import collection, stirred, uniform

MODELS, model = collection("equinox")


def keys(seed, n):
    return iter(jax.random.split(jax.random.key(seed), n))


def shaken(module):
    """The module with its arrays moved off what they are initialised to."""
    arrays, static = eqx.partition(module, eqx.is_inexact_array)
    return eqx.combine(stirred(arrays), static)


@model("MLP")
def mlp(wrap):
    return shaken(nn.MLP(6, 3, 8, 2, activation=wrap(jax.nn.relu), key=jax.random.key(0))), uniform(0, 6)


@model("MLP")
def filter_jitted(wrap):
    net = nn.MLP(6, 3, 8, 2, activation=wrap(jax.nn.softplus), use_final_bias=False, key=jax.random.key(1))
    return eqx.filter_jit(shaken(net)), uniform(1, 6)


class CNN(eqx.Module):
    """The network of equinox's MNIST example."""

    layers: list

    def __init__(self, act, pool, seed=2):
        k = keys(seed, 4)
        self.layers = [nn.Conv2d(2, 4, 3, padding=1, key=next(k)), act, pool,
                       nn.Conv2d(4, 4, 3, padding=1, key=next(k)), act, jnp.ravel, nn.Linear(64, 6, key=next(k)), act,
                       nn.Linear(6, 3, key=next(k))]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@model("max-pooling", channels_first=True)
def cnn(wrap):
    return shaken(CNN(wrap(jax.nn.relu), nn.MaxPool2d(2, 2))), uniform(2, 2, 8, 8)


@model("average pooling", channels_first=True)
def average_pooling(wrap):
    return shaken(CNN(wrap(jax.nn.mish), nn.AvgPool2d(2, 2), 3)), uniform(3, 2, 8, 8)


@model("max-pooling", channels_first=True)
def adaptive_pooling(wrap):
    return shaken(CNN(wrap(jax.nn.relu), nn.AdaptiveMaxPool2d((4, 4)), 4)), uniform(4, 2, 8, 8)


class Normed(eqx.Module):
    conv: nn.Conv2d
    norm: eqx.Module
    down: nn.Conv2d
    head: nn.Linear
    act: callable

    def __init__(self, norm, act, seed):
        k = keys(seed, 3)
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1, use_bias=False, key=next(k)), norm
        self.down = nn.Conv2d(4, 4, 3, 2, padding=1, key=next(k))
        self.head, self.act = nn.Linear(4, 3, key=next(k)), act

    def __call__(self, x, state=None):
        h = self.conv(x)
        h, state = self.norm(h, state) if state else (self.norm(h), None)
        h = self.act(h)
        h = h + self.act(self.conv(x))
        return self.head(self.act(self.down(h)).mean((1, 2))), state


@model("BatchNorm, residual", channels_first=True)
def batch_norm(wrap):
    make = lambda: Normed(nn.BatchNorm(4, "batch", mode="batch"), wrap(jax.nn.relu), 5)
    net, state = eqx.nn.make_with_state(make)()
    batched = jax.vmap(nn.inference_mode(net, False), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    state = batched(uniform(5, 4, 2, 6, 6), state)[1]
    net = nn.inference_mode(shaken(net))
    return lambda x: net(x, state)[0], uniform(6, 2, 6, 6)


@model("GroupNorm", linear=False, channels_first=True)
def group_norm(wrap):
    net = shaken(Normed(nn.GroupNorm(2, 4), wrap(jax.nn.silu), 6))
    return lambda x: net(x)[0], uniform(7, 2, 6, 6)


class Mixer(eqx.Module):
    norm1: nn.LayerNorm
    norm2: nn.RMSNorm
    tokens: nn.MLP
    channels: nn.MLP
    head: nn.Linear

    def __init__(self, act):
        k = keys(7, 3)
        self.norm1, self.norm2 = nn.LayerNorm(4), nn.RMSNorm(4)
        self.tokens = nn.MLP(5, 5, 6, 1, activation=act, key=next(k))
        self.channels = nn.MLP(4, 4, 6, 1, activation=act, key=next(k))
        self.head = nn.Linear(4, 3, key=next(k))

    def __call__(self, x):
        x = x + jax.vmap(self.tokens, in_axes=1, out_axes=1)(jax.vmap(self.norm1)(x))
        x = x + jax.vmap(self.channels)(jax.vmap(self.norm2)(x))
        return self.head(x.mean(0))


@model("LayerNorm and RMSNorm", linear=False)
def mixer(wrap):
    return shaken(Mixer(wrap(jax.nn.gelu))), uniform(8, 5, 4)


class Tokens(eqx.Module):
    first: nn.Linear
    second: nn.Linear
    head: nn.Linear
    act: callable

    def __init__(self, act, use_bias=True):
        k = keys(8, 3)
        self.first = nn.Linear(4, 6, use_bias=use_bias, key=next(k))
        self.second = nn.Linear(6, 6, use_bias=use_bias, key=next(k))
        self.head, self.act = nn.Linear(6, 3, use_bias=use_bias, key=next(k)), act

    def __call__(self, x):
        h = self.act(jax.vmap(self.first)(x))
        return self.head(self.act(jax.vmap(self.second)(h)).mean(0))


@model("vmapped layers")
def vmapped_linear(wrap):
    return shaken(Tokens(wrap(jax.nn.relu))), uniform(9, 5, 4)


@model("vmapped layers")
def vmapped_linear_without_biases(wrap):
    return shaken(Tokens(wrap(jax.nn.relu), use_bias=False)), uniform(10, 5, 4)


class Attending(eqx.Module):
    attention: nn.MultiheadAttention
    norm: nn.LayerNorm
    head: nn.Linear
    dropout: nn.Dropout

    def __init__(self):
        k = keys(9, 2)
        self.attention, self.norm = nn.MultiheadAttention(2, 4, key=next(k)), nn.LayerNorm(4)
        self.head, self.dropout = nn.Linear(4, 3, key=next(k)), nn.Dropout(0.1, inference=True)

    def __call__(self, x):
        x = x + self.dropout(self.attention(x, x, x))
        return self.head(jax.vmap(self.norm)(x).mean(0))


@model("attention", linear=False)
def transformer():
    return shaken(Attending()), uniform(11, 5, 4)


class Recurrent(eqx.Module):
    cell: eqx.Module
    head: nn.Linear

    def __init__(self, cell):
        self.cell, self.head = cell(3, 4, key=jax.random.key(10)), nn.Linear(4, 3, key=jax.random.key(11))

    def __call__(self, x):
        zero = jnp.zeros(4, x.dtype)
        start = (zero, zero) if isinstance(self.cell, nn.LSTMCell) else zero
        last, _ = jax.lax.scan(lambda state, token: (self.cell(token, state), None), start, x)
        return self.head(jax.tree.leaves(last)[0])


@model("recurrent", linear=False)
def lstm():
    return shaken(Recurrent(nn.LSTMCell)), uniform(12, 4, 3)


@model("recurrent", linear=False)
def gru():
    return shaken(Recurrent(nn.GRUCell)), uniform(13, 4, 3)


@model("sequences", channels_first=True)
def convolution_over_a_sequence(wrap):
    k = keys(12, 3)
    net = nn.Sequential([nn.Conv1d(3, 4, 3, key=next(k)), nn.Lambda(wrap(jax.nn.relu)), nn.MaxPool1d(2, 2),
                         nn.Conv1d(4, 4, 2, key=next(k)), nn.Lambda(wrap(jnp.tanh)), nn.AvgPool1d(2, 2),
                         nn.Lambda(jnp.ravel), nn.Linear(4, 3, key=next(k))])
    return shaken(net), uniform(14, 3, 8)


@model("volumes", channels_first=True)
def volume(wrap):
    k = keys(13, 2)
    net = nn.Sequential([nn.Conv3d(2, 3, 2, 2, key=next(k)), nn.Lambda(wrap(jax.nn.relu)), nn.Lambda(jnp.ravel),
                         nn.Linear(24, 3, key=next(k))])
    return shaken(net), uniform(15, 2, 4, 4, 4)


@model("U-net", channels_first=True)
def upsampling(wrap):
    k = keys(14, 2)
    net = nn.Sequential([nn.Conv2d(2, 4, 3, 2, padding=1, key=next(k)), nn.Lambda(wrap(jax.nn.relu)),
                         nn.ConvTranspose2d(4, 3, 2, 2, key=next(k)), nn.Lambda(wrap(jax.nn.relu)),
                         nn.Lambda(lambda x: x.mean((1, 2)))])
    return shaken(net), uniform(16, 2, 6, 6)


@model("trained activations")
def prelu():
    k = keys(15, 2)
    net = nn.Sequential([nn.Linear(6, 8, key=next(k)), nn.Lambda(nn.PReLU(0.2)), nn.Linear(8, 3, key=next(k))])
    return shaken(net), uniform(17, 6)


@model("depthwise convolutions", channels_first=True)
def depthwise(wrap):
    k = keys(16, 3)
    net = nn.Sequential([nn.Conv2d(2, 4, 1, key=next(k)), nn.Lambda(wrap(jax.nn.relu6)),
                         nn.Conv2d(4, 4, 3, 2, padding=1, groups=4, key=next(k)), nn.Lambda(wrap(jax.nn.relu6)),
                         nn.Conv2d(4, 3, 1, key=next(k)), nn.Lambda(lambda x: x.mean((1, 2)))])
    return shaken(net), uniform(18, 2, 6, 6)
