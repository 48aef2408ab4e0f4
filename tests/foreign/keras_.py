"""Networks of Keras on JAX: layers that hold their weights, called on a batch in inference."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import keras
import numpy as np
from keras import layers

from foreign.model import collection, uniform

MODELS, model = collection("keras")
keras.config.set_floatx("float64")
act_of = keras.activations


def stir(net, seed):
    """Weights that depend on nothing but the seed: normal kernels, biases off zero, variances near one."""
    rng = np.random.default_rng(seed)
    scale = lambda w: max(np.prod(w.shape[:-1]), 1) ** -0.5
    of = lambda v: rng.uniform(0.7, 1.3, v.shape) if any(k in v.name for k in ("gamma", "variance", "scale")) else (
        rng.normal(size=v.shape) * (0.2 if len(v.shape) < 2 else scale(v)))
    for v in net.weights:
        if "seed" not in v.name:
            v.assign(of(v))


def one_example(net, x):
    net.build((None, *x.shape)) if not net.built else None
    stir(net, 0)
    return lambda x: net(x[None], training=False)[0], x, lambda: stir(net, 1)


def stacked(*parts):
    return keras.Sequential(list(parts))


@model("MLP")
def mlp(wrap):
    act = wrap(act_of.relu)
    net = stacked(layers.Dense(8, activation=act), layers.Dense(8, activation=act), layers.Dense(3))
    return one_example(net, uniform(0, 6))


@model("MLP")
def mlp_without_biases(wrap):
    act = wrap(act_of.relu)
    net = stacked(layers.Flatten(), layers.Dense(8, activation=act, use_bias=False), layers.Dense(3, use_bias=False))
    return one_example(net, uniform(1, 3, 3, 2))


@model("MLP")
def named_activations():
    net = stacked(*(layers.Dense(6, activation=name) for name in ("gelu", "silu", "elu", "mish", "softsign")),
                  layers.Dense(3))
    return one_example(net, uniform(2, 6))


@model("max-pooling")
def cnn(wrap):
    act = wrap(act_of.relu)
    net = stacked(layers.Conv2D(4, 3, padding="same", activation=act), layers.MaxPooling2D(),
                  layers.Conv2D(4, 3, padding="same", activation=act), layers.MaxPooling2D(3, 2, "same"),
                  layers.Flatten(), layers.Dropout(0.5), layers.Dense(3))
    return one_example(net, uniform(3, 8, 8, 2))


@model("max-pooling")
def global_pooling(wrap):
    net = stacked(layers.Conv2D(4, 3, strides=2, activation=wrap(act_of.leaky_relu)), layers.GlobalMaxPooling2D(),
                  layers.Dense(3))
    return one_example(net, uniform(4, 7, 7, 2))


@model("average pooling")
def average_pooling(wrap):
    net = stacked(layers.Conv2D(4, 3, activation=wrap(act_of.celu)), layers.AveragePooling2D(2),
                  layers.Conv2D(3, 1), layers.GlobalAveragePooling2D())
    return one_example(net, uniform(5, 6, 6, 2))


@model("BatchNorm, residual")
def resnet_block(wrap):
    act = wrap(act_of.relu)
    inputs = keras.Input((6, 6, 2))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(inputs))
    x = layers.Activation(act)(x)
    h = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x))
    x = layers.Activation(act)(layers.Add()([h, x]))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return one_example(keras.Model(inputs, outputs), uniform(6, 6, 6, 2))


@model("DenseNet", linear=False)
def densenet(wrap):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, padding="same")(inputs)
    for _ in range(2):
        h = layers.Activation(wrap(act_of.relu))(layers.BatchNormalization()(x))
        x = layers.Concatenate()([x, layers.Conv2D(2, 3, padding="same")(h)])
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    return one_example(keras.Model(inputs, outputs), uniform(7, 6, 6, 2))


@model("depthwise convolutions")
def mobilenet(wrap):
    act = wrap(act_of.relu6)
    net = stacked(layers.Conv2D(4, 3, strides=2, padding="same", activation=act),
                  layers.DepthwiseConv2D(3, padding="same", activation=act),
                  layers.SeparableConv2D(4, 3, padding="same", activation=act),
                  layers.GlobalAveragePooling2D(), layers.Dense(3))
    return one_example(net, uniform(8, 6, 6, 2))


@model("squeeze and excitation", linear=False)
def squeeze_excitation(wrap):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation=wrap(act_of.hard_silu))(inputs)
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Dense(4, activation=wrap(act_of.hard_sigmoid))(layers.Dense(2, activation=wrap(act_of.relu))(s))
    outputs = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.Multiply()([x, s])))
    return one_example(keras.Model(inputs, outputs), uniform(9, 6, 6, 2))


@model("LayerNorm and RMSNorm", linear=False)
def layer_norm(wrap):
    net = stacked(layers.Dense(6), layers.LayerNormalization(), layers.Activation(wrap(act_of.gelu)),
                  layers.Dense(6), layers.RMSNormalization(), layers.Activation(wrap(act_of.gelu)), layers.Dense(3))
    return one_example(net, uniform(10, 6))


@model("GroupNorm", linear=False)
def group_norm(wrap):
    net = stacked(layers.Conv2D(4, 3), layers.GroupNormalization(2), layers.Activation(wrap(act_of.relu)),
                  layers.GlobalAveragePooling2D(), layers.Dense(3))
    return one_example(net, uniform(11, 6, 6, 2))


@model("L2 normalisation", linear=False)
def unit_normalised(wrap):
    net = stacked(layers.Dense(6, activation=wrap(act_of.tanh)), layers.UnitNormalization(), layers.Dense(3))
    return one_example(net, uniform(12, 6))


@model("recurrent", linear=False)
def lstm():
    return one_example(stacked(layers.LSTM(4), layers.Dense(3)), uniform(13, 4, 3))


@model("recurrent", linear=False)
def bidirectional_gru():
    return one_example(stacked(layers.Bidirectional(layers.GRU(3)), layers.Dense(3)), uniform(14, 4, 3))


@model("attention", linear=False)
def transformer():
    inputs = keras.Input((5, 4))
    h = layers.LayerNormalization()(inputs)
    x = layers.Add()([inputs, layers.MultiHeadAttention(2, 2)(h, h)])
    x = layers.Add()([x, layers.Dense(4)(layers.Dense(8, activation="gelu")(x))])
    outputs = layers.Dense(3)(layers.GlobalAveragePooling1D()(x))
    return one_example(keras.Model(inputs, outputs), uniform(15, 5, 4))


@model("sequences")
def convolution_over_a_sequence(wrap):
    act = wrap(act_of.relu)
    net = stacked(layers.Conv1D(4, 3, padding="causal", activation=act), layers.MaxPooling1D(),
                  layers.Conv1D(4, 2, activation=act), layers.GlobalAveragePooling1D(), layers.Dense(3))
    return one_example(net, uniform(16, 8, 3))


@model("volumes")
def volume(wrap):
    net = stacked(layers.Conv3D(3, 2, 2, activation=wrap(act_of.relu)), layers.Flatten(), layers.Dense(3))
    return one_example(net, uniform(17, 4, 4, 4, 2))


@model("U-net")
def unet(wrap):
    act = wrap(act_of.relu)
    inputs = keras.Input((6, 6, 2))
    fine = layers.Conv2D(3, 3, padding="same", activation=act)(inputs)
    coarse = layers.Conv2D(4, 3, strides=2, padding="same", activation=act)(fine)
    x = layers.Concatenate()([layers.UpSampling2D()(coarse), layers.Conv2DTranspose(3, 2, 2)(coarse), fine])
    outputs = layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3, activation=act)(x))
    return one_example(keras.Model(inputs, outputs), uniform(18, 6, 6, 2))


@model("trained activations")
def prelu():
    net = stacked(layers.Dense(8), layers.PReLU(), layers.Dense(3))
    return one_example(net, uniform(19, 6))


@model("output functions", linear=False)
def softmax_classifier(wrap):
    net = stacked(layers.Rescaling(2.0, offset=-1.0), layers.Dense(8, activation=wrap(act_of.relu)),
                  layers.Dense(3, activation="softmax"))
    f, x, update = one_example(net, uniform(20, 6))
    return jax.jit(f), x, update


@model("half precision")
def mixed_precision(dtype="mixed_float16"):
    dtype = dtype if isinstance(dtype, str) else "float64"
    net = stacked(layers.Conv2D(4, 3, activation="relu", dtype=dtype), layers.GlobalAveragePooling2D(dtype=dtype),
                  layers.Dense(3, dtype="float32" if dtype != "float64" else dtype))
    return one_example(net, uniform(21, 6, 6, 2))
