"""Networks of flax linen, as its examples and users write them."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from foreign.model import collection, stirred, uniform

MODELS, model = collection("linen")


def one_example(module, x, **options):
    """f of one example: a batch axis is put around it and taken off, as users of batched modules do."""
    variables = stirred(module.init(jax.random.key(0), x[None], **options))
    return lambda x: module.apply(variables, x[None], **options)[0], x


class MLP(nn.Module):
    act: Callable = nn.relu
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        x = x.reshape((x.shape[0], -1))
        for width in (8, 8):
            x = self.act(nn.Dense(width, use_bias=self.use_bias)(x))
        return nn.Dense(3, use_bias=self.use_bias)(x)


@model("MLP")
def mlp(wrap):
    return one_example(MLP(wrap(nn.relu)), uniform(0, 6))


@model("MLP")
def mlp_without_biases(wrap):
    return one_example(MLP(wrap(nn.leaky_relu), use_bias=False), uniform(1, 6))


class CNN(nn.Module):
    act: Callable = nn.relu
    pool: Callable = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))

    @nn.compact
    def __call__(self, x):
        x = self.pool(self.act(nn.Conv(4, (3, 3))(x)))
        x = self.pool(self.act(nn.Conv(4, (3, 3))(x)))
        x = x.reshape((x.shape[0], -1))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=True)(self.act(nn.Dense(6)(x))))


@model("max-pooling")
def cnn(wrap):
    return one_example(CNN(wrap(nn.relu)), uniform(2, 8, 8, 2))


@model("max-pooling")
def overlapping_pooling(wrap):
    pool = partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2), padding="SAME")
    return one_example(CNN(wrap(nn.elu), pool), uniform(3, 8, 8, 2))


@model("average pooling")
def average_pooling(wrap):
    pool = partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))
    return one_example(CNN(wrap(nn.selu), pool), uniform(4, 8, 8, 2))


class ResNet(nn.Module):
    norm: Callable
    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        x = self.act(self.norm()(nn.Conv(4, (3, 3), use_bias=False)(x)))
        y = self.act(self.norm()(nn.Conv(4, (3, 3), (2, 2), use_bias=False)(x)))
        y = self.norm()(nn.Conv(4, (3, 3), use_bias=False)(y))
        x = self.act(y + nn.Conv(4, (1, 1), (2, 2), use_bias=False)(x))
        return nn.Dense(3)(x.mean((1, 2)))


@model("BatchNorm, residual")
def resnet(wrap):
    norm = partial(nn.BatchNorm, use_running_average=True)
    return one_example(ResNet(norm, wrap(nn.relu)), uniform(5, 6, 6, 2))


@model("GroupNorm", linear=False)
def group_norm(wrap):
    return one_example(ResNet(partial(nn.GroupNorm, num_groups=2), wrap(nn.swish)), uniform(6, 6, 6, 2))


class DenseNet(nn.Module):
    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(3, (3, 3))(x)
        for _ in range(2):
            h = self.act(nn.BatchNorm(use_running_average=True)(x))
            x = jnp.concatenate([x, nn.Conv(2, (3, 3), use_bias=False)(h)], -1)
        return nn.Dense(3)(self.act(nn.BatchNorm(use_running_average=True)(x)).mean((1, 2)))


@model("DenseNet", linear=False)
def densenet(wrap):
    return one_example(DenseNet(wrap(nn.relu)), uniform(7, 6, 6, 2))


class MobileNet(nn.Module):
    act: Callable = nn.relu6

    @nn.compact
    def __call__(self, x):
        x = self.act(nn.Conv(4, (3, 3), (2, 2))(x))
        x = self.act(nn.Conv(4, (3, 3), feature_group_count=4)(x))
        return nn.Dense(3)(nn.Conv(6, (1, 1))(x).mean((1, 2)))


@model("depthwise convolutions")
def mobilenet(wrap):
    return one_example(MobileNet(wrap(nn.relu6)), uniform(8, 6, 6, 2))


class Mixer(nn.Module):
    act: Callable = nn.gelu

    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = nn.Dense(5)(self.act(nn.Dense(6)(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        x = x + nn.Dense(4)(self.act(nn.Dense(6)(nn.RMSNorm()(x))))
        return nn.Dense(3)(x.mean(1))


@model("LayerNorm and RMSNorm", linear=False)
def mixer(wrap):
    return one_example(Mixer(wrap(nn.gelu)), uniform(9, 5, 4))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        h = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)(nn.LayerNorm()(x), deterministic=deterministic)
        x = x + nn.Dropout(0.1)(h, deterministic=deterministic)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return nn.Dense(3)(x[:, 0])


@model("attention", linear=False)
def transformer():
    return one_example(Transformer(), uniform(10, 5, 4), deterministic=True)


class Recurrent(nn.Module):
    cell: nn.RNNCellBase

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(self.cell)(x)[:, -1])


@model("recurrent", linear=False)
def lstm():
    return one_example(Recurrent(nn.OptimizedLSTMCell(4, param_dtype=float)), uniform(11, 4, 3))


@model("recurrent", linear=False)
def gru():
    return one_example(Recurrent(nn.GRUCell(4, param_dtype=float)), uniform(12, 4, 3))


@model("recurrent", linear=False)
def simple_cell(wrap):
    return one_example(Recurrent(nn.SimpleCell(4, activation_fn=wrap(nn.tanh), param_dtype=float)), uniform(13, 4, 3))


class Bidirectional(nn.Module):
    @nn.compact
    def __call__(self, x):
        cell = lambda: nn.RNN(nn.LSTMCell(3, param_dtype=float))
        both = nn.Bidirectional(cell(), cell())
        return nn.Dense(3)(both(x).mean(1))


@model("recurrent", linear=False)
def bidirectional():
    return one_example(Bidirectional(), uniform(14, 4, 3))


class Deep(nn.Module):
    """Layers of one shape, scanned and rematerialised."""

    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        body = nn.remat(lambda layer, carry, _: (self.act(layer(carry)), None))
        scan = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        x, _ = scan(nn.Dense(6), x, None)
        return nn.Dense(3)(x)


@model("control flow")
def scanned_and_rematerialised(wrap):
    return one_example(Deep(wrap(nn.relu)), uniform(16, 6))


class Volume(nn.Module):
    act: Callable = nn.relu

    @nn.compact
    def __call__(self, x):
        x = self.act(nn.Conv(3, (2, 2, 2), (2, 2, 2))(x))
        return nn.Dense(3)(self.act(nn.Conv(3, (2, 2, 2))(x)).mean((1, 2, 3)))


@model("volumes")
def volume(wrap):
    return one_example(Volume(wrap(nn.relu)), uniform(17, 4, 4, 4, 2))


class Prelu(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.PReLU()(nn.Dense(8)(nn.WeightNorm(nn.Dense(8))(x))))


@model("trained activations")
def prelu_and_weight_norm():
    return one_example(Prelu(), uniform(18, 6))


@model("half precision")
def bfloat16_mlp(wrap, dtype=jnp.bfloat16):
    act = wrap(nn.relu)

    class Half(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, dtype=dtype)(act(nn.Dense(8, dtype=dtype)(x)))

    f, x = one_example(Half(), uniform(19, 6))
    return lambda x: f(x).astype(x.dtype), x
