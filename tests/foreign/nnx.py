"""Networks of flax nnx: modules that hold their weights, and may change in place."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from foreign.model import collection, stirred, uniform

MODELS, model = collection("nnx")


def one_example(module, x):
    """f, x, and a change of the module's weights in place."""
    module.eval()

    def stir(seed):
        nnx.update(module, stirred(nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat)), seed))

    stir(0)
    return lambda x: module(x[None])[0], x, lambda: stir(1)


def pure(module, x):
    """f and x in the form that trainers use: some of nnx's own loops do not run on a module closed over."""
    one_example(module, x)
    graphdef, state = nnx.split(module)
    return jax.jit(lambda x: nnx.merge(graphdef, state, copy=True)(x[None])[0]), x


class MLP(nnx.Module):
    def __init__(self, act, *, rngs, inputs=6, use_bias=True):
        self.act = act
        self.first = nnx.Linear(inputs, 8, use_bias=use_bias, rngs=rngs)
        self.last = nnx.Linear(8, 3, use_bias=use_bias, rngs=rngs)

    def __call__(self, x):
        return self.last(self.act(self.first(x)))


@model("MLP")
def mlp(wrap):
    return one_example(MLP(wrap(nnx.relu), rngs=nnx.Rngs(0)), uniform(0, 6))


@model("MLP")
def split_and_merged(wrap):
    return pure(MLP(wrap(nnx.relu), rngs=nnx.Rngs(0), use_bias=False), uniform(1, 6))


@model("MLP")
def sequential(wrap):
    rngs = nnx.Rngs(1)
    layers = nnx.Sequential(nnx.Linear(6, 8, rngs=rngs), wrap(nnx.silu), nnx.Dropout(0.3, rngs=rngs),
                            nnx.Linear(8, 3, rngs=rngs))
    return one_example(layers, uniform(2, 6))


class CNN(nnx.Module):
    """The network of flax's MNIST tutorial."""

    def __init__(self, act, *, rngs):
        self.act = act
        self.conv1 = nnx.Conv(2, 4, kernel_size=(3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(4, 4, kernel_size=(3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.02, rngs=rngs)
        self.avg_pool = partial(nnx.avg_pool, window_shape=(2, 2), strides=(2, 2))
        self.linear1 = nnx.Linear(16, 6, rngs=rngs)
        self.linear2 = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.avg_pool(self.act(self.norm(self.dropout(self.conv1(x)))))
        x = self.avg_pool(self.act(self.conv2(x)))
        return self.linear2(self.dropout(self.act(self.linear1(x.reshape(x.shape[0], -1)))))


@model("BatchNorm, dropout")
def cnn(wrap):
    return one_example(CNN(wrap(nnx.relu), rngs=nnx.Rngs(2)), uniform(3, 8, 8, 2))


@model("BatchNorm, dropout")
def jitted_cnn(wrap):
    f, x, _ = one_example(CNN(wrap(nnx.elu), rngs=nnx.Rngs(3)), uniform(4, 8, 8, 2))
    return jax.jit(f), x


class Residual(nnx.Module):
    def __init__(self, act, norm, *, rngs):
        self.act = act
        self.stem = nnx.Conv(2, 4, (3, 3), strides=(2, 2), rngs=rngs)
        self.norm = norm(4, rngs=rngs)
        self.conv = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = self.stem(x)
        x = x + self.act(self.norm(self.conv(x)))
        return self.head(nnx.max_pool(x, (2, 2), (1, 1)).mean((1, 2)))


@model("BatchNorm, residual")
def residual(wrap):
    return one_example(Residual(wrap(nnx.relu), nnx.BatchNorm, rngs=nnx.Rngs(4)), uniform(5, 6, 6, 2))


@model("GroupNorm", linear=False)
def group_norm(wrap):
    norm = partial(nnx.GroupNorm, num_groups=2)
    return one_example(Residual(wrap(nnx.gelu), norm, rngs=nnx.Rngs(5)), uniform(6, 6, 6, 2))


class Gated(nnx.Module):
    """Llama's feed-forward block."""

    def __init__(self, act, *, rngs):
        self.act, self.norm = act, nnx.RMSNorm(4, rngs=rngs)
        self.gate, self.up = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(4, 8, rngs=rngs)
        self.down, self.head = nnx.Linear(8, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        h = self.norm(x)
        return self.head((x + self.down(self.act(self.gate(h)) * self.up(h))).mean(1))


@model("gated units", linear=False)
def gated(wrap):
    return one_example(Gated(wrap(nnx.silu), rngs=nnx.Rngs(6)), uniform(7, 5, 4))


class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.norm1, self.norm2 = nnx.LayerNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(num_heads=2, in_features=4, decode=False, rngs=rngs)
        self.mlp, self.head = MLP(nnx.gelu, rngs=rngs, inputs=4), nnx.Linear(4, 3, rngs=rngs)
        self.out = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return self.head(x + self.out(self.mlp(self.norm2(x)))).mean(1)


@model("attention", linear=False)
def transformer():
    return one_example(Block(rngs=nnx.Rngs(7)), uniform(8, 5, 4))


class Recurrent(nnx.Module):
    def __init__(self, cell, *, rngs):
        self.rnn, self.head = nnx.RNN(cell), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        start = self.rnn.cell.initialize_carry(x[:, 0].shape, nnx.Rngs(0))
        return self.head(self.rnn(x, initial_carry=start)[:, -1])


@model("recurrent", linear=False)
def lstm():
    cell = nnx.LSTMCell(3, 4, param_dtype=float, rngs=nnx.Rngs(8))
    return pure(Recurrent(cell, rngs=nnx.Rngs(9)), uniform(9, 4, 3))


@model("recurrent", linear=False)
def gru():
    cell = nnx.GRUCell(3, 4, param_dtype=float, rngs=nnx.Rngs(10))
    return pure(Recurrent(cell, rngs=nnx.Rngs(11)), uniform(10, 4, 3))


class Upsampling(nnx.Module):
    def __init__(self, act, *, rngs):
        self.act = act
        self.down = nnx.Conv(2, 4, (3, 3), strides=(2, 2), rngs=rngs)
        self.up = nnx.ConvTranspose(4, 3, (2, 2), strides=(2, 2), rngs=rngs)

    def __call__(self, x):
        return self.act(self.up(self.act(self.down(x)))).mean((1, 2))


@model("U-net")
def upsampling(wrap):
    return one_example(Upsampling(wrap(nnx.relu), rngs=nnx.Rngs(12)), uniform(11, 6, 6, 2))


class Sequence(nnx.Module):
    def __init__(self, act, *, rngs):
        self.act = act
        self.conv = nnx.Conv(3, 4, (3,), kernel_dilation=2, rngs=rngs)
        self.slope = nnx.PReLU()
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.slope(self.act(self.conv(x))).max(1))


@model("sequences")
def convolution_over_a_sequence(wrap):
    return one_example(Sequence(wrap(nnx.leaky_relu), rngs=nnx.Rngs(13)), uniform(12, 8, 3))


@model("half precision")
def bfloat16_cnn(wrap, dtype=jnp.bfloat16):
    rngs = nnx.Rngs(14)
    layers = nnx.Sequential(nnx.Conv(2, 4, (3, 3), dtype=dtype, rngs=rngs), wrap(nnx.relu),
                            lambda x: x.mean((1, 2)), nnx.Linear(4, 3, dtype=dtype, rngs=rngs))
    f, x, update = one_example(layers, uniform(13, 6, 6, 2))
    return lambda x: f(x).astype(x.dtype), x, update
