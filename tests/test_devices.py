"""Batches that are spread over devices: the same numbers, and each device holds its share only.

In float64: a step by the sign of a gradient turns a difference in rounding into one of pixels.
"""

import contextlib
import os
import socket
import subprocess
import sys
from functools import cache, partial, wraps
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xmanip_jax import attack, certify, defend, devices, explain, fool, geometry, objectives, smooth, train

KEY = jax.random.key(0)
PIXELS = np.random.default_rng(0).uniform(size=(8, 4, 4, 1))
WEIGHTS = np.random.default_rng(1).normal(size=(16, 3))
E = explain.gradient()


def model(x):
    return smooth.softplus_beta(x.ravel() @ WEIGHTS + jnp.sin(9 * x.ravel() + 0.3) @ WEIGHTS, 2.0)


def goal():
    return jax.vmap(lambda p: explain.heatmap(E(model, p, 0)))(PIXELS[::-1])


@cache
def changed():
    return attack.largest_change(E, epsilon=0.1, steps=2, restarts=1, surrogate=smooth.none())(model, PIXELS, key=KEY)


@cache
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
        lambda x: geometry.spectral_norm(lambda z: model(z)[0], x, steps=4).value, PIXELS, chunk=4, devices=devices),
    "certificates": lambda devices: geometry.sweep(
        lambda x: certify.gradient_bounds(model, certify.ball(x, 0.01), 0), PIXELS, chunk=4, devices=devices),
}


def fitted(devices, *terms):
    """The parameters after steps on the cross entropy and a penalty: gradients meet, so rounding may differ."""
    labels = np.arange(8) % 3
    net = SimpleNamespace(apply=lambda w, state, x: smooth.softplus_beta(x.ravel() @ w, 2.0))
    start = train.begin(jnp.asarray(WEIGHTS), {}, optax.adam(1e-2))
    run = train.fit(optax.adam(1e-2), batch=8, steps=4, terms=terms, devices=devices or jax.local_devices()[:1])
    return run(net, start, PIXELS, labels).params


DRIVERS |= {
    "genetic_search": lambda devices: attack.genetic_search(
        E, epsilon=0.1, steps=8, population=4, parents=2, devices=devices)(model, PIXELS, key=KEY),
    "fit": lambda devices: fitted(devices, (0.1, defend.hessian())),
    "fooling": lambda devices: fitted(devices, (0.1, fool.fooling(
        E, model, objectives.raise_region(np.eye(4, dtype=bool))))),
}


def shares(array):
    """The examples that each device holds."""
    return [s.data.shape[0] for s in array.addressable_shards]


@contextlib.contextmanager
def steps_watched():
    """What compiled functions of drivers that are made inside are called with: the shares of arrays of 8 examples."""
    found, jit = [], jax.jit

    def watched(f=None, **options):
        if f is None:
            return partial(watched, **options)
        compiled = jit(f, **options)

        @wraps(f)
        def call(*args):
            batches = [v for v in jax.tree.leaves(args) if isinstance(v, jax.Array) and v.shape[:1] == (8,)
                       and not isinstance(v, jax.core.Tracer)]
            found.extend(map(shares, batches))
            return compiled(*args)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", watched)
        yield found


def compared(name, devices):
    """The largest difference of a driver's arrays on one device and on these, and whether each held only its share."""
    one = DRIVERS[name](None)
    with steps_watched() as held:
        many = DRIVERS[name](devices)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
    held += [shares(v) for v in jax.tree.leaves(many) if isinstance(v, jax.Array) and v.shape[:1] == (8,)]
    share = [8 // len(devices)] * len(devices)
    return (max(float(np.abs(np.nan_to_num(1.0 * a) - np.nan_to_num(1.0 * b)).max()) for a, b in pairs),
            bool(held) and all(each == share for each in held))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", DRIVERS)
def test_two_devices_give_the_same_and_hold_their_shares(name, x64):
    apart, shared = compared(name, jax.devices()[:2])
    assert apart < 1e-9 and shared


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["manipulation", "largest_change", "random_search", "sneaking", "curvature"])
def test_a_batch_that_is_spread_already_is_taken_as_it_is(name, x64, monkeypatch):
    one = DRIVERS[name](None)
    monkeypatch.setattr(sys.modules[__name__], "PIXELS", devices.spread(PIXELS, jax.devices()[:2]))
    with steps_watched() as held:
        two = DRIVERS[name](None)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert held and all(each == [4, 4] for each in held)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="a batch of 7 does not divide among 2 devices"):
        attack.manipulation(E, devices=jax.devices()[:2])(model, PIXELS[:7], key=KEY)
    with pytest.raises(ValueError, match="at least one device, got none"):
        geometry.sweep(lambda x: x.sum(), PIXELS, devices=[])


EIGHT = """
import jax; jax.config.update('jax_enable_x64', True)
from test_devices import DRIVERS, compared
found = {name: compared(name, jax.devices()) for name in DRIVERS}
print(found)
assert len(jax.devices()) == 8 and all(apart <= 1e-6 and shared for apart, shared in found.values())
"""

PROCESSES = """
import sys, jax, numpy as np
jax.config.update('jax_enable_x64', True)
jax.distributed.initialize('localhost:{port}', 2, int(sys.argv[1]))
from test_devices import DRIVERS
from xmanip_jax.devices import fetched
assert len(jax.devices()) == 8 and len(jax.local_devices()) == 4
for name in {names}:
    one, many = (jax.tree.leaves(fetched(DRIVERS[name](devices))) for devices in (None, jax.devices()))
    apart = max(float(np.abs(np.nan_to_num(1. * a) - np.nan_to_num(1. * b)).max()) for a, b in zip(one, many))
    assert apart <= 1e-6, (name, apart)
"""


def started(code, devices, *arguments):
    """A Python process with so many devices, in the folder of the tests."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.STDOUT, cwd=Path(__file__).parent,
                            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ".."})


@pytest.mark.slow
def test_eight_devices_give_the_same_and_hold_their_shares():
    process = started(EIGHT, 8)
    said, _ = process.communicate()
    assert process.returncode == 0, said


def together(names):
    """Two processes with four devices each, of one batch over all of them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pair = [started(PROCESSES.format(port=port, names=names), 4, i) for i in range(2)]
    for process, said in [(process, process.communicate()[0]) for process in pair]:
        assert process.returncode == 0, said


def test_two_processes_of_four_devices_give_the_same():
    together(["random_search"])


@pytest.mark.slow
def test_two_processes_of_four_devices_give_the_same_in_every_driver():
    together(list(DRIVERS))
