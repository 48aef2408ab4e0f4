"""Networks of haiku: functions that make their weights where they stand, transformed into init and apply."""

import haiku as hk
import jax
import jax.numpy as jnp

from foreign.model import collection, stirred, uniform

MODELS, model = collection("haiku")


def one_example(forward, x, **training):
    """f of one example, from a forward function of a batch that may take is_training."""
    transformed = hk.without_apply_rng(hk.transform_with_state(forward))
    params, state = transformed.init(jax.random.key(0), x[None], **dict.fromkeys(training, True))
    params, state = stirred(params), jax.tree.map(jnp.abs, stirred(state, 1))
    return lambda x: transformed.apply(params, state, x[None], **training)[0][0], x


@model("MLP")
def mlp(wrap):
    return one_example(lambda x: hk.nets.MLP([8, 8, 3], activation=wrap(jax.nn.relu))(x), uniform(0, 6))


@model("MLP")
def mlp_without_biases(wrap):
    net = lambda x: hk.nets.MLP([8, 3], with_bias=False, activation=wrap(jax.nn.relu))(hk.Flatten()(x))
    return one_example(net, uniform(1, 3, 3, 2))


@model("max-pooling")
def cnn(wrap):
    act = wrap(jax.nn.relu)

    def forward(x):
        return hk.Sequential([hk.Conv2D(4, 3), act, hk.MaxPool((2, 2, 1), (2, 2, 1), "VALID"), hk.Conv2D(4, 3), act,
                              hk.Flatten(), hk.Linear(6), act, hk.Linear(3)])(x)

    return one_example(forward, uniform(2, 8, 8, 2))


@model("convolutions, channels first", channels_first=True)
def cnn_channels_first(wrap):
    act = wrap(jax.nn.relu)

    def forward(x):
        x = act(hk.Conv2D(4, 3, data_format="NCHW")(x))
        x = act(hk.Conv2D(4, 3, stride=2, data_format="NCHW")(x))
        return hk.Linear(3)(x.mean((2, 3)))

    return one_example(forward, uniform(3, 2, 6, 6))


@model("average pooling")
def average_pooling(wrap):
    act = wrap(jax.nn.relu)

    def forward(x):
        x = hk.AvgPool((3, 3, 1), (2, 2, 1), "SAME")(act(hk.Conv2D(4, 3, rate=2)(x)))
        return hk.Linear(3)(hk.Flatten()(x))

    return one_example(forward, uniform(4, 6, 6, 2))


@model("BatchNorm, residual")
def resnet_block(wrap):
    act = wrap(jax.nn.relu)

    def forward(x, is_training):
        norm = lambda x: hk.BatchNorm(True, True, 0.9)(x, is_training)
        x = act(norm(hk.Conv2D(4, 3, with_bias=False)(x)))
        h = norm(hk.Conv2D(4, 3, with_bias=False)(act(norm(hk.Conv2D(4, 3, with_bias=False)(x)))))
        return hk.Linear(3)(act(h + x).mean((1, 2)))

    return one_example(forward, uniform(5, 6, 6, 2), is_training=False)


@model("LayerNorm and RMSNorm", linear=False)
def layer_norm(wrap):
    act = wrap(jax.nn.gelu)

    def forward(x):
        x = hk.LayerNorm(-1, True, True)(hk.Linear(6)(x))
        return hk.Linear(3)(act(hk.RMSNorm(-1)(hk.Linear(6)(act(x)))))

    return one_example(forward, uniform(6, 6))


@model("GroupNorm", linear=False)
def group_norm(wrap):
    def forward(x):
        x = wrap(jax.nn.relu)(hk.GroupNorm(2)(hk.Conv2D(4, 3)(x)))
        return hk.Linear(3)(x.mean((1, 2)))

    return one_example(forward, uniform(7, 6, 6, 2))


@model("depthwise convolutions")
def mobilenet(wrap):
    act = wrap(jax.nn.relu6)

    def forward(x):
        x = act(hk.Conv2D(4, 1)(x))
        x = act(hk.DepthwiseConv2D(1, 3, stride=2)(x))
        return hk.Conv2D(3, 1)(x).mean((1, 2))

    return one_example(forward, uniform(8, 6, 6, 2))


@model("squeeze and excitation", linear=False)
def squeeze_excitation(wrap):
    act = wrap(jax.nn.hard_swish)

    def forward(x):
        x = act(hk.Conv2D(4, 3)(x))
        s = wrap(jax.nn.relu)(hk.Linear(2)(x.mean((1, 2), keepdims=True)))
        x = x * wrap(jax.nn.sigmoid)(hk.Linear(4)(s))
        return hk.Linear(3)(x.mean((1, 2)))

    return one_example(forward, uniform(9, 6, 6, 2))


def recurrent(core, seed, backwards=False):
    def forward(x):
        cell, n = core(4), x.shape[0]
        out, _ = hk.dynamic_unroll(cell, x, cell.initial_state(n), time_major=False)
        if backwards:
            back = core(4)
            other, _ = hk.dynamic_unroll(back, x, back.initial_state(n), time_major=False, reverse=True)
            out = jnp.concatenate([out[:, -1], other[:, 0]], -1)[:, None]
        return hk.Linear(3)(out[:, -1])

    return one_example(forward, uniform(seed, 4, 3))


@model("recurrent", linear=False)
def lstm():
    return recurrent(hk.LSTM, 10)


@model("recurrent", linear=False)
def bidirectional_gru():
    return recurrent(hk.GRU, 11, backwards=True)


@model("recurrent", linear=False)
def vanilla_rnn():
    return recurrent(hk.VanillaRNN, 12)


@model("attention", linear=False)
def transformer():
    def forward(x):
        h = hk.LayerNorm(-1, True, True)(x)
        x = x + hk.MultiHeadAttention(2, 2, w_init_scale=1.0, model_size=4)(h, h, h)
        return hk.Linear(3)((x + hk.Linear(4)(jax.nn.gelu(hk.Linear(8)(x)))).mean(1))

    return one_example(forward, uniform(13, 5, 4))


@model("sequences")
def convolution_over_a_sequence(wrap):
    act = wrap(jax.nn.leaky_relu)
    forward = lambda x: hk.Linear(3)(act(hk.Conv1D(4, 3, stride=2)(act(hk.Conv1D(4, 3)(x)))).mean(1))
    return one_example(forward, uniform(14, 8, 3))


@model("volumes")
def volume(wrap):
    forward = lambda x: hk.Linear(3)(wrap(jax.nn.relu)(hk.Conv3D(3, 2, stride=2)(x)).mean((1, 2, 3)))
    return one_example(forward, uniform(15, 4, 4, 4, 2))


@model("U-net")
def upsampling(wrap):
    act = wrap(jax.nn.relu)
    forward = lambda x: act(hk.Conv2DTranspose(3, 2, stride=2)(act(hk.Conv2D(4, 3, stride=2)(x)))).mean((1, 2))
    return one_example(forward, uniform(16, 6, 6, 2))


@model("control flow")
def layer_stack(wrap):
    act = wrap(jax.nn.relu)

    def forward(x):
        stack = hk.experimental.layer_stack(3)
        return hk.Linear(3)(stack(hk.remat(lambda h: act(hk.Linear(6)(h))))(x))

    return one_example(forward, uniform(17, 6))


@model("output functions", linear=False)
def scored_by_a_jitted_softmax(wrap):
    f, x = one_example(lambda x: hk.nets.MLP([8, 3], activation=wrap(jax.nn.elu))(x), uniform(18, 6))
    return jax.jit(lambda x: jax.nn.softmax(f(x))), x
