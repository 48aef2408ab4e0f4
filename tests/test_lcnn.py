"""LCNN: layers of norm 1, BatchNorm of bounded slope, trained activations, and the network they make."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from xmanip_jax import certify, defend, explain, models, train
from xmanip_jax.models.net import abstract

RANDOM = np.random.default_rng(0)


def dense(f, shape):
    """The matrix of a linear function."""
    return np.asarray(jax.jit(jax.jacobian(lambda v: f(v.reshape(shape)).ravel()))(jnp.zeros(np.prod(shape))))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("build, shape", [
    (lambda r: nnx.Conv(2, 3, (4, 4), 2, use_bias=False, param_dtype=jnp.float64, rngs=r), (7, 7, 2)),
    (lambda r: nnx.Conv(2, 3, (3, 3), 1, padding=1, use_bias=False, param_dtype=jnp.float64, rngs=r), (5, 6, 2)),
    (lambda r: nnx.Conv(2, 4, (3, 3), 2, padding="VALID", use_bias=False, param_dtype=jnp.float64, rngs=r), (6, 6, 2)),
    (lambda r: nnx.Linear(6, 4, use_bias=False, param_dtype=jnp.float64, rngs=r), (6,))])
def test_norm_one_against_dense_singular_values(build, shape, x64):
    layer = build(nnx.Rngs(0))
    unit = models.UnitNorm(layer, shape, warm_up=400, rngs=nnx.Rngs(1))
    assert np.linalg.norm(dense(unit, shape), 2) == pytest.approx(1, abs=1e-6)
    norm = np.linalg.norm(dense(layer, shape), 2)
    if len(shape) == 3:
        assert norm <= certify.convolution_norm(layer.kernel[...], shape[:2], layer.strides if isinstance(
            layer.strides, tuple) else (layer.strides,) * 2)
    x = RANDOM.normal(size=shape)
    before = unit(x)
    np.testing.assert_allclose(before, layer(x) / norm, rtol=1e-6)
    layer.kernel[...] = 3 * layer.kernel[...]
    np.testing.assert_allclose(unit(x), before, rtol=1e-9)


@pytest.mark.slow
def test_the_norm_follows_the_kernel_in_training_only(x64):
    build = lambda: models.UnitNorm(nnx.Linear(6, 4, use_bias=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0)), (6,),
                                    rngs=nnx.Rngs(1))
    unit, x = build(), jnp.ones(6)
    unit.layer.kernel[...] = jnp.asarray(RANDOM.normal(size=(6, 4)))
    unit.eval()
    unit(x)
    np.testing.assert_array_equal(unit.v[...], build().v[...])
    unit.train()
    for _ in range(300):
        unit(x)
    unit.eval()
    assert np.linalg.norm(dense(unit, (6,)), 2) == pytest.approx(1, abs=1e-6)
    # The norm is part of what is differentiated: along the kernel itself nothing changes.
    graph, params, state = nnx.split(unit, nnx.Param, ...)
    slope = jax.grad(lambda p: jnp.sum(nnx.merge(graph, p, state, copy=True)(x) ** 2))(params)
    along = jax.tree.map(lambda a, b: jnp.sum(a * b), slope, params)
    np.testing.assert_allclose(jax.tree.leaves(along)[0], 0, atol=1e-12)
    with pytest.raises(ValueError, match="use_bias=False"):
        models.UnitNorm(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), (2,), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("gamma", [0.5, 2.0, 50.0])
def test_batch_norm_has_at_most_its_slope(gamma):
    norm = models.LipschitzNorm(4, gamma=gamma, rngs=nnx.Rngs(0))
    norm.norm.mean[...] = jnp.arange(4.0)
    norm.norm.var[...] = jnp.array([0.01, 1.0, 4.0, 0.09])
    slopes = np.diag(dense(norm, (4,)))
    wanted = np.minimum(1, gamma * np.sqrt(0.01 + 1e-5)) / np.sqrt(np.array([0.01, 1, 4, 0.09]) + 1e-5)
    np.testing.assert_allclose(slopes, wanted, rtol=1e-5)
    assert slopes.max() <= gamma * (1 + 1e-6)
    with pytest.raises(ValueError, match="gamma is positive, got 0"):
        models.LipschitzNorm(4, gamma=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="beta is positive, got -1"):
        models.CentredSoftplus(-1)


@pytest.fixture(scope="module")
def trained():
    """A small one on images whose brightness tells the class: (module, net, params before, training, numbers)."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 3, 64)
    images = (random.normal(size=(64, 8, 8, 1)) * 0.2 + labels[:, None, None, None] / 2).astype(np.float32)
    module = models.SmallLCNN(size=8, num_classes=3, rngs=nnx.Rngs(0))
    net, params, state = models.functional(module)
    optimizer, seen = optax.adam(1e-2), []
    run = train.fit(optimizer, batch=16, steps=20, every=20, devices=jax.devices()[:1],
                    terms=((1e-3, defend.gradient_norm()), (1.0, defend.lcnn())))
    training = run(net, train.begin(params, state, optimizer), images, labels,
                   callback=lambda step, numbers: seen.append(numbers))
    return module, net, params, jax.tree.map(jnp.asarray, training), seen


