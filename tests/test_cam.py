"""Class activation maps of layers as they are: images, tokens, rows, volumes, channels first, half precision; and what
`cam` refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

from checks import compiled
from xmanip_jax import attack, explain, metrics, rewrite, smooth

rng = np.random.default_rng(0)
KEY = jax.random.key(0)
W, V = rng.normal(size=(2, 4, 5, 3)), rng.normal(size=(2, 4, 5, 3))


def network(arrange, w, v):
    """Logits of a layer a = arrange(x): (sum w a + v a^2 / 2, the same negated). The gradient there is w + v a."""
    def f(x):
        a = checkpoint_name(arrange(x), "layer")
        logit = jnp.sum(w * a) + (0 if v is None else jnp.sum(v * a**2 / 2))
        return jnp.stack([logit, -logit])

    return f


def by_hand(name, a, g):
    """With the channels last, in float64."""
    places = tuple(range(a.ndim - 1))
    if name == "cam":
        return a[..., 0].size * (a * g).sum(-1)
    if name == "grad_cam":
        return np.maximum((a * g.mean(places)).sum(-1), 0)
    alpha = g**2 / (2 * g**2 + a.sum(places) * g**3)
    return np.maximum((a * (alpha * np.maximum(g, 0)).sum(places)).sum(-1), 0)


first = lambda x: jnp.moveaxis(x, -1, 0)
LAYERS = {  # input shape, what the model makes of it, the channels of that, the shape of the map
    "image": ((4, 5, 3), lambda x: x, {}, (4, 5)),
    "image, a batch of one inside": ((4, 5, 3), lambda x: x[None], {}, (4, 5)),
    "tokens": ((20, 3), lambda x: x, {}, (20,)),
    "tokens of an image": ((4, 5, 3), lambda x: x.reshape(1, 20, 3), {}, (4, 5)),
    "tokens that make no grid of it": ((4, 5, 3), lambda x: x.reshape(1, 20, 3)[:, :18], {}, (18,)),
    "row": ((60,), lambda x: x.reshape(20, 3), {}, (20,)),
    "volume": ((2, 4, 5, 3), lambda x: x, {}, (2, 4, 5)),
    "volume, a batch of one inside": ((2, 4, 5, 3), lambda x: x[None], {}, (2, 4, 5)),
    "volume without channels": ((2, 4, 5), lambda x: jnp.stack([x, 2 * x, 3 * x], -1), {"places": 3}, (2, 4, 5)),
    "channels first": ((4, 5, 3), first, {"channels": -3}, (4, 5)),
    "channels first, a batch of one inside": ((4, 5, 3), lambda x: first(x)[None], {"channels": -3}, (4, 5)),
    "channels first, counted from the front": ((4, 5, 3), lambda x: first(x)[None], {"channels": 1}, (4, 5)),
    "one channel first": ((4, 5, 3), lambda x: x.sum(-1)[None], {"channels": -3}, (4, 5)),
    "sequence, channels first": ((20, 3), first, {"channels": -2}, (20,)),
    "volume, channels first": ((2, 4, 5, 3), first, {"channels": -4}, (2, 4, 5)),
    "one row of an image": ((1, 20, 3), lambda x: x, {}, (20,)),
    "one place": ((1, 1, 3), lambda x: x, {}, (1,)),
}


@pytest.mark.sampled(5)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_pp", "cam"])
def test_maps_of_every_layer(name, layer):
    shape, arrange, options, map_shape = LAYERS[layer]
    x = rng.normal(size=shape)
    a = np.asarray(arrange(jnp.asarray(x)))
    w = rng.normal(size=a.shape)
    v = None if name == "cam" else rng.normal(size=a.shape)
    got = compiled(getattr(explain, name)("layer", **options))(network(arrange, w, v), x, 0)
    axis = options.get("channels", -1)
    last = lambda v: np.moveaxis(v, axis, -1).reshape(*map_shape, v.shape[axis])
    assert got.shape == map_shape
    np.testing.assert_allclose(got, by_hand(name, last(a), last(w if v is None else w + v * a)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_pp", "cam"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_maps_of_a_half_precision_layer_below_and_above_float32(name, dtype):
    """The input and the logits are float32, the layer alone is half: its map is float32, and that of its values."""
    x, w = (jnp.asarray(v, jnp.float32) for v in (rng.normal(size=(4, 5, 3)), rng.normal(size=(3, 2))))

    def f(x):
        a = checkpoint_name(x.astype(dtype) * 2, "layer")
        return a.astype(jnp.float32).mean((0, 1)) @ w

    a, g = np.asarray(x.astype(dtype) * 2, float), np.broadcast_to(np.asarray(w, float)[:, 0] / 20, (4, 5, 3))
    got = compiled(getattr(explain, name)("layer"))(f, x, 0)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, by_hand(name, a, g), rtol=0, atol=2e-2 * np.abs(by_hand(name, a, g)).max())


@pytest.mark.usefixtures("x64")
def test_the_weights_of_grad_cam_pp_are_the_papers():
    """Two places, one channel, a = (1, 2), g = (2, 1): alpha = (4 / (8 + 3 * 8), 1 / (2 + 3)) = (1/8, 1/5)."""
    f = network(lambda x: x, jnp.array([[2.0], [1.0]]), None)
    np.testing.assert_allclose(explain.grad_cam_pp("layer")(f, jnp.array([[1.0], [2.0]]), 0), [0.45, 0.9], rtol=1e-12)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_pp", "cam"])
def test_half_precision_is_summed_in_float32(name, dtype):
    """A layer in the input's type, whose maps are infinite in float16."""
    x = jnp.asarray(np.full((16, 16, 64), 32.0), dtype)
    f = lambda x: jnp.stack([checkpoint_name(x, "layer").mean((0, 1)).astype(jnp.float32).sum(), jnp.float32(0)])
    got = compiled(getattr(explain, name)("layer"))(f, 4 * x, 0)
    assert got.dtype == jnp.float32 and np.isfinite(got).all() and (got > 0).all()
    np.testing.assert_allclose(explain.heatmap(got), 1 / 256, rtol=1e-2)


