"""Batches that are spread over devices: the same numbers, and each device holds its share only.

In float64: a step by the sign of a gradient turns a difference in rounding into one of pixels.
"""

import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xmanip_jax import attack, certify, defend, explain, geometry, smooth

KEY = jax.random.key(0)
PIXELS = np.random.default_rng(0).uniform(size=(8, 4, 4, 1))
WEIGHTS = np.random.default_rng(1).normal(size=(16, 3))
E = explain.gradient()


def model(x):
    return smooth.softplus_beta(x.ravel() @ WEIGHTS + jnp.sin(9 * x.ravel() + 0.3) @ WEIGHTS, 2.0)


def goal():
    return jax.vmap(lambda p: explain.heatmap(E(model, p, 0)))(PIXELS[::-1])


def changed():
    return attack.largest_change(E, epsilon=0.1, steps=2, restarts=1, surrogate=smooth.none())(model, PIXELS, key=KEY)


def made():
    return attack.manipulation(E, steps=3, constraint=attack.l0(4))(model, PIXELS, goal(), key=KEY)


# Each takes devices and returns the arrays of a batch.
DRIVERS = {
    "manipulation": lambda devices: attack.manipulation(E, steps=6, devices=devices)(model, PIXELS, goal(), key=KEY),
    "largest_change": lambda devices: attack.largest_change(
        E, epsilon=0.1, steps=4, restarts=1, surrogate=smooth.none(), devices=devices)(model, PIXELS, key=KEY),
    "transfer": lambda devices: attack.transfer(E, devices=devices)(model, changed(), key=KEY),
    "release_pixels": lambda devices: attack.release_pixels(E, k=3, devices=devices)(
        model, made(), labels=jnp.zeros(8, int), key=KEY),
    "random_search": lambda devices: attack.random_search(E, epsilon=0.1, steps=4, devices=devices)(
        model, PIXELS, key=KEY),
    "sneaking": lambda devices: attack.sneaking(
        explain.gradient_x_input(), defend.two_class_discrepancy, steps=2, rounds=2, devices=devices)(
        model, PIXELS, (jax.vmap(model)(PIXELS).argmax(1) + 1) % 3),
    "curvature": lambda devices: geometry.sweep(
        lambda x: geometry.spectral_norm(lambda z: model(z)[0], x, steps=4).value, PIXELS, chunk=2, devices=devices),
    "certificates": lambda devices: geometry.sweep(
        lambda x: certify.gradient_bounds(model, certify.ball(x, 0.01), 0), PIXELS, chunk=2, devices=devices),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", DRIVERS)
def test_two_devices_give_the_same(name, x64):
    one, two = (DRIVERS[name](devices) for devices in (None, jax.devices()[:2]))
    chex.assert_trees_all_close(one, two, rtol=1e-9, atol=1e-12)
    pixels = getattr(two, "pixels", None)
    if name in ("manipulation", "largest_change", "random_search"):
        assert {s.data.shape[0] for s in pixels.addressable_shards} == {4} and len(pixels.sharding.device_set) == 2


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 7 does not divide among 2 devices"):
        attack.manipulation(E, devices=jax.devices()[:2])(model, PIXELS[:7], key=KEY)
    with pytest.raises(ValueError, match="at least one device, got none"):
        geometry.sweep(lambda x: x.sum(), PIXELS, devices=[])


def differences():
    """The largest difference between one device and all that are there, of each driver."""
    for name, driver in DRIVERS.items():
        pairs = zip(*(jax.tree.leaves(driver(devices)) for devices in (None, jax.devices())), strict=True)
        yield name, max(float(np.abs(np.nan_to_num(1.0 * a) - np.nan_to_num(1.0 * b)).max())
                        for a, b in pairs)


@pytest.mark.slow
def test_eight_devices_give_the_same():
    code = ("import jax; jax.config.update('jax_enable_x64', True); from test_devices import differences; "
            "assert len(jax.devices()) == 8; found = dict(differences()); print(found); "
            "assert max(found.values()) <= 1e-6")
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).parent, env=os.environ | flags | {"PYTHONPATH": ".."})
    assert done.returncode == 0, done.stdout + done.stderr