@pytest.mark.slow
def test_training_lowers_beta_and_keeps_the_norms(trained):
    module, _, params, training, seen = trained
    assert seen[-1]["cross_entropy"] < 0.1 and seen[-1]["accuracy"] > 0.9
    for act in ("act1", "act2"):
        assert training.params[act]["log_beta"] < params[act]["log_beta"]
    for norm in ("norm1", "norm2", "norm3"):
        assert training.params[norm]["log_gamma"] < params[norm]["log_gamma"]
    nnx.update(module, training.params, training.state)
    module.eval()
    for layer, shape in ((module.conv1, (8, 8, 1)), (module.conv2, (4, 4, 16)), (module.conv3, (2, 2, 32)),
                         (module.linear, (100,))):
        assert np.linalg.norm(dense(layer, shape), 2) == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_the_network_is_one_that_maps_and_bounds_understand(trained, tmp_path):
    module, net, _, training, _ = trained
    f, x = jax.tree_util.Partial(net.apply, training.params, training.state), jnp.asarray(
        RANDOM.uniform(size=(8, 8, 1)), jnp.float32)
    cam, logits = explain.with_logits(explain.cam("features"))(f, x, 1)
    np.testing.assert_allclose(cam.sum() / 4, logits[1], rtol=1e-4, atol=1e-6)
    hessian = jax.jit(jax.hessian(lambda v: f(v.reshape(x.shape))[1]))(x.ravel())
    assert jnp.linalg.norm(hessian) <= certify.hessian_bound(f, x, 1)
    nnx.update(module, training.params, training.state)
    models.save_weights(module, tmp_path / "lcnn.safetensors")
    other = abstract(partial(models.SmallLCNN, size=8, num_classes=3))
    models.load_weights(other, tmp_path / "lcnn.safetensors")
    np.testing.assert_allclose(other(x), logits, rtol=1e-4, atol=1e-6)


def test_penalty_of_the_parameters():
    params = {"a": {"log_beta": jnp.log(jnp.array(3.0))}, "b": {"log_beta": jnp.log(jnp.array(4.0))},
              "n": {"log_gamma": jnp.array(-0.5)}, "w": jnp.ones(2)}
    apply, xs, ys = lambda params, state, x: params["w"] * x, jnp.ones((5, 2)), jnp.zeros(5, int)
    loss = train.training_loss((0.0, train.no_penalty()), (2.0, defend.lcnn(beta=0.1, gamma=0.2)))
    total, numbers = loss(apply, params, None, xs, ys)
    assert total - numbers["cross_entropy"] == pytest.approx(2 * (0.1 * 7 + 0.2 * 0.5), rel=1e-6)
    slope = jax.jit(jax.grad(lambda p: loss(apply, p, None, xs, ys)[0]))(params)
    assert slope["a"]["log_beta"] == pytest.approx(2 * 0.1 * 3, rel=1e-6)
    with pytest.raises(ValueError, match="no parameter named log_beta or log_gamma"):
        loss(apply, {"w": params["w"]}, None, xs, ys)
    with pytest.raises(ValueError, match="not negative, got beta=-1"):
        defend.lcnn(beta=-1)