convolve = lambda a: jax.lax.conv_general_dilated(a[None], W[:, :3, :1, :3].repeat(5, 2), (1, 1), "SAME",
                                                  dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]
pooled = lambda a: a.mean((0, 1))
LINEAR = {
    "average and dense": lambda a: pooled(a) @ W[0, 0],
    "flattened": lambda a: a.reshape(-1) @ W.repeat(2, 0).reshape(80, 3),
    "jitted, checkpointed, vmapped": lambda a: jax.checkpoint(jax.jit(jax.vmap(lambda t: t @ W[0, 0])))(a[0]).sum(0),
    "batch norm": lambda a: ((a - 0.3) / jnp.sqrt(1.0 + 1e-3) * 0.7 + 0.1).sum((0, 1)),
    "a convolution": lambda a: convolve(a)[1, 1],
    "an average pooling": lambda a: jax.lax.reduce_window(a, 0.0, jax.lax.add, (2, 2, 1), (2, 2, 1), "VALID")[0, 0],
    "a part, a mask, a gather": lambda a: pooled(jnp.where(jnp.arange(5) > 1, a, 2.0)[1:, ::2][jnp.array([0, 0])]),
    "padded and turned": lambda a: jnp.pad(jnp.flip(a, 0).transpose(2, 0, 1), 1).sum((1, 2))[:3],
    "written into": lambda a: jnp.zeros(9).at[jnp.arange(5)].add(pooled(a)).at[0].set(1.0),
    "a cast": lambda a: pooled(a.astype(jnp.float32)).astype(jnp.float64),
}
CURVED = {
    "tanh": (lambda a: jnp.tanh(pooled(a)), "tanh"),
    "sigmoid": (lambda a: pooled(jax.nn.sigmoid(a)), "logistic"),
    "square": (lambda a: pooled(a**2), "square|integer_pow"),
    "exp": (lambda a: jnp.exp(pooled(a)), "exp"),
    "maximum": (lambda a: jnp.maximum(pooled(a), 0), "max"),
    "relu": (lambda a: pooled(jax.nn.relu(a)), "relu"),
    "product": (lambda a: pooled(a * a[::-1]), "mul of two values"),
    "softmax": (lambda a: jax.nn.softmax(pooled(a)), "reduce_max"),
    "quotient": (lambda a: 1 / pooled(a), "div"),
    "where": (lambda a: pooled(jnp.where(a > 0, a, 0)), "gt"),
    "attention": (lambda a: (a[0] @ a[0].T).sum(0), "dot_general of two values"),
    "rounded": (lambda a: pooled(jnp.round(a)), "round"),
    "an integer": (lambda a: pooled(a.astype(jnp.int32)), "convert_element_type"),
    "norm": (lambda a: pooled(a) / jnp.linalg.norm(a), "square|integer_pow|mul"),
    "sorted": (lambda a: jnp.sort(pooled(a)), "sort"),
    "a stopped gradient": (lambda a: pooled(jax.lax.stop_gradient(a)), "stop_gradient"),
    "a loop": (lambda a: jax.lax.scan(lambda c, r: (jnp.tanh(c + r), None), a[0, 0], a[0])[0], "scan"),
}


