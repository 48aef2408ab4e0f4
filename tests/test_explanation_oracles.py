"""Explanations equal Captum's and zennit's on three small networks; oracles/make_explanation_oracles.py says how."""

import pathlib

import jax
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from xmanip_jax import explain
from xmanip_jax.models import max_pool
from xmanip_jax.pooling import avg_pool

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.promotes("ranks")]
ORACLES = np.load(pathlib.Path(__file__).parent / "oracles" / "explanations.npz")
BN_EPS = 1e-5


def conv(x, kernel, stride=1, pad=0, groups=1):
    return lax.conv_general_dilated(x[None], kernel, (stride, stride), ((pad, pad), (pad, pad)),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups)[0]


def plain(p, x):
    x = checkpoint_name(jax.nn.relu(conv(x, p["conv1/kernel"], pad=1) + p["conv1/bias"]), "relu1")
    x = checkpoint_name(conv(max_pool(x, 2, 2), p["conv2/kernel"], stride=2) + p["conv2/bias"], "conv2")
    x = jax.nn.relu(jax.nn.relu(x).ravel() @ p["dense1/kernel"] + p["dense1/bias"])
    return x @ p["dense2/kernel"] + p["dense2/bias"]


def norm(x, p, name):
    scale = lax.rsqrt(p[f"{name}/var"] + BN_EPS) * p[f"{name}/scale"]
    return (x - p[f"{name}/mean"]) * scale + p[f"{name}/bias"]


def residual(p, x):
    x = jax.nn.relu(conv(x, p["conv1/kernel"], pad=1) + p["conv1/bias"])
    y = jax.nn.relu(norm(conv(x, p["conv2/kernel"], pad=1), p, "norm2"))
    y = norm(conv(y, p["conv3/kernel"], pad=1) + p["conv3/bias"], p, "norm3")
    x = checkpoint_name(jax.nn.relu(x + y), "relu3")
    return x.mean((0, 1)) @ p["dense/kernel"] + p["dense/bias"]


def strided(p, x):
    x = jax.nn.relu(conv(x, p["conv1/kernel"], stride=2, pad=1))
    x = checkpoint_name(jax.nn.relu(conv(x, p["conv2/kernel"], pad=1, groups=2)), "relu2")
    x = jax.nn.relu(conv(avg_pool(x, 2, 2), p["conv3/kernel"], pad=1))
    return x.ravel() @ p["dense/kernel"]


NETWORKS = {"plain": plain, "residual": residual, "strided": strided}
CAM_LAYERS = {"plain": ("relu1", "conv2"), "residual": ("relu3",), "strided": ("relu2",)}
every_network = pytest.mark.parametrize("name", NETWORKS)


def given(name, what):
    return ORACLES[f"{name}/{what}"]


def model(name):
    prefix = f"{name}/weights/"
    weights = {key.removeprefix(prefix): ORACLES[key] for key in ORACLES.files if key.startswith(prefix)}
    return lambda x: NETWORKS[name](weights, x)


def lrp(rule, first=None):
    return explain.lrp(conv=rule, dense=rule, first=first, sums=explain.epsilon(1e-12))


def first(rule):
    return lrp(explain.epsilon(1e-6), rule)