def custom(a):
    @jax.custom_jvp
    def linear(z):
        return 2 * z

    linear.defjvp(lambda zs, ts: (linear(zs[0]), -ts[0]))
    return linear(a).sum((0, 1))


@pytest.mark.sampled(3)
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("head", LINEAR)
def test_cam_sums_to_the_logit_where_all_is_linear(head):
    x = rng.normal(size=(4, 4, 5))
    f = lambda x: LINEAR[head](checkpoint_name(jax.nn.relu(x), "layer"))
    map, logits = compiled(explain.with_logits(explain.cam("layer")))(f, x, 1)
    np.testing.assert_allclose(map.sum() / 16, logits[1] - LINEAR[head](jnp.zeros(x.shape))[1], rtol=1e-6, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("head", CURVED)
def test_cam_names_what_is_not_linear(head):
    after, named = CURVED[head]
    f = lambda x: after(checkpoint_name(jax.nn.relu(x), "layer"))
    with pytest.raises(ValueError, match=rf"affine above the layer 'layer', but ({named}).* follows.*grad_cam"):
        explain.cam("layer")(f, rng.normal(size=(4, 4, 5)), 1)


def test_cam_takes_no_rule_for_what_it_computes():
    with pytest.raises(ValueError, match="linear follows"):
        explain.cam("layer")(lambda x: custom(checkpoint_name(x, "layer")), jnp.ones((2, 2, 5)), 1)


@pytest.mark.parametrize("arrange, shape, options, match", [
    (lambda x: x.ravel(), (4, 5, 3), {}, r"shape \(60,\) has channels only"),
    (lambda x: x.reshape(1, 60), (4, 5, 3), {}, r"shape \(1, 60\) has channels only"),
    (lambda x: jnp.stack([x, x]), (4, 5, 3), {}, r"3 axes beside its channels, .* \(4, 5, 3\) at most 2 .* places=3"),
    (lambda x: jnp.stack([x, x]), (20, 3), {"channels": 1}, r"a batch before its channels, axis 1"),
    (lambda x: jnp.stack([first(x)] * 2), (20, 3), {"channels": -2}, r"a batch before its channels, axis 1"),
    (lambda x: x, (4, 5, 3), {"channels": 3}, "channels is an axis of 3"),
    (lambda x: x, (4, 5, 3), {"channels": None}, "channels is an axis of the layer"),
])
def test_layers_that_have_no_map_are_named(arrange, shape, options, match):
    x = jnp.asarray(rng.normal(size=shape))
    f = network(arrange, 1.0, None)
    for e in (explain.cam, explain.grad_cam, explain.grad_cam_pp):
        with pytest.raises(ValueError, match=match):
            e("layer", **options)(f, x, 0)


def test_several_values_have_names_of_their_own():
    def f(x):
        a, b = checkpoint_name((jnp.tanh(x), 2 * x), "pair")
        return (a + b).sum((0, 1))

    x = jnp.ones((2, 2, 3))
    assert explain.grad_cam("pair#1")(f, x, 0).shape == (2, 2)
    with pytest.raises(rewrite.LayerError, match="pair#0"):
        explain.grad_cam("pair")(f, x, 0)


def test_the_gradient_at_a_volumes_layer_has_its_shape():
    f = network(lambda x: x[None], W[None], V[None])
    x = jnp.asarray(rng.normal(size=(2, 4, 5, 3)))
    got = explain.layer_gradient("layer")(f, x, 0)
    np.testing.assert_allclose(got, W + V * x, rtol=1e-5)


@pytest.mark.slow
def test_cams_of_volumes_and_sequences_are_attacked():
    """The map of a volume has three axes, none of which are channels: the driver knows by the input's."""
    filters = {3: np.float32(rng.normal(size=(3, 3, 3, 1, 4))), 1: np.float32(rng.normal(size=(3, 2, 4)))}
    out = np.float32(rng.normal(size=(4, 3)))

    def f(x):
        n = x.ndim - 1
        letters = "DHW"[-n:]
        order = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
        h = jax.lax.conv_general_dilated(x[None], filters[n], (1,) * n, "SAME", dimension_numbers=order)
        return (checkpoint_name(jax.nn.softplus(h), "layer") ** 2).mean(tuple(range(n + 1))) @ out

    for shape, channels in (((3, 4, 4, 1), "auto"), ((8, 2), -1)):
        pixels = np.float32(rng.uniform(0.2, 0.8, size=(2, *shape)))
        goal = np.float32(rng.dirichlet(np.ones(np.prod(shape[:-1])), size=2)).reshape(2, *shape[:-1])
        run = attack.manipulation(explain.grad_cam("layer", relu=False), steps=30, channels=channels,
                                  surrogate=smooth.none())
        found = run(f, pixels, goal, key=KEY)
        assert found.heatmap.shape == goal.shape
        before, after = (jax.vmap(metrics.mse)(v.heatmap, goal) for v in (found.clean, found))
        assert (after < before).all()


def test_a_channels_first_network_of_equinox():
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    one, two = jax.random.split(KEY)
    conv, head = eqx.nn.Conv2d(3, 6, 3, key=one), eqx.nn.Linear(6, 4, key=two)
    f = lambda x: head(checkpoint_name(jax.nn.relu(conv(x)), "features").mean((1, 2)))
    x = jnp.asarray(rng.normal(size=(3, 7, 8)), jnp.float32)
    map, logits = explain.with_logits(explain.cam("features", channels=-3))(f, x, 2)
    assert map.shape == (5, 6)
    np.testing.assert_allclose(map.mean(), logits[2] - head.bias[2], rtol=1e-4, atol=1e-5)
    weighted = explain.grad_cam("features", channels=-3)(f, x, 2)
    np.testing.assert_allclose(weighted, np.maximum(map, 0) / 30, rtol=1e-4, atol=1e-5)


def test_a_transformer_of_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")
    rngs = nnx.Rngs(0)
    embed, mix, head = nnx.Linear(4, 8, rngs=rngs), nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs), nnx.Linear(
        8, 3, rngs=rngs)
    f = lambda x: head(checkpoint_name(mix(embed(x[None])), "tokens").mean(1))[0]
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    map, logits = explain.with_logits(explain.cam("tokens"))(f, x, 1)
    assert map.shape == (6,)
    np.testing.assert_allclose(map.mean(), logits[1] - head.bias[...][1], rtol=1e-4, atol=1e-5)