# Constructors, called inside the tests: oracle -> explanation, or explanation of the network's box.
CAPTUM = {
    "saliency": lambda: explain.gradient(),
    "input_x_gradient": lambda: explain.gradient_x_input(),
    "integrated_gradients": lambda: explain.integrated_gradients(steps=30),
    "guided_backprop": lambda: explain.guided_backprop(),
    "deconvolution": lambda: explain.deconvnet(),
}
RULES = {
    "epsilon_1e-6": lambda: explain.epsilon(1e-6),
    "epsilon_0.1": lambda: explain.epsilon(0.1),
    "z_plus": lambda: explain.z_plus(stabilizer=1e-6, bias=True),
    "alpha_beta_2_1": lambda: explain.alpha_beta(2, 1, stabilizer=1e-6, bias=True),
    "alpha_beta_1_0": lambda: explain.alpha_beta(1, 0, stabilizer=1e-6, bias=True),
    "gamma_0.25": lambda: explain.gamma(0.25, stabilizer=1e-6),
}
FIRST_RULES = {
    "first_z_box": lambda low, high: explain.z_box(low, high, stabilizer=1e-6),
    "first_w_square": lambda low, high: explain.w_square(stabilizer=1e-6),
    "first_flat": lambda low, high: explain.flat(stabilizer=1e-6),
}
# Of the first image of `plain`.
VARIANTS = {
    "z_plus_no_bias": lambda: explain.z_plus(stabilizer=1e-6, bias=False),
    "alpha_beta_2_1_no_bias": lambda: explain.alpha_beta(2, 1, stabilizer=1e-6, bias=False),
    "z_plus_stabilizer_0.1": lambda: explain.z_plus(stabilizer=0.1, bias=True),
    "alpha_beta_2_1_stabilizer_0.1": lambda: explain.alpha_beta(2, 1, stabilizer=0.1, bias=True),
    "gamma_0.25_stabilizer_0.1": lambda: explain.gamma(0.25, stabilizer=0.1),
}
FIRST_VARIANTS = {
    "first_z_box_stabilizer_0.1": lambda low, high: explain.z_box(low, high, stabilizer=0.1),
    "first_w_square_stabilizer_0.1": lambda low, high: explain.w_square(stabilizer=0.1),
    "first_flat_stabilizer_0.1": lambda low, high: explain.flat(stabilizer=0.1),
}


def assert_close(got, expected):
    np.testing.assert_allclose(got, expected, atol=1e-7 * np.abs(expected).max(), rtol=0)


def check(name, e, oracle):
    """The maps of every image and target."""
    f, expected = model(name), given(name, oracle)
    explained = jax.jit(lambda x, target: e(f, x, target))
    assert expected.any()
    for x, maps in zip(given(name, "images")[:len(expected)], expected, strict=True):
        for target, wanted in zip(given(name, "targets"), maps, strict=True):
            got = explained(x, target)
            assert got.shape == wanted.shape and got.dtype == np.float64
            assert_close(got, wanted)


@every_network
def test_logits(name):
    assert_close(jax.jit(jax.vmap(model(name)))(given(name, "images")), given(name, "logits"))


@every_network
@pytest.mark.sampled(2)
@pytest.mark.parametrize("oracle", CAPTUM)
def test_captum(name, oracle):
    check(name, CAPTUM[oracle](), f"captum/{oracle}")


@pytest.mark.parametrize("name, layer", [(name, layer) for name in NETWORKS for layer in CAM_LAYERS[name]])
def test_captum_grad_cam(name, layer):
    check(name, explain.grad_cam(layer), f"captum/grad_cam/relu/{layer}")
    check(name, explain.grad_cam(layer, relu=False), f"captum/grad_cam/{layer}")


@every_network
@pytest.mark.sampled(2)
@pytest.mark.parametrize("oracle", RULES)
def test_zennit(name, oracle):
    check(name, lrp(RULES[oracle]()), f"zennit/{oracle}")


@every_network
@pytest.mark.parametrize("oracle", FIRST_RULES)
def test_zennit_first_layer(name, oracle):
    check(name, first(FIRST_RULES[oracle](given(name, "low"), given(name, "high"))), f"zennit/{oracle}")


@pytest.mark.parametrize("oracle", VARIANTS)
def test_zennit_bias_and_stabilizer(oracle):
    check("plain", lrp(VARIANTS[oracle]()), f"zennit/{oracle}")


@pytest.mark.parametrize("oracle", FIRST_VARIANTS)
def test_zennit_first_layer_stabilizer(oracle):
    check("plain", first(FIRST_VARIANTS[oracle](given("plain", "low"), given("plain", "high"))), f"zennit/{oracle}")


@pytest.mark.sampled(3)
@every_network
@pytest.mark.parametrize("oracle", ["epsilon_1e-6", "z_plus"])
def test_zennit_logit_difference(name, oracle):
    f, direction, e = model(name), given(name, "direction"), lrp(RULES[oracle]())
    for x, wanted in zip(given(name, "images"), given(name, f"zennit/{oracle}/difference"), strict=True):
        assert_close(jax.jit(lambda x: e(f, x, direction))(x), wanted)
